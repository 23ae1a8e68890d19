"""Vector targets as combinations of vectors that come with the features.

A network sees columns that do not change when a structure is turned, and gives one number per vector; the
target is

    y = s * sum_k c_k(x) v_k / |v_k|_rms

with v_k the vectors of the atom (`PerAtomArray.vectors`). Vectors turn with the structure, so y does,
exactly; and as columns and vectors depend on the numbering of atoms no more than they do on the frame, y does
not either. Of all vectors of a structure's frame, those that are zero on all training atoms of the network
are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.networks import DenseStack
from tinynet_sklearn.scaling import row_blocks

__all__ = ["VectorTargets", "check_vectors_point", "combined", "damped", "fit_vector_targets"]

#: Vectors smaller than this, and than this share of the largest, vanish by symmetry or are rounding. Divided
#: by such a size they would be huge as soon as atoms move.
LEAST_SIZE, LEAST_SHARE = 1e-10, 1e-6


@dataclass(frozen=True, eq=False)
class VectorTargets:
    """Targets as combinations of vectors.

    Parameters
    ----------
    scale : float
        s, the root mean square of the components of the training targets.
    columns : ndarray of shape (n_kept,), int
        Vectors that the network gives coefficients of.
    sizes : ndarray of shape (n_kept,)
        Root mean square of the components of each.
    """

    scale: float
    columns: IntArray
    sizes: FloatArray

    def apply(self, physical: FloatArray, dtype: DTypeLike) -> FloatArray:
        """Scaled targets (n_rows, 3)."""
        return (physical / self.scale).astype(dtype, copy=False)

    def basis(self, vectors: FloatArray, dtype: DTypeLike) -> FloatArray:
        """Scaled vectors (n_rows, n_kept, 3) of physical ones (n_rows, n_vectors, 3)."""
        return (vectors[:, self.columns] / self.sizes[:, None]).astype(dtype, copy=False)

    def invert(self, coefficients: FloatArray, vectors: FloatArray) -> FloatArray:
        """Targets (n_rows, 3), float64, of coefficients (n_rows, n_kept) and physical vectors."""
        result = np.empty((len(coefficients), 3))
        for block in row_blocks(len(result)):
            basis = self.basis(vectors[block], np.float64)
            result[block] = self.scale * combined(coefficients[block].astype(np.float64), basis)
        return result


def combined(coefficients: FloatArray, basis: FloatArray) -> FloatArray:
    """Sums of vectors (n_rows, n_vectors, 3) with the given coefficients (n_rows, n_vectors)."""
    return np.matmul(coefficients[:, None], basis)[:, 0]


def damped(stack: DenseStack, factor: float) -> DenseStack:
    """Network with smaller coefficients to begin with: a sum of many vectors would start far too large."""
    last = (stack.weights[-1] * factor).astype(stack.dtype)
    return DenseStack((*stack.weights[:-1], last), stack.biases, stack.activations)


def fit_vector_targets(targets: FloatArray, vectors: FloatArray, weight: FloatArray) -> VectorTargets:
    """Find the scales of targets and vectors.

    Parameters
    ----------
    targets : ndarray of shape (n_rows, 3)
    vectors : ndarray of shape (n_rows, n_vectors, 3)
    weight : ndarray of shape (n_rows,)
        Positive.

    Returns
    -------
    VectorTargets
    """
    share = weight / weight.sum()
    scale = float(np.sqrt(share @ np.square(targets).mean(axis=1)))
    sizes = np.zeros(vectors.shape[1])
    for block in row_blocks(len(vectors)):
        sizes += share[block] @ np.square(vectors[block]).mean(axis=2)
    sizes = np.sqrt(sizes)
    columns = np.flatnonzero(sizes > max(LEAST_SIZE, LEAST_SHARE * sizes.max(initial=0.0)))
    if not len(columns):  # atoms without neighbours, or on symmetric sites only: no vector, no force
        return VectorTargets(scale or 1.0, np.array([0]), np.ones(1))
    return VectorTargets(scale or 1.0, columns, sizes[columns])


def check_vectors_point(vectors: FloatArray) -> None:
    """Refuse vectors (n_rows, n_vectors, 3) on which nothing can be built.

    Raises
    ------
    ValueError
        If there are none, or all are zero.
    """
    if np.abs(vectors).max(initial=0.0) <= LEAST_SIZE:
        raise ValueError(
            "X must carry vectors that are not all zero, to build vector targets on; got "
            f"{vectors.shape[1]} vectors, zero for all atoms. Reach farther neighbours, or use "
            "target='scalar'."
        )
