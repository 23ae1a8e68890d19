"""How far predicted forces are from reference forces.

All functions take `PerAtomArray`, lists with one array per structure, or arrays of rows, in any combination
that describes the same atoms. Errors are in the unit of the forces (eV/Å), averaged over all Cartesian
components of all atoms, as in the literature on interatomic potentials.

The scorers go into ``GridSearchCV(scoring=...)`` as they are; errors are negated there, so that greater is
better.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import make_scorer

from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.pairing import Rows, rows_of_species, same_rows

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

Forces: TypeAlias = Rows

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
    true, predicted = same_rows(y_true, y_pred)
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
    true, predicted = same_rows(y_true, y_pred)
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
    true, predicted = same_rows(y_true, y_pred)
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
    true, predicted = same_rows(y_true, y_pred)
    groups = rows_of_species(y_true, y_pred, species, len(true))
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
    true, predicted = same_rows(y_true, y_pred)
    groups = rows_of_species(y_true, y_pred, species, len(true))
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
    true, predicted = same_rows(y_true, y_pred)
    groups = rows_of_species(y_true, y_pred, species, len(true))
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
