"""The command: several lessons in their own processes, limits, what is left of a run that was killed."""

import errno
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.lesson_files import lesson, settings

from course.authoring import build
from course.doctor import NEEDED_MEMORY_BYTES
from course.running import resume, run, schedule
from course.running.results import MEMORY_LIMIT_BYTES, CellRecord, Failure, Result
from course.running.run import choose, main, report_on, run_lessons
from helpers import device

TESTS = Path(__file__).resolve().parents[2]


def until(condition, seconds=60):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


RUNNER = """
import sys
from pathlib import Path
from support.lesson_files import settings
from course.running import resume
from course.running.results import LessonFile
from course.running.run import report_on
resume.SOURCES = []  # the helpers of this very project may change while the test runs
folder = Path(sys.argv[1])
lessons = [LessonFile(path) for path in sorted((folder / "notebooks").glob("*.ipynb"))]
sys.exit(report_on(lessons, settings(folder, offline=True)))
"""


def runner(folder):
    """A process of its own that runs the lessons in ``folder``/notebooks."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONUTF8": "1", "PYTHONWARNINGS": "default"}
    command, pipes = [sys.executable, "-c", RUNNER, str(folder)], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, encoding="utf-8", **pipes)


# Several lessons


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A lesson that passes and one that fails, run for real; with all that was printed."""
    folder = tmp_path_factory.mktemp("two")
    net = "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=5)"
    lessons = [
        lesson(folder / "notebooks", "00_good", "print(scale)", "# text", "x = 1"),
        lesson(folder / "notebooks", "01_bad", "x = 1", net),
    ]
    process = runner(folder)
    out, err = process.communicate(timeout=200)
    report = json.loads((folder / "run/given-laptop-offline/report.json").read_text(encoding="utf-8"))
    return folder, lessons, (process.returncode, out, err), report


def test_the_exit_status_is_one_if_a_lesson_failed_and_the_summary_says_which(two):
    _, _, (status, out, _), _ = two
    assert status == 1
    assert "1 of 2 lessons passed" in out
    assert "FAILED 01_bad, cell 3: a cell raised an exception" in out
    assert "OSError: the network is blocked in this run: 192.0.2.1" in out


def test_a_log_gets_one_line_a_finished_lesson_and_no_warning(two):
    _, _, (_, out, err), _ = two
    lines = [line for line in out.splitlines() if line.startswith(("passed  ", "FAILED  "))]
    assert sorted(line.split()[1] for line in lines) == ["00_good", "01_bad"]
    assert err == ""


def test_a_lesson_over_its_limit_is_killed_with_its_kernel_and_reported(tmp_path):
    hang = "import os, pathlib, time\npathlib.Path('kernel').write_text(str(os.getpid()))\ntime.sleep(600)"
    (result,) = run_lessons([lesson(tmp_path, "00_hanging", hang)], settings(tmp_path, lesson_limit_s=12))
    failure = result.failure
    assert (failure.kind, failure.cell) == ("lesson limit", 2)
    assert "killed after 12 s" in failure.message
    assert failure.lines[0] == (1, "import os, pathlib, time")
    assert [cell.number for cell in result.cells] == [1]
    assert not psutil.pid_exists(int((tmp_path / "kernel").read_text()))


def test_what_was_measured_is_in_the_json(two):
    _, _, _, report = two
    good = report["lessons"][0]
    assert good["passed"]
    assert [cell["number"] for cell in good["cells"]] == [1, 2, 3]
    assert sum(cell["seconds"] for cell in good["cells"]) < good["seconds"]
    assert good["peak_memory_bytes"] == max(cell["peak_memory_bytes"] for cell in good["cells"]) > 10e6


def test_executed_notebooks_pages_and_reports_lie_in_one_folder(two):
    folder, _, _, _ = two
    made = {path.name for path in (folder / "run" / "given-laptop-offline").iterdir()}
    assert made >= {"00_good.ipynb", "00_good.html", "01_bad.html", "report.html", "report.xml", "report.json"}


def test_a_lesson_leaves_its_predictions_in_its_own_folder(two):
    folder, lessons, _, _ = two
    own = settings(folder, offline=True).scratch(lessons[0])
    assert own.is_relative_to(folder)
    assert (own / "ipython").is_dir()


# A run that was killed


