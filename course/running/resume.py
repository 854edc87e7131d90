"""What a run that was cut off leaves behind, and what the next one may take over from it.

A run in progress has a file ``state/running.json``; a run that ended removes it. So a run that finds the file knows
that the one before was cut off, and takes over what passed, as long as nothing the outcome depends on has changed.
"""

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path

import psutil

from course.machine import installed, requirements
from course.running.results import LessonFile, Result, Settings
from course.sources import REPOSITORY
from helpers.files import refuse_where_not_ours, write_whole

# What a lesson's outcome depends on besides itself
SOURCES = [REPOSITORY / "helpers", REPOSITORY / "course" / "checks", REPOSITORY / "course" / "exercise.py"]


class RunInProgress(RuntimeError):
    """Another process is running lessons with the same settings, into the same folder."""


def begin(settings: Settings) -> bool:
    """Mark the run as in progress; True if the run before was cut off. Raises RunInProgress, OSError."""
    marker = _marker(settings)
    before = _read(marker)
    if before and _lives(before):
        raise RunInProgress(f"process {before['process']} is running lessons into {settings.folder}")
    me = psutil.Process()
    _write(marker, {"process": me.pid, "started": me.create_time()})
    return before is not None


def end(settings: Settings) -> None:
    """The run has ended: the next one starts afresh."""
    _marker(settings).unlink(missing_ok=True)


def keep(result: Result, settings: Settings) -> None:
    """Remember the result of a lesson. Raises OSError."""
    _write(_state(result.name, settings), result.to_dict())


def kept(lesson: LessonFile, settings: Settings) -> Result | None:
    """What the run before has left of this lesson, if it passed and would pass again, in the memory allowed now."""
    try:
        result = Result.from_dict(_read(_state(lesson.name, settings)) or {})
    except (KeyError, TypeError):  # written by another version
        return None
    result = result.held_to(settings.memory_limit)
    return result if result.passed and result.key == key(lesson, settings) else None


def forget(lesson: LessonFile, settings: Settings) -> None:
    """Remove what an earlier run has made of this lesson. Raises OSError for a file of somebody else's run."""
    made = [settings.folder / f"{lesson.name}{ending}" for ending in (".ipynb", ".html")]
    for path in [*made, _state(lesson.name, settings)]:
        refuse_where_not_ours(path)
        path.unlink(missing_ok=True)
    shutil.rmtree(settings.scratch(lesson), ignore_errors=True)


def key(lesson: LessonFile, settings: Settings) -> str:
    """A hash of everything that the outcome depends on: notebook, parameters, helpers, checks, versions."""
    how = [settings.parameters, settings.solved, settings.offline]
    digest = hashlib.sha256(lesson.path.read_bytes())
    digest.update(json.dumps([how, _surroundings()]).encode())
    return digest.hexdigest()


@cache
def _surroundings() -> tuple[str, ...]:
    """Hash of the sources, and the versions of what they stand on."""
    digest = hashlib.sha256()
    for path in (file for source in SOURCES for file in _files(source)):
        digest.update(path.relative_to(REPOSITORY).as_posix().encode() + b"\0" + path.read_bytes())
    return (digest.hexdigest(), *(f"{name} {installed(name)}" for name in requirements()))


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def _state(name: str, settings: Settings) -> Path:
    return settings.state / f"{name}.json"


def _marker(settings: Settings) -> Path:
    return settings.state / "running.json"


def _lives(marker: dict) -> bool:
    """Is the process that wrote the marker still there? Numbers are used again: the start time must agree."""
    try:
        return psutil.Process(marker["process"]).create_time() == marker["started"]
    except (psutil.Error, KeyError, TypeError):
        return False


def _read(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:  # cut off while it was written, by another version
        return {}


def _write(path: Path, values: dict) -> None:
    write_whole(path, json.dumps(values, indent=1))
