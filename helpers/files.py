"""Text files: read with the file's name in every complaint, written whole or not at all, several all or none."""

import contextlib
import errno
import os
import shutil
import tempfile
from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, a byte order mark left out and line ends made one kind. Raises ValueError, OSError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path} is not UTF-8 text: byte 0x{byte:02x} at position {error.start}") from None


def write_whole(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whose folder is made: nobody sees half a file. Raises as `write_texts`."""
    write_texts({path: text})


def write_texts(texts: dict[Path, str]) -> None:
    """Write every text or none: all of them are whole and beside their files before the first takes its place.

    A file keeps its mode, a link stays a link, and a file that may not be read or written stays as it is: a rename asks
    the folder's leave, not the file's. Raises OSError that names the file, with everything as it was.
    """
    parts = {path: path.resolve().with_name(f"{path.name}.{os.getpid()}.part") for path in texts}
    path = None
    try:
        for path, part in parts.items():
            _write_part(path.resolve(), part, texts[path])
        for path, part in parts.items():
            os.replace(part, path.resolve())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):  # where nothing could be written, nothing may be removable
                part.unlink(missing_ok=True)


def _write_part(path: Path, part: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_where_not_ours(path)
    part.write_text(text, encoding="utf-8", newline="")
    if path.exists():
        shutil.copymode(path, part)


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
