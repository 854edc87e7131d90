"""Experts whose weights are packed: what a quantiser that looks for ``nn.Linear`` leaves as it was."""

import torch

from helpers.functions import Layer, declared
from helpers.moe.dispatch import dispatched
from helpers.moe.experts import Experts
from helpers.quant.backends import Ways
from helpers.quant.cpu import CPU
from helpers.quant.linear import Pack, packing
from helpers.shapes import Float, Int, Tensor


class QuantisedExperts(Layer):
    """The packed weights of all experts of one layer, each matrix with scales of its own, gate and up too.

    Built in lesson `quantise_moe`.
    """

    functions = declared(dispatched=dispatched)
    asks_the_text = True  # which matrices are unpacked follows from the tokens: a compiled step cannot know

    def __init__(self, experts: Experts, pack: Pack):
        super().__init__()
        self.gate, self.up = pack("gate", experts.gate), pack("up", experts.up)
        self.down, self.limit = pack("down", experts.down), experts.limit

    @classmethod
    def of(cls, experts: Experts, name: str, ways: Ways = CPU, wrap: bool = False) -> "QuantisedExperts":
        """``experts`` in the format ``name``. ValueError as in ``encode``."""
        return cls(experts, packing(name, ways, wrap))

    @property
    def num_experts(self) -> int:
        """How many there are."""
        return self.down.count

    def gate_up_of(self, e: int, rows: Float[Tensor, "rows D"]) -> Float[Tensor, "rows twoF"]:
        """Rows times expert ``e``'s gate, and beside it times its ``up``."""
        return torch.cat([self.gate.multiply(rows, e), self.up.multiply(rows, e)], dim=-1)

    def down_of(self, e: int, hidden: Float[Tensor, "rows F"]) -> Float[Tensor, "rows D"]:
        """Activations times expert ``e``'s ``down``."""
        return self.down.multiply(hidden, e)

    def forward(
        self, x: Float[Tensor, "*rest D"], indices: Int[Tensor, "*rest A"], weights: Float[Tensor, "*rest A"]
    ) -> Float[Tensor, "*rest D"]:
        """The weighted sum of what the chosen experts make of each token. Raises ValueError for an expert that is not
        there."""
        given = (part.flatten(0, -2) for part in (x, indices, weights))
        return self.functions["dispatched"](*given, self).view(x.shape)
