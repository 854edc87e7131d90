"""The case that times layers in every format: one matrix, answers as near as the format, bytes that are really held."""

import pytest
import torch

from course.measure.cases import CASES
from course.measure.goals import goals_on
from course.measure.subjects import quant as measure_quant
from course.measure.subjects.quant import (
    BESIDE,
    INT8,
    LLM_INT8,
    NF4,
    OURS,
    SLOW,
    TOKENS,
    WIDTHS,
    beside,
    check,
    held,
    layer_of,
    plain_layer,
    quant_case,
    ring,
    work,
)
from helpers.compare import relative_rms
from helpers.measure import read_record
from helpers.measure.records import FOLDER
from helpers.quant.cpu import CPU as KERNELS

pytestmark = [
    pytest.mark.usefixtures("no_gradients"),
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),  # bitsandbytes tells that it casts to float16
]


@pytest.fixture(scope="module")
def plain():
    with torch.no_grad():
        return plain_layer(256)


@pytest.mark.parametrize("name", ["bfloat16", "float32", *OURS, *SLOW, NF4, INT8, LLM_INT8])
def test_every_layer_answers_as_its_matrix_does(plain, name):
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    layer = layer_of(name, plain)
    check(name, [layer], plain, x)
    assert layer(x).dtype == torch.bfloat16
    with pytest.raises(AssertionError, match=f"{name}, 3 tokens: off by"):
        check(name, [lambda tokens: layer(2 * tokens)], plain, x)


@pytest.mark.parametrize(
    ("name", "bits"),
    [("bfloat16", 16), ("float32", 32), ("int8", 8.125), ("int4", 5), ("int4-affine", 4.28125), ("nf4", 4.75),
     ("fp8", 8.002), (NF4, 4.25), (INT8, 8.125)],
)  # fmt: skip
def test_bytes_are_those_in_memory_layouts_of_kernels_included(plain, name, bits):
    layer = layer_of(name, plain)
    layer(torch.zeros(1, 256, dtype=torch.bfloat16))  # bitsandbytes lays its matrix out at the first call
    if name in KERNELS and not KERNELS[name].fits(layer.packed.encoded()):
        pytest.skip(f"this processor lacks the instructions of the kernel for {name}")
    assert 8 * held(layer) / 256**2 == pytest.approx(bits, abs=0.01)


def test_a_ring_is_larger_than_any_cache_and_every_copy_is_its_own(plain, monkeypatch):
    monkeypatch.setattr(measure_quant, "RING_BYTES", 10 * held(plain))
    for name in ("bfloat16", "int4", NF4):
        layers = ring(layer_of(name, plain))
        assert sum(map(held, layers)) >= 10 * held(plain)
        largest = [max([*one.parameters(), *one.buffers()], key=torch.numel) for one in layers]
        places = {tensor.data_ptr() for tensor in largest}
        assert len(places) == len(layers)


def test_work_reads_what_is_held_once(plain):
    packed = layer_of("int4", plain)
    assert work(packed, 1, 256).bytes == held(packed) + 2 * 256 * 2
    assert work(packed, 512, 256).flops == 512 * work(packed, 1, 256).flops == 512 * 2 * 256**2


def test_both_sides_of_a_pair_are_recorded_the_other_first(plain, monkeypatch):
    monkeypatch.setattr(measure_quant, "RING_BYTES", 1)
    lines = list(beside("int8", "bfloat16", plain, (1,)))
    assert [line.label for line in lines] == [
        "bfloat16 of int8 beside bfloat16, 256, 1",
        "int8 of int8 beside bfloat16, 256, 1",
    ]
    assert lines[0].bytes > 1.8 * lines[1].bytes


def test_a_layer_that_answers_something_else_is_not_timed(plain, monkeypatch):
    monkeypatch.setattr(measure_quant, "RING_BYTES", 1)
    monkeypatch.setattr(measure_quant, "layer_of", lambda name, layer: plain_layer(256) if name == "int8" else layer)
    wrong = plain_layer(256)
    wrong.weight.mul_(2)
    with pytest.raises(AssertionError, match="int8, 1 tokens: off by"):
        next(beside("int8", "bfloat16", wrong, (1,)))


def test_a_gpu_is_refused():
    with pytest.raises(ValueError, match="kernels of a CPU, and was asked for cuda"):
        next(iter(quant_case(torch.device("cuda"))))


def test_torchs_kernels_take_float32_and_round_nothing(plain):
    """What makes them a trap: the answer is right, and only the clock tells."""
    x = torch.randn(1, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    slow, fast = layer_of(SLOW[1], plain), layer_of("int4", plain)
    assert relative_rms(slow(x), fast(x)) < 1e-2


def test_the_case_is_on_the_list_and_its_record_is_complete():
    assert CASES["quant"] is quant_case
    record = read_record(FOLDER / "cpu" / "quant.json")
    labels = {line.label for line in record.measurements}
    pairs = [(name, "bfloat16", TOKENS) for name in ("float32", *OURS, NF4, INT8, LLM_INT8)]
    pairs += [(name, "bfloat16", TOKENS[:1]) for name in SLOW]
    pairs += [(name, theirs, TOKENS) for name, theirs in BESIDE.items()]
    for width in WIDTHS:
        for name, other, counts in pairs:
            for which in (name, other):
                assert {f"{which} of {name} beside {other}, {width}, {tokens}" for tokens in counts} <= labels
    for goal in goals_on("cpu"):
        if goal.case == "quant":
            assert {goal.fast, goal.slow} <= labels
