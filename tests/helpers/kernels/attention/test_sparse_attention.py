"""Attention over chosen tokens reads those and no others, at lengths where most are left out."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.attention import sparse_attention
from helpers.kernels.attention.sparse_attention import attend_chosen, cost
from helpers.layers import dsa
from helpers.layers.attention import causal_mask

pytestmark = needs_triton


def parts(batch, length, keys, heads, latent=32, turned=16, dtype=torch.float32):
    shapes = (batch, length, heads, 8), (batch, length, heads, turned), (batch, keys, latent), (batch, keys, turned)
    shapes += (heads, 8, latent), (heads, 8, latent)
    return [numbers(*shape, seed=n, dtype=dtype) for n, shape in enumerate(shapes)]


def choice(batch, length, keys, k, seed=9):
    """As an indexer chooses: of what a query sees, and -1 where that is fewer than k."""
    positions = (keys - length + torch.arange(length, device=WHERE)).expand(batch, -1)
    scores = numbers(batch, length, keys, seed=seed).masked_fill(~causal_mask(positions, keys), float("-inf"))
    return dsa.select_tokens(scores, k)


@in_both
@pytest.mark.parametrize(
    ("batch", "length", "keys", "heads", "latent", "turned", "k"),
    [
        (1, 1, 1, 1, 16, 16, 1),
        (2, 1, 100, 3, 32, 16, 31),  # decoding
        (1, 5, 70, 17, 40, 8, 33),  # a prompt's end
        (2, 9, 9, 2, 32, 16, 4),  # a prompt's beginning: -1 where a query sees fewer than k
    ],
)
def test_it_is_the_readable_one(batch, length, keys, heads, latent, turned, k, dtype):
    given, chosen = parts(batch, length, keys, heads, latent, turned, dtype), choice(batch, length, keys, k)
    answer, launched = launches_of(attend_chosen, *given, chosen, 0.2)
    assert launched == {"_walk": 1}
    near_float64(answer, dsa.attend_chosen(*(x.double() for x in given), chosen, 0.2), 64, "the mixture")


def test_it_is_sparse_and_what_was_not_chosen_is_not_read():
    given, chosen = parts(1, 1, 100, 2), choice(1, 1, 100, 8)
    sparse = attend_chosen(*given, chosen, 0.2)
    everything = torch.arange(100, device=WHERE)[None, None]
    assert not torch.allclose(sparse, attend_chosen(*given, everything, 0.2), atol=1e-2)
    left_out = torch.ones(100, dtype=torch.bool, device=WHERE).index_fill(0, chosen.flatten(), False)
    for cache in given[2:4]:
        cache[:, left_out] = float("nan")
    assert torch.equal(attend_chosen(*given, chosen, 0.2), sparse)


def test_padding_changes_nothing_wherever_it_stands(monkeypatch):
    monkeypatch.setattr(sparse_attention, "LEAST", 16)
    given, chosen = parts(1, 1, 100, 2), choice(1, 1, 100, 8)
    padded = torch.full((1, 1, 64), -1, device=WHERE, dtype=torch.int32)
    padded[..., 40:48] = chosen.int()  # three of four splits choose nothing
    assert torch.allclose(attend_chosen(*given, padded, 0.2), attend_chosen(*given, chosen, 0.2), atol=1e-6)


def test_choosing_every_token_is_dense_attention():
    from helpers.kernels.attention.mla_decode import absorbed

    given, everything = parts(1, 1, 40, 2), torch.arange(40, device=WHERE)[None, None]
    mask = torch.ones(1, 1, 40, dtype=torch.bool, device=WHERE)
    assert torch.allclose(attend_chosen(*given, everything, 0.2), absorbed(*given, mask, 0.2), atol=1e-5)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (torch.tensor([[[40]]]), "the cache has 0 to 39"),
        (torch.tensor([[[-2]]]), "positions -2"),
        (torch.zeros(1, 1, 0, dtype=torch.int64), "each needs some"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), "for \\(1, 1\\) queries"),
        (torch.zeros(1, 1, 3), "int32 or int64"),
    ],
)
def test_a_choice_that_would_read_foreign_memory_is_refused(chosen, message):
    refused(attend_chosen, *parts(1, 1, 40, 2), chosen, 0.2, message=message)


def test_its_bytes_do_not_grow_with_the_text():
    assert cost(1, 2048, 64, 512, 64).bytes == 2048 * (576 * 2 + 8) + 64 * 1088 * 2
