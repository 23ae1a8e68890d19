"""The loss of a dense network as a function of its flat weights, with NumPy.

    loss = sum_i w_i (|p_i - y_i|^2 + scatter_i) / k + alpha * sum of squared matrix elements

over rows i with weights that sum to one and k outputs; p is the network's output, averaged over the site
group of the row where there is one (`equivariance`), and sent through a link if the outputs must obey
something (`target_maps`), or summed up as coefficients of vectors (`vector_targets`). The scatter, times a
weight of its own, is the mean squared distance between p and the outputs for the images of the row, turned
back.

The last layer is linear, so its best weights for given hidden layers solve a small linear system.
`StackObjective.projected` puts them in and returns the slope of what is left, a function of the hidden layers
alone (variable projection): that slope is the partial derivative at the solution.

References
----------
G. H. Golub and V. Pereyra, The differentiation of pseudo-inverses and nonlinear least squares problems whose
variables separate, SIAM J. Numer. Anal. 10, 413 (1973).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.networks import DenseStack
from tinynet_sklearn.recorder import TrainingSet
from tinynet_sklearn.scaling import BLOCK_ROWS, row_blocks
from tinynet_sklearn.vector_targets import combined

__all__ = ["StackObjective", "averaged_forward"]

# Fewer rows than this at once would starve the matrix products.
LEAST_ROWS = 64

# What keeps the linear system of the output layer regular without weight decay, relative to its trace. Of
# vectors at rest a group can leave a trace of nothing but rounding: then relative to one, as for scalars.
RIDGE = {"float64": 1e-9, "float32": 1e-6}


@dataclass(frozen=True, eq=False)
class _Part:
    """The rows of one site class."""

    rows: FloatArray
    targets: FloatArray
    weight: FloatArray
    action: GroupAction
    basis: FloatArray | None

    @property
    def blocks(self) -> Iterator[slice]:
        return row_blocks(len(self.rows), _block_length(self.action))


@dataclass(frozen=True, eq=False)
class _Hidden:
    """A block of rows on its way through the hidden layers."""

    part: _Part
    block: slice
    folded: DenseStack
    first: list[FloatArray]
    middle: list[FloatArray]


def _block_length(action: GroupAction) -> int:
    return max(LEAST_ROWS, BLOCK_ROWS // action.n_operations)


def _folded(stack: DenseStack, action: GroupAction) -> DenseStack:
    """The first layer with all operations of the group side by side."""
    weight, bias = action.fold(stack.weights[0], stack.biases[0])
    return DenseStack((weight,), (bias,), stack.activations[:1])


def averaged_forward(stack: DenseStack, rows: FloatArray, action: GroupAction) -> FloatArray:
    """Evaluate a network averaged over a site group.

    Parameters
    ----------
    stack : DenseStack
        The network.
    rows : ndarray of shape (n_rows, n_inputs)
        Scaled inputs of atoms of one site class.
    action : GroupAction
        Its group.

    Returns
    -------
    ndarray of shape (n_rows, n_outputs)
    """
    rows = np.asarray(rows, dtype=stack.dtype)
    folded, rest = _folded(stack, action), stack[1:]
    result = np.empty((len(rows), stack.n_outputs), dtype=stack.dtype)
    # A linear last layer may come after the average: curves have many more outputs than hidden units.
    early = not action.turns_outputs and len(rest.weights) > 0 and rest.activations[-1] == "linear"
    for block in row_blocks(len(rows), _block_length(action)):
        hidden = folded.layer_outputs(rows[block])[-1].reshape(-1, len(stack.biases[0]))
        if early:
            mean = action.average(rest[:-1].layer_outputs(hidden)[-1])
            result[block] = rest[-1:].layer_outputs(mean)[-1]
        else:
            result[block] = action.average(rest.layer_outputs(hidden)[-1])
    return result


class StackObjective:
    """The loss of networks of one form over one set of rows.

    Parameters
    ----------
    stack : DenseStack
        Gives the form; its weights do not matter. The last layer must be linear.
    data : TrainingSet
        The rows.
    alpha : float
        Weight decay.
    scatter : float
        Weight of the scatter of the outputs over a site group.
    """

    def __init__(self, stack: DenseStack, data: TrainingSet, alpha: float, scatter: float = 0.0) -> None:
        self._stack = stack
        self._alpha = alpha
        self._scatter = scatter
        self._decays = stack.kernel_mask()
        self._n_outputs = data.targets.shape[1]
        self._link = data.link
        self._parts = []
        for site, action in enumerate(data.actions):
            rows = slice(None) if len(data.actions) == 1 else np.flatnonzero(data.site == site)
            basis = None if data.basis is None else data.basis[rows]
            self._parts.append(_Part(data.rows[rows], data.targets[rows], data.weight[rows], action, basis))

    def on(self, data: TrainingSet) -> StackObjective:
        """The same loss over other rows."""
        return StackObjective(self._stack, data, self._alpha, self._scatter)

    @property
    def n_hidden_parameters(self) -> int:
        """Length of the leading part of the flat weights that belongs to the hidden layers."""
        return int(self._stack[:-1].n_parameters)

    def network(self, flat: FloatArray) -> DenseStack:
        """The network with the given weights, shape (n_parameters,), in its own precision."""
        return self._stack.with_flat(np.asarray(flat, dtype=self._stack.dtype))

    def error(self, flat: FloatArray) -> float:
        """Mean squared error, without scatter and weight decay."""
        stack = self.network(flat)
        total = 0.0
        for hidden in self._hidden(stack):
            total += self._weighted(hidden, self._residual(stack, hidden))
        return total

    def value(self, flat: FloatArray) -> tuple[float, FloatArray]:
        """Loss and its slope, shape (n_parameters,), float64."""
        stack = self.network(flat)
        decayed = self._decays * np.asarray(flat, dtype=np.float64)
        loss = self._alpha * float(decayed @ decayed)
        slope = 2 * self._alpha * decayed
        n_first = stack[:1].n_parameters
        middle, last = stack[1:-1], stack[1:][-1:]
        folded_slopes: dict[GroupAction, FloatArray] = {}
        for hidden in self._hidden(stack):
            action = hidden.part.action
            inputs = hidden.middle[-1]
            outputs = last.layer_outputs(inputs)[-1]
            average = action.average(outputs)
            residual, pull = self._compared(average, hidden)
            loss += self._weighted(hidden, residual)
            share = (2 / self._n_outputs * hidden.part.weight[hidden.block]).astype(stack.dtype)[:, None]
            if self._scatter and action.n_operations > 1:
                n_ops = action.n_operations
                squares = np.einsum("ij,ij->i", outputs, outputs).reshape(-1, n_ops).mean(axis=1)
                scatter = squares - np.einsum("ij,ij->i", average, average)
                loss += self._scatter / 2 * float(scatter.astype(np.float64) @ share[:, 0])
                pulled = action.spread((pull - self._scatter * average) * share)
                pulled += np.repeat(share * stack.dtype.type(self._scatter / n_ops), n_ops, axis=0) * outputs
            else:
                pulled = action.spread(pull * share)
            # twice: the slope of a linear layer does not look at its outputs
            above, pulled = _pull_back(last, [inputs, inputs], pulled)
            between, pulled = _pull_back(middle, hidden.middle, pulled)
            below, _ = hidden.folded.backward(hidden.first, pulled.reshape(len(average), -1))
            slope[n_first:] += np.concatenate([between, above])
            if action in folded_slopes:
                folded_slopes[action] += below
            else:
                folded_slopes[action] = below
        for action, below in folded_slopes.items():
            width = len(stack.biases[0]) * action.n_operations
            weight, bias = action.unfold(below[:-width].reshape(stack.n_inputs, width), below[-width:])
            slope[:n_first] += np.concatenate([weight.ravel(), bias])
        return loss, slope

    def projected(self, hidden: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Loss with the best output layer for given hidden layers.

        Two passes over the rows: activations kept in between would cost more than to make them twice.

        Parameters
        ----------
        hidden : ndarray of shape (n_hidden_parameters,)
            Flat weights of the hidden layers.

        Returns
        -------
        loss : float
        slope : ndarray of shape (n_hidden_parameters,)
        flat : ndarray of shape (n_parameters,)
            All weights, with that output layer.
        """
        n_output = self._stack.n_parameters - len(hidden)
        stack = self.network(np.concatenate([hidden, np.zeros(n_output)]))
        flat = np.concatenate([hidden, self._best_output(self._hidden(stack))])
        loss, slope = self.value(flat)
        return loss, slope[: len(hidden)], flat

    def _hidden(self, stack: DenseStack) -> Iterator[_Hidden]:
        width = len(stack.biases[0])
        middle = stack[1:-1]
        for part in self._parts:
            folded = _folded(stack, part.action)
            for block in part.blocks:
                first = folded.layer_outputs(part.rows[block])
                yield _Hidden(part, block, folded, first, middle.layer_outputs(first[-1].reshape(-1, width)))

    def _residual(self, stack: DenseStack, hidden: _Hidden) -> FloatArray:
        outputs = stack[1:][-1:].layer_outputs(hidden.middle[-1])[-1]
        return self._compared(hidden.part.action.average(outputs), hidden)[0]

    def _compared(self, average: FloatArray, hidden: _Hidden) -> tuple[FloatArray, FloatArray]:
        """Errors of averaged outputs, and half the slope of their squares by these outputs."""
        targets = hidden.part.targets[hidden.block]
        if self._link is not None:
            return self._link.residual(average, targets)
        if hidden.part.basis is not None:
            basis = hidden.part.basis[hidden.block]
            residual = combined(average, basis) - targets
            return residual, np.matmul(basis, residual[:, :, None])[:, :, 0]
        residual = average - targets
        return residual, residual

    def _weighted(self, hidden: _Hidden, residual: FloatArray) -> float:
        squares = np.einsum("ij,ij->i", residual, residual)
        return float(squares @ hidden.part.weight[hidden.block]) / self._n_outputs

    def _best_output(self, blocks: Iterable[_Hidden]) -> FloatArray:
        """Flat weights of the output layer that minimise the loss for these hidden layers."""
        matrix, right = np.zeros(()), np.zeros(())  # take their shapes from the first block
        for hidden in blocks:
            design = hidden.part.action.design(hidden.middle[-1])
            targets = hidden.part.targets[hidden.block]
            weight = hidden.part.weight[hidden.block].astype(design.dtype)
            if design.ndim == 3:
                design = design.reshape(-1, design.shape[2])
                targets, weight = targets.reshape(-1, 1), np.repeat(weight, 3)
            weighted = design.T * weight
            averaged = (weighted @ design).astype(np.float64)
            if self._scatter and hidden.part.action.n_operations > 1:
                averaged = (1 - self._scatter) * averaged + self._scatter * self._scattered(hidden)
            matrix = matrix + averaged
            right = right + (weighted @ targets).astype(np.float64)
        if not (np.isfinite(matrix).all() and np.isfinite(right).all()):
            return np.full(right.size, np.nan)  # and so will be the loss
        decay = np.full(len(matrix), self._n_outputs * self._alpha)
        n_bias = 3 if self._parts[0].action.turns_outputs else 1
        decay[-n_bias:] = 0.0
        diagonal = np.diag_indices(len(matrix))
        matrix[diagonal] += decay
        ridged = matrix.copy()
        ridged[diagonal] += RIDGE[self._stack.dtype.name] * max(1.0, np.trace(matrix))
        factor = cho_factor(ridged, overwrite_a=True)
        best = cho_solve(factor, right)
        best += cho_solve(
            factor, right - matrix @ best
        )  # takes back what the ridge did where it was not needed
        return np.asarray(best).ravel()

    def _scattered(self, hidden: _Hidden) -> FloatArray:
        """Normal matrix of the output layer if every image were a row of its own."""
        action, inputs = hidden.part.action, hidden.middle[-1]
        weight = (hidden.part.weight[hidden.block] / action.n_operations).astype(inputs.dtype)
        weighted = inputs * np.repeat(weight, action.n_operations)[:, None]
        sums = weighted.sum(axis=0)[:, None]
        total = np.full((1, 1), weight.sum() * action.n_operations)
        matrix = np.block([[inputs.T @ weighted, sums], [sums.T, total]]).astype(np.float64)
        return np.kron(matrix, np.eye(3)) if action.turns_outputs else matrix


def _pull_back(
    stack: DenseStack, outputs: list[FloatArray], slope: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Slopes with respect to the weights of some layers and to what goes into them."""
    if not stack.weights:
        return np.empty(0), slope
    gradient, delta = stack.backward(outputs, slope)
    return gradient, delta @ stack.weights[0].T
