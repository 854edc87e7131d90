"""DeepSeek-V3.2: DeepSeek-V3 that reads 2048 chosen tokens instead of the whole text.

Each block attends over the latents that its own indexer chose, then sends every token to a few experts out of many
and to a shared one; the first blocks have a plain feed-forward layer. Two rotations meet in one layer: attention pairs
neighbouring coordinates, the indexer pairs the two halves. The published checkpoint also holds a block that guesses the
token after the next, as DeepSeek-V3's; it is not read here.
Source: DeepSeek-AI, "DeepSeek-V3.2", 2025; transformers' ``modeling_deepseek_v32.py``. Built in lessons `mla`, `dsa`
and `experts`.
"""

import torch
from torch import nn
from torch.nn import functional

from helpers.layers.dsa import Indexer, SparseAttention, SparseLatents
from helpers.layers.kv_cache import Cache
from helpers.layers.mla import MLA
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import angles_of_yarn, frequencies, rotate
from helpers.models.configs.deepseek_v32 import Config
from helpers.models.text_only import text_only
from helpers.moe.moe_layer import sigmoid_moe
from helpers.moe.routers import RouterConfig
from helpers.shapes import Bool, Float, Int, Tensor


class Block(nn.Module):
    """One layer of the decoder: sparse attention, then experts or the dense layer, each normalised and added back."""

    def __init__(self, config: Config, dense: bool):
        super().__init__()
        c = config
        self.attention_norm = RMSNorm(c.width, c.norm_epsilon)
        scale = (c.nope_dim + c.rotary_dim) ** -0.5 * (c.yarn.on_scores if c.yarn else 1.0)
        mla = MLA(c.width, c.num_heads, c.query_rank, c.latent_width, c.nope_dim, c.rotary_dim, c.value_dim, scale)
        # Half-split, although the attention beside it pairs neighbours.
        indexer = Indexer(c.width, c.query_rank, c.index_heads, c.index_dim, c.rotary_dim, c.index_k, rotate)
        self.attention = SparseAttention(mla, indexer)
        self.mlp_norm = RMSNorm(c.width, c.norm_epsilon)
        router = RouterConfig(c.experts_per_token, c.num_groups, c.groups_per_token, c.routed_scale, c.normalised)
        experts = (c.expert_width, c.num_experts, c.num_shared)
        self.mlp = SwiGLU(c.width, c.mlp_width) if dense else sigmoid_moe(c.width, *experts, router)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: SparseLatents | None = None,
    ) -> Float[Tensor, "B T D"]:
        answer, _chosen = self.attention(self.attention_norm(x), rows, rotary, cache)
        normed, x = self.mlp_norm.add(answer, x)
        return x + self.mlp(normed)


class DeepSeekV32(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, n < config.num_dense_blocks) for n in range(config.num_blocks))
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
        """The cosines and sines of the positions, for attention and indexer alike."""
        c = self.config
        radians = frequencies(c.rotary_dim, c.rope_theta, positions.device)
        return angles_of_yarn(positions, radians, c.rope_theta, c.yarn, dtype)

    def new_cache(self) -> Cache:
        """An empty cache for one batch of sequences: latents, and the indexers' keys."""
        return Cache([SparseLatents() for _ in self.blocks])
