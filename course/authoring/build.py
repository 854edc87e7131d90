"""One source, every reader: ``course/lessons/name.py`` becomes notebooks, byte for byte the same on every run.

    notebooks/NN_name.ipynb        what a learner opens: exercises blank, no outputs; committed
    build/solved/NN_name.ipynb     the same with solutions: what CI runs

NN is the lesson's place in ``syllabus.toml``; it is put before the title, and ``[[name]]`` in prose becomes the title
of that lesson and a link to it. So a lesson that is put in or moved changes no other source. The README's table of
lessons and Binder's requirements are made here too. ``--check`` writes nothing committed and tells what differs.
"""

import argparse
import ast
import hashlib
import re
import shutil
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import nbformat

from course.authoring.readme import fill_readme, fill_requirements
from course.sources import NEW_CELL, REPOSITORY, Cell, cells, read_notebook, sources
from course.syllabus import Lesson, linked, numbered, ready_lessons
from helpers.files import read_text, write_texts

NOTEBOOKS = REPOSITORY / "notebooks"
SOLVED = REPOSITORY / "build" / "solved"
KEPT = REPOSITORY / "build" / "kept"

# What JupyterLab writes when it saves, but for language_info.version, which is another on every machine.
_METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}


def notebook(lesson: Lesson, solved: bool) -> str:
    """A lesson's notebook as text. Raises ValueError, naming file and cell, for a source against the rules."""
    return _notebook(lesson, checked_cells(lesson.source), solved)


def checked_cells(source: Path) -> list[Cell]:
    """The cells of a source. Raises ValueError, naming file and cell, for a source against the rules."""
    found = cells(source)
    check_source(source, found)
    return found


