"""Between physical and scaled numbers: columns that are kept, their means and scales; blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tinynet_sklearn.frames import ColumnSymmetry, FloatArray, IntArray
from tinynet_sklearn.mapped_rows import MappedRows

__all__ = [
    "BLOCK_ROWS",
    "MARGIN",
    "ColumnScaling",
    "fit_input_scaling",
    "fit_symmetric_scaling",
    "fit_target_scaling",
    "row_blocks",
    "training_range",
]

# Rows are worked through in blocks whose activations stay in the cache of one core. The length is fixed: sums
# over rows are then made in the same order whatever the machine does.
BLOCK_ROWS = 1024

# Columns that vary less than this, relative to their size, hold rounding errors of what they were made from.
ROUNDING = 1e-11

# A number beyond the training range by more than this share of its width, on either side, extrapolates. With
# 0.05, on BaTiO3 AIMD: less than 1 % of the atoms in later frames of the runs that were trained on have such
# a number in any column (without margin up to 3 %), but a quarter to a half of the atoms at 900 K if 300 K is
# all that the model knows, and every atom that is 1 Angstrom off its site.
MARGIN = 0.05

# A column that varied by less than this fraction of its size counts as having varied by so much: one that was
# constant, such as the length of an edge of the cell, may change by a rounding error.
CONSTANT_WIDTH = 1e-3


@dataclass(frozen=True, eq=False)
class ColumnScaling:
    """An affine map of columns: what stands between physical numbers and those a network likes.

    Parameters
    ----------
    columns : ndarray of shape (n_kept,), int
        The columns that the map keeps; those that were constant are left out.
    offset, scale : ndarray of shape (n_kept,)
        ``scaled = (physical[:, columns] - offset) / scale``.
    low, high : ndarray of shape (n_columns,) or None, default=None
        Range of every physical column in the training data, the constant ones that are left out included.
        None for targets, and in models of versions that did not note it.
    """

    columns: IntArray
    offset: FloatArray
    scale: FloatArray
    low: FloatArray | None = None
    high: FloatArray | None = None

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

    def limits(self) -> tuple[FloatArray, FloatArray] | None:
        """Training ranges with their `MARGIN`: lower and upper limit of every physical column, (n_columns,).

        None where the ranges are not known.
        """
        if self.low is None or self.high is None:
            return None
        margin = MARGIN * (self.high - self.low)
        return self.low - margin, self.high + margin

    def outside(self, physical: FloatArray) -> NDArray[np.bool_]:
        """Whether rows extrapolate: any column beyond its `limits`, or not a number.

        Parameters
        ----------
        physical : ndarray of shape (n_rows, n_columns)

        Returns
        -------
        ndarray of shape (n_rows,), bool
            All False where the ranges are not known.
        """
        limits = self.limits()
        if limits is None:
            return np.zeros(len(physical), dtype=bool)
        inside = (physical >= limits[0]) & (physical <= limits[1])
        return np.asarray(~inside.all(axis=1))

    def seen(self, low: FloatArray, high: FloatArray) -> ColumnScaling:
        """The same map after more training data, of the given ranges; what is unknown stays unknown."""
        if self.low is None or self.high is None or ((low >= self.low) & (high <= self.high)).all():
            return self
        return replace(self, low=np.minimum(self.low, low), high=np.maximum(self.high, high))


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
    offset: FloatArray = np.zeros(len(columns))
    scale: FloatArray = np.ones(len(columns))
    if how == "minmax":
        offset, scale = low[columns], (high - low)[columns]
    if how == "standard":
        mean, variance = weighted_moments(rows, weight)
        offset, scale = mean[columns], np.sqrt(variance[columns])
    return ColumnScaling(columns, offset, scale, *_with_width(low, high, vectors))


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
    offset: FloatArray = np.zeros(len(columns))
    scale: FloatArray = np.ones(len(columns))
    if how == "minmax":
        width = np.zeros(len(columns))
        np.maximum.at(width, orbit, (high - low)[columns])
        offset, scale = low[columns], width[orbit]
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
        of_orbits = np.sqrt(np.bincount(orbit, variance[columns]) / np.bincount(orbit))
        offset, scale = mean[columns], of_orbits[orbit]
    return ColumnScaling(columns, offset, scale, *_image_range(rows, sites, symmetry))


def training_range(
    rows: FloatArray,
    sites: IntArray | None = None,
    symmetry: ColumnSymmetry | None = None,
    vectors: IntArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Lowest and highest value of each column, as `ColumnScaling` keeps them.

    Parameters
    ----------
    rows : ndarray of shape (n_rows, n_columns)
        Training rows, at least one.
    sites, symmetry : ndarray of shape (n_rows,), int, and ColumnSymmetry, or None
        Site class of each row and the site groups, if networks are averaged over them: all images of the rows
        count as seen.
    vectors : ndarray of int of shape (n_vectors, 3) or None
        Columns that are x, y, z of vectors; taken from `symmetry` where that is given.

    Returns
    -------
    low, high : ndarray of shape (n_columns,)
        At least `CONSTANT_WIDTH` of the size of the column apart.
    """
    if sites is not None and symmetry is not None:
        return _image_range(rows, sites, symmetry)
    low, high, _ = _ranges(rows, ROUNDING, vectors)
    return _with_width(low, high, vectors)


