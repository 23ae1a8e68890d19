"""Crystals, slabs, wires and molecules that the tests share: ideal, small, and known by heart."""

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell, molecule
from ase.spacegroup import crystal

from tinynet_sklearn.graph import CutoffBonds, NaturalBonds

#: Bonds between like atoms, too; shells of Cu in fcc are 2.55 and 3.61 Angstrom away.
LIKE_ATOMS = CutoffBonds(3.0, heteroatomic=False)


def perovskite() -> Atoms:
    """Cubic BaTiO3: Ba-O 12 at 2.83, Ti-O 6 at 2.00, O 2 Ti + 4 Ba."""
    corners = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return Atoms("BaTiO3", scaled_positions=corners, cell=[4.0, 4.0, 4.0], pbc=True)


def rhenium_trioxide() -> Atoms:
    """MoO3 in its ReO3-like form: Mo-O 6 at 1.90, O 2 Mo."""
    corners = [[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    return Atoms("MoO3", scaled_positions=corners, cell=[3.8, 3.8, 3.8], pbc=True)


def rocksalt() -> Atoms:
    """Primitive NaCl, two atoms: every atom has six neighbours, all of them images of the other atom."""
    return bulk("NaCl", "rocksalt", a=5.64)


def copper() -> Atoms:
    """One-atom fcc Cu: twelve neighbours, all images of the atom itself, and triangles of bonds."""
    return bulk("Cu", "fcc", a=3.61)


def polonium() -> Atoms:
    """One-atom simple cubic Po: six neighbours at 3.35, all images of the atom itself."""
    return bulk("Po", "sc", a=3.35)


def diamond() -> Atoms:
    """Two-atom diamond: four neighbours at 1.54, rings of six."""
    return bulk("C", "diamond", a=3.57)


def wurtzite() -> Atoms:
    """Zincite ZnO, polar and hexagonal, with a screw axis and a glide plane; four neighbours near 1.98."""
    return bulk("ZnO", "wurtzite", a=3.25, c=5.207, u=0.382)


def rutile() -> Atoms:
    """TiO2: Ti-O 6 near 1.95, O 3 Ti; the octahedra of the two Ti are turned by 90 degrees (screw axis)."""
    return crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.594] * 2 + [2.959] + [90] * 3
    )


def slab() -> Atoms:
    """Two cells of BaTiO3 on top of each other, periodic in the plane; there is no third lattice vector."""
    atoms = perovskite() * (1, 1, 2)
    atoms.cell[2] = 0
    atoms.pbc = (True, True, False)
    return atoms


def wire() -> Atoms:
    """A zig-zag chain of BN along z, periodic along z only."""
    return Atoms("BN", positions=[[0, 0, 0], [0.8, 0, 1.2]], cell=[0, 0, 2.4], pbc=(False, False, True))


def chain() -> Atoms:
    """A straight chain of BN along x: nothing tells one direction across it from another."""
    return Atoms("BN", positions=[[0, 0, 0], [1.5, 0, 0]], cell=[3.0, 0, 0], pbc=(True, False, False))


def methanol() -> Atoms:
    """CH3OH, bonded by covalent radii; no rings, so closed walks only go back and forth."""
    return molecule("CH3OH")


def benzene() -> Atoms:
    """C6H6, bonded by covalent radii: one ring of six."""
    return molecule("C6H6")


def cyclopropane() -> Atoms:
    """C3H6, bonded by covalent radii: one ring of three, the smallest odd cycle."""
    return molecule("C3H6_D3h")


#: Structure and bond rule by name, for tests that run on all of them.
BONDED: dict[str, tuple[Callable[[], Atoms], object]] = {
    "perovskite": (perovskite, 3.1),
    "MoO3": (rhenium_trioxide, 3.1),
    "rock salt": (rocksalt, 3.1),
    "fcc": (copper, LIKE_ATOMS),
    "simple cubic": (polonium, CutoffBonds(3.5, heteroatomic=False)),
    "diamond": (diamond, CutoffBonds(1.7, heteroatomic=False)),
    "wurtzite": (wurtzite, 2.2),
    "rutile": (rutile, 2.2),
    "slab": (slab, 3.1),
    "wire": (wire, 1.7),
    "chain": (chain, 1.7),
    "methanol": (methanol, NaturalBonds()),
    "benzene": (benzene, NaturalBonds()),
    "cyclopropane": (cyclopropane, NaturalBonds()),
}


def rattled(atoms: Atoms, seed: int, amplitude: float = 0.05) -> Atoms:
    """Copy with Gaussian displacements (Angstrom): no two distances are equal any more."""
    moved = atoms.copy()
    moved.positions += amplitude * np.random.default_rng(seed).normal(size=(len(atoms), 3))
    return moved


def trajectory(atoms: Atoms, n_frames: int, amplitude: float = 0.05, seed: int = 0) -> list[Atoms]:
    """Rattled copies with seeds of their own."""
    return [rattled(atoms, seed + frame, amplitude) for frame in range(n_frames)]


def skewed(atoms: Atoms) -> Atoms:
    """The same crystal in a strongly oblique cell of equal volume; its atoms stay where they are."""
    oblique = atoms.copy()
    oblique.set_cell(np.array([[1, 1, 0], [0, 1, 2], [0, 0, 1]]) @ atoms.cell.array, scale_atoms=False)
    return oblique


def repeated(atoms: Atoms, shape: tuple[tuple[int, int, int], ...] | tuple[int, int, int]) -> Atoms:
    """Supercell by a tuple of repetitions or a 3 x 3 integer matrix; atom i of every copy is i modulo n."""
    if np.ndim(shape) == 1:
        return atoms * shape
    return make_supercell(atoms, shape)
