"""The commands fit, grid, evaluate and predict: what they print, write and return."""

# ruff: noqa: E501
import csv
import json
import os
import re
import shlex
import shutil
import tarfile
import tomllib
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from numpy.testing import assert_array_equal
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from test_docs import ROOT, code_blocks
from typer.testing import CliRunner

from tinynet_sklearn import (
    BPNNRegressor,
    CommitteeRegressor,
    CycleMomentFeaturizer,
    PerAtomArray,
    learning_grids,
    load_model,
    save_model,
)
from tinynet_sklearn.cli import app
from tinynet_sklearn.cli_config import toml_text
from tinynet_sklearn.cli_options import in_options
from tinynet_sklearn.learning_data import hold_out, read_for
from tinynet_sklearn.learning_files import write_predictions
from tinynet_sklearn.learning_settings import FitSettings, SettingsError
from tinynet_sklearn.per_atom_regressor import PerAtomRegressor
from tinynet_sklearn.recorder import Recorder

QUICK = ("--split", "random", "--max-iter", 5, "--hidden", 4)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def words(text):
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """An empty folder with one file."""
    with as_file(files("tinynet_sklearn") / "data" / "moo3_gpaw.extxyz") as data:
        shutil.copy(data, tmp_path / "frames.extxyz")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "frames.extxyz"


@pytest.fixture
def molecules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    found = []
    for name in ["H2O", "CH4", "NH3"] * 4:
        atoms = molecule(name)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=0.0, forces=rng.normal(size=atoms.positions.shape))
        found.append(atoms)
    write("molecules.extxyz", found)
    return found


def test_fit_tells_what_it_decided_and_writes_the_model(frames):
    result = run("fit", "frames.extxyz", *QUICK, "--plot", "p.png", "--loss-plot", "l.pdf")
    assert result.exit_code == 0, result.output
    text = words(result.stdout)
    assert "81 structures of O, Mo in 1 file held out: structures drawn at random" in text
    assert "65 to learn from, 16 held out" in text
    assert "--bonds Mo-O=2.7, from the distances in the training structures" in text
    assert "--topology frozen: all structures to learn from share one bond graph" in text
    assert "forces all 768" in text
    assert sorted(path.name for path in frames.parent.iterdir()) == [
        "frames.extxyz", "l.pdf", "model.tinynet", "p.png",
    ]  # fmt: skip
    assert load_model("model.tinynet")["net"].hidden_layer_sizes == (4,)


@pytest.mark.usefixtures("frames")
def test_the_end_of_a_file_is_held_out_by_default():
    result = run("fit", "frames.extxyz", "--max-iter", 3, "--hidden", 2, "--json")
    card = json.loads(result.stdout)
    assert card["split"]["description"] == "the last 20% of the file, in the order of the frames"
    assert card["split"]["test_frames"] == {"frames.extxyz": "65-80"}


@pytest.mark.usefixtures("frames")
def test_a_run_is_repeated_from_its_settings():
    first = run("fit", "frames.extxyz", *QUICK, "--write-config", "run.toml", "--json")
    settings = tomllib.loads(Path("run.toml").read_text())
    assert settings["bonds"] == "Mo-O=2.7"
    assert settings["split"] == "random"
    again = run("fit", "--config", "run.toml", "--output", "again.tinynet", "--json")
    assert again.exit_code == 0, again.output
    one, two = (json.loads(result.stdout) for result in (first, again))
    assert one["held_out_errors"] == two["held_out_errors"]
    other = run("fit", "--config", "run.toml", "--max-iter", 3, "--output", "other.tinynet", "--json")
    assert json.loads(other.stdout)["settings"]["max-iter"] == 3