def _image_range(
    rows: FloatArray, sites: IntArray, symmetry: ColumnSymmetry
) -> tuple[FloatArray, FloatArray]:
    """Range of all images of rows under their site groups; see `training_range`."""
    vectors = symmetry.vector_columns
    low, high = np.full(rows.shape[1], np.inf), np.full(rows.shape[1], -np.inf)
    for site in np.unique(sites):
        own = rows[sites == site]
        least, most = own.min(axis=0), own.max(axis=0)
        lowest, highest = least.copy(), most.copy()
        of_vectors = least[vectors], most[vectors]
        for gather, rotation in zip(symmetry.gather[site], symmetry.rotations[site], strict=True):
            np.minimum(lowest, least[gather], out=lowest)
            np.maximum(highest, most[gather], out=highest)
            for block in row_blocks(len(own) if vectors.size else 0):
                turned = own[block][:, gather[vectors]] @ rotation.T
                np.minimum(of_vectors[0], turned.min(axis=0), out=of_vectors[0])
                np.maximum(of_vectors[1], turned.max(axis=0), out=of_vectors[1])
        lowest[vectors], highest[vectors] = of_vectors
        low, high = np.minimum(low, lowest), np.maximum(high, highest)
    return _with_width(low, high, vectors)


def _ranges(
    rows: FloatArray, resolution: float, vectors: IntArray | None
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Lowest and highest value of each column, and whether it varies by more than its resolution."""
    low, high = rows.min(axis=0).astype(np.float64), rows.max(axis=0).astype(np.float64)
    resolution = max(resolution, 8 * float(np.finfo(rows.dtype).eps))
    return low, high, high - low > resolution * _sizes(low, high, vectors)


def _sizes(low: FloatArray, high: FloatArray, vectors: IntArray | None) -> FloatArray:
    """Largest absolute value of each column; of components of vectors, about the length of these."""
    size: FloatArray = np.maximum(np.abs(low), np.abs(high))
    if vectors is not None:
        size[vectors] = np.linalg.norm(size[vectors], axis=1, keepdims=True)
    return size


def _with_width(low: FloatArray, high: FloatArray, vectors: IntArray | None) -> tuple[FloatArray, FloatArray]:
    """Move the ends of ranges apart where they are nearer than `CONSTANT_WIDTH` says."""
    missing = np.maximum(0.0, CONSTANT_WIDTH * _sizes(low, high, vectors) - (high - low)) / 2
    return low - missing, high + missing


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
    how : {"standard", "common"} or None
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


def weighted_moments(rows: Any, weight: FloatArray | None) -> tuple[FloatArray, FloatArray]:
    """Mean and variance per column in float64; in two passes, because squares of large means cancel."""
    if isinstance(rows, MappedRows):
        mean = rows.average(weight)
    else:
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
