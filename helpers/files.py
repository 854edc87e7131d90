"""Text files that are written whole or not at all, and never over a file that this user may not change."""

import contextlib
import errno
import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whose folder is made: a reader never sees half a file.

    A file that may not be read or written stays: moving another into its place asks the folder's leave, not the file's.
    Raises OSError that names `path`; then it holds what it held.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_where_not_ours(path)
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # where nothing could be written, nothing may be removable
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from None


def refuse_where_not_ours(path: Path) -> None:
    """Raises PermissionError for a file that is there and that this user may not both read and write."""
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def make_folder(folder: Path) -> None:
    """Make `folder` and see that files can be made in it, before the work whose results go there.

    Raises OSError that names `folder`.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def not_written(error: OSError, place: Path) -> str:
    """As in "cannot write notebooks/measured: No space left on device": what a person reads."""
    return f"cannot write {error.filename or place}: {error.strerror or error}"
