"""The way of one network: from the atoms that are its own to rows between two scalings, ready to train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.mapped_rows import MappedRows, is_mapped
from tinynet_sklearn.networks import (
    DenseStack,
    KerasNetwork,
    as_numpy,
    build_custom,
    glorot_stack,
)
from tinynet_sklearn.objective import averaged_forward
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet
from tinynet_sklearn.rows import augmented, merged, network_keys, require_symmetry, resolved_copies
from tinynet_sklearn.scaling import (
    ColumnScaling,
    fit_input_scaling,
    fit_symmetric_scaling,
    row_blocks,
    training_range,
)
from tinynet_sklearn.solvers import BATCHED_SOLVERS
from tinynet_sklearn.target_maps import LinkedTargets, TargetMap, started
from tinynet_sklearn.target_settings import combines, fit_target_map, learns_plain
from tinynet_sklearn.thread_limits import limit_tensorflow_threads
from tinynet_sklearn.vector_targets import VectorTargets, damped, fit_vector_targets

__all__ = [
    "AtomNetwork",
    "Samples",
    "Task",
    "hidden_sizes",
    "label_of",
    "prepare_task",
]

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
    inputs : ColumnScaling
        Between physical and scaled inputs.
    targets : ColumnScaling, LinearTargets, LinkedTargets or VectorTargets
        Between physical and scaled targets.
    moments : dict of str to ndarray or None, default=None
        What Adam left behind and a `warm_start` takes up.
    """

    network: DenseStack | KerasNetwork
    inputs: ColumnScaling
    targets: TargetMap | VectorTargets
    moments: dict[str, FloatArray] | None = None

    @property
    def stack(self) -> DenseStack | None:
        """The network as plain arrays, or None if only Keras can evaluate it."""
        return self.network if isinstance(self.network, DenseStack) else self.network.stack

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the scaled numbers."""
        return self.network.dtype

    @property
    def column_targets(self) -> TargetMap:
        """What stands between outputs and targets, where nothing else is needed.

        Raises
        ------
        TypeError
            If outputs are coefficients of vectors.
        """
        if isinstance(self.targets, VectorTargets):
            raise TypeError("targets must be columns; got combinations of vectors.")
        return self.targets

    @property
    def energy_scaling(self) -> ColumnScaling:
        """Scaling of the targets of a network whose one output is an energy.

        Raises
        ------
        TypeError
            If targets are not scaled column by column.
        """
        if not isinstance(self.targets, ColumnScaling):
            raise TypeError(f"targets must be scaled by columns; got {type(self.targets).__name__}.")
        return self.targets

    def predict(
        self,
        values: FloatArray,
        model: Any = None,
        action: GroupAction | None = None,
        vectors: FloatArray | None = None,
    ) -> FloatArray:
        """Evaluate physical rows.

        Parameters
        ----------
        values : ndarray of shape (n_rows, n_features)
            Features.
        model : keras.Model or None, default=None
            What to call if the network is not a `DenseStack`.
        action : GroupAction or None, default=None
            The site group to average over, that of all the rows.
        vectors : ndarray of shape (n_rows, n_vectors, 3) or None, default=None
            Vectors of the atoms, which `VectorTargets` need.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs), float64
        """
        rows = self.inputs.apply(values, self.dtype)
        if action is None:
            action = GroupAction.trivial(rows.shape[1])
        if self.stack is not None:
            return self._physical(averaged_forward(self.stack, rows, action), vectors)
        block_length = max(1, KERAS_BLOCK_ROWS // action.n_operations)
        outputs: list[FloatArray] = [np.empty((0, self.network.n_outputs))]
        for block in row_blocks(len(rows), block_length):
            images = action.images(rows[block])
            images = images.reshape(len(images) * action.n_operations, rows.shape[1])
            outputs.append(action.average(as_numpy(model(images, training=False))))
        return self._physical(np.concatenate(outputs), vectors)

    def _physical(self, outputs: FloatArray, vectors: FloatArray | None) -> FloatArray:
        if isinstance(self.targets, VectorTargets) and vectors is not None:
            return self.targets.invert(outputs, vectors)
        return self.column_targets.invert(outputs)


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
    structures : ndarray of shape (n_structures,), int
        Where each structure of `atoms` stands in the user's X.
    vector : bool
        Whether targets are vectors.
    most_operations : int
        Networks are averaged over so many operations of a site group at most; 1 is no averaging.
    grid : EnergyGrid or None, default=None
        Energies of the columns of the targets, if they are curves.
    """

    atoms: PerAtomArray
    targets: FloatArray
    weight: FloatArray
    held_out: NDArray[np.bool_]
    structures: IntArray
    vector: bool
    most_operations: int
    grid: EnergyGrid | None = None

    @property
    def framed(self) -> bool:
        """Whether targets are vectors in site frames."""
        return self.vector and self.atoms.frames is not None

    @property
    def combined(self) -> bool:
        """Whether targets are combinations of vectors that come with the features."""
        return combines(self.atoms, self.vector)

    @property
    def averages(self) -> bool:
        """Whether networks are averaged over site groups."""
        return self.most_operations > 1

    def actions(self, sites: IntArray, inputs: ColumnScaling) -> tuple[GroupAction, ...]:
        """The groups over which a network with these inputs is averaged, one per given site class."""
        symmetry = None if self.atoms.frames is None else self.atoms.frames.symmetry
        if not self.averages or symmetry is None:
            return (GroupAction.trivial(len(inputs.columns)),)
        return tuple(
            GroupAction.of_site(symmetry, int(site), inputs, self.framed, self.most_operations)
            for site in sites
        )


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
    sites = atoms.frames.sites if samples.averages and atoms.frames is not None else None
    own_sites = np.zeros(len(ours), dtype=np.intp) if sites is None else sites
    classes = np.unique(own_sites[ours])
    copies = resolved_copies(atoms, settings.symmetry_copies, samples.averages)
    streams = is_mapped(atoms.values) and _can_stream(samples, settings, copies)
    values: Any = MappedRows(atoms.values, rows) if streams else atoms.values[rows]
    targets, weight = samples.targets[rows], samples.weight[rows]
    width = values.shape[1]
    if samples.combined:  # side by side while rows are sorted
        values = np.hstack([values, _flat_vectors(atoms, rows)])
    structure, site = structure_of_row[rows], own_sites[rows]
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
        weight, structure, site = weight[source] * share, structure[source], site[source]
    if not streams and settings.solver not in BATCHED_SOLVERS:  # which "auto" never is
        values, targets, weight, site = merged(values, targets, weight, site)
        structure = np.zeros(len(values), dtype=np.intp)
    vectors = None
    if samples.combined:
        values, flat = values[:, :width], values[:, width:]
        vectors = flat.reshape(len(values), -1, 3)
    species = 0 if settings.networks == "shared" else int(atoms.species[ours][0])
    start = previous
    if start is None:
        if not learns_plain(settings):
            _check_squares(targets, label)
        with np.errstate(over="ignore", invalid="ignore"):  # answered in the next lines
            inputs = _input_scaling(samples, values, weight, site, settings.scaler)
            start = _new_network(species, inputs, targets, vectors, weight, samples, settings, draw)
        _check_scale(values, start.inputs, label)
    else:
        start = replace(start, inputs=start.inputs.seen(*_seen_range(samples, values, site)))
    actions = samples.actions(classes, start.inputs)

    def training_set(
        values: Any,
        targets: FloatArray,
        weight: FloatArray,
        structure: IntArray,
        site: IntArray,
        vectors: FloatArray | None,
    ) -> TrainingSet:
        basis = None
        if isinstance(start.targets, VectorTargets) and vectors is not None:
            basis = start.targets.basis(vectors, start.dtype)
        inputs: Any
        if isinstance(values, MappedRows):
            inputs = values.scaled(
                lambda block: start.inputs.apply(block, start.dtype), len(start.inputs.columns), start.dtype
            )
        else:
            inputs = start.inputs.apply(values, start.dtype)
        return TrainingSet(
            inputs,
            start.targets.apply(targets, start.dtype),
            weight / weight.sum(),
            structure,
            actions,
            np.searchsorted(classes, site),
            start.targets.link if isinstance(start.targets, LinkedTargets) else None,
            basis,
        )

    validation = None
    if len(held_out):
        validation = training_set(
            MappedRows(atoms.values, held_out) if streams else atoms.values[held_out],
            samples.targets[held_out],
            samples.weight[held_out],
            structure_of_row[held_out],
            own_sites[held_out],
            atoms.vectors[held_out] if samples.combined and atoms.vectors is not None else None,
        )
    recorder = Recorder(
        label=label,
        weights=start.network.arrays,
        patience=settings.n_iter_no_change if settings.solver == "adam" or len(held_out) else None,
        tol=settings.tol,
        keep_best=validation is not None,
        verbose=int(settings.verbose),
        max_iter=settings.max_iter,
        taken_up=dict(start.moments or {}) if settings.solver == "adam" else {},
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
        schedule=settings.learning_rate,
        scatter=settings.symmetry_penalty if samples.averages else 0.0,
    )
    train = training_set(values, targets, weight, structure, site, vectors)
    return Task(members, start, train, validation, options, recorder)


