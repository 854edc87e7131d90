"""How many FLOP one more token costs after a text of some length, from the config: what grows, and what does not.

Products of matrices are counted, two FLOP a multiplication with its addition, and nothing else: norms, softmax, the
choice of k and the mixing of streams are small beside them. Latent attention is counted in its absorbed form, and a
sparse layer reads only what it chose. A test holds every formula to the FLOP that torch counts in our own models.
"""

from typing import NamedTuple

from transformers import PretrainedConfig

from helpers.measure.dsa_work import index_pair_flops, pair_flops
from helpers.planning.cache_size import (
    CHUNKED,
    EVERY_4TH,
    GROUPED,
    INDEXED,
    LATENT,
    SLIDING,
    STATE,
    WINDOW,
    head_width,
    layer_kinds,
    window_size,
)
from helpers.planning.plan import Plan


class TokenFlops(NamedTuple):
    """The work of one token: each weight once, the scores of an indexer, and attention to what is read."""

    weights: int
    index: int
    attention: int

    @property
    def total(self) -> int:
        """All three."""
        return sum(self)


def token_flops(plan: Plan, tokens: int) -> TokenFlops:
    """The FLOP of one decoded token that sees ``tokens`` tokens, its own included. Built in lesson `what_came_next`."""
    if tokens < 1:
        raise ValueError(f"a token sees 1 token or more, its own, got {tokens}")
    layers = [layer_flops(plan.config, n, tokens) for n in range(len(layer_kinds(plan.config)))]
    index, attention = (sum(parts) for parts in zip(*layers, strict=True))
    return TokenFlops(2 * plan.active_without_embedding, index, attention)


def layer_flops(config: PretrainedConfig, layer: int, tokens: int) -> tuple[int, int]:
    """The FLOP of one layer's indexer and of its attention, weights apart."""
    kind = layer_kinds(config)[layer]
    if kind == STATE:
        return 0, state(config)
    if kind in (GROUPED, SLIDING, CHUNKED):
        return 0, attend(config, seen(config, kind, tokens))
    if kind in (LATENT, INDEXED):
        return latent(config, kind, tokens)
    entries = tokens // _entry_tokens(config, kind) if kind != WINDOW else 0
    near = attend(config, seen(config, SLIDING, tokens))
    if kind != EVERY_4TH:
        return 0, near + attend(config, entries)
    return index(config, entries), near + attend(config, min(entries, config.index_topk))


def seen(config: PretrainedConfig, kind: str, tokens: int) -> int:
    """How many of ``tokens`` the last one sees, its own included: all, those of its window, or those of its chunk."""
    if kind == SLIDING:
        return min(tokens, window_size(config))
    if kind == CHUNKED:
        return (tokens - 1) % window_size(config, "attention_chunk_size") + 1
    return tokens


def attend(config: PretrainedConfig, read: int) -> int:
    """Every head scores ``read`` keys and mixes as many values of the same width."""
    return 4 * config.num_attention_heads * head_width(config) * read


def index(config: PretrainedConfig, keys: int) -> int:
    """Every index head scores every index key, and the heads are weighed and added."""
    return index_pair_flops(config.index_n_heads, config.index_head_dim) * keys


def latent(config: PretrainedConfig, kind: str, tokens: int) -> tuple[int, int]:
    """Latent attention, absorbed: over all tokens, or over the k that an indexer, perhaps another layer's, chose."""
    k = getattr(config, "index_topk", None)
    read = min(tokens, k) if k else tokens
    pair = pair_flops(config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim)
    return index(config, tokens) if kind == INDEXED else 0, pair * read


def state(config: PretrainedConfig) -> int:
    """The delta rule asks the state, writes to it and reads it: three products, whatever came before."""
    if config.model_type == "kimi_linear":
        return 6 * config.linear_num_heads * config.linear_head_dim**2
    return 6 * config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim


def _entry_tokens(config: PretrainedConfig, kind: str) -> int:
    name = "compressed_sparse_attention" if kind == EVERY_4TH else "heavily_compressed_attention"
    return config.compress_rates[name]
