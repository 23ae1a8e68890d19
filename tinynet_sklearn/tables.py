"""Index tables: from the paths of all atoms to the columns of the embedding.

For a crystal that keeps its bonds all of the embedding is constant but the lengths. A `PathTable` therefore
names, once, the bonds of every walk and the place of every entry; with h_b = exp(-d_b) per *bond*

    entry of a walk       = product of h_b over its hops
    d(entry) / d(d_b)     = -(passes over bond b) * entry        (`geometry`)

===================  ==============  ================================================================
name                 shape           meaning
===================  ==============  ================================================================
walk_offsets         (n_walks + 1,)  hops of walk w are walk_bonds[walk_offsets[w]:walk_offsets[w + 1]]
walk_bonds           (n_hops,)       undirected bond of each hop, ``BondGraph`` numbering
walk_rows            (n_walks,)      atom whose vector the entry belongs to
walk_columns         (n_walks,)      its column; walks that share row and column are summed
walk_weights         (n_walks,)      factor of the product (1, or the number of merged walks in sums)
neighbor_rows        (n_vectors,)    atom at the centre
neighbor_atoms       (n_vectors,)    atom at the other end ...
neighbor_cells       (n_vectors, 3)  ... which stands in this cell
neighbor_columns     (n_vectors,)    first of the three columns of the vector, or that of exp(-distance)
walk_segments        (n, 3)          (row, start, stop): columns to be sorted by value
neighbor_segments    (n, 3)          (row, start, stop): columns to be sorted by distance
===================  ==============  ================================================================
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tinynet_sklearn import _kernels
from tinynet_sklearn.frames import ColumnSymmetry
from tinynet_sklearn.graph import BondGraph
from tinynet_sklearn.paths import AtomPaths, Ints, PathSpec
from tinynet_sklearn.sites import Sites

#: Centre species, kind ("L" or "N"), hops, class label (species sequence, or species of the neighbour).
SlotClass = tuple[int, str, int, tuple[int, ...]]


@dataclass(frozen=True)
class ColumnLayout:
    """Where each class of entries stands in the vector.

    Attributes
    ----------
    blocks : tuple of (SlotClass, int, int)
        First column and number of slots of each class. Classes of different centre species share
        columns, since a row has one centre; those of one species do not.
    n_columns : int
        Length of the vector.
    """

    blocks: tuple[tuple[SlotClass, int, int], ...]
    n_columns: int
    neighbor_width: int
    own_species: bool

    @property
    def neighbor_lead(self) -> int:
        """Columns of a neighbour before its vector or distance: 1 with its atomic number."""
        return int(self.neighbor_width in (2, 4))

    @property
    def neighbor_span(self) -> int:
        """Columns of a neighbour's vector, 3, or of its distance, 1."""
        return self.neighbor_width - self.neighbor_lead

    @property
    def n_walk_columns(self) -> int:
        """Columns of walks; those of neighbours come after them."""
        columns = [start for (_, kind, *_), start, _ in self.blocks if kind == "N"]
        return min(columns, default=self.n_columns - self.own_species)

    @property
    def starts(self) -> dict[SlotClass, int]:
        """First column of each class."""
        return {slot_class: start for slot_class, start, _ in self.blocks}

    def names(self) -> list[str]:
        """Readable names, one per column, e.g. ``L4[Ti-O-Ba-O#3]`` or ``N2[Ti:Ba#0].x``.

        Where centres of different species share a column, each is named.
        """
        meanings: list[dict[str, list[str]]] = [{} for _ in range(self.n_columns)]
        axes = [".Z"] * self.neighbor_lead + ([".x", ".y", ".z"] if self.neighbor_span == 3 else [""])
        for (centre, kind, hops, label), start, n_slots in self.blocks:
            symbols = "-".join(chemical_symbols[z] for z in label)
            if kind == "M":
                meanings[start].setdefault(f"mu{hops}[{{}}]", []).append(symbols)
                continue
            for k in range(n_slots):
                if kind == "L":
                    what = symbols or chemical_symbols[centre]
                    meanings[start + k].setdefault(f"L{hops}[{{}}]", []).append(f"{what}#{k}")
                    continue
                what = f"{chemical_symbols[centre]}{':' if symbols else ''}{symbols}#{k}"
                for c, axis in enumerate(axes):
                    column = start + k * self.neighbor_width + c
                    meanings[column].setdefault(f"N{hops}[{{}}]{axis}", []).append(what)
        if self.own_species:
            meanings[-1]["Z"] = []
        return [form.format("|".join(what)) for meaning in meanings for form, what in meaning.items()]


