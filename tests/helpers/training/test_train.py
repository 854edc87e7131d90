"""Training lowers the loss, repeats itself bit for bit, and survives a kill at any moment."""

import errno
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from helpers.data import batches
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.training import train as training
from helpers.training.train import Settings, bits_per_byte, initialise, learning_rate, train
from helpers.zoo.tokenizer import token_row, train_tokenizer

SETTINGS = Settings(steps=12, lr=1e-2, warm_up=3)
ROWS = batches(torch.arange(900) * 7 % 31, batch=2, length=16, seed=0)


def fresh(seed: int = 0) -> Qwen3:
    model = Qwen3(Config(31, 16, 2, 2, 1, 8, 24))
    initialise(model, seed)
    return model


def same(a: Qwen3, b: Qwen3) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_short_training_learns_a_simple_rule():
    run = train(fresh(), ROWS, replace(SETTINGS, steps=60))
    assert run.losses[0] == pytest.approx(math.log(31), rel=0.05)  # knows nothing yet
    assert run.losses[-1] < 0.3 * run.losses[0]  # the next token is the last plus 7, modulo 31


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    models = [fresh(0), fresh(0), fresh(1)]
    for model in models:
        train(model, ROWS, SETTINGS)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


@pytest.mark.parametrize("killed_after", [1, 7, 11])
def test_a_run_that_was_killed_goes_on_bit_for_bit(tmp_path, killed_after):
    whole, killed, path = fresh(), fresh(), tmp_path / "checkpoint.safetensors"
    expected = train(whole, ROWS, SETTINGS)

    def kill(run):
        if run.step == killed_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(killed, ROWS, SETTINGS, path, every=3, report=kill)
    assert path.exists() == (killed_after >= 3)
    again = fresh(seed=5 if path.exists() else 0)  # other weights: what they become must come from the checkpoint
    run = train(again, ROWS, SETTINGS, path, every=3)
    assert same(whole, again)
    assert run.losses == expected.losses


def test_a_finished_run_is_read_back_without_another_step(tmp_path):
    model, again, path = fresh(), fresh(seed=5), tmp_path / "checkpoint.safetensors"
    first = train(model, ROWS, SETTINGS, path)
    second = train(again, ROWS, SETTINGS, path, report=lambda _: pytest.fail("a step was taken"))
    assert same(model, again)
    assert first == second


