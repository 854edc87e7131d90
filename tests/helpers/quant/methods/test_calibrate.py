"""A model is rounded layer by layer, in the order of its work, each on what rounded ones give, in every family."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from helpers import zoo
from helpers.checkpoints import load
from helpers.compare import assert_close, kl, randn
from helpers.models.configs import qwen3
from helpers.models.qwen3 import Qwen3
from helpers.quant.formats.integers import from_codes, grid_of, round_to
from helpers.quant.methods.calibrate import calibrate, to_nearest, with_awq, with_gptq
from helpers.quant.methods.gptq import gptq
from helpers.quant.methods.input_statistics import Inputs, output_error

FOUR_BITS = partial(grid_of, bits=4, group=8, symmetric=False)
FAMILIES = ["tiny-qwen3", "tiny-qwen3_5", "tiny-qwen3_5-moe", "tiny-deepseek-v3", "tiny-glm5", "tiny-deepseek-v4"]


def small_qwen3(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    sizes = dict(vocab_size=50, width=16, num_blocks=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_width=24)
    return Qwen3(qwen3.Config(**sizes)).eval()


def ids(vocab: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, vocab, (4, 32), generator=torch.Generator().manual_seed(seed))


def test_layers_come_in_the_order_of_their_work_and_each_once():
    model = small_qwen3()
    names = [row.name for row in calibrate(model, ids(50), to_nearest, FOUR_BITS)]
    parts = [
        "attention.query",
        "attention.key",
        "attention.value",
        "attention.output",
        "mlp.gate",
        "mlp.up",
        "mlp.down",
    ]
    assert names == [f"blocks.{n}.{part}" for n in range(2) for part in parts]


def test_each_layer_is_rounded_on_what_the_rounded_layers_before_it_give():
    """The oracle: the last layer of the result, from the inputs that it really gets in the rounded model."""
    model, given = small_qwen3(), ids(50)
    weight = model.blocks[1].mlp.down.weight.detach().clone()
    before = seen_by(model, model.blocks[1].mlp.down, given)
    calibrate(model, given, with_gptq, FOUR_BITS)
    inputs = seen_by(model, model.blocks[1].mlp.down, given)
    assert_close(model.blocks[1].mlp.down.weight, with_gptq([weight], FOUR_BITS, inputs)[0], 1e-6, "last layer")
    assert (inputs.hessian - before.hessian).abs().max() > 1e-6 * before.hessian.max()


def seen_by(model: nn.Module, layer: nn.Linear, token_ids: torch.Tensor) -> Inputs:
    seen = []
    hook = layer.register_forward_pre_hook(lambda _layer, args: seen.append(args[0]))
    model(token_ids)
    hook.remove()
    return Inputs.of(seen[0])


def test_the_report_says_what_the_weights_really_do():
    model, given = small_qwen3(), ids(50)
    weight = model.blocks[0].attention.query.weight.detach().clone()
    inputs = seen_by(model, model.blocks[0].attention.query, given)
    row = calibrate(model, given, with_gptq, FOUR_BITS)[0]
    size, grid = output_error(weight, inputs).sum(), FOUR_BITS(weight)
    off = output_error(model.blocks[0].attention.query.weight.detach() - weight, inputs).sum() / size
    near = output_error(from_codes(round_to(weight, grid), grid) - weight, inputs).sum() / size
    assert row.error == pytest.approx(off.item(), rel=1e-4)
    assert row.nearest == pytest.approx(near.item(), rel=1e-4)
    assert 0 < row.error < row.nearest


def test_layers_that_read_the_same_input_are_rounded_as_each_alone():
    weights, inputs = [randn(rows, 16, seed=rows) for rows in (3, 1, 8)], Inputs.of(randn(60, 16, seed=1))
    alone = [from_codes(gptq(weight, FOUR_BITS(weight), inputs), FOUR_BITS(weight)) for weight in weights]
    for made, own in zip(with_gptq(weights, FOUR_BITS, inputs), alone, strict=True):
        assert_close(made, own, 1e-6, "values")


def test_every_weight_lies_on_its_grid_afterwards():
    model = small_qwen3()
    weight = model.blocks[0].mlp.up.weight.detach().clone()
    calibrate(model, ids(50), with_gptq, FOUR_BITS)
    made, grid = model.blocks[0].mlp.up.weight.detach(), FOUR_BITS(weight)
    assert torch.equal(from_codes(round_to(made, grid), grid), made)


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, with_gptq) for name in FAMILIES), ("tiny-qwen3", with_awq), ("tiny-qwen3_5", with_awq)],
)
def test_in_every_family_eight_bits_are_nearly_the_model_and_three_are_not(name, method):
    base = load(zoo.folder(name))
    given = ids(len(base.embedding.weight))[:2]
    apart = {}
    for bits in (8, 3):
        model = copy.deepcopy(base)
        make_grid = partial(grid_of, bits=bits, group=8, symmetric=False)
        report = calibrate(model, given, method, make_grid, keep=["router"])
        assert not any("router" in row.name for row in report)
        total, nearest = sum(row.error for row in report), sum(row.nearest for row in report)
        assert total <= nearest * (1 + 1e-4)
        apart[bits] = kl(base(given), model(given))
    assert apart[8] < 0.03  # a little changed, and some tokens go to other experts
    assert apart[8] < 0.2 * apart[3]


def test_kept_layers_head_and_embedding_stay_bit_for_bit_and_no_hook_stays():
    model = load(zoo.folder("tiny-qwen3_5"))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    calibrate(model, ids(500), to_nearest, partial(grid_of, bits=2, group=8), keep=["beta", "decay"])
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {
        f"{name}.weight"
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith("blocks.") and not name.endswith(("beta", "decay"))
    }
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_kept_part_stays_whatever_its_layers_are_called():
    model = small_qwen3()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    calibrate(model, ids(50), to_nearest, FOUR_BITS, keep=["dense FFN"])
    changed = {name.split(".")[2] for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {"attention"}


def test_bfloat16_weights_stay_bfloat16():
    model = small_qwen3().bfloat16()
    calibrate(model, ids(50), with_gptq, FOUR_BITS)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_a_width_that_groups_do_not_divide_is_refused_with_the_layers_name():
    with pytest.raises(ValueError, match=r"blocks\.0\.attention\.query.*groups of 7"):
        calibrate(small_qwen3(), ids(50), with_gptq, partial(grid_of, bits=4, group=7))


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match=r"Linear has no blocks.*\.text"):
        calibrate(nn.Linear(2, 2), ids(50), to_nearest, FOUR_BITS)
