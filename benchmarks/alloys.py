"""Channels instead of species: random solid solutions of Ag, Au, Cu, Ni, Pd and Pt with ASE's EMT.

`BPNNPotential` on `SmoothMomentFeaturizer` with columns per species sequence (None) and per sequence of
channels. Structures are fcc cells of 4 to 32 atoms, each site occupied at random according to a composition,
rattled by 0.05 to 0.15 Angstrom and strained by 3 %; the test set has other compositions. Printed are the
number of columns, errors on both sets, the seconds of the fit, and microseconds per atom for features (bonds
are looked for) and for energy and forces (`SmoothEngine`) of a cell of 256 atoms. Times are of the processor.

usage: python benchmarks/alloys.py [--channels none,1,2,3,4,6] [--seeds 0] [--compositions 60] [--quick]
"""

import argparse
import time

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNPotential, PotentialTargets, SmoothMomentFeaturizer
from tinynet_sklearn.smooth_engine import SmoothEngine

#: Lattice constants, Angstrom.
LATTICE = {"Ag": 4.09, "Au": 4.08, "Cu": 3.61, "Ni": 3.52, "Pd": 3.89, "Pt": 3.92}
CELLS = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))
N_TEST = 20  # compositions


def solution(rng, composition, cells):
    """Solid solution in a cell, deformed and rattled; without a calculator."""
    symbols = rng.choice(list(LATTICE), p=composition, size=4 * int(np.prod(cells)))
    length = np.mean([LATTICE[symbol] for symbol in symbols])
    atoms = bulk("Cu", "fcc", a=length, cubic=True) * cells
    atoms.set_chemical_symbols(symbols)
    strain = rng.normal(0.0, 0.02, (3, 3))
    deformation = np.eye(3) + (strain + strain.T) / 2 + rng.uniform(-0.03, 0.03) * np.eye(3)
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    atoms.positions += rng.normal(0.0, rng.uniform(0.05, 0.15), atoms.positions.shape)
    return atoms


def solutions(rng, n_compositions):
    """One structure in each of the `CELLS` for each of some random compositions, with EMT's results."""
    frames = []
    for composition in rng.dirichlet(np.ones(len(LATTICE)), n_compositions):
        for cells in CELLS:
            atoms = solution(rng, composition, cells)
            atoms.calc = EMT()
            atoms.get_potential_energy()
            frames.append(atoms)
    return frames


def microseconds(call, n_atoms, repeats=15):
    """Time per atom, median."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e6 * float(np.median(times)) / n_atoms


def speed(model, rng):
    """Microseconds per atom of features and of an engine, whose atoms move a little from call to call."""
    large = solution(rng, np.full(len(LATTICE), 1 / len(LATTICE)), (4, 4, 4))
    engine = SmoothEngine(model, large)
    moves = iter(rng.normal(0.0, 0.01, (100, *large.positions.shape)))
    features = microseconds(lambda: model[0].transform([large]), len(large))
    forces = microseconds(lambda: engine.compute(large.positions + next(moves), large.cell.array), len(large))
    return features, forces


def measured(model, frames):
    """RMSE of forces in eV/A and MAE of energies in meV/atom."""
    known = PotentialTargets.from_structures(frames)
    found = model.predict(frames, output="all")
    forces = found.forces.values - known.forces.values
    energies = (found.energy - known.energy) / known.forces.counts
    return float(np.sqrt(np.mean(forces**2))), 1e3 * float(np.mean(np.abs(energies)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--channels", default="none,1,2,3,4,6", help="species_channels, separated by commas")
    parser.add_argument("--seeds", default="0", help="of data and networks; errors are means over them")
    parser.add_argument("--compositions", type=int, default=60, help="for training; four structures each")
    parser.add_argument("--max-iter", type=int, default=300)
    parser.add_argument("--n-jobs", type=int, default=1)
    parser.add_argument("--n-triangle", type=int, default=3)
    parser.add_argument("--n-square", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="a small set and few iterations: does it run?")
    options = parser.parse_args()
    if options.quick:
        options.compositions, options.max_iter, options.channels = 10, 40, "none,2"
    seeds = [int(seed) for seed in options.seeds.split(",")]
    channels = [None if text == "none" else int(text) for text in options.channels.split(",")]
    sets = {}
    for seed in seeds:
        rng = np.random.default_rng(seed)
        sets[seed] = (solutions(rng, options.compositions), solutions(rng, N_TEST))
    train, test = sets[seeds[0]]
    forces = np.concatenate([atoms.get_forces() for _, part in sets.values() for atoms in part])
    n_atoms = sum(map(len, train))
    print(
        f"{len(train)} structures with {n_atoms} atoms for training, {len(test)} for testing; zero forces "
        f"are wrong by {np.sqrt(np.mean(forces**2)):.3f} eV/A"
    )
    print(
        "channels  columns  train, eV/A  test, eV/A  meV/atom  fit, s  features, us  forces, us", flush=True
    )
    for n_channels in channels:
        rows = []
        for seed, (train, test) in sets.items():
            embedding = SmoothMomentFeaturizer(
                n_triangle=options.n_triangle, n_square=options.n_square, species_channels=n_channels
            )
            net = BPNNPotential(
                solver="lbfgs",
                energy_weight=1.0,
                max_iter=options.max_iter,
                n_jobs=options.n_jobs,
                random_state=seed,
            )
            embedding.fit(train).transform(train[:1]).geometry.cached()  # compiles
            model = make_pipeline(embedding, net)
            start = time.process_time()
            model.fit(train)
            seconds = time.process_time() - start
            errors = [error for part in (train, test) for error in measured(model, part)]
            rows.append(
                [errors[0], errors[2], errors[3], seconds, *speed(model, np.random.default_rng(seed))]
            )
        mean = np.mean(rows, axis=0)
        columns = model[0].n_features_out_
        print(
            f"{n_channels!s:8}  {columns:7}  {mean[0]:11.4f}  {mean[1]:10.4f}  {mean[2]:8.2f}  {mean[3]:6.0f}"
            f"  {mean[4]:12.1f}  {mean[5]:10.1f}",
            *([f"  test, lowest to highest: {min(r[1] for r in rows):.4f}-{max(r[1] for r in rows):.4f}"]
              if len(rows) > 1 else []),
            flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
