"""Runs of SIESTA: projected densities of states, geometries, forces.

A run is known by its system label, the name of its files without their endings:

===========================  =====================================================================
file                         what is taken from it
===========================  =====================================================================
``.PDOS.xml``, ``.PDOS``     densities of states of the orbitals, added up per atom (through sisl);
                             Fermi level. Either may end in ``.gz``
``.DOS``                     total density of states, if it is on the same energies
``.EIG``                     band edges, number of electrons
``.fdf``                     width: the third number of ``%block ProjectedDensityOfStates``
``.XV``, ``.STRUCT_OUT``     geometry; else that of the ``.fdf`` (through sisl)
``.FA``                      forces, without constraints
``FORCE_STRESS``             total energy, where there is only one run in the folder
===========================  =====================================================================

*Energies* in the files are absolute. sisl counts them from the Fermi level, which is undone here.

*Spin.* Without spin polarisation SIESTA writes the states of one spin: the curves of SrTiO3 hold 20 states
for its 40 electrons. They are doubled here, like the total.

*Width.* SIESTA's peaks are exp(-(E - e)^2 / w^2) / (w sqrt(pi)), so their standard deviation is w / sqrt(2).
(Eigenvalues of SrTiO3, broadened so, give its ``.DOS`` to the last digit.)
"""

from __future__ import annotations

import gzip
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import read
from ase.io.siesta import read_fdf
from ase.units import Hartree, Rydberg

from tinynet_sklearn.calculations import (
    DAMAGED,
    Calculation,
    check_spin,
    grid_of_file,
    levels_of_states,
    loaded_table,
    of_one_calculation,
    refusal,
    require_file,
    unparsed,
)
from tinynet_sklearn.energy_grid import EnergyGrid, Levels
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.ldos import LDOS

__all__ = ["read_siesta", "siesta_has_results", "siesta_label", "siesta_runs"]

#: Endings of projected densities of states; the first has more digits.
PROJECTED = (".PDOS.xml", ".PDOS", ".PDOS.xml.gz", ".PDOS.gz")

#: Endings of geometries, best first, that ASE reads, with its name for them.
GEOMETRIES = {".XV": "siesta-xv", ".STRUCT_OUT": "struct_out"}

#: Other endings by which a file names its run.
OTHERS = (".FA", ".EIG", ".DOS", ".fdf")

#: Atoms of two files are the same if they are at most this far apart, Angstrom.
SAME_PLACE = 0.01

#: Units of energy in the input, eV.
UNITS = {
    "ev": 1.0,
    "mev": 1e-3,
    "ry": float(Rydberg),
    "mry": 1e-3 * float(Rydberg),
    "ha": float(Hartree),
    "mha": 1e-3 * float(Hartree),
    "hartree": float(Hartree),
}

#: Energies of .DOS have five decimals.
LAST_DIGIT = 1e-5


def siesta_label(path: Path) -> Path | None:
    """Path of a run without an ending, from that of one of its files; None if it is no file of SIESTA."""
    for ending in (*PROJECTED, *GEOMETRIES, *OTHERS):
        if path.name.endswith(ending) and path.name != ending:
            return path.with_name(path.name[: -len(ending)])
    return None


def siesta_runs(folder: Path, projected: bool) -> list[Path]:
    """Labels of the runs in a folder, with its path before them.

    Parameters
    ----------
    folder : Path
    projected : bool
        Whether projected densities of states are wanted. Where no run has them, all runs are returned.
    """
    files = [path for path in folder.iterdir() if path.is_file()]
    for endings in ((PROJECTED,) if projected else ()) + (tuple(GEOMETRIES), (".fdf",)):
        found = {siesta_label(path) for path in files if path.name.endswith(endings)}
        if found:
            return sorted(label for label in found if label is not None)
    return []


def siesta_has_results(label: Path, projected: bool) -> bool:
    """Whether a run has what SIESTA writes: projected densities of states if wanted, else a geometry."""
    return any(_of(label, ending).is_file() for ending in (PROJECTED if projected else GEOMETRIES))


def read_siesta(label: Path, *, spin: str = "refuse", projected: bool = True) -> list[Calculation]:
    """Read one run.

    Parameters
    ----------
    label : Path
        Folder and system label, without an ending.
    spin : {"refuse", "sum"}, default="refuse"
        What to do with two channels of spin.
    projected : bool, default=True
        Whether to read densities of states.

    Returns
    -------
    list of Calculation
        Of one.

    Raises
    ------
    ImportError
        If sisl is needed and not installed.
    FileNotFoundError, ValueError
        If a file is missing or damaged, or files do not belong together.
    """
    atoms, place = _geometry(label)
    forces = _forces(_of(label, ".FA"), atoms)
    ldos = _ldos(label, atoms, place, spin) if projected else None
    source = str(place) if ldos is None else ldos.sources[0]
    return [Calculation(source, atoms, ldos, forces, _energy(label))]


