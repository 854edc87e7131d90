"""Grouped experts are the experts one after another, whoever chose whom."""

import pytest
import torch
from support.kernel_tests import WHERE, in_both, launches_of, near_float64, needs_triton, numbers, refused

from helpers.kernels.quant.dequantise import FORMATS
from helpers.kernels.quant.experts import cost, dispatched, packed_stacks, planned, unpacked
from helpers.moe import dispatch
from helpers.moe.dispatch import Stacks

pytestmark = needs_triton


def layer(tokens, width, hidden, experts, chosen, dtype=torch.float32, limit=None):
    """Tokens, whom they chose, with what weights, and the matrices."""
    indices = numbers(tokens, experts, seed=1).topk(chosen).indices
    sizes = (experts, 2 * hidden, width), (experts, width, hidden)
    stacks = Stacks(*(numbers(*size, seed=n, dtype=dtype) for n, size in enumerate(sizes, start=2)), limit)
    return numbers(tokens, width, seed=0, dtype=dtype), indices, numbers(tokens, chosen, seed=5, dtype=dtype), stacks


def exact(x, indices, weights, stacks):
    doubled = Stacks(stacks.gate_up.double(), stacks.down.double(), stacks.limit)
    return dispatch.by_loop(x.double(), indices, weights.double(), doubled)


def near(given, stacks_exact=None):
    answer, launched = launches_of(dispatched, *given)
    assert launched == {"_hidden": 1, "_made": 1}
    stacks = given[3] if stacks_exact is None else stacks_exact
    hidden, width = stacks.gate.shape[1:]
    near_float64(answer, exact(*given[:3], stacks), 4 * (hidden + width), "the layer")


@in_both
@pytest.mark.parametrize(
    ("tokens", "width", "hidden", "experts", "chosen"),
    [(1, 64, 64, 5, 2), (1, 32, 32, 3, 1), (13, 47, 33, 7, 3), (33, 48, 64, 16, 2), (150, 32, 32, 3, 2)],
)
def test_it_is_the_loop_over_experts(tokens, width, hidden, experts, chosen, dtype):
    near(layer(tokens, width, hidden, experts, chosen, dtype))


@pytest.mark.parametrize("tokens", [1, 20])
@pytest.mark.parametrize("name", FORMATS)
def test_packed_weights_are_the_decoded_ones(tokens, name):
    *given, stacks = layer(tokens, 64, 192, 4, 2)
    packed = packed_stacks(Stacks(stacks.gate_up.cpu(), stacks.down.cpu()), name)
    packed = packed._replace(
        **{k: {p: t.to(WHERE) for p, t in getattr(packed, k).items()} for k in ("gate", "up", "down")}
    )
    near((*given, packed), unpacked(packed, torch.float32))


def test_all_tokens_may_choose_one_expert_and_all_others_rest():
    x, _, weights, stacks = layer(40, 32, 32, 6, 1)
    near((x, torch.full((40, 1), 4, device=WHERE), weights, stacks))


def test_the_order_of_experts_and_of_tokens_means_nothing():
    x, indices, weights, stacks = layer(12, 32, 32, 6, 2)
    answer = dispatched(x, indices, weights, stacks)
    order = torch.tensor([3, 0, 5, 1, 4, 2], device=WHERE)
    renamed = Stacks(stacks.gate_up[order], stacks.down[order])
    near_float64(dispatched(x, order.argsort()[indices], weights, renamed), answer.double(), 128, "renamed experts")
    back = dispatched(x.flip(0), indices.flip(0), weights.flip(0), stacks).flip(0)
    near_float64(back, answer.double(), 128, "tokens backwards")


def test_matrices_may_lie_either_way_in_memory():
    """As ``Experts`` keeps them, and as files do."""
    *given, stacks = layer(5, 48, 40, 4, 2)
    along_width = stacks._replace(down=stacks.down.mT.contiguous().mT)
    assert along_width.down.stride() != stacks.down.stride()
    assert torch.equal(dispatched(*given, along_width), dispatched(*given, stacks))


