"""Training of Keras models inside TensorFlow: compiled losses, and whole epochs of Adam in one call.

No Python runs between the steps of a call; the solvers of `tinynet_sklearn.solvers` see its end only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.networks import (
    DenseStack,
    KerasNetwork,
    as_numpy,
    keras_model,
    split_flat,
    unchanged_random_state,
)
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet

__all__ = ["KerasObjective", "keras_objective", "run_adam", "trainable"]

# One compiled call runs whole epochs until about this many steps are done: enough to make the cost of the
# call vanish, few enough that an interrupt is answered at once.
STEPS_PER_CALL = 200


def trainable(network: DenseStack | KerasNetwork) -> Any:
    """Build the Keras model of a network for training through TensorFlow."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "solver='adam' and build_fn train through TensorFlow; Keras runs on "
            f"{keras.backend.backend()!r} here. Set the environment variable KERAS_BACKEND=tensorflow, or "
            "use solver='lbfgs' without build_fn, which needs no backend."
        )
    return keras_model(network, "network") if isinstance(network, DenseStack) else network.build()


def _precision(model: Any) -> str:
    """Precision of the arithmetic; a functional model's own policy may differ from that of its layers."""
    return str(model.trainable_variables[0].dtype)


@dataclass(frozen=True, eq=False)
class _Tensors:
    """A training set on the TensorFlow side, in the precision of the model."""

    rows: Any
    targets: Any
    weight: Any

    @classmethod
    def of(cls, data: TrainingSet, dtype: str) -> _Tensors:
        import tensorflow as tf

        return cls(*(tf.constant(a, dtype=dtype) for a in (data.rows, data.targets, data.weight)))


def _graph_loss(model: Any, data: _Tensors, training: bool) -> Any:
    """Mean squared error as a TensorFlow scalar; `weight` need not sum to one (mini-batches)."""
    import tensorflow as tf

    error = tf.cast(model(data.rows, training=training), data.targets.dtype) - data.targets
    per_row = tf.reduce_mean(tf.square(error), axis=1)
    return tf.tensordot(per_row, data.weight, 1) / tf.reduce_sum(data.weight)


def _penalty(model: Any, alpha: float, dtype: Any) -> Any:
    """Weight decay on every matrix, and what the user's layers ask for themselves."""
    import tensorflow as tf

    terms = [tf.cast(term, dtype) for term in model.losses]
    if alpha:
        terms += [
            alpha * tf.reduce_sum(tf.square(tf.cast(v.value, dtype)))
            for v in model.trainable_variables
            if len(v.shape) >= 2
        ]
    return tf.add_n(terms) if terms else tf.zeros((), dtype)


@dataclass(frozen=True, eq=False)
class KerasObjective:
    """The loss of a Keras model as functions of its flat weights, for an optimiser outside TensorFlow.

    Parameters
    ----------
    start : ndarray of shape (n_parameters,)
        The present weights.
    evaluate : callable
        Flat weights to loss and gradient.
    watch : callable
        Flat weights to the loss on the validation rows, None without such rows.
    arrays : callable
        Flat weights to the list of the model's weights.
    """

    start: FloatArray
    evaluate: Callable[[FloatArray], tuple[float, FloatArray]]
    watch: Callable[[FloatArray], float | None]
    arrays: Callable[[FloatArray], list[FloatArray]]


