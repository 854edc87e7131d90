"""`python3 -m course parity`: every family that we load, beside transformers, on random weights; a table and a record.

    python3 -m course parity
    python3 -m course parity qwen3 deepseek_v4 --device cuda

A tiny model of transformers with every number random is saved to a folder. transformers reads the folder and runs each
row alone, whole and without a cache: that is the reference, which neither padding nor caching can disturb. We read the
same folder and run all rows as one batch, with and without padding, with and without a cache, in one piece and in many.
All families read text; those that see read images among it as well, and those with a drafter draft.

In float32 no logit may be off by more than ALLOWED. In bfloat16 a token whose experts or chosen positions are a close
call goes one way or the other, so that a single logit may be off by much, ours and transformers' alike. There the root
mean square over all logits is held. Transformers in bfloat16 is at some distance from its own float32 (``rounding``),
and a right bfloat16 of ours at about the same. Errors that have nothing to do with each other add in squares, so that
the two are ROOT_2 of that apart; errors that are alike, because both round the same weights, are nearer.
"""

import argparse
import importlib
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path

import torch

from course.parity.configs import CONFIGS
from course.parity.runs import CACHES, PADDINGS, prompts, reference, run, save_random, tasks
from helpers.checkpoints import load
from helpers.checkpoints.families import FAMILIES
from helpers.compare import kl, max_error, top1_agreement
from helpers.device import describe, pick
from helpers.files import make_folder, not_written, write_whole
from helpers.measure.records import FOLDER, FORMAT, folder_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ALLOWED = 1e-4  # largest error of a logit in float32
ROOT_2 = math.sqrt(2)  # times transformers' own distance between bfloat16 and float32
BOUNDS = {"float32": f"{ALLOWED:g}", "bfloat16": f"{ROOT_2:.2f} times the rounding"}


@dataclass(frozen=True)
class Line:
    """One way to run one family. The reference is transformers in the same dtype."""

    family: str
    task: str
    dtype: str
    cache: str
    padding: str
    max_error: float
    rms_error: float
    kl: float  # nats per token, of ours from the reference
    top1: float  # share of positions with the same most likely token
    logit_rms: float  # how large the numbers are that the error is an error of
    rounding: float  # root mean square of transformers' own difference between this dtype and float32

    @property
    def passes(self) -> bool:
        """Whether the error is within the bound of its dtype; NaN never is."""
        if self.dtype == "float32":
            return self.max_error <= ALLOWED
        return self.rms_error <= ROOT_2 * self.rounding


@dataclass(frozen=True)
class ParityRecord:
    """All lines of one machine, as `notebooks/measured/<machine>/parity.json` holds them."""

    machine: dict[str, str | int | None]
    lines: list[Line]
    name: str = "parity"
    date: str = field(default_factory=lambda: date.today().isoformat())
    format: int = FORMAT


def parity(family: str, device: torch.device) -> Iterator[Line]:
    """Every task, dtype, cache and padding of one family."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save_random(family, Path(folder))
        for task in tasks(family):
            given, exact = prompts(family, task), None
            for dtype_name, dtype in DTYPES.items():
                expected = reference(family, Path(folder), task, dtype, device, given)
                exact = exact or expected
                model = load(folder, dtype, device)
                for cache in CACHES:
                    for padding in PADDINGS:
                        found = run(model, given, task, cache, padding)
                        yield _line((family, task, dtype_name, cache, padding), found, expected, exact)


def _line(way: tuple[str, ...], found: list, expected: list, exact: list) -> Line:
    """Rows that were cut short for padding are compared as far as they go: a causal model says the same there."""
    lengths = [len(row) for row in found]
    ours, theirs, wide = (
        torch.cat([row[:n] for row, n in zip(x, lengths, strict=True)]) for x in (found, expected, exact)
    )
    closeness = max_error(ours, theirs), _rms(ours, theirs), kl(ours, theirs), top1_agreement(ours, theirs)
    return Line(*way, *closeness, _rms(theirs, torch.zeros_like(theirs)), _rms(theirs, wide))


def _rms(a: torch.Tensor, b: torch.Tensor) -> float:
    """Root mean square of the difference."""
    return (a.double() - b.double()).square().mean().sqrt().item()


def write_parity(record: ParityRecord, folder: Path = FOLDER) -> Path:
    """Write the record to its place, whole or not at all, and return the path. Raises OSError that names it."""
    path = folder_of(record.machine, folder) / "parity.json"
    write_whole(path, json.dumps(asdict(record), indent=1, allow_nan=False) + "\n")
    return path


def read_parity(path: Path) -> ParityRecord:
    """Read a record. Raises ValueError naming the file where it is not one."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        return ParityRecord(**{**raw, "lines": [Line(**line) for line in raw["lines"]]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{Path(path).name} is not a readable record of parity: {error}") from error


