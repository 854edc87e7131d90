import json

import pytest
import torch

from helpers import device
from helpers.device import describe, pick, synchronize


def test_auto_is_the_accelerator_where_there_is_one_and_else_the_cpu():
    kind = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    assert pick("auto").type == kind
    assert pick(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "CUDA", "", "cuda:x", "cpu:-1"])
def test_an_unknown_name_is_refused_with_the_names_that_are_allowed(name):
    with pytest.raises(ValueError, match="auto, cpu, cuda, mps, xpu, npu"):
        pick(name)


def test_a_device_that_this_machine_lacks_is_refused_with_what_it_has():
    with pytest.raises(ValueError, match=r"not on this machine: torch .* sees"):
        pick("npu:7")
    with pytest.raises(ValueError, match="not on this machine"):
        pick("cpu:1")


def test_the_cpu_needs_no_waiting():
    synchronize("cpu")


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        ("processor : 0\nmodel name : AMD EPYC 7763\nmodel name : AMD EPYC 7763\n", "AMD EPYC 7763"),
        ("CPU implementer : 0x41\nCPU part : 0xd0c\n", "aarch64, implementer 0x41, part 0xd0c"),
    ],
)
def test_processors_without_a_name_are_told_apart_by_their_numbers(tmp_path, monkeypatch, cpuinfo, name):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(device, "Path", lambda _: tmp_path / "cpuinfo")
    monkeypatch.setattr(device.platform, "system", lambda: "Linux")
    monkeypatch.setattr(device.platform, "machine", lambda: "aarch64")
    assert device._cpu_name() == name


def test_a_gpu_of_apple_has_the_name_of_its_chip(monkeypatch):
    monkeypatch.setattr(device, "_cpu_name", lambda: "Apple M2")
    assert device._accelerator_name(torch.device("mps")) == "Apple M2 GPU"


def test_a_description_holds_what_a_record_needs_and_names_no_host():
    import platform

    machine = describe("cpu")
    assert machine["device"] == "cpu"
    assert machine["memory_bytes"] > 1e8
    assert machine["torch"] == torch.__version__
    assert machine["cores"] >= 1
    assert machine["name"]
    assert json.loads(json.dumps(machine)) == machine
    assert platform.node() not in machine.values()
