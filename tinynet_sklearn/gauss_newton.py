"""Levenberg-Marquardt for dense networks whose output layer is solved exactly.

Write the loss as a sum of squares, |f|² + alpha |W|², with one residual ``f = sqrt(w_i / k) (p_i - y_i)`` per
row and output. Near a point it is linear in a step s of the hidden weights and a step t of the output layer:

    |f + J s + A t|² + alpha |W + (s, t)|² + damping sum_j D_j s_j².

J is the Jacobian of the hidden weights and A the design matrix of the linear output layer, both averaged over
the site group of the row as the network is. The best t is eliminated (variable projection), which leaves

    (S + damping D) s = -g,    S = J^T J + alpha - J^T A (A^T A + alpha)^-1 A^T J,

with g half the slope of the loss. Only products are kept, summed over blocks of rows; J as a whole never is.
After the step the output layer is solved anew, so the damping holds back nothing but the hidden weights. D
is the square root of the largest diagonal of ``J^T J + alpha`` so far, half way between Levenberg (D = 1),
who creeps where the loss is flat, and Marquardt (the diagonal itself), who there leaps into poor minima.

===========  ====================  =========================================================================
name         shape                 meaning
===========  ====================  =========================================================================
jacobian     (e, q, p)             J of a block: e equations for each of q columns of output weights
design       (e, c)                A of a block, the same for all q columns
residual     (e, q)                f of a block
===========  ====================  =========================================================================

p is the number of hidden weights. A scalar output depends on its own column of output weights alone, so its
blocks of A^T A are equal and one is enough: e counts rows, q outputs, and c the hidden units and the bias.
A vector turns with the site group, which mixes all output weights: e counts components, and q is 1.

References
----------
L. Kaufman, A variable projection method for solving separable nonlinear least squares problems, BIT 15, 49
(1975). J. J. Moré, The Levenberg-Marquardt algorithm: implementation and theory, Lecture Notes in Mathematics
630, 105 (1978). H. B. Nielsen, Damping parameter in Marquardt's method, report IMM-REP-1999-05 (1999).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dsyrk, ssyrk

from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.networks import DenseStack, KerasNetwork, with_arrays
from tinynet_sklearn.objective import StackObjective
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet
from tinynet_sklearn.scaling import row_blocks

__all__ = ["LMState", "LeastSquares", "run_lm", "train_lm"]

# Networks with more weights are refused: a matrix of this size takes half a gigabyte, and a step holds three.
MOST_WEIGHTS = 8000

# Numbers in the Jacobian of one block of rows: long enough for fast products, small beside the matrix.
BLOCK_NUMBERS = 1 << 20
LEAST_ROWS = 16

# Damping of the first step, relative to D: hidden weights that start at random deserve little trust.
FIRST_DAMPING = 1e-2


@dataclass(frozen=True, eq=False)
class _Block:
    """Some rows of one site class; `share` is the square root of their weights, shared among the outputs."""

    rows: FloatArray
    targets: FloatArray
    share: FloatArray
    action: GroupAction

    def outputs_of_images(self, stack: DenseStack) -> list[FloatArray]:
        """Outputs of all layers for the images of the rows, each of shape (m * n_ops, n_out)."""
        n_operations = self.action.n_operations
        if n_operations == 1:
            return stack.layer_outputs(self.rows)
        n_images = len(self.rows) * n_operations
        return stack.layer_outputs(self.action.images(self.rows).reshape(n_images, stack.n_inputs))

    def output_equations(self, stack: DenseStack, outputs: list[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """Design matrix (e, c) and residual (e, q)."""
        residual = self.action.average(outputs[-1]) - self.targets
        return _output_equations(self.action.design(outputs[-2]), residual, self.share)


class LeastSquares(StackObjective):
    """The loss of networks of one form over one set of rows, as a sum of squares.

    Parameters
    ----------
    stack : DenseStack
        Gives the form; its weights do not matter. The last layer must be linear.
    data : TrainingSet
        The rows.
    alpha : float
        Weight decay.
    """

    def __init__(self, stack: DenseStack, data: TrainingSet, alpha: float) -> None:
        super().__init__(stack, data, alpha)
        self._decay = alpha * stack.kernel_mask()
        # Smaller than this, relative to the largest, numbers of a matrix of products are rounding.
        self.resolution = float(np.finfo(stack.dtype).eps) ** 0.75

    def loss(self, flat: FloatArray) -> float:
        """Mean squared error and weight decay at a point of shape (n_parameters,)."""
        return self.error(flat) + float(self._decay @ np.square(flat))

    def settled(self, flat: FloatArray) -> FloatArray:
        """All weights with the best output layer for these hidden layers.

        It is found as a correction that the residual asks for, and not from the targets: so what the
        products have lost to rounding does not limit how small the loss can get.

        Raises
        ------
        LinAlgError
            If a number is not finite.
        """
        matrix: FloatArray = np.zeros(())  # takes its shape from the first block
        slope: FloatArray = np.zeros(())
        for design, residual in self._output_equations(self.network(flat)):
            matrix = matrix + design.T @ design
            slope = slope + design.T @ residual
        matrix, slope = self._output_system(flat, matrix, slope)
        correction = cho_solve(cho_factor(matrix, check_finite=False), slope, check_finite=False)
        if not np.isfinite(correction).all():
            raise LinAlgError("numbers beyond all bounds")
        result = np.asarray(flat, dtype=np.float64).copy()
        result[self.n_hidden_parameters :] -= correction.ravel()
        return result

    def reduced(self, flat: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Quadratic model of the loss in the hidden weights, the output layer eliminated.

        Parameters
        ----------
        flat : ndarray of shape (n_parameters,)
            Present weights.

        Returns
        -------
        matrix : ndarray of shape (n_hidden, n_hidden)
            S; only the lower triangle is filled.
        slope : ndarray of shape (n_hidden,)
            g, half the slope of the loss.
        size : ndarray of shape (n_hidden,)
            Diagonal of ``J^T J + alpha``.
        """
        stack, p = self.network(flat), self.n_hidden_parameters
        syrk = dsyrk if stack.dtype == np.float64 else ssyrk
        inner = np.zeros((p, p), dtype=stack.dtype, order="F")
        cross: FloatArray = np.zeros(())
        matrix: FloatArray = np.zeros(())
        slope: FloatArray = np.zeros(())
        hidden_slope = np.zeros(p)
        for block in self._blocks(BLOCK_NUMBERS // (stack.n_outputs * stack.n_parameters)):
            outputs = block.outputs_of_images(stack)
            design, residual = block.output_equations(stack, outputs)
            jacobian = _jacobian(stack, block, outputs).reshape(*residual.shape, p)
            by_equation = jacobian.reshape(-1, p)
            inner = syrk(1.0, by_equation.T, beta=1.0, c=inner, overwrite_c=1, lower=1)
            cross = cross + design.T @ jacobian.reshape(len(design), -1)
            hidden_slope += residual.ravel() @ by_equation
            matrix = matrix + design.T @ design
            slope = slope + design.T @ residual
        matrix, slope = self._output_system(flat, matrix, slope)
        hidden_slope += self._decay[:p] * flat[:p]
        size = np.diag(inner) + self._decay[:p]
        factor = cho_factor(matrix, lower=True, check_finite=False)[0]
        narrow = solve_triangular(factor, cross, lower=True, check_finite=False).reshape(-1, p)
        rest = solve_triangular(factor, slope, lower=True, check_finite=False)
        hidden_slope -= rest.ravel() @ narrow
        inner = np.asfortranarray(inner, dtype=np.float64)
        inner = dsyrk(-1.0, narrow.T, beta=1.0, c=inner, overwrite_c=1, lower=1)
        inner[np.diag_indices(p)] += self._decay[:p]
        return inner, hidden_slope, size

    def _output_system(
        self, flat: FloatArray, matrix: FloatArray, slope: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """``A^T A`` (c, c) and ``A^T f`` (c, q) with weight decay, and what keeps the matrix regular."""
        n_columns = len(matrix)
        weights, decay = (
            np.asarray(numbers[self.n_hidden_parameters :], dtype=np.float64).reshape(n_columns, -1)
            for numbers in (flat, self._decay)
        )
        matrix = matrix.astype(np.float64)
        matrix[np.diag_indices(n_columns)] += decay[:, 0] + self.resolution * max(1.0, np.trace(matrix))
        return matrix, slope.astype(np.float64) + decay * weights

    def _output_equations(self, stack: DenseStack) -> Iterator[tuple[FloatArray, FloatArray]]:
        if len(stack.weights) > 1:
            for hidden in self._hidden(stack):
                share = self._share(hidden.part.weight[hidden.block])
                design = hidden.part.action.design(hidden.middle[-1])
                yield _output_equations(design, self._residual(stack, hidden), share)
        else:  # the design is made of the images themselves
            for block in self._blocks(LEAST_ROWS):
                yield block.output_equations(stack, block.outputs_of_images(stack))

    def _blocks(self, length: int) -> Iterator[_Block]:
        for part in self._parts:
            for rows in row_blocks(len(part.rows), max(LEAST_ROWS, length)):
                share = self._share(part.weight[rows])
                yield _Block(part.rows[rows], part.targets[rows], share, part.action)

    def _share(self, weight: FloatArray) -> FloatArray:
        share: FloatArray = np.sqrt(weight / self._n_outputs).astype(self._stack.dtype)
        return share


def _output_equations(
    design: FloatArray, residual: FloatArray, share: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Weighted design matrix (e, c) and residual (e, q) of a block from what `GroupAction.design` gives."""
    residual = residual * share[:, None]
    if design.ndim == 2:
        return design * share[:, None], residual
    return (design * share[:, None, None]).reshape(-1, design.shape[2]), residual.reshape(-1, 1)


def _jacobian(stack: DenseStack, block: _Block, outputs: list[FloatArray]) -> FloatArray:
    """Derivatives of the residual by the flat hidden weights, shape (m, k, n_hidden)."""
    m, n_operations, k = len(block.rows), block.action.n_operations, stack.n_outputs
    hidden = stack[:-1]
    result = np.empty((m, k, hidden.n_parameters), dtype=stack.dtype)
    stop = hidden.n_parameters
    # (m, k, n_ops, n_out): how each residual changes with what a layer gives for each image
    unit = np.stack([block.action.spread(row[None]) for row in np.eye(k, dtype=stack.dtype)])
    slope = (unit @ stack.weights[-1].T) * block.share[:, None, None, None]
    for number in range(len(hidden.weights) - 1, -1, -1):
        layer, inputs, above = hidden[number : number + 1], outputs[number], outputs[number + 1]
        n_in, n_out = layer.weights[0].shape
        # without inputs: what is wanted here is the slope of the activation, not that of the weights
        _, bend = layer.backward([inputs[:, :0], above], np.ones_like(above))
        slope = slope * bend.reshape(m, 1, n_operations, n_out)
        of_bias = result[:, :, stop - n_out : stop]
        slope.sum(axis=2, out=of_bias)
        stop -= n_out
        of_matrix = result[:, :, stop - n_in * n_out : stop].reshape(m, k, n_in, n_out)  # a view
        stop -= n_in * n_out
        inputs = inputs.reshape(m, 1, n_operations, n_in).swapaxes(2, 3)
        if n_operations == 1:
            np.multiply(inputs, slope, out=of_matrix)
        else:
            np.matmul(inputs, slope, out=of_matrix)
        if number:
            slope = slope @ layer.weights[0].T
    return result


@dataclass
class LMState:
    """Where a minimisation stands.

    Parameters
    ----------
    x : ndarray of shape (n_parameters,)
        Present weights, with the best output layer.
    value : float
        Loss there.
    size : ndarray of shape (n_hidden,)
        The largest diagonals of ``J^T J + alpha`` so far.
    damping : float
        For the next step.
    growth : float
        By what to multiply it if that step fails.
    """

    x: FloatArray
    value: float
    size: FloatArray
    damping: float = FIRST_DAMPING
    growth: float = 2.0

    @classmethod
    def start(cls, flat: FloatArray, problem: LeastSquares) -> LMState:
        """Solve the output layer at the first point.

        Raises
        ------
        LinAlgError
            If a number is not finite.
        """
        x = problem.settled(np.asarray(flat, dtype=np.float64))
        return cls(x, problem.loss(x), np.zeros(problem.n_hidden_parameters))

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> LMState:
        """The state that `arrays` wrote down."""
        value, damping, growth = (float(number) for number in arrays["numbers"])
        return cls(arrays["x"], value, arrays["size"], damping, growth)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All there is to know, as arrays."""
        return {
            "x": self.x,
            "size": self.size,
            "numbers": np.array([self.value, self.damping, self.growth]),
        }


def run_lm(
    problem: LeastSquares, state: LMState, after_iteration: Callable[[LMState], bool], tol: float
) -> bool:
    """Minimise until told to stop.

    Parameters
    ----------
    problem : LeastSquares
        What to minimise.
    state : LMState
        Where to begin; it is moved along.
    after_iteration : callable
        Called with the state after each iteration; true stops the run.
    tol : float
        The run has converged when no component of the slope exceeds this.

    Returns
    -------
    bool
        Whether the run ended at a minimum, as far as the precision goes, rather than because it was told to.
    """
    while problem.n_hidden_parameters:
        matrix, slope, size = problem.reduced(state.x)
        if 2 * np.abs(slope).max(initial=0.0) <= tol:
            return True
        state.size = np.maximum(state.size, size)
        if not _advance(problem, state, matrix, slope):
            return True
        if after_iteration(state):
            return False
    return True  # a linear network, which is solved already


def _advance(problem: LeastSquares, state: LMState, matrix: FloatArray, slope: FloatArray) -> bool:
    """Move to a lower point and adjust the damping; false if there is none within reach."""
    largest = state.size.max()
    scale = np.sqrt(largest * np.maximum(state.size, problem.resolution * largest))
    diagonal = np.diag_indices(len(slope))
    rounding = float(np.finfo(state.x.dtype).eps)
    while state.damping < 1 / rounding:
        damped = matrix.copy(order="F")
        damped[diagonal] += state.damping * scale
        try:
            factor = cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
            step = -cho_solve(factor, slope, check_finite=False)
            x = state.x.copy()
            x[: len(step)] += step
            x = problem.settled(x)
            value = problem.loss(x)
        except LinAlgError:  # rounding has made the matrix indefinite, or the step led to infinity
            value = np.inf
        if value < state.value:
            expected = state.damping * float(scale @ np.square(step)) - float(slope @ step)
            gain = (state.value - value) / expected
            # Nielsen's rule: smooth in the gain, so that the damping does not swing
            state.damping = max(rounding, state.damping * max(1 / 3, 1 - (2 * gain - 1) ** 3))
            state.growth = 2.0
            state.x, state.value = x, value
            return True
        state.damping *= state.growth
        state.growth *= 2.0
    return False


def train_lm(
    network: DenseStack | KerasNetwork,
    train: TrainingSet,
    validation: TrainingSet | None,
    options: Options,
    recorder: Recorder,
) -> DenseStack | KerasNetwork:
    """Minimise the loss by Levenberg-Marquardt over the hidden layers, with the best output layer throughout.

    A step takes ``n_rows * k * n_weights²`` multiplications and the factorization of a matrix of
    ``n_weights²`` numbers. It pays for small networks that are to fit closely, with little weight decay.

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
        If the network is no stack of dense layers with a linear one at its end, or has too many weights.
    """
    if not isinstance(network, DenseStack) or network.activations[-1] != "linear":
        raise ValueError(
            "solver='lm' needs dense layers with a linear one at the end, and no build_fn. Use "
            "solver='lbfgs'."
        )
    if network.n_parameters > MOST_WEIGHTS:
        raise ValueError(
            f"solver='lm' needs at most {MOST_WEIGHTS:,} weights, since it factorizes the matrix of their "
            f"products; {recorder.label} has {network.n_parameters:,}, a matrix of "
            f"{8e-9 * network.n_parameters**2:.1f} GB. Use solver='varpro'."
        )
    problem = LeastSquares(network, train, options.alpha)
    watched = None if validation is None else problem.on(validation)

    def note(state: LMState) -> bool:
        held_out = None if watched is None else watched.error(state.x)
        return recorder.step(state.value, held_out, lambda: problem.network(state.x).arrays)

    def after_iteration(state: LMState) -> bool:
        stop = note(state)
        recorder.save(state.arrays)
        return stop or recorder.n_iter >= options.max_iter

    with np.errstate(over="ignore", invalid="ignore"):  # a step too far is taken back
        try:
            state = (
                LMState.from_arrays(recorder.taken_up)
                if recorder.taken_up
                else LMState.start(network.flat(), problem)
            )
        except LinAlgError:
            recorder.diverged = True
            return network
        at_minimum = run_lm(problem, state, after_iteration, options.tol)
        if at_minimum and not recorder.n_iter:  # from the start: no iteration was needed
            note(state)
    recorder.converged |= at_minimum and not recorder.diverged
    recorder.save(state.arrays, now=True)
    return with_arrays(network, recorder.weights)
