"""Run cases on this machine one after another, print each and write its record.

A case that runs out of time or memory, or whose two sides disagree, says so and keeps the lines that it has; the others
go on.
"""

import gc
import sys
import time
import traceback
from math import inf
from pathlib import Path

import torch

from course.measure.cases import cases_for
from course.measure.versus import ceilings
from helpers.device import describe
from helpers.files import not_written
from helpers.measure import Measurement, Record, write_record
from helpers.measure.records import FOLDER, folder_of
from helpers.units import format_bytes, format_rate, format_seconds

MINUTES = 8  # on a GPU, which may be lent


def measure(
    name: str, device: torch.device, folder: Path = FOLDER, until: float = inf
) -> tuple[Record, Path | None, str]:
    """Run one case until `time.monotonic()` is `until` and write its record; no path where it cannot be written. The
    text says why that, or lines, are missing; it is empty where the case came to its end.

    Raises ValueError for a case that is not of this device, RuntimeError where there is no line to write.
    """
    cases = cases_for(device.type)
    if name not in cases:
        raise ValueError(f"case {name!r} is unknown for {device.type}: use {', '.join(cases)}")
    lines, missing = [], ""
    try:
        for line in cases[name](device):
            lines.append(line)
            print(f"  {line.label} {line.dtype}", file=sys.stderr)
            if time.monotonic() > until:
                raise TimeoutError("the time is over")
    except Exception as error:  # whatever it is, the other cases go on
        missing = _in_a_line(error)
        release(device)
    if not lines:
        raise RuntimeError(missing or "the case measured nothing")
    if device.type == "cuda" and name != "roofline":
        lines = [*ceilings(device), *lines]
    record = Record(name, {**describe(device), "threads": 1}, lines)
    try:
        return record, write_record(record, folder), missing
    except OSError as error:
        return record, None, not_written(error, folder)


def release(device: torch.device) -> None:
    """Give back what a case left behind, so that the next one finds the memory empty."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def place_of(device: torch.device, folder: Path) -> Path:
    """Where in ``folder`` the records of this device go."""
    return folder_of(describe(device), folder)


def pending(device: torch.device, folder: Path) -> list[str]:
    """The cases of this device that have no record of it yet."""
    there = place_of(device, folder)
    return [name for name in cases_for(device.type) if not (there / f"{name}.json").exists()]


def run_all(names: list[str], device: torch.device, folder: Path, minutes: float | None) -> dict[str, str]:
    """Run the cases one after another and print each record. Those that did not come to their end, and why."""
    allowed = minutes if minutes is not None else MINUTES if device.type == "cuda" else inf
    until, stopped = time.monotonic() + 60 * allowed, {}
    for name in names:
        if time.monotonic() > until:
            stopped[name] = f"the {allowed:g} minutes were over before it began"
            continue
        try:
            record, path, missing = measure(name, device, folder, until)
            print(_report(record, path))
        except RuntimeError as error:
            missing = f"{error}; nothing is recorded"
        if missing:
            stopped[name] = missing
        release(device)
    return stopped


def _in_a_line(error: Exception) -> str:
    """What went wrong, for the table; the whole story goes to stderr."""
    if isinstance(error, TimeoutError):
        return f"{error}; the lines up to here are recorded"
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory; the lines up to here are recorded"
    traceback.print_exception(error, file=sys.stderr)
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:150]}"


def _report(record: Record, path: Path | None) -> str:
    machine = record.machine
    where = "not written" if path is None else f"written: {'/'.join(path.parts[-4:])}"
    head = f"{record.name} on {machine['name']} ({machine['device']}), torch {machine['torch']}, {record.date}"
    return "\n".join([head, *(_row(line) for line in record.measurements), where])


def _row(line: Measurement) -> str:
    rate = f"{format_rate(line.bytes_per_s, 'B/s'):>12} {format_rate(line.flops_per_s, 'FLOP/s'):>16}"
    share = "" if line.roofline_share is None else f"{line.roofline_share:>6.0%} of roofline"
    label = f"working set {format_bytes(line.bytes)}" if line.label.startswith("working set") else line.label
    return f"  {label:22} {line.dtype:9} {format_seconds(line.median_s):>9} {rate}{share}"
