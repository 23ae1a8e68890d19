"""Stored Jacobians: memory for time, where the same structures are pulled and pushed thousands of times.

A column of an atom depends on its neighbours within the cutoff, so the Jacobian is a list of small dense
blocks, and its products with vectors run at the speed at which memory is read.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn import _moment_kernels
from tinynet_sklearn._validation import described

Floats = NDArray[np.floating]


class JacobianGeometry:
    """Structures with the Jacobian of their columns; implements `tinynet_sklearn.geometry.Geometry`.

    Parameters
    ----------
    atom_offsets : (n_structures + 1,) ndarray
        Atoms of structure s are atom_offsets[s]:atom_offsets[s + 1].
    offsets, neighbors, vectors, blocks : ndarray
        See the last section of `tinynet_sklearn._moment_kernels`. The blocks' type, float32 or float64, is
        that in which products are summed.
    values : (n_rows, n_columns) ndarray
    volumes : (n_structures,) ndarray
        Of each cell, Angstrom^3; NaN where not all directions are periodic.
    targets : object or None
        Energies, forces and stresses that came with the structures, selected along with them.
    """

    def __init__(
        self,
        atom_offsets: NDArray[np.int64],
        offsets: NDArray[np.int64],
        neighbors: NDArray[np.int32],
        vectors: Floats,
        blocks: NDArray[np.floating],
        values: Floats,
        volumes: Floats,
        targets: Any = None,
    ) -> None:
        self.volumes = volumes
        self.targets = targets
        self._atom_offsets = atom_offsets
        self._offsets = offsets
        self._neighbors = neighbors
        self._vectors = vectors
        self._blocks = blocks
        self._values = values

    @property
    def n_rows(self) -> int:
        """Number of atoms in all structures."""
        return len(self._values)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        arrays = (self._offsets, self._neighbors, self._vectors, self._blocks, self._values)
        return sum(array.nbytes for array in arrays)

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, key: Any) -> "JacobianGeometry":
        """Select structures by slice, integer array or mask of bools. Blocks of a slice are not copied."""
        chosen = chosen_indices(key, len(self))
        atom_offsets, atoms = chosen_items(self._atom_offsets, chosen)
        offsets, items = chosen_items(self._offsets, np.arange(self.n_rows)[atoms])
        return JacobianGeometry(
            atom_offsets,
            offsets,
            self._neighbors[items],
            self._vectors[items],
            self._blocks[items],
            self._values[atoms],
            self.volumes[chosen],
            None if self.targets is None else self.targets[chosen],
        )

    def values(self) -> Floats:
        """Columns of all atoms, structure after structure, shape (n_rows, n_columns)."""
        return self._values.copy()

    def pull(self, slopes: Floats) -> tuple[Floats, Floats]:
        """Gradient (n_rows, 3) and virials (n_structures, 3, 3) of an energy; see `SmoothGeometry.pull`."""
        given = shaped("slopes", slopes, self._values.shape, self._blocks.dtype)
        gradient, virials = np.zeros((self.n_rows, 3)), np.zeros((len(self), 3, 3))
        _moment_kernels.pull_blocks(
            self._atom_offsets,
            self._offsets,
            self._neighbors,
            self._vectors,
            self._blocks,
            given,
            gradient,
            virials,
        )
        return gradient, virials

    def push(self, velocities: Floats, strains: Floats | None = None) -> Floats:
        """Rates of the columns, shape (n_rows, n_columns); see `SmoothGeometry.push`."""
        moving = shaped("velocities", velocities, (self.n_rows, 3))
        straining = np.zeros((len(self), 3, 3))
        if strains is not None:
            straining = shaped("strains", strains, straining.shape)
        out = np.empty(self._values.shape, self._blocks.dtype)
        _moment_kernels.push_blocks(
            self._atom_offsets,
            self._offsets,
            self._neighbors,
            self._vectors,
            self._blocks,
            moving,
            straining,
            out,
        )
        return out.astype(np.float64)


def chosen_indices(key: Any, n: int) -> NDArray[np.int64]:
    """Numbers of the structures, of ``n``, that a slice, an integer array or a mask of bools selects."""
    indices: NDArray[np.int64] = np.atleast_1d(np.arange(n)[key])
    return indices


def offsets_of(counts: Any) -> NDArray[np.int64]:
    """Where the items of each structure begin and end, from their numbers."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def chosen_items(offsets: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], Any]:
    """Offsets of the chosen structures, and the index of their items: a slice where they are neighbours."""
    counts = np.diff(offsets)[chosen]
    new = offsets_of(counts)
    if len(chosen) and (np.diff(chosen) == 1).all():
        return new, slice(int(offsets[chosen[0]]), int(offsets[chosen[-1] + 1]))
    return new, np.arange(new[-1]) + np.repeat(offsets[chosen] - new[:-1], counts)


def shaped(name: str, values: Any, shape: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
    """Contiguous array of a type, or an error that names the shape expected."""
    array = np.ascontiguousarray(values, dtype=dtype)
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape}, got {described(values)}.")
    return array
