"""Settings of a molecular dynamics run, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from tinynet_sklearn._validation import described

__all__ = ["RunSettings", "RunSettingsError"]

CHOICES = {
    "ensemble": ("nvt", "nve", "npt"),
    "thermostat": ("langevin", "bussi"),
    "cell": ("full", "isotropic"),
    "velocities": ("new", "keep"),
    "trajectory_format": ("traj", "extxyz"),
}

_POSITIVE = ("temperature", "timestep", "time_constant", "pressure_time_constant")
_COUNTS = {"n_steps": 1, "interval": 1, "equilibration": 0, "seed": 0}


class RunSettingsError(ValueError):
    """Settings that make no sense, or do not go together or with what is there."""


@dataclass(frozen=True)
class RunSettings:
    """What decides the result of a run; see `run_dynamics` for the meaning and the units."""

    temperature: float
    n_steps: int
    ensemble: str
    timestep: float
    interval: int
    equilibration: int
    thermostat: str
    time_constant: float
    pressure: float
    pressure_time_constant: float
    cell: str
    velocities: str
    seed: int
    trajectory_format: str

    def check(self, atoms: Atoms) -> None:
        """Refuse settings that make no sense, or cannot be used with these atoms.

        Raises
        ------
        RunSettingsError
        """
        for name in _POSITIVE:
            _check_number(name, getattr(self, name))
        _check_number("pressure", self.pressure, positive=False)
        for name, least in _COUNTS.items():
            value = getattr(self, name)
            if not isinstance(value, Integral) or value < least:
                raise RunSettingsError(f"{name} must be an integer of at least {least}; got {value!r}.")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                listed = ", ".join(map(repr, choices))
                raise RunSettingsError(f"{name} must be one of {listed}; got {getattr(self, name)!r}.")
        if self.pressure and self.ensemble != "npt":
            raise RunSettingsError(
                f"pressure must be 0 at constant volume; got {self.pressure:g} GPa with "
                f"ensemble={self.ensemble!r}. Set ensemble='npt'."
            )
        self._check_atoms(atoms)
        self._check_calculator(atoms)

    def _check_atoms(self, atoms: Atoms) -> None:
        if not isinstance(atoms, Atoms):
            raise RunSettingsError(f"atoms must be an ase.Atoms; got {described(atoms)}.")
        if atoms.calc is None:
            raise RunSettingsError(
                "atoms must have a calculator; got none. Set atoms.calc = TinyNetCalculator(model)."
            )
        if len(atoms) < 2:
            raise RunSettingsError(
                f"atoms must be at least two, as their centre of mass is held at rest; got {len(atoms)}. Use "
                "a supercell."
            )
        others = sorted({type(c).__name__ for c in atoms.constraints if not isinstance(c, FixAtoms)})
        if others:
            raise RunSettingsError(
                f"atoms may have the constraint FixAtoms; got {', '.join(others)}. Remove with "
                "atoms.set_constraint()."
            )
        fixed = {int(i) for found in atoms.constraints for i in found.index}
        if len(fixed) == len(atoms):
            raise RunSettingsError(
                f"atoms must have some that can move; got FixAtoms on all {len(atoms)}. Remove it with "
                "atoms.set_constraint()."
            )
        if self.ensemble == "npt" and atoms.constraints:
            raise RunSettingsError(
                "atoms must be free at constant pressure; got FixAtoms. Remove it with "
                "atoms.set_constraint(), or set ensemble='nvt'."
            )
        if self.ensemble == "npt" and not atoms.pbc.all():
            raise RunSettingsError(
                "atoms must be periodic in all directions at constant pressure; got "
                f"pbc={atoms.pbc.tolist()}. Set ensemble='nvt'."
            )
        if self.velocities == "keep" and not atoms.get_momenta().any():
            raise RunSettingsError(
                "velocities='keep' needs atoms with velocities; got atoms at rest. Draw them: "
                "velocities='new'."
            )

    def _check_calculator(self, atoms: Atoms) -> None:
        implemented = atoms.calc.implemented_properties
        if "forces" not in implemented:
            raise RunSettingsError(
                f"atoms must have a calculator with forces; got one with {', '.join(implemented)}. Use a "
                "model of energies (BPNNPotential) or forces."
            )
        if "energy" not in implemented and (self.ensemble, self.thermostat) != ("nvt", "langevin"):
            received = f"ensemble={self.ensemble!r}" + (
                f", thermostat={self.thermostat!r}" if self.ensemble == "nvt" else ""
            )
            raise RunSettingsError(
                "a model that predicts forces alone needs ensemble='nvt' with thermostat='langevin', since "
                f"its forces are the gradient of no energy and heat the atoms; got {received}. Use that, or "
                "a model with an energy (BPNNPotential)."
            )
        if self.ensemble == "npt" and "stress" not in implemented:
            raise RunSettingsError(
                "ensemble='npt' needs a calculator with the stress; got one with "
                f"{', '.join(implemented)}. Set ensemble='nvt'."
            )


def _check_number(name: str, value: Any, positive: bool = True) -> None:
    finite = isinstance(value, Real) and bool(np.isfinite(float(value)))
    if not finite or (positive and value <= 0):
        what = "a positive number" if positive else "a finite number"
        raise RunSettingsError(f"{name} must be {what}; got {value!r}.")
