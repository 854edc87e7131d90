"""Rows of unequal length in one batch, without a word about padding in any layer.

``arrange`` moves the real tokens of each row to its front and counts positions over real tokens only. From there on
a row looks as it would alone, with something meaningless behind its end: a causal layer never sees what is
behind, a cache keeps position p in slot p and overwrites it later, and a recurrent layer stops at ``lengths``.
``restore`` brings results back to where the caller's tokens stood. Left padding, right padding and holes are all one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Shaped

from helpers.shapes import Bool, Float, Int, Tensor


@dataclass(frozen=True)
class Rows:
    """The tokens of one call, real ones first, and what follows from where they stand. Built in lesson `attention`.

    Made once per step and handed to every layer: no layer makes a mask that another one has made, and none asks a
    device where the text ends.
    """

    token_ids: Int[Tensor, "B T"]
    positions: Int[Tensor, "B T"]  # counted on behind a row's end
    lengths: Int[Tensor, " B"]  # real tokens in this call
    order: Int[Tensor, "B T"] | None  # the column that each token came from; None where nothing moved
    columns: int  # of the caller's batch, padding included
    # Each row's first position and its real tokens, on the host. None where only the device knows: in a compiled step.
    starts: tuple[int, ...] | None
    counts: tuple[int, ...] | None
    _made: dict = field(default_factory=dict, repr=False, compare=False)

    @property
    def real(self) -> Bool[Tensor, "B T"]:
        """True for real tokens, False behind the end of a row."""
        if "real" not in self._made:
            columns = torch.arange(self.token_ids.shape[1], device=self.lengths.device)
            self._made["real"] = columns < self.lengths[:, None]
        return self._made["real"]

    @property
    def end(self) -> int | None:
        """The position behind the last one of all rows; None where only the device knows."""
        return None if self.starts is None else max(self.starts) + self.positions.shape[1]

    def mask(self, rule: Callable[..., Tensor], *sizes: int) -> Bool[Tensor, "B T S"]:
        """``rule(positions, *sizes)``, made for the first layer that asks and handed to every other."""
        if (rule, sizes) not in self._made:
            self._made[rule, sizes] = rule(self.positions, *sizes)
        return self._made[rule, sizes]

    def pieces(self, size: int) -> Iterator["Rows"]:
        """At most ``size`` columns at a time: a long prompt's masks are made for a piece and gone with it."""
        columns = self.positions.shape[1]
        if columns <= size:
            yield self
            return
        for begin in range(0, columns, size):
            yield self._piece(slice(begin, min(begin + size, columns)))

    def _piece(self, part: slice) -> "Rows":
        width = part.stop - part.start
        return replace(
            self,
            token_ids=self.token_ids[:, part],
            positions=self.positions[:, part],
            lengths=(self.lengths - part.start).clamp(0, width),
            order=None,
            columns=width,
            starts=self.starts and tuple(start + part.start for start in self.starts),
            counts=self.counts and tuple(min(max(count - part.start, 0), width) for count in self.counts),
            _made={},
        )

    def restore(self, x: Float[Tensor, "B T X"]) -> Float[Tensor, "B T_and_padding X"]:
        """``x`` in the caller's order of columns; what stands at padding has no meaning."""
        if self.order is None:
            return x
        wide = x.new_zeros(len(x), self.columns, x.shape[2])
        return wide.scatter(1, self.order[..., None].expand_as(x), x)


