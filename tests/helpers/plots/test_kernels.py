"""The pictures of lesson `kernels` carry their data, and the same numbers in words."""

import pytest

from helpers.plots import alt_text
from helpers.plots.kernels import gain_by_tokens, gains, in_words, trips


def test_trips_have_a_bar_for_each_way_and_leave_out_what_is_too_thin_to_see():
    figure = trips({"separate": {"pow": 8_000_000, "add": 10}, "one kernel": {"kernel": 2_000_000}}, "trips")
    assert [bar.name for bar in figure.data] == ["pow", "kernel"]
    assert figure.data[0].x == (8.0, 0.0)
    assert "separate: 8 MB (pow 8 MB, add 10 B)" in alt_text(figure)


def test_gains_show_both_ends_of_a_range_and_a_line_at_one():
    figure = gains({"4 bits": {"H20": (1.0, 1.5), "H100": (3.6, 3.6)}}, "gains")
    assert figure.data[0].x == (1.0, 1.5, None, 3.6, 3.6, None)
    assert figure.layout.yaxis.ticktext == ("H20", "H100")
    assert "H20: 4 bits 1 to 1.5." in alt_text(figure)
    assert figure.layout.shapes[0].x0 == 1


def test_gains_by_tokens_draw_the_middle_and_say_the_ends():
    figure = gain_by_tokens({"H20": [(3.0, 4.0), (1.0, 1.0)]}, [1, 1024], "tokens")
    assert figure.data[0].y == pytest.approx((3.5, 1.0))
    assert "H20 3 to 4 at 1 and 1 at 1,024" in alt_text(figure)


def test_a_range_of_one_value_is_one_number():
    assert in_words((3.5601, 3.5602)) == "3.56"
    assert in_words((1, 2.25)) == "1 to 2.25"
    assert in_words((2250.0, 2250.0)) == "2,250"
