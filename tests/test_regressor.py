"""`BPNNRegressor` on atoms: what it accepts, learns, keeps and refuses."""

import gc
import pickle
import random
import subprocess
import sys
import tracemalloc
import warnings
from itertools import pairwise

import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV

from tinynet_sklearn import BPNNRegressor, PerAtomArray, SiteFrames, regressor
from tinynet_sklearn.frames import ColumnSymmetry
from tinynet_sklearn.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WATER, LONE = [8, 1, 1], [8, 1]


def make_atoms(n_structures=24, n_features=4, n_outputs=2, seed=0):
    """Structures of two sizes and two species, whose targets differ in form."""
    rng = np.random.RandomState(seed)
    species = [WATER if i % 2 else LONE for i in range(n_structures)]
    X = [rng.randn(len(s), n_features) for s in species]
    mix = rng.randn(n_features, n_outputs) / 2
    y = [
        np.where(np.array(s)[:, None] == 8, np.sin(x @ mix), 3 + x @ mix)
        for s, x in zip(species, X, strict=True)
    ]
    return PerAtomArray.from_list(X, species=species), y


def make_vectors(n_structures=30, seed=0):
    """Forces -sum_k g(|d_k|) d_k on atoms with 4 neighbours on the axes of a square, in random site frames.

    The columns are the four neighbour vectors; the site group of class 0 is the group of the square.
    """
    rng = np.random.RandomState(seed)
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    mirror = np.diag([1.0, -1, 1])
    ideal = np.array([[1.0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, -1, 0]])
    turns = [np.linalg.matrix_power(quarter, k) @ m for m in (np.eye(3), mirror) for k in range(4)]
    gather = []
    for turn in turns:  # neighbour j of the image is the image of neighbour i
        source = [int(np.argmin(np.linalg.norm(ideal @ turn.T - ideal[j], axis=1))) for j in range(4)]
        gather.append([3 * i + c for i in source for c in range(3)])
    symmetry = ColumnSymmetry((np.array(gather),), (np.array(turns),), np.arange(12).reshape(4, 3))
    n_rows = 2 * n_structures
    displaced = ideal + 0.2 * rng.randn(n_rows, 4, 3)
    force = (displaced * np.exp(-np.linalg.norm(displaced, axis=2, keepdims=True))).sum(axis=1)
    rotations = np.linalg.qr(rng.randn(n_rows, 3, 3))[0]
    frames = SiteFrames(rotations, np.zeros(n_rows, dtype=int), symmetry)
    offsets = np.arange(0, n_rows + 1, 2)
    X = PerAtomArray(displaced.reshape(n_rows, 12), offsets, np.full(n_rows, 8), frames)
    return X, PerAtomArray(frames.to_lab(force), offsets, X.species), force


def skip_model(n_features, n_outputs, species):
    import keras

    inputs = keras.Input((n_features,))
    hidden = keras.layers.Dense(6, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(n_outputs)(keras.layers.Concatenate()([inputs, hidden])))


def dropout_model(n_features, n_outputs, species):
    import keras

    inputs = keras.Input((n_features,))
    hidden = keras.layers.Dropout(0.3)(keras.layers.Dense(6, activation="tanh")(inputs))
    return keras.Model(inputs, keras.layers.Dense(n_outputs)(keras.layers.Dropout(0.1)(hidden)))


def same_weights(a, b):
    return all(
        np.array_equal(p, q) for z in a.weights_ for p, q in zip(a.weights_[z], b.weights_[z], strict=True)
    )


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---------------------------------------------------------------- what goes in and comes out


@pytest.mark.parametrize("networks", ["per-species", "shared"])
def test_learns_and_predicts_per_atom(networks):
    X, y = make_atoms(60)
    X.values[:, 3] = X.species  # a shared network must be able to tell the species apart
    net = BPNNRegressor((8, 8), networks=networks, alpha=1e-5, random_state=0).fit(X, y)
    predicted = net.predict(X)
    assert isinstance(predicted, PerAtomArray)
    assert predicted.frames is None
    assert_array_equal(predicted.offsets, X.offsets)
    assert_array_equal(predicted.species, X.species)
    assert net.score(X, y) > 0.95
    assert_array_equal(net.species_, [1, 8])
    assert (net.n_features_in_, net.n_outputs_, net.target_is_vector_) == (4, 2, False)
    assert set(net.history_) == set(net.weights_) == set(net.layers_) == {1, 8}
    assert len(net.history_[8]["loss"]) <= net.n_iter_ <= 400
    assert (net.atom_networks_[1] is net.atom_networks_[8]) == (networks == "shared")


