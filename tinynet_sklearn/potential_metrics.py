"""How far a potential is off in energies and stresses, and scorers for `BPNNPotential`.

The scorers call ``predict(X, output="all")`` and go into ``GridSearchCV(scoring=...)``; errors are negated
there, so that greater is better. With y=None they compare with the results that came with the structures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinynet_sklearn._validation import described
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.potential_targets import PotentialTargets, as_potential_targets

__all__ = [
    "energy_mae",
    "energy_mae_scorer",
    "energy_rmse",
    "potential_force_mae_scorer",
    "potential_force_rmse_scorer",
    "stress_rmse",
    "stress_rmse_scorer",
]


def energy_mae(y_true: PotentialTargets, y_pred: PotentialTargets) -> float:
    """Mean absolute error of the energy per atom.

    Parameters
    ----------
    y_true, y_pred : PotentialTargets
        Reference and prediction of the same structures; `y_pred` needs forces, which know how many atoms
        there are.

    Returns
    -------
    float
        eV per atom, over structures whose energy is known.

    Raises
    ------
    ValueError
        If energies are missing or all unknown, or the two are of different numbers of structures.
    """
    return float(np.mean(np.abs(_energy_errors(y_true, y_pred))))


def energy_rmse(y_true: PotentialTargets, y_pred: PotentialTargets) -> float:
    """Root mean squared error of the energy per atom, eV; arguments as of `energy_mae`.

    Parameters
    ----------
    y_true, y_pred : PotentialTargets
        Reference and prediction.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        As `energy_mae`.
    """
    return float(np.sqrt(np.mean(np.square(_energy_errors(y_true, y_pred)))))


def stress_rmse(y_true: PotentialTargets, y_pred: PotentialTargets) -> float:
    """Root mean squared error over all known components of the stress, eV/Å^3.

    Parameters
    ----------
    y_true, y_pred : PotentialTargets
        Reference and prediction of the same structures.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If stresses are missing or all unknown, or the two are of different numbers of structures.
    """
    return float(np.sqrt(np.mean(np.square(_errors(y_true, y_pred, "stress")))))


def _energy_errors(y_true: PotentialTargets, y_pred: PotentialTargets) -> FloatArray:
    forces = getattr(y_pred, "forces", None)
    if forces is None:
        forces = getattr(y_true, "forces", None)
    if forces is None:
        raise ValueError(
            "y_true or y_pred must have forces, from which the number of atoms is known; got none. Take "
            "y_pred from predict(X, output='all')."
        )
    return _errors(y_true, y_pred, "energy", forces.counts)


def _errors(y_true: PotentialTargets, y_pred: PotentialTargets, name: str, divisor: Any = 1.0) -> FloatArray:
    for which, given in (("y_true", y_true), ("y_pred", y_pred)):
        if not isinstance(given, PotentialTargets):
            raise TypeError(
                f"{which} must be PotentialTargets; got {described(given)}. Write "
                "PotentialTargets(energy=..., forces=..., stress=...)."
            )
    true, predicted = getattr(y_true, name), getattr(y_pred, name)
    if true is None or predicted is None:
        which = "y_true" if true is None else "y_pred"
        raise ValueError(
            f"y_true and y_pred must have {name}; {which} is {y_true if true is None else y_pred!r}."
        )
    if len(true) != len(predicted):
        raise ValueError(
            f"y_true and y_pred must be of the same structures; got {len(true)} and {len(predicted)}."
        )
    known = np.isfinite(np.asarray(true))
    if not known.any():
        raise ValueError(
            f"y_true must hold known {name} of at least one structure; got NaN for all {len(true)}. Score on "
            "structures that have references."
        )
    errors: FloatArray = ((np.asarray(predicted) - np.asarray(true)) / divisor)[known]
    return errors


# Named functions: scorers travel to other processes and into pickled searches.
def _force_mae(y_true: PotentialTargets, y_pred: PotentialTargets) -> float:
    return float(np.mean(np.abs(_errors(y_true, y_pred, "forces"))))


def _force_rmse(y_true: PotentialTargets, y_pred: PotentialTargets) -> float:
    return float(np.sqrt(np.mean(np.square(_errors(y_true, y_pred, "forces")))))


def _stored(X: Any) -> PotentialTargets | None:
    """Results that came with structures, or with the features made of them."""
    if not isinstance(X, PerAtomArray):
        return PotentialTargets.from_structures(X)
    stored: PotentialTargets | None = None if X.geometry is None else X.geometry.targets
    return stored


class _PotentialScorer:
    """Negated error of a prediction of energy, forces and stress; called as scikit-learn calls scorers."""

    def __init__(self, error: Callable[[PotentialTargets, PotentialTargets], float], name: str) -> None:
        self._error = error
        self._name = name

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> float:
        predicted = estimator.predict(X, output="all")
        if y is None:
            y = _stored(X)
        return -self._error(as_potential_targets(y, predicted.forces), predicted)

    def __repr__(self) -> str:
        return self._name


energy_mae_scorer = _PotentialScorer(energy_mae, "energy_mae_scorer")
stress_rmse_scorer = _PotentialScorer(stress_rmse, "stress_rmse_scorer")
potential_force_rmse_scorer = _PotentialScorer(_force_rmse, "potential_force_rmse_scorer")
potential_force_mae_scorer = _PotentialScorer(_force_mae, "potential_force_mae_scorer")
