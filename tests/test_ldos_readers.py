"""Reading densities of states: against the programs' own totals, and messages that name the file."""

import gzip
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.units import Bohr, Hartree, Rydberg
from numpy.testing import assert_allclose, assert_array_equal
from program_files import (
    CBM,
    DEVIATION,
    ENERGIES,
    ENERGY,
    FERMI,
    FORCES,
    N_ELECTRONS,
    STATES,
    VBM,
    atom_curves,
    deepmd_system,
    earlier_step,
    salt,
    siesta_dos,
    siesta_eig,
    siesta_fa,
    siesta_fdf,
    siesta_pdos,
    siesta_run,
    siesta_struct_out,
    siesta_xv,
    state_arrays,
    vasprun,
)

from tinynet_sklearn.calculations import levels_of_states
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.ldos_io import read_ldos, read_runs

SHARED = Path(__file__).parents[2] / "shared" / "data"
DAMAGED = "The file is damaged or was cut off; copy it again, or repeat the calculation."

on_shared_data = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the sample files")


def refused(path, kind=ValueError, read=read_ldos, **options):
    """The whole message with which reading is refused."""
    with pytest.raises(kind) as error:
        read(path, **options)
    return str(error.value)


@pytest.fixture
def siesta(tmp_path):
    return siesta_run(tmp_path / "run")


@pytest.fixture
def vasp(tmp_path):
    path = tmp_path / "vasprun.xml"
    path.write_text(vasprun())
    return path


@pytest.fixture
def states(tmp_path):
    """A file of states of two structures with the structures beside it."""
    path = tmp_path / "salt_ldos.npz"
    np.savez(path, **state_arrays())
    frames = []
    for i in range(2):
        atoms = salt()
        atoms.info["frame"] = i
        atoms.calc = SinglePointCalculator(atoms, energy=-1.0 - i, free_energy=-2.0 - i, forces=FORCES)
        frames.append(atoms)
    write(tmp_path / "salt.extxyz", frames)
    return path


# ---- SIESTA --------------------------------------------------------------------------------------


def test_siesta_curves_are_those_of_the_states(siesta):
    data = read_ldos(siesta)
    (atoms,) = data.structures
    assert_allclose(data.target[0], atom_curves(), rtol=0, atol=1e-8)
    assert_allclose(data.target.energies, ENERGIES, rtol=0, atol=1e-12)
    assert data.target.grid.zero == "absolute"
    assert data.target.grid.width == pytest.approx(DEVIATION)
    assert_array_equal(data.target.species, [11, 17])
    assert_array_equal(atoms.numbers, [11, 17])
    assert_allclose(atoms.positions, salt().positions, atol=1e-7)
    assert_allclose(atoms.cell.array, salt().cell.array, atol=1e-7)
    assert_array_equal(data.forces[0], FORCES)
    assert data.energies == pytest.approx([ENERGY])
    assert data.sources == [str(siesta / "salt.PDOS")] == list(data.target.sources)


def test_siesta_levels_are_those_of_the_eigenvalues(siesta):
    levels = read_ldos(siesta).target.levels
    assert (levels.fermi, levels.vbm, levels.cbm, levels.n_electrons) == (FERMI, VBM, CBM, N_ELECTRONS)


def test_the_sum_over_the_atoms_is_the_total_of_siesta(siesta):
    assert np.abs(read_ldos(siesta).target.sum_rule_residual()).max() < 1.1e-5  # five decimals, doubled


def test_electrons_are_the_integral_of_the_curves(siesta):
    ldos = read_ldos(siesta).target
    assert ldos.integrals(high=FERMI).sum() == pytest.approx(N_ELECTRONS, abs=1e-6)
    assert VBM < ldos.fermi_level() < CBM


@pytest.mark.parametrize("ending", [".PDOS", ".XV", ".FA", ".EIG", ".DOS", ".fdf"])
def test_any_file_names_its_run(siesta, ending):
    assert_array_equal(read_ldos(siesta / f"salt{ending}").target[0], read_ldos(siesta).target[0])


def test_the_file_with_more_digits_is_preferred(siesta):
    (siesta / "salt.PDOS.xml").write_text(siesta_pdos(shift=0.5))
    assert read_ldos(siesta).target.levels.fermi == FERMI + 0.5
    (siesta / "salt.PDOS").unlink()
    with gzip.open(siesta / "salt.PDOS.xml.gz", "wt") as file:
        file.write((siesta / "salt.PDOS.xml").read_text())
    (siesta / "salt.PDOS.xml").unlink()
    assert_allclose(read_ldos(siesta).target[0], atom_curves(shift=0.5), rtol=0, atol=1e-8)


def test_what_is_not_there_is_not_known(siesta):
    for ending in (".DOS", ".EIG", ".FA", ".fdf"):
        (siesta / f"salt{ending}").unlink()
    (siesta / "FORCE_STRESS").unlink()
    data = read_ldos(siesta)
    assert data.forces is None
    assert np.isnan(data.energies).all()
    assert data.target.reference_total is None
    assert data.target.grid.width is None
    assert data.target.levels.fermi == FERMI
    assert np.isnan([data.target.levels.vbm, data.target.levels.cbm, data.target.levels.n_electrons]).all()


def test_old_files_have_no_fermi_level(siesta):
    (siesta / "salt.PDOS").write_text(siesta_pdos(fermi=None))
    ldos = read_ldos(siesta).target
    assert_allclose(ldos.energies, ENERGIES, rtol=0, atol=1e-12)
    assert ldos.levels.fermi == FERMI  # of the eigenvalues
    (siesta / "salt.EIG").unlink()
    assert np.isnan(read_ldos(siesta).target.levels.fermi)


def test_a_metal_has_no_band_edges_and_an_unknown_number_of_electrons(siesta):
    (siesta / "salt.EIG").write_text(siesta_eig(STATES + np.array([[0.0], [4.0]])))
    levels = read_ldos(siesta).target.levels
    assert np.isnan([levels.vbm, levels.cbm, levels.n_electrons]).all()
    assert levels.fermi == FERMI


def test_without_empty_states_there_is_no_conduction_band(siesta):
    (siesta / "salt.EIG").write_text(siesta_eig(STATES[:, :2]))
    levels = read_ldos(siesta).target.levels
    assert levels.vbm == VBM
    assert np.isnan(levels.cbm)


@pytest.mark.parametrize("fermi", [VBM - 9e-4, VBM, VBM + 9e-4, CBM - 9e-4, CBM, CBM + 9e-4])
def test_the_fermi_level_of_an_insulator_may_be_a_band_edge(siesta, fermi):
    (siesta / "salt.PDOS").write_text(siesta_pdos(fermi=fermi))
    (siesta / "salt.EIG").write_text(siesta_eig(fermi=fermi))
    levels = read_ldos(siesta).target.levels
    assert (levels.vbm, levels.cbm, levels.n_electrons) == (VBM, CBM, N_ELECTRONS)


GRID = EnergyGrid(ENERGIES, DEVIATION)


@pytest.mark.parametrize("n_spins", [1, 2])
@pytest.mark.parametrize("fermi", [-3.0, VBM, FERMI, CBM + 1, np.nan])
def test_electrons_fill_the_lowest_states_wherever_the_fermi_level_is(n_spins, fermi):
    levels = levels_of_states(np.stack([STATES] * n_spins), fermi, GRID, N_ELECTRONS)
    assert (levels.vbm, levels.cbm, levels.n_electrons) == (VBM, CBM, N_ELECTRONS)


def test_channels_of_spin_are_filled_together():
    up, down = np.array([[-6.0, -2.0], [-5.5, -1.0]]), np.array([[-4.0, 1.0], [-3.5, 2.0]])
    levels = levels_of_states(np.stack([up, down]), 0.0, GRID, 3.0)
    assert (levels.vbm, levels.cbm, levels.n_electrons) == (-1, 1, 3)


