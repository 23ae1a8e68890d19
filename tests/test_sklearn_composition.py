"""Per-atom arrays inside the tools of scikit-learn: what works, number for number, and what cannot.

The steps are toys, a featurizer of positions and a ridge on the rows, so that every result can be worked out
by hand and a failure is one of the container. Their classes stand at module level for joblib's workers.
"""

import numpy as np
import pytest
import sklearn
from ase import Atoms
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin, clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.ensemble import BaggingRegressor, StackingRegressor, VotingRegressor
from sklearn.exceptions import DataConversionWarning
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    cross_val_predict,
    cross_validate,
    learning_curve,
    train_test_split,
)
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import StandardScaler

from tinynet_sklearn import PerAtom, PerAtomArray
from tinynet_sklearn.targets import as_target

SCORERS = {
    "r2": r2_score,
    "neg_mean_absolute_error": lambda y, p: -mean_absolute_error(y, p),
    "neg_root_mean_squared_error": lambda y, p: -root_mean_squared_error(y, p),
}
ROWS_ARE_NO_TARGETS = (
    "y must hold one (n_atoms, k) array per structure, in a list or a PerAtomArray; got ndarray of shape {}. "
    "{} Meta-estimators that flatten targets (TransformedTargetRegressor, Bagging, Voting, Stacking) are not "
    "supported."
)


class CentredPositions(TransformerMixin, BaseEstimator, auto_wrap_output_keys=None):
    """Rows [power of (position - centre of the structure), atomic number]."""

    def __init__(self, power=1):
        self.power = power

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        centred = [atoms.positions - atoms.positions.mean(axis=0) for atoms in X]
        rows = [np.column_stack([c**self.power, a.numbers]) for c, a in zip(centred, X, strict=True)]
        return PerAtomArray.from_list(rows, [atoms.numbers for atoms in X])

    def get_feature_names_out(self, input_features=None):
        return np.array(["x", "y", "z", "Z"], dtype=object)


class ListOfPositions(CentredPositions):
    """What a featurizer without the container would return."""

    def transform(self, X):
        return list(super().transform(X))


class RowRidge(RegressorMixin, BaseEstimator):
    """A ridge on the rows that answers with a per-atom array."""

    def __init__(self, alpha=1e-3):
        self.alpha = alpha

    def fit(self, X, y):
        if not isinstance(X, PerAtomArray):
            raise TypeError(f"X must be a PerAtomArray; got {type(X).__name__} of shape {np.shape(X)}.")
        self.ridge_ = Ridge(self.alpha).fit(X.values, as_target(y, X).values)
        return self

    def predict(self, X):
        return X.with_values(self.ridge_.predict(X.values))


def make_data(sizes, seed=0):
    rng = np.random.default_rng(seed)
    X = [Atoms([8, 22, 8, 56, 8][:n], positions=rng.normal(size=(n, 3))) for n in sizes]
    springs = rng.normal(size=(3, 3))
    arrays = [
        (a.positions - a.positions.mean(axis=0)) @ springs + 0.1 * rng.normal(size=(len(a), 3)) for a in X
    ]
    return X, PerAtomArray.from_list(arrays, [a.numbers for a in X])


def make_pipe(memory=None):
    steps = [("embed", CentredPositions()), ("scaler", PerAtom(StandardScaler())), ("net", RowRidge())]
    return Pipeline(steps, memory=memory)


def message(error):
    return str(error.value)


@pytest.fixture(
    params=[(3,) * 12, (3, 5, 2, 4, 3, 2, 5, 4, 1, 3, 4, 2)], ids=["equal sizes", "unequal sizes"]
)
def data(request):
    return make_data(request.param)


# ---- what works ------------------------------------------------------------


def test_pipeline(data):
    X, y = data
    pipe = make_pipe().fit(X, y)
    prediction = pipe.predict(X)
    assert isinstance(prediction, PerAtomArray)
    assert_array_equal(prediction.offsets, y.offsets)
    assert_array_equal(prediction.species, y.species)
    assert pipe.score(X, y) == r2_score(y.values, prediction.values) > 0.95
    assert pipe[:-1].get_feature_names_out().tolist() == ["x", "y", "z", "Z"]
    assert_array_equal(pipe.fit(X, list(y)).predict(X).values, prediction.values)


