"""Tokens times packed codes are tokens times the decoded matrix, in every format and at awkward sizes."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.quant import packed_linear as module
from helpers.kernels.quant.dequantise import FORMATS, ORDER, POWERS, lay, take_back
from helpers.kernels.quant.packed_linear import cost, multiply, packed_linear
from helpers.measure import matmul_work
from helpers.quant.formats.named import Encoded, encode

pytestmark = needs_triton
every_format = pytest.mark.parametrize("name", FORMATS)


def encoded(rows: int, width: int, name: str) -> Encoded:
    made = encode(numbers(rows, width, seed=1).cpu(), name)
    return Encoded(name, made.shape, {part: tensor.to(WHERE) for part, tensor in made.parts.items()})


@in_both
@every_format
@pytest.mark.parametrize(("tokens", "rows", "width"), [(1, 40, 128), (3, 33, 192), (17, 70, 320)])
def test_it_is_the_product_with_the_decoded_matrix(tokens, rows, width, name, dtype):
    x, matrix = numbers(tokens, width, seed=0, dtype=dtype), encoded(rows, width, name)
    answer, launched = launches_of(packed_linear, x, matrix)
    assert launched == {"_packed_linear": 1}
    near_float64(answer, x.double() @ matrix.decode().double().T, width, "the product")


@every_format
def test_columns_that_are_split_are_added_up_and_none_twice(name, monkeypatch):
    x, matrix = numbers(2, 1088, seed=0), encoded(5, 1088, name)  # four steps and a quarter
    exact = x.double() @ matrix.decode().double().T
    for programs in (1, 3, 264):
        monkeypatch.setattr(module, "PROGRAMS", programs)
        near_float64(packed_linear(x, matrix), exact, 1088, f"{programs} programs")


@every_format
def test_what_is_laid_out_is_as_long_as_the_file_and_comes_back_as_it_was(name):
    matrix = encoded(33, 192, name)
    laid = lay(matrix)
    assert sum(tensor.nbytes for tensor in laid.values()) == matrix.bytes()
    back = take_back(laid, name, matrix.shape)
    assert torch.equal(back.decode(), matrix.decode())
    assert all(part.dtype == matrix.parts[key].dtype for key, part in back.parts.items())


def test_a_word_holds_its_eight_columns_in_pairs():
    codes = torch.zeros(1, 32)
    codes[0, :8] = torch.tensor([-7.0, -5, -3, -1, 1, 3, 5, 7])  # the largest is 7: the scale is 1
    word = int(lay(encode(codes, "int4"))["codes"][0, 0]) & 0xFFFFFFFF
    assert [(word >> 4 * place & 15) - 8 for place in range(8)] == [codes[0, column] for column in ORDER]


@pytest.mark.parametrize(("dtype", "base"), [(torch.bfloat16, 128), (torch.float16, 1024)])
def test_a_code_in_the_last_bits_of_a_power_of_two_is_that_power_plus_the_code(dtype, base):
    codes = torch.arange(16, dtype=torch.int16)
    assert torch.equal((codes | POWERS[dtype] & 0xFFFF).view(dtype), (base + codes).to(dtype))
    assert POWERS[dtype] >> 16 == POWERS[dtype] & 0xFFFF


@pytest.mark.parametrize(("dtype", "shift", "power"), [(torch.bfloat16, 4, 2.0**120), (torch.float16, 7, 2.0**8)])
def test_the_bits_of_e4m3_in_another_place_are_the_number_over_a_power_of_two(dtype, shift, power):
    byte = torch.arange(256, dtype=torch.int32)[torch.arange(256) % 128 != 127]  # without the two NaN
    moved = ((byte & 0x80) << 8 | (byte & 0x7F) << shift).to(torch.int16).view(dtype)
    assert torch.equal(moved.double() * power, byte.to(torch.uint8).view(torch.float8_e4m3fn).double())


def test_a_matrix_of_zeros_gives_zeros():
    for name in FORMATS:
        zeros = encode(torch.zeros(3, 128), name)
        laid = {part: tensor.to(WHERE) for part, tensor in lay(zeros).items()}
        assert not multiply(numbers(2, 128, seed=0), laid, name).any()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 96), "takes rows of 64"),
        (torch.ones(0, 64), "length 0"),
        (torch.ones(64, 2).T, "strides"),
        (torch.ones(2, 64).double(), "float64"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(x, message):
    refused(packed_linear, x, encoded(4, 64, "int4"), message=message)


def test_formats_without_a_kernel_and_codes_in_pieces_are_refused():
    refused(packed_linear, torch.ones(2, 64), encoded(4, 64, "mxfp4"), message="no kernel for 'mxfp4'")
    refused(multiply, torch.ones(2, 64), lay(encoded(4, 64, "int4")), "int5", message="no kernel for 'int5'")
    refused(multiply, torch.ones(64), lay(encoded(4, 64, "int4")), "int4", message="takes rows of 64")
    pieces = {part: tensor.repeat(2, 1)[::2] for part, tensor in lay(encoded(4, 64, "int4")).items()}
    refused(multiply, torch.ones(2, 64), pieces, "int4", message="codes is on .* with strides")


def test_one_token_in_four_bits_reads_a_quarter_of_what_sixteen_do():
    four, sixteen = cost(1, 4096, 11008, 4.25), matmul_work(1, 4096, 11008, 16)
    assert four.flops == sixteen.flops
    assert sixteen.bytes / four.bytes == pytest.approx(16 / 4.25, rel=1e-3)
