"""The command line: what it prints, writes and returns."""

import json
import re
import subprocess
import sys
from importlib.resources import as_file, files

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.io import write
from typer.testing import CliRunner

from tinynet_sklearn import CycleMomentFeaturizer, __version__, load_model, load_moo3
from tinynet_sklearn.cli import app, parse_bonds


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def words(text):
    """Text without line breaks, boxes and repeated spaces."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.fixture(scope="module")
def moo3_file():
    with as_file(files("tinynet_sklearn") / "data" / "moo3_gpaw.extxyz") as path:
        yield path


@pytest.fixture
def salt_file(tmp_path):
    path = tmp_path / "salt.extxyz"
    write(path, bulk("NaCl", "rocksalt", a=5.64, cubic=True))
    return path


def test_version():
    result = run("--version")
    assert result.exit_code == 0
    assert result.stdout == f"tinynet {__version__}\n"


@pytest.mark.parametrize("command", ["quickstart", "inspect"])
def test_help_has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: tinynet {command} " in words(result.stdout)


def test_no_command_shows_help():
    result = run()
    assert result.exit_code == 2
    assert "quickstart" in result.output
    assert "inspect" in result.output


def test_the_installed_command_answers_without_loading_the_package(tmp_path):
    code = (
        "import sys\n"
        "from tinynet_sklearn.cli import main\n"
        "sys.argv = ['tinynet', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code)\n"
        "assert not {'numpy', 'sklearn', 'ase', 'numba', 'tensorflow'} & set(sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.rstrip().endswith("0")


# ---- quickstart --------------------------------------------------------------------------------------------


def test_quickstart(tmp_path):
    folder = tmp_path / "new" / "folder"
    result = run("quickstart", "--output", folder, "--material", "moo3", "--max-iter", 30, "--seed", 1)
    assert result.exit_code == 0, result.output
    text = words(result.stdout)
    assert "81 structures of 16 atoms, forces from DFT" in text
    assert "65 to learn from; 16 held out for the test, one in 5 of each temperature" in text
    assert "Mo-O below 2.8 Angstrom" in text
    assert "O 12 1 Mo, 2 Mo, 3 Mo (4 each) 26 26 104 of 172" in text
    assert "Mo 4 6 O 37 38 151 of 172" in text
    assert "read back: exactly the same forces" in text
    rmse, zero = re.search(r"^ *all +768 +([\d.]+) +([\d.]+)", result.stdout, flags=re.MULTILINE).groups()
    assert float(rmse) < 0.6 * float(zero)

    model, metadata = load_model(folder / "moo3.tinynet", return_metadata=True)
    assert metadata["data"] == "moo3"
    assert metadata["test_rmse"] == pytest.approx(float(rmse), abs=5e-4)
    data = load_moo3()
    test = np.isin(data.frames, metadata["test_frames"])
    predicted = model.predict(
        [atoms for atoms, held_out in zip(data.structures, test, strict=True) if held_out]
    )
    error = predicted.values - data.target[test].values
    assert np.sqrt((error**2).mean()) == pytest.approx(metadata["test_rmse"])
    assert (folder / "moo3-parity.png").read_bytes().startswith(b"\x89PNG")


def test_quickstart_learns_both_materials(tmp_path):
    result = run("quickstart", "--output", tmp_path, "--max-iter", 1)
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["batio3-parity.png", "batio3.tinynet", "moo3-parity.png", "moo3.tinynet"]


def test_quickstart_output_must_be_a_folder(salt_file):
    result = run("quickstart", "--output", salt_file)
    assert result.exit_code == 2
    assert "is a file; name a folder." in words(result.output)


def test_quickstart_checks_the_folder_before_the_training(salt_file, monkeypatch):
    monkeypatch.setattr("tinynet_sklearn.quickstart.train", lambda *_: pytest.fail("trained"))
    folder = salt_file / "models"
    result = run("quickstart", "--output", folder)
    assert result.exit_code == 2
    text = re.sub(r"[│╭╮╰╯─\s]", "", result.stderr)
    assert f"cannot write to {folder}: Not a directory; name another folder.".replace(" ", "") in text


@pytest.mark.parametrize("arguments", [("--material", "gold"), ("--max-iter", 0), ("--seed", -1)])
def test_quickstart_wrong_usage(arguments):
    assert run("quickstart", *arguments).exit_code == 2


# ---- inspect -----------------------------------------------------------------------------------------------


def test_inspect(moo3_file):
    result = run("inspect", moo3_file, "--bonds", "Mo-O=2.8")
    assert result.exit_code == 0, result.output
    text = words(result.stdout)
    assert "81 frames of 16 atoms, Mo4O12, periodic along a, b, c" in text
    assert (
        "Bonds of the mean Mo4O12 with bonds={'Mo-O': 2.8} species atoms bonded to Mo 4 6 O O 4 1 Mo" in text
    )
    assert "Mo-O 24 1.59 2.53 3.19" in text
    assert "Mo4O12: yes, all of 81 frames." in text
    assert "in 81 of 81 frames components: RMS 0.855 (O 0.717, Mo 1.18), largest 7.5 eV/Angstrom" in text
    assert "What looks wrong Nothing." in text
    assert "█" in text
    data = load_moo3()
    featurizer = CycleMomentFeaturizer(n=4, N=2, bonds=data.bonds).fit(data.structures)
    lengths = re.search(r"^ +4 +(.*)$", result.stdout.split("Vector lengths")[1], flags=re.MULTILINE)
    assert lengths.group(1).split()[2] == str(featurizer.n_features_out_)


def test_inspect_names_frames_with_other_bonds(moo3_file):
    result = run("inspect", moo3_file, "--bonds", "Mo-O=2.45")
    assert result.exit_code == 0, result.output
    text = words(result.stdout)
    assert "Mo4O12: no, 21 of 81 frames differ from the mean structure: 3, 5, 6, 8, 9" in text
    assert "(21 in all)" in text
    assert "Cutoffs between the shells: Mo-O=2.85" in text


def test_inspect_as_json(moo3_file):
    result = run("inspect", moo3_file, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["n_frames"] == 81
    assert found["topologies"][0]["coordination"]["Mo"] == {"6 O": 4}


@pytest.mark.parametrize("as_json", [False, True])
def test_inspect_exits_with_1_if_something_looks_wrong(tmp_path, as_json):
    path = tmp_path / "mixed.extxyz"
    write(path, [molecule("H2O"), molecule("CH4"), molecule("H2O")])
    result = run("inspect", path, "--bonds", "natural", *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert "Frames of 2 different sets of atoms (H2O, CH4)" in words(result.stdout)


def test_inspect_an_element(tmp_path):
    path = tmp_path / "cu.extxyz"
    write(path, bulk("Cu", cubic=True))
    result = run("inspect", path)
    assert result.exit_code == 1
    text = words(result.stdout)
    assert "Vector lengths None: the mean Cu4 has no bonds. Forces" in text
    assert (
        "- No bonds in Cu4 with bonds=3.1: a single number bonds different species only; name the pair, as "
        "in Cu-Cu=3.1 (between the first shells)."
    ) in text


def test_inspect_with_a_cutoff_in_picometres(tmp_path):
    path = tmp_path / "cu.extxyz"
    write(path, bulk("Cu", cubic=True))
    result = run("inspect", path, "--bonds", "310")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "error: a cutoff of 310 Angstrom would give about 1.1e+07 neighbours of each atom, 4.2e+07 pairs in "
        "all; up to 100,000 and 50,000,000 are allowed. Is it in picometres? Cutoffs are in Angstrom.\n"
    )


def test_inspect_too_long_vectors(tmp_path):
    path = tmp_path / "salt.extxyz"
    write(path, bulk("NaCl", "rocksalt", a=5.64, cubic=True).repeat(5))
    result = run("inspect", path, "--bonds", "3.0")
    assert result.exit_code == 0, result.output
    assert "too many" in result.stdout
    assert "≤" in result.stdout
    assert "1 frame of 1000 atoms" in words(result.stdout)


def test_inspect_a_file_with_many_sets_of_atoms(tmp_path):
    path = tmp_path / "molecules.extxyz"
    write(path, [molecule(name) for name in ("H2O", "CH4", "NH3", "C2H6", "CO2", "HCN", "C2H4")])
    result = run("inspect", path, "--bonds", "natural")
    assert result.exit_code == 1
    assert "... and 2 more sets of atoms" in result.stdout
    assert "1 frame of 3 atoms, H2O, not periodic" in words(result.stdout)


def test_inspect_a_file_that_is_not_there(tmp_path):
    path = tmp_path / "nothing.xyz"
    result = run("inspect", path)
    assert result.exit_code == 2
    assert result.stderr == f"error: cannot read {path}: there is no such file.\n"
    assert result.stdout == ""


def test_inspect_a_broken_file(tmp_path):
    path = tmp_path / "broken.extxyz"
    path.write_text("3\n\nH 0 0 0\n")
    result = run("inspect", path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: cannot read {path}: XYZError")
    assert "Traceback" not in result.output


def test_inspect_frames_that_cannot_be_used(tmp_path):
    path = tmp_path / "nan.xyz"
    path.write_text("1\n\nH 0 0 nan\n")
    result = run("inspect", path)
    assert result.exit_code == 1
    assert "Atom 0: position is [ 0. 0. nan]; remove it. [frames 0]" in words(result.stdout)


@pytest.mark.parametrize(
    ("text", "bonds"),
    [
        ("3.1", 3.1),
        ("natural", "natural"),
        ("Ba-O=3.6,Ti-O=2.7", {"Ba-O": 3.6, "Ti-O": 2.7}),
        ("Ba-O = 3.6, Ti-O = 2.7", {"Ba-O": 3.6, "Ti-O": 2.7}),
    ],
)
def test_bonds_option(text, bonds):
    assert parse_bonds(text) == bonds


@pytest.mark.parametrize("text", ["wide", "Ba-O=wide", "Ba-O=3=4", "", "Ba-O=3.6,"])
def test_bonds_option_that_makes_no_sense(text):
    with pytest.raises(ValueError, match="bonds") as error:
        parse_bonds(text)
    assert str(error.value) == (
        f"bonds must be a cutoff (3.1), 'natural', or cutoffs by pair (Ba-O=3.6,Ti-O=2.7), got {text!r}."
    )


@pytest.mark.parametrize("text", ["-1", "nan", "Xx-O=3", "Ba=3", "Ba-O=-3"])
def test_bonds_option_is_checked_before_the_file_is_read(text, tmp_path):
    result = run("inspect", tmp_path / "nothing.xyz", "--bonds", text)
    assert result.exit_code == 2
    assert "Invalid value for --bonds" in words(result.stderr)
