"""Each lesson in a real JupyterLab: it runs, asks no other host for anything, and its widgets answer the keyboard.

Screenshots of every lesson, light and dark, go to build/screenshots/ for people to look at.
"""

import json
from pathlib import Path

import pytest
from support import browser as lab

from course.authoring.build import notebook, targets
from course.sources import REPOSITORY, sources
from course.syllabus import find

pytestmark = [
    pytest.mark.skipif(lab.chromium() is None, reason="no Chromium on this machine (Debian: apt install chromium)"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # playwright's own sockets at the end of a test
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SMOKE = (r"scale = \"laptop\"", r"scale = \"smoke\"")
SCREENSHOTS = REPOSITORY / "build" / "screenshots"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """One JupyterLab over all lessons, as given and at smoke scale: its address, and a browser."""
    root = tmp_path_factory.mktemp("lessons")
    for path, text in targets().items():
        if path.suffix == ".ipynb" and path.parent.name == "notebooks":
            (root / path.name).write_text(text.replace(*SMOKE), encoding="utf-8")
    with lab.laboratory(root, tmp_path_factory.mktemp("home")) as address, lab.browser() as context:
        yield address, context


@pytest.fixture
def page_of(opened):
    """A function from lesson id to a fresh page with that lesson open. A page left open would disturb the next."""
    address, context = opened
    yield lambda lesson: lab.open_notebook(context, address, f"{find(lesson).stem}.ipynb")
    for page in context.pages:
        page.close()


@pytest.mark.parametrize("lesson", sources())
def test_a_lesson_runs_in_jupyterlab_without_a_complaint(page_of, lesson):
    page = page_of(lesson)
    lab.run_all(page)
    assert lab.errors(page) == []
    assert lab.unfinished(page) == 0
    figures = page.locator(".js-plotly-plot").count()
    assert figures >= 2, "a lesson has a picture and a widget"
    _change_a_control(page)
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        lab.set_theme(page, theme)
        assert lab.photograph(page, SCREENSHOTS, f"{find(lesson).stem}_{theme.split()[1].lower()}")
    assert page.outside == []
    assert page.complaints == []


def _change_a_control(page) -> None:
    """An arrow key on the first slider changes what the widget says; where there is none, a choice in the first menu:
    JupyterLab takes the arrow keys of a menu for itself, to go from cell to cell.
    """
    before = page.locator(".jupyter-widgets [role=status]").first.inner_text()
    handles, menus = page.locator(".jupyter-widgets .noUi-handle"), page.locator(".jupyter-widgets select")
    if handles.count():
        handles.first.scroll_into_view_if_needed()
        handles.first.focus()
        page.keyboard.press(_arrow(handles.first))
    else:
        menus.first.select_option(index=1)
    page.wait_for_function(
        "before => document.querySelector('.jupyter-widgets [role=status]').innerText !== before",
        arg=before,
        timeout=20000,
    )


def _arrow(handle) -> str:
    """The key that moves a slider's handle: back where it stands at the end."""
    now, most = (float(handle.get_attribute(name)) for name in ("aria-valuenow", "aria-valuemax"))
    return "ArrowLeft" if now >= most else "ArrowRight"


def test_the_screenshot_folder_is_not_committed():
    assert "build/" in Path(REPOSITORY, ".gitignore").read_text().split()


def test_saving_a_lesson_that_was_only_opened_changes_no_more_than_the_version_of_python(page_of):
    first = next(iter(sources()))
    page = page_of(first)
    saved = lab.saved(page)
    made = json.loads(notebook(find(first), solved=False).replace(*SMOKE))
    assert saved["metadata"]["language_info"].pop("version")
    assert saved == made
