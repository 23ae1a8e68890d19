"""The commands fit, grid, evaluate and predict: what they print, write and return."""

# ruff: noqa: E501
import csv
import json
import os
import re
import shlex
import shutil
import signal
import threading
import tomllib
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from test_docs import ROOT, code_blocks
from typer.testing import CliRunner

from tinynet_sklearn import load_model
from tinynet_sklearn.cli import app
from tinynet_sklearn.cli_config import toml_text

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
    assert "--topology frozen: all structures share one bond graph" in text
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
        (("--hidden", "16,32"), "--hidden must be the units of the hidden layers (16x32), or 0 for a linear model; got '16,32'."),
        (("--width", 0.2), "--width is for --target ldos; got it with --target forces. Leave it out."),
        (("--topology", "smooth", "-N", 1), "-N is of bond graphs; got it with --topology smooth, which bonds all within --cutoff. Leave it out."),
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
    assert card["training"]["remarks"][0] == (
        "--topology smooth: 8 of 12 structures do not share one bond graph (molecules.extxyz, frame 1 for one)"
    )


@pytest.mark.usefixtures("frames")
def test_interrupted_fit_keeps_the_best_weights():
    timer = threading.Timer(4.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    result = run("fit", "frames.extxyz", "--hidden", "64x64x64", "--max-iter", 100_000, "--alpha", 0)
    timer.cancel()
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
