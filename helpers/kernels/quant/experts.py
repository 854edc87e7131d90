"""The experts of a layer in two launches: sibling of ``helpers.moe.dispatch.dispatched``, weights plain or packed.

    pairs (token, expert), sorted by expert     e0 e0 e0 e0 e0 | e2 | e3 e3 e3 ...       e1 has none
    tiles of WIDE pairs, none of two experts    [ tile 0 ][ 1 ] [ 2 ] [ tile 3 ] ...     at most pairs / WIDE + E

    _hidden   one program per tile and TALL rows of gate and up: its pairs' tokens are gathered as they are loaded,
              both products are walked along D together, SwiGLU and the router's weight applied in registers
    _made     one program per tile and TALL rows of down, stored where the pair stood before the sorting

Nobody waits for a count: a program finds its expert among the running totals of tiles, and those beyond the last tile
end at once. Sorting once serves both launches, and one token needs none. Written as separate operations the gathered
tokens, both products and the rows before their sum go through memory; here the hidden rows and the rows of the sum do.

Bytes: the weights of every expert that was chosen, once; tokens in and out, 2 T D; hidden written and read, 2 T A F;
rows to be added up written and read, 2 T A D. FLOP: 6 T A D F. A token with 8 of 256 experts: weights alone.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from helpers.kernels.launch import (
    Variant,
    blocks,
    kernel,
    launch,
    launches,
    may_ask,
    refuse_mixed,
    refuse_scattered,
    tile,
    tl,
)
from helpers.kernels.quant.dequantise import SHARED, WORDS, finished, lay, multiplied, table_of, take_back, weights
from helpers.measure import Work
from helpers.moe import dispatch
from helpers.moe.dispatch import Stacks
from helpers.quant.formats.named import encode
from helpers.shapes import Float, Int, Tensor


class PackedStacks(NamedTuple):
    """The matrices of all experts in one packed format: ``codes`` and ``scale`` of each kind, with an axis in front."""

    name: str
    gate: dict[str, Tensor]
    up: dict[str, Tensor]
    down: dict[str, Tensor]
    limit: float | None = None

    @property
    def num_experts(self) -> int:
        return len(self.down["codes"])

    def gate_up_of(self, e: int, rows: Float[Tensor, "rows D"]) -> Float[Tensor, "rows twoF"]:
        return torch.cat([functional.linear(rows, self.matrix(kind, e, rows.dtype)) for kind in ("gate", "up")], dim=-1)

    def down_of(self, e: int, hidden: Float[Tensor, "rows F"]) -> Float[Tensor, "rows D"]:
        return functional.linear(hidden, self.matrix("down", e, hidden.dtype))

    def matrix(self, kind: str, e: int, dtype: torch.dtype) -> Float[Tensor, "O I"]:
        """One matrix decoded from its codes and scales."""
        laid = {part: tensor[e] for part, tensor in getattr(self, kind).items()}
        rows, columns = laid["codes"].shape
        return take_back(laid, self.name, (rows, columns * (8 if self.name in WORDS else 1))).decode(dtype)


class Plan(NamedTuple):
    """Which pairs lie together. Group g is expert ``owner[g]``'s, its pairs are ``order[first[g] : first[g + 1]]``."""

    order: Int[Tensor, " pairs"]
    owner: Int[Tensor, " groups"]
    first: Int[Tensor, " groups_and_1"]
    ends: Int[Tensor, " groups"]  # tiles up to and with each group
    tiles: int  # as many as there can be
    wide: int  # pairs a tile


def dispatched(
    x: Float[Tensor, "tokens D"],
    indices: Int[Tensor, "tokens A"],
    weights: Float[Tensor, "tokens A"],
    stacks: Stacks | PackedStacks,
) -> Float[Tensor, "tokens D"]:
    """The weighted sum of what the chosen experts make of each token.

    Raises ValueError for an expert that is not there (not while a CUDA graph is captured, which cannot ask), tensors in
    pieces, mixed dtypes, sizes that do not fit together. No gradient: where one is wanted, or no kernel runs, the
    sibling answers. Source: Gale et al., "MegaBlocks", 2022, for blocks without padding. Built in lesson `kernels`.
    """
    plain = isinstance(stacks, Stacks)
    if not launches(x, *((stacks.gate_up, stacks.down) if plain else ())):
        return dispatch.dispatched(x, indices, weights, stacks)
    indices, weights = indices.contiguous(), weights.contiguous()  # a router gives the first of a longer row
    experts, hidden = _refuse(x, indices, weights, stacks)
    plan, chosen = planned(indices, experts), indices.shape[1]
    middle, made = x.new_empty(indices.numel(), hidden), x.new_empty(indices.numel(), x.shape[1])
    _run(_hidden, plan, x, middle, [stacks.gate, stacks.up], stacks, chosen, weights, stacks.limit or 0.0)
    _run(_made, plan, middle, made, [stacks.down], stacks)
    return made.view(*indices.shape, -1).sum(dim=1)  # over A


