"""Checks of lesson `formats`: bits per weight, INT8 in groups, sixteen values, packing, scales, E4M3."""

import math
import random

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from course.exercise.exercise import Exercise, Wrong, attempt, predict, returned, reveal
from helpers.compare import randn
from helpers.quant.formats.floats import E4M3, round_to_kind
from helpers.quant.formats.fp4 import pack_fp4, unpack_fp4
from helpers.quant.formats.integers import from_codes, grid_of, round_to

__all__ = ["bits", "e4m3", "int8", "lossless", "pack", "power", "predict", "reveal", "values"]


def _tensor(got, shape: tuple[int, ...], dtype: torch.dtype, what: str) -> Tensor:
    if not isinstance(got, Tensor):
        raise Wrong(f"{what} is a tensor, and this is a {type(got).__name__}")
    if tuple(got.shape) != tuple(shape):
        raise Wrong(f"{what} has the shape {tuple(shape)}, and this has {tuple(got.shape)}")
    if got.dtype != dtype:
        raise Wrong(f"{what}: the type is {dtype}, and this is {got.dtype}")
    return got


# The warm-up: bits per weight.


def _check_bits(answer):
    draw = random.Random(13)
    cases = [(4096, 4096, 4, 16, 1, 32), (3, 100, 4, 8, 1, 32)]
    cases += [(draw.randint(2, 300), draw.randint(2, 300), 4, 32, *_random_block(draw)) for _ in range(6)]
    cases += [(576, 7168, 8, 32, 128, 128)]
    for case in cases:
        _compare_bits(returned(answer, *case), *case)
    return f"DeepSeek-V3's ragged matrix of 576 x 7,168 takes {returned(answer, *cases[-1]):.5f} bits per weight"


def _random_block(draw: random.Random) -> tuple[int, int]:
    return draw.choice([1, 3, 128]), draw.randint(2, 64)


