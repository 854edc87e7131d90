"""GPU cases of the experts of a layer: one token, a prompt, and four bits a weight.

Beside transformers' ``eager`` and ``grouped_mm`` with the same weights. ``eager`` asks the GPU for numbers on its way,
so it cannot be captured and runs as it is; ``grouped_mm`` is captured where it lets itself be. One token takes ours a
handful of launches of a few microseconds each, so ours stands there twice: in a graph, and as it is asked for.
"""

from collections.abc import Iterator
from functools import partial

import torch

from course.measure.gpu import Way, copies, dtype_of, roof_of, together, versus
from course.measure.moe import Size, inputs, layers, their_run
from helpers.compare import tolerance
from helpers.kernels.quant import experts
from helpers.measure import Measurement
from helpers.moe.dispatch import Stacks

QWEN = Size(2048, 512, 256, 8)  # Qwen3.5-35B-A3B's layer
BITS_4 = "int4"


def one_token_case(device: torch.device, size: Size = QWEN) -> Iterator[Measurement]:
    """One token through a layer of 256 experts: transformers' eager and grouped, ours in a graph and as it is."""
    theirs, ours, _ = layers(size, dtype_of(device), device)
    stacks = in_one_piece(ours.stacks)
    count = copies(8 * 3 * size.width * size.hidden * 2, device)  # tokens that choose other experts each
    asked = [inputs(size, 1, dtype_of(device), device, seed) for seed in range(count)]
    grouped = their_run(theirs, *asked[0], "grouped_mm")
    ways = [("eager", False), ("grouped_mm", False)] + [("grouped_mm", True)] * capturable(grouped, device)
    for way, graph in ways:
        work = experts.cost(1, size.width, size.hidden, size.chosen, size.chosen)
        calls = [their_run(theirs, x, routing, way) for x, routing in asked]
        own = [partial(experts.dispatched, x, *routing, stacks) for x, routing in asked]
        slow = Way(f"transformers {way}", calls, work, graph)
        fast = Way(f"ours beside {way}", own, work, graph or way == "eager")
        yield from versus(slow, fast, [1, size.width], device, near(size, device), roof_of(device))


def prompt_case(
    device: torch.device, size: Size = QWEN, tokens: tuple[int, ...] = (4096, 16384)
) -> Iterator[Measurement]:
    """4096 and 16384 tokens through the same layer, transformers' grouped and ours."""
    theirs, ours, _ = layers(size, dtype_of(device), device)
    stacks = in_one_piece(ours.stacks)
    for count in tokens:
        x, routing = inputs(size, count, dtype_of(device), device)
        touched = routing[0].unique().numel()
        work = experts.cost(count, size.width, size.hidden, size.chosen, touched)
        calls = their_run(theirs, x, routing, "grouped_mm"), partial(experts.dispatched, x, *routing, stacks)
        slow, fast = (
            Way(f"{label}, {count}", [call], work, graph=False)
            for label, call in zip(("transformers grouped_mm", "ours"), calls, strict=True)
        )
        yield from versus(slow, fast, [count, size.width], device, near(size, device), roof_of(device))


def four_bits_case(device: torch.device, size: Size = QWEN, tokens: tuple[int, ...] = (1, 32)) -> Iterator[Measurement]:
    """The same layer in INT4 beside itself in 16 bits, both by our kernels, in a graph."""
    _, ours, _ = layers(size, dtype_of(device), device)
    packed = experts.packed_stacks(ours.stacks, BITS_4)
    plain = in_one_piece(experts.unpacked(packed, dtype_of(device)))
    bits = 16 * sum(part.nbytes for part in packed.gate.values()) / (plain.gate.numel() * 2)
    for count in tokens:
        chosen = 8 * 3 * size.width * size.hidden
        asked = [inputs(size, count, dtype_of(device), device, seed) for seed in range(copies(chosen / 2, device))]
        touched = sum(routing[0].unique().numel() for _, routing in asked) / len(asked)
        slow, fast = (
            Way(
                f"{label}, {count}",
                [partial(experts.dispatched, x, *routing, stacks) for x, routing in asked],
                experts.cost(count, size.width, size.hidden, size.chosen, touched, bits_a_weight),
            )
            for label, stacks, bits_a_weight in (("16 bits", plain, 16), (BITS_4, packed, bits))
        )
        yield from versus(slow, fast, [count, size.width], device, near(size, device), roof_of(device))


def in_one_piece(stacks: Stacks) -> Stacks:
    """Without the gradient that a parameter would ask for."""
    return Stacks(*(stack.detach() for stack in stacks[:3]), stacks.limit)


def near(size: Size, device: torch.device) -> float:
    """Each side rounds after each of three products and in the sum over experts."""
    return 4 * tolerance(dtype_of(device), size.chosen)


def capturable(call, device: torch.device) -> bool:
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
