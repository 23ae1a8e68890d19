"""What a potential does in use: dynamics, relaxation, phonons, equation of state, elastic constants.

Everything goes through ASE and `TinyNetCalculator`, for a model with an energy. With ``--out FOLDER`` each
task draws a picture there, and ``physics.json`` holds all numbers.

nve       drift of the total energy (linear fit) and its fluctuation about it, velocity Verlet
timestep  the fluctuation for 0.25, 0.5, 1 and 2 fs from the same start: Verlet promises the power 2
relax     BFGS from displaced atoms to 1e-3 eV/A
phonons   at Gamma of the reference's cell, central differences of the forces at the relaxed positions
eos       energy against volume, atoms relaxed at each; Birch-Murnaghan
elastic   stress against strain, atoms relaxed (and held, for comparison), at the relaxed cell

``--direct MODEL`` runs NVE with the forces of a direct model, too. These have no energy of their own, so the
curve beside is the total energy *of the energy model* along that trajectory: what a simulation that uses the
direct forces as if they were those of the crystal gains or loses.

The reference is relaxed from displacements of ``--rattle`` (A), so that it leaves saddle points of high
symmetry; with 0 it keeps its symmetry, and the phonons tell which modes are unstable.

usage: python benchmarks/physics.py (MODEL | --pretrained batio3 | --stand-in) [--tasks nve,relax] [--out DIR]
"""

import argparse
import itertools
import json
import time
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from tinynet_sklearn import TinyNetCalculator, load_model

TIME_STEPS = (0.25, 0.5, 1.0, 2.0)  # fs
DISPLACEMENT = 0.003  # A, of the finite differences of forces
STRAIN = 0.002  # of those of stresses
THZ = 1e15 * units.fs * 1e-12 / (2 * np.pi)  # from sqrt(eV / (A^2 u)) to a frequency


class Subject:
    """The potential and its crystal: relaxed once, copied by every task."""

    def __init__(self, reference, calculator, options):
        self.calculator, self.options = calculator, options
        self.given = reference.copy()
        self.given.positions += options.rattle * self.noise(len(reference))
        self.given.calc = calculator()
        relax_atoms(self.given)
        self.reference = self.given.copy()
        self.reference.calc = calculator()
        self.cell_note = self._relax_cell()

    def noise(self, n_atoms):
        """Normal deviates, the same for the same seed, shape (n_atoms, 3)."""
        return np.random.default_rng(self.options.seed).normal(size=(n_atoms, 3))

    def _relax_cell(self):
        """Relax the cell, unless it runs away; say what was done."""
        before = self.reference.cell.array.copy()
        optimizer = BFGS(FrechetCellFilter(self.reference), logfile=None)
        try:
            with warnings.catch_warnings():  # scipy's logarithm of a matrix worries about rounding
                warnings.filterwarnings("ignore", "logm result may be inaccurate", RuntimeWarning)
                done = optimizer.run(fmax=1e-3, steps=300)
        except ValueError as error:
            done = False
            print(f"relaxation of the cell left the bonds: {error}")
        strain = np.abs(np.linalg.solve(before, self.reference.cell.array) - np.eye(3)).max()
        if done and strain < 0.1:
            return f"relaxed cell (strain of at most {strain:.1%} against the reference)"
        self.reference = self.given.copy()
        self.reference.calc = self.calculator()
        return "cell of the reference (the relaxation of the cell failed: constants include its stress)"

    def supercell(self):
        """About as many atoms as asked for, as near to a cube as can be."""
        n_cells = max(round(self.options.atoms / len(self.given)), 1)
        lengths = self.given.cell.lengths()
        shapes = [s for s in itertools.product(range(1, n_cells + 1), repeat=3) if np.prod(s) == n_cells]
        atoms = self.given * min(shapes, key=lambda shape: np.ptp(np.log(lengths * shape)))
        atoms.calc = self.calculator()
        return atoms

    def thermal(self):
        """Supercell at the temperature: half a picosecond of Langevin dynamics from the relaxed positions."""
        atoms = self.supercell()
        rng = np.random.default_rng(self.options.seed)
        spread = np.sqrt(2 * atoms.get_masses() * units.kB * self.options.temperature)[:, None]
        atoms.set_momenta(spread * rng.normal(size=(len(atoms), 3)))
        Langevin(
            atoms, units.fs, temperature_K=self.options.temperature, friction=0.01 / units.fs, fixcm=False,
            rng=rng, logfile=None,
        ).run(self.options.equilibration)  # fmt: skip
        velocity = atoms.get_momenta().sum(axis=0) / atoms.get_masses().sum()
        atoms.set_velocities(atoms.get_velocities() - velocity)
        return atoms