@pytest.mark.parametrize("scoring", SCORERS)
def test_string_scorers_average_over_atoms(data, scoring):
    X, y = data
    cv = KFold(3, shuffle=True, random_state=0)
    result = cross_validate(make_pipe(), X, y, scoring=scoring, cv=cv)
    for score, (train, test) in zip(result["test_score"], cv.split(X), strict=True):
        pipe = make_pipe().fit([X[i] for i in train], [y[i] for i in train])
        prediction = np.concatenate(list(pipe.predict([X[i] for i in test])))
        assert score == pytest.approx(
            SCORERS[scoring](np.concatenate([y[i] for i in test]), prediction), rel=1e-12
        )


def test_cross_validate_with_several_scorers_and_groups(data):
    X, y = data
    result = cross_validate(
        make_pipe(),
        X,
        y,
        groups=np.arange(12) // 3,
        cv=GroupKFold(4),
        scoring=list(SCORERS),
        return_train_score=True,
    )
    for name in SCORERS:
        assert result[f"test_{name}"].shape == (4,)
        assert np.isfinite(result[f"train_{name}"]).all()


@pytest.mark.parametrize("cached", [False, True], ids=["no cache", "cached"])
def test_grid_search_in_two_processes_trains_each_candidate_with_its_parameters(data, tmp_path, cached):
    X, y = data
    grid = {
        "embed__power": [1, 3],
        "scaler__transformer__with_mean": [True, False],
        "scaler__per_species": [False, True],
        "net__alpha": [1e-3, 1e3],
    }
    search = GridSearchCV(
        make_pipe(memory=str(tmp_path) if cached else None),
        grid,
        scoring="neg_root_mean_squared_error",
        cv=KFold(2),
        n_jobs=2,
    )
    search.fit(X, y)  # every species occurs in each half, so that per_species knows them all
    assert search.best_params_["embed__power"] == 1
    assert search.best_params_["net__alpha"] == 1e-3
    assert isinstance(search.predict(X), PerAtomArray)
    for parameters, score in zip(
        search.cv_results_["params"], search.cv_results_["split1_test_score"], strict=True
    ):
        pipe = make_pipe().set_params(**parameters).fit(X[:6], y[:6])
        assert score == pytest.approx(-root_mean_squared_error(y[6:], pipe.predict(X[6:])), rel=1e-9)


def test_a_cached_step_is_computed_once(data, tmp_path):
    X, y = data
    pipe = make_pipe(memory=str(tmp_path)).fit(X, y)
    entries = sorted(tmp_path.rglob("output.pkl"))
    assert len(entries) == 2  # embed and scaler
    again = clone(pipe).set_params(net__alpha=1.0).fit([a.copy() for a in X], y[:])
    assert sorted(tmp_path.rglob("output.pkl")) == entries
    assert_array_equal(again[:-1].transform(X).values, pipe[:-1].transform(X).values)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_cross_val_predict_restores_the_order(data, n_jobs):
    X, y = data
    cv = KFold(4, shuffle=True, random_state=1)
    prediction = cross_val_predict(make_pipe(), X, y, cv=cv, n_jobs=n_jobs)
    assert_array_equal(prediction.offsets, y.offsets)
    assert_array_equal(prediction.species, y.species)
    for train, test in cv.split(X):
        pipe = make_pipe().fit([X[i] for i in train], y[train])
        for i in test:
            assert_allclose(prediction[i], pipe.predict([X[i]])[0], rtol=0, atol=1e-12)


def test_learning_curve_counts_structures(data):
    X, y = data
    sizes, train, test = learning_curve(
        make_pipe(), X, y, train_sizes=[3, 6, 8], cv=KFold(3), shuffle=True, random_state=0, scoring="r2"
    )
    assert sizes.tolist() == [3, 6, 8]
    assert train.shape == test.shape == (3, 3)
    assert np.isfinite(test).all()


