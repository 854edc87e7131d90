"""A DeepSeek-V3 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``DeepseekV3Config`` and what its ``save_pretrained`` writes.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from helpers.config_words import rotary_settings
from helpers.layers.rope import Yarn
from helpers.models.configs import latent
from helpers.models.published import check_sizes, checkpoint_name, sizes, under
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
    nope_dim: int  # coordinates of a head's key that positions do not turn
    rotary_dim: int  # those that they do turn
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
        return (self.nope_dim + self.rotary_dim) ** -0.5 * (self.yarn.on_scores if self.yarn else 1.0)


CONFIG_NAMES = {  # ours -> config.json's
    **latent.SIZES,
    "yarn": "rope_parameters",  # once rope_scaling
    "num_drafters": "num_nextn_predict_layers",
}
MAY_LACK = ("query_rank", "yarn", "num_drafters")
OTHER_NAMES = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}

# What a config.json may say of the features that are not built here.
ONLY = {
    **latent.ONLY,
    "rope_interleave": True,
    "rope_type": ("default", "yarn"),
    "sliding_window": None,
    "attention_chunk_size": None,
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    only = {**ONLY, "head_dim": published.get("qk_rope_head_dim")}  # transformers' word for what positions turn
    flat = latent.checked(published, OTHER_NAMES, only, ("full_attention",), "DeepSeek-V3")
    flat["rope_parameters"] = Yarn.from_hf(rotary_settings(published))
    check_sizes(flat, [name for ours, name in CONFIG_NAMES.items() if ours not in MAY_LACK])
    values = {ours: flat.get(name) for ours, name in CONFIG_NAMES.items()}
    return Config(**{**values, "num_drafters": values["num_drafters"] or 0})


def to_hf(config: Config) -> dict:
    """The dictionary of a config.json that transformers and ``from_hf`` read."""
    named = {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}
    flat = sizes(config, CONFIG_NAMES, without=("rope_theta", "yarn"))
    return named | flat | latent.rope_and_heads(config, config.yarn)


BLOCK = {  # ours -> the checkpoint's, inside one block
    "attention.q.weight": "self_attn.q_proj.weight",  # of a query that is not compressed
    **under("attention.", "self_attn.", latent.MLA),
    **latent.REST_OF_BLOCK,
}
DRAFTER = {
    "token_norm.weight": "enorm.weight",
    "hidden_norm.weight": "hnorm.weight",
    "join.weight": "eh_proj.weight",
    **under("block.", "", BLOCK),
    "norm.weight": "shared_head.norm.weight",
}

# Ours -> the checkpoint's; {n} is the block, {e} the expert.
NAMES = {
    **latent.OUTSIDE,
    **under("blocks.{n}.", "model.layers.{n}.", BLOCK),
    **under("drafters.{n}.", "model.layers.{n}.", DRAFTER),
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


unused = latent.unused_drafters
