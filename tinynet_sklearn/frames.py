"""Site frames: in which coordinates a row was written down, and which operations leave its meaning alone.

===============  ==================  =======  ===========================================================
name             shape               dtype    meaning
===============  ==================  =======  ===========================================================
rotations        (n_rows, 3, 3)      float64  frame of each row: ``v_frame = rotations[row] @ v_lab``
sites            (n_rows,)           intp     site class of each row, the ``s`` of the next two lines
gather[s]        (n_ops, k)          intp     column permutation per operation of site group ``s``
rotations[s]     (n_ops, 3, 3)       float64  the same operations acting on vectors in the site frame
vector_columns   (n_vectors, 3)      intp     the columns that hold the x, y, z of Cartesian vectors
===============  ==================  =======  ===========================================================

Plain NumPy, immutable by convention: joblib hands worker processes read-only memory maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = ["FRAME_TOLERANCE", "ColumnSymmetry", "FloatArray", "IntArray", "SiteFrames", "as_integers"]

IntArray: TypeAlias = NDArray[np.integer[Any]]
FloatArray: TypeAlias = NDArray[np.floating[Any]]

FRAME_TOLERANCE = 1e-8  # largest difference between rotations that still describe the same frame
ORTHOGONALITY_TOLERANCE = 1e-4  # generous: it must catch a wrong matrix, not the rounding of single precision


@dataclass(frozen=True, eq=False)
class ColumnSymmetry:
    """How the operations of each site group act on the feature columns.

    An operation of the site group of an atom maps its ideal surroundings onto themselves: it exchanges
    equivalent neighbours, hence feature columns, and turns the vectors that point to them. A row ``x`` and
    its image ``x'``,

        ``x'[c] = x[gather[op, c]]``, then ``v' = R_op v`` for each vector ``v`` of `vector_columns`,

    describe the same physics in two equivalent orientations, and a vector target (a force) turns by the same
    ``R_op``.

    Parameters
    ----------
    gather : tuple of ndarray of shape (n_ops, n_features), int
        Per site class: the column that each column is filled from. Operation 0 is the identity.
    rotations : tuple of ndarray of shape (n_ops, 3, 3)
        Per site class: the operations as orthogonal matrices (proper or not) in the site frame. They are
        applied to the vector columns after the gather, and to vector targets.
    vector_columns : ndarray of shape (n_vectors, 3), int
        Columns that are Cartesian vectors, in the order x, y, z.

    Raises
    ------
    ValueError
        If the shapes do not fit together, or operation 0 of a site class is not the identity.
    """

    gather: tuple[IntArray, ...]
    rotations: tuple[FloatArray, ...]
    vector_columns: IntArray

    def __post_init__(self) -> None:
        # Fresh C-ordered copies: joblib hashes strides too, and m and m[None] should hit the same cache.
        gather = tuple(np.array(as_integers(g, "gather", ndim=2), order="C") for g in self.gather)
        rotations = tuple(np.array(r, dtype=np.float64, order="C") for r in self.rotations)
        vector_columns = as_integers(np.reshape(self.vector_columns, (-1, 3)), "vector_columns", ndim=2)
        if not gather or len(gather) != len(rotations):
            raise ValueError(
                "gather and rotations must hold one array per site class, at least one; "
                f"got {len(gather)} and {len(rotations)}."
            )
        n_features = gather[0].shape[1]
        for site, (columns, matrices) in enumerate(zip(gather, rotations, strict=True)):
            if columns.shape[1] != n_features or matrices.shape != (len(columns), 3, 3):
                raise ValueError(
                    f"site class {site}: gather must have shape (n_ops, {n_features}) and rotations "
                    f"(n_ops, 3, 3) with the same n_ops; got {columns.shape} and {matrices.shape}."
                )
            first_is_identity = (
                len(columns) > 0
                and np.array_equal(columns[0], np.arange(n_features))
                and np.allclose(matrices[0], np.eye(3), rtol=0.0, atol=FRAME_TOLERANCE)
            )
            if not first_is_identity:
                raise ValueError(
                    f"site class {site}: operation 0 must be the identity (gather 0, 1, 2, ..., the unit "
                    "matrix as rotation). Put the identity first in the list of operations."
                )
        object.__setattr__(self, "gather", gather)
        object.__setattr__(self, "rotations", rotations)
        object.__setattr__(self, "vector_columns", vector_columns)

    @property
    def n_features(self) -> int:
        """Number of feature columns the operations act on."""
        return int(self.gather[0].shape[1])

    def apply(self, rows: FloatArray, site: int, operation: int) -> FloatArray:
        """Image of feature rows under one operation of their site group.

        Parameters
        ----------
        rows : ndarray of shape (m, n_features)
            Rows in their site frames, all of site class `site`.
        site : int
            Site class.
        operation : int
            Operation of that class's site group; 0 is the identity.

        Returns
        -------
        ndarray of shape (m, n_features)
            A new array of the dtype of `rows`.
        """
        image = rows[:, self.gather[site][operation]]
        if self.vector_columns.size:
            rotation = self.rotations[site][operation].astype(rows.dtype, copy=False)
            image[:, self.vector_columns] = image[:, self.vector_columns] @ rotation.T
        return image

    def beside(self, other: ColumnSymmetry) -> ColumnSymmetry | None:
        """Put the columns of `other` behind ours, where the same operations act on both.

        Parameters
        ----------
        other : ColumnSymmetry
            The action on the columns to the right, for the same site classes.

        Returns
        -------
        ColumnSymmetry or None
            The action on all columns; None if the operations of a site class differ, or their order.
        """
        alike = len(self.rotations) == len(other.rotations) and all(
            a.shape == b.shape and np.allclose(a, b, rtol=0.0, atol=FRAME_TOLERANCE)
            for a, b in zip(self.rotations, other.rotations, strict=True)
        )
        if not alike:
            return None
        shift = self.n_features
        gather = tuple(
            np.concatenate([a, b + shift], axis=1) for a, b in zip(self.gather, other.gather, strict=True)
        )
        vector_columns = np.concatenate([self.vector_columns, other.vector_columns + shift])
        return ColumnSymmetry(gather, self.rotations, vector_columns)

    def on_invariants(self, n_columns: int) -> ColumnSymmetry:
        """Act with the same operations on columns that none of them changes.

        Parameters
        ----------
        n_columns : int
            Number of such columns.

        Returns
        -------
        ColumnSymmetry
            The action on these columns alone.
        """
        gather = tuple(np.tile(np.arange(n_columns), (len(r), 1)) for r in self.rotations)
        return ColumnSymmetry(gather, self.rotations, np.empty((0, 3), dtype=np.intp))

    def equals(self, other: ColumnSymmetry) -> bool:
        """Whether `other` describes the same action, number for number."""
        if self is other:
            return True
        return (
            len(self.gather) == len(other.gather)
            and all(np.array_equal(a, b) for a, b in zip(self.gather, other.gather, strict=True))
            and all(np.array_equal(a, b) for a, b in zip(self.rotations, other.rotations, strict=True))
            and np.array_equal(self.vector_columns, other.vector_columns)
        )


@dataclass(frozen=True, eq=False)
class SiteFrames:
    """The coordinate frame in which each row was written down.

    Parameters
    ----------
    rotations : ndarray of shape (n_rows, 3, 3)
        Orthogonal matrices (proper or not): ``v_frame = rotations[row] @ v_lab``.
    sites : ndarray of shape (n_rows,), int
        Site class of each row, an index into ``symmetry.gather``.
    symmetry : ColumnSymmetry or None, default=None
        How the site groups act on the columns; None once a step has mixed the columns.

    Raises
    ------
    ValueError
        If shapes do not fit, a matrix is not orthogonal, or a site class is unknown to `symmetry`.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import SiteFrames
    >>> turned = SiteFrames(np.array([[[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]]), sites=[0])
    >>> (turned.rotations[0] @ [1.0, 0.0, 0.0]).tolist()  # a vector along x, in the frame of the row
    [0.0, -1.0, 0.0]
    """

    rotations: FloatArray
    sites: IntArray
    symmetry: ColumnSymmetry | None = None

    def __post_init__(self) -> None:
        rotations = np.asarray(self.rotations, dtype=np.float64)
        sites = as_integers(self.sites, "sites", ndim=1)
        if rotations.shape != (len(sites), 3, 3):
            raise ValueError(
                "rotations must have shape (n_rows, 3, 3) with one row per entry of sites; "
                f"got {rotations.shape} for {len(sites)} sites."
            )
        defect = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0.0)
        not_orthogonal = np.flatnonzero(~(defect <= ORTHOGONALITY_TOLERANCE))  # the negation also catches NaN
        if len(not_orthogonal):
            raise ValueError(
                f"rotations must be orthogonal matrices; {len(not_orthogonal)} of {len(sites)} are not, "
                f"the first in row {not_orthogonal[0]}. Orthonormalize the axes before building SiteFrames."
            )
        if self.symmetry is not None and len(sites):
            n_sites = len(self.symmetry.gather)
            if sites.min() < 0 or sites.max() >= n_sites:
                raise ValueError(
                    f"sites must lie in 0..{n_sites - 1}, the site classes of symmetry; "
                    f"got {sites.min()}..{sites.max()}."
                )
        object.__setattr__(self, "rotations", rotations)
        object.__setattr__(self, "sites", sites)

    def __len__(self) -> int:
        return len(self.sites)

    def take(self, rows: IntArray | slice) -> SiteFrames:
        """Frames of the given rows."""
        return SiteFrames(self.rotations[rows], self.sites[rows], self.symmetry)

    def without_symmetry(self) -> SiteFrames:
        """Return the same frames for columns on which the site groups no longer act."""
        return self if self.symmetry is None else SiteFrames(self.rotations, self.sites)

    def to_frame(self, vectors: FloatArray) -> FloatArray:
        """Turn laboratory vectors, shape (n_rows, 3), into the site frame of their row."""
        return np.einsum("nij,nj->ni", self.rotations, self._checked(vectors))

    def to_lab(self, vectors: FloatArray) -> FloatArray:
        """Turn vectors given in the site frame of their row, shape (n_rows, 3), back into the laboratory."""
        return np.einsum("nji,nj->ni", self.rotations, self._checked(vectors))

    def _checked(self, vectors: FloatArray) -> FloatArray:
        vectors = np.asarray(vectors)
        if vectors.shape != (len(self), 3):
            raise ValueError(
                f"vectors must have shape ({len(self)}, 3), one per row of the frames; got {vectors.shape}."
            )
        return vectors


def as_integers(values: ArrayLike, name: str, ndim: int, dtype: DTypeLike = np.intp) -> IntArray:
    """Integer array of ``ndim`` dimensions, or an error that calls it ``name``.

    Raises
    ------
    TypeError
        If the values are not integers.
    ValueError
        If the number of dimensions is another one.
    """
    array = np.asarray(values)
    if array.size == 0:  # an empty list reads as float
        array = array.astype(dtype)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers; got type {array.dtype}.")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension{'s' * (ndim > 1)}; got shape {array.shape}.")
    return array.astype(dtype, copy=False)
