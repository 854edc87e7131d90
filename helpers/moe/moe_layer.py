"""A whole mixture-of-experts layer of the DeepSeek-V3 kind: router, routed experts, and one expert for every token."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from helpers.layers.mlp import SwiGLU
from helpers.moe.experts import Experts
from helpers.moe.router import Routing, check_groups, sigmoid_top_k
from helpers.precision import at_least_float32
from helpers.shapes import Float, Tensor


@dataclass(frozen=True)
class RouterConfig:
    """How a router chooses: ``sigmoid_top_k``'s settings."""

    k: int  # experts per token
    num_groups: int = 1
    kept_groups: int = 1
    scale: float = 1.0
    normalised: bool = True

    def among(self, logits: Float[Tensor, "*rest E"], bias: Float[Tensor, "E"]) -> Routing:
        """The experts of each token and their weights."""
        return sigmoid_top_k(logits, bias, self.k, self.num_groups, self.kept_groups, self.scale, self.normalised)


class Router(nn.Module):
    """The weight of the router, and the bias that balances the load, which no gradient trains.

    Built in lesson `experts`.
    """

    def __init__(self, width: int, num_experts: int, choice: RouterConfig):
        super().__init__()
        check_groups(choice.k, num_experts, choice.num_groups, choice.kept_groups)
        self.weight = nn.Parameter(torch.empty(num_experts, width))
        self.register_buffer("bias", torch.zeros(num_experts))
        self.choice = choice
        nn.init.uniform_(self.weight, -(width**-0.5), width**-0.5)

    def forward(self, x: Float[Tensor, "*rest D"]) -> Routing:
        dtype = at_least_float32(x.dtype)
        logits = functional.linear(x.to(dtype), self.weight.to(dtype))  # in bfloat16 close scores would tie
        return self.choice.among(logits, self.bias)


class MoE(nn.Module):
    """Each token goes to its few routed experts and to the shared one, if there is one, and their answers are added.

    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, equation 12. Built in lesson `experts`.
    """

    def __init__(self, width: int, hidden: int, num_experts: int, num_shared: int, choice: RouterConfig):
        super().__init__()
        self.router = Router(width, num_experts, choice)
        self.experts = Experts(num_experts, width, hidden)
        # Several shared experts are one wider one.
        self.shared = SwiGLU(width, hidden * num_shared) if num_shared else None

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        routed = self.experts(x, *self.router(x))
        return routed + self.shared(x) if self.shared else routed
