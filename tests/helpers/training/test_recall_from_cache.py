"""What is found in a cache is what the model finds without one, and fewer where the cache holds less."""

import random

import pytest
from tokenizers import Tokenizer

from helpers import zoo
from helpers.checkpoints import load
from helpers.data import tasks
from helpers.data.tasks import share_right
from helpers.quant.cache import Rule, packed_cache
from helpers.training.recall import share_found


@pytest.fixture(scope="module")
def glm5():
    folder = zoo.folder("tiny-glm5")
    return load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))


def asked(count: int, words: int = 64, depth: float | None = None) -> list[tasks.Example]:
    return [tasks.needle(random.Random(seed), words, depth=depth) for seed in range(count)]


def test_from_a_plain_cache_as_much_is_found_as_from_the_whole_text_at_once(glm5):
    examples = [tasks.recall(random.Random(seed), 12) for seed in range(6)]
    found, size = share_found(*glm5, examples, glm5[0].new_cache())
    assert found == share_right(*glm5, examples) > 0.9
    tokens, c = 1 + 12 * 3, glm5[0].config
    assert size == 6 * tokens * c.num_blocks * 4 * (c.latent_width + c.rotary_dim + c.index_dim)


def test_a_cache_of_coarse_keys_finds_less_and_takes_fewer_bytes(glm5):
    rules = {"k_rope": Rule(2, group=16), "latent": Rule(2, group=16), "index_keys": Rule(2, group=32)}
    plain = share_found(*glm5, asked(8), glm5[0].new_cache())
    coarse = share_found(*glm5, asked(8), packed_cache(glm5[0].new_cache(), rules))
    assert coarse[0] < plain[0] - 0.1
    assert coarse[1] < plain[1] / 8


def test_examples_that_ask_differently_often_are_refused(glm5):
    with pytest.raises(ValueError, match="different numbers of questions"):
        share_found(*glm5, [asked(1)[0], tasks.recall(random.Random(0), 3)], glm5[0].new_cache())
