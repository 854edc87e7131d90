"""Figures of `dsa`: who reads whom, what equal budgets keep, where the lines cross, what a model picked."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, NIGHT, OKABE_ITO, new_figure
from helpers.units import format_seconds

_FAINT = "rgba(128,128,128,0.28)"
_BLUE = OKABE_ITO["blue"]
_COLUMNS, _LONGEST = 16, 7  # of the grid of tokens: cells a row, characters a cell
_MUCH = 0.05  # of dense attention: such a token has a frame


def selection(masks: Mapping[str, Sequence[Sequence[bool]]], title: str) -> go.Figure:
    """Who reads whom, one square a rule: ``masks`` maps a name to T rows of T truths. A query is a row; what it may not
    see yet is left empty, what it may see and does not read is grey."""
    names, size = list(masks), len(next(iter(masks.values())))
    counts = {name: sum(map(sum, mask)) for name, mask in masks.items()}
    pairs = size * (size + 1) // 2
    words = ", ".join(f"{name} reads {count / pairs:.0%} of all visible pairs" for name, count in counts.items())
    words += "".join(f". {name}: {_where(mask)}" for name, mask in masks.items())
    figure = new_figure(title, f"Squares of {size} queries by {size} keys, below the diagonal: {words}.")
    for n, (name, mask) in enumerate(masks.items()):
        axis = "" if n == 0 else str(n + 1)
        cells = [[(1 if mask[t][s] else 0) if s <= t else None for s in range(size)] for t in range(size)]
        scale = [[0, _FAINT], [0.5, _FAINT], [0.5, _BLUE], [1, _BLUE]]
        look = dict(colorscale=scale, zmin=0, zmax=1, showscale=False, xgap=0, ygap=0)
        hover = "query %{y} reads key %{x}: %{z}<extra>" + name + "</extra>"
        figure.add_heatmap(z=cells, **look, xaxis=f"x{axis}", yaxis=f"y{axis}", hovertemplate=hover)
        _square(figure, axis, n, len(names), name)
    return figure.update_layout(height=430 if len(names) > 2 else 480, margin=dict(t=100))


def _square(figure: go.Figure, axis: str, place: int, squares: int, name: str) -> None:
    left, right = (place + 0.04) / squares, (place + 0.96) / squares
    figure.update_layout(
        {
            f"xaxis{axis}": dict(domain=[left, right], title_text="key (position)", showgrid=False, constrain="domain"),
            f"yaxis{axis}": dict(
                anchor=f"x{axis}",
                scaleanchor=f"x{axis}",
                autorange="reversed",
                showgrid=False,
                constrain="domain",
                title_text="query (position)" if place == 0 else "",
            ),
        }
    )
    figure.add_annotation(
        text=name, x=(left + right) / 2, y=1.0, xref="paper", yref="paper", yanchor="bottom", showarrow=False
    )


def _where(mask: Sequence[Sequence[bool]]) -> str:
    """What the last query reads, as distances."""
    last = len(mask) - 1
    distances = sorted(last - s for s, read in enumerate(mask[last]) if read)
    return f"the last query reads {len(distances)} keys, {min(distances)} to {max(distances)} positions back"


def kept_by_budget(budgets: Sequence[int], kept: Mapping[str, Sequence[float]], title: str, y: str) -> go.Figure:
    """What each rule keeps (``y`` names it and its unit) at each number of tokens that a query may read."""
    words = "; ".join(
        f"{name} {', '.join(f'{v:.3g} at {k}' for k, v in zip(budgets, values, strict=True))}"
        for name, values in kept.items()
    )
    figure = new_figure(title, f"{y} against tokens read. {words}.", x="tokens that a query reads (log scale)", y=y)
    _lines(figure, budgets, kept)
    figure.update_traces(hovertemplate="%{x} tokens: %{y:.3g}<extra>%{fullData.name}</extra>")
    figure.update_xaxes(type="log", tickvals=list(budgets), ticktext=[str(k) for k in budgets])
    return figure.update_layout(height=430, **LEGEND_BELOW)


def _lines(figure: go.Figure, xs: Sequence[float], rows: Mapping[str, Sequence[float]]) -> None:
    for (name, values), (colour, dash, symbol) in zip(rows.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=9))
        figure.add_scatter(x=list(xs), y=list(values), name=name, mode="lines+markers", **look)


def crossing(lengths: Sequence[int], first: Sequence[float], second: Sequence[float]) -> float | None:
    """The length from which on ``second`` stays below ``first``, between two measured ones by their logarithms.

    None where it is not below at the last length; the first length where it always is.
    """
    gaps = [math.log(a / b) for a, b in zip(first, second, strict=True)]  # positive: the second takes less
    if gaps[-1] <= 0:
        return None
    crossed = [n for n, (a, b) in enumerate(pairwise(gaps)) if a <= 0 < b]
    if not crossed:
        return float(lengths[0])
    n = crossed[-1]
    part = -gaps[n] / (gaps[n + 1] - gaps[n])
    return math.exp(math.log(lengths[n]) + part * math.log(lengths[n + 1] / lengths[n]))


def crossover(
    lengths: Sequence[int], seconds: Mapping[str, Sequence[float]], marks: Mapping[str, float], title: str
) -> go.Figure:
    """Seconds of one decoded token against the context, both on log axes; ``marks`` are lengths worth a line."""
    words = "; ".join(
        f"{name} {', '.join(f'{format_seconds(s)} at {n:,}' for n, s in zip(lengths, values, strict=True))}"
        for name, values in seconds.items()
    )
    lines = ", ".join(f"{name} at {at:,.0f}" for name, at in marks.items())
    alt = f"Time of one token in one layer against context: {words}. Marked: {lines or 'nothing'}."
    figure = new_figure(title, alt, x="context (tokens, log scale)", y="one token, one layer (ms, log scale)")
    _lines(figure, lengths, {name: [1e3 * s for s in values] for name, values in seconds.items()})
    figure.update_traces(hovertemplate="%{x:,} tokens: %{y:.3g} ms<extra>%{fullData.name}</extra>")
    for place, (name, at) in enumerate(marks.items()):
        figure.add_vline(x=at, line=dict(color=GREY, dash="dot", width=2))
        figure.add_annotation(
            x=math.log10(at), y=0.98 - 0.1 * place, yref="paper", xanchor="left", xshift=6, text=name, showarrow=False
        )
    figure.update_xaxes(type="log", tickvals=list(lengths), ticktext=[_short(n) for n in lengths])
    figure.update_yaxes(type="log", dtick="D2", tickformat="~g")
    return figure.update_layout(height=460, **LEGEND_BELOW)


def times_less(lengths: Sequence[int], ratios: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """How many times less work sparse decoding does than dense, by context, both axes logarithmic."""
    words = "; ".join(f"{name} {values[0]:.2g} to {values[-1]:.3g}" for name, values in ratios.items())
    span = f"from {lengths[0]:,} to {lengths[-1]:,} tokens"
    alt = f"Dense work over sparse work {span}: {words}. Below 1 sparse does more."
    figure = new_figure(title, alt, x="context (tokens, log scale)", y="dense / sparse (times, log scale)")
    _lines(figure, lengths, ratios)
    figure.update_traces(hovertemplate="%{x:,} tokens: %{y:.3g} times<extra>%{fullData.name}</extra>")
    figure.add_hline(y=1, line=dict(color=GREY, dash="dot", width=2))
    figure.update_xaxes(type="log", tickvals=list(lengths), ticktext=[_short(n) for n in lengths])
    marks = {0.5: "½", 1: "1", 2: "2", 5: "5", 10: "10", 20: "20", 50: "50"}
    figure.update_yaxes(type="log", tickvals=list(marks), ticktext=list(marks.values()))
    return figure.update_layout(height=430, **LEGEND_BELOW)


def reuse(kept: Sequence[Sequence[float]], title: str) -> go.Figure:
    """How much of its attention a layer keeps when it reads what another chose: rows lend, columns borrow; in %."""
    size = len(kept)
    words = "; ".join(f"block {n}'s choice: " + ", ".join(f"{100 * v:.0f}" for v in row) for n, row in enumerate(kept))
    figure = new_figure(
        title, f"Percent of attention kept, by block that reads. {words}.", x="block that reads", y="block that chose"
    )
    names = [str(n) for n in range(size)]
    text = [[f"{100 * value:.0f} %" for value in row] for row in kept]
    scale = [[0, NIGHT], [1, _BLUE]]
    look = dict(colorscale=scale, zmin=0, zmax=1, showscale=False, xgap=2, ygap=2, hoverinfo="skip")
    labels = dict(text=text, texttemplate="%{text}", textfont=dict(color="white", size=14))
    figure.add_heatmap(z=kept, x=names, y=names, **labels, **look)
    figure.update_xaxes(type="category", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False)
    return figure.update_layout(height=200 + 42 * size)


def picked(
    words: Sequence[str], chosen: Sequence[int], shares: Sequence[float], query: int, says: str = ""
) -> go.Figure:
    """The text as a grid of tokens, row by row. The token ``query`` has a dotted frame and reads the blue ones.

    A token with a whole frame gets 5 % of dense attention or more. What each gets (``shares``, for positions 0 to
    ``query``) shows when it is pointed at. ``says`` ends the title: what the model makes of it.
    """
    kept, seen = sum(shares[s] for s in chosen), query + 1
    title = f"{len(chosen)} of {seen} tokens hold {100 * kept:.0f} % of dense attention"
    title += f"; {says}" if says else ""
    best = sorted(chosen, key=lambda s: -shares[s])[:8]
    listed = ", ".join(f"{words[s].strip() or 'blank'!r} at {s} ({100 * shares[s]:.1f} %)" for s in best)
    missed = [f"{words[s].strip()!r} at {s}" for s in range(seen) if shares[s] >= _MUCH and s not in set(chosen)]
    alt = f"{title}. The token that reads is {words[query]!r} at {query}. Read most of all: {listed}. "
    alt += f"Not read, and worth {_MUCH:.0%} or more: {', '.join(missed) or 'none'}."
    figure = new_figure(title, alt)
    rows = math.ceil(seen / _COLUMNS)
    place = {s: (s % _COLUMNS, s // _COLUMNS) for s in range(seen)}
    _cells(figure, place, set(chosen), shares, words, rows)
    _labels(figure, place, set(chosen), words)
    for s in range(seen):
        if shares[s] >= _MUCH:
            _frame(figure, *place[s], dict(color=OKABE_ITO["orange"], width=3))
    _frame(figure, *place[query], dict(color=OKABE_ITO["red"], width=3, dash="dot"))
    figure.update_xaxes(visible=False, range=[-0.55, _COLUMNS - 0.45])
    figure.update_yaxes(visible=False, range=[rows - 0.45, -0.55])
    return figure.update_layout(height=110 + 27 * rows, showlegend=False, margin=dict(l=10, r=10, b=10))


def _frame(figure: go.Figure, x: int, y: int, line: dict) -> None:
    figure.add_shape(type="rect", x0=x - 0.46, x1=x + 0.46, y0=y - 0.46, y1=y + 0.46, line=line)


def _cells(figure: go.Figure, place: dict, chosen: set, shares: Sequence[float], words: Sequence[str], rows: int):
    cells = [[None] * _COLUMNS for _ in range(rows)]
    hover = [[""] * _COLUMNS for _ in range(rows)]
    for s, (x, y) in place.items():
        cells[y][x] = int(s in chosen)
        read = "read" if s in chosen else "not read"
        hover[y][x] = f"{words[s]!r} at {s}: {100 * shares[s]:.2f} % of dense attention, {read}"
    scale = [[0, "rgba(128,128,128,0.07)"], [0.5, "rgba(128,128,128,0.07)"], [0.5, _BLUE], [1, _BLUE]]
    look = dict(colorscale=scale, zmin=0, zmax=1, showscale=False, xgap=2, ygap=2)
    figure.add_heatmap(z=cells, hovertext=hover, hovertemplate="%{hovertext}<extra></extra>", **look)


def _labels(figure: go.Figure, place: dict, chosen: set, words: Sequence[str]) -> None:
    for colour, those in ((GREY, [s for s in place if s not in chosen]), ("white", sorted(chosen))):
        at = [place[s] for s in those]
        text = [_cell(words[s]) for s in those]
        font = dict(color=colour, size=11, family="monospace")
        figure.add_scatter(
            x=[x for x, _ in at], y=[y for _, y in at], text=text, mode="text", textfont=font, hoverinfo="skip"
        )


def _cell(word: str) -> str:
    shown = word.replace("\n", "↵").replace("\t", "→").replace(" ", "·")
    shown = shown if len(shown) <= _LONGEST else shown[: _LONGEST - 1] + "…"
    return shown.replace("<", "&lt;")


def _short(tokens: int) -> str:
    if tokens >= 1 << 20:
        return f"{tokens >> 20}M"
    return f"{tokens >> 10}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)


def by_position(right: Mapping[str, Sequence[float]], k: int, chance: float, title: str) -> go.Figure:
    """The share of tokens that are predicted rightly at each position, with a line where a query sees k keys."""
    words = "; ".join(
        f"{name}: {sum(shares[: k - 1]) / (k - 1):.0%} before position {k - 1}, "
        f"{sum(shares[k - 1 :]) / len(shares[k - 1 :]):.0%} from there on"
        for name, shares in right.items()
    )
    figure = new_figure(title, f"Right predictions by position. {words}. Chance: {chance:.1%}.")
    _lines(figure, range(len(next(iter(right.values())))), {n: [100 * s for s in v] for n, v in right.items()})
    figure.update_traces(hovertemplate="position %{x}: %{y:.0f} %<extra>%{fullData.name}</extra>")
    figure.add_hline(y=100 * chance, line=dict(color=GREY, dash="dot", width=2))
    figure.add_vline(x=k - 1.5, line=dict(color=GREY, dash="dash", width=2))
    figure.add_annotation(
        x=k - 1.5, y=0.9, yref="paper", xanchor="left", xshift=6, showarrow=False, text="k are visible"
    )
    figure.update_xaxes(title_text="position of the token that predicts")
    figure.update_yaxes(title_text="random tokens predicted (%)", range=[0, 105])
    return figure.update_layout(height=400, **LEGEND_BELOW)
