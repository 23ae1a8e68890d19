"""What a fit leaves behind when it fails, what a warm start may change, and numbers at the edge."""

import re

import numpy as np
import pytest

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, PerAtomArray, load_batio3, load_moo3

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def batio3():
    data = load_batio3()
    X = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit_transform(data.structures[:12])
    return X, data.target[:12]


def small(**settings):
    return BPNNRegressor(**({"hidden_layer_sizes": (6,), "max_iter": 15, "random_state": 0} | settings))


def test_a_fit_that_fails_leaves_the_last_one_as_it_was(batio3):
    X, y = batio3
    net = small().fit(X, y)
    before = net.predict(X).values
    net.set_params(symmetry_average=False, solver="lm", hidden_layer_sizes=(300, 300))
    with pytest.raises(ValueError, match="weights"):
        net.fit(X, y)
    np.testing.assert_array_equal(net.predict(X).values, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"networks": "shared"},
            "warm_start=True continues networks that were fitted with networks='per-species'; got 'shared'. "
            "Keep it, or set warm_start=False to begin anew.",
        ),
        (
            {"activation": "relu"},
            "warm_start=True continues networks that were fitted with activation='tanh'; got 'relu'. Keep "
            "it, or set warm_start=False to begin anew.",
        ),
        (
            {"dtype": "float32"},
            "warm_start=True continues networks that were fitted with dtype='float64'; got 'float32'. Keep "
            "it, or set warm_start=False to begin anew.",
        ),
    ],
)
def test_what_a_warm_start_cannot_change(batio3, change, message):
    net = small(warm_start=True).fit(*batio3)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        net.set_params(**change).fit(*batio3)


@pytest.mark.parametrize("batch_size", [1, 8, 40])
def test_weights_count_in_small_batches(batch_size):
    """Two answers for one question, one of them 100 times as certain."""
    y = np.tile([1.0, -1.0], 20)
    weight = np.where(y > 0, 100.0, 1.0)
    net = BPNNRegressor(
        (),
        solver="adam",
        alpha=0.0,
        batch_size=batch_size,
        learning_rate="cosine",
        learning_rate_init=0.03,
        max_iter=400,
        target_scaler=None,
        random_state=0,
    )
    net.fit(np.linspace(-1, 1, 40)[:, None], y, sample_weight=weight)
    assert net.predict(np.zeros((1, 1)))[0] == pytest.approx(99 / 101, abs=0.05)


@pytest.mark.parametrize("solver", ["varpro", "lbfgs", "lm"])
def test_ideal_geometry(solver):
    """No input varies: nothing to learn, nothing to fail."""
    data = load_batio3()
    X = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit_transform([data.structures[0]] * 3)
    y = X.with_values(np.zeros((len(X.values), 3)))
    predicted = small(solver=solver).fit(X, y).predict(X)
    np.testing.assert_allclose(predicted.values, 0.0, atol=0.02)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "X",
            "X must hold numbers whose squares can be added up; column 1 of O reaches 1e+200. Leave these "
            "structures out or repair them.",
        ),
        (
            "y",
            "y must hold numbers whose squares can be added up; column 0 of O reaches 1e+160. Leave these "
            "structures out or repair them.",
        ),
    ],
)
def test_numbers_too_large_to_be_squared(where, message):
    rng = np.random.RandomState(0)
    X = PerAtomArray.from_list([rng.randn(2, 3) for _ in range(8)], species=[[8, 8]] * 8)
    y = X.with_values(rng.randn(16, 2))
    values = (X if where == "X" else y).values
    values[3, 1 if where == "X" else 0] = 1e200 if where == "X" else 1e160
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        small().fit(X, y)


@pytest.mark.parametrize(("asked", "taken"), [(True, 8), (7, 4), (1000, 8), (2, 2), (False, 1)])
def test_the_operations_that_were_averaged_over(asked, taken):
    data = load_moo3()
    X = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit_transform(data.structures[:6])
    assert max(len(rotations) for rotations in X.frames.symmetry.rotations) == 8
    assert small(symmetry_average=asked, max_iter=2).fit(X, data.target[:6]).n_operations_ == taken


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_variable_projection_without_weight_decay_goes_on(dtype):
    data = load_moo3()
    X = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit_transform(data.structures[:20])
    net = small(hidden_layer_sizes=(16, 32), alpha=0.0, max_iter=60, dtype=dtype).fit(X, data.target[:20])
    assert len(net.history_[8]["loss"]) == 60
    assert net.history_[8]["loss"][-1] < 0.08


def test_variable_projection_is_not_replaced_in_silence():
    message = (
        "solver='varpro' needs a linear output layer behind hidden layers, and no build_fn. Use "
        "solver='lbfgs'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BPNNRegressor((), solver="varpro").fit(np.eye(4), np.arange(4.0))


def test_predictions_do_not_depend_on_parameters_set_after_the_fit(batio3):
    X, y = batio3
    net = small().fit(X, y)
    before = net.predict(X).values
    net.set_params(networks="per-site", symmetry_average=False)
    np.testing.assert_array_equal(net.predict(X).values, before)
