"""Pictures of a training's cost: operations by part, loss against operations, two optimizers, the bill, a budget."""

import math
from collections.abc import Callable, Mapping, Sequence

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure
from helpers.units import format_flops

Curve = Sequence[tuple[float, float]]
_PART_LOOK = [("blue", ""), ("orange", "/"), ("green", "x"), ("sky", "\\"), ("pink", "."), ("red", "-")]
_ABOVE = dict(y=1, yref="paper", yanchor="bottom", showarrow=False)


def flops_by_part(parts: Mapping[str, Mapping[str, float]], title: str) -> go.Figure:
    """One bar per case, 100 % long, cut by part of the forward pass. ``parts`` is case -> part -> FLOP per token."""
    words = "; ".join(f"{case}: {_shares_in_words(shares)}" for case, shares in parts.items())
    figure = new_figure(title, f"Share of the forward pass by part. {words}.", x="share of the forward FLOP (%)")
    names = list(dict.fromkeys(name for shares in parts.values() for name in shares))
    for name, (colour, pattern) in zip(names, _PART_LOOK, strict=False):
        shares = [100 * case.get(name, 0) / sum(case.values()) for case in parts.values()]
        marker = dict(color=OKABE_ITO[colour], pattern_shape=pattern, line_width=0)
        figure.add_bar(x=shares, y=list(parts), orientation="h", name=name, marker=marker)
    figure.update_traces(hovertemplate="%{y}: %{x:.1f} %<extra>%{fullData.name}</extra>")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, 100])
    return figure.update_layout(barmode="stack", height=200 + 42 * len(parts), **LEGEND_BELOW)


def against_the_rule(ratios: Mapping[str, tuple[float, str]], title: str) -> go.Figure:
    """Counted FLOP as a multiple of the rule of six, a bar a case from 1. ``ratios`` is case -> (multiple, why)."""
    words = "; ".join(f"{case} {ratio:.2f} ({why})" for case, (ratio, why) in ratios.items())
    alt = f"Counted operations over six times parameters times tokens: {words}."
    figure = new_figure(title, alt, x="counted FLOP / 6ND (log scale)")
    for case, (ratio, why) in ratios.items():
        colour, pattern = ("orange", "/") if ratio > 1 else ("blue", "")
        marker = dict(color=OKABE_ITO[colour], pattern_shape=pattern)
        label = f"{ratio:.2f} · {why}"
        figure.add_bar(x=[ratio - 1], base=1, y=[case], orientation="h", marker=marker, width=0.55)
        right = math.log10(max(ratio, 1) * 1.03)
        figure.add_annotation(x=right, y=case, text=label, xanchor="left", showarrow=False)
    figure.add_vline(x=1, line=dict(color=GREY, dash="dash", width=2))
    low, high = min(r for r, _ in ratios.values()), max(r for r, _ in ratios.values())
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if low / 1.2 < t < high * 2]
    figure.update_xaxes(type="log", range=[math.log10(low / 1.2), math.log10(high * 12)], tickvals=ticks)
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(showlegend=False, height=150 + 46 * len(ratios))


def singular_values(before: Sequence[float], after: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """Singular values of a gradient (largest 1), and after each number of Newton-Schulz steps, largest first."""
    lines = {"the gradient": before, **after}
    words = "; ".join(f"{name} from {max(values):.2f} to {min(values):.3f}" for name, values in lines.items())
    figure = new_figure(title, f"Singular values. {words}.", x="singular direction", y="singular value")
    for (name, values), (colour, dash, symbol) in zip(lines.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=2.5), marker=dict(symbol=symbol, size=7))
        figure.add_scatter(x=list(range(1, len(values) + 1)), y=list(values), name=name, mode="lines+markers", **look)
    figure.add_hline(y=1, line=dict(color=GREY, width=1.5, dash="dot"))
    return figure.update_layout(height=420, **LEGEND_BELOW)


