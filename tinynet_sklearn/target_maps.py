"""What stands between the outputs of a network and curves: components, cumulative errors, links.

A curve of a few hundred energies has far fewer degrees of freedom, and the error that matters may be that of
its integral as well. Both are linear, so they change what a network learns and not how: with the Cholesky
factor G of the metric M of the loss and orthonormal components V,

    scores = (y - mean) D G V / s,          y = mean + s scores V^T G^-1 D^-1
    M = 1 + w C^T C,                        |e G|^2 = |e|^2 + w |integral of e|^2

where D divides by the spread of each column (or is 1), C is the integral up to each energy, w the weight of
the cumulative error and s brings the mean square of the scores to one. The mean square of the errors of the
scores is that of M.

Curves that cannot be negative, or hold a given number of states, are not linear in anything: there a link
follows the last layer, and the loss compares what comes out of it (`OutputLink`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import DTypeLike
from scipy.linalg import solve_triangular
from scipy.special import expit

from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.networks import DenseStack
from tinynet_sklearn.scaling import ColumnScaling, weighted_moments

__all__ = [
    "LinearTargets",
    "LinkedTargets",
    "OutputLink",
    "TargetMap",
    "fit_linear_targets",
    "fit_linked_targets",
    "folded",
]

#: Smallest value, relative to the mean square of the targets, from which a link starts a column.
LEAST_START = 1e-3

#: A spread below this fraction of the largest value is none: what rounding leaves of equal numbers.
ROUNDING = 8 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class LinearTargets:
    """Targets as scores on a few components.

    Parameters
    ----------
    offset : ndarray of shape (n_outputs,)
        Mean of the targets.
    encode : ndarray of shape (n_outputs, n_components)
        ``scores = (physical - offset) @ encode``.
    decode : ndarray of shape (n_components, n_outputs)
        ``physical = offset + scores @ decode``.
    explained : ndarray of shape (n_components,)
        Share of the variance of the training targets, in the metric of the loss, of each component.
    """

    offset: FloatArray
    encode: FloatArray
    decode: FloatArray
    explained: FloatArray

    def apply(self, physical: FloatArray, dtype: DTypeLike) -> FloatArray:
        """Scores (n_rows, n_components) of targets (n_rows, n_outputs)."""
        return ((physical - self.offset) @ self.encode).astype(dtype, copy=False)

    def invert(self, scaled: FloatArray) -> FloatArray:
        """Targets (n_rows, n_outputs) of scores (n_rows, n_components), float64."""
        return self.offset + scaled.astype(np.float64) @ self.decode


@dataclass(frozen=True, eq=False)
class OutputLink:
    """What follows the last layer of networks whose outputs obey a constraint.

    Parameters
    ----------
    measure : ndarray of shape (n_outputs,) or None
        Weights of the integral that is fixed; None makes outputs positive only.
    count : float
        That integral of the scaled outputs.
    root : ndarray of shape (n_outputs, n_outputs) or None
        G, the Cholesky factor of the metric of the loss; None for the plain square.
    """

    measure: FloatArray | None
    count: float
    root: FloatArray | None

    def forward(self, raw: FloatArray) -> FloatArray:
        """Outputs (n_rows, n_outputs) that obey, of any numbers."""
        if self.measure is None:
            return np.logaddexp(raw, raw.dtype.type(0))
        return self.count * _shares(raw, self.measure)

    def backward(self, start: FloatArray) -> FloatArray:
        """Numbers (n_outputs,) from which given positive outputs come."""
        # log(exp(start) - 1) without the overflow of large values
        return start + np.log(-np.expm1(-start)) if self.measure is None else np.log(start)

    def residual(self, raw: FloatArray, targets: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Errors in the metric of the loss, and half the slope of their squares by the raw outputs.

        Parameters
        ----------
        raw, targets : ndarray of shape (n_rows, n_outputs)

        Returns
        -------
        residual, pulled : ndarray of shape (n_rows, n_outputs)
        """
        outputs = self.forward(raw)
        error = outputs - targets
        residual, slope = error, error
        if self.root is not None:
            residual = error @ self.root
            slope = residual @ self.root.T
        if self.measure is None:
            return residual, slope * expit(raw)
        pulled = slope * outputs  # the count may be zero: no division by it
        return residual, pulled - pulled.sum(axis=1, keepdims=True) * (
            _shares(raw, self.measure) * self.measure
        )


def _shares(raw: FloatArray, measure: FloatArray) -> FloatArray:
    """Positive curves (n_rows, n_outputs) of integral one, of any numbers."""
    grown = np.exp(raw - raw.max(axis=1, keepdims=True))
    return grown / (grown @ measure)[:, None]


@dataclass(frozen=True, eq=False)
class LinkedTargets:
    """Targets divided by one scale, and the link through which they are predicted."""

    scale: float
    link: OutputLink

    def apply(self, physical: FloatArray, dtype: DTypeLike) -> FloatArray:
        """Scaled targets (n_rows, n_outputs)."""
        return (physical / self.scale).astype(dtype, copy=False)

    def invert(self, scaled: FloatArray) -> FloatArray:
        """Targets of raw outputs, both (n_rows, n_outputs), float64."""
        return self.scale * self.link.forward(scaled.astype(np.float64))


TargetMap: TypeAlias = ColumnScaling | LinearTargets | LinkedTargets


