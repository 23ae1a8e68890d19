"""Targets of atoms, whichever way the user wrote them."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet_sklearn._validation import described, equally_wide, first_few
from tinynet_sklearn.containers import PerAtomArray

__all__ = ["as_target"]


def as_target(y: Any, X: PerAtomArray) -> PerAtomArray:
    """Targets `y` for the atoms of `X`, whichever way the user wrote them.

    Parameters
    ----------
    y : PerAtomArray or sequence of array-like of shape (n_atoms, k) or (n_atoms,)
        One part per structure of `X`, atoms in the same order. One number per atom may come without the
        column axis.
    X : PerAtomArray
        Features of the same atoms.

    Returns
    -------
    PerAtomArray
        With the offsets and species of `X`; the frames are those of `y`.

    Raises
    ------
    TypeError
        If `y` is anything from which the structures cannot be told, such as a plain array of rows, or does
        not hold numbers.
    ValueError
        If `y` has another number of structures, of atoms in one of them, or other species than `X`.
    """
    if not isinstance(y, PerAtomArray):
        y = PerAtomArray.from_list(equally_wide(_parts_of_target(y, X), "y", vectors_are_columns=True))
    if len(y) != len(X):
        raise ValueError(f"y must have one part per structure of X; got {len(y)} for {len(X)} structures.")
    wrong = np.flatnonzero(y.counts != X.counts)
    if len(wrong):
        cases = [f"{y.counts[i]} rows for the {X.counts[i]} atoms of structure {i}" for i in wrong]
        raise ValueError(f"y must have one row per atom of X; got {first_few(cases)}.")
    # Species 0 stands for "not said", as in targets that came as a list.
    different = np.flatnonzero((y.species != X.species) & (y.species != 0))
    if len(different):
        row = different[0]
        structure = X.structure_of_row[row]
        raise ValueError(
            f"y must list the atoms in the order of X; atom {row - X.offsets[structure]} of structure "
            f"{structure} has atomic number {y.species[row]} in y and {X.species[row]} in X. Take X and y "
            "from the same structures."
        )
    return PerAtomArray(y.values, X.offsets, X.species, y.frames)


def _parts_of_target(y: Any, X: PerAtomArray) -> Sequence[Any]:
    """The parts of targets that are none as one `PerAtomArray`, or an error that says what they must be."""
    must = "y must hold one (n_atoms, k) array per structure, in a list or a PerAtomArray; got "
    per_structure = (
        ", one number per structure. Targets here are per atom; energies of structures are learned by "
        "BPNNPotential."
    )
    if isinstance(y, list | tuple):
        if y and all(isinstance(part, numbers.Real) for part in y):
            raise TypeError(f"{must}a {type(y).__name__} of {len(y)} numbers{per_structure}")
        return y
    shape, kind = getattr(y, "shape", None), getattr(getattr(y, "dtype", None), "kind", "O")
    if shape is not None and len(shape) == 3:
        return list(np.asarray(y))
    if shape in ((len(X),), (len(X), 1)) and kind != "O" and len(X) != len(X.values):
        raise TypeError(f"{must}{described(y)}{per_structure}")
    remedy = "Split rows of all atoms with PerAtomArray(y, X.offsets, X.species)."
    if shape is None or len(shape) != 2:
        remedy = "Pass a list of arrays."
    raise TypeError(
        f"{must}{'None' if y is None else described(y)}. {remedy} Meta-estimators that flatten targets "
        "(TransformedTargetRegressor, Bagging, Voting, Stacking) are not supported."
    )
