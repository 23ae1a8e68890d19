"""Energies, forces and stresses of structures: what a potential learns and what it predicts.

============  ========================  =========  =====================================================
name          shape                     unit       meaning
============  ========================  =========  =====================================================
energy        (n_structures,)           eV         of the whole structure, the one forces are derivatives of
forces        PerAtomArray, 3 columns   eV/Å       in the laboratory frame
stress        (n_structures, 6)         eV/Å^3     xx, yy, zz, yz, xz, xy; ASE's sign: tension is positive
============  ========================  =========  =====================================================

NaN stands for a number that is not known, so that structures with and without energies can be learned
together; a quantity that is known of no structure is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.targets import as_target

__all__ = ["PotentialTargets", "as_potential_targets"]

_QUANTITIES = ("energy", "forces", "stress")


@dataclass(frozen=True, eq=False, repr=False)
class PotentialTargets:
    """Energies, forces and stresses of some structures, which scikit-learn may split.

    ``len`` counts structures; a slice, an array of integers or a mask selects some of them.

    Parameters
    ----------
    energy : array-like of shape (n_structures,) or None, default=None
        Of the whole structure, eV. NaN where it is not known.
    forces : PerAtomArray or None, default=None
        With 3 columns, eV/Å. NaN in the rows of atoms whose force is not known.
    stress : array-like of shape (n_structures, 6) or None, default=None
        Voigt order xx, yy, zz, yz, xz, xy in the sign and unit of ASE, eV/Å^3. NaN where it is not known.

    Raises
    ------
    ValueError
        If all three are missing, a shape is wrong, or they are of different numbers of structures.

    Examples
    --------
    >>> from tinynet_sklearn import PotentialTargets, load_batio3
    >>> data = load_batio3()
    >>> targets = PotentialTargets(energy=data.energies, forces=data.target)
    >>> targets
    <PotentialTargets: 79 structures, energy, forces>
    >>> len(targets[:10])
    10
    """

    energy: FloatArray | None = None
    forces: PerAtomArray | None = None
    stress: FloatArray | None = None

    def __post_init__(self) -> None:
        if self.energy is not None:
            object.__setattr__(self, "energy", _checked(self.energy, "energy", 1))
        if self.stress is not None:
            object.__setattr__(self, "stress", _checked(self.stress, "stress", 2))
        if self.forces is not None and (
            not isinstance(self.forces, PerAtomArray) or self.forces.shape[1] != 3
        ):
            raise ValueError(
                f"forces must be a PerAtomArray with 3 columns; got {described(self.forces)}. "
                "PerAtomArray.from_list stacks one (n_atoms, 3) array per structure."
            )
        sizes = {name: len(part) for name in _QUANTITIES if (part := getattr(self, name)) is not None}
        if not sizes:
            raise ValueError("PotentialTargets needs energy, forces or stress; got None for all of them.")
        if len(set(sizes.values())) > 1:
            raise ValueError(
                "energy, forces and stress must be of the same structures; got "
                f"{', '.join(f'{n} for {name}' for name, n in sizes.items())}."
            )

    @classmethod
    def from_structures(cls, structures: Sequence[Any]) -> PotentialTargets | None:
        """Collect the results that came with structures; no calculator is run.

        Results of other positions, as of a calculator that several structures share, are left out. The energy
        is ASE's ``free_energy`` where there is one, since that is what forces are derivatives of; constraints
        are not applied to forces. Stresses are taken of structures with full periodicity only.

        Parameters
        ----------
        structures : sequence of ase.Atoms
            Anything else has no results.

        Returns
        -------
        PotentialTargets or None
            None if no structure has any.
        """
        results = [_results(atoms) for atoms in structures]
        energy = np.array([_energy(r) for r in results], dtype=np.float64)
        # of slabs, wires and molecules calculators give a stress that depends on the size of the box
        periodic = [np.all(getattr(atoms, "pbc", False)) for atoms in structures]
        stress = np.array(
            [_voigt(r.get("stress") if full else None) for r, full in zip(results, periodic, strict=True)]
        )
        forces: PerAtomArray | None = None
        if any("forces" in r for r in results):
            parts = [
                r.get("forces", np.full((len(atoms), 3), np.nan))
                for r, atoms in zip(results, structures, strict=True)
            ]
            forces = PerAtomArray.from_list(parts, species=[_numbers(atoms) for atoms in structures])
        known: dict[str, Any] = {
            "energy": None if np.isnan(energy).all() else energy,
            "forces": forces,
            "stress": None if np.isnan(stress).all() else stress,
        }
        return None if all(part is None for part in known.values()) else cls(**known)

    @property
    def known(self) -> dict[str, Any]:
        """Quantities of which at least one number is known, by name."""
        parts = {name: part for name in _QUANTITIES if (part := getattr(self, name)) is not None}
        return {name: part for name, part in parts.items() if np.isfinite(np.asarray(part)).any()}

    def known_of(self, names: Iterable[str]) -> NDArray[np.bool_]:
        """Whether any of these quantities is known of each structure, shape (n_structures,)."""
        found = np.zeros(len(self), dtype=bool)
        for name in set(names) & set(self.known):
            numbers = np.isfinite(np.asarray(getattr(self, name)))
            rows = numbers if numbers.ndim == 1 else numbers.any(axis=1)
            if name == "forces" and self.forces is not None:
                rows = np.bincount(self.forces.structure_of_row, rows, len(self)) > 0
            found |= rows
        return found

    @property
    def shape(self) -> tuple[int]:
        """(n_structures,): what scikit-learn counts as samples."""
        return (len(self),)

    def __len__(self) -> int:
        return len(next(part for name in _QUANTITIES if (part := getattr(self, name)) is not None))

    def __repr__(self) -> str:
        known = ", ".join(name for name in _QUANTITIES if getattr(self, name) is not None)
        return f"<PotentialTargets: {len(self)} structures, {known}>"

    def __getitem__(self, key: Any) -> PotentialTargets:
        if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
            key = key[0]  # sklearn.utils._safe_indexing asks for y[key, ...]
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            raise TypeError(
                f"PotentialTargets are indexed by a slice, an array of integers or a mask; got {key!r}. "
                f"Write targets[[{key!r}]]."
            )
        return PotentialTargets(
            *(None if (part := getattr(self, name)) is None else part[key] for name in _QUANTITIES)
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> FloatArray:
        raise TypeError(
            "PotentialTargets are no array: energies, forces and stresses have no common unit. Score with "
            "the scorers of tinynet_sklearn.potential_metrics."
        )


def as_potential_targets(y: Any, X: PerAtomArray) -> PotentialTargets:
    """Targets `y` of the structures behind `X`, whichever way the user wrote them.

    Parameters
    ----------
    y : PotentialTargets, mapping, PerAtomArray, list or ndarray, or None
        A mapping has the keys "energy", "forces" and "stress", or some of them; per-atom data of 3 columns
        are forces, one number per structure is an energy; None takes what came with the structures.
    X : PerAtomArray
        Features of the same structures.

    Returns
    -------
    PotentialTargets

    Raises
    ------
    TypeError
        If `y` is of another kind.
    ValueError
        If it does not fit X, or nothing came with the structures.
    """
    if y is None:
        stored = None if X.geometry is None else X.geometry.targets
        if stored is None:
            raise ValueError(
                "y=None takes energies, forces and stresses from the calculators of the structures; they "
                "have none. Pass y, or structures that were read with their results."
            )
        y = stored
    elif isinstance(y, Mapping):
        y = _of_mapping(y, X)
    elif not isinstance(y, PotentialTargets):
        array = None if isinstance(y, PerAtomArray) else _numbers_per_structure(y)
        y = PotentialTargets(forces=as_target(y, X)) if array is None else PotentialTargets(energy=array)
    if len(y) != len(X):
        raise ValueError(f"y must be of the {len(X)} structures of X; got {len(y)}.")
    if y.forces is not None:
        forces = as_target(y.forces, X)
        if forces.frames is not None:
            forces = PerAtomArray(forces.frames.to_lab(forces.values), forces.offsets, forces.species)
        y = PotentialTargets(y.energy, forces, y.stress)
    for name in _QUANTITIES:
        part = getattr(y, name)
        if part is not None and np.isinf(np.asarray(part)).any():
            raise ValueError(f"{name} must be finite, or NaN where it is not known; got infinity.")
    return y


def _of_mapping(y: Mapping[str, Any], X: PerAtomArray) -> PotentialTargets:
    unknown = [repr(name) for name in y if name not in _QUANTITIES]
    if unknown or not y:
        raise ValueError(
            f"y must have the keys 'energy', 'forces' and 'stress', or some of them; got "
            f"{first_few(unknown) or 'none'}."
        )
    parts = {name: part for name, part in y.items() if part is not None}
    if "forces" in parts:
        parts["forces"] = as_target(parts["forces"], X)
    return PotentialTargets(**parts)


def _numbers_per_structure(y: Any) -> FloatArray | None:
    """Energies, if that is what `y` is."""
    if isinstance(y, list | tuple) and y and all(isinstance(part, Real) for part in y):
        return np.asarray(y, dtype=np.float64)
    return y if isinstance(y, np.ndarray) and y.ndim == 1 and y.dtype.kind in "fiu" else None


def _checked(values: ArrayLike, name: str, ndim: int) -> FloatArray:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold real numbers; got {described(values)}.") from error
    wanted = "(n_structures,)" if ndim == 1 else "(n_structures, 6)"
    if array.ndim != ndim or (ndim == 2 and array.shape[1] != 6):
        remedy = (
            "Pass the energy of each whole structure."
            if ndim == 1
            else "Write stresses in Voigt order xx, yy, zz, yz, xz, xy, as ASE's get_stress does."
        )
        raise ValueError(f"{name} must have the shape {wanted}; got {array.shape}. {remedy}")
    return array


def _results(atoms: Any) -> Mapping[str, Any]:
    """Results of a structure's calculator, unless they are those of other positions."""
    # pymatgen's objects have a calc of their own kind
    calculator = getattr(atoms, "calc", None) if hasattr(atoms, "get_positions") else None
    results: Mapping[str, Any] = getattr(calculator, "results", None) or {}
    changes = getattr(calculator, "check_state", None)
    return {} if results and changes is not None and changes(atoms) else results


def _energy(results: Mapping[str, Any]) -> float:
    known = (results.get(name) for name in ("free_energy", "energy"))
    return next((float(value) for value in known if value is not None), np.nan)


def _voigt(stress: Any) -> FloatArray:
    """Six components of a stress as ASE's calculators leave it; NaN where there is none."""
    if stress is None:
        return np.full(6, np.nan)
    array = np.asarray(stress, dtype=np.float64)
    if array.shape == (3, 3):
        return array[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    return array


def _numbers(atoms: Any) -> Any:
    if hasattr(atoms, "numbers"):
        return atoms.numbers
    return [site.specie.Z for site in atoms]
