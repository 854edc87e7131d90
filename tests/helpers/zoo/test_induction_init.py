"""First weights with a hint: heads look back from the start, and the models stay what transformers reads."""

from dataclasses import replace

import torch

from helpers.layers.delta import short_conv
from helpers.training.indexers.dsa import attention_shares, dense_logits, watch_inputs
from helpers.zoo.follow import begin
from helpers.zoo.recipes.tasks import TINY_GLM5, TINY_QWEN3_5

IDS = torch.randint(500, (2, 40), generator=torch.Generator().manual_seed(0))


def test_each_head_of_the_first_block_looks_as_many_tokens_back_as_it_was_told():
    model = begin(TINY_GLM5)
    with torch.no_grad(), watch_inputs(model) as reads:
        dense_logits(model, IDS)
    layer, x, rows, rotary = reads[0]
    shares = attention_shares(layer.mla, x, rows, rotary)
    late = torch.arange(10, 40)
    for head, back in enumerate((1, 1, 2, 3)):
        assert shares[:, late, head, late - back].mean() > 0.5
        assert (shares[:, late, head].argmax(dim=-1) == late - back).float().mean() > 0.7


def test_without_the_hint_they_do_not():
    model = begin(replace(TINY_GLM5, prepare=None))
    with torch.no_grad(), watch_inputs(model) as reads:
        dense_logits(model, IDS)
    layer, x, rows, rotary = reads[0]
    shares = attention_shares(layer.mla, x, rows, rotary)
    late = torch.arange(10, 40)
    assert shares[:, late, 0, late - 1].mean() < 0.2


def test_a_delta_memory_is_asked_for_a_word_and_finds_the_place_after_it():
    model = begin(TINY_QWEN3_5)
    layer = model.blocks[0].delta
    x = torch.randn(1, 30, model.config.width, generator=torch.Generator().manual_seed(1))
    x[:, 20] = x[:, 7]  # a word comes again: what followed it stands at 8
    mixed = layer.mix(x)
    query, key, _ = layer._split(short_conv(mixed, layer.conv, layer._start(mixed, None)[0]))
    alike = torch.einsum("hk,shk->sh", query[0, 20], key[0, :20]).mean(dim=-1)
    assert alike.argmax() == 8
