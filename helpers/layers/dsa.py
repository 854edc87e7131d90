"""DeepSeek sparse attention (DSA): a small indexer says which few tokens are worth reading, and only those are read.

1. **Index.** A lightning indexer, cheap because its many heads share one key, gives every earlier token a score.
2. **Select.** Each query keeps the ``k`` tokens with the highest scores; all its attention heads share that choice.
3. **Attend.** Latent attention gathers the latents of the chosen tokens, and never touches the others.

The work per token no longer grows with the text, but for the indexer's. A long prompt is read in blocks of queries, so
that nothing of the size T x S is ever held. The selection is an integer: the language model's loss teaches the indexer
nothing, which is why it is trained apart, to imitate dense attention.
Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, section 2; IndexShare: arXiv 2603.12201.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional

from helpers.functions import Layer, declared
from helpers.layers.attention import causal_mask
from helpers.layers.kv_cache import CacheEntry, KVBuffer
from helpers.layers.mla import MLA, Latents, absorbed
from helpers.layers.ragged import Rows
from helpers.layers.rope import Rotation
from helpers.precision import at_least_float32
from helpers.shapes import Float, Int, Tensor

KEYS_PER_BLOCK = 8192  # of one matrix product of index scores: a much larger one leaves a CPU's caches
QUERIES_PER_BLOCK = 32  # of a prompt; what is held at once is 32 x S x index heads, and 32 x k latents


def scores(
    query: Float[Tensor, "B T H K"], key: Float[Tensor, "B S K"], weights: Float[Tensor, "B T H"]
) -> Float[Tensor, "B T S"]:
    """How much each query wants each key: ``sum over heads of weight * relu(query . key / sqrt(K)) / sqrt(H)``.

    H index heads of width K share one key; a weight may be negative. In float32 at least: the cut between the k-th
    score and the next is narrow. Without the relu the heads would collapse into a single dot product.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, equation 1; the scales from transformers' ``DeepseekV32Indexer``.
    Built in lesson `dsa`.
    """
    dtype, (heads, width) = at_least_float32(query.dtype), query.shape[2:]
    query, weights = query.to(dtype) * width**-0.5, weights.to(dtype) * heads**-0.5
    parts = [_weighed(query, part, weights) for part in key.to(dtype).split(KEYS_PER_BLOCK, dim=1)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _weighed(query: Tensor, key: Tensor, weights: Tensor) -> Float[Tensor, "B T S"]:
    if query.shape[1] == 1:  # a CPU reads the keys faster as the left matrix, when few queries stand on the right
        return ((key @ query[:, 0].mT).relu_() @ weights.mT).mT
    scores = query.flatten(1, 2) @ key.mT  # B (T H) S: the largest tensor here, so the relu is taken in place
    return (weights[:, :, None] @ scores.relu_().unflatten(1, (-1, query.shape[2]))).squeeze(2)


def select_tokens(scores: Float[Tensor, "B T S"], k: int) -> Int[Tensor, "B T chosen"]:
    """The positions of the k highest scores of each query, in order of position; min(k, S) of them.

    A score of -inf marks a key that may not be seen. It is never chosen: where a query sees fewer than k keys it keeps
    all of those, and -1 fills the rest. Among equal scores the earlier position goes first: ``torch.topk`` leaves
    that open, so that a cached and an uncached run may differ, and the relu makes zeros that are equal often.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, equation 2. Built in lesson `dsa`.
    """
    length = scores.shape[-1]
    k = min(k, length)
    best = scores.topk(k, sorted=False)
    cut = best.values.amin(dim=-1, keepdim=True)
    if torch.compiler.is_compiling() or _left_open(scores, best.values, cut):  # a compiled step cannot look first
        return _earliest(scores, cut, k)
    positions = best.indices.masked_fill(~(best.values > float("-inf")), length).sort(dim=-1).values
    return positions.masked_fill(positions == length, -1)


def _left_open(scores: Tensor, best: Tensor, cut: Tensor) -> bool:
    """Whether ``topk`` had to choose among equal scores: more of them have the lowest kept score than it kept."""
    more = (scores == cut).sum(dim=-1) > (best == cut).sum(dim=-1)
    return bool((more & (cut[..., 0] > float("-inf"))).any())


def _earliest(scores: Tensor, cut: Tensor, k: int) -> Int[Tensor, "B T chosen"]:
    """All scores above the cut, and of those at the cut the earliest, as many as there is room for."""
    above, level = scores > cut, (scores == cut) & (cut > float("-inf"))
    chosen = above | (level & (level.cumsum(dim=-1) <= k - above.sum(dim=-1, keepdim=True)))
    slot = torch.where(chosen, chosen.cumsum(dim=-1) - 1, k)  # slot k takes all that is not chosen, and is cut off
    position = torch.arange(scores.shape[-1], device=scores.device).expand_as(slot)
    return slot.new_full((*slot.shape[:-1], k + 1), -1).scatter(-1, slot, position)[..., :k]


def attend_chosen(
    query: Float[Tensor, "B T H K"],
    q_rope: Float[Tensor, "B T H R"],
    latent: Float[Tensor, "B S C"],
    k_rope: Float[Tensor, "B S R"],
    w_uk: Float[Tensor, "H K C"],
    w_uv: Float[Tensor, "H V C"],
    chosen: Int[Tensor, "B T chosen"],
    scale: float,
) -> Float[Tensor, "B T H V"]:
    """Absorbed latent attention over the chosen positions only; -1 stands for no position.

    The latents of the chosen are gathered for each query, and nothing else is read: the work is T x chosen, whatever S.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, section 2 and figure 2. Built in lesson `dsa`.
    """
    context = []
    for queries, turned, kept in _blocks(query, q_rope, chosen):
        near, at = kept >= 0, kept.clamp_min(0)
        parts = (queries, turned, gathered(latent, at), gathered(k_rope, at))
        context.append(absorbed(*parts, w_uk, w_uv, near, scale))
    return torch.cat(context, dim=1)


def gathered(rows: Float[Tensor, "B S X"], chosen: Int[Tensor, "B T chosen"]) -> Float[Tensor, "B T chosen X"]:
    """The chosen rows of each query. A look-up, as an embedding is, copies whole rows: on a CPU faster than indexing.

    Built in lesson `dsa`.
    """
    return torch.stack([functional.embedding(at, row) for row, at in zip(rows, chosen, strict=True)])


def _blocks(*parts: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some queries at a time, of everything that is given for each query."""
    return zip(*(part.split(QUERIES_PER_BLOCK, dim=1) for part in parts), strict=True)


