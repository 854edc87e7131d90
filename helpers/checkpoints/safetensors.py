"""A safetensors file, read by hand: its header first, then the numbers of the tensors that are asked for.

What stands in such a file, and what is refused, is told in ``helpers/checkpoints/header.py``. Built in lesson
`open_a_model`.
"""

import math
import mmap
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from helpers.checkpoints.error import CheckpointError, brief
from helpers.checkpoints.header import DTYPES, LENGTH_BYTES, Entry, Header, checked_header, header_length, torch_shape


def read_header(path: str | os.PathLike) -> Header:
    """Read and check the header; the numbers are not touched. CheckpointError when anything is wrong with the file."""
    with _open(path) as file:
        return _read_header(file, path)


def open_tensors(path: str | os.PathLike, header: Header | None = None) -> "Tensors":
    """The tensors of a file by name, each a view of the mapped file: nothing is read until its numbers are used. With
    ``header``, the header is not read again."""
    return Tensors(path, header)


def read_tensor(path: str | os.PathLike, name: str, header: Header | None = None) -> Tensor:
    """Read one tensor into memory of its own. With ``header``, the header is not read again."""
    with _open(path) as file:
        header = header or _read_header(file, path)
        entry = _entry_named(name, header, path)
        numbers = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
        file.seek(header.data_start + entry.begin)
        if file.readinto(numbers.numpy()) != len(numbers):
            raise CheckpointError(path, f"became shorter while tensor {brief(name)} was read")
    return numbers.view(DTYPES[entry.dtype]).reshape(torch_shape(entry))


class Tensors(Mapping[str, Tensor]):
    """Name -> tensor over one file, through one memory map.

    The map is copy-on-write: a tensor may be written to and the file does not change. A tensor whose numbers do not lie
    at a multiple of their size is copied, the others are views.

    A file that is replaced, as ``save`` and the safetensors library do it, is kept by the system for as long as one of
    its tensors lives. One that another program overwrites where it lies changes what was not yet written to; one that
    it cuts off ends the process when a number behind the cut is used (SIGBUS), which no reader that maps can prevent.
    On Windows a mapped file can be neither replaced nor deleted.
    """

    def __init__(self, path: str | os.PathLike, header: Header | None = None):
        self.path = Path(path)
        with _open(path) as file:
            self.header = header or _read_header(file, path)
            try:
                self._map = mmap.mmap(file.fileno(), self.header.file_bytes, access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise CheckpointError(path, f"cannot be mapped into memory ({error})") from None

    def __getitem__(self, name: str) -> Tensor:
        entry = _entry_named(name, self.header, self.path)
        dtype, shape = DTYPES[entry.dtype], torch_shape(entry)
        if entry.begin == entry.end:
            return torch.empty(shape, dtype=dtype)
        begin, end = (self.header.data_start + offset for offset in (entry.begin, entry.end))
        if begin % dtype.itemsize:
            return torch.frombuffer(bytearray(memoryview(self._map)[begin:end]), dtype=dtype).reshape(shape)
        return torch.frombuffer(self._map, dtype=dtype, offset=begin, count=math.prod(shape)).reshape(shape)

    def __contains__(self, name: object) -> bool:
        return name in self.header.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.header.entries)

    def __len__(self) -> int:
        return len(self.header.entries)


def _entry_named(name: str, header: Header, path: str | os.PathLike) -> Entry:
    if name not in header.entries:
        some = ", ".join(brief(known) for known in list(header.entries)[:3])
        held = f"it holds {len(header.entries)}, such as {some}" if some else "it holds none"
        raise KeyError(f"{path} holds no tensor {brief(name)}; {held}")
    return header.entries[name]


def _open(path: str | os.PathLike) -> BinaryIO:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(path, "is a folder, where a safetensors file is asked for")
        if not stat.S_ISREG(mode):  # a pipe would wait for ever
            raise CheckpointError(path, "is not a regular file")
        return open(path, "rb")
    except FileNotFoundError:
        raise CheckpointError(path, "there is no such file") from None
    except OSError as error:
        raise CheckpointError(path, f"cannot be opened ({error.strerror})") from None


def _read_header(file: BinaryIO, path: str | os.PathLike) -> Header:
    file_bytes = os.fstat(file.fileno()).st_size
    length = header_length(file.read(LENGTH_BYTES), file_bytes, path)
    return checked_header(file.read(length), file_bytes, path)
