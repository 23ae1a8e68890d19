"""ASE's integrators of molecular dynamics, with the right degrees of freedom and a state that can be saved.

============  ==================================  ============================  ==========================
name          class of ASE                        samples                       conserved
============  ==================================  ============================  ==========================
verlet        `VelocityVerlet`                    constant energy               total energy
langevin      `LangevinBAOAB`                     canonical                     total energy minus heat
bussi         `Bussi`                             canonical                     total energy minus heat
mtk           `MTKNPT`, `IsotropicMTKNPT`         isothermal-isobaric           extended energy of the method
============  ==================================  ============================  ==========================

Langevin dynamics couple every atom to the bath and so bring every vibration of a crystal to the temperature,
which a thermostat that scales all velocities together (Bussi, Nosé-Hoover) leaves to anharmonicity. The
splitting BAOAB (Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013)) samples positions of harmonic
motion without any error of the time step. Its heat is the kinetic energy that the random step O brings in;
what the other steps change is the error of the integration, as in NVE (Bussi and Parrinello, Phys. Rev. E 75,
056707 (2007)).

**Centre of mass.** It is at rest, and no thermostat sets it in motion, so N atoms have 3N - 3 degrees of
freedom. ASE counts them so under its constraint `FixCom`, which also projects the random momenta; projecting
them is exact, as the noise is Gaussian and the projection orthogonal in mass-weighted coordinates. `MTKNPT`
takes no constraints and counts 3N. There the number of atoms in its equations is set to N - 1, which gives
the equations of Martyna, Tobias and Klein (J. Chem. Phys. 101, 4177 (1994)) for a total momentum of zero.
Structures with fixed atoms have no free centre of mass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.constraints import FixAtoms, FixCom
from ase.md.bussi import Bussi
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.nose_hoover_chain import MTKNPT, IsotropicMTKNPT
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from tinynet_sklearn.frames import FloatArray

__all__ = ["Bath", "Integrator", "degrees_of_freedom", "draw_velocities", "free_the_centre", "temperature_of"]

# Attributes of ASE's objects that change from step to step, besides positions, momenta and cell.
_CHAINS = ("_thermostat._eta", "_thermostat._p_eta", "_barostat._xi", "_barostat._p_xi")
_STATES = {
    "verlet": (),
    "langevin": ("heat",),
    "bussi": ("transferred_energy",),
    "mtk-full": (*_CHAINS, "_p_g"),
    "mtk-isotropic": (*_CHAINS, "_p_eps", "_eps", "_cell0", "_volume0"),
}


@dataclass(frozen=True)
class Bath:
    """What surrounds the atoms.

    Parameters
    ----------
    temperature : float
        K.
    time_constant : float
        Of the thermostat, fs.
    pressure : float
        GPa; positive under compression.
    pressure_time_constant : float
        Of the barostat, fs.
    """

    temperature: float
    time_constant: float
    pressure: float
    pressure_time_constant: float


class Integrator:
    """One of ASE's integrators at work on a structure.

    Parameters
    ----------
    name : {"verlet", "langevin", "bussi", "mtk-full", "mtk-isotropic"}
    atoms : ase.Atoms
        With a calculator and momenta; changed by every step.
    timestep : float
        fs.
    bath : Bath
    rng : numpy.random.Generator
        For the thermostats that draw numbers.

    Attributes
    ----------
    dynamics : ase.md.md.MolecularDynamics
    """

    def __init__(
        self, name: str, atoms: Atoms, timestep: float, bath: Bath, rng: np.random.Generator
    ) -> None:
        self.name, self.atoms, self.rng = name, atoms, rng
        self._has_energy = "energy" in atoms.calc.implemented_properties
        self.dynamics = _dynamics(name, atoms, timestep * units.fs, bath, rng)

    def step(self) -> None:
        """Move by one time step."""
        self.dynamics.step()

    def conserved(self) -> float:
        """Energy (eV) that only errors of the integration change; NaN without potential energy."""
        if not self._has_energy:
            return float("nan")
        if self.name.startswith("mtk"):
            return float(self.dynamics.get_conserved_energy())
        heat = {"langevin": "heat", "bussi": "transferred_energy"}.get(self.name)
        return float(self.atoms.get_total_energy()) - (getattr(self.dynamics, heat) if heat else 0.0)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything but positions, momenta and cell that the next step depends on."""
        found = {path: np.array(attrgetter(path)(self.dynamics)) for path in _STATES[self.name]}
        return {**found, "rng": np.array(json.dumps(self.rng.bit_generator.state))}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Take over what `state` returned, with the atoms where they were then."""
        self.rng.bit_generator.state = json.loads(str(state["rng"]))
        for path in _STATES[self.name]:
            owner, _, attribute = path.rpartition(".")
            value = state[path]
            target = attrgetter(owner)(self.dynamics) if owner else self.dynamics
            setattr(target, attribute, value.copy() if value.ndim else float(value))


class _Langevin(LangevinBAOAB):  # type: ignore[misc, unused-ignore]
    """ASE's integrator that keeps account of the heat from the bath (eV)."""

    heat = 0.0

    def _BAOAB_OU(self, drag_gamma_mod: Any = 0.0) -> None:
        before = self.atoms.get_kinetic_energy()
        super()._BAOAB_OU(drag_gamma_mod)
        self.heat += float(self.atoms.get_kinetic_energy()) - before