class Indexer(Layer):
    """The lightning indexer: which ``k`` tokens each query reads.

    The first ``rotary_dim`` coordinates of its heads and of its key are turned by ``rotate``, a fact of the
    family: DeepSeek-V3.2's checkpoints want the half-split ``helpers.layers.rope.rotate`` (although its attention pairs
    neighbours), GLM-5's want ``rotate_neighbours``. The wrong one answers fluently, and chooses the wrong tokens.
    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, equation 1; transformers' ``DeepseekV32Indexer``. Built in lesson `dsa`.
    """

    functions = declared(scores=scores, select_tokens=select_tokens)

    def __init__(
        self, width: int, query_rank: int, num_heads: int, head_dim: int, rotary_dim: int, k: int, rotate: Rotation
    ):
        super().__init__()
        self.num_heads, self.rotary_dim, self.k, self.rotate = num_heads, rotary_dim, k, rotate
        self.query = nn.Linear(query_rank, num_heads * head_dim, bias=False)
        self.key = nn.Linear(width, head_dim, bias=False)
        self.key_norm = nn.LayerNorm(head_dim, eps=1e-6)
        self.weights = nn.Linear(width, num_heads, bias=False)

    @torch.no_grad()  # positions are integers: no gradient passes
    def forward(
        self,
        x: Float[Tensor, "B T D"],
        query_latent: Float[Tensor, "B T Q"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: KVBuffer | None = None,
    ) -> Int[Tensor, "B T chosen"]:
        query, key, weights = self.project(x, query_latent, rotary)
        if cache is not None:
            key = cache.write(key, rows.positions, rows.starts)
        blocks = zip(rows.pieces(QUERIES_PER_BLOCK), _blocks(query, weights), strict=True)
        return torch.cat([self._select(*asked, piece, key) for piece, asked in blocks], dim=1)

    def project(
        self, x: Float[Tensor, "B T D"], query_latent: Float[Tensor, "B T Q"], rotary: tuple[Tensor, Tensor]
    ) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B T K"], Float[Tensor, "B T H"]]:
        """The index queries, keys and head weights: what ``scores`` takes, and what training the indexer needs."""
        query = self.query(query_latent).unflatten(-1, (self.num_heads, -1))
        key = self.key_norm(self.key(x))[:, :, None]
        return self._turned(query, rotary), self._turned(key, rotary).squeeze(2), self.weights(x)

    def _turned(self, x: Float[Tensor, "B T H K"], rotary: tuple[Tensor, Tensor]) -> Float[Tensor, "B T H K"]:
        first, rest = x[..., : self.rotary_dim], x[..., self.rotary_dim :]
        return torch.cat([self.rotate(first, *rotary), rest], dim=-1)

    def _select(
        self,
        query: Float[Tensor, "B T H K"],
        weights: Float[Tensor, "B T H"],
        rows: Rows,
        key: Float[Tensor, "B S K"],
    ) -> Int[Tensor, "B T chosen"]:
        """One block of queries; the keys behind its last position are not even scored.

        In a compiled step, where nobody knows the end, shapes stay: all keys are scored, and those behind are masked.
        """
        length, key = key.shape[1], key[:, : rows.end]
        wanted = self.functions["scores"](query, key, weights)
        if rows.end is None or rows.positions.numel() > 1:  # else one query alone, which sees all of them
            wanted = wanted.masked_fill(~rows.mask(causal_mask, key.shape[1]), float("-inf"))
        chosen = self.functions["select_tokens"](wanted, self.k)
        return functional.pad(chosen, (0, min(self.k, length) - chosen.shape[-1]), value=-1)


class SparseLatents(CacheEntry):
    """What one layer remembers: latents, and index keys where it has an indexer. Built in lesson `dsa`."""

    def __init__(self):
        self.latents, self.index_keys = Latents(), KVBuffer()

    def parts(self) -> dict[str, CacheEntry]:
        """B x S x (C + R) numbers, and B x S x K more for the indexer's keys."""
        return {"latents": self.latents, "index_keys": self.index_keys}


class SparseAttention(Layer):
    """Latent attention that reads what an indexer chose. Without an indexer of its own (``None``) a layer reads what an
    earlier one chose, and keeps no index keys (IndexShare).

    Source: DeepSeek-AI, "DeepSeek-V3.2", 2025, section 2; IndexShare: arXiv 2603.12201. Built in lesson `dsa`.
    """

    functions = declared(attend_chosen=attend_chosen)

    def __init__(self, mla: MLA, indexer: Indexer | None):
        super().__init__()
        self.mla, self.indexer = mla, indexer

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        rows: Rows,
        rotary: tuple[Tensor, Tensor],
        cache: SparseLatents | None = None,
        chosen: Int[Tensor, "B T chosen"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B T chosen"]]:
        """The answer, and what was chosen, for the layers that share it. ``chosen`` is what an earlier layer chose.

        Raises ValueError where there is neither an indexer nor an earlier choice.
        """
        query_latent = self.mla.query_latent(x)
        if self.indexer is not None:
            chosen = self.indexer(x, query_latent, rows, rotary, None if cache is None else cache.index_keys)
        if chosen is None:
            raise ValueError(
                "a layer without an indexer needs what an earlier layer chose; the first must have its own"
            )
        latent, k_rope = self.mla.latents(x, rotary)
        if cache is not None:
            latent, k_rope = cache.latents.write(latent, k_rope, rows)
        query, q_rope = self.mla.queries(query_latent, rotary)
        context = self.functions["attend_chosen"](query, q_rope, latent, k_rope, *self.mla.up(), chosen, self.mla.scale)
        return self.mla.output(context.flatten(2)), chosen