def _compare_bits(got, rows: int, columns: int, code: int, scale: int, down: int, across: int) -> None:
    if isinstance(got, bool) or not isinstance(got, (int, float)):
        raise Wrong(f"one number is expected, and this is {str(got)[:40]}")
    count = rows * columns
    blocks = math.ceil(rows / down) * math.ceil(columns / across)
    right = code + scale * blocks / count
    if math.isclose(got, right, rel_tol=1e-9):
        return
    mistakes = [
        (code, "the scales are missing: they are stored too"),
        (code + scale / (down * across), "a block at the edge needs a whole scale: count blocks, rounded up"),
        (
            code + scale * (rows // down) * (columns // across) / count,
            "blocks at the edge are lost: round their number up, not down",
        ),
        (
            code + scale * math.ceil(count / (down * across)) / count,
            "blocks do not run on into the next row: round up down and across, each by itself",
        ),
        (right * count, "these are all bits of the matrix: divide by its weights"),
        (right / 8, "these are bytes per weight: a byte has eight bits"),
    ]
    for wrong, message in mistakes:
        if math.isclose(got, wrong, rel_tol=1e-9):
            raise Wrong(message)
    raise Wrong(f"{rows} x {columns} in blocks of {down} x {across}: {right:.6f}, not {got:.6f}")


# Core: INT8 in groups.


_WHOLE = (torch.int8, torch.int16, torch.int32, torch.int64)


def _has_nan(given) -> bool:
    return isinstance(given, Tensor) and given.is_floating_point() and bool(given.isnan().any())


class _NoNaNBecomesACode(TorchFunctionMode):
    """NaN cast to int8 is 0 on many processors and anything on others: what comes back cannot tell."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype in _WHOLE and any(map(_has_nan, args)):
            raise Wrong("a group of zeros gives 0/0, NaN: let its scale be anything but a divisor of nothing")
        return result


def _watched(answer):
    def watched(*given):
        with _NoNaNBecomesACode():
            return answer(*given)

    return watched if callable(answer) else answer


def _check_int8(answer):
    for n, (rows, columns, group) in enumerate([(1, 4, 4), (5, 64, 16), (3, 96, 32), (4, 8, 2)]):
        weight = randn(rows, columns, seed=n) * torch.logspace(-2, 2, rows)[:, None]
        weight[0, :group] = 0
        weight[-1, -1] = -weight.abs().max() * 2  # the largest is negative
        got = returned(_watched(answer), weight.clone(), group)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong(f"a pair (codes, scales) is expected, and this is a {type(got).__name__}")
        codes = _tensor(got[0], (rows, columns), torch.int8, "codes")
        scales = _tensor(got[1], (rows, columns // group), torch.float32, "scales")
        _compare_int8(codes, scales, weight, group)
    return "four sizes, with a group of zeros and a largest number that is negative"


def _compare_int8(codes: Tensor, scales: Tensor, weight: Tensor, group: int) -> None:
    groups = weight.unflatten(1, (-1, group))
    most = groups.abs().amax(-1)
    empty = most == 0
    if not scales.isfinite().all() or (codes[:, :group][empty[:, 0]] != 0).any():
        raise Wrong("a group of zeros gives 0/0: let its scale be anything but a divisor of nothing")
    if not torch.allclose(scales[~empty], most[~empty] / 127, rtol=1e-5):
        raise Wrong(_which_scales(scales[~empty], groups, ~empty))
    steps = groups / torch.where(empty, 1, most / 127)[..., None]
    got = codes.float().unflatten(1, (-1, group))
    if ((got - steps).abs() <= 0.5 + 1e-3).all():
        return
    if (got.abs() <= steps.abs() + 1e-3).all():
        raise Wrong("codes are cut off towards zero: round before the cast to int8")
    raise Wrong(f"a code is {(got - steps).abs().max():.2f} steps from its number: half a step is the most")


def _which_scales(scales: Tensor, groups: Tensor, there: Tensor) -> str:
    most = groups.abs().amax(-1)
    mistakes = [
        (groups.amax(-1) / 127, "the largest in SIZE sets the scale: a negative number may be it"),
        (most / 128, "the largest becomes 127, not 128: int8 has no 128"),
        (most, "these are the largest numbers: a scale is the largest over 127"),
        (127 / most, "these are the reciprocals: number = code x scale"),
        ((groups.abs().amax() / 127).expand_as(most), "one scale for the whole matrix: each group has its own"),
        (
            groups.abs().amax((1, 2), keepdim=True)[..., 0].expand_as(most) / 127,
            "one scale per row: each group has its own",
        ),
        ((groups.amax(-1) - groups.amin(-1)) / 255, "this is the scale of a grid with a zero point; here zero is 0"),
    ]
    for wrong, message in mistakes:
        if torch.allclose(scales, wrong[there], rtol=1e-5):
            return message
    return f"the scales are {scales.flatten()[:3].tolist()}..., and {(most[there] / 127)[:3].tolist()}... are right"


# Core: sixteen values.


def _laplace(chances: Tensor) -> Tensor:
    """The inverse of a distribution with heavier tails: exponential on both sides."""
    return -torch.sign(chances - 0.5) * torch.log1p(-2 * (chances - 0.5).abs())


def _flat(chances: Tensor) -> Tensor:
    return 2 * chances - 1


def _check_values(answer):
    for inverse, outermost in ((torch.special.ndtri, 0.9677083), (_laplace, 0.97), (_flat, 0.95)):
        got = _tensor_of_16(returned(answer, inverse, outermost))
        _compare_values(got, inverse, outermost)
    return "of a normal distribution they are NF4's; heavier tails put more of them near zero"


def _tensor_of_16(got) -> Tensor:
    if not isinstance(got, Tensor) or got.numel() != 16 or got.dim() != 1:
        shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
        raise Wrong(f"a tensor of sixteen values is expected, and this is {shape}")
    return got.double()


def _side(inverse, outermost: float, count: int) -> Tensor:
    return inverse(torch.linspace(outermost, 0.5, count + 1, dtype=torch.float64)[:-1])


_OWN_STEPS = "the seven below are not seven of the eight, mirrored: from outermost to the middle, they have own steps"


def _mirrored(up: Tensor, kept: slice) -> Tensor:
    return torch.cat([-up[kept].flip(0), torch.zeros(1, dtype=torch.float64), up]) / up.max()


def _compare_values(got: Tensor, inverse, outermost: float) -> None:
    def made(below: int, above: int, inverse=inverse) -> Tensor:
        up = _side(inverse, outermost, above)
        return torch.cat([-_side(inverse, outermost, below), torch.zeros(1, dtype=torch.float64), up.flip(0)])

    raw = made(7, 8)
    right = raw / raw.max()
    if torch.allclose(got, right, atol=1e-5):
        return
    chances = torch.linspace(1 - outermost, outermost, 16, dtype=torch.float64)
    even = inverse(chances) / inverse(chances).max()
    mistakes = [
        (raw, "divide by the largest, so that it becomes 1"),
        (right.flip(0), "sort them: the smallest stands first"),
        (_mirrored(raw[8:], slice(1, 8)), _OWN_STEPS),
        (_mirrored(raw[8:], slice(0, 7)), _OWN_STEPS),
        (-right.flip(0), "seven values below zero and eight above, and this is the other way round"),
        (even, "sixteen even steps from one end to the other miss zero: take each side by itself, and zero between"),
    ]
    for wrong, message in mistakes:
        if torch.allclose(got, wrong, atol=1e-5):
            raise Wrong(message)
    if not (got == 0).any():
        raise Wrong("zero is not among them: it must be exact")
    if (got[1:] <= got[:-1]).any():
        raise Wrong("the values are sorted and all different")
    steps = torch.linspace(got[8].item(), 1, 8, dtype=torch.float64)
    if inverse is not _flat and torch.allclose(got[8:], steps, atol=1e-4):
        raise Wrong("the values have even steps: the CHANCES do, and `inverse` makes values of them")
    off = (got - right).abs().max()
    raise Wrong(f"the largest difference is {off:.3f}: linspace(outermost, 0.5, n + 1) without its last, on each side")


# Core: packing.


def _check_pack(answer):
    for n, (rows, columns) in enumerate([(1, 2), (3, 8), (5, 34)]):
        codes = torch.randint(-7, 8, (rows, columns), generator=torch.Generator().manual_seed(n))
        codes[0, 0] = -7
        got = _tensor(returned(answer, codes.clone()), (rows, columns // 2), torch.uint8, "the packed codes")
        _compare_packed(got, codes)
    return "three sizes, every code from -7 to 7"


def _compare_packed(got: Tensor, codes: Tensor) -> None:
    def packed(first: Tensor, second: Tensor) -> Tensor:
        return ((first & 15) | (second & 15) << 4).to(torch.uint8)

    first, second = codes[:, ::2], codes[:, 1::2]
    if torch.equal(got, packed(first + 8, second + 8)):
        return
    half = codes.shape[1] // 2
    mistakes = [
        (packed(second + 8, first + 8), "the first of a pair goes into the LOWER half of the byte"),
        (packed(first, second), "add 8 first: a code of -7 is stored as 1"),
        (packed(first + 7, second + 7), "8 is added, not 7: a stored 8 is zero"),
        (packed(codes[:, :half] + 8, codes[:, half:] + 8), "a byte holds two NEIGHBOURS: columns 0 and 1, 2 and 3"),
        (((first + 8) + (second + 8)).to(torch.uint8), "the second is moved up by four bits before the two are joined"),
    ]
    for wrong, message in mistakes:
        if torch.equal(got, wrong):
            raise Wrong(message)
    raise Wrong(f"{codes[0, :2].tolist()} is the byte {int(packed(first + 8, second + 8)[0, 0])}, not {int(got[0, 0])}")


# Core: the scale of MXFP4.


def _check_power(answer):
    groups = randn(64, 32, seed=0) * torch.logspace(-6, 6, 64)[:, None]
    exact = torch.ones(5, 32) * 2.0 ** torch.tensor([0, 3, -5, 20, -40])[:, None]
    edges = torch.stack([torch.zeros(32), torch.full((32,), -5.0), torch.full((32,), 1e-38), torch.full((32,), 7.5)])
    for given in (groups, exact, edges, -exact):
        got = _tensor(returned(answer, given.clone()), (len(given),), torch.uint8, "the bytes")
        _compare_power(got.int(), given)
    return "small and large groups, exact powers of two, zeros, and the smallest scale that a byte can say"


def _compare_power(got: Tensor, groups: Tensor) -> None:
    most = groups.abs().amax(1).double()

    def bytes_of(power: Tensor) -> Tensor:
        return torch.where(most == 0, 0, (power + 127).clamp(0, 254).nan_to_num().int())

    exponent = most.frexp().exponent - 1
    right = bytes_of(exponent - 2)
    if torch.equal(got, right):
        return
    ceil = torch.where(most > 0, (most / 6).log2().ceil(), 0.0)
    mistakes = [
        (bytes_of(ceil), "this power cuts nothing off, and the standard rounds down: floor(log2(largest)) - 2"),
        (bytes_of(exponent), "2 is taken off, the exponent of E2M1's largest number, 6 = 1.5 x 2^2"),
        (bytes_of(exponent - 1), "frexp gives m x 2^e with m from 1/2 to 1: floor(log2) is e - 1"),
        (
            bytes_of((most / 6).log2().floor()),
            "6 is 1.5 x 2^2 and not a power of two: floor(log2(largest)) first, then 2 off, and no division by 6",
        ),
        ((exponent - 2).int() % 256, "a byte holds no negative power: 127 is added before it is stored"),
        (bytes_of(most.log2().round() - 2), "log2 is rounded down, not to the nearest"),
        (bytes_of(groups.amax(1).double().clamp(min=1e-300).frexp().exponent - 3), "the largest in SIZE counts"),
    ]
    for wrong, message in mistakes:
        if torch.equal(got, wrong.int()):
            raise Wrong(message)
    if (got[most == 0] != 0).any():
        raise Wrong("a group of zeros has the byte 0: its log2 is minus infinity, so say so yourself")
    n = int((got != right).nonzero()[0])
    raise Wrong(f"a largest of {most[n]:.6g} gives {int(right[n])}, not {int(got[n])}")


# The stretches: E4M3, and four bits inside eight.


def _check_e4m3(answer):
    whole = torch.cat([torch.arange(0, 1024) / 2**10, torch.arange(1024) / 2, 2.0 ** -torch.arange(4, 14)])
    for x in (randn(2000, seed=0) * 20, torch.cat([whole, -whole]), torch.tensor([500.0, -1e9, 448.0, 464.0, 0.0])):
        got = _tensor(returned(answer, x.clone()), tuple(x.shape), torch.float32, "the rounded numbers")
        _compare_e4m3(got, x)
    return "equal to torch's cast, halves, the smallest numbers and those above 448 included"


def _compare_e4m3(got: Tensor, x: Tensor) -> None:
    right = round_to_kind(x, E4M3)
    wrong = got != right
    if not wrong.any():
        return
    exponent = x.abs().frexp().exponent - 1
    step = (exponent.clamp(min=-6) - 3).float().exp2()
    free = (exponent - 3).float().exp2()
    mistakes = [
        ((x / step).round() * step, "what is above 448 becomes 448, the largest number there is"),
        (
            ((x / free).round() * free).nan_to_num().clamp(-448, 448),
            "below 2^-6 the steps stop shrinking at 2^-9",
        ),
        (((x / step).trunc() * step).clamp(-448, 448), "numbers are cut off, not rounded to the nearest"),
        ((torch.floor(x / step + 0.5) * step).clamp(-448, 448), "halfway goes to the even fraction, not upwards"),
        (
            ((x / step / 2).round() * step * 2).clamp(-448, 448),
            "three bits of fraction: 8 steps from 1 to 2, not 4",
        ),
        (
            ((x / step * 2).round() * step / 2).clamp(-448, 448),
            "three bits of fraction: 8 steps from 1 to 2, not 16",
        ),
    ]
    for candidate, message in mistakes:
        if torch.equal(got, candidate):
            raise Wrong(message)
    n = int(wrong.nonzero()[0])
    raise Wrong(f"{x[n]:.6g} becomes {right[n]:.6g}, and this gives {got[n]:.6g}")


def _check_lossless(answer):
    narrow = [randn(8, 64, seed=n) * 10.0**power for n, power in enumerate((-3, 0, 2))]
    wide = randn(8, 64, seed=5) * torch.logspace(-9, 2, 8)[:, None]
    middle = randn(8, 64, seed=6) * torch.logspace(0, 3, 8, base=2.0)[:, None]
    for weight, there in [*((w, True) for w in (*narrow, middle)), (wide, False)]:
        back = unpack_fp4(*pack_fp4(weight, cut=True))
        _compare_lossless(attempt(answer, back.clone()), back, there)
    back = from_codes(round_to(narrow[1], grid := grid_of(narrow[1], 4, 32)), grid)
    _compare_lossless(attempt(answer, back.clone()), back, False)
    return "MXFP4 fits while its scales differ by less than E4M3's range; INT4 does not, for its scales are no powers"


def _compare_lossless(got, back: Tensor, there: bool) -> None:
    if got is None:
        if there:
            raise Wrong("there is a scale here, and yours found none (or gave nothing back): largest / 448, rounded up")
        return
    try:
        scale = float(got)
    except (TypeError, ValueError):
        raise Wrong(f"a number or None is expected, and this is a {type(got).__name__}") from None
    if not scale > 0 or math.frexp(scale)[0] != 0.5:
        raise Wrong(f"the scale is a power of two, so that it moves exponents only, and {scale:.4g} is none")
    if (back / scale).abs().max() > 448:
        raise Wrong(f"with {scale:.4g} the largest number is {(back / scale).abs().max():.0f}, and E4M3 ends at 448")
    if torch.equal((back / scale).to(torch.float8_e4m3fn).float() * scale, back):
        return
    if there:
        raise Wrong(f"with {scale:.4g} the smallest numbers are lost: take the smallest scale that keeps all below 448")
    raise Wrong("no power of two holds these exactly: compare what comes back, and answer None")


bits = Exercise(
    "bits",
    lesson="formats",
    check=_check_bits,
    hints=[
        "Blocks down: rows / block_rows, rounded up. Blocks across likewise. One scale for each block.",
        "code_bits + scale_bits x blocks / (rows x columns).",
    ],
    minutes=5,
    difficulty=1,
)
int8 = Exercise(
    "int8",
    lesson="formats",
    check=_check_int8,
    hints=[
        "weight.unflatten(1, (-1, group)) is [O, groups, group]; abs().amax(dim=-1) / 127 are the scales.",
        "Divide by torch.where(scales == 0, 1.0, scales)[..., None], round, flatten(1), .to(torch.int8).",
    ],
    minutes=8,
    difficulty=2,
)
values = Exercise(
    "values",
    lesson="formats",
    check=_check_values,
    hints=[
        "The positive side: inverse(linspace(outermost, 0.5, 9)[:-1]), eight values, the largest first.",
        "The negative side has seven: linspace(outermost, 0.5, 8)[:-1], with a minus. Zero stands between them.",
        "torch.cat([negative, zero, positive.flip(0)]) / positive.max().",
    ],
    minutes=8,
    difficulty=2,
)
pack = Exercise(
    "pack",
    lesson="formats",
    check=_check_pack,
    hints=[
        "(codes + 8).to(torch.uint8) are numbers from 1 to 15. [:, ::2] are the first of each pair.",
        "first | second << 4.",
    ],
    minutes=5,
    difficulty=2,
)
power = Exercise(
    "power",
    lesson="formats",
    check=_check_power,
    hints=[
        "most.frexp() gives a part from 1/2 to 1 and an exponent: floor(log2(most)) is that exponent minus 1.",
        "torch.where(most == 0, 0, (power + 127).clamp(0, 254)).to(torch.uint8).",
    ],
    minutes=6,
    difficulty=2,
)
e4m3 = Exercise(
    "e4m3",
    lesson="formats",
    check=_check_e4m3,
    hints=[
        "x.abs().frexp().exponent - 1 is floor(log2(|x|)), e; numbers from 2^e to 2^(e+1) have steps of 2^(e-3).",
        "Let the exponent end at -6, where the steps stop shrinking: .clamp(min=-6).",
        "((x / step).round() * step).clamp(-448, 448).",
    ],
    minutes=12,
    difficulty=3,
)
lossless = Exercise(
    "lossless",
    lesson="formats",
    check=_check_lossless,
    hints=[
        "The best power is the smallest with which nothing is above 448: log2(largest / 448), rounded up.",
        "Then see what comes back: (back / scale).to(torch.float8_e4m3fn).float() * scale must equal back.",
    ],
    minutes=10,
    difficulty=3,
)
