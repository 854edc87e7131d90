"""Facts about this machine, without judgement: cores, memory, installed versions, browsers, seconds of a call.

Standard library only (psutil where it is there), so that the doctor can speak before anything is installed.
"""

import contextlib
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from course.pip_install import plain

ROOT = Path(__file__).resolve().parents[1]


def cgroup_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores that a container may use (cgroup v2, then v1), or None where nothing limits it."""
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if quota < 0 else quota / int((root / "cpu" / "cpu.cfs_period_us").read_text())
    return None


def cgroup_memory(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a container may use (cgroup v2, then v1), or None where nothing limits it."""
    for file in (root / "memory.max", root / "memory" / "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            limit = int(file.read_text())  # "max" is no number: no limit
            return limit if limit < 2**60 else None  # v1 writes a huge number for "no limit"
    return None


def physical_memory() -> tuple[int | None, int | None]:
    """Bytes of memory this machine has, and bytes free now; None where there is no way to know."""
    with contextlib.suppress(ImportError):
        import psutil

        memory = psutil.virtual_memory()
        return memory.total, memory.available
    with contextlib.suppress(AttributeError, ValueError, OSError):
        page = os.sysconf("SC_PAGE_SIZE")
        return page * os.sysconf("SC_PHYS_PAGES"), page * os.sysconf("SC_AVPHYS_PAGES")
    return None, None


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def requirements(file: Path = ROOT / "pyproject.toml") -> dict[str, str]:
    """What pyproject.toml asks for: distribution name -> bounds, such as ``{"numpy": ">=2.1,<3"}``."""
    lines = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
    parts = [re.fullmatch(r"([\w.-]+)\s*([^;]*?)\s*(;.*)?", line) for line in lines]
    return {part[1]: part[2] for part in parts if part}


def pinned(file: Path) -> dict[str, str]:
    """Package to its pinned version, for this Python and system. Needs ``packaging``, which every dependency brings."""
    from packaging.requirements import Requirement

    lines = file.read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [pin for pin in pins if not pin.marker or pin.marker.evaluate()]
    return {plain(pin.name): str(pin.specifier).removeprefix("==") for pin in here}


def within(version: str, bounds: str) -> bool:
    """Does a version keep to bounds such as ``>=2.1,<3``? A local part (``+cpu``) does not count."""

    def numbers(text: str) -> tuple[int, ...]:
        found = [int(number) for number in re.findall(r"\d+", text.split("+")[0])[:4]]
        return tuple(found + [0] * (4 - len(found)))

    tests = {
        "==": numbers(version).__eq__,
        ">=": numbers(version).__ge__,
        "<=": numbers(version).__le__,
        ">": numbers(version).__gt__,
        "<": numbers(version).__lt__,
        "!=": numbers(version).__ne__,
    }
    pairs = re.findall(r"(==|>=|<=|!=|<|>)\s*([^,\s]+)", bounds)
    return all(tests[sign](numbers(bound)) for sign, bound in pairs)


def writable(folder: Path) -> bool:
    """Can a file be made in it, or in the folder that would have to be made for it?"""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def home_that_can_be_written() -> Path:
    """The home folder; where that cannot be written, one in ``build/``, or one that lasts as long as this command."""
    home = Path(os.path.expanduser("~"))
    if home.is_absolute() and writable(home):
        return home
    own = ROOT / "build" / "home"
    try:
        own.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="efficient-engines-home-"))
    return own if writable(own) else Path(tempfile.mkdtemp(prefix="efficient-engines-home-"))


def seconds_of(function: Callable[[], object], repeats: int = 5) -> float:
    """The fastest of a few calls, in seconds, after one that warms up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def browsers() -> Iterator[Path]:
    """Chromium and its relatives on this machine, by name on the PATH and in the usual folders."""
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge"):
        if found := shutil.which(name):
            yield Path(found)
    folders = [os.environ.get(name, "") for name in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")]
    usual = [Path(folder) / "Google/Chrome/Application/chrome.exe" for folder in folders if folder]
    usual += [Path("/Applications") / f"{name}.app/Contents/MacOS/{name}" for name in ("Google Chrome", "Chromium")]
    yield from (path for path in usual if path.exists())