def test_all_ways_to_write_targets_are_one():
    X, y = make_atoms(n_outputs=1)
    net = BPNNRegressor((3,), max_iter=5, random_state=0)
    column = net.fit(X, y).predict(X).values
    assert_array_equal(clone(net).fit(X, [part.ravel() for part in y]).predict(X).values, column)
    assert_array_equal(clone(net).fit(X, PerAtomArray.from_list(y)).predict(X).values, column)
    assert column.shape == (60, 1)


def test_score_is_r2_over_atoms():
    X, y = make_atoms()
    net = BPNNRegressor((3,), max_iter=20, random_state=0).fit(X, y)
    predicted = net.predict(X).values
    assert net.score(X, y) == r2_score(np.concatenate(y), predicted)
    weight = np.arange(24.0)
    expected = r2_score(np.concatenate(y), predicted, sample_weight=weight[X.structure_of_row])
    assert net.score(X, y, sample_weight=weight) == expected


def test_targets_of_hundreds_of_columns():
    X, _ = make_atoms()
    rng = np.random.RandomState(0)
    y = X.with_values(np.tanh(X.values @ rng.randn(4, 300)))
    assert BPNNRegressor(max_iter=50, random_state=0).fit(X, y).predict(X).shape == (24, 300)


def test_weights_count_like_repetitions_and_zero_like_absence():
    X, y = make_atoms()
    y = PerAtomArray.from_list(y)
    times = np.random.RandomState(0).randint(0, 3, 24)
    repeated = np.repeat(np.arange(24), times)
    net = BPNNRegressor((4,), max_iter=50, random_state=0)
    weighted = clone(net).fit(X, y, sample_weight=times)
    assert same_weights(weighted, clone(net).fit(X[repeated], y[repeated]))


def test_the_order_of_structures_does_not_matter():
    X, y = make_atoms()
    y = PerAtomArray.from_list(y)
    order = np.random.RandomState(0).permutation(24)
    net = BPNNRegressor((4,), max_iter=50, random_state=0)
    assert same_weights(clone(net).fit(X, y), clone(net).fit(X[order], y[order]))


def test_constant_columns_are_dropped_per_species():
    X, y = make_atoms()
    X.values[X.species == 8, 1] = 5.0
    net = BPNNRegressor((3,), max_iter=5, random_state=0).fit(X, y)
    assert_array_equal(net.atom_networks_[8].inputs.columns, [0, 2, 3])
    assert_array_equal(net.atom_networks_[1].inputs.columns, [0, 1, 2, 3])


def test_inputs_are_left_alone_and_may_be_read_only():
    X, y = make_atoms()
    before = X.values.copy()
    X.values.setflags(write=False)
    for part in y:
        part.setflags(write=False)
    BPNNRegressor((3,), max_iter=5, random_state=0).fit(X, y).predict(X)
    assert_array_equal(X.values, before)


# ---------------------------------------------------------------- vectors and symmetry


def test_vectors_are_learned_in_site_frames():
    X, y, _ = make_vectors(100)
    test, y_test, _ = make_vectors(30, seed=1)
    net = BPNNRegressor((16,), alpha=1e-5, random_state=0).fit(X, y)
    assert net.target_is_vector_
    assert len(set(net.atom_networks_[8].targets.scale)) == 1
    assert net.score(test, y_test) > 0.95
    blind = clone(net).set_params(target="scalar").fit(X, y)
    assert not blind.target_is_vector_
    assert blind.score(test, y_test) < 0.5


def test_targets_that_carry_frames_are_written_in_them():
    X, y, force = make_vectors()
    net = BPNNRegressor((4,), max_iter=3, random_state=0)
    framed = X.with_values(force)
    assert_allclose(clone(net).fit(X, framed).predict(X).values, net.fit(X, y).predict(X).values, atol=1e-9)


def test_predictions_turn_with_the_frames():
    X, y, _ = make_vectors()
    net = BPNNRegressor((4,), max_iter=20, random_state=0).fit(X, y)
    rotation = np.linalg.qr(np.random.RandomState(3).randn(3, 3))[0]
    turned = SiteFrames(X.frames.rotations @ rotation.T, X.frames.sites, X.frames.symmetry)
    X_turned = PerAtomArray(X.values, X.offsets, X.species, turned)
    assert_allclose(net.predict(X_turned).values, net.predict(X).values @ rotation.T, atol=1e-12)


