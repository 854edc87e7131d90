"""Tokens times a packed matrix: sibling of ``x @ encoded.decode().T``, for few tokens.

              tokens x^T                    out: one program per tile of 32 rows of the matrix, which it walks along I,
              | 8 |                         256 columns at a time: load codes and scales, make numbers of them in
    codes -> [:..:]  32 x 256 in registers  registers, multiply, add up in float32. With few programs the columns are
              | + |                         split too, and the pieces added up afterwards in one order (split-K).
              out^T

The matrix is the left factor, so its numbers go from registers into the matrix instructions, and the few tokens lie in
shared memory. Bytes: every code and scale once, O I b / 8, plus tokens (I + O) numbers. FLOP: 2 tokens O I. One token
gives 16 / b FLOP per byte: memory decides, and b bits instead of 16 are up to 16 / b times as fast, if decoding keeps
up.
"""

import torch
from torch.nn import functional

from helpers.kernels.launch import Variant, blocks, kernel, launch, launches, refuse_scattered, tile, tl
from helpers.kernels.quant.dequantise import FORMATS, SHARED, WORDS, finished, lay, multiplied, table_of, weights
from helpers.measure import Work, matmul_work
from helpers.quant.formats.named import Encoded
from helpers.shapes import Float, Tensor

PROGRAMS = 264  # two for each of an H100's 132 multiprocessors: with fewer the columns are split
MOST_SPLITS = 16
DEEP = 256  # columns a step


def packed_linear(x: Float[Tensor, "tokens I"], encoded: Encoded) -> Float[Tensor, "tokens O"]:
    """``x @ encoded.decode().T``. Lays the codes out first; a layer does that once (``lay``, then ``multiply``).

    Raises ValueError as ``lay`` and ``multiply`` do. Built in lesson `kernels`.
    """
    if not launches(x):
        return functional.linear(x, encoded.decode(x.dtype))
    return multiply(x, lay(encoded), encoded.format)


def multiply(x: Float[Tensor, "tokens I"], laid: dict[str, Tensor], name: str) -> Float[Tensor, "tokens O"]:
    """Tokens times a matrix in the layout of ``lay``, transposed. No gradient.

    Raises ValueError for a width that is not the matrix's, tensors in pieces, an unknown format. Built in lesson
    `kernels`.
    """
    rows, width = _refuse(x, laid, name)
    codes, scale, tokens = laid["codes"], laid["scale"], len(x)
    wide, warps = (tile(tokens, 8, 16), 2) if tokens <= 16 else (tile(tokens, 32, 64), 4)
    tall, deep = (32, DEEP) if tokens <= 16 and name != "fp8" else (32 if tokens <= 16 else 64, DEEP // 2)
    grid = blocks(rows, tall), blocks(tokens, wide)
    splits = min(max(PROGRAMS // (grid[0] * grid[1]), 1), blocks(width, deep), MOST_SPLITS)
    out = x.new_empty(splits, tokens, rows, dtype=x.dtype if splits == 1 else torch.float32)
    launch(
        _packed_linear, (*grid, splits),
        x, codes, scale, table_of(name, x), out, tokens, rows, width, codes.stride(0), 1, scale[0].numel(),
        warps=warps, FORMAT=name, SHARED=SHARED.get(name), TALL=tall, WIDE=wide, DEEP=deep,
    )  # fmt: skip
    return out[0] if splits == 1 else out.sum(dim=0).to(x.dtype)


def cost(tokens: int, width: int, rows: int, bits: float) -> Work:
    """``bits`` a weight with its share of the scales: ``encoded.bits_per_weight``. Built in lesson `kernels`."""
    return matmul_work(tokens, width, rows, bits, activation_bits=16)


def _refuse(x: Tensor, laid: dict[str, Tensor], name: str) -> tuple[int, int]:
    """The sizes of the matrix."""
    if name not in FORMATS:
        raise ValueError(f"there is no kernel for {name!r}; there is one for {', '.join(FORMATS)}")
    refuse_scattered(x=x)
    rows, width = laid["codes"].shape[0], laid["codes"].shape[1] * (8 if name in WORDS else 1)
    if x.dim() != 2 or x.shape[1] != width:
        raise ValueError(f"tokens are {tuple(x.shape)}; a matrix of {rows} x {width} takes rows of {width}")
    for part, tensor in laid.items():
        if tensor.device != x.device or not tensor.is_contiguous():
            raise ValueError(f"{part} is on {tensor.device} with strides {tensor.stride()}; x is on {x.device}")
    return rows, width


@kernel
def _packed_linear(
    x, codes, scale, table, out, tokens, rows, width, stride, step, groups,
    FORMAT: tl.constexpr, SHARED: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * TALL + tl.arange(0, TALL)
    token = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    split, splits = tl.program_id(2), tl.num_programs(2)
    total = tl.zeros((TALL, WIDE), tl.float32)

    for step in range(split, tl.cdiv(width, DEEP), splits):
        start = step * DEEP
        number = weights(
            codes,
            scale,
            table,
            row,
            start,
            rows,
            width,
            stride,
            step,
            groups,
            FORMAT,
            SHARED,
            TALL,
            DEEP,
            x.dtype.element_ty,
        )
        deep = start + tl.arange(0, DEEP)
        inside = (deep < width)[:, None] & (token < tokens)[None, :]
        right = tl.load(x + token[None, :].to(tl.int64) * width + deep[:, None], mask=inside, other=0.0)
        total = multiplied(total, number, right, scale, row, start, groups, FORMAT, SHARED)

    total = finished(total, scale, row, rows, FORMAT)
    at = (split * tokens + token)[None, :].to(tl.int64) * rows + row[:, None]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (token < tokens)[None, :])


def _variant(name: str, codes: str, scale: str, tall: int, wide: int, warps: int, deep: int = DEEP) -> Variant:
    table = "i32" if name == "int4" else "fp32"
    types = f"*bf16:16 *{codes}:16 *{scale}:16 *{table}:16 *bf16:16 i32 i32:16 i32:16 i32:16 i32"
    sizes = dict(FORMAT=name, SHARED=SHARED.get(name), TALL=tall, WIDE=wide, DEEP=deep, step=1)
    return Variant(_packed_linear, types, sizes, warps=warps)


_PARTS = {"int4": ("i32", "bf16"), "nf4": ("i32", "fp32"), "fp8": ("u8", "fp32"), "int8": ("i8", "fp32")}
_SIZES = {"1 token": (32, 8, 2), "64 tokens": (64, 64, 4)}  # rows and tokens of a tile, warps
VARIANTS = {
    f"{name} {some}": _variant(name, *_PARTS[name], *sizes, DEEP if some == "1 token" and name != "fp8" else DEEP // 2)
    for name in FORMATS
    for some, sizes in _SIZES.items()
}
