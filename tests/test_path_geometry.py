"""Derivatives of a frozen topology: against differences, each other, and sums over walks in plain Python."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
from crystals import BONDED, cyclopropane, perovskite, rattled, rhenium_trioxide, slab, trajectory
from derivatives import difference, gradient_of, moved, virial_of
from numpy.testing import assert_allclose, assert_array_equal
from oracles import (
    HOME,
    any_within,
    brute_force_bonds,
    closed_walks,
    different_within,
    hop_distances,
    position,
    pulled_lengths,
    pulled_walks,
    pushed_lengths,
    pushed_walks,
    simple_cycles,
    touching,
)
from symmetry import random_rotation, rotated, strayed

from tinynet_sklearn import CycleMomentFeaturizer, PotentialTargets, _kernels

#: Crystals, a molecule, a slab, a wire; with and without walks of odd length.
NAMES = ["perovskite", "MoO3", "methanol", "slab", "fcc", "cyclopropane", "wire", "diamond"]

SETTINGS = {
    "as is": {},
    "simple": {"paths": "simple"},
    "lab": {"frame": "lab"},
    "five hops": {"n": 5, "N": 1},
    "even walks": {"odd_walks": False},
    "all duplicates": {"duplicates": "keep", "neighbors": "walks"},
    "sums as found": {"aggregate": "sum", "order": "depth-first", "frame": "lab"},
    "walks alone": {"N": 0},
    "walks alone, of any coordinates": {"N": 0, "coordinates": "vectors"},
    "sums": {"N": 0, "aggregate": "sum"},
    "sums and neighbours": {"aggregate": "sum"},
    "neighbours alone": {"n": 0},
}

CASES = [
    *((name, "as is") for name in NAMES),
    *((name, setting) for setting in list(SETTINGS)[1:] for name in ("perovskite", "fcc")),
    *((name, setting) for setting in ("simple", "lab", "sums") for name in ("MoO3", "methanol", "slab")),
]


def fitted(name, **options):
    """Featurizer of distances, fitted to the ideal structure."""
    make, rule = BONDED[name]
    options = {"n": 4, "N": 2, "bonds": rule, "reference": "first", "coordinates": "distances", **options}
    return CycleMomentFeaturizer(**options).fit([make()])


def frames_of(name, n_frames=2):
    return trajectory(BONDED[name][0](), n_frames, amplitude=0.04)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: ", ".join(case))
def case(request):
    name, setting = request.param
    options = dict(SETTINGS[setting])
    if name == "perovskite" and options.get("n") == 5:
        options["n"] = 4  # without walks of five hops, of which it would be warned
    featurizer, frames = fitted(name, **options), frames_of(name)
    return featurizer, frames, featurizer.transform(frames)


def directions(geometry, n_rows, seed=0):
    """Velocities, and strains that need not be symmetric: rotations are among them."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n_rows, 3)), rng.normal(size=(len(geometry), 3, 3))


# ---- Differences -------------------------------------------------------------------------------------------


def test_push_is_the_rate_of_the_features(case):
    featurizer, frames, features = case
    velocities, strains = directions(features.geometry, len(features.values))
    parts = np.split(velocities, len(frames))

    def values(step):
        at = [moved(a, v, e, step) for a, v, e in zip(frames, parts, strains, strict=True)]
        return featurizer.transform(at).values

    rates = features.geometry.push(velocities, strains)
    assert rates.shape == features.values.shape
    assert rates.dtype == np.float64
    assert_allclose(rates, difference(values, 3e-4), rtol=1e-6, atol=1e-6 * np.abs(rates).max())


def test_pull_is_the_transpose_of_push(case):
    _, frames, features = case
    velocities, strains = directions(features.geometry, len(features.values))
    slopes = np.random.default_rng(1).normal(size=features.values.shape)
    gradient, virials = features.geometry.pull(slopes)
    assert gradient.shape == (len(features.values), 3)
    assert virials.shape == (len(frames), 3, 3)
    pulled = [(gradient * velocities).sum(), (virials * strains).sum()]
    size = np.abs(gradient * velocities).sum() + np.abs(virials * strains).sum()
    pushed = (features.geometry.push(velocities, strains) * slopes).sum()
    assert_allclose(pushed, sum(pulled), rtol=0, atol=1e-13 * size)
    still, rigid = np.zeros_like(velocities), np.zeros_like(strains)
    assert_allclose((features.geometry.push(velocities, rigid) * slopes).sum(), pulled[0], atol=1e-13 * size)
    assert_allclose((features.geometry.push(still, strains) * slopes).sum(), pulled[1], atol=1e-13 * size)


