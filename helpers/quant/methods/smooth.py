"""SmoothQuant: when inputs are rounded too, move what is hard about them into the weights.

Eight bits are plenty for weights, and too few for the inputs of large models: a handful of columns there are a hundred
times larger than the rest, and one scale per token leaves the rest a few steps. Divide each column of the inputs by s
and multiply the weights' by it: the product is the same, and the difficulty is shared.

Source: Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2022,
equation 4.
"""

from collections.abc import Sequence

import torch

from helpers.quant.formats.integers import vectorwise
from helpers.shapes import Float, Tensor

LEAST = 1e-5  # as the authors' code: a column that is never fed has no size to share


def smoothing(
    largest: Float[Tensor, " I"], weights: Sequence[Float[Tensor, "_ I"]], alpha: float = 0.5
) -> Float[Tensor, " I"]:
    """s = max|x|^alpha / max|w|^(1 - alpha), a number a column; x becomes x / s and the weights w s.

    ``largest`` is max|x| of each column; ``weights`` all read x. With alpha 1 the inputs become flat, with 0 the
    weights. ValueError for an alpha outside 0 to 1, or numbers that are not finite. Built in lesson `gptq_awq`.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it shares between 0, the inputs stay, and 1, they become flat")
    most = torch.cat(list(weights)).abs().amax(dim=0).clamp(min=LEAST)
    if not (most.isfinite().all() and largest.isfinite().all()):
        raise ValueError("inputs and weights are finite numbers; some here are NaN or infinite")
    return (largest.clamp(min=LEAST).pow(alpha) / most.pow(1 - alpha)).clamp(min=LEAST)


def int8_product(x: Float[Tensor, "*tokens I"], weight: Float[Tensor, "O I"]) -> Float[Tensor, "*tokens O"]:
    """x W^T with both rounded to INT8, a scale for each token and one for each row of W. Built in lesson `gptq_awq`."""
    rows, columns = (codes.float() * scale[:, None] for codes, scale in map(vectorwise, (x.flatten(0, -2), weight)))
    return (rows @ columns.T).view(*x.shape[:-1], -1)
