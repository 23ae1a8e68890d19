"""From states to curves, and from curves to broader ones or to other energies.

A density of states is a sum of Gaussians, one for every state n at every point k:

    rho_a(E) = g sum_k w_k sum_n W_a,nk exp(-(E - e_nk)^2 / 2 s^2) / (s sqrt(2 pi))

with the weight W_a,nk of the state on atom a, the weight w_k of the point (they sum to one), the width s and
g = 2 electrons per state where spin is not resolved.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.interpolate import CubicSpline
from scipy.ndimage import correlate1d, gaussian_filter1d
from scipy.special import ndtr

from tinynet_sklearn.frames import FloatArray

__all__ = ["REACH", "broadened_curves", "broadened_states", "filled_fraction", "spline", "states_below"]

#: Widths of a Gaussian beyond which nothing of it is left: exp(-18) of its height.
REACH = 6.0


def broadened_states(
    eigenvalues: ArrayLike, weights: ArrayLike, k_weights: ArrayLike, energies: FloatArray, width: float
) -> FloatArray:
    """Curves of the atoms of one structure from its states, both spins counted once.

    Parameters
    ----------
    eigenvalues : array-like of shape (n_k, n_states)
        eV; NaN where there is no state.
    weights : array-like of shape (n_k, n_states, n_atoms)
        Of each state on each atom.
    k_weights : array-like of shape (n_k,)
        Used as they are.
    energies : ndarray of shape (n_energies,)
        eV.
    width : float
        Standard deviation of the Gaussians, eV.

    Returns
    -------
    ndarray of shape (n_atoms, n_energies)
        States per eV.
    """
    levels = np.asarray(eigenvalues, dtype=np.float64)
    shares = np.asarray(weights, dtype=np.float64) * np.asarray(k_weights, dtype=np.float64)[:, None, None]
    seen = (levels > energies[0] - REACH * width) & (levels < energies[-1] + REACH * width)  # NaN is neither
    distance = (energies - levels[seen][:, None]) / width
    peaks = np.exp(-0.5 * np.square(distance)) / (width * np.sqrt(2 * np.pi))
    return np.asarray(shares[seen].T @ peaks)


def states_below(
    eigenvalues: ArrayLike, weights: ArrayLike, k_weights: ArrayLike, energy: float, width: float
) -> float:
    """States of all atoms below an energy, broadened as in `broadened_states`."""
    levels = np.asarray(eigenvalues, dtype=np.float64)
    shares = np.asarray(weights, dtype=np.float64).sum(axis=2) * np.asarray(k_weights)[:, None]
    known = ~np.isnan(levels)
    return float(shares[known] @ ndtr((energy - levels[known]) / width))


def filled_fraction(
    eigenvalues: ArrayLike, weights: ArrayLike, k_weights: ArrayLike, n_electrons: float
) -> float:
    """How much of the electrons in the lowest states is on the atoms, since weights may sum to less than one.

    Parameters
    ----------
    eigenvalues, weights, k_weights
        As of `broadened_states`.
    n_electrons : float
        They fill the states from the lowest on; NaN gives NaN.

    Returns
    -------
    float
        One where the weights of every state sum to one, and without electrons.
    """
    levels = np.asarray(eigenvalues, dtype=np.float64)
    order = np.argsort(levels, axis=None)  # NaN last
    order = order[: np.count_nonzero(~np.isnan(levels))]
    shares = np.asarray(weights, dtype=np.float64).sum(axis=2).ravel()[order]
    room = np.broadcast_to(np.asarray(k_weights, dtype=np.float64)[:, None], levels.shape).ravel()[order]
    filled = np.clip(n_electrons - (np.cumsum(room) - room), 0.0, room)
    held = filled.sum()
    return 1.0 if held == 0 else float(filled @ shares / held)


def broadened_curves(curves: FloatArray, width: float, step: float) -> FloatArray:
    """Curves (..., n_energies) folded with a Gaussian; there are no states beyond their ends.

    Parameters
    ----------
    curves : ndarray of shape (..., n_energies)
    width : float
        Standard deviation of the Gaussian, eV.
    step : float
        Of the energies, eV.
    """
    steps = width / step
    if steps >= 0.75:
        return np.asarray(gaussian_filter1d(curves, steps, axis=-1, mode="constant", truncate=REACH))
    # Samples of a narrow Gaussian have another variance; these five weights have its moments up to the fifth.
    near, far = steps**2 * (4 - 3 * steps**2) / 6, steps**2 * (3 * steps**2 - 1) / 24
    weights = [far, near, 1 - 2 * (near + far), near, far]
    return np.asarray(correlate1d(curves, weights, axis=-1, mode="constant"))


def spline(curves: FloatArray, energies: FloatArray, wanted: FloatArray) -> FloatArray:
    """Curves (..., n_energies) at other energies between the ends of their own, by cubic splines."""
    return np.asarray(CubicSpline(energies, curves, axis=-1)(np.clip(wanted, energies[0], energies[-1])))
