"""Balance: loads are counted as they fall, the bias moves against them, and an even load has the smallest loss."""

from dataclasses import replace

import pytest
import torch

from helpers.models.deepseek_v4 import DeepSeekV4
from helpers.models.glm5 import GLM5
from helpers.moe.balance import balance_loss, evenness, rebalance, watch_loads
from helpers.training.train import initialise
from helpers.zoo.recipes.tasks import GLM5_SIZES as SIZES
from helpers.zoo.recipes.tasks import TINY_DEEPSEEK_V4

IDS = torch.arange(40).view(2, 20) % 31
GLM5_SIZES = replace(SIZES, vocab_size=31, width=16, num_experts=6)


def fresh(kind, sizes):
    torch.manual_seed(0)
    model = kind(sizes)
    initialise(model, 0, std=0.5)
    return model


def test_every_choice_of_every_mixture_is_counted_once():
    model = fresh(GLM5, GLM5_SIZES)
    with watch_loads(model) as loads:
        model(IDS)
        model(IDS)
    assert sorted(loads) == ["blocks.1.mlp", "blocks.2.mlp"]  # the first block has no experts
    assert all(counts.sum() == 2 * IDS.numel() * 2 and len(counts) == 6 for counts in loads.values())


def test_nothing_is_counted_outside():
    model = fresh(GLM5, GLM5_SIZES)
    with watch_loads(model) as loads:
        pass
    model(IDS)
    assert loads == {}


def test_the_bias_rises_for_experts_that_got_little_and_falls_for_the_others():
    model = fresh(GLM5, GLM5_SIZES)
    with watch_loads(model) as loads:
        model(IDS)
    before = model.blocks[1].mlp.router.bias.clone()
    rebalance(model, loads, 0.1)
    moved = model.blocks[1].mlp.router.bias - before
    counts = loads["blocks.1.mlp"].float()
    assert torch.allclose(moved, 0.1 * torch.sign(counts.mean() - counts))
    assert moved.min() < 0 < moved.max()


def test_balancing_makes_the_load_even():
    model = fresh(GLM5, GLM5_SIZES)
    model.blocks[1].mlp.router.bias[0] = 1.0  # one expert is everyone's first choice
    shares = []
    for _ in range(60):
        with watch_loads(model) as loads, torch.no_grad():
            model(IDS)
        shares.append(evenness(loads["blocks.1.mlp"]))
        rebalance(model, loads, 0.02)
    assert shares[-1] > 0.95 > shares[0]


def test_a_table_has_no_bias_and_stays():
    model = fresh(DeepSeekV4, replace(TINY_DEEPSEEK_V4.config, vocab_size=31))
    with watch_loads(model) as loads:
        model(IDS)
    assert len(loads) == 4
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    rebalance(model, loads, 0.1)
    changed = {name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])}
    assert len(changed) == 3
    assert all("bias" in name and not name.startswith("blocks.0.") for name in changed)


@pytest.mark.parametrize(("counts", "expected"), [([5, 5, 5, 5], 1.0), ([8, 0, 0, 0], 0.0), ([4, 4, 0, 0], 0.5)])
def test_evenness_is_one_for_all_alike_and_zero_for_one_alone(counts, expected):
    assert evenness(torch.tensor(counts)) == pytest.approx(expected, abs=1e-6)


def test_the_balance_loss_is_one_when_even_and_grows_to_experts_over_chosen():
    even = torch.full((8, 4), 0.25)
    assert balance_loss(even, torch.arange(8)[:, None] % 4).item() == pytest.approx(1.0)
    alone = torch.eye(4)[[0] * 8]
    assert balance_loss(alone, torch.zeros(8, 1, dtype=torch.long)).item() == pytest.approx(4.0)


def test_the_gradient_of_the_balance_loss_takes_from_the_overloaded():
    logits = torch.zeros(8, 4, requires_grad=True)
    indices = torch.tensor([[0]] * 6 + [[1], [2]])
    balance_loss(logits.softmax(dim=-1), indices).backward()
    assert logits.grad[:, 0].min() > 0  # following it down lowers the probability of expert 0
    assert logits.grad[:, 3].max() < 0
