"""Models from folders and into folders, against transformers; every key used or explained; names resolved offline."""

import json
import os
import shutil
import socket
import weakref

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from helpers import zoo
from helpers.checkpoints import CheckpointError, load, resolve, safetensors, save
from helpers.checkpoints import packed as stored
from helpers.checkpoints.folder import CONFIG, INDEX, SINGLE
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "intermediate_size": 36,
    "rope_parameters": {"rope_type": "default", "rope_theta": 54321.0},
}
TOKENS = torch.arange(18).reshape(2, 9)


def transformers_model(tied=True, dtype=torch.float32):
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES, tie_word_embeddings=tied)).to(dtype)
    for parameter in model.parameters():  # norms too: a weight that is 1 everywhere hides a mix-up
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    """A sound checkpoint, untied, in float32."""
    transformers_model(tied=False).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder, **changes):
    """The same weights but for the tensors named: a new one, or None for none."""
    weights = {name.replace("_dot_", "."): tensor for name, tensor in changes.items()}
    kept = {name: tensor for name, tensor in (load_file(folder / SINGLE) | weights).items() if tensor is not None}
    save_file(kept, folder / SINGLE)


def configure(folder, **changes):
    config = json.loads((folder / CONFIG).read_text()) | changes
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if value != "gone"}))


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(folder))


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype
        assert torch.equal(one[name], other[name])


