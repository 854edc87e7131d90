"""What the tests of kernels share: where they run, at which widths of numbers, and how near to float64 they must be."""

import inspect

import pytest
import torch

from helpers.compare import assert_close, randn, tolerance
from helpers.kernels.launch import INTERPRETED, launched, triton

WHERE = "cpu" if INTERPRETED or triton is None else "cuda"
DTYPES = [torch.float32, torch.float16]  # bfloat16 is wrong in the interpreter; on a GPU it is rounded as float16 is

needs_triton = pytest.mark.skipif(triton is None, reason="there is no Triton for this system")
in_both = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float16"])


def numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal numbers where the kernels run."""
    return randn(*shape, seed=seed).to(WHERE, dtype)


def near_float64(answer: torch.Tensor, exact: torch.Tensor, terms: int, name: str) -> None:
    """The answer's dtype and the length of its sums say how near."""
    assert exact.dtype == torch.float64
    assert_close(answer, exact, tolerance(answer.dtype, terms), name)


def launches_of(function, *arguments):
    """What a wrapper gives, and which kernels it launched how often."""
    with launched() as count:
        answer = function(*arguments)
    return answer, dict(count)


def refused(function, *arguments, message: str) -> None:
    """A ValueError of the wrapper's own; the checks that the tests put round it would speak first."""
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(function)(*(a.to(WHERE) if isinstance(a, torch.Tensor) else a for a in arguments))
