"""What features know of the atoms behind them: the contract between embeddings and the energy head.

An energy is a function of features, features are functions of positions. Its forces need the transposed
product of the Jacobian J = d(features) / d(positions) with a vector, the gradient of a loss on forces the
plain one. Neither needs J itself: an embedding that implements the two products in time and memory linear in
the number of atoms can carry energies.

==============  ============================  ==========  ================================================
name            shape                         unit        meaning
==============  ============================  ==========  ================================================
slopes          (n_rows, n_columns)           eV          derivative of an energy by the features
gradient        (n_rows, 3)                   eV/Å        ... by the positions; forces are minus this
virials         (n_structures, 3, 3)          eV          ... by the strain e, which takes positions r to
                                                          (1 + e) r and lattice vectors a to (1 + e) a
velocities      (n_rows, 3)                   Å           any direction in which atoms move
strains         (n_structures, 3, 3)          1           any direction in which the strain changes
==============  ============================  ==========  ================================================
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "Geometry"]

Floats = NDArray[np.floating]


class Geometry(Protocol):
    """Positions and cells of some structures, and how features follow them; see the module's table."""

    @property
    def volumes(self) -> Floats:
        """Volume of each cell, Å^3, shape (n_structures,); NaN where not all directions are periodic."""
        ...

    @property
    def targets(self) -> Any:
        """Energies, forces and stresses (`PotentialTargets`) that came with the structures; None without."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, structures: Any) -> Geometry:
        """Some of the structures: a slice, an array of integers or a mask."""
        ...

    def pull(self, slopes: Floats) -> tuple[Floats, Floats]:
        """Gradient and virials of an energy, given its slopes: the transposed Jacobian."""
        ...

    def push(self, velocities: Floats, strains: Floats) -> Floats:
        """Rates of the features, shape (n_rows, n_columns): the Jacobian."""
        ...
