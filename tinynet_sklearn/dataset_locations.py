"""Which files and runs make up a data set: what paths, folders and patterns lead to.

A folder is searched with all its sub-folders; hidden files are skipped. Of each run one thing is taken: a
system of DeePMD-kit; of VASP ``vasprun.xml``, else ``OUTCAR``, else ``XDATCAR``, else ``CONTCAR``, else
``POSCAR``; of SIESTA what `siesta_files` reads. Beside runs, files with one of the `ENDINGS` are read. Others
are read only if they are named.
"""

from __future__ import annotations

import glob
import lzma
import os
import shutil
import tarfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.calculations import refusal, unparsed
from tinynet_sklearn.deepmd_files import is_deepmd
from tinynet_sklearn.document_files import DOCUMENTS, TABLES
from tinynet_sklearn.run_locations import Run, natural_order
from tinynet_sklearn.siesta_files import siesta_has_results, siesta_label, siesta_runs
from tinynet_sklearn.vasp_files import is_vasprun

__all__ = ["ENDINGS", "Item", "existing_paths", "extracted", "find_items"]

#: Endings of files that ASE reads and that are looked for in folders; .gz, .bz2 and .xz may follow.
ENDINGS = (
    ".extxyz",
    ".xyz",
    ".traj",
    ".db",
    ".xsf",
    ".cif",
    ".vasp",
    ".poscar",
    ".pwo",
    ".castep",
    ".pdb",
    ".cfg",
    ".gen",
)

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
COMPRESSED = (".gz", ".bz2", ".xz")

#: An archive with more files is a mistake, or worse.
MOST_MEMBERS = 500_000

#: Files of VASP by the beginning of their names, those with most in them first.
VASP_FILES = ("OUTCAR", "XDATCAR", "CONTCAR", "POSCAR")


@dataclass(frozen=True)
class Item:
    """A file or a run.

    Parameters
    ----------
    kind : {"file", "document", "table", "archive", "run"}
        "file": one that ASE reads.
    path : Path
    run : Run or None, default=None
        Of the kind "run".
    named : bool, default=False
        Whether the caller named this very file; others may turn out to hold no structures.
    """

    kind: str
    path: Path
    run: Run | None = None
    named: bool = False


def existing_paths(path: Any) -> list[tuple[Path, bool]]:
    """Files and folders that a path, a pattern, or a list of them stands for.

    Parameters
    ----------
    path : str, path-like or sequence of them
        Patterns have ``*``, ``?`` or ``[...]``, and ``**`` for folders of any depth.

    Returns
    -------
    list of (Path, bool)
        Those of a pattern in natural order (``run2`` before ``run10``); whether it was named itself, not by a
        pattern.

    Raises
    ------
    TypeError
        If it is none of these.
    FileNotFoundError
        If there is nothing at one of them.
    """
    if isinstance(path, str | PathLike):
        path = [path]
    if not isinstance(path, Sequence | set | Iterator) or isinstance(path, bytes):
        raise TypeError(
            f"path must be that of a file or folder, a pattern, or a list of them; got {described(path)}."
        )
    found: list[tuple[Path, bool]] = []
    missing = []
    for one in path:
        try:
            text = os.fspath(one)
        except TypeError as error:
            raise TypeError(
                f"path must be a list of strings or paths; got one of {described(one)}."
            ) from error
        if not text:
            raise ValueError("path must name a file or folder; got ''. Write '.' for the current folder.")
        if Path(text).exists():
            found.append((Path(text), True))
            continue
        matches = glob.glob(text, recursive=True) if glob.has_magic(text) else []
        found += [(one, False) for one in sorted(map(Path, matches), key=natural_order)]
        if not matches:
            missing.append(text)
    if missing:
        raise FileNotFoundError(f"cannot read {first_few(missing)}: there is no such file or folder.")
    if not found:
        raise FileNotFoundError("path must name a file or folder; got an empty list.")
    return found


def find_items(places: Iterable[tuple[Path, bool]]) -> list[Item]:
    """Files and runs, each once, in the order of their places.

    Parameters
    ----------
    places : iterable of (Path, bool)
        From `existing_paths`. Files that are not named themselves are left out if their names are unknown.
    """
    found: dict[Any, Item] = {}
    for path, named in places:
        for item in _in_folder(path) if path.is_dir() else _of_file(path, named):
            run = item.run
            kind, place = (item.kind, item.path) if run is None else (run.format, run.path)
            found.setdefault((kind, place.resolve()), item)  # one file may have several paths
    return list(found.values())


