"""Pictures of a checkpoint: its bytes in the order of the file, its parameters by part, its memory, its cache."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure
from helpers.units import GB, format_bytes

# part of a model -> colour and pattern: two marks, so that no part is told by colour alone
PART_LOOK = {
    "header": ("red", ""),
    "embedding": ("sky", ""),
    "head": ("sky", "/"),
    "attention": ("blue", ""),
    "dense FFN": ("orange", ""),
    "routed experts": ("orange", "/"),
    "shared expert": ("orange", "x"),
    "router": ("pink", "/"),
    "vision": ("green", ""),
    "delta": ("blue", "/"),
    "indexer": ("blue", "x"),
    "drafter": ("green", "/"),
    "norms and the rest": ("pink", ""),
}
_MACHINE = dict(dash="dash", width=2, color=GREY)  # a limit of memory
_ABOVE = dict(y=1, yref="paper", yanchor="bottom", showarrow=False)


def byte_map(runs: Sequence[tuple[str, int]], title: str) -> go.Figure:
    """The file from its first byte to its last. ``runs`` are (part, bytes) in the order of the file.

    A part that comes again and again keeps its look and has one line in the legend.
    """
    total = sum(size for _, size in runs)
    shares = _sums(runs)
    words = ", ".join(f"{part} {size / total:.1%}" for part, size in shares.items())
    figure = new_figure(title, f"One bar of {format_bytes(total)} from the first byte to the last: {words}.", x="MB")
    start, seen = 0, set()
    for part, size in runs:
        figure.add_bar(
            x=[size / 1e6],
            y=[""],
            base=start / 1e6,
            orientation="h",
            name=f"{part} ({shares[part] / total:.1%})",
            legendgroup=part,
            showlegend=part not in seen,
            marker=_look(part),
            hovertemplate=f"{part}: {format_bytes(size)}<extra></extra>",
        )
        start, seen = start + size, seen | {part}
    figure.update_yaxes(visible=False)
    return figure.update_layout(barmode="overlay", height=270, **LEGEND_BELOW)


def parameters_by_part(models: Mapping[str, Mapping[str, int]], title: str) -> go.Figure:
    """One bar a model, 100 % long, cut by part. ``models`` is model -> part -> parameters."""
    words = "; ".join(f"{name}: {_in_words(parts)}" for name, parts in models.items())
    figure = new_figure(title, f"Share of the parameters by part. {words}.", x="share of all parameters (%)")
    totals = {name: sum(parts.values()) for name, parts in models.items()}
    for part in PART_LOOK:
        shares = [100 * parts.get(part, 0) / totals[name] for name, parts in models.items()]
        if any(shares):
            figure.add_bar(x=shares, y=list(models), orientation="h", name=part, marker=_look(part))
    figure.update_traces(hovertemplate="%{y}: %{x:.1f} %<extra>%{fullData.name}</extra>")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, 100])
    return figure.update_layout(barmode="stack", height=190 + 32 * len(models), **LEGEND_BELOW)


def weights_against_memory(
    weights: Mapping[str, Mapping[str, float]], machines: Mapping[str, float], title: str
) -> go.Figure:
    """Where the weights of each model fit: a marker for each format, a line for each machine, bytes on a log axis.

    ``weights`` is model -> format -> bytes, ``machines`` is name -> bytes.
    """
    words = "; ".join(
        f"{model}: {', '.join(f'{format_bytes(size)} in {form}' for form, size in forms.items())}"
        for model, forms in weights.items()
    )
    lines = ", ".join(f"{name} {size / GB:.3g} GB" for name, size in machines.items())
    figure = new_figure(title, f"Bytes of the weights. {words}. Machines: {lines}.", x="weights (GB, log scale)")
    formats = list(next(iter(weights.values())))
    for form, (colour, _, symbol) in zip(formats, LINES, strict=False):
        sizes = [weights[model][form] / GB for model in weights]
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=11)
        figure.add_scatter(x=sizes, y=list(weights), mode="markers", name=form, marker=marker)
    figure.update_traces(hovertemplate="%{y}: %{x:.3g} GB<extra>%{fullData.name}</extra>")
    for name, size in machines.items():
        figure.add_vline(x=size / GB, line=_MACHINE)
        figure.add_annotation(x=math.log10(size / GB), text=name, **_ABOVE)  # on a log axis, text stands at exponents
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(height=190 + 34 * len(weights), **LEGEND_BELOW)


def cache_by_context(caches: Mapping[str, Sequence[float]], tokens: Sequence[int], title: str) -> go.Figure:
    """Bytes of the cache of one sequence against its length, both on log axes. ``caches`` is model -> bytes."""
    words = "; ".join(f"{model} {format_bytes(sizes[-1])}" for model, sizes in caches.items())
    alt = f"Cache against context. At {tokens[-1]:,} tokens: {words}."
    figure = new_figure(title, alt, x="context (tokens, log scale)", y="cache (GB, log scale)")
    for (model, sizes), (colour, dash, symbol) in zip(caches.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash), marker=dict(symbol=symbol, size=8))
        figure.add_scatter(x=list(tokens), y=[size / GB for size in sizes], name=model, mode="lines+markers", **look)
    figure.update_traces(hovertemplate="%{x:,} tokens: %{y:.3g} GB<extra>%{fullData.name}</extra>")
    figure.update_xaxes(type="log", dtick=1)
    figure.update_yaxes(type="log", dtick=1)
    return figure.update_layout(height=440, **LEGEND_BELOW)


def memory_plan(
    model: str,
    weights_bytes: float,
    cache_bytes: float,
    memory_bytes: float,
    setting: str,
    caches: str = "cache of one sequence",
    room_bytes: float = 0,
) -> go.Figure:
    """Weights and cache as one bar, against the memory of a machine. ``setting`` says format and context in words,
    ``caches`` whose cache it is; ``room_bytes`` stay free to work in."""
    need = weights_bytes + cache_bytes + room_bytes
    machines = math.ceil(100 * need / memory_bytes) / 100  # upward: what does not fit never "needs 1 machine"
    verdict = "fits" if need <= memory_bytes else f"needs {machines:.4g} such machines"
    title = f"{model}, {setting}: {format_bytes(need)}, {verdict}"
    alt = (
        f"{model}, {setting}: weights {format_bytes(weights_bytes)}, cache {format_bytes(cache_bytes)}, "
        f"{f'room to work {format_bytes(room_bytes)}, ' if room_bytes else ''}together "
        f"{format_bytes(need)} of {format_bytes(memory_bytes)}: {verdict}."
    )
    figure = new_figure(title, alt, x="GB")
    for name, size, colour, pattern in [
        ("weights", weights_bytes, "blue", ""),
        (caches, cache_bytes, "orange", "/"),
        *([("room to work", room_bytes, "sky", ".")] if room_bytes else []),
    ]:
        marker = dict(color=OKABE_ITO[colour], pattern_shape=pattern)
        figure.add_bar(x=[size / GB], y=[""], orientation="h", name=f"{name}: {format_bytes(size)}", marker=marker)
    figure.add_vline(x=memory_bytes / GB, line=_MACHINE)
    figure.add_annotation(x=memory_bytes / GB, text=f"memory {format_bytes(memory_bytes)}", **_ABOVE)
    figure.update_yaxes(visible=False)
    figure.update_xaxes(range=[0, 1.15 * max(need, memory_bytes) / GB])
    return figure.update_layout(barmode="stack", bargap=0.5, height=280, **LEGEND_BELOW)


def _look(part: str) -> dict:
    colour, pattern = PART_LOOK[part]
    return dict(color=OKABE_ITO[colour], pattern_shape=pattern, line_width=0)


def _sums(runs: Sequence[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for part, size in runs:
        sums[part] = sums.get(part, 0) + size
    return sums


def _in_words(parts: Mapping[str, int]) -> str:
    total = sum(parts.values())
    large = sorted(((count, part) for part, count in parts.items()), reverse=True)
    return ", ".join(f"{part} {100 * count / total:.1f} %" for count, part in large if count > 0.005 * total)
