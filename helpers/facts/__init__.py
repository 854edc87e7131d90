"""Tables of facts, each row with its source and its date.

A table is a TOML file in this folder: ``[[row]]`` entries, and above them the values that every row shares
(a row may say otherwise). Prices, dates and licences age: ``as_of`` is the day on which somebody last looked.
"""

import tomllib
from datetime import date
from pathlib import Path

FOLDER = Path(__file__).parent


def table(name: str) -> list[dict]:
    """The rows of ``helpers/facts/<name>.toml``, in order, each with at least ``source`` and ``as_of``.

    Raises ValueError when there is no such table (it names the ones there are) or a row lacks source or date.
    Built in lesson `claims`.
    """
    if name not in tables():
        raise ValueError(f"no table of facts {name!r}; there are {', '.join(tables())}")
    content = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    shared = {key: value for key, value in content.items() if key != "row"}
    rows = [{**shared, **row} for row in content.get("row", [])]
    return [_with_evidence(row, f"{name}.toml, row {number}") for number, row in enumerate(rows, start=1)]


def tables() -> list[str]:
    """The names of all tables."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def _with_evidence(row: dict, where: str) -> dict:
    """The row with ``as_of`` as a date, or ValueError."""
    source, as_of = row.get("source"), row.get("as_of")
    if not isinstance(source, str) or not source.strip():
        raise ValueError(f"{where}: every row says where it comes from, and this one has source = {source!r}")
    try:
        return {**row, "as_of": date.fromisoformat(str(as_of))}
    except ValueError:
        raise ValueError(f"{where}: every row says when it was looked up, as_of = 2026-11-23, got {as_of!r}") from None
