"""Root-mean-square normalisation: divide a vector by its own size, then scale each coordinate."""

import torch
from torch import nn

from helpers.functions import Layer, declared
from helpers.precision import at_least_float32
from helpers.shapes import Float, Tensor


def rms_norm(x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], epsilon: float) -> Float[Tensor, "... D"]:
    """Return ``weight * x / sqrt(mean(x^2) + epsilon)``, with the mean over the last axis.

    The mean is taken in float32 at least: a bfloat16 sum of squares keeps only 8 bits.
    The result is rounded to the dtype of ``x`` before the weight, as the published models do.
    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4. Built in lesson
    `open_a_model`.
    """
    exact = x.to(at_least_float32(x.dtype))
    size = torch.rsqrt(exact.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    return weight * (exact * size).to(x.dtype)


def add_rms_norm(
    x: Float[Tensor, "... D"], residual: Float[Tensor, "... D"], weight: Float[Tensor, " D"], epsilon: float
) -> tuple[Float[Tensor, "... D"], Float[Tensor, "... D"]]:
    """The normed sum, and the sum, which is the next residual: what a block does between its two halves."""
    added = residual + x
    return rms_norm(added, weight, epsilon), added


class RMSNorm(Layer):
    """The weight of ``rms_norm``. Built in lesson `open_a_model`."""

    functions = declared(rms_norm=rms_norm, add_rms_norm=add_rms_norm)

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.functions["rms_norm"](x, self.weight, self.epsilon)

    def add(
        self, x: Float[Tensor, "... D"], residual: Float[Tensor, "... D"]
    ) -> tuple[Float[Tensor, "... D"], Float[Tensor, "... D"]]:
        """The norm of ``residual + x``, and the sum itself, which goes on: a kernel makes both in one pass."""
        return self.functions["add_rms_norm"](x, residual, self.weight, self.epsilon)


def zero_centred_norm(x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], epsilon: float) -> Float[Tensor, "... D"]:
    """``(1 + weight) * x / sqrt(mean(x^2) + epsilon)``: the weight is what training changes, and starts at zero.

    So that weight decay pulls the scale towards one and not towards nothing. Everything is in float32 at least and
    rounded once, at the end.
    Source: Qwen team, "Qwen3-Next", 2025; transformers' ``Qwen3_5RMSNorm``. Built in lesson `deltanet`.
    """
    exact = x.to(at_least_float32(x.dtype))
    size = torch.rsqrt(exact.pow(2).mean(dim=-1, keepdim=True) + epsilon)
    return ((1 + weight.to(exact.dtype)) * exact * size).to(x.dtype)


class ZeroCentredNorm(nn.Module):
    """The weight of ``zero_centred_norm``. Built in lesson `deltanet`."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return zero_centred_norm(x, self.weight, self.epsilon)
