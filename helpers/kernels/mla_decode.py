"""Latent attention of one new token over a long cache: sibling of ``helpers.layers.mla.absorbed``.

    cache  S x (C + R)  [ split 0 | split 1 | .. ]   one program: up to 64 heads of a query, one split of the keys
                              |                      It loads 32 latents, scores them for all its heads, and mixes
    heads  [ 0 .. 63 | 64 .. 127 ]                   the very numbers it loaded: a latent is key and value at once.

The cache is what is read: S (C + R) numbers a text, once from memory where a program takes all heads. FLOP: 2 H (2 C + R) a token, so 64 heads give 109 FLOP a byte in 16 bits: still left of
an H200's ridge (206), and 128 heads with 218 about on it. Carrying the queries into the latents and the mixtures out
of them are two small products before and after, which torch does.
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
from helpers.kernels.softmax import LOG2_E, fold
from helpers.kernels.split import STAGES, combined, heads_a_program, splits_for
from helpers.layers import mla
from helpers.measure import Work
from helpers.measure.dsa_work import pair_flops
from helpers.shapes import Bool, Float, Tensor

KEYS = 32  # a tile
LEAST = 256  # keys a split, or it is not worth a program


def absorbed(
    query: Float[Tensor, "B T H K"],
    query_turned: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    key_turned: Float[Tensor, "B S R"],
    up_key: Float[Tensor, "H K C"],
    up_value: Float[Tensor, "H V C"],
    mask: Bool[Tensor, "B T S"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """The numbers of ``mla.absorbed``, for few queries a text: one program reads the whole cache for each of them.

    Raises ValueError for sizes that do not fit together, an empty cache, tensors in pieces, mixed dtypes.
    Source: DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1.2; split over keys: "Flash-Decoding", 2023.
    Built in lesson 16.
    """
    if not launches(query, query_turned, latent, key_turned, up_key, up_value):
        return mla.absorbed(query, query_turned, latent, key_turned, up_key, up_value, mask, scale)
    refuse_latents(query, query_turned, latent, key_turned, up_key, up_value)
    if mask.shape != (*query.shape[:2], latent.shape[1]):
        raise ValueError(f"the mask is {tuple(mask.shape)} for {query.shape[1]} queries and {latent.shape[1]} keys")
    asked = mla.into_latents(query, up_key).contiguous()
    mixed = _mixed(asked, query_turned.contiguous(), latent, key_turned, mask.contiguous(), scale)
    return mla.out_of_latents(mixed, up_value)


def cost(batch: int, tokens: int, heads: int, latent: int, turned: int, number_bytes: int = 2) -> Work:
    """One query a text: each latent and turned key read once for all heads; queries and mixtures beside them.

    Built in lesson 16.
    """
    read = batch * (tokens * (latent + turned) + heads * (2 * latent + turned)) * number_bytes
    return Work(flops=batch * tokens * pair_flops(heads, latent, turned), bytes=read)


def refuse_latents(
    query: Tensor, query_turned: Tensor, latent: Tensor, key_turned: Tensor, up_key: Tensor, up_value: Tensor
) -> None:
    """Raise ValueError unless these are latent attention's, in one dtype, and the cache in one piece."""
    refuse_scattered(latent=latent, key_turned=key_turned)
    parts = dict(query=query, query_turned=query_turned, latent=latent, key_turned=key_turned)
    refuse_mixed(**parts, up_key=up_key, up_value=up_value)
    (batch, _, heads, width), (_, keys, latent_width) = query.shape, latent.shape
    wanted = {
        "query_turned": (*query.shape[:3], key_turned.shape[-1]),
        "key_turned": (batch, keys, query_turned.shape[-1]),
        "up_key": (heads, width, latent_width),
        "up_value": (heads, up_value.shape[1], latent_width),
    }
    given = dict(query_turned=query_turned, key_turned=key_turned, up_key=up_key, up_value=up_value)
    for name, shape in wanted.items():
        if tuple(given[name].shape) != shape or latent.shape[0] != batch:
            raise ValueError(
                f"{name} is {tuple(given[name].shape)}, not {shape}; the latents are {tuple(latent.shape)}"
            )


