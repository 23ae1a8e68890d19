"""The loss of a potential: energies, forces and stresses in any combination, as a function of the weights.

    loss = ( w_E mean((dE / N / sigma_E)^2) + w_F mean((dF / sigma_F)^2) + w_S mean((dS / sigma_S)^2) )
           / (w_E + w_F + w_S)  +  alpha * sum of squared matrix elements

over structures, force components and stress components whose reference is known; only weights of quantities
that are there count. The sigmas are the spreads of the training data, so that without weight decay the loss
is the fraction of their variance that is not explained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energies import AtomicEnergies, EnergyPass, structure_blocks
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.geometry import Geometry
from tinynet_sklearn.networks import DenseStack
from tinynet_sklearn.potential_targets import PotentialTargets

__all__ = ["VOIGT", "LossWeights", "PotentialObjective", "Spreads"]

#: Rows and columns of the 3 x 3 tensor behind the six components xx, yy, zz, yz, xz, xy.
VOIGT = (np.array([0, 1, 2, 1, 0, 0]), np.array([0, 1, 2, 2, 2, 1]))


# Smaller spreads, of whichever unit, are rounding errors: of energies that composition explains, of forces at
# rest.
SMALLEST_SPREAD = 1e-9


@dataclass(frozen=True)
class LossWeights:
    """Weights of energies, forces and stresses in the loss, and of the squares of matrix elements."""

    energy: float
    forces: float
    stress: float
    alpha: float


@dataclass(frozen=True)
class Spreads:
    """What errors are measured by: eV per atom, eV/Å, eV/Å^3.

    Those that are not in `varying` stand for quantities that are unknown, or equal in all structures.
    """

    energy: float
    forces: float
    stress: float
    varying: tuple[str, ...] = field(default=("forces", "stress", "energy"), compare=False)

    @classmethod
    def of(cls, targets: PotentialTargets, counts: IntArray, references: FloatArray) -> Spreads:
        """Spreads of training data.

        Parameters
        ----------
        targets : PotentialTargets
        counts : ndarray of shape (n_structures,), int
            Atoms of each structure.
        references : ndarray of shape (n_structures,)
            What is taken off the energies, eV.
        """
        energy = forces = stress = np.nan
        if targets.energy is not None and np.isfinite(targets.energy).any():
            energy = float(np.nanstd((targets.energy - references) / counts))
        if targets.forces is not None and np.isfinite(targets.forces.values).any():
            forces = float(np.sqrt(np.nanmean(np.square(targets.forces.values))))
        if targets.stress is not None:
            known = targets.stress[:, np.isfinite(targets.stress).any(axis=0)]
            stress = float(np.sqrt(np.mean(np.nanvar(known, axis=0)))) if known.size else np.nan
        # of no or one structure, or of equal ones: there is nothing to compare errors with
        found = {"forces": forces, "stress": stress, "energy": energy}
        varying = tuple(name for name, spread in found.items() if spread > SMALLEST_SPREAD)
        usable = {name: spread if name in varying else 1.0 for name, spread in found.items()}
        return cls(**usable, varying=varying)


@dataclass(frozen=True, eq=False)
class _Residuals:
    """A pass, its loss, and the derivatives of that by energies, position gradient and virials."""

    found: EnergyPass
    loss: float
    geometry: Geometry | None
    by_energy: FloatArray
    by_gradient: FloatArray
    by_virial: FloatArray


class PotentialObjective:
    """Loss and slope over some structures.

    Parameters
    ----------
    energies : AtomicEnergies
        The atoms, with the geometry of their features.
    targets : PotentialTargets
        References of the same structures; NaN where one is not known.
    sample_weight : ndarray of shape (n_structures,)
        Positive.
    weights : LossWeights
    spreads : Spreads
    pool : Executor
        Where blocks of structures are evaluated. The result does not depend on it.
    """

    def __init__(
        self,
        energies: AtomicEnergies,
        targets: PotentialTargets,
        sample_weight: FloatArray,
        weights: LossWeights,
        spreads: Spreads,
        pool: Executor,
    ) -> None:
        self.energies = energies
        self._pool = pool
        self._alpha = weights.alpha
        self._decays = np.concatenate(
            [net.stack.kernel_mask() for net in energies.networks if net.stack is not None]
        )
        atoms = energies.atoms
        n = len(atoms)
        counts = atoms.counts
        self._energy, self._energy_factor = np.zeros(n), np.zeros(n)
        self._forces, self._force_factor = np.zeros((2, len(atoms.values), 3))
        self._stress, self._stress_factor = np.zeros((2, n, 6))
        known = {
            name: np.isfinite(part) * of_each
            for name, part, of_each in (
                ("energy", targets.energy, sample_weight),
                ("forces", _values(targets.forces), sample_weight[atoms.structure_of_row][:, None]),
                ("stress", targets.stress, sample_weight[:, None]),
            )
            if part is not None
        }
        shares = {name: getattr(weights, name) for name, of_each in known.items() if of_each.any()}
        # Factors of the squares, zero where there is no reference.
        factors = {
            name: share / sum(shares.values()) * known[name] / known[name].sum()
            for name, share in shares.items()
            if share
        }
        if targets.energy is not None and "energy" in factors:
            self._energy = np.nan_to_num(targets.energy)
            self._energy_factor = factors["energy"] / np.square(counts * spreads.energy)
        if targets.forces is not None and "forces" in factors:
            self._forces = np.nan_to_num(targets.forces.values)
            self._force_factor = factors["forces"] / spreads.forces**2
        if targets.stress is not None and "stress" in factors:
            self._stress = np.nan_to_num(targets.stress)
            self._stress_factor = factors["stress"] / spreads.stress**2
        self._needs_slopes = bool(self._force_factor.any() or self._stress_factor.any())

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return len(self.energies.atoms)

    def error(self, flat: FloatArray) -> float:
        """Loss without weight decay."""
        stacks = self.energies.stacks(flat)
        return sum(self._pool.map(lambda block: self._loss(stacks, block), self._blocks(None)))

    def value(self, flat: FloatArray, structures: IntArray | None = None) -> tuple[float, FloatArray]:
        """Loss and its slope.

        Parameters
        ----------
        flat : ndarray of shape (n_parameters,)
            Weights of all networks.
        structures : ndarray of int or None, default=None
            Over these structures alone, scaled up to the whole; None takes all.

        Returns
        -------
        loss : float
        slope : ndarray of shape (n_parameters,)
        """
        stacks = self.energies.stacks(flat)
        decayed = self._decays * flat
        loss, slope = self._alpha * float(decayed @ decayed), 2 * self._alpha * decayed
        larger = 1.0 if structures is None else self.n_structures / len(structures)
        for part, part_slope in self._pool.map(
            lambda block: self._block(stacks, block), self._blocks(structures)
        ):
            loss += larger * part
            slope += larger * part_slope
        return loss, slope

    def _blocks(self, structures: IntArray | None) -> Iterable[IntArray]:
        chosen = np.arange(self.n_structures) if structures is None else structures
        return structure_blocks(chosen, self.energies.atoms.counts)

    # Whether overflows are told belongs to a thread; these are the pool's.
    def _loss(self, stacks: Sequence[DenseStack], structures: IntArray) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            return self._residuals(stacks, structures).loss

    def _block(self, stacks: Sequence[DenseStack], structures: IntArray) -> tuple[float, FloatArray]:
        with np.errstate(over="ignore", invalid="ignore"):
            wrong = self._residuals(stacks, structures)
            found = wrong.found
            rates: FloatArray = np.zeros_like(found.slopes)
            if wrong.geometry is not None:
                rates = wrong.geometry.push(wrong.by_gradient, wrong.by_virial)
            return wrong.loss, found.weight_slopes(rates, np.repeat(wrong.by_energy, np.diff(found.offsets)))

    def _residuals(self, stacks: Sequence[DenseStack], structures: IntArray) -> _Residuals:
        atoms = self.energies.atoms
        found = self.energies.evaluate(stacks, structures)
        residual = found.totals - self._energy[structures]
        by_energy = self._energy_factor[structures] * residual
        loss = float(by_energy @ residual)
        by_gradient = np.zeros((int(found.offsets[-1]), 3))
        by_virial = np.zeros((len(structures), 3, 3))
        geometry = None
        if self._needs_slopes and atoms.geometry is not None:
            geometry = atoms.geometry[structures]
            gradient, virials = geometry.pull(found.slopes)
            starts = atoms.offsets[structures]
            rows = np.arange(len(gradient)) + np.repeat(starts - found.offsets[:-1], np.diff(found.offsets))
            wrong = gradient + self._forces[rows]
            by_gradient = self._force_factor[rows] * wrong
            loss += float(np.vdot(by_gradient, wrong))
            if self._stress_factor.any():
                volumes = geometry.volumes[:, None]
                volumes = np.where(np.isfinite(volumes), volumes, 1.0)  # without a stress to compare with
                wrong = virials[:, *VOIGT] / volumes - self._stress[structures]
                pulled = self._stress_factor[structures] * wrong
                loss += float(np.vdot(pulled, wrong))
                by_virial[:, *VOIGT] = pulled / volumes
        return _Residuals(found, loss, geometry, 2 * by_energy, 2 * by_gradient, 2 * by_virial)


def _values(forces: PerAtomArray | None) -> FloatArray | None:
    return None if forces is None else forces.values
