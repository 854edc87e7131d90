"""Rules of who is read, at an equal budget: dense, by an indexer, the newest, at random, the best that there is.

A rule gives every query a score for every key; ``chosen_by`` bars the future and keeps the k highest. So a sliding
window is the rule "the later, the better", and all rules read equally many tokens. ``reading`` lets a model answer
under a rule; ``mass_kept`` says how much of what dense attention takes lies on the tokens that a rule keeps.

Both families of layers are known here: grouped-query attention, which reads the chosen under a mask, so that nothing is
saved and only the answer changes; and DeepSeek sparse attention, whose own indexer the rule replaces.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from helpers.functions import exchanged
from helpers.hooks import hooked
from helpers.layers.attention import Attention, attend, causal_mask
from helpers.layers.dsa import SparseAttention, select_tokens
from helpers.layers.ragged import Rows
from helpers.precision import at_least_float32
from helpers.shapes import Bool, Float, Int, Tensor
from helpers.training.indexers.dsa import attending_densely, attention_shares, index_scores


class Seen(NamedTuple):
    """What the attention of one block is given."""

    block: int
    layer: Attention | SparseAttention
    x: Float[Tensor, "B T D"]
    rows: Rows
    rotary: tuple[Tensor, Tensor]


Rule = Callable[[Seen], Float[Tensor, "B T S"]]


def newest(seen: Seen) -> Float[Tensor, "B T S"]:
    """A sliding window: the score of a key is its position. Built in lesson `dsa`."""
    return _keys(seen).expand(*seen.rows.positions.shape, -1)


def at_random(seed: int) -> Rule:
    """Any visible tokens; each block and each call draws others, the same for the same ``seed``.

    Built in lesson `dsa`.
    """
    generator = torch.Generator().manual_seed(seed)

    def rule(seen: Seen) -> Float[Tensor, "B T S"]:
        drawn = torch.rand(*seen.rows.positions.shape, seen.x.shape[1], generator=generator)
        return drawn.to(seen.x.device)

    return rule


def largest_shares(seen: Seen) -> Float[Tensor, "B T S"]:
    """What dense attention itself takes, the mean of its heads: no rule of k tokens for all heads keeps more of it.

    It needs the dense scores that it is meant to spare, so it is a yardstick. Built in lesson `dsa`.
    """
    return shares_of(seen).mean(dim=2)


def own_indexer(seen: Seen) -> Float[Tensor, "B T S"]:
    """The scores of the layer's own indexer, as ``SparseAttention`` has one. Built in lesson `dsa`."""
    return index_scores(seen.layer.indexer, seen.layer.mla, seen.x, seen.rotary)


def in_blocks(rule: Rule, size: int) -> Rule:
    """Neighbours together: every token gets the highest visible score in its block of ``size`` positions.

    With k a multiple of ``size``, whole blocks are kept: fewer and longer reads, and a coarser choice.
    Built in lesson `dsa`.
    """

    def blocks(seen: Seen) -> Float[Tensor, "B T S"]:
        wanted = rule(seen).masked_fill(~seen.rows.mask(causal_mask, seen.x.shape[1]), float("-inf"))
        best = torch.stack([part.amax(dim=-1) for part in wanted.split(size, dim=-1)], dim=-1)
        return best.repeat_interleave(size, dim=-1)[..., : wanted.shape[-1]]

    return blocks


def chosen_by(rule: Rule, seen: Seen, k: int) -> Int[Tensor, "B T chosen"]:
    """The k tokens of highest score that each query may see, by position; -1 fills the rest. Built in lesson `dsa`."""
    wanted = rule(seen)
    return select_tokens(wanted.masked_fill(~seen.rows.mask(causal_mask, wanted.shape[-1]), float("-inf")), k)


def mask_of(chosen: Int[Tensor, "B T chosen"], length: int) -> Bool[Tensor, "B T S"]:
    """True at the chosen positions of a text of ``length`` tokens. Built in lesson `dsa`."""
    slot = chosen.where(chosen >= 0, length)  # slot ``length`` takes what is no position, and is cut off
    return torch.zeros(*chosen.shape[:2], length + 1, dtype=torch.bool, device=chosen.device).scatter(2, slot, True)[
        ..., :length
    ]