def planned(indices: Int[Tensor, "tokens A"], experts: int) -> Plan:
    """Sort the pairs and share them out in tiles, without asking the device for a number. Built in lesson `kernels`."""
    pairs, one = indices.numel(), len(indices) == 1
    groups = pairs if one else experts
    wide = tile(blocks(pairs, groups), 8, 128)
    tiles = pairs // wide + min(groups, pairs)
    if one:  # each pair is its own group and tile
        count = torch.arange(pairs + 1, device=indices.device, dtype=torch.int32)
        return Plan(count[:-1], indices[0], count, count[1:], pairs, wide)
    chosen, order = indices.flatten().sort(stable=True)
    owner = torch.arange(experts + 1, device=indices.device, dtype=indices.dtype)
    first = torch.searchsorted(chosen, owner, out_int32=True)
    ends = ((first.diff() + wide - 1) // wide).cumsum(0, dtype=torch.int32)
    return Plan(order.int(), owner[:-1], first, ends, tiles, wide)


def packed_stacks(stacks: Stacks, name: str) -> PackedStacks:
    """Every matrix encoded and laid out for the kernel. ValueError as in ``encode`` and ``lay``.

    Built in lesson `kernels`.
    """
    three = (stacks.gate, stacks.up, stacks.down)
    kinds = [[lay(encode(matrix, name)) for matrix in stack.detach()] for stack in three]
    return PackedStacks(
        name, *({k: torch.stack([one[k] for one in kind]) for k in kind[0]} for kind in kinds), stacks.limit
    )


def unpacked(stacks: PackedStacks, dtype: torch.dtype) -> Stacks:
    """The matrices decoded from codes and scales: what the readable sibling multiplies. Built in lesson `kernels`."""
    gate, up, down = (
        torch.stack([stacks.matrix(kind, e, dtype) for e in range(stacks.num_experts)])
        for kind in ("gate", "up", "down")
    )
    return Stacks(torch.cat([gate, up], dim=1), down, stacks.limit)


def cost(tokens: int, width: int, hidden: int, chosen: int, touched: float, bits: float = 16) -> Work:
    """``touched`` experts were chosen by any token; activations have 16 bits. Built in lesson `kernels`."""
    pairs, matrices = tokens * chosen, 3 * width * hidden
    numbers = 2 * tokens * width + 2 * pairs * (hidden + width)
    return Work(flops=2.0 * pairs * matrices, bytes=touched * matrices * bits / 8 + 2 * numbers)


def _refuse(x: Tensor, indices: Tensor, weights: Tensor, stacks: Stacks | PackedStacks) -> tuple[int, int]:
    """The number of experts and their hidden width."""
    plain = isinstance(stacks, Stacks)
    kinds = dict(gate=stacks.gate, up=stacks.up, down=stacks.down)
    parts = kinds if plain else {f"{kind}.{part}": t for kind, laid in kinds.items() for part, t in laid.items()}
    refuse_scattered(x=x, indices=indices, weights=weights)
    for name, part in parts.items():
        whole = part[0].is_contiguous() or (plain and part[0].T.is_contiguous())  # each matrix, at any distance
        if part.device != x.device or not whole:
            raise ValueError(f"{name} is on {part.device} with strides {part.stride()}; x is on {x.device}")
    if plain:
        refuse_mixed(x=x, **kinds)
    eight = 8 if not plain and stacks.name in WORDS else 1
    shapes = {kind: (part if plain else part["codes"]).shape for kind, part in kinds.items()}
    experts, hidden, width = shapes["gate"][0], shapes["gate"][1], x.shape[1]
    wanted = dict(gate=(experts, hidden, width // eight), up=(experts, hidden, width // eight))
    for kind, shape in (wanted | dict(down=(experts, width, hidden // eight))).items():
        if tuple(shapes[kind]) != shape:
            raise ValueError(f"{kind} is {tuple(shapes[kind])}; with tokens of {width} it must be {shape}")
    if indices.shape != weights.shape or len(indices) != len(x):
        raise ValueError(f"{len(x)} tokens with indices {tuple(indices.shape)} and weights {tuple(weights.shape)}")
    if may_ask(x):
        dispatch.check_experts(indices, experts)
    return experts, hidden


def _run(function, plan: Plan, x: Tensor, out: Tensor, matrices: list, stacks: Stacks | PackedStacks, *more) -> None:
    """One program for each tile of pairs and TALL rows of the matrices; neighbours share their tokens."""
    name = "plain" if isinstance(stacks, Stacks) else stacks.name
    laid = [dict(codes=m, scale=m) if name == "plain" else m for m in matrices]
    rows, width = out.shape[1], x.shape[1]
    tall, deep, warps = _sizes(plan.wide, len(matrices))
    deep = max(deep, SHARED.get(name, 16))
    groups = 1 if name == "plain" else laid[0]["scale"][0, 0].numel()
    launch(
        function, (blocks(rows, tall), plan.tiles),
        x, *(one[part] for one in laid for part in ("codes", "scale")), table_of(name, x), out, *plan[:4], *more,
        rows, width, *laid[0]["codes"].stride()[1:], groups, laid[0]["codes"].stride(0), laid[0]["scale"].stride(0),
        warps=warps, FORMAT=name, SHARED=SHARED.get(name),
        GROUPS=len(plan.owner), GROUP_TILE=tile(len(plan.owner)), LIMITED=stacks.limit is not None,
        TALL=tall, WIDE=plan.wide, DEEP=deep,
    )  # fmt: skip


def _sizes(wide: int, sums: int) -> tuple[int, int, int]:
    """Rows and columns of a tile, and warps. Two sums side by side fill the registers at half the height."""
    if wide <= 16:
        return 32, 128, 2
    return (128 // sums, 64, 8) if wide > 64 else (64, 64, 4)


@kernel
def _hidden(
    x, gate, gate_scale, up, up_scale, table, out, order, owner, first, ends, chosen, shares, limit,
    rows, width, stride, step, groups, expert_stride, scale_stride,
    FORMAT: tl.constexpr, SHARED: tl.constexpr, GROUPS: tl.constexpr, GROUP_TILE: tl.constexpr, LIMITED: tl.constexpr,
    TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    group, pair, there = _pairs(tl.program_id(1), first, ends, GROUPS, GROUP_TILE, WIDE)
    if group < GROUPS:
        expert = tl.load(owner + group).to(tl.int64)
        gate, up = gate + expert * expert_stride, up + expert * expert_stride
        gate_scale, up_scale = gate_scale + expert * scale_stride, up_scale + expert * scale_stride
        before = tl.load(order + pair, mask=there, other=0)  # where the pair stood
        token, row = before // chosen, tl.program_id(0) * TALL + tl.arange(0, TALL)
        open_, value = tl.zeros((TALL, WIDE), tl.float32), tl.zeros((TALL, WIDE), tl.float32)

        for start in range(0, width, DEEP):
            a = weights(
                gate, gate_scale, table, row, start, rows, width, stride, step, groups,
                FORMAT, SHARED, TALL, DEEP, x.dtype.element_ty,
            )  # fmt: skip
            b = weights(
                up, up_scale, table, row, start, rows, width, stride, step, groups,
                FORMAT, SHARED, TALL, DEEP, x.dtype.element_ty,
            )  # fmt: skip
            deep = start + tl.arange(0, DEEP)
            inside = (deep < width)[:, None] & there[None, :]
            right = tl.load(x + token[None, :].to(tl.int64) * width + deep[:, None], mask=inside, other=0.0)
            open_ = multiplied(open_, a, right, gate_scale, row, start, groups, FORMAT, SHARED)
            value = multiplied(value, b, right, up_scale, row, start, groups, FORMAT, SHARED)

        open_, value = finished(open_, gate_scale, row, rows, FORMAT), finished(value, up_scale, row, rows, FORMAT)
        if LIMITED:
            open_, value = tl.minimum(open_, limit), tl.minimum(tl.maximum(value, -limit), limit)
        share = tl.load(shares + before, mask=there, other=0.0).to(tl.float32)
        hidden = open_ * tl.sigmoid(open_) * value * share[None, :]

        at = pair[None, :].to(tl.int64) * rows + row[:, None]
        tl.store(out + at, hidden.to(out.dtype.element_ty), mask=(row < rows)[:, None] & there[None, :])


@kernel
def _made(
    x, down, down_scale, table, out, order, owner, first, ends,
    rows, width, stride, step, groups, expert_stride, scale_stride,
    FORMAT: tl.constexpr, SHARED: tl.constexpr, GROUPS: tl.constexpr, GROUP_TILE: tl.constexpr, LIMITED: tl.constexpr,
    TALL: tl.constexpr, WIDE: tl.constexpr, DEEP: tl.constexpr,
):  # fmt: skip
    group, pair, there = _pairs(tl.program_id(1), first, ends, GROUPS, GROUP_TILE, WIDE)
    if group < GROUPS:
        expert = tl.load(owner + group).to(tl.int64)
        down, down_scale = down + expert * expert_stride, down_scale + expert * scale_stride
        row = tl.program_id(0) * TALL + tl.arange(0, TALL)
        total = tl.zeros((TALL, WIDE), tl.float32)

        for start in range(0, width, DEEP):
            a = weights(
                down, down_scale, table, row, start, rows, width, stride, step, groups,
                FORMAT, SHARED, TALL, DEEP, x.dtype.element_ty,
            )  # fmt: skip
            deep = start + tl.arange(0, DEEP)
            inside = (deep < width)[:, None] & there[None, :]
            right = tl.load(x + pair[None, :].to(tl.int64) * width + deep[:, None], mask=inside, other=0.0)
            total = multiplied(total, a, right, down_scale, row, start, groups, FORMAT, SHARED)

        total = finished(total, down_scale, row, rows, FORMAT)
        at = tl.load(order + pair, mask=there, other=0)[None, :].to(tl.int64) * rows + row[:, None]
        tl.store(out + at, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & there[None, :])


@kernel
def _pairs(place, first, ends, GROUPS: tl.constexpr, GROUP_TILE: tl.constexpr, WIDE: tl.constexpr):
    """The group of a tile (GROUPS: of none), its pairs, and which of them are there."""
    groups = tl.arange(0, GROUP_TILE)
    last = tl.load(ends + groups, mask=groups < GROUPS, other=0x7FFFFFFF)
    group = tl.sum((last <= place).to(tl.int32), axis=0)
    inside = group < GROUPS
    before = tl.load(ends + group - 1, mask=inside & (group > 0), other=0)
    pair = tl.load(first + group, mask=inside, other=0) + (place - before) * WIDE + tl.arange(0, WIDE)
    return group, pair, pair < tl.load(first + group + 1, mask=inside, other=0)


def _variant(function, name: str, codes: str, scale: str, wide: int) -> Variant:
    """Qwen3.5's 256 experts."""
    tall, deep, warps = _sizes(wide, 2 if function is _hidden else 1)
    kinds, more = (2, "i32 *bf16:16 fp32 ") if function is _hidden else (1, "")
    table = "i32" if name == "int4" else "fp32"
    types = f"*bf16:16 {f'*{codes}:16 *{scale}:16 ' * kinds}*{table}:16 *bf16:16 *i32:16 *i64:16 *i32:16 *i32:16 {more}"
    one = "stride" if function is _made and name == "plain" else "step"  # a plain ``down`` lies along the width
    sizes = dict(FORMAT=name, SHARED=SHARED.get(name), GROUPS=256, GROUP_TILE=256, LIMITED=False)
    sizes |= {"TALL": tall, "WIDE": wide, "DEEP": deep, one: 1}  # what is 1 is a constant to Triton
    return Variant(function, types + "i32:16 i32:16 i32:16 i32 i32:16 i32:16", sizes, warps=warps)


VARIANTS = {
    f"{kind} {name} {pairs} a tile": _variant(function, name, *parts, pairs)
    for kind, function in (("hidden", _hidden), ("made", _made))
    for name, parts in (("plain", ("bf16", "bf16")), ("int4", ("i32", "bf16")))
    for pairs in (8, 64, 128)
}
