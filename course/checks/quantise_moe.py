"""Checks of lesson `quantise_moe`: an audit, INT4 experts, a router's choices, a rounded
cache, and a plan for a machine."""

import math
import random

import torch
from torch import Tensor

from course.exercise.exercise import Exercise, Wrong, predict, returned, reveal, tensor
from helpers.compare import randn

__all__ = ["audit", "changed", "experts", "keys", "predict", "reveal", "texts"]


def _near(got: float, right: float) -> bool:
    return math.isclose(got, right, rel_tol=1e-6, abs_tol=1e-9)


# The warm-up: an audit of a list.


def _check_audit(answer):
    draw = random.Random(15)
    cases = [[(1000, 625, 5.0), (9000, 18000, 16.0)], *(_random_rows(draw) for _ in range(5))]
    cases.append([(640, 1280, 16.0)])
    for rows in cases:
        _compare_audit(returned(answer, list(rows)), rows)
    share, bits = returned(answer, cases[0])
    return f"{share:.0%} of the weights have few bits, and a weight takes {bits:.2f} bits in the mean"


def _random_rows(draw: random.Random) -> list[tuple[int, int, float]]:
    rows = []
    for _ in range(draw.randint(2, 6)):
        weights, bits = 64 * draw.randint(1, 900), draw.choice([3.5, 4.5, 5.0, 8.0, 16.0, 32.0])
        rows.append((weights, int(weights * bits / 8), bits))
    return rows


def _compare_audit(got, rows: list[tuple[int, int, float]]) -> None:
    if not isinstance(got, (tuple, list)) or len(got) != 2:
        raise Wrong(f"two numbers are expected, a share and mean bits, and this is {str(got)[:40]}")
    share, mean = got
    weights, size = sum(row[0] for row in rows), sum(row[1] for row in rows)
    few = [row for row in rows if row[2] < 8]
    right = sum(row[0] for row in few) / weights, 8 * size / weights
    if _near(share, right[0]) and _near(mean, right[1]):
        return
    if _near(share, sum(row[1] for row in few) / size) and not _near(share, right[0]):
        raise Wrong("this is the share of the bytes: what has few bits takes few of them; count weights")
    if _near(share, len(few) / len(rows)) and not _near(share, right[0]):
        raise Wrong("this is the share of the rows: an expert's row stands for more weights than a norm's")
    if _near(share, sum(row[0] for row in rows if row[2] <= 8) / weights) and not _near(share, right[0]):
        raise Wrong("8 bits are counted too: under 8 is few here")
    if not _near(share, right[0]):
        raise Wrong(f"the share of weights under 8 bits is {right[0]:.4f}, not {share:.4f}")
    if _near(mean, sum(row[2] for row in rows) / len(rows)):
        raise Wrong("this is the mean over rows: a large row counts as much as a small one there")
    if _near(mean, size / weights):
        raise Wrong("these are bytes per weight: a byte has 8 bits")
    raise Wrong(f"a weight takes {right[1]:.4f} bits in the mean, not {mean:.4f}")


# Core: which tokens get other experts.


def _check_changed(answer):
    for n, (tokens, count, k) in enumerate([(6, 4, 2), (1, 8, 3), (40, 12, 2), (9, 5, 5), (25, 16, 4)]):
        before = randn(tokens, count, seed=n)
        after = before + 0.4 * randn(tokens, count, seed=30 + n)
        _compare_changed(returned(answer, before.clone(), after.clone(), k), before, after, k)
    same = randn(7, 6, seed=50)
    if not _near(float(returned(answer, same, same * 2 + 1, 2)), 0.0):
        raise Wrong("all logits doubled and moved by one: nobody gets another expert, and the answer is 0")
    return "five sizes, all experts chosen and nothing changed among them"


