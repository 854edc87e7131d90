"""The pins: one exact version of every package, made from pyproject.toml by uv's resolver for all systems at once.

``course/pins`` holds what comes of it. Set-up, Binder, the devcontainer and CI install from there, so that a learner
gets the same environment on every day. A resolution looks at what had been published up to a date and no later: the
same pyproject gives the same pins, and a change of one line moves that line only. ``--upgrade`` moves the date.
"""

import argparse
import datetime
import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from course.pip_install import PINS, REPOSITORY

CONSTRAINTS, HASHES, SBOM, WHEELS = "constraints.txt", "hashes.txt", "sbom.cdx.json", "torch-wheels.txt"
COOLDOWN = datetime.timedelta(days=7)  # what is withdrawn within days of its release never reaches a learner
HEAD = """# {what}
# Made by `python3 -m course lock` from pyproject.toml; renewed by `python3 -m course lock --upgrade`.
# Packages as published up to {date}
"""
# torch has two builds of one version: with CUDA on PyPI, without on PyTorch's own index, where its hash differs
BUILDS_OF_TORCH = re.compile(r"^(torch|nvidia-[\w-]+|cuda-[\w-]+)==")
RESOLUTIONS = ("locked", "lowest-direct", "highest", "unbounded")


class LockError(Exception):
    """No pins could be made; the message says why, in one line."""


# ---------------------------------------------------------------- uv, asked in a folder of its own


def uv() -> str:
    found = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if found is None:
        raise LockError("uv makes the pins and is not here: `pip install uv`, then the same command again")
    return found


def ask(folder: Path, *words: str) -> str:
    """What uv prints. Raises LockError with the last line of its complaint."""
    answer = subprocess.run([uv(), *words], cwd=folder, capture_output=True, text=True, encoding="utf-8")
    if answer.returncode:
        lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        raise LockError(f"uv {words[0]} failed: {' '.join(lines[-3:]) or 'it said nothing'}")
    return answer.stdout


