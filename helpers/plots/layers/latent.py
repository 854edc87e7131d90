"""Figures of `mla`: how much of a trained matrix a few directions carry."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure


def rank_errors(
    shares: Sequence[float],
    errors: Mapping[str, Sequence[float]],
    title: str,
    notes: Mapping[float, str] | None = None,
    chosen: float | None = None,
) -> go.Figure:
    """What is lost when only the largest directions of a matrix stay.

    ``shares`` are ranks as a share of the full rank, 0 to 1; ``errors`` is matrix -> relative error at each of them.
    ``notes`` are words above points of the first matrix, by share; ``chosen`` is a share to mark.
    """
    words = "; ".join(f"{name}: {_in_words(shares, row)}" for name, row in errors.items())
    said = ", ".join(f"{share:.0%}: {text}" for share, text in (notes or {}).items())
    alt = f"Relative error by rank. {words}.{f' At {said}.' if said else ''}"
    figure = new_figure(title, alt, x="rank kept (% of the full rank)", y="what is lost (relative error, %)")
    for (name, row), (colour, dash, _) in zip(errors.items(), LINES, strict=False):
        line = dict(color=OKABE_ITO[colour], dash=dash, width=3)
        xs, ys = [100 * share for share in shares], [100 * error for error in row]
        figure.add_scatter(x=xs, y=ys, name=name, mode="lines", line=line)
    first = dict(zip(shares, next(iter(errors.values())), strict=True))
    if notes:
        _add_notes(figure, {share: (first[share], text) for share, text in notes.items()})
    if chosen is not None:
        figure.add_vline(x=100 * chosen, line=dict(dash="dot", color=GREY))
    figure.update_traces(hovertemplate="rank %{x:.0f} %: %{y:.1f} % lost<extra>%{fullData.name}</extra>")
    figure.update_yaxes(range=[0, 105])
    figure.update_xaxes(range=[0, 101])
    return figure.update_layout(height=440, **LEGEND_BELOW)


def _add_notes(figure: go.Figure, notes: Mapping[float, tuple[float, str]]) -> None:
    for share, (error, text) in notes.items():
        figure.add_annotation(x=100 * share, y=100 * error, text=text, ax=-46, ay=22, arrowcolor=GREY)


def _in_words(shares: Sequence[float], errors: Sequence[float]) -> str:
    """The errors at the quarters, as near as the shares come to them."""
    near = [min(range(len(shares)), key=lambda n: abs(shares[n] - quarter)) for quarter in (0.25, 0.5, 0.75)]
    return ", ".join(f"{errors[n]:.0%} lost at {shares[n]:.0%}" for n in near)
