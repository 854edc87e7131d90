"""The parts of a decoder: values small enough for paper, properties, and torch as the reference."""

import re

import pytest
import torch
from torch.nn import functional

from helpers.compare import assert_close, tolerance
from helpers.layers.attention import Attention, attend, causal_mask
from helpers.layers.kv_cache import Cache, KeyValues, KVBuffer
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm, rms_norm
from helpers.layers.ragged import arrange, standing_at
from helpers.layers.rope import angles, frequencies, rotate


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_rms_norm_of_three_and_four_is_what_paper_says():
    size = 12.5**0.5  # of (3, 4): the root of the mean of 9 and 16
    expected = torch.tensor([3 / size, 2 * 4 / size])
    torch.testing.assert_close(rms_norm(torch.tensor([3.0, 4.0]), torch.tensor([1.0, 2.0]), 0.0), expected)


@pytest.mark.parametrize("width", [1, 31, 33])
def test_rms_norm_is_torchs(width):
    x, weight = random(2, 5, width), random(width, seed=1)
    assert_close(
        rms_norm(x, weight, 1e-6), functional.rms_norm(x, (width,), weight, 1e-6), tolerance(x.dtype, width), "norm"
    )


def test_rms_norm_does_not_see_the_size_of_its_input():
    x, weight = random(3, 16), random(16, seed=1)
    torch.testing.assert_close(rms_norm(1000 * x, weight, 0.0), rms_norm(x, weight, 0.0))


def test_rms_norm_of_zeros_is_zero_and_not_nan():
    assert torch.equal(RMSNorm(8, 1e-6)(torch.zeros(2, 8)), torch.zeros(2, 8))


def test_rms_norm_of_bfloat16_takes_its_mean_in_float32():
    x = torch.full((1, 4096), 1.0, dtype=torch.bfloat16)  # in bfloat16, 256 + 1 is 256: the sum would stop there
    assert torch.equal(rms_norm(x, torch.ones(4096, dtype=torch.bfloat16), 0.0), x)


def test_frequencies_fall_from_one():
    torch.testing.assert_close(frequencies(4, 100.0), torch.tensor([1.0, 0.1]))


def test_an_odd_head_cannot_be_turned():
    with pytest.raises(ValueError, match="must be even, not 7"):
        frequencies(7, 1e4)


def test_a_quarter_turn_moves_the_first_half_into_the_second():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)  # the pairs are (1, 3) and (2, 4)
    turned = rotate(x, torch.zeros(1, 2), torch.ones(1, 2))
    assert turned.flatten().tolist() == [-3.0, -4.0, 1.0, 2.0]


def test_position_zero_is_not_turned():
    x = random(2, 1, 3, 8)
    assert torch.equal(rotate(x, *angles(torch.tensor([0]), frequencies(8, 1e4))), x)


def test_rotation_keeps_lengths():
    x = random(2, 7, 3, 10)
    turned = rotate(x, *angles(torch.arange(7) * 100, frequencies(10, 1e4)))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_dot_products_depend_on_the_distance_only():
    query, key = random(1, 1, 1, 16).double(), random(1, 1, 1, 16, seed=1).double()
    radians = frequencies(16, 1e4)

    def product(query_at: int, key_at: int) -> torch.Tensor:
        turned = [
            rotate(x, *angles(torch.tensor([at]), radians, x.dtype)) for x, at in ((query, query_at), (key, key_at))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(5, 2), product(45, 42), rtol=1e-5, atol=1e-5)
    assert (product(5, 2) - product(6, 2)).abs() > 1e-3


def test_swiglu_without_an_open_gate_is_zero():
    mlp = SwiGLU(6, 9)
    torch.nn.init.zeros_(mlp.gate.weight)
    assert torch.equal(mlp(random(2, 3, 6)), torch.zeros(2, 3, 6))


