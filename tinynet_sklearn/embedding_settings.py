"""Which parameters of `CycleMomentFeaturizer` go together."""

from __future__ import annotations

from typing import Any

from tinynet_sklearn.graph import CutoffRule, as_bond_rule
from tinynet_sklearn.structures import is_structure

__all__ = ["check_embedding_settings"]


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
            f"topology='each' needs order='value', got order={order!r}: structures with bonds of "
            "their own share no "
            "directions and no numbering. Use order='auto'."
        )
    if frame == "site" and each:
        raise ValueError(
            "frame='site' needs topology='reference', got topology='each': without a common "
            "structure there are no "
            "equivalent sites. Use frame='auto'."
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
            "frame='neighbors' is for coordinates='vectors', got coordinates='distances', which "
            "leaves directions "
            "out. Use frame='auto'."
        )
    if featurizer.coordinates == "distances" and featurizer.species_columns:
        raise ValueError(
            "species_columns=True puts atomic numbers before the vectors of neighbours, which "
            "coordinates='distances' leaves out. Set species_columns=False."
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


def _check_fade(featurizer: Any, each: bool) -> None:
    if not each:
        raise ValueError(
            f"fade={featurizer.fade!r} needs topology='each', got topology='reference', where bonds "
            "neither form nor "
            "break. Set fade=0."
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
