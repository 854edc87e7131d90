"""What a decoder remembers of the tokens it has read, and how many bytes that takes.

``Slots`` is one tensor that grows with the text, with position p in slot p; layers combine slots into what their
paper promises: keys and values, a latent, the keys of an indexer. A ``Cache`` holds one entry a block. No gradient
flows through a cache: it serves generation.

What was read can be taken back, which a guess needs that turns out wrong: ``mark`` before it, ``keep`` after. Slots are
cut; what a block sums up instead (a state, a window) it goes back to and sums up anew.
"""

import torch
from jaxtyping import Shaped

from helpers.layers.ragged import Rows, arrange
from helpers.shapes import Bool, Float, Int, Tensor


class Slots:
    """A row of vectors a sequence, one a position; empty at first. Built in lesson 05."""

    def __init__(self):
        self._room: Tensor | None = None  # B x capacity x ..., zeros where nothing is yet: never NaN under a mask
        self.length = 0  # slots in use, of the longest row
        self.reserved: int | None = None  # slots taken at once and all handed out, whatever is in them

    @property
    def held(self) -> Shaped[Tensor, "B S *rest"]:
        """The slots in use; shorter rows of the batch have meaningless ones at their end."""
        return self._room.narrow(1, 0, self.length)

    def reserve(self, capacity: int) -> None:
        """Take room for ``capacity`` positions at once, in use from the first write on, before anything is held.

        Shapes no longer follow the text, and nobody asks a device where to write: a step can be compiled. What is not
        yet written is zeros behind every query, where a mask by position bars it.
        """
        self.reserved = capacity

    def write(self, new: Shaped[Tensor, "B T *rest"], positions: Int[Tensor, "B T"]) -> Shaped[Tensor, "B S *rest"]:
        """Put ``new`` at its positions (each row's are consecutive); return the slots in use.

        Raises ValueError where the batch or the shape of a vector is not the one already held.
        """
        if self.reserved is not None:
            return self._put(new, positions)
        starts = positions[:, 0].tolist()  # the one time that a GPU is waited for
        self._fit(new, max(starts) + new.shape[1])
        if min(starts) == max(starts):
            self._room.narrow(1, starts[0], new.shape[1]).copy_(new.detach())
        else:
            self._put(new, positions)
        return self.held

    def _put(self, new: Tensor, positions: Tensor) -> Tensor:
        """Write without asking where: each row at its own positions."""
        if self._room is None:
            self._fit(new, self.reserved)
        self._room[torch.arange(len(new), device=new.device)[:, None], positions] = new.detach()
        return self._room

    def _fit(self, new: Tensor, length: int) -> None:
        """Make room for ``length`` slots, twice as many as before when it grows, so that copying stays rare."""
        if self._room is None:
            self._room = new.new_zeros(len(new), length, *new.shape[2:])
        elif (len(new), *new.shape[2:]) != (len(self._room), *self._room.shape[2:]):
            given, kept = (len(new), *new.shape[2:]), (len(self._room), *self._room.shape[2:])
            raise ValueError(f"the cache holds (batch, vector) {kept}; {given} was appended")
        elif length > self._room.shape[1]:
            more = self._room.new_zeros(len(new), max(length, 2 * self._room.shape[1]), *new.shape[2:])
            more[:, : self.length] = self.held
            self._room = more
        self.length = max(self.length, length)

    def cut(self, length: int) -> None:
        """Give up the slots from ``length`` on. Nobody sees what stands there: a mask by position bars it until it is
        overwritten, as it does behind the end of a shorter row."""
        if self.reserved is None:
            self.length = min(self.length, length)

    def bytes(self) -> int:
        """Bytes of the slots in use; the room kept for growth is not counted."""
        return 0 if self._room is None else self.held.numel() * self._room.element_size()


