"""Every family, there and back: what transformers saves is ours with its answers, and what we save is transformers'."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from support.packed_files import pack_int4

from helpers.checkpoints import CheckpointError, load, save
from helpers.checkpoints.families import FAMILIES
from helpers.checkpoints.folder import CONFIG, SINGLE
from helpers.quant.formats.fp4 import pack_fp4, unpack_fp4
from helpers.quant.formats.integers import unpack_int4

SMALL = dict(vocab_size=61, hidden_size=24, num_hidden_layers=3, num_attention_heads=4, intermediate_size=36)
LATENT = dict(
    num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=16, qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=10
)
EXPERTS = dict(n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=14, n_shared_experts=1)
GROUPS = dict(n_group=3, topk_group=2, routed_scaling_factor=1.7, first_k_dense_replace=1)
INDEX = dict(index_topk=5, index_n_heads=16, index_head_dim=8)
DELTA = dict(linear_key_head_dim=6, linear_value_head_dim=5, linear_num_key_heads=2, linear_num_value_heads=4)
QWEN = SMALL | DELTA | dict(num_hidden_layers=4, num_key_value_heads=2, head_dim=16)
MROPE = {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
YARN = {"rope_type": "yarn", "rope_theta": 3e4, "factor": 4.0, "original_max_position_embeddings": 32}
THETA = {"rope_type": "default", "rope_theta": 3e4}

QWEN_EXPERTS = dict(num_experts=5, num_experts_per_tok=2, moe_intermediate_size=14, shared_expert_intermediate_size=9)
TOWER = dict(depth=2, hidden_size=32, intermediate_size=40, num_heads=2, out_hidden_size=24, patch_size=4)
TOWER |= dict(num_position_embeddings=16)
MOONVIT = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, patch_size=4)
MOONVIT |= dict(pos_emb_height=5, pos_emb_width=5)  # transformers takes every grid for a square
KIMI = dict(text_config=SMALL | LATENT | EXPERTS | GROUPS | dict(rope_parameters=YARN), vision_config=MOONVIT)
KIMI |= dict(projection_hidden_size=32, image_token_id=60)
SPARSE = "compressed_sparse_attention"

TINY = {
    "qwen3": ("qwen3", SMALL | dict(num_key_value_heads=2, head_dim=10, rope_parameters=THETA)),
    "qwen3, tied": ("qwen3", SMALL | dict(num_key_value_heads=1, head_dim=8, tie_word_embeddings=True)),
    "qwen3_5": ("qwen3_5_text", QWEN | dict(rope_parameters=MROPE)),
    "qwen3_5, tied": ("qwen3_5_text", QWEN | dict(rope_parameters=MROPE, tie_word_embeddings=True)),
    "qwen3_5 with experts": (
        "qwen3_5_moe_text",
        QWEN | QWEN_EXPERTS | dict(rope_parameters=MROPE),
    ),
    "deepseek_v3": ("deepseek_v3", SMALL | LATENT | EXPERTS | GROUPS | dict(rope_parameters=THETA)),
    "deepseek_v3, YaRN": (
        "deepseek_v3",
        SMALL | LATENT | EXPERTS | dict(first_k_dense_replace=1, n_shared_experts=2, q_lora_rank=None)
        | dict(n_group=1, topk_group=1)
        | dict(rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 0.7}),
    ),
    "deepseek_v32": (
        "deepseek_v32",
        SMALL | LATENT | EXPERTS | GROUPS | INDEX | dict(mlp_layer_types=["dense", "sparse", "sparse"])
        | dict(rope_parameters=YARN | {"mscale": 1.0, "mscale_all_dim": 1.0}),
    ),
    "glm5": (
        "glm_moe_dsa",
        SMALL | LATENT | EXPERTS | INDEX | dict(num_hidden_layers=4, rope_parameters=THETA)
        | dict(mlp_layer_types=["dense", "sparse", "sparse", "sparse"])
        | dict(indexer_types=["full", "full", "shared", "full"]),
    ),
    "deepseek_v4": (
        "deepseek_v4",
        SMALL | INDEX | dict(num_hidden_layers=4, head_dim=16, q_lora_rank=12, o_groups=2, o_lora_rank=6)
        | dict(sliding_window=5, compress_rates={"compressed_sparse_attention": 4, "heavily_compressed_attention": 6})
        | dict(layer_types=["sliding_attention", SPARSE, "heavily_compressed_attention", SPARSE])
        | dict(mlp_layer_types=["hash_moe", "moe", "moe", "moe"], partial_rotary_factor=0.25, qk_rope_head_dim=4)
        | dict(n_routed_experts=6, num_experts_per_tok=2, moe_intermediate_size=14, num_key_value_heads=1),
    ),
    "qwen3_5 that sees": (
        "qwen3_5",
        dict(text_config=QWEN | dict(rope_parameters=MROPE), vision_config=TOWER, image_token_id=60),
    ),
    "qwen3_5 that sees, tied": (
        "qwen3_5",
        dict(text_config=QWEN | dict(rope_parameters=MROPE, tie_word_embeddings=True), vision_config=TOWER)
        | dict(tie_word_embeddings=True, image_token_id=60),
    ),
    "qwen3_5 that sees, with experts": (
        "qwen3_5_moe",
        dict(text_config=QWEN | QWEN_EXPERTS | dict(rope_parameters=MROPE), vision_config=TOWER, image_token_id=60),
    ),
    "kimi_k25": ("kimi_k25", KIMI),
    "kimi_k25, tied": ("kimi_k25", KIMI | dict(tie_word_embeddings=True)),
}  # fmt: skip
SEEING = [name for name in TINY if "sees" in name or "kimi" in name]
TOKENS = torch.randint(60, (2, 11), generator=torch.Generator().manual_seed(0))


def auto(name):
    return transformers.AutoModelForImageTextToText if name in SEEING else transformers.AutoModelForCausalLM


def made(name):
    """A model of transformers with random weights, those that begin as zeros or ones too, and random tables."""
    kind, sizes = TINY[name]
    config = transformers.AutoConfig.for_model(kind, **{"tie_word_embeddings": False} | sizes)
    torch.manual_seed(1)
    model = auto(name).from_config(config, attn_implementation="eager", experts_implementation="eager")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) * 0.2)
            else:
                tensor.copy_(torch.randint(config.n_routed_experts, tensor.shape))
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of a family, written by transformers once for all tests."""
    written = {}

    def folder(name):
        if name not in written:
            written[name] = tmp_path_factory.mktemp("family") / "theirs"
            made(name).save_pretrained(written[name])
        return written[name]

    return folder


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of deepseek_v3's, to be changed."""
    weights = load_file(folders("deepseek_v3") / SINGLE)
    (tmp_path / CONFIG).write_text((folders("deepseek_v3") / CONFIG).read_text())
    save_file(weights, tmp_path / SINGLE)
    return tmp_path