def _dynamics(name: str, atoms: Atoms, timestep: float, bath: Bath, rng: np.random.Generator) -> Any:
    damping = bath.time_constant * units.fs
    if name == "verlet":
        return VelocityVerlet(atoms, timestep)
    if name == "langevin":
        # hydrostatic=True without a stress only spares the exponential of a matrix at every step.
        return _Langevin(
            atoms, timestep, temperature_K=bath.temperature, T_tau=damping, hydrostatic=True, rng=rng
        )
    if name == "bussi":
        return Bussi(atoms, timestep, temperature_K=bath.temperature, taut=damping, rng=rng)
    barostat = MTKNPT if name == "mtk-full" else IsotropicMTKNPT
    dynamics = barostat(
        atoms,
        timestep,
        temperature_K=bath.temperature,
        pressure_au=bath.pressure * units.GPa,
        tdamp=damping,
        pdamp=bath.pressure_time_constant * units.fs,
    )
    dynamics._num_atoms_global = dynamics._thermostat._num_atoms_global = len(atoms) - 1
    return dynamics


def free_the_centre(atoms: Atoms, ensemble: str) -> None:
    """Bring the centre of mass to rest, and let ASE know that it stays there.

    Parameters
    ----------
    atoms : ase.Atoms
        With momenta; changed. With fixed atoms nothing is done.
    ensemble : {"nvt", "nve", "npt"}
    """
    if atoms.constraints:
        return
    momenta, masses = atoms.get_momenta(), atoms.get_masses()
    atoms.set_momenta(momenta - masses[:, None] * momenta.sum(axis=0) / masses.sum())
    if ensemble != "npt":
        atoms.set_constraint(FixCom())


def degrees_of_freedom(atoms: Atoms) -> int:
    """Number of momenta that a temperature is the mean of: 3N - 3, or 3 for each atom that is not fixed."""
    fixed = {int(i) for found in atoms.constraints if isinstance(found, FixAtoms) for i in found.index}
    return 3 * (len(atoms) - len(fixed)) if fixed else 3 * len(atoms) - 3


def temperature_of(atoms: Atoms) -> float:
    """Temperature (K) of the momenta."""
    return float(2.0 * atoms.get_kinetic_energy() / (degrees_of_freedom(atoms) * units.kB))


def draw_velocities(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Set momenta of a Maxwell-Boltzmann distribution, scaled to the exact temperature (K).

    The centre of mass is at rest; fixed atoms are, too.
    """
    masses = atoms.get_masses()
    drawn: FloatArray = np.sqrt(masses * units.kB * temperature)[:, None] * rng.standard_normal(
        (len(atoms), 3)
    )
    atoms.set_momenta(drawn)
    free_the_centre(atoms, "npt")
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature / temperature_of(atoms)))