def _compare_changed(got, before: Tensor, after: Tensor, k: int) -> None:
    if isinstance(got, bool) or not isinstance(got, (int, float, Tensor)):
        raise Wrong(f"one number from 0 to 1 is expected, and this is a {type(got).__name__}")
    got = float(got)
    ordered = [logits.topk(k, dim=-1).indices for logits in (before, after)]
    sets = [chosen.sort(dim=-1).values for chosen in ordered]
    right = (sets[0] != sets[1]).any(dim=-1).float().mean().item()
    if _near(got, right):
        return
    mistakes = [
        ((ordered[0] != ordered[1]).any(dim=-1), "the same experts in another order are no change: compare sets"),
        ((sets[0] != sets[1]), "this is a share of pairs: a token counts once, however many of its experts changed"),
        (
            before.argmax(dim=-1) != after.argmax(dim=-1),
            "only the best expert of each token is compared; a token has k of them",
        ),
    ]
    for wrong, message in mistakes:
        if _near(got, wrong.float().mean().item()):
            raise Wrong(message)
    if _near(got, right * len(before)):
        raise Wrong("this is how many tokens changed: divide by how many there are")
    if _near(got, 1 - right):
        raise Wrong("this is the share that kept its experts; those that changed are asked for")
    raise Wrong(f"the share of tokens with another set of experts is {right:.4f}, not {got:.4f}")


# Core: INT4 experts.


def _int4(stack: Tensor, group: int, levels: int = 7, shared: bool = False, exact: bool = False) -> tuple:
    groups = stack.unflatten(-1, (-1, group))
    most = groups.abs().amax(dim=-1)
    most = most.amax(dim=0, keepdim=True).expand_as(most) if shared else most
    scale = most / levels
    codes = groups / (scale if exact else scale.bfloat16().float())[..., None]
    return codes.round().clamp(-8, 7).flatten(-2), scale.bfloat16()


def _packed(codes: Tensor, offset: int = 8, swapped: bool = False) -> Tensor:
    first, second = (codes + offset).to(torch.int64)[..., 0::2] & 15, (codes + offset).to(torch.int64)[..., 1::2] & 15
    return ((second | first << 4) if swapped else (first | second << 4)).to(torch.uint8)


def _check_experts(answer):
    for n, (count, rows, columns, group) in enumerate([(3, 4, 32, 16), (1, 2, 8, 8), (5, 6, 48, 16), (2, 3, 64, 32)]):
        stack = randn(count, rows, columns, seed=n)
        stack[0] *= 3  # an expert of large weights
        got = returned(answer, stack.clone(), group)
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            raise Wrong(f"a pair (packed, scale) is expected, and this is a {type(got).__name__}")
        _compare_experts(*got, stack, group)
    return "each expert with scales of its own, two codes per byte: 4 + 16 / group bits per weight"