def test_nothing_pulls_at_a_structure_as_a_whole(case):
    _, frames, features = case
    slopes = np.random.default_rng(2).normal(size=features.values.shape)
    gradient, virials = features.geometry.pull(slopes)
    size = np.abs(gradient).max()
    net = gradient.reshape(len(frames), -1, 3).sum(axis=1)
    assert_allclose(net, 0.0, atol=1e-13 * max(size, 1.0))
    assert_allclose(virials, virials.transpose(0, 2, 1), rtol=0, atol=1e-12 * np.abs(virials).max())


@pytest.mark.parametrize("name", ["perovskite", "methanol", "slab"])
def test_pull_is_the_gradient_of_an_energy(name):
    """One component after the other, of an energy that is linear in the features."""
    featurizer, (atoms,) = fitted(name), frames_of(name, 1)
    features = featurizer.transform([atoms])
    slopes = np.random.default_rng(3).normal(size=features.values.shape)

    def energy(frames):
        return np.einsum("frc,rc->f", np.array(list(featurizer.transform(frames))), slopes)

    gradient, virials = features.geometry.pull(slopes)
    assert_allclose(gradient, gradient_of(energy, atoms), rtol=1e-6, atol=1e-6 * np.abs(gradient).max())
    assert_allclose(virials[0], virial_of(energy, atoms), rtol=1e-6, atol=1e-6 * np.abs(virials).max())


def test_float32_features_have_derivatives_in_double_precision():
    frames = frames_of("perovskite")
    single, double = (fitted("perovskite", dtype=dtype).transform(frames) for dtype in ("float32", "float64"))
    slopes = np.random.default_rng(0).normal(size=double.values.shape)
    assert single.values.dtype == np.float32
    for found, expected in zip(single.geometry.pull(slopes), double.geometry.pull(slopes), strict=True):
        assert_array_equal(found, expected)


def test_gradients_are_written_in_the_laboratory():
    """Also where features come from atoms that have strayed, and from a crystal that was turned."""
    featurizer, (atoms,) = fitted("perovskite"), frames_of("perovskite", 1)
    rotation = random_rotation(5)
    features = featurizer.transform([atoms])
    slopes = np.random.default_rng(0).normal(size=features.values.shape)
    gradient, virials = features.geometry.pull(slopes)
    for other, turn in ((strayed(atoms, 1), np.eye(3)), (rotated(strayed(atoms, 2), rotation), rotation)):
        geometry = featurizer.transform([other]).geometry
        found, strained = geometry.pull(slopes)
        assert_allclose(found, gradient @ turn.T, atol=1e-12)
        assert_allclose(strained[0], turn @ virials[0] @ turn.T, atol=1e-12)
        assert_allclose(geometry.volumes, 64.0)


def test_a_supercell_has_the_gradients_of_its_cells():
    featurizer, (atoms,) = fitted("perovskite"), frames_of("perovskite", 1)
    large = atoms * (1, 2, 3)
    slopes = np.random.default_rng(0).normal(size=(5, featurizer.n_features_out_))
    gradient, virials = featurizer.transform([atoms]).geometry.pull(slopes)
    features = featurizer.adapted_to(large).transform([large])
    found, strained = features.geometry.pull(np.tile(slopes, (6, 1)))
    assert_allclose(found, np.tile(gradient, (6, 1)), atol=1e-12)
    assert_allclose(strained, 6 * virials, atol=1e-11)
    assert_allclose(features.geometry.volumes, 6 * 64.0)


# ---- Sums over walks in plain Python -----------------------------------------------------------------------

BONDED_BY = {
    "perovskite": different_within(3.1),
    "MoO3": different_within(3.1),
    "slab": different_within(3.1),
    "fcc": any_within(3.0),
    "cyclopropane": touching(1.15),
}


def gradient_of_walks(found, atoms):
    """Of the sum of exp(-length) of walks: each of the hops pulls with the entry."""
    gradient, virial = np.zeros((len(atoms), 3)), np.zeros((3, 3))
    for walk in found:
        steps = [(a, b, position(atoms, b) - position(atoms, a)) for a, b in pairwise(walk)]
        entry = np.exp(-sum(np.linalg.norm(d) for *_, d in steps))
        for a, b, d in steps:
            pull = -entry * d / np.linalg.norm(d)
            gradient[b[0]] += pull
            gradient[a[0]] -= pull
            virial += np.outer(pull, d)
    return gradient, virial


