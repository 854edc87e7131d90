"""Three dispatches of one answer: equal forwards and backwards, at the edges, and equal to transformers' own."""

import copy

import pytest
import torch
from transformers import GlmMoeDsaConfig, Qwen3_5MoeTextConfig
from transformers.models.glm_moe_dsa.modeling_glm_moe_dsa import GlmMoeDsaMoE
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeSparseMoeBlock

from helpers import zoo
from helpers.checkpoints import load
from helpers.compare import assert_close, max_error, relative_rms, tolerance
from helpers.layers.mlp import SwiGLU
from helpers.moe import dispatch
from helpers.moe.dispatch import (
    Stacks,
    block_by_block,
    by_gathering,
    by_loop,
    by_sorting,
    dispatched,
    grouped,
    single_token,
    sort_pairs,
)
from helpers.moe.experts import Experts, mixtures
from helpers.moe.moe_layer import MoE, sigmoid_moe
from helpers.moe.router import softmax_top_k
from helpers.moe.routers import RouterConfig, SoftmaxRouter

D, F, E = 16, 12, 6
CASES = {  # what each token chooses
    "any": None,
    "one expert gets all": [3],
    "most get nobody": [5, 0],
    "every expert": [4, 2, 0, 5, 1, 3],
}


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stacks(count=E, dtype=torch.float32, limit=None):
    sizes = [(count, 2 * F, D), (count, D, F)]
    return Stacks(*(randn(*size, seed=n, dtype=dtype).requires_grad_() for n, size in enumerate(sizes)), limit)


def routing(tokens, choice=None, count=E, dtype=torch.float32):
    indices, weights = softmax_top_k(randn(tokens, count, seed=7), len(choice or [0, 1]))
    return (indices if choice is None else torch.tensor([choice] * tokens)), weights.to(dtype)


def answer_and_gradients(way, x, indices, weights, given):
    """What comes out, and the gradients of the input, the routers' weights and the experts."""
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    out = way(x, indices, weights, given)
    asked = (x, weights, given.gate_up, given.down)
    found = torch.autograd.grad((out * randn(*out.shape, seed=5, dtype=out.dtype)).sum(), asked, allow_unused=True)
    return [out, *(torch.zeros_like(a) if g is None else g for a, g in zip(asked, found, strict=True))]


@pytest.mark.parametrize("limit", [None, 0.5])
@pytest.mark.parametrize("tokens", [1, 2, 33])
@pytest.mark.parametrize("choice", CASES.values(), ids=CASES)
def test_the_dispatches_give_one_answer_and_one_gradient(choice, tokens, limit):
    given, x, (indices, weights) = stacks(limit=limit), randn(tokens, D, seed=9), routing(tokens, choice)
    wanted = answer_and_gradients(by_loop, x, indices, weights, given)
    for way in [by_sorting, by_gathering, dispatched, *([single_token] if tokens == 1 else [])]:
        for got, right in zip(answer_and_gradients(way, x, indices, weights, given), wanted, strict=True):
            assert_close(got, right, 1e-5, way.__name__)
    assert max_error(by_loop(x, indices, 1.01 * weights, given), wanted[0]) > 1e-4


def test_one_expert_alone_is_a_dense_layer():
    given, x = stacks(count=1), randn(5, D, seed=9)
    dense = (torch.nn.functional.silu(x @ given.gate[0].T) * (x @ given.up[0].T)) @ given.down[0].T
    for rows, ways in ((x, [by_loop, by_sorting]), (x[:1], [by_loop, by_sorting, single_token])):
        for way in ways:
            nothing_else = torch.zeros(len(rows), 1, dtype=torch.long), torch.ones(len(rows), 1)
            assert_close(way(rows, *nothing_else, given), dense[: len(rows)], 1e-5, way.__name__)


def test_the_loop_is_the_sum_written_out():
    given, x, (indices, weights) = stacks(dtype=torch.float64), randn(4, D, dtype=torch.float64), routing(4)
    wanted = torch.zeros_like(x)
    for t in range(4):
        for a in range(2):
            e = int(indices[t, a])
            hidden = torch.nn.functional.silu(given.gate[e] @ x[t]) * (given.up[e] @ x[t])
            wanted[t] += weights[t, a] * (given.down[e] @ hidden)
    assert max_error(by_loop(x, indices, weights, given), wanted) < 1e-10


