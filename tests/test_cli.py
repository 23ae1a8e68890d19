"""The command line: what it prints, writes and returns."""

import json
import re
import signal
import subprocess
import sys
import tarfile
import warnings
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import as_file, files

import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.constraints import FixCom
from ase.io import read, write
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from typer.testing import CliRunner

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CycleMomentFeaturizer,
    SmoothMomentFeaturizer,
    __version__,
    load_model,
    load_moo3,
    save_model,
    suggest_bonds,
)
from tinynet_sklearn.cli import app
from tinynet_sklearn.cli_options import parse_supercell
from tinynet_sklearn.cli_simulation import _progress
from tinynet_sklearn.learning_settings import parse_bonds


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


@pytest.mark.parametrize("command", ["quickstart", "inspect", "md"])
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
    rmse, zero = re.search(
        r"^ *forces +all +768 +([\d.]+) +[\d.]+ +([\d.]+)", result.stdout, flags=re.MULTILINE
    ).groups()
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
    result = run("quickstart", "--output", tmp_path, "--max-iter", 1, "--json")
    assert result.exit_code == 0, result.output
    assert "Training one 16x32 network per species" in words(result.stderr)
    found = json.loads(result.stdout)
    assert [learned["data"] for learned in found] == ["batio3", "moo3"]
    for learned in found:
        _, metadata = load_model(learned["model"], return_metadata=True)
        assert learned["errors"][0]["rmse"] == learned["test_rmse"] == metadata["test_rmse"]
        assert learned["identical"] is True
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["batio3-parity.png", "batio3.tinynet", "moo3-parity.png", "moo3.tinynet"]


def test_quickstart_replaces_no_models_of_others(tmp_path, monkeypatch):
    mine = tmp_path / "moo3-parity.png"
    mine.write_text("mine")
    arguments = ("quickstart", "--material", "moo3", "--max-iter", 1)
    result = run(*arguments, "--output", tmp_path)
    assert result.exit_code == 2
    assert "moo3-parity.png exists; name another file, or replace it with --force." in words(result.stderr)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
    assert run(*arguments, "--output", tmp_path, "--force").exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert [run(*arguments).exit_code for _ in range(2)] == [0, 0]


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
    path = tmp_path / "copies.extxyz"
    write(path, [molecule("H2O"), molecule("CH4"), molecule("H2O")])
    result = run("inspect", path, "--bonds", "natural", *(["--json"] if as_json else []))
    assert result.exit_code == 1
    assert "Copies of earlier frames (2 = 0)" in words(result.stdout)


def liquid(seed):
    """Places of a crystal that is not cold, atoms in any of them."""
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.rattle(0.15, seed=seed)
    atoms.positions = np.random.default_rng(seed).permutation(atoms.positions)
    return atoms


def test_inspect_a_liquid(tmp_path):
    """Nothing is wrong with frames that share no bonds; there are featurizers for them."""
    path = tmp_path / "liquid.extxyz"
    frames = [liquid(seed) for seed in range(3)]
    write(path, frames)
    bonds = suggest_bonds(frames)
    named = f"Cu-Cu={bonds['Cu-Cu']:g}"
    result = run("inspect", path, "--bonds", 3.1)
    text = words(result.stdout)
    assert result.exit_code == 1
    assert "Same bonds in all frames? Cu32: there are no bonds. Vector lengths None" in text
    assert (
        "No bonds in Cu32 with bonds=3.1: a single number bonds different species only; pass the suggested "
        f"ones, bonds={bonds}, or --bonds {named}."
    ) in text
    result = run("inspect", path)
    text = words(result.stdout)
    assert run("inspect", path, "--bonds", named).stdout == result.stdout
    assert "Bonds of Cu32, all 3 frames together, with bonds=" in text
    assert "Same bonds in all frames? Cu32: no, the 3 frames share no bond graph." in text
    assert (
        "Vector lengths None: the frames of Cu32 share no bond graph. With topology='each', fit learns the "
        "length from all of them."
    ) in text
    assert re.search(
        r"Notes - No bonds in common: for example, atoms \d+ and \d+ are \d\.\d\d Angstrom apart in frame "
        r"\d and \d\.\d\d in the mean structure\. CycleMomentFeaturizer\(topology='each'\) and "
        r"SmoothMomentFeaturizer\(\) take such frames as they are; CycleMomentFeaturizer\(\) takes one set "
        r"of atoms in one order, with the same bonds in all frames\. - No frame has forces",
        text,
    )
    assert "What looks wrong Nothing." in text
    assert result.exit_code == 0


