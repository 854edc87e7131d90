"""Two ways beside each other: nothing is timed unless they agree, and a result is summed up whichever way it falls."""

import pytest
import torch

from course.measure.versus import COLD_BYTES, Way, beside, copies, summary, versus
from helpers.measure import Comparison, Roofline, Timing, Work

CPU = torch.device("cpu")
SLOW, FAST = Timing(2.0, 2.0, 2.0, 9, 1, "wall clock"), Timing(1.0, 1.0, 1.0, 9, 1, "wall clock")


def test_sides_that_disagree_are_not_timed():
    right, wrong = (Way(name, [lambda x=x: torch.full((3,), x)], Work(1, 1)) for name, x in (("a", 1.0), ("b", 2.0)))
    with pytest.raises(AssertionError, match="b beside a"):
        list(versus(right, wrong, [3], CPU, 1e-3, Roofline("cpu", "float32", 1, 1)))


def test_copies_hold_more_than_the_cache_and_never_less_than_two():
    gpu = torch.device("cuda")
    for one in (10**6, 10**8, 10**10):
        count = copies(one, gpu)
        assert count >= 2
        assert count * one >= COLD_BYTES
    assert copies(10**6, CPU) == 2


def test_a_result_is_summed_up_with_its_spread_and_a_loss_as_one():
    won, lost = Comparison(SLOW, FAST, 2.0, 1.9, 2.25), Comparison(FAST, SLOW, 0.5, 0.4, 0.6)
    assert summary("64 tokens, ours", "theirs", won) == "  64 tokens, ours: 2.00 times as fast as theirs (1.90 to 2.25)"
    assert summary("ours", "theirs", lost, "9 bits") == "  ours: 0.50 times as fast as theirs (0.40 to 0.60); 9 bits"


def test_transformers_line_says_what_it_was_timed_with():
    assert beside("ours") == "transformers"
    assert beside("compiled") == "transformers beside compiled"