@pytest.mark.parametrize("tokens", [1, 21])
def test_in_bfloat16_the_dispatches_differ_by_rounding(tokens):
    exact, (indices, weights) = stacks(dtype=torch.float64), routing(tokens)
    x = randn(tokens, D, seed=9, dtype=torch.bfloat16)
    rounded = Stacks(exact.gate_up.detach().bfloat16(), exact.down.detach().bfloat16())
    wide = Stacks(rounded.gate_up.double(), rounded.down.double())
    wanted = by_loop(x.double(), indices, weights.double(), wide)
    for way in [by_loop, by_sorting, by_gathering, *([single_token] if tokens == 1 else [])]:
        got = way(x, indices, weights, rounded)
        assert got.dtype == torch.bfloat16
        assert relative_rms(got, wanted) < tolerance(torch.bfloat16, 4)


def test_one_token_goes_by_views_and_more_by_sorting(monkeypatch):
    taken = []
    for name in ("single_token", "by_sorting"):
        monkeypatch.setattr(dispatch, name, lambda x, *_, name=name: taken.append((name, len(x))) or x)
    for tokens in (1, 2, 512):
        dispatched(randn(tokens, D), *routing(tokens), stacks())
    assert taken == [("single_token", 1), ("by_sorting", 2), ("by_sorting", 512)]


