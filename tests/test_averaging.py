"""`BPNNRegressor` averaged over site groups of crystals: the law, the loss, and what "auto" means."""

import warnings

import numpy as np
import pytest
from crystals import BONDED, trajectory
from numpy.testing import assert_allclose
from oracles import dense, images
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from symmetry import space_group

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, PerAtomArray, regressor
from tinynet_sklearn.equivariance import largest_subgroup

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def skip_model(n_features, n_outputs, species):
    import keras

    inputs = keras.Input((n_features,))
    hidden = keras.layers.Dense(6, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(n_outputs)(keras.layers.Concatenate()([inputs, hidden])))


def plain_model(n_features, n_outputs, species):
    import keras

    layers = [keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(n_outputs)]
    return keras.Sequential([keras.Input((n_features,)), *layers])


def crystal(name, n_frames=6, n=4, N=2):
    """An ideal crystal, thermal frames of it, forces that obey no symmetry at all, and a featurizer."""
    make, bonds = BONDED[name]
    ideal = make()
    frames = trajectory(ideal, n_frames)
    forces = [np.random.RandomState(k).randn(len(ideal), 3) for k in range(n_frames)]
    return (
        ideal,
        frames,
        forces,
        CycleMomentFeaturizer(n=n, N=N, bonds=bonds, paths="simple", reference=ideal),
    )


def atoms_of(name, **settings):
    _, frames, forces, embed = crystal(name, **settings)
    X = embed.fit(frames).transform(frames)
    return X, PerAtomArray.from_list(forces, [f.numbers for f in frames])


def same_weights(a, b):
    return all(
        np.array_equal(p, q) for z in a.weights_ for p, q in zip(a.weights_[z], b.weights_[z], strict=True)
    )


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---- The law -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("perovskite", {}),
        ("perovskite", {"networks": "shared"}),
        ("perovskite", {"solver": "adam", "max_iter": 3}),
        ("rutile", {"networks": "per-site"}),
        ("rutile", {"solver": "lbfgs", "scaler": "minmax"}),
        ("rutile", {"early_stopping": True, "hidden_layer_sizes": ()}),
        ("wurtzite", {"target_scaler": None, "scaler": None}),
        ("wurtzite", {"symmetry_copies": 3}),
        ("MoO3", {"build_fn": skip_model}),
        ("MoO3", {"build_fn": plain_model, "solver": "adam"}),
        ("MoO3", {"dtype": "float32"}),
        ("diamond", {}),
    ],
    ids=str,
)
def test_forces_turn_with_every_operation_of_the_crystal(name, settings):
    """Structures carried onto themselves by the space group of the ideal lattice, atoms renumbered."""
    ideal, frames, forces, embed = crystal(name)
    net = BPNNRegressor((6, 4), max_iter=8, random_state=0).set_params(**settings)
    pipe = Pipeline([("embed", embed), ("net", net)]).fit(frames[1:], forces[1:])
    assert net.n_operations_ > 1
    expected = pipe.predict(frames[:1])[0]
    assert np.abs(expected).max() > 0.01
    dtypes = {array.dtype for arrays in net.weights_.values() for array in arrays}
    tolerance = 1e-8 if dtypes == {np.dtype("float64")} else 2e-5
    operations = list(space_group(ideal))
    assert len(operations) > 8
    turned = pipe.predict([operation.image(frames[0]) for operation in operations])
    for operation, forces_there in zip(operations, turned, strict=True):
        assert_allclose(forces_there[operation.images], expected @ operation.rotation.T, atol=tolerance)


def test_scalars_stay_with_every_operation_of_the_crystal():
    ideal, frames, forces, embed = crystal("perovskite")
    squares = [np.square(f) for f in forces]  # 3 wide, and no vectors
    net = BPNNRegressor((6, 4), target="scalar", max_iter=8, random_state=0)
    pipe = Pipeline([("embed", embed), ("net", net)]).fit(frames[1:], squares[1:])
    expected = pipe.predict(frames[:1])[0]
    operations = list(space_group(ideal))
    turned = pipe.predict([operation.image(frames[0]) for operation in operations])
    for operation, there in zip(operations, turned, strict=True):
        assert_allclose(there[operation.images], expected, atol=1e-8)


def test_without_averaging_the_law_is_broken():
    """Or else the tests above would say nothing."""
    ideal, frames, forces, embed = crystal("perovskite")
    net = BPNNRegressor((6, 4), symmetry_average=False, max_iter=8, random_state=0)
    pipe = Pipeline([("embed", embed), ("net", net)]).fit(frames[1:], forces[1:])
    expected = pipe.predict(frames[:1])[0]
    away = [
        pipe.predict([o.image(frames[0])])[0][o.images] - expected @ o.rotation.T for o in space_group(ideal)
    ]
    assert np.abs(away).max() > 0.1


# ---- The loss ----------------------------------------------------------------------------------------------


def scaled_residual(net, X, y, z):
    """Errors of one species in site frames, in units of the scaled targets."""
    error = X.frames.to_frame(net.predict(X).values - y.values)[X.species == z]
    return error / net.atom_networks_[z].targets.scale


