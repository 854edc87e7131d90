"""Compiled steps: the readable model's tokens and logits, whatever was compiled before, and a clear no elsewhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.compiled_steps import PROMPT, REAL, small, with_entries

from helpers import device
from helpers.compare import assert_close
from helpers.decoding import compiled
from helpers.decoding.compiled import Compiled
from helpers.decoding.request import Interrupted
from helpers.generate import generate
from helpers.layers.kv_cache import Cache, KeyValues, KVBuffer
from helpers.models.qwen3_5_vision import NextPlace
from helpers.moe.experts import Experts
from helpers.quant.experts import QuantisedExperts

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(1200)  # a C++ compiler, five times: a minute where nothing else runs
with_compiler = pytest.mark.skipif(not device.can_compile(), reason="no C++ compiler, or no headers of Python")


FAMILIES = ("qwen3", "qwen3_5", "glm5", "deepseek_v3", "deepseek_v4")


@pytest.fixture(scope="module")
def answers() -> dict:
    """What compiled steps answer, from a process without pytest's shape checks."""
    warnings = ["-W", "error", "-W", "ignore::DeprecationWarning"]  # torch calls what it calls deprecated itself
    command = [sys.executable, *warnings, "tests/support/compiled_steps.py", *FAMILIES, "neighbours"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1100)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@with_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_steps_write_what_the_model_writes_in_a_padded_batch(answers, family):
    found = answers[family]
    assert found["compiled"] == found["again"] == found["expected"]
    assert found["right"] == [row[4:] for row in found["expected"]]
    assert len({token for row in found["expected"] for token in row[4:]}) > 4  # one token for ever would prove little


@with_compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_python_is_in_the_layers_for_the_prompt_only(answers, family):
    assert answers[family]["calls"] == 1


@with_compiler
def test_two_models_of_one_class_keep_their_own_steps(answers):
    """torch would find the first one's compiled step for the second: only a number differs, and no shape."""
    first, second, apart = answers["neighbours"]
    assert max(first, second) < 1e-4
    assert apart > 0.01


def test_without_a_compiler_the_model_runs_as_it_is_written(monkeypatch):
    monkeypatch.setattr(compiled, "can_compile", lambda: False)
    model, calls = small(), []
    model.blocks[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(generate(Compiled(model, 16), PROMPT, 12, mask=REAL), generate(model, PROMPT, 12, mask=REAL))
    assert len(calls) == 24


def test_a_text_longer_than_its_room_is_refused(monkeypatch):
    monkeypatch.setattr(compiled, "can_compile", lambda: False)
    with pytest.raises(Interrupted, match="would have 7 tokens; the cache has room for 6") as error:
        generate(Compiled(small(), 6), PROMPT, 9)
    assert torch.equal(error.value.token_ids, generate(small(), PROMPT, 3))
    with pytest.raises(ValueError, match="would have 4 tokens; the cache has room for 3"):
        generate(Compiled(small(), 3), PROMPT, 9)


def test_a_wrong_prompt_is_told_as_by_the_model(monkeypatch):
    monkeypatch.setattr(compiled, "can_compile", lambda: False)
    steps = Compiled(small(), 16)
    for ids, mask, said in (
        (PROMPT[:, :0], None, "one token or more a row"),
        (PROMPT, REAL & False, "row 0, 1 of mask has no real token"),
        (PROMPT + 60, None, "outside the vocabulary: 0 to 52 are allowed"),
    ):
        with pytest.raises(ValueError, match=said):
            steps(ids, steps.new_cache(), mask)


def test_a_model_whose_work_depends_on_the_text_is_refused():
    model = small()
    model.blocks[0].mlp = QuantisedExperts.of(Experts(4, 16, 24), "int8")
    with pytest.raises(ValueError, match="QuantisedExperts cannot be compiled"):
        Compiled(model, 16)


def test_a_cache_whose_shapes_follow_the_text_takes_no_fixed_room():
    cache = Cache([KeyValues(), NextPlace()])
    with pytest.raises(ValueError, match="no fixed room for NextPlace"):
        cache.reserve(16)


@pytest.mark.parametrize("cuts", [(7,), (3, 1, 3), (1,) * 7])
def test_reserved_room_gives_the_logits_of_growing_room(cuts):
    model, ids = small(), torch.arange(1, 15).reshape(2, 7)
    cache = model.new_cache()
    cache.reserve(11)
    with torch.no_grad():
        found = torch.cat([model(part, cache=cache) for part in ids.split(cuts, dim=1)], dim=1)
        assert_close(found, model(ids), 1e-4, "logits")
    assert cache.bytes() == 2 * 2 * 11 * 2 * 8 * 4  # keys and values, rows, positions, heads, width, bytes


@pytest.mark.parametrize("cuts", [(14,), (5, 1, 8), (1,) * 14])
def test_reserved_room_for_entries_gives_the_logits_of_growing_room(cuts):
    """One entry more than are whole is made at every step, and nobody reads it."""
    model, ids = with_entries(), torch.randint(53, (2, 14), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache()
    cache.reserve(14)
    with torch.no_grad():
        found = torch.cat([model(part, cache=cache) for part in ids.split(cuts, dim=1)], dim=1)
        assert_close(found, model(ids), 1e-4, "logits")
    rooms = [block.entries.entries.reserved for block in cache.blocks]
    assert rooms == [5, 6]  # 14 tokens at 4 and at 3 to an entry, and those that they begin


def test_reserved_slots_keep_each_row_at_its_own_positions():
    slots = KVBuffer()
    slots.reserve(5)
    slots.write(torch.tensor([[[1.0], [2.0]], [[3.0], [9.0]]]), torch.tensor([[0, 1], [0, 1]]))
    held = slots.write(torch.tensor([[[5.0]], [[6.0]]]), torch.tensor([[2], [1]]))
    assert held[..., 0].tolist() == [[1, 2, 5, 0, 0], [3, 6, 0, 0, 0]]
    assert slots.bytes() == 2 * 5 * 4
