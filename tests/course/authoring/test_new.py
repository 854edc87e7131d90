"""``course new``: what it writes works at once, and nothing else in the house has to change."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course.authoring import new
from course.sources import REPOSITORY

LESSON = ["lesson", "toy", "--after", "dsa", "--title", "A toy", "--question", "Does it work?"]
FAMILY = ["family", "glm4_moe_lite", "--like", "deepseek_v3"]
CLASSES = ["--model", "Glm4MoeLiteForCausalLM", "--config", "Glm4MoeLiteConfig"]

MADE = {"__pycache__", ".ruff_cache", "build"}  # by running something


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """A copy of the repository."""
    copy = tmp_path_factory.mktemp("house")
    for name in ("course", "helpers", "tests", "notebooks", "binder"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy2(REPOSITORY / name, copy / name)
    return copy


def run(house: Path, *command: str) -> str:
    """What a Python command says in the copy; it must come to a good end."""
    environment = {**os.environ, "PYTHONPATH": str(house)}
    done = subprocess.run(
        [sys.executable, *command], cwd=house, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def texts(house: Path) -> dict[str, bytes]:
    """Every file that somebody writes."""
    files = (path for path in house.rglob("*") if path.is_file() and not MADE & {*path.parts})
    return {path.relative_to(house).as_posix(): path.read_bytes() for path in files}


def begin(house: Path, *given: str) -> set[str]:
    """Run ``course new``. Which files differ afterwards: those that it names, and no other."""
    before = texts(house)
    said = run(house, "-m", "course", "new", *given).splitlines()
    changed = {name for name, text in texts(house).items() if before.get(name) != text}
    assert changed == {line for line in said if not line.startswith("next: ")}
    return changed


def written_in(house: Path, *names: str) -> None:
    """Put words where the templates wait for a person."""
    for name in names:
        path = house / name
        path.write_text(path.read_text(encoding="utf-8").replace("WRITE: ", ""), encoding="utf-8")


def test_a_new_lesson_is_built_checked_and_passes_its_tests_and_moves_the_others(house):
    changed = begin(house, *LESSON)
    assert len(changed) == 4
    refused = subprocess.run(
        [sys.executable, "-m", "course", "check", "toy"], cwd=house, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(house)},
    )  # fmt: skip
    assert "WRITE: is still there" in refused.stdout
    written_in(house, *changed)
    run(house, "-m", "course", "build")
    assert (house / "notebooks" / "08_toy.ipynb").exists()
    assert (house / "notebooks" / "10_deltanet.ipynb").exists()
    assert not (house / "notebooks" / "09_deltanet.ipynb").exists()
    assert "no complaint(s)" in run(house, "-m", "course", "check")
    tests = ["tests/course/authoring/test_syllabus.py", "tests/course/checks/test_exercises_of_the_lessons.py"]
    run(house, "-m", "pytest", "-q", "-k", "toy or syllabus", *tests)
    assert "1 of 1 lessons passed" in run(house, "-m", "course", "run", "toy", "--solved", "--scale", "smoke")


def test_a_new_case_is_listed_measured_and_recorded(house, tmp_path):
    assert len(begin(house, "case", "toy_product")) == 2
    assert "toy-product" in run(house, "-m", "course", "measure", "--list")
    run(house, "-m", "course", "measure", "toy-product", "--device", "cpu", "--out", str(tmp_path))
    assert (tmp_path / "cpu" / "toy-product.json").exists()


def test_a_new_family_equals_transformers_alone_in_batches_and_in_pieces(house):
    """GLM-4.7-Flash is built as DeepSeek-V3 is, which transformers knows by classes of its own."""
    assert len(begin(house, *FAMILY, *CLASSES)) == 4
    tiny = house / "course" / "parity" / "configs.py"
    row = '"Glm4MoeLiteConfig", DEEPSEEK_V3)'
    assert row in tiny.read_text(encoding="utf-8")
    tiny.write_text(
        tiny.read_text(encoding="utf-8").replace(row, row.replace("DEEPSEEK_V3", "LARGE")), encoding="utf-8"
    )
    run(house, "-m", "pytest", "-q", "-k", "glm4_moe_lite", "tests/helpers/models/test_every_family.py")


def test_the_rooms_hold_with_all_three(house):
    run(house, "-m", "pytest", "-q", "tests/test_rooms.py")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["lesson", "Toy", "--after", "dsa"], "'Toy' is no name for a module"),
        (["lesson", "class", "--after", "dsa"], "'class' is no name for a module"),
        (["lesson", "mla", "--after", "dsa"], "'mla' is there already"),
        (["lesson", "toy", "--after", "toys"], "no lesson 'toys' to stand after; there are roofline"),
        (["case", "roofline"], "'roofline' is there already"),
        (["family", "toy", "--like", "toys", *CLASSES], "no family 'toys' to begin as; there are deepseek_v3"),
    ],
)
def test_what_cannot_be_begun_is_refused_in_one_line_and_nothing_is_written(given, said, capsys, monkeypatch):
    monkeypatch.setattr(new, "write", lambda texts: pytest.fail("something was written"))
    assert new.main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"course new: {said}")
    assert error.count("\n") == 1