def _of(label: Path, ending: str) -> Path:
    return label.with_name(label.name + ending)


def _sisl(path: Path) -> Any:
    try:
        import sisl.io.siesta
    except ImportError as error:
        raise ImportError(f"cannot read {path} without sisl. Install it: pip install sisl") from error
    return sisl


# ---- Geometry, forces, energy ----


def _geometry(label: Path) -> tuple[Atoms, Path]:
    """The atoms of a run, and the file that they are from."""
    path = next((p for p in (_of(label, ending) for ending in GEOMETRIES) if p.exists()), None)
    if path is not None:
        atoms = _geometry_of_ase(path)
    else:
        path = _input_file(label)
        if path is None:
            raise refusal(
                _of(label, ".XV"),
                "there is no such file, nor .STRUCT_OUT or .fdf, to take the geometry from. Copy the .XV of "
                "the run into the folder.",
            )
        atoms = _input_geometry(path)
    if not np.isfinite(atoms.positions).all() or not np.isfinite(atoms.cell.array).all():
        raise refusal(path, "positions or cell hold NaN or infinity. Leave this run out.")
    if (atoms.numbers < 1).any():
        raise refusal(
            path,
            f"atom {int(np.argmin(atoms.numbers))} is a ghost, a set of orbitals without an atom, which is "
            "not supported. Leave this run out.",
        )
    return atoms, path


def _geometry_of_ase(path: Path) -> Atoms:
    require_file(path)
    try:
        return read(path, format=GEOMETRIES[path.suffix])
    except Exception as error:  # ASE's readers raise whatever their parsing runs into
        raise unparsed(path, error) from error


def _input_file(label: Path) -> Path | None:
    """The .fdf of a run: that of its name, or the only one in the folder."""
    named = _of(label, ".fdf")
    if named.is_file():
        return named
    found = list(label.parent.glob("*.fdf"))
    return found[0] if len(found) == 1 else None


def _input_geometry(path: Path) -> Atoms:
    sisl = _sisl(path)
    file = sisl.io.siesta.fdfSileSiesta(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sisl.SislWarning)  # about orbitals, which are not wanted
            found = file.read_geometry()
        return Atoms(found.atoms.Z, positions=found.xyz, cell=found.cell, pbc=True)
    except Exception as error:  # whatever the parser runs into
        raise refusal(
            path,
            f"sisl finds no geometry in it ({type(error).__name__}). Copy the .XV of the run into the "
            "folder.",
        ) from error
    finally:
        handle = getattr(file, "fh", None)
        if handle is not None:  # sisl leaves it open
            handle.close()


def _forces(path: Path, atoms: Atoms) -> FloatArray | None:
    """Forces in eV/Angstrom, the unit of the file; None where there is none."""
    if not path.exists():
        return None
    rows = loaded_table(path, skip=1)
    if rows.shape != (len(atoms), 4):
        raise refusal(
            path,
            f"it must have the forces of {len(atoms)} atoms; got {len(rows)} rows of {rows.shape[1]} "
            f"numbers. {DAMAGED}",
        )
    if not np.isfinite(rows).all():
        raise refusal(path, "forces hold NaN or infinity. Leave this run out.")
    return np.asarray(rows[:, 1:], dtype=np.float64)


def _energy(label: Path) -> float:
    """Total energy in eV, from a file that has no label: only where it can be of no other run."""
    path = label.parent / "FORCE_STRESS"
    if not path.is_file() or len(siesta_runs(label.parent, projected=False)) > 1:
        return np.nan
    try:
        return float(path.read_text().split()[0]) * float(Rydberg)
    except (IndexError, ValueError) as error:
        raise unparsed(path, error) from error


# ---- Densities of states ----


def _ldos(label: Path, atoms: Atoms, place: Path, spin: str) -> LDOS:
    """Curves of the atoms, on the energies of the file."""
    path = next((p for p in (_of(label, ending) for ending in PROJECTED) if p.exists()), None)
    if path is None:
        raise refusal(
            _of(label, ".PDOS"),
            "there is no such file, nor .PDOS.xml. Put %block ProjectedDensityOfStates into the .fdf and run "
            "SIESTA again.",
        )
    geometry, energies, densities, fermi = _projected(require_file(path))
    check_spin(path, len(densities), spin)
    _check_same_atoms(path, geometry, place, atoms)
    both = 2.0 if len(densities) == 1 else 1.0  # of two channels, sisl gives the sum first
    curves = np.zeros((len(atoms), len(energies)))
    np.add.at(curves, geometry.o2a(np.arange(geometry.no)), both * densities[0])
    grid = grid_of_file(path, energies, _width(label))
    return of_one_calculation(
        path,
        curves,
        atoms.numbers,
        grid,
        levels=_levels(_of(label, ".EIG"), fermi, grid),
        total=_total(_of(label, ".DOS"), energies),
    )