def keras_objective(
    model: Any, train: TrainingSet, validation: TrainingSet | None, alpha: float
) -> KerasObjective:
    """Compile the loss of any Keras model in inference mode, where it depends on the weights alone.

    Parameters
    ----------
    model : keras.Model
    train, validation : TrainingSet
    alpha : float
        Weight decay.
    """
    import tensorflow as tf

    dtype = _precision(model)
    data = _Tensors.of(train, dtype)
    held_out = None if validation is None else _Tensors.of(validation, dtype)
    variables = model.trainable_variables
    shapes = [tuple(v.shape) for v in variables]

    @tf.function(autograph=False)
    def graph() -> Any:
        with tf.GradientTape() as tape:
            loss = _graph_loss(model, data, training=False)
            loss += _penalty(model, alpha, loss.dtype)
        slopes = tape.gradient(loss, [v.value for v in variables], unconnected_gradients="zero")
        return loss, tf.concat([tf.cast(tf.reshape(s, [-1]), tf.float64) for s in slopes], axis=0)

    concrete = graph.get_concrete_function()

    @tf.function(autograph=False)
    def validation_graph() -> Any:
        return None if held_out is None else _graph_loss(model, held_out, training=False)

    held_out_loss = validation_graph.get_concrete_function()

    def assign(flat: FloatArray) -> None:
        for variable, values in zip(variables, split_flat(flat, shapes), strict=True):
            variable.assign(values)

    def evaluate(flat: FloatArray) -> tuple[float, FloatArray]:
        assign(flat)
        loss, slope = concrete()
        return float(loss), slope.numpy()

    def watch(flat: FloatArray) -> float | None:
        if held_out is None:
            return None
        assign(flat)
        return float(held_out_loss())

    def arrays(flat: FloatArray) -> list[FloatArray]:
        assign(flat)
        return [as_numpy(w.value) for w in model.weights]

    start = np.concatenate([as_numpy(v.value).ravel() for v in variables])
    return KerasObjective(start, evaluate, watch, arrays)


