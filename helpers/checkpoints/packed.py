"""What the files hold, as the model means it: plain tensors, and packed ones together with their scales.

Which tensors belong together is told by config.json's ``quantization_config`` and by their names:

    fp8                  x.weight (F8_E4M3) and x.weight_scale_inv or x.scale; experts of DeepSeek-V4: x.weight (I8, two
                         FP4 numbers per byte) and x.scale
    compressed-tensors   x.weight_packed (I32, eight numbers each), x.weight_scale and x.weight_shape

Both become x.weight. What has no scale beside it was not packed, such as norms and routers.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from helpers.checkpoints.error import CheckpointError
from helpers.checkpoints.folder import weight_files
from helpers.checkpoints.header import Entry
from helpers.checkpoints.safetensors import Tensors, open_tensors, read_header, read_tensor
from helpers.quant.formats.blocks import Block, check_blocks
from helpers.quant.formats.floats import unpack_fp8
from helpers.quant.formats.fp4 import MX_GROUP, unpack_fp4
from helpers.quant.formats.integers import unpack_int4
from helpers.quant.formats.packing import check_words

MAPS = os.name != "nt"  # a file that is mapped there cannot be replaced, and saving to the same folder would fail
HEADLESS = ("embed_tokens.weight", "language_model.embed_tokens.weight")
SCALES = ("F32", "F16", "BF16", "F8_E8M0")  # types that a scale may have
INT4_LEFT_OUT = {"type": "int", "symmetric": True, "strategy": "group"}  # compressed-tensors 0.20.1, QuantizationArgs
KNOWN_INT4 = {"num_bits": 4, **INT4_LEFT_OUT}
ORDERED_AS_THEY_LIE = ("weight", "static")  # of actorder: columns were rounded in another order, and lie in their own


class Stored(NamedTuple):
    """One tensor of the model as it lies in the files."""

    shape: tuple[int, ...]
    dtype: str  # the file's name of the type, of the numbers that need no unpacking; "" of packed ones
    parts: tuple[str, ...]  # names in the files: the numbers, then what is needed to unpack them
    unpack: Callable[..., Tensor] | None  # parts and dtype -> the tensor


class Files:
    """The tensors of a folder's files: read one at a time, unpacked where they are packed.

    ``published`` is config.json, ``rename`` gives a tensor of the files the name that the model knows. CheckpointError
    when a file is refused, or tensors are packed in a way that is not known or do not belong together.
    """

    def __init__(self, folder: Path, published: dict, rename: Callable[[str], str] = lambda name: name):
        self.folder, self._files = folder, weight_files(folder)
        self._headers = {path: read_header(path) for path in set(self._files.values())}
        self._opened: dict[Path, Tensors | None] = {}
        self._entries = {name: self._headers[path].entries[name] for name, path in self._files.items()}
        try:
            found = self._found(published)
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(folder, str(error)) from None
        self.stored = _with_first_word({rename(name): stored for name, stored in found.items()})
        if len(self.stored) < len(found):
            [(name, _)] = Counter(map(rename, found)).most_common(1)
            raise CheckpointError(folder, f"holds {name!r} twice, under two names")

    def _found(self, published: dict) -> dict[str, Stored]:
        found = {name: Stored(e.shape, e.dtype, (name,), None) for name, e in self._entries.items()}
        for name, stored in _packed(self._entries, published, self._read).items():
            for part in stored.parts:
                found.pop(part, None)
            found[name] = stored
        return found

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor; a packed one as ``dtype``, a plain one as it is."""
        parts, unpack = self.parts(name), self.stored[name].unpack
        return unpack(*parts, dtype=dtype or torch.float32) if unpack else parts[0]

    def mapped(self, name: str) -> Tensor | None:
        """A plain tensor as a view of its file, where writing does not reach the file; nothing is read before its use.

        None where it must be read: it is packed, or the system does not map (this file).
        """
        stored = self.stored[name]
        if stored.unpack or not MAPS:
            return None
        path = self._files[stored.parts[0]]
        if path not in self._opened:
            self._opened[path] = self._open(path)
        return self._opened[path] and self._opened[path][stored.parts[0]]

    def _open(self, path: Path) -> Tensors | None:
        try:
            return open_tensors(path, self._headers[path])
        except CheckpointError:  # some network drives do not map; reading says what else is wrong
            return None

    def parts(self, name: str) -> list[Tensor]:
        """One tensor as it lies in the files: packed numbers, then their scales, for layers that compute with them."""
        return [self._read(part) for part in self.stored[name].parts]

    def place(self, name: str) -> tuple[Path, int]:
        """Where its numbers lie, to read in the order of the disk."""
        first = self.stored[name].parts[0]
        return self._files[first], self._entries[first].begin

    def _read(self, part: str) -> Tensor:
        return read_tensor(self._files[part], part, self._headers[self._files[part]])