def _projected(path: Path) -> tuple[Any, FloatArray, FloatArray, float]:
    """Geometry; energies of the file, eV; densities (n_spins, n_orbitals, n_energies); Fermi level, eV."""
    sisl = _sisl(path)
    try:
        with warnings.catch_warnings():
            # Old files have no Fermi level. Their energies are left as they are, which is what is wanted.
            warnings.filterwarnings("ignore", ".*could not locate the Fermi-level", sisl.SislWarning)
            geometry, energies, densities = sisl.io.siesta.pdosSileSiesta(path).read_data()
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            head = re.search(r"<fermi_energy[^>]*>([^<]*)<", file.read(4096))
        fermi = np.nan if head is None else float(head[1])
    except Exception as error:  # whatever the parser runs into, the XML or what it misses in it
        raise unparsed(path, error) from error
    return geometry, energies + np.nan_to_num(fermi), densities, fermi


def _check_same_atoms(path: Path, geometry: Any, place: Path, atoms: Atoms) -> None:
    """Refuse densities of states of other atoms than those of the geometry."""
    if geometry.na != len(atoms):
        raise refusal(
            path,
            f"it is of {geometry.na} atoms, {place.name} of {len(atoms)}. Keep the files of one run "
            "together.",
        )
    numbers = np.asarray(geometry.atoms.Z)
    other = np.flatnonzero((numbers != atoms.numbers) & (numbers > 0))
    if len(other):
        raise refusal(
            path,
            f"atom {other[0]} has atomic number {numbers[other[0]]}, in {place.name} "
            f"{atoms.numbers[other[0]]}. Keep the files of one run together.",
        )
    apart = np.linalg.solve(atoms.cell.array.T, (geometry.xyz - atoms.positions).T).T
    distances = np.linalg.norm((apart - np.round(apart)) @ atoms.cell.array, axis=1)
    if distances.max() > SAME_PLACE:
        raise refusal(
            path,
            f"its atoms are up to {distances.max():.2g} Angstrom from those of {place.name}, so they are of "
            "different steps of a relaxation or simulation. Calculate that one geometry without moving the "
            "atoms.",
        )


def _total(path: Path, energies: FloatArray) -> FloatArray | None:
    """Total density of states, states/eV; None where there is none on these energies."""
    if not path.is_file():
        return None
    table = loaded_table(path)
    n = min(len(table), len(energies))
    same = np.abs(table[:n, 0] - energies[:n]) <= 2 * LAST_DIGIT
    # up to the last row, which may end within its energy
    if table.shape[1] < 2 or (len(table) <= len(energies) and same[:-1].all() and same.sum() < len(energies)):
        raise refusal(
            path,
            f"it ends after {same.sum()} of the {len(energies)} energies of the projected densities of "
            f"states. {DAMAGED}",
        )
    if len(table) != len(energies) or not same.all():
        return None
    channels = table[:, 1:]
    return np.asarray(channels.sum(axis=1) * (2.0 if channels.shape[1] == 1 else 1.0))


def _width(label: Path) -> float | None:
    """Standard deviation of the broadening, eV; None where the input does not say."""
    path = _input_file(label)
    if path is None:
        return None
    try:
        settings = read_fdf(path)
    except OSError:  # it includes files that are not there
        return None
    block = settings.get("projecteddensityofstates")
    if block is None:
        return None
    try:
        # [EF] low, high, width, number of energies, unit
        words = [word.lower() for word in block[0] if word.upper() != "EF"]
        width = float(words[2].replace("d", "e"))
        return width * UNITS[words[4]] / float(np.sqrt(2.0))
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise refusal(
            path,
            "%block ProjectedDensityOfStates must hold [EF] low high width n unit, with a unit of eV, meV, "
            "Ry, mRy, Ha, mHa or Hartree; got "
            f"{' '.join(map(str, block[0])) if block else 'nothing'}. Correct it.",
        ) from error


def _levels(path: Path, fermi: float, grid: EnergyGrid) -> Levels:
    """Fermi level of the densities of states, and what the eigenvalues say, where they are there."""
    if not path.is_file():
        return Levels(fermi=np.array([fermi]))
    # Fermi level; numbers of states, spins and points k; for each point, its number and the states by spin.
    # Not through sisl, which waits forever for the rest of a file that was cut off.
    words = require_file(path).read_text().split()
    try:
        own, (n_states, n_spins, n_k) = float(words[0]), map(int, words[1:4])
        rows = np.array(words[4:], dtype=np.float64).reshape(n_k, 1 + n_spins * n_states)
    except (IndexError, ValueError) as error:
        raise unparsed(path, error) from error
    states = rows[:, 1:].reshape(n_k, n_spins, n_states).swapaxes(0, 1)
    return levels_of_states(states, own if np.isnan(fermi) else fermi, grid)
