"""Nothing here asserts a time. What is held: the counts, the bookkeeping, the order of calls, the arithmetic."""

import sys
import time

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from helpers import measure
from helpers.measure import (
    Roofline,
    Work,
    matmul_work,
    measure_one,
    measure_pair,
    peak_memory,
    ridge_batch,
    timing,
    weights_work,
)

roofs = sys.modules["helpers.measure.roofline"]  # the module: the name in helpers.measure is the function


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(1, 3, 2), (1, 1, 1), (7, 31, 33), (64, 128, 16)])
def test_counted_flops_are_those_of_torchs_own_counter(batch, inputs, outputs):
    with FlopCounterMode(display=False) as counter:
        torch.randn(batch, inputs) @ torch.randn(inputs, outputs)
    assert matmul_work(batch, inputs, outputs).flops == counter.get_total_flops()


def test_bytes_are_each_operand_once():
    a, b = torch.randn(5, 7), torch.randn(7, 3)
    assert matmul_work(5, 7, 3).bytes == sum(t.nbytes for t in (a, b, a @ b))
    assert matmul_work(5, 7, 3, weight_bits=4, activation_bits=16).bytes == 7 * 3 / 2 + 2 * 5 * (7 + 3)


def test_work_adds_and_scales():
    assert Work(2, 8) + Work(4, 2) * 3 == Work(14, 14)
    assert (Work(2, 8) * 5).intensity == Work(2, 8).intensity == 0.25


def test_weights_are_used_once_a_token_and_read_once_a_pass():
    matrix = torch.randn(7, 3)
    one = weights_work(matrix.numel(), matrix.nbytes)
    assert one + Work(0, 4 * (7 + 3)) == matmul_work(1, 7, 3)
    assert weights_work(matrix.numel(), matrix.nbytes, tokens=5, passes=2) == Work(5 * one.flops, 2 * one.bytes)


def test_an_impossible_product_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        matmul_work(0, 3, 3)


def test_a_pair_is_timed_in_alternating_order(monkeypatch):
    order = []
    monkeypatch.setattr(timing, "_prepare", lambda *_: 1)
    measure_pair(lambda: order.append("a"), lambda: order.append("b"), repeats=4)
    assert "".join(order) == "abbaabba"


def test_the_ratio_says_how_many_times_faster_the_second_is(monkeypatch):
    seconds = {"slow": 0.6, "fast": 0.2}
    sample = lambda function, calls: seconds[function()] * calls  # noqa: E731
    monkeypatch.setattr(timing, "_clock", lambda device: ("a clock for the test", sample))
    pair = measure_pair(lambda: "slow", lambda: "fast", repeats=5)
    assert pair.ratio == pytest.approx(3)
    assert pair.ratio_q1 <= pair.ratio <= pair.ratio_q3
    assert (pair.a.median_s, pair.b.median_s) == (pytest.approx(0.6), pytest.approx(0.2))
    assert pair.a.repeats == 5


def test_calls_that_were_timed_together_share_the_seconds():
    together = timing.Timing(6.0, 3.0, 9.0, repeats=5, calls=2, clock="CUDA events")
    assert together.of_each(3) == timing.Timing(2.0, 1.0, 3.0, repeats=5, calls=6, clock="CUDA events")


def test_short_calls_are_repeated_until_a_sample_is_long_enough(monkeypatch):
    monkeypatch.setattr(timing, "_clock", lambda device: ("a clock for the test", lambda function, calls: 1e-6 * calls))
    result = measure_one(lambda: None, min_sample_s=1e-3)
    assert result.calls >= 1000
    assert result.median_s == pytest.approx(1e-6)


def test_a_function_is_warmed_up_and_the_session_is_left_as_it_was():
    threads, calls = torch.get_num_threads(), []
    measure_one(lambda: calls.append((torch.get_num_threads(), torch.is_inference_mode_enabled())), min_sample_s=0)
    assert set(calls) == {(1, True)}
    assert len(calls) == 2 + 1 + 7  # warm-up, one to find how many calls make a sample, the samples
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


