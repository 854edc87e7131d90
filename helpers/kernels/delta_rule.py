"""Gated delta rule in chunks: sibling of ``helpers.layers.delta.chunked_delta_rule``, for reading a prompt.

    tokens of a head   [ chunk 0 | chunk 1 | chunk 2 | ... ]      L tokens each
    _within            [   *     |    *    |    *    | ... ]      all chunks at once: what each would write alone
    _across            S0 ------> S1 -----> S2 -----> ...         one program per head and BV columns of values:
                                                                  the memory S [K, BV] never leaves its registers

The readable form runs the second loop in Python: some ten launches a chunk, and the memory read and written in each.
Here the memory is read once and written once for the whole prompt. A chunk's own system of equations is solved row by
row. (The tempting way without a loop, (1 - A)(1 + A^2)(1 + A^4)..., multiplies only, but the powers of A grow like
binomials where keys are alike, and what they cancel to is noise.)

Bytes: of each token its query and its key twice, value and answer once, and written and read again what ``_within``
leaves for ``_across``, V + K + L numbers. FLOP per token and head: L (6 K + 2 V) + 2/3 L^2 within, 6 K V + 2 L V
across. Inference only: where a gradient is wanted the readable form trains, whose backward torch derives.
"""

import torch

from helpers.kernels.launch import Variant, blocks, kernel, launch, launches, refuse_mixed, refuse_scattered, tile, tl
from helpers.layers import delta
from helpers.measure import Work
from helpers.shapes import Float, Tensor

WIDEST = 256  # numbers of a head's key or value: one program holds them
COLUMNS = 32  # of values that one program carries: more programs than one per head, each with all of K


def chunked_delta_rule(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B T H K"],
    value: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    state: Float[Tensor, "B H K V"],
    chunk: int = delta.CHUNK,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """What each query reads, and the state after the last token, float32. Where a gradient is wanted, the sibling.

    float32 is multiplied as tf32 on a GPU (relative error about 1e-3), any narrower dtype too: the memory adds up
    thousands of tokens. Raises ValueError for shapes that do not fit each other, tensors in pieces, a chunk that is
    no power of two from 16 on, and heads wider than 256. Built in lesson `kernels`.
    """
    given = dict(query=query, key=key, value=value, log_decay=log_decay, beta=beta, state=state)
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in given.values())
    if not launches(query) or trains:
        return delta.chunked_delta_rule(*given.values(), chunk)
    _refuse(given, chunk)
    (batch, length, heads, width), wide = query.shape, value.shape[3]
    parts, sizes = blocks(length, chunk), {"K": width, "V": wide, "KEY_TILE": tile(width, 16), "CHUNK": chunk}
    rows = batch, heads, parts, chunk
    kept = [query.new_empty(*rows, columns, dtype=torch.float32) for columns in (wide, width, chunk)]
    out, last = torch.empty_like(value), torch.empty_like(state, dtype=torch.float32)
    launch(
        _within, (parts, heads, batch), query, key, value, log_decay, beta, *kept, length, heads, parts,
        warps=8, VALUE_TILE=tile(wide, 16), **sizes,
    )  # fmt: skip
    launch(
        _across, (blocks(wide, COLUMNS), heads, batch),
        query, key, log_decay, *kept, state, out, last, length, heads, parts,
        warps=8, stages=1, COLUMNS=min(COLUMNS, tile(wide, 16)), **sizes,
    )  # fmt: skip
    return out, last


def cost(length: int, heads: int, width: int, wide: int, chunk: int = delta.CHUNK, number_bytes: int = 4) -> Work:
    """Of one prompt: see the top of the file. Built in lesson `kernels`."""
    parts, tokens = blocks(length, chunk), blocks(length, chunk) * chunk
    within = chunk * (6 * width + 2 * wide) + 2 * chunk**2 // 3
    across = 6 * width * wide + 2 * chunk * wide
    numbers = length * heads * (4 * width + 2 * wide + 3) * number_bytes
    kept = 2 * 4 * tokens * heads * (wide + width + chunk) + 2 * 4 * heads * width * wide
    return Work(flops=parts * chunk * heads * (within + across), bytes=numbers + kept)


def _refuse(given: dict[str, Tensor], chunk: int) -> None:
    refuse_scattered(**given)
    refuse_mixed(**{name: x for name, x in given.items() if name != "state"})
    (batch, length, heads, width), wide = given["query"].shape, given["value"].shape[-1]
    wanted = dict(
        key=(batch, length, heads, width), value=(batch, length, heads, wide), state=(batch, heads, width, wide)
    )
    wanted |= dict.fromkeys(("log_decay", "beta"), (batch, length, heads))
    for name, shape in wanted.items():
        if given[name].shape != shape:
            raise ValueError(
                f"{name} is {tuple(given[name].shape)}; beside these queries and values it must be {shape}"
            )
    if chunk < 16 or chunk & (chunk - 1):
        raise ValueError(f"chunk is {chunk} tokens; a tile has a power of two, 16 or more")
    if max(width, wide) > WIDEST:
        raise ValueError(f"keys of {width} and values of {wide} numbers: {WIDEST} fit one program")