@pytest.mark.usefixtures("frames")
def test_the_command_line_overrules_what_a_file_says():
    Path("run.toml").write_text(
        'data = ["frames.extxyz"]\ntopology = "frozen"\nbonds = "Mo-O=2.7"\nn = 2\nN = 1\npaths = "all"\n'
        'split = "random"\n"max-iter" = 2\nhidden = "2"\n'
    )
    smooth = run("fit", "--config", "run.toml", "--topology", "smooth", "--json")
    assert smooth.exit_code == 0, smooth.output
    settings = json.loads(smooth.stdout)["settings"]
    assert (settings["topology"], settings["n"], "bonds" in settings) == ("smooth", 2, False)
    write("test.extxyz", read("frames.extxyz", ":8"))
    held_out = run("fit", "--config", "run.toml", "--test", "test.extxyz", "--json", "--force")
    assert held_out.exit_code == 0, held_out.output
    assert json.loads(held_out.stdout)["split"]["method"] == "file"
    both = run("fit", "--config", "run.toml", "--topology", "smooth", "-N", 1, "--force")
    assert both.exit_code == 2
    assert both.stderr.startswith("error: -N is of bond graphs; got it with --topology smooth")


@pytest.mark.usefixtures("frames")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n = 2\nfoo = 3\n", "c.toml has settings that tinynet fit does not have: foo. It has data, target,"),
        ("n = [2, 3]\n", "c.toml: n must be a value; got [2, 3]."),
        ("n = \n", "c.toml is no TOML:"),
    ],
)
def test_config_files_that_are_refused(text, message):
    with open("c.toml", "w") as file:
        file.write(text)
    result = run("fit", "frames.extxyz", "--config", "c.toml")
    assert result.exit_code == 2
    assert message in words(result.stderr)


def test_toml_text_is_read_as_it_was():
    values = {"a": 'say "x"\\\x7f', "b": True, "c": 1e-7, "d": 3, "e": ["x", "y"]}
    assert tomllib.loads(toml_text(values, ["comment"])) == values


@pytest.mark.usefixtures("frames")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bonds", "x"), "--bonds must be a cutoff (3.1), 'natural', or cutoffs by pair (Ba-O=3.6,Ti-O=2.7), got 'x'."),
        (("--bonds", "O-Q=1.4"), "--bonds: 'Q' is not a chemical symbol; use names such as 'Ba' or 'O'."),
        (("--hidden", "16,32"), "--hidden must be the units of the hidden layers (16x32), or 0 for a linear model; got '16,32'."),
        (("--width", 0.2), "--width is for --target ldos; got it with --target forces. Leave it out."),
        (("--topology", "smooth", "-N", 1), "-N is of bond graphs; got it with --topology smooth, and smooth sums bond all within the cutoff. Leave it out."),
        (("--cutoff", 4, "--paths", "all"), "--paths is of bond graphs; got it with --cutoff, and smooth sums bond all within the cutoff. Leave it out."),
        (("--cutoff", 4, "-n", 6), "-n must be 2, 3 or 4 with --cutoff; got 6."),
        (("--test", "frames.extxyz"), "--test must leave structures to learn from; all 81 of DATA are in it, too (frames.extxyz, frame 0 for one). Name other files, or use --split to hold out a part."),
        (("--test-fraction", 1.5), "--test-fraction must be at least 0 and below 1; got 1.5. 0.2 holds out one structure in five."),
        (("--split", "groups"), "--split groups holds out whole files and runs, and there is one. Use --split blocks for the end of a trajectory, or --split random for independent structures."),
        (("--split", "file"), "--split file needs the file of the held-out structures; name it with --test."),
    ],
)  # fmt: skip
def test_wrong_usage_of_fit(arguments, message):
    result = run("fit", "frames.extxyz", *arguments)
    assert result.exit_code == 2
    assert result.stderr == f"error: {message}\n"
    assert os.listdir() == ["frames.extxyz"]


def test_files_are_not_replaced_without_force(frames):
    (frames.parent / "model.tinynet").write_text("mine")
    result = run("fit", "frames.extxyz", *QUICK)
    assert result.exit_code == 2
    assert "model.tinynet exists; name another file, or replace it with --force." in words(result.stderr)
    assert (frames.parent / "model.tinynet").read_text() == "mine"
    assert run("fit", "frames.extxyz", *QUICK, "--force").exit_code == 0


