"""What the rows of atoms are made of: pairs and entries of a cell, and of its supercells."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from crystals import BONDED, rattled
from numpy.testing import assert_allclose, assert_array_equal
from oracles import brute_force_bonds, closed_walks, edges_of, hop_distances
from scipy.spatial.distance import cdist
from symmetry import strayed

from tinynet_sklearn import CycleMomentFeaturizer
from tinynet_sklearn import _force_kernels as kernels
from tinynet_sklearn.graph import as_bond_rule, bond_graph
from tinynet_sklearn.repetition import repeated_reference
from tinynet_sklearn.structures import as_structures
from tinynet_sklearn.supercells import find_supercell
from tinynet_sklearn.tiling import Tiling, unit_entries

ONE = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
BLOCK = ((2, 0, 0), (0, 1, 0), (0, 0, 3))
ROOT_TWO = ((1, 1, 0), (-1, 1, 0), (0, 0, 2))
OBLIQUE = ((2, 1, 0), (0, 1, 1), (1, 0, 2))
LEFT_HANDED = ((0, 1, 0), (2, 0, 1), (0, -1, 2))
IN_PLANE = ((2, 1, 0), (-1, 1, 0), (0, 0, 1))
ALONG_Z = ((1, 0, 0), (0, 1, 0), (0, 0, 3))

CELLS = [
    "perovskite",
    "rock salt",
    "fcc",
    "simple cubic",
    "diamond",
    "rutile",
    "slab",
    "wire",
    "cyclopropane",
]
SUPERCELLS = [
    ("perovskite", OBLIQUE),
    ("rock salt", ONE),
    ("rock salt", LEFT_HANDED),
    ("fcc", ONE),
    ("fcc", OBLIQUE),
    ("simple cubic", LEFT_HANDED),
    ("diamond", BLOCK),
    ("rutile", ROOT_TWO),
    ("slab", IN_PLANE),
    ("wire", ALONG_Z),
    ("cyclopropane", ONE),
]


def fitted(name: str, **options) -> CycleMomentFeaturizer:
    make, rule = BONDED[name]
    given = {"n": 4, "N": 2, "bonds": rule, "reference": "first", "coordinates": "distances"}
    return CycleMomentFeaturizer(**{**given, **options}).fit([make()])


def entries_of(featurizer: CycleMomentFeaturizer):
    return unit_entries(featurizer.table_, featurizer.sites_, featurizer._spec())


def bonds_of(name: str) -> dict:
    """Neighbours of every atom by all atoms of all images."""
    atoms, rule = BONDED[name][0](), as_bond_rule(BONDED[name][1])
    graph = bond_graph(as_structures([atoms])[0], rule)
    sources = np.repeat(np.arange(graph.n_atoms), graph.coordination)
    farthest = max(
        np.linalg.norm(atoms.positions[j] + s @ atoms.cell.array - atoms.positions[i])
        for i, j, s in zip(sources, graph.targets, graph.shifts, strict=True)
    )
    known = {
        (min(a, b), max(a, b))
        for a, b in zip(graph.numbers[sources], graph.numbers[graph.targets], strict=True)
    }

    def bonded(a, b, d):
        return 0 < d < farthest + 1e-6 and (min(a, b), max(a, b)) in known

    return brute_force_bonds(atoms, bonded, 3)


# ---- One cell ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CELLS)
def test_every_pair_is_there_once(name):
    """Bonds first, as in the graph; neighbours farther away behind them, no pair in both directions."""
    featurizer = fitted(name)
    pairs, _ = entries_of(featurizer)
    first, last, shifts = featurizer.table_.graph.pairs
    assert pairs.n_bonds == len(first)
    for found, expected in zip((pairs.first, pairs.last, pairs.shifts), (first, last, shifts), strict=True):
        assert_array_equal(found[: pairs.n_bonds], expected)
    names = [
        (int(i), int(j), *map(int, s)) for i, j, s in zip(pairs.first, pairs.last, pairs.shifts, strict=True)
    ]
    backwards = [(j, i, -a, -b, -c) for i, j, a, b, c in names]
    assert len({*names, *backwards}) == 2 * len(names)


@pytest.mark.parametrize("options", [{}, {"paths": "simple"}, {"duplicates": "keep"}], ids=str)
@pytest.mark.parametrize("name", CELLS)
def test_hops_are_the_bonds_of_walks(name, options):
    """In small cells one bond leads to several images of an atom: the cells must tell them apart."""
    n = 3 if name in ("fcc", "cyclopropane") else 4
    pairs, atoms = entries_of(fitted(name, n=n, N=0, **options))
    bonds = bonds_of(name)
    for atom, entry in enumerate(atoms):
        assert_array_equal(entry.walk_weights, 1.0)
        assert len(entry.hop_pairs) == len(entry.hop_cells) == entry.walk_lengths.sum()
        assert (entry.hop_pairs < pairs.n_bonds).all()
        for length in range(2, n + 1):
            found = Counter()
            stops = np.cumsum(entry.walk_lengths)
            for start, stop in zip(stops - entry.walk_lengths, stops, strict=True):
                if stop - start == length:
                    found[
                        tuple(
                            sorted(
                                edge(pairs, entry.hop_pairs[h], entry.hop_cells[h])
                                for h in range(start, stop)
                            )
                        )
                    ] += 1
            walks = closed_walks(bonds, atom, length)
            if "paths" in options:
                walks = [walk for walk in walks if len(set(walk)) == length]
            expected = Counter(map(edges_of, walks))
            if "duplicates" not in options:
                expected = Counter(set(expected))
            assert found == expected


def edge(pairs, pair: int, cell: np.ndarray):
    """The two vertices of a pair whose first atom stands in a cell."""
    here = (int(pairs.first[pair]), tuple(map(int, cell)))
    there = (int(pairs.last[pair]), tuple(map(int, cell + pairs.shifts[pair])))
    return tuple(sorted([here, there]))


@pytest.mark.parametrize("name", CELLS)
def test_ends_are_the_neighbours(name):
    pairs, atoms = entries_of(fitted(name, n=0))
    bonds = bonds_of(name)
    for atom, entry in enumerate(atoms):
        home = (atom, (0, 0, 0))
        expected = Counter(vertex for vertex, hops in hop_distances(bonds, atom, 2).items() if hops)
        found = Counter()
        for pair, cell, flip in zip(entry.end_pairs, entry.end_cells, entry.end_flips, strict=True):
            first = (int(pairs.first[pair]), tuple(map(int, cell)))
            last = (int(pairs.last[pair]), tuple(map(int, cell + pairs.shifts[pair])))
            near, far = (last, first) if flip else (first, last)
            assert near == home
            found[far] += 1
        assert found == expected
        assert len(entry.neighbor_columns) == len(entry.end_pairs)


def test_neighbours_once_per_walk():
    pairs, atoms = entries_of(fitted("perovskite", n=0, neighbors="walks"))
    bonds = bonds_of("perovskite")
    for atom, entry in enumerate(atoms):
        expected = Counter()
        for vertex in bonds[atom]:
            expected[edge_of_home(atom, vertex)] += 1
            for other, cell in bonds[vertex[0]]:
                further = (other, tuple(a + b for a, b in zip(cell, vertex[1], strict=True)))
                if further != (atom, (0, 0, 0)):
                    expected[edge_of_home(atom, further)] += 1
        found = Counter(
            edge(pairs, pair, cell) for pair, cell in zip(entry.end_pairs, entry.end_cells, strict=True)
        )
        assert found == expected


def edge_of_home(atom: int, vertex):
    return tuple(sorted([(atom, (0, 0, 0)), vertex]))


def test_sums_keep_their_weights():
    """Merged walks count as often as they occur: traces of powers of the adjacency matrix."""
    _, atoms = entries_of(fitted("fcc", n=4, N=0, aggregate="sum"))
    bonds = bonds_of("fcc")
    (entry,) = atoms
    for length in (2, 3, 4):
        weights = entry.walk_weights[entry.walk_lengths == length]
        assert weights.sum() == len(closed_walks(bonds, 0, length))
    assert entry.walk_weights.max() > 1


# ---- Supercells --------------------------------------------------------------------------------------------


def tiled(name: str, matrix, seed: int = 0, **options):
    """A distorted supercell in random order and images, its tiling, the entries of the reference."""
    featurizer = fitted(name, **options)
    pairs, entries = entries_of(featurizer)
    atoms = make_supercell(BONDED[name][0](), matrix)
    atoms = atoms[np.random.default_rng(seed).permutation(len(atoms))]
    atoms = strayed(rattled(atoms, seed, 0.03), seed)
    (structure,) = as_structures([atoms])
    supercell = find_supercell(structure, featurizer.reference_)
    ideal = repeated_reference(featurizer.reference_, structure, supercell)
    return atoms, pairs, entries, Tiling(pairs, supercell), ideal


def lengths_of(atoms: Atoms, tiling: Tiling, positions) -> np.ndarray:
    lattice = atoms.cell.array * atoms.pbc[:, None]
    ends = positions[tiling.last] + (tiling.cells @ lattice)[tiling.images]
    return np.linalg.norm(ends - positions[tiling.first], axis=1)


@pytest.mark.parametrize(("name", "matrix"), SUPERCELLS)
def test_pairs_are_as_long_as_in_the_reference(name, matrix):
    atoms, pairs, _, tiling, ideal = tiled(name, matrix)
    reference = BONDED[name][0]()
    cell = reference.cell.array
    expected = [
        np.linalg.norm(reference.positions[j] + shift @ cell - reference.positions[i])
        for i, j, shift in zip(pairs.first, pairs.last, pairs.shifts, strict=True)
    ]
    n_cells = len(atoms) // len(reference)
    assert tiling.n_cells == n_cells
    assert_allclose(lengths_of(atoms, tiling, ideal.positions), np.repeat(expected, n_cells), atol=1e-10)
    assert len(np.unique(tiling.cells, axis=0)) == len(tiling.cells)


@pytest.mark.parametrize(("name", "matrix"), SUPERCELLS)
def test_bonds_are_those_by_brute_force(name, matrix):
    """Every atom of the distorted supercell has the bonds that its distances to all images say."""
    atoms, pairs, _, tiling, _ = tiled(name, matrix)
    n_bonds = pairs.n_bonds * tiling.n_cells
    lengths = lengths_of(atoms, tiling, atoms.positions)[:n_bonds]
    of_atoms: dict[int, list[float]] = {atom: [] for atom in range(len(atoms))}
    for i, j, length in zip(tiling.first[:n_bonds], tiling.last[:n_bonds], lengths, strict=True):
        of_atoms[int(i)].append(float(length))
        of_atoms[int(j)].append(float(length))
    coordination = np.bincount(np.concatenate([pairs.first[: pairs.n_bonds], pairs.last[: pairs.n_bonds]]))
    partners = {
        (int(atoms.numbers[i]), int(atoms.numbers[j]))
        for i, j in zip(tiling.first[:n_bonds], tiling.last[:n_bonds], strict=True)
    }
    partners |= {(b, a) for a, b in partners}
    inside = atoms.copy()
    inside.wrap()
    spans = [range(-4, 5) if periodic else range(1) for periodic in atoms.pbc]
    shifts = np.array(list(product(*spans))) @ atoms.cell.array
    distances = cdist(inside.positions, (inside.positions[:, None] + shifts).reshape(-1, 3))
    for atom, found in of_atoms.items():
        assert len(found) == coordination[tiling.supercell.parents[atom]]
        allowed = [(int(atoms.numbers[atom]), int(z)) in partners for z in atoms.numbers]
        near = distances[atom].reshape(len(atoms), -1)[allowed]
        near = np.sort(near[near > 1e-6])
        assert_allclose(np.sort(found), near[: len(found)], atol=1e-9)


@pytest.mark.parametrize(("name", "matrix"), SUPERCELLS)
def test_each_pair_of_the_supercell_is_there_once(name, matrix):
    _, _, _, tiling, _ = tiled(name, matrix)
    there = np.column_stack([tiling.first, tiling.last, tiling.cells[tiling.images]])
    back = np.column_stack([tiling.last, tiling.first, -tiling.cells[tiling.images]])
    assert len(np.unique(np.concatenate([there, back]), axis=0)) == 2 * len(there)


@pytest.mark.parametrize(("name", "matrix"), SUPERCELLS)
def test_entries_of_atoms_of_a_supercell(name, matrix):
    """Pairs that are filled in lead where they do in the reference, one cell of which the atom stands in."""
    n = 3 if name in ("fcc", "cyclopropane") else 4
    _, pairs, entries, tiling, ideal = tiled(name, matrix, n=n)
    supercell = tiling.supercell
    width = kernels.WIDTH
    for parent, entry in enumerate(entries):
        copies = np.flatnonzero(supercell.parents == parent)
        chosen = np.random.default_rng(parent).permutation(copies)
        for numbers, cells, flips in (
            (entry.hop_pairs, entry.hop_cells, np.full(len(entry.hop_pairs), -1)),
            (entry.end_pairs, entry.end_cells, entry.end_flips),
        ):
            out = np.full(len(chosen) * len(numbers), -1, dtype=np.int32)
            rows = np.zeros(len(chosen), dtype=np.int64)
            tiling.fill(chosen, rows, numbers[None], cells[None], flips[None], out)
            assert len(chosen) <= width  # one block
            table = out.reshape(len(numbers), len(chosen))
            backwards = np.zeros_like(table) if (flips < 0).all() else table & 1
            assert_array_equal(backwards, np.where(flips < 0, 0, flips)[:, None] + np.zeros_like(table))
            found = table if (flips < 0).all() else table >> 1
            assert_array_equal(found // tiling.n_cells, numbers[:, None] + np.zeros_like(found))
            # the first atom of the pair is the right atom, in the right place
            here = supercell.translations[chosen] + cells[:, None]
            names, _ = supercell.vertices(np.broadcast_to(pairs.first[numbers][:, None], found.shape), here)
            assert_array_equal(tiling.first[found], names)
            steps = ideal.positions[tiling.first[found]] - ideal.positions[chosen]
            wanted = (
                BONDED[name][0]().positions[pairs.first[numbers]]
                + cells @ BONDED[name][0]().cell.array
                - BONDED[name][0]().positions[parent]
            )
            periodic = ideal.cell[ideal.pbc]
            away = (steps - wanted[:, None]).reshape(-1, 3)
            whole = away @ np.linalg.pinv(periodic) if len(periodic) else np.zeros((len(away), 0))
            assert_allclose(whole, np.rint(whole), atol=1e-9)
            assert_allclose(away, np.rint(whole) @ periodic, atol=1e-9)


def test_blocks_are_filled_one_after_the_other():
    """More atoms than a block holds."""
    _, _, entries, tiling, _ = tiled("rock salt", np.diag([5, 4, 4]), n=2, N=1)
    copies = np.flatnonzero(tiling.supercell.parents == 0)
    assert len(copies) > kernels.WIDTH
    entry, n = entries[0], len(entries[0].hop_pairs)

    def filled(atoms):
        out = np.empty(len(atoms) * n, dtype=np.int32)
        flips = np.full((1, n), -1)
        rows = np.zeros(len(atoms), dtype=np.int64)
        tiling.fill(atoms, rows, entry.hop_pairs[None], entry.hop_cells[None], flips, out)
        return out

    one_by_one = np.array([filled(copies[k : k + 1]) for k in range(len(copies))])
    blocks = [one_by_one[k : k + kernels.WIDTH].T.ravel() for k in range(0, len(copies), kernels.WIDTH)]
    assert_array_equal(filled(copies), np.concatenate(blocks))
