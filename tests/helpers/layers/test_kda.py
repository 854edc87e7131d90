"""Kimi Delta Attention's rule against transformers' two forms, and against the delta rule that it widens."""

import pytest
import torch
from transformers.models.kimi_linear import modeling_kimi_linear as theirs

from helpers.compare import max_error
from helpers.layers.delta import delta_rule, unit_length
from helpers.layers.kda import kimi_delta_rule


def problem(length: int, dtype=torch.float32) -> list[torch.Tensor]:
    """Queries, keys, values, log decays of each channel, betas and a first state."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    query, key = (unit_length(normal(2, length, 3, 8)) for _ in range(2))
    value, state = normal(2, length, 3, 5), normal(2, 3, 8, 5)
    return [query, key, value, -normal(2, length, 3, 8).abs(), normal(2, length, 3).sigmoid(), state]


@pytest.mark.parametrize("length", [1, 31, 33, 65])
@pytest.mark.parametrize("name", ["recurrent_kimi_delta_attention", "chunk_kimi_delta_attention"])
def test_the_rule_is_transformers(length, name):
    query, key, value, log_decay, beta, state = problem(length)
    reference = getattr(theirs, name)(
        query * 8**0.5, key, value, log_decay, beta, initial_state=state, output_final_state=True
    )  # theirs divides queries by the root of their width
    for ours, other in zip(kimi_delta_rule(query, key, value, log_decay, beta, state), reference, strict=True):
        assert max_error(ours, other) <= 1e-5


def test_with_one_decay_for_all_channels_it_is_the_delta_rule():
    query, key, value, log_decay, beta, state = problem(33, torch.float64)
    same = log_decay[..., :1]
    widened = kimi_delta_rule(query, key, value, same.expand_as(log_decay), beta, state)
    for ours, other in zip(widened, delta_rule(query, key, value, same[..., 0], beta, state), strict=True):
        assert max_error(ours, other) <= 1e-12


def test_a_channel_that_fades_leaves_the_others_alone():
    key = torch.eye(2).view(1, 2, 1, 2)  # the first token writes row 0, the second row 1
    log_decay = torch.tensor([0.0, -50.0]).expand(1, 2, 1, 2)
    state = torch.full((1, 1, 2, 1), 7.0)
    _, memory = kimi_delta_rule(key, key, torch.zeros(1, 2, 1, 1), log_decay, torch.zeros(1, 2, 1), state)
    assert memory.flatten().tolist() == pytest.approx([7.0, 0.0])
