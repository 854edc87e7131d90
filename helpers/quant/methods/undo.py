"""All or nothing for what changes weights one after the other: where it fails, they are as they were."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from helpers.shapes import Tensor


@contextmanager
def undone_on_error() -> Iterator[Callable[[Tensor], None]]:
    """Within the block, give each weight to the function before you change it; if the block fails, all are put back.

    Until then the numbers wait in a temporary file and not in memory, which they would fill a second time.
    """
    kept: list[Tensor] = []

    with tempfile.TemporaryFile() as file:

        def keep(weight: Tensor) -> None:
            file.write(_bytes_of(weight.detach().cpu().contiguous()))
            kept.append(weight)

        try:
            yield keep
        except BaseException:  # a person who stops it included
            file.seek(0)
            for weight in kept:
                _read_back(weight, file.readinto)
            raise


@torch.no_grad()
def _read_back(weight: Tensor, readinto: Callable) -> None:
    numbers = torch.empty(weight.shape, dtype=weight.dtype)
    readinto(_bytes_of(numbers))
    weight.copy_(numbers)


def _bytes_of(numbers: Tensor) -> memoryview:
    return memoryview(numbers.flatten().view(torch.uint8).numpy())
