"""Systems of DeePMD-kit, with or without densities of states of atoms.

A system is a folder with ``type.raw``, ``type_map.raw`` and sets (``set.000`` and so on) in their order:

=======================  ==============================  =========================================
file of a set            shape                           meaning
=======================  ==============================  =========================================
``coord.npy``            (n_frames, 3 n_atoms)           positions, Angstrom
``box.npy``              (n_frames, 9)                   lattice vectors, Angstrom; none if the
                                                         system has a file ``nopbc``
``atom_dos.npy``         (n_frames, n_atoms n_energies)  states/eV/atom
``dos.npy``              (n_frames, n_energies)          total, states/eV; optional
``force.npy``            (n_frames, 3 n_atoms)           eV/Angstrom; optional
``energy.npy``           (n_frames,)                     eV; optional
``virial.npy``           (n_frames, 9)                   eV; optional. Minus the virial is the volume
                                                         times ASE's stress
``real_atom_types.npy``  (n_frames, n_atoms)             in "mixed" systems: types of the atoms of each
                                                         frame, in place of ``type.raw``; -1 stands
                                                         where there is no atom
=======================  ==============================  =========================================

The energies of the densities of states, their zero and their width are stored nowhere: the caller says them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms

from tinynet_sklearn.calculations import (
    DAMAGED,
    VOIGT,
    Calculation,
    loaded_arrays,
    of_one_calculation,
    refusal,
    require_file,
    unparsed,
)
from tinynet_sklearn.energy_grid import EnergyGrid, Levels
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.structures import atomic_number

__all__ = ["is_deepmd", "read_deepmd"]


def is_deepmd(folder: Path) -> bool:
    """Whether a folder is a system of DeePMD-kit."""
    return (folder / "type.raw").is_file()


def read_deepmd(
    folder: Path, grid: EnergyGrid | None, *, projected: bool = True, finite: bool = True
) -> Iterator[Calculation]:
    """Read all frames of a system, set after set. Those of damaged sets are left out until the end.

    Parameters
    ----------
    folder : Path
    grid : EnergyGrid or None
        Energies of the densities of states.
    projected : bool, default=True
        Whether to read densities of states.
    finite : bool, default=True
        Whether to refuse NaN and infinity.

    Returns
    -------
    list of Calculation
        One per frame.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or damaged, shapes do not fit together, or energies are needed and not passed.
    """
    kinds, types = _types(folder)
    sets = sorted(path for path in folder.glob("set.*") if path.is_dir())
    if not sets:
        raise refusal(folder, "it has a type.raw, but no folder set.000. Copy the sets into it.")
    if projected and grid is None:
        raise refusal(
            sets[0] / "atom_dos.npy",
            "the format does not store energies. Pass energies=, one for each column of an atom.",
        )
    periodic = not (folder / "nopbc").exists()
    curves = grid if projected else None
    errors: list[FileNotFoundError | ValueError] = []
    for part in sets:
        try:
            yield from _of_set(part, kinds, types, periodic, curves, finite)
        except (FileNotFoundError, ValueError) as error:
            errors.append(error)
    if 1 < len(errors) < len(sets):
        raise ValueError(" ".join(map(str, errors)))
    if errors:  # one says it if all are damaged
        raise errors[0]


def _types(folder: Path) -> tuple[IntArray, IntArray]:
    """Atomic numbers of the symbols in type_map.raw; types of the atoms in type.raw."""
    path = require_file(folder / "type.raw")
    symbols = require_file(folder / "type_map.raw").read_text().split()
    try:
        types = np.loadtxt(path, dtype=np.int64, ndmin=1).ravel()
    except ValueError as error:
        raise unparsed(path, error) from error
    _check_types(path, types, 0, len(symbols))
    try:
        return np.array([atomic_number(symbol) for symbol in symbols]), types
    except ValueError as error:
        raise refusal(folder / "type_map.raw", str(error)) from error


def _check_types(path: Path, types: IntArray, lowest: int, n_kinds: int) -> None:
    if not types.size:
        raise refusal(path, f"there are no types in it. {DAMAGED}")
    if types.min() < lowest or types.max() >= n_kinds:
        raise refusal(
            path,
            f"types must be between {lowest} and {n_kinds - 1}, the symbols of type_map.raw; got "
            f"{types.min()} to {types.max()}.",
        )


def _of_set(
    folder: Path, kinds: IntArray, types: IntArray, periodic: bool, grid: EnergyGrid | None, finite: bool
) -> list[Calculation]:
    n_atoms = len(types)
    positions = _array(folder / "coord.npy", None, 3 * n_atoms, f"3 coordinates of {n_atoms} atoms", finite)
    n_frames = len(positions)
    cells = None
    if periodic:
        cells = _array(folder / "box.npy", n_frames, 9, "9 components of the lattice vectors", finite)
    per_atom = f"3 components for {n_atoms} atoms"
    forces = _optional(folder / "force.npy", n_frames, 3 * n_atoms, per_atom, finite)
    energies = _optional(folder / "energy.npy", n_frames, 1, "an energy", finite)
    virials = _optional(folder / "virial.npy", n_frames, 9, "9 components of the virial", finite)
    mixed = folder / "real_atom_types.npy"
    own = _optional(mixed, n_frames, n_atoms, f"types of {n_atoms} atoms")
    if own is not None:
        _check_types(mixed, own.astype(np.int64), -1, len(kinds))
    curves = total = None
    if grid is not None:
        wanted = f"{n_atoms} atoms x {len(grid)} energies"
        curves = _array(folder / "atom_dos.npy", n_frames, n_atoms * len(grid), wanted)
        total = _optional(folder / "dos.npy", n_frames, len(grid), f"{len(grid)} energies")
    found = []
    for i in range(n_frames):
        kind = types if own is None else own[i].astype(np.int64)
        there = slice(None) if own is None else kind >= 0
        cell = None if cells is None else cells[i].reshape(3, 3)
        atoms = Atoms(kinds[kind[there]], positions[i].reshape(-1, 3)[there], cell=cell, pbc=periodic)
        source = f"{folder}, frame {i}"
        ldos = None
        if grid is not None and curves is not None:
            ldos = of_one_calculation(
                folder / "atom_dos.npy",
                curves[i].reshape(n_atoms, len(grid))[there],
                atoms.numbers,
                grid,
                levels=Levels.unknown(1),
                total=None if total is None else total[i],
                source=source,
            )
        of_frame = None if forces is None else forces[i].reshape(-1, 3)[there]
        energy = np.nan if energies is None else float(energies[i, 0])
        stress = None
        if virials is not None and periodic and atoms.get_volume() > 0:
            stress = (-virials[i].reshape(3, 3) / atoms.get_volume())[VOIGT]
        found.append(Calculation(source, atoms, ldos, of_frame, energy, stress))
    return found


def _optional(
    path: Path, n_frames: int, n_columns: int, columns: str, finite: bool = True
) -> FloatArray | None:
    return _array(path, n_frames, n_columns, columns, finite) if path.is_file() else None


def _array(path: Path, n_frames: int | None, n_columns: int, columns: str, finite: bool = True) -> FloatArray:
    """Array of a set, (n_frames, n_columns)."""
    array = loaded_arrays(path).get("", np.empty(0)).astype(np.float64)
    rows = array.reshape(len(array), -1) if array.ndim else array.reshape(1, 1)
    if rows.shape[1] != n_columns or (n_frames is not None and len(rows) != n_frames):
        frames = "any number of frames" if n_frames is None else f"{n_frames} frames"
        raise refusal(
            path,
            f"its shape must be that of {frames} with {n_columns} numbers ({columns}); got {array.shape}.",
        )
    wrong = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if finite and len(wrong):
        raise refusal(path, f"frame {wrong[0]} holds NaN or infinity. Leave it out.")
    return rows
