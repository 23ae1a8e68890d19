"""The way of a potential: from checked features and references to trained networks and their log."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tinynet_sklearn._validation import physical_memory
from tinynet_sklearn.checkpoint import fingerprint
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energies import AtomicEnergies
from tinynet_sklearn.energy_objective import LossWeights, PotentialObjective, Spreads
from tinynet_sklearn.energy_training import (
    ENERGY_SOLVERS,
    calibrated,
    first_networks,
    flat_weights,
    reference_energies,
    settled,
    shown,
    with_weights,
)
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.potential_targets import PotentialTargets
from tinynet_sklearn.recorder import Options, Recorder
from tinynet_sklearn.rows import network_keys, resolved_average
from tinynet_sklearn.training import AtomNetwork, hidden_sizes
from tinynet_sklearn.workers import kept_for_search, open_file

__all__ = ["Material", "TrainedPotential", "potential_keys", "report_end", "train_potential"]

# Mini-batches: enough of them in an epoch to learn from each, and none larger than what two cores share well.
WANTED_BATCHES, LARGEST_BATCH = 40, 16

# Up to so many structures, L-BFGS over all of them at once is faster to its best, and its best is better.
FEW_STRUCTURES = 300

# A Jacobian may take this fraction of the memory of the machine.
MOST_MEMORY = 0.4


@dataclass(frozen=True, eq=False)
class Material:
    """Checked structures with all that training needs to know of them.

    Parameters
    ----------
    atoms : PerAtomArray
        Features with derivatives.
    targets : PotentialTargets
        Quantities to learn, NaN where not known.
    weight : ndarray of shape (n_structures,)
        Zero or positive.
    train, held_out : ndarray of int
        Structures that teach and structures that validate.
    """

    atoms: PerAtomArray
    targets: PotentialTargets
    weight: FloatArray
    train: IntArray
    held_out: IntArray

    def of(self, structures: IntArray) -> Material:
        """Some of the structures, as material to train on, with the Jacobian in memory where it fits."""
        atoms = self.atoms[structures]
        return Material(
            replace(atoms, geometry=_cached(atoms.geometry)),
            PotentialTargets(**self.targets[structures].known),
            self.weight[structures],
            np.arange(len(structures)),
            np.zeros(0, dtype=np.intp),
        )


@dataclass(frozen=True, eq=False)
class TrainedPotential:
    """What came of the training: networks by key, reference energies by species (ascending), the log."""

    networks: dict[int, AtomNetwork]
    references: FloatArray
    recorder: Recorder


def potential_keys(atoms: PerAtomArray, networks: str) -> IntArray:
    """Which network each atom belongs to: atomic number, site class, or 0 for all."""
    keys = network_keys(atoms, networks)
    return np.zeros_like(keys) if networks == "shared" else keys


def train_potential(
    material: Material,
    settings: Any,
    previous: dict[int, AtomNetwork] | None,
    rng: np.random.RandomState,
    pool: Executor,
) -> TrainedPotential:
    """Scale, draw, train, calibrate.

    Parameters
    ----------
    material : Material
    settings : object
        With the parameters of `BPNNPotential` as attributes.
    previous : dict of int to AtomNetwork or None
        Networks to continue from.
    rng : numpy.random.RandomState
        Gives the seed.
    pool : Executor
        For blocks of structures.

    Returns
    -------
    TrainedPotential

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts before anything was learned, or while files are kept with
        ``resume="matching"``.
    ValueError
        If networks to continue from do not fit, or a checkpoint file does not.
    """
    seed = int(rng.randint(np.iinfo(np.int32).max))
    draw = np.random.RandomState(seed)
    chosen = material.of(material.train)
    atoms, targets, weight = chosen.atoms, chosen.targets, chosen.weight
    keys = potential_keys(atoms, settings.networks)
    most = resolved_average(atoms, settings.symmetry_average)
    species = np.unique(atoms.species)
    references = reference_energies(targets, atoms, species, weight)
    of_atoms = references[np.searchsorted(species, atoms.species)]
    networks = previous
    if networks is None:
        offsets = {int(key): float(of_atoms[keys == key].mean()) for key in np.unique(keys)}
        sizes = hidden_sizes(settings.hidden_layer_sizes)
        row_weight = weight[atoms.structure_of_row]
        networks = first_networks(atoms, keys, row_weight, offsets, sizes, settings, most > 1, draw)
    strangers = np.setdiff1d(keys, list(networks))
    if len(strangers):
        raise ValueError(
            "warm_start=True continues the networks of the last fit; X holds atoms of others (key "
            f"{strangers[0]}). Set warm_start=False to begin anew."
        )
    if previous is not None:
        networks = shown(networks, atoms, keys, most > 1)
    labels = np.array(sorted(networks))
    members = [networks[int(label)] for label in labels]

    def energies_of(atoms: PerAtomArray, members: list[AtomNetwork], dtype: str) -> AtomicEnergies:
        number = np.searchsorted(labels, potential_keys(atoms, settings.networks))
        return AtomicEnergies(atoms, members, number, most, np.dtype(dtype))

    taken_off: FloatArray = np.bincount(
        atoms.structure_of_row, weights=of_atoms, minlength=len(atoms)
    ).astype(np.float64)
    spreads = Spreads.of(targets, atoms.counts, taken_off)
    weights = LossWeights(
        settings.energy_weight, settings.force_weight, settings.stress_weight, settings.alpha
    )
    if previous is None:
        members = settled(energies_of(atoms, members, "float64"), weights, spreads, draw)
    else:  # whose energies may have had another zero
        members = calibrated(energies_of(atoms, members, "float64"), targets, species, weight)
    energies = energies_of(atoms, members, settings.dtype)
    objective = PotentialObjective(energies, targets, weight, weights, spreads, pool)
    validation = None
    if len(material.held_out):
        watched = material.of(material.held_out)
        validation = PotentialObjective(
            energies_of(watched.atoms, members, settings.dtype),
            watched.targets, watched.weight, weights, spreads, pool,
        )  # fmt: skip
    flat = flat_weights(members)
    solver = settings.solver
    if solver == "auto":
        solver = "lbfgs" if len(atoms) <= FEW_STRUCTURES else "adam"
    options = Options(
        max_iter=settings.max_iter,
        tol=settings.tol,
        alpha=settings.alpha,
        batch_size=_batch_size(settings.batch_size, len(atoms)),
        learning_rate=settings.learning_rate_init,
        seed=seed,
        schedule=settings.learning_rate,
    )
    recorder = Recorder(
        label="potential",
        weights=[flat],
        patience=settings.n_iter_no_change if validation is not None else None,
        tol=settings.tol,
        keep_best=validation is not None,
        verbose=int(settings.verbose),
        max_iter=settings.max_iter,
    )
    if settings.checkpoint is not None:
        prints = _prints(material, settings, solver, options, spreads, flat)
        open_file(recorder, Path(settings.checkpoint), prints, settings.max_iter, settings.resume)
    _run(objective, validation, flat, options, recorder, solver)
    trained = with_weights(members, recorder.weights[0])
    trained = calibrated(energies_of(atoms, trained, "float64"), targets, species, weight)
    return TrainedPotential(
        dict(zip((int(label) for label in labels), trained, strict=True)), references, recorder
    )


def _cached(geometry: Any) -> Any:
    """The same geometry with its Jacobian in memory, if it offers that and there is room."""
    needed = getattr(geometry, "cached_nbytes", None)
    if needed is None or needed > MOST_MEMORY * physical_memory():
        return geometry
    return geometry.cached()


def report_end(recorder: Recorder, label: str) -> None:
    """Say what ended a training before its time.

    Raises
    ------
    ValueError
        If numbers overflowed before anything was learned.
    """
    if recorder.diverged and not recorder.n_iter:
        raise ValueError(
            "training must keep losses, slopes and weights finite; they were not from the first iteration. "
            "Lower learning_rate_init, or leave out structures with wrong energies or forces."
        )
    if recorder.diverged:
        warnings.warn(
            "training met losses, slopes or weights that are not finite and ended early, with the best "
            f"weights from before ({label} after {recorder.n_iter} iterations). Lower learning_rate_init, or "
            "leave out structures with wrong energies or forces.",
            UserWarning,
            stacklevel=4,  # report_end, fit, its validation wrapper, the user
        )
    if recorder.cancelled:
        warnings.warn(
            f"training was interrupted; the best weights so far are kept ({label} after {recorder.n_iter} "
            "iterations).",
            UserWarning,
            stacklevel=4,
        )


def _run(
    objective: PotentialObjective,
    validation: PotentialObjective | None,
    flat: FloatArray,
    options: Options,
    recorder: Recorder,
    solver: str,
) -> None:
    recorder.begin()
    try:
        if not recorder.finished:
            ENERGY_SOLVERS[solver](objective, validation, flat, options, recorder)
        recorder.summary()
    except KeyboardInterrupt:
        recorder.cancelled = True
        if not recorder.n_iter or kept_for_search(recorder):
            raise
    finally:
        recorder.running = False


def _batch_size(wanted: int | str, n_structures: int) -> int:
    if wanted == "auto":
        return min(LARGEST_BATCH, max(1, n_structures // WANTED_BATCHES))
    return int(wanted)


def _prints(
    material: Material, settings: Any, solver: str, options: Options, spreads: Spreads, flat: FloatArray
) -> dict[str, str]:
    """What decides the result, under the names by which users know it."""
    names = [
        "activation", "alpha", "dtype", "early_stopping", "energy_weight", "force_weight", "n_iter_no_change",
        "networks", "scaler", "stress_weight", "symmetry_average", "tol",
    ]  # fmt: skip
    parts: dict[str, Any] = {name: getattr(settings, name) for name in names} | {
        "solver": solver,
        "hidden_layer_sizes": str(hidden_sizes(settings.hidden_layer_sizes)),
    }
    if solver == "adam":
        parts |= {
            "batch_size": options.batch_size,
            "learning_rate": settings.learning_rate,
            "learning_rate_init": settings.learning_rate_init,
        }
        if settings.learning_rate == "cosine":  # its course depends on where it ends
            parts["max_iter"] = settings.max_iter
    targets = material.targets
    references = [
        np.asarray(part) for part in (targets.energy, targets.forces, targets.stress) if part is not None
    ]
    frames = material.atoms.frames
    groups = None if frames is None else frames.symmetry
    if frames is not None and groups is not None:
        arrays = [frames.sites, *groups.gather, *groups.rotations, groups.vector_columns]
        parts["site groups of X"] = arrays
    parts |= {
        "random_state": np.array(options.seed),
        "X": [material.atoms.values, material.atoms.offsets, material.atoms.species],
        "y": [*references, np.array([spreads.energy, spreads.forces, spreads.stress])],
        "sample_weight": [material.weight],
        "validation structures": [material.held_out],
        "initial weights": [flat],
    }
    return fingerprint(parts)
