"""Seconds that can be trusted on a machine that does other things too.

On a CPU: one thread, and that thread's own CPU time, which stops while another program has the core. Two threads and
a wall clock measure the neighbours instead: each operation ends when its slowest thread ends. On CUDA: events, since
the CPU only queues the work. Two versions are compared in one process, interleaved (a b, b a, a b, ...), so that
a machine that warms up or slows down does so to both. The median and the quartiles are reported, never the best.
"""

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from helpers.device import synchronize, threads
from helpers.measure.work import Work

_MAX_CALLS = 100_000
_FINE_ENOUGH = 1e-4  # s; a thread clock coarser than this (Windows: 15.6 ms) is useless, and the wall clock is taken


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and quartiles over `repeats` samples of `calls` calls each."""

    median_s: float
    q1_s: float
    q3_s: float
    repeats: int
    calls: int
    clock: str  # "thread CPU time", "CUDA events" or "wall clock"

    def flops_per_s(self, work: Work) -> float:
        return work.flops / self.median_s

    def bytes_per_s(self, work: Work) -> float:
        return work.bytes / self.median_s

    def of_each(self, parts: int) -> "Timing":
        """The seconds of one of ``parts`` equal calls that were timed together as one."""
        each = (seconds / parts for seconds in (self.median_s, self.q1_s, self.q3_s))
        return Timing(*each, self.repeats, self.calls * parts, self.clock)


@dataclass(frozen=True)
class Comparison:
    """Two versions of one task. `ratio` is the median of seconds of a over seconds of b, pair by pair:
    how many times faster b is. Half of all pairs fall between `ratio_q1` and `ratio_q3`."""

    a: Timing
    b: Timing
    ratio: float
    ratio_q1: float
    ratio_q3: float


def measure_one(
    function: Callable[[], object],
    *,
    repeats: int = 7,
    warm_up: int = 2,
    device: str | torch.device = "cpu",
    min_sample_s: float = 1e-3,
) -> Timing:
    """Time `function()`. Short calls are repeated inside a sample until it lasts `min_sample_s`.

    Raises ValueError for fewer than 3 repeats: a median of less has no spread.
    """
    _refuse_few(repeats)
    with _quiet():
        clock, sample = _clock(device)
        calls = _prepare(function, sample, warm_up, min_sample_s)
        samples = [sample(function, calls) / calls for _ in range(repeats)]
    return _timing(samples, calls, clock)


def measure_pair(
    a: Callable[[], object],
    b: Callable[[], object],
    *,
    repeats: int = 9,
    warm_up: int = 2,
    device: str | torch.device = "cpu",
    min_sample_s: float = 1e-3,
) -> Comparison:
    """Time `a()` and `b()` interleaved, in alternating order. Both must do the same task."""
    _refuse_few(repeats)
    with _quiet():
        clock, sample = _clock(device)
        calls_a, calls_b = (_prepare(f, sample, warm_up, min_sample_s) for f in (a, b))
        one_a, one_b = lambda: sample(a, calls_a) / calls_a, lambda: sample(b, calls_b) / calls_b
        pairs = [_in_order(one_a, one_b, swapped=i % 2 == 1) for i in range(repeats)]
    ratio_q1, ratio, ratio_q3 = _quartiles([s / t for s, t in pairs])
    timing_a, timing_b = _timing([s for s, _ in pairs], calls_a, clock), _timing([t for _, t in pairs], calls_b, clock)
    return Comparison(timing_a, timing_b, ratio, ratio_q1, ratio_q3)


def _in_order(first: Callable[[], float], second: Callable[[], float], swapped: bool) -> tuple[float, float]:
    if not swapped:
        return first(), second()
    late = second()
    return first(), late


def _prepare(function: Callable[[], object], sample: Callable, warm_up: int, min_sample_s: float) -> int:
    """Warm up (the first call allocates, compiles, fills caches), then find how many calls make one sample."""
    for _ in range(max(1, warm_up)):
        function()
    calls = 1
    while calls < _MAX_CALLS and (seconds := sample(function, calls)) < min_sample_s:
        calls = min(_MAX_CALLS, max(2 * calls, int(calls * min_sample_s / max(seconds, 1e-9))))
    return calls


def _clock(device: str | torch.device) -> tuple[str, Callable[[Callable, int], float]]:
    """The clock's name, and a function that gives the seconds of `calls` calls by it."""
    device = torch.device(device)
    if device.type == "cuda":
        return "CUDA events", lambda function, calls: _event_seconds(function, calls, device)
    if device.type == "cpu" and time.get_clock_info("thread_time").resolution < _FINE_ENOUGH:
        return "thread CPU time", lambda function, calls: _host_seconds(function, calls, time.thread_time, device)
    return "wall clock", lambda function, calls: _host_seconds(function, calls, time.perf_counter, device)


def _host_seconds(function: Callable, calls: int, now: Callable[[], float], device: torch.device) -> float:
    synchronize(device)
    start = now()
    for _ in range(calls):
        function()
    synchronize(device)
    return now() - start


def _event_seconds(function: Callable, calls: int, device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            function()
        end.record()
        end.synchronize()
    return start.elapsed_time(end) / 1e3


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread, no gradients, no garbage collection in the middle; everything as it was afterwards."""
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with threads(1), torch.inference_mode():
            yield
    finally:
        if collecting:
            gc.enable()


def _timing(samples: list[float], calls: int, clock: str) -> Timing:
    q1, median, q3 = _quartiles(samples)
    return Timing(median, q1, q3, len(samples), calls, clock)


def _quartiles(samples: list[float]) -> tuple[float, float, float]:
    q1, median, q3 = statistics.quantiles(samples, n=4, method="inclusive")
    return q1, median, q3


def _refuse_few(repeats: int) -> None:
    if repeats < 3:
        raise ValueError(f"repeats is {repeats}, but a median with quartiles needs at least 3")