@pytest.mark.usefixtures("frames")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("fit", "frames.extxyz", "--output", "frames.extxyz"), "frames.extxyz is read; name another file."),
        (("fit", "frames.extxyz", "--output", "a.png", "--plot", "a.png"), "a.png is the file of --output; name another file."),
        (("grid", "frames.extxyz", "--grid", "n=2", "--output", "./frames.extxyz"), "frames.extxyz is read; name another file."),
        (("predict", "moo3", "frames.extxyz", "--output", "frames.extxyz"), "frames.extxyz is read; name another file."),
        (("evaluate", "a.png", "frames.extxyz", "--plot", "a.png"), "a.png is read; name another file."),
    ],
)  # fmt: skip
def test_what_is_read_is_never_replaced(frames, command, message):
    before = frames.read_bytes()
    result = run(*command, "--force")
    assert result.exit_code == 2
    assert message in words(result.stderr)
    assert frames.read_bytes() == before
    assert os.listdir() == ["frames.extxyz"]


@pytest.mark.parametrize(
    "command",
    [
        ("fit", "runs", "--output", "runs/a.extxyz"),
        ("fit", "packed", "--output", "packed/a.tar.gz"),
        ("fit", "frames.extxyz", "--test", "run*", "--output", "runs/a.extxyz"),
        ("grid", "runs/*.extxyz", "--grid", "n=2", "--output", "runs/a.extxyz"),
        ("fit", "deepmd", "--output", "deepmd/type.raw"),
        ("predict", "moo3", "runs", "--output", "runs/a.extxyz"),
        ("predict", "moo3", "deepmd", "--output", "deepmd/set.000/b.xyz"),
        ("evaluate", "moo3", "deepmd", "--plot", "deepmd/set.000/a.png"),
    ],
)
def test_what_is_found_in_folders_is_never_replaced(frames, command):
    for folder in ("runs", "packed", "deepmd/set.000"):
        Path(folder).mkdir(parents=True)
    write("runs/a.extxyz", found := read(frames, ":12"))
    with tarfile.open("packed/a.tar.gz", "w:gz") as archive:
        archive.add("runs/a.extxyz")
    arrays = {
        "coord": [atoms.positions.ravel() for atoms in found],
        "box": [atoms.cell.array.ravel() for atoms in found],
        "force": [atoms.get_forces().ravel() for atoms in found],
        "energy": [atoms.get_potential_energy() for atoms in found],
    }
    for name, values in arrays.items():
        np.save(f"deepmd/set.000/{name}.npy", values)
    Path("deepmd/type_map.raw").write_text("H O Mo")
    np.savetxt("deepmd/type.raw", np.searchsorted([1, 8, 42], found[0].numbers), fmt="%d")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    result = run(*command, "--force")
    assert result.exit_code == 2, result.output
    assert f"{command[-1]} would change what was read; name another file." in words(result.stderr)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("frames")
def test_bonds_of_species_that_are_not_there():
    result = run("fit", "frames.extxyz", *QUICK, "--bonds", "Mo-O=2.8,Mo-S=3")
    assert result.exit_code == 0, result.output
    assert "- --bonds has Mo-S, of which there are no atoms" in words(result.stdout)


@pytest.mark.usefixtures("frames")
@pytest.mark.parametrize("content", ["copies", "damaged"])
def test_files_of_which_nothing_was_taken_are_never_replaced(content):
    Path("runs").mkdir()
    shutil.copy("frames.extxyz", "runs/a.extxyz")
    output = Path("runs/b.extxyz")
    if content == "copies":
        write(output, read("frames.extxyz", ":5"))
    else:
        output.write_text("2\n\nH 0 0\nH 0 0\n")
    before = output.read_bytes()
    result = run("fit", "runs", *QUICK, "--skip-problems", "--output", output, "--force")
    assert result.exit_code == 2, result.output
    assert f"{output} would change what was read; name another file." in words(result.stderr)
    assert output.read_bytes() == before


def test_of_copies_the_one_is_kept_of_which_most_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = [bulk("Cu", cubic=True) for _ in range(6)]
    for k, atoms in enumerate(known):
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        atoms.get_forces()
    write("b.extxyz", known)
    for atoms in known:
        atoms.calc = SinglePointCalculator(atoms, forces=atoms.get_forces())
    write("a.extxyz", known)
    data, n_data = read_for(FitSettings(("a.extxyz", "b.extxyz"), target="potential"))
    assert n_data == 6
    assert np.isfinite(data.y.energy).all()
    assert [source.file for source in data.sources] == ["b.extxyz"] * 6


