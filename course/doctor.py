"""What this machine can do for the course, and what is wrong with it: ``python3 -m course doctor``.

Every check is a small function that yields findings and imports what it needs inside itself, so that the doctor
still speaks when the thing it looks for is missing. Three outcomes: ``✓`` fine, ``✗`` wrong (the next line says what
to do), ``○`` not there and not needed. The exit status is 1 only when the course cannot run at all.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

from course.bootstrap import ROOM_BYTES, VENVS
from course.machine import (
    ROOT,
    browsers,
    cgroup_cores,
    cgroup_memory,
    home_that_can_be_written,
    installed,
    physical_memory,
    pinned,
    requirements,
    seconds_of,
    within,
)
from course.pip_install import PINS
from course.platforms import unsupported
from course.running.results import MEMORY_LIMIT_BYTES

ZOO_MODEL = "tiny-qwen3"
PORT = 8888  # JupyterLab's own default
NEEDED_MEMORY_BYTES = MEMORY_LIMIT_BYTES + 0.6e9  # a lesson, and JupyterLab and a browser beside it
NEEDED_DISK_BYTES = 0.5e9  # executed lessons and reports under build/
SHOWN = ("torch", "transformers", "jupyterlab", "plotly", "ipywidgets", "bitsandbytes")
MODULES = {"ipython": "IPython"}  # where a package and its module differ by more than a dash
PAGE_ONLY = ("jupyterlab-execute-time",)  # lives in JupyterLab's page, there is nothing to import
COMFORTS = ("bitsandbytes", "jupyterlab-execute-time", "jupyter-resource-usage")  # most lessons run without them
SET_UP = "run `python3 -m course` once: it installs what is missing"


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``fatal`` says that without it no lesson runs."""

    topic: str
    outcome: str  # "fine", "wrong" or "absent"
    says: str
    advice: str = ""
    fatal: bool = False


Check = Callable[[], Iterator[Finding]]


def fine(topic: str, says: str) -> Finding:
    return Finding(topic, "fine", says)


def absent(topic: str, says: str) -> Finding:
    return Finding(topic, "absent", says)


def wrong(topic: str, says: str, advice: str, fatal: bool = False) -> Finding:
    return Finding(topic, "wrong", says, advice, fatal)


# ---------------------------------------------------------------- the machine


def check_python() -> Iterator[Finding]:
    yield fine("Python", f"{platform.python_version()} at {sys.executable}")
    says = f"{platform.system()} {platform.release()}, {platform.machine()}"
    refusal = None if installed("torch") else unsupported(PINS / "torch-wheels.txt")
    yield wrong("platform", says, refusal, fatal=True) if refusal else fine("platform", says)
    if Path(sys.prefix).parent == ROOT and Path(sys.prefix).name == VENVS[1]:
        yield absent("environment", f"{VENVS[1]}, for {VENVS[0]} was made by somebody else and stays as it is")


def check_cores() -> Iterator[Finding]:
    present = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else present
    limit = cgroup_cores()
    usable = allowed if limit is None else min(allowed, limit)
    says = f"{usable:g} usable" + ("" if usable == present else f" of {present} (this process is limited)")
    if usable < 1:
        yield wrong("cores", says, "lessons will be slow; give the container at least one core")
    else:
        yield fine("cores", says)


def check_memory() -> Iterator[Finding]:
    total, free = physical_memory()
    limit = cgroup_memory()
    if total is None or free is None:
        yield absent("memory", "unknown (psutil is not installed yet)")
        return
    usable = total if limit is None else min(total, limit)
    free = min(free, usable)
    says = f"{size(free)} free of {size(usable)}" + (" (the container's limit)" if usable < total else "")
    if free < NEEDED_MEMORY_BYTES:
        yield wrong("memory", says, f"close something: a lesson and JupyterLab want {size(NEEDED_MEMORY_BYTES)}")
    else:
        yield fine("memory", says)


