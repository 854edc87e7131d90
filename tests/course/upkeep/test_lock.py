"""The pins fit pyproject.toml and name every package once, for every system and Python; no server is named."""

import json
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version

import pytest
from packaging.requirements import Requirement

from course.pip_install import PINS, REPOSITORY, plain
from course.upkeep import lock

SYSTEMS = [
    {"sys_platform": system, "platform_system": name, "os_name": kind, "platform_machine": machine}
    for system, name, kind, machine in (
        ("linux", "Linux", "posix", "x86_64"),
        ("linux", "Linux", "posix", "aarch64"),
        ("darwin", "Darwin", "posix", "arm64"),
        ("win32", "Windows", "nt", "AMD64"),
    )
]
MACHINES = [
    {**system, "python_version": f"3.{minor}", "python_full_version": f"3.{minor}.6"}
    for system in SYSTEMS
    for minor in (11, 12, 13, 14)
]


def _lines(name: str) -> list[str]:
    text = (PINS / name).read_text(encoding="utf-8").replace("\\\n", "")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _pins(machine: dict) -> dict[str, str]:
    """Package to version, of those that are for this machine."""
    asked = [Requirement(line) for line in _lines(lock.CONSTRAINTS)]
    found = [(plain(pin.name), str(pin.specifier)) for pin in asked if not pin.marker or pin.marker.evaluate(machine)]
    assert len(dict(found)) == len(found)  # one version of each
    return {name: specifier.removeprefix("==") for name, specifier in found}


def _asked() -> list[Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return [Requirement(line) for line in project["dependencies"] + extras if not line.startswith(project["name"])]


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m['sys_platform']}-{m['python_version']}")
def test_every_dependency_is_pinned_within_its_bounds_on_every_system_and_python(machine):
    pins = _pins(machine)
    for asked in _asked():
        if not asked.marker or asked.marker.evaluate(machine):
            assert asked.specifier.contains(pins[plain(asked.name)]), asked


def test_what_the_pinned_packages_need_is_pinned_too():
    """As the installed ones tell it. Those that are not here are for another system; another version needs others."""
    pins = _pins({})
    for name, pinned in pins.items():
        try:
            needs = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:
            continue
        if version(name).partition("+")[0] != pinned:
            continue
        for need in needs:
            if not need.marker or need.marker.evaluate({"extra": ""}):
                assert plain(need.name) in pins, f"{name} needs {need}"


def test_torch_has_the_recorded_builds_of_the_pinned_version():
    name, *builds = _lines(lock.WHEELS)
    assert name == f"torch {_pins({})['torch']}"
    assert len(builds) > 10
    assert all(re.fullmatch(r"cp3\d+t? \w+", build) for build in builds)


def test_the_hashed_list_is_what_a_lesson_needs_less_torch_at_the_pinned_versions():
    entries = {Requirement(line.split("--hash")[0].strip()): line for line in _lines(lock.HASHES)}
    assert all("--hash=sha256:" in line for line in entries.values())
    names = {plain(entry.name) for entry in entries}
    pins = {str(Requirement(line)) for line in _lines(lock.CONSTRAINTS)}
    assert {str(entry) for entry in entries} <= pins
    assert {"transformers", "jupyterlab", "plotly", "babel"} <= names
    assert not {"torch", "pytest", "sphinx", "cuda-bindings"} & names


def test_the_bill_of_materials_lists_every_pin_with_a_hash():
    bill = json.loads((PINS / lock.SBOM).read_text(encoding="utf-8"))
    listed = {(component["name"], component["version"]) for component in bill["components"]}
    pinned = {(plain(pin.name), str(pin.specifier)[2:]) for pin in map(Requirement, _lines(lock.CONSTRAINTS))}
    assert bill["bomFormat"] == "CycloneDX"
    assert pinned <= listed
    assert all(
        component["hashes"] for component in bill["components"] if (component["name"], component["version"]) in pinned
    )


@pytest.mark.parametrize("name", [lock.CONSTRAINTS, lock.HASHES, lock.SBOM, lock.WHEELS])
def test_no_server_is_named(name):
    assert "://" not in (PINS / name).read_text(encoding="utf-8")


def test_versions_without_bounds_keep_the_packages_and_drop_what_limits_them():
    lines = ['"torch==2.13.0",  # x', "\"triton>=3.7; sys_platform == 'linux'\",", '"a[b]>=1,<2",']
    free = lock.unbounded("dependencies = [\n" + "".join(f"    {line}\n" for line in lines) + "]")
    assert '"torch",' in free
    assert "\"triton; sys_platform == 'linux'\"," in free
    assert '"a[b]",' in free


def test_the_cuda_libraries_are_left_out_of_other_versions_and_torch_is_not():
    text = "cuda-bindings==1\nnvidia-cublas==2 ; sys_platform == 'linux'\ntorch==2.13.0\ntriton==3.7.1\n"
    assert lock.without_torch_libraries(text) == "torch==2.13.0\ntriton==3.7.1\n"


def test_the_locked_versions_are_the_pins_themselves(capsys):
    assert lock.main(["--versions", "locked"]) == 0
    assert capsys.readouterr().out == (PINS / lock.CONSTRAINTS).read_text(encoding="utf-8")


def test_without_uv_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(lock.shutil, "which", lambda *_, **__: None)
    assert lock.main([]) == 1
    assert "pip install uv" in capsys.readouterr().err


def test_what_uv_complains_of_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(lock, "uv", lambda: sys.executable)  # which knows no word "lock"
    assert lock.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("course: uv lock failed: ")
    assert said.count("\n") == 1


def test_a_check_writes_nothing_and_fails_where_the_pins_are_stale(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock, "PINS", tmp_path)
    monkeypatch.setattr(lock, "pins", lambda date: {lock.CONSTRAINTS: f"# published up to {date}\na==1\n"})
    assert lock.main(["--check"]) == 1
    assert not list(tmp_path.iterdir())
    assert lock.main([]) == 0
    assert lock.main(["--check"]) == 0  # resolved as of the recorded date, so that nothing moves by itself
    assert lock.recorded_date() == lock.newest_date()
    assert "as they should be" in capsys.readouterr().out


def test_the_newest_date_is_a_week_ago():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00Z", lock.newest_date())
    assert lock.COOLDOWN.days == 7


def test_uv_itself_is_pinned():
    assert "uv" in _pins({})


def test_babel_is_held_at_the_version_that_the_zoo_was_recorded_with():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    held = Requirement(project["tool"]["uv"]["constraint-dependencies"][0])
    assert (held.name, str(held.specifier)) == ("babel", f"=={_pins({})['babel']}")


@pytest.mark.parametrize("name", ["torch", "transformers", "babel", "pytest"])
def test_this_environment_has_the_pinned_version(name):
    if not (REPOSITORY / ".venv").exists() or not sys.prefix.startswith(str(REPOSITORY)):
        pytest.skip("an environment of one's own keeps its own versions")
    found, pinned = version(name).partition("+")[0], _pins({})[name]
    if found != pinned:
        pytest.skip(f"{name} {found} was put over the pinned {pinned}")
