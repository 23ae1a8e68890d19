"""What a fitted model says of a structure, and the fitted steps that say it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils.validation import check_is_fitted

from tinynet_sklearn._validation import described
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.features import CycleMomentFeaturizer
from tinynet_sklearn.frames import IntArray
from tinynet_sklearn.geometry import Floats
from tinynet_sklearn.potential import BPNNPotential
from tinynet_sklearn.potential_training import potential_keys
from tinynet_sklearn.regressor import BPNNRegressor
from tinynet_sklearn.rows import network_keys, resolved_average
from tinynet_sklearn.smooth import SmoothMomentFeaturizer

__all__ = [
    "Assignment",
    "Evaluation",
    "assignment",
    "check_ranges",
    "checked_frame",
    "featurizers",
    "fitted_steps",
    "individual_featurizers",
    "knows_ranges",
    "symmetric_matrix",
]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a model predicts for one structure.

    Attributes
    ----------
    forces : ndarray of shape (n_atoms, 3) or None
        eV/Angstrom; None from models of other targets.
    energy : float or None
        eV; None from models without energy, as are the next two.
    energies : ndarray of shape (n_atoms,) or None
        Of the atoms, eV.
    virial : ndarray of shape (3, 3) or None
        Derivative of the energy by the strain, eV; the stress is the virial over the volume.
    outputs : ndarray of shape (n_atoms, k) or None
        What the networks of a model without energy say of each atom: forces, a density of states.
    extrapolating : ndarray of bool of shape (n_atoms,) or None
        Atoms whose surroundings lie beyond those of the training; None if that cannot be told.
    """

    forces: Floats | None
    energy: float | None = None
    energies: Floats | None = None
    virial: Floats | None = None
    outputs: Floats | None = None
    extrapolating: NDArray | None = None


def checked_frame(
    positions: ArrayLike, cell: ArrayLike, n_atoms: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions (n_atoms, 3) and cell (3, 3) in double precision, Angstrom.

    Raises
    ------
    ValueError
        If a shape is another one.
    """
    given = np.ascontiguousarray(positions, dtype=np.float64)
    lattice = np.ascontiguousarray(cell, dtype=np.float64)
    if given.shape != (n_atoms, 3) or lattice.shape != (3, 3):
        raise ValueError(
            f"positions must have the shape ({n_atoms}, 3) and cell (3, 3); got {given.shape} and "
            f"{lattice.shape}. An engine is made for the atoms of one structure."
        )
    return given, lattice


def symmetric_matrix(voigt: Floats) -> Floats:
    """Matrix (3, 3) of six numbers in the order of Voigt, xx yy zz yz xz xy."""
    return voigt[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)


def fitted_steps(model: Any) -> list[Any]:
    """Fitted steps of a model of structures, the regressor last.

    Parameters
    ----------
    model : Pipeline, BPNNPotential fitted on structures, or a fitted search around one of these

    Raises
    ------
    TypeError
        If the model is of another kind.
    ValueError
        If a pipeline has no featurizer.
    sklearn.exceptions.NotFittedError
        If the model is not fitted.
    """
    pipeline = getattr(model, "best_estimator_", model)
    inside = getattr(pipeline, "featurizer_", None)
    if inside is not None:
        before = [step for _, step in inside.steps] if isinstance(inside, Pipeline) else [inside]
        return [*before, pipeline]
    if not isinstance(pipeline, Pipeline):
        raise TypeError(
            f"model must be fitted on structures; got {described(model)} without featurizer. Use "
            "make_pipeline(CycleMomentFeaturizer(...), BPNNPotential(...)) and fit it."
        )
    steps = [(name, step) for name, step in pipeline.steps if step is not None and step != "passthrough"]
    if not any(_embeds(step) for _, step in steps):
        names = ", ".join(type(step).__name__ for _, step in steps)
        raise ValueError(
            f"model must begin with a CycleMomentFeaturizer; got a pipeline of {names}. Put the featurizer "
            "into the pipeline and fit it on structures."
        )
    for name, step in [*steps[:1], steps[-1]]:
        try:
            check_is_fitted(step)
        except NotFittedError:
            raise NotFittedError(
                f"model must be fitted; its step {name!r} ({type(step).__name__}) is not. Call "
                "model.fit(structures, targets) first, or read a fitted model with load_model."
            ) from None
    return [step for _, step in steps]


@dataclass(frozen=True, eq=False)
class Assignment:
    """How a fitted regressor treats its atoms.

    Attributes
    ----------
    keys : ndarray of int of shape (n_rows,)
        Network of each atom, a key of ``atom_networks_``.
    most_operations : int
        Over how many operations of a site group networks are averaged at most.
    turned : bool
        Whether outputs are vectors in the frames of the sites.
    """

    keys: IntArray
    most_operations: int
    turned: bool


def assignment(regressor: BPNNRegressor | BPNNPotential, features: PerAtomArray) -> Assignment:
    """Look into a fitted regressor: the one place outside of the estimators that knows their insides."""
    networks = regressor._fitted_with["networks"]
    if isinstance(regressor, BPNNPotential):
        most = resolved_average(features, regressor._fitted_with["symmetry_average"])
        return Assignment(potential_keys(features, networks), most, False)
    keys = network_keys(features, networks)
    return Assignment(keys, regressor._most_operations, bool(regressor._framed))


def knows_ranges(regressor: Any) -> bool:
    """Whether a fitted regressor knows the ranges of its inputs in training."""
    networks = getattr(regressor, "atom_networks_", {})
    return bool(networks) and all(net.inputs.limits() is not None for net in networks.values())


def check_ranges(on_extrapolation: str, regressor: Any) -> None:
    """Refuse to stop at extrapolations that nobody could see.

    Raises
    ------
    ValueError
        If ``on_extrapolation`` is "raise" and the regressor does not know the ranges of its inputs.
    """
    if on_extrapolation == "raise" and not knows_ranges(regressor):
        raise ValueError(
            "on_extrapolation='raise' needs a model that knows the ranges of its inputs in training; this "
            f"{type(regressor).__name__} does not (models saved by early versions do not, nor do "
            "committees). Fit it again, or use 'warn' or 'ignore'."
        )


def featurizers(step: Any) -> list[CycleMomentFeaturizer]:
    """Featurizers with a reference in a step."""
    if isinstance(step, FeatureUnion):
        return [found for _, part in step.transformer_list for found in featurizers(part)]
    return [step] if isinstance(step, CycleMomentFeaturizer) and step.topology == "reference" else []


def individual_featurizers(steps: Iterable[Any]) -> list[CycleMomentFeaturizer]:
    """Featurizers in steps that leave out what has no column."""
    found = []
    for step in steps:
        if isinstance(step, FeatureUnion):
            found += individual_featurizers(part for _, part in step.transformer_list)
        elif isinstance(step, CycleMomentFeaturizer) and step.topology == "each" and step.overflow != "error":
            found.append(step)
    return found


def _embeds(step: Any) -> bool:
    """Whether a step, or a part of it, makes features of structures."""
    if isinstance(step, FeatureUnion):
        return any(_embeds(part) for _, part in step.transformer_list)
    return isinstance(step, CycleMomentFeaturizer | SmoothMomentFeaturizer)
