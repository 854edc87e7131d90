"""Small floating-point numbers: a sign, a few bits of exponent, a few of fraction; and FP8 with a scale per block.

    E4M3    FP8 of weights: DeepSeek-V3      E5M2    FP8 of gradients: range before precision
    E2M1    FP4: MXFP4, NVFP4                E8M0    only an exponent: a scale that is a power of two

Close to zero their steps are even (subnormal numbers); from 2^(1 - bias) on each doubling of size doubles the step.
"""

from typing import NamedTuple

import torch

from helpers.quant.formats.blocks import Block, check_blocks, check_numbers, largest, not_zero, spread
from helpers.shapes import Float, Tensor


class Kind(NamedTuple):
    """How the bits of a number after its sign are shared out."""

    exponent_bits: int
    fraction_bits: int
    largest: float  # what lies above is infinite, not a number, or does not exist

    @property
    def lowest_exponent(self) -> int:
        """Of a normal number: 1 - bias."""
        return 2 - 2 ** (self.exponent_bits - 1)


E4M3, E5M2, E2M1 = Kind(4, 3, 448.0), Kind(5, 2, 57344.0), Kind(2, 1, 6.0)
BF16 = Kind(8, 7, torch.finfo(torch.bfloat16).max)
FP8 = {torch.float8_e4m3fn: E4M3, torch.float8_e5m2: E5M2}
SMALLEST_POWER, LARGEST_POWER = -127, 127  # of E8M0, a byte that holds an exponent plus 127


def values(kind: Kind) -> Float[Tensor, "values"]:
    """Every number of the kind from smallest to largest, float32; zero once. Built in lesson `formats`."""
    fractions = torch.arange(2**kind.fraction_bits, dtype=torch.float64) / 2**kind.fraction_bits
    exponents = torch.arange(2**kind.exponent_bits - 1, dtype=torch.float64) + kind.lowest_exponent
    normal = ((1 + fractions) * exponents.exp2()[:, None]).flatten()
    sizes = torch.cat([fractions[1:] * 2.0**kind.lowest_exponent, normal]).float()
    sizes = sizes[sizes <= kind.largest]
    return torch.cat([-sizes.flip(0), torch.zeros(1), sizes])


def round_to_kind(x: Float[Tensor, "..."], kind: Kind) -> Float[Tensor, "..."]:
    """The nearest number of the kind, float32; halfway goes to the even fraction, beyond the largest to the largest.

    Built in lesson `formats`.
    """
    exponent = x.float().frexp().exponent - 1  # |x| is 1.something times two to this
    step = (exponent.clamp(min=kind.lowest_exponent) - kind.fraction_bits).float().exp2()
    return ((x.float() / step).round() * step).clamp(-kind.largest, kind.largest)


def unpack_fp8(
    weight: Float[Tensor, "rows columns"],
    scale: Tensor,
    dtype: torch.dtype = torch.float32,
    block: Block = (128, 128),
) -> Float[Tensor, "rows columns"]:
    """``weight`` (FP8) times the scale of its block (float, or ue8m0; called ``weight_scale_inv`` in the files).

    ValueError when the scales are not those of ``block``; the block is never guessed from their number.
    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.3. Built in lesson `formats`.
    """
    check_blocks(weight.shape, scale.shape, block)
    return (weight.float() * spread(as_float(scale), weight.shape, block)).to(dtype)


def pack_fp8(
    weight: Float[Tensor, "rows columns"], block: Block = (128, 128), dtype: torch.dtype = torch.float8_e4m3fn
) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, "down across"]]:
    """The reverse: FP8 numbers and float32 scales, such that the largest number of each block becomes the format's.

    ValueError as in ``check_numbers``.
    """
    check_numbers(weight)
    most = FP8[dtype].largest
    scale = not_zero(largest(weight, block) / most)
    numbers = weight.float() / spread(scale, weight.shape, block)
    return numbers.clamp(-most, most).to(dtype), scale


def as_float(scale: Tensor) -> Tensor:
    """Scales as numbers: ue8m0 lies in some files as plain bytes."""
    return (scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale).float()
