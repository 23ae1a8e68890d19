"""Channels in place of species: sums over walks with weights, and all that is built on them."""

import re
from collections import defaultdict
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from crystals import methanol, perovskite, rattled, slab
from derivatives import difference, gradient_of, moved, virial_of
from numpy.polynomial.chebyshev import chebval
from numpy.testing import assert_allclose, assert_array_equal
from oracles import HOME, any_within, brute_force_bonds, closed_walks, position
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import (
    BPNNPotential,
    SmoothMomentFeaturizer,
    TinyNetCalculator,
    load_model,
    save_model,
    smooth,
)
from tinynet_sklearn.channels import channel_weights
from tinynet_sklearn.moments import SmoothGeometry, SmoothMoments
from tinynet_sklearn.smooth_engine import SmoothEngine
from tinynet_sklearn.structures import as_structures

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def alloy(seed=0):
    """Eight fcc sites, four species."""
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True) * (2, 1, 1)
    atoms.numbers = np.array([28, 29, 46, 78, 28, 78, 29, 29])
    return rattled(atoms, seed, 0.1)


def featurizer(**settings):
    """A small basis, of the same size in most tests: kernels are compiled for each size."""
    defaults = {"cutoff": 4.0, "n_pair": 3, "n_triangle": 2, "n_square": 2, "species_channels": 2}
    return SmoothMomentFeaturizer(**(defaults | settings))


def geometry_of(defined, *frames):
    return SmoothGeometry(defined, as_structures(list(frames)))


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---- Weights -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "species", [(8,), (1, 6, 7, 8), (28, 29, 46, 47, 78, 79), (57, 58, 59, 60, 61), (2, 10)]
)
def test_weights_are_orthonormal_and_begin_with_a_constant(species):
    n = len(species)
    weights = channel_weights(species, n)
    assert weights.shape == (n, n)
    assert_array_equal(weights[:, 0], 1.0)
    assert_allclose(weights.T @ weights / n, np.eye(n), atol=1e-12)
    for fewer in range(1, n):
        assert_array_equal(channel_weights(species, fewer), weights[:, :fewer])


def test_every_element_up_to_curium_at_once():
    weights = channel_weights(range(1, 97), 96)
    assert_allclose(weights.T @ weights / 96, np.eye(96), atol=1e-10)


def test_weights_follow_the_elements():
    """Radii order H, O, N, C; what is left then rises with the electronegativity."""
    first, second = channel_weights((1, 6, 7, 8), 3).T[1:]
    assert (np.diff(first[[0, 3, 2, 1]]) > 0).all()
    chi = np.array([2.20, 2.55, 3.04, 3.44])
    assert second @ chi > 0
    # in one group and one period there is nothing but the radius and the electronegativity, then the species
    assert_allclose(np.abs(channel_weights((28, 29), 2)[:, 1]), 1.0)


# ---- Columns -----------------------------------------------------------------------------------------------


def hops(distance, n, cutoff, inner, decay):
    """h_a(d) from the definition, shape (n,)."""
    low, high = np.exp(-decay * cutoff), np.exp(-decay * inner)
    x = 2.0 * (np.exp(-decay * distance) - low) / (high - low) - 1.0
    return chebval(x, np.eye(n)) * max(0.0, 1.0 - distance**2 / cutoff**2) ** 3


def moments_from_walks(atoms, defined):
    """Columns by name, each (n_atoms,): sums over closed walks, each times a weight for every stop."""
    columns = defaultdict(lambda: np.zeros(len(atoms)))
    size = {2: defined.n_pair, 3: defined.n_triangle, 4: defined.n_square}
    of_atom = np.array(defined.weights)[np.searchsorted(defined.species, atoms.numbers)]
    bonds = brute_force_bonds(atoms, any_within(defined.cutoff), reach=5)

    def along(start, end, count):
        distance = np.linalg.norm(position(atoms, end) - position(atoms, start))
        return hops(distance, count, defined.cutoff, defined.inner, defined.decay)

    for n, atom in product(range(2, defined.n + 1), range(len(atoms))):
        for walk in closed_walks(bonds, atom, n):
            if n == 4 and walk[2] not in bonds[atom]:
                continue
            steps = [along(*step, size[n]) for step in pairwise(walk)][: 1 if n == 2 else n]
            across = along((atom, HOME), walk[2], 1)[0] if n == 4 else 1.0
            weights = [of_atom[vertex[0]] for vertex in walk[1:-1]]
            for channels in product(range(defined.n_channels), repeat=n - 1):
                weight = across * np.prod([w[c] for w, c in zip(weights, channels, strict=True)])
                stops = "-".join(f"w{c}" for c in channels)
                for orders in product(range(size[n]), repeat=len(steps)):
                    term = np.prod([step[a] for step, a in zip(steps, orders, strict=True)])
                    columns[f"mu{n}[{stops}]{','.join(map(str, orders))}"][atom] += weight * term
    return columns