def test_symmetry_average_is_exactly_covariant():
    X, y, _ = make_vectors()
    net = BPNNRegressor((4,), max_iter=20, random_state=0).fit(X, y)
    lab = net.predict(X).values
    in_frame = X.frames.to_frame(lab)
    symmetry = X.frames.symmetry
    for op, rotation in enumerate(symmetry.rotations[0]):
        image = X.with_values(symmetry.apply(X.values, 0, op), keep_symmetry=True)
        assert_allclose(X.frames.to_frame(net.predict(image).values), in_frame @ rotation.T, atol=1e-12)


def test_symmetry_copies_are_the_fit_to_repeated_rows():
    X, y, force = make_vectors()
    symmetry = X.frames.symmetry
    images = [symmetry.apply(X.values, 0, op) for op in range(8)]
    forces = [force @ rotation.T for rotation in symmetry.rotations[0]]
    rows = np.concatenate(images)
    plain = PerAtomArray(rows, np.arange(len(rows) + 1), np.full(len(rows), 8))
    settings = {"hidden_layer_sizes": (4,), "max_iter": 30, "target": "vector", "random_state": 0}
    by_hand = BPNNRegressor(**settings).fit(plain, plain.with_values(np.concatenate(forces)))
    copies = BPNNRegressor(**settings, symmetry_copies="all", symmetry_average=False).fit(X, y)
    for a, b in zip(copies.weights_[8], by_hand.weights_[8], strict=True):
        assert_allclose(a, b, atol=1e-2)  # the frames round the forces, and training amplifies it
    assert_allclose(copies.atom_networks_[8].inputs.scale, by_hand.atom_networks_[8].inputs.scale)
    assert_allclose(copies.loss_, by_hand.loss_, rtol=1e-3)


def test_symmetry_copies_generalise_better():
    X, y, _ = make_vectors(12)
    test, y_test, _ = make_vectors(60, seed=1)
    scores = [
        BPNNRegressor((8,), symmetry_copies=n, symmetry_average=False, random_state=0)
        .fit(X, y)
        .score(test, y_test)
        for n in (1, 8)
    ]
    assert scores[1] > scores[0]
    assert (
        BPNNRegressor((8,), random_state=0).fit(X, y).score(test, y_test) > scores[1]
    )  # and an average best


def test_more_copies_than_operations_are_all_operations():
    X, y, _ = make_vectors()
    nets = [
        BPNNRegressor((3,), max_iter=5, symmetry_copies=n, symmetry_average=False, random_state=0).fit(X, y)
        for n in (8, 99, "all")
    ]
    assert same_weights(nets[0], nets[1])
    assert same_weights(nets[0], nets[2])


def test_lost_site_groups_are_warned_of():
    X, y, _ = make_vectors(5)
    net = BPNNRegressor((3,), max_iter=2, random_state=0)
    lost = X.with_values(X.values)
    beginning = (
        "X carries site frames but no site groups: a step before the regressor scaled, mixed, selected or "
        "joined columns. "
    )
    middle = (
        ", which often costs accuracy. Drop that step if it is a scaler (the regressor scales its inputs "
        "itself), or set "
    )
    for average, consequence, silence in (
        (
            "auto",
            "symmetry_average='auto' therefore trains networks that do not obey the site symmetry",
            "symmetry_average=False and symmetry_copies=1",
        ),
        (
            False,
            "symmetry_copies='auto' therefore trains on every row once instead of on 8 symmetry copies of it",
            "symmetry_copies=1",
        ),
    ):
        with pytest.warns(UserWarning, match="site groups") as caught:
            net.set_params(symmetry_average=average).fit(lost, y)
        assert [str(w.message) for w in caught if w.category is UserWarning] == [
            f"{beginning}{consequence}{middle}{silence} to silence this warning."
        ]
        assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="site groups"):
        clone(net).set_params(target="scalar").fit(lost, y)
    # nothing to lose: asked for one copy, site groups at hand, no frames at all
    once = clone(net).set_params(symmetry_copies=1, symmetry_average=False).fit(lost, y)
    assert same_weights(once, net)
    clone(net).fit(X, y)
    clone(net).fit(PerAtomArray(X.values, X.offsets, X.species), y)


# ---------------------------------------------------------------- seeds, workers, state

