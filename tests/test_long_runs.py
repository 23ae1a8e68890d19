"""Long trainings: killed and resumed, interrupted, overflowing, watched."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from crystals import perovskite, rattled
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from tinynet_sklearn import (
    BPNNRegressor,
    PerAtomArray,
    SmoothMomentFeaturizer,
    keras_loops,
    load_model,
    recorder,
    save_model,
    solvers,
    workers,
)
from tinynet_sklearn.checkpoint import CheckpointFile, file_name, fingerprint
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.networks import DenseStack
from tinynet_sklearn.objective import StackObjective
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet
from tinynet_sklearn.target_maps import OutputLink

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def make_atoms(n_structures=24, seed=0):
    rng = np.random.RandomState(seed)
    species = [[8, 1, 1] if i % 2 else [8, 1] for i in range(n_structures)]
    X = PerAtomArray.from_list([rng.randn(len(s), 4) for s in species], species=species)
    return X, X.with_values(np.sin(X.values @ rng.randn(4, 2)))


def skip_model(n_features, n_outputs, species):
    import keras

    inputs = keras.Input((n_features,))
    hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(4, activation="tanh")(inputs))
    return keras.Model(inputs, keras.layers.Dense(n_outputs)(keras.layers.Concatenate()([inputs, hidden])))


def regressor(**settings):
    usual = {"hidden_layer_sizes": (4,), "solver": "varpro", "max_iter": 14, "alpha": 1e-3, "random_state": 3}
    return BPNNRegressor(**(usual | settings))


def assert_same(a, b):
    """Bit for bit, but for the clock."""
    assert a.n_iter_ == b.n_iter_
    assert a.loss_ == b.loss_
    for z in a.weights_:
        for p, q in zip(a.weights_[z], b.weights_[z], strict=True):
            assert_array_equal(p, q)
        curves, others = a.history_[z], b.history_[z]
        assert curves.keys() == others.keys()
        for name in curves.keys() - {"time"}:
            assert_array_equal(curves[name], others[name])


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---------------------------------------------------------------- what lies in the folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"early_stopping": True, "n_iter_no_change": 3, "alpha": 0.0},
        {"solver": "lbfgs", "networks": "shared", "dtype": "float32"},
        {"solver": "lm", "alpha": 0.0},
        {"solver": "auto", "build_fn": skip_model, "early_stopping": True},
        {"solver": "adam", "networks": "shared", "early_stopping": True},
        {"solver": "adam", "networks": "shared", "build_fn": skip_model, "batch_size": 7},
    ],
)
def test_a_resumed_run_is_an_uninterrupted_one(settings, tmp_path, monkeypatch):
    X, y = make_atoms()
    whole = regressor(**settings).fit(X, y)
    monkeypatch.setattr(recorder, "SAVE_INTERVAL", 0)
    monkeypatch.setattr(keras_loops, "STEPS_PER_CALL", 5)  # other calls than those of the whole run
    monkeypatch.setattr(Recorder, "step", killed_at(6, Recorder.step))
    with pytest.raises(SystemError):
        regressor(checkpoint=tmp_path, **settings).fit(X, y)
    monkeypatch.undo()
    resumed = regressor(checkpoint=str(tmp_path), resume=True, **settings).fit(X, y)
    assert_same(resumed, whole)
    for curves in resumed.history_.values():
        assert_array_equal(np.sort(curves["time"]), curves["time"])


def killed_at(n_iter, step):
    def dying(self, *args):
        if self.n_iter == n_iter:
            raise SystemError("killed")
        return step(self, *args)

    return dying


@pytest.mark.parametrize("settings", [{}, {"solver": "adam", "networks": "shared"}])
def test_more_iterations_may_be_asked_for(settings, tmp_path):
    X, y = make_atoms()
    net = regressor(checkpoint=tmp_path / "new" / "folder", resume=True, **settings)
    first = clone(net).set_params(max_iter=5).fit(X, y)
    assert_same(clone(net).fit(X, y), regressor(**settings).fit(X, y))
    assert first.n_iter_ == 5


def test_finished_networks_are_not_trained_again(tmp_path, monkeypatch):
    X, y = make_atoms()
    net = regressor(checkpoint=tmp_path, n_jobs=2).fit(X, y)
    assert sorted(os.listdir(tmp_path)) == ["H.npz", "O.npz"]
    (tmp_path / "O.npz").unlink()
    trained = []
    varpro = solvers.SOLVERS["varpro"]
    monkeypatch.setitem(solvers.SOLVERS, "varpro", lambda *a: trained.append(a[-1].label) or varpro(*a))
    assert_same(clone(net).set_params(resume=True).fit(X, y), net)
    assert trained == ["O"]
    clone(net).fit(X, y)  # without resume the files are replaced
    assert sorted(trained) == ["H", "O", "O"]


def test_files_appear_seldom_and_at_the_end(tmp_path, monkeypatch):
    X, y = make_atoms()
    now, written = [0.0], []
    monkeypatch.setattr(recorder, "perf_counter", lambda: now.__setitem__(0, now[0] + 0.5) or now[0])
    monkeypatch.setattr(CheckpointFile, "write", lambda self, arrays: written.append(now[0]))
    regressor(networks="shared", checkpoint=tmp_path, max_iter=60, tol=0.0).fit(X, y)
    assert len(written) > 3
    assert min(np.diff(written[:-1])) >= recorder.SAVE_INTERVAL


def test_equal_numbers_leave_equal_prints():
    assert fingerprint({"a": 0, "b": 16, "c": "x", "d": None, "e": True}) == {
        "a": "0", "b": "16", "c": "'x'", "d": "None", "e": "True",
    }  # fmt: skip
    for number in (0.0, np.float64(0), np.int64(0)):
        assert fingerprint({"a": number}) == {"a": "0"}
    hashed = [
        fingerprint({"a": part})["a"]
        for part in (np.zeros(2), np.zeros(2, dtype=np.float32), np.zeros((1, 2)), [np.zeros(1), np.zeros(1)])
    ]
    assert len(set(hashed)) == 4


def numbers(*shape):
    return np.random.RandomState(0).rand(*shape)


def task_of():
    """A training with all that a training set can hold."""
    action = GroupAction(np.arange(4)[None], np.eye(3)[None], np.array([[0, 1, 2]]), np.zeros((1, 4)), False)
    data = TrainingSet(
        numbers(6, 4),
        numbers(6, 2),
        np.full(6, 1 / 6),
        np.arange(6) // 2,
        (action,),
        np.zeros(6, dtype=int),
        OutputLink(numbers(2), 1.0, np.eye(2)),
        numbers(6, 2, 3),
    )
    stack = DenseStack((numbers(4, 2),), (numbers(2),), ("linear",))
    return SimpleNamespace(
        start=SimpleNamespace(network=stack),
        train=data,
        validation=data,
        options=Options(5, 1e-4, 0.0, 2, 1e-3, 0),
        recorder=Recorder("O", stack.arrays, 5, 1e-4, True, 0),
    )


ARRAYS = [field.name for field in fields(TrainingSet) if field.name not in ("actions", "link")]
ARRAYS += [f"actions.{field.name}" for field in fields(GroupAction)]
ARRAYS += [f"link.{field.name}" for field in fields(OutputLink)]


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_leaves_its_print(name, part):
    task = task_of()
    before = workers._fingerprint(task, "varpro")
    assert workers._fingerprint(task_of(), "varpro") == before
    owner, _, inner = name.rpartition(".")
    data = getattr(task, part)
    if not owner:
        changes = {name: more(getattr(data, name))}
    elif owner == "link":
        changes = {owner: replace(data.link, **{inner: more(getattr(data.link, inner))})}
    else:
        (action,) = data.actions
        changes = {owner: (replace(action, **{inner: more(getattr(action, inner))}),)}
    setattr(task, part, replace(data, **changes))
    after = workers._fingerprint(task, "varpro")
    different = [key for key in before if before[key] != after[key]]
    assert len(different) == 1
    assert (different == ["validation structures"]) == (part == "validation")


def more(value):
    return not value if isinstance(value, bool) else value + 1


def test_fits_that_differ_in_vectors_have_files_of_their_own(tmp_path):
    """Scaled vectors of a structure change the fit, whether it is trained on or held out."""
    structures = [rattled(perovskite(), k) for k in range(8)]
    X = SmoothMomentFeaturizer(n=2, cutoff=3.0, n_vector=2).fit_transform(structures)
    y = X.with_values(X.vectors[:, 0] + 0.1 * X.vectors[:, 1] ** 2)
    net = regressor(solver="auto", early_stopping=True, checkpoint=tmp_path, resume="matching", max_iter=3)
    net.fit(X, y)
    for k in range(8):
        vectors = X.vectors.copy()
        vectors[X.structure_of_row == k] *= 3.0
        before = set(os.listdir(tmp_path))
        net.fit(replace(X, vectors=vectors), y)
        assert len(os.listdir(tmp_path)) > len(before)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("Ti", "Ti.npz"),
        ("site 3", "site-3.npz"),
        ("the network", "the-network.npz"),
        ("unknown (0)", "unknown-0.npz"),
        ("../H O", "H-O.npz"),
    ],
)
def test_file_names(label, name):
    assert file_name(label) == name


def test_long_file_names_are_cut_but_differ():
    names = {file_name("Ti O " * 60 + end) for end in ("H", "C")}
    assert len(names) == 2
    assert max(map(len, names)) < 128


def test_a_failed_write_leaves_the_file_before(tmp_path, monkeypatch):
    file = CheckpointFile(tmp_path / "H.npz", fingerprint({"alpha": 1.0}))
    file.write({"x": np.arange(3)})
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        file.write({"x": np.arange(4)})
    assert_array_equal(file.read()["x"], np.arange(3))
    assert os.listdir(tmp_path) == ["H.npz"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    X, y = make_atoms()
    (tmp_path / ".H.npz.0badcafe.tmp").write_bytes(b"PK")
    regressor(checkpoint=tmp_path, max_iter=2).fit(X, y)
    assert sorted(os.listdir(tmp_path)) == ["H.npz", "O.npz"]


# ---------------------------------------------------------------- what is refused


def test_resume_needs_a_folder_and_a_seed(tmp_path):
    X, y = make_atoms()
    assert message_of(ValueError, lambda: regressor(resume=True).fit(X, y)) == (
        "resume=True continues from the files in the folder checkpoint; got checkpoint=None. Name the "
        "folder, or set resume=False."
    )
    for state in (None, np.random.RandomState(0)):
        net = regressor(checkpoint=tmp_path, resume=True, random_state=state)
        assert message_of(ValueError, lambda net=net: net.fit(X, y)) == (
            "checkpoint needs an integer as random_state, for a resumed training begins with the same "
            f"numbers; got {state}. Pass random_state=0, or any other."
        )
    path = tmp_path / "file"
    path.touch()
    assert message_of(NotADirectoryError, lambda: regressor(checkpoint=path).fit(X, y)) == (
        f"checkpoint must be a folder; '{path}' is a file. Name another place."
    )


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"alpha": 0.1}, "alpha (0.001 in the file, 0.1 now)"),
        (
            {"solver": "lbfgs", "n_iter_no_change": 9, "early_stopping": True},
            "solver ('varpro' in the file, 'lbfgs' now); early_stopping (False in the file, True now); "
            "n_iter_no_change (None in the file, 9 now)",
        ),
        ({"random_state": 4}, "random_state; initial weights"),
        ({"activation": "relu"}, "hidden_layer_sizes, activation or build_fn"),
        ({"scaler": "minmax"}, "X or scaler"),
        ({"X": 1e-9}, "X or scaler; y or target_scaler"),  # rows are sorted by X
        ({"y": 1e-9}, "y or target_scaler"),
        ({"dtype": "float32"}, "dtype ('float64' in the file, 'float32' now)"),
    ],
)
def test_files_of_other_data_or_settings(change, difference, tmp_path):
    X, y = make_atoms()
    regressor(checkpoint=tmp_path, max_iter=2).fit(X, y)
    X.values[1, 0] += change.pop("X", 0.0)
    y.values[1, 0] += change.pop("y", 0.0)
    net = regressor(checkpoint=tmp_path, max_iter=2, resume=True, **change)
    assert message_of(ValueError, lambda: net.fit(X, y)) == (
        f"resume=True needs the data and settings that '{tmp_path / 'H.npz'}' was written with; these "
        f"differ: {difference}. Restore them, name another folder as checkpoint, or set resume=False to "
        "train all networks anew."
    )


def test_settings_of_adam_are_compared_and_those_of_others_are_not(tmp_path):
    X, y = make_atoms(4)
    net = regressor(checkpoint=tmp_path, max_iter=2, networks="shared", solver="adam").fit(X, y)
    net.set_params(resume=True, learning_rate_init=0.1, batch_size=3, learning_rate="cosine")
    assert message_of(ValueError, lambda: net.fit(X, y)) == (
        f"resume=True needs the data and settings that '{tmp_path / 'H-O.npz'}' was written with; these "
        "differ: batch_size (16 in the file, 3 now); learning_rate_init (0.001 in the file, 0.1 now); "
        "learning_rate ('constant' in the file, 'cosine' now); max_iter (not set in the file, 2 now). "
        "Restore them, name another folder as checkpoint, or set resume=False to train all networks anew."
    )
    net.set_params(solver="varpro", resume=False).fit(X, y)
    net.set_params(learning_rate_init=0.5, batch_size=5, resume=True).fit(X, y)


def test_iterations_are_not_taken_back(tmp_path):
    X, y = make_atoms()
    net = regressor(checkpoint=tmp_path, max_iter=4).fit(X, y)
    assert message_of(ValueError, lambda: net.set_params(max_iter=3, resume=True).fit(X, y)) == (
        f"resume=True cannot take iterations back; '{tmp_path / 'H.npz'}' holds 4 of them, max_iter is 3. "
        "Raise max_iter, or set resume=False to train all networks anew."
    )


def other_format(path):
    with np.load(path) as file:
        arrays = dict(file)
    arrays["header"] = np.array(json.dumps(json.loads(str(arrays["header"])) | {"format": 9}))
    np.savez(path, **arrays)


DAMAGE = {
    "File is not a zip file": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "No data left in file": lambda path: path.write_bytes(b""),
    "Bad CRC-32 for file 'recorder.loss.npy'": lambda path: path.write_bytes(
        path.read_bytes().replace(np.float64(0.5).tobytes(), np.float64(0.7).tobytes())
    ),
    "'header'": lambda path: np.savez(path, x=np.arange(3)),
}


@pytest.mark.parametrize("why", DAMAGE)
def test_damaged_files(why, tmp_path):
    path = tmp_path / "H.npz"
    file = CheckpointFile(path, fingerprint({"alpha": 1.0}))
    file.write({"recorder.loss": np.array([0.5])})
    DAMAGE[why](path)
    assert message_of(ValueError, file.read) == (
        f"resume=True needs undamaged checkpoint files; '{path}' cannot be read: {why}. Delete it to train "
        "this network anew."
    )


def test_files_of_another_format(tmp_path):
    path = tmp_path / "H.npz"
    file = CheckpointFile(path, fingerprint({"alpha": 1.0}))
    file.write({})
    other_format(path)
    assert message_of(ValueError, file.read) == (
        f"resume=True reads checkpoint files of format 1; '{path}' has format 9 of tinynet_sklearn. Update "
        "the package, or delete the file to train this network anew."
    )


# ---------------------------------------------------------------- killed and interrupted for real

SCRIPT = """
import json, signal, sys, warnings
import numpy as np
from tinynet_sklearn import BPNNRegressor, PerAtomArray, recorder

