"""Reading files of structures, with errors that name the file and say what to do."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.xyz_files import is_xyz, iterate_xyz, open_text

#: Files of `ase.db`.
DATABASES = (".db", ".json")


def read_structures(path: str | PathLike[str]) -> list[Any]:
    """Read all frames of a file in any format that ASE knows.

    Parameters
    ----------
    path : str or path-like
        For example ``frames.extxyz``, ``vasprun.xml``, ``relax.traj``, ``POSCAR``.

    Returns
    -------
    list of ase.Atoms
        At least one. Energies and forces in the file are attached as ASE does it; see `stored_forces`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If ASE cannot read it, or there is no structure in it.
    """
    frames = []
    for found in iterate_structures(path):
        if isinstance(found, str):
            raise _unreadable(path, found)
        frames.append(found)
    return frames


def iterate_structures(path: str | PathLike[str]) -> Iterator[Any]:
    """Read a file like `read_structures`, frame after frame.

    A damaged frame of an XYZ file costs no other. In other formats that ASE reads frame after frame, those
    before it come before the error.

    Parameters
    ----------
    path : str or path-like

    Yields
    ------
    ase.Atoms or str
        Or why a frame of an XYZ file cannot be read.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `read_structures`.
    """
    from ase.io import iread

    path = Path(path)
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"cannot read {path}: {what}.")
    n_frames = 0
    try:
        if is_xyz(path):
            frames = iterate_xyz(path)
        elif path.suffix.lower() in DATABASES:
            frames = _iterate_database(path)
        else:
            frames = iread(path, index=":", do_not_split_by_at_sign=True)
        for n_frames, atoms in enumerate(frames, start=1):
            if isinstance(atoms, Exception):
                yield _in_words(atoms)
                continue
            if n_frames == 1:
                _take_aenet(path, atoms)
            yield atoms
    except Exception as error:  # ASE's readers raise whatever their parsing runs into
        raise _unreadable(path, _in_words(error)) from error
    if not n_frames:
        raise ValueError(f"cannot read {path}: there is no structure in it.")


def _iterate_database(path: Path) -> Iterator[Any]:
    """Rows of a database of ASE.

    What users keep beside the results, key-value pairs and ``data``, is in ``arrays`` and ``info`` as if it
    came from an extended XYZ file; ``ase.io.read`` leaves it out.
    """
    from ase.db import connect

    if path.suffix.lower() == ".db":
        _require_ase(path)
    with connect(path, type=path.suffix.lower().lstrip("."), serial=True) as database:
        for row in database.select():
            atoms = row.toatoms()
            try:
                data = row.data
            except Exception:  # objects of programs or versions that are not here; the structure is whole
                data = {}
            for name, value in {**data, **row.key_value_pairs}.items():
                array = _numbers(value)
                if array is not None and array.shape[:1] == (len(atoms),) and name not in atoms.arrays:
                    atoms.set_array(name, array)
                else:
                    atoms.info.setdefault(name, value)
            yield atoms


def _require_ase(path: Path) -> None:
    """Refuse files of SQLite that are of something else: ASE would write its tables into them."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if "systems" not in tables:
        raise ValueError("it is no database of ASE")


def _numbers(value: Any) -> NDArray[Any] | None:
    """Real numbers as an array; None of anything else."""
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    return array if array.dtype.kind in "biuf" else None


def _in_words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")


def _unreadable(path: str | PathLike[str], reason: str) -> ValueError:
    return ValueError(
        f"cannot read {path}: {reason}. Check that the file is complete and its name has the ending of its "
        "format (.extxyz, .cif, .traj, ...)."
    )


def _take_aenet(path: Path, atoms: Any) -> None:
    """Attach the energy (eV) and forces (eV/Angstrom) of an .xsf of aenet, known by its comment.

    ASE skips the comment, and takes forces in the unit of other .xsf files, Hartree/Angstrom.
    """
    from ase.calculators.singlepoint import SinglePointCalculator

    if ".xsf" not in path.suffixes[-2:]:
        return
    with open_text(path) as file:
        lines = file.read().splitlines()
    head = re.match(r"#\s*total energy\s*=\s*(\S+)\s*eV", next(filter(str.strip, lines), "").strip())
    if head is None:
        return
    results: dict[str, Any] = {"energy": float(head[1])}
    if getattr(atoms.calc, "results", {}).get("forces") is not None:
        start = next(i for i, line in enumerate(lines) if line.split()[:1] in (["PRIMCOORD"], ["ATOMS"]))
        rows = [words for line in lines[start + 1 :] if len(words := line.split()) >= 7]
        results["forces"] = np.array([words[4:7] for words in rows[: len(atoms)]], dtype=np.float64)
    atoms.calc = SinglePointCalculator(atoms, **results)


def stored_forces(atoms: Any) -> NDArray[np.float64] | None:
    """Forces (eV/Angstrom, shape (n_atoms, 3)) that came with a structure; None where there are none.

    Only results that were read are returned: no calculator is run, and no constraint is applied, as with
    ``atoms.get_forces(apply_constraint=False)``.

    Parameters
    ----------
    atoms : ase.Atoms
        Anything else has no forces.
    """
    results = getattr(getattr(atoms, "calc", None), "results", {})
    forces = results.get("forces", getattr(atoms, "arrays", {}).get("forces"))
    return None if forces is None else np.array(forces, dtype=np.float64)
