"""Distances by pair of species over many frames: which are bonds, where the shells end.

Used to check a bond rule against data: a good cutoff stands in a gap between the shells that no frame enters.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from ase.formula import Formula
from numpy.typing import NDArray

from tinynet_sklearn.graph import BondGraph, CutoffBonds
from tinynet_sklearn.structures import AtomicStructure

#: Distances are counted up to here, in bins of this width (Angstrom).
HISTOGRAM_RANGE, HISTOGRAM_BIN = 5.0, 0.1

#: Atoms closer than this fraction of the sum of their covalent radii overlap.
OVERLAP = 0.6

#: A gap between shells must be at least this wide (Angstrom) to put a cutoff into it.
MIN_GAP = 0.2

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PairDistances:
    """Distances between two species in all frames, Angstrom.

    Attributes
    ----------
    pair : str
        For example "Ba-O".
    bonds_per_frame : float
    shortest, mean, longest : float or None
        Of the bonds; None where there are none.
    next : float or None
        Shortest distance that is not a bond, up to the range of the histogram.
    histogram, bonded : list of int
        Number of pairs and of bonds in bins of `HISTOGRAM_BIN` from 0 to `HISTOGRAM_RANGE`.
    """

    pair: str
    bonds_per_frame: float
    shortest: float | None
    mean: float | None
    longest: float | None
    next: float | None
    histogram: list[int]
    bonded: list[int]


def suggested_cutoff(pair: PairDistances) -> float | None:
    """Middle (Angstrom) of the first gap beyond the shortest bonds; None if no gap is wide enough."""
    return None if pair.shortest is None else first_gap(pair)


def first_gap(pair: PairDistances) -> float | None:
    """Middle (Angstrom) of the first gap beyond the shortest distances, bonds or not; None without one."""
    occupied = np.flatnonzero(pair.histogram)
    empty = np.diff(occupied) - 1
    wide = np.flatnonzero(empty * HISTOGRAM_BIN >= MIN_GAP - 1e-9)
    if not len(wide):
        return None
    low, high = occupied[wide[0]] + 1, occupied[wide[0] + 1]
    return round(float(0.5 * (low + high) * HISTOGRAM_BIN), 2)


class DistanceCounter:
    """Collects distances frame by frame."""

    def __init__(self) -> None:
        n_bins = round(HISTOGRAM_RANGE / HISTOGRAM_BIN)
        self._edges = np.linspace(0.0, HISTOGRAM_RANGE, n_bins + 1)
        self._frames = 0
        self._pairs: dict[tuple[int, int], _Collected] = defaultdict(lambda: _Collected(n_bins))

    def add(self, structure: AtomicStructure, graph: BondGraph) -> str | None:
        """Count the pairs of a frame.

        Parameters
        ----------
        structure : AtomicStructure
        graph : BondGraph
            Its bonds.

        Returns
        -------
        str or None
            Which atoms overlap, if any do.
        """
        self._frames += 1
        numbers, n_atoms = structure.numbers, len(structure)
        i, j, shifts = CutoffBonds(HISTOGRAM_RANGE, heteroatomic=False).directed_bonds(structure)
        vectors = structure.positions[j] + shifts @ structure.cell - structure.positions[i]
        lengths = np.linalg.norm(vectors, axis=1)
        sources = np.repeat(np.arange(n_atoms), graph.coordination)
        bonds = _codes(sources, graph.targets, graph.shifts, n_atoms)
        bonded = np.isin(_codes(i, j, shifts, n_atoms), bonds)
        low, high = np.minimum(numbers[i], numbers[j]), np.maximum(numbers[i], numbers[j])
        for a, b in np.unique(np.column_stack([low, high]), axis=0):
            these = (low == a) & (high == b)
            self._pairs[int(a), int(b)].add(lengths[these], bonded[these], self._edges)
        close = np.flatnonzero(lengths < OVERLAP * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]]))
        if not len(close):
            return None
        worst = close[lengths[close].argmin()]
        first, last = (f"{k} ({chemical_symbols[numbers[k]]})" for k in (i[worst], j[worst]))
        return f"Atoms {first} and {last} are {lengths[worst]:.2f} Angstrom apart."

    def summary(self) -> list[PairDistances]:
        """One entry per pair of species, bonded ones first."""
        found = []
        for (a, b), pair in self._pairs.items():
            n = pair.n_bonds
            found.append(
                PairDistances(
                    pair=pair_name(a, b),
                    bonds_per_frame=n / self._frames,
                    shortest=pair.shortest if n else None,
                    mean=pair.total / n if n else None,
                    longest=pair.longest if n else None,
                    next=pair.next if np.isfinite(pair.next) else None,
                    histogram=(pair.histogram // 2).tolist(),
                    bonded=(pair.bonded // 2).tolist(),
                )
            )
        return sorted(found, key=lambda pair: (pair.shortest is None, pair.pair))


class _Collected:
    """Distances of one pair of species; every pair of atoms is added twice, once from each end."""

    def __init__(self, n_bins: int) -> None:
        self.histogram = np.zeros(n_bins, dtype=np.int64)
        self.bonded = np.zeros(n_bins, dtype=np.int64)
        self.n_bonds = 0
        self.total = 0.0
        self.shortest = self.next = float("inf")
        self.longest = 0.0

    def add(
        self, lengths: NDArray[np.float64], bonded: NDArray[np.bool_], edges: NDArray[np.float64]
    ) -> None:
        inside, outside = lengths[bonded], lengths[~bonded]
        self.histogram += np.histogram(lengths, edges)[0]
        self.bonded += np.histogram(inside, edges)[0]
        self.n_bonds += len(inside) // 2
        self.total += float(inside.sum()) / 2
        self.shortest = min(self.shortest, float(inside.min(initial=np.inf)))
        self.longest = max(self.longest, float(inside.max(initial=0.0)))
        self.next = min(self.next, float(outside.min(initial=np.inf)))


def bond_codes(graph: BondGraph) -> Ints:
    """One number per undirected bond; the same bond has the same number in frames of the same atoms."""
    return _codes(graph.first, graph.last, graph.bond_shifts, graph.n_atoms)


def _codes(i: Ints, j: Ints, shifts: Ints, n_atoms: int) -> Ints:
    # Unique for cells up to 1023 translations away and 32,000 atoms.
    codes = i.astype(np.int64) * n_atoms + j
    for axis in range(3):
        codes = codes * 2048 + (shifts[:, axis] + 1024)
    return codes


def metal_first(a: int, b: int) -> tuple[int, int]:
    """Two atomic numbers in the order in which chemists write them."""
    if a == b:
        return a, b
    written = Formula(f"{chemical_symbols[a]}{chemical_symbols[b]}").convert("metal").count()
    return (a, b) if next(iter(written)) == chemical_symbols[a] else (b, a)


def pair_name(a: int, b: int) -> str:
    """Name such as "Ba-O", the metal first."""
    return "-".join(chemical_symbols[z] for z in metal_first(a, b))