def _compare_experts(packed, scale, stack: Tensor, group: int) -> None:
    scale = tensor(scale, (*stack.shape[:2], stack.shape[2] // group), "scale")
    codes, right = _int4(stack, group)
    if not torch.allclose(scale.float(), right.float(), rtol=1e-2):
        if torch.allclose(scale.float(), _int4(stack, group, levels=8)[1].float(), rtol=1e-2):
            raise Wrong("the largest number of a group becomes 8 here, which the codes do not have: divide by 7")
        if torch.allclose(scale.float(), _int4(stack, group, shared=True)[1].float(), rtol=1e-2):
            raise Wrong("all experts share the scales of the largest: each expert needs its own")
        raise Wrong("other scales: the largest absolute number of each group of a row, over 7")
    if scale.dtype != torch.bfloat16:
        raise Wrong(f"the scales are {scale.dtype}: bfloat16 takes half the bytes, and is what the format stores")
    if isinstance(packed, Tensor) and packed.shape == stack.shape:
        raise Wrong("one code a byte: that is 8 bits; put two codes into each")
    packed = tensor(packed, (*stack.shape[:2], stack.shape[2] // 2), "packed")
    if packed.dtype != torch.uint8:
        raise Wrong(f"packed codes are {packed.dtype}; bytes without a sign, torch.uint8, are expected")
    if torch.equal(packed, _packed(codes)):
        return
    mistakes = [
        (_packed(codes, swapped=True), "the halves are swapped: the first code goes into the lower four bits"),
        (_packed(codes, offset=0), "a half byte has no sign: add 8 to each code before it is packed"),
        (_packed(codes, offset=7), "7 is added to the codes; it is 8, so that -8 would be 0"),
        (
            _packed(_int4(stack, group, exact=True)[0]),
            "codes are rounded with a scale that is not stored: divide by the bfloat16 scale",
        ),
    ]
    for wrong, message in mistakes:
        if torch.equal(packed, wrong):
            raise Wrong(message)
    raise Wrong("other codes: round(weight / scale) + 8, even columns in the lower half, odd ones in the upper")


# The stretch: keys along channels, block by block.


def _rounded(rows: Tensor, bits: int, dim: int) -> Tensor:
    least, most = rows.amin(dim, keepdim=True), rows.amax(dim, keepdim=True)
    step = ((most - least) / (2**bits - 1)).clamp_min(1e-12)
    return ((rows - least) / step).round() * step + least


def _by_blocks(keys: Tensor, bits: int, block: int, dim: int = 0, last: bool = False) -> Tensor:
    parts = [
        _rounded(part, bits, dim) if len(part) == block or last else part for part in keys.split(block)
    ]  # fmt: skip
    return torch.cat(parts)


def _check_keys(answer):
    for n, (tokens, width, bits, block) in enumerate([(70, 8, 2, 32), (32, 4, 4, 32), (31, 6, 3, 32), (65, 5, 2, 16)]):
        keys = randn(tokens, width, seed=n)
        keys[:, 1] = 6 + 0.2 * keys[:, 1]  # a channel that is large for every token
        got = tensor(returned(answer, keys.clone(), bits, block), tuple(keys.shape), "the answer")
        _compare_keys(got, keys, bits, block)
    return "whole blocks are rounded along each channel, the newest tokens are as they were"


def _compare_keys(got: Tensor, keys: Tensor, bits: int, block: int) -> None:
    if torch.allclose(got, _by_blocks(keys, bits, block), atol=1e-4):
        return
    mistakes = [
        (keys, "nothing was rounded: a block of one token has one number a channel, which rounds to itself"),
        (_by_blocks(keys, bits, block, dim=1), "numbers of one token share a step here; it is those of one channel"),
        (_by_blocks(keys, bits, block, last=True), "the last block is not full: its tokens wait as they are"),
        (_rounded(keys, bits, 0), "all tokens share one block; a block has `block` tokens"),
        (_by_blocks(keys, bits + 1, block), "the step is the range over 2^bits - 1: so many steps, one value more"),
    ]
    for wrong, message in mistakes:
        if torch.allclose(got, wrong, atol=1e-4):
            raise Wrong(message)
    least = keys[: len(keys) // block * block]
    if torch.allclose(got[: len(least)], (least * (2 ** (bits - 1) - 1)).round() / (2 ** (bits - 1) - 1), atol=1e-4):
        raise Wrong("each channel of each block has a step of its own, from its least to its largest number")
    raise Wrong("other values: round((key - least) / step) x step + least, for each channel of each whole block")


# Core: a plan.


def _texts(weights: float, token: float, tokens: int, gpus: int, gb: float, room: float, unit: float = 1e9) -> int:
    left = gpus * gb * unit * (1 - room) - weights
    return max(0, math.floor(left / (token * tokens)))


def _check_texts(answer):
    glm5 = (4.185e11, 109_824, 128_000)  # weights in INT4 with group 32, bytes per token, tokens
    cases = [
        (1e9, 50_000, 1000, 4, 24, 0.1),
        (*glm5, 4, 80, 0.1),
        (*glm5, 8, 80, 0.1),
        (*glm5, 4, 141, 0.1),
        (*glm5, 8, 141, 0.1),
    ]
    cases += [(1.97e10, 30_720, 32_000, 1, 24, 0.1), (1e9, 50_000, 1000, 1, 1.05, 0.1)]
    for case in cases:
        _compare_texts(returned(answer, *case), case)
    four, eight = (returned(answer, *glm5, gpus, 80, 0.1) for gpus in (4, 8))
    return f"GLM-5 in four bits, texts of 128,000 tokens: {four} on 4 x 80 GB, {eight} on 8"


def _compare_texts(got, case: tuple) -> None:
    weights, token, tokens, gpus, gb, room = case
    right = _texts(*case)
    if got == right and isinstance(got, int) and not isinstance(got, bool):
        return
    left = gpus * gb * 1e9 * (1 - room) - weights
    if isinstance(got, (int, float)) and got < 0:
        raise Wrong("a number of texts below zero: where the weights alone do not fit, it is 0")
    mistakes = [
        (_texts(weights, token, tokens, gpus, gb, 0.0), "no room is left to work in: take off the share `room` first"),
        (_texts(*case, unit=2**30), "a GB is 1e9 bytes here, as on a data sheet; 2^30 is a GiB"),
        (_texts(weights * gpus, token, tokens, gpus, gb, room), "the weights are there once, cut over all GPUs"),
        (_texts(weights, token, tokens, 1, gb, room), "only one GPU is counted: their memories add up"),
        (max(0, math.ceil(left / (token * tokens))), "rounded up: the last text does not fit whole"),
        (max(0, math.floor(left / token)), "these are tokens; how many texts of `tokens` tokens are they?"),
    ]
    for wrong, message in mistakes:
        if got == wrong and wrong != right:
            raise Wrong(message)
    if isinstance(got, float):
        raise Wrong(f"a whole number of texts is expected, {right} here, and this is {got:.4g}")
    raise Wrong(f"for {gpus} x {gb} GB and {weights / 1e9:.0f} GB of weights: {right} texts, not {got}")


audit = Exercise(
    "audit",
    lesson="quantise_moe",
    check=_check_audit,
    hints=[
        "sum(weights for weights, size, bits in rows if bits < 8) over the sum of all weights is the first number.",
        "Bits per weight in the mean: 8 times all bytes, over all weights.",
    ],
    minutes=5,
    difficulty=1,
)
changed = Exercise(
    "changed",
    lesson="quantise_moe",
    check=_check_changed,
    hints=[
        "logits.topk(k, dim=-1).indices are a token's experts; sort them, so that order does not matter.",
        "(a != b).any(dim=-1) is True for a token with another set; the mean of it as a float is the share.",
    ],
    minutes=6,
    difficulty=2,
)
experts = Exercise(
    "experts",
    lesson="quantise_moe",
    check=_check_experts,
    hints=[
        "groups = stack.unflatten(-1, (-1, group)); the scale is groups.abs().amax(-1) / 7, as bfloat16.",
        "codes = (groups / scale.float()[..., None]).round() + 8, flattened back and turned into torch.uint8.",
        "codes[..., 0::2] | codes[..., 1::2] << 4 puts two of them into each byte.",
    ],
    minutes=12,
    difficulty=2,
)
texts = Exercise(
    "texts",
    lesson="quantise_moe",
    check=_check_texts,
    hints=[
        "What is left: gpus x gb x 1e9, less the share that stays free, less the weights.",
        "One text takes bytes per token x tokens. Round down, and never below 0.",
    ],
    minutes=8,
    difficulty=2,
)
keys = Exercise(
    "keys",
    lesson="quantise_moe",
    check=_check_keys,
    hints=[
        "keys.split(block) gives the blocks; the last one may be shorter, and then stays as it is.",
        "Inside a block, part.amin(0) and part.amax(0) are each channel's ends; the step is their distance over "
        "2 ** bits - 1.",
    ],
    minutes=12,
    difficulty=3,
)
