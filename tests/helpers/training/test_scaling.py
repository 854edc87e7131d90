"""A law that was planted is found again; noise and a wrong floor widen the answer instead of hiding in it."""

import random

import pytest

from helpers.training.scaling import PowerLaw, fit_power_law, frontier, loss_at, spread

BUDGETS = [10.0 ** (9 + n / 4) for n in range(9)]


@pytest.mark.parametrize(("exponent", "floor"), [(0.05, 0.0), (0.3, 0.0), (0.2, 1.5)])
def test_a_planted_law_is_found_again(exponent, floor):
    law = PowerLaw(8.0, exponent, floor)
    found = fit_power_law([(budget, law.loss(budget)) for budget in BUDGETS], floor)
    assert found.exponent == pytest.approx(exponent)
    assert found.loss(1e10) == pytest.approx(law.loss(1e10))


def test_a_floor_taken_too_high_makes_the_exponent_steeper():
    law = PowerLaw(8.0, 0.1)
    points = [(budget, law.loss(budget)) for budget in BUDGETS]
    lowest = min(loss for _, loss in points)
    assert fit_power_law(points, lowest / 2).exponent > 1.5 * fit_power_law(points).exponent


@pytest.mark.parametrize(
    ("points", "floor", "said"),
    [
        ([(1e9, 2.0), (1e10, 1.5)], 0, "3 points"),
        ([(1e9, 2.0)] * 4, 0, "2 budgets"),
        ([], 0, "got 0"),
        ([(1e9, 2.0), (1e10, 1.5), (1e11, 1.2)], 1.2, "below every loss"),
    ],
)
def test_what_no_line_can_be_drawn_through_is_refused(points, floor, said):
    with pytest.raises(ValueError, match=said):
        fit_power_law(points, floor)


def test_a_loss_is_read_between_its_neighbours_and_nowhere_else():
    curve = [(1e9, 4.0), (1e11, 2.0)]
    assert loss_at(curve, 1e10) == pytest.approx(3.0)
    assert loss_at(curve, 1e9) == 4.0
    assert loss_at(curve, 1e11) == 2.0
    assert loss_at(curve, 9e8) is None
    assert loss_at(curve, 2e11) is None


def test_the_frontier_goes_over_to_the_larger_model_where_it_becomes_better():
    curves = {"small": [(1e9, 3.0), (1e10, 2.5), (1e11, 2.4)], "large": [(1e10, 3.0), (1e11, 2.0), (1e12, 1.5)]}
    best = frontier(curves, [1e8, 1e9, 1e10, 1e11, 1e12])
    assert [name for *_, name in best] == ["small", "small", "large", "large"]
    assert [loss for _, loss, _ in best] == pytest.approx([3.0, 2.5, 2.0, 1.5])


def noisy_seeds(noise: float) -> list:
    rng = random.Random(0)
    law = PowerLaw(30.0, 0.12)
    return [{"one": [(b, law.loss(b) * rng.lognormvariate(0, noise)) for b in BUDGETS]} for _ in range(3)]


def test_the_range_holds_the_planted_exponent_and_grows_with_the_noise():
    value, low, high = spread(noisy_seeds(0.01), BUDGETS, [0.0])[0.0]
    assert low <= value <= high
    assert low < 0.12 < high
    _, lower, higher = spread(noisy_seeds(0.05), BUDGETS, [0.0])[0.0]
    assert higher - lower > 2 * (high - low)


def test_without_noise_the_range_is_a_point_for_the_right_floor_and_not_for_another():
    exact = spread(noisy_seeds(0.0), BUDGETS, [0.0, 0.5])
    assert exact[0.0] == pytest.approx((0.12, 0.12, 0.12))
    assert exact[0.5][2] - exact[0.5][1] > 1e-3


def test_the_same_seed_draws_the_same_range():
    assert spread(noisy_seeds(0.02), BUDGETS, [0.0]) == spread(noisy_seeds(0.02), BUDGETS, [0.0])
