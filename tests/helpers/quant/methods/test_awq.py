"""AWQ never loses to rounding on its own text, finds a column that matters, and folds into what stands before."""

from functools import partial

import pytest
import torch
from torch import nn

from helpers.compare import assert_close, randn
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm, ZeroCentredNorm
from helpers.quant.formats.integers import from_codes, grid_of, round_to
from helpers.quant.methods.awq import STEPS, fold, rounded, search, stretch
from helpers.quant.methods.input_statistics import Inputs, output_error

THREE_BITS = partial(grid_of, bits=3, group=8, symmetric=False)


def with_an_outlier(width: int, seed: int, times: float = 30.0) -> Inputs:
    x = randn(200, width, seed=seed)
    x[:, 3] *= times
    return Inputs.of(x)


def nearest_error(weight: torch.Tensor, inputs: Inputs) -> float:
    grid = THREE_BITS(weight)
    return output_error(from_codes(round_to(weight, grid), grid) - weight, inputs).sum().item()


@pytest.mark.parametrize("seed", range(6))
def test_the_scale_found_is_never_worse_than_rounding_for_all_layers_together(seed):
    weights = [randn(rows, 24, seed=seed + rows) for rows in (4, 9)]
    inputs = with_an_outlier(24, seed, times=1 + seed)
    found = search(weights, THREE_BITS, inputs)
    assert found.error <= sum(nearest_error(weight, inputs) for weight in weights)
    assert found.error == min(found.errors)
    assert len(found.errors) == STEPS + 1


def test_a_column_with_large_inputs_is_stretched_and_the_error_falls():
    weight, inputs = randn(32, 24, seed=0), with_an_outlier(24, 1)
    found = search([weight], THREE_BITS, inputs)
    assert found.alpha > 0
    assert found.scale.argmax() == 3
    assert found.error < 0.5 * nearest_error(weight, inputs)


def test_alpha_zero_is_rounding_to_nearest():
    weight, inputs = randn(8, 16, seed=2), with_an_outlier(16, 2)
    assert torch.equal(stretch(inputs.size, 0), torch.ones(16))
    grid = THREE_BITS(weight)
    assert torch.equal(rounded(weight, torch.ones(16), THREE_BITS), from_codes(round_to(weight, grid), grid))


def test_the_largest_and_the_least_scale_are_as_far_from_one():
    scale = stretch(torch.tensor([1.0, 4.0, 16.0]), 0.5)
    assert scale.tolist() == pytest.approx([0.5, 1.0, 2.0])
    assert stretch(torch.tensor([0.0, 1.0]), 1.0).isfinite().all()


@pytest.mark.parametrize("kind", [RMSNorm, ZeroCentredNorm])
def test_a_norm_takes_the_scale_and_the_answers_stay(kind):
    norm, layers = kind(16, 1e-6), [nn.Linear(16, 5, bias=False), nn.Linear(16, 3, bias=False)]
    nn.init.normal_(norm.weight, 0.5, 0.2)
    x, scale = randn(2, 7, 16, seed=3), randn(16, seed=4).exp()
    with torch.no_grad():
        before, weight = [layer(norm(x)) for layer in layers], layers[0].weight.clone()
        fold(norm, layers, scale)
        for layer, answer in zip(layers, before, strict=True):
            assert_close(layer(norm(x)), answer, 1e-5, "answers")
    assert_close(layers[0].weight, weight * scale, 1e-6, "stretched")


def test_the_rows_of_up_take_the_scale_of_down():
    mlp = SwiGLU(16, 24)
    x, scale = randn(2, 7, 16, seed=5), randn(24, seed=6).exp()
    with torch.no_grad():
        before = mlp(x)
        fold(mlp.up, [mlp.down], scale)
        assert_close(mlp(x), before, 1e-5, "answers")
        fold(mlp.gate, [mlp.down], scale)  # behind the gate comes silu, which does not pass a factor on
        assert (mlp(x) - before).abs().max() > 1e-2


def test_what_cannot_shrink_its_output_is_refused():
    with pytest.raises(ValueError, match="SiLU cannot"):
        fold(nn.SiLU(), [], torch.ones(4))
