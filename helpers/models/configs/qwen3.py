"""A dense Qwen3 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``Qwen3Config`` and what its ``save_pretrained`` writes.
"""

from dataclasses import dataclass

from helpers.config_words import flattened
from helpers.models.published import check_features, check_layer_types, check_sizes, checkpoint_name, rope, sizes


@dataclass(frozen=True)
class Config:
    """The sizes of one model. The published names stand in CONFIG_NAMES."""

    vocab_size: int
    width: int
    num_blocks: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    norm_epsilon: float = 1e-6
    rope_theta: float = 1e6
    tied: bool = True  # the head is the embedding
    context: int = 32768  # positions that it was trained for

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} query heads cannot share {self.num_kv_heads} key/value heads evenly")


CONFIG_NAMES = {  # ours -> config.json's
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_blocks": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "mlp_width": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "rope_theta": "rope_theta",  # since transformers 5 inside rope_parameters
    "tied": "tie_word_embeddings",
    "context": "max_position_embeddings",
}

# Ours -> the checkpoint's; {n} is the block.
NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "blocks.{n}.attention_norm.weight": "model.layers.{n}.input_layernorm.weight",
    "blocks.{n}.attention.query.weight": "model.layers.{n}.self_attn.q_proj.weight",
    "blocks.{n}.attention.key.weight": "model.layers.{n}.self_attn.k_proj.weight",
    "blocks.{n}.attention.value.weight": "model.layers.{n}.self_attn.v_proj.weight",
    "blocks.{n}.attention.output.weight": "model.layers.{n}.self_attn.o_proj.weight",
    "blocks.{n}.attention.query_norm.weight": "model.layers.{n}.self_attn.q_norm.weight",
    "blocks.{n}.attention.key_norm.weight": "model.layers.{n}.self_attn.k_norm.weight",
    "blocks.{n}.mlp_norm.weight": "model.layers.{n}.post_attention_layernorm.weight",
    "blocks.{n}.mlp.gate.weight": "model.layers.{n}.mlp.gate_proj.weight",
    "blocks.{n}.mlp.up.weight": "model.layers.{n}.mlp.up_proj.weight",
    "blocks.{n}.mlp.down.weight": "model.layers.{n}.mlp.down_proj.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


# What a config.json may say of the features that are not built here.
ONLY = {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False, "rope_type": "default"}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    published = flattened(published)
    check_features(published, ONLY, "Qwen3")
    check_layer_types(published, ("full_attention",), "Qwen3")
    check_sizes(published, CONFIG_NAMES.values())
    return Config(**{ours: published[name] for ours, name in CONFIG_NAMES.items()})


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    named = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
    return named | sizes(config, CONFIG_NAMES, without=("rope_theta",)) | {"rope_parameters": rope(config.rope_theta)}


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``."""
    return checkpoint_name(name, NAMES, "Qwen3")
