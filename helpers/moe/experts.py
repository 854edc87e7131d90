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


def lying_along_width(down: Float[Tensor, "E D F"]) -> Float[Tensor, "E D F"]:
    """The same matrices, in memory as E x F x D: all rows of an expert are then D numbers long, as its gate's are.

    An expert is narrow, F < D, and a vector that meets many short rows waits at the end of each one. Nothing but time
    changes: one token through `course measure moe`'s experts takes up to a fifth less.
    """
    return down.mT.contiguous().mT


class Experts(Layer):
    """The weights of all experts of one layer, stacked.

    Source: DeepSeek-AI, "DeepSeekMoE", 2024, equation 3. Built in lesson `experts`.
    """

    functions = declared(dispatched=dispatched)

    def __init__(self, num_experts: int, width: int, hidden: int, limit: float | None = None):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(num_experts, hidden, width))  # E F D
        self.up = nn.Parameter(torch.empty(num_experts, hidden, width))  # E F D
        self.down = nn.Parameter(torch.empty(num_experts, width, hidden))  # E D F
        self.limit = limit
        for weight in self.parameters():  # as nn.Linear begins
            nn.init.uniform_(weight, -(weight.shape[2] ** -0.5), weight.shape[2] ** -0.5)
        self.down.data = lying_along_width(self.down.data)

    @property
    def stacks(self) -> Stacks:
        """The weights as the dispatches take them."""
        return Stacks(self.gate, self.up, self.down, self.limit)

    def forward(
        self, x: Float[Tensor, "*rest D"], indices: Int[Tensor, "*rest A"], weights: Float[Tensor, "*rest A"]
    ) -> Float[Tensor, "*rest D"]:
        """The weighted sum of what the chosen experts make of each token."""
        given = (part.flatten(0, -2) for part in (x, indices, weights))
        return self.functions["dispatched"](*given, self.stacks).view(x.shape)
