"""Our DeepSeek-V3 and transformers' on the same random weights: every part, the logits, the cache, and the drafter."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.random_models import padded, placed, tokens
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.modeling_layers import MtpModel

import helpers.facts
from helpers.compare import assert_close, causality_probe, max_error, tolerance
from helpers.layers.rope import Yarn
from helpers.models.configs.deepseek_v3 import CONFIG_NAMES, COPIES, NAMES, Config, from_hf, published_name
from helpers.models.deepseek_v3 import DeepSeekV3

SMALL = Config(
    vocab_size=97, width=32, num_blocks=3, num_dense_blocks=1, num_heads=4, query_rank=12, latent_width=16, nope_dim=8,
    rotary_dim=4, value_dim=8, mlp_width=40, num_experts=8, experts_per_token=2, expert_width=10, num_shared=1,
    num_groups=4, groups_per_token=2, routed_scale=2.5, context=2560, num_drafters=1,
    yarn=Yarn(40.0, 64, mscale=1.0, strength=1.0),
)  # fmt: skip
ODD = Config(
    vocab_size=61, width=27, num_blocks=2, num_dense_blocks=0, num_heads=7, query_rank=None, latent_width=9, nope_dim=5,
    rotary_dim=6, value_dim=11, mlp_width=31, num_experts=5, experts_per_token=3, expert_width=7, num_shared=2,
    normalised=False, norm_epsilon=1e-5, rope_theta=5e4, tied=True, num_drafters=1,
)  # fmt: skip
DENSE = replace(
    SMALL, num_blocks=2, num_dense_blocks=2, num_drafters=0, yarn=None, num_heads=1, num_groups=1, groups_per_token=1
)
CONFIGS = pytest.mark.parametrize("config", [SMALL, ODD, DENSE], ids=["grouped, yarn", "odd and tied", "dense"])


def published(config: Config) -> dict:
    sizes = {CONFIG_NAMES[ours]: value for ours, value in vars(config).items()}
    rope = config.yarn.to_hf() if config.yarn else {"rope_type": "default"}
    heads = {"num_key_value_heads": config.num_heads}
    return {**sizes, **heads, "rope_parameters": {**rope, "rope_theta": config.rope_theta}}


def randomised(module: torch.nn.Module, seed: int = 0) -> None:
    """Every number random, buffers too: a norm's weight of one, a bias of zero, would hide that it is not used."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        around = 1.0 if "norm" in name else 0.0
        tensor.copy_(around + 0.3 * torch.randn(tensor.shape, generator=generator))


made: dict[Config, tuple] = {}  # transformers' model and drafter of each config; no test changes them


def reference(config: Config) -> DeepseekV3ForCausalLM:
    if config not in made:
        eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
        theirs = DeepseekV3ForCausalLM._from_config(DeepseekV3Config(**published(config)), **eager).eval()
        randomised(theirs)
        drafter = None
        if config.num_drafters:
            drafter = MtpModel(theirs, 1).eval()
            randomised(drafter.layers, seed=1)
        made[config] = theirs, drafter
    return made[config][0]


def published_weights(theirs: DeepseekV3ForCausalLM, drafter: MtpModel | None) -> dict[str, torch.Tensor]:
    """The tensors as a published checkpoint names them, but for the experts, which stay stacked: {e} in the name."""
    weights = dict(theirs.state_dict())
    for name, tensor in (drafter.layers.state_dict() if drafter else {}).items():
        name = name.removeprefix("0.").replace("mtp_block.", "").replace("post_norm", "shared_head.norm")
        weights[f"model.layers.{len(theirs.model.layers)}.{name}"] = tensor
    for name in [name for name in weights if name.endswith("gate_up_proj")]:
        before = name.removesuffix("gate_up_proj")
        weights[f"{before}{{e}}.{{gate_proj,up_proj}}.weight"] = weights.pop(name)
        weights[f"{before}{{e}}.down_proj.weight"] = weights.pop(f"{before}down_proj")
    return weights