@pytest.mark.parametrize("name", BONDED_BY)
@pytest.mark.parametrize(("paths", "settings"), [("all", {"aggregate": "sum"}), ("simple", {})])
def test_gradients_are_those_of_sums_over_walks(name, paths, settings):
    """With equal slopes of all columns, no column needs to be recognised."""
    (atoms,) = trajectory(BONDED[name][0](), 1, amplitude=0.02)
    featurizer = fitted(name, n=4, N=0, paths=paths, duplicates="keep", **settings)
    bonds = brute_force_bonds(atoms, BONDED_BY[name])
    found = []
    for atom in range(len(atoms)):
        found += closed_walks(bonds, atom, 2)
        for n in (3, 4):
            found += (closed_walks if paths == "all" else simple_cycles)(bonds, atom, n)
    features = featurizer.transform([atoms])
    total = sum(np.exp(-sum(np.linalg.norm(position(atoms, b) - position(atoms, a)) for a, b in pairwise(w)))
                for w in found)  # fmt: skip
    assert_allclose(features.values.sum(), total)
    gradient, virial = gradient_of_walks(found, atoms)
    pulled, virials = features.geometry.pull(np.ones_like(features.values))
    assert_allclose(pulled, gradient, atol=1e-12)
    assert_allclose(virials[0], virial, atol=1e-12)


@pytest.mark.parametrize("name", BONDED_BY)
def test_gradients_are_those_of_sums_over_neighbours(name):
    (atoms,) = trajectory(BONDED[name][0](), 1, amplitude=0.02)
    bonds = brute_force_bonds(atoms, BONDED_BY[name])
    found = [
        ((atom, HOME), vertex)
        for atom in range(len(atoms))
        for vertex, hops in hop_distances(bonds, atom, 2).items()
        if hops
    ]
    features = fitted(name, n=0, N=2).transform([atoms])
    gradient, virial = gradient_of_walks(found, atoms)
    pulled, virials = features.geometry.pull(np.ones_like(features.values))
    assert_allclose(pulled, gradient, atol=1e-12)
    assert_allclose(virials[0], virial, atol=1e-12)


# ---- Kernels -----------------------------------------------------------------------------------------------


def random_walks(seed=0, n_walks=40, n_bonds=7, n_rows=3, n_columns=6):
    """Walks of 0 to 5 hops that may pass over a bond more than once and share columns; some are sums."""
    rng = np.random.default_rng(seed)
    hops = rng.integers(0, 6, n_walks)
    offsets = np.concatenate([[0], np.cumsum(hops)]).astype(np.int64)
    walks = (
        offsets,
        rng.integers(0, n_bonds, offsets[-1]).astype(np.int32),
        rng.integers(0, n_rows, n_walks).astype(np.int32),
        rng.integers(0, n_columns, n_walks).astype(np.int32),
        rng.integers(1, 4, n_walks).astype(np.float64),
    )
    slopes = rng.normal(size=(n_rows, n_columns))
    slopes[0, 0] = 0.0
    return rng.uniform(0.1, 0.9, n_bonds), walks, slopes, rng.normal(size=n_bonds)


def read_only(*arrays):
    for array in arrays:
        array.flags.writeable = False
    return arrays


def test_walk_kernels_against_plain_python():
    factors, walks, slopes, rates = random_walks()
    read_only(factors, *walks, slopes, rates)
    by_length, by_entry = np.full(7, 0.5), np.full(slopes.shape, 0.5)  # both add to what is there
    _kernels.pull_walk_entries(factors, *walks, slopes, by_length)
    _kernels.push_walk_entries(factors, *walks, rates, by_entry)
    assert_allclose(by_length, 0.5 + pulled_walks(factors, *walks, slopes), rtol=1e-13)
    assert_allclose(by_entry, 0.5 + pushed_walks(factors, *walks, rates, slopes.shape), rtol=1e-13)


def test_length_kernels_against_plain_python():
    rng = np.random.default_rng(1)
    positions, cell = 3.0 * rng.normal(size=(4, 3)), 5.0 * np.eye(3) + rng.normal(size=(3, 3))
    first = np.array([0, 1, 2, 3, 3, 1], dtype=np.int32)
    last = np.array([1, 2, 0, 3, 0, 1], dtype=np.int32)  # two of them are bonds of an atom with its own image
    shifts = np.array([[0, 0, 0], [1, 0, -1], [0, 2, 0], [1, 0, 0], [0, 0, 0], [0, -1, 1]])
    slopes, velocities, strain = rng.normal(size=6), rng.normal(size=(4, 3)), rng.normal(size=(3, 3))
    pairs = read_only(positions, cell, first, last, shifts)
    gradient, virial = np.full((4, 3), 0.5), np.full((3, 3), 0.5)
    _kernels.pull_lengths(*pairs, slopes, gradient, virial)
    expected = pulled_lengths(*pairs, slopes)
    assert_allclose(gradient, 0.5 + expected[0], rtol=1e-13)
    assert_allclose(virial, 0.5 + expected[1], rtol=1e-13)
    rates = _kernels.push_lengths(*pairs, velocities, strain)
    assert_allclose(rates, pushed_lengths(*pairs, velocities, strain), rtol=1e-13)
    lengths = _kernels.bond_lengths(*pairs)
    out = np.zeros((4, 6))
    _kernels.fill_neighbor_factors(*pairs, np.arange(6, dtype=np.int32), out)
    assert_allclose(out[first, np.arange(6)], np.exp(-lengths))
    assert_array_equal(np.count_nonzero(out), 6)


