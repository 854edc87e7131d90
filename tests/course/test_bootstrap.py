"""Set-up on a bare machine: what it decides, and the one clear line for everything that can go wrong."""

import ast
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from course import __main__ as start
from course import bootstrap, pip_install

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A clone of the course on a machine that has nothing installed."""
    (tmp_path / "pyproject.toml").write_text((bootstrap.REPOSITORY / "pyproject.toml").read_text())
    shutil.copytree(bootstrap.PINS, tmp_path / "course" / "pins")
    for module in (bootstrap, pip_install):
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
        monkeypatch.setattr(module, "PINS", tmp_path / "course" / "pins")
    monkeypatch.setattr(bootstrap, "missing", lambda test: ["torch==2.13.0"])
    monkeypatch.setattr(bootstrap, "wants_cpu_wheels", lambda: False)
    return tmp_path


def _pretend_pip(monkeypatch, script: str) -> list:
    """pip replaced by a small program; returns the commands and variables that it is given."""
    real, given = subprocess.Popen, []

    def popen(command, **options):
        given.append((command, options["env"]))
        return real([sys.executable, "-c", script], **options)

    monkeypatch.setattr(pip_install.subprocess, "Popen", popen)
    return given


def _pretend_venv(monkeypatch):
    def make(venv):
        python = bootstrap.python_of(venv)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        bootstrap.sign(venv)

    monkeypatch.setattr(bootstrap, "make_venv", make)
    monkeypatch.setattr(bootstrap, "works", lambda python, code: True)


def _stamps(bare) -> tuple[bool, bool]:
    return tuple(bootstrap.stamp_is_current(bare / ".venv", test) for test in (False, True))


@pytest.mark.skipif("COURSE_NIGHTLY" in os.environ, reason="nightly puts other versions in on purpose")
def test_this_environment_has_everything_and_is_used_as_it_is():
    assert bootstrap.missing(test=True) == []
    assert bootstrap.ensure(test=True) == sys.executable


def test_a_bare_machine_gets_a_venv_once(bare, monkeypatch, capsys):
    _pretend_venv(monkeypatch)
    _pretend_pip(monkeypatch, "print('Downloading torch-2.13.0-cp311.whl (190 MB)')")
    python = bootstrap.ensure()
    assert Path(python) == bootstrap.python_of(bare / ".venv")
    assert "fetching torch (190 MB)" in capsys.readouterr().out
    monkeypatch.setattr(bootstrap, "set_up", lambda *a: pytest.fail("set up twice"))
    assert bootstrap.ensure() == python
    assert capsys.readouterr().out == ""


def test_a_plain_set_up_lacks_the_test_tools_and_a_full_one_serves_both(bare, monkeypatch):
    _pretend_venv(monkeypatch)
    _pretend_pip(monkeypatch, "")
    bootstrap.ensure()
    assert _stamps(bare) == (True, False)
    bootstrap.ensure(test=True)
    assert _stamps(bare) == (True, True)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("pyproject.toml", "tqdm>=4.67", "tqdm>=4.68"), ("course/pins/constraints.txt", "==", "==1")],
)
def test_new_requirements_or_pins_set_up_again(bare, monkeypatch, file, old, new):
    _pretend_venv(monkeypatch)
    _pretend_pip(monkeypatch, "")
    bootstrap.ensure()
    (bare / file).write_text((bare / file).read_text().replace(old, new, 1))
    assert _stamps(bare) == (False, False)


def test_pip_keeps_to_the_pins_also_where_it_builds_a_package(bare, monkeypatch):
    _pretend_venv(monkeypatch)
    given = _pretend_pip(monkeypatch, "")
    bootstrap.ensure()
    ((_, variables),) = given
    assert variables["PIP_BUILD_CONSTRAINT"] == "course/pins/constraints.txt"
    assert variables["PIP_CONSTRAINT"].split()[-1] == "course/pins/constraints.txt"


def test_somebodys_own_constraint_is_kept(monkeypatch):
    monkeypatch.setenv("PIP_CONSTRAINT", "/etc/theirs.txt")
    held = pip_install.held_to(pip_install.PINS / "constraints.txt")
    assert held["PIP_CONSTRAINT"] == "/etc/theirs.txt course/pins/constraints.txt"


def test_torch_alone_is_asked_of_pytorchs_index(bare, monkeypatch):
    _pretend_venv(monkeypatch)
    monkeypatch.setattr(bootstrap, "wants_cpu_wheels", lambda: True)
    given = _pretend_pip(monkeypatch, "")
    bootstrap.ensure()
    first, second = (command for command, _ in given)
    assert first[-4:] == ["--no-deps", "--extra-index-url", pip_install.CPU_WHEELS, "torch==2.13.0"]
    assert pip_install.CPU_WHEELS not in second


@pytest.mark.parametrize("named", ["environment", "pip's configuration"])
def test_behind_a_proxy_names_need_not_resolve_here(tmp_path, monkeypatch, named):
    def no_names(*_, **__):
        raise OSError("Temporary failure in name resolution")

    monkeypatch.setattr(pip_install.socket, "getaddrinfo", no_names)
    monkeypatch.setattr(pip_install.shutil, "which", lambda name: None)
    monkeypatch.setattr(pip_install.sys, "platform", "linux")
    monkeypatch.setattr(pip_install.Path, "exists", lambda self: False)
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert not pip_install.wants_cpu_wheels()
    if named == "environment":
        monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    else:
        (tmp_path / "pip.conf").write_text("[global]\nproxy = http://proxy.example:3128\n")
        monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert pip_install.wants_cpu_wheels()


def test_a_venv_that_somebody_else_made_stays_as_it_is(bare, monkeypatch, capsys):
    _pretend_venv(monkeypatch)
    _pretend_pip(monkeypatch, "")
    theirs = bare / ".venv" / "pyvenv.cfg"
    theirs.parent.mkdir()
    theirs.write_text("uv = 0.9\n")
    for test in (False, True):
        assert Path(bootstrap.ensure(test)) == bootstrap.python_of(bare / ".venv-course")
    assert [path.name for path in (bare / ".venv").iterdir()] == ["pyvenv.cfg"]
    assert ".venv was made by somebody else and stays as it is" in capsys.readouterr().out


def test_where_both_names_are_taken_set_up_says_so_and_touches_neither(bare, monkeypatch):
    _pretend_pip(monkeypatch, "raise SystemExit('pip was called')")
    for name in bootstrap.VENVS:
        (bare / name).write_text("mine")
    with pytest.raises(bootstrap.SetupError, match="both made by somebody else: move one away"):
        bootstrap.ensure()
    assert [(bare / name).read_text() for name in bootstrap.VENVS] == ["mine", "mine"]


def test_our_own_venv_is_known_after_an_interruption_and_after_the_first_kind_of_stamp(bare, monkeypatch):
    _pretend_venv(monkeypatch)
    _pretend_pip(monkeypatch, "raise SystemExit(1)")
    (bare / ".venv").mkdir()
    (bare / ".venv" / bootstrap.STAMP).write_text("of an earlier version")
    for _ in range(2):
        with pytest.raises(bootstrap.SetupError):
            bootstrap.ensure()
    assert not (bare / ".venv-course").exists()


def test_a_real_environment_is_signed_even_where_making_it_fails(tmp_path, monkeypatch):
    def half_made(command, **_):
        (tmp_path / "made").mkdir()
        return subprocess.CompletedProcess(command, 1, "", "no ensurepip")

    monkeypatch.setattr(bootstrap.subprocess, "run", half_made)
    with pytest.raises(bootstrap.SetupError, match="no ensurepip"):
        bootstrap.make_venv(tmp_path / "made")
    assert bootstrap.is_ours(tmp_path / "made")


def test_pins_for_an_environment_of_ones_own_leave_out_what_is_installed(bare):
    lines = pip_install.pins_of_what_is_missing().read_text().splitlines()
    assert not any(line.startswith(("torch==", "babel==", "importlib-metadata==")) for line in lines)
    assert any(line.startswith("pywinpty==") for line in lines)  # a package of another system


def test_a_system_without_a_build_of_torch_is_named_before_pip_starts(bare, monkeypatch):
    given = _pretend_pip(monkeypatch, "")
    monkeypatch.setattr(bootstrap, "unsupported", lambda wheels: "torch 2.13.0 cannot be installed on an abacus")
    with pytest.raises(bootstrap.SetupError, match="on an abacus"):
        bootstrap.ensure()
    assert not given
    assert not (bare / ".venv").exists()


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "free some disk"),
        ("ERROR: NewConnectionError: Temporary failure in name resolution", "no network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "has no such version for this Python and system"),
        ("ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/x'", "folder yours"),
        ("ERROR: something new", "once that is mended"),
    ],
)
def test_a_failed_install_is_one_line_and_leaves_no_stamp(bare, monkeypatch, said, advice):
    _pretend_venv(monkeypatch)
    _pretend_pip(monkeypatch, f"import sys; print({said!r}); sys.exit(1)")
    with pytest.raises(bootstrap.SetupError) as refusal:
        bootstrap.ensure()
    message = str(refusal.value)
    assert said.removeprefix("ERROR: ") in message
    assert advice in message
    assert "\n" not in message
    assert said in (bare / "build" / "setup.log").read_text()
    assert not (bare / ".venv" / bootstrap.STAMP).exists()


def test_without_a_network_pips_no_matching_version_is_a_matter_of_the_network():
    lines = [
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/torch/",
        "ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)",
        "ERROR: No matching distribution found for torch==2.13.0",
    ]
    assert "no network" in pip_install.advice(lines)
    assert "no network" not in pip_install.advice(lines[1:])


def test_an_interrupted_install_leaves_no_stamp_and_says_how_to_go_on(bare, monkeypatch):
    _pretend_venv(monkeypatch)
    _pretend_pip(monkeypatch, "print('Collecting torch', flush=True); import time; time.sleep(60)")

    def interrupt(line):
        raise KeyboardInterrupt

    monkeypatch.setattr(pip_install, "report", interrupt)
    with pytest.raises(bootstrap.SetupError, match="carries on where it stopped"):
        bootstrap.ensure()
    assert not (bare / ".venv" / bootstrap.STAMP).exists()


def test_too_little_disk_is_said_before_anything_is_fetched(bare, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: Usage(0, 0, 1.5e9))
    with pytest.raises(bootstrap.SetupError, match=r"needs about 5 GB of disk, and 1\.5 GB are free"):
        bootstrap.ensure()


def test_a_python_without_venv_is_told_what_to_install(bare, monkeypatch):
    real = bootstrap.importlib.util.find_spec
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda n, *a: None if n == "ensurepip" else real(n, *a))
    with pytest.raises(bootstrap.SetupError, match="apt install python3-venv"):
        bootstrap.ensure()


def test_an_old_python_is_told_so(monkeypatch):
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 2))
    with pytest.raises(bootstrap.SetupError, match=r"Python 3\.11 or newer is needed"):
        bootstrap.ensure()


def test_an_environment_with_the_dependencies_gets_no_venv(bare, monkeypatch):
    done = []
    monkeypatch.setattr(bootstrap, "missing", lambda test: [])
    monkeypatch.setattr(bootstrap, "installed_here", lambda: False)
    monkeypatch.setattr(bootstrap, "install", lambda python, what, pins: done.append((str(python), what)))
    assert bootstrap.ensure(test=True) == sys.executable
    assert done == [(sys.executable, ["-e", ".[test]"])]
    assert not (bare / ".venv").exists()


def test_what_goes_wrong_in_set_up_is_one_line_on_stderr_and_status_1(monkeypatch, capsys):
    def fail(test):
        raise bootstrap.SetupError("no disk")

    monkeypatch.setattr(bootstrap, "ensure", fail)
    assert start.main(["run"]) == 1
    assert capsys.readouterr().err == "course: no disk\n"


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py", "bootstrap.py", "pip_install.py", "platforms.py"])
def test_the_files_that_run_first_can_be_read_by_an_old_python(name):
    ast.parse((Path(bootstrap.__file__).parent / name).read_text(), feature_version=(3, 7))


def test_an_unknown_command_names_those_there_are():
    result = subprocess.run([sys.executable, "-m", "course", "dance"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "no command 'dance'; there are lab, test, doctor" in result.stderr


def test_help_lists_every_command():
    from course.cli import COMMANDS

    result = subprocess.run([sys.executable, "-m", "course", "--help"], capture_output=True, text=True)
    assert result.returncode == 0
    assert all(name in result.stdout for name in set(COMMANDS) - {"lab"})
