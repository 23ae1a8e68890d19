"""`CommitteeRegressor`: means and disagreement by hand, seeds, and life among scikit-learn's tools."""

import numpy as np
import pytest
from ase.build import bulk
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context, get_config
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils import get_tags
from threadpoolctl import threadpool_info, threadpool_limits

from tinynet_sklearn import (
    BPNNRegressor,
    CommitteeRegressor,
    CycleMomentFeaturizer,
    PerAtom,
    PerAtomArray,
    load_model,
    save_model,
)
from tinynet_sklearn.metrics import force_rmse_scorer
from tinynet_sklearn.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NET = BPNNRegressor((4,), max_iter=8)


@pytest.fixture(scope="module")
def atoms():
    rng = np.random.RandomState(0)
    species = [[8, 1, 1], [8, 1]] * 8
    X = PerAtomArray.from_list([rng.randn(len(s), 4) for s in species], species)
    return X, X.with_values(np.tanh(X.values[:, :2]))


@pytest.fixture(scope="module")
def table():
    rng = np.random.RandomState(0)
    X = rng.randn(30, 3)
    return X, np.sin(X[:, 0])


@pytest.fixture(scope="module")
def crystal():
    rng = np.random.RandomState(0)
    frames = []
    for _ in range(8):
        frame = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
        frame.positions += 0.05 * rng.randn(8, 3)
        frames.append(frame)
    forces = PerAtomArray.from_list(
        [-(f.positions - bulk("NaCl", "rocksalt", a=5.64, cubic=True).positions) for f in frames],
        [f.numbers for f in frames],
    )
    return frames, forces


def seeds(committee):
    return [member.random_state for member in committee.estimators_]


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---------------------------------------------------------------- the vote


def test_mean_and_disagreement_per_atom(atoms):
    X, y = atoms
    committee = CommitteeRegressor(NET, n_estimators=3, random_state=0).fit(X, y)
    mean, std = committee.predict(X, return_std=True)
    rows = [member.predict(X).values for member in committee.estimators_]
    assert_allclose(mean.values, sum(rows) / 3, rtol=1e-12)
    assert_allclose(std.values**2, sum((r - mean.values) ** 2 for r in rows) / 3, rtol=1e-9)
    assert (std.values > 0).all()
    for part in (mean, std, committee.predict(X)):
        assert isinstance(part, PerAtomArray)
        assert part.frames is None
        assert_array_equal(part.offsets, X.offsets)
        assert_array_equal(part.species, X.species)
    assert_array_equal(committee.predict(X).values, mean.values)
    assert committee.n_features_in_ == 4


@pytest.mark.parametrize("n_columns", [None, 1, 2])
def test_plain_tables(table, n_columns):
    X, y = table
    y = y if n_columns is None else np.repeat(y[:, None], n_columns, axis=1)
    committee = CommitteeRegressor(NET, n_estimators=2, random_state=0).fit(X, y)
    mean, std = committee.predict(X, return_std=True)
    assert isinstance(mean, np.ndarray)
    assert mean.shape == std.shape == y.shape
    rows = [member.predict(X) for member in committee.estimators_]
    assert_allclose(mean, (rows[0] + rows[1]) / 2, rtol=1e-12)
    assert_allclose(std, np.abs(rows[0] - rows[1]) / 2, rtol=1e-9, atol=1e-15)


def test_a_committee_of_one_agrees_with_itself(atoms):
    X, y = atoms
    committee = CommitteeRegressor(NET, n_estimators=1, random_state=0).fit(X, y)
    mean, std = committee.predict(X, return_std=True)
    alone = clone(NET).set_params(random_state=seeds(committee)[0]).fit(X, y)
    assert_array_equal(mean.values, alone.predict(X).values)
    assert not std.values.any()


def test_members_disagree_where_there_were_no_data():
    x = np.linspace(-1, 1, 40)[:, None]
    net = BPNNRegressor((6,), max_iter=100)
    committee = CommitteeRegressor(net, random_state=0).fit(x, np.sin(3 * x.ravel()))
    (inside, outside) = (committee.predict(x + shift, return_std=True)[1].mean() for shift in (0, 3))
    assert outside > 3 * inside


def test_none_is_the_regressor_of_this_package():
    X = np.linspace(-1, 1, 10)[:, None]
    committee = CommitteeRegressor(n_estimators=2, random_state=0).fit(X, X.ravel())
    assert [clone(m).set_params(random_state=None).get_params() for m in committee.estimators_] == [
        BPNNRegressor().get_params()
    ] * 2
    assert committee.estimator is None


def test_score_is_r2_of_the_mean(atoms, table):
    X, y = atoms
    committee = CommitteeRegressor(NET, n_estimators=2, random_state=0).fit(X, y)
    mean = committee.predict(X).values
    assert committee.score(X, y) == committee.score(X, list(y)) == r2_score(y.values, mean)
    weight = np.arange(len(X)) % 3
    expected = r2_score(y.values, mean, sample_weight=weight[X.structure_of_row])
    assert committee.score(X, y, sample_weight=weight) == expected
    X, y = table
    committee.fit(X, y)
    weight = np.arange(len(X)) % 3
    expected = r2_score(y, committee.predict(X), sample_weight=weight)
    assert committee.score(X, y, sample_weight=weight) == expected