SETTINGS = [
    {},
    {"dtype": "float32", "early_stopping": True},
    {"solver": "adam", "early_stopping": True},
    {"build_fn": skip_model},
    {"build_fn": skip_model, "solver": "adam"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_equal_seeds_give_equal_fits_for_any_number_of_workers(settings):
    X, y = make_atoms()
    nets = [
        BPNNRegressor((4,), max_iter=8, random_state=3, n_jobs=n_jobs, **settings).fit(X, y)
        for n_jobs in (1, 1, 2)
    ]
    assert same_weights(nets[0], nets[1])
    assert same_weights(nets[0], nets[2])
    other = clone(nets[0]).set_params(random_state=4).fit(X, y)
    assert not same_weights(nets[0], other)


def test_layers_that_draw_at_random_do_so_alike_for_any_number_of_workers():
    rng = np.random.RandomState(0)
    species = [1, 6, 7, 8, 9, 16]
    X = PerAtomArray.from_list([rng.randn(6, 4) for _ in range(6)], species=[species] * 6)
    y = X.with_values(np.tanh(X.values))
    net = BPNNRegressor(build_fn=dropout_model, solver="adam", max_iter=4, random_state=3, n_jobs=1)
    alone = clone(net).fit(X, y)
    state = random.getstate()
    for _ in range(3):
        assert same_weights(alone, clone(net).set_params(n_jobs=3).fit(X, y))
        assert random.getstate() == state


def test_worker_processes_give_the_same_fit():
    X, y = make_atoms()
    net = BPNNRegressor((4,), max_iter=8, random_state=3, n_jobs=2)
    with parallel_config(backend="loky"):
        processes = clone(net).fit(X, y)
    assert same_weights(net.fit(X, y), processes)


@pytest.mark.parametrize("settings", SETTINGS)
def test_global_generators_are_left_alone(settings):
    X, y = make_atoms()
    state = random.getstate()
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what is tested
    BPNNRegressor((4,), max_iter=2, random_state=0, **settings).fit(X, y)
    assert random.getstate() == state
    assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


@pytest.mark.parametrize("settings", SETTINGS)
def test_keras_models_and_pickles_reproduce_the_predictions(settings):
    X, y = make_atoms()
    net = BPNNRegressor((4,), max_iter=5, random_state=0, **settings).fit(X, y)
    expected = net.predict(X).values
    tolerance = 1e-12 if net.atom_networks_[8].network.dtype == np.float64 else 1e-5
    assert set(net.networks_) == {1, 8}
    assert net.networks_ is net.networks_
    for z, model in net.networks_.items():
        part = net.atom_networks_[z]
        rows = X.species == z
        scaled = model(part.inputs.apply(X.values[rows], part.network.dtype)).numpy()
        assert_allclose(part.targets.invert(scaled), expected[rows], atol=tolerance)
    again = pickle.loads(pickle.dumps(net))
    assert again._keras_models is None
    assert_array_equal(again.predict(X).values, expected)


def test_prediction_needs_no_tensorflow(tmp_path):
    X, y = make_atoms()
    nets = {
        "adam": BPNNRegressor((4,), max_iter=2, solver="adam", random_state=0).fit(X, y),
        "lbfgs": BPNNRegressor((4,), max_iter=2, random_state=0).fit(X, y),
    }
    path = tmp_path / "nets.pickle"
    path.write_bytes(pickle.dumps((nets, X, y)))
    code = (
        "import pickle, sys\n"
        f"nets, X, y = pickle.load(open({str(path)!r}, 'rb'))\n"
        "for net in nets.values():\n"
        "    net.predict(X)\n"
        "    net.score(X, y)\n"
        "nets['lbfgs'].fit(X, y)\n"
        "sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False)
    assert done.returncode == 0


def test_warm_start_goes_on_where_it_stopped():
    X, y = make_atoms()
    net = BPNNRegressor((4,), max_iter=10, warm_start=True, random_state=0).fit(X, y)
    loss, first_loss = net.loss_, net.history_[8]["loss"][0]
    scaling = net.atom_networks_[8].inputs
    net.fit(X, y)
    assert net.history_[8]["loss"][0] < first_loss
    assert net.loss_ < loss
    assert net.atom_networks_[8].inputs is scaling


def as_trained(net, X, y):
    """What a candidate of a search was trained with, read off its weights and its history."""
    arrays = net.weights_[8]
    return {
        "n_iter": net.n_iter_,
        "n_losses": len(net.history_[8]["loss"]),
        "units": arrays[0].shape[1] if len(arrays) > 2 else 0,
        "layers": len(arrays) // 2,
        "decay": sum(np.square(w).sum() for w in arrays[::2]),
        "averaged": net.n_operations_ > 1,
        "first_loss": net.history_[8]["loss"][0],
        "loss": net.loss_,
        "score": net.score(X, y),
    }


def test_no_parameter_is_lost_on_the_way_to_a_candidate():
    """The wrappers of Keras once dropped the arguments of fit on cloning: all candidates trained alike."""
    X, y, _ = make_vectors(16)
    net = BPNNRegressor((3,), max_iter=6, tol=0.0, random_state=0)
    grid = [
        {"max_iter": [1, 7]},
        {"solver": ["varpro", "lbfgs", "adam"]},
        {"alpha": [0.0, 1.0]},
        {"hidden_layer_sizes": [(), (5,), (4, 2)]},
        {"symmetry_average": [True, False]},
        {"solver": ["varpro"], "symmetry_penalty": [0.0, 1.0]},
    ]
    search = GridSearchCV(net, grid, scoring=as_trained, refit="score", cv=2, error_score="raise").fit(X, y)
    found = {
        name: search.cv_results_[f"split0_test_{name}"] for name in as_trained(search.best_estimator_, X, y)
    }
    test, train = np.arange(8), np.arange(8, 16)
    for number, params in enumerate(search.cv_results_["params"]):
        alone = clone(net).set_params(**params).fit(X[train], y[train])
        expected = as_trained(alone, X[test], y[test])
        assert {name: values[number] for name, values in found.items()} == expected
    assert found["n_iter"][:2].tolist() == found["n_losses"][:2].tolist() == [1, 7]
    assert len(set(found["first_loss"][2:5])) == 3
    assert found["decay"][6] < 0.5 * found["decay"][5]
    assert found["units"][7:10].tolist() == [0, 5, 4]
    assert found["layers"][7:10].tolist() == [1, 2, 3]
    assert found["averaged"].tolist() == [True] * 11 + [False, True, True]
    assert found["first_loss"][12] < found["first_loss"][13]
    best = clone(net).set_params(**search.best_params_).fit(X, y)
    assert same_weights(search.best_estimator_, best)


def test_grid_search_trains_candidates_with_their_own_parameters():
    X, y = make_atoms()
    y = PerAtomArray.from_list(y)
    net = BPNNRegressor((3,), random_state=0, early_stopping=True)
    assert clone(net).get_params() == net.get_params()
    search = GridSearchCV(net, {"max_iter": [1, 7], "hidden_layer_sizes": [(2,), (3,)]}, cv=2, n_jobs=2).fit(
        X, y
    )
    for params in search.cv_results_["params"]:
        trained = clone(net).set_params(**params).fit(X, y)
        assert trained.n_iter_ == params["max_iter"]
        assert trained.layers_[8][0]["units"] == params["hidden_layer_sizes"][0]
    assert search.best_params_["max_iter"] == 7


def test_published_recipe():
    params = BPNNRegressor.published(random_state=1, max_iter=7).get_params()
    expected = {
        "hidden_layer_sizes": (16, 32), "activation": "tanh", "networks": "shared", "solver": "adam",
        "alpha": 0.0, "batch_size": 16, "learning_rate_init": 1e-4, "max_iter": 7, "early_stopping": True,
        "n_iter_no_change": None, "scaler": "minmax", "target_scaler": None, "random_state": 1,
    }  # fmt: skip
    assert {name: params[name] for name in expected} == expected
    X, y = make_atoms()
    net = BPNNRegressor.published(random_state=1, max_iter=7).fit(X, y)
    assert len(net.history_[8]["validation"]) == 7
    assert_array_equal(net.atom_networks_[8].targets.scale, 1)


def test_memory_does_not_grow_over_fits():
    X, y = make_atoms()
    net = BPNNRegressor((4,), max_iter=3, random_state=0)
    tracemalloc.start()
    try:
        for _ in range(5):
            clone(net).fit(X, y)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            clone(net).fit(X, y)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000


@pytest.mark.parametrize("settings", SETTINGS[2:])
def test_graphs_are_released(settings):
    """Functions that TensorFlow has registered are counted: they are what leaks when a graph stays alive."""
    from tensorflow.python.eager import context

    X, y = make_atoms(8)
    counts = []
    for _ in range(4):
        BPNNRegressor((4,), max_iter=2, random_state=0, **settings).fit(X, y)
        gc.collect()
        counts.append(len(context.context().list_function_names()))
    assert counts[1] == counts[2] == counts[3]


# ---------------------------------------------------------------- stopping


def test_early_stopping_holds_out_whole_structures(monkeypatch):
    X, y = make_atoms()
    seen = []
    prepare = regressor.prepare_task

    def watched(members, samples, *others):
        seen.append(samples)
        return prepare(members, samples, *others)

    monkeypatch.setattr(regressor, "prepare_task", watched)
    net = BPNNRegressor((8,), early_stopping=True, validation_fraction=0.25, n_iter_no_change=5, alpha=0.0)
    net.set_params(random_state=0, max_iter=300).fit(X, y)
    samples = seen[0]
    by_structure = np.array([samples.held_out[a:b].mean() for a, b in pairwise(samples.atoms.offsets)])
    assert_array_equal(np.sort(by_structure), [0] * 18 + [1] * 6)
    for z in (1, 8):
        validation = net.history_[z]["validation"]
        assert len(validation) == len(net.history_[z]["loss"]) == int(np.argmin(validation)) + 1 + 5


def test_interrupt_keeps_the_best_weights(monkeypatch):
    X, y = make_atoms()
    step = Recorder.step

    def interrupting(self, *args):
        stop = step(self, *args)
        if self.label == "O" and self.n_iter == 4:
            raise KeyboardInterrupt
        return stop

    monkeypatch.setattr(Recorder, "step", interrupting)
    net = BPNNRegressor((4,), max_iter=6, random_state=0)
    with pytest.warns(UserWarning, match="interrupted") as caught:
        net.fit(X, y)
    assert [str(w.message) for w in caught if w.category is UserWarning] == [
        "training was interrupted; the best weights so far are kept (H after 6 iterations; O after 4 "
        "iterations). A network without iterations has its random initial weights."
    ]
    monkeypatch.undo()
    assert len(net.history_[8]["loss"]) == 4
    four = clone(net).set_params(max_iter=4).fit(X, y)
    assert_array_equal(net.weights_[8][0], four.weights_[8][0])
    assert net.predict(X).shape == (24, 2)


def test_interrupt_before_the_first_step_is_an_interrupt(monkeypatch):
    def interrupting(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "step", interrupting)
    with pytest.raises(KeyboardInterrupt):
        BPNNRegressor((4,), random_state=0).fit(*make_atoms())


def test_the_iteration_limit_warns_unless_validation_decides():
    X, y = make_atoms()
    with pytest.warns(ConvergenceWarning) as caught:
        BPNNRegressor((4,), max_iter=2, random_state=0).fit(X, y)
    assert str(caught[0].message) == (
        "max_iter=2 was reached while the training loss of H, O was still falling fast, more than 5% over "
        "the last tenth of the iterations. Increase max_iter, or let early_stopping=True decide when to stop."
    )
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BPNNRegressor((4,), max_iter=2, early_stopping=True, random_state=0).fit(X, y)


def test_a_budget_that_ends_where_the_loss_is_nearly_flat_is_no_warning():
    X, y = make_atoms()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = BPNNRegressor((4,), max_iter=40, alpha=0.1, tol=0.0, random_state=0).fit(X, y)
    assert net.n_iter_ == 40


# ---------------------------------------------------------------- what is refused


def fit(X, y, **settings):
    return lambda: BPNNRegressor((3,), max_iter=2, random_state=0, **settings).fit(X, y)


def test_targets_that_do_not_fit_the_atoms():
    X, y = make_atoms(4)
    assert message_of(ValueError, fit(X, y[:3])) == (
        "y must have one part per structure of X; got 3 for 4 structures."
    )
    assert message_of(ValueError, fit(X, [*y[:3], y[3][:2]])) == (
        "y must have one row per atom of X; got 2 rows for the 3 atoms of structure 3."
    )


MUST = "y must hold one (n_atoms, k) array per structure, in a list or a PerAtomArray; got "
FLAT = (
    "Meta-estimators that flatten targets (TransformedTargetRegressor, Bagging, Voting, Stacking) are not "
    "supported."
)
ENERGIES = (
    "one number per structure. Targets here are per atom; energies of structures are learned by "
    "BPNNPotential."
)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(4), f"{MUST}ndarray of shape (4,), {ENERGIES}"),
        (np.zeros((4, 1)), f"{MUST}ndarray of shape (4, 1), {ENERGIES}"),
        ([0.0, np.float64(1), 2, 3], f"{MUST}a list of 4 numbers, {ENERGIES}"),
        (None, f"{MUST}None. Pass a list of arrays. {FLAT}"),
        ({"forces": 1}, f"{MUST}dict. Pass a list of arrays. {FLAT}"),
        (
            np.zeros((10, 2)),
            f"{MUST}ndarray of shape (10, 2). Split rows of all atoms with PerAtomArray(y, X.offsets, "
            f"X.species). {FLAT}",
        ),
        (
            np.array([None] * 4),
            f"{MUST}ndarray of shape (4,). Pass a list of arrays. {FLAT}",
        ),
        (
            [np.zeros((2, 3)), None, [[1.0], [1.0, 2.0]], np.zeros((3, 3))],
            "y must hold one (n_atoms, k) array of real numbers per structure; got NoneType for structure 1; "
            "list for structure 2. Leave these structures out or repair them.",
        ),
    ],
)
def test_what_is_no_target_of_atoms(y, message):
    X, _ = make_atoms(4)
    assert message_of(TypeError, fit(X, y)) == message


