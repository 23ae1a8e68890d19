"""Which atoms a fitted model has to extrapolate for."""

import numpy as np
import pytest
from crystals import methanol, perovskite, rattled, repeated, trajectory
from numpy.testing import assert_array_equal

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CycleMomentFeaturizer,
    PerAtomArray,
    PotentialTargets,
    SmoothMomentFeaturizer,
    load_batio3,
    load_moo3,
    load_pretrained,
)
from tinynet_sklearn.potential_training import potential_keys
from tinynet_sklearn.scaling import training_range

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def frozen(**settings):
    return CycleMomentFeaturizer(**{"n": 2, "N": 1, "bonds": 3.1, "coordinates": "distances", **settings})


def extrapolating(model, atoms):
    """Which rows are outside the training ranges of their networks."""
    keys = potential_keys(atoms, model.networks)
    found = np.zeros(len(keys), dtype=bool)
    for key, net in model.atom_networks_.items():
        found[keys == key] = net.inputs.outside(atoms.values[keys == key])
    return found


def some_forces(atoms, seed=0):
    rng = np.random.RandomState(seed)
    return PerAtomArray(rng.randn(len(atoms.values), 3), atoms.offsets, atoms.species)


def potential(**settings):
    return BPNNPotential(**{"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0, **settings})


def regressor(**settings):
    return BPNNRegressor(**{"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0, **settings})


@pytest.fixture(scope="module")
def crystal():
    """Thermal frames of a perovskite, and one in which atom 9 has left its site by 1 Angstrom."""
    cell = repeated(perovskite(), (2, 2, 2))
    frames = trajectory(cell, 40)
    displaced = frames[0].copy()
    displaced.positions[9] = cell.positions[9] + [0.6, -0.6, 0.52915]
    return frames, displaced


@pytest.mark.parametrize(
    ("model", "featurizer"),
    [
        (potential(), frozen()),
        (potential(symmetry_average=4), frozen()),
        (potential(symmetry_average=False), frozen()),
        (potential(networks="per-site"), frozen()),
        (potential(networks="shared"), frozen()),
        (potential(), SmoothMomentFeaturizer(n=3, cutoff=3.2, n_pair=3, n_triangle=2)),
        (regressor(), frozen(coordinates="vectors")),
        (regressor(symmetry_average=False), frozen(coordinates="vectors")),
        (regressor(solver="adam"), frozen(coordinates="vectors", frame="lab")),
    ],
)
def test_an_atom_that_left_its_site(crystal, model, featurizer):
    frames, displaced = crystal
    X = featurizer.fit(frames).transform(frames)
    forces = some_forces(X)
    model.fit(X, PotentialTargets(forces=forces) if isinstance(model, BPNNPotential) else forces)
    assert not extrapolating(model, X).any()
    assert extrapolating(model, featurizer.transform([displaced]))[9]


def test_structures_that_validate_were_not_seen(crystal):
    X = frozen().fit_transform(crystal[0])
    half = {"early_stopping": True, "validation_fraction": 0.5}
    for model in (potential(**half), regressor(**half)):
        forces = some_forces(X)
        model.fit(X, PotentialTargets(forces=forces) if isinstance(model, BPNNPotential) else forces)
        tighter = []
        for key, net in model.atom_networks_.items():
            own = X.species == key
            low, high = training_range(X.values[own], X.frames.sites[own], X.frames.symmetry)
            assert (net.inputs.low >= low).all()
            assert (net.inputs.high <= high).all()
            tighter.append((net.inputs.low > low).any() or (net.inputs.high < high).any())
        assert any(tighter)


@pytest.mark.parametrize("make", [potential, regressor])
def test_a_warm_start_adds_to_what_was_seen(crystal, make):
    frames, _ = crystal
    hot = trajectory(repeated(perovskite(), (2, 2, 2)), 5, amplitude=0.15)
    featurizer = frozen().fit(frames)
    cold, warm = featurizer.transform(frames), featurizer.transform(hot)

    def targets(atoms):
        forces = some_forces(atoms)
        return PotentialTargets(forces=forces) if make is potential else forces

    model = make(warm_start=True).fit(cold, targets(cold))
    before = {key: net.inputs for key, net in model.atom_networks_.items()}
    assert extrapolating(model, warm).mean() > 0.3
    model.fit(warm, targets(warm))
    assert not extrapolating(model, cold).any()
    assert not extrapolating(model, warm).any()
    for key, net in model.atom_networks_.items():
        own = warm.species == key
        low, high = training_range(warm.values[own], warm.frames.sites[own], warm.frames.symmetry)
        assert_array_equal(net.inputs.low, np.minimum(low, before[key].low))
        assert_array_equal(net.inputs.high, np.maximum(high, before[key].high))
        assert_array_equal(net.inputs.scale, before[key].scale)


def test_a_warm_start_keeps_ranges_of_species_that_are_not_there():
    featurizer = SmoothMomentFeaturizer(n=2, cutoff=3.2, n_pair=3)
    frames = [rattled(methanol(), seed) for seed in range(6)]
    X = featurizer.fit(frames).transform(frames)
    model = potential(warm_start=True).fit(X, PotentialTargets(forces=some_forces(X)))
    before = model.atom_networks_
    hydrogen = [frame[frame.numbers == 1] for frame in frames]
    Y = featurizer.transform(hydrogen)
    model.fit(Y, PotentialTargets(forces=some_forces(Y)))
    for key in (6, 8):
        assert_array_equal(model.atom_networks_[key].inputs.high, before[key].inputs.high)
    assert (model.atom_networks_[1].inputs.low < before[1].inputs.low).any()  # no carbon, no oxygen nearby


def test_a_changed_constant():
    """Only positions moved in training: the distance of an atom from its own images was fixed."""
    frames = [rattled(perovskite(), seed) for seed in range(12)]
    featurizer = frozen(N=2).fit(frames)
    X = featurizer.transform(frames)
    model = potential().fit(X, PotentialTargets(forces=some_forces(X)))
    stretched = perovskite()
    stretched.set_cell(1.01 * stretched.cell, scale_atoms=True)
    barium = X.species[: len(stretched)] == 56
    dropped = np.setdiff1d(np.arange(X.shape[1]), model.atom_networks_[56].inputs.columns)
    assert X.values[: len(stretched)][barium][:, dropped].any()
    assert extrapolating(model, featurizer.transform([stretched]))[barium].all()
    barely = perovskite()
    barely.set_cell((1 + 1e-6) * barely.cell, scale_atoms=True)
    assert not extrapolating(model, featurizer.transform([barely])).any()


@pytest.mark.parametrize(("name", "load"), [("batio3", load_batio3), ("moo3", load_moo3)])
def test_pretrained_potentials_know_their_ranges(name, load):
    """They were fitted on all of the bundled structures."""
    model = load_pretrained(name)
    featurizer, net = model[0], model[-1]
    structures = load().structures
    X = featurizer.transform(structures)
    assert not extrapolating(net, X).any()
    for key, network in net.atom_networks_.items():
        own = X.species == key
        low, high = training_range(X.values[own], X.frames.sites[own], X.frames.symmetry)
        assert_array_equal(network.inputs.low, low)
        assert_array_equal(network.inputs.high, high)
    displaced = structures[0].copy()
    displaced.positions[0] += [0.5, 0.5, 0.7]
    assert extrapolating(net, featurizer.transform([displaced]))[0]
