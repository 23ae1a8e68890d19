"""Local densities of states: tables over n and N, other features, silicon, and the moments theorem.

    python benchmarks/ldos.py table [--materials moo3,batio3] [--embeddings site,published] [--seeds 0,1,2]
    python benchmarks/ldos.py peers                   # ACSF and SOAP of DScribe, sums over walks, mean curves
    python benchmarks/ldos.py readers --data FOLDER   # sums over atoms against totals, of real files
    python benchmarks/ldos.py silicon --data FOLDER   # 11 frames of 32 atoms, an example of DeePMD-kit
    python benchmarks/ldos.py theorem --out FOLDER    # a tight-binding crystal: which moments are learned
    python benchmarks/ldos.py figures --out FOLDER    # the paper's Figures 3 and 4
    python benchmarks/ldos.py gaps                    # of predicted totals
    python benchmarks/ldos.py dynamics --out FOLDER   # forces and LDOS in one call, along a run

Every fit of the tables is appended to a CSV file as soon as it is done; a run that was stopped goes on where
it was. The bundled structures are independent draws: the first 80 % (by seed) are for fitting, the rest for
testing.
"""

import argparse
import csv
import sys
import time
import warnings
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, LeaveOneOut
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import (
    LDOS,
    BPNNRegressor,
    CycleMomentFeaturizer,
    EnergyGrid,
    LDOSDisplay,
    LDOSMapDisplay,
    MomentErrorDisplay,
    MultiTargetRegressor,
    PerAtomArray,
    SmoothMomentFeaturizer,
    TargetSet,
    TinyNetCalculator,
    ldos_report,
    load_batio3,
    load_moo3,
    read_ldos,
    run_dynamics,
    split_model,
)
from tinynet_sklearn.ldos_metrics import ldos_moment_errors, ldos_recursion_errors, ldos_species_means

RESULTS = Path(__file__).parent / "results" / "ldos.csv"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
COLUMNS = ["task", "material", "features", "n", "N", "seed", "columns", "alpha", "train_r2"]
COLUMNS += ["rmse", "r2", "wasserstein", "species_r2", "seconds"]

LOADERS = {"moo3": load_moo3, "batio3": load_batio3}
PATHS = {"moo3": "all", "batio3": "simple"}  # twelve neighbours of Ba: all walks would be too many
WALKS, HOPS = (0, 2, 4, 6, 8), (0, 1, 2, 3, 4)
LARGEST = {"moo3": 8, "batio3": 6}  # 8-cycles of BaTiO3 are 23,000 columns

#: "site" is the default; "published" has walks sorted by value and neighbours in the order of a search, in
#: the laboratory frame, and one network for all species, as the authors' script.
EMBEDDINGS = {
    "site": {},
    "sorted": {"order": "value", "frame": "lab"},
    "published": {
        "order": "depth-first",
        "frame": "lab",
        "neighbors": "walks",
        "duplicates": "keep",
        "species_columns": True,
    },
}
ALPHAS = (3e-4, 1e-3, 3e-3, 1e-2)

#: Energies by their zero: the default ones, and the same states counted from the mean of the occupied ones.
PEER_ENERGIES = {"vbm": np.linspace(-7.0, 5.0, 241), "centroid": np.linspace(-4.5, 7.0, 231)}
WIDE = EnergyGrid(np.linspace(-8.5, 8.0, 331), width=0.2, zero="vbm")  # its low end lies in a gap


def regressor(seed, **options):
    """The network of all tables: 16x32 tanh, 300 iterations, components with 99.9 % of the variance."""
    return BPNNRegressor(**{"n_components": 0.999, "max_iter": 300, "random_state": seed} | options)


