"""Balance: how the load of the experts is kept even while a mixture is trained.

A router that is left alone sends more and more tokens to the few experts that learned first. DeepSeek-V3's family adds
a bias to the choice and moves it after every step, towards the experts that got too little; no gradient is involved.
Routers without a bias (Qwen's) take an extra loss instead. Source: Wang et al., "Auxiliary-Loss-Free Load Balancing
Strategy for MoE", 2024; Fedus et al., "Switch Transformers", 2021, equation 4, for the loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from helpers.hooks import hooked
from helpers.moe.experts import Experts, mixtures
from helpers.moe.router import rebalanced, tokens_per_expert
from helpers.shapes import Float, Int, Tensor


@contextmanager
def watch_loads(model: nn.Module) -> Iterator[dict[str, Int[Tensor, " E"]]]:
    """Within the block: for each mixture, by its name, how many tokens each expert got in all calls so far.

    Built in lesson `experts`.
    """
    loads: dict[str, Tensor] = {}
    with hooked(experts.register_forward_pre_hook(_counter(loads, name)) for name, experts in mixtures(model)):
        yield loads


def _counter(loads: dict[str, Tensor], name: str):
    def count(experts: Experts, given: tuple) -> None:
        new = tokens_per_expert(given[1].detach(), experts.stacks.num_experts)
        loads[name] = loads[name] + new if name in loads else new

    return count


@contextmanager
def watch_routers(model: nn.Module) -> Iterator[list[Float[Tensor, "B T E"]]]:
    """Within the block: the logits of each router, in the order in which they were asked."""
    logits: list[Tensor] = []
    matrices = [module for name, module in model.named_modules() if name.endswith(".router.logits")]
    with hooked(matrix.register_forward_hook(lambda _matrix, _given, out: logits.append(out)) for matrix in matrices):
        yield logits


def rebalance(model: nn.Module, loads: dict[str, Int[Tensor, " E"]], step: float) -> None:
    """Move the bias of every router that has one by ``step``, by the loads that were watched.

    Built in lesson `experts`.
    """
    for name, counts in loads.items():
        bias = getattr(model.get_submodule(name).router, "bias", None)
        if bias is not None:  # Qwen's routers and DeepSeek-V4's tables have none
            bias.copy_(rebalanced(bias, counts, step))


def evenness(counts: Int[Tensor, " E"]) -> float:
    """Entropy of the load over its largest possible value: 1 where all experts get as much, 0 where one gets all."""
    shares = counts.double() / counts.sum()
    return float(-(shares * shares.clamp_min(1e-300).log()).sum() / torch.tensor(float(len(counts))).log())


def balance_loss(probabilities: Float[Tensor, "tokens E"], indices: Int[Tensor, "tokens A"]) -> Float[Tensor, ""]:
    """Switch Transformers' loss: 1 for an even load, up to E / A for the most uneven.

    The share of the tokens that an expert gets (no gradient) times the probability that the router gives it, summed
    over experts, times E / A. Built in lesson `experts`.
    """
    num_experts = probabilities.shape[-1]
    share = tokens_per_expert(indices, num_experts) / indices.numel()
    return num_experts * (share * probabilities.mean(dim=0)).sum()
