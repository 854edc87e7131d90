"""Compressors: one entry for many tokens, and an indexer that says which entries are worth reading.

- **HCA**, heavily compressed: one entry for each 128 tokens. There are so few that every query reads all of them.
- **CSA**, compressed sparse: one for each 4 tokens, which overlap, so that no phrase is cut; an indexer with entries of
  its own, smaller ones, chooses.

Places of a buffer are positions (``helpers/layers/ragged.py``), so an entry never mixes in padding, left or right.
Source: DeepSeek-AI, "DeepSeek-V4", 2026, sections 2.3.1 and 2.3.2; transformers' ``modeling_deepseek_v4.py``.
"""

from collections.abc import Sequence

import torch
from torch import nn

from helpers.functions import Layer, declared
from helpers.layers.dsa import scores, select_tokens
from helpers.layers.kv_cache import CacheEntry, KVBuffer, rows_joined
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows
from helpers.layers.rope import angles, rotate_last
from helpers.precision import at_least_float32
from helpers.shapes import Bool, Float, Int, Tensor

QUERIES_PER_BLOCK = 32  # of a prompt: index scores are held for 32 x N entries x heads and not for all queries at once


def complete(positions: Int[Tensor, "B T"], ratio: int, entries: int) -> Bool[Tensor, "B T N"]:
    """True for the entries all of whose ``ratio`` tokens the query may see: entry n ends at token (n + 1) ratio - 1.

    Built in lesson `what_came_next`.
    """
    return (torch.arange(entries, device=positions.device) + 1) * ratio <= positions[..., None] + 1


def pool(values: Float[Tensor, "B N L K"], gates: Float[Tensor, "B N L K"]) -> Float[Tensor, "B N K"]:
    """One vector for L: in every channel apart, the mean of the values weighted by the softmax of the gates.

    A gate of -inf leaves its value out. Source: "DeepSeek-V4", equations 9 to 12. Built in lesson `what_came_next`.
    """
    weights = gates.softmax(dim=2, dtype=at_least_float32(gates.dtype))
    return (values * weights.to(values.dtype)).sum(dim=2)


