"""The pictures of a checkpoint carry their data: lengths of bars, places of lines, and the same numbers in words."""

import pytest

from helpers.models.components import PARTS, REST
from helpers.plots import alt_text
from helpers.plots.checkpoint import (
    PART_LOOK,
    byte_map,
    cache_by_context,
    memory_plan,
    parameters_by_part,
    weights_against_memory,
)

RUNS = [("header", 1_000), ("embedding", 5_000), ("attention", 2_000), ("dense FFN", 1_000), ("attention", 1_000)]


def test_the_byte_map_lays_the_runs_end_to_end_and_names_a_part_once():
    figure = byte_map(RUNS, "a file")
    ends = [bar.base + bar.x[0] for bar in figure.data]
    assert [bar.base for bar in figure.data] == pytest.approx([0, *ends[:-1]])
    assert sum(bar.showlegend for bar in figure.data) == 4
    assert "attention 30.0%" in alt_text(figure)


def test_shares_of_each_model_sum_to_a_hundred():
    models = {"dense": {"embedding": 3, "dense FFN": 1}, "sparse": {"embedding": 1, "routed experts": 9}}
    figure = parameters_by_part(models, "parts")
    for row in range(2):
        assert sum(bar.x[row] for bar in figure.data) == pytest.approx(100)
    assert "sparse: routed experts 90.0 %" in alt_text(figure)


def test_every_part_has_a_look_of_its_own():
    assert len(set(PART_LOOK.values())) == len(PART_LOOK)
    assert {*PART_LOOK} == {"header", *PARTS, REST}


def test_machines_stand_at_their_bytes_on_the_log_axis():
    figure = weights_against_memory({"model": {"bf16": 10e9, "int4": 3e9}}, {"100 GB": 100e9}, "fit")
    assert figure.layout.shapes[0].x0 == 100
    assert figure.layout.annotations[0].x == pytest.approx(2)  # plotly places text on a log axis at the exponent
    assert [trace.x[0] for trace in figure.data] == [10, 3]


def test_the_cache_lines_go_through_the_given_points():
    figure = cache_by_context({"model": [1e9, 2e9]}, [1000, 2000], "cache")
    assert list(figure.data[0].y) == [1, 2]
    assert "At 2,000 tokens: model 2 GB" in alt_text(figure)


def test_the_plan_says_how_many_machines_are_needed():
    assert "fits" in memory_plan("model", 1e9, 1e9, 2e9, "bf16").layout.title.text
    assert "needs 1.5 such machines" in memory_plan("model", 2e9, 1e9, 2e9, "bf16").layout.title.text
    assert "needs 1.01 such machines" in memory_plan("model", 2e9, 1e6, 2e9, "bf16").layout.title.text


def test_room_to_work_counts_where_it_is_given():
    figure = memory_plan("tiny", 40e9, 10e9, 60e9, "in bf16", caches="4 caches", room_bytes=15e9)
    assert [bar.name for bar in figure.data] == ["weights: 40 GB", "4 caches: 10 GB", "room to work: 15 GB"]
    assert "needs 1.09 such machines" in alt_text(figure)
    assert "room" not in alt_text(memory_plan("tiny", 40e9, 10e9, 60e9, "in bf16"))