def arrange(
    token_ids: Shaped[Tensor, "..."],
    mask: Shaped[Tensor, "..."] | None,
    start: Int[Tensor, " B"] | None,
    starts: tuple[int, ...] | None = None,
) -> Rows:
    """The rows of one call: ``token_ids`` and ``mask`` are B x T, whole numbers and True for real tokens (None: all);
    ``start`` are the positions already read, ``starts`` the same on the host, where they are known there.

    Where ``mask`` says padding, any id may stand: it is read as 0. Raises ValueError for ids that are no batch of whole
    numbers, for a mask of another shape or of anything but True and False, or for a row without a real token.
    """
    check_ids(token_ids)
    batch, length = token_ids.shape
    if start is None:
        start, starts = torch.zeros(batch, dtype=torch.long, device=token_ids.device), (0,) * batch
    starts = on_host(start) if starts is None else starts
    positions = start[:, None] + torch.arange(length, device=token_ids.device)
    if mask is None:
        return Rows(token_ids, positions, torch.full_like(start, length), None, length, starts, (length,) * batch)
    check_mask(token_ids, mask)
    lengths = mask.sum(dim=1)
    counts = tuple(lengths.tolist())
    longest = max(counts)
    order = (~mask).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]  # real tokens first, in their order
    front = token_ids.masked_fill(~mask, 0).gather(1, order)
    return Rows(front, positions[:, :longest], lengths, order, length, starts, counts)


def standing_at(positions: Int[Tensor, "B T"]) -> Rows:
    """Rows of whatever tokens at these positions, consecutive in each row: for a layer that is called on its own."""
    return arrange(torch.zeros_like(positions), None, positions[:, 0])


def on_host(numbers: Int[Tensor, " B"]) -> tuple[int, ...] | None:
    """``numbers`` as Python's, for which a GPU is waited for; None inside what is compiled, which cannot wait."""
    return None if torch.compiler.is_compiling() else tuple(numbers.tolist())


def known(token_ids: Int[Tensor, "B T"], vocab_size: int) -> Int[Tensor, "B T"]:
    """``token_ids`` for an embedding of ``vocab_size`` rows. Raises ValueError for an id that it does not have.

    Looked at on the CPU only: a GPU would have to be waited for (``helpers.generate`` looks at each prompt once).
    """
    if looking_is_free(token_ids):
        check_vocabulary(token_ids, vocab_size)
    return token_ids


def looking_is_free(x: Tensor) -> bool:
    """Whether numbers of ``x`` can be looked at without waiting for a device, and outside what is compiled."""
    return x.is_cpu and not torch.compiler.is_compiling()


def check_vocabulary(token_ids: Int[Tensor, "B T"], vocab_size: int) -> None:
    """ValueError for a token id below 0 or not below ``vocab_size``."""
    lowest, highest = (bound.item() for bound in token_ids.aminmax())
    if lowest < 0 or highest >= vocab_size:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"token id {wrong} is outside the vocabulary: 0 to {vocab_size - 1} are allowed")


def check_ids(token_ids: Tensor) -> None:
    """ValueError for what is no batch of whole numbers with a token."""
    no_number = token_ids.is_floating_point() or token_ids.is_complex() or token_ids.dtype == torch.bool
    if token_ids.dim() != 2 or not token_ids.numel() or no_number:
        given = f"{token_ids.dtype} of the shape {tuple(token_ids.shape)}"
        raise ValueError(f"token_ids are {given}; they must be whole numbers (rows, tokens), one token or more a row")


def check_mask(token_ids: Tensor, mask: Tensor) -> None:
    """ValueError for a mask that is not boolean, of another shape, or without a real token in a row."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask holds {mask.dtype}; it must hold True for real tokens and False for padding")
    if mask.shape != token_ids.shape:
        raise ValueError(f"mask has the shape {tuple(mask.shape)}; token_ids have {tuple(token_ids.shape)}")
    if not mask.any(dim=1).all():
        empty = (~mask.any(dim=1)).nonzero().flatten().tolist()
        raise ValueError(f"row {', '.join(map(str, empty))} of mask has no real token; every row needs one")


def padded(rows: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Rows of token ids made equally long with zeros on the left, and the mask that is True for the real ones."""
    longest = max(map(len, rows))
    token_ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros(len(rows), longest, dtype=torch.bool)
    for number, row in enumerate(rows):
        token_ids[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = True
    return token_ids, mask
