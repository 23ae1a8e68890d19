"""Bond rules and the bond graph.

A *bond graph* lists, for every atom of the cell, its bonded neighbours; a periodic image of an atom is a
vertex of its own, named by (atom, cell) where ``cell`` is a lattice translation in units of the lattice
vectors. Arrays (CSR over atoms; every bond appears twice, once from each end):

============  ===============  =====================================================================
name          shape            meaning
============  ===============  =====================================================================
offsets       (n_atoms + 1,)   bonds of atom i are offsets[i]:offsets[i + 1]
targets       (n_directed,)    atom at the other end
shifts        (n_directed, 3)  lattice translation of the cell of the other end (int)
bond_ids      (n_directed,)    number of the undirected bond, shared by its two directions
first, last   (n_bonds,)       atoms of an undirected bond, from ``first`` to ``last`` ...
bond_shifts   (n_bonds, 3)     ... which stands in this cell
============  ===============  =====================================================================

Neighbours of an atom are ordered by (atom, cell), so the graph does not depend on the neighbour search.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from tinynet_sklearn import _kernels
from tinynet_sklearn.structures import AtomicStructure, as_structures, atomic_number, raise_problems

#: Atoms closer than this (Angstrom) are the same atom written twice.
MIN_DISTANCE = 0.3

#: More neighbours of an atom, or more pairs in all, are a mistake in the unit of the cutoff; the search for
#: them would fill the memory.
MAX_NEIGHBORS, MAX_PAIRS = 100_000, 50_000_000

#: Directed bonds as found by a rule: atoms i, atoms j, and the cell of j, shapes (m,), (m,), (m, 3).
DirectedBonds = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class BondGraph:
    """Who is bonded to whom; see the module's table for the arrays.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from tinynet_sklearn import build_bond_graph
    >>> graph = build_bond_graph(molecule("H2O"), "natural")
    >>> graph.n_atoms, graph.n_bonds, graph.coordination.tolist()
    (3, 2, [2, 1, 1])
    """

    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    targets: NDArray[np.int64]
    shifts: NDArray[np.int64]
    bond_ids: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    bond_shifts: NDArray[np.int64]

    @property
    def n_atoms(self) -> int:
        """Number of atoms in the cell."""
        return len(self.numbers)

    @property
    def n_bonds(self) -> int:
        """Number of undirected bonds per cell."""
        return len(self.first)

    @property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Both ends of the undirected bonds and the cell of the second, as the kernels take pairs."""
        return self.first, self.last, self.bond_shifts

    @cached_property
    def coordination(self) -> NDArray[np.int64]:
        """Number of bonds of each atom, shape (n_atoms,)."""
        return np.diff(self.offsets)

    def coordination_by_species(self) -> dict[str, Counter[str]]:
        """How often each environment occurs, e.g. ``{"Ti": Counter({"6 O": 8})}``."""
        found: dict[str, Counter[str]] = {}
        for atom in range(self.n_atoms):
            around = Counter(self.numbers[self.targets[self.offsets[atom] : self.offsets[atom + 1]]])
            label = " + ".join(f"{around[z]} {chemical_symbols[z]}" for z in sorted(around)) or "none"
            found.setdefault(chemical_symbols[self.numbers[atom]], Counter())[label] += 1
        return dict(sorted(found.items()))

    def bond_lengths(self, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
        """Lengths of the undirected bonds, Angstrom, shape (n_bonds,)."""
        lengths: NDArray[np.float64] = _kernels.bond_lengths(positions, cell, *self.pairs)
        return lengths

    def bond_vectors(self, positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
        """Vectors of the undirected bonds, Angstrom, shape (n_bonds, 3)."""
        return positions[self.last] + self.bond_shifts @ cell - positions[self.first]


@runtime_checkable
class BondRule(Protocol):
    """Decides which pairs of atoms are bonded."""

    def directed_bonds(self, structure: AtomicStructure) -> DirectedBonds:
        """Return the bonds of ``structure``, each at least once, in either direction."""
        ...


@runtime_checkable
class CutoffRule(BondRule, Protocol):
    """A bond rule that is made of cutoffs, so that bonds can fade before they end."""

    def limits(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cutoff (Angstrom) of pairs of the atomic numbers ``a`` and ``b``, shape (n_pairs,)."""
        ...


@dataclass(frozen=True)
class CutoffBonds:
    """Bond where the distance is below one cutoff.

    Parameters
    ----------
    cutoff : float
        Angstrom; pairs at a smaller distance are bonded.
    heteroatomic : bool
        Bond atoms of different species only, as in the published embedding.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from tinynet_sklearn import CutoffBonds, build_bond_graph
    >>> salt = bulk("NaCl", "rocksalt", a=5.64)
    >>> build_bond_graph(salt, CutoffBonds(3.1)).coordination.tolist()
    [6, 6]
    """

    cutoff: float = 3.1
    heteroatomic: bool = True

    def directed_bonds(self, structure: AtomicStructure) -> DirectedBonds:
        """Return the bonds of ``structure``; see `BondRule`."""
        if not _is_length(self.cutoff):
            raise ValueError(f"cutoff must be positive and finite (Angstrom), got {self.cutoff!r}.")
        i, j, shifts, _ = pairs_within(structure, float(self.cutoff))
        return _select(structure, i, j, shifts, np.ones(len(i), dtype=bool), self.heteroatomic)

    def limits(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cutoff of bonded pairs; see `CutoffRule`."""
        return np.full(len(a), float(self.cutoff))


@dataclass(frozen=True)
class PairBonds:
    """Bond by one cutoff per pair of species; pairs that are not named are never bonded.

    Parameters
    ----------
    cutoffs : mapping of str to float
        For example ``{"Ba-O": 3.6, "Ti-O": 2.7}``, Angstrom; the order of the two species is free.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from tinynet_sklearn import PairBonds, build_bond_graph
    >>> salt = bulk("NaCl", "rocksalt", a=5.64)
    >>> build_bond_graph(salt, PairBonds({"Na-Cl": 3.1, "Cl-Cl": 4.1})).coordination.tolist()
    [6, 18]
    """

    cutoffs: Mapping[str, float] = field(default_factory=dict)

    def directed_bonds(self, structure: AtomicStructure) -> DirectedBonds:
        """Return the bonds of ``structure``; see `BondRule`."""
        limits = self._by_number()
        i, j, shifts, lengths = pairs_within(structure, max(limits.values()))
        z_i, z_j = structure.numbers[i], structure.numbers[j]
        bonded = np.zeros(len(i), dtype=bool)
        for (a, b), limit in limits.items():
            bonded |= (((z_i == a) & (z_j == b)) | ((z_i == b) & (z_j == a))) & (lengths < limit)
        return _select(structure, i, j, shifts, bonded, heteroatomic=False)

    def limits(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cutoff of bonded pairs; see `CutoffRule`."""
        cutoffs = np.zeros(len(a))
        for (first, last), limit in self._by_number().items():
            cutoffs[((a == first) & (b == last)) | ((a == last) & (b == first))] = limit
        return cutoffs

    def _by_number(self) -> dict[tuple[int, int], float]:
        if not self.cutoffs:
            raise ValueError("cutoffs must name at least one pair of species, got {}; e.g. {'Ti-O': 2.6}.")
        limits = {}
        for pair, cutoff in self.cutoffs.items():
            symbols = pair.split("-") if isinstance(pair, str) else pair
            if not (isinstance(symbols, list | tuple) and len(symbols) == 2 and _is_length(cutoff)):
                raise ValueError(
                    f"cutoffs must map pairs such as 'Ti-O' to positive lengths, got {pair!r}: {cutoff!r}."
                )
            limits[atomic_number(symbols[0]), atomic_number(symbols[1])] = float(cutoff)
        return limits


@dataclass(frozen=True)
class NaturalBonds:
    """Bond where the distance is below ``factor`` times the sum of ASE's covalent radii.

    Parameters
    ----------
    factor : float
        Widens the radii; 1.1 to 1.3 is usual.
    heteroatomic : bool
        Bond atoms of different species only.

    Examples
    --------
    >>> from ase.build import molecule
    >>> from tinynet_sklearn import NaturalBonds, build_bond_graph
    >>> build_bond_graph(molecule("H2O"), NaturalBonds()).coordination.tolist()
    [2, 1, 1]
    """

    factor: float = 1.15
    heteroatomic: bool = False

    def directed_bonds(self, structure: AtomicStructure) -> DirectedBonds:
        """Return the bonds of ``structure``; see `BondRule`."""
        if not _is_length(self.factor):
            raise ValueError(f"factor must be positive and finite, got {self.factor!r}.")
        radii = self.factor * covalent_radii[structure.numbers]
        i, j, shifts, lengths = pairs_within(structure, 2.0 * float(radii.max()))
        return _select(structure, i, j, shifts, lengths < radii[i] + radii[j], self.heteroatomic)

    def limits(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cutoff of bonded pairs; see `CutoffRule`."""
        limits: NDArray[np.float64] = float(self.factor) * (covalent_radii[a] + covalent_radii[b])
        return limits


@dataclass(frozen=True)
class NearNeighborBonds:
    """Bond what a pymatgen ``NearNeighbors`` strategy calls neighbours.

    A pair is bonded as soon as one of the two atoms lists the other: walks need a symmetric graph, and
    strategies such as CrystalNN do not promise one.

    Parameters
    ----------
    strategy : pymatgen.analysis.local_env.NearNeighbors
        For example ``CrystalNN()``.
    heteroatomic : bool
        Bond atoms of different species only.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from pymatgen.analysis.local_env import MinimumDistanceNN
    >>> from tinynet_sklearn import NearNeighborBonds, build_bond_graph
    >>> salt = bulk("NaCl", "rocksalt", a=5.64)
    >>> build_bond_graph(salt, NearNeighborBonds(MinimumDistanceNN())).coordination.tolist()
    [6, 6]
    """

    strategy: Any
    heteroatomic: bool = False

    def directed_bonds(self, structure: AtomicStructure) -> DirectedBonds:
        """Return the bonds of ``structure``; see `BondRule`."""
        from pymatgen.core import Lattice, Molecule, Structure

        periodic = bool(structure.pbc.any())
        if isinstance(self.strategy, type) or not hasattr(self.strategy, "get_nn_info"):
            raise TypeError(
                "strategy must be a pymatgen NearNeighbors object such as CrystalNN(), "
                f"got {self.strategy!r}."
            )
        species = [chemical_symbols[z] for z in structure.numbers]
        wrap = np.zeros((len(structure), 3), dtype=np.int64)
        if periodic:
            scaled = structure.scaled_positions()
            wrap = np.floor(scaled).astype(np.int64) * structure.pbc
            # Some strategies (VoronoiNN) fail on fractional coordinates outside [0, 1).
            lattice = Lattice(structure.cell, pbc=tuple(bool(p) for p in structure.pbc))
            sites: Any = Structure(lattice, species, scaled - wrap)
        else:
            sites = Molecule(species, structure.positions)
        rows = []
        for atom in range(len(structure)):
            for info in self.strategy.get_nn_info(sites, atom):
                other = int(info["site_index"])
                image = np.zeros(3, dtype=np.int64) if info.get("image") is None else info["image"]
                rows.append([atom, other, *(np.asarray(image, dtype=np.int64) + wrap[atom] - wrap[other])])
        table = np.array(rows, dtype=np.int64).reshape(-1, 5)
        bonded = np.ones(len(table), dtype=bool)
        return _select(structure, table[:, 0], table[:, 1], table[:, 2:], bonded, self.heteroatomic)


def as_bond_rule(bonds: Any) -> BondRule:
    """Turn the short forms of the ``bonds`` parameter into a rule.

    Parameters
    ----------
    bonds : float, mapping, "natural", pymatgen NearNeighbors, or bond rule
        A float is one cutoff between different species (`CutoffBonds`); a mapping is `PairBonds`.

    Raises
    ------
    TypeError
        If ``bonds`` is none of these.
    """
    if isinstance(bonds, bool | type):
        pass  # a bool is an int to Python, but no cutoff; a class has the methods of a rule, but is none
    elif isinstance(bonds, int | float | np.integer | np.floating):
        return CutoffBonds(float(bonds))
    elif isinstance(bonds, Mapping):
        return PairBonds(bonds)
    elif isinstance(bonds, str) and bonds == "natural":
        return NaturalBonds()
    elif isinstance(bonds, BondRule):
        return bonds
    elif hasattr(bonds, "get_nn_info"):
        return NearNeighborBonds(bonds)
    raise TypeError(
        "bonds must be a cutoff in Angstrom, a mapping such as {'Ti-O': 2.6}, 'natural', a pymatgen "
        f"NearNeighbors strategy or a bond rule, got {bonds!r}."
    )


def build_bond_graph(structure: Any, bonds: Any = 3.1) -> BondGraph:
    """Bond graph of one structure.

    Parameters
    ----------
    structure : ase.Atoms, pymatgen Structure or Molecule
        Any combination of periodic directions; small and skewed cells and unwrapped positions are fine.
    bonds : float, mapping, "natural", pymatgen NearNeighbors, or bond rule, default=3.1
        See `as_bond_rule`; a float bonds different species below that distance (Angstrom).

    Returns
    -------
    BondGraph

    Examples
    --------
    >>> from ase.build import bulk
    >>> from tinynet_sklearn import build_bond_graph
    >>> build_bond_graph(bulk("NaCl", "rocksalt", a=5.64), 3.0).coordination_by_species()
    {'Cl': Counter({'6 Na': 1}), 'Na': Counter({'6 Cl': 1})}
    """
    (converted,) = as_structures([structure])
    return bond_graph(converted, as_bond_rule(bonds))


def bond_graph(structure: AtomicStructure, rule: BondRule) -> BondGraph:
    """Bond graph of a converted structure by a rule (symmetrised, sorted, without repetitions)."""
    i, j, shifts = rule.directed_bonds(structure)
    forward = np.column_stack([i, j, shifts]).astype(np.int64)
    backward = np.column_stack([j, i, -shifts]).astype(np.int64)
    table = np.unique(np.concatenate([forward, backward]).reshape(-1, 5), axis=0)
    # The two directions of a bond share the lexicographically smaller of their rows as their key.
    reverse = np.column_stack([table[:, 1], table[:, 0], -table[:, 2:]])
    canonical = np.where(_row_less(reverse, table)[:, None], reverse, table)
    bonds, bond_ids = np.unique(canonical, axis=0, return_inverse=True)
    return BondGraph(
        numbers=structure.numbers,
        offsets=np.searchsorted(table[:, 0], np.arange(len(structure) + 1)),
        targets=np.ascontiguousarray(table[:, 1]),
        shifts=np.ascontiguousarray(table[:, 2:]),
        bond_ids=bond_ids.reshape(-1),
        first=np.ascontiguousarray(bonds[:, 0]),
        last=np.ascontiguousarray(bonds[:, 1]),
        bond_shifts=np.ascontiguousarray(bonds[:, 2:]),
    )


def check_bonds(graph: BondGraph, structure: AtomicStructure, bonds: Any) -> None:
    """Refuse structures in which two atoms coincide, bonded or not, or an atom has no bonds.

    Parameters
    ----------
    graph : BondGraph
    structure : AtomicStructure
        That the graph was built from.
    bonds : object
        The rule as the user gave it, for the message.

    Raises
    ------
    ValueError
        With the atoms at fault.
    """
    problems = [
        f"{problem} (if it is only their mean positions that meet, use reference='first')."
        for problem in coinciding_atoms(structure)
    ]
    isolated = np.flatnonzero(graph.coordination == 0)
    if len(isolated):
        symbol = chemical_symbols[graph.numbers[isolated[0]]]
        problems.append(
            f"atom {isolated[0]} ({symbol}) has no bonds ({len(isolated)} of {graph.n_atoms} atoms have "
            "none); raise the cutoff, or bond like atoms with CutoffBonds(cutoff, heteroatomic=False)."
        )
    raise_problems(f"bonds={bonds!r} gives no usable bond graph of the reference structure", problems)


def coinciding_atoms(structure: AtomicStructure) -> list[str]:
    """Which atoms are closer than `MIN_DISTANCE`, and what to do."""
    # a search to 0.3 Angstrom takes ten times as long as one to 1, whose cells hold more than nothing
    if pairs_within(structure, 1.0)[3].min(initial=1.0) >= MIN_DISTANCE:
        return []
    near = bond_graph(structure, CutoffBonds(MIN_DISTANCE, heteroatomic=False))
    lengths = near.bond_lengths(structure.positions, structure.cell)
    return [
        f"atoms {i} and {j} are {length:.2g} Angstrom apart; remove one of them"
        for i, j, length in zip(near.first, near.last, lengths, strict=True)
    ]


def check_bonded(species: NDArray[np.int64], bonded: set[int], bonds: Any) -> None:
    """Refuse species of which no atom has a bond in any structure.

    Parameters
    ----------
    species : ndarray of int
        All atomic numbers.
    bonded : set of int
        Those with bonds.
    bonds : object
        The rule as the user gave it, for the message.

    Raises
    ------
    ValueError
        With their names.
    """
    missing = [chemical_symbols[z] for z in species if int(z) not in bonded]
    if missing:
        raise ValueError(
            f"bonds={bonds!r} gives no bonds to any atom of {', '.join(missing)} in X. Raise the cutoff, "
            "name pairs with these species, or bond like atoms with CutoffBonds(cutoff, "
            "heteroatomic=False)."
        )


def _is_length(value: Any) -> bool:
    number = isinstance(value, int | float | np.integer | np.floating)
    return number and not isinstance(value, bool) and 0.0 < float(value) < np.inf


def _row_less(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Row-wise lexicographic a < b."""
    different = a != b
    column = different.argmax(axis=1)
    rows = np.arange(len(a))
    return different.any(axis=1) & (a[rows, column] < b[rows, column])


def pairs_within(
    structure: AtomicStructure, cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """All directed pairs closer than ``cutoff``: i, j, cell of j, distance."""
    from vesin import NeighborList

    neighbors = _expected_neighbors(structure, cutoff)
    pairs = len(structure) * neighbors
    if neighbors > MAX_NEIGHBORS or pairs > MAX_PAIRS:
        raise ValueError(
            f"a cutoff of {cutoff:g} Angstrom would give about {neighbors:.2g} neighbours of each atom, "
            f"{pairs:.2g} pairs in all; up to {MAX_NEIGHBORS:,} and {MAX_PAIRS:,} are allowed. Is it in "
            "picometres? Cutoffs are in Angstrom."
        )
    i, j, shifts, lengths = NeighborList(cutoff=cutoff, full_list=True).compute(
        points=structure.positions, box=structure.cell, periodic=structure.pbc, quantities="ijSd"
    )
    return i.astype(np.int64), j.astype(np.int64), shifts.astype(np.int64), lengths


def _expected_neighbors(structure: AtomicStructure, cutoff: float) -> float:
    """Number of atoms in a sphere of radius ``cutoff``, had the atoms a uniform density."""
    order = np.argsort(~structure.pbc, kind="stable")  # periodic directions first
    axes, triangle = np.linalg.qr(structure.cell[order].T)
    n_periodic = int(structure.pbc.sum())
    size = float(np.abs(np.diag(triangle))[:n_periodic].prod())  # volume, area or length of the cell
    extents = np.sort(np.ptp(structure.positions @ axes[:, n_periodic:], axis=0))[::-1]
    radius = min(cutoff, 1e9)  # its cube is finite
    balls = (1.0, 2.0 * radius, np.pi * radius**2, 4.0 / 3.0 * np.pi * radius**3)
    # Where the atoms do not reach as far as the sphere, it has as many atoms as one of fewer dimensions.
    fractions = [balls[n_periodic] / size]
    for dimension, extent in enumerate(extents[extents > 0.0], start=n_periodic + 1):
        size *= float(extent)
        fractions.append(balls[dimension] / size)
    return len(structure) * min(fractions)


def _select(
    structure: AtomicStructure,
    i: NDArray[np.int64],
    j: NDArray[np.int64],
    shifts: NDArray[np.int64],
    bonded: NDArray[np.bool_],
    heteroatomic: bool,
) -> DirectedBonds:
    if heteroatomic:
        bonded = bonded & (structure.numbers[i] != structure.numbers[j])
    return i[bonded], j[bonded], shifts[bonded]
