"""Checks of lesson `mtp`: tokens per pass, shifts, what sharing saves, the loss, the depth."""

import math
import random

import torch
from torch import Tensor

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal

__all__ = ["depth", "predict", "reveal", "shared", "shift", "tokens", "weight"]


def _number(got, what: str) -> float:
    if isinstance(got, bool) or not isinstance(got, (int, float)) or not math.isfinite(got):
        raise Wrong(f"{what} is one number, and this is {str(got)[:40]}")
    return got


def _name(got: float, right: float, mistakes: list[tuple[float, str]], otherwise: str) -> None:
    """Raise Wrong with the name of the mistake, unless the number is right."""
    if math.isclose(got, right, rel_tol=1e-6, abs_tol=1e-9):
        return
    for wrong, message in mistakes:
        if math.isclose(got, wrong, rel_tol=1e-6, abs_tol=1e-9):
            raise Wrong(message)
    raise Wrong(f"{otherwise}: {right:.6g}, not {got:.6g}")


# The warm-up: tokens per pass.


def _check_tokens(answer):
    for p, n in [(0.58, 3), (0.875, 1), (0.3, 2), (0.9, 4), (1.0, 3), (0.0, 2), (0.5, 0)]:
        got = _number(returned(answer, p, n), "tokens per pass")
        mistakes = [
            (sum(p**k for k in range(1, n + 1)), "the model's own token is missing: every pass gives it"),
            (1 + n * p, "a guess counts only if all before it were right: p, then p², ..., not n times p"),
            (1 + p**n, "fewer than n right guesses count too: p + p² + ... + pⁿ, not the last alone"),
            (sum(p**k for k in range(n)), "the last guess is missing: the powers go up to n"),
            (sum(p**k for k in range(n + 2)), "there is one power too many: n guesses give p up to pⁿ"),
        ]
        _name(got, sum(p**k for k in range(n + 1)), mistakes, f"for p = {p:g} and n = {n}")
    return "p = 1 gives n + 1, p = 0 gives 1, and V3's second token 1.875"


# Core: the shifts.


def _check_shift(answer):
    for n, (rows, length, depth) in enumerate([(1, 6, 1), (2, 9, 1), (3, 9, 2), (1, 12, 3), (2, 5, 4), (1, 3, 1)]):
        ids = torch.randint(1000, (rows, length), generator=torch.Generator().manual_seed(n))
        got = returned(answer, ids.clone(), depth)
        if not isinstance(got, (tuple, list)) or len(got) != 2 or not all(isinstance(part, Tensor) for part in got):
            raise Wrong(f"a pair (told, target) of tensors is expected, and this is {str(got)[:40]}")
        _compare_shift(*got, ids, depth)
    return "depths 1 to 4, and texts so short that one place is left"


def _compare_shift(told: Tensor, target: Tensor, ids: Tensor, depth: int) -> None:
    rows, length = ids.shape
    wanted = (rows, length - depth - 1)
    right = ids[:, depth:-1], ids[:, depth + 1 :]
    if torch.equal(told, right[0]) and torch.equal(target, right[1]):
        return
    if torch.equal(told, right[1]) and torch.equal(target, right[0]):
        raise Wrong("told and target are swapped: told comes first")
    if tuple(told.shape) != wanted or tuple(target.shape) != wanted:
        shapes = f"{tuple(told.shape)} and {tuple(target.shape)}"
        raise Wrong(
            f"both have the shape {wanted}, for the last {depth + 1} places have no target; these have {shapes}"
        )
    if torch.equal(told, target):
        raise Wrong("the target is the token that it was told: that is learned by copying; it must say the one behind")
    if torch.equal(target, right[1]) and torch.equal(told, ids[:, depth - 1 : -2]):
        raise Wrong("it is told one token too early: at place t that is token t + depth")
    if torch.equal(told, right[0]):
        raise Wrong("told is right; the target is the token behind it, t + depth + 1")
    if torch.equal(told, ids[:, 1 : 1 + wanted[1]]):
        raise Wrong("this is right at depth 1 only: each depth is told one token further on")
    raise Wrong(f"for {ids[0].tolist()} at depth {depth}: told {right[0][0].tolist()}, target {right[1][0].tolist()}")


# Core: what sharing saves.


def _check_shared(answer):
    draw = random.Random(11)
    cases = [(7168, 129280, 11_510_000_000, 1, False)]
    cases += [
        (draw.randint(5, 90), draw.randint(100, 999), draw.randint(1000, 9999), n, tied)
        for n, tied in [(1, True), (1, False), (3, False), (2, True)]
    ]
    for case in cases:
        _compare_shared(returned(answer, *case), *case)
    return "V3's embedding and head beside its module: 1.85 billion parameters that sharing saves"


