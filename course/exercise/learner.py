"""What a learner leaves behind: predictions and the ledger's probabilities, as small JSON files.

They live in ``build/learner/`` beside the code (never committed), or in the folder that COURSE_LEARNER names: a hub
can put it on the learner's own disk, and CI gives every run a fresh one.
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers.files import refuse_where_not_ours, write_whole

_HOME = Path(__file__).resolve().parents[2] / "build" / "learner"
_stores: dict[Path, "LearnerStore"] = {}

# Until December 2026 predictions were stored under the number that their lesson had then.
NUMBER_THEN = {
    "roofline": "00",
    "claims": "01",
    "open_a_model": "03",
    "tokenizer": "04",
    "attention": "05",
    "mla": "06",
    "dsa": "07",
    "deltanet": "08",
    "what_came_next": "09",
    "experts": "10",
    "mtp": "11",
    "training_bill": "12",
    "formats": "13",
    "gptq_awq": "14",
    "quantise_moe": "15",
    "kernels": "16",
    "speculative": "18",
}


class LearnerStore:
    """A dict in one JSON file. Where that cannot be read or written, it stays as it is, and the dict lasts as long as
    the kernel."""

    def __init__(self, path: Path):
        self.path = path
        self._told = False
        self._values = self._read()

    def get(self, key: str, default=None):
        return self._values.get(key, default)

    def all(self) -> dict:
        return dict(self._values)

    def set(self, key: str, value) -> None:
        self._values = {**self._read(), **self._values, key: value}  # another notebook may have written meanwhile
        try:
            write_whole(self.path, json.dumps(self._values, indent=1))
        except OSError as error:
            self._keep_in_memory(f"cannot be written ({error.strerror})")

    def _read(self) -> dict:
        try:
            return _object(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except OSError as error:  # somebody else's, or of a disk that is away: no damage, and not ours to rename
            self._keep_in_memory(f"cannot be read ({error.strerror})")
        except ValueError as error:
            self._set_aside(error)
        return {}

    def _set_aside(self, damage: ValueError) -> None:
        """A damaged file is kept under another name, so that nothing a learner wrote is lost."""
        aside = next(path for path in _names_aside(self.path) if not path.exists())
        try:
            refuse_where_not_ours(self.path)
            os.replace(self.path, aside)
        except OSError as error:
            self._keep_in_memory(f"is damaged ({damage}) and cannot be renamed ({error.strerror})")
        else:
            print(f"{self.path.name} cannot be read ({damage}); kept as {aside.name}, starting afresh", file=sys.stderr)

    def _keep_in_memory(self, why: str) -> None:
        """Said once: a lesson stores a prediction every few cells."""
        if not self._told:
            print(f"kept in memory only: {self.path} {why}", file=sys.stderr)
        self._told = True


def _object(text: str) -> dict:
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}, not an object")
    return values


def _names_aside(path: Path) -> Iterator[Path]:
    """predictions.damaged.json, predictions.damaged-2.json, ...: what was damaged before is kept as well."""
    yield path.with_suffix(".damaged.json")
    yield from (path.with_suffix(f".damaged-{number}.json") for number in itertools.count(2))


def learner_store(name: str) -> LearnerStore:
    """The store ``name`` ("predictions", "ledger"), one object a file in this process."""
    path = Path(os.environ.get("COURSE_LEARNER") or _HOME) / f"{name}.json"
    if path not in _stores:
        _stores[path] = LearnerStore(path)
    return _stores[path]


def stored_prediction(name: str) -> dict | None:
    """The learner's prediction ``dsa.crossover``; one that was stored as ``07.crossover`` is found too."""
    store, (lesson, _, what) = learner_store("predictions"), name.partition(".")
    return store.get(name) or store.get(f"{NUMBER_THEN.get(lesson)}.{what}")
