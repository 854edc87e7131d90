"""Set up what is missing, with the standard library only: a ``.venv`` beside the code, then the course in it.

Where the dependencies are there already (conda, Binder, a hub) nothing is made. An interrupted set-up leaves no stamp,
and the next call carries on with what pip has installed and cached. Kept readable by old Pythons, so that they
can at least say what is wrong.
"""

import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
VENV = REPOSITORY / ".venv"
STAMP = VENV / "efficient-engines.stamp"
OLDEST = (3, 11)
# torch's CPU build, triton, transformers and JupyterLab take 2.9 GB installed, pip's downloads as much again at worst
ROOM_BYTES = 5e9
NO_NETWORK = ("ConnectionError", "Temporary failure", "timed out", "getaddrinfo", "from versions: none")  # pip's words
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do, in one line."""


def ensure(test=False):
    """Return the Python that has everything: this one, or the one of ``.venv``, made or completed as needed."""
    if sys.version_info < OLDEST:
        raise SetupError(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}")
    if not missing(test=False):
        return complete_here(test)
    python = venv_python()
    if stamp_is_current(test) and python.exists():
        return str(python)
    set_up(python, test)
    return str(python)


def complete_here(test):
    """The running Python has the dependencies (conda, Binder, a hub): add what little is missing, no ``.venv``."""
    if missing(test) or not installed_here():
        say("The dependencies are here already; adding the course itself to this environment")
        install(Path(sys.executable), test)
    return sys.executable


def requirements(test):
    """The requirement strings of pyproject.toml, with those of the tests and of the site when asked."""
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines] if test else []
    return project["dependencies"] + [line for line in extras if not line.startswith(project["name"])]


def missing(test):
    """The requirements that the running Python does not meet; all of them when it cannot even tell."""
    from importlib.metadata import PackageNotFoundError, version

    wanted = requirements(test)
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return wanted
    unmet = []
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            continue  # for another system than this one
        try:
            if not requirement.specifier.contains(version(requirement.name), prereleases=True):
                unmet.append(text)
        except PackageNotFoundError:
            unmet.append(text)
    return unmet


def installed_here():
    """Whether ``import helpers`` works from any folder in the running Python (an editable install, or a wheel)."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("efficient-engines")
    except PackageNotFoundError:
        return False
    return importlib.util.find_spec("helpers") is not None


def venv_python():
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(test):
    """Changes when the requirements, the Python or the folder change."""
    text = "\n".join([*requirements(test), sys.version, str(REPOSITORY)])
    return hashlib.sha256(text.encode()).hexdigest()


def stamp_is_current(test):
    """A stamp for the tests serves a plain start too."""
    if not STAMP.exists():
        return False
    found = STAMP.read_text(encoding="utf-8").strip()
    return found == fingerprint(True) or (not test and found == fingerprint(False))


def set_up(python, test):
    """Make ``.venv`` and install into it; every failure is a SetupError of one line, and the next call carries on."""
    say("Setting up in .venv (once; a few minutes, mostly torch)")
    check_room()
    STAMP.unlink(missing_ok=True)
    if not python.exists() or not works(python, "import pip"):
        make_venv()
    install(python, test)
    STAMP.write_text(fingerprint(test), encoding="utf-8")
    say("Set-up is complete.")


def check_room():
    free = shutil.disk_usage(str(REPOSITORY)).free
    if free < ROOM_BYTES and not VENV.exists():
        raise SetupError(f"set-up needs about {ROOM_BYTES / 1e9:.0f} GB of disk, and {free / 1e9:.1f} GB are free")
    if not os.access(str(REPOSITORY), os.W_OK):
        raise SetupError(f"{REPOSITORY} cannot be written: clone the course into a folder of your own")


def make_venv():
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "this Python cannot make a virtual environment: install its venv package (Debian and Ubuntu: "
            "apt install python3-venv), then run the same command again"
        )
    say("  making the environment")
    result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], capture_output=True, text=True)
    if result.returncode:
        raise SetupError(f"python -m venv failed: {last_line(result.stdout + result.stderr)}")


def install(python, test):
    """pip, its long log reduced to one line a package; the whole log is kept in build/setup.log."""
    target = ".[test]" if test else "."
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--progress-bar",
        "off",
        "--disable-pip-version-check",
        "-e",
        target,
    ]
    if wants_cpu_wheels():
        command += ["--extra-index-url", CPU_WHEELS]
    status, lines = follow(command, REPOSITORY / "build" / "setup.log")
    if status:
        raise SetupError(f"pip could not install: {pip_error(lines)} (whole log: build/setup.log); {advice(lines)}")


def follow(command, log):
    """Run a command; keep its output in ``log`` and show what matters of it. Returns its status and lines."""
    log.parent.mkdir(exist_ok=True)
    lines = []
    with log.open("w", encoding="utf-8") as kept, started(command) as process:
        try:
            for line in process.stdout:
                kept.write(line)
                lines.append(line.strip())
                report(line)
        except KeyboardInterrupt:
            process.kill()
            raise SetupError("set-up was interrupted; the same command carries on where it stopped") from None
    return process.returncode, lines


def started(command):
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
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
    try:
        socket.getaddrinfo("download.pytorch.org", 443)
    except OSError:
        return False
    return True


def pip_error(lines):
    errors = [line for line in lines if line.startswith("ERROR:")]
    return errors[0][len("ERROR:") :].strip() if errors else (lines[-1] if lines else "it said nothing")


def advice(lines):
    text = " ".join(lines)
    if "No space left" in text:
        return "free some disk space and run the same command again"
    if any(sign in text for sign in NO_NETWORK):
        return "there seems to be no network; once there is, the same command carries on"
    return "run the same command again once that is mended"


def works(python, code):
    return subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def last_line(text):
    return (text.strip().splitlines() or ["it said nothing"])[-1]


def say(text):
    print(text, flush=True)
