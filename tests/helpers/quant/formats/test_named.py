"""Every format by its name: what must hold for all of them, and the bytes that each really stores."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from helpers.compare import randn, relative_rms, sqnr
from helpers.planning.plan import BITS as PLANNED
from helpers.quant.formats.blocks import not_zero, spread
from helpers.quant.formats.named import FORMATS, Encoded, encode, format_of
from helpers.quant.formats.normal_float import unpack_scales
from helpers.quant.formats.packing import unpack_pairs

NAMES = list(FORMATS)
AFFINE = ["int8-affine", "int4-affine"]
EXACT_SCALE = [name for name in NAMES if name not in ("nf4-double", *AFFINE)]
BLOCK = {"int8-group": 128, "int4": 32, "int4-affine": 128, "nf4": 64, "nf4-double": 64, "fp4": 64, "mxfp4": 32}
BLOCK |= {"nvfp4": 16}


def scale_and_zero(encoded: Encoded):
    """The scale that belongs to each number, and the code that stands for zero: from the stored parts alone."""
    parts, shape, name = encoded.tensors(), encoded.shape, encoded.format
    if name == "bf16":
        return torch.ones(shape), 0
    scale = parts["scale"]
    if name in ("int8", "int8-affine"):
        zero = parts["zero"].float() if name == "int8-affine" else torch.zeros_like(scale).flatten()
        return scale.reshape(-1, 1).expand(shape), zero.reshape(-1, 1).expand(shape)
    if name == "int8-tensor":
        return scale.expand(shape), 0
    if name.startswith("fp8"):
        return spread(scale, shape, (128, 128)), 0
    if name == "nf4-double":
        scale = unpack_scales(scale, parts["scale_scale"], parts["offset"])
    if name == "nvfp4":
        scale = scale.float() * parts["scale_scale"]
    zero = 0
    if name == "int4-affine":
        zero = spread(unpack_pairs(parts["zero"], scale.shape[1]).float(), shape, (1, 128))
    return spread(scale, shape, (1, BLOCK[name])), zero


@st.composite
def matrices(draw):
    """Small and large, Gaussian or uniform, with and without a huge number, a row of zeros, a column apart."""
    rows, columns = draw(st.integers(1, 5)), 128 * draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    make = draw(st.sampled_from([torch.randn, torch.rand]))
    weight = make(rows, columns, generator=generator) * 10.0 ** draw(st.integers(-12, 12))
    if draw(st.booleans()):
        weight[draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))] *= 10.0 ** draw(st.integers(1, 5))
    if draw(st.booleans()):
        weight[draw(st.integers(0, rows - 1))] = 0
    return weight


@pytest.mark.parametrize("name", [name for name in NAMES if name != "nf4-double"])  # its codes know the exact scale
@settings(max_examples=25, deadline=None)
@given(weight=matrices())
def test_no_value_of_the_format_is_nearer_to_a_number_than_the_one_that_it_got(name, weight):
    encoded = encode(weight, name)
    scale, zero = scale_and_zero(encoded)
    scale = not_zero(scale)
    values = format_of(name).values().double()
    asked, given_back = weight.double() / scale.double() + zero, encoded.decode().double() / scale.double() + zero
    best = values[torch.searchsorted((values[:-1] + values[1:]) / 2, asked)]
    slack = 1e-5 * (1 + asked.abs().clamp(max=values.abs().max()) + zero)  # a zero point is added and taken off again
    wrong = (given_back - asked).abs() > (best - asked).abs() + slack
    assert not wrong.any(), (asked[wrong], given_back[wrong], best[wrong])


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(weight=matrices())
def test_what_comes_back_is_finite_and_its_largest_error_is_a_part_of_the_largest_number(name, weight):
    back = encode(weight, name).decode()
    assert back.isfinite().all()
    part = {"bf16": 2**-8, "int8": 1 / 253, "int8-tensor": 1 / 253, "int8-group": 1 / 253, "int8-affine": 1 / 127}
    part |= {"fp8": 1 / 27, "fp8-e5m2": 1 / 13, "int4": 1 / 13, "int4-affine": 1 / 12, "mxfp4": 1 / 3.9}
    allowed = part.get(name, 1 / 5.9) * weight.abs().max()
    assert (back - weight).abs().max() <= allowed * (1 + 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("power", [-9, 0, 5])
def test_numbers_that_the_format_can_say_come_back_exactly(name, power):
    values = format_of(name).values()
    draw = torch.Generator().manual_seed(0)
    if name == "bf16":
        values = values[(values.abs() > 2**-60) & (values.abs() < 2**60)]
    weight = values[torch.randint(len(values), (6, 256), generator=draw)]
    if name in AFFINE:
        weight[:, ::16], weight[:, 1::16] = values[0], values[-1]  # both ends in every group
        weight = weight - values[5]
    elif name != "bf16":
        weight[:, ::16] = values[-1]  # the largest in every group
    weight = weight * 2.0**power
    back = encode(weight, name).decode()
    if name == "nvfp4":  # the scale of the matrix is a seventh of a power of two
        assert relative_rms(back, weight) < 1e-6
    else:
        assert torch.equal(back, weight)


@pytest.mark.parametrize("name", EXACT_SCALE)
@settings(max_examples=15, deadline=None)
@given(weight=matrices())
def test_quantised_twice_is_quantised_once(name, weight):
    once = encode(weight, name).decode()
    assert relative_rms(encode(once, name).decode(), once) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_zeros_stay_zeros_beside_other_numbers_and_alone(name):
    weight = randn(3, 256, seed=0)
    weight[:, ::5] = 0
    weight[1] = 0
    if name == "nf4-double":
        assert (encode(weight, name).decode()[:, ::5].abs() == 0).all()
    else:
        assert (encode(weight, name).decode()[weight == 0] == 0).all()
    assert (encode(torch.zeros(3, 256), name).decode() == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_single_huge_number_keeps_its_size_and_hurts_only_those_that_share_its_scale(name):
    weight = randn(256, 512, seed=1)
    weight[7, 9] = 3e4
    back = encode(weight, name).decode()
    assert back[7, 9] == pytest.approx(3e4, rel=0.26)
    scale, _ = scale_and_zero(encode(weight, name))
    alone = scale != scale[7, 9] if name != "bf16" else torch.ones_like(weight, dtype=torch.bool)
    if name == "int8-tensor":
        assert not alone.any()
        assert (back[weight.abs() < 100] == 0).all()
    elif name == "nf4-double":  # 256 scales share one, those of 32 rows here: the huge one takes their steps
        assert sqnr(back[:32, 64:], weight[:32, 64:]) < 16 < 19 < sqnr(back[32:], weight[32:])
    elif name == "nvfp4":  # the scale of the matrix leaves the others too few powers of two
        assert sqnr(back[alone], weight[alone]) > 5
    else:
        assert sqnr(back[alone], weight[alone]) > 15


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_very_small_and_very_large_numbers_keep_their_shape(name, size):
    weight = randn(4, 256, seed=2)
    there, back = encode(weight, name), encode(weight * size, name).decode() / size
    assert relative_rms(back, there.decode()) < 0.3 if name == "mxfp4" else 0.05


BITS = {
    "bf16": 16,
    "int8": 8 + 32 / 512,
    "int8-tensor": 8 + 32 / (256 * 512),
    "int8-group": 8 + 32 / 128,
    "int8-affine": 8 + (32 + 8) / 512,
    "int4": 4 + 16 / 32,
    "int4-affine": 4 + (16 + 4) / 128,
    "fp8": 8 + 32 / 128**2,
    "fp8-e5m2": 8 + 32 / 128**2,
    "nf4": 4 + 32 / 64,
    "nf4-double": 4 + 8 / 64 + 32 / (64 * 256) + 32 / (256 * 512),
    "fp4": 4 + 32 / 64,
    "mxfp4": 4 + 8 / 32,
    "nvfp4": 4 + 8 / 16 + 32 / (256 * 512),
}


@pytest.mark.parametrize("name", NAMES)
def test_bits_a_weight_are_counted_from_the_bytes_of_the_stored_tensors(name):
    encoded = encode(randn(256, 512, seed=3), name)
    assert encoded.bits_per_weight == pytest.approx(BITS[name], rel=1e-12)
    assert encoded.bytes() == sum(
        len(bytes(t.contiguous().view(torch.uint8).flatten().tolist())) if t.dim() else t.element_size()
        for t in encoded.tensors().values()
    )


def test_double_quantisation_saves_what_qlora_says():
    weight = randn(256, 512, seed=3)
    saved = encode(weight, "nf4").bits_per_weight - encode(weight, "nf4-double").bits_per_weight
    assert saved == pytest.approx(0.373, abs=5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_is_built_again_from_a_file_of_its_tensors(name, tmp_path):
    encoded = encode(randn(130, 256, seed=4), name)
    save_file({key: tensor.contiguous() for key, tensor in encoded.tensors().items()}, tmp_path / "w.safetensors")
    again = Encoded(name, encoded.shape, load_file(tmp_path / "w.safetensors"))
    assert torch.equal(again.decode(), encoded.decode())
    assert again.bytes() == encoded.bytes()
    assert encoded.decode(torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_the_values_of_a_format_are_sorted_different_and_all_there_are(name):
    values = format_of(name).values()
    assert (values[1:] > values[:-1]).all()
    assert 0 in values
    counts = {"bf16": 65279, "int8-affine": 256, "int4": 15, "int4-affine": 16, "fp8": 253, "fp8-e5m2": 247}
    counts |= {"nf4": 16, "nf4-double": 16, "fp4": 15, "mxfp4": 15, "nvfp4": 15}
    assert len(values) == counts.get(name, 255)


@pytest.mark.parametrize("name", NAMES)
def test_a_gaussian_loses_more_with_fewer_bits_and_never_more_than_the_format_should(name):
    least = {"bf16": 55, "int8-tensor": 39, "fp8": 31, "fp8-e5m2": 25, "fp4": 18, "mxfp4": 18.5, "int4-affine": 19.5}
    least |= {"int4": 20, "nf4": 20.5, "nf4-double": 20.5, "nvfp4": 20}
    weight = randn(256, 512, seed=5)
    assert least.get(name, 42) <= sqnr(encode(weight, name).decode(), weight) <= least.get(name, 42) + 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e-34, 1e-36, 1e-38, 1e-40, 1e-44])
def test_numbers_at_the_lower_end_of_float32_come_back_finite_no_larger_and_zeros_as_zeros(name, size):
    weight = randn(2, 256, seed=0) * size
    weight[:, ::7] = 0
    back = encode(weight, name).decode()
    assert back.isfinite().all()
    assert (back[:, ::7] == 0).all()
    assert back.abs().max() <= 1.3 * weight.abs().max()


# Refused.


@pytest.mark.parametrize("name", sorted(BLOCK))
def test_a_width_that_the_groups_do_not_divide_is_refused_with_both_numbers(name):
    with pytest.raises(ValueError, match=rf"'{name}' needs a width that {BLOCK[name]} divides, and here are 1\d\d"):
        encode(torch.ones(2, 100 + BLOCK[name] // 2), name)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(BLOCK)))
def test_formats_without_groups_of_a_row_take_any_size(name):
    weight = randn(130, 131, seed=6)
    assert sqnr(encode(weight, name).decode(), weight) > 20


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_is_refused_and_counted(name, wrong):
    weight = torch.ones(2, 128)
    weight[1, 3] = wrong
    with pytest.raises(ValueError, match=rf"'{name}' cannot store this matrix: 1 of 256 numbers are NaN or infinite"):
        encode(weight, name)


def test_a_number_that_leaves_no_room_for_a_scale_is_refused():
    assert encode(torch.full((1, 128), 9e36), "int8-affine").decode().isfinite().all()
    with pytest.raises(
        ValueError,
        match=r"'nf4' cannot .*: the largest of its numbers is 2e\+37, and torch.float32 is packed up to 1e\+37",
    ):
        encode(torch.full((1, 128), 2e37), "nf4")


@pytest.mark.parametrize("weight", [torch.ones(128), torch.ones(2, 2, 128), torch.ones(2, 128).int(), torch.ones(0, 8)])
def test_what_is_no_matrix_of_numbers_is_refused(weight):
    with pytest.raises((ValueError, TypeError)) as refusal:
        encode(weight, "int8")
    assert "matrix" in str(refusal.value) or "jaxtyping" in str(type(refusal.value)) or "Float" in str(refusal.value)


def test_an_unknown_format_and_parts_that_belong_to_another_are_refused_with_what_there_is():
    with pytest.raises(ValueError, match="no format 'int5'; known are bf16, int8, "):
        encode(torch.ones(1, 128), "int5")
    with pytest.raises(ValueError, match="'mxfp4' stores codes, scale, and given are codes"):
        Encoded("mxfp4", (1, 128), {"codes": torch.ones(1, 64)})


def test_the_bits_that_the_plans_of_large_models_reckon_with_are_the_formats():
    large = {"fp8 128x128": "fp8", "int4 g32": "int4", "nf4 g64": "nf4", "fp4 1x32": "mxfp4"}
    weight = randn(256, 512, seed=7)
    for planned, name in large.items():
        assert encode(weight, name).bits_per_weight == pytest.approx(PLANNED[planned], rel=1e-12)
