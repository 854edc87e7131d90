"""The three stages of an indexer: who is trained by what, and that imitation brings the choice to what is read."""

from dataclasses import replace

import pytest
import torch

from helpers.data.tasks import Rows
from helpers.models.glm5 import GLM5
from helpers.training.indexers.budgets import dense_reads, largest_shares, mass_kept, own_indexer
from helpers.training.indexers.dsa import (
    attending_densely,
    dense_logits,
    dense_loss,
    imitation,
    is_indexer,
    sparse_loss,
    warm_up_loss,
)
from helpers.training.train import initialise, train_only
from helpers.zoo.recipes.tasks import GLM5_SIZES as SIZES

IDS = torch.randint(31, (2, 40), generator=torch.Generator().manual_seed(0))
ROWS = Rows(IDS, torch.ones_like(IDS).bool(), torch.ones_like(IDS).bool())


def fresh(**sizes) -> GLM5:
    torch.manual_seed(0)
    model = GLM5(replace(SIZES, vocab_size=31, width=32, index_k=6, **sizes))
    initialise(model, 0, std=0.3)
    return model


def gradients(model: GLM5, loss) -> set[str]:
    model.zero_grad()
    loss.backward()
    return {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}


def test_dense_is_sparse_with_room_for_all_and_differs_where_there_is_less():
    wide = GLM5(replace(fresh().config, index_k=40)).double()
    wide.load_state_dict(fresh().state_dict())
    dense = dense_logits(fresh().double(), IDS)
    assert torch.allclose(dense, wide(IDS), atol=1e-10)
    assert not torch.allclose(dense, fresh().double()(IDS), atol=1e-2)


def test_the_layers_are_themselves_again_after_a_dense_reading():
    model = fresh()
    before = model(IDS)
    with pytest.raises(RuntimeError), attending_densely(model):
        raise RuntimeError
    assert torch.equal(model(IDS), before)


def test_the_dense_stage_trains_all_but_the_indexers():
    moved = gradients(model := fresh(), dense_loss(model, ROWS))
    assert not any(is_indexer(name) for name in moved)
    assert {name for name, _ in model.named_parameters() if not is_indexer(name)} - moved == set()


def test_the_warm_up_trains_the_indexers_only():
    model = fresh()
    train_only(model, is_indexer)
    moved = gradients(model, warm_up_loss(model, ROWS))
    assert moved
    assert all(is_indexer(name) for name in moved)


def test_in_the_sparse_stage_neither_loss_reaches_the_others_weights():
    model = fresh()
    gradients(model, sparse_loss(model, ROWS))
    both = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    train_only(model, lambda name: not is_indexer(name))
    logits = model(IDS[:, :-1])
    language = torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten())
    gradients(model, language)
    for name, weight in model.named_parameters():
        if not is_indexer(name):
            assert torch.allclose(weight.grad, both[name], atol=1e-6), name
    assert any(is_indexer(name) and grad.any() for name, grad in both.items())


def test_imitation_is_zero_for_the_same_distribution_and_the_divergence_otherwise():
    target = torch.tensor([[[0.5, 0.3, 0.2, 0.0]]])
    allowed = torch.tensor([[[True, True, True, False]]])
    assert imitation(target.log().clamp_min(-50), target, allowed).item() == pytest.approx(0, abs=1e-6)
    even = imitation(torch.zeros(1, 1, 4), target, allowed).item()
    expected = sum(p * torch.log(torch.tensor(3 * p)).item() for p in (0.5, 0.3, 0.2))
    assert even == pytest.approx(expected, rel=1e-5)


def test_what_the_future_scores_does_not_matter():
    wanted, target = torch.zeros(1, 1, 3), torch.tensor([[[0.6, 0.4, 0.0]]])
    allowed = torch.tensor([[[True, True, False]]])
    loud = wanted.clone()
    loud[..., 2] = 1e4
    assert imitation(wanted, target, allowed) == imitation(loud, target, allowed)


def test_warming_up_brings_the_choice_to_what_dense_attention_reads():
    model = fresh()
    train_only(model, is_indexer)

    def kept() -> float:
        reads = dense_reads(model, IDS)
        return sum(mass_kept(seen, own_indexer, 6) for seen in reads) / len(reads)

    before = kept()
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    for _ in range(40):
        warm_up_loss(model, ROWS).backward()
        optimizer.step()
        optimizer.zero_grad()
    best = sum(mass_kept(seen, largest_shares, 6) for seen in dense_reads(model, IDS)) / 3
    assert before + 0.5 * (best - before) < kept() <= best + 1e-6