def test_a_sitting_without_time_takes_one_step_and_keeps_it(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    steps = [train(fresh(), ROWS, SETTINGS, path, seconds=1e-9).step for _ in range(2)]
    assert steps == [1, 2]


def test_a_kill_while_writing_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    model, path = fresh(), tmp_path / "checkpoint.safetensors"

    def half(tensors, part, metadata):
        if json.loads(metadata["training"])["run"]["losses"][6:]:
            part.write_bytes(b"half a file")
            raise KeyboardInterrupt
        save_file(tensors, part, metadata)

    monkeypatch.setattr(training, "save_file", half)
    with pytest.raises(KeyboardInterrupt):
        train(model, ROWS, SETTINGS, path, every=3)
    monkeypatch.undo()
    whole, again = fresh(), fresh(seed=5)
    train(whole, ROWS, SETTINGS)
    taken = []
    train(again, ROWS, SETTINGS, path, every=3, report=lambda run: taken.append(run.step))
    assert taken[0] == 7  # step 6 was kept
    assert same(whole, again)


@pytest.mark.parametrize(
    "full", [OSError(errno.ENOSPC, "No space left"), SafetensorError("No space left (os error 28)")]
)
def test_a_full_disk_keeps_the_checkpoint_before_and_names_it(tmp_path, monkeypatch, full):
    path = tmp_path / "checkpoint.safetensors"
    train(fresh(), ROWS, SETTINGS, path, seconds=1e-9)
    before = path.read_bytes()

    def half(tensors, part, metadata):
        part.write_bytes(b"half a file")
        raise full

    monkeypatch.setattr(training, "save_file", half)
    with pytest.raises(OSError, match="No space left") as refused:
        train(fresh(), ROWS, SETTINGS, path, seconds=1e-9)
    assert refused.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_half_written_checkpoint_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train(fresh(), ROWS, SETTINGS, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is not a whole checkpoint .* remove it"):
        train(fresh(), ROWS, SETTINGS, path)


def test_a_checkpoint_with_one_changed_bit_is_refused(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    train(fresh(), ROWS, SETTINGS, path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="was damaged after it was written"):
        train(fresh(), ROWS, SETTINGS, path)


def test_a_file_of_weights_alone_is_no_checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"norm.weight": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="is not a whole checkpoint"):
        train(fresh(), ROWS, SETTINGS, path)


@pytest.mark.parametrize("change", ["settings", "data", "batch", "sizes"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    path = tmp_path / "checkpoint.safetensors"
    train(fresh(), ROWS, SETTINGS, path)
    settings = replace(SETTINGS, lr=2e-2) if change == "settings" else SETTINGS
    rows = {"data": replace(ROWS, tokens=ROWS.tokens.flip(0)), "batch": replace(ROWS, batch=3)}.get(change, ROWS)
    model = Qwen3(Config(31, 16, 3, 2, 1, 8, 24)) if change == "sizes" else fresh()
    with pytest.raises(ValueError, match="belongs to another run"):
        train(model, rows, settings, path)


def test_the_checkpoint_is_safetensors_and_json(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    model = fresh()
    run = train(model, ROWS, SETTINGS, path)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["training"])
    assert about["run"]["losses"] == run.losses
    assert torch.equal(load_file(path)["weight.norm.weight"], model.norm.weight)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # nothing is left beside it


def test_the_rate_rises_in_a_line_and_falls_in_half_a_cosine():
    settings = Settings(steps=110, lr=1.0, warm_up=10, final=0.1)
    rates = [learning_rate(step, settings) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == max(rates) == 1.0
    assert rates[60] == pytest.approx(0.55)
    assert rates[110] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["def one():\n    return 1\n" * 20], 280)


class Even(torch.nn.Module):
    """Every token is equally likely."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(vocab_size))

    def forward(self, token_ids):
        return self.logits.expand(*token_ids.shape, -1)


@pytest.mark.parametrize("length", [1, 7, 64])
def test_a_model_that_knows_nothing_needs_log2_of_the_vocabulary_a_token(tokenizer, length):
    texts = ["def two():\n    return 'zwölf'\n" * 9, "x"]
    tokens = sum(len(tokenizer.encode(text).ids) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    expected = tokens * math.log2(280) / size
    assert bits_per_byte(Even(280), tokenizer, texts, length, batch=3) == pytest.approx(expected, rel=1e-5)
    assert bits_per_byte(Even(280), tokenizer, texts[0], length) > 0


def test_bits_per_byte_do_not_depend_on_how_rows_are_batched(tokenizer):
    model = Qwen3(Config(280, 16, 1, 2, 1, 8, 24))
    initialise(model, 0, std=0.3)
    text = ["def one():\n    return 1\n" * 30, "one\n"]
    alone, together = (bits_per_byte(model, tokenizer, text, length=20, batch=batch) for batch in (1, 8))
    assert alone == pytest.approx(together, rel=1e-5)


@pytest.mark.parametrize("nothing", ["", [], ["", ""]])
def test_no_text_has_no_bits(tokenizer, nothing):
    with pytest.raises(ValueError, match="0 bytes were given"):
        bits_per_byte(Even(280), tokenizer, nothing)


def test_the_tokenizer_returns_any_text_and_is_learned_the_same_twice(tokenizer):
    text = "def ünï():\n\treturn '日本語 🙂 \u0301', 12345\r\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.to_str() == train_tokenizer(["def one():\n    return 1\n" * 20], 280).to_str()


def test_documents_begin_with_the_end_of_the_one_before(tokenizer):
    row = token_row(["def", "one"], tokenizer).tolist()
    assert row == [0, *tokenizer.encode("def").ids, 0, *tokenizer.encode("one").ids]
