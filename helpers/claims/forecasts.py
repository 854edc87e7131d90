"""How good are probabilities? Brier's score, its decomposition, and the calibration curve. Built in lesson `claims`.

A forecast is a probability between 0 and 1 that something holds, an outcome is 1 when it did and 0 when it did not.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

Forecasts = Sequence[float | int]


@dataclass(frozen=True)
class Bin:
    """The forecasts that fell together: their mean, the share that came true, its 95 % interval, and their number."""

    said: float
    happened: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Decomposition:
    """Brier score = reliability - resolution + uncertainty (Murphy 1973, J. Appl. Meteorology 12, equation 9)."""

    reliability: float
    resolution: float
    uncertainty: float

    @property
    def brier(self) -> float:
        return self.reliability - self.resolution + self.uncertainty


def brier(forecasts: Forecasts, outcomes: Sequence[int]) -> float:
    """The mean squared distance of forecast and outcome: 0 is perfect, 0.25 is what always saying 0.5 gets.

    Raises ValueError for lists of unequal length, empty lists, a forecast outside 0..1, an outcome that is not 0 or 1.
    Source: Brier 1950, Monthly Weather Review 78 (for two classes, and halved as is usual now).
    """
    _require_forecasts(forecasts, outcomes)
    return sum((said - came) ** 2 for said, came in zip(forecasts, outcomes, strict=True)) / len(forecasts)


def decompose(forecasts: Forecasts, outcomes: Sequence[int]) -> Decomposition:
    """Brier's score in three parts, over the groups of equal forecasts. Raises ValueError as ``brier`` does."""
    _require_forecasts(forecasts, outcomes)
    groups = defaultdict(list)
    for said, came in zip(forecasts, outcomes, strict=True):
        groups[said].append(came)
    n, base = len(outcomes), _mean(outcomes)
    return Decomposition(
        reliability=sum(len(came) * (said - _mean(came)) ** 2 for said, came in groups.items()) / n,
        resolution=sum(len(came) * (_mean(came) - base) ** 2 for came in groups.values()) / n,
        uncertainty=base * (1 - base),
    )


def calibration_curve(forecasts: Forecasts, outcomes: Sequence[int], bins: int = 10) -> list[Bin]:
    """What came true of what was said, in ``bins`` equal steps of probability; empty steps are left out."""
    _require_forecasts(forecasts, outcomes)
    steps = defaultdict(list)
    for said, came in zip(forecasts, outcomes, strict=True):
        steps[min(int(said * bins), bins - 1)].append((said, came))
    return [_bin(pairs) for _, pairs in sorted(steps.items())]


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval for a share of ``successes`` in ``n`` (Wilson 1927); z = 1.96 is 95 %. It never leaves 0..1."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"a share needs 0 <= successes <= n and n > 0, got {successes} of {n}")
    share, weight = successes / n, z**2 / n
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / n + weight / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _bin(pairs: list[tuple[float, int]]) -> Bin:
    said, came = zip(*pairs, strict=True)
    return Bin(_mean(said), _mean(came), *wilson_interval(sum(came), len(came)), count=len(came))


def _mean(values: Forecasts) -> float:
    return sum(values) / len(values)


def _require_forecasts(forecasts: Forecasts, outcomes: Sequence[int]) -> None:
    if len(forecasts) != len(outcomes) or not len(forecasts):
        raise ValueError(f"as many forecasts as outcomes, at least one: got {len(forecasts)} and {len(outcomes)}")
    if bad := [said for said in forecasts if not 0 <= said <= 1]:
        raise ValueError(f"a forecast lies between 0 and 1, got {bad[0]!r}")
    if bad := [came for came in outcomes if came not in (0, 1)]:
        raise ValueError(f"an outcome is 0 or 1, got {bad[0]!r}")
