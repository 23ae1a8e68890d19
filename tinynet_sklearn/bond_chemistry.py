"""Which pairs of species are bonded: what a chemist would say of their pair distributions.

1. *Contact.* Bonded pairs touch: the first maximum of g(r) lies within `CONTACT` times the sum of the
   covalent radii. That leaves out the second shells of anions and of molecules (O-O in oxides, H-H in methyl
   groups, Si-Si in SiC) and keeps what is bonded now and then (O-O of peroxides, S-S of pyrite).
2. *Centres of molecules and polyatomic ions.* An atom with a bond to a more electronegative one, such as C in
   carbonate, P in phosphate or H in water, is bonded to less electronegative ones only at the length of a
   covalent bond, about the sum of the radii: no Ca-C in CaCO3, but Pt-C with adsorbed CO.
3. *Metals in compounds.* Two metals are not bonded where a nonmetal touches both: Ba-O and Ti-O in BaTiO3,
   no Ba-Ti, although these touch by their radii. A metalloid counts as a nonmetal here if it is more
   electronegative than one of them by `POLAR`, as in Mg2Si. In metals and alloys nothing stands between: all
   pairs are bonded.

Radii are those of ASE (Cordero et al., Dalton Trans. 2832 (2008)), electronegativities Pauling's.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ase.data import chemical_symbols

from tinynet_sklearn.pair_distributions import PairDistribution

#: Pairs whose first maximum is beyond this many times the sum of their covalent radii do not touch: Cs-Br in
#: CsPbBr3 is at 1.14, Al-Al in the metal at 1.18, second shells begin at 1.38 (Si-Si in SiC).
CONTACT = 1.3

#: Covalent bonds are no longer than this many times the sum of the radii, between nonmetals and with a metal:
#: Si-Si in Si2H6 is at 1.06 and in stishovite at 1.2; Pt-C is at 0.95, Zr-Si in zircon at 1.05.
COVALENT, COVALENT_METAL = 1.08, 1.02

#: A metalloid is an anion between metals if its electronegativity exceeds that of one of them by this.
POLAR = 0.5

#: Atomic numbers of two species, the smaller one first.
Pair = tuple[int, int]


@dataclass(frozen=True)
class _Element:
    metal: bool
    metalloid: bool
    electronegativity: float  # 0 where there is none: helium, neon, argon


def bonded_pairs(distributions: Mapping[Pair, PairDistribution]) -> set[Pair]:
    """Pairs of atomic numbers, the smaller one first, that are bonded by the rules of this module.

    Parameters
    ----------
    distributions : dict of (int, int) to PairDistribution
        Of all pairs of species that stand together.
    """
    elements = {z: _element(z) for pair in distributions for z in pair}
    ratios = {pair: d.first_shell.peak / d.contact for pair, d in distributions.items() if not d.is_empty}
    touching = {pair for pair, ratio in ratios.items() if ratio <= CONTACT}
    # From the cation to the anion of each pair; of two like atoms, either is the anion.
    polar = {pair: sorted(pair, key=lambda z: elements[z].electronegativity) for pair in touching}
    centres = {cation for cation, anion in polar.values() if cation != anion and not elements[cation].metal}
    bonded = {
        pair
        for pair, (cation, anion) in polar.items()
        if anion not in centres or ratios[pair] <= (COVALENT_METAL if elements[cation].metal else COVALENT)
    }
    return {pair for pair in bonded if not _are_cations(pair, bonded, elements)}


def is_metal(number: int) -> bool:
    """Whether an element is a metal (metalloids are not)."""
    return _element(number).metal


def _are_cations(pair: Pair, bonded: set[Pair], elements: Mapping[int, _Element]) -> bool:
    """Whether two metals have a nonmetal that is bonded to both."""
    if not all(elements[z].metal for z in pair):
        return False
    between = (z for z in elements if all((min(z, m), max(z, m)) in bonded for m in pair))
    return any(_is_anion(elements[z], [elements[m] for m in pair]) for z in between)


def _is_anion(element: _Element, metals: list[_Element]) -> bool:
    if element.metal:
        return False
    least = POLAR + min(metal.electronegativity for metal in metals)
    return not element.metalloid or element.electronegativity >= least


@cache
def _element(number: int) -> _Element:
    from pymatgen.core import Element

    if not number:  # ASE's X, a place without an element
        return _Element(False, False, 0.0)
    element = Element(chemical_symbols[number])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of elements that have no electronegativity, which gives NaN
        known = float(element.X)
    return _Element(element.is_metal, element.is_metalloid, 0.0 if math.isnan(known) else known)
