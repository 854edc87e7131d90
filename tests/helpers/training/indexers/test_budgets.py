"""Rules of who is read: each at an equal budget, against dense attention, for both families of layers."""

import pytest
import torch
from torch.nn import functional

from helpers.compare import assert_close, causality_probe, max_error, tolerance
from helpers.layers.ragged import standing_at
from helpers.models.configs import glm5, qwen3
from helpers.models.glm5 import GLM5
from helpers.models.qwen3 import Qwen3
from helpers.training.indexers.budgets import (
    Seen,
    at_random,
    chosen_by,
    dense_reads,
    in_blocks,
    largest_shares,
    mask_of,
    mass_kept,
    newest,
    own_indexer,
    reading,
    shares_of,
    watching,
)
from helpers.training.indexers.dsa import dense_logits, warm_up_loss
from helpers.training.indexers.qwen3 import Indexers, sparse_loss
from helpers.training.indexers.qwen3 import warm_up_loss as warm_up_beside

LENGTH, K = 40, 7
CLOSE = tolerance(torch.float32, 3 * LENGTH * 32)


def tiny(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if family == "qwen3":
        config = qwen3.Config(
            vocab_size=50, width=32, num_blocks=2, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48
        )
        model = Qwen3(config)
    else:
        sizes = dict(width=32, num_blocks=3, num_dense_blocks=3, num_heads=4, query_rank=24, latent_width=16)
        sizes |= dict(nope_dim=8, rotary_dim=8, value_dim=8, index_heads=18, index_dim=16, index_k=K, mlp_width=48)
        sizes |= dict(num_experts=2, experts_per_token=1, expert_width=8, num_shared=1)
        model = GLM5(glm5.Config(vocab_size=50, indexers=(glm5.FULL, glm5.FULL, glm5.SHARED), **sizes))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=float(weight.dim() == 1), std=0.3)
    return model.eval()


def ids(length: int = LENGTH) -> torch.Tensor:
    return torch.randint(50, (2, length), generator=torch.Generator().manual_seed(1))


FAMILIES = pytest.mark.parametrize("family", ["qwen3", "glm5"])


def dense(model: torch.nn.Module, token_ids: torch.Tensor) -> torch.Tensor:
    return dense_logits(model, token_ids) if isinstance(model, GLM5) else model(token_ids)


# --- the choice


@FAMILIES
def test_a_window_is_the_newest_tokens(family):
    seen = dense_reads(tiny(family), ids())[0]
    chosen = chosen_by(newest, seen, K)
    assert chosen[0, 20].tolist() == list(range(14, 21))
    assert chosen[1, 2].tolist() == [0, 1, 2, -1, -1, -1, -1]


@FAMILIES
@pytest.mark.parametrize("rule", [newest, at_random(3), largest_shares, in_blocks(largest_shares, 4)])
def test_every_rule_reads_equally_many_tokens_and_none_of_the_future(family, rule):
    for seen in dense_reads(tiny(family), ids()):
        mask = mask_of(chosen_by(rule, seen, K), LENGTH)
        assert mask.sum(dim=-1).eq(torch.arange(1, LENGTH + 1).clamp(max=K)).all()
        assert not mask.triu(diagonal=1).any()


def test_random_choices_repeat_with_the_seed_and_differ_between_calls():
    seen = dense_reads(tiny("qwen3"), ids())[0]
    rule, again = at_random(5), at_random(5)
    first, second = chosen_by(rule, seen, K), chosen_by(rule, seen, K)
    assert torch.equal(first, chosen_by(again, seen, K))
    assert not torch.equal(first, second)


def test_blocks_are_kept_whole_by_their_best_visible_token():
    scores = torch.tensor([[[9.0, 0, 0, 0, 8.0, 0, 0, 0, 0, 0, 0, 7.0]]]).expand(1, 12, -1)
    rows = standing_at(torch.arange(12)[None])
    seen = Seen(0, torch.nn.Identity(), torch.zeros(1, 12, 1), rows, ())
    chosen = chosen_by(in_blocks(lambda _: scores, 4), seen, 8)[0]
    assert chosen[10].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]  # the 7 at position 11 is not visible yet
    assert chosen[5].tolist() == [0, 1, 2, 3, 4, 5, -1, -1]


# --- what a model says


@FAMILIES
@pytest.mark.parametrize("rule", [newest, at_random(0), largest_shares])
def test_reading_every_token_is_dense_and_reading_few_is_not(family, rule):
    model = tiny(family)
    with torch.no_grad():
        everything = dense(model, ids())
        with reading(model, rule, LENGTH):
            assert_close(model(ids()), everything, CLOSE, "all")
        with reading(model, rule, K):
            few = model(ids())
    assert max_error(few, everything) > 0.01 * everything.abs().max()
    assert_close(few[:, :K], everything[:, :K], CLOSE, "the first k")  # they see no more than k anyway


