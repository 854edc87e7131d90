"""Every model that ships: it is its recipe's, whole, small, the same in transformers, and its card tells the truth."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.drift import hold_to_record
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from helpers import zoo
from helpers.checkpoints import load
from helpers.data import python_corpus
from helpers.data.digits import shown
from helpers.generate import generate
from helpers.measure.sockets import watch_sockets
from helpers.training.losses import nats_of_answers
from helpers.training.recall import share_recalled
from helpers.zoo import card as cards
from helpers.zoo.evidence.facts import acceptance, loads, of_facts, some_rows
from helpers.zoo.evidence.tasks import TASKS, examples, of_tasks, right, tokens_of
from helpers.zoo.fact_data import facts
from helpers.zoo.recipes.full_scale import FULL
from helpers.zoo.recipes.named import RECIPES, recipe
from helpers.zoo.recipes.seeing import NOISE, of_digits
from helpers.zoo.recipes.seeing import read as read_digits

EVERY = pytest.mark.parametrize("name", zoo.names())
SEEING = pytest.mark.parametrize("name", [name for name in zoo.names() if recipe(name).evidence is of_digits])
TEXT = pytest.mark.parametrize("name", [name for name in zoo.names() if recipe(name).evidence is not of_digits])
BY_FACTS = pytest.mark.parametrize("name", [name for name in zoo.names() if recipe(name).evidence is of_facts])
BY_TASKS = pytest.mark.parametrize("name", [name for name in zoo.names() if recipe(name).evidence is of_tasks])
FILES = ("README.md", "card.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def read(name: str) -> dict:
    return zoo.read_card(zoo.folder(name))


def shipped_tokenizer(name: str) -> Tokenizer:
    return Tokenizer.from_file(str(zoo.folder(name) / "tokenizer.json"))


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
    assert sum(path.stat().st_size for name in zoo.names() for path in zoo.folder(name).iterdir()) <= 12e6


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
def test_the_tokenizer_is_what_its_recipe_learns(name):
    card, text = read(name), recipe(name).tokenizer().to_str() + "\n"
    versions = {"tokenizers": card["versions"]["tokenizers"]}
    if name == "tiny-qwen3":  # whose text is the standard library of the Python that runs
        versions["python"] = card["machine"]["python"]
        found = sum(len(text.encode()) for text in python_corpus().train.values())
        if (
            found != card["corpus"]["train_bytes"]
        ):  # builds of one version differ too: conda adds files, Debian mends some
            pytest.skip(f"{found:,} bytes of Python's own source here, recorded with {card['corpus']['train_bytes']:,}")
    written = (zoo.folder(name) / "tokenizer.json").read_text(encoding="utf-8")
    hold_to_record(learned(text), learned(written), versions)
    hold_to_record({"text": text}, {"text": written}, versions)  # each release may write the same in its own way


def learned(text: str) -> dict:
    """Tokens by their text, and merges by their place, of a ``tokenizer.json``."""
    model = json.loads(text)["model"]
    return {**model["vocab"], **dict(enumerate(model["merges"]))}


@EVERY
def test_the_page_of_a_model_is_written_from_its_card(name):
    assert (zoo.folder(name) / "README.md").read_text(encoding="utf-8") == cards.readme(read(name))


@TEXT
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


@SEEING
def test_transformers_sees_the_same_in_a_picture(name):
    folder, tokenizer = zoo.folder(name), shipped_tokenizer(name)
    theirs = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    batch = shown(["4071", "9352"], tokenizer, seed=0, noise=0.1)
    ids, mask = batch.rows.token_ids, batch.rows.real.long()
    expected = theirs(input_ids=ids, attention_mask=mask, **batch.images).logits
    assert (load(folder)(ids, images=batch.images) - expected).abs().max() <= 1e-4


@SEEING
def test_what_is_read_and_what_another_picture_says_is_measured_again(name):
    card, model, tokenizer = read(name), load(zoo.folder(name)), shipped_tokenizer(name)
    for row in card["tables"]["digits"]["rows"]:
        assert [*read_digits(model, tokenizer, row[0], NOISE)] == pytest.approx(row[1:], abs=0.02)
    for row in card["tables"]["noise"]["rows"]:
        assert [*read_digits(model, tokenizer, 4, row[0])] == pytest.approx(row[1:], abs=0.02)


@BY_TASKS
def test_the_shares_and_the_loss_of_a_card_are_measured_again(name):
    card, model, tokenizer = read(name), load(zoo.folder(name)), shipped_tokenizer(name)
    sixteen = tokens_of(examples(TASKS["recall, 16 pairs"]), tokenizer)
    assert nats_of_answers(model, sixteen) == pytest.approx(card["loss"]["value"], rel=0.02, abs=2e-3)
    for task in ("recall, 16 pairs", "4 needles in 128 words", "tool calls"):
        (row,) = [row for row in card["tables"]["tasks"]["rows"] if row[0] == task]
        (again,) = right(model, tokenizer, "task", [(task, TASKS[task])])["rows"]
        assert again[1:] == pytest.approx(row[1:], abs=0.03), task


@BY_FACTS
def test_the_facts_the_loss_the_load_and_the_draft_of_a_card_are_measured_again(name):
    card, model, tokenizer = read(name), load(zoo.folder(name)), shipped_tokenizer(name)
    rows = some_rows(tokenizer)
    assert nats_of_answers(model, rows) == pytest.approx(card["loss"]["value"], rel=0.02, abs=2e-3)
    assert share_recalled(model, tokenizer, facts()) == pytest.approx(card["tables"]["kinds"]["rows"][-1][1], abs=0.01)
    for row, again in zip(card["tables"]["experts"]["rows"], loads(model, rows)["rows"], strict=True):
        assert again[1:] == pytest.approx(row[1:], abs=0.02)
    if getattr(model, "drafters", None):
        said = {row[0]: row[1] for row in card["tables"]["draft"]["rows"]}
        assert acceptance(model, rows) == pytest.approx(said, abs=0.02)


@EVERY
def test_what_stands_beside_a_model_is_what_the_other_card_says(name):
    for other, said in read(name)["beside"].items():
        if other in zoo.names():
            assert said == json.loads(json.dumps(cards.compared(read(other))))


@pytest.mark.parametrize("made", FULL, ids=lambda made: made.name)
def test_the_recipes_for_a_gpu_are_the_same_in_large(made):
    with torch.device("meta"):
        count = sum(weight.numel() for weight in made.model(made.config).parameters())
    assert 30e6 <= count <= 100e6
    tiny = recipe(made.name.replace("full", "tiny"))
    assert (made.model, made.evidence, made.tokenizer) == (tiny.model, tiny.evidence, tiny.tokenizer)
    assert [stage.loss for stage in made.stages] == [stage.loss for stage in tiny.stages]
