"""Archives that would fill the disk."""

import io
import os
import re
import tarfile
from collections import namedtuple

import pytest

from tinynet_sklearn import dataset_locations
from tinynet_sklearn.dataset_files import read_dataset
from tinynet_sklearn.dataset_locations import extracted

FRAME = b"1\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.0\nCu 0 0 0 0.1 0 0\n"


def pack(path, sizes):
    """An archive of files with so many bytes, most of them zeros."""
    with tarfile.open(path, "w:" + path.suffix[1:].replace("tar", "")) as archive:
        for k, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{k}.extxyz")
            member.size = size
            archive.addfile(member, io.BytesIO(FRAME + bytes(size - len(FRAME)) if size > 100 else FRAME))
    return path


@pytest.fixture
def room(monkeypatch):
    """A disk with 1 MB left."""
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(dataset_locations.shutil, "disk_usage", lambda folder: usage(1_000_000))


@pytest.mark.parametrize("name", ["all.tar", "all.tar.gz", "all.tar.bz2", "all.tar.xz"])
def test_no_more_than_there_is_room_for(name, tmp_path, room):
    path = pack(tmp_path / name, [len(FRAME), 600_000, 600_000])
    (folder := tmp_path / "folder").mkdir()
    assert extracted(path, folder) == (
        [],
        [
            f"cannot read {path}: it holds more than the 1.0 MB that are free for temporary files. If that "
            "is right, unpack it and name the folder."
        ],
    )
    # what is not compressed is counted before anything is unpacked
    assert sorted(os.listdir(folder)) == ([] if name == "all.tar" else ["0.extxyz", "1.extxyz"])


def test_files_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_locations, "MOST_MEMBERS", 2)
    path = pack(tmp_path / "all.tar.gz", [len(FRAME)] * 3)
    message = (
        f"cannot read {path}: it holds more than 2 files. If that is right, unpack it and name the folder."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        read_dataset(path)
    monkeypatch.setattr(dataset_locations, "MOST_MEMBERS", 3)
    assert len(read_dataset(path)) == 3


def test_a_plain_archive_that_was_cut_off_gives_what_is_there(tmp_path):
    path = pack(tmp_path / "all.tar", [len(FRAME), 50_000])
    path.write_bytes(path.read_bytes()[:20_000])
    (folder := tmp_path / "folder").mkdir()
    items, problems = extracted(path, folder)
    assert [item.path.name for item in items] == ["0.extxyz"]
    assert len(problems) == 1
    assert problems[0].endswith(
        "The file is damaged or was cut off; copy it again, or repeat the calculation."
    )
