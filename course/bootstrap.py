"""Set up what is missing, with the standard library only: a ``.venv`` beside the code, then the course in it.

Every package is installed at the version that ``course/pins`` names. Where the dependencies are there already (conda,
Binder, a hub) nothing is made, and what is installed keeps its version. A ``.venv`` that somebody else made is not
touched: ours then lies in ``.venv-course``. An interrupted set-up leaves no stamp, and the next call carries on with
what pip has installed and cached. Kept readable by old Pythons, so that they can at least say what is wrong.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from course.pip_install import (
    CPU_WHEELS,
    PINS,
    REPOSITORY,
    SetupError,
    in_build,
    install,
    pins_of_what_is_missing,
    say,
    wants_cpu_wheels,
)
from course.platforms import unsupported

VENVS = (".venv", ".venv-course")  # the second where the first is somebody else's
MADE_HERE, STAMP = "efficient-engines.made", "efficient-engines.stamp"  # in the environment: begun, and complete
OLDEST = (3, 11)
# torch's CPU build, triton, transformers and JupyterLab take 2.9 GB installed, pip's downloads as much again at worst
ROOM_BYTES = 5e9


def ensure(test=False):
    """Return the Python that has everything: this one, or the one of our environment, made or completed as needed."""
    if sys.version_info < OLDEST:
        raise SetupError(f"Python {OLDEST[0]}.{OLDEST[1]} or newer is needed; this is {sys.version.split()[0]}")
    if not missing(test=False):
        return complete_here(test)
    venv = environment()
    if not stamp_is_current(venv, test) or not python_of(venv).exists():
        set_up(venv, test)
    return str(python_of(venv))


def complete_here(test):
    """The running Python has the dependencies (conda, Binder, a hub): add what little is missing, no ``.venv``."""
    if missing(test) or not installed_here():
        say("The dependencies are here already; adding the course itself to this environment")
        add(Path(sys.executable), test, pins_of_what_is_missing())
    return sys.executable


def environment():
    """The folder of our environment: ``.venv``, unless somebody else made one there."""
    first, second = (REPOSITORY / name for name in VENVS)
    return first if is_ours(first) or not os.path.lexists(str(first)) else second


def is_ours(venv):
    """Whether set-up made this environment; also one of before the mark, which has a stamp."""
    return (venv / MADE_HERE).exists() or (venv / STAMP).exists()


def requirements(test):
    """The requirement strings of pyproject.toml, with those of the tests and of the site when asked."""
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for name in ("test", "site") for line in project["optional-dependencies"][name]] if test else []
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


def python_of(venv):
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(test):
    """Changes when the requirements, the pins, the Python or the folder change."""
    pins = (PINS / "constraints.txt").read_text(encoding="utf-8")
    text = "\n".join([*requirements(test), pins, sys.version, str(REPOSITORY)])
    return hashlib.sha256(text.encode()).hexdigest()


def stamp_is_current(venv, test):
    """A stamp for the tests serves a plain start too."""
    if not (venv / STAMP).exists():
        return False
    found = (venv / STAMP).read_text(encoding="utf-8").strip()
    return found == fingerprint(True) or (not test and found == fingerprint(False))


def set_up(venv, test):
    """Make the environment and install into it; every failure is a SetupError of one line, the next call carries on."""
    refusal = unsupported(PINS / "torch-wheels.txt")
    if refusal:
        raise SetupError(refusal)
    check_room(venv)
    say(f"Setting up in {venv.name} (once; a few minutes, mostly torch)")
    if venv.name != VENVS[0]:
        say(f"  {VENVS[0]} was made by somebody else and stays as it is")
    if is_ours(venv):
        sign(venv)
    (venv / STAMP).unlink(missing_ok=True)
    if not python_of(venv).exists() or not works(python_of(venv), "import pip"):
        make_venv(venv)
    add(python_of(venv), test, PINS / "constraints.txt")
    (venv / STAMP).write_text(fingerprint(test), encoding="utf-8")
    say("Set-up is complete.")


def check_room(venv):
    free = shutil.disk_usage(str(REPOSITORY)).free
    if free < ROOM_BYTES and not venv.exists():
        raise SetupError(f"set-up needs about {ROOM_BYTES / 1e9:.0f} GB of disk, and {free / 1e9:.1f} GB are free")
    if not os.access(str(REPOSITORY), os.W_OK):
        raise SetupError(f"{REPOSITORY} cannot be written: clone the course into a folder of your own")
    if os.path.lexists(str(venv)) and not is_ours(venv):
        names = " and ".join(VENVS)
        raise SetupError(f"{names} were both made by somebody else: move one away, and the same command carries on")


def make_venv(venv):
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        raise SetupError(
            "this Python cannot make a virtual environment: install its venv package (Debian and Ubuntu: "
            "apt install python3-venv), then run the same command again"
        )
    say("  making the environment")
    try:
        result = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], capture_output=True, text=True)
    finally:
        sign(venv)
    if result.returncode:
        raise SetupError(f"python -m venv failed: {last_line(result.stdout + result.stderr)}")


def sign(venv):
    """Say that this environment is ours; one that was interrupted half-way too."""
    if venv.is_dir():
        (venv / MADE_HERE).write_text("made by python3 -m course, which may make it again\n", encoding="utf-8")


def add(python, test, pins):
    """Install the course and what it needs, held to the versions in the file ``pins``."""
    in_build("setup.log")
    if wants_cpu_wheels():  # torch alone, so that PyTorch's index is asked for nothing else
        torch = next(line for line in requirements(test=False) if re.match(r"torch\b", line))
        install(python, ["--no-deps", "--extra-index-url", CPU_WHEELS, torch], pins)
    install(python, ["-e", ".[test]" if test else "."], pins)


def works(python, code):
    return subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def last_line(text):
    return (text.strip().splitlines() or ["it said nothing"])[-1]
