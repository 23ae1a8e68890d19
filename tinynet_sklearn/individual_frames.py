"""One structure in learned columns: values, derivatives, and what lies outside of the training.

A `Frame` is what `tinynet_sklearn.individual` makes of a structure. Its derivatives follow from its own walks
and neighbours, as in `tinynet_sklearn.path_geometry`; entries of equal value share their slopes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn import _kernels
from tinynet_sklearn.geometry import Floats
from tinynet_sklearn.graph import BondGraph
from tinynet_sklearn.structures import AtomicStructure
from tinynet_sklearn.topologies import Neighbors, changes

__all__ = ["TINY", "Frame", "IndividualGeometry", "held_in_range", "tied_cells", "widen_ranges"]

Ints = NDArray[np.int64]

#: A column counts as held beyond its range from this share of its width on, as in `scaling`.
MARGIN = 0.05

#: Below the nearness of any neighbour; a logarithm of zero is none.
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Frame:
    """One structure in the columns of a layout, and what its derivatives need.

    Attributes
    ----------
    values : ndarray of shape (n_atoms, n_columns)
    vectors : ndarray of shape (n_atoms, n_vectors, 3) or None
        Directions on which a vector target can be built.
    outside : ndarray of bool of shape (n_atoms,)
        Atoms that have entries without a column, or columns that are held in their range.
    """

    values: Floats
    vectors: Floats | None
    structure: AtomicStructure
    graph: BondGraph
    factors: Floats
    rates: Floats
    walks: tuple[Any, Any, Any, Any, Any]
    neighbors: Neighbors
    neighbor_columns: Ints
    nearness: Floats
    outside: NDArray[np.bool_]
    ties: Sequence[Ints] = ()
    free: NDArray[np.bool_] | None = None

    def shared(self, slopes: Floats) -> Floats:
        """Slopes (n_atoms, n_columns), made equal for entries of equal value.

        Which of two equal entries comes first means nothing, so a slope by one of them is the mean of both:
        then forces have the symmetry of the structure.
        """
        if not self.ties:
            return slopes
        flat = slopes.ravel().copy()
        for cells in self.ties:
            flat[cells] = flat[cells].mean(axis=1, keepdims=True)
        return flat.reshape(slopes.shape)


def tied_cells(rows: Ints, class_of: Ints, values: Floats, columns: Ints, n_columns: int) -> list[Ints]:
    """Cells, row * n_columns + column, of k > 1 equal entries of a class: an array (n_ties, k) for each k."""
    order = np.lexsort((-values, class_of, rows))
    order = order[columns[order] >= 0]
    apart = np.zeros(len(order), dtype=np.int64)
    logarithms = -np.log(np.maximum(values[order], TINY))
    apart[1:] = np.cumsum(np.diff(logarithms) > _kernels.SAME_DISTANCE)
    leads = np.flatnonzero(changes([rows[order], class_of[order], apart]))
    sizes = np.diff(np.append(leads, len(order)))
    cells = rows[order] * n_columns + columns[order]
    return [cells[leads[sizes == k][:, None] + np.arange(k)] for k in np.unique(sizes[sizes > 1])]


@dataclass(frozen=True, eq=False)
class IndividualGeometry:
    """Derivatives of structures with topologies of their own; implements `geometry.Geometry`.

    Parameters
    ----------
    frames : sequence of Frame
        In columns of distances, or without neighbours; bonds may fade where neighbours are one hop away.
    targets : object or None
        Energies, forces and stresses that came with the structures, sliced along with them.
    """

    frames: Sequence[Frame]
    targets: Any = None
    _offsets: Ints = field(init=False)

    def __post_init__(self) -> None:
        counts = [len(frame.structure) for frame in self.frames]
        object.__setattr__(self, "_offsets", np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    @property
    def volumes(self) -> Floats:
        """Volume of each cell, Angstrom^3, shape (n_structures,); NaN without full periodicity."""
        structures = [frame.structure for frame in self.frames]
        return np.array([abs(np.linalg.det(s.cell)) if s.pbc.all() else np.nan for s in structures])

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, structures: Any) -> IndividualGeometry:
        chosen = np.arange(len(self))[structures]
        targets = None if self.targets is None else self.targets[structures]
        return IndividualGeometry([self.frames[k] for k in chosen], targets)

    def pull(self, slopes: Floats) -> tuple[Floats, Floats]:
        """Transposed Jacobian: gradient (n_rows, 3) and virials (n_structures, 3, 3) of an energy."""
        slopes = np.asarray(slopes, dtype=np.float64)
        gradient = np.zeros((int(self._offsets[-1]), 3))
        virials = np.zeros((len(self), 3, 3))
        for f, frame in enumerate(self.frames):
            here = slice(self._offsets[f], self._offsets[f + 1])
            mine = np.ascontiguousarray(
                frame.shared(slopes[here] if frame.free is None else slopes[here] * frame.free)
            )
            where = (frame.structure.positions, frame.structure.cell)
            bond_slopes = np.zeros(frame.graph.n_bonds)
            _kernels.pull_walk_entries(frame.factors, *frame.walks, mine, bond_slopes)
            bond_slopes *= -frame.rates  # the kernel takes d(ln h)/dd for -1
            _kernels.pull_lengths(*where, *frame.graph.pairs, bond_slopes, gradient[here], virials[f])
            pair_slopes = _neighbor_slopes(frame) * mine[frame.neighbors.rows, frame.neighbor_columns]
            _kernels.pull_lengths(*where, *frame.neighbors.pairs, pair_slopes, gradient[here], virials[f])
        return gradient, virials

    def push(self, velocities: Floats, strains: Floats) -> Floats:
        """Jacobian: rates of the features, shape (n_rows, n_columns), for moving atoms and cells."""
        velocities = np.asarray(velocities, dtype=np.float64)
        rates = np.zeros((int(self._offsets[-1]), self.frames[0].values.shape[1] if len(self) else 0))
        for f, frame in enumerate(self.frames):
            here = slice(self._offsets[f], self._offsets[f + 1])
            where = (frame.structure.positions, frame.structure.cell)
            moving = (np.ascontiguousarray(velocities[here]), strains[f])
            of_bonds = -frame.rates * _kernels.push_lengths(*where, *frame.graph.pairs, *moving)
            _kernels.push_walk_entries(frame.factors, *frame.walks, of_bonds, rates[here])
            of_pairs = _kernels.push_lengths(*where, *frame.neighbors.pairs, *moving)
            rates[here][frame.neighbors.rows, frame.neighbor_columns] = _neighbor_slopes(frame) * of_pairs
            rates[here] = frame.shared(rates[here])
            if frame.free is not None:
                rates[here] *= frame.free
        return rates


def _neighbor_slopes(frame: Frame) -> Floats:
    """Slope of the entry of each neighbour by its distance."""
    rates = np.full(len(frame.neighbors.rows), -1.0)
    bonded = frame.neighbors.bonds >= 0
    rates[bonded] = frame.rates[frame.neighbors.bonds[bonded]]
    slopes: Floats = rates * frame.nearness
    return slopes


def widen_ranges(ranges: dict[int, tuple[Floats, Floats]], numbers: Ints, values: Floats) -> None:
    """Widen the ranges of columns, by atomic number, to hold the values of some atoms."""
    for z in np.unique(numbers):
        rows = values[numbers == z]
        low, high = rows.min(axis=0), rows.max(axis=0)
        if int(z) in ranges:
            low, high = np.minimum(low, ranges[int(z)][0]), np.maximum(high, ranges[int(z)][1])
        ranges[int(z)] = low, high


def held_in_range(frame: Frame, ranges: dict[int, tuple[Floats, Floats]]) -> Frame:
    """The same frame with every value inside the range of its column; where it is not, nothing moves it."""
    numbers = frame.structure.numbers
    low = np.array([ranges[int(z)][0] for z in numbers])
    high = np.array([ranges[int(z)][1] for z in numbers])
    free = (frame.values >= low) & (frame.values <= high)
    margin = MARGIN * (high - low)
    far = ((frame.values < low - margin) | (frame.values > high + margin)).any(axis=1)
    return replace(frame, values=np.clip(frame.values, low, high), free=free, outside=frame.outside | far)
