"""Whatever a command prints to: a stream without our marks, one whose reader left, a full disk, none at all."""

import json
import os
import subprocess
import sys

import pytest

from course.sources import REPOSITORY

CHECK = "from course.exercise.exercise import Exercise; e = Exercise('sum', '00', lambda a: 'größer…'); e(1); e(...)"
posix = pytest.mark.skipif(os.name != "posix", reason="files and redirections of a POSIX shell")


def course(*arguments: str, encoding: str | None = None, **named) -> subprocess.CompletedProcess:
    """A command in a process of its own; ``encoding`` is that of its streams."""
    return process("-m", "course", *arguments, encoding=encoding, **named)


def process(*arguments: str, encoding: str | None = None, **named) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "0"}
    environment.pop("PYTHONIOENCODING", None)
    if encoding:
        environment["PYTHONIOENCODING"] = encoding
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | named
    return subprocess.run([sys.executable, *arguments], env=environment, cwd=REPOSITORY, **pipes)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp437"])
def test_a_check_says_its_mark_in_words_where_the_stream_has_none(encoding):
    done = process("-c", CHECK, encoding=encoding)
    assert done.returncode == 0, done.stderr
    said = done.stdout.decode(encoding).splitlines()
    assert said[0].startswith("ok sum: gr")
    assert said[1] == "-- sum: not attempted yet"


def test_what_the_stream_can_write_stays_as_it_is():
    assert "ok sum: größer…" in process("-c", CHECK, encoding="cp1252").stdout.decode("cp1252")
    assert "ok sum: großer...".replace("ß", "?") in process("-c", CHECK, encoding="ascii").stdout.decode("ascii")
    assert "✓ sum: größer…" in process("-c", CHECK, encoding="utf-8").stdout.decode("utf-8")


@pytest.mark.parametrize(
    "arguments", [["syllabus"], ["check", "99"], ["zoo"], ["train-zoo", "--help"], ["measure", "--list"]]
)
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_every_kind_of_command_prints_on_a_poor_stream(arguments, encoding):
    done = course(*arguments, encoding=encoding)
    assert done.returncode == (1 if "99" in arguments else 0)
    assert b"Error" not in done.stderr
    assert done.stdout.decode(encoding).strip()


@posix
def test_a_reader_that_leaves_stops_no_command():
    reading, writing = os.pipe()
    os.close(reading)
    done = course("syllabus", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
def test_a_full_disk_under_the_output_is_one_line_and_the_status_one():
    with open("/dev/full", "wb") as full:
        done = course("syllabus", stdout=full)
    said = b"course syllabus: not all of its output could be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@posix
def test_closed_streams_are_no_error():
    shell = f'exec "{sys.executable}" -m course syllabus >&- 2>&-'
    assert subprocess.run(["sh", "-c", shell], cwd=REPOSITORY).returncode == 0


RUN = """
import sys
from pathlib import Path
from course import cli
from course.running import run
from support.lesson_files import lesson
folder = Path(sys.argv[1])
run.RUNS = folder / "run"
run._lesson_files = lambda solved: [lesson(folder, "00_bad", "raise ValueError('✗ größer')"), lesson(folder, "01_good")]
sys.exit(cli.main(["run", "--workers", "1", "--device", "cpu"]))
"""


@pytest.mark.parametrize("encoding", ["cp1252", None])
def test_a_failed_run_is_reported_where_its_output_cannot_be(tmp_path, encoding, monkeypatch):
    """On a stream without the marks of the error, and with a reader that has left."""
    monkeypatch.syspath_prepend(REPOSITORY / "tests")
    reading, writing = os.pipe()
    if encoding is None:
        os.close(reading)
    code = f"import sys; sys.path.insert(0, {str(REPOSITORY / 'tests')!r})\n{RUN}"
    done = process("-c", code, str(tmp_path), encoding=encoding or "utf-8", stdout=writing)
    os.close(writing)
    assert done.returncode == 1
    assert b"Error" not in done.stderr
    report = json.loads((tmp_path / "run" / "given-laptop-cpu" / "report.json").read_text(encoding="utf-8"))
    assert [made["passed"] for made in report["lessons"]] == [False, True]
    if encoding:
        said = os.read(reading, 65536).decode(encoding)
        os.close(reading)
        assert "FAILED 00_bad, cell 2: a cell raised an exception" in said
        assert "ValueError: NO größer" in said