# ---- Columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "carries"),
    [
        ({}, True),
        ({"frame": "lab"}, True),
        ({"paths": "simple"}, True),
        ({"neighbors": "walks"}, True),
        ({"duplicates": "keep"}, True),
        ({"aggregate": "sum"}, True),
        ({"order": "depth-first", "frame": "lab", "aggregate": "sum"}, True),
        ({"N": 0, "coordinates": "vectors"}, True),
        ({"N": 0, "coordinates": "vectors", "species_columns": True}, True),
        ({"coordinates": "vectors"}, False),
        ({"coordinates": "vectors", "aggregate": "sum"}, False),
        ({"order": "value", "frame": "lab"}, False),
        ({"order": "value", "frame": "lab", "N": 0}, False),
    ],
)
def test_which_embeddings_know_their_derivatives(options, carries):
    frames = frames_of("MoO3")
    features = fitted("MoO3", **options).transform(frames)
    assert (features.geometry is not None) == carries
    if carries:
        assert len(features.geometry) == len(frames)


def test_walks_in_the_order_of_the_search_are_not_sorted_by_value():
    """`order="depth-first"` sorts walks by value, as published; neighbours stay as found."""
    lab = {"order": "depth-first", "frame": "lab"}
    frames = frames_of("MoO3")
    assert fitted("MoO3", **lab).transform(frames).geometry is None
    assert fitted("MoO3", n=0, **lab).transform(frames).geometry is None


def test_distances_have_names_of_their_own():
    featurizer = fitted("MoO3", n=2, N=2)
    assert featurizer.get_feature_names_out().tolist() == [
        *(f"L2[O-Mo#{k}|Mo-O#{k}]" for k in range(2)),
        *(f"L2[Mo-O#{k}]" for k in range(2, 6)),
        *(f"N1[O:Mo#{k}|Mo:O#{k}]" for k in range(2)),
        *(f"N1[Mo:O#{k}]" for k in range(2, 6)),
        *(f"N2[O:O#{k}|Mo:Mo#{k}]" for k in range(6)),
        *(f"N2[O:O#{k}]" for k in range(6, 10)),
    ]
    assert featurizer.n_features_out_ == 22
    assert featurizer.symmetry_.vector_columns.shape == (0, 3)


def test_distances_are_those_of_the_vectors():
    for name in ("perovskite", "methanol"):
        frames = frames_of(name)
        vectors = fitted(name, coordinates="vectors").transform(frames)
        featurizer = fitted(name)
        distances = featurizer.transform(frames)
        names = fitted(name, coordinates="vectors").get_feature_names_out()
        x = np.flatnonzero([n.endswith(".x") for n in names])
        lengths = np.linalg.norm(vectors.values[:, x[:, None] + np.arange(3)], axis=2)
        expected = np.where(lengths > 0, np.exp(-lengths), 0.0)
        n_walks = len(names) - 3 * len(x)
        assert_allclose(distances.values[:, n_walks:], expected, atol=1e-13)
        assert_array_equal(distances.values[:, :n_walks], vectors.values[:, :n_walks])
        assert [n.removesuffix(".x") for n in names[x]] == list(featurizer.get_feature_names_out()[n_walks:])


@pytest.mark.parametrize("order", ["value", "depth-first"])
def test_sorted_distances(order):
    """Nearest first: in each class of neighbours with "value", as found with "depth-first"."""
    (atoms,) = frames_of("MoO3", 1)
    featurizer = fitted("MoO3", n=0, N=1, order=order, frame="lab")
    ideal = fitted("MoO3", n=0, N=1).transform([atoms]).values
    rows = featurizer.transform([atoms]).values
    if order == "value":
        assert (np.diff(rows, axis=1) <= 0).all()
    assert_allclose(np.sort(rows, axis=1), np.sort(ideal, axis=1))