def relax_atoms(atoms, fmax=1e-3, steps=500):
    """BFGS; returns the largest force at every step, eV/A."""
    largest = []
    optimizer = BFGS(atoms, logfile=None)
    optimizer.attach(lambda: largest.append(np.linalg.norm(atoms.get_forces(), axis=1).max()))
    if not optimizer.run(fmax=fmax, steps=steps):
        print(f"BFGS stopped after {steps} steps at {largest[-1]:.2g} eV/A")
    return np.array(largest)


def total_energies(atoms, time_step, n_steps, interval, energy_of=None):
    """Times (ps), total energies (meV/atom, from the first) and temperatures (K) along velocity Verlet."""
    rows = []

    def record():
        potential = atoms.get_potential_energy() if energy_of is None else energy_of(atoms)
        energy = 1e3 * (potential + atoms.get_kinetic_energy()) / len(atoms)
        rows.append((dynamics.get_time() / (1000 * units.fs), energy, atoms.get_temperature()))

    dynamics = VelocityVerlet(atoms, timestep=time_step * units.fs, logfile=None)
    dynamics.attach(record, interval=interval)
    try:
        dynamics.run(n_steps)
    except ValueError as error:  # heated until bonds broke: what came before tells why
        print(f"NVE ended after {dynamics.get_time() / (1000 * units.fs):.3f} ps: {error}")
    times, energies, temperatures = np.array(rows).T
    return times, energies - energies[0], temperatures


