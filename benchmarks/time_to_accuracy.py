"""Seconds to the validation error that the published recipe reaches in 100,000 epochs.

The recipe (`published_recipe.py`) was run once; its curve is in results/. Here a hundred of its epochs are
timed, and the others run to the same error on held-out structures drawn in the same way, in one process.

usage: python benchmarks/time_to_accuracy.py [--data FOLDER] [--seeds 0,1,2] [--rows adam,...]
"""

import argparse
import warnings
from pathlib import Path
from statistics import median

import batio3_aimd
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer

CURVE = Path(__file__).parent / "results" / "published_recipe.csv"
TIMED_EPOCHS = 100

#: The recipe's split and nothing else of it: the best weights on the same seventh of the structures are kept.
SPLIT = {
    "early_stopping": True,
    "validation_fraction": 1 / 7,
    "n_iter_no_change": None,
    "tol": 0.0,
    "dtype": "float32",
    "alpha": 0.0,
}
SAME_NETWORK = SPLIT | {"networks": "shared", "symmetry_average": False, "symmetry_copies": 1}

#: Label, whether the inputs are the published ones, options of the regressor.
ROWS = {
    "adam": (
        "same inputs and network, Adam from 3e-3 along a cosine",
        True,
        SAME_NETWORK
        | {"solver": "adam", "learning_rate": "cosine", "learning_rate_init": 3e-3, "max_iter": 3000},
    ),
    "varpro": ("same inputs and network, varpro", True, SAME_NETWORK | {"max_iter": 3000}),
    "species": (
        "same inputs, a network per species, varpro",
        True,
        SAME_NETWORK | {"networks": "per-species", "max_iter": 1500},
    ),
    "default": ("our inputs, a network per species, varpro", False, SPLIT | {"alpha": 1e-3, "max_iter": 60}),
}


def validation_error(regressor, counts):
    """Validation RMSE in eV/A by iteration and the seconds to it, over all networks together.

    Networks of several species train one after the other here: their times add up.
    """
    histories = {id(regressor.atom_networks_[z]): (z, h) for z, h in regressor.history_.items()}
    total = sum(counts.values())
    squares, seconds = 0.0, 0.0
    shortest = min(len(h["validation"]) for _, h in histories.values())
    for z, history in histories.values():
        share = 1.0 if len(histories) == 1 else counts[z] / total
        scale = regressor.atom_networks_[z].targets.scale.mean()
        squares = squares + share * scale**2 * history["validation"][:shortest]
        seconds = seconds + history["time"][:shortest]
    return np.sqrt(squares), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=batio3_aimd.DEFAULT_DATA)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", default="0,1,2")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    train, _ = batio3_aimd.load(options.data)
    curve = np.loadtxt(CURVE, delimiter=",", skiprows=1)
    goal = np.sqrt(curve[:, 2].min())
    n_epochs = curve[curve[:, 2].argmin(), 0]
    published = CycleMomentFeaturizer.published(n=4, N=2, paths="simple", bonds=batio3_aimd.BONDS)
    ours = CycleMomentFeaturizer(paths="simple", bonds=batio3_aimd.BONDS)
    X = {True: published.fit_transform(train["structures"]), False: ours.fit_transform(train["structures"])}
    counts = dict(zip(*np.unique(X[True].species, return_counts=True), strict=True))

    warnings.simplefilter("ignore", ConvergenceWarning)
    recipe = BPNNRegressor.published(max_iter=TIMED_EPOCHS, random_state=0).fit(X[True], train["forces"])
    (history, *_) = recipe.history_.values()
    half = TIMED_EPOCHS // 2  # the first call compiles
    per_epoch = (history["time"][-1] - history["time"][half - 1]) / (TIMED_EPOCHS - half)
    reference = per_epoch * n_epochs
    print(f"goal: validation RMSE {goal:.3f} eV/A, epoch {n_epochs:.0f} of the published recipe")
    print(f"recipe: {1e3 * per_epoch:.1f} ms per epoch, {reference:.0f} s to the goal\n")
    print("| | seconds | ratio | lowest error, eV/A |\n| --- | --- | --- | --- |")
    print(f"| published recipe (Adam 1e-4) | {reference:.0f} | 1 | {goal:.3f} |")
    for name in options.rows.split(","):
        label, same_inputs, parameters = ROWS[name]
        reached, lowest = [], []
        for seed in seeds:
            model = BPNNRegressor(random_state=seed, **parameters).fit(X[same_inputs], train["forces"])
            error, seconds = validation_error(model, counts)
            hits = np.flatnonzero(error <= goal)
            reached.append(seconds[hits[0]] if len(hits) else np.inf)
            lowest.append(error.min())
        time_to = median(reached)
        print(f"| {label} | {time_to:.1f} | {reference / time_to:.0f} | {median(lowest):.3f} |", flush=True)


if __name__ == "__main__":
    main()
