"""Whose tokens the experts get: watched in a model, counted by class, and told in one number."""

import pytest
import torch

from helpers.moe.experts import Experts
from helpers.moe.specialization import shares_by_class, specialisation, watch_choices


def test_choices_are_kept_call_by_call_and_only_within_the_block():
    layer = torch.nn.ModuleDict({"mlp": torch.nn.ModuleDict({"experts": Experts(4, 3, 2)})})
    experts, x = layer["mlp"]["experts"], torch.randn(2, 3)
    first, second = torch.tensor([[0, 1], [2, 3]]), torch.tensor([[3, 3], [1, 0]])
    with watch_choices(layer) as seen:
        experts(x, first, torch.ones(2, 2))
        experts(x, second, torch.ones(2, 2))
    experts(x, first, torch.ones(2, 2))
    assert list(seen) == ["mlp"]
    assert all(torch.equal(a, b) for a, b in zip(seen["mlp"], (first, second), strict=True))


def test_shares_are_those_on_paper():
    shares = shares_by_class(torch.tensor([[0, 1], [0, 2], [2, 2]]), torch.tensor([0, 0, 2]), 3, 4)
    assert shares.tolist() == [[0.5, 0.25, 0.25, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("shares", "wanted"), [([[0.5, 0.5], [0.5, 0.5]], 0), ([[1, 0], [0, 1]], 1), ([[0.75, 0.25], [0.25, 0.75]], 0.5)]
)
def test_specialisation_goes_from_all_alike_to_experts_of_their_own(shares, wanted):
    assert specialisation(torch.tensor(shares).float()) == pytest.approx(wanted)


def test_three_classes_apart_are_one_as_well():
    assert specialisation(torch.eye(3)) == pytest.approx(1)