def column_layout(paths: Sequence[AtomPaths], spec: PathSpec) -> ColumnLayout:
    """Widths learned from all atoms: the largest number of entries of each class.

    Blocks stand in the order L2, L3, ..., Ln, N1, ..., NN, own species; the width of a block is the
    largest over the centre species.
    """
    widths: dict[SlotClass, int] = {}
    for atom in paths:
        for slot_class, members in _members(atom, spec):
            widths[slot_class] = max(widths.get(slot_class, 0), len(members))
    return layout_of(widths, spec)


def layout_of(widths: dict[SlotClass, int], spec: PathSpec) -> ColumnLayout:
    """Layout with room for so many entries of each class; see `column_layout`."""
    blocks: list[tuple[SlotClass, int, int]] = []
    column = 0
    kind = "M" if spec.sum_walks else "L"
    for block in [(kind, m) for m in spec.lengths] + [("N", h) for h in range(1, spec.N + 1)]:
        stride = {"L": 1, "N": spec.neighbor_width, "M": 0}[block[0]]
        used: dict[int, int] = {}
        sums = 0
        for slot_class in sorted(c for c in widths if c[1:3] == block):
            if block[0] == "M":  # few columns, each with one meaning: centres do not share them
                blocks.append((slot_class, column + sums, 1))
                sums += 1
                continue
            start = used.get(slot_class[0], 0)
            blocks.append((slot_class, column + start, widths[slot_class]))
            used[slot_class[0]] = start + stride * widths[slot_class]
        column += sums if block[0] == "M" else max(used.values(), default=0)
    return ColumnLayout(tuple(blocks), column + spec.own_species, spec.neighbor_width, spec.own_species)


def _slots(atom: AtomPaths, spec: PathSpec, layout: ColumnLayout) -> Iterator[tuple[str, int, Ints, Ints]]:
    """Kind, hops, members and their columns (first of x, y, z for neighbours) of each class of an atom."""
    starts = layout.starts
    for slot_class, members in _members(atom, spec):
        _, kind, hops, _ = slot_class
        stride = {"L": 1, "N": layout.neighbor_width, "M": 0}[kind]
        skip = layout.neighbor_lead if kind == "N" else 0
        yield kind, hops, members, starts[slot_class] + skip + stride * np.arange(len(members))


def _members(atom: AtomPaths, spec: PathSpec) -> Iterator[tuple[SlotClass, Ints]]:
    """Classes of entries of one atom, and the positions of their entries in its lists."""
    centre = int(atom.ball.numbers[0])
    kind = "M" if spec.sum_walks else "L"
    for m, (keys, _, labels, _) in atom.walks.items():
        if spec.by_class or spec.sum_walks:
            for label, members in _groups(labels):
                yield (centre, kind, m, label), members
        elif len(keys):
            yield (centre, kind, m, ()), np.arange(len(keys))
    for h, vertices in atom.neighbors.items():
        if spec.by_class:
            for label, members in _groups(atom.ball.numbers[vertices][:, None]):
                yield (centre, "N", h, label), members
        elif len(vertices):
            yield (centre, "N", h, ()), np.arange(len(vertices))


def _groups(labels: Ints) -> Iterator[tuple[tuple[int, ...], Ints]]:
    if len(labels):
        distinct, inverse = np.unique(labels, axis=0, return_inverse=True)
        for k, label in enumerate(distinct):
            yield tuple(int(z) for z in label), np.flatnonzero(inverse.reshape(-1) == k)


