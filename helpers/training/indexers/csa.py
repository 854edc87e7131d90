"""How DeepSeek-V4's indexers learn which entries to read: the stages of ``helpers/training/indexers/dsa.py``, over
entries.

An entry stands for several tokens, and the window is always read beside the entries; an indexer imitates how much
attention each entry gets of the whole. Source: DeepSeek-AI, "DeepSeek-V4", 2026, section 2.3. Built in lesson
`what_came_next`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from helpers.data.tasks import Rows as Examples
from helpers.layers.compressed import CompressedAttention
from helpers.layers.compressor import complete
from helpers.layers.dsa import scores
from helpers.layers.ragged import Rows
from helpers.layers.rope import angles
from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.precision import at_least_float32
from helpers.shapes import Bool, Float, Tensor
from helpers.training.indexers.dsa import choosing, imitation, scores_kept, watch_inputs
from helpers.training.losses import answers_of

Read = tuple[CompressedAttention, Tensor, Rows, Tensor]  # a layer with an indexer, its x, rows and radians


@contextmanager
def reading_all_entries(model: DeepSeekV4) -> Iterator[None]:
    """Within the block every query reads every complete entry, as if its indexer had room for all."""
    indexers = [layer.indexer for layer in choosing(model)]
    before = [indexer.k for indexer in indexers]
    for indexer in indexers:
        indexer.k = model.config.context
    try:
        yield
    finally:
        for indexer, k in zip(indexers, before, strict=True):
            indexer.k = k


def entry_shares(read: Read) -> Float[Tensor, "B T N"]:
    """How much attention each entry gets beside the window and the sink, the mean over heads, if all are read."""
    layer, x, rows, radians = read
    latent = layer.query_norm(layer.query_down(x))
    query, key = layer.queries_and_keys(x, latent, *angles(rows.positions, radians, x.dtype))
    entries = layer.compressor(x, rows, radians)
    scores = torch.einsum("bthk,bsk->bths", query, torch.cat([key, entries], dim=1)) * query.shape[-1] ** -0.5
    seen = torch.cat([_near(layer, rows), complete(rows.positions, layer.compressor.ratio, entries.shape[1])], dim=-1)
    scores = scores.masked_fill(~seen[:, :, None], float("-inf"))
    sink = layer.sinks[:, None].expand(*scores.shape[:3], 1)
    attention_weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1, dtype=at_least_float32(scores.dtype))
    return attention_weights[..., key.shape[1] : -1].mean(dim=2)


def _near(layer: CompressedAttention, rows: Rows) -> Bool[Tensor, "B T S"]:
    """True for the tokens of each query's window, its own the last of them."""
    back = rows.positions[:, :, None] - rows.positions[:, None, :]
    return (back >= 0) & (back < layer.sizes.window)


def index_scores(read: Read) -> Float[Tensor, "B T N"]:
    """The indexer's score of every entry; the gradient reaches the indexer's weights only."""
    layer, x, rows, radians = read
    latent = layer.query_norm(layer.query_down(x)).detach()
    keys = layer.indexer.compressor(x, rows, radians)
    return scores(layer.indexer.queries(latent, rows, radians), keys, layer.indexer.weights(x))


def imitation_of(read: Read, chosen_only: bool) -> Float[Tensor, ""]:
    """How far a layer's indexer is from its attention over all complete entries, or over those that it chooses.

    Queries that see no entry yet have nothing to imitate, and count as zero.
    """
    layer, _, rows, _ = read
    with torch.no_grad():
        target = entry_shares(read)
    wanted, allowed = index_scores(read), complete(rows.positions, layer.compressor.ratio, target.shape[-1])
    if chosen_only:
        allowed = allowed & scores_kept(wanted.detach().masked_fill(~allowed, float("-inf")), layer.indexer.k)
    some = allowed.any(dim=-1)
    return imitation(wanted[some][None], target[some][None], allowed[some][None])


def all_entries_loss(model: DeepSeekV4, rows: Examples) -> Float[Tensor, ""]:
    """Stage 1: the model's own loss, every entry read."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    with reading_all_entries(model):
        return answers_of(model(ids[:, :-1]), rows)


def entry_warm_up_loss(model: DeepSeekV4, rows: Examples) -> Float[Tensor, ""]:
    """Stage 2: the indexers' mean distance from the attention over all entries."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    with watch_inputs(model) as reads, torch.no_grad(), reading_all_entries(model):
        model(ids[:, :-1])
    return torch.stack([imitation_of(read, chosen_only=False) for read in reads]).mean()


def chosen_entries_loss(model: DeepSeekV4, rows: Examples) -> Float[Tensor, ""]:
    """Stage 3: the model's loss while it reads what is chosen, and the indexers' distance over that."""
    ids = rows.token_ids.to(next(model.parameters()).device)
    with watch_inputs(model) as reads:
        logits = model(ids[:, :-1])
    return answers_of(logits, rows) + torch.stack([imitation_of(read, chosen_only=True) for read in reads]).mean()
