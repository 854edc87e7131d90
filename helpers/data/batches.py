"""A long row of tokens, cut into shuffled windows to train on."""

import hashlib
from dataclasses import dataclass

import torch

from helpers.shapes import Int, Tensor


@dataclass(frozen=True)
class Batches:
    """Windows of a long row of tokens, shuffled. ``batches[step]`` depends on nothing but the step and the fields.

    So a training that was stopped goes on with the very batch that it would have seen.
    Every pass takes each window once, and cuts the row at another place than the pass before.
    """

    tokens: Int[Tensor, " tokens"]
    batch: int
    length: int
    seed: int

    def __getitem__(self, step: int) -> Int[Tensor, "B T_and_1"]:
        """``length`` + 1 tokens per row: the first ``length`` are read, the last ``length`` are predicted."""
        epoch, place = divmod(step, self.steps_per_pass)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        shift = torch.randint(self.length, (1,), generator=generator)
        order = torch.randperm(self.steps_per_pass * self.batch, generator=generator)
        starts = shift + self.length * order[place * self.batch : (place + 1) * self.batch]
        return self.tokens[starts[:, None] + torch.arange(self.length + 1)].long()

    def identity(self) -> dict:
        """What tells these batches from others, for a checkpoint to remember."""
        tokens = hashlib.sha256(self.tokens.numpy().tobytes()).hexdigest()[:16]
        return {"tokens": tokens, "batch": self.batch, "length": self.length, "seed": self.seed}

    @property
    def steps_per_pass(self) -> int:
        """Batches in one pass over the tokens; one window is kept free, for the shift."""
        return (len(self.tokens) // self.length - 2) // self.batch


def batches(tokens: Int[Tensor, " tokens"], batch: int, length: int, seed: int = 0) -> Batches:
    """Cut ``tokens`` into batches of ``batch`` windows; ValueError where there are too few for one batch."""
    made = Batches(tokens, batch, length, seed)
    if made.steps_per_pass < 1:
        raise ValueError(
            f"{len(tokens)} tokens are too few for one batch of {batch} windows of {length}: "
            f"at least {(batch + 2) * length} are needed"
        )
    return made
