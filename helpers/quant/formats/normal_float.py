"""Four bits that choose from a table of sixteen values between -1 and 1, times the largest number of the block.

NF4's table lies where a normal distribution has its weight, so that each value is chosen about equally often.
bitsandbytes' FP4 is E2M1 over its largest, except for the smallest value. And the scales of the blocks may be
quantised too: double quantisation, eight bits a scale.
"""

import torch
from jaxtyping import UInt8

from helpers.quant.formats.blocks import check_numbers, not_zero
from helpers.quant.formats.integers import grouped
from helpers.quant.formats.packing import pack_pairs, unpack_pairs
from helpers.shapes import Float, Int, Tensor

BLOCK = 64  # numbers that share a scale
SCALES = 256  # scales that share a scale, where they are quantised
OUTERMOST = 0.9677083  # the mean of 1 - 1/32 and 1 - 1/30, as bitsandbytes rounds it: half a step inside the outermost


def nf4_values() -> Float[Tensor, "16"]:
    """Seven negative values, zero, and eight positive ones, each side at even quantiles of a normal distribution.

    In float32 where bitsandbytes rounds, so that all sixteen are bit-equal to its table. Source: Dettmers et al.,
    "QLoRA", 2023, section 3 and appendix E. Built in lesson `formats`.
    """
    positive = _quantiles(9)
    sizes = torch.cat([-_quantiles(8), torch.zeros(1), positive.flip(0)])
    return sizes / positive.max()


def _quantiles(count: int) -> Float[Tensor, " values"]:
    """At ``count`` even steps from the outermost quantile to the middle, without the middle itself, which is zero."""
    chances = torch.linspace(OUTERMOST, 0.5, count)[:-1]
    return torch.special.ndtri(chances.double()).float()


NF4 = nf4_values()
# By code: sign, two bits of exponent, one of fraction. E2M1 over 6 has 1/12 for the code 1, and this table 1/192.
FP4 = torch.tensor([0, 0.0625, 8, 12, 4, 6, 2, 3]) / 12
FP4 = torch.cat([FP4, -FP4])


def nearest_codes(numbers: Float[Tensor, "..."], table: Float[Tensor, " values"]) -> Int[Tensor, "..."]:
    """The index in ``table`` of the value nearest to each number; halfway goes to the smaller.

    Built in lesson `formats`.
    """
    ordered, order = table.to(numbers.device).sort(stable=True)
    return order[torch.bucketize(numbers, (ordered[:-1] + ordered[1:]) / 2)]


def pack_table(
    weight: Float[Tensor, "O I"], table: Float[Tensor, "16"], block: int = BLOCK
) -> tuple[UInt8[Tensor, "O bytes"], Float[Tensor, "O blocks"]]:
    """Two codes per byte, the first in the upper half, and the largest of each block, as bitsandbytes packs them.

    ValueError when the blocks do not divide the width, and as in ``check_numbers``. Built in lesson `formats`.
    """
    check_numbers(weight)
    blocks = grouped(weight.float(), block)
    most = blocks.abs().amax(dim=-1)
    numbers = (blocks * (1 / most.clamp(min=1e-38))[..., None]).clamp(-1, 1)
    return pack_pairs(nearest_codes(numbers.flatten(1), table), first_high=True), most


def unpack_table(
    packed: UInt8[Tensor, "O bytes"], most: Float[Tensor, "O blocks"], table: Float[Tensor, "16"]
) -> Float[Tensor, "O I"]:
    """The numbers again, float32."""
    numbers = table.to(packed.device)[unpack_pairs(packed, first_high=True).int()]
    return (numbers.unflatten(1, (most.shape[1], -1)) * most[..., None]).flatten(1)


def dynamic_values() -> Float[Tensor, "256"]:
    """Eight bits whose fraction grows as the exponent shrinks: seven decades, 1 to 64 even steps in each, and 1.

    Source: Dettmers, "8-Bit Approximations for Parallelism in Deep Learning", 2015; the table is bitsandbytes'.
    """
    sizes = []
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        sizes.append(10.0 ** (decade - 6) * (edges[:-1] + edges[1:]) / 2)
    sizes = torch.cat(sizes)
    return torch.cat([-sizes, sizes, torch.tensor([0.0, 1.0])]).sort().values


DYNAMIC = dynamic_values()


def pack_scales(
    most: Float[Tensor, "O blocks"],
) -> tuple[UInt8[Tensor, "O blocks"], Float[Tensor, " scales"], Float[Tensor, ""]]:
    """Double quantisation: the scales less their mean, in one byte each; 256 of them share a float32; and the mean.

    Source: "QLoRA", 2023, section 3. Built in lesson `formats`.
    """
    mean = (most * 2.0**-20).mean() * 2.0**20  # to the bit bitsandbytes', and many 1e37 sum up within float32
    flat = (most - mean).flatten()
    rows = torch.nn.functional.pad(flat, (0, -len(flat) % SCALES)).view(-1, SCALES)
    outer = rows.abs().amax(dim=1)
    codes = nearest_codes(rows * (1 / not_zero(outer))[:, None], DYNAMIC).flatten()[: len(flat)]
    return codes.to(torch.uint8).view(most.shape), outer, mean


def unpack_scales(
    codes: UInt8[Tensor, "O blocks"], outer: Float[Tensor, " scales"], mean: Float[Tensor, ""]
) -> Float[Tensor, "O blocks"]:
    """The scales again, float32."""
    flat = DYNAMIC.to(codes.device)[codes.flatten().int()]
    return (flat * outer.repeat_interleave(SCALES)[: len(flat)] + mean).view(codes.shape)
