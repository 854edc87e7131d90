"""GPU cases of matrix products: packed weights for few tokens, eight bits on both sides for many, the delta rule.

The other side is ``torch.nn.functional.linear`` on the very weights that the packed ones decode to, in bfloat16: both
sides answer the same, up to rounding.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from course.measure.versus import Way, copies, dtype_of, roof_of, rounded, versus
from helpers.kernels import delta_rule
from helpers.kernels.quant import eight_bit, packed_linear
from helpers.layers import delta
from helpers.measure import Measurement, matmul_work
from helpers.quant.formats.named import encode
from helpers.quant.linear import QuantisedLinear
from helpers.use import use

FORMATS = ("int4", "nf4", "fp8", "int8")
ROUNDED = {"int8": 0.03, "fp8": 0.06}  # what rounding the tokens too may change, by relative RMS


@dataclass(frozen=True)
class Matrix:
    """Rows and columns of the weight: a feed-forward matrix of a 7 B model by default, 90 MB in bfloat16."""

    rows: int = 11008
    width: int = 4096

    def weight(self, device: torch.device) -> torch.Tensor:
        torch.manual_seed(0)
        return torch.randn(self.rows, self.width, device=device) / self.width**0.5


def few_tokens_case(
    device: torch.device, matrix: Matrix | None = None, tokens: tuple[int, ...] = (1, 16)
) -> Iterator[Measurement]:
    """One token and a few times a packed matrix, by format, beside bfloat16's product; cold, in a graph."""
    matrix = matrix or Matrix()
    for name in FORMATS:
        layer = packed_layer(matrix, name, device)
        plain = layer.weight
        packs = [layer, *(copy.deepcopy(layer) for _ in range(copies(bytes_of(layer), device) - 1))]
        plains = [plain, *(plain.clone() for _ in range(copies(plain.nbytes, device) - 1))]
        for count in tokens:
            yield from _few(name, packs, plains, count, device)


def packed_layer(matrix: Matrix, name: str, device: torch.device) -> QuantisedLinear:
    """A layer in the format ``name``, by our kernels."""
    linear = nn.Linear(matrix.width, matrix.rows, bias=False, device=device, dtype=dtype_of(device))
    linear.weight = nn.Parameter(matrix.weight(device).to(dtype_of(device)), requires_grad=False)
    return use(QuantisedLinear.of(linear, name).eval(), "triton")


def bytes_of(layer: QuantisedLinear) -> int:
    """Of its codes and scales."""
    return sum(tensor.nbytes for tensor in layer.packed.tensors().values())


def _few(
    name: str, packs: list[QuantisedLinear], plains: list[torch.Tensor], count: int, device: torch.device
) -> Iterator[Measurement]:
    (rows, width), dtype = plains[0].shape, dtype_of(device)
    x = torch.randn(count, width, device=device).to(dtype)
    ours = [partial(layer, x) for layer in packs]
    theirs = [partial(functional.linear, x, weight) for weight in plains]
    bits = 8 * bytes_of(packs[0]) / plains[0].numel()
    slow = Way(f"16 bits beside {name}, {count}", theirs, matmul_work(count, width, rows, 16))
    fast = Way(f"{name}, {count}", ours, packed_linear.cost(count, width, rows, bits))
    yield from versus(slow, fast, [count, rows, width], device, rounded(device), roof_of(device))


def many_tokens_case(device: torch.device, matrix: Matrix | None = None, tokens: int = 4096) -> Iterator[Measurement]:
    """4096 tokens times a matrix, eight bits on both sides with the rounding of the tokens, beside bfloat16's."""
    matrix, dtype = matrix or Matrix(), dtype_of(device)
    x = torch.randn(tokens, matrix.width, device=device).to(dtype)
    for name in eight_bit.CODES:
        encoded = encode(matrix.weight(device), name)
        plain = encoded.decode(dtype)
        theirs, ours = partial(functional.linear, x, plain), partial(eight_bit.eight_bit_linear, x, encoded)
        work = matmul_work(tokens, matrix.width, matrix.rows, 16)
        slow = Way(f"16 bits beside {name}", [theirs], work, graph=False)
        fast = Way(f"{name} on both sides", [ours], eight_bit.cost(tokens, matrix.width, matrix.rows), graph=False)
        shape, roof = [tokens, matrix.rows, matrix.width], roof_of(device, eight_bits=True)
        yield from versus(slow, fast, shape, device, ROUNDED[name], roof)


def delta_prompt_case(
    device: torch.device, length: int = 8192, heads: int = 32, width: int = 128
) -> Iterator[Measurement]:
    """A prompt of 8192 tokens through the gated delta rule of one layer, our kernels beside our readable form."""
    torch.manual_seed(0)
    query, key = (delta.unit_length(torch.randn(1, length, heads, width, device=device)) for _ in range(2))
    value = torch.randn(1, length, heads, width, device=device)
    decay, beta = -torch.rand(1, length, heads, device=device) * 0.1, torch.rand(1, length, heads, device=device)
    given = query * width**-0.5, key, value, decay, beta, torch.zeros(1, heads, width, width, device=device)
    work = delta_rule.cost(length, heads, width, width)
    slow = Way("readable", [lambda: delta.chunked_delta_rule(*given)[0]], work, graph=False)
    fast = Way("ours", [lambda: delta_rule.chunked_delta_rule(*given)[0]], work, graph=False)
    near = 5e-3 if device.type == "cuda" else 1e-4  # tf32 has ten bits of fraction
    yield from versus(slow, fast, [length, heads, width, width], device, near, roof_of(device))
