"""An executed notebook as one page that works without a network, its plots alive.

nbconvert alone loses every plot (it does not know plotly's format) and fetches what widgets and mathematics need
from four hosts. Here a figure becomes a ``div`` with its data beside it, drawn by one ``plotly.min.js`` that all
pages of a folder share; a widget becomes the figure it showed first; formulas stay as they are typed.
"""

import copy
import json
import os
import re
import shutil
from collections.abc import Iterator
from html import escape
from importlib.util import find_spec
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from pygments.formatters import HtmlFormatter

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"
PLOTLY_JS = Path(find_spec("plotly").origin).parent / "package_data" / "plotly.min.js"

_NOTE = '<p class="note">Interactive controls: open this lesson in JupyterLab.</p>'


def write_page(notebook: Path) -> Path:
    """Write the page beside an executed notebook, and plotly.min.js beside both. Raises OSError, ValueError."""
    page = notebook.with_suffix(".html")
    text = to_html(nbformat.read(notebook, as_version=4))
    if "plotly.min.js" in text:
        _share_plotly(page.with_name("plotly.min.js"))
    page.write_text(text, encoding="utf-8")
    return page


def to_html(notebook: nbformat.NotebookNode) -> str:
    """The page of an executed notebook, which is left as it is."""
    static = without_widgets(notebook)
    exporter = HTMLExporter(
        template_name="basic",
        embed_images=True,
        exclude_anchor_links=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )
    body, _ = exporter.from_notebook_node(static)
    drawn = any(PLOT_CLASS in output.get("data", {}).get("text/html", "") for output in _outputs(static))
    script = '<script src="plotly.min.js"></script>\n<script>' + DRAW + "</script>" if drawn else ""
    return PAGE.format(title=escape(_title(notebook)), highlight=HIGHLIGHT, body=body, script=script)


