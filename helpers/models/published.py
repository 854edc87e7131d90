"""How the tables of a family are used: config.json's words for sizes, a checkpoint's names for tensors."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from helpers.layers.rope import Yarn

# What a config.json may say of the features that no family has here.
EVERYWHERE = {
    "is_causal": True,  # False: every token sees all others, as in models that embed texts
    "is_encoder_decoder": False,
    "per_layer_config": (None, {}),  # other sizes in some layers
    "kv_sharing_modes": None,  # layers that read the cache of others
}
HALVES = re.compile(r"\{(\w+,\w+)\}")  # in the name of a stack: two tensors of the files
HEADS = ("ForCausalLM", "ForConditionalGeneration")  # how the name of a model that writes tokens ends


def check_features(published: dict, only: Mapping[str, object], family: str) -> None:
    """ValueError where config.json asks for a feature that is not built.

    ``only`` maps a word to the value that it may have, or to a tuple of such values. A word may also be missing.
    """
    for name, allowed in {**EVERYWHERE, **only}.items():
        allowed = allowed if isinstance(allowed, tuple) else (allowed,)
        if name in published and published[name] not in allowed:
            wanted = " or ".join(map(repr, allowed))
            raise ValueError(f"config.json has {name}={published[name]!r}; this {family} has only {wanted}")
    if headless := [name for name in published.get("architectures") or () if not str(name).endswith(HEADS)]:
        raise ValueError(f"config.json has architectures={headless}; this {family} has only *{' and *'.join(HEADS)}")


def check_layer_types(published: dict, allowed: Iterable[str], family: str) -> None:
    """ValueError where ``layer_types`` lists another kind than ``allowed``."""
    if others := [kind for kind in published.get("layer_types") or () if kind not in allowed]:
        wanted = " or ".join(map(repr, allowed))
        raise ValueError(f"config.json has {others[0]!r} in layer_types; this {family} has only {wanted}")


def check_sizes(published: dict, names: Iterable[str]) -> None:
    """ValueError that lists which of these words config.json lacks."""
    if missing := [name for name in names if published.get(name) is None]:
        raise ValueError(f"config.json lacks {', '.join(missing)}")


def under(ours: str, theirs: str, table: Mapping[str, str]) -> dict[str, str]:
    """The names of a part as those of the whole: each of ours begins with ``ours``, each of theirs with ``theirs``."""
    return {f"{ours}{name}": f"{theirs}{other}" for name, other in table.items()}


def checkpoint_name(name: str, table: Mapping[str, str], family: str) -> str:
    """The checkpoint's name of our parameter: ``norm.weight`` -> ``model.norm.weight``; {e} stays for the experts, and
    {gate_proj,up_proj} for two tensors, as in ``names_of_experts``.

    In ``table`` {n} stands for the block. ValueError, naming all there are, for a parameter that is not in it.
    """
    pattern = re.sub(r"\d+", "{n}", name)
    if pattern not in table:
        raise ValueError(f"{family} has no parameter {name!r}; it has {', '.join(table)}")
    return table[pattern].replace("{n}", "".join(re.findall(r"\d+", name)))


def sizes(config: object, names: Mapping[str, str], without: Iterable[str]) -> dict[str, Any]:
    """A config's fields under config.json's words, ``names``, but for those in ``without``; a tuple becomes a list."""
    values = {published: getattr(config, ours) for ours, published in names.items() if ours not in without}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def rope(theta: float, yarn: Yarn | None = None) -> dict[str, Any]:
    """How positions turn, as config.json's ``rope_parameters``."""
    return {**(yarn.to_hf() if yarn else {"rope_type": "default"}), "rope_theta": theta}


def tower_to_hf(config: Any, names: Mapping[str, str], model_type: str) -> dict[str, Any]:
    """A vision tower's part of a config.json, ``vision_config``."""
    turned = {"rope_type": "axial", "rope_theta": config.rope_theta}
    return {"model_type": model_type, **sizes(config, names, without=("rope_theta",)), "rope_parameters": turned}


def names_of_experts(name: str, num_experts: int) -> list[tuple[str, ...]]:
    """The tensors that a stack of experts is made of, of each expert one tensor, or two whose rows follow each other:
    ``experts.{e}.{gate_proj,up_proj}.weight`` -> ``experts.0.gate_proj.weight`` and ``experts.0.up_proj.weight``, ...
    """
    before, halves, after = HALVES.split(name) if HALVES.search(name) else (name, "", "")
    parts = [f"{before}{half}{after}" for half in halves.split(",")]
    return [tuple(part.replace("{e}", str(e)) for part in parts) for e in range(num_experts)]


def apart(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Our parameter as a checkpoint holds it: by ``name``, or each matrix of a stack by its own, or its two halves."""
    if "{e}" not in name:
        yield name, tensor
        return
    for parts, matrix in zip(names_of_experts(name, len(tensor)), tensor, strict=True):
        yield from zip(parts, matrix.chunk(len(parts)), strict=True)
