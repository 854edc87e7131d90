"""The case that times generation: the same tokens, or no clock runs."""

import pytest
import torch

from course.measure.cases import CASES
from course.measure.subjects import generate as measure_generate
from course.measure.subjects.generate import generate_case, prompt_of, their_way, work_of
from helpers import zoo
from helpers.checkpoints import load
from helpers.generate import generate
from helpers.measure import Record, read_record, write_record
from helpers.measure.records import FOLDER

CPU = torch.device("cpu")


def test_both_ways_give_the_same_tokens_and_as_many_as_asked():
    prompt = prompt_of(16, CPU)
    found = their_way(prompt, 9)()
    assert found.shape == (1, 25)
    assert torch.equal(generate(load(zoo.folder("tiny-qwen3")), prompt, 9), found)


def test_a_way_that_gives_other_tokens_is_not_timed(monkeypatch):
    monkeypatch.setattr(measure_generate, "generate", lambda model, prompt, new: generate(model, prompt + 1, new))
    with pytest.raises(AssertionError, match="different tokens"):
        list(generate_case(CPU, new=3))


def test_the_case_writes_two_lines_for_each_way(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure_generate, "REPEATS", 3)
    monkeypatch.setattr(measure_generate, "our_models", lambda model, tokens: {"ours": model})
    lines = list(generate_case(CPU, new=2))
    record = read_record(write_record(Record("generate", {"device": "cpu"}, lines), tmp_path))
    assert [line.label for line in record.measurements] == ["transformers generate", "ours generate"]
    assert all(line.median_s > 0 and line.shape == [1, 16, 2] for line in record.measurements)
    assert "tokens/s" in capsys.readouterr().err


@pytest.mark.parametrize("there", [True, False])
def test_compiled_steps_are_timed_where_a_compiler_is(monkeypatch, there):
    monkeypatch.setattr(measure_generate, "can_compile", lambda: there)
    model = load(zoo.folder("tiny-qwen3"))
    ways = measure_generate.our_models(model, 20)
    assert ways["ours"] is model
    assert (getattr(ways.get("compiled"), "capacity", None) == 20) == there


def test_every_weight_is_read_once_a_token():
    model = load(zoo.folder("tiny-qwen3"))
    once = sum(weight.numel() for weight in model.parameters())
    assert work_of(model, 64).bytes == 64 * 4 * once
    assert work_of(model, 1).flops == 2 * once * 16


def test_the_case_is_on_the_list_and_its_record_is_complete():
    assert CASES["generate"] is generate_case
    record = read_record(FOLDER / "cpu" / "generate.json")
    ways = ["transformers", "ours", "transformers beside compiled", "compiled"]
    assert [line.label for line in record.measurements] == [f"{way} generate" for way in ways]
