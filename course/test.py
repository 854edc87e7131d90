"""Everything that must hold, in the order in which failures are cheapest: format, lint, sources, tests, notebooks.

What failed stands at the end once more, by name: thousands of lines can lie between a failure and the end.
"""

import argparse
import codecs
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from course.sources import REPOSITORY
from course.upkeep.nightly import FAILURES
from helpers.files import write_whole

STEPS = {
    "format": ["-m", "ruff", "format", "--check", "--quiet", "."],
    "lint": ["-m", "ruff", "check", "--quiet", "."],
    "sources": ["-m", "course", "build", "--check"],
    "lessons": ["-m", "course", "check"],
    "tests": ["-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"],
    "notebooks as given": ["-m", "course", "run", "--offline", "--fresh", "--lesson-timeout", "600"],
    "notebooks solved": ["-m", "course", "run", "--offline", "--fresh", "--solved"],
}


INTERRUPTED = 130  # what a shell reports after Ctrl-C
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SUMMARY = re.compile(r"^=+ short test summary info =+$", re.M)  # pytest's own list, near the end of what it says
_TEST = re.compile(r"^(?:FAILED|ERROR) .+", re.M)
_LESSON = re.compile(
    r"^FAILED \d\d_\S*?(?:, cell \d+)?: .+", re.M
)  # as course.running.results.Failure begins its report
# Of such a line: a test with its parameters, less pytest's message; or a lesson, less its cell
_NAME = re.compile(r"(?:FAILED |ERROR )?(\d\d_\w+|.+?(?:\[.*?\])?)(?:(?: - |, cell |: ).*)?$")


@dataclass(frozen=True)
class Outcome:
    """How a step ended: its exit status, and the lines that name what failed in it."""

    step: str
    status: int
    names: list[str]


def run_step(name: str, command: list[str], extra: list[str]) -> Outcome:
    """Run a step, its output as it comes. After Ctrl-C, which the step gets too, it may still say how far it was."""
    print(f"\n== {name}: python {' '.join(command + extra)}", flush=True)
    whole, said, status = [sys.executable, *command, *extra], [], 0
    with subprocess.Popen(whole, cwd=REPOSITORY, env=_environment(), stdout=subprocess.PIPE) as process:
        try:
            _pass_on(process, said)
        except KeyboardInterrupt:
            status = INTERRUPTED
            with contextlib.suppress(KeyboardInterrupt):
                _pass_on(process, said)
        process.kill()  # after a second Ctrl-C it may still be there
    return Outcome(name, status or process.returncode, names_of_failures("".join(said)))


def _environment() -> dict[str, str]:
    """Of a step that writes into a pipe, and is read on a terminal where there is one: pytest is told how that is."""
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    if sys.stdout.isatty():
        environment |= {"COLUMNS": str(shutil.get_terminal_size().columns), "PY_COLORS": "1"}
    return environment


def _pass_on(process: subprocess.Popen, said: list[str]) -> None:
    """Print what the step prints, a part of a line as well, and keep it in ``said``, until the step has ended."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")("replace"), translate=True)
    while data := process.stdout.read1(65536):
        said.append(decoder.decode(data))
        print(said[-1], end="", flush=True)
    process.wait()


def names_of_failures(output: str) -> list[str]:
    """The lines of a step's output that name a test or a lesson; what a failed test had printed is none of them."""
    plain = _COLOUR.sub("", output)
    *_, summary = _SUMMARY.split(plain)
    return _TEST.findall(summary) if _SUMMARY.search(plain) else _LESSON.findall(plain)


def summary(outcomes: list[Outcome], asked: list[str]) -> Iterator[str]:
    """What failed, step by step; last the steps in one line."""
    failed = [outcome for outcome in outcomes if outcome.status]
    if failed:
        yield "\n== what failed"
    for outcome in failed:
        ended = "was interrupted" if outcome.status == INTERRUPTED else f"ended with status {outcome.status}"
        yield f"{outcome.step} {ended}"
        yield from (f"    {name}" for name in outcome.names)
    if not_run := asked[len(outcomes) :]:
        yield f"not run: {', '.join(not_run)}"
    names = ", ".join(outcome.step for outcome in failed)
    yield f"\nFailed: {names}." if failed else "\nAll steps passed."


def as_records(outcomes: list[Outcome]) -> list[dict[str, str]]:
    """Each failure as a step and a name that can be run again, for a program; a step without names is its own."""
    return [
        {"step": outcome.step, "name": _NAME.match(name)[1]}
        for outcome in outcomes
        if outcome.status
        for name in outcome.names or [outcome.step]
    ]


def scale_of(step: str, scale: str) -> str:
    """Solved notebooks run at the asked scale, those with blanks no larger than for a check of every cell."""
    return "smoke" if step == "notebooks as given" and scale == "laptop" else scale


def keep(outcomes: list[Outcome]) -> None:
    """Leave the failures in build/ for `course.upkeep.nightly`; no test fails for want of a disk."""
    try:
        write_whole(FAILURES, json.dumps(as_records(outcomes), indent=1))
    except OSError as error:
        print(f"{FAILURES} cannot be written ({error.strerror})", file=sys.stderr)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m course test", description="Pass the tests, every notebook included."
    )
    parser.add_argument("--scale", default="laptop", choices=["smoke", "laptop", "full"], help="of the notebooks")
    parser.add_argument("--only", choices=list(STEPS), action="append", help="one step; may be given again")
    options = parser.parse_args(argv)
    asked, outcomes = list(options.only or STEPS), []
    for name in asked:
        extra = ["--scale", scale_of(name, options.scale)] if name.startswith("notebooks") else []
        outcomes.append(run_step(name, STEPS[name], extra))
        if outcomes[-1].status == INTERRUPTED:
            break
    keep(outcomes)
    print("\n".join(summary(outcomes, asked)))
    statuses = [outcome.status for outcome in outcomes]
    return INTERRUPTED if INTERRUPTED in statuses else int(any(statuses))
