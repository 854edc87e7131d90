"""What the kernels are to reach on a CPU and on a GPU, set down before anything was measured, beside what paper allows.

A goal compares two lines of one record: how many times as fast one is as the other, or which share of its roofline it
reaches. The floor is the same ratio if both sides took the least time that copy and matmul allow, by the formulas of
the cases: with the rates of one H200 before any run, with the machine's own beside a measurement. Where the other side
wastes what no formula counts (one launch after another, a look at the GPU between them) there is no floor.
"""

from dataclasses import dataclass
from pathlib import Path

from helpers import zoo
from helpers.measure import Measurement, Record, Roofline, read_record

H200 = Roofline("cuda", "bfloat16", bytes_per_s=4.3e12, flops_per_s=790e12)  # a copy and a product measured on one


@dataclass(frozen=True)
class Goal:
    """``least``: how many times as fast ``fast`` is to be as ``slow``; without ``slow``, the share of the roofline."""

    case: str
    says: str
    fast: str
    slow: str | None
    least: float
    floor: float | None = None  # of the ratio on an H200, by formula; a test holds it. None: launches decide, not paper
    on: str = "cuda"  # the kind of device


GOALS = [
    Goal("latent-decode", "dense latent decode, share", "ours, 128 heads, batch 32, graph", None, 0.8),
    Goal("index-scores", "index scores, share", "ours, batch 32, graph", None, 0.8),
    Goal(
        "sparse-decode",
        "sparse over dense decode, 128k",
        "sparse, 128 heads, graph",
        "dense, 128 heads, graph",
        3.5,
        5.3,
    ),
    Goal(
        "sparse-decode",
        "the same, index keys of 8 bits",
        "sparse, keys of 8 bits, 128 heads, graph",
        "dense beside 8 bits, 128 heads, graph",
        6,
        9.5,
    ),
    Goal("sparse-layer", "our layer over transformers'", "ours, graph", "transformers", 80),
    Goal("block-sparse-prompt", "block-sparse over flash, 64k", "block-sparse, 65536", "flash, 65536", 7, 9.5),
    Goal("sparse-prompt", "sparse over dense prompt, 32k", "sparse, 32768", "dense, 32768", 1.8, 2.0),
    Goal("sparse-prompt", "sparse over dense prompt, 128k", "sparse, 131072", "dense, 131072", 4, 5.2),
    Goal(
        "linear-few-tokens", "INT4 over 16 bits, 1 token", "int4, 1, graph", "16 bits beside int4, 1, graph", 3.2, 3.5
    ),
    Goal(
        "linear-few-tokens", "INT8 over 16 bits, 1 token", "int8, 1, graph", "16 bits beside int8, 1, graph", 1.8, 2.0
    ),
    Goal("linear-many-tokens", "INT8 both sides, 4096 tokens", "int8 on both sides", "16 bits beside int8", 1.5, 2.0),
    Goal("linear-many-tokens", "FP8 both sides, 4096 tokens", "fp8 on both sides", "16 bits beside fp8", 1.5, 2.0),
    Goal("experts-one-token", "experts over eager, 1 token", "ours beside eager, graph", "transformers eager", 15),
    Goal(
        "experts-one-token",
        "experts over grouped, 1 token",
        "ours beside grouped_mm, graph",
        "transformers grouped_mm, graph",
        4,
    ),
    Goal("experts-prompt", "experts over grouped, 16k", "ours, 16384", "transformers grouped_mm, 16384", 1.3),
    Goal("experts-prompt", "experts at 16k, share", "ours, 16384", None, 0.6),
    Goal("experts-four-bits", "INT4 experts over 16 bits", "int4, 32, graph", "16 bits, 32, graph", 3, 3.55),
]
GOALS += [  # one token through a layer, at both widths of the case
    Goal(
        "quant",
        f"{says}, {width} wide",
        f"{name} of {name} beside {other}, {width}, 1",
        f"{other} of {name} beside {other}, {width}, 1",
        least,
        on="cpu",
    )
    for width in (2048, 4096)
    for says, name, other, least in (
        ("INT4 over 16 bits", "int4", "bfloat16", 3.5),
        ("INT8 over 16 bits", "int8", "bfloat16", 2.0),
        ("INT4 over NF4", "int4", "bitsandbytes nf4", 1.0),
        ("INT8 over LLM.int8", "int8", "bitsandbytes LLM.int8", 10.0),
    )
]
GOALS += [  # whole models that write, steps compiled, beside transformers' generate
    Goal(
        "generate",
        f"{model}, compiled steps",
        f"compiled, {model}",
        f"transformers beside compiled, {model}",
        5,
        on="cpu",
    )
    for model in (name.removeprefix("tiny-") for name in zoo.names())
]


