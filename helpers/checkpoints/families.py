"""Which file of helpers/models a config.json asks for."""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.folder import CONFIG
from helpers.config_words import rotary_object
from helpers.models.configs import (
    deepseek_v3,
    deepseek_v4,
    deepseek_v32,
    glm5,
    kimi_k25,
    qwen3,
    qwen3_5,
    qwen3_5_vision,
)
from helpers.models.deepseek_v3 import DeepSeekV3
from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.models.deepseek_v32 import DeepSeekV32
from helpers.models.glm5 import GLM5
from helpers.models.kimi_k25 import KimiK25
from helpers.models.qwen3 import Qwen3
from helpers.models.qwen3_5 import Qwen3_5
from helpers.models.qwen3_5_vision import Qwen3_5Vision
from helpers.vision import moonvit
from helpers.vision import qwen3_5 as tower


class Family(NamedTuple):
    """What reading and writing need to know of one family: its model, and what its config file defines.

    The last four are functions that a config file may leave out.
    """

    model: type[nn.Module]
    config: type  # a dataclass of sizes and flags
    names: dict[str, str]  # the fields of config -> config.json's words
    from_hf: Callable[[dict], object]  # config.json -> our config
    to_hf: Callable[[object], dict]  # and back
    published_name: Callable[[str], str]  # our parameter -> the checkpoint's tensor; with {e}, one tensor per expert
    fit: Callable[[object, Collection[str]], object]  # a config -> that of the tensors that are there
    unused: Callable[[object, Collection[str]], tuple[str, ...]]  # prefixes of the tensors that are not read
    copies: Callable[[object], dict[str, str]]  # tensors that the files hold twice -> our parameter
    rename: Callable[[str], str]  # a name in the files -> the published one, where the two differ


def _family(model: type[nn.Module], file: types.ModuleType) -> Family:
    """A family by its model and its config file, one of helpers/models/configs."""
    always = (file.Config, file.CONFIG_NAMES, file.from_hf, file.to_hf, file.published_name)
    usual = {
        "fit": lambda config, names: config,
        "unused": lambda config, names: (),
        "copies": lambda config: {},
        "rename": lambda name: name,
    }
    return Family(model, *always, **{name: getattr(file, name, default) for name, default in usual.items()})


# By the model_type of config.json.
FAMILIES = {
    "qwen3": _family(Qwen3, qwen3),
    "qwen3_5_text": _family(Qwen3_5, qwen3_5),
    "qwen3_5_moe_text": _family(Qwen3_5, qwen3_5),
    "qwen3_5": _family(Qwen3_5Vision, qwen3_5_vision),
    "qwen3_5_moe": _family(Qwen3_5Vision, qwen3_5_vision),
    "deepseek_v3": _family(DeepSeekV3, deepseek_v3),
    "deepseek_v32": _family(DeepSeekV32, deepseek_v32),
    "deepseek_v4": _family(DeepSeekV4, deepseek_v4),
    "glm_moe_dsa": _family(GLM5, glm5),
    "kimi_k25": _family(KimiK25, kimi_k25),
}
CONFIG_NAMES = {  # of each family, and of the towers inside: the fields of a config -> config.json's words
    **{family.config: family.names for family in FAMILIES.values()},
    **{file.Config: file.CONFIG_NAMES for file in (tower, moonvit)},
}
ALLOWED = {
    int: ((int,), "a positive whole number"),
    float: ((int, float), "a positive number"),
    bool: ((bool,), "true or false"),
    tuple: ((list, tuple), "a list"),
}
LISTED = ("merge_kernel_size",)  # one number here, a list of two there
MAY_BE_ZERO = (  # config.json's words
    "first_k_dense_replace",
    "n_shared_experts",
    "num_nextn_predict_layers",
    "num_experts",
    "shared_expert_intermediate_size",
    "image_token_id",
)
OF_DENSE_BLOCKS = "intermediate_size"  # no size of a model whose blocks all have experts


def family_of(published: dict, folder: Path) -> Family:
    """The family that a config.json names. CheckpointError with all that are known."""
    kind = published["model_type"]
    if kind not in FAMILIES:
        raise CheckpointError(folder / CONFIG, f"model_type {kind!r} is not known; known are {', '.join(FAMILIES)}")
    return FAMILIES[kind]


def empty_model(family: Family, published: dict, folder: Path, names: Collection[str]) -> nn.Module:
    """The model that a config.json describes, on ``meta``: names and shapes without memory.

    ``names`` are the tensors that the files hold.
    """
    try:
        _check_types(published, family.config)
        config = family.from_hf(published)
        _check_types(_as_words(config), family.config)  # once more: what stood under another name, or deeper
        config = family.fit(config, names)
        if config.num_blocks > len(names):  # and not a model that takes for ever to lay out
            raise ValueError(
                f"config.json asks for {config.num_blocks} blocks, and the files hold {len(names)} tensors"
            )
        with torch.device("meta"):
            return family.model(config)
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(folder, str(error)) from None


def _check_types(published: dict, config: type) -> None:
    """Sizes are positive numbers and flags are true or false; what is missing is named by the family itself."""
    flat = {**published, **rotary_object(published)}
    for field in dataclasses.fields(config):
        name, kind = CONFIG_NAMES[config][field.name], _plain_type(field.type)
        value = flat.get(name)
        if kind in CONFIG_NAMES and isinstance(value, dict):
            _check_types(value, kind)
        elif value is not None and kind in ALLOWED and name not in LISTED:
            _check_type(name, value, kind, may_be_zero=_may_be_zero(name, config))


def _may_be_zero(name: str, config: type) -> bool:
    has_experts = any(field.name == "num_experts" for field in dataclasses.fields(config))
    return name in MAY_BE_ZERO or (name == OF_DENSE_BLOCKS and has_experts)


def _as_words(config: object) -> dict:
    values = {field: getattr(config, field.name) for field in dataclasses.fields(config) if field.name != "yarn"}
    names = CONFIG_NAMES[type(config)]
    return {names[field.name]: value for field, value in values.items() if value != field.default}


def _check_type(name: str, value: object, kind: type, may_be_zero: bool) -> None:
    allowed, words = ALLOWED[kind]
    if type(value) not in allowed:
        fits = False
    elif kind in (int, float):
        fits = (0 if may_be_zero else math.ulp(0.0)) <= value < math.inf
    else:
        fits = True
    if not fits:
        raise ValueError(f"config.json has {name} = {repr(value)[:40]} where it must be {words}")


def _plain_type(annotation: object) -> object:
    """``int | None`` is an int that may lack; ``tuple[str, ...]`` is a tuple."""
    if isinstance(annotation, types.UnionType):
        return next(part for part in typing.get_args(annotation) if part is not types.NoneType)
    return typing.get_origin(annotation) or annotation
