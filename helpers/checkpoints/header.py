"""The header of a safetensors file: what it may say, checked before a number is touched.

The whole format, in the order of the file:

    8 bytes         n, the length of the header: unsigned, little-endian
    n bytes         the header: one JSON object, padded with spaces
    all the rest    the numbers of every tensor, back to back, row by row, little-endian

    {"__metadata__": {"format": "pt"},
     "norm.weight": {"dtype": "BF16", "shape": [1024], "data_offsets": [0, 2048]}, ...}

The offsets count bytes from the end of the header. Nothing in the file is a program, so opening it runs nothing.
What is left to check is arithmetic: the tensors must cover the rest of the file exactly, without a hole, an overlap
or a leftover. A file that fails is refused by one line with its name and the reason.

Source: huggingface/safetensors, README "Format" and ``safetensors/src/tensor.rs``. Built in lesson `open_a_model`.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from helpers.checkpoints.error import CheckpointError, brief
from helpers.checkpoints.strict_json import parse_object

# The file's name of a type -> torch's. The library also knows F6_E2M3 and F6_E3M2, which torch cannot hold.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F4": torch.float4_e2m1fn_x2,  # two numbers per byte: torch's last axis is half as long as the file's
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
COUNT = "whole numbers from 0 to 2**63 - 1"
FIELDS = ("dtype", "shape", "data_offsets")

# First bytes of files that are taken for safetensors now and then; as a length, each is far above the limit.
PICKLE = "it is a PyTorch pickle; pickle is never opened, because opening one runs the program in it"
FOREIGN = {
    b"PK\x03\x04": PICKLE,  # since 2020 in a zip
    **dict.fromkeys((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"), PICKLE),
    b"version ": "it is a Git LFS pointer and not the weights; `git lfs pull` fetches them",
    b"GGUF": "it is a GGUF file, another format",
    b"<": "it is a web page, so the download went wrong",
}


@dataclass(frozen=True)
class Entry:
    """One tensor: its bytes are ``[begin, end)``, counted from the end of the header."""

    name: str
    dtype: str  # the file's name of the type, such as "BF16"
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """What stands before the numbers, checked."""

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data_start: int  # bytes from the start of the file to the first number
    file_bytes: int


def torch_shape(entry: Entry) -> tuple[int, ...]:
    """The shape of the tensor in torch: the file's, but for F4, where torch counts pairs."""
    return (*entry.shape[:-1], entry.shape[-1] // 2) if entry.dtype == "F4" else entry.shape


# The checks, in the order of the file.


def header_length(first: bytes, file_bytes: int, path: str | os.PathLike) -> int:
    """The length of the header, out of the first 8 bytes. CheckpointError where it is not that of a header."""
    if not first:
        raise CheckpointError(path, "is empty")
    if len(first) < LENGTH_BYTES:
        raise CheckpointError(path, f"is truncated: {len(first)} bytes, and the header's length alone takes 8")
    length, left = int.from_bytes(first, "little"), file_bytes - LENGTH_BYTES
    if length > MAX_HEADER_BYTES:
        foreign = [what for start, what in FOREIGN.items() if first.startswith(start)]
        reason = f"its first 8 bytes ask for a header of {length} bytes, and {MAX_HEADER_BYTES} are allowed"
        raise CheckpointError(path, f"is no safetensors file: {(foreign or [reason])[0]}")
    if length > left:
        raise CheckpointError(path, f"is truncated: the header takes {length} bytes, and {left} are left in the file")
    return length


def checked_header(text: bytes, file_bytes: int, path: str | os.PathLike) -> Header:
    """The header of a file of ``file_bytes``. CheckpointError at the first thing that is wrong."""
    table, data_start = _parse(text, path), LENGTH_BYTES + len(text)
    metadata = _metadata(table.pop("__metadata__", None), path)
    entries = {name: _entry(name, fields, path) for name, fields in table.items()}
    _check_cover(entries, file_bytes - data_start, path)
    return Header(entries, metadata, data_start, file_bytes)


def _parse(header: bytes, path: str | os.PathLike) -> dict[str, object]:
    if not header.startswith(b"{"):
        raise CheckpointError(path, f"its header does not begin with '{{' but with {header[:8]!r}")
    try:
        return parse_object(header)
    except ValueError as error:
        raise CheckpointError(path, f"its header {error}") from None


def _metadata(metadata: object, path: str | os.PathLike) -> dict[str, str]:
    if metadata is None:  # absent, or null, which the library reads as absent
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError(path, f"its __metadata__ is {brief(metadata)}, not an object of texts")
    return metadata


def _entry(name: str, fields: object, path: str | os.PathLike) -> Entry:
    trouble = _field_trouble(fields)
    if not trouble:
        entry = Entry(name, fields["dtype"], tuple(fields["shape"]), *fields["data_offsets"])
        trouble = _size_trouble(entry)
    if trouble:
        raise CheckpointError(path, f"tensor {brief(name)} {trouble}")
    return entry


def _field_trouble(fields: object) -> str:
    """What is wrong with one line of the header; empty when nothing is."""
    if not isinstance(fields, dict):
        return f"is described by {brief(fields)}, not by an object with {', '.join(FIELDS)}"
    if missing := [field for field in FIELDS if field not in fields]:
        return f"has no {' and no '.join(missing)}"
    if unknown := [field for field in fields if field not in FIELDS]:
        return f"has the unknown field {brief(unknown[0])}; known are {', '.join(FIELDS)}"
    dtype, shape, offsets = (fields[field] for field in FIELDS)
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return f"has the unknown dtype {brief(dtype)}; known are {', '.join(DTYPES)}"
    if not _are_counts(shape):
        return f"has the shape {brief(shape)}, not a list of {COUNT}"
    if not _are_counts(offsets) or len(offsets) != 2:
        return f"has the data_offsets {brief(offsets)}, not a pair of {COUNT}"
    return ""


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _size_trouble(entry: Entry) -> str:
    """Why shape, type and offsets do not agree; empty when they do."""
    shape = list(entry.shape)
    if entry.end < entry.begin:
        return f"ends at byte {entry.end}, before it begins at {entry.begin}"
    if _overflows(shape):
        return f"has the shape {brief(shape)}, more numbers than 64 bits can count"
    if entry.dtype == "F4" and (not shape or shape[-1] % 2):
        return f"is F4, two numbers per byte, and its shape {brief(shape)} does not end in an even size"
    bits = 4 if entry.dtype == "F4" else 8 * DTYPES[entry.dtype].itemsize
    size = math.prod(shape) * bits // 8
    if size != entry.end - entry.begin:
        stored = f"and data_offsets give {entry.end - entry.begin}"
        return f"takes {size} bytes as {entry.dtype} of shape {brief(shape)}, {stored}"
    return ""


def _overflows(shape: list[int]) -> bool:
    """Zeros aside, for torch multiplies them too. It stops at the first overflow: a long shape makes a long number."""
    count = 1
    for size in shape:
        count *= max(size, 1)
        if count >= 2**63:
            return True
    return False


def _check_cover(entries: Mapping[str, Entry], data_bytes: int, path: str | os.PathLike) -> None:
    """The tensors, sorted, must cover the data from its first byte to its last, each byte once."""
    covered = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        where = f"tensor {brief(entry.name)} (bytes {entry.begin} to {entry.end} of the data)"
        if entry.end > data_bytes:
            raise CheckpointError(path, f"is truncated: {where} is not all there, the file holds {data_bytes}")
        if entry.begin < covered:
            raise CheckpointError(path, f"{where} overlaps the one before it, which ends at {covered}")
        if entry.begin > covered:
            raise CheckpointError(path, f"bytes {covered} to {entry.begin} of the data, before {where}, belong to none")
        covered = entry.end
    if covered < data_bytes:
        raise CheckpointError(path, f"has {data_bytes - covered} bytes after the last tensor that belong to none")