def test_the_session_is_left_as_it_was_after_an_error_too():
    threads = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError):
        measure_one(lambda: 1 / 0)
    assert torch.get_num_threads() == threads


def test_time_asleep_is_not_the_threads_time():
    if time.get_clock_info("thread_time").resolution >= 1e-4:
        pytest.skip("this system's thread clock is too coarse, so the wall clock is used")
    result = measure_one(lambda: time.sleep(0.01), repeats=3, warm_up=1, min_sample_s=0)
    assert result.clock == "thread CPU time"
    assert result.median_s < 0.01


def test_fewer_than_three_repeats_are_refused():
    with pytest.raises(ValueError, match="at least 3"):
        measure_one(lambda: None, repeats=2)


def test_a_roofline_is_the_lower_of_two_ceilings():
    roof = Roofline("cpu", "float32", bytes_per_s=10e9, flops_per_s=80e9)
    assert roof.ridge == 8
    assert roof.attainable(2) == 20e9
    assert roof.attainable(8) == roof.attainable(800) == 80e9
    assert roof.seconds(Work(80e9, 1)) == roof.seconds(Work(1, 10e9)) == 1


def test_the_ridge_batch_puts_a_wide_layer_at_the_ridge():
    roof = Roofline("cpu", "bfloat16", bytes_per_s=10e9, flops_per_s=160e9)
    batch = ridge_batch(roof.flops_per_s, roof.bytes_per_s, weight_bits=4)
    work = matmul_work(round(batch), 10**6, 10**6, weight_bits=4)
    assert work.intensity == pytest.approx(roof.ridge, rel=1e-2)


def test_bandwidth_counts_one_two_and_three_arrays():
    rates = measure.bandwidth(array_bytes=4096, repeats=3)
    assert {name: rate.work.bytes for name, rate in rates.items()} == {"read": 4096, "copy": 8192, "triad": 12288}
    assert all(rate.bytes_per_s > 0 for rate in rates.values())


def test_matmul_rate_and_sweep_count_the_work_they_time():
    assert measure.matmul_rate(size=32, repeats=3).work.flops == 2 * 32**3
    sweep = measure.batch_sweep(width=64, weights_bytes=2**16, batches=[1, 3], repeats=3)
    assert {batch: rate.work for batch, rate in sweep.items()} == {b: matmul_work(b, 64, 64) for b in (1, 3)}
    assert measure.batch_sweep(dtype=torch.bfloat16, width=64, weights_bytes=2**16, batches=[2], repeats=3)[
        2
    ].work == matmul_work(2, 64, 64, 16)


def test_both_ceilings_of_this_machine_make_its_roofline(monkeypatch):
    monkeypatch.setitem(roofs.ARRAY_BYTES, "cpu", 2**16)
    monkeypatch.setitem(roofs.MATMUL_SIZE, "cpu", 32)
    roof = measure.roofline("cpu", torch.bfloat16, repeats=3)
    assert (roof.device, roof.dtype) == ("cpu", "bfloat16")
    assert roof.ridge == roof.flops_per_s / roof.bytes_per_s > 0


def test_the_cache_ladder_has_one_step_a_size():
    assert list(measure.cache_ladder(sizes=[4096, 8192], repeats=3)) == [4096, 8192]


def test_float16_on_a_cpu_is_refused():
    for meter in (measure.matmul_rate, measure.batch_sweep):
        with pytest.raises(ValueError, match="float16"):
            meter("cpu", torch.float16)


def test_peak_memory_sees_a_tensor_that_is_gone_at_the_end():
    with peak_memory() as peak:
        block = torch.ones(16 * 2**20)  # 64 MiB of fp32, every page written
        time.sleep(0.02)
        del block
    assert peak.growth_bytes > 48 * 2**20
    assert peak.start_bytes > 0
