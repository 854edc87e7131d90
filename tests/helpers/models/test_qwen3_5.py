"""Our Qwen3.5, dense and with experts, and transformers' on the same random weights: parts, logits, caches, places."""

import re
from dataclasses import replace

import pytest
import torch
from support.random_models import padded, tokens
from transformers import Qwen3_5ForCausalLM, Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig, Qwen3_5TextConfig

from helpers.compare import assert_close, causality_probe, max_error, relative_rms
from helpers.generate import generate
from helpers.layers.ragged import arrange
from helpers.layers.rope import angles, angles_of_axes, axis_of, frequencies
from helpers.models.configs.qwen3_5 import (
    ATTENTION,
    CONFIG_NAMES,
    DELTA,
    EXPERTS,
    NAMES,
    Config,
    from_hf,
    names,
    published_name,
)
from helpers.models.qwen3_5 import Qwen3_5
from helpers.planning import plan
from helpers.reference import with_cache

DENSE = Config(
    vocab_size=97, width=32, num_blocks=4, layer_kinds=(DELTA, DELTA, DELTA, ATTENTION),
    num_heads=4, num_kv_heads=2, head_dim=16,
    delta_key_heads=2, delta_value_heads=4, delta_key_dim=8, delta_value_dim=8, conv_width=4,
    mlp_width=48, rotary_share=0.25, sections=(1, 1, 0), tied=True, context=64,
)  # fmt: skip
ODD = Config(
    vocab_size=61, width=33, num_blocks=3, layer_kinds=(ATTENTION, DELTA, ATTENTION),
    num_heads=3, num_kv_heads=1, head_dim=14,
    delta_key_heads=3, delta_value_heads=3, delta_key_dim=7, delta_value_dim=10, conv_width=3,
    mlp_width=31, norm_epsilon=1e-5, rope_theta=1e4, rotary_share=0.9, sections=(2, 3, 1), context=128,
)  # fmt: skip
FEW = replace(
    DENSE, mlp_width=0, num_experts=3, experts_per_token=2, expert_width=12, shared_width=20, num_blocks=2,
    layer_kinds=(DELTA, ATTENTION), tied=False,
)  # fmt: skip
MANY = replace(
    ODD, mlp_width=0, num_experts=9, experts_per_token=3, expert_width=7, shared_width=5, delta_value_heads=6,
)  # fmt: skip
ALL = {"dense": DENSE, "odd": ODD, "few experts": FEW, "many experts": MANY}
CONFIGS = pytest.mark.parametrize("config", ALL.values(), ids=ALL)
SPARSE = pytest.mark.parametrize("config", [FEW, MANY], ids=["few experts", "many experts"])
KINDS = {True: (Qwen3_5MoeForCausalLM, Qwen3_5MoeTextConfig), False: (Qwen3_5ForCausalLM, Qwen3_5TextConfig)}
ROPE = ("rope_theta", "rotary_share", "sections")

pytestmark = pytest.mark.usefixtures("no_gradients")


def published(config: Config) -> dict:
    """The dictionary of a config.json that says the same."""
    without = ("mlp_width",) if config.num_experts else EXPERTS
    values = {ours: getattr(config, ours) for ours in CONFIG_NAMES if ours not in without}
    values = {CONFIG_NAMES[ours]: list(v) if isinstance(v, tuple) else v for ours, v in values.items()}
    rope = {name: values.pop(name) for name in [CONFIG_NAMES[ours] for ours in ROPE]}
    return {**values, "rope_parameters": {"rope_type": "default", "mrope_interleaved": True, **rope}}


def reference(config: Config) -> Qwen3_5ForCausalLM | Qwen3_5MoeForCausalLM:
    """transformers' model with every number random, and memories that last for many tokens."""
    model, sizes = KINDS[bool(config.num_experts)]
    plain = {"attn_implementation": "eager", "experts_implementation": "eager"}
    theirs = model._from_config(sizes(**published(config)), **plain).eval()
    generator = torch.Generator().manual_seed(0)
    around = {"linear_attn.norm.weight": 1.0, "A_log": -3.0}
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            middle = next((value for end, value in around.items() if name.endswith(end)), 0.0)
            weight.copy_(middle + 0.2 * torch.randn(weight.shape, generator=generator))
    return theirs