@pytest.mark.usefixtures("frames")
@pytest.mark.parametrize("command", [("fit",), ("grid", "--grid", "n=2", "--folds", 2)])
def test_copies_do_not_stand_on_both_sides_of_a_split(command):
    write("again.extxyz", read("frames.extxyz", "10:20"))
    result = run(command[0], "frames.extxyz", "again.extxyz", *command[1:], *QUICK, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found.get("data", found)["left_out"] == [
        "10 of 91 structures, which are copies of others (again.extxyz, frame 0 of frames.extxyz, frame 10 for one)"
    ]
    if "split" in found:
        assert (found["split"]["train"], found["split"]["test"]) == (65, 16)


def test_groups_held_out_come_near_the_fraction():
    settings = FitSettings(("x",))
    for sizes, wanted in (([40, 1], 1), ([10] * 6, 10), ([1, 1], 1)):
        groups = np.repeat(np.arange(len(sizes)), sizes)
        for seed in range(3):
            split = hold_out(replace(settings, seed=seed, split="groups"), groups, len(groups))
            assert len(split.test) == wanted
    most = hold_out(FitSettings(("x",), split="groups", test_fraction=0.9), np.arange(3), 3)
    assert len(most.train) == 1


def test_options_in_messages_of_densities_of_states():
    assert in_options("Pass energies= and width=, the rest") == "Pass --energies and --width, the rest"
    assert in_options("Pass zero='vbm' here") == "Pass --zero 'vbm' here"


@pytest.mark.usefixtures("molecules")
def test_messages_name_file_frame_and_options():
    result = run("fit", "molecules.extxyz", "--topology", "frozen", "--bonds", "natural")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1] == (
        "  molecules.extxyz, frame 1: it has 5 atoms, the reference 3; fit on structures of one crystal, one "
        "featurizer per crystal, or take --topology each or --topology smooth."
    )


@pytest.mark.usefixtures("molecules")
def test_structures_without_a_common_graph_get_smooth_sums():
    result = run("fit", "molecules.extxyz", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert card["settings"]["topology"] == "smooth"
    assert re.fullmatch(
        r"--topology smooth: \d of 10 structures to learn from do not share one bond graph "
        r"\(molecules\.extxyz, frame \d for one\)",
        card["training"]["remarks"][0],
    )


@pytest.mark.usefixtures("molecules")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-N", 1), "-N is of bond graphs, but {why}. Leave it out, which takes --topology smooth, or take --topology each."),
        (("--bonds", "natural"), "--bonds is of bond graphs, but {why}. Leave it out, which takes --topology smooth, or take --topology each."),
        (("-n", 6), "-n must be 2, 3 or 4 where {why}, which takes --topology smooth; got 6. Take one of these, or --topology each."),
    ],
)  # fmt: skip
def test_options_that_smooth_sums_do_not_have_are_not_dropped(arguments, message):
    why = "6 of 10 structures to learn from do not share one bond graph (molecules.extxyz, frame 1 for one)"
    result = run("fit", "molecules.extxyz", *arguments)
    assert result.exit_code == 2
    assert result.stderr == f"error: {message.format(why=why)}\n"


