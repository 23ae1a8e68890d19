"""Kinds of atoms: what those of a crystal share, as the compiled path takes it.

Atoms are of one kind where they have the same network, site group and columns; what is left to each of them
are the pairs that make its entries. Entries that a network does not take are left out, and the operations of
the site group are folded into the first matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from tinynet_sklearn import _force_kernels as kernels
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.evaluation import assignment
from tinynet_sklearn.features import CycleMomentFeaturizer
from tinynet_sklearn.geometry import Floats
from tinynet_sklearn.paths import Ints
from tinynet_sklearn.scaling import ColumnScaling
from tinynet_sklearn.signs import SignSplit
from tinynet_sklearn.target_maps import folded
from tinynet_sklearn.tiling import AtomEntries
from tinynet_sklearn.training import AtomNetwork

__all__ = ["EntryTable", "Kind", "joined", "kinds_of", "model_arrays"]

#: Relative differences below this are rounding errors of double precision, summed over a row.
ROUNDING = 1e-12

#: Activations as the kernels number them.
ACTIVATIONS = {
    "tanh": kernels.TANH,
    "sigmoid": kernels.SIGMOID,
    "logistic": kernels.SIGMOID,
    "relu": kernels.RELU,
    "softplus": kernels.SOFTPLUS,
    "linear": kernels.LINEAR,
    "identity": kernels.LINEAR,
}


@dataclass(frozen=True, eq=False)
class EntryTable:
    """Entries of the atoms of one kind: pair, cell of its first atom, and what is stored beside the pair."""

    pairs: Ints
    cells: Ints
    flips: Ints


@dataclass(frozen=True, eq=False)
class Kind:
    """Atoms of the reference that share everything but their surroundings."""

    parents: Ints
    hops: EntryTable
    ends: EntryTable
    walk_lengths: Ints
    walk_inputs: Ints
    walk_weights: Floats
    neighbor_inputs: Ints
    base: Floats
    network: AtomNetwork
    turned: bool
    action: GroupAction
    split: SignSplit
    first: list[Floats]
    target_scale: Floats
    target_offset: Floats
    matrices: list[Floats]
    biases: list[Floats]
    activations: list[int]

    @property
    def n_outputs(self) -> int:
        """Numbers that the network gives for each atom."""
        return len(self.target_scale)

    @property
    def cost(self) -> int:
        """Multiplications for one atom, roughly."""
        of_entries = 4 * self.hops.pairs.shape[1] + 8 * self.ends.pairs.shape[1]
        of_layers = self.action.n_operations * sum(matrix.size for matrix in self.matrices)
        return of_entries + sum(matrix.size for matrix in self.first) + of_layers

    @property
    def width(self) -> int:
        """Atoms of a block: fewer where a product of the first layer would make BLAS start its threads."""
        largest = max((matrix.size for matrix in self.first), default=0)
        fitting = kernels.BLAS_SERIAL // max(largest, 1) // 8 * 8
        return int(min(max(fitting, 8), kernels.WIDTH))

    @property
    def scratch(self) -> tuple[int, int]:
        """Numbers that an atom needs space for, in double precision and in that of the networks."""
        n_first = len(self.biases[0])
        activations = n_first + self.action.n_operations * sum(len(bias) for bias in self.biases[1:])
        n_inputs = len(self.base)
        averages = sum(len(bias) for bias in self.biases[-2:])  # of `_linear_outputs`
        of_networks = 3 * n_inputs + n_first + 2 * activations + self.action.n_operations + averages
        return n_inputs + len(self.walk_lengths), of_networks


def kinds_of(featurizer: CycleMomentFeaturizer, regressor: Any, entries: list[AtomEntries]) -> Iterator[Kind]:
    """Sort the atoms of the reference into kinds.

    Parameters
    ----------
    featurizer : CycleMomentFeaturizer
    regressor : BPNNPotential or BPNNRegressor
    entries : list of AtomEntries
        Of the atoms of the reference.
    """
    reference, sites, layout = featurizer.reference_, featurizer.sites_, featurizer.table_.layout
    atoms = Atoms(reference.numbers, reference.positions, cell=reference.cell, pbc=reference.pbc)
    features = featurizer.transform([atoms])
    treated = assignment(regressor, features)
    keys, most = treated.keys, treated.most_operations
    groups: dict[tuple[Any, ...], list[int]] = {}
    for atom, entry in enumerate(entries):
        base = np.zeros(layout.n_columns)
        if layout.neighbor_lead:
            mine = featurizer.table_.neighbor_rows == atom
            columns = featurizer.table_.neighbor_columns[mine] - 1
            base[columns] = reference.numbers[featurizer.table_.neighbor_atoms[mine]]
        if layout.own_species:
            base[-1] = reference.numbers[atom]
        shared = (entry.walk_lengths, entry.walk_columns, entry.walk_weights, entry.neighbor_columns, base)
        site = int(sites.classes[atom]) if most > 1 else 0
        groups.setdefault((int(keys[atom]), site, *[part.tobytes() for part in shared]), []).append(atom)
    for (key, site, *_, base_bytes), parents in groups.items():
        network = regressor.atom_networks_[key]
        action = GroupAction.trivial(len(network.inputs.columns))
        symmetry = featurizer.symmetry_
        if most > 1 and symmetry is not None:
            action = GroupAction.of_site(symmetry, site, network.inputs, treated.turned, most)
        yield _kind(
            np.array(parents),
            [entries[atom] for atom in parents],
            np.frombuffer(base_bytes),
            network,
            action,
            layout.neighbor_span == 3,
            treated.turned,
        )


def _kind(
    parents: Ints,
    entries: list[AtomEntries],
    base: Floats,
    network: AtomNetwork,
    action: GroupAction,
    directed: bool,
    turned: bool,
) -> Kind:
    """Leave out entries that the network does not take; fold the operations into its first matrix."""
    inputs = np.full(len(base), -1)
    inputs[network.inputs.columns] = np.arange(len(network.inputs.columns))
    entry = entries[0]
    walks = inputs[entry.walk_columns] >= 0
    hops = np.repeat(walks, entry.walk_lengths)
    columns = entry.neighbor_columns[:, None] + (np.arange(3) if directed else [0, -1, -1])
    neighbor_inputs = inputs[columns]
    if not directed:
        neighbor_inputs[:, 1:] = -1
    ends = (neighbor_inputs >= 0).any(axis=1)
    no_flips = np.full((len(parents), int(hops.sum())), -1)
    if network.stack is None:
        raise ValueError("a network is no plain stack of dense layers.")
    stack, target_scale, target_offset = folded(network.stack.astype(np.float64), network.column_targets)
    first, bias = action.fold(stack.weights[0], stack.biases[0])
    split = SignSplit.of(action)
    shape = (len(network.inputs.columns), action.n_operations, len(stack.biases[0]))
    return Kind(
        parents=parents,
        hops=EntryTable(
            np.stack([atom.hop_pairs[hops] for atom in entries]),
            np.stack([atom.hop_cells[hops] for atom in entries]),
            no_flips,
        ),
        ends=EntryTable(
            np.stack([atom.end_pairs[ends] for atom in entries]),
            np.stack([atom.end_cells[ends] for atom in entries]),
            np.stack([atom.end_flips[ends] for atom in entries]),
        ),
        walk_lengths=entry.walk_lengths[walks],
        walk_inputs=inputs[entry.walk_columns[walks]],
        walk_weights=entry.walk_weights[walks],
        neighbor_inputs=neighbor_inputs[ends],
        base=base[network.inputs.columns],
        network=network,
        turned=turned,
        action=action,
        # units before operations: the images of an atom then are further lanes of the layers that follow
        split=split,
        target_scale=target_scale,
        target_offset=target_offset,
        first=split.matrices(first.reshape(shape)),
        matrices=[np.ascontiguousarray(w.T) for w in stack.weights[1:]],
        biases=[_same_for_all(bias.reshape(shape[1:]))[split.order].T.ravel(), *stack.biases[1:]],
        activations=[ACTIVATIONS[name] for name in stack.activations],
    )


def _same_for_all(biases: Floats) -> Floats:
    """Biases (n_ops, n_units) of the images, without rounding errors where they are the same for all.

    They are where inputs are counted from means that obey the site group, as after any fit that averages.
    """
    mean = biases.mean(axis=0)
    alike = np.abs(biases - mean).max(initial=0.0) < ROUNDING * np.abs(biases).max(initial=1.0)
    return np.broadcast_to(mean, biases.shape) if alike else biases


def model_arrays(kinds: list[Kind], dtype: np.dtype) -> kernels.Model:
    """All kinds one after the other, as the kernels take them."""
    records = np.zeros(len(kinds), dtype=kernels.KIND)
    layers: list[tuple[int, ...]] = []
    weights: list[NDArray] = []
    n_weights = 0

    def stored(array: NDArray) -> int:
        nonlocal n_weights
        weights.append(array.ravel())
        n_weights += array.size
        return n_weights - array.size

    signs = walks = inputs = neighbors = rotations = targets = 0
    for record, kind in zip(records, kinds, strict=True):
        record["walk_start"], record["n_walks"] = walks, len(kind.walk_lengths)
        record["n_hops"], record["n_neighbors"] = kind.hops.pairs.shape[1], kind.ends.pairs.shape[1]
        record["neighbor_start"], record["input_start"], record["n_inputs"] = (
            neighbors,
            inputs,
            len(kind.base),
        )
        record["sign_start"], record["n_signs"] = signs, kind.split.n_signs
        record["layer_start"], record["n_layers"] = len(layers), len(kind.biases)
        record["n_operations"], record["rotation_start"] = kind.action.n_operations, rotations
        record["target_start"], record["n_outputs"] = targets, kind.n_outputs
        matrices = [kind.first, *[[matrix] for matrix in kind.matrices]]
        for parts, bias, activation in zip(matrices, kind.biases, kind.activations, strict=True):
            straight = stored(joined([part.ravel() for part in parts], dtype))
            transposed = stored(joined([part.T.ravel() for part in parts], dtype))
            n_in = sum(part.shape[1] for part in parts)
            layers.append((n_in, len(bias), straight, transposed, stored(bias), activation))
        signs += kind.split.n_signs + 1
        walks += len(kind.walk_lengths)
        neighbors += kind.ends.pairs.shape[1]
        inputs += len(kind.base)
        rotations += kind.action.n_operations
        targets += kind.n_outputs
    scalings = [kind.network.inputs for kind in kinds]
    splits: list[Any] = [kind.split.parts for kind in kinds]
    joins: list[Any] = [part.T.tocsr() for part in splits]
    limits = [_limits_of_inputs(scaling) for scaling in scalings]
    return kernels.Model(
        kinds=records,
        walk_lengths=joined([kind.walk_lengths for kind in kinds], np.int64),
        walk_inputs=joined([kind.walk_inputs for kind in kinds], np.int64),
        walk_weights=joined([kind.walk_weights for kind in kinds], np.float64),
        neighbor_inputs=np.concatenate([kind.neighbor_inputs for kind in kinds]).astype(np.int64),
        base=joined([kind.base for kind in kinds], np.float64),
        offset=joined([scaling.offset for scaling in scalings], np.float64),
        scale=joined([1.0 / scaling.scale for scaling in scalings], np.float64),
        low=joined([low for low, _ in limits], np.float64),
        high=joined([high for _, high in limits], np.float64),
        split_offsets=_offsets([part.indptr for part in splits]),
        split_inputs=joined([part.indices for part in splits], np.int64),
        split_weights=joined([part.data for part in splits], dtype),
        join_offsets=_offsets([part.indptr for part in joins]),
        join_parts=joined([part.indices for part in joins], np.int64),
        join_weights=joined([part.data for part in joins], dtype),
        sign_offsets=joined([kind.split.offsets for kind in kinds], np.int64),
        layers=np.array(layers, dtype=kernels.LAYER),
        weights=joined(weights, dtype),
        rotations=np.concatenate(
            [kind.action.rotations[kind.split.order] / kind.action.n_operations for kind in kinds]
        ),
        target_scale=joined([kind.target_scale for kind in kinds], np.float64),
        target_offset=joined([kind.target_offset for kind in kinds], np.float64),
    )


def _offsets(parts: Sequence[NDArray]) -> NDArray:
    """Offsets of sparse rows, those of all matrices one after the other."""
    return np.concatenate([[0], np.cumsum(joined([np.diff(part) for part in parts], np.int64))])


def _limits_of_inputs(scaling: ColumnScaling) -> tuple[Floats, Floats]:
    """Values of the kept columns beyond which a network extrapolates; infinite where unknown."""
    limits = scaling.limits()
    if limits is None:
        unknown = np.full(len(scaling.columns), np.inf)
        return -unknown, unknown
    return limits[0][scaling.columns], limits[1][scaling.columns]


def joined(parts: Sequence[NDArray], dtype: Any) -> NDArray:
    """Arrays one after the other; an empty one if there are none."""
    return np.concatenate([np.zeros(0, dtype=dtype), *parts]).astype(dtype, copy=False)
