"""Between physical and scaled numbers: columns that are kept, their means and scales; blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tinynet_sklearn.frames import ColumnSymmetry, FloatArray, IntArray

__all__ = [
    "BLOCK_ROWS",
    "ColumnScaling",
    "fit_input_scaling",
    "fit_symmetric_scaling",
    "fit_target_scaling",
    "row_blocks",
]

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
    low, high, varies = _ranges(rows, resolution, vectors)
    columns = np.flatnonzero(varies)
    if how == "minmax":
        return ColumnScaling(columns, low[columns], (high - low)[columns])
    if how == "standard":
        mean, variance = weighted_moments(rows, weight)
        return ColumnScaling(columns, mean[columns], np.sqrt(variance[columns]))
    return ColumnScaling(columns, np.zeros(len(columns)), np.ones(len(columns)))


def fit_symmetric_scaling(
    rows: FloatArray,
    weight: FloatArray | None,
    sites: IntArray,
    symmetry: ColumnSymmetry,
    how: str | None,
    resolution: float = ROUNDING,
) -> ColumnScaling:
    """Find a scaling that treats columns alike wherever an operation of a site group exchanges them.

    The moments are those of all images of the rows; columns that operations mix share one scale and are
    kept or dropped together. So the operations act on scaled columns as they do on physical ones.

    Parameters
    ----------
    rows, weight, how, resolution
        As in `fit_input_scaling`.
    sites : ndarray of shape (n_rows,), int
        Site class of each row.
    symmetry : ColumnSymmetry
        The site groups.

    Returns
    -------
    ColumnScaling
    """
    low, high, varies = _ranges(rows, resolution, symmetry.vector_columns)
    classes = np.unique(sites)
    orbit = _column_orbits(symmetry, classes)
    columns = np.flatnonzero(np.bincount(orbit, varies)[orbit])
    orbit = np.unique(orbit[columns], return_inverse=True)[1]
    if how == "minmax":
        width = np.zeros(len(columns))
        np.maximum.at(width, orbit, (high - low)[columns])
        return ColumnScaling(columns, low[columns], width[orbit])
    if how == "standard":
        share = np.ones(len(rows)) if weight is None else weight
        moments = {
            int(site): (
                share[sites == site].sum(),
                *weighted_moments(rows[sites == site], share[sites == site]),
            )
            for site in classes
        }
        mean, variance = _symmetrized_moments(moments, symmetry)
        scale = np.sqrt(np.bincount(orbit, variance[columns]) / np.bincount(orbit))
        return ColumnScaling(columns, mean[columns], scale[orbit])
    return ColumnScaling(columns, np.zeros(len(columns)), np.ones(len(columns)))


def _ranges(
    rows: FloatArray, resolution: float, vectors: IntArray | None
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Lowest and highest value of each column, and whether it varies by more than its resolution."""
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    size = np.maximum(np.abs(low), np.abs(high))
    if vectors is not None:
        size[vectors] = np.linalg.norm(size[vectors], axis=1, keepdims=True)
    resolution = max(resolution, 8 * float(np.finfo(rows.dtype).eps))
    return low, high, high - low > resolution * size


def _column_orbits(symmetry: ColumnSymmetry, sites: IntArray) -> IntArray:
    """Number the sets of columns that operations of the given site classes mix.

    Parameters
    ----------
    symmetry : ColumnSymmetry
        The site groups.
    sites : ndarray of int
        Site classes.

    Returns
    -------
    ndarray of shape (n_features,), int
        Equal where an operation turns one column into the other; x, y and z of a vector always are.
    """
    n_features = symmetry.n_features
    targets = [symmetry.gather[site].ravel() for site in sites]
    columns = [np.tile(np.arange(n_features), len(symmetry.gather[site])) for site in sites]
    vectors = symmetry.vector_columns
    ends = np.concatenate([*targets, vectors[:, 0], vectors[:, 0]])
    starts = np.concatenate([*columns, vectors[:, 1], vectors[:, 2]])
    edges = coo_array((np.ones(len(ends), dtype=bool), (starts, ends)), shape=(n_features, n_features))
    return np.asarray(connected_components(edges, directed=False)[1])


def _symmetrized_moments(
    moments: dict[int, tuple[float, FloatArray, FloatArray]], symmetry: ColumnSymmetry
) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of all images of rows, from those of the rows.

    Parameters
    ----------
    moments : dict of int to (weight, mean, variance)
        Per site class: weight of its rows, and their moments of shape (n_features,).
    symmetry : ColumnSymmetry
        The site groups.

    Returns
    -------
    mean, variance : ndarray of shape (n_features,)
        The three components of a vector share their mean variance.
    """
    total = sum(weight for weight, _, _ in moments.values())
    vectors = symmetry.vector_columns
    parts = []
    for site, (weight, mean, variance) in moments.items():
        isotropic = variance.copy()
        isotropic[vectors] = variance[vectors].mean(axis=1, keepdims=True)
        n_operations = len(symmetry.gather[site])
        for operation, gather in enumerate(symmetry.gather[site]):
            image = symmetry.apply(mean[None], site, operation)[0]
            parts.append((weight / total / n_operations, image, isotropic[gather]))
    center = np.sum([share * image for share, image, _ in parts], axis=0)
    spread = np.sum([share * (v + np.square(image - center)) for share, image, v in parts], axis=0)
    return center, spread


def fit_target_scaling(
    targets: FloatArray, weight: FloatArray | None, how: str | None, isotropic: bool, centered: bool = True
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
    centered : bool
        False leaves the zero where it is, as vectors want that are averaged over a site group: only zero is
        certain to be the same from all sides.

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
    if not centered:
        variance += np.square(mean)
        mean = np.zeros(n_outputs)
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


def row_blocks(n_rows: int, length: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices of `length` rows each."""
    for start in range(0, n_rows, length):
        yield slice(start, start + length)
