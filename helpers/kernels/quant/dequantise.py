"""Packed weights as kernels read them: how codes are laid into words, and a tile of numbers made of them in registers.

    a word of 32 bits    code   0   2   4   6   1   3   5   7        shift by 4 j and mask: codes 2 j and 2 j + 1
                         bits   0   4   8  12  16  20  24  28        stand in the two halves of the word

Two 16-bit numbers of neighbouring columns in one register is what the matrix instructions take. A code is made a number
without being converted: put into the last bits of 128 (bfloat16) or 1024 (float16) it is that plus the code, and one
subtraction for both halves leaves the code. A token's time is as much decoding as memory, so instructions per weight
decide (LOG.md counts them): the order of the files, two codes per byte, costs half as many again.

FP8 and INT8 lie as files hold them. E4M3 becomes a 16-bit number by its bits: sign, exponent and fraction shifted into
place are the number, subnormals included, over a power of two.
"""

import functools

import torch

from helpers.kernels.launch import kernel, tl
from helpers.quant.formats.named import Encoded
from helpers.quant.formats.normal_float import BLOCK, NF4
from helpers.quant.formats.packing import pack_pairs, pack_words, unpack_pairs, unpack_words
from helpers.shapes import Tensor

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the column, of eight, whose code lies in each place of a word
BACK = tuple(ORDER.index(column) for column in range(8))
WORDS = ("int4", "nf4")  # formats of four bits
SHARED = {"int4": 32, "nf4": BLOCK, "fp8": 128}  # columns of a row that share a scale; int8: the whole row
FORMATS = (*WORDS, "fp8", "int8")
POWERS = {torch.bfloat16: 0x43004300, torch.float16: 0x64006400}  # 128 and 128, 1024 and 1024


def lay(encoded: Encoded) -> dict[str, Tensor]:
    """The tensors of a matrix as the kernels read them: ``codes`` and ``scale``, no byte more than in the file.

    Raises ValueError for a format without a kernel. Built in lesson `kernels`.
    """
    if encoded.format not in FORMATS:
        raise ValueError(f"there is no kernel for {encoded.format!r}; there is one for {', '.join(FORMATS)}")
    codes, scale = encoded.parts["codes"], encoded.parts["scale"].contiguous()
    if encoded.format not in WORDS:
        return {"codes": codes.view(torch.uint8) if encoded.format == "fp8" else codes, "scale": scale}
    ordered = unpack_pairs(codes, encoded.shape[1], first_high=encoded.format == "nf4")
    return {"codes": pack_words(ordered.unflatten(1, (-1, 8))[..., ORDER].flatten(1)), "scale": scale}


def take_back(laid: dict[str, Tensor], name: str, shape: tuple[int, int]) -> Encoded:
    """The matrix as its format stores it. Built in lesson `kernels`."""
    codes, scale = laid["codes"], laid["scale"]
    if name in WORDS:
        ordered = unpack_words(codes, shape[1]).unflatten(1, (-1, 8))[..., BACK].flatten(1)
        codes = pack_pairs(ordered, first_high=name == "nf4")
    elif name == "fp8":
        codes = codes.view(torch.float8_e4m3fn)
    return Encoded(name, shape, {"codes": codes, "scale": scale})


def table_of(name: str, like: Tensor) -> Tensor:
    """What decoding looks up, where the kernel runs: NF4's values, the two powers of two that INT4's codes go into."""
    if name not in WORDS:
        return like
    return _table(name, like.dtype, like.device)


