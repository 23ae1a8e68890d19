"""Direct forces on BaTiO3 AIMD, 16x32 networks, test blocks in time: ours beside the published conventions.

usage: python benchmarks/force_accuracy.py [--data FOLDER] [--rows published,lab,site,symmetry]
"""

import argparse
import time
import warnings

import batio3_aimd
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer
from tinynet_sklearn.metrics import force_rmse, force_rmse_per_species

#: Label, featurizer and regressor of each row.
ROWS = {
    "published": (
        "published conventions, one shared network",
        lambda: CycleMomentFeaturizer.published(n=4, N=2, paths="simple", bonds=batio3_aimd.BONDS),
        {"networks": "shared", "scaler": "minmax", "symmetry_copies": 1},
    ),
    "published-species": (
        "published conventions, one network per species",
        lambda: CycleMomentFeaturizer.published(n=4, N=2, paths="simple", bonds=batio3_aimd.BONDS),
        {"scaler": "minmax", "symmetry_copies": 1},
    ),
    "lab": (
        "slots in lattice directions, lab frame",
        lambda: CycleMomentFeaturizer(paths="simple", bonds=batio3_aimd.BONDS, frame="lab"),
        {"symmetry_copies": 1},
    ),
    "site": (
        "site frames",
        lambda: CycleMomentFeaturizer(paths="simple", bonds=batio3_aimd.BONDS),
        {"symmetry_copies": 1},
    ),
    "symmetry": (
        "site frames, 8 operations of the site group",
        lambda: CycleMomentFeaturizer(paths="simple", bonds=batio3_aimd.BONDS),
        {"symmetry_copies": 8},
    ),
    "average": (
        "the same, predictions averaged over the group",
        lambda: CycleMomentFeaturizer(paths="simple", bonds=batio3_aimd.BONDS),
        {"symmetry_copies": 8, "symmetry_average": True},
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=batio3_aimd.DEFAULT_DATA)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="NAME=VALUE for the regressor")
    options = parser.parse_args()
    overrides = {}
    for item in options.set:
        name, value = item.split("=")
        overrides[name] = (
            float(value) if "." in value or "e" in value else int(value) if value.isdigit() else value
        )
    train, test = batio3_aimd.load(options.data)
    zero = np.sqrt(np.mean(np.concatenate(test["forces"]) ** 2))
    print(f"{len(train['structures'])} training and {len(test['structures'])} test frames of 40 atoms")
    print("L4(2), simple cycles; RMSE of the force components in eV/A on the test blocks")
    print(f"zero force: {zero:.3f}\n")
    print(
        f"{'':48s} {'columns':>7s} {'train':>6s} {'test':>6s}   {'Ba':>6s} {'Ti':>6s} {'O':>6s} {'fit s':>7s}"
    )
    for name in options.rows.split(","):
        label, featurizer, parameters = ROWS[name]
        features = featurizer().fit(train["structures"])
        start = time.perf_counter()
        regressor = BPNNRegressor(
            **{"random_state": options.seed, "n_jobs": options.jobs, **parameters, **overrides}
        )
        X = features.transform(train["structures"])
        with warnings.catch_warnings():  # 400 iterations are the budget of every row
            warnings.simplefilter("ignore", ConvergenceWarning)
            regressor.fit(X, train["forces"])
        seconds = time.perf_counter() - start
        predicted = regressor.predict(features.transform(test["structures"]))
        species = force_rmse_per_species(test["forces"], predicted)
        print(
            f"{label:48s} {X.shape[1]:7d} {force_rmse(train['forces'], regressor.predict(X)):6.3f} "
            f"{force_rmse(test['forces'], predicted):6.3f}   "
            f"{species['Ba']:6.3f} {species['Ti']:6.3f} {species['O']:6.3f} {seconds:7.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
