"""DeepSeek-V4: four residual streams, attention to a short window and to entries that stand for many tokens, experts.

Per token of a long text it keeps a few bytes where others keep kilobytes: a layer stores the last 127 tokens and one
entry for each 4 or each 128. Three kinds of attention alternate, every feed-forward layer is a mixture of experts, and
in the first few a fixed table sends each token id to its experts. Built in lessons `what_came_next` (attention,
streams) and `experts`. Source: DeepSeek-AI, "DeepSeek-V4", 2026; transformers' ``modeling_deepseek_v4.py``. Not built:
its MTP.
"""

import torch
from torch import nn

from helpers.layers.compressed import Compressed, CompressedAttention, Sizes
from helpers.layers.compressor import Compressor, EntryIndexer
from helpers.layers.hyper import HyperConnection, HyperHead, expand
from helpers.layers.kv_cache import Cache
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import frequencies, stretched
from helpers.models.configs.deepseek_v4 import HASHED, HEAVY, SPARSE, WINDOW, Config
from helpers.models.text_only import text_only
from helpers.moe.experts import Experts
from helpers.moe.moe_layer import MoE
from helpers.moe.routers import HashRouter, SqrtSoftplusRouter
from helpers.shapes import Bool, Float, Int, Tensor


def mixture(config: Config, kind: str) -> MoE:
    """A few routed experts and the shared one. The routing is by a fixed table of token ids, or learned."""
    c = config
    sizes = (c.width, c.num_experts, c.experts_per_token, c.routed_scale)
    router = HashRouter(*sizes, c.vocab_size) if kind == HASHED else SqrtSoftplusRouter(*sizes)
    experts = Experts(c.num_experts, c.width, c.expert_width, c.activation_limit)
    return MoE(router, experts, SwiGLU(c.width, c.expert_width, c.activation_limit))


def attention(config: Config, kind: str) -> CompressedAttention:
    """The attention layer of one block: what it sees beside its window depends on its kind."""
    c, compressor, indexer = config, None, None
    if kind == HEAVY:
        compressor = Compressor(c.width, c.head_dim, c.heavy_ratio, overlap=False, epsilon=c.norm_epsilon)
    if kind == SPARSE:
        compressor = Compressor(c.width, c.head_dim, c.sparse_ratio, overlap=True, epsilon=c.norm_epsilon)
        sizes = (c.index_heads, c.index_dim, c.sparse_ratio, c.index_k)
        indexer = EntryIndexer(c.width, c.query_rank, *sizes, c.norm_epsilon)
    sizes = (c.width, c.query_rank, c.num_heads, c.head_dim, c.window, c.output_groups, c.output_rank, c.norm_epsilon)
    return CompressedAttention(Sizes(*sizes), compressor, indexer)


class Block(nn.Module):
    """One layer of the decoder: collapse the streams, read, write back to all of them; attention, then experts."""

    def __init__(self, config: Config, n: int):
        super().__init__()
        c = config
        streams = (c.num_streams, c.width, c.sinkhorn_rounds, c.hyper_epsilon, c.norm_epsilon)
        self.attention_streams = HyperConnection(*streams)
        self.attention_norm = RMSNorm(c.width, c.norm_epsilon)
        self.attention = attention(c, c.layer_kinds[n])
        self.mlp_streams = HyperConnection(*streams)
        self.mlp_norm = RMSNorm(c.width, c.norm_epsilon)
        self.mlp = mixture(c, c.router_kinds[n])

    def forward(
        self,
        streams: Float[Tensor, "B T n D"],
        rows: Rows,
        radians: Float[Tensor, " halfR"],
        cache: Compressed | None = None,
    ) -> Float[Tensor, "B T n D"]:
        x, post, mix = self.attention_streams(streams)
        streams = expand(streams, self.attention(self.attention_norm(x), rows, radians, cache), post, mix)
        x, post, mix = self.mlp_streams(streams)
        return expand(streams, self.mlp(self.mlp_norm(x), rows.token_ids), post, mix)


class DeepSeekV4(nn.Module):
    """Token ids in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(Block(config, n) for n in range(config.num_blocks))
        self.streams_head = HyperHead(config.num_streams, config.width, config.hyper_epsilon, config.norm_epsilon)
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
        streams = x[:, :, None].expand(-1, -1, self.config.num_streams, -1)
        radians = {kind: self.radians(kind, streams.device) for kind in {*self.config.layer_kinds}}
        for n, block in enumerate(self.blocks):
            entry = None if cache is None else cache.blocks[n]
            streams = block(streams, rows, radians[self.config.layer_kinds[n]], entry)
        if cache is not None:
            cache.end(rows)
        x = self.norm(self.streams_head(streams))
        return rows.restore(nn.functional.linear(x, (self.head or self.embedding).weight))

    def radians(self, kind: str, device: torch.device) -> Float[Tensor, " halfR"]:
        """How fast the pairs turn: where there are entries slowly, for long texts, and stretched by YaRN."""
        c = self.config
        if kind == WINDOW:
            return frequencies(c.rotary_dim, c.rope_theta, device)
        plain = frequencies(c.rotary_dim, c.entry_theta, device)
        return stretched(plain, c.entry_theta, c.yarn) if c.yarn else plain

    def new_cache(self) -> Cache:
        """An empty cache: a window in every block, entries in most."""
        return Cache([block.attention.new_cache() for block in self.blocks])
