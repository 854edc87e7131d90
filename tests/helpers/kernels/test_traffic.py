"""The bytes that kernels load and store are those that their cost says, counted as they run."""

import pytest
import torch
from support.kernel_tests import numbers

from helpers.kernels import rms_norm, softmax
from helpers.kernels.attention import block_sparse, index_scores, mla_decode, sparse_attention, top_k
from helpers.kernels.launch import INTERPRETED
from helpers.kernels.traffic import counted_traffic

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="only the interpreter counts bytes")


def bytes_of(function, *arguments) -> int:
    with counted_traffic() as seen:
        function(*arguments)
    return seen.bytes


@pytest.mark.parametrize("width", [31, 64])
def test_a_fused_norm_moves_each_number_once(width):
    x, weight = numbers(3, width, seed=0), numbers(width, seed=1)
    cost = rms_norm.cost(3, width, number_bytes=4)
    assert (
        bytes_of(rms_norm.rms_norm, x, weight, 1e-6) == cost.bytes + 2 * 4 * width
    )  # the weight for each of three rows
    added = rms_norm.cost(3, width, number_bytes=4, added=True)
    assert bytes_of(rms_norm.add_rms_norm, x, x, weight, 1e-6) == added.bytes + 2 * 4 * width


def test_a_softmax_of_several_tiles_reads_twice():
    scores = numbers(2, 40, seed=0)
    assert bytes_of(softmax.softmax, scores, 16) == softmax.cost(2, 40, 4, 16).bytes
    one_tile = 2 * 2 * 40 * 4 + 2 * 40 * 4  # the interpreter has no cache: the second look at the one tile counts too
    assert bytes_of(softmax.softmax, scores, 64) == one_tile


def test_sparse_attention_reads_what_was_chosen_whatever_the_length():
    def read(keys, k):
        shapes = (1, 1, 2, 8), (1, 1, 2, 16), (1, keys, 32), (1, keys, 16), (2, 8, 32), (2, 8, 32)
        parts = [numbers(*shape, seed=n) for n, shape in enumerate(shapes)]
        chosen = torch.arange(k)[None, None] * (keys // k)
        return bytes_of(sparse_attention.attend_chosen, *parts, chosen, 0.2)

    assert read(40, 8) == read(400, 8)
    difference = read(400, 24) - read(400, 8)
    assert difference == 16 * (48 * 4 + 8) == sparse_attention.cost(1, 16, 0, 32, 16, 4).bytes


def test_a_block_of_keys_is_read_once_for_the_block_of_queries_and_all_heads_that_share_it():
    def read(k):
        parts = [numbers(1, 64, heads, 16, seed=n) for n, heads in enumerate((8, 2, 2))]
        chosen = torch.tensor([[[n, *range(k - 1)]] * 2 for n in range(4)])[None]  # no matter which: k of four blocks
        return bytes_of(block_sparse.attend_blocks, *parts, chosen, 16)

    own, two = (block_sparse.cost(1, 64, 8, 2, 16, 16, k, 4).bytes for k in (1, 2))
    assert read(1) == own
    assert read(2) - two == 4 * 2 * 16 * (16 + 16) * 4  # a second block for four blocks and two key heads: the cache's


def test_dense_decoding_reads_every_latent_once_for_all_heads():
    def read(keys, heads):
        shapes = (1, 1, heads, 8), (1, 1, heads, 16), (1, keys, 32), (1, keys, 16), (heads, 8, 32), (heads, 8, 32)
        parts = [numbers(*shape, seed=n) for n, shape in enumerate(shapes)]
        return bytes_of(mla_decode.absorbed, *parts, torch.ones(1, 1, keys, dtype=torch.bool), 0.2)

    for heads in (2, 16):
        difference = read(80, heads) - read(40, heads)
        assert difference == 40 * (48 * 4 + 1)  # a latent, a RoPE key, a byte of the mask
        assert difference == mla_decode.cost(1, 40, 0, 32, 16, 4).bytes + 40


def test_index_keys_are_read_once_for_sixteen_queries():
    query, key, weights = numbers(1, 16, 2, 16, seed=0), numbers(1, 40, 16, seed=1), numbers(1, 16, 2, seed=2)
    assert bytes_of(index_scores.scores, query, key, weights) == index_scores.cost(1, 16, 40, 2, 16, 4).bytes


def test_a_radix_select_looks_five_times_of_which_memory_serves_one():
    scores = numbers(1, 3, 50, seed=0)
    assert bytes_of(top_k.select_tokens, scores, 7) == top_k.cost(3, 50, 7).bytes + 4 * 3 * 50 * 4
