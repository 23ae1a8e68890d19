"""`PotentialTargets`: what they hold, how they are split, and every way to write them."""

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from crystals import copper, methanol, rattled, rhenium_trioxide
from numpy.testing import assert_allclose, assert_array_equal
from pymatgen.core import Structure
from sklearn.model_selection import KFold, train_test_split
from symmetry import random_rotation

from tinynet_sklearn import PerAtomArray, PotentialTargets, SiteFrames
from tinynet_sklearn.potential_targets import as_potential_targets


def per_atom(n_structures=4, seed=0, species=(42, 8, 8, 8)):
    values = np.random.default_rng(seed).normal(size=(n_structures, len(species), 3))
    return PerAtomArray.from_list(list(values), species=[species] * n_structures)


def complete(n_structures=4):
    rng = np.random.default_rng(1)
    return PotentialTargets(
        rng.normal(size=n_structures), per_atom(n_structures), rng.normal(size=(n_structures, 6))
    )


def assert_equal(a, b):
    for name in ("energy", "forces", "stress"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert_array_equal(np.asarray(one), np.asarray(other))


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---- The container -----------------------------------------------------------------------------------------


def test_lists_become_arrays():
    targets = PotentialTargets([1, 2], stress=[[0, 1, 2, 3, 4, 5]] * 2)
    assert targets.energy.dtype == targets.stress.dtype == np.float64
    assert targets.stress.shape == (2, 6)
    assert targets.forces is None
    assert (len(targets), targets.shape) == (2, (2,))


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (complete(), "<PotentialTargets: 4 structures, energy, forces, stress>"),
        (PotentialTargets(forces=per_atom(2)), "<PotentialTargets: 2 structures, forces>"),
        (PotentialTargets([1.0], stress=np.ones((1, 6))), "<PotentialTargets: 1 structures, energy, stress>"),
    ],
)
def test_what_it_says_of_itself(targets, text):
    assert repr(targets) == text


@pytest.mark.parametrize(
    "key", [slice(1, 3), slice(None, None, -1), [2, 0], np.array([3]), np.array([True, False, False, True])]
)
def test_structures_are_selected_together(key):
    targets = complete()
    for part in (targets[key], targets[key, ...]):
        chosen = np.arange(4)[key]
        assert_array_equal(part.energy, targets.energy[chosen])
        assert_array_equal(part.stress, targets.stress[chosen])
        assert_array_equal(part.forces.values, targets.forces[chosen].values)
        assert len(part) == len(chosen)
    assert PotentialTargets([1.0, 2.0])[:1].forces is None


def test_scikit_learn_splits_between_structures():
    targets = complete(8)
    train, test = train_test_split(targets, test_size=2, random_state=0)
    assert (len(train), len(test)) == (6, 2)
    assert_allclose(np.sort(np.concatenate([train.energy, test.energy])), np.sort(targets.energy))
    for rows, _ in KFold(4).split(np.zeros(8), targets):
        assert_array_equal(targets[rows].energy, targets.energy[rows])


def test_pickling():
    targets = complete()
    assert_equal(pickle.loads(pickle.dumps(targets)), targets)


def test_one_structure_is_no_target():
    assert message_of(TypeError, lambda: complete()[np.int64(2)]) == (
        "PotentialTargets are indexed by a slice, an array of integers or a mask; got np.int64(2). Write "
        "targets[[np.int64(2)]]."
    )


def test_they_are_no_array():
    message = (
        "PotentialTargets are no array: energies, forces and stresses have no common unit. Score with the "
        "scorers of tinynet_sklearn.potential_metrics."
    )
    assert message_of(TypeError, lambda: np.asarray(complete())) == message
    assert message_of(TypeError, lambda: np.concatenate([complete(), complete()])) == message


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "PotentialTargets needs energy, forces or stress; got None for all of them."),
        (
            {"energy": np.zeros((4, 1))},
            "energy must have the shape (n_structures,); got (4, 1). Pass the energy of each "
            "whole structure.",
        ),
        (
            {"stress": np.zeros((4, 3, 3))},
            "stress must have the shape (n_structures, 6); got (4, 3, 3). Write stresses in Voigt order xx, "
            "yy, zz, yz, xz, xy, as ASE's get_stress does.",
        ),
        (
            {"stress": np.zeros((4, 3))},
            "stress must have the shape (n_structures, 6); got (4, 3). Write stresses in Voigt order xx, yy, "
            "zz, yz, xz, xy, as ASE's get_stress does.",
        ),
        (
            {"forces": np.zeros((4, 3))},
            "forces must be a PerAtomArray with 3 columns; got ndarray of shape (4, 3). "
            "PerAtomArray.from_list stacks one (n_atoms, 3) array per structure.",
        ),
        (
            {"forces": per_atom().with_values(np.zeros((16, 2)))},
            "forces must be a PerAtomArray with 3 columns; got PerAtomArray of shape (4, 2). "
            "PerAtomArray.from_list stacks one (n_atoms, 3) array per structure.",
        ),
        (
            {"energy": np.zeros(3), "forces": per_atom(), "stress": np.zeros((4, 6))},
            "energy, forces and stress must be of the same structures; got 3 for energy, 4 for forces, 4 for "
            "stress.",
        ),
    ],
)
def test_parts_that_cannot_be(parts, message):
    assert message_of(ValueError, lambda: PotentialTargets(**parts)) == message


