"""A repository with one small lesson, for the tests of what builds it and pulls it."""

from pathlib import Path

from course import syllabus
from course.authoring import build, pull

SOURCE = '''# %% [markdown]
# # A small lesson
#
# After [[early]], before [[late]].

# %% tags=["parameters"]
scale = "laptop"

# %% tags=["exercise:double"]
def double(x):
    """Twice x."""
    # BEGIN SOLUTION
    y = x + x
    return y
    # END SOLUTION

# %% tags=["check:double", "points:2"]
check.double(double)

# %% tags=["exercise:number"]
number = ...
# BEGIN SOLUTION
number = 3
# END SOLUTION

# %% tags=["check:number"]
check.number(number)
'''

ROW = """[[lesson]]
name = "{name}"
title = "A {name} lesson"
part = "Part"
question = "Why?"
minutes = 45
needs = []
objectives = []
claims = []
models = []
"""


def repository(root: Path, monkeypatch) -> Path:
    """``root`` with a syllabus of three, the source of ``small``, its second, and where build and pull now look."""
    for folder in ("course/lessons", "notebooks", "build/solved"):
        (root / folder).mkdir(parents=True)
    (root / "course/lessons/small.py").write_text(SOURCE, encoding="utf-8")
    (root / "course/lessons/syllabus.toml").write_text(rows("early", "small", "late"), encoding="utf-8")
    monkeypatch.setattr(syllabus, "LESSONS", root / "course" / "lessons")
    monkeypatch.setattr(syllabus, "FILE", root / "course" / "lessons" / "syllabus.toml")
    monkeypatch.setattr(build, "NOTEBOOKS", root / "notebooks")
    monkeypatch.setattr(build, "SOLVED", root / "build" / "solved")
    monkeypatch.setattr(build, "KEPT", root / "build" / "kept")
    monkeypatch.setattr(pull, "NOTEBOOKS", root / "notebooks")
    return root


def write(house: Path) -> Path:
    """The lesson's notebook, as a build makes it."""
    path = house / "notebooks" / "01_small.ipynb"
    path.write_text(build.notebook(syllabus.find("small"), solved=False), encoding="utf-8")
    return path


def rows(*names: str) -> str:
    """A syllabus of these lessons, in this order."""
    return "\n".join(ROW.format(name=name) for name in names)
