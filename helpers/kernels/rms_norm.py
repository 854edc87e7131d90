"""RMSNorm in one pass, with the addition before it: sibling of ``helpers.layers.norm.rms_norm``.

    x         [ row 0 ............ ]  <- program 0: load once, square, add up, scale, store
    residual  [ row 1 ............ ]  <- program 1: D padded to a power of two, the rest masked

Written as separate operations a norm reads and writes its rows several times (float32 copy, square, mean, product,
weight). Here each number is read once and written once, which is all that memory must do: 2 N D numbers for the norm
and 4 N D with the addition (two read; the sum and the normed sum written). About 4 FLOP per number: memory decides.
"""

import torch

from helpers.kernels.launch import Variant, kernel, launch, launches, refuse_mixed, refuse_scattered, tile, tl
from helpers.layers import norm
from helpers.measure import Work
from helpers.shapes import Float, Tensor

WIDEST = 2**16  # a row is one tile


def rms_norm(x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], epsilon: float) -> Float[Tensor, "... D"]:
    """``weight * x / sqrt(mean(x^2) + epsilon)``. Gradients flow to ``x`` and ``weight``.

    Raises ValueError for rows that are not whole, another dtype, no rows, and rows wider than 65536.
    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, equation 4. Built in lesson `kernels`.
    """
    if not launches(x.detach()):  # it has a gradient of its own
        return norm.rms_norm(x, weight, epsilon)
    _refuse(x, weight)
    return _Norm.apply(x, weight, epsilon)


def add_rms_norm(
    x: Float[Tensor, "... D"], residual: Float[Tensor, "... D"], weight: Float[Tensor, " D"], epsilon: float
) -> tuple[Float[Tensor, "... D"], Float[Tensor, "... D"]]:
    """The normed sum, and the sum, which is the next residual: a block's two steps in one pass. For inference.

    Raises ValueError as ``rms_norm`` does, and where the two differ in shape. Built in lesson `kernels`.
    """
    if not launches(x, residual, weight):
        return norm.add_rms_norm(x, residual, weight, epsilon)
    _refuse(x, weight)
    refuse_scattered(x=x, residual=residual)
    if residual.shape != x.shape or residual.dtype != x.dtype:
        raise ValueError(f"x is {tuple(x.shape)} {x.dtype}, the residual {tuple(residual.shape)} {residual.dtype}")
    out, added = torch.empty_like(x), torch.empty_like(x)
    _run(_add_rms_norm, x, x, residual, weight, out, added, x.shape[-1], epsilon)
    return out, added


def cost(rows: int, width: int, number_bytes: int = 2, added: bool = False) -> Work:
    """Each number read once and written once, with the addition twice; the weight read once.

    Built in lesson `kernels`.
    """
    numbers = rows * width
    return Work(flops=(5 if added else 4) * numbers, bytes=number_bytes * ((4 if added else 2) * numbers + width))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, epsilon):
        out = torch.empty_like(x)
        _run(_rms_norm, x, x, weight, out, x.shape[-1], epsilon)
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return out

    @staticmethod
    def backward(ctx, grad):
        """With n = x / size and g = grad * weight: dx = (g - n mean(g n)) / size, dw = sum over rows of grad * n."""
        x, weight = ctx.saved_tensors
        grad, rows = grad.contiguous(), x.numel() // x.shape[-1]
        grad_x = torch.empty_like(x)
        parts = torch.empty(rows, x.shape[-1], dtype=torch.float32, device=x.device)  # added up below, in a fixed order
        _run(_rms_norm_backward, x, x, weight, grad, grad_x, parts, x.shape[-1], ctx.epsilon)
        return grad_x, parts.sum(dim=0).to(weight.dtype), None


def _refuse(x: Tensor, weight: Tensor) -> None:
    refuse_scattered(x=x, weight=weight)
    refuse_mixed(x=x, weight=weight)
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"the weight is {tuple(weight.shape)}, but a row of x has {x.shape[-1]} numbers")
    if x.shape[-1] > WIDEST:
        raise ValueError(f"a row of {x.shape[-1]} numbers does not fit one program; {WIDEST} do")


def _run(function, x: Tensor, *arguments) -> None:
    """One program per row; more warps for wider rows."""
    block = tile(x.shape[-1], least=16)
    warps = min(max(block // 512, 1), 16)
    launch(function, (x.numel() // x.shape[-1],), *arguments, warps=warps, BLOCK=block)


@kernel
def _rms_norm(x, weight, out, width, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width  # int64: more than 2^31 numbers are usual
    at = tl.arange(0, BLOCK)
    inside = at < width

    number = tl.load(x + row + at, mask=inside, other=0.0)
    scale = tl.load(weight + at, mask=inside, other=0.0)

    exact = number.to(tl.float32)
    size = tl.rsqrt(tl.sum(exact * exact, axis=0) / width + epsilon)
    normed = (exact * size).to(x.dtype.element_ty)  # rounded before the weight, as the sibling does

    tl.store(out + row + at, normed * scale, mask=inside)


@kernel
def _add_rms_norm(x, residual, weight, out, added, width, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width

    number = tl.load(x + row + at, mask=inside, other=0.0)
    before = tl.load(residual + row + at, mask=inside, other=0.0)
    scale = tl.load(weight + at, mask=inside, other=0.0)

    total = (number.to(tl.float32) + before.to(tl.float32)).to(x.dtype.element_ty)  # the sibling norms the rounded sum
    exact = total.to(tl.float32)
    size = tl.rsqrt(tl.sum(exact * exact, axis=0) / width + epsilon)
    normed = (exact * size).to(x.dtype.element_ty)

    tl.store(added + row + at, total, mask=inside)
    tl.store(out + row + at, normed * scale, mask=inside)


@kernel
def _rms_norm_backward(x, weight, grad, grad_x, parts, width, epsilon, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width

    exact = tl.load(x + row + at, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    came = tl.load(grad + row + at, mask=inside, other=0.0).to(tl.float32)

    size = tl.rsqrt(tl.sum(exact * exact, axis=0) / width + epsilon)
    normed = exact * size
    wanted = came * scale
    along = tl.sum(wanted * normed, axis=0) / width  # what would only make the row longer changes nothing

    tl.store(grad_x + row + at, (size * (wanted - normed * along)).to(x.dtype.element_ty), mask=inside)
    tl.store(parts + row + at, came * normed, mask=inside)


VARIANTS = {  # 7168 is the width of DeepSeek-V3
    "bfloat16": Variant(_rms_norm, "*bf16:16 *bf16:16 *bf16:16 i32:16 fp32", {"BLOCK": 8192}, warps=16),
    "add bfloat16": Variant(_add_rms_norm, " ".join(["*bf16:16"] * 5) + " i32:16 fp32", {"BLOCK": 8192}, warps=16),
    "backward bfloat16": Variant(
        _rms_norm_backward, " ".join(["*bf16:16"] * 4) + " *fp32:16 i32:16 fp32", {"BLOCK": 8192}, warps=16
    ),
}
