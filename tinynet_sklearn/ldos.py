"""`LDOS`: local densities of states of atoms, and what can be read from them.

An `LDOS` is a `PerAtomArray` with energies (see `curve_table` for its arrays). Its methods give numbers
(integrals, moments, band energies, gaps, Fermi levels) or the same curves on other energies (windows, other
steps, broader peaks, another zero).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.alignment import common_shifts, onset
from tinynet_sklearn.broadening import (
    REACH,
    broadened_curves,
    broadened_states,
    filled_fraction,
    spline,
    states_below,
)
from tinynet_sklearn.curve_numbers import THRESHOLD, CurveNumbers, check_threshold, interpolated
from tinynet_sklearn.curve_table import per_structure
from tinynet_sklearn.energy_grid import ZEROS, EnergyGrid, Levels, zero_in_words
from tinynet_sklearn.frames import FloatArray

__all__ = ["LDOS"]

#: Steps of a grid are at most so many widths: peaks between wider ones are lost (and some rounding).
STEP_OF_WIDTHS = 2 * (1 + 1e-6)

#: Weights hold all states if they sum to one over the atoms but for so much on average: rounding in files.
COMPLETE = 1e-3


@dataclass(frozen=True, eq=False, repr=False)
class LDOS(CurveNumbers):
    """Local densities of states: one curve per atom, on one grid of energies.

    Make one from arrays (`from_arrays`), from the states of a calculation (`from_states`) or from files
    (`read_ldos`). ``a[3]`` are the curves of structure 3, shape (n_atoms, n_energies); slices, arrays of
    integers and masks select structures; ``np.concatenate`` joins sets of structures on the same grid.

    Parameters
    ----------
    values, offsets, species, frames, geometry
        As in `PerAtomArray`; values in states/eV/atom, both spins added.
    grid : EnergyGrid or array-like of shape (n_energies,)
        Energies of the columns, eV.
    levels : Levels or None, default=None
        What is known of the energies of each structure.
    reference_total : array-like of shape (n_structures, n_energies) or None, default=None
        Total density of states as the calculation gives it, states/eV; NaN where it is not known.
    sources : sequence of str or None, default=None
        Where each structure is from, for messages.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import LDOS, EnergyGrid
    >>> grid = EnergyGrid(np.linspace(-5, 5, 201), width=0.5)
    >>> states = np.array([[-1.0, 1.0]])  # one point k, two states
    >>> share = np.array([[[0.75, 0.25], [0.25, 0.75]]])  # of two atoms in each of them
    >>> ldos = LDOS.from_states([states], [share], grid, species=[[8, 1]])
    >>> ldos
    <LDOS: 1 structures, 2 atoms, species 1 8, 201 energies, -5 to 5 eV from the zero of the calculation, \
