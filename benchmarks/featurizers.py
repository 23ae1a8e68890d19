"""Direct forces on cycle moments, sums, ACSF, SOAP, LMBTR and joined columns: one network size, one split.

Parts: "batio3" (molecular dynamics at 300, 450 and 900 K, the last fifth of each run as test set; a graph
that all structures share), "tio2" (aenet, given test structures) and "si" (mlearn, given test file). ACSF,
SOAP and LMBTR (inverse distances and angles) are those of DScribe. Columns that do not change when a
structure is turned cannot give a force: each kind appears alone and beside the smooth vectors of
`SmoothMomentFeaturizer`, of which the network gives the coefficients.

Training structures are --train evenly spaced ones of the training set, the same for all rows. Weight decay is
chosen for each row on 15 % of these (three stretches of consecutive structures). Finished rows are kept in
--results, not computed again.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import batio3_aimd
import numpy as np
import peers_data
from sklearn.exceptions import ConvergenceWarning

from tinynet_sklearn import (
    BPNNRegressor,
    CutoffBonds,
    CycleMomentFeaturizer,
    SmoothMomentFeaturizer,
)
from tinynet_sklearn.atomic_files import write_atomically
from tinynet_sklearn.dscribe_features import DScribeFeaturizer

HERE = Path(__file__).parent

#: Weight decays to choose from.
ALPHAS = (1e-4, 1e-3)

#: Structures on which features are timed.
TIMED = 40

#: Bonds to the first minimum of the pair distribution (`suggest_bonds`), and which walks over them.
BONDS = {
    "batio3": batio3_aimd.BONDS,
    "tio2": {"Ti-O": 2.6},
    "si": CutoffBonds(3.2, heteroatomic=False),
}
WALKS = {"batio3": "simple", "tio2": "all", "si": "all"}

TITLES = {"batio3": "BaTiO3", "tio2": "TiO2", "si": "Si"}

#: Name of a row: featurizers whose columns are joined, and the one whose vectors go along (None: none).
#: Site frames and vectors of L4(2) go along with its columns.
ROWS = {
    "L4(2)": (("lists",), "lists"),
    "L4(0), summed by kind": (("sums",), "sums"),
    "smooth moments": (("smooth",), "smooth"),
    "ACSF alone": (("acsf",), None),
    "SOAP n4 l4 alone": (("soap",), None),
    "LMBTR alone": (("pairs", "angles"), None),
    "ACSF, smooth vectors": (("acsf",), "smooth"),
    "SOAP n4 l4, smooth vectors": (("soap",), "smooth"),
    "SOAP n8 l6, smooth vectors": (("large",), "smooth"),
    "LMBTR, smooth vectors": (("pairs", "angles"), "smooth"),
    "smooth moments + ACSF": (("smooth", "acsf"), "smooth"),
    "smooth moments + SOAP n4 l4": (("smooth", "soap"), "smooth"),
    "L4(2) + ACSF": (("lists", "acsf"), "lists"),
    "L4(2) + SOAP n4 l4": (("lists", "soap"), "lists"),
}


def featurizers(part):
    """Featurizers by the names in `ROWS`, everything within 5 A."""
    each = {"bonds": BONDS[part], "paths": WALKS[part], "topology": "each", "overflow": "clip"}
    lists = CycleMomentFeaturizer(n=4, N=2, **each)
    if part == "batio3":
        lists = CycleMomentFeaturizer(n=4, N=2, bonds=BONDS[part])
    return {
        "lists": lists,
        "sums": CycleMomentFeaturizer(n=4, N=0, aggregate="sum", **each),
        "smooth": SmoothMomentFeaturizer(n_vector=2),
        "acsf": DScribeFeaturizer("acsf"),
        "soap": DScribeFeaturizer("soap", n_max=4, l_max=4),
        "large": DScribeFeaturizer("soap", n_max=8, l_max=6, sigma=0.3),
        "pairs": DScribeFeaturizer("lmbtr"),
        "angles": DScribeFeaturizer("lmbtr", geometry="angle"),
    }


def load(part, data):
    if part == "batio3":
        return batio3_aimd.load_potential(*([data] if data else []))
    return peers_data.load_tio2() if part == "tio2" else peers_data.load_mlearn("Si")


def spread(n_all, n_chosen):
    """Evenly spaced indices."""
    return np.unique(np.linspace(0, n_all - 1, min(n_all, n_chosen)).round().astype(int))


class Features:
    """Features of training and test structures of one part, each kind computed and timed once."""

    def __init__(self, part, train, test):
        self.train, self.test = train, test
        self.made, self.featurizers = {}, featurizers(part)

    def of(self, name):
        """Training features, test features, and microseconds per atom."""
        if name not in self.made:
            featurizer = self.featurizers[name].fit(self.train)
            timed = [self.train[k] for k in spread(len(self.train), TIMED)]
            featurizer.transform(timed)  # compiled
            seconds = []
            for _ in range(3):
                start = time.process_time()
                featurizer.transform(timed)
                seconds.append(time.process_time() - start)
            cost = float(np.median(seconds)) / sum(map(len, timed)) * 1e6
            self.made[name] = featurizer.transform(self.train), featurizer.transform(self.test), cost
        return self.made[name]

    def joined(self, columns, directions):
        """Features of a row of `ROWS`, and their cost."""
        names = list(dict.fromkeys([*columns, *([directions] if directions else [])]))
        cost = sum(self.of(name)[2] for name in names)
        sets = []
        for part in (0, 1):
            features = np.concatenate([self.of(name)[part] for name in columns], axis=1)
            if directions not in (None, *columns):
                features = self.of(directions)[part].with_values(features.values)
            sets.append(features)
        return *sets, cost


def fitted(features, forces, alpha, n_iterations, seed):
    net = BPNNRegressor(
        (16, 32), alpha=alpha, max_iter=n_iterations, dtype="float32", random_state=seed
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed budget is the plan
        return net.fit(features, forces)


def rms(difference):
    return float(np.sqrt(np.mean(np.square(difference))) * 1e3)


def measured(features, columns, directions, forces, options, seed):
    """One row: errors in meV/A, sizes and times."""
    train, test, cost = features.joined(columns, directions)
    block = np.arange(len(train)) * 20 // len(train)
    held = np.isin(block, (3, 10, 17))
    chosen = {}
    for alpha in ALPHAS:
        net = fitted(train[~held], forces[0][~held], alpha, options.iterations // 2, seed)
        chosen[alpha] = rms(net.predict(train[held]).values - forces[0][held].values)
    alpha = min(chosen, key=chosen.get)
    start = time.perf_counter()
    net = fitted(train, forces[0], alpha, options.iterations, seed)
    seconds = time.perf_counter() - start
    wrong = net.predict(test).values - forces[1].values
    return {
        "columns": train.shape[1],
        "vectors": 0 if train.vectors is None or train.frames is not None else train.vectors.shape[1],
        "rmse": rms(wrong),
        "mae": float(np.abs(wrong).mean() * 1e3),
        "train_rmse": rms(net.predict(train).values - forces[0].values),
        "zero": rms(forces[1].values),
        "alpha": alpha,
        "features_us_per_atom": cost,
        "train_seconds": seconds,
        "train_structures": len(train),
        "test_structures": len(test),
        "iterations": options.iterations,
    }


def show(kept):
    """Print medians over seeds, and lowest times: one table for all parts."""
    found = {}
    for key, row in kept.items():
        part, rest = key.split(": ", 1)
        found.setdefault((part, rest.rsplit(", seed", 1)[0]), []).append(row)
    parts = [part for part in TITLES if any(part == p for p, _ in found)]
    if not parts:
        return
    titles = [f"{TITLES[p]}: RMSE | columns + vectors | µs" for p in parts]
    print("\n| features | " + " | ".join(titles) + " |\n|" + " --- |" * (1 + 3 * len(parts)))
    zeros = [next(rows[0]["zero"] for (p, _), rows in found.items() if p == part) for part in parts]
    print("| zero force | " + " | ".join(f"{zero:.0f} | | " for zero in zeros) + "|")
    for name in ROWS:
        cells = []
        for part in parts:
            rows = found.get((part, name))
            if not rows:
                cells.append(" | | ")
                continue
            row = {k: np.median([r[k] for r in rows]) for k in rows[0]}
            row["features_us_per_atom"] = min(r["features_us_per_atom"] for r in rows)  # least disturbed
            width = f"{row['columns']:.0f}" + (f" + {row['vectors']:.0f}" if row["vectors"] else "")
            cells.append(f"{row['rmse']:.0f} | {width} | {row['features_us_per_atom']:.0f}")
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="batio3,tio2,si")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument("--train", type=int, default=300, help="training structures at most")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--data", type=Path, default=None, help="folder of the BaTiO3 runs")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "featurizers.json")
    parser.add_argument(
        "--quick", action="store_true", help="a minute: few structures and iterations, nothing kept"
    )
    options = parser.parse_args()
    if options.quick:
        options.train, options.iterations = 30, 10
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    kept = {}
    if options.results.exists() and not options.quick:
        kept = json.loads(options.results.read_text())
    for part in options.parts.split(","):
        features = forces = None
        for name, (columns, directions) in ROWS.items():
            for seed in map(int, options.seeds.split(",")):
                key = f"{part}: {name}, seed {seed}"
                if options.only not in name or key in kept:
                    continue
                if features is None:
                    train, test = load(part, options.data)
                    chosen = spread(len(train["structures"]), options.train)
                    asked = spread(len(test["structures"]), options.train) if options.quick else slice(None)
                    forces = train["y"].forces[chosen], test["y"].forces[asked]
                    structures = [train["structures"][k] for k in chosen]
                    held_out = [test["structures"][k] for k in np.arange(len(test["structures"]))[asked]]
                    features = Features(part, structures, held_out)
                kept[key] = measured(features, columns, directions, forces, options, seed)
                print(key, kept[key], flush=True)
                if not options.quick:
                    write_atomically(options.results, json.dumps(kept, indent=1).encode())
    show(kept)


if __name__ == "__main__":
    main()
