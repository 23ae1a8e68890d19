"""What a set of structures looks like to the featurizer, and what looks wrong with it.

`inspect_structures` answers the questions that come before a fit: what is bonded to what, do all frames
share one bond graph, how long would the vectors be, are there frames that would spoil the training. It works
on frames that a fit would refuse, and says why.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from tinynet_sklearn.bond_suggestion import checked_range, suggestion
from tinynet_sklearn.distances import (
    HISTOGRAM_RANGE,
    DistanceCounter,
    PairDistances,
    bond_codes,
    first_gap,
    suggested_cutoff,
)
from tinynet_sklearn.graph import BondGraph, BondRule, as_bond_rule, bond_graph
from tinynet_sklearn.io import stored_forces
from tinynet_sklearn.lengths import VectorLength, vector_lengths
from tinynet_sklearn.pair_distributions import pair_distributions
from tinynet_sklearn.reference import mean_structure, overstretched_bond, unwrapped
from tinynet_sklearn.structures import AtomicStructure, as_structures

#: A force component beyond this many times the RMS of all, or beyond this many eV/Angstrom, is suspicious.
LARGE_FORCE_FACTOR, LARGE_FORCE = 12.0, 50.0

#: A net force per atom beyond this fraction of the RMS force component is more than noise.
LARGE_NET_FORCE = 0.1

#: A frame that has less than this share of the bonds of the mean structure is another structure.
MIN_SHARED_BONDS = 0.75


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
    """Frames of the same atoms in the same order, and whether they share one bond graph.

    Attributes
    ----------
    formula : str
    n_atoms : int
    pbc : list of bool
    frames : list of int
    coordination : dict
        Environments per species in the mean structure, for example ``{"Ti": {"6 O": 4}}``.
    different : dict of int to (int, int)
        Frames whose bonds are not those of the mean structure: how many are lost and gained.
    """

    formula: str
    n_atoms: int
    pbc: list[bool]
    frames: list[int]
    coordination: dict[str, dict[str, int]]
    different: dict[int, tuple[int, int]]


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

    `lengths` is empty where there are no bonds. `suggested_bonds` are those of `suggest_bonds`, Angstrom.
    """

    n_frames: int
    species: dict[str, int]
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
        return asdict(self)


