"""The walk over a cache of latents that dense and sparse latent attention share: all rows, or chosen ones.

    cache   ....#....##.......#....     one program: up to 64 heads of one query, one split of the places to read.
                 |    |       |         32 places at a time: which rows are these, and is each of them seen?
    tile    [ # | # | # | # | .. ]      load those rows, score them for all heads, and mix the very numbers that were
                                        loaded (``softmax.fold``): a latent is key and value at once

Dense, the places are the cache's rows and a mask says which are seen; sparse, each place holds the position of a row,
and -1 is none. The rest is one kernel, so that a comparison of the two compares what they read.
"""

import torch

from helpers.kernels.attention.split_kv import STAGES, combined, heads_per_program, splits_for
from helpers.kernels.launch import Variant, blocks, kernel, launch, refuse_mixed, refuse_scattered, tile, tl
from helpers.kernels.softmax import LOG2_E, fold
from helpers.shapes import Bool, Float, Int, Tensor

KEYS = 32  # a tile


def walked(
    asked: Float[Tensor, "B T H C"],
    q_rope: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    k_rope: Float[Tensor, "B S R"],
    which: Bool[Tensor, "B T places"] | Int[Tensor, "B T places"],
    scale: float,
    least: int,
) -> Float[Tensor, "B T H C"]:
    """The mixture of the latents that ``which`` says: a mask over all rows, or positions of rows.

    A split has ``least`` places, or it is not worth a program.
    """
    (batch, length, heads, width), places = asked.shape, which.shape[2]
    rows, shared, chosen = batch * length, heads_per_program(heads, asked), which.dtype != torch.bool
    head_blocks = blocks(heads, shared["HEADS"])
    splits = splits_for(rows * head_blocks, places, least)
    alone = splits == 1  # then its answer is the answer, and nothing is put together
    parts = asked.new_empty(rows, splits, heads, width, dtype=asked.dtype if alone else torch.float32)
    logs = torch.empty(rows, splits, heads, dtype=torch.float32, device=asked.device)
    given = asked, q_rope, latent, k_rope, which if chosen else which.view(torch.uint8), parts, logs
    keys, rope_dim = latent.shape[1], q_rope.shape[-1]
    counts = length, keys, places, blocks(places, splits), heads, width, rope_dim, splits, head_blocks
    sizes = dict(CHOSEN=chosen, ALONE=alone, KEYS=KEYS, C=tile(width, 16), R=tile(rope_dim, 16))
    launch(_walk, (rows * splits * head_blocks,), *given, *counts, scale * LOG2_E, **shared, **sizes)
    return (parts if alone else combined(parts, logs, asked.dtype)).view_as(asked)


def refuse_latents(query: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, w_uk: Tensor, w_uv: Tensor) -> None:
    """Raise ValueError unless these are latent attention's, in one dtype, and the cache in one piece."""
    refuse_scattered(latent=latent, k_rope=k_rope)
    parts = dict(query=query, q_rope=q_rope, latent=latent, k_rope=k_rope)
    refuse_mixed(**parts, w_uk=w_uk, w_uv=w_uv)
    (batch, _, heads, width), (_, keys, latent_width) = query.shape, latent.shape
    wanted = {
        "q_rope": (*query.shape[:3], k_rope.shape[-1]),
        "k_rope": (batch, keys, q_rope.shape[-1]),
        "w_uk": (heads, width, latent_width),
        "w_uv": (heads, w_uv.shape[1], latent_width),
    }
    given = dict(q_rope=q_rope, k_rope=k_rope, w_uk=w_uk, w_uv=w_uv)
    for name, shape in wanted.items():
        if tuple(given[name].shape) != shape or latent.shape[0] != batch:
            raise ValueError(
                f"{name} is {tuple(given[name].shape)}, not {shape}; the latents are {tuple(latent.shape)}"
            )


@kernel
def _walk(
    asked,
    q_rope,
    latent,
    k_rope,
    which,
    parts,
    logs,
    length,
    keys,
    places,
    split_places,
    heads,
    width,
    rope_dim,
    splits,
    head_blocks,
    scale,
    CHOSEN: tl.constexpr,
    ALONE: tl.constexpr,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
):
    program = tl.program_id(0)  # one axis: the others end at 65,535 programs, and a prompt has more queries
    head = program % head_blocks * HEADS + tl.arange(0, HEADS)  # heads of one split run together, over the same rows
    split, row = program // head_blocks % splits, (program // head_blocks // splits).to(tl.int64)
    c, r = tl.arange(0, C), tl.arange(0, R)
    real, batch = head < heads, row // length
    query = row * heads + head
    ends = tl.minimum((split + 1) * split_places, places)

    still = tl.load(asked + query[:, None] * width + c, mask=real[:, None] & (c < width), other=0.0)
    moved = tl.load(q_rope + query[:, None] * rope_dim + r, mask=real[:, None] & (r < rope_dim), other=0.0)
    best = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    context = tl.zeros((HEADS, C), tl.float32)

    for start in range(split * split_places, ends, KEYS):
        at = start + tl.arange(0, KEYS)
        near = at < ends
        if CHOSEN:
            at = tl.load(which + row * places + at, mask=near, other=-1)
            near = at >= 0
            seen = near
        else:
            seen = tl.load(which + row * places + at, mask=near, other=0) != 0
        place = batch * keys + at
        latents = tl.load(latent + place[:, None] * width + c, mask=near[:, None] & (c < width), other=0.0)
        key_at = place[None, :] * rope_dim + r[:, None]
        keyed = tl.load(k_rope + key_at, mask=near[None, :] & (r[:, None] < rope_dim), other=0.0)
        scores = tl.dot(still, tl.trans(latents), input_precision="ieee")
        scores = tl.dot(moved, keyed, scores, input_precision="ieee") * scale
        scores = tl.where(seen[None, :], scores, float("-inf"))
        best, total, context = fold(scores, latents, best, total, context)

    part = (row * splits + split) * heads + head
    if not ALONE:
        total = tl.maximum(total, 1e-30)  # a split that sees nothing weighs nothing: log -inf
        tl.store(logs + part, best + tl.log2(total), mask=real)
    answer = (context / total[:, None]).to(parts.dtype.element_ty)
    tl.store(parts + part[:, None] * width + c, answer, mask=real[:, None] & (c < width))


VARIANTS = {  # C 512 and R 64: DeepSeek-V2 to V3.2, Kimi K2 and GLM-5. A prompt's programs are alone with their query.
    f"{name} {heads} heads": Variant(
        _walk,
        f"*bf16:16 *bf16:16 *bf16:16 *bf16:16 {which}:16 {parts}:16 *fp32:16 "
        "i32 i32:16 i32:16 i32:16 i32:16 i32:16 i32:16 i32 i32 fp32",
        dict(CHOSEN=which != "*u8", ALONE=name == "prompt", HEADS=heads, KEYS=KEYS, C=512, R=64),
        warps=warps,
        stages=STAGES,
        chips=chips,
        spilled_bytes=4 if (name, heads) == ("prompt", 64) else 0,  # one register of 255
    )
    for name, which, parts in (("all", "*u8", "*fp32"), ("chosen", "*i64", "*fp32"), ("prompt", "*i64", "*bf16"))
    for heads, warps, chips in ((16, 4, (80, 90)), (32, 8, (80, 90)), (64, 8, (90,)))
}
