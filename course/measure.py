"""`python3 -m course measure`: run a case on this machine and record it under `notebooks/measured/`.

    python3 -m course measure --list
    python3 -m course measure roofline --device cuda

A case is a function `(device) -> list[Measurement]`. A lesson reads the records; see `helpers.measure.records`.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from course.measure_dsa import dsa_decode_case
from course.measure_generate import generate_case
from course.measure_moe import moe_case
from course.measure_speculative import speculative_case
from helpers.device import describe, pick
from helpers.measure import (
    Measurement,
    Record,
    Roofline,
    bandwidth,
    batch_sweep,
    cache_ladder,
    matmul_rate,
    name_of,
    write_record,
)
from helpers.measure.records import FOLDER
from helpers.units import format_bytes, format_rate, format_seconds

CPU_DTYPES = [torch.float32, torch.bfloat16]  # never float16: no CPU kernel is made for it
GPU_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
REPEATS = 15


def roofline_case(device: torch.device) -> Iterator[Measurement]:
    """Both ceilings, the ladder of working sets, and one layer at growing batch, by dtype."""
    memory = bandwidth(device, repeats=REPEATS)
    for name, rate in memory.items():
        yield Measurement.of(name, "float32", [int(rate.work.bytes)], rate)
    for size, rate in cache_ladder(device, repeats=REPEATS).items():
        yield Measurement.of(f"working set {size}", "float32", [size], rate)
    for dtype in CPU_DTYPES if device.type == "cpu" else GPU_DTYPES:
        yield from _one_dtype(device, dtype, memory["read"].bytes_per_s)


def _one_dtype(device: torch.device, dtype: torch.dtype, bytes_per_s: float) -> Iterator[Measurement]:
    rate, width = matmul_rate(device, dtype, repeats=REPEATS), _width(device)
    roof = Roofline(device.type, name_of(dtype), bytes_per_s, rate.flops_per_s)
    yield Measurement.of("matmul", name_of(dtype), [round((rate.work.flops / 2) ** (1 / 3))] * 3, rate)
    for batch, point in batch_sweep(device, dtype, width, repeats=REPEATS).items():
        yield Measurement.of(f"batch {batch}", name_of(dtype), [batch, width, width], point, roof)


def _width(device: torch.device) -> int:
    return 8192 if device.type == "cuda" else 4096


CASES: dict[str, Callable[[torch.device], Iterator[Measurement]]] = {
    "roofline": roofline_case,
    "dsa-decode": dsa_decode_case,
    "generate": generate_case,
    "moe": moe_case,
    "speculative": speculative_case,
}


def measure(name: str, device: torch.device, folder: Path = FOLDER) -> tuple[Record, Path]:
    """Run one case and write its record."""
    if name not in CASES:
        raise ValueError(f"case {name!r} is unknown: use {', '.join(CASES)}")
    lines = []
    for line in CASES[name](device):
        lines.append(line)
        print(f"  {line.label} {line.dtype}", file=sys.stderr)
    record = Record(name, {**describe(device), "threads": 1}, lines)
    return record, write_record(record, folder)


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status; prints a short table last."""
    parser = argparse.ArgumentParser(
        prog="python3 -m course measure", description="Measure this machine and record it."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"cases to run (default: all): {', '.join(CASES)}")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps, xpu or npu")
    parser.add_argument("--list", action="store_true", help="list the cases and stop")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where records go (default: notebooks/measured)")
    given = parser.parse_args(argv)
    if given.list:
        print("\n".join(f"{name:12} {(case.__doc__ or '').splitlines()[0]}" for name, case in CASES.items()))
        return 0
    try:
        device = pick(given.device)
        for name in given.names or CASES:
            print(_report(*measure(name, device, given.out)))
    except ValueError as error:
        print(f"course measure: {error}", file=sys.stderr)
        return 2
    return 0


def _report(record: Record, path: Path) -> str:
    machine = record.machine
    head = f"{record.name} on {machine['name']} ({machine['device']}), torch {machine['torch']}, {record.date}"
    return "\n".join([head, *(_row(line) for line in record.measurements), f"written: {'/'.join(path.parts[-4:])}"])


def _row(line: Measurement) -> str:
    rate = f"{format_rate(line.bytes_per_s, 'B/s'):>12} {format_rate(line.flops_per_s, 'FLOP/s'):>16}"
    share = "" if line.roofline_share is None else f"{line.roofline_share:>6.0%} of roofline"
    label = f"working set {format_bytes(line.bytes)}" if line.label.startswith("working set") else line.label
    return f"  {label:22} {line.dtype:9} {format_seconds(line.median_s):>9} {rate}{share}"
