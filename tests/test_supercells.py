"""A frozen topology on supercells: found whatever their shape and order, and repeated without a new fit."""

import pickle
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from crystals import BONDED, perovskite, rattled, slab
from numpy.testing import assert_allclose, assert_array_equal
from symmetry import (
    assert_same_features,
    assert_same_rows,
    assert_same_up_to_frames,
    random_rotation,
    rotated,
    strayed,
    translated,
    wrapped,
)

from tinynet_sklearn import CycleMomentFeaturizer, PerAtomArray, load_batio3, load_moo3
from tinynet_sklearn.graph import as_bond_rule, bond_graph
from tinynet_sklearn.structures import as_structures
from tinynet_sklearn.supercells import Supercell, find_supercell, hermite_form

ONE = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
BLOCK = ((2, 0, 0), (0, 1, 0), (0, 0, 3))
ROOT_TWO = ((1, 1, 0), (-1, 1, 0), (0, 0, 2))
OBLIQUE = ((2, 1, 0), (0, 1, 1), (1, 0, 2))
IN_PLANE = ((2, 1, 0), (-1, 1, 0), (0, 0, 1))
ALONG_Z = ((1, 0, 0), (0, 1, 0), (0, 0, 3))


def supercell_of(frame: Atoms, matrix, seed: int = 0) -> Atoms:
    """Supercell with its atoms in random order; the tag of an atom is the atom of the frame it repeats."""
    tagged = frame.copy()
    tagged.set_tags(range(len(frame)))
    repeated = make_supercell(tagged, matrix)
    return repeated[np.random.default_rng(seed).permutation(len(repeated))]


def rows_of_parents(featurizer: CycleMomentFeaturizer, frame: Atoms, supercell: Atoms) -> PerAtomArray:
    """What the supercell's features must be: those of the frame, atom by atom."""
    features, parents = featurizer.transform([frame]), supercell.get_tags()
    frames = None if features.frames is None else features.frames.take(parents)
    return PerAtomArray(features.values[parents], [0, len(parents)], supercell.numbers, frames)


def fitted(name: str, **options) -> CycleMomentFeaturizer:
    make, rule = BONDED[name]
    return CycleMomentFeaturizer(**{"n": 4, "N": 2, "bonds": rule, "reference": "first", **options}).fit(
        [make()]
    )


# ---- Features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "matrix", [ONE, BLOCK, ROOT_TWO, OBLIQUE], ids=["one", "block", "root two", "oblique"]
)
@pytest.mark.parametrize("load", [load_batio3, load_moo3])
def test_features_of_a_supercell_of_thermal_frames(load, matrix):
    data = load()
    featurizer = CycleMomentFeaturizer(n=4, N=2, bonds=data.bonds).fit(data.structures)
    frame = data.structures[int(np.argmax(data.temperatures))]
    supercell = supercell_of(frame, matrix)
    expected = rows_of_parents(featurizer, frame, supercell)
    for moved in (supercell, wrapped(supercell), translated(strayed(supercell, 1), [0.3, -0.2, 0.4])):
        assert_same_features(featurizer.adapted_to(moved).transform([moved]), expected)


@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        *[(name, BLOCK) for name in ("perovskite", "MoO3", "rock salt", "fcc", "simple cubic", "diamond")],
        *[(name, OBLIQUE) for name in ("perovskite", "fcc", "wurtzite", "rutile")],
        ("slab", IN_PLANE),
        ("wire", ALONG_Z),
        ("chain", ((4, 0, 0), (0, 1, 0), (0, 0, 1))),
        *[(name, ONE) for name in ("methanol", "benzene", "cyclopropane")],
    ],
)
def test_features_of_supercells_of_any_dimension(name, matrix):
    featurizer = fitted(name)
    frame = rattled(BONDED[name][0](), 3, 0.04)
    supercell = supercell_of(frame, matrix)
    adapted = featurizer.adapted_to(supercell)
    assert_same_features(adapted.transform([supercell]), rows_of_parents(featurizer, frame, supercell))