def test_targets_of_mixed_widths_name_the_odd_ones():
    X, _ = make_atoms(12)
    y = [np.zeros((n, 3)) for n in X.counts]
    y[0], y[5] = np.zeros((2, 1)), np.zeros(3)
    assert message_of(ValueError, fit(X, y)) == (
        "y must all have the shape (n_atoms, 3); got (2, 1) for structure 0; (3,) for structure 5. Give all "
        "structures the same number of columns."
    )
    assert message_of(ValueError, fit(X, [])) == (
        "y must hold one (n_atoms, k) array per structure; got an empty list."
    )


def test_zero_workers():
    X, y = make_atoms(4)
    assert message_of(ValueError, fit(X, y, n_jobs=0)) == (
        "The 'n_jobs' parameter of BPNNRegressor must be None, an int in the range (-inf, -1] or an int in "
        "the range [1, inf). Got 0 instead."
    )


def test_numbers_that_are_not_finite():
    X, y = make_atoms(4)
    y[1][2, 1] = np.nan
    assert message_of(ValueError, fit(X, y)) == (
        "y must be finite; got nan in column 1 of atom 2 (H) of structure 1. Leave these structures out or "
        "repair them."
    )
    X, y = make_atoms(4)
    X.values[[0, 2, 5, 7, 9], 0] = np.inf
    assert message_of(ValueError, fit(X, y)) == (
        "X must be finite; got inf in column 0 of atom 0 (O) of structure 0; inf in column 0 of atom 0 "
        "(O) of "
        "structure 1; inf in column 0 of atom 0 (O) of structure 2; and 2 more. Leave these structures "
        "out or "
        "repair them."
    )


