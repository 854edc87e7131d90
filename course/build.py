"""One source, every reader: ``course/lessons/NN_name.py`` becomes notebooks, byte for byte the same on every run.

    notebooks/NN_name.ipynb        what a learner opens: exercises blank, no outputs; committed
    build/solved/NN_name.ipynb     the same with solutions: what CI runs

The README's lesson table and Binder's requirements are made here too. ``--check`` writes nothing committed and tells
what differs.
"""

import argparse
import ast
import hashlib
import shutil
import sys
import time
from pathlib import Path

import nbformat

from course.sources import REPOSITORY, Cell, cells, sources
from course.syllabus import fill_readme, fill_requirements

NOTEBOOKS = REPOSITORY / "notebooks"
SOLVED = REPOSITORY / "build" / "solved"
KEPT = REPOSITORY / "build" / "kept"

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def notebook(source: Path, solved: bool) -> str:
    """The notebook of a source as text. Raises ValueError, naming file and cell, for a source against the rules."""
    return _notebook(checked_cells(source), solved)


def checked_cells(source: Path) -> list[Cell]:
    """The cells of a source. Raises ValueError, naming file and cell, for a source against the rules."""
    found = cells(source)
    check_source(source, found)
    return found


def _notebook(found: list[Cell], solved: bool) -> str:
    made = nbformat.v4.new_notebook(metadata=_METADATA, cells=_notebook_cells(found, solved))
    made.metadata["course"] = {"cells": _cells_hash(made)}
    made.nbformat_minor = 5
    nbformat.validate(made)
    return nbformat.writes(made) + "\n"


def _cells_hash(made) -> str:
    """Of the text of all cells: tells a notebook as built from one that somebody has worked in."""
    return hashlib.sha256("\0".join(cell.source for cell in made.cells).encode()).hexdigest()


def _notebook_cells(found: list[Cell], solved: bool) -> list:
    made = []
    for cell, name in zip(found, cell_ids(found), strict=True):
        text = cell.solved if solved else cell.given
        new = nbformat.v4.new_code_cell if cell.kind == "code" else nbformat.v4.new_markdown_cell
        metadata = {"tags": list(cell.tags)} if cell.tags else {}
        made.append(new(text, id=name, metadata=metadata))
    return made


def cell_ids(found: list[Cell]) -> list[str]:
    """A stable id for each cell: its tag where it has a telling one, else a hash of its text.

    Not its position: then a cell put in at the top would change the id of every cell below.
    """
    names, seen = [], {}
    for cell in found:
        told = next((t.replace(":", "-").replace(".", "-") for t in cell.tags if not t.startswith("points")), None)
        name = told or hashlib.sha256(f"{cell.kind}\n{cell.text}".encode()).hexdigest()[:12]
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return names


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
    if "FigureWidget" in cell.text:
        raise ValueError(f"{where}: a FigureWidget puts 5 MB into the notebook: use helpers.widgets.explore")


def targets() -> dict[Path, str]:
    """Every built file and its text."""
    made = {}
    for path in sources().values():
        found = checked_cells(path)
        made[NOTEBOOKS / f"{path.stem}.ipynb"] = _notebook(found, solved=False)
        made[SOLVED / f"{path.stem}.ipynb"] = _notebook(found, solved=True)
    made[REPOSITORY / "README.md"] = fill_readme((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    made[REPOSITORY / "binder" / "requirements.txt"] = fill_requirements()
    return made


def worked_in(path: Path) -> bool:
    """Whether somebody has changed cells of this notebook since it was built; True too for one that cannot be read."""
    try:
        found = nbformat.read(path, as_version=4)
        return found.metadata["course"]["cells"] != _cells_hash(found)
    except Exception:
        return True


def keep(path: Path) -> None:
    """Copy a notebook that somebody has worked in to build/kept/ before it is overwritten."""
    copy = KEPT / f"{path.stem}.{time.strftime('%Y%m%d-%H%M%S')}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, copy)
    print(f"{path.name} was edited; your copy is {copy.relative_to(KEPT.parent.parent)}")


def build() -> list[Path]:
    """Write every target that differs from its text, and remove notebooks without a source. Returns what changed.

    Nothing a learner wrote is lost: a notebook with edited cells is copied to build/kept/ first.
    """
    changed = {path: text for path, text in targets().items() if _differs(path, text)}
    gone = orphans()
    for path in [*changed, *gone]:
        if path.parent == NOTEBOOKS and path.exists() and worked_in(path):
            keep(path)
    for path, text in changed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    for path in gone:
        path.unlink()
    return [*changed, *gone]


def _differs(path: Path, text: str) -> bool:
    return not path.exists() or path.read_text(encoding="utf-8") != text


def orphans() -> list[Path]:
    """Built notebooks whose source is gone."""
    stems = {path.stem for path in sources().values()}
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
