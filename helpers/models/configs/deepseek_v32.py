"""A DeepSeek-V3.2 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``DeepseekV32Config`` and what its ``save_pretrained`` writes.
"""

from collections.abc import Collection
from dataclasses import dataclass

from helpers.config_words import by_one_name, flattened, rotary_settings
from helpers.layers.rope import Yarn
from helpers.models.configs.latent import dense_blocks, mlp_layer_types, rope_and_heads, unused_drafters
from helpers.models.published import (
    check_features,
    check_layer_types,
    check_sizes,
    checkpoint_name,
    shared_experts,
    sizes,
)


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
    num_groups: int = 1  # of experts
    groups_per_token: int = 1
    routed_scale: float = 1.0
    normalised: bool = True  # the weights of a token's experts sum to routed_scale
    norm_epsilon: float = 1e-6
    rope_theta: float = 1e4
    yarn: Yarn | None = None
    tied: bool = False
    context: int = 163840

    def __post_init__(self):
        if not 0 < self.rotary_dim <= self.index_dim:
            raise ValueError(f"{self.rotary_dim} coordinates cannot be turned in index heads of {self.index_dim}")


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
    "num_groups": "n_group",
    "groups_per_token": "topk_group",
    "routed_scale": "routed_scaling_factor",
    "normalised": "norm_topk_prob",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",  # since transformers 5 inside rope_parameters
    "yarn": "rope_scaling",  # since transformers 5 inside rope_parameters
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}

OTHER_NAMES = {"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"}
SPARSE = ("indexed_attention", "deepseek_sparse_attention")  # every layer's kind, by its name now and before

# What a config.json may say of the features that are not built here.
ONLY = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "indexer_rope_interleave": (False,),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
    "rope_type": ("default", "yarn"),
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    flat = by_one_name(flattened(published), OTHER_NAMES)
    only = {**ONLY, "num_key_value_heads": (None, flat.get("num_attention_heads"))}  # every head makes its own key
    check_features(flat, only, "DeepSeek-V3.2")
    check_layer_types(flat, SPARSE, "DeepSeek-V3.2")
    flat["rope_scaling"] = Yarn.from_hf(rotary_settings(published))
    flat["first_k_dense_replace"] = dense_blocks(flat)
    flat["n_shared_experts"] = shared_experts(flat)
    check_sizes(flat, [name for ours, name in CONFIG_NAMES.items() if ours != "yarn"])
    return Config(**{ours: flat[name] for ours, name in CONFIG_NAMES.items()})


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    named = {"model_type": "deepseek_v32", "architectures": ["DeepseekV32ForCausalLM"]}
    flat = sizes(config, CONFIG_NAMES, without=("rope_theta", "yarn"))
    return named | flat | mlp_layer_types(config) | rope_and_heads(config, config.yarn)


BLOCK = {  # ours -> the checkpoint's, inside block n
    "attention_norm.weight": "input_layernorm.weight",
    "attention.mla.q_a.weight": "self_attn.q_a_proj.weight",
    "attention.mla.q_a_norm.weight": "self_attn.q_a_layernorm.weight",
    "attention.mla.q_b.weight": "self_attn.q_b_proj.weight",
    "attention.mla.kv_a.weight": "self_attn.kv_a_proj_with_mqa.weight",
    "attention.mla.kv_a_norm.weight": "self_attn.kv_a_layernorm.weight",
    "attention.mla.kv_b.weight": "self_attn.kv_b_proj.weight",
    "attention.mla.output.weight": "self_attn.o_proj.weight",
    "attention.indexer.query.weight": "self_attn.indexer.wq_b.weight",
    "attention.indexer.key.weight": "self_attn.indexer.wk.weight",
    "attention.indexer.key_norm.weight": "self_attn.indexer.k_norm.weight",
    "attention.indexer.key_norm.bias": "self_attn.indexer.k_norm.bias",
    "attention.indexer.weights.weight": "self_attn.indexer.weights_proj.weight",
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
NAMES = {  # {n} is the block, {e} the expert
    "embedding.weight": "model.embed_tokens.weight",
    **{f"blocks.{{n}}.{ours}": f"model.layers.{{n}}.{theirs}" for ours, theirs in BLOCK.items()},
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "DeepSeek-V3.2")


def unused(config: Config, names: Collection[str]) -> tuple[str, ...]:
    """How the names begin of tensors that are not read: further drafters."""
    return unused_drafters(config, names)
