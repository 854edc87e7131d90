"""The lesson sources: where they are, and their cells (jupytext's percent format, with tags and solution regions).

A region between ``# BEGIN SOLUTION`` and ``# END SOLUTION`` is the solution. In the notebook that a learner opens it
becomes a stub: ``raise NotImplementedError`` inside a function, and a comment at top level, where the line above
(``answer = ...``) is the blank.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jupytext
import nbformat

from course import syllabus
from helpers.files import read_text

REPOSITORY = Path(__file__).resolve().parents[1]
FORMAT = "py:percent"
NEW_CELL = {
    "code": nbformat.v4.new_code_cell,
    "markdown": nbformat.v4.new_markdown_cell,
    "raw": nbformat.v4.new_raw_cell,
}

REGION = re.compile(r"^(?P<indent>[ \t]*)# BEGIN SOLUTION\n(?P<body>.*?)^[ \t]*# END SOLUTION[ \t]*$\n?", re.S | re.M)
_MARK = re.compile(r"^[ \t]*# (BEGIN|END) SOLUTION[ \t]*$\n?", re.M)
_LINE_END = re.compile(r"[\v\f\x1c-\x1e\x85\u2028\u2029]")  # to str.splitlines, and so to jupytext
_STUB_LINE = {True: 'raise NotImplementedError("your turn")', False: "# your answer above, in place of ..."}


@dataclass(frozen=True)
class Cell:
    """One cell of a source: ``kind`` is "code", "markdown" or "raw"; ``text`` still has its solution regions."""

    kind: str
    text: str
    tags: tuple[str, ...]

    def tag(self, key: str) -> str | None:
        """The value of a ``key:value`` tag, or None."""
        return next((tag.split(":", 1)[1] for tag in self.tags if tag.startswith(key + ":")), None)

    @property
    def given(self) -> str:
        """As a learner opens it: regions replaced by stubs."""
        return REGION.sub(stub, self.text + "\n")[:-1]

    @property
    def solved(self) -> str:
        return _MARK.sub("", self.text + "\n")[:-1]

    @property
    def solution(self) -> str:
        """The solution's own lines."""
        return "\n".join(match["body"].rstrip() for match in REGION.finditer(self.text))


def stub(region: re.Match) -> str:
    """What stands in place of a solution region."""
    indent = region["indent"]
    return f"{indent}{_STUB_LINE[bool(indent)]}\n"


def sources() -> dict[str, Path]:
    """A lesson's name to its source, in the course's order. Raises ValueError for a source that has no place in it."""
    rows = syllabus.syllabus()
    if lost := sorted({path.stem for path in syllabus.LESSONS.glob("*.py")} - {lesson.name for lesson in rows}):
        raise ValueError(f"course/lessons/{lost[0]}.py has no row in {syllabus.FILE.name}: give it one, in its place")
    return {lesson.name: lesson.source for lesson in rows if lesson.ready}


def cells(path: Path) -> list[Cell]:
    """The cells of a source file, in order. Raises as ``read_source``."""
    return cells_of(read_source(path))


def read_source(path: Path):
    """A source as jupytext's notebook. Raises ValueError, one line, for a file that no notebook can be made of."""
    text = read_text(path)
    for number, line in enumerate(text.split("\n"), start=1):
        if found := _LINE_END.search(line):
            raise ValueError(f"{path.name}, line {number}: U+{ord(found[0]):04X} would end the line: write its escape")
    try:
        return jupytext.reads(text, FORMAT)
    except nbformat.ValidationError as error:
        raise ValueError(f"{path.name}: no notebook can be made of it: {error.message}") from None


def cells_of(notebook) -> list[Cell]:
    """The cells of a notebook that jupytext or ``read_notebook`` has read."""
    return [Cell(c.cell_type, c.source, tuple(c.metadata.get("tags", ()))) for c in notebook.cells]


def read_notebook(path: Path):
    """A notebook as nbformat's node, ids and all left as they stand. Raises ValueError, OSError that name the file.

    nbformat's own ``read`` would make new ids for missing ones and repair doubled ones, with a warning each.
    """
    text = read_text(path)
    try:
        found = nbformat.v4.reads(text)
        whole = (
            found.nbformat == 4 and isinstance(found.metadata, dict) and all(_is_whole(cell) for cell in found.cells)
        )
    except (ValueError, TypeError, AttributeError, KeyError):
        whole = False
    if not whole:
        raise ValueError(f"{path} is not a notebook of format 4, or is not whole: open and save it in JupyterLab")
    return found


def _is_whole(cell) -> bool:
    tags = cell.metadata.get("tags", [])
    return (
        cell.cell_type in NEW_CELL
        and isinstance(cell.source, str)
        and isinstance(tags, list)
        and all(isinstance(tag, str) for tag in tags)
    )


@cache
def exercise_cells(lesson: str) -> dict[str, Cell]:
    """Exercise id to its cell."""
    return {name: cell for cell in cells(syllabus.find(lesson).source) if (name := cell.tag("exercise"))}


def solution_of(lesson: str, exercise: str) -> str:
    """The solved text of an exercise. Raises ValueError that names the exercises of that lesson."""
    found = exercise_cells(lesson)
    if exercise not in found:
        raise ValueError(f"lesson {lesson} has no exercise {exercise!r}; it has {', '.join(found) or 'none'}")
    return found[exercise].solved
