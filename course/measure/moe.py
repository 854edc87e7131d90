"""The case `moe`: the routed experts of one layer, transformers' and ours, with the same weights and the same answer.

transformers has several ways to run its experts (`experts_implementation`). Each is timed first, and the fastest one
stands against ours, interleaved. Its `batched_mm` copies every chosen matrix for every token, gigabytes for a prompt of
512 tokens, so it takes part with one token only. Beside both a dense layer as wide as the experts that one token uses.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from helpers.compare import assert_close, tolerance
from helpers.layers.mlp import SwiGLU
from helpers.measure import Comparison, Measurement, Rate, Work, measure_one, measure_pair, name_of
from helpers.moe.experts import Experts
from helpers.moe.router import Routing, softmax_top_k
from helpers.reference import parts_of

TOKENS = (1, 512)  # a step of decoding, a prompt
DTYPES = (torch.float32, torch.bfloat16)
REPEATS = 7
WAYS = {1: ("eager", "grouped_mm", "batched_mm"), 512: ("eager", "grouped_mm")}


@dataclass(frozen=True)
class Size:
    """The sizes of a layer's experts."""

    width: int
    hidden: int
    experts: int
    chosen: int

    def __str__(self) -> str:
        return f"{self.width}x{self.hidden}, {self.chosen} of {self.experts}"


SIZES = (Size(256, 128, 16, 2), Size(512, 256, 64, 8), Size(1024, 512, 64, 8))

Run = Callable[[], torch.Tensor]


def moe_case(device: torch.device, sizes: tuple[Size, ...] = SIZES) -> Iterator[Measurement]:
    """One token and 512 through the experts of a layer: transformers' fastest way, ours, and a dense layer."""
    for size in sizes:
        for dtype in DTYPES:
            theirs, ours, dense = layers(size, dtype, device)
            for tokens in TOKENS:
                yield from one_line(size, tokens, theirs, ours, dense)


def one_line(size: Size, tokens: int, theirs: nn.Module, ours: Experts, dense: SwiGLU) -> Iterator[Measurement]:
    """All of one size, dtype and number of tokens; nothing is timed unless the answers agree."""
    dtype, device = ours.gate.dtype, ours.gate.device
    x, routing = inputs(size, tokens, dtype, device)
    best = fastest(theirs, x, routing, WAYS[tokens])
    a, b = their_run(theirs, x, routing, best), lambda: ours(x, *routing)
    with torch.inference_mode():
        # both round after each of three products and in the sum over experts
        assert_close(b(), a(), 4 * tolerance(dtype, size.chosen), f"{size}, {tokens} tokens")
    pair = measure_pair(a, b, repeats=REPEATS, device=device)
    active = measure_one(lambda: dense(x), repeats=REPEATS, device=device)
    print(said(size, tokens, dtype, best, pair, active.median_s), file=sys.stderr)
    routed, alone = work(size, tokens, dtype, routing[0].unique().numel()), work(size, tokens, dtype, size.chosen)
    for label, needed, timing in ((f"transformers {best}", routed, pair.a), ("ours", routed, pair.b)):
        yield Measurement.of(f"{label}, {size}, {tokens}", name_of(dtype), [tokens, size.width], Rate(needed, timing))
    yield Measurement.of(f"dense, {size}, {tokens}", name_of(dtype), [tokens, size.width], Rate(alone, active))


def layers(size: Size, dtype: torch.dtype, device: torch.device) -> tuple[nn.Module, Experts, SwiGLU]:
    """transformers' experts and ours with the same weights, and the dense layer of as many active ones."""
    from transformers import Qwen3_5MoeTextConfig, Qwen3_5MoeTextModel  # takes seconds, and no other case needs it

    torch.manual_seed(0)
    with device:
        ours = Experts(size.experts, size.width, size.hidden).to(dtype).eval()
    config = Qwen3_5MoeTextConfig(
        hidden_size=size.width,
        moe_intermediate_size=size.hidden,
        num_experts=size.experts,
        num_experts_per_tok=size.chosen,
    )
    with device:
        theirs = parts_of(Qwen3_5MoeTextModel, "Qwen3_5MoeExperts")[0](config).to(dtype).eval()
    both = {"gate_up_proj": torch.cat([ours.gate, ours.up], dim=1), "down_proj": ours.down}
    theirs.load_state_dict({name: weight.detach() for name, weight in both.items()})
    return theirs, ours, SwiGLU(size.width, size.chosen * size.hidden).to(device, dtype).eval()


def inputs(
    size: Size, tokens: int, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[torch.Tensor, Routing]:
    """Hidden states, and experts chosen at random for each of them."""
    generator = torch.Generator().manual_seed(tokens + seed)
    x = torch.randn(tokens, size.width, generator=generator)
    indices, weights = softmax_top_k(torch.randn(tokens, size.experts, generator=generator), size.chosen)
    return x.to(device, dtype), (indices.to(device), weights.to(device, dtype))


def their_run(theirs: nn.Module, x: torch.Tensor, routing: Routing, way: str) -> Run:
    """transformers' experts by one of its ways."""

    def run() -> torch.Tensor:
        theirs.config._experts_implementation = way
        return theirs(x, *routing)

    return run


def fastest(theirs: nn.Module, x: torch.Tensor, routing: Routing, ways: tuple[str, ...]) -> str:
    """The way of transformers that takes the fewest seconds here."""
    taken = {way: measure_one(their_run(theirs, x, routing, way), repeats=3, device=x.device) for way in ways}
    return min(taken, key=lambda way: taken[way].median_s)


def work(size: Size, tokens: int, dtype: torch.dtype, experts: int) -> Work:
    """Three matrices for each token and chosen expert; the weights of ``experts`` experts read once."""
    matrices = 3 * size.width * size.hidden
    numbers = experts * matrices + 2 * tokens * size.width
    return Work(flops=2 * tokens * size.chosen * matrices, bytes=numbers * dtype.itemsize)


def said(size: Size, tokens: int, dtype: torch.dtype, best: str, pair: Comparison, dense_s: float) -> str:
    """The result in one line, whichever way it falls."""
    spread = f"{pair.ratio_q1:.2f} to {pair.ratio_q3:.2f}"
    against = f"{pair.ratio:.2f} times as fast as transformers' {best} ({spread})"
    return f"  {size}, {tokens} tokens, {name_of(dtype)}: {against}; dense takes {dense_s / pair.b.median_s:.2f} of it"
