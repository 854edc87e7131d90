"""The indexer's scores, a tile of keys at a time, are the readable ones."""

import pytest
import torch
from kernel_tests import in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.index_scores import cost, scores
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
