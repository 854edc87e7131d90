import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

from helpers.device import describe
from helpers.measure import (
    Measurement,
    Rate,
    Record,
    Roofline,
    Timing,
    Work,
    read_record,
    recorded,
    recorded_text,
    write_record,
)
from helpers.measure.records import FOLDER, folder_of

_NUMBER, _TEXT = {"type": "number", "exclusiveMinimum": 0}, {"type": "string", "minLength": 1}
_LINE = {
    "label": _TEXT,
    "dtype": {"enum": ["float32", "bfloat16", "float16"]},
    "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1},
    "clock": {"enum": ["thread CPU time", "CUDA events", "wall clock"]},
    "repeats": {"type": "integer", "minimum": 1},
    "calls": {"type": "integer", "minimum": 1},
    "median_s": _NUMBER,
    "q1_s": _NUMBER,
    "q3_s": _NUMBER,
    "flops": {"type": "number", "minimum": 0},
    "bytes": _NUMBER,
    "roofline_share": {"type": ["number", "null"], "exclusiveMinimum": 0},
}
_MACHINE = ["device", "name", "cores", "threads", "memory_bytes", "driver", "instructions", "system", "python", "torch"]
SCHEMA = {  # what a reader of the files may rely on; a change here is a change of `format`
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "machine", "measurements", "date", "format"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9-]+$"},
        "machine": {"type": "object", "required": _MACHINE},
        "date": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "format": {"const": 1},
        "measurements": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": [*_LINE],
                "properties": {**_LINE, "scores": {"type": "object", "additionalProperties": {"type": "number"}}},
            },
        },
    },
}


def a_record(case: str = "roofline", **machine) -> Record:
    timing = Timing(0.5, 0.4, 0.6, repeats=7, calls=2, clock="thread CPU time")
    roof = Roofline("cpu", "float32", bytes_per_s=100.0, flops_per_s=1000.0)
    lines = [
        Measurement.of("read", "float32", [100], Rate(Work(0, 50), timing)),
        Measurement.of("matmul", "float32", [8, 8, 8], Rate(Work(500, 10), timing)),
        Measurement.of("batch 1", "float32", [1, 8, 8], Rate(Work(100, 20), timing), roof),
    ]
    return Record(case, {**describe("cpu"), **machine}, lines)


def test_a_written_record_follows_the_schema_and_reads_back_equal(tmp_path: Path):
    path = write_record(a_record(), tmp_path)
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert path == tmp_path / "cpu" / "roofline.json"
    assert read_record(path) == a_record()
    assert [p.name for p in path.parent.iterdir()] == ["roofline.json"]


# Parity is no timing; its record has a schema of its own, held in tests/course/parity/test_parity.py.
TIMINGS = sorted(path for path in FOLDER.glob("*/*.json") if path.stem != "parity")


@pytest.mark.parametrize("path", TIMINGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_record_of_the_repository_follows_the_schema(path: Path):
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    record = read_record(path)
    assert folder_of(record.machine) == path.parent
    assert record.name == path.stem
    for line in record.measurements:
        assert line.q1_s <= line.median_s <= line.q3_s
        assert line.repeats >= 3 or line.label.startswith("first call, ")  # what a compiler takes is timed once


def test_rates_shares_and_the_roofline_come_from_the_lines():
    record = a_record()
    assert record.find("batch 1", "float32").roofline_share == pytest.approx(0.2 / 0.5)
    assert record.find("read", "float32").roofline_share is None
    assert record.roofline("float32") == Roofline("cpu", "float32", bytes_per_s=100.0, flops_per_s=1000.0)


def test_scores_of_a_line_are_written_where_there_are_some(tmp_path):
    record = a_record()
    line = dataclasses.replace(record.measurements[0], scores={"bits per byte": 1.5})
    scored = dataclasses.replace(record, measurements=[line])
    path = write_record(scored, tmp_path)
    jsonschema.validate(json.loads(path.read_text()), SCHEMA)
    assert read_record(path).measurements[0].scores == {"bits per byte": 1.5}
    assert "scores" not in write_record(record, tmp_path).read_text()
    path.write_text(path.read_text().replace('"roofline_share": null', '"roofline_share": null, "scores": {"a": "b"}'))
    with pytest.raises(ValueError, match="scores is"):
        read_record(path)


def test_a_line_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ValueError, match="it has read float32, matmul float32"):
        a_record().find("read", "bfloat16")


def test_a_gpu_has_a_folder_of_its_own(tmp_path: Path):
    write_record(a_record(device="cuda", name="NVIDIA H200"), tmp_path)
    write_record(a_record(), tmp_path)
    assert list(recorded("roofline", tmp_path)) == ["cpu", "nvidia-h200"]
    assert recorded("unmeasured", tmp_path) == {}


