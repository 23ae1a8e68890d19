"""Structures of one file or run with their results, one after the other, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tinynet_sklearn.calculations import VOIGT, Calculation
from tinynet_sklearn.dataset_locations import Item
from tinynet_sklearn.dataset_result import Source
from tinynet_sklearn.document_files import iterate_document, iterate_table, loaded_document
from tinynet_sklearn.io import iterate_structures, stored_forces
from tinynet_sklearn.ldos_io import geometries_of
from tinynet_sklearn.structures import structure_faults

__all__ = ["frame_fault", "frames_of", "source_of"]


def frames_of(item: Item, keys: Mapping[str, str]) -> Iterator[tuple[Source, Atoms | str]]:
    """Structures of a file or run.

    Parameters
    ----------
    item : Item
        No archive.
    keys : mapping
        Names of energy, forces and stress in files of ASE, where they are not those of ASE.

    Yields
    ------
    Source
    ase.Atoms or str
        With a calculator that holds its results; or what is wrong with it, as the end of a sentence.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        If the file, or the rest of it, cannot be read. `NoStructures` is a ValueError.
    """
    if item.run is not None:
        for calculation in geometries_of(item.run, finite=False):
            yield source_of(calculation.source), _with_results(calculation)
        return
    frames: Iterator[tuple[int, Atoms | str]]
    if item.kind == "table":
        frames = iterate_table(item.path)
    else:
        document = loaded_document(item.path) if item.kind == "document" else {}
        # a database of ASE has these two
        if item.kind == "document" and not (
            isinstance(document, dict) and {"ids", "nextid"} <= set(document)
        ):
            frames = iterate_document(item.path, document)
        else:
            frames = enumerate(
                f"{found}. Correct the file." if isinstance(found, str) else found
                for found in iterate_structures(item.path)
            )
    for frame, found in frames:
        source = Source(str(item.path), frame)
        yield source, f": {found}" if isinstance(found, str) else _named_results(found, keys)


def source_of(text: str) -> Source:
    """File and frame of a `Calculation`, from its `source`."""
    found = re.fullmatch(r"(.*), (?:frame|step|structure) (\d+)", text, re.DOTALL)
    return Source(text, 0) if found is None else Source(found[1], int(found[2]))


def _with_results(calculation: Calculation) -> Atoms:
    """Atoms of a calculation with its results, as ASE attaches them."""
    atoms = calculation.atoms
    # the energy is the one that forces are derivatives of
    known = {
        "energy": None if np.isnan(calculation.energy) else calculation.energy,
        "free_energy": None if np.isnan(calculation.energy) else calculation.energy,
        "forces": calculation.forces,
        "stress": calculation.stress,
    }
    results = {name: value for name, value in known.items() if value is not None}
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _named_results(atoms: Atoms, keys: Mapping[str, str]) -> Atoms:
    """Atoms with results that their file keeps under other names, in place of those under ASE's."""
    results = dict(getattr(atoms.calc, "results", {}))
    if "forces" not in results and (forces := stored_forces(atoms)) is not None:
        results["forces"] = forces
    elif not keys:
        return atoms
    for name, key in keys.items():
        results.pop(name, None)
        value = atoms.arrays.get(key, atoms.info.get(key))
        if value is None:
            continue
        try:
            results[name] = np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            results[name] = np.array(np.nan)  # a word: reported as a number that is none
        if name == "stress" and results[name].size == 9:
            results[name] = results[name].reshape(3, 3)[VOIGT]
    if "energy" in keys:
        results.pop("free_energy", None)  # which would come first
        if np.size(results.get("energy", 0.0)) == 1 and "energy" in results:
            results["energy"] = float(results["energy"])
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def frame_fault(atoms: Atoms, target: str | None) -> str | None:
    """Why a frame cannot be used, as the end of a sentence; None if it can.

    Parameters
    ----------
    atoms : ase.Atoms
        With its results.
    target : {"forces", "potential"} or None
        What is to be learned.
    """
    faults = structure_faults(atoms, "")
    if faults:
        return faults[0]
    if target is None:
        return None
    results = getattr(atoms.calc, "results", {})
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {"forces": ((len(atoms), 3),)}
    if target == "potential":
        shapes |= {"energy": ((), (1,)), "free_energy": ((), (1,)), "stress": ((6,), (3, 3))}
    known = {name: np.asarray(results[name]) for name in shapes if results.get(name) is not None}
    for name, value in known.items():
        if value.shape not in shapes[name]:
            return f": {name} must have the shape {shapes[name][0]}; got {value.shape}."
        if name == "forces" and len(wrong := np.flatnonzero(~np.isfinite(value).all(axis=1))):
            return f", atom {wrong[0]}: force is {value[wrong[0]]}."
        if not np.isfinite(value).all():
            return f": {name} is {value}."
    if "forces" in known or (target == "potential" and known and not _other_forces(atoms)):
        return None
    missing = "forces" if target == "forces" or known else "energy, forces or stress"
    other = _other_forces(atoms)
    hint = f", but an array {other!r}: pass keys={{'forces': {other!r}}}" if other else ""
    return f": there are no {missing}{hint}."


def _other_forces(atoms: Atoms) -> str | None:
    """Name of an array that may hold forces, under a name that is not ASE's."""
    shape = (len(atoms), 3)
    names = (name for name, values in atoms.arrays.items() if values.shape == shape)
    return next((name for name in names if "forc" in name.lower()), None)