def table(lines: list[Line]) -> str:
    """A row for each family, task, dtype and cache: the largest error by padding, the worst of the rest.

    `rms` is the error's root mean square, and `rounding` what the dtype does to transformers itself.
    """
    columns = " ".join(f"{name:>8}" for name in ("no pad", "left", "right", "rms", "rounding", "KL", "top-1"))
    head = f"{'family':17} {'task':6} {'dtype':9} {'cache':12} {columns}"
    return "\n".join([head, *(_row(names, group) for names, group in by_padding(lines).items())])


def by_padding(lines: list[Line]) -> dict[tuple[str, str, str, str], list[Line]]:
    """Lines that differ in their padding only, by family, task, dtype and cache."""
    groups: dict[tuple[str, str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.family, line.task, line.dtype, line.cache), []).append(line)
    return groups


def worst(group: list[Line]) -> Line:
    """That of a group whose error is largest beside its rounding."""
    return max(group, key=lambda line: line.rms_error / (line.rounding or 1.0))


def _row(names: tuple[str, str, str, str], group: list[Line]) -> str:
    family, task, dtype, cache = names
    errors = " ".join(f"{line.max_error:8.1e}" for line in group)
    rest = f"{worst(group).rms_error:8.1e} {worst(group).rounding:8.1e} {max(line.kl for line in group):8.1e}"
    mark = "" if all(line.passes for line in group) else f"  more than {BOUNDS[dtype]}"
    agreed = f"{min(line.top1 for line in group):8.1%}"
    return f"{family:17} {task:6} {dtype:9} {cache:12} {errors} {rest} {agreed}{mark}"


def known(names: list[str]) -> list[str]:
    """The families to run. Raises ValueError for one that is not loaded, or that has no tiny model here."""
    for name in names:
        if name not in FAMILIES:
            raise ValueError(f"family {name!r} is unknown: use {', '.join(FAMILIES)}")
    names = names or list(FAMILIES)
    if missing := [name for name in names if name not in CONFIGS]:
        raise ValueError(f"no tiny model of {', '.join(missing)}: course/parity/configs.py needs one")
    return names


def main(argv: list[str] | None = None) -> int:
    """The command. Returns 1 where an error is beyond its bound."""
    parser = argparse.ArgumentParser(
        prog="python3 -m course parity", description="Compare every family with transformers and record it."
    )
    parser.add_argument("names", nargs="*", metavar="FAMILY", help=f"default: all of {', '.join(FAMILIES)}")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, mps, xpu or npu (default: cpu)")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the record goes (default: notebooks/measured)")
    given = parser.parse_args(argv)
    try:
        device, names = pick(given.device), known(given.names)
    except ValueError as error:
        print(f"course parity: {error}", file=sys.stderr)
        return 2
    try:
        return _compare(names, device, None if given.names else given.out)
    except OSError as error:
        print(f"course parity: {not_written(error, given.out)}", file=sys.stderr)
        return 1


def _compare(names: list[str], device: torch.device, out: Path | None) -> int:
    """Print the table; record it in `out` where all pass: neither a failure nor a part replaces a whole record."""
    if out:
        make_folder(out)
    lines = [line for name in names for line in _said(name, device)]
    print(table(lines))
    passed = all(line.passes for line in lines)
    if passed and out:
        path = write_parity(ParityRecord(_machine(device), lines), out)
        print(f"written: {'/'.join(path.parts[-4:])}")
    return 0 if passed else 1


def _said(name: str, device: torch.device) -> list[Line]:
    print(f"  {name}", file=sys.stderr)
    return list(parity(name, device))


def _machine(device: torch.device) -> dict[str, str | int | None]:
    return {**describe(device), "transformers": importlib.import_module("transformers").__version__}
