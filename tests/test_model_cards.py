"""Model cards: what a file says of its model."""

import hashlib
import json
import shutil
from importlib.resources import as_file, files

import pytest
from typer.testing import CliRunner

from tinynet_sklearn import load_model, load_pretrained, save_model
from tinynet_sklearn.cli import app
from tinynet_sklearn.model_cards import frames_text, known_files, read_card
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
    assert card["data"]["files"] == [{"file": "frames.extxyz", "sha256": digest, "structures": 81}]
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


def test_a_model_without_card(model, tmp_path):
    save_model(load_model(model), tmp_path / "bare.tinynet")
    found = CliRunner().invoke(app, ["card", "bare.tinynet"])
    assert found.exit_code == 1
    assert found.stderr == (
        "error: bare.tinynet has no card; tinynet fit writes one, and save_model(..., metadata=...).\n"
    )


def test_frames_text():
    assert frames_text([7, 0, 1, 2, 3]) == "0-3, 7"
    assert frames_text([]) == ""
