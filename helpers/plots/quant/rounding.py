"""Pictures of rounding with a text: two columns on a plane, a search for a scale, scores by bits and by text."""

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure
from helpers.shapes import Float, Tensor

_MARKS = (("blue", "circle"), ("orange", "square"))  # nearest and GPTQ, as in every picture here
METHODS = LINES[1:]  # GPTQ and AWQ: the first line is rounding to nearest


def two_columns(
    weight: Float[Tensor, "2"], hessian: Float[Tensor, "2 2"], codes: Mapping[str, Sequence[int]], title: str
) -> go.Figure:
    """Two weights on the plane of their codes; a curve of equal error through each choice of codes.

    The last choice is GPTQ's: an arrow shows where the second weight moved when the first was rounded.
    """
    errors = {name: _error(weight, hessian, own) for name, own in codes.items()}
    words = "; ".join(f"{name} {tuple(own)}, error {errors[name]:.3f}" for name, own in codes.items())
    at = tuple(round(w, 2) for w in weight.tolist())
    figure = new_figure(title, f"Weights at {at}. {words}.", x="first column (code)", y="second column (code)")
    low, high = -1, 2
    grid = [(a, b) for a in range(low, high + 1) for b in range(low, high + 1)]
    dots = dict(color=GREY, size=7)
    figure.add_scatter(x=[a for a, _ in grid], y=[b for _, b in grid], mode="markers", marker=dots, name="codes")
    for (name, own), (colour, symbol) in zip(codes.items(), _MARKS, strict=True):
        x, y = _curve(weight, hessian, errors[name])
        line = dict(color=OKABE_ITO[colour], width=2, dash="dot")
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=f"as far off as {name}", showlegend=False)
        marker = dict(color=OKABE_ITO[colour], size=16, symbol=symbol)
        figure.add_scatter(x=[own[0]], y=[own[1]], mode="markers", marker=marker, name=f"{name}: {errors[name]:.3f}")
    star = dict(color=OKABE_ITO["green"], size=16, symbol="star")
    figure.add_scatter(x=[at[0]], y=[at[1]], mode="markers", marker=star, name="the weights")
    first = list(codes.values())[-1][0]
    moved = float(weight[1] + hessian[0, 1] / hessian[1, 1] * (weight[0] - first))
    arrow = dict(axref="x", ayref="y", xref="x", yref="y", showarrow=True, arrowhead=2, arrowwidth=2, arrowcolor=GREY)
    figure.add_annotation(x=first, y=moved, ax=at[0], ay=at[1], **arrow)
    figure.update_traces(hovertemplate="(%{x:.2f}, %{y:.2f})<extra>%{fullData.name}</extra>")
    figure.update_xaxes(range=[low - 0.3, high + 0.3], dtick=1, constrain="domain")
    figure.update_yaxes(range=[low - 0.3, high + 0.3], dtick=1, scaleanchor="x")
    return figure.update_layout(height=520, **LEGEND_BELOW)


def error_by_alpha(cases: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """The error after each stretch from alpha 0 (rounding to nearest, which is 1) to 1: a line a case."""
    shares = {name: [error / errors[0] for error in errors] for name, errors in cases.items()}
    words = "; ".join(
        f"{name}: least {min(own):.3f} at alpha {own.index(min(own)) / (len(own) - 1):.2f}, {own[-1]:.2f} at 1"
        for name, own in shares.items()
    )
    alt = f"Error against alpha, as a share of rounding to nearest. {words}."
    figure = new_figure(title, alt, x="alpha", y="error (rounding to nearest is 1)")
    for (name, own), (colour, dash, symbol) in zip(shares.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=7))
        alphas = [n / (len(own) - 1) for n in range(len(own))]
        figure.add_scatter(x=alphas, y=own, name=name, mode="lines+markers", **look)
    figure.add_hline(y=1, line=dict(color=GREY, dash="dash", width=2))
    figure.update_traces(hovertemplate="alpha %{x:.2f}: %{y:.3f}<extra>%{fullData.name}</extra>")
    return figure.update_layout(height=420, **LEGEND_BELOW)


