"""Layers whose weights are packed: a matrix product, and the rows of an embedding."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from helpers.quant.backends import Way, Ways, as_read, encoded_as, stored_as, way_of
from helpers.quant.cpu import CPU
from helpers.quant.formats.named import Encoded, Shape
from helpers.shapes import Float, Int, Tensor


class Packed(nn.Module):
    """One packed matrix, or a stack of packed matrices of one shape: buffers that move with the model.

    They are codes and scales, each in its own type, so ``model.bfloat16()`` leaves them as they are.
    """

    def __init__(
        self, name: str, shape: Shape, laid: Shape, way: Way, tensors: dict[str, Tensor], count: int | None = None
    ):
        super().__init__()
        self.name, self.shape, self.way, self.count = name, shape, way, count  # None: one matrix and no stack
        self.laid = laid  # the shape that was encoded: another one where groups run on over the ends of rows
        for part, tensor in tensors.items():
            self.register_buffer(part, tensor)

    @classmethod
    def of(cls, weight: Float[Tensor, "*E O I"], name: str, ways: Ways = CPU, wrap: bool = False) -> "Packed":
        """A matrix, or a stack of them, in the format ``name``. ValueError as in ``encode``."""
        matrices = [encoded_as(one, name, wrap) for one in weight.detach().reshape(-1, *weight.shape[-2:])]
        return cls.from_encoded(matrices, name, tuple(weight.shape[-2:]), weight.dtype, ways, weight.dim() == 3)

    @classmethod
    def from_encoded(
        cls, matrices: list[Encoded], name: str, shape: Shape, dtype: torch.dtype, ways: Ways, stacked: bool
    ) -> "Packed":
        """In the way that suits tokens of ``dtype``; of a stack each tensor gets one more axis in front."""
        way = way_of(name, matrices[0], shape, dtype, ways)
        laid = [way.pack(encoded) for encoded in matrices]
        tensors = {part: torch.stack([one[part] for one in laid]) for part in laid[0]} if stacked else laid[0]
        return cls(name, shape, matrices[0].shape, way, tensors, len(matrices) if stacked else None)

    def tensors(self, e: int | None = None) -> dict[str, Tensor]:
        """What is held; of a stack, the views of matrix ``e``."""
        held = {part: buffer for part, buffer in self._buffers.items() if buffer is not None}
        return held if e is None else {part: tensor[e] for part, tensor in held.items()}

    def encoded(self, e: int | None = None) -> Encoded:
        """The matrix as its format stores it, whatever the way: what a file holds."""
        return Encoded(stored_as(self.name), self.laid, self.way.unpack(self.tensors(e), self.laid))

    def decode(self, dtype: torch.dtype, e: int | None = None) -> Float[Tensor, "O I"]:
        """The matrix decoded from its codes and scales: the original, rounded to the format."""
        return self.way.decode(self.tensors(e), self.laid, dtype).view(self.shape)

    def multiply(self, x: Float[Tensor, "tokens I"], e: int | None = None) -> Float[Tensor, "tokens O"]:
        """Tokens times the matrix, transposed: by the kernel for few tokens, by decoding it first for many."""
        if self.way.has_kernel_for(x):
            return self.way.multiply(x, self.tensors(e))
        return functional.linear(as_read(x, self.name), self.decode(x.dtype, e))

    def lay_out(self, ways: Ways, dtype: torch.dtype) -> None:
        """From now on the codes lie in the way of ``ways`` that suits tokens of ``dtype``, or as a file has them."""
        matrices = [self.encoded()] if self.count is None else [self.encoded(e) for e in range(self.count)]
        other = Packed.from_encoded(matrices, self.name, self.shape, dtype, ways, self.count is not None)
        for part in self.tensors():
            delattr(self, part)
        for part, tensor in other.tensors().items():
            self.register_buffer(part, tensor)
        self.way = other.way

    def readable(self) -> "Packed":
        """One matrix as its format stores it: for a look-up, which multiplies no tokens."""
        encoded = self.encoded()
        return Packed.from_encoded([encoded], encoded.format, self.shape, torch.float32, {}, stacked=False)

    def numbers(self) -> int:
        """Of the matrices, before they were packed."""
        return self.shape[0] * self.shape[1] * (self.count or 1)

    def _apply(self, move, recurse=True):
        """``model.to(...)``: to another device as bytes, which no change of dtype touches."""
        for part, tensor in self.tensors().items():
            moved = move(tensor.reshape(-1).view(torch.uint8))
            self._buffers[part] = moved.view(tensor.dtype).view(tensor.shape)
        return self

    def extra_repr(self) -> str:
        return f"{self.name}, {list(self.shape)}"


Pack = Callable[[str, Tensor], Packed]  # the name of a weight in its packed layer, and the weight: quantised, or read


def packing(name: str, ways: Ways = CPU, wrap: bool = False) -> Pack:
    """Quantises each weight that it is given. ValueError as in ``encode``."""
    return lambda _, weight: Packed.of(weight, name, ways, wrap)


def like(weight: Tensor) -> Tensor:
    """An empty tensor of the weight's dtype, which ``model.to(...)`` changes with the rest of the model."""
    return torch.empty(0, dtype=weight.dtype, device="cpu" if weight.is_meta else weight.device)


class QuantisedLinear(nn.Module):
    """``nn.Linear`` with a packed weight. ``weight`` decodes it, for layers that read it themselves.

    Built in lesson `quantise_moe`.
    """

    def __init__(self, linear: nn.Linear, pack: Pack):
        super().__init__()
        self.packed = pack("packed", linear.weight)
        self.bias = linear.bias
        self.register_buffer("like", like(linear.weight), persistent=False)

    @classmethod
    def of(cls, linear: nn.Linear, name: str, ways: Ways = CPU, wrap: bool = False) -> "QuantisedLinear":
        """``linear`` in the format ``name``. ValueError as in ``encode``."""
        return cls(linear, packing(name, ways, wrap))

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The whole matrix, decoded anew each time, in the model's dtype."""
        return self.packed.decode(self.like.dtype)

    def forward(self, x: Float[Tensor, "*rest I"]) -> Float[Tensor, "*rest O"]:
        y = self.packed.multiply(x.reshape(-1, x.shape[-1]))
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], -1)


class QuantisedEmbedding(nn.Module):
    """``nn.Embedding`` with a packed table: only the rows that are asked for are decoded, where they lie apart.

    Built in lesson `quantise_moe`.
    """

    def __init__(self, embedding: nn.Embedding, pack: Pack):
        super().__init__()
        self.packed = pack("packed", embedding.weight).readable()
        self.register_buffer("like", like(embedding.weight), persistent=False)

    @classmethod
    def of(cls, embedding: nn.Embedding, name: str, wrap: bool = False) -> "QuantisedEmbedding":
        """``embedding`` in the format ``name``, in the readable way."""
        return cls(embedding, packing(name, {}, wrap))

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        """The whole table, for a head that is the embedding."""
        return self.packed.decode(self.like.dtype)

    def forward(self, token_ids: Int[Tensor, "*rest"]) -> Float[Tensor, "*rest I"]:
        tensors, (rows, width) = self.packed.tensors(), self.packed.shape
        if any(len(tensor) != rows for tensor in tensors.values() if tensor.dim()):  # rows share scales
            return self.weight[token_ids]
        asked = token_ids.flatten()
        parts = {part: tensor[asked] if tensor.dim() else tensor for part, tensor in tensors.items()}
        found = Encoded(self.packed.name, (len(asked), width), parts).decode(self.like.dtype)
        return found.view(*token_ids.shape, width)
