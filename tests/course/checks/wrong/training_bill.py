"""Known wrong answers of lesson `training_bill`, each with a piece of the message that it must get."""

import itertools
import math

from helpers.training.optim import orthogonalise


def _counted(forward=3, half=0.5, share=lambda chosen, experts: chosen / experts, between=True, backward=True):
    """A count with one mistake."""

    def count(always, routed, experts, chosen, layers, heads, key_width, value_width, length):
        weights = 2 * (always + routed * share(chosen, experts))
        attention = layers * heads * 2 * (key_width + value_width) * length * half if between else 0
        return forward * weights + (forward if backward else 1) * attention

    return count


def _muon(mean_of=None, ahead_of=None, scale=None, sign=1, decays=lambda lr, decay: lr * decay, in_place=False):
    """A step with one mistake."""

    def step(weight, gradient, mean, lr, momentum, decay):
        new = mean_of(mean, gradient, momentum) if mean_of else momentum * mean + (1 - momentum) * gradient
        ahead = ahead_of(new, gradient) if ahead_of else momentum * new + (1 - momentum) * gradient
        factor = scale(weight.shape) if scale else 0.2 * max(weight.shape) ** 0.5
        moved = weight * (1 - decays(lr, decay)) - sign * lr * factor * orthogonalise(ahead, dtype=ahead.dtype)
        if in_place:
            weight.copy_(moved)
        return moved, new

    return step


def _choose(read, inside=lambda curve, budget: curve[0][0] <= budget <= curve[-1][0]):
    """A choice that reads the loss of a curve in its own way."""

    def choose(curves, budget):
        losses = {name: read(curve, budget) for name, curve in curves.items() if inside(curve, budget)}
        return min(losses, key=losses.get) if losses else None

    return choose


def _straight(curve, budget, scale=math.log):
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 <= budget <= x1:
            return y0 + (y1 - y0) * (scale(budget) - scale(x0)) / (scale(x1) - scale(x0))
    return curve[0][1] if budget < curve[0][0] else curve[-1][1]


WRONG = {
    "price": [
        (lambda flops, peak, share, rent: flops / (peak * 1e12 * share) * rent, "a price of seconds"),
        (lambda flops, peak, share, rent: flops / (peak * share) / 3600 * rent, "a TFLOP is 10^12"),
        (lambda flops, peak, share, rent: flops / (peak * 1e12) / 3600 * rent, "its whole peak"),
        (lambda flops, peak, share, rent: flops / (peak * 1e12) * share / 3600 * rent, "on the wrong side"),
        (lambda flops, peak, share, rent: flops / (peak * 1e12 * share) / 3600, "a number of hours"),
        (lambda flops, peak, share, rent: flops / (peak * share) * rent, "neither the 3,600"),
        (lambda flops, peak, share, rent: 5.576e6, "not 5.576e+06"),
    ],
    "counted": [
        (_counted(between=False), "that is 6N alone"),
        (_counted(backward=False), "counted forward only"),
        (_counted(half=1.0), "half of the text"),
        (_counted(forward=1), "that is the forward pass"),
        (_counted(share=lambda chosen, experts: 1), "every expert is counted"),
        (_counted(share=lambda chosen, experts: 0), "no routed expert is left"),
        (_counted(half=0.25), "a multiplication and an addition each"),
        (lambda *sizes: 0.5, "not 0.5"),
    ],
    "muon": [
        (_muon(ahead_of=lambda mean, gradient: mean), "along the mean itself"),
        (_muon(mean_of=lambda mean, gradient, momentum: momentum * mean + gradient), "the mean is a sum"),
        (_muon(mean_of=lambda mean, gradient, m: m * gradient + (1 - m) * mean), "you gave it to the gradient"),
        (_muon(scale=lambda shape: 1.0), "the scale is missing"),
        (_muon(scale=lambda shape: 0.2 * min(shape) ** 0.5), "you took the shorter one"),
        (_muon(decays=lambda lr, decay: 0), "the decay is missing"),
        (_muon(decays=lambda lr, decay: decay), "not multiplied with the learning rate"),
        (_muon(sign=-1), "uphill"),
        (_muon(in_place=True), "what you were given has changed"),
        (lambda weight, *rest: weight, "two tensors are expected"),
    ],
    "choose": [
        (_choose(lambda curve, budget: curve[-1][1]), "read each curve at the budget itself"),
        (_choose(lambda curve, budget: _straight(curve, budget, scale=float)), "straight in log FLOP"),
        (_choose(_straight, inside=lambda curve, budget: True), "a curve that begins later"),
        (
            _choose(_straight, inside=lambda curve, budget: curve[0][0] <= budget < curve[-1][0]),
            "at the very end of a curve",
        ),
        (lambda curves, budget: min(curves, key=lambda name: curves[name][-1][1]), "a curve that begins later"),
        (lambda curves, budget: curves, "the name of a size is expected"),
    ],
}
