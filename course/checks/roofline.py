"""Checks of lesson `roofline`: intensity, tokens per second, the ridge batch, the fastest chip."""

import math
import random
from numbers import Real

from course.exercise.exercise import Exercise, Wrong, attempt, predict, reveal

__all__ = ["fastest", "matvec_intensity", "predict", "reveal", "ridge_batch", "tokens_per_s"]

_SHAPES = [(3, 2, 4), (1, 1, 4), (4096, 4096, 2), (31, 1000, 4), (5120, 33, 1)]


def _number(function, *args) -> float:
    """The answer for these arguments; Wrong when it is no positive finite number."""
    value = attempt(function, *args)
    if value is None:
        raise Wrong("your function returns nothing: does its last line begin with return?")
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise Wrong(f"one number is expected, and you return {repr(value)[:60]}")
    return float(value)


def _same(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6)


def _everywhere(found: list[float], wrong: list[float]) -> bool:
    """Whether this mistake explains every answer."""
    return all(_same(a, b) for a, b in zip(found, wrong, strict=True))


def _first_wrong(names: str, cases: list[tuple], found: list[float], right: list[float]) -> str:
    """The first case that is not right, in words; the last resort, when no mistake explains every answer."""
    case, yours, ours = next(row for row in zip(cases, found, right, strict=True) if not _same(*row[1:]))
    given = ", ".join(f"{name} = {value:g}" for name, value in zip(names.split(), case, strict=True))
    rounded = "; do not round" if math.isclose(yours, ours, rel_tol=0.01) else ""
    return f"for {given} it should be {ours:.6g}, you have {yours:.6g}{rounded}"


# ------------------------------------------------------------------ warm-up


def _check_matvec_intensity(answer) -> str:
    found = [_number(answer, *shape) for shape in _SHAPES]
    right = [2 * i * o / (size * (i * o + i + o)) for i, o, size in _SHAPES]
    if _everywhere(found, right):
        return "and for wide layers it tends to 2 / bytes_each, whatever the shape"
    if _everywhere(found, [1 / r for r in right]):
        raise Wrong("that is bytes per FLOP: intensity is the other way up")
    if _everywhere(found, [r / 2 for r in right]):
        raise Wrong("each weight costs two operations, a multiplication and an addition: you count one")
    if _everywhere(found, [r * size for r, (_, _, size) in zip(right, _SHAPES, strict=True)]):
        raise Wrong("those are FLOP per number: a number takes bytes_each bytes")
    if _everywhere(found, [2 / size for _, _, size in _SHAPES]):
        raise Wrong("you count the weights only: the vector is read and the result is written too")
    raise Wrong(_first_wrong("inputs outputs bytes_each", _SHAPES, found, right))


matvec_intensity = Exercise(
    "matvec_intensity",
    lesson="roofline",
    check=_check_matvec_intensity,
    hints=[
        "Count twice: first the FLOP (two for each weight), then the bytes (weights, input, output).",
        "There are inputs * outputs weights, and every number takes bytes_each bytes.",
    ],
    minutes=4,
    difficulty=1,
)

# ------------------------------------------------------------------ tokens per second

_MODELS = [(10e9, 16, 25e9), (1e9, 4, 25e9), (37e9, 8, 4.8e12), (7e9, 4.5, 100e9)]


def _check_tokens_per_s(answer) -> str:
    found = [_number(answer, *model) for model in _MODELS]
    right = [rate / (count * bits / 8) for count, bits, rate in _MODELS]
    if _everywhere(found, right):
        return f"a 20 GB model at 25 GB/s writes at most {right[0]:.3g} tokens per second"
    if _everywhere(found, [1 / r for r in right]):
        raise Wrong("those are seconds for a token: tokens per second is the other way up")
    if _everywhere(found, [r / 8 for r in right]):
        raise Wrong("you take bits for bytes: a byte has 8 bits")
    if _everywhere(found, [rate / count for count, _, rate in _MODELS]):
        raise Wrong("you divide by the number of parameters: divide by the bytes that they take")
    if _everywhere(found, [r / 2 for r in right]):
        raise Wrong("2 FLOP per weight do not matter here: each weight is read once, and reading decides")
    raise Wrong(_first_wrong("parameters bits bytes_per_s", _MODELS, found, right))


tokens_per_s = Exercise(
    "tokens_per_s",
    lesson="roofline",
    check=_check_tokens_per_s,
    hints=[
        "To write one token, every weight is read from memory once.",
        "How many bytes is that? How many times a second can the memory deliver so many?",
    ],
    minutes=5,
    difficulty=1,
)

