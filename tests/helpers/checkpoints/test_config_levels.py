"""Settings of config.json that stand at one of two levels only, under an old name only, or are zero."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from course.parity.configs import CONFIGS
from course.parity.runs import TEXT, TOKEN, named, prompts, randomise_all
from helpers.checkpoints import CheckpointError, load, save
from helpers.checkpoints.folder import CONFIG, SINGLE

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}
LARGE = ("deepseek_v3", "deepseek_v32", "glm_moe_dsa")
pytestmark = pytest.mark.usefixtures("no_gradients")


def written(family: str, folder: Path, **sizes) -> Path:
    """A tiny checkpoint by transformers, every number random."""
    torch.manual_seed(0)
    tiny = CONFIGS[family]
    model = named(tiny.model)._from_config(named(tiny.config)(**tiny.sizes | sizes))
    randomise_all(model, tiny.sizes)
    model.save_pretrained(folder)
    return folder


def rewrite(folder: Path, **changes) -> dict:
    """config.json with these words; ... takes one out."""
    config = json.loads((folder / CONFIG).read_text()) | changes
    config = {word: value for word, value in config.items() if value is not ...}
    (folder / CONFIG).write_text(json.dumps(config))
    return config


def theirs(family: str, folder: Path, row: torch.Tensor) -> torch.Tensor | None:
    """transformers' logits; None where it has to make up weights that the files lack."""
    about = {"dtype": torch.float32, "output_loading_info": True, **EAGER}
    model, info = named(CONFIGS[family].model).from_pretrained(folder, **about)
    return None if info["missing_keys"] else model.eval()(input_ids=row, use_cache=False).logits


def assert_theirs(family: str, folder: Path) -> torch.nn.Module:
    row = prompts(family, TEXT).rows[0][TOKEN][None]
    ours, expected = load(folder), theirs(family, folder, row)
    assert expected is not None
    torch.testing.assert_close(ours(row), expected, rtol=0, atol=1e-3 * expected.abs().max().item())
    return ours


# One level of two.


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe", "kimi_k25"])
@pytest.mark.parametrize("below", [True, False, ...])
@pytest.mark.parametrize("top", [True, False, ...])
@pytest.mark.parametrize("held", ["one matrix", "two"])
def test_whether_the_head_is_the_embedding_is_said_at_the_top(tmp_path, family, held, top, below):
    folder = written(family, tmp_path, tie_word_embeddings=held == "one matrix")
    text = json.loads((folder / CONFIG).read_text())["text_config"] | {"tie_word_embeddings": below}
    text = {word: value for word, value in text.items() if value is not ...}
    rewrite(folder, tie_word_embeddings=top, text_config=text)
    sound = top is not ... and (held == "one matrix") == top
    if sound or opens(folder):
        assert_theirs(family, folder)


def opens(folder: Path) -> bool:
    """Whether it is read, and not refused."""
    try:
        load(folder)
    except CheckpointError:
        return False
    return True


def test_packing_that_is_told_differently_at_two_levels_is_refused(tmp_path):
    folder = written("kimi_k25", tmp_path)
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    text = json.loads((folder / CONFIG).read_text())["text_config"]
    rewrite(folder, quantization_config=fp8, text_config=text | {"quantization_config": fp8})
    load(folder)
    rewrite(folder, text_config=text | {"quantization_config": fp8 | {"weight_block_size": [64, 64]}})
    with pytest.raises(CheckpointError, match="another quantization_config with the text model than at the top"):
        load(folder)


# An old name alone.

OLD = {
    "theta beside": ("qwen3", {"rope_parameters": ..., "rope_theta": 777.0}),
    "theta beside rope_scaling": ("qwen3", {"rope_parameters": ..., "rope_theta": 777.0, "rope_scaling": None}),
    "type": (
        "deepseek_v3",
        {"rope_parameters": ..., "rope_theta": 777.0}
        | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4}},
    ),
    "context beside": (
        "deepseek_v32",
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 777.0}}
        | {"original_max_position_embeddings": 16},
    ),
    "share beside": (
        "qwen3_5_text",
        {"rope_parameters": {"rope_theta": 777.0, "mrope_section": [3, 3, 2]}, "partial_rotary_factor": 0.25},
    ),
    "experts": ("deepseek_v3", {"n_routed_experts": ..., "num_local_experts": 8}),
    "experts of V3.2": ("deepseek_v32", {"n_routed_experts": ..., "num_experts": 8}),
    "experts of GLM-5": ("glm_moe_dsa", {"n_routed_experts": ..., "num_local_experts": 8}),
    "width of V4's experts": ("deepseek_v4", {"moe_intermediate_size": ..., "intermediate_size": 24}),
    "V4's rotary settings": (
        "deepseek_v4",
        {"rope_parameters": ..., "rope_theta": 777.0, "compress_rope_theta": 99.0, "partial_rotary_factor": ...}
        | {"qk_rope_head_dim": 16}
        | {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    ),
    "V4's schedules": (
        "deepseek_v4",
        {"layer_types": None, "compress_ratios": [0, 128, 4, 128], "mlp_layer_types": None, "num_hash_layers": 1},
    ),
    "V4's rates": ("deepseek_v4", {"compress_rates": ..., "compress_rate_csa": 4, "compress_rate_hca": 8}),
}


