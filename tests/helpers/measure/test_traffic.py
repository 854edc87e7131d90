"""Bytes of operations are those of the tensors that go in and come out; views are free."""

import torch

from helpers.measure.traffic import count_traffic


def test_an_addition_reads_two_and_writes_one():
    x, y = torch.ones(10), torch.ones(10)
    assert count_traffic(lambda: x + y) == {"add": 3 * 40}


def test_a_view_moves_nothing_and_a_copy_does():
    x = torch.ones(4, 5)
    assert count_traffic(lambda: x.T[1:]) == {}
    assert count_traffic(lambda: x.T.contiguous()) == {"clone": 160}


def test_one_operation_that_comes_twice_is_added_up():
    x = torch.ones(10)
    assert count_traffic(lambda: x.relu().relu()) == {"relu": 4 * 40}


def test_numbers_of_two_widths_count_as_wide_as_they_are():
    x = torch.ones(10, dtype=torch.bfloat16)
    assert count_traffic(lambda: x.float()) == {"_to_copy": 60}
