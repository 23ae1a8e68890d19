"""Frames of the same atoms: their mean structure, and which of them have its bonds."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula

from tinynet_sklearn.distances import DistanceCounter, bond_codes
from tinynet_sklearn.graph import BondGraph, BondRule, bond_graph
from tinynet_sklearn.inspection_result import Finding, Topology
from tinynet_sklearn.reference import mean_structure, overstretched_bond, unwrapped
from tinynet_sklearn.structures import AtomicStructure

__all__ = ["MIN_SHARED_BONDS", "FrameSet", "compared", "same_atoms"]

#: A frame that has less than this share of the bonds of the mean structure is another structure.
MIN_SHARED_BONDS = 0.75

#: Up to this share of frames with other bonds, these frames are strange; beyond, bonds are not kept.
MAX_STRANGE_FRAMES = 0.25


def same_atoms(usable: dict[int, AtomicStructure]) -> list[list[int]]:
    """Frames with the same atoms in the same order and the same periodicity, largest set first."""
    sets: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for frame, structure in usable.items():
        sets[structure.numbers.tobytes(), structure.pbc.tobytes()].append(frame)
    return sorted(sets.values(), key=lambda members: -len(members))


@dataclass(frozen=True, eq=False)
class FrameSet:
    """A set of frames with what is needed to judge it.

    `structure` is the mean or, where no graph is shared, the first frame; `graph` has the bonds of the mean.
    `strangers` are frames in which one of these bonds is too long: its atoms, length, and length in the mean;
    `changed` others that lack many of them; `unbonded` those in which atoms have no bonds at all.
    """

    topology: Topology
    structure: AtomicStructure
    graph: BondGraph
    strangers: dict[int, tuple[int, int, float, float]]
    changed: list[int]
    unbonded: list[int]

    @property
    def has_vectors(self) -> bool:
        """Whether there is a graph of which the lengths of vectors can be told."""
        return self.topology.shared and self.graph.n_bonds > 0

    @property
    def example(self) -> str:
        """A bond that is too long, for a sentence; nothing where there is none."""
        if not self.strangers:
            return ""
        frame, (first, last, length, usual) = next(iter(self.strangers.items()))
        return (
            f": for example, atoms {first} and {last} are {length:.2f} Angstrom apart in frame {frame} and "
            f"{usual:.2f} in the mean structure"
        )


def compared(
    members: list[int],
    usable: dict[int, AtomicStructure],
    rule: BondRule,
    distances: DistanceCounter,
    findings: list[Finding],
    progress: Callable[[int], None] | None,
) -> FrameSet:
    """Compare the frames of one set with their mean structure, and collect their distances.

    Parameters
    ----------
    members : list of int
        Numbers of the frames of the set, as from `same_atoms`.
    usable : dict of int to AtomicStructure
        Frames by number.
    rule : BondRule
    distances : DistanceCounter
        To add the distances of each frame to.
    findings : list of Finding
        To add frames to in which atoms overlap.
    progress : callable or None
        Called with 1 after each frame.
    """
    mean = mean_structure([usable[frame] for frame in members])
    reference = bond_graph(mean, rule)
    wanted = bond_codes(reference)
    relaxed = reference.bond_lengths(mean.positions, mean.cell)
    coordination: dict[str, Counter[str]] = defaultdict(Counter)
    different, strangers, unbonded = {}, {}, []
    for frame in members:
        # In the periodic images of the reference, so that the same bond has the same name.
        structure = replace(usable[frame], positions=unwrapped(usable[frame], mean))
        graph = bond_graph(structure, rule)
        for symbol, counts in graph.coordination_by_species().items():
            coordination[symbol].update(counts)
        found = bond_codes(graph)
        if not np.array_equal(found, wanted):
            kept = int(np.isin(found, wanted).sum())
            different[frame] = (len(wanted) - kept, len(found) - kept)
        lengths = reference.bond_lengths(structure.positions, structure.cell)
        overlong = overstretched_bond(lengths, relaxed, reference)
        if overlong is not None:
            strangers[frame] = overlong
        if (graph.coordination == 0).any():
            unbonded.append(frame)
        overlap = distances.add(structure, graph)
        if overlap is not None:
            findings.append(Finding(True, overlap, [frame]))
        if progress is not None:
            progress(1)
    changed = [
        frame
        for frame, (lost, _) in different.items()
        if lost > (1.0 - MIN_SHARED_BONDS) * len(wanted) and frame not in strangers
    ]
    # Where all atoms of the frames have bonds and none in the mean, the frames have nothing in common.
    blurred = not len(wanted) and not unbonded
    shared = not blurred and len(strangers) + len(changed) <= MAX_STRANGE_FRAMES * len(members)
    if shared:
        coordination = reference.coordination_by_species()
    else:  # the mean is of no use
        mean = usable[members[0]]
    numbers = mean.numbers
    topology = Topology(
        formula=Formula.from_list([chemical_symbols[z] for z in numbers]).format("metal"),
        n_atoms=len(numbers),
        pbc=[bool(p) for p in mean.pbc],
        frames=members,
        shared=shared,
        coordination={
            symbol: dict(sorted(counts.items(), key=_by_number)) for symbol, counts in coordination.items()
        },
        different=different,
    )
    return FrameSet(topology, mean, reference, strangers, changed, unbonded)


def _by_number(environment: tuple[str, int]) -> tuple[bool, list[int], str]:
    """Sort environments such as "6 O" by the number of bonds, those without any last."""
    label, _ = environment
    return label == "none", [int(number) for number in re.findall(r"\d+", label)], label
