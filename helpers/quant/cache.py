"""A cache whose numbers are packed: keys, values and latents in 8 to 2 bits, with the bytes that they really take.

Rounding is along one of two axes. **Token**: the numbers of one token share a scale, group by group; each token can be
stored as soon as it is there. **Channel**: one channel of many tokens shares a scale, which suits keys, where a few
channels are large for every token. It needs a block of tokens to be complete, so the newest wait in full precision.
Source: Liu et al., "KIVI", 2024 (arXiv 2402.02750): keys along channels, values along tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from helpers.layers.kv_cache import Cache, KVBuffer, rows_joined
from helpers.quant.formats.integers import Grid, from_codes, grid_of, round_to
from helpers.quant.formats.packing import pack_bits, unpack_bits
from helpers.shapes import Float, Int, Tensor

TOKEN, CHANNEL = "token", "channel"


@dataclass(frozen=True)
class Rule:
    """How one kind of number is rounded: so many bits, along an axis, so many numbers under one scale."""

    bits: int
    along: str = TOKEN
    group: int = 32  # numbers of a token, or tokens of a channel

    def __post_init__(self):
        if not 2 <= self.bits <= 8 or self.group < 1:
            raise ValueError(f"{self.bits} bits in groups of {self.group}; 2 to 8 bits and 1 number or more can be had")
        if self.along not in (TOKEN, CHANNEL):
            raise ValueError(f"along is {self.along!r}; it is {TOKEN!r} or {CHANNEL!r}")

    def grid(self, rows: Float[Tensor, "rows columns"]) -> Grid:
        """The grid of each group of each row, its scale in bfloat16; one group where the row is shorter."""
        return grid_of(rows, self.bits, min(self.group, rows.shape[1]), symmetric=False, scale_dtype=torch.bfloat16)


def packed_cache(cache: Cache, rules: Mapping[str, Rule]) -> Cache:
    """``cache``, still empty, with packed slots in the place of those that ``rules`` name; all others stay.

    Names are those of the layers: "keys" and "values", "latent", "k_rope" and "index_keys". ValueError for a name
    that no block has, or a cache that holds tokens already; the cache is then as it was. Built in lesson
    `quantise_moe`.
    """
    if cache.length:
        raise ValueError(f"the cache holds {cache.length} tokens already: it is packed before it is filled")
    found = [place for block in cache.blocks for place in block.slots()]
    names = {name for _, name in found}
    if missing := set(rules) - names:
        kept = ", ".join(sorted(names)) or "no slots"
        raise ValueError(f"no block of this cache keeps {', '.join(sorted(missing))}; {kept} are kept")
    for entry, name in found:
        if name in rules:
            setattr(entry, name, TokenSlots(rules[name]) if rules[name].along == TOKEN else ChannelSlots(rules[name]))
    return cache


class TokenSlots(KVBuffer):
    """A buffer whose numbers are rounded token by token; what a layer reads is what is stored, of the newest token too.

    Codes, scales and zeros lie in slots of their own. Built in lesson `quantise_moe`.
    """

    def __init__(self, rule: Rule):
        super().__init__()
        self.rule, self.codes, self.scale, self.zero = rule, KVBuffer(), KVBuffer(), KVBuffer()

    def reserve(self, capacity: int) -> None:
        """Room for ``capacity`` positions at once."""
        for slots in self._each():
            slots.reserve(capacity)

    def write(
        self, new: Float[Tensor, "B T *rest"], positions: Int[Tensor, "B T"], starts: Sequence[int] | None = None
    ) -> Float[Tensor, "B S *rest"]:
        """Round and pack ``new`` at its positions; return all slots, decoded."""
        rows = new.flatten(0, 1).flatten(1)
        grid = self.rule.grid(rows)
        codes = pack_bits(round_to(rows, grid), self.rule.bits)
        parts = (codes, grid.scale, grid.zero.to(torch.uint8))
        codes, scale, zero = (
            slots.write(part.unflatten(0, new.shape[:2]), positions, starts)
            for slots, part in zip(self._each(), parts, strict=True)
        )
        self.length = self.codes.length
        held = Grid(scale.flatten(0, 1), zero.flatten(0, 1).float(), grid.low, grid.high)
        numbers = from_codes(unpack_bits(codes.flatten(0, 1), self.rule.bits, rows.shape[1]), held)
        return numbers.view(*codes.shape[:2], *new.shape[2:]).to(new.dtype)

    def rollback(self, accepted: Int[Tensor, " B"], length: int) -> None:
        """Give up the slots from ``length`` on."""
        for slots in self._each():
            slots.rollback(accepted, length)
        self.length = self.codes.length

    def select_rows(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows."""
        for slots in self._each():
            slots.select_rows(rows)

    def add_rows(self, other: "TokenSlots") -> None:
        """The rows of ``other`` too."""
        for slots, more in zip(self._each(), other._each(), strict=True):
            slots.add_rows(more)
        self.length = self.codes.length

    def bytes(self) -> int:
        """Codes, scales and zeros of the slots in use."""
        return sum(slots.bytes() for slots in self._each())

    def _each(self) -> tuple[KVBuffer, KVBuffer, KVBuffer]:
        return self.codes, self.scale, self.zero