def test_a_killed_run_leaves_no_kernel_and_carries_on_with_what_is_missing(tmp_path, capsys, sources):
    sources([])
    gate, pid = tmp_path / "gate", tmp_path / "kernel"
    waiting = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
    waiting += f"while not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.1)"
    folder, asked = tmp_path / "notebooks", settings(tmp_path, offline=True)
    lessons = [lesson(folder, "00_quick", "x = 1"), lesson(folder, "01_waiting", waiting)]
    process = runner(tmp_path)
    until(lambda: (asked.folder / "state" / "00_quick.json").exists() and pid.exists() and pid.read_text())
    with pytest.raises(resume.RunInProgress, match=f"process {process.pid}"):
        run_lessons(lessons, asked)
    process.kill()
    process.communicate()
    until(lambda: not psutil.pid_exists(int(pid.read_text())))

    gate.touch()
    first, second = run_lessons(lessons, asked)
    assert first.passed
    assert first.kept
    assert second.passed
    assert not second.kept
    assert "carrying on: 00_quick passed" in capsys.readouterr().out


@pytest.fixture
def sources(monkeypatch):
    """Sets the sources that a result's key depends on."""

    def put(paths):
        monkeypatch.setattr(resume, "SOURCES", paths)
        resume._surroundings.cache_clear()

    yield put
    resume._surroundings.cache_clear()


def left_behind(folder, **changed):
    """A lesson that passed in a run that was cut off."""
    asked = settings(folder, **changed)
    made = lesson(folder, "00_quick", "x = 1")
    resume.begin(asked)
    result = Result(made.name, 1.0, [], None, key=resume.key(made, asked))
    resume.keep(result, asked)
    marker = asked.folder / "state" / "running.json"
    marker.write_text(json.dumps({"process": os.getpid(), "started": 1.0}))  # the number is in use again
    return made, asked, result


def a_failure():
    return Failure("error", "ValueError", "no", 1, [(1, "x")], 1)


@pytest.fixture
def started(monkeypatch):
    """The names of lessons that a run starts; none is really run."""
    names = []

    def pretend(lessons, _settings):
        names.extend(lesson.name for lesson in lessons)
        return (Result(lesson.name, 1.0, [], None) for lesson in lessons)

    monkeypatch.setattr(run, "_finished", pretend)
    return names


def test_a_run_that_was_cut_off_is_carried_on(tmp_path, started):
    made, asked, result = left_behind(tmp_path)
    assert run_lessons([made], asked) == [replace(result, kept=True)]
    assert started == []


def test_a_run_that_ended_starts_afresh(tmp_path, started):
    made, asked, _ = left_behind(tmp_path)
    run_lessons([made], asked)
    run_lessons([made], asked)
    assert started == ["00_quick"]


def test_fresh_runs_everything_again(tmp_path, started):
    made, asked, _ = left_behind(tmp_path)
    run_lessons([made], replace(asked, fresh=True))
    assert started == ["00_quick"]


def test_a_lesson_that_changed_is_run_again(tmp_path, started):
    _, asked, _ = left_behind(tmp_path)
    run_lessons([lesson(tmp_path, "00_quick", "x = 2")], asked)
    assert started == ["00_quick"]


def test_a_lesson_that_failed_is_run_again(tmp_path, started):
    made, asked, result = left_behind(tmp_path)
    resume.keep(replace(result, failure=a_failure()), asked)
    run_lessons([made], asked)
    assert started == ["00_quick"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"name": "00_quick"}'])
def test_a_damaged_state_is_run_again(tmp_path, started, damage):
    made, asked, _ = left_behind(tmp_path)
    (asked.folder / "state" / "00_quick.json").write_text(damage)
    run_lessons([made], asked)
    assert started == ["00_quick"]


def test_a_result_survives_its_way_through_a_file():
    result = Result("00_quick", 1.5, [], a_failure(), "key")
    assert Result.from_dict(json.loads(json.dumps(result.to_dict()))) == result


@pytest.mark.parametrize("changed", [{"seed": 1}, {"scale": "smoke"}, {"solved": True}, {"offline": True}])
def test_the_key_of_a_result_holds_whatever_it_depends_on(tmp_path, changed):
    made = lesson(tmp_path, "00_quick")
    assert resume.key(made, settings(tmp_path)) != resume.key(made, settings(tmp_path, **changed))


def test_a_change_in_the_helpers_changes_the_key(tmp_path, monkeypatch, sources):
    made, keys = lesson(tmp_path, "00_quick"), set()
    monkeypatch.setattr(resume, "REPOSITORY", tmp_path)
    (tmp_path / "helpers").mkdir()
    for text in ("x = 1", "x = 2"):
        (tmp_path / "helpers" / "norm.py").write_text(text)
        sources([tmp_path / "helpers"])
        keys.add(resume.key(made, settings(tmp_path)))
    assert len(keys) == 2


