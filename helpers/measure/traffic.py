"""Bytes that operations ask for: what each reads and writes, added up while it runs.

A program of separate operations writes every intermediate to memory and reads it again, as far as no cache holds it.
This counts what is asked for, not what reaches the memory chips; a kernel that does all steps at once asks for each
number once.
"""

from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.shapes import Tensor


def count_traffic(run: Callable[[], object]) -> dict[str, int]:
    """Bytes read and written by ``run()``, by operation. A view moves nothing. Built in lesson `kernels`."""
    with _Traffic() as seen:
        run()
    return seen.bytes


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of all tensors that go into an operation and come out of it."""

    def __init__(self):
        super().__init__()
        self.bytes: dict[str, int] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if not function.is_view:
            read = torch.utils._pytree.tree_leaves((args, kwargs))
            written = torch.utils._pytree.tree_leaves(out)
            name = function.overloadpacket._qualified_op_name.rpartition("::")[2]
            moved = sum(each.nbytes for each in [*read, *written] if isinstance(each, Tensor))
            self.bytes[name] = self.bytes.get(name, 0) + moved
        return out
