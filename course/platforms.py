"""Which systems and Pythons torch has a build for, so that set-up can say no before pip starts.

``course/pins/torch-wheels.txt`` lists the builds, as in the names of the wheels. The standard library only, and
readable by old Pythons.
"""

import platform
import re
import sys
import sysconfig


def unsupported(wheels, here=None, python=None):
    """Why torch cannot be installed, in one line that names what it is built for; None where it can be.

    ``wheels``: the list of builds. ``here`` and ``python``: a system and a Python, as in a wheel's name; None: these.
    """
    here, python = here or this_system(), python or this_python()
    name, builds = read(wheels)
    if not any(runs_on(here, system) for _, system in builds):
        known = "; ".join(sorted({in_words(system, " or newer") for _, system in builds}))
        return (
            f"{name} cannot be installed on {in_words(here)}. It is built for: {known}. "
            "binder/ makes an image that runs on a hub"
        )
    if not any(abi == python for abi, _ in builds):
        newest = max((abi for abi, _ in builds if abi.isalnum() and abi[2:].isdigit()), key=lambda abi: int(abi[3:]))
        return (
            f"{name} cannot be installed in this Python ({python}). It is built for CPython 3.11 to "
            f"3.{newest[3:]}: start the course with one of those, as in `python3.{newest[3:]} -m course`"
        )
    return None


def read(wheels):
    """("torch 2.13.0", {("cp311", "manylinux_2_28_x86_64"), ...})."""
    lines = wheels.read_text(encoding="utf-8").splitlines()
    name, *builds = [line for line in lines if not line.startswith("#")]
    return name, {tuple(line.split()) for line in builds}


def this_python():
    """As in a wheel's name: "cp311", "cp314t" without the global lock, "pypy311"."""
    letters = {"cpython": "cp"}.get(sys.implementation.name, sys.implementation.name)
    threads = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return f"{letters}{sys.version_info[0]}{sys.version_info[1]}{threads}"


def this_system():
    """As at the end of a wheel's name: "manylinux_2_36_x86_64", "macosx_15_0_arm64", "win_amd64"."""
    if sys.platform == "darwin":
        major = (platform.mac_ver()[0] or "0").split(".")[0]
        return f"macosx_{major}_0_{platform.machine()}"
    if sys.platform.startswith("linux"):
        library, version = platform.libc_ver()
        kind = f"manylinux_{version.replace('.', '_')}" if library == "glibc" else "musllinux"
        return f"{kind}_{platform.machine()}"
    return re.sub(r"[-.]", "_", sysconfig.get_platform())


def parts(system):
    """("manylinux", (2, 28), "x86_64"): the kind, the oldest version that it runs on, the processor."""
    kind, major, minor, machine = re.fullmatch(r"([a-z]+)(?:_(\d+)_(\d+))?_?(\w*)", system).groups()
    return kind, (int(major or 0), int(minor or 0)), machine


def runs_on(here, build):
    """Does a wheel built for ``build`` run here?"""
    kind, version, machine = parts(here)
    wanted, oldest, processor = parts(build)
    return (kind, machine) == (wanted, processor) and version >= oldest


def in_words(system, newer=""):
    """For a person; ``newer`` stands behind a version."""
    kind, (major, minor), machine = parts(system)
    if kind == "macosx":
        return f"macOS {major}{newer} on {'Apple silicon' if machine == 'arm64' else 'an Intel processor'}"
    if kind == "manylinux":
        return f"Linux on {machine} with glibc {major}.{minor}{newer}"
    if kind == "musllinux":
        return f"Linux on {machine} without glibc, such as Alpine"
    windows = {"amd64": "Windows on x86-64", "arm64": "Windows on ARM", "32": "32-bit Windows"}
    return windows.get(machine, system) if kind == "win" else system
