"""Ultrasmall dense networks as plain arrays, and their passage to and from Keras.

A `DenseStack` is everything that remains of a network once it is built: matrices, biases and the names of
its activations. It evaluates and differentiates itself with NumPy, so a fitted model predicts in
microseconds, pickles as arrays and never needs TensorFlow. A network that is no plain stack of dense layers
is kept as a `KerasNetwork`: its configuration and its weights.

==================  ====================  ==========================================================
name                shape                 meaning
==================  ====================  ==========================================================
rows                (n_rows, n_inputs)    scaled inputs, one row per atom
weights[l]          (n_in, n_out)         matrix of layer ``l``: ``z = a @ weights[l] + biases[l]``
biases[l]           (n_out,)              bias of layer ``l``
outputs[l]          (n_rows, n_out)       ``a`` after layer ``l``; ``outputs[0]`` are the rows themselves
flat                (n_parameters,)       W0, b0, W1, b1, ... raveled in C order, one after the other
==================  ====================  ==========================================================

Keras and TensorFlow are imported inside the functions that need them, here and in `keras_loops` and
nowhere else.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.special import expit

from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.scaling import row_blocks

__all__ = [
    "ACTIVATIONS",
    "DenseStack",
    "KerasNetwork",
    "build_custom",
    "glorot_stack",
    "keras_model",
    "with_arrays",
]

BuildFn: TypeAlias = Callable[[int, int, int], Any]

# Python's generator belongs to the whole process, and networks are built and traced in threads side by side.
_RANDOM_STATE_LOCK = threading.RLock()

# Float32 rounding of a small network is 100 times below this, a forgotten operation far above.
EXPORT_TOLERANCE = 1e-4


def _softplus(z: FloatArray) -> None:
    np.logaddexp(z, z.dtype.type(0), out=z)


# What an activation's curvature is made from: its output a and its slope s there.
Curvature = Callable[[FloatArray, FloatArray], FloatArray]

_CURVATURES: dict[str, Curvature | None] = {
    "tanh": lambda a, s: -2 * a * s,
    "sigmoid": lambda a, s: (1 - 2 * a) * s,
    "softplus": lambda a, s: (1 - s) * s,
    "linear": None,
}

#: Activations with continuous slopes: those of which a force is made.
SMOOTH_ACTIVATIONS = ("tanh", "sigmoid", "softplus", "linear", "identity", "logistic")

# name: (activation in place, its slope from its *output* a); needing only a saves one array per layer
_ACTIVATIONS: dict[str, tuple[Callable[[FloatArray], Any], Callable[[FloatArray], FloatArray | None]]] = {
    "tanh": (lambda z: np.tanh(z, out=z), lambda a: 1 - a * a),
    "sigmoid": (lambda z: expit(z, out=z), lambda a: a * (1 - a)),
    "relu": (lambda z: np.maximum(z, 0, out=z), lambda a: (a > 0).astype(a.dtype)),
    "softplus": (_softplus, lambda a: -np.expm1(-a)),
    "linear": (lambda z: None, lambda a: None),
}
_ALIASES = {"identity": "linear", "logistic": "sigmoid"}  # the names of MLPRegressor

ACTIVATIONS = (*_ACTIVATIONS, *_ALIASES)


@dataclass(frozen=True, eq=False)
class DenseStack:
    """Dense layers one after the other.

    Parameters
    ----------
    weights : tuple of ndarray of shape (n_in, n_out)
        One matrix per layer.
    biases : tuple of ndarray of shape (n_out,)
        One per layer.
    activations : tuple of str
        One of `ACTIVATIONS` per layer.

    Examples
    --------
    >>> import numpy as np
    >>> stack = DenseStack((np.ones((2, 1)),), (np.zeros(1),), ("linear",))
    >>> stack.forward(np.array([[1.0, 2.0]]))
    array([[3.]])
    """

    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]
    activations: tuple[str, ...]

    @property
    def n_inputs(self) -> int:
        """Width of the input rows."""
        return int(self.weights[0].shape[0])

    @property
    def n_outputs(self) -> int:
        """Width of the output rows."""
        return int(self.weights[-1].shape[1])

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases."""
        return sum(w.size + b.size for w, b in zip(self.weights, self.biases, strict=True))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of weights and arithmetic."""
        return self.weights[0].dtype

    @property
    def arrays(self) -> list[FloatArray]:
        """W0, b0, W1, b1, ..., the order of Keras."""
        return [a for pair in zip(self.weights, self.biases, strict=True) for a in pair]

    @property
    def layers(self) -> list[dict[str, Any]]:
        """What a person needs to rebuild the network: units and activation of each layer."""
        return [
            {"units": len(b), "activation": name}
            for b, name in zip(self.biases, self.activations, strict=True)
        ]

    def flat(self) -> FloatArray:
        """All parameters in one new vector of shape (n_parameters,)."""
        return np.concatenate([a.ravel() for a in self.arrays])

    def with_flat(self, flat: FloatArray) -> DenseStack:
        """Return a stack of the same form whose parameters are views into `flat`, shape (n_parameters,)."""
        arrays = list(split_flat(flat, [a.shape for a in self.arrays]))
        return replace(self, weights=tuple(arrays[::2]), biases=tuple(arrays[1::2]))

    def __getitem__(self, layers: slice) -> DenseStack:
        """Some of the layers as a stack of their own, which may be empty."""
        return DenseStack(self.weights[layers], self.biases[layers], self.activations[layers])

    def astype(self, dtype: DTypeLike) -> DenseStack:
        """Copy in another precision."""
        return self.with_flat(self.flat().astype(dtype))

    def kernel_mask(self) -> NDArray[np.bool_]:
        """Which entries of `flat` are matrix elements rather than biases: those that weight decay acts on."""
        return np.concatenate([np.full(a.size, a.ndim == 2) for a in self.arrays])

    def layer_outputs(self, rows: FloatArray) -> list[FloatArray]:
        """Outputs of all layers, the rows themselves first; what `backward` wants.

        Parameters
        ----------
        rows : ndarray of shape (n_rows, n_inputs)
            Scaled inputs.

        Returns
        -------
        list of ndarray of shape (n_rows, n_out)
            One more than there are layers.
        """
        outputs = [rows]
        for weight, bias, name in zip(self.weights, self.biases, self.activations, strict=True):
            a = outputs[-1] @ weight
            a += bias
            _ACTIVATIONS[name][0](a)
            outputs.append(a)
        return outputs

    def slope_factors(self, outputs: Sequence[FloatArray]) -> list[FloatArray | None]:
        """Slope of each layer's activation, from what `layer_outputs` gave; None where it is 1."""
        return [_ACTIVATIONS[name][1](a) for name, a in zip(self.activations, outputs[1:], strict=True)]

    def curvature(self, layer: int, output: FloatArray, slope: FloatArray) -> FloatArray | None:
        """Second derivative of a layer's activation, from its output and slope; None where it is 0."""
        function = _CURVATURES[self.activations[layer]]
        return None if function is None else function(output, slope)

    def forward(self, rows: FloatArray) -> FloatArray:
        """Evaluate the network.

        Parameters
        ----------
        rows : ndarray of shape (n_rows, n_inputs)
            Scaled inputs.

        Returns
        -------
        ndarray of shape (n_rows, n_outputs)
        """
        rows = np.asarray(rows, dtype=self.dtype)
        result = np.empty((len(rows), self.n_outputs), dtype=self.dtype)
        for block in row_blocks(len(rows)):
            result[block] = self.layer_outputs(rows[block])[-1]
        return result

    def backward(self, outputs: Sequence[FloatArray], slope: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Pull the gradient of a scalar back through the network.

        Parameters
        ----------
        outputs : list of ndarray
            From `layer_outputs`.
        slope : ndarray of shape (n_rows, n_outputs)
            Derivative of the scalar with respect to the network's outputs.

        Returns
        -------
        gradient : ndarray of shape (n_parameters,)
            Derivative with respect to `flat`, summed over rows.
        delta : ndarray of shape (n_rows, n_hidden)
            Derivative with respect to the first layer's sums ``z``; ``delta @ weights[0].T`` is the
            derivative with respect to the rows, left to the caller because training does not need it.
        """
        parts: list[FloatArray] = []
        delta = slope
        for layer in range(len(self.weights) - 1, -1, -1):
            factor = _ACTIVATIONS[self.activations[layer]][1](outputs[layer + 1])
            if factor is not None:
                delta = delta * factor
            parts += [delta.sum(axis=0), (outputs[layer].T @ delta).ravel()]
            if layer > 0:
                delta = delta @ self.weights[layer].T
        return np.concatenate(parts[::-1]), delta


@dataclass(frozen=True, eq=False)
class KerasNetwork:
    """A Keras model of any architecture, kept as configuration and weights.

    Parameters
    ----------
    config : str
        What ``model.to_json()`` gave.
    weights : tuple of ndarray
        What ``model.get_weights()`` gave.
    n_inputs, n_outputs : int
        Widths of its input and output rows.
    stack : DenseStack or None, default=None
        The same function as plain arrays, where the model is nothing but dense layers.
    """

    config: str
    weights: tuple[FloatArray, ...]
    n_inputs: int
    n_outputs: int
    stack: DenseStack | None = None

    @property
    def arrays(self) -> list[FloatArray]:
        """The weights in the order of Keras."""
        return list(self.weights)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the weights."""
        return self.weights[0].dtype

    @property
    def layers(self) -> str:
        """The configuration as JSON."""
        return self.config

    def build(self) -> Any:
        """Make the Keras model anew. Nothing random is left in it: all weights are set."""
        import keras

        with unchanged_random_state(seed=0):
            model = keras.models.model_from_json(self.config)
            if not model.built:
                model.build((None, self.n_inputs))
            model.set_weights(list(self.weights))
        return model


def network_of(model: Any, n_inputs: int, n_outputs: int) -> KerasNetwork:
    """Take the present state of a Keras model, with its dense form where it has one."""
    weights = tuple(as_numpy(w.value) for w in model.weights)
    return KerasNetwork(model.to_json(), weights, n_inputs, n_outputs, _dense_stack(model, n_inputs))


def glorot_stack(
    sizes: Sequence[int], activation: str, rng: np.random.RandomState, dtype: DTypeLike
) -> DenseStack:
    """Draw a network as Keras would: Glorot uniform matrices, zero biases, a linear last layer.

    Parameters
    ----------
    sizes : sequence of int
        Number of inputs, units of each hidden layer, number of outputs.
    activation : str
        Of the hidden layers, one of `ACTIVATIONS`.
    rng : numpy.random.RandomState
        Source of the numbers; drawn in float64 whatever the dtype.
    dtype : dtype
        Of the result.

    Returns
    -------
    DenseStack

    References
    ----------
    X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural networks,
    AISTATS 2010.
    """
    weights, biases = [], []
    for n_in, n_out in pairwise(sizes):
        limit = np.sqrt(6.0 / (n_in + n_out))
        weights.append(rng.uniform(-limit, limit, size=(n_in, n_out)).astype(dtype))
        biases.append(np.zeros(n_out, dtype=dtype))
    name = _ALIASES.get(activation, activation)
    return DenseStack(tuple(weights), tuple(biases), (name,) * (len(sizes) - 2) + ("linear",))


def build_custom(build_fn: BuildFn, n_inputs: int, n_outputs: int, species: int, seed: int) -> KerasNetwork:
    """Call the user's ``build_fn`` and take its model over.

    Parameters
    ----------
    build_fn : callable
        ``build_fn(n_features, n_outputs, species)`` returning a Keras model.
    n_inputs, n_outputs, species, seed : int
        What to pass on, and the seed of every initialiser that brings none of its own.

    Returns
    -------
    KerasNetwork

    Raises
    ------
    TypeError
        If the result is not a Keras model, or not one that Keras can rebuild from its configuration.
    ValueError
        If the model does not turn (n_rows, n_inputs) into (n_rows, n_outputs).
    """
    import keras

    with unchanged_random_state(seed):
        model = build_fn(n_inputs, n_outputs, species)
        if not isinstance(model, keras.Model):
            raise TypeError(
                "build_fn(n_features, n_outputs, species) must return a keras.Model; got "
                f"{type(model).__name__} for species {species}."
            )
        shape = tuple(model(np.zeros((2, n_inputs), dtype=np.float32)).shape)
        if not model.trainable_variables:
            raise ValueError(
                "build_fn must return a model with weights to train; the one for species "
                f"{species} has none. Leave its layers trainable."
            )
    if shape != (2, n_outputs):
        raise ValueError(
            f"build_fn must return a model that turns (n_rows, {n_inputs}) into (n_rows, {n_outputs}); for "
            f"species {species} 2 rows gave shape {shape}. Use n_outputs as the units of its last layer."
        )
    try:
        network = network_of(model, n_inputs, n_outputs)
        network.build()
    except Exception as error:  # Keras raises whatever the missing class happens to trip over
        raise TypeError(
            "build_fn must return a model that Keras can rebuild from its configuration; for species "
            f"{species} that failed with: {str(error).splitlines()[0]} Write it with the functional API, or "
            "register its classes with keras.saving.register_keras_serializable."
        ) from error
    return network


def keras_model(stack: DenseStack, name: str) -> Any:
    """Give a stack the form of a Keras model with the same weights."""
    import keras

    dtype = stack.dtype.name
    # Explicit names and a policy per layer: nothing is added to the counters and settings of the session.
    inputs = keras.Input((stack.n_inputs,), dtype=dtype, name=f"{name}_inputs")
    x = inputs
    with unchanged_random_state(seed=0):
        for number, layer in enumerate(stack.layers):
            x = keras.layers.Dense(**layer, dtype=dtype, name=f"{name}_dense_{number}")(x)
        model = keras.Model(inputs, x, name=name)
    model.set_weights(stack.arrays)
    return model


def _dense_stack(model: Any, n_inputs: int) -> DenseStack | None:
    """Read a Keras model as a `DenseStack`, or None if it is anything else."""
    import keras

    layers = [layer for layer in model.layers if type(layer) is not keras.layers.InputLayer]
    if not layers or any(type(layer) is not keras.layers.Dense for layer in layers):
        return None
    names = [layer.activation.__name__ for layer in layers]
    if any(name not in _ACTIVATIONS for name in names):
        return None
    weights = [as_numpy(layer.kernel.value) for layer in layers]
    if weights[0].shape[0] != n_inputs or any(w.shape[1] != v.shape[0] for w, v in pairwise(weights)):
        return None
    biases = [
        as_numpy(layer.bias.value) if layer.use_bias else np.zeros(w.shape[1], dtype=w.dtype)
        for layer, w in zip(layers, weights, strict=True)
    ]
    stack = DenseStack(tuple(weights), tuple(biases), tuple(names))
    # The list of layers does not say how they are wired (skips, added outputs), so compare the functions.
    rows = np.random.RandomState(0).uniform(-1, 1, (8, n_inputs)).astype(stack.dtype)
    same = np.allclose(
        as_numpy(model(rows)), stack.forward(rows), rtol=EXPORT_TOLERANCE, atol=EXPORT_TOLERANCE
    )
    return stack if same else None


def with_arrays(
    network: DenseStack | KerasNetwork, arrays: Sequence[FloatArray]
) -> DenseStack | KerasNetwork:
    """Return the same architecture with other weights, given in the order of Keras."""
    if isinstance(network, DenseStack):
        return network.with_flat(np.concatenate([np.ravel(a) for a in arrays]))
    model = network.build()
    model.set_weights(list(arrays))
    return network_of(model, network.n_inputs, network.n_outputs)


def as_numpy(tensor: Any) -> FloatArray:
    """Copy a tensor of any Keras backend."""
    # Not np.array(tensor): the tensors of TensorFlow warn about the copy= of NumPy 2.
    return np.array(tensor.numpy() if hasattr(tensor, "numpy") else tensor)


@contextmanager
def unchanged_random_state(seed: int) -> Iterator[None]:
    """Seed Python's generator, from which Keras draws its default seeds, and put it back afterwards.

    One thread at a time: the others wait until the generator is back where it was.
    """
    with _RANDOM_STATE_LOCK:
        state = random.getstate()
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)


def split_flat(flat: FloatArray, shapes: Sequence[tuple[int, ...]]) -> Iterator[FloatArray]:
    """Cut a flat vector into views of the given shapes."""
    start = 0
    for shape in shapes:
        stop = start + int(np.prod(shape))
        yield flat[start:stop].reshape(shape)
        start = stop
