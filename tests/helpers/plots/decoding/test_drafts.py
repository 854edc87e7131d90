"""The pictures of guessing ahead carry their data: who wrote which token, shares by depth, times as fast."""

import pytest

from helpers.plots import alt_text
from helpers.plots.decoding.drafts import Pass, acceptance, cells, speed, strip

PASSES = [Pass(3, ["a", "b", "c"], 1, "x"), Pass(5, ["d", "e", "f"], 3, "y"), Pass(9, ["g", "h", "i"], 0, "z")]


def test_the_models_own_token_stands_where_the_first_refused_guess_would():
    assert cells(PASSES[0]) == [
        (3, "accepted", "a"),
        (4, "the model's own", "x"),
        (4, "refused", "b"),
        (5, "refused", "c"),
    ]
    assert [place for place, kind, _ in cells(PASSES[1]) if kind == "the model's own"] == [8]
    assert [kind for _, kind, _ in cells(PASSES[2])].count("refused") == 3


def test_each_pass_goes_on_where_the_one_before_ended():
    written = [[place for place, kind, _ in cells(one) if kind != "refused"] for one in PASSES]
    assert [place for own in written for place in own] == list(range(3, 10))


def test_a_strip_has_a_square_and_a_text_for_each_token_and_says_them():
    figure = strip(PASSES, "strip")
    assert len(figure.layout.shapes) == len(figure.layout.annotations) == 4 + 4 + 4
    assert "✓ a" in [note.text for note in figure.layout.annotations]
    own, refused = figure.layout.shapes[1], figure.layout.shapes[2]
    assert own.y1 < refused.y0
    assert "✗ g" in [note.text for note in figure.layout.annotations]
    assert "pass 1: 1 of 3 guesses taken (a), then x; pass 2: 3 of 3" in alt_text(figure)
    assert "pass 3: 0 of 3 guesses taken, then z" in alt_text(figure)


def test_acceptance_has_a_line_for_each_drafter():
    figure = acceptance({"one depth": [0.58, 0.31], "three": [0.55, 0.36]}, "by depth")
    assert [line.name for line in figure.data] == ["one depth", "three"]
    assert figure.data[1].x == (1, 2)
    assert "one depth: 58%, 31%; three: 55%, 36%" in alt_text(figure)


def test_speed_draws_where_drafting_breaks_even_and_what_was_measured():
    figure = speed([0.0, 1.0], {"here": [0.6, 1.2]}, "speed", {"this run": (0.58, 0.96)})
    assert figure.layout.shapes[0].y0 == 1
    assert figure.data[1].y == pytest.approx([0.96])
    assert "here: 0.60 to 1.20. Measured, this run: 0.96 at 58%." in alt_text(figure)
