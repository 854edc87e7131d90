"""Latent attention over chosen tokens only: sibling of ``helpers.layers.dsa.attend_chosen``.

    chosen   [ 3 | 17 | 18 | 90 | -1 | -1 ]      positions in the cache, -1: none
               |    |    |    |
    cache  ....#....##.......#..............     one program: up to 64 heads of a query. It loads 32 positions, gathers
                                                 those latents into a tile, scores and mixes them for all heads

The same walk as ``mla_decode``, but the rows lie anywhere: each is C + R numbers side by side, 1152 bytes in 16 bits,
enough for memory to be read at its full width. A prompt has a program for each query and block of heads; a decoded
token has few, so its choice is split as well. FLOP: 2 H (2 C + R) for each chosen token; bytes: C + R numbers for
each, per query, whatever the length of the text; that is the point.
"""

import torch

from helpers.kernels.launch import Variant, blocks, kernel, launch, launches, may_ask, tile, tl
from helpers.kernels.mla_decode import refuse_latents
from helpers.kernels.softmax import LOG2_E, fold
from helpers.kernels.split import STAGES, combined, heads_a_program, splits_for
from helpers.layers import dsa
from helpers.layers.mla import into_latents, out_of_latents
from helpers.measure import Work
from helpers.measure.dsa_work import pair_flops
from helpers.shapes import Float, Int, Tensor

KEYS = 32  # a tile
LEAST = 128  # chosen tokens a split


