"""Dispatch: how tokens come to their experts. Four ways to one answer, and the rule that says which is taken.

``by_loop`` is the definition: each expert in turn takes the tokens that chose it. ``by_sorting`` puts the rows of one
expert side by side first, so that each expert multiplies one block and no token is looked for twice. ``single_token``
is for a single token: nothing is sorted or gathered, each chosen expert's matrices are read where they lie.
``by_gathering`` is for a compiled step, which cannot ask which experts were chosen.

``by_sorting`` and ``single_token`` ask one expert at a time for the products of its rows, so they take any experts:
plain ones (``Stacks``), packed ones, and those that are laid out for a kernel.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch.nn import functional

from helpers.layers.mlp import swiglu
from helpers.precision import at_least_float32
from helpers.shapes import Float, Int, Tensor

# The grouped kernel writes the rows of all pairs between its two products. Up to this many bytes they stay in the
# processor's cache; above, one expert at a time was as fast or faster on the machine of `course measure moe`.
NEAR_BYTES = 4 * 2**20


@runtime_checkable
class AnyExperts(Protocol):
    """The experts of one layer, as the dispatches ask for them, however their matrices are stored."""

    @property
    def num_experts(self) -> int: ...

    @property
    def limit(self) -> float | None:
        """Of their activations; None: none."""

    def gate_up_of(self, e: int, rows: Float[Tensor, "rows D"]) -> Float[Tensor, "rows twoF"]:
        """Rows times expert ``e``'s gate, and beside it times its ``up``."""

    def down_of(self, e: int, hidden: Float[Tensor, "rows F"]) -> Float[Tensor, "rows D"]:
        """Activations times expert ``e``'s ``down``."""


class Stacks(NamedTuple):
    """The matrices of all experts of one layer, and the limit of their activations (None: none)."""

    gate_up: Float[Tensor, "E twoF D"]  # the rows of each expert's gate, then those of its ``up``
    down: Float[Tensor, "E D F"]
    limit: float | None = None

    @property
    def num_experts(self) -> int:
        return len(self.down)

    @property
    def gate(self) -> Float[Tensor, "E F D"]:
        """A view of the first half of ``gate_up``."""
        return self.gate_up.chunk(2, dim=1)[0]

    @property
    def up(self) -> Float[Tensor, "E F D"]:
        """A view of the second half of ``gate_up``."""
        return self.gate_up.chunk(2, dim=1)[1]

    def gate_up_of(self, e: int, rows: Float[Tensor, "rows D"]) -> Float[Tensor, "rows twoF"]:
        return functional.linear(rows, self.gate_up[e])

    def down_of(self, e: int, hidden: Float[Tensor, "rows F"]) -> Float[Tensor, "rows D"]:
        return functional.linear(hidden, self.down[e])


def dispatched(
    x: Float[Tensor, "tokens D"],
    indices: Int[Tensor, "tokens A"],
    weights: Float[Tensor, "tokens A"],
    experts: AnyExperts,
) -> Float[Tensor, "tokens D"]:
    """The weighted sum of what the chosen experts make of each token: for one token by ``single_token``, for several by
    ``by_sorting``, and in a compiled step, which takes plain experts only, by ``by_gathering``.

    Raises ValueError for an expert that is not there; a compiled step does not look.
    """
    if torch.compiler.is_compiling():
        return by_gathering(x, indices, weights, experts)
    way = single_token if len(x) == 1 else by_sorting
    return way(x, indices, weights, experts)


def by_loop(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """Each expert in turn: find its tokens, multiply, weigh, add.

    Raises ValueError for an expert that is not there.
    Source: DeepSeek-AI, "DeepSeekMoE", 2024, equation 3. Built in lesson `experts`.
    """
    check_experts(indices, stacks.num_experts)
    out = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, weights.dtype), device=x.device)
    for e, (gate, up, down) in enumerate(zip(stacks.gate, stacks.up, stacks.down, strict=True)):
        tokens, places = (indices == e).nonzero(as_tuple=True)
        rows = x[tokens]
        made = swiglu(rows @ gate.T, rows @ up.T, stacks.limit) @ down.T
        out = out.index_add(0, tokens, (made * weights[tokens, places, None]).to(out.dtype))
    return out.to(x.dtype)


def by_sorting(
    x: Float[Tensor, "tokens D"],
    indices: Int[Tensor, "tokens A"],
    weights: Float[Tensor, "tokens A"],
    experts: AnyExperts,
) -> Float[Tensor, "tokens D"]:
    """Sort the (token, expert) pairs by expert once: each expert then has one block of rows to multiply.

    Raises ValueError for an expert that is not there. Built in lesson `experts`.
    """
    order, counts = sort_pairs(indices, experts.num_experts)
    way = grouped if takes_grouped(x, len(order), experts) else block_by_block
    return way(x, weights, order, counts, experts)


def single_token(
    x: Float[Tensor, "tokens D"],
    indices: Int[Tensor, "tokens A"],
    weights: Float[Tensor, "tokens A"],
    experts: AnyExperts,
) -> Float[Tensor, "tokens D"]:
    """One token: each chosen expert's matrices times one vector, where they lie in memory.

    Raises ValueError for several tokens, and for an expert that is not there. Built in lesson `experts`.
    """
    if len(x) != 1:
        raise ValueError(f"views are for one token, and {len(x)} were given")
    check_experts(indices, experts.num_experts)
    chosen = indices[0].tolist()
    with _dot_products(x):
        both = torch.cat([experts.gate_up_of(e, x) for e in chosen])  # A twoF
        hidden = activated(both, weights.T, experts).split(1)
        made = torch.cat([experts.down_of(e, one) for e, one in zip(chosen, hidden, strict=True)])  # A D
    return made.sum(dim=0, keepdim=True)