def test_inspect_slabs_and_crystals(tmp_path):
    path = tmp_path / "mixed.extxyz"
    slab, crystal = fcc111("Cu", (2, 2, 3), vacuum=6.0), bulk("Cu", cubic=True)
    slab.info.clear()  # what the file could not hold
    write(path, [slab, crystal, crystal * (1, 1, 2), rattled(slab), rattled(crystal)])
    result = run("inspect", path, "--bonds", "Cu-Cu=3.1")
    assert result.exit_code == 0, result.output
    text = words(result.stdout)
    assert "Same bonds in all frames? No: 3 sets of different atoms. Cu12: yes, all of 2 frames." in text
    assert "Vector lengths of Cu12 alone, entries per atom" in text
    assert "What looks wrong Nothing." in text
    assert (
        "Notes - Frames of 3 different sets of atoms (Cu12, Cu4, Cu8). "
        "CycleMomentFeaturizer(topology='each') and SmoothMomentFeaturizer() take such frames as they are; "
        "CycleMomentFeaturizer() takes one set of atoms in one order, with the same bonds in all frames. - "
        "No frame has forces"
    ) in text


def rattled(atoms):
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=0)
    return atoms


def test_inspect_an_element(tmp_path):
    path = tmp_path / "cu.extxyz"
    write(path, bulk("Cu", cubic=True))
    result = run("inspect", path)
    assert result.exit_code == 0
    assert "Bonds of the mean Cu4 with bonds={'Cu-Cu': 3.1}" in words(result.stdout)
    result = run("inspect", path, "--bonds", 3.1)
    assert result.exit_code == 1
    text = words(result.stdout)
    assert "Vector lengths None: the mean Cu4 has no bonds. Forces" in text
    assert (
        "- No bonds in Cu4 with bonds=3.1: a single number bonds different species only; pass the suggested "
        "ones, bonds={'Cu-Cu': 3.1}, or --bonds Cu-Cu=3.1."
    ) in text


