"""The product in tiles is the product."""

import pytest
import torch
from support.kernel_tests import in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels import matmul as module
from helpers.kernels.matmul import cost, matmul

pytestmark = needs_triton


@in_both
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 31, 33), (33, 64, 31), (17, 130, 16)])
def test_it_is_the_product(sizes, dtype):
    rows, inputs, outputs = sizes
    a, b = numbers(rows, inputs, seed=0, dtype=dtype), numbers(inputs, outputs, seed=1, dtype=dtype)
    answer, launched = launches_of(matmul, a, b)
    assert launched == {"_matmul": 1}
    near_float64(answer, a.double() @ b.double(), inputs if dtype == torch.float32 else 4, "the product")


def test_bands_of_programs_reach_every_tile(monkeypatch):
    """Five tiles down and three across, in bands of two: the last band is lower than the others."""
    monkeypatch.setattr(module, "SIDE", 16)
    monkeypatch.setattr(module, "BAND", 2)
    a, b = numbers(70, 20, seed=0), numbers(20, 40, seed=1)
    near_float64(matmul(a, b), a.double() @ b.double(), 20, "the product")


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.ones(4, 3), torch.ones(5, 3).T, "strides"),
        (torch.ones(4, 3), torch.ones(4, 3), "inner sizes"),
        (torch.ones(4, 3), torch.ones(3, 4).half(), "one dtype"),
        (torch.ones(4, 0), torch.ones(0, 4), "length 0"),
    ],
)
def test_what_it_cannot_do_right_is_refused(a, b, message):
    refused(matmul, a, b, message=message)


def test_a_large_product_is_work_and_a_thin_one_is_reading():
    assert cost(4096, 4096, 4096).intensity > 1000
    assert cost(1, 4096, 4096).intensity < 1.01
