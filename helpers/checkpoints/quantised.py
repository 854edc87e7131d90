"""A packed model on the disk: the codes and scales as their formats store them, and a line on each.

    config.json              the sizes of the model, as published
    quantised.json           the format and the shape of each packed matrix; the model's dtype; the parts that were kept
    quantised.safetensors    every tensor by our name: codes and scales of what is packed, all else as it is

How a kernel lays the codes out is not saved: that depends on the machine, and loading lays them out anew. Other
libraries do not know our names, so the files have names that they do not open.
"""

import functools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.families import empty_model, family_of
from helpers.checkpoints.folder import CONFIG, read_config, read_object
from helpers.checkpoints.safetensors import open_tensors
from helpers.checkpoints.write import family_of_model, write_together
from helpers.device import pick
from helpers.models.components import part_of
from helpers.quant.backends import Ways, stored_as
from helpers.quant.cpu import CPU
from helpers.quant.formats.named import Encoded, encode
from helpers.quant.linear import Packed
from helpers.quant.model import packed, put
from helpers.quant.parts import layers_of

LAYERS, WEIGHTS = "quantised.json", "quantised.safetensors"
VERSION = 2
DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FIELDS = {"version", "dtype", "kept", "layers"}


def save_quantised(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write a model that ``quantise`` packed. ``load_quantised`` gives it back, with the same logits to the bit.

    ValueError for a model that is not of helpers/models, or in which nothing is packed; CheckpointError when the folder
    cannot be written, and then it is as it was. Built in lesson `quantise_moe`.
    """
    matrices = {at: module for at, module in model.named_modules() if isinstance(module, Packed)}
    if not matrices:
        raise ValueError("nothing in this model is packed: quantise(model, ...) first, or save it with save()")
    published = family_of_model(model).to_hf(model.config)
    said = {
        "version": VERSION,
        "dtype": next(name for name, dtype in DTYPES.items() if dtype == _dtype(model)),
        "kept": sorted({part_of(at) for at, _ in layers_of(model)}),
        "layers": {at: [one.name, list(one.shape), list(one.laid), one.count] for at, one in matrices.items()},
    }
    tensors = _all_tensors(model, matrices)
    contents = {
        WEIGHTS: lambda part: save_file(tensors, part),
        LAYERS: lambda part: part.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8"),
        CONFIG: lambda part: part.write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8"),
    }
    write_together(folder, contents)


def load_quantised(folder: str | os.PathLike, device: str | torch.device = "cpu", ways: Ways = CPU) -> nn.Module:
    """The model that ``save_quantised`` wrote, laid out for the kernels in ``ways``.

    CheckpointError, one line, when a file is missing or cut off, says something that is not known, or does not hold
    exactly what the model needs. Built in lesson `quantise_moe`.
    """
    device, folder = pick(device), Path(folder)
    published, said, held = read_config(folder), _said(folder), dict(open_tensors(folder / WEIGHTS))
    family = family_of(published, folder)._replace(fit=lambda config, _: config)  # what was written is all there is
    model = empty_model(family, published, folder, held)
    try:
        model.to(DTYPES[said["dtype"]])
        _put_packed(model, said["layers"], held, ways)
        _put_plain(model, held)
        if left := [*said["layers"], *held]:
            raise ValueError(f"holds what this model has no place for: {', '.join(sorted(left)[:3])}")
    except ValueError as error:
        raise CheckpointError(folder, str(error)) from None
    return model.to(device).eval()


def _dtype(model: nn.Module) -> torch.dtype:
    """In which packed layers give back their weights; where only experts are packed, which do not, the others'."""
    likes = [buffer for name, buffer in model.named_buffers() if name.endswith(".like")]
    return (likes or list(model.parameters()))[0].dtype


def _all_tensors(model: nn.Module, matrices: Mapping[str, Packed]) -> dict[str, Tensor]:
    """By name: of packed matrices what their format stores, of the rest what is there."""
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.rpartition(".")[0] not in matrices}
    for at, one in matrices.items():
        every = [one.encoded(e).parts for e in range(one.count)] if one.count else [one.encoded().parts]
        for part in every[0]:
            tensors[f"{at}.{part}"] = torch.stack([parts[part] for parts in every]) if one.count else every[0][part]
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _said(folder: Path) -> dict:
    """What quantised.json says, each field of its kind."""
    said = read_object(folder, LAYERS)
    if set(said) != FIELDS or said["version"] != VERSION:
        raise CheckpointError(
            folder / LAYERS, f"is not version {VERSION} of this format, with {', '.join(sorted(FIELDS))}"
        )
    if said["dtype"] not in DTYPES or not isinstance(said["layers"], dict):
        raise CheckpointError(folder / LAYERS, f"has no dtype out of {', '.join(DTYPES)}, or no object of layers")
    return said


