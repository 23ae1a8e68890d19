"""Smooth moments: columns against sums over walks, derivatives against differences."""

import pickle
import re
from collections import defaultdict
from itertools import pairwise, product

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from crystals import copper, diamond, methanol, perovskite, rattled, rutile, skewed, slab, wire
from numpy.polynomial.chebyshev import chebval
from numpy.testing import assert_allclose, assert_array_equal
from oracles import HOME, any_within, brute_force_bonds, closed_walks, position

from tinynet_sklearn import moments
from tinynet_sklearn.moments import SmoothGeometry, SmoothMoments
from tinynet_sklearn.structures import as_structures

STRUCTURES = {
    "diamond": (diamond, 2.7),
    "fcc, one atom": (copper, 3.8),
    "rutile": (rutile, 3.0),
    "perovskite": (perovskite, 3.0),
    "slab": (slab, 3.0),
    "wire": (wire, 4.0),
    "methanol": (methanol, 3.0),
}


def definition(*symbols, cutoff, **options):
    """A small basis, of the same size in most tests: kernels are compiled for each size."""
    species = tuple(sorted(atomic_numbers[symbol] for symbol in symbols))
    return SmoothMoments(species, cutoff, **{"n_pair": 3, "n_triangle": 3, "n_square": 2, **options})


def case(name):
    """Rattled structure, and a definition for it."""
    build, cutoff = STRUCTURES[name]
    atoms = rattled(build(), seed=3, amplitude=0.08)
    return atoms, definition(*set(atoms.get_chemical_symbols()), cutoff=cutoff, inner=1.0)


def geometry_of(defined, *structures):
    return SmoothGeometry(defined, as_structures(list(structures)))


def moved(atoms, velocities, strain, step):
    """Atoms after a step along velocities and strain."""
    deformation = np.eye(3) + step * strain
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ deformation.T, scale_atoms=False)
    other.positions = (atoms.positions + step * velocities) @ deformation.T
    return other


