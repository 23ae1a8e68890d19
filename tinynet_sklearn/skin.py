"""Lists of bonds and triangles that last for many steps of a simulation.

Whether two atoms are within the cutoff changes slowly. So pairs are listed up to the cutoff plus a *skin*,
and the list holds until two atoms may have come closer by more than the skin (L. Verlet, Phys. Rev. 159, 98
(1967)). At each step those pairs and triangles are picked from it that are within the cutoff now. Nothing is
approximate: they are the ones that a fresh list would hold.

With the cell, atoms move without moving: F takes the old lattice vectors to the new ones, and the position of
an atom is its old one times F plus a displacement u. A pair that is r apart now was at most

    (r + |u_i| + |u_j|) * |F^-1|

apart when it was listed, with the spectral norm of F^-1. While this is at most cutoff plus skin for r =
cutoff and the two largest displacements, no pair is missing. A common drift of all atoms is no displacement,
nor is a jump into another cell.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn import _moment_kernels
from tinynet_sklearn._moment_kernels import Listed, Tables
from tinynet_sklearn.graph import MIN_DISTANCE
from tinynet_sklearn.moments import SmoothGeometry, SmoothMoments, checked_bonds
from tinynet_sklearn.structures import AtomicStructure, as_structures

#: Angstrom. About the best of those that were tried, 0.2 to 1.5 at a cutoff of 5 and steps of 1 fs: a list
#: lasts for 14 to 19 steps of a crystal at 900 K and for 10 of molten silicon. Skin lists then take an eighth
#: to a quarter of the time of fresh ones.
SKIN = 0.6

# Angstrom. Atoms that rest move by rounding errors.
ROUNDING = 1e-9

Floats = NDArray[np.float64]


class SkinList:
    """Bonds and triangles of one structure, from step to step.

    Parameters
    ----------
    definition : SmoothMoments
        What the columns are; gives the cutoffs.
    skin : float, default=SKIN
        Angstrom. The larger, the longer a list holds, and the longer it is. Zero lists anew whenever an atom
        has moved.

    Attributes
    ----------
    n_builds : int
        How often the list was made.

    Raises
    ------
    ValueError
        If the skin is negative or not finite.
    """

    def __init__(self, definition: SmoothMoments, skin: float = SKIN) -> None:
        if not 0.0 <= skin < np.inf:
            raise ValueError(f"skin must be finite and not negative (Angstrom); got {skin!r}.")
        self.definition = definition
        self.skin = float(skin)
        self.n_builds = 0
        self._basis = definition.basis()
        self._listed: _List | None = None

    def geometry(self, structure: AtomicStructure) -> SmoothGeometry:
        """Bonds and triangles of the structure, as `SmoothGeometry` would find them.

        The list is made anew if atoms, periodicity or the order of the atoms changed, or if it does not hold.

        Parameters
        ----------
        structure : AtomicStructure
            Atoms may be in any cell.

        Returns
        -------
        SmoothGeometry
            Of this one structure. It remembers hops and walks from `values` to `pull`, and shares its arrays
            with the list: the next call of `geometry` overwrites them.

        Raises
        ------
        ValueError
            As `SmoothGeometry`, and if positions or cell are not finite.
        """
        if self._listed is not None and self._listed.is_of(structure):
            found = self._listed.at(structure)
            if found is not None:
                return found
        as_structures([structure], name="atoms")  # for its messages
        self._listed = _List(self.definition, self._basis, self.skin, structure)
        self.n_builds += 1
        found = self._listed.at(structure)
        return SmoothGeometry(self.definition, [structure]) if found is None else found


class _List:
    """One list, and the space for what is picked from it."""

    def __init__(
        self, definition: SmoothMoments, basis: _moment_kernels.Basis, skin: float, structure: AtomicStructure
    ) -> None:
        wide = replace(
            definition, cutoff=definition.cutoff + skin, triangle_cutoff=definition.ring_cutoff + skin
        )
        (bonds,) = checked_bonds(wide, [structure])
        self._definition, self._basis, self._skin = definition, basis, skin
        self._numbers, self._pbc = structure.numbers.copy(), structure.pbc.copy()
        self._species = np.searchsorted(definition.species, structure.numbers).astype(np.int32)
        low = bonds.cells.min(axis=0, initial=0)
        box = bonds.cells.max(axis=0, initial=0) - low + 1
        self._translations = np.stack(np.unravel_index(np.arange(box.prod()), box), axis=1) + low
        images = np.ravel_multi_index((bonds.cells - low).T, box).astype(np.int32)
        self._listed = Listed(bonds.first, bonds.last, images, bonds.n_sides, bonds.triangles)
        self._cell, self._scaled = structure.cell.copy(), bonds.scaled
        self._set_cell(structure.cell)
        n_pairs = len(bonds.first)
        self._numbers_now = np.empty(n_pairs, dtype=np.int32)
        self._unwrapped = np.empty((len(structure), 3))
        self._first, self._last = np.empty_like(bonds.first), np.empty_like(bonds.last)
        self._vectors, self._triangles = np.empty((n_pairs, 3)), np.empty_like(bonds.triangles)
        self._work = _moment_kernels.make_work(basis, n_pairs)

    def _set_cell(self, cell: Floats) -> None:
        self._cell_now = cell.copy()
        self._inverse = np.linalg.inv(cell)
        self._stretch = float(np.linalg.norm(self._inverse @ self._cell, 2))
        self._volume = abs(float(np.linalg.det(cell))) if self._pbc.all() else np.nan
        self._shifts = self._translations @ cell

    def is_of(self, structure: AtomicStructure) -> bool:
        """Whether the atoms and the periodicity are those that were listed."""
        return np.array_equal(structure.numbers, self._numbers) and np.array_equal(structure.pbc, self._pbc)

    def at(self, structure: AtomicStructure) -> SmoothGeometry | None:
        """Geometry of the structure, or None where the list does not hold, or atoms coincide."""
        if not np.array_equal(structure.cell, self._cell_now):
            if not abs(np.linalg.det(structure.cell)) > 0.0:
                return None
            self._set_cell(structure.cell)
        largest, second = _moment_kernels.unwrap(
            structure.positions, self._cell_now, self._inverse, self._pbc, self._scaled, self._unwrapped
        )
        definition = self._definition
        for cutoff in (definition.cutoff, definition.ring_cutoff):
            if not (cutoff + largest + second) * self._stretch <= cutoff + self._skin + ROUNDING:
                return None
        n_pairs, n_sides, n_triangles, shortest = _moment_kernels.follow(
            self._unwrapped, self._shifts, definition.cutoff, definition.ring_cutoff, self._listed,
            self._numbers_now, self._first, self._last, self._vectors, self._triangles,
        )  # fmt: skip
        if shortest < MIN_DISTANCE:
            return None
        tables = Tables(
            atom_offsets=np.array([0, len(structure)]),
            pair_offsets=np.array([0, n_pairs]),
            ring_counts=np.array([n_sides]),
            triangle_offsets=np.array([0, n_triangles]),
            species=self._species,
            first=self._first[:n_pairs],
            last=self._last[:n_pairs],
            vectors=self._vectors[:n_pairs],
            triangles=self._triangles[:n_triangles],
        )
        return SmoothGeometry.of_tables(
            definition, self._basis, tables, np.array([self._volume]), work=self._work
        )
