"""Dask clusters that lose workers; fits that are kept on disk; threads of TensorFlow inside workers."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from types import SimpleNamespace

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed, effective_n_jobs, parallel_config
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, KFold
from sklearn.pipeline import Pipeline

import tinynet_sklearn.workers as workers
from tinynet_sklearn import BPNNPotential, BPNNRegressor, CycleMomentFeaturizer, PerAtomArray, load_moo3
from tinynet_sklearn.committee import CommitteeRegressor
from tinynet_sklearn.dask_searches import on_dask
from tinynet_sklearn.recorder import Recorder
from tinynet_sklearn.thread_limits import limit_tensorflow_threads


def make_atoms(n_structures=24, seed=0):
    rng = np.random.RandomState(seed)
    values = [rng.randn(3, 2) for _ in range(n_structures)]
    X = PerAtomArray.from_list(values, species=[[8, 1, 1]] * n_structures)
    y = PerAtomArray.from_list([np.sin(v).sum(axis=1, keepdims=True) for v in values])
    return X, y


def regressor(folder=None, **settings):
    options = {"max_iter": 8, "random_state": 0, "checkpoint": folder, "n_iter_no_change": None}
    options["resume"] = "matching" if folder else False
    return BPNNRegressor((3,), **(options | settings))


def assert_same(a, b):
    assert a.weights_.keys() == b.weights_.keys()
    for key, arrays in a.weights_.items():
        for mine, other in zip(arrays, b.weights_[key], strict=True):
            np.testing.assert_array_equal(mine, other)


def scores(search):
    return {k: v for k, v in search.cv_results_.items() if "test" in k and "time" not in k}


def assert_same_scores(a, b):
    for name, values in scores(a).items():
        np.testing.assert_array_equal(values, b.cv_results_[name], err_msg=name)


pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def trained(monkeypatch):
    """Labels of the networks that were really trained."""
    labels = []
    for name, solve in list(workers.SOLVERS.items()):

        def counted(network, train, validation, options, recorder, solve=solve):
            labels.append(recorder.label)
            return solve(network, train, validation, options, recorder)

        monkeypatch.setitem(workers.SOLVERS, name, counted)
    return labels


# ---------------------------------------------------------------------------------- fits that are kept


def test_a_fit_that_was_done_is_read(tmp_path, trained):
    X, y = make_atoms()
    first = regressor(tmp_path).fit(X, y)
    assert sorted(trained) == ["H", "O"]
    again = regressor(tmp_path).fit(X, y)
    assert len(trained) == 2
    assert_same(first, again)
    assert_same(first, regressor().fit(X, y))
    np.testing.assert_array_equal(first.history_[8]["loss"], again.history_[8]["loss"])


@pytest.mark.parametrize("change", [{"alpha": 0.1}, {"random_state": 1}, {"scaler": "minmax"}, {"tol": 0.1}])
def test_other_settings_have_files_of_their_own(change, tmp_path, trained):
    X, y = make_atoms()
    first = regressor(tmp_path).fit(X, y)
    other = regressor(tmp_path, **change).fit(X, y)
    assert len(trained) == 4
    assert_same(other, regressor(**change).fit(X, y))
    assert_same(first, regressor(tmp_path).fit(X, y))  # not replaced


def test_other_data_and_versions_have_files_of_their_own(tmp_path, trained, monkeypatch):
    X, y = make_atoms()
    regressor(tmp_path).fit(X, y)
    other = make_atoms(seed=1)
    assert_same(regressor(tmp_path).fit(*other), regressor().fit(*other))
    n_before = len(trained)
    monkeypatch.setattr("tinynet_sklearn.checkpoint.__version__", "0.0.0")
    regressor(tmp_path).fit(X, y)
    assert len(trained) == n_before + 2


@pytest.mark.parametrize("order", [(3, 8), (8, 3)])
def test_longer_fits_go_on_from_shorter_ones(order, tmp_path):
    X, y = make_atoms()
    for max_iter in order:
        net = regressor(tmp_path, max_iter=max_iter).fit(X, y)
        assert net.n_iter_ <= max_iter
        assert_same(net, regressor(max_iter=max_iter).fit(X, y))
    started = np.load(next(tmp_path.glob("O-*-8.npz")))["recorder.time"]
    kept = np.load(next(tmp_path.glob("O-*-3.npz")))["recorder.time"]
    assert np.array_equal(started[:3], kept) == (order == (3, 8))


def test_a_damaged_file_is_trained_anew(tmp_path, trained):
    X, y = make_atoms()
    first = regressor(tmp_path).fit(X, y)
    path = next(tmp_path.glob("O-*.npz"))
    path.write_bytes(path.read_bytes()[:100])
    assert_same(first, regressor(tmp_path).fit(X, y))
    assert trained.count("O") == 2
    assert trained.count("H") == 1


def test_files_that_others_are_writing_are_left_alone(tmp_path):
    X, y = make_atoms()
    regressor(tmp_path).fit(X, y)
    path = next(tmp_path.glob("O-*.npz"))
    young, old = (path.with_name(f".{path.name}.{name}.tmp") for name in ("young", "old"))
    for torso in (young, old):
        torso.write_bytes(b"")
    os.utime(old, (1.0, 1.0))
    regressor(tmp_path).fit(X, y)
    assert young.exists()
    assert not old.exists()


def test_matching_needs_a_folder_and_a_seed(tmp_path):
    X, y = make_atoms()
    message = (
        "resume='matching' continues from the files in the folder checkpoint; got checkpoint=None. Name the "
        "folder, or set resume=False."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BPNNRegressor(resume="matching").fit(X, y)
    message = (
        "checkpoint needs an integer as random_state, for a resumed training begins with the same numbers; "
        "got None. Pass random_state=0, or any other."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        regressor(tmp_path, random_state=None).fit(X, y)


def test_a_committee_shares_a_folder(tmp_path, trained):
    X, y = make_atoms()
    committee = CommitteeRegressor(regressor(tmp_path), n_estimators=3, random_state=0).fit(X, y)
    assert len(trained) == 6
    again = CommitteeRegressor(regressor(tmp_path), n_estimators=3, random_state=0).fit(X, y)
    assert len(trained) == 6
    np.testing.assert_array_equal(committee.predict(X).values, again.predict(X).values)


@pytest.mark.slow
def interrupting(step, n_iter):
    def dying(self, *args):
        if self.n_iter == n_iter:
            raise KeyboardInterrupt
        return step(self, *args)

    return dying


def test_an_interrupt_ends_a_search(tmp_path, monkeypatch):
    X, y = make_atoms()
    search = GridSearchCV(regressor(tmp_path), {"alpha": [1e-4, 1e-2]}, cv=2)
    step = Recorder.step
    monkeypatch.setattr(Recorder, "step", interrupting(step, 3))
    with pytest.raises(KeyboardInterrupt):
        search.fit(X, y)
    assert not hasattr(search, "cv_results_")
    with pytest.warns(UserWarning, match="training was interrupted"):  # a fit alone keeps what it has
        regressor(tmp_path / "alone", resume=False).fit(X, y)
    monkeypatch.setattr(Recorder, "step", step)
    assert_same_scores(search.fit(X, y), GridSearchCV(regressor(), {"alpha": [1e-4, 1e-2]}, cv=2).fit(X, y))


def test_an_interrupt_ends_a_search_over_potentials(tmp_path, monkeypatch):
    data = load_moo3()
    X, y = data.structures[:12], data.target[:12]
    features = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances").fit(X)
    net = BPNNPotential((3,), max_iter=8, random_state=0, checkpoint=tmp_path, resume="matching")
    monkeypatch.setattr(Recorder, "step", interrupting(Recorder.step, 3))
    with pytest.raises(KeyboardInterrupt):
        net.fit(features.transform(X), {"forces": y})


def test_potentials_with_other_site_groups_have_files_of_their_own(tmp_path):
    data = load_moo3()
    X, y = data.structures[:12], data.target[:12]
    atoms = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances").fit_transform(X)
    net = BPNNPotential((3,), max_iter=2, random_state=0, checkpoint=tmp_path, resume="matching")
    first = net.fit(atoms, {"forces": y}).predict(atoms).values
    symmetry = atoms.frames.symmetry
    alone = replace(
        symmetry,
        gather=tuple(gather[:1] for gather in symmetry.gather),
        rotations=tuple(rotations[:1] for rotations in symmetry.rotations),
    )
    assert any(len(gather) > 1 for gather in symmetry.gather)
    other = replace(atoms, frames=replace(atoms.frames, symmetry=alone))
    second = net.fit(other, {"forces": y}).predict(other).values
    assert len(list(tmp_path.glob("*.npz"))) == 2
    assert not np.array_equal(first, second)


def test_a_potential_that_was_done_is_read(tmp_path):
    data = load_moo3()
    X, y = data.structures[:12], data.target[:12]
    features = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances").fit(X)
    atoms = features.transform(X)
    make = lambda: BPNNPotential(  # noqa: E731
        (3,), max_iter=4, random_state=0, checkpoint=tmp_path, resume="matching"
    )
    first = make().fit(atoms, {"forces": y})
    (path,) = tmp_path.glob("potential-*-4.npz")
    written = path.stat().st_mtime_ns
    again = make().fit(atoms, {"forces": y})
    assert path.stat().st_mtime_ns == written
    for z, net in first.atom_networks_.items():
        np.testing.assert_array_equal(net.network.flat(), again.atom_networks_[z].network.flat())


def test_a_search_that_failed_goes_on(tmp_path, trained):
    X, y = make_atoms()
    grid = {"alpha": [1e-3, 1e-2, 1e-1]}

    def dies(estimator, X, y):
        if len(trained) >= 8:
            raise KeyboardInterrupt
        return estimator.score(X, y)

    with pytest.raises(KeyboardInterrupt):
        GridSearchCV(regressor(tmp_path), grid, cv=3, scoring=dies).fit(X, y)
    assert len(trained) == 8
    search = GridSearchCV(regressor(tmp_path), grid, cv=3).fit(X, y)
    assert len(trained) == 2 * (3 * 3 + 1)
    assert_same_scores(search, GridSearchCV(regressor(), grid, cv=3).fit(X, y))


def test_halving_over_iterations_trains_none_twice(tmp_path, trained):
    X, y = make_atoms()
    grid = {"alpha": [1e-3, 1e-2, 1e-1, 1.0]}
    options = {"resource": "max_iter", "min_resources": 2, "max_resources": 8, "factor": 2, "cv": 2}
    search = HalvingGridSearchCV(regressor(tmp_path), grid, **options, random_state=0).fit(X, y)
    plain = HalvingGridSearchCV(regressor(), grid, **options, random_state=0).fit(X, y)
    assert_same_scores(search, plain)
    assert {path.stem.rpartition("-")[2] for path in tmp_path.glob("*.npz")} >= {"2", "4"}


# ---------------------------------------------------------------------------------- Dask


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("dask.distributed")
    with (
        warnings.catch_warnings(),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster):
    from dask.distributed import Client

    with Client(cluster) as client:
        client.wait_for_workers(2)
        yield client


def inside():
    inner = {*Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(4))}
    return effective_n_jobs(None), os.environ.get("OMP_NUM_THREADS"), os.getpid(), inner


@pytest.mark.slow
def test_what_is_parallel_inside_a_task_stays_in_its_worker(client):
    with on_dask(client):
        found = Parallel()(delayed(inside)() for _ in range(4))
    assert {n for n, *_ in found} == {1}
    assert {threads for _, threads, *_ in found} == {"1"}
    assert os.getpid() not in {pid for _, _, pid, *_ in found}
    assert all(inner == {pid} for _, _, pid, inner in found)


@pytest.mark.slow
def test_arguments_of_tasks_are_not_put_on_single_workers(client, monkeypatch):
    scattered = []
    scatter = client.scatter
    monkeypatch.setattr(
        client, "scatter", lambda *a, **options: scattered.append(a) or scatter(*a, **options)
    )
    rows = np.arange(10_000)
    with on_dask(client):
        assert Parallel()(delayed(len)(rows) for _ in range(4)) == [10_000] * 4
    assert scattered == []
    with parallel_config("dask", client=client):  # or else the name of the method has changed
        Parallel()(delayed(len)(rows) for _ in range(4))
    assert scattered


@pytest.mark.slow
@pytest.mark.parametrize("how", ["on_dask", "joblib"])
def test_features_of_a_cluster_are_those_of_one_process(how, client):
    data = load_moo3()
    embed = CycleMomentFeaturizer(n=4, N=1, bonds=data.bonds).fit(data.structures)
    with on_dask(client) if how == "on_dask" else parallel_config("dask", client=client):
        far = embed.transform(data.structures)
    near = embed.transform(data.structures)
    np.testing.assert_array_equal(far.values, near.values)
    np.testing.assert_array_equal(far.frames.rotations, near.frames.rotations)


@pytest.mark.slow
def test_a_search_outlives_a_worker(client, tmp_path):
    data = load_moo3()
    n = 2 * len(data.structures)  # folds whose indices joblib's own backend keeps on one worker
    X = [atoms.copy() for atoms in 2 * data.structures]
    y = np.concatenate([data.target, data.target])

    def search(folder):
        pipe = Pipeline(
            [
                ("embed", CycleMomentFeaturizer(n=2, bonds=data.bonds)),
                ("nets", regressor(folder, max_iter=25)),
            ]
        )
        grid = {"embed__N": [0, 1], "nets__alpha": [1e-4, 1e-3, 1e-2]}
        return GridSearchCV(pipe, grid, cv=KFold(3), scoring="r2", error_score="raise")

    assert n > 125
    local = search(None).fit(X, y)
    pids = set(client.run(os.getpid).values())
    killed = []

    def kill():
        while len(list(tmp_path.glob("*.npz"))) < 6:
            time.sleep(0.01)
        killed.append(min(pids))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    with on_dask(client, data=[X, y]):
        far = search(tmp_path).fit(X, y)
    killer.join()
    client.wait_for_workers(2)
    assert len(killed) == 1
    assert killed[0] not in set(client.run(os.getpid).values())
    assert_same_scores(local, far)
    assert_same(local.best_estimator_[-1], far.best_estimator_[-1])


def test_data_are_given_as_a_list():
    with (
        pytest.raises(
            TypeError,
            match=r"^data must be a list of what the call will get, as in data=\[X, y\]; got ndarray\.$",
        ),
        on_dask(data=np.zeros(3)),
    ):
        pass


def no_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "joblib._dask", None)


def no_method(monkeypatch):
    backend = pytest.importorskip("joblib._dask").DaskDistributedBackend
    monkeypatch.delattr(backend, "_to_func_args")


def other_method(monkeypatch):
    backend = pytest.importorskip("joblib._dask").DaskDistributedBackend
    monkeypatch.setattr(backend, "start_call", lambda self: None)


@pytest.mark.parametrize("other", [no_module, no_method, other_method])
def test_other_backends_of_joblib_are_refused(other, monkeypatch):
    other(monkeypatch)
    message = (
        f"on_dask changes methods of joblib's Dask backend that joblib {joblib.__version__} does not have. "
        'Use joblib.parallel_config("dask") instead.'
    )
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"), on_dask(client=object()):
        pass


# ---------------------------------------------------------------------------------- Ray, threads


@pytest.mark.slow
def test_backends_that_give_results_at_the_end(monkeypatch):
    data = load_moo3()
    embed = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds).fit(data.structures)
    near = embed.transform(data.structures)
    monkeypatch.setattr(joblib._parallel_backends.ThreadingBackend, "supports_return_generator", False)
    with parallel_config("threading", n_jobs=2):
        np.testing.assert_array_equal(embed.transform(data.structures).values, near.values)


class Threading:
    """What `tf.config.threading` offers."""

    def __init__(self, intra=0, running=False):
        self.intra, self.inter, self.running = intra, 0, running

    def get_intra_op_parallelism_threads(self):
        return self.intra

    def get_inter_op_parallelism_threads(self):
        return self.inter

    def set_intra_op_parallelism_threads(self, number):
        if self.running:
            raise RuntimeError("Intra op parallelism cannot be modified after initialization.")
        self.intra = number

    def set_inter_op_parallelism_threads(self, number):
        self.inter = number


@pytest.mark.parametrize(
    ("environment", "threading", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, Threading(), (3, 3, 3)),
        ({}, Threading(), (None, 0, 0)),
        ({"OMP_NUM_THREADS": "4,2"}, Threading(), (None, 0, 0)),
        ({"OMP_NUM_THREADS": "3", "TF_NUM_INTRAOP_THREADS": "2"}, Threading(), (None, 0, 0)),
        ({"OMP_NUM_THREADS": "3"}, Threading(intra=2), (None, 2, 0)),
        ({"OMP_NUM_THREADS": "3"}, Threading(running=True), (None, 0, 0)),
    ],
)
def test_what_the_user_says_of_threads_stands(environment, threading, expected, monkeypatch):
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tensorflow = SimpleNamespace(config=SimpleNamespace(threading=threading))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    assert (limit_tensorflow_threads(), threading.intra, threading.inter) == expected


THREADS = """
import warnings
import numpy as np
from tinynet_sklearn import BPNNRegressor
warnings.simplefilter("ignore")
BPNNRegressor((2,), solver="adam", max_iter=2, random_state=0).fit(np.eye(4), np.arange(4.0))
import tensorflow as tf
print(tf.config.threading.get_intra_op_parallelism_threads())
"""


@pytest.mark.slow
def test_tensorflow_takes_no_more_threads_than_the_worker_has():
    kept = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS") and "TF_NUM" not in k}
    done = subprocess.run(
        [sys.executable, "-c", THREADS],
        env=kept | {"OMP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "3"


def test_the_category_of_the_ignored_warning_is_ours():
    X, y = make_atoms(3)
    with pytest.warns(ConvergenceWarning):
        regressor(max_iter=1).fit(X, y)
