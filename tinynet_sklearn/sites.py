"""Equivalent sites: which slots of one atom mean the same as which slots of another.

A small network learns faster and better when column k has the same meaning for all atoms that it serves.
Two atoms are *equivalent* here when a rotation (proper or not) maps the ball of vertices around one
onto the ball around the other: species by species, hop by hop, bond by bond, every vertex landing within
``tolerance`` of its partner. Each atom is referred to the *representative* of its class, in whose
frame its coordinates and vector targets are expressed; the rotations that map the representative's ball
onto itself form the *site group*.

The rotations tried are those of the reference's lattice (spglib, primitive cell), so every hypothesis is
decided by the local match alone: it works in supercells of any shape, near defects, and for structures whose
symmetry is only approximate, such as the mean of a trajectory. That is sound, since forces are covariant
under any rotation; symmetry only says which slot goes where.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tinynet_sklearn.paths import Ball, Ints
from tinynet_sklearn.structures import AtomicStructure

Floats = NDArray[np.float64]

#: Frames whose first shells match equally well to within this (Angstrom) are a tie: the first one wins.
TIE = 1e-3

#: Precisions (Angstrom) at which spglib is asked for primitive cells and lattice symmetry. Coarser ones
#: find the lattice of a thermally disturbed crystal, but make spglib fail where atoms are close.
PRECISIONS = (0.3, 0.1, 0.03, 1e-3)

_SPGLIB_LOCK = Lock()

#: Rotation matrices closer than this, element by element, are one hypothesis.
SAME_ROTATION = 0.1

#: Empty space (Angstrom) around slabs, wires and molecules when spglib, which knows crystals only, sees them.
VACUUM = 10.0

#: Resolution (Angstrom) of the direction order of a representative's slots.
DIRECTION_RESOLUTION = 0.05

#: Moves the edges between directions, in units of the resolution, off round numbers: half of a lattice
#: constant of 3.25 Angstrom would be an edge, and rounding would decide on the order.
EDGE_SHIFT = 0.318


@dataclass(frozen=True, eq=False)
class SiteGroup:
    """Operations that map a representative's ball onto itself; operation 0 is the identity.

    Attributes
    ----------
    rotations : ndarray of shape (n_operations, 3, 3)
    images : ndarray of int of shape (n_operations, n_vertices)
        Rank that each rank is carried to.
    """

    rotations: Floats
    images: Ints


@dataclass(frozen=True, eq=False)
class Sites:
    """Classes of equivalent atoms.

    Attributes
    ----------
    classes : ndarray of int of shape (n_atoms,)
        Class of each atom.
    representatives : ndarray of int of shape (n_classes,)
        Atom that a class is referred to.
    rotations : ndarray of shape (n_atoms, 3, 3)
        From the lab into the frame of the representative: v_frame = rotation @ v_lab.
    ranks : list of ndarray of int of shape (n_vertices,)
        Canonical number of each vertex of an atom's ball, the same for matching vertices of equivalent atoms.
    groups : list of SiteGroup
        One per class.
    """

    classes: Ints
    representatives: Ints
    rotations: Floats
    ranks: list[Ints]
    groups: list[SiteGroup]


def find_sites(
    structure: AtomicStructure, balls: Sequence[Ball], rotations: Floats, tolerance: float
) -> Sites:
    """Sort atoms into classes of equivalent sites.

    Parameters
    ----------
    structure : AtomicStructure
        The reference.
    balls : sequence of Ball
        One per atom, all of the same radius.
    rotations : ndarray of shape (n_rotations, 3, 3)
        Hypotheses; the identity first. The identity alone gives slots in lattice directions.
    tolerance : float
        Largest distance (Angstrom) between a vertex and its partner.

    Returns
    -------
    Sites
    """
    stars = [_Star(ball, ball.vectors(structure.positions, structure.cell)) for ball in balls]
    classes = np.empty(len(balls), dtype=np.int64)
    frames = np.empty((len(balls), 3, 3))
    ranks: list[Ints] = []
    representatives: list[int] = []
    for atom, star in enumerate(stars):
        for site, representative in enumerate(representatives):
            found = _best_match(star, stars[representative], rotations, tolerance)
            if found is not None:
                classes[atom], frames[atom] = site, rotations[found[0]]
                ranks.append(ranks[representative][found[1]])
                break
        else:
            classes[atom], frames[atom] = len(representatives), np.eye(3)
            representatives.append(atom)
            ranks.append(star.direction_ranks())
    groups = [_site_group(stars[r], ranks[r], rotations, tolerance) for r in representatives]
    return Sites(classes, np.array(representatives), frames, ranks, groups)


def candidate_rotations(structure: AtomicStructure) -> Floats:
    """Rotations under which sites may be equivalent, identity first, shape (n, 3, 3).

    Those of the lattice, from spglib: of the cell and of the primitive cells that it finds at several
    precisions, the largest group first. They are exact rotations of the nearest lattice that has them, since
    that of a distorted crystal obeys them only roughly. Axes without periodicity enter with the length that
    the cell gives them; so molecules are tried in the rotations of their box only, and those that do not lie
    along its axes may show less symmetry than they have.

    All are hypotheses: one too many does no harm.
    """
    import spglib

    groups = []
    box, scaled = _with_vacuum(structure)
    atoms = (box, scaled, structure.numbers)
    for precision in PRECISIONS:
        primitive = _quietly(
            spglib.standardize_cell, atoms, to_primitive=True, no_idealize=True, symprec=precision
        )
        lattices = [structure.cell] if primitive is None else [structure.cell, np.asarray(primitive[0])]
        for lattice in lattices:
            one_atom = (lattice, [[0.0, 0.0, 0.0]], [1])
            data = _quietly(spglib.get_symmetry_dataset, one_atom, symprec=precision)
            if data is not None:
                groups.append(_exact_rotations(lattice, np.asarray(data.rotations, dtype=np.float64)))
    groups.sort(key=len, reverse=True)
    found = [np.eye(3)]
    for rotation in itertools.chain(*groups):
        if min(np.abs(rotation - known).max() for known in found) > SAME_ROTATION:
            found.append(rotation)
    return np.array(found)


def _exact_rotations(lattice: Floats, operations: Floats) -> Floats:
    """Rotations R = L W L^-1 of the lattice nearest to ``lattice`` that obeys the integer operations W."""
    columns = lattice.T
    metric = columns.T @ columns
    symmetric = np.mean(operations.transpose(0, 2, 1) @ metric @ operations, axis=0)
    upper = np.linalg.cholesky(symmetric).T
    left, _, right = np.linalg.svd(columns @ np.linalg.inv(upper))
    ideal = left @ right @ upper
    rotations: Floats = ideal @ operations @ np.linalg.inv(ideal)
    return rotations


def _with_vacuum(structure: AtomicStructure) -> tuple[Floats, Floats]:
    """Cell and scaled positions, with room between the images where there is no periodicity."""
    scaled = structure.scaled_positions()
    room = np.ptp(scaled, axis=0) + VACUUM / np.linalg.norm(structure.cell, axis=1)
    stretch = np.where(structure.pbc, 1.0, room)
    return structure.cell * stretch[:, None], scaled / stretch


def _quietly(search: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Answer of a spglib function; None where it finds none.

    It then warns or raises, depending on its version, and its C part writes to stderr unless an
    environment variable says otherwise. Nobody needs to hear of it: the next precision will do.
    """
    import spglib

    with _SPGLIB_LOCK:  # the environment and the warning filters belong to all threads
        before = os.environ.get("SPGLIB_WARNING")
        os.environ["SPGLIB_WARNING"] = "OFF"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                return search(*arguments, **options)
        except getattr(spglib, "SpglibError", RuntimeError):
            return None
        finally:
            os.environ.pop("SPGLIB_WARNING", None)
            if before is not None:
                os.environ["SPGLIB_WARNING"] = before