def said_of_images(net, X, row):
    """What the network of an atom says of its images, turned back, shape (n_ops, 3): from its weights."""
    z, site = int(X.species[row]), X.frames.sites[row]
    inputs, targets = net.atom_networks_[z].inputs, net.atom_networks_[z].targets
    chosen = largest_subgroup(X.frames.symmetry.rotations[site], net.n_operations_)
    turned_back = []
    for operation, (rotation, image) in enumerate(images(X.values[row][None], X.frames.symmetry, site)):
        if operation in chosen:
            scaled = (image[0, inputs.columns] - inputs.offset) / inputs.scale
            output = dense(net.weights_[z], scaled) * targets.scale + targets.offset
            turned_back.append(rotation.T @ output)
    return np.array(turned_back)


@pytest.mark.parametrize("average", [True, 4])
@pytest.mark.parametrize("name", ["perovskite", "slab"])
def test_predictions_are_the_average_over_explicit_images(name, average):
    X, y = atoms_of(name)
    net = BPNNRegressor((5, 4), max_iter=5, symmetry_average=average, random_state=0).fit(X, y)
    assert net.n_operations_ == (4 if average == 4 else {"perovskite": 48, "slab": 8}[name])
    found = X.frames.to_frame(net.predict(X).values)
    for row in range(len(X.values)):
        assert_allclose(found[row], said_of_images(net, X, row).mean(axis=0), atol=1e-11)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver": "lbfgs"},
        {"dtype": "float32"},
        {"symmetry_penalty": 0.0},
        {"symmetry_penalty": 1.0},
        {"symmetry_average": 4},
        {"scaler": "minmax", "target_scaler": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["perovskite", "slab"])
def test_the_loss_is_that_of_the_predictions(name, settings):
    """Their errors, a share of the errors of every image by itself, and weight decay."""
    X, y = atoms_of(name)
    net = BPNNRegressor((4,), solver="varpro", max_iter=10, alpha=0.01, random_state=0)
    net.set_params(**settings).fit(X, y)
    in_frame = X.frames.to_frame(y.values)
    for z, history in net.history_.items():
        rows = np.flatnonzero(X.species == z)
        scale = net.atom_networks_[z].targets.scale
        by_itself = [np.square((said_of_images(net, X, row) - in_frame[row]) / scale).mean() for row in rows]
        error = np.square(scaled_residual(net, X, y, z)).mean()
        share = net.symmetry_penalty
        decay = sum(np.square(w).sum() for w in net.weights_[z][::2])
        expected = (1 - share) * error + share * np.mean(by_itself) + 0.01 * decay
        assert_allclose(history["loss"][-1], expected, rtol=1e-4 if settings.get("dtype") else 1e-9)


def test_a_full_penalty_is_training_on_copies():
    """Of Ba and Ti, the mean of whose images is zero whether or not that of the rows is; unscaled inputs."""
    X, y = atoms_of("perovskite")
    net = BPNNRegressor((4,), max_iter=5, solver="lbfgs", scaler=None, random_state=0)
    averaged = clone(net).set_params(symmetry_penalty=1.0).fit(X, y)
    copies = clone(net).set_params(symmetry_average=False, symmetry_copies="all").fit(X, y)
    for z in (22, 56):
        assert_allclose(averaged.history_[z]["loss"], copies.history_[z]["loss"], rtol=1e-6)
        for a, b in zip(averaged.weights_[z], copies.weights_[z], strict=True):
            assert_allclose(a, b, atol=1e-6)


def test_the_penalty_makes_images_agree():
    X, y = atoms_of("perovskite")
    scatter = []
    for share in (0.0, 0.03, 0.3):
        net = BPNNRegressor((4,), solver="varpro", max_iter=30, symmetry_penalty=share, random_state=0)
        net.fit(X, y)
        scatter.append(np.mean([said_of_images(net, X, row).var(axis=0).sum() for row in range(30)]))
    assert scatter[0] > 2 * scatter[1] > 4 * scatter[2]


@pytest.mark.parametrize(
    "settings", [{}, {"solver": "adam"}, {"build_fn": skip_model}, {"build_fn": plain_model}]
)
def test_the_validation_loss_is_that_of_the_averaged_predictions(settings, monkeypatch):
    X, y = atoms_of("slab", n=2, N=1)
    held_out = {}
    prepare = regressor.prepare_task

    def watched(members, samples, *others):
        held_out[members[0]] = samples.held_out[samples.atoms.species == members[0]]
        return prepare(members, samples, *others)

    monkeypatch.setattr(regressor, "prepare_task", watched)
    net = BPNNRegressor((4,), max_iter=6, early_stopping=True, validation_fraction=0.3, random_state=0)
    net.set_params(**settings).fit(X, y)
    for z, history in net.history_.items():
        expected = np.square(scaled_residual(net, X, y, z)[held_out[z]]).mean()
        assert_allclose(history["validation"].min(), expected, rtol=1e-5)


# ---- What "auto" means, and what it needs ------------------------------------------------------------------


