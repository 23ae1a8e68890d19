"""Model files: what comes back, and what is refused when writing and when reading."""

import io
import json
import os
from importlib import import_module
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import skops.io
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from tinynet_sklearn import (
    BPNNRegressor,
    CycleMomentFeaturizer,
    PerAtom,
    PerAtomArray,
    __version__,
    load_model,
    save_model,
)
from tinynet_sklearn.persistence import FORMAT, HEADER, TRUSTED_TYPES

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def build(n_features, n_outputs, species):
    import keras

    inputs = keras.Input((n_features,))
    hidden = keras.layers.Dense(3, activation="tanh")(inputs)
    return keras.Model(inputs, keras.layers.Dense(n_outputs)(keras.layers.Concatenate()([inputs, hidden])))


@pytest.fixture(scope="module")
def atoms():
    rng = np.random.RandomState(0)
    X = PerAtomArray.from_list([rng.randn(2, 3) for _ in range(8)], species=[[8, 1]] * 8)
    return X, X.with_values(np.tanh(X.values))


@pytest.fixture
def net(atoms):
    return BPNNRegressor((3,), max_iter=3, random_state=0).fit(*atoms)


@pytest.fixture
def saved(net, tmp_path):
    path = tmp_path / "net.tinynet"
    save_model(net, path, {"data": "made up", "rmse": 0.5})
    return path


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


def test_regressor_comes_back_whole(net, atoms, saved):
    again, metadata = load_model(saved, return_metadata=True)
    assert metadata == {"data": "made up", "rmse": 0.5}
    assert_array_equal(again.predict(atoms[0]).values, net.predict(atoms[0]).values)
    assert again.get_params() == net.get_params()
    assert_array_equal(again.history_[8]["loss"], net.history_[8]["loss"])
    assert set(again.networks_) == {1, 8}
    again.fit(*atoms)  # and can be trained again


@pytest.mark.parametrize(
    "settings",
    [
        {"networks": "shared"},
        {"random_state": np.random.RandomState(0)},
        {"dtype": "float32"},
        {"scaler": None},
    ],
)
def test_other_settings_come_back(atoms, tmp_path, settings):
    net = BPNNRegressor(3, max_iter=3, **settings).fit(*atoms)
    save_model(net, tmp_path / "net")
    assert_array_equal(load_model(tmp_path / "net").predict(atoms[0]).values, net.predict(atoms[0]).values)


def test_keras_network_comes_back_as_configuration(atoms, tmp_path):
    net = BPNNRegressor(build_fn=build, max_iter=3, random_state=0).fit(*atoms)
    net.set_params(build_fn=None)
    save_model(net, tmp_path / "net")
    assert_array_equal(load_model(tmp_path / "net").predict(atoms[0]).values, net.predict(atoms[0]).values)


def test_whole_pipeline_comes_back(tmp_path):
    from ase.build import bulk

    rng = np.random.RandomState(0)
    frames = []
    for _ in range(6):
        frame = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
        frame.positions += 0.05 * rng.randn(8, 3)
        frames.append(frame)
    forces = [rng.randn(8, 3) for _ in frames]
    net = BPNNRegressor((3,), max_iter=3, symmetry_copies=2, symmetry_average=True, random_state=0)
    pipe = Pipeline([("embed", CycleMomentFeaturizer(n=2, N=1)), ("net", net)]).fit(frames, forces)
    save_model(pipe, tmp_path / "pipe")
    again = load_model(tmp_path / "pipe")
    assert_array_equal(again.predict(frames).values, pipe.predict(frames).values)
    assert list(again[0].get_feature_names_out()) == list(pipe[0].get_feature_names_out())


def test_a_given_reference_structure_comes_back(tmp_path):
    from ase.build import bulk

    crystal = bulk("NaCl", "rocksalt", a=5.64)
    embed = CycleMomentFeaturizer(n=2, N=1, reference=crystal).fit([crystal])
    save_model(embed, tmp_path / "embed")
    again = load_model(tmp_path / "embed")
    assert again.reference == crystal
    assert_array_equal(again.transform([crystal]).values, embed.transform([crystal]).values)


def test_training_ranges_come_back(net, atoms, saved):
    rows = np.concatenate([atoms[0].values, 3 * atoms[0].values])
    again = load_model(saved)
    for species, before in net.atom_networks_.items():
        after = again.atom_networks_[species].inputs
        assert_array_equal(after.low, before.inputs.low)
        assert_array_equal(after.high, before.inputs.high)
        assert_array_equal(after.outside(rows), before.inputs.outside(rows))
        assert 0 < after.outside(rows).mean() < 1


