"""What looks wrong with the bonds of structures, and what to do about it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn.bond_suggestion import bonds_text
from tinynet_sklearn.distances import PairDistances, suggested_cutoff
from tinynet_sklearn.frame_sets import MIN_SHARED_BONDS, FrameSet
from tinynet_sklearn.graph import PairBonds, bond_graph
from tinynet_sklearn.inspection_result import Finding

__all__ = ["check_bonding"]

#: Featurizers for structures that share no bond graph, as messages name them.
ANY_STRUCTURE = "CycleMomentFeaturizer(topology='each') and SmoothMomentFeaturizer()"


def check_bonding(
    sets: Sequence[FrameSet],
    suggested: Mapping[str, float],
    pairs: Sequence[PairDistances],
    bonds: Any,
    findings: list[Finding],
) -> None:
    """Add what looks wrong with the bonds, and which featurizers take frames that share none.

    Parameters
    ----------
    sets : sequence of FrameSet
        Frames of the same atoms, with the bonds that `bonds` gives them.
    suggested : mapping of str to float
        Cutoffs that messages propose, Angstrom, by pair of species.
    pairs : sequence of PairDistances
        Of all frames.
    bonds : object
        As the user passed it, for messages.
    findings : list of Finding
        To add to.
    """
    if isinstance(bonds, Mapping) and dict(bonds) == dict(suggested):
        suggested = {}  # no remedy, since they are those that were used
    _check_bare(sets, suggested, bonds, findings)
    if len(sets) == 1 and sets[0].topology.shared:
        _check_crystal(sets[0], suggested, pairs, findings)
    elif sets:
        _check_sets(sets, suggested, findings)
    _check_like_atoms(suggested, bonds, findings)


def _check_bare(
    sets: Sequence[FrameSet], suggested: Mapping[str, float], bonds: Any, findings: list[Finding]
) -> None:
    """Sets of atoms without any bond, and which cutoffs would give them some."""
    bare = [each for each in sets if each.topology.is_bare]
    helped = [each for each in bare if _bonded_atoms(each, suggested).any()]
    if helped:
        message = f"No bonds in {_formulas(helped)} with bonds={bonds!r}"
        elements = any(len(each.topology.coordination) == 1 for each in helped)
        if isinstance(bonds, int | float) and elements:
            message += ": a single number bonds different species only"
        findings.append(Finding(True, f"{message}; {_pass(suggested)}.", []))
    others = [each for each in bare if each not in helped]
    if not others:
        return
    message = f"No bonds in {_formulas(others)} with bonds={bonds!r}"
    known = {symbol for each in sets if each not in others for symbol in each.topology.coordination}
    if known.issuperset(symbol for each in others for symbol in each.topology.coordination):
        findings.append(Finding(False, f"{message}: columns of these atoms are zero.", []))
    else:
        message += "; raise the cutoff or, if the atoms are far apart, leave them out."
        findings.append(Finding(True, message, []))


def _bonded_atoms(each: FrameSet, cutoffs: Mapping[str, float]) -> NDArray[np.bool_]:
    """Which atoms would have bonds with these cutoffs, shape (n_atoms,)."""
    if not cutoffs:
        return np.zeros(each.topology.n_atoms, dtype=np.bool_)
    bonded: NDArray[np.bool_] = bond_graph(each.structure, PairBonds(cutoffs)).coordination > 0
    return bonded


def _pass(suggested: Mapping[str, float]) -> str:
    """Write the suggested cutoffs for Python and for the command line."""
    return f"pass the suggested ones, bonds={dict(suggested)}, or --bonds {bonds_text(suggested)}"


def _formulas(sets: Sequence[FrameSet]) -> str:
    formulas = list(dict.fromkeys(each.topology.formula for each in sets))
    return ", ".join(formulas[:4]) + (", ..." if len(formulas) > 4 else "")


def _check_sets(sets: Sequence[FrameSet], suggested: Mapping[str, float], findings: list[Finding]) -> None:
    """Say which featurizers take frames of different atoms, or with different bonds."""
    if len(sets) > 1:
        message = f"Frames of {len(sets)} different sets of atoms ({_formulas(sets)})"
    else:
        message = f"No bonds in common{sets[0].example}"
    message += (
        f". {ANY_STRUCTURE} take such frames as they are; CycleMomentFeaturizer() takes one set of atoms in "
        "one order, with the same bonds in all frames."
    )
    if len({each.topology.formula for each in sets}) < len(sets):
        message += " Some differ only in the order of the atoms, or in pbc: make these alike in one crystal."
    findings.append(Finding(False, message, []))
    # Where there are no bonds at all, `_check_bare` has said so.
    partly = [each for each in sets if not each.topology.is_bare]
    bonded = {
        symbol
        for each in partly
        for symbol, counts in each.topology.coordination.items()
        if counts.keys() != {"none"}
    }
    never = sorted({symbol for each in partly for symbol in each.topology.lonely} - bonded)
    frames = sorted(frame for each in partly for frame in each.unbonded)
    lonely = [each for each in partly if each.unbonded]
    remedy = ""
    if lonely and all(_bonded_atoms(each, suggested).all() for each in lonely):
        remedy = _pass(suggested)
    if never:
        message = f"No atom of {', '.join(never)} has bonds in any frame; {remedy or 'raise the cutoff'}."
        findings.append(Finding(True, message, []))
    elif frames:
        message = "Atoms without bonds: their columns are zero"
        findings.append(Finding(False, f"{message}; {remedy}." if remedy else f"{message}.", frames))


def _check_crystal(
    crystal: FrameSet, suggested: Mapping[str, float], pairs: Sequence[PairDistances], findings: list[Finding]
) -> None:
    """Frames and atoms that do not have the bonds of the mean structure."""
    topology = crystal.topology
    if crystal.strangers:
        others = ANY_STRUCTURE.replace(" and ", " or ")
        message = (
            f"Not one crystal{crystal.example}. Split the file, or bring the atoms into one order; where "
            f"bonds are meant to break, take {others}."
        )
        findings.append(Finding(True, message, list(crystal.strangers)))
    if crystal.changed:
        message = (
            f"Less than {MIN_SHARED_BONDS:.0%} of the bonds of the mean structure: another structure, atoms "
            "in another order, or a cutoff that cuts through a shell."
        )
        findings.append(Finding(True, message, crystal.changed))
    if topology.is_bare:
        return
    if topology.lonely:
        remedy = _pass(suggested) if _bonded_atoms(crystal, suggested).all() else "raise the cutoff"
        message = (
            f"The mean structure of {topology.formula} has atoms without bonds "
            f"({', '.join(topology.lonely)}); {remedy}."
        )
        findings.append(Finding(True, message, []))
        return
    if crystal.unbonded:
        findings.append(Finding(False, "Atoms that have lost all their bonds.", crystal.unbonded))
    if topology.different:
        lost = sum(lost for lost, _ in topology.different.values())
        gained = sum(gained for _, gained in topology.different.values())
        message = (
            f"{len(topology.different)} of {len(topology.frames)} frames of {topology.formula} do not "
            f"have the bonds of the mean structure ({lost} lost, {gained} gained in all). Those of the "
            "mean serve all frames, which is right where bonds only cross the cutoff as they vibrate."
        )
        better = {pair.pair: cutoff for pair in pairs if (cutoff := suggested_cutoff(pair)) is not None}
        if better:
            message += f" Cutoffs between the shells: {bonds_text(better)}."
        findings.append(Finding(False, message, list(topology.different)))


def _check_like_atoms(suggested: Mapping[str, float], bonds: Any, findings: list[Finding]) -> None:
    """Bonds between like atoms, which a single number leaves out, where no other finding names them."""
    like = [pair for pair in suggested if len(set(pair.split("-"))) == 1]
    remedy = _pass(suggested)
    if like and isinstance(bonds, int | float) and not any(remedy in found.message for found in findings):
        message = f"bonds={bonds!r} bonds different species only, no {', '.join(like)}; {remedy}."
        findings.append(Finding(False, message, []))
