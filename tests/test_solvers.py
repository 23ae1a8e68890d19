"""Training loops: gradients, agreement of NumPy and TensorFlow, patience, batches, interrupts."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from site_rows import site_rows

from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.keras_loops import _draw_batches, _graph_loss, _penalty, _Tensors, trainable
from tinynet_sklearn.networks import build_custom, glorot_stack, with_arrays
from tinynet_sklearn.objective import StackObjective
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet
from tinynet_sklearn.solvers import SOLVERS, choose_solver, late_decrease

OPTIONS = Options(max_iter=30, tol=1e-6, alpha=1e-4, batch_size=4, learning_rate=0.01, seed=1)

#: Solvers that can train any Keras model.
FOR_KERAS = ["adam", "lbfgs"]

#: Solvers that take all rows at once and log the loss of the weights they hold.
FULL_BATCH = sorted(set(SOLVERS) - {"adam"})


def training_set(n_rows=60, seed=0, dtype="float64"):
    rng = np.random.RandomState(seed)
    rows = rng.randn(n_rows, 5)
    targets = np.stack([np.sin(rows[:, 0]), rows[:, 1] * rows[:, 2]], axis=1)
    weight = rng.uniform(0.5, 1.5, n_rows)
    structure = np.sort(rng.randint(0, n_rows // 3, n_rows))
    return TrainingSet(
        rows.astype(dtype),
        targets.astype(dtype),
        weight / weight.sum(),
        structure,
        (GroupAction.trivial(5),),
        np.zeros(n_rows, dtype=int),
    )


def site_training_set(case, vector, dtype="float64"):
    """Rows of a crystal; their targets know nothing of the site groups."""
    rows = site_rows(case, n=2, N=1)
    rng = np.random.RandomState(0)
    width = 3 if vector else 2
    targets = np.sin(20 * rows.values[:, -width:]) + 0.1 * rng.randn(len(rows.values), width)
    return rows.training_set(targets, rng.uniform(0.5, 1.5, len(rows.values)), vector, dtype)


def stack(dtype="float64"):
    return glorot_stack([5, 6, 2], "tanh", np.random.RandomState(2), dtype)


def stack_for(data, hidden=(6,)):
    sizes = [data.rows.shape[1], *hidden, data.targets.shape[1]]
    return glorot_stack(sizes, "tanh", np.random.RandomState(2), data.rows.dtype)


def loss_of(network, data, alpha=0.0):
    return StackObjective(network, data, alpha).value(network.flat())[0]


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


def plain_model(n_features, n_outputs, species):
    import keras

    return keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(n_outputs),
        ]
    )


def skip_model(n_features, n_outputs, species):
    import keras

    inputs = keras.Input((n_features,))
    hidden = keras.layers.Dense(6, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(n_outputs)(keras.layers.Concatenate()([inputs, hidden])))


#: Without groups, with one, and with several of different order in one network.
GROUPS = [None, ("perovskite O", True), ("alpha-MoO3 O", True), ("alpha-MoO3 O", False), ("fcc", False)]


def data_of(groups, dtype="float64"):
    return training_set(dtype=dtype) if groups is None else site_training_set(*groups, dtype)


@pytest.mark.parametrize("groups", GROUPS[:-1], ids=str)
@pytest.mark.parametrize("scatter", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_numpy_and_tensorflow_see_the_same_loss(groups, dtype, tolerance, scatter):
    import tensorflow as tf

    data = data_of(groups, dtype)
    network = stack_for(data)
    model = trainable(network)
    with tf.GradientTape() as tape:
        loss = _graph_loss(model, _Tensors.of(data, dtype), training=False, scatter=scatter)
        loss += _penalty(model, 0.1, loss.dtype)
    slopes = tape.gradient(loss, [v.value for v in model.trainable_variables])
    expected, gradient = StackObjective(network, data, 0.1, scatter).value(network.flat())
    assert_allclose(float(loss), expected, rtol=tolerance)
    assert_allclose(np.concatenate([s.numpy().ravel() for s in slopes]), gradient, atol=tolerance)


@pytest.mark.parametrize("groups", GROUPS[:-1], ids=str)
def test_numpy_and_tensorflow_take_the_same_path(groups):
    """The first steps of L-BFGS, before rounding has grown, on a dense network that only Keras knows."""
    data = data_of(groups, "float32")
    start = stack_for(data)
    by_keras = with_arrays(build_custom(plain_model, start.n_inputs, start.n_outputs, 8, 0), start.arrays)
    assert choose_solver("auto", by_keras) == "lbfgs"
    options = replace(OPTIONS, max_iter=12, alpha=1e-3, scatter=0.03)
    logs = [recorder(start), recorder(by_keras)]
    trained = [
        SOLVERS["lbfgs"](net, data, data, options, log)
        for net, log in zip((start, by_keras), logs, strict=True)
    ]
    assert_allclose(logs[0].loss, logs[1].loss, rtol=1e-3)
    assert_allclose(logs[0].validation, logs[1].validation, rtol=1e-3)
    assert_allclose(loss_of(trained[1].stack, data), logs[1].validation[-1], rtol=1e-5)
    assert logs[0].loss[-1] < 0.7 * logs[0].loss[0]


@pytest.mark.parametrize("groups", GROUPS[1:-1], ids=str)
def test_adam_trains_the_average_over_the_group(groups):
    """What it logs of the validation rows is the loss of the averaged network that it returns."""
    data = data_of(groups)
    start = stack_for(data)
    log = recorder(start)
    trained = SOLVERS["adam"](start, data, data, OPTIONS, log)
    assert_allclose(loss_of(trained, data), log.validation[-1], rtol=1e-12)
    assert log.validation[-1] < 0.8 * loss_of(start, data)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_solvers_lower_the_loss_and_repeat_bit_for_bit(solver, dtype):
    data, start = training_set(dtype=dtype), stack(dtype)
    logs = [recorder(start) for _ in range(2)]
    first, second = (SOLVERS[solver](start, data, None, OPTIONS, log) for log in logs)
    assert_array_equal(first.flat(), second.flat())
    assert first.dtype == np.dtype(dtype)
    before, after = (loss_of(net, data, OPTIONS.alpha) for net in (start, first))
    assert after < 0.7 * before
    assert logs[0].loss == logs[1].loss
    if solver in FULL_BATCH:
        assert_allclose(after, logs[0].loss[-1], rtol=1e-5)


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_variable_projection_ends_with_the_best_output_layer(groups):
    data = data_of(groups)
    start = stack_for(data, (6, 4))
    log = recorder(start)
    trained = SOLVERS["varpro"](start, data, None, OPTIONS, log)
    objective = StackObjective(start, data, OPTIONS.alpha)
    value, slope = objective.value(trained.flat())
    assert value == log.loss[-1]
    assert_allclose(slope[objective.n_hidden_parameters :], 0, atol=1e-10)
    assert log.loss == sorted(log.loss, reverse=True)
    assert value <= objective.projected(start.flat()[: objective.n_hidden_parameters])[0]


def test_variable_projection_does_not_look_at_the_output_layer_it_starts_from():
    data, start = training_set(), stack()
    n_hidden = start[:-1].n_parameters
    other = start.with_flat(np.concatenate([start.flat()[:n_hidden], np.full(14, 7.0)]))
    trained = [SOLVERS["varpro"](net, data, None, OPTIONS, recorder(net)) for net in (start, other)]
    assert_array_equal(trained[0].flat(), trained[1].flat())


@pytest.mark.parametrize("groups", GROUPS[1:4], ids=str)
def test_variable_projection_goes_farther_in_as_many_iterations(groups):
    data = data_of(groups)
    logs = {solver: recorder(stack_for(data)) for solver in ("varpro", "lbfgs")}
    for solver, log in logs.items():
        SOLVERS[solver](stack_for(data), data, None, OPTIONS, log)
    assert all(logs["varpro"].loss[k] < 0.9 * logs["lbfgs"].loss[k] for k in (0, 4, 9))


def test_the_solver_that_is_chosen():
    linear = glorot_stack([5, 2], "tanh", np.random.RandomState(0), "float64")
    by_keras = build_custom(skip_model, 5, 2, species=8, seed=0)
    assert [choose_solver("auto", net) for net in (stack(), linear, by_keras)] == ["varpro", "lbfgs", "lbfgs"]
    for solver in set(SOLVERS) - {"varpro"}:
        assert {choose_solver(solver, net) for net in (stack(), linear, by_keras)} == {solver}


@pytest.mark.parametrize("kind", ["without hidden layers", "of Keras"])
def test_variable_projection_of_networks_without_linear_output_layer(kind):
    if kind == "of Keras":
        start = build_custom(skip_model, 5, 2, species=8, seed=0)
    else:
        start = glorot_stack([5, 2], "tanh", np.random.RandomState(0), "float64")
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        SOLVERS["varpro"](start, training_set(), None, OPTIONS, recorder(start))
    assert str(error.value) == (
        "solver='varpro' needs a linear output layer behind hidden layers, and no build_fn. Use "
        "solver='lbfgs'."
    )


@pytest.mark.parametrize("solver", FULL_BATCH)
def test_a_start_at_the_minimum_is_one_iteration(solver):
    """Logged once, with the weights as they are."""
    data, start = training_set(), stack()
    options = Options(max_iter=5000, tol=1e-4, alpha=0.1, batch_size=4, learning_rate=0.01, seed=1)
    there = SOLVERS[solver](start, data, None, options, recorder(start))
    log = recorder(there)
    again = SOLVERS[solver](there, data, data, options, log)
    assert log.converged
    assert log.n_iter == len(log.validation) == 1
    assert_allclose(again.flat(), there.flat(), atol=1e-9)
    assert_allclose(log.loss[0], loss_of(there, data, 0.1), rtol=1e-12)


@pytest.mark.parametrize("solver", FOR_KERAS)
def test_solvers_train_any_keras_model(solver):
    data, held_out = training_set(), training_set(30, seed=5)
    start = build_custom(skip_model, 5, 2, species=8, seed=0)
    log = recorder(start, keep_best=True)
    trained = SOLVERS[solver](start, data, held_out, OPTIONS, log)
    assert log.n_iter == len(log.validation) > 3
    assert log.loss[-1] < log.loss[0]
    for kept, present in zip(log.weights, trained.arrays, strict=True):
        assert_array_equal(kept, present)


@pytest.mark.parametrize("groups", [None, ("alpha-MoO3 O", True)], ids=str)
@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_solvers_lower_the_loss_of_the_averaged_network(solver, groups):
    data = data_of(groups)
    start = stack_for(data)
    trained = SOLVERS[solver](start, data, None, OPTIONS, recorder(start))
    assert loss_of(trained, data, OPTIONS.alpha) < 0.7 * loss_of(start, data, OPTIONS.alpha)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_the_best_weights_on_held_out_rows_are_kept(solver):
    data, held_out = training_set(12), training_set(40, seed=5)  # few rows: overfitting is certain
    start = stack()
    options = Options(max_iter=200, tol=0.0, alpha=0.0, batch_size=4, learning_rate=0.03, seed=1)
    log = recorder(start, keep_best=True)
    kept = SOLVERS[solver](start, data, held_out, options, log)
    lowest = int(np.argmin(log.validation))
    assert lowest < log.n_iter - 1
    assert_allclose(loss_of(kept, held_out), log.validation[lowest], rtol=1e-12)
    assert log.kept_loss == log.loss[lowest]


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_patience(solver):
    data, held_out = training_set(12), training_set(40, seed=5)
    options = Options(max_iter=1000, tol=0.0, alpha=0.0, batch_size=4, learning_rate=0.03, seed=1)
    log = recorder(stack(), patience=10, keep_best=True)
    SOLVERS[solver](stack(), data, held_out, options, log)
    assert log.converged
    assert log.n_iter == int(np.argmin(log.validation)) + 1 + 10


def test_lbfgs_solves_a_linear_model():
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


@pytest.mark.parametrize("kind", ["dense", "of Keras"])
def test_networks_without_inputs_do_not_go_to_tensorflow(kind):
    """It would take the whole process down with it, in single precision at least."""
    start = glorot_stack([0, 4, 2], "tanh", np.random.RandomState(0), "float32")
    if kind == "of Keras":
        start = build_custom(plain_model, 0, 2, species=8, seed=0)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        trainable(start)
    assert str(error.value) == (
        "solver='adam' and build_fn need at least one column of X that varies over the atoms of each "
        "network; got none. Use solver='auto' without build_fn, which then learns the mean."
    )


def test_other_keras_backends_are_refused_by_name(monkeypatch):
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(RuntimeError) as error:
        trainable(stack())
    assert str(error.value) == (
        "solver='adam' and build_fn train through TensorFlow; Keras runs on 'jax' here. Set the environment "
        "variable KERAS_BACKEND=tensorflow, or use solver='lbfgs' without build_fn, which needs no backend."
    )
