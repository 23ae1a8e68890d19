"""Plots of predicted local densities of states, in the manner of scikit-learn's ``Display`` classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.curve_pairs import ldos_pair
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.ldos import LDOS
from tinynet_sklearn.ldos_panels import Panel, add_legend, draw_panel, energy_label
from tinynet_sklearn.plot_axes import given_panels
from tinynet_sklearn.plotting import COLORS

KINDS = ("atoms", "total")


class LDOSDisplay:
    """Reference curves bright, predicted ones dark, for one typical atom of each species or for structures.

    Make one with `from_estimator` or `from_predictions`. What is shown is neither the best nor the worst: of
    each species the atom whose error is closest to the mean error of the species. The inset has the errors of
    all atoms, and a line where the shown one stands.

    Parameters
    ----------
    y_true, y_pred : LDOS
        Of the same atoms, on the same grid.
    kind : {"atoms", "total"}, default="atoms"
        Curves of atoms, a panel for each species, or total densities of states of structures.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        Panels, without insets.
    ax_ : matplotlib Axes
        The first of them.
    insets_ : list of matplotlib Axes
        Distribution of the errors, one in each panel; none for single atoms or structures.
    figure_ : matplotlib Figure
        That contains them; ``figure_.savefig("ldos.png")``.
    errors_ : dict of str to ndarray
        Mean absolute error over the energies: of each atom by species (in the order of the rows),
        states/eV/atom, or, as "total", of each structure, states/eV.
    shown_ : list of (int, int), or of int
        Structure and atom in it, or structure, of each panel.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import LDOS, LDOSDisplay
    >>> energies = np.linspace(-6, 2, 81)
    >>> means = np.array([[-4.0], [-3.9], [-2.0]])
    >>> y = LDOS.from_arrays([np.exp(-2 * (energies - means) ** 2)], energies, [[8, 8, 22]])
    >>> display = LDOSDisplay.from_predictions(y, 1.1 * y)
    >>> [axes.get_title(loc="left") for axes in display.axes_]
    ['O: atom 0, structure 0', 'Ti: atom 2, structure 0']
    """

    def __init__(self, *, y_true: LDOS, y_pred: LDOS, kind: str = "atoms") -> None:
        self.y_true = y_true
        self.y_pred = y_pred
        self.kind = kind

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: LDOS,
        *,
        kind: str = "atoms",
        which: Sequence[Any] | None = None,
        axes: Any = None,
        reference_kwargs: dict[str, Any] | None = None,
        prediction_kwargs: dict[str, Any] | None = None,
    ) -> "LDOSDisplay":
        """Predict and plot.

        Parameters
        ----------
        estimator : fitted estimator or pipeline
        X : list of structures, or what ``estimator.predict`` takes
        y : LDOS
            References.
        kind, which, axes, reference_kwargs, prediction_kwargs
            As in `from_predictions`.

        Returns
        -------
        LDOSDisplay

        Raises
        ------
        ValueError
            As in `from_predictions`.
        """
        return cls.from_predictions(
            y,
            estimator.predict(X),
            kind=kind,
            which=which,
            axes=axes,
            reference_kwargs=reference_kwargs,
            prediction_kwargs=prediction_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        kind: str = "atoms",
        which: Sequence[Any] | None = None,
        axes: Any = None,
        reference_kwargs: dict[str, Any] | None = None,
        prediction_kwargs: dict[str, Any] | None = None,
    ) -> "LDOSDisplay":
        """Plot given predictions.

        Parameters
        ----------
        y_true, y_pred : LDOS, PerAtomArray, list of ndarray of shape (n_atoms, n_energies), or ndarray
            References and predictions of the same atoms, at least one of them an `LDOS`.
        kind : {"atoms", "total"}, default="atoms"
            Curves of atoms, or sums over the atoms of structures. In "total", a thin line is the total
            density of states of the calculation itself, where it is known: what lies between it and the
            reference is the loss of the projection on atoms.
        which, axes, reference_kwargs, prediction_kwargs
            As in `plot`.

        Returns
        -------
        LDOSDisplay

        Raises
        ------
        ValueError
            If the two do not describe the same atoms on the same energies, neither has energies, a number is
            not finite, or another argument is none of those that `plot` takes.
        """
        if kind not in KINDS:
            raise ValueError(f"kind must be 'atoms' or 'total'; got {kind!r}.")
        true, predicted = ldos_pair(y_true, y_pred)
        return cls(y_true=true, y_pred=predicted, kind=kind).plot(
            axes, which=which, reference_kwargs=reference_kwargs, prediction_kwargs=prediction_kwargs
        )

    def plot(
        self,
        axes: Any = None,
        *,
        which: Sequence[Any] | None = None,
        reference_kwargs: dict[str, Any] | None = None,
        prediction_kwargs: dict[str, Any] | None = None,
    ) -> "LDOSDisplay":
        """Draw into given axes, or into a new figure.

        Parameters
        ----------
        axes : matplotlib Axes, array of them, or None, default=None
            One for each panel; None makes a figure.
        which : sequence of (int, int), or of int, or None, default=None
            Structure and atom in it of each panel, or, with ``kind="total"``, structures. None takes the most
            typical atom of each species, or the most typical structure.
        reference_kwargs, prediction_kwargs : dict or None, default=None
            Passed on to ``ax.plot`` for the curves.

        Returns
        -------
        LDOSDisplay
            self

        Raises
        ------
        ValueError
            If there are fewer or more axes than panels.
        IndexError
            If there is no such atom or structure.
        """
        self.errors_ = self._errors()
        self.shown_ = self._typical() if which is None else self._checked(which)
        panels = [self._of_atom(*s) if self.kind == "atoms" else self._of_structure(s) for s in self.shown_]
        self.axes_ = _axes(axes, len(panels))
        self.ax_, self.figure_ = self.axes_[0], self.axes_[0].figure
        grid = self.y_true.grid
        drawn = [
            draw_panel(ax, panel, grid, reference_kwargs or {}, prediction_kwargs or {})
            for ax, panel in zip(self.axes_, panels, strict=True)
        ]
        self.insets_ = [inset for inset in drawn if inset is not None]
        for ax, panel in zip(self.axes_, panels, strict=True):
            ax.set(ylabel=f"{'LDOS' if self.kind == 'atoms' else 'DOS'} ({panel.unit})")
        self.axes_[-1].set(xlabel=energy_label(grid))
        add_legend(self.ax_, panels, grid)
        return self

    def _errors(self) -> dict[str, FloatArray]:
        if self.kind == "total":
            return {"total": np.abs(self.y_pred.total() - self.y_true.total()).mean(axis=1)}
        error = np.abs(np.subtract(self.y_pred.values, self.y_true.values, dtype=np.float64)).mean(axis=1)
        return {name: error[rows] for name, rows in self._rows_by_name().items()}

    def _rows_by_name(self) -> dict[str, Any]:
        species = self.y_true.species
        names = {z: species_name(z) for z in np.unique(species)} if species.any() else {0: "atoms"}
        return {name: np.flatnonzero(species == z) for z, name in names.items()}

    def _typical(self) -> list[Any]:
        """What has the error closest to the mean, of each kind."""
        closest = {name: int(np.argmin(np.abs(e - e.mean()))) for name, e in self.errors_.items()}
        if self.kind == "total":
            return list(closest.values())
        rows = [self._rows_by_name()[name][i] for name, i in closest.items()]
        owners = self.y_true.structure_of_row[rows]
        return [(int(s), int(row - self.y_true.offsets[s])) for s, row in zip(owners, rows, strict=True)]

    def _checked(self, which: Sequence[Any]) -> list[Any]:
        """Structures, or structures and atoms, that exist; negative ones count from the end."""
        try:
            wanted = np.asarray(which)
        except ValueError:  # of unequal lengths
            wanted = np.empty(0)
        form, shape = ("(structure, atom)", (2,)) if self.kind == "atoms" else ("structures", ())
        if wanted.dtype.kind not in "iu" or wanted.ndim == 0 or wanted.shape[1:] != shape or not len(wanted):
            raise ValueError(f"which must be a list of {form} with kind={self.kind!r}; got {which!r}.")
        if self.kind == "total":
            return [_existing(i, len(self.y_true), "structures") for i in wanted]
        structures = [_existing(i, len(self.y_true), "structures") for i in wanted[:, 0]]
        counts = self.y_true.counts[structures]
        return [
            (s, _existing(i, n, f"atoms in structure {s}"))
            for s, i, n in zip(structures, wanted[:, 1], counts, strict=True)
        ]

    def _of_atom(self, structure: int, atom: int) -> Panel:
        row = int(self.y_true.offsets[structure]) + atom
        groups = self._rows_by_name()
        k, name = next((k, name) for k, name in enumerate(groups) if row in groups[name])
        errors = self.errors_[name]
        return Panel(
            title=f"{name}: atom {atom}, structure {structure}",
            color=COLORS[k % len(COLORS)],
            unit="states/eV/atom",
            true=self.y_true.values[row],
            predicted=self.y_pred.values[row],
            own_total=None,
            fermi=self._fermi(structure),
            error=float(errors[np.searchsorted(groups[name], row)]),
            errors=errors,
        )

    def _of_structure(self, structure: int) -> Panel:
        known = self.y_true.reference_total
        own = None if known is None or np.isnan(known[structure]).any() else known[structure]
        errors = self.errors_["total"]
        return Panel(
            title=f"Total: structure {structure}",
            color=COLORS[0],
            unit="states/eV",
            true=self.y_true.total()[structure],
            predicted=self.y_pred.total()[structure],
            own_total=own,
            fermi=self._fermi(structure),
            error=float(errors[structure]),
            errors=errors,
        )

    def _fermi(self, structure: int) -> float:
        return float(np.asarray(self.y_true.levels.fermi)[structure])


def _existing(index: Any, number: int, what: str) -> int:
    if not -number <= index < number:
        raise IndexError(f"which must be in y_true, which has {number} {what}; got {index}.")
    return int(index % number)


def _axes(axes: Any, n_panels: int) -> Any:
    """One Axes for each panel, given or new."""
    if axes is None:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.6, 0.7 + 1.75 * n_panels), dpi=150, layout="constrained")
        return figure.subplots(n_panels, sharex=True, squeeze=False)[:, 0]
    return given_panels(axes, n_panels, "axes", "which")