def _notebook(lesson: Lesson, found: list[Cell], solved: bool) -> str:
    made = nbformat.v4.new_notebook(metadata=_METADATA, cells=_notebook_cells(lesson, found, solved))
    made.metadata["course"] = {"cells": cells_hash(cell.source for cell in made.cells)}
    made.nbformat_minor = 5
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def cells_hash(texts: Iterable[str]) -> str:
    """Of the text of all cells: tells a notebook as built from one that somebody has worked in."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "backslashreplace")).hexdigest()


def _notebook_cells(lesson: Lesson, found: list[Cell], solved: bool) -> list:
    made = []
    for cell, name, text in zip(found, cell_ids(found), texts(lesson, found, solved), strict=True):
        metadata = {"tags": list(cell.tags)} if cell.tags else {}
        made.append(NEW_CELL[cell.kind](text, id=name, metadata=metadata))
    return made


def texts(lesson: Lesson, found: list[Cell], solved: bool = False) -> list[str]:
    """What each cell of the notebook holds: lessons numbered and linked, solutions taken out or left in.

    Raises ValueError for a link to a lesson that the syllabus does not have.
    """
    try:
        return [_text(lesson, cell, solved) for cell in found]
    except ValueError as error:
        raise ValueError(f"{lesson.source.name}: {error}") from None


def _text(lesson: Lesson, cell: Cell, solved: bool) -> str:
    if cell.kind == "markdown":
        return numbered(lesson, linked(cell.text))
    return cell.solved if solved else cell.given


def cell_ids(found: list[Cell]) -> list[str]:
    """A stable id for each cell: its tag where it has a telling one, else a hash of its text.

    Not its position: then a cell put in at the top would change the id of every cell below.
    """
    names, seen = [], {}
    for cell in found:
        name = telling_id(cell.tags) or hashlib.sha256(f"{cell.kind}\n{cell.text}".encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


def telling_id(tags: Iterable[str]) -> str | None:
    """The id of a cell with these tags, in the characters and the length that nbformat allows; None without any."""
    told = next((tag for tag in tags if not tag.startswith("points")), "")
    return re.sub(r"[^A-Za-z0-9_-]", "-", told)[:60] or None


def check_source(source: Path, found: list[Cell]) -> None:
    """The rules that make a notebook safe to run with parameters; each violation is a ValueError."""
    parameters = [cell for cell in found if "parameters" in cell.tags]
    if len(parameters) != 1:
        raise ValueError(f"{source.name}: one cell must have the tag 'parameters', found {len(parameters)}")
    for number, cell in enumerate(found):
        where = (
            f"{source.name}, cell {number} ({cell.text.strip().splitlines()[0][:50] if cell.text.strip() else 'empty'})"
        )
        _check_regions(cell, where)
        if cell.kind == "code":
            _check_code(cell, where)
    exercises = [name for cell in found if (name := cell.tag("exercise"))]
    checks = [name for cell in found if (name := cell.tag("check"))]
    if sorted(exercises) != sorted(set(exercises)) or set(exercises) != set(checks):
        raise ValueError(
            f"{source.name}: every exercise has one id and a check: exercises {exercises}, checks {checks}"
        )


def _check_regions(cell: Cell, where: str) -> None:
    begins, ends = cell.text.count("# BEGIN SOLUTION"), cell.text.count("# END SOLUTION")
    if begins != ends or ("SOLUTION" in cell.solved and begins):
        raise ValueError(f"{where}: # BEGIN SOLUTION and # END SOLUTION do not pair up")
    if (cell.tag("exercise") or cell.tag("predict")) and not begins:
        raise ValueError(f"{where}: an exercise or prediction needs a # BEGIN SOLUTION ... # END SOLUTION region")


def _check_code(cell: Cell, where: str) -> None:
    for text in (cell.given, cell.solved):
        try:
            ast.parse(text)
        except SyntaxError as error:
            raise ValueError(f"{where}: not valid Python, line {error.lineno}: {error.msg}") from None
        except ValueError as error:  # a null byte, in Python 3.11
            raise ValueError(f"{where}: not valid Python: {error}") from None
    if "FigureWidget" in cell.text:
        raise ValueError(f"{where}: a FigureWidget puts 5 MB into the notebook: use helpers.plots.widgets.explore")


def targets() -> dict[Path, str]:
    """Every built file and its text."""
    sources()  # a ValueError for one without a row
    made = {}
    for lesson in ready_lessons():
        found = checked_cells(lesson.source)
        made[NOTEBOOKS / f"{lesson.stem}.ipynb"] = _notebook(lesson, found, solved=False)
        made[SOLVED / f"{lesson.stem}.ipynb"] = _notebook(lesson, found, solved=True)
    made[REPOSITORY / "README.md"] = fill_readme(read_text(REPOSITORY / "README.md"))
    made[REPOSITORY / "binder" / "requirements.txt"] = fill_requirements()
    return made


def worked_in(path: Path) -> bool:
    """Whether somebody has changed cells of this notebook since it was built; True too for one that cannot be read."""
    try:
        found = read_notebook(path)
    except (ValueError, OSError):
        return True
    return built_from(found) != cells_hash(cell.source for cell in found.cells)


def built_from(found) -> str | None:
    """The hash of the cells as a notebook was built; None for a notebook that does not say."""
    course = found.metadata.get("course")
    return course.get("cells") if isinstance(course, dict) else None


def keep(path: Path) -> None:
    """Copy a file that somebody has worked in to build/kept/ before it is overwritten; no copy replaces another."""
    copy = KEPT / f"{path.stem}.{datetime.now():%Y%m%d-%H%M%S-%f}{path.suffix}"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, copy)
    print(f"{path.name} was edited; your copy is {copy.relative_to(KEPT.parent.parent)}")


def build() -> list[Path]:
    """Write every target that differs from its text, and remove notebooks without a source. Returns what changed.

    Nothing a learner wrote is lost: a notebook with edited cells is copied to build/kept/ first. Raises ValueError,
    OSError, with nothing written.
    """
    changed = {path: text for path, text in targets().items() if _differs(path, text)}
    gone = orphans()
    for path in [*changed, *gone]:
        if path.parent == NOTEBOOKS and path.exists() and worked_in(path):
            keep(path)
    write_texts(changed)
    for path in gone:
        path.unlink()
    return [*changed, *gone]


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8", errors="replace") != text


def orphans() -> list[Path]:
    """Built notebooks whose source is gone, or has another place now."""
    stems = {lesson.stem for lesson in ready_lessons()}
    return [p for folder in (NOTEBOOKS, SOLVED) for p in folder.glob("[0-9][0-9]_*.ipynb") if p.stem not in stems]


def differing() -> list[Path]:
    """Committed targets that a build would change."""
    made = [path for path, text in targets().items() if SOLVED not in path.parents and _differs(path, text)]
    return made + orphans()


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m course build", description="Make the notebooks from their sources."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a committed file is out of date")
    options = parser.parse_args(argv)
    try:
        stale = differing() if options.check else [path for path in build() if SOLVED not in path.parents]
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in stale:
        print(f"{'out of date' if options.check else 'made'}: {path.relative_to(REPOSITORY)}")
    if options.check:
        return 1 if stale else 0
    print(
        f"{len(sources())} lessons in {NOTEBOOKS.relative_to(REPOSITORY)}/, solved in {SOLVED.relative_to(REPOSITORY)}/"
    )
    return 0