def test_files_from_before_training_ranges(net, atoms, saved):
    """Version 0.5 knew columns, offset and scale alone."""
    for network in net.atom_networks_.values():
        for scaling in (network.inputs, network.targets):
            object.__delattr__(scaling, "low")
            object.__delattr__(scaling, "high")
    save_model(net, saved)
    with ZipFile(saved) as archive:
        assert '"low"' not in archive.read("schema.json").decode()
    again = load_model(saved)
    assert_array_equal(again.predict(atoms[0]).values, net.predict(atoms[0]).values)
    for network in again.atom_networks_.values():
        assert network.inputs.limits() is None
        assert not network.inputs.outside(1e9 * atoms[0].values).any()
    again.set_params(warm_start=True).fit(*atoms)  # what it saw before remains unknown
    assert all(network.inputs.limits() is None for network in again.atom_networks_.values())


def test_pipeline_with_wrapped_transformer_comes_back(atoms, tmp_path):
    X, y = atoms
    pipe = make_pipeline(PerAtom(StandardScaler()), BPNNRegressor((3,), max_iter=3, random_state=0)).fit(X, y)
    save_model(pipe, tmp_path / "pipe")
    assert_array_equal(load_model(tmp_path / "pipe").predict(X).values, pipe.predict(X).values)


def test_trusted_types_exist():
    for name in TRUSTED_TYPES:
        module, _, cls = name.rpartition(".")
        assert isinstance(getattr(import_module(module), cls), type)


def test_header_says_what_the_file_is(saved):
    with ZipFile(saved) as archive:
        header = json.loads(archive.read(HEADER))
    assert header == {
        "format": FORMAT,
        "package": "tinynet_sklearn",
        "version": __version__,
        "class": "tinynet_sklearn.regressor.BPNNRegressor",
        "metadata": {"data": "made up", "rmse": 0.5},
    }


# ---------------------------------------------------------------- refused when writing


def test_what_cannot_be_saved(atoms, net, tmp_path):
    path = tmp_path / "net"
    assert message_of(TypeError, lambda: save_model("net", path)) == (
        "estimator must be an estimator of scikit-learn; got str."
    )
    with pytest.raises(NotFittedError):
        save_model(BPNNRegressor(), path)
    net.set_params(build_fn=build)
    name = f"{build.__module__}.build"
    assert message_of(TypeError, lambda: save_model(net, path)) == (
        "estimator must have parameters that can be read back without running code; got build_fn=function "
        "with "
        f"{name}. Set build_fn=None after fitting: prediction does not need it."
    )
    pipe = Pipeline([("net", net)])
    assert "got net__build_fn=function with" in message_of(TypeError, lambda: save_model(pipe, path))
    net.set_params(build_fn=None)
    net.extra_ = np.vectorize(float)
    assert message_of(TypeError, lambda: save_model(net, path)).startswith(
        "estimator must consist of types that load_model trusts; BPNNRegressor holds numpy."
    )
    assert list(tmp_path.iterdir()) == []


def test_searches_are_refused_with_advice(tmp_path):
    scoring = {"mae": "neg_mean_absolute_error"}
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2, scoring=scoring, refit="mae")
    search.fit(np.eye(6), np.arange(6.0))
    message = message_of(TypeError, lambda: save_model(search, tmp_path / "search"))
    assert message.startswith("estimator must consist of types that load_model trusts; GridSearchCV holds ")
    assert message.endswith(" Save its best_estimator_.")


