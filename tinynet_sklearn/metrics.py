"""How far predicted forces are from reference forces.

All functions take `PerAtomArray`, lists with one array per structure, or arrays of rows, in any combination
that describes the same atoms. Errors are in the unit of the forces (eV/Å), averaged over all Cartesian
components of all atoms, as in the literature on interatomic potentials.

The scorers go into ``GridSearchCV(scoring=...)`` as they are; errors are negated there, so that greater is
better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import make_scorer

from tinynet_sklearn._validation import equally_wide, first_few, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import FloatArray, IntArray

__all__ = [
    "force_cosine",
    "force_cosine_per_species",
    "force_cosine_scorer",
    "force_mae",
    "force_mae_per_species",
    "force_mae_scorer",
    "force_rmse",
    "force_rmse_per_species",
    "force_rmse_scorer",
]

Forces: TypeAlias = PerAtomArray | Sequence[ArrayLike] | FloatArray

# Below this a reference force (eV/Å) is mostly noise of the calculation, and its direction means nothing.
COSINE_THRESHOLD = 0.05


def force_rmse(y_true: Forces, y_pred: Forces) -> float:
    """Root mean squared error over all components.

    Parameters
    ----------
    y_true, y_pred : PerAtomArray, list of array-like of shape (n_atoms, 3), or ndarray of shape (n_rows, 3)
        Reference and predicted forces of the same atoms; any other width will do.

    Returns
    -------
    float
        In the unit of the forces.

    Raises
    ------
    ValueError
        If the two do not describe the same atoms, or a number is not finite.

    Examples
    --------
    >>> force_rmse([[[0.0, 0.0, 3.0]]], [[[0.0, 0.0, 0.0]]])
    1.7320508075688772
    """
    true, predicted = _same_rows(y_true, y_pred)
    return float(np.sqrt(np.mean(np.square(predicted - true))))


def force_mae(y_true: Forces, y_pred: Forces) -> float:
    """Mean absolute error over all components.

    Parameters
    ----------
    y_true, y_pred : PerAtomArray, list of array-like of shape (n_atoms, 3), or ndarray of shape (n_rows, 3)
        Reference and predicted forces of the same atoms; any other width will do.

    Returns
    -------
    float
        In the unit of the forces.

    Raises
    ------
    ValueError
        If the two do not describe the same atoms, or a number is not finite.

    Examples
    --------
    >>> force_mae([[[0.0, 0.0, 3.0]]], [[[0.0, 0.0, 0.0]]])
    1.0
    """
    true, predicted = _same_rows(y_true, y_pred)
    return float(np.mean(np.abs(predicted - true)))


def force_cosine(y_true: Forces, y_pred: Forces, threshold: float = COSINE_THRESHOLD) -> float:
    """Mean cosine of the angle between predicted and reference forces.

    1 is the right direction everywhere, 0 no relation, -1 the opposite direction. A predicted force of zero
    has no direction and counts as 0.

    Parameters
    ----------
    y_true, y_pred : PerAtomArray, list of array-like of shape (n_atoms, 3), or ndarray of shape (n_rows, 3)
        Reference and predicted forces of the same atoms.
    threshold : float, default=0.05
        Reference forces of this length (unit of the forces) or less are left out.

    Returns
    -------
    float
        NaN if no reference force is longer than `threshold`.

    Raises
    ------
    ValueError
        If the two do not describe the same atoms, are not vectors, or a number is not finite.

    Examples
    --------
    >>> force_cosine([[[0.0, 0.0, 2.0]]], [[[0.0, 1.0, 1.0]]])
    0.7071067811865475
    """
    true, predicted = _same_rows(y_true, y_pred)
    return _mean_cosine(true, predicted, threshold)


def force_rmse_per_species(
    y_true: Forces, y_pred: Forces, species: ArrayLike | Sequence[ArrayLike] | None = None
) -> dict[str, float]:
    """Root mean squared error of each species.

    Parameters
    ----------
    y_true, y_pred : PerAtomArray, list of array-like of shape (n_atoms, 3), or ndarray of shape (n_rows, 3)
        Reference and predicted forces of the same atoms.
    species : array-like of shape (n_rows,), or one array-like per structure, int; default=None
        Atomic numbers; None takes them from a `PerAtomArray` that knows them.

    Returns
    -------
    dict of str to float
        By chemical symbol, in the order of the atomic numbers.

    Raises
    ------
    ValueError
        As `force_rmse`, or if the species are not known.
    """
    true, predicted = _same_rows(y_true, y_pred)
    groups = _rows_of_species(y_true, y_pred, species, len(true))
    return {name: force_rmse(true[rows], predicted[rows]) for name, rows in groups.items()}


def force_mae_per_species(
    y_true: Forces, y_pred: Forces, species: ArrayLike | Sequence[ArrayLike] | None = None
) -> dict[str, float]:
    """Mean absolute error of each species.

    Parameters
    ----------
    y_true, y_pred : PerAtomArray, list of array-like of shape (n_atoms, 3), or ndarray of shape (n_rows, 3)
        Reference and predicted forces of the same atoms.
    species : array-like of shape (n_rows,), or one array-like per structure, int; default=None
        Atomic numbers; None takes them from a `PerAtomArray` that knows them.

    Returns
    -------
    dict of str to float
        By chemical symbol, in the order of the atomic numbers.

    Raises
    ------
    ValueError
        As `force_mae`, or if the species are not known.
    """
    true, predicted = _same_rows(y_true, y_pred)
    groups = _rows_of_species(y_true, y_pred, species, len(true))
    return {name: force_mae(true[rows], predicted[rows]) for name, rows in groups.items()}


def force_cosine_per_species(
    y_true: Forces,
    y_pred: Forces,
    species: ArrayLike | Sequence[ArrayLike] | None = None,
    threshold: float = COSINE_THRESHOLD,
) -> dict[str, float]:
    """Mean cosine between predicted and reference forces of each species.

    Parameters
    ----------
    y_true, y_pred : PerAtomArray, list of array-like of shape (n_atoms, 3), or ndarray of shape (n_rows, 3)
        Reference and predicted forces of the same atoms.
    species : array-like of shape (n_rows,), or one array-like per structure, int; default=None
        Atomic numbers; None takes them from a `PerAtomArray` that knows them.
    threshold : float, default=0.05
        As in `force_cosine`.

    Returns
    -------
    dict of str to float
        By chemical symbol, in the order of the atomic numbers.

    Raises
    ------
    ValueError
        As `force_cosine`, or if the species are not known.
    """
    true, predicted = _same_rows(y_true, y_pred)
    groups = _rows_of_species(y_true, y_pred, species, len(true))
    return {name: _mean_cosine(true[rows], predicted[rows], threshold) for name, rows in groups.items()}


force_rmse_scorer = make_scorer(force_rmse, greater_is_better=False)
force_mae_scorer = make_scorer(force_mae, greater_is_better=False)
force_cosine_scorer = make_scorer(force_cosine)


def _mean_cosine(true: FloatArray, predicted: FloatArray, threshold: float) -> float:
    if true.shape[1] != 3:
        raise ValueError(
            f"y_true and y_pred must have 3 columns, x, y and z, to have directions; got {true.shape[1]}."
        )
    length = np.linalg.norm(true, axis=1)
    rows = length > threshold
    if not rows.any():
        return float("nan")
    product = length[rows] * np.linalg.norm(predicted[rows], axis=1)
    dot = np.einsum("ij,ij->i", true[rows], predicted[rows])
    return float(np.mean(np.divide(dot, product, out=np.zeros_like(dot), where=product > 0)))


def _same_rows(y_true: Forces, y_pred: Forces) -> tuple[FloatArray, FloatArray]:
    """Rows of both as float64, shape (n_rows, k), after checking that they belong together."""
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


def _rows(y: Forces, name: str) -> FloatArray:
    if isinstance(y, PerAtomArray):
        rows = y.values
    elif isinstance(y, list | tuple):
        rows = np.concatenate(equally_wide(y, name, vectors_are_columns=True))
    else:
        rows = np.asarray(y)
        rows = rows.reshape(-1, rows.shape[-1]) if rows.ndim == 3 else rows
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(
            f"{name} must be a PerAtomArray, a list with one (n_atoms, 3) array per structure, or an array "
            f"of shape (n_rows, 3) with at least one row; got an array of shape {rows.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(f"{name} must be finite; got {first_few([f'{rows[i]} in row {i}' for i in bad])}.")
    return rows.astype(np.float64, copy=False)


def _counts(y: Forces) -> IntArray | None:
    """Atoms per structure, or None for an array of rows."""
    if isinstance(y, PerAtomArray):
        return y.counts
    if isinstance(y, list | tuple) or (isinstance(y, np.ndarray) and y.ndim == 3):
        return np.array([len(np.asarray(part)) for part in y])
    return None


def _rows_of_species(
    y_true: Forces, y_pred: Forces, species: ArrayLike | Sequence[ArrayLike] | None, n_rows: int
) -> dict[str, IntArray]:
    candidates: list[Any] = [y.species for y in (y_true, y_pred) if isinstance(y, PerAtomArray)]
    if species is not None:
        flat = [np.atleast_1d(np.asarray(part)) for part in species]  # type: ignore[union-attr]
        candidates = [np.concatenate(flat) if flat else np.array([])]
    known: Any = next((z for z in candidates if np.any(z)), None)
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
