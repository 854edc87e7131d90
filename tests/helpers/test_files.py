"""What is written is whole, and a file that this user may not change stays as it is."""

import errno
import os
from pathlib import Path

import pytest

from helpers import files
from helpers.files import make_folder, not_written, write_whole


@pytest.fixture
def not_mine(monkeypatch):
    """A user who may not change files of this name, whatever the tests run as."""

    def refuse(name: str):
        allowed = os.access
        monkeypatch.setattr(files.os, "access", lambda path, mode: Path(path).name != name and allowed(path, mode))

    return refuse


def test_a_text_is_written_as_it_is_and_its_folder_made(tmp_path):
    path = tmp_path / "a" / "b" / "text.json"
    write_whole(path, "größer ✓\n")
    write_whole(path, "the second ✗\n")
    assert path.read_bytes() == "the second ✗\n".encode()
    assert [found.name for found in path.parent.iterdir()] == ["text.json"]


def test_a_file_of_somebody_else_is_neither_renamed_nor_overwritten(tmp_path, not_mine):
    path = tmp_path / "theirs.json"
    path.write_text("theirs")
    not_mine("theirs.json")
    with pytest.raises(PermissionError) as refused:
        write_whole(path, "ours")
    assert refused.value.filename == str(path)
    assert path.read_text() == "theirs"
    assert [found.name for found in tmp_path.iterdir()] == ["theirs.json"]


def test_a_full_disk_leaves_the_file_before_whole_and_no_half_file_beside_it(tmp_path, monkeypatch):
    def full(self, text, **_named):
        with open(self, "w") as file:
            file.write(text[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "record.json"
    path.write_text("before")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left") as refused:
        write_whole(path, "what comes after")
    assert not_written(refused.value, tmp_path) == f"cannot write {path}: No space left on device"
    assert path.read_text() == "before"
    assert [found.name for found in tmp_path.iterdir()] == ["record.json"]


def test_a_folder_that_cannot_be_is_named_before_the_work(tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("")
    for folder in (blocked, blocked / "below"):
        with pytest.raises(NotADirectoryError) as refused:
            make_folder(folder)
        assert refused.value.filename == str(folder)
    make_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
