"""Texts in files: read with the file's name in every complaint, written all or none."""

import errno
import os
import shutil
from pathlib import Path


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, a byte order mark left out and line ends made one kind. Raises ValueError, OSError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"{path} is not UTF-8 text: byte 0x{byte:02x} at position {error.start}") from None


def write_texts(texts: dict[Path, str]) -> None:
    """Write every text or none: all of them are whole and beside their files before the first takes its place.

    Raises OSError for a file or folder that cannot be written, with everything as it was.
    """
    parts = {path.resolve(): path.resolve().with_name(f"{path.name}.{os.getpid()}.part") for path in texts}
    try:
        for (path, part), text in zip(parts.items(), texts.values(), strict=True):
            _write_part(path, part, text)
        for path, part in parts.items():
            os.replace(part, path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _write_part(path: Path, part: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not os.access(path, os.W_OK):  # a rename would replace even a file that is write-protected
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    part.write_bytes(text.encode("utf-8"))
    if path.exists():
        shutil.copymode(path, part)
