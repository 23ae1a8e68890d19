"""What the parameters of a regressor ask for its targets: checks, and the map that they choose."""

from __future__ import annotations

from typing import Any

from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.scaling import fit_target_scaling
from tinynet_sklearn.target_maps import TargetMap, fit_linear_targets, fit_linked_targets

__all__ = [
    "check_combination",
    "check_curve_settings",
    "check_vectors",
    "combines",
    "fit_target_map",
    "learns_plain",
    "n_vectors_of",
]


def check_curve_settings(settings: Any, vector: bool, n_columns: int, n_species: int) -> None:
    """Refuse parameters for curves that do not go together.

    Parameters
    ----------
    settings : object
        With the parameters of `BPNNRegressor` as attributes.
    vector : bool
        Whether targets are vectors.
    n_columns : int
        Of the targets.
    n_species : int
        In the training data.

    Raises
    ------
    ValueError
        If components, cumulative errors or constraints are asked for where they cannot be.
    """
    asked = {
        "n_components": settings.n_components is not None,
        "cumulative_weight": settings.cumulative_weight > 0,
        "output": settings.output != "linear",
    }
    given = [f"{name}={getattr(settings, name)!r}" for name, wanted in asked.items() if wanted]
    if given and vector:
        raise ValueError(
            f"{given[0]} is for targets that are curves; got vectors, which turn with the site. Set "
            "target='scalar' if the three columns are no vector."
        )
    if settings.target_scaler == "standard" and (asked["cumulative_weight"] or asked["output"]):
        raise ValueError(
            f"{given[-1]} needs one scale for all columns; got target_scaler='standard'. Use 'auto' or "
            "'common'."
        )
    integrated = [asked["cumulative_weight"], settings.output == "normalized"]
    if any(integrated) and n_columns < 2:
        name = "cumulative_weight" if integrated[0] else "output"
        raise ValueError(
            f"{name}={getattr(settings, name)!r} integrates curves, which have at least two columns; got "
            "targets with 1."
        )
    if not asked["output"]:
        return
    if settings.output == "normalized" and settings.networks == "shared" and n_species > 1:
        raise ValueError(
            "output='normalized' fixes one number of states for all atoms of a network; got "
            f"networks='shared' for {n_species} species, which have different ones. Use "
            "networks='per-species'."
        )
    if asked["n_components"]:
        raise ValueError(
            f"output={settings.output!r} needs all columns of the targets, for a sum of components may be "
            f"negative; got n_components={settings.n_components!r}. Set n_components=None."
        )
    if settings.solver not in ("auto", "lbfgs") or settings.build_fn is not None:
        what = "build_fn" if settings.build_fn is not None else f"solver={settings.solver!r}"
        raise ValueError(
            f"output={settings.output!r} is trained by solver='lbfgs', without build_fn; got {what}. Use "
            "solver='auto'."
        )


def combines(atoms: PerAtomArray, vector: bool) -> bool:
    """Whether targets of atoms are combinations of vectors that come with the features.

    Site frames, where there are any, come first: they need no vectors.
    """
    return vector and atoms.frames is None and atoms.vectors is not None


def n_vectors_of(atoms: PerAtomArray) -> int:
    """Number of vectors that come with each atom."""
    return 0 if atoms.vectors is None else int(atoms.vectors.shape[1])


def check_vectors(atoms: PerAtomArray, n_vectors: int) -> None:
    """Refuse features without the vectors that predictions are built on.

    Parameters
    ----------
    atoms : PerAtomArray
    n_vectors : int
        Number of vectors of each atom in fit.

    Raises
    ------
    ValueError
        With where to get them.
    """
    if atoms.vectors is None:
        raise ValueError(
            "X must carry vectors, as it did in fit, to build predicted vectors on; got features without. "
            "Make them with the featurizer that made those for fit."
        )
    if n_vectors_of(atoms) != n_vectors:
        raise ValueError(
            f"X must carry {n_vectors} vectors per atom, as it did in fit, to build predicted vectors on; "
            f"got {n_vectors_of(atoms)}. Make them with the featurizer that made those for fit."
        )


def check_combination(settings: Any) -> None:
    """Refuse solvers that cannot train coefficients of vectors.

    Raises
    ------
    ValueError
        With what to change.
    """
    if settings.solver not in ("auto", "lbfgs") or settings.build_fn is not None:
        what = "build_fn" if settings.build_fn is not None else f"solver={settings.solver!r}"
        raise ValueError(
            f"vector targets on X with vectors are trained by solver='lbfgs', without build_fn; got {what}. "
            "Use solver='auto', or target='scalar' to learn the three columns by themselves."
        )


def learns_plain(settings: Any) -> bool:
    """Whether networks learn targets unscaled, so that numbers of any size are the matter of the loss."""
    maps = settings.n_components is not None or settings.cumulative_weight or settings.output != "linear"
    return settings.target_scaler is None and not maps


def fit_target_map(
    targets: FloatArray,
    weight: FloatArray,
    settings: Any,
    *,
    vector: bool,
    averages: bool,
    grid: EnergyGrid | None,
) -> TargetMap:
    """Fit what stands between a network and physical targets to the training rows.

    Parameters
    ----------
    targets : ndarray of shape (n_rows, n_outputs)
    weight : ndarray of shape (n_rows,)
        Positive.
    settings : object
        With the parameters of `BPNNRegressor` as attributes.
    vector : bool
        Whether targets are vectors.
    averages : bool
        Whether networks are averaged over site groups.
    grid : EnergyGrid or None
        Energies of the columns of the targets, if they are curves.

    Returns
    -------
    ColumnScaling, LinearTargets or LinkedTargets
    """
    how, cumulative = settings.target_scaler, float(settings.cumulative_weight)
    if how == "auto":  # a curve has one unit, and where it is flat there is only noise to blow up
        how = "standard" if grid is None and not cumulative else "common"
    if settings.output != "linear":
        return fit_linked_targets(
            targets,
            weight,
            normalized=settings.output == "normalized",
            cumulative_weight=cumulative,
            grid=grid,
        )
    if cumulative or settings.n_components is not None:
        return fit_linear_targets(
            targets,
            weight,
            n_components=settings.n_components,
            cumulative_weight=cumulative,
            per_column=how == "standard",
            grid=grid,
        )
    return fit_target_scaling(
        targets,
        weight,
        how,
        isotropic=vector or how == "common",
        centered=not (vector and averages),
    )
