"""The pictures of a training's cost carry their data: sums, places, and the same numbers in words."""

import pytest

from helpers.plots import alt_text
from helpers.plots.training import (
    against_the_rule,
    bill,
    budget_plane,
    exponents,
    flops_by_part,
    loss_against_flops,
    singular_values,
    two_costs,
)


def test_the_parts_of_each_case_sum_to_a_hundred():
    figure = flops_by_part({"short": {"head": 3, "attention": 1}, "long": {"head": 3, "attention": 9}}, "parts")
    for row in range(2):
        assert sum(bar.x[row] for bar in figure.data) == pytest.approx(100)
    assert "long: head 25 %, attention 75 %" in alt_text(figure)


def test_bars_begin_at_the_rule_and_end_at_the_count():
    figure = against_the_rule({"long text": (2.5, "attention"), "experts": (0.2, "most rest")}, "the rule")
    assert [bar.base + bar.x[0] for bar in figure.data] == pytest.approx([2.5, 0.2])
    assert "experts 0.20 (most rest)" in alt_text(figure)


def test_singular_values_are_told_from_largest_to_smallest():
    figure = singular_values([1.0, 0.1], {"5 steps": [1.1, 0.8]}, "values")
    assert "the gradient from 1.00 to 0.100; 5 steps from 1.10 to 0.800" in alt_text(figure)


def test_each_size_has_one_line_in_the_legend_and_a_line_for_each_seed():
    run = [(1e9, 4.0), (1e10, 3.0)]
    figure = loss_against_flops({"small": [run, run], "large": [run]}, lambda flops: 2.0, (1e9, 1e10), "loss")
    names = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert names == ["small", "large", "fitted law"]
    assert len(figure.data) == 4
    assert "small: 3.00 bits per byte after 10 GFLOP" in alt_text(figure)
    assert figure.data[-1].x[0] == 1e9
    assert figure.data[-1].x[-1] == pytest.approx(1e10)


def test_a_range_reaches_from_its_low_end_to_its_high_one():
    figure = exponents({"floor 0": (0.10, 0.08, 0.15)}, "exponents")
    error = figure.data[0].error_x
    assert error.array[0] == pytest.approx(0.05)
    assert error.arrayminus[0] == pytest.approx(0.02)


def test_both_costs_show_the_same_losses():
    figure = two_costs({"one": [(1e9, 1.0, 4.0), (2e9, 3.0, 3.0)]}, "costs")
    left, right = figure.data
    assert left.y == right.y == (4.0, 3.0)
    assert (left.x[-1], right.x[-1]) == (2.0, 3.0)
    assert right.xaxis == "x2"
    assert figure.layout.xaxis.domain[1] < figure.layout.xaxis2.domain[0]


def test_the_pieces_of_a_bill_add_up_and_estimates_are_hatched():
    ledgers = {"sum": {"run": (5e6, True)}, "more": {"run": (5e6, True), "trials": (10e6, False)}}
    figure = bill(ledgers, "the bill")
    assert sum(bar.x[1] for bar in figure.data) == pytest.approx(15)
    assert {bar.name: bool(bar.marker.pattern.shape) for bar in figure.data} == {"run": False, "trials": True}
    assert "trials 10.00 M (estimate)" in alt_text(figure)


def test_every_point_of_the_line_costs_the_budget():
    figure = budget_plane(6e22, (1e10, 1e12), {"a": (37e9, 15e12)}, "budget", "words")
    line = figure.data[0]
    assert [6 * n * d for n, d in zip(line.x, line.y, strict=True)] == pytest.approx([6e22, 6e22])


@pytest.mark.parametrize("tokens", [7e7, 1e12, 4e17])
def test_your_choice_stays_in_the_picture(tokens):
    figure = budget_plane(6e22, (1e10, tokens), {"a": (37e9, 15e12)}, "budget", "words")
    low, high = figure.layout.yaxis.range
    assert 10**low < tokens < 10**high
