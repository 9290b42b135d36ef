"""Text files as people save them: in any encoding and with any line ends; and atomic writing."""

import errno
import os
import stat
from pathlib import Path

import pytest

from keras_imnet64.core.files import byte_order_mark, decode_text, write_atomic

TEXT = "naïve = 1\r\n"


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [
        ("utf-8", None),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
    ],
)
def test_text_with_and_without_a_byte_order_mark(encoding, mark):
    assert decode_text(TEXT.encode(encoding)) == TEXT
    assert byte_order_mark(TEXT.encode(encoding)) == mark


def test_the_other_order_of_bytes():
    assert decode_text(b"\xfe\xff" + TEXT.encode("utf-16-be")) == TEXT
    assert decode_text(b"\0\0\xfe\xff" + TEXT.encode("utf-32-be")) == TEXT
    assert decode_text(b"") == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("latin-1"), r"not UTF-8 text \(invalid .* at byte 2\): save it as UTF-8"),
        (TEXT.encode("utf-16-le"), "zero bytes, as text in UTF-16 has: save it as UTF-8"),
        (TEXT.encode("utf-16")[:-1], r"not UTF-16 text \(truncated data at byte 22\): save"),
    ],
)
def test_text_in_no_such_encoding(content, message):
    with pytest.raises(ValueError, match=message):
        decode_text(content)


def test_content_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a power cut could leave the name with nothing behind it. The name comes to disk last."""
    calls, fsync, replace = [], os.fsync, os.replace

    def note_sync(descriptor):
        state = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(state.st_mode) else f"{state.st_size} bytes")
        fsync(descriptor)

    def note_replace(source, target):
        calls.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    (tmp_path / "file").write_text("old")
    write_atomic(tmp_path / "file", "naïve")
    assert calls == ["6 bytes", "file", "folder"]
    assert (tmp_path / "file").read_text("utf-8") == "naïve"


def test_a_folder_that_its_file_system_does_not_sync_is_written_into(tmp_path, monkeypatch):
    def refuse_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse_folders)
    write_atomic(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_alone(name, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_text("old")
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"
