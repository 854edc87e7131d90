"""The packed layers of a model by our kernels: what ``helpers/quant/cpu.py`` is on a CPU, for an NVIDIA GPU.

    quantise(model, "int4")
    use(model, "triton")                      on a GPU, in 16 bits: the codes are laid out anew, and stay the same

Few tokens are multiplied with the codes as they lie in memory; beyond 64 the matrix is decoded first, once for all.
"""

from functools import partial

import torch

from helpers.kernels.launch import INTERPRETED, launches
from helpers.kernels.quant import dequantise, eight_bit, packed_linear
from helpers.quant.backends import DYNAMIC, Way, Ways
from helpers.quant.formats.named import Encoded, Shape, Tensors
from helpers.shapes import Float, Tensor

MOST_TOKENS = 64  # a guess until a GPU has measured it: LOG.md
# Where kernels run, and the dtypes of the tokens: Triton's interpreter gets bfloat16 wrong.
DEVICE, DTYPES = ("cpu", (torch.float32, torch.float16)) if INTERPRETED else ("cuda", (torch.bfloat16, torch.float16))


def _fits(encoded: Encoded) -> bool:
    return launches(encoded.parts["codes"])


def _unpack(tensors: Tensors, shape: Shape, name: str) -> dict[str, Tensor]:
    return dequantise.take_back(dict(tensors), name, shape).parts


def _decode(tensors: Tensors, shape: Shape, dtype: torch.dtype, name: str) -> Float[Tensor, "O I"]:
    return dequantise.take_back(dict(tensors), name, shape).decode(dtype)


def _multiply(x: Float[Tensor, "tokens I"], tensors: Tensors, name: str) -> Float[Tensor, "tokens O"]:
    return packed_linear.multiply(x.contiguous(), dict(tensors), name)


def _rounded(x: Float[Tensor, "tokens I"], tensors: Tensors) -> Float[Tensor, "tokens O"]:
    return eight_bit.eight_bit_linear(x.contiguous(), Encoded("int8", tuple(tensors["codes"].shape), dict(tensors)))


GPU: Ways = {
    name: Way(
        _fits,
        dequantise.lay,
        partial(_unpack, name=name),
        partial(_decode, name=name),
        partial(_multiply, name=name),
        MOST_TOKENS,
        DTYPES,
        DEVICE,
    )
    for name in dequantise.FORMATS
}
GPU |= {
    DYNAMIC: Way(
        _fits, Encoded.tensors, lambda t, _: dict(t), GPU["int8"].decode, _rounded, dtypes=DTYPES, device=DEVICE
    )
}
