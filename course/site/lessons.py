"""An executed lesson as a page: plots alive, exercises as a learner finds them, each solution folded below its own."""

import copy

import nbformat
from nbformat import NotebookNode

from course.authoring.build import cell_ids
from course.running.page import PLOT_CLASS, without_widgets
from course.sources import Cell, cells
from course.syllabus import Lesson

_FOLDED = {"mystnb": {"code_prompt_show": "Show the solution", "code_prompt_hide": "Hide the solution"}}


def lesson_page(executed: NotebookNode, lesson: Lesson, words: str) -> NotebookNode:
    """The notebook that Sphinx reads; ``words`` say how it was executed, and stand below the title."""
    written = _by_id(cells(lesson.source))
    page = without_widgets(executed)
    page.cells = [made for cell in page.cells for made in _shown(cell, written)]
    page.cells.insert(1, _caption(lesson.stem, words))
    page.metadata.pop("papermill", None)  # paths of this machine
    return page


def _by_id(found: list[Cell]) -> dict[str, Cell]:
    return dict(zip(cell_ids(found), found, strict=True))


def _shown(cell: NotebookNode, written: dict[str, Cell]) -> list[NotebookNode]:
    """A cell as it is; one with a solution as two, the blank and the solution with what it printed."""
    source = written.get(cell.id)
    cell.metadata.pop("papermill", None)
    if cell.cell_type != "code" or source is None or source.given == source.solved:
        return [cell]
    blank = nbformat.v4.new_code_cell(source.given, id=f"{cell.id}-blank")
    solution = copy.deepcopy(cell)
    drawn = any(PLOT_CLASS in output.get("data", {}).get("text/html", "") for output in cell.outputs)
    fold = "hide-input" if drawn else "hide-cell"  # a figure that is drawn while it is folded has no width
    solution.metadata = {**cell.metadata, **_FOLDED, "tags": [*cell.metadata.get("tags", []), fold]}
    return [blank, nbformat.from_dict(solution)]


def _caption(stem: str, words: str) -> NotebookNode:
    text = (
        f'<p class="run-note">This page was {words}; what it measured, it measured on that machine. '
        f'To work in it, <a href="../notebooks/{stem}.ipynb" download>take the notebook</a> into the course.</p>'
    )
    return nbformat.v4.new_markdown_cell(text, id="caption")
