"""Bundled DFT data, calculated for this package; each with a description (``DESCR``) of method and limits.

The data are small enough to come with the package and large enough to tell a good force model from a bad
one. They are independent thermal draws around one crystal structure, not trajectories: the group of a
structure is the random seed it was drawn with, so ``GroupKFold`` splits them without leaks.
"""

from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from tinynet_sklearn._validation import described
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.io import read_structures
from tinynet_sklearn.state_files import read_states

#: What can be learned from the bundled files.
TARGETS = ("forces", "ldos")

#: Energies on which the densities of states come unless others are asked for: below, the Ba 5p states; above,
#: weights of single states on single atoms that mean little (see DESCR).
LDOS_GRID = EnergyGrid(np.linspace(-7.0, 5.0, 241), width=0.2, zero="vbm")


@dataclass(frozen=True)
class _Source:
    """A bundled file, cutoffs (Angstrom) that give all its structures the same bonds, label noise (eV/A)."""

    name: str
    bonds: dict[str, float]
    label_noise: float


# Each cutoff stands in the gap that the distances of all structures leave between the first shell and the
# next: Ba-O 3.2 to 4.5, Ti-O 2.3 to 4.0, Mo-O 2.6 to 3.1 Angstrom.
_BATIO3 = _Source("batio3_gpaw", {"Ba-O": 3.6, "Ti-O": 2.7}, 0.02)
_MOO3 = _Source("moo3_gpaw", {"Mo-O": 2.8}, 0.035)


def load_batio3(target: str = "forces", *, grid: EnergyGrid | None = None) -> Bunch:
    """Load 79 thermal structures of BaTiO3 (20 atoms) with DFT forces and local densities of states.

    Parameters
    ----------
    target : {"forces", "ldos"}, default="forces"
        What to learn.
    grid : EnergyGrid or None, default=None
        With ``target="ldos"``: energies, zero ("vbm", "fermi" or "absolute") and width to which the states
        are broadened. None: -7 to 5 eV from the valence band maximum in steps of 0.05 eV, width 0.2 eV. The
        states reach from 17 eV below the valence band maximum to about 8 eV above.

    Returns
    -------
    sklearn.utils.Bunch
        structures : list of ase.Atoms
            Positions in Angstrom, without calculators; ``info`` holds frame, kind, temperature, seed, strain,
            vbm, cbm, fermi and net_force as written by the calculation.
        target : PerAtomArray of shape (n_structures, 3) or LDOS of shape (n_structures, n_energies)
            Forces, eV/Angstrom, as calculated: the net force is not removed. Or local densities of states,
            states/eV/atom, from Mulliken weights of the states.
        forces : PerAtomArray of shape (n_structures, 3)
            The forces, whatever the target.
        groups : ndarray of int of shape (n_structures,)
            Random seed of each structure, for ``GroupKFold`` and its kin. All differ: independent draws.
        temperatures : ndarray of shape (n_structures,)
            K; 0 for the reference structure.
        energies : ndarray of shape (n_structures,)
            Free energy of the cell, eV, the one that the forces are the derivatives of.
        frames : ndarray of int of shape (n_structures,)
            Frame numbers in the source.
        bonds : dict of str to float
            Cutoffs (Angstrom) for ``CycleMomentFeaturizer(bonds=...)``.
        label_noise : float
            Estimated error of one force component, eV/Angstrom (see DESCR): no model can do better. NaN for
            densities of states, where it is not known.
        feature_unit, target_unit, target_name : str
            Units of positions and target; what the target is.
        filename : str
            File inside the package's ``data`` folder.
        DESCR : str
            Method, units, provenance, label noise, what the data are good for and what not.

    Raises
    ------
    ValueError
        If ``target`` is not one of those above, or ``grid`` is given without need, or without width.
    TypeError
        If ``grid`` is no EnergyGrid.

    Examples
    --------
    >>> from tinynet_sklearn import load_batio3
    >>> data = load_batio3()
    >>> data.target
    <PerAtomArray: 79 structures, 1580 atoms, 3 columns, species 8 22 56, float64, lab frame>
    >>> data.bonds
    {'Ba-O': 3.6, 'Ti-O': 2.7}
    >>> load_batio3("ldos").target.grid
    <EnergyGrid: 241 energies, -7 to 5 eV from the valence band maximum, width 0.2 eV>
    """
    return _load(_BATIO3, target, grid)


def load_moo3(target: str = "forces", *, grid: EnergyGrid | None = None) -> Bunch:
    """Load 81 thermal structures of alpha-MoO3 (16 atoms) with DFT forces and local densities of states.

    Parameters
    ----------
    target : {"forces", "ldos"}, default="forces"
        What to learn.
    grid : EnergyGrid or None, default=None
        As in `load_batio3`.

    Returns
    -------
    sklearn.utils.Bunch
        The same fields as those of `load_batio3`.

    Raises
    ------
    ValueError
        If ``target`` is not one of those above, or ``grid`` is given without need, or without width.
    TypeError
        If ``grid`` is no EnergyGrid.

    Examples
    --------
    >>> from tinynet_sklearn import load_moo3
    >>> data = load_moo3()
    >>> data.structures[0].get_chemical_formula(), len(data.structures), data.bonds
    ('Mo4O12', 81, {'Mo-O': 2.8})
    """
    return _load(_MOO3, target, grid)


def _load(source: _Source, target: str, grid: EnergyGrid | None) -> Bunch:
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(map(repr, TARGETS))}, got {target!r}.")
    if grid is not None and target != "ldos":
        raise ValueError(f"grid is for target='ldos'; got it with target={target!r}.")
    if not isinstance(grid, EnergyGrid | None):
        raise TypeError(
            f"grid must be an EnergyGrid or None; got {described(grid)}. Write "
            "EnergyGrid(energies, width=0.2, zero='vbm')."
        )
    folder = files("tinynet_sklearn") / "data"
    filename = f"{source.name}.extxyz"
    with as_file(folder / filename) as path:
        structures = read_structures(path)
    results = [atoms.calc.results for atoms in structures]
    for atoms in structures:
        atoms.calc = None  # stored results look like a calculator, and fail once an atom moves
    forces = PerAtomArray.from_list(
        [result["forces"] for result in results], [atoms.numbers for atoms in structures]
    )
    wanted: PerAtomArray = forces
    if target == "ldos":
        with as_file(folder / f"{source.name}_states.npz") as path:
            found = read_states(path, LDOS_GRID if grid is None else grid, structures)
        curves: Any = np.concatenate([one.ldos for one in found])
        wanted = replace(curves, sources=[f"{source.name}, structure {i}" for i in range(len(curves))])
    return Bunch(
        structures=structures,
        target=wanted,
        forces=forces,
        groups=_collected(structures, "seed", np.int64),
        temperatures=_collected(structures, "temperature", np.float64),
        energies=np.array([result["free_energy"] for result in results], dtype=np.float64),
        frames=_collected(structures, "frame", np.int64),
        bonds=dict(source.bonds),
        label_noise=source.label_noise if target == "forces" else np.nan,
        feature_unit="Angstrom",
        target_unit="eV/Angstrom" if target == "forces" else "states/eV/atom",
        target_name=target,
        filename=filename,
        DESCR=(folder / f"{source.name}.md").read_text(encoding="utf-8"),
    )


def _collected(structures: list[Any], key: str, dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    return np.array([atoms.info[key] for atoms in structures], dtype=dtype)
