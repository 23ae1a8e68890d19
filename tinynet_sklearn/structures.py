"""The edge where ASE and pymatgen objects become plain arrays.

Nothing below this module sees an ``ase.Atoms``. Arrays, everywhere in the package:

============  ==============  ==========================================================
name          shape           meaning
============  ==============  ==========================================================
numbers       (n_atoms,)      atomic numbers
positions     (n_atoms, 3)    Cartesian, Angstrom, not necessarily inside the cell
cell          (3, 3)          lattice vectors as rows, Angstrom; always invertible
pbc           (3,)            periodic along each lattice vector
============  ==============  ==========================================================
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.geometry import complete_cell
from ase.symbols import symbols2numbers
from numpy.typing import NDArray

#: A periodic cell with less volume per atom than this (Angstrom^3) is a mistake, not a crystal.
MIN_VOLUME_PER_ATOM = 0.1

#: So are lattice vectors of a slab or wire that span less than this (Angstrom^2, Angstrom). Not counted by
#: atom: a nanotube holds ten atoms per Angstrom of its length.
MIN_PERIODIC_EXTENT = 0.1

#: At most this many problems are listed in one error message; the rest are counted.
MAX_LISTED_PROBLEMS = 5


@dataclass(frozen=True, eq=False)
class AtomicStructure:
    """One structure as plain arrays; see the module's table for shapes and units."""

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    pbc: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.numbers)

    def scaled_positions(self) -> NDArray[np.floating]:
        """Positions in units of the lattice vectors, shape (n_atoms, 3), not wrapped."""
        scaled: NDArray[np.floating] = np.linalg.solve(self.cell.T, self.positions.T).T
        return scaled


def as_structures(structures: Any, name: str = "X") -> list[AtomicStructure]:
    """Check and convert what a user passes as X.

    Parameters
    ----------
    structures : sequence of ase.Atoms or pymatgen Structure / Molecule
    name : str, default="X"
        What messages call them.

    Returns
    -------
    list of AtomicStructure

    Raises
    ------
    TypeError
        If a bare structure is passed instead of a list, or an element is of another kind.
    ValueError
        If the list is empty, or positions, cells or site occupations cannot be used. All faulty
        structures are collected and reported in one message.
    """
    if is_structure(structures):
        raise TypeError(
            f"{name} must be a list of structures, got a single {type(structures).__name__}; pass [atoms]."
        )
    if isinstance(structures, str) or not isinstance(structures, Iterable):
        raise TypeError(
            f"{name} must be a list of ase.Atoms or pymatgen Structures, got "
            f"{type(structures).__name__}; read files with ase.io.read(path, ':') first."
        )
    items = list(structures)
    if not items:
        raise ValueError(f"{name} must hold at least one structure, got an empty list.")
    for index, item in enumerate(items):
        if not is_structure(item):
            raise TypeError(
                f"{name} must be a list of ase.Atoms or pymatgen Structures, got "
                f"{type(item).__name__} at index {index}; convert it first."
            )
    converted = [item if isinstance(item, AtomicStructure) else _convert(item) for item in items]
    raise_problems(f"{name} has structures that cannot be used", list(_problems(items, converted)))
    return [item for item in converted if item is not None]


def structure_faults(item: Any, name: str) -> list[str]:
    """Sentences on why one structure cannot be used, each beginning with its name; none if it can.

    Parameters
    ----------
    item : ase.Atoms, pymatgen Structure or Molecule
    name : str
        What sentences call it.
    """
    return list(_faults(name, item, _convert(item)))


def is_structure(item: Any) -> bool:
    """Whether `as_structures` knows how to convert an object."""
    return _is_ase(item) or _is_pymatgen(item)


def raise_problems(headline: str, problems: Sequence[str]) -> None:
    """Raise one ValueError that lists ``problems`` (nothing when there are none)."""
    if not problems:
        return
    listed = [f"  {problem}" for problem in problems[:MAX_LISTED_PROBLEMS]]
    if len(problems) > MAX_LISTED_PROBLEMS:
        listed.append(f"  ... and {len(problems) - MAX_LISTED_PROBLEMS} more")
    raise ValueError(f"{headline}:\n" + "\n".join(listed))


