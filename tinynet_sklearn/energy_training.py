"""From structures with references to a trained potential: scalings, first weights, loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energies import AtomicEnergies, structure_blocks
from tinynet_sklearn.energy_objective import LossWeights, PotentialObjective, Spreads
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.lbfgs import LBFGSState, run_lbfgs
from tinynet_sklearn.networks import glorot_stack, split_flat, with_arrays
from tinynet_sklearn.potential_targets import PotentialTargets
from tinynet_sklearn.recorder import Options, Recorder
from tinynet_sklearn.scaling import (
    ColumnScaling,
    fit_input_scaling,
    fit_symmetric_scaling,
    training_range,
)
from tinynet_sklearn.training import LENGTH_RESOLUTION, AtomNetwork

__all__ = [
    "ENERGY_SOLVERS",
    "calibrated",
    "composition",
    "first_networks",
    "flat_weights",
    "reference_energies",
    "settled",
    "shown",
    "with_weights",
]

# New networks should give forces (or energies, or stresses) of about this fraction of the true ones.
FIRST_SIZE = 0.5

# Forces, stresses and energies of new networks below this are zero but for rounding.
SMALLEST_SIZE = 1e-10

# Scale (eV) of networks that have nothing to learn: they should not make noise.
NO_SIZE = 1e-6

# A sum over walks that hardly varies in the training data, as where few bonds are shorter than the cutoff, is
# scaled as if it varied by this fraction of what the largest does: blown up to unit variance, the first bond
# that comes a little nearer would throw the network far off.
LEAST_SPREAD = 1e-4

# So many structures tell how large those are.
PROBED = 20

# Adam: decay of the means of slopes and squared slopes, and what keeps the quotient finite (Kingma and Ba).
MEAN_DECAY, SQUARE_DECAY, SMALLEST = 0.9, 0.999, 1e-8


def reference_energies(
    targets: PotentialTargets, atoms: PerAtomArray, species: IntArray, weight: FloatArray
) -> FloatArray:
    """Energy per atom of each species, eV, that explains most of the energies by composition alone.

    The least-squares solution of minimum norm: where all structures have one composition, only the energy of
    the whole is determined, and it is shared out.

    Parameters
    ----------
    targets : PotentialTargets
    atoms : PerAtomArray
        The same structures.
    species : ndarray of int
        Atomic numbers, ascending.
    weight : ndarray of shape (n_structures,)
        Of the structures.

    Returns
    -------
    ndarray of shape (n_species,)
        Zeros where no energy is known.
    """
    if targets.energy is None:
        return np.zeros(len(species))
    known = np.isfinite(targets.energy)
    counts = composition(atoms, species)[known]
    root = np.sqrt(weight[known])[:, None]
    # per atom, so that large cells do not outvote small ones
    n_atoms = counts.sum(axis=1, keepdims=True)
    solution = np.linalg.lstsq(root * counts / n_atoms, root[:, 0] * targets.energy[known] / n_atoms[:, 0])
    return np.asarray(solution[0])


def composition(atoms: PerAtomArray, species: IntArray) -> FloatArray:
    """Atoms of each species in each structure, shape (n_structures, n_species)."""
    counts = np.zeros((len(atoms), len(species)))
    np.add.at(counts, (atoms.structure_of_row, np.searchsorted(species, atoms.species)), 1.0)
    return counts


def first_networks(
    atoms: PerAtomArray,
    keys: IntArray,
    weight: FloatArray,
    offsets: dict[int, float],
    sizes: tuple[int, ...],
    settings: Any,
    averages: bool,
    rng: np.random.RandomState,
) -> dict[int, AtomNetwork]:
    """Draw a network for each key and fit the scaling of its inputs.

    Parameters
    ----------
    atoms : PerAtomArray
        Features of the training structures.
    keys : ndarray of shape (n_rows,), int
        Which network an atom belongs to.
    weight : ndarray of shape (n_rows,)
        Of the atoms.
    offsets : dict of int to float
        Reference energy of an atom of each key, eV.
    sizes : tuple of int
        Units of the hidden layers.
    settings : object
        With `activation` and `scaler`.
    averages : bool
        Whether networks are averaged over site groups.
    rng : numpy.random.RandomState
        Draws the weights.

    Returns
    -------
    dict of int to AtomNetwork
    """
    frames = atoms.frames
    found = {}
    for key in np.unique(keys):
        rows = np.flatnonzero(keys == key)
        if averages and frames is not None and frames.symmetry is not None:
            inputs = fit_symmetric_scaling(
                atoms.values[rows],
                weight[rows],
                frames.sites[rows],
                frames.symmetry,
                settings.scaler,
                LENGTH_RESOLUTION,
            )
        else:
            inputs = fit_input_scaling(atoms.values[rows], weight[rows], settings.scaler, LENGTH_RESOLUTION)
            if frames is None:  # smooth sums, of comparable size
                least = LEAST_SPREAD * inputs.scale.max(initial=0.0)
                inputs = replace(inputs, scale=np.maximum(inputs.scale, least))
        seed = np.random.RandomState(rng.randint(np.iinfo(np.int32).max))
        stack = glorot_stack((len(inputs.columns), *sizes, 1), settings.activation, seed, np.float64)
        output = ColumnScaling(np.arange(1), np.array([offsets[int(key)]]), np.ones(1))
        found[int(key)] = AtomNetwork(stack, inputs, output)
    return found


def shown(
    networks: dict[int, AtomNetwork], atoms: PerAtomArray, keys: IntArray, averages: bool
) -> dict[int, AtomNetwork]:
    """Networks of a warm start, whose training ranges now hold further structures, too.

    Parameters
    ----------
    networks : dict of int to AtomNetwork
    atoms : PerAtomArray
        Features of the further structures.
    keys : ndarray of shape (n_rows,), int
        Which network an atom belongs to.
    averages : bool
        Whether networks are averaged over site groups.

    Returns
    -------
    dict of int to AtomNetwork
    """
    found = dict(networks)
    for key in np.intersect1d(keys, list(networks)):
        rows, net = np.flatnonzero(keys == key), networks[int(key)]
        sites, symmetry = None, None
        if averages and atoms.frames is not None:
            sites, symmetry = atoms.frames.sites[rows], atoms.frames.symmetry
        ranges = training_range(atoms.values[rows], sites, symmetry)
        found[int(key)] = replace(net, inputs=net.inputs.seen(*ranges))
    return found


def settled(
    energies: AtomicEnergies, weights: LossWeights, spreads: Spreads, rng: np.random.RandomState
) -> list[AtomNetwork]:
    """Give new networks an energy scale that makes their forces of about the true size.

    Or their stresses or energies, where forces are not learned or vanish by symmetry.

    The mean output of each network is taken off its bias, so that training begins at the reference energies.

    Parameters
    ----------
    energies : AtomicEnergies
        The training structures, with networks of energy scale 1.
    weights : LossWeights
        What is learned.
    spreads : Spreads
        How large the references are.
    rng : numpy.random.RandomState
        Draws the structures on which this is decided.

    Returns
    -------
    list of AtomNetwork
    """
    atoms, geometry = energies.atoms, energies.atoms.geometry
    probed = np.sort(rng.permutation(len(atoms))[:PROBED])
    found = energies.evaluate(energies.stacks(flat_weights(energies.networks)), probed)
    counts = np.diff(found.offsets)
    sizes = {"energy": float(np.std(found.totals / counts))}
    if geometry is not None:
        gradient, virials = geometry[probed].pull(found.slopes)
        stress = virials / geometry[probed].volumes[:, None, None]
        stress = stress[np.isfinite(stress)]
        sizes["forces"] = float(np.sqrt(np.mean(gradient**2)))
        sizes["stress"] = float(np.sqrt(np.mean(stress**2))) if stress.size else 0.0
    scale = NO_SIZE  # where nothing varies, there is nothing to add to the reference energies
    for name in spreads.varying:
        if getattr(weights, name) and sizes.get(name, 0.0) > SMALLEST_SIZE:
            scale = FIRST_SIZE * getattr(spreads, name) / sizes[name]
            break
    rows = np.concatenate([np.arange(atoms.offsets[s], atoms.offsets[s + 1]) for s in probed])
    networks = []
    for number, net in enumerate(energies.networks):
        own = energies.network_of_row[rows] == number
        arrays = net.network.arrays
        if own.any():
            arrays[-1] = arrays[-1] - np.mean(found.energies[own] - net.energy_scaling.offset[0])
        targets_scaling = ColumnScaling(np.arange(1), net.energy_scaling.offset, np.array([scale]))
        networks.append(AtomNetwork(with_arrays(net.network, arrays), net.inputs, targets_scaling))
    return networks


def calibrated(
    energies: AtomicEnergies,
    targets: PotentialTargets,
    species: IntArray,
    weight: FloatArray,
) -> list[AtomNetwork]:
    """Shift the energies of trained networks by constants per species, which no force feels.

    Where energies are known, by those that leave the least error; else so that the mean energy of the atoms
    of each network is zero.

    Parameters
    ----------
    energies : AtomicEnergies
        The training structures with the trained networks.
    targets : PotentialTargets
    species : ndarray of int
        Atomic numbers, ascending.
    weight : ndarray of shape (n_structures,)

    Returns
    -------
    list of AtomNetwork
    """
    atoms = energies.atoms
    stacks = energies.stacks(flat_weights(energies.networks))
    passes = [
        energies.evaluate(stacks, block) for block in structure_blocks(np.arange(len(atoms)), atoms.counts)
    ]
    per_atom = np.concatenate([found.energies for found in passes])
    totals = np.concatenate([found.totals for found in passes])
    if targets.energy is not None:
        left = PotentialTargets(energy=targets.energy - totals)
        per_species = reference_energies(left, atoms, species, weight)
    shifted = []
    for number, net in enumerate(energies.networks):
        own = energies.network_of_row == number
        if not own.any():  # of a species that a warm start finds in the networks but not in the structures
            shift = 0.0
        elif targets.energy is None:
            shift = -float(np.mean(per_atom[own]))
        else:
            # networks of sites and shared networks: the mean of the species whose atoms they serve
            shift = float(per_species[np.searchsorted(species, atoms.species[own])].mean())
        output = ColumnScaling(np.arange(1), net.energy_scaling.offset + shift, net.energy_scaling.scale)
        shifted.append(AtomNetwork(net.network, net.inputs, output))
    return shifted


def flat_weights(networks: Sequence[AtomNetwork]) -> FloatArray:
    """Weights of all networks, one after the other, float64."""
    return np.concatenate([np.ravel(a) for net in networks for a in net.network.arrays]).astype(np.float64)


def with_weights(networks: Sequence[AtomNetwork], flat: FloatArray) -> list[AtomNetwork]:
    """The same networks with other weights."""
    changed, start = [], 0
    for net in networks:
        size = sum(a.size for a in net.network.arrays)
        arrays = list(split_flat(flat[start : start + size], [a.shape for a in net.network.arrays]))
        changed.append(AtomNetwork(with_arrays(net.network, arrays), net.inputs, net.targets))
        start += size
    return changed


def train_adam(
    objective: PotentialObjective,
    validation: PotentialObjective | None,
    flat: FloatArray,
    options: Options,
    recorder: Recorder,
) -> None:
    """Minimise the loss by Adam over mini-batches of structures.

    The slopes of a force loss on a few structures already tell most of what all would: here, unlike for the
    direct forces of single atoms, mini-batches win over L-BFGS (docs/potential.md).

    References
    ----------
    D. P. Kingma and J. Ba, Adam: a method for stochastic optimization, arXiv:1412.6980.
    """
    n, batch = objective.n_structures, min(options.batch_size, objective.n_structures)
    n_batches = -(-n // batch)
    state = recorder.taken_up or {
        "flat": flat, "mean": np.zeros_like(flat), "square": np.zeros_like(flat), "step": np.array(0)
    }  # fmt: skip
    flat, mean, square = (state[name].copy() for name in ("flat", "mean", "square"))
    step = int(state["step"])
    last = options.max_iter * n_batches
    while recorder.n_iter < options.max_iter:
        order = np.random.RandomState((options.seed, recorder.n_iter)).permutation(n)
        losses = np.empty(n_batches)
        for k, structures in enumerate(np.array_split(order, n_batches)):
            losses[k], slope = objective.value(flat, np.sort(structures))
            step += 1
            mean += (1 - MEAN_DECAY) * (slope - mean)
            square += (1 - SQUARE_DECAY) * (slope**2 - square)
            rate = options.learning_rate
            if options.schedule == "cosine":
                rate *= 0.5 * (1 + np.cos(np.pi * step / last))
            unbiased = np.sqrt(square / (1 - SQUARE_DECAY**step)) + SMALLEST
            flat = flat - rate / (1 - MEAN_DECAY**step) * mean / unbiased
        watched = None if validation is None else validation.error(flat)
        state = {"flat": flat, "mean": mean, "square": square, "step": np.array(step)}
        stop = recorder.step(float(losses.mean()), watched, partial(_weights, flat))
        recorder.save(partial(dict, state), now=stop or recorder.finished)
        if stop:
            return


def train_lbfgs(
    objective: PotentialObjective,
    validation: PotentialObjective | None,
    flat: FloatArray,
    options: Options,
    recorder: Recorder,
) -> None:
    """Minimise the loss over all structures at once by limited-memory BFGS."""
    if recorder.taken_up:
        state = LBFGSState.from_arrays(recorder.taken_up)
    else:
        state = LBFGSState.start(flat, objective.value)

    def after_iteration(now: LBFGSState) -> bool:
        watched = None if validation is None else validation.error(now.x)
        stop = recorder.step(now.value, watched, partial(_weights, now.x)) or recorder.finished
        recorder.save(now.arrays, now=stop)
        return stop

    if run_lbfgs(objective.value, state, after_iteration, options.tol):
        recorder.converged = True


def _weights(flat: FloatArray) -> list[FloatArray]:
    return [flat.copy()]


#: Training loops by the name of the solver.
ENERGY_SOLVERS: dict[str, Callable[..., None]] = {"adam": train_adam, "lbfgs": train_lbfgs}
