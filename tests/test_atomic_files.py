"""Files that are written whole or not at all."""

import os
from pathlib import Path

import pytest

from tinynet_sklearn.atomic_files import remove_torsos, write_atomically


def test_a_file_is_written_and_replaced(tmp_path):
    for content in (b"first", b"", b"third"):
        write_atomically(tmp_path / "file", content)
        assert (tmp_path / "file").read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_what_was_before(tmp_path, monkeypatch, step):
    def full(*_):
        raise OSError("disk full")

    write_atomically(tmp_path / "file", b"before")
    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    for name in ("file", "new"):
        with pytest.raises(OSError, match="disk full"):
            write_atomically(tmp_path / name, b"after")
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"before"


def test_the_file_is_complete_when_it_takes_its_name(tmp_path, monkeypatch):
    """The bytes are on the disk before the rename: the other way round a crash would leave an empty file."""
    steps, fsync, replace = [], os.fsync, Path.replace

    def watched_fsync(number):
        steps.append(("on the disk", os.fstat(number).st_size))
        fsync(number)

    def watched_replace(self, target):
        steps.append(("renamed", self.parent == target.parent, self.name.startswith(".")))
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "replace", watched_replace)
    write_atomically(tmp_path / "file", b"content")
    assert steps == [("on the disk", 7), ("renamed", True, True)]


def test_torsos_of_one_file_are_removed_by_their_age(tmp_path):
    names = ".file.young.tmp", ".file.old.tmp", ".other.old.tmp", "file", "file.old.tmp"
    for name in names:
        (tmp_path / name).touch()
        if "old" in name:
            os.utime(tmp_path / name, (1.0, 1.0))
    remove_torsos(tmp_path / "file", 60.0)
    assert sorted(os.listdir(tmp_path)) == sorted(set(names) - {".file.old.tmp"})
    remove_torsos(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == sorted({".other.old.tmp", "file", "file.old.tmp"})


def test_a_torso_that_another_process_removes_at_the_same_time(tmp_path, monkeypatch):
    (tmp_path / ".file.gone.tmp").touch()
    unlink = Path.unlink

    def too_late(self):
        unlink(self)
        unlink(self)

    monkeypatch.setattr(Path, "unlink", too_late)
    remove_torsos(tmp_path / "file")
    assert os.listdir(tmp_path) == []
