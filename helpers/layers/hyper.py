"""Manifold-constrained hyper-connections (mHC): several residual streams per token, mixed without growing.

A plain residual is one vector that every layer adds to. Here a token carries a few streams. Before a layer they are
collapsed into the one vector that it reads; after it, what it wrote is spread over them, and they are mixed among
themselves:

    x = pre . X           y = layer(x)           X' = post (outer) y + mix^T X

The three sets of weights depend on the token. ``mix`` is made doubly stochastic, its rows and its columns sum to one,
so that however many layers follow each other no stream explodes and none dies out.
Source: Xie et al., "mHC: Manifold-Constrained Hyper-Connections", arXiv 2512.24880; DeepSeek-AI, "DeepSeek-V4", 2026,
section 2.2.
"""

import torch
from torch import nn
from torch.nn import functional

from helpers.precision import at_least_float32
from helpers.shapes import Float, Tensor


def sinkhorn(positive: Float[Tensor, "*B n n"], rounds: int, epsilon: float = 1e-6) -> Float[Tensor, "*B n n"]:
    """A matrix of positive numbers made doubly stochastic: divide by the sums of the columns, then of the rows, again.

    ``rounds`` divisions by the columns' sums and one fewer by the rows', so that the columns are exact at the end and
    the rows nearly. ValueError where ``rounds`` is below one. Built in lesson `what_came_next`.
    Source: Sinkhorn and Knopp, "Concerning nonnegative matrices and doubly stochastic matrices", 1967.
    """
    if rounds < 1:
        raise ValueError(f"sinkhorn takes 1 round or more, not {rounds}")
    matrix = positive / (positive.sum(dim=-2, keepdim=True) + epsilon)
    for _ in range(rounds - 1):
        matrix = matrix / (matrix.sum(dim=-1, keepdim=True) + epsilon)
        matrix = matrix / (matrix.sum(dim=-2, keepdim=True) + epsilon)
    return matrix


def collapse(streams: Float[Tensor, "B T n D"], pre: Float[Tensor, "B T n"]) -> Float[Tensor, "B T D"]:
    """The one vector that a layer reads: the weighted sum of the streams. Built in lesson `what_came_next`."""
    return (pre[..., None] * streams).sum(dim=2).to(streams.dtype)


def expand(
    streams: Float[Tensor, "B T n D"],
    written: Float[Tensor, "B T D"],
    post: Float[Tensor, "B T n"],
    mix: Float[Tensor, "B T n n"],
) -> Float[Tensor, "B T n D"]:
    """The streams after a layer: ``post`` says how much of what it wrote each one gets, ``mix[i, j]`` how much of
    stream i goes to stream j. The sum is over the first index: ``mix`` transposed. The other direction is as stable,
    so that only a comparison with the published model shows the mistake. Built in lesson `what_came_next`.
    """
    post, mix = post.to(streams.dtype), mix.to(streams.dtype)
    return post[..., None] * written[:, :, None] + torch.einsum("btij,btid->btjd", mix, streams)


def project(
    streams: Float[Tensor, "B T n D"], weight: Float[Tensor, "out nD"], epsilon: float
) -> Float[Tensor, "B T out"]:
    """All streams of a token side by side, normalised without a weight, times a matrix; in float32 at least."""
    flat = streams.flatten(2).to(at_least_float32(streams.dtype))
    return functional.linear(functional.rms_norm(flat, flat.shape[-1:], eps=epsilon), weight.to(flat.dtype))


class HyperConnection(nn.Module):
    """The weights that one layer is wrapped in: n streams make n + n + n^2 numbers per token.

    Source: transformers' ``DeepseekV4HyperConnection``. Built in lesson `what_came_next`.
    """

    def __init__(self, num_streams: int, width: int, rounds: int, epsilon: float, norm_epsilon: float):
        super().__init__()
        count = (2 + num_streams) * num_streams
        self.weight = nn.Parameter(0.02 * torch.randn(count, num_streams * width))
        self.base = nn.Parameter(torch.zeros(count))
        self.scale = nn.Parameter(torch.ones(3))  # of pre, post and mix
        self.num_streams, self.rounds, self.epsilon, self.norm_epsilon = num_streams, rounds, epsilon, norm_epsilon

    def forward(
        self, streams: Float[Tensor, "B T n D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T n"], Float[Tensor, "B T n n"]]:
        """What the layer reads, and the weights ``post`` and ``mix`` that ``expand`` takes afterwards."""
        n = self.num_streams
        sizes = [n, n, n * n]
        scale = torch.cat([one.expand(size) for one, size in zip(self.scale, sizes, strict=True)])
        pre, post, mix = (project(streams, self.weight, self.norm_epsilon) * scale + self.base).split(sizes, dim=-1)
        mix = mix.unflatten(-1, (n, n)).softmax(dim=-1) + self.epsilon
        pre, post = pre.sigmoid() + self.epsilon, 2 * post.sigmoid()  # 2: a layer may count twice, never negatively
        return collapse(streams, pre), post, sinkhorn(mix, self.rounds, self.epsilon)


class HyperHead(nn.Module):
    """The last collapse, before the model's final norm: only ``pre``. Source: ``DeepseekV4HyperHead``.

    Built in lesson `what_came_next`.
    """

    def __init__(self, num_streams: int, width: int, epsilon: float, norm_epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(num_streams, num_streams * width))
        self.base = nn.Parameter(torch.zeros(num_streams))
        self.scale = nn.Parameter(torch.ones(1))
        self.epsilon, self.norm_epsilon = epsilon, norm_epsilon

    def forward(self, streams: Float[Tensor, "B T n D"]) -> Float[Tensor, "B T D"]:
        pre = project(streams, self.weight, self.norm_epsilon) * self.scale + self.base
        return collapse(streams, pre.sigmoid() + self.epsilon)
