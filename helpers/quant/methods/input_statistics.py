"""What a linear layer is fed with on a text, in the few numbers that a rounder needs: nothing keeps the text itself.

A layer answers x W^T. Round W to W + E, and its answer is off by x E^T. The mean square of that, over all tokens, is
e H e^T for each row e of E, with H = mean of x^T x: the text enters through H alone.
"""

from typing import NamedTuple

from helpers.shapes import Float, Tensor


class Inputs(NamedTuple):
    """The inputs of one layer, summed up over many tokens."""

    hessian: Float[Tensor, "I I"]  # mean of x^T x: half the second derivative of the squared error, whence the name
    size: Float[Tensor, " I"]  # mean |x| of each column: AWQ's measure
    largest: Float[Tensor, " I"]  # max |x| of each column: SmoothQuant's
    tokens: int

    @classmethod
    def of(cls, x: Float[Tensor, "*tokens I"]) -> "Inputs":
        """Sum up ``x``. Built in lesson `gptq_awq`.

        ValueError where there is no token, a number that is not finite, or one whose squares leave float32.
        """
        rows = x.detach().float().flatten(0, -2)
        if not len(rows) or not rows.isfinite().all():
            raise ValueError(f"{len(rows)} tokens, all of them finite: {bool(rows.isfinite().all())}; some are needed")
        hessian = rows.T @ rows / len(rows)
        _refuse_infinite(hessian, "inputs", rows)
        return cls(hessian, rows.abs().mean(dim=0), rows.abs().amax(dim=0), len(rows))


def output_error(error: Float[Tensor, "O I"], inputs: Inputs) -> Float[Tensor, " O"]:
    """The mean square by which each output is off when the weights are off by ``error``.

    ValueError where it is no finite number of float32. Built in lesson `gptq_awq`.
    """
    squares = ((error @ inputs.hessian) * error).sum(dim=1)
    _refuse_infinite(squares, "weights", error)
    return squares


def _refuse_infinite(squares: Tensor, what: str, of: Tensor) -> None:
    if not squares.isfinite().all():
        raise ValueError(f"{what} up to {of.abs().max().item():.3g}: sums of their squares are no numbers of float32")
