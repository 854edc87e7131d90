"""Pictures of experts: their loads, whose tokens they get, what a model stores and what it uses."""

from collections.abc import Mapping, Sequence
from math import log10

import plotly.graph_objects as go

from helpers.plots.look import GREY, LEGEND_BELOW, LINES, OKABE_ITO, new_figure
from helpers.shapes import Float, Tensor

_PATTERNS = ("", "/", "x", ".")


def loads(cases: Mapping[str, Sequence[float]], title: str) -> go.Figure:
    """What each expert gets, as a multiple of an even share: a group of bars an expert, a bar a case."""
    words = "; ".join(f"{case}: {', '.join(f'{load:.2f}' for load in loads)}" for case, loads in cases.items())
    alt = f"Load of each expert, 1 is an even share. {words}."
    figure = new_figure(title, alt, x="expert", y="tokens, as a multiple of an even share")
    for (case, values), (colour, _, _), pattern in zip(cases.items(), LINES, _PATTERNS, strict=False):
        marker = dict(color=OKABE_ITO[colour], pattern_shape=pattern)
        figure.add_bar(x=[str(e) for e in range(len(values))], y=list(values), name=case, marker=marker)
    figure.add_hline(y=1, line=dict(color=GREY, dash="dash", width=2))
    figure.update_traces(hovertemplate="expert %{x}: %{y:.2f}<extra>%{fullData.name}</extra>")
    figure.update_xaxes(type="category")
    return figure.update_layout(barmode="group", height=420, **LEGEND_BELOW)


def routing_map(shares: Float[Tensor, "rows E"], rows: Sequence[str], title: str, what: str = "share") -> go.Figure:
    """One row a class (or a token), one column an expert; the darker, the larger its part. 0 stays empty."""
    strongest = [
        f"{row}: expert {int(own.argmax())} with {own.max():.0%}" for row, own in zip(rows, shares, strict=True)
    ]
    figure = new_figure(title, f"{what} of each expert by row. {'; '.join(strongest)}.", x="expert")
    heat = dict(colorscale=[[0, "rgba(0,114,178,0)"], [1, "rgba(0,114,178,1)"]], zmin=0, xgap=1, ygap=1)
    places = [f"{n} " for n in range(len(rows))]  # rows may share a name: two tokens alike
    figure.add_heatmap(
        z=shares.tolist(),
        x=[str(e) for e in range(shares.shape[1])],
        y=places,
        customdata=[[row] * shares.shape[1] for row in rows],
        hovertemplate="%{customdata}, expert %{x}: %{z:.0%}<extra></extra>",
        colorbar=dict(title=what, tickformat=".0%"),
        showscale=bool((shares < 1).logical_and(shares > 0).any()),  # all or nothing needs no scale
        **heat,
    )
    figure.update_yaxes(autorange="reversed", tickvals=places, ticktext=list(rows), type="category")
    figure.update_xaxes(type="category")
    return figure.update_layout(height=150 + 22 * len(rows))


def total_and_active(models: Mapping[str, tuple[float, float]], title: str) -> go.Figure:
    """Parameters stored and parameters at work on one token, in billions: two marks a model on a log axis."""
    words = "; ".join(
        f"{model}: {total:.3g} stored, {active:.3g} at work ({active / total:.1%})"
        for model, (total, active) in models.items()
    )
    figure = new_figure(title, f"Parameters in billions. {words}.", x="parameters (billions, log scale)")
    for model, (total, active) in models.items():
        figure.add_scatter(x=[active, total], y=[model] * 2, mode="lines", line=dict(color=GREY, width=2))
        figure.add_annotation(x=log10(total), y=model, text=f"  {active / total:.1%}", xanchor="left", showarrow=False)
    figure.update_traces(showlegend=False, hoverinfo="skip")
    for n, (name, colour, symbol) in enumerate(
        (("stored", "orange", "square"), ("at work on a token", "blue", "circle"))
    ):
        marker = dict(color=OKABE_ITO[colour], symbol=symbol, size=12)
        figure.add_scatter(
            x=[pair[n] for pair in models.values()], y=list(models), mode="markers", name=name, marker=marker
        )
    low, high = min(a for _, a in models.values()), max(t for t, _ in models.values())
    figure.update_xaxes(
        type="log", range=[log10(low / 1.5), log10(high * 2.2)], tickvals=[0.5, 1, 3, 10, 30, 100, 300, 1000]
    )
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(height=170 + 40 * len(models), **LEGEND_BELOW)
