"""The planner: counts against published figures, cache formulas against the caches that transformers really fills."""

import json
from pathlib import Path

import pytest
import torch
import transformers

from helpers.facts import table
from helpers.models.components import REST, part_of
from helpers.planning.cache_size import KEPT, layer_kinds
from helpers.planning.plan import BITS, CONFIGS, plan, published, published_names, skeleton

ROWS = {row["config"]: row for row in table("models") if "config" in row}

_EXPERTS = dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1, topk_group=1)
_MLA = dict(q_lora_rank=24, kv_lora_rank=20, qk_rope_head_dim=8, qk_nope_head_dim=12, v_head_dim=16)
_SMALL = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
_DENSE = dict(intermediate_size=48, num_key_value_heads=4)
_INDEX = dict(index_topk=8, index_n_heads=16, index_head_dim=12)
TINY = {
    "qwen3": _SMALL | dict(intermediate_size=48, num_key_value_heads=2, head_dim=16),
    "qwen3_5_text": _SMALL
    | dict(num_hidden_layers=5, intermediate_size=48, num_key_value_heads=2, head_dim=16)
    | dict(linear_key_head_dim=8, linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4),
    "deepseek_v3": _SMALL | _DENSE | _MLA | _EXPERTS | dict(first_k_dense_replace=1),
    "deepseek_v32": _SMALL | _DENSE | _MLA | _EXPERTS | _INDEX,
    "glm_moe_dsa": _SMALL | _DENSE | _MLA | _EXPERTS | _INDEX | dict(num_hidden_layers=6, index_topk_freq=2),
    "kimi_linear": _SMALL
    | dict(_DENSE, num_hidden_layers=5, kv_lora_rank=20, qk_rope_head_dim=8, qk_nope_head_dim=12, v_head_dim=16)
    | dict(num_local_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, linear_head_dim=8, linear_num_heads=3)
    | dict(pad_token_id=0, bos_token_id=0, eos_token_id=1),
    "deepseek_v4": _SMALL
    | dict(num_hidden_layers=4, head_dim=32, q_lora_rank=16, o_groups=2, o_lora_rank=8, sliding_window=12)
    | dict(n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=16, compress_ratios=[0, 4, 128, 4])
    | dict(compress_rate_hca=8, bos_token_id=0, eos_token_id=1)
    | _INDEX,
}
_GROUPED = _SMALL | dict(num_hidden_layers=4, num_key_value_heads=2, head_dim=16, intermediate_size=48)
_GROUPED |= dict(pad_token_id=0, bos_token_id=0, eos_token_id=1)
_WINDOW = _GROUPED | dict(sliding_window=16)
_SOME = _WINDOW | dict(use_sliding_window=True, max_window_layers=2)
_LATENT = _GROUPED | _EXPERTS | _MLA | dict(num_key_value_heads=4, n_shared_experts=1, first_k_dense_replace=1)
_MIXED = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
_ROUTED = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, shared_expert_intermediate_size=16)
_LOCAL = dict(num_local_experts=4, num_experts_per_tok=2)
OTHERS = {  # families that we do not build, by what transformers fills
    "llama": {name: size for name, size in _GROUPED.items() if name != "head_dim"},
    "mistral": _WINDOW,
    "mixtral": _WINDOW | _LOCAL,
    "ministral": _WINDOW | dict(layer_types=_MIXED),
    "ministral3": _GROUPED,
    "starcoder2": _WINDOW,
    "smollm3": _SOME,
    "qwen2": _SOME,
    "qwen2_moe": _SOME | _ROUTED,
    "qwen3": _SOME,
    "qwen3_moe": _SOME | _ROUTED,
    "qwen3_next": _GROUPED | _ROUTED | {k: v for k, v in TINY["qwen3_5_text"].items() if k.startswith("linear")},
    "qwen3_5_moe_text": TINY["qwen3_5_text"] | _ROUTED,
    "gemma": _GROUPED,
    "gemma2": _WINDOW,
    "gemma3_text": _WINDOW | dict(layer_types=_MIXED),
    "gpt_oss": _WINDOW | _LOCAL,
    "phi3": _WINDOW,
    "cohere": _GROUPED,
    "cohere2": _WINDOW | dict(layer_types=_MIXED),
    "exaone4": _WINDOW | dict(sliding_window_pattern=4),
    "olmo": _GROUPED,
    "olmo2": _GROUPED,
    "olmo3": _WINDOW,
    "glm": _GROUPED,
    "glm4": _GROUPED,
    "glm4_moe": _GROUPED | _EXPERTS,
    "granite": _GROUPED,
    "seed_oss": _GROUPED,
    "ernie4_5": _GROUPED,
    "minimax_m2": _GROUPED | _LOCAL,
    "llama4_text": _GROUPED | _LOCAL | dict(attention_chunk_size=16, no_rope_layers=[1, 1, 1, 0]),
    "deepseek_v2": _LATENT,
    "glm4_moe_lite": _LATENT,
    "minicpm3": _LATENT,
}

