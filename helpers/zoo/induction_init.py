"""First weights with a hint: some heads of the first block look one, two, three tokens back before they learn anything.

Whatever a model recalls from its text it finds in two moves: a head that carries each token's predecessor along, and a
later one that looks for what once followed the token at hand (Olsson et al., "In-context Learning and Induction Heads",
2022). Large models find the first move by themselves; a model of this size, trained for minutes, mostly does not, and
stays at guessing one of the values it was told. The hint is a start, not a rule: training is free to leave it.
"""

import torch
from torch import nn

from helpers.layers.mla import MLA
from helpers.layers.rope import frequencies
from helpers.shapes import Float, Tensor

SHARP = 5.7  # length of a query and a key per turned pair: the right token scores about four nats above its neighbours
QUIET = 0.1  # how much of the random weights of residual streams stays
KEPT = 0.3  # how much of the random weights of the turned queries stays


@torch.no_grad()
def look_back(model: nn.Module) -> None:
    """Make the heads of the first block, latent attention, look 1, 1, 2, 3, … tokens back.

    A distance says nothing of what stands there, so queries and keys must have a part that all tokens share: the
    embeddings get one. Keys of that part are the same everywhere but for their turn, and a query turned back by ``n``
    positions is most like the key ``n`` tokens earlier.
    """
    mla = model.blocks[0].attention
    mla = mla if isinstance(mla, MLA) else mla.mla
    shared = _give_shared_part(model.embedding.weight)
    read = _normed(model.embedding.weight)
    mla.kv_a.weight[-mla.rotary_dim :] = 0.0
    mla.kv_a.weight[-mla.rotary_dim :: 2] = SHARP / (read @ shared).mean() * shared
    mla.q_a.weight[0] = shared
    strength = SHARP / _normed(read @ mla.q_a.weight.T)[:, 0].mean()
    turned = mla.q_b.weight.view(mla.num_heads, -1, mla.q_b.in_features)[:, -mla.rotary_dim :]
    turned *= KEPT
    steps = frequencies(mla.rotary_dim, model.config.rope_theta)
    for head, back in zip(turned, (1, *range(1, mla.num_heads)), strict=True):
        head[:, 0] = strength * torch.stack([torch.cos(steps * back), -torch.sin(steps * back)], dim=-1).flatten()


@torch.no_grad()
def keys_of_the_token_before(model: nn.Module) -> None:
    """Make the first block, Gated DeltaNet, write each token under the key of the token before it.

    Queries and keys begin with the same matrix; the short convolution hands each query its own token, and each key the
    one before. What the memory answers to a word is then what once followed it.
    """
    layer = model.blocks[0].delta
    queries, keys = (slice(n * layer.sizes[0], (n + 1) * layer.sizes[0]) for n in (0, 1))
    layer.mix.weight[keys] = layer.mix.weight[queries]
    layer.conv *= KEPT
    layer.conv[:, 0, -1] += 1.0
    layer.conv[keys, 0, -1] -= 1.0
    layer.conv[keys, 0, -2] += 1.0


@torch.no_grad()
def look_back_in_the_window(model: nn.Module) -> None:
    """``look_back`` for DeepSeek-V4, whose first block sees its window only: heads look 1, 1, 2, 3, … tokens back.

    Its streams begin nearly alike: with weights as large as the other matrices', each token mixes them at random.
    Keys are values there, so the rotary part of a key, now the same for all tokens, says nothing as a value: the
    output begins without it. Queries and keys are normed to a fixed length, which the key's own weight then stretches.
    """
    for block in model.blocks:
        for streams in (block.attention_streams, block.mlp_streams):
            streams.weight *= QUIET
    layer, width = model.blocks[0].attention, model.config.rotary_dim
    shared = _give_shared_part(model.embedding.weight)
    read = _normed(model.embedding.weight)
    evenly = read.shape[1] ** -0.5 * shared  # makes about 1 of what all tokens share
    layer.key.weight[-width:] = 0.0
    layer.key.weight[-width::2] = evenly / layer.key_norm(layer.key(read)).std()
    layer.key_norm.weight[-width:] = 2 * SHARP
    layer.query_down.weight[0] = shared
    steps = frequencies(width, model.config.rope_theta)
    heads = layer.query_up.weight.view(layer.sizes.num_heads, -1, layer.sizes.query_rank)
    heads *= KEPT
    for head, back in zip(heads, (1, *range(1, len(heads))), strict=True):
        head[-width:, 0] = torch.stack([torch.cos(steps * back), -torch.sin(steps * back)], dim=-1).flatten()
    layer.output_down.weight.view(-1, heads.shape[0] // layer.sizes.output_groups, heads.shape[1])[..., -width:] = 0.0


def _give_shared_part(embedding: Float[Tensor, "vocab D"]) -> Float[Tensor, " D"]:
    """Add one vector to every embedding, as long as they are themselves; its direction is returned."""
    shared = torch.randn(embedding.shape[1], generator=torch.Generator().manual_seed(5))
    embedding += shared * embedding.std()
    return shared / shared.norm()


def _normed(x: Float[Tensor, "rows X"]) -> Float[Tensor, "rows X"]:
    return x / x.pow(2).mean(dim=-1, keepdim=True).sqrt()
