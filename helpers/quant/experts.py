"""Experts and routers whose weights are packed: what a quantiser that looks for ``nn.Linear`` leaves as it was."""

import torch
from torch import nn

from helpers.functions import Layer
from helpers.layers.mlp import swiglu
from helpers.moe.dispatch import check_experts, sort_pairs
from helpers.moe.experts import Experts
from helpers.moe.moe_layer import Router
from helpers.moe.router import Routing
from helpers.precision import at_least_float32
from helpers.quant.backends import Ways
from helpers.quant.cpu import CPU
from helpers.quant.linear import Pack, packing
from helpers.shapes import Float, Int, Tensor


class QuantisedExperts(Layer):
    """The packed weights of all experts of one layer, each matrix with scales of its own.

    Built in lesson `quantise_moe`.
    """

    asks_the_text = True  # which matrices are unpacked follows from the tokens: a compiled step cannot know

    def __init__(self, experts: Experts, pack: Pack):
        super().__init__()
        self.gate, self.up = pack("gate", experts.gate), pack("up", experts.up)
        self.down, self.limit = pack("down", experts.down), experts.limit

    @classmethod
    def of(cls, experts: Experts, name: str, ways: Ways = CPU, wrap: bool = False) -> "QuantisedExperts":
        """``experts`` in the format ``name``. ValueError as in ``encode``."""
        return cls(experts, packing(name, ways, wrap))

    def forward(
        self, x: Float[Tensor, "*rest D"], indices: Int[Tensor, "*rest A"], weights: Float[Tensor, "*rest A"]
    ) -> Float[Tensor, "*rest D"]:
        """The weighted sum of what the chosen experts make of each token: one token by views, several by slices.

        Raises ValueError for an expert that is not there.
        """
        rows, chosen, weights = (part.flatten(0, -2) for part in (x, indices, weights))
        way = self._one if len(rows) == 1 else self._several
        return way(rows, chosen, weights).view(x.shape)

    def _one(
        self, x: Float[Tensor, "1 D"], chosen: Int[Tensor, "1 A"], weights: Float[Tensor, "1 A"]
    ) -> Float[Tensor, "1 D"]:
        check_experts(chosen, self.gate.count)
        made = [self._expert(e, x, weights[:, [place]]) for place, e in enumerate(chosen[0].tolist())]
        return torch.cat(made).sum(dim=0, keepdim=True)

    def _several(
        self, x: Float[Tensor, "tokens D"], chosen: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"]
    ) -> Float[Tensor, "tokens D"]:
        order, counts = sort_pairs(chosen, self.gate.count)
        rows, shares = x[order // chosen.shape[1]], weights.flatten()[order, None]  # pair p belongs to token p // A
        blocks = zip(rows.split(counts.tolist()), shares.split(counts.tolist()), strict=True)
        made = torch.cat([self._expert(e, *block) for e, block in enumerate(blocks) if len(block[0])])
        back = torch.empty_like(made).index_copy(0, order, made)
        return back.view(*chosen.shape, -1).sum(dim=1)  # over A

    def _expert(self, e: int, x: Float[Tensor, "rows D"], share: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows D"]:
        hidden = swiglu(self.gate.multiply(x, e), self.up.multiply(x, e), self.limit)
        return self.down.multiply((hidden * share).to(x.dtype), e)


class QuantisedRouter(nn.Module):
    """A router of the DeepSeek-V3 kind whose weight is packed. Its scores stay float32 at least.

    Built in lesson `quantise_moe`.
    """

    def __init__(self, router: Router, pack: Pack):
        super().__init__()
        self.packed = pack("packed", router.weight.to(at_least_float32(router.weight.dtype)))
        self.choice = router.choice
        self.register_buffer("bias", router.bias)

    @classmethod
    def of(cls, router: Router, name: str, ways: Ways = CPU, wrap: bool = False) -> "QuantisedRouter":
        """``router`` in the format ``name``. ValueError as in ``encode``."""
        return cls(router, packing(name, ways, wrap))

    def forward(self, x: Float[Tensor, "*rest D"]) -> Routing:
        logits = self.packed.multiply(x.reshape(-1, x.shape[-1]).to(at_least_float32(x.dtype)))
        return self.choice.among(logits.view(*x.shape[:-1], -1), self.bias)
