"""The figures of lesson `what_came_next` carry their data, and say it in words."""

import itertools

import pytest

from helpers.plots import alt_text
from helpers.plots.gallery import Model, cache_of_all, compare, reading, sizes_by_layer, work_by_context

MODELS = {
    "small": Model("a latent", 2_000_000_000, 1_000_000_000, 4e9, 3e9),
    "large": Model("keys and values", 8_000_000_000, 8_000_000_000, 8e9, 9e9),
}


def test_reading_draws_a_square_a_kind_and_counts_the_last_query():
    rows = [["as it is", "not read", "not read"], ["in an entry", "as it is", "not read"]]
    figure = reading({"CSA": rows, "HCA": rows}, "who reads what")
    assert [list(row) for row in figure.data[1].z] == [[1.0, 0.0, 0.0], [0.45, 1.0, 0.0]]
    assert "CSA: the last query reads 1 tokens as they are and 1 in entries" in alt_text(figure)


def test_sizes_by_layer_is_logarithmic_and_says_how_many_times():
    figure = sizes_by_layer({"free": [1.0, 10.0, 100.0]}, "explodes")
    assert figure.layout.yaxis.type == "log"
    assert list(figure.data[0].y) == [1, 10, 100]
    assert "each of 2 layers. At the end, free: 1e+02 times the first" in alt_text(figure)


def test_models_with_the_same_cache_share_a_line_and_the_line_is_thin_behind_its_context():
    caches = {"a": [1e9, 2e9, 4e9], "b": [1e9, 2e9, 4e9], "c": [1e8, 1e8, 1e8]}
    ideas = {"a": "a latent", "b": "a latent", "c": "entries for many tokens"}
    figure = cache_of_all(caches, ideas, {"a": 20, "b": 20, "c": 40}, [10, 20, 40], "caches")
    lines = [line for line in figure.data if line.x[0] is not None]
    assert [list(line.x) for line in lines] == [[10, 20], [20, 40], [10, 20, 40]]
    assert [line.line.dash for line in lines] == [None, "dot", None]
    assert any("a, b" in note.text and "4 GB" in note.text for note in figure.layout.annotations)
    assert "At 40 tokens: a, b 4 GB; c 100 MB." in alt_text(figure)


def test_names_at_the_ends_never_stand_on_one_another():
    caches = {name: [1e9, 1e9 * (1 + n / 100)] for n, name in enumerate("abcd")}
    figure = cache_of_all(caches, dict.fromkeys("abcd", "a latent"), dict.fromkeys("abcd", 9), [1, 2], "caches")
    heights = sorted(note.y for note in figure.layout.annotations)
    assert all(above - below > 0.05 for below, above in itertools.pairwise(heights))


def test_work_by_context_leaves_out_what_is_zero_and_marks_contexts():
    figure = work_by_context({"index": [0, 2e9]}, [1, 100], "work", {"here": 10})
    assert list(figure.data[0].y) == [None, 2.0]
    assert figure.layout.shapes[0].x0 == 10
    assert "index 2 GFLOP. here at 10 tokens." in alt_text(figure)


def test_the_comparison_is_ordered_by_cache_and_names_the_chosen_one():
    figure = compare(MODELS, 1000, "small")
    assert list(figure.layout.yaxis.categoryarray) == ["large", "small"]
    assert "small at 1,000 tokens: 4 GB, 1/2 of large's" in figure.layout.title.text
    assert [list(trace.x) for trace in figure.data[:3]] == [[1, 2], [4], [3]]
    assert "large (keys and values): 8 G parameters, 8 G active, cache 8 GB, 9 GFLOP per token" in alt_text(figure)
    assert "the largest cache of all 2" in compare(MODELS, 1000, "large").layout.title.text


def test_a_model_that_is_not_in_the_gallery_is_refused():
    with pytest.raises(ValueError, match="'other' is not in the gallery; there are small, large"):
        compare(MODELS, 1000, "other")