def change(folder, **config):
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | config))


def add(folder, weights):
    both = load_file(folder / SINGLE) | weights
    save_file({name: tensor for name, tensor in both.items() if tensor is not None}, folder / SINGLE)


def from_transformers(name, folder):
    options = dict(attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    model, about = auto(name).from_pretrained(folder, **options)
    assert not any(about[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))
    return model


def assert_same(one, other):
    one, other = one.state_dict(), other.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_every_known_family_is_tested():
    assert {kind for kind, _ in TINY.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", TINY)
def test_what_transformers_saves_gives_us_its_logits(folders, name):
    with torch.no_grad():
        torch.testing.assert_close(load(folders(name))(TOKENS), made(name)(TOKENS).logits, rtol=0, atol=1e-4)


def recomputed(name):
    """The buffers of transformers' model that it does not store, and those of models and tools before."""
    model = made(name)
    stored, buffers = model.state_dict(), dict(model.named_buffers())
    found = {key: buffer for key, buffer in buffers.items() if key not in stored}
    assert found
    old = (
        "rotary_emb.inv_freq",
        "rotary_emb.cos_cached",
        "rotary_emb.sin_cached",
        "masked_bias",
        "rotary_emb.freqs_cis",
    )
    found |= {f"model.layers.{n}.self_attn.{leaf}": torch.full((3,), 7.0) for n in range(2) for leaf in old}
    found |= {"vision_tower.embeddings.position_ids": torch.arange(5)}
    if "kimi" in name:
        found["vision_tower.patch_embed.pos_emb.time_weight"] = torch.ones(4, 1, 32)
    return {key: torch.full_like(buffer, 7) for key, buffer in found.items()}  # nothing that a config asks for


@pytest.mark.parametrize("name", TINY)
def test_tables_that_are_computed_anew_may_stand_in_the_files_and_have_no_word(folders, name, tmp_path):
    (tmp_path / CONFIG).write_text((folders(name) / CONFIG).read_text())
    tables = recomputed(name)
    save_file(load_file(folders(name) / SINGLE) | tables, tmp_path / SINGLE)
    assert_same(load(tmp_path), load(folders(name)))
    with torch.no_grad():
        theirs = auto(name).from_pretrained(tmp_path, attn_implementation="eager", experts_implementation="eager")
        torch.testing.assert_close(load(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("extra", ["rotary_emb.inv_freq.weight", "k_proj.input_scale", "q_proj.g_idx", "_extra_state"])
def test_what_is_neither_a_weight_nor_such_a_table_is_named(folder, extra):
    name = f"model.layers.0.self_attn.{extra}"
    add(folder, {name: torch.ones(3)})
    with pytest.raises(CheckpointError, match=f"1 unexpected: '{name}'$"):
        load(folder)


@pytest.mark.parametrize("name", ["qwen3, tied", "qwen3_5, tied", "qwen3_5 that sees, tied"])
def test_a_model_that_was_saved_without_its_head_is_read_as_transformers_reads_it(folders, name, tmp_path):
    (tmp_path / CONFIG).write_text((folders(name) / CONFIG).read_text())
    weights = {key.removeprefix("model."): tensor for key, tensor in load_file(folders(name) / SINGLE).items()}
    assert "lm_head.weight" not in weights
    save_file(weights, tmp_path / SINGLE, metadata={"format": "pt"})
    theirs = from_transformers(name, tmp_path)
    assert_same(load(tmp_path), load(folders(name)))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(TOKENS), theirs(TOKENS).logits, rtol=0, atol=1e-4)


def test_a_head_that_is_missing_is_named_where_the_model_was_saved_without_it(folder):
    weights = {key.removeprefix("model."): tensor for key, tensor in load_file(folder / SINGLE).items()}
    del weights["lm_head.weight"]
    save_file(weights, folder / SINGLE)
    with pytest.raises(CheckpointError, match=r"config.json: 1 missing: 'lm_head.weight' \(config.json does not tie"):
        load(folder)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_names_of_a_wrapper_are_explained(folder, prefix):
    save_file({prefix + name: tensor for name, tensor in load_file(folder / SINGLE).items()}, folder / SINGLE)
    with pytest.raises(CheckpointError, match=f"every name begins with '{prefix}', as .* leaves them: save the model"):
        load(folder)


def test_the_tower_may_stand_beside_a_text_model_as_in_transformers(folders, tmp_path):
    (tmp_path / CONFIG).write_text((folders("qwen3_5") / CONFIG).read_text())
    save_file(load_file(folders("qwen3_5") / SINGLE) | {"model.visual.norm.weight": torch.ones(3)}, tmp_path / SINGLE)
    from_transformers("qwen3_5", tmp_path)
    assert_same(load(tmp_path), load(folders("qwen3_5")))


@pytest.mark.parametrize("name", TINY)
def test_what_we_save_is_transformers_bit_for_bit(folders, name, tmp_path):
    ours = load(folders(name))
    save(ours, tmp_path)
    theirs, again = made(name), from_transformers(name, tmp_path)
    assert type(again) is type(theirs)
    for (key, one), other in zip(theirs.state_dict().items(), again.state_dict().values(), strict=True):
        assert one.dtype == other.dtype, key
        assert torch.equal(one, other), key
    with torch.no_grad():
        assert torch.equal(again(TOKENS).logits, from_transformers(name, folders(name))(TOKENS).logits)
    once_more = load(tmp_path)
    assert once_more.config == ours.config
    assert_same(once_more, ours)


@pytest.mark.parametrize("name", SEEING)
def test_an_image_is_seen_alike_by_what_was_loaded_and_what_was_saved(folders, name, tmp_path):
    ours, theirs = load(folders(name)), made(name)
    save(ours, tmp_path)
    torch.manual_seed(2)
    patch = (3, 4, 4) if "kimi" in name else (3 * 2 * 4 * 4,)
    images = {"pixel_values": torch.randn(24, *patch), "image_grid_thw": torch.tensor([[1, 4, 6]])}
    dark = images | {"pixel_values": torch.zeros(24, *patch)}
    image = ours.config.image_token
    tokens = torch.tensor([[1, 2, *6 * [image], 3, 4]])
    about = {"mm_token_type_ids": (tokens == image).int()} if "qwen" in name else {}
    with torch.no_grad():
        expected = theirs(tokens, **images, **about).logits
        assert (expected - theirs(tokens, **dark, **about).logits).abs().max() > 1e-3
        torch.testing.assert_close(ours(tokens, images=images), expected, rtol=0, atol=1e-4)
        again = from_transformers(name, tmp_path)(tokens, **images, **about).logits
        torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in TINY if "kimi" not in name])
def test_the_files_we_write_hold_the_tensors_that_transformers_writes(folders, name, tmp_path):
    save(load(folders(name)), tmp_path)
    one, other = load_file(folders(name) / SINGLE), load_file(tmp_path / SINGLE)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["qwen3_5 with experts", "deepseek_v3", "glm5"])
