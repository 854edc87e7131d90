"""Results that outlive the session: one JSON file for each machine and case, and no number without one.

`notebooks/measured/<machine>/<name>.json` says what was measured, on what, with which versions, when, how often, and
how much of the machine's own ceiling it reached. A lesson shows the learner's machine first and a record beside it,
labelled as recorded; where there is none it says "not measured yet".

A folder holds the records of one machine; which one, the records say. Another processor's records, the course's own
among them, are neither this machine's nor overwritten by them.
"""

import itertools
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path

from helpers.device import describe, pick
from helpers.files import write_whole
from helpers.measure.roofline import Rate, Roofline
from helpers.units import format_seconds

FOLDER = Path(__file__).parents[2] / "notebooks" / "measured"
FORMAT = 1


@dataclass(frozen=True)
class Measurement:
    """One line of a record. Rates and shares are computed from what stands in it, never typed."""

    label: str  # "matmul", "read", "batch 16"
    dtype: str
    shape: list[int]
    clock: str
    repeats: int
    calls: int
    median_s: float
    q1_s: float
    q3_s: float
    flops: float
    bytes: float
    roofline_share: float | None = None  # the least possible time by the record's roofline, over the median
    scores: dict[str, float] | None = None  # what else is known of the thing that was timed, by name

    @classmethod
    def of(
        cls,
        label: str,
        dtype: str,
        shape: list[int],
        rate: Rate,
        roof: Roofline | None = None,
        scores: dict[str, float] | None = None,
    ) -> "Measurement":
        """`roof` is the ceiling to compare with; None for the lines that define it."""
        work, timing = rate.work, rate.timing
        share = roof and roof.seconds(work) / timing.median_s
        known = dict(flops=work.flops, bytes=work.bytes, roofline_share=share, scores=scores)
        return cls(label, dtype, shape, **asdict(timing), **known)

    @property
    def flops_per_s(self) -> float:
        return self.flops / self.median_s

    @property
    def bytes_per_s(self) -> float:
        return self.bytes / self.median_s


@dataclass(frozen=True)
class Record:
    """One case on one machine. `machine` is `helpers.device.describe()`: device, name, driver, versions."""

    name: str
    machine: dict[str, str | int | None]
    measurements: list[Measurement]
    date: str = field(default_factory=lambda: date.today().isoformat())
    format: int = FORMAT

    def __post_init__(self):
        if not re.fullmatch(r"[a-z0-9-]+", self.name):
            raise ValueError(f"record name {self.name!r}: use lower-case letters, digits and hyphens")
        if not self.measurements:
            raise ValueError(f"record {self.name!r} holds no measurement")

    def find(self, label: str, dtype: str) -> Measurement:
        """The line with this label and dtype. Raises ValueError naming the lines that are there."""
        for line in self.measurements:
            if (line.label, line.dtype) == (label, dtype):
                return line
        there = ", ".join(f"{line.label} {line.dtype}" for line in self.measurements)
        raise ValueError(f"record {self.name!r} has no line {label!r} in {dtype}; it has {there}")

    def roofline(self, dtype: str) -> Roofline:
        """The ceilings that this record measured for a dtype."""
        read, matmul = self.find("read", "float32"), self.find("matmul", dtype)
        return Roofline(str(self.machine["device"]), dtype, read.bytes_per_s, matmul.flops_per_s)


def write_record(record: Record, folder: Path = FOLDER) -> Path:
    """Write the record to its place and return the path. Whole or not at all: a reader never sees half a file.

    Raises OSError that names the file, ValueError for a number that is not finite.
    """
    path = folder_of(record.machine, folder) / f"{record.name}.json"
    write_whole(path, json.dumps(_written(record), indent=1, allow_nan=False) + "\n")
    return path


def _written(record: Record) -> dict:
    """Scores only where there are some."""
    whole = asdict(record)
    for line in whole["measurements"]:
        if line["scores"] is None:
            del line["scores"]
    return whole