def fitted(model, X, y):
    """Train for a fixed number of iterations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(X, y)


def halves(data):
    """First 80 % of the structures and the rest."""
    cut = int(0.8 * len(data.structures))
    return slice(0, cut), slice(cut, None)


def scores(model, X, y, train, test):
    """Errors on the test set as text, and the share explained in training."""
    report = ldos_report(y[test], model.predict(X[test]))
    explained = ldos_report(y[train], model.predict(X[train]))["all"]["r2"]
    species = " ".join(f"{name}:{errors['r2']:.3f}" for name, errors in report.items() if name != "all")
    found = report["all"]
    return [
        f"{explained:.4f}",
        f"{found['rmse']:.5f}",
        f"{found['r2']:.4f}",
        f"{found['wasserstein']:.5f}",
        species,
    ]


def done(path):
    """Rows of the CSV file so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path, row):
    """Write one row, with the header before the first."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)


def run_once(options, key, make_features, data, alphas, **settings):
    """Train and score, unless that is done; of several alphas, the best in 4 folds of the training set.

    The search is made with the first seed; the others take what it found.
    """
    rows = done(options.results)
    if any(tuple(row[c] for c in COLUMNS[:6]) == tuple(map(str, key)) for row in rows):
        return
    if len(alphas) > 1:
        same = [row for row in rows if tuple(row[c] for c in COLUMNS[:5]) == tuple(map(str, key[:5]))]
        alphas = [float(same[0]["alpha"])] if same else alphas
    X, y = make_features(), data.target
    train, test = halves(data)
    start = time.perf_counter()
    model, alpha = regressor(key[5], alpha=alphas[0], **settings), alphas[0]
    if key[2] == "published":
        model.set_params(networks="shared")
    if X.shape[1] == 0:  # nothing to learn from: the mean of the species
        model.set_params(n_components=None)
    if len(alphas) > 1:
        search = fitted(GridSearchCV(model, {"alpha": list(alphas)}, cv=4), X[train], y[train])
        model, alpha = search.best_estimator_, search.best_params_["alpha"]
    else:
        model = fitted(model, X[train], y[train])
    row = [*key, X.shape[1], alpha, *scores(model, X, y, train, test), f"{time.perf_counter() - start:.1f}"]
    append(options.results, row)
    print(*row, flush=True)


# ---- n and N -----------------------------------------------------------------------------------------------


def table(options):
    """Print the table over n and N, after fits that are missing."""
    for material in options.materials.split(","):
        data = LOADERS[material]("ldos")
        for seed in map(int, options.seeds.split(",")):
            for name in options.embeddings.split(","):
                for n in [n for n in WALKS if n <= LARGEST[material]]:
                    for N in [N for N in HOPS if n or N]:
                        featurizer = CycleMomentFeaturizer(
                            n=n, N=N, paths=PATHS[material], bonds=data.bonds, **EMBEDDINGS[name]
                        )
                        key = ("table", material, name, n, N, seed)

                        def make(featurizer=featurizer, data=data):
                            return featurizer.fit_transform(data.structures)

                        run_once(options, key, make, data, [3e-4])
    report_table(done(options.results))


def medians(rows, task, value):
    """Median over the seeds of one column, by material, features, n and N."""
    groups = {}
    for row in rows:
        if row["task"] == task:
            key = (row["material"], row["features"], row["n"], row["N"])
            groups.setdefault(key, []).append(float(row[value]))
    return {key: (median(found), len(found)) for key, found in groups.items()}


def report_table(rows):
    """Print the medians."""
    for value, unit in (("r2", ""), ("rmse", "states/eV/atom"), ("wasserstein", "eV")):
        found = medians(rows, "table", value)
        for material, features in sorted({key[:2] for key in found}):
            print(f"\n{material}, {features}: test {value} {unit}".rstrip())
            print("| n \\ N | " + " | ".join(map(str, HOPS)) + " |\n|" + " --- |" * (len(HOPS) + 1))
            for n in WALKS:
                cells = [found.get((material, features, str(n), str(N))) for N in HOPS]
                if any(cells):
                    shown = [f"{cell[0]:.3f}" if cell else "" for cell in cells]
                    print(f"| {n} | " + " | ".join(shown) + " |")


# ---- Other features ----------------------------------------------------------------------------------------


def described(data, descriptor):
    """Features of DScribe for every atom."""
    parts = [np.asarray(descriptor.create(atoms)) for atoms in data.structures]
    return PerAtomArray.from_list(parts, [atoms.numbers for atoms in data.structures])


def peer_features(data, material):
    """Yield names and functions that make features."""
    from dscribe.descriptors import ACSF, SOAP

    species = sorted({symbol for atoms in data.structures[:1] for symbol in atoms.get_chemical_symbols()})
    pairs = [[eta, shift] for eta in (0.5, 2.0, 8.0) for shift in (0.0, 1.5, 2.0, 2.5, 3.0, 4.0)]
    angles = [[0.02, zeta, sign] for zeta in (1, 4) for sign in (-1, 1)]
    yield (
        "ACSF",
        lambda: described(
            data, ACSF(species=species, r_cut=6.0, g2_params=pairs, g4_params=angles, periodic=True)
        ),
    )
    for n_max, l_max in ((4, 4), (8, 6)):
        soap = SOAP(species=species, r_cut=6.0, n_max=n_max, l_max=l_max, sigma=0.3, periodic=True)
        yield f"SOAP n{n_max} l{l_max}", lambda soap=soap: described(data, soap)
    options = {"paths": PATHS[material], "bonds": data.bonds}
    for n, N in ((4, 0), (6, 0), (6, 2), (6, 4)):
        featurizer = CycleMomentFeaturizer(n=n, N=N, **options)
        yield f"L_{n}^({N})", lambda f=featurizer: f.fit_transform(data.structures)
    sums = CycleMomentFeaturizer(n=8, N=0, aggregate="sum", order="value", frame="lab", **options)
    yield "sums over walks, n=8", lambda: sums.fit_transform(data.structures)


def peers(options):
    """Same networks and split, alpha of each by cross-validation on the training set."""
    task = f"peers from {options.zero}"
    for material in options.materials.split(","):
        data = LOADERS[material]("ldos", grid=WIDE)
        data.target = data.target.aligned(options.zero, energies=PEER_ENERGIES[options.zero])
        train, test = halves(data)
        means = ldos_species_means(data.target[train])
        mean = np.array([means[symbol] for atoms in data.structures[test] for symbol in atoms.symbols])
        found = ldos_report(data.target[test], data.target[test].with_values(mean))["all"]
        numbers = " ".join(f"{name} {found[name]:.4f}" for name in ("rmse", "r2", "wasserstein"))
        print(f"{material}, mean curves: {numbers}")
        for seed in map(int, options.seeds.split(",")):
            for name, make in peer_features(data, material):
                run_once(options, (task, material, name, "", "", seed), make, data, ALPHAS, max_iter=100)
    rows = done(options.results)
    columns = {(row["material"], row["features"]): row for row in rows if row["task"] == task}
    parts = {value: medians(rows, task, value) for value in ("train_r2", "r2", "rmse", "wasserstein")}
    print("\n| material | features | columns | train R2 | R2 | RMSE | Wasserstein, eV |\n|" + " --- |" * 7)
    for material, name in sorted(columns, key=lambda key: (key[0], parts["rmse"][(*key, "", "")][0])):
        cells = [f"{parts[value][(material, name, '', '')][0]:.3f}" for value in parts]
        print(f"| {material} | {name} | {columns[material, name]['columns']} | {' | '.join(cells)} |")


# ---- Readers -----------------------------------------------------------------------------------------------


def readers(options):
    """Sum over the atoms against the total of the same calculation, for real files of three programs."""
    folder = options.data or SHARED
    for name in ("siesta/SrTiO3", "siesta/Si_pdos_k", "vasp/OsO2_vasprun.xml.gz"):
        ldos = read_ldos(folder / name).target
        residual, highest = ldos.sum_rule_residual(), ldos.reference_total.max()
        kept = ldos.grid.integrate(ldos.total()) / ldos.grid.integrate(ldos.reference_total)
        counted = ldos.fermi_level()[0] if np.isfinite(ldos.levels.n_electrons[0]) else np.nan
        print(
            f"{name}: largest difference {np.abs(residual).max():.2g} of {highest:.4g} states/eV, "
            f"{kept[0]:.2%} of the states, Fermi level {ldos.levels.fermi[0]:.3f} eV, counted {counted:.3f}"
        )
    silicon = folder / "si_dos_deepmd"
    ldos = read_ldos(silicon, energies=0.1 * np.arange(250)).target
    total = np.load(silicon / "set.000" / "dos.npy")
    kept = ldos.total().sum() / total.sum()
    error = (ldos.total() - total).std()
    print(f"si_dos_deepmd: RMS difference {error:.3f} of {total.max():.3g}, {kept:.2%} of the states")


# ---- Silicon -----------------------------------------------------------------------------------------------


def silicon(options):
    """Eleven frames of 32 atoms, an example of DeePMD-kit; each is predicted by a model of the other ten.

    The frames are of crystals that differ in their bonds, hence the smooth sums over walks. The file does not
    tell its energies; taking them 0.1 eV apart scales the Wasserstein distance alone.
    """
    data = read_ldos((options.data or SHARED) / "si_dos_deepmd", energies=0.1 * np.arange(250))
    print(f"{data.target!r}\n\n| features | columns | RMSE | R2 |\n|" + " --- |" * 4)
    features = {"mean of the other frames": None}
    features |= {f"smooth sums, n={n}": SmoothMomentFeaturizer(n=n, cutoff=5.0) for n in (2, 3, 4)}
    for name, featurizer in features.items():
        X = data.target if featurizer is None else featurizer.fit_transform(data.structures)
        parts = []
        for train, test in LeaveOneOut().split(data.structures):
            if featurizer is None:
                mean = data.target[train].values.mean(axis=0)
                parts.append(np.tile(mean, (len(data.structures[test[0]]), 1)))
                continue
            model = fitted(regressor(0, alpha=3e-3), X[train], data.target[train])
            parts.append(model.predict(X[test]).values)
        found = ldos_report(data.target, data.target.with_values(np.concatenate(parts)))["all"]
        columns = "" if featurizer is None else X.shape[1]
        print(f"| {name} | {columns} | {found['rmse']:.4f} | {found['r2']:.3f} |", flush=True)


# ---- The theorem -------------------------------------------------------------------------------------------


def tight_binding_data(n_structures):
    """Rattled crystals of the ReO3 form, one s orbital per atom, with their densities of states."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    from crystals import rattled, rhenium_trioxide
    from oracles import brute_force_bonds, different_within
    from tight_binding import tight_binding_states

    ideal = rhenium_trioxide() * (2, 2, 2)  # walks up to 8 hops pass bonds that do not repeat
    bonds = brute_force_bonds(ideal, different_within(3.1))
    structures = [rattled(ideal, seed, amplitude=0.08) for seed in range(n_structures)]
    states = [tight_binding_states(atoms, bonds, 4) for atoms in structures]
    grid = EnergyGrid(np.linspace(-0.9, 0.9, 181), width=0.04)
    eigenvalues, weights, k_weights = zip(*states, strict=True)
    species = [atoms.numbers for atoms in structures]
    return structures, LDOS.from_states(eigenvalues, weights, grid, species, k_weights=k_weights[0])


