"""Runs of VASP: ``vasprun.xml`` with projected densities of states, through pymatgen.

*Steps.* Of a relaxation or molecular dynamics, geometries, forces and energies of all ionic steps are read.
Densities of states are those of the last, since VASP calculates them once, at the end.

*Energies* are those of the file, absolute. VASP's density of states at an energy is the mean over the step
that ends there, so its curves lie half a step above Gaussians at its eigenvalues. This is left as it is.

*Spin.* Without spin polarisation VASP counts both spins.

*Width.* With Gaussian smearing (ISMEAR = 0) peaks are exp(-(E - e)^2 / SIGMA^2) / (SIGMA sqrt(pi)): their
standard deviation is SIGMA / sqrt(2). (Eigenvalues of OsO2, broadened so, give its total to 0.003 of 7.9
states/eV, half a step lower.) Other smearings are no Gaussians, and tetrahedra (ISMEAR = -5) have no width:
they get None.

*Projection.* VASP projects inside spheres around the atoms. What lies between them is lost, so the sum over
the atoms is less than the total (`LDOS.sum_rule_residual`).
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa

from tinynet_sklearn._validation import first_few, users_level
from tinynet_sklearn.calculations import (
    DAMAGED,
    VOIGT,
    Calculation,
    check_spin,
    grid_of_file,
    levels_of_states,
    of_one_calculation,
    refusal,
    require_file,
    unparsed,
)
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.ldos import LDOS

__all__ = ["is_vasprun", "read_vasp"]

#: Energies in the file have four decimals.
LAST_DIGIT = 1e-4

#: ISMEAR of Gaussian smearing.
GAUSSIAN = 0


def is_vasprun(path: Path) -> bool:
    """Whether a file is one by its name."""
    return "vasprun" in path.name and path.name.endswith((".xml", ".xml.gz"))


def read_vasp(path: Path, *, spin: str = "refuse", projected: bool = True) -> list[Calculation]:
    """Read one run.

    Parameters
    ----------
    path : Path
        ``vasprun.xml``, or ``vasprun.xml.gz``.
    spin : {"refuse", "sum"}, default="refuse"
        What to do with two channels of spin.
    projected : bool, default=True
        Whether to read densities of states, and only the step that they are of, the last. Without them, all
        ionic steps are read.

    Returns
    -------
    list of Calculation
        One per step. Energies are free energies, of which the forces are derivatives.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or damaged, or has no projected densities of states.

    Warns
    -----
    UserWarning
        If the electrons did not converge.
    """
    run, steps, failed = _parsed(require_file(path), projected)
    if failed:
        which, them = "the last step", "it"
        if failed != [len(steps) - 1]:
            which = f"{len(failed)} of {len(steps)} steps ({first_few(list(map(str, failed)))})"
            them = "them"
        warnings.warn(
            f"{path}: the electrons of {which} did not converge. Repeat {them} with a greater NELM, or leave "
            f"{them} out.",
            stacklevel=users_level(),
        )
    if projected:
        atoms = _atoms(path, run, steps, len(steps) - 1)
        return [_calculation(str(path), atoms, steps[-1], _ldos(path, run, atoms, spin))]
    sources = [f"{path}, step {i}" for i in range(len(steps))] if len(steps) > 1 else [str(path)]
    return [_calculation(sources[i], _atoms(path, run, steps, i), step) for i, step in enumerate(steps)]


def _atoms(path: Path, run: Any, steps: list[dict[str, Any]], i: int) -> Atoms:
    """Where the atoms were in a step; the geometry at the end of the file may be a step further."""
    structure = steps[i]["structure"]
    if structure is None and i == len(steps) - 1:
        structure = run.final_structure
    if structure is None:
        raise refusal(path, f"step {i} has no structure. {DAMAGED}")
    return Atoms(
        [site.specie.Z for site in structure],
        positions=structure.cart_coords,
        cell=structure.lattice.matrix,
        pbc=True,
    )


def _calculation(source: str, atoms: Atoms, step: dict[str, Any], ldos: LDOS | None = None) -> Calculation:
    forces = step.get("forces")
    known = None if forces is None else np.asarray(forces, dtype=np.float64)
    stress = step.get("stress")
    if stress is not None:  # kbar, positive where the crystal pushes outwards
        stress = np.asarray(stress, dtype=np.float64)[VOIGT] * (-0.1 * GPa)
    return Calculation(source, atoms, ldos, known, float(step.get("e_fr_energy", np.nan)), stress)


def _parsed(path: Path, projected: bool) -> tuple[Any, list[dict[str, Any]], list[int]]:
    """Run of pymatgen, its steps, and those of them, if wanted, whose electrons did not converge."""
    from pymatgen.io.vasp.outputs import UnconvergedVASPWarning, Vasprun

    try:
        with warnings.catch_warnings():
            # Of unconverged electrons the caller hears in our words; an unfinished relaxation is no matter.
            warnings.simplefilter("ignore", UnconvergedVASPWarning)
            run = Vasprun(path, parse_dos=projected, parse_eigen=projected, parse_potcar_file=False)
        steps, last = run.ionic_steps, len(run.ionic_steps) - 1
        failed = [] if run.converged_electronic else [last]
        if not projected and not run.incar.get("ML_LMLFF"):
            rounds = [len(step["electronic_steps"]) for step in steps[:-1]]
            failed = [i for i, n in enumerate(rounds) if n >= run.parameters["NELM"]] + failed
        return run, steps, failed
    except Exception as error:  # whatever the parser runs into, the XML or what it misses in it
        raise unparsed(path, error) from error


def _ldos(path: Path, run: Any, atoms: Atoms, spin: str) -> LDOS:
    settings = run.parameters
    if settings.get("LNONCOLLINEAR") or settings.get("LSORBIT"):
        check_spin(path, 4, spin)
    if getattr(run, "dos_has_errors", True) or not run.pdos:
        raise refusal(
            path,
            "it has no projected densities of states. Set LORBIT = 10, 11 or 12 in the INCAR and run VASP "
            "again.",
        )
    total = np.array(list(run.tdos.densities.values()))  # (n_spins, n_energies)
    check_spin(path, len(total), spin)
    if len(run.pdos) != len(atoms):
        raise refusal(
            path, f"it has densities of states of {len(run.pdos)} of its {len(atoms)} atoms. Repeat the run."
        )
    curves = np.array(
        [
            sum(np.asarray(curve) for by_spin in atom.values() for curve in by_spin.values())
            for atom in run.pdos
        ]
    )
    energies = np.asarray(run.tdos.energies)
    even = np.linspace(energies[0], energies[-1], len(energies))
    if np.abs(energies - even).max() <= LAST_DIGIT:
        energies = even  # small steps look uneven, rounded as they are
    width = None
    if settings.get("ISMEAR") == GAUSSIAN:
        width = float(settings["SIGMA"]) / float(np.sqrt(2.0))
    fermi = np.nan if run.efermi is None else float(run.efermi)
    grid = grid_of_file(path, energies, width)
    levels = levels_of_states(_eigenvalues(run), fermi, grid, float(settings.get("NELECT", np.nan)))
    return of_one_calculation(path, curves, atoms.numbers, grid, levels=levels, total=total.sum(axis=0))


def _eigenvalues(run: Any) -> FloatArray:
    """Energies of the states, eV, (n_spins, n_k, n_states); the file has their occupations, too."""
    return np.stack([np.asarray(states)[..., 0] for states in run.eigenvalues.values()])
