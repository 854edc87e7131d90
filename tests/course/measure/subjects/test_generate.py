"""The case that times generation: the same tokens, or no clock runs."""

import json
import os

import pytest
import torch

from course.measure import goals
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
    found = their_way("tiny-qwen3", prompt, 9)()
    assert found.shape == (1, 25)
    assert torch.equal(generate(load(zoo.folder("tiny-qwen3")), prompt, 9), found)


def test_a_way_that_gives_other_tokens_is_not_timed(monkeypatch):
    monkeypatch.setattr(measure_generate, "generate", lambda model, prompt, new: generate(model, prompt + 1, new))
    with pytest.raises(AssertionError, match="different tokens"):
        list(generate_case(CPU, 3, ["tiny-qwen3"]))


def test_the_case_writes_two_lines_for_each_way_and_model(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure_generate, "REPEATS", 3)
    monkeypatch.setattr(measure_generate, "our_models", lambda model, tokens: {"ours": model})
    lines = list(generate_case(CPU, 2, ["tiny-qwen3", "tiny-kimi-k2_5"]))
    record = read_record(write_record(Record("generate", {"device": "cpu"}, lines), tmp_path))
    expected = [f"{way}, {model}" for model in ("qwen3", "kimi-k2_5") for way in ("transformers", "ours")]
    assert [line.label for line in record.measurements] == expected
    assert all(line.median_s > 0 and line.shape == [1, 16, 2] for line in record.measurements)
    assert "tokens/s" in capsys.readouterr().err


def test_the_first_compiled_call_is_timed_apart_and_the_goal_is_told(monkeypatch, capsys):
    monkeypatch.setattr(measure_generate, "REPEATS", 3)
    monkeypatch.setattr(measure_generate, "our_models", lambda model, tokens: {"compiled": model})
    first, *pair = generate_case(CPU, 3, ["tiny-qwen3"])
    assert (first.label, first.clock, first.repeats) == ("first call, qwen3", "wall clock", 1)
    assert [line.label for line in pair] == ["transformers beside compiled, qwen3", "compiled, qwen3"]
    assert "the goal of 5 is " in capsys.readouterr().err


@pytest.mark.parametrize("name", zoo.names())
def test_the_prompt_is_plain_text_for_every_model_of_the_zoo(name):
    config = json.loads((zoo.folder(name) / "config.json").read_text())
    text = config.get("text_config", config)
    prompt = prompt_of(200, CPU)
    assert prompt.max() < text["vocab_size"]
    assert not (prompt == config.get("image_token_id", -1)).any()


def test_a_first_call_finds_nothing_that_was_compiled_before():
    folders = []
    for _ in range(2):
        measure_generate.first_call(lambda: folders.append(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
    assert len({*folders, os.environ.get("TORCHINDUCTOR_CACHE_DIR")}) == 3


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


def test_of_experts_only_the_chosen_are_counted_and_of_a_model_that_sees_only_its_text():
    model = load(zoo.folder("tiny-kimi-k2_5"))
    config, text = model.config.text, dict(model.text.named_parameters())
    routed = sum(weight.numel() for name, weight in text.items() if ".experts." in name)
    rest = sum(weight.numel() for weight in text.values()) - routed
    chosen = routed * config.experts_per_token // config.num_experts
    assert work_of(model, 1).bytes == 4 * (rest + chosen)


def test_the_case_is_on_the_list_and_its_record_is_complete():
    assert CASES["generate"] is generate_case
    record = read_record(FOLDER / "cpu" / "generate.json")
    ways = ["transformers", "ours", "first call", "transformers beside compiled", "compiled"]
    models = [name.removeprefix("tiny-") for name in zoo.names()]
    assert [line.label for line in record.measurements] == [f"{way}, {model}" for model in models for way in ways]


def test_every_model_of_the_zoo_has_a_goal_and_the_record_says_whether_it_is_met():
    found = [(goal, said) for goal, said in goals.results(FOLDER / "cpu", "cpu") if goal.case == "generate"]
    assert len(found) == len(zoo.names())
    assert all(goal.least == 5 and said.reached > 1 for goal, said in found)