def drift(times, energies):
    """Slope (meV/atom/ps), its error from the slopes of ten blocks' means, and RMS about the line."""
    (slope, start), covariance = np.polyfit(times, energies, 1, cov=True)
    blocks = min(10, len(times) // 2)
    means = [[part.mean() for part in np.array_split(column, blocks)] for column in (times, energies)]
    if blocks > 2:
        covariance = np.polyfit(*means, 1, cov=True)[1]
    rms = np.sqrt(np.mean((energies - start - slope * times) ** 2))
    return {"drift": slope, "drift_error": np.sqrt(covariance[0, 0]), "rms": rms}


# ---- Tasks: each returns its numbers and a function that draws them ----------------------------------------


def nve(subject):
    start, options = subject.thermal(), subject.options
    atoms = start.copy()
    atoms.calc = subject.calculator()
    interval = max(options.steps // 2000, 5)
    began = time.perf_counter()
    runs = {"energy model": total_energies(atoms, 1.0, options.steps, interval)}
    seconds = time.perf_counter() - began
    if options.direct:
        judge, atoms = subject.calculator(), start.copy()
        atoms.calc = TinyNetCalculator(load_model(options.direct), warn=False)
        label = "direct forces"
        runs[label] = total_energies(
            atoms, 1.0, options.steps, interval, lambda now: judge.get_potential_energy(now)
        )
    numbers = {
        "atoms": len(start),
        "picoseconds": options.steps * 1e-3,
        "unit": "meV/atom, meV/atom/ps",
        "milliseconds_per_step": 1e3 * seconds / options.steps,
    }
    for label, (times, energies, temperatures) in runs.items():
        half = len(times) // 2
        numbers[label] = drift(times, energies) | {
            "second_half": drift(times[half:], energies[half:]),
            "mean_temperature": temperatures.mean(),
            "last_temperature": temperatures[-1],
            "ended_ps": times[-1],
        }

    def draw(axes):
        for label, (times, energies, _) in runs.items():
            axes.plot(times, energies, label=f"{label}: {numbers[label]['drift']:+.3g} meV/atom/ps", lw=0.8)
        if options.direct:  # of quite another size
            axes.set_yscale("symlog", linthresh=0.1)
        axes.set(xlabel="time, ps", ylabel="total energy, meV/atom", title=f"NVE, {len(start)} atoms, 1 fs")
        axes.legend()

    return numbers, draw


def timestep(subject):
    start = subject.thermal()
    fluctuations = []
    for step in TIME_STEPS:
        atoms = start.copy()
        atoms.calc = subject.calculator()
        # The same instants for all, so that only the integrator differs.
        every = round(max(TIME_STEPS) / step)
        _, energies, _ = total_energies(atoms, step, every * subject.options.timestep_samples, every)
        fluctuations.append(energies.std())
    slope = np.polyfit(np.log(TIME_STEPS), np.log(fluctuations), 1)[0]
    numbers = {"time_steps_fs": TIME_STEPS, "rms_meV_per_atom": fluctuations, "slope": slope}

    def draw(axes):
        axes.loglog(TIME_STEPS, fluctuations, "o-", label=f"slope {slope:.2f}")
        square = fluctuations[-1] * (np.array(TIME_STEPS) / TIME_STEPS[-1]) ** 2
        axes.loglog(TIME_STEPS, square, "k:", label="slope 2")
        axes.set_xticks(TIME_STEPS, [f"{step:g}" for step in TIME_STEPS])
        axes.minorticks_off()
        axes.set(xlabel="time step, fs", ylabel="RMS of the total energy, meV/atom", title="velocity Verlet")
        axes.legend()

    return numbers, draw


def relax(subject):
    atoms = subject.supercell()
    relaxed = atoms.get_potential_energy()
    atoms.positions += 0.1 * subject.noise(len(atoms))
    displaced = atoms.get_potential_energy()
    largest = relax_atoms(atoms)
    numbers = {
        "atoms": len(atoms),
        "steps": len(largest) - 1,
        "largest_force_eV_per_A": largest[-1],
        "displaced_meV_per_atom": 1e3 * (displaced - relaxed) / len(atoms),
        "found_meV_per_atom": 1e3 * (atoms.get_potential_energy() - relaxed) / len(atoms),
    }

    def draw(axes):
        axes.semilogy(largest, ".-")
        axes.axhline(1e-3, color="k", ls=":")
        axes.set(xlabel="step of BFGS", ylabel="largest force, eV/Å", title="relaxation from 0.1 Å of noise")

    return numbers, draw


def phonons(subject):
    atoms = subject.given.copy()
    atoms.calc = subject.calculator()
    n = len(atoms)
    constants = np.empty((3 * n, 3 * n))
    for k in range(3 * n):
        forces = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[k // 3, k % 3] += sign * DISPLACEMENT
            forces.append(atoms.calc.get_forces(moved).reshape(-1))
        constants[k] = -(forces[0] - forces[1]) / (2 * DISPLACEMENT)
    sums = np.abs(constants.reshape(n, 3, n, 3).sum(axis=2)).max()
    asymmetry = np.abs(constants - constants.T).max()
    weights = np.repeat(atoms.get_masses() ** -0.5, 3)
    squares, modes = np.linalg.eigh(0.5 * (constants + constants.T) * weights[:, None] * weights)
    frequencies = np.sign(squares) * np.sqrt(np.abs(squares)) * THZ
    # Acoustic modes are those that look most like the translations of the whole crystal.
    translations = np.tile(np.eye(3), (n, 1)) / weights[:, None]
    overlaps = ((modes.T @ translations) ** 2).sum(axis=1)
    acoustic = np.isin(np.arange(3 * n), np.argsort(overlaps)[-3:])
    unstable = (frequencies < 0) & ~acoustic
    numbers = {
        "frequencies_THz": frequencies,
        "imaginary": int(unstable.sum()),
        "largest_acoustic_THz": np.abs(frequencies[acoustic]).max(),
        "acoustic_sum_rule_eV_per_A2": sums,
        "asymmetry_eV_per_A2": asymmetry,
    }

    def draw(axes):
        axes.vlines(frequencies, 0, 1, color=np.where(unstable, "C3", np.where(acoustic, "k", "C0")))
        axes.set(
            xlabel="frequency, THz (imaginary ones negative)",
            yticks=[],
            title="phonons at Gamma (black: acoustic)",
        )

    return numbers, draw


def eos(subject):
    volumes, energies = [], []
    for scale in np.linspace(0.94, 1.06, 9):
        atoms = subject.reference.copy()
        atoms.set_cell(scale ** (1 / 3) * atoms.cell.array, scale_atoms=True)
        atoms.calc = subject.calculator()
        relax_atoms(atoms)
        volumes.append(atoms.get_volume() / len(atoms))
        energies.append(atoms.get_potential_energy() / len(atoms))
    state = EquationOfState(volumes, energies, eos="birchmurnaghan")
    volume, energy, modulus = state.fit()
    numbers = {
        "cell": subject.cell_note,
        "volume_A3_per_atom": volume,
        "energy_eV_per_atom": energy,
        "bulk_modulus_GPa": modulus / units.GPa,
        "volumes_A3_per_atom": volumes,
        "energies_eV_per_atom": energies,
    }

    def draw(axes):
        axes.plot(volumes, 1e3 * (np.array(energies) - energy), "o")
        dense = np.linspace(volumes[0], volumes[-1], 100)
        axes.plot(dense, 1e3 * (state.func(dense, *state.eos_parameters) - energy), "C0-", lw=0.8)
        axes.axvline(volume, color="k", ls=":")
        title = f"bulk modulus {modulus / units.GPa:.0f} GPa"
        axes.set(xlabel="volume, Å³/atom", ylabel="energy, meV/atom", title=title)

    return numbers, draw


def elastic(subject):
    numbers = {"cell": subject.cell_note, "strain": STRAIN}
    for label, relaxed in (("relaxed_GPa", True), ("clamped_GPa", False)):
        constants = np.empty((6, 6))
        for j in range(6):
            stresses = []
            for sign in (1, -1):
                voigt = np.zeros(6)
                voigt[j] = sign * STRAIN
                xx, yy, zz, yz, xz, xy = voigt / [1, 1, 1, 2, 2, 2]
                strain = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
                atoms = subject.reference.copy()
                atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
                atoms.calc = subject.calculator()
                if relaxed:
                    relax_atoms(atoms, fmax=2e-4)
                stresses.append(atoms.get_stress())
            constants[:, j] = (stresses[0] - stresses[1]) / (2 * STRAIN) / units.GPa
        numbers[label] = 0.5 * (constants + constants.T)
        numbers[label.replace("GPa", "asymmetry_GPa")] = np.abs(constants - constants.T).max()
    constants = numbers["relaxed_GPa"]
    numbers["voigt_bulk_modulus_GPa"] = constants[:3, :3].mean()
    numbers["smallest_eigenvalue_GPa"] = np.linalg.eigvalsh(constants).min()

    def draw(axes):
        limit = np.abs(constants).max()
        axes.imshow(constants, cmap="RdBu_r", vmin=-limit, vmax=limit)
        for i, j in itertools.product(range(6), repeat=2):
            color = "w" if abs(constants[i, j]) > 0.6 * limit else "k"
            number = round(float(constants[i, j])) or 0
            axes.text(j, i, number, ha="center", va="center", fontsize=8, color=color)
        names = ["xx", "yy", "zz", "yz", "xz", "xy"]
        axes.set(xticks=range(6), yticks=range(6), xticklabels=names, yticklabels=names)
        axes.set_title("elastic constants, GPa, atoms relaxed")

    return numbers, draw


TASKS = {f.__name__: f for f in (nve, timestep, relax, phonons, eos, elastic)}


# ---- Running them ------------------------------------------------------------------------------------------


def subject_of(options):
    """Reference structure and a maker of calculators."""
    if options.stand_in:
        return Subject(bulk("Cu", "fcc", a=3.6, cubic=True), EMT, options)
    if options.pretrained:
        from tinynet_sklearn import load_pretrained

        model = load_pretrained(options.pretrained)
    else:
        model = load_model(options.model)
    fitted = model[0].reference_
    reference = Atoms(fitted.numbers, fitted.positions, cell=fitted.cell, pbc=fitted.pbc)
    return Subject(reference, lambda: TinyNetCalculator(model), options)


def plain(value):
    """Numbers that JSON can hold, six digits of each."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float | np.floating) else value


def save(folder, name, draw):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    draw(axes)
    figure.savefig(folder / f"{name}.png", dpi=150)
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("model", nargs="?", help="file of save_model: a pipeline with an energy")
    which.add_argument("--pretrained", choices=("batio3", "moo3"))
    which.add_argument("--stand-in", action="store_true", help="ASE's EMT copper, to try the script")
    parser.add_argument("--direct", help="file of save_model: a pipeline of direct forces, for nve")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--out", type=Path, help="folder for pictures and physics.json")
    parser.add_argument("--atoms", type=int, default=160, help="of the supercell for dynamics")
    parser.add_argument("--rattle", type=float, default=0.02, help="A, before the reference is relaxed")
    parser.add_argument("--temperature", type=float, default=300.0, help="K")
    parser.add_argument("--steps", type=int, default=5000, help="of NVE, 1 fs each")
    parser.add_argument("--equilibration", type=int, default=500, help="Langevin steps of 1 fs before it")
    parser.add_argument("--timestep-samples", type=int, default=250, help="of the total energy, 2 fs apart")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    unknown = sorted(set(options.tasks.split(",")) - set(TASKS))
    if unknown:
        parser.error(f"--tasks must be among {', '.join(TASKS)}; got {', '.join(unknown)}")
    warnings.simplefilter("ignore", FutureWarning)  # of ASE about its own next release
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    subject = subject_of(options)
    print(f"{subject.given.get_chemical_formula()}: {subject.cell_note}")
    results = {}
    for name in options.tasks.split(","):
        numbers, draw = TASKS[name](subject)
        results[name] = plain(numbers)
        print(f"\n{name}")
        for key, value in results[name].items():
            print(f"  {key}: {value}", flush=True)
        if options.out:
            save(options.out, name, draw)
            (options.out / "physics.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