@pytest.mark.parametrize(
    ("states", "n_electrons"),
    [
        (STATES, 3.0),  # a half-filled band
        (STATES, 4.5),
        (STATES, 0.0),
        (STATES, 8.0),  # more than there are states for
        (STATES + np.array([[0.0], [4.0]]), 4.0),  # bands that overlap
        (np.array([[-6.0, -2.0, 0.0], [-5.5, -2.0, -2.0]]), 4.0),  # bands that touch
    ],
)
def test_electrons_of_a_metal(states, n_electrons):
    levels = levels_of_states(states[None], -1.0, GRID, n_electrons)
    assert np.isnan([levels.vbm, levels.cbm]).all()
    assert levels.n_electrons == n_electrons


@pytest.mark.parametrize("n_electrons", [4.0, np.nan])
@pytest.mark.parametrize(("gap", "edges"), [(0.09, (np.nan, np.nan)), (0.11, (-1.0, -0.89))])
def test_a_single_point_k_tells_insulators_by_their_gap(gap, edges, n_electrons):
    states = np.array([[[-6.0, -1.0, -1.0 + gap]]])
    levels = levels_of_states(states, -1.0 + gap / 2, GRID, n_electrons)
    assert_allclose(np.ravel([levels.vbm, levels.cbm]), edges, rtol=0, atol=1e-12)
    states = np.array([[[-6.0, -1.0]]])  # nothing says how great the gap is
    assert np.isnan(levels_of_states(states, 0.0, GRID, n_electrons).vbm).all()


@pytest.mark.parametrize(("low", "n_electrons"), [(-4.0, 2.0), (-5.7, np.nan), (-2.1, np.nan)])
def test_electrons_are_counted_from_the_low_end_of_the_grid_unless_it_cuts_a_band(tmp_path, low, n_electrons):
    run = siesta_run(tmp_path / "run", energies=np.linspace(low, 5.0, 201))
    assert_array_equal(read_ldos(run).target.levels.n_electrons, [n_electrons])


def test_two_channels_of_spin(tmp_path):
    run = siesta_run(tmp_path / "run", n_spins=2)
    assert refused(run) == (
        f"cannot read {run / 'salt.PDOS'}: it is spin-polarised. Pass spin='sum' to add the two channels."
    )
    ldos = read_ldos(run, spin="sum").target
    assert_allclose(ldos[0], 0.75 * atom_curves(), rtol=0, atol=1e-8)  # 1 + 1/2 of one spin
    assert np.abs(ldos.sum_rule_residual()).max() < 1.1e-5
    assert (ldos.levels.vbm, ldos.levels.cbm, ldos.levels.n_electrons) == (VBM, CBM, N_ELECTRONS)


@pytest.mark.parametrize("spin", ["refuse", "sum"])
def test_non_collinear_spins_are_refused(siesta, spin):
    (siesta / "salt.PDOS").write_text(siesta_pdos(n_spins=4))
    assert refused(siesta, spin=spin) == (
        f"cannot read {siesta / 'salt.PDOS'}: its spins are non-collinear, which is not supported. Use a "
        "calculation without spin, or with collinear spins."
    )


@pytest.mark.parametrize("ending", [".STRUCT_OUT", ".fdf"])
def test_other_sources_of_the_geometry(siesta, ending):
    (siesta / "salt.XV").unlink()
    if ending == ".STRUCT_OUT":
        (siesta / "salt.STRUCT_OUT").write_text(siesta_struct_out(salt()))
    for data in (read_ldos(siesta), read_runs(siesta)):
        (atoms,) = data.structures
        assert_array_equal(atoms.numbers, [11, 17])
        assert_allclose(atoms.cell.array, salt().cell.array, atol=1e-6)
        assert_allclose(atoms.positions, salt().positions, atol=1e-6)
    assert read_runs(siesta).sources == [str(siesta / f"salt{ending}")]


def test_atoms_may_be_in_another_image_of_the_cell(siesta):
    moved = salt()
    moved.positions[1] += moved.cell[0] - 2 * moved.cell[2]
    (siesta / "salt.XV").write_text(siesta_xv(moved))
    assert len(read_ldos(siesta).target) == 1


@pytest.mark.parametrize(
    ("block", "width"),
    [
        ("EF -10.0 5.0 0.2 301 eV", 0.2),
        ("-0.7 0.4 0.01 301 Ry", 0.01 * Rydberg),
        ("-10.d0 5.d0 2.0d-1 301 ev", 0.2),
        ("-10000 5000 200 301 meV", 0.2),
        ("-0.4 0.2 0.01 301 Ha", 0.01 * Hartree),
        ("-400 200 10 301 mHa", 0.01 * Hartree),
        ("-0.4 0.2 0.01 301 Hartree", 0.01 * Hartree),
    ],
)
def test_the_width_is_that_of_the_input(siesta, block, width):
    (siesta / "salt.fdf").write_text(siesta_fdf(block))
    assert read_ldos(siesta).target.grid.width == pytest.approx(width / np.sqrt(2))


def test_an_input_of_another_name_or_with_lost_parts(siesta):
    (siesta / "salt.fdf").rename(siesta / "input.fdf")
    assert read_ldos(siesta).target.grid.width == pytest.approx(DEVIATION)
    (siesta / "input.fdf").write_text("%include lost.fdf\n")
    assert read_ldos(siesta).target.grid.width is None
    (siesta / "input.fdf").write_text("SystemLabel salt\n")
    assert read_ldos(siesta).target.grid.width is None


def test_a_total_on_other_energies_is_left_out(siesta):
    (siesta / "salt.DOS").write_text(siesta_dos(np.linspace(-10, 5, 300)))
    assert read_ldos(siesta).target.reference_total is None
    (siesta / "salt.DOS").write_text(siesta_dos(ENERGIES + 0.01))
    assert read_ldos(siesta).target.reference_total is None


@pytest.mark.parametrize("n", [1, 150, 300])
def test_a_total_that_was_cut_off(siesta, n):
    path = siesta / "salt.DOS"
    lines = siesta_dos().splitlines(keepends=True)
    problem = f"it ends after {n} of the 301 energies of the projected densities of states. {DAMAGED}"
    path.write_text("".join(lines[:n]))
    assert refused(siesta) == f"cannot read {path}: {problem}"


@pytest.mark.parametrize("n", [0, 150])
def test_a_total_that_was_cut_off_within_a_number(siesta, n):
    path = siesta / "salt.DOS"
    lines = siesta_dos().splitlines(keepends=True)
    path.write_text("".join(lines[:n]) + lines[n][:17])  # an energy with three of its decimals
    message = refused(siesta)
    assert message.startswith(f"cannot read {path}: ")
    assert message.endswith(DAMAGED)


@pytest.mark.parametrize(("ending", "head"), [(".DOS", ""), (".FA", "2\n")])
def test_tables_without_numbers(siesta, ending, head):
    path = siesta / f"salt{ending}"
    path.write_text(head)
    problem = f"there are no numbers in it. {DAMAGED}"
    if not head:
        assert refused(siesta) == (
            f"cannot read {path}: it is empty. Copy it again, or repeat the calculation."
        )
    path.write_text(head + "\n")
    assert refused(siesta) == f"cannot read {path}: {problem}"