@pytest.mark.parametrize("copied", [False, True])
def test_structures_of_the_test_are_not_learned_from(frames, copied):
    folder = frames.parent / "runs"
    folder.mkdir()
    found = read(frames, ":")
    write(folder / "a.extxyz", found[:40])
    write(folder / "b.extxyz", found[40:])
    test = shutil.copy(folder / "b.extxyz", "copy.extxyz") if copied else "runs/b.extxyz"
    result = run("fit", "runs", "--test", test, *QUICK[2:], "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert (card["split"]["train"], card["split"]["test"], card["data"]["structures"]) == (40, 41, 81)
    assert card["data"]["left_out"] == [
        "41 of 81 structures to learn from, which --test holds out (runs/b.extxyz, frame 0 for one)"
    ]


def test_held_out_structures_do_not_decide_the_topology(frames):
    found = read(frames, ":20")
    for atoms in found[-2:]:  # of the four held out
        oxygen = int(np.flatnonzero(atoms.numbers == 8)[0])
        atoms.positions[oxygen] += 4.0
    write("broken.extxyz", found)
    result = run("fit", "broken.extxyz", *QUICK[2:])
    assert result.exit_code == 1
    assert result.stderr == (
        "error: 2 of 4 held-out structures do not share the bond graph of those to learn from (broken.extxyz, "
        "frame 18 for one), which --topology frozen needs. Take --topology smooth or --topology each, or leave "
        "them out with --skip-problems.\n"
    )
    result = run("fit", "broken.extxyz", *QUICK[2:], "--skip-problems", "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert (card["settings"]["topology"], card["split"]["test"]) == ("frozen", 2)
    assert card["data"]["left_out"] == [
        "2 of 4 held-out structures, which do not share the bond graph of those to learn from "
        "(broken.extxyz, frame 18 for one): the model refuses their like"
    ]


def test_predictions_that_are_worth_nothing_are_remarked_on(molecules):
    for atoms in molecules[-2:]:  # against what is learned
        atoms.calc.results["forces"] *= -0.01
    write("molecules.extxyz", molecules)
    result = run("fit", "molecules.extxyz", *QUICK[2:], "--json")
    remark = json.loads(result.stdout)["training"]["remarks"][-1]
    assert remark.startswith("held-out forces are predicted no better than by the trivial guess: RMSE ")


@pytest.fixture
def ctrl_c(monkeypatch):
    """Ctrl-C after 20 iterations. (No signal, which processes of background shells ignore.)"""
    step = Recorder.step

    def interrupted(recorder, *arguments):
        going_on = step(recorder, *arguments)
        if recorder.n_iter == 20:
            raise KeyboardInterrupt
        return going_on

    monkeypatch.setattr(Recorder, "step", interrupted)


@pytest.mark.usefixtures("frames", "ctrl_c")
def test_interrupted_fit_keeps_the_best_weights():
    result = run("fit", "frames.extxyz", "--max-iter", 1000)
    assert result.exit_code == 130, result.output
    assert result.stderr == "error: interrupted; model.tinynet has the best weights until then.\n"
    _, card = load_model("model.tinynet", return_metadata=True)
    assert card["training"]["interrupted"]


@pytest.mark.usefixtures("frames")
def test_grid_names_the_best():
    result = run(
        "grid",
        "frames.extxyz",
        *QUICK,
        "--grid",
        "n=2,12",
        "--grid",
        "N=1,2",
        "--folds",
        3,
        "--plot",
        "h.png",
    )
    assert result.exit_code == 0, result.output
    with open("grid.csv") as file:
        rows = list(csv.DictReader(file))
    errors = [float(row["forces_rmse"]) for row in rows if row["forces_rmse"]]
    assert errors == sorted(errors)
    assert rows[-1]["problem"].startswith("n=12, N=")
    command = shlex.split(result.stdout.splitlines()[-1])
    assert command[:3] == ["tinynet", "fit", "frames.extxyz"]
    assert run(*command[1:]).exit_code == 0


@pytest.mark.usefixtures("frames")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n", "--grid must name an option and its values (n=2,4); got 'n'."),
        ("n=a", "--grid n must be whole numbers, at least 0; got 'a'."),
        ("n=2,2", "--grid must have each value once; got 'n=2,2'."),
        ("m=2", "--grid must be of one of n, N, hidden, alpha, bonds, paths, topology, cutoff, max-iter; got 'm'. Set other options themselves."),
        ("paths=some", "--grid paths must be all or simple; got 'some'."),
    ],
)  # fmt: skip
def test_wrong_grids(text, message):
    result = run("grid", "frames.extxyz", "--grid", text)
    assert result.exit_code == 2
    assert result.stderr == f"error: {message}\n"


@pytest.mark.usefixtures("molecules")
def test_candidates_of_a_grid_that_are_no_others():
    result = run(
        "grid",
        "molecules.extxyz",
        *QUICK,
        "--grid",
        "n=4,6",
        "--grid",
        "topology=auto,smooth",
        "--folds",
        2,
        "--json",
    )
    assert result.exit_code == 0, result.output
    rows = [(row["n"], row["topology"], row["problem"]) for row in json.loads(result.stdout)["candidates"]]
    assert rows[0] == (4, "auto", "")
    problems = {(n, topology): problem for n, topology, problem in rows[1:]}
    assert problems[4, "smooth"] == "comes to the same as n=4, topology=auto"
    assert problems[6, "smooth"] == "-n must be 2, 3 or 4 with --topology smooth; got 6."
    assert problems[6, "auto"].endswith(
        "which takes --topology smooth; got 6. Take one of these, or --topology each."
    )


