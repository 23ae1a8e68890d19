"""What looks wrong with the forces, energies and stresses that came with structures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from tinynet_sklearn.inspection_result import Finding, ForceStatistics
from tinynet_sklearn.io import stored_forces
from tinynet_sklearn.structures import AtomicStructure

__all__ = ["check_energies", "force_statistics"]

#: A force component beyond this many times the RMS of all, or beyond this many eV/Angstrom, is suspicious.
LARGE_FORCE_FACTOR, LARGE_FORCE = 12.0, 50.0

#: A net force per atom beyond this fraction of the RMS force component is more than noise.
LARGE_NET_FORCE = 0.1


def force_statistics(
    structures: Sequence[Any], usable: dict[int, AtomicStructure], findings: list[Finding]
) -> ForceStatistics:
    """Statistics of the stored forces of the usable frames, with findings.

    Parameters
    ----------
    structures : sequence of ase.Atoms or pymatgen Structure
        All frames.
    usable : dict of int to AtomicStructure
        Those that count, by number.
    findings : list of Finding
        To add to.
    """
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


def check_energies(structures: Sequence[Any], findings: list[Finding]) -> None:
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
