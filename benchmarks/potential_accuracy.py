"""Held-out errors of `BPNNPotential`, 16x32 per species, beside the figures of peers on the same splits.

Parts: "aimd" (BaTiO3, last 20 % of each run; beside it the direct mode with --direct), "cost" (the same with
fewer operations of the site groups and smaller embeddings: accuracy against the time of a force call), "si"
and "tio2" (public sets with their own test splits). Finished rows are kept in --results, not computed again.
"""

import argparse
import json
import time
from pathlib import Path

import batio3_aimd
import numpy as np
import peers_data
from sklearn.pipeline import Pipeline

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CycleMomentFeaturizer,
    PotentialTargets,
    SmoothMomentFeaturizer,
    load_model,
    save_model,
)
from tinynet_sklearn.atomic_files import write_atomically
from tinynet_sklearn.checkpoint import file_name

GPA = 160.21766

#: Figures of peers on these splits.
PEERS = {
    "aimd": [
        "DeePMD-kit 3.2.0 se_e2_a, same split: force RMSE 0.072 eV/A, energies 0.9-2.9 meV/atom, 32 min"
    ],
    "si": [
        "published [16, 16] networks, test MAE: ACSF 120.0, EAMD 90.8, SO4 89.4, SO3 82.6 meV/A; "
        "energies 9.25, 4.81, 3.83, 3.95 meV/atom"
    ],
    "tio2": ["published 5x5 tanh networks on Chebyshev descriptors: force RMSE 0.224 eV/A, 7.8 meV/atom"],
}


def cycles(n=4, N=2):
    return CycleMomentFeaturizer(n=n, N=N, paths="simple", bonds=batio3_aimd.BONDS, coordinates="distances")


def rows(part, seeds):
    """Name, featurizer and parameters of each fit."""
    if part == "aimd":
        for seed in seeds:
            yield f"L4(2), 400 epochs, seed {seed}", cycles(), {"random_state": seed}
        yield "L4(2), 100 epochs", cycles(), {"max_iter": 100}
    if part == "cost":
        for name, featurizer in (("L4(2)", cycles()), ("L0(2)", cycles(0)), ("L4(1)", cycles(4, 1))):
            for operations in (True, 8, False):
                how = {True: "all operations", 8: "8 operations", False: "no averaging"}[operations]
                yield (
                    f"{name}, {how}, 100 epochs",
                    featurizer,
                    {"symmetry_average": operations, "max_iter": 100},
                )
    if part == "si":
        for iterations in (300, 1000, 3000):
            settings = {"solver": "lbfgs", "energy_weight": 1.0, "max_iter": iterations}
            yield f"smooth moments to 5 A, {iterations} iterations", SmoothMomentFeaturizer(), settings
    if part == "tio2":
        featurizer = SmoothMomentFeaturizer(n_triangle=4, n_square=1)
        for epochs in (100, 400):
            settings = {"solver": "adam", "energy_weight": 1.0, "max_iter": epochs}
            yield f"smooth moments to 5 A, {epochs} epochs", featurizer, settings


def load(part, data):
    if part in ("aimd", "cost"):
        return batio3_aimd.load_potential(*([data] if data else []))
    return peers_data.load_mlearn("Si") if part == "si" else peers_data.load_tio2()


def measured(model, test):
    """Errors on a test set."""
    found = model.predict(test["structures"], output="all")
    y = test["y"]
    forces = found.forces.values - y.forces.values
    energies = (found.energy - y.energy) / y.forces.counts
    errors = {
        "force_rmse": np.sqrt(np.mean(forces**2)),
        "force_mae": np.mean(np.abs(forces)),
        "energy_mae_meV": 1e3 * np.mean(np.abs(energies)),
    }
    if y.stress is not None:
        errors["stress_rmse_GPa"] = GPA * np.sqrt(np.mean((found.stress - y.stress) ** 2))
    if "run" in test:
        for run in np.unique(test["run"]):
            own = (np.array(test["run"]) == run)[y.forces.structure_of_row]
            errors[f"force_rmse {run}"] = np.sqrt(np.mean(forces[own] ** 2))
    return {name: float(value) for name, value in errors.items()}


