"""Which file of helpers/models a config.json asks for."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from helpers.checkpoints import configs
from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.folder import CONFIG
from helpers.config_words import rotary_object
from helpers.models import deepseek_v3, deepseek_v4, deepseek_v32, glm5, kimi_k25, qwen3, qwen3_5, qwen3_5_vision
from helpers.models.configs import deepseek_v4 as deepseek_v4_config
from helpers.vision import moonvit
from helpers.vision import qwen3_5 as tower

V4_RELEASE = {  # outside of the blocks: DeepSeek's own name -> the one that transformers writes
    "embed.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "hc_head_fn": "model.hc_head.hc_fn",
    "hc_head_base": "model.hc_head.hc_base",
    "hc_head_scale": "model.hc_head.hc_scale",
}
KIMI_WRITTEN = {  # how a name begins in what transformers 5.23 writes -> in the published files
    "language_model.model.blocks.": "language_model.model.layers.",
    "model.mm_projector.": "mm_projector.",
    "vision_tower.encoder.patch_embed.": "vision_tower.patch_embed.",
}
DRAFTER = re.compile(r"model\.layers\.\d{1,9}\.eh_proj\.weight", re.ASCII)


# What some families need.


def _drafter(config: object, names: Collection[str]) -> str | None:
    """DeepSeek-V3 and its kin keep a block that guesses the token after the next behind the last one."""
    return f"model.layers.{config.num_blocks}." if f"model.layers.{config.num_blocks}.eh_proj.weight" in names else None


def _unused_drafters(config: object, names: Collection[str]) -> tuple[str, ...]:
    """Those that the model does not have, one block or several behind the last."""
    numbers = (name.split(".")[2] for name in names if DRAFTER.fullmatch(name))
    first = config.num_blocks + getattr(config, "num_drafters", 0)
    return tuple(f"model.layers.{n}." for n in numbers if int(n) >= first)


def _drafter_if_there(config: deepseek_v3.Config, names: Collection[str]) -> deepseek_v3.Config:
    """transformers writes config.json with a drafter and the weights without."""
    return config if _drafter(config, names) else dataclasses.replace(config, num_drafters=0)


def _drafter_copies(config: deepseek_v3.Config) -> dict[str, str]:
    return {name.replace("{n}", str(config.num_blocks)): ours for name, ours in deepseek_v3.COPIES.items()}


def _mtp(config: object, names: Collection[str]) -> tuple[str, ...]:
    """The block that guesses the token after the next, which is not built; transformers leaves it out too."""
    return ("mtp.",)


def _v4_mtp(config: object, names: Collection[str]) -> tuple[str, ...]:
    """As above, by DeepSeek's name and with transformers' "model." before it."""
    return ("mtp.", "model.mtp.")


def _mtp_and_idle_gates(config: object, names: Collection[str]) -> tuple[str, ...]:
    """Without a shared expert transformers still writes the gates of its answers, which are zero."""
    text = getattr(config, "text", config)
    gates = (name for name in names if name.endswith(".mlp.shared_expert_gate.weight"))
    return (*_mtp(config, names), *(gates if text.num_experts and not text.shared_width else ()))


def _tower_mtp_and_idle_gates(config: object, names: Collection[str]) -> tuple[str, ...]:
    """The tower as well, where config.json asks for the text model of one that sees."""
    return ("model.visual.", *_mtp_and_idle_gates(config, names))


def _v4_name(name: str) -> str:
    """DeepSeek's own name -> the one that transformers writes."""
    return V4_RELEASE.get(name) or (f"model.{name}" if name.startswith("layers.") else name)


def _kimi_name(name: str) -> str:
    """What transformers 5.23 writes -> the published name: its writing does not quite undo its reading."""
    written = next((written for written in KIMI_WRITTEN if name.startswith(written)), "")
    return KIMI_WRITTEN.get(written, "") + name.removeprefix(written)


# What most families do.


def _as_it_is(config: object, names: Collection[str]) -> object:
    return config


def _all_used(config: object, names: Collection[str]) -> tuple[str, ...]:
    return ()


def _no_copies(config: object) -> dict[str, str]:
    return {}


def _published(name: str) -> str:
    return name


