"""Pages for Sphinx to read, and Sphinx over them: myst-nb for the notebooks, furo for the look, no request anywhere."""

import io
import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
from docutils.nodes import document
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from course.authoring.build import NOTEBOOKS
from course.running.page import DRAW, PLOT_CLASS, PLOTLY_JS
from course.site.facts import hardware_page, ledger_page, models_page
from course.site.front import front_page
from course.site.lessons import lesson_page
from course.site.measured import measured_page, parity_page
from course.site.runs import Run
from course.syllabus import ready_lessons

STYLE = Path(__file__).with_name("look.css")
COLOURS = re.compile(r"\x1b\[[\d;]*m")
SETTINGS = {
    "project": "Efficient Engines",
    "html_title": "Efficient Engines",
    "language": "en",
    "extensions": ["myst_nb", "course.site.mathml"],
    "myst_enable_extensions": ["dollarmath", "amsmath"],
    "nb_execution_mode": "off",
    "nb_ipywidgets_js": {},  # from other hosts, for widgets that need a kernel
    "html_theme": "furo",
    "pygments_dark_style": "github-dark",  # furo's own underlines modules, as if they were links
    "html_math_renderer": "mathml",
    "html_static_path": ["static"],
    "html_extra_path": ["extra"],
    "html_css_files": [STYLE.name],
    "html_copy_source": False,
    "html_show_copyright": False,
    "html_show_sphinx": False,
    "html_use_index": False,
}


def build_site(run: Run, target: Path) -> int:
    """Write the whole site, or leave the one that is there. Returns the number of pages.

    Raises ValueError with what Sphinx complains of, or for a record that cannot be read; OSError.
    """
    lessons = {row.stem: lesson_page(run.lesson(row.stem), row, run.in_words) for row in ready_lessons()}
    tables = {"ledger": ledger_page(), "models": models_page(), "hardware": hardware_page()}
    measured = {"parity": parity_page(), "measured": measured_page()}
    return build_pages(lessons, {"index": front_page(), **tables, **measured}, target)


def build_pages(lessons: dict[str, NotebookNode], pages: dict[str, str], target: Path) -> int:
    """The site of these notebooks and Markdown pages. Raises ValueError with Sphinx's complaints, OSError."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "source", Path(folder) / "site"
        write_source(lessons, pages, source)
        run_sphinx(source, made)
        put_in_place(made, target)
    return len(lessons) + len(pages)


def write_source(lessons: dict[str, NotebookNode], pages: dict[str, str], source: Path) -> None:
    """Everything that Sphinx reads, and the notebooks that a reader may take."""
    for name in ("lessons", "static", "extra/notebooks"):
        (source / name).mkdir(parents=True)
    for stem, notebook in lessons.items():
        nbformat.write(notebook, source / "lessons" / f"{stem}.ipynb")
        if (given := NOTEBOOKS / f"{stem}.ipynb").exists():
            shutil.copyfile(given, source / "extra" / "notebooks" / given.name)
    for name, text in pages.items():
        (source / f"{name}.md").write_text(text, encoding="utf-8")
    shutil.copyfile(STYLE, source / "static" / STYLE.name)
    shutil.copyfile(PLOTLY_JS, source / "static" / PLOTLY_JS.name)
    settings = "".join(f"{name} = {value!r}\n" for name, value in SETTINGS.items())
    (source / "conf.py").write_text(settings, encoding="utf-8")
    (source / "static" / "plots.js").write_text(DRAW, encoding="utf-8")


def run_sphinx(source: Path, target: Path) -> None:
    """Build, in this process. Raises ValueError with every warning: a page with a broken link is no page."""
    complaints = io.StringIO()
    environment = source.parent / "environment"
    with patch_docutils(), docutils_namespace():
        app = Sphinx(source, source, target, environment, "html", status=None, warning=complaints)
        app.connect("html-page-context", load_plotly_where_it_is_used)
        app.build()
    if found := COLOURS.sub("", complaints.getvalue()).replace(f"{source}{os.sep}", "").strip():
        raise ValueError(f"the pages are not right:\n{found}")
    (target / ".buildinfo").unlink(missing_ok=True)  # of use to the next build only, and there is none


def load_plotly_where_it_is_used(app: Sphinx, page: str, template: str, context: dict, tree: document | None) -> None:
    """Five megabytes of JavaScript, on the pages that have a figure and on no other."""
    if f'class="{PLOT_CLASS}"' in context.get("body", ""):
        for name in (PLOTLY_JS.name, "plots.js"):
            app.add_js_file(name, loading_method="defer")


def put_in_place(made: Path, target: Path) -> None:
    """The new site instead of the old one. Raises ValueError for a folder that holds something else."""
    if target.exists() and any(target.iterdir()) and not (target / "searchindex.js").exists():
        raise ValueError(f"{target} is not empty and not a site: give --out another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=target.parent
    ) as beside:  # on the same disk, where a move cannot run out of it
        new = shutil.move(made, Path(beside) / "site")
        if target.exists():
            os.replace(target, Path(beside) / "before")
        os.replace(new, target)