def test_plain_features_with_targets_per_atom():
    X, y = make_atoms(4)
    expected = (
        "X must be a PerAtomArray where y is given per atom; got ndarray of shape (10, 4) for X. A step "
        "before the "
        "regressor turned the features into a plain table: wrap it, as in PerAtom(StandardScaler())."
    )
    assert message_of(TypeError, fit(X.values, y)) == expected
    assert message_of(TypeError, fit(X.values, PerAtomArray.from_list(y))) == expected


def test_structures_in_place_of_features():
    from ase.build import molecule

    frames = [molecule("H2O")] * 2
    expected = (
        "X must be features, a PerAtomArray or a 2-D array; got structures (list). Put a "
        "CycleMomentFeaturizer "
        "before the regressor in a Pipeline."
    )
    assert message_of(TypeError, fit(frames, [np.zeros((3, 3))] * 2)) == expected
    assert message_of(TypeError, fit(frames[0], np.zeros((3, 3)))) == expected.replace("list", "Atoms")


def test_prediction_of_what_was_not_fitted():
    X, y = make_atoms(4)
    net = BPNNRegressor((3,), max_iter=2, random_state=0)
    with pytest.raises(NotFittedError):
        net.predict(X)
    net.fit(X, y)
    other = PerAtomArray(X.values, X.offsets, np.where(X.species == 8, 16, X.species))
    assert message_of(ValueError, lambda: net.predict(other)) == (
        "X must hold species that were seen in fit (H, O); got S. Fit on structures that contain them."
    )
    assert message_of(ValueError, lambda: net.predict(X.with_values(X.values[:, :3]))) == (
        "X has 3 features, but BPNNRegressor is expecting 4 features as input."
    )
    assert message_of(ValueError, lambda: net.predict(X[:0])) == (
        "X must hold at least one atom; got 0 structures with 0 atoms."
    )