@dataclass(frozen=True, eq=False)
class PathTable:
    """Index tables of one structure; see the module's table for the arrays."""

    graph: BondGraph
    layout: ColumnLayout
    walk_offsets: Ints
    walk_bonds: NDArray[np.int32]
    walk_rows: NDArray[np.int32]
    walk_columns: NDArray[np.int32]
    walk_weights: NDArray[np.float64]
    neighbor_rows: NDArray[np.int32]
    neighbor_atoms: NDArray[np.int32]
    neighbor_cells: Ints
    neighbor_columns: NDArray[np.int32]
    walk_segments: Ints
    neighbor_segments: Ints

    @property
    def walks(self) -> tuple[Any, Any, Any, Any, Any]:
        """The arrays of the walks, as the kernels take them."""
        return self.walk_offsets, self.walk_bonds, self.walk_rows, self.walk_columns, self.walk_weights

    @property
    def neighbor_pairs(self) -> tuple[Any, Any, Any]:
        """Centre, other end and its cell of all neighbours, as the kernels take pairs."""
        return self.neighbor_rows, self.neighbor_atoms, self.neighbor_cells

    def entries(
        self,
        positions: NDArray[np.float64],
        cell: NDArray[np.float64],
        rotations: NDArray[np.float64],
        out: NDArray[np.floating],
    ) -> None:
        """Compute the vectors of all atoms of one frame.

        Parameters
        ----------
        positions, cell : ndarray of shape (n_atoms, 3) and (3, 3)
            Angstrom; atoms in the same periodic images as in the structure the table was made from.
        rotations : ndarray of shape (n_atoms, 3, 3)
            Applied to the neighbour vectors of each atom, where there are vectors.
        out : ndarray of shape (n_atoms, n_columns)
            Zeros; filled in place.
        """
        factors = np.exp(-self.graph.bond_lengths(positions, cell))
        _kernels.fill_walk_entries(factors, *self.walks, out)
        if self.layout.neighbor_span == 1:
            _kernels.fill_neighbor_factors(positions, cell, *self.neighbor_pairs, self.neighbor_columns, out)
        else:
            _kernels.fill_neighbor_vectors(
                positions, cell, rotations, *self.neighbor_pairs, self.neighbor_columns, out
            )
        if self.layout.neighbor_lead:
            out[self.neighbor_rows, self.neighbor_columns - 1] = self.graph.numbers[self.neighbor_atoms]
        if self.layout.own_species:
            out[:, -1] = self.graph.numbers
        _kernels.sort_entries(self.walk_segments, out)
        _kernels.sort_vectors(self.neighbor_segments, self.layout.neighbor_width, out)