@pytest.mark.parametrize(
    "options",
    [
        {"paths": "simple", "n": 6, "N": 1},
        {"order": "value", "frame": "lab"},
        {"order": "depth-first", "frame": "lab", "neighbors": "walks", "duplicates": "keep"},
        {"aggregate": "sum", "N": 0},
        {"frame": "lab", "species_columns": True, "dtype": "float32"},
        {"n": 0, "N": 3},
        {"coordinates": "distances"},
        {"coordinates": "distances", "order": "value", "frame": "lab"},
    ],
    ids=["cycles", "value", "published", "sums", "float32", "no walks", "distances", "sorted distances"],
)
@pytest.mark.parametrize("name", ["perovskite", "fcc", "slab"])
def test_features_of_supercells_with_any_options(name, options):
    featurizer = fitted(name, **options)
    frame = rattled(BONDED[name][0](), 4, 0.04)
    supercell = supercell_of(frame, IN_PLANE)
    found = featurizer.adapted_to(supercell).transform([supercell])
    assert_same_features(found, rows_of_parents(featurizer, frame, supercell))


@pytest.mark.parametrize("matrix", [ONE, BLOCK, OBLIQUE], ids=["one", "block", "oblique"])
@pytest.mark.parametrize("name", ["perovskite", "rutile", "wurtzite"])
@pytest.mark.parametrize("seed", [1, 2])
def test_supercells_turned_and_shifted_as_a_whole(name, matrix, seed):
    """Which of the equivalent cells an atom is laid onto is open: rows agree up to the crystal's symmetry."""
    featurizer = fitted(name)
    frame = rattled(BONDED[name][0](), seed, 0.04)
    supercell, turn = supercell_of(frame, matrix, seed), random_rotation(seed)
    moved = strayed(translated(rotated(supercell, turn), [0.7, -5.2, 1.9]), seed)
    found = featurizer.adapted_to(moved).transform([moved])
    assert_same_up_to_frames(found, rows_of_parents(featurizer, frame, supercell), turn)


def test_slabs_turned_as_a_whole():
    featurizer = fitted("slab")
    supercell, turn = supercell_of(rattled(slab(), 1), IN_PLANE), random_rotation(5)
    moved = rotated(supercell, turn)
    found = featurizer.adapted_to(moved).transform([moved])
    assert_same_up_to_frames(found, rows_of_parents(featurizer, rattled(slab(), 1), supercell), turn)


def test_large_and_strained_cells():
    """Twelve cells in a row, 4 % too long: more than half a cell in all. With a rotation, too."""
    featurizer = fitted("rock salt", N=1)
    strained = BONDED["rock salt"][0]()
    strained.set_cell(strained.cell.array @ np.diag([1.045, 1.0, 0.97]), scale_atoms=True)
    supercell = supercell_of(rattled(strained, 0), np.diag([12, 3, 13]))
    for atoms in (supercell, rotated(supercell, random_rotation(3))):
        adapted = featurizer.adapted_to(atoms)
        assert_same_rows(
            np.sort(adapted.transform([atoms]).values[:, :6], axis=1),
            np.sort(rows_of_parents(featurizer, rattled(strained, 0), supercell).values[:, :6], axis=1),
        )


def test_an_adapted_featurizer_can_be_adapted_again():
    featurizer = fitted("perovskite")
    frame = rattled(perovskite(), 2)
    small = supercell_of(frame, ROOT_TWO)
    large = supercell_of(small, BLOCK)
    again = featurizer.adapted_to(small).adapted_to(large)
    parents = small.get_tags()[large.get_tags()]
    assert_same_rows(again.transform([large]).values, featurizer.transform([frame]).values[parents])


def test_adapting_changes_a_copy_only():
    featurizer = fitted("perovskite")
    before = pickle.dumps(featurizer)
    adapted = featurizer.adapted_to(perovskite() * 2)
    assert pickle.dumps(featurizer) == before
    assert adapted.get_params() == featurizer.get_params()
    assert adapted.n_features_out_ == featurizer.n_features_out_
    assert adapted.symmetry_ is featurizer.symmetry_
    assert len(adapted.reference_) == 40