def theorem(options):
    """Learn the density of states of a tight-binding crystal from walks, and look at its moments."""
    structures, ldos = tight_binding_data(80)
    cut = 64
    predictions = {}
    for n in (2, 4, 6, 8):
        featurizer = CycleMomentFeaturizer(n=n, N=0, aggregate="sum", order="value", frame="lab")
        X = featurizer.fit_transform(structures)
        model = fitted(regressor(0, max_iter=600, n_components=0.99999, alpha=1e-6), X[:cut], ldos[:cut])
        predictions[n] = model.predict(X[cut:])
        errors = ldos_moment_errors(ldos[cut:], predictions[n], n=12, center=0.0)["all"]
        r2 = ldos_report(ldos[cut:], predictions[n])["all"]["r2"]
        print(f"n={n}: R2 {r2:.4f}, moments 2, 4, ... 12: " + " ".join(f"{e:.4f}" for e in errors[1::2]))
        chain = ldos_recursion_errors(ldos[cut:], predictions[n], n=6)["all"]
        print("     b_1 ... b_6: " + " ".join(f"{e:.4f}" for e in chain))
    options.out.mkdir(parents=True, exist_ok=True)
    for quantity, orders in (("moments", 12), ("recursion", 6)):
        display = MomentErrorDisplay.from_predictions(
            ldos[cut:], predictions, orders=orders, center=0.0, quantity=quantity
        )
        display.figure_.savefig(options.out / f"ldos-theorem-{quantity}.png")