def test_inspect_whatever_fit_reads(tmp_path):
    frames = [bulk("MgO", "rocksalt", a=4.2, cubic=True) for _ in range(3)]
    for k, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=k)
    (tmp_path / "runs" / "inner").mkdir(parents=True)
    write(tmp_path / "runs" / "one.extxyz", frames[:2])
    write(tmp_path / "runs" / "inner" / "two.traj", frames[2])
    with tarfile.open(tmp_path / "runs.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "runs", "runs")
    for name in ("runs", "runs.tar.gz"):
        result = run("inspect", tmp_path / name, "--bonds", "2.6")
        assert result.exit_code == 0, result.output
        assert "3 frames of 8 atoms" in words(result.stdout)


def test_inspect_an_empty_folder(tmp_path):
    result = run("inspect", tmp_path)
    assert result.exit_code == 1
    assert words(result.stderr) == (
        f"error: cannot read {tmp_path}: there are no structures in a format that is known. Name the files "
        "themselves."
    )


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
    assert result.exit_code == 0, result.output
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
    assert result.stderr.startswith(
        f"error: cannot read {path}: ValueError: the file ends after 1 of 3 atoms"
    )
    assert "Traceback" not in result.output


def test_inspect_frames_that_cannot_be_used(tmp_path):
    path = tmp_path / "nan.xyz"
    path.write_text("1\n\nH 0 0 nan\n")
    result = run("inspect", path)
    assert result.exit_code == 1
    assert "Atom 0: position is [ 0. 0. nan]; remove it. [frame 0]" in words(result.stdout)


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


# ---- md ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models: with an energy, of forces alone, of numbers that are no forces, without a crystal."""
    folder, data = tmp_path_factory.mktemp("models"), load_moo3()
    few, crystal = data.structures[:8], {"n": 2, "N": 1, "bonds": data.bonds}
    energy = make_pipeline(
        CycleMomentFeaturizer(**crystal, coordinates="distances"),
        BPNNPotential((4,), max_iter=5, random_state=0),
    )
    net = BPNNRegressor((4,), symmetry_average=False, max_iter=5, random_state=0)
    smooth = make_pipeline(SmoothMomentFeaturizer(n=2, cutoff=3.0), BPNNPotential((2,), max_iter=2))
    each = make_pipeline(
        CycleMomentFeaturizer(n=2, N=0, bonds=data.bonds, topology="each", coordinates="distances"),
        BPNNPotential((2,), max_iter=2),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        save_model(energy.fit(few, {"forces": data.target[:8]}), folder / "energy.tinynet")
        direct = make_pipeline(CycleMomentFeaturizer(**crystal), net).fit(few, data.target[:8])
        save_model(direct, folder / "direct.tinynet")
        numbers = [atoms.positions[:, :2] for atoms in few]
        save_model(direct.fit(few, numbers), folder / "numbers.tinynet")
        save_model(smooth.fit(few, {"forces": data.target[:8]}), folder / "smooth.tinynet")
        save_model(each.fit(few, {"forces": data.target[:8]}), folder / "each.tinynet")
    return folder


def test_md_of_a_bundled_potential(tmp_path):
    folder = tmp_path / "run"
    result = run("md", "moo3", "--steps", 20, "--interval", 5, "--supercell", "1x1x2", "--output", folder)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""  # no progress bar where there is no terminal
    text = words(result.stdout)
    assert "NVT (langevin) of Mo8O24, 32 atoms forces: gradient of an energy 20 of 20 steps, 0.02 ps" in text
    assert re.search(r"temperature: [\d.]+ K, standard deviation [\d.]+ K \(canonical: 44\)", text)
    assert re.search(r"drift of the conserved energy: \S+ meV/atom/ps", text)
    assert "(extrapolated: the model learned no stress)" in text
    assert re.search(
        r"atoms outside of the training data: \S+ on average, at most \d+, in \d+% of the frames", text
    )
    assert re.search(r"time: \S+ ms per step, \S+ microseconds per atom", text)
    assert "dynamics.png, energies.csv, state.npz, summary.json, trajectory.traj" in text
    frames = read(folder / "trajectory.traj", ":")
    assert len(frames) == 5
    assert frames[0].get_temperature() == pytest.approx(300 * 31 / 32)  # ASE counts 3N


def test_md_continues(tmp_path, moo3_file):
    command = (
        "md",
        "moo3",
        moo3_file,
        "--interval",
        2,
        "--ensemble",
        "nve",
        "--equilibration",
        4,
        "--seed",
        3,
    )
    whole = run(*command, "--steps", 12, "--output", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    for steps in (4, 12):
        part = run(*command, "--steps", steps, "--output", tmp_path / "run", "--restart", "--json")
        assert part.exit_code == 0, part.output
        summary = json.loads(part.stdout)
        assert summary["steps"] == steps
        assert summary["settings"]["ensemble"] == "nve"
    for name in ("trajectory.traj", "energies.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_md_interrupted(number, code, tmp_path, monkeypatch):
    @contextmanager
    def interrupting(*_):
        yield lambda step, temperature: signal.raise_signal(number) if step == 4 else None

    monkeypatch.setattr("tinynet_sklearn.cli_simulation._progress", interrupting)
    result = run("md", "moo3", "--steps", 10, "--interval", 2, "--output", tmp_path / "run")
    assert result.exit_code == code
    assert result.stderr == f"error: interrupted by {number.name}; continue with --restart.\n"
    assert "4 of 10 steps, 0.004 ps (not finished)" in words(result.stdout)


def test_md_interrupted_in_the_equilibration(tmp_path, monkeypatch):
    @contextmanager
    def interrupting(*_):
        yield lambda step, temperature: signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("tinynet_sklearn.cli_simulation._progress", interrupting)
    result = run("md", "moo3", "--equilibration", 10, "--output", tmp_path / "run")
    assert result.exit_code == 130
    text = words(result.stdout)
    assert "10 steps before the end of the equilibration (not finished) Production Not reached." in text


def test_md_with_forces_alone(models, moo3_file, tmp_path):
    result = run("md", models / "direct.tinynet", moo3_file, "--steps", 4, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    text = words(result.stdout)
    assert "forces: predicted directly, gradient of no energy; the table has none" in text
    assert "drift" not in text
    result = run(
        "md", models / "direct.tinynet", moo3_file, "--ensemble", "nve", "--output", tmp_path / "nve"
    )
    assert result.exit_code == 2
    assert result.stderr.startswith(
        "error: a model that predicts forces alone needs --ensemble nvt with --thermostat langevin"
    )
    assert not (tmp_path / "nve").exists()


def test_md_at_constant_pressure(models, tmp_path):
    result = run(
        "md", models / "energy.tinynet", "--ensemble", "npt", "--cell", "isotropic", "--steps", 4, "--format",
        "extxyz", "--output", tmp_path / "run",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    text = words(result.stdout)
    assert "NPT (isotropic cell) of Mo4O12" in text
    assert re.search(r"volume: 12\.\d+ cubic Angstrom/atom", text)
    assert len(read(tmp_path / "run" / "trajectory.extxyz", ":")) == 2


def test_md_that_blows_up(models, tmp_path):
    folder = tmp_path / "run"
    result = run("md", models / "energy.tinynet", "--timestep", 500, "--interval", 1, "--output", folder)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert re.match(r"error: the run ended at step \d+ \(\S+ ps\): ", result.stderr)
    assert f"Everything before it is in '{folder}'." in result.stderr
    assert "calculator of their own" not in result.stderr  # nobody makes one here
    assert read(folder / "trajectory.traj", ":")


def test_md_stops_where_the_model_was_not_trained(tmp_path):
    result = run("md", "moo3", "--temperature", 3000, "--stop-on-extrapolation", "--output", tmp_path / "run")
    assert result.exit_code == 1
    assert "are in surroundings that the model was not trained on" in words(result.stderr)
    assert "leave out --stop-on-extrapolation to go on" in words(result.stderr)


@pytest.fixture
def old_model(models, tmp_path):
    """A file of a model as early versions saved it: without the ranges of its inputs."""
    model = load_model(models / "energy.tinynet")
    networks = model[-1].atom_networks_
    for label, network in networks.items():
        networks[label] = replace(network, inputs=replace(network.inputs, low=None, high=None))
    save_model(model, tmp_path / "old.tinynet")
    return tmp_path / "old.tinynet"


def test_md_of_models_that_cannot_tell_extrapolations(old_model, tmp_path):
    arguments = ("md", old_model, "--steps", 2, "--output", tmp_path / "run")
    result = run(*arguments, "--stop-on-extrapolation")
    assert result.exit_code == 2
    assert (
        "--stop-on-extrapolation needs a model that knows the ranges of its inputs in training; this "
        "BPNNPotential does not (models saved by early versions do not, nor do committees). Fit it again, or "
        "leave out --stop-on-extrapolation."
    ) in words(result.stderr)
    assert not (tmp_path / "run").exists()
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "atoms outside of the training data: unknown to this model" in words(result.stdout)


def test_md_of_another_folder(tmp_path):
    folder = tmp_path / "run"
    arguments = ("md", "moo3", "--steps", 4, "--interval", 1, "--output", folder)
    assert run(*arguments).exit_code == 0
    again = run(*arguments)
    assert again.exit_code == 2
    assert "--output must be free of an earlier run" in words(again.stderr)
    assert "or continue the run with --restart." in words(again.stderr)
    (folder / "state.npz").unlink()
    size = (folder / "trajectory.traj").stat().st_size
    again = run(*arguments, "--restart", "--temperature", 900)
    assert again.exit_code == 2
    assert "error: --restart needs a folder with state.npz, or one without a run;" in words(again.stderr)
    assert (folder / "trajectory.traj").stat().st_size == size


def test_md_of_structures_that_cannot_be_read(tmp_path):
    (tmp_path / "start.cif").write_text("nonsense")
    result = run("md", "moo3", tmp_path / "start.cif", "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "error: cannot read" in words(result.stderr)
    assert not (tmp_path / "run").exists()


def test_md_of_structures_with_constraints(tmp_path):
    atoms = load_moo3().structures[0]
    atoms.set_constraint(FixCom())
    atoms.write(tmp_path / "start.traj")
    arguments = ("md", "moo3", tmp_path / "start.traj", "--output", tmp_path / "run")
    result = run(*arguments)
    assert result.exit_code == 2
    assert words(result.stderr) == (
        "error: atoms may have the constraint FixAtoms; got FixCom. Remove it from the file of the structure."
    )
    result = run(*arguments, "--supercell", "2")
    assert result.exit_code == 2
    assert words(result.stderr) == (
        "error: structure must have no constraints but FixAtoms to be repeated; got FixCom. Remove them from "
        f"{tmp_path / 'start.traj'}."
    )
    result = run("export", *arguments[1:], "--lammps")
    assert result.exit_code == 2
    assert "structure must have no constraints to be written for LAMMPS; got FixCom." in words(result.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gold",), "Invalid value for MODEL: gold is neither a file nor one of batio3, moo3."),
        (
            ("moo3", "--supercell", "2x2"),
            "Invalid value for --supercell: supercell must be one number (2) or three (4x4x2), each at least "
            "1, "
            "got '2x2'.",
        ),
        (("moo3", "nothing.xyz"), "error: cannot read nothing.xyz: there is no such file."),
        (("moo3", "--temperature", "-5"), "error: --temperature must be a positive number; got -5.0."),
        (
            ("moo3", "--pressure", "2"),
            "error: --pressure must be 0 at constant volume; got 2 GPa with --ensemble nvt. Use --ensemble "
            "npt.",
        ),
        (
            ("moo3", "--pressure-time-constant", "0"),
            "error: --pressure-time-constant must be a positive number; got 0.0.",
        ),
        ((".",), "Invalid value for MODEL: "),
        (("moo3", "--steps", "0"), "Invalid value for '--steps':"),
        (
            ("moo3", "--keep-velocities"),
            "error: --keep-velocities needs atoms with velocities; got atoms at rest. Without it they are "
            "drawn.",
        ),
    ],
)
def test_md_wrong_usage(arguments, message, tmp_path):
    result = run("md", *arguments, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert message in words(result.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_md_of_joined_features(tmp_path):
    """The crystal is known to the featurizer of the union that was fitted on one."""
    data = load_moo3()
    union = FeatureUnion(
        [
            ("sums", SmoothMomentFeaturizer(n=2, cutoff=3.0)),
            ("cycles", CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds)),
        ]
    )
    pipe = Pipeline([("embed", union), ("net", BPNNRegressor((2,), max_iter=2))])
    save_model(pipe.fit(data.structures[:8], data.target[:8]), tmp_path / "joined.tinynet")
    result = run("md", tmp_path / "joined.tinynet", "--steps", 2, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert len(read(tmp_path / "run" / "trajectory.traj", ":")[0]) == 16


def test_md_models_that_cannot_be_used(models, tmp_path):
    result = run("md", models / "numbers.tinynet", "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "error: atoms must have a calculator with forces; got one with ldos." in words(result.stderr)
    result = run("md", models / "smooth.tinynet", "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "the model was fitted on no single crystal; name a structure." in words(result.stderr)
    (tmp_path / "text.tinynet").write_text("text")
    result = run("md", tmp_path / "text.tinynet", "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "is no zip archive." in words(result.stderr)


def test_md_of_another_crystal(salt_file, tmp_path):
    result = run("md", "moo3", salt_file, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: structure")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("text", "cells"), [("1", (1, 1, 1)), ("3", (3, 3, 3)), ("4x4x2", (4, 4, 2))])
def test_supercell_option(text, cells):
    assert parse_supercell(text) == cells


@pytest.mark.parametrize("text", ["", "0", "2x2", "2x0x2", "2x2x2x2", "-1", "1.5", "two"])
def test_supercell_option_that_makes_no_sense(text):
    with pytest.raises(ValueError, match="supercell") as error:
        parse_supercell(text)
    assert str(error.value) == (
        f"supercell must be one number (2) or three (4x4x2), each at least 1, got {text!r}."
    )


def test_progress_is_for_terminals(monkeypatch):
    """The bar counts the equilibration, too."""
    seen = []
    monkeypatch.setattr("rich.progress.Progress.update", lambda _, task, **what: seen.append(what))
    with _progress(100, 400) as show:
        show(-100, 300.0)
        show(200, 310.4)
    assert seen == [
        {"completed": 0, "description": "equilibration, 300 K"},
        {"completed": 300, "description": "production, 310 K"},
    ]


# ---- tinynet export ----------------------------------------------------------------------------------------


def test_export_for_lammps(tmp_path):
    folder = tmp_path / "run"
    arguments = ("export", "moo3", "--lammps", "--supercell", "2x1x2", "--output", str(folder))
    found = run(*arguments, "--temperature", "250", "--json")
    assert found.exit_code == 0, found.stderr
    assert sorted(json.loads(found.stdout)["written"]) == sorted(map(str, folder.iterdir()))
    assert sorted(path.name for path in folder.iterdir()) == [
        "in.run", "in.setup", "model.tinynet", "run.py", "structure.data", "structure.extxyz",
    ]  # fmt: skip
    assert "250.0" in (folder / "in.run").read_text()
    assert len(read(folder / "structure.extxyz")) == 64
    again = run(*arguments)
    assert again.exit_code == 2
    assert "must not hold files of an earlier export" in words(again.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("moo3", "--temperature", "-1"), "error: --temperature must be positive; got -1.0."),
        ((".",), "Invalid value for MODEL: "),
    ],
)
def test_export_wrong_usage(arguments, message, tmp_path):
    found = run("export", *arguments, "--lammps", "--output", tmp_path / "run")
    assert found.exit_code == 2
    assert message in words(found.stderr)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "got"),
    [
        ("each", "topology='each', where every structure has a graph of its own"),
        ("smooth", "SmoothMomentFeaturizer, which has no graph"),
    ],
)
@pytest.mark.parametrize("with_structure", [False, True])
def test_export_of_models_without_a_frozen_graph(models, salt_file, name, got, with_structure, tmp_path):
    """No structure is asked for: none would help."""
    structure = [salt_file] if with_structure else []
    found = run("export", models / f"{name}.tinynet", *structure, "--lammps", "--output", tmp_path / "run")
    assert found.exit_code == 2
    assert words(found.stderr).endswith(
        "Invalid value for MODEL: model must have a frozen bond graph to run in LAMMPS, "
        f"CycleMomentFeaturizer(topology='reference'); got {got}. Run it with TinyNetCalculator and "
        "run_dynamics, or tinynet md."
    )
    assert not (tmp_path / "run").exists()


def test_export_for_nothing(tmp_path):
    found = run("export", "moo3", "--output", str(tmp_path / "run"))
    assert found.exit_code == 2
    assert "is needed: it is the one program that models are written for." in words(found.stderr)