def loss_against_flops(
    curves: Mapping[str, Sequence[Curve]], law: Callable[[float], float], span: tuple[float, float], title: str
) -> go.Figure:
    """The poster: loss against training FLOP for each size, a thin line a seed, and the law through the best of them.

    ``curves`` is size -> one curve of (FLOP, bits per byte) for each seed; ``law`` is drawn over ``span``.
    """
    ends = "; ".join(f"{size}: {_end_in_words(runs)}" for size, runs in curves.items())
    alt = f"Loss on held-out text against training operations. {ends}. A law of powers runs along the lower edge."
    figure = new_figure(title, alt, x="training work (FLOP, log scale)", y="held-out loss (bits per byte, log scale)")
    for (size, runs), (colour, dash, symbol) in zip(curves.items(), LINES, strict=False):
        for number, run in enumerate(runs):
            flops, losses = zip(*run, strict=True)
            look = dict(
                line=dict(color=OKABE_ITO[colour], dash=dash, width=2.5),
                marker=dict(symbol=symbol, size=8),
                opacity=1 if number == 0 else 0.55,
            )
            shown = dict(name=size, legendgroup=size, showlegend=number == 0, mode="lines+markers")
            figure.add_scatter(x=list(flops), y=list(losses), **shown, **look)
    xs = [span[0] * (span[1] / span[0]) ** (n / 40) for n in range(41)]
    line = dict(color=GREY, width=4)
    figure.add_scatter(x=xs, y=[law(x) for x in xs], mode="lines", name="fitted law", line=line)
    figure.update_traces(hovertemplate="%{x:.2s}FLOP: %{y:.2f} bits<extra>%{fullData.name}</extra>")
    figure.update_xaxes(type="log", dtick="D2", tickformat="~s")
    figure.update_yaxes(type="log", tickvals=[1.5, 2, 2.5, 3, 3.5, 4, 5, 6, 8])
    return figure.update_layout(height=500, **LEGEND_BELOW)


def exponents(ranges: Mapping[str, tuple[float, float, float]], title: str) -> go.Figure:
    """The fitted exponent for each assumption: a dot, and the range of redrawn experiments around it."""
    words = "; ".join(
        f"{name}: {value:.3f}, from {low:.3f} to {high:.3f}" for name, (value, low, high) in ranges.items()
    )
    figure = new_figure(title, f"Exponent of the law. {words}.", x="exponent of FLOP")
    for (name, (value, low, high)), (colour, _, symbol) in zip(ranges.items(), LINES, strict=False):
        error = dict(type="data", symmetric=False, array=[high - value], arrayminus=[value - low], thickness=3, width=9)
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=13)
        figure.add_scatter(x=[value], y=[name], mode="markers", marker=marker, error_x=error)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(showlegend=False, height=140 + 55 * len(ranges))


def two_costs(runs: Mapping[str, Sequence[tuple[float, float, float]]], title: str) -> go.Figure:
    """The same runs against two costs: left FLOP, right seconds. ``runs`` is name -> (FLOP, seconds, bits per byte)."""
    words = "; ".join(
        f"{name} ends at {run[-1][2]:.2f} bits per byte after {format_flops(run[-1][0])} and {run[-1][1]:.1f} s"
        for name, run in runs.items()
    )
    figure = new_figure(title, f"Held-out loss of two optimizers. {words}.", y="held-out loss (bits per byte)")
    for (name, run), (colour, dash, symbol) in zip(runs.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=2.5), marker=dict(symbol=symbol, size=8))
        flops, seconds, losses = ([point[n] for point in run] for n in range(3))
        shown = dict(mode="lines+markers", name=name, legendgroup=name)
        figure.add_scatter(x=[f / 1e9 for f in flops], y=losses, **shown, **look)
        figure.add_scatter(x=seconds, y=losses, xaxis="x2", yaxis="y2", showlegend=False, **shown, **look)
    second = dict(anchor="y2", domain=[0.56, 1], title_text="processor time (s)", title_standoff=6, rangemode="tozero")
    figure.update_layout(xaxis2=second, yaxis2=dict(anchor="x2", matches="y"))
    figure.update_xaxes(rangemode="tozero", gridcolor="rgba(128,128,128,0.25)", automargin=True)
    figure.update_layout(height=430, **LEGEND_BELOW)
    return figure.update_layout(xaxis=dict(domain=[0, 0.44], title_text="work (GFLOP)"))


