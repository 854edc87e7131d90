"""Eight bits on both sides: sibling of a layer that rounds its tokens too (``int8-dynamic``), for many tokens.

    x  [ token ........... ]  -> largest of the token -> codes and one scale      _round_tokens: one program per token
                                                            |
    codes of 128 tokens x 128 columns  times  codes of 128 rows x 128 columns     _eight_bit: one program per tile of
    INT8: added up as int32, exact; the two scales once, at the end               128 x 128, along I
    FP8:  each 128 columns have their block's scale, so each product is scaled
          and added in float32, which also keeps the sum from FP8's short adders

FLOP: 2 tokens O I, at twice the rate of 16 bits. Bytes: x read, its codes written and read, O I of codes, the output
written: tokens (2 I + 2 I + 2 O) + O I in 16 bits. From about a thousand tokens on arithmetic decides.
"""

import torch
from torch.nn import functional

from helpers.kernels.launch import Variant, blocks, kernel, launch, launches, refuse_scattered, tile, tl
from helpers.measure import Work
from helpers.quant.backends import DYNAMIC, as_read
from helpers.quant.formats.floats import E4M3, pack_fp8, unpack_fp8
from helpers.quant.formats.integers import INT8_LARGEST
from helpers.quant.formats.named import Encoded
from helpers.shapes import Float, Tensor

SIDE, DEEP = 128, 128  # FP8's blocks are 128 x 128: a tile has one scale per step
WIDEST = 2**15  # a token is one tile
CODES = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
ROUND = tl.constexpr(1.5 * 2.0**23) if tl.constexpr else 0  # added and taken off again: half to even


