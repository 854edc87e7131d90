"""A prompt as people have it: what a tokenizer returns, lists, arrays, one row; and one line for what is none."""

import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from transformers import AutoTokenizer

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers import zoo
from helpers.checkpoints import load, resolve
from helpers.decoding.prompts import read_prompt
from helpers.generate import generate
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.quant.model import quantise
from helpers.training.train import initialise

ROOT = Path(__file__).resolve().parents[3]
ROWS = [[5, 6, 7], [8, 9, 10]]
IDS = torch.tensor(ROWS)


@pytest.fixture(scope="module")
def model() -> Qwen3:
    model = Qwen3(Config(53, 16, 2, 2, 1, 8, 24)).eval()
    initialise(model, seed=0, std=0.5)
    return model


WHOLE = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.int64, torch.uint64)
SAME = {
    "lists": ROWS,
    "tuples": tuple(map(tuple, ROWS)),
    "array": numpy.array(ROWS),
    "array of 32 bits": numpy.array(ROWS, dtype=numpy.int32),
    "rows as tensors": [*IDS],
    "rows as arrays": [*numpy.array(ROWS)],
    "dictionary": {"input_ids": ROWS},
    "tokenizer's tensors": {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "token_type_ids": 0 * IDS},
    **{str(dtype): IDS.to(dtype) for dtype in WHOLE},
}


@pytest.mark.parametrize("prompt", SAME.values(), ids=SAME)
def test_the_same_numbers_are_the_same_prompt(model, prompt):
    assert generate(model, prompt, 4).tolist() == generate(model, IDS, 4).tolist()


def test_one_row_is_a_batch_of_one(model):
    for row in (
        ROWS[0],
        IDS[0],
        numpy.array(ROWS[0]),
        range(5, 8),
        {"input_ids": ROWS[0], "attention_mask": [1, 1, 1]},
    ):
        assert torch.equal(generate(model, row, 4), generate(model, IDS[:1], 4))


def test_tokens_keep_the_dtype_of_the_prompt_where_it_has_room_for_a_vocabulary(model):
    assert generate(model, IDS.int(), 2).dtype == torch.int32
    assert generate(model, IDS.to(torch.uint8), 2).dtype == torch.int64


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["pt", "np", None])
def test_a_tokenizers_output_brings_its_own_mask(side, kind):
    model, tokenizer = load("zoo"), AutoTokenizer.from_pretrained(resolve("zoo"), padding_side=side)
    texts = ["import numpy as np\nx = np", "class A"]
    batch = tokenizer(texts, padding=True, return_tensors=kind)
    found = generate(model, batch, 5)[:, -5:]
    alone = [generate(model, tokenizer(text), 5)[0, -5:] for text in texts]
    assert torch.equal(found, torch.stack(alone))
    other = torch.as_tensor(batch["attention_mask"]).roll(1, dims=1)
    assert not torch.equal(generate(model, batch, 5, mask=other)[:, -5:], found)  # an argument counts before it


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.ones(2, 3), "mask holds torch.float32; it must hold True"),
        (torch.ones(2, 2, dtype=torch.long), r"mask has the shape \(2, 2\); token_ids have \(2, 3\)"),
        (torch.ones(2, 3, 1, dtype=torch.long), r"mask has the shape \(2, 3, 1\)"),
        ([1, 1, 1], r"mask has the shape \(1, 3\)"),
        ([[1, 2, 1], [1, 1, 1]], "mask holds 2: True or 1 is needed"),
        ([[-1, 1, 1], [1, 1, 1]], "mask holds -1"),
        ([[0, 0, 0], [1, 1, 1]], "row 0 of mask has no real token"),
        ([[1, 1], [1]], "mask cannot be read from this list: True or 1 is needed"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(model, mask, said):
    with pytest.raises(ValueError, match=said):
        generate(model, IDS, 2, mask=mask)


@pytest.mark.parametrize("family", CONFIGS)
def test_an_id_outside_the_vocabulary_is_a_value_error_in_every_family(family, tmp_path):
    runs.save_random(family, tmp_path)
    model = load(tmp_path)
    vocab = getattr(model.config, "text", model.config).vocab_size
    for wrong in (vocab, -1, 2**40):
        ids = torch.tensor([[1, 2, wrong]])
        for ask in (lambda: model(ids), lambda: generate(model, ids, 2), lambda: model(ids, cache=model.new_cache())):  # noqa: B023
            with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary: 0 to {vocab - 1} are"):
                ask()
    padding = torch.tensor([[True, True, False]])
    assert torch.equal(model(ids, mask=padding)[:, :2], model(ids.clamp(0, 3), mask=padding)[:, :2])
    assert model(torch.tensor([[0, vocab - 1]], dtype=torch.int32)).isfinite().all()


def test_a_packed_embedding_has_no_token_minus_one():
    """Its rows are looked up by index, where -1 would be the last."""
    model = load(zoo.folder("tiny-qwen3"))
    quantise(model, "int8", keep=())
    with pytest.raises(ValueError, match="token id -1 is outside the vocabulary"):
        model(torch.tensor([[1, -1]]))


def test_a_drafter_knows_no_other_tokens_than_its_model():
    model = load(zoo.folder("tiny-deepseek-v3"))
    ids = torch.tensor([[5, 6, model.config.vocab_size]])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        model.draft(model.read(ids.clamp(max=9)), ids)


def test_a_prompt_is_moved_to_where_the_model_is(model):
    meta = Qwen3(Config(53, 16, 1, 2, 1, 8, 24)).to("meta")
    meta.config = None  # nothing can be looked at there
    assert read_prompt(meta, IDS).token_ids.device.type == "meta"


WRONG = """
import numpy, torch
from helpers.generate import generate
from helpers.decoding.drafts import NGram
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.decoding.speculative import speculate

model = Qwen3(Config(53, 16, 1, 2, 1, 8, 24)).eval()
ids = torch.tensor([[5, 6, 7]])
wrong = [
    "a text", ["a", "text"], b"ab", None, 5, 5.0, [], [[]], {}, {"text": ["a"]}, {5, 6}, (n for n in range(3)), model,
    ids.float(), ids.bool(), ids.to(torch.complex64), ids[None], torch.tensor(5), ids[:, :0], ids[:0], [[1, 2], [3]],
    [1, 2.5], [1, "a"], [1, None], [True, False], [[-1]], [[53]], [[2**70]], numpy.array([[1.5]]), numpy.array(["a"]),
    {"input_ids": [[1, 2], [3]]}, {"input_ids": torch.zeros(1, 0), "attention_mask": torch.zeros(1, 0)},
    {"input_ids": ids, "pixel_values_videos": torch.zeros(4, 8)}, {"input_ids": ids, "attention_mask": ids},
    {"input_ids": ids, "pixel_values": torch.zeros(4, 8)},
]
for prompt in wrong:
    for ask in (lambda: generate(model, prompt), lambda: speculate(model, prompt, NGram())):
        try:
            ask()
        except ValueError as error:
            assert str(error) and "\\n" not in str(error), prompt
        else:
            raise AssertionError(f"{prompt} was taken")
print(len(wrong))
"""


def test_what_is_no_prompt_is_one_line():
    """In a process of its own: no check of types stands before."""
    found = subprocess.run([sys.executable, "-c", WRONG], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert int(found.stdout) == 35
