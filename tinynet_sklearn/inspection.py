"""What a set of structures looks like to the featurizer, and what looks wrong with it.

`inspect_structures` answers the questions that come before a fit: what is bonded to what, do all frames
share one bond graph, how long would the vectors be, are there frames that would spoil the training. It works
on frames that a fit would refuse, and says why.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from tinynet_sklearn.bond_findings import check_bonding
from tinynet_sklearn.bond_suggestion import checked_range, suggestion
from tinynet_sklearn.copies import first_of_same, structure_row
from tinynet_sklearn.distances import DistanceCounter
from tinynet_sklearn.frame_sets import compared, same_atoms
from tinynet_sklearn.graph import as_bond_rule, coinciding_atoms
from tinynet_sklearn.inspection_result import Finding, ForceStatistics, Inspection, Topology
from tinynet_sklearn.lengths import vector_lengths
from tinynet_sklearn.pair_distributions import pair_distributions
from tinynet_sklearn.structures import AtomicStructure, as_structures
from tinynet_sklearn.target_findings import check_energies, force_statistics

__all__ = ["Finding", "ForceStatistics", "Inspection", "Topology", "inspect_structures"]

#: Between different species, Angstrom: the default of the featurizer.
USUAL_CUTOFF = 3.1


def inspect_structures(
    structures: Sequence[Any],
    bonds: Any = USUAL_CUTOFF,
    *,
    n_values: Sequence[int] = (0, 2, 4, 6, 8),
    N_values: Sequence[int] = (0, 1, 2, 3, 4),
    progress: Callable[[int], None] | None = None,
) -> Inspection:
    """Describe structures as the featurizer sees them, and find what looks wrong.

    Parameters
    ----------
    structures : list of ase.Atoms or pymatgen Structure
        Forces, where they came along, are checked, too.
    bonds : default=3.1
        As in `CycleMomentFeaturizer`; None takes those of `suggest_bonds`, or 3.1 where there are none.
    n_values, N_values : sequences of int
        Rows and columns of the table of vector lengths.
    progress : callable or None, default=None
        Called with 1 after each frame.

    Returns
    -------
    Inspection

    Raises
    ------
    TypeError, ValueError
        If ``bonds`` makes no sense, or ``structures`` is not a list of structures.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from tinynet_sklearn.inspection import inspect_structures
    >>> found = inspect_structures([bulk("NaCl", "rocksalt", a=5.64, cubic=True)], bonds=3.0)
    >>> found.topologies[0].coordination
    {'Cl': {'6 Na': 4}, 'Na': {'6 Cl': 4}}
    >>> [finding.message for finding in found.findings]
    ['No frame has forces: enough to predict, not to train.']
    """
    if not len(structures):
        raise ValueError("structures must hold at least one structure, got an empty list.")
    if bonds is not None:
        as_bond_rule(bonds)  # refused before any work
    findings: list[Finding] = []
    usable = _usable(structures, findings)
    suggested = _suggested_bonds(list(usable.values()))
    if bonds is None:
        bonds = suggested or USUAL_CUTOFF
    rule = as_bond_rule(bonds)
    distances = DistanceCounter()
    sets = [compared(members, usable, rule, distances, findings, progress) for members in same_atoms(usable)]
    pairs = distances.summary()
    check_bonding(sets, suggested, pairs, bonds, findings)
    _check_duplicates(usable, findings)
    forces = force_statistics(structures, usable, findings)
    check_energies(structures, findings)
    return Inspection(
        n_frames=len(structures),
        species=_species_counts(usable),
        bonds=bonds,
        topologies=[each.topology for each in sets],
        distances=pairs,
        suggested_bonds=suggested,
        # The first set is the largest.
        lengths=vector_lengths(sets[0].graph, n_values, N_values) if sets and sets[0].has_vectors else [],
        forces=forces,
        findings=sorted(findings, key=lambda finding: not finding.problem),
    )


def _usable(structures: Sequence[Any], findings: list[Finding]) -> dict[int, AtomicStructure]:
    """Converted frames by number; a finding for each that a fit would refuse."""
    usable = {}
    for frame, atoms in enumerate(structures):
        try:
            (usable[frame],) = as_structures([atoms])
        except ValueError as error:
            # One line per problem after the headline; the list passed has this one frame.
            for line in str(error).splitlines()[1:]:
                message = line.strip().removeprefix("structure 0").lstrip(":,").strip()
                findings.append(Finding(True, message[0].upper() + message[1:], [frame]))
    return usable


def _species_counts(usable: dict[int, AtomicStructure]) -> dict[str, int]:
    counts = Counter(int(z) for structure in usable.values() for z in structure.numbers)
    return {chemical_symbols[z]: counts[z] for z in sorted(counts)}


def _suggested_bonds(structures: list[AtomicStructure]) -> dict[str, float]:
    """Cutoffs as from `suggest_bonds`, of the structures in which no atoms coincide."""
    structures = [structure for structure in structures if not coinciding_atoms(structure)]
    if not structures:
        return {}
    distributions = pair_distributions(structures, checked_range(None, structures))
    return suggestion(structures, distributions).cutoffs


def _check_duplicates(usable: dict[int, AtomicStructure], findings: list[Finding]) -> None:
    frames = list(usable)
    kinds = [(one.numbers.tobytes(), np.asarray(one.pbc).tobytes()) for one in usable.values()]
    first = first_of_same(kinds, [structure_row(one.positions, one.cell) for one in usable.values()])
    copies = {frames[i]: frames[k] for i, k in enumerate(first) if k < i}
    if copies:
        pairs = ", ".join(f"{copy} = {first}" for copy, first in list(copies.items())[:3])
        message = f"Copies of earlier frames ({pairs}): in both training and test they flatter the error."
        findings.append(Finding(True, message, list(copies)))
