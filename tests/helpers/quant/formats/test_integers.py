"""INT8 and INT4: equal to bitsandbytes, by hand, and the grid that every rounder uses."""

import bitsandbytes.functional as theirs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packed_files import pack_int4

from helpers.compare import assert_close, randn, tolerance
from helpers.quant.formats.integers import (
    Grid,
    from_codes,
    grid_of,
    grouped,
    int4_codes,
    round_to,
    unpack_int4,
    vectorwise,
)
from helpers.quant.formats.named import encode
from helpers.quant.formats.outliers import mixed_product, outlier_columns, split
from helpers.quant.formats.packing import pack_words


def test_a_row_small_enough_for_paper():
    codes, scale = vectorwise(torch.tensor([[12.7, -6.35, 0.04, 0.05, 0.06]]))
    assert codes.tolist() == [[127, -64, 0, 0, 1]]  # 63.5 and 0.5 go to the even neighbour
    assert scale.tolist() == pytest.approx([0.1])


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 256), (300, 1000)])
def test_a_scale_a_row_gives_bitsandbytes_codes_bit_by_bit(shape):
    weight = randn(*shape, seed=0) * torch.logspace(-3, 3, shape[0])[:, None]
    codes, largest, _ = theirs.int8_vectorwise_quant(weight.clone())
    ours, scale = vectorwise(weight)
    assert torch.equal(ours, codes)
    assert torch.equal(scale, largest / 127)
    assert_close(
        encode(weight, "int8").decode(), theirs.int8_vectorwise_dequant(codes, largest), tolerance(torch.float32, 4), ""
    )


def test_divided_by_the_scale_some_codes_would_differ_from_bitsandbytes():
    weight = randn(2000, 1000, seed=1)
    codes, scale = vectorwise(weight)
    divided = (weight / scale[:, None]).round()
    assert 0 < (divided != codes).sum() < 100


def with_outliers(tokens=33, width=256, seed=0):
    x = randn(tokens, width, seed=seed)
    x[:, [3, 77, 200]] *= 20
    return x


@pytest.mark.parametrize("tokens", [1, 2, 33])
def test_outliers_are_split_off_as_bitsandbytes_does_it(tokens):
    x = with_outliers(tokens)
    codes, largest, columns = theirs.int8_vectorwise_quant(x.clone(), threshold=6.0)
    ours, scale, ours_columns = split(x)
    assert torch.equal(ours_columns, columns)
    assert torch.equal(scale, largest / 127)
    assert torch.equal(ours, codes)


def test_the_mixed_product_is_bitsandbytes_and_far_nearer_than_int8_alone():
    x, weight = with_outliers(), randn(48, 256, seed=9) / 16
    codes, scale = vectorwise(weight)
    small, largest, columns = theirs.int8_vectorwise_quant(x.clone(), threshold=6.0)
    expected, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(x, small, codes, largest, scale * 127, columns)
    ours = mixed_product(x, codes, scale)
    assert_close(ours, expected.float(), 8 * tolerance(torch.float32, 256), "mixed product")
    alone, steps = vectorwise(x)
    plain = (alone.int() @ codes.int().T).float() * steps[:, None] * scale
    exact = x @ weight.T
    assert (plain - exact).norm() > 3 * (ours - exact).norm()


def test_without_outliers_the_mixed_product_is_the_plain_one():
    x, (codes, scale) = randn(5, 64, seed=0).clamp(-5, 5), vectorwise(randn(7, 64, seed=1))
    assert outlier_columns(x).numel() == 0
    small, steps = vectorwise(x)
    assert torch.equal(mixed_product(x, codes, scale), (small.int() @ codes.int().T).float() * steps[:, None] * scale)


# The grid.


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), groups=st.integers(1, 4), shift=st.sampled_from([0.0, 3.0, -3.0]))
def test_every_number_comes_back_within_half_a_step_and_zero_stays_zero(bits, symmetric, seed, groups, shift):
    weight = randn(5, 32 * groups, seed=seed) + shift
    weight[:, 0] = 0
    grid = grid_of(weight, bits, 32, symmetric)
    codes = round_to(weight, grid)
    assert grid.low <= codes.min() <= codes.max() <= grid.high
    back, step = from_codes(codes, grid), grid.scale.repeat_interleave(32, dim=1)
    worst = 0.5 if symmetric else 1.0  # the zero point was rounded too: the ends may lie a whole step off
    assert ((back - weight).abs() <= worst * step * (1 + 1e-4)).all()
    assert (back[:, 0] == 0).all()


def test_the_grid_of_two_bits_on_paper():
    grid = grid_of(torch.tensor([[-1.0, 0.0, 1.0, 2.0]]), 2, symmetric=False)
    assert grid == (torch.tensor([[1.0]]), torch.tensor([[1.0]]), 0, 3)
    assert round_to(torch.tensor([[-1.0, 0.4, 1.5, 9.0]]), grid).tolist() == [[0, 1, 3, 3]]
    assert from_codes(torch.tensor([[0, 1, 2, 3]]), grid).tolist() == [[-1, 0, 1, 2]]
    assert grid_of(torch.tensor([[-3.0, 1.0]]), 2).scale.tolist() == [[3.0]]


def test_a_column_is_rounded_on_the_grid_of_its_group():
    weight = randn(6, 64, seed=3)
    grid = grid_of(weight, 4, 16, symmetric=False)
    column = Grid(grid.scale[:, [2]], grid.zero[:, [2]], grid.low, grid.high)
    assert torch.equal(round_to(weight[:, 40:41], column), round_to(weight, grid)[:, 40:41])


def test_int4_by_another_rule_than_ours_is_read_as_it_is_and_ours_is_a_fixed_point_of_itself():
    """compressed-tensors 0.20.1 takes largest / 7.5 and -8 to 7; files of either rule are read by the one reader."""
    weight = randn(4, 64, seed=5)
    blocks = weight.unflatten(1, (-1, 32))
    scale = (blocks.abs().amax(dim=-1) / 7.5).bfloat16()
    codes = (blocks / scale.float()[..., None]).round().clamp(-8, 7).flatten(1).int()
    read = unpack_int4(pack_words(codes + 8), scale, (4, 64))
    assert torch.equal(read, codes * scale.float().repeat_interleave(32, 1))
    assert codes.abs().max() == 8
    words, own_scale, _ = pack_int4(weight)
    again = pack_int4(unpack_int4(words, own_scale, (4, 64)))
    assert torch.equal(again[0], words)
    assert torch.equal(again[1], own_scale)
    assert not torch.equal(words, pack_words(codes + 8))


def test_int4_is_the_symmetric_grid_with_scales_in_bfloat16_and_its_bytes_are_those_of_compressed_tensors():
    weight = randn(8, 128, seed=4)
    codes, scale = int4_codes(weight)
    grid = grid_of(weight, 4, 32, scale_dtype=torch.bfloat16)
    assert torch.equal(scale, grid.scale)
    assert torch.equal(codes, round_to(weight, grid))
    words, _, _ = pack_int4(weight)
    assert torch.equal(encode(weight, "int4").tensors()["codes"], words.view(torch.uint8))  # lowest byte first


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: grid_of(torch.ones(2, 8), 1), "1 bits per code; a grid has 2 to 8"),
        (lambda: grid_of(torch.ones(2, 8), 4, 3), "a row of 8 cannot be cut into groups of 3"),
        (lambda: grouped(torch.ones(2, 10), 4), "groups of 4"),
        (lambda: round_to(torch.ones(3, 8), grid_of(torch.ones(2, 8), 4)), r"2 rows and 1 groups does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
