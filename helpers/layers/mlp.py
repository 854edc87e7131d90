"""The gated feed-forward layer: where most of a dense model's weights are."""

from torch import nn
from torch.nn import functional

from helpers.shapes import Float, Tensor


def swiglu(
    gate: Float[Tensor, "*rest F"], up: Float[Tensor, "*rest F"], limit: float | None = None
) -> Float[Tensor, "*rest F"]:
    """``silu(gate) * up``. With a limit the gate is kept below it, and ``up`` within it on both sides.

    DeepSeek-V4 limits both to 10 so that no activation outgrows what FP8 and FP4 can hold.
    Source: DeepSeek-AI, "DeepSeek-V4", 2026; transformers' ``DeepseekV4Experts``. Built in lesson `experts`.
    """
    if limit is not None:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return functional.silu(gate) * up


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``, three matrices without bias; ``limit`` as in ``swiglu``.

    Raises ValueError where ``hidden`` is not 1 or more.
    Source: Shazeer, "GLU Variants Improve Transformer", 2020, equation 6. Built in lesson `open_a_model`.
    """

    def __init__(self, width: int, hidden: int, limit: float | None = None):
        super().__init__()
        if hidden < 1:
            raise ValueError(f"a feed-forward layer is 1 wide or more, not {hidden}")
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.limit = limit

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(swiglu(self.gate(x), self.up(x), self.limit))