def reversed_name(name):
    """Name of the sum over the reversed walks."""
    kind, stops, orders = re.fullmatch(r"(mu\d)\[(.*)\](.*)", name).groups()
    return f"{kind}[{'-'.join(stops.split('-')[::-1])}]{','.join(orders.split(',')[::-1])}"


@pytest.mark.parametrize("build", [methanol, slab, perovskite])
def test_columns_are_weighted_sums_over_closed_walks(build):
    atoms = rattled(build(), seed=3, amplitude=0.08)
    defined = featurizer(cutoff=3.0, n_square=2 if build is methanol else 1).fit([atoms]).moments_
    values = geometry_of(defined, atoms).values()
    expected = moments_from_walks(atoms, defined)
    names = defined.names()
    assert len(set(names)) == len(names) == defined.n_columns
    for column, name in enumerate(names):
        assert_allclose(values[:, column], expected[name], rtol=1e-10, atol=1e-12, err_msg=name)
    for name in expected:  # every other sum over walks is that of the reversed ones
        assert name in names or reversed_name(name) in names


def map_of(defined):
    """Matrix from the columns of species to those of channels, shape (n_full, n_columns)."""
    index = {name: k for k, name in enumerate(replace(defined, weights=None).names())}
    weights = np.array(defined.weights)
    symbols = {s: Atoms([z]).symbols[0] for s, z in enumerate(defined.species)}
    matrix = np.zeros((len(index), defined.n_columns))
    for column, name in enumerate(defined.names()):
        kind, stops, orders = re.fullmatch(r"(mu\d)\[(.*)\](.*)", name).groups()
        channels = [int(stop[1:]) for stop in stops.split("-")]
        for species in product(symbols, repeat=len(channels)):
            full = f"{kind}[{'-'.join(symbols[s] for s in species)}]{orders}"
            row = index[full] if full in index else index[reversed_name(full)]
            matrix[row, column] += np.prod([weights[s, c] for s, c in zip(species, channels, strict=True)])
    return matrix


@pytest.mark.parametrize("n_channels", [1, 2, 4])
def test_columns_are_a_linear_map_of_those_of_species(n_channels):
    frames = [alloy(0), alloy(1)]
    defined = featurizer(species_channels=n_channels).fit(frames).moments_
    matrix = map_of(defined)
    few, full = geometry_of(defined, *frames), geometry_of(replace(defined, weights=None), *frames)
    assert_allclose(few.values(), full.values() @ matrix, rtol=1e-10, atol=1e-11)
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(16, defined.n_columns))
    for found, expected in zip(few.pull(slopes), full.pull(slopes @ matrix.T), strict=True):
        assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    velocities, strains = rng.normal(size=(16, 3)), rng.normal(size=(2, 3, 3))
    rates = full.push(velocities, strains) @ matrix
    assert_allclose(few.push(velocities, strains), rates, rtol=1e-9, atol=1e-10 * np.abs(rates).max())
    if n_channels == 4:  # as many as species: nothing is lost
        assert matrix.shape == (defined.n_columns, defined.n_columns)
        assert np.linalg.matrix_rank(matrix) == defined.n_columns
        assert np.linalg.cond(matrix) < 1e3


@pytest.mark.parametrize("n", [2, 4])
def test_a_stored_jacobian_gives_the_same_products(n):
    frames = [alloy(0), rattled(bulk("Ni", "fcc", a=3.6), 1), alloy(2)]
    defined = featurizer(n=n).fit(frames).moments_
    geometry = geometry_of(defined, *frames)
    stored, rng = geometry.cached(np.float64), np.random.default_rng(0)
    slopes = rng.normal(size=(geometry.n_rows, defined.n_columns))
    velocities, strains = rng.normal(size=(geometry.n_rows, 3)), rng.normal(size=(3, 3, 3))
    found = [*stored.pull(slopes), stored.push(velocities, strains), stored[1:].values()]
    expected = [*geometry.pull(slopes), geometry.push(velocities, strains), geometry[1:].values()]
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, rtol=1e-10, atol=1e-11 * np.abs(other).max())


