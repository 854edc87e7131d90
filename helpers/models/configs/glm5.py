"""A GLM-5, 5.1 or 5.2 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``GlmMoeDsaConfig`` and what its ``save_pretrained`` writes.
"""

from collections.abc import Collection
from dataclasses import dataclass

from helpers.config_words import by_one_name, flattened
from helpers.models.configs.deepseek_v32 import NAMES, OTHER_NAMES, SPARSE  # named and laid out alike
from helpers.models.configs.latent import dense_blocks, mlp_layer_types, rope_and_heads, unused_drafters
from helpers.models.published import (
    check_features,
    check_layer_types,
    check_sizes,
    checkpoint_name,
    shared_experts,
    sizes,
)

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
    groups_per_token: int = 1
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
    "groups_per_token": "topk_group",
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


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    named = {"model_type": "glm_moe_dsa", "architectures": ["GlmMoeDsaForCausalLM"]}
    flat = sizes(config, CONFIG_NAMES, without=("rope_theta",))
    return named | flat | mlp_layer_types(config) | rope_and_heads(config, None)


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "GLM-5")


def unused(config: Config, names: Collection[str]) -> tuple[str, ...]:
    """How the names begin of tensors that are not read: further drafters."""
    return unused_drafters(config, names)
