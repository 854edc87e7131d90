"""Every number format of the course under one name: encode a matrix, count its bytes, decode it.

A format says which tensors it stores and how they become numbers again; nothing about layers or models. What
``Encoded.tensors()`` gives is what would lie in a file, codes packed and scales in their own types, so its bytes are
the format's true size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from helpers.quant.formats.blocks import check_blocks, check_numbers
from helpers.quant.formats.floats import BF16, E2M1, E4M3, E5M2, pack_fp8, unpack_fp8, values
from helpers.quant.formats.fp4 import MX_GROUP, NV_GROUP, pack_fp4, pack_nvfp4, unpack_fp4, unpack_nvfp4
from helpers.quant.formats.integers import Grid, from_codes, grid_of, int4_codes, round_to, vectorwise
from helpers.quant.formats.normal_float import BLOCK, FP4, NF4, pack_scales, pack_table, unpack_scales, unpack_table
from helpers.quant.formats.packing import pack_pairs, unpack_pairs
from helpers.shapes import Float, Tensor

Shape = tuple[int, int]
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Format:
    """One way to store a matrix of [rows, columns]."""

    about: str  # what a person should know in one line
    shares: str  # which numbers share a scale
    parts: tuple[str, ...]  # the tensors that are stored
    encode: Callable[[Tensor], tuple[Tensor, ...]]  # float32 [O, I] -> the parts
    decode: Callable[[Tensors, Shape], Tensor]  # parts and shape -> float32 [O, I]
    values: Callable[[], Tensor]  # all that a code can stand for before the scale, smallest first
    divides: int = 1  # the width must be a multiple of this


@dataclass(frozen=True)
class Encoded:
    """A matrix in one of FORMATS. Built again from the name, the shape and the tensors, it is the same."""

    format: str
    shape: Shape
    parts: dict[str, Tensor]

    def __post_init__(self):
        wanted = format_of(self.format).parts
        if set(self.parts) != set(wanted):
            raise ValueError(f"{self.format!r} stores {', '.join(wanted)}, and given are {', '.join(self.parts)}")

    def decode(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "O I"]:
        """The matrix decoded from its codes and scales: the original, rounded to the format."""
        return FORMATS[self.format].decode(self.parts, self.shape).to(dtype)

    def tensors(self) -> dict[str, Tensor]:
        """What a file would hold."""
        return dict(self.parts)

    def bytes(self) -> int:
        """Counted from the tensors."""
        return sum(part.numel() * part.element_size() for part in self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """All bytes, scales included, over the numbers of the matrix."""
        return 8 * self.bytes() / (self.shape[0] * self.shape[1])


def encode(weight: Float[Tensor, "O I"], name: str) -> Encoded:
    """``weight`` in the format ``name``, one of FORMATS.

    ValueError for an unknown name, a tensor that is no matrix or has no number in it, a width that the format's groups
    do not divide, NaN, infinity, or a number above 1e37 (of float16: above 32752). Built in lesson `formats`.
    """
    form = format_of(name)
    _check(weight, name, form.divides)
    parts = form.encode(weight.detach().float())
    return Encoded(name, tuple(weight.shape), dict(zip(form.parts, parts, strict=True)))


def format_of(name: str) -> Format:
    """ValueError that lists the names there are."""
    if name not in FORMATS:
        raise ValueError(f"there is no format {str(name)[:40]!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def _check(weight: Tensor, name: str, divides: int) -> None:
    if weight.dim() != 2 or not weight.numel() or not weight.is_floating_point():
        raise ValueError(f"{name!r} stores a matrix of floating point, not {list(weight.shape)} of {weight.dtype}")
    if weight.shape[1] % divides:
        raise ValueError(f"{name!r} needs a width that {divides} divides, and here are {weight.shape[1]} columns")
    try:
        check_numbers(weight)
    except ValueError as error:
        raise ValueError(f"{name!r} cannot store this matrix: {error}") from None


# Integers.


def _rows(parts: Tensors, shape: Shape) -> Tensor:
    return parts["codes"].float() * parts["scale"][:, None]


def _symmetric(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    grid = grid_of(weight, 8, group)
    return round_to(weight, grid).to(torch.int8), grid.scale


def _from_symmetric(parts: Tensors, shape: Shape) -> Tensor:
    codes, scale = parts["codes"], parts["scale"]
    return from_codes(codes, Grid(scale, torch.zeros_like(scale), -127, 127))


def _whole(weight: Tensor) -> tuple[Tensor, Tensor]:
    """One scale for all numbers: the matrix as one long row."""
    codes, scale = _symmetric(weight.reshape(1, -1), weight.numel())
    return codes.view(weight.shape), scale.view(1, 1)


def _from_whole(parts: Tensors, shape: Shape) -> Tensor:
    return parts["codes"].float() * parts["scale"]


def _affine8(weight: Tensor) -> tuple[Tensor, ...]:
    grid = grid_of(weight, 8, symmetric=False)
    return round_to(weight, grid).to(torch.uint8), grid.scale, grid.zero.to(torch.uint8)


def _from_affine8(parts: Tensors, shape: Shape) -> Tensor:
    return from_codes(parts["codes"], Grid(parts["scale"], parts["zero"].float(), 0, 255))


def _int4(weight: Tensor) -> tuple[Tensor, Tensor]:
    codes, scale = int4_codes(weight)
    return pack_pairs(codes + 8), scale


def _from_int4(parts: Tensors, shape: Shape) -> Tensor:
    scale, codes = parts["scale"], unpack_pairs(parts["codes"], shape[1])
    return from_codes(codes.int() - 8, Grid(scale, torch.zeros_like(scale), -7, 7))


def _affine4(weight: Tensor, group: int = 128) -> tuple[Tensor, ...]:
    """bfloat16 scales: published files have float16 of the same size, which a huge number would overflow."""
    grid = grid_of(weight, 4, group, symmetric=False, scale_dtype=torch.bfloat16)
    return pack_pairs(round_to(weight, grid)), grid.scale, pack_pairs(grid.zero.int())


def _from_affine4(parts: Tensors, shape: Shape) -> Tensor:
    zero = unpack_pairs(parts["zero"], parts["scale"].shape[1]).float()
    return from_codes(unpack_pairs(parts["codes"], shape[1]), Grid(parts["scale"], zero, 0, 15))


# Floats and tables.


def _from_fp8(parts: Tensors, shape: Shape) -> Tensor:
    return unpack_fp8(parts["codes"], parts["scale"])


def _from_mxfp4(parts: Tensors, shape: Shape) -> Tensor:
    return unpack_fp4(parts["codes"], parts["scale"])


def _from_nvfp4(parts: Tensors, shape: Shape) -> Tensor:
    return unpack_nvfp4(parts["codes"], parts["scale"], parts["scale_scale"])


def _from_table(parts: Tensors, shape: Shape, table: Tensor) -> Tensor:
    check_blocks(shape, parts["scale"].shape, (1, BLOCK))
    return unpack_table(parts["codes"], parts["scale"], table)


def _double(weight: Tensor) -> tuple[Tensor, ...]:
    codes, most = pack_table(weight, NF4)
    return codes, *pack_scales(most)


def _from_double(parts: Tensors, shape: Shape) -> Tensor:
    most = unpack_scales(parts["scale"], parts["scale_scale"], parts["offset"])
    return unpack_table(parts["codes"], most, NF4)


def _whole_numbers(low: int, high: int) -> Callable[[], Tensor]:
    return partial(torch.arange, low, high + 1, dtype=torch.float32)


def _bf16(weight: Tensor) -> tuple[Tensor]:
    return (weight.to(torch.bfloat16),)


_SCALED, _ZERO = ("codes", "scale"), ("codes", "scale", "zero")
_DOUBLE = ("codes", "scale", "scale_scale", "offset")
_e5m2 = partial(pack_fp8, dtype=torch.float8_e5m2)
_nf4, _fp4 = partial(pack_table, table=NF4), partial(pack_table, table=FP4)
_from_nf4, _from_fp4 = partial(_from_table, table=NF4), partial(_from_table, table=FP4)
_mxfp4 = partial(pack_fp4, cut=True)  # as the standard has it

_int8_values, _e2m1_values = _whole_numbers(-127, 127), partial(values, E2M1)

FORMATS: dict[str, Format] = {
    "bf16": Format(
        "what most checkpoints are published in",
        "none",
        ("codes",),
        _bf16,
        lambda parts, shape: parts["codes"].float(),
        partial(values, BF16),
    ),
    "int8": Format("whole numbers to 127", "a row", _SCALED, vectorwise, _rows, _int8_values),
    "int8-tensor": Format("whole numbers to 127", "the matrix", _SCALED, _whole, _from_whole, _int8_values),
    "int8-group": Format(
        "whole numbers to 127",
        "128 of a row",
        _SCALED,
        partial(_symmetric, group=128),
        _from_symmetric,
        _int8_values,
        divides=128,
    ),
    "int8-affine": Format("0 to 255 and a zero point", "a row", _ZERO, _affine8, _from_affine8, _whole_numbers(0, 255)),
    "int4": Format(
        "whole numbers to 7, as in Kimi K2.5's files",
        "32 of a row",
        _SCALED,
        _int4,
        _from_int4,
        _whole_numbers(-7, 7),
        divides=32,
    ),
    "int4-affine": Format(
        "0 to 15 and a zero point, GPTQ's and AWQ's",
        "128 of a row",
        _ZERO,
        _affine4,
        _from_affine4,
        _whole_numbers(0, 15),
        divides=128,
    ),
    "fp8": Format("E4M3, DeepSeek-V3's", "128 x 128", _SCALED, pack_fp8, _from_fp8, partial(values, E4M3)),
    "fp8-e5m2": Format("E5M2, range before precision", "128 x 128", _SCALED, _e5m2, _from_fp8, partial(values, E5M2)),
    "nf4": Format("quantiles, QLoRA's", "64 of a row", _SCALED, _nf4, _from_nf4, lambda: NF4, divides=BLOCK),
    "nf4-double": Format(
        "NF4 whose scales have 8 bits", "64 of a row", _DOUBLE, _double, _from_double, lambda: NF4, divides=BLOCK
    ),
    "fp4": Format("bitsandbytes' FP4", "64 of a row", _SCALED, _fp4, _from_fp4, lambda: FP4.unique(), divides=BLOCK),
    "mxfp4": Format(
        "E2M1 under powers of two", "32 of a row", _SCALED, _mxfp4, _from_mxfp4, _e2m1_values, divides=MX_GROUP
    ),
    "nvfp4": Format(
        "E2M1 under E4M3",
        "16 of a row",
        ("codes", "scale", "scale_scale"),
        pack_nvfp4,
        _from_nvfp4,
        _e2m1_values,
        divides=NV_GROUP,
    ),
}
