"""Direct forces on BaTiO3 AIMD over (n, N) and over network sizes: the tables behind the paper's Figure 1.

Every fit is appended to a CSV file as soon as it is done; a run that was stopped goes on where it was.

usage: python benchmarks/sweep.py [--data FOLDER] [--tables embedding,order,network] [--seeds 0,1,2]
"""

import argparse
import csv
import time
import warnings
from pathlib import Path
from statistics import median

import batio3_aimd
import numpy as np
from sklearn.exceptions import ConvergenceWarning

from tinynet_sklearn import BPNNRegressor, CycleMomentFeaturizer
from tinynet_sklearn.metrics import force_rmse, force_rmse_per_species

RESULTS = Path(__file__).parent / "results" / "sweep.csv"
COLUMNS = [
    "table",
    "n",
    "N",
    "order",
    "hidden",
    "seed",
    "columns",
    "weights",
    "train",
    "test",
    "Ba",
    "Ti",
    "O",
    "seconds",
]
WALKS, HOPS = (0, 2, 4, 6), (0, 1, 2, 3)
NETWORKS = ((8, 16), (16, 32), (32, 64), (64, 128), (64, 128, 128))


def cases(tables, seeds, hops):
    """Yield table, n, N, order of the entries, hidden layers and seed of every fit."""
    for seed in seeds:
        if "embedding" in tables:
            yield from (
                ("embedding", n, N, "direction", (16, 32), seed) for n in WALKS for N in hops if n or N
            )
        if "order" in tables:  # slots that do not tell directions: walks alone cannot give a vector
            yield from (("order", n, 0, "value", (16, 32), seed) for n in WALKS[1:])
        if "network" in tables:
            yield from (("network", 4, 2, "direction", hidden, seed) for hidden in NETWORKS)


def fit(train, test, n, N, order, hidden, seed, options):
    """Train once; return the rest of the CSV row."""
    frame = "site" if order == "direction" else "lab"
    featurizer = CycleMomentFeaturizer(
        n=n, N=N, paths="simple", bonds=batio3_aimd.BONDS, order=order, frame=frame
    )
    X = featurizer.fit_transform(train["structures"])
    regressor = BPNNRegressor(
        hidden, max_iter=options.max_iter, random_state=seed, dtype="float32", n_jobs=options.jobs
    )
    start = time.perf_counter()
    with warnings.catch_warnings():  # the iterations are a budget
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor.fit(X, train["forces"])
    seconds = time.perf_counter() - start
    predicted = regressor.predict(featurizer.transform(test["structures"]))
    species = force_rmse_per_species(test["forces"], predicted)
    weights = sum(sum(a.size for a in arrays) for arrays in regressor.weights_.values())
    errors = [force_rmse(train["forces"], regressor.predict(X)), force_rmse(test["forces"], predicted)]
    errors += [species[symbol] for symbol in ("Ba", "Ti", "O")]
    return [X.shape[1], weights, *(f"{error:.4f}" for error in errors), f"{seconds:.1f}"]


def read(path):
    """Rows done so far, as dicts."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def integers(text):
    """Numbers of a list with commas."""
    return [int(number) for number in text.split(",")]


def key_of(table, n, N, order, hidden, seed):
    """The entries of a CSV row that name a fit."""
    return (table, str(n), str(N), order, "x".join(map(str, hidden)), str(seed))


def report(rows):
    """Print medians over the seeds."""
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[c] for c in COLUMNS[:5]), []).append(row)
    n_seeds = sorted({len(group) for group in groups.values()})
    print(f"test RMSE in eV/A, medians over {' or '.join(map(str, n_seeds))} seeds\n")

    def value(group, column="test"):
        return median(float(row[column]) for row in group)

    def table(name):
        return {key: group for key, group in groups.items() if key[0] == name}

    if table("embedding"):
        print("| n \\ N | " + " | ".join(map(str, HOPS)) + " |\n|" + " --- |" * (len(HOPS) + 1))
        for n in WALKS:
            cells = [groups.get(("embedding", str(n), str(N), "direction", "16x32")) for N in HOPS]
            print(f"| {n} | " + " | ".join(f"{value(cell):.3f}" if cell else "" for cell in cells) + " |")
        print()
    for (_, n, N, order, *_), group in sorted(table("order").items()):
        print(f"n={n}, N={N}, order={order!r}: {value(group):.3f}")
    if table("network"):
        print("\n| hidden layers | weights | train | test | Ba | Ti | O | fit, s |\n|" + " --- |" * 8)
        for key, group in sorted(table("network").items(), key=lambda item: int(item[1][0]["weights"])):
            cells = [f"{value(group, c):.3f}" for c in ("train", "test", "Ba", "Ti", "O")]
            print(
                f"| {key[4]} | {group[0]['weights']} | {' | '.join(cells)} | {value(group, 'seconds'):.0f} |"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=batio3_aimd.DEFAULT_DATA)
    parser.add_argument("--tables", default="embedding,order,network")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--hops", default=",".join(map(str, HOPS)), help="values of N in the first table")
    parser.add_argument("--max-iter", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    train, test = batio3_aimd.load(options.data)
    print(f"zero force: {np.sqrt(np.mean(np.concatenate(test['forces']) ** 2)):.3f}")
    done = {tuple(row[c] for c in COLUMNS[:6]) for row in read(options.out)}
    for case in cases(options.tables.split(","), integers(options.seeds), integers(options.hops)):
        if key_of(*case) in done:
            continue
        row = [*key_of(*case), *fit(train, test, *case[1:], options)]
        with options.out.open("a", newline="") as file:
            writer = csv.writer(file)
            if file.tell() == 0:
                writer.writerow(COLUMNS)
            writer.writerow(row)
        print(*row, flush=True)
    report(read(options.out))


if __name__ == "__main__":
    main()
