"""The cases that time a sparse attention layer: same weights, and the same answer or no clock."""

import pytest
import torch

from course.measure.cases import CASES
from course.measure.subjects import dsa as measure_dsa
from course.measure.subjects.dsa import SIZES, dsa_decode_case, memory, models, our_step, their_step
from helpers.compare import assert_close, max_error
from helpers.layers.dsa import SparseLatents
from helpers.measure import Record, read_record, write_record
from helpers.measure.records import FOLDER

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _as_written(monkeypatch):
    """No compiler follows pytest's shape checks: what is compiled is tested in a process without them."""
    monkeypatch.setattr(measure_dsa, "can_compile", lambda: False)


@pytest.mark.parametrize("room", [None, 701])
def test_both_layers_give_one_answer_where_the_choice_matters(monkeypatch, room):
    monkeypatch.setitem(SIZES, "index_topk", 64)
    theirs, ours = models(CPU)
    x, remembered, cache = torch.randn(1, 1, 512), memory(700, CPU), SparseLatents()
    if room:
        cache.reserve(room)
    with torch.inference_mode():
        a, b = their_step(theirs, x, remembered), our_step(ours, x, remembered, cache)
        answer = a()
        assert_close(b(), answer, 1e-5, "answer")
        assert torch.equal(a(), answer)  # a second call is the same call: the cache has not grown
        assert_close(b(), answer, 1e-5, "answer again")
        ours.blocks[0].attention.indexer.k = 701
        assert max_error(b(), answer) > 1e-4  # reading everything is another answer


def test_a_layer_that_answers_something_else_is_not_timed(monkeypatch):
    original = measure_dsa.our_step
    monkeypatch.setattr(measure_dsa, "our_step", lambda model, x, *rest: original(model, 2 * x, *rest))
    with pytest.raises(AssertionError, match="the answer of ours after 40 tokens"):
        list(dsa_decode_case(CPU, lengths=(40,)))


def test_the_case_writes_a_line_for_each_way_and_length(tmp_path, monkeypatch):
    monkeypatch.setattr(measure_dsa, "REPEATS", 3)
    lines = list(dsa_decode_case(CPU, lengths=(40, 80)))
    record = read_record(write_record(Record("dsa-decode", {"device": "cpu"}, lines), tmp_path))
    assert [line.label for line in record.measurements] == ["transformers 40", "ours 40", "transformers 80", "ours 80"]
    assert all(line.median_s > 0 for line in record.measurements)


def test_the_case_is_on_the_list_and_its_record_is_complete():
    assert CASES["dsa-decode"] is dsa_decode_case
    ways = ["transformers", "ours", "transformers beside compiled", "compiled"]
    record = read_record(FOLDER / "cpu" / "dsa-decode.json")
    assert [line.label for line in record.measurements] == [f"{way} {n}" for n in (8192, 32768, 65536) for way in ways]
