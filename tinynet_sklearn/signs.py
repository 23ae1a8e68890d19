"""Operations that commute and undo themselves, taken out of the first layer of a network.

Averaging over a site group of N operations multiplies the first layer by N: all the g^T W side by side
(`equivariance`). But a group of a crystal contains operations a that commute and undo themselves (inversion,
mirrors, twofold rotations), up to 2^3 of them with their products. The inputs can be split into parts that
each such operation keeps or turns into their negatives,

    U x,  U orthogonal,  U_t M_a = +- U_t   with the signs chi_t(a) = (-1)^(bits of t and a)

so that the sums for the operations r a of a coset follow from the small products t_rt = (U_t M_r^T W)^T U_t x
by additions alone:

    z_ra = sum over t of chi_t(a) t_rt        (Walsh-Hadamard transform)

The multiplications are those of N / 2^k operations; of 48 operations of a cube, 6 are left.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.frames import FloatArray, IntArray

__all__ = ["SignSplit"]

#: Vectors and matrices that differ by less than this, relative to their size, are equal.
SAME = 1e-6


@dataclass(frozen=True, eq=False)
class SignSplit:
    """How the inputs of a network split into parts with a sign under commuting operations.

    Attributes
    ----------
    order : ndarray of int of shape (n_ops,)
        Operations of the action, sign after sign (an element of the commuting group), coset after coset.
    n_signs : int
        Operations in a coset: 1, 2, 4 or 8.
    parts : csr_array of shape (n_inputs, n_inputs)
        U: rows are parts, those of one character next to each other.
    offsets : ndarray of int of shape (n_signs + 1,)
        Parts of character t are rows offsets[t]:offsets[t + 1].
    """

    order: IntArray
    n_signs: int
    parts: csr_array
    offsets: IntArray

    @classmethod
    def of(cls, action: GroupAction) -> SignSplit:
        """Split the inputs that an action works on; trivially where nothing commutes."""
        n_inputs = action.gather.shape[1]
        products = _products(action.rotations)
        signs = _commuting_signs(products, action.rotations)
        matrices = [_matrix(action, operation) for operation in signs]
        order = _cosets(products, signs)
        if not _composes(action, matrices, order.reshape(-1, len(signs))):
            signs, matrices, order = [0], matrices[:1], np.arange(action.n_operations)
        parts: list[list[FloatArray]] = [[] for _ in signs]
        coupling = sum(abs(matrix) for matrix in matrices)
        _, orbits = connected_components(coupling, directed=False)
        for orbit in range(orbits.max(initial=-1) + 1):
            columns = np.flatnonzero(orbits == orbit)
            blocks = [matrix[columns][:, columns].toarray() for matrix in matrices]
            for character, found in enumerate(parts):
                weights = [_sign(character, number) / len(signs) for number in range(len(signs))]
                projector = sum(w * block for w, block in zip(weights, blocks, strict=True))
                for vector in _basis(projector):
                    part = np.zeros(n_inputs)
                    part[columns] = vector
                    found.append(part)
        return cls(
            order=order.reshape(-1, len(signs)).T.ravel(),
            n_signs=len(signs),
            parts=csr_array(
                np.array([part for found in parts for part in found]).reshape(n_inputs, n_inputs)
            ),
            offsets=np.concatenate([[0], np.cumsum([len(found) for found in parts])]),
        )

    def matrices(self, folded: FloatArray) -> list[FloatArray]:
        """Matrix of each character, shape (n_units * n_cosets, n_parts).

        Parameters
        ----------
        folded : ndarray of shape (n_inputs, n_ops, n_units)
            First matrix under every operation, as `GroupAction.fold` gives it.
        """
        representatives = self.order[: len(self.order) // self.n_signs]
        rotated = (
            folded[:, representatives]
            .transpose(2, 1, 0)
            .reshape(folded.shape[2] * len(representatives), len(folded))
        )
        split = (self.parts @ rotated.T.astype(np.float64)).T
        return [split[:, a:b].astype(folded.dtype) for a, b in itertools.pairwise(self.offsets)]


def _sign(character: int, number: int) -> int:
    return -1 if (character & number).bit_count() % 2 else 1


def _products(rotations: FloatArray) -> IntArray:
    """Number of the operation that two make, the second one first."""
    products = np.einsum("aij,bjk->abik", rotations, rotations)[:, :, None]
    found: IntArray = np.square(products - rotations).sum(axis=(3, 4)).argmin(axis=2)
    return found


def _commuting_signs(products: IntArray, rotations: FloatArray) -> list[int]:
    """Largest group of commuting operations that undo themselves; number s is made of the bits of s."""
    once = [g for g in range(1, len(products)) if products[g, g] == 0]
    # along the axes first: such operations couple the fewest inputs
    once.sort(key=lambda g: int((np.abs(rotations[g]) > SAME).sum()))
    best = [0]
    for generators in itertools.chain.from_iterable(itertools.combinations(once, k) for k in (3, 2, 1)):
        if any(products[a, b] != products[b, a] for a, b in itertools.combinations(generators, 2)):
            continue
        group = [0]
        for generator in generators:
            group += [int(products[member, generator]) for member in group]
        if len(set(group)) == len(group) > len(best):
            best = group
            break  # the first ones have the most generators
    return best


def _cosets(products: IntArray, signs: list[int]) -> IntArray:
    """All operations, one coset r A after the other."""
    left = set(range(len(products)))
    order: list[int] = []
    while left:
        representative = min(left)
        coset = [int(products[representative, sign]) for sign in signs]
        order += coset
        left -= set(coset)
    return np.array(order)


def _matrix(action: GroupAction, operation: int) -> csr_array:
    """An operation on scaled inputs, without the shift."""
    gather, rotation = action.gather[operation], action.rotations[operation]
    plain = np.setdiff1d(np.arange(len(gather)), action.vectors.ravel())
    rows, columns, values = [plain], [gather[plain]], [np.ones(len(plain))]
    for i, j in itertools.product(range(3), repeat=2):
        if len(action.vectors):
            rows.append(action.vectors[:, i])
            columns.append(gather[action.vectors[:, j]])
            values.append(np.full(len(action.vectors), rotation[i, j]))
    where = np.concatenate(rows), np.concatenate(columns)
    matrix = csr_array(coo_array((np.concatenate(values), where), shape=(len(gather), len(gather))))
    matrix.data[np.abs(matrix.data) < SAME] = 0.0
    matrix.eliminate_zeros()
    return matrix


def _composes(action: GroupAction, matrices: list[csr_array], cosets: IntArray) -> bool:
    """Whether operations act on the inputs as their rotations say, and cosets are all of one size."""
    n_operations = action.n_operations
    if not np.array_equal(np.sort(cosets, axis=None), np.arange(n_operations)):
        return False
    n_inputs = action.gather.shape[1]
    probe = np.random.default_rng(0).normal(size=(1, n_inputs))
    direct = (action.images(probe) - action.shift)[0]
    for number, matrix in enumerate(matrices):
        moved = (action.images((matrix @ probe[0])[None]) - action.shift)[0]
        if np.abs(moved[cosets[:, 0]] - direct[cosets[:, number]]).max(initial=0.0) > SAME * np.abs(
            probe
        ).max(initial=0.0):
            return False
    return True


def _basis(projector: FloatArray) -> list[FloatArray]:
    """Orthonormal vectors that span what a projector keeps, with as few components as its columns have."""
    found: list[FloatArray] = []
    for column in projector.T:
        rest = column - sum((column @ vector) * vector for vector in found)
        size = float(np.linalg.norm(rest))
        if size > 1e-3:
            found.append(rest / size)
    return found
