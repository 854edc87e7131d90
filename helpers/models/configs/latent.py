"""What the families with latent attention share: DeepSeek-V3, DeepSeek-V3.2, GLM-5 and, as DeepSeek-V3, Kimi K2.5."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from helpers.config_words import by_one_name, flattened
from helpers.layers.rope import Yarn
from helpers.models.published import check_features, check_layer_types, rope

SIZES = {  # ours -> config.json's
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_blocks": "num_hidden_layers",
    "num_dense_blocks": "first_k_dense_replace",
    "num_heads": "num_attention_heads",
    "query_rank": "q_lora_rank",
    "latent_width": "kv_lora_rank",
    "nope_dim": "qk_nope_head_dim",
    "rotary_dim": "qk_rope_head_dim",
    "value_dim": "v_head_dim",
    "mlp_width": "intermediate_size",
    "num_experts": "n_routed_experts",
    "experts_per_token": "num_experts_per_tok",
    "expert_width": "moe_intermediate_size",
    "num_shared": "n_shared_experts",
    "num_groups": "n_group",
    "groups_per_token": "topk_group",
    "routed_scale": "routed_scaling_factor",
    "normalised": "norm_topk_prob",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",  # since transformers 5 inside rope_parameters
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}
INDEX_SIZES = {  # of an indexer
    "index_heads": "index_n_heads",
    "index_dim": "index_head_dim",
    "index_k": "index_topk",
}
ONLY = {  # what a config.json may say of features that none of these families has here
    "hidden_act": "silu",
    "attention_bias": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
}

MLA = {  # ours -> the checkpoint's, inside latent attention
    "q_a.weight": "q_a_proj.weight",
    "q_a_norm.weight": "q_a_layernorm.weight",
    "q_b.weight": "q_b_proj.weight",
    "kv_a.weight": "kv_a_proj_with_mqa.weight",
    "kv_a_norm.weight": "kv_a_layernorm.weight",
    "kv_b.weight": "kv_b_proj.weight",
    "output.weight": "o_proj.weight",
}
REST_OF_BLOCK = {  # inside a block, without its attention; {e} is the expert
    "attention_norm.weight": "input_layernorm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "mlp.gate.weight": "mlp.gate_proj.weight",
    "mlp.up.weight": "mlp.up_proj.weight",
    "mlp.down.weight": "mlp.down_proj.weight",
    "mlp.router.logits.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.e_score_correction_bias",
    "mlp.experts.gate_up": "mlp.experts.{e}.{gate_proj,up_proj}.weight",
    "mlp.experts.down": "mlp.experts.{e}.down_proj.weight",
    "mlp.shared.gate.weight": "mlp.shared_experts.gate_proj.weight",
    "mlp.shared.up.weight": "mlp.shared_experts.up_proj.weight",
    "mlp.shared.down.weight": "mlp.shared_experts.down_proj.weight",
}
OUTSIDE = {  # of the blocks
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
DRAFTER = re.compile(r"model\.layers\.(\d{1,9})\.eh_proj\.weight", re.ASCII)  # only a drafter has such a matrix


def checked(published: dict, other_names: Mapping[str, str], only: Mapping, kinds: Collection[str], name: str) -> dict:
    """config.json's dictionary, flat and each word by one name.

    ValueError where it asks for a feature that the family ``name`` does not have here: ``only`` has what its words may
    say, ``kinds`` what its layers may be.
    """
    flat = by_one_name(flattened(published), other_names)
    heads = {"num_key_value_heads": (None, flat.get("num_attention_heads"))}  # every head makes its own key
    check_features(flat, {**only, **heads}, name)
    check_layer_types(flat, kinds, name)
    none = "n_shared_experts" in flat and flat["n_shared_experts"] is None  # null is none, as in DeepSeek's own code
    return {**flat, "n_shared_experts": 0} if none else flat


def check_index(config: Any) -> None:
    """ValueError unless the heads of the indexer have room for the part that positions turn."""
    if not 0 < config.rotary_dim <= config.index_dim:
        raise ValueError(f"{config.rotary_dim} coordinates cannot be turned in index heads of {config.index_dim}")


def dense_blocks(published: dict) -> int | None:
    """How many blocks at the beginning have no experts.

    ValueError where ``mlp_layer_types`` has one without experts after one with them, or another number of blocks.
    """
    kinds = published.get("mlp_layer_types")
    if kinds is None:
        return published.get("first_k_dense_replace")
    if list(kinds) != sorted(kinds) or not {*kinds} <= {"dense", "sparse"}:
        raise ValueError(f"config.json has mlp_layer_types={kinds!r}; dense blocks can only be the first ones")
    if len(kinds) != published.get("num_hidden_layers"):
        blocks = published.get("num_hidden_layers")
        raise ValueError(f"config.json has {len(kinds)} mlp_layer_types and {blocks} num_hidden_layers; one each")
    return kinds.count("dense")


def mlp_layer_types(config: Any) -> dict[str, Any]:
    """Which blocks have experts, in transformers' words, for a config.json."""
    dense = config.num_dense_blocks
    return {"mlp_layer_types": ["dense" if n < dense else "sparse" for n in range(config.num_blocks)]}


def rope_and_heads(config: Any, yarn: Yarn | None) -> dict[str, Any]:
    """How positions turn, for a config.json; latent attention has as many key heads as query heads."""
    return {"num_key_value_heads": config.num_heads, "rope_parameters": rope(config.rope_theta, yarn)}


def unused_drafters(config: Any, names: Collection[str]) -> tuple[str, ...]:
    """Prefixes of the tensors that are not read: of drafters that the model does not have, behind the last block."""
    numbers = (int(found[1]) for name in names if (found := DRAFTER.fullmatch(name)))
    first = config.num_blocks + getattr(config, "num_drafters", 0)
    return tuple(f"model.layers.{n}." for n in numbers if n >= first)