class _Star:
    """A ball with the geometry that matching needs."""

    #: Vertices of different species or hops are kept this far apart (Angstrom) in the matching.
    APART = 1e3

    def __init__(self, ball: Ball, vectors: Floats) -> None:
        self.ball = ball
        self.vectors = vectors
        # One number for (hops, species): 200 is beyond any atomic number.
        self.kinds = (ball.hops * 200 + ball.numbers).astype(np.int64)
        self.signature = tuple(np.sort(self.kinds))
        self.edge_codes = np.sort(ball.edges[:, 0] * len(ball) + ball.edges[:, 1])
        self.tree = cKDTree(np.column_stack([vectors, self.APART * self.kinds]))
        self.first_shell = np.flatnonzero(ball.hops <= 1)

    def direction_ranks(self) -> Ints:
        """Order by hop, species, and direction (x, then y, then z)."""
        x, y, z = np.round(self.vectors / DIRECTION_RESOLUTION + EDGE_SHIFT).T
        order = np.lexsort((z, y, x, self.ball.numbers, self.ball.hops))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order))
        return ranks

    def partners(self, other: "_Star", rotation: Floats, tolerance: float) -> Ints | None:
        """Vertex of ``other`` on which each vertex lands; None unless ball is mapped onto ball."""
        points = np.column_stack([self.vectors @ rotation.T, self.APART * self.kinds])
        distances, images = other.tree.query(points, distance_upper_bound=tolerance)
        if not np.isfinite(distances).all() or len(np.unique(images)) < len(images):
            return None
        edges = images[self.ball.edges]
        if not np.array_equal(np.sort(edges[:, 0] * len(images) + edges[:, 1]), other.edge_codes):
            return None
        return images

    def misfit(self, other: "_Star", rotation: Floats) -> float:
        """RMS distance of the first shell from its partners, Angstrom."""
        shell = self.first_shell
        points = np.column_stack([self.vectors[shell] @ rotation.T, self.APART * self.kinds[shell]])
        distances, _ = other.tree.query(points)
        return float(np.sqrt(np.mean(distances**2)))


