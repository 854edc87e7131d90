"""FP8, FP4 and INT4 in a checkpoint's files: recognised, unpacked, and refused in one line where they do not fit."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.packed_files import pack_int4

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers.checkpoints import CheckpointError, load, save
from helpers.checkpoints.folder import CONFIG, SINGLE
from helpers.checkpoints.packed import Files
from helpers.models.configs.qwen3 import Config
from helpers.models.qwen3 import Qwen3
from helpers.quant.formats.floats import pack_fp8, unpack_fp8
from helpers.quant.formats.fp4 import pack_fp4, unpack_fp4
from helpers.quant.formats.integers import unpack_int4
from helpers.quant.formats.packing import pack_words

FP8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
        }
    },
    "ignore": ["lm_head", "re:.*norm.*"],
}


def fp8(name, weight):
    numbers, scale = pack_fp8(weight)
    return {name: numbers, f"{name}_scale_inv": scale}


def fp4(name, weight):
    packed, scale = pack_fp4(weight)
    return {name: packed, name.removesuffix("weight") + "scale": scale}


def int4(name, weight):
    packed, scale, shape = pack_int4(weight)
    return {f"{name}_packed": packed, f"{name}_scale": scale, f"{name}_shape": shape}


UNPACKED = {
    fp8: lambda weight, dtype: unpack_fp8(*pack_fp8(weight), dtype),
    fp4: lambda weight, dtype: unpack_fp4(*pack_fp4(weight), dtype),
    int4: lambda weight, dtype: unpack_int4(*pack_int4(weight)[:2], tuple(weight.shape), dtype),
}
METHODS = {fp8: FP8, fp4: FP8, int4: INT4}


def is_packed(name):
    return "_proj" in name


def packed_folder(folder, pack, method=None, where=None):
    """A tiny Qwen3 whose linear layers are packed; 160 and 144 rows make ragged blocks."""
    torch.manual_seed(0)
    save(Qwen3(Config(61, 48, 2, 5, 1, 32, 144, tied=False)), folder)
    weights = load_file(folder / SINGLE)
    packed = {}
    for name, weight in weights.items():
        packed |= pack(name, weight) if is_packed(name) else {name: weight.bfloat16()}
    save_file(packed, folder / SINGLE)
    config = json.loads((folder / CONFIG).read_text())
    (config.setdefault(where, {}) if where else config)["quantization_config"] = method or METHODS[pack]
    (folder / CONFIG).write_text(json.dumps(config))
    return weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pack", [fp8, fp4, int4])
def test_a_packed_checkpoint_is_loaded_as_the_type_asked_for(tmp_path, pack, dtype):
    weights = packed_folder(tmp_path, pack)
    save(load(tmp_path, dtype), tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / SINGLE)
    assert plain.keys() == weights.keys()
    for name, weight in weights.items():
        expected = UNPACKED[pack](weight, dtype) if is_packed(name) else weight.bfloat16().to(dtype)
        assert plain[name].dtype == dtype
        assert torch.equal(plain[name], expected), name


def test_fp8_in_ue8m0_scales_named_scale_is_loaded_as_deepseek_v4_publishes_it(tmp_path):
    def pack(name, weight):
        power = torch.full((math.ceil(weight.shape[0] / 128), math.ceil(weight.shape[1] / 128)), 2.0**-8)
        numbers = (weight * 2**8).to(torch.float8_e4m3fn)
        return {name: numbers, name.removesuffix("weight") + "scale": power.to(torch.float8_e8m0fnu)}

    weights = packed_folder(tmp_path, pack, FP8 | {"scale_fmt": "ue8m0"})
    name = "model.layers.0.self_attn.q_proj.weight"
    loaded = load(tmp_path).blocks[0].attention.query.weight
    assert loaded.shape == (160, 48)
    assert (loaded - weights[name]).abs().max() < 0.01


def as_compressed_tensors(weight, group):
    """Codes chosen by that library's own rule, largest / 7.5 and -8 to 7, and words filled up as it fills them."""
    blocks = weight.unflatten(1, (-1, group))
    scale = (blocks.abs().amax(dim=-1) / 7.5).bfloat16()
    codes = (blocks / scale.float()[..., None]).round().clamp(-8, 7).flatten(1)
    parts = pack_words(codes.int() + 8), scale, torch.tensor(weight.shape)
    return dict(zip(("_packed", "_scale", "_shape"), parts, strict=True)), codes * scale.float().repeat_interleave(
        group, 1
    )


