"""Block-sparse attention: each block of queries reads a few blocks of keys whole, its own always.

    keys      [ 0 | 1 | 2 | 3 | 4 | 5 ]      blocks of L positions, each with the mean of its keys
    block 4     #       #       #            its first query chose 0 and 2 by those means; 4 is its own
    block 5         #   #           #

Whole blocks lie together in memory and fill the tiles of a matrix product, which scattered tokens do not; the price is
that a token comes with its neighbours or not at all. Who chooses must not know the future: the first query of a block
speaks for all of it, and asks for earlier blocks only. The mean of the block's queries would know more, and would tell
the first query what the last one is about to ask. A decoder that chooses when a block begins chooses the same.
Source: Yuan et al., "Native Sparse Attention", 2025, arXiv 2502.11089, which lets every query choose and adds two more
branches; Lu et al., "MoBA", 2025, arXiv 2502.13189, for means of keys.
"""

import torch
from torch.nn import functional

from helpers.functions import Layer, declared
from helpers.layers.attention import attend
from helpers.layers.dsa import select_tokens
from helpers.precision import at_least_float32
from helpers.shapes import Float, Int, Tensor


def choose_blocks(
    query: Float[Tensor, "B T H K"], key: Float[Tensor, "B T G K"], block: int, k: int
) -> Int[Tensor, "B N G chosen"]:
    """The ``min(k, N)`` blocks of keys that each block of queries reads: its own, and the earlier ones most wanted.

    The first query scores the mean key of every earlier block; the softmax over blocks gives each head the same say,
    and heads that share keys add theirs up. In order of position; -1 fills where there are fewer than k to see.
    Raises ValueError for a block or a choice of less than one.
    Source: "Native Sparse Attention", equations 8 to 10. Built in lesson `kernels`.
    """
    if block < 1 or k < 1:
        raise ValueError(f"{k} blocks of {block} positions: both are 1 or more")
    asked, means = query[:, ::block].unflatten(2, (key.shape[2], -1)), mean_keys(key, block)
    count, dtype = means.shape[1], at_least_float32(query.dtype)
    earlier = torch.ones(count, count, dtype=torch.bool, device=query.device).tril(-1)
    scores = torch.einsum("bngjk,bmgk->bngjm", asked, means).to(dtype) * query.shape[-1] ** -0.5
    attention_weights = (
        scores.where(earlier[:, None, None], float("-inf")).softmax(dim=-1).sum(dim=3)
    )  # the first block: NaN
    wanted = attention_weights.where(earlier[:, None], float("-inf")).transpose(1, 2)  # B G N M
    wanted.diagonal(dim1=2, dim2=3).fill_(float("inf"))  # its own block, whatever it scores
    return select_tokens(wanted.flatten(0, 1), k).unflatten(0, (len(key), -1)).transpose(1, 2).contiguous()


def mean_keys(key: Float[Tensor, "B S G K"], block: int) -> Float[Tensor, "B N G K"]:
    """The mean of each block's keys. The last block may be cut short: zeros fill it, and its mean is no use.

    Built in lesson `kernels`.
    """
    padded = functional.pad(key, (0, 0, 0, 0, 0, -key.shape[1] % block))
    return padded.unflatten(1, (-1, block)).mean(dim=2)


def attend_blocks(
    query: Float[Tensor, "B T H K"],
    key: Float[Tensor, "B T G K"],
    value: Float[Tensor, "B T G V"],
    chosen: Int[Tensor, "B N G chosen"],
    block: int,
) -> Float[Tensor, "B T H V"]:
    """Causal attention of a text to itself: the queries of block n read the blocks ``chosen[:, n]`` and no others.

    -1 stands for no block; a block may stand there once, and the own one must. What is gathered at once are the blocks
    of one block of queries. With every block chosen it is ``attend``.
    Source: "Native Sparse Attention", section 3.3.2. Built in lesson `kernels`.
    """
    batch, groups = len(key), key.shape[2]
    asked = query.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)  # (B G) T J K: each group is a row
    key, value = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
    kept = chosen.transpose(1, 2).flatten(0, 1).unbind(1)
    parts = zip(asked.split(block, dim=1), kept, range(0, query.shape[1], block), strict=True)
    context = [_read(queries, key, value, blocks, start, block) for queries, blocks, start in parts]
    return torch.cat(context, dim=1).unflatten(0, (batch, groups)).transpose(1, 2).flatten(2, 3)


def _read(query: Tensor, key: Tensor, value: Tensor, blocks: Tensor, start: int, block: int) -> Tensor:
    """One block of queries, from position ``start`` on, reads its blocks; each row has one key head."""
    places = (blocks[..., None] * block + torch.arange(block, device=query.device)).flatten(1)  # of -1: below 0
    positions = start + torch.arange(query.shape[1], device=query.device)
    seen = (places >= 0)[:, None] & (places[:, None] <= positions[:, None])
    row, at = torch.arange(len(key), device=query.device)[:, None], places.clamp(0, key.shape[1] - 1)
    return attend(query, key[row, at][:, :, None], value[row, at][:, :, None], seen)


class BlockSparse(Layer):
    """Causal attention of a text to itself over ``k`` blocks of ``block`` positions: choose, then read. No weights."""

    functions = declared(attend_blocks=attend_blocks)

    def __init__(self, block: int, k: int):
        super().__init__()
        self.block, self.k = block, k

    def forward(
        self, query: Float[Tensor, "B T H K"], key: Float[Tensor, "B T G K"], value: Float[Tensor, "B T G V"]
    ) -> Float[Tensor, "B T H V"]:
        chosen = choose_blocks(query, key, self.block, self.k)
        return self.functions["attend_blocks"](query, key, value, chosen, self.block)
