"""Of every exercise in the course: the solution passes, the blank is "not attempted", known wrong answers are refused.

The answers of a lesson are made as a learner makes them: by running the cells of its notebook, given and solved, in
order. Known wrong answers stand in ``tests/course/checks/wrong/NAME.py``.
"""

import ast
import importlib.util
from functools import cache
from pathlib import Path

import pytest

from course.authoring.check import exercises
from course.sources import cells, sources
from course.syllabus import find

WRONG = Path(__file__).parent / "wrong"
EXERCISES = [(lesson, name) for lesson in sources() for name in exercises(lesson)]


@cache
def _answers(lesson: str, solved: bool) -> dict:
    """Exercise id to the learner's answer: each exercise cell run alone, after the cells that import."""
    made = {}
    found = cells(find(lesson).source)
    lines = (line for cell in found if cell.kind == "code" for line in ast.parse(cell.solved).body)
    imports = "\n".join(ast.unparse(line) for line in lines if isinstance(line, ast.Import | ast.ImportFrom))
    for cell in found:
        if name := cell.tag("exercise"):
            scope = {}
            exec(imports, scope)
            exec(cell.solved if solved else cell.given, scope)
            made[name] = _answer(found, name, scope)
    return made


def _answer(found, name, scope):
    """The argument of ``check.name(...)`` in the cell below the exercise."""
    call = next(cell for cell in found if cell.tag("check") == name).solved
    inner = call.strip().splitlines()[-1].split(f"check.{name}(", 1)[1].rsplit(")", 1)[0]
    return eval(inner, scope)


def _wrong(lesson: str) -> dict:
    path = WRONG / f"{lesson}.py"
    spec = importlib.util.spec_from_file_location(f"wrong_{lesson}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.WRONG


@pytest.mark.parametrize(("lesson", "name"), EXERCISES)
def test_the_solution_passes(lesson, name):
    mark, message = exercises(lesson)[name].judge(_answers(lesson, True)[name])
    assert mark == "✓", message


@pytest.mark.parametrize(("lesson", "name"), EXERCISES)
def test_the_blank_is_not_attempted(lesson, name):
    mark, message = exercises(lesson)[name].judge(_answers(lesson, False)[name])
    assert mark == "○", message


@pytest.mark.parametrize(("lesson", "name"), EXERCISES)
def test_three_known_wrong_answers_are_refused_each_with_its_own_message(lesson, name):
    known = _wrong(lesson)[name]
    assert len(known) >= 3
    said = []
    for answer, fragment in known:
        mark, message = exercises(lesson)[name].judge(answer)
        assert mark == "✗", f"accepted: {answer!r}"
        assert fragment in message, message
        said.append(message)
    assert len(set(said)) == len(said), said


@pytest.mark.parametrize(("lesson", "name"), EXERCISES)
@pytest.mark.parametrize("junk", [None, "", [], {}, object(), float("nan"), -1, lambda *a, **k: None])
def test_junk_is_refused_without_an_exception(lesson, name, junk):
    mark, message = exercises(lesson)[name].judge(junk)
    assert mark == "✗", (junk, message)
    assert len(message) < 500


def test_every_lesson_holds_the_rules_of_the_house():
    from course.authoring.check import complaints

    assert {lesson: complaints(lesson) for lesson in sources()} == {lesson: [] for lesson in sources()}
