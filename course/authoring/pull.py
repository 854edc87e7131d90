"""An edit made in JupyterLab comes back into the lesson's source: ``python3 -m course pull LESSON``.

Cells are matched by id, or by their tag. A cell that was not touched keeps its source to the letter; a touched one
brings its text, kind and tags; an exercise cell keeps its solution region where the stub still stands. What was made
is read once more before it is written: a build must give the notebook's cells again, or nothing is written.
"""

import argparse
import copy
import re
import sys
from itertools import zip_longest
from pathlib import Path

import jupytext
import nbformat

from course.authoring.build import NOTEBOOKS, built_from, cell_ids, cells_hash, keep, telling_id, texts
from course.sources import (
    FORMAT,
    NEW_CELL,
    REGION,
    Cell,
    cells,
    cells_of,
    read_notebook,
    read_source,
    stub,
)
from course.syllabus import Lesson, as_written, find
from helpers.files import read_text, write_texts

_HEAD = r"(?m)^[ \t]*#[ \t]*(%%|<codecell>|In\[)"
_WHY = {
    r"[\r\v\f\x1c-\x1e\x85\u2028\u2029]": "it holds a character that ends a line in a source: write its escape",
    _HEAD: "a line that begins with '# %%' is the start of a cell in a source",
    r"(?m)^[ \t]*# (BEGIN|END) SOLUTION": "a solution is written in the source",
    r"\n\Z": "it ends in an empty line, which a source does not hold: take that out",
    r"\A%%": "a source would read '%%' as the magic of a code cell",
}


def pulled(lesson: str) -> str:
    """The lesson's source with the edits of its notebook.

    Raises ValueError, one line that names the cell, where a stub was edited or a cell with a solution is gone (the
    solution belongs in the source), and for what a source cannot hold; OSError for a file that cannot be read.
    """
    found = find(lesson)
    made, edited = read_source(found.source), _edited(found)
    before = cells_of(made)
    known = {name: pair for name, *pair in zip(cell_ids(before), before, made.cells, strict=True)}
    names = [_matching(cell, known) for cell in edited.cells]
    for name, (cell, _) in known.items():
        if name not in names and REGION.search(cell.text):
            raise ValueError(f"cell {_first(cell.text)} is not in the notebook: take it out in the source")
    made.cells = [_cell(cell, *known.get(name, (None, None))) for cell, name in zip(edited.cells, names, strict=True)]
    text = jupytext.writes(made, FORMAT)
    _check_comes_back(text, edited)
    return text


def _edited(lesson: Lesson):
    """The lesson's notebook with its titles and links as a source has them."""
    notebook = read_notebook(_notebook_of(lesson))
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            try:
                cell.source = as_written(lesson, cell.source)
            except ValueError as error:
                raise ValueError(f"cell {number + 1} ({_first(cell.source)}): {error}") from None
    return notebook


def _notebook_of(lesson: Lesson) -> Path:
    return NOTEBOOKS / f"{lesson.stem}.ipynb"


def _matching(edited, known: dict) -> str | None:
    """The name of the source's cell that this one was built from; one that was cut and pasted has its tag only."""
    names = (edited.get("id"), telling_id(edited.metadata.get("tags", ())))
    return next((name for name in names if name in known), None)


def _cell(edited, before: Cell | None, made):
    """The source's cell for a notebook's: ``made`` itself where it is as ``before``, which it was built from."""
    tags = tuple(edited.metadata.get("tags", ()))
    if edited.get("attachments"):
        pictures = ", ".join(edited.attachments)
        raise ValueError(f"cell {_first(edited.source)} has a pasted picture ({pictures}): a source holds text only")
    if before is not None and (edited.source, edited.cell_type, tags) == (before.given, before.kind, before.tags):
        return copy.deepcopy(made)
    text = edited.source if before is None else _with_solutions(edited.source, before)
    metadata = {"tags": list(tags)} if tags else {}
    if before is not None and not text.endswith("\n"):
        metadata |= {key: value for key, value in made.metadata.items() if key != "tags"}  # the empty lines below it
    try:
        return NEW_CELL[edited.cell_type](text, metadata=metadata)
    except nbformat.ValidationError as error:
        raise ValueError(f"cell {_first(edited.source)} has a tag that no notebook may have: {error.message}") from None


def _with_solutions(text: str, before: Cell) -> str:
    """``text`` with each stub replaced by the region that it stood for, in order."""
    regions = list(REGION.finditer(before.text))
    blanks = [stub(region).removesuffix("\n") for region in regions]
    lines = text.split("\n")
    if [line for line in lines if line in blanks] != blanks:
        raise ValueError(
            f"cell {_first(text)}: its stub {blanks[0].strip()!r} was edited; change the solution in the source"
        )
    left = iter(regions)
    return "\n".join(next(left)[0].removesuffix("\n") if line in blanks else line for line in lines)


def _check_comes_back(text: str, edited) -> None:
    """Raise ValueError with every cell that a build would not give again, and why."""
    if lost := _lost(text, edited):
        raise ValueError("; ".join(_complaint(number, edited.cells) for number in lost))


def _lost(text: str, edited) -> list[int]:
    try:
        after = cells_of(jupytext.reads(text.encode("utf-8", "replace").decode(), FORMAT))
    except nbformat.ValidationError:  # a line of a cell was read as the head of another, with tags that none may have
        return [number for number, cell in enumerate(edited.cells) if re.search(_HEAD, cell.source)][:1]
    wanted = [(cell.kind, cell.text, cell.tags) for cell in cells_of(edited)]
    pairs = zip_longest([(cell.kind, cell.given, cell.tags) for cell in after], wanted)
    lost = [number for number, (got, want) in enumerate(pairs) if got != want]
    return lost if len(after) == len(wanted) else lost[:1]  # behind a cell that was split, every cell is another


def _complaint(number: int, found: list) -> str:
    if number >= len(found):
        return "the notebook has fewer cells than a source made of it"
    text = found[number].source
    why = next((why for pattern, why in _WHY.items() if re.search(pattern, text)), "a source cannot hold it as it is")
    return f"cell {number + 1} ({_first(text)}): {why}"


def _first(text: str) -> str:
    return ascii((text.strip().split("\n")[0] or "empty")[:50])


def pull(lesson: str) -> bool:
    """Bring the edits of a lesson's notebook into its source. Returns whether there were any. Raises as ``pulled``."""
    found, text = find(lesson), pulled(lesson)
    path = found.source
    if read_text(path) == text:
        return False
    if built_from(read_notebook(_notebook_of(found))) != cells_hash(texts(found, cells(path))):
        keep(path)  # edited since this notebook was built from it
    write_texts({path: text})
    return True


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m course pull", description="Bring an edit in JupyterLab back.")
    parser.add_argument("lesson", help="its name or its number: dsa, 07")
    lesson = parser.parse_args(argv).lesson
    try:
        changed = pull(lesson)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    name = find(lesson).source.name
    said = "updated from the notebook; look at it with git diff, then python3 -m course build"
    print(f"{name}: {said if changed else 'nothing to bring back'}")
    return 0
