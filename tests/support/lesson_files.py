"""Tiny lessons for the tests of the runner: no torch, a cell a string."""

from pathlib import Path

import nbformat.v4 as v4
from nbformat import write

from course.running.results import LessonFile, Settings

PARAMETERS = 'scale = "laptop"\ncheckpoint = "zoo"\ndevice = "auto"\nseed = 0'


def lesson(folder: Path, name: str, *cells: str, tag: str = "parameters") -> LessonFile:
    """A notebook ``name``.ipynb: a title, a parameters cell with ``tag``, then the cells; "# ..." is markdown."""
    made = [v4.new_markdown_cell(f"# {name}"), v4.new_code_cell(PARAMETERS, metadata={"tags": [tag]})]
    made += [v4.new_markdown_cell(c) if c.startswith("# ") else v4.new_code_cell(c) for c in cells]
    for number, cell in enumerate(made):
        cell.id = f"cell-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    write(v4.new_notebook(cells=made), folder / f"{name}.ipynb")
    return LessonFile(folder / f"{name}.ipynb")


def settings(folder: Path, **changed) -> Settings:
    """Settings whose runs land in ``folder``."""
    return Settings(root=folder / "run", **changed)
