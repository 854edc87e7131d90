"""The pictures of stored bytes carry their numbers: parts, scores by bits, what fits, and the same in words."""

from helpers.plots import alt_text
from helpers.plots.stored import Bytes, bytes_by_part, score_lines, widest_that_fits


def test_bars_are_cut_by_part_and_few_bits_have_a_colour_of_their_own():
    ways = {
        "as loaded": [Bytes("experts", 16, 2000), Bytes("attention", 4.5, 300)],
        "ours": [Bytes("experts", 4.5, 560), Bytes("attention", 16, 1000)],
    }
    figure = bytes_by_part(ways, "bytes")
    assert [(bar.y[0], bar.x[0]) for bar in figure.data][:2] == [("as loaded", 2.0), ("as loaded", 0.3)]
    assert len({bar.marker.color for bar in figure.data}) == 2
    assert sum(bar.showlegend for bar in figure.data) == 2
    assert "as loaded: 2.3 kB, of which 300 B have few bits" in alt_text(figure)


def test_a_part_too_small_for_its_name_keeps_it_for_the_pointer():
    figure = bytes_by_part({"all": [Bytes("experts", 4, 1000), Bytes("router", 16, 5)]}, "bytes")
    texts = {bar.hovertext.split(":")[0]: bar.text for bar in figure.data}
    assert texts == {"all, router": "", "all, experts": "experts"}


def test_scores_stand_in_percent_with_the_line_where_nothing_was_rounded():
    figure = score_lines({"experts": {2: 0.3, 4: 0.8}}, "scores", "bits", "facts", before=0.82)
    assert figure.data[0].y == (30.0, 80.0)
    assert "experts: 30% at 2, 80% at 4" in alt_text(figure)
    assert "Before rounding: 82%." in alt_text(figure)


def test_the_grid_says_the_most_bits_that_fit_or_a_dash():
    figure = widest_that_fits({"GLM-5": {"4 x H100": 0, "8 x H200": 8}}, "grid", "one text of 32,000 tokens")
    assert [list(row) for row in figure.data[0].text] == [["–", "8"]]
    assert "GLM-5: nothing on 4 x H100, 8 bits on 8 x H200" in alt_text(figure)
