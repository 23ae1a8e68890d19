"""Runs of VASP: ``vasprun.xml`` with projected densities of states, through pymatgen.

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

from tinynet_sklearn._validation import users_level
from tinynet_sklearn.calculations import (
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
    """Read the last step of one run.

    Parameters
    ----------
    path : Path
        ``vasprun.xml``, or ``vasprun.xml.gz``.
    spin : {"refuse", "sum"}, default="refuse"
        What to do with two channels of spin.
    projected : bool, default=True
        Whether to read densities of states.

    Returns
    -------
    list of Calculation
        Of one; its energy is the free energy, of which the forces are derivatives.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or damaged, or has no projected densities of states.

    Warns
    -----
    UserWarning
        If the electrons did not converge.
    """
    run, step, converged = _parsed(require_file(path), projected)
    # where the atoms were for these electrons; the geometry at the end of the file may be a step further
    structure = step["structure"] or run.final_structure
    atoms = Atoms(
        [site.specie.Z for site in structure],
        positions=structure.cart_coords,
        cell=structure.lattice.matrix,
        pbc=True,
    )
    if not converged:
        warnings.warn(
            f"{path}: the electrons of the last step did not converge. Repeat it with a greater NELM, or "
            "leave it out.",
            stacklevel=users_level(),
        )
    ldos = _ldos(path, run, atoms, spin) if projected else None
    forces = step.get("forces")
    known = None if forces is None else np.asarray(forces, dtype=np.float64)
    return [Calculation(str(path), atoms, ldos, known, float(step.get("e_fr_energy", np.nan)))]


def _parsed(path: Path, projected: bool) -> tuple[Any, dict[str, Any], bool]:
    """Run of pymatgen, its last step, and whether the electrons of that converged."""
    from pymatgen.io.vasp.outputs import UnconvergedVASPWarning, Vasprun

    try:
        with warnings.catch_warnings():
            # Of unconverged electrons the caller hears in our words; an unfinished relaxation is no matter.
            warnings.simplefilter("ignore", UnconvergedVASPWarning)
            run = Vasprun(path, parse_dos=projected, parse_eigen=projected, parse_potcar_file=False)
        return run, run.ionic_steps[-1], bool(run.converged_electronic)
    except Exception as error:  # whatever the parser runs into, the XML or what it misses in it
        raise unparsed(path, error) from error


def _ldos(path: Path, run: Any, atoms: Atoms, spin: str) -> LDOS:
    settings = run.parameters
    if settings.get("LNONCOLLINEAR") or settings.get("LSORBIT"):
        check_spin(path, 4, spin)
    if getattr(run, "dos_has_errors", True) or not run.pdos:
        raise refusal(
            path,
            "it has no projected densities of states. Set LORBIT = 11 in the INCAR and run VASP again.",
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
