"""The kernels of latent and sparse attention on a GPU, one by one: the share of the roofline, and sparse beside dense.

A sparse answer is not the dense one, so there the sparse side is first compared with its readable form. The whole layer
beside transformers' is in `course.measure.subjects.dsa`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch.nn import functional

from course.measure.versus import Way, copies, dtype_of, roof_of, rounded, versus
from helpers.compare import assert_close
from helpers.kernels.attention import index_scores, mla_decode, sparse_attention, top_k
from helpers.layers import dsa, mla
from helpers.layers.attention import causal_mask
from helpers.measure import Measurement, Work
from helpers.measure.dsa_work import SparseSizes

V32 = SparseSizes(128, 512, 64, 128, 128, 64, 128, 2048)  # DeepSeek-V3.2, helpers/facts/configs
GLM5_SIZES = SparseSizes(64, 512, 64, 192, 256, 32, 128, 2048)
CONTEXT = 2**17
QUERIES_PER_BLOCK = 2048  # of a prompt: their scores are what is held at once


@dataclass(frozen=True)
class Kernels:
    """The three steps of sparse attention, by our kernels or as they read."""

    scores: Callable
    select: Callable
    attend: Callable


OURS = Kernels(index_scores.scores, top_k.select_tokens, sparse_attention.attend_chosen)
READABLE = Kernels(dsa.scores, dsa.select_tokens, dsa.attend_chosen)


class Texts:
    """Random queries of the last ``queries`` tokens, caches and matrices of ``batch`` texts."""

    def __init__(self, sizes: SparseSizes, batch: int, tokens: int, queries: int, device: torch.device):
        s, dtype = sizes, dtype_of(device)
        randn = partial(torch.randn, device=device, dtype=dtype)
        self.sizes, self.tokens, self.queries = s, tokens, queries
        self.query, self.turned = randn(batch, queries, s.heads, s.key), randn(batch, queries, s.heads, s.rope_dim)
        self.latent, self.key = randn(batch, tokens, s.latent), randn(batch, tokens, s.rope_dim)
        self.w_uk = randn(s.heads, s.key, s.latent) * s.key**-0.5
        self.w_uv = randn(s.heads, s.value, s.latent) * s.latent**-0.5
        self.index_query = randn(batch, queries, s.index_heads, s.index_width)
        self.index_key, self.weights = randn(batch, tokens, s.index_width), randn(batch, queries, s.index_heads)
        self.scale = (s.key + s.rope_dim) ** -0.5

    def dense(self, attend: Callable) -> torch.Tensor:
        """Every query reads every latent."""
        mask = torch.ones(len(self.query), self.queries, self.tokens, dtype=torch.bool, device=self.query.device)
        cached = self.latent, self.key, self.w_uk, self.w_uv
        return attend(self.query, self.turned, *cached, mask, self.scale)

    def sparse(self, steps: Kernels, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Queries ``first`` to ``last`` score the index keys up to them, choose and read. A text has one batch here."""
        last = self.queries if last is None else last
        seen = self.tokens - self.queries + last
        latent, key, index_key = (x[:, :seen].contiguous() for x in (self.latent, self.key, self.index_key))
        query, turned, asks, weights = (
            x[:, first:last].contiguous() for x in (self.query, self.turned, self.index_query, self.weights)
        )
        scores = steps.scores(asks, index_key, weights)
        if last - first > 1:
            positions = torch.arange(seen - (last - first), seen, device=query.device)[None]
            scores = scores.masked_fill_(~causal_mask(positions, seen), float("-inf"))
        chosen = steps.select(scores, self.sizes.k)
        return steps.attend(query, turned, latent, key, self.w_uk, self.w_uv, chosen, self.scale)

    def prompt(self, steps: Kernels, block: int) -> torch.Tensor:
        """All queries, a block at a time."""
        ends = range(0, self.queries, block)
        return torch.cat([self.sparse(steps, n, min(n + block, self.queries)) for n in ends], dim=1)


def latent_decode_case(
    device: torch.device,
    sizes: tuple[SparseSizes, ...] = (V32, GLM5_SIZES),
    tokens: int = CONTEXT,
    batches: tuple[int, ...] = (1, 32),
) -> Iterator[Measurement]:
    """One new token over 128k latents, dense: our kernel beside the readable form; the share of the roofline."""
    for s in sizes:
        for batch in batches:
            cache_bytes = batch * tokens * (s.latent + s.rope_dim) * dtype_of(device).itemsize
            texts = [Texts(s, batch, tokens, 1, device) for _ in range(copies(cache_bytes, device))]
            work = mla_decode.cost(batch, tokens, s.heads, s.latent, s.rope_dim, dtype_of(device).itemsize)
            slow, fast = (
                Way(f"{label}, {s.heads} heads, batch {batch}", [partial(text.dense, way) for text in texts], work)
                for label, way in (("readable", mla.absorbed), ("ours", mla_decode.absorbed))
            )
            yield from versus(slow, fast, [batch, tokens, s.heads], device, rounded(device), roof_of(device))


