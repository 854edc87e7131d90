"""Gated DeltaNet: a memory of constant size, one matrix a head, that each token corrects by its error.

The matrix S answers a key with a value. Token t first lets S fade, asks it for key k, sees how far the answer is from
its own value v, and writes that difference back under k; then its query q reads:

    S <- exp(g) S      u = beta (v - S^T k)      S <- S + k u^T      o = S^T q

Said token by token that is a loop over the text. Said in chunks, the loop is over chunks only and the rest are matrix
products. Source: Yang, Kautz and Hatamizadeh, "Gated Delta Networks", 2024 (arXiv 2412.06464), sections 3.1 and 3.3;
Yang et al., "Parallelizing Linear Transformers with the Delta Rule", 2024 (arXiv 2406.06484), for the chunks.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from helpers.functions import Layer, declared
from helpers.layers.kv_cache import CacheEntry, rows_joined
from helpers.layers.norm import rms_norm
from helpers.layers.ragged import Rows
from helpers.precision import at_least_float32
from helpers.shapes import Bool, Float, Int, Tensor

# Logarithms of the steps that a head begins with, as Mamba's do (Gu and Dao, 2023, section 3.6): it fades by rate x
# step a token. With steps of one it would forget each token at the next.
SLOWEST_AND_FASTEST = (math.log(0.001), math.log(0.1))
CHUNK = 64  # tokens: the published choice. Small chunks loop more, large ones make larger triangles


def delta_rule(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B T H K"],
    value: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    state: Float[Tensor, "B H K V"],
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """Token by token, as it is defined: what each query reads, and the state after the last token.

    ``log_decay`` is g <= 0; with ``beta`` 0 and g 0 a token leaves no trace. Built in lesson `deltanet`.
    """
    read = []
    for t in range(query.shape[1]):
        state = log_decay[:, t].exp()[..., None, None] * state
        remembered = torch.einsum("bhkv,bhk->bhv", state, key[:, t])
        error = beta[:, t, :, None] * (value[:, t] - remembered)
        state = state + torch.einsum("bhk,bhv->bhkv", key[:, t], error)
        read.append(torch.einsum("bhkv,bhk->bhv", state, query[:, t]))
    return torch.stack(read, dim=1), state


def chunked_delta_rule(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B T H K"],
    value: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    state: Float[Tensor, "B H K V"],
    chunk: int = CHUNK,
    writing: Callable | None = None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """The same result, ``chunk`` tokens at a time. ValueError where ``chunk`` is not positive. Built in lesson
    `deltanet`.

    Within a chunk everything is a matrix product; only the loop that carries the state from one to the next is left.
    ``writing`` says what the tokens of a chunk write, for rules that correct otherwise (None: as the delta rule does).
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk} tokens; 1 or more is allowed")
    length = query.shape[1]
    q, k, v, g, b = (_chunks(x, min(chunk, length)) for x in (query, key, value, log_decay, beta))
    since = g.cumsum(dim=-1)  # log of the decay from the chunk's start to each of its tokens
    fade = _fading(since)
    written, asked = (writing or _corrections)(k, v, b, since, fade)
    seen, queried = fade * (q @ k.mT), since.exp()[..., None] * q
    left, kept = (since[..., -1:] - since).exp()[..., None] * k, since[..., -1].exp()  # at the chunk's end
    read = []
    for n in range(q.shape[2]):
        u = written[:, :, n] - asked[:, :, n] @ state
        read.append(queried[:, :, n] @ state + seen[:, :, n] @ u)
        state = kept[:, :, n, None, None] * state + left[:, :, n].mT @ u
    return torch.cat(read, dim=2)[:, :, :length].transpose(1, 2), state


