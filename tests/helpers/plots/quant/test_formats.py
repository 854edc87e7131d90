"""The figures of number formats carry their data, and say it in words."""

import pytest
import torch

from helpers.plots import alt_text
from helpers.plots.quant.formats import all_formats, bell, block_sizes, row, value_lines


def test_values_stand_on_a_line_each_with_the_largest_at_one():
    figure = value_lines({"int3": [-3, -2, -1, 0, 1, 2, 3], "e2m0": [-4, -2, 0, 2, 4]}, "values")
    assert figure.data[1].x == (-1, -0.5, 0, 0.5, 1)
    assert set(figure.data[0].y) == {"int3"}
    assert "int3: 7 values, 1 of them within a quarter of the largest" in alt_text(figure)


def test_the_bell_has_a_stem_at_every_value_as_high_as_the_curve_there():
    figure = bell([-1.0, 0.0, 1.0], 0.5, "quantiles")
    assert figure.data[2].x == (-1.0, 0.0, 1.0)
    assert figure.data[2].y == pytest.approx([0.1353, 1.0, 0.1353], abs=1e-4)
    assert "standard deviation 0.50, and values at -1.000, 0.000, 1.000" in alt_text(figure)


def test_each_kind_has_a_line_and_each_block_a_name_at_the_highest():
    kinds = {"even": [(5.0, 20.0), (4.5, 19.0)], "hard": [(5.0, 18.0), (4.5, 12.0)]}
    figure = block_sizes(kinds, [16, 32], "blocks")
    assert [line.y for line in figure.data] == [(20.0, 19.0), (18.0, 12.0)]
    assert [(note.text, note.y) for note in figure.layout.annotations] == [("16", 20.0), ("32", 19.0)]
    assert "blocks of 16, 32. even: 20.0, 19.0 dB; hard: 18.0, 12.0 dB" in alt_text(figure)


def test_formats_are_ordered_by_bits_with_a_mark_for_each_kind():
    table = {"wide": (8.0, {"even": 40.0, "hard": 30.0}), "narrow": (4.5, {"even": 20.0, "hard": 18.0})}
    figure = all_formats(table, "formats")
    marks = [trace for trace in figure.data if trace.mode == "markers"]
    assert [(mark.name, mark.x) for mark in marks] == [("even", (20.0, 40.0)), ("hard", (18.0, 30.0))]
    assert marks[0].y == ("narrow  4.50", "wide  8.00")
    assert "narrow, 4.50 bits: even 20.0 dB, hard 18.0 dB; wide" in alt_text(figure)


def test_a_row_shows_numbers_and_errors_ends_of_blocks_and_names_what_is_off_the_picture():
    numbers, back = torch.tensor([0.5, -0.1, 9.0, 1.0]), torch.tensor([0.6, 0.0, 9.0, 1.0])
    figure = row(numbers, back, 2, "INT4")
    weights = next(trace for trace in figure.data if trace.name == "weight")
    assert weights.y == pytest.approx((0.5, -0.1, 4.0, 1.0))
    assert weights.customdata == pytest.approx([0.5, -0.1, 9.0, 1.0])
    assert [line.x0 for line in figure.layout.shapes] == [1.5]
    assert figure.layout.annotations[0].text == "9"
    assert "1 of them came back as zero; the largest error is 0.10" in alt_text(figure)