def cut(text):
    return text[: len(text) // 2]


def other_atoms():
    return bulk("SiC", "zincblende", a=5.64)


def three_atoms():
    return salt() + bulk("Na", "bcc", a=4.0, cubic=True)[:1]


def with_a_ghost():
    atoms = salt()
    atoms.numbers[1] = -17
    return atoms


def displaced():
    atoms = salt()
    atoms.positions[0, 0] += 0.1
    return atoms


TOGETHER = "Keep the files of one run together."

FAULTY = {
    "empty": (".PDOS", "", "it is empty. Copy it again, or repeat the calculation."),
    "cut in the curves": (
        ".PDOS",
        cut(siesta_pdos()),
        f"ParseError: no element found: line {cut(siesta_pdos()).count(chr(10)) + 1}, column "
        f"{len(cut(siesta_pdos()).rsplit(chr(10), 1)[1])}. {DAMAGED}",
    ),
    "no curves": (
        ".PDOS",
        "<pdos></pdos>",
        f"AttributeError: 'NoneType' object has no attribute 'text'. {DAMAGED}",
    ),
    "NaN": (
        ".PDOS",
        re.sub(r"<data>\n\S+", "<data>\nNaN", siesta_pdos(), count=1),
        "the density of states of atom 0 holds NaN or infinity. Leave this file out.",
    ),
    "uneven energies": (
        ".PDOS",
        siesta_pdos(np.append(ENERGIES[:-1], 6.0)),
        "energies must ascend in equal steps; got steps from 0.05 to 1.05 eV. Interpolate the curves onto "
        "such energies first.",
    ),
    "another number of atoms": (
        ".XV",
        siesta_xv(three_atoms()),
        f"it is of 2 atoms, salt.XV of 3. {TOGETHER}",
    ),
    "other species": (
        ".XV",
        siesta_xv(other_atoms()),
        f"atom 0 has atomic number 11, in salt.XV 14. {TOGETHER}",
    ),
    "other positions": (
        ".XV",
        siesta_xv(displaced()),
        "its atoms are up to 0.1 Angstrom from those of salt.XV, so they are of different steps of a "
        "relaxation or simulation. Calculate that one geometry without moving the atoms.",
    ),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_faulty_densities_of_states(siesta, fault):
    ending, text, problem = FAULTY[fault]
    (siesta / f"salt{ending}").write_text(text)
    if ending == ".XV":
        (siesta / "salt.FA").unlink()
    assert refused(siesta) == f"cannot read {siesta / 'salt.PDOS'}: {problem}"


FAULTY_BESIDE = {
    ".EIG": ("cut off", " 0.5\n   3 1   2\n", None),
    ".DOS": ("no numbers", "a b\n", None),
    ".FA": (
        "too short",
        siesta_fa(FORCES[:1]),
        f"it must have the forces of 2 atoms; got 1 rows of 4 numbers. {DAMAGED}",
    ),
    ".XV": ("cut off", siesta_xv(salt())[:200], None),
    ".fdf": (
        "without a width",
        siesta_fdf("-10 5 301 eV"),
        "%block ProjectedDensityOfStates must hold [EF] low high width n unit, with a unit of eV, meV, Ry, "
        "mRy, Ha, mHa or Hartree; got -10 5 301 eV. Correct it.",
    ),
}


@pytest.mark.parametrize("ending", FAULTY_BESIDE)
def test_faulty_files_beside_the_densities_of_states(siesta, ending):
    _, text, problem = FAULTY_BESIDE[ending]
    path = siesta / f"salt{ending}"
    path.write_text(text)
    message = refused(siesta)
    if problem is None:  # the parser's own words between ours
        assert message.startswith(f"cannot read {path}: ")
        assert message.endswith(f". {DAMAGED}")
        assert "\n" not in message
    else:
        assert message == f"cannot read {path}: {problem}"


@pytest.mark.parametrize(
    ("ending", "text", "problem"),
    [
        (".FA", siesta_fa(FORCES * np.nan), "forces hold NaN or infinity. Leave this run out."),
        (".FA", "", "it is empty. Copy it again, or repeat the calculation."),
        (
            ".XV",
            siesta_xv(salt()).replace(f"{salt().cell[0, 1] / Bohr:18.9f}", f"{'NaN':>18}", 1),
            "positions or cell hold NaN or infinity. Leave this run out.",
        ),
        (
            ".XV",
            siesta_xv(with_a_ghost()),
            "atom 1 is a ghost, a set of orbitals without an atom, which is not supported. Leave this run "
            "out.",
        ),
    ],
)
def test_faulty_geometries_and_forces(siesta, ending, text, problem):
    path = siesta / f"salt{ending}"
    path.write_text(text)
    assert refused(siesta, read=read_runs) == f"cannot read {path}: {problem}"


def test_forces_and_energy_that_are_no_numbers(siesta):
    (siesta / "salt.FA").write_text("2\n1 a b c\n")
    message = refused(siesta, read=read_runs)
    assert message.startswith(f"cannot read {siesta / 'salt.FA'}: ValueError: ")
    assert message.endswith(DAMAGED)
    (siesta / "salt.FA").unlink()
    (siesta / "FORCE_STRESS").write_text("")
    assert refused(siesta, read=read_runs) == (
        f"cannot read {siesta / 'FORCE_STRESS'}: IndexError: list index out of range. {DAMAGED}"
    )


def test_a_run_without_densities_of_states(siesta):
    (siesta / "salt.PDOS").unlink()
    assert refused(siesta) == (
        f"cannot read {siesta / 'salt.PDOS'}: there is no such file, nor .PDOS.xml. Put %block "
        "ProjectedDensityOfStates into the .fdf and run SIESTA again."
    )
    data = read_runs(siesta)
    assert_array_equal(data.forces[0], FORCES)
    assert data.energies == pytest.approx([ENERGY])


def test_a_run_without_geometry(siesta):
    for ending in (".XV", ".fdf"):
        (siesta / f"salt{ending}").unlink()
    assert refused(siesta) == (
        f"cannot read {siesta / 'salt.XV'}: there is no such file, nor .STRUCT_OUT or .fdf, to take the "
        "geometry from. Copy the .XV of the run into the folder."
    )
    (siesta / "salt.fdf").write_text("SystemLabel salt\n")
    message = refused(siesta)
    assert message.startswith(f"cannot read {siesta / 'salt.fdf'}: sisl finds no geometry in it (")
    assert message.endswith("). Copy the .XV of the run into the folder.")


def test_energies_are_not_given_to_one_of_several_runs_in_a_folder(siesta):
    siesta_run(siesta, label="other")
    assert np.isnan(read_runs(siesta).energies).all()


def test_without_sisl_there_are_geometries_and_forces(siesta, monkeypatch):
    monkeypatch.setitem(sys.modules, "sisl", None)
    monkeypatch.setitem(sys.modules, "sisl.io.siesta", None)
    assert refused(siesta, ImportError) == (
        f"cannot read {siesta / 'salt.PDOS'} without sisl. Install it: pip install sisl"
    )
    assert_array_equal(read_runs(siesta).forces[0], FORCES)


# ---- VASP ----------------------------------------------------------------------------------------


def test_vasp_curves_are_those_of_the_states(vasp):
    data = read_ldos(vasp)
    (atoms,) = data.structures
    assert_allclose(data.target[0], atom_curves(), rtol=0, atol=1.1e-4)  # four decimals, two orbitals
    assert np.abs(data.target.sum_rule_residual()).max() < 2e-4
    assert data.target.grid.width == pytest.approx(DEVIATION)
    levels = data.target.levels
    assert (levels.fermi, levels.vbm, levels.cbm, levels.n_electrons) == (FERMI, VBM, CBM, N_ELECTRONS)
    assert_allclose(atoms.positions, salt().positions, atol=1e-6)
    assert atoms.calc is None
    assert_array_equal(data.forces[0], FORCES)
    assert_array_equal(data.energies, [ENERGY])
    assert data.sources == [str(vasp)]


def test_vasp_compressed(vasp):
    path = vasp.with_name("salt_vasprun.xml.gz")
    path.write_bytes(gzip.compress(vasp.read_bytes()))
    assert_array_equal(read_ldos(path).target[0], read_ldos(vasp).target[0])


@pytest.mark.parametrize("ismear", [-5, -1, 1])
def test_only_gaussian_smearing_has_a_width(vasp, ismear):
    vasp.write_text(vasprun(ismear=ismear))
    assert read_ldos(vasp).target.grid.width is None


def test_energies_that_rounding_made_uneven(vasp):
    energies = np.linspace(-4, 3, 5001)
    vasp.write_text(vasprun(energies))
    assert_allclose(read_ldos(vasp).target.energies, energies, rtol=0, atol=1e-4)


def test_vasp_spins(vasp):
    vasp.write_text(vasprun(n_spins=2))
    assert refused(vasp) == (
        f"cannot read {vasp}: it is spin-polarised. Pass spin='sum' to add the two channels."
    )
    ldos = read_ldos(vasp, spin="sum").target
    assert_allclose(ldos[0], 0.75 * atom_curves(), rtol=0, atol=3e-4)
    vasp.write_text(vasprun(noncollinear=True))
    assert refused(vasp, spin="sum") == (
        f"cannot read {vasp}: its spins are non-collinear, which is not supported. Use a calculation without "
        "spin, or with collinear spins."
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"projected": False},
            "it has no projected densities of states. Set LORBIT = 10, 11 or 12 in the INCAR and run VASP "
            "again.",
        ),
        ({"n_projected": 1}, "it has densities of states of 1 of its 2 atoms. Repeat the run."),
        ({"energy_step": False}, f"IndexError: list index out of range. {DAMAGED}"),
    ],
)
def test_faulty_runs_of_vasp(vasp, options, problem):
    vasp.write_text(vasprun(**options))
    assert refused(vasp) == f"cannot read {vasp}: {problem}"


