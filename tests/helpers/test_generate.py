"""Continuing a text: the same tokens as without a cache, draws that follow the chances, an end at eos or a string."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from transformers import AutoTokenizer

from helpers.checkpoints import load, resolve
from helpers.decoding.request import Interrupted
from helpers.decoding.sampling import probabilities, sample, sample_from
from helpers.generate import generate
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.training.train import initialise

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model() -> Qwen3:
    model = Qwen3(Config(53, 16, 2, 2, 1, 8, 24)).eval()
    initialise(model, seed=0, std=0.5)  # wide, so that the tokens vary
    return model


PROMPT = torch.tensor([[5, 6, 7], [8, 9, 10]])


def test_greedy_tokens_are_those_of_whole_forwards(model):
    expected = PROMPT
    for _ in range(12):
        newest = model(expected)[:, -1].argmax(dim=-1, keepdim=True)
        expected = torch.cat([expected, newest], dim=1)
    got = generate(model, PROMPT, max_new_tokens=12)
    assert torch.equal(got, expected)
    assert len(got[:, 3:].unique()) > 2  # the same token for ever would prove little


def test_the_prompt_is_read_once_and_then_one_token_a_step(model):
    lengths = []
    hook = model.register_forward_pre_hook(lambda _model, inputs: lengths.append(inputs[0].shape[1]))
    generate(model, PROMPT, max_new_tokens=4)
    hook.remove()
    assert lengths == [3, 1, 1, 1]


def test_the_same_seed_draws_the_same_tokens_and_another_seed_others(model):
    draws = [generate(model, PROMPT, 20, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_temperature_near_zero_is_greedy(model):
    assert torch.equal(generate(model, PROMPT, 10, temperature=1e-5, seed=3), generate(model, PROMPT, 10))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_chances(temperature):
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    drawn = sample(logits.expand(20_000, 4), temperature, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, (logits / temperature).softmax(dim=0), rtol=0, atol=0.015)  # 4 x sqrt(.25 / n)


def test_at_temperature_zero_one_token_is_certain_and_above_it_the_chances_are_the_softmax():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    assert probabilities(logits, 0.0).tolist() == [[0, 1, 0], [1, 0, 0]]
    torch.testing.assert_close(probabilities(logits, 0.5), (2 * logits).softmax(-1))
    assert sample_from(probabilities(logits, 0.0)).tolist() == sample(logits, 0.0).tolist() == [1, 0]


def test_it_stops_at_eos_and_fills_the_rows_that_ended_before(model):
    free = generate(model, PROMPT, 12)
    eos = free[0, 5].item()
    stopped = generate(model, PROMPT, 12, eos=eos)
    for row, unstopped in zip(stopped.tolist(), free.tolist(), strict=True):
        new = unstopped[3:]
        end = new.index(eos) + 1 if eos in new else 12
        assert row[3 : 3 + end] == new[:end]
        assert set(row[3 + end :]) <= {eos}
    ends = [row[3:].index(eos) + 1 if eos in row[3:] else 12 for row in free.tolist()]
    assert stopped.shape[1] == 3 + max(ends)


def test_a_single_row_ends_with_eos(model):
    free = generate(model, PROMPT[:1], 12)[0].tolist()
    eos = free[6]
    assert generate(model, PROMPT[:1], 12, eos=eos)[0].tolist() == free[: 3 + free[3:].index(eos) + 1]


def test_the_stream_gets_every_token_as_it_comes(model):
    seen = []
    got = generate(model, PROMPT, 5, stream=seen.append)
    assert torch.equal(torch.stack(seen, dim=1), got[:, 3:])


def test_no_new_tokens_is_the_prompt(model):
    assert torch.equal(generate(model, PROMPT, 0), PROMPT)


@pytest.mark.parametrize(
    ("token_ids", "new", "temperature", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.long), 1, 0.0, r"shape \(1, 0\)"),
        (PROMPT, -1, 0.0, "max_new_tokens is -1"),
        (PROMPT, 1, -0.5, "temperature is -0.5"),
        (PROMPT, 1, float("nan"), "temperature is nan"),
    ],
)
def test_what_cannot_be_continued_is_refused(model, token_ids, new, temperature, message):
    with pytest.raises(ValueError, match=message):
        generate(model, token_ids, new, temperature)


def test_what_is_generated_can_be_trained_on(model):
    seen = []
    ids = generate(model, PROMPT, 2, stream=seen.append)
    for tokens in (ids, seen[-1][:, None]):
        gradient = torch.autograd.grad(model(tokens).square().sum(), model.embedding.weight)[0]
        assert gradient.abs().sum() > 0


def test_draws_are_those_of_a_plain_loop_with_the_same_seed(model):
    generator, expected = torch.Generator().manual_seed(3), PROMPT
    for _ in range(8):
        probs = (model(expected)[:, -1] / 0.8).softmax(dim=-1)
        expected = torch.cat([expected, torch.multinomial(probs, 1, generator=generator)], dim=1)
    assert torch.equal(generate(model, PROMPT, 8, temperature=0.8, seed=3), expected)


# Ends


@pytest.mark.parametrize("kind", [list, tuple, set, torch.tensor, numpy.array])
def test_a_row_ends_at_any_of_several_ends(model, kind):
    free = generate(model, PROMPT, 12)[:, 3:].tolist()
    ends = [free[0][2], free[1][4]]
    got = generate(model, PROMPT, 12, eos=kind(ends), pad=1)[:, 3:].tolist()
    for row, unstopped in zip(got, free, strict=True):
        end = min(n for n, token in enumerate(unstopped) if token in ends) + 1
        assert row == unstopped[:end] + [1] * (len(row) - end)
    assert max(len(row) - row.count(1) for row in got) == len(got[0])


@pytest.mark.parametrize("one", [int, numpy.int64, torch.tensor])
def test_one_end_may_be_any_whole_number(model, one):
    eos = generate(model, PROMPT, 12)[0, 5].item()
    assert torch.equal(generate(model, PROMPT, 12, eos=one(eos)), generate(model, PROMPT, 12, eos=[eos]))


def test_no_end_is_no_end(model):
    for eos in (None, [], (), torch.tensor([], dtype=torch.long)):
        assert torch.equal(generate(model, PROMPT, 12, eos=eos), generate(model, PROMPT, 12))


def test_several_ends_fill_with_the_first_of_them(model):
    free = generate(model, PROMPT, 12)[:, 3:].tolist()
    rare = next(token for token in range(53) if token not in free[0] and token not in free[1])
    row = 0 if free[0].index(free[0][2]) < 11 and free[0][2] not in free[1] else 1
    got = generate(model, PROMPT, 12, eos=[rare, free[row][2]])[row, 3:].tolist()
    end = free[row].index(free[row][2]) + 1
    assert got == free[row][:end] + [rare] * (len(got) - end)


# Stop strings


@pytest.fixture(scope="module")
def python() -> tuple[Qwen3, object]:
    """The model that writes Python, and its tokenizer."""
    return load("zoo"), AutoTokenizer.from_pretrained(resolve("zoo"))


TEXTS = ["import numpy as np\nx = np", "class A", "def f(x):"]


def own_text(tokenizer, row: list[int], prompt: int) -> str:
    return tokenizer.decode(row[prompt:])


def test_a_row_ends_with_the_token_that_completes_a_stop_string(python):
    model, tokenizer = python
    prompt = tokenizer(TEXTS[:1], return_tensors="pt")
    length = prompt["input_ids"].shape[1]
    free = generate(model, prompt, 30, 1.0, seed=1)[0].tolist()
    text = own_text(tokenizer, free, length)
    for start in range(0, len(text) - 4, 3):  # strings that begin and end in the middle of tokens
        stop = text[start : start + 4]
        got = generate(model, prompt, 30, 1.0, seed=1, stop=stop, tokenizer=tokenizer)[0].tolist()
        assert got == free[: len(got)]
        assert stop in own_text(tokenizer, got, length)
        assert stop not in own_text(tokenizer, got[:-1], length)


def test_each_row_stops_by_itself_at_the_first_of_several_strings(python):
    model, tokenizer = python
    prompt = tokenizer(TEXTS, return_tensors="pt", padding=True)
    length, stops = prompt["input_ids"].shape[1], ["\n", "00", "III"]
    free = generate(model, prompt, 20).tolist()
    got = generate(model, prompt, 20, stop=stops, tokenizer=tokenizer)
    ends = []
    for row, unstopped in zip(got.tolist(), free, strict=True):
        ends.append(
            min(n for n in range(21) if any(s in own_text(tokenizer, unstopped[: length + n], length) for s in stops))
        )
        assert row[: length + ends[-1]] == unstopped[: length + ends[-1]]
        assert set(row[length + ends[-1] :]) <= {tokenizer.pad_token_id}
    assert got.shape[1] == length + max(ends)
    assert len(set(ends)) > 1


def test_what_the_prompt_says_stops_nothing(python):
    model, tokenizer = python
    prompt = tokenizer("import a\nimport b", return_tensors="pt")
    stopped = generate(model, prompt, 6, stop="import a", tokenizer=tokenizer)
    assert torch.equal(stopped, generate(model, prompt, 6))


def test_a_special_token_may_be_a_stop_string(python):
    model, tokenizer = python
    end = tokenizer.eos_token_id
    prompt = tokenizer("x", return_tensors="pt")

    class EndsSoon(torch.nn.Module):
        config, new_cache = model.config, model.new_cache

        def forward(self, token_ids, cache=None, mask=None):
            logits = model(token_ids, cache=cache, mask=mask).clone()
            logits[:, -1, end] = 1e4 if cache.length > 3 else -1e4
            return logits

    got = generate(EndsSoon(), prompt, 20, stop=tokenizer.eos_token, tokenizer=tokenizer)[0].tolist()
    assert got[-1] == end
    assert len(got) < 20


# What breaks off keeps what was written


class Spoiled(torch.nn.Module):
    """A model whose logits in one row are no numbers from the fourth call on."""

    def __init__(self, model: Qwen3, value: float, row: int = 0):
        super().__init__()
        self.model, self.value, self.row, self.calls = model, value, row, 0
        self.config, self.new_cache = model.config, model.new_cache

    def forward(self, token_ids, cache=None, mask=None, images=None):
        logits = self.model(token_ids, cache=cache, mask=mask).clone()
        self.calls += 1
        if self.calls > 3:
            logits[self.row] = self.value
        return logits


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_no_numbers_are_said_and_what_was_written_is_kept(model, value, temperature):
    seen = []
    with pytest.raises(Interrupted, match="logits in row 1 are NaN or infinite") as error:
        generate(Spoiled(model, value, row=1), PROMPT, 8, temperature, seed=0, stream=seen.append)
    assert torch.equal(error.value.token_ids, generate(model, PROMPT, 3, temperature, seed=0))
    assert error.value.lengths == [3, 3]
    assert len(seen) == 3
    assert "\n" not in str(error.value)


def test_where_nobody_looks_at_each_token_the_end_tells_the_same(model, monkeypatch):
    """As on a GPU, which would have to be waited for: the draws go on, and the error keeps what was sound."""
    monkeypatch.setattr("helpers.generate.looking_is_free", lambda x: False)
    for temperature in (0.0, 1.0):
        with pytest.raises(Interrupted, match="logits in row 1 are NaN or infinite") as error:
            generate(Spoiled(model, float("nan"), row=1), PROMPT, 8, temperature, seed=0)
        assert torch.equal(error.value.token_ids, generate(model, PROMPT, 3, temperature, seed=0))
    eos = generate(model, PROMPT, 8)[0, 4].item()
    got = generate(Spoiled(model, float("nan")), PROMPT, 8, eos=eos)
    assert torch.equal(got, generate(model, PROMPT, 8, eos=eos))


def test_a_single_nan_among_the_logits_is_enough(model):
    class OneHole(Spoiled):
        def forward(self, token_ids, cache=None, mask=None, images=None):
            logits = self.model(token_ids, cache=cache).clone()
            logits[1, -1, 50] = float("nan")
            return logits

    with pytest.raises(ValueError, match=r"row 1 .* 0 tokens written before"):
        generate(OneHole(model, 0.0), PROMPT, 2)


def test_what_a_row_that_has_ended_would_say_does_not_matter(model):
    free = generate(model, PROMPT, 8)
    eos = free[0, 4].item()
    assert eos not in free[1, 3:]
    got = generate(Spoiled(model, float("nan")), PROMPT, 8, eos=eos)
    assert torch.equal(got[1], free[1])
    assert got[0, 3:].tolist() == free[0, 3:5].tolist() + [eos] * 6


def test_behind_the_length_it_was_trained_for_a_model_goes_on():
    short = Qwen3(Config(53, 16, 2, 2, 1, 8, 24, context=8)).eval()
    initialise(short, seed=0, std=0.5)
    assert generate(short, PROMPT, 12).shape == (2, 15)


# What a person may ask wrongly, outside pytest's checks of types


WRONG = """
import torch
from helpers.generate import generate
from helpers.decoding.drafts import NGram
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.decoding.speculative import speculate

