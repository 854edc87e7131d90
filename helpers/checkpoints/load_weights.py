"""From files to a model: every tensor goes to its parameter, and every name is used or explained.

One parameter may be many tensors: a published name with ``{e}`` stands for one tensor per expert, and ours stacks them;
``{gate_proj,up_proj}`` stands for two of them, whose rows follow each other in ours. Some files hold the stack itself.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.header import DTYPES
from helpers.checkpoints.packed import Files, Stored
from helpers.checkpoints.recomputed import is_recomputed
from helpers.models.published import names_of_experts
from helpers.moe.experts import mixtures

# What a tool puts before every name when it saves the wrapper instead of the model.
WRAPPERS = {
    "module.": "DistributedDataParallel",
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "base_model.model.": "PEFT",
}
PLAIN = ("F64", "F32", "F16", "BF16")  # one number after the other, no scale beside it
WHOLE = ("I64", "I32")  # tables of whole numbers
HEAD, EMBEDDING = "head.weight", "embedding.weight"

# The published name of one expert's matrices -> that of all experts in one tensor, which lies as ours does.
FUSED = {"{e}.{gate_proj,up_proj}.weight": "gate_up_proj", "{e}.down_proj.weight": "down_proj"}


class Place(NamedTuple):
    """Where the numbers of one tensor go: to all of ours, or to rows of one matrix of a stack."""

    ours: str
    shape: tuple[int, ...]  # that the tensor must have
    index: int | None = None  # of the matrix
    first: int = 0  # of its rows


def fill_model(
    model: nn.Module,
    held: Files,
    published_name: Callable[[str], str],
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    unused: tuple[str, ...] = (),
    copies: Mapping[str, str] | None = None,
) -> None:
    """Replace each parameter of ``model`` (on ``meta``) by its tensors in the files, as ``dtype`` on ``device``.

    Names that begin with one of ``unused``, and tables that are computed anew, may be there and are not read;
    ``copies`` may be there when they equal our parameter. A buffer keeps the type that the model gives it. What
    stands in the files as the model needs it is mapped and not read. Memory at its peak: the model, the one tensor that
    is being read, and what unpacking it takes. CheckpointError lists what is
    missing, unexpected, of another shape or of a type that cannot be read; then nothing has been filled.
    """
    stored = {name: one for name, one in held.stored.items() if not name.startswith(unused)}
    places = _places(model, published_name, stored, held.folder)
    stored = {name: one for name, one in stored.items() if name in places or not is_recomputed(name)}
    same = _copies(copies or {}, places, stored, published_name)
    for _, experts in mixtures(model):
        experts.to(dtype)  # without memory: they lie as that dtype wants it
    _check_fit(model, places, {name: one for name, one in stored.items() if name not in same}, held.folder)
    _check_copies(same, held)
    for name in sorted(places, key=held.place):  # in the order of the disk
        tensor = held.mapped(name) if _may_map(model, places[name], held.stored[name], dtype, device) else None
        tensor = held.read(name, dtype) if tensor is None else tensor
        for place in places[name]:
            _put(model, place, tensor, dtype, device)
        del tensor  # before the next one is read


def _places(
    model: nn.Module, published_name: Callable[[str], str], stored: Mapping[str, Stored], folder: Path
) -> dict[str, list[Place]]:
    """The tensors that a model needs, by their names in the files, and where each of them goes."""
    places: dict[str, list[Place]] = {}
    for ours, tensor in model.state_dict().items():
        for name, place in _places_of(ours, tuple(tensor.shape), published_name(ours), stored, folder):
            places.setdefault(name, []).append(place)
    return places


def _places_of(
    ours: str, shape: tuple[int, ...], name: str, stored: Mapping[str, Stored], folder: Path
) -> list[tuple[str, Place]]:
    if "{e}" not in name:
        return [(name, Place(ours, shape))]
    before, _, after = name.partition("{e}")
    fused = FUSED.get("{e}" + after)
    if fused and before + fused in stored:
        return [(before + fused, Place(ours, shape))]
    if shape[0] > len(stored):  # and not a list that fills the memory
        raise CheckpointError(folder, f"asks for {shape[0]} experts, and its files hold {len(stored)} tensors")
    found = []
    for e, parts in enumerate(names_of_experts(name, shape[0])):
        rows = shape[1] // len(parts)
        found += [(part, Place(ours, (rows, *shape[2:]), e, n * rows)) for n, part in enumerate(parts)]
    return found


def _may_map(
    model: nn.Module, places: list[Place], stored: Stored, dtype: torch.dtype, device: str | torch.device
) -> bool:
    """Whether the model may hold these numbers as they lie in the file: one whole tensor, of its type, on the CPU."""
    [place, *more] = places
    module, leaf = _owner(model, place)
    target = getattr(module, leaf)
    on_cpu, same = torch.device(device).type == "cpu", DTYPES.get(stored.dtype) == _dtype(target, dtype)
    return on_cpu and same and not more and _is_whole(place, target)


def _owner(model: nn.Module, place: Place) -> tuple[nn.Module, str]:
    """The module that holds ours, and its name there."""
    owner, _, leaf = place.ours.rpartition(".")
    return model.get_submodule(owner), leaf


def _dtype(target: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Weights become ``dtype``; a buffer keeps its own."""
    return dtype if isinstance(target, nn.Parameter) else target.dtype


