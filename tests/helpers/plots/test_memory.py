"""The pictures of a memory carry their numbers, in their places and in words."""

import pytest

from helpers.plots import alt_text
from helpers.plots.memory import matrices, recall_by_pairs, seconds_by_length


def test_matrices_stand_side_by_side_with_a_gap_and_one_scale():
    figure = matrices({"before": [[1, 2], [3, 4]], "after": [[1, -8], [3, 4]]}, "changed", ["a", "b"], ["x", "y"])
    heat = figure.data[0]
    assert [list(row) for row in heat.z] == [[1, 2, None, 1, -8], [3, 4, None, 3, 4]]
    assert (heat.zmin, heat.zmax) == (-8, 8)
    assert list(figure.layout.xaxis.tickvals) == [0.5, 3.5]
    assert "after: a 1 -8, b 3 4" in alt_text(figure)
    assert [a.text for a in figure.layout.annotations] == ["x", "y", "x", "y"]


def test_a_memory_of_zeros_has_a_scale_too():
    heat = matrices({"empty": [[0.0]]}, "nothing yet", ["a"]).data[0]
    assert (heat.zmin, heat.zmax) == (-1, 1)


def test_recall_is_drawn_in_percent_with_a_line_at_the_channels():
    figure = recall_by_pairs({"delta": [1.0, 0.25]}, [4, 64], "falls", key_dim=32)
    assert list(figure.data[0].y) == [100, 25]
    assert figure.layout.shapes[0].x0 == 32
    assert "100% of 4, 25% of 64" in alt_text(figure)


def test_seconds_go_through_the_given_points_and_ticks_are_all_lengths():
    figure = seconds_by_length({"loop": {64: 0.1, 128: 0.2}, "chunks": {64: 0.01, 256: 0.04}}, "faster")
    assert list(figure.data[1].x) == [64, 256]
    assert list(figure.data[1].y) == pytest.approx([0.01, 0.04])
    assert list(figure.layout.xaxis.tickvals) == [64, 128, 256]
    assert "loop: 100 ms at 64, 200 ms at 128" in alt_text(figure)