# There and back.


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_transformers_to_us_to_transformers_is_bit_for_bit_the_same(tmp_path, tied, dtype):
    theirs = transformers_model(tied, dtype)
    theirs.save_pretrained(tmp_path / "theirs")
    save(load(tmp_path / "theirs", dtype=dtype), tmp_path / "ours")
    assert_same_weights(load_file(tmp_path / "theirs" / SINGLE), load_file(tmp_path / "ours" / SINGLE))
    again, about = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(about[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    assert_same_weights(again.state_dict(), theirs.state_dict())
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs")
    assert torch.equal(again(TOKENS).logits, reference(TOKENS).logits)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_us_to_transformers_to_us_is_bit_for_bit_the_same(tmp_path, tied):
    config = Config(61, 24, 2, 4, 2, 10, 36, norm_epsilon=1e-5, rope_theta=54321.0, tied=tied, context=99)
    ours = Qwen3(config)
    save(ours, tmp_path / "ours")
    AutoModelForCausalLM.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs")
    assert again.config == config
    assert_same_weights(again.state_dict(), ours.state_dict())


def test_what_is_loaded_answers_as_transformers_does(folder):
    ours, theirs = load(folder), AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=0, atol=1e-5)
    assert not ours.training
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_shards_give_the_model_that_one_file_gives(tmp_path, folder):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert (tmp_path / "shards" / INDEX).exists()
    assert_same_weights(load(tmp_path / "shards").state_dict(), load(folder).state_dict())


def test_bf16_on_the_disk_becomes_the_same_numbers_in_float32(tmp_path):
    transformers_model(dtype=torch.bfloat16).save_pretrained(tmp_path)
    wide, narrow = load(tmp_path).state_dict(), load(tmp_path, dtype=torch.bfloat16).state_dict()
    assert {tensor.dtype for tensor in wide.values()} == {torch.float32}
    assert all(torch.equal(wide[name], narrow[name].float()) for name in wide)


def test_a_type_or_a_device_that_weights_do_not_go_to_is_refused(folder):
    with pytest.raises(
        ValueError, match=r"torch.float64, torch.float32, torch.float16, torch.bfloat16, not torch.int8"
    ):
        load(folder, dtype=torch.int8)
    with pytest.raises(ValueError, match="device 'abacus' is unknown"):
        load(folder, device="abacus")


def test_one_tensor_at_a_time_is_in_memory_beside_the_model(tmp_path, monkeypatch):
    transformers_model(dtype=torch.bfloat16).save_pretrained(tmp_path)
    read, alive, most = stored.read_tensor, [], []

    def counting(*asked):
        most.append(sum(reference() is not None for reference in alive))
        tensor = read(*asked)
        alive.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(stored, "read_tensor", counting)
    load(tmp_path)
    assert len(most) == 24
    assert max(most) == 0


# Mapped: what lies in the file as the model needs it is not read, and what is written to it stays in memory.


def unread(monkeypatch):
    """Let whoever reads a tensor, instead of mapping it, fail."""
    monkeypatch.setattr(stored, "read_tensor", lambda path, name, header: pytest.fail(f"{name} was read"))


maps = pytest.mark.skipif(not stored.MAPS, reason="on Windows files are read, because a mapped one cannot be replaced")


@maps
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_the_file_s_own_type_are_mapped_and_equal_what_is_read(tmp_path, monkeypatch, dtype):
    transformers_model(dtype=dtype).save_pretrained(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(stored, "MAPS", False)
        read = load(tmp_path, dtype).state_dict()
    unread(monkeypatch)
    assert_same_weights(load(tmp_path, dtype).state_dict(), read)


@maps
def test_training_a_mapped_model_changes_it_and_neither_its_file_nor_its_twin(folder):
    before, model, twin = (folder / SINGLE).read_bytes(), load(folder), load(folder)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(TOKENS).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    assert (folder / SINGLE).read_bytes() == before
    assert_same_weights(load(folder).state_dict(), twin.state_dict())
    assert all(not torch.equal(one, other) for one, other in zip(model.parameters(), twin.parameters(), strict=True))


@maps
def test_a_mapped_model_outlives_the_file_that_it_came_from(folder):
    model, wanted = load(folder), {name: tensor.clone() for name, tensor in load(folder).state_dict().items()}
    save_file({"other": torch.zeros(3)}, folder / SINGLE)
    assert_same_weights(model.state_dict(), wanted)
    (folder / SINGLE).unlink()
    assert_same_weights(model.state_dict(), wanted)


def test_a_model_may_be_saved_over_its_own_mapped_file_again_and_again(folder):
    model = load(folder)
    wanted = {name: 2 * tensor for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 2
    for _ in range(2):
        save(model, folder)
        assert_same_weights(load(folder).state_dict(), wanted)
        assert_same_weights(model.state_dict(), wanted)


@maps
def test_a_file_that_no_system_maps_is_read(folder, monkeypatch):
    wanted = load(folder).state_dict()

    def refusing(*args, **kwargs):
        raise OSError("no such device")

    monkeypatch.setattr(safetensors.mmap, "mmap", refusing)
    assert_same_weights(load(folder).state_dict(), wanted)


def test_numbers_at_an_odd_place_become_weights_too(folder):
    path, wanted = folder / SINGLE, {name: tensor.clone() for name, tensor in load(folder).state_dict().items()}
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    path.write_bytes((length + 1).to_bytes(8, "little") + whole[8 : 8 + length] + b" " + whole[8 + length :])
    assert_same_weights(load(folder).state_dict(), wanted)


# Keys: every one is used or explained.


def test_missing_unexpected_and_misshaped_tensors_are_listed_together(folder):
    rewrite(
        folder,
        model_dot_norm_dot_weight=None,
        model_dot_layers_dot_1_dot_mlp_dot_up_proj_dot_weight=torch.zeros(24, 36),
        extra_dot_bias=torch.zeros(3),
    )
    assert refusal(folder) == (
        ": the weights do not fit config.json: 1 missing: 'model.norm.weight'; 1 unexpected: 'extra.bias'; "
        "1 of another shape: 'model.layers.1.mlp.up_proj.weight' is [24, 36] instead of [36, 24]"
    )


def test_a_long_list_is_counted_and_begun(folder):
    configure(folder, num_hidden_layers=3)
    assert "11 missing: 'model.layers.2.input_layernorm.weight', " in refusal(folder)
    configure(folder, num_hidden_layers=1)
    assert "11 unexpected: 'model.layers.1." in refusal(folder)
    configure(folder, num_hidden_layers=4)
    assert "22 missing: " in refusal(folder)
    assert " and 14 more" in refusal(folder)


def test_an_untied_head_that_is_missing_is_explained(folder):
    rewrite(folder, lm_head_dot_weight=None)
    assert refusal(folder).endswith("1 missing: 'lm_head.weight' (config.json does not tie it to the embedding)")


def test_a_tied_head_may_stand_in_the_file_when_it_is_the_embedding(folder):
    embedding = load_file(folder / SINGLE)["model.embed_tokens.weight"]
    configure(folder, tie_word_embeddings=True)
    assert (
        "'lm_head.weight' and 'model.embed_tokens.weight' are one matrix in this model (tie_word_embeddings"
        in refusal(folder)
    )
    rewrite(folder, lm_head_dot_weight=embedding.clone())
    assert load(folder).head is None


@pytest.mark.parametrize("dtype", [torch.int32, torch.float8_e4m3fn], ids=str)
def test_weights_of_a_packed_type_are_refused_and_not_taken_for_numbers(folder, dtype):
    rewrite(folder, model_dot_norm_dot_weight=torch.ones(24).to(dtype))
    assert "1 not of a plain type (F64 F32 F16 BF16): 'model.norm.weight' is " in refusal(folder)


# Configs.


WRONG_CONFIGS = {
    "another family": ({"model_type": "bert"}, "/config.json: model_type 'bert' is not known; known are qwen3"),
    "packed weights": (
        {"quantization_config": {"quant_method": "gptq"}},
        ": the weights are packed by 'gptq'; known are 'fp8' and 'compressed-tensors'",
    ),
    "no width": ({"hidden_size": "gone"}, ": config.json lacks hidden_size"),
    "no two": ({"head_dim": "gone", "vocab_size": "gone"}, ": config.json lacks vocab_size, head_dim"),
    "a text": ({"hidden_size": "24"}, ": config.json has hidden_size = '24' where it must be a positive whole number"),
    "a fraction": ({"hidden_size": 24.0}, ": config.json has hidden_size = 24.0 where it must be a positive whole"),
    "negative": ({"vocab_size": -61}, ": config.json has vocab_size = -61 where it must be a positive whole number"),
    "zero": ({"num_hidden_layers": 0}, ": config.json has num_hidden_layers = 0 where it must be a positive whole"),
    "no heads": ({"num_key_value_heads": 0}, ": "),
    "rope a text": (
        {"rope_parameters": {"rope_type": "default", "rope_theta": "1e6"}},
        ": config.json has rope_theta = '1e6' where it must be a positive number",
    ),
    "a flag": ({"tie_word_embeddings": 0}, ": config.json has tie_word_embeddings = 0 where it must be true or false"),
    "uneven heads": ({"num_key_value_heads": 3}, ": 4 query heads"),
    "endless": ({"num_hidden_layers": 10**12}, ": config.json asks for 1000000000000 blocks, and the files hold 25"),
    "enormous": ({"vocab_size": 10**12}, "is [61, 24] instead of [1000000000000, 24]"),
    "beyond": ({"vocab_size": 2**62}, ": "),
    "rope a list": ({"rope_parameters": [1]}, ": "),
    "rope unknown": ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6}}, "yarn"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_a_config_that_describes_no_model_is_refused_by_its_reason(folder, changes, words):
    configure(folder, **changes)
    assert words in refusal(folder)


# Writing.


def tiny(seed=0):
    torch.manual_seed(seed)
    return Qwen3(Config(7, 8, 1, 2, 1, 4, 12))


def test_a_model_that_trains_is_saved_as_it_is_and_again(tmp_path):
    for seed in (0, 1):
        save(tiny(seed), tmp_path / "new" / "model")
        assert_same_weights(load(tmp_path / "new" / "model").state_dict(), tiny(seed).state_dict())
    assert sorted(os.listdir(tmp_path / "new" / "model")) == [CONFIG, SINGLE]


def test_the_weights_may_be_read_by_whoever_may_read_the_config(tmp_path):
    save(tiny(), tmp_path)
    assert (tmp_path / SINGLE).stat().st_mode == (tmp_path / CONFIG).stat().st_mode


def test_saving_leaves_other_files_of_the_folder_alone(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    save(tiny(), tmp_path)
    assert sorted(os.listdir(tmp_path)) == [CONFIG, SINGLE, "tokenizer.json"]


def test_a_model_may_be_saved_over_the_folder_it_came_from(tmp_path):
    save(tiny(), tmp_path)
    save(load(tmp_path), tmp_path)
    assert_same_weights(load(tmp_path).state_dict(), tiny().state_dict())


@pytest.mark.parametrize("failing", [SINGLE, CONFIG])
def test_a_full_disk_is_said_and_the_old_model_stays(tmp_path, monkeypatch, failing):
    save(tiny(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        if failing in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("which file is written is read from /proc")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"could not be written \(.*No space left on device\); what was there be"):
        save(tiny(1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_write_that_breaks_off_leaves_the_old_model(tmp_path):
    """The operating system itself refuses, in the middle of the weights."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on the size of a file")
    save(tiny(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written \(.*File too large.*\)"):
            save(tiny(1), tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_of_somebody_else_is_not_replaced(tmp_path, monkeypatch):
    save(tiny(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "access", lambda path, mode: os.path.basename(path) != CONFIG)
    with pytest.raises(CheckpointError, match=r"could not be written \(.*Permission denied.*config\.json"):
        save(tiny(1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_cannot_be_saved_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tiny(), tmp_path / "file")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tiny(), tmp_path / "file" / "below")
    with pytest.raises(ValueError, match="a Linear cannot be saved here; known are Qwen3"):
        save(torch.nn.Linear(2, 2), tmp_path)
    with torch.device("meta"), pytest.raises(ValueError, match="has no weights to save"):
        save(tiny(), tmp_path)
    mixed = tiny()
    mixed.norm.half()
    with pytest.raises(ValueError, match="partly float16 and partly float32"):
        save(mixed, tmp_path)
    assert os.listdir(tmp_path) == ["file"]


# Names.


@pytest.fixture
def cache(tmp_path, folder, monkeypatch):
    """A Hugging Face cache with one model, a/b, as the hub's library lays it out."""
    home = tmp_path / "cache" / "models--a--b"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    snapshot = home / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return snapshot


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*asked):
        raise AssertionError(f"a socket was opened to {asked}")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_folder_is_itself_and_the_zoo_is_in_the_project(folder):
    assert resolve(folder) == folder
    assert resolve(str(folder)) == folder
    with pytest.raises(ValueError, match="the zoo has no model 'no-such'; it has"):
        resolve("zoo:no-such")


def test_a_notebook_shows_a_refused_checkpoint_as_one_line():
    error = CheckpointError("folder", "is empty")
    assert error._render_traceback_() == ["CheckpointError: folder: is empty"]


def test_an_empty_zoo_says_how_to_bring_it_back(monkeypatch):
    monkeypatch.setattr("helpers.zoo.names", lambda: [])
    with pytest.raises(CheckpointError, match=r"none yet; `git checkout helpers/zoo`"):
        resolve("zoo")


@pytest.mark.skipif("tiny-qwen3" not in zoo.names(), reason="the zoo's first model is not trained yet")
def test_the_zoo_answers_as_transformers_does():
    ours, theirs = load("zoo"), AutoModelForCausalLM.from_pretrained(resolve("zoo:tiny-qwen3"), dtype=torch.float32)
    torch.testing.assert_close(ours(TOKENS), theirs(TOKENS).logits, rtol=0, atol=1e-4)


def test_a_hub_id_that_is_in_the_cache_is_loaded_without_a_socket(cache, folder, no_network):
    assert resolve("a/b") == cache
    assert_same_weights(load("a/b").state_dict(), load(folder).state_dict())


def test_a_hub_id_that_is_not_in_the_cache_is_one_line_and_no_socket(cache, no_network):
    with pytest.raises(CheckpointError) as caught:
        load("Qwen/Qwen3-0.6B")
    assert str(caught.value) == (
        "Qwen/Qwen3-0.6B: there is no such folder here, and no such model in the Hugging Face cache of this machine; "
        "resolve('Qwen/Qwen3-0.6B', download=True) fetches it where there is a network"
    )


def test_a_download_that_is_asked_for_offline_is_one_line_and_no_socket(cache, no_network, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match=r"^Qwen/Qwen3-0.6B: could not be downloaded \(.*disabled.*\)") as caught:
        resolve("Qwen/Qwen3-0.6B", download=True)
    assert "\n" not in str(caught.value)
    assert resolve("a/b", download=True) == cache


@pytest.mark.parametrize("name", ["no/such/folder", "./none", "", "Qwen/..--x", "a" * 300, "a/" + "b" * 300, "C:\\x"])
def test_a_name_that_is_nothing_is_one_line(name, cache, no_network):
    with pytest.raises(CheckpointError) as caught:
        resolve(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (RepositoryNotFoundError, "Qwen/Qwen3-0.6B: the Hugging Face hub has no such public model"),
        (GatedRepoError, "Qwen/Qwen3-0.6B: its owner asks you to accept a licence on huggingface.co first"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(cache, monkeypatch, kind, words):
    def refuse(hub_id, **how):
        raise kind.__new__(kind)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=words):
        resolve("Qwen/Qwen3-0.6B", download=True)


def test_only_the_safe_files_are_downloaded_and_a_full_disk_is_one_line(cache, monkeypatch):
    asked = {}

    def full(hub_id, **how):
        asked.update(how)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(
        CheckpointError, match=r"could not be downloaded \(.*No space left on device\); the same call carries on"
    ):
        resolve("Qwen/Qwen3-0.6B", download=True)
    assert {"*.safetensors", "*.json"} < set(asked["allow_patterns"])
    assert not any(name in " ".join(asked["allow_patterns"]) for name in (".bin", ".pt", ".py"))
