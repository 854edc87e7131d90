"""Text to train on that every machine already has: the source of Python's standard library."""

import sysconfig
from pathlib import Path

from helpers.data.corpus import Corpus, share

# Tables, tests, other people's packages, and files that are written anew on every machine.
LEFT_OUT = {"encodings", "pydoc_data", "lib2to3", "test", "tests", "idle_test", "site-packages", "dist-packages"}
GENERATED = ("_sysconfigdata", "config-")


def python_corpus(root: Path | None = None, held_out: float = 0.05) -> Corpus:
    """The standard library of the Python that runs: source and docstrings of every file, about 9 MB.

    A file is held out by the hash of its name, so that the split is the same on every machine and moves little from one
    Python to the next. ``held_out`` is the share of the names. Raises ValueError where this Python carries no source.
    """
    root = Path(root or sysconfig.get_paths()["stdlib"])
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    files = [name for name in files if _belongs(name)]
    if not files:
        raise ValueError(
            f"no Python source under {root}: this Python's standard library is zipped or absent; "
            "use a Python that keeps its .py files (python.org, conda, pyenv, a Linux distribution)"
        )
    texts = {name: (root / name).read_text(encoding="utf-8") for name in files}
    out = {name for name in files if share(name) < held_out}
    return Corpus(
        {name: text for name, text in texts.items() if name not in out},
        {name: text for name, text in texts.items() if name in out},
    )


def _belongs(name: str) -> bool:
    parts = name.split("/")
    return not LEFT_OUT.intersection(parts) and not parts[0].startswith(GENERATED)
