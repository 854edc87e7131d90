"""The routed experts of one layer, transformers' and ours, with the same weights and the same answer.

On a CPU (`moe`): transformers has several ways to run its experts (`experts_implementation`). Each is timed first, and
the fastest one stands against ours, interleaved. Its `batched_mm` copies every chosen matrix for every token, gigabytes
for a prompt of 512 tokens, so it takes part with one token only. Beside both a dense layer as wide as the experts that
one token uses.

On a GPU: one token (`experts-one-token`), a prompt (`experts-prompt`) and four bits per weight (`experts-four-bits`),
by our kernels beside transformers' ``eager`` and ``grouped_mm``. ``eager`` asks the GPU for numbers on its way, so it
cannot be captured and runs as it is; ``grouped_mm`` is captured where it lets itself be. One token takes ours a handful
of launches of a few microseconds each, so ours stands there twice: in a graph, and as it is asked for.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from course.measure.versus import Way, copies, dtype_of, roof_of, rounded, summary, together, versus
from helpers.compare import assert_close, tolerance
from helpers.kernels.quant import experts
from helpers.layers.mlp import SwiGLU
from helpers.measure import Measurement, Rate, Work, measure_one, measure_pair, name_of, weights_work
from helpers.moe.experts import Experts
from helpers.moe.router import Routing, softmax_top_k
from helpers.quant.experts import QuantisedExperts
from helpers.reference import parts_of
from helpers.use import use

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
QWEN = Size(2048, 512, 256, 8)  # Qwen3.5-35B-A3B's layer
BITS_4 = "int4"

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
    what, dense_share = f"{size}, {tokens} tokens, {name_of(dtype)}", active.median_s / pair.b.median_s
    print(summary(what, f"transformers' {best}", pair, f"dense takes {dense_share:.2f} of it"), file=sys.stderr)
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
    both = {"gate_up_proj": ours.gate_up, "down_proj": ours.down}
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


def work(size: Size, tokens: int, dtype: torch.dtype, touched: int) -> Work:
    """Three matrices for each token and chosen expert; the weights of ``touched`` experts, the tokens and the answers
    once. What a kernel writes in between, ``experts.cost`` counts too."""
    matrices = 3 * size.width * size.hidden
    weights = weights_work(size.chosen * matrices, touched * matrices * dtype.itemsize, tokens)
    return weights + Work(0, 2 * tokens * size.width * dtype.itemsize)


def one_token_case(device: torch.device, size: Size = QWEN) -> Iterator[Measurement]:
    """One token through a layer of 256 experts: transformers' eager and grouped, ours in a graph and as it is."""
    theirs, ours = by_kernels(size, device)
    count = copies(8 * 3 * size.width * size.hidden * 2, device)  # tokens that choose other experts each
    asked = [inputs(size, 1, dtype_of(device), device, seed) for seed in range(count)]
    grouped = their_run(theirs, *asked[0], "grouped_mm")
    ways = [("eager", False), ("grouped_mm", False)] + [("grouped_mm", True)] * capturable(grouped, device)
    for way, graph in ways:
        work = experts.cost(1, size.width, size.hidden, size.chosen, size.chosen)
        calls = [their_run(theirs, x, routing, way) for x, routing in asked]
        own = [partial(ours, x, *routing) for x, routing in asked]
        slow = Way(f"transformers {way}", calls, work, graph)
        fast = Way(f"ours beside {way}", own, work, graph or way == "eager")
        yield from versus(slow, fast, [1, size.width], device, rounded(device, size.chosen), roof_of(device))


def prompt_case(
    device: torch.device, size: Size = QWEN, tokens: tuple[int, ...] = (4096, 16384)
) -> Iterator[Measurement]:
    """4096 and 16384 tokens through the same layer, transformers' grouped and ours."""
    theirs, ours = by_kernels(size, device)
    for count in tokens:
        x, routing = inputs(size, count, dtype_of(device), device)
        touched = routing[0].unique().numel()
        work = experts.cost(count, size.width, size.hidden, size.chosen, touched)
        calls = their_run(theirs, x, routing, "grouped_mm"), partial(ours, x, *routing)
        slow, fast = (
            Way(f"{label}, {count}", [call], work, graph=False)
            for label, call in zip(("transformers grouped_mm", "ours"), calls, strict=True)
        )
        yield from versus(slow, fast, [count, size.width], device, rounded(device, size.chosen), roof_of(device))


def four_bits_case(device: torch.device, size: Size = QWEN, tokens: tuple[int, ...] = (1, 32)) -> Iterator[Measurement]:
    """The same layer in INT4 beside itself in 16 bits, both by our kernels, in a graph."""
    _, plain = by_kernels(size, device)
    packed = use(QuantisedExperts.of(plain, BITS_4).eval(), "triton")
    bits = 8 * sum(part.nbytes for part in packed.buffers()) / sum(weight.numel() for weight in plain.parameters())
    decoded_into(plain, packed)
    for count in tokens:
        chosen = 8 * 3 * size.width * size.hidden
        asked = [inputs(size, count, dtype_of(device), device, seed) for seed in range(copies(chosen / 2, device))]
        touched = sum(routing[0].unique().numel() for _, routing in asked) / len(asked)
        slow, fast = (
            Way(
                f"{label}, {count}",
                [partial(layer, x, *routing) for x, routing in asked],
                experts.cost(count, size.width, size.hidden, size.chosen, touched, bits_per_weight),
            )
            for label, layer, bits_per_weight in (("16 bits", plain, 16), (BITS_4, packed, bits))
        )
        yield from versus(slow, fast, [count, size.width], device, rounded(device, size.chosen), roof_of(device))


def by_kernels(size: Size, device: torch.device) -> tuple[nn.Module, Experts]:
    """transformers' experts, and ours by our kernels; no gradient is wanted, which no kernel has."""
    theirs, ours, _ = layers(size, dtype_of(device), device)
    return theirs, use(ours.requires_grad_(False), "triton")


def decoded_into(plain: Experts, packed: QuantisedExperts) -> None:
    """The numbers that the packed matrices stand for, so that both layers answer the same."""
    for e in range(packed.num_experts):
        both = [one.decode(plain.down.dtype, e) for one in (packed.gate, packed.up)]
        plain.gate_up.data[e] = torch.cat(both)
        plain.down.data[e] = packed.down.decode(plain.down.dtype, e)


def capturable(call: Run, device: torch.device) -> bool:
    """Whether a CUDA graph can be made of it: nothing in it waits for the GPU."""
    if device.type != "cuda":
        return False
    try:
        with torch.inference_mode():
            together(Way("trial", [call], None), device)
    except RuntimeError:
        torch.cuda.synchronize()
        return False
    return True
