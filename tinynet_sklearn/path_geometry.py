"""Derivatives of the embedding of a frozen topology, from its index tables.

With h_b = exp(-d_b) per bond, an entry that is a product of h over the hops of a walk has

    d(entry) / d(d_b) = -(passes over bond b) * entry,        d(d_b) / d(r) = -+ unit vector of the bond,

and a neighbour's entry exp(-d) follows its own distance. So a slope per entry becomes a slope per length, and
that a force on two atoms: no Jacobian is ever stored, and the work is that of the embedding itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet_sklearn import _kernels
from tinynet_sklearn.geometry import Floats
from tinynet_sklearn.tables import PathTable

__all__ = ["PathGeometry"]


@dataclass(frozen=True, eq=False)
class PathGeometry:
    """Frames of one topology; implements `tinynet_sklearn.geometry.Geometry`.

    Parameters
    ----------
    table : PathTable
        Of a differentiable embedding (`PathSpec.differentiable`).
    positions : ndarray of shape (n_structures, n_atoms, 3)
        Angstrom, atoms in the periodic images of the reference.
    cells : ndarray of shape (n_structures, 3, 3)
        Angstrom.
    periodic : bool
        Whether all three directions are periodic.
    targets : object or None
        Energies, forces and stresses that came with the structures, sliced along with them.
    """

    table: PathTable
    positions: Floats
    cells: Floats
    periodic: bool
    targets: Any = None

    @property
    def volumes(self) -> Floats:
        """Volume of each cell, Angstrom^3, shape (n_structures,); NaN without full periodicity."""
        if not self.periodic:
            return np.full(len(self), np.nan)
        return np.abs(np.linalg.det(self.cells))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, structures: Any) -> PathGeometry:
        targets = None if self.targets is None else self.targets[structures]
        return PathGeometry(
            self.table, self.positions[structures], self.cells[structures], self.periodic, targets
        )

    def pull(self, slopes: Floats) -> tuple[Floats, Floats]:
        """Transposed Jacobian: gradient (n_rows, 3) and virials (n_structures, 3, 3) of an energy."""
        table, graph = self.table, self.table.graph
        per_frame = np.asarray(slopes, dtype=np.float64).reshape(len(self), graph.n_atoms, -1)
        gradient = np.zeros((len(self), graph.n_atoms, 3))
        virials = np.zeros((len(self), 3, 3))
        for f, (positions, cell) in enumerate(zip(self.positions, self.cells, strict=True)):
            factors = np.exp(-graph.bond_lengths(positions, cell))
            bond_slopes = np.zeros(graph.n_bonds)
            _kernels.pull_walk_entries(factors, *table.walks, per_frame[f], bond_slopes)
            _kernels.pull_lengths(positions, cell, *graph.pairs, bond_slopes, gradient[f], virials[f])
            factors = np.exp(-_kernels.bond_lengths(positions, cell, *table.neighbor_pairs))
            pair_slopes = -factors * per_frame[f, table.neighbor_rows, table.neighbor_columns]
            _kernels.pull_lengths(
                positions, cell, *table.neighbor_pairs, pair_slopes, gradient[f], virials[f]
            )
        return gradient.reshape(-1, 3), virials

    def push(self, velocities: Floats, strains: Floats) -> Floats:
        """Jacobian: rates of the features, shape (n_rows, n_columns), for moving atoms and cells."""
        table, graph = self.table, self.table.graph
        per_frame = np.asarray(velocities, dtype=np.float64).reshape(len(self), graph.n_atoms, 3)
        rates = np.zeros((len(self), graph.n_atoms, table.layout.n_columns))
        for f, (positions, cell) in enumerate(zip(self.positions, self.cells, strict=True)):
            factors = np.exp(-graph.bond_lengths(positions, cell))
            of_bonds = _kernels.push_lengths(positions, cell, *graph.pairs, per_frame[f], strains[f])
            _kernels.push_walk_entries(factors, *table.walks, of_bonds, rates[f])
            factors = np.exp(-_kernels.bond_lengths(positions, cell, *table.neighbor_pairs))
            of_pairs = _kernels.push_lengths(positions, cell, *table.neighbor_pairs, per_frame[f], strains[f])
            rates[f, table.neighbor_rows, table.neighbor_columns] = -factors * of_pairs
        return rates.reshape(len(self) * graph.n_atoms, table.layout.n_columns)
