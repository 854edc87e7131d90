"""Figures of `formats`: what values a format has, where NF4's come from, what a smaller block buys, one row rounded."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure
from helpers.shapes import Float, Tensor

_ROW_MARKS = {"weight": ("blue", "circle", 0), "came back": ("orange", "x-thin-open", 2)}


def value_lines(formats: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """A line of marks for each format: all values that a code can stand for, the largest drawn at 1."""
    words = "; ".join(f"{name}: {len(values)} values, {_near_zero(values)}" for name, values in formats.items())
    figure = new_figure(title, f"Values of each format, the largest at 1. {words}.", x="value (the largest is 1)")
    for (name, values), (colour, _, _) in zip(formats.items(), LINES, strict=False):
        most = max(values)
        marker = dict(symbol="line-ns-open", size=22, color=OKABE_ITO[colour], line_width=2)
        hover = f"{name}: %{{x:.4g}}<extra></extra>"
        places = [value / most for value in values]
        figure.add_scatter(x=places, y=[name] * len(places), mode="markers", marker=marker, hovertemplate=hover)
    figure.update_yaxes(autorange="reversed", type="category")
    return figure.update_layout(height=150 + 46 * len(formats), showlegend=False)


def _near_zero(values: Sequence[float]) -> str:
    inside = sum(1 for value in values if abs(value) <= max(values) / 4)
    return f"{inside} of them within a quarter of the largest"


def bell(values: Sequence[float], deviation: float, title: str) -> go.Figure:
    """A normal distribution of that standard deviation, and the values of a format where they lie under it."""
    listed = ", ".join(f"{value:.3f}" for value in values)
    alt = f"A normal distribution with standard deviation {deviation:.2f}, and values at {listed}."
    figure = new_figure(title, alt, x="weight, as a part of the largest of its block", y="how often")
    height = lambda x: math.exp(-((x / deviation) ** 2) / 2)  # noqa: E731
    xs = [n / 100 for n in range(-130, 131)]
    look = dict(mode="lines", line=dict(color=OKABE_ITO["blue"], width=3), name="weights")
    figure.add_scatter(x=xs, y=[height(x) for x in xs], fill="tozeroy", fillcolor="rgba(0,114,178,0.15)", **look)
    stems_x = [place for value in values for place in (value, value, None)]
    stems_y = [place for value in values for place in (0, height(value), None)]
    stems = dict(mode="lines", line=dict(color=OKABE_ITO["orange"], width=3), name="values", hoverinfo="skip")
    figure.add_scatter(x=stems_x, y=stems_y, **stems)
    marker = dict(color=OKABE_ITO["orange"], symbol="diamond", size=9)
    hover = "%{x:.4f}<extra></extra>"
    tops = [height(value) for value in values]
    figure.add_scatter(x=list(values), y=tops, mode="markers", marker=marker, showlegend=False, hovertemplate=hover)
    figure.update_yaxes(showticklabels=False)
    return figure.update_layout(height=400, **LEGEND_BELOW)


def block_sizes(kinds: Mapping[str, Sequence[tuple[float, float]]], blocks: Sequence[int], title: str) -> go.Figure:
    """Signal to noise against bits per weight: a line for each kind of weights, a point for each size of a block."""
    words = "; ".join(f"{kind}: {', '.join(f'{db:.1f}' for _, db in points)} dB" for kind, points in kinds.items())
    alt = f"Signal to noise for blocks of {', '.join(map(str, blocks))}. {words}."
    figure = new_figure(title, alt, x="bits per weight, scale included", y="signal to noise (dB)")
    for (kind, points), (colour, dash, symbol) in zip(kinds.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=10))
        bits, heights = zip(*points, strict=True)
        hover = "%{customdata} numbers share a scale: %{y:.1f} dB for %{x:.3f} bits<extra>%{fullData.name}</extra>"
        figure.add_scatter(
            x=bits, y=heights, mode="lines+markers", name=kind, customdata=blocks, hovertemplate=hover, **look
        )
    best = max(kinds.values(), key=lambda points: points[0][1])
    for block, (bits, height) in zip(blocks, best, strict=True):
        figure.add_annotation(x=bits, y=height, text=f"{block}", showarrow=False, yshift=18)
    return figure.update_layout(height=440, **LEGEND_BELOW)


def all_formats(table: Mapping[str, tuple[float, Mapping[str, float]]], title: str) -> go.Figure:
    """A line for each format, ordered by its bits: one mark for each kind of weights, further right is better."""
    ordered = sorted(table.items(), key=lambda item: item[1][0])
    words = "; ".join(
        f"{name}, {bits:.2f} bits: {', '.join(f'{kind} {db:.1f} dB' for kind, db in errors.items())}"
        for name, (bits, errors) in ordered
    )
    figure = new_figure(title, f"Signal to noise by format. {words}.", x="signal to noise (dB)")
    rows = [f"{name}  {bits:.2f}" for name, (bits, _) in ordered]
    for row, (_, (_, errors)) in zip(rows, ordered, strict=True):
        ends = [min(errors.values()), max(errors.values())]
        line = dict(color=GREY, width=2)
        figure.add_scatter(x=ends, y=[row] * 2, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    for kind, (colour, _, symbol) in zip(ordered[0][1][1], LINES, strict=False):
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=11)
        heights = [errors[kind] for _, (_, errors) in ordered]
        hover = "%{y} bits: %{x:.1f} dB<extra>%{fullData.name}</extra>"
        figure.add_scatter(x=heights, y=rows, mode="markers", marker=marker, name=kind, hovertemplate=hover)
    figure.update_yaxes(autorange="reversed", type="category", title_text="format, bits per weight")
    return figure.update_layout(height=190 + 32 * len(rows), **LEGEND_BELOW)


def row(numbers: Float[Tensor, " I"], back: Float[Tensor, " I"], block: int, title: str) -> go.Figure:
    """One row of weights and what came back of it; a dotted line where a block ends; drawn up to 4, then named."""
    error = (back - numbers).abs()
    worst, gone = int(error.argmax()), int(((back == 0) & (numbers != 0)).sum())
    alt = (
        f"{title}. {len(numbers)} weights in blocks of {block}; {gone} of them came back as zero; the largest error "
        f"is {error[worst]:.2f}, at {worst}, where {numbers[worst]:.2f} became {back[worst]:.2f}."
    )
    figure = new_figure(title, alt, x="place in the row", y="weight")
    places, edge = list(range(len(numbers))), 4.0
    shown = {name: values.clamp(-edge, edge).tolist() for name, values in (("weight", numbers), ("came back", back))}
    gaps_x = [place for n in places for place in (n, n, None)]
    gaps_y = [height for n in places for height in (shown["weight"][n], shown["came back"][n], None)]
    gap = dict(color=OKABE_ITO["red"], width=2)
    figure.add_scatter(x=gaps_x, y=gaps_y, mode="lines", line=gap, name="error", hoverinfo="skip")
    for name, (colour, symbol, line) in _ROW_MARKS.items():
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=7, line_width=line)
        exact = (numbers if name == "weight" else back).tolist()
        hover = f"%{{x}}: %{{customdata:.3f}}<extra>{name}</extra>"
        look = dict(mode="markers", marker=marker, customdata=exact, hovertemplate=hover)
        figure.add_scatter(x=places, y=shown[name], name=name, **look)
    for end in range(block, len(numbers), block):
        figure.add_vline(x=end - 0.5, line=dict(color=GREY, dash="dot", width=1))
    for n in (numbers.abs() > edge).nonzero().flatten().tolist():
        top = edge if numbers[n] > 0 else -edge
        figure.add_annotation(x=n, y=top, text=f"{numbers[n]:.0f}", showarrow=False, xshift=18)
    figure.update_xaxes(range=[-2, len(numbers) + 1]).update_yaxes(range=[-edge - 0.4, edge + 0.4])
    return figure.update_layout(height=420, **LEGEND_BELOW)
