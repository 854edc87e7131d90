"""A mixture-of-experts layer, the same in every family: a router, routed experts, and one expert for every token."""

from torch import nn

from helpers.layers.mlp import SwiGLU
from helpers.moe.experts import Experts
from helpers.moe.routers import RouterConfig, SigmoidRouter
from helpers.shapes import Float, Int, Tensor


class MoE(nn.Module):
    """Each token goes to its few routed experts and to the shared one, if there is one, and their answers are added.

    With ``gated``, each token sets by a sigmoid how much the shared expert counts.
    Source: DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, equation 12; transformers' ``Qwen3_5MoeSparseMoeBlock``
    for the gate. Built in lesson `experts`.
    """

    def __init__(self, router: nn.Module, experts: Experts, shared: SwiGLU | None = None, gated: bool = False):
        super().__init__()
        self.router = router  # hidden states and token ids -> indices and weights: one of helpers.moe.routers
        self.experts = experts
        self.shared = shared
        self.shared_gate = nn.Linear(experts.gate_up.shape[2], 1, bias=False) if shared and gated else None

    def forward(self, x: Float[Tensor, "B T D"], token_ids: Int[Tensor, "B T"] | None = None) -> Float[Tensor, "B T D"]:
        """Raises ValueError for an expert that is not there. ``token_ids``: for a router that asks for them."""
        routed = self.experts(x, *self.router(x, token_ids))
        if self.shared is None:
            return routed
        shared = self.shared(x)
        return routed + (self.shared_gate(x).sigmoid() * shared if self.shared_gate else shared)


def sigmoid_moe(width: int, hidden: int, num_experts: int, num_shared: int, config: RouterConfig) -> MoE:
    """DeepSeek-V3's mixture, also V3.2's, GLM-5's and Kimi K2's. Several shared experts are one wider one."""
    router, experts = SigmoidRouter(width, num_experts, config), Experts(num_experts, width, hidden)
    return MoE(router, experts, SwiGLU(width, hidden * num_shared) if num_shared else None)
