"""A switch that takes bonds from whole to none without a jump in value, slope or curvature."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["switch"]


def switch(
    lengths: NDArray[np.float64], limits: NDArray[np.float64], width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights of bonds near their cutoff, and their slopes.

    With x = (d - d_c + width) / width, the weight is 1 for x < 0, 0 for x > 1, and between them

        w(x) = 1 - x^3 (10 - 15 x + 6 x^2) = (1 - x)^3 (1 + 3 x + 6 x^2)

    as in the smooth edition of the Deep Potential (L. Zhang et al., NeurIPS 31 (2018)); first and second
    derivative vanish at both ends.

    Parameters
    ----------
    lengths : ndarray of shape (n_bonds,)
        d, Angstrom.
    limits : ndarray of shape (n_bonds,)
        d_c, the cutoff of each bond, Angstrom.
    width : float
        Angstrom, zero or more; with zero, bonds are whole up to their cutoff.

    Returns
    -------
    weights : ndarray of shape (n_bonds,)
    slopes : ndarray of shape (n_bonds,)
        Derivatives by the lengths, per Angstrom.
    """
    if width == 0.0:
        return np.where(lengths < limits, 1.0, 0.0), np.zeros_like(lengths)
    x = np.clip((lengths - limits + width) / width, 0.0, 1.0)
    weights = (1.0 - x) ** 3 * (1.0 + 3.0 * x + 6.0 * x**2)
    slopes = -30.0 * (x * (1.0 - x)) ** 2 / width
    return weights, slopes