def test_what_automatic_symmetry_means():
    """An average where the site groups are known; without it, 8 copies; elsewhere, neither."""
    X, y = atoms_of("rutile", n=2, N=1)
    net = BPNNRegressor((3,), max_iter=5, random_state=0)
    automatic = clone(net).fit(X, y)
    assert automatic.n_operations_ > 1
    assert same_weights(automatic, clone(net).set_params(symmetry_average=True, symmetry_copies=1).fit(X, y))
    copies = clone(net).set_params(symmetry_average=False).fit(X, y)
    assert copies.n_operations_ == 1
    assert same_weights(copies, clone(copies).set_params(symmetry_copies=8).fit(X, y))
    assert not same_weights(copies, clone(copies).set_params(symmetry_copies=1).fit(X, y))
    without = PerAtomArray(X.values, X.offsets, X.species)
    plain = clone(net).fit(without, y)
    assert plain.n_operations_ == 1
    off = clone(net).set_params(symmetry_average=False, symmetry_copies=1)
    assert same_weights(plain, off.fit(without, y))


def test_copies_add_nothing_to_an_average():
    X, y = atoms_of("rutile", n=2, N=1)
    net = BPNNRegressor((4,), max_iter=10, random_state=0)
    once, often = (clone(net).set_params(symmetry_copies=n).fit(X, y) for n in (1, "all"))
    for z in (8, 22):
        assert_allclose(often.history_[z]["loss"], once.history_[z]["loss"], rtol=1e-6)
    assert_allclose(often.predict(X).values, once.predict(X).values, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"solver": "lbfgs"}, {"networks": "per-site"}], ids=str)
def test_the_number_of_workers_does_not_matter(settings):
    X, y = atoms_of("slab", n=2, N=1)  # groups of several orders in each network
    net = BPNNRegressor((4,), max_iter=15, random_state=0, **settings)
    filters = list(warnings.filters)
    one, two, three = (clone(net).set_params(n_jobs=n).fit(X, y) for n in (1, 2, 3))
    assert one.n_operations_ > 1
    assert same_weights(one, two)
    assert same_weights(one, three)
    assert warnings.filters == filters  # they belong to all threads


def test_weights_count_like_repetitions_and_zero_like_absence():
    X, y = atoms_of("slab", n=2, N=1)
    times = np.array([2, 0, 1, 3, 1, 1])
    repeated = np.repeat(np.arange(6), times)
    net = BPNNRegressor((4,), max_iter=10, random_state=0)
    assert same_weights(clone(net).fit(X, y, sample_weight=times), clone(net).fit(X[repeated], y[repeated]))


def test_a_crystal_without_a_column_that_varies():
    """One atom in a fixed cell: all that is left to learn is a constant, and of a force not even that."""
    X, y = atoms_of("fcc")
    for settings in ({}, {"solver": "lbfgs"}, {"dtype": "float32"}, {"hidden_layer_sizes": ()}):
        net = BPNNRegressor((3,), max_iter=2, random_state=0).set_params(**settings).fit(X, y)
        assert_allclose(net.predict(X).values, 0, atol=1e-6)
    scalars = BPNNRegressor((3,), target="scalar", random_state=0).fit(X, y)
    assert_allclose(scalars.predict(X).values, np.tile(y.values.mean(axis=0), (6, 1)), atol=1e-9)


def test_warm_start_with_an_average_that_the_scaling_does_not_allow():
    X, y = atoms_of("rutile", n=2, N=1)
    net = BPNNRegressor((3,), max_iter=2, warm_start=True, symmetry_average=False, random_state=0).fit(X, y)
    net.set_params(symmetry_average=True)
    assert message_of(ValueError, lambda: net.fit(X, y)) == (
        "symmetry_average needs inputs that were scaled alike wherever an operation exchanges them; the "
        "network was fitted without it. Fit anew with warm_start=False, or set symmetry_average=False."
    )
    net.set_params(warm_start=False).fit(X, y)
    loss = net.loss_
    assert net.set_params(warm_start=True).fit(X, y).loss_ < loss
    net.set_params(symmetry_average=False).fit(X, y)  # what is scaled alike can be trained without
    assert net.n_operations_ == 1


@pytest.mark.parametrize(
    ("lost", "carries"),
    [("frames", "no site frames"), ("site groups", "site frames but no site groups")],
)
def test_site_groups_missing_in_predict(lost, carries):
    """An averaged network of scalars has no vectors to turn back; it needs the site groups all the same."""
    X, y = atoms_of("rutile", n=2, N=1)
    net = BPNNRegressor((3,), target="scalar", max_iter=2, random_state=0).fit(X, y)
    without = PerAtomArray(X.values, X.offsets, X.species) if lost == "frames" else X.with_values(X.values)
    assert message_of(ValueError, lambda: net.predict(without)) == (
        "a network that was averaged over site groups needs features on which the site groups act; X "
        f"carries {carries}. Use CycleMomentFeaturizer(frame='site') with no step behind it that mixes or "
        "selects columns."
    )