def test_experts_in_one_tensor_are_read_as_experts_apart(folders, name, tmp_path):
    """As Qwen3.5's larger models are published, and as transformers holds them in memory."""
    made(name).save_pretrained(tmp_path, save_original_format=False)
    assert any(key.endswith("experts.gate_up_proj") for key in load_file(tmp_path / SINGLE))
    assert_same(load(tmp_path), load(folders(name)))


@pytest.mark.parametrize("name", [name for name in TINY if "," not in name])
def test_half_precision_is_loaded_and_saved_in_every_family(folders, name, tmp_path):
    half = load(folders(name), torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    save(half, tmp_path)
    assert_same(load(tmp_path, torch.bfloat16), half)


# Names that are explained.


@pytest.mark.parametrize("name", ["qwen3_5", "qwen3_5 with experts"])
def test_qwen_s_drafter_may_be_there(folders, name, tmp_path):
    made(name).save_pretrained(tmp_path)
    add(tmp_path, {"mtp.norm.weight": torch.ones(24)})
    load(tmp_path)
    add(tmp_path, {"model.mtp.norm.weight": torch.ones(24)})
    with pytest.raises(CheckpointError, match=r"1 unexpected: 'model.mtp.norm.weight'"):
        load(tmp_path)


def test_deepseek_v4_is_read_by_the_names_of_its_release(folders, tmp_path):
    made("deepseek_v4").save_pretrained(tmp_path)
    released = {
        name.replace("model.embed_tokens.", "embed.")
        .replace("model.hc_head.hc_", "hc_head_")
        .removeprefix("model."): one
        for name, one in load_file(tmp_path / SINGLE).items()
    }
    assert {"embed.weight", "norm.weight", "head.weight", "hc_head_fn", "layers.3.attn.wq_a.weight"} < set(released)
    save_file(released | {"mtp.0.norm.weight": torch.ones(24)}, tmp_path / SINGLE)
    assert_same(load(tmp_path), load(folders("deepseek_v4")))
    save_file(released | {"model.norm.weight": torch.ones(24)}, tmp_path / SINGLE)
    with pytest.raises(CheckpointError, match=r"holds 'model.norm.weight' twice, under two names"):
        load(tmp_path)


def test_deepseek_v4_is_read_as_it_is_packed(folders, tmp_path):
    """Experts in FP4, the other matrices in FP8, every scale a power of two beside its numbers."""
    made("deepseek_v4").save_pretrained(tmp_path)
    weights, expected = load_file(tmp_path / SINGLE), {}
    packed = {}
    for name, weight in weights.items():
        scale = name.removesuffix("weight") + "scale"
        if ".experts." in name:
            packed[name], packed[scale] = pack_fp4(weight)
            expected[name] = unpack_fp4(packed[name], packed[scale])
        elif name.endswith(("wq_a.weight", "wkv.weight", "w1.weight")):
            packed[name] = (weight * 64).to(torch.float8_e4m3fn)
            packed[scale] = torch.full((1, 1), 1 / 64).to(torch.float8_e8m0fnu)
            expected[name] = packed[name].float() / 64
        else:
            packed[name] = expected[name] = weight
    save_file(packed, tmp_path / SINGLE)
    change(tmp_path, quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]})
    save(load(tmp_path), tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / SINGLE)
    assert plain.keys() == expected.keys()
    assert all(torch.equal(plain[name], expected[name]) for name in expected)