def extracted(path: Path, folder: Path) -> tuple[list[Item], list[str]]:
    """Unpack the files of an archive into a folder; links, devices and names that lead elsewhere are refused.

    So is the whole of an archive whose files are larger together than what is free in the folder, or more
    than `MOST_MEMBERS`. Their sizes are summed before any is unpacked; where that would mean to decompress
    all twice, before each of them.

    Returns
    -------
    list of Item
        Files and runs that could be unpacked.
    list of str
        Sentences on what could not.
    """
    problems = []
    try:
        with tarfile.open(path) as archive:
            room = shutil.disk_usage(folder).free
            if path.name.endswith(".tar"):
                with suppress(OSError, tarfile.TarError):  # damage is told of below, after what is whole
                    deque(_fitting(archive, path, room), maxlen=0)
            for member in _fitting(archive, path, room):
                if member.isdir():
                    continue
                if not member.isreg():
                    kind = "a link" if member.issym() or member.islnk() else "a device"
                    problems.append(str(refusal(path, f"{member.name} is {kind}. Pack files only.")))
                    continue
                try:
                    member = tarfile.data_filter(member, str(folder))
                except tarfile.FilterError as error:
                    problems.append(str(refusal(path, f"{str(error).rstrip('.')}. Pack it again.")))
                    continue
                try:
                    archive.extract(member, folder, filter="data")
                except BaseException:
                    (folder / member.name).unlink(missing_ok=True)  # half of a file
                    raise
    except _TooLargeError as error:
        return [], [str(error)]
    except (EOFError, OSError, tarfile.TarError, zlib.error, lzma.LZMAError, ValueError) as error:
        problems.append(str(unparsed(path, error)))
    return [item for item in find_items([(folder, False)]) if item.kind != "archive"], problems


class _TooLargeError(Exception):
    """An archive has no room."""


def _fitting(archive: tarfile.TarFile, path: Path, room: int) -> Iterator[tarfile.TarInfo]:
    """Members of an archive, as long as they fit into so many bytes."""
    size = 0
    for number, member in enumerate(archive, 1):
        size += member.size
        if size > room or number > MOST_MEMBERS:
            what = f"the {room / 1e6:,.1f} MB that are free for temporary files"
            if number > MOST_MEMBERS:
                what = f"{MOST_MEMBERS:,} files"
            problem = f"it holds more than {what}. If that is right, unpack it and name the folder."
            raise _TooLargeError(refusal(path, problem))
        yield member


def _of_file(path: Path, named: bool) -> Iterator[Item]:
    name = path.name.lower()
    label = siesta_label(path)
    if name.endswith(ARCHIVES):
        yield Item("archive", path, named=named)
    elif is_vasprun(path):
        yield Item("run", path, Run("vasp", path), named)
    elif name == "type.raw":
        yield Item("run", path.parent, Run("deepmd", path.parent), named)
    elif label is not None and (named or siesta_has_results(label, False)):
        yield Item("run", path, Run("siesta", label), named)
    elif path.suffix.lower() == ".npz" and named:
        yield Item("run", path, Run("states", path), named)
    elif name.endswith(DOCUMENTS):
        yield Item("document", path, named=named)
    elif name.endswith(TABLES):
        yield Item("table", path, named=named)
    elif named or _plain(name).endswith(ENDINGS) or path.name.startswith(VASP_FILES):
        yield Item("file", path, named=named)


def _plain(name: str) -> str:
    """Name of a file, in small letters, without the ending of its compression."""
    return name.removesuffix(next((end for end in COMPRESSED if name.endswith(end)), ""))


def _in_folder(folder: Path) -> Iterator[Item]:
    if is_deepmd(folder):
        yield Item("run", folder, Run("deepmd", folder))
        return
    inside = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural_order)
    files = [path for path in inside if path.is_file()]
    labels = [label for label in siesta_runs(folder, False) if siesta_has_results(label, False)]
    for label in labels:
        yield Item("run", label, Run("siesta", label))
    of_siesta = {label.name for label in labels}
    for path in _without_lesser(files):
        if siesta_label(path) is None and path.name.split(".")[0] not in of_siesta:
            yield from _of_file(path, named=False)
    here = folder.resolve()
    for path in inside:
        if path.is_dir() and not here.is_relative_to(path.resolve()):  # no link to where we come from
            yield from _in_folder(path)


def _without_lesser(files: list[Path]) -> list[Path]:
    """Files without those of VASP that a better one of the same run makes superfluous."""
    if any(is_vasprun(path) for path in files):
        return [path for path in files if not path.name.startswith(VASP_FILES)]
    names = {path.name.split(".")[0] for path in files}
    best = next((name for name in VASP_FILES if name in names), None)
    if best is None:
        return files
    lesser = VASP_FILES[VASP_FILES.index(best) + 1 :]
    # POSCAR and POSCAR_1 are no run
    return [path for path in files if not (path.name.startswith(lesser) if lesser else False)]
