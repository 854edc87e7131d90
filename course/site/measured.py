"""What was measured: parity with transformers, and every record of ``notebooks/measured/``; and what was not yet."""

from pathlib import Path

from course.measure.cases import cases_for
from course.measure.goals import goals_on, results
from course.parity.compare import ALLOWED, ROOT_2, Line, ParityRecord, by_padding, read_parity, worst
from course.parity.runs import PADDINGS
from course.site.tables import Row, table
from helpers.checkpoints.families import FAMILIES
from helpers.measure import Measurement, Record
from helpers.measure.records import FOLDER, read_record
from helpers.units import format_bytes, format_rate, format_seconds

NOT_YET = "not measured yet"
PARITY = ("family", "reads", "cache", "verdict", "not padded", "left", "right")
PARITY += ("largest RMS", "rounding", "largest KL", "least top-1")


def parity_page(folder: Path = FOLDER) -> str:
    """A table for each machine. Raises ValueError for a record that cannot be read."""
    found = {path.parent.name: read_parity(path) for path in sorted(folder.glob("*/parity.json"))}
    body = [_parity(record) for record in found.values()] or [f"**{NOT_YET}**: no record of any machine.\n"]
    return f"""# Parity with transformers

Each family has a tiny model with random weights, which transformers writes and reads; our readable code reads the same
folder. transformers runs each row alone, whole and without a cache. Ours runs all rows as one batch: not padded, padded
left or right, with a cache or without, in one piece or in many. All families read text, those that see read images
among it too, and those with a drafter guess the token after the next. An error is the largest of all logits.

In float32 at most {ALLOWED:g} is allowed. In bfloat16 a close call between two experts, or between two positions to
read, goes one way or the other, and a single logit may be off by much. There the root mean square over all logits is
held to {ROOT_2:.2f} times the *rounding*: how far transformers in bfloat16 is from its own float32. Two right answers,
each that far from a third for reasons of its own, are the root of two of it apart. Tokens and weights are random, so
top-1, the share of places with the same most likely token, is no score of a real model. `python3 -m course parity`
makes the record.

{chr(10).join(body)}"""


def _parity(record: ParityRecord) -> str:
    made = [_one_dtype(record, dtype) for dtype in dict.fromkeys(line.dtype for line in record.lines)]
    return "\n".join([f"## {record.machine['name']}\n", *made])


def _one_dtype(record: ParityRecord, dtype: str) -> str:
    groups = by_padding([line for line in record.lines if line.dtype == dtype])
    rows = [_parity_row(group) for group in groups.values()]
    absent = [family for family in FAMILIES if family not in {names[0] for names in groups}]
    rows += [(family, NOT_YET, *[None] * (len(PARITY) - 2)) for family in absent]
    caption = f"Largest error of a logit in {dtype}: {_machine(record.machine)}, {record.date}"
    return f"### {record.machine['name']}, {dtype}\n\n{table(caption, PARITY, rows)}\n"


def _parity_row(group: list[Line]) -> Row:
    errors, most = {line.padding: _error(line.max_error) for line in group}, worst(group)
    in_order = [errors.get(padding, NOT_YET) for padding in PADDINGS]
    closeness = _error(most.rms_error), _error(most.rounding), _error(max(line.kl for line in group))
    agreed = f"{min(line.top1 for line in group):.1%}"
    verdict = "✓" if all(line.passes for line in group) else "✗"
    return most.family, most.task, most.cache, verdict, *in_order, *closeness, agreed


def _error(number: float) -> str:
    return f"{number:.1e}" if number else "0"


def measured_page(folder: Path = FOLDER) -> str:
    """Every record, machine by machine. Raises ValueError for a record that cannot be read."""
    paths = [path for path in sorted(folder.glob("*/*.json")) if path.name != "parity.json"]
    machines: dict[str, dict[str, Record]] = {}
    for path in paths:
        machines.setdefault(path.parent.name, {})[path.stem] = read_record(path)
    kinds = {place: str(next(iter(found.values())).machine["device"]) for place, found in machines.items()}
    goals = [_goals(folder / place, place, kind) for place, kind in kinds.items() if goals_on(kind)]
    goals += [] if "cuda" in kinds.values() else [_goals(folder / "none", "a GPU", "cuda")]
    body = [_records(found) for found in machines.values()] or [f"**{NOT_YET}**: no record of any machine.\n"]
    return f"""# Measured

Speeds and sizes as `python3 -m course measure` recorded them: the median of the repeats and the middle half of them, on
the machine that is named. The share is of that machine's own roofline: the least time in which it could have done the
work. Lessons measure your machine first, and show these beside it.

{chr(10).join(body)}
## Goals

Set down before anything was measured. On paper is what copy and matrix product alone would allow, if both sides took
their least time.

{chr(10).join(goals)}"""


def _goals(folder: Path, where: str, kind: str) -> str:
    columns = ("goal", "at least", "on paper", "measured")
    rows = [
        (
            goal.says,
            _times(goal.least, goal.slow),
            None if goal.floor is None else _times(goal.floor if found is None else found.possible, goal.slow),
            NOT_YET if found is None else _times(found.reached, goal.slow),
        )
        for goal, found in results(folder, kind)
    ]
    return f"{table(f'{len(rows)} goals on {where}', columns, rows)}\n"


def _times(number: float, slow: str | None) -> str:
    return f"{number:.1f} times" if slow else f"{number:.0%}"


def _records(found: dict[str, Record]) -> str:
    first = next(iter(found.values()))
    there = [_record(record) for record in found.values()]
    absent = [
        f"### {name}\n\n**{NOT_YET}** on this machine.\n"
        for name in cases_for(str(first.machine["device"]))
        if name not in found
    ]
    return "\n".join([f"## {first.machine['name']}\n", *there, *absent])


def _record(record: Record) -> str:
    columns = ("what", "dtype", "shape", "median", "middle half", "arithmetic", "memory", "share", "repeats")
    caption = f"{record.name}, {_machine(record.machine)}, {record.date}"
    return f"### {record.name}\n\n{table(caption, columns, map(_measurement, record.measurements))}\n"


def _measurement(line: Measurement) -> Row:
    share = None if line.roofline_share is None else f"{line.roofline_share:.0%}"
    return (
        line.label,
        line.dtype,
        " × ".join(map(str, line.shape)),
        format_seconds(line.median_s),
        f"{format_seconds(line.q1_s)} to {format_seconds(line.q3_s)}",
        format_rate(line.flops_per_s, "FLOP/s") if line.flops else None,
        format_rate(line.bytes_per_s, "B/s") if line.bytes else None,
        share,
        f"{line.repeats} × {line.calls}, {line.clock}",
    )


def _machine(machine: dict) -> str:
    parts = [machine["name"], machine["device"], machine.get("driver") and f"driver {machine['driver']}"]
    parts += [f"threads {machine['threads']}" if machine.get("threads") else None]
    parts += [format_bytes(machine["memory_bytes"]) if machine.get("memory_bytes") else None]
    parts += [f"{name} {machine[name]}" for name in ("python", "torch", "transformers") if machine.get(name)]
    return ", ".join(str(part) for part in parts if part)