def test_projections_are_not_needed_for_forces(vasp):
    vasp.write_text(vasprun(projected=False))
    data = read_runs(vasp)
    assert_array_equal(data.forces[0], FORCES)
    assert_array_equal(data.energies, [ENERGY])


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.xml.gz"])
def test_vasp_cut_off(tmp_path, name, part):
    path = tmp_path / name
    whole = vasprun().encode()
    whole = gzip.compress(whole) if name.endswith(".gz") else whole
    path.write_bytes(whole[: int(part * len(whole))])
    message = refused(path)
    assert message.startswith(f"cannot read {path}: ")
    assert message.endswith(f". {DAMAGED}")
    assert "\n" not in message


def test_vasp_empty(vasp):
    vasp.write_text("")
    assert refused(vasp) == f"cannot read {vasp}: it is empty. Copy it again, or repeat the calculation."


def test_vasp_with_numbers_that_are_none(vasp):
    text = vasprun()
    start = text.index("<partial>")
    vasp.write_text(text[:start] + text[start:].replace("     0.0000</r>", "        NaN</r>", 1))
    assert refused(vasp) == (
        f"cannot read {vasp}: the density of states of atom 0 holds NaN or infinity. Leave this file out."
    )


def test_electrons_that_did_not_converge(vasp):
    vasp.write_text(vasprun(electronic_steps=3))  # as many as NELM
    with pytest.warns(UserWarning, match="did not converge") as caught:
        read_ldos(vasp)
    (warning,) = caught
    assert str(warning.message) == (
        f"{vasp}: the electrons of the last step did not converge. Repeat it with a greater NELM, or leave "
        "it out."
    )
    assert warning.filename == __file__


def test_all_ionic_steps_of_vasp(vasp):
    vasp.write_text(vasprun(earlier=(1, 1)))
    data = read_runs(vasp)
    assert data.sources == [f"{vasp}, step {i}" for i in range(3)]
    expected = [earlier_step(0), earlier_step(1), (salt(), FORCES, ENERGY)]
    for i, (atoms, forces, energy) in enumerate(expected):
        found = data.structures[i]
        assert_array_equal(found.numbers, [11, 17])
        assert_allclose(found.cell.array, atoms.cell.array, atol=1e-6)
        assert_allclose(found.positions, atoms.positions, atol=1e-6)
        assert_allclose(data.forces[i], forces, rtol=0, atol=1e-8)
        assert data.energies[i] == energy
    last = read_ldos(vasp)  # the one that the densities of states are of
    assert last.sources == [str(vasp)]
    assert_allclose(last.structures[0].positions, salt().positions, atol=1e-6)
    assert_array_equal(last.energies, [ENERGY])


def test_a_step_without_a_structure(vasp):
    text = vasprun(earlier=(1, 1))
    first = text.index("<structure>")
    end = text.index("</structure>", first) + len("</structure>")
    vasp.write_text(text[:first] + text[end:])
    assert refused(vasp, read=read_runs) == f"cannot read {vasp}: step 0 has no structure. {DAMAGED}"
    assert len(read_ldos(vasp).structures) == 1


@pytest.mark.parametrize(("last", "which"), [(1, "1 of 3 steps (1)"), (3, "2 of 3 steps (1; 2)")])
def test_steps_whose_electrons_did_not_converge(vasp, last, which):
    vasp.write_text(vasprun(earlier=(1, 3), electronic_steps=last))
    with pytest.warns(UserWarning, match="did not converge") as caught:
        read_runs(vasp)
    (warning,) = caught
    assert str(warning.message) == (
        f"{vasp}: the electrons of {which} did not converge. Repeat them with a greater NELM, or leave them "
        "out."
    )
    if last == 1:
        read_ldos(vasp)  # only the last matters


# ---- States --------------------------------------------------------------------------------------


def test_states_are_broadened_as_wished(states):
    data = read_ldos(states, energies=ENERGIES, width=0.3)
    assert_allclose(data.target[0], atom_curves(deviation=0.3), rtol=0, atol=1e-12)
    assert_allclose(data.target[1], atom_curves(deviation=0.3, shift=1.0), rtol=0, atol=1e-12)
    assert data.target.grid.width == 0.3
    assert_array_equal(data.target.levels.vbm, [VBM, VBM + 1])
    assert_array_equal(data.target.levels.n_electrons, [4, 4])
    assert_array_equal(data.forces[1], FORCES)
    assert_array_equal(data.energies, [-2, -3])  # free energies
    assert all(atoms.calc is None for atoms in data.structures)
    assert data.sources == [f"{states}, structure 0", f"{states}, structure 1"]


@pytest.mark.parametrize(("zero", "level"), [("vbm", VBM), ("fermi", FERMI)])
def test_states_counted_from_another_zero(states, zero, level):
    separately = {"energies": ENERGIES, "width": 0.3, "zero": zero}
    for options in (separately, {"energies": EnergyGrid(ENERGIES, 0.3, zero)}):
        ldos = read_ldos(states, **options).target
        for curves in ldos:
            assert_allclose(curves, atom_curves(deviation=0.3, shift=-level), rtol=0, atol=1e-12)
        assert ldos.grid.zero == zero
        assert_array_equal(ldos.levels.shift, [level, level + 1])


def test_angular_momenta_are_summed_and_little_needs_to_be_known(tmp_path):
    arrays = state_arrays(1)
    weights = arrays["state_weights"]
    parts = np.stack([0.25 * weights, 0.75 * weights], axis=-1)
    path = tmp_path / "bare.npz"
    np.savez(path, eigenvalues=arrays["eigenvalues"], state_weights=parts, k_weights=arrays["k_weights"])
    data = read_ldos(path, energies=ENERGIES, width=0.3, structures=[salt()])
    assert_allclose(data.target[0], atom_curves(deviation=0.3), rtol=0, atol=1e-12)
    assert np.isnan(data.target.levels.fermi).all()
    assert data.forces is None


def test_states_need_energies_and_a_width(states):
    for options in ({}, {"energies": ENERGIES}, {"width": 0.3}):
        assert refused(states, **options) == (
            f"cannot read {states}: states are broadened when they are read. Pass energies= and width=, the "
            "standard deviation of the Gaussians in eV."
        )


