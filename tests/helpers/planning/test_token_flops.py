"""FLOP of one token: what torch counts in our own models, exactly where it grows; what follows from published sizes."""

import functools

import pytest
import torch

from course.parity.configs import CONFIGS
from helpers.checkpoints.families import FAMILIES
from helpers.measure import count_flops
from helpers.planning.plan import plan, published
from helpers.planning.token_flops import layer_flops, token_flops

TEXT = ["qwen3", "qwen3_5_text", "qwen3_5_moe_text", "deepseek_v3", "deepseek_v32", "glm_moe_dsa", "deepseek_v4"]


def tiny(kind: str):
    return plan({"model_type": kind, **CONFIGS[kind].sizes})


@functools.cache
@torch.no_grad()
def counted(kind: str, tokens: int) -> int:
    """What torch counts for one more token, which sees ``tokens`` with its own."""
    model = FAMILIES[kind].model(FAMILIES[kind].from_hf(tiny(kind).config.to_dict())).eval()
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    cache = model.new_cache()
    model(torch.zeros(1, tokens - 1, dtype=torch.long), cache)
    return sum(count_flops(lambda: model(torch.zeros(1, 1, dtype=torch.long), cache)).values())


@pytest.mark.parametrize("kind", TEXT)
def test_work_grows_with_the_text_exactly_as_torch_counts_it(kind):
    base = counted(kind, 64), token_flops(tiny(kind), 64).total
    for tokens in (128, 131, 201):
        assert counted(kind, tokens) - base[0] == token_flops(tiny(kind), tokens).total - base[1], tokens


@pytest.mark.parametrize("kind", TEXT)
def test_the_whole_is_within_four_percent_of_what_torch_counts(kind):
    assert token_flops(tiny(kind), 64).total == pytest.approx(counted(kind, 64), rel=0.04)


def test_only_layers_with_an_indexer_of_their_own_score():
    config = tiny("glm_moe_dsa").config
    assert [layer_flops(config, n, 50)[0] > 0 for n in range(4)] == [True, True, False, False]


def test_states_cost_the_same_at_every_length_and_attention_does_not():
    config = tiny("qwen3_5_text").config
    assert layer_flops(config, 0, 10) == layer_flops(config, 0, 10_000)
    assert layer_flops(config, 3, 10_000)[1] == 1000 * layer_flops(config, 3, 10)[1]


def test_kimi_linear_asks_writes_and_reads_one_square_a_head():
    config = plan(published("kimi_linear-48b-a3b")).config
    assert layer_flops(config, 0, 999) == (0, 3 * 2 * 32 * 128 * 128)


def test_a_window_and_a_chunk_bound_what_one_token_reads():
    sizes = dict(vocab_size=64, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2)
    sizes |= dict(head_dim=8, intermediate_size=48, num_local_experts=2)
    gemma = plan({"model_type": "gemma2", **sizes, "sliding_window": 16}).config
    llama = plan({"model_type": "llama4_text", **sizes, "attention_chunk_size": 16, "no_rope_layers": [1] * 4}).config
    each = 4 * 4 * 8  # two products of 4 heads, 8 wide
    assert [layer_flops(gemma, 0, tokens)[1] // each for tokens in (7, 16, 17, 40)] == [7, 16, 16, 16]
    assert [layer_flops(gemma, 1, tokens)[1] // each for tokens in (7, 16, 17, 40)] == [7, 16, 17, 40]
    assert [layer_flops(llama, 0, tokens)[1] // each for tokens in (7, 16, 17, 40)] == [7, 16, 1, 8]


def test_entries_are_scored_only_when_they_are_complete():
    config = tiny("deepseek_v4").config
    assert layer_flops(config, 2, 3)[0] == 0
    assert layer_flops(config, 2, 7)[0] == layer_flops(config, 2, 4)[0] == 2 * 16 * 17


def test_a_token_that_sees_nothing_is_refused():
    with pytest.raises(ValueError, match="1 token or more, its own, got 0"):
        token_flops(tiny("qwen3"), 0)
