"""Erasing one kind of cache leaves the other, and what is recalled then comes from the other."""

import pytest
import torch
from torch import nn

from helpers.layers.delta import DeltaState
from helpers.layers.kv_cache import Cache, KeyValues
from helpers.layers.ragged import standing_at
from helpers.training.recall import erase, share_after_erasing
from helpers.zoo.recipes.tasks import task_tokenizer


def filled() -> Cache:
    state, attention = DeltaState(), KeyValues()
    state.write(torch.ones(1, 1, 2, 2), torch.ones(1, 3, 4))
    attention.write(torch.ones(1, 5, 1, 2), torch.ones(1, 5, 1, 2), standing_at(torch.arange(5)[None]))
    return Cache([state, attention])


@pytest.mark.parametrize(
    ("kind", "state_left", "attention_left"), [(None, 4, 20), (KeyValues, 4, 0), (DeltaState, 0, 20)]
)
def test_only_the_kind_that_is_named_becomes_zero(kind, state_left, attention_left):
    state, attention = (cache := filled()).blocks
    erase(cache, kind)
    assert state.memory.sum() == state_left
    assert attention.keys.held.sum() + attention.values.held.sum() == attention_left
    assert state.inputs.sum() == 12
    assert attention.keys.length == 5


@pytest.mark.parametrize("kind", [KeyValues, DeltaState])
def test_an_empty_cache_can_be_erased(kind):
    erase(Cache([DeltaState(), KeyValues()]), kind)


class NextWord(nn.Module):
    """Remembers in a state which token follows which, and nothing in its keys and values."""

    def __init__(self, vocabulary: int, end: int):
        super().__init__()
        self.rows, self.end = nn.Parameter(torch.eye(vocabulary), requires_grad=False), end

    def new_cache(self) -> Cache:
        return Cache([DeltaState(), KeyValues()])

    def forward(self, ids, cache, mask):
        state, tokens = cache.blocks[0], self.rows[ids] * mask[..., None]
        if state.memory is None:
            seen = tokens[:, :-1].mT @ tokens[:, 1:]
            seen[..., self.end] = 0  # a word that is a value elsewhere is followed by the end of a pair
            state.write(seen[:, None], tokens[:, :0])
        return tokens @ state.memory[:, 0]


def test_what_stood_in_the_states_is_gone_with_them_and_not_with_the_keys():
    tokenizer = task_tokenizer()
    model = NextWord(tokenizer.get_vocab_size(), tokenizer.encode(" bako timu;").ids[-1])
    assert share_after_erasing(model, tokenizer, 9, None, texts=5) == 1
    assert share_after_erasing(model, tokenizer, 9, KeyValues, texts=5) == 1
    assert share_after_erasing(model, tokenizer, 9, DeltaState, texts=5) == 0