def test_structures_of_states(states):
    runs = read_runs(states)
    assert_array_equal(runs.energies, [-2, -3])
    states.with_name("salt.extxyz").unlink()
    assert refused(states, energies=ENERGIES, width=0.3) == (
        f"cannot read {states}: there are no structures beside it, in salt_ldos.extxyz or salt.extxyz. Put "
        "the file there, or pass structures=."
    )
    alone = states.rename(states.with_name("salt.npz"))
    assert refused(alone, energies=ENERGIES, width=0.3) == (
        f"cannot read {alone}: there are no structures beside it, in salt.extxyz. Put the file there, or "
        "pass structures=."
    )


def without(name):
    arrays = state_arrays()
    del arrays[name]
    return arrays


def changed(**parts):
    return state_arrays() | parts


ONE_NAN = np.where(np.arange(24).reshape(2, 2, 3, 2) == 5, np.nan, state_arrays()["state_weights"])

FAULTY_ARRAYS = {
    "lacking": (
        without("k_weights"),
        "a file of states has the arrays eigenvalues, state_weights, k_weights; it lacks k_weights. Save all "
        "of them with np.savez.",
    ),
    "shapes": (
        changed(k_weights=np.ones(3)),
        "eigenvalues must have the shape (n_structures, n_k, n_states), state_weights one axis more, for the "
        "atoms, or two, and k_weights (n_k,); got (2, 2, 3), (2, 2, 3, 2) and (3,).",
    ),
    "NaN": (
        changed(state_weights=ONE_NAN),
        "eigenvalues or weights of states hold NaN or infinity. Leave these structures out.",
    ),
    "infinity": (
        changed(eigenvalues=np.full((2, 2, 3), np.inf)),
        "eigenvalues or weights of states hold NaN or infinity. Leave these structures out.",
    ),
    "k weights": (
        changed(k_weights=np.array([1.0, 3.0])),
        "k_weights must sum to one; got 4. Divide by their sum.",
    ),
    "per structure": (
        changed(vbm=np.zeros(3)),
        "there must be one number for each of 2 structures; vbm has the shape (3,).",
    ),
    "structures": (
        state_arrays(3),
        "it has states of 3 structures; got 2 structures. Pass those it was made from, in the same order.",
    ),
    "species": (
        changed(numbers=np.array([17, 11])),
        "its atomic numbers are not those of structure 0; its atomic numbers are not those of structure 1. "
        "Pass the structures it was made from, in the same order.",
    ),
    "atoms": (
        changed(state_weights=np.ones((2, 2, 3, 5))),
        "it has states of 5 atoms; structure 0 has 2; it has states of 5 atoms; structure 1 has 2. Pass the "
        "structures it was made from, in the same order.",
    ),
    "frames": (
        changed(frame=np.array([0, 7])),
        "its frame 7 is frame 1 in the structures. Pass the structures it was made from, in the same order.",
    ),
}


@pytest.mark.parametrize("fault", FAULTY_ARRAYS)
def test_faulty_states(states, fault):
    arrays, problem = FAULTY_ARRAYS[fault]
    np.savez(states, **arrays)
    assert refused(states, energies=ENERGIES, width=0.3) == f"cannot read {states}: {problem}"


@pytest.mark.parametrize("zero", ["fermi", "onset"])
def test_zeros_that_states_do_not_have(states, zero):
    np.savez(states, **without("fermi"))
    assert refused(states, energies=ENERGIES, width=0.3, zero=zero) == (
        f"cannot read {states}: zero must be one of 'absolute', 'vbm' for its states; got {zero!r}. Use "
        "LDOS.aligned afterwards for others."
    )


class Trap:
    """Would say so if it were unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_objects_are_never_unpickled(states, tmp_path):
    np.savez(states, **changed(fermi=np.array([Trap(), Trap()], dtype=object)))
    remedy = "which are never loaded. Save arrays of numbers."
    assert refused(states, energies=ENERGIES, width=0.3) == (
        f"cannot read {states}: its array 'fermi' holds Python objects, {remedy}"
    )
    states.write_bytes(pickle.dumps(Trap()))
    assert refused(states, energies=ENERGIES, width=0.3) == (
        f"cannot read {states}: it holds Python objects, {remedy}"
    )
    system = deepmd_system(tmp_path / "system")
    path = system / "set.000" / "atom_dos.npy"
    np.save(path, np.array([Trap()] * 2, dtype=object), allow_pickle=True)
    assert refused(system, energies=ENERGIES) == f"cannot read {path}: it holds Python objects, {remedy}"


def test_states_cut_off(states):
    content = states.read_bytes()
    states.write_bytes(content[: len(content) // 2])
    assert refused(states, energies=ENERGIES, width=0.3) == (
        f"cannot read {states}: BadZipFile: File is not a zip file. {DAMAGED}"
    )
    states.write_bytes(b"")
    assert refused(states, energies=ENERGIES, width=0.3) == (
        f"cannot read {states}: it is empty. Copy it again, or repeat the calculation."
    )
    np.save(states.with_suffix(".npy"), np.ones(3))
    states.with_suffix(".npy").rename(states)
    assert refused(states, energies=ENERGIES, width=0.3) == (
        f"cannot read {states}: a file of states has the arrays eigenvalues, state_weights, k_weights; it "
        "lacks eigenvalues, state_weights, k_weights. Save all of them with np.savez."
    )


# ---- DeePMD-kit ----------------------------------------------------------------------------------


def test_all_sets_of_a_system_in_order(tmp_path):
    system = deepmd_system(tmp_path / "system")
    data = read_ldos(system, energies=ENERGIES, width=0.3)
    assert len(data.target) == len(data.structures) == 3
    for i, curves in enumerate(data.target):
        assert_allclose(curves, (1 + i) * atom_curves(), rtol=0, atol=1e-12)
    assert data.target.grid.difference(EnergyGrid(ENERGIES, 0.3)) is None
    assert np.abs(data.target.sum_rule_residual()).max() < 1e-12
    assert_array_equal(data.target.species, [11, 17] * 3)
    assert data.structures[2].pbc.all()
    assert_array_equal(data.structures[2].cell.array, salt().cell.array)
    assert_array_equal(data.energies, [0, -1, -2])
    assert_array_equal(data.forces[2], FORCES)
    assert data.sources[2] == f"{system / 'set.001'}, frame 0"


def test_the_zero_of_a_system_is_what_the_caller_says(tmp_path):
    system = deepmd_system(tmp_path / "system", total=False)
    ldos = read_ldos(system, energies=EnergyGrid(ENERGIES, zero="fermi")).target
    assert ldos.grid.zero == "fermi"
    assert ldos.reference_total is None


def test_molecules_of_deepmd(tmp_path):
    system = deepmd_system(tmp_path / "system")
    (system / "nopbc").touch()
    for part in system.glob("set.*"):
        (part / "box.npy").unlink()
    data = read_runs(system)
    assert not data.structures[0].pbc.any()
    assert len(data.forces) == 3


def test_a_system_needs_energies(tmp_path):
    system = deepmd_system(tmp_path / "system")
    assert refused(system) == (
        f"cannot read {system / 'set.000' / 'atom_dos.npy'}: the format does not store energies. Pass "
        "energies=, one for each column of an atom."
    )
    assert refused(system, energies=ENERGIES[:-1]) == (
        f"cannot read {system / 'set.000' / 'atom_dos.npy'}: its shape must be that of 2 frames with 600 "
        "numbers (2 atoms x 300 energies); got (2, 602)."
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("type.raw", "0\n2\n", "types must be between 0 and 1, the symbols of type_map.raw; got 0 to 2."),
        ("type_map.raw", "Cl\nXy\n", "'Xy' is not a chemical symbol; use names such as 'Ba' or 'O'."),
        ("type.raw", "", "it is empty. Copy it again, or repeat the calculation."),
    ],
)
def test_faulty_types(tmp_path, name, content, problem):
    system = deepmd_system(tmp_path / "system")
    (system / name).write_text(content)
    assert refused(system, energies=ENERGIES) == f"cannot read {system / name}: {problem}"


def test_types_that_are_no_numbers(tmp_path):
    system = deepmd_system(tmp_path / "system")
    (system / "type.raw").write_text("a b")
    message = refused(system, energies=ENERGIES)
    assert message.startswith(f"cannot read {system / 'type.raw'}: ValueError: ")
    assert message.endswith(DAMAGED)


def test_missing_parts_of_a_system(tmp_path):
    system = deepmd_system(tmp_path / "system")
    path = system / "set.001" / "box.npy"
    path.unlink()
    assert refused(system, FileNotFoundError, energies=ENERGIES) == (
        f"cannot read {path}: there is no such file."
    )
    bare = deepmd_system(tmp_path / "bare", n_frames=())
    assert refused(bare, energies=ENERGIES) == (
        f"cannot read {bare}: it has a type.raw, but no folder set.000. Copy the sets into it."
    )


def test_nan_in_a_set(tmp_path):
    system = deepmd_system(tmp_path / "system")
    path = system / "set.000" / "atom_dos.npy"
    table = np.load(path)
    table[1, 5] = np.nan
    np.save(path, table)
    assert refused(system, energies=ENERGIES) == (
        f"cannot read {path}: frame 1 holds NaN or infinity. Leave it out."
    )


# ---- Folders of runs -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Eleven runs, each 0.1 eV above the one before, and a folder that is no run."""
    for i in range(11):
        siesta_run(tmp_path / "runs" / f"run{i + 1}", shift=0.1 * i)
    (tmp_path / "runs" / "pseudos").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("notes")
    return tmp_path / "runs"