def test_rates_are_differences_of_values():
    atoms, rng = alloy(), np.random.default_rng(1)
    defined = featurizer().fit([atoms]).moments_
    velocities, strain = rng.normal(size=(8, 3)), rng.normal(size=(3, 3))

    def values(step):
        return geometry_of(defined, moved(atoms, velocities, strain, step)).values()

    rates = geometry_of(defined, atoms).push(velocities, strain[None])
    assert_allclose(rates, difference(values, 2e-4), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("n_channels", [None, 1, 3, 6])
def test_columns_are_counted_as_they_are_named(n, n_channels):
    species = (1, 6, 7, 8, 14, 29)
    weights = None
    if n_channels is not None:
        weights = tuple(map(tuple, channel_weights(species, n_channels)))
    defined = SmoothMoments(species, n=n, n_triangle=3, n_square=2, weights=weights)
    assert defined.n_channels == (6 if n_channels is None else n_channels)
    assert defined.n_columns == len(set(defined.names()))


def test_names():
    embedding = featurizer(n=4, n_pair=1, n_triangle=1, n_square=1).fit([alloy()])
    assert embedding.get_feature_names_out().tolist() == [
        *["mu2[w0]0", "mu2[w1]0", "mu3[w0-w0]0,0,0", "mu3[w0-w1]0,0,0", "mu3[w1-w1]0,0,0"],
        *["mu4[w0-w0-w0]0,0,0,0", "mu4[w0-w0-w1]0,0,0,0", "mu4[w1-w0-w1]0,0,0,0"],
        *["mu4[w0-w1-w0]0,0,0,0", "mu4[w0-w1-w1]0,0,0,0", "mu4[w1-w1-w1]0,0,0,0"],
    ]


def test_the_first_channel_sees_atoms_of_any_species():
    """As in the crystal of one species that has atoms at the same places."""
    atoms = alloy()
    plain = atoms.copy()
    plain.numbers[:] = 29
    one, settings = featurizer(species_channels=1, inner=1.5), {"inner": 1.5, "species_channels": None}
    found = one.fit_transform([atoms]).values
    assert_allclose(found, featurizer(**settings).fit_transform([plain]).values, rtol=1e-12, atol=1e-13)


# ---- Potentials --------------------------------------------------------------------------------------------


def fitted(frames, *, channels=2, **settings):
    """A potential of random forces, which has seen every column vary."""
    rng = np.random.RandomState(0)
    net = BPNNPotential(**{"hidden_layer_sizes": (5, 3), "max_iter": 4, "random_state": 0, **settings})
    forces = [rng.randn(len(frame), 3) for frame in frames]
    return make_pipeline(featurizer(species_channels=channels), net).fit(frames, {"forces": forces})


@pytest.fixture(scope="module")
def model():
    return fitted([alloy(seed) for seed in range(6)])


def test_forces_and_virials_are_differences_of_the_energy(model):
    atoms = alloy(7)
    found = model.predict([atoms], output="all")

    def energy(frames):
        return model.predict(frames, output="energy")

    assert_allclose(found.forces.values, -gradient_of(energy, atoms), rtol=1e-6, atol=1e-7)
    virial = virial_of(energy, atoms) / atoms.get_volume()
    assert_allclose(found.stress[0], virial.ravel()[[0, 4, 8, 5, 2, 1]], rtol=1e-5, atol=1e-8)


def test_renumbering_and_rotation(model):
    atoms, rng = alloy(8), np.random.default_rng(0)
    before = model.predict([atoms], output="all")
    order = rng.permutation(len(atoms))
    after = model.predict([atoms[order]], output="all")
    assert_allclose(after.energy, before.energy, rtol=1e-12)
    assert_allclose(after.forces.values, before.forces.values[order], rtol=1e-9, atol=1e-11)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation.T)
    turned.positions = atoms.positions @ rotation.T
    after = model.predict([turned], output="all")
    assert_allclose(after.energy, before.energy, rtol=1e-12)
    assert_allclose(after.forces.values, before.forces.values @ rotation.T, rtol=1e-9, atol=1e-10)


