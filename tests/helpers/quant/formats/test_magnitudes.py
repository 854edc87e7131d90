"""Numbers of every size, in every format: what comes back is finite and near, or is refused in one line before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packed_files import pack_int4

from helpers.quant.formats.blocks import LARGEST
from helpers.quant.formats.floats import pack_fp8, unpack_fp8
from helpers.quant.formats.fp4 import pack_fp4, pack_nvfp4, unpack_fp4, unpack_nvfp4
from helpers.quant.formats.integers import grid_of, int4_codes, unpack_int4
from helpers.quant.formats.named import FORMATS, encode
from helpers.quant.formats.normal_float import NF4, pack_scales, pack_table, unpack_scales, unpack_table
from helpers.quant.methods.awq import stretch
from helpers.quant.methods.input_statistics import Inputs, output_error
from helpers.quant.methods.qat import rounded
from helpers.quant.methods.smooth import smoothing

# The most by which a number may be off: as a part of itself in bf16, of the largest of the matrix where all rows share
# a scale, else of the largest of its row. Below SMALLEST the numbers of float32 are subnormal, whose steps are even.
PART = {"bf16": 2**-8, "int8-affine": 1 / 127, "int4": 1 / 13, "int4-affine": 1 / 7, "mxfp4": 1 / 3.9}
PART |= {"int8": 1 / 253, "int8-tensor": 1 / 253, "int8-group": 1 / 253, "fp8": 1 / 27, "fp8-e5m2": 1 / 13}
OTHERS = 1 / 5.5
ALL_ROWS = ("int8-tensor", "fp8", "fp8-e5m2", "nf4-double", "nvfp4")
SMALLEST = 2.0**-126
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@st.composite
def weights(draw, most: float = LARGEST):
    """Rows of very different sizes: huge, tiny, subnormal, zero, of either sign; some with an outlier in a group."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(draw(st.integers(1, 3)), 256, generator=generator)
    weight /= weight.abs().amax(dim=1, keepdim=True)
    for row in weight:
        row *= draw(st.sampled_from([most, most / 3, 1e30, 1e10, 1.0, 1e-10, 1e-30, 1e-38, 1e-41, 1e-45, 0.0, -0.0]))
        if draw(st.booleans()):
            row[draw(st.integers(0, 255))] = draw(st.sampled_from([-most, most, 1.0, 1e-45, -0.0]))
        if draw(st.booleans()):
            row[64:192] = draw(st.sampled_from([0.0, -0.0, 1e-45]))
    return weight


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None)
@given(weight=weights())
def test_up_to_the_largest_that_is_packed_all_comes_back_finite_and_near(name, weight):
    back = encode(weight, name).decode()
    assert back.isfinite().all()
    size = weight.abs()
    largest = size if name == "bf16" else size.max() if name in ALL_ROWS else size.amax(dim=1, keepdim=True)
    allowed = PART.get(name, OTHERS) * largest
    assert ((back - weight).abs() <= allowed * (1 + 1e-5) + 8 * SMALLEST).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=40, deadline=None)
