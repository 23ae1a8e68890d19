"""The way of one network: from the atoms that are its own to trained weights between two scalings."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.networks import (
    DenseStack,
    KerasNetwork,
    as_numpy,
    build_custom,
    glorot_stack,
    with_arrays,
)
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet
from tinynet_sklearn.rows import augmented, merged, network_keys, require_symmetry, resolved_copies
from tinynet_sklearn.scaling import ColumnScaling, fit_input_scaling, fit_target_scaling
from tinynet_sklearn.solvers import BATCHED_SOLVERS, SOLVERS

__all__ = ["AtomNetwork", "Samples", "Task", "hidden_sizes", "label_of", "prepare_task", "train_tasks"]

# Lengths that differ by less than this fraction are equal: about what a rounded file leaves of a fixed cell.
LENGTH_RESOLUTION = 1e-6

# Rows per call of a Keras model in predict: enough to hide the cost of the call, small in memory.
KERAS_BLOCK_ROWS = 8192


@dataclass(frozen=True, eq=False)
class AtomNetwork:
    """A trained network between the scalings of its inputs and targets.

    Parameters
    ----------
    network : DenseStack or KerasNetwork
        Maps scaled rows to scaled targets.
    inputs, targets : ColumnScaling
        Between physical and scaled numbers.
    """

    network: DenseStack | KerasNetwork
    inputs: ColumnScaling
    targets: ColumnScaling

    @property
    def stack(self) -> DenseStack | None:
        """The network as plain arrays, or None if only Keras can evaluate it."""
        return self.network if isinstance(self.network, DenseStack) else self.network.stack

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the scaled numbers."""
        return self.network.dtype

    def predict(self, values: FloatArray, model: Any = None) -> FloatArray:
        """Evaluate physical rows.

        Parameters
        ----------
        values : ndarray of shape (n_rows, n_features)
            Features.
        model : keras.Model or None, default=None
            What to call if the network is not a `DenseStack`.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), float64
        """
        rows = self.inputs.apply(values, self.dtype)
        if self.stack is not None:
            return self.targets.invert(self.stack.forward(rows))
        blocks = [rows[i : i + KERAS_BLOCK_ROWS] for i in range(0, len(rows), KERAS_BLOCK_ROWS)]
        outputs = [as_numpy(model(block, training=False)) for block in blocks]
        return self.targets.invert(np.concatenate(outputs))


@dataclass(frozen=True, eq=False)
class Samples:
    """Checked atoms with all that training needs to know of them.

    Parameters
    ----------
    atoms : PerAtomArray
        Features.
    targets : ndarray of shape (n_rows, k)
        In site frames if they are vectors and `atoms` carries frames.
    weight : ndarray of shape (n_rows,)
        Positive.
    held_out : ndarray of shape (n_rows,), bool
        Rows of the structures that validate.
    vector : bool
        Whether targets are vectors.
    """

    atoms: PerAtomArray
    targets: FloatArray
    weight: FloatArray
    held_out: NDArray[np.bool_]
    vector: bool


@dataclass(frozen=True, eq=False)
class Task:
    """One network to train: the keys of the atoms that share it, its start, its rows, its log."""

    members: tuple[int, ...]
    start: AtomNetwork
    train: TrainingSet
    validation: TrainingSet | None
    options: Options
    recorder: Recorder


def hidden_sizes(hidden_layer_sizes: int | Sequence[int]) -> tuple[int, ...]:
    """Units of the hidden layers as a tuple.

    Raises
    ------
    ValueError
        If one is not a positive integer.
    """
    given = [hidden_layer_sizes] if isinstance(hidden_layer_sizes, Integral) else list(hidden_layer_sizes)  # type: ignore[arg-type]
    if any(not isinstance(n, Integral) or n < 1 for n in given):
        raise ValueError(
            "hidden_layer_sizes must be positive integers, one per hidden layer; got "
            f"{hidden_layer_sizes!r}. Pass an empty tuple for a linear model."
        )
    return tuple(int(n) for n in given)