def test_a_bond_that_breaks_leaves_no_jump(model):
    """Energy and forces on both sides of the cutoff."""
    frames = [alloy(1), alloy(1)]
    apart = frames[0].get_distance(0, 3, mic=False, vector=True)
    for atoms, length in zip(frames, (4.0 - 1e-6, 4.0 + 1e-6), strict=True):
        atoms.pbc = False
        atoms.positions[3] = atoms.positions[0] + apart * length / np.linalg.norm(apart)
    found = model.predict(frames, output="all")
    assert_allclose(found.energy[0], found.energy[1], atol=1e-5)
    assert_allclose(found.forces[0], found.forces[1], atol=1e-4)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_engine_predicts_what_the_pipeline_does(channels):
    frames = [alloy(seed) for seed in range(6)]
    model = fitted(frames, channels=channels)
    atoms, rng = frames[0].copy(), np.random.default_rng(0)
    engine = SmoothEngine(model, atoms)
    for _ in range(4):
        found = engine.compute(atoms.positions, atoms.cell.array)
        expected = model.predict([atoms], output="all")
        assert_allclose(found.energy, expected.energy[0], rtol=1e-12)
        assert_allclose(found.forces, expected.forces.values, rtol=1e-9, atol=1e-11)
        stress = found.virial.ravel()[[0, 4, 8, 5, 2, 1]] / atoms.get_volume()
        assert_allclose(stress, expected.stress[0], rtol=1e-9, atol=1e-12)
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
    atoms.calc = TinyNetCalculator(model, on_extrapolation="ignore")
    assert_allclose(atoms.get_potential_energy(), model.predict([atoms], output="energy")[0], rtol=1e-12)


def test_the_network_knows_the_species_at_the_centre(model):
    """Channels are those of neighbours; every species keeps a network of its own."""
    assert sorted(model[-1].atom_networks_) == [28, 29, 46, 78]


# ---- Files -------------------------------------------------------------------------------------------------


def test_models_come_back(model, tmp_path):
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert again[0].species_channels == 2
    assert again[0].moments_ == model[0].moments_
    frames = [alloy(9)]
    assert_array_equal(again.predict(frames, output="energy"), model.predict(frames, output="energy"))


def test_models_from_before_channels(tmp_path):
    """They have neither the parameter nor the weights."""
    frames = [alloy(seed) for seed in range(3)]
    model = fitted(frames, channels=None)
    expected = model.predict(frames, output="energy")
    del model[0].__dict__["species_channels"], model[0].moments_.__dict__["weights"]
    save_model(model, tmp_path / "model")
    again = load_model(tmp_path / "model")
    assert "species_channels" not in vars(again[0])
    assert_array_equal(again.predict(frames, output="energy"), expected)
    assert clone(again[0]).species_channels is None
    assert again[0].get_params()["species_channels"] is None


# ---- Refusals ----------------------------------------------------------------------------------------------


def test_more_channels_than_species():
    for n_channels in (5, 100):
        assert message_of(ValueError, lambda n=n_channels: featurizer(species_channels=n).fit([alloy()])) == (
            "species_channels must be from 1 to the number of species in X, 4 (Ni, Cu, Pd, Pt); got "
            f"{n_channels}. More channels than species say nothing new; None keeps species apart."
        )


@pytest.mark.parametrize("n_channels", [0, -1, 1.5, "all"])
def test_numbers_of_channels_that_are_none(n_channels):
    text = message_of(ValueError, lambda: featurizer(species_channels=n_channels).fit([alloy()]))
    assert text == (
        "The 'species_channels' parameter of SmoothMomentFeaturizer must be None or an int in the range "
        f"[1, inf). Got {n_channels!r} instead."
    )


def test_species_that_were_not_seen(model):
    other = alloy()
    other.numbers[3] = 47
    assert message_of(ValueError, lambda: model[0].transform([other])) == (
        "structures have no smooth moments:\n"
        "  structure 0, atom 3: Ag is none of the species Ni, Cu, Pd, Pt; fit with structures that have it."
    )


def test_columns_that_do_not_fit_into_memory(monkeypatch):
    atoms = alloy()
    embedding = SmoothMomentFeaturizer().fit([atoms])
    monkeypatch.setattr(smooth, "physical_memory", lambda: 2.0**15)
    assert message_of(ValueError, lambda: embedding.transform([atoms])) == (
        "X must make columns that fit into memory; 8 atoms with 1,120 columns each, for 4 species or "
        "channels, are 0.0 GiB, and there are 0.0. Set species_channels, lower n, n_pair, n_triangle or "
        "n_square, or pass fewer structures at a time."
    )
    assert featurizer(n=2).fit([atoms]).transform([atoms]).values.shape == (8, 6)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            ((1.0,),),
            "weights must hold one row for each of the 2 species, with one number for each channel; got rows "
            "of [1] numbers.",
        ),
        (
            ((1.0, 2.0), (1.0,)),
            "weights must hold one row for each of the 2 species, with one number for each channel; got rows "
            "of [2, 1] numbers.",
        ),
        (
            ((), ()),
            "weights must hold one row for each of the 2 species, with one number for each channel; got rows "
            "of [0, 0] numbers.",
        ),
        (((1.0,), (np.nan,)), "weights must be finite; got ((1.0,), (nan,))."),
    ],
)
def test_weights_that_make_no_sense(weights, message):
    assert message_of(ValueError, lambda: SmoothMoments((8, 22), weights=weights)) == message