@pytest.mark.parametrize("choice", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_one_kernel_gives_what_block_by_block_gives(choice, dtype):
    given = Stacks(randn(E, 16, D).to(dtype), randn(E, D, 8, seed=2).to(dtype))
    indices, weights = routing(33, choice, dtype=dtype)
    both = (randn(33, D, seed=9).to(dtype), weights, *sort_pairs(indices, E), given)
    assert_close(grouped(*both), block_by_block(*both), 4 * tolerance(dtype, D), "the layer")


@pytest.mark.parametrize("choice", CASES.values(), ids=CASES)
def test_without_gradients_one_kernel_does_it_and_the_answer_is_the_same(choice, monkeypatch):
    given, x, (indices, weights) = stacks(), randn(33, D, seed=9), routing(33, choice)
    wanted, calls = by_loop(x, indices, weights, given), []
    monkeypatch.setattr(dispatch, "grouped", lambda *args: calls.append(1) or grouped(*args))
    with torch.no_grad():
        assert_close(by_sorting(x, indices, weights, given), wanted, 1e-5, "one kernel")
        assert len(calls) == 1
        monkeypatch.setattr(dispatch, "NEAR_BYTES", 0)
        assert_close(by_sorting(x, indices, weights, given), wanted, 1e-5, "block by block")
    by_sorting(x, indices, weights, given)
    assert len(calls) == 1  # too much to stay near, and then a gradient is wanted


def test_a_hidden_state_of_several_rows_keeps_its_shape():
    experts, x = Experts(E, D, F), randn(3, 5, D)
    indices, weights = routing(15)
    out = experts(x, indices.view(3, 5, 2), weights.view(3, 5, 2))
    assert_close(out, by_loop(x.flatten(0, 1), indices, weights, experts.stacks).view(3, 5, D), 1e-5, "rows")


def test_down_lies_along_the_width_in_32_bits_and_as_it_is_in_16_and_as_a_copy():
    made = Experts(E, D, F)
    assert made.down.shape == (E, D, F)
    assert all(
        part.down.mT.is_contiguous() for part in (made, copy.deepcopy(made), copy.deepcopy(made).bfloat16().float())
    )
    assert all(made.to(dtype).down.is_contiguous() for dtype in (torch.bfloat16, torch.float16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_read_one_by_one_from_a_file_lie_as_new_ones_do(dtype):
    experts = [part for _, part in mixtures(load(zoo.folder("tiny-deepseek-v3"), dtype))]
    assert experts
    assert all(part.down.stride() == Experts(*part.down.shape).to(dtype).down.stride() for part in experts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gate_and_up_are_the_halves_that_the_one_parameter_holds(dtype):
    made = Experts(E, D, F).to(dtype)
    assert torch.equal(torch.cat([made.gate, made.up], dim=1), made.gate_up)
    assert made.gate.shape == made.up.shape == (E, F, D)
    assert {name for name, _ in made.named_parameters()} == {"gate_up", "down"}
    with torch.no_grad():
        made.up.zero_()  # a view: what is written there is in the parameter
        indices, weights = routing(3, dtype=dtype)
        assert not made(randn(3, D).to(dtype), indices, weights).any()


@pytest.mark.parametrize("before", [True, False])
@torch.no_grad()
def test_one_bfloat16_token_leaves_torchs_settings_as_they_were(before, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", before)
    made, x, chosen = Experts(E, D, F).bfloat16(), randn(1, D).bfloat16(), routing(1, dtype=torch.bfloat16)
    made(x, *chosen)
    with pytest.raises(ValueError, match="expert 9"):
        made(x, torch.tensor([[0, 9]]), chosen[1])
    with pytest.raises(RuntimeError):
        made(x[:, 1:], *chosen)  # of another width: it fails within the block
    assert torch.backends.mkldnn.enabled == before


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
@pytest.mark.parametrize("wrong", [7, 6, -1, -6])
@pytest.mark.parametrize("way", [by_loop, by_sorting, single_token, by_gathering])
def test_an_expert_that_is_not_there_is_refused(way, wrong, dtype):
    with pytest.raises(ValueError, match=f"expert {wrong} was chosen; there are experts 0 to 5"):
        way(randn(1, D), torch.tensor([[0, wrong]], dtype=dtype), torch.ones(1, 2), stacks())


@pytest.mark.parametrize("wrong", [6, -1])
@pytest.mark.parametrize("tokens", [1, 3])
def test_a_layer_refuses_an_expert_that_is_not_there(tokens, wrong):
    indices, weights = routing(tokens)
    indices[-1, 0] = wrong
    with pytest.raises(ValueError, match=f"expert {wrong} was chosen; there are experts 0 to 5"):
        Experts(E, D, F)(randn(tokens, D), indices, weights)


def test_no_tokens_need_no_experts():
    none = torch.empty(0, 2)
    assert by_sorting(randn(0, D), none.long(), none, stacks()).shape == (0, D)
    assert by_gathering(randn(0, D), none.long(), none, stacks()).shape == (0, D)
    assert by_loop(randn(0, D), none.long(), none, stacks()).shape == (0, D)


def test_views_are_for_one_token():
    with pytest.raises(ValueError, match="views are for one token, and 2 were given"):
        single_token(randn(2, D), *routing(2), stacks())


def randomised(module):
    for n, tensor in enumerate([*module.parameters(), *module.buffers()]):
        if tensor.is_floating_point():
            tensor.data.copy_(0.4 * randn(*tensor.shape, seed=n))
    return module.eval()


def stacked(theirs):
    """The routed experts of a block of transformers under our names."""
    return {f"experts.{n}": getattr(theirs.experts, f"{n}_proj").data for n in ("gate_up", "down")}


@pytest.mark.parametrize("tokens", [1, 21])
def test_the_gated_mixture_is_qwen_3_5s(tokens):
    config = Qwen3_5MoeTextConfig(
        hidden_size=D, moe_intermediate_size=F, num_experts=E, num_experts_per_tok=2,
        shared_expert_intermediate_size=10, experts_implementation="eager",
    )  # fmt: skip
    theirs = randomised(Qwen3_5MoeSparseMoeBlock(config))
    ours = MoE(SoftmaxRouter(D, E, 2), Experts(E, D, F), SwiGLU(D, 10), gated=True)
    shared = {f"shared.{n}.weight": getattr(theirs.shared_expert, f"{n}_proj").weight for n in ("gate", "up", "down")}
    gates = {"router.logits.weight": theirs.gate.weight, "shared_gate.weight": theirs.shared_expert_gate.weight}
    ours.load_state_dict(stacked(theirs) | shared | gates)
    x = randn(1, tokens, D, seed=9)
    _, _, chosen = theirs.gate(x)
    assert torch.equal(ours.router(x[0])[0].sort().values, chosen.sort().values)
    assert_close(ours(x), theirs(x), 1e-5, "mixture")


@pytest.mark.parametrize("tokens", [1, 21])
def test_the_mixture_is_glm_5s(tokens):
    config = GlmMoeDsaConfig(
        hidden_size=D, moe_intermediate_size=F, n_routed_experts=E, num_experts_per_tok=3, n_group=1, topk_group=1,
        routed_scaling_factor=2.5, norm_topk_prob=True, n_shared_experts=1, experts_implementation="eager",
    )  # fmt: skip
    theirs, ours = randomised(GlmMoeDsaMoE(config)), sigmoid_moe(D, F, E, 1, RouterConfig(3, scale=2.5))
    shared = {f"shared.{n}.weight": getattr(theirs.shared_experts, f"{n}_proj").weight for n in ("gate", "up", "down")}
    gates = {"router.logits.weight": theirs.gate.weight, "router.bias": theirs.gate.e_score_correction_bias}
    ours.load_state_dict(stacked(theirs) | shared | gates)
    x = randn(1, tokens, D, seed=9)
    _, _, chosen = theirs.gate(x)
    assert torch.equal(ours.router(x[0])[0].sort().values, chosen.sort().values)
    assert_close(ours(x), theirs(x), 1e-5, "mixture")
