"""Brier's score, its decomposition and the calibration curve: against torch, by identity, and on paper."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.claims.forecasts import brier, calibration_curve, decompose, wilson_interval

PAIRS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.integers(0, 1)), min_size=1, max_size=40
)


def test_three_forecasts_on_paper():
    assert brier([0.9, 0.6, 0.2], [1, 0, 0]) == pytest.approx((0.01 + 0.36 + 0.04) / 3)


@pytest.mark.parametrize("size", [1, 31, 33])
def test_brier_equals_torchs_mean_squared_error(size):
    said, came = torch.rand(size, dtype=torch.float64), torch.randint(2, (size,))
    assert brier(said.tolist(), came.tolist()) == pytest.approx(
        torch.nn.functional.mse_loss(said, came.double()).item(), abs=1e-12
    )


@given(PAIRS)
def test_the_three_parts_add_up_to_the_score(pairs):
    said, came = zip(*pairs, strict=True)
    parts = decompose(said, came)
    assert parts.brier == pytest.approx(brier(said, came), abs=1e-12)
    assert min(parts.reliability, parts.resolution, parts.uncertainty) >= 0


def test_one_number_for_all_has_no_resolution_and_the_base_rate_has_perfect_reliability():
    parts = decompose([0.25] * 4, [1, 0, 0, 0])
    assert (parts.reliability, parts.resolution, parts.uncertainty) == pytest.approx((0, 0, 0.1875))


@given(PAIRS, st.integers(1, 12))
def test_every_forecast_falls_into_one_bin_inside_its_interval(pairs, bins):
    said, came = zip(*pairs, strict=True)
    curve = calibration_curve(said, came, bins)
    assert sum(step.count for step in curve) == len(pairs)
    assert sum(step.happened * step.count for step in curve) == pytest.approx(sum(came))
    assert all(0 <= step.low <= step.happened + 1e-12 and step.happened - 1e-12 <= step.high <= 1 for step in curve)


def test_the_interval_narrows_with_more_cases_and_stays_within_0_and_1():
    few, many = wilson_interval(5, 10), wilson_interval(500, 1000)
    assert many[1] - many[0] < few[1] - few[0]
    assert wilson_interval(0, 3)[0] == 0
    assert wilson_interval(3, 3)[1] == 1
    assert few == pytest.approx((0.2366, 0.7634), abs=1e-4)  # the textbook's example of Wilson's interval


@pytest.mark.parametrize(
    ("said", "came", "complaint"),
    [
        ([0.5], [1, 0], "as many forecasts as outcomes"),
        ([], [], "at least one"),
        ([1.2], [1], "between 0 and 1, got 1.2"),
        ([float("nan")], [1], "between 0 and 1"),
        ([0.5], [2], "0 or 1, got 2"),
    ],
)
def test_forecasts_that_make_no_sense_are_refused(said, came, complaint):
    for function in (brier, decompose, calibration_curve):
        with pytest.raises(ValueError, match=complaint):
            function(said, came)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_a_share_that_makes_no_sense_is_refused(successes, n):
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson_interval(successes, n)
