"""Pairs to remember, as token ids: the smallest text whose recall can be counted, for models that learn in seconds.

A row tells some keys with a value each, ``k v k v ...``, perhaps several rounds of it with new values, and then asks
for keys; the right answer is the value that was told last. Keys are the ids 0 to ``words`` - 1, values the next
``words``. The same task in invented words, for trained models, is ``helpers.data.tasks.recall``.
Source: Arora et al., "Zoology", 2023 (arXiv 2312.04927), section 3.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch

from helpers.shapes import Int, Tensor


class Pairs(NamedTuple):
    """Rows of ids, and the values that their last columns ask for."""

    token_ids: Int[Tensor, "B T"]  # told pairs, then the keys that are asked for
    answers: Int[Tensor, "B questions"]  # of the last columns, as ids


def tell_pairs(generator: torch.Generator, batch: int, pairs: int, words: int, rounds: int = 1) -> Pairs:
    """``rounds`` times ``pairs`` pairs, in a new order and with new values each time; then every key is asked once.

    ValueError where there are not that many different keys, or nothing is told. Built in lesson `deltanet`.
    """
    if not 1 <= pairs <= words or rounds < 1:
        raise ValueError(
            f"{pairs} pairs in {rounds} rounds were asked for; 1 to {words} pairs and 1 round or more exist"
        )
    keys = torch.rand(batch, words, generator=generator).argsort(dim=1)[:, :pairs]
    told = []
    for _ in range(rounds):
        values = torch.randint(words, 2 * words, (batch, pairs), generator=generator)
        order = torch.rand(batch, pairs, generator=generator).argsort(dim=1)
        told.append(torch.stack([keys, values], dim=2).gather(1, order[..., None].expand(-1, -1, 2)).flatten(1))
    asked = torch.rand(batch, pairs, generator=generator).argsort(dim=1)
    return Pairs(torch.cat([*told, keys.gather(1, asked)], dim=1), values.gather(1, asked))


@dataclass(frozen=True)
class PairBatches:
    """Batches for ``helpers.training.train``: ``batches[step]`` depends on the step and the fields only.

    Each has its own number of pairs, 2 to ``most_pairs``, and of rounds, 1 to ``most_rounds``.
    """

    words: int
    most_pairs: int
    most_rounds: int
    batch: int
    seed: int = 0

    def __getitem__(self, step: int) -> Pairs:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        pairs = int(torch.randint(2, self.most_pairs + 1, (1,), generator=generator))
        rounds = int(torch.randint(1, self.most_rounds + 1, (1,), generator=generator))
        return tell_pairs(generator, self.batch, pairs, self.words, rounds)

    def identity(self) -> dict:
        """What tells these batches from others, for a checkpoint to remember."""
        return asdict(self)
