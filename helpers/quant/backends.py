"""How a packed matrix lies in memory, and how tokens are multiplied with it.

The readable way keeps the tensors of the format as a file would, and decodes the whole matrix before it multiplies: the
definition, and for many tokens also fast. A fast way lays the same codes out as one kernel wants them, for few tokens
(``helpers/quant/cpu.py``). Whatever the way, nothing is lost: the codes come back as they were.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from helpers.quant.formats.integers import vectorwise
from helpers.quant.formats.named import Encoded, Shape, Tensors, encode, format_of
from helpers.shapes import Float, Tensor

DYNAMIC = "int8-dynamic"  # INT8 weights, and the layer rounds its tokens to INT8 too
STORED = {DYNAMIC: "int8"}  # how a layer is named -> the format of its weight, where the two differ


@dataclass(frozen=True)
class Way:
    """One layout, and the product with it."""

    fits: Callable[[Encoded], bool]  # whether this machine has the kernel, and it takes this matrix
    pack: Callable[[Encoded], dict[str, Tensor]]
    unpack: Callable[[Tensors, Shape], dict[str, Tensor]]  # the reverse of pack: the tensors of the format
    decode: Callable[[Tensors, Shape, torch.dtype], Tensor]  # [O, I]
    multiply: Callable[[Tensor, Tensors], Tensor] | None = None  # [tokens, I] -> [tokens, O]
    most_tokens: float = math.inf  # beyond them decoding first is faster
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16,)  # of the tokens that multiply takes
    device: str = "cpu"

    def __deepcopy__(self, memo: dict) -> "Way":
        """Itself: a copied layer is still known to lie as its kernel wants it."""
        return self

    def has_kernel_for(self, x: Float[Tensor, "tokens I"]) -> bool:
        """Whether ``multiply`` takes these tokens, and pays. No kernel has a gradient."""
        wants_gradient = torch.is_grad_enabled() and x.requires_grad
        return (
            self.multiply is not None
            and len(x) <= self.most_tokens
            and x.dtype in self.dtypes
            and x.device.type == self.device
            and not wants_gradient
        )


Ways = Mapping[str, Way]  # name of a layer's format -> its fast way


def readable(name: str) -> Way:
    """The way that every format has, on every device."""
    stored = stored_as(name)
    return Way(
        fits=lambda encoded: True,
        pack=Encoded.tensors,
        unpack=lambda tensors, shape: dict(tensors),
        decode=lambda tensors, shape, dtype: Encoded(stored, shape, dict(tensors)).decode(dtype),
    )


def way_of(name: str, encoded: Encoded, shape: Shape, dtype: torch.dtype, ways: Ways) -> Way:
    """The fast way where there is one for this matrix of ``shape`` and tokens of ``dtype``, else the readable one."""
    fast, device = ways.get(name), next(iter(encoded.parts.values())).device.type
    known = fast and device == fast.device and dtype in fast.dtypes and encoded.shape == shape
    return fast if known and fast.fits(encoded) else readable(name)


def stored_as(name: str) -> str:
    """The format of the weight of a layer: ``int8`` for ``int8-dynamic``. ValueError for a name that is not known."""
    if name not in STORED:
        format_of(name)
    return STORED.get(name, name)


def encoded_as(weight: Float[Tensor, "O I"], name: str, wrap: bool = False) -> Encoded:
    """``weight`` in the format of a layer. ``wrap``: where the format's groups do not divide the width, they run on
    over the ends of the rows, as in bitsandbytes, and the matrix is encoded as one of other rows. ValueError as in
    ``encode``."""
    divides = format_of(stored_as(name)).divides
    wraps = wrap and weight.shape[1] % divides and weight.numel() % divides == 0
    return encode((weight.reshape(-1, divides) if wraps else weight).contiguous(), stored_as(name))


def as_read(x: Float[Tensor, "tokens I"], name: str) -> Float[Tensor, "tokens I"]:
    """What a layer of this name takes of its tokens: themselves, or what INT8 leaves of each."""
    if name != DYNAMIC:
        return x
    codes, scale = vectorwise(x)
    return (codes.float() * scale[:, None]).to(x.dtype)
