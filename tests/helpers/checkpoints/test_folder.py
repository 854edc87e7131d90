"""Folders as the hub keeps them: config, one file or shards, and whatever is wrong with one."""

import json
import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from helpers.checkpoints import CheckpointError
from helpers.checkpoints.folder import CONFIG, INDEX, SINGLE, read_config, tensors, weight_files

FIRST = {"x": torch.ones(2), "y": torch.zeros(3)}
SECOND = {"z": torch.full((4,), 7.0)}
LISTED = {"x": "a.safetensors", "y": "a.safetensors", "z": "b.safetensors"}


needs_links = pytest.mark.skipif(os.name == "nt", reason="on Windows a link takes a privilege")


@pytest.fixture
def folder(tmp_path):
    """Two shards and their index, and a file beside the folder that is not the folder's."""
    inside = tmp_path / "model"
    inside.mkdir()
    (inside / CONFIG).write_text('{"model_type": "qwen3"}')
    save_file(FIRST, inside / "a.safetensors")
    save_file(SECOND, inside / "b.safetensors")
    save_file(SECOND, tmp_path / "outside.safetensors")
    list_shards(inside, LISTED)
    return inside


def list_shards(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 36}, "weight_map": weight_map}))


def refusal(folder, read=weight_files):
    with pytest.raises(CheckpointError) as caught:
        read(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(folder))


def test_the_shards_together_are_one_table(folder):
    ours = tensors(folder)
    assert set(ours) == {"x", "y", "z"}
    assert all(torch.equal(ours[name], tensor) for name, tensor in (FIRST | SECOND).items())
    with pytest.raises(KeyError, match="holds a tensor 'w'; there are 'x', 'y', 'z'"):
        ours["w"]


def test_a_shard_is_opened_when_it_is_asked_for(folder):
    ours = tensors(folder)
    (folder / "b.safetensors").unlink()
    assert ours["x"].sum() == 2
    with pytest.raises(CheckpointError, match=r"b.safetensors: there is no such file"):
        ours["z"]


def test_one_file_needs_no_index_and_goes_before_one(folder):
    save_file({"only": torch.ones(1)}, folder / SINGLE)
    assert list(tensors(folder)) == ["only"]


@pytest.mark.parametrize("size", ["36", 36.0, None, -1, {"bytes": 36}])
def test_what_an_index_says_beside_its_table_is_not_asked(folder, size):
    index = {"metadata": {"total_size": size, "by": None}, "weight_map": LISTED, "format": 2}
    (folder / INDEX).write_text(json.dumps(index))
    save_file(SECOND, folder / "consolidated.safetensors")  # the same weights once more, by another tool
    assert set(tensors(folder)) == {"x", "y", "z"}


def test_a_table_that_is_computed_anew_need_not_be_listed(folder):
    table = {"rotary_emb.inv_freq": torch.ones(2)}
    save_file(SECOND | table, folder / "b.safetensors")
    assert set(tensors(folder)) == {"x", "y", "z"}
    save_file(FIRST | table, folder / "a.safetensors")  # and may stand in every shard
    list_shards(folder, LISTED | {"rotary_emb.inv_freq": "b.safetensors"})
    assert tensors(folder)["rotary_emb.inv_freq"].sum() == 2


def test_a_table_that_is_computed_anew_need_not_be_there_when_it_is_listed(folder):
    list_shards(folder, LISTED | {"rotary_emb.inv_freq": "b.safetensors"})
    assert set(tensors(folder)) == {"x", "y", "z"}


def test_a_missing_shard_is_named(folder):
    (folder / "b.safetensors").unlink()
    assert refusal(folder) == ": 1 of 2 shards are missing: 'b.safetensors'"


def test_a_damaged_shard_is_named(folder):
    os.truncate(folder / "b.safetensors", 75)
    assert refusal(folder).startswith("/b.safetensors: is truncated")


@needs_links
@pytest.mark.parametrize("way", ["..", "absolute", "link", "link to a folder"])
def test_an_index_that_leads_out_of_its_folder_is_refused(folder, way):
    outside = folder.parent / "outside.safetensors"
    shard = {"..": "../outside.safetensors", "absolute": str(outside)}.get(way, "link.safetensors")
    if way == "link":
        (folder / shard).symlink_to(outside)
    if way == "link to a folder":
        (folder / "sub").symlink_to(folder.parent)
        shard = "sub/outside.safetensors"
    list_shards(folder, LISTED | {"z": shard})
    assert f": '{shard}' leads out of the folder, to {outside}, and is not opened" == refusal(folder)


@needs_links
def test_a_single_file_or_config_that_is_a_link_out_of_the_folder_is_refused(folder):
    (folder / SINGLE).symlink_to(folder.parent / "outside.safetensors")
    assert "'model.safetensors' leads out of the folder" in refusal(folder)
    (folder.parent / "secret").write_text('{"model_type": "qwen3"}')
    (folder / CONFIG).unlink()
    (folder / CONFIG).symlink_to(folder.parent / "secret")
    assert "'config.json' leads out of the folder" in refusal(folder, read_config)


@needs_links
def test_a_link_inside_the_folder_is_a_file_like_any_other(folder):
    (folder / "c.safetensors").symlink_to("b.safetensors")
    list_shards(folder, LISTED | {"z": "c.safetensors"})
    assert tensors(folder)["z"].sum() == 28