def test_another_processor_has_a_folder_of_its_own_and_the_one_that_was_there_is_left_alone(tmp_path: Path):
    shipped = write_record(a_record(name="Shipped CPU", cores=2), tmp_path)
    before = shipped.read_bytes()
    for other in (dict(name="Other CPU", cores=2), dict(name="Shipped CPU", cores=8)):
        path = write_record(a_record(**other), tmp_path)
        slug = f"cpu-{other['name'].split()[0].lower()}-cpu-{other['cores']}-cores"
        assert path == tmp_path / slug / "roofline.json"
        assert write_record(a_record(**other), tmp_path) == path  # its own is measured anew
    unlike = write_record(a_record(name="Shipped CPU", cores=8, instructions="DEFAULT"), tmp_path)
    assert unlike.parent.name == "cpu-shipped-cpu-8-cores-2"
    assert shipped.read_bytes() == before
    assert len(recorded("roofline", tmp_path)) == 4


def test_versions_and_memory_make_no_other_machine_and_a_gpus_host_neither(tmp_path: Path):
    path = write_record(a_record(), tmp_path)
    assert write_record(a_record(torch="9.9", python="3.99", memory_bytes=1, threads=7), tmp_path) == path
    gpu = write_record(a_record(device="cuda", name="NVIDIA H200", cores=2), tmp_path)
    assert write_record(a_record(device="cuda", name="NVIDIA H200", cores=64), tmp_path) == gpu
    assert write_record(a_record(device="cuda", name="NVIDIA A100"), tmp_path) != gpu


def test_the_machine_that_reads_sees_its_own_record_first(tmp_path: Path):
    write_record(a_record(name="Shipped CPU"), tmp_path)
    write_record(a_record(device="cuda", name="AAA GPU"), tmp_path)
    mine = write_record(a_record(), tmp_path)
    assert list(recorded("roofline", tmp_path)) == [mine.parent.name, "aaa-gpu", "cpu"]
    first = recorded_text("roofline", folder=tmp_path).splitlines()[0]
    assert first.startswith(f"roofline on {describe('cpu')['name']}, ")


def test_a_damaged_record_takes_no_folder_from_its_machine(tmp_path: Path):
    path = write_record(a_record(), tmp_path)
    path.write_text("{")
    assert folder_of(describe("cpu"), tmp_path) == path.parent


def test_a_bad_name_and_an_empty_record_are_refused():
    with pytest.raises(ValueError, match="lower-case"):
        a_record("../escape")
    with pytest.raises(ValueError, match="no measurement"):
        dataclasses.replace(a_record(), measurements=[])


def test_a_nan_is_never_written(tmp_path: Path):
    broken = dataclasses.replace(a_record().measurements[0], median_s=float("nan"))
    with pytest.raises(ValueError, match="JSON compliant"):
        write_record(dataclasses.replace(a_record(), measurements=[broken]), tmp_path)
    assert not list(tmp_path.glob("*/*.json"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw.pop("date"), "date"),
        (lambda raw: raw.update(format=2), "format 1 is expected"),
        (lambda raw: raw.update(extra=1), "extra"),
        (lambda raw: raw["measurements"][0].update(repeats="seven"), "Measurement.repeats is 'seven'"),
        (lambda raw: raw["measurements"][0].pop("flops"), "flops"),
        (lambda raw: raw.update(measurements=[3]), "must be an object"),
        (lambda raw: raw.update(measurements=[]), "no measurement"),
    ],
)
def test_a_damaged_record_is_refused_with_its_name_and_the_reason(tmp_path: Path, change, reason: str):
    path = write_record(a_record(), tmp_path)
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=rf"roofline\.json is not a readable record: .*{reason}"):
        read_record(path)


def test_a_truncated_record_is_refused(tmp_path: Path):
    path = write_record(a_record(), tmp_path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(ValueError, match=r"roofline\.json is not a readable record"):
        read_record(path)


def test_records_are_told_machine_by_machine_and_their_absence_too(tmp_path):
    missing, record = "latent-decode: not measured yet", a_record()
    assert recorded_text("latent-decode", "moe", folder=tmp_path).splitlines() == [missing, "moe: not measured yet"]
    write_record(record, tmp_path)
    said = recorded_text("latent-decode", "roofline", folder=tmp_path).splitlines()
    assert said[:2] == [missing, f"roofline on {record.machine['name']}, recorded {record.date}"]
    assert [line.split()[0] for line in said[2:]] == ["read", "matmul", "batch"]
    assert said[-1].endswith("500 ms, 40% of the roofline")
