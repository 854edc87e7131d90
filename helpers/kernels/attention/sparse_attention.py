"""Latent attention over chosen tokens only: sibling of ``helpers.layers.dsa.attend_chosen``.

    chosen   [ 3 | 17 | 18 | 90 | -1 | -1 ]      positions in the cache, -1: none
               |    |    |    |
    cache  ....#....##.......#..............     the walk of ``latent_walk`` gathers those rows, and never the others

A row is C + R numbers side by side, 1152 bytes in 16 bits, enough for memory to be read at its full width. A prompt has
a program for each query and block of heads; a decoded token has few, so its choice is split as well. FLOP:
2 H (2 C + R) for each chosen token; bytes: C + R numbers for each, per query, whatever the length of the text; that is
the point.
"""

import torch

from helpers.kernels.attention.latent_walk import refuse_latents, walked
from helpers.kernels.launch import launches, may_ask
from helpers.layers import dsa
from helpers.layers.mla import into_latents, out_of_latents
from helpers.measure import Work
from helpers.measure.dsa_work import pair_flops
from helpers.shapes import Float, Int, Tensor

LEAST = 128  # chosen tokens a split, or it is not worth a program


def attend_chosen(
    query: Float[Tensor, "B T H K"],
    q_rope: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    k_rope: Float[Tensor, "B S R"],
    w_uk: Float[Tensor, "H K C"],
    w_uv: Float[Tensor, "H V C"],
    chosen: Int[Tensor, "B T chosen"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """The numbers of ``dsa.attend_chosen``, for one query or for many; -1 stands for no position.

    A position behind the cache would read foreign memory; it is refused, which costs one look at the largest (but while
    a CUDA graph is captured, which cannot look).
    Raises ValueError for it, for sizes that do not fit, an empty choice, tensors in pieces, mixed dtypes.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, section 2; FlashMLA's sparse kernels do this job. Built in lesson
    `kernels`.
    """
    if not launches(query, q_rope, latent, k_rope, w_uk, w_uv):
        return dsa.attend_chosen(query, q_rope, latent, k_rope, w_uk, w_uv, chosen, scale)
    refuse_latents(query, q_rope, latent, k_rope, w_uk, w_uv)
    _refuse(chosen, query, latent.shape[1])
    asked = into_latents(query, w_uk).contiguous()
    context = walked(asked, q_rope.contiguous(), latent, k_rope, chosen.contiguous(), scale, LEAST)
    return out_of_latents(context, w_uv)


def cost(queries: int, k: int, heads: int, latent: int, rope_dim: int, number_bytes: int = 2) -> Work:
    """Each query gathers k latents and RoPE keys, and reads k positions of 8 bytes. Built in lesson `kernels`."""
    read = k * (latent + rope_dim) * number_bytes + 8 * k + heads * (2 * latent + rope_dim) * number_bytes
    return Work(flops=queries * k * pair_flops(heads, latent, rope_dim), bytes=queries * read)


def _refuse(chosen: Tensor, query: Tensor, keys: int) -> None:
    if chosen.shape[:2] != query.shape[:2] or chosen.shape[2] == 0:
        raise ValueError(f"the choice is {tuple(chosen.shape)} for {tuple(query.shape[:2])} queries; each needs some")
    if chosen.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"the choice is {chosen.dtype}: positions are int32 or int64")
    lowest, highest = (int(end) for end in chosen.aminmax()) if may_ask(chosen) else (-1, -1)
    if highest >= keys or lowest < -1:
        raise ValueError(f"positions {lowest} to {highest} were chosen; the cache has 0 to {keys - 1}, and -1 for none")
