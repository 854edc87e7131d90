"""Indexers beside a Qwen3 that was trained without them: the published way from dense to sparse, on a model of today.

DeepSeek-V3.2 began as a dense model too. Its indexers read the compressed queries of latent attention; Qwen3 has none,
so here an indexer reads the same normed stream for its queries as for its key. Everything else is the original: many
heads, one key, a relu, and training by imitation while the model is frozen.
Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, section 2.1. Built in lesson `dsa`.
"""

import torch
from torch import nn
from torch.nn import functional

from helpers.layers.attention import causal_mask
from helpers.layers.dsa import Indexer, scores, select_tokens
from helpers.layers.rope import rotate
from helpers.models.qwen3 import Qwen3
from helpers.shapes import Float, Int, Tensor
from helpers.training.indexers.budgets import Rule, Seen, dense_reads, largest_shares, reading, watching
from helpers.training.indexers.dsa import imitation


class Indexers(nn.Module):
    """One indexer for each block of ``model``: as wide a key as the model's heads have, turned as they are.

    Raises ValueError for a model of another family.
    """

    def __init__(self, model: nn.Module, num_heads: int, k: int):
        if not isinstance(model, Qwen3):
            raise ValueError(f"these indexers stand beside a Qwen3, and this model is a {type(model).__name__}")
        super().__init__()
        c = model.config
        sizes = (c.width, c.width, num_heads, c.head_dim, c.head_dim, k)
        self.each = nn.ModuleList(Indexer(*sizes, rotate) for _ in range(c.num_blocks))
        self.k = k

    def scores(self, seen: Seen) -> Float[Tensor, "B T S"]:
        """The rule that these indexers are: ``reading(model, indexers.scores, k)``."""
        return scores(*self.each[seen.block].project(seen.x, seen.x, seen.rotary))


def warm_up_loss(model: Qwen3, indexers: Indexers, token_ids: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
    """The indexers' mean distance from dense attention, in nats per query. Only the indexers get a gradient."""
    return _imitation(indexers, dense_reads(model, token_ids), chosen_only=False)


def sparse_loss(model: Qwen3, indexers: Indexers, ids: Int[Tensor, "B T_and_1"]) -> Float[Tensor, ""]:
    """Nats of the next token while every layer reads the chosen k only, and the indexers' distance over the chosen.

    The model gets the first one's gradient, the indexers the second one's.
    """
    with watching(model) as seen, reading(model, detached(indexers.scores), indexers.k):
        logits = model(ids[:, :-1])
    language = functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
    return language + _imitation(indexers, seen, chosen_only=True)


def detached(rule: Rule) -> Rule:
    """The same scores, without a way back for the gradient: a choice has none."""

    def rule_without_gradient(seen: Seen) -> Float[Tensor, "B T S"]:
        with torch.no_grad():
            return rule(seen)

    return rule_without_gradient


def _imitation(indexers: Indexers, reads: list[Seen], chosen_only: bool) -> Float[Tensor, ""]:
    return torch.stack([_distance(indexers, seen, chosen_only) for seen in reads]).mean()


def _distance(indexers: Indexers, seen: Seen, chosen_only: bool) -> Float[Tensor, ""]:
    with torch.no_grad():
        target = largest_shares(seen)
    wanted, allowed = indexers.scores(seen), seen.rows.mask(causal_mask, seen.x.shape[1])
    if chosen_only:
        best = wanted.detach().masked_fill(~allowed, float("-inf"))
        cut = best.gather(2, select_tokens(best, indexers.k).clamp_min(0)).amin(dim=-1, keepdim=True)
        allowed = allowed & (best >= cut)
    return imitation(wanted, target, allowed)
