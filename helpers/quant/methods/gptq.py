"""GPTQ: round a matrix column by column, and let the columns that are still free make up for each error.

The columns are rounded in turn. What the rounding of one does to the layer's answers is undone, as far as that goes,
by moving all later columns: the exact minimiser of a quadratic, read off one row of a Cholesky factor. Each code is the
best one *if all later columns could take any value*; they cannot, so the method is greedy and not the optimum.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2022,
algorithm 1; the step is that of Hassibi and Stork, "Optimal Brain Surgeon", 1993.
"""

import torch

from helpers.quant.formats.integers import Grid, from_codes, nearest, round_to
from helpers.quant.methods.input_statistics import Inputs, output_error
from helpers.shapes import Float, Int, Tensor

DAMPING = 0.01  # of the mean diagonal, added to it: the published value
BLOCK = 128  # columns that are finished before the rest of the matrix is touched: the published value


def gptq(
    weight: Float[Tensor, "O I"],
    grid: Grid,
    inputs: Inputs,
    damping: float = DAMPING,
    act_order: bool = True,
    block: int = BLOCK,
) -> Int[Tensor, "O I"]:
    """Codes on ``grid`` whose answers on ``inputs`` are never further off than those of the nearest codes.

    ``compensate`` is greedy, and where values leave the grid it can lose; so each row keeps the better of the two.
    ``act_order`` takes the columns with the largest inputs first. Raises ValueError as ``compensate`` does.
    Built in lesson `gptq_awq`.
    """
    made = [compensate(weight, grid, inputs.hessian, damping, act_order, block), round_to(weight, grid)]
    errors = torch.stack([output_error(from_codes(codes, grid) - weight, inputs) for codes in made])
    return torch.where((errors[0] <= errors[1])[:, None], *made)


def compensate(
    weight: Float[Tensor, "O I"],
    grid: Grid,
    hessian: Float[Tensor, "I I"],
    damping: float = DAMPING,
    act_order: bool = False,
    block: int = BLOCK,
) -> Int[Tensor, "O I"]:
    """The greedy codes. The rows do not know of each other; a column of all of them is done at once.

    A column takes the errors of those before it in its ``block`` when its turn comes, and the columns behind the block
    get those of the whole block in one product: nothing is written before it is needed. ValueError for a Hessian that
    damping does not make positive definite. Source: GPTQ, algorithm 1. Built in lesson `gptq_awq`.
    """
    width = weight.shape[1]
    order = torch.arange(width, device=hessian.device)
    if act_order:
        order = hessian.diagonal().argsort(descending=True, stable=True)
    upper = inverse_factor(hessian[order][:, order], damping).to(weight.dtype)
    scales, zeros = (_of_each_column(part, width).to(weight.dtype)[order] for part in (grid.scale, grid.zero))
    left = weight.T[order]  # a column of the matrix is a row here: its numbers lie side by side
    codes, errors, diagonal = torch.empty_like(left), torch.empty_like(left), upper.diagonal().tolist()
    for start in range(0, width, block):
        end = min(start + block, width)
        for j in range(start, end):
            column = left[j].addmv(errors[start:j].T, upper[start:j, j], alpha=-1)
            code = codes[j] = nearest(column, scales[j], zeros[j], grid.low, grid.high)
            errors[j] = column.sub_((code - zeros[j]).mul_(scales[j])).div_(diagonal[j])
        left[end:].addmm_(upper[start:end, end:].T, errors[start:end], alpha=-1)
    return codes[order.argsort()].T.to(torch.int32)


def _of_each_column(part: Float[Tensor, "O groups"], width: int) -> Float[Tensor, "I O"]:
    """Scales or zeros, those of one column in a row."""
    return part.T.repeat_interleave(width // part.shape[1], dim=0)


def inverse_factor(hessian: Float[Tensor, "I I"], damping: float = DAMPING) -> Float[Tensor, "I I"]:
    """U, upper triangular, with U^T U = (H + damping x mean of its diagonal)^-1, in float64.

    Row j of it, over its diagonal, says how the columns behind j answer an error in column j when those before j are
    fixed: one factorisation for all the inverses that the steps would need. ValueError where H is no positive definite
    matrix even with the damping. Source: GPTQ, section 3.3, step 3. Built in lesson `gptq_awq`.
    """
    exact = hessian.double()
    damped = exact + damping * exact.diagonal().mean() * torch.eye(len(exact), dtype=exact.dtype, device=exact.device)
    lower, failed = torch.linalg.cholesky_ex(damped)
    if failed:
        raise ValueError(
            f"the Hessian is not positive definite with damping {damping:g}: too few tokens, columns that depend on "
            "each other, or no input at all; more tokens or a larger damping are needed"
        )
    return torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
