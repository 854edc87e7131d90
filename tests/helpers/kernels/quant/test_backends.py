"""A packed layer of a model answers the same by our kernels as by decoding, and is saved the same."""

from dataclasses import replace

import pytest
import torch
from support.kernel_tests import WHERE, launches_of, near_float64, needs_triton, numbers
from torch import nn

from helpers.kernels.quant.backends import GPU, MOST_TOKENS
from helpers.moe.experts import Experts
from helpers.quant.backends import DYNAMIC, as_read
from helpers.quant.experts import QuantisedExperts
from helpers.quant.linear import QuantisedLinear

pytestmark = needs_triton
HERE = {name: replace(way, dtypes=(torch.float32,)) for name, way in GPU.items()}  # on a GPU too, to be exact


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(128, 24).to(WHERE).requires_grad_(False)


@pytest.mark.parametrize("name", GPU)
def test_a_layer_is_multiplied_by_the_kernel_and_answers_as_its_decoded_matrix_does(name, linear):
    layer, x = QuantisedLinear.of(linear, name, HERE), numbers(2, 3, 128, seed=1)
    answer, launched = launches_of(layer, x)
    assert set(launched) == ({"_round_tokens", "_eight_bit"} if name == DYNAMIC else {"_packed_linear"})
    rows = as_read(x.view(6, 128), name).double()
    exact = nn.functional.linear(rows, layer.weight.double(), linear.bias.double())
    near_float64(answer.view(6, 24), exact, 16 * 128, "the layer")


@pytest.mark.parametrize("name", GPU)
def test_what_a_file_holds_of_it_is_what_it_would_hold_without_the_kernel(name, linear):
    ours, plain = (QuantisedLinear.of(linear, name, ways).packed.encoded() for ways in (HERE, {}))
    assert ours.format == plain.format
    assert ours.parts.keys() == plain.parts.keys()
    assert all(torch.equal(_bytes(part), _bytes(plain.parts[key])) for key, part in ours.parts.items())


def _bytes(part: torch.Tensor) -> torch.Tensor:
    return part.contiguous().view(torch.uint8)


def test_many_tokens_are_multiplied_with_the_decoded_matrix(linear):
    layer = QuantisedLinear.of(linear, "int4", HERE)
    _, launched = launches_of(layer, numbers(MOST_TOKENS + 1, 128, seed=1))
    assert not launched


def test_packed_experts_run_by_the_kernel_too():
    torch.manual_seed(0)
    experts = Experts(4, 64, 128).to(WHERE).requires_grad_(False)
    x, indices = numbers(5, 64, seed=1), numbers(5, 4, seed=2).topk(2).indices
    weights = numbers(5, 2, seed=3)
    ours, plain = (QuantisedExperts.of(experts, "int4", ways) for ways in (HERE, {}))
    answer, launched = launches_of(ours, x, indices, weights)
    assert launched["_packed_linear"] > 3
    near_float64(answer, plain(x, indices, weights).double(), 4 * 192, "the experts")
