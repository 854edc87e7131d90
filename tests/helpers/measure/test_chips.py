"""Gains on chips from ranges: the ends of a range are reached and never passed."""

import pytest

from helpers.facts import table
from helpers.measure import Work
from helpers.measure.chips import gain, ridge

CHIP = dict(tflops=[100.0, 200.0], memory_tb_s=[1.0, 2.0])


def test_the_ridge_is_lowest_with_little_arithmetic_and_much_bandwidth():
    assert ridge(CHIP) == (50.0, 200.0)


def test_a_quarter_of_the_bytes_gains_four_times_where_memory_decides_and_nothing_where_arithmetic_does():
    assert gain(Work(1, 4e9), Work(1, 1e9), CHIP) == (4.0, 4.0)
    assert gain(Work(1e15, 4e9), Work(1e15, 1e9), CHIP) == (1.0, 1.0)


def test_between_them_the_range_of_the_ridge_shows_and_nothing_lies_outside():
    before, after = Work(flops=100.0, bytes=1.0), Work(flops=100.0, bytes=0.25)
    low, high = gain(before, after, CHIP)
    assert (low, high) == (1.0, 2.0)
    for flops in (100.0, 150.0, 200.0):
        for memory in (1.0, 1.5, 2.0):
            chip = dict(tflops=[flops] * 2, memory_tb_s=[memory] * 2)
            assert low <= gain(before, after, chip)[0] <= high


def test_an_h20_has_a_low_ridge_and_an_h100_a_high_one():
    chips = {row["chip"]: row for row in table("hardware")}
    assert ridge(chips["H20"])[1] == pytest.approx(37)
    assert ridge(chips["H100"])[0] == pytest.approx(989 / 3.35)
