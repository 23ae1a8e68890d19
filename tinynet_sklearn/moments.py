r"""Smooth moments: sums over closed walks whose bonds fade out before they break.

A frozen topology has a slot for every walk. Where structures differ, or bonds form and break, there are no
slots to fill, and a sum over walks takes their place: it does not depend on how the atoms are numbered,
turned or repeated. It is continuous, too, if the weight of a bond vanishes at the cutoff. With the hops

.. math:: h_a(d) = T_a(x) f(d), \qquad f(d) = (1 - d^2 / d_c^2)^3,

``T_a`` the Chebyshev polynomial of ``x``, a linear function of ``exp(-decay d)`` that is 1 at ``inner`` and
-1 at the cutoff ``d_c``, the columns of atom ``i`` are

====  =======================================  ==============================================================
hops  walk                                     column
====  =======================================  ==============================================================
2     i - j - i                                sum over j of :math:`h_a(ij)`
3     i - j - k - i                            sum over j, k of :math:`h_a(ij)\, h_b(jk)\, h_c(ki)`
4     i - j - k - l - i, where ik is a bond    sum over j, k, l of
                                               :math:`f(ik)\, h_a(ij)\, h_b(jk)\, h_c(kl)\, h_d(li)`
====  =======================================  ==============================================================

each for the species of j (and k, and l), or for channels: then j counts with the weight w_c(Z_j) of its
species in channel c, and so do k and l in theirs; see `tinynet_sklearn.channels`. Why these:

- The polynomials span ``exp(-k decay d) f(d)``: several decays instead of the one of the embedding, and well
  conditioned. Of the hop there and the hop back, which are the same bond, one is kept.
- ``f`` has a zero of third order: columns are twice continuously differentiable, so energy, forces and force
  constants have no jumps.
- A walk and its reverse have the same value, so of two columns that a reversal exchanges there is one.
- Four hops are taken only across a bond ``ik``. Such walks are pairs of triangles with a common side, and see
  how these are turned against each other; they come from what the walks of three hops need anyway, at
  next to no cost. ``j = l`` is not left out: a sum over all is a product of two sums.

Columns are those of a neighbour list, so they serve crystals, slabs, molecules and liquids alike.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tinynet_sklearn import _moment_kernels
from tinynet_sklearn._moment_kernels import Basis, Tables, Work
from tinynet_sklearn.graph import MIN_DISTANCE, pairs_within
from tinynet_sklearn.jacobians import JacobianGeometry, chosen_indices, chosen_items, offsets_of, shaped
from tinynet_sklearn.structures import AtomicStructure, raise_problems

#: More pairs of bonds at the atoms of one structure than this would make triangles that fill the memory.
MAX_CORNERS = 400_000_000


@dataclass(frozen=True)
class SmoothMoments:
    """Definition of the columns; see the module's table.

    Parameters
    ----------
    species : tuple of int
        Atomic numbers, ascending. Atoms of other species are refused.
    cutoff : float, default=5.0
        Angstrom; bonds fade out at this length.
    n : {2, 3, 4}, default=4
        Longest walks, in hops.
    n_pair : int, default=8
        Number of hops of different order in walks of two hops.
    n_triangle : int, default=4
        The same for walks of three hops.
    n_square : int, default=2
        The same for walks of four hops; at most ``n_triangle``.
    triangle_cutoff : float or None, default=None
        Angstrom; cutoff of the bonds in walks of three and four hops. None is ``cutoff``. The cost grows with
        its sixth power.
    inner : float, default=1.5
        Angstrom; about the shortest distance that occurs. Polynomials are between -1 and 1 beyond it, and
        grow fast below it.
    decay : float, default=0.3
        Per Angstrom, of the exponential of the hops. With several orders it matters little; the smaller, the
        more evenly they resolve all distances.
    weights : tuple of tuples of float, or None, default=None
        Of each species in each channel, shape (n_species, n_channels). None makes every species a channel of
        its own.

    Raises
    ------
    ValueError
        If a parameter is out of its range.
    """

    species: tuple[int, ...]
    cutoff: float = 5.0
    n: int = 4
    n_pair: int = 8
    n_triangle: int = 4
    n_square: int = 2
    triangle_cutoff: float | None = None
    inner: float = 1.5
    decay: float = 0.3
    weights: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        numbers = list(self.species)
        if not numbers or numbers != sorted(set(numbers)) or not 0 < numbers[0] <= numbers[-1] < 119:
            raise ValueError(
                f"species must be atomic numbers in ascending order, each once, got {self.species!r}."
            )
        if self.n not in (2, 3, 4):
            raise ValueError(f"n must be 2, 3 or 4 hops, got {self.n!r}; longer walks have no smooth form.")
        least = {"n_pair": 1, "n_triangle": 1, "n_square": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)!r}.")
        if self.n == 4 and self.n_square > self.n_triangle:
            raise ValueError(
                f"n_square must be at most n_triangle={self.n_triangle}, since walks of four hops are made "
                f"of walks of three, got {self.n_square!r}; raise n_triangle."
            )
        if not 0.0 < self.decay < np.inf:
            raise ValueError(f"decay must be positive and finite (1/Angstrom), got {self.decay!r}.")
        if not 0.0 < self.cutoff < np.inf:
            raise ValueError(f"cutoff must be positive and finite (Angstrom), got {self.cutoff!r}.")
        if not 0.0 < self.ring_cutoff <= self.cutoff:
            raise ValueError(
                f"triangle_cutoff must be positive and at most cutoff={self.cutoff:g} Angstrom, "
                f"got {self.triangle_cutoff!r}."
            )
        if not 0.0 <= self.inner < self.ring_cutoff:
            raise ValueError(
                f"inner must be at least 0 and below the cutoff of {self.ring_cutoff:g} Angstrom, "
                f"got {self.inner!r}."
            )
        if self.weights is not None:
            lengths = {len(row) for row in self.weights}
            if len(self.weights) != len(numbers) or len(lengths) != 1 or lengths == {0}:
                raise ValueError(
                    f"weights must hold one row for each of the {len(numbers)} species, with one number for "
                    f"each channel; got rows of {[len(row) for row in self.weights]} numbers."
                )
            if not np.isfinite(self.weights).all():
                raise ValueError(f"weights must be finite; got {self.weights!r}.")

    @property
    def ring_cutoff(self) -> float:
        """Cutoff of the bonds in walks of three and four hops, Angstrom."""
        return self.cutoff if self.triangle_cutoff is None else self.triangle_cutoff

    @property
    def n_channels(self) -> int:
        """Number of channels in which atoms count; without weights, of species."""
        return len(self.species) if self.weights is None else len(self.weights[0])

    @property
    def n_columns(self) -> int:
        """Number of columns."""
        c, a, b = self.n_channels, self.n_triangle, self.n_square**2
        pairs = c * (c - 1) // 2  # of different channels
        count = c * self.n_pair
        if self.n >= 3:
            count += a * (c * (a * (a + 1) // 2) + pairs * a**2)
        if self.n >= 4:
            count += c * (c * (b * (b + 1) // 2) + pairs * b**2)
        return count

    @property
    def channel_names(self) -> list[str]:
        """Symbols of the species, or ``w0``, ``w1``, ... of the channels that stand in for them."""
        if self.weights is not None:
            return [f"w{channel}" for channel in range(self.n_channels)]
        return [chemical_symbols[number] for number in self.species]

    def names(self) -> list[str]:
        """Name of each column.

        ``mu2[O]2`` is the sum over O neighbours of the hop of order 2, ``mu3[O-Ti]0,1,3`` the sum over walks
        to an O, on to a Ti and back, with hops of order 0, 1 and 3 in this order, and ``mu4[O-Ti-O]0,1,1,0``
        the same for four hops. ``mu3[w0-w2]0,1,3`` is a sum over walks to any atom and on to any atom, times
        the weight of the former in channel 0 and that of the latter in channel 2.
        """
        symbols = self.channel_names
        names = [f"mu2[{symbol}]{a}" for symbol, a in product(symbols, range(self.n_pair))]
        if self.n >= 3:
            for (s, there), (t, third) in combinations_with_replacement(enumerate(symbols), 2):
                for a, c in product(range(self.n_triangle), repeat=2):
                    if s != t or a <= c:
                        names += [f"mu3[{there}-{third}]{a},{b},{c}" for b in range(self.n_triangle)]
        if self.n >= 4:
            sides = list(product(range(self.n_square), repeat=2))
            for across in symbols:
                for (s, one), (t, other) in combinations_with_replacement(enumerate(symbols), 2):
                    for (u, (a, b)), (v, (d, c)) in product(enumerate(sides), repeat=2):
                        if s != t or u <= v:
                            names.append(f"mu4[{one}-{across}-{other}]{a},{b},{c},{d}")
        return names

    def basis(self) -> Basis:
        """The same for the kernels."""
        m, n_triangle, n_square = self.n_channels, self.n_triangle, self.n_square
        triangle_columns = np.full((m, m), -1)
        square_columns = np.full((m, m, m), -1)
        column = m * self.n_pair
        if self.n >= 3:
            for s, t in combinations_with_replacement(range(m), 2):
                triangle_columns[s, t] = column
                pairs = n_triangle * (n_triangle + 1) // 2 if s == t else n_triangle**2
                column += pairs * n_triangle
        if self.n >= 4:
            for across in range(m):
                for s, t in combinations_with_replacement(range(m), 2):
                    square_columns[across, s, t] = column
                    column += n_square**2 * (n_square**2 + 1) // 2 if s == t else n_square**4
        return Basis(
            n_species=len(self.species),
            n_channels=m,
            cutoff=float(self.cutoff),
            ring_cutoff=float(self.ring_cutoff),
            inner=float(self.inner),
            decay=float(self.decay),
            pair_orders=tuple(range(self.n_pair)),
            ring_orders=tuple(range(n_triangle if self.n >= 3 else 0)),
            square_orders=tuple(range(n_square if self.n >= 4 else 0)),
            mixed=() if self.weights is None else tuple(range(m)),
            weights=np.eye(m) if self.weights is None else np.array(self.weights),
            triangle_columns=triangle_columns,
            square_columns=square_columns,
        )


class SmoothGeometry:
    """Bonds and triangles of structures, from which their smooth moments and derivatives follow.

    Implements `tinynet_sklearn.geometry.Geometry`. Hops and walks are made anew in each call, which suits
    simulations and needs little memory; for training there is `cached`.

    Parameters
    ----------
    definition : SmoothMoments
    structures : sequence of AtomicStructure
    targets : object or None, default=None
        Energies, forces and stresses that came with the structures, selected along with them.

    Raises
    ------
    ValueError
        If atoms coincide, are of a species that is not in the definition, or have too many neighbours. All
        faulty structures are reported in one message.

    Attributes
    ----------
    volumes : (n_structures,) ndarray
        Of each cell, Angstrom^3; NaN where not all directions are periodic.
    targets : object or None
        As passed.
    """

    def __init__(
        self, definition: SmoothMoments, structures: Sequence[AtomicStructure], targets: Any = None
    ) -> None:
        bonds = checked_bonds(definition, structures)
        position = np.searchsorted(definition.species, np.concatenate([s.numbers for s in structures]))
        volumes = [abs(np.linalg.det(s.cell)) if s.pbc.all() else np.nan for s in structures]
        tables = Tables(
            atom_offsets=offsets_of([len(s) for s in structures]),
            pair_offsets=offsets_of([len(b.first) for b in bonds]),
            ring_counts=np.array([b.n_sides for b in bonds], dtype=np.int64),
            triangle_offsets=offsets_of([len(b.triangles) for b in bonds]),
            species=position.astype(np.int32),
            first=np.concatenate([b.first for b in bonds]),
            last=np.concatenate([b.last for b in bonds]),
            vectors=np.concatenate([b.vectors for b in bonds]),
            triangles=np.concatenate([b.triangles for b in bonds]),
        )
        self._set(definition, definition.basis(), tables, np.array(volumes, dtype=np.float64), targets)

    def _set(
        self,
        definition: SmoothMoments,
        basis: Basis,
        tables: Tables,
        volumes: NDArray[np.floating],
        targets: Any = None,
        work: Work | None = None,
    ) -> None:
        self._definition, self._basis, self._tables = definition, basis, tables
        self.volumes, self.targets = volumes, targets
        self._work, self._filled = work, False

    @classmethod
    def of_tables(
        cls,
        definition: SmoothMoments,
        basis: Basis,
        tables: Tables,
        volumes: NDArray[np.floating],
        targets: Any = None,
        work: Work | None = None,
    ) -> "SmoothGeometry":
        """Geometry of bonds and triangles that are known.

        Parameters
        ----------
        definition, targets
            As in the constructor.
        basis : Basis
            That of the definition.
        tables : Tables
            Bonds and triangles.
        volumes : (n_structures,) ndarray
            Of each cell, Angstrom^3; NaN where not all directions are periodic.
        work : Work or None, default=None
            Space for one structure, from which `pull` takes what `values` left there. Without, both make
            hops and walks anew.
        """
        geometry = object.__new__(cls)
        geometry._set(definition, basis, tables, volumes, targets, work)
        return geometry

    @property
    def definition(self) -> SmoothMoments:
        """What the columns are."""
        return self._definition

    @property
    def basis(self) -> Basis:
        """The definition, for the kernels."""
        return self._basis

    @property
    def tables(self) -> Tables:
        """Bonds and triangles of all structures."""
        return self._tables

    @property
    def n_rows(self) -> int:
        """Number of atoms in all structures."""
        return int(self._tables.atom_offsets[-1])

    @property
    def nbytes(self) -> int:
        """Memory of the tables."""
        return sum(array.nbytes for array in self._tables)

    def _space(self) -> Work:
        if self._work is not None:
            return self._work
        return _moment_kernels.make_work(self._basis, int(np.diff(self._tables.pair_offsets).max(initial=0)))

    def __len__(self) -> int:
        return len(self._tables.ring_counts)

    def __getitem__(self, key: Any) -> "SmoothGeometry":
        """Select structures by slice, integer array or mask of bools."""
        chosen = chosen_indices(key, len(self))
        tables = self._tables
        atom_offsets, atoms = chosen_items(tables.atom_offsets, chosen)
        pair_offsets, pairs = chosen_items(tables.pair_offsets, chosen)
        triangle_offsets, triangles = chosen_items(tables.triangle_offsets, chosen)
        part = Tables(
            atom_offsets=atom_offsets,
            pair_offsets=pair_offsets,
            ring_counts=tables.ring_counts[chosen],
            triangle_offsets=triangle_offsets,
            species=tables.species[atoms],
            first=tables.first[pairs],
            last=tables.last[pairs],
            vectors=tables.vectors[pairs],
            triangles=tables.triangles[triangles],
        )
        targets = None if self.targets is None else self.targets[chosen]
        return SmoothGeometry.of_tables(self._definition, self._basis, part, self.volumes[chosen], targets)

    @property
    def cached_nbytes(self) -> int:
        """Memory that the blocks of `cached` take in float32."""
        return 2 * len(self._tables.first) * 3 * self._definition.n_columns * 4

    def cached(self, dtype: Any = np.float32) -> JacobianGeometry:
        """Geometry of the same structures that stores the Jacobian, for training.

        Parameters
        ----------
        dtype : {numpy.float32, numpy.float64}, default=numpy.float32
            Of the Jacobian, and of the sums in products with it.

        Returns
        -------
        JacobianGeometry
            Takes `cached_nbytes` of memory in float32. Products are some four to seven times as fast.
        """
        offsets, neighbors, vectors, slots = _moment_kernels.find_neighbors(self._tables)
        blocks = np.empty((len(neighbors), 3, self._definition.n_columns), dtype)
        _moment_kernels.fill_blocks(self._basis, self._tables, slots, blocks)
        return JacobianGeometry(
            self._tables.atom_offsets,
            offsets,
            neighbors,
            vectors,
            blocks,
            self.values(),
            self.volumes,
            self.targets,
        )

    def values(self) -> NDArray[np.floating]:
        """Columns of all atoms, structure after structure, shape (n_rows, n_columns)."""
        out = np.zeros((self.n_rows, self._definition.n_columns))
        _moment_kernels.values(self._basis, self._tables, self._space(), out)
        self._filled = self._work is not None
        return out

    def pull(self, slopes: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Chain rule from the columns to positions and strains.

        Parameters
        ----------
        slopes : (n_rows, n_columns) ndarray
            Derivatives of an energy (eV) by the columns.

        Returns
        -------
        gradient : (n_rows, 3) ndarray
            Derivatives by the positions, eV/Angstrom: minus the forces.
        virials : (n_structures, 3, 3) ndarray
            Derivatives by the strain, eV; a strain e takes positions and cell rows from r to (1 + e) r.
            Symmetric.

        Raises
        ------
        ValueError
            If ``slopes`` has another shape.
        """
        given = shaped("slopes", slopes, (self.n_rows, self._definition.n_columns))
        gradient, virials = np.zeros((self.n_rows, 3)), np.zeros((len(self), 3, 3))
        _moment_kernels.pull(self._basis, self._tables, self._space(), self._filled, given, gradient, virials)
        return gradient, virials

    def push(
        self, velocities: NDArray[np.floating], strains: NDArray[np.floating] | None = None
    ) -> NDArray[np.floating]:
        """Rates of the columns, the transpose of `pull`.

        Parameters
        ----------
        velocities : (n_rows, 3) ndarray
            Of the atoms.
        strains : (n_structures, 3, 3) ndarray or None, default=None
            Rates of strain; None is zero.

        Returns
        -------
        (n_rows, n_columns) ndarray

        Raises
        ------
        ValueError
            If an argument has another shape.
        """
        moving = shaped("velocities", velocities, (self.n_rows, 3))
        straining = np.zeros((len(self), 3, 3))
        if strains is not None:
            straining = shaped("strains", strains, (len(self), 3, 3))
        out = np.zeros((self.n_rows, self._definition.n_columns))
        _moment_kernels.push(self._basis, self._tables, moving, straining, out)
        return out


