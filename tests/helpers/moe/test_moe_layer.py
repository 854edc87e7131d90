"""Routers and experts against transformers' own, and their properties at the edges."""

import pytest
import torch
from transformers import DeepseekV3Config, DeepseekV4Config, Qwen3_5MoeTextConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3MoE
from transformers.models.deepseek_v4.modeling_deepseek_v4 import (
    DeepseekV4Experts,
    DeepseekV4HashRouter,
    DeepseekV4TopKRouter,
)
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeTopKRouter

from helpers.compare import assert_close, max_error, tolerance
from helpers.layers.mlp import swiglu
from helpers.moe.dispatch import sort_pairs
from helpers.moe.experts import Experts
from helpers.moe.moe_layer import sigmoid_moe
from helpers.moe.router import (
    hash_route,
    highest,
    rebalanced,
    sigmoid_top_k,
    softmax_top_k,
    sqrt_softplus_top_k,
    tokens_per_expert,
)
from helpers.moe.routers import RouterConfig, SigmoidRouter


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randomised(module):
    """Every parameter and buffer random: a bias of zero would hide that it is not used."""
    for n, tensor in enumerate([*module.parameters(), *module.buffers()]):
        if tensor.is_floating_point():
            tensor.data.copy_(0.4 * randn(*tensor.shape, seed=n))
    return module.eval()


def same_routing(ours, theirs, count):
    """The same experts with the same weights; transformers does not sort what it chose."""
    dense = [torch.zeros(len(i), count, dtype=w.dtype).scatter(1, i, w) for i, w in (ours, theirs)]
    assert torch.equal(ours[0].sort(dim=1).values, theirs[0].sort(dim=1).values)
    assert_close(*dense, tolerance(torch.float32, 16), "router weights")


@pytest.mark.parametrize(("count", "k"), [(8, 2), (13, 5), (3, 3)])
def test_the_softmax_router_is_qwen_3_5s(count, k):
    theirs = randomised(
        Qwen3_5MoeTopKRouter(Qwen3_5MoeTextConfig(num_experts=count, num_experts_per_tok=k, hidden_size=16))
    )
    x = randn(40, 16, seed=9)
    logits, weights, indices = theirs(x)
    same_routing(softmax_top_k(logits, k), (indices, weights), count)


V3 = [  # experts, a token, groups, kept, scale, normalised, shared
    (8, 2, 4, 2, 2.5, True, 1),
    (12, 5, 3, 2, 1.0, False, 2),
    (5, 3, 1, 1, 2.827, True, 1),
]


def deepseek_v3(count, k, groups, kept, scale, normalised, shared):
    return DeepseekV3Config(
        hidden_size=16, moe_intermediate_size=7, n_routed_experts=count, num_experts_per_tok=k, n_group=groups,
        topk_group=kept, routed_scaling_factor=scale, norm_topk_prob=normalised, n_shared_experts=shared,
        experts_implementation="eager",
    )  # fmt: skip


@pytest.mark.parametrize("sizes", V3, ids=str)
def test_the_sigmoid_router_and_the_mixture_are_deepseek_v3s(sizes):
    count, k, *how, shared = sizes
    theirs, ours = (
        randomised(DeepseekV3MoE(deepseek_v3(*sizes))),
        sigmoid_moe(16, 7, count, shared, RouterConfig(k, *how)),
    )
    weights = theirs.state_dict()
    ours.load_state_dict(
        {
            "router.logits.weight": weights["gate.weight"],
            "router.bias": weights["gate.e_score_correction_bias"],
            **{f"experts.{n}": weights[f"experts.{n}_proj"] for n in ("gate_up", "down")},
            **{f"shared.{n}.weight": weights[f"shared_experts.{n}_proj.weight"] for n in ("gate", "up", "down")},
        }
    )
    x = randn(2, 21, 16, seed=9)
    _, theirs_weights, theirs_indices = theirs.gate(x)
    same_routing([part.flatten(0, 1) for part in ours.router(x)], (theirs_indices, theirs_weights), count)
    assert_close(ours(x), theirs(x), tolerance(torch.float32, 64), "mixture")


