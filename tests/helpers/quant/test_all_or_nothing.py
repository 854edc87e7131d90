"""What refuses, or is stopped half-way, leaves the model, torch and the folder exactly as they were."""

import copy
import json
import logging
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from course.parity import runs
from course.parity.configs import CONFIGS
from helpers.checkpoints import load
from helpers.checkpoints.quantised import load_quantised, save_quantised
from helpers.compare import randn
from helpers.layers.mlp import SwiGLU
from helpers.layers.norm import RMSNorm, ZeroCentredNorm
from helpers.models.configs import qwen3
from helpers.models.qwen3 import Qwen3
from helpers.quant import audit
from helpers.quant.backends import DYNAMIC, stored_as
from helpers.quant.cache import Rule, packed_cache
from helpers.quant.formats.integers import grid_of
from helpers.quant.formats.named import FORMATS, format_of
from helpers.quant.linear import Packed, packing
from helpers.quant.methods.awq import fold
from helpers.quant.methods.calibrate import calibrate, to_nearest, with_awq, with_gptq
from helpers.quant.methods.qat import Width, rounding
from helpers.quant.model import quantise
from helpers.quant.parts import layers_of, weights_of

FOUR_BITS = partial(grid_of, bits=4, group=8, symmetric=False)
HUGE = [1e38, -3e38, float("nan"), float("inf"), -float("inf")]


def state(model: nn.Module) -> dict:
    """All that an operation could leave behind, in the order in which it lies there."""
    tensors = [(name, id(t), t.detach().clone()) for name, t in [*model.named_parameters(), *model.named_buffers()]]
    modules = [(name, type(m), m.training, len(m._forward_pre_hooks)) for name, m in model.named_modules()]
    return {
        "tensors": tensors,
        "learns": [weight.requires_grad for weight in model.parameters()],
        "modules": modules,
        "torch": (torch.is_grad_enabled(), torch.get_num_threads(), logging.root.manager.disable),
        "random": torch.get_rng_state(),
    }


def same(before: dict, after: dict) -> bool:
    pairs = zip(before["tensors"], after["tensors"], strict=True)
    equal = all(a[:2] == b[:2] and torch.equal(_bits(a[2]), _bits(b[2])) for a, b in pairs)
    rest = all(before[part] == after[part] for part in ("learns", "modules", "torch"))
    return equal and rest and torch.equal(before["random"], after["random"])


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """NaN is not equal to itself, its bytes are."""
    return tensor.reshape(-1).view(torch.uint8)


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(seed)
    sizes = dict(vocab_size=128, width=128, num_blocks=3, num_heads=2, num_kv_heads=1, head_dim=64, mlp_width=128)
    return Qwen3(qwen3.Config(**sizes)).eval().to(dtype)


def spoil(layer: nn.Module, number: float) -> None:
    with torch.no_grad():
        weight = weights_of(layer)[-1]
        weight[(-1,) * weight.dim()] = number


IDS = torch.randint(128, (2, 24), generator=torch.Generator().manual_seed(0))


# quantise.


@pytest.mark.parametrize("number", HUGE)
@pytest.mark.parametrize("name", [*FORMATS, DYNAMIC])
def test_a_number_in_the_last_layer_that_no_format_stores_is_found_before_the_first_is_packed(name, number):
    model = small()
    at, layer = list(layers_of(model))[-1]
    spoil(layer, number)
    before = state(model)
    with pytest.raises(ValueError, match=f"^{at}: ") as refusal:
        quantise(model, name, keep=[])
    assert "\n" not in str(refusal.value)
    assert same(before, state(model))


