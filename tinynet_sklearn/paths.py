"""Closed walks and neighbour shells of every atom.

The n-th moment of the local density of states of an atom is a sum over the self-returning walks of n
hops on the bond graph (Cyrot-Lackmann 1967; Ducastelle and Cyrot-Lackmann 1970). The embedding keeps the
terms, exp(-sum of the bond lengths) with a hopping element exp(-d), as a list or as sums by species sequence
(Shafir and Grinberg, arXiv:2306.08285).

Everything here is about the graph alone; `tinynet_sklearn.tables` turns it into numbers.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn import _kernels
from tinynet_sklearn.graph import BondGraph

#: A vector with more entries than this is a mistake (and would not fit in memory): refused.
MAX_COLUMNS = 1_000_000

#: Hops of all walks in the tables of all atoms together; building them takes about 40 bytes for each.
MAX_TABLE_HOPS = 50_000_000

#: A neighbour vector takes as much room in the tables as so many hops.
HOPS_PER_NEIGHBOR = 14

#: Search steps per atom and walk length after which simple cycles count as "too many" (seconds).
MAX_SEARCH_STEPS = 1_000_000_000

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PathSpec:
    """Which walks and neighbours are wanted; the fields mirror `CycleMomentFeaturizer`."""

    n: int
    N: int
    simple: bool = False
    merge: bool = True
    unique_neighbors: bool = True
    odd_walks: bool = True
    sum_walks: bool = False
    by_class: bool = True
    sort_by_value: bool = False
    sort_neighbors: bool = False
    neighbor_species: bool = False
    own_species: bool = False
    distances: bool = False

    @property
    def lengths(self) -> range:
        """Hop counts of the closed walks."""
        return range(2, self.n + 1, 1 if self.odd_walks else 2)

    @property
    def radius(self) -> int:
        """Hops that the ball around an atom must reach."""
        return max(self.n // 2, self.N)

    @property
    def differentiable(self) -> bool:
        """Whether columns keep their meaning from frame to frame and are invariant: what energies need."""
        return (self.distances or self.N == 0) and not (self.sort_by_value or self.sort_neighbors)

    @property
    def neighbor_width(self) -> int:
        """Columns per neighbour: x, y, z or exp(-distance), and the atomic number before them if wanted."""
        return (1 if self.distances else 3) + self.neighbor_species


@dataclass(frozen=True, eq=False)
class Ball:
    """The vertices within some hops of an atom; arrays as in `tinynet_sklearn._kernels`."""

    centre: int
    numbers: Ints
    atoms: Ints
    cells: Ints
    hops: Ints
    edge_offsets: Ints
    edge_targets: Ints
    edge_bonds: Ints
    radius: int

    def __len__(self) -> int:
        return len(self.atoms)

    def vectors(self, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions relative to the centre, Angstrom, shape (n_vertices, 3)."""
        return positions[self.atoms] + self.cells @ cell - positions[self.centre]

    @cached_property
    def edges(self) -> Ints:
        """Both ends of every directed edge, shape (n_edges, 2)."""
        sources = np.repeat(np.arange(len(self)), np.diff(self.edge_offsets))
        return np.column_stack([sources, self.edge_targets])


def hop_ball(graph: BondGraph, centre: int, radius: int) -> Ball:
    """All vertices up to ``radius`` hops from atom ``centre``, nearest hops first.

    The ball is smaller (see its ``radius``) where there are more than `MAX_COLUMNS` of them.
    """
    arrays = _kernels.hop_ball(
        centre, radius, MAX_COLUMNS, graph.offsets, graph.targets, graph.shifts, graph.bond_ids
    )
    return Ball(centre, graph.numbers[arrays[0]], *arrays)


@dataclass(frozen=True, eq=False)
class PathCounts:
    """How many paths there are, before any is stored.

    Attributes
    ----------
    walks : dict of int to ndarray of shape (n_atoms,)
        Closed walks (or simple cycles) of each length from each atom, both directions counted;
        infinity where counting was given up.
    ends : dict of int to ndarray of shape (n_atoms,)
        Walks of h hops that do not end on the start.
    shells : dict of int to ndarray of shape (n_atoms,)
        Vertices at a shortest distance of h hops.
    """

    walks: dict[int, NDArray[np.float64]]
    ends: dict[int, NDArray[np.float64]]
    shells: dict[int, NDArray[np.float64]]

    def vector_length(self, spec: PathSpec) -> float:
        """Entries of the vector if all walks were kept (an upper bound where some are merged or summed)."""
        near = self.shells if spec.unique_neighbors else self.ends
        total = sum(float(self.walks[m].max()) for m in spec.lengths)
        total += spec.neighbor_width * sum(float(near[h].max()) for h in range(1, spec.N + 1))
        return total + spec.own_species