# ---- Graph and tables --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "matrix"),
    [("perovskite", OBLIQUE), ("fcc", BLOCK), ("rutile", ROOT_TWO), ("slab", IN_PLANE), ("wire", ALONG_Z)],
)
def test_the_graph_is_that_of_the_supercell(name, matrix):
    featurizer = fitted(name)
    adapted = featurizer.adapted_to(strayed(supercell_of(rattled(BONDED[name][0](), 0), matrix), 1))
    found = adapted.table_.graph
    direct = bond_graph(adapted.reference_, as_bond_rule(BONDED[name][1]))

    def directed(graph):
        sources = np.repeat(np.arange(graph.n_atoms), graph.coordination)
        return np.column_stack([sources, graph.targets, graph.shifts])

    assert_array_equal(found.numbers, direct.numbers)
    assert_array_equal(found.offsets, direct.offsets)
    assert_array_equal(np.unique(directed(found), axis=0), directed(direct))
    assert found.n_bonds == direct.n_bonds
    # Each bond is shared by its two directions.
    forward = np.column_stack([found.first, found.last, found.bond_shifts])[found.bond_ids]
    backward = np.column_stack([found.last, found.first, -found.bond_shifts])[found.bond_ids]
    along = (directed(found) == forward).all(axis=1)
    assert ((directed(found) == backward).all(axis=1) | along).all()
    assert_array_equal(np.bincount(found.bond_ids[along], minlength=found.n_bonds), 1)
    assert_array_equal(np.bincount(found.bond_ids[~along], minlength=found.n_bonds), 1)
    assert_array_equal(found.bond_ids[along], np.sort(found.bond_ids[along]))  # near in space, near in memory


@pytest.mark.parametrize("name", ["fcc", "simple cubic", "diamond", "perovskite"])
def test_sums_over_walks_are_those_of_a_fit_on_the_supercell(name):
    """Sums do not depend on slots, so a fit can judge. In fcc and sc, bonds join images of one atom."""
    options = {"aggregate": "sum", "N": 0, "order": "value", "frame": "lab"}
    supercell = rattled(supercell_of(BONDED[name][0](), ((3, 0, 0), (0, 3, 0), (1, 0, 3))), 0)
    adapted = fitted(name, **options).adapted_to(supercell)
    ideal = adapted.reference_
    reference = Atoms(ideal.numbers, ideal.positions, cell=ideal.cell, pbc=ideal.pbc)
    afresh = fitted(name, **options).set_params(reference=reference).fit([supercell])
    assert_same_features(adapted.transform([supercell]), afresh.transform([supercell]))


def test_sites_of_a_supercell():
    featurizer = fitted("rutile")
    supercell = supercell_of(BONDED["rutile"][0](), BLOCK)
    sites, before = featurizer.adapted_to(supercell).sites_, featurizer.sites_
    parents = supercell.get_tags()
    assert_array_equal(sites.classes, before.classes[parents])
    assert_array_equal(sites.rotations, before.rotations[parents])
    assert_array_equal(sites.classes[sites.representatives], np.arange(len(before.groups)))
    assert sites.groups == before.groups
    assert all(sites.ranks[k] is before.ranks[parent] for k, parent in enumerate(parents))


def test_the_reference_of_a_supercell_has_its_periodic_images():
    atoms = strayed(rattled(supercell_of(perovskite(), OBLIQUE), 0, 0.03), 3)
    reference = fitted("perovskite").adapted_to(atoms).reference_
    assert np.abs(reference.positions - atoms.positions).max() < 0.2
    assert_allclose(reference.cell, atoms.cell.array, atol=1e-12)


# ---- Arithmetic --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_classes_of_translations(seed):
    """Translations are in one class if and only if they differ by a lattice vector of the supercell."""
    rng = np.random.default_rng(seed)
    matrix = rng.integers(-3, 4, (3, 3))
    while round(abs(np.linalg.det(matrix))) == 0:
        matrix = rng.integers(-3, 4, (3, 3))
    form = hermite_form(matrix)
    assert_array_equal(form, np.triu(form))
    relation = form @ np.linalg.inv(matrix)
    assert_allclose(relation, np.rint(relation), atol=1e-9)
    assert round(abs(np.linalg.det(relation))) == 1
    grid = np.stack(np.meshgrid(*[np.arange(-9, 10)] * 3), axis=-1).reshape(-1, 3)
    supercell = Supercell(matrix, np.eye(3), np.zeros(1, dtype=int), np.zeros((1, 3), dtype=int))
    classes = supercell.classes(grid)
    assert_array_equal(np.unique(classes), np.arange(supercell.n_cells))
    leads = grid[np.unique(classes, return_index=True)[1]]
    steps = (grid - leads[classes]) @ np.linalg.inv(matrix)
    assert_allclose(steps, np.rint(steps), atol=1e-9)
    moved = grid + [1, -2, 0] @ matrix
    assert_array_equal(supercell.classes(moved), classes)
    assert_array_equal(supercell.cells(moved) - supercell.cells(grid), np.tile([1, -2, 0], (len(grid), 1)))


