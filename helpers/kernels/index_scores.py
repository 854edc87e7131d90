"""How much each query wants each key, by the lightning indexer: sibling of ``helpers.layers.dsa.scores``.

    index keys  S x K   [ 128 keys | 128 keys | .. ]     one program: 128 keys, kept, and 16 queries one after another
                             x                           keys x (all heads of one query): a product of 128 x K x H
    queries  T x H x K  [ 16 queries | .. ]              relu, weigh the heads, add them up, store 128 scores

A decoded token has one query: then it is a stream of keys, S K numbers, and 2 H (K + 1) FLOP a key. A prompt reads a
tile of keys once for 16 queries, and the products decide. The scores are float32: T S x 4 bytes are written, which a
decoded token does not notice and a prompt does: it is done in blocks of queries.
"""

import torch

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
from helpers.layers import dsa
from helpers.measure import Work
from helpers.measure.dsa_work import index_pair_flops
from helpers.shapes import Float, Tensor

KEYS, QUERIES = 128, 16  # a tile


def scores(
    query: Float[Tensor, "B T H K"], key: Float[Tensor, "B S K"], weights: Float[Tensor, "B T H"]
) -> Float[Tensor, "B T S"]:
    """``sum over heads of weight * relu(query . key / sqrt(K)) / sqrt(H)``, added up in float32 whatever the dtype is.

    Raises ValueError for sizes that do not fit, tensors in pieces, mixed dtypes, and no keys.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, equation 1. Built in lesson 16.
    """
    if not launches(query, key, weights):
        return dsa.scores(query, key, weights)
    refuse_scattered(query=query, key=key, weights=weights)
    refuse_mixed(query=query, key=key)
    (batch, length, heads, width), keys = query.shape, key.shape[1]
    if key.shape != (batch, keys, width) or weights.shape != query.shape[:3]:
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}, weights {tuple(weights.shape)} do not fit"
        )
    out = torch.empty(batch, length, keys, dtype=torch.float32, device=query.device)
    counts = (length, keys, heads, width, (heads * width) ** -0.5)
    sizes = dict(KEYS=tile(keys, 16, KEYS), QUERIES=min(length, QUERIES), H=tile(heads, 16), K=tile(width, 16))
    grid = (blocks(keys, sizes["KEYS"]), blocks(length, sizes["QUERIES"]), batch)
    launch(_scores, grid, query, key, weights, out, *counts, **sizes)
    return out


def cost(batch: int, queries: int, tokens: int, heads: int, width: int, number_bytes: int = 2) -> Work:
    """Every key read once for ``QUERIES`` queries, the scores written in 4 bytes. Built in lesson 16."""
    read = tokens * width * blocks(queries, QUERIES) + queries * heads * (width + 1)
    written = 4 * queries * tokens
    pairs = batch * queries * tokens
    return Work(flops=pairs * index_pair_flops(heads, width), bytes=batch * (read * number_bytes + written))


@kernel
def _scores(
    query,
    key,
    weights,
    out,
    length,
    keys,
    heads,
    width,
    scale,
    KEYS: tl.constexpr,
    QUERIES: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
):
    batch = tl.program_id(2).to(tl.int64)
    at, h, k = tl.program_id(0) * KEYS + tl.arange(0, KEYS), tl.arange(0, H), tl.arange(0, K)
    first = tl.program_id(1) * QUERIES
    near, within = at < keys, (k[:, None] < width) & (h[None, :] < heads)

    place = (batch * keys + at)[:, None] * width + k
    keyed = tl.load(key + place, mask=near[:, None] & (k < width), other=0.0)

    for token in range(first, tl.minimum(first + QUERIES, length)):
        row = batch * length + token
        asked = tl.load(query + (row * heads + h[None, :]) * width + k[:, None], mask=within, other=0.0)
        weight = tl.load(weights + row * heads + h, mask=h < heads, other=0.0).to(tl.float32)
        alike = tl.maximum(tl.dot(keyed, asked, input_precision="ieee"), 0.0)
        score = tl.sum(alike * weight[None, :], axis=1) * scale
        tl.store(out + row * keys + at, score, mask=near)


VARIANTS = {  # 64 index heads of width 128: DeepSeek-V3.2; GLM-5 has 32
    f"bfloat16 {heads} heads": Variant(
        _scores,
        "*bf16:16 *bf16:16 *bf16:16 *fp32:16 i32 i32:16 i32:16 i32:16 fp32",
        dict(KEYS=KEYS, QUERIES=QUERIES, H=heads, K=128),
    )
    for heads in (32, 64)
}
