"""Training loops: what turns a network and scaled rows into better weights.

A solver is a function ``(network, train, validation, options, recorder) -> network`` in the table `SOLVERS`.
It minimises

    loss = sum_i w_i |f(x_i) - y_i|^2 / (k sum_i w_i) + alpha * sum of squared matrix elements,

the mean squared error over rows and their k outputs with weight decay, and tells its `Recorder` after every
iteration how it stands. The recorder keeps the histories and the best weights and decides when patience is
out; so it is also what survives when the user interrupts.

=========  =============  ====================  =====================================================
solver     `DenseStack`   `KerasNetwork`        one iteration
=========  =============  ====================  =====================================================
``lbfgs``  NumPy          one compiled graph    one line search over all rows
``adam``   (as Keras)     one compiled loop     one epoch of mini-batches of whole structures
=========  =============  ====================  =====================================================

For dense stacks of this size in float64, NumPy takes less processor time than a TensorFlow graph, and it
spares every worker the seconds of importing TensorFlow and tracing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from tinynet_sklearn.networks import (
    DenseStack,
    FloatArray,
    IntArray,
    KerasNetwork,
    as_numpy,
    keras_model,
    row_blocks,
    split_flat,
    unchanged_random_state,
    with_arrays,
)

__all__ = ["BATCHED_SOLVERS", "SOLVERS", "Options", "Recorder", "TrainingSet", "stack_loss"]

Network: TypeAlias = DenseStack | KerasNetwork

# L-BFGS remembers this many steps. Networks of this size gain from a longer memory than scipy's 10, and its
# cost stays far below that of one evaluation.
LBFGS_MEMORY = 30

# One compiled call runs whole epochs until about this many steps are done: enough to make the cost of the
# call vanish, few enough that an interrupt is answered at once.
STEPS_PER_CALL = 200


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Scaled rows of one network.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_inputs)
        Inputs.
    targets : ndarray of shape (n_rows, n_outputs)
        What the network should give.
    weight : ndarray of shape (n_rows,)
        Positive weights that sum to one.
    structure : ndarray of shape (n_rows,), int
        Ascending: which structure a row belongs to. Mini-batches are made of whole structures; solvers that
        take all rows at once do not look.
    """

    rows: FloatArray
    targets: FloatArray
    weight: FloatArray
    structure: IntArray


@dataclass(frozen=True)
class Options:
    """What the solvers can be told; names as in `BPNNRegressor`."""

    max_iter: int
    tol: float
    alpha: float
    batch_size: int
    learning_rate: float
    seed: int


