"""Moving atoms and cells, and derivatives by differences: what analytic derivatives are compared with."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms


def moved(atoms: Atoms, velocities: np.ndarray, strain: np.ndarray, step: float) -> Atoms:
    """Copy after a step along velocities (n_atoms, 3), and then along a strain (3, 3) of atoms and cell."""
    deformation = np.eye(3) + step * strain
    other = atoms.copy()
    other.set_cell(atoms.cell.array @ deformation.T, scale_atoms=False)
    other.positions = (atoms.positions + step * velocities) @ deformation.T
    return other


def difference(function: Callable[[float], Any], step: float) -> Any:
    """Derivative at zero by central differences of fourth order."""
    near, far = function(step) - function(-step), function(2 * step) - function(-2 * step)
    return (8.0 * near - far) / (12.0 * step)


def gradient_of(energy: Callable[[list[Atoms]], np.ndarray], atoms: Atoms, step: float = 2e-4) -> np.ndarray:
    """Derivative of an energy by all positions, shape (n_atoms, 3); ``energy`` takes a list of structures."""
    axes = list(product(range(len(atoms)), range(3)))
    frames = []
    for atom, axis in axes:
        velocities = np.zeros((len(atoms), 3))
        velocities[atom, axis] = 1.0
        frames += [moved(atoms, velocities, np.zeros((3, 3)), k * step) for k in (-2, -1, 1, 2)]
    return _slopes(energy(frames), step).reshape(-1, 3)


def virial_of(energy: Callable[[list[Atoms]], np.ndarray], atoms: Atoms, step: float = 1e-5) -> np.ndarray:
    """Derivative of an energy by all nine components of the strain, shape (3, 3)."""
    frames = []
    for axes in product(range(3), repeat=2):
        strain = np.zeros((3, 3))
        strain[axes] = 1.0
        still = np.zeros((len(atoms), 3))
        frames += [moved(atoms, still, strain, k * step) for k in (-2, -1, 1, 2)]
    return _slopes(energy(frames), step).reshape(3, 3)


def _slopes(energies: np.ndarray, step: float) -> np.ndarray:
    far_left, left, right, far_right = np.asarray(energies).reshape(-1, 4).T
    return (8.0 * (right - left) - (far_right - far_left)) / (12.0 * step)
