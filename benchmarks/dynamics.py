"""Dynamics of BaTiO3 and MoO3 at 300 K beside the frames that they should look like.

NVT (Langevin) of 20 ps at 1 fs after 2 ps of equilibration, in a supercell and in the cell of the reference
frames. Compared are radial distribution functions by pair of species, and mean-square displacements from the
mean positions by species.

batio3, moo3  the potentials of `load_pretrained`. Reference: the bundled frames of 300 K. These are draws
              from a spring model that was fitted before the DFT calculations, in strained cells (see their
              DESCR), not DFT dynamics: they show how the training data look, and dynamics need not agree.
aimd          a potential trained on the AIMD of BaTiO3 (``--models FOLDER``, written by
              ``potential_accuracy.py``). Reference: the 300 K run itself, without the first five frames. Left
              out where model or data are not there.

A reference frame is repeated for distances beyond half its cell, where atoms meet their own images; dynamics
in the same cell are, too. Finished runs are kept in ``--runs``, others go on where they stopped.

usage: python benchmarks/dynamics.py [--models FOLDER] [--data FOLDER] [--runs FOLDER] [--steps 20000]
"""

import argparse
import itertools
import json
from pathlib import Path

import batio3_aimd
import numpy as np
from ase import Atoms, units
from ase.geometry.rdf import get_rdf
from ase.md.analysis import DiffusionCoefficient

from tinynet_sklearn import (
    TinyNetCalculator,
    load_batio3,
    load_model,
    load_moo3,
    load_pretrained,
    run_dynamics,
)
from tinynet_sklearn.plotting import COLORS, new_axes

TEMPERATURE = 300.0  # K
FARTHEST, N_BINS = 6.0, 240  # Angstrom
EQUILIBRATION, INTERVAL = 2000, 20  # steps
MODEL = "aimd-L4-2-400-epochs-seed-0.tinynet"

#: Pairs in the picture.
PAIRS = {
    "Ba": [("Ti", "O"), ("Ba", "O"), ("O", "O"), ("Ba", "Ti")],
    "Mo": [("Mo", "O"), ("O", "O"), ("Mo", "Mo")],
}


# ---- What is compared --------------------------------------------------------------------------------------


def subjects(options):
    """Name, title, model, reference frames, supercell."""
    for name, title, load, cells in (
        ("batio3", "BaTiO3, bundled potential", load_batio3, (2, 2, 2)),
        ("moo3", "MoO3, bundled potential", load_moo3, (3, 1, 3)),
    ):
        data = load()
        frames = [data.structures[k] for k in np.flatnonzero(data.temperatures == TEMPERATURE)]
        yield name, title, load_pretrained(name), frames, cells
    path = options.models / MODEL if options.models else None
    if path is None or not path.exists() or not (options.data / "BT-300K").is_dir():
        print("aimd: left out; it needs --models and --data")
        return
    parts = batio3_aimd.load(options.data)
    frames = [
        a
        for part in parts
        for a, run in zip(part["structures"], part["run"], strict=True)
        if run == "BT-300K"
    ]
    yield "aimd", "BaTiO3, potential trained on AIMD", load_model(path), frames[5:], (2, 2, 1)


def unwrapped(frames):
    """Scaled positions that follow each atom, the centre of mass at rest: shape (n_frames, n_atoms, 3)."""
    scaled = np.array([atoms.get_scaled_positions(wrap=False) for atoms in frames])
    away = scaled - scaled[0]
    shift = np.angle(np.exp(2j * np.pi * away).mean(axis=1, keepdims=True)) / (2 * np.pi)  # of all atoms
    away -= np.round(away - shift)
    masses = frames[0].get_masses()
    away -= np.average(away, axis=1, weights=masses)[:, None]
    return scaled[0] + away


def mean_structure(frames):
    """Atoms at their mean positions in the mean cell."""
    atoms = frames[0].copy()
    atoms.calc = None
    atoms.set_constraint()
    atoms.set_cell(np.mean([frame.cell.array for frame in frames], axis=0))
    atoms.set_scaled_positions(unwrapped(frames).mean(axis=0))
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)


def displacements(frames):
    """Mean-square displacement from the mean positions by species, A^2, with standard error (10 blocks)."""
    scaled = unwrapped(frames)
    cell = np.mean([frame.cell.array for frame in frames], axis=0)
    squares = (((scaled - scaled.mean(axis=0)) @ cell) ** 2).sum(axis=2) * len(frames) / (len(frames) - 1)
    found = {}
    for symbol in sorted(set(frames[0].get_chemical_symbols())):
        own = squares[:, frames[0].symbols == symbol].mean(axis=1)
        blocks = [block.mean() for block in np.array_split(own, 10)]
        found[symbol] = [float(own.mean()), float(np.std(blocks, ddof=1) / np.sqrt(10))]
    return found


