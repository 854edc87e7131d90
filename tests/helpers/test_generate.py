"""Continuing a text: the same tokens as without a cache, draws that follow the chances, an end at eos."""

import pytest
import torch

from helpers.generate import chances, choose, drawn, generate
from helpers.models.qwen3 import Config, Qwen3
from helpers.train import initialise


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
    drawn = choose(logits.expand(20_000, 4), temperature, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, (logits / temperature).softmax(dim=0), rtol=0, atol=0.015)  # 4 x sqrt(.25 / n)


def test_at_temperature_zero_one_token_is_certain_and_above_it_the_chances_are_the_softmax():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    assert chances(logits, 0.0).tolist() == [[0, 1, 0], [1, 0, 0]]
    torch.testing.assert_close(chances(logits, 0.5), (2 * logits).softmax(-1))
    assert drawn(chances(logits, 0.0)).tolist() == choose(logits, 0.0).tolist() == [1, 0]


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
