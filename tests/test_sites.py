"""Equivalent sites: which rotations are tried, and what decides whether two surroundings match."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import molecule
from crystals import perovskite, rattled, repeated, rutile, skewed, slab, trajectory, wurtzite
from numpy.testing import assert_allclose, assert_array_equal
from symmetry import assert_same_rows, random_rotation, rotated

from tinynet_sklearn import CutoffBonds, CycleMomentFeaturizer
from tinynet_sklearn.reference import mean_structure
from tinynet_sklearn.sites import candidate_rotations
from tinynet_sklearn.structures import as_structures


def rotations_of(atoms):
    (structure,) = as_structures([atoms])
    return candidate_rotations(structure)


def strained(atoms, strain):
    stretched = atoms.copy()
    stretched.set_cell(atoms.cell.array @ (np.eye(3) + np.diag(strain)), scale_atoms=True)
    return stretched


# ---- Hypotheses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("atoms", "n_rotations"),
    [
        pytest.param(perovskite(), 48, id="cubic"),
        pytest.param(skewed(perovskite()), 48, id="skewed cell"),
        pytest.param(repeated(perovskite(), (2, 1, 3)), 48, id="2x1x3 supercell"),
        pytest.param(repeated(perovskite(), ((1, 1, 0), (-1, 1, 0), (0, 1, 2))), 48, id="sheared supercell"),
        pytest.param(wurtzite(), 24, id="hexagonal"),
        pytest.param(rutile(), 16, id="tetragonal"),
        pytest.param(strained(perovskite(), [0, 0.2, 0.4]), 8, id="orthorhombic"),
        pytest.param(slab(), 16, id="square slab"),
    ],
)  # fmt: skip
def test_the_rotations_of_a_lattice_are_found_in_any_cell(atoms, n_rotations):
    rotations = rotations_of(atoms)
    assert len(rotations) == n_rotations
    assert_allclose(rotations[0], np.eye(3), rtol=0, atol=1e-12)
    assert_allclose(
        rotations @ rotations.transpose(0, 2, 1), np.tile(np.eye(3), (n_rotations, 1, 1)), atol=1e-12
    )
    turned = random_rotation(seed=1)
    expected = turned @ rotations @ turned.T
    found = rotations_of(rotated(atoms, turned))
    assert len(found) == len(expected)
    distances = np.abs(found[:, None] - expected).max(axis=(2, 3))
    assert distances.min(axis=1).max() < 1e-6


def test_a_distorted_lattice_obeys_its_rotations_exactly_once_they_are_made_orthogonal():
    rotations = rotations_of(strained(perovskite(), [0.0, 0.004, -0.006]))
    assert len(rotations) == 48
    products = (rotations[:, None] @ rotations).reshape(-1, 9)
    nearest = np.abs(products[:, None] - rotations.reshape(-1, 9)).max(axis=2).min(axis=1)
    assert nearest.max() < 0.02  # a group, roughly
    assert_allclose(np.abs(np.linalg.det(rotations)), 1, rtol=1e-12)


def test_the_mean_of_a_hot_trajectory_still_shows_the_lattice():
    structures = as_structures(trajectory(perovskite() * (2, 2, 2), 20, amplitude=0.1))
    assert len(candidate_rotations(mean_structure(structures))) == 48


# ---- spglib finds nothing, and is quiet about it -----------------------------------------------------------


def failing(*arguments, **options):
    raise getattr(spglib, "SpglibError", RuntimeError)("too close distance between atoms")


@pytest.mark.parametrize("answer", [failing, lambda *a, **k: None], ids=["raises", "returns None"])
def test_without_an_answer_from_spglib_slots_follow_the_lattice_directions(monkeypatch, answer):
    for name in ("standardize_cell", "get_symmetry_dataset"):
        monkeypatch.setattr(spglib, name, answer)
    assert_array_equal(rotations_of(perovskite()), [np.eye(3)])
    frame = [rattled(perovskite(), seed=1)]
    site, lab = (
        CycleMomentFeaturizer(frame=f, reference=perovskite()).fit(frame).transform(frame)
        for f in ("site", "lab")
    )
    assert_same_rows(site.values, lab.values)


def test_nothing_is_written_to_the_terminal_about_atoms_that_spglib_does_not_like(capfd):
    molecule = Atoms("CO2", positions=[[0, 0, 0], [0, 0, 1.2], [0, 0, -1.2]])
    CycleMomentFeaturizer(bonds=1.5).fit([molecule])
    CycleMomentFeaturizer().fit([rattled(perovskite(), seed=2, amplitude=0.1)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("before", [None, "ON"])
def test_the_environment_is_left_as_it_was(monkeypatch, before):
    if before is None:
        monkeypatch.delenv("SPGLIB_WARNING", raising=False)
    else:
        monkeypatch.setenv("SPGLIB_WARNING", before)
    rotations_of(perovskite())
    assert os.environ.get("SPGLIB_WARNING") == before


# ---- Matches -----------------------------------------------------------------------------------------------


def side_by_side(first, second):
    """Two molecules in one structure, 20 Angstrom apart."""
    moved = second.copy()
    moved.positions += [20, 0, 0]
    return first + moved


def classes_of(atoms, n, bonds, **options):
    return CycleMomentFeaturizer(n=n, N=1, bonds=bonds, **options).fit([atoms]).sites_.classes


def triangle(base):
    """An isosceles triangle of carbon: legs of 1.4 Angstrom, and a base."""
    height = np.sqrt(1.4**2 - base**2 / 4)
    return Atoms("C3", positions=[[0, 0, 0], [height, base / 2, 0], [height, -base / 2, 0]])


def test_surroundings_that_differ_by_one_bond_are_different_sites():
    bonds = CutoffBonds(1.6, heteroatomic=False)
    same = classes_of(side_by_side(triangle(1.5), triangle(1.55)), 3, bonds)
    assert same[0] == same[3]
    broken = classes_of(side_by_side(triangle(1.55), triangle(1.65)), 3, bonds)
    assert broken[0] != broken[3]


def test_surroundings_of_another_shape_are_different_sites():
    linear = Atoms("CO2", positions=[[0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]])
    bent = Atoms("CO2", positions=[[0, 0, 0], [1.2, 0, 0], [0, 1.2, 0]])
    slightly_bent = Atoms("CO2", positions=[[0, 0, 0], [1.2, 0, 0], [-1.19, 0.15, 0]])
    assert len(set(classes_of(side_by_side(linear, bent), 2, 1.5)[[0, 3]])) == 2
    assert len(set(classes_of(side_by_side(linear, slightly_bent), 2, 1.5)[[0, 3]])) == 1
    strict = classes_of(side_by_side(linear, slightly_bent), 2, 1.5, site_tolerance=0.1)
    assert len(set(strict[[0, 3]])) == 2


def test_a_quarter_turn_is_found_where_the_box_has_it():
    """Without periodicity the hypotheses are those of the box: cubic, unless the file says otherwise."""
    along_x = Atoms("CO2", positions=[[0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]])
    along_y = Atoms("CO2", positions=[[0, 0, 0], [0, 1.2, 0], [0, -1.2, 0]])
    both = side_by_side(along_x, along_y)
    featurizer = CycleMomentFeaturizer(n=2, N=1, bonds=1.5).fit([both])
    assert featurizer.sites_.classes[0] == featurizer.sites_.classes[3]
    (rows,) = featurizer.transform([both])
    assert_same_rows(rows[[3, 4, 5]], rows[[0, 1, 1]])


def test_species_at_the_centre_count_although_the_neighbours_match():
    atoms = Atoms("NaCl", scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5]], cell=[3.5] * 3, pbc=True)
    assert len(set(classes_of(atoms, 2, 3.1))) == 2


def test_rotations_of_a_distorted_lattice_form_a_group_exactly():
    """A crystal strained by 1 % obeys the rotations only roughly; the hypotheses must not inherit that."""
    distorted = perovskite()
    distorted.set_cell(distorted.cell.array @ [[1.01, 0.003, 0], [0, 0.99, 0.004], [0.002, 0, 1]], True)
    (structure,) = as_structures([distorted])
    rotations = candidate_rotations(structure)
    assert len(rotations) == 48
    products = rotations[:, None] @ rotations
    distance = np.abs(products[:, :, None] - rotations).max(axis=(-2, -1)).min(axis=-1)
    assert distance.max() < 1e-12


def test_operations_that_belong_to_no_group_are_left_out():
    """A generous tolerance accepts quarter turns of a trigonal molecule; two of them make a third."""
    ammonia = molecule("NH3")
    featurizer = CycleMomentFeaturizer(n=2, N=1, bonds=1.3).fit([ammonia])
    for group in featurizer.sites_.groups:
        products = group.rotations[:, None] @ group.rotations
        distance = np.abs(products[:, :, None] - group.rotations).max(axis=(-2, -1)).min(axis=-1)
        assert distance.max() < 1e-12


def test_threads_leave_the_environment_as_it_was():
    (structure,) = as_structures([perovskite()])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(candidate_rotations, [structure] * 16))
    assert all(np.array_equal(rotations, found[0]) for rotations in found)
    assert "SPGLIB_WARNING" not in os.environ