def score_by_bits(
    methods: Mapping[str, Mapping[int, float]], whole: float, title: str, what: str, percent: bool = False
) -> go.Figure:
    """A score against bits, a line a method; the dashed line is the model that nobody rounded."""
    form = ".0%" if percent else ".3f"
    words = "; ".join(
        f"{name}: {', '.join(f'{bits} bits {score:{form}}' for bits, score in scores.items())}"
        for name, scores in methods.items()
    )
    alt = f"{what} by bits. Not rounded: {whole:{form}}. {words}."
    figure = new_figure(title, alt, x="bits per code", y=what)
    for (name, scores), (colour, dash, symbol) in zip(methods.items(), LINES, strict=False):
        look = dict(line=dict(color=OKABE_ITO[colour], dash=dash, width=3), marker=dict(symbol=symbol, size=9))
        bits = [str(n) for n in scores]
        figure.add_scatter(x=bits, y=list(scores.values()), name=name, mode="lines+markers", **look)
    figure.add_hline(y=whole, line=dict(color=GREY, dash="dash", width=2))
    edge = dict(x=0, xref="paper", xanchor="left", yanchor="bottom")  # at the left, where all lines are far from it
    figure.add_annotation(y=whole, text="not rounded", showarrow=False, **edge)
    figure.update_traces(hovertemplate=f"%{{x}} bits: %{{y:{form}}}<extra>%{{fullData.name}}</extra>")
    figure.update_xaxes(type="category").update_yaxes(tickformat=".0%" if percent else None)
    return figure.update_layout(height=440, **LEGEND_BELOW)


def score_by_text(
    scores: Mapping[str, Mapping[str, float]],
    nearest: float,
    whole: float,
    title: str,
    what: str,
    percent: bool = False,
) -> go.Figure:
    """A score by the text that a method was calibrated on: a row a text, a mark a method.

    One line is the model that nobody rounded, the other its weights rounded to the nearest, with no text at all.
    """
    form = ".0%" if percent else ".3f"
    words = "; ".join(
        f"{method} on {text} {score:{form}}" for method, own in scores.items() for text, score in own.items()
    )
    alt = f"{what}. Not rounded {whole:{form}}, rounded to nearest {nearest:{form}}; {words}."
    figure = new_figure(title, alt, x=what, y="calibrated on")
    for height, name, edge in ((whole, "not rounded", 1), (nearest, "rounded to nearest", 0)):  # may lie on one another
        figure.add_vline(x=height, line=dict(color=GREY, dash="dash", width=2))
        figure.add_annotation(x=height, y=edge, yref="paper", yanchor="bottom", text=name, showarrow=False)
    for (method, own), (colour, _, symbol) in zip(scores.items(), METHODS, strict=False):
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=14)
        look = dict(mode="markers+text", marker=marker, textposition="top center", cliponaxis=False)
        text = [f"{score:{form}}" for score in own.values()]
        figure.add_scatter(x=list(own.values()), y=list(own), name=method, text=text, **look)
    every = [whole, nearest, *(score for own in scores.values() for score in own.values())]
    margin = 0.12 * (max(every) - min(every))
    figure.update_traces(hovertemplate=f"%{{y}}: %{{x:{form}}}<extra>%{{fullData.name}}</extra>")
    figure.update_xaxes(range=[0, 1] if percent else [min(every) - margin, max(every) + margin])
    figure.update_xaxes(tickformat=".0%" if percent else None)
    rows = max(len(own) for own in scores.values())
    figure.update_yaxes(autorange=None, range=[rows - 0.4, -0.6], type="category")
    return figure.update_layout(height=230 + 60 * rows, **LEGEND_BELOW)


def _error(weight: Float[Tensor, "2"], hessian: Float[Tensor, "2 2"], codes: Sequence[int]) -> float:
    off = torch.tensor(codes, dtype=weight.dtype) - weight
    return float(off @ hessian @ off)


def _curve(weight: Float[Tensor, "2"], hessian: Float[Tensor, "2 2"], error: float) -> tuple[list[float], list[float]]:
    """The ellipse of all points as far off as ``error``."""
    angles = torch.linspace(0, 2 * math.pi, 97)
    circle = torch.stack([angles.cos(), angles.sin()]) * math.sqrt(error)
    points = weight[:, None] + torch.linalg.solve(torch.linalg.cholesky(hessian).T, circle)
    return points[0].tolist(), points[1].tolist()
