"""Seconds that each solver takes to a given loss: plain tables, and the bundled crystals species by species.

usage: taskset -c 1 python benchmarks/solvers.py [--limit SECONDS] [--seeds 0,1,2] [--problems TEXT]
                                                 [--solvers NAMES]

All solvers start from the same weights and minimise the same loss, on one core. "scipy" is L-BFGS-B of scipy
on the loss that "lbfgs" takes. The losses to reach are 3 and 1.1 times the lowest that any of them found from
the same start in the time; "-" says that a solver did not reach it. With several seeds figures are medians.
"""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
    os.environ[name] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import argparse  # noqa: E402
from dataclasses import dataclass  # noqa: E402

import numpy as np  # noqa: E402
from scipy.optimize import minimize  # noqa: E402

from tinynet_sklearn import CycleMomentFeaturizer, load_batio3, load_moo3  # noqa: E402
from tinynet_sklearn._validation import species_name  # noqa: E402
from tinynet_sklearn.equivariance import GroupAction  # noqa: E402
from tinynet_sklearn.networks import glorot_stack  # noqa: E402
from tinynet_sklearn.objective import StackObjective  # noqa: E402
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet  # noqa: E402
from tinynet_sklearn.scaling import fit_symmetric_scaling  # noqa: E402
from tinynet_sklearn.solvers import SOLVERS  # noqa: E402

#: Rows, inputs and hidden layers of the plain tables, and weight decay.
TABLES = [
    (200, 3, (8,), 1e-6),
    (200, 3, (8,), 1e-3),
    (1000, 3, (16,), 1e-6),
    (1000, 3, (16,), 1e-3),
    (5000, 3, (16,), 1e-3),
    (300, 6, (12, 16), 1e-6),
    (300, 6, (12, 16), 1e-3),
    (1000, 6, (12, 16), 1e-3),
    (1000, 10, (16, 32), 0.0),
    (1000, 10, (16, 32), 1e-3),
]

#: Bundled data and weight decays; networks of the default size, averaged over the site groups.
CRYSTALS = [("BaTiO3", load_batio3, (1e-3,)), ("MoO3", load_moo3, (1e-3,))]

#: The losses to reach, relative to the lowest found.
FACTORS = (3.0, 1.1)


class Timed(Recorder):
    """A log that ends the run when its time is over."""

    limit = 1.0

    def step(self, loss, validation, weights):
        """Take note of one iteration."""
        self.converged |= super().step(loss, validation, weights) or self.seconds > self.limit
        return self.converged

    def reached(self, loss):
        """Iterations and seconds until the loss fell to a value, or None."""
        return next(((k + 1, log[2]) for k, log in enumerate(self.log) if log[0] <= loss), None)


@dataclass
class Problem:
    """A network to train."""

    name: str
    data: TrainingSet
    hidden: tuple[int, ...]
    alpha: float
    batch_size: int

    def network(self, seed):
        """Draw the start."""
        sizes = (self.data.rows.shape[1], *self.hidden, self.data.targets.shape[1])
        return glorot_stack(sizes, "tanh", np.random.RandomState(seed), self.data.rows.dtype)


def table(n_rows, n_inputs, hidden, alpha):
    """A smooth function of uniform random points: a sine, or waves in three directions that mix."""
    rng = np.random.RandomState(0)
    rows = rng.uniform(-1, 1, (n_rows, n_inputs))
    if n_inputs == 1:
        targets = np.sin(3 * np.pi * rows)
    else:
        u, v, w = (rows @ (rng.randn(n_inputs, 3) / np.sqrt(n_inputs) * 3)).T
        targets = (np.sin(u) + v * np.cos(w))[:, None]
    name = f"{n_rows} rows, {n_inputs} inputs"
    action = GroupAction.trivial(n_inputs)
    data = training_set(rows / rows.std(axis=0), targets / targets.std(), np.arange(n_rows), (action,))
    return Problem(name, data, hidden, alpha, batch_size=200)


def training_set(rows, targets, structure, actions, site=0):
    n_rows = len(rows)
    weight = np.full(n_rows, 1 / n_rows)
    return TrainingSet(rows, targets, weight, structure, actions, np.broadcast_to(site, n_rows))