# ------------------------------------------------------------------ the ridge batch

_MACHINES = [(90e9, 25e9, 32), (190e9, 25e9, 16), (989e12, 3.35e12, 16), (989e12, 3.35e12, 4), (148e12, 4e12, 8)]


def _check_ridge_batch(answer) -> str:
    found = [_number(answer, *machine) for machine in _MACHINES]
    right = [flops / rate * bits / 16 for flops, rate, bits in _MACHINES]
    if _everywhere(found, right):
        return f"an H100 with 16-bit weights needs {right[2]:.0f} people at once, with 4-bit weights {right[3]:.0f}"
    if _everywhere(found, [rate / flops * bits / 16 for flops, rate, bits in _MACHINES]):
        raise Wrong("you have bandwidth over FLOP/s: the ridge is FLOP/s over bandwidth")
    if _everywhere(found, [flops / rate for flops, rate, _ in _MACHINES]):
        raise Wrong("that is the ridge itself, in FLOP per byte: how many people give that intensity?")
    if _everywhere(found, [2 * r for r in right]):
        raise Wrong("you count one operation for a weight and person: there are two")
    if _everywhere(found, [r * 8 for r in right]):
        raise Wrong("you take bits for bytes: a byte has 8 bits")
    raise Wrong(_first_wrong("flops_per_s bytes_per_s bits", _MACHINES, found, right))


ridge_batch = Exercise(
    "ridge_batch",
    lesson="roofline",
    check=_check_ridge_batch,
    hints=[
        "Count the weights only: for each person a weight gives 2 FLOP, and it is read once for all of them.",
        "So intensity is 2 * batch / (bits / 8). Set it equal to flops_per_s / bytes_per_s.",
    ],
    minutes=8,
    difficulty=2,
)

# ------------------------------------------------------------------ the fastest chip


def _time(chip: tuple[float, float], flops: float, moved: float) -> float:
    return max(flops / chip[0], moved / chip[1])


_RULES = {
    "you take the slowest chip: the least time wins": lambda c, f, b: -_time(c, f, b),
    "you look at FLOP/s only: at batch 1 the memory decides": lambda c, f, b: -c[0],
    "you look at bandwidth only: for a long prompt the arithmetic decides": lambda c, f, b: -c[1],
    "you add the two times: a chip computes while it reads, so the longer one counts": lambda c, f, b: (
        f / c[0] + b / c[1]
    ),
    "you take the shorter of the two times: the work ends when the longer one ends": lambda c, f, b: min(
        f / c[0], b / c[1]
    ),
}


def _cases() -> list[tuple[dict, float, float]]:
    """Chips and work of all kinds: seeded, and wide enough that every mistaken rule fails somewhere."""
    draw = random.Random(0)
    cases = []
    for _ in range(60):
        chips = {f"chip {n}": (draw.uniform(50, 1000), draw.uniform(1, 10)) for n in range(draw.randint(2, 5))}
        cases.append((chips, 10 ** draw.uniform(0, 4), 10 ** draw.uniform(0, 2)))
    return cases


def _best(rule, case) -> str:
    chips, flops, moved = case
    return min(chips, key=lambda name: rule(chips[name], flops, moved))


def _check_fastest(answer) -> str:
    cases = _cases()
    found = [attempt(answer, dict(chips), flops, moved) for chips, flops, moved in cases]
    for name, (chips, _, _) in zip(found, cases, strict=True):
        if not isinstance(name, str) or name not in chips:
            raise Wrong(f"the name of a chip is expected, and you return {repr(name)[:60]}")
    if found == [_best(_time, case) for case in cases]:
        return f"in {len(cases)} of {len(cases)} cases"
    for message, rule in _RULES.items():
        if found == [_best(rule, case) for case in cases]:
            raise Wrong(message)
    right = sum(name == _best(_time, case) for name, case in zip(found, cases, strict=True))
    raise Wrong(f"right in {right} of {len(cases)} cases: the time on a chip is the longer of its two times")


fastest = Exercise(
    "fastest",
    lesson="roofline",
    check=_check_fastest,
    hints=[
        "A chip needs flops / flops_per_s seconds to compute and moved / bytes_per_s seconds to read.",
        "Both happen at the same time, so the longer of the two is the time of the chip.",
        "min(chips, key=...) gives the name of the chip with the least time.",
    ],
    minutes=10,
    difficulty=3,
)