def without_widgets(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy whose figures are HTML and whose widgets are the pictures that they showed; no widget state."""
    static = copy.deepcopy(notebook)
    state = static.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in static.cells:
        if cell.cell_type == "code":
            cell.outputs = list(_static(cell.outputs, state))
    return static


def _static(outputs: list, state: dict) -> Iterator[nbformat.NotebookNode]:
    for output in outputs:
        data = output.get("data", {})
        view = data.pop(WIDGET_VIEW, None)
        figure = data.pop(PLOTLY, None)
        script = data.pop("application/javascript", None)  # written for JupyterLab: asks a CDN for what it needs
        if script is not None and not data:
            continue
        if view is not None:
            yield nbformat.v4.new_output("display_data", data={"text/html": _NOTE})
        if figure is not None:
            data["text/html"] = _plot(figure)
            yield output
        elif view is not None:
            yield from _static(_captured(view["model_id"], state), state)
        else:
            yield output


def _captured(model: str, state: dict) -> list[nbformat.NotebookNode]:
    """What the Output widgets in and below a widget have caught."""
    values = state.get(model, {}).get("state", {})
    children = [child.removeprefix("IPY_MODEL_") for child in values.get("children", [])]
    below = [output for child in children for output in _captured(child, state)]
    return [nbformat.from_dict(output) for output in values.get("outputs", [])] + below


def _plot(figure: dict) -> str:
    """A figure as a div and, beside it, its data; ``</`` is escaped because it would end the script."""
    layout = figure.get("layout", {})
    height = layout.get("height") or layout.get("template", {}).get("layout", {}).get("height") or 450
    content = {key: figure[key] for key in ("data", "layout", "frames") if key in figure}
    data = json.dumps(content).replace("</", "<\\/")
    words = escape(_words(layout), quote=True)
    return (
        f'<div class="{PLOT_CLASS}" role="img" aria-label="{words}" style="height:{int(height)}px"></div>'
        f'<script type="application/json">{data}</script>'
    )


def _words(layout: dict) -> str:
    """The text alternative that helpers.plots.new_figure asks for, else the title."""
    meta, title = layout.get("meta"), layout.get("title") or {}
    if isinstance(meta, dict) and meta.get("alt"):
        return meta["alt"]
    return (title if isinstance(title, str) else title.get("text")) or "a figure without a description"


def _outputs(notebook: nbformat.NotebookNode) -> Iterator[nbformat.NotebookNode]:
    return (output for cell in notebook.cells for output in cell.get("outputs", []))


def _title(notebook: nbformat.NotebookNode) -> str:
    texts = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = (re.search(r"^# +(.+)$", text, re.MULTILINE) for text in texts)
    return next((match[1].strip() for match in found if match), "Lesson")


def _share_plotly(target: Path) -> None:
    """Copy plotly.min.js; two lessons may do so at once, so the copy gets its name when it is whole."""
    if target.exists() and target.stat().st_size == PLOTLY_JS.stat().st_size:
        return
    part = target.with_suffix(f".{os.getpid()}.part")
    shutil.copyfile(PLOTLY_JS, part)
    os.replace(part, target)


PLOT_CLASS = "plotly-figure"

# A title is one line to plotly: where it is wider than its place, it is broken, and the margin above grows
DRAW = r"""
function breakTitle(layout, width) {
  const title = layout.title?.text ?? "";
  if (title.includes("<") || title.length * 8 < width) return;
  const lines = title.match(new RegExp(`.{1,${Math.max(12, Math.floor(width / 9))}}(?=\\s|$)|\\S+`, "g"));
  layout.title.text = lines.map(line => line.trim()).join("<br>");
  const top = layout.margin?.t ?? layout.template?.layout?.margin?.t ?? 56;
  layout.margin = { ...layout.margin, t: top + 20 * (lines.length - 1) };
}
for (const place of document.querySelectorAll("div.plotly-figure")) {
  const figure = JSON.parse(place.nextElementSibling.textContent);
  breakTitle(figure.layout, place.clientWidth);
  Plotly.newPlot(place, { ...figure, config: { responsive: true, displaylogo: false } });
}
"""

HIGHLIGHT = "\n".join(
    [
        HtmlFormatter(style="default", nobackground=True).get_style_defs(".highlight"),
        "@media (prefers-color-scheme: dark) {",
        HtmlFormatter(style="github-dark", nobackground=True).get_style_defs(".highlight"),
        "}",
    ]
)

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark"><title>{title}</title>
<style>
{highlight}
:root {{ --text: #1d2129; --soft: #5c6370; --line: #d9dce1; --bad: #a83c00; --link: #0056a3; --shade: #f4f5f7;
  --page: #fff; }}
@media (prefers-color-scheme: dark) {{ :root {{ --text: #e4e6ea; --soft: #a2a9b4; --line: #3a3f47; --bad: #ff9a62;
  --link: #7ab8ff; --shade: #23272d; --page: #16191d; }} }}
body {{ max-width: 58rem; margin: 2rem auto 6rem; padding: 0 1.25rem; font: 17px/1.6 system-ui, sans-serif;
  color: var(--text); background: var(--page); }}
h1, h2, h3 {{ line-height: 1.25; margin: 2.25rem 0 .75rem; }} h1 {{ font-size: 1.9rem; margin-top: 1.5rem; }}
h2 {{ font-size: 1.4rem; }} h3 {{ font-size: 1.15rem; }} a {{ color: var(--link); }}
code, pre {{ font: .875rem/1.55 ui-monospace, "DejaVu Sans Mono", monospace; }}
.text_cell_render > :is(p, ul, ol) {{ max-width: 46rem; }}
pre {{ margin: 0; overflow-x: auto; }} img, svg {{ max-width: 100%; }}
.highlight, .text_cell_render pre {{ background: var(--shade); border-radius: 6px; padding: .75rem 1rem;
  margin: .75rem 0 0; }}
.text_cell_render .highlight pre {{ padding: 0; margin: 0; }}
.output_text {{ padding: .6rem 1rem; color: var(--soft); }}
.output_error {{ border-left: 3px solid var(--bad); }} .output_stderr {{ border-left: 3px solid var(--line); }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; font-size: .95rem; }}
th, td {{ padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }}
.note, nav, details {{ color: var(--soft); font-size: .9rem; }} .plotly-figure {{ width: 100%; margin: 1rem 0 .25rem; }}
.ansi-bold {{ font-weight: 600; }} .ansi-red-fg, .ansi-red-intense-fg {{ color: var(--bad); }}
</style></head><body>
<nav><a href="report.html">Report of this run</a></nav>
<main>
{body}
</main>
{script}
</body></html>
"""
