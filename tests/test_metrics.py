"""Force errors on every kind of input, against NumPy by hand."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.model_selection import GridSearchCV, GroupKFold

from tinynet_sklearn import BPNNRegressor, PerAtomArray
from tinynet_sklearn import metrics as m

SPECIES = [[8, 1, 1], [22, 8]]


@pytest.fixture
def forces():
    rng = np.random.RandomState(0)
    true = [rng.randn(3, 3), rng.randn(2, 3)]
    return true, [f + 0.1 * rng.randn(*f.shape) for f in true]


def kinds(parts):
    return [parts, tuple(parts), np.concatenate(parts), PerAtomArray.from_list(parts, species=SPECIES)]


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("second", range(4))
def test_all_kinds_of_input_agree(forces, first, second):
    true, predicted = forces
    error = np.concatenate(predicted) - np.concatenate(true)
    a, b = kinds(true)[first], kinds(predicted)[second]
    assert_allclose(m.force_rmse(a, b), np.sqrt(np.mean(error**2)))
    assert_allclose(m.force_mae(a, b), np.abs(error).mean())


def test_three_dimensional_arrays_are_structures(forces):
    same = np.stack([forces[0][0]] * 2)
    assert m.force_rmse(same, list(same)) == 0


@pytest.mark.parametrize("name", ["rmse", "mae", "cosine"])
def test_per_species(forces, name):
    true, predicted = forces
    whole, split = getattr(m, f"force_{name}"), getattr(m, f"force_{name}_per_species")
    a, b = np.concatenate(true), np.concatenate(predicted)
    numbers = np.concatenate(SPECIES)
    expected = {s: whole(a[numbers == z], b[numbers == z]) for s, z in (("H", 1), ("O", 8), ("Ti", 22))}
    assert list(split(true, predicted, SPECIES)) == ["H", "O", "Ti"]
    assert split(true, predicted, SPECIES) == expected
    assert split(a, b, numbers) == expected
    assert split(a, PerAtomArray.from_list(predicted, species=SPECIES)) == expected


def test_cosine():
    true = np.array([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 0.01], [1.0, 0, 0]])
    predicted = np.array([[5.0, 0, 0], [0, -1.0, 0], [9.0, 9, 9], [0, 0, 0]])
    assert m.force_cosine(true, predicted) == pytest.approx((1 - 1 + 0) / 3)
    assert np.isnan(m.force_cosine(true, predicted, threshold=10))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: m.force_rmse([np.ones((2, 3))], [np.ones((2, 3))] * 2),
            "y_true and y_pred must hold the same structures; got 1 and 2 of them.",
        ),
        (
            lambda: m.force_rmse([np.ones((2, 3)), np.ones((1, 3))], [np.ones((1, 3)), np.ones((2, 3))]),
            "y_true and y_pred must hold the same atoms; got 2 and 1 atoms in structure 0; 1 and 2 atoms in "
            "structure 1.",
        ),
        (
            lambda: m.force_rmse([np.ones((2, 3))] * 3, [np.ones((2, 1)), np.ones((2, 3)), np.ones((2, 3))]),
            "y_pred must all have the shape (n_atoms, 3); got (2, 1) for structure 0. Give all structures "
            "the same number of columns.",
        ),
        (
            lambda: m.force_mae(np.ones((2, 3)), np.ones((2, 2))),
            "y_true and y_pred must have the same rows and columns; got (2, 3) and (2, 2).",
        ),
        (
            lambda: m.force_mae(np.ones((0, 3)), np.ones((0, 3))),
            "y_true must be a PerAtomArray, a list with one (n_atoms, k) array per structure, or an array of "
            "shape (n_rows, k) with at least one row; got an array of shape (0, 3).",
        ),
        (
            lambda: m.force_mae(np.ones((2, 3)), np.array([[1, 1, 1], [1, np.nan, 1]])),
            "y_pred must be finite; got nan in row 1, column 1.",
        ),
        (
            lambda: m.force_cosine(np.ones((2, 2)), np.ones((2, 2))),
            "y_true and y_pred must have 3 columns, x, y and z, to have directions; got 2.",
        ),
        (
            lambda: m.force_rmse_per_species(np.ones((2, 3)), np.ones((2, 3))),
            "species must be given where neither y_true nor y_pred is a PerAtomArray that knows them; got "
            "None. "
            "Pass one atomic number per row.",
        ),
        (
            lambda: m.force_rmse_per_species(np.ones((2, 3)), np.ones((2, 3)), [8]),
            "species must hold one atomic number for each of the 2 rows; got 1 of type int64.",
        ),
        (
            lambda: m.force_rmse(
                PerAtomArray.from_list([np.ones((1, 3))], species=[[8]]),
                PerAtomArray.from_list([np.ones((1, 3))], species=[[1]]),
            ),
            "y_true and y_pred must list the atoms in the same order; row 0 is O in y_true and H in y_pred.",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        call()
    assert str(error.value) == message


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("scorer", [m.force_rmse_scorer, m.force_mae_scorer, m.force_cosine_scorer])
def test_scorers_in_a_grid_search(scorer):
    rng = np.random.RandomState(0)
    X = PerAtomArray.from_list([rng.randn(2, 3) for _ in range(20)], species=[[8, 1]] * 20)
    y = [np.tanh(x) for x in X]
    search = GridSearchCV(
        BPNNRegressor((4,), random_state=0), {"max_iter": [1, 60]}, scoring=scorer, cv=GroupKFold(2)
    )
    search.fit(X, y, groups=np.arange(20) % 4)
    assert search.best_params_ == {"max_iter": 60}
    assert (search.cv_results_["mean_test_score"] < 0).all() == (scorer is not m.force_cosine_scorer)
