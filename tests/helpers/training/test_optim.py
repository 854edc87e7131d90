"""AdamW and Muon beside torch's own, Newton-Schulz beside the SVD, and what each must do whatever the gradient."""

import pytest
import torch
from torch import nn

from helpers.measure import count_flops
from helpers.models.configs import qwen3
from helpers.models.qwen3 import Qwen3
from helpers.training.optim import AdamW, Muon, muon_and_adamw, orthogonalise, orthogonalise_flops, shape_scale

SHAPES = [(1, 1), (5, 1), (1, 7), (31, 33), (33, 31), (16, 64)]
MATRICES = pytest.mark.parametrize("shape", SHAPES)


def pair(shapes, dtype=torch.float32):
    """The same weights twice."""
    generator = torch.Generator().manual_seed(0)
    first = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]
    return first, [nn.Parameter(weight.detach().clone()) for weight in first]


def walk(ours, theirs, optimizers, reference, steps=60):
    """So many steps of both on the same gradients, from tiny to large."""
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        for a, b in zip(ours, theirs, strict=True):
            gradient = torch.randn(a.shape, generator=generator, dtype=a.dtype) * 10.0 ** (step % 7 - 4)
            a.grad, b.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
        reference.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_adamw_walks_where_torchs_adamw_walks(dtype, allowed, weight_decay):
    ours, theirs = pair([(3,), (4, 5), (2, 3, 4), ()], dtype)
    settings = dict(lr=3e-2, betas=(0.9, 0.95), weight_decay=weight_decay)
    walk(ours, theirs, [AdamW(ours, **settings)], torch.optim.AdamW(theirs, **settings))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=allowed, atol=allowed)


def test_the_first_step_of_adamw_is_the_learning_rate_whatever_the_size_of_the_gradient():
    weight = nn.Parameter(torch.zeros(4))
    weight.grad = torch.tensor([1e-3, -1.0, 50.0, -1e4])
    AdamW([weight], lr=0.01, weight_decay=0.0).step()
    torch.testing.assert_close(weight.detach(), -0.01 * torch.tensor([1.0, -1.0, 1.0, -1.0]), rtol=1e-4, atol=0)


def test_decay_stands_beside_the_step_and_is_not_scaled_by_the_gradient():
    weight = nn.Parameter(torch.full((2,), 10.0))
    weight.grad = torch.zeros(2)
    AdamW([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((2,), 9.5))


@pytest.mark.parametrize(("ours_rule", "torchs_rule"), [("adamw", "match_rms_adamw"), ("rows", "original")])
@pytest.mark.parametrize("nesterov", [True, False])
def test_muon_walks_where_torchs_muon_walks(nesterov, ours_rule, torchs_rule):
    ours, theirs = pair(SHAPES)
    muon = Muon(ours, lr=0.02, weight_decay=0.1, nesterov=nesterov, scale=ours_rule)
    settings = dict(lr=0.02, weight_decay=0.1, nesterov=nesterov, adjust_lr_fn=torchs_rule)
    walk(ours, theirs, [muon], torch.optim.Muon(theirs, **settings), steps=25)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02)  # bfloat16 inside: products are rounded to 3 digits


@MATRICES
def test_orthogonalised_are_the_directions_of_the_svd_with_values_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    out = orthogonalise(matrix, dtype=torch.float64)
    inside = left.T @ out @ right.T  # diagonal when the directions are the same
    off = inside - inside.diagonal().diag()
    assert off.abs().max() < 1e-6
    large = values > 0.02 * values.norm()  # five steps lift a value of a fiftieth of the norm into the band
    assert inside.diagonal()[large].min() > 0.65
    assert inside.diagonal().max() < 1.25
    exact = (left @ right).norm()
    assert (out - left @ right).norm() < 0.35 * exact + (~large).sum() ** 0.5


def test_the_size_of_a_gradient_does_not_matter_and_its_sign_turns_the_step():
    matrix = torch.randn(6, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    once = orthogonalise(matrix, dtype=torch.float64)
    torch.testing.assert_close(orthogonalise(1000 * matrix, dtype=torch.float64), once)
    torch.testing.assert_close(orthogonalise(-matrix, dtype=torch.float64), -once)
    torch.testing.assert_close(orthogonalise(matrix.T, dtype=torch.float64), once.T)


def test_a_zero_gradient_moves_nothing():
    assert torch.equal(orthogonalise(torch.zeros(3, 4)), torch.zeros(3, 4, dtype=torch.bfloat16))
    weight = nn.Parameter(torch.ones(3, 4))
    weight.grad = torch.zeros(3, 4)
    Muon([weight], weight_decay=0.0).step()
    assert torch.equal(weight.detach(), torch.ones(3, 4))


@MATRICES
def test_the_flop_of_a_muon_step_are_those_that_are_counted(shape):
    matrix = torch.randn(shape)
    assert sum(count_flops(lambda: orthogonalise(matrix)).values()) == orthogonalise_flops(*shape)


def test_the_step_of_muon_has_the_size_of_adamws_on_every_shape():
    for rows, columns in [(64, 64), (64, 256), (256, 64)]:
        gradient = torch.randn(rows, columns, generator=torch.Generator().manual_seed(4))
        step = orthogonalise(gradient, dtype=torch.float32) * shape_scale(rows, columns, "adamw")
        assert 0.1 < step.square().mean().sqrt() < 0.25


def test_every_weight_of_a_model_is_moved_by_exactly_one_of_the_two():
    model = Qwen3(qwen3.Config(31, 16, 2, 2, 1, 8, 24, tied=False))
    muon, adamw = muon_and_adamw(model, 0.01)
    moved = [id(weight) for weight in (*muon.matrices, *adamw.weights)]
    assert sorted(moved) == sorted(id(weight) for weight in model.parameters())
    assert not {id(model.embedding.weight), id(model.head.weight)} & {id(weight) for weight in muon.matrices}


def test_what_is_no_matrix_is_refused_with_its_shape():
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="adamw, rows"):
        shape_scale(2, 3, "columns")


def test_a_weight_without_a_gradient_stays_and_a_used_gradient_is_forgotten():
    still, moved = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    for optimizer in (AdamW([still, moved]), Muon([still, moved])):
        moved.grad = torch.ones(2, 2)
        optimizer.step()
        assert moved.grad is None
        assert torch.equal(still.detach(), torch.ones(2, 2))
