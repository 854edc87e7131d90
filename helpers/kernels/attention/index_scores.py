"""How much each query wants each key, by the lightning indexer: sibling of ``helpers.layers.dsa.scores``.

    index keys  S x K   [ 128 keys | 128 keys | .. ]     one program: 128 keys, kept, and 16 queries one after another
                             x                           keys x (all heads of one query): a product of 128 x K x H
    queries  T x H x K  [ 16 queries | .. ]              relu, weigh the heads, add them up, store 128 scores

A decoded token has one query: then it is a stream of keys, S K numbers, and 2 H (K + 1) FLOP per key. A prompt reads a
tile of keys once for 16 queries, and the products decide. The scores are float32: T S x 4 bytes are written, which a
decoded token does not notice and a prompt does: it is done in blocks of queries.

A stream is worth packing: ``packed_scores`` reads keys of 8 bits with one float32 scale each, as DeepSeek-V3.2 keeps
them, K + 4 bytes instead of 2 K. A scale is positive, so it passes through the relu and is multiplied last.
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
from helpers.precision import at_least_float32
from helpers.shapes import Float, Tensor

KEYS, QUERIES = 128, 16  # a tile


def scores(
    query: Float[Tensor, "B T H K"], key: Float[Tensor, "B S K"], weights: Float[Tensor, "B T H"]
) -> Float[Tensor, "B T S"]:
    """``sum over heads of weight * relu(query . key / sqrt(K)) / sqrt(H)``, added up in float32 whatever the dtype is.

    Raises ValueError for sizes that do not fit, tensors in pieces, mixed dtypes, and no keys.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, equation 1. Built in lesson `kernels`.
    """
    if not launches(query, key, weights):
        return dsa.scores(query, key, weights)
    refuse_scattered(query=query, key=key, weights=weights)
    refuse_mixed(query=query, key=key)
    return _run(query, key, None, weights)


def packed_scores(
    query: Float[Tensor, "B T H K"],
    codes: Float[Tensor, "B S K"],
    scale: Float[Tensor, "B S"],
    weights: Float[Tensor, "B T H"],
) -> Float[Tensor, "B T S"]:
    """``scores`` of the keys ``codes * scale``: codes float8_e4m3fn, one positive scale per key. Products in the
    query's dtype, which holds every code exactly. GPUs older than Hopper have no such numbers, and take the readable
    way.

    Raises ValueError for another kind of codes, sizes that do not fit, tensors in pieces. Built in lesson `kernels`.
    """
    if codes.dtype != torch.float8_e4m3fn or scale.dtype != torch.float32:
        raise ValueError(f"codes are {codes.dtype} and scales {scale.dtype}; float8_e4m3fn and float32 are read")
    if not launches(query, codes, scale, weights) or not _has_eight_bits(codes):
        exact = at_least_float32(query.dtype)
        return dsa.scores(query.to(exact), codes.to(exact) * scale[..., None], weights.to(exact))
    refuse_scattered(query=query, scale=scale, weights=weights)
    refuse_scattered(codes=codes.view(torch.uint8))
    if scale.shape != codes.shape[:2]:
        raise ValueError(f"there are scales {tuple(scale.shape)} for codes {tuple(codes.shape)}; one per key is needed")
    return _run(query, codes, scale, weights)


def pack_keys(key: Float[Tensor, "B S K"]) -> tuple[Float[Tensor, "B S K"], Float[Tensor, "B S"]]:
    """Codes and scales for ``packed_scores``: the largest number of a key becomes E4M3's largest, 448. A key of zeros
    gets the scale 1."""
    most = key.float().abs().amax(dim=-1)
    scale = torch.where(most > 0, most / torch.finfo(torch.float8_e4m3fn).max, 1.0)
    return (key.float() / scale[..., None]).to(torch.float8_e4m3fn), scale


def cost(
    batch: int, queries: int, tokens: int, heads: int, width: int, number_bytes: int = 2, packed: bool = False
) -> Work:
    """Every key read once for ``QUERIES`` queries, the scores written in 4 bytes. Built in lesson `kernels`."""
    keys = tokens * (width + 4 if packed else width * number_bytes) * blocks(queries, QUERIES)
    rest = queries * heads * (width + 1) * number_bytes + 4 * queries * tokens
    pairs = batch * queries * tokens
    return Work(flops=pairs * index_pair_flops(heads, width), bytes=batch * (keys + rest))


def _has_eight_bits(x: Tensor) -> bool:
    return x.device.type != "cuda" or torch.cuda.get_device_capability(x.device) >= (9, 0)


def _run(query: Tensor, key: Tensor, scale: Tensor | None, weights: Tensor) -> Tensor:
    (batch, length, heads, width), keys = query.shape, key.shape[1]
    if key.shape != (batch, keys, width) or weights.shape != query.shape[:3]:
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)}, weights {tuple(weights.shape)} do not fit"
        )
    out = torch.empty(batch, length, keys, dtype=torch.float32, device=query.device)
    counts = (length, keys, heads, width, (heads * width) ** -0.5)
    sizes = dict(KEYS=tile(keys, 16, KEYS), QUERIES=min(length, QUERIES), H=tile(heads, 16), K=tile(width, 16))
    grid = (blocks(keys, sizes["KEYS"]), blocks(length, sizes["QUERIES"]), batch)
    given = query, key, out if scale is None else scale, weights, out  # without scales none is read
    launch(_scores, grid, *given, *counts, SCALED=scale is not None, **sizes)
    return out


@kernel
def _scores(
    query,
    key,
    key_scale,
    weights,
    out,
    length,
    keys,
    heads,
    width,
    scale,
    SCALED: tl.constexpr,
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
    keyed = tl.load(key + place, mask=near[:, None] & (k < width), other=0.0).to(query.dtype.element_ty)
    factor = tl.load(key_scale + batch * keys + at, mask=near, other=0.0) * scale if SCALED else scale

    for token in range(first, tl.minimum(first + QUERIES, length)):
        row = batch * length + token
        asked = tl.load(query + (row * heads + h[None, :]) * width + k[:, None], mask=within, other=0.0)
        weight = tl.load(weights + row * heads + h, mask=h < heads, other=0.0).to(tl.float32)
        scores = tl.maximum(tl.dot(keyed, asked, input_precision="ieee"), 0.0)
        score = tl.sum(scores * weight[None, :], axis=1) * factor
        tl.store(out + row * keys + at, score, mask=near)


VARIANTS = {  # 64 index heads of width 128: DeepSeek-V3.2; GLM-5 has 32
    f"{name} {heads} heads": Variant(
        _scores,
        f"*bf16:16 {keys}:16 *fp32:16 *bf16:16 *fp32:16 i32 i32:16 i32:16 i32:16 fp32",
        dict(SCALED=keys != "*bf16", KEYS=KEYS, QUERIES=QUERIES, H=heads, K=128),
        chips=chips,
    )
    for name, keys, chips in (("bfloat16", "*bf16", (80, 90)), ("keys of 8 bits", "*fp8e4nv", (90,)))
    for heads in (32, 64)
}
