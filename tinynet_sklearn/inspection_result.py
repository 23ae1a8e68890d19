"""What an inspection of structures returns: findings, sets of atoms with their bonds, forces."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from tinynet_sklearn.distances import PairDistances
from tinynet_sklearn.lengths import VectorLength

__all__ = ["Finding", "ForceStatistics", "Inspection", "Topology"]


@dataclass(frozen=True)
class Finding:
    """One remark about the data.

    Attributes
    ----------
    problem : bool
        Whether a fit would fail or suffer; otherwise it is a note.
    message : str
        What was found and what to do.
    frames : list of int
        Where; empty if it concerns all frames.
    """

    problem: bool
    message: str
    frames: list[int]


@dataclass(frozen=True)
class Topology:
    """Frames of the same atoms in the same order, and whether they share a bond graph.

    Attributes
    ----------
    formula : str
    n_atoms : int
    pbc : list of bool
    frames : list of int
    shared : bool
        Whether most frames have the bonds of the mean structure, so that one graph can stand for all.
    coordination : dict
        Environments per species, for example ``{"Ti": {"6 O": 4}}``: atoms of the mean structure or, where no
        graph is shared, of all frames together.
    different : dict of int to (int, int)
        Frames whose bonds are not those of the mean structure: how many are lost and gained.
    """

    formula: str
    n_atoms: int
    pbc: list[bool]
    frames: list[int]
    shared: bool
    coordination: dict[str, dict[str, int]]
    different: dict[int, tuple[int, int]]

    @property
    def is_bare(self) -> bool:
        """Whether there are no bonds at all."""
        return all(counts.keys() == {"none"} for counts in self.coordination.values())

    @property
    def lonely(self) -> list[str]:
        """Species with atoms that have no bonds."""
        return [symbol for symbol, counts in self.coordination.items() if "none" in counts]


@dataclass(frozen=True)
class ForceStatistics:
    """Forces that came with the frames, eV/Angstrom; None where no frame has any.

    Attributes
    ----------
    frames : int
        Number of frames that have forces.
    rms, largest : float or None
        Of all components.
    rms_by_species : dict of str to float
    net_rms, net_largest : float or None
        Of the components of the net force per frame.
    """

    frames: int
    rms: float | None = None
    largest: float | None = None
    rms_by_species: dict[str, float] | None = None
    net_rms: float | None = None
    net_largest: float | None = None


@dataclass(frozen=True)
class Inspection:
    """Everything that `inspect_structures` found.

    `bonds` are those that were used, `suggested_bonds` those of `suggest_bonds`, Angstrom; `lengths` those of
    the largest set of atoms, empty where that has no bonds or shares no graph.
    """

    n_frames: int
    species: dict[str, int]
    bonds: Any
    topologies: list[Topology]
    distances: list[PairDistances]
    suggested_bonds: dict[str, float]
    lengths: list[VectorLength]
    forces: ForceStatistics
    findings: list[Finding]

    @property
    def problems(self) -> list[Finding]:
        """Findings that are more than notes."""
        return [finding for finding in self.findings if finding.problem]

    def as_dict(self) -> dict[str, Any]:
        """Return plain types, ready for JSON."""
        bonds = self.bonds
        if isinstance(bonds, Mapping):
            bonds = {pair if isinstance(pair, str) else "-".join(pair): float(c) for pair, c in bonds.items()}
        elif not isinstance(bonds, int | float | str):
            bonds = repr(bonds)
        return asdict(replace(self, bonds=bonds))