def crystal(name, load, alphas):
    """Forces on the atoms of each species."""
    bunch = load()
    X = CycleMomentFeaturizer(paths="simple", bonds=bunch.bonds).fit_transform(bunch.structures)
    forces = X.frames.to_frame(bunch.target.values)
    for species in np.unique(X.species):
        ours = X.species == species
        symmetry, sites = X.frames.symmetry, X.frames.sites[ours]
        inputs = fit_symmetric_scaling(X.values[ours], None, sites, symmetry, "standard", 1e-6)
        classes, site = np.unique(sites, return_inverse=True)
        actions = tuple(GroupAction.of_site(symmetry, int(c), inputs, turns_outputs=True) for c in classes)
        size = np.sqrt(np.mean(forces[ours] ** 2))
        rows = inputs.apply(X.values[ours], "float64")
        data = training_set(rows, forces[ours] / size, X.structure_of_row[ours], actions, site)
        for alpha in alphas:
            title = f"{name} {species_name(species)}, {len(rows)} rows x {actions[0].n_operations} operations"
            yield Problem(title, data, (16, 32), alpha, batch_size=16)


def run(solver, problem, seed, limit):
    """The log of one solver on one problem."""
    start = problem.network(seed)
    log = Timed(solver, start.arrays, None, 0.0, False)
    log.limit = limit
    options = Options(10**7, 0.0, problem.alpha, problem.batch_size, 1e-3, seed)
    log.begin()
    if solver == "scipy":
        scipy_lbfgs(start, problem, log)
    else:
        SOLVERS[solver](start, problem.data, None, options, log)
    return log


def scipy_lbfgs(start, problem, log):
    objective = StackObjective(start, problem.data, problem.alpha)

    def callback(intermediate_result):
        x = intermediate_result.x
        if log.step(intermediate_result.fun, None, lambda: objective.network(x).arrays):
            raise StopIteration

    options = {"maxiter": 10**7, "maxfun": 10**7, "maxcor": 30, "ftol": 0.0, "gtol": 0.0}
    x = start.flat()
    minimize(objective.value, x, jac=True, method="L-BFGS-B", callback=callback, options=options)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--limit", type=float, default=1.0, help="seconds for each solver and problem")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--problems", default="", help="only those with this in their name")
    parser.add_argument("--solvers", default="varpro,lbfgs,scipy,lm,adam")
    arguments = parser.parse_args()
    solvers = arguments.solvers.split(",")
    seeds = [int(seed) for seed in arguments.seeds.split(",")]
    problems = [table(*row) for row in TABLES] + [p for row in CRYSTALS for p in crystal(*row)]
    print("seconds (iterations) to the loss; - not reached")
    head = "".join(f"{solver:>14s}" for solver in solvers)
    print(f"{'problem':38s} {'hidden':>8s} {'weights':>7s} {'alpha':>6s} {'loss':>8s}{head}", flush=True)
    for problem in problems:
        if arguments.problems not in problem.name:
            continue
        logs = [[run(solver, problem, seed, arguments.limit) for solver in solvers] for seed in seeds]
        lowest = [min(min(log.loss, default=np.inf) for log in of_seed) for of_seed in logs]
        n_weights = problem.network(0).n_parameters
        sizes = "x".join(map(str, problem.hidden))
        for factor in FACTORS:
            cells = []
            for number in range(len(solvers)):
                goals = zip(logs, lowest, strict=True)
                reached = [of_seed[number].reached(factor * low) for of_seed, low in goals]
                times = [(seconds, steps) for steps, seconds in filter(None, reached)]
                times = sorted(times + [(np.inf, 0)] * (len(seeds) - len(times)))
                seconds, steps = times[len(times) // 2]
                cells.append(f"{seconds:.3f} ({steps})" if np.isfinite(seconds) else "-")
            row = f"{problem.name:38s} {sizes:>8s} {n_weights:7d} {problem.alpha:6.0e}"
            goal = factor * np.median(lowest)
            print(f"{row} {goal:8.1e}" + "".join(f"{cell:>14s}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
