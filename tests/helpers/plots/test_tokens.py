"""The pictures of a tokenizer carry their data: a mark a language, bars as long as their bytes, words with numbers."""

import pytest

from helpers.data.parallel import SCRIPTS
from helpers.plots import alt_text
from helpers.plots.tokens import SCRIPT_LOOK, piece_name, pieces_of, price_by_script, tokens_against_bytes, who_pays

BEFORE, AFTER = {"English": 1.0, "Thai": 9.0, "Hindi": 7.0}, {"English": 1.0, "Thai": 2.0, "Hindi": 3.0}
GROUPS = {"English": "Latin", "Thai": "Brahmic", "Hindi": "Brahmic"}


def test_every_group_of_scripts_has_a_look_of_its_own():
    assert tuple(SCRIPT_LOOK) == SCRIPTS
    assert (
        len({colour for colour, _ in SCRIPT_LOOK.values()}) == len({symbol for _, symbol in SCRIPT_LOOK.values()}) == 6
    )


def test_each_language_is_marked_before_and_after_in_the_row_of_its_script():
    figure = price_by_script(BEFORE, AFTER, GROUPS, "price", ["before", "after"])
    marks = {
        (name, x): y
        for trace in figure.data
        if trace.text
        for name, x, y in zip(trace.text, trace.x, trace.y, strict=True)
    }
    assert set(marks) == {*BEFORE.items(), *AFTER.items()}
    assert marks["Thai", 9.0] < marks["Thai", 2.0]
    assert [round(marks[entry]) for entry in (("English", 1.0), ("Thai", 9.0), ("Hindi", 3.0))][1:] == [1, 1]
    assert "Brahmic 8.00 and 2.50" in alt_text(figure)
    assert "Highest: Thai 9.00, Hindi 3.00" in alt_text(figure)


def test_tokens_stand_over_their_bytes():
    figure = tokens_against_bytes({"English": 10, "Thai": 30}, {"English": 5, "Thai": 30}, GROUPS, "bytes")
    marks = {
        name: (x, y)
        for trace in figure.data
        if trace.text
        for name, x, y in zip(trace.text, trace.x, trace.y, strict=True)
    }
    assert marks == {"English": (10, 5), "Thai": (30, 30)}
    assert "in the median language 0.75 tokens per byte" in alt_text(figure)


def test_the_lines_of_who_pays_go_through_their_points():
    figure = who_pays([0, 0.5, 1], {"code": [1, 1.1, 2], "all": [1, 0.5, 0.4]}, "pay")
    assert [list(trace.y) for trace in figure.data] == [[1, 1.1, 2], [1, 0.5, 0.4]]
    assert list(figure.data[0].x) == [0, 50, 100]
    assert "code 1.00 to 2.00; all 1.00 to 0.40" in alt_text(figure)


@pytest.mark.parametrize("pieces", [[b"ab", b"\xe0", b" c"], [b"x"], []])
def test_pieces_lie_end_to_end(pieces):
    bar = pieces_of(pieces, "pieces").data[0]
    assert [start + length for start, length in zip(bar.base, bar.x, strict=True)][:-1] == list(bar.base)[1:]
    assert sum(bar.x) == sum(map(len, pieces))


def test_half_a_character_is_named_in_hex_and_a_blank_is_visible():
    assert [piece_name(piece) for piece in (b"\xe0\xa4", b" day", b"\n")] == ["e0 a4", "␣day", "⏎"]
