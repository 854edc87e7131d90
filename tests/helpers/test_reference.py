"""The parts and the words of transformers are found in whatever release is installed."""

import pytest
import torch
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

from helpers.reference import parts_of, with_cache

SIZES = dict(vocab_size=31, hidden_size=16, intermediate_size=24, num_hidden_layers=2, head_dim=8)
CONFIG = Qwen3Config(**SIZES, num_attention_heads=2, num_key_value_heads=1)


def test_the_parts_are_those_that_the_public_model_is_made_of():
    attention, rotary = parts_of(Qwen3Model, "Qwen3Attention", "Qwen3RotaryEmbedding")
    model = Qwen3Model(CONFIG)
    assert type(model.layers[0].self_attn) is attention
    assert type(model.rotary_emb) is rotary


def test_a_part_that_is_not_there_is_named_with_the_release():
    with pytest.raises(ValueError, match=r"transformers \d+\.\d+.* has no Qwen3Attentions beside Qwen3Model: the name"):
        parts_of(Qwen3Model, "Qwen3Attention", "Qwen3Attentions")


def test_a_cache_is_handed_over_without_a_warning_and_is_read(no_gradients):
    model, ids = Qwen3ForCausalLM(CONFIG).eval(), torch.arange(12)[None]
    cache = DynamicCache(config=CONFIG)
    model(ids[:, :8], **with_cache(model, cache))
    rest = model(ids[:, 8:], **with_cache(model, cache)).logits
    assert cache.get_seq_length() == 12
    assert (rest - model(ids).logits[:, 8:]).abs().max() < 1e-5


class _Older(torch.nn.Module):
    def forward(self, ids, past_key_values=None):
        return past_key_values


class _Newer(torch.nn.Module):
    def forward(self, ids, cache=None):
        return cache


@pytest.mark.parametrize("module", [_Older(), _Newer()], ids=["until 5.23", "from 5.24"])
def test_the_keyword_is_the_one_that_the_module_takes(module):
    assert module(None, **with_cache(module, "held")) == "held"
