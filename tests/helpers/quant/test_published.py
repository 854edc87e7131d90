"""FP8, FP4 and INT4 as files hold them: unpacked as the formats say, ragged blocks too, and back."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packed_files import pack_int4
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

from helpers.compare import randn
from helpers.quant.formats.floats import pack_fp8, unpack_fp8
from helpers.quant.formats.fp4 import E2M1, pack_fp4, unpack_fp4
from helpers.quant.formats.integers import unpack_int4

SHAPES = [(1, 2), (128, 128), (129, 64), (160, 130), (576, 48), (31, 96)]


def by_hand(numbers, scale, block):
    """One number at a time: each times the scale of the block that it lies in."""
    rows, columns = numbers.shape
    return torch.tensor(
        [
            [float(numbers[r, c]) * float(scale[r // block[0], c // block[1]]) for c in range(columns)]
            for r in range(rows)
        ]
    )


# FP8.


@pytest.mark.parametrize("block", [(128, 128), (3, 5), (1, 128)])
@pytest.mark.parametrize("shape", [(7, 11), (6, 10), (1, 1), (130, 9)])
def test_each_fp8_number_is_multiplied_by_the_scale_of_its_own_block(shape, block):
    numbers = randn(*shape, seed=0).to(torch.float8_e4m3fn)
    scale = randn(math.ceil(shape[0] / block[0]), math.ceil(shape[1] / block[1]), seed=1)
    assert torch.equal(unpack_fp8(numbers, scale, block=block), by_hand(numbers.float(), scale, block))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fp8_in_whole_blocks_is_what_transformers_makes_of_it(dtype):
    numbers, scale = pack_fp8(randn(256, 384, seed=0))
    theirs = Fp8Dequantize(None)._dequantize_one(numbers, scale, dtype)
    assert torch.equal(unpack_fp8(numbers, scale, dtype), theirs)


def test_fp8_in_ragged_blocks_is_right_where_transformers_is_not():
    weight = randn(576, 256, seed=0)  # as DeepSeek-V3's kv_a_proj_with_mqa: four and a half blocks of rows
    numbers, scale = pack_fp8(weight)
    assert scale.shape == (5, 2)
    assert (unpack_fp8(numbers, scale) - weight).abs().max() < weight.abs().max() / 16
    with pytest.raises(ValueError, match="not divisible by scale grid"):
        Fp8Dequantize(None)._dequantize_one(numbers, scale, torch.float32)
    weight = randn(160, 128, seed=0) * torch.cat([torch.ones(128, 1), torch.full((32, 1), 100.0)])
    numbers, scale = pack_fp8(weight)
    silent = Fp8Dequantize(None)._dequantize_one(numbers, scale, torch.float32)  # takes 80 rows for a block
    assert (silent - weight).abs()[80:128].max() > 10
    assert (unpack_fp8(numbers, scale) - weight).abs()[80:128].max() < 0.3


@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_fp8_packs_to_the_same_numbers_again(shape):
    once = unpack_fp8(*pack_fp8(randn(*shape, seed=0)))
    torch.testing.assert_close(unpack_fp8(*pack_fp8(once)), once, rtol=1e-6, atol=0)


def test_fp8_uses_its_whole_range_in_every_block_and_keeps_zeros():
    weight = randn(200, 300, seed=0) * torch.logspace(-6, 6, 300)
    weight[128:, 256:] = 0
    numbers, scale = pack_fp8(weight)
    assert numbers.float().isfinite().all()
    assert numbers[:128, :128].float().abs().max() == 448
    assert (unpack_fp8(numbers, scale)[128:, 256:] == 0).all()
    error = (unpack_fp8(numbers, scale) - weight).abs()
    assert (error <= weight.abs() / 16 + scale.max() * 2**-10).all()


# FP4.


def test_the_sixteen_fp4_codes_have_the_values_of_the_standard():
    codes = torch.arange(16, dtype=torch.uint8)
    packed = (codes[::2] | codes[1::2] << 4).view(torch.int8)[None]
    one = torch.ones(1, 1).to(torch.float8_e8m0fnu)
    assert unpack_fp4(packed, one).tolist() == [[*E2M1, *(-value for value in E2M1)]]
    assert E2M1 == (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def test_fp4_is_what_transformers_makes_of_it():
    packed, scale = pack_fp4(randn(48, 96, seed=0) * 3)
    assert (packed.dtype, scale.dtype) == (torch.int8, torch.float8_e8m0fnu)
    theirs = Fp8Dequantize(None)._dequantize_one(packed, scale, torch.float32)
    assert torch.equal(unpack_fp4(packed, scale), theirs)
    assert torch.equal(unpack_fp4(packed, scale.view(torch.uint8)), theirs)  # the scales as plain bytes
    assert torch.equal(unpack_fp4(packed.view(torch.uint8), scale), theirs)


def test_fp4_rounds_to_the_nearest_and_in_the_middle_to_the_even_code():
    asked = torch.tensor([[6, 0.24, 0.25, 0.26, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -2.4, -2.6, 5.1, -0.1, 0, 0.8]])
    given = unpack_fp4(*pack_fp4(asked))
    assert given.tolist() == [[6, 0, 0, 0.5, 1, 1, 2, 2, 4, 4, -2, -3, 6, 0, 0, 1]]


@pytest.mark.parametrize("columns", [2, 30, 32, 34, 64, 96])
def test_what_was_fp4_is_the_same_again_and_nothing_is_cut_off(columns):
    weight = randn(9, columns, seed=0) * torch.logspace(-9, 9, 9)[:, None]
    once = unpack_fp4(*pack_fp4(weight))
    assert torch.equal(unpack_fp4(*pack_fp4(once)), once)
    largest = weight.abs().unfold(1, min(columns, 32), 32).amax(-1)
    assert ((once - weight).abs().unfold(1, min(columns, 32), 32).amax(-1) <= largest / 3).all()


def test_fp4_keeps_zeros_and_refuses_half_a_byte():
    assert (unpack_fp4(*pack_fp4(torch.zeros(3, 64))) == 0).all()
    with pytest.raises(ValueError, match="33 columns are odd"):
        pack_fp4(torch.zeros(3, 33))


# INT4.


def test_int4_lies_in_an_int32_from_the_lowest_bits_on_as_itself_plus_eight():
    words = torch.tensor([[0x7654_3210, 0xFEDC_BA98]]).to(torch.int32)  # the second is negative
    scale = torch.full((1, 1), 0.5)
    assert unpack_int4(words, scale, (1, 16)).tolist() == [[n / 2 for n in range(-8, 8)]]
    assert unpack_int4(words, scale, (1, 11)).tolist() == [[n / 2 for n in range(-8, 3)]]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 8), (5, 32), (4, 33), (2, 71), (7, 96)])
def test_int4_packs_any_width_and_what_was_int4_is_the_same_again(rows, columns):
    weight = randn(rows, columns, seed=0)
    packed, scale, shape = pack_int4(weight)
    assert (packed.dtype, scale.dtype, shape.tolist()) == (torch.int32, torch.bfloat16, [rows, columns])
    assert packed.shape == (rows, math.ceil(columns / 8))
    once = unpack_int4(packed, scale, (rows, columns))
    again, same, _ = pack_int4(once)
    assert torch.equal(again, packed)
    assert torch.equal(same, scale)
    assert ((once - weight).abs() <= scale.float().repeat_interleave(32, 1)[:, :columns] * 0.54).all()


def test_each_int4_number_is_multiplied_by_the_scale_of_its_own_group():
    packed, _, _ = pack_int4(randn(3, 80, seed=0))
    scale = randn(3, 3, seed=2).bfloat16()
    numbers = unpack_int4(packed, torch.ones(3, 3), (3, 80))
    assert set(numbers.unique().tolist()) <= set(range(-8, 8))
    assert torch.equal(unpack_int4(packed, scale, (3, 80)), by_hand(numbers, scale.float(), (1, 32)))
    in_bf16 = numbers.bfloat16() * scale.repeat_interleave(32, 1)[:, :80]  # as compressed-tensors multiplies
    assert torch.equal(unpack_int4(packed, scale, (3, 80), torch.bfloat16), in_bf16)


def test_int4_of_zeros_is_zero():
    packed, scale, _ = pack_int4(torch.zeros(2, 64))
    assert (unpack_int4(packed, scale, (2, 64)) == 0).all()
    assert scale.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 100), st.integers(0, 2**31))
def test_every_size_comes_back_within_half_a_step(rows, columns, seed):
    weight = randn(rows, 2 * columns, seed=seed)
    assert (unpack_fp8(*pack_fp8(weight)) - weight).abs().max() <= weight.abs().max() / 27
    assert (unpack_fp4(*pack_fp4(weight)) - weight).abs().max() <= weight.abs().max() / 3
    packed, scale, shape = pack_int4(weight)
    assert (unpack_int4(packed, scale, tuple(shape.tolist())) - weight).abs().max() <= weight.abs().max() / 12


WRONG = {
    "fp8, transposed scales": (
        lambda: unpack_fp8(torch.zeros(576, 128).to(torch.float8_e4m3fn), torch.ones(1, 5)),
        "5, 1",
    ),
    "fp8, too few scales": (
        lambda: unpack_fp8(torch.zeros(160, 128).to(torch.float8_e4m3fn), torch.ones(1, 1)),
        "2, 1",
    ),
    "fp4, one group short": (lambda: unpack_fp4(torch.zeros(2, 20).to(torch.int8), torch.ones(2, 1)), "2, 2"),
    "int4, one group short": (lambda: unpack_int4(torch.zeros(2, 5).int(), torch.ones(2, 1), (2, 40)), "2, 2"),
    "int4, one word short": (lambda: unpack_int4(torch.zeros(2, 4).int(), torch.ones(2, 2), (2, 40)), "2, 5"),
}


@pytest.mark.parametrize(("call", "needed"), WRONG.values(), ids=WRONG)
def test_scales_that_do_not_fit_are_refused_with_the_number_that_is_needed(call, needed):
    with pytest.raises(ValueError, match=rf"\[{needed}\] are needed"):
        call()
