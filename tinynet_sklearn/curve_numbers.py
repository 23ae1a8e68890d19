"""Numbers that can be read from densities of states: counts, moments, band energies, Fermi levels, gaps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinynet_sklearn.alignment import count_ends, gap_edges, level_in_gap
from tinynet_sklearn.curve_table import CurveTable, per_structure
from tinynet_sklearn.energy_grid import EnergyGrid, energy_or_end
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.recursion import recursion_coefficients

__all__ = ["THRESHOLD", "CurveNumbers", "check_threshold", "interpolated"]

#: Fraction of its highest value below which a density of states counts as zero.
THRESHOLD = 0.01

#: Electrons per structure by which a count may differ within a gap.
COUNT_TOLERANCE = 1e-2

#: Fraction of the electrons by which the count in a gap may differ: models get it right to about 0.5 %.
GAP_TOLERANCE = 0.01

#: How far above a valence band maximum at zero the gap may begin, eV.
REACH_OF_EDGES = 2.0


@dataclass(frozen=True, eq=False, repr=False)
class CurveNumbers(CurveTable):
    """Densities of states and what can be read from them; see `LDOS`."""

    def with_values(self, values: ArrayLike, keep_symmetry: bool = False) -> Self:
        """Other curves for the same atoms, such as predicted ones.

        Parameters
        ----------
        values : array-like of shape (n_rows, n_energies)
            States/eV/atom.
        keep_symmetry : bool, default=False
            Without meaning for curves.

        Returns
        -------
        of the same class
            On the same grid, with the same levels, without `reference_total`. Where that was known,
            `levels.n_electrons` are now those that the present curves hold below the Fermi level: projections
            on atoms lose states, and the count of all electrons would end too late in them. NaN if the Fermi
            level is not known.
        """
        rows = super().with_values(values, keep_symmetry)
        levels = self.levels
        if self.reference_total is not None:
            levels = replace(levels, n_electrons=self._projected_electrons())
        return replace(
            self, values=rows.values, frames=rows.frames, geometry=None, levels=levels, reference_total=None
        )

    def _projected_electrons(self) -> FloatArray:
        """Electrons in the curves of the atoms, where those in `levels` are of the reference total."""
        n_electrons = np.array(self.levels.n_electrons)
        fermi, own, all_states = self.known_fermi(), self.total(), self.all_states()
        for i in np.flatnonzero(self._has_reference() & ~np.isnan(n_electrons)):
            if np.isnan(fermi[i]):
                n_electrons[i] = np.nan
                continue
            counted = self.grid.cumulative(np.stack([own[i], all_states[i]]))
            projected, whole = interpolated(counted, self.grid, float(fermi[i]))
            n_electrons[i] *= projected / whole if whole > 0 else np.nan
        return n_electrons

    def _has_reference(self) -> NDArray[np.bool_]:
        """Of which structures the calculation gave a total, shape (n_structures,)."""
        if self.reference_total is None:
            return np.zeros(len(self), dtype=bool)
        return np.asarray(np.isfinite(self.reference_total).all(axis=1))

    def sum_rule_residual(self) -> FloatArray:
        """Sum over the atoms less the total of the calculation, states/eV, shape (n_structures, n_energies).

        Projections on atoms lose what lies between them: a residual well below zero everywhere is the
        projection loss of the method, one that changes sign an error of reading or of the grid.

        Raises
        ------
        ValueError
            If no total is known.
        """
        if self.reference_total is None:
            raise ValueError(
                "sum_rule_residual needs the total density of states of the calculation; reference_total is "
                "None. Read it together with the projections, or pass it."
            )
        return self.total() - self.reference_total

    def integrals(self, low: float | None = None, high: float | None = None) -> FloatArray:
        """States of each atom between two energies.

        Parameters
        ----------
        low, high : float or None, default=None
            eV; None is the end of the grid. Between two energies of the grid the count is interpolated.

        Returns
        -------
        ndarray of shape (n_rows,)

        Raises
        ------
        TypeError
            If an energy is no number.
        ValueError
            If an energy is outside of the grid, or `low` above `high`.
        """
        ends = [energy_or_end(low, "low", self.grid.low), energy_or_end(high, "high", self.grid.high)]
        for name, end in zip(("low", "high"), ends, strict=True):
            if not self.grid.low - 1e-9 <= end <= self.grid.high + 1e-9:
                raise ValueError(
                    f"{name} must be between {self.grid.low:g} and {self.grid.high:g} eV; got {end:g}."
                )
        if ends[0] > ends[1]:
            raise ValueError(
                f"low must be at most high; got {ends[0]:g} and {ends[1]:g} eV. Exchange the two."
            )
        counted = self._counted(ends)
        return counted[:, 1] - counted[:, 0]

    def _counted(self, ends: list[float]) -> FloatArray:
        """States of each atom below some energies, (n_rows, n_ends)."""
        counted = self.grid.cumulative(self.values)
        return np.stack([interpolated(counted, self.grid, end) for end in ends], axis=1)

    def moments(self, n: int, center: float | str = 0.0) -> FloatArray:
        """Moments mu_1 ... mu_n of each curve, divided by its number of states.

        mu_m = integral (E - c)^m rho dE / integral rho dE, over the energies of the grid. Broadening adds its
        square to the second central moment, and to higher ones what follows from it.

        Parameters
        ----------
        n : int
            Highest order.
        center : float or "mean", default=0.0
            c, eV; "mean" takes the mean energy of each curve, and leaves that as the first moment.

        Returns
        -------
        ndarray of shape (n_rows, n)
            eV to the power of the order; NaN for a curve without states.

        Raises
        ------
        ValueError
            If n is no positive whole number, or `center` another word.
        """
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a positive whole number; got {n!r}.")
        if isinstance(center, str) and center != "mean":
            raise ValueError(f"center must be an energy in eV or 'mean'; got {center!r}.")
        curves = self.values.astype(np.float64, copy=False)
        count = self.grid.integrate(curves)
        count[count == 0] = np.nan
        mean = self.grid.integrate(curves * self.energies) / count
        c = mean if center == "mean" else np.full(len(curves), float(center))
        powers = self.energies - c[:, None]
        columns, product = [], curves
        for _ in range(n):
            product = product * powers
            columns.append(self.grid.integrate(product) / count)
        if center == "mean":
            columns[0] = mean
        return np.stack(columns, axis=1)

    def recursion_coefficients(self, n: int) -> tuple[FloatArray, FloatArray]:
        """Coefficients a_0 ... a_(n-1) and b_1 ... b_n of the three-term recursion of each curve.

        They hold what the moments up to mu_2n do, one independent number at a time (see `recursion`): b_1 is
        the width of the band, b_2 adds what the fourth moment knows beyond that, and so on. Negative values
        of a curve count as zero.

        Parameters
        ----------
        n : int
            How many of each.

        Returns
        -------
        a, b : ndarray of shape (n_rows, n)
            eV; NaN for curves without states.

        Raises
        ------
        ValueError
            If n is no positive whole number, or not less than the number of energies.
        """
        if not isinstance(n, int | np.integer) or not 1 <= n < len(self.grid):
            raise ValueError(
                f"n must be a positive whole number below the {len(self.grid)} energies; got {n!r}."
            )
        weights = np.clip(self.values, 0.0, None).astype(np.float64)
        weights[:, [0, -1]] /= 2  # trapezoids
        empty = weights.sum(axis=1) == 0
        weights[empty] = 1.0
        a, b = recursion_coefficients(self.energies, weights, int(n))
        a[empty], b[empty] = np.nan, np.nan
        return a, b

    def band_energy(self, fermi: ArrayLike | None = None) -> FloatArray:
        """Band energy of each atom, the integral of E rho(E) up to the Fermi level.

        Parameters
        ----------
        fermi : float, array-like of shape (n_structures,) or None, default=None
            eV; None takes `levels.fermi`, or finds it from the number of electrons.

        Returns
        -------
        ndarray of shape (n_rows,)
            eV, counted from the zero of the grid.

        Raises
        ------
        ValueError
            If the Fermi level is neither given nor known, or not within the grid.
        """
        level = self.known_fermi() if fermi is None else per_structure(fermi, len(self), "fermi")
        weighted = self.grid.cumulative(self.values * self.energies)
        result = np.empty(len(self.values))
        for i, rows in enumerate(self._rows()):
            if not self.grid.low <= level[i] <= self.grid.high:
                raise ValueError(
                    f"fermi must be between {self.grid.low:g} and {self.grid.high:g} eV; got {level[i]:g} "
                    f"for {self._name(i)}. Pass fermi=, or keep more of the energies."
                )
            result[rows] = interpolated(weighted[rows], self.grid, float(level[i]))
        return result

    def fermi_level(
        self, n_electrons: ArrayLike | None = None, *, tolerance: float = GAP_TOLERANCE
    ) -> FloatArray:
        """Energy up to which the states hold the electrons; the middle of the gap in an insulator.

        A predicted number of states is wrong by a fraction of a percent, so that the count seldom ends in the
        gap. Where it does not, and there is a gap (at least two steps in which the total density of states
        stays below a hundredth of its highest value) up to which the states number the electrons within
        `tolerance`, the Fermi level is the middle of the nearest such gap. Where the energies end within the
        gap, it is half way to their end.

        Parameters
        ----------
        n_electrons : float, array-like of shape (n_structures,) or None, default=None
            Electrons above the lowest energy of the grid; None takes `levels.n_electrons`.
        tolerance : float, default=0.01
            Fraction of the electrons by which the count in a gap may differ; 0 takes the count as it is. A
            metal whose Fermi level is so near to a gap needs 0.

        Returns
        -------
        ndarray of shape (n_structures,)
            eV, at zero temperature. Counted in `reference_total` where that is known, since projections on
            atoms lose states; that count is exact, and `tolerance` does not apply to it.

        Raises
        ------
        ValueError
            If the number of electrons is not known, negative, or more than the states can hold, or
            `tolerance` is no fraction.
        """
        fraction: Any = tolerance
        if not (isinstance(fraction, Real) and 0 <= float(fraction) < 1):
            raise ValueError(
                f"tolerance must be a fraction of the electrons, from 0 to below 1; got {tolerance!r}."
            )
        wanted = per_structure(
            np.asarray(self.levels.n_electrons) if n_electrons is None else n_electrons,
            len(self),
            "n_electrons",
        )
        found = self._fermi_of(wanted, tolerance)
        for i in np.flatnonzero(np.isnan(found)):
            if np.isnan(wanted[i]):
                raise ValueError(
                    f"n_electrons must be given where it is not known; got NaN for {self._name(i)}."
                )
            raise ValueError(
                "n_electrons must be the electrons above the lowest energy of the grid, from 0 to the "
                f"{self.grid.integrate(self.all_states()[i]):g} states between {self.grid.low:g} and "
                f"{self.grid.high:g} eV; got {wanted[i]:g} for {self._name(i)}. Leave out those in lower "
                "states, or keep more of the energies."
            )
        return found

    def known_fermi(self) -> FloatArray:
        """Fermi levels that are known, or follow from the number of electrons; else NaN.

        Those in `levels` come first; energies from the Fermi level have it at zero; else electrons are
        counted as in `fermi_level`.
        """
        given = np.asarray(self.levels.fermi)
        if self.grid.zero == "fermi":
            return np.nan_to_num(given)
        counted = self._fermi_of(np.asarray(self.levels.n_electrons), GAP_TOLERANCE)
        return np.where(np.isnan(given), counted, given)

    def all_states(self) -> FloatArray:
        """Total of the calculation where it is known, since projections lose states; else the sum."""
        if self.reference_total is None:
            return self.total()
        return np.where(self._has_reference()[:, None], self.reference_total, self.total())

    def _fermi_of(self, n_electrons: FloatArray, tolerance: float) -> FloatArray:
        total, exact = self.all_states(), self._has_reference()
        counted = self.grid.cumulative(total)
        found = np.full(len(self), np.nan)
        for i in np.flatnonzero(~np.isnan(n_electrons)):
            n = float(n_electrons[i])
            low, high = count_ends(self.energies, counted[i], n, COUNT_TOLERANCE)
            found[i] = (low + high) / 2
            # A count that is right stays the same all through a gap; one that is not may end near its edge.
            vbm, cbm = gap_edges(self.energies, total[i], float(found[i]), THRESHOLD)
            whole = np.fmin(cbm, self.grid.high) - np.fmax(vbm, self.grid.low)
            in_gap = high - low >= 2 * self.grid.step and high - low > whole / 2 > 0
            if tolerance and not in_gap and not exact[i]:
                middle = level_in_gap(self.energies, total[i], counted[i], n, THRESHOLD, tolerance * n)
                found[i] = found[i] if np.isnan(middle) else middle
        return found

    def band_edges(self, threshold: float = THRESHOLD) -> tuple[FloatArray, FloatArray]:
        """Ends of the gap around the Fermi level, read off the total density of states.

        Broadened peaks reach into the gap, so it looks smaller than it is by a few widths, and a gap narrower
        than some five widths is not seen; `levels` has the edges of the states themselves where files give
        them. Where neither the Fermi level nor the number of electrons is known and energies count from the
        valence band maximum, the gap is the one that begins there, or at most 2 eV above.

        Parameters
        ----------
        threshold : float, default=0.01
            Fraction of its highest value, among the energies of the grid, below which a density of states
            counts as zero.

        Returns
        -------
        vbm, cbm : ndarray of shape (n_structures,)
            eV; NaN for metals, and where neither the Fermi level nor the number of electrons is known.

        Raises
        ------
        ValueError
            If `threshold` is no fraction.
        """
        vbm, cbm = self._edges(threshold)
        return np.where(vbm == cbm, np.nan, vbm), np.where(vbm == cbm, np.nan, cbm)

    def _edges(self, threshold: float) -> tuple[FloatArray, FloatArray]:
        """Ends of the gap; both are the Fermi level in metals."""
        check_threshold(threshold)
        totals, levels = self.total(), self.known_fermi()
        if self.grid.zero == "vbm":
            near = (self.energies > -1e-3 * self.grid.step) & (self.energies <= REACH_OF_EDGES)
            for i in np.flatnonzero(np.isnan(levels)):
                free = self.energies[near & (totals[i] < threshold * totals[i].max())]
                levels[i] = free[0] if len(free) else np.nan
        edges = [
            (np.nan, np.nan) if np.isnan(level) else gap_edges(self.energies, total, float(level), threshold)
            for total, level in zip(totals, levels, strict=True)
        ]
        found = np.array(edges).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def gap(self, threshold: float = THRESHOLD) -> FloatArray:
        """Band gap of each structure, from its total density of states.

        Smaller than that between the states by a few widths, and zero for gaps narrower than some five (see
        `band_edges`); ``levels.cbm - levels.vbm`` is that of the states where files give them.

        Parameters
        ----------
        threshold : float, default=0.01
            As in `band_edges`.

        Returns
        -------
        ndarray of shape (n_structures,)
            eV; 0 for metals, NaN where the Fermi level is not known or an end lies beyond the grid.

        Raises
        ------
        ValueError
            If `threshold` is no fraction.
        """
        vbm, cbm = self._edges(threshold)
        return cbm - vbm


def check_threshold(threshold: Any) -> None:
    """Refuse what is no fraction of a highest value."""
    if not (isinstance(threshold, Real) and 0 < float(threshold) < 1):
        raise ValueError(
            f"threshold must be a fraction of the highest value, between 0 and 1; got {threshold!r}."
        )


def interpolated(counted: FloatArray, grid: EnergyGrid, energy: float) -> FloatArray:
    """Columns (n_rows, n_energies) at an energy between two of them, (n_rows,)."""
    place = np.clip((energy - grid.low) / grid.step, 0, len(grid) - 1)
    before = min(int(place), len(grid) - 2)
    fraction = place - before
    return np.asarray((1 - fraction) * counted[:, before] + fraction * counted[:, before + 1])