@pytest.mark.parametrize("name", [*FORMATS, DYNAMIC])
def test_half_of_what_float16_holds_is_packed_and_comes_back_finite_and_more_is_refused(name):
    model = small(dtype=torch.float16)
    layer = list(layers_of(model))[-1][1]
    spoil(layer, 40000.0)
    before = state(model)
    with pytest.raises(ValueError, match=r"is 4e\+04, and torch.float16 is packed up to 3.28e\+04"):
        quantise(model, name, keep=[])
    assert same(before, state(model))
    for n, (_, layer) in enumerate(layers_of(model)):
        with torch.no_grad():
            layer.weight.div_(layer.weight.abs().max()).mul_(32752 if n % 2 else -32752)
    quantise(model, name, keep=[])
    packed = [module for module in model.modules() if isinstance(module, Packed)]
    assert all(module.decode(torch.float16).isfinite().all() for module in packed)


@pytest.mark.parametrize("family", CONFIGS)
def test_in_every_family_each_layer_is_looked_at_before_one_is_packed(tmp_path, family):
    runs.save_random(family, tmp_path)
    model = load(tmp_path)
    count = len(list(layers_of(model)))
    for n in (0, count // 2, count - 1):
        spoiled = copy.deepcopy(model)
        at, layer = list(layers_of(spoiled))[n]
        spoil(layer, 2e37)
        before = state(spoiled)
        with pytest.raises(ValueError, match=f"^{at}: "):
            quantise(spoiled, "int8", keep=[])
        assert same(before, state(spoiled))


@pytest.mark.parametrize(
    "asked",
    [
        dict(name="int3"),
        dict(name="int8", keep=["blocks.1.mlp.dwon"]),
        dict(name="int8", keep="head"),
        dict(name="int8-group", keep=["dense FFN", "attention", "embedding", "head"]),
    ],
)
def test_names_that_match_nothing_leave_the_model_as_it_was(asked):
    model = small()
    before = state(model)
    with pytest.raises(ValueError, match=r"there is no|is a list|nothing is left"):
        quantise(model, **asked)
    assert same(before, state(model))


def test_each_plain_weight_is_let_go_as_soon_as_its_packed_one_is_there(monkeypatch):
    """Else the plain and the packed model would be in memory together."""
    model = small()
    weights = [weakref.ref(weight) for _, layer in layers_of(model) for weight in weights_of(layer)]
    alive = []

    def counted(*given):
        alive.append(sum(weight() is not None for weight in weights))
        return packing(*given)

    monkeypatch.setattr("helpers.quant.model.packing", counted)
    quantise(model, "int8", keep=[])
    assert alive == list(range(len(weights), 0, -1))


def test_packed_layers_are_in_the_mode_of_the_plain_ones():
    model = small()
    quantise(model, "int8", keep=[])
    assert not any(module.training for module in model.modules())


# calibrate.


def stopping(method, at: int, error: BaseException):
    """A method that fails at its ``at``-th call."""
    calls = []

    def run(*given):
        calls.append(1)
        if len(calls) == at:
            raise error
        return method(*given)

    return run


@pytest.mark.parametrize("method", [to_nearest, with_gptq, with_awq])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_calibration_that_is_stopped_in_a_later_block_takes_everything_back(method, error, dtype):
    model = small(dtype=dtype).train()
    before = state(model)
    with pytest.raises(type(error)):
        calibrate(model, IDS, stopping(method, 7, error), FOUR_BITS)
    assert same(before, state(model))
    calibrate(model, IDS, method, FOUR_BITS)
    assert not same(before, state(model))


@pytest.mark.parametrize("number", [*HUGE, 1e30])
@pytest.mark.parametrize("method", [to_nearest, with_gptq, with_awq])
def test_a_weight_whose_squares_leave_float32_is_named_and_nothing_is_rounded(method, number):
    model = small()
    spoil(model.blocks[2].mlp.down, number)
    before = state(model)
    with pytest.raises(ValueError, match=r"^blocks\.2\.mlp\.down: ") as refusal:
        calibrate(model, IDS, method, FOUR_BITS)
    assert "\n" not in str(refusal.value)
    assert same(before, state(model))


@pytest.mark.parametrize("method", [to_nearest, with_gptq, with_awq])
def test_inputs_whose_squares_leave_float32_are_refused_and_nothing_is_rounded(method):
    model = small()
    with torch.no_grad():
        model.blocks[1].mlp_norm.weight.mul_(1e25)
    before = state(model)
    with pytest.raises(ValueError, match=r"blocks\.1\.mlp\.gate.*inputs up to .*squares are no numbers of float32"):
        calibrate(model, IDS, method, FOUR_BITS)
    assert same(before, state(model))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(keep=["rooter"]), r"keep=\['rooter'\]: neither a part"),
        (dict(keep="mlp"), r"keep is a list of words, such as \['mlp'\]"),
        (dict(make_grid=partial(grid_of, bits=9)), "9 bits"),
        (
            dict(make_grid=partial(grid_of, bits=4, scale_dtype=torch.float16)),
            "blocks.2.mlp.down: 7 steps of a scale of ",
        ),
    ],
)
def test_what_a_calibration_refuses_leaves_the_model_as_it_was(given, words):
    model = small()
    spoil(model.blocks[2].mlp.down, 1e6)
    before = state(model)
    with pytest.raises(ValueError, match=words):
        calibrate(model, IDS, to_nearest, **{"make_grid": FOUR_BITS, **given})
    assert same(before, state(model))


