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
from tinynet_sklearn.recorder import Arrays, Options, Recorder, TrainingSet
from tinynet_sklearn.thread_limits import limit_tensorflow_threads

__all__ = ["KerasObjective", "keras_objective", "moments_of", "run_adam", "trainable"]

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
    limit_tensorflow_threads()
    if network.n_inputs == 0:  # oneDNN ends the process over empty matrices in single precision
        raise ValueError(
            "solver='adam' and build_fn need at least one column of X that varies over the atoms of each "
            "network; got none. Use solver='auto' without build_fn, which then learns the mean."
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
    turns: Any

    @classmethod
    def of(cls, data: TrainingSet, dtype: str) -> _Tensors:
        import tensorflow as tf

        # Weights of mean one: those of a batch count against the whole, not against each other.
        arrays = (_images(data), data.targets, data.weight * len(data.rows), _turns(data))
        return cls(*(None if a is None else tf.constant(a, dtype=dtype) for a in arrays))

    def take(self, rows: Any) -> _Tensors:
        """A batch."""
        import tensorflow as tf

        tensors = (self.rows, self.targets, self.weight, self.turns)
        return _Tensors(*(None if t is None else tf.gather(t, rows) for t in tensors))


def _n_images(data: TrainingSet) -> int:
    """Images per row: a multiple of every group's order, so that all rows have equally many."""
    return int(np.lcm.reduce([action.n_operations for action in data.actions]))


def _images(data: TrainingSet) -> FloatArray:
    """Rows (n_rows, n_inputs), or their images (n_rows, n_images, n_inputs) where there is a group."""
    if not data.averages:
        return data.rows
    n_images = _n_images(data)
    images = np.empty((len(data.rows), n_images, data.rows.shape[1]), dtype=data.rows.dtype)
    for site, action in enumerate(data.actions):
        ours = data.site == site
        images[ours] = np.tile(action.images(data.rows[ours]), (1, n_images // action.n_operations, 1))
    return images


def _turns(data: TrainingSet) -> FloatArray | None:
    """What turns the vector outputs of all images back and averages them, (n_rows, n_images, 3, 3)."""
    if not data.averages or not data.actions[0].turns_outputs:
        return None
    n_images = _n_images(data)
    turns = [np.tile(a.rotations, (n_images // a.n_operations, 1, 1)) / n_images for a in data.actions]
    return np.stack(turns)[data.site]


def _outputs(model: Any, data: _Tensors, training: bool) -> tuple[Any, Any]:
    """The model's outputs (n_rows, k), averaged over the images of each row, and their scatter (n_rows,)."""
    import tensorflow as tf

    if len(data.rows.shape) == 2:
        return model(data.rows, training=training), None
    n_images, n_inputs = data.rows.shape[1:]
    outputs = model(tf.reshape(data.rows, [-1, n_inputs]), training=training)
    outputs = tf.reshape(outputs, [-1, n_images, outputs.shape[-1]])
    if data.turns is None:
        average = tf.reduce_mean(outputs, axis=1)
    else:
        average = tf.einsum("ngi,ngij->nj", outputs, tf.cast(data.turns, outputs.dtype))
    lengths = tf.reduce_mean(tf.reduce_sum(tf.square(outputs), axis=2), axis=1)
    return average, lengths - tf.reduce_sum(tf.square(average), axis=1)


def _graph_loss(model: Any, data: _Tensors, training: bool, scatter: float = 0.0) -> Any:
    """Mean squared error as a TensorFlow scalar, of all rows or as an estimate from a batch of them."""
    import tensorflow as tf

    average, scattered = _outputs(model, data, training)
    error = tf.cast(average, data.targets.dtype) - data.targets
    per_row = tf.reduce_mean(tf.square(error), axis=1)
    if scatter and scattered is not None:
        per_row += scatter / error.shape[1] * tf.cast(scattered, per_row.dtype)
    return tf.tensordot(per_row, data.weight, 1) / tf.cast(tf.shape(per_row)[0], per_row.dtype)


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
    model: Any, train: TrainingSet, validation: TrainingSet | None, alpha: float, scatter: float = 0.0
) -> KerasObjective:
    """Compile the loss of any Keras model in inference mode, where it depends on the weights alone.

    Parameters
    ----------
    model : keras.Model
    train, validation : TrainingSet
    alpha : float
        Weight decay.
    scatter : float
        Weight of the scatter of the outputs over a site group.
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
            loss = _graph_loss(model, data, training=False, scatter=scatter)
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
        Takes the log; may bring the moments of an earlier run, or its whole state.
    """
    import tensorflow as tf

    dtype = _precision(model)
    structure_start = np.flatnonzero(np.diff(train.structure, prepend=-1))
    n_batches = -(-len(structure_start) // options.batch_size)
    epochs_per_call = max(1, STEPS_PER_CALL // n_batches)
    data = _Tensors.of(train, dtype)
    held_out = None if validation is None else _Tensors.of(validation, dtype)
    with unchanged_random_state(options.seed):
        run_epochs, variables = _adam_graph(model, data, held_out, options, recorder, n_batches)
    best = variables["best"]
    rng = np.random.RandomState(options.seed)
    _take_up(recorder.taken_up, variables, rng)

    def state() -> Arrays:
        _, key, position, *_ = rng.get_state()
        batches = {"batches.key": np.array(key), "batches.position": np.array(position)}
        arrays = {f"{name}.{k}": as_numpy(v) for name, vs in variables.items() for k, v in enumerate(vs)}
        return arrays | batches

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
        latest = [as_numpy(w.value) for w in model.weights]
        finite = _finite([losses.numpy(), watched.numpy(), *latest])
        snapshot = latest if finite and not recorder.keep_best else [as_numpy(v) for v in best]
        if not _finite(snapshot):
            snapshot = recorder.weights
        for loss, value in zip(losses.numpy(), watched.numpy(), strict=True):
            recorder.step(loss, None if validation is None else value, lambda kept=snapshot: kept)  # type: ignore[misc]
        if not finite:
            recorder.diverged = True
            if not recorder.keep_best:  # the loss of an epoch is no promise for the weights at its end
                for weight, values in zip(model.weights, snapshot, strict=True):
                    weight.assign(values)
                recorder.kept_loss = float(_graph_loss(model, data, training=False))
            return
        recorder.save(state)
    recorder.save(state, now=True)
    recorder.left_behind = moments_of(state())


def _adam_graph(
    model: Any,
    data: _Tensors,
    held_out: _Tensors | None,
    options: Options,
    recorder: Recorder,
    n_batches: int,
) -> tuple[Callable[..., Any], dict[str, list[Any]]]:
    """Compile the loop over epochs and batches.

    Returns
    -------
    run_epochs : callable
        ``(order (n_epochs, n_rows), bounds (n_epochs, n_batches + 1), best, since_best)`` to the losses and
        watched values of the epochs that were run; fewer than given when patience ran out.
    state : dict of str to list of variables
        "model" (seeds of its random layers included), "best", its weights after the epoch with the lowest
        watched value, "first" and "second", the moments of its slopes, "steps", their number, and
        "position", the steps of this training alone.
    """
    import tensorflow as tf

    variables = model.trainable_variables
    with tf.init_scope():
        best = [tf.Variable(w.value) for w in model.weights]
        first = [tf.Variable(tf.zeros(v.shape, v.dtype)) for v in variables]
        second = [tf.Variable(tf.zeros(v.shape, v.dtype)) for v in variables]
        steps, position = (tf.Variable(0, dtype=tf.int64) for _ in range(2))
    loss_type = data.targets.dtype
    patience = recorder.patience if recorder.patience is not None else np.iinfo(np.int32).max

    def one_step(rows: Any) -> Any:
        batch = data.take(rows)
        with tf.GradientTape() as tape:
            loss = _graph_loss(model, batch, training=True, scatter=options.scatter)
            loss += _penalty(model, options.alpha, loss_type)
        slopes = tape.gradient(loss, [v.value for v in variables], unconnected_gradients="zero")
        t = tf.cast(steps.assign_add(1), tf.float64)
        rate = tf.constant(options.learning_rate, tf.float64)
        if options.schedule == "cosine":  # from the full rate at the first step to zero after the last
            share = tf.cast(position, tf.float64) / (options.max_iter * n_batches)
            rate *= 0.5 * (1 + tf.cos(np.pi * share))
        position.assign_add(1)
        for variable, m, v, slope in zip(variables, first, second, slopes, strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=m.handle,
                v=v.handle,
                beta1_power=tf.cast(0.9**t, variable.dtype),
                beta2_power=tf.cast(0.999**t, variable.dtype),
                lr=tf.cast(rate, variable.dtype),
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
    state = {"model": model.variables, "best": best, "first": first, "second": second}
    return run_epochs.get_concrete_function(), state | {"steps": [steps], "position": [position]}


def _finite(arrays: list[FloatArray]) -> bool:
    return all(bool(np.isfinite(a).all()) for a in arrays)


def moments_of(state: Arrays) -> Arrays:
    """What of the state of Adam serves a new training of the same network."""
    return {name: array for name, array in state.items() if name.startswith(("first.", "second.", "steps."))}


def _take_up(arrays: Arrays, variables: dict[str, list[Any]], rng: np.random.RandomState) -> None:
    """Set the variables and the generator of batches for which there are arrays."""
    for name, members in variables.items():
        for k, variable in enumerate(members):
            if f"{name}.{k}" in arrays:
                variable.assign(arrays[f"{name}.{k}"])
    if "batches.key" in arrays:
        state = {"key": arrays["batches.key"], "pos": int(arrays["batches.position"])}
        rng.set_state({"bit_generator": "MT19937", "state": state})


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
