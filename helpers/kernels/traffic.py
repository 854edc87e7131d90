"""Bytes that kernels load and store, counted in Triton's interpreter: what ``cost`` says, seen.

Every load and store of every program is counted where its mask is true. A load that another program repeats counts
again, although a GPU's cache may serve it: so this is at least what ``cost`` says, and equal where each number is
loaded once.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from helpers.kernels.launch import INTERPRETED, triton


@dataclass
class Traffic:
    """Bytes loaded and stored by all kernels in a block."""

    loaded: int = 0
    stored: int = 0

    @property
    def bytes(self) -> int:
        return self.loaded + self.stored


@contextmanager
def counted_traffic() -> Iterator[Traffic]:
    """``with counted_traffic() as seen: ...``. Raises ValueError outside the interpreter: a GPU counts differently.

    Built in lesson `kernels`.
    """
    Builder = _builder()
    seen, load, store = Traffic(), Builder.create_masked_load, Builder.create_masked_store

    def counting_load(self, places, mask, *rest):
        seen.loaded += _bytes(places, mask)
        return load(self, places, mask, *rest)

    def counting_store(self, places, value, mask, *rest):
        seen.stored += _bytes(places, mask)
        return store(self, places, value, mask, *rest)

    Builder.create_masked_load, Builder.create_masked_store = counting_load, counting_store
    try:
        yield seen
    finally:
        Builder.create_masked_load, Builder.create_masked_store = load, store


def _builder() -> type:
    """The class whose loads and stores the interpreter runs. Triton promises it to nobody, so it may be gone."""
    if not INTERPRETED:
        raise ValueError("bytes of a kernel are counted in Triton's interpreter, and it is off")
    interpreter = importlib.import_module("triton.runtime.interpreter")
    builder = getattr(interpreter, "InterpreterBuilder", None)
    if not all(hasattr(builder, name) for name in ("create_masked_load", "create_masked_store")):
        raise ValueError(f"Triton {triton.__version__} interprets in a way whose bytes are not counted; 3.7 to 3.9 are")
    return builder


def _bytes(places, mask) -> int:
    return int(mask.data.sum()) * max(places.get_element_ty().primitive_bitwidth // 8, 1)
