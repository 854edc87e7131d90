"""Codes of few bits laid into bytes and words.

two in a byte, the first in the lower half    MXFP4, NVFP4, DeepSeek-V4
two in a byte, the first in the upper half    bitsandbytes
eight in an int32, the first lowest           "compressed-tensors", Kimi K2.5: on a machine that writes the
                                              lowest byte first, the same bytes as the first way
a stream of any number of bits                the course's own
"""

import math

import torch
from jaxtyping import Integer, UInt8

from helpers.shapes import Int, Tensor

PLACES = tuple(range(0, 32, 4))  # bits at which the eight codes of a word begin


def pack_pairs(codes: Integer[Tensor, "rows columns"], first_high: bool = False) -> UInt8[Tensor, "rows bytes"]:
    """Codes 0 to 15, two in each byte. A row of odd width ends with a zero. ValueError for another code.

    Built in lesson `formats`.
    """
    _refuse_wide(codes)
    even = torch.nn.functional.pad(codes.to(torch.uint8), (0, codes.shape[1] % 2))
    first, second = even[:, ::2], even[:, 1::2]
    return (first << 4 | second) if first_high else (first | second << 4)


def unpack_pairs(
    packed: Integer[Tensor, "rows bytes"], columns: int | None = None, first_high: bool = False
) -> UInt8[Tensor, "rows columns"]:
    """The codes again; ``columns`` where a row was of odd width."""
    both = packed.contiguous().view(torch.uint8)
    halves = (both >> 4, both & 15) if first_high else (both & 15, both >> 4)
    return torch.stack(halves, dim=-1).flatten(1)[:, :columns]


def pack_words(codes: Integer[Tensor, "rows columns"]) -> Int[Tensor, "rows words"]:
    """Codes 0 to 15, eight in each int32; the last word of a row is filled up with zeros, as compressed-tensors does.

    Source: compressed-tensors 0.20.1, ``pack_to_int32``. ValueError for another code.
    """
    _refuse_wide(codes)
    eights = torch.nn.functional.pad(codes.long(), (0, -codes.shape[1] % 8)).unflatten(1, (-1, 8))
    return (eights << torch.tensor(PLACES, device=codes.device)).sum(-1).to(torch.int32)


def unpack_words(packed: Int[Tensor, "rows words"], columns: int) -> Int[Tensor, "rows columns"]:
    """The codes again, as int32."""
    places = torch.tensor(PLACES, dtype=torch.int32, device=packed.device)
    return (packed[:, :, None] >> places & 15).flatten(1)[:, :columns]


def pack_bits(codes: Int[Tensor, "*rest columns"], bits: int) -> UInt8[Tensor, "*rest bytes"]:
    """Codes of ``bits`` bits each, 1 to 8, as one stream a row, lowest bit first; the last byte is filled with zeros.

    For widths that no published file has, such as three bits. ValueError for a code that is wider. Built in lesson
    `quantise_moe`.
    """
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < 2**bits:
        raise ValueError(f"{bits} bits hold 0 to {2**bits - 1}, and the codes go to {int(codes.max())}")
    stream = (codes[..., None].int() >> torch.arange(bits, device=codes.device) & 1).flatten(-2)
    eights = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (eights << torch.arange(8, device=codes.device)).sum(-1).to(torch.uint8)


def unpack_bits(packed: UInt8[Tensor, "*rest bytes"], bits: int, columns: int) -> UInt8[Tensor, "*rest columns"]:
    """The codes again."""
    stream = (packed[..., None] >> torch.arange(8, device=packed.device) & 1).flatten(-2)[..., : columns * bits]
    places = torch.arange(bits, device=packed.device)
    return (stream.unflatten(-1, (columns, bits)).int() << places).sum(-1).to(torch.uint8)


def check_words(shape: tuple[int, int], packed: tuple[int, ...]) -> None:
    """ValueError unless a matrix of ``shape`` fills int32s of the shape ``packed``, eight numbers each."""
    needed = (shape[0], math.ceil(shape[1] / 8))
    if tuple(packed) != needed:
        raise ValueError(f"is {list(shape)} in {list(packed)} int32s, and {list(needed)} are needed")


def _refuse_wide(codes: Tensor) -> None:
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) <= 15:
        raise ValueError(f"four bits hold 0 to 15, and the codes go from {int(codes.min())} to {int(codes.max())}")
