"""Set-up on a bare machine: what it decides, and the one clear line for everything that can go wrong."""

import ast
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from course import __main__ as start
from course import bootstrap

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A clone of the course on a machine that has nothing installed."""
    (tmp_path / "pyproject.toml").write_text((bootstrap.REPOSITORY / "pyproject.toml").read_text())
    monkeypatch.setattr(bootstrap, "REPOSITORY", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv" / "stamp")
    monkeypatch.setattr(bootstrap, "missing", lambda test: ["torch==2.13.0"])
    monkeypatch.setattr(bootstrap, "wants_cpu_wheels", lambda: False)
    return tmp_path


def _pretend_pip(monkeypatch, script: str):
    """pip replaced by a small program."""
    real = subprocess.Popen
    monkeypatch.setattr(bootstrap.subprocess, "Popen", lambda command, **k: real([sys.executable, "-c", script], **k))


def _pretend_venv(bare, monkeypatch):
    def make():
        python = bootstrap.venv_python()
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(bootstrap, "make_venv", make)
    monkeypatch.setattr(bootstrap, "works", lambda python, code: True)


@pytest.mark.skipif("COURSE_NIGHTLY" in os.environ, reason="nightly puts other versions in on purpose")
def test_this_environment_has_everything_and_is_used_as_it_is():
    assert bootstrap.missing(test=True) == []
    assert bootstrap.ensure(test=True) == sys.executable


def test_a_bare_machine_gets_a_venv_once(bare, monkeypatch, capsys):
    _pretend_venv(bare, monkeypatch)
    _pretend_pip(monkeypatch, "print('Downloading torch-2.13.0-cp311.whl (190 MB)')")
    python = bootstrap.ensure()
    assert Path(python) == bootstrap.venv_python()
    assert "fetching torch (190 MB)" in capsys.readouterr().out
    monkeypatch.setattr(bootstrap, "set_up", lambda *a: pytest.fail("set up twice"))
    assert bootstrap.ensure() == python
    assert capsys.readouterr().out == ""


def test_a_plain_set_up_lacks_the_test_tools_and_a_full_one_serves_both(bare, monkeypatch):
    _pretend_venv(bare, monkeypatch)
    _pretend_pip(monkeypatch, "")
    bootstrap.ensure()
    assert (bootstrap.stamp_is_current(False), bootstrap.stamp_is_current(True)) == (True, False)
    bootstrap.ensure(test=True)
    assert (bootstrap.stamp_is_current(False), bootstrap.stamp_is_current(True)) == (True, True)


def test_new_requirements_set_up_again(bare, monkeypatch):
    _pretend_venv(bare, monkeypatch)
    _pretend_pip(monkeypatch, "")
    bootstrap.ensure()
    project = bare / "pyproject.toml"
    project.write_text(project.read_text().replace("tqdm>=4.67", "tqdm>=4.68"))
    assert not bootstrap.stamp_is_current(False)


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "free some disk"),
        ("ERROR: NewConnectionError: Temporary failure in name resolution", "no network"),
        ("ERROR: Could not find a version that satisfies the requirement x (from versions: none)", "no network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "once that is mended"),
    ],
)
def test_a_failed_install_is_one_line_and_leaves_no_stamp(bare, monkeypatch, said, advice):
    _pretend_venv(bare, monkeypatch)
    _pretend_pip(monkeypatch, f"import sys; print({said!r}); sys.exit(1)")
    with pytest.raises(bootstrap.SetupError) as refusal:
        bootstrap.ensure()
    message = str(refusal.value)
    assert said.removeprefix("ERROR: ") in message
    assert advice in message
    assert "\n" not in message
    assert said in (bare / "build" / "setup.log").read_text()
    assert not bootstrap.STAMP.exists()


def test_an_interrupted_install_leaves_no_stamp_and_says_how_to_go_on(bare, monkeypatch):
    _pretend_venv(bare, monkeypatch)
    _pretend_pip(monkeypatch, "print('Collecting torch', flush=True); import time; time.sleep(60)")

    def interrupt(line):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap, "report", interrupt)
    with pytest.raises(bootstrap.SetupError, match="carries on where it stopped"):
        bootstrap.ensure()
    assert not bootstrap.STAMP.exists()


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
    monkeypatch.setattr(bootstrap, "install", lambda python, test: done.append((str(python), test)))
    assert bootstrap.ensure(test=True) == sys.executable
    assert done == [(sys.executable, True)]
    assert not bootstrap.VENV.exists()


def test_what_goes_wrong_in_set_up_is_one_line_on_stderr_and_status_1(monkeypatch, capsys):
    def fail(test):
        raise bootstrap.SetupError("no disk")

    monkeypatch.setattr(bootstrap, "ensure", fail)
    assert start.main(["run"]) == 1
    assert capsys.readouterr().err == "course: no disk\n"


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py", "bootstrap.py"])
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
