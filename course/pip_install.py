"""What pip is told and what it says: the pins it keeps to, the index it asks for torch, its log made short.

The standard library only, and readable by old Pythons.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PINS = REPOSITORY / "course" / "pins"
NO_NETWORK = ("ConnectionError", "ConnectTimeout", "Temporary failure", "timed out", "getaddrinfo")  # pip's words
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do, in one line."""


def install(python, what, pins):
    """``pip install *what``, held to the versions in the file ``pins``; its whole log is added to build/setup.log."""
    quiet = ["--progress-bar", "off", "--disable-pip-version-check"]
    log = REPOSITORY / "build" / "setup.log"
    status, lines = follow([str(python), "-m", "pip", "install", *quiet, *what], log, held_to(pins))
    if status:
        raise SetupError(f"pip could not install: {pip_error(lines)} (whole log: build/setup.log); {advice(lines)}")


def in_build(name, text=""):
    """A new file in build/. Raises SetupError where there can be none."""
    file = REPOSITORY / "build" / name
    try:
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SetupError(
            f"{file} cannot be written ({error.strerror}): clone the course into a folder of your own"
        ) from None
    return file


def held_to(pins):
    """The variables that make pip keep to ``pins``, for the tools that build a package too.

    Paths are relative to REPOSITORY, where pip runs: pip splits these variables at spaces. The first is read by every
    pip, the second by those from 25.3 on, which no longer apply the first to builds.
    """
    path = os.path.relpath(str(pins), str(REPOSITORY))
    theirs = os.environ.get("PIP_CONSTRAINT", "")
    return {"PIP_CONSTRAINT": f"{theirs} {path}".strip(), "PIP_BUILD_CONSTRAINT": path}


def pins_of_what_is_missing():
    """The pins less those of packages that are installed: somebody's own environment keeps its versions."""
    from importlib.metadata import distributions

    here = {plain(found.metadata["Name"]) for found in distributions() if found.metadata["Name"]}
    lines = (PINS / "constraints.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if plain(re.split("[=<>! ;]", line)[0]) not in here]
    return in_build("constraints.txt", "\n".join(kept) + "\n")


def plain(name):
    """A package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def follow(command, log, variables):
    """Run a command; keep its output in ``log`` and show what matters of it. Returns its status and lines."""
    lines = []
    with log.open("a", encoding="utf-8") as kept, started(command, variables) as process:
        try:
            for line in process.stdout:
                kept.write(line)
                lines.append(line.strip())
                report(line)
        except KeyboardInterrupt:
            process.kill()
            raise SetupError("set-up was interrupted; the same command carries on where it stopped") from None
    return process.returncode, lines


def started(command, variables):
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "env": {**os.environ, **variables}}
    return subprocess.Popen(command, cwd=str(REPOSITORY), text=True, encoding="utf-8", errors="replace", **pipe)


def report(line):
    """Show what a person wants to see of pip's line."""
    words = line.split()
    if words[:1] == ["Downloading"] and len(words) > 2:
        say(f"  fetching {words[1].split('/')[-1].split('-')[0]} {' '.join(words[2:4])}")
    elif words[:1] == ["Installing"] and "collected" in words:
        say(f"  installing {line.count(',') + 1} packages")


def wants_cpu_wheels():
    """On Linux without an NVIDIA GPU the plain torch wheel brings gigabytes of CUDA; ask PyTorch's CPU index too."""
    if not sys.platform.startswith("linux") or Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi"):
        return False
    if has_proxy():
        return True  # it is the proxy that knows the names
    try:
        socket.getaddrinfo("download.pytorch.org", 443)
    except OSError:
        return False
    return True


def has_proxy():
    """Whether pip goes through a proxy: from the environment, the system's settings or pip's own configuration."""
    if {"https", "all"} & set(urllib.request.getproxies()):
        return True
    told = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True)
    return bool(re.search(r"(?m)^\S*\.proxy=", told.stdout))


def pip_error(lines):
    errors = [line for line in lines if line.startswith("ERROR:")]
    return errors[0][len("ERROR:") :].strip() if errors else (lines[-1] if lines else "it said nothing")


def advice(lines):
    text = " ".join(lines)
    if "No space left" in text:
        return "free some disk space and run the same command again"
    if any(sign in text for sign in NO_NETWORK):
        return "there seems to be no network; once there is, the same command carries on"
    if "No matching distribution" in text:
        return (
            "the package index that pip asks has no such version for this Python and system: "
            "`pip config list` names the index; a mirror may lag behind the public one"
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return "make the folder yours, or clone the course into a folder of your own"
    return "run the same command again once that is mended"


def say(text):
    print(text, flush=True)