def checked_bonds(definition: SmoothMoments, structures: Sequence[AtomicStructure]) -> "list[Bonds]":
    """Pairs and triangles of structures, or an error that names all faulty ones; see `SmoothGeometry`."""
    raise_problems("structures have no smooth moments", list(_problems(definition, structures)))
    bonds = [Bonds.of(definition, structure, index) for index, structure in enumerate(structures)]
    raise_problems("structures have no smooth moments", [text for b in bonds for text in b.problems])
    return bonds


@dataclass(frozen=True, eq=False)
class Bonds:
    """Pairs and triangles of one structure, as in `Tables`, and what is wrong with it.

    ``scaled`` (n_atoms, 3) are the positions in units of the lattice vectors, those of periodic directions
    inside the cell. Pair p leads to atom ``last`` in the cell ``cells`` (n_pairs, 3), counted from there.
    """

    scaled: NDArray[np.floating]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    cells: NDArray[np.int64]
    vectors: NDArray[np.floating]
    n_sides: int
    triangles: NDArray[np.int32]
    problems: list[str]

    @classmethod
    def of(cls, definition: SmoothMoments, structure: AtomicStructure, index: int) -> "Bonds":
        """Find them; ``index`` is the number of the structure in messages."""
        # Inside the cell, cells of neighbours are small numbers, however far the atoms have wandered.
        scaled = structure.scaled_positions()
        wrap = np.floor(scaled) * structure.pbc
        positions = structure.positions - wrap @ structure.cell
        wrapped = AtomicStructure(structure.numbers, positions, structure.cell, structure.pbc)
        i, j, cells, lengths = pairs_within(wrapped, definition.cutoff)
        # Vertices are ordered by (atom, cell), as one integer: the cell's digits in a wide enough base.
        base = 4 * int(np.abs(cells).max(initial=0)) + 3
        cell_keys = (cells[:, 0] * base + cells[:, 1]) * base + cells[:, 2]
        forward = (i < j) | ((i == j) & (cell_keys > 0))
        i, j, cells, lengths, cell_keys = (array[forward] for array in (i, j, cells, lengths, cell_keys))
        keys = j * base**3 + cell_keys
        long = lengths >= definition.ring_cutoff if definition.n > 2 else np.ones(len(i), dtype=bool)
        order = np.lexsort([keys, i, long])  # sides of triangles first, then by atom, then by neighbour
        i, j, cells, lengths = (array[order] for array in (i, j, cells, lengths))
        n_sides = len(i) - int(long.sum())
        offsets = np.searchsorted(i[:n_sides], np.arange(len(structure) + 1))
        problems = [
            f"structure {index}: atoms {i[p]} and {j[p]} are {lengths[p]:.2g} Angstrom apart; remove one of "
            "them."
            for p in np.flatnonzero(lengths < MIN_DISTANCE)
        ]
        counts = np.diff(offsets)
        corners = int((counts * (counts - 1)).sum()) // 2
        if corners > MAX_CORNERS:
            problems.append(
                f"structure {index}: {n_sides:,} bonds up to {definition.ring_cutoff:g} Angstrom make "
                f"{corners:.2g} pairs with a common atom, {MAX_CORNERS:,} are allowed; lower triangle_cutoff."
            )
        triangles = np.empty((0, 3), dtype=np.int32)
        if not problems:
            ends = np.column_stack([j, cell_keys[order]])[:n_sides]
            triangles = _moment_kernels.find_triangles(offsets, keys[order][:n_sides], ends)
        vectors = positions[j] - positions[i] + cells @ structure.cell
        first, last = i.astype(np.int32), j.astype(np.int32)
        return cls(scaled - wrap, first, last, cells, vectors, n_sides, triangles, problems)


def _problems(definition: SmoothMoments, structures: Sequence[AtomicStructure]) -> Iterable[str]:
    known = ", ".join(chemical_symbols[number] for number in definition.species)
    for index, structure in enumerate(structures):
        strangers = np.flatnonzero(~np.isin(structure.numbers, definition.species))
        if len(strangers):
            symbol = chemical_symbols[structure.numbers[strangers[0]]]
            yield (
                f"structure {index}, atom {strangers[0]}: {symbol} is none of the species {known}; "
                "fit with structures that have it."
            )
