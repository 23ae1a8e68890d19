"""The reference structure of a frozen topology, and how frames are laid onto it.

With ``topology="reference"`` the bond graph of one structure serves all frames. A frame fits when it has the
same atoms in the same order and its bonds have not grown beyond recognition. Before its distances are
taken, every atom is brought into the periodic image where the reference has it (trajectories wrap their
atoms as they like), and the rotation of the frame against the reference is found, so that frames attached
to sites turn with the crystal.
"""

from collections.abc import Sequence

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tinynet_sklearn.graph import BondGraph
from tinynet_sklearn.structures import AtomicStructure

Floats = NDArray[np.float64]

#: A bond that is this many times longer than in the reference says that the frame is another structure.
#: Thermal motion reaches 1.3; neighbours that have changed places begin at 1.6.
MAX_STRETCH = 1.5

#: So is a cell that is stretched or compressed by this factor along some direction.
MAX_CELL_STRETCH = 1.4

#: Weight, relative to what the atoms say, of "no rotation": above rounding, below everything else.
UNDETERMINED = 1e-12


def mismatch(structure: AtomicStructure, reference: AtomicStructure) -> str | None:
    """Why a frame cannot share the reference's topology; None if it can, as far as the atoms go."""
    if len(structure) != len(reference):
        return f"it has {len(structure)} atoms, the reference {len(reference)}"
    different = np.flatnonzero(structure.numbers != reference.numbers)
    if len(different):
        atom = different[0]
        found, wanted = (chemical_symbols[s.numbers[atom]] for s in (structure, reference))
        return f"atom {atom} is {found}, in the reference {wanted}"
    if (structure.pbc != reference.pbc).any():
        return f"pbc is {structure.pbc.tolist()}, in the reference {reference.pbc.tolist()}"
    if structure.pbc.all():
        stretch = np.linalg.svd(np.linalg.solve(reference.cell, structure.cell), compute_uv=False)
        if stretch.max() > MAX_CELL_STRETCH or stretch.min() < 1.0 / MAX_CELL_STRETCH:
            return (
                f"its cell is the reference's stretched by {stretch.min():.2f} to {stretch.max():.2f}, so it "
                "is another one or has other lattice vectors"
            )
    return None


def lay_onto(
    structure: AtomicStructure, reference: AtomicStructure, graph: BondGraph, relaxed: Floats
) -> tuple[Floats, Floats, str | None]:
    """Lay a frame onto the reference.

    Parameters
    ----------
    structure, reference : AtomicStructure
        With the same atoms, see `mismatch`.
    graph : BondGraph
        Of the reference.
    relaxed : ndarray of shape (n_bonds,)
        Lengths of its bonds, Angstrom.

    Returns
    -------
    positions : ndarray of shape (n_atoms, 3)
        `unwrapped`, Angstrom.
    rotation : ndarray of shape (3, 3)
        As `rotation_from` gives it.
    problem : str or None
        The bond that is too long for a frame of this structure.
    """
    positions = unwrapped(structure, reference)
    rotation = rotation_from(reference, structure, positions)
    overlong = overstretched_bond(graph.bond_lengths(positions, structure.cell), relaxed, graph)
    if overlong is None:
        return positions, rotation, None
    first, last, length, usual = overlong
    problem = (
        f"the bond between atoms {first} and {last} is {length:.2f} Angstrom, in the reference {usual:.2f}; "
        "fit on structures that keep their bonds and the order of their atoms"
    )
    return positions, rotation, problem


def lies_on(structure: AtomicStructure, reference: AtomicStructure, graph: BondGraph) -> bool:
    """Whether a structure has the atoms of the reference in their order, and its bonds."""
    if mismatch(structure, reference) is not None:
        return False
    relaxed = graph.bond_lengths(reference.positions, reference.cell)
    return lay_onto(structure, reference, graph, relaxed)[2] is None


def unwrapped(structure: AtomicStructure, reference: AtomicStructure) -> Floats:
    """Positions (Angstrom) with every atom in the periodic image where the reference has it.

    A rigid shift of the whole content of the cell is allowed for: it is the circular mean of the
    displacements, which does not care about the wrapping of single atoms.
    """
    images = images_onto(structure.scaled_positions(), reference.scaled_positions(), structure.pbc)
    return structure.positions - images @ structure.cell