@dataclass(frozen=True)
class Result:
    """A goal beside what a record says of it."""

    goal: Goal
    reached: float
    possible: float | None  # on this machine, by its own ceilings


def result(goal: Goal, record: Record) -> Result | None:
    """None where the record lacks one of the two lines."""
    lines = {line.label: line for line in record.measurements}
    fast, slow = lines.get(goal.fast), lines.get(goal.slow) if goal.slow else None
    if fast is None or (goal.slow and slow is None):
        return None
    if slow is None:
        return Result(goal, fast.roofline_share or 0.0, 1.0)
    possible = None if goal.floor is None else least_s(slow, roof_of(record)) / least_s(fast, roof_of(record))
    return Result(goal, slow.median_s / fast.median_s, possible)


def roof_of(record: Record) -> Roofline:
    """The copy and the product of the run itself."""
    copy, product = (next(x for x in record.measurements if x.label == label) for label in ("copy", "matmul"))
    return Roofline(str(record.machine["device"]), product.dtype, copy.bytes_per_s, product.flops_per_s)


def least_s(line: Measurement, roof: Roofline) -> float:
    """The least time of its work. Eight bits on both sides are multiplied at twice the rate."""
    rate = roof.flops_per_s * (2 if "on both sides" in line.label else 1)
    return max(line.flops / rate, line.bytes / roof.bytes_per_s)


def goals_on(kind: str) -> list[Goal]:
    """The goals of a kind of device, "cpu" or "cuda"."""
    return [goal for goal in GOALS if goal.on == kind]


def verdict(case: str, fast: str, slow: str, ratio: float) -> str:
    """Whether a ratio meets the goal of these two lines; empty where there is none."""
    least = next((g.least for g in GOALS if (g.case, g.fast, g.slow) == (case, fast, slow)), None)
    return "" if least is None else f"the goal of {least:g} is {'met' if ratio >= least else 'missed'}"


def results(folder: Path, kind: str) -> list[tuple[Goal, Result | None]]:
    """Every goal of a kind of device with what the records of one machine's folder say."""
    goals = goals_on(kind)
    found = {path.stem: read_record(path) for path in folder.glob("*.json") if path.stem in {g.case for g in goals}}
    return [(goal, result(goal, found[goal.case]) if goal.case in found else None) for goal in goals]


def goals_table(folder: Path, kind: str) -> str:
    """A line for each goal of a kind of device: what is asked, what paper allows, what was measured."""
    head = f"{'goal':32} {'at least':>9} {'on paper':>9} {'measured':>9}"
    return "\n".join([head, *(_row(goal, found) for goal, found in results(folder, kind))])


def _row(goal: Goal, found: Result | None) -> str:
    floor = goal.floor if found is None else found.possible
    paper = "" if floor is None or goal.slow is None else _number(goal, floor)
    reached = "not yet" if found is None else _number(goal, found.reached)
    verdict = "" if found is None else "  reached" if found.reached >= goal.least else "  missed"
    return f"{goal.says:32} {_number(goal, goal.least):>9} {paper:>9} {reached:>9}{verdict}"


def _number(goal: Goal, number: float) -> str:
    return f"{number:.0%}" if goal.slow is None else f"{number:.1f} x"