def test_a_layer_that_is_zero_or_never_fed_is_rounded_by_awq_and_not_off():
    model = small()
    with torch.no_grad():
        model.blocks[0].mlp.gate.weight.zero_()  # so down is fed zeros
    report = {row.name: row for row in calibrate(model, IDS, with_awq, FOUR_BITS)}
    assert report["blocks.0.mlp.gate"].error == report["blocks.0.mlp.down"].error == 0
    assert all(weight.isfinite().all() for weight in model.parameters())


# Folding, training with rounded weights, caches.


@pytest.mark.parametrize(
    ("scale", "words"),
    [
        (torch.ones(12), "12"),
        (torch.zeros(16), "out of the range"),
        (torch.full((16,), float("nan")), "out of the range"),
        (torch.full((16,), 1e38), "out of the range"),
    ],
)
@pytest.mark.parametrize("kind", [RMSNorm, ZeroCentredNorm])
def test_a_scale_that_does_not_fit_is_not_folded_into_any_layer(kind, scale, words):
    model = nn.ModuleList([kind(16, 1e-6), nn.Linear(16, 4, bias=False), nn.Linear(16, 3)])
    with torch.no_grad():
        model[2].weight[0, 0] = 1e5
    before = state(model)
    with pytest.raises(ValueError, match=words):
        fold(model[0], model[1:], scale)
    assert same(before, state(model))


def test_a_packed_layer_is_not_stretched_in_a_copy_that_nobody_reads():
    model = SwiGLU(64, 64)
    quantised = nn.ModuleList([model.up, packing("int8")("packed", model.down.weight)])
    before = state(quantised)
    with pytest.raises(ValueError, match="is no linear layer with 64 columns"):
        fold(quantised[0], quantised[1:], torch.full((64,), 2.0))
    assert same(before, state(quantised))


@pytest.mark.parametrize(
    ("names", "width", "words"),
    [
        (["blocks.0.mlp.up.weight", "blocks.0.mlp_norm.weight"], Width(4), r"mlp_norm.weight: has the shape \[128\]"),
        (["blocks.0.mlp.up.weight", "blocks.2.mlp.down.weight"], Width(4), "blocks.2.mlp.down.weight: 1 of"),
        (["blocks.0.mlp.up.weight"], Width(4, 48), "groups of 48"),
        (["blocks.0.mlp.up.weight"], Width(1), "1 bits"),
        (["blocks.0.mlp.up.weight", "blocks.0.mlp.top.weight"], Width(4), "blocks.0.mlp.top.weight given"),
    ],
)
def test_a_weight_that_cannot_be_rounded_leaves_all_of_them_plain_and_learning(names, width, words):
    model = small()
    spoil(model.blocks[2].mlp.down, float("nan"))
    model.embedding.weight.requires_grad_(False)
    before = state(model)
    with pytest.raises(ValueError, match=words), rounding(model, names, width):
        pass
    assert same(before, state(model))