@pytest.mark.parametrize(("family", "changes"), OLD.values(), ids=OLD)
@pytest.mark.filterwarnings("ignore:`rope_scaling` is deprecated")
def test_an_old_name_alone_is_read(tmp_path, family, changes):
    folder = written(family, tmp_path)
    rewrite(folder, **changes)
    assert_theirs(family, folder)


TWO_NAMES = {
    "deepseek_v3": {"num_local_experts": 4},
    "deepseek_v32": {"num_experts": 4},
    "glm_moe_dsa": {"num_local_experts": 4},
    "deepseek_v4": {"intermediate_size": 32},
}


@pytest.mark.parametrize(("family", "changes"), TWO_NAMES.items(), ids=TWO_NAMES)
def test_two_names_of_one_setting_that_differ_are_refused_by_both(tmp_path, family, changes):
    folder = written(family, tmp_path)
    rewrite(folder, **changes)
    [(name, value)] = changes.items()
    with pytest.raises(
        CheckpointError, match=rf"=\d+ and {name}={value}, two names of one setting; they must be equal"
    ):
        load(folder)


# Zero.


@pytest.mark.parametrize("family", LARGE)
def test_every_block_may_have_experts(tmp_path, family):
    folder = written(family, tmp_path, first_k_dense_replace=0, num_nextn_predict_layers=0)
    ours = assert_theirs(family, folder)
    assert all(hasattr(block.mlp, "experts") for block in ours.blocks)
    save(ours, tmp_path / "ours")
    assert_theirs(family, tmp_path / "ours")


@pytest.mark.parametrize("family", LARGE)
def test_no_dense_block_may_be_said_by_their_number_alone(tmp_path, family):
    folder = written(family, tmp_path, first_k_dense_replace=0, num_nextn_predict_layers=0)
    rewrite(folder, mlp_layer_types=..., first_k_dense_replace=0)
    assert load(folder).config.num_dense_blocks == 0


@pytest.mark.parametrize("family", LARGE)
@pytest.mark.parametrize("none", [0, None])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_no_shared_expert_is_no_layer_at_all(tmp_path, family, none):
    folder = written(family, tmp_path, n_shared_experts=0, num_nextn_predict_layers=0)
    row = prompts(family, TEXT).rows[0][TOKEN][None]
    expected = theirs(family, folder, row)
    rewrite(folder, n_shared_experts=none)  # transformers cannot read null, DeepSeek's own code writes it
    ours = load(folder)
    assert not [name for name, _ in ours.named_parameters() if "shared" in name]
    torch.testing.assert_close(ours(row), expected, rtol=0, atol=1e-3)
    weights = load_file(folder / SINGLE)
    save_file({name: one for name, one in weights.items() if "shared_experts" not in name}, folder / SINGLE)
    assert torch.equal(load(folder)(row), ours(row))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("family", ["qwen3_5_moe_text"])
def test_qwen_without_a_shared_expert_leaves_its_gate_unread(tmp_path, family):
    folder = written(family, tmp_path, shared_expert_intermediate_size=0)
    ours = assert_theirs(family, folder)
    assert not [name for name, _ in ours.named_parameters() if "shared" in name]


def test_a_shared_expert_that_is_there_and_not_asked_for_is_refused(tmp_path):
    folder = written("deepseek_v32", tmp_path)
    rewrite(folder, n_shared_experts=0)
    with pytest.raises(CheckpointError, match=r"unexpected: 'model.layers.1.mlp.shared_experts"):
        load(folder)


@pytest.mark.parametrize(("family", "name"), [("qwen3", "Qwen3ForSequenceClassification"), ("kimi_k25", "KimiModel")])
def test_a_model_with_another_head_is_refused_by_its_name(tmp_path, family, name):
    folder = written(family, tmp_path)
    rewrite(folder, architectures=[name])
    with pytest.raises(CheckpointError, match=rf"architectures=\['{name}'\]; this .* has only \*ForCausalLM"):
        load(folder)
