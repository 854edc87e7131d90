import dataclasses
import errno

import pytest
import torch

from course.measure import __main__ as measure
from course.measure import cases as measure_cases
from course.measure import run
from course.measure.goals import goals_on
from course.measure.subjects.roofline import CPU_DTYPES
from helpers.device import describe
from helpers.measure import Measurement, Rate, Timing, Work, read_record
from helpers.measure.records import FOLDER, folder_of


@pytest.fixture
def quick_case(monkeypatch):
    """A case that needs no time: what is tested here is the command around it."""

    def quick(device: torch.device):
        """A case for the test."""
        yield Measurement.of("read", "float32", [64], Rate(Work(16, 64), Timing(1, 1, 1, 3, 1, "wall clock")))

    monkeypatch.setattr(measure_cases, "CASES", {"quick": quick})


def test_a_case_is_recorded_and_a_table_is_printed(quick_case, tmp_path, capsys):
    assert measure.main(["quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    record = read_record(tmp_path / "cpu" / "quick.json")
    assert record.machine["device"] == "cpu"
    assert record.machine["threads"] == 1
    printed = capsys.readouterr().out
    assert "64 B/s" in printed
    assert any(line.endswith("cpu/quick.json") for line in printed.splitlines())


def test_without_a_name_every_case_runs(quick_case, tmp_path):
    assert measure.main(["--device", "cpu", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "cpu" / "quick.json").exists()


def test_an_unknown_case_or_device_is_one_clear_line(quick_case, tmp_path, capsys):
    assert measure.main(["speed", "--device", "cpu", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "course measure: case 'speed' is unknown for cpu: use quick\n"
    assert measure.main(["--device", "gpu", "--out", str(tmp_path)]) == 2
    assert "auto, cpu, cuda" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_list_names_each_case_and_says_what_it_measures(capsys):
    assert measure.main(["--list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == [*measure_cases.CASES, *measure_cases.GPU_CASES]
    assert all(len(line.split()) > 4 for line in printed)


def test_what_has_a_record_is_not_pending_unless_it_is_asked_for_again_or_by_name(quick_case, tmp_path, capsys):
    calls = ["--device", "cpu", "--out", str(tmp_path)]
    record = tmp_path / "cpu" / "quick.json"
    for arguments, measured in (([], True), ([], False), (["--again"], True), (["quick"], True)):
        written = record.stat().st_mtime_ns if record.exists() else 0
        assert measure.main([*arguments, *calls]) == 0
        assert (record.stat().st_mtime_ns > written) == measured
        assert ("nothing is pending" in capsys.readouterr().out) != measured


def test_on_another_processor_everything_is_pending_and_the_first_ones_record_stays(quick_case, tmp_path, monkeypatch):
    calls = ["--device", "cpu", "--out", str(tmp_path)]
    assert measure.main(calls) == 0
    first = (tmp_path / "cpu" / "quick.json").read_bytes()
    other = describe("cpu") | {"name": "Some Other Processor", "cores": 8}
    monkeypatch.setattr(run, "describe", lambda _: other)
    assert run.pending(torch.device("cpu"), tmp_path) == ["quick"]
    assert measure.main(["--again", *calls]) == 0
    assert run.pending(torch.device("cpu"), tmp_path) == []
    assert (tmp_path / "cpu" / "quick.json").read_bytes() == first
    assert (tmp_path / "cpu-some-other-processor-8-cores" / "quick.json").exists()


def test_a_folder_that_cannot_be_written_is_one_line_before_anything_is_measured(monkeypatch, tmp_path, capsys):
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(measure_cases, "CASES", {"quick": broken(AssertionError("it was measured"), 0)})
    assert measure.main(["--device", "cpu", "--out", str(tmp_path / "a file")]) == 1
    said = f"course measure: cannot write {tmp_path / 'a file'}: Not a directory\n"
    assert capsys.readouterr() == ("", said)


def test_a_record_that_cannot_be_written_is_printed_all_the_same(quick_case, monkeypatch, tmp_path, capsys):
    def full(record, folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "cpu"))

    monkeypatch.setattr(run, "write_record", full)
    assert measure.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert any("64 B/s" in line for line in printed)
    assert printed[-1] == f"quick: stopped, cannot write {tmp_path / 'cpu'}: No space left on device"


def line_of(label: str) -> Measurement:
    return Measurement.of(label, "float32", [64], Rate(Work(16, 64), Timing(1, 1, 1, 3, 1, "wall clock")))


def broken(error: Exception, before: int):
    def case(device: torch.device):
        """A case for the test."""
        yield from (line_of(f"line {n}") for n in range(before))
        raise error

    return case


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (AssertionError("ours beside theirs: relative RMS"), "AssertionError: ours beside theirs"),
        (ImportError("no GlmMoeDsaConfig"), "ImportError: no GlmMoeDsaConfig"),
    ],
)
def test_a_case_that_fails_says_so_keeps_its_lines_and_the_others_go_on(monkeypatch, tmp_path, capsys, error, said):
    cases = {"first": broken(error, 2), "second": broken(error, 0), "third": lambda device: iter([line_of("read")])}
    monkeypatch.setattr(measure_cases, "CASES", cases)
    assert measure.main(["--device", "cpu", "--out", str(tmp_path)]) == 1
    assert [line.label for line in read_record(tmp_path / "cpu" / "first.json").measurements] == ["line 0", "line 1"]
    assert not (tmp_path / "cpu" / "second.json").exists()
    assert (tmp_path / "cpu" / "third.json").exists()
    last = capsys.readouterr().out.splitlines()[-2:]
    assert last[0].startswith(f"first: stopped, {said}")
    assert last[1].startswith(f"second: stopped, {said}")


def test_when_the_time_is_over_the_lines_so_far_stay_and_no_case_begins(monkeypatch, tmp_path, capsys):
    clock = iter(range(0, 10_000, 20))  # seconds: every look at the clock comes 20 later
    monkeypatch.setattr(run.time, "monotonic", lambda: next(clock))
    many = lambda device: (line_of(f"line {n}") for n in range(100))  # noqa: E731
    monkeypatch.setattr(measure_cases, "CASES", {"first": many, "second": many})
    assert measure.main(["--device", "cpu", "--out", str(tmp_path), "--minutes", "1.5"]) == 1
    assert [line.label for line in read_record(tmp_path / "cpu" / "first.json").measurements] == [
        f"line {n}" for n in range(4)
    ]
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first.startswith("first: stopped, the time is over")
    assert second == "second: stopped, the 1.5 minutes were over before it began"


def test_a_case_of_a_gpu_is_unknown_to_a_cpu():
    with pytest.raises(ValueError, match="'experts-prompt' is unknown for cpu"):
        run.measure("experts-prompt", torch.device("cpu"))


@pytest.fixture
def a_gpu(monkeypatch):
    """The command meets a GPU that is not there; its one case needs none."""
    machine = describe("cpu") | {"device": "cuda", "name": "NVIDIA H200", "driver": "CUDA 13"}
    case, goal = "linear-few-tokens", "int4, 1, graph"
    both = [line_of(f"16 bits beside {goal}"), line_of(goal)]
    for module, name, value in (
        (measure, "pick", lambda _: torch.device("cuda")),
        (run, "describe", lambda _: machine),
        (run, "release", lambda _: None),
        (run, "ceilings", lambda _: (line_of("copy"), dataclasses.replace(line_of("matmul"), dtype="bfloat16"))),
        (measure_cases, "GPU_CASES", {case: lambda _: iter(both)}),
    ):
        monkeypatch.setattr(module, name, value)
    return case


def test_on_a_gpu_the_ceilings_of_the_run_stand_in_the_record_and_the_goals_are_printed_last(a_gpu, tmp_path, capsys):
    assert measure.main(["--device", "cuda", "--out", str(tmp_path)]) == 0
    record = read_record(tmp_path / "nvidia-h200" / f"{a_gpu}.json")
    labels = ["copy", "matmul", "16 bits beside int4, 1, graph", "int4, 1, graph"]
    assert [line.label for line in record.measurements] == labels
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) - printed.index(next(x for x in printed if x.startswith("goal "))) == 1 + len(goals_on("cuda"))
    (row,) = [line for line in printed if line.startswith("INT4 over 16 bits, 1 token")]
    assert row.endswith("1.0 x  missed")
    assert measure.main(["--device", "cuda", "--out", str(tmp_path)]) == 0
    assert "nothing is pending" in capsys.readouterr().out


def test_no_case_multiplies_float16_on_a_cpu():
    assert torch.float16 not in CPU_DTYPES


def test_the_committed_record_holds_everything_that_the_case_promises():
    record = read_record(FOLDER / "cpu" / "roofline.json")
    labels = {(line.label, line.dtype) for line in record.measurements}
    for dtype in ("float32", "bfloat16"):
        assert {("matmul", dtype), ("batch 1", dtype), ("batch 256", dtype)} <= labels
    assert {("read", "float32"), ("copy", "float32"), ("triad", "float32")} <= labels
    assert folder_of(record.machine) == FOLDER / "cpu"