def read_record(path: Path) -> Record:
    """Read and check a record. Raises ValueError naming the file and what is wrong with it."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise ValueError(f"format {FORMAT} is expected")
        lines = [_build(Measurement, line) for line in raw.get("measurements", [])]
        return _build(Record, {**raw, "measurements": lines})
    except (OSError, ValueError) as error:
        raise ValueError(f"{Path(path).name} is not a readable record: {error}") from error


def recorded(name: str, folder: Path = FOLDER) -> dict[str, Record]:
    """Every machine's record of this case, by folder, this machine's first; empty where nobody has measured it yet."""
    found = {path.parent.name: read_record(path) for path in sorted(folder.glob(f"*/{name}.json"))}
    mine = [identity(describe(device)) for device in (pick(), "cpu")] if found else []
    return dict(sorted(found.items(), key=lambda item: identity(item[1].machine) not in mine))


def recorded_text(*names: str, folder: Path = FOLDER) -> str:
    """Every machine's record of these cases, a line each for what was timed; "not measured yet" where there is none."""
    found = {name: recorded(name, folder) for name in names}
    return "\n".join("\n".join(map(_told, by.values())) or f"{name}: not measured yet" for name, by in found.items())


def _told(record: Record) -> str:
    head = f"{record.name} on {record.machine['name']}, recorded {record.date}"
    return "\n".join([head, *map(_line, record.measurements)])


def _line(line: Measurement) -> str:
    share = "" if line.roofline_share is None else f", {line.roofline_share:.0%} of the roofline"
    return f"  {line.label:44} {line.dtype:9} {format_seconds(line.median_s):>8}{share}"


def identity(machine: dict) -> tuple:
    """What makes two descriptions (`helpers.device.describe()`) one machine: what the speed of a case depends on.

    A CPU is its name, its cores and its instructions: hypervisors give many processors one name. An accelerator is its
    name: its host only feeds it. Versions are no part of it, `--again` measures with new ones; nor is the memory, of
    which a system keeps a little more or less for itself at each start.
    """
    fields = ("device", "name", "cores", "instructions") if machine["device"] == "cpu" else ("device", "name")
    return tuple(machine.get(field) for field in fields)


def folder_of(machine: dict, folder: Path = FOLDER) -> Path:
    """Where in `folder` this machine's records are, or go: the first of its names that no other machine has taken."""
    places = (folder / name for name in _folder_names(machine))
    return next(place for place in places if not _taken(place, machine))


def _folder_names(machine: dict) -> Iterator[str]:
    """As in "cpu", "cpu-amd-epyc-2-cores", "cpu-amd-epyc-2-cores-2"; or "nvidia-h200"."""
    yield machine_slug(machine)
    full = _slug(f"{machine['device']} {machine.get('name')} {machine.get('cores')} cores")
    yield full
    yield from (f"{full}-{number}" for number in itertools.count(2))


def _taken(place: Path, machine: dict) -> bool:
    """Whether a record in this folder says that it is of another machine."""
    others = (_machine_of(path) for path in place.glob("*.json"))
    return any(other is not None and identity(other) != identity(machine) for other in others)


def _machine_of(path: Path) -> dict | None:
    """What any kind of record says of its machine; None where that cannot be read."""
    try:
        machine = json.loads(path.read_text(encoding="utf-8"))["machine"]
        return machine if "device" in machine else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def machine_slug(machine: dict) -> str:
    """The short name of a machine's folder: "cpu", or the accelerator's name as in "nvidia-h200"."""
    return "cpu" if machine["device"] == "cpu" else _slug(str(machine["name"]))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _build(kind: type, values: object):
    """The dataclass from a JSON object: every field there but `scores`, none besides, each of its type."""
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} must be an object, not {type(values).__name__}")
    names = {f.name for f in fields(kind)}
    if wrong := sorted((names ^ set(values)) - (names & {"scores"})):  # which older records do not have
        raise ValueError(f"{kind.__name__} has missing or unknown fields: {', '.join(wrong)}")
    hints = typing.get_type_hints(kind)
    for name in names & set(values):
        if not _fits(values[name], hints[name]):
            raise ValueError(f"{kind.__name__}.{name} is {values[name]!r}, but must be {hints[name]}")
    return kind(**values)


def _fits(value: object, kind: object) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
