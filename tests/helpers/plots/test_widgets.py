"""Controls over a pure plot: they redraw, their boxes and sliders agree, and a page without a kernel has a picture."""

import ipywidgets
import pytest

from helpers.plots import new_figure
from helpers.plots.widgets import Choice, Slider, explore

WIDGET, PLOTLY = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"


def _plot(k, kind="sin"):
    if k == 9:
        raise ValueError("nine <is> not allowed")
    return new_figure(f"k is {k}", alt=f"{kind} with {k} bumps")


@pytest.fixture
def explored(monkeypatch):
    """Explore, and give the display bundle and the live panel."""
    shown = []
    monkeypatch.setattr("helpers.plots.widgets.display", lambda data, raw: shown.append(data))

    def call(**controls):
        explore(_plot, **controls)
        return shown[-1], ipywidgets.widgets.widget._instances[shown[-1][WIDGET]["model_id"]]

    return call


def _title(panel):
    picture = next(child for child in panel.children if isinstance(child, ipywidgets.Output))
    return picture.outputs[0]["data"][PLOTLY]["layout"]["title"]["text"] if picture.outputs else None


def _words(panel):
    return panel.children[-1].value


def _row(panel):
    return panel.children[0].children


def test_the_first_picture_travels_beside_the_widget_for_pages_without_a_kernel(explored):
    data, panel = explored(k=Slider(1, 12, value=3, label="bumps"))
    assert data[PLOTLY]["layout"]["title"]["text"] == "k is 3" == _title(panel)
    assert data["text/plain"] == "sin with 3 bumps"


def test_slider_and_number_box_agree_and_redraw(explored):
    _, panel = explored(k=Slider(1, 12, value=3, label="bumps"))
    slider, box = _row(panel)
    slider.value = 5
    assert (box.value, _title(panel)) == (5, "k is 5")
    box.value = 12
    assert (slider.value, _title(panel)) == (12, "k is 12")
    assert 'aria-live="polite"' in _words(panel)
    assert "12 bumps" in _words(panel)


def test_a_log_slider_moves_in_doublings_and_its_box_takes_any_value(explored):
    _, panel = explored(k=Slider(1, 100, value=8, label="context", log=True))
    slider, box = _row(panel)
    assert [value for _, value in slider.options] == [1, 2, 4, 8, 16, 32, 64, 100]
    slider.value = 100
    assert (box.value, _title(panel)) == (100, "k is 100")
    box.value = 37
    assert _title(panel) == "k is 37"
    assert slider.value == 32
    assert box.value == 37


def test_a_box_cannot_leave_its_bounds(explored):
    _, panel = explored(k=Slider(1, 12, value=3, label="bumps"))
    _, box = _row(panel)
    box.value = 4000
    assert (box.value, _title(panel)) == (12, "k is 12")


def test_settings_without_a_picture_say_why_and_the_controls_stay_alive(explored):
    _, panel = explored(k=Slider(1, 12, value=3, label="bumps"))
    _, box = _row(panel)
    box.value = 9
    assert _title(panel) is None
    assert "nine &lt;is&gt; not allowed" in _words(panel)
    box.value = 10
    assert _title(panel) == "k is 10"


def test_a_choice_redraws(explored):
    data, panel = explored(k=Slider(1, 3, value=1, label="k"), kind=Choice(["sin", "cos"], label="kind"))
    panel.children[1].value = "cos"
    assert "cos with 1 bumps" in _words(panel)
    assert data["text/plain"] == "sin with 1 bumps"


def test_every_control_has_a_label_that_a_screen_reader_finds(explored):
    _, panel = explored(k=Slider(0.5, 3, value=1, step=0.1, label="rate (B/s)"), kind=Choice(["sin"], label="kind"))
    slider, box = _row(panel)
    assert slider.description == "rate (B/s)"
    assert "rate (B/s)" in box.tooltip
    assert panel.children[1].description == "kind"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Slider(1, 5, value=9, label="k"), "9 is not between 1 and 5"),
        (lambda: Slider(0, 5, value=1, label="k", log=True), "starts above 0"),
        (lambda: Choice(["a"], label="c", value="b").build(), "'b' is not one of"),
        (lambda: Choice([], label="c").build(), "no options"),
    ],
)
def test_impossible_controls_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