def label_of(members: tuple[int, ...], networks: str = "per-species") -> str:
    """Name a network after the species, or the site class, that share it."""
    if networks == "per-site":
        return f"site {members[0]}"
    return "the network" if members == (0,) else " ".join(species_name(z) for z in members)


def prepare_task(
    members: tuple[int, ...],
    samples: Samples,
    previous: AtomNetwork | None,
    settings: Any,
    rng: np.random.RandomState,
) -> Task:
    """Cut out, multiply and scale the rows of one network, and draw its initial weights.

    Parameters
    ----------
    members : tuple of int
        Atomic numbers, or site classes with ``networks="per-site"``, whose rows it learns.
    samples : Samples
        All rows.
    previous : AtomNetwork or None
        Network to continue from.
    settings : object
        With the parameters of `BPNNRegressor` as attributes.
    rng : numpy.random.RandomState
        Gives the seed of this network.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If no training structure holds these species.
    """
    # Two seeds, so that the initial weights do not depend on whether operations are drawn as well.
    seed, operations_seed = (int(s) for s in rng.randint(np.iinfo(np.int32).max, size=2))
    draw = np.random.RandomState(seed)
    atoms = samples.atoms
    structure_of_row = atoms.structure_of_row
    ours = np.isin(network_keys(atoms, settings.networks), members)
    label = label_of(members, settings.networks)
    rows = np.flatnonzero(ours & ~samples.held_out)
    held_out = np.flatnonzero(ours & samples.held_out)
    if len(rows) == 0:
        raise ValueError(
            f"early_stopping=True must leave structures of every species to train on; all {len(held_out)} "
            f"atoms of {label} were drawn for validation. Pass more of them, or another "
            "random_state."
        )
    values, targets, weight = atoms.values[rows], samples.targets[rows], samples.weight[rows]
    structure = structure_of_row[rows]
    copies = resolved_copies(atoms, settings.symmetry_copies)
    if copies != 1 and atoms.frames is not None:
        values, targets, source, share = augmented(
            values,
            targets,
            atoms.frames.sites[rows],
            require_symmetry(atoms, "symmetry_copies"),
            copies,
            samples.vector,
            np.random.RandomState(operations_seed),
        )
        weight, structure = weight[source] * share, structure[source]
    if settings.solver not in BATCHED_SOLVERS:
        values, targets, weight = merged(values, targets, weight)
        structure = np.zeros(len(values), dtype=np.intp)
    species = 0 if settings.networks == "shared" else int(atoms.species[ours][0])
    start = previous
    if start is None:
        inputs = _input_scaling(atoms, values, weight, settings.scaler)
        start = _new_network(species, inputs, targets, weight, samples.vector, settings, draw)
    validation = None
    if len(held_out):
        validation = _training_set(
            start,
            atoms.values[held_out],
            samples.targets[held_out],
            samples.weight[held_out],
            structure_of_row[held_out],
        )
    recorder = Recorder(
        label=label,
        weights=start.network.arrays,
        patience=settings.n_iter_no_change if settings.solver == "adam" or len(held_out) else None,
        tol=settings.tol,
        keep_best=validation is not None,
        verbose=int(settings.verbose),
    )
    batch_size = settings.batch_size
    if batch_size == "auto":
        batch_size = 200 if len(atoms) == len(atoms.values) else 16
    options = Options(
        max_iter=settings.max_iter,
        tol=settings.tol,
        alpha=settings.alpha,
        batch_size=int(batch_size),
        learning_rate=settings.learning_rate_init,
        seed=seed,
    )
    train = _training_set(start, values, targets, weight, structure)
    return Task(members, start, train, validation, options, recorder)


