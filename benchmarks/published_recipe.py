"""The published recipe for real: one shared 16x32 network, Adam at 1e-4 on batches of 16 structures.

Trains on BaTiO3 AIMD with the published conventions and writes the learning curve (every 100th epoch) as CSV.

usage: python benchmarks/published_recipe.py [--data FOLDER] [--epochs 100000] [--out published_recipe.csv]
"""

import argparse
import time
from pathlib import Path

import batio3_aimd
import numpy as np

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer
from tinynet_sklearn.metrics import force_rmse, force_rmse_per_species


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=batio3_aimd.DEFAULT_DATA)
    parser.add_argument("--epochs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("published_recipe.csv"))
    options = parser.parse_args()
    train, test = batio3_aimd.load(options.data)
    featurizer = CycleMomentFeaturizer.published(n=4, N=2, paths="simple", bonds=batio3_aimd.BONDS)
    X = featurizer.fit_transform(train["structures"])
    regressor = BPNNRegressor.published(max_iter=options.epochs, random_state=options.seed, verbose=1)
    start = time.perf_counter()
    regressor.fit(X, train["forces"])
    seconds = time.perf_counter() - start
    (history, *_) = regressor.history_.values()
    epochs = np.arange(99, len(history["loss"]), 100)
    table = np.column_stack([epochs + 1, history["loss"][epochs], history["validation"][epochs]])
    header = "epoch,training MSE (eV/A)^2,validation MSE (eV/A)^2"
    np.savetxt(options.out, table, delimiter=",", header=header, comments="", fmt=("%d", "%.6g", "%.6g"))
    predicted = regressor.predict(featurizer.transform(test["structures"]))
    best = int(np.argmin(history["validation"]))
    species = force_rmse_per_species(test["forces"], predicted)
    n_epochs = len(history["loss"])
    print(f"{n_epochs} epochs in {seconds:.0f} s ({1e3 * seconds / n_epochs:.1f} ms each)")
    print(f"lowest validation RMSE {history['validation'][best] ** 0.5:.3f} eV/A after epoch {best + 1}")
    print(f"test RMSE {force_rmse(test['forces'], predicted):.3f} eV/A", end="; ")
    print(", ".join(f"{symbol} {error:.3f}" for symbol, error in species.items()))
    print(f"curve: {options.out}")


if __name__ == "__main__":
    main()
