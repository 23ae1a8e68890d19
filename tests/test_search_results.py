"""What a search found: candidates, signs, units and names."""

import re
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import Ridge
from sklearn.metrics import make_scorer, mean_squared_error
from sklearn.model_selection import GridSearchCV, GroupKFold, HalvingGridSearchCV, KFold
from sklearn.pipeline import Pipeline

from tinynet_sklearn.ldos_metrics import ldos_r2_scorer, ldos_rmse_scorer
from tinynet_sklearn.metrics import force_cosine_scorer, force_mae_scorer, force_rmse_scorer
from tinynet_sklearn.search_results import (
    atoms_per_fold,
    full_name,
    read_search,
    short_names,
    value_key,
    value_text,
    varied,
)

RESULTS = {
    "params": [
        {"embed__n": 2, "embed__N": 1},
        {"embed__n": 4, "embed__N": 1},
        {"embed__n": 4, "embed__N": 2},
    ],
    "mean_test_score": np.array([-0.3, np.nan, -0.1]),
    "mean_fit_time": np.array([1.0, 2.0, 3.0]),
}


class Structures(list):
    """Of so many atoms each."""


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24, 3))
    return X, X @ rng.normal(size=(3, 3)) + 0.1 * rng.normal(size=(24, 3))


def search_of(data, scoring=None, refit=True, **grid):
    grid = grid or {"alpha": [1e-3, 1.0, 1e3]}
    return GridSearchCV(Ridge(), grid, scoring=scoring, refit=refit, cv=3).fit(*data)


def test_cv_results_alone_are_enough():
    found = read_search(RESULTS)
    assert found.params == tuple(RESULTS["params"])
    assert_array_equal(found.rows, [0, 1, 2])
    assert_array_equal(found.values, [0.3, np.nan, 0.1])  # none above zero: an error, negated
    assert not found.greater_is_better
    assert found.best_of([0, 1, 2]) == 2
    assert found.best_of([0, 1]) == 0, "failures come last"


def test_the_best_had_most_resources():
    """Errors of candidates that halving dropped are of fewer structures, and cannot be compared."""
    found = replace(read_search(RESULTS), resources=np.array([8, 8, 4]))
    assert found.best_of([0, 1, 2]) == 0


def test_times_are_read_as_they_are():
    found = read_search(RESULTS, "mean_fit_time")
    assert_array_equal(found.values, [1.0, 2.0, 3.0])
    assert (found.quantity, found.unit, found.greater_is_better) == ("Time of a fit", "s", False)


@pytest.mark.parametrize(
    ("scoring", "quantity", "unit", "greater"),
    [
        (force_rmse_scorer, "RMSE of forces", "eV/Å", False),
        (force_mae_scorer, "MAE of forces", "eV/Å", False),
        (force_cosine_scorer, "Cosine of forces", "", True),
        ("neg_root_mean_squared_error", "RMSE", "", False),
        ("r2", "R²", "", True),
        (None, "score", "", True),
        (make_scorer(mean_squared_error, greater_is_better=False), "MSE", "", False),
    ],
)
def test_words_units_and_signs_of_known_scorers(data, scoring, quantity, unit, greater):
    search = search_of(data, scoring)
    found = read_search(search)
    assert (found.quantity, found.unit, found.greater_is_better) == (quantity, unit, greater)
    sign = 1.0 if greater else -1.0
    assert_allclose(found.values, sign * search.cv_results_["mean_test_score"])
    assert found.params[found.best_of(range(3))] == search.best_params_


@pytest.mark.parametrize(
    ("scorer", "words"),
    [(ldos_rmse_scorer, ("RMSE of the LDOS", "states/eV/atom")), (ldos_r2_scorer, ("R² of the LDOS", ""))],
)
def test_scorers_of_curves(data, scorer, words):
    found = read_search(
        search_of(data, scorer, alpha=[1.0, 2.0]) if scorer is ldos_rmse_scorer else _named(scorer)
    )
    assert (found.quantity, found.unit) == words


def _named(scorer):
    """A search that was made with a scorer which needs curves of known species."""
    search = GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, scoring=scorer)
    search.scorer_ = scorer
    search.cv_results_ = {"params": [{"alpha": 1.0}, {"alpha": 2.0}], "mean_test_score": np.array([0.4, 0.5])}
    return search


def test_several_metrics(data):
    scoring = {"rmse": force_rmse_scorer, "cosine": force_cosine_scorer}
    search = search_of(data, scoring, refit="cosine")
    assert_allclose(read_search(search).values, search.cv_results_["mean_test_cosine"])
    by_name = read_search(search, "rmse")
    assert_allclose(by_name.values, -search.cv_results_["mean_test_rmse"])
    assert (by_name.quantity, by_name.unit) == ("RMSE of forces", "eV/Å")
    fold = read_search(search, "split0_test_rmse")
    assert_allclose(fold.values, -search.cv_results_["split0_test_rmse"])
    spread = read_search(search, "std_test_rmse")
    assert_allclose(spread.values, search.cv_results_["std_test_rmse"])
    assert not spread.greater_is_better


def test_words_and_signs_can_be_said(data):
    search = search_of(data, "r2")
    found = read_search(search, negate=True, quantity="What is missing", unit="%")
    assert_allclose(found.values, -search.cv_results_["mean_test_score"])
    assert (found.quantity, found.unit, found.greater_is_better) == ("What is missing", "%", False)
    kept = read_search(search_of(data, force_rmse_scorer), negate=False)
    assert kept.greater_is_better
    assert (kept.values < 0).all()


