"""Small Qwen3.5 and Kimi K2.5 that see, their config.json, and transformers' model with the same weights."""

from dataclasses import replace

import pytest
import torch
from support.with_images import in_transformers, pictures, prompt, randomised
from transformers import AutoModelForImageTextToText

from helpers.checkpoints.families import FAMILIES
from helpers.layers.rope import Yarn
from helpers.models.configs import deepseek_v3, kimi_k25, qwen3_5, qwen3_5_vision
from helpers.vision import moonvit
from helpers.vision import qwen3_5 as tower

SeeingConfig = qwen3_5_vision.Config | kimi_k25.Config

HYBRID = qwen3_5.Config(
    vocab_size=97, width=32, num_blocks=3, layer_kinds=(qwen3_5.DELTA, qwen3_5.ATTENTION, qwen3_5.ATTENTION),
    num_heads=4, num_kv_heads=2, head_dim=16, delta_key_heads=2, delta_value_heads=4, delta_key_dim=8,
    delta_value_dim=8, conv_width=4, mlp_width=48, rope_theta=1e3, rotary_share=0.75, sections=(2, 2, 2), tied=True,
)  # fmt: skip
ODD_HYBRID = replace(
    HYBRID, vocab_size=61, width=33, num_heads=3, num_kv_heads=1, head_dim=14, rotary_share=1.0, sections=(3, 2, 2),
    mlp_width=31, tied=False,
)  # fmt: skip
EXPERTS = replace(
    HYBRID, mlp_width=0, num_experts=9, experts_per_token=3, expert_width=7, shared_width=5, tied=False,
)  # fmt: skip
TOWER = tower.Config(24, 2, 2, 40, 32, patch_side=4, num_positions=25)
ODD_TOWER = tower.Config(20, 1, 1, 31, 33, patch_side=3, frames=1, merge=3, num_positions=49)
QWEN3_5 = {
    "dense": qwen3_5_vision.Config(HYBRID, TOWER, image_token=7),
    "odd": qwen3_5_vision.Config(ODD_HYBRID, ODD_TOWER, image_token=60),
    "experts": qwen3_5_vision.Config(EXPERTS, TOWER, image_token=0),
}

LATENT = deepseek_v3.Config(
    vocab_size=97, width=32, num_blocks=3, num_dense_blocks=1, num_heads=4, query_rank=12, latent_width=16, nope_dim=8,
    rotary_dim=4, value_dim=8, mlp_width=40, num_experts=8, experts_per_token=2, expert_width=10, num_shared=1,
    routed_scale=2.827, rope_theta=5e4, yarn=Yarn(64.0, 16, mscale=1.0, strength=1.0), context=1024,
)  # fmt: skip
ODD_LATENT = replace(
    LATENT, vocab_size=61, width=27, num_blocks=2, num_dense_blocks=0, num_heads=7, query_rank=None, latent_width=9,
    nope_dim=5, rotary_dim=6, value_dim=11, num_experts=5, experts_per_token=3, num_shared=2, yarn=None, tied=True,
)  # fmt: skip
MOONVIT = moonvit.Config(24, 2, 2, 40, patch_side=4, grid_height=5, grid_width=5)
ODD_MOONVIT = moonvit.Config(20, 1, 1, 31, 3, 3, 7, 7, 100.0)
ALL_DENSE = replace(LATENT, num_blocks=2, num_dense_blocks=2, num_heads=1, yarn=None)
KIMI_K25 = {
    "yarn": kimi_k25.Config(LATENT, MOONVIT, image_token=7),
    "odd and tied": kimi_k25.Config(ODD_LATENT, ODD_MOONVIT, image_token=60, projector_epsilon=1e-3),
    "dense": kimi_k25.Config(ALL_DENSE, MOONVIT, image_token=0),
}


def published(config: SeeingConfig) -> dict:
    """The config.json that says the same."""
    kimi = isinstance(config, kimi_k25.Config)
    kind = "kimi_k25" if kimi else "qwen3_5_moe" if config.text.num_experts else "qwen3_5"
    names = moonvit.CONFIG_NAMES if kimi else tower.CONFIG_NAMES
    vision = {theirs: getattr(config.vision, ours) for ours, theirs in names.items()}
    vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": vision.pop("rope_theta")}
    vision |= {"merge_kernel_size": [config.vision.merge] * 2} if kimi else {}
    own = {"image_token_id": config.image_token, "tie_word_embeddings": config.text.tied}
    if kimi:
        own |= {"video_token_id": config.text.vocab_size, "projection_hidden_size": config.vision.width}
        own |= {"projection_layer_norm_eps": config.projector_epsilon}
    text = (deepseek_v3 if kimi else qwen3_5).to_hf(config.text)
    parts = {"text_config": text, "vision_config": {**vision, "model_type": f"{kind}_vision"}}
    return {"model_type": kind, **parts, **own}


def pair(config: SeeingConfig, factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Our model with every number random, and transformers' that read its weights by their published names."""
    family = FAMILIES[published(config)["model_type"]]
    model, folder = randomised(family.model(config)), factory.mktemp("seeing")
    theirs = in_transformers(model, published(config), family.published_name, AutoModelForImageTextToText, folder)
    return model, theirs


def words(config: SeeingConfig, *parts: int | tuple[int, int]) -> torch.Tensor:
    return prompt(config.image_token, config.text.vocab_size, *parts)


def images_of(config: SeeingConfig, *cells: tuple[int, int], seed: int = 3) -> dict[str, torch.Tensor]:
    c = config.vision
    kimi = isinstance(config, kimi_k25.Config)
    patch = (3, c.patch_side, c.patch_side) if kimi else (c.channels * c.frames * c.patch_side**2,)
    return pictures(patch, c.merge, *cells, seed=seed)


def told(theirs: torch.nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Qwen3.5 wants to be told which tokens are an image's, and remembers the last call's places."""
    if not hasattr(theirs.model, "rope_deltas"):
        return {}
    theirs.model.rope_deltas = None
    return {"mm_token_type_ids": (ids == theirs.config.image_token_id).int()}


def run(theirs: torch.nn.Module, ids: torch.Tensor, images: dict | None = None) -> torch.Tensor:
    """transformers' logits, with nothing left over from an earlier call."""
    return theirs(ids, **told(theirs, ids), **(images or {})).logits
