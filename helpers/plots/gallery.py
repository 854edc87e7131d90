"""Figures of `what_came_next`: who reads what, streams through many layers, and architectures side by side."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure
from helpers.units import GB, format_bytes, format_count, format_flops

# what a layer keeps -> colour and marker: two marks, so that no idea is told by colour alone
IDEAS = {
    "keys and values": ("orange", "square"),
    "states, and some keys and values": ("pink", "diamond"),
    "a latent": ("green", "triangle-up"),
    "a latent and an index": ("blue", "circle"),
    "entries for many tokens": ("red", "star"),
}
_LABEL_GAP = 0.052  # of the height: one line of text and a little
# where a query reads a token -> colour, and how strong: a strength each, so that grey print still shows them apart
_READING = {"not read": 0.0, "in an entry": 0.45, "as it is": 1.0}


class Model(NamedTuple):
    """One architecture as the gallery compares it."""

    idea: str  # a key of IDEAS
    total: int  # parameters
    active: int
    cache_bytes: float  # at the context of the picture
    flops: float


def reading(patterns: Mapping[str, Sequence[Sequence[str]]], title: str) -> go.Figure:
    """One square a kind of layer, rows queries, columns tokens. ``patterns`` is kind -> rows of _READING's words."""
    words = "; ".join(f"{kind}: {_last_query(rows)}" for kind, rows in patterns.items())
    figure = new_figure(title, f"Which tokens each query reads, and how. {words}.")
    grid = make_subplots(cols=len(patterns), subplot_titles=list(patterns), shared_yaxes=True, horizontal_spacing=0.03)
    grid.layout.template, grid.layout.title, grid.layout.meta = (
        figure.layout.template,
        figure.layout.title,
        figure.layout.meta,
    )
    scale = [[0, "rgba(128,128,128,0.10)"], [0.45, OKABE_ITO["sky"]], [1, OKABE_ITO["blue"]]]
    for column, rows in enumerate(patterns.values(), start=1):
        values = [[_READING[word] for word in row] for row in rows]
        look = dict(zmin=0, zmax=1, colorscale=scale, showscale=False, xgap=1, ygap=1)
        hover = "query %{y}, token %{x}: %{text}<extra></extra>"
        grid.add_heatmap(z=values, text=[list(row) for row in rows], hovertemplate=hover, row=1, col=column, **look)
    for word, colour in [("as it is, in the window", "blue"), ("in an entry", "sky")]:
        marker = dict(symbol="square", size=12, color=OKABE_ITO[colour])
        grid.add_scatter(x=[None], y=[None], mode="markers", name=word, marker=marker)
    grid.update_yaxes(autorange="reversed").update_yaxes(title_text="query", col=1)
    grid.update_layout(height=440, **LEGEND_BELOW).update_layout(margin_t=90)
    return grid.update_xaxes(title_text="token", title_standoff=6)


def sizes_by_layer(lines: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """The size of what the streams carry, layer after layer, on a log axis; the first point stands before layer 1."""
    words = "; ".join(f"{name}: {sizes[-1] / sizes[0]:.2g} times the first" for name, sizes in lines.items())
    alt = f"Size of the streams after each of {len(next(iter(lines.values()))) - 1} layers. At the end, {words}."
    figure = new_figure(title, alt, x="layers", y="size (RMS, log scale)")
    for (name, sizes), (colour, dash, symbol) in zip(lines.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=7))
        figure.add_scatter(x=list(range(len(sizes))), y=list(sizes), name=name, mode="lines", **look)
    figure.update_yaxes(type="log", exponentformat="power")
    return figure.update_layout(height=420, **LEGEND_BELOW)


