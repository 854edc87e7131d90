"""Lesson `claims`: the learner's probabilities are kept and nothing is given away before they are."""

import re

import pytest

from course.checks import claims as checks
from course.sources import cells
from course.syllabus import find
from helpers.claims.ledger import claim, scorable


def test_probabilities_are_kept_and_blanks_are_not(capsys):
    checks.note({"free-use": 0.3, "glm5-dsa": ..., "sparse-cuts": 1})
    assert checks.noted() == {"free-use": 0.3, "sparse-cuts": 1.0}
    assert "2 of 3" in capsys.readouterr().out


@pytest.mark.parametrize("said", [70, -0.1, "0.7", True, None, float("nan")])
def test_what_is_no_probability_is_refused_and_not_kept(said, capsys):
    checks.note({"free-use": said})
    assert checks.noted() == {}
    assert "between 0 and 1" in capsys.readouterr().out


def test_a_claim_that_the_ledger_lacks_is_named_and_the_others_are_kept(capsys):
    checks.note({"free-lunch": 0.5, "free-use": 0.5})
    assert checks.noted() == {"free-use": 0.5}
    assert "'free-lunch' is no claim" in capsys.readouterr().out


@pytest.mark.parametrize("given", [None, 0.6, [0.5] * 10])
def test_what_is_no_dictionary_is_refused_in_one_line(given, capsys):
    checks.note(given)
    assert "✗ a dictionary" in capsys.readouterr().out


def test_blanks_alone_are_told_as_not_attempted(capsys):
    checks.note({"free-use": ...})
    assert capsys.readouterr().out.startswith("○")
    checks.note({"free-use": 0.4})
    checks.note({"free-use": ...})
    assert "1 from an earlier run" in capsys.readouterr().out


def test_the_ten_claims_are_judged_from_documents_so_that_they_can_be_scored_today():
    ten = [claim(id) for id in checks.TEN]
    assert len(scorable(ten)) == 10
    assert {entry.verdicts[0].lesson for entry in ten} == {"claims"}


def test_the_prediction_cell_asks_for_these_ten():
    cell = next(cell for cell in cells(find("claims").source) if cell.tag("predict") == "ledger")
    assert tuple(re.findall(r'"([a-z0-9-]+)": \.\.\.', cell.given)) == checks.TEN


def test_no_verdict_is_shown_before_the_predictions_are_made():
    found = cells(find("claims").source)
    asked = max(number for number, cell in enumerate(found) if cell.tag("predict"))
    code = "\n".join(cell.text for cell in found[:asked] if cell.kind == "code")
    assert not re.search(r"verdict|outcome|because|as_text\(", code)


def test_parts_that_are_all_zero_are_not_called_swapped():
    mark, message = checks.decompose.judge(lambda said, came: (0, 0, 0))
    assert mark == "✗"
    assert "swapped" not in message