def _best_match(star: _Star, other: _Star, rotations: Floats, tolerance: float) -> tuple[int, Ints] | None:
    """Rotation (index) that carries ``star`` onto ``other`` with the least misfit, and the partners."""
    if star.signature != other.signature or star.ball.numbers[0] != other.ball.numbers[0]:
        return None
    misfits = np.array([star.misfit(other, rotation) for rotation in rotations])
    for index in np.argsort(np.round(misfits / TIE), kind="stable"):
        if misfits[index] > tolerance:
            return None
        images = star.partners(other, rotations[index], tolerance)
        if images is not None:
            return int(index), images
    return None


def _site_group(star: _Star, ranks: Ints, rotations: Floats, tolerance: float) -> SiteGroup:
    kept, images = [], []
    vertex_of_rank = np.argsort(ranks)
    for rotation in rotations:
        partners = star.partners(star, rotation, tolerance)
        if partners is not None:
            kept.append(rotation)
            images.append(ranks[partners[vertex_of_rank]])
    closed = _largest_group(np.array(kept))
    return SiteGroup(np.array(kept)[closed], np.array(images)[closed])


def _largest_group(rotations: Floats) -> Ints:
    """Indices of operations whose products are all among them; the worst offenders are left out.

    Hypotheses from several lattices, or a generous tolerance, may leave operations that belong to no group.
    """
    left = np.arange(len(rotations))
    while True:
        products = rotations[left][:, None] @ rotations[left]
        nearest = np.abs(products[:, :, None] - rotations[left]).max(axis=(-2, -1)).min(axis=-1)
        offences = (nearest > SAME_ROTATION).sum(axis=1)
        if not offences.any():
            return left
        offences[0] = 0  # never the identity
        left = np.delete(left, offences.argmax())
