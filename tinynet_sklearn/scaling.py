"""Between physical and scaled numbers: columns that are kept, their means and scales; blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from tinynet_sklearn.frames import FloatArray, IntArray

__all__ = ["BLOCK_ROWS", "ColumnScaling", "fit_input_scaling", "fit_target_scaling", "row_blocks"]

# Rows are worked through in blocks whose activations stay in the cache of one core. The length is fixed: sums
# over rows are then made in the same order whatever the machine does.
BLOCK_ROWS = 1024

# Columns that vary less than this, relative to their size, hold rounding errors of what they were made from.
ROUNDING = 1e-11


@dataclass(frozen=True, eq=False)
class ColumnScaling:
    """An affine map of columns: what stands between physical numbers and those a network likes.

    Parameters
    ----------
    columns : ndarray of shape (n_kept,), int
        The columns that the map keeps; those that were constant are left out.
    offset, scale : ndarray of shape (n_kept,)
        ``scaled = (physical[:, columns] - offset) / scale``.
    """

    columns: IntArray
    offset: FloatArray
    scale: FloatArray

    def apply(self, physical: FloatArray, dtype: DTypeLike) -> FloatArray:
        """Scale rows of shape (n_rows, n_columns) to (n_rows, n_kept) of the given dtype."""
        # take() copies once, also where all columns are kept, so the arithmetic can be done in place
        scaled = physical.take(self.columns, axis=1).astype(np.float64, copy=False)
        scaled -= self.offset
        scaled /= self.scale
        return scaled.astype(dtype, copy=False)

    def invert(self, scaled: FloatArray) -> FloatArray:
        """Physical float64 numbers, shape (n_rows, n_kept), of scaled ones."""
        return scaled.astype(np.float64) * self.scale + self.offset


def fit_input_scaling(
    rows: FloatArray,
    weight: FloatArray | None,
    how: str | None,
    resolution: float = ROUNDING,
    vectors: IntArray | None = None,
) -> ColumnScaling:
    """Find the columns that vary and bring them to comparable size.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_columns)
        Training rows, at least one.
    weight : ndarray of shape (n_rows,) or None
        Positive sample weights.
    how : {"standard", "minmax"} or None
        Zero mean and unit variance, the range [0, 1], or the numbers as they are.
    resolution : float
        Columns that vary by less than this fraction of their size are constant.
    vectors : ndarray of int of shape (n_vectors, 3) or None
        Columns that are x, y, z of vectors: their size is the length of the vector. A component that is zero
        but for rounding would otherwise be blown up to unit variance.

    Returns
    -------
    ColumnScaling
    """
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    size = np.maximum(np.abs(low), np.abs(high))
    if vectors is not None:
        size[vectors] = np.linalg.norm(size[vectors], axis=1, keepdims=True)
    resolution = max(resolution, 8 * float(np.finfo(rows.dtype).eps))
    columns = np.flatnonzero(high - low > resolution * size)
    if how == "minmax":
        return ColumnScaling(columns, low[columns], (high - low)[columns])
    if how == "standard":
        mean, variance = weighted_moments(rows, weight)
        return ColumnScaling(columns, mean[columns], np.sqrt(variance[columns]))
    return ColumnScaling(columns, np.zeros(len(columns)), np.ones(len(columns)))


def fit_target_scaling(
    targets: FloatArray, weight: FloatArray | None, how: str | None, isotropic: bool
) -> ColumnScaling:
    """Bring targets to zero mean and unit variance.

    Parameters
    ----------
    targets : ndarray of shape (n_rows, n_outputs)
        Training targets.
    weight : ndarray of shape (n_rows,) or None
        Positive sample weights.
    how : {"standard"} or None
        None leaves the numbers as they are.
    isotropic : bool
        One scale for all columns, which keeps the lengths of vectors comparable; else one per column.

    Returns
    -------
    ColumnScaling
        Of all columns; a constant one gets the scale 1.
    """
    n_outputs = targets.shape[1]
    columns = np.arange(n_outputs)
    if how is None:
        return ColumnScaling(columns, np.zeros(n_outputs), np.ones(n_outputs))
    mean, variance = weighted_moments(targets, weight)
    if isotropic:
        variance = np.full(n_outputs, variance.mean())
    scale = np.sqrt(variance)
    size = np.abs(targets).max(axis=0)
    scale[scale <= 8 * np.finfo(targets.dtype).eps * (size.max() if isotropic else size)] = 1.0
    return ColumnScaling(columns, mean, scale)


def weighted_moments(rows: FloatArray, weight: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Mean and variance per column in float64; in two passes, because squares of large means cancel."""
    mean = np.average(rows, axis=0, weights=weight).astype(np.float64)
    share = np.full(len(rows), 1.0 / len(rows)) if weight is None else weight / weight.sum()
    variance = np.zeros(rows.shape[1])
    for block in row_blocks(len(rows)):
        variance += share[block] @ np.square(rows[block] - mean)
    return mean, variance


def row_blocks(n_rows: int) -> Iterator[slice]:
    """Slices of `BLOCK_ROWS` rows each."""
    for start in range(0, n_rows, BLOCK_ROWS):
        yield slice(start, start + BLOCK_ROWS)
