"""Figures of `kernels`: trips to memory, and what a trick is worth by chip and by the number of tokens."""

from collections.abc import Mapping, Sequence
from math import log10

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure
from helpers.units import format_bytes

Range = tuple[float, float]
_MARKS = [("blue", "circle"), ("orange", "square"), ("green", "diamond"), ("pink", "triangle-up")]
_MARKS += [("red", "x"), ("sky", "cross")]


def trips(ways: Mapping[str, Mapping[str, int]], title: str) -> go.Figure:
    """Bytes moved by each way, one bar a way, one piece an operation; operations under a hundredth are left out."""
    words = "; ".join(f"{way}: {format_bytes(sum(parts.values()))} ({_pieces(parts)})" for way, parts in ways.items())
    figure = new_figure(title, f"Bytes that each way moves. {words}.", x="moved (MB)")
    most = max(sum(parts.values()) for parts in ways.values())
    for number, name in enumerate(dict.fromkeys(name for parts in ways.values() for name in parts)):
        sizes = {way: parts.get(name, 0) for way, parts in ways.items()}
        if max(sizes.values()) < most / 100:
            continue
        look = dict(color=OKABE_ITO[_MARKS[number % 6][0]], line=dict(color=GREY, width=1))
        texts = [name if size else "" for size in sizes.values()]
        heights = [size / 1e6 for size in sizes.values()]
        figure.add_bar(y=list(ways), x=heights, name=name, orientation="h", marker=look, text=texts)
    figure.update_traces(textposition="inside", insidetextanchor="middle", textfont_color="black")
    figure.update_layout(barmode="stack", height=180 + 60 * len(ways), showlegend=False)
    return figure.update_yaxes(autorange="reversed")


def gains(tricks: Mapping[str, Mapping[str, Range]], title: str) -> go.Figure:
    """Times as fast at most, by chip (rows) and trick (marks); a line where the sources of a chip disagree."""
    chips = list(next(iter(tricks.values())))
    words = " ".join(f"{chip}: {_row(tricks, chip)}." for chip in chips)
    alt = f"{title.replace('<br>', ' ')}. Times as fast at most, by chip. {words}"
    figure = new_figure(title, alt, x="times as fast at most (log scale)")
    for number, (trick, by_chip) in enumerate(tricks.items()):
        colour, symbol = _MARKS[number % len(_MARKS)]
        xs, ys = [], []
        for place, chip in enumerate(chips):
            xs += [*by_chip[chip], None]
            ys += [place + 0.12 * (number - (len(tricks) - 1) / 2)] * 2 + [None]
        look = dict(marker=dict(size=10, symbol=symbol), line=dict(width=4, color=OKABE_ITO[colour]))
        hover = f"{trick}: %{{x:.3g}} times<extra></extra>"
        figure.add_scatter(x=xs, y=ys, name=trick, mode="lines+markers", hovertemplate=hover, **look)
    figure.add_vline(x=1, line=dict(dash="dot", color=GREY))
    most = max(high for by_chip in tricks.values() for _, high in by_chip.values())
    figure.update_xaxes(type="log", tickvals=[1, 2, 3, 5, 10, 20, 50, 100], range=[-0.08, log10(max(most, 4)) + 0.08])
    figure.update_yaxes(autorange="reversed", tickvals=list(range(len(chips))), ticktext=chips, zeroline=False)
    return figure.update_layout(height=260 + 42 * len(chips), **LEGEND_BELOW)


def gain_by_tokens(lines: Mapping[str, Sequence[Range]], tokens: Sequence[int], title: str) -> go.Figure:
    """Times as fast at most against the tokens computed together, a line a chip (the middle of its range)."""
    words = "; ".join(f"{name} {_ends(ranges, tokens)}" for name, ranges in lines.items())
    alt = f"Times as fast at most, by tokens computed together. {words}."
    figure = new_figure(title, alt, x="tokens computed together (log scale)", y="times as fast at most")
    for (name, ranges), (colour, dash, symbol) in zip(lines.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=7))
        heights = [(low + high) / 2 for low, high in ranges]
        figure.add_scatter(x=list(tokens), y=heights, name=name, mode="lines+markers", **look)
    figure.add_hline(y=1, line=dict(dash="dot", color=GREY))
    figure.update_xaxes(type="log", tickvals=list(tokens)[::2], ticktext=[f"{n:,}" for n in tokens][::2])
    return figure.update_yaxes(rangemode="tozero").update_layout(height=420, **LEGEND_BELOW)


def _pieces(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in parts.items())


def _row(tricks: Mapping[str, Mapping[str, Range]], chip: str) -> str:
    return ", ".join(f"{trick} {in_words(by_chip[chip])}" for trick, by_chip in tricks.items())


def _ends(ranges: Sequence[Range], tokens: Sequence[int]) -> str:
    return f"{in_words(ranges[0])} at {tokens[0]:,} and {in_words(ranges[-1])} at {tokens[-1]:,}"


def in_words(ends: Range) -> str:
    """``3.6`` where both ends agree to three digits, else ``3.2 to 3.6``."""
    low, high = (f"{end:.3g}" if end < 999.5 else f"{end:,.0f}" for end in ends)
    return low if low == high else f"{low} to {high}"
