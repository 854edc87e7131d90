"""Work of a decoded token in latent attention: against counted FLOP, on paper, and where dense and sparse meet."""

import pytest
import torch

from helpers.layers.dsa import SparseLatents, scores
from helpers.layers.mla import absorbed
from helpers.layers.ragged import standing_at
from helpers.measure import count_flops
from helpers.measure.dsa_work import (
    SparseSizes,
    break_even,
    dense_decode,
    index_decode,
    made_flops,
    masked_decode,
    prefill_break_even,
    sparse_decode,
)
from helpers.planning.plan import published

SIZES = SparseSizes(heads=3, latent=10, rope_dim=4, key=6, value=5, index_heads=18, index_width=12, k=9)


def test_dense_flop_are_those_that_torch_counts():
    """Beyond carrying queries into the latents and back, which does not grow with the text."""

    def run(length: int) -> int:
        s = SIZES
        parts = [torch.randn(1, 1, s.heads, s.key), torch.randn(1, 1, s.heads, s.rope_dim)]
        parts += [torch.randn(1, length, s.latent), torch.randn(1, length, s.rope_dim)]
        parts += [torch.randn(s.heads, s.key, s.latent), torch.randn(s.heads, s.value, s.latent)]
        mask = torch.ones(1, 1, length, dtype=torch.bool)
        return sum(count_flops(lambda: absorbed(*parts, mask, 1.0)).values())

    assert run(200) - run(100) == dense_decode(SIZES, 100).flops


def test_index_flop_are_those_that_torch_counts():
    s = SIZES
    query, key = torch.randn(1, 1, s.index_heads, s.index_width), torch.randn(1, 50, s.index_width)
    counted = count_flops(lambda: scores(query, key, torch.randn(1, 1, s.index_heads)))
    assert sum(counted.values()) == index_decode(s, 50).flops


def test_bytes_are_those_of_the_cache():
    cache, tokens = SparseLatents(), 30
    rows = standing_at(torch.arange(tokens)[None])
    cache.latents.write(torch.zeros(1, tokens, SIZES.latent), torch.zeros(1, tokens, SIZES.rope_dim), rows)
    cache.index_keys.write(torch.zeros(1, tokens, SIZES.index_width), rows.positions)
    assert cache.bytes() == dense_decode(SIZES, tokens, 4).bytes + index_decode(SIZES, tokens, 4).bytes


def test_a_text_shorter_than_k_costs_the_dense_work_and_the_indexer():
    both, dense = sparse_decode(SIZES, 5), dense_decode(SIZES, 5)
    assert both.flops == dense.flops + index_decode(SIZES, 5).flops
    assert both.bytes == dense.bytes + index_decode(SIZES, 5).bytes


@pytest.mark.parametrize("name", ["deepseek_v32", "glm5"])
def test_dense_and_sparse_meet_at_the_break_even_of_the_real_models(name):
    sizes = SparseSizes.of(published(name))
    by_flops, by_bytes = break_even(sizes)
    assert sizes.k < by_flops < by_bytes
    for kind, at in (("flops", by_flops), ("bytes", by_bytes)):
        below, above = round(at) - 2, round(at) + 2
        assert getattr(sparse_decode(sizes, below), kind) > getattr(dense_decode(sizes, below), kind)
        assert getattr(sparse_decode(sizes, above), kind) < getattr(dense_decode(sizes, above), kind)
    assert prefill_break_even(sizes) > by_flops


def test_a_mask_reads_the_whole_text_and_a_choice_only_its_index_keys():
    s = SparseSizes(heads=8, latent=128, rope_dim=32, key=64, value=64, index_heads=4, index_width=64, k=512)
    assert sparse_decode(s, 4096, 4).bytes - sparse_decode(s, 2048, 4).bytes == 2048 * 64 * 4
    assert masked_decode(s, 4096, 4).bytes == 2 * masked_decode(s, 2048, 4).bytes
    assert masked_decode(s, 65536).flops > 50 * sparse_decode(s, 65536).flops


def test_flop_of_keys_and_values_made_anew_are_those_that_torch_counts():
    s = SIZES
    latent, up = torch.randn(50, s.latent), torch.randn(s.latent, s.heads * (s.key + s.value))
    assert sum(count_flops(lambda: latent @ up).values()) == made_flops(s, 50)


def test_an_indexer_as_dear_as_attention_never_pays():
    assert break_even(SparseSizes(1, 10, 4, 6, 5, 64, 128, 9)) == (float("inf"), float("inf"))


def test_a_shared_choice_costs_its_share_of_the_index():
    alone, shared = sparse_decode(SIZES, 100), sparse_decode(SIZES, 100, layers_a_choice=4)
    assert alone.flops - shared.flops == index_decode(SIZES, 100).flops * 3 / 4


def test_a_config_without_an_indexer_is_refused_by_name():
    with pytest.raises(ValueError, match="index_topk"):
        SparseSizes.of(published("deepseek_v3"))
