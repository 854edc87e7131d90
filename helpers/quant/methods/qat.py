"""Quantisation-aware training: a few steps in which the model already computes with the values that it will store.

Rounding has no slope: a weight moved by less than half a step changes nothing. So the forward pass uses the rounded
weight, and the gradient passes as if there had been no rounding (a straight-through estimator). Weights move in full
precision underneath until they round to something better.
Source: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013 (arXiv 1308.3432).
Moonshot say that Kimi K2 Thinking was trained so, its experts in INT4, and K2.5 by the same method; the details of that
rounding are not published (see helpers/quant/formats/integers.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

from helpers.quant.formats.blocks import check_numbers
from helpers.quant.formats.integers import from_codes, grid_of, round_to
from helpers.shapes import Float, Tensor


def rounded(weight: Float[Tensor, "*rest I"], bits: int, group: int | None = None) -> Float[Tensor, "*rest I"]:
    """Each number as the nearest of 2^bits - 1 values, symmetric, a bfloat16 scale for each ``group`` of a row.

    No group is a whole row. ValueError as in ``grid_of``. Built in lesson `quantise_moe`.
    """
    rows = weight.detach().flatten(0, -2)
    grid = grid_of(rows, bits, group, scale_dtype=torch.bfloat16)
    return from_codes(round_to(rows, grid), grid).view(weight.shape).to(weight.dtype)


def straight_through(weight: Float[Tensor, "*rest I"], bits: int, group: int | None = None) -> Float[Tensor, "*rest I"]:
    """``rounded`` whose gradient is that of the weight itself. Built in lesson `quantise_moe`."""
    return weight + (rounded(weight, bits, group) - weight.detach())


@dataclass(frozen=True)
class Width:
    """How weights are rounded while a model is trained."""

    bits: int
    group: int | None = None


class _Rounding(nn.Module):
    """What torch calls wherever the weight is read."""

    def __init__(self, width: Width):
        super().__init__()
        self.width = width

    def forward(self, weight: Tensor) -> Tensor:
        return straight_through(weight, self.width.bits, self.width.group)


@contextmanager
def rounding(model: nn.Module, names: list[str], width: Width) -> Iterator[list[nn.Parameter]]:
    """Within the block the weights of these names are read as rounded, and learn; at its end they are what was read.

    Gives the weights that learn, in full precision; all others are frozen for the while. Where training has made one of
    them infinite it stays as it learned. ValueError for a name that is no weight of ``model``, for none, and for a
    weight that cannot be rounded so; the model is then as it was. Built in lesson `quantise_moe`.
    """
    names = list(dict.fromkeys(names))
    _check(dict(_all(model)), names, width)
    learned = {name: weight.requires_grad for name, weight in _all(model)}
    places = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in names]
    model.requires_grad_(False)
    for module, weight in places:
        parametrize.register_parametrization(module, weight, _Rounding(width))
    try:
        yield [module.parametrizations[weight].original.requires_grad_(True) for module, weight in places]
    finally:
        for module, weight in places:
            finite = bool(module.parametrizations[weight].original.isfinite().all())
            parametrize.remove_parametrizations(module, weight, leave_parametrized=finite)
        for name, weight in _all(model):
            weight.requires_grad_(learned[name])


def _check(own: dict[str, nn.Parameter], names: list[str], width: Width) -> None:
    """ValueError for all that registering would refuse, before anything is registered."""
    if not names or set(names) - set(own):
        said = ", ".join(sorted(set(names) - set(own))) or "none"
        raise ValueError(f"weights to round: {said} given; there are {', '.join(list(own)[:4])} and {len(own)} in all")
    for name in names:
        try:
            if own[name].dim() < 2:
                raise ValueError(f"has the shape {list(own[name].shape)}; matrices and stacks of them are rounded")
            check_numbers(own[name])
            rounded(own[name], width.bits, width.group)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None


def _all(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return list(model.named_parameters())
