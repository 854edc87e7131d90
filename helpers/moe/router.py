"""Routers: from one score per expert to the few experts that a token goes to, and how much each of them counts.

The families differ in three things: how a logit becomes a score (softmax, sigmoid, square root of softplus), whether a
bias that balances the load takes part in the choice, and whether groups of experts are chosen first. Each router is one
function from logits to ``(indices, weights)``. Scores are float32 at least, since the cut between the last expert
chosen and the next is narrow; between equal scores the lower index wins, which ``torch.topk`` does not promise.
"""

import torch
from torch.nn import functional

from helpers.precision import at_least_float32
from helpers.shapes import Float, Int, Tensor

Routing = tuple[Int[Tensor, "*rest A"], Float[Tensor, "*rest A"]]

NEVER_ZERO = 1e-20  # added to a sum of scores before it divides, as the published models do


def softmax_top_k(logits: Float[Tensor, "*rest E"], k: int) -> Routing:
    """The k most probable experts; their probabilities, made to sum to one again.

    Raises ValueError where there are fewer than k experts.
    Source: Qwen team, "Qwen3 Technical Report", 2025; transformers' ``Qwen3_5MoeTopKRouter``. Built in lesson
    `experts`.
    """
    probabilities = _wide(logits).softmax(dim=-1)
    indices = highest(probabilities, k)
    chosen = probabilities.gather(-1, indices)
    return indices, chosen / chosen.sum(dim=-1, keepdim=True)


def sigmoid_top_k(
    logits: Float[Tensor, "*rest E"],
    bias: Float[Tensor, " E"],
    k: int,
    num_groups: int = 1,
    groups_per_token: int = 1,
    scale: float = 1.0,
    normalised: bool = True,
) -> Routing:
    """DeepSeek-V3's router: each expert's score is its own sigmoid, and experts do not compete until the choice.

    ``bias`` balances the load: it takes part in the choice and not in the weights. With groups, a group counts what its
    two best experts have, only ``groups_per_token`` groups stay, and the k experts come from those (so that a token is
    sent to few machines). Raises ValueError where groups are uneven or too few.
    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 2.1.2. Built in lesson `experts`.
    """
    check_groups(k, logits.shape[-1], num_groups, groups_per_token)
    scores = _wide(logits).sigmoid()
    choice = _only_best_groups(scores + bias, num_groups, groups_per_token)
    return _weighed(scores, highest(choice, k), scale, normalised)


def sqrt_softplus_top_k(logits: Float[Tensor, "*rest E"], bias: Float[Tensor, " E"], k: int, scale: float) -> Routing:
    """DeepSeek-V4's router: like V3's without groups, with ``sqrt(softplus(logit))`` as the score.

    A sigmoid's slope dies where the score is near one; this score grows on. ``bias`` takes part in the choice only.
    Source: DeepSeek-AI, "DeepSeek-V4", 2026, section 2.1; transformers' ``DeepseekV4TopKRouter``. Built in lesson
    `experts`.
    """
    scores = functional.softplus(_wide(logits)).sqrt()
    return _weighed(scores, highest(scores + bias, k), scale)


def hash_route(
    logits: Float[Tensor, "*rest E"], token_ids: Int[Tensor, "*rest"], table: Int[Tensor, "vocab A"], scale: float
) -> Routing:
    """DeepSeek-V4's first layers: a fixed table says which experts a token id goes to; the logits only weigh them.

    The earliest hidden states are little more than the token itself, so nothing is lost and the load is known.
    Source: DeepSeek-AI, "DeepSeek-V4", 2026, section 2.1; Roller et al., "Hash Layers", 2021. Built in lesson
    `experts`.
    """
    scores = functional.softplus(_wide(logits)).sqrt()
    return _weighed(scores, table[token_ids].long(), scale)  # published tables are int32


def tokens_per_expert(indices: Int[Tensor, "*rest A"], num_experts: int) -> Int[Tensor, " E"]:
    """How many tokens each expert got. Built in lesson `experts`."""
    return indices.flatten().bincount(minlength=num_experts)


def rebalanced(bias: Float[Tensor, " E"], load: Int[Tensor, " E"], step: float) -> Float[Tensor, " E"]:
    """The bias after one training step: up by ``step`` for experts with less than the mean load, down for more.

    The balance costs the language model's loss nothing: no gradient, only this.
    Source: Wang et al., "Auxiliary-Loss-Free Load Balancing Strategy for MoE", 2024, algorithm 1. Built in lesson
    `experts`.
    """
    return bias + step * torch.sign(load.float().mean() - load).to(bias.dtype)


def highest(scores: Float[Tensor, "*rest E"], k: int) -> Int[Tensor, "*rest A"]:
    """The indices of the k highest scores, highest first; of equals the lower index first."""
    if not 1 <= k <= scores.shape[-1]:
        raise ValueError(f"{k} experts per token cannot be chosen out of {scores.shape[-1]}")
    return scores.argsort(dim=-1, descending=True, stable=True)[..., :k]


def check_groups(k: int, num_experts: int, num_groups: int, groups_per_token: int) -> None:
    """ValueError unless groups are even, have two experts or more, and those kept hold the k experts of a token."""
    size = num_experts // num_groups
    if num_groups > 1 and (num_experts % num_groups or size < 2 or not k <= groups_per_token * size <= num_experts):
        raise ValueError(
            f"{k} experts per token cannot come from {groups_per_token} of {num_groups} groups of {num_experts} "
            "experts: groups are even, have two experts or more, and those kept hold enough"
        )


def _only_best_groups(
    choice: Float[Tensor, "*rest E"], num_groups: int, groups_per_token: int
) -> Float[Tensor, "*rest E"]:
    """``choice`` with -inf outside the best groups."""
    if num_groups == 1:
        return choice
    grouped = choice.unflatten(-1, (num_groups, -1))
    kept = highest(grouped.topk(2, dim=-1).values.sum(dim=-1), groups_per_token)
    masked = torch.ones_like(grouped[..., 0], dtype=torch.bool).scatter(-1, kept, False)
    return grouped.masked_fill(masked[..., None], float("-inf")).flatten(-2)


def _weighed(
    scores: Float[Tensor, "*rest E"], indices: Int[Tensor, "*rest A"], scale: float, normalised: bool = True
) -> Routing:
    """The scores of the chosen, without any bias: they sum to ``scale``."""
    chosen = scores.gather(-1, indices)
    if normalised:
        chosen = chosen / (chosen.sum(dim=-1, keepdim=True) + NEVER_ZERO)
    return indices, chosen * scale


def _wide(logits: Tensor) -> Tensor:
    return logits.to(at_least_float32(logits.dtype))
