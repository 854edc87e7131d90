"""The nightly run names the package, its version and what it breaks, in one issue that closes itself."""

import json
import subprocess
import sys

import pytest

from course.upkeep import nightly

LESSON = {"step": "notebooks solved", "name": "04_tokenizer, cell 7"}
TEST = {"step": "tests", "name": "tests/helpers/data/test_languages.py::test_names"}
PASSED = {"row": "locked-3.11", "python": "3.11.9", "failures": [], "moved": {}, "to_blame": []}
FAILED = {
    "row": "highest-3.13",
    "python": "3.13.1",
    "failures": ["tests: tests/a.py::test_b", "notebooks solved: 04_tokenizer"],
    "moved": {"babel": ["2.18.0", "2.19.0"], "rich": ["14.0", "15.0"]},
    "to_blame": ["babel"],
}


@pytest.mark.parametrize("guilty", ["a", "c", "g"])
def test_one_package_to_blame_is_found_in_a_few_runs(guilty):
    asked = []

    def fails(packages):
        asked.append(packages)
        return guilty in packages

    assert nightly.to_blame(list("abcdefg"), fails) == [guilty]
    assert len(asked) <= 7


def test_packages_that_fail_only_together_are_named_together():
    assert nightly.to_blame(list("abcd"), lambda some: {"a", "d"} <= set(some)) == list("abcd")
    assert nightly.to_blame(list("abcd"), lambda some: {"c", "d"} <= set(some)) == list("cd")


def test_what_fails_with_the_pins_alone_is_blamed_on_no_package():
    assert nightly.to_blame(list("abcd"), lambda some: True) == []


def test_moved_packages_are_those_that_are_here_at_another_version():
    here = {"babel": "2.19.0", "torch": "2.13.0", "pip": "26.0"}
    assert nightly.moved({"babel": "2.18.0", "torch": "2.13.0", "sphinx": "9.0"}, here) == {
        "babel": ("2.18.0", "2.19.0")
    }


def test_the_versions_of_this_environment_are_read_without_their_local_part():
    here, pins = nightly.installed(), nightly.pinned(nightly.PINS / "constraints.txt")
    assert here["torch"] == pins["torch"] or "+" not in here["torch"]
    assert len(here.keys() & pins.keys()) > 100


@pytest.mark.parametrize(
    ("failure", "command"),
    [
        (TEST, "pytest -q tests/helpers/data/test_languages.py::test_names"),
        (LESSON, "course run 04 --scale smoke --offline --fresh --solved"),
        ({"step": "notebooks as given", "name": "04_tokenizer"}, "course run 04 --scale smoke --offline --fresh"),
        ({"step": "lint", "name": "lint"}, "course test --only lint"),
    ],
)
def test_a_failure_is_run_again_by_itself(failure, command):
    assert " ".join(nightly.again(failure)) == command


def test_each_question_starts_from_the_pins(monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command[3:] if command[2] == "pip" else command[2:])
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(nightly.subprocess, "run", run)
    fails = nightly.fails_with(TEST, {"a": ("1", "2"), "b": ("3", "4")})
    assert fails(["b"])
    restored, changed, tested = calls
    assert restored[-3:] == ["--no-deps", "a==1", "b==3"]
    assert changed[-1] == "b==4"
    assert "a==2" not in changed
    assert tested[0] == "pytest"


def test_a_record_names_failures_and_what_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(nightly, "pinned", lambda file: {"babel": "2.18.0"})
    monkeypatch.setattr(nightly, "installed", lambda: {"babel": "2.19.0"})
    monkeypatch.setattr(nightly, "fails_with", lambda first, versions: lambda some: bool(some) and first == TEST)
    found = nightly.record("highest", [TEST, LESSON])
    assert found["failures"][0] == f"tests: {TEST['name']}"
    assert found["moved"] == {"babel": ["2.18.0", "2.19.0"]}
    assert found["to_blame"] == ["babel"]
    assert nightly.record("highest", [])["to_blame"] == []


def test_tests_that_ended_before_they_told_are_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr(nightly, "FAILURES", tmp_path / "failures.json")
    assert "ended before" in nightly.failures_of_the_tests()[0]["name"]
    nightly.FAILURES.write_text(json.dumps([LESSON]))
    assert nightly.failures_of_the_tests() == [LESSON]


class GitHub:
    """gh, with the issues that are open."""

    def __init__(self, *numbers: int):
        self.open, self.calls = [{"number": number} for number in numbers], []

    def __call__(self, *words: str) -> str:
        self.calls.append(words)
        return json.dumps(self.open) if words[:2] == ("issue", "list") else ""

    def did(self) -> list[str]:
        return [" ".join(words[:2]) for words in self.calls[1:]]


def test_a_failed_night_opens_one_issue_that_names_package_version_and_what_fails():
    github = GitHub()
    assert nightly.tell([FAILED, PASSED], "failure", "the run", github) == "opened one"
    assert github.did() == ["label create", "issue create"]
    words = github.calls[-1]
    assert words[3] == "The nightly run failed: tests/a.py::test_b with babel 2.19.0"
    assert (
        "`tests: tests/a.py::test_b`, and 1 more; babel 2.19.0 (pinned 2.18.0) is enough to make it fail" in words[-1]
    )
    assert "**locked-3.11** (Python 3.11.9): passed" in words[-1]


def test_the_next_failed_night_adds_to_it():
    github = GitHub(7)
    assert nightly.tell([FAILED], "failure", "the run", github) == "added to 7"
    assert github.did() == ["issue edit", "issue comment"]


def test_a_night_in_which_all_passed_closes_it():
    github = GitHub(7)
    assert nightly.tell([PASSED], "success", "the run", github) == "closed 1"
    assert github.did() == ["issue close"]
    assert nightly.tell([PASSED], "success", "the run", GitHub()) == "closed 0"


def test_a_night_that_ended_before_its_tests_is_said_too():
    github = GitHub()
    nightly.tell([], "cancelled", "the run", github)
    assert "before its tests" in github.calls[-1][3]


def test_several_packages_and_none_are_put_into_words():
    together = {**FAILED, "to_blame": ["babel", "rich"]}
    assert "only together they make it fail: babel 2.19.0 (pinned 2.18.0), rich 15.0" in nightly.describe(together)
    assert "with the pinned versions too" in nightly.describe({**FAILED, "to_blame": []})


def test_the_command_needs_nothing_installed(tmp_path):
    """`issue` runs where nothing was set up: the standard library is enough to get as far as gh."""
    code = "import sys; sys.path.insert(0, '.'); from course.upkeep.nightly import *; print(jobs_in(Path('/nowhere')))"
    answer = subprocess.run([sys.executable, "-S", "-c", code], cwd=nightly.REPOSITORY, capture_output=True, text=True)
    assert answer.stdout == "[]\n", answer.stderr
