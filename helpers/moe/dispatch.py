"""Dispatch: how tokens come to their experts. Three ways to one answer, and the rule that says which is taken.

``by_loop`` is the definition: each expert in turn takes the tokens that chose it. ``by_sorting`` puts the rows of one
expert side by side first, so that each expert multiplies one block and no token is looked for twice. ``by_views`` is
for a single token: nothing is sorted or gathered, each chosen expert's matrices are read where they lie.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from helpers.layers.mlp import swiglu
from helpers.shapes import Float, Int, Tensor


class Stacks(NamedTuple):
    """The matrices of all experts of one layer, and the limit of their activations (None: none)."""

    gate: Float[Tensor, "E F D"]
    up: Float[Tensor, "E F D"]
    down: Float[Tensor, "E D F"]
    limit: float | None = None


def dispatched(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """The weighted sum of what the chosen experts make of each token: one token by views, several by sorting."""
    way = by_views if len(x) == 1 else by_sorting
    return way(x, indices, weights, stacks)


def by_loop(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """Each expert in turn: find its tokens, multiply, weigh, add.

    Raises ValueError for an expert that is not there.
    Source: DeepSeek-AI, "DeepSeekMoE", 2024, equation 3. Built in lesson 10.
    """
    _refuse(int(indices.max()), len(stacks.gate))
    out = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, weights.dtype), device=x.device)
    for e, (gate, up, down) in enumerate(zip(*stacks[:3], strict=True)):
        tokens, places = (indices == e).nonzero(as_tuple=True)
        rows = x[tokens]
        made = swiglu(rows @ gate.T, rows @ up.T, stacks.limit) @ down.T
        out = out.index_add(0, tokens, (made * weights[tokens, places, None]).to(out.dtype))
    return out.to(x.dtype)


def by_sorting(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """Sort the (token, expert) pairs by expert, multiply block by block, put them back.

    Raises ValueError for an expert that is not there. Built in lesson 10.
    """
    order, counts = sort_pairs(indices, len(stacks.gate))
    rows = x[order // indices.shape[1]]  # pair p belongs to token p // A
    hidden = swiglu(grouped(rows, stacks.gate, counts), grouped(rows, stacks.up, counts), stacks.limit)
    hidden = (hidden * weights.flatten()[order, None]).to(x.dtype)  # before ``down``, where the rows are short
    made = grouped(hidden, stacks.down, counts)
    back = torch.empty_like(made).index_copy(0, order, made)
    return back.view(*indices.shape, -1).sum(dim=1)  # over A


def by_views(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """One token: each chosen expert's matrices times one vector, where they lie in memory.

    Raises ValueError for several tokens, and for an expert that is not there. Built in lesson 10.
    """
    if len(x) != 1:
        raise ValueError(f"views are for one token, and {len(x)} were given")
    chosen = indices[0].tolist()
    _refuse(max(chosen), len(stacks.gate))
    out = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, weights.dtype), device=x.device)
    for e, weight in zip(chosen, weights[0], strict=True):
        gate, up = functional.linear(x, stacks.gate[e]), functional.linear(x, stacks.up[e])
        hidden = (swiglu(gate, up, stacks.limit) * weight).to(x.dtype)
        out = out + functional.linear(hidden, stacks.down[e])
    return out.to(x.dtype)


def sort_pairs(indices: Int[Tensor, "tokens A"], num_experts: int) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "E"]]:
    """The (token, expert) pairs in the order of their experts, and how many pairs each expert has.

    Raises ValueError for an expert that is not there. Built in lesson 10.
    """
    chosen = indices.flatten()
    counts = chosen.bincount(minlength=num_experts)
    _refuse(len(counts) - 1, num_experts)
    return chosen.argsort(stable=True), counts


def grouped(
    rows: Float[Tensor, "pairs I"], stack: Float[Tensor, "E O I"], counts: Int[Tensor, "E"]
) -> Float[Tensor, "pairs O"]:
    """Each block of rows times its expert's matrix, transposed: the first ``counts[0]`` rows with the first, etc."""
    way = in_one_kernel if takes_one_kernel(rows, stack) else in_slices
    return way(rows, stack, counts)


def in_slices(
    rows: Float[Tensor, "pairs I"], stack: Float[Tensor, "E O I"], counts: Int[Tensor, "E"]
) -> Float[Tensor, "pairs O"]:
    """``grouped`` as one product for each expert that has rows; experts nobody chose do no work."""
    blocks = zip(rows.split(counts.tolist()), stack.unbind(), strict=True)
    return torch.cat([functional.linear(block, matrix) for block, matrix in blocks if len(block)])


def in_one_kernel(
    rows: Float[Tensor, "pairs I"], stack: Float[Tensor, "E O I"], counts: Int[Tensor, "E"]
) -> Float[Tensor, "pairs O"]:
    """``grouped`` as one call, in which the device finds the blocks itself: no expert waits for Python."""
    return functional.grouped_mm(rows, stack.mT, offs=counts.cumsum(0).int())


def takes_one_kernel(rows: Float[Tensor, "pairs I"], stack: Float[Tensor, "E O I"]) -> bool:
    """Whether torch has the kernel for these: one dtype, rows of whole 16 bytes, a device that it was made for.

    On a CPU float32 and bfloat16; on an NVIDIA GPU bfloat16, since Ampere. Where a gradient is wanted slices are taken:
    torch 2.13 has one for the kernel that refuses gradients which are views, as that of a sum is.
    """
    if torch.is_grad_enabled() and (rows.requires_grad or stack.requires_grad):
        return False
    if rows.dtype != stack.dtype or any(size * stack.element_size() % 16 for size in stack.shape[1:]):
        return False
    if stack.device.type == "cpu":
        return stack.dtype in (torch.float32, torch.bfloat16)
    new_enough = stack.device.type == "cuda" and torch.cuda.get_device_capability(stack.device) >= (8, 0)
    return new_enough and not torch.version.hip and stack.dtype == torch.bfloat16


def _refuse(highest: int, num_experts: int) -> None:
    if highest >= num_experts:
        raise ValueError(f"expert {highest} was chosen; there are experts 0 to {num_experts - 1}")