def distribution(frames):
    """g(r) by pair of species, averaged over frames."""
    symbols = sorted(set(frames[0].get_chemical_symbols()))
    pairs = list(itertools.combinations_with_replacement(symbols, 2))
    found = dict.fromkeys(pairs, 0.0)
    for frame in frames:
        lengths = np.linalg.norm(np.linalg.inv(frame.cell.array), axis=0)  # inverse heights of the cell
        atoms = frame * tuple(int(n) for n in np.ceil(2 * FARTHEST * lengths + 1e-9))
        distances = atoms.get_all_distances(mic=True)
        for pair in pairs:
            found[pair] = found[pair] + get_rdf(
                atoms, FARTHEST, N_BINS, distance_matrix=distances, elements=pair, no_dists=True
            ) / len(frames)
    return found


def moved(one, other):
    """Share of the pairs up to `FARTHEST` that stand elsewhere in the other distribution."""
    radii = (np.arange(N_BINS) + 0.5) * FARTHEST / N_BINS
    a, b = (g * radii**2 / (g * radii**2).sum() for g in (one, other))
    return float(0.5 * np.abs(a - b).sum())


def against_time(frames, steps):
    """Mean-square displacement after a time, A^2 by species, up to 2 ps: ASE's, averaged over ten starts."""
    timestep = (steps[1] - steps[0]) * units.fs
    still = [frame.copy() for frame in frames]
    for atoms in still:
        atoms.positions -= atoms.get_center_of_mass()
    found = DiffusionCoefficient(still, timestep)
    found.calculate(number_of_segments=10)
    squares = 2 * found.xyz_segment_ensemble_average.sum(axis=2).mean(axis=0)
    n = min(squares.shape[1], round(2000 / (steps[1] - steps[0])) + 1)
    times = np.arange(n) * (steps[1] - steps[0]) * 1e-3
    return times, dict(zip(found.types_of_atoms, squares[:, :n], strict=True))


# ---- Runs --------------------------------------------------------------------------------------------------


def simulated(model, start, folder, options):
    """Run, or continue, or take what is there."""
    atoms = start.copy()
    atoms.calc = TinyNetCalculator(model, on_extrapolation="ignore")
    result = run_dynamics(
        atoms,
        temperature=TEMPERATURE,
        n_steps=options.steps,
        equilibration=EQUILIBRATION,
        interval=INTERVAL,
        folder=folder,
        restart=True,
    )
    summary = result.summary()
    names = (
        "n_atoms", "temperature_mean_K", "temperature_std_K", "temperature_std_expected_K",
        "drift_meV_per_atom_ps", "frames_with_extrapolating_atoms", "extrapolating_atoms_mean",
    )  # fmt: skip
    return result, {name: summary[name] for name in names}


