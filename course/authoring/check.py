"""The rules of the house that a program can hold: ``python3 -m course check`` names every lesson that breaks one.

Each rule is a function from a lesson's cells to the sentences that say what is wrong. Taste stays with the readers.
"""

import argparse
import ast
import importlib
import itertools
import re
import statistics
import sys
from collections.abc import Iterator

from course.authoring.build import checked_cells
from course.exercise.exercise import Exercise
from course.sources import Cell, sources
from course.syllabus import find

TO_WRITE = "WRITE:"  # where a template of `course new` waits for a person
PARAMETERS = ("scale", "checkpoint", "device", "seed")
_MAY_IMPORT = {
    "torch",
    "helpers",
    "course",
    "transformers",
    "numpy",
    "copy",
    "functools",
    "itertools",
    "json",
    "math",
    "struct",
    "time",
    "pathlib",
    "dataclasses",
    "os",
    "pickle",
    "safetensors",
    "tempfile",
    "logging",
    "bitsandbytes",
}
_BANNED = re.compile(r"\b(simply|obviously|just|trivially|of course|blazing\w*|revolutionary|game.?chang\w*)\b", re.I)
_LONGEST_CELL, _LONGEST_MEDIAN, _LONGEST_PARAGRAPH, _SETUP_LINES = 30, 8, 90, 10
_HEADING = re.compile(r"^(#+) (.+)$", re.M)
_FENCE = re.compile(r"^```.*?^```", re.S | re.M)


def code_lines(cell: Cell) -> int:
    """Lines of a code cell that are neither blank nor a comment alone."""
    return sum(1 for line in cell.solved.splitlines() if line.strip() and not line.strip().startswith("#"))


def short_cells(found: list[Cell]) -> Iterator[str]:
    lengths = [code_lines(cell) for cell in found if cell.kind == "code"]
    for cell, length in zip([c for c in found if c.kind == "code"], lengths, strict=True):
        if length > _LONGEST_CELL:
            yield f"a cell of {length} lines ({_first(cell)}): {_LONGEST_CELL} at most"
    if lengths and statistics.median(lengths) > _LONGEST_MEDIAN:
        yield f"the median cell has {statistics.median(lengths):g} lines: {_LONGEST_MEDIAN} at most"


def no_more_than_two_code_cells_in_a_row(found: list[Cell]) -> Iterator[str]:
    for first, second, third in zip(found, found[1:], found[2:], strict=False):
        if {first.kind, second.kind, third.kind} == {"code"}:
            yield f"three code cells in a row from {_first(first)}"


def short_paragraphs(found: list[Cell]) -> Iterator[str]:
    for cell in found:
        for paragraph in _prose(cell).split("\n\n"):
            if len(paragraph.split()) > _LONGEST_PARAGRAPH and not paragraph.lstrip().startswith(("|", "-", "1.")):
                yield f"a paragraph of {len(paragraph.split())} words ({paragraph.split(chr(10))[0][:50]}...)"


def plain_words(found: list[Cell]) -> Iterator[str]:
    for cell in found:
        for word in _BANNED.findall(_prose(cell)):
            yield f"the word {word!r} ({_first(cell)})"


def headings_in_order(found: list[Cell]) -> Iterator[str]:
    levels = [len(marks) for cell in found for marks, _ in _HEADING.findall(_prose(cell))]
    if levels.count(1) != 1 or levels[:1] != [1]:
        yield f"one title (#) must stand first; found {levels.count(1)}"
    for above, below in itertools.pairwise(levels):
        if below > above + 1:
            yield f"a heading of level {below} under one of level {above}: a screen reader loses the thread"


def parameters_as_agreed(found: list[Cell]) -> Iterator[str]:
    cell = next(cell for cell in found if "parameters" in cell.tags)
    names = tuple(line.split("=")[0].strip() for line in cell.text.splitlines() if "=" in line)
    if names != PARAMETERS:
        yield f"the parameters cell sets {names}; it must set {PARAMETERS}"


def short_setup(found: list[Cell]) -> Iterator[str]:
    if code_lines(_setup(found)) > _SETUP_LINES:
        yield f"the set-up cell has {code_lines(_setup(found))} lines: {_SETUP_LINES} at most"


def parameters_checked_first(found: list[Cell]) -> Iterator[str]:
    """A value that nobody knows is refused before anything is done with it."""
    call = f"begin({', '.join(PARAMETERS)})"
    users = (line for line in ast.parse(_setup(found).solved).body if _names(line) & set(PARAMETERS))
    if (first := next(users, None)) is None or call not in ast.unparse(first):
        yield f"the set-up cell does nothing with a parameter before {call}, which refuses unknown values"


