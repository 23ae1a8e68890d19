"""Lists with a skin hold what fresh lists hold, wherever atoms and cell go."""

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from crystals import copper, diamond, methanol, perovskite, rutile, skewed, slab, wire
from numpy.testing import assert_allclose, assert_array_equal

from tinynet_sklearn.moments import SmoothGeometry, SmoothMoments
from tinynet_sklearn.skin import SkinList
from tinynet_sklearn.structures import as_structures

#: Structure and cutoff. In most, pairs reach over several cells; fcc is one atom that sees itself alone.
STRUCTURES = {
    "diamond": (diamond, 4.0),
    "fcc, one atom": (copper, 4.5),
    "rutile": (rutile, 3.5),
    "perovskite": (perovskite, 4.2),
    "skewed perovskite": (lambda: skewed(perovskite()), 4.2),
    "slab": (slab, 4.0),
    "wire": (wire, 4.5),
    "methanol": (methanol, 2.5),
}


def definition(atoms, cutoff, **options):
    """A small basis, of the same size in all tests: kernels are compiled for each size."""
    species = tuple(sorted(set(atoms.numbers.tolist())))
    sizes = {"n_pair": 3, "n_triangle": 3, "n_square": 2, "inner": 1.0}
    return SmoothMoments(species, cutoff, **(sizes | options))


def plain(atoms):
    return as_structures([atoms])[0]


def assert_fresh(found, defined, atoms, rng):
    """The same pairs and triangles as in a list that is made for these atoms alone."""
    fresh = SmoothGeometry(defined, [plain(atoms)])
    for name in ("pair_offsets", "ring_counts", "triangle_offsets"):
        assert_array_equal(getattr(found._tables, name), getattr(fresh._tables, name), err_msg=name)
    values = fresh.values()
    scale = np.abs(values).max(initial=1.0)
    assert_allclose(found.values(), values, rtol=1e-12, atol=1e-12 * scale)
    slopes = rng.normal(size=values.shape)
    for result, expected in zip(found.pull(slopes), fresh.pull(slopes), strict=True):
        assert_allclose(result, expected, rtol=1e-11, atol=1e-12 * np.abs(expected).max(initial=1.0))
    assert_allclose(found.volumes, fresh.volumes)


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


def strained(rng, size):
    return np.eye(3) + size * rng.normal(size=(3, 3))


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("triangle_cutoff", [None, 3.0], ids=["one cutoff", "shorter triangles"])
def test_random_walks_of_atoms_and_cell(name, triangle_cutoff):
    make, cutoff = STRUCTURES[name]
    atoms, rng = make(), np.random.default_rng(7)
    if triangle_cutoff is not None:
        triangle_cutoff = min(triangle_cutoff, 0.8 * cutoff)
    defined = definition(atoms, cutoff, triangle_cutoff=triangle_cutoff)
    followed = SkinList(defined, 0.4)
    for step in range(50):
        atoms.positions += rng.normal(0.0, 0.02, atoms.positions.shape)
        if step % 3 == 1:
            atoms.set_cell(atoms.cell.array @ strained(rng, 0.01), scale_atoms=True)
        if step % 5 == 2:
            atoms.wrap()
        if step % 7 == 3:
            cells = rng.integers(-3, 4, atoms.positions.shape) * atoms.pbc
            atoms.positions += cells @ atoms.cell.array
        assert_fresh(followed.geometry(plain(atoms)), defined, atoms, rng)
    assert 1 < followed.n_builds < 40 or (name == "wire" and followed.n_builds == 1)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_walks_of_any_length(n):
    atoms, rng = perovskite(), np.random.default_rng(1)
    defined = definition(atoms, 4.2, n=n)
    followed = SkinList(defined)
    for _ in range(4):
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
        assert_fresh(followed.geometry(plain(atoms)), defined, atoms, rng)
    assert followed.n_builds == 1


def test_a_list_lasts_until_two_atoms_may_have_met():
    """Two atoms move towards each other; while they have come closer by no more than 0.8, the list holds."""
    atoms = Atoms("Cu3", [[0.0, 0, 0], [6.0, 0, 0], [50.0, 0, 0]])
    defined = definition(atoms, 3.0)
    followed = SkinList(defined, 0.8)
    followed.geometry(plain(atoms))
    for step in range(1, 60):
        before = followed.n_builds
        atoms.positions[:2, 0] += [0.05, -0.05]
        geometry = followed.geometry(plain(atoms))
        distance = atoms.get_distance(0, 1)
        assert geometry._tables.pair_offsets[1] == (distance < 3.0)
        assert (followed.n_builds > before) == (step % 9 == 0)
        if distance < 1.0:
            break
    assert distance < 1.0


def test_a_drift_is_no_displacement():
    atoms, rng = rutile(), np.random.default_rng(0)
    defined = definition(atoms, 3.5)
    followed = SkinList(defined, 0.3)
    for _ in range(40):
        atoms.positions += [0.03, -0.02, 0.05]
        assert_fresh(followed.geometry(plain(atoms)), defined, atoms, rng)
    # positions are taken to the nearest cell: after half a lattice vector, some atoms are and some are not
    assert followed.n_builds <= 4


def test_a_homogeneous_strain_needs_no_list_until_it_is_large():
    atoms = perovskite() * (2, 2, 2)
    defined = definition(atoms, 4.0)
    followed = SkinList(defined, 0.5)
    start = atoms.cell.array.copy()
    for strain, lists in ((0.0, 1), (0.03, 1), (-0.05, 1), (-0.10, 1), (-0.112, 2), (0.5, 2)):
        atoms.set_cell((1 + strain) * start, scale_atoms=True)
        assert_fresh(followed.geometry(plain(atoms)), defined, atoms, np.random.default_rng(0))
        assert followed.n_builds == lists, strain


