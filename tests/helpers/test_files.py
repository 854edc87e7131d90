"""Files are read by name; what is written is whole, all or none, and a file that this user may not change stays."""

import errno
import os
from pathlib import Path

import pytest

from helpers import files
from helpers.files import make_folder, not_written, read_text, write_texts, write_whole


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


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "lesson.py"
    path.write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=r"lesson\.py is not UTF-8 text: byte 0xef at position 2$"):
        read_text(path)


def test_a_byte_order_mark_and_line_ends_are_no_text(tmp_path):
    (tmp_path / "lesson.py").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert read_text(tmp_path / "lesson.py") == "a\nb\n"


def test_texts_are_written_byte_for_byte_into_folders_that_may_be_new(tmp_path):
    texts = {tmp_path / "a.py": "é\r\n\u2028", tmp_path / "new" / "b.py": ""}
    write_texts(texts)
    assert {path: path.read_bytes().decode() for path in tmp_path.rglob("*.py")} == texts
    assert len(list(tmp_path.rglob("*"))) == 3


def _refused_folder(path, monkeypatch):
    (path.parent / "file").write_text("a file where a folder should be")
    return path.parent / "file" / "b.py"


def _refused_file(path, monkeypatch):
    path.write_text("write-protected")
    access = os.access
    monkeypatch.setattr(os, "access", lambda asked, mode: asked != path and access(asked, mode))  # root may write all
    return path


@pytest.mark.parametrize("refused", [_refused_folder, _refused_file])
def test_where_one_file_cannot_be_written_none_is(tmp_path, monkeypatch, refused):
    good = tmp_path / "a.py"
    good.write_text("old")
    bad = refused(tmp_path / "b.py", monkeypatch)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OSError, match=str(tmp_path)):
        write_texts({good: "new", bad: "new"})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_text_that_utf_8_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="surrogates"):
        write_texts({tmp_path / "a.py": "x", tmp_path / "b.py": "\ud83d"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX's")
def test_a_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path):
    path, link = tmp_path / "a.py", tmp_path / "link.py"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_texts({link: "new"})
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o640