def test_a_training_that_runs_away_leaves_plain_weights_and_the_error_that_it_ended_with():
    model = small()
    names = ["blocks.0.mlp.up.weight", "blocks.1.mlp.up.weight"]

    def run_away():
        with rounding(model, [*names, names[0]], Width(4)) as learning, torch.no_grad():
            learning[0].fill_(float("nan"))
            model(IDS)

    with pytest.raises(ValueError, match="steps of a scale of nan"):
        run_away()
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert all(weight.requires_grad for weight in model.parameters())
    assert model.blocks[0].mlp.up.weight.isnan().all()


def test_a_cache_with_one_name_that_it_does_not_keep_stays_unpacked():
    cache = small().new_cache()
    before = [dict(vars(block)) for block in cache.blocks]
    with pytest.raises(ValueError, match="keeps latent; keys, values are kept"):
        packed_cache(cache, {"keys": Rule(4), "latent": Rule(4)})
    assert [vars(block) for block in cache.blocks] == before


@pytest.mark.parametrize("along", ["token", "channel"])
@pytest.mark.parametrize("number", HUGE[1:])
def test_numbers_that_no_cache_stores_leave_it_as_it_was(along, number):
    slots = packed_cache(small().new_cache(), {"keys": Rule(4, along, 4)}).blocks[0].keys
    kept = slots.write(randn(1, 4, 2, 8, seed=0), torch.arange(4)[None]).clone()
    wrong = randn(1, 4, 2, 8, seed=1)
    wrong[0, 2], wrong[0, 2, :, ::2] = number, -number  # far apart in each group, along both axes
    wrong[0, 3] = -wrong[0, 2]
    size = slots.bytes()
    with pytest.raises(ValueError, match="steps of a scale of"):
        slots.write(wrong, torch.arange(4, 8)[None])
    assert (slots.length, slots.bytes()) == (4, size)
    again = slots.write(randn(1, 4, 2, 8, seed=2), torch.arange(4, 8)[None])
    assert torch.equal(again[:, :4], kept)


# Files, and what is set in torch and Python.


def test_a_save_that_fails_half_way_leaves_the_old_files_and_no_others(tmp_path, monkeypatch):
    model = load("zoo:tiny-qwen3")
    quantise(model, "int8")
    save_quantised(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_given, **_named):
        raise OSError("no space left")

    monkeypatch.setattr(json, "dumps", full)
    with pytest.raises(ValueError, match="no space left"):
        save_quantised(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_model_of_which_only_experts_are_packed_is_saved_and_opened_again(tmp_path):
    model = load("zoo:tiny-qwen3_5-moe")
    parts = ["attention", "delta", "shared expert", "dense FFN", "router", "head", "embedding"]
    quantise(model, "int8", keep=parts)
    save_quantised(model, tmp_path)
    ids = torch.arange(9)[None]
    with torch.no_grad():
        assert torch.equal(load_quantised(tmp_path)(ids), model(ids))


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_log_messages_are_kept_back_as_before_when_it_was_quiet(level):
    def stopped():
        with audit._quiet():
            assert logging.root.manager.disable == max(level, logging.WARNING)
            raise RuntimeError

    logging.disable(level)
    try:
        with pytest.raises(RuntimeError):
            stopped()
        assert logging.root.manager.disable == level
    finally:
        logging.disable(logging.NOTSET)


def test_every_format_says_which_widths_it_takes():
    assert {format_of(stored_as(name)).divides for name in [*FORMATS, DYNAMIC]} == {1, 16, 32, 64, 128}
