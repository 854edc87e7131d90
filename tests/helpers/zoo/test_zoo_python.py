"""tiny-qwen3: transformers opens it without a network, and its card tells the truth."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import zoo
from helpers.compare import assert_close, tolerance
from helpers.data import python_corpus
from helpers.generate import generate
from helpers.measure.sockets import watch_sockets
from helpers.models.configs.qwen3 import from_hf, published_name
from helpers.models.qwen3 import Qwen3
from helpers.training.train import bits_per_byte, initialise
from helpers.zoo.evidence import python

FOLDER = zoo.folder("tiny-qwen3")
CARD = zoo.read_card(FOLDER)


@pytest.fixture(scope="module")
def model() -> Qwen3:
    model = Qwen3(from_hf(json.loads((FOLDER / "config.json").read_text(encoding="utf-8")))).eval()
    weights = load_file(FOLDER / "model.safetensors")
    model.load_state_dict({name: weights.pop(published_name(name)).float() for name in model.state_dict()})
    assert not weights
    return model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / "tokenizer.json"))


@pytest.fixture(scope="module")
def theirs():
    with watch_sockets() as seen:
        loaded = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32, attn_implementation="eager").eval()
    assert not seen.attempts
    return loaded


def test_our_model_and_transformers_give_the_same_logits(model, theirs, tokenizer):
    ids = torch.tensor([tokenizer.encode(python_corpus().held_out["secrets.py"]).ids[:200]])
    with torch.no_grad():
        ours, expected = model(ids), theirs(ids).logits
    assert_close(ours, expected, tolerance(torch.float32, 6 * (128 + 320 + 200)), "logits")
    assert (ours - expected).abs().max() <= 1e-4


def test_our_greedy_tokens_are_transformers(model, theirs, tokenizer):
    ids = torch.tensor([tokenizer.encode("import os\n\n\ndef").ids])
    expected = theirs.generate(ids, max_new_tokens=24, do_sample=False)
    assert torch.equal(generate(model, ids, 24, eos=0), expected)


def test_transformers_tokenizer_cuts_text_as_ours(tokenizer):
    loaded = AutoTokenizer.from_pretrained(FOLDER)
    text = 'def f(x):\n\treturn "é", 123  # <|endoftext|>\r\n\n    日本'
    assert loaded.encode(text) == tokenizer.encode(text).ids
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.eos_token_id == tokenizer.token_to_id("<|endoftext|>") == 0


@pytest.mark.parametrize("name", ["secrets.py", "tomllib/__init__.py", "token.py"])
def test_the_bits_per_byte_of_the_card_are_measured_again(model, tokenizer, name):
    text, said = python_corpus().held_out[name], CARD["held_out"]["files"][name]
    measured = bits_per_byte(model, tokenizer, text)
    same_text = hashlib.sha256(text.encode()).hexdigest() == said["sha256"]  # other Pythons word things otherwise
    assert measured == pytest.approx(said["bits_per_byte"], rel=1e-3 if same_text else 0.15)


def test_the_total_of_the_card_is_that_of_its_files():
    out = CARD["held_out"]
    assert sum(file["bytes"] for file in out["files"].values()) == out["bytes"]
    total = sum(file["bits_per_byte"] * file["bytes"] for file in out["files"].values()) / out["bytes"]
    assert total == pytest.approx(out["bits_per_byte"])
    assert out["bits_per_byte"] < out["xz_bits_per_byte"]


def test_an_untrained_model_of_the_same_sizes_is_far_worse(model, tokenizer):
    fresh, text = Qwen3(model.config), python_corpus().held_out["token.py"]
    initialise(fresh, 0)
    assert bits_per_byte(fresh, tokenizer, text) > 2 * bits_per_byte(model, tokenizer, text)


def test_it_continues_def_with_a_header_of_a_function_and_an_untrained_model_does_not(model, tokenizer):
    untrained = Qwen3(model.config)
    initialise(untrained, 0)
    shares = []
    for writer in (model, untrained):
        texts = python.sample(writer, tokenizer, "def", count=32, new_tokens=32, temperature=0.6, seed=1)
        shares.append(sum(map(python.has_header, texts)) / 32)
    assert shares[0] >= 0.2  # the card says about 0.45
    assert shares[1] == 0
    assert CARD["sample"]["share_with_header"] >= 0.3
    assert CARD["sample"]["share_that_parses"] > 0.05


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("def f(x, y=1):\n  ?", True),
        ("def f(", False),
        ("def f(*, *):\n", False),
        ("def", False),
        ("def f(): \0", False),
    ],
)
def test_a_header_is_the_whole_first_line(text, whole):
    assert python.has_header(text) is whole


@pytest.mark.parametrize(
    ("text", "first", "whole"),
    [
        ("def f(x):\n    return x\n\nclass A", "def f(x):\n    return x\n", True),
        ("def f(x):\n    return x\n    y = (", "def f(x):\n    return x\n", True),  # cut short by the last token
        ("def f(x):\n    return (x\n\ny = 1", "def f(x):\n    return (x\n", False),
        ("def f(x):", "\n", False),
        ("def f(x):\n    return 1", "def f(x):\n", False),
    ],
)
def test_the_first_function_is_what_must_parse(text, first, whole):
    assert python.first_function(text) == first
    assert python.parses(text) is whole
