"""Dense stacks against finite differences and Keras, scalings against scikit-learn."""

import random

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from tinynet_sklearn.networks import (
    ACTIVATIONS,
    DenseStack,
    KerasNetwork,
    build_custom,
    glorot_stack,
    keras_model,
    with_arrays,
)
from tinynet_sklearn.scaling import (
    BLOCK_ROWS,
    ColumnScaling,
    fit_input_scaling,
    fit_target_scaling,
    weighted_moments,
)

CLOSE = {"float64": 1e-12, "float32": 1e-5}


@pytest.fixture
def rng():
    return np.random.RandomState(0)


def skip_model(n_features, n_outputs, species):
    """A model that is no stack: its hidden layer is bypassed."""
    import keras

    inputs = keras.Input((n_features,))
    hidden = keras.layers.Dense(5, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(n_outputs)(keras.layers.Concatenate()([inputs, hidden])))


def plain_model(n_features, n_outputs, species):
    import keras

    return keras.Sequential(
        [
            keras.Input((n_features,)),
            keras.layers.Dense(5, activation="sigmoid", use_bias=False),
            keras.layers.Dense(n_outputs),
        ]
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_backward_is_the_derivative_of_forward(rng, activation):
    stack = glorot_stack([4, 6, 5, 3], activation, rng, "float64")
    stack = stack.with_flat(stack.flat() + 0.1 * rng.randn(stack.n_parameters))  # biases, too
    rows, slope = rng.randn(7, 4), rng.randn(7, 3)

    def scalar(flat, rows=rows):
        return float(np.vdot(slope, stack.with_flat(flat).forward(rows)))

    gradient, delta = stack.backward(stack.layer_outputs(rows), slope)
    flat, step = stack.flat(), 1e-6
    shifts = step * np.eye(len(flat))
    numerical = [(scalar(flat + s) - scalar(flat - s)) / (2 * step) for s in shifts]
    assert_allclose(gradient, numerical, atol=1e-7)
    by_row = delta @ stack.weights[0].T
    for row, column in ((0, 0), (3, 2), (6, 3)):
        shift = np.zeros_like(rows)
        shift[row, column] = step
        numerical = (scalar(flat, rows + shift) - scalar(flat, rows - shift)) / (2 * step)
        assert_allclose(by_row[row, column], numerical, atol=1e-7)


def test_flat_and_back(rng):
    stack = glorot_stack([4, 6, 3], "tanh", rng, "float32")
    again = stack.with_flat(stack.flat())
    assert stack.n_parameters == len(stack.flat()) == 4 * 6 + 6 + 6 * 3 + 3
    assert (stack.n_inputs, stack.n_outputs, stack.dtype) == (4, 3, np.float32)
    assert stack.layers == [{"units": 6, "activation": "tanh"}, {"units": 3, "activation": "linear"}]
    for a, b in zip(stack.arrays, again.arrays, strict=True):
        assert_array_equal(a, b)
    assert stack.kernel_mask().sum() == 4 * 6 + 6 * 3


def test_a_row_does_not_depend_on_the_rows_beside_it(rng):
    stack = glorot_stack([4, 6, 3], "tanh", rng, "float64")
    rows = rng.randn(2 * BLOCK_ROWS + 3, 4)
    assert_allclose(stack.forward(rows)[-5:], stack.forward(rows[-5:]), atol=1e-14)
    assert stack.forward(rows[:0]).shape == (0, 3)


def test_glorot_limits_and_seed():
    stack = glorot_stack([30, 50, 3], "tanh", np.random.RandomState(3), "float64")
    again = glorot_stack([30, 50, 3], "tanh", np.random.RandomState(3), "float64")
    assert_array_equal(stack.flat(), again.flat())
    limit = np.sqrt(6 / 80)
    assert 0.95 * limit < np.abs(stack.weights[0]).max() <= limit
    assert not stack.biases[0].any()


def test_aliases_are_those_of_mlpregressor(rng):
    assert glorot_stack([2, 2, 1], "logistic", rng, "float64").activations == ("sigmoid", "linear")
    assert glorot_stack([2, 2, 1], "identity", rng, "float64").activations == ("linear", "linear")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "softplus", "linear"])
def test_keras_model_computes_the_same(rng, activation, dtype):
    stack = glorot_stack([4, 6, 3], activation, rng, dtype)
    rows = rng.randn(9, 4).astype(dtype)
    assert_allclose(keras_model(stack, "net")(rows).numpy(), stack.forward(rows), atol=CLOSE[dtype])


def test_custom_stack_of_dense_layers_is_exported(rng):
    network = build_custom(plain_model, 4, 2, species=8, seed=1)
    assert isinstance(network.stack, DenseStack)
    assert network.stack.activations == ("sigmoid", "linear")
    rows = rng.randn(9, 4).astype("float32")
    assert_allclose(network.build()(rows).numpy(), network.stack.forward(rows), atol=1e-6)


def test_custom_model_of_another_kind_is_kept_as_configuration(rng):
    network = build_custom(skip_model, 4, 2, species=8, seed=1)
    assert isinstance(network, KerasNetwork)
    assert network.stack is None
    assert network.layers == network.config
    doubled = with_arrays(network, [2 * a for a in network.arrays])
    for a, b in zip(network.arrays, doubled.arrays, strict=True):
        assert_array_equal(2 * a, b)


