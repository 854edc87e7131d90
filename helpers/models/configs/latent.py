"""What the families with latent attention share: DeepSeek-V3, DeepSeek-V3.2, GLM-5 and, as DeepSeek-V3, Kimi K2.5."""

import re
from collections.abc import Collection
from typing import Any

from helpers.layers.rope import Yarn
from helpers.models.published import rope

DRAFTER = re.compile(r"model\.layers\.(\d{1,9})\.eh_proj\.weight", re.ASCII)  # only a drafter has such a matrix


def dense_blocks(published: dict) -> int | None:
    """How many first blocks have no experts. ValueError where ``mlp_layer_types`` has such a block further behind,
    or lists another number of blocks."""
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
    """The same in transformers' words, for a config.json: which blocks have experts."""
    dense = config.num_dense_blocks
    return {"mlp_layer_types": ["dense" if n < dense else "sparse" for n in range(config.num_blocks)]}


def rope_and_heads(config: Any, yarn: Yarn | None) -> dict[str, Any]:
    """How positions turn, for a config.json; latent attention has as many key heads as query heads."""
    return {"num_key_value_heads": config.num_heads, "rope_parameters": rope(config.rope_theta, yarn)}


def unused_drafters(config: Any, names: Collection[str]) -> tuple[str, ...]:
    """How the names begin of tensors that are not read: drafters that the model does not have, one block or several
    behind the last."""
    numbers = (int(found[1]) for name in names if (found := DRAFTER.fullmatch(name)))
    first = config.num_blocks + getattr(config, "num_drafters", 0)
    return tuple(f"model.layers.{n}." for n in numbers if n >= first)