def count_paths(graph: BondGraph, spec: PathSpec, limit: int = MAX_COLUMNS) -> PathCounts:
    """Count the closed walks, walk ends and neighbour shells of every atom.

    All walks are counted by powers of the adjacency matrix, without visiting them; simple cycles by
    search, which gives up beyond ``limit``. Counting stops where the request is hopeless: longer walks from
    an atom that has more than `MAX_COLUMNS`, and atoms after one whose paths were not all counted.
    """
    n_atoms = graph.n_atoms
    walks = {m: np.zeros(n_atoms) for m in spec.lengths}
    ends = {h: np.zeros(n_atoms) for h in range(1, spec.N + 1)}
    shells = {h: np.zeros(n_atoms) for h in range(1, spec.N + 1)}
    for atom in range(n_atoms):
        found = 0.0
        for m in spec.lengths:
            found = np.inf if found > MAX_COLUMNS else _count_closed(graph, atom, m, spec.simple, limit)
            walks[m][atom] = found
        ball = hop_ball(graph, atom, spec.N)
        reached = _kernels.count_walks(min(spec.N, ball.radius), ball.edge_offsets, ball.edge_targets)
        for h in range(1, spec.N + 1):
            known = h <= ball.radius
            ends[h][atom] = reached[h, 1:].sum() if known else np.inf
            shells[h][atom] = np.count_nonzero(ball.hops == h) if known else np.inf
        counted = [counts[atom] for kind in (walks, ends, shells) for counts in kind.values()]
        if np.isinf(counted).any():
            break
    return PathCounts(walks, ends, shells)


