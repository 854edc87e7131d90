"""The pictures of lesson `attention` carry their data: lines, cells, markers, and the same numbers in words."""

import pytest
import torch

from helpers.plots import GREY, alt_text
from helpers.plots.layers.attention import attention_map, bytes_per_token, cache_growth, score_by_distance, seconds_by


def test_the_score_stands_at_its_distance():
    figure = score_by_distance({"all": [1.0, 0.5, -0.25], "none": [1.0, 1.0, 1.0]}, "fades")
    assert list(figure.data[0].x) == [0, 1, 2]
    assert list(figure.data[0].y) == [1.0, 0.5, -0.25]
    assert "all: 1.00 at distance 0, between -0.25 and 1.00" in alt_text(figure)


def test_a_cell_that_no_query_may_look_into_is_empty_and_not_zero():
    weights = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    figure = attention_map(weights, ["a", "a"], "who looks at whom")
    assert figure.data[0].z[0] == [1.0, None]
    assert figure.data[0].z[1] == [0.25, 0.75]
    assert len(set(figure.data[0].x)) == 2  # two tokens of one text keep a column each
    assert "'a' to 'a' (75%)" in alt_text(figure)


def test_seconds_are_drawn_in_milliseconds_and_formulas_in_grey():
    figure = seconds_by([64, 128], {"slow": [0.008, 0.03], "fast": [0.002, 0.0025]}, {"FLOP": [0.008, 0.016]}, "n", "t")
    assert [list(trace.y) for trace in figure.data] == [[8, 30], [2, 2.5], [8, 16]]
    assert [trace.line.color == GREY for trace in figure.data] == [False, False, True]
    assert "at 64 slow 8 ms, fast 2 ms; at 128 slow 30 ms, fast 2.5 ms" in alt_text(figure)


def test_a_design_that_a_model_lacks_leaves_no_marker():
    figure = bytes_per_token({"dense": {"own": 4000, "shared": 1000}, "latent": {"own": 9000}}, "bytes")
    markers = {trace.name: list(trace.x) for trace in figure.data if trace.name}
    assert markers == {"own": [4000, 9000], "shared": [1000]}
    assert "dense: 4 kB own, 1 kB shared" in alt_text(figure)


def test_the_growth_speaks_of_its_last_design_and_shows_the_weights():
    figure = cache_growth("m", 2e9, [0, 1000], {"published": [0, 1e9], "own keys": [0, 4e9]})
    assert figure.layout.title.text == "m, own keys: 4 GB at 1,000 tokens, 2 times the weights"
    assert figure.layout.shapes[0].y0 == pytest.approx(2)
    assert figure.layout.yaxis.range[1] > 4


def test_a_small_cache_is_a_percentage_of_the_weights_and_no_power_of_ten():
    figure = cache_growth("m", 2e12, [0, 1000], {"published": [0, 1e9], "one key": [0, 4e7]})
    assert figure.layout.title.text == "m, one key: 40 MB at 1,000 tokens, 0.002 % of the weights"
    figure = cache_growth("m", 2e9, [0, 1000], {"published": [0, 1e9], "own keys": [0, 4e11]})
    assert figure.layout.title.text == "m, own keys: 400 GB at 1,000 tokens, 200 times the weights"