def inspect_structures(
    structures: Sequence[Any],
    bonds: Any = 3.1,
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
        As in `CycleMomentFeaturizer`.
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
    rule = as_bond_rule(bonds)
    findings: list[Finding] = []
    usable = _usable(structures, findings)
    topologies = []
    distances = DistanceCounter()
    graph = None
    for members in _same_atoms(usable):
        topology, reference = _topology(members, usable, rule, distances, findings, progress)
        topologies.append(topology)
        graph = graph or reference  # the first is the largest
    pairs = distances.summary()
    _check_topologies(topologies, pairs, bonds, findings)
    _check_duplicates(usable, findings)
    forces = _forces(structures, usable, findings)
    return Inspection(
        n_frames=len(structures),
        species=_species_counts(usable),
        topologies=topologies,
        distances=pairs,
        suggested_bonds=_suggested_bonds(list(usable.values())),
        lengths=[] if graph is None or not graph.n_bonds else vector_lengths(graph, n_values, N_values),
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


def _same_atoms(usable: dict[int, AtomicStructure]) -> list[list[int]]:
    """Frames with the same atoms in the same order and the same periodicity, largest set first."""
    sets: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for frame, structure in usable.items():
        sets[structure.numbers.tobytes(), structure.pbc.tobytes()].append(frame)
    return sorted(sets.values(), key=lambda members: -len(members))


def _species_counts(usable: dict[int, AtomicStructure]) -> dict[str, int]:
    counts = Counter(int(z) for structure in usable.values() for z in structure.numbers)
    return {chemical_symbols[z]: counts[z] for z in sorted(counts)}


def _topology(
    members: list[int],
    usable: dict[int, AtomicStructure],
    rule: BondRule,
    distances: DistanceCounter,
    findings: list[Finding],
    progress: Callable[[int], None] | None,
) -> tuple[Topology, BondGraph]:
    """Compare the frames of one set with their mean structure, and collect their distances."""
    mean = mean_structure([usable[frame] for frame in members])
    reference = bond_graph(mean, rule)
    wanted = bond_codes(reference)
    relaxed = reference.bond_lengths(mean.positions, mean.cell)
    different, strangers, isolated = {}, {}, []
    for frame in members:
        # In the periodic images of the reference, so that the same bond has the same name.
        structure = replace(usable[frame], positions=unwrapped(usable[frame], mean))
        graph = bond_graph(structure, rule)
        found = bond_codes(graph)
        if not np.array_equal(found, wanted):
            kept = int(np.isin(found, wanted).sum())
            different[frame] = (len(wanted) - kept, len(found) - kept)
        lengths = reference.bond_lengths(structure.positions, structure.cell)
        overlong = overstretched_bond(lengths, relaxed, reference)
        if overlong is not None:
            strangers[frame] = overlong
        if (graph.coordination == 0).any():
            isolated.append(frame)
        overlap = distances.add(structure, graph)
        if overlap is not None:
            findings.append(Finding(True, overlap, [frame]))
        if progress is not None:
            progress(1)
    if strangers:
        findings.append(_not_one_crystal(strangers))
    changed = [
        frame
        for frame, (lost, _) in different.items()
        if lost > (1.0 - MIN_SHARED_BONDS) * len(wanted) and frame not in strangers
    ]
    if changed:
        message = (
            f"Less than {MIN_SHARED_BONDS:.0%} of the bonds of the mean structure: another structure, atoms "
            "in another order, or a cutoff that cuts through a shell."
        )
        findings.append(Finding(True, message, changed))
    if isolated and reference.coordination.all():
        findings.append(Finding(False, "Atoms that have lost all their bonds.", isolated))
    numbers = mean.numbers
    topology = Topology(
        formula=Formula.from_list([chemical_symbols[z] for z in numbers]).format("metal"),
        n_atoms=len(numbers),
        pbc=[bool(p) for p in mean.pbc],
        frames=members,
        coordination={s: dict(sorted(c.items())) for s, c in reference.coordination_by_species().items()},
        different=different,
    )
    return topology, reference


def _not_one_crystal(strangers: dict[int, tuple[int, int, float, float]]) -> Finding:
    frame, (first, last, length, usual) = next(iter(strangers.items()))
    message = (
        f"Not one crystal: for example, atoms {first} and {last} are {length:.2f} Angstrom apart in frame "
        f"{frame} and {usual:.2f} in the mean structure. Split the file, or bring the atoms into one order."
    )
    return Finding(True, message, list(strangers))


def _suggested_bonds(structures: list[AtomicStructure]) -> dict[str, float]:
    if not structures:
        return {}
    distributions = pair_distributions(structures, checked_range(None, structures))
    return suggestion(structures, distributions).cutoffs


def _check_topologies(
    topologies: list[Topology], pairs: list[PairDistances], bonds: Any, findings: list[Finding]
) -> None:
    if len(topologies) > 1:
        formulas = Counter(topology.formula for topology in topologies)
        listed = ", ".join(list(formulas)[:4]) + (", ..." if len(formulas) > 4 else "")
        message = (
            f"Frames of {len(topologies)} different sets of atoms ({listed}); one featurizer serves one set, "
            "atoms in one order. Split the file."
        )
        if len(formulas) < len(topologies):
            message += " Some differ only in the order of the atoms, or in pbc."
        findings.append(Finding(True, message, []))
    bare = {
        t.formula: list(t.coordination)
        for t in topologies
        if all(c.keys() == {"none"} for c in t.coordination.values())
    }
    if bare:
        findings.append(_no_bonds(bare, pairs, bonds))
    for topology in topologies:
        if topology.formula in bare:
            continue
        if any("none" in counts for counts in topology.coordination.values()):
            lonely = [symbol for symbol, counts in topology.coordination.items() if "none" in counts]
            message = (
                f"The mean structure of {topology.formula} has atoms without bonds ({', '.join(lonely)}); "
                "raise the cutoff."
            )
            findings.append(Finding(True, message, []))
        elif topology.different:
            lost = sum(lost for lost, _ in topology.different.values())
            gained = sum(gained for _, gained in topology.different.values())
            message = (
                f"{len(topology.different)} of {len(topology.frames)} frames of {topology.formula} do not "
                f"have the bonds of the mean structure ({lost} lost, {gained} gained in all). Those of the "
                "mean serve all frames, which is right where bonds only cross the cutoff as they vibrate."
            )
            better = {p.pair: suggested_cutoff(p) for p in pairs}
            named = ",".join(f"{pair}={cutoff}" for pair, cutoff in better.items() if cutoff is not None)
            if named:
                message += f" Cutoffs between the shells: {named}."
            findings.append(Finding(False, message, list(topology.different)))


def _no_bonds(bare: dict[str, list[str]], pairs: list[PairDistances], bonds: Any) -> Finding:
    """Sets of atoms without any bond, species by formula, and what to do."""
    message = f"No bonds in {', '.join(bare)} with bonds={bonds!r}"
    elements = list(dict.fromkeys(species[0] for species in bare.values() if len(species) == 1))
    if not (isinstance(bonds, int | float) and elements):
        return Finding(True, f"{message}; raise the cutoff.", [])
    names = [f"{symbol}-{symbol}" for symbol in elements]
    found = {pair.pair: first_gap(pair) for pair in pairs if pair.pair in names}
    between = ",".join(f"{name}={cutoff}" for name, cutoff in found.items() if cutoff is not None)
    if between:
        remedy = f"name the pair, as in {between} (between the first shells)."
    elif found:
        remedy = f"name the pair {names[0]} and a cutoff; no gap between its shells suggests one."
    else:
        remedy = (
            f"name the pair {names[0]} and a cutoff; none of its atoms are within {HISTOGRAM_RANGE} Angstrom."
        )
    if len(elements) < len(bare):
        remedy += " For the others, raise the cutoff."
    return Finding(True, f"{message}: a single number bonds different species only; {remedy}", [])


def _check_duplicates(usable: dict[int, AtomicStructure], findings: list[Finding]) -> None:
    seen: dict[tuple[bytes, ...], int] = {}
    copies: dict[int, int] = {}
    for frame, structure in usable.items():
        arrays = (structure.numbers, structure.positions.round(6), structure.cell.round(6))
        first = seen.setdefault(tuple((a + 0).tobytes() for a in arrays), frame)
        if first != frame:
            copies[frame] = first
    if copies:
        pairs = ", ".join(f"{copy} = {first}" for copy, first in list(copies.items())[:3])
        message = f"Copies of earlier frames ({pairs}): in both training and test they flatter the error."
        findings.append(Finding(True, message, list(copies)))


def _forces(
    structures: Sequence[Any], usable: dict[int, AtomicStructure], findings: list[Finding]
) -> ForceStatistics:
    """Statistics of the stored forces of the usable frames, with findings."""
    stored = {frame: stored_forces(structures[frame]) for frame in usable}
    forces = {frame: f for frame, f in stored.items() if f is not None}
    finite = {frame: f for frame, f in forces.items() if np.isfinite(f).all()}
    if not forces:
        findings.append(_no_forces(structures))
    elif len(forces) < len(stored):
        missing = [frame for frame in stored if frame not in forces]
        findings.append(Finding(True, "No forces, while other frames have them.", missing))
    constrained = {frame: structures[frame].constraints for frame in forces if structures[frame].constraints}
    if constrained:
        kinds = sorted({type(c).__name__ for constraints in constrained.values() for c in constraints})
        message = (
            f"Constraints of ASE ({', '.join(kinds)}): atoms.get_forces() gives zeros for fixed atoms, and a "
            "fit would learn these. Use y = [a.get_forces(apply_constraint=False) for a in frames]."
        )
        findings.append(Finding(True, message, list(constrained)))
    if len(finite) < len(forces):
        broken = [frame for frame in forces if frame not in finite]
        findings.append(Finding(True, "Forces with NaN or infinite values.", broken))
    if not finite:
        return ForceStatistics(len(forces))
    rows = np.concatenate(list(finite.values()))
    numbers = np.concatenate([usable[frame].numbers for frame in finite])
    net = np.array([f.sum(axis=0) for f in finite.values()])
    rms = _rms(rows)
    _check_sizes(finite, rms, findings)
    return ForceStatistics(
        frames=len(forces),
        rms=rms,
        largest=float(np.abs(rows).max()),
        rms_by_species={chemical_symbols[z]: _rms(rows[numbers == z]) for z in np.unique(numbers)},
        net_rms=_rms(net),
        net_largest=float(np.abs(net).max()),
    )


def _no_forces(structures: Sequence[Any]) -> Finding:
    message = "No frame has forces: enough to predict, not to train."
    arrays = {name for atoms in structures for name in getattr(atoms, "arrays", {})}
    others = sorted(name for name in arrays if "force" in name.lower())
    if others:
        message += f" There are arrays named {', '.join(others)}: y = [a.arrays[name] for a in frames]."
    return Finding(False, message, [])


def _check_sizes(forces: dict[int, NDArray[np.float64]], rms: float, findings: list[Finding]) -> None:
    """Forces that vanish, that are huge, or that do not balance."""
    if not rms:
        findings.append(Finding(True, "All forces are zero.", []))
        return
    limit = min(LARGE_FORCE_FACTOR * rms, LARGE_FORCE)
    large = [frame for frame, f in forces.items() if np.abs(f).max() > limit]
    if large:
        message = (
            f"Forces beyond {limit:.3g} eV/Angstrom (the RMS of all is {rms:.3g}): wrong units, atoms that "
            "collide, or an unconverged calculation."
        )
        findings.append(Finding(True, message, large))
    unbalanced = [
        frame for frame, f in forces.items() if np.abs(f.sum(axis=0)).max() > LARGE_NET_FORCE * rms * len(f)
    ]
    if unbalanced:
        message = (
            f"Net forces of more than {LARGE_NET_FORCE:.0%} of the RMS force per atom: an unconverged "
            "calculation, fixed atoms, or an external field."
        )
        findings.append(Finding(True, message, unbalanced))


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))
