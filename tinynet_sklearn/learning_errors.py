"""Errors of a model by species and by file, as rows of a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.frames import FloatArray

__all__ = ["UNITS", "ErrorLine", "error_lines", "target_of"]

#: Units of the errors, by quantity; an energy is that of a structure divided by its number of atoms.
UNITS = {"forces": "eV/Angstrom", "energy": "eV/atom", "stress": "eV/Angstrom^3", "ldos": "states/eV/atom"}


@dataclass(frozen=True)
class ErrorLine:
    """Errors of one quantity on a part of the data.

    Parameters
    ----------
    quantity : {"forces", "energy", "stress", "ldos"}
    unit : str
    part : {"all", "species", "file", "temperature"}
    name : str
        "all", symbol of the species, name of the file, or temperature.
    n : int
        Numbers that were compared: components, structures, or values of curves.
    rmse, mae : float
    spread : float
        RMSE of the trivial prediction: zero force, the mean energy per atom, zero stress, the mean curve of
        the species (of these data).
    """

    quantity: str
    unit: str
    part: str
    name: str
    n: int
    rmse: float
    mae: float
    spread: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def target_of(model: Any) -> str:
    """What a fitted model predicts: "forces", "potential" or "ldos".

    Raises
    ------
    ValueError
        If it is something else, or several of them.
    """
    from tinynet_sklearn.evaluation import fitted_steps
    from tinynet_sklearn.multi_target import MultiTargetRegressor, predicts_energy

    regressor = fitted_steps(model)[-1]
    if not isinstance(regressor, MultiTargetRegressor):
        if predicts_energy(regressor):
            return "potential"
        if getattr(regressor, "target_grid_", None) is not None:
            return "ldos"
        if getattr(regressor, "n_outputs_", None) == 3:
            return "forces"
    raise ValueError(
        "the model must predict forces, energies or densities of states, one of them; this one ends with "
        f"{type(regressor).__name__}. Use it in Python."
    )


def error_lines(
    target: str, true: Any, predicted: Any, files: Sequence[str], learned: Sequence[str] = ()
) -> list[ErrorLine]:
    """Errors of all that is known: of all structures, by species, and by file where there are several.

    Parameters
    ----------
    target : {"forces", "potential", "ldos"}
    true, predicted : PerAtomArray, PotentialTargets or LDOS
        Of the same structures.
    files : sequence of str
        File of each structure.
    learned : sequence of str, default=()
        Quantities that a potential was fitted to; others are left out, but forces, which are derivatives of
        whatever was learned.
    """
    names = np.array(files, dtype=object)
    if target == "potential":
        lines: list[ErrorLine] = []
        if true.forces is not None:
            lines += _per_atom("forces", true.forces, predicted.forces, names)
        if true.energy is not None and "energy" in learned:
            counts = predicted.forces.counts
            found = predicted.energy / counts
            lines += _per_structure("energy", true.energy / counts, found, names)
        if true.stress is not None and predicted.stress is not None and "stress" in learned:
            lines += _per_structure("stress", true.stress, predicted.stress, names)
        return lines
    return _per_atom(target, true, predicted, names)


def _per_atom(quantity: str, true: Any, predicted: Any, files: NDArray[Any]) -> list[ErrorLine]:
    reference = np.asarray(true.values, dtype=np.float64)
    errors = np.asarray(predicted.values, dtype=np.float64) - reference
    trivial = reference
    if quantity == "ldos":
        trivial = np.empty_like(reference)
        for z in np.unique(true.species):
            rows = true.species == z
            trivial[rows] = reference[rows] - reference[rows].mean(axis=0)
    known: NDArray[np.bool_] = np.all(np.isfinite(reference), axis=1)
    parts: list[tuple[str, str, NDArray[np.bool_]]] = [("all", "all", known)]
    species = np.unique(true.species[known])
    if len(species) > 1:
        parts += [("species", species_name(z), known & (true.species == z)) for z in species]
    of_row = files[true.structure_of_row]
    parts += [("file", name, known & (of_row == name)) for name in _several(files)]
    return list(_lines(quantity, errors, trivial, parts))


def _per_structure(
    quantity: str, reference: FloatArray, predicted: FloatArray, files: NDArray[Any]
) -> list[ErrorLine]:
    columns = reference.reshape(len(reference), -1)
    known: NDArray[np.bool_] = np.all(np.isfinite(columns), axis=1)
    trivial = columns - columns[known].mean(axis=0) if quantity == "energy" and known.any() else columns
    parts: list[tuple[str, str, NDArray[np.bool_]]] = [("all", "all", known)]
    parts += [("file", name, known & (files == name)) for name in _several(files)]
    return list(_lines(quantity, predicted.reshape(columns.shape) - columns, trivial, parts))


def _several(files: NDArray[Any]) -> list[str]:
    names = list(dict.fromkeys(files.tolist()))
    return names if len(names) > 1 else []


def _lines(
    quantity: str, errors: FloatArray, trivial: FloatArray, parts: list[tuple[str, str, NDArray[np.bool_]]]
) -> Iterator[ErrorLine]:
    for part, name, rows in parts:
        if rows.any():
            yield ErrorLine(
                quantity,
                UNITS[quantity],
                part,
                name,
                int(errors[rows].size),
                float(np.sqrt(np.mean(np.square(errors[rows])))),
                float(np.mean(np.abs(errors[rows]))),
                float(np.sqrt(np.mean(np.square(trivial[rows])))),
            )
