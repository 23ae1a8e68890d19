"""Densities of states along a trajectory as a map, in the manner of scikit-learn's ``Display`` classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn._validation import described, first_few, species_name
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.ldos import LDOS
from tinynet_sklearn.ldos_panels import energy_label
from tinynet_sklearn.plotting import COLORS, new_axes

TIME_UNITS = ("ps", "fs")

# Levels that are drawn where they are known, by attribute of `Levels`: name and line style.
_LEVELS: dict[str, tuple[str, Any]] = {
    "fermi": ("Fermi level", (0, (5, 2))),
    "vbm": ("valence band maximum", "-"),
    "cbm": ("conduction band minimum", (0, (1, 1))),
}


class LDOSMapDisplay:
    """Density of states of every structure of a trajectory: time to the right, energy upwards.

    Make one with `from_estimator` or `from_predictions`. Fermi level and band edges are drawn where the
    levels of the structures are known.

    Parameters
    ----------
    values : ndarray of shape (n_structures, n_energies)
        States/eV.
    ldos : LDOS
        What they were taken from, with grid and levels.
    times : ndarray of shape (n_structures,) or None, default=None
        Ascending; None numbers the structures.
    time_unit : {"ps", "fs"}, default="ps"
        Unit of `times`.
    quantity : str, default="DOS"
        What the values are of, for the label of the colours.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the map.
    mesh_ : matplotlib QuadMesh
        The map itself.
    colorbar_ : matplotlib Colorbar
        Its legend.
    figure_ : matplotlib Figure
        That contains them; ``figure_.savefig("map.png")``.
    levels_ : dict of str to ndarray of shape (n_structures,)
        Energies of the lines that were drawn, eV, by name.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import LDOS, LDOSMapDisplay
    >>> energies = np.linspace(-6, 2, 81)
    >>> curves = [np.exp(-2 * (energies + 3 + np.sin([[t / 4], [t / 6]])) ** 2) for t in range(20)]
    >>> ldos = LDOS.from_arrays(curves, energies, [[8, 22]] * 20)
    >>> display = LDOSMapDisplay.from_predictions(ldos, times=np.arange(20) * 0.002, atoms="O")
    >>> display.ax_.get_xlabel(), display.colorbar_.ax.get_ylabel()
    ('Time (ps)', 'LDOS of O (states/eV)')
    """

    def __init__(
        self,
        *,
        values: FloatArray,
        ldos: LDOS,
        times: FloatArray | None = None,
        time_unit: str = "ps",
        quantity: str = "DOS",
    ) -> None:
        self.values = values
        self.ldos = ldos
        self.times = times
        self.time_unit = time_unit
        self.quantity = quantity

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        times: ArrayLike | None = None,
        time_unit: str = "ps",
        atoms: str | int | Sequence[int] | None = None,
        ax: Any = None,
        mesh_kwargs: dict[str, Any] | None = None,
    ) -> "LDOSMapDisplay":
        """Predict and plot.

        Parameters
        ----------
        estimator : fitted estimator or pipeline
            That predicts an `LDOS`.
        X : list of structures, or what ``estimator.predict`` takes
            In the order of time.
        times, time_unit, atoms, ax, mesh_kwargs
            As in `from_predictions`.

        Returns
        -------
        LDOSMapDisplay

        Raises
        ------
        TypeError, ValueError, IndexError
            As in `from_predictions`.
        """
        return cls.from_predictions(
            estimator.predict(X),
            times=times,
            time_unit=time_unit,
            atoms=atoms,
            ax=ax,
            mesh_kwargs=mesh_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        ldos: LDOS,
        *,
        times: ArrayLike | None = None,
        time_unit: str = "ps",
        atoms: str | int | Sequence[int] | None = None,
        ax: Any = None,
        mesh_kwargs: dict[str, Any] | None = None,
    ) -> "LDOSMapDisplay":
        """Plot given densities of states, predicted or not.

        Parameters
        ----------
        ldos : LDOS
            Structures in the order of time.
        times : array-like of shape (n_structures,) or None, default=None
            When, ascending, not necessarily in equal steps; None numbers the structures.
        time_unit : {"ps", "fs"}, default="ps"
            Unit of `times`.
        atoms : str, int, sequence of int, or None, default=None
            Whose curves are summed: those of all atoms (None), of a species ("O"), or of the atoms of these
            indices in every structure.
        ax, mesh_kwargs
            As in `plot`.

        Returns
        -------
        LDOSMapDisplay

        Raises
        ------
        TypeError
            If `ldos` is no `LDOS`, or `atoms` none of the above.
        ValueError
            If a density is not finite, `times` do not ascend or are not one per structure, the unit is
            another one, or there is no atom of the species.
        IndexError
            If a structure does not have an atom.
        """
        if not isinstance(ldos, LDOS):
            raise TypeError(
                f"ldos must be an LDOS, which knows its energies; got {described(ldos)}. Write "
                "LDOS.from_arrays(curves, grid, species), or fit the estimator with an LDOS as y."
            )
        if time_unit not in TIME_UNITS:
            raise ValueError(f"time_unit must be 'ps' or 'fs'; got {time_unit!r}.")
        if not len(ldos):
            raise ValueError("ldos must have at least one structure; got none.")
        values, quantity = _summed(ldos, atoms)
        bad = [f"NaN or infinity in structure {i}" for i in np.flatnonzero(~np.isfinite(values).all(axis=1))]
        if bad:
            raise ValueError(f"ldos must be finite; got {first_few(bad)}. Leave these structures out.")
        display = cls(
            values=values,
            ldos=ldos,
            times=_checked_times(times, len(ldos)),
            time_unit=time_unit,
            quantity=quantity,
        )
        return display.plot(ax, mesh_kwargs=mesh_kwargs)

    def plot(self, ax: Any = None, *, mesh_kwargs: dict[str, Any] | None = None) -> "LDOSMapDisplay":
        """Draw into ``ax``, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            It gives some of its room to the colour bar.
        mesh_kwargs : dict or None, default=None
            Passed on to ``ax.pcolormesh``: "cmap", "vmax" to make several maps comparable, ...

        Returns
        -------
        LDOSMapDisplay
            self
        """
        ax = new_axes(6.4, 3.9) if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        grid = self.ldos.grid
        places = np.arange(len(self.values), dtype=np.float64) if self.times is None else self.times
        columns, rows = _edges(places), _edges(grid.energies)
        # Pale where there is nothing and evenly darker from there, so that prints in grey can be read.
        # Rasterised: a PDF of a long trajectory opens at once.
        style = {"cmap": "magma_r", "vmin": 0.0, "rasterized": True} | (mesh_kwargs or {})
        self.mesh_ = ax.pcolormesh(columns, rows, self.values.T, **style)
        self.colorbar_ = self.figure_.colorbar(
            self.mesh_, ax=ax, pad=0.02, label=f"{self.quantity} (states/eV)"
        )
        label = "Structure" if self.times is None else f"Time ({self.time_unit})"
        ax.set(
            xlim=(columns[0], columns[-1]),
            ylim=(grid.low, grid.high),
            xlabel=label,
            ylabel=energy_label(grid),
        )
        if self.times is None:
            ax.xaxis.get_major_locator().set_params(integer=True)
        self.levels_ = self._levels()
        for name, linestyle in _LEVELS.values():
            if name in self.levels_:
                look = {"color": COLORS[0], "linestyle": linestyle, "linewidth": 1.0}
                ax.plot(places, self.levels_[name], label=name, **look)
        if self.levels_:
            ax.legend(
                ncols=len(self.levels_), loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False,
                fontsize=8, borderaxespad=0.1, handlelength=2.0, columnspacing=1.2, handletextpad=0.5,
            )  # fmt: skip
        return self

    def _levels(self) -> dict[str, FloatArray]:
        """Levels within the window by name, as far as the structures know them."""
        grid = self.ldos.grid
        found: dict[str, FloatArray] = {}
        for key, (name, _) in _LEVELS.items():
            level = np.asarray(getattr(self.ldos.levels, key), dtype=np.float64)
            if ((level > grid.low) & (level < grid.high)).any():
                found[name] = level
        return found


def _summed(ldos: LDOS, atoms: Any) -> tuple[FloatArray, str]:
    """Curve of each structure, (n_structures, n_energies), and what it is of."""
    if atoms is None:
        return ldos.total(), "DOS"
    if isinstance(atoms, str):
        names = {species_name(z): z for z in np.unique(ldos.species)}
        if atoms not in names:
            raise ValueError(f"atoms must be a species of ldos, {', '.join(names)}; got {atoms!r}.")
        of_it = (ldos.species == names[atoms])[:, None]
        return ldos.with_values(np.where(of_it, ldos.values, 0.0)).total(), f"LDOS of {atoms}"
    indices = np.atleast_1d(np.asarray(atoms))
    if indices.dtype.kind not in "iu" or indices.ndim != 1 or not len(indices):
        raise TypeError(
            "atoms must be None, a chemical symbol, or indices of atoms as an int or a list of them; got "
            f"{atoms!r}."
        )
    short = [
        f"{n} atoms in structure {i}"
        for i, n in enumerate(ldos.counts)
        if ((indices < -n) | (indices >= n)).any()
    ]
    if short:
        raise IndexError(f"atoms must be in every structure; got {atoms!r} with {first_few(short)}.")
    values = np.stack([part[indices].sum(axis=0, dtype=np.float64) for part in ldos])
    if len(indices) > 1:
        return values, f"LDOS of {len(indices)} atoms"
    number = int(ldos.species[indices[0] % ldos.counts[0]])
    return values, f"LDOS of {species_name(number) + ' ' if number else ''}atom {indices[0]}"


def _checked_times(times: ArrayLike | None, n_structures: int) -> FloatArray | None:
    if times is None:
        return None
    try:
        found = np.asarray(times, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"times must be numbers; got {described(times)}.") from error
    if found.shape != (n_structures,):
        raise ValueError(
            f"times must hold one number for each of the {n_structures} structures; got shape {found.shape}."
        )
    if n_structures == 1 and np.isfinite(found).all():
        return found
    backwards = np.flatnonzero(~np.isfinite(found[1:]) | ~(np.diff(found) > 0))
    if len(backwards):
        i = int(backwards[0])
        raise ValueError(
            f"times must be finite and ascend; got {found[i]:g}, {found[i + 1]:g} for structures {i} and "
            f"{i + 1}. Sort the structures by time."
        )
    return found


def _edges(centres: FloatArray) -> FloatArray:
    """Borders (n + 1,) half way between neighbours."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])