def images_onto(
    scaled: NDArray[np.floating], reference: NDArray[np.floating], pbc: NDArray[np.bool_]
) -> Floats:
    """Cells (whole numbers) by which atoms are away from the images of a reference, shape (n_atoms, 3).

    Parameters
    ----------
    scaled, reference : ndarray of shape (n_atoms, 3)
        Positions in units of the lattice vectors of each.
    pbc : ndarray of bool of shape (3,)
    """
    displacement = scaled - reference
    shift = np.angle(np.exp(2j * np.pi * displacement).mean(axis=0)) / (2 * np.pi)
    images: Floats = np.round(displacement - shift) * pbc
    return images


def rotation_from(reference: AtomicStructure, structure: AtomicStructure, positions: Floats) -> Floats:
    """Rotation Q of a frame against the reference: v_frame = Q @ v_reference, shape (3, 3).

    Where all directions are periodic, from the cells (polar decomposition of the deformation). Slabs and
    wires: first from the lattice vectors they have, so that thermal motion does not look like a rotation,
    then, like molecules, from the atoms, about the axes that are still free (Kabsch, Acta Cryst. A 32, 922
    (1976)).

    Parameters
    ----------
    reference, structure : AtomicStructure
    positions : ndarray of shape (n_atoms, 3)
        Of the structure, `unwrapped`.
    """
    if structure.pbc.all():
        covariance = np.linalg.solve(reference.cell, structure.cell)
        left, _, right = np.linalg.svd(covariance)
        return (left @ right).T
    vectors = reference.cell[reference.pbc]
    turn = _nearest_rotation(vectors.T @ structure.cell[structure.pbc])
    fixed = np.linalg.pinv(vectors) @ vectors
    free = np.eye(3) - fixed
    before = (reference.positions - reference.positions.mean(axis=0)) @ free
    after = (positions - positions.mean(axis=0)) @ turn @ free
    covariance = before.T @ after
    # The factor makes the lattice win where mirroring the atoms of a flat slab would fit better.
    return turn @ _nearest_rotation(covariance + 2.0 * np.linalg.norm(covariance) * fixed)


def _nearest_rotation(covariance: Floats) -> Floats:
    """Proper rotation Q that best carries ``before`` onto ``after``, given before.T @ after.

    About axes that nothing determines (linear molecules, straight chains) it turns as little as possible.
    """
    weak = UNDETERMINED * np.linalg.norm(covariance) * np.eye(3)
    left, _, right = np.linalg.svd(covariance + weak)
    proper = np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation: Floats = (left @ proper @ right).T
    return rotation


def mean_structure(structures: Sequence[AtomicStructure]) -> AtomicStructure:
    """Mean of frames of one crystal or molecule, laid onto the first one.

    Raises
    ------
    ValueError
        If a structure does not have the atoms of the first one.
    """
    first = structures[0]
    offsets = np.zeros((len(first), 3))
    cells = np.zeros((3, 3))
    for structure in structures:
        positions = unwrapped(structure, first)
        rotation = rotation_from(first, structure, positions)
        relative = (positions - positions.mean(axis=0)) @ rotation
        offsets += relative / len(structures)
        cells += structure.cell @ rotation / len(structures)
    centre = first.positions.mean(axis=0)
    # Without periodicity the box means nothing and need not turn with the atoms: keep the first one.
    cell = np.where(first.pbc[:, None], cells, first.cell)
    return AtomicStructure(first.numbers, offsets + centre, cell, first.pbc)


def overstretched_bond(
    lengths: Floats, reference_lengths: Floats, graph: BondGraph
) -> tuple[int, int, float, float] | None:
    """The worst bond beyond `MAX_STRETCH`: its two atoms, its length, that in the reference; or None."""
    if not len(lengths):
        return None
    ratio = lengths / reference_lengths
    worst = int(ratio.argmax())
    if ratio[worst] <= MAX_STRETCH:
        return None
    return (
        int(graph.first[worst]),
        int(graph.last[worst]),
        float(lengths[worst]),
        float(reference_lengths[worst]),
    )
