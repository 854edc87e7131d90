"""Lesson `mtp`: what it tells of the real models stands in the table of drafters, its exercise knows V3's schedule."""

import pytest

from course.checks import mtp as checks
from course.exercise.exercise import Wrong
from course.sources import cells
from course.syllabus import find
from helpers.decoding.acceptance import tokens_per_pass
from helpers.facts import table

STATED = {row["model"]: row for row in table("drafters")}
V3 = STATED["DeepSeek-V3"]


def test_the_numbers_of_the_real_models_are_those_of_the_table():
    told = next(cell.text for cell in cells(find("mtp").source) if "## In the real models" in cell.text)
    told = " ".join(told.replace("#", "").split())
    low, high = V3["accepted"]
    first, later = V3["loss_weight"]
    without, beside = zip(*V3["scores"].values(), strict=True)
    assert f"{100 * low:.0f} to {100 * high:.0f} % of second tokens" in told
    assert f"weight {first}, later {later}" in told
    assert f"{V3['times_as_fast']} times the tokens per second" in told
    assert (
        f"gives {STATED['GLM-5']['tokens_per_pass']} tokens, and {STATED['DeepSeek-V3.2']['tokens_per_pass']}" in told
    )
    assert f"HumanEval at {beside[0]} with the module and {without[0]} without, GSM8K at {beside[1]} and" in told
    assert f"{V3['scores_active_billion']:.0f} billion active" in told
    assert f"give {tokens_per_pass([(low + high) / 2] * STATED['DeepSeek-V3.2']['guesses']):.1f} tokens" in told


def test_the_exercise_on_the_weight_holds_to_the_tables_schedule():
    first, later = V3["loss_weight"]

    def by_the_table(own, ahead, read):
        weight = first if read < V3["loss_weight_changes_at"] else later
        return own + weight * sum(ahead) / len(ahead) if ahead else own

    assert checks.weight.judge(by_the_table)[0] == "✓"


def test_of_equally_fast_depths_the_fewest_guesses_are_right():
    checks._compare_depth(0, [0.5], [1.0, 1.5], 0.0)
    with pytest.raises(Wrong, match="of equals the fewest"):
        checks._compare_depth(1, [0.5], [1.0, 1.5], 0.0)
