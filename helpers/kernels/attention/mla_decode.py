"""Latent attention of one new token over a long cache: sibling of ``helpers.layers.mla.absorbed``.

    cache  S x (C + R)   [ split 0 | split 1 | .. ]    the walk of ``latent_walk``: every program takes up to 64 heads
    heads                [ 0 .. 63 | 64 .. 127 ]       of one query over one split of the keys, and loads all of them

The cache is what is read: S (C + R) numbers per text, once from memory where a program takes all heads. FLOP:
2 H (2 C + R) a token, so 64 heads give 121 FLOP per byte in 16 bits, left of an H200's ridge (206), and 128 heads give
242, right of it. Carrying the queries into the latents and the mixtures out of them are two small products before and
after, which torch does.
"""

from helpers.kernels.attention.latent_walk import refuse_latents, walked
from helpers.kernels.launch import launches
from helpers.layers import mla
from helpers.measure import Work
from helpers.measure.dsa_work import pair_flops
from helpers.shapes import Bool, Float, Tensor

LEAST = 256  # keys a split, or it is not worth a program


def absorbed(
    query: Float[Tensor, "B T H K"],
    q_rope: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    k_rope: Float[Tensor, "B S R"],
    w_uk: Float[Tensor, "H K C"],
    w_uv: Float[Tensor, "H V C"],
    mask: Bool[Tensor, "B T S"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """The numbers of ``mla.absorbed``, for few queries a text: one program reads the whole cache for each of them.

    Raises ValueError for sizes that do not fit together, an empty cache, tensors in pieces, mixed dtypes.
    Source: DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1.2; split over keys: "Flash-Decoding", 2023.
    Built in lesson `kernels`.
    """
    if not launches(query, q_rope, latent, k_rope, w_uk, w_uv):
        return mla.absorbed(query, q_rope, latent, k_rope, w_uk, w_uv, mask, scale)
    refuse_latents(query, q_rope, latent, k_rope, w_uk, w_uv)
    if mask.shape != (*query.shape[:2], latent.shape[1]):
        raise ValueError(f"the mask is {tuple(mask.shape)} for {query.shape[1]} queries and {latent.shape[1]} keys")
    asked = mla.into_latents(query, w_uk).contiguous()
    context = walked(asked, q_rope.contiguous(), latent, k_rope, mask.contiguous(), scale, LEAST)
    return mla.out_of_latents(context, w_uv)


def cost(batch: int, tokens: int, heads: int, latent: int, rope_dim: int, number_bytes: int = 2) -> Work:
    """One query a text: each latent and RoPE key read once for all heads; queries and mixtures beside them.

    Built in lesson `kernels`.
    """
    read = batch * (tokens * (latent + rope_dim) + heads * (2 * latent + rope_dim)) * number_bytes
    return Work(flops=batch * tokens * pair_flops(heads, latent, rope_dim), bytes=read)
