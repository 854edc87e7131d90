"""The indexer's scores, a tile of keys at a time, are the readable ones."""

import pytest
import torch
from support.kernel_tests import in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.attention.index_scores import cost, pack_keys, packed_scores, scores
from helpers.layers import dsa

pytestmark = needs_triton


def parts(batch, length, keys, heads, width, dtype=torch.float32):
    shapes = (batch, length, heads, width), (batch, keys, width), (batch, length, heads)
    return [numbers(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]


@in_both
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 16), (2, 1, 130, 3, 24), (1, 33, 31, 4, 16), (2, 17, 33, 5, 8)])
def test_they_are_the_readable_ones_in_float32(sizes, dtype):
    given = parts(*sizes, dtype)
    answer, launched = launches_of(scores, *given)
    assert launched == {"_scores": 1}
    assert answer.dtype == torch.float32  # however narrow the keys are
    near_float64(answer, dsa.scores(*(x.double() for x in given)), 64, "the scores")


def test_a_head_that_disagrees_says_nothing_and_a_negative_weight_counts():
    query, key, weights = torch.ones(1, 1, 2, 16), torch.ones(1, 2, 16), torch.tensor([[[1.0, -3.0]]])
    query[:, :, 1, 8:] = -1  # the second head is at right angles to the first key
    key[:, 1] *= -1  # and both disagree with the second key
    given = [x.to(numbers(1, seed=0).device) for x in (query, key, weights)]
    assert scores(*given).flatten().tolist() == pytest.approx([16 * (2 * 16) ** -0.5, 0.0])


@in_both
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1, 16), (2, 1, 130, 3, 24), (1, 17, 33, 5, 8)])
def test_keys_of_eight_bits_give_the_scores_of_what_they_stand_for(sizes, dtype):
    query, key, weights = parts(*sizes, dtype)
    codes, scale = pack_keys(key)
    answer, launched = launches_of(packed_scores, query, codes, scale, weights)
    exact = dsa.scores(query.double(), codes.double() * scale.double()[..., None], weights.double())
    assert launched == {"_scores": 1}
    near_float64(answer, exact, 64, "the scores")


def test_packing_keeps_a_key_to_a_sixteenth_and_a_key_of_zeros():
    key = numbers(1, 40, 16, seed=0)
    key[:, 3] = 0
    codes, scale = pack_keys(key)
    again = codes.float() * scale[..., None]
    assert not again[:, 3].any()
    assert ((again - key).abs() <= key.abs() / 16 + scale[..., None] / 512).all()  # 3 bits of fraction, then rounding
    assert not torch.equal(again, key)


def test_codes_of_another_kind_are_refused_and_cost_is_a_byte_a_number_and_a_scale():
    query, key, weights = parts(1, 2, 5, 3, 16)
    refused(packed_scores, query, key, torch.ones(1, 5), weights, message="float8_e4m3fn and float32 are read")
    codes, scale = pack_keys(key)
    refused(packed_scores, query, codes, scale[:, :4].contiguous(), weights, message="one per key is needed")
    narrow, wide = cost(32, 1, 131072, 64, 128, packed=True), cost(32, 1, 131072, 64, 128)
    assert wide.bytes - narrow.bytes == 32 * 131072 * (256 - 132)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (1, torch.ones(1, 5, 8), "do not fit"),
        (2, torch.ones(1, 2, 4), "do not fit"),
        (1, torch.ones(1, 16, 5).mT, "strides"),
        (1, torch.ones(1, 0, 16), "length 0"),
        (1, torch.ones(1, 5, 16).half(), "one dtype"),
    ],
)
def test_what_they_cannot_do_right_is_refused(place, value, message):
    given = parts(1, 2, 5, 3, 16)
    given[place] = value
    refused(scores, *given, message=message)


def test_a_decoded_token_streams_and_a_prompt_multiplies():
    assert cost(1, 1, 131072, 64, 128).intensity < 70
    assert cost(1, 4096, 4096, 64, 128).intensity > 500
