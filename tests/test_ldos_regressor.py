"""`BPNNRegressor` on densities of states: components, cumulative errors, links, and what it refuses."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score

from tinynet_sklearn import (
    LDOS,
    BPNNRegressor,
    CommitteeRegressor,
    EnergyGrid,
    PerAtomArray,
    SiteFrames,
    load_model,
    recorder,
    save_model,
)
from tinynet_sklearn.frames import ColumnSymmetry
from tinynet_sklearn.ldos_metrics import ldos_r2
from tinynet_sklearn.recorder import Recorder
from tinynet_sklearn.target_maps import fit_linear_targets

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GRID = EnergyGrid(np.linspace(-3.0, 3.0, 25), width=0.2, zero="vbm")

#: All ways to learn curves.
WAYS = {
    "plain": {},
    "components": {"n_components": 4},
    "fraction": {"n_components": 0.95},
    "cumulative": {"cumulative_weight": 3.0},
    "components, cumulative": {"n_components": 4, "cumulative_weight": 3.0},
    "positive": {"output": "positive"},
    "normalized": {"output": "normalized"},
    "normalized, cumulative": {"output": "normalized", "cumulative_weight": 3.0},
}


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def way(request):
    return request.param


def make(n_structures=16, seed=0, empty=0):
    """Structures of two species, whose curves are two peaks that move; with columns that are empty."""
    rng = np.random.RandomState(seed)
    species = [[8, 1, 1] if i % 2 else [8, 1] for i in range(n_structures)]
    X = PerAtomArray.from_list([rng.randn(len(s), 3) for s in species], species=species)
    height = np.where(X.species == 8, 2.0, 1.0)[:, None]
    first = np.exp(-2 * np.square(GRID.energies + 1 - 0.3 * np.tanh(X.values[:, :1])))
    second = np.exp(-2 * np.square(GRID.energies - 1 - 0.3 * np.sin(X.values[:, 1:2])))
    curves = height * first + (1.0 + 0.2 * np.tanh(X.values[:, 2:])) * second
    curves[:, :empty] = 1e-9 * rng.rand(len(curves), empty)
    return X, LDOS(curves, X.offsets, X.species, grid=GRID)


def regressor(**settings):
    given = {"hidden_layer_sizes": (4,), "max_iter": 12, "alpha": 1e-4, "random_state": 0}
    return BPNNRegressor(**{**given, **settings})


def in_sites(n_structures=14, seed=0):
    """Atoms on a mirror plane: two columns that it exchanges, and one that it leaves."""
    rng = np.random.RandomState(seed)
    rows = rng.randn(2 * n_structures, 3)
    mirror = np.diag([1.0, -1.0, 1.0])
    symmetry = ColumnSymmetry(
        (np.array([[0, 1, 2], [1, 0, 2]]),), (np.stack([np.eye(3), mirror]),), np.empty((0, 3), dtype=int)
    )
    frames = SiteFrames(np.tile(np.eye(3), (len(rows), 1, 1)), np.zeros(len(rows), dtype=int), symmetry)
    offsets = np.arange(0, len(rows) + 1, 2)
    X = PerAtomArray(rows, offsets, np.tile([8, 1], n_structures), frames)
    place = 0.4 * np.tanh(rows[:, :1] * rows[:, 1:2])
    curves = (1.0 + 0.1 * np.tanh(rows[:, 2:])) * np.exp(-np.square(GRID.energies - place))
    return X, LDOS(curves, offsets, X.species, grid=GRID)


def same_weights(a, b):
    return all(
        np.array_equal(p, q) for z in a.weights_ for p, q in zip(a.weights_[z], b.weights_[z], strict=True)
    )


def message_of(call, kind=ValueError):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


# ---- What comes out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("networks", ["per-species", "shared"])
def test_curves_on_the_grid_of_the_fit(way, networks):
    if (networks, way.get("output")) == ("shared", "normalized"):
        pytest.skip("one number of states for two species is refused")
    X, y = make(40)
    X.values[:, 2] += X.species  # a shared network must be able to tell the species apart
    net = regressor(networks=networks, max_iter=60, **way).fit(X, y)
    new, expected = make(10, seed=1)
    new.values[:, 2] += new.species
    predicted = net.predict(new)
    assert isinstance(predicted, LDOS)
    assert predicted.grid.difference(GRID) is None
    assert predicted.grid.zero == "vbm"
    assert predicted.shape == (10, 25)
    assert predicted.values.dtype == np.float64
    assert_array_equal(predicted.offsets, new.offsets)
    assert_array_equal(predicted.species, new.species)
    assert np.isnan(predicted.levels.fermi).all()
    assert predicted.reference_total is None
    assert net.score(new, expected) > 0.8
    assert (net.n_outputs_, net.target_grid_, net.target_is_vector_) == (25, GRID, False)
    assert_allclose(net.predict(new[3:4]).values, predicted[3], rtol=1e-12, atol=1e-14)


def test_what_outputs_obey():
    X, y = make()
    new, _ = make(30, seed=1)
    new.values[:] *= 5  # far from what the training has seen
    for cumulative_weight in (0.0, 3.0):
        net = regressor(output="positive", cumulative_weight=cumulative_weight).fit(X, y)
        assert (net.predict(new).values >= 0).all()
        net.set_params(output="normalized").fit(X, y)
        predicted = net.predict(new)
        assert (predicted.values >= 0).all()
        for z in (1, 8):
            count = y.integrals()[y.species == z].mean()
            assert_allclose(predicted.integrals()[predicted.species == z], count, rtol=1e-12)
    assert (regressor().fit(X, y).predict(new).values < 0).any()


def test_the_count_is_that_of_the_training_atoms():
    X, y = make()
    weight = np.random.RandomState(0).uniform(0.2, 2.0, len(X))
    weight[:3] = 0
    net = regressor(output="normalized").fit(X, y, sample_weight=weight)
    rows, per_row = y.species == 8, weight[y.structure_of_row]
    count = np.average(y.integrals()[rows], weights=per_row[rows])
    assert_allclose(net.predict(X).integrals()[rows], count, rtol=1e-12)


def test_explained_variance():
    X, y = make()
    net = regressor(n_components=3).fit(X, y)
    assert set(net.explained_variance_ratio_) == {1, 8}
    for z, shares in net.explained_variance_ratio_.items():
        expected = fit_linear_targets(
            y.values[y.species == z],
            None,
            n_components=3,
            cumulative_weight=0.0,
            per_column=False,
            grid=GRID,
        ).explained
        assert_allclose(shares, expected, rtol=1e-9)
        assert len(net.weights_[z][-1]) == 3
    net.set_params(n_components=0.9).fit(X, y)
    for shares in net.explained_variance_ratio_.values():
        assert shares.sum() >= 0.9 > shares[:-1].sum()
    for settings in ({}, {"cumulative_weight": 1.0}, {"output": "positive"}):
        net.set_params(**{"n_components": None, **settings}).fit(X, y)
        assert net.explained_variance_ratio_ == {}


def test_all_components_are_all_columns():
    """Only the basis differs, and how much each column decays."""
    X, y = make(40)
    settings = {"max_iter": 150, "alpha": 0.0, "solver": "varpro"}
    plain, rotated = (regressor(n_components=n, **settings).fit(X, y) for n in (None, 25))
    assert rotated.score(X, y) == pytest.approx(plain.score(X, y), abs=2e-3)


def test_the_integral_is_learned_better_where_it_counts():
    X, y = make(40)

    def cumulative_error(net):
        error = net.predict(X).values - y.values
        return np.square(GRID.cumulative(error)).mean()

    settings = {"hidden_layer_sizes": (2,), "max_iter": 80}
    plain, integrating = (regressor(cumulative_weight=w, **settings).fit(X, y) for w in (0.0, 30.0))
    assert cumulative_error(integrating) < 0.8 * cumulative_error(plain)
    assert integrating.score(X, y) < plain.score(X, y)


def test_empty_columns_are_not_blown_up():
    """Where curves are flat there is only noise to learn: "auto" gives all columns of an LDOS one scale."""
    X, y = make(empty=6)
    rows = PerAtomArray(y.values, y.offsets, y.species)
    for settings in ({}, {"n_components": 5}):
        auto, common = (regressor(target_scaler=how, **settings).fit(X, y) for how in ("auto", "common"))
        assert same_weights(auto, common)
        assert np.abs(auto.predict(X).values[:, :6]).max() < 1e-7
    assert len(set(regressor().fit(X, y).atom_networks_[8].targets.scale)) == 1
    of_columns = regressor().fit(X, rows).atom_networks_[8].targets.scale
    assert of_columns.max() > 1e6 * of_columns.min()
    standard = regressor(n_components=5, target_scaler="standard").fit(X, y)
    assert same_weights(standard, regressor(n_components=5).fit(X, rows))
    assert not same_weights(standard, regressor(n_components=5).fit(X, y))
    # the same curves without energies: columns are one apart
    common = regressor(cumulative_weight=2.0).fit(X, y.on_grid(EnergyGrid(np.arange(25.0))))
    assert same_weights(common, regressor(cumulative_weight=2.0).fit(X, rows))


def test_three_energies_are_no_vector():
    X, y = in_sites()
    few = y.window(-0.3, 0.3)
    assert few.shape[1] == 3
    net = regressor(max_iter=3).fit(X, few)
    assert not net.target_is_vector_
    assert isinstance(net.predict(X), LDOS)
    assert message_of(lambda: regressor(target="vector").fit(X, few)) == (
        "target='vector' is for vectors; got an LDOS. Use target='scalar' or 'auto'."
    )


def test_score():
    X, y = make()
    net = regressor().fit(X, y)
    assert net.score(X, y) == ldos_r2(y, net.predict(X))
    assert net.score(X, list(y)) == pytest.approx(net.score(X, y), rel=1e-12)
    assert net.score(X, y, np.ones(len(X))) == pytest.approx(net.score(X, y), rel=1e-12)
    times = np.random.RandomState(0).randint(0, 3, len(X))
    repeated = np.repeat(np.arange(len(X)), times)
    assert net.score(X, y, times) == pytest.approx(net.score(X[repeated], y[repeated]), rel=1e-10)
    shifted = y.on_grid(EnergyGrid(GRID.energies + 7, GRID.width, GRID.zero))
    assert message_of(lambda: net.score(X, shifted)) == (
        "y_true and y_pred must be on one grid of energies; got 25 energies from 4 to 10 eV and 25 from -3 "
        "to 3 eV. Bring them together with aligned, resampled or broadened."
    )


# ---- In the hands of scikit-learn --------------------------------------------------------------------------


def test_candidates_are_trained_with_their_own_parameters():
    X, y = make()
    net = regressor(max_iter=4)
    assert clone(net).get_params() == net.get_params()
    search = GridSearchCV(net, {"n_components": [1, 2, 0.99, None]}, cv=KFold(2), error_score="raise")
    search.fit(X, y)
    for number, params in enumerate(search.cv_results_["params"]):
        alone = clone(net).set_params(**params).fit(X[8:], y[8:])
        assert search.cv_results_["split0_test_score"][number] == alone.score(X[:8], y[:8])
    assert search.best_params_["n_components"] != 1
    assert isinstance(search.predict(X), LDOS)
    scores = cross_val_score(net, X, y, cv=KFold(2))
    assert scores[0] == search.cv_results_["split0_test_score"][3]


def test_predictions_of_a_cross_validation_are_in_order():
    X, y = make()
    net, cv = regressor(n_components=3, max_iter=4), KFold(4, shuffle=True, random_state=0)
    found = cross_val_predict(net, X, y, cv=cv)
    assert isinstance(found, LDOS)
    assert found.grid.difference(GRID) is None
    assert_array_equal(found.species, y.species)
    for train, test in cv.split(X):
        expected = clone(net).fit(X[train], y[train]).predict(X[test])
        assert_array_equal(found[test].values, expected.values)


def test_committees_keep_the_energies():
    X, y = make()
    committee = CommitteeRegressor(regressor(output="normalized"), 3, random_state=0).fit(X, y)
    mean, spread = committee.predict(X, return_std=True)
    assert isinstance(mean, LDOS)
    assert isinstance(spread, LDOS)
    assert mean.grid.difference(GRID) is None
    rows = y.species == 1
    assert_allclose(mean.integrals()[rows], y.integrals()[rows].mean(), rtol=1e-12)
    assert committee.score(X, y) == ldos_r2(y, mean)
    assert (committee.target_grid_, committee.n_outputs_) == (GRID, 25)


# ---- Seeds, files, precision -------------------------------------------------------------------------------


def test_equal_seeds_give_equal_fits(way):
    X, y = make()
    nets = [regressor(n_jobs=n_jobs, **way).fit(X, y) for n_jobs in (1, 1, 2)]
    assert same_weights(nets[0], nets[1])
    assert same_weights(nets[0], nets[2])
    assert not same_weights(nets[0], regressor(**{**way, "random_state": 1}).fit(X, y))
    order = np.random.RandomState(0).permutation(len(X))
    again = regressor(**way).fit(X[order], y[order])
    assert_allclose(again.predict(X).values, nets[0].predict(X).values, atol=1e-6)


def test_files_keep_the_predictions(way, tmp_path):
    X, y = make()
    net = regressor(max_iter=3, **way).fit(X, y)
    save_model(net, tmp_path / "net.tinynet")
    for again in (load_model(tmp_path / "net.tinynet"), pickle.loads(pickle.dumps(net))):
        predicted = again.predict(X)
        assert_array_equal(predicted.values, net.predict(X).values)
        assert predicted.grid.difference(GRID) is None
        assert again.explained_variance_ratio_.keys() == net.explained_variance_ratio_.keys()


def test_models_of_early_versions():
    """They know of no grids, and predict all the same."""
    X, y = make()
    rows = PerAtomArray(y.values, y.offsets, y.species)
    net = regressor(max_iter=2).fit(X, rows)
    before = net.predict(X)
    del net.target_grid_, net.explained_variance_ratio_
    assert type(net.predict(X)) is PerAtomArray
    assert_array_equal(net.predict(X).values, before.values)


def test_single_precision(way):
    X, y = make()
    single, double = (regressor(dtype=dtype, max_iter=4, **way).fit(X, y) for dtype in ("float32", "float64"))
    predicted = single.predict(X)
    assert single.weights_[8][0].dtype == np.float32
    assert predicted.values.dtype == np.float64
    assert_allclose(predicted.values, double.predict(X).values, atol=0.05)
    assert single.loss_ == pytest.approx(double.loss_, rel=0.05)


def killed_at(n_iter, step):
    def dying(self, *args):
        if self.n_iter == n_iter:
            raise SystemError("killed")
        return step(self, *args)

    return dying


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_resumed_run_is_an_uninterrupted_one(way, early_stopping, tmp_path, monkeypatch):
    X, y = make()
    settings = {"early_stopping": early_stopping, "random_state": 3, "tol": 0.0, **way}
    whole = regressor(**settings).fit(X, y)
    monkeypatch.setattr(recorder, "SAVE_INTERVAL", 0)
    monkeypatch.setattr(Recorder, "step", killed_at(5, Recorder.step))
    with pytest.raises(SystemError):
        regressor(checkpoint=tmp_path, **settings).fit(X, y)
    monkeypatch.undo()
    resumed = regressor(checkpoint=tmp_path, resume=True, **settings).fit(X, y)
    assert same_weights(resumed, whole)
    assert resumed.loss_ == whole.loss_
    assert_array_equal(resumed.predict(X).values, whole.predict(X).values)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"n_components": 5}, "hidden_layer_sizes, activation or build_fn"),
        ({"n_components": None, "cumulative_weight": 1.0}, "hidden_layer_sizes, activation or build_fn"),
        ({"n_components": 4, "cumulative_weight": 1.0}, "y or target_scaler"),
    ],
)
def test_files_of_other_targets_are_refused(change, difference, tmp_path):
    X, y = make()
    net = regressor(n_components=4, max_iter=2, checkpoint=tmp_path).fit(X, y)
    net.set_params(resume=True, **change)
    assert difference in message_of(lambda: net.fit(X, y))


def test_files_of_another_link_are_refused(tmp_path):
    """Targets and weights are the same; what the loss compares is not."""
    X, y = make()
    net = regressor(output="positive", max_iter=2, checkpoint=tmp_path).fit(X, y)
    net.set_params(resume=True, cumulative_weight=1.0)
    assert "y or target_scaler" in message_of(lambda: net.fit(X, y))


# ---- Training ----------------------------------------------------------------------------------------------


def test_links_are_trained_by_lbfgs(capsys):
    X, y = make()
    regressor(max_iter=2, verbose=1).fit(X, y)
    assert "lm, since it has at most 300 weights and 1,000 rows" in capsys.readouterr().out
    auto = regressor(max_iter=4, verbose=1, output="positive").fit(X, y)
    said = capsys.readouterr().out
    assert (
        "lbfgs, since it has no linear output layer behind hidden layers, or a link or vectors behind it"
        in said
    )
    assert same_weights(auto, regressor(max_iter=4, output="positive", solver="lbfgs").fit(X, y))


def test_early_stopping(way):
    X, y = make(30)
    net = regressor(early_stopping=True, n_iter_no_change=3, max_iter=60, **way).fit(X, y)
    for curves in net.history_.values():
        assert len(curves["validation"]) == len(curves["loss"])
        assert len(curves["validation"]) <= int(np.argmin(curves["validation"])) + 1 + 3
        assert np.isfinite(curves["validation"]).all()


@pytest.mark.parametrize("settings", [{"solver": "adam", "n_components": 3}])
def test_adam_learns_components(settings):
    X, y = make()
    net = regressor(max_iter=3, **settings).fit(X, y)
    assert net.predict(X).shape == (16, 25)


def test_a_warm_start_goes_on_where_it_stopped(way):
    X, y = make()
    net = regressor(warm_start=True, solver="lbfgs", max_iter=6, **way).fit(X, y)
    targets, loss = net.atom_networks_[8].targets, net.loss_
    net.fit(X, y)
    assert net.atom_networks_[8].targets is targets
    assert net.loss_ < loss


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({}, {"output": "positive"}, "output='linear'; got 'positive'"),
        ({"n_components": 3}, {"n_components": 4}, "n_components=3; got 4"),
        ({}, {"cumulative_weight": 1.0}, "cumulative_weight=0.0; got 1.0"),
    ],
)
def test_a_warm_start_with_other_targets(before, after, message):
    X, y = make()
    net = regressor(warm_start=True, max_iter=2, **before).fit(X, y).set_params(**after)
    assert message_of(lambda: net.fit(X, y)) == (
        f"warm_start=True continues networks that were fitted with {message}. Keep it, or set "
        "warm_start=False to begin anew."
    )


def test_a_warm_start_on_other_energies():
    X, y = make()
    net = regressor(warm_start=True, max_iter=2).fit(X, y)
    shifted = y.on_grid(EnergyGrid(GRID.energies, GRID.width, "fermi"))
    assert message_of(lambda: net.fit(X, shifted)) == (
        "warm_start=True continues with curves on the same energies; got energies from the valence band "
        "maximum and from the Fermi level. Bring them together with aligned, resampled or broadened, or set "
        "warm_start=False to begin anew."
    )


# ---- Sites and their symmetry ------------------------------------------------------------------------------


@pytest.mark.parametrize("networks", ["per-species", "per-site", "shared"])
def test_the_average_comes_before_the_link(way, networks):
    if (networks, way.get("output")) == ("shared", "normalized"):
        pytest.skip("one number of states for two species is refused")
    X, y = in_sites()
    net = regressor(networks=networks, max_iter=8, **way).fit(X, y)
    assert net.n_operations_ == 2
    new, _ = in_sites(5, seed=1)
    predicted = net.predict(new)
    swapped = new.with_values(new.values[:, [1, 0, 2]], keep_symmetry=True)
    assert_allclose(net.predict(swapped).values, predicted.values, rtol=1e-11, atol=1e-12)
    keys = new.frames.sites if networks == "per-site" else new.species
    for row, key in enumerate(keys):
        part = net.atom_networks_[int(key)]
        images = new.values[[row, row]]
        images[1] = images[1, [1, 0, 2]]
        raw = part.stack.layer_outputs(part.inputs.apply(images, np.float64))[-1].mean(axis=0)
        assert_allclose(part.targets.invert(raw[None])[0], predicted.values[row], rtol=1e-11, atol=1e-12)


# ---- What is refused ---------------------------------------------------------------------------------------


def vectors():
    X, _ = in_sites(6)
    return X, X.with_values(np.random.RandomState(0).randn(len(X.values), 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"output": "positive", "target_scaler": "standard"},
            "output='positive' needs one scale for all columns; got target_scaler='standard'. Use 'auto' or "
            "'common'.",
        ),
        (
            {"cumulative_weight": 0.5, "target_scaler": "standard"},
            "cumulative_weight=0.5 needs one scale for all columns; got target_scaler='standard'. Use 'auto' "
            "or 'common'.",
        ),
        (
            {"output": "normalized", "n_components": 3},
            "output='normalized' needs all columns of the targets, for a sum of components may be negative; "
            "got n_components=3. Set n_components=None.",
        ),
        (
            {"output": "positive", "solver": "varpro"},
            "output='positive' is trained by solver='lbfgs', without build_fn; got solver='varpro'. Use "
            "solver='auto'.",
        ),
        (
            {"output": "positive", "build_fn": print},
            "output='positive' is trained by solver='lbfgs', without build_fn; got build_fn. Use "
            "solver='auto'.",
        ),
        (
            {"n_components": 0},
            "The 'n_components' parameter of BPNNRegressor must be None, an int in the range [1, inf) or a "
            "float in the range (0.0, 1.0). Got 0 instead.",
        ),
        (
            {"n_components": 1.0},
            "The 'n_components' parameter of BPNNRegressor must be None, an int in the range [1, inf) or a "
            "float in the range (0.0, 1.0). Got 1.0 instead.",
        ),
        (
            {"cumulative_weight": -1.0},
            "The 'cumulative_weight' parameter of BPNNRegressor must be a float in the range [0.0, inf). Got "
            "-1.0 instead.",
        ),
        (
            {"output": "softmax"},
            "The 'output' parameter of BPNNRegressor must be a str among {'linear', 'normalized', "
            "'positive'}. Got 'softmax' instead.",
        ),
        (
            {"target_scaler": "minmax"},
            "The 'target_scaler' parameter of BPNNRegressor must be None or a str among {'auto', 'common', "
            "'standard'}. Got 'minmax' instead.",
        ),
    ],
)
def test_parameters_that_do_not_go_together(settings, message):
    X, y = make(4)
    found = message_of(lambda: regressor(**settings).fit(X, y))
    words = found.split("{")  # scikit-learn lists a set, in any order
    if len(words) == 2:
        inside, rest = words[1].split("}")
        found = f"{words[0]}{{{', '.join(sorted(inside.split(', ')))}}}{rest}"
    assert found == message


@pytest.mark.parametrize(
    "settings", [{"n_components": 2}, {"cumulative_weight": 0.5}, {"output": "normalized"}]
)
def test_vectors_are_no_curves(settings):
    X, y = vectors()
    (name, value), *_ = settings.items()
    assert message_of(lambda: regressor(**settings).fit(X, y)) == (
        f"{name}={value!r} is for targets that are curves; got vectors, which turn with the site. Set "
        "target='scalar' if the three columns are no vector."
    )
    if name != "output":
        assert regressor(target="scalar", max_iter=2, **settings).fit(X, y).predict(X).shape == (6, 3)


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({"cumulative_weight": 0.5}, "cumulative_weight=0.5"),
        ({"output": "normalized"}, "output='normalized'"),
        ({"output": "positive", "cumulative_weight": 0.5}, "cumulative_weight=0.5"),
    ],
)
def test_one_column_is_no_curve(settings, given):
    X, y = make(4)
    assert message_of(lambda: regressor(**settings).fit(X, [part[:, 0] for part in y])) == (
        f"{given} integrates curves, which have at least two columns; got targets with 1."
    )


def test_fewer_states_than_none():
    X, y = make(4)
    assert message_of(lambda: regressor(output="normalized").fit(X, y.with_values(-y.values))) == (
        "output='normalized' fixes the integral of predictions to the mean one of the targets, which must "
        f"not be negative; got {-y.integrals()[y.species == 1].mean():.6g}. Use output='linear'."
    )


@pytest.mark.parametrize("settings", [{}, {"n_components": 2}, {"output": "positive"}])
def test_numbers_that_are_too_large(settings):
    X, y = make(4)
    huge = y.with_values(np.where(np.arange(25) == 7, 1e200, y.values))
    assert message_of(lambda: regressor(**settings).fit(X, huge)) == (
        "y must hold numbers whose squares can be added up; column 7 of H reaches 1e+200. Leave these "
        "structures out or repair them."
    )


# ---- Tables, and odd curves --------------------------------------------------------------------------------


def test_plain_tables_of_curves(way):
    X, y = make()
    table, curves = X.values, y.values
    predicted = regressor(**way).fit(table, curves).predict(table)
    assert predicted.shape == curves.shape
    if "output" in way:
        assert (predicted >= 0).all()
    if way.get("output") == "normalized":
        assert_allclose(np.trapezoid(predicted, axis=1), np.trapezoid(curves, axis=1).mean(), rtol=1e-12)


@pytest.mark.parametrize("output", ["positive", "normalized"])
@pytest.mark.parametrize("kind", ["flat", "nearly flat", "empty", "partly negative"])
def test_odd_curves_behind_a_link(kind, output):
    X, y = make()
    curves = {
        "flat": np.full_like(y.values, 0.1),
        "nearly flat": 1.0 + 1e-6 * y.values,
        "empty": np.where((y.species == 1)[:, None], 0.0, y.values),
        "partly negative": y.values - 0.05,
    }[kind]
    predicted = regressor(output=output, max_iter=40).fit(X, y.with_values(curves)).predict(X)
    assert (predicted.values >= 0).all()
    tolerance = {"flat": 0.01, "nearly flat": 0.01}.get(kind, 1.0)
    assert_allclose(predicted.values, np.maximum(curves, 0.0), atol=tolerance)


def test_networks_without_hidden_layers(way):
    X, y = make()
    predicted = regressor(hidden_layer_sizes=(), max_iter=30, **way).fit(X, y).predict(X)
    assert ldos_r2(y, predicted) > 0.3
