"""DeepSeek-V4's attention: the last tokens as they are, all others only in entries that stand for many tokens.

Every layer sees a **window** of recent tokens; a layer may also see entries (``helpers/layers/compressor.py``): all of
them, or the few that an indexer chooses. All go into one softmax.

One vector per token or entry serves as its key and as its value, for all heads. A value is therefore turned by its
position as a key must be; the output is turned back by the query's, so that what remains depends on the distance.
Each head has a **sink**, a score without a value, to attend to when there is nothing to find.
Source: DeepSeek-AI, "DeepSeek-V4", 2026, section 2.3; transformers' ``DeepseekV4Attention``.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from helpers.layers.compressor import Compressor, Entries, EntryIndexer, Recent, complete
from helpers.layers.kv_cache import CacheEntry
from helpers.layers.norm import RMSNorm
from helpers.layers.ragged import Rows
from helpers.layers.rope import angles, rotate_last
from helpers.precision import at_least_float32
from helpers.shapes import Bool, Float, Int, Tensor

QUERIES_PER_BLOCK = 32  # of a prompt: what is held at once grows with the entries and not with the square of the text


def in_window(positions: Int[Tensor, "B T"], window: int) -> Bool[Tensor, "B T S"]:
    """True for the ``window`` tokens that end with the query's own, where the keys are the ``window - 1`` positions
    before the first query and then the queries' own. Built in lesson `what_came_next`."""
    query = torch.arange(positions.shape[1], device=positions.device)[:, None]
    key = torch.arange(positions.shape[1] + window - 1, device=positions.device)
    near = (query <= key) & (key < query + window)
    return near & (key - (window - 1) >= -positions[:, :1, None])  # a text starts at position 0


