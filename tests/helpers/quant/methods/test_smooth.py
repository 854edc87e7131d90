"""SmoothQuant changes no answer before rounding, and makes rounded inputs with outliers far better."""

import pytest
import torch

from helpers.compare import assert_close, randn, relative_rms
from helpers.quant.methods.input_statistics import Inputs
from helpers.quant.methods.smooth import int8_product, smoothing


def outliers(seed: int) -> torch.Tensor:
    x = randn(64, 48, seed=seed)
    x[:, [5, 17]] *= 100
    return x


def test_half_and_half_makes_inputs_and_weights_of_a_column_equally_large():
    x, weight = outliers(0), randn(20, 48, seed=1)
    scale = smoothing(Inputs.of(x).largest, [weight])
    assert_close((x / scale).abs().amax(dim=0), (weight * scale).abs().amax(dim=0), 1e-5, "largest of each column")
    assert_close((x / scale) @ (weight * scale).T, x @ weight.T, 1e-5, "the product")


def test_alpha_one_makes_inputs_flat_and_zero_the_weights():
    x, weights = outliers(2), [randn(20, 48, seed=3), randn(6, 48, seed=4)]
    largest = Inputs.of(x).largest
    assert_close(largest / smoothing(largest, weights, alpha=1), torch.ones(48), 1e-5, "inputs")
    flat = torch.cat(weights) * smoothing(largest, weights, alpha=0)
    assert_close(flat.abs().amax(dim=0), torch.ones(48), 1e-5, "weights")


@pytest.mark.parametrize("seed", range(4))
def test_with_outliers_the_rounded_product_is_several_times_nearer(seed):
    x, weight = outliers(seed), randn(20, 48, seed=seed + 10)
    scale = smoothing(Inputs.of(x).largest, [weight])
    plain, smooth = int8_product(x, weight), int8_product(x / scale, weight * scale)
    assert relative_rms(smooth, x @ weight.T) < 0.4 * relative_rms(plain, x @ weight.T)


def test_the_rounded_product_is_that_of_whole_numbers():
    x, weight = outliers(5).view(2, 32, 48), randn(20, 48, seed=6)
    assert_close(int8_product(x, weight), x @ weight.T, 0.05, "eight bits")
    whole = torch.randint(-126, 127, (4, 48), generator=torch.Generator().manual_seed(0)).float()
    whole[:, 0] = 127  # so that the scale is one
    assert_close(int8_product(whole, whole), whole @ whole.T, 1e-6, "whole numbers")


def test_a_column_that_is_never_fed_gets_a_finite_scale():
    scale = smoothing(torch.tensor([0.0, 1.0]), [torch.tensor([[0.0, 1.0]])])
    assert scale.isfinite().all()
    assert (scale > 0).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_an_alpha_that_shares_nothing_is_refused(alpha):
    with pytest.raises(ValueError, match="between 0"):
        smoothing(torch.ones(2), [torch.ones(1, 2)], alpha)