def _with_first_word(stored: dict[str, Stored]) -> dict[str, Stored]:
    """The names of a whole model, also where a model was saved without its head: ``embed_tokens`` for
    ``model.embed_tokens``. Qwen3-Embedding is published so, and transformers gives the word back too."""
    if not any(name in stored for name in HEADLESS):
        return stored
    return {name if name.startswith(("lm_head.", "mtp.")) else f"model.{name}": one for name, one in stored.items()}


def _packed(entries: Mapping[str, Entry], published: dict, read: Callable[[str], Tensor]) -> dict[str, Stored]:
    """The packed tensors by the name of what they become. ValueError for a way of packing that is not known."""
    method = quantization(published)
    if not method:
        return {}
    name = method.get("quant_method")
    if name == "fp8":
        return _fp8(entries, _fp8_block(method))
    if name == "compressed-tensors":
        return _int4(entries, _int4_group(method), read)
    raise ValueError(f"the weights are packed by {name!r}; known are 'fp8' and 'compressed-tensors'")


def quantization(published: dict) -> dict:
    """config.json's quantization_config, which may stand with the text model. Empty where nothing is packed."""
    text = published.get("text_config")
    levels = [config.get("quantization_config") for config in (published, text if isinstance(text, dict) else {})]
    said = [method for method in levels if method is not None]
    for method in said:
        if not isinstance(method, dict):
            raise ValueError(f"quantization_config is {str(method)[:40]!r}, not an object")
    if len(said) > 1 and said[0] != said[1]:
        raise ValueError(
            "config.json has another quantization_config with the text model than at the top; one is enough"
        )
    return said[0] if said else {}


def _fp8(entries: Mapping[str, Entry], block: Block) -> dict[str, Stored]:
    found = {}
    for name, entry in entries.items():
        scale = next((s for s in (f"{name}_scale_inv", name.removesuffix("weight") + "scale") if s in entries), None)
        if scale in (None, name):
            continue
        if entry.dtype == "F8_E4M3":
            shape, share, unpack = entry.shape, block, partial(unpack_fp8, block=block)
        elif entry.dtype in ("I8", "F4") and entry.shape:
            columns = entry.shape[-1] * (2 if entry.dtype == "I8" else 1)
            shape, share, unpack = (*entry.shape[:-1], columns), (1, MX_GROUP), unpack_fp4
        else:
            continue  # not packed: its neighbour is no scale, or it is unexpected
        _check(name, shape, entries[scale], share)
        found[name] = Stored(shape, "", (name, scale), unpack)
    return found


def _fp8_block(method: dict) -> Block:
    block, kind = method.get("weight_block_size"), method.get("fmt", "e4m3")
    if kind != "e4m3":
        raise ValueError(f"quantization_config has fmt {str(kind)[:40]!r}; known is 'e4m3'")
    if not isinstance(block, list) or len(block) != 2 or not all(type(size) is int and size > 0 for size in block):
        raise ValueError(f"quantization_config has weight_block_size {str(block)[:40]}, not two sizes as [128, 128]")
    return tuple(block)