def unfused(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers keeps gate and up as one tensor for all experts; on disk they are apart."""
    apart = dict(weights)
    for name in [name for name in weights if ".experts." in name]:
        block, _, kind = name.rpartition(".")
        part = {"gate_up_proj": "{gate_proj,up_proj}"}.get(kind, kind)
        apart[f"{block}.{{e}}.{part}.weight"] = apart.pop(name)
    return apart


def ours_from(theirs: torch.nn.Module, config: Config) -> Qwen3_5:
    model, weights = Qwen3_5(config).eval(), unfused(theirs.state_dict())
    model.load_state_dict({name: weights[published_name(name)] for name in model.state_dict()})
    return model


def rotary(model: Qwen3_5, positions: torch.Tensor) -> tuple:
    radians = frequencies(model.config.rotary_dim, model.config.rope_theta)
    return angles(positions, radians)


def watched(theirs: torch.nn.Module, ids: torch.Tensor) -> dict[str, tuple]:
    """What went into each part of each layer, and what came out."""
    seen = {}

    def watch(name):
        def hook(_part, inputs, named, output):
            x = inputs[0] if inputs else named["hidden_states"]
            seen[name] = (x, output[0] if name.endswith("self_attn") else output)

        return hook

    for name, part in theirs.named_modules():
        if re.fullmatch(r"model\.layers\.\d+(\.(self_attn|linear_attn|mlp|mlp\.gate))?", name):
            part.register_forward_hook(watch(name.removeprefix("model.layers.")), with_kwargs=True)
    theirs(ids)
    return seen


@CONFIGS
def test_every_part_and_every_block_is_transformers(config):
    theirs, ids = reference(config), tokens(config.vocab_size, 70)
    model, rows, seen = ours_from(theirs, config), arrange(ids, None, None), watched(theirs, ids)
    turned = rotary(model, rows.positions)
    for n, block in enumerate(model.blocks):
        x, output = seen[str(n)]
        assert_within(block(x, rows, turned), output, f"block {n}")
        x, output = seen[f"{n}.mlp"]
        assert_within(block.mlp(x), output, f"feed-forward {n}")
        if config.layer_kinds[n] == DELTA:
            x, output = seen[f"{n}.linear_attn"]
            assert_within(block.delta(x, rows), output, f"delta {n}")
        else:
            x, output = seen[f"{n}.self_attn"]
            assert_within(block.attention(x, rows, turned), output, f"attention {n}")


def assert_within(ours: torch.Tensor, theirs: torch.Tensor, name: str, allowed: float = 1e-5) -> None:
    """Largest error, for numbers of about 1; larger numbers have larger roundings."""
    size = max(1.0, theirs.square().mean().sqrt().item())
    assert max_error(ours, theirs) <= allowed * size, name


@SPARSE
def test_every_token_goes_to_transformers_experts_with_its_weights(config):
    theirs, ids = reference(config), tokens(config.vocab_size, 70)
    model, seen = ours_from(theirs, config), watched(theirs, ids)
    for n, block in enumerate(model.blocks):
        x, (_, weights, indices) = seen[f"{n}.mlp.gate"]
        ours, our_weights = block.mlp.router(x)
        assert torch.equal(ours, indices)
        assert max_error(our_weights, weights) <= 1e-5
        assert len(indices.unique()) == config.num_experts


@SPARSE
def test_using_every_expert_is_another_model(config):
    model, ids = ours_from(reference(config), config), tokens(config.vocab_size, 40)
    sparse = model(ids)
    for block in model.blocks:
        block.mlp.router.k = config.num_experts
    assert max_error(model(ids), sparse) > 0.01


@CONFIGS
@pytest.mark.parametrize("length", [1, 31, 33, 130])
def test_logits_are_transformers(config, length):
    theirs, ids = reference(config), tokens(config.vocab_size, length)
    expected = theirs(ids).logits
    assert expected.std() > 0.3
    assert max_error(ours_from(theirs, config)(ids), expected) <= 1e-4


@CONFIGS
@pytest.mark.parametrize("cuts", [[1] * 75, [75], [70, 1, 1, 3], [2, 72, 1]], ids=["tokens", "one", "parts", "odd"])
def test_any_split_with_a_cache_is_the_whole(config, cuts):
    model = ours_from(reference(config), config)
    ids, cache = tokens(config.vocab_size, 75), model.new_cache()
    parts = [model(part, cache) for part in ids.split(cuts, dim=1)]
    assert max_error(torch.cat(parts, dim=1), model(ids)) <= 1e-4
    assert cache.length == 75
    assert cache.bytes() == 2 * (attention_bytes(config, 75) + delta_bytes(config))


def attention_bytes(config: Config, length: int) -> int:
    return config.layer_kinds.count(ATTENTION) * 2 * length * config.num_kv_heads * config.head_dim * 4


def delta_bytes(config: Config) -> int:
    """A matrix a value head and the inputs that the convolution looks back at, whatever the length."""
    keys, values = config.delta_key_heads * config.delta_key_dim, config.delta_value_heads * config.delta_value_dim
    one = values * config.delta_key_dim + (config.conv_width - 1) * (2 * keys + values)
    return config.layer_kinds.count(DELTA) * one * 4


@CONFIGS
def test_reading_with_a_cache_is_transformers_reading_with_its_own(config):
    theirs, ids = reference(config), tokens(config.vocab_size, 70)
    model = ours_from(theirs, config)
    first = theirs(ids[:, :66], use_cache=True)
    cache = model.new_cache()
    assert max_error(model(ids[:, :66], cache), first.logits) <= 1e-4
    for t in range(66, 70):
        step = theirs(ids[:, t : t + 1], **with_cache(theirs, first.past_key_values))
        assert max_error(model(ids[:, t : t + 1], cache), step.logits) <= 1e-4


@CONFIGS
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_in_a_padded_batch_each_row_gets_transformers_unpadded_answer(config, left):
    theirs = reference(config)
    model = ours_from(theirs, config)
    ids, mask = padded(config.vocab_size, [70, 5, 1], left)
    cache, more = model.new_cache(), (tokens(config.vocab_size, 6, batch=3) + 1) % config.vocab_size
    calls = [model(ids, cache, mask), *[model(part, cache) for part in more.split([1, 1, 3, 1], dim=1)]]
    for row in range(3):
        alone = theirs(torch.cat([ids[row][mask[row]], more[row]])[None]).logits[0]
        together = torch.cat([calls[0][row][mask[row]], *[call[row] for call in calls[1:]]])
        assert max_error(together, alone) <= 1e-4, row
    assert cache.lengths.tolist() == [76, 11, 7]


@CONFIGS
def test_generated_tokens_are_transformers(config):
    theirs, ids = reference(config), tokens(config.vocab_size, 70)
    expected = theirs.generate(ids, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(ids))
    assert torch.equal(generate(ours_from(theirs, config), ids, max_new_tokens=12), expected)


@CONFIGS
def test_a_second_call_may_be_padded_too(config):
    model = ours_from(reference(config), config)
    ids, mask = padded(config.vocab_size, [9, 4], left=True)
    cache = model.new_cache()
    calls = [model(ids, cache, mask), model(ids, cache, ~mask | mask.flip(1)), model(ids[:, :1], cache)]
    second = (~mask | mask.flip(1))[1]
    alone = model(torch.cat([ids[1][mask[1]], ids[1][second], ids[1, :1]])[None])[0]
    together = torch.cat([calls[0][1][mask[1]], calls[1][1][second], calls[2][1]])
    assert max_error(together, alone) <= 1e-4


@CONFIGS
def test_a_row_does_not_depend_on_its_neighbours(config):
    model, ids = ours_from(reference(config), config), tokens(config.vocab_size, 40, batch=3)
    for row in range(3):
        assert max_error(model(ids)[row], model(ids[row : row + 1])[0]) <= 1e-5


@CONFIGS
def test_no_position_sees_a_later_one(config):
    model, ids = ours_from(reference(config), config), tokens(config.vocab_size, 70)
    rows = arrange(ids, None, None)
    places = rows.positions.expand(3, -1, -1)
    leak = causality_probe(lambda x: model.decode(x, places, rows), model.embedding(ids), 66)
    assert leak <= 1e-5  # the system of a chunk is solved in blocks, and another order rounds otherwise


@CONFIGS
def test_places_of_three_axes_are_transformers(config):
    theirs, ids = reference(config), tokens(config.vocab_size, 40)
    model, rows = ours_from(theirs, config), arrange(ids, None, None)
    places = torch.randint(50, (3, 2, 40), generator=torch.Generator().manual_seed(2))
    expected = theirs(ids, position_ids=torch.cat([rows.positions[None], places])).logits
    assert max_error(model.decode(model.embedding(ids), places, rows), expected) <= 1e-4
    assert max_error(model(ids), expected) > 0.01


def test_the_published_frequencies_are_taken_in_turn():
    axes = axis_of(32, (11, 11, 10))
    assert axes[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert [axes.eq(axis).sum().item() for axis in range(3)] == [11, 11, 10]
    assert axis_of(8, (6, 1, 1)).tolist() == [0, 1, 2, 0, 0, 0, 0, 0]


def test_for_text_three_axes_are_one():
    positions, radians = torch.arange(9).expand(2, -1), frequencies(12, 1e4)
    three = angles_of_axes(positions.expand(3, -1, -1), radians, (2, 2, 2))
    for ours, plain in zip(three, angles(positions, radians), strict=True):
        assert torch.equal(ours, plain)


@CONFIGS
def test_gradients_are_transformers(config):
    theirs, ids = reference(config), tokens(config.vocab_size, 66)
    model = ours_from(theirs, config)
    with torch.enable_grad():
        for logits in (model(ids), theirs(ids).logits):
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    expected = unfused({name: weight.grad for name, weight in theirs.named_parameters()})
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert_close(weight.grad, expected[published_name(name)], 1e-4, name)


@CONFIGS
def test_bfloat16_is_as_near_to_float32_as_transformers_is(config):
    theirs, ids = reference(config), tokens(config.vocab_size, 40, batch=4)
    model = ours_from(theirs, config)
    exact, ours = model(ids), model.bfloat16()(ids)
    assert ours.dtype == torch.bfloat16
    assert relative_rms(ours, exact) < 1.5 * relative_rms(theirs.bfloat16()(ids).logits, exact) < 0.15


@pytest.mark.parametrize(
    ("part", "value"), [("attention.key_norm.weight", 0.0), ("delta.decay_bias", 1.0), ("attention_norm.weight", 0.0)]
)
def test_leaving_out_a_vector_is_seen(part, value):
    theirs, ids = reference(DENSE), tokens(DENSE.vocab_size, 40)
    model = ours_from(theirs, DENSE)
    next(w for name, w in model.named_parameters() if name.endswith(part)).fill_(value)
    assert max_error(model(ids), theirs(ids).logits) > 1e-3


@CONFIGS
def test_names_map_one_to_one_onto_transformers(config):
    theirs, model = unfused(reference(config).state_dict()), Qwen3_5(config)
    ours = [published_name(name) for name in model.state_dict()]
    assert len(set(ours)) == len(ours)
    assert set(ours) == set(theirs) - ({"lm_head.weight"} if config.tied else set())


@pytest.mark.parametrize("name", ["qwen3_5-0.8b", "qwen3_5-35b-a3b", "qwen3_5-397b-a17b"])
def test_a_model_of_published_size_has_transformers_shapes(name):
    text = plan.published(name)["text_config"]
    model, sizes = KINDS["num_experts" in text]
    config = sizes(**{key: value for key, value in text.items() if key != "model_type"})
    with torch.device("meta"):
        theirs, ours = unfused(model(config).state_dict()), Qwen3_5(from_hf(config.to_dict())).state_dict()
    assert config.tie_word_embeddings or "lm_head.weight" in {published_name(name) for name in ours}
    for name, weight in ours.items():
        assert weight.shape == theirs[published_name(name)].shape, name


def test_every_name_of_the_table_is_a_parameter_of_some_model():
    patterns = {re.sub(r"\d+", "{n}", name) for config in ALL.values() for name in Qwen3_5(config).state_dict()}
    assert patterns == set(NAMES)


def test_a_vision_checkpoint_has_another_prefix_and_the_same_head():
    table = names("model.language_model.")
    assert published_name("blocks.3.delta.conv", table) == "model.language_model.layers.3.linear_attn.conv1d.weight"
    assert published_name("head.weight", table) == "lm_head.weight"
    assert published_name("blocks.3.delta.conv") == "model.layers.3.linear_attn.conv1d.weight"


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match=r"no parameter 'blocks.0.mlp.bias'"):
        published_name("blocks.0.mlp.bias")


@CONFIGS
def test_the_published_config_is_read_as_written_by_transformers(config):
    assert from_hf(reference(config).config.to_dict()) == config


def test_a_config_with_an_interval_has_attention_at_every_fourth():
    text = published(replace(DENSE, num_blocks=9, layer_kinds=(DELTA,) * 9))
    del text["layer_types"]
    assert from_hf({**text, "full_attention_interval": 4}).layer_kinds == (*(DELTA, DELTA, DELTA, ATTENTION) * 2, DELTA)


def test_what_transformers_lets_a_config_leave_out_has_its_defaults():
    text = published(DENSE)
    text["rope_parameters"] = {"rope_theta": 1e7}
    assert from_hf(text) == replace(DENSE, rotary_share=0.25, sections=(11, 11, 10))


ROTARY = published(DENSE)["rope_parameters"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"intermediate_size": None}, "lacks intermediate_size"),
        ({"num_experts": 4}, "lacks num_experts_per_tok, moe_intermediate_size, shared_expert_intermediate_size"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'; this Qwen3.5 has only 'silu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"attn_output_gate": False}, "attn_output_gate=False"),
        ({"mlp_only_layers": [1]}, r"mlp_only_layers=\[1\]"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_type='yarn'"),
        ({"rope_parameters": {"mrope_interleaved": False, "rope_theta": 1e4}}, "mrope_interleaved=False"),
        ({"rope_parameters": {}}, "lacks rope_theta"),
        ({"layer_types": None}, "lacks layer_types"),
        ({"layer_types": [ATTENTION]}, "4 of 'linear_attention' and 'full_attention' are needed"),
        ({"layer_types": [ATTENTION] * 3 + ["sliding_attention"]}, "sliding_attention"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 key heads evenly"),
        ({"linear_num_key_heads": 3}, "4 heads cannot share 3 key heads evenly"),
        (
            {
                "num_experts": 2,
                "num_experts_per_tok": 3,
                "moe_intermediate_size": 4,
                "shared_expert_intermediate_size": 4,
            },
            "3 experts per token cannot be chosen out of 2",
        ),
        ({"rope_parameters": {**ROTARY, "partial_rotary_factor": 0.2}}, "positions turn 3 of 16 coordinates"),
        ({"rope_parameters": {**ROTARY, "partial_rotary_factor": 1.5}}, "positions turn 24 of 16 coordinates"),
        ({"rope_parameters": {**ROTARY, "mrope_section": [2, 2]}}, r"in sections \[2, 2\]"),
        ({"intermediate_size": 0}, "mlp width 0 and 0 experts: exactly one"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_hf({**published(DENSE), **changes})


def test_more_experts_a_token_than_there_are_is_refused():
    with pytest.raises(ValueError, match="4 experts per token cannot be chosen out of 3"):
        replace(FEW, experts_per_token=4)