def test_custom_models_are_seeded_and_leave_the_global_generators_alone():
    state = random.getstate()
    legacy = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what is tested
    first = build_custom(plain_model, 4, 2, species=8, seed=1)
    second = build_custom(plain_model, 4, 2, species=8, seed=1)
    other = build_custom(plain_model, 4, 2, species=8, seed=2)
    assert random.getstate() == state
    assert_array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002
    assert_array_equal(first.weights[0], second.weights[0])
    assert not np.array_equal(first.weights[0], other.weights[0])


def test_build_fn_must_return_a_model():
    with pytest.raises(TypeError) as error:
        build_custom(lambda *_: "model", 4, 2, species=8, seed=0)
    assert str(error.value) == (
        "build_fn(n_features, n_outputs, species) must return a keras.Model; got str for species 8."
    )


def test_build_fn_must_return_the_right_width():
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        build_custom(lambda n, k, z: plain_model(n, k + 1, z), 4, 2, species=8, seed=0)
    assert str(error.value) == (
        "build_fn must return a model that turns (n_rows, 4) into (n_rows, 2); for species 8 2 rows gave "
        "shape (2, 3). Use n_outputs as the units of its last layer."
    )


def test_build_fn_must_return_weights_to_train():
    def frozen(n_features, n_outputs, species):
        model = plain_model(n_features, n_outputs, species)
        model.trainable = False
        return model

    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole message is compared
        build_custom(frozen, 4, 2, species=8, seed=0)
    assert str(error.value) == (
        "build_fn must return a model with weights to train; the one for species 8 has none. Leave its "
        "layers "
        "trainable."
    )


def test_build_fn_must_return_a_model_that_can_be_rebuilt():
    import keras

    class Unknown(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.dense = keras.layers.Dense(units)

        def call(self, x):
            return self.dense(x)

    with pytest.raises(TypeError) as error:
        build_custom(lambda n, k, z: Unknown(k), 4, 2, species=8, seed=0)
    message = str(error.value)
    assert message.startswith(
        "build_fn must return a model that Keras can rebuild from its configuration; for species 8 that "
        "failed with: "
    )
    assert message.endswith(
        "Write it with the functional API, or register its classes with "
        "keras.saving.register_keras_serializable."
    )


@pytest.mark.parametrize(("how", "reference"), [("standard", StandardScaler()), ("minmax", MinMaxScaler())])
def test_input_scaling_is_that_of_scikit_learn(rng, how, reference):
    rows = rng.randn(50, 4) * [1, 10, 0.1, 3] + [0, 5, 1e3, -2]
    scaling = fit_input_scaling(rows, None, how)
    assert_allclose(scaling.apply(rows, "float64"), reference.fit_transform(rows), atol=1e-9)


def test_constant_columns_are_dropped_also_where_rounding_blurs_them(rng):
    rows = rng.randn(50, 4)
    rows[:, 1] = 7.0
    rows[:, 2] = 0.1 * 3 + 1e-17 * rng.randn(50)
    assert_array_equal(fit_input_scaling(rows, None, "standard").columns, [0, 3])
    assert_array_equal(fit_input_scaling(rows, None, None).columns, [0, 3])
    assert fit_input_scaling(rows[:1], None, "minmax").columns.size == 0


@pytest.mark.parametrize("how", ["standard", "minmax", None])
def test_integer_weights_count_like_repetitions(rng, how):
    rows, weight = rng.randn(10, 3), rng.randint(1, 4, 10)
    weighted = fit_input_scaling(rows, weight.astype(float), how)
    repeated = fit_input_scaling(rows.repeat(weight, axis=0), None, how)
    assert_allclose(weighted.offset, repeated.offset, atol=1e-14)
    assert_allclose(weighted.scale, repeated.scale, atol=1e-14)


def test_variance_of_small_differences_of_large_numbers(rng):
    rows = 1e8 + rng.randn(5000, 1)
    assert_allclose(weighted_moments(rows, None)[1], rows.var(axis=0), rtol=1e-6)


def test_target_scaling(rng):
    targets = rng.randn(40, 3) * [1, 2, 3] + [5, 0, 0]
    per_column = fit_target_scaling(targets, None, "standard", isotropic=False)
    assert_allclose(per_column.scale, targets.std(axis=0))
    vector = fit_target_scaling(targets, None, "standard", isotropic=True)
    assert_allclose(vector.scale, np.sqrt(targets.var(axis=0).mean()))
    assert_allclose(vector.offset, targets.mean(axis=0))
    assert_allclose(vector.invert(vector.apply(targets, "float64")), targets, atol=1e-12)
    assert_array_equal(fit_target_scaling(targets, None, None, isotropic=True).scale, 1)
    assert_array_equal(fit_target_scaling(np.full((5, 2), 0.1), None, "standard", isotropic=False).scale, 1)


def test_scaling_does_not_write_into_its_input(rng):
    rows = rng.randn(5, 2)
    rows.setflags(write=False)
    scaling = ColumnScaling(np.arange(2), np.ones(2), np.full(2, 2.0))
    assert_allclose(scaling.apply(rows, "float32"), (rows - 1) / 2, atol=1e-6)