def test_strategies_of_pymatgen_are_refused_by_name(tmp_path):
    from pymatgen.analysis.local_env import MinimumDistanceNN

    net = BPNNRegressor(max_iter=1).fit(np.eye(3), np.arange(3.0))
    pipe = Pipeline([("embed", CycleMomentFeaturizer(bonds=MinimumDistanceNN())), ("net", net)])
    assert message_of(TypeError, lambda: save_model(pipe, tmp_path / "pipe")) == (
        "estimator must have parameters that can be read back without running code; got "
        f"embed__bonds=MinimumDistanceNN with {MinimumDistanceNN.__module__}.MinimumDistanceNN. Fit with "
        "PairBonds or CutoffBonds as bonds."
    )
    pipe.set_params(embed__n=np.vectorize(float))
    message = message_of(TypeError, lambda: save_model(pipe, tmp_path / "pipe"))
    assert message.endswith(
        ". Fit with PairBonds or CutoffBonds as bonds. Use None, numbers or text for these parameters."
    )


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"array": np.ones(2)}, "'array': ndarray of shape (2,)"),
        ({1: "x"}, "1: str"),
        ({"pair": (1, 2)}, "'pair': tuple"),
        ({"nan": float("nan")}, "'nan': float"),
    ],
)
def test_metadata_that_json_would_change(net, tmp_path, metadata, problem):
    assert message_of(ValueError, lambda: save_model(net, tmp_path / "net", metadata)) == (
        "metadata must come back from JSON as it was: text, numbers, booleans, None, lists and dicts of "
        "these "
        f"under keys of text; got {problem}. Convert these entries first."
    )


def test_an_older_file_survives_a_failed_write(net, saved, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    assert message_of(OSError, lambda: save_model(net, saved)) == "no space left"
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


# ---------------------------------------------------------------- refused when reading


def rewritten(path, header=None, schema=None):
    """Copy an archive with another header or another tree of objects."""
    buffer = io.BytesIO()
    with ZipFile(path) as old, ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == HEADER and header is not None:
                content = json.dumps(json.loads(content) | header)
            if name == "schema.json" and schema is not None:
                content = schema
            new.writestr(name, content)
    path.write_bytes(buffer.getvalue())


def test_files_of_another_kind(tmp_path, net):
    path = tmp_path / "file"
    assert message_of(FileNotFoundError, lambda: load_model(path)) == (
        f"path must lead to a model file; '{path}' does not exist. Look for typing errors, and where "
        f"relative paths start: '{Path.cwd()}'."
    )
    assert message_of(IsADirectoryError, lambda: load_model(tmp_path)) == (
        f"path must lead to a model file; '{tmp_path}' is a folder. Name a file in it."
    )
    path.write_bytes(b"not a model")
    assert message_of(ValueError, lambda: load_model(path)) == (
        f"path must lead to a model file of tinynet_sklearn; '{path}' is no zip archive. Write model files "
        "with "
        "save_model."
    )
    skops.io.dump(net, path)
    assert message_of(ValueError, lambda: load_model(path)) == (
        f"path must lead to a model file of tinynet_sklearn; '{path}' is another kind of zip archive. Write "
        "model files with save_model."
    )


def test_a_newer_format(saved):
    rewritten(saved, header={"format": FORMAT + 1, "version": "99.0"})
    assert message_of(ValueError, lambda: load_model(saved)) == (
        f"path must lead to a model file of format {FORMAT} or older; '{saved}' has format {FORMAT + 1}, "
        "written "
        "by tinynet_sklearn 99.0. Update the package: pip install --upgrade tinynet-sklearn."
    )


@pytest.mark.parametrize("damage", ["truncated", "flipped", "header", "tree"])
def test_damaged_files(saved, damage):
    content = bytearray(saved.read_bytes())
    if damage == "truncated":
        saved.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[100] ^= 0xFF
        saved.write_bytes(content)
    elif damage == "header":
        rewritten(saved, header={"format": "one"})
    else:
        rewritten(saved, schema="{}")
    message = message_of(ValueError, lambda: load_model(saved))
    assert message.startswith(f"path must lead to an undamaged model file; '{saved}' ")
    if damage == "header":
        assert message == (
            f"path must lead to an undamaged model file; '{saved}' is not one: incomplete {HEADER}. Save "
            "the model "
            "again, or copy the file again."
        )


def test_files_that_ask_for_code(saved, tmp_path):
    """A file in which a trusted type was replaced is refused before anything of it is built."""
    with ZipFile(saved) as archive:
        schema = archive.read("schema.json").decode()
    evil = schema.replace('"__class__": "AtomNetwork"', '"__class__": "Popen"').replace(
        '"__module__": "tinynet_sklearn.training"', '"__module__": "subprocess"'
    )
    assert evil != schema
    rewritten(saved, schema=evil)
    assert message_of(TypeError, lambda: load_model(saved)) == (
        f"path must lead to a model of trusted types; '{saved}' holds subprocess.Popen and was not loaded. "
        "It was "
        "not written by save_model as it is; get the file from its author again."
    )
