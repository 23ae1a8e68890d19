"""Slow, short, obviously right: what the kernels compute, once more in plain Python.

A vertex is a pair (atom, cell), for example ``(3, (0, -1, 0))``; a walk is a tuple of vertices. Nothing here
uses the package: bonds come from a double loop over atoms and images, walks from their definition.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise, product
from math import dist
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.sparse import csr_array
from scipy.spatial.distance import cdist

Cell = tuple[int, int, int]
Vertex = tuple[int, Cell]
Walk = tuple[Vertex, ...]

#: Neighbours of every atom of the home cell, in the order (atom, cell).
Bonds = dict[int, list[Vertex]]

#: Whether atoms of two atomic numbers at a distance (Angstrom) are bonded; for numbers and for arrays.
Bonded = Callable[[Any, Any, Any], Any]

HOME: Cell = (0, 0, 0)


def different_within(cutoff: float) -> Bonded:
    """Bond atoms of different species below a distance."""
    return lambda a, b, d: (a != b) & (d < cutoff)


def any_within(cutoff: float) -> Bonded:
    """Bond all atoms below a distance."""
    return lambda a, b, d: (d > 0) & (d < cutoff)


def touching(factor: float) -> Bonded:
    """Bond atoms below ``factor`` times the sum of their covalent radii."""
    return lambda a, b, d: (d > 0) & (d < factor * (covalent_radii[a] + covalent_radii[b]))


# ---- Bonds -------------------------------------------------------------------------------------------------


def position(atoms: Atoms, vertex: Vertex) -> np.ndarray:
    """Cartesian position of a vertex, Angstrom."""
    atom, cell = vertex
    return atoms.positions[atom] + np.asarray(cell) @ atoms.cell.array


def brute_force_bonds(atoms: Atoms, bonded: Bonded, reach: int = 4) -> Bonds:
    """Bonds of every atom by trying all atoms of all images up to ``reach`` cells away.

    Fails when a bond leads to the outermost images tried, since there might be more beyond.
    """
    spans = [range(-reach, reach + 1) if periodic else range(1) for periodic in atoms.pbc]
    bonds: Bonds = {}
    for i in range(len(atoms)):
        bonds[i] = []
        for j, cell in product(range(len(atoms)), product(*spans)):
            if (j, cell) == (i, HOME):
                continue
            if bonded(
                atoms.numbers[i], atoms.numbers[j], dist(atoms.positions[i], position(atoms, (j, cell)))
            ):
                assert max(map(abs, cell)) < reach, (
                    f"reach={reach} may be too small: {i} is bonded to {j} in {cell}"
                )
                bonds[i].append((j, cell))
    return bonds


def neighbors(bonds: Bonds, vertex: Vertex) -> Iterator[Vertex]:
    """Neighbours of any vertex: those of its atom at home, translated."""
    atom, (a, b, c) = vertex
    for other, (x, y, z) in bonds[atom]:
        yield other, (a + x, b + y, c + z)


# ---- Walks, cycles, shells ---------------------------------------------------------------------------------


def walks(bonds: Bonds, atom: int, n_hops: int) -> list[Walk]:
    """All walks of ``n_hops`` hops from an atom, in depth-first order."""
    found: list[Walk] = [((atom, HOME),)]
    for _ in range(n_hops):
        found = [(*walk, vertex) for walk in found for vertex in neighbors(bonds, walk[-1])]
    return found


def closed_walks(bonds: Bonds, atom: int, n_hops: int) -> list[Walk]:
    """Walks that end where they began - on the atom itself, not on an image of it."""
    return [walk for walk in walks(bonds, atom, n_hops) if walk[-1] == walk[0]]


def simple_cycles(bonds: Bonds, atom: int, n_hops: int) -> list[Walk]:
    """Closed walks that visit no vertex twice but the start."""
    return [walk for walk in closed_walks(bonds, atom, n_hops) if len(set(walk)) == n_hops]


def open_walks(bonds: Bonds, atom: int, n_hops: int) -> list[Walk]:
    """Walks that end anywhere but on the start; their ends are the published neighbours."""
    return [walk for walk in walks(bonds, atom, n_hops) if walk[-1] != walk[0]]


def hop_distances(bonds: Bonds, atom: int, radius: int) -> dict[Vertex, int]:
    """Shortest number of hops to every vertex within ``radius`` hops."""
    hops = {(atom, HOME): 0}
    for h in range(radius):
        for vertex in [v for v in hops if hops[v] == h]:
            for other in neighbors(bonds, vertex):
                hops.setdefault(other, h + 1)
    return hops


def edges_of(walk: Walk) -> tuple[tuple[Vertex, Vertex], ...]:
    """The undirected edges that a walk passes over, each as often: what its value depends on."""
    return tuple(sorted(tuple(sorted(step)) for step in pairwise(walk)))


def length_of(walk: Walk, atoms: Atoms) -> float:
    """Sum of the distances along a walk, Angstrom."""
    return sum(dist(position(atoms, a), position(atoms, b)) for a, b in pairwise(walk))


def species_sequence(walk: Walk, atoms: Atoms) -> tuple[int, ...]:
    """Atomic numbers along a closed walk or along its reverse, whichever is smaller."""
    there = tuple(int(atoms.numbers[atom]) for atom, _ in walk[:-1])
    return min(there, (there[0], *there[:0:-1]))


def merged(found: list[Walk]) -> Counter:
    """How many walks pass over the same edges equally often."""
    return Counter(map(edges_of, found))


# ---- Moments -----------------------------------------------------------------------------------------------


def hopping_moments(atoms: Atoms, bonded: Bonded, max_hops: int, reach: int) -> dict[int, np.ndarray]:
    """Diagonals of H^m, m = 2 ... ``max_hops``, for the atoms of the home cell, H_ij = exp(-d_ij) on bonds.

    H is the matrix of a finite, *open* cluster: the home cell and ``reach`` cells on every side. That is
    exact, because a closed walk of m hops goes m / 2 hops away at most; it is checked that so many hops do
    not reach the outermost cells. A periodic cluster would have to be larger: walks that wrap around it would
    close, while in the crystal they end on an image of the start.
    """
    spans = [range(-reach, reach + 1) if periodic else range(1) for periodic in atoms.pbc]
    cells = np.array(list(product(*spans)))
    positions = (atoms.positions + (cells @ atoms.cell.array)[:, None]).reshape(-1, 3)
    numbers = np.tile(atoms.numbers, len(cells))
    distances = cdist(positions, positions)
    hopping = csr_array(np.where(bonded(numbers[:, None], numbers, distances), np.exp(-distances), 0.0))
    at_home = np.repeat((cells == 0).all(axis=1), len(atoms))
    outermost = np.repeat((np.abs(cells) == reach).any(axis=1), len(atoms))
    powers = [np.eye(len(positions))[:, at_home]]
    for hop in range(1, max_hops - max_hops // 2 + 1):
        powers.append(hopping @ powers[-1])
        too_far = atoms.pbc.any() and hop <= max_hops // 2 and powers[-1][outermost].any()
        assert not too_far, f"reach={reach} is too small for walks of {max_hops} hops"
    # H is symmetric: <i| H^m |i> = <H^(m//2) i | H^(m - m//2) i>.
    return {m: (powers[m // 2] * powers[m - m // 2]).sum(axis=0) for m in range(2, max_hops + 1)}


# ---- Networks and the groups of sites ----------------------------------------------------------------------


def dense(arrays: list[np.ndarray], rows: np.ndarray, hidden: Callable[[Any], Any] = np.tanh) -> np.ndarray:
    """A network with a linear last layer, from W0, b0, W1, b1, ..."""
    for weight, bias in zip(arrays[:-2:2], arrays[1:-2:2], strict=True):
        rows = hidden(rows @ weight + bias)
    return rows @ arrays[-2] + arrays[-1]


def images(rows: np.ndarray, symmetry: Any, site: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every operation of a site group: its matrix R, and physical rows of that site class under it."""
    for gather, rotation in zip(symmetry.gather[site], symmetry.rotations[site], strict=True):
        image = rows[:, gather]
        for x, y, z in symmetry.vector_columns:
            image[:, [x, y, z]] = [rotation @ vector for vector in image[:, [x, y, z]]]
        yield rotation, image