def by_gathering(
    x: Float[Tensor, "tokens D"], indices: Int[Tensor, "tokens A"], weights: Float[Tensor, "tokens A"], stacks: Stacks
) -> Float[Tensor, "tokens D"]:
    """Few tokens: each is multiplied with the matrices of its own experts, without a look at which they are.

    As written, A matrices are copied for each token; a compiler merges the gather into the sum, and nothing is copied.
    Raises ValueError for an expert that is not there; a compiled step does not look.
    """
    if not torch.compiler.is_compiling():
        check_experts(indices, stacks.num_experts)
    token = x[:, None, None].to(at_least_float32(x.dtype))
    both = (stacks.gate_up[indices] * token).sum(dim=-1).to(x.dtype)  # tokens A twoF
    hidden = activated(both, weights[..., None], stacks)
    made = stacks.down[indices] * hidden[:, :, None].to(token.dtype)  # tokens A D F
    return made.sum(dim=(1, 3)).to(x.dtype)


def activated(
    both: Float[Tensor, "*rows twoF"], share: Float[Tensor, "*rows_and_1"], experts: AnyExperts
) -> Float[Tensor, "*rows F"]:
    """SwiGLU of gate and up, which lie side by side, times the router's weight. Before ``down``, rows are short."""
    gate, up = both.chunk(2, dim=-1)
    return (swiglu(gate, up, experts.limit) * share).to(both.dtype)


def sort_pairs(indices: Int[Tensor, "tokens A"], num_experts: int) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " E"]]:
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
    order: Int[Tensor, " pairs"],
    counts: Int[Tensor, " E"],
    experts: AnyExperts,
) -> Float[Tensor, "tokens D"]:
    """One expert after the other, from its rows to its part of the sum while they are at hand; experts that nobody
    chose do no work."""
    out = torch.zeros(x.shape, dtype=at_least_float32(x.dtype), device=x.device)
    sizes, shares = counts.tolist(), weights.flatten()[order, None]
    blocks = zip((order // weights.shape[1]).split(sizes), shares.split(sizes), strict=True)  # pair p is token p // A's
    for e, (tokens, share) in enumerate(blocks):
        if len(tokens):
            hidden = activated(experts.gate_up_of(e, x[tokens]), share, experts)
            out.index_add_(0, tokens, experts.down_of(e, hidden).to(out.dtype))
    return out.to(x.dtype)


def grouped(
    x: Float[Tensor, "tokens D"],
    weights: Float[Tensor, "tokens A"],
    order: Int[Tensor, " pairs"],
    counts: Int[Tensor, " E"],
    stacks: Stacks,
) -> Float[Tensor, "tokens D"]:
    """All experts in one call for each stack, in which the device finds the blocks itself: none waits for Python."""
    ends = counts.cumsum(0).int()
    times = lambda rows, stack: functional.grouped_mm(rows, stack.mT, offs=ends)  # noqa: E731
    both = times(x[order // weights.shape[1]], stacks.gate_up)
    made = times(activated(both, weights.flatten()[order, None], stacks), stacks.down)
    back = torch.empty_like(made).index_copy(0, order, made)
    return back.view(*weights.shape, -1).sum(dim=1)  # over A


def takes_grouped(x: Float[Tensor, "tokens D"], pairs: int, experts: AnyExperts) -> bool:
    """Whether torch has the kernel for these, and it pays: plain matrices of the tokens' dtype, in rows of whole 16
    bytes, on a device that it was made for.

    On a CPU float32 and bfloat16, while the rows of all pairs stay near; on an NVIDIA GPU bfloat16, since Ampere. Where
    a gradient is wanted blocks are taken: torch 2.13 has one for the kernel that refuses gradients which are views, as
    that of a sum is.
    """
    if not isinstance(experts, Stacks):
        return False
    matrices, down = (experts.gate_up, experts.down), experts.down
    if torch.is_grad_enabled() and any(part.requires_grad for part in (x, *matrices)):
        return False
    if x.dtype != down.dtype or any(size * down.element_size() % 16 for size in down.shape[1:]):
        return False
    if down.device.type == "cpu":
        near = pairs * x.shape[1] * x.element_size() <= NEAR_BYTES
        return near and down.dtype in (torch.float32, torch.bfloat16)
    new_enough = down.device.type == "cuda" and torch.cuda.get_device_capability(down.device) >= (8, 0)
    return new_enough and not torch.version.hip and down.dtype == torch.bfloat16


@contextmanager
def _dot_products(x: Float[Tensor, "tokens D"]) -> Iterator[None]:
    """Within the block torch multiplies one bfloat16 row on a CPU by its own kernel: a dot product for each row of the
    matrix. oneDNN's kernel lays the matrix out anew first. That pays for many rows, and not for one."""
    ours = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and not ours
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def check_experts(indices: Int[Tensor, "tokens A"], num_experts: int) -> None:
    """Raises ValueError for an expert that is not there: index -1 would be taken for the last one.

    Every dispatch asks here. On a GPU that waits for two numbers, and none of these ways can go on without a count.
    """
    if not indices.numel():
        return
    low, high = torch.stack(indices.aminmax()).tolist()
    if low < 0 or high >= num_experts:
        raise ValueError(f"expert {low if low < 0 else high} was chosen; there are experts 0 to {num_experts - 1}")
