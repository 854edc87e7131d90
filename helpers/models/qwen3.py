"""Qwen3, dense: the plain modern decoder that the later models are compared with.

Each block adds two things to the residual stream: what attention gathered from earlier positions, and what the
feed-forward layer made of the position itself. Built in lesson `open_a_model`.
Source: Qwen team, "Qwen3 Technical Report", 2025; transformers' ``modeling_qwen3.py``.
"""

import torch
from torch import nn
from torch.nn import functional

from helpers.layers.attention import Attention
from helpers.layers.kv_cache import Cache, KeyValues
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import angles, frequencies
from helpers.models.configs.qwen3 import Config
from helpers.models.text_only import text_only
from helpers.shapes import Bool, Float, Int, Tensor


class Block(nn.Module):
    """One layer of the decoder: attention, then the feed-forward layer, each normalised first and added back."""

    def __init__(self, config: Config):
        super().__init__()
        width, epsilon = config.width, config.norm_epsilon
        self.attention_norm = RMSNorm(width, epsilon)
        self.attention = Attention(width, config.num_heads, config.num_kv_heads, config.head_dim, epsilon)
        self.mlp_norm = RMSNorm(width, epsilon)
        self.mlp = SwiGLU(width, config.mlp_width)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: KeyValues | None = None,
    ) -> Float[Tensor, "B T D"]:
        normed, x = self.mlp_norm.add(self.attention(self.attention_norm(x), rows, rotary, cache), x)
        return x + self.mlp(normed)


class Qwen3(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)

    @text_only
    def forward(
        self, token_ids: Int[Tensor, "B T"], cache: Cache | None = None, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """With a cache, ``token_ids`` are the next tokens after those it has read. ``mask`` is True for real tokens:
        in a padded batch, left or right, each row gets the answer that it gets alone."""
        rows = arrange(token_ids, mask, None) if cache is None else cache.begin(token_ids, mask)
        x = self.embedding(known(rows.token_ids, self.config.vocab_size))
        rotary = self.rotary(rows.positions, x.dtype)
        for n, block in enumerate(self.blocks):
            x = block(x, rows, rotary, None if cache is None else cache.blocks[n])
        if cache is not None:
            cache.end(rows)
        return rows.restore(functional.linear(self.norm(x), (self.head or self.embedding).weight))

    def rotary(self, positions: Int[Tensor, "B T"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The cosines and sines of the positions, made anew: a buffer is one more thing to load."""
        radians = frequencies(self.config.head_dim, self.config.rope_theta, positions.device)
        return angles(positions, radians, dtype)

    def new_cache(self) -> Cache:
        """An empty cache for one batch of sequences."""
        return Cache([KeyValues() for _ in self.blocks])
