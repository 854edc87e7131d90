"""Temperature and filters: transformers' own, in its order, on logits with ties; the ends of every range."""

import math

import pytest
import torch
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from helpers.compare import chance_of
from helpers.decoding.sampling import check_sampling, keep_min_p, keep_top_k, keep_top_p, probabilities, sample

VOCAB = 37


def logits(seed: int, ties: bool) -> torch.Tensor:
    """Five rows; with ties, every value several times over."""
    drawn = 3 * torch.randn(5, VOCAB, generator=torch.Generator().manual_seed(seed))
    return drawn.round() if ties else drawn


def theirs(scores: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """In the order in which transformers' ``generate`` puts them."""
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    return LogitsProcessorList(warpers)(torch.zeros(len(scores), 1, dtype=torch.long), scores).softmax(dim=-1)


FILTERS = [
    (0, 1.0, 0.0),
    (5, 1.0, 0.0),
    (0, 0.7, 0.0),
    (0, 1.0, 0.2),
    (9, 0.8, 0.0),
    (9, 0.9, 0.1),
    (VOCAB + 1, 0.3, 0.5),
]


@pytest.mark.parametrize("ties", [False, True], ids=["apart", "ties"])
@pytest.mark.parametrize("filters", FILTERS)
def test_probabilities_are_those_of_transformers_warpers(filters, ties):
    for seed in range(20):
        for temperature in (0.5, 1.0, 1.7):
            given = logits(seed, ties)
            found = probabilities(given, temperature, *filters)
            torch.testing.assert_close(found, theirs(given, temperature, *filters), rtol=1e-5, atol=1e-7)


def test_the_order_of_the_filters_matters_and_is_kept():
    """Top-k first: top-p then counts the shares of what is left, and keeps fewer."""
    given = torch.tensor([[4.0, 3.0, 2.0, 1.0]]).log()
    assert (probabilities(given, 1.0, top_k=2, top_p=0.55)[0] > 0).tolist() == [True, False, False, False]
    assert (probabilities(given, 1.0, top_p=0.55)[0] > 0).tolist() == [True, True, False, False]


def test_filters_by_hand():
    given = torch.tensor([[0.5, 0.2, 0.2, 0.1]]).log()
    kept = lambda scores: scores.isfinite()[0].tolist()  # noqa: E731
    assert kept(keep_top_k(given, 1)) == [True, False, False, False]
    assert kept(keep_top_k(given, 2)) == [True, True, True, False]  # the third is as likely as the second
    assert kept(keep_top_k(given, 9)) == [True] * 4
    assert kept(keep_top_p(given, 0.45)) == [True, False, False, False]
    assert kept(keep_top_p(given, 0.0)) == [True, False, False, False]
    assert sum(kept(keep_top_p(given, 0.65))) == 2
    assert kept(keep_min_p(given, 0.3)) == [True, True, True, False]
    assert kept(keep_min_p(given, 1.0)) == [True, False, False, False]


@pytest.mark.parametrize("nothing", [(None, None, None), (0, 1.0, 0.0), (VOCAB, 1, 0)])
def test_a_filter_at_its_open_end_changes_no_probability(nothing):
    given = logits(0, ties=False)
    assert torch.equal(probabilities(given, 0.8, *nothing), (given / 0.8).softmax(-1))


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}])
def test_a_filter_at_its_closed_end_leaves_the_most_likely_token(filters):
    given = logits(1, ties=False)
    drawn = sample(given, 3.0, torch.Generator().manual_seed(0), **filters)
    assert torch.equal(drawn, given.argmax(-1))


def test_draws_follow_the_filtered_probabilities():
    given = torch.tensor([2.0, 1.5, 1.0, 0.0, -1.0])
    drawn = sample(given.expand(20_000, 5), 1.3, torch.Generator().manual_seed(0), top_k=4, top_p=0.95, min_p=0.2)
    probs = probabilities(given[None], 1.3, 4, 0.95, 0.2)[0]
    counts = torch.bincount(drawn, minlength=5)
    assert counts[probs == 0].sum() == 0 < (probs == 0).sum()
    assert chance_of(counts[probs > 0], probs[probs > 0]) > 1e-6


@pytest.mark.parametrize("temperature", [1e-9, 1e-45, 5e-324])
def test_a_temperature_however_small_is_a_number_and_nearly_greedy(temperature):
    given = torch.cat([logits(0, ties=False), 1e30 * logits(0, ties=False)])
    assert torch.equal(probabilities(given, temperature), probabilities(given, 0.0))
    tied = probabilities(torch.tensor([[1.0, 3.0, 3.0]]), temperature)
    assert tied.tolist() == [[0, 0.5, 0.5]]


@pytest.mark.parametrize("temperature", [1e9, 1e35, 1e300])
def test_a_temperature_however_high_is_a_number_and_nearly_uniform(temperature):
    torch.testing.assert_close(probabilities(logits(0, ties=False), temperature), torch.full((5, VOCAB), 1 / VOCAB))


def test_without_a_filter_a_seed_draws_from_the_plain_softmax():
    given, seeded = logits(0, ties=False), lambda: torch.Generator().manual_seed(5)
    plain = torch.multinomial((given / 0.7).softmax(-1), 1, generator=seeded())[:, 0]
    assert torch.equal(sample(given, 0.7, seeded()), plain)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((math.inf, None, None, None), "temperature is inf; 0"),
        ((math.nan, None, None, None), "temperature is nan"),
        ((-1.0, None, None, None), "temperature is -1.0"),
        ((True, None, None, None), "temperature is True"),
        ((1.0, -1, None, None), "top_k is -1; a whole number"),
        ((1.0, True, None, None), "top_k is True"),
        ((1.0, None, 1.01, None), "top_p is 1.01; a probability from 0 to 1"),
        ((1.0, None, math.nan, None), "top_p is nan"),
        ((1.0, None, None, -0.1), "min_p is -0.1; a probability from 0 to 1"),
        ((1.0, None, None, 2), "min_p is 2"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(given, said):
    with pytest.raises(ValueError, match=said) as error:
        check_sampling(*given)
    assert "\n" not in str(error.value)
