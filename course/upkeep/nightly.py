"""What a night found: the package that moved, its version, and the first lesson or test that no longer passes.

A job of the nightly run installs other versions over the pins and passes the tests. ``record`` writes down what failed
and which package is enough to make it fail; ``issue`` opens one issue for all jobs, adds to it on later nights,
and closes it when every job has passed. The standard library only: the last job installs nothing.
"""

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from course.machine import pinned
from course.pip_install import PINS, REPOSITORY, plain

FAILURES = REPOSITORY / "build" / "failures.json"  # which `course test` writes
LABEL, TITLE = "nightly", "The nightly run failed"
Pairs = dict[str, tuple[str, str]]  # package -> (pinned version, version here)


# ---------------------------------------------------------------- one job: what failed, and what moved


def installed() -> dict[str, str]:
    """Package to its version here; a local part (``+cpu``) does not count."""
    found = ((one.metadata["Name"], one.version) for one in metadata.distributions())
    return {plain(name): version.partition("+")[0] for name, version in found if name}


def moved(pins: dict[str, str], here: dict[str, str]) -> Pairs:
    """The packages that are here at another version than the pinned one."""
    return {name: (pins[name], here[name]) for name in sorted(here.keys() & pins.keys()) if here[name] != pins[name]}


def to_blame(packages: list[str], fails: Callable[[list[str]], bool]) -> list[str]:
    """The package that is enough to make the first failure happen; several where only together they do.

    ``fails(some)``: does it fail with the pins and these packages moved? Asked about twice log2 of their number.
    None is to blame where it fails with the pins alone.
    """
    if fails([]):
        return []
    while len(packages) > 1:
        half = len(packages) // 2
        part = next((part for part in (packages[:half], packages[half:]) if fails(part)), None)
        if part is None:
            break
        packages = part
    return packages


def fails_with(first: dict, versions: Pairs) -> Callable[[list[str]], bool]:
    """Ask for real: install the pins, put some packages at their moved version, and run what failed."""

    def fails(packages: list[str]) -> bool:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", *(f"{name}=={was}" for name, (was, _) in versions.items())], check=True)
        if packages:  # with what they need
            subprocess.run([*pip, *(f"{name}=={versions[name][1]}" for name in packages)], check=True)
        return subprocess.run([sys.executable, "-m", *again(first)], cwd=REPOSITORY).returncode != 0

    return fails


def again(failure: dict) -> list[str]:
    """The command that runs one failure again."""
    if failure["step"] == "tests":
        return ["pytest", "-q", failure["name"]]
    if failure["step"].startswith("notebooks"):
        solved = ["--solved"] * failure["step"].endswith("solved")
        return ["course", "run", failure["name"].split("_")[0], "--scale", "smoke", "--offline", "--fresh", *solved]
    return ["course", "test", "--only", failure["step"]]


def record(row: str, failures: list[dict], blame: bool = True) -> dict:
    """What one job tells the report."""
    versions = moved(pinned(PINS / "constraints.txt"), installed())
    guilty = []
    if failures and versions and blame:
        guilty = to_blame(list(versions), fails_with(failures[0], versions))
    return {
        "row": row,
        "python": platform.python_version(),
        "failures": [f"{one['step']}: {one['name']}" for one in failures],
        "moved": {name: list(pair) for name, pair in versions.items()},
        "to_blame": guilty,
    }


def failures_of_the_tests() -> list[dict]:
    """What `course test` wrote; that it wrote nothing is a failure too."""
    if not FAILURES.exists():
        return [{"step": "tests", "name": "ended before they told what failed"}]
    return json.loads(FAILURES.read_text(encoding="utf-8"))


# ---------------------------------------------------------------- all jobs: one issue


def describe(job: dict) -> str:
    """A line or two of the issue about one job."""
    name = f"**{job['row']}** (Python {job['python']})"
    if not job["failures"]:
        return f"- {name}: passed"
    packages = [f"{one} {job['moved'][one][1]} (pinned {job['moved'][one][0]})" for one in job["to_blame"]]
    if len(packages) == 1:
        cause = f"{packages[0]} is enough to make it fail"
    elif packages:
        cause = f"only together they make it fail: {', '.join(packages[:10])}"
    else:
        cause = "it fails with the pinned versions too"
    more = f", and {len(job['failures']) - 1} more" if len(job["failures"]) > 1 else ""
    return f"- {name}: `{job['failures'][0]}`{more}; {cause}"


def title(jobs: list[dict]) -> str:
    """The package, its version and what fails, of the first job that failed."""
    job = next((job for job in jobs if job["failures"]), None)
    if job is None:
        return f"{TITLE} before its tests"
    what = job["failures"][0].partition(": ")[2]
    cause = (
        f"{job['to_blame'][0]} {job['moved'][job['to_blame'][0]][1]}" if job["to_blame"] else f"{job['row']} versions"
    )
    return f"{TITLE}: {what} with {cause}"


def body(jobs: list[dict], run: str) -> str:
    return "\n".join(
        [f"The reports of every job are among [the artefacts of this run]({run}).", "", *map(describe, jobs)]
    )


def jobs_in(folder: Path) -> list[dict]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.json"))]


def tell(jobs: list[dict], result: str, run: str, gh: Callable[..., str]) -> str:
    """Open, add to or close the issue; returns what was done. ``result``: GitHub's word for all jobs together."""
    numbers = [one["number"] for one in json.loads(gh("issue", "list", "--label", LABEL, "--json", "number"))]
    if result == "success":
        for number in numbers:
            gh("issue", "close", str(number), "--comment", f"Every job [passed]({run}).")
        return f"closed {len(numbers)}"
    if numbers:
        gh("issue", "edit", str(numbers[0]), "--title", title(jobs))
        gh("issue", "comment", str(numbers[0]), "--body", body(jobs, run))
        return f"added to {numbers[0]}"
    gh("label", "create", LABEL, "--force")
    gh("issue", "create", "--title", title(jobs), "--label", LABEL, "--body", body(jobs, run))
    return "opened one"


def gh(*words: str) -> str:
    return subprocess.run(["gh", *words], check=True, capture_output=True, text=True).stdout


# ---------------------------------------------------------------- the command


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python3 -m course.upkeep.nightly", description="What the nightly run found.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    job = verbs.add_parser("record", help="write build/nightly/ROW.json, of the tests that ran here")
    job.add_argument("row", help='the set of versions, such as "highest-3.13"')
    all_jobs = verbs.add_parser("issue", help="open, add to or close the issue, with GitHub's gh")
    all_jobs.add_argument("folder", type=Path, help="where the files of all jobs lie")
    all_jobs.add_argument("--result", required=True, help='"success" where every job passed')
    all_jobs.add_argument("--run", required=True, help="the address of the run")
    options = parser.parse_args(argv)
    if options.verb == "issue":
        print(tell(jobs_in(options.folder), options.result, options.run, gh))
        return 0
    file = REPOSITORY / "build" / "nightly" / f"{options.row}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record(options.row, failures_of_the_tests()), indent=1), encoding="utf-8")
    print(file.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