@FAMILIES
def test_no_rule_lets_a_model_see_the_future(family):
    model = tiny(family)
    for rule in (newest, largest_shares, in_blocks(newest, 4)):
        with torch.no_grad(), reading(model, rule, K):
            assert causality_probe(model, ids(), 20) < 1e-5


@FAMILIES
def test_a_model_is_itself_again_behind_the_block_even_after_an_error(family):
    model = tiny(family)
    with torch.no_grad():
        before = model(ids())
        with pytest.raises(RuntimeError, match="inside"), reading(model, newest, 2):
            raise RuntimeError("inside")
        assert torch.equal(model(ids()), before)


def test_the_own_indexer_as_a_rule_is_the_model_itself():
    model = tiny("glm5")
    with torch.no_grad():
        alone = model(ids())
        with reading(model, own_indexer, K):
            assert_close(model(ids()), alone, CLOSE, "own")


def test_a_layer_that_shares_a_choice_goes_on_sharing_it():
    model = tiny("glm5")
    with torch.no_grad(), watching(model) as seen, reading(model, newest, K):
        model(ids())
    assert [s.block for s in seen] == [0, 1]


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="k is 0"), reading(tiny("qwen3"), newest, 0):
        pass


# --- mass


@FAMILIES
def test_shares_are_those_of_dense_attention(family):
    """Mixing values by them gives the layer's own answer."""
    model = tiny(family)
    seen = dense_reads(model, ids())[0]
    shares = shares_of(seen)
    torch.testing.assert_close(shares.sum(dim=-1), torch.ones(2, LENGTH, 4))
    with torch.no_grad():
        if family == "qwen3":
            value = seen.layer.value(seen.x).unflatten(-1, (2, 8)).repeat_interleave(2, dim=2)
            got = seen.layer.output(torch.einsum("bths,bshv->bthv", shares, value).flatten(2))
            assert_close(got, seen.layer(*seen[2:]), CLOSE, "mixed")
        else:
            latent, _ = seen.layer.mla.latents(seen.x, seen.rotary)
            mixed = torch.einsum("bths,bsc,hvc->bthv", shares, latent, seen.layer.mla.up()[1])
            assert_close(seen.layer.mla.output(mixed.flatten(2)), seen.layer.mla(*seen[2:]), CLOSE, "mixed")


@FAMILIES
def test_no_rule_keeps_more_mass_than_the_largest_shares_and_all_tokens_keep_all(family):
    for seen in dense_reads(tiny(family), ids()):
        best = mass_kept(seen, largest_shares, K)
        assert 0 < mass_kept(seen, at_random(0), K) < best < 1
        assert mass_kept(seen, newest, K) < best
        assert mass_kept(seen, newest, LENGTH - 1) > 0.9
        with pytest.raises(ValueError, match="every rule keeps all"):
            mass_kept(seen, newest, LENGTH)


# --- indexers beside a dense model


def test_only_indexers_learn_in_the_warm_up_and_they_come_to_keep_more_mass():
    model = tiny("qwen3")
    torch.manual_seed(1)
    indexers = Indexers(model, 8, K)
    reads = dense_reads(model, ids())
    before = sum(mass_kept(seen, indexers.scores, K) for seen in reads)
    optimizer = torch.optim.AdamW(indexers.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = warm_up_beside(model, indexers, ids())
        loss.backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.7 * losses[0]
    assert sum(mass_kept(seen, indexers.scores, K) for seen in reads) > 1.2 * before
    assert all(weight.grad is None for weight in model.parameters())


def test_in_the_sparse_stage_each_learns_from_its_own_loss():
    """The model's gradient is that of its language loss under the choice; the indexers' that of the imitation."""
    model, token_ids = tiny("qwen3"), ids(LENGTH + 1)
    torch.manual_seed(1)
    indexers = Indexers(model, 8, K)
    sparse_loss(model, indexers, token_ids).backward()
    got = model.embedding.weight.grad.clone()
    assert all(weight.grad.abs().max() > 0 for weight in indexers.parameters())
    model.zero_grad()
    with reading(model, indexers.scores, K):
        logits = model(token_ids[:, :-1])
    functional.cross_entropy(logits.flatten(0, 1), token_ids[:, 1:].flatten()).backward()
    assert_close(got, model.embedding.weight.grad, CLOSE, "the model's own gradient")


def test_the_models_own_indexers_learn_in_their_warm_up():
    from helpers.data.tasks import Rows

    model = tiny("glm5")
    rows = Rows(ids(), torch.zeros_like(ids(), dtype=torch.bool), torch.ones_like(ids(), dtype=torch.bool))
    optimizer = torch.optim.AdamW([w for n, w in model.named_parameters() if ".indexer." in n], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = warm_up_loss(model, rows)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]
    assert all(weight.grad is None for name, weight in model.named_parameters() if ".indexer." not in name)


def test_another_family_is_refused_by_name():
    with pytest.raises(ValueError, match="this model is a GLM5"):
        Indexers(tiny("glm5"), 8, K)
