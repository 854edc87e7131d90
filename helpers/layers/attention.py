"""Grouped-query attention: many query heads share few key/value heads, so that the cache is small."""

import torch
from torch import nn

from helpers.functions import Layer, declared
from helpers.layers.kv_cache import KeyValues
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows
from helpers.layers.rope import rotate
from helpers.precision import at_least_float32
from helpers.shapes import Bool, Float, Int, Tensor


def causal_mask(positions: Int[Tensor, "B T"], keys: int) -> Bool[Tensor, "B T S"]:
    """True where a query may attend: to its own position and every earlier one. Key s stands at position s.

    Built in lesson `attention`.
    """
    return torch.arange(keys, device=positions.device) <= positions[..., None]


def attend(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B S G K"],
    value: Float[Tensor, "B S G V"],
    mask: Bool[Tensor, "B T S"],
) -> Float[Tensor, "B T H V"]:
    """``softmax(query . key / sqrt(K)) . value``, where query head h reads key/value head h // (H / G).

    ``mask`` is True where a query may attend; every query needs one key. The softmax is taken in float32 at least.
    Source: Ainslie et al., "GQA", 2023, section 2. Built in lesson `attention`.
    """
    groups, width = key.shape[2], query.shape[3]
    query = (query * width**-0.5).unflatten(2, (groups, -1))  # B T G J K: J = H / G heads share one key head
    scores = torch.einsum("btgjk,bsgk->bgjts", query, key)
    weights = scores.where(mask[:, None, None], float("-inf")).softmax(dim=-1, dtype=at_least_float32(scores.dtype))
    return torch.einsum("bgjts,bsgv->btgjv", weights.to(value.dtype), value).flatten(2, 3)


def attend_causal(
    query: Float[Tensor, "B T H K"], key: Float[Tensor, "B S G K"], value: Float[Tensor, "B S G V"], rows: Rows
) -> Float[Tensor, "B T H V"]:
    """``attend`` where each query sees its own position and every earlier one: what a decoder's layer computes with."""
    return attend(query, key, value, rows.mask(causal_mask, key.shape[1]))


class Attention(Layer):
    """Grouped-query attention with Qwen3's norms on the queries and the keys of each head, before the rotation.

    Source: Qwen team, "Qwen3 Technical Report", 2025, section 2; transformers' ``Qwen3Attention``. Built in lesson
    `attention`.
    """

    functions = declared(attend_causal=attend_causal)

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, head_dim: int, epsilon: float):
        super().__init__()
        self.head_dim = head_dim
        self.query = nn.Linear(width, num_heads * head_dim, bias=False)
        self.key = nn.Linear(width, num_kv_heads * head_dim, bias=False)
        self.value = nn.Linear(width, num_kv_heads * head_dim, bias=False)
        self.output = nn.Linear(num_heads * head_dim, width, bias=False)
        self.query_norm = RMSNorm(head_dim, epsilon)
        self.key_norm = RMSNorm(head_dim, epsilon)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValues | None = None,
    ) -> Float[Tensor, "B T D"]:
        query, key, value = self.project(x, rotary)
        if cache is not None:
            key, value = cache.write(key, value, rows)
        return self.output(self.functions["attend_causal"](query, key, value, rows).flatten(2))

    def project(
        self, x: Float[Tensor, "B T D"], rotary: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B T G K"], Float[Tensor, "B T G K"]]:
        """What is attended with: queries and keys normed and turned, values as they are."""
        query = rotate(self.query_norm(self._heads(self.query(x))), *rotary)
        key = rotate(self.key_norm(self._heads(self.key(x))), *rotary)
        return query, key, self._heads(self.value(x))

    def _heads(self, x: Float[Tensor, "B T HK"]) -> Float[Tensor, "B T H K"]:
        return x.unflatten(-1, (-1, self.head_dim))
