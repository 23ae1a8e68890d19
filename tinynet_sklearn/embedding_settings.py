"""Which parameters of `CycleMomentFeaturizer` go together."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tinynet_sklearn.graph import BondRule, CutoffRule, as_bond_rule
from tinynet_sklearn.structures import is_structure

__all__ = ["check_embedding_settings", "check_fade_width"]


def check_embedding_settings(featurizer: Any, order: str, frame: str) -> None:
    """Refuse parameters that contradict each other.

    Parameters
    ----------
    featurizer : CycleMomentFeaturizer
        With valid parameters.
    order, frame : str
        Its parameters of these names, "auto" resolved.

    Raises
    ------
    ValueError
        With what to change.
    """
    each = featurizer.topology == "each"
    if each and order != "value":
        raise ValueError(
            f"topology='each' needs order='value', got order={order!r}: structures with bonds of their own "
            "share no directions and no numbering. Use order='auto'."
        )
    if frame == "site" and each:
        raise ValueError(
            "frame='site' needs topology='reference', got topology='each': without a common structure "
            "there are no equivalent sites. Use frame='auto'."
        )
    if frame == "site" and order != "direction":
        raise ValueError(
            f"frame='site' needs order='direction', got order={order!r}: sorted entries have no "
            "site. Use frame='lab'."
        )
    if frame == "neighbors" and not each:
        raise ValueError(
            "frame='neighbors' needs topology='each', got topology='reference'. Use frame='site' or "
            "'lab' there."
        )
    if frame == "neighbors" and featurizer.coordinates == "distances":
        raise ValueError(
            "frame='neighbors' is for coordinates='vectors', got coordinates='distances', which leaves "
            "directions out. Use frame='auto'."
        )
    if featurizer.coordinates == "distances" and featurizer.species_columns:
        raise ValueError(
            "species_columns=True puts atomic numbers before the vectors of neighbours, which "
            "coordinates='distances' leaves out. Set species_columns=False."
        )
    if featurizer.blocks == "hops" and featurizer.aggregate == "sum":
        raise ValueError(
            "blocks='hops' is for lists of walks, got aggregate='sum', which has one column per species "
            "sequence. Use SmoothMomentFeaturizer(species_channels=...) for sums over many species."
        )
    if featurizer.blocks == "hops" and order != "value":
        raise ValueError(
            f"blocks='hops' needs order='value', got order={order!r}: only sorted entries may change "
            "their places."
        )
    if each and (is_structure(featurizer.reference) or featurizer.reference != "mean"):
        raise ValueError(
            "reference is for topology='reference'; with topology='each' no structure serves the others, got "
            f"reference={featurizer.reference!r}. Leave it out."
        )
    if featurizer.fade:
        _check_fade(featurizer, each)


def check_fade_width(rule: BondRule, numbers: NDArray[np.int64], fade: float) -> None:
    """Refuse bonds that fade from their very beginning.

    Parameters
    ----------
    rule : BondRule
    numbers : ndarray of int
        Atomic numbers of all species.
    fade : float
        Angstrom.

    Raises
    ------
    ValueError
        With a pair at fault.
    """
    if not fade or not isinstance(rule, CutoffRule):
        return
    a, b = (pairs.ravel() for pairs in np.meshgrid(numbers, numbers))
    limits = rule.limits(a, b)
    never = limits == 0.0
    if getattr(rule, "heteroatomic", False):
        never |= a == b
    limits[never] = np.inf
    shortest = int(limits.argmin())
    if fade >= limits[shortest]:
        pair = f"{chemical_symbols[a[shortest]]}-{chemical_symbols[b[shortest]]}"
        raise ValueError(
            f"fade must be smaller than the cutoff of every bond; got {fade:g} Angstrom for {pair} with "
            f"{limits[shortest]:g}. It is the width over which bonds end, usually 0.3 to 1 Angstrom."
        )


def _check_fade(featurizer: Any, each: bool) -> None:
    if not each:
        raise ValueError(
            f"fade={featurizer.fade!r} needs topology='each', got topology='reference', where bonds neither "
            "form nor break. Set fade=0."
        )
    if featurizer.neighbors == "walks":
        raise ValueError(
            f"fade={featurizer.fade!r} needs neighbors='unique', got neighbors='walks'. Set one of them back."
        )
    if featurizer.species_columns:
        raise ValueError(
            f"fade={featurizer.fade!r} needs species_columns=False, got True: atomic numbers before "
            "neighbours do not fade with them. Use blocks='species', which tells species apart."
        )
    if not isinstance(as_bond_rule(featurizer.bonds), CutoffRule):
        raise ValueError(
            f"fade={featurizer.fade!r} needs bonds that end at a cutoff, got {featurizer.bonds!r}. "
            "Use a cutoff in "
            "Angstrom, a mapping such as {'Ti-O': 2.6}, or 'natural'."
        )