def resolve(folder: Path, date: str, resolution: str = "highest", project: str | None = None) -> None:
    """Put a pyproject.toml and the uv.lock of it into ``folder``; the latter names servers and is not committed."""
    text = project or (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    ask(folder, "lock", "--quiet", "--exclude-newer", date, "--resolution", resolution)


def export(folder: Path, *words: str) -> str:
    return ask(folder, "export", "--quiet", "--frozen", "--no-header", "--no-emit-project", *words)


# ---------------------------------------------------------------- the files of course/pins


def pins(date: str) -> dict[str, str]:
    """File name to content, as resolved up to ``date``."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        resolve(folder, date)
        listed = ("--no-annotate", "--format", "requirements.txt")
        every = export(folder, *listed, "--all-extras", "--no-hashes")
        hashed = export(folder, *listed)
        bill = export(folder, "--all-extras", "--format", "cyclonedx1.5")
        lock = tomllib.loads((folder / "uv.lock").read_text(encoding="utf-8"))
    return {
        CONSTRAINTS: head("One version of every package, for `pip install --constraint`", date) + every,
        HASHES: head("What a lesson needs, but for torch, for `pip install --no-deps --require-hashes`", date)
        + without_torch(hashed),
        SBOM: bill_of_materials(bill),
        WHEELS: head("The builds of torch on PyPI: set-up says no on other systems", date) + torch_wheels(lock),
    }


def head(what: str, date: str) -> str:
    return HEAD.format(what=what, date=date)


def without_torch(hashed: str) -> str:
    """The hashed list less torch and the CUDA libraries that only its build on PyPI wants."""
    entries = re.split(r"(?m)^(?=\S)", hashed)  # a requirement and the indented hashes below it
    return "".join(entry for entry in entries if not BUILDS_OF_TORCH.match(entry))


def bill_of_materials(text: str) -> str:
    """CycloneDX: name, version, package URL, hashes and dependencies; nothing that differs from run to run."""
    bill = json.loads(text)
    bill.pop("serialNumber", None)
    bill["metadata"].pop("timestamp", None)
    for component in bill["components"]:
        component["hashes"] = [
            entry for reference in component.pop("externalReferences", []) for entry in reference.get("hashes", [])
        ]
    return json.dumps(bill, indent=1) + "\n"


def torch_wheels(lock: dict) -> str:
    """A line for each wheel of torch, such as ``cp311 manylinux_2_28_x86_64``."""
    torch = next(package for package in lock["package"] if package["name"] == "torch")
    names = [(wheel.get("url") or wheel["filename"]).rsplit("/", 1)[-1] for wheel in torch["wheels"]]
    stems = [name.removesuffix(".whl").split("-") for name in names]
    return f"torch {torch['version']}\n" + "".join(sorted(f"{abi} {system}\n" for *_, abi, system in stems))


def recorded_date() -> str:
    """The date of the pins that are there; today's less the cooldown where there are none."""
    file = PINS / CONSTRAINTS
    found = re.search(r"published up to (\S+)", file.read_text(encoding="utf-8")) if file.exists() else None
    return found[1] if found else newest_date()


def newest_date() -> str:
    day = datetime.datetime.now(datetime.UTC).date() - COOLDOWN
    return f"{day.isoformat()}T00:00:00Z"


def stale(made: dict[str, str]) -> list[str]:
    """The files that are not what pyproject.toml gives."""
    return [
        name
        for name, text in made.items()
        if not (PINS / name).exists() or (PINS / name).read_text(encoding="utf-8") != text
    ]


# ---------------------------------------------------------------- other versions, for the nightly runs


def versions(resolution: str, python: str) -> str:
    """Every package at another version: what one job of the nightly run puts over the pins.

    ``lowest-direct``: the lower bounds of pyproject.toml. ``highest``: the newest within its bounds, today.
    ``unbounded``: the newest there are. The CUDA libraries of torch are left out.
    """
    if resolution == "locked":
        return (PINS / CONSTRAINTS).read_text(encoding="utf-8")
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8").partition("[tool.uv]")[0]
    if resolution == "unbounded":
        text = unbounded(text)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "pyproject.toml").write_text(text, encoding="utf-8")
        rule = "lowest-direct" if resolution == "lowest-direct" else "highest"
        words = ("--no-header", "--no-annotate", "--all-extras", "--python-version", python, "--resolution", rule)
        return without_torch_libraries(ask(folder, "pip", "compile", "--quiet", "pyproject.toml", *words))


def without_torch_libraries(text: str) -> str:
    kept = [line for line in text.splitlines() if line.startswith("torch==") or not BUILDS_OF_TORCH.match(line)]
    return "\n".join(kept) + "\n"


def unbounded(project: str) -> str:
    """pyproject.toml with the bounds of its dependencies taken away; its own extras stay."""
    return re.sub(r'(?m)^(    "[A-Za-z][\w.-]*(?:\[[^\]]*\])?)[=<>!][^";]*', r"\1", project)


# ---------------------------------------------------------------- the command


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m course lock", description="Pin every package, from pyproject.toml into course/pins."
    )
    parser.add_argument("--upgrade", action="store_true", help=f"take what was newest {COOLDOWN.days} days ago")
    parser.add_argument("--check", action="store_true", help="write nothing; say whether the pins fit pyproject.toml")
    parser.add_argument("--versions", choices=RESOLUTIONS, help="print another set of versions instead")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    parser.add_argument("--python", default=python, help=f"with --versions: for this Python (default {python})")
    options = parser.parse_args(argv)
    try:
        if options.versions:
            print(versions(options.versions, options.python), end="")
            return 0
        return renew(newest_date() if options.upgrade else recorded_date(), options.check)
    except (LockError, OSError) as error:
        print(f"course: {error}", file=sys.stderr)
        return 1


def renew(date: str, check: bool) -> int:
    made = pins(date)
    changed = stale(made)
    if not check:
        PINS.mkdir(exist_ok=True)
        for name in changed:
            (PINS / name).write_text(made[name], encoding="utf-8", newline="\n")
    verb = "would change" if check else "changed"
    print(
        f"course/pins, packages up to {date}: " + (f"{verb} {', '.join(changed)}" if changed else "as they should be")
    )
    return 1 if check and changed else 0
