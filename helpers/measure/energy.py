"""Joules, where the machine counts them: Intel's and AMD's counters under Linux. Elsewhere nothing is measured.

A counter covers the whole processor package: other programs on the machine are in the figure too. On most machines
only an administrator may read it, and virtual machines hide it; then ``joules`` is None, and None is what to print.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COUNTERS = Path("/sys/class/powercap")


@dataclass
class Energy:
    """What was used between the begin and the end of a block, in joules; None where no counter can be read."""

    joules: float | None = None


@contextmanager
def measured_energy(root: Path = COUNTERS) -> Iterator[Energy]:
    """``with measured_energy() as energy: ...`` and then ``energy.joules``. Built in lesson `training_bill`."""
    before, energy = _read(root), Energy()
    yield energy
    after = _read(root)
    if before and before.keys() == after.keys():
        energy.joules = sum(_difference(before[zone], after[zone]) for zone in before) / 1e6


def _read(root: Path) -> dict[str, tuple[int, int]]:
    """Zone -> (microjoules, where the counter begins again at zero); zones inside a package are counted in it."""
    found = {}
    for zone in sorted(root.glob("*-rapl:*")):
        if zone.name.count(":") > 1:
            continue
        try:
            microjoules = int((zone / "energy_uj").read_text())
            found[zone.name] = (microjoules, int((zone / "max_energy_range_uj").read_text()))
        except (OSError, ValueError):  # not for this user, or not a counter
            continue
    return found


def _difference(before: tuple[int, int], after: tuple[int, int]) -> int:
    used = after[0] - before[0]
    return used if used >= 0 else used + after[1]