# ---- What came with structures -----------------------------------------------------------------------------


def with_results(atoms, **results):
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def test_results_of_calculators_are_collected():
    crystal, molecule = rattled(rhenium_trioxide(), 0), methanol()
    rng = np.random.default_rng(0)
    forces, stress = rng.normal(size=(4, 3)), rng.normal(size=6)
    structures = [
        with_results(crystal, energy=-30.0, free_energy=-30.5, forces=forces, stress=stress),
        with_results(molecule, energy=-20.0),
        molecule,
        with_results(crystal, stress=stress),
    ]
    targets = PotentialTargets.from_structures(structures)
    assert_array_equal(targets.energy, [-30.5, -20.0, np.nan, np.nan])  # forces belong to the free energy
    assert_array_equal(targets.forces[0], forces)
    assert np.isnan(targets.forces.values[4:]).all()
    assert_array_equal(targets.forces.counts, [4, 6, 6, 4])
    assert_array_equal(targets.forces.species[:10], [*crystal.numbers, *molecule.numbers])
    assert_array_equal(targets.stress, [stress, np.full(6, np.nan), np.full(6, np.nan), stress])


def test_constraints_are_not_applied_to_forces():
    from ase.constraints import FixAtoms

    atoms = rhenium_trioxide()
    atoms.set_constraint(FixAtoms([0]))
    targets = PotentialTargets.from_structures([with_results(atoms, forces=np.ones((4, 3)))])
    assert_array_equal(targets.forces[0], np.ones((4, 3)))
    assert targets.energy is None


def test_stress_of_nine_components():
    stress = np.array([[1.0, 6, 5], [6, 2, 4], [5, 4, 3]])
    atoms = rhenium_trioxide()
    atoms.calc = SinglePointCalculator(atoms)
    atoms.calc.results["stress"] = stress
    assert_array_equal(PotentialTargets.from_structures([atoms]).stress, [[1, 2, 3, 4, 5, 6]])


def test_structures_without_results_have_no_targets():
    lattice = Structure([[3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8]], ["Po"], [[0, 0, 0]])
    assert PotentialTargets.from_structures([rhenium_trioxide(), methanol()]) is None
    assert PotentialTargets.from_structures([lattice]) is None
    idle = copper()
    idle.calc = EMT()
    assert PotentialTargets.from_structures([idle]) is None  # no calculator is run


def test_forces_beside_structures_of_pymatgen():
    lattice = Structure([[3.8, 0, 0], [0, 3.8, 0], [0, 0, 3.8]], ["Po"], [[0, 0, 0]])
    structures = [with_results(copper(), forces=np.ones((1, 3))), lattice]
    assert_array_equal(PotentialTargets.from_structures(structures).forces.species, [29, 84])


def test_results_of_other_positions_are_not_taken():
    """A calculator that is shared, or whose atoms have moved, holds results of another structure."""
    shared = EMT()
    frames = [rattled(copper() * (2, 1, 1), seed) for seed in range(3)]
    for atoms in frames:
        atoms.calc = shared
        atoms.get_forces()
    targets = PotentialTargets.from_structures(frames)
    assert_array_equal(np.isfinite(targets.energy), [False, False, True])
    assert_allclose(targets.energy[2], frames[2].get_potential_energy())
    moved = with_results(rhenium_trioxide(), energy=1.0)
    moved.rattle(0.1)
    assert PotentialTargets.from_structures([moved]) is None


# ---- Every way to write them -------------------------------------------------------------------------------


def features(targets=None):
    """Of the atoms in `per_atom`; the geometry is a stand-in that brings what came with the structures."""
    rows = per_atom()

    class Stored(list):
        pass

    geometry = Stored(range(4))
    geometry.targets = targets
    return PerAtomArray(rows.values, rows.offsets, rows.species, geometry=geometry)


def test_all_ways_to_write_forces_are_one():
    forces = per_atom(seed=3)
    for y in (
        PotentialTargets(forces=forces),
        {"forces": forces},
        {"forces": list(forces), "energy": None},
        forces,
        list(forces),
        np.array(list(forces)),
        [part.tolist() for part in forces],
    ):
        targets = as_potential_targets(y, features())
        assert_array_equal(targets.forces.values, forces.values)
        assert_array_equal(targets.forces.species, features().species)
        assert targets.energy is None
        assert targets.stress is None