def narrow(sizes):
    """The sizes of a text model whose feed-forward layers and experts are not a multiple of eight wide."""
    if "text_config" in sizes:
        return sizes | {"text_config": narrow(sizes["text_config"])}
    widths = {"intermediate_size": 20, "moe_intermediate_size": 12, "shared_expert_intermediate_size": 12}
    return sizes | {name: width for name, width in widths.items() if name in sizes}


@pytest.mark.parametrize("family", CONFIGS)
def test_rows_that_do_not_fill_their_last_word_are_read_in_every_family_matrices_and_experts(
    tmp_path, monkeypatch, family
):
    """In groups of 4, rows of 12 and of 20 numbers end in half a word."""
    tiny = CONFIGS[family]
    monkeypatch.setitem(CONFIGS, family, tiny._replace(sizes=narrow(tiny.sizes)))
    runs.save_random(family, tmp_path)
    save(load(tmp_path), tmp_path)
    weights, packed, expected, ragged = load_file(tmp_path / SINGLE), {}, {}, 0
    for name, weight in weights.items():
        packed[name] = expected[name] = weight
        if (
            weight.dim() == 2
            and weight.shape[1] % 4 == 0
            and name.endswith(("proj.weight", "w1.weight", "w2.weight", "w3.weight"))
        ):
            parts, expected[name] = as_compressed_tensors(packed.pop(name), 4)
            packed |= {f"{name}{part}": tensor for part, tensor in parts.items()}
            ragged += weight.shape[1] % 8 > 0
    assert ragged
    save_file(packed, tmp_path / SINGLE)
    config = json.loads((tmp_path / CONFIG).read_text()) | {"quantization_config": group(group_size=4)}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    save(load(tmp_path), tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / SINGLE)
    assert plain.keys() == expected.keys()
    assert all(torch.equal(plain[name], expected[name]) for name in expected)


@pytest.mark.parametrize("pack", [fp8, fp4, int4])
def test_packed_numbers_and_their_scales_can_be_had_as_they_lie_in_the_files(tmp_path, pack):
    weight = packed_folder(tmp_path, pack)["model.layers.0.mlp.up_proj.weight"]
    held = Files(tmp_path, json.loads((tmp_path / CONFIG).read_text()))
    expected = list(pack("w.weight", weight).values())
    found = held.parts("model.layers.0.mlp.up_proj.weight")
    assert [part.dtype for part in found] == [part.dtype for part in expected]
    assert all(map(torch.equal, found, expected))
    assert sum(part.nbytes for part in found) < weight.nbytes / 2
    assert len(held.parts("model.norm.weight")) == 1


def test_a_method_that_stands_with_the_text_model_is_found(tmp_path):
    packed_folder(tmp_path, int4, where="text_config")
    load(tmp_path)


def group(**changes):
    weights = INT4["config_groups"]["group_0"]["weights"] | changes
    return INT4 | {"config_groups": {"group_0": {"weights": weights}}}


def beside(**changes):
    return INT4 | {"config_groups": {"group_0": INT4["config_groups"]["group_0"] | changes}}


REFUSED = {
    "unknown": (fp8, {"quant_method": "awq"}, "packed by 'awq'; known are 'fp8' and 'compressed-tensors'"),
    "nameless": (fp8, {"bits": 4}, "packed by None; known are 'fp8' and 'compressed-tensors'"),
    "a text": (fp8, "fp8", "quantization_config is 'fp8', not an object"),
    "one scale a tensor": (fp8, FP8 | {"weight_block_size": None}, "weight_block_size None, not two sizes"),
    "another float": (fp8, FP8 | {"fmt": "e5m2"}, "fmt 'e5m2'; known is 'e4m3'"),
    "other blocks": (fp8, FP8 | {"weight_block_size": [64, 64]}, "are needed for blocks of 64x64"),
    "8 bits": (int4, group(num_bits=8), "'num_bits': 8"),
    "a zero point": (int4, group(symmetric=False), "'symmetric': False"),
    "no group": (int4, group(group_size=None), "'group_size': None"),
    "other groups": (int4, group(group_size=16), "are needed for blocks of 1x16"),
    "columns in another order": (int4, group(actorder="group"), "with actorder 'group' is not known"),
    "columns in another order by an old name": (int4, group(actorder=True), "with actorder 'True' is not known"),
    "a recipe by its name": (int4, INT4 | {"config_groups": {"W4A16": ["Linear"]}}, "as ['Linear'] is not known"),
    "rounded inputs": (int4, beside(input_activations={"num_bits": 8}), "with input_activations {'num_bits': 8}"),
    "a format of its own": (int4, beside(format="nvfp4-pack-quantized"), "with format nvfp4-pack-quantized"),
    "a rounded cache": (int4, INT4 | {"kv_cache_scheme": {"num_bits": 8}}, "with kv_cache_scheme {'num_bits': 8}"),
    "turned weights": (int4, INT4 | {"transform_config": {"config_groups": {"u": {}}}}, "with transform_config {"),
    "sparse weights": (int4, INT4 | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "with sparsity_config {"),
    "no groups at all": (int4, {"quant_method": "compressed-tensors"}, "compressed-tensors as None is not known"),
    "another format": (int4, INT4 | {"format": "marlin-24"}, "in the format 'pack-quantized'"),
    "the wrong method": (int4, FP8, "weight_packed"),
    "the other wrong method": (fp8, INT4, "weight_scale_inv"),
}