@dataclass
class Recorder:
    """The log of one training run: histories, best weights, patience.

    Parameters
    ----------
    label : str
        What is being trained, for messages.
    weights : list of ndarray
        Initial weights, the best so far.
    patience : int or None
        Iterations without improvement after which to stop; None never stops.
    tol : float
        Relative decrease that counts as an improvement.
    keep_best : bool
        Whether the best weights are those of the lowest validation loss, rather than the last.
    verbose : int
        1, 2 and 3 print every 100th, every 10th and every iteration; 0 none.
    """

    label: str
    weights: list[FloatArray]
    patience: int | None
    tol: float
    keep_best: bool
    verbose: int = 0
    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    best: float = np.inf
    kept_loss: float = np.nan
    iterations_since_best: int = 0
    converged: bool = False
    cancelled: bool = False

    @property
    def n_iter(self) -> int:
        """Iterations done."""
        return len(self.loss)

    def history(self) -> dict[str, FloatArray]:
        """Loss and, where there was any, validation loss after each iteration, shape (n_iter,)."""
        curves = {"loss": np.array(self.loss)}
        return curves | {"validation": np.array(self.validation)} if self.validation else curves

    def step(self, loss: float, validation: float | None, weights: Callable[[], list[FloatArray]]) -> bool:
        """Take note of one iteration.

        Parameters
        ----------
        loss : float
            Training loss.
        validation : float or None
            Loss on the held-out structures, if there are any.
        weights : callable
            Gives a copy of the present weights; called only if they are kept.

        Returns
        -------
        bool
            Whether to stop.
        """
        self.loss.append(float(loss))
        if validation is not None:
            self.validation.append(float(validation))
        watched = self.loss[-1] if validation is None else self.validation[-1]
        if not self.keep_best or watched < self.best:
            self.weights = weights()
            self.kept_loss = self.loss[-1]
        if watched < self.best * (1 - self.tol):
            self.iterations_since_best = 0
        else:
            self.iterations_since_best += 1
        self.best = min(self.best, watched)
        if self.verbose and self.n_iter % max(1, 100 // 10 ** (self.verbose - 1)) == 0:
            held_out = "" if validation is None else f", validation {validation:.6g}"
            print(f"[{self.label}] iteration {self.n_iter}: loss {loss:.6g}{held_out}")
        if self.patience is not None and self.iterations_since_best >= self.patience:
            self.converged = True
        return self.converged or self.cancelled


def train_lbfgs(
    network: Network, train: TrainingSet, validation: TrainingSet | None, options: Options, recorder: Recorder
) -> Network:
    """Minimise the loss over all rows at once by limited-memory BFGS.

    The gradient is the termination test here: the run has converged when no component of it exceeds
    ``options.tol``.

    Parameters
    ----------
    network : DenseStack or KerasNetwork
        Start.
    train : TrainingSet
        Rows to fit.
    validation : TrainingSet or None
        Rows to watch.
    options : Options
        Uses `max_iter`, `tol` and `alpha`.
    recorder : Recorder
        Takes the log.

    Returns
    -------
    DenseStack or KerasNetwork
        With the weights that the recorder kept.

    References
    ----------
    D. C. Liu and J. Nocedal, On the limited memory BFGS method for large scale optimization, Mathematical
    Programming 45, 503 (1989).
    """
    if isinstance(network, DenseStack):
        _lbfgs_stack(network, train, validation, options, recorder)
    else:
        _lbfgs_keras(_trainable(network), train, validation, options, recorder)
    return with_arrays(network, recorder.weights)


def train_adam(
    network: Network, train: TrainingSet, validation: TrainingSet | None, options: Options, recorder: Recorder
) -> Network:
    """Minimise the loss by mini-batches of whole structures with Adam at a constant rate.

    Many steps run inside one compiled TensorFlow loop; Python sees the end of a call only. Without
    validation rows the run has converged when the loss of an epoch has not improved for the recorder's
    patience.

    Parameters
    ----------
    network : DenseStack or KerasNetwork
        Start.
    train : TrainingSet
        Rows to fit.
    validation : TrainingSet or None
        Rows to watch, once per epoch.
    options : Options
        Uses all but `tol`.
    recorder : Recorder
        Takes the log.

    Returns
    -------
    DenseStack or KerasNetwork
        With the weights that the recorder kept.

    References
    ----------
    D. P. Kingma and J. Ba, Adam: a method for stochastic optimization, ICLR 2015.
    """
    _adam_keras(_trainable(network), train, validation, options, recorder)
    return with_arrays(network, recorder.weights)


Solver: TypeAlias = Callable[[Network, TrainingSet, TrainingSet | None, Options, Recorder], Network]

SOLVERS: dict[str, Solver] = {"lbfgs": train_lbfgs, "adam": train_adam}
BATCHED_SOLVERS = {"adam"}  # those that need to know which structure a row belongs to


def stack_loss(
    stack: DenseStack, data: TrainingSet, alpha: float = 0.0, gradient: bool = True
) -> tuple[float, FloatArray]:
    """Loss of a dense stack and its gradient, in one pass over the rows.

    Parameters
    ----------
    stack : DenseStack
        The network.
    data : TrainingSet
        Rows of the stack's dtype.
    alpha : float
        Weight decay.
    gradient : bool
        False saves the way back.

    Returns
    -------
    loss : float
    gradient : ndarray of shape (n_parameters,), float64
        Zeros if not asked for.
    """
    loss = 0.0
    total = np.zeros(stack.n_parameters)
    share = (data.weight / stack.n_outputs).astype(stack.dtype, copy=False)
    for block in row_blocks(len(data.rows)):
        outputs = stack.layer_outputs(data.rows[block])
        error = outputs[-1] - data.targets[block]
        weighted = error * share[block, None]
        loss += float(np.vdot(weighted, error))
        if gradient:
            total += stack.backward(outputs, 2 * weighted)[0]
    if alpha:
        kernels = stack.flat() * stack.kernel_mask()
        loss += alpha * float(np.vdot(kernels, kernels))
        total += 2 * alpha * kernels
    return loss, total


def _lbfgs_stack(
    stack: DenseStack,
    train: TrainingSet,
    validation: TrainingSet | None,
    options: Options,
    recorder: Recorder,
) -> None:
    def present(flat: FloatArray) -> DenseStack:
        return stack.with_flat(flat.astype(stack.dtype, copy=False))

    def evaluate(flat: FloatArray) -> tuple[float, FloatArray]:
        return stack_loss(present(flat), train, options.alpha)

    def watch(flat: FloatArray) -> float | None:
        return None if validation is None else stack_loss(present(flat), validation, gradient=False)[0]

    _minimize(evaluate, watch, lambda flat: present(flat.copy()).arrays, stack.flat(), options, recorder)


def _minimize(
    evaluate: Callable[[FloatArray], tuple[float, FloatArray]],
    watch: Callable[[FloatArray], float | None],
    arrays: Callable[[FloatArray], list[FloatArray]],
    start: FloatArray,
    options: Options,
    recorder: Recorder,
) -> None:
    """Run scipy's L-BFGS-B on flat float64 parameters."""

    def after_iteration(intermediate_result: Any) -> None:
        flat = intermediate_result.x
        if recorder.step(intermediate_result.fun, watch(flat), lambda: arrays(flat)):
            raise StopIteration

    result = minimize(
        evaluate,
        start.astype(np.float64),
        jac=True,
        method="L-BFGS-B",
        callback=after_iteration,
        options={
            "maxiter": options.max_iter,
            "maxfun": 20 * options.max_iter,
            "maxcor": LBFGS_MEMORY,
            "gtol": options.tol,
            # In units of max(loss, 1): one rounding error, so that the gradient decides and not the loss,
            # which is small for a good fit.
            "ftol": float(np.finfo(np.float64).eps),
        },
    )
    # 1 is the iteration limit. 2 is a line search that finds nothing lower, the floor of the precision.
    if result.status != 1:
        recorder.converged = True
    if not recorder.loss:  # already at a minimum: no iteration was needed
        recorder.step(result.fun, watch(result.x), lambda: arrays(result.x))


def _trainable(network: Network) -> Any:
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


def _lbfgs_keras(
    model: Any, train: TrainingSet, validation: TrainingSet | None, options: Options, recorder: Recorder
) -> None:
    """L-BFGS on any Keras model in inference mode, where the loss is a function of the weights alone."""
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
            loss += _penalty(model, options.alpha, loss.dtype)
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
    _minimize(evaluate, watch, arrays, start, options, recorder)


def _adam_keras(
    model: Any, train: TrainingSet, validation: TrainingSet | None, options: Options, recorder: Recorder
) -> None:
    """Run Adam epochs in compiled calls, with the best weights kept inside the graph."""
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
