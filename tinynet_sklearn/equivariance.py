"""The group of a site inside its network: operations on scaled rows, averages over them, and their slopes.

A network f that knows nothing of symmetry becomes one that obeys it exactly when it is averaged over the
operations g of the site group, ``p(x) = mean_g R_g^T f(g x)`` (without R_g for scalars): then
``p(g x) = R_g p(x)``. Trained this way, a tiny network spends nothing on learning the symmetry.

An operation exchanges columns and turns vectors, so it can be moved from the rows to the first matrix:
``(g x) @ W = x @ (g^T W)``. One wide product with all the ``g^T W`` side by side replaces the images of every
row, which are never made.

==============  =============================  =====================================================
name            shape                          meaning
==============  =============================  =====================================================
rows            (m, n_inputs)                  scaled inputs of atoms of one site class
images          (m, n_ops, n_inputs)           the rows under every operation
folded          (n_inputs, n_ops * n_out)      the first matrix under every operation, side by side
outputs         (m * n_ops, k)                 what the network says of every image
==============  =============================  =====================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.frames import ColumnSymmetry, FloatArray, IntArray
from tinynet_sklearn.scaling import ColumnScaling

__all__ = ["GroupAction", "largest_subgroup"]


@dataclass(frozen=True, eq=False)
class GroupAction:
    """The operations of one site class on scaled rows and on the network's outputs.

    Parameters
    ----------
    gather : ndarray of shape (n_ops, n_inputs), int
        The input that each input of an image is filled from, before vectors are turned.
    rotations : ndarray of shape (n_ops, 3, 3)
        Of the vectors among the inputs and, with `turns_outputs`, of the outputs.
    vectors : ndarray of shape (n_vectors, 3), int
        Inputs that are x, y, z of a vector.
    shift : ndarray of shape (n_ops, n_inputs)
        What is added to an image, because scaled inputs are counted from means that need not be symmetric.
    turns_outputs : bool
        Whether the outputs are a vector in the site frame.
    """

    gather: IntArray
    rotations: FloatArray
    vectors: IntArray
    shift: FloatArray
    turns_outputs: bool

    @classmethod
    def trivial(cls, n_inputs: int) -> GroupAction:
        """The group of the identity alone: rows and outputs as they are."""
        return cls(
            np.arange(n_inputs)[None],
            np.eye(3)[None],
            np.empty((0, 3), dtype=np.intp),
            np.zeros((1, n_inputs)),
            False,
        )

    @classmethod
    def of_site(
        cls,
        symmetry: ColumnSymmetry,
        site: int,
        inputs: ColumnScaling,
        turns_outputs: bool,
        most_operations: int | None = None,
    ) -> GroupAction:
        """The action of a site group behind a scaling of its columns.

        Parameters
        ----------
        symmetry : ColumnSymmetry
            The action on physical columns.
        site : int
            Site class.
        inputs : ColumnScaling
            From physical columns to scaled inputs.
        turns_outputs : bool
            Whether the outputs are a vector in the site frame.
        most_operations : int or None
            Take the `largest_subgroup` with at most so many operations; None takes the whole group.

        Returns
        -------
        GroupAction

        Raises
        ------
        ValueError
            If the scaling keeps a column but not its image, or scales the two differently.
        """
        number = np.full(symmetry.n_features, -1)
        number[inputs.columns] = np.arange(len(inputs.columns))
        rotations = symmetry.rotations[site]
        chosen = largest_subgroup(rotations, len(rotations) if most_operations is None else most_operations)
        rotations = rotations[chosen]
        gather = number[symmetry.gather[site][chosen][:, inputs.columns]]
        vectors = number[symmetry.vector_columns]
        vectors = vectors[(vectors >= 0).any(axis=1)]
        scale = inputs.scale
        whole = (gather >= 0).all() and (vectors >= 0).all()
        if not whole or (scale[gather] != scale).any() or np.ptp(scale[vectors], axis=1).any():
            raise ValueError(
                "symmetry_average needs inputs that were scaled alike wherever an operation exchanges them; "
                "the network was fitted without it. Fit anew with warm_start=False, or set "
                "symmetry_average=False."
            )
        action = cls(gather, rotations, vectors, np.zeros(gather.shape), turns_outputs)
        # x' = (G (scale x + offset) - offset) / scale, and G commutes with the scale
        origin = inputs.offset / scale
        shift = action.images(origin[None])[0] - origin
        object.__setattr__(action, "shift", shift)
        return action

    @property
    def n_operations(self) -> int:
        """Order of the group."""
        return len(self.gather)

    def images(self, rows: FloatArray) -> FloatArray:
        """Rows (m, n_inputs) under every operation, shape (m, n_ops, n_inputs)."""
        result: FloatArray = rows[:, self.gather]
        if len(self.vectors):
            turned = np.einsum("gij,mgvj->mgvi", self.rotations, result[:, :, self.vectors], optimize=True)
            result[:, :, self.vectors] = turned
        result += self.shift.astype(rows.dtype)
        return result

    def fold(self, weight: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """First layer under every operation, so that ``rows @ folded + bias`` are the sums of all images.

        Parameters
        ----------
        weight : ndarray of shape (n_inputs, n_out)
            First matrix.
        bias : ndarray of shape (n_out,)
            First bias.

        Returns
        -------
        folded : ndarray of shape (n_inputs, n_ops * n_out)
        bias : ndarray of shape (n_ops * n_out,)
        """
        if self.n_operations == 1:
            return weight, bias
        n_in, n_out = weight.shape
        turned = np.broadcast_to(weight, (self.n_operations, n_in, n_out))
        if len(self.vectors):
            turned = turned.copy()
            rotations = self.rotations.astype(weight.dtype)
            turned[:, self.vectors] = np.einsum(
                "gji,vjh->gvih", rotations, weight[self.vectors], optimize=True
            )
        folded = np.empty((self.n_operations, n_in, n_out), dtype=weight.dtype)
        folded[self._operations, self.gather] = turned
        biases = bias + self.shift.astype(weight.dtype) @ weight
        return folded.transpose(1, 0, 2).reshape(n_in, self.n_operations * n_out), biases.ravel()

    def unfold(self, folded: FloatArray, bias: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient of the first layer from that of its folded form, the transpose of `fold`.

        Parameters
        ----------
        folded : ndarray of shape (n_inputs, n_ops * n_out)
            Derivative with respect to the folded matrix.
        bias : ndarray of shape (n_ops * n_out,)
            Derivative with respect to the folded bias.

        Returns
        -------
        weight : ndarray of shape (n_inputs, n_out)
        bias : ndarray of shape (n_out,)
        """
        if self.n_operations == 1:
            return folded, bias
        n_in = len(folded)
        per_operation = folded.reshape(n_in, self.n_operations, len(bias) // self.n_operations).transpose(
            1, 0, 2
        )
        turned = per_operation[self._operations, self.gather]
        weight: FloatArray = turned.sum(axis=0)
        if len(self.vectors):
            rotations = self.rotations.astype(folded.dtype)
            weight[self.vectors] = np.einsum(
                "gij,gvjh->vih", rotations, turned[:, self.vectors], optimize=True
            )
        biases = bias.reshape(self.n_operations, -1)
        weight += self.shift.astype(folded.dtype).T @ biases
        return weight, biases.sum(axis=0)

    def average(self, outputs: FloatArray) -> FloatArray:
        """Mean over the operations of outputs (m * n_ops, k), turned back to the row: shape (m, k)."""
        if self.n_operations == 1:
            return outputs
        per_row = outputs.reshape(-1, self.n_operations, outputs.shape[1])
        if not self.turns_outputs:
            return per_row.mean(axis=1)
        return per_row.reshape(len(per_row), -1) @ self._turned_mean.astype(outputs.dtype)

    def spread(self, slope: FloatArray) -> FloatArray:
        """Slope with respect to `outputs` from that with respect to their average; its transpose."""
        if self.n_operations == 1:
            return slope
        if self.turns_outputs:
            spread = slope @ self._turned_mean.T.astype(slope.dtype)
        else:
            spread = np.tile(slope / self.n_operations, self.n_operations)
        return spread.reshape(-1, slope.shape[1])

    def design(self, hidden: FloatArray) -> FloatArray:
        """What the averaged outputs of a linear last layer with bias are linear in.

        Parameters
        ----------
        hidden : ndarray of shape (m * n_ops, h)
            What goes into that layer for every image.

        Returns
        -------
        ndarray
            For scalars of shape (m, h + 1): ``average = design @ [matrix; bias]``. For vectors of shape
            (m, 3, (h + 1) * 3): ``average = design @ [matrix; bias].ravel()``.
        """
        per_row = hidden.reshape(-1, self.n_operations, hidden.shape[1])
        m = len(per_row)
        if not self.turns_outputs:
            ones = np.ones((m, 1), dtype=hidden.dtype)
            return np.concatenate([per_row.mean(axis=1), ones], axis=1)
        # average[j] = sum_gci hidden[g, c] matrix[c, i] R[g, i, j] / n_ops
        turned = (self.rotations / self.n_operations).reshape(-1, 9)
        design = (turned.T.astype(hidden.dtype) @ per_row).reshape(m, 3, 3, -1).transpose(0, 2, 3, 1)
        bias = np.broadcast_to(turned.sum(axis=0).reshape(3, 3).T[:, None], (m, 3, 1, 3))
        return np.concatenate([design, bias.astype(hidden.dtype)], axis=2).reshape(m, 3, -1)

    @cached_property
    def _operations(self) -> IntArray:
        return np.arange(self.n_operations)[:, None]

    @cached_property
    def _turned_mean(self) -> FloatArray:
        """``outputs[g, i] -> sum_gi outputs[g, i] R[g, i, j] / n_ops`` as a matrix (n_ops * 3, 3)."""
        return self.rotations.reshape(-1, 3) / self.n_operations


