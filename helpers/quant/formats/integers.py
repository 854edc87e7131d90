"""Whole numbers times a scale: INT8 and INT4, symmetric or with a zero point, and the grid that every rounder uses.

symmetric    scale = largest / high                value = scale x code            INT8 absmax, INT4 in Kimi's files
affine       scale = (most - least) / high         value = scale x (code - zero)   GPTQ, AWQ

**Whose INT4 this is.** Kimi K2.5 is published as "compressed-tensors" holds INT4 ("pack-quantized", groups of 32,
symmetric). How its training chose the codes is not published. Others who looked found what ``int4_codes`` does, largest
/ 7 and codes -7 to 7: all experts of one layer of K2.5, packed again that way, have the same scales and codes bit for
bit (https://huggingface.co/eatang/Kimi-K2.5-2layer-BF16), and experts of K2 Thinking keep their values with 15 codes
(https://github.com/ggml-org/llama.cpp/pull/17064). The library of that name itself rounds by another rule, largest /
7.5 and codes -8 to 7 (compressed-tensors 0.20.1, ``calculate_qparams``); ``unpack_int4`` reads either.
"""

from typing import NamedTuple

import torch
from jaxtyping import Int8, Integer

from helpers.quant.formats.blocks import Block, as_scale, check_blocks, largest, not_zero, spread
from helpers.quant.formats.packing import check_words, unpack_words
from helpers.shapes import Float, Int, Tensor

INT8_LARGEST, INT4_LARGEST = 127, 7  # -128 and -8 stay unused, so that zero lies in the middle


class Grid(NamedTuple):
    """The values that the numbers of a matrix may take: scale x (code - zero), a scale and a zero for each group."""

    scale: Float[Tensor, "O groups"]
    zero: Float[Tensor, "O groups"]  # whole numbers; 0 everywhere where the grid is symmetric
    low: int  # the least code
    high: int


def grid_of(
    weight: Float[Tensor, "O I"],
    bits: int,
    group: int | None = None,
    symmetric: bool = True,
    scale_dtype: torch.dtype = torch.float32,
) -> Grid:
    """The grid on which the largest number of each ``group`` of a row just finds room; no group is the whole row.

    Symmetric codes go from -(2^(bits-1) - 1) to as much above, affine ones from 0 to 2^bits - 1; zero is always one of
    the values. ValueError for bits other than 2 to 8, a width that the groups do not divide, or a scale that
    ``scale_dtype`` does not hold (numbers that are not finite have none). Built in lesson `formats`.
    """
    if not 2 <= bits <= 8:
        raise ValueError(f"{bits} bits per code; a grid has 2 to 8")
    groups = grouped(weight.float(), group or weight.shape[1])
    if symmetric:
        high = 2 ** (bits - 1) - 1
        scale = as_scale(groups.abs().amax(dim=-1) / high, scale_dtype, high)
        return Grid(scale, torch.zeros_like(scale), -high, high)
    high = 2**bits - 1
    least, most = groups.amin(dim=-1).clamp(max=0), groups.amax(dim=-1).clamp(min=0)
    scale = as_scale((most - least) / high, scale_dtype, high)
    zero = (-least / scale.float()).round().clamp(0, high)
    return Grid(scale, zero.to(scale.dtype), 0, high)


def round_to(weight: Float[Tensor, "O I"], grid: Grid) -> Int[Tensor, "O I"]:
    """The code (int32) of the value nearest to each number; halfway goes to the even one. Built in lesson `formats`."""
    numbers = grouped(weight.float(), _width(weight, grid))
    codes = nearest(numbers, grid.scale.float()[..., None], grid.zero.float()[..., None], grid.low, grid.high)
    return codes.flatten(1).to(torch.int32)


def nearest(
    numbers: Float[Tensor, "*rest"], scale: Float[Tensor, "..."], zero: Float[Tensor, "..."], low: int, high: int
) -> Float[Tensor, "*rest"]:
    """The code of each number, still floating point, where ``scale`` and ``zero`` stand beside the numbers."""
    return (numbers / scale).round_().add_(zero).clamp_(low, high)


def from_codes(codes: Integer[Tensor, "O I"], grid: Grid) -> Float[Tensor, "O I"]:
    """The values of codes, float32. Built in lesson `formats`."""
    width = _width(codes, grid)
    steps = grouped(codes.float(), width) - grid.zero.float()[..., None]
    return (steps * grid.scale.float()[..., None]).flatten(1)


def grouped(weight: Tensor, group: int) -> Tensor:
    """A matrix as [O, groups, group]. ValueError when the groups do not divide its width."""
    if weight.shape[1] % group:
        raise ValueError(f"a row of {weight.shape[1]} cannot be cut into groups of {group}: the width must divide")
    return weight.unflatten(1, (-1, group))


def _width(matrix: Tensor, grid: Grid) -> int:
    """How many numbers of a row share a scale of the grid."""
    rows, groups = grid.scale.shape
    if len(matrix) != rows or matrix.shape[1] % groups:
        raise ValueError(f"a grid of {rows} rows and {groups} groups does not fit a matrix of {list(matrix.shape)}")
    return matrix.shape[1] // groups


def vectorwise(rows: Float[Tensor, "O I"]) -> tuple[Int8[Tensor, "O I"], Float[Tensor, " O"]]:
    """INT8 with one scale per row: codes -127 to 127, and float32 scales. Of weights, or of the tokens of a layer.

    Each number is multiplied by 127 / largest, as bitsandbytes does it: divided by the scale instead, one number in
    millions falls on the other side of a half. Source: Dettmers et al., "LLM.int8()", 2022, section 3.
    Built in lesson `formats`.
    """
    most = not_zero(rows.float().abs().amax(dim=1))
    steps = (INT8_LARGEST / most).clamp(max=torch.finfo(torch.float32).max)
    codes = (rows.float() * steps[:, None]).round().clamp(-INT8_LARGEST, INT8_LARGEST)
    return codes.to(torch.int8), most / INT8_LARGEST


def int4_codes(
    weight: Float[Tensor, "rows columns"], group: int = 32, scale_dtype: torch.dtype = torch.bfloat16
) -> tuple[Int[Tensor, "rows columns"], Float[Tensor, "rows groups"]]:
    """Codes -7 to 7 (int32) and scales, such that the largest of each group becomes 7; the last group may be ragged.

    ValueError where ``scale_dtype`` does not hold a scale.
    """
    block: Block = (1, group)
    scale = as_scale(largest(weight, block) / INT4_LARGEST, scale_dtype, INT4_LARGEST)
    numbers = (weight.float() / spread(scale, weight.shape, block)).round()
    return numbers.clamp(-INT4_LARGEST, INT4_LARGEST).int(), scale


def unpack_int4(
    packed: Int[Tensor, "rows words"],
    scale: Float[Tensor, "rows groups"],
    shape: tuple[int, int],
    dtype: torch.dtype = torch.float32,
    group: int = 32,
) -> Float[Tensor, "rows columns"]:
    """Eight numbers in each int32, the first in the lowest bits, each stored as itself plus 8.

    ``shape`` is the matrix's (``weight_shape`` in the files): the last int32 of a row may be filled up. ValueError when
    the three do not fit each other. Source: vllm-project/compressed-tensors, "pack-quantized". Built in lesson
    `formats`.
    """
    check_blocks(shape, scale.shape, (1, group))
    check_words(shape, packed.shape)
    numbers = unpack_words(packed, shape[1]) - 8
    return (numbers.float() * spread(scale, numbers.shape, (1, group))).to(dtype)
