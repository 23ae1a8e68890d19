"""Training loops: what turns a network and scaled rows into better weights.

A solver is a function ``(network, train, validation, options, recorder) -> network`` in the table `SOLVERS`.
It minimises

    loss = sum_i w_i |p(x_i) - y_i|^2 / (k sum_i w_i) + alpha * sum of squared matrix elements,

the mean squared error over rows and their k outputs with weight decay, and tells its `Recorder` after every
iteration how it stands. p is the network, averaged over the site group where the rows say so.

===========  ====================  ====================  ==================================================
solver       `DenseStack`          `KerasNetwork`        one iteration
===========  ====================  ====================  ==================================================
``varpro``   NumPy                 (not linear enough)   one line search; the output layer is solved exactly
``lbfgs``    NumPy                 one compiled graph    one line search over all rows
``lm``       NumPy                 (not linear enough)   one damped Gauss-Newton step (`gauss_newton`)
``adam``     (as Keras)            one compiled loop     one epoch of mini-batches of whole structures
===========  ====================  ====================  ==================================================

For dense stacks of this size in float64, NumPy takes less processor time than a TensorFlow graph, and it
spares every worker the seconds of importing TensorFlow and tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.gauss_newton import train_lm
from tinynet_sklearn.keras_loops import keras_objective, run_adam, trainable
from tinynet_sklearn.lbfgs import LBFGSState, run_lbfgs
from tinynet_sklearn.networks import DenseStack, KerasNetwork, with_arrays
from tinynet_sklearn.objective import StackObjective
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet

__all__ = ["BATCHED_SOLVERS", "FAST_DECREASE", "SOLVERS", "choose_solver", "late_decrease", "why"]

Network: TypeAlias = DenseStack | KerasNetwork

# A training that reached its last iteration deserves a warning if its loss still fell by more than this
# fraction over the last tenth of the iterations. Less is how L-BFGS with a fixed budget is meant to end.
FAST_DECREASE = 0.05


# Levenberg-Marquardt needs some ten times fewer iterations than variable projection. Up to here they are
# cheap enough for it to be as fast at the usual weight decay, and much faster at less: benchmarks/solvers.py.
SMALL_NETWORK = 300
FEW_ROWS = 1000

_REASONS = {
    "varpro": "its output layer is linear and can be solved exactly",
    "lbfgs": "it has no linear output layer behind hidden layers, or a link or vectors behind it",
    "lm": f"it has at most {SMALL_NETWORK} weights and {FEW_ROWS:,} rows",
}


def choose_solver(solver: str, network: Network, train: TrainingSet | None = None) -> str:
    """What ``solver="auto"`` means for a network.

    Where the last layer is linear and layers stand before it, Levenberg-Marquardt if network and training set
    are small, else variable projection; L-BFGS for other networks.

    Parameters
    ----------
    solver : str
        Key of `SOLVERS`, or "auto".
    network : DenseStack or KerasNetwork
        What is to be trained.
    train : TrainingSet or None, default=None
        Its rows; without them the choice does not look at sizes.

    Returns
    -------
    str
        Key of `SOLVERS`.
    """
    if solver != "auto":
        return solver
    linked = train is not None and (train.link is not None or train.basis is not None)
    if not isinstance(network, DenseStack) or len(network.weights) == 1 or linked:
        return "lbfgs"
    small = train is not None and network.n_parameters <= SMALL_NETWORK and len(train.rows) <= FEW_ROWS
    # Averages would need the scatter in J^T J, which "lm" leaves out.
    return "lm" if small and train is not None and not train.averages else "varpro"


def why(solver: str) -> str:
    """In one clause, why `choose_solver` took a solver."""
    return _REASONS[solver]


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


def train_varpro(
    network: Network, train: TrainingSet, validation: TrainingSet | None, options: Options, recorder: Recorder
) -> Network:
    """Minimise the loss by L-BFGS over the hidden layers, with the best output layer at every point.

    Parameters
    ----------
    network : DenseStack
        Start; its output layer does not matter.
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
    DenseStack
        With the weights that the recorder kept.

    Raises
    ------
    ValueError
        If the network has no linear output layer behind hidden layers.

    References
    ----------
    G. H. Golub and V. Pereyra, Separable nonlinear least squares: the variable projection method and its
    applications, Inverse Problems 19, R1 (2003).
    """
    if not isinstance(network, DenseStack) or len(network.weights) == 1:
        raise ValueError(
            "solver='varpro' needs a linear output layer behind hidden layers, and no build_fn. Use "
            "solver='lbfgs'."
        )
    objective = StackObjective(network, train, options.alpha, options.scatter)
    n_hidden = objective.n_hidden_parameters
    latest: list[FloatArray] = [np.full(n_hidden, np.nan), network.flat()]

    def evaluate(hidden: FloatArray) -> tuple[float, FloatArray]:
        loss, slope, flat = objective.projected(hidden)
        latest[:] = hidden.copy(), flat
        return loss, slope

    def complete(hidden: FloatArray) -> FloatArray:
        if not np.array_equal(latest[0], hidden):  # the line search came back to an earlier point
            evaluate(hidden)
        return latest[1]

    _descend(evaluate, complete, network.flat()[:n_hidden], objective, validation, options, recorder)
    return with_arrays(network, recorder.weights)


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
        objective = StackObjective(network, train, options.alpha, options.scatter)
        _descend(objective.value, lambda flat: flat, network.flat(), objective, validation, options, recorder)
    else:
        compiled = keras_objective(trainable(network), train, validation, options.alpha, options.scatter)
        _run(compiled.evaluate, compiled.watch, compiled.arrays, compiled.start, options, recorder)
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

SOLVERS: dict[str, Solver] = {
    "varpro": train_varpro,
    "lbfgs": train_lbfgs,
    "lm": train_lm,
    "adam": train_adam,
}
BATCHED_SOLVERS = {"adam"}  # those that need to know which structure a row belongs to


def _descend(
    evaluate: Callable[[FloatArray], tuple[float, FloatArray]],
    complete: Callable[[FloatArray], FloatArray],
    start: FloatArray,
    objective: StackObjective,
    validation: TrainingSet | None,
    options: Options,
    recorder: Recorder,
) -> None:
    """L-BFGS on (some of) the flat weights of a dense stack; `complete` adds those that are missing."""
    watched = None if validation is None else objective.on(validation)

    def watch(x: FloatArray) -> float | None:
        return None if watched is None else watched.error(complete(x))

    _run(evaluate, watch, lambda x: objective.network(complete(x)).arrays, start, options, recorder)


def _run(
    evaluate: Callable[[FloatArray], tuple[float, FloatArray]],
    watch: Callable[[FloatArray], float | None],
    arrays: Callable[[FloatArray], list[FloatArray]],
    start: FloatArray,
    options: Options,
    recorder: Recorder,
) -> None:
    finite = True  # at the latest point

    def evaluate_or_refuse(x: FloatArray) -> tuple[float, FloatArray]:
        # A point where numbers overflow is one where the loss is infinite: a line search goes back from it.
        nonlocal finite
        value, slope = evaluate(x)
        finite = bool(np.isfinite(value) and np.isfinite(slope).all())
        return (value, slope) if finite else (np.inf, np.zeros_like(slope))

    def after_iteration(state: LBFGSState) -> bool:
        stop = recorder.step(state.value, watch(state.x), lambda: arrays(state.x))
        recorder.save(state.arrays)
        return stop or recorder.n_iter >= options.max_iter

    if recorder.taken_up:
        state = LBFGSState.from_arrays(recorder.taken_up)
    else:
        state = LBFGSState.start(start.astype(np.float64), evaluate_or_refuse)
    if not np.isfinite(state.value):
        recorder.diverged = True
        return
    at_minimum = run_lbfgs(evaluate_or_refuse, state, after_iteration, options.tol)
    if at_minimum and not recorder.n_iter:  # from the start: no iteration was needed
        recorder.step(state.value, watch(state.x), lambda: arrays(state.x))
    if at_minimum:
        descending = np.abs(state.slope).max(initial=0.0) > options.tol
        recorder.diverged |= bool(descending and not finite)
        recorder.converged = not recorder.diverged
    recorder.save(state.arrays, now=True)