class ChannelSlots(KVBuffer):
    """A buffer whose numbers are rounded along the tokens, block by block; the newest, in no full block yet, stay as
    they are. Every row must be as long as the others, since a block closes for all of them at once. Built in lesson
    `quantise_moe`.
    """

    def __init__(self, rule: Rule):
        super().__init__()
        self.rule, self.codes, self.scale, self.zero = rule, KVBuffer(), KVBuffer(), KVBuffer()
        self.newest: Tensor | None = None  # B x fewer than a block x ..., in full precision

    def reserve(self, capacity: int) -> None:
        """ValueError: blocks close as the text grows."""
        raise ValueError("no fixed room along channels: a block of tokens is rounded when it is full")

    def write(
        self, new: Float[Tensor, "B T *rest"], positions: Int[Tensor, "B T"], starts: Sequence[int] | None = None
    ) -> Float[Tensor, "B S *rest"]:
        """Add ``new`` behind what is held, close the blocks that are full, and return all slots, decoded.

        ValueError where rows are not equally long, or do not go on where the cache ends.
        """
        self._check(positions[:, 0].tolist() if starts is None else starts)
        waiting = new if self.newest is None else torch.cat([self.newest, new], dim=1)
        full = waiting.shape[1] // self.rule.group * self.rule.group
        if full:
            self._close(waiting[:, :full])
        self.newest, self.length = waiting[:, full:].detach(), self.length + new.shape[1]
        return torch.cat([self._decoded(new), self.newest], dim=1) if self.codes.length else self.newest

    def rollback(self, accepted: Int[Tensor, " B"], length: int) -> None:
        """Give up the slots from ``length`` on. ValueError where that would open a block that is closed."""
        if length < self.codes.length:
            raise ValueError(f"{self.codes.length} tokens lie in closed blocks; the cache cannot go back to {length}")
        self.newest, self.length = self.newest[:, : length - self.codes.length], min(self.length, length)

    def select_rows(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows."""
        for slots in (self.codes, self.scale, self.zero):
            slots.select_rows(rows)
        self.newest = None if self.newest is None else self.newest[rows]

    def add_rows(self, other: "ChannelSlots") -> None:
        """The rows of ``other`` too. Raises ValueError where they are not as long: blocks close for all at once."""
        if self.length and other.length and self.length != other.length:
            raise ValueError(f"rows of {self.length} and {other.length} tokens: along channels all are equally long")
        for name in ("codes", "scale", "zero"):
            getattr(self, name).add_rows(getattr(other, name))
        self.newest, self.length = rows_joined(self.newest, other.newest), max(self.length, other.length)

    def bytes(self) -> int:
        """Codes, scales and zeros of the closed blocks, and the newest tokens as they are."""
        waiting = 0 if self.newest is None else self.newest.nbytes
        return waiting + sum(slots.bytes() for slots in (self.codes, self.scale, self.zero))

    def _check(self, starts: Sequence[int]) -> None:
        if {*starts} != {self.length}:
            said = ", ".join(map(str, sorted({*starts})))
            raise ValueError(f"rows go on at {said}, the cache at {self.length}: along channels all are equally long")

    def _close(self, full: Float[Tensor, "B T *rest"]) -> None:
        """Round whole blocks: each channel of a block has a grid of its own."""
        batch, blocks = len(full), full.shape[1] // self.rule.group
        channels = full.flatten(2).unflatten(1, (blocks, -1)).mT  # B blocks W L
        grid = self.rule.grid(channels.flatten(0, 2))
        codes = round_to(channels.flatten(0, 2), grid).view(channels.shape).mT.flatten(1, 2)  # B T W
        first = self.codes.length
        self.codes.write(pack_bits(codes, self.rule.bits), _from(first, full.shape[1], batch), (first,) * batch)
        first //= self.rule.group
        for slots, part in ((self.scale, grid.scale), (self.zero, grid.zero.to(torch.uint8))):
            slots.write(part.view(batch, blocks, -1), _from(first, blocks, batch), (first,) * batch)

    def _decoded(self, like: Float[Tensor, "B T *rest"]) -> Float[Tensor, "B closed *rest"]:
        width = like[0, 0].numel()
        codes = unpack_bits(self.codes.held, self.rule.bits, width)
        scale, zero = (slots.held.flatten()[:, None] for slots in (self.scale, self.zero))
        channels = codes.unflatten(1, (-1, self.rule.group)).mT  # B blocks W L
        numbers = from_codes(channels.flatten(0, 2), Grid(scale, zero.float(), 0, 2**self.rule.bits - 1))
        numbers = numbers.view(channels.shape).mT.flatten(1, 2)
        return numbers.view(len(like), -1, *like.shape[2:]).to(like.dtype)


def _from(start: int, count: int, batch: int) -> Int[Tensor, "B T"]:
    return torch.arange(start, start + count).expand(batch, -1)
