"""A repository with one small lesson, for the tests of what builds it and pulls it."""

from pathlib import Path

from course import sources
from course.authoring import build, pull

SOURCE = '''# %% [markdown]
# # A small lesson

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


def repository(root: Path, monkeypatch) -> Path:
    """``root`` with the source of lesson `dsa`, where build and pull now look."""
    for folder in ("course/lessons", "notebooks", "build/solved"):
        (root / folder).mkdir(parents=True)
    (root / "course/lessons/07_small.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.setattr(sources, "LESSONS", root / "course" / "lessons")
    monkeypatch.setattr(build, "NOTEBOOKS", root / "notebooks")
    monkeypatch.setattr(build, "SOLVED", root / "build" / "solved")
    monkeypatch.setattr(build, "KEPT", root / "build" / "kept")
    monkeypatch.setattr(pull, "NOTEBOOKS", root / "notebooks")
    return root


def write(house: Path) -> Path:
    """The lesson's notebook, as a build makes it."""
    path = house / "notebooks" / "07_small.ipynb"
    path.write_text(build.notebook(house / "course/lessons/07_small.py", solved=False), encoding="utf-8")
    return path
