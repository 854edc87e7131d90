"""The pictures of rounding carry their data: codes and their errors, alphas, scores by bits and by text."""

import pytest
import torch

from helpers.plots import alt_text
from helpers.plots.quant.rounding import error_by_alpha, score_by_bits, score_by_text, two_columns

WEIGHT, HESSIAN = torch.tensor([0.4, 0.4]), torch.tensor([[1.0, 0.9], [0.9, 1.0]])


def test_the_plane_shows_both_choices_their_errors_and_where_the_second_weight_moved():
    figure = two_columns(WEIGHT, HESSIAN, {"nearest": [0, 0], "GPTQ": [0, 1]}, "two columns")
    assert "nearest (0, 0), error 0.608; GPTQ (0, 1), error 0.088" in alt_text(figure)
    arrow = figure.layout.annotations[0]
    assert (arrow.x, arrow.y) == pytest.approx((0, 0.76))
    assert (arrow.ax, arrow.ay) == pytest.approx((0.4, 0.4))


def test_the_curves_are_as_far_off_as_the_choices_that_they_go_through():
    figure = two_columns(WEIGHT, HESSIAN, {"nearest": [0, 0], "GPTQ": [0, 1]}, "two columns")
    for line, error in zip([trace for trace in figure.data if trace.mode == "lines"], (0.608, 0.088), strict=True):
        off = torch.tensor([line.x, line.y]) - WEIGHT[:, None]
        assert ((HESSIAN @ off) * off).sum(dim=0).tolist() == pytest.approx([error] * len(line.x), rel=1e-3)


def test_errors_by_alpha_begin_at_one():
    figure = error_by_alpha({"with an outlier": [2.0, 1.0, 4.0]}, "alphas")
    assert figure.data[0].x == (0.0, 0.5, 1.0)
    assert figure.data[0].y == (1.0, 0.5, 2.0)
    assert "least 0.500 at alpha 0.50, 2.00 at 1" in alt_text(figure)


@pytest.mark.parametrize(("percent", "said"), [(True, "2 bits 50%, 4 bits 90%"), (False, "2 bits 0.500, 4 bits 0.900")])
def test_scores_by_bits_have_a_line_a_method_and_one_for_the_whole_model(percent, said):
    figure = score_by_bits({"GPTQ": {2: 0.5, 4: 0.9}}, 0.95, "bits", "answers right", percent)
    assert figure.data[0].x == ("2", "4")
    assert said in alt_text(figure)
    assert figure.layout.shapes[0].y0 == 0.95


def test_scores_by_text_have_a_mark_a_method_and_lines_for_nearest_and_whole():
    figure = score_by_text({"GPTQ": {"own": 0.7, "other": 0.1}, "AWQ": {"own": 0.6, "other": 0.5}}, 0.6, 0.9, "t", "s")
    assert [marks.name for marks in figure.data] == ["GPTQ", "AWQ"]
    assert (figure.data[0].x, figure.data[0].y) == ((0.7, 0.1), ("own", "other"))
    assert {shape.x0 for shape in figure.layout.shapes} == {0.9, 0.6}
    assert "GPTQ on other 0.100" in alt_text(figure)


def test_names_of_two_lines_that_lie_on_one_another_stand_at_both_ends():
    figure = score_by_text({"GPTQ": {"own": 0.9}}, 0.9, 0.9, "t", "s", percent=True)
    assert {note.text: note.y for note in figure.layout.annotations} == {"not rounded": 1, "rounded to nearest": 0}


def test_a_method_has_one_colour_in_all_pictures():
    bits = score_by_bits({"nearest": {2: 0.4}, "GPTQ": {2: 0.5}, "AWQ": {2: 0.4}}, 0.9, "bits", "score")
    text = score_by_text({"GPTQ": {"own": 0.5}, "AWQ": {"own": 0.4}}, 0.4, 0.9, "t", "s")
    plane = two_columns(WEIGHT, HESSIAN, {"nearest": [0, 0], "GPTQ": [0, 1]}, "two columns")
    colours = {trace.name: trace.marker.color for trace in text.data}
    assert {trace.name: trace.line.color for trace in bits.data if trace.name in colours} == colours
    assert [t.marker.color for t in plane.data if t.name.startswith("GPTQ")] == [colours["GPTQ"]]