@given(weight=weights(3e38))
def test_numbers_of_any_dtype_come_back_finite_in_it_or_are_refused_in_one_line(name, dtype, weight):
    weight = (weight / 3e38 * 0.99 * torch.finfo(dtype).max if dtype == torch.float16 else weight).to(dtype)
    if weight.abs().max() > min(LARGEST, torch.finfo(dtype).max / 2):
        with pytest.raises(ValueError, match=f"^[^\n]* {dtype} is packed up to [^\n]*$"):
            encode(weight, name)
    else:
        encoded = encode(weight, name)
        assert encoded.decode(dtype).isfinite().all()
        assert all(part.float().isfinite().all() for part in encoded.parts.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_the_largest_number_of_each_dtype_is_refused(name, dtype):
    with pytest.raises(ValueError, match=rf"'{name}' cannot store this matrix: .* is packed up to"):
        encode(torch.full((1, 256), torch.finfo(dtype).max, dtype=dtype), name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_rows_of_zeros_of_either_sign_are_zeros_beside_huge_numbers(name, zero):
    weight = torch.full((3, 256), zero)
    weight[1] = LARGEST
    back = encode(weight, name).decode()
    assert (back[0::2].abs() <= (LARGEST / 64 if name == "nf4-double" else 0)).all()  # its scales share a scale
    assert back.isfinite().all()


# Scales in a type of their own.


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", [1e6, 1e10, 1e37, 3e38])
def test_a_scale_that_its_type_does_not_hold_is_refused(symmetric, scale_dtype, number):
    weight = torch.tensor([[-number, 0.5, number, 1.0]])
    scale = 2 * number / 15 if not symmetric else number / 7
    if scale > torch.finfo(scale_dtype).max or (2 * number > 3.4e38 and not symmetric):
        with pytest.raises(ValueError, match=f"steps of a scale of .* are more than {scale_dtype} or float32 holds"):
            grid_of(weight, 4, symmetric=symmetric, scale_dtype=scale_dtype)
    else:
        assert grid_of(weight, 4, symmetric=symmetric, scale_dtype=scale_dtype).scale.isfinite().all()


def test_int4_with_scales_in_float16_takes_seven_times_what_they_hold_and_no_more():
    fits, huge = torch.full((1, 32), 7 * 65504.0), torch.full((1, 32), 1e6)
    packed, scale, _ = pack_int4(fits, scale_dtype=torch.float16)
    assert torch.equal(unpack_int4(packed, scale, (1, 32)), fits)
    for call in (int4_codes, pack_int4):
        with pytest.raises(
            ValueError, match=r"7 steps of a scale of 1.43e\+05 are more than torch.float16 or float32 holds"
        ):
            call(huge, scale_dtype=torch.float16)


PACKS = {
    "fp8": lambda weight: unpack_fp8(*pack_fp8(weight)),
    "fp8-e5m2": lambda weight: unpack_fp8(*pack_fp8(weight, dtype=torch.float8_e5m2)),
    "fp4": lambda weight: unpack_fp4(*pack_fp4(weight)),
    "nvfp4": lambda weight: unpack_nvfp4(*pack_nvfp4(weight)),
    "nf4": lambda weight: unpack_table(*pack_table(weight, NF4), NF4),
    "int4": lambda weight: unpack_int4(*pack_int4(weight)[:2], tuple(weight.shape)),
}


@pytest.mark.parametrize("pack", PACKS)
@settings(max_examples=40, deadline=None)
@given(weight=weights(3.38e38))
def test_what_files_are_packed_with_gives_back_finite_numbers_or_refuses(pack, weight):
    room = LARGEST if pack != "int4" else 3.37e38  # seven steps of a bfloat16, rounded up
    if weight.abs().max() <= room:
        assert PACKS[pack](weight).isfinite().all()
    elif pack != "int4":
        with pytest.raises(ValueError, match=r"packed up to 1e\+37"):
            PACKS[pack](weight)


def test_the_mean_of_many_huge_scales_is_not_infinite():
    most = torch.full((40, 64), LARGEST)
    most[::2] /= 2
    codes, outer, mean = pack_scales(most)
    assert mean.item() == pytest.approx(0.75 * LARGEST, rel=1e-6)
    assert torch.allclose(unpack_scales(codes, outer, mean) / LARGEST, most / LARGEST, rtol=0.02)


@settings(max_examples=60, deadline=None)
@given(weight=weights(3e38))
def test_weights_that_are_trained_as_rounded_are_read_finite_in_float32_and_bfloat16(weight):
    for dtype in (torch.float32, torch.bfloat16):
        assert rounded(weight.clamp(-LARGEST, LARGEST).to(dtype), 4, 32).isfinite().all()


# What a text says of inputs.


@settings(max_examples=60, deadline=None)
@given(x=weights(3e38), weight=weights(3e38))
def test_inputs_and_errors_are_summed_up_finite_or_refused(x, weight):
    if not (x.double().T @ x.double() / len(x)).float().isfinite().all():
        with pytest.raises(ValueError, match=r"inputs up to .* squares are no numbers of float32"):
            Inputs.of(x)
        return
    inputs = Inputs.of(x.clamp(-1e18, 1e18))
    assert inputs.hessian.isfinite().all()
    if weight.abs().max() * x.abs().max() < 1e17:
        assert output_error(weight, inputs).isfinite().all()
    elif not output_error(weight.double(), inputs._replace(hessian=inputs.hessian.double())).float().isfinite().all():
        with pytest.raises(ValueError, match=r"weights up to .* squares are no numbers of float32"):
            output_error(weight, inputs)


@settings(max_examples=60, deadline=None)
@given(x=weights(3e38), alpha=st.floats(0, 1))
def test_scales_of_columns_are_finite_and_none_is_zero(x, alpha):
    size, largest = x.double().abs().mean(dim=0).float(), x.abs().amax(dim=0)
    for scale in (stretch(size, alpha), smoothing(largest, [x], alpha)):
        assert scale.isfinite().all()
        assert (scale > 0).all()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_smoothing_refuses_what_is_no_number(number):
    good, wrong = torch.ones(4), torch.tensor([1.0, number, 1.0, 1.0])
    for largest, weight in ((wrong, good[None]), (good, wrong[None])):
        with pytest.raises(ValueError, match="finite numbers"):
            smoothing(largest, [weight])
