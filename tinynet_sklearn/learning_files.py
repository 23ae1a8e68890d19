"""Files of predictions and figures, each written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinynet_sklearn.atomic_files import write_atomically
from tinynet_sklearn.containers import PerAtomArray

__all__ = ["save_figure", "write_figure", "write_predictions"]

# Names of results, which a file must not have twice.
_RESULTS = ("energy", "free_energy", "forces", "stress")


def write_predictions(path: Path, target: str, structures: list[Any], predicted: Any) -> None:
    """Write forces and energies with their structures (extxyz), or curves (npz), whole or not at all.

    Parameters
    ----------
    path : Path
    target : {"forces", "potential", "ldos"}
    structures : list of ase.Atoms
    predicted : PerAtomArray, PotentialTargets or LDOS
    """
    if target == "ldos":
        buffer = io.BytesIO()
        arrays: dict[str, ArrayLike] = {
            "energies": predicted.energies,
            "ldos": predicted.values,
            "offsets": predicted.offsets,
            "species": predicted.species,
            "zero": predicted.grid.zero,
            "width": np.nan if predicted.grid.width is None else predicted.grid.width,
            "units": "eV, states/eV per atom",
        }
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        write_atomically(path, buffer.getvalue())
        return
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    forces = predicted.forces if target == "potential" else predicted
    frames = []
    for k, atoms in enumerate(structures):
        frame = _writable(atoms)
        frame.set_constraint()  # written forces are those of the model, for fixed atoms, too
        results: dict[str, Any] = {"forces": np.asarray(forces[k], dtype=np.float64)}
        if target == "potential":
            results["energy"] = float(predicted.energy[k])
            if predicted.stress is not None and frame.pbc.all():
                results["stress"] = predicted.stress[k]
        frame.calc = SinglePointCalculator(frame, **results)
        frames.append(frame)
    text = io.StringIO()
    write(text, frames, format="extxyz")
    write_atomically(path, text.getvalue().encode())


def _writable(atoms: Any) -> Any:
    """Copy of a structure with what extended XYZ can keep, without results of another calculation."""
    frame = atoms.copy()
    for name, array in atoms.arrays.items():
        if array.dtype.kind == "u":
            frame.arrays[name] = array = array.astype(np.int64)
        known = array.dtype.kind in "bif" or (
            array.dtype.kind == "U" and all(len(text.split()) == 1 for text in array.flat)
        )
        if name in _RESULTS or not known or array.ndim > 2 or 0 in array.shape[1:]:
            del frame.arrays[name]
    for name, value in atoms.info.items():
        if name in _RESULTS:
            del frame.info[name]
        elif isinstance(value, str):
            frame.info[name] = " ".join(value.splitlines())  # a frame has one line for them
    return frame


def save_figure(target: str, true: Any, predicted: Any, path: Path, title: str) -> None:
    """Draw predictions against references: of forces or, where there are none, energies; typical curves."""
    from tinynet_sklearn.ldos_plots import LDOSDisplay
    from tinynet_sklearn.plotting import ParityDisplay

    if target == "ldos":
        figure = LDOSDisplay.from_predictions(true, predicted).figure_
    else:
        options: dict[str, Any] = {}
        if target == "potential" and true.forces is None:
            counts = predicted.forces.counts
            true, predicted = (y.energy[:, None] / counts[:, None] for y in (true, predicted))
            options = {"quantity": "energy", "unit": "eV/atom"}
        elif target == "potential":
            true, predicted = true.forces, predicted.forces
            known = np.isfinite(true.values).all(axis=1)
            true, predicted = (_rows_of(y, known) for y in (true, predicted))
        display = ParityDisplay.from_predictions(true, predicted, **options)
        display.ax_.set_title(title)
        figure = display.figure_
    write_figure(figure, path)


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip(".").lower())
    write_atomically(path, buffer.getvalue())


def _rows_of(y: Any, rows: NDArray[np.bool_]) -> Any:
    """Per-atom data of some atoms."""
    counts = np.bincount(y.structure_of_row[rows], minlength=len(y))
    return PerAtomArray(y.values[rows], np.concatenate([[0], np.cumsum(counts)]), y.species[rows])
