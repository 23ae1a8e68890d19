"""Searches of scikit-learn over embeddings and networks: parallel, cached, halving, with several metrics."""

import warnings

import numpy as np
import pytest
import sklearn
from joblib import Memory, Parallel, delayed, parallel_config
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, GroupKFold, HalvingGridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.fixes import parse_version

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, load_moo3
from tinynet_sklearn.metrics import force_mae_scorer, force_rmse_scorer

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

SCORING = {"rmse": force_rmse_scorer, "mae": force_mae_scorer, "r2": "r2"}


class CountedFeaturizer(CycleMomentFeaturizer):
    """Counts in a file how often it was fitted, in whichever process."""

    log = None

    def fit(self, X, y=None):
        if CountedFeaturizer.log is not None:
            with CountedFeaturizer.log.open("a") as file:
                file.write(f"{self.n} {self.N}\n")
        return super().fit(X, y)


@pytest.fixture(scope="module")
def data():
    return load_moo3()


def pipeline(data, featurizer=CycleMomentFeaturizer, **options):
    nets = BPNNRegressor((4,), max_iter=3, random_state=0)
    return Pipeline([("embed", featurizer(n=2, bonds=data.bonds)), ("nets", nets)], **options)


def test_numbers_are_equal_whatever_the_backend(data):
    grid = {"embed__n": [2, 4], "embed__N": [0, 1], "nets__hidden_layer_sizes": [(2,), (3, 2)]}
    options = {"scoring": SCORING, "refit": "rmse", "cv": GroupKFold(2), "error_score": "raise"}
    found = []
    for backend, n_jobs in [("sequential", 1), ("threading", 2), ("loky", 2)]:
        with parallel_config(backend, n_jobs=n_jobs), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of workers, which have filters of their own
            found.append(
                GridSearchCV(pipeline(data), grid, **options).fit(
                    data.structures, data.target, groups=data.groups
                )
            )
    for name in SCORING:
        for search in found[1:]:
            key = f"mean_test_{name}"
            np.testing.assert_array_equal(search.cv_results_[key], found[0].cv_results_[key])
    assert found[0].best_params_ == found[2].best_params_


def test_bonds_are_a_parameter_like_others(data):
    grid = {"embed__bonds": [data.bonds, {"Mo-O": 2.1}], "embed__n": [2]}
    search = GridSearchCV(pipeline(data), grid, cv=2, scoring=force_rmse_scorer)
    search.fit(data.structures, data.target)
    assert len(search.cv_results_["params"]) == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_features_are_made_once_for_each_fold(data, tmp_path, monkeypatch):
    monkeypatch.setattr(CountedFeaturizer, "log", tmp_path / "log")
    pipe = pipeline(data, CountedFeaturizer, memory=Memory(tmp_path / "cache", verbose=0))
    X, y = data.structures[:20], data.target[:20]
    grid = {"embed__N": [0, 1], "nets__hidden_layer_sizes": [(2,), (3,)], "nets__alpha": [1e-3, 1e-2]}
    search = GridSearchCV(pipe, grid, cv=2, scoring=force_rmse_scorer)
    search.fit(X, y)
    fits = (tmp_path / "log").read_text().splitlines()
    assert sorted(fits[:-1]) == ["2 0"] * 2 + ["2 1"] * 2  # of 16 fits; then the refit
    search.fit(X, y)
    assert len((tmp_path / "log").read_text().splitlines()) == len(fits)


@pytest.mark.parametrize("kind", ["halving", "random"])
def test_other_searches(kind, data):
    grid = {"embed__N": [0, 1], "nets__alpha": [1e-3, 1e-2]}
    options = {"cv": 2, "scoring": force_rmse_scorer, "random_state": 0, "error_score": "raise"}
    if kind == "halving":
        search = HalvingGridSearchCV(
            pipeline(data),
            grid,
            resource="nets__max_iter",
            min_resources=2,
            max_resources=4,
            factor=2,
            **options,
        )
    else:
        search = RandomizedSearchCV(pipeline(data), grid, n_iter=3, **options)
    search.fit(data.structures, data.target)
    assert set(search.best_params_) >= set(grid)


def threads_of_a_fit(data):
    from threadpoolctl import threadpool_info

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline(data).fit(data.structures, data.target)
    return max(library["num_threads"] for library in threadpool_info())


@pytest.mark.slow
def test_workers_keep_to_the_threads_they_were_given(data, monkeypatch):
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    with parallel_config("loky", inner_max_num_threads=1):
        found = Parallel(n_jobs=2)(delayed(threads_of_a_fit)(data) for _ in range(2))
    assert found == [1, 1]


@pytest.mark.skipif(parse_version(sklearn.__version__) < parse_version("1.9"), reason="has no callbacks")
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_progress_is_shown(n_jobs, data, capsys):
    from sklearn.callback import ProgressBar

    search = GridSearchCV(pipeline(data), {"nets__alpha": [1e-3, 1e-2]}, cv=2, n_jobs=n_jobs)
    search.set_params(scoring=force_rmse_scorer)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search.set_callbacks(ProgressBar()).fit(data.structures, data.target)
    shown = capsys.readouterr().out
    assert "GridSearchCV" in shown
    assert "100%" in shown
