"""Numbers as pictures: rows of digits drawn with five by seven dots, moved about and made noisy, and what they say.

A picture is as wide as its digits need, so that a tower sees images of many sizes, and the digits stand anywhere in it:
no digit keeps to the cells that the tower cuts a picture into.
"""

import hashlib
import itertools
import random
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from helpers.data.tasks import Example, Rows, marked, stack
from helpers.shapes import Float, Int, Tensor

DOTS = (  # seven rows a digit, five dots a row
    "01110 10001 10011 10101 11001 10001 01110",
    "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
GLYPHS = torch.tensor([[[float(dot) for dot in row] for row in dots.split()] for dots in DOTS])
HIGH, WIDE, ADVANCE = 7, 5, 7  # pixels; from one digit to the next
PICTURE = "<|media_pad|>"  # stands in the text once for each cell of a picture


class Shown(NamedTuple):
    """Rows of token ids, and the pictures that stand in them, as the family's processor returns them."""

    rows: Rows
    images: dict[str, Tensor]


def draw(number: str, generator: torch.Generator, noise: float, cell: int = 8) -> Float[Tensor, "3 height width"]:
    """A picture of ``number``: two cells high, wide enough for its digits anywhere, bright on dark.

    Paper is -1 and ink 1 before the noise, whose deviation is ``noise``. ValueError for anything but digits.
    """
    if not number.isascii() or not number.isdigit():
        raise ValueError(f"{number!r} cannot be drawn; 0 to 9 can")
    height, width = 2 * cell, cell * (-(-(ADVANCE * len(number)) // cell) + 1)
    ink = torch.zeros(height, width)
    top = int(torch.randint(height - HIGH + 1, (1,), generator=generator))
    left = int(torch.randint(width - ADVANCE * len(number) + 1, (1,), generator=generator))
    for n, digit in enumerate(number):
        ink[top : top + HIGH, left + n * ADVANCE : left + n * ADVANCE + WIDE] = GLYPHS[int(digit)]
    return 2 * ink - 1 + noise * torch.randn(3, height, width, generator=generator)


def patches(
    picture: Float[Tensor, "3 height width"], side: int
) -> tuple[Float[Tensor, "patches 3 side side"], Int[Tensor, "1 3"]]:
    """The picture cut into patches, row after row, and its grid: frames, rows and columns of patches."""
    rows, columns = picture.shape[1] // side, picture.shape[2] // side
    cut = picture.unflatten(2, (columns, side)).unflatten(1, (rows, side))  # 3 rows side columns side
    return cut.permute(1, 3, 0, 2, 4).flatten(0, 1), torch.tensor([[1, rows, columns]])


def shown(numbers: list[str], tokenizer: Tokenizer, seed: int, noise: float, side: int = 4, merge: int = 2) -> Shown:
    """A text for each number, ``[picture]=1234``, and the pictures. All numbers have equally many digits."""
    generator = torch.Generator().manual_seed(seed)
    cut = [patches(draw(number, generator, noise, side * merge), side) for number in numbers]
    cells = [int(grid.prod()) // merge**2 for _, grid in cut]
    examples = [
        Example("read", PICTURE * count, (("=", f"{number}\n"),)) for count, number in zip(cells, numbers, strict=True)
    ]
    rows = [marked(example, tokenizer) for example in examples]
    pixels, grids = zip(*cut, strict=True)
    images = {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(grids)}
    return Shown(stack(rows, max(map(len, rows)) - 1), images)


def numbers(rng: random.Random, count: int, digits: int) -> list[str]:
    """So many numbers of so many digits, zeros at the front included."""
    return ["".join(rng.choices("0123456789", k=digits)) for _ in range(count)]


@dataclass(frozen=True)
class Pictures:
    """Batches of pictures and what they say; all of one batch have as many digits. ``batches[step]`` depends on the
    step and the fields only. Short numbers come first: on long ones alone a small tower learns nothing for long."""

    tokenizer: Tokenizer
    batch: int
    phases: tuple[tuple[int, tuple[int, ...]], ...]  # so many steps, with numbers of one of these lengths
    noise: float
    seed: int

    def __getitem__(self, step: int) -> Shown:
        """The pictures and texts of one step; behind the last phase its lengths go on."""
        rng = random.Random(f"{self.seed}/{step}")
        chosen = numbers(rng, self.batch, rng.choice(self._lengths(step)))
        return shown(chosen, self.tokenizer, rng.randrange(2**31), self.noise)

    def _lengths(self, step: int) -> tuple[int, ...]:
        ends = itertools.accumulate(steps for steps, _ in self.phases)
        reached = [lengths for end, (_, lengths) in zip(ends, self.phases, strict=True) if step < end]
        return reached[0] if reached else self.phases[-1][1]

    def identity(self) -> dict:
        """What tells these batches from others, for a checkpoint to remember."""
        first = hashlib.sha256(self[0].images["pixel_values"].numpy().tobytes()).hexdigest()[:16]
        return {"pictures": first, "batch": self.batch, "phases": self.phases, "noise": self.noise, "seed": self.seed}
