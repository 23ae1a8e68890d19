"""Files of states: eigenvalues and the weights of the states on the atoms, in arrays of NumPy.

===================  ==========================================  ==========================================
array                shape                                       meaning
===================  ==========================================  ==========================================
``eigenvalues``      (n_structures, n_k, n_states)               eV; NaN where there is no state
``state_weights``    (n_structures, n_k, n_states, n_atoms)      of each state on each atom; a further axis
                                                                 (angular momenta) is summed
``k_weights``        (n_k,)                                      of the points k, summing to one
``numbers``          (n_atoms,), optional                        atomic numbers, compared with the structures
``fermi``, ``vbm``,  (n_structures,), optional                   eV, on the scale of the eigenvalues
``cbm``
``n_occupied``       (n_structures,), optional                   filled states at each k, counted from the
                                                                 first
``frame``            (n_structures,), optional                   compared with ``info["frame"]`` of the
                                                                 structures
===================  ==========================================  ==========================================

A state holds two electrons. The structures, in the same order, are in a file beside it that ASE reads
(``x.extxyz`` beside ``x.npz`` or ``x_ldos.npz``), or are passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from tinynet_sklearn._validation import first_few
from tinynet_sklearn.calculations import Calculation, loaded_arrays, refusal
from tinynet_sklearn.energy_grid import EnergyGrid, Levels
from tinynet_sklearn.io import read_structures, stored_forces
from tinynet_sklearn.ldos import LDOS

__all__ = ["has_states", "read_states"]

#: Arrays that must be there.
NEEDED = ("eigenvalues", "state_weights", "k_weights")

#: Endings that the name of a file of states may have beyond that of its structures.
ADDITIONS = ("", "_ldos", "_states")

#: Weights of the points k sum to one to within this.
SUM_OF_WEIGHTS = 1e-3


def has_states(path: Path) -> bool:
    """Whether a file of NumPy has the arrays of a file of states; False if it cannot be opened."""
    try:
        with ZipFile(path) as file:
            return {f"{name}.npy" for name in NEEDED} <= set(file.namelist())
    except (BadZipFile, OSError):
        return False


def read_states(
    path: Path, grid: EnergyGrid | None, structures: Sequence[Any] | None = None
) -> list[Calculation]:
    """Read the structures of one file, and broaden their states.

    Parameters
    ----------
    path : Path
        ``.npz``.
    grid : EnergyGrid or None
        Energies and width; its zero is "absolute", "vbm" or "fermi". None reads structures alone.
    structures : sequence of ase.Atoms or None, default=None
        None reads the file beside it.

    Returns
    -------
    list of Calculation
        One per structure.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or damaged, arrays are missing, or they do not fit together.
    """
    arrays = _arrays(path)
    atoms = _structures(path) if structures is None else list(structures)
    _check(path, arrays, atoms)
    sources = [f"{path}, structure {i}" for i in range(len(atoms))]
    energies = [_free_energy(item) for item in atoms]
    forces = [stored_forces(item) for item in atoms]
    plain = [_without_calculator(item) for item in atoms]
    curves: list[LDOS | None] = [None] * len(atoms)
    if grid is not None:
        table = _ldos(path, arrays, atoms, grid, sources)
        curves = [table[i : i + 1] for i in range(len(atoms))]
    return [Calculation(*known) for known in zip(sources, plain, curves, forces, energies, strict=True)]


def _arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays of the file; all that are needed are there."""
    arrays = loaded_arrays(path)
    missing = [name for name in NEEDED if name not in arrays]
    if missing:
        raise refusal(
            path,
            f"a file of states has the arrays {', '.join(NEEDED)}; it lacks {', '.join(missing)}. Save all "
            "of them with np.savez.",
        )
    return arrays


def _structures(path: Path) -> list[Any]:
    names = dict.fromkeys(path.stem.removesuffix(addition) + ".extxyz" for addition in ADDITIONS)
    for name in names:
        if path.with_name(name).is_file():
            return read_structures(path.with_name(name))
    raise refusal(
        path,
        f"there are no structures beside it, in {' or '.join(names)}. Put the file there, or pass "
        "structures=.",
    )


