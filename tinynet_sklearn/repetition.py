"""A frozen topology on a supercell: everything that was learned about one cell, repeated.

Once every atom of the supercell is known as (r, t), atom r of the reference moved by the lattice translation
t, the bond graph and the index tables follow by integer arithmetic: a vertex (r', s) that the reference's
atom r sees becomes (r', t + s) for its copy.

Bonds and entries of an atom keep the order that they have in the reference. A ball around a copy therefore
has the vertices of the ball around its parent, in the same order, and the ranks of `Sites` hold unchanged.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.graph import BondGraph
from tinynet_sklearn.paths import Ints, PathSpec, atom_paths, hop_ball
from tinynet_sklearn.sites import Sites
from tinynet_sklearn.structures import AtomicStructure
from tinynet_sklearn.supercells import Supercell, find_supercell
from tinynet_sklearn.tables import PathTable, path_table


def repeat_topology(
    reference: AtomicStructure, table: PathTable, sites: Sites, spec: PathSpec, structure: AtomicStructure
) -> tuple[AtomicStructure, PathTable, Sites]:
    """Repeat a reference and its tables, with the atoms and periodic images of a supercell.

    Parameters
    ----------
    reference, table, sites
        As fitted.
    spec : PathSpec
        That the table was made with.
    structure : AtomicStructure
        The supercell; see `find_supercell`. The reference itself with its atoms in another order is one.

    Returns
    -------
    reference : AtomicStructure
        The undistorted supercell, not turned, with the structure's atoms one by one.
    table : PathTable
        With the columns of the one that was passed. Bonds and entries of an atom are in the order of its
        parent's.
    sites : Sites
        With the classes, frames, ranks and groups of the ones that were passed.

    Raises
    ------
    ValueError
        If the structure is no supercell of the reference.
    """
    supercell = find_supercell(structure, reference)
    graph, numbers = _repeated_graph(table.graph, supercell)
    return (
        repeated_reference(reference, structure, supercell),
        _repeated_table(table, sites, spec, supercell, graph, numbers),
        Sites(
            classes=sites.classes[supercell.parents],
            representatives=supercell.copies[sites.representatives, 0],
            rotations=sites.rotations[supercell.parents],
            ranks=[sites.ranks[parent] for parent in supercell.parents],
            groups=sites.groups,
        ),
    )


def repeated_reference(
    reference: AtomicStructure, structure: AtomicStructure, supercell: Supercell
) -> AtomicStructure:
    """Undistorted supercell, not turned, with the atoms and periodic images of a structure."""
    periodic = np.where(reference.pbc[:, None], reference.cell, 0.0)
    # Without periodicity the box means nothing; that of the structure makes scaled positions comparable.
    cell = np.where(reference.pbc[:, None], supercell.matrix @ periodic, structure.cell @ supercell.rotation)
    positions = reference.positions[supercell.parents] + supercell.translations @ periodic
    return AtomicStructure(structure.numbers, positions, cell, reference.pbc)


@dataclass(frozen=True, eq=False)
class _Ranges:
    """Entries that an array has for each atom of the reference, in a row, and for each atom of the supercell.

    Attributes
    ----------
    parents : ndarray of int of shape (n_atoms,)
    offsets : ndarray of int of shape (n_reference + 1,)
        Entries of atom r of the reference are offsets[r]:offsets[r + 1].
    """

    parents: Ints
    offsets: Ints

    @classmethod
    def of_rows(cls, rows: NDArray[np.integer], supercell: Supercell) -> "_Ranges":
        """Entries sorted by the atom that they belong to."""
        return cls(supercell.parents, np.searchsorted(rows, np.arange(len(supercell.copies) + 1)))

    @cached_property
    def counts(self) -> Ints:
        """Entries of each atom of the supercell."""
        return np.diff(self.offsets)[self.parents]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First entry of each atom of the supercell, and their number, shape (n_atoms + 1,)."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    def own(self, parent: int) -> slice:
        """Entries of an atom of the reference."""
        return slice(int(self.offsets[parent]), int(self.offsets[parent + 1]))

    def places(self, parent: int, copies: Ints) -> Ints:
        """Where its entries go for these copies of it, shape (n_copies, n_entries)."""
        return self.starts[copies][:, None] + np.arange(self.offsets[parent + 1] - self.offsets[parent])

    def rows(self) -> Ints:
        """Atom of the supercell that each entry belongs to."""
        return np.repeat(np.arange(len(self.parents)), self.counts)

    def repeat(self, values: NDArray) -> NDArray:
        """Copy what does not depend on the cell."""
        gap = self.offsets[self.parents] - self.starts[:-1]
        return values[np.arange(self.starts[-1]) + np.repeat(gap, self.counts)]


def _repeated_graph(graph: BondGraph, supercell: Supercell) -> tuple[BondGraph, Ints]:
    """Bond graph of the supercell, and the numbers (n_bonds, n_cells) of its bonds.

    A bond is named by the bond of the reference and the class of the translation of its first atom.
    """
    first = supercell.copies[graph.first]
    ends = supercell.translations[first] + graph.bond_shifts[:, None]
    last, cells = supercell.vertices(np.broadcast_to(graph.last[:, None], first.shape), ends)
    order = np.argsort(first, axis=None, kind="stable")  # the bonds of an atom stand together
    numbers = np.argsort(order).reshape(first.shape)

    directed = _Ranges(supercell.parents, graph.offsets)
    sources = np.repeat(np.arange(graph.n_atoms), graph.coordination)
    starts = first_cells(graph, graph.bond_ids, sources, np.zeros_like(graph.shifts), graph.shifts)
    targets = np.empty(directed.starts[-1], dtype=np.int64)
    shifts = np.empty((len(targets), 3), dtype=np.int64)
    bond_ids = np.empty(len(targets), dtype=np.int64)
    for parent, copies in supercell.blocks():
        own, places = directed.own(parent), directed.places(parent, copies)
        here = supercell.translations[copies][:, None]
        found = np.broadcast_to(graph.targets[own], places.shape)
        targets[places], shifts[places] = supercell.vertices(found, here + graph.shifts[own])
        bond_ids[places] = numbers[graph.bond_ids[own], supercell.classes(here + starts[own])]
    repeated = BondGraph(
        numbers=graph.numbers[supercell.parents],
        offsets=directed.starts,
        targets=targets,
        shifts=shifts,
        bond_ids=bond_ids,
        first=first.reshape(-1)[order],
        last=last.reshape(-1)[order],
        bond_shifts=cells.reshape(-1, 3)[order],
    )
    return repeated, numbers


def first_cells(graph: BondGraph, bonds: Ints, sources: Ints, start: Ints, stop: Ints) -> Ints:
    """Cell of the ``first`` atom of bonds that are passed from ``sources`` in cells ``start`` to ``stop``."""
    forward = (graph.first[bonds] == sources) & (stop - start == graph.bond_shifts[bonds]).all(axis=1)
    return np.where(forward[:, None], start, stop)


def _repeated_table(
    table: PathTable, sites: Sites, spec: PathSpec, supercell: Supercell, graph: BondGraph, numbers: Ints
) -> PathTable:
    """Index tables of the supercell; ``numbers`` are those of its bonds."""
    walks = _Ranges.of_rows(table.walk_rows, supercell)
    hops = _Ranges(supercell.parents, table.walk_offsets[walks.offsets])
    vectors = _Ranges.of_rows(table.neighbor_rows, supercell)
    edges_of_hops, edges = walk_edges(table, sites, spec)
    walk_bonds = np.empty(hops.starts[-1], dtype=np.int32)
    neighbor_atoms = np.empty(vectors.starts[-1], dtype=np.int32)
    neighbor_cells = np.empty((len(neighbor_atoms), 3), dtype=np.int64)
    for parent, copies in supercell.blocks():
        here = supercell.translations[copies][:, None]
        bonds, cells = edges[parent]
        passed = numbers[bonds, supercell.classes(here + cells)].astype(np.int32)
        walk_bonds[hops.places(parent, copies)] = passed[:, edges_of_hops[hops.own(parent)]]
        own, places = vectors.own(parent), vectors.places(parent, copies)
        found = np.broadcast_to(table.neighbor_atoms[own].astype(np.int64), places.shape)
        ends = supercell.vertices(found, here + table.neighbor_cells[own])
        neighbor_atoms[places], neighbor_cells[places] = ends
    lengths = walks.repeat(np.diff(table.walk_offsets))
    return PathTable(
        graph=graph,
        layout=table.layout,
        walk_offsets=np.concatenate([[0], np.cumsum(lengths)]),
        walk_bonds=walk_bonds,
        walk_rows=walks.rows().astype(np.int32),
        walk_columns=walks.repeat(table.walk_columns),
        walk_weights=walks.repeat(table.walk_weights),
        neighbor_rows=vectors.rows().astype(np.int32),
        neighbor_atoms=neighbor_atoms,
        neighbor_cells=neighbor_cells,
        neighbor_columns=vectors.repeat(table.neighbor_columns),
        walk_segments=_repeated_segments(table.walk_segments, supercell),
        neighbor_segments=_repeated_segments(table.neighbor_segments, supercell),
    )


def walk_edges(table: PathTable, sites: Sites, spec: PathSpec) -> tuple[Ints, list[tuple[Ints, Ints]]]:
    """Where in the crystal the walks of the reference pass.

    The table says over which bonds, but not over which of their images, and in a small cell one bond may
    lead from an atom to two images of another. So the walks are listed once more, by the edges of the balls.

    Returns
    -------
    edges_of_hops : ndarray of int of shape (n_hops,)
        Edge of the ball for each entry of ``table.walk_bonds``.
    edges : list of tuple
        Per atom, the bond of each edge of its ball and the cell of the bond's first atom.
    """
    graph = table.graph
    paths, edges = [], []
    for atom in range(graph.n_atoms):
        ball = hop_ball(graph, atom, max(spec.radius, 1))
        source, target = ball.edges.T
        cells = first_cells(
            graph, ball.edge_bonds, ball.atoms[source], ball.cells[source], ball.cells[target]
        )
        edges.append((ball.edge_bonds, cells))
        ranks = sites.ranks[atom] if spec.by_class else np.arange(len(ball))
        numbered = replace(ball, edge_bonds=np.arange(len(ball.edge_bonds)))
        paths.append(atom_paths(numbered, spec, ranks))
    return path_table(graph, paths, spec, table.layout).walk_bonds.astype(np.int64), edges


def _repeated_segments(segments: Ints, supercell: Supercell) -> Ints:
    segments = segments[np.argsort(segments[:, 0], kind="stable")]
    ranges = _Ranges.of_rows(segments[:, 0], supercell)
    return np.column_stack([ranges.rows(), ranges.repeat(segments[:, 1:])])
