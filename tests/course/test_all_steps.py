"""``course test``: every step is run, and what failed is named at the end, however its step ended."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from course import test as course_test
from course.running.results import Failure
from course.test import Outcome, names_of_failures, summary

PASSING = "def test_good(): assert True\n"
FAILING = """import pytest
def test_noisy():
    print("=========================== short test summary info ============================")
    print("FAILED tests/not_this.py::test_never - only printed")
    print("FAILED 07_dsa, cell 3: only printed")
    assert 1 == 2
@pytest.mark.parametrize("value", ["a - b"])
def test_other(value): assert value == ""
"""


@pytest.fixture
def suite(tmp_path):
    """A folder of tests and how to run them as the step does."""

    def write(**files):
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        for name, text in files.items():
            (tmp_path / f"test_{name}.py").write_text(text)
        return ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", str(tmp_path / "pytest.ini"), str(tmp_path)]

    return write


@pytest.fixture(autouse=True)
def failures(tmp_path, monkeypatch):
    """Where the failures are kept, which is not where the run that this test is part of keeps its own."""
    monkeypatch.setattr(course_test, "FAILURES", tmp_path / "failures.json")
    return tmp_path / "failures.json"


def test_a_program_is_told_the_failures_by_names_that_can_be_run_again(suite, failures):
    tests = course_test.run_step("tests", suite(good=PASSING, bad=FAILING), [])
    lesson = Outcome("notebooks solved", 1, ["FAILED 03_open_a_model, cell 12: the lesson needs too much memory"])
    course_test.keep([tests, lesson, Outcome("lint", 1, []), Outcome("format", 0, [])])
    told = [(one["step"], one["name"].split("::")[-1]) for one in json.loads(failures.read_text())]
    assert told == [
        ("tests", "test_noisy"),
        ("tests", "test_other[a - b]"),
        ("notebooks solved", "03_open_a_model"),
        ("lint", "lint"),
    ]


def test_failures_that_cannot_be_kept_are_said_and_cost_nothing(failures, capsys):
    failures.mkdir()
    course_test.keep([Outcome("lint", 1, [])])
    assert "failures.json cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("extra", [[], ["-n", "2", "--dist", "loadfile"]])
def test_each_failed_test_is_named_with_and_without_xdist(suite, capsys, extra):
    outcome = course_test.run_step("tests", suite(good=PASSING, bad=FAILING), extra)
    assert outcome.status == 1
    assert [name.split(" - ")[0].split("::")[1] for name in outcome.names] == ["test_noisy", "test_other[a"]
    printed = capsys.readouterr().out
    assert "2 failed, 1 passed in" in printed  # pytest's own closing line


def test_a_file_that_cannot_be_collected_is_named(suite):
    outcome = course_test.run_step("tests", suite(good=PASSING, broken="import no_such_module\n"), [])
    assert outcome.status == 2
    (name,) = outcome.names
    assert name.startswith("ERROR ")
    assert "test_broken.py" in name


def test_a_step_that_crashes_before_it_says_anything_is_named_alone(capsys):
    outcome = course_test.run_step("tests", ["-c", "import os; os._exit(7)"], [])
    assert outcome == Outcome("tests", 7, [])
    assert list(summary([outcome], ["tests"])) == [
        "\n== what failed",
        "tests ended with status 7",
        "\nFailed: tests.",
    ]


def test_a_failed_lesson_is_named_with_its_cell():
    failures = [Failure("memory", "MemoryError", "1.50 GB were held", 12), Failure("machinery", "OSError", "no")]
    text = "FAILED  03_open_a_model   3.2 s\n" + "\n".join(f.text("03_open_a_model") for f in failures)
    assert names_of_failures(text) == [
        "FAILED 03_open_a_model, cell 12: the lesson needs too much memory",
        "FAILED 03_open_a_model: the lesson could not be run",
    ]


def test_the_command_runs_the_steps_after_a_failed_one_and_ends_with_what_failed(monkeypatch, capsys):
    failing = "print('FAILED 00_a, cell 2: a cell raised an exception'); print('more\\n' * 500); raise SystemExit(1)"
    steps = {"notebooks": ["-c", failing], "lint": ["-c", "print('✓ fine')"]}
    monkeypatch.setattr(course_test, "STEPS", steps)
    assert course_test.main([]) == 1
    printed = capsys.readouterr().out
    assert "✓ fine" in printed
    assert printed.splitlines()[-5:] == [
        "== what failed",
        "notebooks ended with status 1",
        "    FAILED 00_a, cell 2: a cell raised an exception",
        "",
        "Failed: notebooks.",
    ]
    monkeypatch.setattr(course_test, "STEPS", {"lint": steps["lint"]})
    assert course_test.main([]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "All steps passed."


@pytest.mark.skipif(os.name != "posix", reason="sends the signal that a terminal sends")
def test_ctrl_c_lets_the_step_say_what_failed_so_far_and_names_what_did_not_run(suite, tmp_path):
    waiting = f"import pathlib, time\non = pathlib.Path({str(tmp_path / 'on')!r})\n"
    waiting += "def test_slow():\n    on.touch()\n    time.sleep(60)\n"
    command = suite(a_bad="def test_bad(): assert False\n", b_slow=waiting)
    code = "import sys; from course import test\n"
    code += f"test.STEPS = {{'tests': {command!r}, 'later': ['-c', '']}}; sys.exit(test.main([]))"
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True, encoding="utf-8"
    )
    end = time.monotonic() + 60
    while not (tmp_path / "on").exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    said, _ = run.communicate(timeout=60)
    assert run.returncode == 130
    last = said[said.index("== what failed") :].splitlines()
    assert last[1] == "tests was interrupted"
    assert "test_a_bad.py::test_bad" in last[2]
    assert last[3:] == ["not run: later", "", "Failed: tests."]
