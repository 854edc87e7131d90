"""The case that times experts: same weights and answer, transformers' fastest way, and work that follows from sizes."""

import pytest
import torch

from course.measure.cases import CASES
from course.measure.subjects import experts as measure_experts
from course.measure.subjects.experts import (
    DTYPES,
    SIZES,
    TOKENS,
    Size,
    fastest,
    inputs,
    layers,
    moe_case,
    their_run,
    work,
)
from helpers.compare import assert_close, max_error
from helpers.measure import Timing, read_record
from helpers.measure.records import FOLDER

CPU, SMALL = torch.device("cpu"), Size(16, 8, 6, 2)


@pytest.mark.parametrize("tokens", TOKENS)
def test_every_way_of_transformers_gives_our_answer(tokens):
    theirs, ours, _ = layers(SMALL, torch.float32, CPU)
    x, routing = inputs(SMALL, tokens, torch.float32, CPU)
    with torch.inference_mode():
        for way in measure_experts.WAYS[tokens]:
            assert_close(their_run(theirs, x, routing, way)(), ours(x, *routing), 1e-5, way)
        assert max_error(ours(2 * x, *routing), ours(x, *routing)) > 1e-3


def test_a_layer_that_answers_something_else_is_not_timed(monkeypatch):
    original = measure_experts.their_run
    monkeypatch.setattr(measure_experts, "their_run", lambda theirs, x, *rest: original(theirs, 2 * x, *rest))
    with pytest.raises(AssertionError, match="16x8, 2 of 6, 1 tokens"):
        list(moe_case(CPU, sizes=(SMALL,)))


def test_the_fastest_way_is_taken(monkeypatch):
    seconds = {"slow": 2.0, "quick": 1.0, "slower": 3.0}
    monkeypatch.setattr(measure_experts, "their_run", lambda theirs, x, routing, way: way)
    taken = lambda way, **_: Timing(seconds[way], 0, 0, 3, 1, "wall clock")  # noqa: E731
    monkeypatch.setattr(measure_experts, "measure_one", taken)
    assert fastest(None, torch.ones(1), None, tuple(seconds)) == "quick"


def test_the_dense_layer_has_as_many_weights_as_the_chosen_experts():
    _, ours, dense = layers(SMALL, torch.float32, CPU)
    routed = sum(weight.numel() for weight in ours.parameters())
    assert sum(weight.numel() for weight in dense.parameters()) == routed * SMALL.chosen // SMALL.experts


def test_one_token_reads_the_experts_that_it_chose():
    assert work(SMALL, 1, torch.float32, 2).bytes == 4 * (2 * 3 * 16 * 8 + 2 * 16)
    assert work(SMALL, 1, torch.float32, 2).flops == 2 * 2 * 3 * 16 * 8
    assert work(SMALL, 10, torch.bfloat16, 6).flops == 10 * work(SMALL, 1, torch.float32, 2).flops


def test_the_case_is_on_the_list_and_its_record_is_complete():
    assert CASES["moe"] is moe_case
    record = read_record(FOLDER / "cpu" / "moe.json")
    for size in SIZES:
        for tokens in TOKENS:
            for dtype in DTYPES:
                own = [line for line in record.measurements if line.label.endswith(f", {size}, {tokens}")]
                own = [line.label.split(",")[0] for line in own if line.dtype == str(dtype).removeprefix("torch.")]
                assert own[0].removeprefix("transformers ") in measure_experts.WAYS[tokens]
                assert own[1:] == ["ours", "dense"]