@functools.cache  # a copy from the CPU at each call would be waited for, and could not be captured in a graph
def _table(name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    if name == "nf4":
        return NF4.to(device)
    return torch.tensor([POWERS.get(dtype, 0)], dtype=torch.int32, device=device)


@kernel
def weights(
    codes, scale, table, row, start, rows, width, stride, step, groups,
    FORMAT: tl.constexpr, SHARED: tl.constexpr, TILE: tl.constexpr, DEEP: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Numbers [TILE, DEEP] of a packed matrix: rows ``row``, columns from ``start``; zeros outside it.

    From row to row of ``codes`` it is ``stride``, from column to column ``step`` (1, but where a plain matrix lies the
    other way); ``groups`` is the length of a row of ``scale``.
    """
    if FORMAT == "plain":
        column = start + tl.arange(0, DEEP)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        at = row[:, None].to(tl.int64) * stride + column[None, :].to(tl.int64) * step
        number = tl.load(codes + at, mask=inside, other=0.0)
    elif FORMAT == "int4" or FORMAT == "nf4":
        word = start // 8 + tl.arange(0, DEEP // 8)
        inside = (row < rows)[:, None] & (word < stride)[None, :]
        eight = tl.load(codes + row[:, None].to(tl.int64) * stride + word[None, :], mask=inside, other=0)
        share = _scales(scale, row, start, rows, groups, SHARED, DEEP)
        number = tl.reshape(_values(eight, table, FORMAT, DTYPE), (TILE, DEEP // SHARED, SHARED))
        if FORMAT == "int4":  # its scales are exact in 16 bits, and so is the code: one rounding, as in float32
            share = share.to(DTYPE)
        number = tl.reshape((number * share[:, :, None]).to(DTYPE), (TILE, DEEP))
    else:
        column = start + tl.arange(0, DEEP)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        code = tl.load(codes + row[:, None].to(tl.int64) * stride + column[None, :], mask=inside, other=0)
        number = _e4m3(code, DTYPE) if FORMAT == "fp8" else code.to(DTYPE)  # their scales wait for the product
    return number


@kernel
def multiplied(total, number, right, scale, row, start, groups, FORMAT: tl.constexpr, SHARED: tl.constexpr):
    """``total`` and the product of a tile with its tokens. FP8's rows and columns of one tile have one scale."""
    if FORMAT == "fp8":
        share = tl.load(scale + tl.min(row, axis=0) // SHARED * groups + start // SHARED)
        total += share * tl.dot(number, right, input_precision="ieee")
    else:
        total = tl.dot(number, right, total, input_precision="ieee")
    return total


@kernel
def finished(total, scale, row, rows, FORMAT: tl.constexpr):
    """INT8 has one scale per row, which waits for the sum; the others are done."""
    if FORMAT == "int8":
        total = total * tl.load(scale + row, mask=row < rows, other=0.0)[:, None]
    return total


@kernel
def _scales(scale, row, start, rows, groups, SHARED: tl.constexpr, DEEP: tl.constexpr):
    """Scales [TILE, DEEP / SHARED] of the groups from column ``start`` on."""
    group = start // SHARED + tl.arange(0, DEEP // SHARED)
    inside = (row < rows)[:, None] & (group < groups)[None, :]
    return tl.load(scale + row[:, None].to(tl.int64) * groups + group[None, :], mask=inside, other=0.0).to(tl.float32)


@kernel
def _values(word, table, FORMAT: tl.constexpr, DTYPE: tl.constexpr):
    """The numbers, before their scale, of the eight codes of each word, column after column."""
    pair = word[:, :, None] >> (4 * tl.arange(0, 4))[None, None, :]
    if FORMAT == "nf4":
        first, second = tl.load(table + (pair & 15)), tl.load(table + ((pair >> 16) & 15))
        number = tl.interleave(first, second)
    elif DTYPE == tl.bfloat16:  # noqa: SIM300
        pair = (pair & 0x000F000F) | tl.load(table)
        number = tl.interleave(pair.to(tl.int16), (pair >> 16).to(tl.int16)).to(tl.bfloat16, bitcast=True) - 136.0
    elif DTYPE == tl.float16:  # noqa: SIM300
        pair = (pair & 0x000F000F) | tl.load(table)
        number = tl.interleave(pair.to(tl.int16), (pair >> 16).to(tl.int16)).to(tl.float16, bitcast=True) - 1032.0
    else:
        number = tl.interleave(pair & 15, (pair >> 16) & 15).to(DTYPE) - 8.0
    return number


@kernel
def _e4m3(byte, DTYPE: tl.constexpr):
    """The number of each byte, exact: as bfloat16 over 2^120, as float16 over 2^8, multiplied back."""
    byte = byte.to(tl.int16)
    sign = (byte & 0x80) << 8
    if DTYPE == tl.bfloat16:  # noqa: SIM300
        number = (sign | ((byte & 0x7F) << 4)).to(tl.bfloat16, bitcast=True) * 1.329227995784916e36
    else:
        number = ((sign | ((byte & 0x7F) << 7)).to(tl.float16, bitcast=True) * 256.0).to(DTYPE)
    return number
