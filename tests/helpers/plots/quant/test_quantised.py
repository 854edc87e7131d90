"""The picture of sizes and scores: which formats none beats, every one named, the numbers in words."""

import pytest

from helpers.plots import alt_text
from helpers.plots.quant.quantised import frontier, size_and_score

POINTS = {"16 bits": (16.0, 1.0), "8 bits": (8.0, 1.0), "good 4": (4.0, 1.2), "bad 4": (4.0, 1.5), "odd": (9.0, 1.1)}


def test_only_formats_that_no_other_beats_are_on_the_frontier():
    assert frontier(POINTS) == ["good 4", "8 bits"]
    assert frontier(POINTS, lower_is_better=False) == ["bad 4"]  # the smallest, and the best
    assert frontier({"a": (1.0, 1.0), "b": (1.0, 1.0)}) == ["a", "b"]  # alike: neither beats the other


def test_every_format_is_marked_and_named_once():
    figure = size_and_score(POINTS, "eight bits cost nothing", "bits per number", "bits per byte")
    line, best, beaten = figure.data
    assert (list(line.x), list(line.y)) == ([4.0, 8.0], [1.2, 1.0])
    assert list(best.text) == ["good 4", "8 bits"]
    assert sorted([*best.text, *beaten.text]) == sorted(POINTS)
    notes = {note.text: note for note in figure.layout.annotations}
    assert set(notes) == set(POINTS)
    heights = [notes[name].ay for name in sorted(POINTS, key=lambda name: POINTS[name][1])]
    assert heights == sorted(heights)
    assert len(set(heights)) == len(heights)  # no name on another
    assert "good 4 4 and 1.2" in alt_text(figure)
    assert "No other format beats good 4, 8 bits." in alt_text(figure)


def test_one_format_alone_is_drawn_and_none_is_refused():
    assert len(size_and_score({"a": (1.0, 2.0)}, "one", "bits", "score").layout.annotations) == 1
    with pytest.raises(ValueError, match="no format to draw"):
        size_and_score({}, "none", "bits", "score")