@needs_links
def test_the_links_of_the_hub_cache_lead_to_the_blobs_of_the_same_model(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file(SECOND, blobs / "abcd")
    (snapshot / SINGLE).symlink_to("../../blobs/abcd")
    assert tensors(snapshot)["z"].sum() == 28
    save_file(SECOND, tmp_path / "models--a--b" / "outside")
    (snapshot / SINGLE).unlink()
    (snapshot / SINGLE).symlink_to("../../outside")
    assert "leads out of the folder" in refusal(snapshot)


@needs_links
def test_a_link_to_itself_or_to_nothing_is_refused(folder):
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    list_shards(folder, {"z": "loop.safetensors"})
    refusal(folder)
    (folder / SINGLE).symlink_to("gone.safetensors")
    assert refusal(folder) == "/model.safetensors: there is no such file"


WRONG_LISTS = {
    "a tensor that its shard does not hold": (
        LISTED | {"w": "b.safetensors"},
        f"/{INDEX}: shard 'b.safetensors' does not hold what is listed for it: 'w'",
    ),
    "a tensor listed in the other shard": (
        LISTED | {"z": "a.safetensors", "y": "b.safetensors"},
        f"/{INDEX}: shard 'b.safetensors' does not hold what is listed for it: 'y'",
    ),
    "a tensor that is not listed": (
        {"x": "a.safetensors", "z": "b.safetensors"},
        f"/{INDEX}: the shards hold tensors that are not listed: 'y'",
    ),
    "one file by two names": (
        LISTED | {"y": "./a.safetensors"},
        f"/{INDEX}: tensor 'x' is held by 2 shards: 'a.safetensors', './a.safetensors'",
    ),
    "a pickle": (
        LISTED | {"z": "b.bin"},
        f"/{INDEX}: puts tensor 'z' into 'b.bin', which is no .safetensors file",
    ),
    "a number": ({"x": 3}, f"/{INDEX}: puts tensor 'x' into 3, which is no .safetensors file"),
    "nothing": ({}, f"/{INDEX}: has no weight_map, an object that gives each tensor its file"),
    "a list": (["x"], f"/{INDEX}: has no weight_map, an object that gives each tensor its file"),
    "a zero byte": (LISTED | {"z": "b\0.safetensors"}, r": 'b\x00.safetensors' is no path of a file"),
    "the folder": (
        LISTED | {"z": "sub.safetensors"},
        "/sub.safetensors: is a folder, where a safetensors file is asked for",
    ),
}


@pytest.mark.parametrize(("weight_map", "message"), WRONG_LISTS.values(), ids=WRONG_LISTS)
def test_a_wrong_index_is_refused_by_its_reason(folder, weight_map, message):
    (folder / "sub.safetensors").mkdir()
    list_shards(folder, weight_map)
    assert refusal(folder) == message


def test_a_tensor_in_two_shards_is_refused(folder):
    save_file(SECOND | {"x": torch.zeros(2)}, folder / "b.safetensors")
    assert refusal(folder) == f"/{INDEX}: tensor 'x' is held by 2 shards: 'a.safetensors', 'b.safetensors'"


WRONG_TEXTS = {
    "no JSON": (b"{", "is not JSON (Expecting property name"),
    "empty": (b"", "is not JSON (Expecting value"),
    "a list": (b"[]", "is not a JSON object but a list"),
    "not UTF-8": (b'{"a": "\xff"}', "is not UTF-8 text (byte 7)"),
    "a name twice": (b'{"model_type": "a", "model_type": "b"}', "has the name 'model_type' twice"),
    "no model_type": (b"{}", "has no model_type (a text), which names the kind of model"),
    "model_type a number": (b'{"model_type": 3}', "has no model_type (a text)"),
}


@pytest.mark.parametrize(("text", "words"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_a_wrong_config_is_refused_by_its_reason(folder, text, words):
    (folder / CONFIG).write_bytes(text)
    assert refusal(folder, read_config).startswith(f"/config.json: {words}")


def test_a_config_that_is_not_there_or_no_file_is_refused(folder):
    (folder / CONFIG).unlink()
    assert refusal(folder, read_config) == "/config.json: there is no such file"
    (folder / CONFIG).mkdir()
    assert re.match(r"/config.json: cannot be read \(.+\)", refusal(folder, read_config))


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file") == ": is a file, where a folder is asked for"
    assert refusal(tmp_path / "none") == ": there is no such folder"
    assert refusal(tmp_path) == ": holds neither model.safetensors nor model.safetensors.index.json, but 'file'"


class Trap:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "consolidated.00.pth"])
def test_a_pickle_is_refused_and_its_program_never_runs(tmp_path, name):
    caught = tmp_path / "caught"
    (tmp_path / name).write_bytes(pickle.dumps({"x": Trap(caught)}))
    (tmp_path / CONFIG).write_text('{"model_type": "qwen3"}')
    message = refusal(tmp_path)
    assert name in message
    assert "pickle is never opened here, because opening one runs the program in it" in message
    assert not caught.exists()


def test_a_pickle_by_the_name_of_a_safetensors_file_is_refused_and_its_program_never_runs(tmp_path):
    caught = tmp_path / "caught"
    (tmp_path / SINGLE).write_bytes(pickle.dumps({"x": Trap(caught), "filler": list(range(999))}))
    assert "is no safetensors file: it is a PyTorch pickle" in refusal(tmp_path)
    assert not caught.exists()
    pickle.loads((tmp_path / SINGLE).read_bytes())["x"].close()  # the trap is a real one
    assert caught.exists()
