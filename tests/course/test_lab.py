"""Opening JupyterLab: as root, without a screen, with a port taken, and for real."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from course import cli, lab, machine
from course.sources import REPOSITORY
from course.syllabus import ready_lessons

LESSON = REPOSITORY / "notebooks" / "00_roofline.ipynb"


def test_the_first_lesson_is_what_opens():
    assert "--LabApp.default_url=/lab/tree/notebooks/00_roofline.ipynb" in lab.command(8888, True, LESSON)


def test_without_a_browser_nothing_is_opened():
    assert "--no-browser" in lab.command(8888, False, LESSON)
    assert "--no-browser" not in lab.command(8888, True, LESSON)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no root on this platform")
@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_root_is_allowed_only_as_root(user, allowed, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert ("--allow-root" in lab.command(8888, True, LESSON)) is allowed


def test_a_machine_without_a_screen_is_known(monkeypatch):
    monkeypatch.setattr(lab.sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert not lab.has_screen()
    monkeypatch.setenv("DISPLAY", ":0")
    assert lab.has_screen()


def test_a_taken_port_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        assert lab.free_port(port) != port
        with pytest.raises(OSError, match="all taken: choose another"):
            lab.free_port(port, tries=1)


def test_a_port_beyond_the_last_is_one_clear_line(capsys):
    assert lab.main(["--port", "70000", "--no-browser"]) == 1
    assert "port" in capsys.readouterr().err


def _answer(url: str) -> str:
    """What the server says; it prints its address a moment before it answers."""
    for _ in range(200):
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return answer.read().decode()
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(f"no answer from {url}")


def test_our_configuration_stands_before_that_of_a_hub(monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/etc/hub")
    ours, theirs = lab.variables()["JUPYTER_CONFIG_PATH"].split(os.pathsep)
    assert (REPOSITORY / "course" / "jupyter").samefile(ours)
    assert theirs == "/etc/hub"


@pytest.mark.skipif(os.name != "posix", reason="ends the server by a POSIX signal")
def test_the_command_really_serves_the_first_lesson(tmp_path):
    environment = {**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "course", "--no-browser", "--port", str(lab.free_port(9300))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(
        command, text=True, cwd=REPOSITORY, env=environment, start_new_session=True, **pipes
    ) as server:
        try:
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://127\S+token=\w+", line)))
            token = address.split("token=")[1]
            first = ready_lessons()[0].stem
            port = re.search(r":(\d+)/", address)[1]
            url = f"http://127.0.0.1:{port}/api/contents/notebooks/{first}.ipynb?content=0&token={token}"
            assert f"{first}.ipynb" in _answer(url)
            page = _answer(f"http://127.0.0.1:{port}/lab?token={token}")
            assert '"@jupyterlab/apputils-extension:announcements"' in page  # among the disabled: no news pop-up
            server.send_signal(signal.SIGTERM)  # to the command alone, as a service manager does
            assert server.wait(timeout=60) == 0
            with pytest.raises(urllib.error.URLError):
                urllib.request.urlopen(url, timeout=5)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


@pytest.mark.skipif(os.name != "posix", reason="asks for the rights of a folder")
def test_a_home_that_cannot_be_written_is_replaced_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "a file" / "home"))
    (tmp_path / "a file").write_text("")
    cli.use_a_writable_home()
    assert os.environ["HOME"] == str(tmp_path / "build" / "home")
    assert "cannot be written; settings and caches go to" in capsys.readouterr().err
    cli.use_a_writable_home()
    assert capsys.readouterr().err == ""
    (tmp_path / "build" / "home").rmdir()
    (tmp_path / "build").rmdir()
    (tmp_path / "build").write_text("")  # no folder for the course either: one that lasts as long as the command
    monkeypatch.setenv("HOME", str(tmp_path / "a file" / "home"))
    cli.use_a_writable_home()
    assert machine.writable(Path(os.environ["HOME"]))
