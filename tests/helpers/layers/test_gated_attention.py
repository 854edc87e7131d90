"""Qwen3.5's attention layer against transformers', alone: a whole model could hide a wrong gate behind its norms."""

import pytest
import torch
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5Attention, Qwen3_5TextRotaryEmbedding

from helpers.compare import assert_close, causality_probe, max_error, tolerance
from helpers.layers.gated_attention import GatedAttention
from helpers.layers.kv_cache import KeyValues
from helpers.layers.ragged import standing_at
from helpers.layers.rope import angles, frequencies

WIDTH, HEADS, GROUPS, HEAD, TURNED = 40, 6, 2, 12, 6
NAMES = {"query_and_gate": "q_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
NAMES |= {"query_norm": "q_norm", "key_norm": "k_norm"}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair():
    """Ours and transformers' with the same random numbers, and transformers' angles."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 1]}
    config = Qwen3_5TextConfig(
        hidden_size=WIDTH, num_attention_heads=HEADS, num_key_value_heads=GROUPS, head_dim=HEAD, rope_parameters=rope
    )
    config._attn_implementation = "eager"
    theirs, ours = Qwen3_5Attention(config, 0).eval(), GatedAttention(WIDTH, HEADS, GROUPS, HEAD, 1e-6).eval()
    for n, weight in enumerate(theirs.parameters()):
        weight.copy_(randn(*weight.shape, seed=n) / 4)
    weights = theirs.state_dict()
    ours.load_state_dict({name: weights[f"{NAMES[name.removesuffix('.weight')]}.weight"] for name in ours.state_dict()})
    return ours, theirs, Qwen3_5TextRotaryEmbedding(config)


def run(ours, x, cache=None, start=0):
    positions = (torch.arange(x.shape[1]) + start).expand(len(x), -1)
    return ours(x, standing_at(positions), angles(positions, frequencies(TURNED, 1e4)), cache)


@pytest.mark.parametrize("length", [1, 31, 33])
def test_gated_attention_is_transformers(length):
    ours, theirs, rotary = pair()
    x = randn(2, length, WIDTH, seed=9)
    barred = torch.full((length, length), float("-inf")).triu(1)[None, None]
    turned = rotary(x, torch.arange(length).expand(2, -1))
    wanted = theirs(x, position_embeddings=turned, attention_mask=barred)[0]
    assert_close(run(ours, x), wanted, tolerance(torch.float32, 64 + length), "gated attention")


def test_one_by_one_with_a_cache_is_all_at_once():
    ours, _, _ = pair()
    x, cache = randn(2, 9, WIDTH, seed=9), KeyValues()
    steps = [run(ours, x[:, t : t + 1], cache, t) for t in range(9)]
    assert_close(torch.cat(steps, dim=1), run(ours, x), tolerance(torch.float32, 128), "cached")


def test_a_closed_gate_says_nothing():
    ours, _, _ = pair()
    gate = ours.query_and_gate.weight.unflatten(0, (HEADS, 2, HEAD))[:, 1]
    gate.zero_()
    half = run(ours, randn(1, 5, WIDTH))  # sigmoid(0)
    gate.copy_(-1e4 * torch.ones_like(gate))
    assert max_error(run(ours, torch.rand(1, 5, WIDTH) + 1), torch.zeros(1, 5, WIDTH)) == 0
    assert half.abs().max() > 1e-3


def test_no_position_sees_a_later_one():
    ours, _, _ = pair()
    assert causality_probe(lambda x: run(ours, x), randn(2, 12, WIDTH), 5) == 0
