"""Figures of `roofline`: the roofline, the ladder of working sets, a kernel that moves, chips beside each other."""

import math
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from helpers.plots.look import GREY, OKABE_ITO, new_figure
from helpers.units import format_bytes, format_flops, format_rate, format_seconds

_COLOURS = list(OKABE_ITO.values())
_DASHES = ["solid", "dash", "dot", "dashdot"]
_MARKERS = ["circle", "diamond", "square", "triangle-up"]
_RESOURCES = {"arithmetic": "tflops", "memory bandwidth": "memory_tb_s", "chip-to-chip link": "link_gb_s"}

Roof = tuple[float, float]  # bytes per second, FLOP per second
Point = tuple[str, float, float]  # label, FLOP per byte, FLOP per second


def idea() -> go.Figure:
    """The whole lesson in one picture; no machine's numbers, so the axes have none."""
    figure = new_figure(
        title="Left of the ridge a machine waits for memory, right of it for arithmetic",
        alt="Speed against arithmetic per byte, both axes logarithmic. A line rises and then turns flat at the ridge. "
        "Low on the rising part: one token for one person. On the flat part: a long prompt, or a hundred people.",
        x="arithmetic for each byte moved (FLOP per byte) →",
        y="speed (FLOP per second) →",
    )
    figure.add_scatter(x=[0.1, 10, 1000], y=[1, 100, 100], mode="lines", line=dict(color=_COLOURS[0], width=4))
    for text, x, y, marker in (("one token, one person", 0.5, 5, "circle"), ("a hundred people", 100, 100, "diamond")):
        figure.add_scatter(x=[x], y=[y], mode="markers", marker=dict(size=14, symbol=marker, color=_COLOURS[5]))
        figure.add_annotation(x=_log(x), y=_log(y), text=text, showarrow=False, yshift=-22, xshift=70)
    figure.add_annotation(x=_log(0.6), y=_log(40), text="memory decides", showarrow=False)
    figure.add_annotation(x=_log(100), y=_log(160), text="arithmetic decides", showarrow=False)
    figure.add_annotation(x=_log(10), y=_log(100), text="the ridge", ax=-40, ay=-30, arrowcolor=GREY)
    return _logarithmic(figure, ticks=False).update_layout(showlegend=False).update_yaxes(range=[-0.2, 2.6])


def ladder(rates: dict[int, float]) -> go.Figure:
    """Read bandwidth (bytes per second) by working set (bytes)."""
    sizes, best, last = list(rates), max(rates.values()), list(rates.values())[-1]
    caches = f"Arrays that fit into a cache read up to {best / last:.1f} times faster than memory"
    figure = new_figure(
        title=caches if best > 1.1 * last else "No array reads faster than the largest: no cache shows here",
        alt="Read bandwidth by size of the array: "
        + ", ".join(f"{format_bytes(size)} {format_rate(rate, 'B/s')}" for size, rate in rates.items())
        + ".",
        x="array that is read again and again (bytes)",
        y="read bandwidth (B/s)",
    )
    figure.add_scatter(x=sizes, y=list(rates.values()), mode="lines+markers", marker=dict(size=9), name="measured")
    line = dict(dash="dash", color=GREY)
    figure.add_hline(y=last, line=line, annotation_text="memory itself", annotation_position="bottom right")
    figure.update_xaxes(type="log", tickvals=sizes[::2], ticktext=[format_bytes(size) for size in sizes[::2]])
    return figure.update_yaxes(tickformat="~s", rangemode="tozero").update_layout(showlegend=False)


