"""Which device computes, and what it is.

`torch.accelerator` (torch 2.6 and later) names whatever stands beside the CPU: NVIDIA and AMD cards are both
"cuda" to torch, Apple's is "mps", Intel's "xpu", Huawei's "npu" (registered by the package torch_npu, which torch
loads by itself where it is installed).
"""

import platform
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

KINDS = ("cpu", "cuda", "mps", "xpu", "npu")


def pick(name: str | torch.device = "auto") -> torch.device:
    """The device of that name; "auto" is the accelerator where there is one, else the CPU.

    "cuda:1" names the second card. Raises ValueError for an unknown kind and for a device this machine lacks.
    """
    if str(name) == "auto":
        return torch.device(_accelerator_kind() or "cpu")
    kind, _, index = str(name).partition(":")
    if kind not in KINDS or (index and not index.isdigit()):
        raise ValueError(f"device {str(name)!r} is unknown: use auto, {', '.join(KINDS)}, or an index as in cuda:1")
    if int(index or 0) >= _count(kind):
        raise ValueError(f"device {str(name)!r} is not on this machine: torch {torch.__version__} sees {_seen()}")
    return torch.device(str(name))


def synchronize(device: str | torch.device) -> None:
    """Wait until the device has finished: its work is asynchronous, the CPU's is not."""
    device = torch.device(device)
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block torch computes on ``count`` threads of the CPU; then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe(device: str | torch.device = "auto") -> dict[str, str | int | None]:
    """What a record must say of a machine: the device, its name and memory in bytes, threads, versions.

    Names no host and no user. `driver` is None on a CPU and where the driver does not tell.
    """
    device = pick(device)
    return {
        "device": device.type,
        "name": _cpu_name() if device.type == "cpu" else _accelerator_name(device),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory_bytes(device),
        "driver": _driver(device),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def can_compile() -> bool:
    """Whether `torch.compile` finds here what it needs: the C++ compiler that it looks for, and Python's headers."""
    compiler = {"Darwin": "clang++", "Windows": "cl"}.get(platform.system(), "g++")
    return shutil.which(compiler) is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


def _accelerator_kind() -> str | None:
    if not torch.accelerator.is_available():
        return None
    return torch.accelerator.current_accelerator().type


def _count(kind: str) -> int:
    if kind == "cpu":
        return 1
    return torch.accelerator.device_count() if kind == _accelerator_kind() else 0


def _seen() -> str:
    kind = _accelerator_kind()
    return f"the CPU and {_count(kind)} × {kind}" if kind else "only the CPU"


def _accelerator_name(device: torch.device) -> str:
    module = getattr(torch, device.type)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else f"{_cpu_name()} GPU"  # of one chip


def _memory_bytes(device: torch.device) -> int:
    if device.type in ("cpu", "mps"):  # Apple's GPU shares the machine's memory
        return psutil.virtual_memory().total
    return getattr(torch, device.type).get_device_properties(device).total_memory


def _driver(device: torch.device) -> str | None:
    if device.type != "cuda":
        return None
    if torch.version.hip:
        return f"ROCm {torch.version.hip}"
    version = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return f"CUDA {torch.version.cuda}, driver {version}"


def _cpu_name() -> str:
    """The name on the box: each system keeps it elsewhere."""
    if platform.system() == "Darwin":
        return _first_line("sysctl", "-n", "machdep.cpu.brand_string")
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(errors="replace").splitlines() if cpuinfo.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "CPU part" in told:  # ARM has numbers there and no name
        return f"{platform.machine()}, implementer {told.get('CPU implementer')}, part {told['CPU part']}"
    return told.get("model name") or platform.processor() or platform.machine()


def _first_line(*command: str) -> str:
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return output.strip().splitlines()[0] if output.strip() else "unknown"