def _int4(entries: Mapping[str, Entry], group: int, read: Callable[[str], Tensor]) -> dict[str, Stored]:
    found = {}
    for packed in (name for name in entries if name.endswith(".weight_packed")):
        name = packed.removesuffix("_packed")
        parts = (packed, f"{name}_scale", f"{name}_shape")
        if lacking := [part for part in parts if part not in entries]:
            raise ValueError(f"{packed!r} needs {' and '.join(map(repr, lacking))} beside it")
        if name in entries:
            raise ValueError(f"{name!r} is there twice, packed and plain")
        if f"{name}_g_idx" in entries:
            raise ValueError(f"{name!r} has its columns in another order ({name}_g_idx), which is not known")
        shape = _shape(entries[parts[2]], read)
        _check(name, shape, entries[parts[1]], (1, group))
        if entries[packed].dtype != "I32":
            raise ValueError(f"{packed!r} is {entries[packed].dtype}; eight INT4 numbers lie in an I32")
        _named(name, check_words, shape, entries[packed].shape)
        found[name] = Stored(shape, "", parts, partial(_unpack_int4, group=group))
    return found


def _unpack_int4(packed: Tensor, scale: Tensor, shape: Tensor, dtype: torch.dtype, group: int) -> Tensor:
    return unpack_int4(packed, scale, tuple(shape.tolist()), dtype, group)


def _shape(entry: Entry, read: Callable[[str], Tensor]) -> tuple[int, int]:
    """The rows and columns that ``weight_shape`` tells."""
    if entry.shape != (2,) or entry.dtype not in ("I64", "I32"):
        raise ValueError(f"{entry.name!r} is {entry.dtype} {list(entry.shape)}, not rows and columns in I64 or I32")
    rows, columns = read(entry.name).tolist()
    if min(rows, columns) < 0:
        raise ValueError(f"{entry.name!r} is {[rows, columns]}, not rows and columns")
    return rows, columns


def _int4_group(method: dict) -> int:
    """The group size, where every group of layers is packed in the one way that is known.

    ``ignore`` is not read: a layer is packed where its packed tensors are.
    """
    groups = method.get("config_groups")
    kinds = [_weights_of(group) for group in groups.values()] if isinstance(groups, dict) else []
    for kind in kinds or [None]:
        size = kind.get("group_size") if isinstance(kind, dict) else None
        if type(size) is not int or size < 1 or any(kind.get(field) != value for field, value in KNOWN_INT4.items()):
            raise ValueError(f"compressed-tensors as {str(kind)[:200]} is not known; known is {KNOWN_INT4}, group_size")
        if kind.get("actorder") not in (*ORDERED_AS_THEY_LIE, None, False):
            raise ValueError(f"compressed-tensors with actorder {str(kind['actorder'])[:40]!r} is not known")
    if method.get("format", "pack-quantized") != "pack-quantized" or len({kind["group_size"] for kind in kinds}) > 1:
        raise ValueError("compressed-tensors is known in the format 'pack-quantized' and with one group_size")
    for field in ("kv_cache_scheme", "transform_config", "sparsity_config"):
        if (said := method.get(field)) and not (field == "sparsity_config" and said == {"format": "dense"}):
            raise ValueError(f"compressed-tensors with {field} {str(said)[:100]} is not known; it can only be left out")
    return kinds[0]["group_size"]


def _weights_of(group: object) -> object:
    """How a group of config_groups packs its weights, with the library's own values where a file leaves them out."""
    if not isinstance(group, dict) or not isinstance(group.get("weights"), dict):
        return group
    for field, known in (("format", "pack-quantized"), ("input_activations", None), ("output_activations", None)):
        if group.get(field) not in (None, known):
            raise ValueError(
                f"compressed-tensors with {field} {str(group[field])[:100]} is not known; only weights are"
            )
    kind = group["weights"]
    return kind | {field: value for field, value in INT4_LEFT_OUT.items() if kind.get(field) is None}


def _check(name: str, shape: tuple[int, ...], scale: Entry, block: Block) -> None:
    if scale.dtype not in (*SCALES, "U8"):
        raise ValueError(f"{scale.name!r} is {scale.dtype}; a scale is {', '.join(SCALES)}, or U8 as E8M0")
    _named(name, check_blocks, shape, scale.shape, block)


def _named(name: str, check: Callable[..., None], *values: object) -> None:
    try:
        check(*values)
    except ValueError as error:
        raise ValueError(f"{name!r} {error}") from None
