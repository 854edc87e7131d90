"""A packed model written and read again: the same logits to the bit, and one line for whatever is wrong with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers.checkpoints import CheckpointError, load, tensors
from helpers.checkpoints.quantised import LAYERS, WEIGHTS, load_quantised, save_quantised
from helpers.quant.audit import stored_by_part
from helpers.quant.backends import DYNAMIC
from helpers.quant.cpu import CPU
from helpers.quant.formats.named import FORMATS
from helpers.quant.linear import Packed
from helpers.quant.model import quantise
from helpers.quant.parts import all_but

IDS = torch.randint(199, (1, 24), generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_of_every_family_comes_back_to_the_bit(family, tmp_path):
    runs.save_random(family, tmp_path)
    model = load(tmp_path)
    quantise(model, "int4", keep=["router"], wrap=True)
    save_quantised(model, tmp_path / "packed")
    again = load_quantised(tmp_path / "packed")
    assert torch.equal(again(IDS), model(IDS))
    assert stored_by_part(again) == stored_by_part(model)
    whole = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert whole < (tmp_path / "packed" / WEIGHTS).stat().st_size < 1.5 * whole  # codes are written packed


@pytest.mark.parametrize("name", [*FORMATS, DYNAMIC])
def test_every_format_comes_back_to_the_bit(name, tmp_path):
    model, ids = load("zoo:tiny-qwen3"), IDS
    quantise(model, name, keep=[], wrap=True)
    save_quantised(model, tmp_path)
    assert torch.equal(load_quantised(tmp_path)(ids), model(ids))


@pytest.mark.parametrize("name", CPU)
def test_what_a_kernel_holds_is_written_as_its_format_and_laid_out_again(name, tmp_path):
    model = load("zoo:tiny-qwen3").bfloat16()
    quantise(model, name, wrap=True)
    save_quantised(model, tmp_path)
    fast, slow = load_quantised(tmp_path), load_quantised(tmp_path, ways={})
    ways = [[part.way is CPU[name] for part in one.modules() if isinstance(part, Packed)] for one in (fast, model)]
    assert ways[0] == ways[1]
    assert torch.equal(fast(IDS), model(IDS))
    assert fast(IDS).dtype == slow(IDS).dtype == torch.bfloat16
    assert torch.equal(slow.blocks[0].mlp.gate.weight, model.blocks[0].mlp.gate.weight)


def test_parts_of_different_formats_come_back(tmp_path):
    model = load("zoo:tiny-glm5")
    quantise(model, "int4", keep=all_but("routed experts"), wrap=True)
    quantise(model, "int8", keep=["router", "embedding", "head", "indexer"])
    save_quantised(model, tmp_path)
    assert json.loads((tmp_path / LAYERS).read_text())["kept"] == ["embedding", "indexer", "router"]
    again = load_quantised(tmp_path)
    assert torch.equal(again(IDS), model(IDS))
    assert stored_by_part(again)["routed experts"].format == "int4"
    assert stored_by_part(again)["attention"].format == "int8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    model, made = load("zoo:tiny-glm5"), tmp_path_factory.mktemp("packed")
    quantise(model, "int8")
    save_quantised(model, made)
    return made


@pytest.fixture
def broken(folder, tmp_path):
    """A copy to break."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


QUERY = "blocks.0.attention.mla.q_a.packed"


def say(folder, change):
    said = json.loads((folder / LAYERS).read_text())
    change(said)
    (folder / LAYERS).write_text(json.dumps(said))


def change_tensors(folder, change):
    held = load_file(folder / WEIGHTS)
    change(held)
    save_file(held, folder / WEIGHTS)


WRONG_WORDS = {
    "is not version 2 of this format": lambda said: said.update(version=1),
    "is not version 2 of this format, with dtype, kept, layers, version": lambda said: said.pop("kept"),
    "has no dtype out of float64": lambda said: said.update(dtype="int8"),
    "or no object of layers": lambda said: said.update(layers=[]),
    "there is no format 'int5'": lambda said: said["layers"][QUERY].__setitem__(0, "int5"),
    "'nf4' needs a width that 64 divides": lambda said: said["layers"][QUERY].__setitem__(0, "nf4"),
    "blocks.0.attention.mla.q_a.packed.codes is .* of torch.uint8 is needed": lambda said: said["layers"][
        QUERY
    ].__setitem__(0, "int4"),
    r"blocks.0.attention.mla.q_a.packed is \['int8', \[1, 2\]": lambda said: said["layers"][QUERY].__setitem__(
        1, [1, 2]
    ),
    "a format and .* are needed": lambda said: said["layers"].update({QUERY: "int8"}),
    r"a format and \[": lambda said: said["layers"][QUERY].__setitem__(3, 4),
    "what this model has no place for: blocks.9.mlp.packed": lambda said: said["layers"].update(
        {"blocks.9.mlp.packed": said["layers"][QUERY]}
    ),
    "lacks the tensor blocks.0.attention.mla.q_a.weight": lambda said: said["layers"].pop(QUERY),
}


@pytest.mark.parametrize("message", WRONG_WORDS)
def test_words_that_are_wrong_are_refused(broken, message):
    say(broken, WRONG_WORDS[message])
    with pytest.raises(CheckpointError, match=message):
        load_quantised(broken)


WRONG_TENSORS = {
    f"lacks the tensor {QUERY}.scale": lambda held: held.pop(f"{QUERY}.scale"),
    "lacks the tensor norm.weight": lambda held: held.pop("norm.weight"),
    "norm.weight is .* of torch.int32": lambda held: held.update({"norm.weight": held["norm.weight"].int()}),
    "no place for: more": lambda held: held.update(more=torch.zeros(1)),
    "codes is .* of torch.int16": lambda held: held.update({f"{QUERY}.codes": held[f"{QUERY}.codes"].short()}),
}


@pytest.mark.parametrize("message", WRONG_TENSORS)
def test_tensors_that_are_wrong_are_refused(broken, message):
    change_tensors(broken, WRONG_TENSORS[message])
    with pytest.raises(CheckpointError, match=message):
        load_quantised(broken)


@pytest.mark.parametrize("name", [WEIGHTS, LAYERS, "config.json"])
def test_a_file_that_is_missing_or_cut_off_is_refused(broken, name):
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=name):
        load_quantised(broken)
    (broken / name).unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_quantised(broken)


def test_a_model_of_other_sizes_does_not_take_it(broken):
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "q_lora_rank": 2 * config["q_lora_rank"]}))
    with pytest.raises(CheckpointError, match=r"a format and .* are needed"):
        load_quantised(broken)


def test_what_is_not_packed_is_not_written_here(tmp_path):
    with pytest.raises(ValueError, match="nothing in this model is packed"):
        save_quantised(load("zoo:tiny-qwen3"), tmp_path)


def test_no_library_takes_the_files_for_a_plain_checkpoint(folder):
    with pytest.raises(CheckpointError, match=r"holds neither model.safetensors"):
        tensors(folder)
