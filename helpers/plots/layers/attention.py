"""Figures of `attention`: turning with the position, who looks at whom, a decoding step, the cache and how it grows."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure
from helpers.shapes import Float, Tensor
from helpers.units import GB, format_bytes, format_seconds


def score_by_distance(scores: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """The score of one query and one key against the distance of their positions, 0, 1, 2, ...; one line a rotation."""
    words = "; ".join(
        f"{name}: {values[0]:.2f} at distance 0, between {min(values):.2f} and {max(values):.2f} beyond"
        for name, values in scores.items()
    )
    figure = new_figure(title, f"Score against distance. {words}.", x="distance (tokens)", y="score (query · key)")
    for (name, values), (colour, dash, _) in zip(scores.items(), LINES, strict=False):
        line = dict(color=OKABE_ITO[colour], dash=dash, width=2.5)
        figure.add_scatter(x=list(range(len(values))), y=list(values), name=name, mode="lines", line=line)
    return figure.update_layout(height=420, **LEGEND_BELOW)


def attention_map(weights: Float[Tensor, "T S"], tokens: Sequence[str], title: str) -> go.Figure:
    """Who looks at whom: a row a query, a column a key, 0 to 1. Cells that no query may look into stay empty."""
    rows = weights.tolist()
    most = [max(range(len(row)), key=row.__getitem__) for row in rows]
    words = ", ".join(f"{tokens[t]!r} to {tokens[s]!r} ({rows[t][s]:.0%})" for t, s in enumerate(most))
    alt = f"Attention weights of {len(rows)} tokens, each row sums to one. Most of each row goes from {words}."
    names = [f"{place} {token}" for place, token in enumerate(tokens)]
    seen = [[w if s <= t else None for s, w in enumerate(row)] for t, row in enumerate(rows)]
    figure = new_figure(title, alt, x="key: the token that is looked at", y="query: the token that looks")
    figure.add_heatmap(x=names, y=names, z=seen, zmin=0, zmax=1, colorscale="Cividis", xgap=1, ygap=1)
    figure.update_traces(colorbar_title_text="weight", hovertemplate="%{y} looks at %{x}: %{z:.0%}<extra></extra>")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(tickangle=-45, showgrid=False)
    return figure.update_layout(height=260 + 22 * len(rows))


def seconds_by(
    points: Sequence[int],
    measured: Mapping[str, Sequence[float]],
    formula: Mapping[str, Sequence[float]],
    x: str,
    title: str,
) -> go.Figure:
    """Seconds against a count, both axes logarithmic: a line in colour for each measured, in grey for each formula."""
    words = "; ".join(
        f"at {n:,} " + ", ".join(f"{name} {format_seconds(row[place])}" for name, row in measured.items())
        for place, n in enumerate(points)
    )
    figure = new_figure(title, f"Time against {x}: {words}.", x=f"{x} (log scale)", y="time (ms, log scale)")
    for (name, seconds), (colour, dash, symbol) in zip(measured.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=10))
        figure.add_scatter(x=list(points), y=[1e3 * s for s in seconds], name=name, mode="lines+markers", **look)
    for name, seconds in formula.items():
        line = dict(dash="dot", color=GREY, width=2)
        figure.add_scatter(x=list(points), y=[1e3 * s for s in seconds], name=name, mode="lines", line=line)
    figure.update_xaxes(type="log", tickvals=list(points), ticktext=[f"{n:,}" for n in points])
    figure.update_yaxes(type="log", dtick="D2")
    return figure.update_layout(height=420, **LEGEND_BELOW)


def bytes_per_token(models: Mapping[str, Mapping[str, float]], title: str) -> go.Figure:
    """What one token leaves in the cache: a row a model, a marker a design, a line between them.

    ``models`` is model -> design -> bytes; the axis is logarithmic, and every marker carries its number.
    """
    words = "; ".join(
        f"{model}: {', '.join(f'{format_bytes(size)} {design}' for design, size in designs.items())}"
        for model, designs in models.items()
    )
    figure = new_figure(title, f"Bytes per token in the cache. {words}.", x="bytes per token (bf16, log scale)")
    for model, designs in models.items():
        ends, line = [min(designs.values()), max(designs.values())], dict(color=GREY, width=2)
        figure.add_scatter(x=ends, y=[model] * 2, mode="lines", line=line, showlegend=False, hoverinfo="skip")
    designs = list(dict.fromkeys(design for row in models.values() for design in row))
    for design, (colour, _, symbol) in zip(designs, LINES, strict=False):
        rows = {model: row[design] for model, row in models.items() if design in row}
        look = dict(marker=dict(color=OKABE_ITO[colour], symbol=symbol, size=13), textposition="top center")
        text = [format_bytes(size) for size in rows.values()]
        figure.add_scatter(
            x=list(rows.values()), y=list(rows), text=text, mode="markers+text", name=design, cliponaxis=False, **look
        )
    figure.update_traces(
        hovertemplate="%{y}: %{text}<extra>%{fullData.name}</extra>", selector=dict(mode="markers+text")
    )
    figure.update_xaxes(
        type="log", dtick=1, tickvals=[1e3, 1e4, 1e5, 1e6, 1e7], ticktext=["1 kB", "10 kB", "100 kB", "1 MB", "10 MB"]
    )
    figure.update_yaxes(range=[len(models) - 0.5, -0.7])
    return figure.update_layout(height=190 + 64 * len(models), **LEGEND_BELOW)


def cache_growth(
    model: str, weights_bytes: float, tokens: Sequence[int], caches: Mapping[str, Sequence[float]]
) -> go.Figure:
    """The cache of one sequence against its length, and the weights as a line: where does it pass them?

    ``caches`` is design -> bytes at each of ``tokens``; the last design is the one that the title speaks of.
    """
    (name, sizes), last = list(caches.items())[-1], tokens[-1]
    share = sizes[-1] / weights_bytes
    beside = f"{share:.3g} times the weights" if share >= 1 else f"{100 * share:.2g} % of the weights"
    title = f"{model}, {name}: {format_bytes(sizes[-1])} at {last:,} tokens, {beside}"
    words = "; ".join(f"{design} {format_bytes(row[-1])}" for design, row in caches.items())
    alt = f"{title}. At {last:,} tokens: {words}; weights {format_bytes(weights_bytes)}."
    figure = new_figure(title, alt, x="context (tokens)", y="cache of one sequence (GB)")
    for (design, row), (colour, dash, _) in zip(caches.items(), LINES, strict=False):
        line = dict(color=OKABE_ITO[colour], dash=dash, width=3)
        figure.add_scatter(x=list(tokens), y=[size / GB for size in row], name=design, mode="lines", line=line)
    figure.add_hline(y=weights_bytes / GB, line=dict(dash="dash", color=GREY))
    text = f"weights {format_bytes(weights_bytes)}"
    figure.add_annotation(
        x=0, xref="paper", xanchor="left", y=weights_bytes / GB, yanchor="bottom", text=text, showarrow=False
    )
    figure.update_yaxes(range=[0, 1.12 * max(weights_bytes, *(row[-1] for row in caches.values())) / GB])
    return figure.update_layout(height=420, **LEGEND_BELOW)