def _can_stream(samples: Samples, settings: Any, copies: int | str) -> bool:
    """Whether rows can stay in their file: TensorFlow, copies and vectors need them in memory."""
    in_numpy = settings.solver not in BATCHED_SOLVERS and settings.build_fn is None
    return in_numpy and copies == 1 and not samples.combined


def _flat_vectors(atoms: PerAtomArray, rows: IntArray) -> FloatArray:
    vectors = np.zeros((len(atoms.values), 0, 3)) if atoms.vectors is None else atoms.vectors
    flat: FloatArray = vectors[rows].reshape(len(rows), -1)
    return flat


def _check_scale(inputs: FloatArray, scaling: ColumnScaling, label: str) -> None:
    """Refuse inputs that are finite, but too large for their variance to be."""
    bad = scaling.columns[~(np.isfinite(scaling.scale) & np.isfinite(scaling.offset))]
    if len(bad):
        raise _too_large("X", inputs, bad[0], label)


def _check_squares(targets: FloatArray, label: str) -> None:
    """Refuse targets that are finite, but too large for their squares to be."""
    with np.errstate(over="ignore"):
        bad = np.flatnonzero(~np.isfinite(np.square(targets).sum(axis=0)))
    if len(bad):
        raise _too_large("y", targets, bad[0], label)


