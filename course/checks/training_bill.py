"""Checks of lesson `training_bill`: a price, counted operations, one step of Muon, the choice of a size."""

import math
import random

import torch

from course.exercise.exercise import Exercise, Wrong, attempt, predict, returned, reveal
from helpers.training.bill import attention_flops, gpu_hours, six_nd
from helpers.training.optim import orthogonalise
from helpers.training.scaling import loss_at

__all__ = ["choose", "counted", "muon", "predict", "price", "reveal"]


def _number(answer, *args) -> float:
    got = returned(answer, *args)
    if isinstance(got, bool) or not isinstance(got, (int, float)) or not math.isfinite(got):
        raise Wrong(f"one number is expected, and this is a {type(got).__name__}: {str(got)[:40]}")
    return got


def _near(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-6)


# The warm-up: from operations to dollars.


def _check_price(answer):
    for flops, peak, share, rent in [(3.7e24, 989.0, 0.39, 2.0), (1e18, 312.0, 0.5, 1.5), (7.2e21, 100.0, 1.0, 3.0)]:
        got, right = _number(answer, flops, peak, share, rent), gpu_hours(flops, peak, share) * rent
        if _near(got, right):
            continue
        mistakes = {
            3600: "that is a price of seconds: the rent is for an hour, which has 3,600 of them",
            1e12: "a TFLOP is 10^12 operations: the peak is in TFLOP/s",
            3600e12: "neither the 3,600 seconds of an hour nor the 10^12 operations of a TFLOP are in it",
            share: "that chip reaches its whole peak; it reaches only a share of it, and takes longer",
            share**2: "the share is on the wrong side: using less of the peak takes longer and costs more",
            1 / rent: "that is a number of hours; a price is hours times rent",
        }
        for factor, message in mistakes.items():
            if factor != 1 and _near(got, right * factor):
                raise Wrong(message)
        raise Wrong(
            f"{flops:g} FLOP at {share:g} of {peak:g} TFLOP/s and {rent:g} USD per hour: {right:.6g}, not {got:.6g}"
        )
    return f"{3.7e24:.1e} FLOP at 39 % of an H800 cost {gpu_hours(3.7e24, 989, 0.39) * 2 / 1e6:.2f} M USD at 2 USD/hour"


# Core: the FLOP of training on one token.


def _cases(draw: random.Random):
    """Arguments of the exercise: random sizes, and last a dense model on texts of one token."""
    for _ in range(8):
        experts = draw.choice([8, 16, 64])
        sizes = draw.randint(10, 99) * 100, experts * draw.randint(100, 999), experts, draw.choice([1, 2, 4])
        yield (
            *sizes,
            draw.randint(1, 9),
            draw.randint(1, 9),
            draw.randint(3, 40),
            draw.randint(3, 40),
            draw.randint(2, 999),
        )
    yield 1000, 0, 8, 2, 1, 1, 4, 4, 1


def _check_counted(answer):
    for case in _cases(random.Random(4)):
        always, routed, experts, chosen, layers, heads, keys, values, length = case
        work = six_nd(always + routed * chosen / experts, 1)
        attention = attention_flops(layers, heads, keys, values, length, causal=True)
        got, right = _number(answer, *case), work + 3 * attention
        if _near(got, right):
            continue
        mistakes = {
            work: "that is 6N alone: attention between tokens is missing, and it grows with the length",
            work + attention: "attention is counted forward only: its backward pass makes two products for each one",
            work + 6 * attention: "each token meets half of the text on average, since it looks back only",
            right / 3: "that is the forward pass: training goes backward too, at twice the cost",
            six_nd(always + routed, 1) + 3 * attention: "every expert is counted: a token passes only the chosen ones",
            six_nd(always, 1) + 3 * attention: "no routed expert is left, and some are chosen for every token",
            six_nd(always + routed / experts, 1) + 3 * attention: "one expert counts; several are chosen for a token",
            work
            + 1.5
            * attention: "scores are products with keys and sums of values: a multiplication and an addition each",
        }
        for wrong, message in mistakes.items():
            if _near(got, wrong):
                raise Wrong(message)
        raise Wrong(
            f"for always {always}, routed {routed}, {chosen} of {experts}, length {length}: {right:g}, not {got:g}"
        )
    v3 = six_nd(36.6e9, 1) + 3 * attention_flops(61, 128, 192, 128, 4096, causal=True)
    return f"with DeepSeek-V3's sizes it comes to {v3 / 1e9:.0f} GFLOP per token"


# Core: one step of Muon.


def _step(weight, gradient, mean, lr, momentum, decay, ahead=None, scale=None):
    """The right step, or one with another ``ahead`` or ``scale``."""
    mean = momentum * mean + (1 - momentum) * gradient
    ahead = momentum * mean + (1 - momentum) * gradient if ahead is None else ahead(mean)
    scale = 0.2 * max(weight.shape) ** 0.5 if scale is None else scale
    return weight * (1 - lr * decay) - lr * scale * orthogonalise(ahead, dtype=ahead.dtype), mean


def _check_muon(answer):
    generator = torch.Generator().manual_seed(12)
    for shape in [(6, 4), (3, 11), (5, 5), (1, 7)]:
        weight, gradient, mean = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
        given = (weight.clone(), gradient.clone(), mean.clone(), 0.1, 0.9, 0.3)
        new_weight, new_mean = _two_tensors(attempt(answer, *given), shape)
        if not all(torch.equal(a, b) for a, b in zip(given, (weight, gradient, mean), strict=False)):
            raise Wrong(
                "what you were given has changed: return new tensors, without an underscore at the end of a method"
            )
        _compare_steps(new_weight, new_mean, weight, gradient, mean)
    return "four shapes, tall, wide, square and a single row"


