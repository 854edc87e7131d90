"""Pictures of guessing ahead: passes over a text, how many guesses are taken at each depth, and what that is worth."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure


class Pass(NamedTuple):
    """One pass of a model over its newest token and some guesses; the text of each token as people read it."""

    start: int  # place in the text of the first guess
    guesses: Sequence[str]
    accepted: int  # of the guesses
    own: str  # what the model says itself behind the last accepted one


# how a token came -> colour, colour of its text, and the sign before it: a mark each, so that none is told by colour
_KINDS = {
    "accepted": ("green", "black", "✓ "),
    "refused": ("orange", "black", "✗ "),
    "the model's own": ("blue", "white", ""),
}


def strip(passes: Sequence[Pass], title: str) -> go.Figure:
    """One row a pass, one column a place of the text: guesses that were taken, one that was not, the model's token."""
    words = "; ".join(f"pass {n}: {_in_words(one)}" for n, one in enumerate(passes, start=1))
    figure = new_figure(title, f"What each pass over the text gave. {words}.", x="place in the text", y="pass")
    for kind, (colour, _, _) in _KINDS.items():
        marker = dict(symbol="square", size=13, color=OKABE_ITO[colour])
        figure.add_scatter(x=[None], y=[None], mode="markers", name=kind, marker=marker)
    for row, one in enumerate(passes, start=1):
        for place, kind, text in cells(one):
            _add_cell(figure, row, place, kind, text, shared=one.accepted < len(one.guesses))
    first = min(one.start for one in passes)
    last = max(one.start + max(len(one.guesses) - 1, one.accepted) for one in passes)
    figure.update_xaxes(range=[first - 0.6, last + 0.6], dtick=1 if last - first < 20 else 5, showgrid=False)
    figure.update_yaxes(range=[len(passes) + 0.6, 0.4], dtick=1, showgrid=False, zeroline=False)
    return figure.update_layout(height=190 + 38 * len(passes), **LEGEND_BELOW)


def cells(one: Pass) -> list[tuple[int, str, str]]:
    """(place, kind, text) of what one pass shows. The first refused guess and the model's own token share a place."""
    taken = [(one.start + n, "accepted", text) for n, text in enumerate(one.guesses[: one.accepted])]
    place = one.start + one.accepted
    refused = [(place + n, "refused", text) for n, text in enumerate(one.guesses[one.accepted :])]
    return [*taken, (place, "the model's own", one.own), *refused]


def acceptance(drafters: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """The share of first, second, ... guesses that were taken, of those that were reached: a line a drafter."""
    words = "; ".join(f"{name}: {', '.join(f'{share:.0%}' for share in shares)}" for name, shares in drafters.items())
    alt = f"Share of guesses that the model agrees with, by depth. {words}."
    figure = new_figure(title, alt, x="depth of the guess", y="taken, of those reached")
    for (name, shares), (colour, dash, symbol) in zip(drafters.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=9))
        figure.add_scatter(x=list(range(1, len(shares) + 1)), y=list(shares), name=name, mode="lines+markers", **look)
    figure.update_traces(hovertemplate="guess %{x}: %{y:.1%}<extra>%{fullData.name}</extra>")
    figure.update_xaxes(dtick=1).update_yaxes(tickformat=".0%", rangemode="tozero")
    return figure.update_layout(height=400, **LEGEND_BELOW)


def speed(
    chances: Sequence[float], cases: Mapping[str, Sequence[float]], title: str, here: Mapping[str, tuple[float, float]]
) -> go.Figure:
    """Times as fast as without drafts against the share of guesses taken: a line a case, and points that were measured.

    Below 1, the dashed line, drafting is a loss. ``here`` is name -> (share, times as fast).
    """
    ends = "; ".join(f"{name}: {values[0]:.2f} to {values[-1]:.2f}" for name, values in cases.items())
    points = "".join(f" Measured, {name}: {fast:.2f} at {share:.0%}." for name, (share, fast) in here.items())
    alt = f"Times as fast, for {chances[0]:.0%} to {chances[-1]:.0%} of guesses taken. {ends}.{points}"
    figure = new_figure(title, alt, x="guesses that are taken", y="times as fast as one token per pass")
    for (name, values), (colour, dash, _) in zip(cases.items(), LINES, strict=False):
        line = dict(color=OKABE_ITO[colour], dash=dash, width=3)
        figure.add_scatter(x=list(chances), y=list(values), name=name, mode="lines", line=line)
    for (name, (share, fast)), (colour, _, symbol) in zip(here.items(), LINES[::-1], strict=False):
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=13)
        figure.add_scatter(x=[share], y=[fast], name=name, mode="markers", marker=marker)
    figure.add_hline(y=1, line=dict(color=GREY, dash="dash", width=2))
    figure.update_traces(hovertemplate="%{x:.0%} taken: %{y:.2f} times as fast<extra>%{fullData.name}</extra>")
    figure.update_xaxes(tickformat=".0%")
    return figure.update_layout(height=440, **LEGEND_BELOW)


def _add_cell(figure: go.Figure, row: int, place: int, kind: str, text: str, shared: bool) -> None:
    """A coloured square with its text on it; what was refused in the lower half, what stands there in the upper."""
    colour, ink, sign = _KINDS[kind]
    upper, lower = row - 0.44, row + 0.44
    if kind == "refused":
        upper = row + 0.02
    elif kind != "accepted" and shared:
        lower = row - 0.02
    box = dict(x0=place - 0.48, x1=place + 0.48, y0=upper, y1=lower, line_width=0)
    figure.add_shape(type="rect", fillcolor=OKABE_ITO[colour], layer="below", **box)
    look = dict(showarrow=False, font=dict(size=12, color=ink))
    figure.add_annotation(x=place, y=(upper + lower) / 2, text=f"{sign}{text}", **look)


def _in_words(one: Pass) -> str:
    taken = f"{one.accepted} of {len(one.guesses)} guesses taken"
    return (
        f"{taken} ({' '.join(one.guesses[: one.accepted])}), then {one.own}"
        if one.accepted
        else f"{taken}, then {one.own}"
    )
