"""The closed walks and neighbours of one structure, without columns.

What `tinynet_sklearn.paths` and `tinynet_sklearn.tables` do atom by atom, once, for a reference with
symmetry, is done here for all atoms of a structure at once, since every structure has its own. The walks
depend on the bond graph alone; so do the neighbours, unless bonds fade.

=================  ================  ==================================================================
name               shape             meaning
=================  ================  ==================================================================
classes            (n_classes,)      `SlotClass` of entries that may exchange their slots
walk_offsets       (n_walks + 1,)    hops of walk w are walk_bonds[walk_offsets[w]:walk_offsets[w + 1]]
walk_bonds         (n_hops,)         undirected bond of each hop, `BondGraph` numbering
walk_rows          (n_walks,)        atom that a walk starts from
walk_classes       (n_walks,)        index into ``classes``
walk_weights       (n_walks,)        1, or the number of walks that are summed
walk_starts        (n_walks,)        directed bond of the first hop, an entry of ``graph.targets``
neighbor_rows      (n_neighbors,)    atom at the centre
neighbor_atoms     (n_neighbors,)    atom at the other end ...
neighbor_cells     (n_neighbors, 3)  ... which stands in this cell
neighbor_classes   (n_neighbors,)    index into ``classes``
neighbor_weights   (n_neighbors,)    how far a neighbour is reached over whole bonds, 0 to 1
neighbor_bonds     (n_neighbors,)    the bond to a neighbour one hop away, else -1
=================  ================  ==================================================================
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tinynet_sklearn import _topology_kernels
from tinynet_sklearn._validation import physical_memory
from tinynet_sklearn.graph import BondGraph
from tinynet_sklearn.paths import (
    HOPS_PER_NEIGHBOR,
    MAX_COLUMNS,
    MAX_SEARCH_STEPS,
    MAX_TABLE_HOPS,
    Ints,
    PathSpec,
    check_size,
    count_paths,
)
from tinynet_sklearn.tables import SlotClass

__all__ = ["Neighbors", "Walks", "closed_walks", "neighbors_of"]

Floats = NDArray[np.floating]

#: Walks are enumerated for so many atoms at a time, before equal ones become one.
BLOCK_ATOMS = 1024

#: Memory that a hop takes, with its share of what else is said of its walk.
BYTES_PER_HOP = 40

#: Bits of an atomic number, and of all that fit into one sorting key.
_NUMBER_BITS, _KEY_BITS = 7, 63


@dataclass(frozen=True, eq=False)
class Walks:
    """Closed walks from all atoms of a structure; see the module's table for the arrays."""

    classes: tuple[SlotClass, ...]
    offsets: Ints
    bonds: NDArray[np.int32]
    rows: Ints
    class_of: Ints
    weights: Floats
    starts: Ints


@dataclass(frozen=True, eq=False)
class Neighbors:
    """Neighbours of all atoms of a structure; see the module's table for the arrays."""

    classes: tuple[SlotClass, ...]
    rows: Ints
    atoms: Ints
    cells: Ints
    class_of: Ints
    weights: Floats
    bonds: Ints

    @property
    def pairs(self) -> tuple[Ints, Ints, Ints]:
        """Centre, other end and its cell, as the kernels take pairs."""
        return self.rows, self.atoms, self.cells