width 0.5 eV>
    >>> ldos.integrals().round(2)
    array([2., 2.])
    >>> ldos.moments(1).ravel().round(2)
    array([-0.5,  0.5])
    """

    @classmethod
    def from_states(
        cls,
        eigenvalues: Sequence[ArrayLike],
        weights: Sequence[ArrayLike],
        grid: EnergyGrid,
        species: Any = None,
        *,
        k_weights: ArrayLike | None = None,
        origins: ArrayLike | None = None,
        degeneracy: float = 2.0,
        levels: Levels | None = None,
        sources: Sequence[str] = (),
    ) -> LDOS:
        """Broaden the states of calculations to the width of a grid.

        Parameters
        ----------
        eigenvalues : sequence of array-like of shape (n_k, n_states)
            eV, one array per structure; NaN where there is no state.
        weights : sequence of array-like of shape (n_k, n_states, n_atoms)
            Weight of each state on each atom. Those of a Mulliken analysis sum to one over the atoms;
            projections that sum to less are taken as they are, and electrons are counted in them.
        grid : EnergyGrid
            With a width, and steps of at most twice that.
        species : sequence of array-like of shape (n_atoms,), int, or None, default=None
            Atomic numbers per structure.
        k_weights : array-like of shape (n_k,) or None, default=None
            Of the points k, summing to one; None takes all alike.
        origins : array-like of shape (n_structures,) or None, default=None
            Energy that becomes zero in each structure, eV on the scale of the eigenvalues.
        degeneracy : float, default=2.0
            Electrons in a full state; 1 for states of one spin.
        levels : Levels or None, default=None
            On the scale of the eigenvalues; `n_electrons` counts those in all states that are given. In the
            result it counts what is projected of them on the atoms, above the lowest energy of the grid, and
            `shift` is the origin.
        sources : sequence of str, default=()
            Where each structure is from.

        Returns
        -------
        LDOS

        Raises
        ------
        ValueError
            If the grid has no width or steps of more than two, or shapes do not fit together.
        """
        if grid.width is None:
            raise ValueError(
                "grid must have the width to which states are broadened; got None. Pass "
                "EnergyGrid(energies, width=0.2)."
            )
        if grid.step > STEP_OF_WIDTHS * grid.width:
            raise ValueError(
                f"grid must have steps of at most twice its width of {grid.width:g} eV, or states fall "
                f"between its energies; got steps of {grid.step:g} eV. Take a finer grid, or a greater width."
            )
        if len(eigenvalues) != len(weights):
            raise ValueError(
                f"weights must be of the {len(eigenvalues)} structures of eigenvalues; got {len(weights)}."
            )
        zeros = per_structure(0.0 if origins is None else origins, len(eigenvalues), "origins")
        if not np.isfinite(zeros).all():
            raise ValueError(
                f"origins must be finite; got {zeros[~np.isfinite(zeros)][0]:g} for structure "
                f"{np.flatnonzero(~np.isfinite(zeros))[0]}. Leave it out, or take another zero."
            )
        if levels is not None and len(levels) != len(zeros):
            raise ValueError(f"levels must be of the {len(zeros)} structures; got {len(levels)}.")
        electrons = np.full(len(zeros), np.nan) if levels is None else np.array(levels.n_electrons)
        curves, below = [], np.zeros(len(eigenvalues))
        for i, (found, share) in enumerate(zip(eigenvalues, weights, strict=True)):
            energies, parts = np.asarray(found, dtype=np.float64), np.asarray(share)
            if energies.ndim != 2 or parts.ndim != 3 or parts.shape[:2] != energies.shape:
                raise ValueError(
                    "eigenvalues must have the shape (n_k, n_states) and weights (n_k, n_states, n_atoms); "
                    f"got {energies.shape} and {parts.shape} for structure {i}."
                )
            n_k = len(energies)
            of_k = np.full(n_k, 1.0 / n_k) if k_weights is None else np.asarray(k_weights, dtype=np.float64)
            if of_k.shape != (n_k,):
                raise ValueError(
                    f"k_weights must hold one weight for each of the {n_k} points k; got shape {of_k.shape}."
                )
            if not np.isclose(of_k.sum(), 1.0, rtol=0.0, atol=1e-3):
                raise ValueError(
                    f"k_weights must sum to one; got a sum of {of_k.sum():g}. Divide by it, and give the "
                    "electrons of a full state as degeneracy."
                )
            states = energies - zeros[i], parts, degeneracy * of_k
            curves.append(broadened_states(*states, grid.energies, grid.width))
            below[i] = states_below(*states, grid.low, grid.width)
            projected = filled_fraction(*states, float(electrons[i]))
            electrons[i] *= projected if abs(projected - 1) > COMPLETE else 1.0
        known = (Levels.unknown(len(curves)) if levels is None else levels).moved(zeros)
        known = replace(known, n_electrons=electrons - below)
        return cls.from_arrays(curves, grid, species, levels=known, sources=sources)

    # ---- Other energies ----

    def window(self, low: float | None = None, high: float | None = None) -> LDOS:
        """Only the energies between two others.

        Parameters
        ----------
        low, high : float or None, default=None
            eV; None is the end of the grid.

        Returns
        -------
        LDOS
            `levels.n_electrons` is less by the electrons that were below.

        Raises
        ------
        ValueError
            If fewer than two energies are left.
        """
        part = self.grid.window(low, high)
        below = self.grid.cumulative(self.all_states())[:, part.start]
        levels = replace(self.levels, n_electrons=np.asarray(self.levels.n_electrons) - below)
        total = None if self.reference_total is None else self.reference_total[:, part]
        return replace(
            self, values=self.values[:, part], grid=self.grid.at(part), levels=levels, reference_total=total
        )

    def resampled(self, energies: ArrayLike | EnergyGrid) -> LDOS:
        """The same curves at other energies, by cubic splines.

        Parameters
        ----------
        energies : array-like of shape (n_energies,) or EnergyGrid
            eV, within the present ones, ascending in equal steps of at most two widths. A grid counts from
            the same zero, and its width is that of the curves or None.

        Returns
        -------
        LDOS

        Raises
        ------
        ValueError
            If an energy is beyond the present ones, where the curves are not known, steps are too wide, or a
            grid has another zero or width.
        """
        if isinstance(energies, EnergyGrid):
            if energies.zero != self.grid.zero:
                raise ValueError(
                    f"energies must count from the {zero_in_words(self.grid.zero)}, as the curves do; got a "
                    f"grid from the {zero_in_words(energies.zero)}. Use aligned first, or pass grid.energies."
                )
            asked = energies.width
            known = self.grid.width
            if asked is not None and (known is None or not np.isclose(asked, known, rtol=1e-3)):
                width = "unknown" if known is None else f"{known:g} eV"
                raise ValueError(
                    f"energies must be a grid of the width of the curves, {width}, or without one; got a "
                    f"width of {asked:g} eV. Use broadened, or pass grid.energies."
                )
        grid = EnergyGrid(_array_of(energies), self.grid.width, self.grid.zero)
        tolerance = 1e-6 * self.grid.step
        if grid.low < self.grid.low - tolerance or grid.high > self.grid.high + tolerance:
            raise ValueError(
                f"energies must lie between {self.grid.low:g} and {self.grid.high:g} eV, where curves are "
                f"known; got {grid.low:g} to {grid.high:g}. Choose fewer, or read files of wider windows."
            )
        return self._at(grid, np.zeros(len(self)))

    def _at(self, grid: EnergyGrid, shifts: FloatArray) -> LDOS:
        """Curves on another grid, after the zero of each structure has moved up."""
        if grid.width is not None and grid.step > STEP_OF_WIDTHS * grid.width:
            raise ValueError(
                f"energies must have steps of at most twice the width of {grid.width:g} eV, or peaks fall "
                f"between them; got steps of {grid.step:g} eV. Broaden the curves first "
                f"(broadened({grid.step / 2:g})), or choose a finer grid."
            )
        values = np.empty((len(self.values), len(grid)))
        total = None if self.reference_total is None else np.empty((len(self), len(grid)))
        before = np.empty(len(self))
        counted = self.grid.cumulative(self.all_states())
        for i, rows in enumerate(self._rows()):
            if not np.isfinite(self.values[rows]).all():
                raise ValueError(
                    f"values must be finite to be interpolated; got NaN or infinity for {self._name(i)}. "
                    "Leave it out."
                )
            wanted = grid.energies + shifts[i]
            values[rows] = spline(self.values[rows].astype(np.float64), self.energies, wanted)
            before[i] = np.interp(wanted[0], self.energies, counted[i])
            if total is not None and self.reference_total is not None:
                known = np.isfinite(self.reference_total[i]).all()
                total[i] = spline(self.reference_total[i], self.energies, wanted) if known else np.nan
        levels = replace(self.levels, n_electrons=np.asarray(self.levels.n_electrons) - before)
        return replace(self, values=values, grid=grid, levels=levels.moved(shifts), reference_total=total)

    def broadened(self, width: float) -> LDOS:
        """The same states with broader peaks.

        The energies within six times the added width of the ends are cut off: there, states beyond the ends
        would have contributed.

        Parameters
        ----------
        width : float
            Standard deviation of the Gaussians that shall result, eV.

        Returns
        -------
        LDOS

        Raises
        ------
        ValueError
            If `width` is no positive number, the present width is not known or greater (what was smeared out
            does not come back), or no energies are left.
        """
        asked: Any = width
        if not (isinstance(asked, Real) and 0 < float(asked) < np.inf):
            raise ValueError(
                f"width must be the standard deviation of a Gaussian in eV, a positive number; got {width!r}."
            )
        now = self.grid.width
        if now is None:
            raise ValueError(
                "broadened needs the present width, which is not known; state it with "
                "ldos.on_grid(dataclasses.replace(ldos.grid, width=...))."
            )
        if width < now * (1 - 1e-6):
            raise ValueError(
                f"width must be at least the present one, {now:g} eV; got {width:g}. Broaden the states "
                "themselves (LDOS.from_states), or calculate the curves anew."
            )
        added = float(np.sqrt(max(0.0, width**2 - now**2)))
        if added <= 1e-6 * now:
            return self
        low, high = self.grid.low + REACH * added, self.grid.high - REACH * added
        if high - low < 2 * self.grid.step:
            raise ValueError(
                f"width must leave energies that are {REACH:g} added widths from both ends; got {width:g} eV "
                f"on {self.grid.low:g} to {self.grid.high:g} eV. Read files of wider windows."
            )
        values = broadened_curves(self.values.astype(np.float64), added, self.grid.step)
        total = self.reference_total
        if total is not None:
            total = broadened_curves(total, added, self.grid.step)
        wide = replace(self, values=values, grid=replace(self.grid, width=width), reference_total=total)
        wide = wide.window(low, high)
        # states that were above the lowest energy and now lie below the new one, some below the old one too
        below = self.grid.integrate(self.all_states() * ndtr((wide.grid.low - self.energies) / added))
        n_electrons = np.asarray(self.levels.n_electrons) - below
        return replace(wide, levels=replace(self.levels, n_electrons=n_electrons))

    def on_grid(self, grid: EnergyGrid) -> LDOS:
        """The same numbers with another description of their energies.

        Parameters
        ----------
        grid : EnergyGrid
            With as many energies.

        Returns
        -------
        LDOS
            Levels are taken over as they are.

        Raises
        ------
        TypeError
            If `grid` is no EnergyGrid.
        ValueError
            If it has another number of energies.
        """
        given: Any = grid
        if not isinstance(given, EnergyGrid):
            raise TypeError(
                f"grid must be an EnergyGrid, which says zero and width; got {described(given)}. Pass "
                "EnergyGrid(energies, width=..., zero=...)."
            )
        if len(grid) != len(self.grid):
            raise ValueError(
                f"grid must have as many energies as the curves, {len(self.grid)}; got {len(grid)}. Use "
                "resampled to interpolate at other energies, or window to keep a part."
            )
        return replace(self, grid=grid)

    def aligned(
        self,
        zero: str = "auto",
        *,
        energies: ArrayLike | EnergyGrid | None = None,
        threshold: float = THRESHOLD,
    ) -> LDOS:
        """Count the energies of every structure from a zero that means the same in all of them.

        Parameters
        ----------
        zero : {"auto", "vbm", "fermi", "onset", "centroid", "learned", "none"}, default="auto"
            "vbm": highest occupied state, from `levels`; if it is not known of all structures, zero where
            energies count from it already, else read off the curves of all.
            "fermi": the Fermi level, from `levels` or the number of electrons; it is arbitrary within the gap
            of an insulator. "onset": where the total density of states first exceeds a fraction of its
            highest value. "centroid": the mean energy of the states between the lowest energy of the
            grid, which should lie in a gap, and the Fermi level; unlike edges, which are single states of the
            whole crystal, it is what the surroundings of the atoms add up to, and easier to learn from.
            "learned": wherever the curves of all structures lie best on each other, in least
            squares, the mean of the zeros staying where it is. "auto": "vbm" if every structure has a gap,
            else "fermi". "none" changes nothing.
        energies : array-like of shape (n_energies,), EnergyGrid or None, default=None
            Of the result, eV from the new zero, in steps of at most two widths; of a grid only its energies.
            None keeps the step and takes all energies that every structure has.
        threshold : float, default=0.01
            Fraction of its highest value below which a density of states counts as zero.

        Returns
        -------
        LDOS
            `levels.shift` tells what was subtracted. The level that is the new zero is zero in `levels`, also
            where it was read off the curves.

        Raises
        ------
        ValueError
            If a structure has no such zero, or not all of the energies, if steps are too wide, or if
            `threshold` is no fraction.

        Notes
        -----
        Curves are interpolated by cubic splines, which changes little where the step is at most the width.
        """
        if zero not in ("auto", "none", *(name for name in ZEROS if name != "absolute")):
            raise ValueError(
                "zero must be 'auto', 'vbm', 'fermi', 'onset', 'centroid', 'learned' or 'none'; got "
                f"{zero!r}."
            )
        check_threshold(threshold)
        if zero == "none":
            return self if energies is None else self.resampled(energies)
        if not len(self):
            raise ValueError("aligned needs at least one structure; got none.")
        shifts, name = self._zeros(zero, threshold)
        low, high = self.grid.low - shifts.min(), self.grid.high - shifts.max()
        if energies is None:
            step = self.grid.step
            first, last = np.ceil(low / step - 1e-6), np.floor(high / step + 1e-6)
            if last <= first:
                raise ValueError(
                    "the structures must share energies after alignment; got zeros from "
                    f"{shifts.min():g} to {shifts.max():g} eV on energies from {self.grid.low:g} to "
                    f"{self.grid.high:g} eV. Leave structures out, or read files of wider windows."
                )
            energies = step * np.arange(first, last + 1)
        grid = EnergyGrid(_array_of(energies), self.grid.width, name)
        tolerance = 1e-6 * self.grid.step
        outside = (grid.low + shifts < self.grid.low - tolerance) | (
            grid.high + shifts > self.grid.high + tolerance
        )
        if outside.any():
            cases = [
                f"{self.grid.low - shifts[i]:g} to {self.grid.high - shifts[i]:g} eV for {self._name(i)}"
                for i in np.flatnonzero(outside)
            ]
            raise ValueError(
                f"energies must be known in every structure; {grid.low:g} to {grid.high:g} eV from the "
                f"{zero_in_words(name)} are wanted and known are {first_few(cases)}."
            )
        moved = self._at(grid, shifts)
        if name == "fermi":
            return moved.with_levels(fermi=0.0)
        return moved.with_levels(vbm=0.0) if name == "vbm" else moved

    def _mean_occupied(self) -> FloatArray:
        """Mean energy of the states up to the Fermi level; NaN where that is not known or there are none."""
        found = np.full(len(self), np.nan)
        fermi, total = self.known_fermi(), self.total()
        inside = (fermi > self.grid.low) & (fermi <= self.grid.high)
        for i in np.flatnonzero(inside):
            curves = np.stack([total[i], total[i] * self.energies])
            count, weighted = interpolated(self.grid.cumulative(curves), self.grid, float(fermi[i]))
            found[i] = weighted / count if count > 0 else np.nan
        return found

    def _zeros(self, zero: str, threshold: float) -> tuple[FloatArray, str]:
        """Where the new zero of each structure is, and its name."""
        if zero == "learned":
            curves = [part.astype(np.float64) for part in self]
            labels = [self.species[rows] for rows in self._rows()]
            return common_shifts(curves, labels, self.energies), zero
        if zero == "onset":
            found = np.array([onset(self.energies, total, threshold) for total in self.total()])
            why = "the curve begins above the threshold; keep lower energies"
        elif zero == "centroid":
            found = self._mean_occupied()
            why = "the Fermi level is not known, or no states are below it; pass levels"
        else:
            known = np.asarray(self.levels.vbm)
            # not a mixture: broadened edges lie some two widths above those of the states
            if self.grid.zero == "vbm":
                known = np.nan_to_num(known)
            found = self.band_edges(threshold)[0] if np.isnan(known).any() else known
            why = "no gap was found around a known Fermi level; use zero='fermi'"
        if zero == "fermi" or (zero == "auto" and np.isnan(found).any()):
            found = self.known_fermi()
            zero, why = "fermi", "neither the Fermi level nor the number of electrons is known; pass levels"
        missing = [self._name(i) for i in np.flatnonzero(np.isnan(found))]
        if missing:
            name = "vbm" if zero == "auto" else zero
            raise ValueError(
                f"zero={name!r} must exist in every structure; {first_few(missing)} has none: {why}."
            )
        return found, "vbm" if zero == "auto" else zero


def _array_of(energies: ArrayLike | EnergyGrid) -> FloatArray:
    """Energies as they are, for `EnergyGrid` to check."""
    return energies.energies if isinstance(energies, EnergyGrid) else energies  # type: ignore[return-value]
