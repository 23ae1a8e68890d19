"""Direct forces on BaTiO3 AIMD, 16x32 networks, test blocks in time: what each ingredient gives.

The default, then the default with one ingredient changed, then the published conventions.

usage: python benchmarks/force_accuracy.py [--data FOLDER] [--rows default,copies,...] [--seeds 0,1,2] [--N 2]
"""

import argparse
import time
import warnings

import batio3_aimd
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from tinynet_sklearn import BPNNRegressor, CommitteeRegressor, CycleMomentFeaturizer
from tinynet_sklearn.metrics import force_rmse, force_rmse_per_species

#: Stands for `CycleMomentFeaturizer.published`.
PUBLISHED = {}

#: Label, options of the featurizer, options of the regressor.
ROWS = {
    "default": ("**default**", {}, {}),
    "float64": ("float64 instead of float32", {}, {"dtype": "float64"}),
    "lbfgs": ("output layer not solved but searched (lbfgs)", {}, {"solver": "lbfgs"}),
    "no-penalty": ("no penalty on the scatter over the group", {}, {"symmetry_penalty": 0.0}),
    "subgroup": ("averages over 8 operations at most", {}, {"symmetry_average": 8}),
    "copies": ("group as data: 8 copies of each row", {}, {"symmetry_average": False}),
    "all-copies": (
        "group as data: all copies of each row",
        {},
        {"symmetry_average": False, "symmetry_copies": "all"},
    ),
    "no-group": ("without the group", {}, {"symmetry_average": False, "symmetry_copies": 1}),
    "no-frames": (
        "without group and site frames",
        {"frame": "lab"},
        {"symmetry_copies": 1, "symmetry_average": False},
    ),
    "no-slots": (
        "without group, frames and slots: entries by value",
        {"frame": "lab", "order": "value"},
        {"symmetry_copies": 1, "symmetry_average": False},
    ),
    "no-decay": ("without weight decay", {}, {"alpha": 0.0}),
    "shared": ("one network for all species", {}, {"networks": "shared"}),
    "committee": ("mean of 4 seeds", {}, {"committee": 4}),
    "published-species": (
        "published conventions, per species",
        PUBLISHED,
        {"scaler": "minmax", "symmetry_copies": 1},
    ),
    "published": (
        "published conventions, one shared network",
        PUBLISHED,
        {"networks": "shared", "scaler": "minmax", "symmetry_copies": 1},
    ),
}


def fit(train, test, features, parameters, options, seed):
    """Train once; return columns, errors (train, test, Ba, Ti, O) and seconds."""
    make = CycleMomentFeaturizer.published if features is PUBLISHED else CycleMomentFeaturizer
    changes = {} if features is PUBLISHED else features
    featurizer = make(n=4, N=options.N, paths="simple", bonds=batio3_aimd.BONDS, **changes)
    X = featurizer.fit_transform(train["structures"])
    parameters = {"dtype": "float32", "max_iter": options.max_iter, "n_jobs": options.jobs} | parameters
    n_members = parameters.pop("committee", None)
    model = BPNNRegressor(random_state=seed, **parameters)
    if n_members is not None:
        model = CommitteeRegressor(model, n_members, random_state=seed)
    start = time.perf_counter()
    with warnings.catch_warnings():  # the iterations are the budget of every row
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, train["forces"])
    seconds = time.perf_counter() - start
    predicted = model.predict(featurizer.transform(test["structures"]))
    species = force_rmse_per_species(test["forces"], predicted)
    errors = [force_rmse(train["forces"], model.predict(X)), force_rmse(test["forces"], predicted)]
    return [X.shape[1], *errors, *(species[symbol] for symbol in ("Ba", "Ti", "O")), seconds]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=batio3_aimd.DEFAULT_DATA)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--N", type=int, default=2)
    parser.add_argument("--max-iter", type=int, default=BPNNRegressor().max_iter)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    train, test = batio3_aimd.load(options.data)
    zero = np.sqrt(np.mean(np.concatenate(test["forces"]) ** 2))
    print(f"{len(train['structures'])} training and {len(test['structures'])} test frames of 40 atoms")
    print(
        f"L4({options.N}), simple cycles, 16x32 tanh, {options.max_iter} iterations, medians of seeds {seeds}"
    )
    print(f"RMSE of the force components in eV/A on the test blocks; zero force: {zero:.3f}\n")
    print("| | columns | train | test | lowest-highest | Ba | Ti | O | fit, s |\n|" + " --- |" * 9)
    for name in options.rows.split(","):
        label, features, parameters = ROWS[name]
        runs = [fit(train, test, features, parameters, options, seed) for seed in seeds]
        columns, *errors, seconds = np.median(runs, axis=0)
        tests = [run[2] for run in runs]
        cells = [f"{error:.3f}" for error in errors]
        cells.insert(2, f"{min(tests):.3f}-{max(tests):.3f}")
        print(f"| {label} | {columns:.0f} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
