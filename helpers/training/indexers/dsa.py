"""How an indexer learns to choose: it imitates the attention that it will later replace.

Choosing is not differentiable, so the language model's loss cannot teach an indexer. Its scores are trained to give the
same distribution over earlier tokens as dense attention does, averaged over heads, in three stages:

1. **Dense.** The model is trained with dense attention, and its indexers are not asked.
2. **Warm-up.** Everything but the indexers is frozen; they imitate.
3. **Sparse.** Attention reads the chosen tokens only. The model follows its own loss, the indexers imitate attention
   over what was chosen, and neither's gradient reaches the other.

Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, section 2.1. Built in lesson `dsa`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from helpers.data.tasks import Rows as Examples
from helpers.functions import exchanged
from helpers.hooks import hooked
from helpers.layers.attention import causal_mask
from helpers.layers.dsa import Indexer, SparseAttention, scores
from helpers.layers.mla import MLA, attention_weights
from helpers.layers.ragged import Rows
from helpers.models.glm5 import GLM5
from helpers.shapes import Bool, Float, Int, Tensor
from helpers.training.losses import answers_of

Read = tuple[SparseAttention, Tensor, Rows, tuple[Tensor, Tensor]]  # a layer, its x, rows and rotation


def dense_logits(model: GLM5, token_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T vocab"]:
    """What the model says when every layer reads every earlier token; its indexers are not asked."""
    with attending_densely(model):
        return model(token_ids)


@contextmanager
def attending_densely(model: GLM5) -> Iterator[None]:
    """Within the block the layers of ``model`` attend to all tokens, as if there were no indexer. Without a cache."""
    with exchanged({block.attention: {"forward": _dense(block.attention)} for block in model.blocks}):
        yield


def _dense(layer: SparseAttention):
    def forward(x, rows, rotary, cache=None, chosen=None):
        return layer.mla(x, rows, rotary), rows.positions[..., None][..., :0]  # nothing was chosen

    return forward


def choosing(model: nn.Module) -> list[nn.Module]:
    """The attention layers of ``model`` that have an indexer."""
    return [block.attention for block in model.blocks if block.attention.indexer is not None]


@contextmanager
def watch_inputs(model: nn.Module) -> Iterator[list[tuple]]:
    """Within the block: what each layer with an indexer was given in the calls so far, a ``Read`` each."""
    reads: list[tuple] = []

    def note(layer: nn.Module, given: tuple) -> None:
        reads.append((layer, given[0].detach(), *given[1:3]))

    with hooked(layer.register_forward_pre_hook(note) for layer in choosing(model)):
        yield reads


def attention_shares(
    mla: MLA, x: Float[Tensor, "B T D"], rows: Rows, rotary: tuple[Tensor, Tensor]
) -> Float[Tensor, "B T H S"]:
    """How much each head of dense attention takes from each token."""
    query, q_rope = mla.queries(mla.query_latent(x), rotary)
    latent, k_rope = mla.latents(x, rotary)
    key = torch.einsum("bsc,hkc->bshk", latent, mla.up()[0])
    scores = torch.einsum("bthk,bshk->bths", query, key) + torch.einsum("bthr,bsr->bths", q_rope, k_rope)
    return attention_weights(scores * mla.scale, rows.mask(causal_mask, x.shape[1]))


def index_scores(indexer: Indexer, mla: MLA, x: Float[Tensor, "B T D"], rotary: tuple) -> Float[Tensor, "B T S"]:
    """The indexer's score of every token, the future included; the gradient reaches the indexer's weights only."""
    query, key, weights = indexer.project(x, mla.query_latent(x).detach(), rotary)
    return scores(query, key, weights)


def imitation(
    wanted: Float[Tensor, "B T S"], target: Float[Tensor, "B T S"], allowed: Bool[Tensor, "B T S"]
) -> Float[Tensor, ""]:
    """KL(target || softmax(wanted)) over the allowed tokens, the mean over queries.

    ``target`` are non-negative shares; they are made to sum to one over what is allowed.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, equations 3 and 4.
    """
    target = target * allowed
    target = target / target.sum(dim=-1, keepdim=True).clamp_min(1e-9)
    log_said = wanted.masked_fill(~allowed, float("-inf")).log_softmax(dim=-1).masked_fill(~allowed, 0.0)
    return (torch.special.xlogy(target, target) - target * log_said).sum(dim=-1).mean()


def imitation_of(read: Read, chosen_only: bool) -> Float[Tensor, ""]:
    """How far one layer's indexer is from its attention, over all visible tokens or over those that it chooses."""
    layer, x, rows, rotary = read
    with torch.no_grad():
        target = attention_shares(layer.mla, x, rows, rotary).mean(dim=2)
    wanted, allowed = index_scores(layer.indexer, layer.mla, x, rotary), rows.mask(causal_mask, x.shape[1])
    if chosen_only:
        allowed = allowed & scores_kept(wanted.detach().masked_fill(~allowed, float("-inf")), layer.indexer.k)
    return imitation(wanted, target, allowed)


def scores_kept(wanted: Float[Tensor, "B T S"], k: int) -> Bool[Tensor, "B T S"]:
    """True for the k highest scores of each query, and for what equals the last of them."""
    return wanted >= wanted.topk(min(k, wanted.shape[-1]), dim=-1).values[..., -1:]


def dense_loss(model: GLM5, rows: Examples) -> Float[Tensor, ""]:
    """Stage 1: the model's own loss with dense attention."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    return answers_of(dense_logits(model, ids[:, :-1]), rows)


def warm_up_loss(model: GLM5, rows: Examples) -> Float[Tensor, ""]:
    """Stage 2: the indexers' mean distance from dense attention. Only indexers get a gradient."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    with watch_inputs(model) as reads, torch.no_grad():
        dense_logits(model, ids[:, :-1])
    return torch.stack([imitation_of(read, chosen_only=False) for read in reads]).mean()


def sparse_loss(model: GLM5, rows: Examples) -> Float[Tensor, ""]:
    """Stage 3: the model's loss with sparse attention, and the indexers' distance over what they choose."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    with watch_inputs(model) as reads:
        logits = model(ids[:, :-1])
    return answers_of(logits, rows) + torch.stack([imitation_of(read, chosen_only=True) for read in reads]).mean()


def is_indexer(name: str) -> bool:
    """Whether a weight belongs to an indexer: what the warm-up trains."""
    return ".indexer." in name
