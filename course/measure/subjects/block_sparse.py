"""The GPU case of block-sparse attention: prompts through a layer whose blocks of tokens read chosen blocks only.

The other side is flash attention as torch has it, which reads everything. Choosing is timed with the reading: it is
part of the layer, and here it is plain torch. Queries, keys and values of 64k tokens are 1.2 GB, more than any cache
holds, so one copy of them is cold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from course.measure.versus import Way, dtype_of, roof_of, rounded, versus
from helpers.compare import assert_close
from helpers.kernels.attention import block_sparse, flash
from helpers.kernels.launch import blocks
from helpers.layers.block_sparse import BlockSparse
from helpers.measure import Measurement, Work
from helpers.use import use, using


@dataclass(frozen=True)
class Sizes:
    """Query heads that share key heads, their width; the positions of a block, and how many blocks a block reads."""

    heads: int
    groups: int
    width: int
    block: int
    k: int


NSA = Sizes(64, 4, 128, 64, 56)  # 3584 keys a query: what NSA reads at 64k, 2048 means, 1024 chosen and 512 near


def block_sparse_case(
    device: torch.device, s: Sizes = NSA, lengths: tuple[int, ...] = (8192, 32768, 65536)
) -> Iterator[Measurement]:
    """Prompts of 8k, 32k and 64k tokens: blocks are chosen and read by our kernel, beside torch's flash attention."""
    for length in lengths:
        sizes = [(1, length, heads, s.width) for heads in (s.heads, s.groups, s.groups)]
        parts = [torch.randn(size, device=device, dtype=dtype_of(device)) for size in sizes]
        layer = BlockSparse(s.block, s.k).eval()
        agree(layer, parts, device)
        by_head = [part.transpose(1, 2).contiguous() for part in parts]
        ours = partial(use(layer, "triton"), *parts)
        slow = Way(f"flash, {length}", [partial(dense, *by_head)], dense_work(s, length), graph=False)
        fast = Way(f"block-sparse, {length}", [ours], sparse_work(s, length), graph=False)
        yield from versus(slow, fast, [length, s.heads, s.width], device, None, roof_of(device), repeats=5)


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Flash attention or an error: no other of torch's ways may stand in for it on a GPU."""
    ways = [SDPBackend.FLASH_ATTENTION] if query.is_cuda else [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
    with sdpa_kernel(ways):
        return functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def agree(layer: BlockSparse, parts: list[torch.Tensor], device: torch.device) -> None:
    """The kernel is compared with its readable form on the whole prompt: the dense answer is another one."""
    with torch.inference_mode():
        exact = layer(*parts)
        with using(layer, "triton"):
            assert_close(layer(*parts).float(), exact.float(), rounded(device), "block-sparse attention beside itself")


def dense_work(s: Sizes, length: int, number_bytes: int = 2) -> Work:
    """Half of all pairs."""
    return flash.cost(1, length, s.heads, s.groups, s.width, number_bytes)


def sparse_work(s: Sizes, length: int, number_bytes: int = 2) -> Work:
    """The keys once for their means, a score of each head for each earlier block, written and read once as float32;
    then the pairs in the chosen blocks."""
    scores = s.heads * blocks(length, s.block) * (blocks(length, s.block) - 1) // 2
    choice = Work(2 * s.width * scores, length * s.groups * s.width * number_bytes + 8 * scores)
    return choice + block_sparse.cost(1, length, s.heads, s.groups, s.width, s.block, s.k, number_bytes)
