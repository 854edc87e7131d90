"""A DeepSeek-V3.2 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``DeepseekV32Config`` and what its ``save_pretrained`` writes.
"""

from dataclasses import dataclass

from helpers.config_words import rotary_settings
from helpers.layers.rope import Yarn
from helpers.models.configs import latent
from helpers.models.published import check_sizes, checkpoint_name, sizes, under


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
    nope_dim: int  # coordinates of a head's key that positions do not turn
    rotary_dim: int  # those that they do turn
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
        latent.check_index(self)


CONFIG_NAMES = {  # ours -> config.json's
    **latent.SIZES,
    **latent.INDEX_SIZES,
    "yarn": "rope_parameters",  # once rope_scaling
}

OTHER_NAMES = {"num_local_experts": "n_routed_experts", "num_experts": "n_routed_experts"}
SPARSE = ("indexed_attention", "deepseek_sparse_attention")  # every layer's kind, by its name now and before

# What a config.json may say of the features that are not built here.
ONLY = {
    **latent.ONLY,
    "mlp_bias": False,
    "indexer_rope_interleave": False,
    "rope_type": ("default", "yarn"),
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    flat = latent.checked(published, OTHER_NAMES, ONLY, SPARSE, "DeepSeek-V3.2")
    flat["rope_parameters"] = Yarn.from_hf(rotary_settings(published))
    flat["first_k_dense_replace"] = latent.dense_blocks(flat)
    check_sizes(flat, [name for ours, name in CONFIG_NAMES.items() if ours != "yarn"])
    return Config(**{ours: flat[name] for ours, name in CONFIG_NAMES.items()})


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    named = {"model_type": "deepseek_v32", "architectures": ["DeepseekV32ForCausalLM"]}
    flat = sizes(config, CONFIG_NAMES, without=("rope_theta", "yarn"))
    return named | flat | latent.mlp_layer_types(config) | latent.rope_and_heads(config, config.yarn)


BLOCK = {  # ours -> the checkpoint's, inside block n
    **under("attention.mla.", "self_attn.", latent.MLA),
    "attention.indexer.query.weight": "self_attn.indexer.wq_b.weight",
    "attention.indexer.key.weight": "self_attn.indexer.wk.weight",
    "attention.indexer.key_norm.weight": "self_attn.indexer.k_norm.weight",
    "attention.indexer.key_norm.bias": "self_attn.indexer.k_norm.bias",
    "attention.indexer.weights.weight": "self_attn.indexer.weights_proj.weight",
    **latent.REST_OF_BLOCK,
}
NAMES = {**latent.OUTSIDE, **under("blocks.{n}.", "model.layers.{n}.", BLOCK)}  # {n} is the block, {e} the expert


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "DeepSeek-V3.2")


unused = latent.unused_drafters