def _count_closed(graph: BondGraph, atom: int, length: int, simple: bool, limit: int) -> float:
    """Closed walks of ``length`` hops from one atom; infinity where they are too many to be counted."""
    # The ball grows with the length, so that an explosion shows before it is large.
    ball = hop_ball(graph, atom, length // 2)
    if ball.radius < length // 2:
        return np.inf
    if simple:
        vertices, _, complete = _enumerate(ball, length, simple=True, limit=limit)
        return float(len(vertices)) if complete else np.inf
    half = _kernels.count_walks(length - length // 2, ball.edge_offsets, ball.edge_targets)
    return float(half[length // 2] @ half[length - length // 2])


def check_size(counts: PathCounts, spec: PathSpec) -> None:
    """Refuse a request whose vectors or tables would not fit in memory.

    Raises
    ------
    ValueError
        With the count, its cause and the way out.
    """
    length = counts.vector_length(spec)
    near = counts.shells if spec.unique_neighbors else counts.ends
    hops = sum(float(m * counts.walks[m].sum()) for m in spec.lengths)
    hops += HOPS_PER_NEIGHBOR * sum(float(shell.sum()) for shell in near.values())
    if length <= MAX_COLUMNS and hops <= MAX_TABLE_HOPS:
        return
    kind = "simple cycles" if spec.simple else "closed walks"
    causes = [f"{_number(counts.walks[m].max())} {kind} of {m} hops" for m in spec.lengths]
    causes += [f"{_number(near[h].max())} neighbours at {h} hops" for h in range(1, spec.N + 1)]
    worst = max(causes, key=lambda cause: float(cause.split()[0].lstrip(">").replace(",", "")))
    remedies = ["paths='simple'"] if spec.n and not spec.simple else []
    remedies += [] if spec.unique_neighbors or not spec.N else ["neighbors='unique'"]
    remedies += ["a smaller n or N", "fewer bonds"]
    raise ValueError(
        f"n={spec.n}, N={spec.N} would give vectors of {_number(length)} entries and tables worth "
        f"{_number(hops)} hops (limits: {MAX_COLUMNS:,} and {MAX_TABLE_HOPS:,}); the largest part are "
        f"{worst} from one atom. Use {' or '.join(remedies)}."
    )


def _number(value: float) -> str:
    if np.isinf(value):
        return f">{MAX_COLUMNS:,}"
    return f"{int(value):,}" if value < 1e15 else f"{value:.1e}"


def _enumerate(ball: Ball, length: int, *, simple: bool, limit: int) -> tuple[Ints, Ints, bool]:
    """Closed walks of ``length`` hops: vertices (n, length + 1), bonds (n, length), are these all."""
    vertices, bonds, complete = _kernels.enumerate_walks(
        length, True, simple, limit, MAX_SEARCH_STEPS,
        ball.hops, ball.edge_offsets, ball.edge_targets, ball.edge_bonds,
    )  # fmt: skip
    return vertices, bonds, bool(complete)


@dataclass(frozen=True, eq=False)
class AtomPaths:
    """Closed walks and neighbours of one atom, in the order of their slots.

    Attributes
    ----------
    walks : dict of int to tuple
        Per length: keys (n, m), the sorted edges of each walk in terms of ranks; bonds (n, m); class
        labels (n, m), the atomic numbers along the walk; weights (n,), walks that the entry stands for.
    neighbors : dict of int to ndarray
        Per hop count: ball vertices.
    """

    ball: Ball
    walks: dict[int, tuple[Ints, Ints, Ints, NDArray[np.float64]]]
    neighbors: dict[int, Ints]


def atom_paths(ball: Ball, spec: PathSpec, ranks: Ints) -> AtomPaths:
    """Enumerate, merge and order the paths of one atom.

    Parameters
    ----------
    ball : Ball
    spec : PathSpec
    ranks : ndarray of int of shape (n_vertices,)
        Canonical number of each vertex of the ball. Atoms whose balls are mapped onto each other by a
        symmetry operation, rank by rank, get their slots in the same order.
    """
    walks = {}
    for m in spec.lengths:
        vertices, bonds, _ = _enumerate(ball, m, simple=spec.simple, limit=2 * MAX_COLUMNS)
        walks[m] = _ordered_walks(ball, spec, ranks, vertices, bonds)
    neighbors = {}
    for h in range(1, spec.N + 1):
        if spec.unique_neighbors:
            shell = np.flatnonzero(ball.hops == h)
            neighbors[h] = shell[np.lexsort((ranks[shell], ball.numbers[shell]))]
        else:
            ends, _, _ = _kernels.enumerate_walks(
                h, False, False, 2 * MAX_COLUMNS, MAX_SEARCH_STEPS,
                ball.hops, ball.edge_offsets, ball.edge_targets, ball.edge_bonds,
            )  # fmt: skip
            # Depth-first order as found, unless slots are to mean something.
            neighbors[h] = ends[:, -1]
            if spec.by_class:
                neighbors[h] = ends[np.argsort(ranks[ends[:, -1]], kind="stable"), -1]
    return AtomPaths(ball, walks, neighbors)


def _ordered_walks(
    ball: Ball, spec: PathSpec, ranks: Ints, vertices: Ints, bonds: Ints
) -> tuple[Ints, Ints, Ints, NDArray[np.float64]]:
    source, target = ranks[vertices[:, :-1]], ranks[vertices[:, 1:]]
    edges = np.minimum(source, target) * len(ball) + np.maximum(source, target)
    keys = np.sort(edges, axis=1)
    labels = _canonical_labels(ball.numbers[vertices[:, :-1]])
    weights = np.ones(len(keys))
    order = np.lexsort((*labels.T[::-1], *keys.T[::-1])) if keys.size else np.arange(len(keys))
    if spec.merge or spec.sum_walks:
        # Walks over the same edges, each as often, have the same value in every frame: a walk and its
        # reverse, and the orders of back-and-forth excursions. Sums keep apart different species sequences.
        same = (np.diff(keys[order], axis=0) == 0).all(axis=1)
        if spec.sum_walks:
            same &= (np.diff(labels[order], axis=0) == 0).all(axis=1)
        leads = np.flatnonzero(np.concatenate([[True], ~same])) if len(order) else order
        weights = np.diff(np.concatenate([leads, [len(order)]])).astype(np.float64)
        order = order[leads]
    keys, labels, bonds = keys[order], labels[order], bonds[order]
    if spec.by_class and len(keys):
        by_class = np.lexsort((*keys.T[::-1], *labels.T[::-1]))
        keys, labels, bonds, weights = keys[by_class], labels[by_class], bonds[by_class], weights[by_class]
    return keys, bonds, labels, weights


def _canonical_labels(labels: Ints) -> Ints:
    """The smaller of a species sequence and that of the reversed walk (which starts at the same atom)."""
    reverse = np.concatenate([labels[:, :1], labels[:, :0:-1]], axis=1)
    different = labels != reverse
    column = different.argmax(axis=1)
    rows = np.arange(len(labels))
    swap = reverse[rows, column] < labels[rows, column]
    return np.where(swap[:, None], reverse, labels)
