"""Hyper-connections: properties that a person can check, then transformers' modules."""

import pytest
import torch
from transformers import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4HyperConnection, DeepseekV4HyperHead

from helpers.compare import max_error
from helpers.layers.hyper import HyperConnection, HyperHead, collapse, expand, sinkhorn

SHAPES = pytest.mark.parametrize(("streams", "width", "rounds"), [(4, 16, 20), (3, 7, 1), (1, 5, 2), (5, 8, 4)])


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(streams: int, width: int, rounds: int, head: bool = False) -> tuple:
    """Our module and transformers' with the same random numbers."""
    settings = {"hc_mult": streams, "hidden_size": width, "hc_sinkhorn_iters": rounds, "hc_eps": 1e-3}
    config = DeepseekV4Config(**settings, rms_norm_eps=1e-4, num_hidden_layers=1, layer_types=["sliding_attention"])
    if head:
        ours, theirs, prefix = HyperHead(streams, width, 1e-3, 1e-4), DeepseekV4HyperHead(config), "hc_"
    else:
        ours, theirs, prefix = (
            HyperConnection(streams, width, rounds, 1e-3, 1e-4),
            DeepseekV4HyperConnection(config),
            "",
        )
    for seed, (mine, name) in enumerate(((ours.weight, "fn"), (ours.base, "base"), (ours.scale, "scale"))):
        mine.data = drawn(*mine.shape, seed=seed)
        getattr(theirs, prefix + name).data = mine.data.clone()
    return ours, theirs


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_sinkhorn_makes_rows_and_columns_sum_to_one(size):
    matrix = sinkhorn(drawn(3, size, size).double().exp(), rounds=200, epsilon=0.0)
    assert (matrix > 0).all()
    assert torch.allclose(matrix.sum(-1), torch.ones(3, size).double(), atol=1e-9)
    assert torch.allclose(matrix.sum(-2), torch.ones(3, size).double(), atol=1e-9)


def test_one_round_of_sinkhorn_divides_by_the_sums_of_the_columns():
    found = sinkhorn(torch.tensor([[1.0, 2.0], [3.0, 2.0]]), rounds=1, epsilon=0.0)
    assert torch.equal(found, torch.tensor([[0.25, 0.5], [0.75, 0.5]]))


def test_sinkhorn_without_a_round_is_refused():
    with pytest.raises(ValueError, match="1 round or more, not 0"):
        sinkhorn(torch.ones(2, 2), rounds=0)


def test_a_doubly_stochastic_mix_keeps_the_sum_of_the_streams_and_never_grows_them():
    streams, mix = drawn(2, 5, 4, 6).double(), sinkhorn(drawn(2, 5, 4, 4).double().exp(), 200, 0.0)
    after = expand(streams, streams.new_zeros(2, 5, 6), streams.new_zeros(2, 5, 4), mix)
    assert max_error(after.sum(dim=2), streams.sum(dim=2)) < 1e-12
    assert after.norm() < streams.norm()


def test_mix_i_j_is_how_much_of_stream_i_goes_to_stream_j():
    streams = torch.tensor([1.0, 10.0])[None, None, :, None]
    mix = torch.tensor([[0.0, 1.0], [0.5, 0.0]])[None, None]  # all of stream 0 to stream 1, half of 1 to 0
    after = expand(streams, torch.tensor([[[100.0]]]), torch.tensor([[[1.0, 0.0]]]), mix)
    assert after.flatten().tolist() == [105.0, 1.0]


def test_equal_streams_with_equal_weights_are_one_plain_residual():
    x, written = drawn(2, 3, 6), drawn(2, 3, 6, seed=1)
    streams = x[:, :, None].expand(-1, -1, 4, -1)
    assert max_error(collapse(streams, torch.full((2, 3, 4), 0.25)), x) < 1e-6
    after = expand(streams, written, torch.ones(2, 3, 4), torch.full((2, 3, 4, 4), 0.25))
    assert max_error(after, (x + written)[:, :, None].expand_as(after)) < 1e-6


@SHAPES
def test_a_hyper_connection_is_transformers(streams, width, rounds):
    ours, theirs = pair(streams, width, rounds)
    x = drawn(2, 9, streams, width, seed=5)
    found, wanted = ours(x), theirs(x)
    for name, mine, reference in zip(("post", "mix", "collapsed"), (found[1], found[2], found[0]), wanted, strict=True):
        assert max_error(mine, reference) <= 1e-5, name


@SHAPES
def test_its_gradients_are_transformers(streams, width, rounds):
    ours, theirs = pair(streams, width, rounds)
    x = drawn(2, 9, streams, width, seed=5)
    for module, order in ((ours, (0, 1, 2)), (theirs, (2, 0, 1))):
        out = [module(x)[n] for n in order]
        sum((part * drawn(*part.shape, seed=6)).sum() for part in out).backward()
    for mine, reference in ((ours.weight, theirs.fn), (ours.base, theirs.base), (ours.scale, theirs.scale)):
        assert mine.grad.isfinite().all()
        assert max_error(mine.grad, reference.grad) <= 1e-4


@SHAPES
def test_the_head_is_transformers(streams, width, rounds):
    ours, theirs = pair(streams, width, rounds, head=True)
    x = drawn(2, 9, streams, width, seed=5)
    assert max_error(ours(x), theirs(x)) <= 1e-5


def test_mixing_the_other_way_round_is_seen():
    ours, _ = pair(4, 16, 20)
    x = drawn(2, 9, 4, 16, seed=5)
    read, post, mix = ours(x)
    right, wrong = expand(x, read, post, mix), expand(x, read, post, mix.mT)
    assert max_error(right, torch.einsum("btn,btd->btnd", post, read) + mix.mT @ x) <= 1e-5
    assert max_error(right, wrong) > 0.1


def test_in_bfloat16_the_weights_are_still_computed_in_float32():
    ours, _ = pair(4, 16, 20)
    x = drawn(2, 9, 4, 16, seed=5).bfloat16()
    read, post, mix = ours(x)
    assert (read.dtype, post.dtype, mix.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert expand(x, read, post, mix).dtype == torch.bfloat16
    assert max_error(mix, ours(x.float())[2]) == 0
