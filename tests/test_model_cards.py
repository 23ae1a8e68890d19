"""Model cards: what a file says of its model."""

import hashlib
import json
import shutil
import tarfile
from importlib.resources import as_file, files
from pathlib import Path

import pytest
from ase.io import read, write
from program_files import deepmd_system
from typer.testing import CliRunner

from tinynet_sklearn import load_model, load_pretrained, save_model
from tinynet_sklearn.cli import app
from tinynet_sklearn.model_cards import _sha256, known_files, read_card
from tinynet_sklearn.persistence import read_metadata


@pytest.fixture
def model(tmp_path, monkeypatch):
    with as_file(files("tinynet_sklearn") / "data" / "moo3_gpaw.extxyz") as data:
        shutil.copy(data, tmp_path / "frames.extxyz")
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["fit", "frames.extxyz", "--max-iter", "3", "--hidden", "2"])
    assert found.exit_code == 0, found.output
    return tmp_path / "model.tinynet"


def test_card_is_whole_and_survives(model, tmp_path):
    card = read_card(model)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    digest = hashlib.sha256((tmp_path / "frames.extxyz").read_bytes()).hexdigest()
    assert card["data"]["files"] == [
        {"file": "frames.extxyz", "sha256": digest, "structures": 81, "train": 65, "test": 16}
    ]
    assert (card["split"]["train"], card["split"]["test"]) == (65, 16)
    assert card["units"] == {"lengths": "Angstrom", "forces": "eV/Angstrom"}
    assert {"python", "tinynet_sklearn", "numpy", "tensorflow"} <= card["versions"].keys()
    estimator, kept = load_model(model, return_metadata=True)
    save_model(estimator, tmp_path / "copy.tinynet", kept)
    assert read_card(tmp_path / "copy.tinynet") == card


def test_card_is_read_without_the_model(model, monkeypatch):
    monkeypatch.setattr("skops.io.loads", lambda *_, **__: pytest.fail("loaded"))
    assert read_metadata(model)["metadata"]["card"] == 1


def test_card_and_inspect_show_it(model):
    for command in ("card", "inspect"):
        found = CliRunner().invoke(app, [command, str(model)], env={"COLUMNS": "100"})
        assert found.exit_code == 0
        assert "Errors on held-out structures" in found.stdout
        printed = CliRunner().invoke(app, [command, str(model), "--json"])
        assert json.loads(printed.stdout) == read_card(model)


def test_cards_of_models_that_come_along():
    assert read_card("batio3") == load_pretrained("batio3", return_card=True)[1]


def test_files_are_known_by_content(model, tmp_path):
    shutil.copy(tmp_path / "frames.extxyz", tmp_path / "same.extxyz")
    (tmp_path / "other.extxyz").write_text("other")
    assert known_files(read_card(model), ["same.extxyz", "other.extxyz", "gone"]) == ["same.extxyz"]


def test_held_out_files_are_not_those_of_the_training(model, tmp_path):
    write("test.extxyz", read("frames.extxyz", ":5"))
    write("train.extxyz", read("frames.extxyz", "10:30"))
    quick = ["--max-iter", "2", "--hidden", "2", "--output", "other.tinynet"]
    found = CliRunner().invoke(app, ["fit", "train.extxyz", "--test", "test.extxyz", *quick])
    assert found.exit_code == 0, found.output
    card = read_card("other.tinynet")
    assert [(entry["train"], entry["test"]) for entry in card["data"]["files"]] == [(20, 0), (0, 5)]
    assert known_files(card, ["train.extxyz", "test.extxyz"]) == ["train.extxyz"]
    for entry in card["data"]["files"]:  # cards of before do not tell them apart
        del entry["train"], entry["test"]
    assert known_files(card, ["train.extxyz", "test.extxyz"]) == ["train.extxyz", "test.extxyz"]


def test_archives_and_folders_are_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deepmd_system(tmp_path / "system")
    with tarfile.open("packed.tar", "w") as archive:
        archive.add("system")
    sums = [_sha256(name) for name in ("system", "packed.tar/system/set.000", "packed.tar", "gone")]
    assert sums[1] == sums[2] == hashlib.sha256(Path("packed.tar").read_bytes()).hexdigest()
    assert (len(sums[0]), sums[3]) == (64, "")
    entries = [{"sha256": sums[0], "train": 3}, {"sha256": sums[1], "train": 1}]
    asked = ["system", "packed.tar/system", "gone"]
    assert known_files({"data": {"files": entries}}, asked) == asked[:2]


def test_a_model_without_card(model, tmp_path):
    save_model(load_model(model), tmp_path / "bare.tinynet")
    found = CliRunner().invoke(app, ["card", "bare.tinynet"])
    assert found.exit_code == 1
    assert found.stderr == (
        "error: bare.tinynet has no card; tinynet fit writes one, and save_model(..., metadata=...).\n"
    )