def test_all_ways_to_write_energies_are_one():
    energy = np.array([1.0, np.nan, -3.0, 4.0])
    for y in (PotentialTargets(energy), {"energy": energy}, energy, list(energy), tuple(energy.tolist())):
        assert_array_equal(as_potential_targets(y, features()).energy, energy)
    assert_array_equal(as_potential_targets(np.arange(4), features()).energy, np.arange(4.0))


def test_none_takes_what_came_with_the_structures():
    assert_equal(as_potential_targets(None, features(complete())), complete())


def test_forces_in_site_frames_are_turned_back():
    forces, rotation = per_atom(), random_rotation(0)
    frames = SiteFrames(np.tile(rotation, (16, 1, 1)), np.zeros(16, dtype=int))
    framed = PerAtomArray(forces.values @ rotation.T, forces.offsets, forces.species, frames)
    targets = as_potential_targets(framed, features())
    assert_allclose(targets.forces.values, forces.values, atol=1e-12)
    assert targets.forces.frames is None


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (
            None,
            ValueError,
            "y=None takes energies, forces and stresses from the calculators of the structures; they have "
            "none. Pass y, or structures that were read with their results.",
        ),
        (
            {"energies": np.zeros(4), "force": per_atom()},
            ValueError,
            "y must have the keys 'energy', 'forces' and 'stress', or some of them; got 'energies'; 'force'.",
        ),
        ({}, ValueError, "y must have the keys 'energy', 'forces' and 'stress', or some of them; got none."),
        (
            {"energy": None},
            ValueError,
            "PotentialTargets needs energy, forces or stress; got None for all of them.",
        ),
        (np.zeros(3), ValueError, "y must be of the 4 structures of X; got 3."),
        (complete(3), ValueError, "y must be of the 4 structures of X; got 3."),
        (per_atom(3), ValueError, "y must have one part per structure of X; got 3 for 4 structures."),
        (
            per_atom(species=(42, 8, 8)),
            ValueError,
            "y must have one row per atom of X; got 3 rows for the 4 atoms of structure 0; 3 rows for the 4 "
            "atoms of structure 1; 3 rows for the 4 atoms of structure 2; and 1 more.",
        ),
        (
            per_atom(species=(42, 8, 8, 16)),
            ValueError,
            "y must list the atoms in the order of X; atom 3 of structure 0 has atomic number 16 in y and 8 "
            "in X. Take X and y from the same structures.",
        ),
        (
            [np.zeros((4, 2))] * 4,
            ValueError,
            "forces must be a PerAtomArray with 3 columns; got PerAtomArray of shape (4, 2). "
            "PerAtomArray.from_list stacks one (n_atoms, 3) array per structure.",
        ),
        (
            np.array([0.0, np.inf, 0.0, 0.0]),
            ValueError,
            "energy must be finite, or NaN where it is not known; got infinity.",
        ),
        (
            {"stress": np.full((4, 6), -np.inf)},
            ValueError,
            "stress must be finite, or NaN where it is not known; got infinity.",
        ),
        (
            per_atom().with_values(np.full((16, 3), np.inf)),
            ValueError,
            "forces must be finite, or NaN where it is not known; got infinity.",
        ),
        (
            np.zeros((16, 3)),
            TypeError,
            "y must hold one (n_atoms, k) array per structure, in a list or a PerAtomArray; got ndarray of "
            "shape (16, 3). Split rows of all atoms with PerAtomArray(y, X.offsets, X.species). "
            "Meta-estimators that flatten targets (TransformedTargetRegressor, Bagging, Voting, Stacking) "
            "are not supported.",
        ),
        (
            "forces",
            TypeError,
            "y must hold one (n_atoms, k) array per structure, in a list or a PerAtomArray; got str. Pass a "
            "list of arrays. Meta-estimators that flatten targets (TransformedTargetRegressor, Bagging, "
            "Voting, Stacking) are not supported.",
        ),
        (
            Atoms("O"),
            TypeError,
            "y must hold one (n_atoms, k) array per structure, in a list or a PerAtomArray; got Atoms. Pass "
            "a list of arrays. Meta-estimators that flatten targets (TransformedTargetRegressor, Bagging, "
            "Voting, Stacking) are not supported.",
        ),
    ],
)
def test_what_is_no_target(y, error, message):
    assert message_of(error, lambda: as_potential_targets(y, features())) == message


def test_features_without_derivatives_bring_no_targets():
    rows = per_atom()
    assert message_of(ValueError, lambda: as_potential_targets(None, rows)).startswith("y=None takes ")


def test_numbers_that_are_none():
    with pytest.raises(TypeError) as error:
        PotentialTargets(energy="abc")
    assert str(error.value) == "energy must hold real numbers; got str."


def test_a_free_energy_of_none_does_not_hide_the_energy():
    atoms = Atoms("H")
    atoms.calc = SinglePointCalculator(atoms, energy=1.5)
    atoms.calc.results["free_energy"] = None
    assert PotentialTargets.from_structures([atoms]).energy.tolist() == [1.5]