model, prompt = Qwen3(Config(53, 16, 1, 2, 1, 8, 24)).eval(), torch.tensor([[5, 6, 7]])
wrong = [
    {"max_new_tokens": number} for number in (2.0, -1, None, True, "3")
] + [
    {"temperature": number} for number in ("1", None, True, float("inf"), [1.0])
] + [
    {"seed": seed} for seed in (1.5, True, 2**70, "1")
] + [
    {"eos": eos} for eos in ([[5]], "5", 5.0, True, -1, 53, [torch.tensor([5, 6])], [5, 2.5])
] + [
    {"stop": stop, "tokenizer": tokenizer} for stop, tokenizer in (("x", None), ("x", 5), ("x", model), ("", model))
] + [
    {"top_k": 2.0}, {"top_k": "2"}, {"top_p": "a"}, {"top_p": True}, {"min_p": [0.1]},
    {"pad": 53, "eos": 5}, {"pad": "x"},
]
for given in wrong:
    for ask in (lambda: generate(model, prompt, **given), lambda: speculate(model, prompt, NGram(), **given)):
        try:
            ask()
        except ValueError as error:
            assert "\\n" not in str(error) and next(iter(given)) in str(error), (given, str(error))
        else:
            raise AssertionError(f"{given} was taken")
print(len(wrong))
"""


def test_a_wrong_request_is_one_line_that_names_it():
    found = subprocess.run([sys.executable, "-c", WRONG], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert int(found.stdout) == 33