def closed_walks(graph: BondGraph, spec: PathSpec, merge: bool) -> Walks:
    """Enumerate the closed walks of all atoms, as `paths.atom_paths` does for one.

    Parameters
    ----------
    graph : BondGraph
    spec : PathSpec
    merge : bool
        Whether walks over the same bonds become one.

    Raises
    ------
    ValueError
        If they are too many.
    """
    classes: list[SlotClass] = []
    parts: list[tuple[Ints, Ints, Ints, Floats, Ints]] = []
    hops = 0
    for first in range(0, graph.n_atoms, BLOCK_ATOMS):
        room = MAX_TABLE_HOPS
        for m in spec.lengths:
            found, part, n_raw = _walks_of_block(graph, spec, merge, m, first, room // m)
            room -= m * n_raw
            rows, bonds, class_of, weights, starts = part
            parts.append((rows, bonds, class_of + len(classes), weights, starts))
            classes += found
            hops += bonds.size
            _check_hops(graph, spec, hops)
    per_walk = [np.full(len(bonds), bonds.shape[1]) for _, bonds, *_ in parts]
    return Walks(
        tuple(classes),
        offsets=np.concatenate([[0], np.cumsum(_joined(per_walk))]).astype(np.int64),
        bonds=_joined([bonds.reshape(-1) for _, bonds, *_ in parts]).astype(np.int32),
        rows=_joined([rows for rows, *_ in parts]),
        class_of=_joined([class_of for _, _, class_of, *_ in parts]),
        weights=_joined([weights for _, _, _, weights, _ in parts]).astype(np.float64),
        starts=_joined([starts for *_, starts in parts]),
    )


def _walks_of_block(
    graph: BondGraph, spec: PathSpec, merge: bool, m: int, first: int, most: int
) -> tuple[list[SlotClass], tuple[Ints, Ints, Ints, Floats, Ints], int]:
    """Walks of ``m`` hops from a block of atoms: classes, arrays of `closed_walks`, number before merging."""
    last = min(first + BLOCK_ATOMS, graph.n_atoms)
    rows, labels, edges, bonds, starts, stopped = _topology_kernels.closed_walks(
        m, first, last, spec.simple, MAX_COLUMNS, most, MAX_SEARCH_STEPS, graph.numbers,
        graph.offsets, graph.targets, graph.shifts, graph.bond_ids,
    )  # fmt: skip
    if stopped >= 0:
        _refuse(graph, spec)
    names, edge_keys = _packed(labels, _NUMBER_BITS), _packed(edges, _bits(edges))
    order = np.lexsort((*names[::-1], *edge_keys[::-1], rows))
    weights = np.ones(len(rows))
    if merge:
        # Walks over the same edges, each as often, have the same value in every frame: a walk and its
        # reverse, and the orders of back-and-forth excursions. Sums keep apart different sequences.
        told_apart = [rows, *edge_keys, *(names if spec.sum_walks else [])]
        leads = np.flatnonzero(changes([key[order] for key in told_apart]))
        weights = np.diff(np.append(leads, len(order))).astype(np.float64)
        order = order[leads]
    kept = weights if spec.sum_walks else np.ones(len(order))
    kind = "M" if spec.sum_walks else "L"
    classes, class_of = _classes(graph.numbers[rows[order]], labels[order], spec, kind, m)
    return classes, (rows[order], bonds[order], class_of, kept, starts[order]), len(rows)


def neighbors_of(graph: BondGraph, spec: PathSpec, bond_weights: Floats) -> Neighbors:
    """List the neighbours of all atoms.

    Parameters
    ----------
    bond_weights : ndarray of shape (n_bonds,)
        Between 0 and 1; 1 for whole bonds.

    Raises
    ------
    ValueError
        If they are too many.
    """
    blocks = []
    for first in range(0, graph.n_atoms, BLOCK_ATOMS):
        *arrays, stopped = _topology_kernels.neighbor_shells(
            spec.N, first, min(first + BLOCK_ATOMS, graph.n_atoms),
            MAX_COLUMNS, MAX_TABLE_HOPS // HOPS_PER_NEIGHBOR, bond_weights,
            graph.offsets, graph.targets, graph.shifts, graph.bond_ids,
        )  # fmt: skip
        if stopped >= 0:
            _refuse(graph, spec)
        blocks.append(arrays)
        _check_hops(graph, spec, HOPS_PER_NEIGHBOR * sum(len(block[0]) for block in blocks))
    rows, atoms, cells, hops, walks, weights, bonds = (
        np.concatenate(parts) for parts in zip(*blocks, strict=True)
    )
    if spec.unique_neighbors:
        kept = np.flatnonzero(weights > 0.0)
    else:
        kept = np.repeat(np.arange(len(rows)), walks.astype(np.int64))
        weights = np.ones(len(rows))
    rows, atoms, cells, hops, weights, bonds = (
        array[kept] for array in (rows, atoms, cells, hops, weights, bonds)
    )
    classes: list[SlotClass] = []
    class_of = np.zeros(len(rows), dtype=np.int64)
    for h in range(1, spec.N + 1):
        these = np.flatnonzero(hops == h)
        found, numbers = _classes(
            graph.numbers[rows[these]], graph.numbers[atoms[these]][:, None], spec, "N", h
        )
        class_of[these] = numbers + len(classes)
        classes += found
    return Neighbors(tuple(classes), rows, atoms, np.ascontiguousarray(cells), class_of, weights, bonds)


def counts_of(entries: Walks | Neighbors) -> dict[SlotClass, int]:
    """Largest number of entries of each class that an atom has."""
    counts: dict[SlotClass, int] = {}
    if len(entries.rows):
        n_rows = int(entries.rows.max()) + 1
        numbers, of_atoms = np.unique(entries.class_of * n_rows + entries.rows, return_counts=True)
        for number, n in zip(numbers // n_rows, of_atoms, strict=True):
            slot_class = entries.classes[number]
            counts[slot_class] = max(counts.get(slot_class, 0), int(n))
    return counts


def described_class(slot_class: SlotClass, n: int) -> str:
    """A number of entries in words, such as "7 O neighbours at 1 hop"."""
    _, kind, hops, label = slot_class
    symbols = "-".join(chemical_symbols[z] for z in label)
    if kind == "N":
        return (
            f"{n} {symbols}{' ' if symbols else ''}neighbour{'s' * (n != 1)} at {hops} hop{'s' * (hops != 1)}"
        )
    return f"{n} closed walk{'s' * (n != 1)} of {hops} hops{' along ' if symbols else ''}{symbols}"


def _classes(
    centres: Ints, labels: Ints, spec: PathSpec, kind: str, hops: int
) -> tuple[list[SlotClass], Ints]:
    """Distinct classes of entries, and the class of each."""
    if not (spec.by_class or spec.sum_walks):
        labels = labels[:, :0]
    keys = np.column_stack([centres, *_packed(labels, _NUMBER_BITS)]) if len(centres) else np.zeros((0, 1))
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    found = [(int(centres[k]), kind, hops, tuple(int(z) for z in labels[k])) for k in first]
    return found, inverse.reshape(-1)


def _packed(columns: Ints, bits: int) -> list[Ints]:
    """Columns of non-negative integers below 2^bits, as many in one integer as fit, in order."""
    per_key = max(1, _KEY_BITS // bits)
    keys = []
    for start in range(0, columns.shape[1], per_key):
        key = np.zeros(len(columns), dtype=np.int64)
        for column in columns[:, start : start + per_key].T:
            key = (key << bits) | column
        keys.append(key)
    return keys


def _bits(values: Ints) -> int:
    return max(1, int(values.max(initial=0)).bit_length())


def changes(keys: list[NDArray]) -> NDArray[np.bool_]:
    """Where sorted rows of several keys differ from the row before."""
    changed = np.zeros(len(keys[0]), dtype=np.bool_)
    changed[:1] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return changed


def _joined(parts: list[NDArray]) -> NDArray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


def _refuse(graph: BondGraph, spec: PathSpec) -> None:
    check_size(count_paths(graph, spec), spec)
    raise ValueError(
        f"n={spec.n}, N={spec.N} would give more than {MAX_TABLE_HOPS:,} hops of closed walks and neighbours "
        f"for {BLOCK_ATOMS} atoms. Use a smaller n or N, paths='simple' or fewer bonds."
    )


def _check_hops(graph: BondGraph, spec: PathSpec, hops: int) -> None:
    """Refuse tables of one structure that do not fit in memory."""
    needed, present = BYTES_PER_HOP * hops, physical_memory()
    if needed > present:
        raise ValueError(
            f"n={spec.n}, N={spec.N} would give tables of {needed / 2**30:.1f} GiB for one structure of "
            f"{graph.n_atoms:,} atoms, this machine has {present / 2**30:.1f}. Use a smaller n or N, "
            "paths='simple' or fewer bonds."
        )
