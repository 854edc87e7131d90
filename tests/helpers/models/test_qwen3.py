"""Our Qwen3 and transformers' on the same random weights: every part, then the logits, then the cache."""

from dataclasses import replace

import pytest
import torch
from support.random_models import padded, placed, tokens, watched
from transformers import Qwen3Config, Qwen3ForCausalLM

from helpers.compare import assert_close, causality_probe, max_error, tolerance
from helpers.models.configs.qwen3 import CONFIG_NAMES, NAMES, Config, from_hf, published_name
from helpers.models.qwen3 import Qwen3

SMALL = Config(vocab_size=97, width=32, num_blocks=3, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=48)
ODD = Config(vocab_size=61, width=33, num_blocks=2, num_heads=6, num_kv_heads=2, head_dim=10, mlp_width=31, tied=False)
ONE = Config(101, 24, 1, 3, 1, 16, 40, norm_epsilon=1e-5, rope_theta=1e4)
CONFIGS = pytest.mark.parametrize("config", [SMALL, ODD, ONE], ids=["tied", "odd and untied", "one key head"])

pytestmark = pytest.mark.usefixtures("no_gradients")


def reference(config: Config) -> Qwen3ForCausalLM:
    """transformers' model with every number random: a norm's weight of one would hide that it is not used."""
    published = {CONFIG_NAMES[ours]: value for ours, value in vars(config).items()}
    theirs = Qwen3ForCausalLM._from_config(Qwen3Config(**published), attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.parameters():
            around = 1.0 if weight.dim() == 1 else 0.0
            weight.copy_(around + 0.3 * torch.randn(weight.shape, generator=generator))
    return theirs


def ours_from(theirs: Qwen3ForCausalLM, config: Config) -> Qwen3:
    model, weights = Qwen3(config).eval(), theirs.state_dict()
    model.load_state_dict({name: weights[published_name(name)] for name in model.state_dict()})
    return model


def allowed(config: Config, length: int) -> float:
    return tolerance(torch.float32, config.num_blocks * (config.width + config.mlp_width + length))


@CONFIGS
def test_every_part_of_every_block_is_transformers(config):
    theirs = reference(config)
    model, seen = ours_from(theirs, config), watched(theirs, tokens(config.vocab_size, 13))
    for n, block in enumerate(model.blocks):
        x, wanted = seen[f"{n}.self_attn"]
        assert_close(block.attention(x, *placed(model, x)), wanted, allowed(config, 13), f"attention {n}")
        x, wanted = seen[f"{n}.mlp"]
        assert_close(block.mlp(x), wanted, allowed(config, 13), f"feed-forward {n}")
        x, wanted = seen[f"{n}"]
        assert_close(block(x, *placed(model, x)), wanted, allowed(config, 13), f"block {n}")
    assert len(model.blocks) == len(theirs.model.layers)


@CONFIGS
@pytest.mark.parametrize("length", [1, 31, 33])
def test_logits_are_transformers(config, length):
    theirs = reference(config)
    ids = tokens(config.vocab_size, length)
    found, wanted = ours_from(theirs, config)(ids), theirs(ids).logits
    assert_close(found, wanted, allowed(config, length), "logits")
    assert max_error(found, wanted) <= 1e-4


@CONFIGS
def test_gradients_are_transformers(config):
    theirs, ids = reference(config), tokens(config.vocab_size, 24)
    model = ours_from(theirs, config)
    with torch.enable_grad():
        for logits in (model(ids), theirs(ids).logits):
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    wanted = {name: weight.grad for name, weight in theirs.named_parameters()}
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert_close(weight.grad, wanted[published_name(name)], 1e-4, name)


@CONFIGS
@pytest.mark.parametrize("cuts", [[1] * 19, [19], [7, 1, 1, 10], [18, 1]], ids=str)
def test_any_split_with_a_cache_is_the_whole(config, cuts):
    model = ours_from(reference(config), config)
    ids, cache = tokens(config.vocab_size, 19), model.new_cache()
    parts = [model(part, cache) for part in ids.split(cuts, dim=1)]
    assert_close(torch.cat(parts, dim=1), model(ids), allowed(config, 19), "cached logits")
    assert cache.length == 19
    assert cache.bytes() == 2 * config.num_blocks * 2 * 19 * config.num_kv_heads * config.head_dim * 4


@CONFIGS
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_in_a_padded_batch_each_row_gets_the_answer_it_gets_alone(config, left):
    model = ours_from(reference(config), config)
    ids, mask = padded(config.vocab_size, [9, 4, 1], left)
    cache, more = model.new_cache(), tokens(config.vocab_size, 3, batch=3) + 1
    more = more % config.vocab_size
    first, then = model(ids, cache, mask), [model(more[:, t : t + 1], cache) for t in range(3)]
    for row in range(3):
        alone = model(torch.cat([ids[row][mask[row]], more[row]])[None])[0]
        together = torch.cat([first[row][mask[row]], *[step[row] for step in then]])
        assert_close(together, alone, allowed(config, 12), f"row {row}")
    assert cache.lengths.tolist() == [12, 7, 4]


def test_no_position_sees_a_later_one():
    model = ours_from(reference(SMALL), SMALL)
    embedded = model.embedding(tokens(SMALL.vocab_size, 12))

    def blocks(x):
        for block in model.blocks:
            x = block(x, *placed(model, x))
        return x

    assert causality_probe(blocks, embedded, 5) == 0


def test_leaving_out_the_norm_of_the_keys_is_seen():
    theirs = reference(SMALL)
    model, ids = ours_from(theirs, SMALL), tokens(SMALL.vocab_size, 9)
    model.blocks[1].attention.key_norm.weight.fill_(1.0)
    with pytest.raises(AssertionError, match="logits"):
        assert_close(model(ids), theirs(ids).logits, allowed(SMALL, 9), "logits")


@CONFIGS
def test_names_map_one_to_one_onto_transformers(config):
    theirs, model = reference(config), Qwen3(config)
    names = [published_name(name) for name in model.state_dict()]
    assert len(set(names)) == len(names)
    assert set(names) == set(theirs.state_dict()) - ({"lm_head.weight"} if config.tied else set())


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match=r"no parameter 'blocks.0.mlp.bias'"):
        published_name("blocks.0.mlp.bias")
    assert published_name("blocks.12.mlp.up.weight") == "model.layers.12.mlp.up_proj.weight"
    assert "norm.weight" in NAMES


@CONFIGS
def test_the_published_config_is_read_as_written_by_transformers(config):
    published = reference(config).config.to_dict()
    assert from_hf(published) == config


def test_the_older_place_of_theta_is_read():
    published = {CONFIG_NAMES[ours]: value for ours, value in vars(SMALL).items()}
    assert from_hf({**published, "rope_scaling": None}) == SMALL
    moved = {**published, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}
    del moved["rope_theta"]
    assert from_hf(moved) == replace(SMALL, rope_theta=5e5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'; this Qwen3 has only 'silu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "rope_type='yarn'"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rope_type='linear'"),
        ({"num_key_value_heads": 3}, "4 query heads cannot share 3 key/value heads evenly"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes, message):
    published = {CONFIG_NAMES[ours]: value for ours, value in vars(SMALL).items()}
    with pytest.raises(ValueError, match=message):
        from_hf({**published, **changes})
