"""Causal attention over chosen blocks of keys: sibling of ``helpers.layers.block_sparse.attend_blocks``.

    chosen of block 4   [ 0 | 2 | 4 | -1 ]       -1: none

               keys and values, a block at a time -->
    queries  [ #### | .... | #### | .... | ##.. ]    one program: the queries of one block, for a few heads that share
    x heads  [ #### | .... | #### | .... | ###. ]    keys, 128 rows in all; what was not chosen is not loaded

Block and tile are one: what a query block chose are whole tiles, each of which serves 128 rows. So the loop is flash
attention's with a list of places to go, and nothing is gathered. Programs that read the same blocks, for other heads,
run side by side, and one key head's text at a time, so that the L2 cache serves most reads.
Bytes: queries, keys, values and output, 2 B T H K + 2 B T G K numbers, if it does, and the choice. FLOP: 2 H (K + V)
for each pair of a query and a key it sees in a chosen block: a query pays for k L keys, however long the text.
"""

import torch

from helpers.kernels.launch import (
    Variant,
    blocks,
    kernel,
    launch,
    launches,
    may_ask,
    refuse_mixed,
    refuse_scattered,
    tile,
    tl,
)
from helpers.kernels.softmax import LOG2_E, fold
from helpers.layers import block_sparse
from helpers.measure import Work
from helpers.shapes import Float, Int, Tensor

BLOCKS = (16, 32, 64)  # positions; a matrix product takes 16 terms at least, and registers hold 64 scores a row
ROWS = 128  # queries times heads of a program on Hopper; half of it before, where 128 put registers aside


def attend_blocks(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B T G K"],
    value: Float[Tensor, "B T G V"],
    chosen: Int[Tensor, "B N G chosen"],
    block: int,
) -> Float[Tensor, "B T H V"]:
    """The numbers of ``block_sparse.attend_blocks``, for blocks of 16, 32 or 64 positions; -1 stands for no block.

    A choice that leaves out the own block, or names one that is not there, is refused, which costs one look at it (but
    while a CUDA graph is captured, which cannot look).
    Raises ValueError for it, for heads that do not divide, sizes that do not fit, pieces of tensors, mixed dtypes.
    Source: Yuan et al., "Native Sparse Attention", 2025, section 3.4. Built in lesson `kernels`.
    """
    if not launches(query, key, value):
        return block_sparse.attend_blocks(query, key, value, chosen, block)
    _refuse(query, key, value, chosen, block)
    (batch, length, heads, width), (groups, value_width) = query.shape, value.shape[2:]
    out, shared = query.new_empty(batch, length, heads, value_width), heads // groups
    sizes = dict(BLOCK=block, K=tile(width, 16), V=tile(value_width, 16), **_heads_per_program(shared, block, query))
    counts = length, heads, shared, chosen.shape[1], chosen.shape[3], width, value_width, width**-0.5 * LOG2_E
    grid = blocks(shared, sizes["HEADS"]) * chosen.shape[1], batch * groups
    launch(_blocks, grid, query, key, value, chosen, out, *counts, **sizes)
    return out


def cost(
    batch: int, length: int, heads: int, groups: int, width: int, block: int, k: int, number_bytes: int = 2
) -> Work:
    """A text that sees itself, ``k`` blocks at most for each block of queries. Built in lesson `kernels`."""
    count = blocks(length, block)
    earlier = sum(min(k, n + 1) - 1 for n in range(count - 1)) * block**2  # whole blocks read by whole blocks
    last = length - (count - 1) * block
    earlier += (min(k, count) - 1) * block * last
    own = (count - 1) * block * (block + 1) // 2 + last * (last + 1) // 2
    numbers = 2 * batch * length * (heads + groups) * width
    choice = 8 * batch * count * groups * min(k, count)
    return Work(flops=4 * width * batch * heads * (earlier + own), bytes=numbers * number_bytes + choice)