def _check(path: Path, arrays: dict[str, np.ndarray[Any, Any]], structures: list[Any]) -> None:
    """Refuse arrays that do not fit each other or the structures."""
    eigenvalues, weights, k_weights = (arrays[name] for name in NEEDED)
    shape = eigenvalues.shape
    fits = (
        len(shape) == 3
        and weights.ndim in (4, 5)
        and weights.shape[:3] == shape
        and k_weights.shape == (shape[1],)
    )
    if not fits:
        raise refusal(
            path,
            "eigenvalues must have the shape (n_structures, n_k, n_states), state_weights one axis more, for "
            "the atoms, or two, and k_weights (n_k,); got "
            f"{shape}, {weights.shape} and {k_weights.shape}.",
        )
    if np.isinf(eigenvalues).any() or not np.isfinite(weights[np.isfinite(eigenvalues)]).all():
        raise refusal(
            path, "eigenvalues or weights of states hold NaN or infinity. Leave these structures out."
        )
    if not abs(float(k_weights.sum()) - 1.0) < SUM_OF_WEIGHTS:
        raise refusal(
            path, f"k_weights must sum to one; got {float(k_weights.sum()):g}. Divide by their sum."
        )
    per_structure = [name for name in ("fermi", "vbm", "cbm", "n_occupied", "frame") if name in arrays]
    wrong = [f"{name} has the shape {arrays[name].shape}" for name in per_structure]
    wrong = [text for text, name in zip(wrong, per_structure, strict=True) if arrays[name].shape != shape[:1]]
    if wrong:
        raise refusal(
            path, f"there must be one number for each of {shape[0]} structures; {first_few(wrong)}."
        )
    if len(structures) != shape[0]:
        raise refusal(
            path,
            f"it has states of {shape[0]} structures; got {len(structures)} structures. Pass those it was "
            "made from, in the same order.",
        )
    problems = [
        problem
        for i, atoms in enumerate(structures)
        if (problem := _difference(i, atoms, arrays, weights.shape[3])) is not None
    ]
    if problems:
        raise refusal(
            path, f"{first_few(problems)}. Pass the structures it was made from, in the same order."
        )


def _difference(i: int, atoms: Any, arrays: dict[str, np.ndarray[Any, Any]], n_atoms: int) -> str | None:
    """Why a structure is not the one of these states."""
    if len(atoms) != n_atoms:
        return f"it has states of {n_atoms} atoms; structure {i} has {len(atoms)}"
    if "numbers" in arrays and not np.array_equal(arrays["numbers"], atoms.numbers):
        return f"its atomic numbers are not those of structure {i}"
    if "frame" in arrays and atoms.info.get("frame", arrays["frame"][i]) != arrays["frame"][i]:
        return f"its frame {arrays['frame'][i]} is frame {atoms.info['frame']} in the structures"
    return None


def _ldos(
    path: Path,
    arrays: dict[str, np.ndarray[Any, Any]],
    atoms: list[Any],
    grid: EnergyGrid,
    sources: list[str],
) -> LDOS:
    eigenvalues = np.asarray(arrays["eigenvalues"], dtype=np.float64)
    zeros = np.zeros(len(eigenvalues))
    if grid.zero != "absolute":
        if grid.zero not in ("vbm", "fermi") or grid.zero not in arrays:
            there = [name for name in ("absolute", "vbm", "fermi") if name == "absolute" or name in arrays]
            raise refusal(
                path,
                f"zero must be one of {', '.join(map(repr, there))} for its states; got {grid.zero!r}. Use "
                "LDOS.aligned afterwards for others.",
            )
        zeros = np.asarray(arrays[grid.zero], dtype=np.float64)
    known: dict[str, Any] = {name: arrays[name] for name in ("fermi", "vbm", "cbm") if name in arrays}
    if "n_occupied" in arrays:
        known["n_electrons"] = 2.0 * arrays["n_occupied"]
    levels = Levels(**known) if known else None
    weights = arrays["state_weights"]
    # angular momenta are added in double precision: stored weights may be of half
    parts = [w.astype(np.float64).sum(axis=-1) if w.ndim == 4 else w for w in weights]
    return LDOS.from_states(
        list(eigenvalues),
        parts,
        grid,
        [item.numbers for item in atoms],
        k_weights=arrays["k_weights"],
        origins=zeros,
        levels=levels,
        sources=sources,
    )


def _free_energy(atoms: Any) -> float:
    """Free energy that came with a structure, or its energy; NaN if there is none."""
    results = getattr(atoms.calc, "results", {})
    return float(results.get("free_energy", results.get("energy", np.nan)))


def _without_calculator(atoms: Any) -> Any:
    plain = atoms.copy()  # stored results look like a calculator, and fail once an atom moves
    plain.calc = None
    return plain
