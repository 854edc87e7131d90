"""From a model to a folder that transformers reads: config.json and model.safetensors.

Both are written aside first and take their places in the end, each in a single move. Where the disk is full or the
power fails before, the folder still holds what it held. Other files in it (tokenizer, model card) are left alone.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.families import FAMILIES, Family
from helpers.checkpoints.folder import CONFIG, SINGLE
from helpers.files import refuse_where_not_ours
from helpers.models.published import apart


def save(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write ``model`` in the dtype that it has. The head is left out where it is the embedding.

    ValueError for a model that is not of helpers/models, or has no weights, or several dtypes; CheckpointError when the
    folder cannot be written, and then it is as it was.
    """
    family = family_of_model(model)
    published = family.to_hf(model.config) | {"dtype": _only_dtype(model)}
    weights = _published_weights(model, family)
    contents = {
        SINGLE: lambda part: save_file(weights, part, metadata={"format": "pt"}),
        CONFIG: lambda part: part.write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8"),
    }
    write_together(folder, contents)


def write_together(folder: str | os.PathLike, contents: dict[str, Callable[[Path], object]]) -> None:
    """Write files by name, all or none. CheckpointError when the folder cannot be written; then it is as it was."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        _replace(Path(folder), contents)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(folder, f"could not be written ({error}); what was there before is unchanged") from None


def _replace(folder: Path, contents: dict[str, Callable[[Path], object]]) -> None:
    """Write every file aside, see it on the disk, and only then move all of them in."""
    parts = {name: folder / f"{name}.{os.getpid()}.part" for name in contents}
    for name in contents:
        refuse_where_not_ours(folder / name)
    try:
        for name, part in parts.items():
            part.touch()
            mode = part.stat().st_mode  # as this user's files are; safetensors writes one that only its owner may read
            contents[name](part)
            part.chmod(mode)
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
        for name, part in parts.items():
            os.replace(part, folder / name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _published_weights(model: nn.Module, family: Family) -> dict[str, Tensor]:
    """Every parameter and buffer by its published name; stacked experts one by one."""
    weights = {}
    for ours, tensor in model.state_dict().items():
        name = family.published_name(ours)
        weights |= {part: one.contiguous() for part, one in apart(name, tensor)}
    return weights


def family_of_model(model: nn.Module) -> Family:
    """The family that this model is one of. ValueError for a model that is not of helpers/models."""
    for family in FAMILIES.values():
        if type(model) is family.model:
            return family
    known = ", ".join(dict.fromkeys(family.model.__name__ for family in FAMILIES.values()))
    raise ValueError(f"a {type(model).__name__} cannot be saved here; known are {known}")


def _only_dtype(model: nn.Module) -> str:
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("a model on the meta device has no weights to save; load() or train it first")
    dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()})
    if len(dtypes) > 1:
        raise ValueError(f"the model is partly {' and partly '.join(dtypes)}; config.json can name one dtype")
    return dtypes[0]