@pytest.mark.usefixtures("frames")
def test_quantities_that_some_folds_lack():
    found = read("frames.extxyz", ":24")
    for k, atoms in enumerate(found):
        stress = {"stress": np.full(6, 0.01 * k)} if k < 12 else {}
        atoms.calc = SinglePointCalculator(atoms, forces=atoms.get_forces(), energy=float(k), **stress)
    write("frames.extxyz", found)
    result = run(
        "grid",
        "frames.extxyz",
        "--target",
        "potential",
        *QUICK[2:],
        "--test-fraction",
        0,
        "--folds",
        4,
        "--grid",
        "n=2",
        "--json",
    )
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)["candidates"][0]
    assert row["problem"] == ""
    assert all(np.isfinite(row[f"{name}_rmse"]) for name in ("forces", "energy", "stress"))


def outcome(rmse):
    return [({"forces": rmse} if rmse is not None else {}, 3, 0.1)]


def test_rows_of_a_grid_without_errors_are_last():
    settings = FitSettings(("x",))
    none = learning_grids._row({"n": 1}, settings, outcome(None))
    nan = learning_grids._row({"n": 2}, settings, outcome(np.nan))
    assert (none.problem, nan.problem) == (
        "no fold has anything to compare with", "its errors are no finite numbers",
    )  # fmt: skip
    good = [learning_grids._row({"n": n}, settings, outcome(rmse)) for n, rmse in ((3, 0.5), (4, 0.1))]
    unknown = replace(nan, problem="")
    rows = learning_grids.grid_rows([none, unknown, *good])
    assert [row.values["n"] for row in rows] == [4, 3, 2, 1]


@pytest.mark.parametrize("method", ["blocks", "groups", "random", "file", "none"])
def test_folds_test_on_what_they_do_not_learn_from(method):
    groups = np.repeat(np.arange(4), [10, 5, 7, 12])
    folds = learning_grids.folds_of(FitSettings(("x",)), groups, 3, method)
    for train, test in folds:
        assert np.intersect1d(train, test).size == 0
        assert_array_equal(np.union1d(train, test), np.arange(34))
    assert_array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(34))


def test_folds_of_short_files_are_whole_files():
    short = np.repeat(np.arange(9), 1)
    settings = FitSettings(("x",))
    for method in ("file", "none", "groups"):
        folds = learning_grids.folds_of(settings, short, 3, method)
        assert [(len(train), len(test)) for train, test in folds] == [(6, 3)] * 3
    with pytest.raises(SettingsError) as error:
        learning_grids.folds_of(settings, np.repeat(np.arange(3), 4), 5, "blocks")
    assert str(error.value) == (
        "--folds 5 needs files with so many structures to learn from, of which --split blocks makes blocks of "
        "time; these make 4. Ask for fewer folds, or use --split groups or random."
    )


@pytest.mark.usefixtures("frames")
def test_features_of_another_version_are_not_used(monkeypatch):
    command = (
        "grid",
        "frames.extxyz",
        *QUICK,
        "--folds",
        2,
        "--grid",
        "n=2",
        "--memory",
        "memory",
        "--force",
    )
    found = []
    for version in ("1", "1", "2"):
        monkeypatch.setattr(learning_grids, "__version__", version)
        assert run(*command).exit_code == 0
        found.append(len(list(Path("memory").rglob("output.pkl"))))
    assert found == [2, 2, 4]


@pytest.mark.usefixtures("frames", "ctrl_c")
def test_an_interrupted_grid_ends():
    result = run("grid", "frames.extxyz", "--max-iter", 1000, "--folds", 2, "--grid", "n=2")
    assert result.exit_code == 130, result.output
    assert result.stderr == "error: interrupted; nothing was written.\n"
    assert os.listdir() == ["frames.extxyz"]


