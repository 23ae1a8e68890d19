"""One calculation as its files tell it, and the checks and messages that all readers of files share.

Each reader turns files of one program into a list of `Calculation`, one per structure; `ldos_io` puts them
together.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn.energy_grid import EnergyGrid, Levels
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.ldos import LDOS

__all__ = [
    "DAMAGED",
    "VOIGT",
    "Calculation",
    "check_spin",
    "grid_of_file",
    "levels_of_states",
    "loaded_arrays",
    "loaded_table",
    "of_one_calculation",
    "refusal",
    "require_file",
    "unparsed",
]

#: States are counted from the low end of a grid only if none is within so many widths of it.
CLEAR_OF_THE_END = 4.0

#: Energies of states that differ by less are equal: files have four decimals or more. The Fermi level of an
#: insulator may be that of its highest filled state.
SAME_ENERGY = 1e-3

#: One point k shows no bands, only states. An insulator has a greater gap than this, eV; a metal in a large
#: cell a smaller one.
GAP_AT_ONE_POINT = 0.1

#: Indices that take xx, yy, zz, yz, xz, xy out of a 3 x 3 tensor.
VOIGT = ([0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1])

#: What to do about a file that ends too early.
DAMAGED = "The file is damaged or was cut off; copy it again, or repeat the calculation."


@dataclass(frozen=True, eq=False)
class Calculation:
    """What is known of one structure.

    Parameters
    ----------
    source : str
        File or folder it is from.
    atoms : ase.Atoms
        Without a calculator.
    ldos : LDOS or None, default=None
        Of this structure alone; None where only geometry and forces were asked for.
    forces : ndarray of shape (n_atoms, 3) or None, default=None
        eV/Angstrom.
    energy : float, default=nan
        Of the whole structure, eV.
    stress : ndarray of shape (6,) or None, default=None
        eV/Angstrom^3, in the order and with the sign of ASE.
    """

    source: str
    atoms: Any
    ldos: LDOS | None = None
    forces: FloatArray | None = None
    energy: float = np.nan
    stress: FloatArray | None = None


def refusal(path: str | Path, problem: str) -> ValueError:
    """The error of a file that cannot be used."""
    return ValueError(f"cannot read {path}: {problem}")


def unparsed(path: Path, error: Exception) -> ValueError:
    """The error of a file that a parser could not get through."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return refusal(path, f"{reason.rstrip('.')}. {DAMAGED}")


def require_file(path: Path) -> Path:
    """Return the path of a file that exists and is not empty.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If there is nothing in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"cannot read {path}: there is no such file.")
    if path.stat().st_size == 0:
        raise refusal(path, "it is empty. Copy it again, or repeat the calculation.")
    return path


def loaded_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of a file of NumPy by their names; that of an ``.npy`` has the name "".

    Objects of Python are not loaded, since loading them runs whatever code is in them.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is damaged, or holds objects.
    """
    require_file(path)
    name = ""
    arrays = {}
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {name: found}
            for name in found.files:
                arrays[name] = found[name]
    except (BadZipFile, EOFError, OSError, ValueError) as error:
        if "allow_pickle" in str(error):
            where = f"its array {name!r}" if name else "it"
            raise refusal(
                path, f"{where} holds Python objects, which are never loaded. Save arrays of numbers."
            ) from None
        raise unparsed(path, error) from error
    return arrays


def loaded_table(path: Path, skip: int = 0) -> FloatArray:
    """Numbers of a text file in rows of equal length, after so many lines of other kind.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, rows differ in length, or there are none.
    """
    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*input contained no data", UserWarning)  # said below
            table = np.loadtxt(path, skiprows=skip, ndmin=2)
    except ValueError as error:
        raise unparsed(path, error) from error
    if not table.size:
        raise refusal(path, f"there are no numbers in it. {DAMAGED}")
    return np.asarray(table, dtype=np.float64)


def check_spin(path: Path, n_components: int, spin: str) -> None:
    """Refuse densities of states by spin that were not asked for, and all that are non-collinear.

    Parameters
    ----------
    path : Path
        For the message.
    n_components : int
        Components of the density of states: 1, 2 for two channels of spin, 4 for a density matrix.
    spin : {"refuse", "sum"}

    Raises
    ------
    ValueError
        As said.
    """
    if n_components > 2:
        raise refusal(
            path,
            "its spins are non-collinear, which is not supported. Use a calculation without spin, or with "
            "collinear spins.",
        )
    if n_components == 2 and spin == "refuse":
        raise refusal(path, "it is spin-polarised. Pass spin='sum' to add the two channels.")


