"""Pictures of guessing exactly: what comes out beside what should, and how fast it is by the number of guesses."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure

_PATTERNS = ("", "/", ".", "x")


def distributions(cases: Mapping[str, Sequence[float]], words: Sequence[str], title: str) -> go.Figure:
    """How often each word comes: a group of bars a word, a bar a case."""
    said = "; ".join(
        f"{case}: {', '.join(f'{word} {share:.1%}' for word, share in zip(words, shares, strict=True))}"
        for case, shares in cases.items()
    )
    figure = new_figure(title, f"How often each token comes. {said}.", x="token", y="how often")
    for (case, shares), (colour, _, _), pattern in zip(cases.items(), LINES, _PATTERNS, strict=False):
        marker = dict(color=OKABE_ITO[colour], pattern_shape=pattern)
        figure.add_bar(x=list(words), y=list(shares), name=case, marker=marker)
    figure.update_traces(hovertemplate="%{x}: %{y:.1%}<extra>%{fullData.name}</extra>")
    figure.update_yaxes(tickformat=".0%")
    return figure.update_layout(barmode="group", height=400, **LEGEND_BELOW)


def by_guesses(cases: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """Times as fast against the guesses of a pass, from 0 on: a line a case, its highest point marked.

    Below 1, the dashed line, guessing is a loss.
    """
    best = {name: max(range(len(speeds)), key=lambda k, s=speeds: s[k]) for name, speeds in cases.items()}
    said = "; ".join(
        f"{name}: {speeds[best[name]]:.2f} times with {best[name]} guesses, {speeds[-1]:.2f} with {len(speeds) - 1}"
        for name, speeds in cases.items()
    )
    alt = f"Times as fast as one token per pass. At its best and at its end, {said}."
    figure = new_figure(title, alt, x="guesses per pass", y="times as fast as one token per pass")
    for (name, speeds), (colour, dash, symbol) in zip(cases.items(), LINES, strict=False):
        sizes = [15 if k == best[name] else 7 for k in range(len(speeds))]
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=sizes))
        look["marker"] |= dict(opacity=1, line_width=0)  # marks of several sizes are see-through and outlined otherwise
        figure.add_scatter(x=list(range(len(speeds))), y=list(speeds), name=name, mode="lines+markers", **look)
    figure.add_hline(y=1, line=dict(color=GREY, dash="dash", width=2))
    figure.update_traces(hovertemplate="%{x} guesses: %{y:.2f} times as fast<extra>%{fullData.name}</extra>")
    figure.update_xaxes(dtick=1).update_yaxes(rangemode="tozero")
    return figure.update_layout(height=420, **LEGEND_BELOW)
