"""The delta rule in chunks is the rule token by token, at every length, and gradients go through the readable form."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.delta_rule import chunked_delta_rule, cost
from helpers.layers import delta
from helpers.measure import Work

pytestmark = needs_triton


def tokens(batch=1, length=21, heads=2, width=16, wide=16, dtype=torch.float32) -> list[torch.Tensor]:
    """Queries, keys of length 1, values, log decays, betas and a state that has memories already."""
    query, key = (delta.unit_length(numbers(batch, length, heads, width, seed=s)) for s in (0, 1))
    value = numbers(batch, length, heads, wide, seed=2)
    decay, beta = -numbers(batch, length, heads, seed=3).abs(), numbers(batch, length, heads, seed=4).sigmoid()
    return [*(x.to(dtype) for x in (query, key, value, decay, beta)), numbers(batch, heads, width, wide, seed=5)]


def near(answer: torch.Tensor, exact: torch.Tensor, terms: int, name: str) -> None:
    """On a GPU float32 is multiplied as tf32, which has the fraction of a float16."""
    near_float64(answer.half() if WHERE == "cuda" else answer, exact, terms, name)


@in_both
@pytest.mark.parametrize(
    ("batch", "length", "width", "wide"), [(1, 1, 16, 16), (2, 16, 16, 32), (1, 33, 24, 20), (1, 50, 16, 40)]
)
def test_it_is_the_rule_token_by_token(batch, length, width, wide, dtype):
    given = tokens(batch, length, 2, width, wide, dtype)
    (read, state), launched = launches_of(chunked_delta_rule, *given, 16)
    assert launched == {"_within": 1, "_across": 1}
    exact_read, exact_state = delta.delta_rule(*(x.double() for x in given))
    assert (read.dtype, state.dtype) == (dtype, torch.float32)
    near(read, exact_read, 4 * length + width, "what is read")
    near(state, exact_state, 4 * length + width, "the state")


def test_the_chunk_changes_nothing_and_a_prompt_in_two_pieces_is_the_same_prompt():
    *given, state = tokens(length=40)
    whole, last = chunked_delta_rule(*given, state, 16)
    wider, _ = chunked_delta_rule(*given, state, 32)
    first, between = chunked_delta_rule(*(x[:, :23].contiguous() for x in given), state, 16)
    second, end = chunked_delta_rule(*(x[:, 23:].contiguous() for x in given), between, 16)
    for answer, expected in ((wider, whole), (torch.cat([first, second], dim=1), whole), (end, last)):
        near(answer, expected.double(), 200, "the same prompt")


def test_keys_that_are_all_alike_do_not_blow_up():
    """Powers of this system grow beyond 10^8; solved row by row it stays what it is."""
    query, key, value, decay, beta, state = tokens(length=64)
    key = key[:, :1].expand_as(key).contiguous()
    given = query, key, value, torch.zeros_like(decay), torch.ones_like(beta), state
    read, _ = chunked_delta_rule(*given, 64)
    near(read, delta.delta_rule(*(x.double() for x in given))[0], 2000, "what is read")


def test_without_decay_and_beta_a_token_leaves_no_trace():
    query, key, value, decay, beta, state = tokens()
    _, last = chunked_delta_rule(query, key, value, torch.zeros_like(decay), torch.zeros_like(beta), state, 16)
    assert torch.equal(last, state)


def test_where_a_gradient_is_wanted_the_readable_form_answers():
    given = tokens()
    given[2].requires_grad_()
    (read, _), launched = launches_of(chunked_delta_rule, *given, 16)
    read.sum().backward()
    assert not launched
    assert given[2].grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(key=torch.ones(1, 21, 2, 8)), r"key is \(1, 21, 2, 8\); .* must be \(1, 21, 2, 16\)"),
        (dict(query=torch.ones(1, 21, 16, 2).mT), "query has strides"),
        (dict(value=torch.ones(1, 21, 2, 16).half()), "one dtype is needed"),
        (dict(beta=torch.ones(1, 20, 2)), "beta is"),
        (dict(state=torch.ones(1, 2, 16, 8)), "state is"),
        (dict(chunk=24), "chunk is 24 tokens"),
        (dict(chunk=8), "chunk is 8 tokens"),
    ],
)
def test_what_it_cannot_do_right_is_refused(change, message):
    names = ("query", "key", "value", "log_decay", "beta", "state")
    given = dict(zip(names, tokens(), strict=True)) | {"chunk": 16} | change
    refused(chunked_delta_rule, *given.values(), message=message)


def test_no_tokens_and_heads_too_wide_are_refused():
    refused(chunked_delta_rule, *tokens(length=0), 16, message="axis of length 0")
    refused(chunked_delta_rule, *tokens(width=257), 16, message="256 fit one program")


def test_its_cost_on_paper():
    """One chunk of 3 tokens, one head, K = V = 1: a token costs 3 (6 + 2) + 6 within and 6 + 6 across."""
    assert cost(3, 1, 1, 1, chunk=3) == Work(3 * (24 + 6 + 12), 3 * 9 * 4 + 2 * 4 * 3 * 5 + 2 * 4)
    assert cost(8192, 32, 128, 128).intensity < 100  # below the ridge of an H200 in tf32: memory decides
