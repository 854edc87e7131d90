"""The case that packs whole models: bytes as held, scores of the format alone, and a record with every line."""

import pytest
import torch

from course.measure.cases import CASES
from course.measure.subjects import quantised as measure_quantised
from course.measure.subjects.quantised import (
    BPB,
    FACTS,
    MODELS,
    NAMES,
    PLAIN,
    RIGHT,
    WIDE,
    divides,
    held,
    of_model,
    quantised_case,
    work,
)
from helpers.checkpoints import load
from helpers.measure import read_record
from helpers.measure.records import FOLDER
from helpers.quant.cpu import CPU
from helpers.quant.model import quantise

pytestmark = pytest.mark.usefixtures("no_gradients")


def test_a_line_a_format_with_scores_of_the_packed_model(monkeypatch):
    monkeypatch.setattr(measure_quantised, "NEW", 2)
    monkeypatch.setattr(measure_quantised, "REPEATS", 3)
    model, asked = load("zoo:tiny-glm5"), []

    def ask(given):
        asked.append(given(torch.arange(9)[None]))
        return {RIGHT: 0.5}

    lines = list(of_model("tiny-glm5", model, ask, [PLAIN, "int8"]))
    assert [line.label for line in lines] == ["bf16, tiny-glm5", "int8, tiny-glm5"]
    assert set(lines[1].scores) == {"bytes held", "bits per number", RIGHT, "tokens per second", "times plain"}
    assert lines[0].scores["bits per number"] == 16
    assert lines[1].scores["bytes held"] < lines[0].scores["bytes held"]
    assert asked[0].dtype == torch.float32
    assert torch.equal(asked[0], model(torch.arange(9)[None]))  # the plain one as it is, in float32
    quantise(model, "int8", wrap=True)
    assert torch.equal(asked[1], model(torch.arange(9)[None]))


def test_what_is_asked_sees_a_model_that_reads_nothing():
    model, ask = MODELS["tiny-glm5"]()
    whole = ask(model)[RIGHT]
    for block in model.blocks:
        block.attention.mla.output.weight.zero_()
    assert ask(model)[RIGHT] < 0.5 < whole


def test_held_counts_every_number_once():
    model = load("zoo:tiny-qwen3").bfloat16()
    count = sum(weight.numel() for weight in model.parameters())
    assert held(model) == {"bytes held": 2 * count, "bits per number": 16}
    assert work(model, 2 * count).flops == 2 * count * (measure_quantised.PROMPT + measure_quantised.NEW - 1)


def test_a_format_whose_groups_cut_no_matrix_evenly_is_left_out():
    facts = load("zoo:tiny-qwen3_5-moe")  # a matrix of 4 x 48 is one group and a half of 128
    assert [form for form in NAMES if not divides(facts, form)] == ["int8-group", "int4-affine"]
    assert all(divides(load("zoo:tiny-glm5"), form) for form in NAMES)


def test_a_gpu_is_refused():
    with pytest.raises(ValueError, match="kernels of a CPU, and was asked for cuda"):
        next(iter(quantised_case(torch.device("cuda"))))


def test_the_case_is_on_the_list_and_its_record_is_complete():
    assert CASES["quantised-model"] is quantised_case
    record = read_record(FOLDER / "cpu" / "quantised-model.json")
    scores = {line.label: line.scores for line in record.measurements}
    known = {"tiny-qwen3": BPB, "tiny-qwen3_5-moe": FACTS, "tiny-glm5": RIGHT, WIDE: "times plain"}
    assert set(known) == set(MODELS)
    for name, what in known.items():
        model, _ = MODELS[name]()
        for form in [form for form in (NAMES if name != WIDE else (PLAIN, *CPU)) if divides(model, form)]:
            assert what in scores[f"{form}, {name}"]
            assert scores[f"{form}, {name}"]["bytes held"] <= scores[f"{PLAIN}, {name}"]["bytes held"]
    plain, coarse = (scores[f"{form}, tiny-qwen3"][BPB] for form in (PLAIN, "int4"))
    assert plain < coarse < 1.2 * plain
