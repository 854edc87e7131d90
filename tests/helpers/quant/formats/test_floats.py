"""E4M3, E5M2, E2M1 and powers of two: equal to torch's own casts, bit by bit; MXFP4 and NVFP4 equal to torchao's."""

import pytest
import torch

from helpers.compare import randn
from helpers.quant.formats.floats import BF16, E2M1, E4M3, E5M2, FP8, round_to_kind, values
from helpers.quant.formats.fp4 import (
    e2m1_codes,
    e2m1_values,
    pack_fp4,
    pack_nvfp4,
    power_of_two,
    unpack_fp4,
    unpack_nvfp4,
)
from helpers.quant.formats.named import encode

EIGHT_BITS = torch.arange(256, dtype=torch.uint8)


def every_bfloat16():
    """All finite numbers of 16 bits, as float32."""
    all_of_them = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()
    return all_of_them[all_of_them.isfinite()]


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_the_values_of_a_kind_are_all_that_torch_reads_from_256_bytes(dtype):
    theirs = EIGHT_BITS.view(dtype).float()
    theirs = theirs[theirs.isfinite()].unique()
    assert torch.equal(values(FP8[dtype]), theirs)


def test_bfloat16_is_a_kind_too():
    assert torch.equal(values(BF16), every_bfloat16().unique())


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_rounding_is_torchs_cast_for_every_number_of_16_bits_and_for_others(dtype):
    kind = FP8[dtype]
    for x in (every_bfloat16(), randn(100_000, seed=0) * torch.logspace(-9, 3, 100_000)):
        kept = x[x.abs() <= kind.largest]
        assert torch.equal(round_to_kind(kept, kind), kept.to(dtype).float())


@pytest.mark.parametrize("kind", [E4M3, E5M2, E2M1])
def test_halfway_goes_to_the_even_fraction_and_beyond_the_largest_to_the_largest(kind):
    all_values = values(kind)
    middles = (all_values[1:] + all_values[:-1]) / 2
    rounded = round_to_kind(middles, kind)
    index = torch.searchsorted(all_values, rounded)
    zero = len(all_values) // 2
    assert torch.equal(all_values[index], rounded)
    assert ((index - zero) % 2 == 0).all()
    assert round_to_kind(torch.tensor([1e9, -1e9]), kind).tolist() == [kind.largest, -kind.largest]


def test_the_kinds_on_paper():
    assert values(E2M1).tolist() == [-6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert values(E4M3)[127:131].tolist() == [2**-9, 2 * 2**-9, 3 * 2**-9, 4 * 2**-9]
    assert (E4M3.lowest_exponent, E5M2.lowest_exponent, E2M1.lowest_exponent) == (-6, -14, 0)
    assert len(values(E4M3)) == 253
    assert len(values(E5M2)) == 247


def test_four_bit_codes_and_rounding_agree():
    x = randn(10_000, seed=1) * 3
    assert torch.equal(e2m1_values(e2m1_codes(x)), round_to_kind(x, E2M1))
    codes = torch.arange(16, dtype=torch.uint8)
    assert torch.equal(e2m1_codes(e2m1_values(codes)), codes)


def test_four_bit_bytes_are_torchs_type_of_two_in_a_byte():
    packed, _ = pack_fp4(randn(4, 64, seed=2))
    assert packed.view(torch.float4_e2m1fn_x2).shape == (4, 32)


# Powers of two.


@pytest.mark.parametrize("cut", [False, True])
def test_a_scale_is_the_smallest_power_that_cuts_nothing_or_the_standards(cut):
    most = torch.tensor([[4.0, 6.0, 6.01, 7.99, 8.0, 12.0, 1.0, 1.5, 0.75, 0.0, 2.0**-60]])
    scale = power_of_two(most, cut).float()
    expected = [1, 1, 1, 1, 2, 2, 0.25, 0.25, 0.125] if cut else [1, 1, 2, 2, 2, 2, 0.25, 0.25, 0.125]
    assert scale[0, :9].tolist() == expected
    assert scale[0, 9] == 2.0**-127
    assert scale[0, 10] == 2.0**-62


def test_scales_are_exact_over_the_whole_range_that_a_byte_holds():
    powers = torch.arange(-120, 127)
    most = powers.float().exp2()[None]
    assert torch.equal(power_of_two(most, cut=True).view(torch.uint8)[0].int(), powers.int() - 2 + 127)
    assert torch.equal(EIGHT_BITS[:255].view(torch.float8_e8m0fnu).float().log2(), torch.arange(255.0) - 127)


def test_the_standards_scale_cuts_what_lies_between_six_and_eight_steps():
    weight = torch.full((1, 32), 0.5)
    weight[0, 0] = 7.5
    assert unpack_fp4(*pack_fp4(weight, cut=True))[0, :2].tolist() == [6.0, 0.5]
    assert unpack_fp4(*pack_fp4(weight))[0, :2].tolist() == [8.0, 0.0]  # nothing cut, and the small ones pay


def test_nvfp4_makes_its_largest_inner_scale_448_and_follows_numbers_closer_than_powers_of_two():
    weight = randn(64, 512, seed=3)
    packed, inner, outer = pack_nvfp4(weight)
    assert inner.float().max() == 448
    assert outer == weight.abs().max() / (6 * 448)
    errors = [(back - weight).norm() for back in (unpack_nvfp4(packed, inner, outer), unpack_fp4(*pack_fp4(weight)))]
    assert errors[0] < 0.9 * errors[1]


# torchao, where it is there.


def hard_weights():
    weight = randn(64, 512, seed=4) * torch.logspace(-4, 4, 64)[:, None]
    weight[0], weight[1, :40], weight[2, 5] = 0, 0, 1e4
    return weight


@pytest.mark.parametrize("cut", [True])
def test_mxfp4_is_torchaos_bit_by_bit(cut):
    mx = pytest.importorskip("torchao.prototype.mx_formats.mx_tensor", reason="torchao is not installed")
    scale, numbers = mx.to_mx(hard_weights(), torch.float4_e2m1fn_x2, 32)
    packed, ours = pack_fp4(hard_weights(), cut=cut)
    assert torch.equal(ours.view(torch.uint8), scale.view(torch.uint8).view(ours.shape))
    assert torch.equal(packed.view(torch.uint8), numbers.view(torch.uint8))


def test_nvfp4_is_torchaos_bit_by_bit():
    nv = pytest.importorskip("torchao.prototype.mx_formats.nvfp4_tensor", reason="torchao is not installed")
    weight = hard_weights()
    packed, inner, outer = pack_nvfp4(weight)
    assert torch.equal(outer, nv.per_tensor_amax_to_scale(weight.abs().max()))
    scale, numbers = nv.nvfp4_quantize(weight, 16, outer)
    assert torch.equal(inner.view(torch.uint8), scale.view(torch.uint8).view(inner.shape))
    assert torch.equal(packed, numbers)


def test_the_format_called_mxfp4_has_the_standards_scale_and_cuts_what_it_cuts():
    weight = torch.full((1, 32), 0.5)
    weight[0, 0] = -7.5
    assert encode(weight, "mxfp4").decode()[0, :2].tolist() == [-6.0, 0.5]
    assert encode(weight, "mxfp4").tensors()["scale"].float().tolist() == [[1.0]]