def test_activations_are_limited_as_the_sibling_limits_them():
    *given, stacks = layer(5, 48, 40, 7, 3, limit=0.5)
    near((*given, stacks))
    free = exact(*given, stacks._replace(limit=None))
    assert (free - exact(*given, stacks)).abs().max() > 0.1


def test_no_tile_holds_pairs_of_two_experts_and_each_pair_is_in_one():
    indices = torch.tensor([[0, 3], [3, 4], [3, 0], [3, 4], [3, 0]])
    plan = planned(indices, 6)
    assert plan.first.tolist() == [0, 3, 3, 3, 8, 10, 10]
    assert [indices.flatten()[p] for p in plan.order.tolist()] == sorted(indices.flatten().tolist())
    assert plan.ends.tolist() == [1, 1, 1, 2, 3, 3]
    assert plan.tiles >= plan.ends[-1]


def test_where_a_gradient_is_wanted_the_readable_form_answers():
    x, indices, weights, stacks = layer(5, 32, 32, 4, 2)
    x.requires_grad_()
    answer, launched = launches_of(dispatched, x, indices, weights, stacks)
    answer.sum().backward()
    assert not launched
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("tokens", [1, 5])
def test_packed_weights_are_walked_one_by_one_where_no_kernel_runs(tokens):
    *given, stacks = layer(tokens, 64, 192, 4, 2)
    packed = packed_stacks(Stacks(stacks.gate_up.cpu(), stacks.down.cpu(), 0.5), "int8")
    x, indices, weights = (part.cpu() for part in given)
    answer, launched = launches_of(dispatched, x.requires_grad_(), indices, weights, packed)
    assert not launched
    wanted = exact(x, indices, weights, unpacked(packed, torch.float32))
    near_float64(answer, wanted, 4 * (64 + 192), "the layer")
    with pytest.raises(ValueError, match="expert 4 was chosen; there are experts 0 to 3"):
        dispatched(x, torch.full_like(indices, 4), weights, packed)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("wrong", [4, -1])
@pytest.mark.parametrize("name", [None, "int8"])
def test_an_expert_that_is_not_there_is_refused_as_by_the_sibling(tokens, wrong, name):
    x, indices, weights, stacks = layer(tokens, 32, 32, 4, 2)
    given = stacks if name is None else packed_stacks(stacks, name)
    indices[-1, 0] = wrong
    refused(dispatched, x, indices, weights, given, message=f"expert {wrong} was chosen; there are experts 0 to 3")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(x=torch.ones(5, 31)), r"gate is \(4, 32, 32\); with tokens of 31 it must be"),
        (dict(x=torch.ones(32, 5).T), "x has strides"),
        (dict(x=torch.ones(5, 32).half()), "one dtype"),
        (dict(x=torch.ones(0, 32)), "length 0"),
        (dict(indices=torch.full((5, 2), 4)), "expert 4 was chosen; there are experts 0 to 3"),
        (dict(indices=torch.full((5, 2), -1)), "expert -1 was chosen"),
        (dict(weights=torch.ones(5, 3)), r"indices \(5, 2\) and weights \(5, 3\)"),
    ],
)
def test_what_it_cannot_do_right_is_refused(change, message):
    given = dict(zip(("x", "indices", "weights", "stacks"), layer(5, 32, 32, 4, 2), strict=True)) | change
    refused(dispatched, *given.values(), message=message)


def test_stacks_in_pieces_are_refused():
    *given, stacks = layer(5, 32, 32, 4, 2)
    refused(
        dispatched,
        *given,
        stacks._replace(down=stacks.down.repeat(1, 2, 1)[:, ::2]),
        message="down is on .* with strides",
    )


def test_one_token_reads_the_experts_that_it_chose_and_four_bits_a_quarter_of_them():
    """perf.md's layer: 256 experts of 2048 x 512, of which a token reads eight."""
    work = cost(1, 2048, 512, 8, touched=8)
    assert work.bytes == pytest.approx(8 * 3 * 2048 * 512 * 2, rel=2e-3)
    assert work.flops == 2 * 8 * 3 * 2048 * 512
    assert work.bytes / cost(1, 2048, 512, 8, touched=8, bits=4.5).bytes == pytest.approx(16 / 4.5, rel=1e-2)
