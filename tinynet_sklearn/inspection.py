"""What a set of structures looks like to the featurizer, and what looks wrong with it.

`inspect_structures` answers the questions that come before a fit: what is bonded to what, do all frames
share one bond graph, how long would the vectors be, are there frames that would spoil the training. It works
on frames that a fit would refuse, and says why.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from tinynet_sklearn.bond_suggestion import checked_range, suggestion
from tinynet_sklearn.distances import DistanceCounter, PairDistances, bond_codes, suggested_cutoff
from tinynet_sklearn.graph import BondGraph, BondRule, PairBonds, as_bond_rule, bond_graph, coinciding_atoms
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

#: Up to this share of frames with other bonds, these frames are strange; beyond, bonds are not kept.
MAX_STRANGE_FRAMES = 0.25

#: Featurizers for structures that share no bond graph, as messages name them.
ANY_STRUCTURE = "CycleMomentFeaturizer(topology='each') and SmoothMomentFeaturizer()"


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

    `lengths` are those of the largest set of atoms, empty where that has no bonds or shares no graph.
    `suggested_bonds` are those of `suggest_bonds`, Angstrom.
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
    distances = DistanceCounter()
    sets = [
        _topology(members, usable, rule, distances, findings, progress) for members in _same_atoms(usable)
    ]
    topologies = [each.topology for each in sets]
    pairs = distances.summary()
    suggested = _suggested_bonds(list(usable.values()))
    _check_bare(sets, suggested, bonds, findings)
    if len(sets) == 1 and topologies[0].shared:
        _check_crystal(sets[0], suggested, pairs, findings)
    elif sets:
        _check_sets(sets, suggested, findings)
    _check_like_atoms(suggested, bonds, findings)
    _check_duplicates(usable, findings)
    forces = _forces(structures, usable, findings)
    _check_energies(structures, findings)
    return Inspection(
        n_frames=len(structures),
        species=_species_counts(usable),
        topologies=topologies,
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


def _same_atoms(usable: dict[int, AtomicStructure]) -> list[list[int]]:
    """Frames with the same atoms in the same order and the same periodicity, largest set first."""
    sets: dict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for frame, structure in usable.items():
        sets[structure.numbers.tobytes(), structure.pbc.tobytes()].append(frame)
    return sorted(sets.values(), key=lambda members: -len(members))


def _species_counts(usable: dict[int, AtomicStructure]) -> dict[str, int]:
    counts = Counter(int(z) for structure in usable.values() for z in structure.numbers)
    return {chemical_symbols[z]: counts[z] for z in sorted(counts)}


@dataclass(frozen=True, eq=False)
class _Set:
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


def _topology(
    members: list[int],
    usable: dict[int, AtomicStructure],
    rule: BondRule,
    distances: DistanceCounter,
    findings: list[Finding],
    progress: Callable[[int], None] | None,
) -> _Set:
    """Compare the frames of one set with their mean structure, and collect their distances."""
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
    return _Set(topology, mean, reference, strangers, changed, unbonded)


def _by_number(environment: tuple[str, int]) -> tuple[bool, list[int], str]:
    """Sort environments such as "6 O" by the number of bonds, those without any last."""
    label, _ = environment
    return label == "none", [int(number) for number in re.findall(r"\d+", label)], label


def _suggested_bonds(structures: list[AtomicStructure]) -> dict[str, float]:
    """Cutoffs as from `suggest_bonds`, of the structures in which no atoms coincide."""
    structures = [structure for structure in structures if not coinciding_atoms(structure)]
    if not structures:
        return {}
    distributions = pair_distributions(structures, checked_range(None, structures))
    return suggestion(structures, distributions).cutoffs


def _check_bare(
    sets: Sequence[_Set], suggested: Mapping[str, float], bonds: Any, findings: list[Finding]
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


def _bonded_atoms(each: _Set, cutoffs: Mapping[str, float]) -> NDArray[np.bool_]:
    """Which atoms would have bonds with these cutoffs, shape (n_atoms,)."""
    if not cutoffs:
        return np.zeros(each.topology.n_atoms, dtype=np.bool_)
    bonded: NDArray[np.bool_] = bond_graph(each.structure, PairBonds(cutoffs)).coordination > 0
    return bonded


def _pass(suggested: Mapping[str, float]) -> str:
    """Write the suggested cutoffs for Python and for the command line."""
    named = ",".join(f"{pair}={cutoff:g}" for pair, cutoff in suggested.items())
    return f"pass the suggested ones, bonds={dict(suggested)}, or --bonds {named}"


def _formulas(sets: Sequence[_Set]) -> str:
    formulas = list(dict.fromkeys(each.topology.formula for each in sets))
    return ", ".join(formulas[:4]) + (", ..." if len(formulas) > 4 else "")


def _check_sets(sets: Sequence[_Set], suggested: Mapping[str, float], findings: list[Finding]) -> None:
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
    crystal: _Set, suggested: Mapping[str, float], pairs: Sequence[PairDistances], findings: list[Finding]
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
        better = {p.pair: suggested_cutoff(p) for p in pairs}
        named = ",".join(f"{pair}={cutoff}" for pair, cutoff in better.items() if cutoff is not None)
        if named:
            message += f" Cutoffs between the shells: {named}."
        findings.append(Finding(False, message, list(topology.different)))


def _check_like_atoms(suggested: Mapping[str, float], bonds: Any, findings: list[Finding]) -> None:
    """Bonds between like atoms, which a single number leaves out, where no other finding names them."""
    like = [pair for pair in suggested if len(set(pair.split("-"))) == 1]
    remedy = _pass(suggested)
    if like and isinstance(bonds, int | float) and not any(remedy in found.message for found in findings):
        message = f"bonds={bonds!r} bonds different species only, no {', '.join(like)}; {remedy}."
        findings.append(Finding(False, message, []))


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


def _check_energies(structures: Sequence[Any], findings: list[Finding]) -> None:
    """Energies and stresses that no fit takes; most frames have finite ones or none."""
    for name, words in (("energy", "Energies"), ("stress", "Stresses")):
        broken = []
        for frame, atoms in enumerate(structures):
            value = getattr(getattr(atoms, "calc", None), "results", {}).get(name)
            if value is not None and not np.isfinite(np.asarray(value, dtype=np.float64)).all():
                broken.append(frame)
        if broken:
            findings.append(Finding(True, f"{words} with NaN or infinite values.", broken))


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
