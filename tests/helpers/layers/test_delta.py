"""The delta rule in chunks against its definition, the definition against transformers', and each part of the layer."""

import pytest
import torch
from transformers.models.qwen3_5 import modeling_qwen3_5 as theirs

from helpers.compare import assert_close, causality_probe, max_error, tolerance
from helpers.layers.delta import (
    DeltaState,
    GatedDeltaNet,
    additive_rule,
    chunked_delta_rule,
    delta_rule,
    gated_norm,
    short_conv,
    unit_length,
)
from helpers.layers.ragged import arrange

LENGTHS = pytest.mark.parametrize("length", [1, 31, 33, 65, 130])
CHUNKS = pytest.mark.parametrize("chunk", [1, 2, 5, 32, 64, 200])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def problem(length: int, dtype=torch.float32, batch=2, heads=3, key_dim=8, value_dim=5) -> list[torch.Tensor]:
    """Queries, keys, values, log decays, betas and a first state, as the layer makes them."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    query, key = (unit_length(normal(batch, length, heads, key_dim)) for _ in range(2))
    value, state = normal(batch, length, heads, value_dim), normal(batch, heads, key_dim, value_dim)
    return [query, key, value, -normal(batch, length, heads).abs(), normal(batch, length, heads).sigmoid(), state]


@LENGTHS
@CHUNKS
def test_chunks_of_any_size_are_the_loop_in_float32(length, chunk):
    for ours, loop in zip(chunked_delta_rule(*problem(length), chunk), delta_rule(*problem(length)), strict=True):
        assert max_error(ours, loop) <= 1e-5


@LENGTHS
@CHUNKS
def test_chunks_of_any_size_are_the_loop_in_float64(length, chunk):
    inputs = problem(length, torch.float64)
    for ours, loop in zip(chunked_delta_rule(*inputs, chunk), delta_rule(*inputs), strict=True):
        assert max_error(ours, loop) <= 1e-9


@LENGTHS
@CHUNKS
def test_the_rule_that_only_adds_is_its_loop(length, chunk):
    query, key, value, log_decay, beta, state = inputs = problem(length, torch.float64)
    read = []
    for t in range(length):
        written = torch.einsum("bhk,bhv->bhkv", key[:, t], beta[:, t, :, None] * value[:, t])
        state = log_decay[:, t].exp()[..., None, None] * state + written
        read.append(torch.einsum("bhkv,bhk->bhv", state, query[:, t]))
    ours = additive_rule(*inputs, chunk)
    assert max_error(ours[0], torch.stack(read, dim=1)) <= 1e-9
    assert max_error(ours[1], state) <= 1e-9
    if length > 1:
        assert max_error(ours[1], delta_rule(*inputs)[1]) > 1e-2


def gradients(rule, inputs: list[torch.Tensor], *options) -> tuple[torch.Tensor, ...]:
    inputs = [x.clone().requires_grad_() for x in inputs]
    read, state = rule(*inputs, *options)
    weights = torch.linspace(-1, 1, read.numel(), dtype=read.dtype).view_as(read)
    return torch.autograd.grad((weights * read).sum() + state.square().sum(), inputs)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=["32", "64"])
@pytest.mark.parametrize("chunk", [1, 7, 33, 64])
def test_gradients_of_chunks_are_those_of_the_loop(dtype, allowed, chunk):
    inputs = problem(33, dtype)
    for ours, loop in zip(gradients(chunked_delta_rule, inputs, chunk), gradients(delta_rule, inputs), strict=True):
        assert max_error(ours, loop) <= allowed


@LENGTHS
@pytest.mark.parametrize("name", ["torch_recurrent_gated_delta_rule", "torch_chunk_gated_delta_rule"])
def test_the_rule_is_transformers(length, name):
    query, key, value, log_decay, beta, state = problem(length)
    reference = getattr(theirs, name)(
        query * 8**0.5, key, value, log_decay, beta, initial_state=state, output_final_state=True
    )  # theirs divides queries by the root of their width
    for ours, other in zip(delta_rule(query, key, value, log_decay, beta, state), reference, strict=True):
        assert max_error(ours, other) <= 1e-5


def test_on_paper_a_value_is_replaced_and_not_added():
    keys, values = torch.tensor([1.0, 0.0]).expand(1, 2, 1, 2), torch.tensor([3.0, 5.0]).view(1, 2, 1, 1)
    full, none = torch.ones(1, 2, 1), torch.zeros(1, 2, 1)
    read, state = delta_rule(keys, keys, values, none, full, torch.zeros(1, 1, 2, 1))
    assert read.flatten().tolist() == [3.0, 5.0]
    assert state.flatten().tolist() == [5.0, 0.0]
    read, _ = delta_rule(keys, keys, values, none, full / 2, torch.zeros(1, 1, 2, 1))
    assert read.flatten().tolist() == [1.5, 3.25]  # half of the error: 1.5 + (5 - 1.5) / 2


def test_a_strong_decay_forgets_and_does_not_overflow():
    query, key, value, log_decay, beta, state = problem(130)
    strong = torch.full_like(log_decay, -300.0)  # exp(300) is infinite in float32
    for rule in (delta_rule, chunked_delta_rule):
        read, memory = rule(query, key, value, strong, beta, state)
        alone = beta[..., None] * (query * key).sum(-1, keepdim=True) * value  # each token sees itself only
        assert max_error(read, alone) <= 1e-5
        assert memory.isfinite().all()
    assert all(g.isfinite().all() for g in gradients(chunked_delta_rule, [query, key, value, strong, beta, state]))


def test_a_token_of_beta_and_decay_zero_leaves_no_trace():
    query, key, value, log_decay, beta, state = problem(9)
    log_decay[:, 4:], beta[:, 4:] = 0, 0
    whole = chunked_delta_rule(query, key, value, log_decay, beta, state)[1]
    short = [x[:, :4] for x in (query, key, value, log_decay, beta)]
    assert max_error(whole, chunked_delta_rule(*short, state)[1]) <= 1e-6


def test_no_chunk_is_refused():
    with pytest.raises(ValueError, match="chunk is 0 tokens; 1 or more is allowed"):
        chunked_delta_rule(*problem(3), chunk=0)


def test_leaving_out_the_corrections_within_a_chunk_is_seen():
    """Linear attention with decay instead of the delta rule: right for chunks of one token only."""
    query, key, value, log_decay, beta, state = problem(5)
    read, _ = delta_rule(query, key, value, log_decay, beta, state * 0)
    since = log_decay.cumsum(dim=1)
    fade = (since[:, :, None] - since[:, None]).exp() * torch.ones(5, 5).tril()[..., None]
    added = torch.einsum("bthk,bshk,btsh,bsh,bshv->bthv", query, key, fade, beta, value)
    assert max_error(read[:, 0], added[:, 0]) <= 1e-6
    assert max_error(read[:, 1:], added[:, 1:]) > 0.01


@LENGTHS
@pytest.mark.parametrize("width", [1, 4])
def test_the_short_convolution_is_transformers(length, width):
    x, weight = torch.randn(2, length, 6), torch.randn(6, 1, width)
    other = theirs.causal_conv1d_fn(x.mT, weight[:, 0], activation="silu").mT
    assert_close(short_conv(x, weight, torch.zeros(2, width - 1, 6)), other, tolerance(torch.float32, 4), "conv")


def test_the_short_convolution_goes_on_from_the_inputs_before():
    x, weight, before = torch.randn(2, 9, 6), torch.randn(6, 1, 4), torch.zeros(2, 3, 6)
    whole, later = short_conv(x, weight, before), short_conv(x[:, 5:], weight, x[:, 2:5])
    assert_close(later, whole[:, 5:], tolerance(torch.float32, 4), "the second part")


def test_the_gated_norm_is_transformers():
    norm = theirs.Qwen3_5RMSNormGated(10, eps=1e-5)
    norm.weight.data.normal_()
    x, gate = torch.randn(2, 7, 10), torch.randn(2, 7, 10)
    ours = gated_norm(x, gate, norm.weight.data, 1e-5)
    assert_close(ours, norm(x, gate).detach(), tolerance(torch.float32, 10), "gated norm")


def test_a_vector_of_zeros_has_no_direction_and_stays():
    assert unit_length(torch.zeros(2, 4)).eq(0).all()
    assert max_error(unit_length(torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8])) < 1e-6


def layer(value_heads: int = 4) -> GatedDeltaNet:
    net = GatedDeltaNet(20, 2, value_heads, 8, 6, 4, 1e-6)
    for parameter in net.parameters():
        parameter.data.normal_(0, 0.3)
    return net.requires_grad_(False)


def rows_of(x: torch.Tensor, mask: torch.Tensor | None = None):
    return arrange(torch.zeros(x.shape[:2], dtype=torch.long), mask, None)


@pytest.mark.parametrize("cuts", [[1] * 75, [70, 1, 1, 3], [2, 73]], ids=["tokens", "parts", "halves"])
@pytest.mark.parametrize("value_heads", [2, 4])
def test_any_split_with_a_state_is_the_whole(cuts, value_heads):
    net, x, state = layer(value_heads), torch.randn(2, 75, 20), DeltaState()
    parts = [net(part, rows_of(part), state) for part in x.split(cuts, dim=1)]
    assert max_error(torch.cat(parts, dim=1), net(x, rows_of(x))) <= 1e-5
    channels = 2 * 2 * 8 + value_heads * 6
    assert state.bytes() == 2 * (value_heads * 8 * 6 * 4 + 3 * channels * 4)


def test_no_gradient_flows_through_the_state():
    net, x, state = layer().requires_grad_(), torch.randn(1, 5, 20), DeltaState()
    assert net(x, rows_of(x), state).requires_grad
    assert not state.memory.requires_grad
    assert not state.inputs.requires_grad


def test_an_empty_state_takes_no_bytes():
    assert DeltaState().bytes() == 0


def test_in_bfloat16_the_memory_is_float32_and_the_inputs_are_not():
    net, x, state = layer().bfloat16(), torch.randn(1, 5, 20).bfloat16(), DeltaState()
    assert net(x, rows_of(x), state).dtype == torch.bfloat16
    assert (state.memory.dtype, state.inputs.dtype) == (torch.float32, torch.bfloat16)
    assert state.bytes() == 4 * 8 * 6 * 4 + 3 * (2 * 2 * 8 + 4 * 6) * 2


def test_the_layer_sees_no_later_token():
    net = layer()
    assert causality_probe(lambda x: net(x, rows_of(x)), torch.randn(1, 12, 20), 5) == 0


def test_a_new_layer_draws_its_rates_of_decay_between_a_hundredth_and_sixteen():
    rates = GatedDeltaNet(20, 2, 64, 8, 6, 4, 1e-6).log_rate.exp()
    assert rates.clamp(0.01, 16).equal(rates)
    assert rates.std() > 1
