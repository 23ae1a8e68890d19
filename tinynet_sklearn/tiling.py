"""What the row of an atom is made of, for one cell, and for the cells of a supercell.

Entries of a row are pairs of atoms: the bonds that a walk passes, and the way to each neighbour. Pairs are
numbered for the reference, bonds first. In a supercell of n_cells cells of the reference, the copy of pair p
whose first atom stands in a cell of class c (see `Supercell`) is

    pair p * n_cells + c

so an entry of an atom is known by the pair p and the translation from the atom's cell to that of the pair's
first atom. This is all that has to be stored: the tables of a supercell are filled from it by one loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn import _force_kernels
from tinynet_sklearn.paths import Ints, PathSpec
from tinynet_sklearn.repetition import walk_edges
from tinynet_sklearn.sites import Sites
from tinynet_sklearn.supercells import Supercell
from tinynet_sklearn.tables import PathTable

__all__ = ["AtomEntries", "Tiling", "UnitPairs", "unit_entries"]


@dataclass(frozen=True, eq=False)
class UnitPairs:
    """Pairs of atoms of the reference, each once; those before ``n_bonds`` are the bonds of its graph.

    Attributes
    ----------
    first, last : ndarray of int of shape (n_pairs,)
    shifts : ndarray of int of shape (n_pairs, 3)
        Cell of the last atom, as seen from that of the first.
    n_bonds : int
    """

    first: Ints
    last: Ints
    shifts: Ints
    n_bonds: int


@dataclass(frozen=True, eq=False)
class AtomEntries:
    """The entries of one atom of the reference, sorted by what all atoms of its kind share.

    Attributes
    ----------
    walk_lengths, walk_columns, walk_weights : ndarray of shape (n_walks,)
        Hops, column and factor of each walk.
    hop_pairs, hop_cells : ndarray of int of shape (n_hops,) and (n_hops, 3)
        Pair that each hop passes, and the cell of the pair's first atom.
    neighbor_columns : ndarray of int of shape (n_neighbors,)
        First column of each neighbour.
    end_pairs, end_cells, end_flips : ndarray of int of shape (n_neighbors,) and (n_neighbors, 3)
        Pair that leads to each neighbour, the cell of its first atom, and 1 if the neighbour is that atom.
    """

    walk_lengths: Ints
    walk_columns: Ints
    walk_weights: NDArray[np.float64]
    hop_pairs: Ints
    hop_cells: Ints
    neighbor_columns: Ints
    end_pairs: Ints
    end_cells: Ints
    end_flips: Ints


def unit_entries(table: PathTable, sites: Sites, spec: PathSpec) -> tuple[UnitPairs, list[AtomEntries]]:
    """Pairs and entries of the reference that a table was made from.

    Parameters
    ----------
    table, sites, spec
        As fitted.
    """
    graph = table.graph
    numbers = {
        (int(i), int(j), *map(int, shift)): number
        for number, (i, j, shift) in enumerate(zip(*graph.pairs, strict=True))
    }
    n_bonds = len(numbers)
    edges_of_hops, edges = walk_edges(table, sites, spec)
    hop_starts = np.asarray(table.walk_offsets)
    atoms = []
    for atom in range(graph.n_atoms):
        walks = np.flatnonzero(table.walk_rows == atom)
        lengths = np.diff(hop_starts)[walks]
        walks = walks[np.lexsort((table.walk_weights[walks], table.walk_columns[walks], lengths))]
        hops = np.concatenate(
            [np.zeros(0, dtype=np.int64), *[np.arange(hop_starts[w], hop_starts[w + 1]) for w in walks]]
        )
        bonds, cells = edges[atom]
        passed = edges_of_hops[hops]
        neighbors = np.flatnonzero(table.neighbor_rows == atom)
        neighbors = neighbors[np.argsort(table.neighbor_columns[neighbors], kind="stable")]
        ends = []
        for other, cell in zip(table.neighbor_atoms[neighbors], table.neighbor_cells[neighbors], strict=True):
            there, back = (atom, int(other), *map(int, cell)), (int(other), atom, *map(int, -cell))
            if back in numbers and there not in numbers:
                ends.append((numbers[back], *cell, 1))
            else:
                ends.append((numbers.setdefault(there, len(numbers)), 0, 0, 0, 0))
        found = np.array(ends, dtype=np.int64).reshape(-1, 5)
        atoms.append(
            AtomEntries(
                walk_lengths=np.diff(hop_starts)[walks],
                walk_columns=table.walk_columns[walks].astype(np.int64),
                walk_weights=table.walk_weights[walks],
                hop_pairs=bonds[passed],
                hop_cells=cells[passed],
                neighbor_columns=table.neighbor_columns[neighbors].astype(np.int64),
                end_pairs=found[:, 0],
                end_cells=found[:, 1:4],
                end_flips=found[:, 4],
            )
        )
    pairs = np.array(list(numbers), dtype=np.int64).reshape(-1, 5)
    return UnitPairs(pairs[:, 0], pairs[:, 1], pairs[:, 2:], n_bonds), atoms


class Tiling:
    """Pairs of a supercell, and the entries of its atoms.

    Parameters
    ----------
    pairs : UnitPairs
        Of the reference.
    supercell : Supercell

    Attributes
    ----------
    first, last : ndarray of int32 of shape (n_pairs * n_cells,)
        Atoms of each pair.
    images : ndarray of int32 of shape (n_pairs * n_cells,)
        Row of ``cells`` in which the last one stands.
    cells : ndarray of int of shape (n_images, 3)
        In units of the supercell's lattice vectors, as seen from the positions that the supercell was
        recognised by.
    """

    def __init__(self, pairs: UnitPairs, supercell: Supercell) -> None:
        self.supercell = supercell
        self.n_cells = supercell.n_cells
        n_pairs = len(pairs.first)
        first = np.empty((n_pairs, self.n_cells), dtype=np.int32)
        last, images = np.empty_like(first), np.empty_like(first)
        known: dict[tuple[int, ...], int] = {}
        # pair by pair: at once, a million atoms would need gigabytes
        for p, (i, j, shift) in enumerate(zip(pairs.first, pairs.last, pairs.shifts, strict=True)):
            first[p] = supercell.copies[i]
            ends = supercell.translations[first[p]] + shift
            last[p], cells = supercell.vertices(np.full(self.n_cells, j), ends)
            # few distinct cells: a number in a base that holds them all tells them apart faster than rows
            reach = int(np.abs(cells).max(initial=0)) + 1
            keys = cells @ np.array([4 * reach * reach, 2 * reach, 1])
            _, where, inverse = np.unique(keys, return_index=True, return_inverse=True)
            rows = [known.setdefault(tuple(int(c) for c in cells[k]), len(known)) for k in where]
            images[p] = np.array(rows, dtype=np.int32)[inverse]
        self.first, self.last, self.images = first.reshape(-1), last.reshape(-1), images.reshape(-1)
        self.cells = np.array(list(known), dtype=np.int64).reshape(-1, 3)
        sizes = supercell.sizes
        self._representatives = np.stack(np.unravel_index(np.arange(self.n_cells), sizes), axis=1)

    def fill(
        self,
        atoms: Ints,
        parents: Ints,
        pairs: Ints,
        shifts: Ints,
        flips: Ints,
        out: NDArray[np.int32],
        width: int = _force_kernels.WIDTH,
    ) -> None:
        """Write the pairs of all entries of some atoms, block by block; see `_force_kernels.Lanes`.

        Parameters
        ----------
        atoms : ndarray of int of shape (n_atoms,)
            Of the supercell.
        parents : ndarray of int of shape (n_atoms,)
            Row of each in the next three.
        pairs, flips : ndarray of int of shape (n_parents, n_entries)
            Pair of the reference, and 0 or 1 to be stored beside it; -1 to store the pair alone.
        shifts : ndarray of int of shape (n_parents, n_entries, 3)
            Cell of the pair's first atom, as seen from the atom.
        out : ndarray of int32 of shape (n_atoms * n_entries,)
        width : int, default=WIDTH
            Atoms of a block.
        """
        distinct, rows = np.unique(shifts.reshape(-1, 3), axis=0, return_inverse=True)
        neighbors = np.empty((len(distinct), self.n_cells), dtype=np.int32)
        for row, shift in zip(neighbors, distinct, strict=True):
            row[:] = self.supercell.classes(self._representatives + shift)
        _force_kernels.fill_lanes(
            np.ascontiguousarray(parents),
            self.supercell.classes(self.supercell.translations[atoms]),
            np.ascontiguousarray(pairs),
            rows.reshape(pairs.shape),
            np.ascontiguousarray(flips),
            neighbors,
            self.n_cells,
            width,
            out,
        )
