"""Softmax in tiles, without seeing the whole row first: sibling of ``torch.softmax`` over the last axis.

    row   [ tile 0 | tile 1 | tile 2 | .. ]      best, total: what is known of the tiles so far
              -> read: best = max(best, tile), total = total * exp(old best - best) + sum(exp(tile - best))
    row   [ tile 0 | tile 1 | tile 2 | .. ]
              -> read again, write exp(tile - best) / total

Subtracting the largest keeps exp from overflowing, and the largest is known only at the end: so what was added up under
a smaller maximum is scaled down when a larger one comes. ``fold`` is that step with values mixed along the way, which
is all that flash attention adds. Each number is read twice and written once: 3 N S numbers, about 8 FLOP each. A row
that is one tile is read once.
"""

from math import e, log2

import torch

from helpers.kernels.launch import Variant, blocks, kernel, launch, launches, refuse_scattered, tile, tl
from helpers.measure import Work
from helpers.precision import at_least_float32
from helpers.shapes import Float, Tensor

MOST = 4096  # numbers per tile
LOG2_E = log2(e)  # exp(x) is exp2(x * LOG2_E), and a GPU has exp2


def softmax(scores: Float[Tensor, "... S"], tile_width: int = MOST) -> Float[Tensor, "... S"]:
    """Shares that add up to one, in float32 inside. A score of -inf gets 0, a row of nothing else NaN, as in torch.

    ``tile_width``, a power of two, is the most numbers of a row that a program holds at once. Raises ValueError
    for rows that are not whole, and for a tile that is no power of two.
    Source: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018. Built in lesson `kernels`.
    """
    if not launches(scores):
        return scores.softmax(dim=-1, dtype=at_least_float32(scores.dtype)).to(scores.dtype)
    refuse_scattered(scores=scores)
    if tile_width < 1 or tile_width & (tile_width - 1):
        raise ValueError(f"a tile of {tile_width} numbers: its width is a power of two")
    width, out = scores.shape[-1], torch.empty_like(scores)
    launch(_softmax, (scores.numel() // width,), scores, out, width, BLOCK=tile(width, most=tile_width))
    return out


def cost(rows: int, width: int, number_bytes: int = 2, tile_width: int = MOST) -> Work:
    """Read once to know the row, once more where it is longer than a tile, and written. Built in lesson `kernels`."""
    reads = 1 if blocks(width, tile_width) == 1 else 2
    return Work(flops=8 * rows * width, bytes=(reads + 1) * rows * width * number_bytes)


@kernel
def _softmax(scores, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    best, total = float("-inf"), 0.0

    for start in range(0, width, BLOCK):
        part = tl.load(scores + row + start + at, mask=start + at < width, other=float("-inf")).to(tl.float32)
        new = tl.maximum(best, tl.max(part, axis=0))
        safe = tl.where(new == float("-inf"), 0.0, new)  # nothing but -inf so far
        total = total * tl.exp(best - safe) + tl.sum(tl.exp(part - safe), axis=0)
        best = new

    for start in range(0, width, BLOCK):
        part = tl.load(scores + row + start + at, mask=start + at < width, other=float("-inf")).to(tl.float32)
        share = tl.exp(part - best) / total
        tl.store(out + row + start + at, share.to(out.dtype.element_ty), mask=start + at < width)


@kernel
def fold(scores, values, best, total, mixed):
    """One tile more: M queries, N keys of which each query sees some (-inf: not), and the values of those keys.

    ``scores`` M N, in units of log 2, so that exp2 serves, which a GPU has in hardware; ``best`` and ``total`` M;
    ``mixed`` M V. At the end ``mixed / total`` is the mixture, and ``best + log2(total)`` what the scores add up to.
    """
    new = tl.maximum(best, tl.max(scores, axis=1))
    safe = tl.where(new == float("-inf"), 0.0, new)
    shrink = tl.exp2(best - safe)
    share = tl.exp2(scores - safe[:, None])
    total = total * shrink + tl.sum(share, axis=1)
    mixed = mixed * shrink[:, None] + tl.dot(share.to(values.dtype), values, input_precision="ieee")
    return new, total, mixed


VARIANTS = {"bfloat16": Variant(_softmax, "*bf16:16 *bf16:16 i32:16", {"BLOCK": MOST})}
