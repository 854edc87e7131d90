"""The case that times guessing: the same tokens or no clock, and shapes that say what the guesses were worth."""

import pytest
import torch

from course.measure.cases import CASES
from course.measure.subjects import speculative as measure_speculative
from course.measure.subjects.speculative import (
    TARGETS,
    drafts_of,
    prompts_of,
    speculative_case,
    two_lines,
    work,
    worth,
)
from helpers import zoo
from helpers.checkpoints import load
from helpers.decoding.drafts import NGram
from helpers.decoding.speculative import Speculated, speculate
from helpers.measure import read_record
from helpers.measure.records import FOLDER

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load(zoo.folder("tiny-qwen3"))


def test_two_lines_tell_passes_guesses_and_what_stayed(model, monkeypatch, capsys):
    monkeypatch.setattr(measure_speculative, "REPEATS", 3)
    prompts = prompts_of("tiny-qwen3", CPU)
    plain, guessing = two_lines("lookup", model, prompts, NGram(4), 12, CPU)
    runs = [speculate(model, ids, NGram(4), 12) for ids in prompts]
    assert plain.shape == guessing.shape
    assert guessing.shape[:3] == [2, 24, sum(run.passes for run in runs)]
    assert guessing.shape[3:] == [sum(run.drafted for run in runs), sum(run.accepted for run in runs)]
    assert (plain.label, guessing.label) == ("plain", "lookup")
    assert plain.bytes > guessing.bytes
    assert "tokens per pass" in capsys.readouterr().err


def test_guesses_that_change_the_text_are_not_timed(model, monkeypatch):
    wrong = lambda model, ids, draft, new: speculate(model, ids + 1, draft, new)  # noqa: E731
    monkeypatch.setattr(measure_speculative, "speculate", wrong)
    with pytest.raises(AssertionError, match="lookup: other tokens"):
        list(two_lines("lookup", model, prompts_of("tiny-qwen3", CPU), NGram(4), 4, CPU))


def test_a_refused_guess_is_work_and_a_pass_saved_is_bytes_saved(model):
    few, many = work(model, 10, 20), work(model, 20, 20)
    assert many.bytes == 2 * few.bytes
    assert many.flops == few.flops


def test_the_case_is_on_the_list_and_its_record_is_complete():
    assert CASES["speculative"] is speculative_case
    record = read_record(FOLDER / "cpu" / "speculative.json")
    labels = [line.label for line in record.measurements]
    drafts = drafts_of(CPU)
    expected = [f"{name}, {label}" for name in TARGETS for label in drafts[name](load(zoo.folder(name)))]
    assert labels[1::2] == expected
    assert set(labels[::2]) == {"plain"}
    for line in record.measurements:
        texts, tokens, passes, guessed, stay = line.shape
        assert texts <= passes <= tokens
        assert 0 < stay <= guessed


def test_guesses_are_worth_tokens_a_pass_and_the_share_that_stays():
    run = Speculated(torch.zeros(1, 1, dtype=torch.long), 4, [(4, 3), (4, 1)])
    assert worth([run], 8) == "2.00 tokens per pass, 50% stay"