def _mixed(
    asked: Float[Tensor, "B T H C"],
    turned: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    key_turned: Float[Tensor, "B S R"],
    mask: Bool[Tensor, "B T S"],
    scale: float,
) -> Float[Tensor, "B T H C"]:
    (batch, length, heads, width), keys = asked.shape, latent.shape[1]
    shared = heads_a_program(heads, asked)
    rows, head_blocks = batch * length, blocks(heads, shared["HEADS"])
    splits = splits_for(rows * head_blocks, keys, LEAST)
    parts = torch.empty(rows, splits, heads, width, dtype=torch.float32, device=asked.device)
    logs = torch.empty(rows, splits, heads, dtype=torch.float32, device=asked.device)
    counts = (length, keys, blocks(keys, splits), heads, width, turned.shape[-1], scale * LOG2_E)
    sizes = dict(KEYS=KEYS, C=tile(width, 16), R=tile(turned.shape[-1], 16))
    given = (asked, turned, latent, key_turned, mask.view(torch.uint8), parts, logs)
    launch(_decode, (head_blocks, splits, rows), *given, *counts, **shared, **sizes)
    return combined(parts, logs, asked.dtype).view_as(asked)


@kernel
def _decode(
    asked,
    turned,
    latent,
    key_turned,
    mask,
    parts,
    logs,
    length,
    keys,
    split_keys,
    heads,
    width,
    turned_width,
    scale,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
):
    split, row = tl.program_id(1), tl.program_id(2).to(tl.int64)
    head, c, r = tl.program_id(0) * HEADS + tl.arange(0, HEADS), tl.arange(0, C), tl.arange(0, R)
    real, batch = head < heads, row // length
    query = row * heads + head
    ends = tl.minimum((split + 1) * split_keys, keys)

    still = tl.load(asked + query[:, None] * width + c, mask=real[:, None] & (c < width), other=0.0)
    moved = tl.load(turned + query[:, None] * turned_width + r, mask=real[:, None] & (r < turned_width), other=0.0)
    best = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    mixed = tl.zeros((HEADS, C), tl.float32)

    for start in range(split * split_keys, ends, KEYS):
        at = start + tl.arange(0, KEYS)
        near, place = at < ends, batch * keys + at
        latents = tl.load(latent + place[:, None] * width + c, mask=near[:, None] & (c < width), other=0.0)
        key_at = place[None, :] * turned_width + r[:, None]
        keyed = tl.load(key_turned + key_at, mask=near[None, :] & (r[:, None] < turned_width), other=0.0)
        seen = tl.load(mask + row * keys + at, mask=near, other=0) != 0
        scores = tl.dot(still, tl.trans(latents), input_precision="ieee")
        scores = tl.dot(moved, keyed, scores, input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        best, total, mixed = fold(scores, latents, best, total, mixed)

    part = (row * tl.num_programs(1) + split) * heads + head
    total = tl.maximum(total, 1e-30)
    answer = mixed / total[:, None]  # a split that sees nothing weighs nothing: log -inf
    tl.store(parts + part[:, None] * width + c, answer, mask=real[:, None] & (c < width))
    tl.store(logs + part, best + tl.log2(total), mask=real)


VARIANTS = {  # C 512 and R 64: DeepSeek-V2 to V3.2, Kimi K2 and GLM-5
    f"bfloat16 {heads} heads": Variant(
        _decode,
        "*bf16:16 *bf16:16 *bf16:16 *bf16:16 *u8:16 *fp32:16 *fp32:16 i32 i32:16 i32:16 i32:16 i32:16 i32:16 fp32",
        dict(HEADS=heads, KEYS=KEYS, C=512, R=64),
        warps=warps,
        stages=STAGES,
        chips=chips,
    )
    for heads, warps, chips in ((16, 4, (80, 90)), (32, 8, (80, 90)), (64, 8, (90,)))
}