@pytest.mark.parametrize("name", ["deepseek_v32", "glm5"])
def test_a_block_behind_the_last_is_explained_only_when_it_is_a_drafter(folders, name, tmp_path):
    made(name).save_pretrained(tmp_path)
    last = load(tmp_path).config.num_blocks
    add(tmp_path, {f"model.layers.{last}.input_layernorm.weight": torch.ones(24)})
    with pytest.raises(CheckpointError, match=f"1 unexpected: 'model.layers.{last}.input_layernorm.weight'"):
        load(tmp_path)
    add(tmp_path, {f"model.layers.{last}.eh_proj.weight": torch.ones(24, 48)})
    load(tmp_path)


def drafter(weights):
    """A block behind the last, with what DeepSeek-V3's release has beside it: embedding and head once more."""
    last = {name: tensor.clone() for name, tensor in weights.items() if "layers.2." in name}
    block = {name.replace("layers.2.", "layers.3."): tensor for name, tensor in last.items()}
    norms = {f"model.layers.3.{norm}.weight": torch.randn(24) for norm in ("enorm", "hnorm", "shared_head.norm")}
    copies = {
        "model.layers.3.embed_tokens.weight": weights["model.embed_tokens.weight"].clone(),
        "model.layers.3.shared_head.head.weight": weights["lm_head.weight"].clone(),
    }
    return block | norms | copies | {"model.layers.3.eh_proj.weight": torch.randn(24, 48)}


