"""Every model that ships: it is its recipe's, whole, small, the same in transformers, and its card tells the truth."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import zoo
from helpers.checkpoints import load
from helpers.generate import generate
from helpers.sockets import watch_sockets
from helpers.zoo import card as cards
from helpers.zoo.recipes import RECIPES, recipe
from helpers.zoo.task_evidence import TASKS, examples, nats, of_tasks, right

EVERY = pytest.mark.parametrize("name", zoo.names())
BY_TASKS = pytest.mark.parametrize("name", [name for name in zoo.names() if recipe(name).evidence is of_tasks])
FILES = ("README.md", "card.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def read(name: str, file: str = "card.json") -> dict:
    return json.loads((zoo.folder(name) / file).read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def test_an_unknown_model_is_told_what_exists():
    with pytest.raises(ValueError, match=r"no model 'tiny-gpt'; it has .*tiny-qwen3"):
        zoo.folder("tiny-gpt")
    with pytest.raises(ValueError, match=r"no recipe 'tiny-gpt'; there is tiny-qwen3, "):
        recipe("tiny-gpt")


def test_the_zoo_weighs_at_most_twelve_megabytes():
    assert sum(path.stat().st_size for path in zoo.ZOO.rglob("*") if path.is_file()) <= 12e6


def test_every_recipe_that_is_shipped_has_its_model():
    assert {*zoo.names()} == {name for name in RECIPES if name.startswith("tiny-")}  # the others are for a GPU


@EVERY
def test_a_model_has_its_files_and_its_weights_are_bfloat16_and_as_many_as_the_card_says(name):
    assert all((zoo.folder(name) / file).is_file() for file in FILES)
    model, stored = load(zoo.folder(name)), load_file(zoo.folder(name) / "model.safetensors")
    assert {weight.dtype for weight in stored.values() if weight.is_floating_point()} <= {torch.bfloat16}
    assert sum(weight.numel() for weight in model.parameters()) == read(name)["parameters"]


@EVERY
def test_a_model_is_what_its_recipe_says(name):
    assert load(zoo.folder(name)).config == recipe(name).config
    assert read(name)["recipe"] == json.loads(json.dumps(recipe(name).said()))


@EVERY
def test_the_page_of_a_model_is_written_from_its_card(name):
    assert (zoo.folder(name) / "README.md").read_text(encoding="utf-8") == cards.readme(read(name))


@EVERY
def test_transformers_gives_the_same_logits_and_writes_the_same_tokens(name):
    folder = zoo.folder(name)
    with watch_sockets() as seen:
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not seen.attempts
    ours, text = load(folder), " " + "".join(example.text for example in examples(TASKS["recall, 16 pairs"], 2))
    ids = torch.tensor([tokenizer.encode(text)[:160]])
    assert (ours(ids) - theirs(ids).logits).abs().max() <= 1e-4
    prompt = ids[:, :60]
    assert torch.equal(generate(ours, prompt, 12, eos=0), theirs.generate(prompt, max_new_tokens=12, do_sample=False))


@BY_TASKS
def test_the_shares_and_the_loss_of_a_card_are_measured_again(name):
    card, model = read(name), load(zoo.folder(name))
    tokenizer = recipe(name).tokenizer()
    asked = examples(TASKS["recall, 16 pairs"])
    assert nats(model, tokenizer, asked) == pytest.approx(card["loss"]["value"], rel=0.02, abs=2e-3)
    for task in ("recall, 16 pairs", "4 needles in 128 words", "tool calls"):
        (row,) = [row for row in card["tables"]["tasks"]["rows"] if row[0] == task]
        (again,) = right(model, tokenizer, "task", [(task, TASKS[task])])["rows"]
        assert again[1:] == pytest.approx(row[1:], abs=0.02), task