def fit_linear_targets(
    targets: FloatArray,
    weight: FloatArray | None,
    *,
    n_components: int | float | None,
    cumulative_weight: float,
    per_column: bool,
    grid: EnergyGrid | None,
) -> LinearTargets:
    """Find the components of targets.

    Parameters
    ----------
    targets : ndarray of shape (n_rows, n_outputs)
    weight : ndarray of shape (n_rows,) or None
        Positive.
    n_components : int, float or None
        How many, at most; the fraction of the variance that they shall explain; None keeps all columns as
        they are.
    cumulative_weight : float
        w, 1/eV^2.
    per_column : bool
        Whether each column counts relative to its own spread.
    grid : EnergyGrid or None
        Energies of the columns; None takes steps of one.

    Returns
    -------
    LinearTargets
    """
    mean, variance = weighted_moments(targets, weight)
    spread = np.sqrt(variance)
    flat = spread <= ROUNDING * np.abs(targets).max(axis=0, initial=0.0)
    spread[flat | (not per_column)] = 1.0
    root = _root(targets.shape[1], cumulative_weight, grid)
    scaled = np.where(flat, 0.0, targets - mean) / spread
    scaled = scaled if root is None else scaled @ root
    share = np.full(len(scaled), 1.0 / len(scaled)) if weight is None else weight / weight.sum()
    covariance = (scaled.T * share) @ scaled
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    total = max(values.sum(), np.finfo(np.float64).tiny)
    if n_components is None:
        basis, explained = np.eye(len(values)), np.diag(covariance) / total
    else:
        n_kept = _n_kept(values / total, n_components, len(targets))
        # eigenvectors come with any sign: the largest element decides, so that equal data give equal scores
        largest = np.abs(vectors).argmax(axis=0)
        signs = np.sign(vectors[largest, np.arange(len(values))])
        basis, explained = (vectors * signs)[:, :n_kept], values[:n_kept] / total
    kept = explained.sum() * total
    s = float(np.sqrt(kept / basis.shape[1])) if kept > 0 else 1.0
    encode, decode = basis / s, s * basis.T
    if root is not None:
        encode = root @ encode
        decode = solve_triangular(root, decode.T, lower=True, trans="T").T
    return LinearTargets(mean, encode / spread[:, None], decode * spread, explained)


def _n_kept(shares: FloatArray, n_components: int | float, n_rows: int) -> int:
    """Components to keep of shares in descending order."""
    n_useful = max(1, int(np.count_nonzero(shares > 1e-12)))
    if isinstance(n_components, int | np.integer):
        return int(min(n_components, n_useful, n_rows))
    return min(n_useful, int(np.searchsorted(np.cumsum(shares), float(n_components) - 1e-12)) + 1)


def _root(n_outputs: int, cumulative_weight: float, grid: EnergyGrid | None) -> FloatArray | None:
    """Lower triangular G with ``G G^T = 1 + w C^T C``; None without cumulative error."""
    if not cumulative_weight:
        return None
    axis = EnergyGrid(np.arange(float(n_outputs))) if grid is None else grid
    integrals = axis.cumulative(np.eye(n_outputs))  # (column, energy up to which)
    return np.linalg.cholesky(np.eye(n_outputs) + cumulative_weight * integrals @ integrals.T)


def fit_linked_targets(
    targets: FloatArray,
    weight: FloatArray | None,
    *,
    normalized: bool,
    cumulative_weight: float,
    grid: EnergyGrid | None,
) -> LinkedTargets:
    """Scale targets that are predicted through a link.

    Parameters
    ----------
    targets, weight, cumulative_weight, grid
        As in `fit_linear_targets`.
    normalized : bool
        Whether the integral is fixed to the mean one of the targets, rather than free.

    Returns
    -------
    LinkedTargets

    Raises
    ------
    ValueError
        If the integral shall be fixed to a negative one.
    """
    mean, variance = weighted_moments(targets, weight)
    # errors count relative to the spread, as with other scalings; flat targets, relative to their size
    scale, size = float(np.sqrt(variance.mean())), float(np.abs(targets).max())
    if scale <= ROUNDING * size:
        scale = size or 1.0
    measure, count = None, 0.0
    if normalized:
        axis = EnergyGrid(np.arange(float(targets.shape[1]))) if grid is None else grid
        measure = np.asarray(axis.integrate(np.eye(targets.shape[1])))
        count = float(mean @ measure) / scale
        if count < 0:
            raise ValueError(
                "output='normalized' fixes the integral of predictions to the mean one of the targets, which "
                f"must not be negative; got {count * scale:.6g}. Use output='linear'."
            )
    root = _root(targets.shape[1], cumulative_weight, grid)
    return LinkedTargets(scale, OutputLink(measure, count, root))


def started(stack: DenseStack, targets: LinkedTargets, mean: FloatArray) -> DenseStack:
    """Network whose last biases give the mean of the targets, shape (n_outputs,)."""
    least = LEAST_START * (np.sqrt(np.mean(np.square(mean))) / targets.scale or 1.0)
    bias = targets.link.backward(np.maximum(mean / targets.scale, least)).astype(stack.dtype)
    return DenseStack(stack.weights, (*stack.biases[:-1], bias), stack.activations)


def folded(stack: DenseStack, targets: TargetMap) -> tuple[DenseStack, FloatArray, FloatArray]:
    """Network, scale and offset with ``physical = output * scale + offset``, up to a link of the targets.

    Parameters
    ----------
    stack : DenseStack
        In double precision.
    targets : TargetMap

    Returns
    -------
    stack : DenseStack
    scale, offset : ndarray of shape (n_outputs,)
    """
    if isinstance(targets, ColumnScaling):
        return stack, targets.scale, targets.offset
    if isinstance(targets, LinkedTargets):
        n_outputs = stack.n_outputs
        return stack, np.ones(n_outputs), np.zeros(n_outputs)
    last = stack.weights[-1] @ targets.decode, stack.biases[-1] @ targets.decode
    combined = DenseStack((*stack.weights[:-1], last[0]), (*stack.biases[:-1], last[1]), stack.activations)
    return combined, np.ones(len(targets.offset)), targets.offset
