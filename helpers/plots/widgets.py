"""Sliders over a pure plot function.

``explore(plot, k=Slider(1, 64, value=8, label="tokens kept"))`` calls ``plot(k=8)`` and draws it; moving the slider
draws it again. Each slider has a number box beside it, both work from the keyboard, and after each change the words
of the figure are spoken by a screen reader. The first figure travels inside the same output, so a page without a
live kernel shows it as a static picture.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape

import ipywidgets as w
import plotly.graph_objects as go
from IPython.display import display

from helpers.plots import alt_text, bundle


@dataclass(frozen=True)
class Slider:
    """A number from ``low`` to ``high``. ``log`` moves in powers of two; ``step`` 1 makes it a whole number."""

    low: float
    high: float
    value: float
    label: str
    step: float = 1
    log: bool = False

    def __post_init__(self):
        if not self.low <= self.value <= self.high:
            raise ValueError(f"slider {self.label!r}: {self.value} is not between {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"slider {self.label!r}: a log slider starts above 0, got {self.low}")

    def build(self) -> tuple[w.Widget, w.ValueWidget]:
        """The row to show, and the widget whose value counts (the number box)."""
        whole = self.step == int(self.step) and float(self.low).is_integer()
        number = w.BoundedIntText if whole else w.BoundedFloatText
        cast = int if whole else float
        box = number(cast(self.value), min=cast(self.low), max=cast(self.high), step=cast(self.step))
        box.layout.width = "9em"
        box.tooltip = f"{self.label}, from {self.low:g} to {self.high:g}"
        slider = self._log_slider(box, cast) if self.log else self._linear_slider(box, whole, cast)
        return w.HBox([slider, box]), box

    def _linear_slider(self, box, whole: bool, cast) -> w.Widget:
        kind = w.IntSlider if whole else w.FloatSlider
        slider = kind(
            cast(self.value),
            min=cast(self.low),
            max=cast(self.high),
            step=cast(self.step),
            **_slider_look(self),
        )
        w.link((slider, "value"), (box, "value"))
        return slider

    def _log_slider(self, box, cast) -> w.Widget:
        """A slider over the doublings between low and high; any value in between goes into the box."""
        stops = _doublings(self.low, self.high)
        nearest = lambda value: min(stops, key=lambda stop: abs(stop - value))  # noqa: E731
        options = [(f"{stop:g}", stop) for stop in stops]
        slider = w.SelectionSlider(options=options, value=nearest(self.value), **_slider_look(self))

        def from_slider(change):
            if nearest(box.value) != change["new"]:  # else the slider only follows the box
                box.value = cast(change["new"])

        slider.observe(from_slider, "value")
        box.observe(lambda change: slider.set_trait("value", nearest(change["new"])), "value")
        return slider


@dataclass(frozen=True)
class Choice:
    """One of ``options``; ``value`` is the first unless given."""

    options: list
    label: str
    value: object = None

    def build(self) -> tuple[w.Widget, w.ValueWidget]:
        if not self.options:
            raise ValueError(f"choice {self.label!r}: there are no options")
        value = self.options[0] if self.value is None else self.value
        if value not in self.options:
            raise ValueError(f"choice {self.label!r}: {value!r} is not one of {self.options}")
        menu = w.Dropdown(options=self.options, value=value, description=self.label, layout=w.Layout(width="32em"))
        return menu, menu


def _slider_look(control: Slider) -> dict:
    return dict(description=control.label, readout=False, continuous_update=False, layout=w.Layout(width="32em"))


def _doublings(low: float, high: float) -> list[float]:
    stops = [low]
    while stops[-1] * 2 < high:
        stops.append(stops[-1] * 2)
    return [*stops, high]


def _align(rows: Iterable[w.Widget], labels: list[str]) -> None:
    """One width for all labels, so that the sliders begin on one line."""
    for row in rows:
        labelled = row.children[0] if isinstance(row, w.HBox) else row
        labelled.style.description_width = f"{max(map(len, labels)) * 0.55 + 1:.1f}em"


def explore(plot: Callable[..., go.Figure], **controls: Slider | Choice) -> None:
    """Show ``plot`` under its controls, one keyword of the plot function each.

    An error inside ``plot`` is shown as one line in place of the figure; the controls stay alive.
    """
    rows, boxes = {}, {}
    for name, control in controls.items():
        rows[name], boxes[name] = control.build()
    _align(rows.values(), [control.label for control in controls.values()])
    values = lambda: {name: box.value for name, box in boxes.items()}  # noqa: E731
    picture, words = w.Output(), w.HTML()

    def draw(_change=None):
        try:
            figure = plot(**values())
        except ValueError as error:
            picture.outputs = ()
            words.value = f'<p role="status">No picture for these settings: {escape(str(error))}</p>'
            return
        picture.outputs = ({"output_type": "display_data", "data": bundle(figure), "metadata": {}},)
        words.value = f'<p role="status" aria-live="polite">{escape(alt_text(figure))}</p>'

    for box in boxes.values():
        box.observe(draw, "value")
    draw()
    panel = w.VBox([*rows.values(), picture, words])
    static = bundle(plot(**values()))
    display(
        {
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": panel.model_id,
            },
            **static,
        },
        raw=True,
    )
