"""Crystals whose electrons are known exactly: one s orbital per atom, hopping exp(-d) along the bonds.

    H_ij(k) = sum over the bonds from i to j in cell R of  exp(-d) exp(i k.R),        on-site energies 0

Eigenvalues have no unit, like the entries of the embedding. Nothing here uses the package: densities of
states by diagonalisation, against which sums over walks are held. Bonds are those of `oracles`, found once
and kept while atoms move.
"""

from itertools import product
from math import dist

import numpy as np
from ase import Atoms
from oracles import Bonds, position


def repeats_for(bonds: Bonds, n_hops: int) -> int:
    """Smallest `n_k` of which it is certain that ``n_hops`` hops do not lead around the crystal.

    A grid of n_k k-points along a direction is a crystal that closes upon itself after n_k cells. Its closed
    walks are those of the infinite crystal and those that end n_k, 2 n_k, ... cells away.
    """
    widest = max(abs(shift) for found in bonds.values() for _, cell in found for shift in cell)
    return n_hops * widest + 1


def tight_binding_states(atoms: Atoms, bonds: Bonds, n_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diagonalise the crystal on a grid of k-points around Gamma, ``n_k`` along each periodic direction.

    Returns eigenvalues (k, states), the weight |c|^2 of each atom in each state (k, states, atoms), which add
    up to 1 over the atoms and over the states, and the weights of the k-points (k,), which add up to 1.
    """
    steps = [range(n_k) if periodic else range(1) for periodic in atoms.pbc]
    k_points = np.array(list(product(*steps))) / n_k  # in units of the reciprocal cell
    hopping = np.zeros((len(k_points), len(atoms), len(atoms)), dtype=complex)
    for i, found in bonds.items():
        for j, cell in found:
            element = np.exp(-dist(atoms.positions[i], position(atoms, (j, cell))))
            hopping[:, i, j] += element * np.exp(2j * np.pi * (k_points @ cell))
    eigenvalues, vectors = np.linalg.eigh(hopping)
    weights = np.abs(vectors.transpose(0, 2, 1)) ** 2
    return eigenvalues, weights, np.full(len(k_points), 1 / len(k_points))


def moments_of_states(
    eigenvalues: np.ndarray, weights: np.ndarray, k_weights: np.ndarray, n: int
) -> np.ndarray:
    """Moment n about zero of the local density of states of every atom, (atoms,)."""
    return np.einsum("k,ks,ksa->a", k_weights, eigenvalues**n, weights)