def attend_with_sinks(
    query: Float[Tensor, "B T H K"],
    shared: Float[Tensor, "B S K"],
    seen: Bool[Tensor, "B T S"],
    own: Float[Tensor, "B T A K"],
    own_seen: Bool[Tensor, "B T A"],
    sinks: Float[Tensor, " H"],
) -> Float[Tensor, "B T H K"]:
    """One softmax over the shared keys, each query's own keys and a sink; the keys are the values.

    The sink takes its part of the softmax and gives nothing, so that a head may say almost nothing. Both masks are
    True where a query may attend. Source: "DeepSeek-V4", section 2.3; sinks: OpenAI, "gpt-oss", 2025.
    Built in lesson `what_came_next`.
    """
    query = query * query.shape[-1] ** -0.5
    scores = torch.cat([torch.einsum("bthk,bsk->bths", query, shared), query @ own.mT], dim=-1)
    scores = scores.masked_fill(~torch.cat([seen, own_seen], dim=-1)[:, :, None], float("-inf"))
    scores = torch.cat([scores, sinks.to(scores)[:, None].expand(*scores.shape[:3], 1)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=at_least_float32(scores.dtype)).to(query.dtype)
    for_shared, for_own, _ = weights.split([shared.shape[1], own.shape[2], 1], dim=-1)
    return torch.einsum("bths,bsk->bthk", for_shared, shared) + for_own @ own


class Compressed(CacheEntry):
    """The memory of one layer: the window and, where it has them, its entries and its indexer's.

    Built in lesson `what_came_next`.
    """

    def __init__(self, window: Recent, entries: Entries | None, index: Entries | None):
        self.window, self.entries, self.index = window, entries, index

    def parts(self) -> dict[str, CacheEntry]:
        """The window and the tails are constant, entries grow."""
        found = {"window": self.window, "entries": self.entries, "index": self.index}
        return {name: part for name, part in found.items() if part is not None}


@dataclass(frozen=True)
class Sizes:
    """The sizes of one attention layer."""

    width: int
    query_rank: int
    num_heads: int
    head_dim: int
    window: int
    output_groups: int
    output_rank: int
    epsilon: float


class CompressedAttention(nn.Module):
    """The layer in its three kinds: window only; with a compressor; with a compressor and an indexer.

    The heads' outputs are long (64 x 512), so groups of heads are first made small, each on its own.
    ``compressor`` without overlap is HCA; one with overlap and an ``indexer`` is CSA. Built in lesson `what_came_next`.
    """

    def __init__(self, sizes: Sizes, compressor: Compressor | None = None, indexer: EntryIndexer | None = None):
        super().__init__()
        s = self.sizes = sizes
        self.query_down = nn.Linear(s.width, s.query_rank, bias=False)
        self.query_norm = RMSNorm(s.query_rank, s.epsilon)
        self.query_up = nn.Linear(s.query_rank, s.num_heads * s.head_dim, bias=False)
        self.key = nn.Linear(s.width, s.head_dim, bias=False)
        self.key_norm = RMSNorm(s.head_dim, s.epsilon)
        self.sinks = nn.Parameter(torch.zeros(s.num_heads))
        self.compressor, self.indexer = compressor, indexer
        small = s.output_groups * s.output_rank
        self.output_down = nn.Linear(s.num_heads * s.head_dim // s.output_groups, small, bias=False)
        self.output_up = nn.Linear(small, s.width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        radians: Float[Tensor, " halfR"],
        cache: Compressed | None = None,
    ) -> Float[Tensor, "B T D"]:
        cos, sin = angles(rows.positions, radians, x.dtype)
        latent = self.query_norm(self.query_down(x))
        query, key = self.queries_and_keys(x, latent, cos, sin)
        window = (cache or self.new_cache()).window.join(key, rows.lengths)
        read = self._attend(query, window, *self._entries(x, latent, rows, radians, cache), rows)
        return self.output(rotate_last(read, cos, -sin))

    def queries_and_keys(
        self, x: Float[Tensor, "B T D"], latent: Float[Tensor, "B T C"], cos: Tensor, sin: Tensor
    ) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B T K"]]:
        """Each head's query, and each token's one key that is its value too; both normed and turned."""
        query = self.query_up(latent).unflatten(-1, (self.sizes.num_heads, -1))
        query = functional.rms_norm(query, query.shape[-1:], eps=self.sizes.epsilon)
        key = self.key_norm(self.key(x))[:, :, None]
        return rotate_last(query, cos, sin), rotate_last(key, cos, sin).squeeze(2)

    def _entries(
        self, x: Tensor, latent: Tensor, rows: Rows, radians: Tensor, cache: Compressed | None
    ) -> tuple[Float[Tensor, "B N K"], Float[Tensor, "B other_N K"], Int[Tensor, "B T chosen"]]:
        """Entries that every query reads, entries of which each reads a few, and which those are. Perhaps none."""
        none, nowhere = x.new_zeros(len(x), 0, self.sizes.head_dim), rows.positions[..., None][..., :0]
        if self.compressor is None:
            return none, none, nowhere
        entries = self.compressor(x, rows, radians, cache and cache.entries)
        if self.indexer is None:
            return entries, none, nowhere
        return none, entries, self.indexer(x, latent, rows, radians, cache and cache.index)

    def _attend(
        self,
        query: Float[Tensor, "B T H K"],
        window: Float[Tensor, "B S K"],
        for_all: Float[Tensor, "B N K"],
        to_choose: Float[Tensor, "B other_N K"],
        chosen: Int[Tensor, "B T chosen"],
        rows: Rows,
    ) -> Float[Tensor, "B T H K"]:
        """A block of queries at a time, each with the piece of the window that it can reach."""
        read, row = [], torch.arange(len(query), device=query.device)[:, None, None]
        ratio = self.compressor.ratio if self.compressor else 1
        blocks = zip(*(part.split(QUERIES_PER_BLOCK, dim=1) for part in (query, chosen)), strict=True)
        for n, (piece, (asked, own)) in enumerate(zip(rows.pieces(QUERIES_PER_BLOCK), blocks, strict=True)):
            begin = n * QUERIES_PER_BLOCK
            near = window[:, begin : begin + asked.shape[1] + self.sizes.window - 1]
            shared = torch.cat([near, for_all], dim=1)
            seen = [piece.mask(in_window, self.sizes.window), piece.mask(complete, ratio, for_all.shape[1])]
            few = to_choose[row, own.clamp_min(0)]  # B T chosen K
            read.append(attend_with_sinks(asked, shared, torch.cat(seen, -1), few, own >= 0, self.sinks))
        return torch.cat(read, dim=1)

    def output(self, read: Float[Tensor, "B T H K"]) -> Float[Tensor, "B T D"]:
        """Each group of heads to ``output_rank`` numbers by its own matrix, then all of them to the width."""
        groups = self.sizes.output_groups
        grouped = read.flatten(2).unflatten(2, (groups, -1))
        small = torch.einsum("btgk,grk->btgr", grouped, self.output_down.weight.unflatten(0, (groups, -1)))
        return self.output_up(small.flatten(2))

    def new_cache(self) -> Compressed:
        """An empty memory of this layer."""
        entries = self.compressor and self.compressor.new_cache()
        return Compressed(Recent(self.sizes.window - 1), entries, self.indexer and self.indexer.compressor.new_cache())