def test_deepseek_v3_has_its_drafter_when_the_files_do(folder):
    weights = load_file(folder / SINGLE)
    assert json.loads((folder / CONFIG).read_text())["num_nextn_predict_layers"] == 1
    assert not load(folder).drafters  # transformers wrote none
    add(folder, drafter(weights))
    model = load(folder)
    join = load_file(folder / SINGLE)["model.layers.3.eh_proj.weight"]
    assert torch.equal(model.drafters["3"].join.weight, join)
    assert torch.equal(model.drafters["3"].block.mlp.experts.gate_up, model.blocks[2].mlp.experts.gate_up)
    change(folder, num_nextn_predict_layers=0)
    assert not load(folder).drafters


def test_a_drafter_is_saved_with_its_model(folder, tmp_path):
    add(folder, drafter(load_file(folder / SINGLE)))
    model = load(folder)
    save(model, tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.config.num_drafters == 1
    assert_same(again, model)


def test_a_drafter_that_lacks_a_tensor_or_has_an_embedding_of_its_own_is_refused(folder):
    extra = drafter(load_file(folder / SINGLE))
    add(folder, extra | {"model.layers.3.hnorm.weight": None})
    with pytest.raises(CheckpointError, match=r"1 missing: 'model.layers.3.hnorm.weight'"):
        load(folder)
    add(folder, extra | {"model.layers.3.embed_tokens.weight": torch.zeros(61, 24)})
    with pytest.raises(CheckpointError, match=r"'model.layers.3.embed_tokens.weight' and 'model.embed_tokens"):
        load(folder)


def test_kimi_k25_is_read_as_it_is_published(folders, tmp_path):
    """Routed experts in INT4, told by the text model's config; the sizes of tower and projector by older names."""
    save(load(folders("kimi_k25")), tmp_path)
    packed, expected = {}, {}
    for name, weight in load_file(tmp_path / SINGLE).items():
        packed[name] = expected[name] = weight
        if ".mlp.experts." in name:
            del packed[name]
            parts = packed[f"{name}_packed"], packed[f"{name}_scale"], packed[f"{name}_shape"] = pack_int4(weight)
            expected[name] = unpack_int4(*parts[:2], tuple(weight.shape))
    assert len(packed) > len(expected)
    save_file(packed, tmp_path / SINGLE)
    config = json.loads((tmp_path / CONFIG).read_text())
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    config["text_config"]["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    config["media_placeholder_token_id"] = config.pop("image_token_id")
    config["vision_config"]["projector_ln_eps"] = config.pop("projection_layer_norm_eps")
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"):
        config["vision_config"][f"vt_{name}"] = config["vision_config"].pop(name)
    (tmp_path / CONFIG).write_text(json.dumps(config))
    model = load(tmp_path)
    assert model.config == load(folders("kimi_k25")).config
    save(model, tmp_path / "plain")
    plain = load_file(tmp_path / "plain" / SINGLE)
    assert plain.keys() == expected.keys()
    assert all(torch.equal(plain[name], expected[name]) for name in expected)


# Configs.

WRONG = {
    "experts a text": ({"n_routed_experts": "6"}, "n_routed_experts = '6' where it must be a positive whole number"),
    "experts endless": ({"n_routed_experts": 3 * 10**12}, "asks for 3000000000000 experts, and its files hold"),
    "no query rank": ({"q_lora_rank": 0}, "q_lora_rank = 0 where it must be a positive whole number"),
    "dense blocks": ({"first_k_dense_replace": -1}, "first_k_dense_replace = -1 where it must be"),
    "more chosen than there": ({"num_experts_per_tok": 7}, "7 experts per token cannot come from"),
    "another router": (
        {"scoring_func": "softmax"},
        "scoring_func='softmax'; this DeepSeek-V3 has only",
    ),
    "one expert short": ({"n_routed_experts": 9}, "missing: 'model.layers.1.mlp.experts.6.gate_proj.weight'"),
    "no rank": ({"kv_lora_rank": None}, "config.json lacks kv_lora_rank"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG)
def test_a_config_that_does_not_fit_is_refused_by_its_reason(folder, changes, words):
    change(folder, **changes)
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
