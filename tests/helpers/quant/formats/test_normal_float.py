"""NF4 and FP4: tables, codes, scales and numbers equal to bitsandbytes', double quantisation too."""

import bitsandbytes.functional as theirs
import pytest
import torch

from helpers.compare import randn
from helpers.quant.formats.named import encode
from helpers.quant.formats.normal_float import (
    DYNAMIC,
    FP4,
    NF4,
    OUTERMOST,
    nearest_codes,
    nf4_values,
    pack_scales,
    pack_table,
    unpack_scales,
    unpack_table,
)

TABLES = {"nf4": NF4, "fp4": FP4}


def hard_weights(rows=48, columns=512):
    weight = randn(rows, columns, seed=0) * torch.logspace(-4, 4, rows)[:, None]
    weight[0], weight[1, :70], weight[2, 5] = 0, 0, 1e4
    return weight


@pytest.mark.parametrize("name", TABLES)
def test_the_derived_values_are_bitsandbytes_table_bit_by_bit(name):
    assert torch.equal(TABLES[name], theirs.get_4bit_type(name, device="cpu"))
    assert torch.equal(DYNAMIC, theirs.create_dynamic_map())


def test_nf4_has_a_zero_and_lies_at_even_quantiles_of_a_normal_distribution():
    assert NF4[7] == 0
    assert NF4.abs().max() == 1
    outermost = torch.special.ndtri(torch.tensor(OUTERMOST, dtype=torch.float64))
    chances = torch.special.ndtr(nf4_values().double() * outermost)
    steps = chances.diff()
    assert torch.allclose(steps[:7], steps[:7].mean(), atol=1e-6)
    assert torch.allclose(steps[7:], steps[7:].mean(), atol=1e-6)
    assert pytest.approx((1 - 1 / 32 + 1 - 1 / 30) / 2, abs=1e-7) == OUTERMOST


def test_fp4_of_bitsandbytes_is_e2m1_but_for_its_smallest_value():
    e2m1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6
    ours = FP4[:8].sort().values
    assert torch.equal(ours[2:], e2m1[2:])
    assert ours[1] == pytest.approx(1 / 192)
    assert e2m1[1] == pytest.approx(1 / 12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize("name", TABLES)
def test_codes_scales_and_numbers_are_bitsandbytes_bit_by_bit(name, block, dtype):
    weight = hard_weights().to(dtype)
    packed, state = theirs.quantize_4bit(weight, quant_type=name, blocksize=block)
    ours, most = pack_table(weight, TABLES[name], block)
    assert torch.equal(ours.flatten(), packed.flatten())
    assert torch.equal(most.flatten(), state.absmax)
    assert torch.equal(unpack_table(ours, most, TABLES[name]).to(dtype), theirs.dequantize_4bit(packed, state))


@pytest.mark.parametrize("name", TABLES)
def test_numbers_halfway_between_two_values_go_where_bitsandbytes_sends_them(name):
    ordered = TABLES[name].unique()
    middles = (ordered[1:] + ordered[:-1]) / 2
    row = torch.cat([torch.ones(1), middles, -middles, ordered, torch.tensor([-0.0, 1e-9, -1e-9])])
    weight = torch.nn.functional.pad(row, (0, -len(row) % 64))[None]
    packed, _ = theirs.quantize_4bit(weight, quant_type=name)
    assert torch.equal(pack_table(weight, TABLES[name])[0].flatten(), packed.flatten())


def test_the_nearest_of_a_table_by_hand():
    assert nearest_codes(torch.tensor([-9.0, 0.24, 0.25, 0.26, 9]), torch.tensor([0.5, -1.0, 0.0])).tolist() == [
        1,
        2,
        2,
        0,
        0,
    ]


# The scales' scale.


def scales(count=1000):
    return hard_weights().abs().flatten()[:count].view(4, -1) + 0.1


def as_looked_up(rows):
    """bitsandbytes on a CPU looks the nearest value up at one of 65,536 places between -1 and 1."""
    place = ((rows.clamp(-1, 1) + 1) * 0.5 * 65535 + 0.5).to(torch.int32)
    return -1 + (2.0 * place) / 65535


def test_double_quantisation_is_bitsandbytes_bit_by_bit_once_it_looks_up_as_coarsely():
    most = scales()
    state = theirs.quantize_blockwise((most - most.mean()).flatten(), blocksize=256)
    codes, outer, mean = pack_scales(most)
    assert torch.equal(outer, state[1].absmax)
    rows = torch.nn.functional.pad((most - mean).flatten(), (0, -most.numel() % 256)).view(-1, 256)
    coarse = nearest_codes(as_looked_up(rows * (1 / outer)[:, None]), DYNAMIC).flatten()[: most.numel()]
    assert torch.equal(coarse.byte(), state[0])
    apart = (codes.flatten().int() - state[0].int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).float().mean() < 0.01
    assert (unpack_scales(codes, outer, mean) - most).abs().max() <= (
        theirs.dequantize_blockwise(*state).view(most.shape) + mean - most
    ).abs().max() * (1 + 1e-6)


def test_a_matrix_that_bitsandbytes_quantised_twice_is_read_as_bitsandbytes_reads_it():
    weight = randn(64, 512, seed=5)
    packed, state = theirs.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    most = unpack_scales(state.absmax.view(64, 8), state.state2.absmax, state.offset)
    assert torch.equal(unpack_table(packed.view(64, -1), most, NF4), theirs.dequantize_4bit(packed, state))
    ours = encode(weight, "nf4-double").tensors()
    assert torch.equal(ours["codes"].flatten(), packed.flatten())
    assert torch.equal(ours["offset"], state.offset)
    assert torch.equal(ours["scale_scale"], state.state2.absmax)
