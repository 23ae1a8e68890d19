"""Training loops: what turns a network and scaled rows into better weights.

A solver is a function ``(network, train, validation, options, recorder) -> network`` in the table `SOLVERS`.
It minimises

    loss = sum_i w_i |f(x_i) - y_i|^2 / (k sum_i w_i) + alpha * sum of squared matrix elements,

the mean squared error over rows and their k outputs with weight decay, and tells its `Recorder` after every
iteration how it stands.

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

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import minimize

from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.keras_loops import keras_objective, run_adam, trainable
from tinynet_sklearn.networks import DenseStack, KerasNetwork, with_arrays
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet
from tinynet_sklearn.scaling import row_blocks

__all__ = ["BATCHED_SOLVERS", "FAST_DECREASE", "SOLVERS", "late_decrease", "stack_loss"]

Network: TypeAlias = DenseStack | KerasNetwork

# L-BFGS remembers this many steps. Networks of this size gain from a longer memory than scipy's 10, and its
# cost stays far below that of one evaluation.
LBFGS_MEMORY = 30


# A training that reached its last iteration deserves a warning if its loss still fell by more than this
# fraction over the last tenth of the iterations. Less is how L-BFGS with a fixed budget is meant to end.
FAST_DECREASE = 0.05


def late_decrease(loss: Sequence[float]) -> float:
    """By which fraction the lowest loss fell over the last tenth of the iterations.

    Parameters
    ----------
    loss : sequence of float
        After each iteration, at least one.

    Returns
    -------
    float
        From 0 to 1; 1 after a single iteration, of which nothing is known.
    """
    if len(loss) < 2:
        return 1.0
    n_late = -(-len(loss) // 10)
    before, after = min(loss[:-n_late]), min(loss[-n_late:])
    return max(0.0, 1.0 - after / before) if before > 0 else 0.0


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
        objective = keras_objective(trainable(network), train, validation, options.alpha)
        _minimize(objective.evaluate, objective.watch, objective.arrays, objective.start, options, recorder)
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
    run_adam(trainable(network), train, validation, options, recorder)
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
