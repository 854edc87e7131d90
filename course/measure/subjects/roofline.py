"""The case `roofline`: the ceilings of this machine, and one layer at growing batch beside them."""

from collections.abc import Iterator

import torch

from helpers.measure import Measurement, Roofline, bandwidth, batch_sweep, cache_ladder, matmul_rate, name_of

CPU_DTYPES = [torch.float32, torch.bfloat16]  # never float16: no CPU kernel is made for it
GPU_DTYPES = [torch.float32, torch.bfloat16, torch.float16]
REPEATS = 15


def roofline_case(device: torch.device) -> Iterator[Measurement]:
    """Both ceilings, the ladder of working sets, and one layer at growing batch, by dtype."""
    memory = bandwidth(device, repeats=REPEATS)
    for name, rate in memory.items():
        yield Measurement.of(name, "float32", [int(rate.work.bytes)], rate)
    for size, rate in cache_ladder(device, repeats=REPEATS).items():
        yield Measurement.of(f"working set {size}", "float32", [size], rate)
    for dtype in CPU_DTYPES if device.type == "cpu" else GPU_DTYPES:
        yield from _one_dtype(device, dtype, memory["read"].bytes_per_s)


def _one_dtype(device: torch.device, dtype: torch.dtype, bytes_per_s: float) -> Iterator[Measurement]:
    rate, width = matmul_rate(device, dtype, repeats=REPEATS), _width(device)
    roof = Roofline(device.type, name_of(dtype), bytes_per_s, rate.flops_per_s)
    yield Measurement.of("matmul", name_of(dtype), [round((rate.work.flops / 2) ** (1 / 3))] * 3, rate)
    for batch, point in batch_sweep(device, dtype, width, repeats=REPEATS).items():
        yield Measurement.of(f"batch {batch}", name_of(dtype), [batch, width, width], point, roof)


def _width(device: torch.device) -> int:
    return 8192 if device.type == "cuda" else 4096
