"""What each convention of the embedding is worth, in five-fold cross-validation on the bundled data.

usage: python benchmarks/conventions.py [--materials batio3,moo3] [--neighbors 2,3] [--rows default,copies]

Prints the table of docs/embedding.md, in two to three minutes on one core (N=3 takes several times as long).
The folds are groups of structures, and each is held out once; --folds tests on the first few only.
"""

import argparse
import itertools
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer, load_batio3, load_moo3

MATERIALS = {"batio3": ("BaTiO3", load_batio3), "moo3": ("MoO3", load_moo3)}

#: Label, featurizer, its parameters, and those of the regressor.
ROWS = {
    "published": (
        "`published()`, one shared network, inputs scaled to [0, 1]",
        CycleMomentFeaturizer.published,
        {},
        {"networks": "shared", "scaler": "minmax"},
    ),
    "published-species": (
        "the same, one network per species",
        CycleMomentFeaturizer.published,
        {},
        {"scaler": "minmax"},
    ),
    "lab": (
        'slots with a fixed direction, lab frame (`frame="lab"`)',
        CycleMomentFeaturizer,
        {"frame": "lab"},
        {},
    ),
    "site": (
        "site frames, nothing of the site groups (`symmetry_average=False, symmetry_copies=1`)",
        CycleMomentFeaturizer,
        {},
        {"symmetry_average": False, "symmetry_copies": 1},
    ),
    "copies": (
        "site groups as data, 8 copies of every atom (`symmetry_average=False`)",
        CycleMomentFeaturizer,
        {},
        {"symmetry_average": False},
    ),
    "average": (
        "networks averaged over the site groups (`symmetry_penalty=0`)",
        CycleMomentFeaturizer,
        {},
        {"symmetry_penalty": 0.0},
    ),
    "default": ("**the defaults**: the same, with a penalty on the scatter", CycleMomentFeaturizer, {}, {}),
    "quickstart": (
        "for few structures, as in `tinynet quickstart` (`symmetry_penalty=0.3, alpha=1e-4`)",
        CycleMomentFeaturizer,
        {},
        {"symmetry_penalty": 0.3, "alpha": 1e-4},
    ),
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--materials", default=",".join(MATERIALS))
    parser.add_argument("--neighbors", default="2", help="values of N, such as 2,3")
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {','.join(ROWS)}")
    parser.add_argument("--folds", type=int, default=5, choices=range(1, 6), help="how many of the five")
    parser.add_argument("--max-iter", type=int, default=400, help="iterations per network")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    data = {name: MATERIALS[name][1]() for name in options.materials.split(",")}
    columns = list(itertools.product(data, map(int, options.neighbors.split(","))))
    titles = [f"{MATERIALS[name][0]}, N={N}" for name, N in columns]
    print("| | " + " | ".join(titles) + " |\n| --- |" + " --- |" * len(columns))
    zero = [f"{rms(data[name], np.zeros_like(data[name].target.values)):.3f}" for name, _ in columns]
    print("| zero force | " + " | ".join(zero) + " |", flush=True)
    start = time.perf_counter()
    for row in options.rows.split(","):
        label, featurizer, embedding, network = ROWS[row]
        errors = []
        for name, N in columns:
            pipe = make_pipeline(
                featurizer(n=4, N=N, bonds=data[name].bonds, **embedding),
                BPNNRegressor(max_iter=options.max_iter, random_state=0, n_jobs=options.jobs, **network),
            )
            errors.append(f"{held_out_rmse(pipe, data[name], options.folds):.3f}")
        print(f"| {label} | " + " | ".join(errors) + " |", flush=True)
    print(f"\n{time.perf_counter() - start:.0f} s")


def held_out_rmse(pipe, data, n_folds):
    """RMSE over the structures of the first folds, each predicted by a model that has not seen its group."""
    squares = []
    folds = GroupKFold(5).split(data.structures, groups=data.groups)
    for train, test in itertools.islice(folds, n_folds):
        with warnings.catch_warnings():  # 400 iterations are the budget of every row
            warnings.simplefilter("ignore", ConvergenceWarning)
            pipe.fit([data.structures[i] for i in train], data.target[train])
        predicted = pipe.predict([data.structures[i] for i in test])
        squares.append((data.target[test].values - predicted.values).ravel() ** 2)
    return float(np.sqrt(np.concatenate(squares).mean()))


def rms(data, predicted):
    return float(np.sqrt(np.mean((data.target.values - predicted) ** 2)))


if __name__ == "__main__":
    main()
