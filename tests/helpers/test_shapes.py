"""One alphabet of axes: every capital letter in a signature of helpers stands in ``AXES``."""

import re
from pathlib import Path

import helpers
from helpers.shapes import AXES

SHAPE = re.compile(r"""\b(?:Float|Int|Bool|Shaped|UInt8)\[\w+, "([^"]*)"\]""")
LETTER = re.compile(r"(?<![A-Za-z])[A-Z](?![A-Za-z])")


def letters(source: str) -> set[str]:
    """The axes of all shapes in a source that are one capital letter, alone or in a name as ``other_N``."""
    return {letter for shape in SHAPE.findall(source) for letter in LETTER.findall(shape.replace("_", " "))}


def test_letters_are_found_alone_and_in_names():
    assert letters('x: Float[Tensor, "B *rest T_and_new width"]') == {"B", "T"}


def test_every_letter_of_every_signature_stands_in_the_alphabet():
    files = sorted(Path(helpers.__file__).parent.rglob("*.py"))
    found = {path.name: letters(path.read_text(encoding="utf-8")) for path in files}
    assert {name: unknown for name, used in found.items() if (unknown := used - set(AXES))} == {}


def test_every_letter_of_the_alphabet_is_used():
    files = Path(helpers.__file__).parent.rglob("*.py")
    assert set(AXES) == set().union(*(letters(path.read_text(encoding="utf-8")) for path in files))