def ours_from(config: Config) -> DeepSeekV3:
    weights = published_weights(reference(config), made[config][1])
    model = DeepSeekV3(config).eval()
    model.load_state_dict({name: weights[published_name(name)] for name in model.state_dict()})
    return model


def allowed(config: Config, length: int) -> float:
    return tolerance(torch.float32, config.num_blocks * 4 * (config.width + config.mlp_width + length))


pytestmark = pytest.mark.usefixtures("no_gradients")


def calls(theirs: DeepseekV3ForCausalLM, ids: torch.Tensor, part: str) -> list[tuple]:
    """(input, output) of this part of every layer, as transformers runs."""
    seen, hooks = [], []
    for layer in theirs.model.layers:
        module = layer.get_submodule(part) if part else layer
        hook = lambda _m, args, kwargs, out: seen.append((args[0] if args else kwargs["hidden_states"], out))  # noqa: E731
        hooks.append(module.register_forward_hook(hook, with_kwargs=True))
    theirs(ids)
    for hook in hooks:
        hook.remove()
    return [(x, out[0] if isinstance(out, tuple) and part == "self_attn" else out) for x, out in seen]


@CONFIGS
def test_every_part_of_every_block_is_transformers(config):
    theirs, model, ids = reference(config), ours_from(config), tokens(config.vocab_size, 13)
    for n, block in enumerate(model.blocks):
        x, wanted = calls(theirs, ids, "self_attn")[n]
        assert_close(block.attention(x, *placed(model, x)), wanted, allowed(config, 13), f"attention {n}")
        x, wanted = calls(theirs, ids, "mlp")[n]
        assert_close(block.mlp(x), wanted, allowed(config, 13), f"feed-forward {n}")
        x, wanted = calls(theirs, ids, "")[n]
        assert_close(block(x, *placed(model, x)), wanted, allowed(config, 13), f"block {n}")


@pytest.mark.parametrize("config", [SMALL, ODD], ids=["grouped", "odd"])
def test_every_token_goes_to_the_experts_that_transformers_sends_it_to(config):
    theirs, model, ids = reference(config), ours_from(config), tokens(config.vocab_size, 33)
    compared = 0
    for n, layer in enumerate(theirs.model.layers):
        if n >= config.num_dense_blocks:
            x = calls(theirs, ids, "mlp")[n][0]
            indices, weights = (part.flatten(0, 1) for part in model.blocks[n].mlp.router(x))
            _, their_weights, their_indices = layer.mlp.gate(x)
            order = their_weights.argsort(dim=1), weights.argsort(dim=1)  # theirs are not sorted
            assert torch.equal(indices.gather(1, order[1]), their_indices.gather(1, order[0]))
            assert max_error(weights.gather(1, order[1]), their_weights.gather(1, order[0])) < 1e-5
            compared += 1
    assert compared == config.num_blocks - config.num_dense_blocks


@CONFIGS
@pytest.mark.parametrize("length", [1, 31, 33])
def test_logits_are_transformers(config, length):
    ids = tokens(config.vocab_size, length)
    wanted = reference(config)(ids).logits
    assert_close(ours_from(config)(ids), wanted, allowed(config, length), "logits")
    assert max_error(ours_from(config)(ids), wanted) < 1e-4


@CONFIGS
@pytest.mark.parametrize("cuts", [[1] * 19, [19], [7, 1, 1, 10], [18, 1]], ids=str)
def test_any_split_with_a_cache_is_the_whole(config, cuts):
    model = ours_from(config)
    ids, cache = tokens(config.vocab_size, 19), model.new_cache()
    parts = [model(part, cache) for part in ids.split(cuts, dim=1)]
    assert_close(torch.cat(parts, dim=1), model(ids), allowed(config, 19), "cached logits")
    assert cache.length == 19
    assert cache.bytes() == config.num_blocks * 2 * 19 * (config.latent_width + config.rotary_dim) * 4