def test_a_folder_of_runs_in_natural_order(folder):
    data = read_ldos(folder)
    assert [Path(source).parent.name for source in data.sources] == [f"run{i + 1}" for i in range(11)]
    assert_allclose(data.target.levels.vbm, VBM + 0.1 * np.arange(11), atol=1e-9)
    assert_allclose(data.target[10], atom_curves(shift=1.0), rtol=0, atol=1e-8)
    assert len(data.structures) == len(data.forces) == len(data.energies) == 11
    runs = read_runs(folder)
    assert runs.sources == [str(Path(source).with_suffix(".XV")) for source in data.sources]


def test_several_runs_in_one_folder(tmp_path):
    for i in (2, 10):
        siesta_run(tmp_path, label=f"salt{i}", shift=0.1 * i)
    data = read_ldos(tmp_path)
    assert [Path(source).name for source in data.sources] == ["salt2.PDOS", "salt10.PDOS"]


def test_runs_of_several_programs(tmp_path):
    siesta_run(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "vasprun.xml").write_text(vasprun())
    np.savez(tmp_path / "b" / "salt.npz", **state_arrays(1))
    write(tmp_path / "b" / "salt.extxyz", salt())
    data = read_ldos(tmp_path, energies=np.linspace(-8, 4, 241), width=0.2)
    assert len(data.target) == 3
    assert_allclose(data.target[0], data.target[2], rtol=0, atol=1e-3)
    assert_allclose(data.target[1], data.target[2], rtol=0, atol=1e-3)
    assert np.isnan(data.forces[2]).all()  # the one without
    assert_array_equal(data.forces[1], FORCES)
    assert len(read_ldos(tmp_path, format="vasp").target) == 1
    assert len(read_ldos(tmp_path, format="siesta").target) == 1


@pytest.mark.parametrize(("zero", "level"), [("vbm", VBM), ("fermi", FERMI)])
def test_every_run_from_its_own_zero(folder, zero, level):
    ldos = read_ldos(folder, energies=np.linspace(-5, 2, 141), zero=zero).target
    assert ldos.grid.zero == zero
    for curves in ldos:
        expected = atom_curves(ldos.energies, shift=-level)
        assert_allclose(curves, expected, rtol=0, atol=5e-3)  # splines at 0.35 widths
    assert_allclose(ldos.levels.shift, level + 0.1 * np.arange(11), atol=1e-9)


@pytest.fixture
def uneven(tmp_path):
    """Two equal runs, of which one has no eigenvalues."""
    siesta_run(tmp_path / "runs" / "with")
    (siesta_run(tmp_path / "runs" / "without") / "salt.EIG").unlink()
    return tmp_path / "runs"


@pytest.mark.parametrize("energies", [None, np.linspace(-5, 2, 141)])
def test_band_edges_are_found_alike_in_all_runs(uneven, energies):
    ldos = read_ldos(uneven, energies=energies, zero="vbm").target
    together = read_ldos(uneven).target.aligned("vbm", energies=energies)
    assert_allclose(ldos[0], ldos[1], rtol=0, atol=1e-12)
    assert_allclose(ldos.values, together.values, rtol=0, atol=1e-12)
    assert_allclose(ldos.levels.shift, together.levels.shift, rtol=0, atol=1e-12)
    assert_array_equal(ldos.levels.vbm, together.levels.vbm)


def test_band_edges_that_are_known_and_others_that_are_not(uneven):
    np.savez(uneven / "with" / "salt.npz", **state_arrays(1))
    write(uneven / "with" / "salt.extxyz", salt())
    options = {"energies": np.linspace(-5, 2, 141), "width": 0.2}
    assert refused(uneven, zero="vbm", **options) == (
        f"zero='vbm' must be known in all runs in {uneven}, or be read off the curves of all; got one from "
        f"{uneven / 'with' / 'salt.npz'}, structure 0, which is known, and none from "
        f"{uneven / 'without' / 'salt.PDOS'}. Read them separately, or use zero='fermi'."
    )
    assert len(read_ldos(uneven, zero="fermi", **options).target) == 3
    (uneven / "without" / "salt.EIG").write_text(siesta_eig())
    ldos = read_ldos(uneven, zero="vbm", **options).target
    assert_allclose(ldos.levels.shift, [VBM] * 3, rtol=0, atol=1e-9)