def test_prediction_before_the_fit(atoms):
    with pytest.raises(NotFittedError):
        CommitteeRegressor(NET).predict(atoms[0])


# ---------------------------------------------------------------- seeds


@pytest.mark.parametrize("early_stopping", [False, True])
def test_equal_seeds_give_equal_fits_for_any_number_of_workers(atoms, early_stopping):
    X, y = atoms
    net = clone(NET).set_params(early_stopping=early_stopping)
    committee = CommitteeRegressor(net, n_estimators=3, random_state=5)
    mean, std = committee.fit(X, y).predict(X, return_std=True)
    for n_jobs in (1, 2, -1):
        other = clone(committee).set_params(n_jobs=n_jobs).fit(X, y)
        assert seeds(other) == seeds(committee)
        assert_array_equal(other.predict(X).values, mean.values)
        assert_array_equal(other.predict(X, return_std=True)[1].values, std.values)
    other = clone(committee).set_params(random_state=6).fit(X, y)
    assert not np.array_equal(other.predict(X).values, mean.values)


def test_worker_processes_give_the_same_fit(atoms):
    X, y = atoms
    committee = CommitteeRegressor(NET, n_estimators=2, random_state=5, n_jobs=2).fit(X, y)
    with parallel_config(backend="loky"):
        processes = clone(committee).fit(X, y)
    assert_array_equal(processes.predict(X).values, committee.predict(X).values)


def test_a_larger_committee_begins_with_the_members_of_a_smaller_one(atoms):
    X, y = atoms
    small, large = (CommitteeRegressor(NET, n, random_state=0).fit(X, y) for n in (2, 4))
    assert seeds(large)[:2] == seeds(small)
    assert len(set(seeds(large))) == 4
    for a, b in zip(small.estimators_, large.estimators_, strict=False):
        assert_array_equal(a.predict(X).values, b.predict(X).values)


def test_generators_go_on_and_none_differs_every_time(table):
    X, y = table
    tree = CommitteeRegressor(DecisionTreeRegressor(), 2, random_state=np.random.RandomState(0))
    first, second = (seeds(tree.fit(X, y)) for _ in range(2))
    drawn = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=4)
    assert first + second == drawn.tolist()
    tree.set_params(random_state=None)
    assert seeds(tree.fit(X, y)) != seeds(tree.fit(X, y))


def test_every_random_state_gets_a_seed_of_its_own(atoms):
    X, y = atoms
    pipe = Pipeline([("mix", PerAtom(PCA(n_components=3, svd_solver="randomized"))), ("net", clone(NET))])
    before = pipe.get_params(deep=True)["net__random_state"]
    small, large = (CommitteeRegressor(pipe, n, random_state=0).fit(X, y) for n in (1, 2))
    places = ("mix__transformer__random_state", "net__random_state")
    found = [[member.get_params()[place] for place in places] for member in large.estimators_]
    assert len(set(np.ravel(found))) == 4
    assert [small.estimators_[0].get_params()[place] for place in places] == found[0]
    assert pipe.get_params()["net__random_state"] is before is None
    assert not hasattr(pipe[-1], "atom_networks_")


def test_members_that_could_not_differ(table):
    committee = CommitteeRegressor(LinearRegression())
    assert message_of(ValueError, lambda: committee.fit(*table)) == (
        "estimator must have a random_state, or a part that has one, so that members differ; got "
        "LinearRegression, whose clones would all be equal. Pass a regressor that starts at random, such as "
        "BPNNRegressor()."
    )


# ---------------------------------------------------------------- what is handed on


def test_weights_are_handed_on(atoms):
    X, y = atoms
    weight = np.arange(len(X)) % 2
    committee = CommitteeRegressor(NET, 2, random_state=0)
    weighted = clone(committee).fit(X, y, sample_weight=weight).predict(X)
    odd = clone(committee).fit(X[1::2], y[1::2]).predict(X[1::2])
    assert_allclose(weighted[1::2].values, odd.values, rtol=1e-9)


def test_fit_parameters_reach_the_steps_of_pipelines(atoms):
    X, y = atoms
    weight = np.arange(len(X)) % 2
    direct = CommitteeRegressor(NET, 2, random_state=0).fit(X, y, sample_weight=weight)
    pipes = CommitteeRegressor(Pipeline([("net", clone(NET))]), 2, random_state=0)
    pipes.fit(X, y, net__sample_weight=weight)
    assert_array_equal(pipes.predict(X).values, direct.predict(X).values)
    with config_context(enable_metadata_routing=True):
        inner = Pipeline([("net", clone(NET).set_fit_request(sample_weight=True))])
        outer = Pipeline([("nets", CommitteeRegressor(inner, 2, random_state=0, n_jobs=2))])
        outer.set_params(nets=outer[-1].set_fit_request(sample_weight=True))
        outer.fit(X, y, sample_weight=weight)
    assert_array_equal(outer.predict(X).values, direct.predict(X).values)


