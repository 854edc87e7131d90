"""Everything that must hold, in the order in which failures are cheapest: format, lint, sources, tests, notebooks."""

import argparse
import os
import subprocess
import sys

from course.sources import REPOSITORY

STEPS = {
    "format": ["-m", "ruff", "format", "--check", "--quiet", "."],
    "lint": ["-m", "ruff", "check", "--quiet", "."],
    "sources": ["-m", "course", "build", "--check"],
    "lessons": ["-m", "course", "check"],
    "tests": ["-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"],
    "notebooks as given": ["-m", "course", "run", "--offline", "--fresh", "--lesson-timeout", "600"],
    "notebooks solved": ["-m", "course", "run", "--offline", "--fresh", "--solved"],
}


def run_step(name: str, command: list[str], extra: list[str]) -> bool:
    print(f"\n== {name}: python {' '.join(command + extra)}", flush=True)
    environment = {**os.environ, "PYTHONUTF8": "1"}
    return subprocess.call([sys.executable, *command, *extra], cwd=REPOSITORY, env=environment) == 0


def scale_of(step: str, scale: str) -> str:
    """Solved notebooks run at the asked scale, those with blanks no larger than for a check of every cell."""
    return "smoke" if step == "notebooks as given" and scale == "laptop" else scale


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m course test", description="Pass the tests, every notebook included."
    )
    parser.add_argument("--scale", default="laptop", choices=["smoke", "laptop", "full"], help="of the notebooks")
    parser.add_argument("--only", choices=list(STEPS), action="append", help="one step; may be given again")
    options = parser.parse_args(argv)
    failed = []
    for name in options.only or STEPS:
        extra = ["--scale", scale_of(name, options.scale)] if name.startswith("notebooks") else []
        if not run_step(name, STEPS[name], extra):
            failed.append(name)
    print(f"\n{'All steps passed.' if not failed else 'Failed: ' + ', '.join(failed) + '.'}")
    return 1 if failed else 0
