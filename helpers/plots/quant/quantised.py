"""Models in many formats: what each takes, what it can still do, and which formats no other one beats."""

from collections.abc import Mapping

import plotly.graph_objects as go

from helpers.plots.look import GREY, OKABE_ITO, new_figure

Points = Mapping[str, tuple[float, float]]  # format -> size and score
_LABELS_AT = 1.06  # of the width: the column of names stands behind the right edge
_ROOM = 0.94  # of the height, for names


def frontier(points: Points, lower_is_better: bool = True) -> list[str]:
    """The formats that no other one beats, smallest first: none is as small and better, or as good and smaller.

    Of two that are alike both stay. Built in lesson `quantise_moe`.
    """
    sign = 1 if lower_is_better else -1
    kept = [
        name
        for name, (size, score) in points.items()
        if not any(
            other <= size and sign * its <= sign * score and (other, its) != (size, score)
            for other, its in points.values()
        )
    ]
    return sorted(kept, key=lambda name: points[name])


def size_and_score(points: Points, title: str, size: str, score: str, lower_is_better: bool = True) -> go.Figure:
    """A mark a format, size across and score up, every one named at the right; a line joins those that none beats.

    ``size`` and ``score`` name the axes with their units. Raises ValueError without a format. Built in lesson
    `quantise_moe`.
    """
    if not points:
        raise ValueError("there is no format to draw")
    best = frontier(points, lower_is_better)
    words = "; ".join(f"{name} {across:.3g} and {up:.3g}" for name, (across, up) in points.items())
    alt = f"{size} and {score} of each format: {words}. No other format beats {', '.join(best)}."
    figure = new_figure(title, alt, x=size, y=score)
    line = dict(color=OKABE_ITO["blue"], width=2, dash="dot")
    figure.add_scatter(**_xy(points, best), mode="lines", line=line, hoverinfo="skip", showlegend=False)
    beaten = [name for name in points if name not in best]
    for names, colour, symbol, said in ((best, "blue", "circle", "not beaten"), (beaten, "orange", "x", "beaten")):
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=11)
        hover = "%{text}: %{x:.3g}, %{y:.3g}<extra></extra>"
        figure.add_scatter(
            **_xy(points, names), text=names, mode="markers", marker=marker, hovertemplate=hover, name=said
        )
    _name_all(figure, points)
    legend = dict(orientation="h", y=1.02, yanchor="bottom", x=0)
    return figure.update_layout(height=max(420, 60 + 28 * len(points)), margin_r=170, margin_t=90, legend=legend)


def _xy(points: Points, names: list[str]) -> dict[str, list[float]]:
    return dict(x=[points[name][0] for name in names], y=[points[name][1] for name in names])


def _name_all(figure: go.Figure, points: Points) -> None:
    """Names one below the other in the order of their scores, each with a thin line to its mark."""
    sizes, scores = zip(*points.values(), strict=True)
    left, right = min(sizes), max(sizes)
    low, high = min(scores), max(scores)
    wide, tall = (right - left) or 1.0, (high - low) or 1.0
    low, high = low - 0.06 * tall, high + 0.06 * tall
    ordered = sorted(points, key=lambda name: points[name][1])
    for place, name in enumerate(ordered):
        share = 0.5 if len(ordered) == 1 else place / (len(ordered) - 1)
        figure.add_annotation(
            x=points[name][0], y=points[name][1], text=name, font=dict(size=13), xanchor="left", align="left",
            ax=right + _LABELS_AT * 0.06 * wide, ay=low + (0.03 + _ROOM * share) * (high - low), axref="x", ayref="y",
            showarrow=True, arrowhead=0, arrowwidth=0.7, arrowcolor=GREY,
        )  # fmt: skip
    figure.update_xaxes(range=[left - 0.06 * wide, right + 0.06 * wide]).update_yaxes(range=[low, high])