# ---- Figures -----------------------------------------------------------------------------------------------


def figures(options):
    """The paper's Figure 3 (errors over n and N) and Figure 4 (curves of representative atoms)."""
    options.out.mkdir(parents=True, exist_ok=True)
    draw_tables(done(options.results)).savefig(options.out / "ldos-table.png")
    for material, (n, N) in (("moo3", (6, 2)), ("batio3", (6, 0))):
        data = LOADERS[material]("ldos")
        featurizer = CycleMomentFeaturizer(n=n, N=N, paths=PATHS[material], bonds=data.bonds)
        X = featurizer.fit_transform(data.structures)
        train, test = halves(data)
        model = fitted(regressor(0), X[train], data.target[train])
        display = LDOSDisplay.from_estimator(model, X[test], data.target[test])
        display.figure_.savefig(options.out / f"ldos-{material}.png")


def draw_tables(rows):
    """Heat maps of the test RMSE over n and N, one per material and embedding."""
    from matplotlib.figure import Figure

    found = medians(rows, "table", "rmse")
    panels = sorted({key[:2] for key in found}, reverse=True)
    n_rows = len({material for material, _ in panels})
    figure = Figure(figsize=(3.4 * len(panels) / n_rows, 2.9 * n_rows), dpi=150, layout="constrained")
    all_axes = figure.subplots(n_rows, len(panels) // n_rows, squeeze=False)
    for axes, (material, features) in zip(all_axes.ravel(), panels, strict=True):
        walks = [n for n in WALKS if n <= LARGEST[material]]
        values = np.full((len(walks), len(HOPS)), np.nan)
        for (i, n), (j, N) in product(enumerate(walks), enumerate(HOPS)):
            values[i, j] = found.get((material, features, str(n), str(N)), (np.nan, 0))[0]
        axes.imshow(values, cmap="cividis_r", origin="lower", aspect="auto")
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                axes.text(j, i, f"{value:.3f}", ha="center", va="center", fontsize=8,
                          color="white" if value > middle else "black")  # fmt: skip
        axes.set(xticks=range(len(HOPS)), xticklabels=HOPS, yticks=range(len(walks)), yticklabels=walks)
        axes.set(
            xlabel="N",
            ylabel="n",
            title={"moo3": "MoO$_3$", "batio3": "BaTiO$_3$"}[material] + f", {features}",
        )
    figure.suptitle("Test RMSE of the LDOS (states/eV/atom)", fontsize=10)
    return figure


def gaps(options):
    """Gaps and Fermi levels of predicted totals of BaTiO3, beside those of the references."""
    data = load_batio3("ldos", grid=WIDE)
    y = data.target.aligned("centroid", energies=PEER_ENERGIES["centroid"])
    X = CycleMomentFeaturizer(n=6, N=0, paths="simple", bonds=data.bonds).fit_transform(data.structures)
    train, test = slice(0, 60), slice(60, None)
    start = time.perf_counter()
    model = fitted(regressor(0, max_iter=100), X[train], y[train])
    kept = {key: len(shares) for key, shares in model.explained_variance_ratio_.items()}
    print(f"components by species {kept}, fit {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    fitted(regressor(0, max_iter=100, n_components=None), X[train], y[train])
    print(f"all {len(y.grid)} columns: fit {time.perf_counter() - start:.1f} s")
    true = y[test]
    predicted = model.predict(X[test]).with_levels(n_electrons=true.levels.n_electrons)
    shift = np.abs(predicted.fermi_level() - true.levels.fermi)
    for name, ldos in (("predicted", predicted), ("reference", true)):
        print(f"{name} gaps of {len(ldos)} structures: {ldos.gap().min():.2f} to {ldos.gap().max():.2f} eV")
    change = np.abs(predicted.gap() - true.gap()).max()
    print(f"largest differences: gaps {change:.2f} eV, Fermi levels {shift.max():.2f} eV")


def dynamics(options):
    """Forces and LDOS from one model: its cost per call, and the density of states along 2 ps at 300 K."""
    options.out.mkdir(parents=True, exist_ok=True)
    data = load_batio3("ldos")
    heads = MultiTargetRegressor(
        [("forces", BPNNRegressor(max_iter=200, random_state=0)), ("ldos", regressor(0, max_iter=100))]
    )
    model = make_pipeline(CycleMomentFeaturizer(n=4, N=2, paths="simple", bonds=data.bonds), heads)
    fitted(model, data.structures, TargetSet(forces=data.forces, ldos=data.target))
    atoms = data.structures[0] * (2, 2, 2)
    rng = np.random.default_rng(0)
    places = atoms.positions + rng.normal(0.0, 0.05, (50, len(atoms), 3))
    for name, part in {"forces and LDOS": model, **split_model(model)}.items():
        for precision in ("double", "single"):
            calculator = TinyNetCalculator(part, warn=False, on_extrapolation="ignore", precision=precision)
            times = []
            for positions in places:
                atoms.positions = positions
                start = time.perf_counter()
                calculator.calculate(atoms)
                times.append(time.perf_counter() - start)
            print(f"{name}, {precision}: {1e6 * median(times) / len(atoms):.2f} us/atom, {len(atoms)} atoms")
    atoms = data.structures[0] * (2, 2, 2)
    atoms.calc = TinyNetCalculator(model, warn=False, on_extrapolation="ignore")
    run = run_dynamics(atoms, temperature=300, n_steps=2000, interval=5, velocities="new")
    times = np.array([frame.info["time_ps"] for frame in run.frames()])
    print(f"{1e3 * run.seconds_per_step:.2f} ms per step, writing included")
    display = LDOSMapDisplay.from_predictions(run.dos(), times=times)
    display.figure_.savefig(options.out / "ldos-map.png")


COMMANDS = {
    command.__name__: command
    for command in (table, peers, readers, silicon, theorem, figures, gaps, dynamics)
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--materials", default="moo3,batio3")
    parser.add_argument("--embeddings", default="site,published")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--zero", default="vbm", choices=PEER_ENERGIES, help="zero of the energies, for peers"
    )
    parser.add_argument("--data", type=Path, help="folder with siesta, vasp and si_dos_deepmd")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("figures"))
    options = parser.parse_args()
    COMMANDS[options.command](options)


if __name__ == "__main__":
    main()
