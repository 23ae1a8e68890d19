"""Reading files of structures, with errors that name the file and say what to do."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


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
    from ase.io import read

    path = Path(path)
    if not path.is_file():
        what = "it is a folder" if path.is_dir() else "there is no such file"
        raise FileNotFoundError(f"cannot read {path}: {what}.")
    try:
        frames = read(path, index=":", do_not_split_by_at_sign=True)
    except Exception as error:  # ASE's readers raise whatever their parsing runs into
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(
            f"cannot read {path}: {reason}. Check that the file is complete and its name has the "
            "ending of its format (.extxyz, .cif, .traj, ...)."
        ) from error
    if not frames:
        raise ValueError(f"cannot read {path}: there is no structure in it.")
    return list(frames)


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
