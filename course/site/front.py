"""The front page: what README says first, every lesson in order, and the tables the lessons stand on."""

from html import escape

from course.site.tables import Html, Row, link, small, table
from course.sources import REPOSITORY
from course.syllabus import Lesson, ready_lessons, syllabus

TABLES = {  # page to title; the order of the sidebar
    "ledger": "The claim ledger",
    "models": "Models",
    "hardware": "Hardware",
    "parity": "Parity with transformers",
    "measured": "Measured",
}


def front_page() -> str:
    """Markdown of the first page. What is hidden in it makes the sidebar."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    first_screen = readme.split("\n## ", 1)[0]
    ready = [f"lessons/{lesson.stem}" for lesson in ready_lessons()]
    tables = "\n".join(f"- [{title}]({page}.md)" for page, title in TABLES.items())
    return f"""{first_screen}

## Lessons

{lesson_tables()}

## What the lessons stand on

{tables}

{_sidebar("Lessons", ready)}

{_sidebar("Tables", list(TABLES))}
"""


def lesson_tables() -> str:
    """One table a part of the course."""
    parts: dict[str, list[Lesson]] = {}
    for lesson in syllabus():
        parts.setdefault(lesson.part, []).append(lesson)
    columns = ("number", "lesson", "minutes")
    captions = {part: f"{part}: {_together(lessons)}" for part, lessons in parts.items()}
    made = {part: table(captions[part], columns, map(_lesson, lessons)) for part, lessons in parts.items()}
    return "\n\n".join(f"### {part}\n\n{made[part]}" for part in parts)


def _together(lessons: list[Lesson]) -> str:
    minutes = sum(lesson.minutes for lesson in lessons)
    return f"{len(lessons)} lesson{'s' * (len(lessons) > 1)}, {minutes} minutes"


def _lesson(lesson: Lesson) -> Row:
    if not lesson.ready:
        return lesson.number, small(lesson.title, f"{lesson.question} In preparation."), lesson.minutes
    title = link(lesson.title, f"lessons/{lesson.stem}.html")
    return lesson.number, Html(f"{title}<br><small>{escape(lesson.question)}</small>"), lesson.minutes


def _sidebar(caption: str, pages: list[str]) -> str:
    lines = "\n".join(pages)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```"
