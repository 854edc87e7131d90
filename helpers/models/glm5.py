"""GLM-5, 5.1 and 5.2: sparse latent attention, and layers that share what one of them chose.

A block is DeepSeek-V3.2's: attention over the latents that an indexer chose, then a few experts out of many and a
shared one. The indexer pairs neighbouring coordinates, as the attention beside it does. Since GLM-5.2 three of four
blocks have no indexer (IndexShare): they read what the last block with one chose, and keep no index keys.
The published checkpoint also holds a block that guesses the token after the next; it is not read here.
Built in lessons `mla`, `dsa` and `experts`.
Source: Z.ai, "GLM-5", 2026; IndexShare: arXiv 2603.12201; transformers' ``modeling_glm_moe_dsa.py``.
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
from helpers.layers.rope import angles, frequencies, rotate_neighbours
from helpers.models.configs.glm5 import FULL, Config
from helpers.models.text_only import text_only
from helpers.moe.moe_layer import sigmoid_moe
from helpers.moe.routers import RouterConfig
from helpers.shapes import Bool, Float, Int, Tensor


class Block(nn.Module):
    """One layer of the decoder: sparse attention, then experts or the dense layer, each normalised and added back."""

    def __init__(self, config: Config, dense: bool, kind: str):
        super().__init__()
        c = config
        self.attention_norm = RMSNorm(c.width, c.norm_epsilon)
        scale = (c.nope_dim + c.rotary_dim) ** -0.5
        mla = MLA(c.width, c.num_heads, c.query_rank, c.latent_width, c.nope_dim, c.rotary_dim, c.value_dim, scale)
        sizes = (c.index_heads, c.index_dim, c.rotary_dim, c.index_k)
        indexer = Indexer(c.width, c.query_rank, *sizes, rotate_neighbours) if kind == FULL else None
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
        chosen: Int[Tensor, "B T chosen"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B T chosen"]]:
        """The stream, and the tokens that were chosen: here, or by the block that ``chosen`` came from."""
        answer, chosen = self.attention(self.attention_norm(x), rows, rotary, cache, chosen)
        normed, x = self.mlp_norm.add(answer, x)
        return x + self.mlp(normed), chosen


class GLM5(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        kinds = enumerate(config.indexers)
        self.blocks = nn.ModuleList(Block(config, n < config.num_dense_blocks, kind) for n, kind in kinds)
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = None if config.tied else nn.Linear(config.width, config.vocab_size, bias=False)

    @text_only
    def forward(
        self, token_ids: Int[Tensor, "B T"], cache: Cache | None = None, mask: Bool[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T vocab"]:
        """With a cache, ``token_ids`` are the next tokens after those it has read. ``mask`` is True for real tokens:
        in a padded batch, left or right, each row gets the answer that it gets alone."""
        rows = arrange(token_ids, mask, None) if cache is None else cache.begin(token_ids, mask)
        x, chosen = self.embedding(known(rows.token_ids, self.config.vocab_size)), None
        rotary = self.rotary(rows.positions, x.dtype)
        for n, block in enumerate(self.blocks):
            x, chosen = block(x, rows, rotary, None if cache is None else cache.blocks[n], chosen)
        if cache is not None:
            cache.end(rows)
        return rows.restore(functional.linear(self.norm(x), (self.head or self.embedding).weight))

    def rotary(self, positions: Int[Tensor, "B T"], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The cosines and sines of the positions, for attention and indexer alike."""
        radians = frequencies(self.config.rotary_dim, self.config.rope_theta, positions.device)
        return angles(positions, radians, dtype)

    def new_cache(self) -> Cache:
        """An empty cache for one batch of sequences: latents, and index keys in the blocks that have an indexer."""
        return Cache([SparseLatents() for _ in self.blocks])
