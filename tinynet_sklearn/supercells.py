"""Recognising a structure as a supercell of a reference.

Let the rows of A be the lattice vectors of the reference and those of S the ones of the supercell. Then

    S = P A (1 + strain) Q^T        P integer, abs(det P) cells; Q the rotation of the supercell as a whole

and every atom of the supercell stands near a site (r, t): atom r of the reference, moved by the lattice
translation t A. Translations that differ by rows of P are the same place in the supercell; these classes of
them are numbered 0, 1, ..., n_cells - 1 by the Hermite form of P.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tinynet_sklearn.structures import AtomicStructure

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Farthest an atom may be from its site (Angstrom), after the rigid shift. Atoms of one species are seldom
#: closer to each other than twice this.
MAX_DISPLACEMENT = 1.5

#: Lattice vectors may be stretched by this factor, or compressed, along any direction.
MAX_STRETCH = 1.15

#: An RMS distance (Angstrom) with which a hypothesis is accepted without a look at the others.
GOOD_FIT = 0.15

#: Hypotheses whose RMS distances differ by less than this fraction, or length in Angstrom, are a tie, as
#: between the cells of a pseudocubic reference: the least shift and rotation win.
TIE_FRACTION, TIE_DISTANCE = 0.05, 0.002

#: Atoms on which hypotheses are tried before the best one is carried out for all.
SCREENED_ATOMS = 500

#: Hypotheses about P that are tried at most.
MAX_HYPOTHESES = 60

#: In the search for rotations: lattice vectors that are listed, those that are considered for a row of P, and
#: pairs of these. Supercells that would need more must not be turned, unless their P is diagonal.
MAX_LISTED, MAX_VECTORS, MAX_PAIRS = 3_000_000, 1500, 4000

#: Atoms of one kind that are handled at a time: bounds the memory for intermediate results.
BLOCK = 4000


@dataclass(frozen=True, eq=False)
class Supercell:
    """Where each atom of a structure stands on the repeated reference.

    Attributes
    ----------
    matrix : ndarray of int of shape (3, 3)
        P: the lattice vectors of the supercell, as rows, in units of those of the reference; the identity
        along directions without periodicity.
    rotation : ndarray of shape (3, 3)
        Q, proper: v_supercell = Q @ v_reference.
    parents : ndarray of int of shape (n_atoms,)
        Atom of the reference that each atom is a copy of.
    translations : ndarray of int of shape (n_atoms, 3)
        Its lattice translation, in units of the reference's lattice vectors.
    """

    matrix: Ints
    rotation: Floats
    parents: Ints
    translations: Ints

    @property
    def n_cells(self) -> int:
        """Number of cells of the reference."""
        return int(self._triangle.diagonal().prod())

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of cells along three axes: class c is the translation ``np.unravel_index(c, sizes)``."""
        a, b, c = (int(size) for size in self._triangle.diagonal())
        return a, b, c

    def classes(self, translations: Ints) -> Ints:
        """Class of lattice translations, shape (..., 3) -> (...)."""
        sizes = self._triangle.diagonal()
        rest = self._reduced(translations)
        return (rest[..., 0] * sizes[1] + rest[..., 1]) * sizes[2] + rest[..., 2]

    def cells(self, translations: Ints) -> Ints:
        """Cells of the supercell that translations lead to, shape (..., 3); only differences have meaning."""
        determinant = round(float(np.linalg.det(self.matrix)))
        adjugate = np.rint(np.linalg.inv(self.matrix) * determinant).astype(np.int64)
        return (translations - self._reduced(translations)) @ adjugate // determinant

    def vertices(self, atoms: Ints, translations: Ints) -> tuple[Ints, Ints]:
        """Names (atom, cell) in the supercell of vertices (atom, translation) of the repeated reference."""
        found = self.copies[atoms, self.classes(translations)]
        return found, self.cells(translations) - self._homes[found]

    @cached_property
    def copies(self) -> Ints:
        """The atom that stands for each (atom of the reference, class), shape (n_reference, n_cells)."""
        table = np.empty((len(self.parents) // self.n_cells, self.n_cells), dtype=np.int64)
        table[self.parents, self.classes(self.translations)] = np.arange(len(self.parents))
        return table

    def blocks(self) -> Iterator[tuple[int, Ints]]:
        """Atoms of the reference, each with its copies, a bounded number at a time."""
        for parent, copies in enumerate(self.copies):
            for start in range(0, len(copies), BLOCK):
                yield parent, copies[start : start + BLOCK]

    @cached_property
    def _triangle(self) -> Ints:
        return hermite_form(self.matrix)

    @cached_property
    def _homes(self) -> Ints:
        return self.cells(self.translations)

    def _reduced(self, translations: Ints) -> Ints:
        """Representatives: inside the box that the diagonal of the Hermite form spans."""
        rest = np.array(translations, dtype=np.int64)
        for axis, row in enumerate(self._triangle):
            rest -= (rest[..., axis] // row[axis])[..., None] * row
        return rest


def hermite_form(matrix: Ints) -> Ints:
    """Upper triangular integer basis, positive diagonal, of the lattice that the rows of ``matrix`` span."""
    form = np.array(matrix, dtype=np.int64)
    for axis in range(len(form)):
        while form[axis + 1 :, axis].any() or not form[axis, axis]:
            below = np.abs(form[axis:, axis])
            pivot = axis + int(np.where(below > 0, below, below.max() + 1).argmin())
            form[[axis, pivot]] = form[[pivot, axis]]
            form[axis + 1 :] -= (form[axis + 1 :, axis] // form[axis, axis])[:, None] * form[axis]
        form[axis] *= np.sign(form[axis, axis])
    return form


# ---- Finding the supercell ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Lattice:
    """A hypothesis about P and Q, with what it makes of the reference's lattice.

    ``ideal`` and ``actual`` are the lattice vectors (rows) of the reference before and after deformation and
    rotation; directions without periodicity have unit vectors across the others.
    """

    matrix: Ints
    rotation: Floats
    ideal: Floats
    actual: Floats


@dataclass(frozen=True, eq=False)
class _Match:
    """The sites nearest to some atoms; ``distances`` (Angstrom) are infinite where none is near enough."""

    parents: Ints
    translations: Ints
    distances: Floats
    residuals: Floats

    @property
    def lost(self) -> NDArray[np.bool_]:
        """Which atoms have no site."""
        return np.isinf(self.distances)

    @property
    def misfit(self) -> float:
        """RMS distance, Angstrom; an atom without a site counts as if it were twice too far away."""
        return float(np.sqrt(np.mean(np.minimum(self.distances, 2.0 * MAX_DISPLACEMENT) ** 2)))


class _SiteTree:
    """The sites of the reference on a hypothetical lattice, with as many images as the matching needs."""

    #: Atoms of different species are kept this far apart (Angstrom).
    APART = 1e3

    def __init__(self, reference: AtomicStructure, lattice: _Lattice) -> None:
        self.reference, self.lattice = reference, lattice
        self.inverse = np.linalg.inv(lattice.actual)
        self.scaled = reference.positions @ np.linalg.inv(lattice.ideal)
        self._base = np.floor(self.scaled).astype(np.int64) * reference.pbc
        reach = np.ceil(MAX_DISPLACEMENT * np.linalg.norm(self.inverse, axis=0)).astype(int) * reference.pbc
        self._images = np.array(list(itertools.product(*[range(-n, n + 1) for n in reach])))
        images = (self.scaled - self._base)[:, None] + self._images
        self._sites = images.reshape(-1, 3) @ lattice.actual
        kinds = np.repeat(reference.numbers, len(self._images))
        self._tree = cKDTree(np.column_stack([self._sites, self.APART * kinds]))

    def nearest(self, structure: AtomicStructure, shift: Floats, atoms: Ints) -> _Match:
        """Sites of the given atoms, after a rigid shift in units of the lattice."""
        scaled = structure.positions[atoms] @ self.inverse - shift
        base = np.floor(scaled).astype(np.int64) * structure.pbc
        points = (scaled - base) @ self.lattice.actual
        kinds = self.APART * structure.numbers[atoms]
        distances, found = self._tree.query(
            np.column_stack([points, kinds]), distance_upper_bound=MAX_DISPLACEMENT
        )
        found = np.where(np.isinf(distances), 0, found)
        parents, images = np.divmod(found, len(self._images))
        translations = base + self._images[images] - self._base[parents]
        return _Match(parents, translations, distances, points - self._sites[found])

    def settled(self, structure: AtomicStructure, shift: Floats, atoms: Ints) -> tuple[Floats, _Match]:
        """Match after two corrections of the shift by the mean displacement."""
        match = self.nearest(structure, shift, atoms)
        for _ in range(2):
            if match.lost.all():
                break
            shift = shift + match.residuals[~match.lost].mean(axis=0) @ self.inverse
            match = self.nearest(structure, shift, atoms)
        return shift, match


@dataclass(frozen=True, eq=False)
class _Registry:
    """A hypothesis with the best rigid shift, in units of the lattice, and how well it fits."""

    tree: _SiteTree
    shift: Floats
    misfit: float


def find_supercell(structure: AtomicStructure, reference: AtomicStructure) -> Supercell:
    """Recognise a structure as a supercell of the reference.

    Allowed for: any integer matrix P, atoms in any order and any periodic image, thermal displacements (the
    nearest site must be less than `MAX_DISPLACEMENT` away), strains of a few percent, a rigid shift of all
    atoms, and a rotation of the whole, atoms and cell, for slabs and crystals. Molecules and wires may be
    turned only as far as their lattice tells.

    Parameters
    ----------
    structure, reference : AtomicStructure

    Returns
    -------
    Supercell

    Raises
    ------
    ValueError
        If the structure is no supercell of the reference; the message says which atom has no partner.
    """
    n_cells = _count_cells(structure, reference)
    every = np.arange(len(structure))
    screened = every[:: max(len(every) // SCREENED_ATOMS, 1)]
    best: _Registry | None = None
    for search in (_straight, _diagonal, _turned):
        for lattice in itertools.islice(search(structure, reference, n_cells), MAX_HYPOTHESES):
            found = _registered(structure, _SiteTree(reference, lattice), screened)
            if best is None or _clearly_less(found.misfit, best.misfit):
                best = found
            if search is not _turned and best.misfit < GOOD_FIT:
                break
        if best is not None and best.misfit < GOOD_FIT:
            break
    if best is None:
        lattice_at_fault = "its lattice vectors are not made of whole numbers of the reference's"
        raise ValueError(_refusal(reference, n_cells, lattice_at_fault))
    _, match = best.tree.settled(structure, best.shift, every)
    lattice = best.tree.lattice
    supercell = Supercell(lattice.matrix, lattice.rotation, match.parents, match.translations)
    problem = _lost_atom(structure, supercell, match)
    if problem is not None:
        raise ValueError(_refusal(reference, n_cells, problem))
    return supercell


def _clearly_less(misfit: float, other: float) -> bool:
    return misfit < (1.0 - TIE_FRACTION) * other - TIE_DISTANCE


def _registered(structure: AtomicStructure, tree: _SiteTree, atoms: Ints) -> _Registry:
    """Find the rigid shift: one atom of the rarest species must stand on one of its sites."""
    species, counts = np.unique(tree.reference.numbers, return_counts=True)
    rarest = species[counts.argmin()]
    anchor = structure.positions[np.flatnonzero(structure.numbers == rarest)[0]] @ tree.inverse
    shifts = anchor - tree.scaled[tree.reference.numbers == rarest]
    shifts -= np.rint(shifts) * structure.pbc
    shifts = np.concatenate([np.zeros((1, 3)), shifts])
    nearest_first = np.argsort(np.linalg.norm(shifts @ tree.lattice.actual, axis=1), kind="stable")
    tried = [tree.settled(structure, start, atoms) for start in shifts[nearest_first]]
    misfits = [match.misfit for _, match in tried]
    chosen = next(k for k, misfit in enumerate(misfits) if not _clearly_less(min(misfits), misfit))
    return _Registry(tree, tried[chosen][0], misfits[chosen])


def _lost_atom(structure: AtomicStructure, supercell: Supercell, match: _Match) -> str | None:
    """Which atom has no site of its own; None if every site has its atom."""
    symbols = [chemical_symbols[z] for z in structure.numbers]
    lost = np.flatnonzero(match.lost)
    if len(lost):
        atom = lost[0]
        return (
            f"atom {atom} ({symbols[atom]}) has no partner, no {symbols[atom]} site of the crystal being "
            f"within {MAX_DISPLACEMENT:g} Angstrom ({len(lost)} of {len(symbols)} atoms have none)"
        )
    sites = supercell.parents * supercell.n_cells + supercell.classes(supercell.translations)
    order = np.lexsort((match.distances, sites))  # the nearest atom has the better claim
    second = np.flatnonzero(np.diff(sites[order]) == 0)
    if len(second):
        owner, atom = order[second[0]], order[second[0] + 1]
        return (
            f"atom {atom} ({symbols[atom]}) has no partner, its site (a copy of atom {match.parents[atom]} "
            f"of the reference) being taken by atom {owner}, which is nearer"
        )
    return None


def _refusal(reference: AtomicStructure, n_cells: int, problem: str) -> str:
    wanted = f"{n_cells} cells of the reference" if n_cells > 1 else "the reference"
    return (
        f"structure must be {wanted} ({len(reference)} atoms), displaced by thermal motion and strained by a "
        f"few percent at most; {problem}. Start from supercells of the crystal that the model was fitted on, "
        "or fit the model on this structure."
    )


def _count_cells(structure: AtomicStructure, reference: AtomicStructure) -> int:
    """Number of cells of the reference in the structure, by the atoms of each species."""
    problem = None
    n_cells = max(round(len(structure) / len(reference)), 1)
    elements = np.union1d(structure.numbers, reference.numbers)
    found, wanted = (
        np.array([np.count_nonzero(s.numbers == z) for z in elements]) for s in (structure, reference)
    )
    wrong = np.flatnonzero(found != n_cells * wanted)
    if len(wrong):
        species = chemical_symbols[elements[wrong[0]]]
        problem = f"it has {found[wrong[0]]} {species} atoms instead of {n_cells * wanted[wrong[0]]}"
    elif (structure.pbc != reference.pbc).any():
        problem = f"its pbc is {structure.pbc.tolist()}, that of the reference {reference.pbc.tolist()}"
    elif n_cells > 1 and not reference.pbc.any():
        problem = f"it has {len(structure)} atoms, and the reference is not periodic"
    if problem is not None:
        raise ValueError(_refusal(reference, n_cells, problem))
    return n_cells


def _straight(structure: AtomicStructure, reference: AtomicStructure, n_cells: int) -> Iterator[_Lattice]:
    """Hypotheses without rotation: P = S A^-1, rounded one way or the other."""
    wanted, found = reference.cell[reference.pbc], structure.cell[structure.pbc]
    if not len(wanted):
        yield _Lattice(np.eye(3, dtype=np.int64), np.eye(3), np.eye(3), np.eye(3))
        return
    exact = found @ np.linalg.pinv(wanted)
    near = np.array(list(itertools.product((0, -1, 1), repeat=exact.size))).reshape(-1, *exact.shape)
    # A large cell, slightly strained, is off by more than half a lattice vector of the reference.
    yield from _possible(np.rint(exact).astype(np.int64) + near, structure, reference, n_cells)


def _diagonal(structure: AtomicStructure, reference: AtomicStructure, n_cells: int) -> Iterator[_Lattice]:
    """Hypotheses with a rotation: P diagonal, as by far the most supercells are made."""
    divisors = [size for size in range(1, n_cells + 1) if n_cells % size == 0]
    n_axes = int(reference.pbc.sum())
    sizes = (
        (*others, n_cells // math.prod(others))
        for others in itertools.product(divisors, repeat=max(n_axes - 1, 0))
        if n_cells % math.prod(others) == 0
    )
    if n_axes:
        yield from _possible(np.array([np.diag(size) for size in sizes]), structure, reference, n_cells)


def _turned(structure: AtomicStructure, reference: AtomicStructure, n_cells: int) -> Iterator[_Lattice]:
    """Hypotheses with any rotation: rows of P from the lengths of the vectors and the angles between them."""
    wanted, found = reference.cell[reference.pbc], structure.cell[structure.pbc]
    if len(wanted) < 2:
        return
    # Without the change in volume, which is most of what strains a crystal.
    found = found * (n_cells * _extent(wanted) / _extent(found)) ** (1.0 / len(wanted))
    lengths = np.linalg.norm(found, axis=1)
    reach = np.ceil(MAX_STRETCH * lengths[:2].max() * np.linalg.norm(np.linalg.pinv(wanted), axis=0))
    if np.prod(2 * reach + 1) > MAX_LISTED:
        return
    grid = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach.astype(int)], indexing="ij"), axis=-1)
    grid = grid.reshape(-1, len(wanted))
    vectors = grid @ wanted
    norms = np.linalg.norm(vectors, axis=1)
    first, second = (
        np.argsort(np.abs(norms - length), kind="stable")[:MAX_VECTORS] for length in lengths[:2]
    )
    misfit = np.abs(vectors[first] @ vectors[second].T - found[0] @ found[1]) / lengths[:2].prod()
    misfit += np.abs(norms[first] / lengths[0] - 1.0)[:, None] + np.abs(norms[second] / lengths[1] - 1.0)
    best = np.argsort(misfit, axis=None, kind="stable")[:MAX_PAIRS]
    one, two = first[best // len(second)], second[best % len(second)]
    matrices = np.stack([grid[one], grid[two]], axis=1)
    if len(wanted) == 3:
        # Two vectors fix the rotation, and with it the third one.
        before = np.stack([vectors[one], vectors[two], np.cross(vectors[one], vectors[two])], axis=1)
        after = np.stack([found[0], found[1], np.cross(found[0], found[1])])
        regular = np.linalg.matrix_rank(before) == 3
        rotations = np.linalg.pinv(before[regular]) @ after
        third = np.rint(found[2] @ np.linalg.inv(wanted @ rotations)).astype(np.int64)
        matrices = np.concatenate([matrices[regular], third[:, None]], axis=1)
    yield from _possible(matrices, structure, reference, n_cells)


def _extent(vectors: Floats) -> float:
    return float(np.sqrt(np.linalg.det(vectors @ vectors.T)))


def _possible(
    matrices: Ints, structure: AtomicStructure, reference: AtomicStructure, n_cells: int
) -> Iterator[_Lattice]:
    """Of these matrices those that make the right number of cells with little strain, the least first."""
    wanted, found = reference.cell[reference.pbc], structure.cell[structure.pbc]
    size = np.rint(np.abs(np.linalg.det(matrices)))
    matrices = matrices[size == n_cells]
    if not len(matrices):
        return
    matrices = np.unique(matrices, axis=0)
    before = matrices @ wanted
    left, stretch, right = np.linalg.svd(np.linalg.pinv(before) @ found)
    strains = np.log(stretch[:, : len(wanted)])
    if len(wanted) == 3:  # mirrored cells are no rotated ones
        strains[np.linalg.det(left @ right) < 0.0] = np.inf
    strain = np.abs(strains).max(axis=1)
    # Of equal strains, the smallest rotation.
    order = np.lexsort((np.linalg.norm(before - found, axis=(1, 2)), np.round(strain, 3)))
    for k in order[strain[order] <= np.log(MAX_STRETCH)]:
        rotation = _rotation(before[k], found)
        matrix = np.eye(3, dtype=np.int64)
        matrix[np.ix_(reference.pbc, reference.pbc)] = matrices[k]
        ideal = _completed(wanted, reference.pbc)
        actual = ideal @ rotation.T
        actual[reference.pbc] = np.linalg.solve(matrices[k].astype(float), found)
        yield _Lattice(matrix, rotation, ideal, actual)


def _rotation(before: Floats, after: Floats) -> Floats:
    """Proper rotation Q with after = before @ Q.T as nearly as possible (Kabsch); least where it is free."""
    covariance = before.T @ after
    left, _, right = np.linalg.svd(covariance + 1e-9 * np.linalg.norm(covariance) * np.eye(3))
    proper = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation: Floats = (left @ proper @ right).T
    return rotation


def _completed(vectors: Floats, pbc: NDArray[np.bool_]) -> Floats:
    """Three lattice vectors: unit vectors across the periodic ones where there is no periodicity."""
    lattice = np.empty((3, 3))
    lattice[pbc] = vectors
    lattice[~pbc] = np.linalg.svd(vectors)[2][len(vectors) :]
    return lattice