def _too_large(name: str, numbers: FloatArray, column: int, label: str) -> ValueError:
    return ValueError(
        f"{name} must hold numbers whose squares can be added up; column {column} of {label} reaches "
        f"{np.abs(numbers[:, column]).max():.3g}. Leave these structures out or repair them."
    )


def _input_scaling(
    samples: Samples, values: Any, weight: FloatArray, site: IntArray, how: str | None
) -> ColumnScaling:
    frames = samples.atoms.frames
    if frames is None:
        return fit_input_scaling(values, weight, how)
    if samples.averages and frames.symmetry is not None:
        return fit_symmetric_scaling(values, weight, site, frames.symmetry, how, LENGTH_RESOLUTION)
    vectors = None if frames.symmetry is None else frames.symmetry.vector_columns
    return fit_input_scaling(values, weight, how, LENGTH_RESOLUTION, vectors)


def _seen_range(samples: Samples, values: Any, site: IntArray) -> tuple[FloatArray, FloatArray]:
    frames = samples.atoms.frames
    symmetry = None if frames is None else frames.symmetry
    vectors = None if symmetry is None else symmetry.vector_columns
    with np.errstate(over="ignore", invalid="ignore"):
        return training_range(values, site, symmetry if samples.averages else None, vectors)


def _new_network(
    species: int,
    inputs: ColumnScaling,
    targets: FloatArray,
    vectors: FloatArray | None,
    weight: FloatArray,
    samples: Samples,
    settings: Any,
    draw: np.random.RandomState,
) -> AtomNetwork:
    outputs: TargetMap | VectorTargets
    n_inputs = len(inputs.columns)
    if vectors is not None:
        outputs = fit_vector_targets(targets, vectors, weight)
        n_outputs = len(outputs.columns)
    else:
        outputs = fit_target_map(
            targets, weight, settings, vector=samples.vector, averages=samples.averages, grid=samples.grid
        )
        n_outputs = outputs.apply(targets[:1], np.float64).shape[1]
    if settings.build_fn is None:
        sizes = (n_inputs, *hidden_sizes(settings.hidden_layer_sizes), n_outputs)
        stack = glorot_stack(sizes, settings.activation, draw, settings.dtype)
        if isinstance(outputs, VectorTargets):
            stack = damped(stack, 1.0 / np.sqrt(n_outputs))
        if isinstance(outputs, LinkedTargets):
            stack = started(stack, outputs, np.average(targets, axis=0, weights=weight))
        return AtomNetwork(stack, inputs, outputs)
    seed = int(draw.randint(np.iinfo(np.int32).max))
    limit_tensorflow_threads()
    return AtomNetwork(build_custom(settings.build_fn, n_inputs, n_outputs, species, seed), inputs, outputs)
