"""Numbers that can be read from densities of states: counts, moments, band energies, Fermi levels, gaps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn.alignment import gap_edges, level_of_count
from tinynet_sklearn.curve_table import CurveTable
from tinynet_sklearn.energy_grid import EnergyGrid
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.recursion import recursion_coefficients

__all__ = ["THRESHOLD", "CurveNumbers", "interpolated", "per_structure"]

#: Fraction of its highest value below which a density of states counts as zero.
THRESHOLD = 0.01

#: Electrons per structure by which a count may differ within a gap.
COUNT_TOLERANCE = 1e-2


@dataclass(frozen=True, eq=False, repr=False)
class CurveNumbers(CurveTable):
    """Densities of states and what can be read from them; see `LDOS`."""

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
        ValueError
            If an energy is outside of the grid.
        """
        ends = [self.grid.low if low is None else float(low), self.grid.high if high is None else float(high)]
        for name, end in zip(("low", "high"), ends, strict=True):
            if not self.grid.low - 1e-9 <= end <= self.grid.high + 1e-9:
                raise ValueError(
                    f"{name} must be between {self.grid.low:g} and {self.grid.high:g} eV; got {end:g}."
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

    def fermi_level(self, n_electrons: ArrayLike | None = None) -> FloatArray:
        """Energy up to which the states hold the electrons; the middle of the gap in an insulator.

        Parameters
        ----------
        n_electrons : float, array-like of shape (n_structures,) or None, default=None
            Electrons above the lowest energy of the grid; None takes `levels.n_electrons`.

        Returns
        -------
        ndarray of shape (n_structures,)
            eV, at zero temperature. Counted in `reference_total` where that is known, since projections on
            atoms lose states.

        Raises
        ------
        ValueError
            If the number of electrons is not known, negative, or more than the states can hold.
        """
        wanted = per_structure(
            np.asarray(self.levels.n_electrons) if n_electrons is None else n_electrons,
            len(self),
            "n_electrons",
        )
        found = self._fermi_of(wanted)
        for i in np.flatnonzero(np.isnan(found)):
            if np.isnan(wanted[i]):
                raise ValueError(
                    f"n_electrons must be given where it is not known; got NaN for {self._name(i)}."
                )
            raise ValueError(
                f"n_electrons must be positive and at most the states between {self.grid.low:g} and "
                f"{self.grid.high:g} eV; got {wanted[i]:g} for {self._name(i)}."
            )
        return found

    def known_fermi(self) -> FloatArray:
        """Fermi levels that are known, or follow from the number of electrons; else NaN."""
        given = np.asarray(self.levels.fermi)
        return np.where(np.isnan(given), self._fermi_of(np.asarray(self.levels.n_electrons)), given)

    def all_states(self) -> FloatArray:
        """Total of the calculation where it is known, since projections lose states; else the sum."""
        if self.reference_total is None:
            return self.total()
        known = np.isfinite(self.reference_total).all(axis=1, keepdims=True)
        return np.where(known, self.reference_total, self.total())

    def _fermi_of(self, n_electrons: FloatArray) -> FloatArray:
        counted = self.grid.cumulative(self.all_states())
        return np.array(
            [
                np.nan if np.isnan(n) else level_of_count(self.energies, row, float(n), COUNT_TOLERANCE)
                for row, n in zip(counted, n_electrons, strict=True)
            ]
        )

    def band_edges(self, threshold: float = THRESHOLD) -> tuple[FloatArray, FloatArray]:
        """Ends of the gap around the Fermi level, read off the total density of states.

        Broadened peaks reach into the gap, so it looks smaller than it is by a few widths; `levels` has the
        edges of the states themselves where files give them.

        Parameters
        ----------
        threshold : float, default=0.01
            Fraction of its highest value below which a density of states counts as zero.

        Returns
        -------
        vbm, cbm : ndarray of shape (n_structures,)
            eV; NaN for metals, and where neither the Fermi level nor the number of electrons is known.
        """
        vbm, cbm = self._edges(threshold)
        return np.where(vbm == cbm, np.nan, vbm), np.where(vbm == cbm, np.nan, cbm)

    def _edges(self, threshold: float) -> tuple[FloatArray, FloatArray]:
        """Ends of the gap; both are the Fermi level in metals."""
        edges = [
            (np.nan, np.nan) if np.isnan(level) else gap_edges(self.energies, total, float(level), threshold)
            for total, level in zip(self.total(), self.known_fermi(), strict=True)
        ]
        found = np.array(edges).reshape(-1, 2)
        return found[:, 0], found[:, 1]

    def gap(self, threshold: float = THRESHOLD) -> FloatArray:
        """Band gap of each structure, from its total density of states.

        Parameters
        ----------
        threshold : float, default=0.01
            As in `band_edges`.

        Returns
        -------
        ndarray of shape (n_structures,)
            eV; 0 for metals, NaN where the Fermi level is not known or an end lies beyond the grid.
        """
        vbm, cbm = self._edges(threshold)
        return cbm - vbm


def per_structure(given: ArrayLike, n_structures: int, name: str) -> FloatArray:
    """One number per structure, of an argument that may be one for all."""
    numbers = np.asarray(given, dtype=np.float64)
    if numbers.shape not in ((), (n_structures,)):
        raise ValueError(
            f"{name} must be one number, or one for each of the {n_structures} structures; got shape "
            f"{numbers.shape}."
        )
    return np.broadcast_to(numbers, n_structures)


def interpolated(counted: FloatArray, grid: EnergyGrid, energy: float) -> FloatArray:
    """Columns (n_rows, n_energies) at an energy between two of them, (n_rows,)."""
    place = np.clip((energy - grid.low) / grid.step, 0, len(grid) - 1)
    before = min(int(place), len(grid) - 2)
    fraction = place - before
    return np.asarray((1 - fraction) * counted[:, before] + fraction * counted[:, before + 1])
