"""What a checkpoint that is not opened is refused with: one line."""

import os
import reprlib

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 100


class CheckpointError(ValueError):
    """A checkpoint that is not opened: one line with the file or folder, then the reason."""

    def __init__(self, path: str | os.PathLike, reason: str):
        line = f"{path}: {reason}"
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in line))

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython asks for it): the line, without a page of frames."""
        return [f"{type(self).__name__}: {self}"]


def brief(value: object) -> str:
    """``value`` in few letters: a hostile name may be megabytes long, and a message is one line."""
    return _brief.repr(value)
