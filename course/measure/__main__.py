"""`python3 -m course measure`: run cases on this machine and record them under `notebooks/measured/`.

    python3 -m course measure --list
    python3 -m course measure --device cuda            whatever has no record of this GPU yet, in eight minutes at most
    python3 -m course measure roofline --again

A case is a function `(device) -> Iterator[Measurement]`, of a CPU or of a GPU (`cases`), in one file for each subject.
A lesson reads the records (`helpers.measure.records`), and what was hoped for stands in `course.measure.goals`.
"""

import argparse
import sys
from pathlib import Path

from course.cli import main as command
from course.measure.cases import cases_for
from course.measure.goals import goals_on, goals_table
from course.measure.run import MINUTES, pending, place_of, run_all
from course.numbers import above_zero
from helpers.device import pick
from helpers.files import make_folder, not_written
from helpers.measure.records import FOLDER


def main(argv: list[str] | None = None) -> int:
    """The command. Returns 0 where every case came to its end; prints a short table last."""
    given = _parser().parse_args(argv)
    if given.list:
        print("\n".join(_listed("cpu") + _listed("cuda")))
        return 0
    try:
        device = pick(given.device)
        unknown = [name for name in given.names if name not in cases_for(device.type)]
        if unknown:
            known = ", ".join(cases_for(device.type))
            raise ValueError(f"case {unknown[0]!r} is unknown for {device.type}: use {known}")
    except ValueError as error:
        print(f"course measure: {error}", file=sys.stderr)
        return 2
    try:
        make_folder(given.out)
    except OSError as error:
        print(f"course measure: {not_written(error, given.out)}", file=sys.stderr)
        return 1
    names = given.names or (list(cases_for(device.type)) if given.again else pending(device, given.out))
    stopped = run_all(names, device, given.out, given.minutes)
    stopped |= _print_goals(place_of(device, given.out), device.type)
    if not names:
        print("nothing is pending: every case has its record (--again measures anew)")
    print("".join(f"{name}: stopped, {why}\n" for name, why in stopped.items()), end="")
    return 1 if stopped else 0


def _print_goals(folder: Path, kind: str) -> dict[str, str]:
    """Print the goals of this kind of device beside what was measured; the reason where a record cannot be read."""
    if not goals_on(kind):
        return {}
    try:
        print(goals_table(folder, kind))
    except ValueError as error:
        return {"goals": str(error)}
    return {}


def _listed(kind: str) -> list[str]:
    where, cases = "GPU" if kind == "cuda" else "CPU", cases_for(kind)
    return [f"{name:19} {where}  {(case.__doc__ or '').splitlines()[0]}" for name, case in cases.items()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m course measure", description="Measure this machine and record it."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases to run (default: those without a record)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, xpu or npu")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--again", action="store_true", help="also those that have a record of this device")
    parser.add_argument("--minutes", type=above_zero, help=f"begin no case after so many (default on a GPU: {MINUTES})")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where records go (default: notebooks/measured)")
    return parser


if __name__ == "__main__":  # where nothing can be set up: a lent GPU, its own packages, no network
    raise SystemExit(command(["measure", *sys.argv[1:]]))
