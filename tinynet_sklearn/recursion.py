"""Recursion coefficients of a density of states: what its moments tell, one independent number each.

Moments of high order grow fast and mostly repeat what the lower ones say. The polynomials p_0, p_1, ... that
are orthogonal with the density of states as weight obey

    (E - a_k) p_k = b_(k+1) p_(k+1) + b_k p_(k-1)

and a_0 ... a_(k-1), b_1 ... b_k hold exactly what the moments mu_1 ... mu_2k do: the chain that the recursion
method of electronic structure makes of a crystal.

References
----------
R. Haydock, V. Heine and M. J. Kelly, J. Phys. C 5, 2845 (1972). W. Gautschi, Orthogonal Polynomials:
Computation and Approximation (Oxford, 2004), for the procedure of Stieltjes.
"""

from __future__ import annotations

import numpy as np

from tinynet_sklearn.frames import FloatArray

__all__ = ["recursion_coefficients"]


def recursion_coefficients(
    energies: FloatArray, weights: FloatArray, n: int
) -> tuple[FloatArray, FloatArray]:
    """Coefficients of the three-term recursion, by the procedure of Stieltjes.

    Parameters
    ----------
    energies : ndarray of shape (n_energies,)
        eV.
    weights : ndarray of shape (n_rows, n_energies)
        Not negative; each row has a positive sum.
    n : int
        How many of each, less than n_energies.

    Returns
    -------
    a, b : ndarray of shape (n_rows, n)
        a_0 ... a_(n-1) and b_1 ... b_n, eV; b_k is 0 and what follows NaN where fewer than k + 1 energies
        have a weight.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    before, polynomial = np.zeros_like(share), np.ones_like(share)
    b = np.zeros(len(share))
    a_found, b_found = [], []
    for _ in range(n):
        square = share * polynomial**2
        a = square @ energies
        after = (energies - a[:, None]) * polynomial - b[:, None] * before
        b = np.sqrt(np.einsum("ij,ij->i", share, after**2))
        a_found.append(a)
        b_found.append(b)
        before = polynomial
        polynomial = np.divide(after, b[:, None], out=np.full_like(after, np.nan), where=b[:, None] > 0)
    return np.stack(a_found, axis=1), np.stack(b_found, axis=1)
