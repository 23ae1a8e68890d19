"""Reading files: what comes out, and messages that name the file."""

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from numpy.testing import assert_array_equal

from tinynet_sklearn.io import read_structures, stored_forces

ADVICE = (
    "Check that the file is complete and its name has the ending of its format (.extxyz, .cif, .traj, ...)."
)


@pytest.mark.parametrize("name", ["frames.extxyz", "frames.traj", "at@3.extxyz"])
def test_all_frames_in_any_format(tmp_path, name):
    frames = [bulk("NaCl", "rocksalt", a=a) for a in (5.5, 5.6, 5.7)]
    write(tmp_path / name, frames)
    found = read_structures(str(tmp_path / name))
    assert [atoms.cell.volume for atoms in found] == pytest.approx([f.cell.volume for f in frames])


def test_a_format_of_one_structure(tmp_path):
    write(tmp_path / "POSCAR", bulk("NaCl", "rocksalt", a=5.6))
    (atoms,) = read_structures(tmp_path / "POSCAR")
    assert sorted(atoms.symbols) == ["Cl", "Na"]


def test_no_such_file(tmp_path):
    path = tmp_path / "nothing.xyz"
    with pytest.raises(FileNotFoundError) as error:
        read_structures(path)
    assert str(error.value) == f"cannot read {path}: there is no such file."


def test_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        read_structures(tmp_path)
    assert str(error.value) == f"cannot read {tmp_path}: it is a folder."


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("cut.xyz", "3\n\nH 0 0 0\n", "the file ends after 1 of 3 atoms"),
        ("letters.xyz", "1\n\nH 0 0 here\n", "could not convert string to float: 'here'"),
        ("empty.cif", "", "Empty file"),
        ("strange.abc", "words", "UnknownFileTypeError: abc"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match="cannot read") as error:
        read_structures(path)
    message = str(error.value)
    assert message.startswith(f"cannot read {path}: ")
    assert reason in message
    assert message.endswith(ADVICE)
    assert "\n" not in message


def test_stored_forces_are_read_never_computed(tmp_path):
    atoms = molecule("H2O")
    assert stored_forces(atoms) is None
    forces = np.arange(9.0).reshape(3, 3)
    atoms.calc = SinglePointCalculator(atoms, forces=forces)
    write(tmp_path / "water.extxyz", atoms)
    (found,) = read_structures(tmp_path / "water.extxyz")
    assert_array_equal(stored_forces(found), forces)
    found.calc = None
    found.arrays["forces"] = forces
    assert_array_equal(stored_forces(found), forces)
    assert stored_forces("no structure") is None


def test_a_calculator_that_has_not_run_is_left_alone():
    from ase.calculators.lj import LennardJones

    atoms = molecule("O2")
    atoms.calc = LennardJones()
    assert stored_forces(atoms) is None
    assert atoms.calc.results == {}