@kernel
def _within(
    query, key, value, log_decay, beta, written, asked, seen, length, heads, parts,
    K: tl.constexpr, V: tl.constexpr, KEY_TILE: tl.constexpr, VALUE_TILE: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    chunk, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i, k, v = tl.arange(0, CHUNK), tl.arange(0, KEY_TILE), tl.arange(0, VALUE_TILE)
    place = chunk * CHUNK + i
    token = (row * length + place).to(tl.int64) * heads + head
    there = place < length  # behind the end stand zeros, and a token of zeros leaves no trace

    keys = tl.load(key + token[:, None] * K + k, mask=there[:, None] & (k < K), other=0.0).to(tl.float32)
    values = tl.load(value + token[:, None] * V + v, mask=there[:, None] & (v < V), other=0.0).to(tl.float32)
    share = tl.load(beta + token, mask=there, other=0.0).to(tl.float32)
    since = tl.cumsum(tl.load(log_decay + token, mask=there, other=0.0).to(tl.float32), axis=0)

    alike = tl.dot(keys, tl.trans(keys), input_precision="tf32")
    system = tl.where(i[:, None] > i, share[:, None] * _fading(since, CHUNK) * alike, 0.0)
    solved = _inverse(system, CHUNK)
    queries = tl.load(query + token[:, None] * K + k, mask=there[:, None] & (k < K), other=0.0).to(tl.float32)
    found = _fading(since, CHUNK) * tl.dot(queries, tl.trans(keys), input_precision="tf32")
    new = tl.dot(solved, share[:, None] * values, input_precision="tf32")
    question = tl.dot(solved, (share * tl.exp(since))[:, None] * keys, input_precision="tf32")

    at = ((row * heads + head).to(tl.int64) * parts + chunk) * CHUNK + i
    tl.store(written + at[:, None] * V + v, new, mask=(v < V)[None])
    tl.store(asked + at[:, None] * K + k, question, mask=(k < K)[None])
    tl.store(seen + at[:, None] * CHUNK + i, found)


@kernel
def _across(
    query, key, log_decay, written, asked, seen, state, out, last, length, heads, parts,
    K: tl.constexpr, V: tl.constexpr, KEY_TILE: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    column, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    i, k, v = tl.arange(0, CHUNK), tl.arange(0, KEY_TILE), column * COLUMNS + tl.arange(0, COLUMNS)
    of_head = (row * heads + head).to(tl.int64)
    cell, inside = of_head * K * V + k[:, None] * V + v, (k < K)[:, None] & (v < V)
    memory = tl.load(state + cell, mask=inside, other=0.0).to(tl.float32)

    for chunk in range(parts):
        place = chunk * CHUNK + i
        token = (row * length + place).to(tl.int64) * heads + head
        there, at = place < length, (of_head * parts + chunk) * CHUNK + i

        since = tl.cumsum(tl.load(log_decay + token, mask=there, other=0.0).to(tl.float32), axis=0)
        whole = tl.sum(tl.where(i == CHUNK - 1, since, 0.0))
        new = tl.load(written + at[:, None] * V + v, mask=(v < V)[None], other=0.0)
        question = tl.load(asked + at[:, None] * K + k, mask=(k < K)[None], other=0.0)
        new -= tl.dot(question, memory, input_precision="tf32")

        queries = tl.load(query + token[:, None] * K + k, mask=there[:, None] & (k < K), other=0.0).to(tl.float32)
        read = tl.exp(since)[:, None] * tl.dot(queries, memory, input_precision="tf32")
        read = tl.dot(tl.load(seen + at[:, None] * CHUNK + i), new, read, input_precision="tf32")

        keys = tl.load(key + token[:, None] * K + k, mask=there[:, None] & (k < K), other=0.0).to(tl.float32)
        left = tl.trans(tl.exp(whole - since)[:, None] * keys)
        memory = tl.dot(left, new, tl.exp(whole) * memory, input_precision="tf32")

        tl.store(out + token[:, None] * V + v, read.to(out.dtype.element_ty), mask=there[:, None] & (v < V))
    tl.store(last + cell, memory, mask=inside)


@kernel
def _fading(since, CHUNK: tl.constexpr):
    """``exp(since_i - since_j)`` for j <= i, 0 for the future, which would overflow."""
    i = tl.arange(0, CHUNK)
    past = i[:, None] >= i
    return tl.where(past, tl.exp(tl.where(past, since[:, None] - since, 0.0)), 0.0)


@kernel
def _inverse(system, CHUNK: tl.constexpr):
    """Of 1 + ``system``, which is zero on and above the diagonal: each row needs those before it."""
    i = tl.arange(0, CHUNK)
    solved = (i[:, None] == i).to(tl.float32)
    for row in range(1, CHUNK):
        here = (i == row)[:, None]
        weights = tl.sum(tl.where(here, system, 0.0), axis=0)
        solved = tl.where(here, solved - tl.sum(weights[:, None] * solved, axis=0), solved)
    return solved


_SIZES = {"K": 128, "V": 128, "KEY_TILE": 128, "CHUNK": 64}  # Qwen3.5's heads
VARIANTS = {  # on the A100, whose products take both factors from registers, a little is put aside; on Hopper nothing
    "within float32": Variant(
        _within,
        " ".join(["*fp32:16"] * 8) + " i32 i32 i32",
        {**_SIZES, "VALUE_TILE": 128},
        warps=8,
        spilled_bytes=112,
    ),
    "across float32": Variant(
        _across,
        " ".join(["*fp32:16"] * 9) + " i32 i32 i32",
        {**_SIZES, "COLUMNS": 32},
        warps=8,
        stages=1,
        spilled_bytes=64,
    ),
}