class Family(NamedTuple):
    """What reading and writing need to know of one family."""

    model: type[nn.Module]
    config: type  # a dataclass of sizes and flags
    from_hf: Callable[[dict], object]  # config.json -> our config
    to_hf: Callable[[object], dict]  # and back
    published_name: Callable[[str], str]  # our parameter -> the checkpoint's tensor; with {e}, one tensor per expert
    fit: Callable[[object, Collection[str]], object] = _as_it_is  # a config -> that of the tensors that are there
    unused: Callable[[object, Collection[str]], tuple[str, ...]] = _all_used  # how the names begin that are not read
    copies: Callable[[object], dict[str, str]] = _no_copies  # tensors that the files hold twice -> our parameter
    rename: Callable[[str], str] = _published  # a name in the files -> the published one, where the two differ


QWEN3 = Family(qwen3.Qwen3, qwen3.Config, qwen3.from_hf, configs.from_qwen3, qwen3.published_name)
QWEN3_5 = Family(
    qwen3_5.Qwen3_5,
    qwen3_5.Config,
    qwen3_5.from_hf,
    configs.from_qwen3_5,
    qwen3_5.published_name,
    unused=_tower_mtp_and_idle_gates,
)
DEEPSEEK_V3 = Family(
    deepseek_v3.DeepSeekV3,
    deepseek_v3.Config,
    deepseek_v3.from_hf,
    configs.from_deepseek_v3,
    deepseek_v3.published_name,
    fit=_drafter_if_there,
    unused=_unused_drafters,
    copies=_drafter_copies,
)
DEEPSEEK_V32 = Family(
    deepseek_v32.DeepSeekV32,
    deepseek_v32.Config,
    deepseek_v32.from_hf,
    configs.from_deepseek_v32,
    deepseek_v32.published_name,
    unused=_unused_drafters,
)
GLM5 = Family(
    glm5.GLM5,
    glm5.Config,
    glm5.from_hf,
    configs.from_glm5,
    glm5.published_name,
    unused=_unused_drafters,
)

DEEPSEEK_V4 = Family(
    deepseek_v4.DeepSeekV4,
    deepseek_v4_config.Config,
    deepseek_v4_config.from_hf,
    configs.from_deepseek_v4,
    deepseek_v4_config.published_name,
    unused=_v4_mtp,
    rename=_v4_name,
)

QWEN3_5_VISION = Family(
    qwen3_5_vision.Qwen3_5Vision,
    qwen3_5_vision.Config,
    qwen3_5_vision.from_hf,
    configs.from_qwen3_5_vision,
    qwen3_5_vision.published_name,
    unused=_mtp_and_idle_gates,
)
KIMI_K25 = Family(
    kimi_k25.KimiK25,
    kimi_k25.Config,
    kimi_k25.from_hf,
    configs.from_kimi_k25,
    kimi_k25.published_name,
    rename=_kimi_name,
)

# By the model_type of config.json.
FAMILIES = {
    "qwen3": QWEN3,
    "qwen3_5_text": QWEN3_5,
    "qwen3_5_moe_text": QWEN3_5,
    "deepseek_v3": DEEPSEEK_V3,
    "deepseek_v32": DEEPSEEK_V32,
    "glm_moe_dsa": GLM5,
    "deepseek_v4": DEEPSEEK_V4,
    "qwen3_5": QWEN3_5_VISION,
    "qwen3_5_moe": QWEN3_5_VISION,
    "kimi_k25": KIMI_K25,
}
CONFIG_NAMES = {  # ours -> config.json's
    qwen3.Config: qwen3.CONFIG_NAMES,
    qwen3_5.Config: qwen3_5.CONFIG_NAMES,
    qwen3_5_vision.Config: qwen3_5_vision.CONFIG_NAMES,
    tower.Config: tower.CONFIG_NAMES,
    deepseek_v3.Config: deepseek_v3.CONFIG_NAMES,
    deepseek_v32.Config: deepseek_v32.CONFIG_NAMES,
    deepseek_v4_config.Config: deepseek_v4_config.CONFIG_NAMES,
    glm5.Config: glm5.CONFIG_NAMES,
    kimi_k25.Config: kimi_k25.CONFIG_NAMES,
    moonvit.Config: moonvit.CONFIG_NAMES,
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