def test_the_sigmoid_router_of_a_bfloat16_model_scores_in_float32():
    router, x = SigmoidRouter(64, 300, RouterConfig(4)).bfloat16(), randn(50, 64, seed=9).bfloat16()
    indices, weights = sigmoid_top_k(x.float() @ router.logits.weight.float().T, torch.zeros(300), 4)
    assert torch.equal(router(x)[0], indices)
    assert_close(router(x)[1], weights, 1e-6, "weights")
    assert not torch.equal(sigmoid_top_k(x @ router.logits.weight.T, torch.zeros(300), 4)[0], indices)  # scores tie


def test_the_bias_chooses_and_does_not_weigh():
    logits, bias = torch.tensor([[2.0, 1.0, 0.0, -1.0]]), torch.tensor([0.0, 0.0, 0.0, 5.0])
    indices, weights = sigmoid_top_k(logits, bias, 2, normalised=False)
    assert indices.tolist() == [[3, 0]]
    assert_close(weights, torch.sigmoid(torch.tensor([[-1.0, 2.0]])), 1e-6, "weights")


def test_a_better_expert_in_a_lost_group_is_not_chosen():
    logits = torch.tensor([[3.0, -9.0, 1.0, 1.0]])  # 3 is the best expert, but 1 + 1 is the better pair
    assert sigmoid_top_k(logits, torch.zeros(4), 2, num_groups=2, groups_per_token=1)[0].tolist() == [[2, 3]]
    assert 0 in sigmoid_top_k(logits, torch.zeros(4), 2)[0]


def deepseek_v4(count, k):
    return DeepseekV4Config(
        hidden_size=16, intermediate_size=9, n_routed_experts=count, num_experts_per_tok=k, vocab_size=31,
        routed_scaling_factor=1.5, swiglu_limit=0.5, num_hidden_layers=2, layer_types=["sliding_attention"] * 2,
        mlp_layer_types=["hash_moe", "moe"], experts_implementation="eager",
    )  # fmt: skip


@pytest.mark.parametrize(("count", "k"), [(8, 2), (13, 6), (3, 3)])
def test_the_sqrt_softplus_and_the_hash_router_are_deepseek_v4s(count, k):
    config, x = deepseek_v4(count, k), randn(40, 16, seed=9)
    by_score, by_id = randomised(DeepseekV4TopKRouter(config)), randomised(DeepseekV4HashRouter(config))
    logits, weights, indices = by_score(x)
    same_routing(sqrt_softplus_top_k(logits, by_score.e_score_correction_bias, k, 1.5), (indices, weights), count)
    table = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(i))[:k] for i in range(31)])
    by_id.tid2eid.copy_(table)
    token_ids = torch.arange(40) * 7 % 31
    logits, weights, indices = by_id(x, token_ids)
    same_routing(hash_route(logits, token_ids, table.int(), 1.5), (indices, weights), count)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_experts_are_deepseek_v4s_with_a_limit_and_without(limit):
    config = deepseek_v4(5, 2)
    config.swiglu_limit = limit or 1e9
    theirs, ours = randomised(DeepseekV4Experts(config)), Experts(5, 16, 9, limit)
    ours.load_state_dict({"gate_up": theirs.gate_up_proj.data, "down": theirs.down_proj.data})
    x = randn(30, 16, seed=3)
    indices, weights = softmax_top_k(randn(30, 5, seed=4), 2)
    assert_close(ours(x, indices, weights), theirs(x, indices, weights), tolerance(torch.float32, 32), "experts")


def test_the_limit_bounds_the_gate_from_above_and_up_on_both_sides():
    gate, up = torch.tensor([20.0, -20.0, 20.0]), torch.tensor([30.0, 1.0, -30.0])
    limited, as_if = swiglu(gate, up, 10.0), swiglu(torch.tensor([10.0, -20, 10]), torch.tensor([10.0, 1, -10]))
    assert torch.equal(limited, as_if)
    assert not torch.equal(limited, swiglu(gate, up))


