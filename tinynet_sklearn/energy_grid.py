"""The energy axis of densities of states, and the energies of a structure that stand on it.

A curve of a density of states means nothing without its energies, what their zero is and how far its peaks
were broadened. `EnergyGrid` keeps the three together; `Levels` are what a calculation says of each structure:
Fermi level, band edges, electrons, and where its own zero of energy was.
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import cumulative_trapezoid, trapezoid

from tinynet_sklearn._validation import described
from tinynet_sklearn.frames import FloatArray

__all__ = ["ZEROS", "EnergyGrid", "Levels", "energy_or_end", "zero_in_words"]

#: What the zero of an energy axis can be, in words.
ZEROS = {
    "absolute": "zero of the calculation",
    "fermi": "Fermi level",
    "vbm": "valence band maximum",
    "onset": "lowest states",
    "centroid": "mean occupied energy",
    "learned": "common zero",
}

#: Energies may be uneven by this fraction of their step: what rounding in a text file leaves.
UNEVENNESS = 0.05

#: Grids are the same if their ends differ by less than this fraction of a step.
SAME = 1e-3


def zero_in_words(zero: str) -> str:
    """What a zero of energy is, for labels and messages."""
    return ZEROS.get(zero, zero)


def energy_or_end(given: Any, name: str, end: float) -> float:
    """An energy that somebody passed under a name; None is an end of the grid."""
    if given is None:
        return end
    if not isinstance(given, str | bytes) and np.ndim(given) == 0:
        try:
            return float(given)
        except (TypeError, ValueError):
            pass
    raise TypeError(
        f"{name} must be an energy in eV, or None for the end of the grid; got {reprlib.repr(given)}. Pass "
        "numbers, as in low=-5, high=5."
    )


@dataclass(frozen=True, eq=False, repr=False)
class EnergyGrid:
    """Energies of densities of states, what their zero is, and how far peaks were broadened.

    Parameters
    ----------
    energies : array-like of shape (n_energies,)
        eV, ascending in equal steps; what rounding in a text file leaves is made even.
    width : float or None, default=None
        Standard deviation of the Gaussian that every state was broadened to, eV; None if it is not known.
    zero : {"absolute", "fermi", "vbm", "onset", "centroid", "learned"}, default="absolute"
        Where zero is: that of the calculation, the Fermi level, the valence band maximum, the lowest states,
        the mean energy of the occupied states, or a common zero learned from the curves (`LDOS.aligned`).

    Raises
    ------
    TypeError
        If `energies` are no numbers.
    ValueError
        If they do not ascend in equal steps, or another parameter is none of the above.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import EnergyGrid
    >>> grid = EnergyGrid(np.linspace(-8, 4, 121), width=0.2, zero="vbm")
    >>> grid
    <EnergyGrid: 121 energies, -8 to 4 eV from the valence band maximum, width 0.2 eV>
    >>> round(float(grid.integrate(np.ones(121))), 3)
    12.0
    """

    energies: FloatArray
    width: float | None = None
    zero: str = "absolute"

    def __post_init__(self) -> None:
        try:
            given = np.asarray(self.energies, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"energies must be numbers; got {described(self.energies)}.") from error
        if given.ndim != 1 or len(given) < 2 or not np.isfinite(given).all():
            raise ValueError(
                f"energies must be at least two finite numbers in a row; got an array of shape {given.shape}"
                f"{'' if np.isfinite(given).all() else ' with NaN or infinity'}."
            )
        even = np.linspace(given[0], given[-1], len(given))
        step = (given[-1] - given[0]) / (len(given) - 1)
        if step <= 0 or np.abs(given - even).max() > UNEVENNESS * step:
            steps = np.diff(given)
            raise ValueError(
                "energies must ascend in equal steps; got steps from "
                f"{steps.min():.6g} to {steps.max():.6g} eV. Interpolate the curves onto such energies first."
            )
        width: Any = self.width
        if width is not None and not (isinstance(width, Real) and 0 < float(width) < np.inf):
            raise ValueError(
                "width must be the standard deviation of a Gaussian in eV, or None if it is not known; got "
                f"{self.width!r}."
            )
        if self.zero not in ZEROS:
            raise ValueError(f"zero must be one of {', '.join(map(repr, ZEROS))}; got {self.zero!r}.")
        object.__setattr__(self, "energies", even)
        object.__setattr__(self, "width", None if width is None else float(width))

    def __len__(self) -> int:
        return len(self.energies)

    def __repr__(self) -> str:
        width = "width not known" if self.width is None else f"width {self.width:g} eV"
        return f"<EnergyGrid: {len(self)} energies, {self._in_words()}, {width}>"

    def _in_words(self) -> str:
        return f"{self.low:g} to {self.high:g} eV from the {zero_in_words(self.zero)}"

    @property
    def step(self) -> float:
        """Distance of neighbouring energies, eV."""
        return float(self.energies[-1] - self.energies[0]) / (len(self) - 1)

    @property
    def low(self) -> float:
        """Lowest energy, eV."""
        return float(self.energies[0])

    @property
    def high(self) -> float:
        """Highest energy, eV."""
        return float(self.energies[-1])

    def difference(self, other: EnergyGrid) -> str | None:
        """Why curves on another grid cannot stand beside curves on this one; None if they can.

        Parameters
        ----------
        other : EnergyGrid

        Returns
        -------
        str or None
            "what this one has and what the other one has", to be put into a message.
        """
        if self.zero != other.zero:
            return f"energies from the {zero_in_words(self.zero)} and from the {zero_in_words(other.zero)}"
        ends = np.array([self.low - other.low, self.high - other.high])
        if len(self) != len(other) or np.abs(ends).max() > SAME * min(self.step, other.step):
            return (
                f"{len(self)} energies from {self.low:.9g} to {self.high:.9g} eV and {len(other)} from "
                f"{other.low:.9g} to {other.high:.9g} eV"
            )
        mine, theirs = self.width, other.width
        if (mine is None) != (theirs is None) or not np.isclose(mine or 1.0, theirs or 1.0, rtol=1e-3):
            return f"widths of {_width(mine)} and {_width(theirs)}"
        return None

    def integrate(self, values: ArrayLike) -> FloatArray:
        """Integral of curves (..., n_energies) over all energies, by trapezoids."""
        return np.asarray(trapezoid(np.asarray(values, dtype=np.float64), dx=self.step, axis=-1))

    def cumulative(self, values: ArrayLike) -> FloatArray:
        """Integral of curves (..., n_energies) from the lowest energy up to every energy."""
        curves = np.asarray(values, dtype=np.float64)
        return np.asarray(cumulative_trapezoid(curves, dx=self.step, axis=-1, initial=0.0))

    def window(self, low: float | None, high: float | None) -> slice:
        """Which energies lie between two others; None is the end of the grid.

        Raises
        ------
        TypeError
            If an energy is no number.
        ValueError
            If fewer than two do.
        """
        first, last = energy_or_end(low, "low", self.low), energy_or_end(high, "high", self.high)
        tolerance = SAME * self.step
        inside = (self.energies >= first - tolerance) & (self.energies <= last + tolerance)
        indices = np.flatnonzero(inside)
        if len(indices) < 2:
            raise ValueError(
                "low and high must hold at least two energies between them; got "
                f"{first:g} to {last:g} eV of a grid from {self._in_words()}."
            )
        return slice(int(indices[0]), int(indices[-1]) + 1)

    def at(self, part: slice) -> EnergyGrid:
        """Some of the energies."""
        return replace(self, energies=self.energies[part])


def _width(width: float | None) -> str:
    return "unknown size" if width is None else f"{width:g} eV"


def _numbers(given: Any, name: str) -> FloatArray:
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} must hold one number per structure; got {reprlib.repr(given)}. Write NaN where it is "
            "not known."
        ) from error


@dataclass(frozen=True, eq=False)
class Levels:
    """What is known of the energies of each structure; NaN where it is not.

    Give at least one array; the others become NaN.

    Parameters
    ----------
    fermi : array-like of shape (n_structures,) or None, default=None
        Fermi level, eV on the scale of the grid, as are the next two.
    vbm, cbm : array-like of shape (n_structures,) or None, default=None
        Highest occupied and lowest empty state.
    n_electrons : array-like of shape (n_structures,) or None, default=None
        Electrons in the states between the lowest energy of the grid and the Fermi level.
    shift : array-like of shape (n_structures,) or None, default=None
        What was subtracted from the energies of the calculation, eV.

    Raises
    ------
    TypeError
        If an array holds something else than numbers.
    ValueError
        If nothing is given, or the shapes differ.

    Examples
    --------
    >>> from tinynet_sklearn import Levels
    >>> levels = Levels(fermi=[-1.5, -1.25])
    >>> len(levels), levels.fermi.tolist(), levels.vbm.tolist()
    (2, [-1.5, -1.25], [nan, nan])
    """

    fermi: FloatArray | None = None
    vbm: FloatArray | None = None
    cbm: FloatArray | None = None
    n_electrons: FloatArray | None = None
    shift: FloatArray | None = None

    def __post_init__(self) -> None:
        given = {
            field.name: _numbers(value, field.name)
            for field in fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        shapes = {array.shape for array in given.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise ValueError(
                "levels must hold one number per structure in each of its arrays; got "
                f"{', '.join(f'{name} of shape {array.shape}' for name, array in given.items()) or 'none'}."
            )
        unknown = np.full(next(iter(shapes)), np.nan)
        for field in fields(self):
            object.__setattr__(self, field.name, given.get(field.name, unknown))

    @classmethod
    def unknown(cls, n_structures: int) -> Levels:
        """Nothing known of so many structures."""
        return cls(fermi=np.full(n_structures, np.nan))

    @classmethod
    def joined(cls, parts: list[Levels]) -> Levels:
        """Levels of several sets of structures, one after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self._array("fermi"))

    def __getitem__(self, key: Any) -> Levels:
        return Levels(*(self._array(field.name)[key] for field in fields(self)))

    def _array(self, name: str) -> FloatArray:
        return np.asarray(getattr(self, name))

    def moved(self, by: FloatArray) -> Levels:
        """Count all energies from zeros that lie higher by so much, shape (n_structures,)."""
        shift = np.nan_to_num(self._array("shift")) + by
        edges = {name: self._array(name) - by for name in ("fermi", "vbm", "cbm")}
        return replace(self, shift=shift, **edges)
