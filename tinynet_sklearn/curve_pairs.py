"""Reference and predicted curves of the same atoms, and the errors between them, on plain arrays.

What the numbers mean is told where users meet them, in `tinynet_sklearn.ldos_metrics`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinynet_sklearn._validation import described, first_few, species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.ldos import LDOS
from tinynet_sklearn.pairing import Rows, known_species, same_rows

__all__ = ["Baseline", "CurvePair", "ldos_pair", "species_means"]

#: Curves that differ by less than this fraction of their size are the same but for rounding.
SAME = 1e-6

#: Mean curves by chemical symbol or atomic number, or data to take them from.
Baseline: TypeAlias = Mapping[Any, ArrayLike] | PerAtomArray


@dataclass(frozen=True, eq=False)
class CurvePair:
    """Curves of the same atoms; one row per atom.

    Parameters
    ----------
    true, predicted : ndarray of shape (n_rows, n_energies)
        States/eV/atom.
    species : ndarray of int of shape (n_rows,)
        Atomic numbers; 0 where they are not known.
    grid : EnergyGrid or None
        None if neither came with one.
    counted : ndarray of bool of shape (n_rows, n_energies) or None, default=None
        Energies that count in rmse, mae and r2; None counts all.
    """

    true: FloatArray
    predicted: FloatArray
    species: IntArray
    grid: EnergyGrid | None
    counted: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, y_true: Rows, y_pred: Rows, exclude_empty: float | None = None) -> CurvePair:
        """Bring references and predictions together.

        Raises
        ------
        ValueError
            If they do not describe the same atoms on the same energies, a number is not finite, or
            `exclude_empty` is neither None nor from 0 to below 1.
        """
        grids = [y.grid for y in (y_true, y_pred) if isinstance(y, LDOS)]
        difference = grids[0].difference(grids[1]) if len(grids) == 2 else None
        if difference is not None:
            raise ValueError(
                f"y_true and y_pred must be on one grid of energies; got {difference}. Bring them together "
                "with aligned, resampled or broadened."
            )
        true, predicted = same_rows(y_true, y_pred)
        species = known_species(y_true, y_pred)
        pair = cls(
            true,
            predicted,
            np.zeros(len(true), dtype=np.int64) if species is None else species,
            grids[0] if grids else None,
        )
        return pair if exclude_empty is None else replace(pair, counted=pair._not_empty(exclude_empty))

    @classmethod
    def with_energies(cls, y_true: Rows, y_pred: Rows, exclude_empty: float | None = None) -> CurvePair:
        """The same for what needs energies.

        Raises
        ------
        ValueError
            As `of`, or if neither is an `LDOS`.
        """
        _check_energies(y_true, y_pred)
        return cls.of(y_true, y_pred, exclude_empty)

    def _not_empty(self, fraction: Any) -> NDArray[np.bool_]:
        if not isinstance(fraction, Real) or not 0 <= float(fraction) < 1:
            raise ValueError(
                "exclude_empty must be a fraction of the highest peak, from 0 to below 1, or None to count "
                f"all energies; got {fraction!r}."
            )
        counted = np.empty(self.true.shape, dtype=bool)
        for z in np.unique(self.species):
            rows = self.species == z
            height = np.abs(self.true[rows]).max(axis=0)
            counted[rows] = height > fraction * height.max()
        return counted

    def groups(self) -> dict[str, IntArray]:
        """Rows of each species by chemical symbol; empty if no species is known."""
        if not self.species.any():
            return {}
        return {species_name(z): np.flatnonzero(self.species == z) for z in np.unique(self.species)}

    def take(self, rows: IntArray) -> CurvePair:
        """Some of the atoms."""
        counted = None if self.counted is None else self.counted[rows]
        return CurvePair(self.true[rows], self.predicted[rows], self.species[rows], self.grid, counted)

    def rmse(self) -> float:
        """Root mean squared error, states/eV/atom; NaN if nothing counts."""
        return float(np.sqrt(_mean(np.square(self._errors()))))

    def mae(self) -> float:
        """Mean absolute error, states/eV/atom; NaN if nothing counts."""
        return _mean(np.abs(self._errors()))

    def _errors(self) -> FloatArray:
        error = self.predicted - self.true
        return error if self.counted is None else error[self.counted]

    def r2(self, means: Mapping[str, FloatArray]) -> float:
        """1 - SSE / SST about the mean curves (n_energies,) of the species; NaN if none varies."""
        about = np.empty_like(self.true)
        for z in np.unique(self.species):
            rows = self.species == z
            about[rows] = self.true[rows] - means[species_name(z)]
        total = np.sum(np.square(about if self.counted is None else about[self.counted]))
        # rounding makes equal curves differ from their mean
        if total <= SAME**2 * np.sum(np.square(self.true)):
            return float("nan")
        return float(1.0 - np.sum(np.square(self._errors())) / total)

    def means(self, baseline: Baseline | None) -> dict[str, FloatArray]:
        """Mean curve of each species, of the references or as given.

        Raises
        ------
        TypeError
            If `baseline` is neither a dict, an array per atom nor None.
        ValueError
            If it lacks a species or has other energies.
        """
        if baseline is None:
            return species_means(self.true, self.species)
        if isinstance(baseline, LDOS) and self.grid is not None:
            difference = self.grid.difference(baseline.grid)
            if difference is not None:
                raise ValueError(
                    f"baseline must be on the grid of y_true and y_pred; got {difference}, the latter in "
                    "baseline. Bring them together with aligned, resampled or broadened."
                )
        if isinstance(baseline, PerAtomArray):
            baseline = species_means(baseline.values, baseline.species)
        if not isinstance(baseline, Mapping):
            raise TypeError(
                "baseline must be an LDOS to take means from, or a dict of mean curves by species; got "
                f"{described(baseline)}. Pass the references of the training, or ldos_species_means of them."
            )
        named = {species_name(int(k)) if isinstance(k, Integral) else str(k): v for k, v in baseline.items()}
        wanted = [species_name(z) for z in np.unique(self.species)]
        missing = [name for name in wanted if name not in named]
        if missing:
            raise ValueError(
                f"baseline must have a mean curve for every species; got none for {first_few(missing)}. Add "
                "structures with these species, or score without baseline."
            )
        means: dict[str, FloatArray] = {name: np.asarray(named[name], dtype=np.float64) for name in wanted}
        wrong = [f"{m.shape} for {name}" for name, m in means.items() if m.shape != self.true.shape[1:]]
        if wrong:
            raise ValueError(
                f"baseline must have curves of shape ({self.true.shape[1]},), one value for each energy of "
                f"y_true; got {first_few(wrong)}. Take them from references on the same energies."
            )
        return means

    def wasserstein(self) -> float:
        """Mean 1-Wasserstein distance, eV; NaN if no reference has states."""
        grid = _known(self.grid)
        true, predicted = _shares(self.true), _shares(self.predicted)
        apart = grid.step * np.abs(np.cumsum(predicted - true, axis=1)).sum(axis=1)
        apart[~predicted.any(axis=1)] = grid.high - grid.low
        return _mean(apart[true.any(axis=1)])

    def cosine(self) -> float:
        """Mean cosine of the angle between curves; NaN if all references are zero."""
        length = np.linalg.norm(self.true, axis=1)
        product = length * np.linalg.norm(self.predicted, axis=1)
        dot = np.einsum("ij,ij->i", self.true, self.predicted)
        return _mean(np.divide(dot, product, out=np.zeros_like(dot), where=product > 0)[length > 0])

    def integral_error(self) -> float:
        """Mean relative error of the number of states; NaN if no reference has any."""
        grid = _known(self.grid)
        true, predicted = grid.integrate(self.true), grid.integrate(self.predicted)
        rows = true > 0
        return _mean(np.abs(predicted[rows] / true[rows] - 1.0))


def species_means(curves: FloatArray, species: IntArray) -> dict[str, FloatArray]:
    """Mean of the curves (n_rows, n_energies) of each species (n_rows,), by chemical symbol."""
    return {species_name(z): curves[species == z].mean(axis=0, dtype=np.float64) for z in np.unique(species)}


def ldos_pair(y_true: Rows, y_pred: Rows) -> tuple[LDOS, LDOS]:
    """Both as `LDOS`; where one is not, it is taken to be of the atoms and energies of the other.

    Raises
    ------
    ValueError
        If they do not describe the same atoms on the same energies, a number is not finite, or neither is
        an `LDOS`.
    """
    pair = CurvePair.with_energies(y_true, y_pred)
    carrier: Any = y_true if isinstance(y_true, LDOS) else y_pred
    true, predicted = (
        replace(y if isinstance(y, LDOS) else carrier.with_values(rows), species=pair.species)
        for y, rows in ((y_true, pair.true), (y_pred, pair.predicted))
    )
    return true, predicted


def _check_energies(y_true: Rows, y_pred: Rows) -> None:
    if not (isinstance(y_true, LDOS) or isinstance(y_pred, LDOS)):
        raise ValueError(
            "y_true or y_pred must be an LDOS, which knows its energies; got "
            f"{type(y_true).__name__} and {type(y_pred).__name__}. Write "
            "LDOS.from_arrays(curves, EnergyGrid(energies, width=...), species)."
        )


def _known(grid: EnergyGrid | None) -> EnergyGrid:
    if grid is None:
        raise ValueError("the pair must have a grid; got None. Make it with CurvePair.with_energies.")
    return grid


def _shares(curves: FloatArray) -> FloatArray:
    """Share of the states of an atom at each energy; zero throughout where it has none.

    Negative values do not count; the first and the last energy stand for half a step.
    """
    masses = np.maximum(curves, 0.0)
    masses[:, [0, -1]] *= 0.5
    sums = masses.sum(axis=1, keepdims=True)
    return np.divide(masses, sums, out=np.zeros_like(masses), where=sums > 0)


def _mean(numbers: FloatArray) -> float:
    """Mean, or NaN of nothing, without NumPy's warning."""
    return float(np.mean(numbers)) if numbers.size else float("nan")
