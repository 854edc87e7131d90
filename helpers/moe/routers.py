"""Router layers: one matrix gives each token a logit for each expert, and a function of ``helpers.moe.router`` chooses.

All are called alike, with the hidden states and the token ids, and all return the chosen experts and their weights.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from helpers.moe.router import Routing, check_groups, hash_route, sigmoid_top_k, softmax_top_k, sqrt_softplus_top_k
from helpers.precision import at_least_float32
from helpers.shapes import Float, Int, Tensor


class WideLinear(nn.Linear):
    """``nn.Linear`` in the dtype of its input: float32 tokens are multiplied in float32 in a bfloat16 model too."""

    def forward(self, x: Float[Tensor, "*rest D"]) -> Float[Tensor, "*rest E"]:
        return functional.linear(x, self.weight.to(x.dtype))


class SoftmaxRouter(nn.Module):
    """Qwen3.5's router: the k most probable experts. Built in lesson `experts`."""

    def __init__(self, width: int, num_experts: int, k: int):
        super().__init__()
        self.logits = nn.Linear(width, num_experts, bias=False)
        self.k = k

    def forward(self, x: Float[Tensor, "*rest D"], token_ids: Int[Tensor, "*rest"] | None = None) -> Routing:
        return softmax_top_k(self.logits(x), self.k)


@dataclass(frozen=True)
class RouterConfig:
    """How a sigmoid router chooses: ``sigmoid_top_k``'s settings."""

    k: int  # experts per token
    num_groups: int = 1
    groups_per_token: int = 1
    scale: float = 1.0
    normalised: bool = True

    def route(self, logits: Float[Tensor, "*rest E"], bias: Float[Tensor, " E"]) -> Routing:
        """The experts of each token and their weights."""
        return sigmoid_top_k(logits, bias, self.k, self.num_groups, self.groups_per_token, self.scale, self.normalised)


class SigmoidRouter(nn.Module):
    """DeepSeek-V3's router, also V3.2's, GLM-5's and Kimi K2's: a sigmoid for each expert, and groups of experts.

    ``bias`` balances the load, and no gradient trains it. Raises ValueError for groups that are uneven or too few.
    Built in lesson `experts`.
    """

    def __init__(self, width: int, num_experts: int, config: RouterConfig):
        super().__init__()
        check_groups(config.k, num_experts, config.num_groups, config.groups_per_token)
        self.logits = WideLinear(width, num_experts, bias=False)
        self.register_buffer("bias", torch.zeros(num_experts))
        self.config = config

    def forward(self, x: Float[Tensor, "*rest D"], token_ids: Int[Tensor, "*rest"] | None = None) -> Routing:
        logits = self.logits(x.to(at_least_float32(x.dtype)))  # in bfloat16 close scores would tie
        return self.config.route(logits, self.bias)


class SqrtSoftplusRouter(nn.Module):
    """DeepSeek-V4's router. ``bias`` balances the load, and no gradient trains it. Built in lesson `experts`."""

    def __init__(self, width: int, num_experts: int, k: int, scale: float):
        super().__init__()
        self.logits = nn.Linear(width, num_experts, bias=False)
        self.register_buffer("bias", torch.zeros(num_experts))
        self.k, self.scale = k, scale

    def forward(self, x: Float[Tensor, "*rest D"], token_ids: Int[Tensor, "*rest"] | None = None) -> Routing:
        return sqrt_softplus_top_k(self.logits(x), self.bias, self.k, self.scale)


class HashRouter(nn.Module):
    """The router of DeepSeek-V4's first layers: a table says which experts a token id goes to, logits only weigh them.

    Until a checkpoint says otherwise, token ids take their turns. Built in lesson `experts`.
    """

    def __init__(self, width: int, num_experts: int, k: int, scale: float, vocab_size: int):
        super().__init__()
        self.logits = nn.Linear(width, num_experts, bias=False)
        self.register_buffer("table", torch.arange(vocab_size * k).view(vocab_size, k) % num_experts)
        self.scale = scale

    def forward(self, x: Float[Tensor, "*rest D"], token_ids: Int[Tensor, "*rest"]) -> Routing:
        return hash_route(self.logits(x), token_ids, self.table, self.scale)
