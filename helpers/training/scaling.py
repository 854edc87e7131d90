"""Loss against operations: the best that each budget reached, a power law through it, and how far to believe it."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

Curve = Sequence[tuple[float, float]]  # (FLOP, loss) as a run goes on


@dataclass(frozen=True)
class PowerLaw:
    """loss = floor + factor x FLOP^-exponent."""

    factor: float
    exponent: float
    floor: float = 0.0

    def loss(self, flops: float) -> float:
        return self.floor + self.factor * flops**-self.exponent


def fit_power_law(points: Curve, floor: float = 0.0) -> PowerLaw:
    """The straight line through log FLOP and log (loss - floor), by least squares. Built in lesson `training_bill`.

    ``floor`` is the loss that no budget removes; it is not fitted, because a short range of FLOP cannot tell it.
    ValueError for fewer than 3 points, for points at one budget only, and for a floor that is not below every loss.
    """
    flops, losses = zip(*points, strict=True) if points else ((), ())
    if len(points) < 3 or len(set(flops)) < 2:
        raise ValueError(f"a line with an error needs 3 points at 2 budgets or more, got {len(points)}")
    if floor >= min(losses):
        raise ValueError(f"the floor {floor} must lie below every loss; the least is {min(losses):.4g}")
    x = [math.log(value) for value in flops]
    y = [math.log(value - floor) for value in losses]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - middle_x) ** 2 for a in x
    )
    return PowerLaw(math.exp(middle_y - slope * middle_x), -slope, floor)


def loss_at(curve: Curve, flops: float) -> float | None:
    """The loss of a run at a budget, between two points on a straight line in log FLOP; None outside the run."""
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x0 <= flops <= x1:
            share = math.log(flops / x0) / math.log(x1 / x0)
            return y0 + share * (y1 - y0)
    return None


def frontier(curves: Mapping[str, Curve], budgets: Sequence[float]) -> list[tuple[float, float, str]]:
    """At each budget the lowest loss and the run that reached it; budgets that no run covers are left out.

    Built in lesson `training_bill`.
    """
    best = []
    for budget in budgets:
        reached = [(loss, name) for name, curve in curves.items() if (loss := loss_at(curve, budget)) is not None]
        if reached:
            best.append((budget, *min(reached)))
    return best


def spread(
    curves: Sequence[Mapping[str, Curve]],
    budgets: Sequence[float],
    floors: Sequence[float],
    draws: int = 200,
    seed: int = 0,
) -> dict[float, tuple[float, float, float]]:
    """The exponent for each floor: all seeds together, and the range of 90 % of ``draws`` redrawn experiments.

    ``curves`` holds one mapping size -> run for each seed. A draw takes for every size the run of a random seed, and a
    random half or more of the budgets, so that both the luck of a run and the choice of a range show. Neighbouring
    points of one run are not independent: resampling points alone would promise too much. Built in lesson
    `training_bill`.
    """
    generator = torch.Generator().manual_seed(seed)
    whole = [point[:2] for runs in curves for point in frontier(runs, budgets)]
    redrawn = [_redraw(curves, budgets, generator) for _ in range(draws)]
    out = {}
    for floor in floors:
        exponents = sorted(fit_power_law(points, floor).exponent for points in redrawn)
        low, high = exponents[int(0.05 * draws)], exponents[int(0.95 * draws) - 1]
        out[floor] = (fit_power_law(whole, floor).exponent, low, high)
    return out


def _redraw(curves: Sequence[Mapping[str, Curve]], budgets: Sequence[float], generator: torch.Generator) -> list:
    """The frontier of a mixture of seeds over a random stretch of at least half of the budgets."""
    chosen = {size: curves[_integer(len(curves), generator)][size] for size in curves[0]}
    points = [point[:2] for point in frontier(chosen, budgets)]
    length = max(3, len(points) // 2) + _integer(len(points) - max(3, len(points) // 2) + 1, generator)
    start = _integer(len(points) - length + 1, generator)
    return points[start : start + length]


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (1,), generator=generator))
