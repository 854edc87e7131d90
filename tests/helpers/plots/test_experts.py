"""The pictures of experts carry their data: loads, shares by row, stored and used, and the same numbers in words."""

import pytest
import torch

from helpers.plots import alt_text
from helpers.plots.experts import loads, routing_map, total_and_active


def test_loads_have_a_bar_for_each_case_and_expert():
    figure = loads({"alone": [0.0, 2.0], "repaired": [0.9, 1.1]}, "loads")
    assert [bar.name for bar in figure.data] == ["alone", "repaired"]
    assert figure.data[0].y == (0.0, 2.0)
    assert "repaired: 0.90, 1.10" in alt_text(figure)


def test_the_map_keeps_rows_of_one_name_apart():
    figure = routing_map(torch.tensor([[1.0, 0.0], [0.25, 0.75]]), ["a", "a"], "map")
    assert len(set(figure.data[0].y)) == 2
    assert figure.layout.yaxis.ticktext == ("a", "a")
    assert figure.data[0].showscale
    assert not routing_map(torch.eye(2), ["a", "b"], "all or nothing").data[0].showscale
    assert "a: expert 0 with 100%; a: expert 1 with 75%" in alt_text(figure)


def test_stored_and_used_stand_on_one_line_with_their_share():
    figure = total_and_active({"large": (100.0, 5.0)}, "sizes")
    assert "large: 100 stored, 5 at work (5.0%)" in alt_text(figure)
    assert figure.layout.annotations[0].text.strip() == "5.0%"
    assert [trace.x[0] for trace in figure.data if trace.mode == "markers"] == pytest.approx([100.0, 5.0])