def attend_chosen(
    query: Float[Tensor, "B T H K"],
    query_turned: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    key_turned: Float[Tensor, "B S R"],
    up_key: Float[Tensor, "H K C"],
    up_value: Float[Tensor, "H V C"],
    chosen: Int[Tensor, "B T chosen"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """The numbers of ``dsa.attend_chosen``, for one query or for many; -1 stands for no position.

    A position behind the cache would read foreign memory; it is refused, which costs one look at the largest (but while
    a CUDA graph is captured, which cannot look).
    Raises ValueError for it, for sizes that do not fit, an empty choice, tensors in pieces, mixed dtypes.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, section 2; FlashMLA's sparse kernels do this job. Built in lesson 16.
    """
    if not launches(query, query_turned, latent, key_turned, up_key, up_value):
        return dsa.attend_chosen(query, query_turned, latent, key_turned, up_key, up_value, chosen, scale)
    refuse_latents(query, query_turned, latent, key_turned, up_key, up_value)
    _refuse(chosen, query, latent.shape[1])
    asked = into_latents(query, up_key).contiguous()
    mixed = _mixed(asked, query_turned.contiguous(), latent, key_turned, chosen.contiguous(), scale)
    return out_of_latents(mixed, up_value)


def cost(queries: int, k: int, heads: int, latent: int, turned: int, number_bytes: int = 2) -> Work:
    """Each query gathers k latents and turned keys, and reads k positions of 8 bytes. Built in lesson 16."""
    read = k * (latent + turned) * number_bytes + 8 * k + heads * (2 * latent + turned) * number_bytes
    return Work(flops=queries * k * pair_flops(heads, latent, turned), bytes=queries * read)


def _refuse(chosen: Tensor, query: Tensor, keys: int) -> None:
    if chosen.shape[:2] != query.shape[:2] or chosen.shape[2] == 0:
        raise ValueError(f"the choice is {tuple(chosen.shape)} for {tuple(query.shape[:2])} queries; each needs some")
    if chosen.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"the choice is {chosen.dtype}: positions are int32 or int64")
    lowest, highest = (int(end) for end in chosen.aminmax()) if may_ask(chosen) else (-1, -1)
    if highest >= keys or lowest < -1:
        raise ValueError(f"positions {lowest} to {highest} were chosen; the cache has 0 to {keys - 1}, and -1 for none")


def _mixed(
    asked: Float[Tensor, "B T H C"],
    turned: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    key_turned: Float[Tensor, "B S R"],
    chosen: Int[Tensor, "B T chosen"],
    scale: float,
) -> Float[Tensor, "B T H C"]:
    (batch, length, heads, width), k = asked.shape, chosen.shape[2]
    shared = heads_a_program(heads, asked)
    rows, head_blocks = batch * length, blocks(heads, shared["HEADS"])
    splits = splits_for(rows * head_blocks, k, LEAST)
    parts = torch.empty(rows, splits, heads, width, dtype=torch.float32, device=asked.device)
    logs = torch.empty(rows, splits, heads, dtype=torch.float32, device=asked.device)
    counts = (length, latent.shape[1], k, blocks(k, splits), heads, width, turned.shape[-1], scale * LOG2_E)
    sizes = dict(KEYS=KEYS, C=tile(width, 16), R=tile(turned.shape[-1], 16))
    launch(
        _sparse,
        (head_blocks * splits, rows),
        *(asked, turned, latent, key_turned, chosen, parts, logs),
        *(*counts, splits),
        **shared,
        **sizes,
    )
    return combined(parts, logs, asked.dtype).view_as(asked)


@kernel
def _sparse(
    asked,
    turned,
    latent,
    key_turned,
    chosen,
    parts,
    logs,
    length,
    keys,
    k,
    split_k,
    heads,
    width,
    turned_width,
    scale,
    splits,
    HEADS: tl.constexpr,
    KEYS: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
):
    split, row = tl.program_id(0) % splits, tl.program_id(1).to(tl.int64)
    head = tl.program_id(0) // splits * HEADS + tl.arange(0, HEADS)
    c, r = tl.arange(0, C), tl.arange(0, R)
    real, batch = head < heads, row // length
    query = row * heads + head
    ends = tl.minimum((split + 1) * split_k, k)

    still = tl.load(asked + query[:, None] * width + c, mask=real[:, None] & (c < width), other=0.0)
    moved = tl.load(turned + query[:, None] * turned_width + r, mask=real[:, None] & (r < turned_width), other=0.0)
    best = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    mixed = tl.zeros((HEADS, C), tl.float32)

    for start in range(split * split_k, ends, KEYS):
        slot = start + tl.arange(0, KEYS)
        at = tl.load(chosen + row * k + slot, mask=slot < ends, other=-1)
        near, place = at >= 0, batch * keys + at
        latents = tl.load(latent + place[:, None] * width + c, mask=near[:, None] & (c < width), other=0.0)
        key_at = place[None, :] * turned_width + r[:, None]
        keyed = tl.load(key_turned + key_at, mask=near[None, :] & (r[:, None] < turned_width), other=0.0)
        scores = tl.dot(still, tl.trans(latents), input_precision="ieee")
        scores = tl.dot(moved, keyed, scores, input_precision="ieee") * scale
        scores = tl.where(near[None, :], scores, float("-inf"))
        best, total, mixed = fold(scores, latents, best, total, mixed)

    part = (row * splits + split) * heads + head
    total = tl.maximum(total, 1e-30)
    answer = mixed / total[:, None]  # a split without a position weighs nothing: log -inf
    tl.store(parts + part[:, None] * width + c, answer, mask=real[:, None] & (c < width))
    tl.store(logs + part, best + tl.log2(total), mask=real)


VARIANTS = {
    f"bfloat16 {heads} heads": Variant(
        _sparse,
        "*bf16:16 *bf16:16 *bf16:16 *bf16:16 *i64:16 *fp32:16 *fp32:16 "
        "i32 i32:16 i32:16 i32:16 i32:16 i32:16 i32:16 fp32 i32",
        dict(HEADS=heads, KEYS=KEYS, C=512, R=64),
        warps=warps,
        stages=STAGES,
        chips=chips,
    )
    for heads, warps, chips in ((16, 4, (80, 90)), (32, 8, (80, 90)), (64, 8, (90,)))
}
