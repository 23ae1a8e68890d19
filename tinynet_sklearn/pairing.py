"""Rows of references and predictions, brought together: the same atoms, in the same order, all finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn._validation import equally_wide, first_few, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import FloatArray, IntArray

__all__ = ["Rows", "known_species", "rows_of_species", "same_rows"]

#: What the metrics take: one row per atom, with or without a division into structures.
Rows: TypeAlias = PerAtomArray | Sequence[ArrayLike] | FloatArray


def same_rows(y_true: Rows, y_pred: Rows) -> tuple[FloatArray, FloatArray]:
    """Rows of both, after checking that they belong together.

    Parameters
    ----------
    y_true, y_pred : PerAtomArray, list of array-like of shape (n_atoms, k), or ndarray of shape (n_rows, k)
        References and predictions in any combination; an array of shape (n_structures, n_atoms, k) will do.

    Returns
    -------
    true, predicted : ndarray of float64 of shape (n_rows, k)

    Raises
    ------
    ValueError
        If the two do not describe the same atoms, or a number is not finite.
    """
    true, predicted = _rows(y_true, "y_true"), _rows(y_pred, "y_pred")
    n_true, n_predicted = _counts(y_true), _counts(y_pred)
    if n_true is not None and n_predicted is not None:
        if len(n_true) != len(n_predicted):
            raise ValueError(
                "y_true and y_pred must hold the same structures; got "
                f"{len(n_true)} and {len(n_predicted)} of them."
            )
        wrong = [
            f"{n_true[i]} and {n_predicted[i]} atoms in structure {i}"
            for i in np.flatnonzero(n_true != n_predicted)
        ]
        if wrong:
            raise ValueError(f"y_true and y_pred must hold the same atoms; got {first_few(wrong)}.")
    if true.shape != predicted.shape:
        raise ValueError(
            f"y_true and y_pred must have the same rows and columns; got {true.shape} and {predicted.shape}."
        )
    if isinstance(y_true, PerAtomArray) and isinstance(y_pred, PerAtomArray):
        known = (y_true.species != 0) & (y_pred.species != 0)
        different = np.flatnonzero(known & (y_true.species != y_pred.species))
        if len(different):
            row = different[0]
            raise ValueError(
                f"y_true and y_pred must list the atoms in the same order; row {row} is "
                f"{species_name(y_true.species[row])} in y_true and {species_name(y_pred.species[row])} in "
                "y_pred."
            )
    return true, predicted


def known_species(y_true: Rows, y_pred: Rows) -> IntArray | None:
    """Atomic numbers (n_rows,) of the first of the two that knows any; None if neither does."""
    candidates = [y.species for y in (y_true, y_pred) if isinstance(y, PerAtomArray)]
    return next((numbers for numbers in candidates if numbers.any()), None)


def rows_of_species(
    y_true: Rows, y_pred: Rows, species: ArrayLike | Sequence[ArrayLike] | None, n_rows: int
) -> dict[str, IntArray]:
    """Rows of each species.

    Parameters
    ----------
    y_true, y_pred : PerAtomArray, list or ndarray
        As in `same_rows`.
    species : array-like of shape (n_rows,), or one array-like per structure, int; or None
        Atomic numbers; None takes them from `y_true` or `y_pred`.
    n_rows : int
        Number of rows of either.

    Returns
    -------
    dict of str to ndarray of int
        By chemical symbol, in the order of the atomic numbers.

    Raises
    ------
    ValueError
        If the species are not known, or not those of the rows.
    """
    known: Any = known_species(y_true, y_pred)
    if species is not None:
        flat = [np.atleast_1d(np.asarray(part)) for part in species]  # type: ignore[union-attr]
        known = np.concatenate(flat) if flat else np.array([])
        known = known if np.any(known) else None
    if known is None:
        raise ValueError(
            "species must be given where neither y_true nor y_pred is a PerAtomArray that knows them; got "
            "None. Pass one atomic number per row."
        )
    if len(known) != n_rows or known.dtype.kind not in "iu":
        raise ValueError(
            f"species must hold one atomic number for each of the {n_rows} rows; got {len(known)} of type "
            f"{known.dtype}."
        )
    return {species_name(z): np.flatnonzero(known == z) for z in np.unique(known)}


def _rows(y: Rows, name: str) -> FloatArray:
    if isinstance(y, PerAtomArray):
        rows = y.values
    elif isinstance(y, list | tuple):
        rows = np.concatenate(equally_wide(y, name, vectors_are_columns=True))
    else:
        rows = np.asarray(y)
        rows = rows.reshape(-1, rows.shape[-1]) if rows.ndim == 3 else rows
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(
            f"{name} must be a PerAtomArray, a list with one (n_atoms, k) array per structure, or an array "
            f"of shape (n_rows, k) with at least one row; got an array of shape {rows.shape}."
        )
    bad = np.argwhere(~np.isfinite(rows))
    if len(bad):
        places = [f"{rows[i, j]} in row {i}, column {j}" for i, j in bad[:3]]
        places += [""] * (len(bad) - len(places))  # counted by first_few
        raise ValueError(f"{name} must be finite; got {first_few(places)}.")
    return rows.astype(np.float64, copy=False)


def _counts(y: Rows) -> IntArray | None:
    """Atoms per structure, or None for an array of rows."""
    if isinstance(y, PerAtomArray):
        return y.counts
    if isinstance(y, list | tuple) or (isinstance(y, np.ndarray) and y.ndim == 3):
        return np.array([len(np.asarray(part)) for part in y])
    return None
