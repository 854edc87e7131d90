"""Fast ways on a CPU: torch's own kernels for INT8 and INT4, and bitsandbytes' for NF4.

Each reads the codes as they are and widens them in registers, so that a token costs the bytes that are stored. That is
worth it for few tokens; for many the arithmetic decides, and a plain matrix product on the decoded matrix is faster.
With float32 tokens torch's kernels are slow reference code (four to nine times slower than no quantisation), so these
ways are for bfloat16. ``course measure quant`` has the numbers.
"""

import functools
import logging
import math
from collections.abc import Callable

import torch
from torch.nn import functional

from helpers.quant.backends import DYNAMIC, Way, Ways
from helpers.quant.formats.integers import vectorwise
from helpers.quant.formats.named import Encoded, Shape, Tensors
from helpers.quant.formats.normal_float import BLOCK, NF4
from helpers.quant.formats.packing import pack_pairs, unpack_pairs
from helpers.shapes import Float, Tensor

# Tokens up to which a kernel takes less time than decoding and one product, with layers 2048 and 4096 wide. NF4's does
# so with 512 tokens still, the most that were tried: a look-up in a table is slow to decode.
MOST_INT8, MOST_INT4, MOST_NF4 = 32, 96, math.inf
ROWS_AT_ONCE = 256  # decoded for many tokens: 2 MB of bfloat16 where they are 4096 wide
ROWS_ALONE = 3  # so few tokens torch._int_mm multiplies faster one by one

# Rows that torch's INT4 layout mixes, by the vector instructions that it was built for.
ROWS_PER_BLOCK = {"AVX512": 64, "AVX2": 32}
INT4_GROUPS = (32, 64, 128, 256)
NF4_ROWS = 32  # rows that bitsandbytes' layout mixes

Decode = Callable[[Tensors, Shape, torch.dtype], Tensor]


def _decoded(
    x: Float[Tensor, "tokens I"], decode: Decode, cut: Callable[[Tensors, slice], Tensors], tensors: Tensors, rows: int
) -> Float[Tensor, "tokens O"]:
    """Many tokens times some decoded rows at a time: they stay in the cache, and no whole matrix is ever made."""
    made = []
    for begin in range(0, rows, ROWS_AT_ONCE):
        end = min(begin + ROWS_AT_ONCE, rows)
        weight = decode(cut(tensors, slice(begin, end)), (end - begin, x.shape[1]), x.dtype)
        made.append(functional.linear(x, weight))
    return torch.cat(made, dim=-1)


# INT8: the codes lie as the format stores them.


def _fits_int8(encoded: Encoded) -> bool:
    """With a width that 16 does not divide, torch 2.13 reads behind the row's end: wrong numbers, or a crash."""
    return encoded.shape[1] % 16 == 0


def _decode_int8(tensors: Tensors, shape: Shape, dtype: torch.dtype) -> Float[Tensor, "O I"]:
    """In float32 and rounded once, in a single pass over memory."""
    out = torch.empty(shape, dtype=dtype, device=tensors["codes"].device)
    return torch.mul(tensors["codes"], tensors["scale"][:, None], out=out)


def _multiply_int8(x: Float[Tensor, "tokens I"], tensors: Tensors) -> Float[Tensor, "tokens O"]:
    if len(x) > MOST_INT8:
        return _decoded(x, _decode_int8, _rows_int8, tensors, len(tensors["codes"]))
    return torch._weight_int8pack_mm(x, tensors["codes"], tensors["scale"].to(x.dtype))


def _rows_int8(tensors: Tensors, rows: slice) -> dict[str, Tensor]:
    return {part: tensor[rows] for part, tensor in tensors.items()}


def _multiply_dynamic(x: Float[Tensor, "tokens I"], tensors: Tensors) -> Float[Tensor, "tokens O"]:
    """Whole numbers times whole numbers, added up without rounding; then the scales of the token and of the row."""
    codes, scale = vectorwise(x)
    pieces = codes.split(1) if 1 < len(codes) <= ROWS_ALONE else [codes]
    sums = [torch._int_mm(piece, tensors["codes"].T) for piece in pieces]
    sums = torch.cat(sums) if len(sums) > 1 else sums[0]
    return (sums * scale[:, None] * tensors["scale"]).to(x.dtype)


# INT4: blocks of rows side by side, two rows a byte, column after column.


def _fits_int4(encoded: Encoded) -> bool:
    rows = ROWS_PER_BLOCK.get(torch.backends.cpu.get_cpu_capability())
    group = encoded.shape[1] // encoded.parts["scale"].shape[1]
    return rows is not None and encoded.shape[0] % rows == 0 and group in INT4_GROUPS


def _pack_int4(encoded: Encoded) -> dict[str, Tensor]:
    """The kernel multiplies (code - 8) by a scale and adds a number, so a zero point becomes scale x (8 - zero)."""
    scale, zero = encoded.parts["scale"], _zero(encoded.parts)
    codes = unpack_pairs(encoded.parts["codes"], encoded.shape[1]).int()
    both = torch.stack([scale, scale * (8 - zero.to(scale.dtype))], dim=-1)  # not in bytes, where 8 - 9 is 255
    laid = {
        "words": torch._convert_weight_to_int4pack_for_cpu(codes, 1),
        "scale_and_shift": both.transpose(0, 1).contiguous(),
    }
    return laid | {name: part for name, part in encoded.parts.items() if name == "zero"}


def _unpack_int4(tensors: Tensors, shape: Shape) -> dict[str, Tensor]:
    codes = torch.stack(_halves(tensors["words"], shape), dim=1).view(shape)
    parts = {"codes": pack_pairs(codes), "scale": tensors["scale_and_shift"][..., 0].T.contiguous()}
    return parts | {name: part for name, part in tensors.items() if name == "zero"}


