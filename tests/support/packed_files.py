"""Packed matrices as other libraries write them to files: what the tests of readers read."""

import torch

from helpers.quant.formats.integers import int4_codes
from helpers.quant.formats.packing import pack_words
from helpers.shapes import Float, Int, Tensor


def pack_int4(
    weight: Float[Tensor, "rows columns"], group: int = 32, scale_dtype: torch.dtype = torch.bfloat16
) -> tuple[Int[Tensor, "rows words"], Float[Tensor, "rows groups"], Int[Tensor, "2"]]:
    """INT4 as "compressed-tensors" files hold it: int32s of eight codes plus 8, scales, and the shape.

    The last int32 of a row is filled up with zero bits, as there. ValueError as in ``int4_codes``.
    """
    codes, scale = int4_codes(weight, group, scale_dtype)
    return pack_words(codes + 8), scale, torch.tensor(weight.shape, dtype=torch.int32)
