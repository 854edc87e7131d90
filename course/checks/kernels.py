"""Checks of lesson `kernels`: a floor, a kernel that decodes, until when it pays, a gather."""

import inspect
import math
import random
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from course.exercise.exercise import Exercise, Wrong, attempt, predict, returned, reveal
from helpers.compare import randn
from helpers.kernels.launch import INTERPRETED, launch, tile, triton
from helpers.quant.formats.named import encode

__all__ = ["floor", "int4", "predict", "reveal", "tiles", "until"]

NOT_RUN = "not run: there is no Triton for this system"
WHERE = "cpu" if INTERPRETED or triton is None else "cuda"


# What kernels share.


def _run(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    """Launch a learner's kernel. The blank counts as not attempted; what the interpreter says is said in one line."""
    function = getattr(kernel, "fn", kernel)
    if not inspect.isfunction(function):
        raise Wrong(f"a kernel is expected here, with @kernel above it, and this is {str(kernel)[:40]}")
    if "NotImplementedError" in function.__code__.co_names:
        raise NotImplementedError
    if function is kernel and triton is not None:
        raise Wrong("the line @kernel above the function is missing")
    if triton is None:
        return
    try:
        with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # numpy's, of -inf - -inf
            attempt(lambda: launch(kernel, grid, *arguments, **constants), seconds=20.0)
    except Wrong as wrong:
        raise Wrong(str(wrong).replace("InterpreterError: ", "")) from None


def _amid(x: Tensor, poison: float) -> Tensor:
    """The same numbers where the memory before and behind them is poisoned: a missing mask shows, and harms nothing."""
    room = torch.full((x.numel() + 4096,), poison, dtype=x.dtype, device=WHERE)
    room[2048 : 2048 + x.numel()] = x.flatten().to(WHERE)
    return room[2048 : 2048 + x.numel()].view(x.shape)


def _near(got: Tensor, right: Tensor) -> bool:
    return torch.allclose(got.cpu().double(), right.double(), atol=1e-4, rtol=1e-4)


def _refuse(got: Tensor, mistakes: list[tuple[Tensor, str]]) -> None:
    for wrong, message in mistakes:
        if _near(got, wrong):
            raise Wrong(message)


# The warm-up: the floor.


def _check_floor(answer):
    draw = random.Random(16)
    cases = [(2e12, 1e9, 100.0, 4.0), (1e9, 2e10, 100.0, 4.0), *(_random_work(draw) for _ in range(6))]
    got = [returned(answer, *case) for case in cases]
    if wrong := next((one for one in got if not isinstance(one, int | float)), None):
        raise Wrong(f"one number is expected, in seconds, and this is {str(wrong)[:40]}")
    times = [(flops / (tflops * 1e12), moved / (tb_s * 1e12)) for flops, moved, tflops, tb_s in cases]
    if not _same(got, [max(both) for both in times]):
        _name_the_mistake(got, times)
    return "where memory decides and where arithmetic does"


def _random_work(draw: random.Random) -> tuple[float, float, float, float]:
    return 10 ** draw.uniform(9, 14), 10 ** draw.uniform(7, 11), draw.uniform(50, 1000), draw.uniform(0.5, 8)


def _name_the_mistake(got: list[float], times: list[tuple[float, float]]) -> None:
    mistakes = {
        "both run at the same time: the floor is the larger of the two, not their sum": map(sum, times),
        "these are the smaller of the two times; the work is done when the slower side is": map(min, times),
        "a TFLOP is 1e12 operations, a TB 1e12 bytes": (1e12 * max(both) for both in times),
        "the bytes are missing: sometimes they take longer than the operations": (flops for flops, _ in times),
        "the operations are missing: sometimes they take longer than the bytes": (moved for _, moved in times),
    }
    for message, wrong in mistakes.items():
        if _same(got, wrong):
            raise Wrong(message)
    (arithmetic, memory), seconds = times[0], got[0]
    raise Wrong(f"operations take {arithmetic:.3g} s and bytes {memory:.3g} s; {seconds:.3g} s is not the larger")


# Core: four bits, decoded on the way.


def _check_int4(answer):
    for n, (rows, width) in enumerate([(1, 32), (3, 64), (5, 96), (4, 160)]):
        weight, x = randn(rows, width, seed=n), randn(width, seed=20 + n)
        packed = encode(weight, "int4")
        parts = packed.tensors()
        given = _amid(parts["codes"], 255), _amid(parts["scale"].float(), math.nan), _amid(x, math.nan)
        out = torch.full((rows,), math.nan, device=WHERE)
        _run(answer, (rows,), *given, out, width, BLOCK=tile(width, least=32))
        if triton is None:
            return NOT_RUN
        _compare_int4(out, packed.decode().double(), parts, x.double())
    return "four sizes, two of which no tile fits"


def _compare_int4(got: Tensor, matrix: Tensor, parts: dict[str, Tensor], x: Tensor) -> None:
    if _near(got, matrix @ x):
        return
    pairs, scale = parts["codes"], parts["scale"].double()
    swapped = torch.stack([pairs >> 4, pairs & 15], dim=-1).flatten(1).double() - 8
    in_order = torch.stack([pairs & 15, pairs >> 4], dim=-1).flatten(1).double()
    spread = scale.repeat_interleave(32, dim=1)
    unscaled, one_scale = (in_order - 8) @ x, ((in_order - 8) * scale[:, :1]) @ x
    if got.isnan().any():
        where = "numbers from behind the row's end came in" if matrix.shape[1] & (matrix.shape[1] - 1) else "no number"
        raise Wrong(f"some of the answer is not a number: {where}; is there a mask on every load, and is `out` stored?")
    mistakes = [
        ((swapped * spread) @ x, "the two codes of a byte are swapped: the first stands in the lower half"),
        ((in_order * spread) @ x, "a code of 8 stands for zero: subtract 8"),
        (unscaled, "the scales are missing"),
        (one_scale, "the whole row got its first scale; every 32 columns have one of their own"),
    ]
    _refuse(got, mistakes)
    raise Wrong("the sum over (code - 8) x scale x number is another one; byte at // 2, half at % 2, scale at // 32")


# Core: until how many tokens.


def _check_until(answer):
    for bits, tflops, tb_s in [(4.5, 148.0, 4.0), (4.0, 990.0, 3.35), (8.0, 320.0, 1.2), (2.0, 100.0, 1.0)]:
        got = returned(answer, bits, tflops, tb_s)
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong(f"two numbers of tokens are expected, and this is {str(got)[:40]}")
        _compare_until(tuple(float(n) for n in got), bits, tflops / tb_s)
    h20, h100 = (tflops / tb_s * 4.5 / 16 for tflops, tb_s in ((148, 4.0), (989, 3.35)))
    return f"with 4.5 bits the gain falls from {h20:.0f} tokens on with an H20, from {h100:.0f} with an H100"


def _compare_until(got: tuple[float, float], bits: float, ridge: float) -> None:
    right = ridge * bits / 16, ridge
    if _same(got, right):
        return
    mistakes = [
        (right[::-1], "the order is: falls from, gone from"),
        ((2 * right[0], 2 * right[1]), "a weight of 16 bits is 2 bytes and gives 2 FLOP per token: 1 FLOP per byte"),
        ((right[0] / 2, right[1] / 2), "a weight gives 2 FLOP per token: a product and a sum"),
        ((ridge * 16 / bits, ridge), "fewer bits reach the ridge with fewer tokens: bits / 16, not 16 / bits"),
        ((ridge * bits, ridge), "bits and bytes are mixed up: the ridge is FLOP for a byte"),
        ((1 / right[0], 1 / right[1]), "the ridge is arithmetic over bandwidth, and this is the reverse"),
    ]
    for wrong, message in mistakes:
        if _same(got, wrong):
            raise Wrong(message)
    raise Wrong(
        f"with {bits:g} bits and a ridge of {ridge:.1f} FLOP per byte, {got[0]:.4g} and {got[1]:.4g} are not it: "
        "at n tokens per weight gives 2 n FLOP"
    )


def _same(a: Iterable[float], b: Iterable[float]) -> bool:
    return all(math.isclose(x, y, rel_tol=1e-3) for x, y in zip(a, b, strict=True))


# Stretch: gather in tiles.


def _check_tiles(answer):
    cases = [(1, 5, [4]), (2, 40, [3, 7, 39, -1, -1]), (3, 50, [*range(20)]), (2, 60, [*([-1] * 9), 5, 59, 8, -1, 30])]
    for n, (heads, length, chosen) in enumerate(cases):
        query, latents = 3 * randn(heads, 24, seed=n), randn(length, 24, seed=20 + n)
        latents = latents * torch.linspace(0.1, 3, length)[:, None]  # better scores come later
        given = _amid(query, math.nan), _amid(latents, math.nan), _amid(torch.tensor(chosen), 0)
        out = torch.full((heads, 24), math.nan, device=WHERE)
        _run(answer, (heads,), *given, out, len(chosen), 24, 0.3, K=4, C=32)
        if triton is None:
            return NOT_RUN
        _compare_tiles(out, query.double(), latents.double(), chosen)
    return "one tile, several, and one that holds nothing but -1"


def _compare_tiles(got: Tensor, query: Tensor, latents: Tensor, chosen: list[int]) -> None:
    kept = latents[[at for at in chosen if at >= 0]]

    def mixed(scale: float, rows: Tensor) -> Tensor:
        return (scale * query @ rows.T).softmax(dim=-1) @ rows

    if _near(got, mixed(0.3, kept)):
        return
    if got.isnan().any():
        raise Wrong(
            "some of the answer is not a number: a -1 was used as an address, a mask is missing, or a tile of nothing "
            "but -1 gave exp(-inf - -inf)"
        )
    first = torch.tensor(chosen).clamp_min(0)
    scores = 0.3 * query @ kept.T
    tiles = [kept[i : i + 4] for i in range(0, len(kept), 4)]
    by_tile = sum(mixed(0.3, rows) for rows in tiles)
    mistakes = [
        (mixed(1.0, kept), "the scale is missing"),
        (mixed(0.3, latents), "all tokens were read: only the chosen ones are attended to"),
        (mixed(0.3, latents[first]), "a position of -1 is none: here it counts as token 0"),
        (mixed(0.3, kept[:4]), "only the first tile was read: walk over all k positions"),
        ((scores - scores.max(dim=-1, keepdim=True).values).exp() @ kept, "divide by the total at the end"),
        (
            _unshrunk(scores, kept, chosen),
            "when a better score comes, the old total and mixture shrink by exp(best - new)",
        ),
        (by_tile, "each tile got a softmax of its own: the shares add up to one over all of them"),
        (by_tile / len(tiles), "each tile got a softmax of its own: the shares add up to one over all of them"),
    ]
    _refuse(got, mistakes)
    raise Wrong("the mixture is another one: scores of the chosen, one softmax over all of them, times their rows")


def _unshrunk(scores: Tensor, kept: Tensor, chosen: list[int]) -> Tensor:
    """What comes out where the maximum follows the tiles and nothing is scaled down."""
    best, total, mixed = torch.full((len(scores), 1), -math.inf).double(), 0.0, 0.0
    places = iter(range(len(kept)))
    for start in range(0, len(chosen), 4):
        mine = [next(places) for at in chosen[start : start + 4] if at >= 0]
        if mine:
            best = torch.maximum(best, scores[:, mine].max(dim=-1, keepdim=True).values)
            share = (scores[:, mine] - best).exp()
            total, mixed = total + share.sum(dim=-1, keepdim=True), mixed + share @ kept[mine]
    return mixed / total


floor = Exercise(
    "floor",
    "kernels",
    _check_floor,
    ["How long do the operations take alone? How long the bytes?", "Both go on at once: which one is waited for?"],
    minutes=4,
    difficulty=1,
)
int4 = Exercise(
    "int4",
    "kernels",
    _check_int4,
    [
        "`int8_row` of step 5 is nearly it. Three addresses change: codes, scales, and which half of the byte.",
        "Column `at` lies in byte `at // 2`; shift it right by `4 * (at % 2)` and keep `& 15`.",
        "Its scale is number `row * (width // 32) + at // 32`.",
    ],
    minutes=12,
    difficulty=2,
)
until = Exercise(
    "until",
    "kernels",
    _check_until,
    [
        "Write the floor of both versions for n tokens and one weight: 2 n FLOP; 2 bytes or bits / 8 bytes.",
        "The gain falls once the packed version is bound by arithmetic; it is gone once the 16-bit version is too.",
    ],
    minutes=8,
    difficulty=2,
)
tiles = Exercise(
    "tiles",
    "kernels",
    _check_tiles,
    [
        "Before the loop: best = -inf, total = 0, mixed = zeros of C. Load positions with other=-1.",
        "In a tile: new = max(best, its scores); shares are exp(scores - new), and the old total and mixture shrink by "
        "exp(best - new).",
        'Where new is still -inf, exp(-inf - -inf) is no number: use tl.where(new == float("-inf"), 0.0, new).',
    ],
    minutes=20,
    difficulty=3,
)
