"""Causal attention that never holds the scores: sibling of ``helpers.layers.attention.attend`` with ``causal_mask``.

               keys and values, 64 at a time -->
    queries  [ #### | #### | ##.. |      ]      one program: 64 queries of one head, all keys they may see
    64 rows  [ #### | #### | ###. |      ]      tiles behind the last visible key are not even loaded

A program keeps its queries, walks along the keys, and folds each tile into the mixture (``softmax.fold``). Written out,
the scores alone are B H T S numbers, stored and read twice; here nothing of that size exists. Bytes: queries, keys,
values and output, 2 B T H K + 2 B S G K numbers, if the cache holds a head's keys while its query blocks read them.
FLOP: 2 B H (K + V) for each pair of a query and a key it sees. A teaching size: kernels made for Hopper also overlap
the softmax of one tile with the product of the next.
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
from helpers.kernels.softmax import LOG2_E, fold
from helpers.layers.attention import attend, causal_mask
from helpers.measure import Work
from helpers.shapes import Float, Int, Tensor

QUERIES, KEYS = 64, 64  # a tile


def attend_causal(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B S G K"],
    value: Float[Tensor, "B S G V"],
    positions: Int[Tensor, "B T"],
) -> Float[Tensor, "B T H V"]:
    """``attend`` where a query at position p sees keys 0 to p: the same numbers, without the scores in memory.

    The positions of 64 queries that follow each other should be near each other: all keys up to the highest are read.
    Raises ValueError for heads that do not divide, other sizes that do not fit, pieces of tensors, mixed dtypes.
    Source: Dao et al., "FlashAttention", 2022, algorithm 1. Built in lesson `kernels`.
    """
    if not launches(query, key, value):
        return attend(query, key, value, causal_mask(positions, key.shape[1]))
    _refuse(query, key, value, positions)
    (batch, length, heads, width), (keys, groups, value_width) = query.shape, value.shape[1:]
    out = query.new_empty(batch, length, heads, value_width)
    counts = (length, keys, heads, heads // groups, width, value_width, width**-0.5 * LOG2_E)
    sizes = dict(
        QUERIES=tile(length, 16, QUERIES), KEYS=tile(keys, 16, KEYS), K=tile(width, 16), V=tile(value_width, 16)
    )
    grid = (blocks(length, sizes["QUERIES"]), batch * heads)
    launch(_flash, grid, query, key, value, positions, out, *counts, **sizes)
    return out


def cost(batch: int, length: int, heads: int, groups: int, width: int, number_bytes: int = 2) -> Work:
    """A prompt of ``length`` tokens that sees itself: half of all pairs. Built in lesson `kernels`."""
    pairs = batch * heads * length * (length + 1) // 2
    numbers = 2 * batch * length * (heads + groups) * width
    return Work(flops=4 * width * pairs, bytes=numbers * number_bytes)


def _refuse(query: Tensor, key: Tensor, value: Tensor, positions: Tensor) -> None:
    refuse_scattered(query=query, key=key, value=value, positions=positions)
    refuse_mixed(query=query, key=key, value=value)
    if query.shape[2] % key.shape[2]:
        raise ValueError(f"{query.shape[2]} query heads cannot share {key.shape[2]} key heads evenly")
    if key.shape[:3] != value.shape[:3] or key.shape[3] != query.shape[3] or key.shape[0] != query.shape[0]:
        raise ValueError(f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)} do not fit")
    if positions.shape != query.shape[:2]:
        raise ValueError(f"positions are {tuple(positions.shape)} for {tuple(query.shape[:2])} queries")


@kernel
def _flash(
    query,
    key,
    value,
    positions,
    out,
    length,
    keys,
    heads,
    shared,
    width,
    value_width,
    scale,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
):
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    token = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    real, k, v = token < length, tl.arange(0, K), tl.arange(0, V)
    row = (batch * length + token).to(tl.int64) * heads + head
    groups = heads // shared

    asked = tl.load(query + row[:, None] * width + k, mask=real[:, None] & (k < width), other=0.0)
    position = tl.load(positions + batch * length + token, mask=real, other=-1)
    last = tl.minimum(tl.max(position, axis=0) + 1, keys)
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    context = tl.zeros((QUERIES, V), tl.float32)

    for start in range(0, last, KEYS):
        at = start + tl.arange(0, KEYS)
        place = (batch * keys + at).to(tl.int64) * groups + head // shared
        near = at < keys
        keyed = tl.load(key + place[None, :] * width + k[:, None], mask=near[None, :] & (k[:, None] < width), other=0.0)
        valued = tl.load(value + place[:, None] * value_width + v, mask=near[:, None] & (v < value_width), other=0.0)
        scores = tl.dot(asked, keyed, input_precision="ieee") * scale
        scores = tl.where(near[None, :] & (at[None, :] <= position[:, None]), scores, float("-inf"))
        best, total, context = fold(scores, valued, best, total, context)

    total = tl.where(real, total, 1.0)  # rows behind the last query see nothing, and are not stored
    answer = (context / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + row[:, None] * value_width + v, answer, mask=real[:, None] & (v < value_width))


VARIANTS = {
    f"bfloat16 {width}": Variant(
        _flash,
        "*bf16:16 *bf16:16 *bf16:16 *i64:16 *bf16:16 i32:16 i32:16 i32:16 i32 i32:16 i32:16 fp32",
        dict(QUERIES=QUERIES, KEYS=KEYS, K=width, V=width),
    )
    for width in (64, 128)
}
