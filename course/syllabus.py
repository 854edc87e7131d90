"""The one ordered list of lessons (``syllabus.toml``): a lesson's identity is its name, its number is its place."""

import argparse
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from helpers.files import read_text

LESSONS = Path(__file__).with_name("lessons")
FILE = LESSONS / "syllabus.toml"
LINK = re.compile(r"\[\[([a-z0-9_]+)\]\]")  # in a lesson's prose: another lesson, by name


@dataclass(frozen=True)
class Lesson:
    """One row of the syllabus. A lesson is ready when its source exists; nothing else says so."""

    number: str  # its place in the course, two digits from 00
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
        """The name of its notebook: ``07_dsa``."""
        return f"{self.number}_{self.name}"

    @property
    def source(self) -> Path:
        return LESSONS / f"{self.name}.py"

    @property
    def ready(self) -> bool:
        return self.source.exists()


def syllabus() -> tuple[Lesson, ...]:
    """Every lesson of the course, in order. Raises ValueError that names the row and what is wrong with it."""
    return _read(FILE)


@cache
def _read(file: Path) -> tuple[Lesson, ...]:
    try:
        rows = tomllib.loads(read_text(file)).get("lesson", ())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file.name}: {error}") from None
    lessons = tuple(_lesson(place, row) for place, row in enumerate(rows))
    names = [lesson.name for lesson in lessons]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{file.name}: {', '.join(twice)} stands there twice")
    return lessons


def _lesson(place: int, row: dict) -> Lesson:
    fields = Lesson.__dataclass_fields__.keys() - {"number"}
    missing, unknown = fields - row.keys(), row.keys() - fields
    if missing or unknown:
        name = row.get("name", f"in place {place:02d}")
        raise ValueError(f"syllabus.toml, lesson {name}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    row = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
    return Lesson(number=f"{place:02d}", **row)


def ready_lessons() -> tuple[Lesson, ...]:
    """The lessons that can be opened today, in order."""
    return tuple(lesson for lesson in syllabus() if lesson.ready)


def find(word: str) -> Lesson:
    """The ready lesson of a name (``dsa``), a number (``7``, ``07``) or a notebook (``07_dsa``).

    Raises ValueError that says what there is.
    """
    ready = ready_lessons()
    found = next((lesson for lesson in ready if means(word, lesson.stem)), None)
    if found is None:
        raise ValueError(no_lesson([word], [lesson.stem for lesson in ready]))
    return found


def means(word: str, stem: str) -> bool:
    """Whether a learner who types ``word`` means the notebook ``stem``."""
    number, _, name = stem.partition("_")
    return word in (stem, name) or word.zfill(2) == number


def no_lesson(words: Iterable[str], stems: Iterable[str]) -> str:
    """What to say of words that mean no lesson: those that are in preparation are named as such."""
    listed = ", ".join(stem.replace("_", " ", 1) for stem in stems)
    coming = [lesson.stem for lesson in syllabus() if not lesson.ready]
    said = [word + " (in preparation)" * any(means(word, stem) for stem in coming) for word in words]
    return f"no lesson {', '.join(said)}; there are {listed or 'none'}"


def numbered(lesson: Lesson, text: str) -> str:
    """``text``, a Markdown cell, with the lesson's number before its title if it begins with that."""
    return _renamed(text, f"# {lesson.title}", f"# {lesson.number} · {lesson.title}")


def linked(text: str) -> str:
    """``text``, a Markdown cell, with ``[[dsa]]`` as that lesson's title and a link to its notebook.

    A lesson in preparation gets its title only. Raises ValueError for a name that the syllabus does not have.
    """
    return LINK.sub(lambda found: _link(found[1]), text)


def _link(name: str) -> str:
    lesson = next((lesson for lesson in syllabus() if lesson.name == name), None)
    if lesson is None:
        raise ValueError(f"[[{name}]] names no lesson of {FILE.name}")
    return f"[{lesson.title}]({lesson.stem}.ipynb)" if lesson.ready else f"*{lesson.title}*"


def as_written(lesson: Lesson, text: str) -> str:
    """The reverse of ``numbered`` and ``linked``: what a source holds of a Markdown cell of the notebook."""
    linked(text)  # a ValueError now rather than at the next build
    text = _renamed(text, f"# {lesson.number} · {lesson.title}", f"# {lesson.title}")
    for other in syllabus():
        text = text.replace(_link(other.name), f"[[{other.name}]]")
    return text


def _renamed(text: str, title: str, other: str) -> str:
    """``text`` with ``other`` as its first line where that is ``title``; spaces behind it stay."""
    return re.sub(rf"\A{re.escape(title)}(?=\s*$)", other, text, flags=re.M)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m course syllabus", description="List the lessons.")
    parser.parse_args(argv)
    for lesson in syllabus():
        mark = "✓" if lesson.ready else "·"
        print(f"{lesson.number} {mark} {lesson.name:<16} {lesson.title:<48} {lesson.minutes:>3} min")
    return 0
