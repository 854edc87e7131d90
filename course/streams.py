"""What a command prints reaches any stream: one that lacks our characters, one whose reader leaves, one that is closed.

The standard library only: the commands speak before anything is installed.
"""

from __future__ import annotations  # an old Python must come as far as the line that says what it lacks

import codecs
import contextlib
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from typing import TextIO

# What stands for a character on a Windows pipe (cp1252) or an ASCII terminal; the doctor says its findings so too
_WORDS = {"✓": "ok", "✗": "NO", "○": "--", "…": "...", "–": "-", "−": "-", "→": "->", "×": "x", "·": "-", "µ": "u"}
_HANDLER = "course-plain"


def print_in_plain_words() -> None:
    """From now on stdout and stderr write what their encoding lacks in words of ASCII, instead of failing."""
    codecs.register_error(_HANDLER, _in_plain_words)
    for stream in (sys.stdout, sys.stderr):
        if (
            isinstance(stream, io.TextIOWrapper) and not stream.closed
        ):  # a kernel has streams of its own, which need nothing
            stream.reconfigure(errors=_HANDLER)


def _in_plain_words(error: UnicodeError) -> tuple[str, int]:
    """An error handler for ``codecs``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    """Its word; the bare letter under an accent; else "?"."""
    letter = unicodedata.normalize("NFD", character)[0]
    bare = letter if letter.isascii() and character.isalpha() else "?"
    return _WORDS.get(character, bare)


@contextlib.contextmanager
def lasting_output() -> Iterator[list[OSError]]:
    """A command's streams, which cannot stop it: where the reader of a pipe leaves, or the disk is full, the command
    goes on into nothing, and what it writes to files is whole. The list names what else than a reader was lost.
    """
    before, lost = (sys.stdout, sys.stderr), []
    sys.stdout, sys.stderr = (_lasting(stream, number, lost) for number, stream in enumerate(before, start=1))
    try:
        yield lost
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: TextIO | None, descriptor: int, lost: list[OSError]) -> TextIO:
    """The same stream over an _Onward; as it is where it is no file (a notebook's, a test's)."""
    if stream is None:  # closed by the shell: >&-
        _into_nothing(descriptor)
        return open(descriptor, "w", encoding="utf-8", closefd=False)
    if not isinstance(stream, io.TextIOWrapper) or not isinstance(_raw(stream), io.FileIO):
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    raw = _Onward(stream.fileno(), lost)
    at_once = stream.line_buffering or stream.write_through
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=at_once)


def _raw(stream: io.TextIOWrapper) -> object:
    """What lies under its buffer; with PYTHONUNBUFFERED there is none."""
    return getattr(stream.buffer, "raw", stream.buffer)


class _Onward(io.FileIO):
    """A descriptor that leads into nothing from the first write that fails, for processes started later as well."""

    def __init__(self, descriptor: int, lost: list[OSError]):
        super().__init__(descriptor, "w", closefd=False)
        self._lost = lost

    def write(self, data) -> int | None:
        try:
            return super().write(data)
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self._lost.append(error)
            _into_nothing(self.fileno())
            return len(data)


def _into_nothing(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == descriptor:
        os.set_inheritable(descriptor, True)
        return
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