def run_adam(
    model: Any, train: TrainingSet, validation: TrainingSet | None, options: Options, recorder: Recorder
) -> None:
    """Run Adam epochs in compiled calls, with the best weights kept inside the graph.

    Parameters
    ----------
    model : keras.Model
    train, validation : TrainingSet
    options : Options
        Uses all but `tol`.
    recorder : Recorder
        Takes the log.
    """
    import tensorflow as tf

    dtype = _precision(model)
    structure_start = np.flatnonzero(np.diff(train.structure, prepend=-1))
    n_batches = -(-len(structure_start) // options.batch_size)
    epochs_per_call = max(1, STEPS_PER_CALL // n_batches)
    with unchanged_random_state(options.seed):
        run_epochs, best = _adam_graph(
            model,
            _Tensors.of(train, dtype),
            None if validation is None else _Tensors.of(validation, dtype),
            options,
            recorder,
        )
    rng = np.random.RandomState(options.seed)
    while recorder.n_iter < options.max_iter and not (recorder.converged or recorder.cancelled):
        n_epochs = min(epochs_per_call, options.max_iter - recorder.n_iter)
        epochs = [
            _draw_batches(rng, structure_start, len(train.rows), options.batch_size) for _ in range(n_epochs)
        ]
        losses, watched = run_epochs(
            tf.constant(np.stack([order for order, _ in epochs])),
            tf.constant(np.stack([bounds for _, bounds in epochs])),
            tf.constant(recorder.best, dtype),
            tf.constant(recorder.iterations_since_best, tf.int32),
        )
        kept = best if recorder.keep_best else [w.value for w in model.weights]
        snapshot = [as_numpy(v) for v in kept]
        for loss, value in zip(losses.numpy(), watched.numpy(), strict=True):
            recorder.step(loss, None if validation is None else value, lambda kept=snapshot: kept)  # type: ignore[misc]


def _adam_graph(
    model: Any, data: _Tensors, held_out: _Tensors | None, options: Options, recorder: Recorder
) -> tuple[Callable[..., Any], list[Any]]:
    """Compile the loop over epochs and batches.

    Returns
    -------
    run_epochs : callable
        ``(order (n_epochs, n_rows), bounds (n_epochs, n_batches + 1), best, since_best)`` to the losses and
        watched values of the epochs that were run; fewer than given when patience ran out.
    best : list of tf.Variable
        Weights of the epoch with the lowest watched value.
    """
    import tensorflow as tf

    variables = model.trainable_variables
    with tf.init_scope():
        best = [tf.Variable(w.value) for w in model.weights]
        first = [tf.Variable(tf.zeros(v.shape, v.dtype)) for v in variables]
        second = [tf.Variable(tf.zeros(v.shape, v.dtype)) for v in variables]
        steps = tf.Variable(0, dtype=tf.int64)
    loss_type = data.targets.dtype
    patience = recorder.patience if recorder.patience is not None else np.iinfo(np.int32).max

    def one_step(rows: Any) -> Any:
        batch = _Tensors(*(tf.gather(a, rows) for a in (data.rows, data.targets, data.weight)))
        with tf.GradientTape() as tape:
            loss = _graph_loss(model, batch, training=True)
            loss += _penalty(model, options.alpha, loss_type)
        slopes = tape.gradient(loss, [v.value for v in variables], unconnected_gradients="zero")
        t = tf.cast(steps.assign_add(1), tf.float64)
        for variable, m, v, slope in zip(variables, first, second, slopes, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=tf.cast(0.9**t, variable.dtype),
                beta2_power=tf.cast(0.999**t, variable.dtype),
                lr=tf.constant(options.learning_rate, variable.dtype),
                beta1=tf.constant(0.9, variable.dtype),
                beta2=tf.constant(0.999, variable.dtype),
                epsilon=tf.constant(1e-7, variable.dtype),
                grad=slope,
            )
        return loss

    def one_epoch(order: Any, bounds: Any) -> Any:
        n_batches = tf.shape(bounds)[0] - 1

        def body(number: Any, total: Any) -> tuple[Any, Any]:
            rows = order[bounds[number] : bounds[number + 1]]
            share = tf.cast(bounds[number + 1] - bounds[number], loss_type)
            return number + 1, total + share * one_step(rows)

        zero = tf.zeros((), loss_type)
        _, total = tf.while_loop(lambda number, _: number < n_batches, body, (tf.constant(0), zero))
        return total / tf.cast(bounds[-1], loss_type)

    @tf.function(
        autograph=False,
        input_signature=[
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([], loss_type),
            tf.TensorSpec([], tf.int32),
        ],
    )
    def run_epochs(orders: Any, bounds: Any, lowest: Any, since_best: Any) -> tuple[Any, Any]:
        n_epochs = tf.shape(orders)[0]
        log = tf.TensorArray(loss_type, n_epochs, element_shape=())

        def body(epoch: Any, lowest: Any, since_best: Any, losses: Any, watched: Any) -> tuple[Any, ...]:
            loss = one_epoch(orders[epoch], bounds[epoch])
            value = loss if held_out is None else _graph_loss(model, held_out, training=False)

            def keep() -> Any:
                for kept, present in zip(best, model.weights, strict=True):
                    kept.assign(present.value)
                return tf.constant(0)

            tf.cond(value < lowest, keep, lambda: tf.constant(0))
            improved = value < lowest * (1 - recorder.tol)
            since_best = tf.where(improved, 0, since_best + 1)
            lowest = tf.minimum(lowest, value)
            return epoch + 1, lowest, since_best, losses.write(epoch, loss), watched.write(epoch, value)

        epoch, *_, losses, watched = tf.while_loop(
            lambda epoch, lowest, since_best, *_: (epoch < n_epochs) & (since_best < patience),
            body,
            (tf.constant(0), lowest, since_best, log, log),
        )
        return losses.stack()[:epoch], watched.stack()[:epoch]

    # The concrete function: TensorFlow counts traces per source line and would warn after a few fits.
    return run_epochs.get_concrete_function(), best


def _draw_batches(
    rng: np.random.RandomState, structure_start: IntArray, n_rows: int, batch_size: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Shuffle structures and cut the shuffled rows into batches of `batch_size` structures.

    Returns
    -------
    order : ndarray of shape (n_rows,), int32
        All rows, structure after structure.
    bounds : ndarray of shape (n_batches + 1,), int32
        Batch ``b`` owns ``order[bounds[b]:bounds[b + 1]]``.
    """
    shuffled = rng.permutation(len(structure_start))
    stop = np.append(structure_start[1:], n_rows)
    counts = (stop - structure_start)[shuffled]
    ends = np.cumsum(counts)
    order = np.arange(n_rows) + np.repeat(structure_start[shuffled] - (ends - counts), counts)
    last_of_batch = np.append(np.arange(batch_size, len(ends), batch_size), len(ends)) - 1
    bounds = np.concatenate([[0], ends[last_of_batch]])
    return order.astype(np.int32), bounds.astype(np.int32)