def test_swiglu_is_the_formula():
    mlp, x = SwiGLU(5, 7), random(2, 3, 5)
    gate, up, down = (layer.weight.double() for layer in (mlp.gate, mlp.up, mlp.down))
    x64 = x.double()
    opened = (x64 @ gate.T) * torch.sigmoid(x64 @ gate.T)
    assert_close(mlp(x), (opened * (x64 @ up.T)) @ down.T, tolerance(torch.float32, 7), "swiglu")


def last_of(queries: int, keys: int) -> torch.Tensor:
    """Positions of queries that are the last of the keys, for a batch of one."""
    return torch.arange(keys - queries, keys)[None]


def test_a_query_sees_itself_and_what_came_before():
    assert causal_mask(torch.tensor([[1, 2]]), 3).tolist() == [[[True, True, False], [True, True, True]]]


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (31, 31), (33, 33), (1, 9), (4, 9)])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (3, 1)])
def test_attention_is_torchs(queries, keys, heads, groups):
    query, key = random(2, queries, heads, 8), random(2, keys, groups, 8, seed=1)
    value, mask = random(2, keys, groups, 5, seed=2), causal_mask(last_of(queries, keys), keys).expand(2, -1, -1)
    expected = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask[:, None], enable_gqa=True
    ).transpose(1, 2)
    assert_close(attend(query, key, value, mask), expected, tolerance(torch.float32, keys * 8), "attention")


def test_a_query_that_sees_one_key_returns_its_value():
    query, key, value = random(1, 3, 4, 8), random(1, 3, 2, 8, seed=1), random(1, 3, 2, 8, seed=2)
    read = attend(query, key, value, torch.eye(3, dtype=torch.bool)[None])
    torch.testing.assert_close(read, value.repeat_interleave(2, dim=2))


def test_grouped_attention_is_plain_attention_over_repeated_heads():
    query, key, value = random(1, 5, 6, 8), random(1, 5, 2, 8, seed=1), random(1, 5, 2, 8, seed=2)
    repeated = [x.repeat_interleave(3, dim=2) for x in (key, value)]
    mask = causal_mask(last_of(5, 5), 5)
    torch.testing.assert_close(attend(query, key, value, mask), attend(query, *repeated, mask))
    wrong = [x.repeat(1, 1, 3, 1) for x in (key, value)]  # the classic mistake: heads in turn instead of in groups
    assert (attend(query, key, value, mask) - attend(query, *wrong, mask)).abs().max() > 0.1


def test_the_cache_counts_its_tokens_and_its_bytes():
    cache = Cache([KeyValues() for _ in range(3)])
    assert (cache.length, cache.bytes()) == (0, 0)
    for length in (4, 1):
        rows = cache.begin(torch.zeros(2, length, dtype=torch.long), None)
        for block in cache.blocks:
            keys, values = block.write(random(2, length, 2, 8), random(2, length, 2, 8), rows)
        cache.end(rows)
    assert keys.shape == values.shape == (2, 5, 2, 8)
    assert cache.length == 5
    assert cache.bytes() == 3 * 2 * 2 * 5 * 2 * 8 * 4  # blocks, keys and values, B, S, G, K, bytes


def test_slots_keep_every_position_while_they_grow():
    slots, expected = KVBuffer(), torch.arange(40.0).reshape(1, 40, 1)
    for p in range(40):
        held = slots.write(expected[:, p : p + 1], torch.tensor([[p]]))
        assert torch.equal(held, expected[:, : p + 1])
    assert slots.bytes() == 40 * 4


def test_rows_of_unequal_length_go_on_where_each_of_them_ends():
    slots = KVBuffer()
    slots.write(
        torch.tensor([[[1.0], [2.0]], [[3.0], [9.0]]]), torch.tensor([[0, 1], [0, 1]])
    )  # the second row has one
    held = slots.write(torch.tensor([[[5.0]], [[6.0]]]), torch.tensor([[2], [1]]))
    assert held[0].flatten().tolist() == [1, 2, 5]
    assert held[1, :2].flatten().tolist() == [3, 6]


