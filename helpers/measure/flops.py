"""FLOP of a training step, counted while it runs: what every matrix product of it multiplies and adds.

``torch.utils.flop_counter.FlopCounterMode`` watches each operation and knows its formula from the shapes. Some of them
it gets wrong or does not know (torch 2.13), and they are mended here:

- a triangular system, which Gated DeltaNet solves in each chunk, counts as nothing;
- attention in one operation counts as nothing on a CPU, though it counts on a GPU;
- a matrix times one vector, and the products of all experts in one operation, count as nothing;
- the gradient of a convolution that keeps its channels apart counts as if it mixed all of them.

What is not counted is everything that multiplies no matrices: norms, softmax, activations, rotations, sums, the
look-up of an embedding, the choice of experts or tokens, and AdamW. ``count_elements`` says how much of that there is.
A mask saves nothing here: a product of T queries and S keys counts in full, because it is computed in full.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from helpers.shapes import Float, Int, Tensor

Loss = Callable[[nn.Module, Int[Tensor, "1 T_and_1"]], Float[Tensor, ""]]

_aten = torch.ops.aten


@dataclass(frozen=True)
class StepFlops:
    """FLOP of one forward and one backward pass, of ``tokens`` tokens."""

    forward: int
    backward: int
    tokens: int

    @property
    def per_token(self) -> float:
        """FLOP per token, both passes: what 6 N estimates."""
        return (self.forward + self.backward) / self.tokens


def count_flops(run: Callable[[], object]) -> dict[str, int]:
    """FLOP of ``run()`` by operation: ``{"mm": ..., "bmm": ...}``. Built in lesson `training_bill`."""
    with FlopCounterMode(display=False, custom_mapping=MENDED) as counter:
        run()
    counted = counter.get_flop_counts().get("Global", {})
    return {str(operation).rpartition(".")[2]: flops for operation, flops in counted.items()}


def training_flops(model: nn.Module, length: int, loss: Loss | None = None) -> StepFlops:
    """FLOP of training ``model`` on one text of ``length`` tokens, counted in one forward and one backward pass.

    ``loss(model, ids)`` is the training's own, for a batch of 1 x (length + 1) token ids; without it the logits of
    ``length`` tokens are made and every weight gets its gradient, which is all that next-token prediction costs. Pass
    it where a step does more, as with a drafter, images, or an indexer that imitates dense attention. Which tokens
    they are does not matter, nor the size of the batch; ``length`` does. (Token 0 is taken; where it stands for an
    image, ``loss`` brings its own.) No gradient is left in the model.

    Raises ValueError for a length below 1, and for a model none of whose weights is to be trained. Built in lesson
    `training_bill`.
    """
    if length < 1:
        raise ValueError(f"a text has 1 token or more, and length is {length}")
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if not weights:
        raise ValueError("no weight of this model is to be trained: requires_grad is False everywhere")
    ids = torch.zeros(1, length + 1, dtype=torch.long, device=weights[0].device)
    passed = []
    forward = count_flops(lambda: passed.append((loss or _all_logits)(model, ids)))
    backward = count_flops(lambda: torch.autograd.grad(passed[0], weights, allow_unused=True))
    return StepFlops(sum(forward.values()), sum(backward.values()), length)


def training_flops_per_token(model: nn.Module, length: int, loss: Loss | None = None) -> float:
    """FLOP per token of training ``model`` on ``length`` tokens; see ``training_flops``.

    Built in lesson `training_bill`.
    """
    return training_flops(model, length, loss).per_token


def count_elements(run: Callable[[], object]) -> int:
    """Numbers that ``run()`` writes by all operations that the FLOP counter leaves out.

    At least one operation made each, so this is a lower bound of the FLOP that are not counted; what moves a number
    without changing it (a copy, a gather) counts too, and a view does not. Built in lesson `training_bill`.
    """
    with _Elements() as seen:
        run()
    return seen.elements


class _Elements(TorchDispatchMode):
    """Adds up the elements of what is written by operations without a FLOP formula."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket not in _LEFT_OUT and not function.is_view:
            outs = out if isinstance(out, tuple | list) else [out]
            self.elements += sum(each.numel() for each in outs if isinstance(each, Tensor))
        return out


def _all_logits(model: nn.Module, ids: Int[Tensor, "1 T_and_1"]) -> Float[Tensor, ""]:
    return model(ids[:, :-1]).sum()


def _triangular(system: torch.Size, right: torch.Size, *, left: bool = True, **_ignored) -> int:
    """n equations for m right sides: n^2 m, as LAPACK counts its trsm."""
    equations = system[-1]
    return equations * prod(right)


def _convolution_backward(grad_out: torch.Size, _x: torch.Size, weight: torch.Size, *rest, **_ignored) -> int:
    """Each gradient that is asked for costs what the forward pass did: every weight meets every place of the output."""
    asked = rest[7]  # output_mask: input, weight, bias
    return 2 * grad_out[0] * prod(grad_out[2:]) * prod(weight) * (asked[0] + asked[1])


def _attention(query: torch.Size, key: torch.Size, value: torch.Size, *_rest, **_ignored) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad_out, query, key, value, *_rest, **_ignored) -> int:
    return sdpa_backward_flop_count(grad_out, query, key, value)


def _vector(matrix: torch.Size, *_rest, **_ignored) -> int:
    """Each entry of the matrix once."""
    return 2 * prod(matrix)


def _grouped(rows: torch.Size, stack: torch.Size, *_rest, **_ignored) -> int:
    """Each row meets one matrix of the stack."""
    return 2 * prod(rows) * stack[-1]


MENDED = {  # operation -> FLOP from the shapes of all its arguments; they take the place of FlopCounterMode's own
    _aten._grouped_mm: _grouped,
    _aten.mv: _vector,
    _aten.linalg_solve_triangular: _triangular,
    _aten.convolution_backward: _convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
_LEFT_OUT = {*flop_registry, *MENDED, _aten._unsafe_view}  # what is counted, and a view that is not called one
