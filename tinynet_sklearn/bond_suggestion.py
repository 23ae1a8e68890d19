"""Cutoffs of bonds proposed from the structures: `suggest_bonds`.

What is bonded is decided in `bond_chemistry`, up to which distance in `pair_distributions`. Here the two
meet, with a safeguard for atoms that would have no bonds: metal below the surface of a slab with adsorbates,
frames of a metal beside those of its oxide, noble gases.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import covalent_radii

from tinynet_sklearn._validation import users_level
from tinynet_sklearn.bond_chemistry import Pair, bonded_pairs, is_metal
from tinynet_sklearn.graph import PairBonds, coinciding_atoms
from tinynet_sklearn.pair_distributions import PairDistribution, pair_distributions
from tinynet_sklearn.structures import AtomicStructure, as_structures, atomic_number, raise_problems

#: Metals of which more than this fraction of the atoms would have no bonds are bonded to each other.
LONELY = 0.1

#: Distances are counted up to here (Angstrom), or to twice the largest sum of covalent radii if that is more.
MIN_RANGE = 6.0


@dataclass(frozen=True)
class BondSuggestion:
    """Cutoffs (Angstrom), and why other pairs that should be bonded have none, both by name of the pair."""

    cutoffs: dict[str, float]
    problems: dict[str, str]


def suggest_bonds(
    structures: Sequence[Any], *, pairs: str | Sequence[str] = "auto", r_max: float | None = None
) -> dict[str, float]:
    """Propose a cutoff for each bonded pair of species, from where the first shell ends.

    The cutoff stands in the gap behind the first shell of g(r) of all structures together: in the middle or,
    where the gap is wide, at 1.35 times the mean distance of the shell. Where there is no gap (heat, melts,
    several phases), it stands at the minimum. What follows within 1.2 times the distance is the same shell:
    the 8 + 6 neighbours in bcc metals, the short and long bonds of distorted octahedra.

    Parameters
    ----------
    structures : list of ase.Atoms or pymatgen Structure
        Crystals, slabs, melts, molecules, of any compositions and sizes. Take those that a model is trained
        on: shells that are apart in a relaxed structure may overlap in others.
    pairs : "auto", "all", or list of str, default="auto"
        "auto" takes the pairs that a chemist would call bonded (see Notes), "all" every pair of species; a
        list names them, for example ``["Ti-O", "Ti-Ti"]``.
    r_max : float or None, default=None
        Search up to this distance, Angstrom; the second shell should begin before. None takes 6, or twice the
        largest sum of covalent radii if that is more.

    Returns
    -------
    dict of str to float
        Such as ``{"Ba-O": 3.85, "Ti-O": 2.7}``, Angstrom, for ``bonds=`` of the featurizers.

    Raises
    ------
    TypeError
        If `structures` is not a list of structures, or `pairs` is of another type.
    ValueError
        If `pairs` or `r_max` make no sense, atoms coincide, a pair that was named has no cutoff, or no pair
        has one.

    Warns
    -----
    UserWarning
        If some of the pairs that should be bonded have no cutoff; they are left out.

    Notes
    -----
    With "auto", pairs are bonded if the first maximum of g(r) lies within 1.3 times the sum of their covalent
    radii, except that

    - two metals are not bonded where a nonmetal touches both (no Ba-Ti in BaTiO3), unless many of their atoms
      would have no bonds at all;
    - atoms bonded to a more electronegative one (C of carbonate, H of water) are bonded to less
      electronegative ones at covalent distance only (no Ca-C in CaCO3).

    This gives cation-anion bonds in ionic compounds, all pairs in metals and alloys, covalent bonds in
    molecules. One cutoff holds in all structures: with TiO2 and metallic titanium in one set, that for Ti-Ti
    bonds titanium atoms of the oxide, too.

    See Also
    --------
    PairDistributionDisplay : the pair distributions with the cutoffs.

    Examples
    --------
    >>> from tinynet_sklearn import load_moo3, suggest_bonds
    >>> suggest_bonds(load_moo3().structures)
    {'Mo-O': 2.7}
    """
    converted = checked_structures(structures)
    distributions = pair_distributions(converted, checked_range(r_max, converted))
    wanted = checked_pairs(pairs, distributions)
    found = suggestion(converted, distributions, wanted)
    problems = [f"{pair}: {problem}" for pair, problem in found.problems.items()]
    if problems and (not isinstance(wanted, str) or not found.cutoffs):
        raise_problems(f"pairs={pairs!r} gives no cutoffs", problems)
    if not found.cutoffs and distributions:
        searched = next(iter(distributions.values())).r_max
        raise ValueError(
            "r_max must reach the nearest neighbours, got "
            f"{'None, which took ' if r_max is None else ''}{searched:g} Angstrom, and no two atoms are that "
            "close. Raise it."
        )
    if not found.cutoffs:
        raise ValueError(
            "structures must have atoms near each other, got only single ones. Leave out isolated atoms."
        )
    if problems:
        left_out = " ".join(problems)
        warnings.warn(f"Pairs without a cutoff were left out. {left_out}", stacklevel=users_level())
    return found.cutoffs


def bonds_text(bonds: Mapping[str, float]) -> str:
    """Write cutoffs by pair as ``--bonds`` takes them."""
    return ",".join(f"{pair}={cutoff:g}" for pair, cutoff in bonds.items())


def checked_structures(structures: Sequence[Any]) -> list[AtomicStructure]:
    """Converted structures, none of which has two atoms in one place."""
    converted = as_structures(structures, "structures")
    problems = [f"structure {k}: {found}" for k, s in enumerate(converted) for found in coinciding_atoms(s)]
    raise_problems("structures must have every atom in a place of its own", problems)
    return converted


def checked_range(r_max: float | None, structures: list[AtomicStructure]) -> float:
    """Distance up to which to count, Angstrom."""
    if r_max is None:
        largest = max(float(covalent_radii[s.numbers].max()) for s in structures)
        return max(MIN_RANGE, 4.0 * largest)
    number = isinstance(r_max, int | float | np.integer | np.floating) and not isinstance(r_max, bool)
    if not number or not 1.0 <= r_max < np.inf:
        raise ValueError(
            f"r_max must be None or a distance of at least 1 Angstrom, got {r_max!r}; twice a bond is enough."
        )
    return float(r_max)


def checked_pairs(pairs: Any, distributions: Mapping[Pair, PairDistribution]) -> str | list[Pair]:
    """What ``pairs`` asks for: "auto", "all", or keys of ``distributions``."""
    if isinstance(pairs, str) and pairs in ("auto", "all"):
        return pairs
    names = list(pairs) if isinstance(pairs, list | tuple | set) else None
    if not names or not all(isinstance(name, str) and name.count("-") == 1 for name in names):
        raise ValueError(f"pairs must be 'auto', 'all' or a list of pairs such as ['Ti-O'], got {pairs!r}.")
    found = []
    for name in names:
        first, last = sorted(atomic_number(symbol) for symbol in name.split("-"))
        if (first, last) not in distributions:
            there = ", ".join(d.pair for d in distributions.values())
            raise ValueError(
                f"pairs must be of species that share a structure, got {name!r}; there are {there}."
            )
        found.append((first, last))
    return found


def suggestion(
    structures: list[AtomicStructure],
    distributions: Mapping[Pair, PairDistribution],
    pairs: str | list[Pair] = "auto",
) -> BondSuggestion:
    """Cutoffs of the bonded pairs, without warnings and errors.

    Parameters
    ----------
    structures : list of AtomicStructure
    distributions : dict of (int, int) to PairDistribution
        Of these structures.
    pairs : "auto", "all", or list of (int, int)
        As from `checked_pairs`.
    """
    if pairs == "auto":
        chosen = {pair: distributions[pair] for pair in bonded_pairs(distributions)}
        chosen |= _between_lonely_metals(structures, chosen, distributions)
        chosen |= _for_lonely_species(chosen, distributions)
    else:
        chosen = {pair: d for pair, d in distributions.items() if pairs == "all" or pair in pairs}
    ordered = sorted(chosen.values(), key=lambda d: d.pair)
    cutoffs = _cutoffs(ordered)
    return BondSuggestion(cutoffs, {d.pair: _problem(d) for d in ordered if d.pair not in cutoffs})


def _cutoffs(distributions: Iterable[PairDistribution]) -> dict[str, float]:
    """Ends of the first shells, where there are any."""
    ends = {d.pair: d.first_shell.cutoff for d in distributions if not d.is_empty}
    return {pair: end for pair, end in ends.items() if end is not None}


def _problem(distribution: PairDistribution) -> str:
    """Why there is no cutoff, and what to do."""
    r_max = distribution.r_max
    if distribution.is_empty:
        return f"none of these atoms are within r_max={r_max:g} Angstrom of each other; raise it."
    return (
        f"g(r) has no minimum between its first maximum at {distribution.first_shell.peak:.2f} and r_max="
        f"{r_max:g} Angstrom; raise r_max, pass more structures, or write a cutoff of your own."
    )


def _between_lonely_metals(
    structures: list[AtomicStructure],
    chosen: Mapping[Pair, PairDistribution],
    distributions: Mapping[Pair, PairDistribution],
) -> dict[Pair, PairDistribution]:
    """Pairs of the metals that have atoms without bonds, as they are in the structures with such atoms."""
    metals = {z for pair in distributions for z in pair if is_metal(z)}
    cutoffs = _cutoffs(chosen.values())
    if not cutoffs or all((z, z) in chosen for z in metals):
        return {}
    rule, without = PairBonds(cutoffs), []
    for structure in structures:
        bonded = np.zeros(len(structure), dtype=bool)
        bonded[rule.directed_bonds(structure)[0]] = True
        without.append(structure.numbers[~bonded])
    lonely = {
        z
        for z in metals
        if sum(np.count_nonzero(numbers == z) for numbers in without)
        > LONELY * sum(np.count_nonzero(s.numbers == z) for s in structures)
    }
    where = [
        s for s, numbers in zip(structures, without, strict=True) if lonely.intersection(numbers.tolist())
    ]
    found = pair_distributions(where, next(iter(distributions.values())).r_max)
    return {pair: d for pair, d in found.items() if lonely.issuperset(pair) and not d.is_empty}


def _for_lonely_species(
    chosen: Mapping[Pair, PairDistribution], distributions: Mapping[Pair, PairDistribution]
) -> dict[Pair, PairDistribution]:
    """For each species in no chosen pair, the one with the nearest first shell (by covalent radii)."""
    found: dict[Pair, PairDistribution] = {}
    for species in {z for pair in distributions for z in pair} - {z for pair in chosen for z in pair}:
        pairs = [pair for pair, d in distributions.items() if species in pair and not d.is_empty]
        if pairs:
            nearest = min(pairs, key=lambda p: distributions[p].first_shell.peak / distributions[p].contact)
            found[nearest] = distributions[nearest]
    return found