def cache_of_all(
    caches: Mapping[str, Sequence[float]],
    ideas: Mapping[str, str],
    published: Mapping[str, int],
    tokens: Sequence[int],
    title: str,
) -> go.Figure:
    """Bytes of one text's cache against its length, all models, both on log axes, each named at its end.

    ``ideas`` is model -> a key of IDEAS; ``published`` is the longest context that its config names, behind which the
    line is thin. Models with the same bytes share a line and a name.
    """
    shared = _shared(caches)
    words = "; ".join(f"{name} {format_bytes(sizes[-1])}" for name, sizes in shared.items())
    alt = f"Bytes of the cache against context. At {tokens[-1]:,} tokens: {words}."
    figure = new_figure(title, alt, x="context (tokens, log scale)", y="cache of one text (GB, log scale)")
    for name, sizes in shared.items():
        first = name.split(", ")[0]
        _add_line(figure, name, tokens, [size / GB for size in sizes], ideas[first], published[first])
    for idea in dict.fromkeys(ideas[name.split(", ")[0]] for name in shared):
        colour, symbol = IDEAS[idea]
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=10)
        figure.add_scatter(x=[None], y=[None], mode="lines+markers", name=idea, marker=marker, line_width=3)
    low, high = math.log10(min(map(min, shared.values())) / GB) - 0.15, math.log10(max(map(max, shared.values())) / GB)
    span = high + 0.15 - low
    ends = {name: (math.log10(sizes[-1] / GB) - low) / span for name, sizes in shared.items()}
    for name, place in _apart(ends).items():
        text = f"<b>{name}</b>  {format_bytes(shared[name][-1])}"
        _add_end(figure, text, place)
    figure.update_xaxes(type="log", dtick=1, range=[math.log10(tokens[0]), math.log10(tokens[-1]) + 0.02])
    figure.update_yaxes(type="log", dtick=1, range=[low, high + 0.15])
    return figure.update_layout(height=560, **LEGEND_BELOW).update_layout(margin_r=250)


def work_by_context(
    parts: Mapping[str, Sequence[float]], tokens: Sequence[int], title: str, marks: Mapping[str, float] | None = None
) -> go.Figure:
    """FLOP of one token against its context, part by part, both on log axes. ``marks`` names contexts to point at."""
    words = "; ".join(f"{name} {format_flops(flops[-1])}" for name, flops in parts.items())
    said = "".join(f" {name} at {at:,.0f} tokens." for name, at in (marks or {}).items())
    alt = f"FLOP of one token by part. At {tokens[-1]:,} tokens of context: {words}.{said}"
    figure = new_figure(title, alt, x="context (tokens, log scale)", y="GFLOP for one token (log scale)")
    for (name, flops), (colour, dash, symbol) in zip(parts.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=7))
        heights = [f / 1e9 if f else None for f in flops]
        figure.add_scatter(x=list(tokens), y=heights, name=name, mode="lines+markers", **look)
    for name, at in (marks or {}).items():
        figure.add_vline(x=at, line=dict(dash="dot", color=GREY))
        figure.add_annotation(x=math.log10(at), y=1, yref="paper", yanchor="bottom", text=name, showarrow=False)
    figure.update_traces(hovertemplate="%{x:,} tokens: %{y:.3g} GFLOP<extra>%{fullData.name}</extra>")
    figure.update_xaxes(type="log", dtick=1).update_yaxes(type="log", dtick=1)
    return figure.update_layout(height=460, **LEGEND_BELOW)


def compare(models: Mapping[str, Model], context: int, chosen: str) -> go.Figure:
    """Parameters, cache and work of one token at this context, a row a model, three log axes; ``chosen`` stands out.

    Raises ValueError where ``chosen`` is not one of the models.
    """
    if chosen not in models:
        raise ValueError(f"{chosen!r} is not in the gallery; there are {', '.join(models)}")
    order = sorted(models, key=lambda name: models[name].cache_bytes)
    figure = make_subplots(
        cols=3,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=["parameters", "cache of one text", "work of one token"],
    )
    look = new_figure(_headline(models, context, chosen), _in_words(models, context, order))
    figure.layout.template, figure.layout.title, figure.layout.meta = (
        look.layout.template,
        look.layout.title,
        look.layout.meta,
    )
    for name in order:
        _add_row(figure, name, models[name], name == chosen)
    for title, column in [("billions, log scale", 1), ("GB, log scale", 2), ("GFLOP, log scale", 3)]:
        figure.update_xaxes(title_text=title, title_standoff=6, type="log", dtick=1, col=column)
    figure.update_yaxes(categoryorder="array", categoryarray=order[::-1])
    figure.update_layout(height=210 + 30 * len(models), showlegend=False)
    return figure.update_layout(margin=dict(t=110, b=60, l=190))