def difference(function, step):
    """Derivative at zero by central differences of fourth order."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8.0 * near - far) / (12.0 * step)


# ---- Values ------------------------------------------------------------------------------------------------


def hops(distance, n, cutoff, inner, decay):
    """h_a(d) from the definition, shape (n,)."""
    low, high = np.exp(-decay * cutoff), np.exp(-decay * inner)
    x = 2.0 * (np.exp(-decay * distance) - low) / (high - low) - 1.0
    return chebval(x, np.eye(n)) * max(0.0, 1.0 - distance**2 / cutoff**2) ** 3


def moments_from_walks(atoms, defined):
    """Columns by name, each (n_atoms,), as sums over the closed walks of the graph of bonds."""
    columns = defaultdict(lambda: np.zeros(len(atoms)))
    size = {2: defined.n_pair, 3: defined.n_triangle, 4: defined.n_square}
    for n in range(2, defined.n + 1):
        cutoff = defined.cutoff if n == 2 else defined.ring_cutoff
        bonds = brute_force_bonds(atoms, any_within(cutoff), reach=5)

        def along(start, end, count, cutoff=cutoff):
            distance = np.linalg.norm(position(atoms, end) - position(atoms, start))
            return hops(distance, count, cutoff, defined.inner, defined.decay)

        for atom in range(len(atoms)):
            for walk in closed_walks(bonds, atom, n):
                species = [chemical_symbols[atoms.numbers[vertex[0]]] for vertex in walk[1:-1]]
                steps = [along(*step, size[n]) for step in pairwise(walk)]
                factor = 1.0
                if n == 2:
                    steps = steps[:1]
                elif n == 4:
                    if walk[2] not in bonds[atom]:
                        continue
                    factor = along((atom, HOME), walk[2], 1)[0]
                for orders in product(range(size[n]), repeat=len(steps)):
                    term = factor * np.prod([step[a] for step, a in zip(steps, orders, strict=True)])
                    columns[f"mu{n}[{'-'.join(species)}]{','.join(map(str, orders))}"][atom] += term
    return columns


@pytest.mark.parametrize("name", STRUCTURES)
def test_columns_are_sums_over_closed_walks(name):
    atoms, defined = case(name)
    if name != "diamond":  # the number of walks of four hops is no matter for brute force elsewhere
        defined = definition(*set(atoms.get_chemical_symbols()), cutoff=defined.cutoff, n_square=1, n=4)
    values = geometry_of(defined, atoms).values()
    expected = moments_from_walks(atoms, defined)
    for column, label in enumerate(defined.names()):
        assert_allclose(values[:, column], expected[label], rtol=1e-10, atol=1e-12, err_msg=label)
    # Every other sum over walks is that of the reversed walk, and stands in a column.
    for label, sums in list(expected.items()):
        start, species, orders = re.fullmatch(r"(mu\d)\[(.*)\](.*)", label).groups()
        reverse = f"{start}[{'-'.join(species.split('-')[::-1])}]{orders[::-1]}"
        assert label in defined.names() or reverse in defined.names()
        assert_allclose(sums, expected[reverse], rtol=1e-10, atol=1e-12)


def test_columns_of_the_smaller_bases_are_among_those_of_the_larger():
    atoms, defined = case("rutile")
    everything = dict(zip(defined.names(), geometry_of(defined, atoms).values().T, strict=True))
    for n in (2, 3):
        smaller = definition("Ti", "O", cutoff=3.0, inner=1.0, n=n)
        values = geometry_of(smaller, atoms).values()
        assert_array_equal(values.T, [everything[name] for name in smaller.names()])


def test_triangles_may_have_a_cutoff_of_their_own():
    atoms, _ = case("rutile")
    both = definition("Ti", "O", cutoff=3.6, triangle_cutoff=2.9)
    columns = dict(zip(both.names(), geometry_of(both, atoms).values().T, strict=True))
    for cutoff, walks in ((3.6, "mu2"), (2.9, "mu[34]")):
        one = definition("Ti", "O", cutoff=cutoff)
        for name, column in zip(one.names(), geometry_of(one, atoms).values().T, strict=True):
            if re.match(walks, name):
                assert_allclose(columns[name], column, rtol=1e-12, atol=1e-14)


def test_names():
    tiny = SmoothMoments((8, 22), n_pair=1, n_triangle=1, n_square=1)
    assert tiny.names() == [
        *["mu2[O]0", "mu2[Ti]0", "mu3[O-O]0,0,0", "mu3[O-Ti]0,0,0", "mu3[Ti-Ti]0,0,0"],
        *["mu4[O-O-O]0,0,0,0", "mu4[O-O-Ti]0,0,0,0", "mu4[Ti-O-Ti]0,0,0,0"],
        *["mu4[O-Ti-O]0,0,0,0", "mu4[O-Ti-Ti]0,0,0,0", "mu4[Ti-Ti-Ti]0,0,0,0"],
    ]
    silicon = SmoothMoments((14,), n_pair=2, n_triangle=2, n=3)
    assert silicon.names() == [
        *["mu2[Si]0", "mu2[Si]1", "mu3[Si-Si]0,0,0", "mu3[Si-Si]0,1,0"],
        *["mu3[Si-Si]0,0,1", "mu3[Si-Si]0,1,1", "mu3[Si-Si]1,0,1", "mu3[Si-Si]1,1,1"],
    ]
    large = SmoothMoments((1, 6, 8), n_pair=5, n_triangle=4, n_square=3)
    assert len(set(large.names())) == large.n_columns == 15 + 3 * 40 + 3 * 64 + 9 * 45 + 9 * 81


# ---- Derivatives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURES)
def test_pull_equals_differences_of_values(name):
    atoms, defined = case(name)
    geometry = geometry_of(defined, atoms)
    slopes = np.random.default_rng(1).normal(size=geometry.values().shape)
    gradient, virials = geometry.pull(slopes)

    def energy(velocities, strain, step):
        return (geometry_of(defined, moved(atoms, velocities, strain, step)).values() * slopes).sum()

    still, unstrained = np.zeros_like(atoms.positions), np.zeros((3, 3))
    for atom, axis in product(range(min(len(atoms), 3)), range(3)):
        velocities = still.copy()
        velocities[atom, axis] = 1.0
        by_difference = difference(lambda step, v=velocities: energy(v, unstrained, step), 1e-3)
        assert_allclose(gradient[atom, axis], by_difference, rtol=1e-7, atol=1e-8)
    for row, column in product(range(3), repeat=2):
        strain = unstrained.copy()
        strain[row, column] = 1.0
        by_difference = difference(lambda step, e=strain: energy(still, e, step), 3e-4)
        assert_allclose(virials[0, row, column], by_difference, rtol=1e-7, atol=1e-7)
    assert_allclose(virials, virials.transpose(0, 2, 1), atol=1e-12 * np.abs(virials).max())
    assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-12 * np.abs(slopes).sum())


@pytest.mark.parametrize("n", [2, 3, 4])
def test_push_is_the_transpose_of_pull_and_the_rate_of_values(n):
    atoms = [rattled(rutile(), seed=1), rattled(slab(), seed=2), methanol()]
    defined = definition("Ti", "O", "Ba", "C", "H", cutoff=3.5, triangle_cutoff=3.0, n=n)
    geometry = geometry_of(defined, *atoms)
    rng = np.random.default_rng(0)
    velocities, strains = rng.normal(size=(geometry.n_rows, 3)), rng.normal(size=(3, 3, 3))
    slopes = rng.normal(size=(geometry.n_rows, defined.n_columns))
    gradient, virials = geometry.pull(slopes)
    rates = geometry.push(velocities, strains)
    pulled = (gradient * velocities).sum() + (virials * strains).sum()
    assert_allclose((rates * slopes).sum(), pulled, rtol=1e-11)
    assert_allclose((geometry.push(velocities) * slopes).sum(), (gradient * velocities).sum(), rtol=1e-11)

    parts = np.split(velocities, np.cumsum([len(a) for a in atoms])[:-1])

    def values(step):
        frames = [moved(a, v, e, step) for a, v, e in zip(atoms, parts, strains, strict=True)]
        return geometry_of(defined, *frames).values()

    assert_allclose(rates, difference(values, 2e-4), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("n", [2, 4])
def test_a_stored_jacobian_gives_the_same_products(n):
    frames = [rattled(copper(), 4), rattled(rutile(), 1), Atoms("O"), rattled(slab(), 2), methanol()]
    defined = definition("Cu", "Ti", "O", "Ba", "C", "H", cutoff=3.8, triangle_cutoff=3.0, n=n)
    geometry = SmoothGeometry(defined, as_structures(frames), targets=np.arange(5))
    rng = np.random.default_rng(0)
    for dtype, tolerance in ((np.float64, 1e-11), (np.float32, 2e-5)):
        stored = geometry.cached(dtype)
        assert geometry.cached_nbytes < stored.nbytes
        for key in (slice(None), slice(1, 4), np.array([3, 0, 3]), np.arange(5) == 2):
            plain, part = geometry[key], stored[key]
            assert len(part) == len(plain)
            assert part.n_rows == plain.n_rows
            assert_array_equal(part.values(), plain.values())
            assert_array_equal(part.volumes, plain.volumes)
            assert_array_equal(part.targets, plain.targets)
            slopes = rng.normal(size=(part.n_rows, defined.n_columns))
            velocities, strains = rng.normal(size=(part.n_rows, 3)), rng.normal(size=(len(part), 3, 3))
            found = [*part.pull(slopes), part.push(velocities), part.push(velocities, strains)]
            expected = [*plain.pull(slopes), plain.push(velocities), plain.push(velocities, strains)]
            for one, other in zip(found, expected, strict=True):
                assert one.dtype == np.float64
                assert_allclose(one, other, rtol=tolerance, atol=tolerance * np.abs(expected[0]).max())


def test_nothing_jumps_where_a_bond_reaches_the_cutoff():
    """Second derivatives on both sides of the cutoff approach each other."""
    cutoff = 3.0
    defined = definition("Si", cutoff=cutoff)
    slopes = np.random.default_rng(2).normal(size=(4, defined.n_columns))
    square = np.array([[0.0, 0, 0], [1.9, 0, 0], [0.9, 1.7, 0], [0.4, 0.6, 1.5]])

    def force(outside):
        """Of the last atom, which goes away from the first along z, on the first."""
        square[3, 2] = np.sqrt((cutoff + outside) ** 2 - 0.4**2 - 0.6**2)
        return geometry_of(defined, Atoms("Si4", square)).pull(slopes)[0]

    touching = force(0.0)
    steps = np.array([1e-2, 1e-3])
    curvatures = []
    for step in steps:
        slope_inside = (touching - force(-step)) / step
        slope_outside = (force(step) - touching) / step
        curvatures.append(np.abs(slope_outside - slope_inside).max())
    assert np.abs(touching).max() > 0.1  # the other bonds pull
    assert curvatures[1] < 0.2 * curvatures[0]  # a jump of the second derivative would stay


def test_the_energy_of_a_bond_vanishes_to_third_order():
    defined = definition("Si", cutoff=3.0)

    def values(length):
        return geometry_of(defined, Atoms("Si2", [[0, 0, 0], [0, 0, length]])).values()

    inside = np.abs(values(3.0 - 1e-2)).max()
    assert_allclose(np.abs(values(3.0 - 1e-3)).max(), 1e-3 * inside, rtol=0.1)
    assert_array_equal(values(3.0), 0.0)
    assert_array_equal(values(3.1), 0.0)


# ---- Invariance --------------------------------------------------------------------------------------------


def pulled(defined, atoms, weights):
    """Values, and gradient and virials of a function of them that treats all atoms alike."""
    geometry = geometry_of(defined, atoms)
    values = geometry.values()
    return values, *geometry.pull(np.broadcast_to(weights, values.shape))


@pytest.fixture
def crystal():
    defined = definition("Ti", "O", cutoff=3.0, inner=1.2)
    weights = np.random.default_rng(5).normal(size=defined.n_columns)
    atoms = rattled(rutile(), seed=9)
    return defined, atoms, weights, *pulled(defined, atoms, weights)


def test_renumbering_permutes_the_rows(crystal):
    defined, atoms, weights, values, gradient, virials = crystal
    order = np.random.default_rng(0).permutation(len(atoms))
    other = pulled(defined, atoms[order], weights)
    for found, expected in zip(other, (values[order], gradient[order], virials), strict=True):
        assert_allclose(found, expected, rtol=1e-11, atol=1e-11)


def test_rotation_turns_gradient_and_virial(crystal):
    defined, atoms, weights, values, gradient, virials = crystal
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation.T)
    turned.positions = atoms.positions @ rotation.T
    other = pulled(defined, turned, weights)
    expected = (values, gradient @ rotation.T, rotation @ virials @ rotation.T)
    for found, wanted in zip(other, expected, strict=True):
        assert_allclose(found, wanted, rtol=1e-11, atol=1e-10)


@pytest.mark.parametrize("change", ["shift", "cells", "far away", "oblique cell"])
def test_the_choice_of_cell_changes_nothing(crystal, change):
    defined, atoms, weights, *expected = crystal
    rng = np.random.default_rng(2)
    other = atoms.copy()
    if change == "shift":
        other.positions += [0.37, -4.1, 11.2]
    elif change == "cells":
        other.positions += rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
    elif change == "far away":
        other.positions += rng.integers(-(10**6), 10**6, (len(atoms), 3)) @ atoms.cell.array
    else:
        other = skewed(atoms)
    tolerance = 1e-6 if change == "far away" else 1e-10  # large coordinates have fewer digits left
    for found, wanted in zip(pulled(defined, other, weights), expected, strict=True):
        assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


def test_a_supercell_repeats_rows_and_adds_up_virials(crystal):
    """In the small cell, atoms see images of themselves; in the large one they do not."""
    defined, atoms, weights, values, gradient, virials = crystal
    large = pulled(defined, atoms * (3, 3, 4), weights)
    assert_allclose(large[0], np.tile(values, (36, 1)), rtol=1e-10, atol=1e-11)
    assert_allclose(large[1], np.tile(gradient, (36, 1)), rtol=1e-10, atol=1e-9)
    assert_allclose(large[2], 36 * virials, rtol=1e-10, atol=1e-8)


# ---- The geometry as a collection --------------------------------------------------------------------------


def test_structures_can_be_selected():
    frames = [rattled(rutile(), seed=1), rattled(slab(), seed=2), methanol(), Atoms("O")]
    defined = definition("Ti", "O", "Ba", "C", "H", cutoff=3.0)
    geometry = geometry_of(defined, *frames)
    blocks = np.split(geometry.values(), np.cumsum([len(atoms) for atoms in frames])[:-1])
    assert len(geometry) == 4
    assert geometry.definition is defined
    assert geometry.targets is None
    volumes = [rutile().get_volume(), np.nan, np.nan, np.nan]
    assert_allclose(geometry.volumes, volumes)
    tagged = SmoothGeometry(defined, as_structures(frames), targets=np.arange(4))
    for key, chosen in [
        (slice(1, 3), [1, 2]),
        (slice(None, None, -2), [3, 1]),
        (np.array([2, 0, 2]), [2, 0, 2]),
        (np.array([True, False, False, True]), [0, 3]),
        (1, [1]),
        (np.zeros(0, dtype=int), []),
    ]:
        part = geometry[key]
        assert len(part) == len(chosen)
        assert_array_equal(tagged[key].targets, chosen)
        assert_allclose(part.volumes, geometry.volumes[np.array(chosen, dtype=int)])
        assert part.n_rows == sum(len(frames[index]) for index in chosen)
        expected = [blocks[index] for index in chosen] or [np.empty((0, defined.n_columns))]
        assert_array_equal(part.values(), np.concatenate(expected))
    copy = pickle.loads(pickle.dumps(geometry))
    assert_array_equal(copy.values(), geometry.values())
    assert copy.nbytes == geometry.nbytes > 0


def test_an_atom_without_neighbors_has_zeros_and_feels_nothing():
    defined = definition("Si", cutoff=3.0)
    alone = Atoms("Si3", [[0, 0, 0], [2.3, 0, 0], [40, 0, 0]])
    geometry = geometry_of(defined, alone, Atoms("Si"))
    values = geometry.values()
    gradient, virials = geometry.pull(np.ones_like(values))
    assert_array_equal(values[2:], 0.0)
    assert_array_equal(gradient[2:], 0.0)
    assert_array_equal(virials[1], 0.0)
    assert_array_equal(geometry.push(np.ones((4, 3)), np.ones((2, 3, 3)))[2:], 0.0)
    assert np.abs(values[:2]).max() > 0.01


def test_read_only_arrays_are_accepted():
    atoms, defined = case("rutile")
    geometry = geometry_of(defined, atoms)
    values = geometry.values()
    for array in geometry._tables:
        array.flags.writeable = False
    slopes, velocities = np.ones_like(values), np.ones_like(atoms.positions)
    slopes.flags.writeable = velocities.flags.writeable = False
    assert_array_equal(geometry.values(), values)
    assert_allclose(geometry.pull(slopes)[0].sum(axis=0), 0.0, atol=1e-9)
    assert_allclose(geometry.push(velocities), 0.0, atol=1e-12)


# ---- Refusals ----------------------------------------------------------------------------------------------


def test_atoms_that_coincide():
    defined = definition("Si", cutoff=3.0)
    fine = Atoms("Si2", [[0, 0, 0], [2.3, 0, 0]])
    doubled = Atoms("Si3", [[0, 0, 0], [2.3, 0, 0], [2.3, 0.01, 0]])
    flat = Atoms("Si", cell=[5, 5, 0.2], pbc=True)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        geometry_of(defined, fine, doubled, flat)
    assert str(error.value) == (
        "structures have no smooth moments:\n"
        "  structure 1: atoms 1 and 2 are 0.01 Angstrom apart; remove one of them.\n"
        "  structure 2: atoms 0 and 0 are 0.2 Angstrom apart; remove one of them."
    )


def test_species_that_are_not_in_the_definition():
    with pytest.raises(ValueError) as error:  # noqa: PT011
        geometry_of(definition("Ti", "O", cutoff=3.0), rutile(), perovskite())
    assert str(error.value) == (
        "structures have no smooth moments:\n"
        "  structure 1, atom 0: Ba is none of the species O, Ti; fit with structures that have it."
    )


def test_too_many_triangles(monkeypatch):
    monkeypatch.setattr(moments, "MAX_CORNERS", 30)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        geometry_of(definition("Cu", cutoff=4.0), copper())
    assert str(error.value) == (
        "structures have no smooth moments:\n"
        "  structure 0: 9 bonds up to 4 Angstrom make 36 pairs with a common atom, 30 are allowed; "
        "lower triangle_cutoff."
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda g: g.pull(np.zeros((6, 3))),
            "slopes must have the shape (6, 141), got ndarray of shape (6, 3).",
        ),
        (
            lambda g: g.push(np.zeros(18)),
            "velocities must have the shape (6, 3), got ndarray of shape (18,).",
        ),
        (
            lambda g: g.push(np.zeros((6, 3)), np.zeros((3, 3))),
            "strains must have the shape (1, 3, 3), got ndarray of shape (3, 3).",
        ),
    ],
)
def test_arguments_of_another_shape(call, message):
    geometry = geometry_of(definition("Ti", "O", cutoff=3.0), rutile())
    for either in (geometry, geometry.cached()):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            call(either)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"species": ()}, "species must be atomic numbers in ascending order, each once, got ()."),
        ({"species": (22, 8)}, "species must be atomic numbers in ascending order, each once, got (22, 8)."),
        ({"species": (8, 8)}, "species must be atomic numbers in ascending order, each once, got (8, 8)."),
        ({"species": (0, 8)}, "species must be atomic numbers in ascending order, each once, got (0, 8)."),
        ({"n": 5}, "n must be 2, 3 or 4 hops, got 5; longer walks have no smooth form."),
        ({"n_pair": 0}, "n_pair must be at least 1, got 0."),
        ({"n_triangle": 0}, "n_triangle must be at least 1, got 0."),
        ({"n_square": 0}, "n_square must be at least 1, got 0."),
        (
            {"n_square": 5},
            "n_square must be at most n_triangle=4, since walks of four hops are made of walks of three, "
            "got 5; raise n_triangle.",
        ),
        ({"decay": 0.0}, "decay must be positive and finite (1/Angstrom), got 0.0."),
        ({"cutoff": np.inf}, "cutoff must be positive and finite (Angstrom), got inf."),
        ({"cutoff": -1}, "cutoff must be positive and finite (Angstrom), got -1."),
        (
            {"triangle_cutoff": 6.0},
            "triangle_cutoff must be positive and at most cutoff=5 Angstrom, got 6.0.",
        ),
        ({"inner": 5.0}, "inner must be at least 0 and below the cutoff of 5 Angstrom, got 5.0."),
        ({"inner": -1.0}, "inner must be at least 0 and below the cutoff of 5 Angstrom, got -1.0."),
    ],
)
def test_definitions_that_make_no_sense(options, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        SmoothMoments(**{"species": (8, 22), **options})
    assert str(error.value) == message
