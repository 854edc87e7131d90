"""Positions of the highest scores, chosen without sorting, are those of the readable choice: every one of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from support.kernel_tests import WHERE, launches_of, needs_triton, numbers, refused

from helpers.kernels.attention import top_k
from helpers.kernels.attention.top_k import cost, select_tokens
from helpers.layers import dsa

pytestmark = needs_triton
INF = float("inf")


@pytest.mark.parametrize(("keys", "k"), [(1, 1), (31, 4), (33, 32), (33, 33), (33, 40), (100, 1), (300, 16)])
def test_it_is_the_readable_choice(keys, k):
    scores = numbers(2, 2, keys, seed=0)
    chosen, launched = launches_of(select_tokens, scores, k)
    assert launched == {"_select": 1}
    assert torch.equal(chosen, dsa.select_tokens(scores, k))


@settings(max_examples=40, deadline=None)
@given(
    some.lists(some.sampled_from([-INF, -2.0, -1e-30, -0.0, 0.0, 1e-38, 1.0, 3e38]), min_size=1, max_size=40),
    some.integers(1, 12),
)
def test_among_equals_the_earlier_are_chosen_and_what_is_barred_never_is(row, k):
    scores = torch.tensor([[row]], device=WHERE)
    assert torch.equal(select_tokens(scores, k), dsa.select_tokens(scores, k))


def test_equal_scores_in_several_tiles_are_taken_from_the_first(monkeypatch):
    monkeypatch.setattr(top_k, "MOST", 16)
    scores = torch.zeros(1, 1, 50, device=WHERE)
    scores[..., 45] = 1.0
    assert select_tokens(scores, 20).flatten().tolist() == [*range(19), 45]


def test_a_row_of_which_nothing_is_seen_chooses_nothing():
    assert select_tokens(torch.full((1, 1, 5), -INF, device=WHERE), 3).tolist() == [[[-1, -1, -1]]]


def test_scores_in_float16_are_ordered_too():
    scores = numbers(1, 2, 40, seed=3, dtype=torch.float16)
    assert torch.equal(select_tokens(scores, 7), dsa.select_tokens(scores, 7))


@pytest.mark.parametrize(
    ("scores", "k", "message"),
    [
        (torch.ones(1, 2, 4), 0, "at least one"),
        (torch.ones(1, 2, 0), 3, "length 0"),
        (torch.ones(1, 2, 4).double(), 3, "float64"),
        (torch.ones(1, 4, 2).mT, 3, "strides"),
    ],
)
def test_what_it_cannot_do_right_is_refused(scores, k, message):
    refused(select_tokens, scores, k, message=message)


def test_reading_is_all_its_cost():
    assert cost(32, 131072, 2048).bytes == 32 * (4 * 131072 + 8 * 2048)