class Mean:
    """Mean of several potentials, which is the gradient of an energy as each of them is."""

    def __init__(self, models):
        self.models = models

    def predict(self, structures, output):
        """Energies, forces and stresses, averaged over the models."""
        found = [model.predict(structures, output=output) for model in self.models]
        forces = found[0].forces.with_values(np.mean([f.forces.values for f in found], axis=0))
        return PotentialTargets(
            np.mean([f.energy for f in found], axis=0), forces, np.mean([f.stress for f in found], axis=0)
        )


def model_file(arguments, key):
    return arguments.models / f"{file_name(key)[:-4]}.tinynet"


def microseconds(model, structure):
    """Time of ``predict(features, output="all")`` per atom of four cells, median of 20 calls."""
    structure = structure * (2, 2, 1)
    features = model[0].adapted_to(structure).transform([structure])
    times = []
    for _ in range(20):
        start = time.perf_counter()
        model[-1].predict(features, output="all")
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times)) / len(structure)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="aimd,cost,si,tio2")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", type=Path, default=None, help="folder of the BaTiO3 runs")
    parser.add_argument("--direct", action="store_true", help="fit the direct mode on the AIMD split, too")
    parser.add_argument("--models", type=Path, default=None, help="folder to save the fitted models in")
    parser.add_argument("--n-jobs", type=int, default=2)
    here = Path(__file__).parent
    parser.add_argument("--results", type=Path, default=here / "results" / "potential.json")
    arguments = parser.parse_args()
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}

    def keep(key, entry):
        results[key] = entry
        write_atomically(arguments.results, json.dumps(results, indent=1).encode())

    def save(key, model):
        if arguments.models is not None:
            arguments.models.mkdir(parents=True, exist_ok=True)
            save_model(model, model_file(arguments, key))

    for part in arguments.parts.split(","):
        print(f"\n{part}\n" + "\n".join(PEERS.get(part, [])), flush=True)
        sets = None
        for name, featurizer, settings in rows(part, [int(s) for s in arguments.seeds.split(",")]):
            key = f"{part}: {name}"
            if key not in results:
                sets = sets or load(part, arguments.data)
                net = BPNNPotential(**({"random_state": 0, "n_jobs": arguments.n_jobs} | settings))
                model = Pipeline([("embed", featurizer), ("net", net)])
                start = time.perf_counter()
                model.fit(sets[0]["structures"], sets[0]["y"])
                entry = {"seconds": time.perf_counter() - start} | measured(model, sets[1])
                save(key, model)
                keep(key, entry)
            if part == "cost" and arguments.models is not None:  # times are of this run, errors are kept
                sets = sets or load(part, arguments.data)
                model = load_model(model_file(arguments, key))
                time_per_atom = microseconds(model, sets[1]["structures"][0])
                keep(key, results[key] | {"call_us_per_atom": time_per_atom})
            print(name, *(f"{k} {v:.4g}" for k, v in results[key].items()), sep="  ", flush=True)
        if part == "aimd" and arguments.models is not None:
            seeds = [f"aimd: L4(2), 400 epochs, seed {s}" for s in arguments.seeds.split(",")]
            key = f"aimd: L4(2), mean of seeds {arguments.seeds}"
            if key not in results:
                sets = sets or load(part, arguments.data)
                keep(
                    key, measured(Mean([load_model(model_file(arguments, seed)) for seed in seeds]), sets[1])
                )
            print(key, *(f"{k} {v:.4g}" for k, v in results[key].items()), sep="  ", flush=True)
        if part == "aimd" and arguments.direct:
            key = "aimd: direct mode, L4(2), 400 iterations"
            if key not in results:
                sets = sets or load(part, arguments.data)
                embedding = CycleMomentFeaturizer(n=4, N=2, paths="simple", bonds=batio3_aimd.BONDS)
                net = BPNNRegressor(random_state=0, n_jobs=arguments.n_jobs)
                model = Pipeline([("embed", embedding), ("net", net)])
                start = time.perf_counter()
                model.fit(sets[0]["structures"], sets[0]["y"].forces)
                seconds = time.perf_counter() - start
                save(key, model)
                errors = model.predict(sets[1]["structures"]).values - sets[1]["y"].forces.values
                keep(key, {"seconds": seconds, "force_rmse": float(np.sqrt(np.mean(errors**2)))})
            print(key, *(f"{k} {v:.4g}" for k, v in results[key].items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
