"""Honest measurement: seconds beside the work they were spent on, and both beside what the machine can do.

Read in this order: `work` (FLOP and bytes of a matrix product), `timing` (seconds, paired and interleaved),
`roofline` (the two ceilings of a machine), `memory` (peak bytes), `flops` (FLOP of a whole training step, counted),
`traffic` (bytes that operations ask for, counted), `chips` (floors on chips that are not here), `energy` (joules,
where the machine counts them), `records` (results that outlive the session).
"""

from helpers.measure.energy import Energy, measured_energy
from helpers.measure.flops import StepFlops, count_elements, count_flops, training_flops, training_flops_per_token
from helpers.measure.memory import Peak, peak_memory
from helpers.measure.records import Measurement, Record, read_record, recorded, recorded_text, write_record
from helpers.measure.roofline import (
    Rate,
    Roofline,
    bandwidth,
    batch_sweep,
    cache_ladder,
    matmul_rate,
    name_of,
    ridge_batch,
    roofline,
)
from helpers.measure.timing import Comparison, Timing, measure_one, measure_pair
from helpers.measure.work import Work, matmul_work, weights_work

__all__ = [
    "Comparison",
    "Energy",
    "Measurement",
    "Peak",
    "Rate",
    "Record",
    "Roofline",
    "StepFlops",
    "Timing",
    "Work",
    "bandwidth",
    "batch_sweep",
    "cache_ladder",
    "count_elements",
    "count_flops",
    "matmul_rate",
    "matmul_work",
    "measure_one",
    "measure_pair",
    "measured_energy",
    "name_of",
    "peak_memory",
    "read_record",
    "recorded",
    "recorded_text",
    "ridge_batch",
    "roofline",
    "training_flops",
    "training_flops_per_token",
    "weights_work",
    "write_record",
]