def fitted(**settings):
    rng = np.random.RandomState(0)
    X = PerAtomArray.from_list(rng.randn(150, 2, 6), species=[[8, 1]] * 150)
    y = X.with_values(np.sin(X.values[:, :2]) + rng.randn(300, 2))
    net = BPNNRegressor((8,), tol=0.0, alpha=1e-6, random_state=3, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        net.fit(X, y)
    return {
        "weights": {str(z): [a.tolist() for a in arrays] for z, arrays in net.weights_.items()},
        "n_iter": {str(z): len(curves["loss"]) for z, curves in net.history_.items()},
        "messages": [str(w.message) for w in caught if w.category is UserWarning],
        "finite": bool(np.isfinite(net.predict(X).values).all()),
    }

if __name__ == "__main__":
    # where the tests run in the background, shells tell their children to ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
    recorder.SAVE_INTERVAL = float(sys.argv[1])
    print("\\n" + json.dumps(fitted(**json.loads(sys.argv[2]))))
"""


def started(settings, interval=10):
    command = [sys.executable, "-c", SCRIPT, str(interval), json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def outcome(process):
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize("solver", ["varpro", pytest.param("adam", marks=pytest.mark.slow)])
def test_killed_and_resumed(solver, tmp_path):
    settings = {"solver": solver, "max_iter": 150 if solver == "varpro" else 400, "networks": "shared"}
    script = {"__name__": "script"}
    exec(SCRIPT, script)  # noqa: S102
    whole = script["fitted"](**settings)
    path = tmp_path / "H-O.npz"
    victim = started(settings | {"checkpoint": str(tmp_path)}, interval=0)
    while not path.exists():
        assert victim.poll() is None
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    with np.load(path) as file:
        assert 0 < len(file["recorder.loss"]) < settings["max_iter"]
    resumed = outcome(started(settings | {"checkpoint": str(tmp_path), "resume": True}))
    assert resumed == whole


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_interrupted(n_jobs):
    process = started({"max_iter": 10**6, "n_jobs": n_jobs, "verbose": 2, "solver": "lbfgs"})
    seen = set()
    while len(seen) < n_jobs:
        line = process.stdout.readline()
        assert line, "the script ended early"
        seen.add(line.partition("]")[0])
    process.send_signal(signal.SIGINT)
    result = outcome(process)
    counts = {"1": "H", "8": "O"}
    state = "; ".join(f"{name} after {result['n_iter'][z]} iterations" for z, name in counts.items())
    assert result["messages"] == [
        f"training was interrupted; the best weights so far are kept ({state}). A network without iterations "
        "has its random initial weights."
    ]
    assert result["finite"]
    assert result["n_iter"]["1"] >= 10
    assert (result["n_iter"]["8"] >= 10) == (n_jobs == 2)


# ---------------------------------------------------------------- numbers that overflow

OVERFLOW = "training must keep losses, slopes and weights finite; they were not for "
REPAIR = (
    "the structure out or repair it if that number is wrong, or let the regressor scale inputs and targets "
    "(scaler, target_scaler)."
)


@pytest.mark.parametrize("solver", ["varpro", "lbfgs", "lm"])
def test_the_number_at_fault_is_named(solver):
    X, y = make_atoms()
    X.values[7, 2] = 1e200
    net = regressor(solver=solver, activation="relu", scaler=None)
    assert message_of(ValueError, lambda: net.fit(X, y)) == (
        f"{OVERFLOW}O after 0 iterations (largest number 1e+200, scaled 1e+200, in column 2 of X for atom 0 "
        f"(O) of structure 3). Leave {REPAIR}"
    )
    weight = np.arange(24) != 1  # structures that do not count are counted
    X.values[7, 2] = 1.0
    y.values[8, 1] = 1e200
    net.set_params(target_scaler=None)
    assert message_of(ValueError, lambda: net.fit(X, y, sample_weight=weight)) == (
        f"{OVERFLOW}H after 0 iterations (largest number 1e+200, scaled 1e+200, in column 1 of y for atom 1 "
        f"(H) of structure 3). Leave {REPAIR}"
    )


def test_rows_of_a_plain_table_are_named():
    X = np.random.RandomState(0).randn(20, 3)
    X[13, 1] = -1e200
    net = regressor(activation="relu", scaler=None)
    assert message_of(ValueError, lambda: net.fit(X, X[:, 0])) == (
        f"{OVERFLOW}the network after 0 iterations (largest number -1e+200, scaled -1e+200, in column 1 of "
        f"X for row 13). Leave {REPAIR}"
    )


def test_validation_rows_count_as_well():
    X, y = make_atoms(8)
    net = regressor(activation="relu", scaler=None, early_stopping=True, validation_fraction=0.4)
    for structure in range(8):  # held out or not
        far = X.with_values(X.values.copy())
        far.values[far.offsets[structure], 0] = 1e170
        message = message_of(ValueError, lambda: net.fit(far, y))  # noqa: B023 - called at once
        assert message.startswith(f"{OVERFLOW}O after 0 iterations (largest number 1e+170, ")
        assert f"for atom 0 (O) of structure {structure})" in message


@pytest.mark.parametrize("target_scaler", ["standard", None])
def test_what_was_learned_before_is_kept(target_scaler, monkeypatch):
    X, y = make_atoms()
    calls = []
    projected = StackObjective.projected

    def overflowing(self, hidden):
        calls.append(1)
        loss, slope, flat = projected(self, hidden)
        return (loss if len(calls) < 12 else np.nan), slope, flat

    monkeypatch.setattr(StackObjective, "projected", overflowing)
    net = regressor(networks="shared", target_scaler=target_scaler, max_iter=200)
    with pytest.warns(UserWarning, match="finite") as caught:
        net.fit(X, y)
    row, column = np.unravel_index(
        np.argmax(abs(net.atom_networks_[1].inputs.apply(X.values, float))), (60, 4)
    )
    structure = X.structure_of_row[row]
    scaled = net.atom_networks_[1].inputs.apply(X.values, float)[row, column]
    assert 0 < net.n_iter_ < 12
    assert [str(w.message) for w in caught if w.category is UserWarning] == [
        "training met losses, slopes or weights that are not finite and ended early, with the best weights "
        f"from before: H O after {net.n_iter_} iterations (largest number {X.values[row, column]:.3g}, "
        f"scaled {scaled:.3g}, in column {column} of X for atom {row - X.offsets[structure]} "
        f"({'H' if X.species[row] == 1 else 'O'}) of structure {structure}). Leave {REPAIR}"
    ]
    assert caught[0].filename == __file__
    monkeypatch.undo()
    assert_array_equal(
        net.weights_[1][0], clone(net).set_params(max_iter=net.n_iter_).fit(X, y).weights_[1][0]
    )


@pytest.mark.parametrize("early_stopping", [False, True])
def test_adam_keeps_its_best_weights(early_stopping, monkeypatch):
    X, y = make_atoms()
    graph = keras_loops._adam_graph

    def poisoned(*args):
        run_epochs, variables = graph(*args)
        calls = []

        def run(*tensors):
            calls.append(1)
            if len(calls) == 4:
                variables["first"][0].assign(np.full(variables["first"][0].shape, np.inf))
            return run_epochs(*tensors)

        return run, variables

    monkeypatch.setattr(keras_loops, "_adam_graph", poisoned)
    monkeypatch.setattr(keras_loops, "STEPS_PER_CALL", 1)
    net = regressor(networks="shared", solver="adam", early_stopping=early_stopping)
    with pytest.warns(
        UserWarning, match=r"from before: H O after \d+ iterations .* Lower learning_rate_init, "
    ):
        net.fit(X, y)
    assert net.n_iter_ == 3
    assert np.isfinite(net.predict(X).values).all()
    assert net.atom_networks_[1].moments is None
    assert net.loss_ <= net.history_[1]["loss"][0]


# ---------------------------------------------------------------- continued fits


def test_adam_goes_on_with_its_moments(tmp_path):
    X, y = make_atoms()
    net = regressor(networks="shared", solver="adam", batch_size=99, warm_start=True, max_iter=7)
    whole = clone(net).set_params(max_iter=14).fit(X, y)
    net.fit(X, y)
    save_model(net, tmp_path / "net.tinynet")
    net.fit(X, y)
    # One batch of all rows is the same batch in any order, but for rounding.
    for a, b in zip(net.weights_[1], whole.weights_[1], strict=True):
        assert_allclose(a, b, atol=1e-12)
    loaded = load_model(tmp_path / "net.tinynet")
    assert loaded.atom_networks_[1].moments.keys() == net.atom_networks_[1].moments.keys()
    assert int(loaded.atom_networks_[1].moments["steps.0"]) == 7
    assert int(net.atom_networks_[1].moments["steps.0"]) == 14
    net.set_params(solver="varpro").fit(X, y)
    assert net.atom_networks_[1].moments is None


def test_the_cosine_begins_anew_with_a_warm_start():
    X, y = make_atoms()
    net = regressor(networks="shared", solver="adam", learning_rate="cosine", warm_start=True, max_iter=20)
    net.set_params(learning_rate_init=0.01)
    first = net.fit(X, y).loss_
    before = net.weights_[1][0].copy()
    assert net.fit(X, y).loss_ < first
    assert abs(net.weights_[1][0] - before).max() > 1e-3


# ---------------------------------------------------------------- progress


@pytest.mark.parametrize(
    ("verbose", "lines"),
    [
        (0, []),
        (
            1,
            [
                "[Ti] iteration 4: loss 0.25, validation 0.5, 48 s left",
                "[Ti] iteration 8: loss 0.125, validation 0.25, 46 s left",
            ],
        ),
        (2, ["[Ti] iteration 10: loss 0.1, validation 0.2, 45 s left"]),
    ],
)
def test_progress(verbose, lines, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(recorder, "perf_counter", lambda: now[0])
    log = Recorder("Ti", [np.zeros(2)], None, 0.0, True, verbose, max_iter=100)
    log.begin()
    for k in range(1, 12):
        now[0] += 0.5
        log.step(1 / k, 2 / k, lambda: [np.zeros(2)])
    assert capsys.readouterr().out.splitlines() == lines
    log.summary()
    last = ["[Ti] stopped after 11 iterations and 6 s: loss 0.0909091, validation 0.181818"]
    assert capsys.readouterr().out.splitlines() == (last if verbose else [])


@pytest.mark.parametrize(("seconds", "text"), [(99, "99 s"), (130, "2 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert recorder._duration(seconds) == text


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({}, "30 weights, 60 rows: lm, since it has at most 300 weights and 1,000 rows"),
        (
            {"hidden_layer_sizes": (40, 8)},
            "546 weights, 60 rows: varpro, since its output layer is linear and can be solved exactly",
        ),
        (
            {"hidden_layer_sizes": ()},
            "10 weights, 60 rows: lbfgs, since it has no linear output layer behind hidden layers, or a link "
            "or vectors behind it",
        ),
    ],
)
def test_the_choice_of_the_solver_is_told(settings, line, capsys):
    X, y = make_atoms()
    net = regressor(networks="shared", solver="auto", verbose=3, **settings).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"[H O] {line}"
    assert len(lines) == net.n_iter_ + 2
    assert lines[1].startswith("[H O] iteration 1: loss ")
    assert lines[-1].startswith(f"[H O] {'stopped' if net.n_iter_ == 14 else 'converged'} after ")


def test_time_is_counted_on_from_the_file(tmp_path, monkeypatch):
    X, y = make_atoms()
    now = [0.0]
    monkeypatch.setattr(recorder, "perf_counter", lambda: now.__setitem__(0, now[0] + 1) or now[0])
    net = regressor(networks="shared", checkpoint=tmp_path, max_iter=5).fit(X, y)
    first = net.history_[1]["time"]
    now[0] += 1000  # the process is gone for a while
    time_ = net.set_params(max_iter=9, resume=True).fit(X, y).history_[1]["time"]
    assert_array_equal(time_[:5], first)
    assert len(time_) == 9
    assert (np.diff(time_) > 0).all()
    assert time_[-1] < 100