def eight_bit_linear(x: Float[Tensor, "tokens I"], encoded: Encoded) -> Float[Tensor, "tokens O"]:
    """Tokens, each rounded to eight bits by its largest number, times a matrix in "int8" or "fp8", transposed.

    Raises ValueError for another format, a width that is not the matrix's, tokens in pieces or wider than 32768, and
    FP8 on a GPU before the generation of the H100. Source: Dettmers et al., "LLM.int8()", 2022, section 3; blocks:
    DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, section 3.3. Built in lesson `kernels`.
    """
    if encoded.format not in CODES:
        raise ValueError(f"eight bits on both sides are for {' and '.join(CODES)}, not for {encoded.format!r}")
    if not launches(x):
        return functional.linear(rounded(x, encoded.format), encoded.decode(x.dtype))
    _refuse(x, encoded)
    tokens, (rows, width) = len(x), encoded.shape
    codes, scale = torch.empty_like(x, dtype=CODES[encoded.format]), x.new_empty(tokens, dtype=torch.float32)
    largest = INT8_LARGEST if encoded.format == "int8" else E4M3.largest
    side = tile(width, 16)
    sizes = dict(LARGEST=float(largest), TILE=side, WHOLE=encoded.format == "int8")
    launch(_round_tokens, (tokens,), x, codes, scale, width, warps=min(max(side // 1024, 1), 8), **sizes)
    out, tall = x.new_empty(tokens, rows), tile(tokens, 16, SIDE)
    grid = blocks(rows, SIDE), blocks(tokens, tall)
    parts = codes, scale, encoded.parts["codes"], encoded.parts["scale"], out
    sizes = dict(WHOLE=encoded.format == "int8", TALL=tall, WIDE=SIDE, DEEP=DEEP)
    launch(_eight_bit, grid, *parts, tokens, rows, width, warps=8, **sizes)
    return out


def rounded(x: Float[Tensor, "tokens I"], name: str) -> Float[Tensor, "tokens I"]:
    """What eight bits leave of each token: the readable form of what the layer multiplies.

    Built in lesson `kernels`.
    """
    if name == "int8":
        return as_read(x, DYNAMIC)
    one_scale = (1, x.shape[1])
    return unpack_fp8(*pack_fp8(x, one_scale), x.dtype, one_scale)


def cost(tokens: int, width: int, rows: int) -> Work:
    """Rounding the tokens included. Built in lesson `kernels`."""
    bytes_ = tokens * (2 * width + 2 * width + 2 * rows) + rows * width
    return Work(flops=2.0 * tokens * rows * width, bytes=bytes_)


def _refuse(x: Tensor, encoded: Encoded) -> None:
    refuse_scattered(x=x)
    rows, width = encoded.shape
    if x.dim() != 2 or x.shape[1] != width:
        raise ValueError(f"tokens are {tuple(x.shape)}; a matrix of {rows} x {width} takes rows of {width}")
    if width > WIDEST:
        raise ValueError(f"a token of {width} numbers does not fit one program; {WIDEST} do")
    for part, tensor in encoded.parts.items():
        if tensor.device != x.device or not tensor.is_contiguous():
            raise ValueError(f"{part} is on {tensor.device} with strides {tensor.stride()}; x is on {x.device}")
    if encoded.format == "fp8" and x.device.type == "cuda" and torch.cuda.get_device_capability(x.device) < (8, 9):
        raise ValueError("this GPU has no FP8 products; those of the H100's generation do")


@kernel
def _round_tokens(x, codes, scale, width, LARGEST: tl.constexpr, TILE: tl.constexpr, WHOLE: tl.constexpr):
    token = tl.program_id(0)
    at = tl.arange(0, TILE)
    number = tl.load(x + token.to(tl.int64) * width + at, mask=at < width, other=0.0).to(tl.float32)

    most = tl.max(tl.abs(number), axis=0)
    most = tl.where(most == 0.0, 1.0, most)
    if WHOLE:  # multiplied by the inverse, as the format is
        number = (number * tl.div_rn(LARGEST, most) + ROUND) - ROUND
    else:
        number = _as_e4m3(tl.div_rn(number, tl.div_rn(most, LARGEST) + tl.zeros_like(number)))
    code = tl.minimum(tl.maximum(number, -LARGEST), LARGEST).to(codes.dtype.element_ty)

    tl.store(codes + token.to(tl.int64) * width + at, code, mask=at < width)
    tl.store(scale + token, tl.div_rn(most, LARGEST))


@kernel
def _as_e4m3(number):
    """The nearest number with three bits of fraction, and an exponent of -6 or more. The conversion to FP8 is exact
    then: Triton's interpreter does not round it as a GPU does."""
    exponent = tl.maximum(((number.to(tl.int32, bitcast=True) >> 23) & 0xFF) - 127, -6)
    steps = ((130 - exponent) << 23).to(tl.float32, bitcast=True)  # 2^(3 - exponent): how many in one
    return ((number * steps + ROUND) - ROUND) / steps


@kernel
def _eight_bit(
    x, x_scale, codes, scale, out, tokens, rows, width,
    WHOLE: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * WIDE + tl.arange(0, WIDE)
    token = tl.program_id(1) * TALL + tl.arange(0, TALL)
    total = tl.zeros((TALL, WIDE), tl.int32 if WHOLE else tl.float32)

    for start in range(0, width, DEEP):
        deep = start + tl.arange(0, DEEP)
        left_at = token[:, None].to(tl.int64) * width + deep[None, :]
        right_at = row[None, :].to(tl.int64) * width + deep[:, None]
        left = tl.load(x + left_at, mask=(token < tokens)[:, None] & (deep < width)[None, :], other=0.0)
        right = tl.load(codes + right_at, mask=(row < rows)[None, :] & (deep < width)[:, None], other=0.0)
        if WHOLE:
            total = tl.dot(left, right, total, out_dtype=tl.int32)
        else:
            share = tl.load(scale + tl.program_id(0) * tl.cdiv(width, DEEP) + start // DEEP)
            total += share * tl.dot(left, right)

    of_token = tl.load(x_scale + token, mask=token < tokens, other=0.0)[:, None]
    answer = total.to(tl.float32) * of_token
    if WHOLE:
        answer *= tl.load(scale + row, mask=row < rows, other=0.0)[None, :]
    at = token[:, None].to(tl.int64) * rows + row[None, :]
    tl.store(out + at, answer.to(out.dtype.element_ty), mask=(token < tokens)[:, None] & (row < rows)[None, :])


def _round_variant(codes: str, largest: float) -> Variant:
    sizes = dict(LARGEST=largest, TILE=8192, WHOLE=codes == "i8")
    return Variant(_round_tokens, f"*bf16:16 *{codes}:16 *fp32:16 i32:16", sizes, warps=8)


def _variant(codes: str, chips: tuple[int, ...]) -> Variant:
    types = f"*{codes}:16 *fp32:16 *{codes}:16 *fp32:16 *bf16:16 i32 i32:16 i32:16"
    return Variant(_eight_bit, types, dict(WHOLE=codes == "i8", TALL=SIDE, WIDE=SIDE, DEEP=DEEP), warps=8, chips=chips)


VARIANTS = {
    "round int8": _round_variant("i8", 127.0),
    "int8": _variant("i8", (80, 90)),
    "fp8": _variant("fp8e4nv", (90,)),  # the A100 has no FP8
}
