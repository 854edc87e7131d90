"""The softmax in tiles is the softmax."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.softmax import cost, softmax

pytestmark = needs_triton


@in_both
@pytest.mark.parametrize(("rows", "width", "tile"), [(1, 1, 16), (2, 31, 16), (3, 33, 16), (2, 64, 64), (1, 100, 64)])
def test_it_is_torchs(rows, width, tile, dtype):
    scores = 4 * numbers(rows, width, seed=0, dtype=dtype)
    answer, launched = launches_of(softmax, scores, tile)
    assert launched == {"_softmax": 1}
    near_float64(answer, scores.double().softmax(dim=-1), 8, "the shares")


def test_the_largest_may_come_last_and_be_very_large():
    scores = torch.cat([torch.zeros(40), torch.tensor([1e4])]).to(WHERE)
    assert softmax(scores, 16)[-1] == 1


def test_barred_scores_get_nothing_even_where_a_whole_tile_is_barred():
    scores = numbers(40, seed=0)
    scores[:20] = float("-inf")  # the first tile of 16 and a part of the second
    assert torch.allclose(softmax(scores, 16), scores.softmax(dim=-1))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_row_of_nothing_but_barred_scores_has_no_shares_as_torch_says():
    barred = torch.full((2, 20), float("-inf"), device=WHERE)
    assert softmax(barred, 16).isnan().all()
    assert barred.softmax(dim=-1).isnan().all()


@pytest.mark.parametrize(
    ("scores", "tile", "message"),
    [(torch.ones(8, 3).T, 16, "strides"), (torch.ones(2, 0), 16, "length 0"), (torch.ones(3), 24, "power of two")],
)
def test_what_it_cannot_do_right_is_refused(scores, tile, message):
    refused(softmax, scores, tile, message=message)


def test_a_row_longer_than_a_tile_is_read_twice():
    assert cost(1, 64, 2, tile_width=64).bytes == 2 * 2 * 64
    assert cost(1, 65, 2, tile_width=64).bytes == 3 * 2 * 65
