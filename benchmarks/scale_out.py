"""Searches on a Dask cluster that loses a worker, searches with caches, training on more than fits in memory.

    python benchmarks/scale_out.py dask
    python benchmarks/scale_out.py search
    python benchmarks/scale_out.py out-of-core --gib 3 --limit 1

"dask" needs dask and distributed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

import joblib
import numpy as np
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, PerAtomArray, load_batio3, load_moo3
from tinynet_sklearn.array_folders import open_per_atom, transform_to_folder
from tinynet_sklearn.dask_searches import on_dask
from tinynet_sklearn.metrics import force_rmse_scorer

MIB = 2**20


def search_over(data, folder=None, max_iter=150, memory=None, n_jobs=None):
    """18 fits and a refit, with (n, N) and weight decay varied."""
    nets = BPNNRegressor(
        max_iter=max_iter, random_state=0, checkpoint=folder, resume="matching" if folder else False
    )
    pipe = Pipeline([("embed", CycleMomentFeaturizer(n=4, bonds=data.bonds)), ("nets", nets)], memory=memory)
    grid = {"embed__N": [0, 1], "nets__alpha": [1e-4, 1e-3, 1e-2]}
    return GridSearchCV(
        pipe, grid, scoring=force_rmse_scorer, cv=GroupKFold(3), n_jobs=n_jobs, error_score="raise"
    )


def timed(call):
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def scores(search):
    names = [n for n in search.cv_results_ if n.endswith("test_score")]
    return [search.cv_results_[name].tolist() for name in names]


def dask():
    """The same search here, on two workers, with one of them killed, and again from what is on the disk."""
    import dask.config
    from dask.distributed import Client, LocalCluster

    # Without MALLOC_TRIM_THRESHOLD_, which nannies set: it doubles the time of training.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1)
    dask.config.set({"distributed.nanny.pre-spawn-environ": threads})
    data = load_moo3()
    data.groups = np.tile(data.groups, 2)
    data.structures = [atoms.copy() for atoms in 2 * data.structures]
    data.target = np.concatenate([data.target, data.target])

    def run(folder=None):
        return search_over(data, folder).fit(data.structures, data.target, groups=data.groups)

    def kill_at(folder, pid, n_files):
        while len(list(Path(folder).glob("*.npz"))) < n_files:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    local, seconds = timed(run)
    print(f"one process: {seconds:.1f} s")
    with (
        tempfile.TemporaryDirectory() as scratch,
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        for label, kills in [("two workers", False), ("two workers, one killed", True)]:
            folder = Path(scratch) / label
            folder.mkdir()
            if kills:
                pid = next(iter(client.run(os.getpid).values()))
                threading.Thread(target=kill_at, args=(folder, pid, 16), daemon=True).start()
            with on_dask(client, data=[data.structures, data.target]):
                far, seconds = timed(lambda folder=folder: run(folder))
            equal = scores(far) == scores(local) and all(
                np.array_equal(a, b)
                for z, arrays in local.best_estimator_[-1].weights_.items()
                for a, b in zip(arrays, far.best_estimator_[-1].weights_[z], strict=True)
            )
            print(f"{label}: {seconds:.1f} s, scores and weights equal bit for bit: {equal}")
        with on_dask(client, data=[data.structures, data.target]):
            again, seconds = timed(lambda: run(folder))
        print(f"again, from the files: {seconds:.1f} s, equal: {scores(again) == scores(local)}")
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{len(list(folder.iterdir()))} files, {size / MIB:.1f} MiB")


def search():
    """What caches of features save and cost, and what a second process does."""
    data = load_moo3()
    embed = CycleMomentFeaturizer(n=6, N=1, bonds=data.bonds)
    features = embed.fit_transform(data.structures)
    _, seconds = timed(lambda: embed.fit_transform(data.structures))
    _, hashing = timed(lambda: joblib.hash((embed, data.structures, data.target)))
    _, hashing_features = timed(lambda: joblib.hash(features))
    print(
        f"{len(data.structures)} structures of MoO3: featurized in {1e3 * seconds:.0f} ms; structures "
        f"hashed in {1e3 * hashing:.0f} ms, features ({features.nbytes / MIB:.1f} MiB) in "
        f"{1e3 * hashing_features:.0f} ms"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for label, memory, n_jobs, max_iter in [
            ("no cache", None, None, 20),
            ("memory=", scratch, None, 20),
            ("again", scratch, 2, 20),
            ("no cache", None, None, 150),
            ("no cache", None, 2, 150),
            ("no cache, same workers", None, 2, 150),
        ]:
            found, seconds = timed(
                lambda memory=memory, n_jobs=n_jobs, max_iter=max_iter: search_over(
                    data, None, max_iter, memory=memory, n_jobs=n_jobs
                ).fit(data.structures, data.target, groups=data.groups)
            )
            kept = len(list(Path(scratch).rglob("output.pkl")))
            print(
                f"{label}, {max_iter} iterations, n_jobs={n_jobs}: {seconds:.1f} s, {kept} features kept for "
                "19 fits"
            )
        print(f"best: {found.best_params_}")


def rattled(n_structures):
    """Structures that are never all in memory, and what pulls their atoms back."""
    base = load_batio3().structures[0]
    for seed in range(n_structures):
        atoms = base.copy()
        atoms.positions += 0.05 * np.random.RandomState(seed).randn(len(atoms), 3)
        yield atoms


def pulls(n_structures):
    base = load_batio3().structures[0]
    y = [-0.05 * np.random.RandomState(seed).randn(len(base), 3) for seed in range(n_structures)]
    return PerAtomArray.from_list(y, [base.numbers] * n_structures)


class Peak(threading.Thread):
    """Highest private memory of this process; pages of mapped files, which can be dropped, are not in it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.highest = 0
        self.start()

    def run(self):  # noqa: D102
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            line = next(line for line in lines if line.startswith("RssAnon"))
            self.highest = max(self.highest, int(line.split()[1]) * 1024)
            time.sleep(0.02)