def test_train_test_split_keeps_structures_with_their_targets(data):
    X, y = data
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=3)
    assert (len(X_train), len(y_train), len(X_test), len(y_test)) == (9, 9, 3, 3)
    for part_X, part_y in ((X_train, y_train), (X_test, y_test)):
        for atoms, forces, numbers in zip(part_X, part_y, _species_by_structure(part_y), strict=True):
            assert_array_equal(forces, y[next(i for i, a in enumerate(X) if a is atoms)])
            assert_array_equal(numbers, atoms.numbers)


def _species_by_structure(array):
    return [array.species[a:b] for a, b in zip(array.offsets[:-1], array.offsets[1:], strict=True)]


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_feature_union_joins_columns_with_prefixed_names_and_weights(data, n_jobs):
    X, y = data
    union = FeatureUnion(
        [("linear", CentredPositions()), ("cubic", CentredPositions(power=3))],
        transformer_weights={"cubic": 0.5},
        n_jobs=n_jobs,
    )
    joined = union.fit_transform(X)
    linear, cubic = (CentredPositions(p).fit_transform(X) for p in (1, 3))
    assert isinstance(joined, PerAtomArray)
    assert joined.shape == (12, 8)
    assert_array_equal(joined.values, np.hstack([linear.values, 0.5 * cubic.values]))
    assert_array_equal(joined.species, y.species)
    assert_array_equal(union.transform(X).values, joined.values)
    names = [f"{step}__{name}" for step in ("linear", "cubic") for name in "xyzZ"]
    assert union.get_feature_names_out().tolist() == names
    pipe = Pipeline([("features", union), ("scaler", PerAtom(PCA(6))), ("net", RowRidge())])
    assert cross_validate(pipe, X, y, cv=3, scoring="r2")["test_score"].shape == (3,)


# ---- traps, and what stands in their way ------------------------------------------------------------


def test_lists_of_equal_arrays_that_a_union_joined_along_atoms_go_no_further():
    X, y = make_data((3,) * 6)
    union = FeatureUnion([("a", ListOfPositions()), ("b", ListOfPositions())])
    assert union.fit_transform(X).shape == (6, 6, 4)  # six atoms where there are three, without a word
    with pytest.raises(TypeError) as error:
        Pipeline([("features", union), ("scaler", PerAtom(StandardScaler())), ("net", RowRidge())]).fit(X, y)
    assert message(error) == (
        "X must be a PerAtomArray for PerAtom(StandardScaler()); got ndarray of shape (6, 6, 4). Put it "
        "after a featurizer, wrap each transformer between them into PerAtom(...) too, and leave "
        "transform_output at 'default'."
    )


def test_a_scaler_that_is_not_wrapped_is_refused_with_the_way_out(data):
    X, y = data
    pipe = make_pipe().set_params(scaler=StandardScaler())
    with pytest.raises(TypeError) as error:
        pipe.fit(X, y)
    assert message(error) == (
        "numpy.may_share_memory is not defined for a PerAtomArray, whose first axis counts structures while "
        "its numbers belong to atoms. Call numpy.may_share_memory on the rows, a.values, or put the "
        "transformer that calls it into PerAtom(...), as in PerAtom(StandardScaler())."
    )


def test_a_transformer_that_slips_through_leaves_rows_that_the_regressor_refuses(data):
    X, y = data
    with pytest.raises(TypeError) as error:
        make_pipe().set_params(scaler=PCA(2)).fit(X, y)
    assert message(error) == f"X must be a PerAtomArray; got ndarray of shape ({len(y.values)}, 2)."


def test_targets_as_a_list_serve_fit_but_no_string_scorer():
    X, y = make_data((3, 2, 3, 2))
    make_pipe().fit(X, list(y))
    with pytest.raises(ValueError, match="inhomogeneous") as error:
        r2_score(list(y), make_pipe().fit(X, y).predict(X))
    assert message(error).startswith("setting an array element with a sequence.")


# ---- known limits ------------------------------------------------------------


