"""One query's keys divided among several programs, and their answers put together.

    keys     [ split 0 | split 1 | split 2 | split 3 ]      four programs, each with a softmax of its own
                  |         |         |         |           a mixture, and the log of what its scores add up to
                  +---------+----+----+---------+
                              combine                       weights that add up to one

A decoded token has few rows and a long cache: with one program per row most of a GPU would stand idle. The parts are
rows x splits x H x C numbers in float32, written and read once, which is little beside the cache.
"""

import torch

from helpers.kernels.launch import Variant, blocks, kernel, launch, tile, tl
from helpers.shapes import Float, Tensor

STAGES = 3  # tiles of the cache on their way to a program
PROGRAMS = 264  # enough for every multiprocessor of an H100 or H200 (132) to have two


def splits_for(programs: int, keys: int, least: int) -> int:
    """How many pieces the keys are cut into: until there are enough programs, and no piece is under ``least`` keys."""
    return max(1, min(blocks(PROGRAMS, programs), keys // least))


def heads_per_program(heads: int, x: Tensor) -> dict[str, int]:
    """How many heads of a query one program takes, how many warps work on them, and how many tiles are on their way.

    The more heads, the less often a row of the cache is loaded. 64 is what Hopper's matrix instructions want and what
    its registers hold with 512 numbers per head; earlier chips take 32, and float32 fits with 16, one tile at a time.
    """
    hopper = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) >= (9, 0)
    most = tile(heads, least=16, most=16 if x.dtype == torch.float32 else 64 if hopper else 32)
    return dict(HEADS=most, warps=4 if most == 16 else 8, stages=1 if x.dtype == torch.float32 else STAGES)


def combined(
    parts: Float[Tensor, "rows splits H C"], logs: Float[Tensor, "rows splits H"], dtype: torch.dtype
) -> Float[Tensor, "rows H C"]:
    """The mixture over all keys from the mixtures over each split. ``logs`` are in units of log 2."""
    rows, splits, heads, width = parts.shape
    out = torch.empty(rows, heads, width, dtype=dtype, device=parts.device)
    launch(_combine, (rows, heads), parts, logs, out, splits, width, SPLITS=tile(splits), C=tile(width, 16))
    return out


@kernel
def _combine(parts, logs, out, splits, width, SPLITS: tl.constexpr, C: tl.constexpr):
    row, head, heads = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    every, c = tl.arange(0, SPLITS), tl.arange(0, C)

    log = tl.load(logs + (row * splits + every) * heads + head, mask=every < splits, other=float("-inf"))
    highest = tl.max(log, axis=0)
    total = tl.sum(tl.exp2(log - highest), axis=0)

    context = tl.zeros((C,), tl.float32)
    for split in range(splits):
        place = (row * splits + split) * heads + head
        weight = tl.exp2(tl.load(logs + place) - highest) / total
        context += weight * tl.load(parts + place * width + c, mask=c < width, other=0.0)

    tl.store(out + (row * heads + head) * width + c, context.to(out.dtype.element_ty), mask=c < width)


VARIANTS = {"latent 512": Variant(_combine, "*fp32:16 *fp32:16 *bf16:16 i32 i32:16", dict(SPLITS=64, C=512))}