def test_among_equal_scores_the_lower_index_wins_however_many_experts_there_are():
    assert highest(torch.zeros(2, 300), 4).tolist() == [[0, 1, 2, 3]] * 2
    assert highest(torch.tensor([1.0, 3.0, 2.0, 3.0]), 3).tolist() == [1, 3, 2]


def test_permuting_experts_with_their_weights_changes_nothing():
    experts, x, logits = Experts(6, 16, 9), randn(4, 7, 16), randn(4, 7, 6, seed=2)
    mixed, order = Experts(6, 16, 9), torch.tensor([4, 2, 0, 5, 1, 3])
    mixed.load_state_dict({name: weight[order] for name, weight in experts.state_dict().items()})
    before, after = experts(x, *softmax_top_k(logits, 2)), mixed(x, *softmax_top_k(logits[..., order], 2))
    assert_close(after, before, tolerance(torch.float32, 16), "permuted")


@pytest.mark.parametrize("case", ["one expert gets all", "most get nobody", "every expert", "one token"])
def test_sorting_tokens_to_experts_is_asking_each_expert_for_each_token(case):
    tokens = 1 if case == "one token" else 11
    choice = {"one expert gets all": [3], "most get nobody": [5, 0], "every expert": [0, 1, 2, 3, 4, 5]}.get(case, [2])
    experts, x = Experts(6, 8, 5).double(), randn(tokens, 8, dtype=torch.float64)
    indices, weights = torch.tensor([choice] * tokens), randn(tokens, len(choice), dtype=torch.float64)
    with torch.no_grad():
        dense = torch.einsum("edf,tef->ted", experts.down, swiglu(x @ experts.gate.mT, x @ experts.up.mT).movedim(0, 1))
        wanted = (dense[:, choice] * weights[..., None]).sum(dim=1)
        assert max_error(experts(x, indices, weights), wanted) < 1e-12


def test_every_weight_of_a_chosen_expert_learns_and_those_of_others_do_not():
    experts, x = Experts(4, 8, 5), randn(6, 8)
    experts(x, torch.tensor([[0, 2]] * 6), torch.ones(6, 2)).sum().backward()
    moved = torch.stack([weight.grad.flatten(1).abs().amax(dim=1) > 0 for weight in experts.parameters()])
    assert moved.tolist() == [[True, False, True, False]] * 2


def test_the_balancing_bias_evens_out_a_lopsided_load():
    lean = torch.linspace(0.6, -0.6, 8)  # the first experts are everybody's favourites
    bias, logits = torch.zeros(8), randn(400, 8) * 0.5 + lean
    loads = []
    for _ in range(200):
        counts = tokens_per_expert(sigmoid_top_k(logits, bias, 2)[0], 8)
        loads.append(int(counts.max()))
        bias = rebalanced(bias, counts, 0.005)
    assert loads[0] > 200
    assert loads[-1] < 115  # 100 is even
    assert counts.sum() == 800


def test_rebalancing_leaves_a_mean_load_as_it_is():
    assert rebalanced(torch.ones(3), torch.tensor([1, 2, 3]), 0.5).tolist() == [1.5, 1.0, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: softmax_top_k(torch.zeros(2, 4), 5), "5 experts per token cannot be chosen out of 4"),
        (lambda: softmax_top_k(torch.zeros(2, 4), 0), "0 experts per token"),
        (lambda: sigmoid_top_k(torch.zeros(2, 6), torch.zeros(6), 2, 4, 2), "2 of 4 groups of 6 experts"),
        (
            lambda: sigmoid_top_k(torch.zeros(2, 8), torch.zeros(8), 5, 4, 2),
            "5 experts per token cannot come from",
        ),
        (lambda: sigmoid_top_k(torch.zeros(2, 4), torch.zeros(4), 2, 4, 4), "have two experts or more"),
        (lambda: sort_pairs(torch.tensor([[0, 7]]), 4), "expert 7 was chosen; there are experts 0 to 3"),
    ],
)
def test_what_cannot_be_chosen_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