def test_transformed_targets_are_refused(data):
    X, y = data
    with pytest.raises(TypeError) as error:
        TransformedTargetRegressor(make_pipe(), transformer=StandardScaler()).fit(X, y)
    assert message(error) == ROWS_ARE_NO_TARGETS.format(
        (len(y.values), 3), "Split rows of all atoms with PerAtomArray(y, X.offsets, X.species)."
    )


def test_bagging_of_structures_is_refused(data):
    X, y = data
    with pytest.raises(ValueError, match=r"inconsistent|inhomogeneous") as error:
        BaggingRegressor(make_pipe(), n_estimators=2).fit(X, y)
    if len(set(y.counts)) == 1:
        assert message(error) == "Found input variables with inconsistent numbers of samples: [12, 36]"
    else:
        assert message(error) == (
            "setting an array element with a sequence. The requested array has an inhomogeneous shape after "
            "1 dimensions. The detected shape was (12,) + inhomogeneous part."
        )


def test_bagging_of_features_reaches_the_regressor_as_bare_rows(data):
    X, y = data
    features = CentredPositions().fit_transform(X)
    with pytest.raises(TypeError) as error:
        BaggingRegressor(RowRidge(), n_estimators=1).fit(features, y)
    assert message(error) == f"X must be a PerAtomArray; got ndarray of shape ({len(y.values)}, 4)."


@pytest.mark.parametrize("ensemble", [VotingRegressor, StackingRegressor])
def test_voting_and_stacking_are_refused(data, ensemble):
    X, y = data
    voters = ensemble([("a", make_pipe()), ("b", make_pipe())])
    with pytest.raises(ValueError, match="1d array") as error:
        voters.fit(X, y)
    n = len(y.values)
    assert message(error) == f"y should be a 1d array, got an array of shape ({n}, 3) instead."
    charges = y.with_values(y.values[:, :1])
    with pytest.warns(DataConversionWarning), pytest.raises(TypeError) as error:
        voters.fit(X, charges)
    assert message(error) == ROWS_ARE_NO_TARGETS.format((n,), "Pass a list of arrays.")


def test_set_output_is_refused():
    with pytest.raises(ValueError, match="set_output") as error:
        Pipeline([("scaler", PerAtom(StandardScaler())), ("net", RowRidge())]).set_output(transform="pandas")
    assert message(error) == (
        "Unable to configure output for PerAtom(transformer=StandardScaler()) because `set_output` is not "
        "available."
    )


def test_global_data_frame_output_passes_steps_that_declare_themselves_out(data):
    X, y = data
    expected = make_pipe().fit(X, y).predict(X)
    with sklearn.config_context(transform_output="pandas"):
        assert_array_equal(make_pipe().fit(X, y).predict(X).values, expected.values)


def test_global_data_frame_output_of_a_union_is_refused_by_the_next_step(data):
    pytest.importorskip("pandas")
    X, y = data
    union = FeatureUnion([("a", CentredPositions()), ("b", CentredPositions())])
    pipe = Pipeline([("features", union), ("scaler", PerAtom(StandardScaler())), ("net", RowRidge())])
    with sklearn.config_context(transform_output="pandas"), pytest.raises(TypeError) as error:
        pipe.fit(X, y)
    assert message(error) == (
        f"X must be a PerAtomArray for PerAtom(StandardScaler()); got DataFrame of shape ({len(y.values)}, "
        "8). Put it after a featurizer, wrap each transformer between them into PerAtom(...) too, and leave "
        "transform_output at 'default'."
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda X, y: train_test_split(X, y),
        lambda X, y: r2_score(y, y),
        lambda X, y: cross_val_predict(make_pipe(), X, y, cv=2),
    ],
    ids=["train_test_split", "r2_score", "cross_val_predict"],
)
def test_array_api_dispatch_is_refused(data, use, monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    if tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 7):  # later ones bring it along
        pytest.importorskip("array_api_compat")
    with sklearn.config_context(array_api_dispatch=True), pytest.raises(TypeError) as error:
        use(*data)
    assert message(error) == (
        "a PerAtomArray has no array-API namespace, which would take its rows for samples. Switch the "
        "dispatch off with sklearn.set_config(array_api_dispatch=False)."
    )
