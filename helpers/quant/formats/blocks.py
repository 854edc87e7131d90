"""A scale for many numbers: a matrix cut into blocks of some rows and some columns.

    (128, 128)   a square, as FP8 checkpoints have it        (1, 32)   a group of 32 numbers in a row

A block at the edge of a matrix may be smaller than the others: 576 rows are four blocks of 128 and a half.
"""

import math

import torch

from helpers.shapes import Float, Tensor

Block = tuple[int, int]  # rows and columns that share a scale
LARGEST = 1e37  # beyond it the sums that scales are made of leave float32


def blocks_of(shape: tuple[int, int], block: Block) -> tuple[int, int]:
    """How many blocks a matrix has, down and across; those at the edge may be ragged."""
    return math.ceil(shape[0] / block[0]), math.ceil(shape[1] / block[1])


def check_blocks(shape: tuple[int, ...], scale: tuple[int, ...], block: Block) -> None:
    """ValueError unless a matrix of ``shape`` in blocks has exactly a scale of the shape ``scale``."""
    if len(shape) != 2:
        raise ValueError(f"has the shape {list(shape)}; only matrices are packed")
    if tuple(scale) != blocks_of(shape, block):
        wanted = f"{list(blocks_of(shape, block))} are needed for blocks of {block[0]}x{block[1]}"
        raise ValueError(f"is {list(shape)} with scales {list(scale)}, and {wanted}")


def largest(weight: Float[Tensor, "rows columns"], block: Block) -> Float[Tensor, "down across"]:
    """The largest absolute value of each block, float32; the edge is filled up with zeros."""
    down, across = blocks_of(weight.shape, block)
    padding = (0, across * block[1] - weight.shape[1], 0, down * block[0] - weight.shape[0])
    cut = torch.nn.functional.pad(weight.float().abs(), padding).view(down, block[0], across, block[1])
    return cut.amax(dim=(1, 3))


def spread(scale: Tensor, shape: tuple[int, ...], block: Block) -> Float[Tensor, "rows columns"]:
    """Each of the scales [down, across], of any type, beside every number that it belongs to; cut off at the edge."""
    wide = scale.float().repeat_interleave(block[1], dim=1)[:, : shape[1]]
    return wide if block[0] == 1 else wide.repeat_interleave(block[0], dim=0)[: shape[0]]


def not_zero(scale: Tensor) -> Tensor:
    """A block of zeros has any scale; one cannot be divided by zero."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def as_scale(scale: Tensor, dtype: torch.dtype, steps: int) -> Tensor:
    """Scales as they are stored, none of them zero.

    ValueError where one is not finite, too large for ``dtype``, or so large that ``steps`` of it leave float32.
    """
    stored = not_zero(scale.to(dtype))
    if not (stored.float() * steps).isfinite().all():
        raise ValueError(f"{steps} steps of a scale of {scale.max().item():.3g} are more than {dtype} or float32 holds")
    return stored


def check_numbers(weight: Tensor) -> None:
    """ValueError for NaN, infinity, or a number above 1e37 or above half of what float16 holds.

    What a format gives back may be a step larger than what it was given; the half leaves room for it. One pass, and no
    copy of the weight.
    """
    if not weight.numel():
        return
    least, most = (end.item() for end in weight.detach().aminmax())
    if not (math.isfinite(least) and math.isfinite(most)):
        wrong = int((~weight.isfinite()).sum())
        raise ValueError(f"{wrong} of {weight.numel()} numbers are NaN or infinite, which no format stores")
    room = min(LARGEST, torch.finfo(weight.dtype).max / 2)
    if (size := max(-least, most)) > room:
        raise ValueError(f"the largest of its numbers is {size:.3g}, and {weight.dtype} is packed up to {room:.3g}")