def _compare_shared(got, width: int, vocab: int, block: int, modules: int, tied: bool) -> None:
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong(f"two numbers are expected, own and saved, and this is {str(got)[:40]}")
    own, matrix = modules * (3 * width + 2 * width * width + block), modules * vocab * width
    saved = matrix if tied else 2 * matrix
    if tuple(got) == (own, saved):
        return
    mistakes = {
        (saved, own): "the order is own, then saved",
        (own - modules * width, saved): "a norm is missing: token, hidden state, and the one before the head",
        (own - modules * width * width, saved): "the matrix takes two vectors: 2 x width x width",
        (own - modules * block, saved): "the block is missing from the module",
        (own, 2 * matrix): "a tied model has one matrix for both: sharing saves it once",
        (own, 0): "a tied model has one matrix, and a copy of it for each module would count",
        (own, matrix): "embedding and head are two matrices here: sharing saves both",
        (own // modules, saved // modules): "this is one module; there are several",
        (own, saved // modules): "each of the modules would need an embedding and a head",
        (own + saved, saved): "what is shared is not the module's own",
    }
    message = mistakes.get(tuple(got))
    raise Wrong(message or f"for {width}, {vocab}, {block}, {modules}, {tied}: {(own, saved)}, not {tuple(got)}")


# Core: the weight of the guess.


def _check_weight(answer):
    cases = [([2.0], 0), ([2.0, 4.0], 1e12), ([3.0], 9.99e12), ([3.0], 10e12), ([1.0, 2.0, 6.0], 14e12), ([], 0)]
    for ahead, read in cases:
        got = _number(returned(answer, 1.5, list(ahead), read), "the loss")
        _compare_weight(got, 1.5, ahead, read)
    return "before and after 10 trillion tokens, one to three modules, and none"


def _compare_weight(got: float, own: float, ahead: list[float], read: float) -> None:
    mean = sum(ahead) / len(ahead) if ahead else 0.0
    now, other = (0.3, 0.1) if read < 10e12 else (0.1, 0.3)
    mistakes = [
        (
            own + now * sum(ahead),
            "the modules' losses are summed here; their mean is wanted, so that depth costs no more",
        ),
        (own + other * mean, f"the weight is {now:g} after {read:.3g} tokens: 0.3 below 10e12, then 0.1"),
        (
            own + other * sum(ahead),
            f"two things: the mean is wanted, and the weight is {now:g} after {read:.3g} tokens",
        ),
        (now * mean, "the model's own loss is missing"),
        (own + mean, "the mean has no weight here: times 0.3, later times 0.1"),
        ((1 - now) * own + now * mean, "the model's own loss keeps its full weight: the other is added"),
        (now * (own + mean), "the weight belongs to the modules' loss alone"),
    ]
    _name(got, own + now * mean, mistakes, f"for own = {own:g}, {ahead} and {read:.3g} tokens")


# The stretch: how many guesses.

_WIDE = [1.0, 1.05, 1.1, 1.2, 1.5]
_DEPTHS = [
    ([0.58, 0.31, 0.24, 0.2], [1.0, 1.2, 1.25, 1.29, 1.35], 0.45),  # the zoo's drafter on a CPU: a loss
    ([0.875, 0.7, 0.6, 0.5], _WIDE, 1 / 61),
    ([0.9, 0.2, 0.95, 0.95], _WIDE, 0.02),
    ([0.5, 0.9, 0.9, 0.9], [1.0, 1.6, 1.6, 1.6, 1.6], 0.0),  # the first alone is a loss, more are a gain
    ([0.5], [1.0, 1.5], 0.0),  # as fast as without
    ([1.0, 1.0], [1.0, 1.0, 1.0], 0.0),
    ([0.9, 0.0, 0.9], [1.0, 1.1, 1.1, 1.1], 0.0),  # nothing behind a guess that is never right
    ([0.8, 0.6, 0.5, 0.4], [1.0, 1.01, 1.02, 1.03, 1.04], 0.3),
    ([], [1.0], 0.1),
]


def _check_depth(answer):
    said = []
    for chances, wide, draft in _DEPTHS:
        got = returned(answer, list(chances), list(wide), draft)
        if isinstance(got, bool) or not isinstance(got, int):
            raise Wrong(f"a whole number of guesses is expected, and this is {str(got)[:40]}")
        said.append(got)
    for mistake, message in _DEPTH_MISTAKES:
        if said == [mistake(*case) for case in _DEPTHS] != [_best(_speeds(*case)) for case in _DEPTHS]:
            raise Wrong(message)
    for got, case in zip(said, _DEPTHS, strict=True):
        _compare_depth(got, *case)
    return "a loss, a tie, and a first guess that pays only with the others"


def _compare_depth(got: int, chances: list[float], wide: list[float], draft: float) -> None:
    speeds = _speeds(chances, wide, draft)
    right, case = _best(speeds), f"for chances {chances}, passes {wide} and a guess at {draft:.3g}"
    if not 0 <= got < len(speeds):
        raise Wrong(f"{case}: {got} guesses are not among 0 to {len(chances)}")
    if got != right:
        fast = f"{got} give {speeds[got]:.3f} times the speed, {right} give {speeds[right]:.3f}"
        raise Wrong(f"{case}: {fast}" + ("; of equals the fewest" if speeds[got] > speeds[right] - 1e-9 else ""))


def _speeds(chances: list[float], wide: list[float], draft: float, alone: bool = False) -> list[float]:
    """Times as fast with 0, 1, ... guesses."""
    tokens, reached, speeds = 1.0, 1.0, [1.0]
    for n, chance in enumerate(chances, start=1):
        reached = chance if alone else reached * chance
        tokens += reached
        speeds.append(tokens / (wide[n] + n * draft))
    return speeds


def _best(speeds: list[float]) -> int:
    return next(n for n, speed in enumerate(speeds) if speed > max(speeds) - 1e-9)


def _first_fall(speeds: list[float]) -> int:
    return next((n for n in range(len(speeds) - 1) if speeds[n + 1] <= speeds[n]), len(speeds) - 1)


def _at_least_one(speeds: list[float]) -> int:
    return 1 + _best(speeds[1:]) if len(speeds) > 1 else 0


_DEPTH_MISTAKES = [  # what gives these answers in every case -> its name
    (
        lambda chances, wide, draft: len(chances),
        "the most tokens per pass are not the fastest: divide by what the pass and the guesses cost",
    ),
    (
        lambda chances, wide, draft: _at_least_one(_speeds(chances, wide, draft)),
        "where no guess pays, 0 is an answer: compare with 1, the speed without any",
    ),
    (
        lambda chances, wide, draft: _first_fall(_speeds(chances, wide, draft)),
        "more guesses can pay where one does not: compare them all before you stop",
    ),
    (
        lambda chances, wide, draft: _best(_speeds(chances, wide, 0.0)),
        "the guesses themselves cost nothing here: each costs `draft`",
    ),
    (
        lambda chances, wide, draft: _best(_speeds(chances, [w - (n - 1) * draft for n, w in enumerate(wide)], draft)),
        "n guesses cost n times `draft`, for the module runs once for each",
    ),
    (
        lambda chances, wide, draft: _best(_speeds(chances, [1.0] * len(wide), draft)),
        "the wider pass costs nothing here: wide[n] for n guesses",
    ),
    (
        lambda chances, wide, draft: _best(_speeds(chances, wide, draft, alone=True)),
        "each chance counts alone here: a guess needs all before it",
    ),
]


tokens = Exercise(
    "tokens",
    lesson="mtp",
    check=_check_tokens,
    hints=[
        "The first guess counts with chance p, the second with p times p, since both must be right.",
        "Add the model's own token: the sum of p**k for k from 0 to n.",
    ],
    minutes=5,
    difficulty=1,
)
shift = Exercise(
    "shift",
    lesson="mtp",
    check=_check_shift,
    hints=[
        "At depth 1 these are ids[:, 1:-1] and ids[:, 2:], as in the example by hand.",
        "One depth more moves both by one place: where does told begin, and which tokens have nothing behind them?",
    ],
    minutes=8,
    difficulty=2,
)
shared = Exercise(
    "shared",
    lesson="mtp",
    check=_check_shared,
    hints=[
        "One module: 3 x width + 2 x width x width + block.",
        "Without sharing each module would hold an embedding and a head; tied, they are one matrix of vocab x width.",
    ],
    minutes=6,
    difficulty=2,
)
weight = Exercise(
    "weight",
    lesson="mtp",
    check=_check_weight,
    hints=[
        "own + weight * sum(ahead) / len(ahead), and own alone where there are no modules.",
        "The weight is 0.3 while read < 10e12, and 0.1 from there on.",
    ],
    minutes=8,
    difficulty=2,
)
depth = Exercise(
    "depth",
    lesson="mtp",
    check=_check_depth,
    hints=[
        "Keep two sums: reached *= chance, tokens += reached, beginning at 1.",
        "With n guesses it is tokens / (wide[n] + n * draft) times as fast; without any, 1.",
        "Look at all n, and take a larger one only where it is faster by more than rounding.",
    ],
    minutes=12,
    difficulty=3,
)