def check_disk() -> Iterator[Finding]:
    free = shutil.disk_usage(ROOT).free
    needed = NEEDED_DISK_BYTES if installed("torch") else ROOM_BYTES
    says = f"{size(free)} free where the course lies"
    if free < needed:
        yield wrong("disk", says, f"make room: {size(needed)} are wanted", fatal=not installed("torch"))
    else:
        yield fine("disk", says)


def check_build_folder() -> Iterator[Finding]:
    folder = ROOT / "build"
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            yield fine("build/", "can be written")
    except OSError as error:
        advice = "executed lessons go there: make it yours, or copy the course to a folder you own"
        yield wrong("build/", f"cannot be written ({error.strerror})", advice, fatal=True)


def check_home() -> Iterator[Finding]:
    home, given = home_that_can_be_written(), Path(os.path.expanduser("~"))
    if home == given:
        yield fine("home", f"{home} can be written")
    else:
        yield absent("home", f"{given} cannot be written: Jupyter's settings and caches go to {home}")


def check_port(port: int = PORT) -> Iterator[Finding]:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
        yield fine("port", f"{port} is free for JupyterLab")
    except OSError:
        yield absent("port", f"{port} is taken; JupyterLab takes another and says which")


# ---------------------------------------------------------------- the packages


def check_package(name: str, version: str, bounds: str) -> Finding:
    """Does it import, and is it the version that the course was tested with?"""
    if name not in PAGE_ONLY:
        try:
            import_module(MODULES.get(name, name.replace("-", "_")))
        except Exception as error:  # a broken wheel raises what it likes
            says = f"{version} does not import ({type(error).__name__}: {first_line(error)})"
            advice = f"install it again: `{sys.executable} -m pip install --force-reinstall {name}`"
            return wrong(name, says, advice, fatal=name not in COMFORTS)
    if not within(version, bounds):
        return wrong(name, f"{version}; the course was tested with {bounds}", SET_UP)
    return fine(name, version)


def check_packages(wanted: dict[str, str] | None = None) -> Iterator[Finding]:
    """A line for each package that matters most and for each that is wrong; one line for all the others."""
    wanted = requirements() if wanted is None else wanted
    versions = {name: installed(name) for name in wanted}
    missing = [name for name, version in versions.items() if version is None]
    there = [check_package(name, version, wanted[name]) for name, version in versions.items() if version]
    yield from (finding for finding in there if finding.topic in SHOWN or finding.outcome != "fine")
    if missing:
        fatal = not set(missing) <= set(COMFORTS)
        yield wrong("packages", f"{len(missing)} not installed: {', '.join(missing)}", SET_UP, fatal)
    others = sum(finding.topic not in SHOWN and finding.outcome == "fine" for finding in there)
    if others:
        yield fine("packages", f"{others} more are installed, as pyproject.toml asks")


def check_pins(shown: int = 4) -> Iterator[Finding]:
    """Where the environment leaves ``course/pins``. No fault: an environment of one's own is taken as it is."""
    if installed("packaging") is None:
        yield absent("pins", "not looked at: nothing is installed yet")
        return
    here = {name: version for name, version in pinned(PINS / "constraints.txt").items() if installed(name)}
    moved = [
        f"{name} {installed(name)} (pinned {version})"
        for name, version in here.items()
        if installed(name).partition("+")[0] != version
    ]
    if moved:
        more = f" and {len(moved) - shown} more" if len(moved) > shown else ""
        yield absent("pins", f"{len(moved)} of {len(here)} packages differ: {', '.join(moved[:shown])}{more}")
    else:
        yield fine("pins", f"all {len(here)} packages that are here have the version of course/pins")


def check_test_tools() -> Iterator[Finding]:
    missing = [name for name in ("pytest", "ruff", "hypothesis", "playwright") if installed(name) is None]
    if missing:
        yield absent("test tools", f"{', '.join(missing)} not installed; `python3 -m course test` brings them")
    else:
        yield fine("test tools", "installed")


# ---------------------------------------------------------------- torch and the device


