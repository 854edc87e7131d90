"""A GLM-5, 5.1 or 5.2 in numbers and names: its sizes, config.json's words for them, the checkpoint's tensors.

Source: transformers' ``GlmMoeDsaConfig`` and what its ``save_pretrained`` writes.
"""

from dataclasses import dataclass

from helpers.models.configs import latent
from helpers.models.configs.deepseek_v32 import NAMES, OTHER_NAMES, SPARSE  # named and laid out alike
from helpers.models.published import check_sizes, checkpoint_name, sizes

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
        latent.check_index(self)
        if len(self.indexers) != self.num_blocks or not {*self.indexers} <= {FULL, SHARED}:
            raise ValueError(
                f"indexer_types is {list(self.indexers)}; {self.num_blocks} of {FULL!r} and {SHARED!r} are needed"
            )
        if self.indexers[0] != FULL:
            raise ValueError("the first block has no earlier one to share a choice with: its indexer must be full")


CONFIG_NAMES = {  # ours -> config.json's
    **latent.SIZES,
    **latent.INDEX_SIZES,
    "indexers": "indexer_types",
}

# What a config.json may say of the features that are not built here.
ONLY = {
    **latent.ONLY,
    "mlp_bias": False,
    "indexer_rope_interleave": True,
    "rope_type": "default",
}


def from_hf(published: dict) -> Config:
    """Read a config.json's dictionary. ValueError where a size is missing or a feature is asked that is not here."""
    flat = latent.checked(published, OTHER_NAMES, ONLY, SPARSE, "GLM-5")
    flat["indexer_types"] = indexer_types(flat)
    flat["first_k_dense_replace"] = latent.dense_blocks(flat)
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
    return named | flat | latent.mlp_layer_types(config) | latent.rope_and_heads(config, None)


def published_name(name: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts."""
    return checkpoint_name(name, NAMES, "GLM-5")


unused = latent.unused_drafters
