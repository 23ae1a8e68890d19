"""Where the runs in a folder are, and which program made them, seen from the names of files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinynet_sklearn.calculations import refusal
from tinynet_sklearn.deepmd_files import is_deepmd
from tinynet_sklearn.siesta_files import siesta_has_results, siesta_label, siesta_runs
from tinynet_sklearn.state_files import has_states
from tinynet_sklearn.vasp_files import is_vasprun

__all__ = ["FORMATS", "Run", "find_runs", "natural_order"]

#: What each program leaves behind, by the name of its format.
FORMATS = {
    "siesta": "files of SIESTA (.PDOS, .XV, .fdf)",
    "vasp": "vasprun.xml",
    "states": ".npz of states",
    "deepmd": "folders with type.raw",
}

#: Files that mark the folder of a VASP run, from which vasprun.xml may be missing.
VASP_FILES = ("INCAR", "OUTCAR")


@dataclass(frozen=True)
class Run:
    """A run: its format, and a file, a folder or, for SIESTA, the path of its files without their endings."""

    format: str
    path: Path


def find_runs(path: Path, format: str | None, projected: bool) -> list[Run]:
    """Runs at a path.

    Parameters
    ----------
    path : Path
        A file of a run, the folder of one or several, or a folder of such folders. Where only sub-folders
        have results, files of runs beside them, as an ``INCAR`` that they share, are left out.
    format : str or None
        One of `FORMATS`; None takes all.
    projected : bool
        Whether densities of states are wanted.

    Returns
    -------
    list of Run
        In natural order of their names; at least one.

    Raises
    ------
    FileNotFoundError
        If there is nothing at the path.
    ValueError
        If the format is none of those, or not that of the file, or there is no run.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(
            f"format must be one of {', '.join(map(repr, FORMATS))}, or None to find it out; got {format!r}."
        )
    if path.is_dir():
        return _in_folders(path, format, projected)
    if not path.is_file():
        raise FileNotFoundError(f"cannot read {path}: there is no such file or folder.")
    run = _of_file(path, format)
    if run is None:
        raise refusal(
            path,
            "its name is none of .PDOS, .PDOS.xml, .XV, vasprun.xml, vasprun.xml.gz or .npz. Rename it, or "
            "pass format=.",
        )
    return [run]


def _of_file(path: Path, format: str | None) -> Run | None:
    """The run that a file is of, by the format or else the name."""
    label = siesta_label(path)
    named = None if label is None else "siesta"
    if is_vasprun(path):
        named = "vasp"
    elif path.suffix == ".npz":
        named = "states"
    if format is not None and named not in (None, format):
        raise refusal(
            path,
            f"by its name it is of the format {named!r}; got format={format!r}. Leave format out, or rename "
            "the file.",
        )
    found = format or named
    if found == "siesta":
        return None if label is None else Run("siesta", label)
    return None if found is None else Run(found, path.parent if found == "deepmd" else path)


def _in_folders(path: Path, format: str | None, projected: bool) -> list[Run]:
    """Runs in a folder; if none of them has results, those in its sub-folders, if one of those has."""
    runs = list(_in_folder(path, format, projected))
    if not any(_has_results(run, projected) for run in runs):
        folders = sorted((item for item in path.iterdir() if item.is_dir()), key=natural_order)
        inner = [run for folder in folders for run in _in_folder(folder, format, projected)]
        if not runs or any(_has_results(run, projected) for run in inner):
            runs = inner
    if not runs:
        wanted = list(FORMATS.values()) if format is None else [FORMATS[format]]
        raise refusal(
            path, f"there are no {' or '.join(wanted)} in it or its sub-folders. Pass a folder of runs."
        )
    return runs


def _has_results(run: Run, projected: bool) -> bool:
    """Whether a run has what its program writes, and not just what it reads."""
    if run.format == "siesta":
        return siesta_has_results(run.path, projected)
    if run.format == "states":
        return has_states(run.path)
    if run.format == "deepmd":
        return any(run.path.glob("set.*"))
    return run.path.is_file()


def _in_folder(folder: Path, format: str | None, projected: bool) -> Iterator[Run]:
    """Runs whose files are in a folder itself."""
    if is_deepmd(folder) and format in (None, "deepmd"):
        yield Run("deepmd", folder)
        return
    if format in (None, "siesta"):
        for label in sorted(siesta_runs(folder, projected), key=natural_order):
            yield Run("siesta", label)
    files = sorted((path for path in folder.iterdir() if path.is_file()), key=natural_order)
    if format in (None, "vasp"):
        outputs = [path for path in files if is_vasprun(path)]
        if not outputs and any(path.name in VASP_FILES for path in files):
            outputs = [folder / "vasprun.xml"]  # which is missed when it is read
        for path in outputs:
            yield Run("vasp", path)
    if format in (None, "states"):
        for path in files:
            if path.suffix == ".npz":
                yield Run("states", path)


def natural_order(path: Path) -> list[list[tuple[int, str]]]:
    """Key that sorts run2 before run10, folder by folder."""
    split = [re.split(r"(\d+)", part) for part in path.parts]
    return [[(int(text), "") if text.isdecimal() else (-1, text) for text in part] for part in split]