@pytest.mark.parametrize(("pack", "method", "words"), REFUSED.values(), ids=REFUSED)
def test_a_way_of_packing_that_is_not_known_is_refused_in_one_line(tmp_path, pack, method, words):
    packed_folder(tmp_path, pack, method)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


TAKEN = {
    "nothing that may be left out": group(type=None, symmetric=None, strategy=None),
    "rounded in another order": group(actorder="static"),
    "what only says how it was made": group(observer="minmax", observer_kwargs={}, dynamic=False, actorder=None),
    "what is not used": INT4 | {"kv_cache_scheme": None, "transform_config": {}, "sparsity_config": {}},
    "layers by patterns": INT4 | {"ignore": ["lm_head", "re:.*self_attn.*", "re:vision_tower.*"]},
}


@pytest.mark.parametrize("method", TAKEN.values(), ids=TAKEN)
def test_what_a_config_may_say_beside_the_one_known_way_changes_nothing(tmp_path, method):
    weights = packed_folder(tmp_path, int4, method)
    name = "model.layers.1.self_attn.q_proj.weight"
    expected = UNPACKED[int4](weights[name], torch.float32)
    assert torch.equal(load(tmp_path).blocks[1].attention.query.weight, expected)


Q = "model.layers.1.self_attn.q_proj.weight"
DAMAGED = {
    "no scale": (fp8, {f"{Q}_scale_inv": None}, f"'{Q}' is F8_E4M3"),
    "a scale alone": (fp8, {Q: None}, f"1 missing: '{Q}'; 1 unexpected: '{Q}_scale_inv'"),
    "transposed scales": (
        fp8,
        {f"{Q}_scale_inv": torch.ones(1, 2)},
        f"'{Q}' is [160, 48] with scales [1, 2], and [2, 1]",
    ),
    "whole-number scales": (
        fp8,
        {f"{Q}_scale_inv": torch.ones(2, 1).int()},
        "is I32; a scale is F32, F16, BF16, F8_E8M0",
    ),
    "no shape": (int4, {f"{Q}_shape": None}, f"'{Q}_packed' needs '{Q}_shape' beside it"),
    "an odd shape": (int4, {f"{Q}_shape": torch.tensor([160])}, f"'{Q}_shape' is I64 [1], not rows and columns"),
    "a shape of floats": (int4, {f"{Q}_shape": torch.ones(2)}, f"'{Q}_shape' is F32 [2], not rows and columns"),
    "a wide shape": (
        int4,
        {f"{Q}_shape": torch.tensor([160, 64])},
        f"'{Q}' is [160, 64] in [160, 6] int32s, and [160, 8]",
    ),
    "a huge shape": (
        int4,
        {f"{Q}_shape": torch.tensor([2**40, 2**40])},
        f"'{Q}' is [1099511627776, 1099511627776] with",
    ),
    "a negative shape": (int4, {f"{Q}_shape": torch.tensor([-160, 48])}, "not rows and columns"),
    "plain words": (
        int4,
        {f"{Q}_packed": torch.zeros(160, 6)},
        f"'{Q}_packed' is F32; eight INT4 numbers lie in an I32",
    ),
    "turned columns": (int4, {f"{Q}_g_idx": torch.arange(48).int()}, f"another order ({Q}_g_idx)"),
    "twice": (int4, {Q: torch.zeros(160, 48)}, f"'{Q}' is there twice, packed and plain"),
}


@pytest.mark.parametrize(("pack", "changes", "words"), DAMAGED.values(), ids=DAMAGED)
def test_packed_tensors_that_do_not_belong_together_are_named(tmp_path, pack, changes, words):
    packed_folder(tmp_path, pack)
    weights = load_file(tmp_path / SINGLE) | changes
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, tmp_path / SINGLE)
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
