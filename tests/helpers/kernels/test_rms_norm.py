"""The fused norm gives what the readable one gives, gradients too."""

import pytest
import torch
from support.kernel_tests import in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.rms_norm import WIDEST, add_rms_norm, cost, rms_norm
from helpers.layers import norm

pytestmark = needs_triton


@in_both
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (1, 31), (3, 33), (5, 128), (2, 1000)])
def test_it_is_the_readable_norm(rows, width, dtype):
    x, weight = numbers(rows, width, seed=0, dtype=dtype), numbers(width, seed=1, dtype=dtype)
    answer, launched = launches_of(rms_norm, x, weight, 1e-6)
    assert launched == {"_rms_norm": 1}
    assert answer.dtype == dtype
    near_float64(answer, norm.rms_norm(x.double(), weight.double(), 1e-6), 4, "the norm")


def test_rows_of_any_number_of_axes_are_rows():
    x, weight = numbers(2, 3, 33, seed=0), numbers(33, seed=1)
    assert torch.equal(rms_norm(x, weight, 1e-6), rms_norm(x.view(6, 33), weight, 1e-6).view(2, 3, 33))


def test_a_row_of_zeros_stays_zero_and_a_large_one_does_not_overflow():
    x = torch.stack([torch.zeros(33), torch.full((33,), 3e4)]).to(numbers(1, seed=0).device, torch.float16)
    zero, large = rms_norm(x, torch.ones_like(x[0]), 1e-6)
    assert not zero.any()
    assert torch.allclose(large.float(), torch.ones_like(large).float(), atol=1e-3)  # its squares are beyond float16


@in_both
def test_with_the_addition_both_answers_are_the_readable_ones(dtype):
    x, residual = (numbers(3, 33, seed=s, dtype=dtype) for s in (0, 1))
    weight = numbers(33, seed=2, dtype=dtype)
    (out, added), launched = launches_of(add_rms_norm, x, residual, weight, 1e-6)
    assert launched == {"_add_rms_norm": 1}
    assert torch.equal(added, x + residual)
    near_float64(out, norm.rms_norm(added.double(), weight.double(), 1e-6), 4, "the normed sum")


@in_both
def test_gradients_are_those_of_the_readable_norm(dtype):
    x, weight, grad = (numbers(*s, seed=n, dtype=dtype) for n, s in enumerate([(5, 33), (33,), (5, 33)]))
    x.requires_grad_(), weight.requires_grad_()
    exact = [part.detach().double().requires_grad_() for part in (x, weight)]
    rms_norm(x, weight, 1e-6).backward(grad)
    norm.rms_norm(*exact, 1e-6).backward(grad.double())
    near_float64(x.grad, exact[0].grad, 33, "the gradient of x")
    near_float64(weight.grad, exact[1].grad, 5, "the gradient of the weight")


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.ones(3, 8).T, torch.ones(3), "strides"),
        (torch.ones(3, 8), torch.ones(7), "a row of x has 8"),
        (torch.ones(0, 8), torch.ones(8), "length 0"),
        (torch.ones(3, 8).double(), torch.ones(8).double(), "float64"),
        (torch.ones(3, 8), torch.ones(8).half(), "one dtype"),
        (torch.ones(1, WIDEST + 1), torch.ones(WIDEST + 1), "does not fit"),
    ],
)
def test_what_it_cannot_do_right_is_refused(x, weight, message):
    refused(rms_norm, x, weight, 1e-6, message=message)


def test_its_bytes_are_one_read_and_one_write():
    assert cost(10, 100, number_bytes=2).bytes == 2 * (10 * 100 * 2 + 100)
    assert cost(10, 100, added=True).bytes == 2 * (10 * 100 * 4 + 100)
    assert cost(4096, 7168).intensity < 2.01  # far below any ridge: memory decides
