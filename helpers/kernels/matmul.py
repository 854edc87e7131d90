"""A matrix product in tiles: sibling of ``a @ b``.

            b   I x O                   out: one program per tile of 128 x 128
            |  : tile :  |              It walks along I: load 128 x 64 of a and 64 x 128 of b, multiply, add up
    a  I -> |..:......:..|              in float32, and store once.
            |  : out  :  |

2 M I O FLOP. Read naively each output would need 2 I numbers; a tile of side t reads 2 I / t, so the bytes that come
from memory are M I O (1/t + 1/t) numbers and M O written, fewer where a neighbour's tile is still in the cache: so the
programs are numbered in bands of eight tiles. The fewest possible are M I + I O + M O, which ``cost`` counts.
"""

from helpers.kernels.launch import (
    Variant,
    blocks,
    kernel,
    launch,
    launches,
    refuse_mixed,
    refuse_scattered,
    tile,
    tl,
)
from helpers.measure import Work, matmul_work
from helpers.shapes import Float, Tensor

SIDE, DEEP, BAND = 128, 64, 8


def matmul(a: Float[Tensor, "rows inputs"], b: Float[Tensor, "inputs outputs"]) -> Float[Tensor, "rows outputs"]:
    """``a @ b``, added up in float32 whatever the dtype is.

    Raises ValueError for matrices that do not fit together, are not in one piece, or differ in dtype.
    Source: the tiles are those of Triton's matrix multiplication tutorial. Built in lesson `kernels`.
    """
    if not launches(a, b):
        return a @ b
    refuse_scattered(a=a, b=b)
    refuse_mixed(a=a, b=b)
    (rows, inputs), outputs = a.shape, b.shape[1]
    if b.shape[0] != inputs:
        raise ValueError(f"a is {rows} x {inputs} and b is {b.shape[0]} x {outputs}: the inner sizes differ")
    out = a.new_empty(rows, outputs)
    tall, broad = tile(rows, least=16, most=SIDE), tile(outputs, least=16, most=SIDE)
    grid = (blocks(rows, tall) * blocks(outputs, broad),)
    sizes = dict(TALL=tall, BROAD=broad, DEEP=tile(inputs, least=16, most=DEEP), BAND=BAND)
    launch(_matmul, grid, a, b, out, rows, inputs, outputs, warps=8 if tall * broad >= SIDE * SIDE else 4, **sizes)
    return out


def cost(rows: int, inputs: int, outputs: int, number_bytes: int = 2) -> Work:
    """Each input read once, each output written once. Built in lesson `kernels`."""
    return matmul_work(rows, inputs, outputs, 8 * number_bytes)


@kernel
def _matmul(
    a, b, out, rows, inputs, outputs, TALL: tl.constexpr, BROAD: tl.constexpr, DEEP: tl.constexpr, BAND: tl.constexpr
):
    down, across = tl.cdiv(rows, TALL), tl.cdiv(outputs, BROAD)
    band = tl.program_id(0) // (BAND * across)  # programs that run together share rows of a and columns of b
    height = min(down - band * BAND, BAND)
    inside = tl.program_id(0) % (BAND * across)
    row = (band * BAND + inside % height) * TALL + tl.arange(0, TALL)
    column = (inside // height) * BROAD + tl.arange(0, BROAD)
    total = tl.zeros((TALL, BROAD), tl.float32)

    for start in range(0, inputs, DEEP):
        deep = start + tl.arange(0, DEEP)
        left_at = row[:, None].to(tl.int64) * inputs + deep[None, :]
        right_at = deep[:, None].to(tl.int64) * outputs + column[None, :]
        left = tl.load(a + left_at, mask=(row[:, None] < rows) & (deep[None, :] < inputs), other=0.0)
        right = tl.load(b + right_at, mask=(deep[:, None] < inputs) & (column[None, :] < outputs), other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")  # never the 10 bits of tf32

    at = row[:, None].to(tl.int64) * outputs + column[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=(row[:, None] < rows) & (column[None, :] < outputs))


VARIANTS = {
    "bfloat16": Variant(
        _matmul,
        "*bf16:16 *bf16:16 *bf16:16 i32:16 i32:16 i32:16",
        dict(TALL=SIDE, BROAD=SIDE, DEEP=DEEP, BAND=BAND),
        warps=8,
    )
}
