"""Where a density of states begins, where its gap and its Fermi level are, and how curves lie together.

The zero of energy of a periodic calculation is arbitrary, and so is the Fermi level of an insulator, anywhere
in the gap. Curves of several structures can be compared only from a zero that means the same in all of them.
All functions take total densities of states of one structure; what they cannot find is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinynet_sklearn.frames import FloatArray

__all__ = ["common_shifts", "count_ends", "gap_edges", "level_in_gap", "level_of_count", "onset"]

#: Rounds of moving every curve onto the mean of all.
ROUNDS = 50

#: Curves lie together when no shift changes by more than this fraction of a step.
SETTLED = 1e-3


def onset(energies: FloatArray, total: FloatArray, threshold: float) -> float:
    """Lowest energy at which a density of states exceeds a fraction of its highest value.

    Parameters
    ----------
    energies, total : ndarray of shape (n_energies,)
    threshold : float
        The fraction.

    Returns
    -------
    float
        Interpolated between two energies; NaN where the curve begins above.
    """
    level = threshold * float(total.max())
    above = np.flatnonzero(total > level)
    if not len(above) or above[0] == 0:
        return np.nan
    return _crossing(energies, total, int(above[0]) - 1, level)


def gap_edges(energies: FloatArray, total: FloatArray, fermi: float, threshold: float) -> tuple[float, float]:
    """Ends of the interval around the Fermi level in which a density of states stays below a fraction.

    Parameters
    ----------
    energies, total : ndarray of shape (n_energies,)
    fermi : float
        Where to look, eV.
    threshold : float
        Fraction of the highest value.

    Returns
    -------
    vbm, cbm : float
        Twice the Fermi level if the curve is above there (a metal); NaN for an end beyond the energies.
    """
    level = threshold * float(total.max())
    if not energies[0] <= fermi <= energies[-1]:
        return np.nan, np.nan
    if np.interp(fermi, energies, total) > level:
        return fermi, fermi
    below = np.flatnonzero((energies <= fermi) & (total > level))
    above = np.flatnonzero((energies >= fermi) & (total > level))
    vbm = _crossing(energies, total, int(below[-1]), level) if len(below) else np.nan
    cbm = _crossing(energies, total, int(above[0]) - 1, level) if len(above) else np.nan
    return vbm, cbm


def _crossing(energies: FloatArray, total: FloatArray, before: int, level: float) -> float:
    """Where a curve crosses a level between an energy and the next."""
    here, there = total[before], total[before + 1]
    return float(
        energies[before] + (level - here) / (there - here) * (energies[before + 1] - energies[before])
    )


def level_of_count(energies: FloatArray, counted: FloatArray, n_states: float, tolerance: float) -> float:
    """Energy up to which states have been counted so far; the middle of a gap, if it falls in one.

    Parameters
    ----------
    energies : ndarray of shape (n_energies,)
    counted : ndarray of shape (n_energies,)
        States below each energy.
    n_states : float
    tolerance : float
        States by which the count may differ within a gap.

    Returns
    -------
    float
        NaN if the curve has fewer states.
    """
    low, high = count_ends(energies, counted, n_states, tolerance)
    return (low + high) / 2


def count_ends(
    energies: FloatArray, counted: FloatArray, n_states: float, tolerance: float
) -> tuple[float, float]:
    """Energies between which the count of `level_of_count` is within its tolerance."""
    rising = np.maximum.accumulate(counted)
    if not -tolerance <= n_states <= rising[-1] + tolerance:
        return np.nan, np.nan
    # lowest energy with enough states, highest one without too many: the two ends of the gap, if there is one
    enough = int(np.searchsorted(rising, n_states - tolerance, side="left"))
    too_many = int(np.searchsorted(rising, n_states + tolerance, side="right"))
    low = float(energies[0]) if enough == 0 else _crossing(energies, rising, enough - 1, n_states - tolerance)
    if too_many == len(rising):
        return low, float(energies[-1])
    return low, _crossing(energies, rising, too_many - 1, n_states + tolerance)


def level_in_gap(
    energies: FloatArray,
    total: FloatArray,
    counted: FloatArray,
    n_states: float,
    threshold: float,
    tolerance: float,
) -> float:
    """Middle of the gap that a count nearly ends in.

    Parameters
    ----------
    energies, total, counted : ndarray of shape (n_energies,)
        Density of states, and states below each energy.
    n_states : float
    threshold : float
        Fraction of the highest value below which the density of states is zero. A gap is at least two steps
        wide; where the energies end within one, its end is theirs.
    tolerance : float
        States by which the count in the gap may differ from `n_states`.

    Returns
    -------
    float
        Of the gap whose count differs least; NaN if all differ by more.
    """
    highest = float(total.max())
    if not highest > 0:
        return np.nan
    level, last = threshold * highest, len(energies) - 1
    turns = np.flatnonzero(np.diff(np.concatenate([[0], total < level, [0]])))
    nearest, found = tolerance, np.nan
    for begin, end in zip(turns[::2], turns[1::2] - 1, strict=True):
        low = energies[0] if begin == 0 else _crossing(energies, total, int(begin) - 1, level)
        high = energies[-1] if end == last else _crossing(energies, total, int(end), level)
        if high - low < 2 * (energies[1] - energies[0]):
            continue
        inside = counted[begin : end + 1]
        away = max(float(inside.min()) - n_states, n_states - float(inside.max()), 0.0)
        if away <= nearest:
            nearest, found = away, (low + high) / 2
    return float(found)


def common_shifts(
    curves: Sequence[FloatArray], labels: Sequence[np.ndarray], energies: FloatArray
) -> FloatArray:
    """Shifts of structures that bring the curves of their atoms together.

    Every structure is moved to where its curves are nearest, in least squares, to those of one structure, and
    then to the mean curves of their species over all structures, until nothing moves any more. The mean of
    the shifts is zero. States that the ends of the energies cut off in one structure and not in another pull
    at the shifts.

    Parameters
    ----------
    curves : sequence of ndarray of shape (n_atoms, n_energies)
        One per structure.
    labels : sequence of ndarray of shape (n_atoms,)
        Species of the atoms.
    energies : ndarray of shape (n_energies,)

    Returns
    -------
    ndarray of shape (n_structures,)
        What to subtract from the energies of each structure, eV.
    """
    species = np.unique(np.concatenate(list(labels)))
    # sums of curves and numbers of atoms by species are all that a shift of the whole structure depends on
    counts = np.array([[np.sum(names == z) for z in species] for names in labels])
    sums = np.array(
        [[part[names == z].sum(axis=0) for z in species] for part, names in zip(curves, labels, strict=True)]
    )
    n_lags = 2 * len(
        energies
    )  # zeros beyond the ends, so that what moves out at one does not come in at the other
    spectra = np.fft.rfft(sums, n_lags)
    frequencies = 2 * np.pi * np.fft.rfftfreq(n_lags)
    atoms = counts.sum(axis=0)[:, None]

    # Curves that lie apart stay where they are, each on its own part of the mean: begin from one of them.
    middle = spectra.sum(axis=0) / atoms
    first = np.argmax(np.einsum("isf,sf->i", spectra, middle.conj()).real)
    steps = _lags(spectra, spectra[first] / np.maximum(counts[first], 1)[:, None], n_lags)
    steps -= steps.mean()
    for _ in range(ROUNDS):
        moved = spectra * np.exp(1j * frequencies * steps[:, None])[:, None]
        found = _lags(moved, moved.sum(axis=0) / atoms, n_lags)
        found -= found.mean()
        steps += found
        if np.abs(found).max() < SETTLED:
            break
    return np.asarray(steps * (energies[1] - energies[0]))


def _lags(spectra: np.ndarray, target: np.ndarray, n_lags: int) -> FloatArray:
    """Steps by which curves lie above the place where they overlap most with others.

    Parameters
    ----------
    spectra : ndarray of shape (n_structures, n_species, n_frequencies), complex
        Fourier transforms of the sums over the atoms of each species.
    target : ndarray of shape (n_species, n_frequencies), complex
        Those of the other curves.
    n_lags : int
        Length of the curves.

    Returns
    -------
    ndarray of shape (n_structures,)
        Between two steps, from a parabola; zero where nothing overlaps.
    """
    overlap = np.fft.irfft(np.einsum("isf,sf->if", spectra, target.conj()), n_lags)
    rows, top = np.arange(len(overlap)), overlap.argmax(axis=1)
    before, here, after = (overlap[rows, (top + i) % n_lags] for i in (-1, 0, 1))
    bend = before - 2 * here + after
    fraction = 0.5 * (before - after) / np.where(bend < 0, bend, -np.inf)
    lag = (top + n_lags // 2) % n_lags - n_lags // 2  # those above the middle are negative
    return np.where(here > 0, lag + fraction, 0.0)