@pytest.mark.parametrize(
    ("command", "output"),
    [
        (("fit", "frames.extxyz", "--max-iter", 40, "--hidden", 3), "model.tinynet"),
        (
            ("grid", "frames.extxyz", "--max-iter", 40, "--hidden", 3, "--folds", 2, "--grid", "n=2,3"),
            "grid.csv",
        ),
    ],
    ids=["fit", "grid"],
)
@pytest.mark.usefixtures("frames")
def test_what_was_cut_off_goes_on_from_a_checkpoint(monkeypatch, command, output):
    steps, last = [], 60
    step = Recorder.step

    def counted(recorder, *arguments):
        steps.append(recorder.label)
        if len(steps) == last:
            raise KeyboardInterrupt
        return step(recorder, *arguments)

    monkeypatch.setattr(Recorder, "step", counted)
    result = run(*command, "--checkpoint", "fits")
    assert result.exit_code == 130, result.output
    assert result.stderr == "error: interrupted; nothing was written; the same command goes on from fits.\n"
    assert set(os.listdir()) == {"frames.extxyz", "fits"}
    last = -1

    del steps[:]
    continued = run(*command, "--checkpoint", "fits", "--json")
    assert continued.exit_code == 0, continued.output
    n_continued = len(steps)
    del steps[:]
    whole = run(*command, "--json", "--force")
    assert n_continued <= len(steps) - 40  # one network of them was finished
    assert set(os.listdir()) == {"frames.extxyz", "fits", output}
    errors = [
        found.get("held_out_errors") or [row["forces_rmse"] for row in found["candidates"]]
        for found in (json.loads(result.stdout) for result in (continued, whole))
    ]
    assert errors[0] == errors[1]


@pytest.mark.usefixtures("frames")
@pytest.mark.parametrize("option", ["--checkpoint", "--memory"])
def test_folders_of_a_grid_are_no_files(option):
    result = run("grid", "frames.extxyz", "--grid", "n=2", option, "frames.extxyz")
    assert result.exit_code == 2
    assert "frames.extxyz is a file; name a folder." in words(result.stderr)
    result = run("grid", "frames.extxyz", "--grid", "n=2", option, "no/fits")
    assert result.exit_code == 2
    assert "there is no folder no; make it first." in words(result.stderr)


