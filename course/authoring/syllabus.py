"""The one ordered list of lessons (``syllabus.toml``); the README's table and Binder's requirements come from data."""

import argparse
import tomllib
from dataclasses import dataclass
from functools import cache

from course.pip_install import CPU_WHEELS
from course.sources import REPOSITORY, sources
from helpers.files import read_text

_FILE = REPOSITORY / "course" / "syllabus.toml"
_BEGIN, _END = "<!-- lessons -->", "<!-- /lessons -->"


@dataclass(frozen=True)
class Lesson:
    """One row of the syllabus. A lesson is ready when its source exists; nothing else says so."""

    id: str
    name: str
    title: str
    part: str
    question: str
    minutes: int
    needs: tuple[str, ...]
    objectives: tuple[str, ...]
    claims: tuple[str, ...]
    models: tuple[str, ...]

    @property
    def stem(self) -> str:
        return f"{self.id}_{self.name}"

    @property
    def ready(self) -> bool:
        return self.id in sources()


@cache
def syllabus() -> tuple[Lesson, ...]:
    """Every lesson of the course, in order. Raises ValueError that names the row and its missing field."""
    try:
        rows = tomllib.loads(read_text(_FILE)).get("lesson", ())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{_FILE.name}: {error}") from None
    return tuple(_lesson(row) for row in rows)


def _lesson(row: dict) -> Lesson:
    fields = Lesson.__dataclass_fields__
    missing, unknown = fields.keys() - row.keys(), row.keys() - fields.keys()
    if missing or unknown:
        raise ValueError(f"syllabus.toml, lesson {row.get('id')}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    return Lesson(**{key: tuple(value) if isinstance(value, list) else value for key, value in row.items()})


def readme_table() -> str:
    """The lessons as a Markdown table: the ready ones linked, the others named in one line."""
    lines = ["| | lesson | question | minutes |", "|---|---|---|---|"]
    for lesson in syllabus():
        if lesson.ready:
            link = f"[{lesson.title}](notebooks/{lesson.stem}.ipynb)"
            lines.append(f"| {lesson.id} | {link} | {lesson.question} | {lesson.minutes} |")
    coming = "; ".join(f"{lesson.id} {lesson.title}" for lesson in syllabus() if not lesson.ready)
    return "\n".join([*lines, "", f"In preparation: {coming}." if coming else ""]).rstrip() + "\n"


def fill_readme(text: str) -> str:
    """``text`` with the table between its two marks."""
    head, mark, rest = text.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not mark or not end:
        raise ValueError(f"README.md: the marks {_BEGIN} and {_END} must stand around the lesson table")
    return f"{head}{_BEGIN}\n{readme_table()}{_END}{tail}"


def fill_requirements() -> str:
    """Binder's requirements: torch's CPU build; postBuild brings all else, held to the hashes of course/pins."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(line for line in project["dependencies"] if line.startswith("torch=="))
    head = "# made by python3 -m course build from pyproject.toml; postBuild brings all other packages\n"
    return f"{head}--extra-index-url {CPU_WHEELS}\n--constraint ../course/pins/constraints.txt\n{torch}\n"


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m course syllabus", description="List the lessons.")
    parser.parse_args(argv)
    for lesson in syllabus():
        print(f"{lesson.id} {'✓' if lesson.ready else '·'} {lesson.title:<48} {lesson.minutes:>3} min")
    return 0
