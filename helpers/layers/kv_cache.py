"""What a decoder remembers of the tokens it has read, and how many bytes that takes.

``CacheEntry`` is what every layer's memory can do, ``Cache`` holds one entry per block. ``KVBuffer`` is one tensor that
grows with the text, with position p in slot p; layers combine slots into what their paper promises: keys and values, a
latent, the keys of an indexer. No gradient flows through a cache: it serves generation.

What was read can be taken back, which a guess needs that turns out wrong: ``checkpoint`` before it, ``rollback`` after.
Buffers are cut; what a block sums up instead (a state, a window) it goes back to and sums up anew. Rows of the batch
can be added and removed between two calls, which a server needs whose requests come and go.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Shaped

from helpers.layers.ragged import Rows, arrange, on_host
from helpers.shapes import Bool, Float, Int, Tensor


class CacheEntry:
    """What one layer remembers: parts by their names, each an entry again; the smallest hold tensors and answer alone.

    A kind of memory made of others names its ``parts`` and does no more; one that holds tensors overrides the rest.
    """

    def parts(self) -> Mapping[str, "CacheEntry"]:
        """What it is made of, by the names of its attributes."""
        return {}

    def checkpoint(self) -> None:
        """From here on note what ``rollback`` needs."""
        for part in self.parts().values():
            part.checkpoint()

    def rollback(self, accepted: Int[Tensor, " B"], length: int) -> None:
        """As if each row had read its first ``accepted`` tokens since the checkpoint only; ``length`` is the longest
        row's, in all."""
        for part in self.parts().values():
            part.rollback(accepted, length)

    def reserve(self, capacity: int) -> None:
        """Room for ``capacity`` positions at once: shapes that a step can be compiled for.

        Raises ValueError where what is kept has another shape at every length of the text.
        """
        for part in self.parts().values():
            part.reserve(capacity)

    def select_rows(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order."""
        for part in self.parts().values():
            part.select_rows(rows)

    def add_rows(self, other: "CacheEntry") -> None:
        """Put the rows of ``other``, an entry of the same kind, behind its own."""
        theirs = other.parts()
        for name, part in self.parts().items():
            part.add_rows(theirs[name])

    def bytes(self) -> int:
        """Bytes of what is held."""
        return sum(part.bytes() for part in self.parts().values())

    def slots(self) -> Iterator[tuple["CacheEntry", str]]:
        """Where slots lie, here and in its parts: the entry that has them, and their name there."""
        for name, part in self.parts().items():
            if isinstance(part, KVBuffer):
                yield self, name
            else:
                yield from part.slots()


def rows_joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """The rows of ``a``, then those of ``b``; None stands for nothing held yet."""
    return b if a is None else a if b is None else torch.cat([a, b])


class KVBuffer(CacheEntry):
    """A row of vectors per sequence, one per position; empty at first. Built in lesson `attention`."""

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

    def write(
        self, new: Shaped[Tensor, "B T *rest"], positions: Int[Tensor, "B T"], starts: Sequence[int] | None = None
    ) -> Shaped[Tensor, "B S *rest"]:
        """Put ``new`` at its positions (each row's are consecutive, from ``starts``); return the slots in use.

        Without ``starts``, the first positions on the host, a GPU is waited for.

        Raises ValueError where the batch or the shape of a vector is not the one already held.
        """
        if self.reserved is not None:
            return self._put(new, positions)
        starts = positions[:, 0].tolist() if starts is None else starts
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

    def rollback(self, accepted: Int[Tensor, " B"], length: int) -> None:
        """Give up the slots from ``length`` on. Nobody sees what stands there: a mask by position hides it until it is
        overwritten, as it does behind the end of a shorter row."""
        if self.reserved is None:
            self.length = min(self.length, length)

    def select_rows(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows; slots that only others used stay, unseen."""
        if self._room is not None:
            self._room = self._room[rows]

    def add_rows(self, other: "KVBuffer") -> None:
        """The rows of ``other`` too; the shorter of the two gets zeros behind its end.

        Raises ValueError where one has its room reserved, and the other not as much.
        """
        if self.reserved != other.reserved:
            raise ValueError(f"room for {self.reserved} positions here and for {other.reserved} there: reserve alike")
        if self._room is not None and other._room is not None:
            room = max(self._room.shape[1], other._room.shape[1])
            self._room = torch.cat([_longer(self._room, room), _longer(other._room, room)])
        else:
            self._room = rows_joined(self._room, other._room)
        self.length = max(self.length, other.length)

    def bytes(self) -> int:
        """Bytes of the slots in use; the room kept for growth is not counted."""
        return 0 if self._room is None else self.held.numel() * self._room.element_size()


def _longer(room: Tensor, capacity: int) -> Tensor:
    """``room`` with zeros behind it, up to ``capacity`` positions."""
    more = room.new_zeros(len(room), capacity - room.shape[1], *room.shape[2:])
    return torch.cat([room, more], dim=1)


class KeyValues(CacheEntry):
    """The keys and values of one attention layer. Built in lesson `attention`."""

    def __init__(self):
        self.keys, self.values = KVBuffer(), KVBuffer()

    def write(
        self, keys: Float[Tensor, "B T G K"], values: Float[Tensor, "B T G V"], rows: Rows
    ) -> tuple[Float[Tensor, "B S G K"], Float[Tensor, "B S G V"]]:
        """Add the new positions; return all of them, old and new."""
        where = (rows.positions, rows.starts)
        return self.keys.write(keys, *where), self.values.write(values, *where)

    def parts(self) -> dict[str, CacheEntry]:
        """Keys and values: 2 x B x S x G x K x the size of a number where V = K."""
        return {"keys": self.keys, "values": self.values}


class Cache:
    """One entry per block, and how many tokens of each row have been read. Built in lesson `attention`."""

    def __init__(self, blocks: list[CacheEntry]):
        self.blocks = blocks
        self.lengths: Tensor | None = None  # B, tokens read of each row
        self._counted: tuple[Tensor | None, tuple[int, ...]] = (None, ())  # lengths, and the same on the host
        self.marked: Tensor | None = None  # B, those read at the checkpoint; None where nothing can be taken back
        # Set once the prompt is read: what comes then the model wrote, and an image's placeholder in it is a word.
        self.words_only = False

    @property
    def counts(self) -> tuple[int, ...]:
        """``lengths`` on the host. The device is asked only where they changed in a way that nobody counted."""
        if self._counted[0] is not self.lengths:
            self.counted(on_host(self.lengths))
        return self._counted[1]

    def counted(self, counts: tuple[int, ...]) -> None:
        """Note ``lengths`` on the host: who makes a step knows by how much they grew."""
        self._counted = (self.lengths, counts)

    @property
    def length(self) -> int:
        """Tokens read, of the longest row."""
        return 0 if self.lengths is None else max(self.counts)

    def begin(self, token_ids: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"] | None) -> Rows:
        """The rows of the next call: they go on where each row of the cache ends."""
        if self.lengths is not None and len(self.lengths) != len(token_ids):
            raise ValueError(f"the cache holds a batch of {len(self.lengths)}; {len(token_ids)} rows were given")
        if self.marked is not None and mask is not None:
            raise ValueError("between checkpoint and rollback all rows read equally many tokens; a mask was given")
        starts = None if self.lengths is None or torch.compiler.is_compiling() else self.counts
        return arrange(token_ids, mask, self.lengths, starts)

    def checkpoint(self) -> None:
        """From here on blocks note what they need for ``rollback``. Built in lesson `speculative`.

        Raises ValueError for an empty cache: there is nothing to go back to.
        """
        if self.lengths is None:
            raise ValueError("the cache is empty: a checkpoint needs at least one token that was read")
        self.marked = self.lengths
        for block in self.blocks:
            block.checkpoint()

    def rollback(self, accepted: Int[Tensor, " B"]) -> None:
        """Of the tokens read since ``checkpoint`` keep each row's first ``accepted``; the others were never read.

        Raises ValueError where there is no checkpoint or a row has not read so many. Built in lesson `speculative`.
        """
        if self.marked is None:
            raise ValueError("nothing can be taken back: call checkpoint before what may have to be")
        if (wrong := (accepted < 0) | (accepted > self.lengths - self.marked)).any():
            read = (self.lengths - self.marked)[wrong].tolist()
            raise ValueError(f"{accepted[wrong].tolist()} tokens cannot be kept: {read} were read since the checkpoint")
        self.lengths, self.marked = self.marked + accepted, None
        for block in self.blocks:
            block.rollback(accepted, self.length)

    def reserve(self, capacity: int) -> None:
        """Room for ``capacity`` positions in every block, before anything is read.

        Raises ValueError where a block keeps what has another shape at every length of the text.
        """
        for block in self.blocks:
            block.reserve(capacity)

    def select_rows(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows of the batch, in this order; the others are forgotten.

        Raises ValueError for a row that is not there, for none at all, and between checkpoint and rollback.
        """
        self._check_unmarked()
        batch = 0 if self.lengths is None else len(self.lengths)
        if not len(rows) or (rows < 0).any() or (rows >= batch).any():
            raise ValueError(f"rows {rows.tolist()} cannot be kept; the cache holds rows 0 to {batch - 1}")
        self.lengths = self.lengths[rows]
        for block in self.blocks:
            block.select_rows(rows)

    def add_rows(self, other: "Cache") -> None:
        """Put the rows of ``other``, a cache of the same model, behind its own.

        Raises ValueError between checkpoint and rollback, and for a cache whose blocks are not of the same kinds.
        """
        self._check_unmarked()
        other._check_unmarked()
        ours, theirs = ([type(block).__name__ for block in cache.blocks] for cache in (self, other))
        if ours != theirs:
            raise ValueError(f"rows of a cache with blocks {theirs} cannot be added to one with {ours}")
        for block, more in zip(self.blocks, other.blocks, strict=True):
            block.add_rows(more)
        self.words_only = other.words_only and (self.words_only or self.lengths is None)  # an empty cache has no say
        self.lengths = rows_joined(self.lengths, other.lengths)

    def _check_unmarked(self) -> None:
        if self.marked is not None:
            raise ValueError("between checkpoint and rollback the rows of a cache stay")

    def end(self, rows: Rows) -> None:
        """These rows have been read by every block."""
        self.lengths = rows.positions[:, 0] + rows.lengths
        if rows.starts is not None:
            self.counted(tuple(map(sum, zip(rows.starts, rows.counts, strict=True))))

    def bytes(self) -> int:
        """Bytes held by all blocks."""
        return sum(block.bytes() for block in self.blocks)