def measured(name, title, model, reference, cells, options):
    """All numbers of one subject, and what its row of the picture shows."""
    start = mean_structure(reference)
    wanted, there = distribution(reference), displacements(reference)
    numbers = {"title": title, "reference_frames": len(reference), "reference_atoms": len(start)}
    numbers["square_displacement_A2"] = {"reference": there}
    picture = {"title": title, "reference": wanted, "squares": {"reference frames": there}}
    for label, atoms in (("same cell", start), ("supercell", start * cells)):
        result, found = simulated(model, atoms, options.runs / f"{name} {label}", options)
        frames = result.frames()
        ours, squares = distribution(frames[:: max(len(frames) // 100, 1)]), displacements(frames)
        found["pairs_elsewhere"] = {"-".join(pair): moved(ours[pair], wanted[pair]) for pair in ours}
        numbers["square_displacement_A2"][label] = squares
        numbers[label] = found
        picture[label] = ours
        picture["squares"][f"{label}, {len(atoms)} atoms"] = squares
        if label == "supercell":
            picture["time"] = against_time(frames, [frame.info["step"] for frame in frames])
    return numbers, picture


# ---- Table and picture -------------------------------------------------------------------------------------


def show(name, numbers):
    frames = f"{numbers['reference_frames']} frames of {numbers['reference_atoms']} atoms"
    print(f"\n{name}: {numbers['title']}; {frames}")
    for label in ("same cell", "supercell"):
        found = numbers[label]
        flagged = found["extrapolating_atoms_mean"]
        outside = "unknown" if flagged is None else f"{flagged:.1f}"
        print(
            f"  {label}: {found['n_atoms']} atoms, {found['temperature_mean_K']:.1f} +- "
            f"{found['temperature_std_K']:.1f} K (canonical {found['temperature_std_expected_K']:.1f}), "
            f"drift {found['drift_meV_per_atom_ps']:.1e} meV/atom/ps, "
            f"{outside} atoms outside of the training data"
        )
        where = ", ".join(f"{pair} {share:.1%}" for pair, share in found["pairs_elsewhere"].items())
        print(f"    pairs elsewhere than in the frames: {where}")
    for label, squares in numbers["square_displacement_A2"].items():
        line = ", ".join(f"{symbol} {value:.4f} +- {error:.4f}" for symbol, (value, error) in squares.items())
        print(f"  <u^2> {label}: {line} A^2")


def draw(pictures, path):
    figure = new_axes(10.0, 3.3 * len(pictures)).figure
    figure.clear()
    grid = figure.subplots(len(pictures), 3, width_ratios=[2.2, 1.1, 1.1], squeeze=False)
    for row, picture in zip(grid, pictures, strict=True):
        draw_distributions(row[0], picture)
        draw_squares(row[1], picture["squares"])
        draw_time(row[2], picture)
    grid[0, 1].set_title("from the mean positions", fontsize=9)
    grid[0, 2].set_title("after a time, supercell", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path)


def draw_distributions(axes, picture):
    """Pairs above each other, each scaled to its highest peak."""
    radii = (np.arange(N_BINS) + 0.5) * FARTHEST / N_BINS
    reference = picture["reference"]
    pairs = next(pairs for symbol, pairs in PAIRS.items() if any(symbol in pair for pair in reference))
    for level, pair in enumerate(reversed(pairs)):
        key = tuple(sorted(pair))
        scale = 0.9 / max(picture[label][key].max() for label in ("reference", "same cell", "supercell"))
        first = level == 0
        axes.fill_between(
            radii, level, level + scale * reference[key], color="0.75", linewidth=0.0,
            label="reference frames" if first else None,
        )  # fmt: skip
        for label, color, style in (("same cell", COLORS[1], "--"), ("supercell", COLORS[0], "-")):
            axes.plot(
                radii, level + scale * picture[label][key], color=color, linestyle=style, linewidth=1.1,
                label=f"dynamics, {label}" if first else None,
            )  # fmt: skip
        axes.text(0.95, level + 0.25, "-".join(pair), fontsize=9)
    axes.set(
        xlim=(0.9, FARTHEST), ylim=(0, len(pairs) + 0.05), yticks=[], xlabel="distance (Å)", ylabel="g(r)"
    )
    axes.set_title(picture["title"], fontsize=10, loc="left")


def draw_squares(axes, squares):
    looks = (("0.75", None), (COLORS[1], "//"), (COLORS[0], None))
    symbols = list(next(iter(squares.values())))
    for k, ((label, found), (color, hatch)) in enumerate(zip(squares.items(), looks, strict=True)):
        heights, errors = np.array([found[symbol] for symbol in symbols]).T
        axes.bar(
            np.arange(len(symbols)) + 0.27 * (k - 1), heights, 0.25, yerr=2 * errors, color=color,
            hatch=hatch, edgecolor="white" if hatch else "none", error_kw={"linewidth": 0.8}, label=label,
        )  # fmt: skip
    axes.set_xticks(range(len(symbols)), symbols)
    axes.set_ylabel("square displacement (Å$^2$)")
    axes.set_ylim(top=1.45 * axes.get_ylim()[1])
    axes.legend(fontsize=7, loc="upper left", frameon=False)


def draw_time(axes, picture):
    times, curves = picture["time"]
    for (symbol, curve), color in zip(curves.items(), COLORS[2:], strict=False):
        axes.plot(times, curve, color=color, linewidth=1.2, label=symbol)
    axes.set(xlabel="time (ps)", ylabel="square displacement (Å$^2$)", ylim=(0, None), xlim=(0, times[-1]))
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])
    axes.legend(fontsize=8, loc="upper left", ncols=len(curves), frameon=False)


def main():
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, help="folder with the model of potential_accuracy.py")
    parser.add_argument("--data", type=Path, default=batio3_aimd.DEFAULT_DATA)
    parser.add_argument(
        "--runs", type=Path, default=Path("dynamics-runs"), help="folder for the trajectories"
    )
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--results", type=Path, default=here / "results" / "dynamics.json")
    parser.add_argument("--picture", type=Path, default=here.parent / "docs" / "figures" / "dynamics.png")
    options = parser.parse_args()
    table, pictures = {}, []
    for name, *subject in subjects(options):
        table[name], picture = measured(name, *subject, options)
        pictures.append(picture)
        show(name, table[name])
    rounded = json.loads(json.dumps(table), parse_float=lambda text: float(f"{float(text):.4g}"))
    options.results.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    draw(pictures, options.picture)


if __name__ == "__main__":
    main()