def test_frames_missing_in_predict():
    X, y, _ = make_vectors(5)
    net = BPNNRegressor((3,), max_iter=2, random_state=0).fit(X, y)
    assert message_of(ValueError, lambda: net.predict(PerAtomArray(X.values, X.offsets, X.species))) == (
        "X must carry site frames, as it did in fit, to turn predicted vectors back to the laboratory; got "
        "features without frames. Make them with the featurizer that made those for fit."
    )


@pytest.mark.parametrize(
    ("settings", "asked_by"),
    [
        ({"symmetry_copies": 2}, "symmetry_copies=2"),
        ({"symmetry_copies": "all"}, "symmetry_copies='all'"),
        ({"symmetry_average": True}, "symmetry_average=True"),
    ],
)
def test_symmetry_where_there_is_none(settings, asked_by):
    X, y, _ = make_vectors(5)
    remedy = "Use CycleMomentFeaturizer(frame='site') with no step behind it that mixes or selects columns."
    assert message_of(ValueError, fit(X.with_values(X.values), y, **settings)) == (
        f"{asked_by} needs features on which the site groups act; X carries site frames but no site "
        f"groups. {remedy}"
    )
    assert message_of(ValueError, fit(X.values, y.values, **settings)) == (
        f"{asked_by} needs features on which the site groups act; X carries no site frames. {remedy}"
    )


