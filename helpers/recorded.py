"""Records and the libraries that they depend on: which library has moved since a record was made.

Some numbers and texts follow the data that a library carries: CLDR in babel, a tokenizer's file format in tokenizers,
the standard library of Python itself. Such a record names the versions that it was made with, for example
``{"babel": "2.18.0", "python": "3.11.7"}``. With other versions it need not hold to the letter any more, and whoever
compares says so instead of guessing.
"""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version


def moved(recorded: Mapping[str, str]) -> str:
    """``"babel 2.19.0 here, recorded with 2.18.0"`` for each library that has moved; "" where none has.

    What stands behind a ``+`` names a build (``2.13.0+cpu``) and is no other version.
    """
    here = {name: _here(name) for name in recorded}
    others = [name for name in recorded if _public(here[name]) != _public(recorded[name])]
    return "; ".join(f"{name} {here[name]} here, recorded with {recorded[name]}" for name in others)


def differences(found: Mapping, recorded: Mapping) -> str:
    """``"48 more, 2 fewer, 1 other"``: how many entries differ from those recorded; "" where none does."""
    counts = {
        "more": len(found.keys() - recorded.keys()),
        "fewer": len(recorded.keys() - found.keys()),
        "other": sum(found[key] != recorded[key] for key in found.keys() & recorded.keys()),
    }
    return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def _here(name: str) -> str:
    """The version that is installed; of Python itself under the name "python"."""
    try:
        return platform.python_version() if name == "python" else version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _public(number: str) -> str:
    return number.partition("+")[0]
