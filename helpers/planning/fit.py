"""Which model fits on which machine: its weights in a format, the cache of some texts, and room to work in.

What is counted is bytes; nothing here says how fast the machine answers. Where several chips share a model, each matrix
is taken to be cut evenly among them, and the cache too: latents that every chip must read whole need more.
"""

from dataclasses import dataclass

from helpers.facts import table
from helpers.planning.plan import Plan
from helpers.units import GB

ROOM = 0.1  # of the memory: activations, buffers, the pieces between; serving software keeps about as much free
CARDS = {"24 GB card": 24, "96 GB card": 96}  # by size alone, of whatever maker; GB
COUNTS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Machine:
    """Chips of one kind that share a model."""

    chip: str
    count: int
    chip_bytes: float

    @property
    def name(self) -> str:
        return f"{self.count} x {self.chip}"

    @property
    def memory_bytes(self) -> float:
        return self.count * self.chip_bytes


@dataclass(frozen=True)
class Fit:
    """What a model needs of a machine."""

    machine: Machine
    weights_bytes: float
    cache_bytes: float  # of one text
    texts: int

    @property
    def room_bytes(self) -> float:
        """What stays free."""
        return ROOM * self.machine.memory_bytes

    @property
    def needed_bytes(self) -> float:
        """Weights, the caches of all texts, and the room."""
        return self.weights_bytes + self.texts * self.cache_bytes + self.room_bytes

    @property
    def fits(self) -> bool:
        return self.needed_bytes <= self.machine.memory_bytes

    @property
    def most_texts(self) -> int:
        """How many texts of that length find room beside the weights; 0 where the weights alone do not."""
        left = self.machine.memory_bytes - self.room_bytes - self.weights_bytes
        return max(0, int(left // self.cache_bytes))


def machine(chip: str, count: int = 1) -> Machine:
    """So many chips of ``helpers/facts/hardware.toml``, the smallest form where it lists two, or of CARDS.

    ValueError for a chip that is in neither, or a count below one. Built in lesson `quantise_moe`.
    """
    known = chips()
    if chip not in known:
        raise ValueError(f"there is no chip {chip!r}; there are {', '.join(known)}")
    if count < 1:
        raise ValueError(f"{count} x {chip}: a machine has one chip or more")
    return Machine(chip, count, known[chip] * GB)


def chips() -> dict[str, float]:
    """Every chip and its memory in GB."""
    return CARDS | {row["chip"]: row["memory_gb"][0] for row in table("hardware")}


def machines(*kinds: str, counts: tuple[int, ...] = COUNTS) -> dict[str, Machine]:
    """Name -> machine, smallest memory first: each of ``kinds`` in each count."""
    made = [machine(chip, count) for chip in kinds for count in counts]
    return {one.name: one for one in sorted(made, key=lambda one: one.memory_bytes)}


def fit(
    plan: Plan,
    on: Machine,
    format: str = "bf16",
    routed: str | None = None,
    tokens: int = 0,
    texts: int = 1,
    cache_bits: float = 16,
) -> Fit:
    """``plan`` on the machine ``on``: weights in ``format`` (``routed`` for the routed experts), and the caches of
    ``texts`` texts of ``tokens`` tokens, ``cache_bits`` for each number of them with its share of the scales.

    ValueError for an unknown format, or for negative numbers. Built in lesson `quantise_moe`.
    """
    if texts < 0 or cache_bits <= 0:
        raise ValueError(f"{texts} texts at {cache_bits} bits per number: 0 texts or more, and some bits, are needed")
    return Fit(on, plan.weight_bytes(format, routed), plan.cache_bytes(tokens, cache_bits / 8), texts)
