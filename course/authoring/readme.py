"""What the syllabus and pyproject.toml say elsewhere: README's table of lessons, Binder's requirements."""

import tomllib

from course.pip_install import CPU_WHEELS
from course.sources import REPOSITORY
from course.syllabus import ready_lessons, syllabus

_BEGIN, _END = "<!-- lessons -->", "<!-- /lessons -->"


def readme_table() -> str:
    """The lessons as a Markdown table: the ready ones linked, the others named in one line."""
    lines = ["| | lesson | question | minutes |", "|---|---|---|---|"]
    for lesson in ready_lessons():
        link = f"[{lesson.title}](notebooks/{lesson.stem}.ipynb)"
        lines.append(f"| {lesson.number} | {link} | {lesson.question} | {lesson.minutes} |")
    coming = "; ".join(f"{lesson.number} {lesson.title}" for lesson in syllabus() if not lesson.ready)
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