def step(what, folder, n_structures, max_iter, limit):
    """One step in a process of its own, with a limit on its private memory."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    warnings.simplefilter("ignore")
    data, peak = load_batio3(), Peak()
    time.sleep(0.1)
    before = peak.highest
    start = time.perf_counter()
    note = {}
    try:
        if what == "featurize":
            embed = CycleMomentFeaturizer(n=4, N=2, bonds=data.bonds).fit(data.structures)
            transform_to_folder(folder, embed, rattled(n_structures), batch_size=256)
        else:
            X = open_per_atom(folder)
            if what == "in memory":
                X = X[np.arange(len(X))]
            y = pulls(n_structures)
            options = {"symmetry_average": False, "symmetry_copies": 1}
            net = BPNNRegressor(max_iter=max_iter, random_state=0, **options).fit(X, y)
            note = {"loss": net.loss_, "error": float(np.abs(net.predict(X).values - y.values).mean())}
    except MemoryError as error:
        note = {"failed": f"MemoryError: {str(error)[:70]}"}
    seconds = time.perf_counter() - start
    total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(note | {"s": seconds, "before": before, "peak": peak.highest, "resident": total}))


def out_of_core(gib, limit, max_iter):
    """Featurize and train with so many GiB of features and a limit on private memory."""
    width = (
        8
        * CycleMomentFeaturizer(n=4, N=2, bonds=load_batio3().bonds)
        .fit(load_batio3().structures)
        .n_features_out_
    )
    n_atoms = len(load_batio3().structures[0])
    n_structures = int(gib * 2**30 / width / n_atoms)
    print(
        f"{n_structures} structures, {n_structures * n_atoms} atoms, {gib:.2f} GiB of features; "
        f"private memory limited to {limit:.2f} GiB"
    )
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        for what in ("featurize", "train", "in memory"):
            arguments = [what, folder, str(n_structures), str(max_iter), str(int(limit * 2**30))]
            done = subprocess.run(
                [sys.executable, __file__, "step", *arguments], capture_output=True, text=True, check=False
            )
            if done.returncode:
                print(f"{what}: ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
                continue
            found = json.loads(done.stdout.splitlines()[-1])
            sizes = {name: f"{found.pop(name) / MIB:.0f} MiB" for name in ("before", "peak", "resident")}
            print(
                f"{what}: {found.pop('s'):.0f} s, private memory {sizes['before']} before, {sizes['peak']} "
                f"at most; with pages of the files {sizes['resident']}; {found}"
            )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["dask", "search", "out-of-core", "step"])
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--gib", type=float, default=3.0, help="features, GiB")
    parser.add_argument("--limit", type=float, default=1.0, help="of private memory, GiB")
    parser.add_argument("--max-iter", type=int, default=20)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.what == "step":
        what, folder, n_structures, max_iter, limit = options.arguments
        step(what, folder, int(n_structures), int(max_iter), int(limit))
    elif options.what == "out-of-core":
        out_of_core(options.gib, options.limit, options.max_iter)
    else:
        {"dask": dask, "search": search}[options.what]()


if __name__ == "__main__":
    main()