def _decode_int4(tensors: Tensors, shape: Shape, dtype: torch.dtype) -> Float[Tensor, "O I"]:
    """One half of the bytes after the other, straight into its rows: as few passes over memory as there are."""
    halves = _halves(tensors["words"], shape)
    blocks, rows, _ = halves[0].shape
    scale = tensors["scale_and_shift"][..., 0].T.to(dtype)
    zero = _zero({**tensors, "scale": scale}).to(dtype)
    cut = (blocks, 2, rows, scale.shape[1])
    out = torch.empty(*cut, shape[1] // scale.shape[1], dtype=dtype, device=scale.device)
    scale, zero = scale.reshape(*cut, 1), zero.reshape(*cut, 1)
    for half, codes in enumerate(halves):
        steps = codes.view(out[:, half].shape).to(dtype) - zero[:, half]
        torch.mul(steps, scale[:, half], out=out[:, half])
    return out.view(shape)


def _halves(words: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """The codes of the first and of the second half of each block's rows: [blocks, rows / 2, I] each."""
    rows = ROWS_PER_BLOCK[torch.backends.cpu.get_cpu_capability()]
    blocks = words.view(shape[0] // rows, shape[1], rows // 2).mT.contiguous()
    return blocks & 15, blocks >> 4


def _zero(parts: Tensors) -> Tensor:
    """The code that stands for zero, for each group; 8 where the format is symmetric."""
    groups = parts["scale"].shape[1]
    if "zero" in parts:
        return unpack_pairs(parts["zero"], groups)
    return torch.full_like(parts["scale"], 8, dtype=torch.uint8)


def _multiply_int4(x: Float[Tensor, "tokens I"], tensors: Tensors) -> Float[Tensor, "tokens O"]:
    if len(x) > MOST_INT4:
        return _decoded(x, _decode_int4, _rows_int4, tensors, len(tensors["words"]))
    group = x.shape[1] // len(tensors["scale_and_shift"])
    return torch._weight_int4pack_mm_for_cpu(x.contiguous(), tensors["words"], group, tensors["scale_and_shift"])


def _rows_int4(tensors: Tensors, rows: slice) -> dict[str, Tensor]:
    """Whole blocks of rows lie in one piece."""
    return {part: tensor[:, rows] if part == "scale_and_shift" else tensor[rows] for part, tensor in tensors.items()}


# NF4: rows r and r + 16 of a block share a byte, and the scales lie by columns and in bfloat16 too.


@functools.cache
def _bitsandbytes():
    """bitsandbytes, imported when the first NF4 layer asks: it takes a second, and warns of a GPU package."""
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    import bitsandbytes

    return bitsandbytes


def _fits_nf4(encoded: Encoded) -> bool:
    return encoded.shape[0] % NF4_ROWS == 0 and bool(_bitsandbytes().functional.has_avx512bf16())


def _pack_nf4(encoded: Encoded) -> dict[str, Tensor]:
    rows, columns = encoded.shape
    codes = unpack_pairs(encoded.parts["codes"], first_high=True)
    low, high = codes.view(rows // NF4_ROWS, 2, NF4_ROWS // 2, columns // 2, 2).transpose(2, 3).unbind(1)
    scale = encoded.parts["scale"]
    by_column = scale.to(torch.bfloat16).T.contiguous()  # for the kernel; the exact ones stay for decoding
    return {"pairs": (low | high << 4).contiguous().view(rows, columns // 2), "scale": scale, "by_column": by_column}


def _unpack_nf4(tensors: Tensors, shape: Shape) -> dict[str, Tensor]:
    rows, columns = shape
    halves = tensors["pairs"].view(rows // NF4_ROWS, columns // 2, NF4_ROWS // 2, 2)
    codes = torch.stack([halves & 15, halves >> 4], dim=1).transpose(2, 3).reshape(rows, columns)
    return {"codes": pack_pairs(codes, first_high=True), "scale": tensors["scale"]}


def _decode_nf4(tensors: Tensors, shape: Shape, dtype: torch.dtype) -> Float[Tensor, "O I"]:
    return Encoded("nf4", shape, _unpack_nf4(tensors, shape)).decode(dtype)


def _multiply_nf4(x: Float[Tensor, "tokens I"], tensors: Tensors) -> Float[Tensor, "tokens O"]:
    shape = (tensors["by_column"].shape[1], x.shape[1])
    laid = (tensors["pairs"], shape, tensors["by_column"], NF4, BLOCK)
    return torch.ops.bitsandbytes.gemv_4bit(x.contiguous(), *laid)


def _as_it_is(tensors: Tensors, shape: Shape) -> dict[str, Tensor]:
    return dict(tensors)


def _always(encoded: Encoded) -> bool:
    return True


_INT4 = Way(_fits_int4, _pack_int4, _unpack_int4, _decode_int4, _multiply_int4)
_DYNAMIC_TOKENS = (torch.bfloat16, torch.float32)  # whole numbers are multiplied, whatever the tokens were

CPU: Ways = {
    "int8": Way(_fits_int8, Encoded.tensors, _as_it_is, _decode_int8, _multiply_int8),
    DYNAMIC: Way(_always, Encoded.tensors, _as_it_is, _decode_int8, _multiply_dynamic, dtypes=_DYNAMIC_TOKENS),
    "int4": _INT4,
    "int4-affine": _INT4,
    "nf4": Way(_fits_nf4, _pack_nf4, _unpack_nf4, _decode_nf4, _multiply_nf4, MOST_NF4),
}
