"""A DeepSeek-V3 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``DeepseekV3Config`` and what its ``save_pretrained`` writes.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from helpers.config_words import by_one_name, flattened, rotary_settings
from helpers.layers.rope import Yarn
from helpers.models.configs.latent import rope_and_heads, unused_drafters
from helpers.models.published import (
    check_features,
    check_layer_types,
    check_sizes,
    checkpoint_name,
    shared_experts,
    sizes,
)
from helpers.moe.router import check_groups


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES."""

    vocab_size: int
    width: int
    num_blocks: int
    num_dense_blocks: int  # the first ones, without experts
    num_heads: int
    query_rank: int | None  # width of the compressed query; None: it is not compressed
    latent_width: int
    head_dim: int  # of a key, without its rotary part
    rotary_dim: int
    value_dim: int
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
    context: int = 4096
    num_drafters: int = 0

    def __post_init__(self):
        if self.num_drafters not in (0, 1):
            raise ValueError(f"num_nextn_predict_layers is {self.num_drafters}; 0 or 1 is built here")
        check_groups(self.experts_per_token, self.num_experts, self.num_groups, self.groups_per_token)

    @property
    def scale(self) -> float:
        """What attention scores are multiplied by."""
        return (self.head_dim + self.rotary_dim) ** -0.5 * (self.yarn.on_scores if self.yarn else 1.0)


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
    "yarn": "rope_parameters",  # once rope_scaling
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
    "num_drafters": "num_nextn_predict_layers",
}
MAY_LACK = ("query_rank", "yarn", "num_drafters")
OTHER_NAMES = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}

# What a config.json may say of the features that are not built here.
ONLY = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "rope_interleave": (True,),
    "scoring_func": ("sigmoid",),
    "topk_method": ("noaux_tc",),
    "moe_layer_freq": (1,),
    "rope_type": ("default", "yarn"),
    "sliding_window": (None,),
    "attention_chunk_size": (None,),
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    flat = by_one_name(flattened(published), OTHER_NAMES)
    heads = {"num_key_value_heads": (None, flat.get("num_attention_heads"))}  # every head makes its own key
    heads["head_dim"] = (flat.get("qk_rope_head_dim"),)  # transformers' word for the part that positions turn
    check_features(flat, {**ONLY, **heads}, "DeepSeek-V3")
    check_layer_types(flat, ("full_attention",), "DeepSeek-V3")
    flat["rope_parameters"] = Yarn.from_hf(rotary_settings(published))
    flat["n_shared_experts"] = shared_experts(flat)
    check_sizes(flat, [name for ours, name in CONFIG_NAMES.items() if ours not in MAY_LACK])
    values = {ours: flat.get(name) for ours, name in CONFIG_NAMES.items()}
    return Config(**{**values, "num_drafters": values["num_drafters"] or 0})


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    named = {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}
    return named | sizes(config, CONFIG_NAMES, without=("rope_theta", "yarn")) | rope_and_heads(config, config.yarn)


BLOCK = {  # ours -> the checkpoint's, inside one block
    "attention_norm.weight": "input_layernorm.weight",
    "attention.q.weight": "self_attn.q_proj.weight",
    "attention.q_a.weight": "self_attn.q_a_proj.weight",
    "attention.q_a_norm.weight": "self_attn.q_a_layernorm.weight",
    "attention.q_b.weight": "self_attn.q_b_proj.weight",
    "attention.kv_a.weight": "self_attn.kv_a_proj_with_mqa.weight",
    "attention.kv_a_norm.weight": "self_attn.kv_a_layernorm.weight",
    "attention.kv_b.weight": "self_attn.kv_b_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
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
DRAFTER = {
    "token_norm.weight": "enorm.weight",
    "hidden_norm.weight": "hnorm.weight",
    "join.weight": "eh_proj.weight",
    **{f"block.{ours}": theirs for ours, theirs in BLOCK.items()},
    "norm.weight": "shared_head.norm.weight",
}

# Ours -> the checkpoint's; {n} is the block, {e} the expert.
NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    **{f"blocks.{{n}}.{ours}": f"model.layers.{{n}}.{theirs}" for ours, theirs in BLOCK.items()},
    **{f"drafters.{{n}}.{ours}": f"model.layers.{{n}}.{theirs}" for ours, theirs in DRAFTER.items()},
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
# A published checkpoint holds the embedding and the head a second time, beside the drafter.
COPIES = {
    "model.layers.{n}.embed_tokens.weight": "embedding.weight",
    "model.layers.{n}.shared_head.head.weight": "head.weight",
}


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "DeepSeek-V3")


def fit(config: Config, names: Collection[str]) -> Config:
    """The config of the tensors that are there: transformers writes config.json with a drafter, the weights without."""
    there = f"model.layers.{config.num_blocks}.eh_proj.weight" in names
    return config if there else replace(config, num_drafters=0)


def copies(config: Config) -> dict[str, str]:
    """Tensors that the files hold twice -> our parameter."""
    return {name.replace("{n}", str(config.num_blocks)): ours for name, ours in COPIES.items()}


def unused(config: Config, names: Collection[str]) -> tuple[str, ...]:
    """How the names begin of tensors that are not read: further drafters."""
    return unused_drafters(config, names)
