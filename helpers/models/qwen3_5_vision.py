"""Qwen3.5 with its eye: the text model, a vision tower, and places in an image for the vectors that come from it.

A vector of an image has one time for the whole image, and the height and the width of its cell (M-RoPE); after the
image the text counts on from its longer side. So an image of 1000 cells takes the room of some 30 positions, and how
far places and tokens have come apart is remembered in the cache, and nowhere else. Built in lesson `forms_and_pdfs`.
Source: Bai et al., "Qwen3-VL Technical Report", 2025 (arXiv 2511.21631); transformers' ``Qwen3_5Model``.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from helpers.layers.kv_cache import Cache, CacheEntry, rows_joined
from helpers.layers.ragged import Rows, arrange, known
from helpers.models.configs.qwen3_5_vision import Config
from helpers.models.qwen3_5 import Qwen3_5
from helpers.shapes import Bool, Float, Int, Tensor
from helpers.vision import images as pictures
from helpers.vision import qwen3_5 as tower


class NextPlace(CacheEntry):
    """Where the next token of each row stands; an image makes it fall behind the number of tokens read."""

    def __init__(self):
        self.next: Tensor | None = None  # B
        self._marked: Tensor | None = None

    def checkpoint(self) -> None:
        """Remember where each row goes on now."""
        self._marked = self.next

    def rollback(self, accepted: Int[Tensor, " B"], length: int) -> None:
        """``accepted`` tokens of text behind the checkpoint."""
        self.next = self._marked + accepted

    def reserve(self, capacity: int) -> None:
        """Raises ValueError: an image moves the places of what follows."""
        raise ValueError("no fixed room for NextPlace: where a token stands follows the images before it")

    def select_rows(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows."""
        self.next = None if self.next is None else self.next[rows]

    def add_rows(self, other: "NextPlace") -> None:
        """The rows of ``other`` too."""
        self.next = rows_joined(self.next, other.next)

    def bytes(self) -> int:
        """One whole number per row."""
        return 0 if self.next is None else self.next.nbytes


def places(
    rows: Rows,
    placeholders: Bool[Tensor, "B T"],
    cells: list[tuple[int, int]],
    start: Int[Tensor, " B"],
) -> tuple[Int[Tensor, "3 B T"], Int[Tensor, " B"]]:
    """Time, height and width of every token, and where each row goes on.

    ``cells`` are the height and the width of each image in cells, whose placeholders are together; ``start`` is the
    place of each row's first token. Built in lesson `forms_and_pdfs`.
    """
    left, columns = iter(cells), rows.token_ids.shape[1]
    if not placeholders.any():
        where = start[:, None] + torch.arange(columns, device=start.device)
        return where.expand(3, -1, -1), start + rows.lengths
    pieces = [_row(row, left, here) for row, here in zip(placeholders.tolist(), start.tolist(), strict=True)]
    where = torch.stack(pieces, dim=1).to(start.device)
    # Behind a row's end places count on by one, as for text.
    return where, where[:, :, -1].amax(dim=0) + 1 - (columns - rows.lengths)


def _row(placeholders: list[bool], cells: Iterator[tuple[int, int]], here: int) -> Int[Tensor, "3 T"]:
    """The places of one row's tokens, from ``here`` on: an image, or words up to the next one, at a time."""
    pieces, t = [], 0
    while t < len(placeholders):
        if placeholders[t]:
            height, width = next(cells)
            time = torch.zeros(1, height * width, dtype=torch.long)
            piece = torch.cat([time, pictures.places(height, width).flatten(0, 1).T])
        else:
            piece = torch.arange([*placeholders, True].index(True, t) - t).expand(3, -1)
        pieces.append(here + piece)
        here, t = here + int(piece.max()) + 1, t + piece.shape[1]
    return torch.cat(pieces, dim=1)


class Qwen3_5Vision(nn.Module):
    """Token ids and images in, one logit for each token of the vocabulary out, at every position."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.text = Qwen3_5(config.text)
        self.vision = tower.Tower(config.vision)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        cache: Cache | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        images: Mapping[str, Tensor] | None = None,
    ) -> Float[Tensor, "B T vocab"]:
        """``images`` as the family's processor returns them: ``pixel_values`` and ``image_grid_thw`` of the images
        whose placeholders are in ``token_ids``, in reading order. ``cache`` and ``mask`` as in the text model.

        Raises ValueError where placeholders, grids and pixels do not fit.
        """
        rows = arrange(token_ids, mask, None) if cache is None else cache.begin(token_ids, mask)
        placeholders = pictures.placeholders(rows, self.config.image_token, images, cache)
        features = None if images is None else self.vision(images)
        cells = [] if images is None else self.vision.cells(images)
        words = known(rows.token_ids.masked_fill(placeholders, 0), self.config.text.vocab_size)
        x = self.text.embedding(words)
        x = pictures.merge_image_features(x, placeholders, features, cells)
        entry = NextPlace() if cache is None else cache.blocks[-1]
        start = torch.zeros_like(rows.lengths) if entry.next is None else entry.next
        where, after = places(rows, placeholders, cells, start)
        logits = self.text.decode(x, where, rows, cache)
        entry.next = after
        return rows.restore(logits)

    def new_cache(self) -> Cache:
        """An empty cache: the text model's, and behind its blocks where each row goes on."""
        return Cache([*self.text.new_cache().blocks, NextPlace()])