def check_torch() -> Iterator[Finding]:
    import torch

    capability = torch.backends.cpu.get_cpu_capability()
    yield fine("torch's CPU", f"{torch.get_num_threads()} threads, {capability} instructions")
    policy = os.environ.get("OMP_WAIT_POLICY", "")
    if policy.upper() == "PASSIVE":
        yield fine("waiting", "OMP_WAIT_POLICY=PASSIVE: threads sleep while they wait")
    else:
        advice = "set OMP_WAIT_POLICY=PASSIVE before Python starts; on shared cores spinning threads cost a lot"
        yield wrong("waiting", f"OMP_WAIT_POLICY={policy or '(not set)'}", advice)
    yield check_bfloat16()


def check_bfloat16() -> Finding:
    """Multiply the same matrices in both formats: a CPU without bfloat16 instructions is slower in it."""
    import torch

    matrix = torch.ones(256, 256)
    half = matrix.bfloat16()
    ratio = seconds_of(lambda: matrix @ matrix) / seconds_of(lambda: half @ half)
    says = f"bfloat16 runs at {ratio:.2g} times the speed of float32 (256 x 256 matmul)"
    if ratio < 1:
        return absent("bfloat16", f"{says}: emulated, so lessons stay in float32 on this CPU")
    return fine("bfloat16", says)


def check_accelerator() -> Iterator[Finding]:
    import torch

    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        yield absent("accelerator", "none; every lesson runs on the CPU")
        return
    from helpers.device import describe

    facts = describe(str(device))
    memory = facts.get("memory_bytes")
    parts = [str(facts.get("name", device.type)), size(memory) if memory else "", f"device {device.type!r}"]
    result = (torch.ones(64, 64, device=device) @ torch.ones(64, 64, device=device)).sum().item()
    says = ", ".join(part for part in parts if part)
    if result != 64**3:
        yield wrong("accelerator", f"{says}: a matmul came out wrong", 'set device = "cpu" in the lessons')
    else:
        yield fine("accelerator", says)


# ---------------------------------------------------------------- the course itself


def check_browser() -> Iterator[Finding]:
    browser = next(browsers(), None)
    if browser is None:
        yield absent("browser", "no Chromium or Chrome found: the browser tests skip; lessons open in any browser")
    elif platform.system() == "Windows":  # there `--version` opens a window
        yield fine("browser", str(browser))
    else:
        answer = subprocess.run([browser, "--version"], capture_output=True, text=True, timeout=20)
        yield fine("browser", f"{answer.stdout.strip() or 'version unknown'} at {browser}")


def check_kernel() -> Iterator[Finding]:
    from jupyter_client.kernelspec import KernelSpecManager

    here = Path(sys.executable)
    program = KernelSpecManager().get_kernel_spec("python3").argv[0]
    if Path(program).name == program and program.startswith("python"):  # Jupyter then takes the Python it runs on
        program = sys.executable
    if Path(program).parent != here.parent:
        advice = f"`{here} -m ipykernel install --sys-prefix` makes the lessons run in this environment"
        yield wrong("kernel", f"python3 starts {program}, not {here}", advice, fatal=True)
    else:
        yield fine("kernel", f"python3 starts {program}")


def check_zoo() -> Iterator[Finding]:
    from helpers.checkpoints import load
    from helpers.units import format_count
    from helpers.zoo import folder

    model = load(folder(ZOO_MODEL))
    count = sum(parameter.numel() for parameter in model.parameters())
    yield fine("zoo", f"{ZOO_MODEL} opens: {format_count(count)} parameters")


CHECKS: dict[str, tuple[Check, str]] = {  # topic -> (check, what to do when it breaks down; empty = not needed)
    "Python": (check_python, ""),
    "cores": (check_cores, ""),
    "memory": (check_memory, ""),
    "disk": (check_disk, ""),
    "build/": (check_build_folder, ""),
    "home": (check_home, ""),
    "port": (check_port, ""),
    "packages": (check_packages, SET_UP),
    "pins": (check_pins, ""),
    "test tools": (check_test_tools, ""),
    "torch's CPU": (check_torch, SET_UP),
    "accelerator": (check_accelerator, ""),
    "kernel": (check_kernel, SET_UP),
    "zoo": (check_zoo, f"helpers/zoo/{ZOO_MODEL} is part of the course: `git status` shows what changed there"),
    "browser": (check_browser, ""),
}