class KeyValues:
    """The keys and values of one attention layer. Built in lesson 05."""

    def __init__(self):
        self.keys, self.values = Slots(), Slots()

    def write(
        self, keys: Float[Tensor, "B T G K"], values: Float[Tensor, "B T G V"], positions: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B S G K"], Float[Tensor, "B S G V"]]:
        """Add the new positions; return all of them, old and new."""
        return self.keys.write(keys, positions), self.values.write(values, positions)

    def reserve(self, capacity: int) -> None:
        """Room for ``capacity`` positions at once: shapes that a step can be compiled for."""
        self.keys.reserve(capacity)
        self.values.reserve(capacity)

    def mark(self) -> None:
        """Nothing: what is read later stands behind what is held."""

    def keep(self, kept: Int[Tensor, "B"], length: int) -> None:
        """Cut behind ``length`` positions; ``kept`` of them came after the mark."""
        self.keys.cut(length)
        self.values.cut(length)

    def bytes(self) -> int:
        """Keys and values: 2 x B x S x G x K x the size of a number where V = K."""
        return self.keys.bytes() + self.values.bytes()


class Cache:
    """One entry a block, and how many tokens of each row have been read. Built in lesson 05."""

    def __init__(self, blocks: list):
        self.blocks = blocks  # whatever each keeps; it has bytes(), mark() and keep()
        self.lengths: Tensor | None = None  # B, tokens read of each row
        self.marked: Tensor | None = None  # B, those read at the mark; None where nothing can be taken back
        # Set once the prompt is read: what comes then the model wrote, and an image's placeholder in it is a word.
        self.words_only = False

    @property
    def length(self) -> int:
        """Tokens read, of the longest row."""
        return 0 if self.lengths is None else int(self.lengths.max())

    def begin(self, token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None) -> Rows:
        """The rows of the next call: they go on where each row of the cache ends."""
        if self.lengths is not None and len(self.lengths) != len(token_ids):
            raise ValueError(f"the cache holds a batch of {len(self.lengths)}; {len(token_ids)} rows were given")
        if self.marked is not None and mask is not None:
            raise ValueError("between mark and keep all rows read equally many tokens; a mask was given")
        return arrange(token_ids, mask, self.lengths)

    def mark(self) -> None:
        """From here on blocks note what they need for ``keep``. Built in lesson 18.

        Raises ValueError for an empty cache: there is nothing to go back to.
        """
        if self.lengths is None:
            raise ValueError("the cache is empty: a mark needs at least one token that was read")
        self.marked = self.lengths
        for block in self.blocks:
            block.mark()

    def keep(self, kept: Int[Tensor, "B"]) -> None:
        """Of the tokens read since ``mark`` keep each row's first ``kept``; the others were never read.

        Raises ValueError where nothing was marked or a row has not read so many. Built in lesson 18.
        """
        if self.marked is None:
            raise ValueError("nothing can be taken back: call mark before what may have to be")
        if (wrong := (kept < 0) | (kept > self.lengths - self.marked)).any():
            read = (self.lengths - self.marked)[wrong].tolist()
            raise ValueError(f"{kept[wrong].tolist()} tokens cannot be kept: {read} were read since the mark")
        self.lengths, self.marked = self.marked + kept, None
        for block in self.blocks:
            block.keep(kept, self.length)

    def reserve(self, capacity: int) -> None:
        """Room for ``capacity`` positions in every block, before anything is read.

        Raises ValueError where a block keeps what has another shape at every length of the text.
        """
        if moving := {type(block).__name__ for block in self.blocks if not hasattr(block, "reserve")}:
            raise ValueError(f"no fixed room for {', '.join(sorted(moving))}: its shapes follow the text")
        for block in self.blocks:
            block.reserve(capacity)

    def end(self, rows: Rows) -> None:
        """These rows have been read by every block."""
        self.lengths = rows.positions[:, 0] + rows.lengths

    def bytes(self) -> int:
        """Bytes held by all blocks."""
        return sum(block.bytes() for block in self.blocks)
