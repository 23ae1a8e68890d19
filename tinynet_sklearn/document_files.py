"""Structures in documents of JSON, in the dictionaries of pymatgen, and in tables with one row per atom.

*Documents* are a structure or molecule as ``as_dict`` writes it, an entry, or a list or dictionary of either.
An entry has a "structure" and, beside it or in "outputs", "energy" (eV) and "forces" (eV/Angstrom), as the
files of mlearn do. Only these are read, with texts and numbers beside them, which become ``atoms.info``. The
dictionaries are not decoded by pymatgen, which would import the modules and classes that a file names.
Stresses are not read, for the format says neither their unit nor their sign.

*Tables* (.csv, .parquet) have these columns; others become nothing:

=====================  =====================================================================================
column                 meaning
=====================  =====================================================================================
structure, frame       either or both: rows in which they are equal are the atoms of one structure
species                chemical symbol, or atomic number
x, y, z                positions, Angstrom
fx, fy, fz             forces, eV/Angstrom; optional
energy                 of the whole structure, eV, the same in all its rows; optional
ax, ay, az, bx to cz   lattice vectors, Angstrom, the same in all rows of a structure; optional. With them a
                       structure is periodic, without them it is a molecule
=====================  =====================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from tinynet_sklearn.calculations import refusal, require_file, unparsed
from tinynet_sklearn.structures import atomic_number
from tinynet_sklearn.xyz_files import open_text

__all__ = ["DOCUMENTS", "TABLES", "NoStructures", "iterate_document", "iterate_table", "loaded_document"]

#: Endings of documents and tables.
DOCUMENTS = (".json", ".json.gz", ".json.bz2", ".json.xz")
TABLES = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".parquet")

POSITIONS, FORCES = ["x", "y", "z"], ["fx", "fy", "fz"]
CELL = [vector + component for vector in "abc" for component in "xyz"]


class NoStructures(ValueError):
    """A document or table is of something else."""


def loaded_document(path: Path) -> Any:
    """Parsed JSON.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is damaged.
    """
    require_file(path)
    try:
        with open_text(path) as file:
            return json.load(file)
    except (EOFError, OSError, RecursionError, ValueError) as error:
        raise unparsed(path, error) from error


def iterate_document(path: Path, document: Any) -> Iterator[tuple[int, Atoms | str]]:
    """Structures of a document.

    Parameters
    ----------
    path : Path
        For messages.
    document : object
        From `loaded_document`.

    Yields
    ------
    int
        Which entry it is.
    ase.Atoms or str
        With its results; or what is wrong with it.

    Raises
    ------
    NoStructures
        If there are none.
    """
    entries = _entries(document)
    if not entries:
        raise NoStructures(
            f"cannot read {path}: it is no list of structures of pymatgen, or of entries with a 'structure', "
            "and no database of ASE. Write it with one of them."
        )
    for i, entry in enumerate(entries):
        try:
            yield i, _of_entry(entry)
        except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            yield i, f"{reason.rstrip('.')}. Write it as pymatgen's as_dict does."


def _entries(document: Any) -> list[Any]:
    """Entries of a document; none if it is of something else."""
    if _is_entry(document):
        return [document]
    values = list(document.values()) if isinstance(document, Mapping) else document
    if not isinstance(values, list) or not any(_is_entry(value) for value in values):
        return []
    return values if isinstance(document, list) else [value for value in values if _is_entry(value)]


def _is_entry(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("structure", value), Mapping)
        and ("sites" in value.get("structure", value))
    )


def _of_entry(entry: Mapping[str, Any]) -> Atoms:
    structure = entry.get("structure", entry)
    lattice, sites = structure.get("lattice"), structure["sites"]
    for i, site in enumerate(sites):
        kinds = site["species"]
        if len(kinds) != 1 or kinds[0].get("occu", 1) != 1:
            raise ValueError(f"site {i} is partially occupied")
    cell = None if lattice is None else np.array(lattice["matrix"], dtype=np.float64)
    atoms = Atoms(
        [atomic_number(site["species"][0]["element"]) for site in sites],
        positions=[site["xyz"] if "xyz" in site else site["abc"] @ cell for site in sites],
        cell=cell,
        pbc=False if lattice is None else lattice.get("pbc", True),
    )
    if structure is entry:
        return atoms
    atoms.info.update({k: v for k, v in entry.items() if isinstance(v, str | int | float)})
    known = {**entry, **(entry.get("outputs") or {})}
    results: dict[str, Any] = {}
    if known.get("energy") is not None:
        results["energy"] = float(known["energy"])
        atoms.info.pop("energy", None)
    if known.get("forces") is not None:
        results["forces"] = np.array(known["forces"], dtype=np.float64)
        if results["forces"].shape != (len(atoms), 3):
            raise ValueError(f"forces of {len(atoms)} sites have the shape {results['forces'].shape}")
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def iterate_table(path: Path) -> Iterator[tuple[int, Atoms | str]]:
    """Structures of a table.

    Parameters
    ----------
    path : Path

    Yields
    ------
    int
        The frame that the table says, or a number in the order of appearance.
    ase.Atoms or str
        With its results, and ``info["structure"]`` where there is such a column; or what is wrong with it.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        If there is no such file, pandas (or its engine for .parquet) is missing, or it is damaged.
    NoStructures
        If it is no table of atoms: it does not even have x, y, z.
    """
    table = _table(require_file(path))
    table.columns = [str(name).strip().lower() for name in table.columns]
    keys = [name for name in ("structure", "frame") if name in table and table[name].notna().any()]
    missing = [name for name in ("species", *POSITIONS) if name not in table]
    if not keys or missing:
        names = [] if keys else ["structure or frame"]
        remedy = "Separate its columns by commas" if len(table.columns) == 1 else "Rename its columns"
        error = refusal(
            path,
            "a table of atoms has the columns structure or frame, species, x, y, z; it lacks "
            f"{', '.join([*names, *missing])}. {remedy}.",
        )
        raise error if set(POSITIONS) <= set(table) else NoStructures(str(error))
    for what, columns in (("lattice vectors", CELL), ("forces", FORCES)):
        missing = [name for name in columns if name not in table]
        if 0 < len(missing) < len(columns):
            raise refusal(
                path,
                f"{what} are the columns {', '.join(columns)}; it lacks {', '.join(missing)}. Add or rename "
                "them, or leave out all.",
            )
    for name in keys:
        nameless = table[name].isna().to_numpy()
        if nameless.any():
            raise refusal(
                path,
                f"row {int(nameless.argmax()) + 1} of the atoms has no {name}. Say which structure every row "
                "belongs to.",
            )
    for i, (_, rows) in enumerate(table.groupby(keys, sort=False)):
        frame = rows["frame"].iloc[0] if "frame" in table else None
        number = int(frame) if isinstance(frame, int | np.integer) else i
        try:
            atoms = _of_rows(rows)
        except (TypeError, ValueError) as error:
            yield number, f"{str(error).rstrip('.')}. Correct the table."
            continue
        if "structure" in table:
            name = rows["structure"].iloc[0]
            atoms.info["structure"] = name.item() if isinstance(name, np.generic) else name
        yield number, atoms


def _table(path: Path) -> Any:
    try:
        import pandas as pd  # type: ignore[import-untyped]

        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        # before 3.1 pandas took numbers for others next to them unless told not to
        exact = tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1)
        return pd.read_csv(path, **({} if exact else {"float_precision": "round_trip"}))
    except ImportError as error:
        needed = "pandas and pyarrow" if path.suffix.lower() == ".parquet" else "pandas"
        raise ImportError(
            f"cannot read {path} without {needed}. Install them with pip install 'tinynet_sklearn[tables]'."
        ) from error
    except Exception as error:  # whatever the parser runs into
        raise unparsed(path, error) from error


def _of_rows(rows: Any) -> Atoms:
    def numbers(names: list[str]) -> Any:
        return rows[names].to_numpy(dtype=np.float64)

    species = rows["species"].to_numpy()
    if species.dtype.kind not in "iu":
        species = [atomic_number(str(symbol).strip()) for symbol in species]
    cell = None
    if set(CELL) <= set(rows.columns):
        cell = _same(numbers(CELL), "lattice vectors").reshape(3, 3)
    atoms = Atoms(species, positions=numbers(POSITIONS), cell=cell, pbc=cell is not None)
    results: dict[str, Any] = {}
    if "energy" in rows and rows["energy"].notna().any():  # an empty cell: not known
        results["energy"] = float(_same(numbers(["energy"]), "energies")[0])
    if set(FORCES) <= set(rows.columns) and rows[FORCES].notna().any(axis=None):
        results["forces"] = numbers(FORCES)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _same(values: Any, name: str) -> Any:
    if not np.array_equal(values, np.broadcast_to(values[0], values.shape), equal_nan=True):
        raise ValueError(f"its rows have different {name}")
    return values[0]