def _add_row(figure: go.Figure, name: str, model: Model, chosen: bool) -> None:
    colour, symbol = IDEAS[model.idea]
    marker = dict(color=OKABE_ITO[colour], size=15 if chosen else 9, symbol=symbol)
    line = dict(color=OKABE_ITO[colour], width=5 if chosen else 2)
    label = f"<b>{name}</b>" if chosen else name
    counts = [model.active / 1e9, model.total / 1e9]
    hover = "active and total: %{x:.3g} billion<extra>" + name + "</extra>"
    figure.add_scatter(x=counts, y=[name] * 2, marker=marker, line=line, hovertemplate=hover, row=1, col=1)
    for column, value, text in [
        (2, model.cache_bytes / GB, format_bytes(model.cache_bytes)),
        (3, model.flops / 1e9, format_flops(model.flops)),
    ]:
        hover = f"{text}<extra>{name}</extra>"
        figure.add_scatter(x=[value], y=[name], mode="markers", marker=marker, hovertemplate=hover, row=1, col=column)
    figure.add_annotation(x=0, xref="paper", xanchor="right", xshift=-8, y=name, text=label, showarrow=False)
    figure.update_yaxes(showticklabels=False)


def _headline(models: Mapping[str, Model], context: int, chosen: str) -> str:
    one = models[chosen]
    most = max(models, key=lambda name: models[name].cache_bytes)
    times = models[most].cache_bytes / one.cache_bytes
    beside = f"the largest cache of all {len(models)}" if most == chosen else f"1/{times:.3g} of {most}'s"
    first = f"{chosen} at {context:,} tokens: {format_bytes(one.cache_bytes)}, {beside};"
    return f"{first}<br>{format_flops(one.flops)} for one token"


def _in_words(models: Mapping[str, Model], context: int, order: Sequence[str]) -> str:
    rows = "; ".join(
        f"{name} ({models[name].idea}): {format_count(models[name].total)} parameters, "
        f"{format_count(models[name].active)} active, cache {format_bytes(models[name].cache_bytes)}, "
        f"{format_flops(models[name].flops)} per token"
        for name in order
    )
    return f"{len(models)} architectures at {context:,} tokens, smallest cache first. {rows}."


def _shared(caches: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """Models with the same bytes at every length under one name."""
    names: dict[tuple, list[str]] = {}
    for name, sizes in caches.items():
        names.setdefault(tuple(sizes), []).append(name)
    return {", ".join(same): sizes for sizes, same in names.items()}


def _apart(places: Mapping[str, float]) -> dict[str, float]:
    """The heights of labels, 0 to 1: from the highest down, each at least a gap below the one before."""
    spread, last = {}, math.inf
    for name, place in sorted(places.items(), key=lambda pair: pair[1], reverse=True):
        last = spread[name] = min(place, last - _LABEL_GAP)
    return spread


def _add_line(
    figure: go.Figure, name: str, tokens: Sequence[int], heights: Sequence[float], idea: str, context: int
) -> None:
    """Strong up to the published context, thin and dotted behind it."""
    colour, symbol = IDEAS[idea]
    inside = sum(n <= context for n in tokens)
    for part, line in (
        (slice(inside), dict(width=3.5)),
        (slice(max(inside - 1, 0), None), dict(width=1.5, dash="dot")),
    ):
        if len(tokens[part]) > 1:
            look = dict(line=dict(color=OKABE_ITO[colour], **line), marker=dict(symbol=symbol, size=7))
            xs, ys = list(tokens[part]), list(heights[part])
            figure.add_scatter(x=xs, y=ys, mode="lines+markers", name=name, showlegend=False, **look)
    figure.update_traces(hovertemplate="%{x:,} tokens: %{y:.3g} GB<extra>%{fullData.name}</extra>")


def _add_end(figure: go.Figure, text: str, place: float) -> None:
    where = dict(x=1, xref="paper", xanchor="left", xshift=10, y=place, yref="paper", yanchor="middle")
    figure.add_annotation(text=text, font=dict(size=12), showarrow=False, align="left", **where)


def _last_query(rows: Sequence[Sequence[str]]) -> str:
    last = list(rows[-1])
    return (
        f"the last query reads {last.count('as it is')} tokens as they are and {last.count('in an entry')} in entries"
    )