def test_slots_never_hold_what_is_not_a_number():
    slots = KVBuffer()
    for p in range(9):
        held = slots.write(torch.ones(2, 1, 1), torch.tensor([[p], [0]]))
    assert held.isfinite().all()


@pytest.mark.parametrize(("batch", "width"), [(3, 8), (2, 7)])
def test_the_cache_refuses_another_batch_or_width(batch, width):
    held = KeyValues()
    held.write(random(2, 1, 2, 8), random(2, 1, 2, 8), standing_at(torch.tensor([[0], [0]])))
    with pytest.raises(ValueError, match=r"holds \(batch, vector\) \(2, 2, 8\)"):
        held.write(
            random(batch, 1, 2, width), random(batch, 1, 2, width), standing_at(torch.ones(batch, 1, dtype=torch.long))
        )


def test_a_call_with_another_batch_than_the_cache_is_refused():
    cache = Cache([])
    cache.end(cache.begin(torch.zeros(2, 3, dtype=torch.long), None))
    with pytest.raises(ValueError, match="holds a batch of 2; 3 rows were given"):
        cache.begin(torch.zeros(3, 1, dtype=torch.long), None)


@pytest.mark.parametrize("mask", ["0111", "1110", "1011", "1111"])
def test_rows_put_real_tokens_first_and_results_back(mask):
    real = torch.tensor([[letter == "1" for letter in mask], [True] * 3 + [False]])
    ids = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])
    rows = arrange(ids, real, torch.tensor([5, 7]))
    wanted = ids[0][real[0]].tolist()
    assert rows.token_ids[0, : len(wanted)].tolist() == wanted
    assert rows.positions[:, 0].tolist() == [5, 7]
    assert rows.lengths.tolist() == real.sum(dim=1).tolist() == rows.real.sum(dim=1).tolist()
    back = rows.restore(rows.token_ids[..., None].float())[..., 0]
    assert torch.equal(back[real], ids[real].float())
    assert back.shape == ids.shape


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.ones(2, 3, dtype=torch.bool), r"shape \(2, 3\)"),
        (torch.eye(4, dtype=torch.bool)[:2] & False, "row 0, 1"),
        (torch.ones(2, 4, dtype=torch.long), "mask holds torch.int64; it must hold True for real tokens"),
    ],
)
def test_a_mask_that_fits_nothing_is_refused(mask, said):
    with pytest.raises(ValueError, match=said):
        arrange(torch.zeros(2, 4, dtype=torch.long), mask, None)


@pytest.mark.parametrize(
    "ids",
    [torch.arange(4), torch.rand(2, 4), torch.zeros(2, 0, dtype=torch.long)],
    ids=["one row without a batch", "no whole numbers", "no token"],  # not the numbers: two workers draw others
)
def test_ids_that_are_no_batch_of_whole_numbers_are_refused(ids):
    said = f"token_ids are {ids.dtype} of the shape {tuple(ids.shape)}; they must be whole numbers (rows, tokens)"
    with pytest.raises(ValueError, match=re.escape(said)):
        arrange(ids, None, None)


def test_attention_with_a_cache_is_attention_without():
    attention, x = Attention(12, num_heads=4, num_kv_heads=2, head_dim=6, epsilon=1e-6), random(2, 9, 12)
    positions = torch.arange(9).expand(2, -1)
    cos, sin = angles(positions, frequencies(6, 1e4))
    held = KeyValues()
    parts = [
        attention(x[:, at], standing_at(positions[:, at]), (cos[:, at], sin[:, at]), held)
        for at in (slice(0, 4), slice(4, 5), slice(5, 9))
    ]
    whole = attention(x, standing_at(positions), (cos, sin))
    assert_close(torch.cat(parts, dim=1), whole, tolerance(torch.float32, 12 * 9), "cached attention")