# Interruptions and trouble


def test_ctrl_c_kills_what_runs_and_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    killed = []
    monkeypatch.setattr(schedule, "kill_tree", lambda pid: killed.append(pid))
    monkeypatch.setattr(schedule, "wait", interrupted)
    monkeypatch.setattr(schedule, "_start", lambda made, _settings: a_running(made))
    assert report_on([lesson(tmp_path, "00_quick")], settings(tmp_path)) == 130
    assert killed == [4321]
    assert "the same command carries on" in capsys.readouterr().err
    assert (settings(tmp_path).folder / "state" / "running.json").exists()


def interrupted(_pipes, timeout):
    raise KeyboardInterrupt


def a_running(made):
    class Process:
        pid = 4321

    return schedule._Running(made, Process(), None, time.monotonic())


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "run").write_text("a file where the folder should be")
    assert report_on([lesson(tmp_path, "00_quick")], settings(tmp_path)) == 1
    error = capsys.readouterr().err
    assert error.startswith("cannot write ")
    assert len(error.splitlines()) == 1


def test_a_full_disk_is_one_line_that_names_the_folder(tmp_path, monkeypatch, started, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resume, "keep", full)
    assert report_on([lesson(tmp_path, "00_quick")], settings(tmp_path)) == 1
    assert capsys.readouterr().err == f"cannot write {settings(tmp_path).folder}: No space left on device\n"


# The command line


def test_lessons_are_chosen_by_number_or_name_in_the_order_of_the_course(tmp_path):
    lessons = [lesson(tmp_path, name) for name in ("00_a", "01_b", "03_c")]
    assert choose(lessons, []) == lessons
    assert [made.name for made in choose(lessons, ["3", "00"])] == ["00_a", "03_c"]
    assert choose(lessons, ["03_c"]) == choose(lessons, ["c"]) == lessons[2:]


def test_an_unknown_lesson_is_refused_with_the_list_of_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"^no lesson 77; there are 00 a, 03 c$"):
        choose([lesson(tmp_path, "00_a"), lesson(tmp_path, "03_c")], ["03", "77"])


@pytest.mark.parametrize("arguments", [["--scale", "huge"], ["--workers", "0"], ["--cell-timeout", "soon"], ["99"]])
def test_a_command_that_makes_no_sense_has_the_exit_status_two(arguments, capsys):
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_smoke_has_less_time_and_a_limit_given_counts_for_every_scale(tmp_path):
    assert settings(tmp_path, scale="smoke").lesson_limit == 120
    assert settings(tmp_path).lesson_limit == 600
    assert settings(tmp_path, scale="smoke", lesson_limit_s=7).lesson_limit == 7


def test_each_set_of_settings_has_its_own_folder(tmp_path):
    assert settings(tmp_path).name == "given-laptop"
    asked = settings(tmp_path, solved=True, scale="smoke", checkpoint="Qwen/Qwen3.5-0.8B", seed=1, offline=True)
    assert asked.name == "solved-smoke-Qwen-Qwen3.5-0.8B-seed1-offline"
    assert settings(tmp_path, checkpoint="../../away").folder.parent == tmp_path / "run"


def test_a_lesson_that_holds_too_much_memory_fails_and_names_the_cell():
    cells = [CellRecord(1, "small = 1", 0.1, 300_000_000), CellRecord(2, "big = 2", 0.1, 1_300_000_000)]
    result = Result("03_open_a_model", 1.0, cells, None)
    failed = result.held_to(1.2e9)
    assert not failed.passed
    assert "cell 2: the lesson needs too much memory" in failed.failure.text(result.name)
    assert "1.30 GB were held; 1.20 GB are allowed" in failed.failure.text(result.name)
    assert result.held_to(1.4e9) == result


@pytest.mark.parametrize(
    ("changed", "limit"),
    [
        ({}, MEMORY_LIMIT_BYTES),
        ({"checkpoint": "zoo", "device": "cpu"}, MEMORY_LIMIT_BYTES),
        ({"device": "cuda"}, float("inf")),
        ({"checkpoint": "Qwen/Qwen3-0.6B"}, float("inf")),
        ({"scale": "full"}, float("inf")),
        ({"checkpoint": "Qwen/Qwen3-0.6B", "memory_limit_gb": 4.0}, 4e9),
    ],
)
def test_memory_is_limited_on_the_projects_own_models(tmp_path, monkeypatch, changed, limit):
    monkeypatch.setattr(device, "_accelerator_kind", lambda: None)
    assert settings(tmp_path, **changed).memory_limit == limit