@pytest.mark.parametrize("zero", ["onset", "centroid"])
@pytest.mark.parametrize("energies", [None, np.linspace(0, 2, 41)])
def test_zeros_that_depend_on_where_a_file_begins(tmp_path, zero, energies):
    siesta_run(tmp_path / "deep")
    siesta_run(tmp_path / "shallow", energies=np.linspace(-4, 5, 181))
    assert refused(tmp_path, zero=zero, energies=energies) == (
        f"zero={zero!r} depends on the lowest energy, which must be the same in all runs in {tmp_path}; got "
        f"-10 eV in {tmp_path / 'deep' / 'salt.PDOS'} and -4 eV in {tmp_path / 'shallow' / 'salt.PDOS'}. "
        f"Read them with zero='fermi' or 'vbm' and energies= that begin in a gap, then use "
        f"LDOS.aligned({zero!r})."
    )
    ldos = read_ldos(tmp_path, zero="fermi", energies=np.linspace(-4, 4, 161)).target.aligned(zero)
    assert_allclose(ldos[0], ldos[1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("zero", ["onset", "centroid"])
def test_files_that_begin_at_the_same_energy_from_the_fermi_level(tmp_path, zero):
    for i in range(2):
        siesta_run(tmp_path / f"run{i}", shift=0.35 * i, energies=ENERGIES + 0.35 * i)
    ldos = read_ldos(tmp_path, zero=zero).target
    assert_allclose(np.diff(ldos.levels.shift), 0.35, rtol=0, atol=1e-6)
    assert_allclose(ldos[0], ldos[1], rtol=0, atol=1e-6)


def test_runs_without_the_zero_are_reported_together(folder):
    for i in (3, 5):
        (folder / f"run{i}" / "salt.EIG").unlink()
        (folder / f"run{i}" / "salt.PDOS").write_text(siesta_pdos(fermi=None))
    message = refused(folder, energies=np.linspace(-5, 2, 141), zero="fermi")
    head, *cases = message.split("\n")
    assert head == f"2 of 11 structures in {folder} cannot be read:"
    for i, case in zip((3, 5), cases, strict=True):
        source = folder / f"run{i}" / "salt.PDOS"
        assert case.startswith(f"  cannot read {source}: zero='fermi' must exist in every structure;")


def test_grids_that_follow_the_fermi_level(tmp_path):
    """As with SIESTA's "EF" in the block: different on the absolute scale, equal from the Fermi level."""
    for i in range(3):
        siesta_run(tmp_path / f"run{i}", shift=0.32 * i, energies=ENERGIES + 0.32 * i)
    runs = f"{tmp_path / 'run0' / 'salt.PDOS'} and {tmp_path}"
    assert refused(tmp_path) == (
        f"runs in {tmp_path} must be on one grid; got 301 energies from -10 to 5 eV and 301 from -9.68 to "
        f"5.32 eV in {runs}/run1/salt.PDOS; 301 energies from -10 to 5 eV and 301 from -9.36 to 5.64 eV in "
        f"{runs}/run2/salt.PDOS. Pass energies= to interpolate all onto one grid, and zero='vbm' or 'fermi' "
        "to align them."
    )
    ldos = read_ldos(tmp_path, zero="fermi").target
    assert (ldos.grid.low, ldos.grid.high) == pytest.approx((-10.5, 4.5))
    for curves in ldos:
        assert_allclose(curves, atom_curves(ldos.energies, shift=-FERMI), rtol=0, atol=5e-3)


def test_runs_without_common_energies(tmp_path):
    siesta_run(tmp_path / "low", energies=np.linspace(-7, -3, 81))
    siesta_run(tmp_path / "high", energies=np.linspace(1, 5, 81))
    assert refused(tmp_path, zero="fermi") == (
        "runs must share energies; got none from zero='fermi' that is in all of them. Leave runs out, or "
        "calculate wider windows."
    )


def test_energies_beyond_those_of_a_run(folder):
    path = folder / "run1" / "salt.PDOS"
    assert refused(folder / "run1", energies=[-20.0, 0.0]) == (
        f"cannot read {path}: energies must lie between -10 and 5 eV, where curves are known; got -20 to 0. "
        "Choose fewer, or read files of wider windows."
    )


def test_different_widths(tmp_path):
    siesta_run(tmp_path / "sharp", width=0.2)
    siesta_run(tmp_path / "wide", width=0.4)
    files = f"{tmp_path / 'sharp' / 'salt.PDOS'} and {tmp_path / 'wide' / 'salt.PDOS'}"
    assert refused(tmp_path) == (
        f"runs in {tmp_path} must be on one grid; got widths of 0.141421 eV and 0.282843 eV in {files}. Pass "
        "width=, at least the greatest, to broaden all to it."
    )
    data = read_ldos(tmp_path, energies=np.linspace(-7, 3, 201), width=0.3)
    assert_allclose(data.target[0], data.target[1], rtol=0, atol=1e-3)
    assert_allclose(data.target[0], atom_curves(data.target.energies, 0.3), rtol=0, atol=1e-3)
    (tmp_path / "wide" / "salt.fdf").unlink()
    assert refused(tmp_path) == (
        f"runs in {tmp_path} must be on one grid; got widths of 0.141421 eV and unknown size in {files}. "
        "Leave out the runs whose width is not known."
    )


def test_problems_of_all_runs_are_reported_together(folder):
    for i in range(2, 9):
        (folder / f"run{i}" / "salt.PDOS").write_text("")
    (folder / "run10" / "salt.XV").write_text(siesta_xv(three_atoms()))
    (folder / "run10" / "salt.FA").unlink()
    listed = "".join(
        f"\n  cannot read {folder / f'run{i}' / 'salt.PDOS'}: it is empty. Copy it again, or repeat the "
        "calculation."
        for i in range(2, 7)
    )
    assert refused(folder) == f"8 of 11 runs in {folder} cannot be read:{listed}\n  ... and 3 more"


@pytest.mark.parametrize("name", ["template.fdf", "INCAR", "results.npz", "salt.XV"])
def test_a_file_beside_folders_of_runs_does_not_hide_them(folder, name):
    path = folder / name
    if name.endswith(".npz"):
        np.savez(path, scores=np.ones(3))
    else:
        path.write_text(siesta_fdf())
    assert len(read_ldos(folder).target) == 11
    if name != "salt.XV":  # which is a whole run, if forces are wanted
        assert len(read_runs(folder).structures) == 11


def test_a_file_that_cannot_be_opened_beside_folders_of_runs(folder):
    (folder / "results.npz").write_text("no numbers")
    assert len(read_ldos(folder).target) == 11


def test_results_beside_folders_come_first(folder):
    siesta_run(folder)
    assert len(read_ldos(folder).target) == 1
    deepmd_system(folder / "system")  # its sets are no runs of their own
    assert len(read_ldos(folder / "system", energies=ENERGIES).target) == 3
    (folder / "salt.PDOS").unlink()
    assert len(read_runs(folder).structures) == 1


def test_a_vasp_run_without_its_output(tmp_path):
    (tmp_path / "INCAR").write_text("LORBIT = 11")
    assert refused(tmp_path, FileNotFoundError) == (
        f"cannot read {tmp_path / 'vasprun.xml'}: there is no such file."
    )


def test_nothing_to_read(tmp_path):
    path = tmp_path / "nothing"
    assert refused(path, FileNotFoundError) == f"cannot read {path}: there is no such file or folder."
    assert refused(tmp_path) == (
        f"cannot read {tmp_path}: there are no files of SIESTA (.PDOS, .XV, .fdf) or vasprun.xml or .npz of "
        "states or folders with type.raw in it or its sub-folders. Pass a folder of runs."
    )
    assert refused(tmp_path, format="vasp") == (
        f"cannot read {tmp_path}: there are no vasprun.xml in it or its sub-folders. Pass a folder of runs."
    )
    path.write_text("words")
    assert refused(path) == (
        f"cannot read {path}: its name is none of .PDOS, .PDOS.xml, .XV, vasprun.xml, vasprun.xml.gz or "
        ".npz. Rename it, or pass format=."
    )


def test_a_format_says_what_a_name_does_not(tmp_path, vasp, states):
    assert len(read_ldos(vasp.rename(tmp_path / "out.xml"), format="vasp").target) == 1
    renamed = states.rename(tmp_path / "numbers")
    data = read_ldos(renamed, format="states", energies=ENERGIES, width=0.2, structures=[salt(), salt()])
    assert len(data.target) == 2
    system = deepmd_system(tmp_path / "system")
    assert len(read_ldos(system / "type.raw", format="deepmd", energies=ENERGIES).target) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"format": "gaussian"},
            "format must be one of 'siesta', 'vasp', 'states', 'deepmd', or None to find it out; got "
            "'gaussian'.",
        ),
        ({"spin": "up"}, "spin must be 'refuse' or 'sum'; got 'up'."),
        (
            {"zero": "auto"},
            "zero must be one of 'absolute', 'fermi', 'vbm', 'onset', 'centroid'; got 'auto'. Use "
            "LDOS.aligned after reading for others.",
        ),
        (
            {"width": -0.1},
            "width must be the standard deviation of a Gaussian in eV, or None if it is not known; got -0.1.",
        ),
    ],
)
def test_wrong_parameters(siesta, options, expected):
    assert refused(siesta, **options) == expected


@pytest.mark.parametrize("read", [read_ldos, read_runs])
def test_a_path_that_is_none(read):
    assert refused(123, TypeError, read) == "path must be that of a file or folder; got int."


@pytest.mark.parametrize(("energies", "kind"), [("a", "str"), ({}, "dict"), (["a", "b"], "list")])
def test_energies_that_are_no_numbers(siesta, energies, kind):
    assert refused(siesta, TypeError, energies=energies) == f"energies must be numbers; got {kind}."


