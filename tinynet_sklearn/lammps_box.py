"""From the cell of a structure to the box of LAMMPS and back, through strains, rotations and flips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet_sklearn.geometry import Floats

__all__ = ["Box"]


class Box:
    """The cell of a structure in LAMMPS, where the first vector lies along x and the second in the xy plane.

    Parameters
    ----------
    cell : ndarray of shape (3, 3)
        Of the structure, Angstrom.

    Attributes
    ----------
    turn : ndarray of shape (3, 3)
        Orthogonal: a row vector v of the structure is ``v @ turn`` in LAMMPS.
    """

    def __init__(self, cell: Floats) -> None:
        self._vectors = np.linalg.cholesky(cell @ cell.T)  # triangular, with the same lengths and angles
        self.turn = np.linalg.solve(cell, self._vectors)
        self._seen: list[Any] = []

    def follow(self, box: Sequence[Any]) -> Floats:
        """Lattice vectors of the structure in the present box, Angstrom, shape (3, 3).

        LAMMPS flips boxes that tilt too far into others of the same lattice, whose vectors are whole-number
        combinations of those before. They are told from strain by following the box from step to step.

        Parameters
        ----------
        box : sequence
            As ``extract_box`` gives it: lower and upper corner, tilts xy, yz, xz, and more.

        Raises
        ------
        ValueError
            If it is no box of this crystal.
        """
        sides = list(box[:5])
        if sides != self._seen:
            low, high, xy, yz, xz = sides
            vectors = np.diag(np.subtract(high, low))
            vectors[1, 0], vectors[2, 1], vectors[2, 0] = xy, yz, xz
            combination = np.rint(vectors @ np.linalg.inv(self._vectors))
            if abs(abs(np.linalg.det(combination)) - 1.0) > 1e-6:
                wanted, found = (np.linalg.norm(rows, axis=1).round(3) for rows in (self._vectors, vectors))
                raise ValueError(
                    f"the box of LAMMPS must be the cell of structure, with edges {wanted.tolist()} "
                    f"Angstrom; got {found.tolist()}. Pass the structure that the data file was written from."
                )
            self._vectors = np.linalg.solve(combination, vectors)
            self._cell, self._seen = self._vectors @ self.turn.T, sides
        return self._cell