def largest_subgroup(rotations: FloatArray, most: int) -> IntArray:
    """Choose operations of a site group that form a group themselves, to average over fewer.

    Parameters
    ----------
    rotations : ndarray of shape (n_ops, 3, 3)
        All operations, the identity first.
    most : int
        How many may be chosen.

    Returns
    -------
    ndarray of int
        Ascending, 0 first. Among the largest subgroups, one that leaves as few vectors unchanged as possible
        and holds the inversion: it says most about a force.
    """
    if most >= len(rotations):
        return np.arange(len(rotations))
    return _largest_subgroup(np.asarray(rotations, dtype=np.float64).tobytes(), most)


@lru_cache(maxsize=64)  # 0.2 s for the cube, as often as there are predictions
def _largest_subgroup(operations: bytes, most: int) -> IntArray:
    rotations = np.frombuffer(operations).reshape(-1, 3, 3)
    n_operations = len(rotations)
    products = np.einsum("aij,bjk->abik", rotations, rotations)[:, :, None]
    table = np.square(products - rotations).sum(axis=(3, 4)).argmin(axis=2)

    def closure(members: NDArray[np.bool_]) -> NDArray[np.bool_]:
        while True:
            chosen = np.flatnonzero(members)
            larger = members.copy()
            larger[table[np.ix_(chosen, chosen)]] = True
            if larger.sum() == members.sum():
                return members
            members = larger

    unit = np.arange(n_operations) == 0
    found, new = {unit.tobytes(): unit}, [unit]
    while new:
        members = new.pop()
        for operation in np.flatnonzero(~members):
            larger = closure(members | (np.arange(n_operations) == operation))
            if larger.sum() <= most and larger.tobytes() not in found:
                found[larger.tobytes()] = larger
                new.append(larger)
    traces = rotations.trace(axis1=1, axis2=2)

    def worth(members: NDArray[np.bool_]) -> tuple[int, int, bool]:
        n_unchanged = round(traces[members].mean())
        return int(members.sum()), -n_unchanged, bool(traces[members].min() < -2.5)

    return np.flatnonzero(max(found.values(), key=worth))