def atomic_number(symbol: str) -> int:
    """Atomic number of a chemical symbol.

    Raises
    ------
    ValueError
        If the symbol is not that of one element.
    """
    try:
        (number,) = symbols2numbers(symbol)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{symbol!r} is not a chemical symbol; use names such as 'Ba' or 'O'.") from None
    return int(number)


def _is_ase(item: Any) -> bool:
    return isinstance(item, AtomicStructure) or hasattr(item, "get_atomic_numbers")


def _is_pymatgen(item: Any) -> bool:
    # By module name, since importing pymatgen costs a quarter of a second that ASE users need not pay.
    # A Lattice or a Trajectory comes from there, too, but has no coordinates of its own.
    from_there = any(kind.__module__.startswith("pymatgen.core") for kind in type(item).__mro__)
    return from_there and hasattr(item, "cart_coords")


def _convert(item: Any) -> AtomicStructure | None:
    """Plain arrays of one structure; None where sites are disordered."""
    if _is_pymatgen(item):
        if not item.is_ordered:
            return None
        lattice = getattr(item, "lattice", None)
        numbers = [site.specie.Z for site in item]
        positions = item.cart_coords
        cell = np.zeros((3, 3)) if lattice is None else lattice.matrix
        pbc = (False, False, False) if lattice is None else lattice.pbc
    else:
        numbers, positions, cell, pbc = item.numbers, item.positions, item.cell.array, item.pbc
    periodic = np.array(pbc, dtype=bool)
    vectors = np.array(cell, dtype=np.float64)
    if np.isfinite(vectors).all() and not periodic.all():
        vectors = completed(vectors, periodic)
    return AtomicStructure(
        numbers=np.array(numbers, dtype=np.int64),
        positions=np.array(positions, dtype=np.float64).reshape(-1, 3),
        cell=vectors,
        pbc=periodic,
    )


def completed(cell: NDArray[np.float64], pbc: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Give axes without periodicity a lattice vector where the file had none (or a flat one)."""
    complete = _extent(cell) >= MIN_PERIODIC_EXTENT
    beyond_repair = pbc.any() and _extent(cell[pbc]) < MIN_PERIODIC_EXTENT  # no guessing of periodic axes
    if complete or beyond_repair:
        return cell
    kept = np.where(pbc[:, None], cell, 0.0)
    return np.array(complete_cell(kept), dtype=np.float64)


def _extent(vectors: NDArray[np.float64]) -> float:
    """Length, area or volume that one, two or three vectors span."""
    gram = vectors @ vectors.T
    return float(np.sqrt(max(np.linalg.det(gram), 0.0)))


def _problems(items: list[Any], converted: list[AtomicStructure | None]) -> Iterable[str]:
    for index, (item, structure) in enumerate(zip(items, converted, strict=True)):
        yield from _faults(f"structure {index}", item, structure)


def _faults(name: str, item: Any, structure: AtomicStructure | None) -> Iterable[str]:
    if structure is None:
        yield f"{name}: sites with partial occupation ({item.formula}); order it first."
        return
    if len(structure) == 0:
        yield f"{name}: it has no atoms; remove it."
        return
    bad = np.flatnonzero(~np.isfinite(structure.positions).all(axis=1))
    if len(bad):
        yield f"{name}, atom {bad[0]}: position is {structure.positions[bad[0]]}; remove it."
    if not np.isfinite(structure.cell).all():
        yield f"{name}: the cell holds NaN or infinity; remove it."
        return
    extent = _extent(structure.cell[structure.pbc])
    if structure.pbc.all() and extent < MIN_VOLUME_PER_ATOM * len(structure):
        yield (
            f"{name}: periodic, but its cell has a volume of {extent:.3g} Angstrom^3 for "
            f"{len(structure)} atoms; set the cell, or pbc=False."
        )
    elif structure.pbc.any() and extent < MIN_PERIODIC_EXTENT:
        yield (
            f"{name}: pbc is {structure.pbc.tolist()}, but the lattice vectors of these "
            f"directions span {extent:.3g} Angstrom^{structure.pbc.sum()}; set the cell, or pbc=False."
        )