def _put_packed(model: nn.Module, layers: dict[str, object], held: dict[str, Tensor], ways: Ways) -> None:
    """Every layer that is packed in the files, in the place of the plain one. What is used leaves both lists."""
    for at, layer in list(layers_of(model)):
        if any(name.rpartition(".")[0] == at for name in layers):

            def pack(leaf: str, weight: Tensor, at: str = at) -> Packed:
                return _read(f"{at}.{leaf}", weight, layers, held, ways)

            put(model, at, packed(layer, pack))


def _read(name: str, weight: Tensor, layers: dict[str, object], held: dict[str, Tensor], ways: Ways) -> Packed:
    """The packed form of ``weight``, which has a shape and a dtype only. ValueError unless all fits it."""
    form, laid, count = _checked(name, layers.pop(name, None), weight)
    parts = {}
    for part, (shape, dtype) in _stored(form, laid).items():
        shape = shape if count is None else (count, *shape)
        parts[part] = _take(f"{name}.{part}", held, shape, dtype)
    every = [parts] if count is None else [{part: tensor[e] for part, tensor in parts.items()} for e in range(count)]
    matrices = [Encoded(stored_as(form), laid, one) for one in every]
    return Packed.from_encoded(matrices, form, tuple(weight.shape[-2:]), weight.dtype, ways, count is not None)


def _checked(name: str, said: object, weight: Tensor) -> tuple[str, tuple[int, int], int | None]:
    """Format, shape as it was encoded, and number of matrices, where they are those of ``weight``."""
    count = len(weight) if weight.dim() == 3 else None
    match said:
        case [str(form), [int(), int()] as shape, [int(), int()] as laid, was] if (
            [*shape, was] == [*weight.shape[-2:], count] and math.prod(laid) == math.prod(shape) and min(laid) > 0
        ):
            return form, tuple(laid), count
    raise ValueError(f"{name} is {str(said)[:80]}; a format and {list(weight.shape)} are needed")


@functools.lru_cache(maxsize=64)
def _stored(form: str, laid: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes that the format stores of a matrix: those of one of zeros. ValueError as in ``encode``."""
    parts = encode(torch.zeros(laid), stored_as(form)).parts
    return {part: (tuple(tensor.shape), tensor.dtype) for part, tensor in parts.items()}


def _put_plain(model: nn.Module, held: dict[str, Tensor]) -> None:
    """Everything that is not packed."""
    inside = {at for at, module in model.named_modules() if isinstance(module, Packed)}
    for name, empty in model.state_dict().items():
        owner, _, leaf = name.rpartition(".")
        if owner not in inside:
            kind = None if empty.is_floating_point() else empty.dtype
            tensor, module = _take(name, held, tuple(empty.shape), kind), model.get_submodule(owner)
            plain = isinstance(getattr(module, leaf), nn.Parameter)
            setattr(module, leaf, nn.Parameter(tensor) if plain else tensor)


def _take(name: str, held: dict[str, Tensor], shape: tuple[int, ...], dtype: torch.dtype | None) -> Tensor:
    """The tensor of the files, which is then no longer left. ``dtype`` None: any of DTYPES."""
    if name not in held:
        raise ValueError(f"lacks the tensor {name}")
    tensor = held.pop(name)
    allowed = DTYPES.values() if dtype is None else [dtype]
    if tuple(tensor.shape) != shape or tensor.dtype not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ValueError(f"{name} is {list(tensor.shape)} of {tensor.dtype}; {list(shape)} of {wanted} is needed")
    return tensor
