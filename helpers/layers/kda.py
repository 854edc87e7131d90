"""Kimi Delta Attention's rule: the gated delta rule with a decay for every channel of the key, not one for the head.

A head that fades as a whole forgets everything at one pace. With a pace for each row of the memory, one head can hold
a name for a whole text beside a word for a sentence. Source: Kimi team, "Kimi Linear", 2025 (arXiv 2510.26692).
"""

import torch

from helpers.shapes import Float, Tensor


def kimi_delta_rule(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B T H K"],
    value: Float[Tensor, "B T H V"],
    log_decay: Float[Tensor, "B T H K"],
    beta: Float[Tensor, "B T H"],
    state: Float[Tensor, "B H K V"],
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H K V"]]:
    """``helpers.layers.delta.delta_rule`` where each of the K rows of the memory fades by its own ``log_decay`` <= 0.

    Token by token; returns what each query reads and the state after the last token. Built in lesson `deltanet`.
    """
    read = []
    for t in range(query.shape[1]):
        state = log_decay[:, t].exp()[..., None] * state
        remembered = torch.einsum("bhkv,bhk->bhv", state, key[:, t])
        error = beta[:, t, :, None] * (value[:, t] - remembered)
        state = state + torch.einsum("bhk,bhv->bhkv", key[:, t], error)
        read.append(torch.einsum("bhkv,bhk->bhv", state, query[:, t]))
    return torch.stack(read, dim=1), state
