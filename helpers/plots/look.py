"""The one look of every figure: colours for colour-blind readers, transparent paper for light and dark pages.

Okabe and Ito's palette (https://jfly.uni-koeln.de/color/) keeps its eight hues apart for every common kind of
colour blindness. Black and yellow are left out: one vanishes on a dark page, the other on a light one.
"""

import html
import json

import plotly.graph_objects as go
from IPython.display import display

OKABE_ITO = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "pink": "#CC79A7",
    "sky": "#56B4E9",
    "red": "#D55E00",
}

NIGHT = "#06202F"  # the dark end of a scale towards blue: white figures stand out on all of it
BLUES = ("#CFE8F7", "#8CC8EC", "#3FA0DB")  # steps of a scale on which black figures are read
PALE = "#D0D0D0"  # the middle of a scale between two colours: black figures are read on it
# Contrast 4.5:1 on white and 4.2:1 on JupyterLab's dark page: no colour reaches more on both.
GREY = "#777777"
_FAINT = "rgba(128,128,128,0.25)"
_AXIS = dict(gridcolor=_FAINT, zerolinecolor=_FAINT, linecolor=_FAINT, tickcolor=GREY, automargin=True)

# Colour, dash and marker of the first, second, ... line: three marks, so that no line is told by colour alone.
LINES = [("blue", "solid", "circle"), ("orange", "dash", "square"), ("green", "dot", "diamond")]
LINES += [("pink", "dashdot", "triangle-up"), ("red", "longdash", "x"), ("sky", "longdashdot", "cross")]

# A legend that may need two rows grows upward from the lower edge, into a margin that is kept free for it.
LEGEND_BELOW = dict(
    legend=dict(orientation="h", yref="container", yanchor="bottom", y=0.01, x=0, traceorder="normal"),
    margin_b=110,
    xaxis_title_standoff=6,
)

LOOK = go.layout.Template(
    layout=dict(
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(128,128,128,0.06)",
        font=dict(color=GREY, size=14),
        title=dict(font=dict(size=16), x=0, xref="paper", xanchor="left"),
        colorway=list(OKABE_ITO.values()),
        xaxis=_AXIS,
        yaxis=_AXIS,
        margin=dict(l=60, r=20, t=56, b=50),
        height=380,
        legend=dict(bgcolor="rgba(0,0,0,0)"),
        hoverlabel=dict(font=dict(color="white"), bgcolor="black"),
        modebar=dict(remove=["lasso2d", "select2d"]),
    )
)


def new_figure(title: str, alt: str, x: str = "", y: str = "") -> go.Figure:
    """An empty figure in the course's look.

    ``title`` says the finding; ``alt`` says in words, with the numbers, what the picture shows; ``x`` and ``y``
    name the axes with their units. Raises ValueError when title or alt is empty.
    """
    for name, text in (("title", title), ("alt", alt)):
        if not text.strip():
            raise ValueError(f"a figure needs a {name}: got {text!r}")
    figure = go.Figure(layout=dict(template=LOOK, title_text=title, meta=dict(alt=alt)))
    return figure.update_xaxes(title_text=x).update_yaxes(title_text=y)


def alt_text(figure: go.Figure) -> str:
    """The words that stand for the figure. Raises ValueError for a figure that ``new_figure`` did not make."""
    try:
        return figure.layout.meta["alt"]
    except (TypeError, KeyError):
        raise ValueError("this figure has no text alternative: start it with helpers.plots.new_figure") from None


def bundle(figure: go.Figure) -> dict:
    """The figure as a display bundle: the picture for front ends that draw plotly, its words for those that cannot."""
    return {"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": alt_text(figure)}


def show(figure: go.Figure) -> None:
    """Display the figure, and under it the same content in words (folded, reachable by keyboard and screen reader)."""
    words = html.escape(alt_text(figure))
    display(bundle(figure), raw=True)
    display(
        {
            "text/html": f"<details><summary>This figure in words</summary><p>{words}</p></details>",
            "text/plain": f"In words: {alt_text(figure)}",
        },
        raw=True,
    )