@pytest.mark.parametrize(
    ("name", "format", "own"),
    [
        ("salt.PDOS", "vasp", "siesta"),
        ("salt.fdf", "states", "siesta"),
        ("vasprun.xml", "siesta", "vasp"),
        ("salt.npz", "deepmd", "states"),
    ],
)
def test_a_format_that_is_not_that_of_the_file(siesta, name, format, own):
    path = siesta / name
    path.touch()
    assert refused(path, format=format) == (
        f"cannot read {path}: by its name it is of the format {own!r}; got format={format!r}. Leave format "
        "out, or rename the file."
    )


def test_structures_are_for_states_alone(vasp):
    assert refused(vasp, structures=[salt()]) == (
        f"cannot read {vasp}: structures= is for files of states; got a run of 'vasp'. Leave structures out."
    )


# ---- Files of the programs themselves ------------------------------------------------------------


@on_shared_data
@pytest.mark.parametrize(
    ("name", "n_energies", "width", "levels"),
    [
        ("SrTiO3", 3000, 0.15, (-3.66340333, -4.65895687, -2.02464297, 40.0)),
        ("Si_pdos_k", 200, 0.2, (-4.4837665, -4.74376758, -4.03315839, np.nan)),  # the grid begins in a band
    ],
)
def test_siesta_sample(name, n_energies, width, levels):
    ldos = read_ldos(SHARED / "siesta" / name).target
    assert ldos.shape == (1, n_energies)
    # .DOS has five decimals per spin: half of the last digit, doubled. In SrTiO3 that is 5e-7 of the highest
    # value, in Si 2e-5.
    assert np.abs(ldos.sum_rule_residual()).max() <= 1e-5
    assert ldos.grid.width == pytest.approx(width / np.sqrt(2))
    found = ldos.levels
    assert_allclose(np.ravel([found.fermi, found.vbm, found.cbm, found.n_electrons]), levels, atol=1e-8)


@on_shared_data
def test_siesta_counts_one_spin_and_its_width_is_root_two_deviations():
    """Eigenvalues of SrTiO3, broadened to the deviation, twice: its density of states to the last digit."""
    from sisl.io.siesta import eigSileSiesta, kpSileSiesta

    folder = SHARED / "siesta" / "SrTiO3"
    ldos = read_ldos(folder).target
    file = eigSileSiesta(folder / "SrTiO3.EIG")
    eigenvalues = file.read_data()[0] + file.read_fermi_level()
    _, weights = kpSileSiesta(folder / "SrTiO3.KP").read_data()
    deviation, total = ldos.grid.width, np.zeros(len(ldos.grid))
    for row, weight in zip(eigenvalues, weights, strict=True):
        distance = (ldos.energies[:, None] - row) / deviation
        total += 2 * weight * np.exp(-0.5 * distance**2).sum(axis=1) / (deviation * np.sqrt(2 * np.pi))
    assert np.abs(ldos.total()[0] - total).max() < 1e-5
    assert ldos.total().max() > 20
    assert ldos.integrals(high=ldos.levels.fermi[0]).sum() == pytest.approx(40, abs=1e-4)


@on_shared_data
def test_both_siesta_files_say_the_same():
    one = read_ldos(SHARED / "siesta" / "Si_pdos_k").target
    assert one.sources[0].endswith(".PDOS.xml")
    import sisl

    _, _, orbitals = sisl.get_sile(SHARED / "siesta" / "Si_pdos_k" / "Si_pdos.PDOS").read_data()
    assert_allclose(one.total()[0], 2 * orbitals[0].sum(axis=0), rtol=0, atol=1e-7)


@on_shared_data
def test_siesta_geometries_and_forces_of_a_folder():
    data = read_runs(SHARED / "siesta")
    assert [str(atoms.symbols) for atoms in data.structures] == ["Si2", "SrTiO3"]
    assert data.structures[1].cell.lengths() == pytest.approx([3.874] * 3, abs=1e-5)
    assert data.forces[0][1] == pytest.approx([0.810714171e-04] * 3, abs=1e-12)
    assert data.energies == pytest.approx([-229.153103, -3891.899209], abs=1e-4)


@on_shared_data
def test_vasp_sample_and_what_its_projection_loses():
    data = read_ldos(SHARED / "vasp" / "OsO2_vasprun.xml.gz")
    ldos = data.target
    assert str(data.structures[0].symbols) == "Os2O4"
    assert ldos.levels.fermi == pytest.approx(5.69540075)
    assert ldos.levels.n_electrons == 40
    assert np.isnan(ldos.levels.vbm).all()  # a metal
    assert ldos.grid.width == pytest.approx(0.2 / np.sqrt(2))
    assert data.energies == pytest.approx([-48.05746536])
    assert_array_equal(data.forces[0][2], [0.42976073, 0, 0])
    total, step = ldos.reference_total, ldos.grid.step
    assert ldos.grid.integrate(ldos.total()) / ldos.grid.integrate(total) == pytest.approx(0.7554, abs=1e-4)
    filled = ldos.energies < ldos.levels.fermi[0]
    assert ldos.total()[:, filled].sum() / total[:, filled].sum() == pytest.approx(0.8693, abs=1e-4)
    assert total[:, filled].sum() * step == pytest.approx(40, abs=0.1)
    # what is lost lies between the atoms: nowhere do the atoms have more than there is
    assert ldos.sum_rule_residual().max() < 2e-3


@on_shared_data
def test_vasp_smearing_is_root_two_deviations_and_half_a_step_late():
    from pymatgen.io.vasp.outputs import Vasprun

    path = SHARED / "vasp" / "OsO2_vasprun.xml.gz"
    ldos = read_ldos(path).target
    run = Vasprun(path, parse_dos=False, parse_potcar_file=False)
    (states,) = run.eigenvalues.values()
    deviation, total = ldos.grid.width, np.zeros(len(ldos.grid))
    energies = ldos.energies - ldos.grid.step / 2
    for row, weight in zip(states[..., 0], run.actual_kpoints_weights, strict=True):
        distance = (energies[:, None] - row) / deviation
        total += 2 * weight * np.exp(-0.5 * distance**2).sum(axis=1) / (deviation * np.sqrt(2 * np.pi))
    assert np.abs(ldos.reference_total[0] - total).max() < 4e-3
    assert ldos.reference_total.max() > 7


@on_shared_data
def test_deepmd_sample():
    data = read_ldos(SHARED / "si_dos_deepmd", energies=np.arange(250.0))
    assert data.target.shape == (11, 250)
    assert set(data.target.species) == {14}
    assert all(len(atoms) == 32 for atoms in data.structures)
    residual, total = data.target.sum_rule_residual(), data.target.reference_total
    # as many states in the atoms as in the total, at slightly other energies
    assert np.sqrt(np.mean(residual**2)) == pytest.approx(0.497, abs=1e-3)
    assert_allclose(data.target.total().sum(axis=1), total.sum(axis=1), rtol=3e-4)


@on_shared_data
@pytest.mark.parametrize(("name", "worst"), [("moo3", 5e-4), ("batio3", 2e-3)])
def test_stored_curves_follow_from_stored_states(name, worst):
    """To what weights of half precision allow: a relative error of 5e-4 at most, mostly averaged out."""
    path = SHARED / "gpaw" / f"{name}_gpaw_ldos.npz"
    with np.load(path) as file:
        stored, energies, vbm = file["ldos"], file["energies"], file["vbm"]
    ldos = read_ldos(path, energies=energies, width=0.2, zero="vbm").target
    assert_allclose(ldos.values, stored.reshape(-1, len(energies)), rtol=0, atol=worst)
    assert np.sqrt(np.mean((ldos.values - stored.reshape(-1, len(energies))) ** 2)) < 5e-5
    assert_array_equal(ldos.levels.shift, vbm)
    assert_array_equal(ldos.levels.vbm, 0)
    if name == "moo3":
        assert_allclose(ldos.levels.n_electrons, 72, atol=2e-3)
