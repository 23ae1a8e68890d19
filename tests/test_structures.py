"""Conversion of ASE and pymatgen objects, and what cannot be converted."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import nanotube
from crystals import methanol, perovskite, rattled, slab, wire, wurtzite
from numpy.testing import assert_allclose, assert_array_equal
from pymatgen.core import Lattice, Molecule, Structure

from tinynet_sklearn.structures import MAX_LISTED_PROBLEMS, as_structures, atomic_number, raise_problems


def as_pymatgen(atoms):
    if not atoms.pbc.any():
        return Molecule(atoms.symbols, atoms.positions)
    lattice = Lattice(atoms.cell.array, pbc=tuple(map(bool, atoms.pbc)))
    return Structure(lattice, list(atoms.symbols), atoms.positions, coords_are_cartesian=True)


def failure(kind, structures):
    with pytest.raises(kind) as error:
        as_structures(structures)
    return str(error.value)


def assert_same_structure(found, expected):
    assert_array_equal(found.numbers, expected.numbers)
    assert_allclose(found.positions, expected.positions, rtol=0, atol=1e-12)
    assert_allclose(found.cell, expected.cell, rtol=0, atol=1e-12)
    assert_array_equal(found.pbc, expected.pbc)


# ---- Conversion --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [perovskite, wurtzite, methanol], ids=lambda make: make.__name__)
def test_ase_and_pymatgen_give_the_same_arrays(make):
    atoms = rattled(make(), seed=0)
    from_ase, from_pymatgen = as_structures([atoms, as_pymatgen(atoms)])
    assert_same_structure(from_pymatgen, from_ase)
    assert_array_equal(from_ase.numbers, atoms.numbers)
    assert_array_equal(from_ase.positions, atoms.positions)
    assert (from_ase.numbers.dtype, from_ase.positions.dtype) == (np.int64, np.float64)
    assert (from_ase.cell.dtype, from_ase.pbc.dtype) == (np.float64, np.bool_)


def test_pymatgen_structures_may_be_periodic_in_some_directions_only():
    atoms = slab()
    atoms.cell[2] = [0, 0, 30]
    from_ase, from_pymatgen = as_structures([atoms, as_pymatgen(atoms)])
    assert_same_structure(from_pymatgen, from_ase)
    assert from_pymatgen.pbc.tolist() == [True, True, False]


def test_oxidation_states_and_isotopes_do_not_matter():
    lattice = Lattice.cubic(4.2)
    charged, deuterated = as_structures(
        [
            Structure(lattice, ["Mg2+", "O2-"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
            Molecule(["D", "O"], [[0, 0, 0], [0, 0, 1]]),
        ]
    )
    assert_array_equal(charged.numbers, [12, 8])
    assert_array_equal(deuterated.numbers, [1, 8])


def test_the_result_shares_no_memory_with_the_input():
    atoms = perovskite()
    (structure,) = as_structures([atoms])
    structure.positions[:] = structure.cell[:] = structure.numbers[:] = 0
    structure.pbc[:] = False
    assert atoms == perovskite()


def test_a_converted_structure_is_passed_through():
    (structure,) = as_structures([perovskite()])
    assert as_structures([structure])[0] is structure


def test_any_iterable_of_structures_will_do():
    frames = tuple(perovskite() for _ in range(3))
    assert len(as_structures(frames)) == len(as_structures(iter(frames))) == 3


@pytest.mark.parametrize(
    ("make", "kept"), [(slab, [0, 1]), (wire, [2]), (methanol, [])], ids=["slab", "wire", "molecule"]
)
def test_missing_lattice_vectors_are_completed_at_right_angles(make, kept):
    atoms = make()
    (structure,) = as_structures([atoms])
    added = [k for k in range(3) if k not in kept]
    assert_allclose(structure.cell[kept], atoms.cell.array[kept], rtol=0, atol=1e-12)
    assert_allclose(structure.cell[added] @ structure.cell.T, np.eye(3)[added], rtol=0, atol=1e-12)
    assert_allclose(structure.scaled_positions() @ structure.cell, atoms.positions, rtol=0, atol=1e-12)


def test_a_flat_vector_along_a_direction_without_periodicity_is_replaced():
    atoms = slab()
    atoms.cell[2] = 2 * atoms.cell[0] - atoms.cell[1]
    (structure,) = as_structures([atoms])
    assert_allclose(structure.cell, [[4, 0, 0], [0, 4, 0], [0, 0, 1]], rtol=0, atol=1e-12)


def test_a_complete_cell_is_kept_without_periodicity():
    atoms = methanol()
    atoms.cell = [7.0, 8.0, 9.0]
    (structure,) = as_structures([atoms])
    assert_array_equal(structure.cell, np.diag([7.0, 8.0, 9.0]))


def test_many_atoms_per_length_are_no_reason_to_refuse_a_nanotube():
    tube = nanotube(12, 0)
    assert len(tube) / tube.cell.lengths()[2] > 10
    assert len(as_structures([tube])[0]) == len(tube)


def test_scaled_positions_of_an_oblique_cell_count_lattice_vectors():
    atoms = wurtzite()
    (structure,) = as_structures([atoms])
    assert_allclose(structure.scaled_positions(), atoms.get_scaled_positions(wrap=False), rtol=0, atol=1e-12)


# ---- What is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("structure", "name"),
    [
        (perovskite(), "Atoms"),
        (as_pymatgen(perovskite()), "Structure"),
        (as_pymatgen(methanol()), "Molecule"),
        (as_structures([perovskite()])[0], "AtomicStructure"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bare_structure_is_refused(structure, name):
    assert failure(TypeError, structure) == (
        f"X must be a list of structures, got a single {name}; pass [atoms]."
    )


@pytest.mark.parametrize(
    ("value", "name"),
    [("frames.extxyz", "str"), (None, "NoneType"), (3, "int"), (Lattice.cubic(4.0), "Lattice")],
    ids=["str", "None", "int", "Lattice"],
)
def test_what_is_no_list_is_refused(value, name):
    assert failure(TypeError, value) == (
        f"X must be a list of ase.Atoms or pymatgen Structures, got {name}; "
        "read files with ase.io.read(path, ':') first."
    )


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ("POSCAR", "str"),
        (np.zeros((5, 3)), "ndarray"),
        ([perovskite()], "list"),
        (perovskite()[0], "Atom"),
        (Lattice.cubic(4.0), "Lattice"),
    ],
    ids=["str", "array", "nested list", "single atom", "Lattice"],
)
def test_an_element_of_another_kind_is_refused(item, name):
    assert failure(TypeError, [perovskite(), item]) == (
        f"X must be a list of ase.Atoms or pymatgen Structures, got {name} at index 1; convert it first."
    )


@pytest.mark.parametrize("empty", [[], (), np.array([])], ids=["list", "tuple", "array"])
def test_an_empty_list_is_refused(empty):
    assert failure(ValueError, empty) == "X must hold at least one structure, got an empty list."


def with_position(value, atom):
    atoms = perovskite()
    atoms.positions[atom, 1] = value
    return atoms


def with_cell(cell, pbc):
    atoms = perovskite()
    atoms.cell[:] = cell
    atoms.pbc = pbc
    return atoms


@pytest.mark.parametrize(
    ("atoms", "problem"),
    [
        pytest.param(
            with_position(np.nan, 3),
            "structure 0, atom 3: position is [ 2. nan  2.]; remove it.",
            id="NaN position",
        ),
        pytest.param(
            with_position(np.inf, 0),
            "structure 0, atom 0: position is [ 0. inf  0.]; remove it.",
            id="infinite",
        ),
        pytest.param(
            with_cell(np.diag([4, 4, 0]), True),
            "structure 0: periodic, but its cell has a volume of 0 Angstrom^3 for 5 atoms; set the cell, or "
            "pbc=False.",
            id="flat cell",
        ),
        pytest.param(
            with_cell(np.zeros((3, 3)), True),
            "structure 0: periodic, but its cell has a volume of 0 Angstrom^3 for 5 atoms; set the cell, or "
            "pbc=False.",
            id="no cell",
        ),
        pytest.param(
            with_cell(np.diag([0.5, 0.5, 0.5]), True),
            "structure 0: periodic, but its cell has a volume of 0.125 Angstrom^3 for 5 atoms; set the cell, "
            "or pbc=False.",
            id="cell in other units",
        ),
        pytest.param(
            with_cell(np.zeros((3, 3)), (True, True, False)),
            "structure 0: pbc is [True, True, False], but the lattice vectors of these directions span 0 "
            "Angstrom^2; set the cell, or pbc=False.",
            id="slab without a cell",
        ),
        pytest.param(
            with_cell([[4, 0, 0], [8, 0, 0], [0, 0, 9]], (True, True, False)),
            "structure 0: pbc is [True, True, False], but the lattice vectors of these directions span 0 "
            "Angstrom^2; set the cell, or pbc=False.",
            id="slab with parallel vectors",
        ),
        pytest.param(
            with_cell(np.diag([9, 9, 0]), (False, False, True)),
            "structure 0: pbc is [False, False, True], but the lattice vectors of these directions span 0 "
            "Angstrom^1; set the cell, or pbc=False.",
            id="wire without its vector",
        ),
        *[
            pytest.param(
                with_cell(np.diag([4, bad, 4]), pbc),
                "structure 0: the cell holds NaN or infinity; remove it.",
                id=f"{bad} in the cell, {what}",
            )
            for bad in (np.nan, np.inf)
            for what, pbc in (("crystal", True), ("slab", (True, True, False)), ("molecule", False))
        ],
        pytest.param(Atoms(), "structure 0: it has no atoms; remove it.", id="no atoms"),
        pytest.param(
            Structure(Lattice.cubic(4), [{"Ba": 0.5, "Sr": 0.5}], [[0, 0, 0]]),
            "structure 0: sites with partial occupation (Ba0.5 Sr0.5); order it first.",
            id="disordered",
        ),
    ],
)
def test_structures_that_cannot_be_used(atoms, problem):
    assert failure(ValueError, [atoms]) == f"X has structures that cannot be used:\n  {problem}"


def test_all_problems_are_reported_at_once_with_the_number_of_their_structure():
    atoms = with_position(np.nan, 2)
    atoms.cell[:] = np.nan
    assert failure(ValueError, [perovskite(), atoms, perovskite(), Atoms()]) == (
        "X has structures that cannot be used:\n"
        "  structure 1, atom 2: position is [ 2. nan  0.]; remove it.\n"
        "  structure 1: the cell holds NaN or infinity; remove it.\n"
        "  structure 3: it has no atoms; remove it."
    )


def test_problems_beyond_the_fifth_are_counted():
    assert MAX_LISTED_PROBLEMS == 5
    listed = [f"  structure {k}: it has no atoms; remove it." for k in range(5)]
    headline = "X has structures that cannot be used:"
    assert failure(ValueError, [Atoms()] * 5) == "\n".join([headline, *listed])
    assert failure(ValueError, [Atoms()] * 12) == "\n".join([headline, *listed, "  ... and 7 more"])


def test_no_problems_no_error():
    raise_problems("never shown", [])


# ---- Chemical symbols --------------------------------------------------------------------------------------


def test_atomic_numbers_of_symbols():
    assert [atomic_number(symbol) for symbol in ("H", "Ba", "Og")] == [1, 56, 118]


@pytest.mark.parametrize("symbol", ["Xx", "", "ba", "H2", "TiO", "O ", 8], ids=repr)
def test_other_strings_are_no_symbols(symbol):
    with pytest.raises(ValueError, match="is not a chemical symbol") as error:
        atomic_number(symbol)
    assert str(error.value) == f"{symbol!r} is not a chemical symbol; use names such as 'Ba' or 'O'."
