"""Every figure says its finding, has words, names its axes, and reads in light and dark."""

import importlib
import inspect
import json
import pkgutil
import re

import pytest

import helpers.plots
from helpers.plots import OKABE_ITO, alt_text, bundle, new_figure, show
from helpers.plots.look import LOOK

LIGHT_PAGE, DARK_PAGE = "#ffffff", "#111111"  # JupyterLab's own two


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    bright, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_text_of_a_figure_reads_on_both_pages():
    colour = LOOK.layout.font.color
    assert _contrast(colour, LIGHT_PAGE) >= 4.1
    assert _contrast(colour, DARK_PAGE) >= 4.1


@pytest.mark.parametrize("name", OKABE_ITO)
def test_no_colour_vanishes_on_either_page(name):
    assert _contrast(OKABE_ITO[name], LIGHT_PAGE) >= 2.2
    assert _contrast(OKABE_ITO[name], DARK_PAGE) >= 3.0


def test_a_figure_without_words_or_finding_is_refused():
    with pytest.raises(ValueError, match="needs a alt"):
        new_figure("It grows", alt=" ")
    with pytest.raises(ValueError, match="needs a title"):
        new_figure("", alt="a line")


def test_a_figure_made_elsewhere_is_refused():
    import plotly.graph_objects as go

    with pytest.raises(ValueError, match="new_figure"):
        alt_text(go.Figure())


def test_showing_gives_the_picture_and_its_words_without_any_widget(monkeypatch):
    shown = []
    monkeypatch.setattr("helpers.plots.look.display", lambda data, raw: shown.append(data))
    figure = new_figure("It grows", alt="From 1 to <9>.", x="time (s)", y="bytes (B)")
    show(figure)
    picture, words = shown
    assert picture["application/vnd.plotly.v1+json"]["layout"]["meta"]["alt"] == "From 1 to <9>."
    assert picture["text/plain"] == "From 1 to <9>."
    assert "From 1 to &lt;9&gt;." in words["text/html"]


def test_a_bundle_is_plain_json_and_small():
    figure = new_figure("It grows", alt="a line")
    figure.add_scatter(x=[1, 2], y=[3, 4])
    assert len(json.dumps(bundle(figure))) < 20_000


def test_every_plot_module_uses_the_one_look_and_its_colours_only():
    colours = {colour.lower() for colour in OKABE_ITO.values()}
    for module in pkgutil.walk_packages(helpers.plots.__path__, "helpers.plots."):
        if module.ispkg or module.name in ("helpers.plots.look", "helpers.plots.widgets"):  # these show figures
            continue
        text = inspect.getsource(importlib.import_module(module.name))
        assert "new_figure" in text, module.name
        stray = {found.lower() for found in re.findall(r"#[0-9a-fA-F]{6}\b", text)} - colours
        assert not stray, (module.name, stray)
        assert "FigureWidget" not in text, module.name
