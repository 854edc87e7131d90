"""Indexers over entries: what is imitated is the attention that the layer pays, and each stage trains what it says."""

from dataclasses import replace

import pytest
import torch

from helpers.data.tasks import Rows
from helpers.layers import compressed
from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.training.indexers.csa import (
    all_entries_loss,
    chosen_entries_loss,
    entry_shares,
    entry_warm_up_loss,
    reading_all_entries,
)
from helpers.training.indexers.dsa import choosing, is_indexer, watch_inputs
from helpers.training.train import initialise, train_only
from helpers.zoo.recipes.tasks import TINY_DEEPSEEK_V4, not_an_indexer

IDS = torch.randint(31, (2, 80), generator=torch.Generator().manual_seed(0))
ROWS = Rows(IDS, torch.ones_like(IDS).bool(), torch.ones_like(IDS).bool())


def fresh(**sizes) -> DeepSeekV4:
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "width": 32, "window": 8, "index_k": 3, **sizes}
    model = DeepSeekV4(replace(TINY_DEEPSEEK_V4.config, **sizes))
    initialise(model, 0, std=0.3)
    return model


def moved(model: DeepSeekV4, loss) -> set[str]:
    loss.backward()
    return {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}


def test_reading_all_entries_is_room_for_all_and_another_answer_than_a_few():
    model, roomy = fresh(), fresh(index_k=20)
    few = model(IDS)
    with reading_all_entries(model):
        every = model(IDS)
    assert torch.allclose(every, roomy(IDS), atol=1e-5)
    assert not torch.allclose(every, few, atol=1e-2)
    assert torch.equal(model(IDS), few)


def test_the_shares_to_imitate_are_those_that_the_layer_pays(monkeypatch):
    model, paid = fresh(), []
    kept = compressed.attend_with_sinks

    def weights(query, shared, seen, own, own_seen, sinks):
        scaled = query * query.shape[-1] ** -0.5
        alike = torch.cat([torch.einsum("bthk,bsk->bths", scaled, shared), scaled @ own.mT], dim=-1)
        alike = alike.masked_fill(~torch.cat([seen, own_seen], dim=-1)[:, :, None], float("-inf"))
        alike = torch.cat([alike, sinks[:, None].expand(*alike.shape[:3], 1)], dim=-1)
        paid.append(alike.softmax(dim=-1)[..., shared.shape[1] : -1].mean(dim=2))
        return kept(query, shared, seen, own, own_seen, sinks)

    monkeypatch.setattr(compressed, "attend_with_sinks", weights)
    with torch.no_grad(), reading_all_entries(model), watch_inputs(model) as reads:
        model(IDS)
    (layer,) = choosing(model)
    assert [read[0] for read in reads] == [layer]
    found = torch.cat([part for part in paid if part.shape[-1]], dim=1)  # the one layer that reads entries of its own
    assert torch.allclose(entry_shares(reads[0]), found, atol=1e-5)


@pytest.mark.parametrize("stage", [all_entries_loss, entry_warm_up_loss, chosen_entries_loss])
def test_each_stage_trains_what_it_says(stage):
    model = fresh()
    train_only(model, {all_entries_loss: not_an_indexer, entry_warm_up_loss: is_indexer}.get(stage, lambda _name: True))
    names = moved(model, stage(model, ROWS))
    indexers = {name for name in names if is_indexer(name)}
    assert bool(indexers) == (stage is not all_entries_loss)
    assert bool(names - indexers) == (stage is not entry_warm_up_loss)


def test_the_imitation_does_not_move_what_is_imitated():
    model = fresh()
    moved(model, chosen_entries_loss(model, ROWS))
    both = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    logits = model(IDS[:, :-1]).flatten(0, 1)
    targets = IDS[:, 1:].flatten()
    moved(model, torch.nn.functional.cross_entropy(logits, targets))
    for name, weight in model.named_parameters():
        if not is_indexer(name):
            assert torch.allclose(weight.grad, both[name], atol=1e-6), name


def test_warming_up_lowers_the_distance():
    model = fresh()
    train_only(model, is_indexer)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(40):
        loss = entry_warm_up_loss(model, ROWS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