def bill(ledgers: Mapping[str, Mapping[str, tuple[float, bool]]], title: str) -> go.Figure:
    """The bill as a stacked ledger: a bar a way of counting, an item a piece. Items are (USD, published by the lab?).

    Published items are plain, estimates of outsiders hatched.
    """
    words = "; ".join(f"{name}: {_items_in_words(items)}" for name, items in ledgers.items())
    figure = new_figure(title, f"Dollars by item. {words}.", x="million USD")
    names = list(dict.fromkeys(item for items in ledgers.values() for item in items))
    for item, (colour, pattern) in zip(names, _BILL_LOOK, strict=False):
        values = [items.get(item, (0, True))[0] / 1e6 for items in ledgers.values()]
        published = all(items[item][1] for items in ledgers.values() if item in items)
        marker = dict(color=OKABE_ITO[colour], pattern_shape="" if published else pattern, line_width=0)
        figure.add_bar(x=values, y=list(ledgers), orientation="h", name=item, marker=marker)
    for name, items in ledgers.items():
        total = sum(value for value, _ in items.values()) / 1e6
        figure.add_annotation(x=total, y=name, text=f" {total:.1f} M", xanchor="left", showarrow=False)
    figure.update_traces(hovertemplate="%{y}: %{x:.2f} M USD<extra>%{fullData.name}</extra>")
    figure.update_yaxes(autorange="reversed")
    most = max(sum(value for value, _ in items.values()) for items in ledgers.values())
    figure.update_xaxes(range=[0, 1.18 * most / 1e6])
    return figure.update_layout(barmode="stack", bargap=0.35, height=230 + 62 * len(ledgers), **LEGEND_BELOW)


_TOKENS = {1e7: "10 M", 1e8: "100 M", 1e9: "1 B", 1e10: "10 B", 1e11: "100 B", 1e12: "1 T", 1e13: "10 T", 1e14: "100 T"}
_TOKENS |= {1e15: "1,000 T", 1e16: "10,000 T", 1e17: "100,000 T"}
_PLACES = ["bottom left", "top center", "top right"]  # of the names of published runs: some lie close together
_BILL_LOOK = [("blue", ""), ("sky", "x"), ("green", "."), ("orange", "/"), ("red", "\\"), ("pink", "-")]


def budget_plane(
    budget_flops: float, chosen: tuple[float, float], runs: Mapping[str, tuple[float, float]], title: str, alt: str
) -> go.Figure:
    """Everything that a budget can buy: the line 6ND = budget over parameters N and tokens D, both on log axes.

    ``chosen`` is your point (N, D), ``runs`` are published ones; the dashed line is 20 tokens per parameter.
    """
    figure = new_figure(title, alt, x="parameters at work on a token (log scale)", y="tokens (log scale)")
    low, high = 1e8, 1e12
    line = dict(color=OKABE_ITO["orange"], width=3.5)
    ends = [budget_flops / 6 / n for n in (low, high)]
    figure.add_scatter(x=[low, high], y=ends, mode="lines", name="what the budget buys", line=line)
    rule = dict(color=GREY, width=2, dash="dash")
    figure.add_scatter(x=[low, high], y=[20 * low, 20 * high], mode="lines", name="20 tokens per parameter", line=rule)
    marker = dict(color=OKABE_ITO["blue"], symbol="diamond", size=11)
    names, points = list(runs), list(runs.values())
    look = dict(mode="markers+text", text=names, textposition=_PLACES, name="published runs", marker=marker)
    figure.add_scatter(x=[n for n, _ in points], y=[d for _, d in points], **look)
    star = dict(color=OKABE_ITO["red"], symbol="star", size=17)
    figure.add_scatter(x=[chosen[0]], y=[chosen[1]], mode="markers", name="your choice", marker=star)
    figure.update_traces(hovertemplate="%{x:.2s} parameters, %{y:.2s} tokens<extra>%{fullData.name}</extra>")
    figure.update_xaxes(type="log", range=[8, 12], tickvals=[1e8, 1e9, 1e10, 1e11, 1e12])
    figure.update_xaxes(ticktext=["0.1 B", "1 B", "10 B", "100 B", "1,000 B"])
    tokens = math.log10(chosen[1])  # your choice stays in the picture, whatever a slider says
    figure.update_yaxes(type="log", range=[min(9.3, tokens - 0.5), max(15, tokens + 0.5)])
    figure.update_yaxes(tickvals=list(_TOKENS), ticktext=list(_TOKENS.values()))
    return figure.update_layout(height=500, **LEGEND_BELOW)


def _shares_in_words(parts: Mapping[str, float]) -> str:
    total = sum(parts.values())
    return ", ".join(f"{name} {100 * flops / total:.0f} %" for name, flops in parts.items())


def _end_in_words(runs: Sequence[Curve]) -> str:
    flops, loss = runs[0][-1]
    return f"{loss:.2f} bits per byte after {format_flops(flops)}"


def _items_in_words(items: Mapping[str, tuple[float, bool]]) -> str:
    said = (f"{name} {usd / 1e6:.2f} M ({'published' if own else 'estimate'})" for name, (usd, own) in items.items())
    return ", ".join(said)
