"""The three outcomes of a check, hints and solutions, predictions, and submissions that loop or crash."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from course.exercise.exercise import Exercise, NotPassed, Wrong, attempt, predict, returned, reveal
from course.exercise.learner import LearnerStore, learner_store


def _double(answer):
    for value in (1, 5, -3):
        if attempt(answer, value, seconds=0.5) != 2 * value:
            raise Wrong(f"of {value} it makes {attempt(answer, value)}")
    return "for three numbers"


double = Exercise("double", lesson="roofline", check=_double, hints=["think of a sum", "x + x"])


def blank(x):
    raise NotImplementedError("your turn")


def endless(x):
    while True:
        pass


def stubborn(x):
    while True:
        try:  # noqa: SIM105
            time.sleep(0.01)
        except:  # noqa: E722 - a learner may write this
            pass


@pytest.mark.parametrize(
    ("answer", "mark", "fragment"),
    [
        (lambda x: 2 * x, "✓", "for three numbers"),
        (lambda x: x * x, "✗", "of 1 it makes 1"),
        (blank, "○", "not attempted"),
        (..., "○", "not attempted"),
        (lambda x: 1 / 0, "✗", "ZeroDivisionError"),
        (lambda: 3, "✗", "TypeError"),
        (endless, "✗", "never ends"),
        (stubborn, "✗", "never ends"),
        (lambda x: exit(), "✗", "SystemExit"),
        (7, "✗", "a function is expected"),
        (None, "✗", "a function is expected"),
    ],
)
def test_an_answer_gets_its_mark_and_message(answer, mark, fragment):
    found, message = double.judge(answer)
    assert (found, fragment in message) == (mark, True), message


def test_an_answer_without_a_return_is_wrong_and_zero_is_an_answer():
    assert returned(lambda x: 0 * x, 3) == 0
    with pytest.raises(Wrong, match="is its last line a return"):
        returned(lambda x: None, 3)


def test_a_red_check_never_stops_a_learners_run(capsys):
    double(lambda x: x * x)
    assert "✗ double: of 1" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [lambda x: x, ...])
@pytest.mark.parametrize("variable", ["COURSE_STRICT", "NBGRADER_EXECUTION"])
def test_under_strict_checking_anything_but_a_tick_raises(answer, variable, monkeypatch):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(NotPassed, match="roofline/double"):
        double(answer)


def test_hints_come_one_by_one_and_the_solution_last(capsys, monkeypatch):
    monkeypatch.setattr("course.sources.solution_of", lambda lesson, name: "return 2 * x")
    exercise = Exercise("double", lesson="roofline", check=_double, hints=["think of a sum", "x + x"])
    exercise.solution()
    assert "2 hint(s) left" in capsys.readouterr().out
    for expected in ("Hint 1 of 2: think of a sum", "Hint 2 of 2: x + x", "No more hints"):
        exercise.hint()
        assert expected in capsys.readouterr().out
    exercise.solution()
    assert "return 2 * x" in capsys.readouterr().out


def test_a_prediction_is_stored_and_meets_its_measurement(capsys):
    predict("00.speed", 10, unit="GB/s")
    assert "noted: 10 GB/s" in capsys.readouterr().out
    reveal("00.speed", formula=22, machine=20)
    said = capsys.readouterr().out
    assert "you said: 10 GB/s  (2 times too low)" in said
    assert "the formula says: 22 GB/s" in said
    assert "the machine says: 20 GB/s" in said


def test_a_prediction_survives_the_kernel():
    predict("00.speed", 12.5)
    path = learner_store("predictions").path
    assert LearnerStore(path).get("00.speed")["guess"] == 12.5


@pytest.mark.parametrize(
    ("guess", "said"),
    [(..., "no prediction yet"), ("ten", "one finite number"), (True, "one finite"), (float("nan"), "one finite")],
)
def test_a_blank_or_strange_prediction_is_not_stored(guess, said, capsys):
    predict("00.other", guess)
    assert said in capsys.readouterr().out
    assert learner_store("predictions").get("00.other") is None
    reveal("00.other", machine=3.0)
    assert "you said: nothing yet" in capsys.readouterr().out


def test_a_blank_run_again_keeps_the_earlier_prediction(capsys):
    predict("00.speed", 10, unit="GB/s")
    predict("00.speed", ...)
    assert "your earlier prediction stays: 10 GB/s" in capsys.readouterr().out
    assert learner_store("predictions").get("00.speed")["guess"] == 10


def test_a_damaged_store_is_kept_aside_and_nothing_is_lost(tmp_path, capsys):
    path = tmp_path / "predictions.json"
    path.write_text('{"00.speed": {"gue')
    store = LearnerStore(path)
    store.set("a", 1)
    assert json.loads(path.read_text()) == {"a": 1}
    assert (tmp_path / "predictions.damaged.json").read_text() == '{"00.speed": {"gue'
    assert "kept as predictions.damaged.json" in capsys.readouterr().err


def test_what_was_damaged_before_is_kept_as_well(tmp_path):
    path = tmp_path / "predictions.json"
    for text in ('{"a', '["a list, not an object"]'):
        path.write_text(text)
        LearnerStore(path).set("b", 1)
    assert (tmp_path / "predictions.damaged.json").read_text() == '{"a'
    assert (tmp_path / "predictions.damaged-2.json").read_text() == '["a list, not an object"]'
    assert json.loads(path.read_text()) == {"b": 1}


def test_a_file_that_may_not_be_read_stays_and_what_is_typed_lasts_in_memory(tmp_path, monkeypatch, capsys):
    path, may_read = tmp_path / "predictions.json", Path.read_text
    path.write_text('{"theirs": 1}')

    def read_text(self, **named):
        if self == path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return may_read(self, **named)

    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(os, "access", lambda *_: False)
    store = LearnerStore(path)
    store.set("a", 1)
    store.set("b", 2)
    assert store.all() == {"a": 1, "b": 2}
    assert path.read_bytes() == b'{"theirs": 1}'
    assert list(tmp_path.iterdir()) == [path]
    assert capsys.readouterr().err == f"kept in memory only: {path} cannot be read (Permission denied)\n"


@pytest.mark.parametrize("text", ['{"theirs": 1}', '{"damaged'])
def test_a_file_that_may_be_read_and_not_written_is_neither_replaced_nor_renamed(tmp_path, monkeypatch, capsys, text):
    path = tmp_path / "predictions.json"
    path.write_text(text)
    monkeypatch.setattr(os, "access", lambda *_: False)
    store = LearnerStore(path)
    store.set("a", 1)
    assert store.get("a") == 1
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kept in memory only: {path} ")


def test_without_a_disk_a_prediction_lasts_in_memory(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    store = LearnerStore(tmp_path / "file" / "predictions.json")
    store.set("a", 1)
    assert store.get("a") == 1
    assert "kept in memory only" in capsys.readouterr().err


def test_two_notebooks_do_not_overwrite_each_other(tmp_path):
    first, second = LearnerStore(tmp_path / "p.json"), LearnerStore(tmp_path / "p.json")
    first.set("a", 1)
    second.set("b", 2)
    assert LearnerStore(tmp_path / "p.json").all() == {"a": 1, "b": 2}


def test_a_prediction_stored_under_the_number_of_its_lesson_is_still_found(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_LEARNER", str(tmp_path))
    learner_store("predictions").set("08.exact", {"guess": 12.0, "unit": "pairs"})  # deltanet had the number 08
    learner_store("predictions").set("10.share", {"guess": 3.0, "unit": "%"})  # what_came_next has the number 10 now
    predict("deltanet.exact", ..., unit="pairs")
    assert "your earlier prediction stays: 12 pairs" in capsys.readouterr().out
    predict("what_came_next.share", ..., unit="%")
    assert "no prediction yet" in capsys.readouterr().out
    predict("deltanet.exact", 16, unit="pairs")
    reveal("deltanet.exact", machine=16.0, unit="pairs")
    assert "you said: 16 pairs  (within 10 %)" in capsys.readouterr().out
    assert learner_store("predictions").get("08.exact")["guess"] == 12.0