def imports_known(found: list[Cell]) -> Iterator[str]:
    for cell in found:
        if cell.kind == "code":
            for name in _imports(cell.solved):
                if name not in _MAY_IMPORT:
                    yield f"imports {name}: a lesson imports {', '.join(sorted(_MAY_IMPORT))}"


def five_exercises(found: list[Cell]) -> Iterator[str]:
    written = [cell for cell in found if cell.tag("answer")]
    graded = [cell for cell in found if cell.tag("exercise")]
    if len(graded) < 4 or not written:
        yield f"{len(graded)} checked exercises and {len(written)} in words: 4 and 1 at least"


def predicts_and_reveals(found: list[Cell]) -> Iterator[str]:
    made = {cell.tag("predict") for cell in found if cell.tag("predict")}
    text = "\n".join(cell.text for cell in found if cell.kind == "code")
    revealed = set(re.findall(r"reveal\(\s*\"([^\"]+)\"", text))
    stored = set(re.findall(r"predict\(\s*\"([^\"]+)\"", text))
    if not made:
        yield "no prediction: the learner says a number before it is measured"
    for name in stored ^ revealed:
        wrong = "stored and never revealed" if name in stored else "revealed and never made"
        yield f"the prediction {name!r} is {wrong}"


def nothing_left_to_write(found: list[Cell]) -> Iterator[str]:
    for cell in found:
        if TO_WRITE in cell.text:
            yield f"{TO_WRITE} is still there ({_first(cell)})"


RULES = [
    short_cells,
    no_more_than_two_code_cells_in_a_row,
    short_paragraphs,
    plain_words,
    headings_in_order,
    parameters_as_agreed,
    short_setup,
    parameters_checked_first,
    imports_known,
    five_exercises,
    predicts_and_reveals,
    nothing_left_to_write,
]


def exercises(lesson: str) -> dict[str, Exercise]:
    """Exercise id to its check, from the lesson's checks module."""
    module = importlib.import_module(f"course.checks.{lesson}")
    return {value.id: value for value in vars(module).values() if isinstance(value, Exercise)}


def complaints(lesson: str) -> list[str]:
    """What is wrong with a lesson, in sentences; empty when every rule holds. Build's rules first: others rely on them.

    Raises ValueError where there is no such lesson.
    """
    try:
        found = checked_cells(find(lesson).source)
    except ValueError as error:
        return [str(error)]
    said = [sentence for rule in RULES for sentence in rule(found)]
    said += _title(lesson, found)
    tagged = {cell.tag("exercise") for cell in found if cell.tag("exercise")}
    checked = set(exercises(lesson))
    said += [f"exercise {name!r} has no check" for name in tagged - checked]
    said += [f"check {name!r} has no exercise in the lesson" for name in checked - tagged]
    said += [
        f"exercise {e.id!r} has {len(e.hints)} hint(s): 2 at least"
        for e in exercises(lesson).values()
        if len(e.hints) < 2
    ]
    return said


def _title(lesson: str, found: list[Cell]) -> Iterator[str]:
    """The lesson's own title is the syllabus's: a learner finds the same words in README, tab and page."""
    row = find(lesson)
    title = next((text for cell in found for marks, text in _HEADING.findall(_prose(cell)) if marks == "#"), None)
    if title != row.title:
        yield f"its title is {title!r}; the syllabus says {row.title!r}, and build puts the number before it"


def _prose(cell: Cell) -> str:
    return _FENCE.sub("", cell.text) if cell.kind == "markdown" else ""


def _setup(found: list[Cell]) -> Cell:
    """The first code cell after the parameters: papermill puts its own between the two."""
    position = next(i for i, cell in enumerate(found) if "parameters" in cell.tags)
    return next(cell for cell in found[position + 1 :] if cell.kind == "code")


def _names(line: ast.stmt) -> set[str]:
    return {node.id for node in ast.walk(line) if isinstance(node, ast.Name)}


def _imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def _first(cell: Cell) -> str:
    return repr((cell.text.strip().splitlines() or ["empty"])[0][:50])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python3 -m course check", description="Hold lessons to the rules of the house."
    )
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="names or numbers; all lessons when none is given")
    wanted = parser.parse_args(argv).lessons or list(sources())
    said = 0
    for lesson in wanted:
        try:
            found = complaints(find(lesson).name)
        except ValueError as error:
            found = [str(error)]
        for sentence in found:
            print(f"✗ {lesson}: {sentence}")
        said += len(found)
    print(f"{len(wanted)} lesson(s), {said or 'no'} complaint(s)", file=sys.stderr if said else sys.stdout)
    return 1 if said else 0
