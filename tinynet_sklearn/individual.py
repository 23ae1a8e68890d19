"""The embedding of structures that have a bond graph each: values in learned columns.

Entries that may exchange their places - walks of one length along one species sequence, neighbours of one
species at one hop distance - share a block of columns, as wide as the largest number of them in the training
structures. Inside it they stand in the order of their values, so that renumbering atoms changes nothing;
columns that are left over hold zero, the value of a walk of infinite length.

Bonds may fade over the last ``fade`` Angstrom below their cutoff. With the weights w of `switching.switch`

    h_b = w(d_b) exp(-d_b)

stands for exp(-d_b) in every walk, and a neighbour counts as far as bonds lead to it
(`_topology_kernels.neighbor_shells`). Blocks are then ordered by numbers that go to zero with the entries, so
an entry leaves as it came: out of the last place, at zero.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tinynet_sklearn import _kernels, _topology_kernels
from tinynet_sklearn.geometry import Floats
from tinynet_sklearn.graph import MIN_DISTANCE, BondGraph, BondRule, CutoffRule, bond_graph
from tinynet_sklearn.individual_frames import TINY, Frame, tied_cells
from tinynet_sklearn.paths import MAX_COLUMNS, PathSpec
from tinynet_sklearn.sites import DIRECTION_RESOLUTION, EDGE_SHIFT
from tinynet_sklearn.structures import AtomicStructure
from tinynet_sklearn.switching import switch
from tinynet_sklearn.tables import ColumnLayout, SlotClass, layout_of
from tinynet_sklearn.topologies import (
    Neighbors,
    Walks,
    changes,
    closed_walks,
    counts_of,
    described_class,
    neighbors_of,
)

__all__ = ["IndividualEmbedding", "learned_layout"]

Ints = NDArray[np.int64]

#: Topologies of so many structures are kept: frames of a simulation often share theirs.
KEPT_TOPOLOGIES = 16


@dataclass(frozen=True, eq=False)
class _PlacedWalks:
    """Walks with their values and columns, -1 without; ``kept`` are those with a column."""

    walks: Walks
    products: Floats
    columns: Ints
    kept: Ints
    problems: list[str]

    @classmethod
    def of(cls, walks: Walks, factors: Floats, layout: ColumnLayout, summed: bool) -> _PlacedWalks:
        products = _topology_kernels.walk_products(factors, walks.offsets, walks.bonds, walks.weights)
        columns, problems = _placed(walks, (-products,), layout, summed)
        return cls(walks, products, columns, np.flatnonzero(columns >= 0), problems)


@dataclass(frozen=True, eq=False)
class _PlacedNeighbors:
    """Neighbours with what is said of them, and their columns, -1 without; ``kept`` are those with one."""

    neighbors: Neighbors
    vectors: Floats
    distances: Floats
    nearness: Floats
    steps: Ints
    columns: Ints
    kept: Ints
    problems: list[str]

    @classmethod
    def of(cls, structure: AtomicStructure, neighbors: Neighbors, layout: ColumnLayout) -> _PlacedNeighbors:
        vectors = _vectors(structure, neighbors)
        distances = np.linalg.norm(vectors, axis=1)
        nearness = neighbors.weights * np.exp(-distances)
        # Rounding must not decide between equal distances: directions do.
        steps = np.round(-np.log(np.maximum(nearness, TINY)) / _kernels.SAME_DISTANCE).astype(np.int64)
        towards = np.round(vectors[:, ::-1] / DIRECTION_RESOLUTION + EDGE_SHIFT)
        inside = (-nearness,) if layout.neighbor_span == 1 else tuple(towards.T)
        keys = (*inside, structure.numbers[neighbors.atoms], steps)
        columns, problems = _placed(neighbors, keys, layout, False)
        kept = np.flatnonzero(columns >= 0)
        return cls(neighbors, vectors, distances, nearness, steps, columns, kept, problems)


class IndividualEmbedding:
    """Computes the vectors of structures, each on its own bond graph.

    Parameters
    ----------
    rule : BondRule
    spec : PathSpec
        With entries sorted by value, or summed.
    fade : float
        Width over which bonds end, Angstrom.
    directed : bool
        Whether directions go along: of each neighbour and, where walks are summed, of their first hops.
    """

    def __init__(self, rule: BondRule, spec: PathSpec, fade: float, directed: bool) -> None:
        self.rule, self.spec, self.fade, self.directed = rule, spec, fade, directed
        self._known: OrderedDict[bytes, tuple[Walks, Neighbors | None]] = OrderedDict()

    def widths(self, structure: AtomicStructure) -> dict[SlotClass, int]:
        """Largest number of entries of each class that an atom of the structure has."""
        graph, _, weights, _ = self._bonds(structure)
        walks, neighbors = self._topology(graph, weights)
        return counts_of(walks) | counts_of(neighbors)

    def compute(
        self, structure: AtomicStructure, layout: ColumnLayout, *, keep_fitting: bool
    ) -> tuple[Frame | None, list[str]]:
        """Vectors of all atoms of a structure.

        Parameters
        ----------
        structure : AtomicStructure
        layout : ColumnLayout
            As learned.
        keep_fitting : bool
            Whether to go on without entries that find no place; otherwise they are problems.

        Returns
        -------
        Frame or None
            None where there are problems.
        list of str
            Problems, with the atoms at fault.
        """
        graph, lengths, weights, rates = self._bonds(structure)
        walks, neighbors = self._topology(graph, weights)
        factors = weights * np.exp(-lengths)
        of_walks = _PlacedWalks.of(walks, factors, layout, self.spec.sum_walks)
        near = _PlacedNeighbors.of(structure, neighbors, layout)
        problems = of_walks.problems + near.problems
        if problems and not keep_fitting:
            return None, problems
        outside = np.zeros(len(structure), dtype=np.bool_)
        outside[walks.rows[of_walks.columns < 0]] = True
        outside[neighbors.rows[near.columns < 0]] = True
        ties: list[Ints] = []
        sloped = self.spec.N == 0 or (layout.neighbor_span == 1 and not self.directed)
        if sloped and not self.spec.sum_walks:
            ties += tied_cells(
                walks.rows, walks.class_of, of_walks.products, of_walks.columns, layout.n_columns
            )
        if sloped and self.spec.N:
            ties += tied_cells(
                neighbors.rows, neighbors.class_of, near.nearness, near.columns, layout.n_columns
            )
        frame = Frame(
            values=_filled(graph, layout, of_walks, near),
            vectors=self._directions(structure, graph, layout, of_walks, near) if self.directed else None,
            structure=structure,
            graph=graph,
            factors=factors,
            rates=rates,
            walks=_selected(walks, of_walks.kept, of_walks.columns),
            neighbors=_taken(neighbors, near.kept),
            neighbor_columns=near.columns[near.kept],
            nearness=near.nearness[near.kept],
            outside=outside,
            ties=ties,
        )
        return frame, []

    def _directions(
        self,
        structure: AtomicStructure,
        graph: BondGraph,
        layout: ColumnLayout,
        of_walks: _PlacedWalks,
        near: _PlacedNeighbors,
    ) -> Floats:
        """Vectors (n_atoms, n_vectors, 3): of summed walks, and of each neighbour in its slot."""
        first = layout.n_walk_columns
        n_walks = first if self.spec.sum_walks else 0
        n_slots = (layout.n_columns - layout.own_species - first) // layout.neighbor_width
        directions = np.zeros((len(structure), n_walks + n_slots, 3))
        slots = n_walks + (near.columns[near.kept] - first) // layout.neighbor_width
        drawn: Floats = near.vectors * (near.nearness / np.maximum(near.distances, MIN_DISTANCE))[:, None]
        drawn = _shared(drawn, near.neighbors, near.steps)
        directions[near.neighbors.rows[near.kept], slots] = drawn[near.kept]
        if n_walks:
            walks, kept = of_walks.walks, of_walks.kept
            hops = _unit_vectors(structure, graph)[walks.starts[kept]]
            where = (walks.rows[kept], of_walks.columns[kept])
            np.add.at(directions, where, of_walks.products[kept, None] * hops)
        return directions

    def _bonds(self, structure: AtomicStructure) -> tuple[BondGraph, Floats, Floats, Floats]:
        """Graph; lengths, weights and rates d(ln h)/dd of its bonds."""
        graph = bond_graph(structure, self.rule)
        lengths = graph.bond_lengths(structure.positions, structure.cell)
        weights, rates = np.ones_like(lengths), np.full_like(lengths, -1.0)
        if self.fade and isinstance(self.rule, CutoffRule):
            limits = self.rule.limits(graph.numbers[graph.first], graph.numbers[graph.last])
            weights, slopes = switch(lengths, limits, self.fade)
            rates += np.divide(slopes, weights, out=np.zeros_like(slopes), where=weights > 0.0)
        return graph, lengths, weights, rates

    def _topology(self, graph: BondGraph, weights: Floats) -> tuple[Walks, Neighbors]:
        key = b"".join(a.tobytes() for a in (graph.numbers, graph.offsets, graph.targets, graph.shifts))
        known = self._known.get(key)
        # Merged walks begin with different hops.
        merge = self.spec.merge or self.spec.sum_walks
        merge = merge and not (self.spec.sum_walks and self.directed)
        walks = closed_walks(graph, self.spec, merge) if known is None else known[0]
        neighbors = None if known is None else known[1]
        if neighbors is None:
            neighbors = neighbors_of(graph, self.spec, weights)
        if known is None:
            # with fading bonds, weights of neighbours change from frame to frame
            self._known[key] = walks, None if self.fade else neighbors
            while len(self._known) > KEPT_TOPOLOGIES:
                self._known.popitem(last=False)
        return walks, neighbors


def learned_layout(embedding: IndividualEmbedding, structures: Sequence[AtomicStructure]) -> ColumnLayout:
    """Layout with room for every entry of every structure."""
    widths: dict[SlotClass, int] = {}
    for structure in structures:
        for slot_class, n in embedding.widths(structure).items():
            widths[slot_class] = max(n, widths.get(slot_class, 0))
    layout = layout_of(widths, embedding.spec)
    if layout.n_columns > MAX_COLUMNS:
        worst = max(widths, key=lambda c: widths[c])
        raise ValueError(
            f"n={embedding.spec.n}, N={embedding.spec.N} would give vectors of {layout.n_columns:,} entries "
            f"(limit: {MAX_COLUMNS:,}), of which {described_class(worst, widths[worst])} are the largest "
            "part. Use a smaller n or N, paths='simple' or fewer bonds."
        )
    return layout


def _filled(graph: BondGraph, layout: ColumnLayout, of_walks: _PlacedWalks, near: _PlacedNeighbors) -> Floats:
    """Columns of all atoms, shape (n_atoms, n_columns)."""
    values = np.zeros((graph.n_atoms, layout.n_columns))
    kept = of_walks.kept
    np.add.at(values, (of_walks.walks.rows[kept], of_walks.columns[kept]), of_walks.products[kept])
    kept = near.kept
    rows, columns = near.neighbors.rows[kept], near.columns[kept]
    if layout.neighbor_span == 1:
        values[rows, columns] = near.nearness[kept]
    else:
        weighted = near.neighbors.weights[kept, None] * near.vectors[kept]
        values[rows[:, None], columns[:, None] + np.arange(3)] = weighted
    if layout.neighbor_lead:
        values[rows, columns - 1] = graph.numbers[near.neighbors.atoms[kept]]
    if layout.own_species:
        values[:, -1] = graph.numbers
    return values


def _placed(
    entries: Walks | Neighbors, keys: tuple[Floats, ...], layout: ColumnLayout, summed: bool
) -> tuple[Ints, list[str]]:
    """Column of each entry, -1 without one, and problems; inside a class in the order of the last key."""
    known = layout.starts
    widths = {slot_class: width for slot_class, _, width in layout.blocks}
    starts = np.array([known.get(c, -1) for c in entries.classes], dtype=np.int64)
    room = np.array([widths.get(c, 0) for c in entries.classes], dtype=np.int64)
    stride = np.array([layout.neighbor_width if c[1] == "N" else 1 for c in entries.classes], dtype=np.int64)
    lead = np.array([layout.neighbor_lead if c[1] == "N" else 0 for c in entries.classes], dtype=np.int64)
    if not len(entries.rows):
        return np.zeros(0, dtype=np.int64), []
    if summed:
        columns = starts[entries.class_of]
        lost = np.flatnonzero(columns < 0)
        ranks = np.zeros(len(columns), dtype=np.int64)
    else:
        order = np.lexsort((*keys, entries.class_of, entries.rows))
        rows, class_of = entries.rows[order], entries.class_of[order]
        first = np.concatenate([[True], (np.diff(rows) != 0) | (np.diff(class_of) != 0)])
        leads = np.flatnonzero(first)
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - np.repeat(leads, np.diff(np.append(leads, len(order))))
        columns = starts[entries.class_of] + lead[entries.class_of] + stride[entries.class_of] * ranks
        lost = np.flatnonzero(ranks >= room[entries.class_of])
        columns[lost] = -1
    if not len(lost):
        return columns, []
    pairs, last = np.unique(
        np.column_stack([entries.rows[lost], entries.class_of[lost]]), axis=0, return_inverse=True
    )
    most = np.zeros(len(pairs), dtype=np.int64)
    np.maximum.at(most, last.reshape(-1), ranks[lost] + 1)
    problems = []
    for (row, number), n in zip(pairs, most, strict=True):
        slot_class = entries.classes[number]
        symbol = chemical_symbols[slot_class[0]]
        if summed:
            problems.append(
                f"atom {row} ({symbol}) has {described_class(slot_class, 2)[2:]}, no atom had in fit"
            )
        else:
            problems.append(
                f"atom {row} ({symbol}) has {described_class(slot_class, int(n))}, at most "
                f"{room[number]} in fit"
            )
    return columns, problems


def _vectors(structure: AtomicStructure, neighbors: Neighbors) -> Floats:
    rows, atoms, cells = neighbors.pairs
    vectors: Floats = structure.positions[atoms] + cells @ structure.cell - structure.positions[rows]
    return vectors


def _shared(drawn: Floats, neighbors: Neighbors, steps: Ints) -> Floats:
    """The mean of neighbours of one class at one distance for each of them.

    Which of them comes first, a direction of the laboratory decides; with their mean in all their slots, the
    order does not matter, and what is built on them turns with the structure.
    """
    told_apart: list[NDArray[Any]] = [neighbors.rows, neighbors.class_of, steps]
    order = np.lexsort(told_apart[::-1])
    leads = changes([key[order] for key in told_apart])
    if leads.all():
        return drawn
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.cumsum(leads) - 1
    sums = np.zeros((int(leads.sum()), 3))
    np.add.at(sums, group, drawn)
    shared: Floats = (sums / np.bincount(group)[:, None])[group]
    return shared


def _unit_vectors(structure: AtomicStructure, graph: BondGraph) -> Floats:
    """Unit vectors along the directed bonds of a graph, shape (n_directed, 3)."""
    sources = np.repeat(np.arange(graph.n_atoms), graph.coordination)
    vectors = (
        structure.positions[graph.targets] + graph.shifts @ structure.cell - structure.positions[sources]
    )
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), MIN_DISTANCE)
    return unit


def _selected(walks: Walks, kept: Ints, columns: Ints) -> tuple[Any, Any, Any, Any, Any]:
    """Walks that have a column, as the kernels take them."""
    hops = np.diff(walks.offsets)
    if len(kept) == len(hops):
        return walks.offsets, walks.bonds, walks.rows, columns, walks.weights
    mask = np.zeros(len(hops), dtype=np.bool_)
    mask[kept] = True
    offsets = np.concatenate([[0], np.cumsum(hops[kept])]).astype(np.int64)
    return offsets, walks.bonds[np.repeat(mask, hops)], walks.rows[kept], columns[kept], walks.weights[kept]


def _taken(neighbors: Neighbors, there: Ints) -> Neighbors:
    if len(there) == len(neighbors.rows):
        return neighbors
    return Neighbors(
        neighbors.classes,
        neighbors.rows[there],
        neighbors.atoms[there],
        neighbors.cells[there],
        neighbors.class_of[there],
        neighbors.weights[there],
        neighbors.bonds[there],
    )
