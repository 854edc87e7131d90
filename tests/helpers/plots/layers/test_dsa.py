"""Figures of lesson `dsa`: the words carry the numbers, the crossing is where it is, every cell is a token."""

import pytest

from helpers.plots import alt_text
from helpers.plots.layers.dsa import (
    by_position,
    crossing,
    crossover,
    kept_by_budget,
    picked,
    reuse,
    selection,
    times_less,
)

MASK = [[True, False, False], [True, True, False], [False, True, True]]
LENGTHS = [256, 1024, 4096]


def test_a_selection_says_how_much_is_read_and_leaves_the_future_empty():
    figure = selection({"ours": MASK, "other": MASK}, "a finding")
    assert "ours reads 83% of all visible pairs" in alt_text(figure)
    assert "the last query reads 2 keys, 0 to 1 positions back" in alt_text(figure)
    assert [list(row) for row in figure.data[0].z] == [[1, None, None], [1, 1, None], [0, 1, 1]]
    assert {trace.xaxis for trace in figure.data} == {"x", "x2"}


def test_lines_cross_between_the_lengths_that_were_measured():
    assert crossing(LENGTHS, [1, 2, 8], [2, 2, 2]) == pytest.approx(1024)
    assert 1024 < crossing(LENGTHS, [1, 2, 8], [3, 3, 3]) < 4096
    assert crossing([100, 400], [1, 4], [2, 2]) == pytest.approx(200)  # equal slopes on logarithmic axes
    assert crossing(LENGTHS, [1, 2, 3], [2, 4, 8]) is None
    assert crossing(LENGTHS, [3, 4, 8], [2, 2, 2]) == 256
    assert crossing(LENGTHS, [3, 1, 8], [2, 2, 2]) > 1024  # noise before it does not count


def test_the_crossover_has_every_time_in_words_and_a_line_at_each_mark():
    figure = crossover(LENGTHS, {"dense": [1e-3, 2e-3, 8e-3], "sparse": [2e-3] * 3}, {"here": 1000.0}, "a finding")
    assert "dense 1 ms at 256" in alt_text(figure)
    assert "here at 1,000" in alt_text(figure)
    assert figure.layout.shapes[0].x0 == 1000
    assert {trace.line.dash for trace in figure.data} == {"solid", "dash"}


def test_budgets_and_ratios_say_their_numbers():
    kept = kept_by_budget([8, 16], {"best": [0.5, 0.75], "window": [0.25, 0.375]}, "a finding", y="mass kept")
    assert "best 0.5 at 8, 0.75 at 16; window 0.25 at 8, 0.375 at 16" in alt_text(kept)
    less = times_less(LENGTHS, {"GLM-5": [0.5, 1.0, 12.0]}, "a finding")
    assert "GLM-5 0.5 to 12" in alt_text(less)


def test_reuse_is_a_table_in_words_too():
    assert "block 1's choice: 40, 90" in alt_text(reuse([[0.8, 0.5], [0.4, 0.9]], "a finding"))


@pytest.mark.parametrize("query", [0, 15, 16, 40])
def test_every_token_up_to_the_one_that_reads_has_a_cell(query):
    words = [f" w{n}" for n in range(50)]
    shares = [1 / (query + 1)] * (query + 1)
    figure = picked(words, [0], shares, query)
    cells = [cell for row in figure.data[0].z for cell in row if cell is not None]
    assert (len(cells), sum(cells)) == (query + 1, 1)
    assert sum(len(trace.text) for trace in figure.data[1:]) == query + 1
    assert figure.layout.title.text.startswith(f"1 of {query + 1} tokens hold")


def test_a_token_that_matters_has_a_frame_and_is_named_where_it_is_not_read():
    figure = picked(["a", "b", "c"], [0], [0.02, 0.9, 0.08], 2)
    assert len(figure.layout.shapes) == 3  # b and c, and the token that reads
    assert "Not read, and worth 5% or more: 'b' at 1, 'c' at 2." in alt_text(figure)


def test_what_the_model_says_ends_the_title():
    assert picked(["a", "b"], [0], [0.5, 0.5], 1, "it says c").layout.title.text.endswith("attention; it says c")


def test_right_answers_by_position_are_told_apart_where_k_keys_are_visible():
    figure = by_position({"honest": [0.1] * 8, "leaky": [1.0] * 3 + [0.1] * 5}, 4, 0.1, "a finding")
    assert "leaky: 100% before position 3, 10% from there on" in alt_text(figure)
    assert list(figure.data[1].y)[:4] == [100, 100, 100, 10]


def test_a_token_that_breaks_a_page_is_shown_and_does_not_break_it():
    figure = picked(["<b>", "\n", " " * 12, "x"], [1, 3], [0.25] * 4, 3)
    assert [*figure.data[1].text, *figure.data[2].text] == ["&lt;b>", "······…", "↵", "x"]