class Recent(CacheEntry):
    """The last ``count`` vectors of each row, the newest at the end; zeros before its first.

    Built in lesson `what_came_next`.
    """

    def __init__(self, count: int):
        self.count = count
        self.held: Tensor | None = None  # B count X
        self._since: Tensor | None = None  # B count_and_T X, from the checkpoint on: what was held, and all that came

    def join(self, new: Float[Tensor, "B T X"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B past_and_T X"]:
        """What was held, then what is new; and hold the last of that, at each row's own end."""
        if self.held is None:
            self.held = new.new_zeros(len(new), self.count, new.shape[2])
        joined = torch.cat([self.held, new], dim=1)
        self.held = self._last(joined.detach(), lengths)
        if self._since is not None:
            self._since = torch.cat([self._since, new.detach()], dim=1)
        return joined

    def _last(self, joined: Float[Tensor, "B past_and_T X"], lengths: Int[Tensor, " B"]) -> Float[Tensor, "B past X"]:
        """The last of each row that has ``lengths`` new ones."""
        place = lengths[:, None] + torch.arange(self.count, device=joined.device)
        return joined.gather(1, place[..., None].expand(-1, -1, joined.shape[2]))

    def checkpoint(self) -> None:
        """From here on keep what falls out of the window too."""
        self._since = self.held

    def rollback(self, accepted: Int[Tensor, " B"], length: int) -> None:
        """The window as it was after each row's first ``accepted`` vectors since the checkpoint."""
        self.held, self._since = self._last(self._since, accepted), None

    def reserve(self, capacity: int) -> None:
        """Nothing: it has one shape whatever ``capacity`` is."""

    def select_rows(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows."""
        self.held = None if self.held is None else self.held[rows]

    def add_rows(self, other: "Recent") -> None:
        """The rows of ``other`` too."""
        self.held = rows_joined(self.held, other.held)

    def bytes(self) -> int:
        """B x count x X x the size of a number, however long the text."""
        return 0 if self.held is None else self.held.numel() * self.held.element_size()


class Entries(CacheEntry):
    """What one compressor remembers: its entries, and the tokens that a coming one still needs.

    Built in lesson `what_came_next`.
    """

    def __init__(self, tail: int, ratio: int):
        self.tail, self.entries, self.ratio = Recent(tail), KVBuffer(), ratio

    def touched(self, rows: Rows) -> tuple[Int[Tensor, "B N"], tuple[int, ...] | None]:
        """The places of the entries that a step makes, and each row's first on the host: those that end in it.

        Where room is reserved, the one that has begun is among them, so that their number does not follow the text. It
        is made again with every token, and ``complete`` hides it until it is whole.
        """
        first, columns = rows.positions[:, :1] // self.ratio, rows.positions.shape[1]
        starts = rows.starts and tuple(start // self.ratio for start in rows.starts)
        if self.entries.reserved is not None:
            count = (columns + self.ratio - 2) // self.ratio + 1
        else:
            ends = ((start + count) // self.ratio for start, count in zip(rows.starts, rows.counts, strict=True))
            count = max(end - start for start, end in zip(starts, ends, strict=True))
        return first + torch.arange(count, device=first.device), starts

    def write(
        self, new: Float[Tensor, "B N K"], places: Int[Tensor, "B N"], starts: Sequence[int] | None
    ) -> Float[Tensor, "B S K"]:
        """Add entries, perhaps none; return all of them."""
        if new.shape[1]:
            return self.entries.write(new, places, starts)
        return self.entries.held if self.entries.length else new

    def reserve(self, capacity: int) -> None:
        """Room for the entries of ``capacity`` tokens, and for those that they begin."""
        self.entries.reserve((capacity + self.ratio - 2) // self.ratio + 1)

    def parts(self) -> dict[str, CacheEntry]:
        """B x (N entries x K + the tail x its width) x the size of a number."""
        return {"tail": self.tail, "entries": self.entries}

    def rollback(self, accepted: Int[Tensor, " B"], length: int) -> None:
        """The tail as it was, and the entries whose tokens are all among the first ``length``."""
        self.tail.rollback(accepted, length)
        self.entries.rollback(accepted, length // self.ratio)


class Compressor(nn.Module):
    """One entry for every ``ratio`` tokens, whose order a bias on the gates may tell; the entry stands at its first.

    With ``overlap`` each token has two values and gates: the second for the entry of its own tokens, the first for the
    next, so that an entry is made of twice as many. Source: "DeepSeek-V4", equations 9 to 12 (CSA) and 20 to 23 (HCA).
    Built in lesson `what_came_next`.
    """

    def __init__(self, width: int, head_dim: int, ratio: int, overlap: bool, epsilon: float):
        super().__init__()
        self.ratio, self.series = ratio, 2 if overlap else 1
        self.value = nn.Linear(width, self.series * head_dim, bias=False)
        self.gate = nn.Linear(width, self.series * head_dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(ratio, self.series * head_dim))
        self.norm = RMSNorm(head_dim, epsilon)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        radians: Float[Tensor, " halfR"],
        cache: Entries | None = None,
    ) -> Float[Tensor, "B N K"]:
        """All entries that are complete in some row; where a row is shorter, and where room is reserved, the last ones
        are meaningless."""
        memory = cache or self.new_cache()
        joined = memory.tail.join(torch.cat([self.value(x), self.gate(x)], dim=-1), rows.lengths)
        places, starts = memory.touched(rows)
        new = self.norm(pool(*self._slots(joined, places, rows.positions[:, :1])))
        new = rotate_last(new[:, :, None], *angles(places * self.ratio, radians, x.dtype)).squeeze(2)
        return new if cache is None else cache.write(new, places, starts)

    def _slots(
        self, joined: Float[Tensor, "B past_and_T X"], places: Int[Tensor, "B N"], start: Int[Tensor, "B 1"]
    ) -> tuple[Float[Tensor, "B N L K"], Float[Tensor, "B N L K"]]:
        """Values and gates of the tokens of each entry: with overlap, first those of the entry before."""
        slots = []
        for series, part in enumerate(joined.unflatten(-1, (2, self.series, -1)).unbind(dim=3)):
            window = places - (self.series - 1 - series)
            position = window[..., None] * self.ratio + torch.arange(self.ratio, device=places.device)  # B N ratio
            column = position - start[..., None] + self._tail
            column = column.clamp(max=joined.shape[1] - 1)  # behind a row's end, where the entry means nothing
            value, gate = part[torch.arange(len(part), device=part.device)[:, None, None], column].unbind(dim=3)
            gate = gate + self.bias.unflatten(1, (self.series, -1))[:, series]
            slots.append((value, gate.masked_fill(position[..., None] < 0, float("-inf"))))
        values, gates = zip(*slots, strict=True)
        return torch.cat(values, dim=2), torch.cat(gates, dim=2)

    @property
    def _tail(self) -> int:
        """Tokens that a coming entry may need: all but one of its own, and with overlap those of the entry before."""
        return self.series * self.ratio - 1

    def new_cache(self) -> Entries:
        """An empty memory of this compressor."""
        return Entries(self._tail, self.ratio)


class EntryIndexer(Layer):
    """Which ``k`` entries each query reads: the lightning indexer of sparse attention, over entries of its own.

    Source: "DeepSeek-V4", equations 13 to 17; transformers' ``DeepseekV4Indexer``. Built in lesson `what_came_next`.
    """

    functions = declared(scores=scores, select_tokens=select_tokens)

    def __init__(self, width: int, query_rank: int, num_heads: int, head_dim: int, ratio: int, k: int, epsilon: float):
        super().__init__()
        self.num_heads, self.k = num_heads, k
        self.compressor = Compressor(width, head_dim, ratio, overlap=True, epsilon=epsilon)
        self.query = nn.Linear(query_rank, num_heads * head_dim, bias=False)
        self.weights = nn.Linear(width, num_heads, bias=False)

    @torch.no_grad()  # places are integers: no gradient passes
    def forward(
        self,
        x: Float[Tensor, "B T D"],
        query_latent: Float[Tensor, "B T C"],
        rows: Rows,
        radians: Float[Tensor, " halfR"],
        cache: Entries | None = None,
    ) -> Int[Tensor, "B T chosen"]:
        """The places of min(k, N) entries, in order; -1 where a query sees fewer."""
        keys = self.compressor(x, rows, radians, cache)
        if not keys.shape[1]:
            return rows.positions[..., None][..., :0]
        query = self.queries(query_latent, rows, radians)
        parts = (part.split(QUERIES_PER_BLOCK, dim=1) for part in (query, self.weights(x)))
        blocks = zip(*parts, rows.pieces(QUERIES_PER_BLOCK), strict=True)
        return torch.cat([self._choose(*block, keys) for block in blocks], dim=1)

    def queries(
        self, query_latent: Float[Tensor, "B T C"], rows: Rows, radians: Float[Tensor, " halfR"]
    ) -> Float[Tensor, "B T H K"]:
        """The index queries, turned by their positions."""
        query = self.query(query_latent).unflatten(-1, (self.num_heads, -1))
        return rotate_last(query, *angles(rows.positions, radians, query.dtype))

    def _choose(
        self,
        query: Float[Tensor, "B T H K"],
        weights: Float[Tensor, "B T H"],
        rows: Rows,
        keys: Float[Tensor, "B N K"],
    ) -> Int[Tensor, "B T chosen"]:
        unseen = ~rows.mask(complete, self.compressor.ratio, keys.shape[1])
        wanted = self.functions["scores"](query, keys, weights).masked_fill(unseen, float("-inf"))
        return self.functions["select_tokens"](wanted, self.k)
