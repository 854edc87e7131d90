"""Two ways to turn a gradient into a step: AdamW scales each number by itself, Muon turns the whole matrix at once.

Both keep their state on the weight's device and change the weights in place. The arithmetic stands in pure functions
(``adamw_direction``, ``orthogonalise``), the classes hold the state. Equal to torch.optim.AdamW and torch.optim.Muon,
step by step. Built in lesson `training_bill`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from helpers.shapes import Float, Tensor

# One step of the iteration maps a singular value s to a s + b s^3 + c s^5; these coefficients lift small values most
# and end between about 0.7 and 1.2. Source: Jordan and others, "Muon", 2024, kellerjordan.github.io/posts/muon.
QUINTIC = (3.4445, -4.7750, 2.0315)
_TINY = 1e-7  # a zero gradient is divided by this


@dataclass
class Moments:
    """What AdamW keeps of one weight: running means of its gradient and of the gradient's square."""

    mean: Float[Tensor, "..."]
    square: Float[Tensor, "..."]
    steps: int = 0


def adamw_direction(
    moments: Moments, gradient: Float[Tensor, "..."], betas: tuple[float, float], epsilon: float
) -> Float[Tensor, "..."]:
    """Take ``gradient`` into ``moments``, and return what the weight moves against, before the learning rate.

    Both means begin at zero and are too small at first; dividing by 1 - beta^steps mends that (the bias correction).
    Source: Kingma and Ba, "Adam", 2015, algorithm 1. Built in lesson `training_bill`.
    """
    moments.steps += 1
    moments.mean.lerp_(gradient, 1 - betas[0])
    moments.square.mul_(betas[1]).addcmul_(gradient, gradient, value=1 - betas[1])
    mean_share, square_share = (1 - beta**moments.steps for beta in betas)
    return (moments.mean / mean_share) / (moments.square.sqrt() / math.sqrt(square_share) + epsilon)


def orthogonalise(
    matrix: Float[Tensor, "rows columns"], steps: int = 5, dtype: torch.dtype = torch.bfloat16
) -> Float[Tensor, "rows columns"]:
    """About U V^T of the matrix U S V^T: the same directions, all singular values near 1, without computing an SVD.

    Newton-Schulz: divide by the Frobenius norm, so that no singular value exceeds 1, then apply ``QUINTIC`` so many
    times. It works on the shorter side, in ``dtype``. 2 steps (2 m^2 n + m^3) FLOP with m the shorter side.
    Built in lesson `training_bill`.
    """
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(dtype)
    x = x / x.norm().clamp(min=_TINY)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.T if tall else x


def orthogonalise_flops(rows: int, columns: int, steps: int = 5) -> int:
    """FLOP of ``orthogonalise``: in each step a product of m x n with n x m, one of m x m with itself, and one back."""
    short, long = sorted((rows, columns))
    return steps * 2 * (2 * short**2 * long + short**3)


def shape_scale(rows: int, columns: int, rule: str) -> float:
    """What the step of a matrix of that shape is multiplied with.

    An orthogonal matrix has entries of about 1 / sqrt(the longer side). ``"adamw"`` gives them back the size of AdamW's
    step, 0.2, so that one learning rate serves both (Liu and others, "Muon is Scalable for LLM Training", 2025).
    ``"rows"`` is the first rule: sqrt(rows / columns), at least 1. torch calls them "match_rms_adamw" and "original".
    """
    rules = {"adamw": 0.2 * math.sqrt(max(rows, columns)), "rows": math.sqrt(max(1, rows / columns))}
    if rule not in rules:
        raise ValueError(f"no rule {rule!r} for the shape; there are {', '.join(rules)}")
    return rules[rule]


class AdamW:
    """AdamW (Loshchilov and Hutter, 2019): Adam's step, and the weight made smaller by lr x decay beside it."""

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ):
        self.weights, self.lr, self.betas = list(weights), lr, betas
        self.epsilon, self.weight_decay = epsilon, weight_decay
        self.moments = [Moments(torch.zeros_like(w), torch.zeros_like(w)) for w in self.weights]

    @torch.no_grad()
    def step(self) -> None:
        """Move every weight that has a gradient, and forget the gradient."""
        for weight, moments in zip(self.weights, self.moments, strict=True):
            if weight.grad is None:
                continue
            weight.mul_(1 - self.lr * self.weight_decay)
            weight.sub_(adamw_direction(moments, weight.grad, self.betas, self.epsilon), alpha=self.lr)
            weight.grad = None


class Muon:
    """Muon: the momentum of a matrix, orthogonalised. For matrices inside the model; AdamW takes everything else.

    Nesterov's form looks one step ahead: it mixes the gradient once more into the momentum that it has just entered.
    ``dtype`` is that of the iteration; torch's Muon uses bfloat16.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        scale: str = "adamw",
        dtype: torch.dtype = torch.bfloat16,
    ):
        self.matrices, self.lr, self.weight_decay = list(matrices), lr, weight_decay
        self.momentum, self.nesterov, self.dtype = momentum, nesterov, dtype
        if shapes := [tuple(w.shape) for w in self.matrices if w.dim() != 2]:
            raise ValueError(f"Muon moves matrices; these shapes are none: {shapes}; give them to AdamW")
        self.scales = [shape_scale(*w.shape, scale) for w in self.matrices]
        self.means = [torch.zeros_like(w) for w in self.matrices]

    @torch.no_grad()
    def step(self) -> None:
        """Move every matrix that has a gradient, and forget the gradient."""
        for weight, mean, scale in zip(self.matrices, self.means, self.scales, strict=True):
            if weight.grad is None:
                continue
            mean.lerp_(weight.grad, 1 - self.momentum)
            ahead = weight.grad.lerp(mean, self.momentum) if self.nesterov else mean
            direction = orthogonalise(ahead, dtype=self.dtype).to(weight.dtype)
            weight.mul_(1 - self.lr * self.weight_decay)
            weight.sub_(direction, alpha=self.lr * scale)
            weight.grad = None

    @property
    def step_flops(self) -> int:
        """FLOP of the matrix products of one step; they do not depend on the size of the batch."""
        return sum(orthogonalise_flops(*weight.shape) for weight in self.matrices)


def muon_and_adamw(model: nn.Module, lr: float, dtype: torch.dtype = torch.bfloat16) -> tuple[Muon, AdamW]:
    """The usual division: Muon for the matrices of the blocks, AdamW for embedding, head, vectors and all else."""
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    inside = [weight for name, weight in named if weight.dim() == 2 and name.startswith("blocks.")]
    chosen = {id(weight) for weight in inside}
    rest = [weight for _, weight in named if id(weight) not in chosen]
    return Muon(inside, lr, dtype=dtype), AdamW(rest, lr, betas=(0.9, 0.95), weight_decay=0.1)
