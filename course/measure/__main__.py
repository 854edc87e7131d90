"""`python3 -m course measure`: run cases on this machine and record them under `notebooks/measured/`.

    python3 -m course measure --list
    python3 -m course measure --device cuda            whatever has no record of this GPU yet, in eight minutes at most
    python3 -m course measure roofline --again

A case is a function `(device) -> Iterator[Measurement]`, for CPUs (CASES) or for GPUs (GPU_CASES). One that runs out of
time or memory, or whose two sides disagree, says so and keeps the lines that it has; the others go on. A lesson reads
the records (`helpers.measure.records`), and what was hoped for stands in `course.measure.goals`.
"""

import argparse
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path

import torch

from course.cli import main as command
from course.measure.dsa import dsa_decode_case
from course.measure.generate import generate_case
from course.measure.goals import goals_table
from course.measure.gpu import ceilings
from course.measure.gpu_attention import (
    index_scores_case,
    latent_decode_case,
    sparse_decode_case,
    sparse_layer_case,
    sparse_prompt_case,
)
from course.measure.gpu_blocks import block_sparse_case
from course.measure.gpu_experts import four_bits_case, one_token_case, prompt_case
from course.measure.gpu_linear import delta_prompt_case, few_tokens_case, many_tokens_case
from course.measure.moe import moe_case
from course.measure.quant import quant_case
from course.measure.quantised import quantised_case
from course.measure.speculative import speculative_case
from course.numbers import above_zero
from helpers.device import describe, pick
from helpers.files import make_folder, not_written
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
from helpers.measure.records import FOLDER, folder_of
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


Case = Callable[[torch.device], Iterator[Measurement]]

CASES: dict[str, Case] = {
    "roofline": roofline_case,
    "dsa-decode": dsa_decode_case,
    "generate": generate_case,
    "moe": moe_case,
    "quant": quant_case,
    "quantised-model": quantised_case,
    "speculative": speculative_case,
}
GPU_CASES: dict[str, Case] = {
    "roofline": roofline_case,
    "latent-decode": latent_decode_case,
    "index-scores": index_scores_case,
    "sparse-decode": sparse_decode_case,
    "sparse-prompt": sparse_prompt_case,
    "sparse-layer": sparse_layer_case,
    "block-sparse-prompt": block_sparse_case,
    "linear-few-tokens": few_tokens_case,
    "linear-many-tokens": many_tokens_case,
    "experts-prompt": prompt_case,
    "experts-four-bits": four_bits_case,
    "delta-prompt": delta_prompt_case,
    "experts-one-token": one_token_case,  # last: it tries what a graph may refuse
}
MINUTES = 8


def cases_for(kind: str) -> dict[str, Case]:
    """The cases of a kind of device: "cuda", or any other."""
    return GPU_CASES if kind == "cuda" else CASES


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


def pending(device: torch.device, folder: Path) -> list[str]:
    """The cases of this device that have no record of it yet."""
    there = folder_of(describe(device), folder)
    return [name for name in cases_for(device.type) if not (there / f"{name}.json").exists()]


def main(argv: list[str] | None = None) -> int:
    """The command. Returns 0 where every case came to its end; prints a short table last."""
    given = _parser().parse_args(argv)
    if given.list:
        print("\n".join(_listed("CPU", CASES) + _listed("GPU", GPU_CASES)))
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
    if device.type == "cuda":
        stopped |= _print_goals(folder_of(describe(device), given.out))
    if not names:
        print("nothing is pending: every case has its record (--again measures anew)")
    print("".join(f"{name}: stopped, {why}\n" for name, why in stopped.items()), end="")
    return 1 if stopped else 0


def _print_goals(folder: Path) -> dict[str, str]:
    """Print the goals beside what was measured; the reason where a record in the folder cannot be read."""
    try:
        print(goals_table(folder))
    except ValueError as error:
        return {"goals": str(error)}
    return {}


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


def _listed(where: str, cases: dict[str, Case]) -> list[str]:
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


if __name__ == "__main__":  # where nothing can be set up: a lent GPU, its own packages, no network
    raise SystemExit(command(["measure", *sys.argv[1:]]))
