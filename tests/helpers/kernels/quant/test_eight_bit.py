"""Eight bits on both sides give what the rounded tokens and the decoded matrix give."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.compare import relative_rms
from helpers.kernels.quant.eight_bit import CODES, WIDEST, cost, eight_bit_linear, rounded
from helpers.quant.backends import DYNAMIC, as_read
from helpers.quant.formats.named import Encoded, encode

pytestmark = needs_triton
each_format = pytest.mark.parametrize("name", CODES)


def encoded(rows: int, width: int, name: str) -> Encoded:
    made = encode(numbers(rows, width, seed=1).cpu(), name)
    return Encoded(name, made.shape, {part: tensor.to(WHERE) for part, tensor in made.parts.items()})


@in_both
@each_format
@pytest.mark.parametrize(("tokens", "rows", "width"), [(1, 40, 128), (3, 33, 200), (17, 130, 300), (130, 16, 64)])
def test_it_is_the_product_of_what_was_rounded(tokens, rows, width, name, dtype):
    x, matrix = numbers(tokens, width, seed=0, dtype=dtype), encoded(rows, width, name)
    answer, launched = launches_of(eight_bit_linear, x, matrix)
    assert launched == {"_round_tokens": 1, "_eight_bit": 1}
    exact = rounded(x.float(), name).double() @ matrix.decode().double().T
    near_float64(answer, exact, 16 * width, "the product")


def test_int8_is_the_layer_that_rounds_its_tokens():
    x, matrix = numbers(5, 64, seed=0), encoded(33, 64, "int8")
    layer = as_read(x, DYNAMIC).double() @ matrix.decode().double().T
    near_float64(eight_bit_linear(x, matrix), layer, 16 * 64, "the layer")


@each_format
def test_rounding_a_token_costs_what_its_format_costs_and_a_token_of_zeros_stays(name):
    x = torch.cat([numbers(2, 256, seed=0), torch.zeros(1, 256, device=WHERE)])
    assert 1e-3 < relative_rms(rounded(x, name), x) < 0.04
    assert not eight_bit_linear(x, encoded(4, 256, name))[2].any()


@each_format
def test_one_token_a_thousand_times_larger_does_not_touch_its_neighbour(name):
    x, matrix = numbers(2, 128, seed=0), encoded(8, 128, name)
    louder = x * torch.tensor([[1.0], [1000.0]], device=WHERE)
    assert torch.equal(eight_bit_linear(x, matrix)[0], eight_bit_linear(louder, matrix)[0])


@pytest.mark.parametrize(
    ("x", "name", "message"),
    [
        (torch.ones(2, 96), "int8", "takes rows of 64"),
        (torch.ones(0, 64), "int8", "length 0"),
        (torch.ones(64, 2).T, "fp8", "strides"),
        (torch.ones(2, 64).double(), "fp8", "float64"),
        (torch.ones(2, 64), "int4", "int8 and fp8, not for 'int4'"),
    ],
)
def test_what_it_cannot_do_right_is_refused(x, name, message):
    refused(eight_bit_linear, x, encoded(4, 64, name), message=message)


def test_a_token_that_does_not_fit_one_program_is_refused():
    parts = {"codes": torch.ones(1, 2 * WIDEST, dtype=torch.int8), "scale": torch.ones(1)}
    matrix = Encoded("int8", (1, 2 * WIDEST), {part: tensor.to(WHERE) for part, tensor in parts.items()})
    refused(eight_bit_linear, torch.ones(1, 2 * WIDEST), matrix, message="does not fit one program")


def test_from_a_thousand_tokens_on_arithmetic_decides():
    """The ridge of an H200 in eight bits is 2 x 790 TFLOP/s over 4.3 TB/s."""
    ridge = 2 * 790 / 4.3
    assert cost(16, 4096, 11008).intensity < ridge < cost(1024, 4096, 11008).intensity