def averaged(
    function: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, symmetry: Any, site: int, vector: bool
) -> np.ndarray:
    """``mean_g R_g^T f(g x)``, or ``mean_g f(g x)`` of scalars, for a function of physical rows."""
    outputs = [
        [rotation.T @ output if vector else output for output in function(image)]
        for rotation, image in images(rows, symmetry, site)
    ]
    return np.mean(outputs, axis=0)


# ---- Derivatives of a frozen topology ----------------------------------------------------------------------


def pulled_walks(factors, offsets, bonds, rows, columns, weights, slopes) -> np.ndarray:
    """Slopes by the lengths of bonds: the entry of each walk falls by itself for every pass over a bond."""
    by_length = np.zeros(len(factors))
    for w, (row, column, weight) in enumerate(zip(rows, columns, weights, strict=True)):
        passed = bonds[offsets[w] : offsets[w + 1]]
        for bond, passes in Counter(passed.tolist()).items():
            by_length[bond] -= passes * weight * np.prod(factors[passed]) * slopes[row, column]
    return by_length


def pushed_walks(factors, offsets, bonds, rows, columns, weights, rates, shape) -> np.ndarray:
    """Rates of the entries, from those of the lengths of bonds."""
    by_entry = np.zeros(shape)
    for w, (row, column, weight) in enumerate(zip(rows, columns, weights, strict=True)):
        passed = bonds[offsets[w] : offsets[w + 1]]
        by_entry[row, column] -= weight * np.prod(factors[passed]) * sum(rates[b] for b in passed)
    return by_entry


def pulled_lengths(positions, cell, first, last, shifts, slopes) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and virial, from slopes by the lengths of pairs."""
    gradient, virial = np.zeros_like(positions), np.zeros((3, 3))
    for a, b, shift, slope in zip(first, last, shifts, slopes, strict=True):
        vector = positions[b] + shift @ cell - positions[a]
        unit = vector / np.linalg.norm(vector)
        gradient[b] += slope * unit
        gradient[a] -= slope * unit
        virial += slope * np.outer(unit, vector)
    return gradient, virial


def pushed_lengths(positions, cell, first, last, shifts, velocities, strain) -> np.ndarray:
    """Rates of the lengths of pairs when atoms move and everything is strained."""
    rates = []
    for a, b, shift in zip(first, last, shifts, strict=True):
        vector = positions[b] + shift @ cell - positions[a]
        rates.append((velocities[b] - velocities[a] + strain @ vector) @ vector / np.linalg.norm(vector))
    return np.array(rates)
