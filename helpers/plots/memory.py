"""Pictures of a memory that is a matrix: what stands in it, how much it can give back, what its forms cost."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, PALE, new_figure
from helpers.units import format_seconds

Matrix = Sequence[Sequence[float]]  # rows are channels of the key, columns channels of the value

# From sky through a pale grey to orange: black numbers are read on each of them, on a light and on a dark page.
_SCALE = [[0, OKABE_ITO["sky"]], [0.5, PALE], [1, OKABE_ITO["orange"]]]


def matrices(
    states: Mapping[str, Matrix], title: str, rows: Sequence[str], columns: Sequence[str] = (), said: str = ""
) -> go.Figure:
    """Memories side by side, each number in its cell. ``states`` is label -> matrix, all of one shape.

    ``rows`` name the channels of the key, ``columns`` those of the value; ``said`` is added to the words.
    """
    width = len(next(iter(states.values()))[0])
    z = [[x for matrix in states.values() for x in (*matrix[n], None)][:-1] for n in range(len(rows))]
    most = max((abs(x) for line in z for x in line if x is not None), default=0) or 1
    words = "; ".join(f"{label}: {_in_words(matrix, rows)}" for label, matrix in states.items())
    figure = new_figure(title, f"{words}. {said}".strip())
    figure.add_heatmap(
        z=z, y=list(rows), zmin=-most, zmax=most, colorscale=_SCALE, xgap=2, ygap=2, showscale=False,
        texttemplate="%{z:.3~g}", textfont=dict(size=14, color="black"), hoverinfo="skip",
    )  # fmt: skip
    middles = [n * (width + 1) + (width - 1) / 2 for n in range(len(states))]
    figure.update_xaxes(tickvals=middles, ticktext=list(states), showgrid=False, zeroline=False, side="bottom")
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False, ticksuffix="  ")
    for n in range(len(states)):
        for column, name in enumerate(columns):
            figure.add_annotation(
                x=n * (width + 1) + column, y=1, yref="paper", yanchor="bottom", text=name, showarrow=False,
                font_size=12,
            )  # fmt: skip
    return figure.update_layout(height=170 + 52 * len(rows), margin_t=86 if columns else 56)


def recall_by_pairs(
    lines: Mapping[str, Sequence[float]], pairs: Sequence[int], title: str, key_dim: int, what: str = "pairs told"
) -> go.Figure:
    """Share of right answers, 0 to 1, against the number of pairs; a line where there is one pair a channel."""
    words = "; ".join(
        f"{name}: {', '.join(f'{share:.0%} of {n}' for n, share in zip(pairs, shares, strict=True))}"
        for name, shares in lines.items()
    )
    figure = new_figure(title, f"Right answers by number of pairs. {words}.", x=what, y="right answers (%)")
    for (name, shares), (colour, dash, symbol) in zip(lines.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=10))
        figure.add_scatter(x=list(pairs), y=[100 * x for x in shares], name=name, mode="lines+markers", **look)
    figure.update_traces(hovertemplate="%{x} pairs: %{y:.0f} %<extra>%{fullData.name}</extra>")
    figure.add_vline(x=key_dim, line=dict(dash="dash", width=2, color=GREY))
    figure.add_annotation(
        x=key_dim, y=1, yref="paper", yanchor="bottom", text=f"keys have {key_dim} channels", showarrow=False
    )
    figure.update_yaxes(range=[-3, 104])
    return figure.update_layout(height=450, **LEGEND_BELOW)


def seconds_by_length(
    lines: Mapping[str, Mapping[int, float]], title: str, what: str = "tokens read at once"
) -> go.Figure:
    """Measured seconds against a number of tokens, both on log axes. ``lines`` is name -> tokens -> seconds."""
    words = "; ".join(
        f"{name}: {', '.join(f'{format_seconds(s)} at {n:,}' for n, s in row.items())}" for name, row in lines.items()
    )
    figure = new_figure(title, f"Seconds by tokens. {words}.", x=f"{what} (log scale)", y="time (s, log scale)")
    for (name, row), (colour, dash, symbol) in zip(lines.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=10))
        figure.add_scatter(x=list(row), y=list(row.values()), name=name, mode="lines+markers", **look)
    figure.update_traces(hovertemplate="%{x:,} tokens: %{y:.3g} s<extra>%{fullData.name}</extra>")
    ticks = sorted({n for row in lines.values() for n in row})
    figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{n:,}" for n in ticks])
    figure.update_yaxes(type="log", dtick=1, exponentformat="power")
    return figure.update_layout(height=430, **LEGEND_BELOW)


def _in_words(matrix: Matrix, rows: Sequence[str]) -> str:
    return ", ".join(f"{name} {' '.join(f'{x:.3g}' for x in line)}" for name, line in zip(rows, matrix, strict=True))
