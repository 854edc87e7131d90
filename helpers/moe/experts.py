"""Experts: many small feed-forward layers side by side, of which each token passes through a few."""

from collections.abc import Iterator

import torch
from torch import nn

from helpers.functions import Layer, declared
from helpers.moe.dispatch import Stacks, dispatched
from helpers.shapes import Float, Int, Tensor


def mixtures(model: nn.Module) -> Iterator[tuple[str, "Experts"]]:
    """The experts of each mixture of ``model``, by its name: ``blocks.3.mlp`` has ``blocks.3.mlp.experts``."""
    for name, part in model.named_modules():
        if isinstance(part, Experts):
            yield name.removesuffix(".experts"), part


def laid(down: Float[Tensor, "E D F"]) -> Float[Tensor, "E D F"]:
    """The same matrices, in memory as one token reads them fastest.

    In 16 bits as they are. In more, as E x F x D: an expert is narrow, F < D, and a vector that meets many short rows
    waits at the end of each one. Nothing but time changes: one token through the largest experts of
    `course measure moe` takes a tenth less in float32, and would take several times more in bfloat16.
    """
    return down.contiguous() if down.element_size() <= 2 else down.mT.contiguous().mT


class Experts(Layer):
    """The weights of all experts of one layer, stacked. Gate and up are one parameter, and so one matrix product.

    Source: DeepSeek-AI, "DeepSeekMoE", 2024, equation 3. Built in lesson `experts`.
    """

    functions = declared(dispatched=dispatched)

    def __init__(self, num_experts: int, width: int, hidden: int, limit: float | None = None):
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * hidden, width))  # E twoF D
        self.down = nn.Parameter(torch.empty(num_experts, width, hidden))  # E D F
        self.limit = limit
        for weight in self.parameters():  # as nn.Linear begins
            nn.init.uniform_(weight, -(weight.shape[2] ** -0.5), weight.shape[2] ** -0.5)
        self.down.data = laid(self.down.data)

    def _apply(self, move, recurse=True):
        """``model.to(...)``: ``down`` lies as its new dtype wants it."""
        super()._apply(move, recurse)
        self.down.data = laid(self.down.data)
        return self

    @property
    def stacks(self) -> Stacks:
        """The weights as the dispatches take them."""
        return Stacks(self.gate_up, self.down, self.limit)

    @property
    def gate(self) -> Float[Tensor, "E F D"]:
        """A view of the first half of each expert's rows of ``gate_up``."""
        return self.stacks.gate

    @property
    def up(self) -> Float[Tensor, "E F D"]:
        """A view of the second half."""
        return self.stacks.up

    def forward(
        self, x: Float[Tensor, "*rest D"], indices: Int[Tensor, "*rest A"], weights: Float[Tensor, "*rest A"]
    ) -> Float[Tensor, "*rest D"]:
        """The weighted sum of what the chosen experts make of each token. Raises ValueError for an expert that is not
        there."""
        given = (part.flatten(0, -2) for part in (x, indices, weights))
        return self.functions["dispatched"](*given, self.stacks).view(x.shape)