def _two_tensors(got, shape) -> tuple[torch.Tensor, torch.Tensor]:
    if got is None:
        raise Wrong("your function gave None back: is its last line a return?")
    if not isinstance(got, (tuple, list)) or len(got) != 2 or not all(isinstance(t, torch.Tensor) for t in got):
        raise Wrong(f"two tensors are expected, the new weight and the new mean, and this is a {type(got).__name__}")
    if any(tensor.shape != torch.Size(shape) for tensor in got):
        raise Wrong(f"both have the shape {tuple(shape)}, and these have {[tuple(t.shape) for t in got]}")
    return got[0].double(), got[1].double()


def _compare_steps(got, got_mean, weight, gradient, mean):
    lr, momentum, decay = 0.1, 0.9, 0.3
    right, right_mean = _step(weight, gradient, mean, lr, momentum, decay)
    same = lambda a, b: torch.allclose(a, b, rtol=1e-3, atol=1e-4)  # noqa: E731
    if not same(got_mean, right_mean):
        if same(got_mean, momentum * mean + gradient):
            raise Wrong("the mean is a sum here: the gradient enters with the share 1 - momentum")
        if same(got_mean, momentum * gradient + (1 - momentum) * mean):
            raise Wrong("momentum is the share of the old mean that stays, and you gave it to the gradient")
        if same(got_mean, momentum * right_mean + (1 - momentum) * gradient):
            raise Wrong(
                "the mixture for the step was returned as the mean: Nesterov looks ahead and keeps nothing of it"
            )
        raise Wrong("the new mean is not momentum x mean + (1 - momentum) x gradient")
    if same(got, right):
        return
    plain = dict(lr=lr, momentum=momentum, decay=decay)
    mistakes = {
        "that step goes along the mean itself: Nesterov mixes the gradient in once more": _step(
            weight, gradient, mean, **plain, ahead=lambda m: m
        )[0],
        "the scale is missing: 0.2 x the root of the longer side": _step(weight, gradient, mean, **plain, scale=1.0)[0],
        "the scale takes the longer side, and you took the shorter one": _step(
            weight, gradient, mean, **plain, scale=0.2 * min(weight.shape) ** 0.5
        )[0],
        "the decay is missing: the weight also shrinks by lr x decay": right + lr * decay * weight,
        "the step goes uphill: the direction is subtracted": _step(
            weight, gradient, mean, **plain, scale=-0.2 * max(weight.shape) ** 0.5
        )[0],
        "the decay is not multiplied with the learning rate": right + lr * decay * weight - decay * weight,
    }
    for message, wrong in mistakes.items():
        if not same(wrong, right) and same(got, wrong):
            raise Wrong(message)
    raise Wrong(f"for the shape {tuple(weight.shape)} the new weight is up to {(got - right).abs().max():.2g} away")


# The stretch: which size for a budget?

CURVES = {
    "small": [(1e8, 5.0), (1e9, 3.0), (1e11, 2.9)],
    "middle": [(1e9, 4.0), (1e10, 2.6), (2e11, 2.4)],
    "large": [(1e10, 5.0), (1e12, 1.0)],
}


def _right_size(budget: float) -> str | None:
    reached = {name: loss for name, curve in CURVES.items() if (loss := loss_at(curve, budget)) is not None}
    return min(reached, key=reached.get) if reached else None


def _check_choose(answer):
    cases = [
        (2e8, "only the small model was trained at so little: a curve that begins later is no candidate"),
        (1e10, "the end of a run says nothing about this budget: read each curve at the budget itself"),
        (6e9, "between two points the line is straight in log FLOP, and not in FLOP"),
        (5e11, "only the large model was trained so far: a curve that ended earlier is no candidate"),
        (1e12, "a budget at the very end of a curve is still on it"),
        (1e13, "no curve reaches this budget, so the answer is None"),
    ]
    for budget, why in cases:
        got, right = attempt(answer, CURVES, budget), _right_size(budget)
        if got is not None and not isinstance(got, str):
            raise Wrong(f"the name of a size is expected, or None, and this is a {type(got).__name__}")
        if got != right:
            raise Wrong(f"{why}: at {budget:g} FLOP {right!r}, not {got!r}")
    return "six budgets, on the curves, between their points and beyond them"


price = Exercise(
    "price",
    lesson="training_bill",
    check=_check_price,
    hints=[
        "Operations over operations per second are seconds. The chip does share x peak x 10^12 of them a second.",
        "Seconds / 3600 are hours, and hours times rent is the price.",
    ],
    minutes=4,
    difficulty=1,
)
counted = Exercise(
    "counted",
    lesson="training_bill",
    check=_check_counted,
    hints=[
        "Begin with the forward pass: 2 FLOP for each parameter at work. Of the routed ones, chosen / experts work.",
        "Scores cost 2 x key_width a pair, the sum of values 2 x value_width; a token meets length / 2. Then x 3.",
    ],
    minutes=10,
    difficulty=2,
)
muon = Exercise(
    "muon",
    lesson="training_bill",
    check=_check_muon,
    hints=[
        "The new mean is momentum x mean + (1 - momentum) x gradient; mix the NEW mean so again to look ahead.",
        "new weight = weight x (1 - lr x decay) - lr x 0.2 x √(longer side) x orthogonalise(ahead, dtype=ahead.dtype).",
    ],
    minutes=10,
    difficulty=2,
)
choose = Exercise(
    "choose",
    lesson="training_bill",
    check=_check_choose,
    hints=[
        "For each curve look for two neighbours with x0 <= budget <= x1; zip(curve, curve[1:]) gives the neighbours.",
        "The share of the way is log(budget / x0) / log(x1 / x0). Keep each loss in a dict and take the least.",
    ],
    minutes=12,
    difficulty=3,
)
