"""No speed without its source: what prose says of how fast something is, a record, a formula or a fact has said before.

A speed in prose is a rate ("40 tokens per second", "3 GB/s") or a ratio ("3 times as fast", "twice as slow", "a 10x
speed-up"). What was measured is printed by a cell from a record, so the sentence that names a number must say where it
comes from: on paper, by a formula, from a record or a command that makes one, or from a page that it links to. What
is no claim stands in NO_CLAIMS.
"""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from course.sources import cells, sources

ROOT = Path(__file__).resolve().parents[1]
_NUMBER = (
    r"(?:\d[\d.,]*|two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|fifty|(?:a )?hundred|(?:a )?thousand)"
)
_TIMES = rf"(?:twice|half|{_NUMBER}(?:\s*(?:×|x\b|times|-?fold))?(?: to {_NUMBER}(?:\s*(?:×|x\b|times|-?fold)))?)"
_RATIO = rf"\b{_TIMES}(?:\s+(?:as\s+(?:fast|quick|slow)|faster|slower|quicker)\b|\s*(?:×|x)?\s*speed-?ups?\b)"
_RATE = (
    r"\d[\d.,]*\s*[kMGTP]?(?:i?B|FLOPS?|OPS|tok(?:ens?)?|tokens|words|images|samples|requests)"
    r"\s*(?:/|per|a|each|every)\s*(?:s|sec|second)\b"
)
SPEED = re.compile(rf"{_RATIO}|{_RATE}", re.I)
SAYS_WHENCE = re.compile(r"on paper|formula|record|course measure|datasheet|arithmetic|\]\(http|https?://", re.I)
NO_CLAIMS = {  # words that hold a number of times and claim no speed, and why
    "tokenizer": ("fills the memory three times as fast", "three times the tokens, said in other words"),
    "mtp": ("twice as fast", "an exercise asks whether a colleague who says so is right"),
    "kernels": ("three times as fast as before", "an exercise asks why"),
}


def lesson_prose() -> Iterator[tuple[str, str]]:
    for name, path in sources().items():
        text = "\n\n".join(cell.text for cell in cells(path) if cell.kind == "markdown")
        yield name, text


def documents() -> Iterator[tuple[str, str]]:
    paths = [ROOT / "README.md", *ROOT.glob("course/**/*.md"), *ROOT.glob("helpers/**/*.md"), ROOT / "CITATION.cff"]
    for path in paths:
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    rows = tomllib.loads((ROOT / "course" / "lessons" / "syllabus.toml").read_text(encoding="utf-8"))
    yield "course/lessons/syllabus.toml", "\n\n".join(strings(rows))


def code_prose() -> Iterator[tuple[str, str]]:
    """Docstrings and comments of helpers and course; the lessons' and checks' words are in the lessons."""
    for path in sorted([*ROOT.glob("helpers/**/*.py"), *ROOT.glob("course/*.py"), *ROOT.glob("course/site/*.py")]):
        source = path.read_text(encoding="utf-8")
        nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        said = [ast.get_docstring(node) or "" for node in nodes]
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        said += [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
        yield path.relative_to(ROOT).as_posix(), "\n\n".join(said)


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def without_source(text: str, but: str | None = None) -> list[str]:
    """The sentences with a speed whose paragraph does not say where it comes from."""
    text = re.sub(
        r"^```.*?^```|(`+).+?\1|\"[\d.]+ \w+/s\"", "", text, flags=re.S | re.M
    )  # code, and how a rate is written
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        flat = " ".join(paragraph.replace("*", "").split())
        if SAYS_WHENCE.search(flat):
            continue
        found += [
            sentence
            for sentence in re.split(r"(?<=[.!?:;])\s", flat)
            if SPEED.search(sentence) and not (but and but in sentence)
        ]
    return found


PROSE = dict([*lesson_prose(), *documents(), *code_prose()])


@pytest.mark.parametrize("place", PROSE)
def test_every_speed_says_where_it_comes_from(place):
    found = without_source(PROSE[place], NO_CLAIMS.get(place, (None,))[0])
    assert not found, "print it from a record, or say in the paragraph which formula, record or page says so"


@pytest.mark.parametrize("place", NO_CLAIMS)
def test_every_exception_is_still_there(place):
    assert NO_CLAIMS[place][0] in " ".join(PROSE[place].split())


@pytest.mark.parametrize(
    "sentence",
    [
        "Our kernel is 3 times as fast as torch's.",
        "It is **3x faster**.",
        "Twice as fast as before.",
        "Two to three times slower than eager.",
        "A 10x speed-up on one card.",
        "It writes 40 tokens per second.",
        "Memory is read at 4.3 TB/s here.",
        "An H200 reaches 790 TFLOP/s.",
    ],
)
def test_a_speed_is_seen_and_with_its_source_it_may_stand(sentence):
    assert without_source(sentence)
    assert not without_source(f"{sentence} The record of lesson `kernels` has it.")
    assert not without_source(f"{sentence}\n[The datasheet](https://example.org) says so.")
    assert without_source(f"{sentence}\n\nAnother paragraph has a record.")


@pytest.mark.parametrize(
    "sentence",
    [
        "A batch of 1024 needs 1024 times the operations.",
        "It fills the memory in a third of the time.",
        "Twice the tokens, faster than you think.",
        "The two read 3 times, and GB/s is a unit.",
        "In five minutes a laptop trains it.",
    ],
)
def test_what_is_no_speed_is_left_alone(sentence):
    assert not without_source(sentence)