def test_a_shear_counts_by_its_largest_compression():
    atoms = perovskite() * (2, 2, 2)
    defined = definition(atoms, 4.0)
    followed = SkinList(defined, 0.5)
    start = atoms.cell.array.copy()
    for shear, lists in ((0.0, 1), (0.2, 1), (0.3, 2)):
        deformation = np.eye(3)
        deformation[0, 1] = shear  # compresses one diagonal by about half as much
        atoms.set_cell(start @ deformation, scale_atoms=True)
        assert_fresh(followed.geometry(plain(atoms)), defined, atoms, np.random.default_rng(0))
        assert followed.n_builds == lists, shear


def test_other_atoms_or_periodicity_need_another_list():
    atoms, rng = perovskite() * (2, 1, 1), np.random.default_rng(3)
    defined = definition(atoms, 4.2)
    followed = SkinList(defined)
    followed.geometry(plain(atoms))
    changes = [
        lambda a: a.numbers.__setitem__(0, atomic_numbers["Ti"]),
        lambda a: a.set_pbc([True, True, False]),
        lambda a: a.pop(3),
        lambda a: a.set_pbc(False),
        lambda a: a.append("O"),
    ]
    for lists, change in enumerate(changes, start=2):
        change(atoms)
        if lists == 6:
            atoms.positions[-1] = [1.0, 1.0, 1.0]
        assert_fresh(followed.geometry(plain(atoms)), defined, atoms, rng)
        assert followed.n_builds == lists


def test_without_skin_every_move_needs_a_list():
    atoms, rng = diamond(), np.random.default_rng(0)
    defined = definition(atoms, 4.0)
    followed = SkinList(defined, 0.0)
    for lists in range(1, 4):
        for _ in range(2):
            assert_fresh(followed.geometry(plain(atoms)), defined, atoms, rng)
            assert followed.n_builds == lists
        atoms.positions[0, 0] += 0.01


def test_atoms_without_neighbours():
    atoms = Atoms("Cu", [[0.0, 0, 0]])
    defined = definition(atoms, 3.0)
    followed = SkinList(defined)
    for x in (0.0, 5.0):
        atoms.positions[0, 0] = x
        assert_array_equal(followed.geometry(plain(atoms)).values(), np.zeros((1, defined.n_columns)))
    assert followed.n_builds == 1


def test_slopes_without_values_first():
    atoms, rng = perovskite(), np.random.default_rng(2)
    defined = definition(atoms, 4.2)
    followed, fresh = SkinList(defined), SmoothGeometry(defined, [plain(atoms)])
    slopes = rng.normal(size=(len(atoms), defined.n_columns))
    followed.geometry(plain(atoms)).values()
    atoms.positions += rng.normal(0.0, 0.02, atoms.positions.shape)
    moved = SmoothGeometry(defined, [plain(atoms)])
    found = followed.geometry(plain(atoms)).pull(slopes)
    assert_allclose(found[0], moved.pull(slopes)[0], rtol=1e-11, atol=1e-12)
    assert np.abs(found[0] - fresh.pull(slopes)[0]).max() > 1e-3


def test_some_structures_of_a_followed_geometry():
    atoms = perovskite()
    geometry = SkinList(definition(atoms, 4.2)).geometry(plain(atoms))
    assert_array_equal(geometry[[0, 0]].values(), np.tile(geometry.values(), (2, 1)))
    velocities = np.random.default_rng(0).normal(size=(5, 3))
    fresh = SmoothGeometry(geometry.definition, [plain(atoms)])
    assert_allclose(geometry.push(velocities), fresh.push(velocities), rtol=1e-11, atol=1e-12)


# ---- Errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skin", [-0.1, np.nan, np.inf])
def test_no_skin_at_all(skin):
    assert (
        message_of(ValueError, lambda: SkinList(definition(copper(), 3.0), skin))
        == f"skin must be finite and not negative (Angstrom); got {skin!r}."
    )


def test_what_goes_wrong_on_the_way():
    atoms = perovskite()
    followed = SkinList(definition(atoms, 4.2), 5.0)
    followed.geometry(plain(atoms))

    def message_after(change):
        broken = atoms.copy()
        change(broken)
        structure = plain(atoms)
        structure.positions[:], structure.cell[:] = broken.positions, broken.cell.array
        return message_of(ValueError, lambda: followed.geometry(structure))

    assert message_after(lambda a: a.positions.__setitem__((3, 1), np.nan)) == (
        "atoms has structures that cannot be used:\n  structure 0, atom 3: position is "
        f"{np.where([False, True, False], np.nan, atoms.positions[3])}; remove it."
    )
    assert message_after(lambda a: a.positions.__setitem__(4, a.positions[3] + 0.001)) == (
        "structures have no smooth moments:\n  structure 0: atoms 3 and 4 are 0.0017 Angstrom apart; remove "
        "one of them."
    )
    assert message_after(lambda a: a.set_cell(np.zeros((3, 3)))) == (
        "atoms has structures that cannot be used:\n  structure 0: periodic, but its cell has a volume of 0 "
        "Angstrom^3 for 5 atoms; set the cell, or pbc=False."
    )
    # what went wrong is forgotten
    assert_fresh(followed.geometry(plain(atoms)), followed.definition, atoms, np.random.default_rng(0))


def test_a_species_that_is_not_in_the_definition():
    followed = SkinList(definition(copper(), 3.0))
    assert message_of(ValueError, lambda: followed.geometry(plain(methanol()))) == (
        "structures have no smooth moments:\n  structure 0, atom 0: C is none of the species Cu; fit with "
        "structures that have it."
    )