def test_where_auto_finds_an_accelerator_its_libraries_are_not_held_against_a_lesson(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "_accelerator_kind", lambda: "cuda")
    monkeypatch.setattr(device, "_count", lambda kind: 1)
    assert settings(tmp_path).memory_limit == float("inf")
    assert settings(tmp_path, device="cpu").memory_limit == MEMORY_LIMIT_BYTES


def test_a_lesson_over_the_memory_limit_fails_the_run_in_every_report_and_names_its_cell(tmp_path, capsys):
    made = lesson(tmp_path / "notebooks", "00_heavy", "x = 1", "held = bytearray(300_000_000)", "del held")
    asked = settings(tmp_path, memory_limit_gb=0.25, device="cpu")
    assert report_on([made], asked) == 1
    said = capsys.readouterr().out
    assert "FAILED  00_heavy" in said
    assert "FAILED 00_heavy, cell 3: the lesson needs too much memory" in said
    assert "held = bytearray(300_000_000)" in said
    assert "0.25 GB are allowed (--memory-limit)" in said
    (written,) = json.loads((asked.folder / "report.json").read_text(encoding="utf-8"))["lessons"]
    assert (written["failure"]["kind"], written["failure"]["cell"]) == ("memory", 3)
    for ending in ("html", "xml"):
        assert "too much memory" in (asked.folder / f"report.{ending}").read_text(encoding="utf-8")


def test_what_was_kept_is_held_to_the_memory_that_is_allowed_now(tmp_path, started):
    made, asked, result = left_behind(tmp_path, device="cpu")
    resume.keep(replace(result, cells=[CellRecord(1, "big = 1", 0.1, 1_000_000_000)]), asked)
    assert resume.kept(made, asked)
    assert resume.kept(made, replace(asked, memory_limit_gb=0.9)) is None
    run_lessons([made], replace(asked, memory_limit_gb=0.9))
    assert started == ["00_quick"]


def test_a_limit_that_is_no_number_lets_nothing_through():
    result = Result("03_open_a_model", 1.0, [CellRecord(1, "small = 1", 0.1, 1)], None)
    assert not result.held_to(float("nan")).passed


def test_a_run_whose_reports_cannot_be_written_still_says_what_failed(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "report.html"))

    failed = Result("00_quick", 1.0, [], a_failure())
    monkeypatch.setattr(run, "_finished", lambda *_: [failed])
    monkeypatch.setattr(run.report, "write", full)
    assert report_on([lesson(tmp_path, "00_quick")], settings(tmp_path)) == 1
    said = capsys.readouterr()
    assert said.err == f"cannot write {tmp_path / 'report.html'}: No space left on device\n"
    assert "FAILED 00_quick, cell 1" in said.out
    monkeypatch.setattr(run, "_finished", lambda *_: [replace(failed, failure=None)])
    assert report_on([lesson(tmp_path, "00_quick")], settings(tmp_path)) == 1
    assert "1 of 1 lessons passed; no report" in capsys.readouterr().out


def test_solved_lessons_that_cannot_be_written_are_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(build, "SOLVED", tmp_path / "a file")
    assert main(["--solved", "03"]) == 1
    assert capsys.readouterr().err == f"cannot write {tmp_path / 'a file'}: File exists\n"


def test_files_of_somebody_elses_run_are_not_removed(tmp_path, monkeypatch, started, capsys):
    made, asked = lesson(tmp_path, "00_quick"), settings(tmp_path)
    asked.folder.mkdir(parents=True)
    theirs = asked.folder / "00_quick.html"
    theirs.write_text("theirs")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != theirs)
    assert report_on([made], asked) == 1
    assert capsys.readouterr().err == f"cannot write {theirs}: Permission denied\n"
    assert theirs.read_text() == "theirs"
    assert started == []


def test_readme_and_the_doctor_know_the_one_limit():
    said = f"stay below 90 seconds and {MEMORY_LIMIT_BYTES / 1e9:g} GB at laptop scale"
    assert said in " ".join((TESTS.parent / "README.md").read_text(encoding="utf-8").split())
    assert NEEDED_MEMORY_BYTES > MEMORY_LIMIT_BYTES