def index_scores_case(
    device: torch.device, s: SparseSizes = V32, tokens: int = CONTEXT, batches: tuple[int, ...] = (1, 32)
) -> Iterator[Measurement]:
    """The scores of 128k index keys for one new token: our kernel beside the readable form, and the roofline."""
    for batch in batches:
        texts = [Texts(s, batch, tokens, 1, device) for _ in range(copies(batch * tokens * s.index_width * 2, device))]
        work = index_scores.cost(batch, 1, tokens, s.index_heads, s.index_width, dtype_of(device).itemsize)
        slow, fast = (
            Way(f"{label}, batch {batch}", [partial(way, t.index_query, t.index_key, t.weights) for t in texts], work)
            for label, way in (("readable", dsa.scores), ("ours", index_scores.scores))
        )
        yield from versus(slow, fast, [batch, tokens, s.index_heads], device, 1e-3, roof_of(device))


def kernels_work(s: SparseSizes, batch: int, tokens: int, number_bytes: int, packed: bool = False) -> Work:
    """Index scores, the choice, and attention over the chosen, of one token of each text. Packed: keys of 8 bits."""
    index = index_scores.cost(batch, 1, tokens, s.index_heads, s.index_width, number_bytes, packed)
    read = sparse_attention.cost(batch, min(s.k, tokens), s.heads, s.latent, s.rope_dim, number_bytes)
    return index + top_k.cost(batch, tokens, s.k) + read


def sparse_decode_case(
    device: torch.device,
    sizes: tuple[SparseSizes, ...] = (V32, GLM5_SIZES),
    tokens: int = CONTEXT,
    batch: int = 32,
) -> Iterator[Measurement]:
    """One new token over 128k tokens in 32 texts: index, choice and sparse attention beside dense, both ours; then with
    index keys of 8 bits, as DeepSeek-V3.2 keeps them."""
    for s in sizes:
        text, size = Texts(s, batch, tokens, 1, device), dtype_of(device).itemsize
        agree(text, device)
        dense = mla_decode.cost(batch, tokens, s.heads, s.latent, s.rope_dim, size)
        slow = Way(f"dense, {s.heads} heads", [partial(text.dense, mla_decode.absorbed)], dense)
        fast = Way(f"sparse, {s.heads} heads", [partial(text.sparse, OURS)], kernels_work(s, batch, tokens, size))
        yield from versus(slow, fast, [batch, tokens, s.heads], device, None, roof_of(device))
        eight, readable = packed_keys(text.index_key)
        agree(text, device, ways=(readable, eight))
        slow = replace(slow, label=f"dense beside 8 bits, {s.heads} heads")
        work = kernels_work(s, batch, tokens, size, packed=True)
        fast = Way(f"sparse, keys of 8 bits, {s.heads} heads", [partial(text.sparse, eight)], work)
        yield from versus(slow, fast, [batch, tokens, s.heads], device, None, roof_of(device))


def packed_keys(key: torch.Tensor) -> tuple[Kernels, Kernels]:
    """Our kernels over these index keys in 8 bits, whatever keys they are given; the readable form over the same, in
    float32: in 16 bits its keys would be others, and so might be the last token that is chosen."""
    codes, scale = index_scores.pack_keys(key)
    decoded = codes.float() * scale[..., None]
    eight = replace(OURS, scores=lambda query, _, weights: index_scores.packed_scores(query, codes, scale, weights))
    return eight, replace(READABLE, scores=lambda query, _, weights: dsa.scores(query.float(), decoded, weights))


def agree(text: Texts, device: torch.device, first: int = 0, ways: tuple[Kernels, Kernels] = (READABLE, OURS)) -> None:
    """The sparse side is compared with its readable form, on the queries from ``first`` on."""
    with torch.inference_mode():
        exact, ours = (text.sparse(steps, first) for steps in ways)
        assert_close(ours.float(), exact.float(), rounded(device), "sparse attention beside its readable form")


def sparse_prompt_case(
    device: torch.device,
    s: SparseSizes = GLM5_SIZES,
    lengths: tuple[int, ...] = (8192, 32768, 131072),
    block: int = QUERIES_PER_BLOCK,
) -> Iterator[Measurement]:
    """A prompt of 8k, 32k and 128k tokens through one layer's attention: sparse by our kernels beside torch's dense."""
    for length in lengths:
        text = Texts(s, 1, length, length, device)
        agree(text, device, first=length - min(32, length))
        wide = (1, s.heads, length, s.key + s.rope_dim), (1, s.heads, length, s.value)
        heads = [torch.randn(*size, device=device, dtype=dtype_of(device)) for size in (wide[0], *wide)]
        dense = partial(functional.scaled_dot_product_attention, *heads[:2], heads[2], is_causal=True)
        slow = Way(f"dense, {length}", [dense], dense_prompt(s, length), graph=False)
        fast = Way(f"sparse, {length}", [partial(text.prompt, OURS, block)], sparse_prompt(s, length), graph=False)
        yield from versus(slow, fast, [length, s.heads], device, None, roof_of(device), repeats=3)


def dense_prompt(s: SparseSizes, length: int, number_bytes: int = 2) -> Work:
    """Keys and values of every head, made already; half of all pairs. The best form for many queries."""
    numbers = length * s.heads * 2 * (s.key + s.rope_dim + s.value)
    return Work(length * (length + 1) * s.heads * (s.key + s.rope_dim + s.value), numbers * number_bytes)


def sparse_prompt(s: SparseSizes, length: int, number_bytes: int = 2) -> Work:
    """Index scores of half of all pairs, attention of each query over its k; scores written and read once."""
    index = index_scores.cost(1, length, length, s.index_heads, s.index_width, number_bytes) * 0.5
    choice = top_k.cost(length, length, s.k) * 0.5
    return index + choice + sparse_attention.cost(length, min(s.k, length), s.heads, s.latent, s.rope_dim, number_bytes)