def _input_scaling(
    atoms: PerAtomArray, values: FloatArray, weight: FloatArray, how: str | None
) -> ColumnScaling:
    if atoms.frames is None:
        return fit_input_scaling(values, weight, how)
    symmetry = atoms.frames.symmetry
    vectors = None if symmetry is None else symmetry.vector_columns
    return fit_input_scaling(values, weight, how, LENGTH_RESOLUTION, vectors)


def _new_network(
    species: int,
    inputs: ColumnScaling,
    targets: FloatArray,
    weight: FloatArray,
    vector: bool,
    settings: Any,
    draw: np.random.RandomState,
) -> AtomNetwork:
    outputs = fit_target_scaling(targets, weight, settings.target_scaler, isotropic=vector)
    n_inputs, n_outputs = len(inputs.columns), targets.shape[1]
    if settings.build_fn is None:
        sizes = (n_inputs, *hidden_sizes(settings.hidden_layer_sizes), n_outputs)
        return AtomNetwork(glorot_stack(sizes, settings.activation, draw, settings.dtype), inputs, outputs)
    seed = int(draw.randint(np.iinfo(np.int32).max))
    return AtomNetwork(build_custom(settings.build_fn, n_inputs, n_outputs, species, seed), inputs, outputs)


def _training_set(
    net: AtomNetwork, values: FloatArray, targets: FloatArray, weight: FloatArray, structure: IntArray
) -> TrainingSet:
    return TrainingSet(
        net.inputs.apply(values, net.dtype),
        net.targets.apply(targets, net.dtype),
        weight / weight.sum(),
        structure,
    )


def train_tasks(tasks: list[Task], solver: str, n_jobs: int | None) -> list[tuple[AtomNetwork, Recorder]]:
    """Train networks side by side.

    Parameters
    ----------
    tasks : list of Task
        What to train.
    solver : str
        Key of `SOLVERS`.
    n_jobs : int or None
        For joblib. Threads are preferred: the arithmetic releases the interpreter's lock, no data are copied,
        and an interrupt finds the logs where they are.

    Returns
    -------
    list of (AtomNetwork, Recorder)
        In the order of the tasks.

    Raises
    ------
    KeyboardInterrupt
        If the user interrupts before any network has made a step that could be kept.
    ValueError
        If the weights of a network grew beyond all bounds.
    """
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            trained = Parallel(n_jobs=n_jobs, prefer="threads")(
                delayed(_train)(task, solver) for task in tasks
            )
    except KeyboardInterrupt:
        trained = _interrupted(tasks)
    for net, recorder in trained:
        if not all(np.isfinite(a).all() for a in net.network.arrays):
            raise ValueError(
                f"training must keep the weights finite; those of {recorder.label} did not stay so. Lower "
                "learning_rate_init, or scale inputs and targets (scaler, target_scaler)."
            )
    return trained


def _train(task: Task, solver: str) -> tuple[AtomNetwork, Recorder]:
    # Once more, for workers that are processes; among threads it repeats what is set already.
    with threadpool_limits(limits=1, user_api="blas"):
        network = SOLVERS[solver](
            task.start.network, task.train, task.validation, task.options, task.recorder
        )
    return replace(task.start, network=network), task.recorder


def _interrupted(tasks: list[Task]) -> list[tuple[AtomNetwork, Recorder]]:
    """Collect what the recorders hold, and tell threads that still run to stop."""
    for task in tasks:
        task.recorder.cancelled = True
    if not any(task.recorder.n_iter for task in tasks):
        raise KeyboardInterrupt
    state = "; ".join(f"{task.recorder.label} after {task.recorder.n_iter} iterations" for task in tasks)
    warnings.warn(
        f"training was interrupted; the best weights so far are kept ({state}). A network without iterations "
        "has its random initial weights.",
        UserWarning,
        stacklevel=5,  # _interrupted, train_tasks, fit, its validation wrapper, the user
    )
    return [
        (replace(task.start, network=with_arrays(task.start.network, task.recorder.weights)), task.recorder)
        for task in tasks
    ]