@pytest.mark.parametrize(
    "regressor",
    [
        PerAtomRegressor(Ridge()),
        PerAtomRegressor(Ridge(), per_species=True),
        CommitteeRegressor(BPNNRegressor((2,), max_iter=2), n_estimators=2),
    ],
    ids=["rows", "per_species", "committee"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_other_regressors_are_evaluated(frames, regressor):
    structures = read(frames, ":12")
    model = make_pipeline(CycleMomentFeaturizer(bonds={"Mo-O": 2.8}, n=2, N=1), regressor)
    save_model(model.fit(structures, [atoms.get_forces() for atoms in structures]), "own.tinynet")
    result = run("evaluate", "own.tinynet", "frames.extxyz", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["target"] == "forces"


@pytest.mark.usefixtures("frames")
def test_predictions_for_other_atoms_are_refused_with_advice():
    assert run("fit", "frames.extxyz", *QUICK).exit_code == 0
    write("large.extxyz", read("frames.extxyz", "0") * (2, 1, 1))
    result = run("predict", "model.tinynet", "large.extxyz", "--output", "out.extxyz")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[1:] == [
        "  large.extxyz, frame 0: it has 32 atoms, the reference 16.",
        "The model takes the atoms that it was fitted on, in their order and with their bonds. For others fit "
        "with --topology each or --topology smooth; TinyNetCalculator takes supercells.",
    ]


@pytest.mark.usefixtures("frames")
def test_tables_lose_no_digits_on_narrow_terminals():
    name = "a-name-of-a-file-that-is-longer-than-most-names.extxyz"
    shutil.copy("frames.extxyz", name)
    assert run("fit", name, *QUICK).exit_code == 0
    for command in (["evaluate", "model.tinynet", name, "frames.extxyz"], ["inspect", name]):
        narrow, wide = (
            CliRunner().invoke(app, command, env={"COLUMNS": width}).stdout for width in ("40", "140")
        )
        assert "…" not in narrow
        assert re.findall(r"\d+\.\d+", narrow) == re.findall(r"\d+\.\d+", wide)


@pytest.mark.usefixtures("frames")
def test_structures_that_a_model_does_not_take_can_be_left_out():
    assert run("fit", "frames.extxyz", *QUICK).exit_code == 0
    first, second = read("frames.extxyz", ":2")
    large = first * (2, 1, 1)
    large.calc = SinglePointCalculator(large, forces=np.zeros((32, 3)))
    write("mixed.extxyz", [first, large, second])
    result = run(
        "predict", "model.tinynet", "mixed.extxyz", "--output", "out.extxyz", "--skip-problems", "--json"
    )
    assert result.exit_code == 0, result.output
    problem = "mixed.extxyz, frame 1: it has 32 atoms, the reference 16."
    assert json.loads(result.stdout)["left_out"] == [problem]
    np.testing.assert_array_equal(read("out.extxyz", 1).positions, second.positions)
    result = run("evaluate", "model.tinynet", "mixed.extxyz", "--skip-problems")
    assert result.exit_code == 0, result.output
    assert "model.tinynet on 2 structures left out: " + problem in words(result.stdout)
    write("large.extxyz", large)
    result = run("evaluate", "model.tinynet", "large.extxyz", "--skip-problems")
    assert result.exit_code == 1
    assert "large.extxyz, frame 0: it has 32 atoms" in words(result.stderr)


@pytest.mark.usefixtures("frames")
def test_predictions_leave_out_what_the_format_does_not_have():
    atoms = read("frames.extxyz", 0)
    atoms.info["words"] = {"a": [1, None]}
    atoms.arrays["complex"] = np.ones(16) * 1j
    atoms.arrays["object"] = np.array([None] * 16)
    atoms.arrays["depth"] = np.ones(16, dtype=np.uint8)
    atoms.arrays["tensor"] = np.ones((16, 3, 3))
    atoms.arrays["text"] = np.array(["two words"] * 16)
    atoms.arrays["forces"] = np.zeros((16, 3))
    atoms.info |= {"energy": 1.0, "note": "two\nlines"}
    predicted = PerAtomArray.from_list([np.ones((16, 3))], [atoms.numbers])
    write_predictions(Path("out.extxyz"), "forces", [atoms], predicted)
    found = read("out.extxyz")
    assert set(found.arrays) == {"numbers", "positions", "depth"}
    assert_array_equal(found.get_forces(), np.ones((16, 3)))
    assert found.info["note"] == "two lines"


@pytest.mark.usefixtures("frames")
def test_files_without_densities_of_states_are_refused_without_python():
    result = run("fit", "frames.extxyz", "--target", "ldos", "--energies=-2:2:9", "--width", 0.1)
    assert result.exit_code == 1
    assert "format=" not in result.stderr
    assert result.stderr.rstrip().endswith("Rename it.")


@pytest.mark.usefixtures("frames")
def test_evaluate_and_predict():
    assert run("fit", "frames.extxyz", *QUICK, "--target", "potential").exit_code == 0
    result = run("evaluate", "model.tinynet", "frames.extxyz", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [(line["quantity"], line["name"]) for line in found["errors"]] == [
        ("forces", "all"), ("forces", "O"), ("forces", "Mo"), ("energy", "all"),
    ]  # fmt: skip
    assert found["notes"][0].startswith(
        "the model was fitted with structures of frames.extxyz: errors on new"
    )
    assert run("predict", "model.tinynet", "frames.extxyz", "--output", "out.extxyz").exit_code == 0
    true, predicted = (read(name, ":") for name in ("frames.extxyz", "out.extxyz"))
    errors = [a.get_forces() - b.get_forces() for a, b in zip(true, predicted, strict=True)]
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(found["errors"][0]["rmse"], rel=1e-4)
    assert np.isfinite(predicted[0].get_potential_energy())


@pytest.mark.usefixtures("frames")
@pytest.mark.parametrize("page", ["command-line.md", "first-steps.md"])
def test_bash_blocks_of_the_page(page):
    """One after the other, in a folder with frames.extxyz; the quickstart has tests of its own."""
    lines = [line for block in code_blocks(ROOT / "docs" / page, "bash") for line in block.splitlines()]
    commands = [line.partition(" > ")[0] for line in lines if line.startswith("tinynet ")]
    assert len(commands) > 5
    for command in commands:
        if command != "tinynet quickstart":
            result = run(*shlex.split(command)[1:])
            assert result.exit_code == 0, f"{command}\n{result.output}"
