"""Lessons side by side, each in its own process: a crash, a hang or a leak in one cannot touch another.

The process of a lesson sends what happens through a pipe; the parent keeps the time and kills what is over it.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil

from course.running.results import CellRecord, Failure, LessonFile, Result, Settings, excerpt

LOAD_LIMIT_S = 180  # for the imports of a lesson's process, before its own time starts


@dataclass(frozen=True)
class Progress:
    """A lesson has come to this cell."""

    lesson: str
    cell: int


@dataclass
class _Running:
    lesson: LessonFile
    process: multiprocessing.Process
    pipe: Connection
    started: float
    at: tuple[int, str] | None = None  # None until the machinery of the lesson's process is loaded
    cells: list[CellRecord] = field(default_factory=list)
    outcome: list[Failure | None] = field(default_factory=list)  # empty until the lesson's process has spoken

    def deadline(self, limit_s: int) -> float:
        """The lesson's time starts with its kernel: a machine that is slow to load papermill is not its fault."""
        return self.started + (LOAD_LIMIT_S if self.at is None else limit_s)

    def result(self, failure: Failure | None) -> Result:
        return Result(self.lesson.name, time.monotonic() - self.started, self.cells, failure)


def run_side_by_side(lessons: list[LessonFile], settings: Settings) -> Iterator[Progress | Result]:
    """Yield Progress while the lessons run, ``settings.workers`` at a time, and a Result as each one ends.

    When the iterator is closed, or interrupted, everything that still runs is killed, kernels included.
    """
    waiting, running = list(lessons), []
    try:
        while waiting or running:
            while waiting and len(running) < settings.workers:
                running.append(_start(waiting.pop(0), settings))
            deadline = min(job.deadline(settings.lesson_limit) for job in running)
            wait([job.pipe for job in running], timeout=max(0.0, deadline - time.monotonic()))
            for job in list(running):
                result = yield from _follow(job, settings.lesson_limit)
                if result:
                    running.remove(job)
                    yield result
    finally:
        for job in running:
            kill_tree(job.process.pid)


def _start(lesson: LessonFile, settings: Settings) -> _Running:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_lesson_process, args=(lesson, settings, theirs), name=lesson.name)
    with _deaf_to_ctrl_c():
        process.start()
    theirs.close()
    return _Running(lesson, process, ours, time.monotonic())


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """A child started in here ignores Ctrl-C, so that it prints no traceback: the parent decides what ends."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(job: _Running, limit_s: int) -> Iterator[Progress]:
    """Take what the lesson's process has sent; return its Result if it is at its end, else None."""
    with contextlib.suppress(EOFError, OSError):
        while job.pipe.poll():
            message = job.pipe.recv()
            if isinstance(message, tuple):
                job.started = time.monotonic() if job.at is None else job.started
                job.at = message
                yield Progress(job.lesson.name, message[0])
            elif isinstance(message, CellRecord):
                job.cells.append(message)
            else:
                job.outcome.append(message)
        if time.monotonic() < job.deadline(limit_s):
            return None
        kill_tree(job.process.pid)
        job.outcome = [_over_limit(job, limit_s)]
    job.process.join(10)
    return job.result(job.outcome[0] if job.outcome else _vanished(job))


def _over_limit(job: _Running, limit_s: int) -> Failure:
    if job.at is None:
        return Failure("machinery", "TimeoutError", f"papermill did not load within {LOAD_LIMIT_S} s")
    message = f"killed after {limit_s} s (--lesson-timeout)"
    return Failure("lesson limit", "TimeoutError", message, job.at[0] or None, excerpt(job.at[1], None))


def _vanished(job: _Running) -> Failure:
    number, source = job.at or (0, "")
    message = f"the lesson's process ended with status {job.process.exitcode}"
    return Failure("machinery", "ProcessDied", message, number or None, excerpt(source, None))


def kill_tree(pid: int) -> None:
    """Kill a process and all below it, and wait until they are gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=10)


# In the lesson's own process


def _lesson_process(lesson: LessonFile, settings: Settings, pipe: Connection) -> None:
    """Run one lesson, make its page, send how it ended."""
    signal.signal(signal.SIGINT, lambda *_: None)  # still deaf, but the kernel does not inherit a Python handler
    threading.Thread(target=_end_with_parent, daemon=True).start()
    own = settings.scratch(lesson)
    own.mkdir(parents=True, exist_ok=True)
    _write_into(own / "log.txt")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel before one in the home folder
    # jsonschema's optional check of URIs compiles a grammar for two seconds when it is imported: leave it out
    sys.modules.setdefault("rfc3987_syntax", None)

    from course.running.execute import execute, kernel_environment

    pipe.send((0, ""))
    output = settings.folder / f"{lesson.name}.ipynb"
    environment = kernel_environment(settings, own)
    failure = execute(lesson.path, output, settings.parameters, settings.cell_limit_s, environment, pipe.send)
    page_failure = _make_page(output)
    pipe.send(failure or page_failure)


def _make_page(notebook: Path) -> Failure | None:
    """A page of a failed lesson helps too; there is none of a lesson that was refused before it ran."""
    from course.running.page import write_page

    if not notebook.exists():
        return None
    try:
        write_page(notebook)
    except Exception as error:
        return Failure("machinery", type(error).__name__, f"the page of the lesson could not be made: {error}")
    return None


def _end_with_parent() -> None:
    """A killed parent cannot clean up: end the kernel and this process when it is gone."""
    multiprocessing.parent_process().join()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(1)


def _write_into(log: Path) -> None:
    """Whatever this process and its kernel print, C libraries included, goes to the log and not to the terminal."""
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