def roofline(title: str, roofs: dict[str, Roof], points: dict[str, Sequence[Point]]) -> go.Figure:
    """Roofs by name, and measured points by the name of their roof; a point's label shows when it is pointed at."""
    figure = new_figure(title=title, alt=_in_words(roofs, points), x="intensity (FLOP per byte)", y="speed (FLOP/s)")
    for number, (name, (bytes_per_s, flops_per_s)) in enumerate(roofs.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        xs = _roof_span(flops_per_s / bytes_per_s, [x for _, x, _ in points.get(name, [])])
        ys = [min(flops_per_s, x * bytes_per_s) for x in xs]
        line = dict(color=colour, width=3, dash=_DASHES[number % len(_DASHES)])
        figure.add_scatter(x=xs, y=ys, mode="lines", line=line, name=f"{name}: ceiling")
    for number, (name, dots) in enumerate(points.items()):
        labels, xs, ys = zip(*dots, strict=True)
        look = dict(size=10, color=_COLOURS[number % len(_COLOURS)], symbol=_MARKERS[number % len(_MARKERS)])
        figure.add_scatter(x=xs, y=ys, mode="markers+text", marker=look, name=f"{name}: measured", hovertext=labels)
        if number == 0:  # the ends of the first row only: labels of the next would lie on the lines
            ends = [label if place in (0, len(labels) - 1) else "" for place, label in enumerate(labels)]
            figure.data[-1].update(text=ends, textposition="bottom right", cliponaxis=False)
    return _logarithmic(figure)


def kernel(batch: int, width: int, bits: float, bytes_per_s: float, flops_per_s: float) -> go.Figure:
    """One layer [width, width] for `batch` people, weights of `bits` bits and 16-bit activations, under its roof."""
    flops = 2.0 * batch * width * width
    moved = width * width * bits / 8 + 2.0 * batch * 2 * width
    intensity, ridge = flops / moved, flops_per_s / bytes_per_s
    speed = min(flops_per_s, intensity * bytes_per_s)
    side = "Memory" if intensity < ridge else "Arithmetic"
    title = f"{side} decides: {format_seconds(flops / speed)} a layer, {speed / flops_per_s:.0%} of the arithmetic used"
    alt = (
        f"{title}. Intensity {intensity:.3g} FLOP per byte, ridge {ridge:.3g}; "
        f"{format_bytes(moved)} moved for {format_flops(flops)}."
    )
    figure = new_figure(title=title, alt=alt, x="intensity (FLOP per byte)", y="speed (FLOP/s)")
    span = [0.1, ridge, 10_000]
    figure.add_scatter(x=span, y=[min(flops_per_s, x * bytes_per_s) for x in span], mode="lines", name="ceiling")
    look = dict(size=16, symbol="diamond", color=OKABE_ITO["red"])
    figure.add_scatter(x=[intensity], y=[speed], mode="markers", marker=look, name="this layer, at best")
    figure.add_vline(x=ridge, line=dict(dash="dot", color=GREY))
    figure.add_annotation(x=_log(ridge), y=0.04, yref="paper", text="ridge", showarrow=False, xshift=24)
    return _logarithmic(figure).update_xaxes(range=[-1, 4])


def chips(rows: Iterable[dict]) -> go.Figure:
    """Arithmetic, memory bandwidth and link of each chip as a share of an H100's; a line where sources disagree.

    `rows` is the table of facts "hardware". Raises ValueError when the H100 is not in it.
    """
    rows = list(rows)
    reference = next((row for row in rows if row["chip"] == "H100"), None)
    if reference is None:
        raise ValueError("the chips are compared with an H100, and no row is one")
    shares = {name: _shares(rows, reference, key) for name, key in _RESOURCES.items()}
    figure = new_figure(
        title=_chips_finding(shares),
        alt="Shares of an H100. " + " ".join(_chip_in_words(row["chip"], shares) for row in rows),
        x="share of an H100 (%)",
    )
    names = [row["chip"] for row in rows]
    for number, (name, ranges) in enumerate(shares.items()):
        _add_ranges(figure, name, {names.index(chip) + 0.2 * (number - 1): r for chip, r in ranges.items()}, number)
    figure.add_vline(x=100, line=dict(dash="dot", color=GREY))
    figure.update_xaxes(type="log", tickvals=[10, 25, 50, 100, 200], range=[1.0, 2.42])
    figure.update_yaxes(autorange="reversed", tickvals=list(range(len(names))), ticktext=names, zeroline=False)
    return figure.update_layout(legend=dict(orientation="h", y=-0.28), height=440)


def _shares(rows: list[dict], reference: dict, key: str) -> dict[str, tuple[float, float]]:
    """Chip to (low, high) share; a chip without a sourced figure is left out."""
    one = sum(reference[key]) / 2
    return {row["chip"]: (row[key][0] / one, row[key][1] / one) for row in rows if key in row}


def _add_ranges(figure: go.Figure, name: str, ranges: dict[float, tuple[float, float]], number: int) -> None:
    colour, symbol = _COLOURS[number], _MARKERS[number]
    xs, ys = [], []
    for place, (low, high) in ranges.items():
        xs += [100 * low, 100 * high, None]
        ys += [place, place, None]
    marker = dict(size=12, symbol=symbol, color=colour)
    figure.add_scatter(x=xs, y=ys, name=name, mode="lines+markers", marker=marker, line=dict(color=colour, width=3))


def _chips_finding(shares: dict[str, dict[str, tuple[float, float]]]) -> str:
    arithmetic, memory = (shares[name].get("H20") for name in ("arithmetic", "memory bandwidth"))
    if not arithmetic or not memory:
        return "Chips as shares of an H100"
    return f"The H20 has {_percent(arithmetic)} of an H100's arithmetic and {_percent(memory)} of its memory bandwidth"


def _chip_in_words(chip: str, shares: dict[str, dict[str, tuple[float, float]]]) -> str:
    parts = [f"{name} {_percent(ranges[chip])}" for name, ranges in shares.items() if chip in ranges]
    return f"{chip}: {', '.join(parts)}."


def _percent(share: tuple[float, float]) -> str:
    low, high = (f"{value:.0%}" for value in share)
    return low if low == high else f"{low} to {high}"


def _roof_span(ridge: float, intensities: Sequence[float]) -> list[float]:
    low, high = min([ridge, *intensities]) / 2, max([ridge, *intensities]) * 4
    return [low, ridge, high]


def _in_words(roofs: dict[str, Roof], points: dict[str, Sequence[Point]]) -> str:
    words = [
        f"{name}: {format_rate(b, 'B/s')} and {format_rate(f, 'FLOP/s')}, ridge at {f / b:.3g} FLOP per byte."
        for name, (b, f) in roofs.items()
    ]
    for name, dots in points.items():
        words.append(f"{name}: " + ", ".join(f"{label} {format_rate(y, 'FLOP/s')}" for label, _, y in dots) + ".")
    return " ".join(words)


def _logarithmic(figure: go.Figure, ticks: bool = True) -> go.Figure:
    figure.update_xaxes(type="log", dtick=1, tickformat="~g", showticklabels=ticks)
    return figure.update_yaxes(type="log", dtick="D2" if ticks else 1, tickformat="~s", showticklabels=ticks)


def _log(value: float) -> float:
    """Annotations on a logarithmic axis are placed by exponent."""
    return math.log10(value)
