"""Time of a force call: our compiled models beside analytic potentials and DeePMD-kit, one pinned core.

usage: python benchmarks/speed.py calls [--lmp LMP --deepmd PYTHON --work FOLDER]
       python benchmarks/speed.py sizes
       python benchmarks/speed.py table
       python benchmarks/speed.py trained --models FOLDER
       python benchmarks/speed.py figure

``calls`` times 160 atoms of BaTiO3, L_4^(2) on simple cycles, 16x32: `CompiledModel.compute`, and
``get_forces`` through ASE with positions that change at every call; the peers (see `peers_speed`) follow in
the same run. ``sizes`` goes from 160 to a million atoms, with memory, time to lay out the tables, and two
threads. ``table`` is (n, N) against microseconds per atom, those of the embedding apart. ``trained`` times
the models that ``potential_accuracy.py --parts cost --models FOLDER`` has left. ``figure`` draws the results.

But for ``trained``, networks are fitted for one iteration: only their cost matters here. Times are medians;
on a shared machine a rerun differs by some 10 %, and CPU time is the better guide. Results go to
results/speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms
from numba import njit
from peers_speed import Row, crystal, time_deepmd, time_lammps
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CompiledModel,
    CycleMomentFeaturizer,
    TinyNetCalculator,
    load_model,
)
from tinynet_sklearn import _force_kernels as kernels

RESULTS = Path(__file__).parent / "results" / "speed.json"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
BONDS = {"Ba-O": 3.6, "Ti-O": 2.7}
AVERAGES = {"no averaging": False, "8 operations": 8, "all operations": True}
SIZES = [(4, 4, 2), (10, 10, 10), (20, 20, 20), (40, 40, 26), (60, 60, 56)]


def atoms_of(repeats=(4, 4, 2), rattle=0.05, seed=0):
    symbols, positions, cell = crystal(repeats, rattle=rattle, seed=seed)
    return Atoms(symbols, positions, cell=cell, pbc=True)


def model_of(mode="energy", n=4, N=2, average=True):
    """A pipeline of a 40-atom cell, as good as untrained."""
    frames = [atoms_of((2, 2, 2), seed=seed) for seed in range(3)]
    embedding = CycleMomentFeaturizer(
        n=n,
        N=N,
        paths="simple",
        bonds=BONDS,
        coordinates="distances" if mode == "energy" else "vectors",
        reference=atoms_of((2, 2, 2), rattle=0.0),
    )
    targets = [0.1 * np.random.default_rng(k).normal(size=(40, 3)) for k in range(3)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of networks that are not converged
        if mode == "energy":
            net = BPNNPotential(max_iter=1, symmetry_average=average, random_state=0)
            return make_pipeline(embedding, net).fit(frames, {"forces": targets})
        net = BPNNRegressor(max_iter=1, solver="lbfgs", symmetry_average=average, random_state=0)
        return make_pipeline(embedding, net).fit(frames, targets)


def seconds(call, repeat, budget=0.2):
    """Wall and CPU seconds of one call, in several runs of about ``budget`` seconds."""
    call()
    start = time.perf_counter()
    call()
    n = max(1, int(budget / (time.perf_counter() - start)))
    wall, cpu = [], []
    for _ in range(repeat):
        w, c = time.perf_counter(), time.process_time()
        for _ in range(n):
            call()
        wall.append((time.perf_counter() - w) / n)
        cpu.append((time.process_time() - c) / n)
    return wall, cpu


def moving(atoms):
    """Positions that differ from call to call, as in a simulation."""
    rng = np.random.default_rng(1)
    frames = [atoms.positions + 1e-3 * rng.normal(size=atoms.positions.shape) for _ in range(8)]
    while True:
        yield from frames


def time_engine(name, engine, atoms, repeat):
    frames, cell = moving(atoms), atoms.cell.array
    row = Row.of(name, *seconds(lambda: engine.compute(next(frames), cell), repeat), len(atoms))
    print(row, flush=True)
    return row


def time_ase(name, model, atoms, repeat, precision):
    atoms = atoms.copy()
    atoms.calc = TinyNetCalculator(model, precision=precision, warn=False, on_extrapolation="ignore")
    frames = moving(atoms)

    def call():
        atoms.positions = next(frames)
        atoms.get_forces()

    row = Row.of(name, *seconds(call, repeat), len(atoms))
    print(f"{row}  {row.microseconds * len(atoms) / 1e3:.3f} ms per call", flush=True)
    return row


def run_calls(arguments):
    atoms = atoms_of()
    ours, through_ase = [], []
    for mode in ("direct", "energy"):
        for label, average in AVERAGES.items():
            model = model_of(mode, average=average)
            for precision in ("single", "double"):
                name = f"{mode}, {label}, {precision}"
                engine = CompiledModel(model, atoms, precision=precision)
                ours.append(time_engine(name, engine, atoms, arguments.repeat))
                through_ase.append(time_ase(f"ASE: {name}", model, atoms, arguments.repeat, precision))
    folder = Path(arguments.work).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    peers = []
    if arguments.lmp:
        peers += time_lammps(arguments.lmp, folder, arguments.repeat, arguments.core)
    if arguments.deepmd:
        peers += time_deepmd(arguments.deepmd, folder, arguments.repeat, arguments.core)
    print("\nratios: peer / ours")
    for peer in peers:
        ratios = ", ".join(f"{row.name} {peer.microseconds / row.microseconds:.1f}" for row in ours)
        print(f"{peer.name}: {ratios}")
    return {"ours": rows(ours), "through_ase": rows(through_ase), "peers": rows(peers)}


def run_sizes(arguments):
    model = model_of(average=False)
    found = []
    for repeats in SIZES:
        atoms = atoms_of(repeats)
        for n_threads in (1, 2) if len(atoms) > 10_000 else (1,):
            os.sched_setaffinity(0, range(arguments.core, arguments.core + 1) if n_threads == 1 else {0, 1})
            start = time.perf_counter()
            engine = CompiledModel(model, atoms, precision="single", n_threads=n_threads)
            laid_out = time.perf_counter() - start
            row = time_engine(f"{len(atoms)} atoms, {n_threads} threads", engine, atoms, 5)
            print(f"  laid out in {laid_out:.2f} s, {engine.nbytes / len(atoms):.0f} bytes/atom", flush=True)
            found.append(
                {
                    "n_atoms": len(atoms),
                    "n_threads": n_threads,
                    "microseconds": row.microseconds,
                    "setup_seconds": laid_out,
                    "bytes_per_atom": engine.nbytes / len(atoms),
                }
            )
            del engine
    return found


@njit
def embed(model, lanes, blocks, geometry, directed, wide, real, outside):
    """The features of all atoms, as `energy_blocks` and `output_blocks` make them, and no more."""
    for b in range(blocks.shape[0]):
        kind, start, n = model.kinds[blocks[b].kind], blocks[b].start, blocks[b].n
        inputs = real[: kind.n_inputs * n].reshape(kind.n_inputs, n)
        kernels._gather(model, kind, lanes, start, n, geometry, directed, wide, inputs, outside)


def time_embedding(engine, atoms, repeat):
    """Pairs and features alone."""
    engine.compute(atoms.positions, atoms.cell.array)
    room = engine._room
    placed, cell = engine._placed(room, atoms.positions, atoms.cell.array)
    pairs = (placed, engine._tiling.cells @ cell, engine._pairs, engine._pair_rows, *engine._columns[0])
    tables = (engine._model, room.lanes, engine._blocks[0], room.geometry, engine._directed)
    space = (room.scratch[0].wide, room.scratch[0].real, np.zeros(len(atoms), dtype=bool))

    def call():
        kernels.measure_pairs(*pairs, room.geometry)
        embed(*tables, *space)

    return statistics.median(seconds(call, repeat)[0]) / len(atoms) * 1e6


def run_table(arguments):
    atoms = atoms_of()
    found = []
    for mode in ("direct", "energy"):
        for n in (0, 2, 4, 6):
            for N in (1, 2, 3):
                model = model_of(mode, n, N, average=False)
                engine = CompiledModel(model, atoms, precision="single")
                row = {
                    "mode": mode,
                    "n": n,
                    "N": N,
                    "length": model[0].n_features_out_,
                    "embedding": time_embedding(engine, atoms, arguments.repeat),
                    "total": time_engine(f"{mode}, L{n}({N})", engine, atoms, arguments.repeat).microseconds,
                }
                print(f"  embedding {row['embedding']:.2f}", flush=True)
                found.append(row)
    return found


def run_trained(arguments):
    atoms = atoms_of()
    found = []
    for path in sorted(Path(arguments.models).glob("cost-*.tinynet")):
        model = load_model(path)
        for precision in ("single", "double"):
            engine = CompiledModel(model, atoms, precision=precision)
            found.append(time_engine(f"{path.stem}, {precision}", engine, atoms, arguments.repeat))
    return rows(found)


def draw(results, folder):
    """Bars of the calls, and cost against size."""
    import matplotlib.pyplot as plt

    plt.rcParams["font.size"] = 9
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), width_ratios=[3, 2], layout="constrained")
    chosen = [row for row in results["calls"]["ours"] if row["name"].endswith("single")]
    bars = [(f"L$_4^{{(2)}}$ {row['name'].removesuffix(', single')}", row, "#0072B2") for row in chosen]
    bars += [(row["name"], row, "#999999") for row in results["calls"]["peers"]]
    bars.sort(key=lambda bar: -bar[1]["microseconds"])
    for k, (_, row, color) in enumerate(bars):
        axes[0].barh(k, row["microseconds"], color=color)
        axes[0].text(1.08 * row["microseconds"], k, f"{row['microseconds']:.3g}", va="center")
    axes[0].set_yticks(range(len(bars)), [label for label, _, _ in bars])
    axes[0].set(xscale="log", xlabel="µs per atom and step", title="160 atoms of BaTiO3, one core")
    axes[0].set_xlim(0.2, 4 * max(row["microseconds"] for _, row, _ in bars))
    for n_threads, style in ((1, "o-"), (2, "s--")):
        part = [row for row in results["sizes"] if row["n_threads"] == n_threads]
        axes[1].plot(
            [row["n_atoms"] for row in part],
            [row["microseconds"] for row in part],
            style,
            color="#0072B2" if n_threads == 1 else "#D55E00",
            label=f"{n_threads} thread{'s' * (n_threads > 1)}",
        )
    axes[1].set(xscale="log", xlabel="atoms", ylabel="µs per atom and step", title="cost against size")
    axes[1].set_ylim(bottom=0)
    axes[1].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "speed.png", dpi=150)


def rows(found):
    return [vars(row) for row in found]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("calls", "sizes", "table", "trained", "figure"))
    parser.add_argument("--lmp", help="executable of LAMMPS")
    parser.add_argument("--deepmd", help="interpreter with DeePMD-kit")
    parser.add_argument("--work", default="peers", help="folder for inputs and models of the peers")
    parser.add_argument("--models", help="folder with trained models")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--core", type=int, default=0)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.part == "figure":
        draw(results, FIGURES)
        return
    os.sched_setaffinity(0, {arguments.core})
    run = {"calls": run_calls, "sizes": run_sizes, "table": run_table, "trained": run_trained}[arguments.part]
    results[arguments.part] = run(arguments)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
