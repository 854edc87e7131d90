"""Training with rounded weights: what is read is rounded, what learns is not, and at the end what was read stays."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from helpers.compare import randn
from helpers.moe.experts import Experts
from helpers.quant.methods.qat import Width, rounded, rounding, straight_through


def test_two_bits_have_three_values_in_each_group():
    weight = torch.tensor([[0.9, -1.0, 0.2, 0.0, 3.0, -4.0, 1.0, 0.1]])
    assert rounded(weight, 2, 4).tolist() == [[1.0, -1.0, 0.0, 0.0, 4.0, -4.0, 0.0, 0.0]]
    assert len(rounded(randn(1, 64, seed=0), 4).unique()) <= 15


def test_what_is_rounded_already_stays():
    once = rounded(randn(3, 5, 32, seed=0), 3, 16)
    assert torch.equal(rounded(once, 3, 16), once)


def test_the_gradient_passes_as_if_nothing_had_been_rounded():
    weight, push = randn(4, 16, seed=0).requires_grad_(), randn(4, 16, seed=1)
    read = straight_through(weight, 2, 8)
    assert torch.allclose(read, rounded(weight, 2, 8), atol=1e-6)
    (read * push).sum().backward()
    assert torch.equal(weight.grad, push)


def mixture() -> nn.ModuleDict:
    torch.manual_seed(0)
    return nn.ModuleDict({"router": nn.Linear(16, 4), "experts": Experts(4, 16, 8)})


def test_inside_the_block_experts_are_read_as_rounded_and_outside_they_stay_so():
    model, width = mixture(), Width(3, 8)
    before = model["experts"].gate_up.detach().clone()
    with rounding(model, ["experts.gate_up"], width) as learning:
        assert torch.allclose(model["experts"].stacks.gate_up, rounded(before, 3, 8), atol=1e-6)
        assert [weight.requires_grad for weight in learning] == [True]
        assert not model["router"].weight.requires_grad
        assert torch.equal(learning[0], before)
    assert isinstance(model["experts"].gate_up, nn.Parameter)
    assert torch.allclose(model["experts"].gate_up, rounded(before, 3, 8), atol=1e-6)
    assert set(model.state_dict()) == set(mixture().state_dict())
    assert all(weight.requires_grad for weight in model.parameters())


def test_weights_learn_underneath_until_they_round_to_something_better():
    """A table of keys with a value each, known by heart; rounding to three values loses a part, a few steps find it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64, bias=False), nn.ReLU(), nn.Linear(64, 8, bias=False))
    keys, values = randn(200, 16, seed=1), torch.arange(200) % 8

    def learn(weights, steps, lr):
        optimizer = torch.optim.Adam(weights, lr=lr)
        for _ in range(steps):
            functional.cross_entropy(model(keys), values).backward()
            optimizer.step()
            optimizer.zero_grad()

    def right() -> float:
        return (model(keys).argmax(dim=-1) == values).float().mean().item()

    learn(model.parameters(), 600, 1e-2)
    known = right()
    with rounding(model, ["0.weight", "2.weight"], Width(2, 16)) as learning:
        lost = right()
        learn(learning, 150, 1e-3)
    assert known == 1.0
    assert lost < right() - 0.1
    assert torch.allclose(rounded(model[0].weight, 2, 16), model[0].weight, atol=1e-6)


def test_an_error_inside_the_block_leaves_a_model_of_plain_weights():
    model = mixture()

    def stop():
        with rounding(model, ["experts.down"], Width(4)):
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        stop()
    assert set(model.state_dict()) == set(mixture().state_dict())


@pytest.mark.parametrize("names", [[], ["experts.side"]])
def test_a_weight_that_is_not_there_is_refused(names):
    with pytest.raises(ValueError, match="weights to round"), rounding(mixture(), names, Width(4)):
        pass
