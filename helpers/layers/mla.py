"""Multi-head latent attention (MLA): the cache keeps one short latent a token, from which every head makes its own
key and value.

Two ways to the same result. **Expanded**: make the keys and values of all heads, then attend as usual; best where many
queries read them. **Absorbed**: carry the queries into the latent space instead, so that the latent itself is the
key and the value, one for all heads; best where few queries read a long cache. A rotation depends on the position and
cannot be carried through a matrix, so R coordinates of their own are turned, again one key for all heads.
Source: DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1; transformers' ``DeepseekV3Attention``. Built in lesson `mla`.
"""

import torch
from torch import nn

from helpers.functions import Layer, declared
from helpers.layers.attention import causal_mask
from helpers.layers.kv_cache import CacheEntry, KVBuffer
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows
from helpers.layers.rope import rotate_neighbours
from helpers.precision import at_least_float32
from helpers.shapes import Bool, Float, Tensor

EPSILON = 1e-6  # of the latents' norms, whatever the model's is


def expanded(
    query: Float[Tensor, "B T H K"],
    q_rope: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B *each S C"],
    k_rope: Float[Tensor, "B *each S R"],
    w_uk: Float[Tensor, "H K C"],
    w_uv: Float[Tensor, "H V C"],
    mask: Bool[Tensor, "B T S"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """Attention over the keys and values that ``w_uk`` and ``w_uv`` make of the latents.

    Latents are B S C, the same for every query, or B T S C, gathered for each query by a selection. ``mask`` is True
    where a query may attend. Source: DeepSeek-AI, "DeepSeek-V2", 2024, equations 37 to 47. Built in lesson `mla`.
    """
    all_or_each = "bs" if latent.dim() == 3 else "bts"
    key = torch.einsum(f"{all_or_each}c,hkc->{all_or_each}hk", latent, w_uk)
    value = torch.einsum(f"{all_or_each}c,hvc->{all_or_each}hv", latent, w_uv)
    scores = torch.einsum(f"bthk,{all_or_each}hk->bths", query, key)
    scores = scores + torch.einsum(f"bthr,{all_or_each}r->bths", q_rope, k_rope)
    return torch.einsum(f"bths,{all_or_each}hv->bthv", attention_weights(scores * scale, mask), value)


def absorbed(
    query: Float[Tensor, "B T H K"],
    q_rope: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B *each S C"],
    k_rope: Float[Tensor, "B *each S R"],
    w_uk: Float[Tensor, "H K C"],
    w_uv: Float[Tensor, "H V C"],
    mask: Bool[Tensor, "B T S"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """The same numbers as ``expanded``, without a key or a value being made: q . (U c) = (q U) . c.

    What is read for each earlier token is its latent and its RoPE key, once for all heads.
    Source: DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1.2 and appendix C. Built in lesson `mla`.
    """
    all_or_each = "bs" if latent.dim() == 3 else "bts"
    scores = torch.einsum(f"bthc,{all_or_each}c->bths", into_latents(query, w_uk), latent)
    scores = scores + torch.einsum(f"bthr,{all_or_each}r->bths", q_rope, k_rope)
    context = torch.einsum(f"bths,{all_or_each}c->bthc", attention_weights(scores * scale, mask), latent)
    return out_of_latents(context, w_uv)


def into_latents(query: Float[Tensor, "B T H K"], w_uk: Float[Tensor, "H K C"]) -> Float[Tensor, "B T H C"]:
    """Queries that ask latents directly. Built in lesson `mla`."""
    return torch.einsum("bthk,hkc->bthc", query, w_uk)


def out_of_latents(context: Float[Tensor, "B T H C"], w_uv: Float[Tensor, "H V C"]) -> Float[Tensor, "B T H V"]:
    """The mixture of values, made from the mixture of latents. Built in lesson `mla`."""
    return torch.einsum("bthc,hvc->bthv", context, w_uv)


def attention_weights(scores: Float[Tensor, "B T H S"], mask: Bool[Tensor, "B T S"]) -> Float[Tensor, "B T H S"]:
    """Softmax over the keys that a query may see, in float32 at least."""
    masked = scores.masked_fill(~mask[:, :, None], float("-inf"))
    return masked.softmax(dim=-1, dtype=at_least_float32(scores.dtype)).to(scores.dtype)


def absorbing_pays(queries: int, keys: int, latent_width: int, nope_dim: int, value_dim: int) -> bool:
    """Whether ``absorbed`` takes fewer multiplications per head than ``expanded``.

    Carrying costs C (K + V) a query, expanding as much a key; an absorbed score and its mixture cost 2 C where K + V
    were enough. With DeepSeek-V3's sizes and a long cache: up to 170 new queries at once. Built in lesson `mla`.
    """
    move = latent_width * (nope_dim + value_dim)
    carried = queries * move + queries * keys * 2 * latent_width
    return carried < keys * move + queries * keys * (nope_dim + value_dim)


class Latents(CacheEntry):
    """What one MLA layer remembers: a latent and a RoPE key a token, for all heads together. Built in lesson `mla`."""

    def __init__(self):
        self.latent, self.k_rope = KVBuffer(), KVBuffer()

    def write(
        self, latent: Float[Tensor, "B T C"], k_rope: Float[Tensor, "B T R"], rows: Rows
    ) -> tuple[Float[Tensor, "B S C"], Float[Tensor, "B S R"]]:
        """Add the new positions; return all of them, old and new."""
        where = (rows.positions, rows.starts)
        return self.latent.write(latent, *where), self.k_rope.write(k_rope, *where)

    def parts(self) -> dict[str, CacheEntry]:
        """B x S x (C + R) x the size of a number; DeepSeek-V3 in bfloat16: 1152 bytes per token and layer."""
        return {"latent": self.latent, "k_rope": self.k_rope}


class MLA(Layer):
    """The weights of multi-head latent attention. ``query_rank`` None: queries are not compressed.

    ``scale`` multiplies the scores: 1 / sqrt(K + R), and more under YaRN. Built in lesson `mla`.
    """

    functions = declared(absorbed=absorbed, expanded=expanded)

    def __init__(
        self,
        width: int,
        num_heads: int,
        query_rank: int | None,
        latent_width: int,
        nope_dim: int,
        rotary_dim: int,
        value_dim: int,
        scale: float,
    ):
        super().__init__()
        self.nope_dim, self.rotary_dim, self.value_dim, self.scale = nope_dim, rotary_dim, value_dim, scale
        self.num_heads, self.latent_width, self.query_rank = num_heads, latent_width, query_rank
        if query_rank is None:
            self.q = nn.Linear(width, num_heads * (nope_dim + rotary_dim), bias=False)
        else:
            self.q_a = nn.Linear(width, query_rank, bias=False)
            self.q_a_norm = RMSNorm(query_rank, EPSILON)
            self.q_b = nn.Linear(query_rank, num_heads * (nope_dim + rotary_dim), bias=False)
        self.kv_a = nn.Linear(width, latent_width + rotary_dim, bias=False)
        self.kv_a_norm = RMSNorm(latent_width, EPSILON)
        self.kv_b = nn.Linear(latent_width, num_heads * (nope_dim + value_dim), bias=False)
        self.output = nn.Linear(num_heads * value_dim, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: Latents | None = None,
    ) -> Float[Tensor, "B T D"]:
        query, q_rope = self.queries(self.query_latent(x), rotary)
        latent, k_rope = self.latents(x, rotary)
        if cache is not None:
            latent, k_rope = cache.write(latent, k_rope, rows)
        mask = rows.mask(causal_mask, latent.shape[1])
        sizes = (*mask.shape[1:], self.latent_width, self.nope_dim, self.value_dim)
        way = "absorbed" if cache is not None and absorbing_pays(*sizes) else "expanded"
        context = self.functions[way](query, q_rope, latent, k_rope, *self.up(), mask, self.scale)
        return self.output(context.flatten(2))

    def query_latent(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T Q"]:
        """The compressed query, normed: what ``queries`` and an indexer read. ``x`` itself without compression."""
        return x if self.query_rank is None else self.q_a_norm(self.q_a(x))

    def queries(
        self, query_latent: Float[Tensor, "B T Q"], rotary: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B T H R"]]:
        """Each head's query: the part that stays as it is, and the part that is turned."""
        up = self.q if self.query_rank is None else self.q_b
        query = up(query_latent).unflatten(-1, (self.num_heads, -1))
        query, turned = query.split([self.nope_dim, self.rotary_dim], dim=-1)
        return query, rotate_neighbours(turned, *rotary)

    def latents(
        self, x: Float[Tensor, "B T D"], rotary: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B T R"]]:
        """What is remembered of these tokens: the latent, normed, and the one key that is turned."""
        latent, key = self.kv_a(x).split([self.latent_width, self.rotary_dim], dim=-1)
        return self.kv_a_norm(latent), rotate_neighbours(key[:, :, None], *rotary).squeeze(2)

    def up(self) -> tuple[Float[Tensor, "H K C"], Float[Tensor, "H V C"]]:
        """The matrices that make each head's key and value of a latent."""
        both = self.kv_b.weight.unflatten(0, (self.num_heads, -1))
        return both.split([self.nope_dim, self.value_dim], dim=1)