def test_vectors_of_another_width():
    assert message_of(ValueError, fit(*make_atoms(4), target="vector")) == (
        "target='vector' needs targets with 3 columns, x, y and z; got 2. Use target='scalar'."
    )


def test_hidden_layers_that_are_none():
    X, y = make_atoms(4)
    assert message_of(ValueError, lambda: BPNNRegressor((3, 0)).fit(X, y)) == (
        "hidden_layer_sizes must be positive integers, one per hidden layer; got (3, 0). Pass an empty "
        "tuple for a "
        "linear model."
    )


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(10), "sample_weight must hold one weight for each of the 4 structures; got shape (10,)."),
        (
            [1, -1, np.nan, 1],
            "sample_weight must be finite and not negative; got -1.0 for structure 1; nan for structure 2.",
        ),
        (np.zeros(4), "sample_weight must be positive for at least one structure; got zeros only."),
    ],
)
def test_weights(weight, message):
    X, y = make_atoms(4)
    assert message_of(ValueError, lambda: BPNNRegressor().fit(X, y, sample_weight=weight)) == message


def test_nothing_left_to_train_on():
    X, y = make_atoms(1)
    assert message_of(ValueError, fit(X, y, early_stopping=True)) == (
        "early_stopping=True must leave structures to train on; validation_fraction=0.1 holds out 1 of 1. "
        "Pass "
        "more structures or early_stopping=False."
    )
    X = PerAtomArray.from_list([np.ones((1, 2)), np.ones((1, 2))], species=[[8], [1]])
    held_out = (
        "O" if "O" in message_of(ValueError, fit(X, [np.ones((1, 1))] * 2, early_stopping=True)) else "H"
    )
    assert message_of(ValueError, fit(X, [np.ones((1, 1))] * 2, early_stopping=True)) == (
        "early_stopping=True must leave structures of every species to train on; all 1 atoms of "
        f"{held_out} were "
        "drawn for validation. Pass more of them, or another random_state."
    )


def test_warm_start_with_other_shapes():
    X, y = make_atoms(6)
    net = BPNNRegressor((3,), max_iter=2, warm_start=True, random_state=0).fit(X, y)
    net.set_params(hidden_layer_sizes=(4,))
    assert message_of(ValueError, lambda: net.fit(X, y)) == (
        "warm_start=True continues the network of H with hidden_layer_sizes=(3,); got (4,). Keep the "
        "sizes, or set "
        "warm_start=False to begin anew."
    )
    net.set_params(hidden_layer_sizes=(3,))
    assert message_of(ValueError, lambda: net.fit(X, [p[:, :1] for p in y])) == (
        "warm_start=True continues from 4 features and 2 target columns; got 4 and 1. Set "
        "warm_start=False to "
        "begin anew."
    )


def test_weights_that_explode():
    X, y = make_atoms(6)
    net = BPNNRegressor((3,), "linear", solver="adam", learning_rate_init=1e300, max_iter=20, random_state=0)
    assert message_of(ValueError, lambda: net.fit(X, y)) == (
        "training must keep losses, slopes and weights finite; they were not for H after 1 iterations "
        "(largest number 3.95, scaled 2.01, in column 0 of y for atom 1 (H) of structure 3); O after 1 "
        "iterations (largest number -1.42, scaled -1.85, in column 1 of X for atom 0 (O) of structure 4). "
        "Lower learning_rate_init, leave the structure out or repair it if that number is wrong, or let the "
        "regressor scale inputs and targets (scaler, target_scaler)."
    )