@contextmanager
def reading(model: nn.Module, rule: Rule, k: int) -> Iterator[None]:
    """Within the block ``model`` (Qwen3, or a model with sparse latent attention) reads k tokens by ``rule``.

    A layer that shares an earlier one's choice goes on sharing it. Without a cache. ValueError for k below 1.
    """
    if k < 1:
        raise ValueError(f"every query needs one token to read, and k is {k}")
    layers = [(n, block.attention) for n, block in enumerate(model.blocks)]
    sparse = {part.indexer: _indexing(n, part, rule, k) for n, part in layers if getattr(part, "indexer", None)}
    masked = {part: _masking(n, part, rule, k) for n, part in layers if not isinstance(part, SparseAttention)}
    with exchanged({part: {"forward": forward} for part, forward in (sparse | masked).items()}):
        yield


def _masking(block: int, layer: Attention, rule: Rule, k: int) -> Callable:
    def forward(x, rows, rotary, cache=None):
        chosen = chosen_by(rule, Seen(block, layer, x, rows, rotary), k)
        return layer.output(attend(*layer.project(x, rotary), mask_of(chosen, x.shape[1])).flatten(2))

    return forward


def _indexing(block: int, layer: SparseAttention, rule: Rule, k: int) -> Callable:
    def forward(x, query_latent, rows, rotary, cache=None):
        with torch.no_grad():
            return chosen_by(rule, Seen(block, layer, x, rows, rotary), k)

    return forward


@contextmanager
def watching(model: nn.Module) -> Iterator[list[Seen]]:
    """Within the block: what each layer that chooses was given in the last calls, in order."""
    seen: list[Seen] = []

    def note(block: int):
        def hook(layer, given):
            seen.append(Seen(block, layer, given[0].detach(), *given[1:3]))

        return hook

    layers = [(n, block.attention) for n, block in enumerate(model.blocks)]
    with hooked(layer.register_forward_pre_hook(note(n)) for n, layer in layers if getattr(layer, "indexer", layer)):
        yield seen


@torch.no_grad()
def dense_reads(model: nn.Module, token_ids: Int[Tensor, "B T"]) -> list[Seen]:
    """What each layer that chooses is given while the model attends densely. Built in lesson `dsa`."""
    with watching(model) as seen:
        if any(isinstance(block.attention, SparseAttention) for block in model.blocks):
            with attending_densely(model):
                model(token_ids)
        else:
            model(token_ids)
    return seen


def shares_of(seen: Seen) -> Float[Tensor, "B T H S"]:
    """How much each head of dense attention takes from each token; they sum to one. Built in lesson `dsa`."""
    if isinstance(seen.layer, SparseAttention):
        return attention_shares(seen.layer.mla, seen.x, seen.rows, seen.rotary)
    query, key, _ = seen.layer.project(seen.x, seen.rotary)
    groups = key.shape[2]
    query = (query * query.shape[-1] ** -0.5).unflatten(2, (groups, -1))
    scores = torch.einsum("btgjk,bsgk->btgjs", query, key).flatten(2, 3)
    masked = scores.masked_fill(~seen.rows.mask(causal_mask, key.shape[1])[:, :, None], float("-inf"))
    return masked.softmax(dim=-1, dtype=at_least_float32(scores.dtype))


@torch.no_grad()
def mass_kept(seen: Seen, rule: Rule, k: int) -> float:
    """The share of dense attention, 0 to 1, that lies on the k tokens of ``rule``: recall of attention mass.

    The mean over heads and over the queries that see more than k tokens: the others lose nothing under any rule.
    Raises ValueError where there is no such query. Built in lesson `dsa`.
    """
    bites = seen.rows.positions >= k
    if not bites.any():
        raise ValueError(f"no query sees more than {k} tokens in a text of {seen.x.shape[1]}: every rule keeps all")
    kept = mask_of(chosen_by(rule, seen, k), seen.x.shape[1])
    return (shares_of(seen).mean(dim=2) * kept).sum(dim=-1)[bites].mean().item()


def _keys(seen: Seen) -> Float[Tensor, " S"]:
    return torch.arange(seen.x.shape[1], device=seen.x.device, dtype=torch.float32)
