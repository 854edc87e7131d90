"""What every corpus is: documents by name, and how it is decided which of them no training sees."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Corpus:
    """Documents by name, in a fixed order: those to train on, and those that no training sees."""

    train: dict[str, str]
    held_out: dict[str, str]


def share(name: str) -> float:
    """A number in [0, 1) that stands for a name, the same everywhere."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
