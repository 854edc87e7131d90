"""The two ceilings of a machine, and where they meet.

A roofline (Williams, Waterman and Patterson, CACM 52(4), 2009) has two numbers: bytes per second from memory, and FLOP
per second. Work with I FLOP per byte runs at most at min(flops_per_s, I · bytes_per_s). Both are measured here, with
torch's own kernels on random data, because a datasheet's numbers are never reached. Built in lesson `roofline`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from helpers.measure.timing import Timing, measure_one
from helpers.measure.work import Work, matmul_work

# Every benchmark walks through two arrays of this size before it returns to the first, so that even a large cache
# (96 MiB of L3 for one thread, 60 MB of L2 on an H200) has forgotten it by then.
ARRAY_BYTES = {"cpu": 2**26, "cuda": 2**30}
MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Roofline:
    """One device with one dtype. `bytes_per_s` is a read; `flops_per_s` a large square matrix product."""

    device: str
    dtype: str
    bytes_per_s: float
    flops_per_s: float

    @property
    def ridge(self) -> float:
        """The intensity, in FLOP per byte, at which the ceilings meet. Below it memory decides, above it arithmetic."""
        return self.flops_per_s / self.bytes_per_s

    def attainable(self, intensity: float) -> float:
        """The most FLOP/s at this intensity."""
        return min(self.flops_per_s, intensity * self.bytes_per_s)

    def seconds(self, work: Work) -> float:
        """The least time for this work."""
        return max(work.flops / self.flops_per_s, work.bytes / self.bytes_per_s)


def roofline(device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, repeats: int = 7) -> Roofline:
    """Measure both ceilings of this machine: a few seconds."""
    read, rate = bandwidth(device, repeats=repeats)["read"], matmul_rate(device, dtype, repeats=repeats)
    return Roofline(torch.device(device).type, name_of(dtype), read.bytes_per_s, rate.flops_per_s)


@dataclass(frozen=True)
class Rate:
    """A measured rate: the work of one call and its timing."""

    work: Work
    timing: Timing

    @property
    def bytes_per_s(self) -> float:
        return self.timing.bytes_per_s(self.work)

    @property
    def flops_per_s(self) -> float:
        return self.timing.flops_per_s(self.work)


def bandwidth(device: str | torch.device = "cpu", array_bytes: int | None = None, repeats: int = 7) -> dict[str, Rate]:
    """Bytes per second from and to memory, three ways, in fp32: "read" (a sum: one array is read), "copy" (one read,
    one written) and "triad" (c = a + 2b, as in STREAM: two read, one written).

    The bytes are those the program asks for. A CPU may also read a line before it overwrites it; that is not counted,
    so copy and triad can look slower than read. Calls rotate over two sets of arrays.
    """
    length = (array_bytes or _for_device(ARRAY_BYTES, device)) // 4
    a, b = ([torch.rand(length, device=device) for _ in range(2)] for _ in range(2))
    c = torch.empty_like(a[0])
    tests: dict[str, tuple[int, Callable[[Tensor, Tensor], object]]] = {
        "read": (1, lambda x, _: x.sum()),
        "copy": (2, lambda x, _: c.copy_(x)),
        "triad": (3, lambda x, y: torch.add(x, y, alpha=2.0, out=c)),
    }
    rates = {}
    for name, (arrays, run) in tests.items():
        sets = cycle(zip(a, b, strict=True))
        timing = measure_one(lambda run=run, sets=sets: run(*next(sets)), repeats=repeats, device=device)
        rates[name] = Rate(Work(flops=0, bytes=4.0 * length * arrays), timing)
    return rates


def matmul_rate(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    size: int | None = None,
    repeats: int = 7,
) -> Rate:
    """FLOP per second of a square matrix product on random data, through whatever library torch calls.

    Raises ValueError for float16 on a CPU: no kernel there is made for it, and the result says nothing of the machine.
    """
    _refuse_half_on_cpu(device, dtype)
    size = size or _for_device(MATMUL_SIZE, device)
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    timing = measure_one(lambda: a @ b, repeats=repeats, device=device)
    return Rate(matmul_work(size, size, size, 8 * dtype.itemsize), timing)


def cache_ladder(
    device: str | torch.device = "cpu", sizes: Sequence[int] | None = None, repeats: int = 7
) -> dict[int, Rate]:
    """Read bandwidth by working set: the same bytes are read again and again, so a small set stays in a cache.

    At the small end the fixed cost of a call, a microsecond or more, hides the cache.
    """
    ladder = {}
    for size in sizes or [2**power for power in range(15, 29)]:
        x = torch.rand(size // 4, device=device)
        ladder[size] = Rate(Work(flops=size / 4, bytes=size), measure_one(x.sum, repeats=repeats, device=device))
    return ladder


def batch_sweep(
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    width: int = 4096,
    batches: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256),
    weights_bytes: int | None = None,
    repeats: int = 5,
) -> dict[int, Rate]:
    """[batch, width] times [width, width], the shape of one layer that writes one token for each of `batch` people.

    Calls rotate over `weights_bytes` of matrices, so many that each comes from memory and not from a cache.
    """
    _refuse_half_on_cpu(device, dtype)
    count = -(-(weights_bytes or 2 * _for_device(ARRAY_BYTES, device)) // (width * width * dtype.itemsize))
    weights = cycle([_weight(width, device, dtype) for _ in range(count)])
    return {batch: _one_batch(batch, width, weights, device, dtype, repeats) for batch in batches}


def _weight(width: int, device: str | torch.device, dtype: torch.dtype) -> Tensor:
    return (torch.randn(width, width, device=device) / width**0.5).to(dtype)


def _one_batch(
    batch: int, width: int, weights: Iterator[Tensor], device: str | torch.device, dtype: torch.dtype, repeats: int
) -> Rate:
    x = torch.randn(batch, width, device=device).to(dtype)
    timing = measure_one(lambda: torch.nn.functional.linear(x, next(weights)), repeats=repeats, device=device)
    return Rate(matmul_work(batch, width, width, 8 * dtype.itemsize), timing)


def ridge_batch(flops_per_s: float, bytes_per_s: float, weight_bits: float) -> float:
    """The batch at which a wide layer leaves the memory ceiling, when its weights are what is read.

    A weight takes weight_bits / 8 bytes and gives 2 FLOP per person, so intensity is 16 · batch / weight_bits.
    """
    return flops_per_s / bytes_per_s * weight_bits / 16


def name_of(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32."""
    return str(dtype).removeprefix("torch.")


def _for_device(values: dict[str, int], device: str | torch.device) -> int:
    return values["cuda" if torch.device(device).type == "cuda" else "cpu"]  # others share the machine's memory


def _refuse_half_on_cpu(device: str | torch.device, dtype: torch.dtype) -> None:
    if torch.device(device).type == "cpu" and dtype == torch.float16:
        raise ValueError("float16 products on a CPU are not measured: use float32, or bfloat16 where it is fast")