class Witness(RegressorMixin, BaseEstimator):
    """Notes under which settings it was fitted, and fails where it is told to."""

    def __init__(self, random_state=None, fails=False):
        self.random_state = random_state
        self.fails = fails

    def fit(self, X, y):
        if self.fails:
            raise OSError("no such luck")
        self.assume_finite_ = get_config()["assume_finite"]
        self.threads_ = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        return self

    def predict(self, X):
        return np.zeros(len(X))


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_settings_of_the_session_reach_the_members(table, n_jobs):
    with config_context(assume_finite=True), threadpool_limits(limits=2, user_api="blas"):
        before = threadpool_info()
        committee = CommitteeRegressor(Witness(), n_jobs=n_jobs).fit(*table)
        assert threadpool_info() == before
    assert all(member.assume_finite_ for member in committee.estimators_)
    assert {n for member in committee.estimators_ for n in member.threads_} <= {1}


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_errors_of_members_end_the_fit_and_keep_the_last_one(table, n_jobs):
    committee = CommitteeRegressor(Witness(), n_estimators=2, n_jobs=n_jobs).fit(*table)
    members = committee.estimators_
    committee.set_params(estimator__fails=True)
    assert message_of(OSError, lambda: committee.fit(*table)) == "no such luck"
    assert committee.estimators_ is members


def test_an_interrupt_that_a_member_lets_through_ends_the_fit(atoms, monkeypatch):
    def interrupting(self, *args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "step", interrupting)
    committee = CommitteeRegressor(NET, random_state=0)
    with pytest.raises(KeyboardInterrupt):
        committee.fit(*atoms)
    assert not hasattr(committee, "estimators_")


# ---------------------------------------------------------------- among the tools of scikit-learn


def test_last_step_behind_the_featurizer(crystal):
    frames, forces = crystal
    net = BPNNRegressor((3,), max_iter=5, symmetry_copies=2)
    pipe = Pipeline(
        [("embed", CycleMomentFeaturizer(n=2, N=1)), ("nets", CommitteeRegressor(net, 2, random_state=0))]
    )
    mean, std = pipe.fit(frames, forces).predict(frames, return_std=True)
    assert mean.shape == std.shape == (8, 3)
    assert pipe.score(frames, forces) == r2_score(forces.values, mean.values)
    assert_array_equal(cross_val_predict(pipe, frames, forces, cv=2).offsets, forces.offsets)
    # A committee of pipelines is the same committee, with features of its own for every member.
    whole = CommitteeRegressor(
        Pipeline([("embed", CycleMomentFeaturizer(n=2, N=1)), ("net", net)]), 2, random_state=0
    )
    again, spread = whole.fit(frames, forces).predict(frames, return_std=True)
    assert_allclose(again.values, mean.values, rtol=1e-12)
    assert_allclose(spread.values, std.values, rtol=1e-9)


def test_grid_search_over_parameters_of_the_members(crystal):
    frames, forces = crystal
    pipe = Pipeline(
        [
            ("embed", CycleMomentFeaturizer(n=0, N=1)),
            ("nets", CommitteeRegressor(BPNNRegressor((3,), max_iter=10), 2, random_state=0)),
        ]
    )
    grid = {"nets__estimator__alpha": [1.0, 1e-3], "nets__n_estimators": [2]}  # so much decay leaves nothing
    search = GridSearchCV(pipe, grid, scoring=force_rmse_scorer, cv=KFold(2)).fit(frames, forces)
    assert search.best_params_ == {"nets__estimator__alpha": 1e-3, "nets__n_estimators": 2}
    assert [member.alpha for member in search.best_estimator_["nets"].estimators_] == [1e-3, 1e-3]


def test_tags_are_those_of_the_members():
    committee, net = get_tags(CommitteeRegressor()), get_tags(BPNNRegressor())
    assert committee.target_tags == net.target_tags
    assert committee.input_tags == net.input_tags
    assert committee.estimator_type == "regressor"
    assert not get_tags(CommitteeRegressor(Witness())).target_tags.multi_output


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_model_files(crystal, tmp_path, in_pipeline):
    frames, forces = crystal
    embed = CycleMomentFeaturizer(n=2, N=1)
    net = BPNNRegressor((3,), max_iter=3, symmetry_copies=2)
    model = CommitteeRegressor(net, 2, random_state=0)
    X = frames if in_pipeline else embed.fit_transform(frames)
    model = Pipeline([("embed", embed), ("nets", model)]) if in_pipeline else model
    save_model(model.fit(X, forces), tmp_path / "committee")
    again = load_model(tmp_path / "committee")
    for loaded, kept in zip(
        again.predict(X, return_std=True), model.predict(X, return_std=True), strict=True
    ):
        assert_array_equal(loaded.values, kept.values)
    assert repr(again.get_params()) == repr(model.get_params())
    again.fit(X, forces)  # and can be trained again
    assert_array_equal(again.predict(X).values, model.predict(X).values)