def _corrections(
    k: Float[Tensor, "B H N L K"],
    v: Float[Tensor, "B H N L V"],
    beta: Float[Tensor, "B H N L"],
    since: Float[Tensor, "B H N L"],
    fade: Float[Tensor, "B H N L L"],
) -> tuple[Float[Tensor, "B H N L V"], Float[Tensor, "B H N L K"]]:
    """What each token writes, with the chunk's first state S left open: ``u = written - asked S``.

    u_t = beta_t (v_t - what is left of S under k_t - what u_1 ... u_(t-1) have written under k_t): a triangular
    system, the same for V columns of values and K columns of questions to S.
    """
    system = (beta[..., None] * fade * (k @ k.mT)).tril(-1)  # plus 1 on the diagonal: u_t itself
    right = torch.cat([v, since.exp()[..., None] * k], dim=-1) * beta[..., None]
    solved = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
    return solved.split([v.shape[-1], k.shape[-1]], dim=-1)


def _values_as_they_are(
    k: Float[Tensor, "B H N L K"],
    v: Float[Tensor, "B H N L V"],
    beta: Float[Tensor, "B H N L"],
    since: Float[Tensor, "B H N L"],
    fade: Float[Tensor, "B H N L L"],
) -> tuple[Float[Tensor, "B H N L V"], Float[Tensor, "B H N L K"]]:
    """As ``_corrections`` for a memory that only adds: nobody asks what is there already."""
    return beta[..., None] * v, torch.zeros_like(k)


def _chunks(x: Float[Tensor, "B T H *rest"], chunk: int) -> Float[Tensor, "B H N L *rest"]:
    """Heads first, then chunks; zeros fill the last one, and a token of zeros leaves no trace."""
    missing = -x.shape[1] % chunk
    x = torch.cat([x, x.new_zeros(len(x), missing, *x.shape[2:])], dim=1)
    return x.transpose(1, 2).unflatten(2, (-1, chunk))


def _fading(since: Float[Tensor, "*B L"]) -> Float[Tensor, "*B L L"]:
    """``exp(since_i - since_j)`` for j <= i, and 0 for the future, masked before exp because it would overflow."""
    between = since[..., :, None] - since[..., None, :]
    future = torch.ones_like(between, dtype=torch.bool).triu(1)
    return between.masked_fill(future, float("-inf")).exp()


