"""Four bits that are a floating-point number, E2M1, under two kinds of scale.

    MXFP4    32 numbers share a power of two (E8M0, one byte)              gpt-oss, Kimi K3, DeepSeek-V4's experts
    NVFP4    16 numbers share an E4M3 (one byte), all share one float32    Blackwell

The lower three bits of a code say the size, the fourth is the sign.
"""

import torch
from jaxtyping import UInt8

from helpers.quant.formats.blocks import check_blocks, check_numbers, largest, not_zero, spread
from helpers.quant.formats.floats import E4M3, LARGEST_POWER, SMALLEST_POWER, as_float
from helpers.quant.formats.packing import pack_pairs, unpack_pairs
from helpers.shapes import Float, Int, Tensor

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the lower three bits; the fourth is the sign
E2M1_MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
MX_GROUP, NV_GROUP = 32, 16
SMALLEST_SCALE = torch.finfo(torch.float8_e4m3fn).tiny  # of NVFP4's groups: below it the scale itself would lose bits


def pack_fp4(
    weight: Float[Tensor, "rows columns"], group: int = MX_GROUP, cut: bool = False
) -> tuple[Int[Tensor, "rows bytes"], Tensor]:
    """MXFP4: bytes (int8) and ue8m0 scales, a power of two for each group.

    The smallest power with which no number is cut off, or with ``cut`` the standard's, which is half as large where
    the largest number of a group is between 6 and 8 of its steps, and cuts that number to 6. ValueError for an odd
    number of columns, for a byte holds two, and as in ``check_numbers``. Source: Open Compute Project, "OCP
    Microscaling Formats (MX) v1.0", 2023, section 6.3. Built in lesson `formats`.
    """
    if weight.shape[1] % 2:
        raise ValueError(f"FP4 packs two numbers per byte, and {weight.shape[1]} columns are odd")
    check_numbers(weight)
    scale = power_of_two(largest(weight, (1, group)), cut)
    return pack_pairs(e2m1_codes(weight.float() / spread(scale, weight.shape, (1, group)))).view(torch.int8), scale


def unpack_fp4(
    packed: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32, group: int = MX_GROUP
) -> Float[Tensor, "rows columns"]:
    """Two E2M1 numbers per byte, the first in the lower half, times the power of two of their group.

    ``scale`` is ue8m0, or its bytes. ValueError when the scales are not those of the groups. Built in lesson `formats`.
    """
    check_blocks((packed.shape[0], 2 * packed.shape[1]), scale.shape, (1, group))
    numbers = e2m1_values(unpack_pairs(packed))
    return (numbers * spread(as_float(scale), numbers.shape, (1, group))).to(dtype)


def pack_nvfp4(
    weight: Float[Tensor, "rows columns"], group: int = NV_GROUP
) -> tuple[UInt8[Tensor, "rows bytes"], Tensor, Float[Tensor, ""]]:
    """NVFP4: bytes, an E4M3 scale for each group, and the float32 scale of the whole matrix.

    The outer scale makes the largest of the inner ones 448, the most that E4M3 holds. ValueError as in
    ``check_numbers``. Source: NVIDIA, "Pretraining
    Large Language Models with NVFP4", 2025, appendix. Built in lesson `formats`.
    """
    check_numbers(weight)
    most = largest(weight, (1, group))
    outer = not_zero(most.amax() / (E4M3.largest * E2M1[-1]))
    inner = (most / E2M1[-1] / outer).clamp(SMALLEST_SCALE, E4M3.largest).to(torch.float8_e4m3fn)
    steps = ((1 / outer) / inner.float()).clamp(max=torch.finfo(torch.float32).max)
    numbers = weight.float() * spread(steps, weight.shape, (1, group))
    return pack_pairs(e2m1_codes(numbers)), inner, outer


def unpack_nvfp4(
    packed: Tensor, inner: Tensor, outer: Float[Tensor, ""], dtype: torch.dtype = torch.float32, group: int = NV_GROUP
) -> Float[Tensor, "rows columns"]:
    """The numbers again: E2M1 times the scale of its group times the matrix's. Built in lesson `formats`."""
    check_blocks((packed.shape[0], 2 * packed.shape[1]), inner.shape, (1, group))
    numbers = e2m1_values(unpack_pairs(packed))
    return (numbers * spread(inner.float() * outer, numbers.shape, (1, group))).to(dtype)


def power_of_two(most: Float[Tensor, "down across"], cut: bool = False) -> Tensor:
    """The ue8m0 scale of groups whose largest absolute value is ``most``; see pack_fp4 for ``cut``."""
    if cut:
        power = most.frexp().exponent - 1 - 2  # 2^2 is the power of two in E2M1's 6
    else:
        part, power = (most / E2M1[-1]).frexp()
        power = torch.where(part == 0.5, power - 1, power)  # a power of two itself needs no larger one
    power = torch.where(most == 0, SMALLEST_POWER, power).clamp(SMALLEST_POWER, LARGEST_POWER)
    return power.float().exp2().to(torch.float8_e8m0fnu)


def e2m1_codes(numbers: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """The code of the nearest value; in the middle between two, the even code, as IEEE 754 rounds; above 6, 6."""
    sizes, middles = numbers.abs(), torch.tensor(E2M1_MIDDLES, device=numbers.device)
    below, above = torch.bucketize(sizes, middles), torch.bucketize(sizes, middles, right=True)
    return (torch.where(below % 2 == 0, below, above) + 8 * numbers.signbit()).to(torch.uint8)


def e2m1_values(codes: UInt8[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What codes 0 to 15 stand for, float32."""
    sizes = torch.tensor(E2M1, device=codes.device)
    return torch.cat([sizes, -sizes])[codes.int()]