def examine(topic: str, check: Check, cure: str) -> list[Finding]:
    """All findings of one check. A check that breaks down is itself a finding, fatal where there is a cure to name."""
    findings: list[Finding] = []
    try:
        findings.extend(check())
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if installed(name) is None and name in requirements():  # said once already, under packages
            findings.append(absent(topic, f"not looked at: {name} is not installed"))
        else:
            findings.append(wrong(topic, f"needs {error.name}, which is not there", cure or SET_UP, bool(cure)))
    except Exception as error:
        says = f"{type(error).__name__}: {first_line(error)}"
        findings.append(wrong(topic, says, cure or "the lessons may still run", fatal=bool(cure)))
    return findings


def check_network(attempts: list) -> Finding:
    if attempts:
        return wrong("network", f"something tried to reach {attempts[0]}", "please report it: the course works offline")
    return fine("network", "not needed; nothing here tried to reach it")


def diagnose() -> list[Finding]:
    """Every finding, in the order of CHECKS; what the packages print on import is kept away."""
    silent = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silent), contextlib.redirect_stderr(silent):
        warnings.simplefilter("ignore")
        try:
            from helpers.measure.sockets import watch_sockets as watch
        except ImportError:
            watch = contextlib.nullcontext
        with watch() as seen:
            findings = [finding for topic, (check, cure) in CHECKS.items() for finding in examine(topic, check, cure)]
    return [*findings, check_network(list(getattr(seen, "attempts", [])))]


# ---------------------------------------------------------------- the report


def size(number_of_bytes: float) -> str:
    return f"{number_of_bytes / 1e9:.1f} GB"


def first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0][:200]


def can_run(findings: list[Finding]) -> bool:
    return not any(finding.fatal and finding.outcome == "wrong" for finding in findings)


def report(findings: list[Finding], encoding: str = "utf-8") -> str:
    """Aligned lines, the advice below each ``✗``, one verdict; in ASCII where the encoding knows no check mark."""
    marks = {"fine": "✓", "wrong": "✗", "absent": "○"}
    try:
        "".join(marks.values()).encode(encoding)
    except UnicodeEncodeError:
        marks = {"fine": "ok", "wrong": "NO", "absent": "--"}
    indent, width = len(marks["fine"]) + 1, max(len(finding.topic) for finding in findings) + 2
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.outcome]} {finding.topic:{width}}{finding.says}")
        if finding.advice:
            lines.append(" " * (indent + width) + f"-> {finding.advice}")
    failures = sum(finding.outcome == "wrong" for finding in findings)
    todo = f"; {failures} {'thing' if failures == 1 else 'things'} to look at above" if failures else ""
    verdict = f"The course runs here{todo}." if can_run(findings) else f"The course cannot run here yet{todo}."
    return "\n".join([*lines, "", verdict]).encode(encoding, errors="replace").decode(encoding)


def main(argv: list[str] | None = None) -> int:
    """``python3 -m course doctor [--json]``: print the report; 0 when the course can run, else 1."""
    parser = argparse.ArgumentParser("python3 -m course doctor", description="What this machine can do for the course.")
    parser.add_argument("--json", action="store_true", help="the same findings, for programs")
    arguments = parser.parse_args(argv)
    if sys.stderr.isatty():
        print("Looking at this machine; importing every package takes some seconds ...", file=sys.stderr)
    findings = diagnose()
    if arguments.json:
        print(
            json.dumps({"can_run": can_run(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)
        )
    else:
        print(report(findings, sys.stdout.encoding or "ascii"))
    return 0 if can_run(findings) else 1


if __name__ == "__main__":
    sys.exit(main())
