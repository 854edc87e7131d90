"""Dispatch: how tokens come to their experts. Four ways to one answer, and the rule that says which is taken.

``by_loop`` is the definition: each expert in turn takes the tokens that chose it. ``by_sorting`` puts the rows of one
expert side by side first, so that each expert multiplies one block and no token is looked for twice. ``single_token``
is for a single token: nothing is sorted or gathered, each chosen expert's matrices are read where they lie.
``by_gathering`` is for a compiled step, which cannot ask which experts were chosen.
"""

from typing import NamedTuple

import torch
from torch.nn import functional

from helpers.layers.mlp import swiglu
from helpers.precision import at_least_float32
from helpers.shapes import Float, Int, Tensor

# The grouped kernel writes the rows of all pairs between its three products. Up to this many bytes they stay in the
# processor's cache; above, one expert at a time was as fast or faster on the machine of `course measure moe`.
NEAR_BYTES = 4 * 2**20


class Stacks(NamedTuple):
    """The matrices of all experts of one layer, and the limit of their activations (None: none)."""

    gate: Float[Tensor, "E F D"]
    up: Float[Tensor, "E F D"]
    down: Float[Tensor, "E D F"]
    limit: float | None = None


def dispatched(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """The weighted sum of what the chosen experts make of each token: one token read
    in place, several by sorting, and in a compiled step by gathering."""
    if torch.compiler.is_compiling():
        return by_gathering(x, indices, weights, stacks)
    way = single_token if len(x) == 1 else by_sorting
    return way(x, indices, weights, stacks)


def by_loop(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """Each expert in turn: find its tokens, multiply, weigh, add.

    Raises ValueError for an expert that is not there.
    Source: DeepSeek-AI, "DeepSeekMoE", 2024, equation 3. Built in lesson `experts`.
    """
    check_experts(indices, len(stacks.gate))
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
    """Sort the (token, expert) pairs by expert once: each expert then has one block of rows to multiply.

    Raises ValueError for an expert that is not there. Built in lesson `experts`.
    """
    order, counts = sort_pairs(indices, len(stacks.gate))
    way = grouped if takes_grouped(x, len(order), stacks) else block_by_block
    return way(x, weights, order, counts, stacks)


def single_token(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """One token: each chosen expert's matrices times one vector, where they lie in memory.

    Raises ValueError for several tokens, and for an expert that is not there. Built in lesson `experts`.
    """
    if len(x) != 1:
        raise ValueError(f"views are for one token, and {len(x)} were given")
    check_experts(indices, len(stacks.gate))
    out = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, weights.dtype), device=x.device)
    for e, weight in zip(indices[0].tolist(), weights[0], strict=True):
        out = out + one_expert(e, x, weight, stacks)
    return out.to(x.dtype)


def by_gathering(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """Few tokens: each one times the matrices of its own experts, without a look at which they are.

    As written, A matrices are copied for each token; a compiler merges the gather into the sum, and nothing is copied.
    Raises ValueError for an expert that is not there; a compiled step does not look.
    """
    if not torch.compiler.is_compiling():
        check_experts(indices, len(stacks.gate))
    token = x[:, None, None].to(at_least_float32(x.dtype))
    gate, up = ((stack[indices] * token).sum(dim=-1).to(x.dtype) for stack in (stacks.gate, stacks.up))  # tokens A F
    hidden = (swiglu(gate, up, stacks.limit) * weights[..., None]).to(x.dtype)
    made = stacks.down[indices] * hidden[:, :, None].to(token.dtype)  # tokens A D F
    return made.sum(dim=(1, 3)).to(x.dtype)


def one_expert(
    e: int, rows: Float[Tensor, "rows D"], share: Float[Tensor, "*rows_and_1"], stacks: Stacks
) -> Float[Tensor, "rows D"]:
    """Computes expert ``e``'s output for its rows. The weights are applied before ``down``, where rows are short."""
    gate, up = functional.linear(rows, stacks.gate[e]), functional.linear(rows, stacks.up[e])
    hidden = (swiglu(gate, up, stacks.limit) * share).to(rows.dtype)
    return functional.linear(hidden, stacks.down[e])


def sort_pairs(indices: Int[Tensor, "tokens A"], num_experts: int) -> tuple[Int[Tensor, "pairs"], Int[Tensor, "E"]]:
    """The (token, expert) pairs in the order of their experts, and how many pairs each expert has.

    Raises ValueError for an expert that is not there. Built in lesson `experts`.
    """
    check_experts(indices, num_experts)
    chosen = indices.flatten().long()
    counts = chosen.new_zeros(num_experts).scatter_add_(0, chosen, torch.ones_like(chosen))  # bincount would wait again
    return chosen.argsort(stable=True), counts


def block_by_block(
    x: Float[Tensor, "tokens D"],
    weights: Float[Tensor, "tokens A"],
    order: Int[Tensor, "pairs"],
    counts: Int[Tensor, "E"],
    stacks: Stacks,
) -> Float[Tensor, "tokens D"]:
    """One expert after the other, from its rows to its part of the sum while they are at hand; experts that nobody
    chose do no work."""
    out = torch.zeros(x.shape, dtype=at_least_float32(x.dtype), device=x.device)
    sizes, shares = counts.tolist(), weights.flatten()[order, None]
    blocks = zip((order // weights.shape[1]).split(sizes), shares.split(sizes), strict=True)  # pair p is token p // A's
    for e, (tokens, share) in enumerate(blocks):
        if len(tokens):
            out.index_add_(0, tokens, one_expert(e, x[tokens], share, stacks).to(out.dtype))
    return out.to(x.dtype)


def grouped(
    x: Float[Tensor, "tokens D"],
    weights: Float[Tensor, "tokens A"],
    order: Int[Tensor, "pairs"],
    counts: Int[Tensor, "E"],
    stacks: Stacks,
) -> Float[Tensor, "tokens D"]:
    """All experts in one call for each matrix, in which the device finds the blocks itself: none waits for Python."""
    ends = counts.cumsum(0).int()
    times = lambda rows, stack: functional.grouped_mm(rows, stack.mT, offs=ends)  # noqa: E731
    rows = x[order // weights.shape[1]]
    hidden = swiglu(times(rows, stacks.gate), times(rows, stacks.up), stacks.limit)
    hidden = (hidden * weights.flatten()[order, None]).to(x.dtype)  # before ``down``, where the rows are short
    made = times(hidden, stacks.down)
    back = torch.empty_like(made).index_copy(0, order, made)
    return back.view(*weights.shape, -1).sum(dim=1)  # over A


def takes_grouped(x: Float[Tensor, "tokens D"], pairs: int, stacks: Stacks) -> bool:
    """Whether torch has the kernel for these, and it pays: one dtype, matrices in rows of whole 16 bytes, a device that
    it was made for.

    On a CPU float32 and bfloat16, while the rows of all pairs stay near; on an NVIDIA GPU bfloat16, since Ampere. Where
    a gradient is wanted blocks are taken: torch 2.13 has one for the kernel that refuses gradients which are views, as
    that of a sum is.
    """
    matrices, gate = stacks[:3], stacks.gate
    if torch.is_grad_enabled() and any(part.requires_grad for part in (x, *matrices)):
        return False
    if x.dtype != gate.dtype or any(size * gate.element_size() % 16 for size in gate.shape[1:]):
        return False
    if gate.device.type == "cpu":
        near = pairs * x.shape[1] * x.element_size() <= NEAR_BYTES
        return near and gate.dtype in (torch.float32, torch.bfloat16)
    new_enough = gate.device.type == "cuda" and torch.cuda.get_device_capability(gate.device) >= (8, 0)
    return new_enough and not torch.version.hip and gate.dtype == torch.bfloat16


def check_experts(indices: Int[Tensor, "tokens A"], num_experts: int) -> None:
    """Raises ValueError for an expert that is not there: index -1 would be taken for the last one.

    Every dispatch asks here, on a GPU too, where it waits for two numbers: none of these ways goes on without a count.
    """
    if not indices.numel():
        return
    low, high = torch.stack(indices.aminmax()).tolist()
    if low < 0 or high >= num_experts:
        raise ValueError(f"expert {low if low < 0 else high} was chosen; there are experts 0 to {num_experts - 1}")