def grid_of_file(path: Path, energies: ArrayLike, width: float | None) -> EnergyGrid:
    """Energies of a file, eV, with the zero of the calculation.

    Parameters
    ----------
    path : Path
        For the message.
    energies : array-like of shape (n_energies,)
        eV.
    width : float or None
        Standard deviation of the broadening, eV.

    Raises
    ------
    ValueError
        If they do not ascend in equal steps.
    """
    try:
        return EnergyGrid(np.asarray(energies), width)
    except ValueError as error:
        raise refusal(path, str(error)) from error


def of_one_calculation(
    path: Path,
    curves: FloatArray,
    numbers: Sequence[int] | np.ndarray[Any, Any],
    grid: EnergyGrid,
    *,
    levels: Levels,
    total: FloatArray | None,
    source: str | None = None,
) -> LDOS:
    """`LDOS` of one structure, after a look at its numbers.

    Parameters
    ----------
    path : Path
        For messages.
    curves : ndarray of shape (n_atoms, n_energies)
        States/eV/atom, both spins added.
    numbers : sequence of int
        Atomic numbers.
    grid : EnergyGrid
        Energies of the columns.
    levels : Levels
        Of the one structure.
    total : ndarray of shape (n_energies,) or None
        Total density of states of the calculation, states/eV.
    source : str or None, default=None
        None for the path.

    Raises
    ------
    ValueError
        If curves are not finite.
    """
    wrong = np.flatnonzero(~np.isfinite(curves).all(axis=1))
    if len(wrong):
        raise refusal(
            path, f"the density of states of atom {wrong[0]} holds NaN or infinity. Leave this file out."
        )
    return LDOS.from_arrays(
        [curves],
        grid,
        [numbers],
        levels=levels,
        reference_total=None if total is None else total[None],
        sources=(str(path) if source is None else source,),
    )


def levels_of_states(
    eigenvalues: FloatArray, fermi: float, grid: EnergyGrid, n_electrons: float = np.nan
) -> Levels:
    """Band edges and electrons of one structure, from its states.

    Band edges are those of an insulator: a material with equally many filled states at all points k, and a
    gap above them. Elsewhere they are NaN; so they are at a single point k with a gap of less than
    `GAP_AT_ONE_POINT`, where a metal looks the same.

    Parameters
    ----------
    eigenvalues : ndarray of shape (n_spins, n_k, n_states)
        eV; NaN where there is no state.
    fermi : float
        Fermi level, eV; NaN if it is not known. It tells which states are filled where the number of
        electrons does not, and may be equal to an edge.
    grid : EnergyGrid
        Electrons are counted from its low end, if that is `CLEAR_OF_THE_END` and cuts through no band.
    n_electrons : float, default=nan
        In all the states, where the files say it; needed for metals. The lowest states are filled with them.

    Returns
    -------
    Levels
        Of one structure.
    """
    vbm, cbm = _edges(eigenvalues, fermi, n_electrons)
    if np.isnan(n_electrons) and not np.isnan(vbm):
        n_electrons = 2.0 / len(eigenvalues) * float((eigenvalues[:, 0] <= vbm).sum())
    below = (eigenvalues < grid.low).sum(axis=-1)
    near = np.abs(eigenvalues - grid.low) < CLEAR_OF_THE_END * (grid.width or 0.0)  # NaN is not
    counted = n_electrons - 2.0 / len(eigenvalues) * float(below[:, 0].sum())
    if near.any() or (below != below[:, :1]).any():
        counted = np.nan
    return Levels(*(np.array([value]) for value in (fermi, vbm, cbm, counted)))


def _edges(eigenvalues: FloatArray, fermi: float, n_electrons: float) -> tuple[float, float]:
    """Highest filled and lowest empty state of an insulator, eV; NaN if it is none, or has none."""
    n_spins, n_k, _ = eigenvalues.shape
    if np.isnan(n_electrons):
        highest = [fermi + SAME_ENERGY, fermi - SAME_ENERGY]
    else:
        at_k = np.sort(eigenvalues.swapaxes(0, 1).reshape(n_k, -1))  # NaN last
        n_filled = n_electrons * n_spins / 2
        whole = abs(n_filled - round(n_filled)) < SAME_ENERGY and 0 < round(n_filled) <= at_k.shape[1]
        highest = [float(at_k[:, round(n_filled) - 1].max())] if whole else []
    for level in highest:
        filled = eigenvalues <= level
        counts = filled.sum(axis=-1)
        if not counts.sum() or (counts != counts[:, :1]).any():
            continue
        vbm = float(eigenvalues[filled].max())
        empty = eigenvalues[eigenvalues > level]
        cbm = float(empty.min()) if empty.size else np.nan
        if cbm - vbm > (SAME_ENERGY if n_k > 1 else GAP_AT_ONE_POINT) or (n_k > 1 and np.isnan(cbm)):
            return vbm, cbm
    return np.nan, np.nan