def test_species_columns_with_distances():
    with pytest.raises(ValueError) as error:  # noqa: PT011
        fitted("MoO3", species_columns=True)
    assert str(error.value) == (
        "species_columns=True puts atomic numbers before the vectors of neighbours, which "
        "coordinates='distances' leaves out. Set species_columns=False."
    )


def test_site_groups_act_on_distances():
    """An operation of the site group permutes the columns as the operation on the crystal does."""
    featurizer = fitted("perovskite")
    titanium, quarter = 1, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    ideal, (atoms,) = perovskite(), frames_of("perovskite", 1)
    centre = ideal.positions[titanium]
    images = []
    for there in (ideal.positions - centre) @ quarter.T + centre:
        apart = (ideal.positions - there) / 4.0
        images.append(int(np.argmin(np.abs(apart - np.round(apart)).sum(axis=1))))
    turned = atoms.copy()
    shift = (ideal.positions - centre) @ quarter.T + centre - ideal.positions[images]
    turned.positions[images] = (atoms.positions - centre) @ quarter.T + centre - shift
    before, after = (featurizer.transform([a]) for a in (atoms, turned))
    symmetry, site = featurizer.symmetry_, int(before.frames.sites[titanium])
    distance = [
        np.abs(symmetry.apply(before.values[titanium][None], site, operation) - after.values[titanium]).max()
        for operation in range(48)
    ]
    assert len(symmetry.rotations[site]) == 48
    assert np.min(distance) < 1e-12
    assert np.sort(distance)[1] > 1e-4


# ---- The geometry as a collection --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [slice(1, 3), slice(None, None, -2), np.array([2, 0, 2]), np.array([True, False, False, True])]
)
def test_structures_can_be_selected(key):
    frames = frames_of("MoO3", 4)
    featurizer = fitted("MoO3")
    features = featurizer.transform(frames)
    slopes = np.random.default_rng(0).normal(size=(4, 4, features.shape[1]))
    gradient, virials = features.geometry.pull(slopes.reshape(16, -1))
    for part in (features.geometry[key], features[key].geometry):
        assert len(part) == len(np.arange(4)[key])
        found, strained = part.pull(slopes[key].reshape(-1, features.shape[1]))
        assert_array_equal(found, gradient.reshape(4, 4, 3)[key].reshape(-1, 3))
        assert_array_equal(strained, virials[key])
        assert_array_equal(part.volumes, features.geometry.volumes[key])
        assert part.targets is None


def test_references_stay_with_their_structures():
    features = fitted("MoO3").transform(frames_of("MoO3", 4))
    geometry = type(features.geometry)(
        features.geometry.table, features.geometry.positions, features.geometry.cells, True,
        PotentialTargets(energy=np.arange(4.0)),
    )  # fmt: skip
    assert_array_equal(geometry[[3, 1]].targets.energy, [3.0, 1.0])
    assert_array_equal(geometry[1:3].targets.energy, [1.0, 2.0])


def test_volumes_only_of_what_is_periodic_throughout():
    assert_allclose(fitted("MoO3").transform(frames_of("MoO3", 1)).geometry.volumes, [3.8**3])
    left_handed = rhenium_trioxide()
    left_handed.set_cell(left_handed.cell.array[[1, 0, 2]], scale_atoms=False)
    geometry = CycleMomentFeaturizer(n=2, N=1, coordinates="distances").fit_transform([left_handed]).geometry
    assert_allclose(geometry.volumes, [3.8**3])
    for name in ("slab", "methanol"):
        assert np.isnan(fitted(name).transform(frames_of(name, 2)).geometry.volumes).all()


def test_a_slab_with_a_third_lattice_vector_has_no_volume():
    atoms = slab()
    atoms.cell[2] = [0, 0, 30.0]
    featurizer = CycleMomentFeaturizer(n=2, N=1, coordinates="distances")
    assert np.isnan(featurizer.fit_transform([rattled(atoms, 0)]).geometry.volumes).all()


def test_pickled_features_keep_their_derivatives():
    features = fitted("cyclopropane").transform([rattled(cyclopropane(), 0)])
    copy = pickle.loads(pickle.dumps(features))
    slopes = np.ones_like(features.values)
    assert_array_equal(copy.geometry.pull(slopes)[0], features.geometry.pull(slopes)[0])


def test_what_changes_columns_loses_the_derivatives():
    features = fitted("MoO3").transform(frames_of("MoO3"))
    assert features.with_values(features.values).geometry is None
    assert (2.0 * features).geometry is None
    assert np.concatenate([features, features]).geometry is None
    assert np.hstack([features, features]).geometry is None