@CONFIGS
@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_in_a_padded_batch_each_row_gets_the_answer_it_gets_alone(config, left):
    model = ours_from(config)
    ids, mask = padded(config.vocab_size, [9, 4, 1], left)
    cache, more = model.new_cache(), (tokens(config.vocab_size, 3, batch=3) + 1) % config.vocab_size
    first, then = model(ids, cache, mask), [model(more[:, t : t + 1], cache) for t in range(3)]
    for row in range(3):
        alone = model(torch.cat([ids[row][mask[row]], more[row]])[None])[0]
        together = torch.cat([first[row][mask[row]], *[step[row] for step in then]])
        assert_close(together, alone, allowed(config, 12), f"row {row}")
    assert cache.lengths.tolist() == [12, 7, 4]


def test_no_position_sees_a_later_one():
    model = ours_from(SMALL)
    assert (
        causality_probe(model, tokens(SMALL.vocab_size, 12), 5) < 1e-5
    )  # other rows beside it at its experts: other rounding
    assert causality_probe(ours_from(DENSE), tokens(DENSE.vocab_size, 12), 5) == 0


def test_float64_stays_float64_but_for_norms_and_angles():
    model, ids = ours_from(SMALL).double(), tokens(SMALL.vocab_size, 12)
    cache = model.new_cache()
    steps = [model(part, cache) for part in ids.split(1, dim=1)]
    assert max_error(torch.cat(steps, dim=1), model(ids)) < 1e-9


def test_the_wrong_scale_under_yarn_is_seen():
    model, ids = ours_from(SMALL), tokens(SMALL.vocab_size, 9)
    model.blocks[1].attention.scale = 12**-0.5
    with pytest.raises(AssertionError, match="logits"):
        assert_close(model(ids), reference(SMALL)(ids).logits, allowed(SMALL, 9), "logits")


def test_a_bias_that_is_not_loaded_is_seen():
    model, ids = ours_from(SMALL), tokens(SMALL.vocab_size, 33)
    model.blocks[1].mlp.router.bias.zero_()
    with pytest.raises(AssertionError, match="logits"):
        assert_close(model(ids), reference(SMALL)(ids).logits, allowed(SMALL, 33), "logits")


def test_every_gradient_is_transformers():
    theirs, model, ids = reference(SMALL), ours_from(SMALL), tokens(SMALL.vocab_size, 24)
    with torch.enable_grad():
        for run in (lambda: model(ids), lambda: theirs(ids).logits):
            logits = run()
            torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    gradients = DeepseekV3ForCausalLM._from_config(theirs.config)
    gradients.load_state_dict(
        {**theirs.state_dict(), **{name: weight.grad for name, weight in theirs.named_parameters()}}
    )
    wanted = published_weights(gradients, None)
    theirs.zero_grad(set_to_none=True)
    seen = 0
    for name, weight in model.named_parameters():
        if not name.startswith("drafters"):
            assert_close(weight.grad, wanted[published_name(name)], 1e-4, name)
            seen += 1
    assert seen == len(wanted) - 2  # the two routers' biases learn otherwise