def additive_rule(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B T H K"],
    value: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    state: Float[Tensor, "B H K V"],
    chunk: int = CHUNK,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """The same memory without correction, what it was before the delta rule: S <- exp(g) S + k (beta v)^T.

    A key that is written twice answers with the sum of both values. No published model of today's uses it; it shows
    what the correction is worth. Source: Yang et al., "Gated Linear Attention", 2023 (arXiv 2312.06635).
    Built in lesson `deltanet`.
    """
    return chunked_delta_rule(query, key, value, log_decay, beta, state, chunk, _values_as_they_are)


def short_conv(
    x: Float[Tensor, "B T channels"],
    weight: Float[Tensor, "channels 1 width"],
    before: Float[Tensor, "B past channels"],
) -> Float[Tensor, "B T channels"]:
    """``silu`` of a weighted sum of each channel's last ``width`` numbers, its own the last of them.

    ``before`` are the ``width - 1`` inputs that came before x: zeros at the start of a text. Built in lesson
    `deltanet`.
    """
    window = torch.cat([before, x], dim=1)
    if x.shape[1] == 1:  # one sum, which a compiler merges with its neighbours; a convolution is a call of its own
        dtype = at_least_float32(x.dtype)
        return functional.silu((window.to(dtype) * weight[:, 0].mT).sum(dim=1, keepdim=True).to(x.dtype))
    return functional.silu(functional.conv1d(window.mT, weight, groups=weight.shape[0])).mT


def gated_norm(
    x: Float[Tensor, "... V"], gate: Float[Tensor, "... V"], weight: Float[Tensor, " V"], epsilon: float
) -> Float[Tensor, "... V"]:
    """``rms_norm(x) * silu(gate)``: first the norm, then the gate. An ordinary norm, its weight around 1.

    Built in lesson `deltanet`.
    """
    return (rms_norm(x, weight, epsilon) * functional.silu(gate.to(at_least_float32(gate.dtype)))).to(x.dtype)


def unit_length(x: Float[Tensor, "... K"], epsilon: float = 1e-6) -> Float[Tensor, "... K"]:
    """``x / sqrt(sum(x^2) + epsilon)``: a key of length 1 makes beta the share of the error that is corrected."""
    return x * torch.rsqrt(x.pow(2).sum(dim=-1, keepdim=True) + epsilon)


class Written(NamedTuple):
    """What the tokens of one pass bring to a memory, whatever it holds before them."""

    key: Float[Tensor, "B T H K"]
    value: Float[Tensor, "B T H V"]
    log_decay: Float[Tensor, "B T H"]
    beta: Float[Tensor, "B T H"]
    inputs: Float[Tensor, "B T channels"]  # of the short convolution


class DeltaState(CacheEntry):
    """What one Gated DeltaNet layer remembers, as much for a long text as for a short one. Built in lesson `deltanet`.

    A sum has no place to cut it. To go back, the memory at the checkpoint is kept, and what each token since has
    written: a key, a value and two numbers per head, where the memory after each would be K x V. The first of them
    write again.
    """

    def __init__(self):
        self.memory: Tensor | None = None  # B H K V, float32 at least
        self.inputs: Tensor | None = None  # B past channels: the last inputs of the short convolution
        self._before: tuple[Tensor, Tensor] | None = None  # memory and inputs at the checkpoint
        self._since: list[Written] = []
        self._rule: Callable = chunked_delta_rule

    def write(
        self,
        memory: Float[Tensor, "B H K V"],
        inputs: Float[Tensor, "B past channels"],
        written: Written | None = None,
        rule: Callable = chunked_delta_rule,
    ) -> None:
        """Replace what was held; ``written`` made the difference, by ``rule``. No gradient flows through it."""
        self.memory, self.inputs, self._rule = memory.detach(), inputs.detach(), rule
        if self._before is not None:
            self._since.append(Written(*(part.detach() for part in written)))

    def checkpoint(self) -> None:
        """From here on note what tokens write."""
        self._before, self._since = (self.memory, self.inputs), []

    def rollback(self, accepted: Int[Tensor, " B"], length: int) -> None:
        """The memory at the checkpoint, and each row's first ``accepted`` tokens written into it again."""
        (self.memory, self.inputs), since = self._before, self._since
        self._before, self._since = None, []
        if since:
            key, value, log_decay, beta, inputs = (torch.cat(parts, dim=1) for parts in zip(*since, strict=True))
            stays = (torch.arange(key.shape[1], device=accepted.device) < accepted[:, None])[..., None]
            _, self.memory = self._rule(key, key, value, log_decay * stays, beta * stays, self.memory)
            self.inputs = _last(self.inputs, inputs, accepted)

    def reserve(self, capacity: int) -> None:
        """Nothing: it has one shape whatever ``capacity`` is."""

    def select_rows(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep these rows."""
        if self.memory is not None:
            self.memory, self.inputs = self.memory[rows], self.inputs[rows]

    def add_rows(self, other: "DeltaState") -> None:
        """The rows of ``other`` too."""
        self.memory = rows_joined(self.memory, other.memory)
        self.inputs = rows_joined(self.inputs, other.inputs)

    def bytes(self) -> int:
        """B x (H x K x V x 4 + (width - 1) x channels x the size of a number)."""
        return sum(x.numel() * x.element_size() for x in (self.memory, self.inputs) if x is not None)


class GatedDeltaNet(Layer):
    """The layer: projections, a short convolution over queries, keys and values, the delta rule, a gated norm.

    Each of ``num_key_heads`` serves num_value_heads / num_key_heads consecutive value heads. Built in lesson
    `deltanet`. Source: "Gated Delta Networks", section 3.4; transformers' ``Qwen3_5GatedDeltaNet``.
    """

    functions = declared(one_token=delta_rule, many_tokens=chunked_delta_rule)  # one needs no system of equations

    def __init__(
        self,
        width: int,
        num_key_heads: int,
        num_value_heads: int,
        key_dim: int,
        value_dim: int,
        conv_width: int,
        epsilon: float,
    ):
        super().__init__()
        self.key_dim, self.value_dim, self.epsilon = key_dim, value_dim, epsilon
        self.sizes = [num_key_heads * key_dim, num_key_heads * key_dim, num_value_heads * value_dim]
        self.mix = nn.Linear(width, sum(self.sizes), bias=False)  # queries, keys and values
        self.gate = nn.Linear(width, num_value_heads * value_dim, bias=False)
        self.beta = nn.Linear(width, num_value_heads, bias=False)
        self.decay = nn.Linear(width, num_value_heads, bias=False)
        self.conv = nn.Parameter(torch.zeros(sum(self.sizes), 1, conv_width))
        self.log_rate = nn.Parameter(torch.zeros(num_value_heads))
        self.decay_bias = nn.Parameter(torch.ones(num_value_heads))
        self.norm = nn.Parameter(torch.ones(value_dim))
        self.output = nn.Linear(num_value_heads * value_dim, width, bias=False)
        nn.init.kaiming_uniform_(self.conv, a=5**0.5)  # as torch does for a convolution
        nn.init.uniform_(self.log_rate, 0.01, 16).data.log_()
        nn.init.uniform_(self.decay_bias, *SLOWEST_AND_FASTEST).data.exp_().expm1_().log_()  # the inverse of softplus

    def forward(self, x: Float[Tensor, "B T D"], rows: Rows, cache: DeltaState | None = None) -> Float[Tensor, "B T D"]:
        mixed, gate = self.mix(x), self._heads(self.gate(x), self.value_dim)
        before, memory = self._start(mixed, cache)
        query, key, value = self._split(short_conv(mixed, self.conv, before))
        log_decay, beta = self._strengths(x, rows.real)
        rule = self.functions["many_tokens" if x.shape[1] > 1 else "one_token"]
        read, memory = rule(query, key, value, log_decay, beta, memory)
        if cache is not None:
            written = Written(key, value, log_decay, beta, mixed)
            cache.write(memory, _last(before, mixed, rows.lengths), written, self.functions["many_tokens"])
        return self.output(gated_norm(read.to(x.dtype), gate, self.norm, self.epsilon).flatten(2))

    def _start(self, mixed: Tensor, cache: DeltaState | None) -> tuple[Tensor, Tensor]:
        """The inputs before these tokens and the memory of them; zeros at the start of a text."""
        if cache is not None and cache.memory is not None:
            return cache.inputs, cache.memory
        batch, _, channels = mixed.shape
        heads = self.sizes[2] // self.value_dim
        memory = mixed.new_zeros(batch, heads, self.key_dim, self.value_dim, dtype=at_least_float32(mixed.dtype))
        return mixed.new_zeros(batch, self.conv.shape[2] - 1, channels), memory

    def _split(self, mixed: Float[Tensor, "B T channels"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys of length 1 and values, in at least float32, each key head repeated for its values."""
        query, key, value = mixed.to(at_least_float32(mixed.dtype)).split(self.sizes, dim=-1)
        value = self._heads(value, self.value_dim)
        query, key = (unit_length(self._heads(part, self.key_dim)) for part in (query, key))
        served = value.shape[2] // key.shape[2]
        query, key = query.repeat_interleave(served, dim=2), key.repeat_interleave(served, dim=2)
        return query * self.key_dim**-0.5, key, value

    def _strengths(self, x: Float[Tensor, "B T D"], real: Bool[Tensor, "B T"]) -> tuple[Tensor, Tensor]:
        """Log decay and beta of each value head. Behind a row's end both are 0, so that its memory stays."""
        dtype = at_least_float32(x.dtype)  # the memory adds up thousands of tokens
        rate, time = self.log_rate.to(dtype).exp(), self.decay(x).to(dtype) + self.decay_bias
        log_decay, beta = -rate * functional.softplus(time), self.beta(x).sigmoid().to(dtype)
        return log_decay * real[..., None], beta * real[..., None]

    def _heads(self, x: Float[Tensor, "B T HK"], width: int) -> Float[Tensor, "B T H K"]:
        return x.unflatten(-1, (-1, width))


def _last(
    before: Float[Tensor, "B past channels"], x: Float[Tensor, "B T channels"], lengths: Int[Tensor, " B"]
) -> Float[Tensor, "B past channels"]:
    """The last inputs of each row, at its own end."""
    past = torch.arange(before.shape[1], device=x.device)
    place = (lengths[:, None] + past)[..., None].expand(-1, -1, x.shape[2])
    return torch.cat([before, x], dim=1).gather(1, place)