def path_table(
    graph: BondGraph, paths: Sequence[AtomPaths], spec: PathSpec, layout: ColumnLayout
) -> PathTable:
    """Collect the paths of all atoms into one table.

    Parameters
    ----------
    paths : sequence of AtomPaths
        One per atom of ``graph``.
    layout : ColumnLayout
        Must have room for every entry.
    """
    walk_lists: list[tuple[Ints, Ints, Ints, NDArray[np.float64]]] = []
    vector_lists: list[Ints] = []
    segments: dict[str, list[tuple[int, int, int]]] = {"L": [], "N": []}
    for row, atom in enumerate(paths):
        for kind, hops, members, columns in _slots(atom, spec, layout):
            if kind == "N":
                first = int(columns[0]) - layout.neighbor_lead
                segments["N"].append((row, first, int(columns[-1]) + layout.neighbor_span))
                vertices = atom.neighbors[hops][members]
                where = np.column_stack([np.full(len(members), row), atom.ball.atoms[vertices], columns])
                vector_lists.append(np.hstack([where, atom.ball.cells[vertices]]))
                continue
            if kind == "L":
                segments["L"].append((row, int(columns[0]), int(columns[-1]) + 1))
            _, bonds, _, weights = atom.walks[hops]
            kept = weights[members] if spec.sum_walks else np.ones(len(members))
            walk_lists.append((bonds[members], np.full(len(members), row), columns, kept))
    hops_per_walk = [np.full(len(bonds), bonds.shape[1]) for bonds, *_ in walk_lists]
    vectors = np.concatenate([np.zeros((0, 6), dtype=np.int64), *vector_lists])
    by_value = segments["L"] if spec.sort_by_value else []
    by_distance = segments["N"] if spec.sort_neighbors else []
    if layout.neighbor_span == 1:  # near ones are large: one kind of sorting for both
        by_value, by_distance = by_value + by_distance, []
    return PathTable(
        graph=graph,
        layout=layout,
        walk_offsets=np.concatenate([[0], np.cumsum(_joined(hops_per_walk))]).astype(np.int64),
        walk_bonds=_joined([bonds.reshape(-1) for bonds, *_ in walk_lists]).astype(np.int32),
        walk_rows=_joined([rows for _, rows, _, _ in walk_lists]).astype(np.int32),
        walk_columns=_joined([columns for _, _, columns, _ in walk_lists]).astype(np.int32),
        walk_weights=_joined([weights for *_, weights in walk_lists]).astype(np.float64),
        neighbor_rows=vectors[:, 0].astype(np.int32),
        neighbor_atoms=vectors[:, 1].astype(np.int32),
        neighbor_cells=np.ascontiguousarray(vectors[:, 3:]),
        neighbor_columns=vectors[:, 2].astype(np.int32),
        walk_segments=_segments(by_value),
        neighbor_segments=_segments(by_distance),
    )


def _joined(parts: Sequence[NDArray]) -> NDArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _segments(rows: list[tuple[int, int, int]]) -> Ints:
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def column_symmetry(
    sites: Sites, paths: Sequence[AtomPaths], spec: PathSpec, layout: ColumnLayout
) -> ColumnSymmetry:
    """How the operations of each site group permute the columns of a representative's vector.

    Parameters
    ----------
    sites : Sites
    paths : sequence of AtomPaths
        One per atom, ordered by ``sites.ranks``.
    """
    gather = []
    vectors: set[int] = set()
    for site, representative in enumerate(sites.representatives):
        atom, group, ranks = paths[representative], sites.groups[site], sites.ranks[representative]
        columns = np.tile(np.arange(layout.n_columns), (len(group.images), 1))
        where = list(_slots(atom, spec, layout))
        for hops in {h for kind, h, _, _ in where if kind == "L"}:
            slots = _columns_of(where, "L", hops, len(atom.walks[hops][0]))
            keys = atom.walks[hops][0]
            before = np.lexsort(keys.T[::-1])
            for operation, image in enumerate(group.images):
                a, b = image[keys // len(atom.ball)], image[keys % len(atom.ball)]
                carried = np.sort(np.minimum(a, b) * len(atom.ball) + np.maximum(a, b), axis=1)
                columns[operation, slots[before]] = slots[np.lexsort(carried.T[::-1])]
        for hops in {h for kind, h, _, _ in where if kind == "N"}:
            neighbor_ranks = ranks[atom.neighbors[hops]]
            slots = _columns_of(where, "N", hops, len(neighbor_ranks))
            if layout.neighbor_span == 3:
                vectors.update(int(column) for column in slots)
            before = np.argsort(neighbor_ranks, kind="stable")
            for operation, image in enumerate(group.images):
                after = np.argsort(image[neighbor_ranks], kind="stable")
                for c in range(-layout.neighbor_lead, layout.neighbor_span):
                    columns[operation, slots[before] + c] = slots[after] + c
        gather.append(columns)
    return ColumnSymmetry(
        gather=tuple(gather),
        rotations=tuple(group.rotations for group in sites.groups),
        vector_columns=np.array(sorted(vectors), dtype=np.int64)[:, None] + np.arange(3),
    )


def _columns_of(where: list[tuple[str, int, Ints, Ints]], kind: str, hops: int, n: int) -> Ints:
    columns = np.empty(n, dtype=np.int64)
    for found_kind, found_hops, members, found in where:
        if (found_kind, found_hops) == (kind, hops):
            columns[members] = found
    return columns
