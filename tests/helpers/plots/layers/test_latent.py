"""The picture of ranks carries its data: lines in percent, notes at their points, the chosen rank."""

from helpers.plots import alt_text
from helpers.plots.layers.latent import rank_errors

SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]
ERRORS = {"trained": [1.0, 0.4, 0.2, 0.1, 0.0], "random": [1.0, 0.75, 0.5, 0.25, 0.0]}


def test_the_curves_are_drawn_in_percent():
    figure = rank_errors(SHARES, ERRORS, "ranks")
    assert list(figure.data[0].x) == [0, 25, 50, 75, 100]
    assert list(figure.data[1].y) == [100, 75, 50, 25, 0]
    assert not figure.layout.annotations
    assert not figure.layout.shapes
    assert "trained: 40% lost at 25%, 20% lost at 50%, 10% lost at 75%" in alt_text(figure)


def test_notes_stand_at_points_of_the_first_curve_and_in_words():
    figure = rank_errors(SHARES, ERRORS, "ranks", notes={0.5: "+0.01 nats"})
    assert (figure.layout.annotations[0].x, figure.layout.annotations[0].y) == (50, 20)
    assert "At 50%: +0.01 nats." in alt_text(figure)


def test_the_chosen_rank_is_marked():
    assert rank_errors(SHARES, ERRORS, "ranks", chosen=0.25).layout.shapes[0].x0 == 25