def their_draft(config: Config, hidden: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
    drafter = made[config][1]
    positions = torch.arange(1, next_ids.shape[1] + 1)[None]
    drafted = drafter.forward_layer(0, hidden, positions, None, input_ids=next_ids)
    return drafter._project_to_logits(drafted)


DRAFTING = pytest.mark.parametrize("config", [SMALL, ODD], ids=["grouped, yarn", "odd and tied"])


@DRAFTING
@pytest.mark.parametrize("length", [2, 31])
def test_the_drafter_is_transformers_mtp_layer(config, length):
    theirs, model, ids = reference(config), ours_from(config), tokens(config.vocab_size, length)
    hidden = theirs(ids, output_hidden_states=True).hidden_states[-1][:, :-1]
    assert_close(model.read(ids)[:, :-1], hidden, allowed(config, length), "hidden")
    wanted = their_draft(config, hidden, ids[:, 1:])
    assert_close(model.draft(hidden, ids[:, 1:]), wanted, allowed(config, length), "drafted logits")
    swapped = their_draft(config, hidden, ids[:, :-1])
    assert max_error(swapped, wanted) > 0.1  # which token it is told matters


@DRAFTING
def test_the_drafter_with_a_cache_is_the_drafter_on_the_whole(config):
    model, ids = ours_from(config), tokens(config.vocab_size, 12)
    hidden, cache = model.read(ids), model.new_draft_cache()
    whole, next_ids = model.draft(hidden[:, :-1], ids[:, 1:]), ids[:, 1:]
    pairs = zip(hidden[:, :-1].split([6, 1, 4], dim=1), next_ids.split([6, 1, 4], dim=1), strict=True)
    steps = [model.draft(*pair, cache) for pair in pairs]
    assert_close(torch.cat(steps, dim=1), whole, allowed(config, 12), "drafted logits")
    assert cache.bytes() == 2 * 11 * (config.latent_width + config.rotary_dim) * 4


def test_what_a_draft_misses_teaches_the_drafter_and_the_model():
    model, ids = ours_from(SMALL), tokens(SMALL.vocab_size, 24)
    with torch.enable_grad():
        logits = model.draft(model.read(ids)[:, :-2], ids[:, 1:-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 2:].flatten()).backward()
    for name, weight in model.named_parameters():
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize("left", [True, False], ids=["left", "right"])
def test_the_drafter_reads_padded_rows_as_it_reads_each_alone(left):
    model = ours_from(SMALL)
    ids, mask = padded(SMALL.vocab_size, [8, 3, 1], left)
    hidden = torch.randn(3, 8, SMALL.width, generator=torch.Generator().manual_seed(3))
    together = model.draft(hidden, ids, model.new_draft_cache(), mask)
    for row in range(3):
        alone = model.draft(hidden[row][mask[row]][None], ids[row][mask[row]][None])[0]
        assert_close(together[row][mask[row]], alone, allowed(SMALL, 8), f"row {row}")


def greedy(model: DeepSeekV3, ids: torch.Tensor, count: int) -> list[int]:
    cache, newest, found = model.new_cache(), ids, []
    for _ in range(count):
        newest = model(newest, cache)[:, -1:].argmax(dim=-1)
        found.append(newest.item())
    return found


def greedy_with_drafts(model: DeepSeekV3, ids: torch.Tensor, count: int) -> tuple[list[int], list[bool]]:
    """Each call reads the newest token and a guess; a wrong guess is forgotten by setting the cache back."""
    cache, drafts, accepted = model.new_cache(), model.new_draft_cache(), []
    hidden = model.read(ids, cache)
    newest = model.logits(hidden[:, -1:]).argmax(dim=-1)
    found = [newest.item()]
    guess = model.draft(hidden, torch.cat([ids[:, 1:], newest], dim=1), drafts)[:, -1:].argmax(dim=-1)
    while len(found) < count:
        hidden = model.read(torch.cat([newest, guess], dim=1), cache)
        accepted.append(bool(guess == model.logits(hidden[:, :1]).argmax(dim=-1)))
        hidden = hidden[:, : 1 + accepted[-1]]
        cache.lengths = cache.lengths - int(not accepted[-1])
        sure = model.logits(hidden).argmax(dim=-1)
        found += sure[0].tolist()
        newest, guess = sure[:, -1:], model.draft(hidden, sure, drafts)[:, -1:].argmax(dim=-1)
    return found[:count], accepted


def test_drafting_gives_the_tokens_of_plain_greedy_decoding_in_fewer_calls():
    model = DeepSeekV3(replace(SMALL, vocab_size=4)).eval()  # so few tokens that random guesses are often right
    randomised(model)
    ids = torch.tensor([[2, 0, 3, 1, 1]])
    found, accepted = greedy_with_drafts(model, ids, 30)
    assert found == greedy(model, ids, 30)
    assert True in accepted
    assert False in accepted
    assert len(accepted) < 29


def test_in_bfloat16_every_part_keeps_its_type():
    model, ids = ours_from(SMALL).bfloat16(), tokens(SMALL.vocab_size, 9)
    hidden = model.read(ids, model.new_cache())
    for logits in (model.logits(hidden), model.draft(hidden[:, :-1], ids[:, 1:], model.new_draft_cache())):
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()


def test_a_model_without_a_drafter_says_so():
    model = ours_from(DENSE)
    with pytest.raises(ValueError, match="no drafter"):
        model.draft(torch.zeros(1, 2, 32), tokens(DENSE.vocab_size, 2, 1))
    assert not [name for name in model.state_dict() if "drafter" in name]


@CONFIGS
def test_names_map_one_to_one_onto_the_checkpoints(config):
    theirs, model = published_weights(reference(config), made[config][1]), DeepSeekV3(config)
    names = [published_name(name) for name in model.state_dict()]
    assert len(set(names)) == len(names)
    assert set(names) == set(theirs) - ({"lm_head.weight"} if config.tied else set())


def test_an_unknown_parameter_is_named():
    with pytest.raises(ValueError, match=r"no parameter 'blocks.0.mlp.bias'"):
        published_name("blocks.0.mlp.bias")
    assert published_name("blocks.12.mlp.experts.down") == "model.layers.12.mlp.experts.{e}.down_proj.weight"
    assert set(COPIES.values()) <= set(NAMES)
    assert published_name("drafters.61.join.weight") == "model.layers.61.eh_proj.weight"


@CONFIGS
def test_the_published_config_is_read_as_written_by_transformers(config):
    assert from_hf(reference(config).config.to_dict()) == config
    assert from_hf(json.loads(json.dumps(reference(config).config.to_diff_dict() | published(config)))) == config


def test_the_older_form_of_rope_is_read():
    old = {**published(SMALL), "rope_theta": 5e5, "rope_scaling": {**SMALL.yarn.to_hf(), "type": "yarn"}}
    del old["rope_parameters"], old["rope_scaling"]["rope_type"]
    assert from_hf(old) == replace(SMALL, rope_theta=5e5)


def test_the_published_sizes_are_671_billion_weights_and_70_kilobytes_a_token():
    facts = Path(helpers.facts.__file__).parent / "configs" / "deepseek_v3.json"
    sizes = json.loads(facts.read_text(encoding="utf-8"))["config"]
    rest = {"rms_norm_eps": 1e-6, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "rope_theta": 1e4}
    config = from_hf({**rest, **sizes})
    with torch.device("meta"):
        count = sum(weight.numel() for weight in DeepSeekV3(config).parameters())
    assert count == 671_026_404_352
    assert config.num_blocks * (config.latent_width + config.rotary_dim) * 2 == 70_272


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"kv_lora_rank": None, "n_group": None}, "lacks kv_lora_rank, n_group"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'; this DeepSeek-V3 has only 'silu'"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"rope_interleave": False}, "rope_interleave=False"),
        ({"scoring_func": "softmax"}, "scoring_func='softmax'"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2; this DeepSeek-V3 has only None or 4"),
        ({"num_nextn_predict_layers": 2}, "num_nextn_predict_layers is 2; 0 or 1"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "rope_type='linear'.* 'default' or 'yarn'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "lacks original_max_position_embeddings"),
        ({"n_group": 3}, "2 experts per token cannot come from 2 of 3 groups of 8 experts"),
    ],
)
def test_a_config_that_is_not_ours_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        from_hf({**published(SMALL), **changes})
