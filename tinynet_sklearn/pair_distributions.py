"""Pair distributions over many structures, and where their first shell ends.

For two species a and b, ``g(r)`` is the number of b atoms at distance r from an a atom, divided by what atoms
spread evenly at the same density would give. Arrays, with distances in Angstrom:

============  ===========  ==========================================================================
name          shape        meaning
============  ===========  ==========================================================================
distances     (n_bins,)    middles of bins of equal width, from 0 to r_max
counts        (n_bins,)    pairs (atom of a, atom of b) at that distance in all structures; where a is
                           b, each pair of atoms counts twice, once from either end
============  ===========  ==========================================================================

The shape of g(r) is judged by ratios: smoothing grows with the distance, shells merge by the ratio of their
distances, minima count by the ratio to the maxima beside them. So one set of constants serves O-H and Cs-Cs.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement, pairwise

import numpy as np
from ase.data import covalent_radii

from tinynet_sklearn.distances import metal_first, pair_name
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.graph import BondRule, bond_graph, pairs_within
from tinynet_sklearn.structures import AtomicStructure

#: Width of the bins in which distances are counted, Angstrom.
BIN = 0.01

#: Standard deviation of the Gaussian that smooths g(r): a fraction of the distance, and at least so many
#: Angstrom, since hydrogen, with the shortest bonds, moves most.
SMOOTHING, MIN_SMOOTHING = 0.03, 0.05

#: A minimum counts if g falls below this fraction of the lower one of the maxima beside it.
DEPTH = 0.9

#: Maxima below this fraction of the highest one are of rounding.
TINY = 1e-9

#: Fewer neighbours than this, of the rarer species, are stray pairs and no shell.
MIN_COORDINATION = 0.05

#: A maximum at less than this many times the distance where the one before has fallen to half belongs to the
#: same shell, as the 8 and 6 neighbours in bcc metals (1.155) and the unequal bonds of distorted octahedra;
#: but not beyond the second number times the first maximum, since the second shell of fcc is at 1.414.
SAME_SHELL, WIDEST_SHELL = 1.17, 1.37

#: A maximum at less than this many times the sum of the covalent radii is of bonds, too: single bonds beside
#: triple ones.
COVALENT = 1.1

#: Where g is within this fraction of the maximum before from its minimum, it is as good as there: the gap.
FLOOR = 0.02

#: In a wide gap, the cutoff is at most this many times the mean distance of the shell, or this far (Angstrom)
#: beyond the end of the shell, so that bonds that break are seen to break.
REACH, MARGIN = 1.35, 0.1


@dataclass(frozen=True)
class FirstShell:
    """The first shell of a pair of species.

    Attributes
    ----------
    peak : float
        Distance of the first maximum of g(r), Angstrom.
    cutoff : float or None
        Angstrom; None where g(r) has no minimum behind the shell.
    """

    peak: float
    cutoff: float | None


@dataclass(frozen=True, eq=False)
class PairDistribution:
    """Distances between two species in many structures; see the module's table for the arrays.

    Attributes
    ----------
    species : tuple of int
        Atomic numbers of a and b.
    distances, counts : ndarray of shape (n_bins,)
    n_atoms : tuple of int
        Atoms of a and of b in all structures that have both.
    ideal : float
        Pairs per cubic Angstrom, had the atoms an even density: the sum of ``n_a n_b / volume`` over the
        structures that have both; NaN where one of them is not periodic in three directions.
    """

    species: tuple[int, int]
    distances: FloatArray
    counts: IntArray
    n_atoms: tuple[int, int]
    ideal: float

    @property
    def pair(self) -> str:
        """Name such as "Ba-O"."""
        return pair_name(*self.species)

    @property
    def r_max(self) -> float:
        """Distance up to which pairs were counted, Angstrom."""
        return len(self.distances) * BIN

    @property
    def contact(self) -> float:
        """Sum of the covalent radii, Angstrom."""
        return float(sum(covalent_radii[z] for z in self.species))

    @cached_property
    def density(self) -> FloatArray:
        """Mean number of b atoms per cubic Angstrom around an a atom, smoothed, shape (n_bins,)."""
        return self.smoothed(self.counts)

    def smoothed(self, counts: IntArray) -> FloatArray:
        """Density, as `density`, of some of the pairs, counted in the same bins."""
        width = np.maximum(MIN_SMOOTHING, SMOOTHING * self.distances)
        kernel = np.exp(-0.5 * ((self.distances[:, None] - self.distances) / width[:, None]) ** 2)
        # The mean over what the kernel sees, which may end at the last bin: an even density stays even.
        density: FloatArray = kernel @ (counts / (4.0 * np.pi * self.distances**2 * BIN)) / kernel.sum(axis=1)
        return density / self.n_atoms[0]

    @cached_property
    def g(self) -> FloatArray | None:
        """Pair distribution function, smoothed, shape (n_bins,); None where there is no even density."""
        return None if np.isnan(self.ideal) else self.density * (self.n_atoms[0] / self.ideal)

    @cached_property
    def coordination(self) -> FloatArray:
        """Mean number of b atoms within the end of each bin of an a atom, shape (n_bins,)."""
        return np.cumsum(self.counts) / self.n_atoms[0]

    @property
    def is_empty(self) -> bool:
        """Whether no two of the atoms are close enough to be counted."""
        return not self.counts.any()

    @cached_property
    def first_shell(self) -> FirstShell:
        """Where the first shell is and ends; the distribution must not be empty."""
        peaks, valleys = _relevant_extrema(self.density)
        enough = MIN_COORDINATION * min(self.n_atoms)
        within = np.cumsum(self.counts)
        while valleys and within[valleys[0]] < enough:  # stray pairs
            peaks, valleys = peaks[1:], valleys[1:]
        last = 0
        while last < len(valleys) and self._continues(peaks, valleys, last):
            last += 1
        cutoff = None
        if last < len(valleys):
            cutoff = self._cutoff(peaks[last], valleys[last], peaks[last + 1])
        elif self.density[-1] <= FLOOR * self.density[peaks[-1]]:  # nothing comes any more
            cutoff = self._cutoff(peaks[last], len(self.counts) - 1, len(self.counts))
        return FirstShell(float(self.distances[peaks[0]]), cutoff)

    def _continues(self, peaks: list[int], valleys: list[int], k: int) -> bool:
        """Whether the maximum after the k-th belongs to the first shell, too."""
        peak, place = peaks[k], self.distances[peaks[k + 1]]
        slope = np.flatnonzero(self.density[peak : valleys[k] + 1] > 0.5 * self.density[peak])
        near = place <= SAME_SHELL * self.distances[peak + slope[-1]]
        narrow = place <= WIDEST_SHELL * self.distances[peaks[0]]
        return bool((near and narrow) or place <= COVALENT * self.contact)

    def _cutoff(self, peak: int, valley: int, end: int) -> float:
        """Distance in the gap, or at the minimum, between the maxima ``peak`` and ``end``."""
        curve = self.density
        low = curve[valley] + FLOOR * curve[peak]
        above = curve > low
        start = peak + 1 + int(np.flatnonzero(above[peak : valley + 1])[-1])
        beyond = np.flatnonzero(above[valley:end])
        open_end = end == len(curve) and not len(beyond)
        stop = end if not len(beyond) else valley + int(beyond[0])
        first, last = self.distances[start], self.distances[stop - 1]
        mean = np.average(self.distances[:start], weights=self.counts[:start])
        cap = max(REACH * mean, first + MARGIN)
        middle = np.inf if open_end else 0.5 * (first + last)
        return _rounded(min(middle, cap), first, last)


def _rounded(cutoff: float, low: float, high: float) -> float:
    """A multiple of 0.05 near ``cutoff`` if that is in the gap, else of 0.01."""
    coarse = round(round(float(cutoff) / 0.05) * 0.05, 2)
    return coarse if low <= coarse <= high else round(float(cutoff), 2)


def _relevant_extrema(curve: FloatArray) -> tuple[list[int], list[int]]:
    """Maxima, the end included where the curve rises to it, and the deepest points between them.

    Shallow minima are noise: the lower one of the maxima beside them is struck out, the shallowest first.
    """
    rises = np.concatenate([[True], np.diff(curve) > 0.0])
    falls = np.concatenate([np.diff(curve) <= 0.0, [True]])
    peaks = [int(k) for k in np.flatnonzero(rises & falls & (curve > TINY * curve.max()))]
    while True:
        valleys = [a + int(np.argmin(curve[a:b])) for a, b in pairwise(peaks)]
        depths = [
            curve[v] / min(curve[a], curve[b]) for v, (a, b) in zip(valleys, pairwise(peaks), strict=True)
        ]
        if max(depths, default=0.0) <= DEPTH:
            return peaks, valleys
        k = int(np.argmax(depths))
        del peaks[k if curve[peaks[k]] < curve[peaks[k + 1]] else k + 1]


def pair_distributions(
    structures: Iterable[AtomicStructure], r_max: float
) -> dict[tuple[int, int], PairDistribution]:
    """Distances up to ``r_max`` in all structures, by pair of atomic numbers, the smaller one first.

    Parameters
    ----------
    structures : iterable of AtomicStructure
    r_max : float
        Angstrom.

    Returns
    -------
    dict of (int, int) to PairDistribution
        Of all pairs of species that stand in one structure together; the first species of each
        distribution is the one that its name begins with.
    """
    n_bins = round(r_max / BIN)
    found: dict[tuple[int, int], _Sums] = defaultdict(lambda: _Sums(n_bins))
    for structure in structures:
        species, inverse, numbers = np.unique(structure.numbers, return_inverse=True, return_counts=True)
        i, j, _, lengths = pairs_within(structure, n_bins * BIN)
        bins = np.minimum((lengths / BIN).astype(np.int64), n_bins - 1)
        shape = (len(species), len(species), n_bins)
        codes = np.ravel_multi_index((inverse[i], inverse[j], bins), shape)
        counts = np.bincount(codes, minlength=math.prod(shape)).reshape(shape)
        volume = abs(float(np.linalg.det(structure.cell))) if structure.pbc.all() else math.nan
        for k, m in combinations_with_replacement(range(len(species)), 2):
            if k == m and numbers[k] == 1 and not structure.pbc.any():
                continue  # a lone atom has no other of its kind
            found[int(species[k]), int(species[m])].add(
                counts[k, m], int(numbers[k]), int(numbers[m]), volume
            )
    middles = (np.arange(n_bins) + 0.5) * BIN
    distributions = {}
    for pair in sorted(found):
        first, last = metal_first(*pair)
        atoms = dict(zip(pair, found[pair].atoms, strict=True))
        distributions[pair] = PairDistribution(
            (first, last), middles, found[pair].counts, (atoms[first], atoms[last]), found[pair].ideal
        )
    return distributions


def bonded_counts(
    structures: Iterable[AtomicStructure], rule: BondRule, n_bins: int
) -> dict[tuple[int, int], IntArray]:
    """Count bonds by a rule as `pair_distributions` counts pairs, for the pairs that have any.

    Parameters
    ----------
    structures : iterable of AtomicStructure
    rule : BondRule
    n_bins : int
        Bonds that are longer than the last bin are not counted.
    """
    counts: dict[tuple[int, int], IntArray] = defaultdict(lambda: np.zeros(n_bins, dtype=np.int64))
    for structure in structures:
        graph = bond_graph(structure, rule)
        bins = (graph.bond_lengths(structure.positions, structure.cell) / BIN).astype(np.int64)
        ends = np.sort(structure.numbers[np.column_stack([graph.first, graph.last])], axis=1)
        for a, b in np.unique(ends, axis=0):
            here = bins[(ends == (a, b)).all(axis=1)]
            counts[int(a), int(b)] += (1 + (a == b)) * np.bincount(here, minlength=n_bins)[:n_bins]
    return dict(counts)


class _Sums:
    """Sums over structures for one pair of species; see `PairDistribution`."""

    def __init__(self, n_bins: int) -> None:
        self.counts = np.zeros(n_bins, dtype=np.int64)
        self.atoms = [0, 0]
        self.ideal = 0.0

    def add(self, counts: IntArray, n_first: int, n_last: int, volume: float) -> None:
        self.counts += counts
        self.atoms[0] += n_first
        self.atoms[1] += n_last
        self.ideal += n_first * n_last / volume
