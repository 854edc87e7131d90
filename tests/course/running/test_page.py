"""An executed notebook as a page that needs no network and keeps its plots."""

import json
from html.parser import HTMLParser

import ipywidgets
import nbformat
import nbformat.v4 as v4
import plotly
import plotly.graph_objects as go
import pytest
from ipywidgets.embed import embed_data
from nbconvert import HTMLExporter

from course.running.page import PLOTLY, WIDGET_STATE, WIDGET_VIEW, to_html, without_widgets, write_page
from helpers.plots import bundle, new_figure


def figure(name="a line that rises"):
    return new_figure(name, alt=f"{name}: from 1 to 3").add_scatter(y=[1, 2, 3], name="</script><b>")


def shown(data):
    return v4.new_output("display_data", data=data)


def notebook(*outputs, state=None):
    cell = v4.new_code_cell("show(figure)", execution_count=1, outputs=list(outputs))
    made = v4.new_notebook(cells=[v4.new_markdown_cell("# The roofline\n\nSee [a paper](https://example.org)."), cell])
    if state:
        made.metadata.widgets = {WIDGET_STATE: {"version_major": 2, "version_minor": 0, "state": state}}
    return made


class _Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.loads, self.plots, self.figures, self._in = [], [], [], None
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.loads += [values[name] for name in ("src", "srcset", "data", "poster") if values.get(name)]
        self.loads += [values.get("href")] * (tag == "link")
        self.plots += [values] * (values.get("class") == "plotly-figure")
        self._in = (tag, values.get("type"))

    def handle_endtag(self, tag):
        self._in = None

    def handle_data(self, data):
        if self._in == ("script", "application/json"):
            self.figures.append(json.loads(data))


def test_plain_nbconvert_loses_the_plot_and_loads_from_other_hosts():
    with pytest.warns(UserWarning, match="not able to be represented"):
        html, _ = HTMLExporter().from_notebook_node(notebook(shown({PLOTLY: bundle(figure())[PLOTLY]})))
    assert "a line that rises" not in html  # this is the trap
    assert any(url.startswith("https://") for url in _Page(html).loads)


def test_our_page_keeps_every_plot_and_loads_one_plotly_from_its_own_folder():
    page = _Page(to_html(notebook(shown(bundle(figure())), shown(bundle(figure("another"))))))
    assert page.loads == ["plotly.min.js"]
    assert [made["layout"]["title"]["text"] for made in page.figures] == ["a line that rises", "another"]
    assert page.figures[0]["data"] == json.loads(figure().to_json())["data"]
    assert len(page.plots) == 2


def test_a_plot_is_described_in_words_and_has_its_height():
    (plot,) = _Page(to_html(notebook(shown(bundle(figure()))))).plots
    assert (plot["role"], plot["aria-label"]) == ("img", "a line that rises: from 1 to 3")
    assert plot["style"] == "height:380px"


def test_a_plain_plotly_figure_is_described_by_its_title():
    plain = go.Figure(layout={"title": {"text": "a title"}})
    (plot,) = _Page(to_html(notebook(shown({PLOTLY: json.loads(plain.to_json())})))).plots
    assert plot["aria-label"] == "a title"


def test_a_page_without_plots_needs_no_script():
    html = to_html(notebook(shown({"text/plain": "42"})))
    assert "<script" not in html
    assert "<title>The roofline</title>" in html


def test_javascript_that_asks_a_host_for_more_is_left_out():
    html = to_html(notebook(shown({"application/javascript": "require(['https://example.org/x.js'])"})))
    assert "require(" not in html


def test_a_widget_gives_way_to_the_figure_in_its_own_output():
    data = {WIDGET_VIEW: {"model_id": "1"}, **bundle(figure())}
    page = to_html(notebook(shown(data), state={"1": {"model_name": "VBoxModel", "state": {}}}))
    assert len(_Page(page).plots) == 1
    assert "open this lesson in JupyterLab" in page


def test_a_widget_gives_way_to_what_its_output_caught_and_its_state_is_dropped():
    picture = ipywidgets.Output()
    picture.outputs = ({"output_type": "display_data", "data": bundle(figure("caught")), "metadata": {}},)
    panel = ipywidgets.VBox([ipywidgets.IntSlider(3), ipywidgets.HBox([picture])])
    state = embed_data(views=[panel])["manager_state"]["state"]
    made = notebook(shown({WIDGET_VIEW: {"model_id": panel.model_id}, "text/plain": "VBox"}), state=state)
    static = without_widgets(made)
    assert "widgets" not in static.metadata
    assert WIDGET_VIEW not in nbformat.writes(static)
    assert [made["layout"]["title"]["text"] for made in _Page(to_html(made)).figures] == ["caught"]
    assert "widgets" in made.metadata  # the notebook itself is left as it was


def test_write_page_puts_page_and_plotly_beside_the_notebook(tmp_path):
    path = tmp_path / "03_open_a_model.ipynb"
    nbformat.write(notebook(shown(bundle(figure()))), path)
    assert write_page(path) == tmp_path / "03_open_a_model.html"
    assert write_page(path).stat().st_size < 100_000
    shared = (tmp_path / "plotly.min.js").read_text(encoding="utf-8")
    assert shared == plotly.offline.get_plotlyjs()
    assert not list(tmp_path.glob("*.part"))
