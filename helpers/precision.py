"""In which type a layer adds up: never in fewer bits than float32, whatever its weights are.

Sums of squares, softmaxes, angles and memories lose their meaning in the 8 bits of a bfloat16. A float64 model stays
float64 all the way, and so is a ruler for the others.
"""

import torch


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """``dtype``, or float32 where it is narrower. Built in lesson `open_a_model`."""
    return torch.promote_types(dtype, torch.float32)