SEEING = {"qwen3_vl_text", "qwen3_vl_moe_text"}  # parts of models that see, in a test of their own


def tiny_config(family: str) -> transformers.PretrainedConfig:
    return transformers.AutoConfig.for_model(family, **(OTHERS | TINY)[family])


def _counting_no_experts() -> transformers.PretrainedConfig:
    config = tiny_config("qwen3_moe")
    config.num_experts_per_tok = 0
    return config


def real_cache_bytes(config: transformers.PretrainedConfig, tokens: int) -> int:
    """Bytes of every tensor in the cache after a forward; a tensor stored twice with the same content counts once."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        cache = model(torch.randint(2, config.vocab_size, (1, tokens)), use_cache=True).past_key_values
    return sum(_layer_bytes(vars(layer)) for layer in cache.layers)


def _layer_bytes(state: dict) -> int:
    same = state.get("values") is not None and torch.equal(state["keys"], state["values"])  # V4: K = V
    return sum(_bytes(value) for name, value in state.items() if not (same and name == "values"))


def _bytes(value) -> int:
    if torch.is_tensor(value):
        return value.numel() * value.element_size() if value.dim() > 1 else 0  # scalars are bookkeeping
    return sum(_bytes(item) for item in value.values()) if isinstance(value, dict) else 0


@pytest.mark.parametrize("name", published_names())
def test_the_counted_total_is_within_one_percent_of_the_published_one_or_rounds_to_it(name):
    row, counted = ROWS[name], plan(published(name))
    billions = (counted.total if row["total_counts"] == "whole" else counted.text) / 1e9
    assert abs(billions - row["total_billion"]) <= max(0.01 * row["total_billion"], row["total_unit_billion"] / 2)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "active_billion" in row])
def test_the_counted_active_parameters_bracket_the_published_number(name):
    counted, stated = plan(published(name)), ROWS[name]["active_billion"]
    low, high = counted.active_without_embedding / 1e9, counted.active / 1e9
    assert low - 1.5 <= stated <= high + 0.5  # their rounding, and whether the embedding counts, are not stated


def test_only_three_published_totals_are_too_round_to_be_held_to_one_percent():
    loose = {name for name, row in ROWS.items() if row["total_unit_billion"] / 2 > 0.01 * row["total_billion"]}
    assert loose == {"kimi_k25", "qwen3-0.6b", "qwen3_5-35b-a3b"}


def test_kimis_published_disk_size_follows_from_int4_experts_in_a_bf16_model():
    counted = plan(published("kimi_k25")).weight_bytes("bf16", routed="int4 g32") / 1e9
    assert counted == pytest.approx(ROWS["kimi_k25"]["disk_gb"], rel=0.01)


def test_qwen_and_v3_caches_are_the_published_bytes_a_token():
    # 12, 20 and 30 MB for 1,000 tokens: ggml-org/Llama-macOS pull request 63; 70,272 = 61 x (512 + 64) x 2
    for name, expected in {
        "qwen3_5-0.8b": 12_288,
        "qwen3_5-35b-a3b": 20_480,
        "qwen3_5-397b-a17b": 30_720,
        "deepseek_v3": 70_272,
    }.items():
        counted = plan(published(name))
        assert counted.cache_bytes(1001) - counted.cache_bytes(1000) == expected


@pytest.mark.parametrize("tokens", [1, 7, 12, 33])
@pytest.mark.parametrize("family", TINY)
def test_the_cache_formula_is_the_bytes_that_transformers_keeps(family, tokens):
    config = tiny_config(family)
    assert plan(config).cache_bytes(tokens, element_bytes=4) == real_cache_bytes(config, tokens)


@pytest.mark.parametrize("tokens", [7, 16, 40])  # around a window of 16
@pytest.mark.parametrize("family", OTHERS)
def test_a_family_that_we_do_not_build_keeps_what_transformers_keeps(family, tokens):
    config = transformers.AutoConfig.for_model(family, **OTHERS[family])
    assert plan(config).cache_bytes(tokens, element_bytes=4) == real_cache_bytes(config, tokens)


def test_every_family_with_a_formula_is_held_to_a_real_cache():
    assert {config.model_type for config in map(tiny_config, OTHERS | TINY)} | SEEING == set(KEPT)


@pytest.mark.parametrize(("kind", "experts"), [("qwen3_vl", {}), ("qwen3_vl_moe", _ROUTED)])
def test_a_model_that_sees_keeps_what_its_text_model_does(kind, experts):
    vision = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32)
    vision |= dict(deepstack_visual_indexes=[0], num_position_embeddings=16)
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
    text = _GROUPED | experts | dict(rope_parameters=rope)
    config = transformers.AutoConfig.for_model(kind, text_config=text, vision_config=vision)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    with torch.no_grad():
        cache = model(torch.randint(2, 64, (1, 17)), use_cache=True).past_key_values
    assert plan(config).cache_bytes(17, 4) == sum(_layer_bytes(vars(layer)) for layer in cache.layers)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("family", ["mistral", "deepseek_v4"])
def test_the_smallest_windows_keep_what_transformers_keeps(family, size):
    config = transformers.AutoConfig.for_model(family, **(OTHERS | TINY)[family] | dict(sliding_window=size))
    assert plan(config).cache_bytes(9, element_bytes=4) == real_cache_bytes(config, 9)


@pytest.mark.parametrize(
    "family", ["gemma3n_text", "gemma4_text", "lfm2", "falcon_h1", "jamba", "minimax", "mamba2", "gpt2", "olmo_hybrid"]
)
def test_a_family_without_a_formula_is_refused_by_name(family):
    config = transformers.AutoConfig.for_model(family)
    with pytest.raises(ValueError, match=f"no cache formula for model_type '{family}'; known: ") as caught:
        layer_kinds(config)
    assert "\n" not in str(caught.value)


def test_layers_with_a_window_of_no_size_are_refused():
    config = tiny_config("gemma2")
    config.sliding_window = None
    with pytest.raises(ValueError, match="this gemma2 has layers with a window, and its sliding_window is None"):
        plan(config).cache_bytes(5)


def test_layers_with_sizes_of_their_own_are_refused():
    config = transformers.AutoConfig.for_model("llama", **OTHERS["llama"], per_layer_config={1: {"head_dim": 8}})
    with pytest.raises(ValueError, match="a llama whose layers have sizes of their own"):
        layer_kinds(config)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "llama4_text", "minimax_m2", "glm4_moe", "qwen3_moe"])
def test_unchosen_experts_are_left_out_whatever_the_family_calls_them(family):
    counted = plan(tiny_config(family))
    routed = counted.parts["routed experts"]
    assert counted.total - counted.active == routed - routed * counted.experts_per_token // counted.experts > 0


@pytest.mark.parametrize("family", TINY)
def test_the_parts_sum_to_the_parameters_of_the_real_model(family):
    config = tiny_config(family)
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert plan(config).total == sum(parameter.numel() for parameter in model.parameters())


def test_a_dense_model_is_wholly_active_and_a_sparse_one_leaves_out_unchosen_experts():
    dense, sparse = plan(tiny_config("qwen3")), plan(tiny_config("deepseek_v3"))
    assert dense.active == dense.total
    one_expert = 3 * 32 * 16  # gate, up and down
    assert sparse.total - sparse.active == 6 * one_expert  # 8 experts, 2 chosen, one sparse layer


def test_a_tied_embedding_is_counted_once_and_stays_active():
    tied = plan({"model_type": "qwen3", **TINY["qwen3"], "tie_word_embeddings": True})
    free = plan({"model_type": "qwen3", **TINY["qwen3"], "tie_word_embeddings": False})
    assert free.total - tied.total == 64 * 32
    assert tied.tied
    assert tied.active_without_embedding == tied.total
    assert not free.tied
    assert free.active_without_embedding == free.total - 64 * 32


def test_shared_indexers_keep_no_index_keys():
    kinds = layer_kinds(tiny_config("glm_moe_dsa"))
    assert kinds.count("latent") > 0
    assert kinds.count("latent and index") > 0


def test_planning_a_744_billion_parameter_model_allocates_no_weights():
    config = published("glm5")
    model = skeleton(transformers.AutoConfig.for_model(config.pop("model_type"), **config))
    assert all(tensor.is_meta for tensor in model.parameters())


def test_formats_cost_their_bits_and_their_scales():
    counted = plan(tiny_config("qwen3"))
    assert counted.weight_bytes("bf16") == 2 * counted.total
    assert counted.weight_bytes("int4 g32") == round(counted.total * (32 * 4 + 16) / 32 / 8)
    assert BITS["fp4 1x32"] == 4.25


def test_a_model_fits_exactly_when_weights_and_cache_do():
    counted = plan(tiny_config("qwen3"))
    need = counted.weight_bytes() + counted.cache_bytes(100)
    assert counted.fits(need, tokens=100)
    assert not counted.fits(need - 1, tokens=100)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plan({"hidden_size": 8}), "no model_type"),
        (lambda: plan({"model_type": "gpt-9"}), "gpt-9"),
        (lambda: plan({"model_type": "qwen3", "hidden_size": "wide"}), "refuses this qwen3 config"),
        (lambda: plan(_counting_no_experts()), "this qwen3_moe has experts, and its config lacks num_experts or"),
        (lambda: plan(tiny_config("qwen3")).weight_bytes("int3"), "no weight format 'int3'; known: float32"),
        (lambda: plan(tiny_config("qwen3")).cache_bytes(-1), "0 tokens or more"),
        (lambda: published("gpt-9"), "there are: deepseek_v3"),
    ],
)
def test_bad_input_is_refused_in_words(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_layer_without_a_formula_is_named():
    config = tiny_config("qwen3")
    config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ValueError, match="no cache formula for chunked_attention layers"):
        layer_kinds(config)


def test_every_parameter_of_the_real_models_belongs_to_a_named_part():
    for name in published_names():
        counted = plan(published(name))
        assert counted.parts.get(REST, 0) < 0.02 * counted.total
        assert counted.parts["embedding"] == counted.config.vocab_size * counted.config.hidden_size
    assert part_of("model.layers.3.mlp.experts.down_proj") == "routed experts"
    assert part_of("model.layers.3.mlp.shared_experts.down_proj.weight") == "shared expert"
    assert part_of("model.layers.3.mlp.gate.weight") == "router"
    assert part_of("model.layers.3.mlp.gate_proj.weight") == "dense FFN"


def test_a_name_is_ours_or_a_published_one_and_the_gate_of_a_dense_layer_is_no_router():
    assert part_of("blocks.0.mlp.gate.weight") == "dense FFN"
    assert part_of("model.layers.0.mlp.gate.weight") == "router"
    assert part_of("text.blocks.1.mlp.shared_gate") == part_of("model.layers.1.mlp.shared_expert_gate.weight")
    assert part_of("blocks.1.attention.indexer.query") == part_of("model.layers.1.self_attn.indexer.wq_b") == "indexer"
    assert part_of("model.layers.1.ffn.experts.3.w1.weight") == "routed experts"  # as DeepSeek-V4's files have it


@pytest.mark.parametrize("path", sorted(Path(CONFIGS).glob("*.json")), ids=lambda path: path.stem)
def test_every_config_has_a_source_a_date_and_a_row_of_published_figures(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["source"]
    assert stored["as_of"]
    assert stored["config"]["model_type"]
    assert ROWS[path.stem]["model"] == stored["model"]
