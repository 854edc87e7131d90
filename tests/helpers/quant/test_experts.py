"""Packed experts and routers: what the plain ones say whose weights are the decoded ones."""

import copy

import pytest
import torch

from helpers.compare import assert_close, max_error, randn, relative_rms, tolerance
from helpers.moe.experts import Experts
from helpers.moe.router import softmax_top_k
from helpers.moe.routers import RouterConfig, SigmoidRouter
from helpers.quant.backends import DYNAMIC, encoded_as
from helpers.quant.cpu import CPU
from helpers.quant.experts import QuantisedExperts
from helpers.quant.formats.named import FORMATS
from helpers.quant.linear import QuantisedLinear

D, F, E = 128, 64, 6
pytestmark = pytest.mark.usefixtures("no_gradients")


def experts(dtype=torch.float32, limit=None):
    torch.manual_seed(0)
    return Experts(E, D, F, limit).to(dtype)


def decoded(plain, name, wrap=False):
    """The same experts with the weights that the format leaves of them."""
    made = Experts(E, D, F, plain.limit).to(plain.down.dtype)
    for stack, found in zip((plain.gate, plain.up, plain.down), (made.gate, made.up, made.down), strict=True):
        for e in range(E):
            found[e] = encoded_as(stack[e], name, wrap).decode().view(found[e].shape)
    return made


def routing(tokens, choice=None):
    indices, weights = softmax_top_k(randn(tokens, E, seed=7), len(choice or [0, 1]))
    return (indices if choice is None else torch.tensor([choice] * tokens)), weights


@pytest.mark.parametrize("choice", [None, [3], [5, 0], [4, 2, 0, 5, 1, 3]])
@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize("limit", [None, 0.5])
def test_packed_experts_are_the_experts_of_the_decoded_weights(choice, tokens, limit):
    plain, x, chosen = experts(limit=limit), randn(tokens, D, seed=9), routing(tokens, choice)
    found = QuantisedExperts.of(plain, "int4", wrap=True)(x, *chosen)
    assert_close(found, decoded(plain, "int4", wrap=True)(x, *chosen), 1e-5, "int4")
    assert relative_rms(found, plain(x, *chosen)) > 1e-2


@pytest.mark.parametrize("name", [name for name in FORMATS if F % FORMATS[name].divides == 0])
def test_every_format_that_divides_packs_experts(name):
    plain, x, chosen = experts(), randn(4, D, seed=1), routing(4)
    assert_close(QuantisedExperts.of(plain, name)(x, *chosen), decoded(plain, name)(x, *chosen), 1e-5, name)


@pytest.mark.parametrize("name", [name for name in CPU if name != "int4-affine"])
@pytest.mark.parametrize("tokens", [1, 5])
def test_kernels_give_what_the_readable_way_gives(name, tokens):
    plain, x, chosen = experts(torch.bfloat16), randn(tokens, D, seed=2).bfloat16(), routing(tokens)
    fast, slow = QuantisedExperts.of(plain, name), QuantisedExperts.of(plain, name, ways={})
    taken = CPU[name].fits(encoded_as(plain.gate[0], name))  # a processor may lack the instructions of a kernel
    assert [packed.gate.way is CPU[name] for packed in (fast, slow)] == [taken, False]
    wanted = slow(x.float(), *chosen)
    noise = 3e-2 if name == DYNAMIC else 4 * tolerance(torch.bfloat16, 1)  # rounds its hidden numbers to INT8 again
    assert_close(fast(x, *chosen), wanted, noise, name)


def test_permuting_experts_with_their_weights_changes_nothing():
    plain, x, (indices, weights) = experts(), randn(5, D, seed=3), routing(5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = experts()
    for stack, found in zip((plain.gate, plain.up, plain.down), (moved.gate, moved.up, moved.down), strict=True):
        found.copy_(stack[order])
    wanted = QuantisedExperts.of(plain, "int8")(x, indices, weights)
    found = QuantisedExperts.of(moved, "int8")(x, order.argsort()[indices], weights)
    assert max_error(found, wanted) < 1e-6
    assert max_error(QuantisedExperts.of(moved, "int8")(x, indices, weights), wanted) > 1e-3


@pytest.mark.parametrize("wrong", [6, -1])
@pytest.mark.parametrize("tokens", [1, 2])
def test_an_expert_that_is_not_there_is_refused(tokens, wrong):
    packed = QuantisedExperts.of(experts(), "int8")
    with pytest.raises(ValueError, match=f"expert {wrong} was chosen; there are experts 0 to 5"):
        packed(randn(tokens, D, seed=0), torch.tensor([[0], [wrong]])[-tokens:], torch.ones(tokens, 1))


def packed_router(router, name):
    """A copy whose matrix is packed."""
    made = copy.deepcopy(router)
    made.logits = QuantisedLinear.of(router.logits, name)
    return made


def test_a_packed_router_chooses_by_its_decoded_weight():
    torch.manual_seed(0)
    router, x = SigmoidRouter(D, 16, RouterConfig(3, scale=2.5)), randn(2, 5, D, seed=4)
    router.bias.copy_(0.1 * randn(16, seed=5))
    packed = packed_router(router, "int4")
    router.logits.weight.copy_(encoded_as(router.logits.weight, "int4").decode())
    for found, wanted in zip(packed(x), router(x), strict=True):
        assert torch.equal(found, wanted)


def test_a_packed_router_of_a_bfloat16_model_scores_in_float32():
    router, x = SigmoidRouter(D, 16, RouterConfig(3)).bfloat16(), randn(5, D, seed=4).bfloat16()
    _, weights = packed_router(router, "int8")(x)
    assert weights.dtype == torch.float32
    router.logits.weight.copy_(encoded_as(router.logits.weight, "int8").decode())
    exact = x.float() @ packed_router(router, "int8").logits.packed.decode(torch.float32).T
    assert torch.equal(packed_router(router, "int8").logits(x.float()), exact)
