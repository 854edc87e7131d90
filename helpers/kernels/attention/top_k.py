"""The k highest scores of a row, by position, without sorting: sibling of ``helpers.layers.dsa.select_tokens``.

    score -> 32 bits that count upwards as the scores do
      pass 1   256 bins of the first 8 bits    how many lie above? The k-th score is in bin 197, 31 of it are wanted
      pass 2   256 bins of the next 8 bits, of the scores in bin 197 only      ... pass 3, pass 4: all 32 bits are known
      pass 5   everything above that score, and the first few equal to it, written where a running count says

A radix select reads a row five times, 20 S bytes, but only the first time from memory: a row of 128k scores is half a
megabyte and stays in the cache. Comparing takes no FLOP worth counting. One program per row: a long row alone keeps one
multiprocessor busy and the others waiting, which is what the kernels of serving engines do better.
"""

import torch

from helpers.kernels.launch import Variant, kernel, launch, launches, refuse_scattered, tile, tl
from helpers.layers import dsa
from helpers.measure import Work
from helpers.shapes import Float, Int, Tensor

MOST = 2048  # scores a tile


def select_tokens(scores: Float[Tensor, "B T S"], k: int) -> Int[Tensor, "B T chosen"]:
    """The positions of the k highest scores in order of position, min(k, S) of them; among equals the earlier ones.

    -inf is never chosen, and -1 fills the rest. Raises ValueError for k < 1, rows in pieces, float64, no scores.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, equation 2. Built in lesson `kernels`.
    """
    if not launches(scores):
        return dsa.select_tokens(scores, k)
    refuse_scattered(scores=scores)
    if k < 1:
        raise ValueError(f"k is {k}: at least one position is chosen")
    batch, length, keys = scores.shape
    chosen = torch.full((batch, length, min(k, keys)), -1, dtype=torch.int64, device=scores.device)
    launch(_select, (batch * length,), scores, chosen, keys, min(k, keys), BLOCK=tile(keys, most=MOST))
    return chosen


def cost(rows: int, keys: int, k: int) -> Work:
    """From memory each float32 score is read once; k positions of 8 bytes are written. Built in lesson `kernels`."""
    return Work(flops=0, bytes=rows * (4 * keys + 8 * min(k, keys)))


@kernel
def _ordered(score):
    """32 bits, as an unsigned number, in the order of the scores; -0.0 is made 0.0, which it equals."""
    score = tl.where(score == 0.0, 0.0, score.to(tl.float32))
    bits = score.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) | -2147483648)).to(tl.uint32, bitcast=True)


@kernel
def _select(scores, chosen, keys, k, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    cut, wanted = tl.zeros((), tl.uint32), k + tl.zeros((), tl.int32)  # the highest bits of the k-th score so far

    for shift in tl.static_range(24, -1, -8):
        bins = tl.zeros((256,), tl.int32)
        for start in range(0, keys, BLOCK):
            score = tl.load(scores + row * keys + start + at, mask=start + at < keys, other=0.0)
            bits = _ordered(score)
            alike = start + at < keys
            if shift < 24:
                alike = alike & ((bits >> (shift + 8)) == cut)
            bins += tl.histogram(((bits >> shift) & 255).to(tl.int32), 256, mask=alike)
        upwards = tl.cumsum(bins, axis=0, reverse=True)  # how many lie in this bin and in those above
        place = tl.sum((upwards >= wanted).to(tl.int32), axis=0) - 1
        wanted -= tl.sum(tl.where(tl.arange(0, 256) > place, bins, 0), axis=0)
        cut = (cut << 8) | place.to(tl.uint32)

    written = tl.zeros((), tl.int32)
    for start in range(0, keys, BLOCK):
        score = tl.load(scores + row * keys + start + at, mask=start + at < keys, other=float("-inf"))
        bits = _ordered(score)
        seen = score > float("-inf")
        level = (seen & (bits == cut)).to(tl.int32)
        take = (seen & (bits > cut)) | ((level > 0) & (tl.cumsum(level, axis=0) <= wanted))
        slot = written + tl.cumsum(take.to(tl.int32), axis=0) - 1
        tl.store(chosen + row * k + slot, (start + at).to(tl.int64), mask=take)
        wanted -= tl.sum(level, axis=0)
        written += tl.sum(take.to(tl.int32), axis=0)


VARIANTS = {"float32": Variant(_select, "*fp32:16 *i64:16 i32:16 i32:16", dict(BLOCK=MOST), warps=8)}
