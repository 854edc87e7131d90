"""A checkpoint folder as the Hugging Face hub keeps it: which file holds which tensor.

    config.json                        the sizes of the model
    model.safetensors                  the weights, in one file ...
    model.safetensors.index.json       ... or this table, {"weight_map": {tensor: file}},
    model-00001-of-00002.safetensors   and the shards that it names

Every file is looked for inside the folder and nowhere else. An index is a file from a stranger: a path in it may be
written to lead out of the folder, by ``..``, from the root or over a link.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.header import MAX_HEADER_BYTES, Entry
from helpers.checkpoints.recomputed import is_recomputed
from helpers.checkpoints.safetensors import Tensors, open_tensors, read_header
from helpers.checkpoints.strict_json import parse_object

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
PICKLE_ADVICE = (
    "are PyTorch pickles, and pickle is never opened here, because opening one runs the program in it; look for the "
    "model's safetensors files, or have its author write them with save_pretrained"
)


def read_config(folder: str | os.PathLike) -> dict:
    """The object in config.json, which must at least have a ``model_type``. CheckpointError otherwise."""
    folder = _checked_folder(folder)
    config = read_object(folder, CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise CheckpointError(folder / CONFIG, "has no model_type (a text), which names the kind of model")
    return config


def weight_files(folder: str | os.PathLike) -> dict[str, Path]:
    """Tensor name -> the file that holds it, every header read and checked.

    Where both are there, one file goes before shards, as in transformers. CheckpointError otherwise.
    """
    folder = _checked_folder(folder)
    if os.path.lexists(folder / SINGLE):
        path = _inside(folder, SINGLE)
        return dict.fromkeys(read_header(path).entries, path)
    if os.path.lexists(folder / INDEX):
        return _sharded_files(folder)
    names = sorted(os.listdir(folder))
    if pickles := [name for name in names if name.endswith(PICKLES)]:
        raise CheckpointError(folder, f"its weights ({_some(pickles)}) {PICKLE_ADVICE}")
    raise CheckpointError(folder, f"holds neither {SINGLE} nor {INDEX}, but {_some(names) or 'nothing'}")


def tensors(folder: str | os.PathLike) -> Mapping[str, Tensor]:
    """Every tensor of the folder by name; a shard is mapped when the first of its tensors is asked for."""
    return _FolderTensors(weight_files(folder))


class _FolderTensors(Mapping[str, Tensor]):
    def __init__(self, files: dict[str, Path]):
        self._files = files
        self._opened: dict[Path, Tensors] = {}

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._files:
            raise KeyError(f"no file of the checkpoint holds a tensor {name!r}; there are {_some(list(self._files))}")
        path = self._files[name]
        if path not in self._opened:
            self._opened[path] = open_tensors(path)
        return self._opened[path][name]

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _sharded_files(folder: Path) -> dict[str, Path]:
    listed = _weight_map(folder)
    shards = {shard: _inside(folder, shard) for shard in dict.fromkeys(listed.values())}
    if missing := [shard for shard, path in shards.items() if not os.path.exists(path)]:
        raise CheckpointError(folder, f"{len(missing)} of {len(shards)} shards are missing: {_some(missing)}")
    held = {shard: read_header(path).entries for shard, path in shards.items()}
    listed = {name: shard for name, shard in listed.items() if name in held[shard] or not is_recomputed(name)}
    _check_listed_where_held(listed, held, folder / INDEX)
    return {name: shards[shard] for name, shard in listed.items()}


def _check_listed_where_held(listed: dict[str, str], held: dict[str, Mapping[str, Entry]], index: Path) -> None:
    """Every tensor is listed once, held once, and held by the shard that it is listed in; tables that a model computes
    anew may be missing, or in every shard."""
    times = Counter(name for names in held.values() for name in names if not is_recomputed(name))
    if twice := [name for name, count in times.items() if count > 1]:
        holders = [shard for shard, names in held.items() if twice[0] in names]
        raise CheckpointError(index, f"tensor {_some(twice[:1])} is held by {len(holders)} shards: {_some(holders)}")
    if astray := [name for name, shard in listed.items() if name not in held[shard]]:
        shard = listed[astray[0]]
        names = [name for name in astray if listed[name] == shard]
        raise CheckpointError(index, f"shard {_some([shard])} does not hold what is listed for it: {_some(names)}")
    if unlisted := [name for name in times if name not in listed]:
        raise CheckpointError(index, f"the shards hold tensors that are not listed: {_some(unlisted)}")


def _weight_map(folder: Path) -> dict[str, str]:
    listed = read_object(folder, INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(folder / INDEX, "has no weight_map, an object that gives each tensor its file")
    for name, shard in listed.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors"):
            reason = f"puts tensor {_some([name])} into {_some([shard])}, which is no .safetensors file"
            raise CheckpointError(folder / INDEX, reason)
    return listed


def _checked_folder(folder: str | os.PathLike) -> Path:
    folder = Path(folder)
    if os.path.isfile(folder):
        raise CheckpointError(folder, "is a file, where a folder is asked for")
    if not os.path.isdir(folder):
        raise CheckpointError(folder, "there is no such folder")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise CheckpointError(folder, "may not be read by this user")
    return folder


def _inside(folder: Path, name: str) -> Path:
    """The file of that name. CheckpointError when it lies outside, by ``..``, from the root or by a link."""
    try:
        real, home = (folder / name).resolve(), folder.resolve()
    except (OSError, RuntimeError, ValueError):  # a name that is too long, a link to itself, a zero byte
        raise CheckpointError(folder, f"{_some([name])} is no path of a file") from None
    # The hub's cache links each file of snapshots/REVISION to its blobs folder, which belongs to the same model.
    homes = [home, home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [home]
    if not any(real.is_relative_to(home) for home in homes):
        raise CheckpointError(folder, f"{_some([name])} leads out of the folder, to {real}, and is not opened")
    return folder / name


def read_object(folder: Path, name: str) -> dict:
    """The JSON object in one file of the folder. CheckpointError when it is missing, too large, or no such object."""
    path = _inside(folder, name)
    try:
        if path.stat().st_size > MAX_HEADER_BYTES:
            raise CheckpointError(path, f"has {path.stat().st_size} bytes; {MAX_HEADER_BYTES} are allowed")
        return parse_object(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(path, "there is no such file") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror})") from None
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None


def _some(names: list[object], limit: int = 8) -> str:
    """The first names, and how many more there are: a message stays one line that can be read."""
    shown = ", ".join(repr(name)[:120] for name in names[:limit])
    return shown + (f" and {len(names) - limit} more" if len(names) > limit else "")
