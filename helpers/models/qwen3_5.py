"""Qwen3.5, the text model: three blocks that remember in a matrix of constant size, then one that sees every token.

Gated DeltaNet layers cost the same for every token and cannot recall everything; a gated attention layer in every
fourth block can. The feed-forward layer is dense, or a few experts out of many and one that every token uses.
Built in lessons `deltanet` (the layers) and `experts` (the experts).
Source: Qwen team, "Qwen3.5", 2026; transformers' ``modeling_qwen3_5.py`` and ``modeling_qwen3_5_moe.py``.
"""

from torch import nn
from torch.nn import functional

from helpers.layers.delta import DeltaState, GatedDeltaNet
from helpers.layers.gated_attention import GatedAttention
from helpers.layers.kv_cache import Cache, KeyValues
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import ZeroCentredNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import angles_of_axes, frequencies
from helpers.models.configs.qwen3_5 import DELTA, Config
from helpers.models.text_only import text_only
from helpers.moe.experts import Experts
from helpers.moe.moe_layer import MoE
from helpers.moe.routers import SoftmaxRouter
from helpers.shapes import Bool, Float, Int, Tensor


def mixture(config: Config) -> MoE:
    """A few experts for each token, and one for every token, whose part in the sum each token sets by a gate."""
    c = config
    router = SoftmaxRouter(c.width, c.num_experts, c.experts_per_token)
    shared = SwiGLU(c.width, c.shared_width) if c.shared_width else None
    return MoE(router, Experts(c.num_experts, c.width, c.expert_width), shared, gated=True)


class Block(nn.Module):
    """One layer of the decoder: a memory or attention, then the feed-forward layer, each normalised and added back."""

    def __init__(self, config: Config, kind: str):
        super().__init__()
        c = config
        self.attention_norm = ZeroCentredNorm(c.width, c.norm_epsilon)
        self.delta = self.attention = None
        if kind == DELTA:
            heads = (c.delta_key_heads, c.delta_value_heads, c.delta_key_dim, c.delta_value_dim)
            self.delta = GatedDeltaNet(c.width, *heads, c.conv_width, c.norm_epsilon)
        else:
            self.attention = GatedAttention(c.width, c.num_heads, c.num_kv_heads, c.head_dim, c.norm_epsilon)
        self.mlp_norm = ZeroCentredNorm(c.width, c.norm_epsilon)
        self.mlp = mixture(c) if c.num_experts else SwiGLU(c.width, c.mlp_width)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValues | DeltaState | None = None,
    ) -> Float[Tensor, "B T D"]:
        if self.delta:
            x = x + self.delta(self.attention_norm(x), rows, cache)
        else:
            x = x + self.attention(self.attention_norm(x), rows, rotary, cache)
        return x + self.mlp(self.mlp_norm(x))


class Qwen3_5(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, kind) for kind in config.layer_kinds)
        self.norm = ZeroCentredNorm(config.width, config.norm_epsilon)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)

    @text_only
    def forward(
        self, token_ids: Int[Tensor, "B T"], cache: Cache | None = None, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """With a cache, ``token_ids`` are the next tokens after those it has read. ``mask`` is True for real tokens:
        in a padded batch, left or right, each row gets the answer that it gets alone."""
        rows = arrange(token_ids, mask, None) if cache is None else cache.begin(token_ids, mask)
        places = rows.positions.expand(3, -1, -1)  # text: time, height and width are all the position
        x = self.embedding(known(rows.token_ids, self.config.vocab_size))
        return rows.restore(self.decode(x, places, rows, cache))

    def decode(
        self, x: Float[Tensor, "B T D"], places: Int[Tensor, "3 B T"], rows: Rows, cache: Cache | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """From vectors to logits: x may hold pieces of an image among the words, and ``places`` where in it they are.

        Columns are those of ``rows``; who sees whom is the order of the tokens, whatever their places.
        """
        radians = frequencies(self.config.rotary_dim, self.config.rope_theta, x.device)
        rotary = angles_of_axes(places, radians, self.config.sections, x.dtype)
        for n, block in enumerate(self.blocks):
            x = block(x, rows, rotary, None if cache is None else cache.blocks[n])
        if cache is not None:
            cache.end(rows)
        return functional.linear(self.norm(x), (self.head or self.embedding).weight)

    def new_cache(self) -> Cache:
        """An empty cache: keys and values in some blocks, one matrix per head in the others."""
        return Cache([DeltaState() if kind == DELTA else KeyValues() for kind in self.config.layer_kinds])
