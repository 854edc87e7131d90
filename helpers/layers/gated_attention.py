"""Qwen3.5's full attention: grouped-query attention whose output passes a gate, with positions in a part of the head.

The gate lets a head say nothing: a softmax always sums to one, so without it a head with nothing to find must still
pick some token, and picks the first one (an attention sink).
"""

from torch import nn

from helpers.functions import Layer, declared
from helpers.layers.attention import attend_causal
from helpers.layers.kv_cache import KeyValues
from helpers.layers.norm import ZeroCentredNorm
from helpers.layers.ragged import Rows
from helpers.layers.rope import rotate_first
from helpers.shapes import Float, Tensor


class GatedAttention(Layer):
    """``output(attend(...) * sigmoid(gate))``; one matrix makes each head's query and, behind it, its gate.

    Source: Qiu et al., "Gated Attention for Large Language Models", 2025 (arXiv 2505.06708); transformers'
    ``Qwen3_5Attention``. Built in lesson `attention`.
    """

    functions = declared(attend_causal=attend_causal)

    def __init__(self, width: int, num_heads: int, num_kv_heads: int, head_dim: int, epsilon: float):
        super().__init__()
        self.head_dim = head_dim
        self.query_and_gate = nn.Linear(width, num_heads * 2 * head_dim, bias=False)
        self.key = nn.Linear(width, num_kv_heads * head_dim, bias=False)
        self.value = nn.Linear(width, num_kv_heads * head_dim, bias=False)
        self.output = nn.Linear(num_heads * head_dim, width, bias=False)
        self.query_norm = ZeroCentredNorm(head_dim, epsilon)
        self.key_norm = ZeroCentredNorm(head_dim, epsilon)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValues | None = None,
    ) -> Float[Tensor, "B T D"]:
        """``rows`` say who sees whom; ``rotary`` may turn by others, as it does inside an image."""
        query, gate = self.query_and_gate(x).unflatten(-1, (-1, 2 * self.head_dim)).chunk(2, dim=-1)
        query = rotate_first(self.query_norm(query), *rotary)
        key = rotate_first(self.key_norm(self._heads(self.key(x))), *rotary)
        value = self._heads(self.value(x))
        if cache is not None:
            key, value = cache.write(key, value, rows)
        found = self.functions["attend_causal"](query, key, value, rows)
        return self.output((found * gate.sigmoid()).flatten(2))

    def _heads(self, x: Float[Tensor, "B T GK"]) -> Float[Tensor, "B T G K"]:
        return x.unflatten(-1, (-1, self.head_dim))