def test_each_candidate_of_a_halving_search_once(data):
    search = HalvingGridSearchCV(
        Ridge(), {"alpha": [1e-3, 1.0, 1e3, 1e6]}, cv=2, factor=2, min_resources=8, random_state=0
    ).fit(*data)
    found = read_search(search)
    assert sorted(one["alpha"] for one in found.params) == [1e-3, 1.0, 1e3, 1e6]
    assert found.resources.max() > found.resources.min()
    assert found.params[found.best_of(range(4))] == search.best_params_
    winner = next(k for k, one in enumerate(found.params) if one == search.best_params_)
    assert found.resources[winner] == search.cv_results_["n_resources"].max()


def test_lists_of_grids_take_what_they_do_not_vary_from_the_estimator(data):
    search = GridSearchCV(Ridge(tol=1e-3), [{"alpha": [1.0]}, {"tol": [1e-2]}], cv=3).fit(*data)
    assert read_search(search).params == ({"alpha": 1.0, "tol": 1e-3}, {"alpha": 1.0, "tol": 1e-2})


def test_only_some_values():
    found = read_search(RESULTS).only({"n": 4})
    assert found.params == tuple(RESULTS["params"][1:])
    assert_array_equal(found.rows, [1, 2])
    message = "fixed['n'] must be a value that was searched; got 3. There are 2; 4."
    with pytest.raises(ValueError, match=re.escape(message)):
        read_search(RESULTS).only({"n": 3})


@pytest.mark.parametrize(
    ("search", "options", "error", "message"),
    [
        (
            [1, 2],
            {},
            TypeError,
            "search must be a fitted GridSearchCV or the like, or its cv_results_; got list.",
        ),
        (
            GridSearchCV(Ridge(), {"alpha": [1.0]}),
            {},
            NotFittedError,
            "search must be fitted; got a GridSearchCV that is not. Call fit.",
        ),
        (RESULTS, {"negate": "no"}, ValueError, "negate must be True, False or 'auto'; got 'no'."),
        (
            RESULTS,
            {"score": "mse"},
            ValueError,
            "score must be a metric of the search or a column of cv_results_; got 'mse'. Metrics are "
            "'score'.",
        ),
    ],
)
def test_bad_input(search, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        read_search(search, **options)


# ---- Atoms in the folds ------------------------------------------------------------------------------------


def test_atoms_per_fold_is_their_mean(data):
    structures = [[0] * n for n in range(1, 25)]
    search = search_of(data)
    assert atoms_per_fold(search, structures, None, 1.0) == pytest.approx(300 / 3)
    search.cv = iter(KFold(3).split(data[0]))
    assert list(search.cv)
    assert atoms_per_fold(search, structures, None, 1.0) == pytest.approx(300 / 3), (
        "an iterator that is used up"
    )


def test_groups_are_needed_where_the_splitter_needs_them(data):
    structures = [[0] * n for n in range(1, 25)]
    groups = np.repeat([0, 1], 12)
    search = GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, cv=GroupKFold(2)).fit(*data, groups=groups)
    assert atoms_per_fold(search, structures, groups, 1.0) == 150.0
    message = (
        "structures must be those of search.fit, and groups as well where there were any; got 24 structures, "
        "which GroupKFold cannot split: "
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        atoms_per_fold(search, structures, None, 1.0)


# ---- Names and values --------------------------------------------------------------------------------------


def test_varied_parameters_in_order():
    params = [{"b": 1, "a": [1, 2], "c": PCA}, {"b": 1, "a": [1, 3], "c": PCA}]
    assert varied(params) == ["a"]
    assert varied([*params, {"b": 2, "a": [1, 2], "d": 0}]) == ["b", "a", "c", "d"]


def test_full_and_short_names():
    params = [{"embed__n": 2, "embed__N": 1, "a__alpha": 1, "b__alpha": 2}]
    assert full_name("n", params, "x") == "embed__n"
    assert full_name("a__alpha", params, "x") == "a__alpha"
    assert short_names(params[0]) == {
        "embed__n": "n",
        "embed__N": "N",
        "a__alpha": "a__alpha",
        "b__alpha": "b__alpha",
    }
    several = (
        "x must name a parameter that was searched; got 'alpha', which may be 'a__alpha' or 'b__alpha'. "
        "There are 'embed__n'; 'embed__N'; 'a__alpha'; 'b__alpha'."
    )
    with pytest.raises(ValueError, match=re.escape(several)):
        full_name("alpha", params, "x")
    none = "y must name a parameter that was searched; got 'beta'. There are 'embed__n'; "
    with pytest.raises(ValueError, match=re.escape(none)):
        full_name("beta", params, "y")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-5, "1e-05"),
        (np.float64(0.25), "0.25"),
        (4, "4"),
        (True, "True"),
        (None, "None"),
        ((16, 32), "16x32"),
        ([16, 32], "16x32"),
        ("simple", "simple"),
        ({"Ba-O": 3.6, "Ti-O": 2.7}, "Ba-O=3.6, Ti-O=2.7"),
        (Pipeline([("pca", PCA())]), "Pipeline"),
        ("a" * 30, "a" * 23 + "…"),
    ],
)
def test_values_in_few_characters(value, text):
    assert value_text(value) == text


def test_equal_values_have_equal_keys():
    assert value_key([16, 32]) == value_key((16, 32)) == value_key(np.array([16, 32]))
    assert value_key({"a": 1}) == value_key({"a": 1}) != value_key({"a": 2})
    assert value_key([[1], [2, 3]]) == value_key([[1], [2, 3]]) != value_key([[1, 2], [3]])
