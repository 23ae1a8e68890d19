"""Training loops: gradients, agreement of NumPy and TensorFlow, patience, batches, interrupts."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tinynet_sklearn.keras_loops import _draw_batches, _graph_loss, _penalty, _Tensors, trainable
from tinynet_sklearn.networks import build_custom, glorot_stack
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet
from tinynet_sklearn.solvers import SOLVERS, late_decrease, stack_loss

OPTIONS = Options(max_iter=30, tol=1e-6, alpha=1e-4, batch_size=4, learning_rate=0.01, seed=1)


def training_set(n_rows=60, seed=0, dtype="float64"):
    rng = np.random.RandomState(seed)
    rows = rng.randn(n_rows, 5)
    targets = np.stack([np.sin(rows[:, 0]), rows[:, 1] * rows[:, 2]], axis=1)
    weight = rng.uniform(0.5, 1.5, n_rows)
    structure = np.sort(rng.randint(0, n_rows // 3, n_rows))
    return TrainingSet(rows.astype(dtype), targets.astype(dtype), weight / weight.sum(), structure)


def stack(dtype="float64"):
    return glorot_stack([5, 6, 2], "tanh", np.random.RandomState(2), dtype)


def recorder(network, patience=None, keep_best=False, tol=1e-6, verbose=0):
    return Recorder("Ti", network.arrays, patience, tol, keep_best, verbose)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ([3.0], 1.0),
        ([4.0, 3.0], 0.25),
        ([9.0] * 17 + [5.0, 4.0, 3.0], 0.4),  # the last 2 of 20
        ([9.0] * 10 + [1.0] + [2.0] * 9, 0.0),  # a loss that rose again
        ([0.0] * 20, 0.0),
    ],
)
def test_late_decrease(loss, expected):
    assert late_decrease(loss) == pytest.approx(expected)


def skip_model(n_features, n_outputs, species):
    import keras

    inputs = keras.Input((n_features,))
    hidden = keras.layers.Dense(6, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(n_outputs)(keras.layers.Concatenate()([inputs, hidden])))


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_gradient_of_the_loss(alpha):
    data, start = training_set(), stack()
    _, gradient = stack_loss(start, data, alpha)
    flat, step = start.flat(), 1e-6
    values = [stack_loss(start.with_flat(flat + s), data, alpha)[0] for s in step * np.eye(len(flat))]
    lower = [stack_loss(start.with_flat(flat - s), data, alpha)[0] for s in step * np.eye(len(flat))]
    numerical = (np.array(values) - lower) / (2 * step)
    assert_allclose(gradient, numerical, atol=1e-8)


def test_loss_is_the_weighted_mean_squared_error():
    data, network = training_set(), stack()
    error = np.square(network.forward(data.rows) - data.targets).mean(axis=1)
    penalty = 0.1 * sum(np.square(w).sum() for w in network.weights)
    assert_allclose(stack_loss(network, data, 0.1, gradient=False)[0], error @ data.weight + penalty)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_numpy_and_tensorflow_see_the_same_loss(dtype, tolerance):
    import tensorflow as tf

    data, network = training_set(dtype=dtype), stack(dtype)
    model = trainable(network)
    with tf.GradientTape() as tape:
        loss = _graph_loss(model, _Tensors.of(data, dtype), training=False)
        loss += _penalty(model, 0.1, loss.dtype)
    slopes = tape.gradient(loss, [v.value for v in model.trainable_variables])
    expected, gradient = stack_loss(network, data, 0.1)
    assert_allclose(float(loss), expected, rtol=tolerance)
    assert_allclose(np.concatenate([s.numpy().ravel() for s in slopes]), gradient, atol=tolerance)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_solvers_lower_the_loss_and_repeat_bit_for_bit(solver, dtype):
    data, start = training_set(dtype=dtype), stack(dtype)
    logs = [recorder(start) for _ in range(2)]
    first, second = (SOLVERS[solver](start, data, None, OPTIONS, log) for log in logs)
    assert_array_equal(first.flat(), second.flat())
    assert first.dtype == np.dtype(dtype)
    before, after = (stack_loss(net, data, OPTIONS.alpha)[0] for net in (start, first))
    assert after < 0.7 * before
    assert logs[0].loss == logs[1].loss
    if solver == "lbfgs":
        assert_allclose(after, logs[0].loss[-1], rtol=1e-5)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_solvers_train_any_keras_model(solver):
    data, held_out = training_set(), training_set(30, seed=5)
    start = build_custom(skip_model, 5, 2, species=8, seed=0)
    log = recorder(start, keep_best=True)
    trained = SOLVERS[solver](start, data, held_out, OPTIONS, log)
    assert log.n_iter == len(log.validation) > 3
    assert log.loss[-1] < log.loss[0]
    for kept, present in zip(log.weights, trained.arrays, strict=True):
        assert_array_equal(kept, present)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_the_best_weights_on_held_out_rows_are_kept(solver):
    data, held_out = training_set(12), training_set(40, seed=5)  # few rows: overfitting is certain
    start = stack()
    options = Options(max_iter=200, tol=0.0, alpha=0.0, batch_size=4, learning_rate=0.03, seed=1)
    log = recorder(start, keep_best=True)
    kept = SOLVERS[solver](start, data, held_out, options, log)
    lowest = int(np.argmin(log.validation))
    assert lowest < log.n_iter - 1
    assert_allclose(stack_loss(kept, held_out)[0], log.validation[lowest], rtol=1e-12)
    assert log.kept_loss == log.loss[lowest]


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_patience(solver):
    data, held_out = training_set(12), training_set(40, seed=5)
    options = Options(max_iter=1000, tol=0.0, alpha=0.0, batch_size=4, learning_rate=0.03, seed=1)
    log = recorder(stack(), patience=10, keep_best=True)
    SOLVERS[solver](stack(), data, held_out, options, log)
    assert log.converged
    assert log.n_iter == int(np.argmin(log.validation)) + 1 + 10


def test_lbfgs_converges_to_a_small_gradient():
    data, start = training_set(), glorot_stack([5, 2], "tanh", np.random.RandomState(0), "float64")
    log = recorder(start)
    linear = SOLVERS["lbfgs"](start, data, None, Options(500, 1e-9, 0.0, 4, 0.01, 0), log)
    assert log.converged
    design = np.column_stack([data.rows, np.ones(60)]) * np.sqrt(data.weight)[:, None]
    exact = np.linalg.lstsq(design, data.targets * np.sqrt(data.weight)[:, None], rcond=None)[0]
    assert_allclose(np.vstack([linear.weights[0], linear.biases[0]]), exact, atol=1e-7)


def test_batches_are_whole_structures():
    start = np.array([0, 3, 4, 9])
    order, bounds = _draw_batches(np.random.RandomState(0), start, 12, 3)
    assert_array_equal(np.sort(order), np.arange(12))
    assert len(bounds) == 3
    structures = np.repeat(np.arange(4), [3, 1, 5, 3])
    batches = [set(structures[order[a:b]]) for a, b in pairwise(bounds)]
    assert [len(b) for b in batches] == [3, 1]
    assert not batches[0] & batches[1]


def test_interrupt_leaves_the_best_weights_in_the_recorder():
    class Interrupting(Recorder):
        def step(self, loss, validation, weights):
            super().step(loss, validation, weights)
            if self.n_iter == 5:
                raise KeyboardInterrupt
            return False

    start = stack()
    log = Interrupting("Ti", start.arrays, None, 0.0, False)
    with pytest.raises(KeyboardInterrupt):
        SOLVERS["lbfgs"](start, training_set(), None, OPTIONS, log)
    assert log.n_iter == 5
    assert not np.array_equal(log.weights[0], start.weights[0])


def test_progress_is_printed_as_often_as_asked(capsys):
    data = training_set()
    SOLVERS["lbfgs"](stack(), data, data, OPTIONS, recorder(stack(), verbose=2))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("[Ti] iteration 10: loss ")
    assert ", validation " in lines[0]


def test_other_keras_backends_are_refused_by_name(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError) as error:
        trainable(stack())
    assert str(error.value) == (
        "solver='adam' and build_fn train through TensorFlow; Keras runs on 'jax' here. Set the environment "
        "variable KERAS_BACKEND=tensorflow, or use solver='lbfgs' without build_fn, which needs no backend."
    )
