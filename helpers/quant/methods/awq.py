"""AWQ: round as always, but stretch the columns that matter before, and shrink them after.

A column of weights that meets large inputs does more harm when it is rounded. Multiply it by s > 1, round, divide by s:
its error becomes about s times smaller, as long as the group's largest number, and with it the grid, stays what it was.
One number, alpha, says how much; a search on the layer's own error finds it. Dividing costs nothing where what stands
before the layer (a norm, or another matrix) can do it.

Source: Lin et al., "AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", 2023, section 3.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from helpers.layers.norm import RMSNorm, ZeroCentredNorm
from helpers.quant.formats.integers import Grid, from_codes, round_to
from helpers.quant.methods.input_statistics import Inputs, output_error
from helpers.shapes import Float, Tensor

MakeGrid = Callable[[Tensor], Grid]
STEPS = 20  # alphas between 0 and 1: the published search
LEAST = 1e-4  # of the largest input: a column that is never fed is not stretched without end


class Found(NamedTuple):
    """What the search found for the layers that read the same input."""

    alpha: float
    scale: Float[Tensor, " I"]  # the columns of the weights times this, their inputs over it
    error: float  # the outputs' mean square error, all layers together
    errors: list[float]  # of every alpha that was tried, 0 first


def search(weights: Sequence[Float[Tensor, "_ I"]], make_grid: MakeGrid, inputs: Inputs, steps: int = STEPS) -> Found:
    """The alpha of 0, 1/steps, ..., 1 with the least error; 0 is rounding to nearest, so it is never worse than that.

    All ``weights`` read the same input and so share the scale. Built in lesson `gptq_awq`.
    """
    scales = [stretch(inputs.size, n / steps) for n in range(steps + 1)]
    errors = [
        sum(output_error(rounded(weight, scale, make_grid) - weight, inputs).sum().item() for weight in weights)
        for scale in scales
    ]
    best = min(range(steps + 1), key=errors.__getitem__)
    return Found(best / steps, scales[best], errors[best], errors)


def stretch(size: Float[Tensor, " I"], alpha: float) -> Float[Tensor, " I"]:
    """``size`` to the power ``alpha``, so that the largest and the least are as far from 1.

    Built in lesson `gptq_awq`.
    """
    fed = size.clamp(min=LEAST * size.max()).clamp(min=torch.finfo(size.dtype).tiny)  # nothing is fed: all are alike
    scale = fed.pow(alpha)
    return scale / (scale.max().sqrt() * scale.min().sqrt())


def rounded(weight: Float[Tensor, "O I"], scale: Float[Tensor, " I"], make_grid: MakeGrid) -> Float[Tensor, "O I"]:
    """Stretched, rounded to the nearest, and shrunk again. Built in lesson `gptq_awq`."""
    grid = make_grid(weight * scale)
    return from_codes(round_to(weight * scale, grid), grid) / scale


@torch.no_grad()
def fold(before: nn.Module, layers: Iterable[nn.Linear], scale: Float[Tensor, " I"]) -> None:
    """Stretch the columns of ``layers`` in place and let ``before``, whose output only they read, shrink it.

    ``before`` is a norm, or a linear layer between which and ``layers`` numbers are only multiplied, one by one. What
    the model says stays the same. ValueError for another kind, a scale of another length, or one that makes a weight
    infinite; nothing is changed then. Source: AWQ, section 3.2. Built in lesson `gptq_awq`.
    """
    layers = list(layers)
    if wrong := [layer for layer in layers if not isinstance(layer, nn.Linear) or layer.in_features != len(scale)]:
        raise ValueError(f"{wrong[0]} is no linear layer with {len(scale)} columns to stretch")
    made = {before: _shrunk(before, scale)} | {layer: layer.weight * scale for layer in layers}
    for module, weight in made.items():
        if not weight.to(module.weight.dtype).isfinite().all():
            raise ValueError(
                f"scales {scale.min():.3g} to {scale.max():.3g} take {module} out of the range of its dtype"
            )
    for module, weight in made.items():
        module.weight.copy_(weight)


def _shrunk(before: nn.Module, scale: Float[Tensor, " I"]) -> Tensor:
    """The weight with which the output of ``before`` is over ``scale``."""
    if not isinstance(before, RMSNorm | ZeroCentredNorm | nn.Linear) or getattr(before, "bias", None) is not None:
        raise ValueError(f"{type(before).__name__} cannot shrink its output; RMSNorm, ZeroCentredNorm and Linear can")
    if len(before.weight) != len(scale):
        raise ValueError(f"{len(scale)} scales do not fit the {len(before.weight)} outputs of {before}")
    if isinstance(before, ZeroCentredNorm):
        return (1 + before.weight) / scale - 1
    return before.weight / (scale if before.weight.dim() == 1 else scale[:, None])