@pytest.mark.parametrize("matrix", [ONE, BLOCK, ROOT_TWO, OBLIQUE])
def test_the_matrix_is_found(matrix):
    reference, structure = as_structures(
        [BONDED["rutile"][0](), make_supercell(BONDED["rutile"][0](), matrix)]
    )
    assert_array_equal(find_supercell(structure, reference).matrix, matrix)


# ---- What does not fit -------------------------------------------------------------------------------------

REMEDY = (
    "Start from supercells of the crystal that the model was fitted on, or fit the model on this structure."
)
CONTRACT = "({} atoms), displaced by thermal motion and strained by a few percent at most; "


def removed(atoms: Atoms, index: int) -> Atoms:
    left = atoms.copy()
    del left[index]
    return left


def displaced(atoms: Atoms, index: int, step) -> Atoms:
    moved = atoms.copy()
    moved.positions[index] += step
    return moved


def swapped(atoms: Atoms, a: int, b: int) -> Atoms:
    exchanged = atoms.copy()
    exchanged.numbers[[a, b]] = exchanged.numbers[[b, a]]
    return exchanged


def not_periodic(atoms: Atoms) -> Atoms:
    open_ = atoms.copy()
    open_.pbc = (True, True, False)
    return open_


@pytest.mark.parametrize(
    ("structure", "problem"),
    [
        (
            removed(perovskite() * 2, 4),
            f"structure must be 8 cells of the reference {CONTRACT}it has 23 O atoms instead of 24. ",
        ),
        (
            not_periodic(perovskite()),
            f"structure must be the reference {CONTRACT}its pbc is [True, True, False], that of the "
            "reference [True, True, True]. ",
        ),
        (
            swapped(perovskite() * (2, 1, 1), 0, 6),
            f"structure must be 2 cells of the reference {CONTRACT}atom 0 (Ti) has no partner, no Ti site of "
            "the crystal being within 1.5 Angstrom (2 of 10 atoms have none). ",
        ),
        (
            displaced(perovskite() * (2, 1, 1), 7, [0.0, 1.7, -1.7]),
            f"structure must be 2 cells of the reference {CONTRACT}atom 7 (O) has no partner, its site (a "
            "copy of atom 3 of the reference) being taken by atom 8, which is nearer. ",
        ),
        (
            Atoms("BaTiO3", scaled_positions=perovskite().get_scaled_positions(), cell=[3, 4, 6], pbc=True),
            f"structure must be the reference {CONTRACT}its lattice vectors are not made of whole numbers of "
            "the reference's. ",
        ),
    ],
    ids=["a vacancy", "periodicity", "exchanged", "astray", "another lattice"],
)
def test_structures_that_are_no_supercells(structure, problem):
    with pytest.raises(ValueError, match=r"^structure must be") as error:
        fitted("perovskite").adapted_to(structure)
    assert str(error.value) == problem.format(5) + REMEDY


def test_molecules_do_not_repeat():
    molecule = BONDED["methanol"][0]()
    two = molecule + translated(molecule, [5, 0, 0])
    message = (
        f"structure must be 2 cells of the reference {CONTRACT}it has 12 atoms, and the reference is not "
        f"periodic. {REMEDY}"
    ).format(6)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fitted("methanol").adapted_to(two)


def test_a_structure_alone_is_asked_for():
    with pytest.raises(TypeError, match=r"^structure must be a list of"):
        fitted("perovskite").adapted_to("BaTiO3")
