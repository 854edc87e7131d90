"""Figures of `quantise_moe`: which bytes became fewer, what that costs, and what fits on which machine."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from helpers.plots.look import BLUES, GREY, LEGEND_BELOW, LINES, OKABE_ITO, PALE, new_figure
from helpers.units import format_bytes

FEW = 10  # bits per weight, scales included: below it a weight counts as quantised
_LABEL = 0.075  # of the longest bar: a shorter segment has no room for its name
# A pale stripe on orange: names in black are read on it.
_STRIPES = dict(shape="/", bgcolor=OKABE_ITO["orange"], fgcolor="rgba(255,255,255,0.35)", fillmode="replace")
_WIDTHS = [PALE, *BLUES]  # nothing fits, 4, 8 and 16 bits: black is read on each


class Bytes(NamedTuple):
    """What one part takes in one format."""

    part: str
    bits: float  # for each weight, scales included
    bytes: int


def bytes_by_part(ways: Mapping[str, Sequence[Bytes]], title: str) -> go.Figure:
    """One bar a way of storing a model, cut by part, the part's name in it; the colour says whether it has few bits."""
    words = "; ".join(f"{way}: {_in_words(rows)}" for way, rows in ways.items())
    longest = max(sum(row.bytes for row in rows) for rows in ways.values())
    figure = new_figure(title, f"Bytes by part. {words}.", x="bytes (MB)" if longest >= 1e6 else "bytes (kB)")
    unit, seen = 1e6 if longest >= 1e6 else 1e3, set()
    for way, rows in ways.items():
        for row in sorted(rows, key=lambda row: (row.bits < FEW, -row.bytes)):
            few = row.bits < FEW
            figure.add_bar(
                x=[row.bytes / unit], y=[way], orientation="h", legendgroup=str(few), showlegend=few not in seen,
                name=f"under {FEW} bits per weight" if few else "16 bits or more",
                text=row.part if row.bytes > _LABEL * longest else "", textposition="inside", insidetextanchor="middle",
                textangle=0, textfont=dict(color="white" if few else "black"), hoverinfo="text",
                hovertext=f"{way}, {row.part}: {format_bytes(row.bytes)}, {row.bits:.3g} bits per weight",
                marker=dict(
                    color=OKABE_ITO["blue" if few else "orange"], line=dict(color="rgba(255,255,255,0.8)", width=1),
                    pattern={} if few else _STRIPES,
                ),
            )  # fmt: skip
            seen.add(few)
    figure.update_yaxes(autorange="reversed", ticksuffix="  ")
    return figure.update_layout(barmode="stack", height=200 + 62 * len(ways), **LEGEND_BELOW)


def score_lines(
    lines: Mapping[str, Mapping[float, float]], title: str, x: str, y: str, before: float | None = None
) -> go.Figure:
    """A score, 0 to 1, against a number, a line a case. ``before`` is the score where nothing was rounded."""
    words = "; ".join(
        f"{name}: {', '.join(f'{score:.0%} at {at:g}' for at, score in row.items())}" for name, row in lines.items()
    )
    said = "" if before is None else f" Before rounding: {before:.0%}."
    figure = new_figure(title, f"{y} by {x}. {words}.{said}", x=x, y=y)
    for (name, row), (colour, dash, symbol) in zip(lines.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=10))
        figure.add_scatter(
            x=list(row), y=[100 * score for score in row.values()], name=name, mode="lines+markers", **look
        )
    if before is not None:
        figure.add_hline(y=100 * before, line=dict(color=GREY, dash="dot", width=2))
        figure.add_annotation(
            x=1, xref="paper", xanchor="right", y=100 * before, yanchor="bottom", text="nothing rounded",
            showarrow=False,
        )  # fmt: skip
    figure.update_traces(hovertemplate="%{x}: %{y:.0f} %<extra>%{fullData.name}</extra>")
    figure.update_xaxes(tickvals=sorted({at for row in lines.values() for at in row}))
    figure.update_yaxes(range=[-3, 106])
    return figure.update_layout(height=440, **LEGEND_BELOW)


def widest_that_fits(table: Mapping[str, Mapping[str, int]], title: str, setting: str) -> go.Figure:
    """Rows models, columns machines, in each cell the most bits per weight that fit: 16, 8, 4, or 0 for none.

    ``setting`` says in words what else must find room.
    """
    machines = list(next(iter(table.values())))
    said = {0: "nothing", 4: "4 bits", 8: "8 bits", 16: "16 bits"}
    words = "; ".join(
        f"{model}: {', '.join(f'{said[bits]} on {name}' for name, bits in row.items())}" for model, row in table.items()
    )
    axis = f"the most bits per weight that fit, with {setting}"
    figure = new_figure(title, f"{axis.capitalize()}. {words}.", x=axis)
    order = list(said)
    z = [[order.index(bits) for bits in row.values()] for row in table.values()]
    short = {0: "–", 4: "4", 8: "8", 16: "16"}
    text = [[short[bits] for bits in row.values()] for row in table.values()]
    scale = [[edge / 4, colour] for n, colour in enumerate(_WIDTHS) for edge in (n, n + 1)]
    figure.add_heatmap(
        z=z, x=machines, y=list(table), zmin=-0.5, zmax=3.5, colorscale=scale, showscale=False, xgap=2, ygap=2,
        text=text, texttemplate="%{text}", textfont=dict(size=14, color="black"),
        hovertemplate="%{y} on %{x}: %{text}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(side="top", tickangle=0, showgrid=False, title_standoff=8)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticksuffix="  ")
    return figure.update_layout(height=190 + 32 * len(table), margin_t=130, title_y=0.97, title_yanchor="top")


def _in_words(rows: Sequence[Bytes]) -> str:
    total = sum(row.bytes for row in rows)
    few = sum(row.bytes for row in rows if row.bits < FEW)
    parts = ", ".join(f"{row.part} {format_bytes(row.bytes)} at {row.bits:.3g} bits" for row in rows)
    return f"{format_bytes(total)}, of which {format_bytes(few)} have few bits ({parts})"