def _is_whole(place: Place, target: Tensor) -> bool:
    """Whether a tensor of the files is all of ours, and lies as ours does."""
    return place.index is None and target.is_contiguous()


def _put(model: nn.Module, place: Place, tensor: Tensor, dtype: torch.dtype, device: str | torch.device) -> None:
    module, leaf = _owner(model, place)
    target = getattr(module, leaf)
    dtype = _dtype(target, dtype)
    if _is_whole(place, target):
        _replace(module, leaf, tensor.to(device=device, dtype=dtype))
        return
    if target.is_meta:
        target = _replace(module, leaf, torch.empty_like(target, dtype=dtype, device=device))  # lying as it lay
    with torch.no_grad():
        whole = place.index is None
        (target if whole else target[place.index, place.first : place.first + len(tensor)]).copy_(tensor)


def _replace(module: nn.Module, leaf: str, tensor: Tensor) -> Tensor:
    """A parameter becomes a parameter and a buffer a buffer, both in place of one without memory."""
    new = nn.Parameter(tensor) if isinstance(getattr(module, leaf), nn.Parameter) else tensor
    setattr(module, leaf, new)
    return new


def _copies(
    known: Mapping[str, str],
    places: Mapping[str, list[Place]],
    stored: Mapping[str, Stored],
    published_name: Callable[[str], str],
) -> dict[str, str]:
    """Tensors that the files hold twice: the second's name -> the first's.

    Where the head is the embedding, a file may still hold both.
    """
    embedding = next(place.ours for found in places.values() for place in found if place.ours.endswith(EMBEDDING))
    head = published_name(embedding.removesuffix(EMBEDDING) + HEAD)  # a model that also sees has a text model inside
    twice = {name: published_name(ours) for name, ours in known.items()} | {head: head}
    twice = {copy: name if name in places else published_name(embedding) for copy, name in twice.items()}
    return {copy: name for copy, name in twice.items() if copy in stored and copy not in places and name in stored}


def _check_copies(copies: Mapping[str, str], held: Files) -> None:
    for copy, original in copies.items():
        one, other = held.read(copy), held.read(original)
        if one.dtype != other.dtype or not torch.equal(one, other):
            reason = (
                f"{copy!r} and {original!r} are one matrix in this model (tie_word_embeddings, or a drafter's copy)"
            )
            reason += ", and in the files they differ"
            raise CheckpointError(held.place(copy)[0], reason)


def _check_fit(model: nn.Module, places: Mapping[str, list[Place]], stored: Mapping[str, Stored], folder: Path) -> None:
    needed = {name: found[0] for name, found in places.items()}  # those of one tensor agree in its shape
    common = [name for name in needed if name in stored]
    types = {name: _types(model, needed[name].ours) for name in common}
    misfits = {
        "missing": [_missing(name, place.ours) for name, place in needed.items() if name not in stored],
        # transformers writes tensors without a number where there are no shared experts
        "unexpected": [repr(name) for name, one in stored.items() if name not in needed and 0 not in one.shape],
        "of another shape": [
            f"{name!r} is {list(stored[name].shape)} instead of {list(needed[name].shape)}"
            for name in common
            if stored[name].shape != needed[name].shape
        ],
        **{
            f"not of a {kind} type ({' '.join(allowed)})": [
                f"{name!r} is {stored[name].dtype}"
                for name in common
                if types[name] == allowed and stored[name].dtype and stored[name].dtype not in allowed
            ]
            for kind, allowed in (("plain", PLAIN), ("whole-number", WHOLE))
        },
    }
    if lines := [f"{len(found)} {what}: {_listed(found)}" for what, found in misfits.items() if found]:
        raise CheckpointError(folder, f"the weights do not fit config.json: {'; '.join(lines)}{_wrapped(stored)}")


def _wrapped(stored: Collection[str]) -> str:
    """Advice for files that were saved from a wrapper; empty for others."""
    for prefix, tool in WRAPPERS.items():
        if stored and all(name.startswith(prefix) for name in stored):
            return f"; every name begins with {prefix!r}, as {tool} leaves them: save the model inside of it"
    return ""


def _types(model: nn.Module, ours: str) -> tuple[str, ...]:
    owner, _, leaf = ours.rpartition(".")
    return PLAIN if getattr(model.get_submodule(owner), leaf).is_floating_point() else WHOLE


def _missing(name: str, ours: str) -> str:
    return f"{name!r} (config.json does not tie it to the embedding)" if ours.endswith(HEAD) else repr(name)


def _listed(found: list[str], limit: int = 8) -> str:
    return ", ".join(found[:limit]) + (f" and {len(found) - limit} more" if len(found) > limit else "")
