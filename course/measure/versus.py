"""Two ways beside each other: how a comparison is summed up; on a GPU, two ways that must agree before they are timed.

The cases of a GPU share cold inputs, CUDA graphs and the ceilings of the same run.

Less than 20 microseconds of work is over before the CPU has asked for it, so such calls are captured into a graph that
the GPU replays by itself; the label says so. A graph goes through several copies of the inputs, together larger than
the L2 cache, so that each call finds its weights in memory, as a layer does between other layers. On a CPU, where the
tests run these very cases at tiny sizes, nothing is captured and two copies are enough.
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from helpers.compare import assert_close, tolerance
from helpers.measure import (
    Comparison,
    Measurement,
    Rate,
    Roofline,
    Work,
    bandwidth,
    matmul_rate,
    measure_pair,
    name_of,
)

COLD_BYTES = 2**28  # five times an H100's L2 and four times an H200's
REPEATS = 9
CPU_ARRAY_BYTES, CPU_SIDE = 2**20, 64  # ceilings of the tests, which mean nothing

Call = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Way:
    """One way to do the task: the same call on several copies of the inputs, and the work of one of them."""

    label: str
    calls: list[Call]
    work: Work
    graph: bool = True


def summary(what: str, other: str, pair: Comparison, more: str = "") -> str:
    """In one line, whichever way it falls: how many times as fast ``what`` (b of the pair) is as ``other`` (a), and the
    middle half of all pairs."""
    spread = f"{pair.ratio_q1:.2f} to {pair.ratio_q3:.2f}"
    return f"  {what}: {pair.ratio:.2f} times as fast as {other} ({spread})" + (f"; {more}" if more else "")


def beside(way: str) -> str:
    """The label of transformers' line that was timed together with ``way``."""
    return "transformers" if way == "ours" else f"transformers beside {way}"


def dtype_of(device: torch.device) -> torch.dtype:
    """bfloat16; float32 on a CPU, where Triton's interpreter gets bfloat16 wrong."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def rounded(device: torch.device, terms: int = 2) -> float:
    """The relative RMS that two right answers may differ by, each rounded ``terms`` times on its way: two are a score
    and a mixture, or a product and its scale; a token's experts are as many as were chosen."""
    return 4 * tolerance(dtype_of(device), terms)


@functools.cache
def ceilings(device: torch.device) -> tuple[Measurement, Measurement]:
    """A large copy and a large product of 16-bit numbers, measured once per run: the roof of every line after them."""
    small = device.type != "cuda"
    copy = bandwidth(device, CPU_ARRAY_BYTES if small else None, repeats=REPEATS)["copy"]
    product = matmul_rate(device, dtype_of(device), CPU_SIDE if small else None, repeats=REPEATS)
    side = round((product.work.flops / 2) ** (1 / 3))
    name = name_of(dtype_of(device))
    return (
        Measurement.of("copy", "float32", [int(copy.work.bytes)], copy),
        Measurement.of("matmul", name, [side] * 3, product),
    )


def roof_of(device: torch.device, eight_bits: bool = False) -> Roofline:
    """The ceilings as a roofline. Products of eight bits are taken to run at twice the rate of sixteen."""
    copy, product = ceilings(device)
    return Roofline(device.type, product.dtype, copy.bytes_per_s, product.flops_per_s * (2 if eight_bits else 1))


def copies(one_bytes: float, device: torch.device) -> int:
    """How many copies of an input of ``one_bytes`` no cache holds at once."""
    return max(2, -(-COLD_BYTES // int(one_bytes))) if device.type == "cuda" else 2


def versus(
    slow: Way,
    fast: Way,
    shape: list[int],
    device: torch.device,
    near: float | None,
    roof: Roofline,
    repeats: int = REPEATS,
) -> Iterator[Measurement]:
    """Two ways interleaved. Nothing is timed unless their answers are ``near`` each other, by relative RMS; None says
    that they answer differently, and that the caller has compared each with what it should say."""
    with torch.inference_mode():
        if near is not None:
            assert_close(fast.calls[0]().float(), slow.calls[0]().float(), near, f"{fast.label} beside {slow.label}")
        (label_a, a), (label_b, b) = (together(way, device) for way in (slow, fast))
    pair = measure_pair(a, b, repeats=repeats, device=device, warm_up=1)
    for label, way, timing in ((label_a, slow, pair.a), (label_b, fast, pair.b)):
        rate = Rate(way.work, timing.of_each(len(way.calls)))
        yield Measurement.of(label, name_of(dtype_of(device)), shape, rate, roof)


def together(way: Way, device: torch.device) -> tuple[str, Callable[[], None]]:
    """All calls of a way as one, captured where it may be, and the label that says whether it was."""
    if way.graph and device.type == "cuda":
        return f"{way.label}, graph", captured(way.calls)
    return way.label, partial(all_of, way.calls)


def all_of(calls: list[Call]) -> None:
    """One after the other; an answer's memory is free before the next call."""
    for call in calls:
        call()


def captured(calls: list[Call]) -> Callable[[], None]:
    """The calls as one CUDA graph. They run once before, on a stream of their own: kernels are compiled by then."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        all_of(calls)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        all_of(calls)
    return graph.replay