def _heads_per_program(shared: int, block: int, x: Tensor) -> dict[str, int]:
    """How many heads that share keys one program takes, its warps, and how many tiles are on their way."""
    hopper = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) >= (9, 0)
    rows = ROWS if hopper and x.dtype != torch.float32 else ROWS // 2
    heads = tile(shared, most=rows // block)
    return dict(HEADS=heads, warps=8 if heads * block == ROWS else 4, stages=1 if x.dtype == torch.float32 else 3)


def _refuse(query: Tensor, key: Tensor, value: Tensor, chosen: Tensor, block: int) -> None:
    refuse_scattered(query=query, key=key, value=value, chosen=chosen)
    refuse_mixed(query=query, key=key, value=value)
    if block not in BLOCKS:
        raise ValueError(f"a block of {block} tokens is no tile: use {', '.join(map(str, BLOCKS))}")
    if query.shape[2] % key.shape[2]:
        raise ValueError(f"{query.shape[2]} query heads cannot share {key.shape[2]} key heads evenly")
    if key.shape[:3] != value.shape[:3] or key.shape[3] != query.shape[3] or key.shape[:2] != query.shape[:2]:
        raise ValueError(f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)} do not fit")
    _refuse_choice(chosen, (len(key), blocks(key.shape[1], block), key.shape[2]))


def _refuse_choice(chosen: Tensor, wanted: tuple[int, int, int]) -> None:
    if chosen.shape[:3] != wanted:
        raise ValueError(f"the choice is {tuple(chosen.shape)}; it must be {wanted} and slots: text, block, key head")
    if chosen.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"the choice is {chosen.dtype}: blocks are int32 or int64")
    if not may_ask(chosen):
        return
    own = torch.arange(wanted[1], device=chosen.device)[:, None, None]
    lowest, highest = (int(end) for end in chosen.aminmax())
    if lowest < -1 or highest >= wanted[1]:
        raise ValueError(f"blocks {lowest} to {highest} were chosen; there are 0 to {wanted[1] - 1}, and -1 for none")
    if not (chosen == own).any(dim=3).all():
        raise ValueError("every block of queries must choose its own block: its first query may see nothing else")


@kernel
def _blocks(
    query,
    key,
    value,
    chosen,
    out,
    length,
    heads,
    shared,
    count,
    choice,
    width,
    value_width,
    scale,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
):
    groups, parts = heads // shared, tl.cdiv(shared, HEADS)
    batch, group = tl.program_id(1) // groups, tl.program_id(1) % groups
    block, part = tl.program_id(0) // parts, tl.program_id(0) % parts
    row, k, v, inside = tl.arange(0, HEADS * BLOCK), tl.arange(0, K), tl.arange(0, V), tl.arange(0, BLOCK)
    token, head = block * BLOCK + row // HEADS, part * HEADS + row % HEADS  # heads lie side by side in memory
    real = (token < length) & (head < shared)
    place = (batch * length + token).to(tl.int64) * heads + group * shared + head
    choices = chosen + ((batch * count + block).to(tl.int64) * groups + group) * choice
    key_at, value_at = inside[None, :] * groups * width + k[:, None], inside[:, None] * groups * value_width + v

    asked = tl.load(query + place[:, None] * width + k, mask=real[:, None] & (k < width), other=0.0)
    best = tl.full((HEADS * BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS * BLOCK,), tl.float32)
    context = tl.zeros((HEADS * BLOCK, V), tl.float32)

    for n in range(0, choice):
        start = tl.load(choices + n).to(tl.int32) * BLOCK
        first = (batch * length + start).to(tl.int64) * groups + group  # one number: a block's rows follow each other
        at = start + inside
        near = (at >= 0) & (at < length)
        keyed = tl.load(key + first * width + key_at, mask=near[None, :] & (k[:, None] < width), other=0.0)
        valued = tl.load(value + first * value_width + value_at, mask=near[:, None] & (v < value_width), other=0.0)
        scores = tl.dot(asked, keyed, input_precision="ieee") * scale
        scores = tl.where(near[None, :] & (at[None, :] <= token[:, None]), scores, float("-inf"))
        best, total, context = fold(scores, valued, best, total, context)

    total = tl.where(real, total, 1.0)  # rows behind the last query may see nothing, and are not stored
    answer = (context / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + place[:, None] * value_width + v, answer, mask=real[:, None] & (v < value_width))


VARIANTS = {
    f"bfloat16 {width}, blocks of {block}, {rows} rows": Variant(
        _blocks,
        "*bf16:16 *bf16:16 *bf16:16 *i64:16 *bf16:16 i32:16 i32:16 i32:16 i32:16 i32 i32:16 i32:16 fp32",
        dict(HEADS=rows // block, BLOCK=block, K=width, V=width),
        warps=rows // 16,
        chips=chips,
    )
    for width, block in ((64, 64), (128, 64), (128, 32))
    for rows, chips in ((ROWS // 2, (80, 90)), (ROWS, (90,)))
}
