"""The pictures of guessing exactly carry their data, mark the best number of guesses, and say it in words."""

import pytest

from helpers.plots import alt_text
from helpers.plots.decoding.speculative import by_guesses, distributions


def test_distributions_have_a_bar_for_each_case_and_word():
    figure = distributions({"target": [0.5, 0.5], "written": [0.49, 0.51]}, ["mat", "sofa"], "the same")
    assert [bar.name for bar in figure.data] == ["target", "written"]
    assert figure.data[1].y == pytest.approx((0.49, 0.51))
    assert "written: mat 49.0%, sofa 51.0%" in alt_text(figure)


def test_the_best_number_of_guesses_is_the_largest_mark_and_is_said():
    figure = by_guesses({"cheap": [1.0, 1.5, 1.7, 1.6], "dear": [1.0, 0.8, 0.7, 0.6]}, "speed")
    sizes = [line.marker.size for line in figure.data]
    assert [list(own).index(max(own)) for own in sizes] == [2, 0]
    assert figure.layout.shapes[0].y0 == 1
    assert "cheap: 1.70 times with 2 guesses, 1.60 with 3; dear: 1.00 times with 0 guesses, 0.60 with 3" in alt_text(
        figure
    )
