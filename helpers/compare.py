"""How far apart two tensors are, and how far they may be.

Two right implementations of one formula differ, because floating-point addition depends on its order. The size of
that difference follows from the dtype and from how many terms are added, so a tolerance here is computed and not
tuned until a test passes.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

# One element may be this many times worse than the typical one before it is no longer rounding.
WORST_ELEMENT = 10


def randn(*shape: int, seed: int) -> Tensor:
    """Normal numbers to compare on, the same for the same seed whoever drew before."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def max_error(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> float:
    """Largest |a - b|, in float64. Raises ValueError when the shapes differ."""
    a, b = _pair(a, b)
    return (a - b).abs().max().item() if a.numel() else 0.0


def relative_rms(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> float:
    """‖a - b‖ / ‖b‖ in float64; `b` is the reference. Zero when both are zero, infinite when only `b` is."""
    a, b = _pair(a, b)
    error, size = torch.linalg.vector_norm(a - b).item(), torch.linalg.vector_norm(b).item()
    if size == 0:
        return 0.0 if error == 0 else math.inf
    return error / size


def sqnr(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."]) -> float:
    """Signal to (quantisation) noise of ``a`` against the reference ``b``, in dB: 20 dB is an error of a tenth.

    Infinite where they are equal. Built in lesson `formats`.
    """
    error = relative_rms(a, b)
    return -20 * math.log10(error) if error > 0 else math.inf


def tolerance(dtype: torch.dtype, reduction_length: int) -> float:
    """The relative RMS that rounding explains when sums of `reduction_length` terms are taken in `dtype`.

    Rounding errors are about as often up as down, so n of them grow like √n and not like n (Higham and Mary,
    "A New Approach to Probabilistic Rounding Error Analysis", 2019). Each is at most eps / 2; both sides round.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"{dtype} is exact: compare with torch.equal, a tolerance is for floating point")
    if reduction_length < 1:
        raise ValueError(f"reduction_length is {reduction_length}, but a sum has at least 1 term")
    return torch.finfo(dtype).eps * math.sqrt(reduction_length)


def assert_close(a: Shaped[Tensor, "..."], b: Shaped[Tensor, "..."], tolerance: float, name: str) -> None:
    """Raise AssertionError unless `a` equals the reference `b` up to rounding.

    Two conditions: the relative RMS is within `tolerance`, and no single element is WORST_ELEMENT times worse than
    that, so that one wrong value among millions is still seen. NaN never passes.
    """
    relative, worst = relative_rms(a, b), max_error(a, b)
    typical = tolerance * b.double().square().mean().sqrt().item() if b.numel() else 0.0
    if relative <= tolerance and worst <= WORST_ELEMENT * typical:
        return
    raise AssertionError(
        f"{name}: relative RMS {relative:.2e} (allowed {tolerance:.2e}), "
        f"largest error {worst:.2e} (allowed {WORST_ELEMENT * typical:.2e}){_where(a, b)}"
    )


def kl(logits_a: Float[Tensor, "... n"], logits_b: Float[Tensor, "... n"]) -> float:
    """Mean KL(softmax(a) ‖ softmax(b)) over all positions, in nats: 0 when both predict the same."""
    a, b = _pair(logits_a, logits_b)
    a, b = a.log_softmax(-1), b.log_softmax(-1)
    return (a.exp() * (a - b)).sum(-1).mean().clamp_min(0).item()


def top1_agreement(logits_a: Float[Tensor, "... n"], logits_b: Float[Tensor, "... n"]) -> float:
    """The share of positions, 0 to 1, at which both put the same token first."""
    a, b = _pair(logits_a, logits_b)
    return (a.argmax(-1) == b.argmax(-1)).double().mean().item()


def chance_of(counts: Shaped[Tensor, " outcomes"], chances: Float[Tensor, " outcomes"]) -> float:
    """How often draws from ``chances`` stray from them as far as ``counts`` do, or farther: Pearson's chi-square test.

    Draws that follow the chances give any value from 0 to 1, all equally often; a bias gives 0 once the counts are
    large enough to see it. Raises ValueError where an outcome is expected less than five times: the test is not made
    for so few. Built in lesson `speculative`.
    """
    counts, expected = _pair(counts, chances * counts.sum())
    possible = expected > 0
    if counts[~possible].any():
        return 0.0
    if (fewest := expected[possible].min()) < 5:
        raise ValueError(f"an outcome is expected {fewest:.1f} times; 5 or more are needed: draw more often")
    strayed = ((counts - expected).square() / expected)[possible].sum()
    return torch.special.gammaincc((possible.sum() - 1) / 2, strayed / 2).item()


def causality_probe(
    function: Callable[[Shaped[Tensor, "B T ..."]], Shaped[Tensor, "B T ..."]],
    x: Shaped[Tensor, "B T ..."],
    position: int,
) -> float:
    """Change the input from `position` on; return the largest change of the output before it. Causal means 0.0.

    `x` is activations or token ids. Raises ValueError when the output after `position` does not change either:
    such a probe could not have seen a leak.
    """
    if not 0 < position < x.shape[1]:
        raise ValueError(f"position is {position}, but a probe inside {x.shape[1]} positions is 1 to {x.shape[1] - 1}")
    changed = x.clone()
    changed[:, position:] = _different(x[:, position:])
    before, after = function(x), function(changed)
    if torch.equal(before[:, position:], after[:, position:]):
        raise ValueError(f"the output from position {position} on ignores the input there: the probe proves nothing")
    return max_error(after[:, :position], before[:, :position])


def _different(x: Tensor) -> Tensor:
    """Other values at every place; token ids stay inside their vocabulary."""
    return x * -1 + 1.5 if x.is_floating_point() else torch.where(x > 0, x - 1, 1)


def _pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {tuple(a.shape)} and {tuple(b.shape)}")
    return a.detach().double().cpu(), b.detach().double().cpu()


def _where(a: Tensor, b: Tensor) -> str:
    if not a.numel():
        return ""
    index = (a.detach().double().cpu() - b.detach().double().cpu()).abs().argmax()
    place = tuple(int(i) for i in torch.unravel_index(index, a.shape))
    return f" at {place}: {a[place].item():.6g} instead of {b[place].item():.6g}"
