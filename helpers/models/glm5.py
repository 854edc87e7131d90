"""GLM-5, 5.1 and 5.2: sparse latent attention, and layers that share what one of them chose.

A block is DeepSeek-V3.2's: attention over the latents that an indexer chose, then a few experts out of many and a
shared one. The indexer pairs neighbouring coordinates, as the attention beside it does. Since GLM-5.2 three of four
blocks have no indexer (IndexShare): they read what the last block with one chose, and keep no index keys.
The published checkpoint also holds a block that guesses the token after the next; it is not read here.
Built in lessons `mla`, `dsa` and `experts`.
Source: Z.ai, "GLM-5", 2026; IndexShare: arXiv 2603.12201; transformers' ``modeling_glm_moe_dsa.py``.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from helpers.config_words import by_one_name, flattened
from helpers.layers.dsa import Indexer, SparseAttention, SparseLatents
from helpers.layers.kv_cache import Cache
from helpers.layers.mla import MLA
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows, arrange, known
from helpers.layers.rope import angles, frequencies, rotate_neighbours
from helpers.models.deepseek_v32 import NAMES, OTHER_NAMES, SPARSE, dense_blocks  # named and laid out alike
from helpers.models.published import check_features, check_layer_types, check_sizes, checkpoint_name, shared_experts
from helpers.models.text_only import text_only
from helpers.moe.moe_layer import MoE, RouterConfig
from helpers.shapes import Bool, Float, Int, Tensor

FULL, SHARED = "full", "shared"  # config.json's words: an indexer of its own, or the choice of an earlier block


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES."""

    vocab_size: int
    width: int
    num_blocks: int
    num_dense_blocks: int  # the first ones, without experts
    num_heads: int
    query_rank: int
    latent_width: int
    head_dim: int  # of a key, without its rotary part
    rotary_dim: int
    value_dim: int
    index_heads: int
    index_dim: int
    index_k: int  # tokens that each query reads
    mlp_width: int  # of the dense blocks
    num_experts: int
    experts_per_token: int
    expert_width: int
    num_shared: int  # experts that every token goes to
    indexers: tuple[str, ...]  # FULL or SHARED, one per block
    num_groups: int = 1  # of experts
    kept_groups: int = 1
    routed_scale: float = 1.0
    normalised: bool = True  # the weights of a token's experts sum to routed_scale
    norm_epsilon: float = 1e-5
    rope_theta: float = 1e6
    tied: bool = False
    context: int = 202752

    def __post_init__(self):
        if not 0 < self.rotary_dim <= self.index_dim:
            raise ValueError(f"{self.rotary_dim} coordinates cannot be turned in index heads of {self.index_dim}")
        if len(self.indexers) != self.num_blocks or not {*self.indexers} <= {FULL, SHARED}:
            raise ValueError(
                f"indexer_types is {list(self.indexers)}; {self.num_blocks} of {FULL!r} and {SHARED!r} are needed"
            )
        if self.indexers[0] != FULL:
            raise ValueError("the first block has no earlier one to share a choice with: its indexer must be full")


CONFIG_NAMES = {  # ours -> config.json's
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_blocks": "num_hidden_layers",
    "num_dense_blocks": "first_k_dense_replace",
    "num_heads": "num_attention_heads",
    "query_rank": "q_lora_rank",
    "latent_width": "kv_lora_rank",
    "head_dim": "qk_nope_head_dim",
    "rotary_dim": "qk_rope_head_dim",
    "value_dim": "v_head_dim",
    "index_heads": "index_n_heads",
    "index_dim": "index_head_dim",
    "index_k": "index_topk",
    "mlp_width": "intermediate_size",
    "num_experts": "n_routed_experts",
    "experts_per_token": "num_experts_per_tok",
    "expert_width": "moe_intermediate_size",
    "num_shared": "n_shared_experts",
    "indexers": "indexer_types",
    "num_groups": "n_group",
    "kept_groups": "topk_group",
    "routed_scale": "routed_scaling_factor",
    "normalised": "norm_topk_prob",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",  # since transformers 5 inside rope_parameters
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}

# What a config.json may say of the features that are not built here.
ONLY = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "indexer_rope_interleave": (True,),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
    "rope_type": ("default",),
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    flat = by_one_name(flattened(published), OTHER_NAMES)
    only = {**ONLY, "num_key_value_heads": (None, flat.get("num_attention_heads"))}  # every head makes its own key
    check_features(flat, only, "GLM-5")
    check_layer_types(flat, SPARSE, "GLM-5")
    flat["indexer_types"] = indexer_types(flat)
    flat["first_k_dense_replace"] = dense_blocks(flat)
    flat["n_shared_experts"] = shared_experts(flat)
    check_sizes(flat, CONFIG_NAMES.values())
    return Config(**{ours: flat[name] for ours, name in CONFIG_NAMES.items()})


def indexer_types(published: dict) -> tuple[str, ...]:
    """FULL or SHARED for each block, as config.json lists them, spells them (``"FFSS"``) or counts them.

    Counted: the first ``index_skip_topk_offset`` blocks have indexers of their own, then every ``index_topk_freq``-th.
    """
    if (listed := published.get("indexer_types")) is not None:
        return tuple(listed)
    if (pattern := published.get("index_topk_pattern")) is not None:
        return tuple({"F": FULL, "S": SHARED}.get(letter, letter) for letter in pattern)
    every, offset = max(published.get("index_topk_freq") or 1, 1), published.get("index_skip_topk_offset")
    offset = 2 if offset is None else offset
    blocks = range(published.get("num_hidden_layers") or 0)
    return tuple(FULL if max(n - offset + 1, 0) % every == 0 else SHARED for n in blocks)


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "GLM-5")


class Block(nn.Module):
    """One layer of the decoder: sparse attention, then experts or the dense layer, each normalised and added back."""

    def __init__(self, config: Config, dense: bool, kind: str):
        super().__init__()
        c = config
        self.attention_norm = RMSNorm(c.width, c.norm_epsilon)
        scale = (c.head_dim + c.rotary_dim) ** -0.5
        mla = MLA(c.width, c.num_heads, c.query_rank, c.latent_width, c.head_dim, c.rotary_dim, c.value_dim, scale)
        sizes = (c.index_heads, c.index_dim, c.rotary_dim, c.index_k)
        indexer = Indexer(c.width, c.query_rank, *sizes, rotate_neighbours) if kind == FULL else None
        self.attention = SparseAttention(mla, indexer)
        self.mlp_norm = RMSNorm(c.width, c.norm_epsilon)
        choice = RouterConfig(c.experts_per_token, c.num_groups, c.kept_groups, c.routed_scale, c.normalised)
        experts = (c.expert_width, c.num_experts, c.num_shared)
        self.mlp = SwiGLU(c.width, c.mlp_width) if dense else MoE(c.width, *experts, choice)

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
        x = x + answer
        return x + self.mlp(self.mlp_norm(x)), chosen


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
