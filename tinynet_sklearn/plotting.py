"""Plots of what a model does, as scikit-learn's ``Display`` classes do them.

matplotlib is imported when something is drawn. Figures are made without pyplot, so nothing is left in its
list of open figures and no screen is needed; pass ``ax=plt.gca()`` to draw into a pyplot figure.
"""

from typing import Any, NamedTuple

import numpy as np

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.frames import FloatArray, IntArray

#: Colours that remain distinct with every common colour blindness (Okabe and Ito, 2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

#: Markers go along with the colours, for prints without them.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")

#: Dashes of curves that colour alone would not tell apart.
LINE_STYLES = (
    "-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)), (0, (8, 2)), (0, (3, 4)),
)  # fmt: skip

# More rows than this have their legend beside the plot, in columns of so many rows, of so many inches.
_MOST_INSIDE, _ROWS_BESIDE, _BESIDE = 8, 24, 2.0


class Look(NamedTuple):
    """How one of several entries of a plot is drawn."""

    color: str
    marker: str
    linestyle: Any


def entry_look(k: int) -> Look:
    """Colour, marker and dashes of entry `k` of a plot.

    Ten markers and eight dashes have no factor in common with seven colours, which so come back with others:
    pairs of colour and marker are distinct for 70 entries, pairs of colour and dashes for 56.
    """
    return Look(COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)], LINE_STYLES[k % len(LINE_STYLES)])


class ParityDisplay:
    """Predicted against true values, one point per component, coloured by species.

    Make one with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    y_true, y_pred : ndarray of shape (n_rows, k)
        One row per atom.
    species : ndarray of int of shape (n_rows,) or None, default=None
        Atomic numbers; None or 0 where not known.
    quantity, unit : str
        For the axis labels.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the plot.
    figure_ : matplotlib Figure
        That contains it; ``figure_.savefig("parity.png")``.
    errors_ : dict of str to (float, float)
        RMSE and MAE per species and of all.

    Examples
    --------
    >>> from tinynet_sklearn import ParityDisplay, load_moo3
    >>> forces = load_moo3().target
    >>> display = ParityDisplay.from_predictions(forces, 0.9 * forces)
    >>> {name: round(rmse, 3) for name, (rmse, mae) in display.errors_.items()}
    {'O': 0.072, 'Mo': 0.118, 'all': 0.086}
    """

    def __init__(
        self,
        *,
        y_true: FloatArray,
        y_pred: FloatArray,
        species: IntArray | None = None,
        quantity: str = "force component",
        unit: str = "eV/Å",
    ) -> None:
        self.y_true = y_true
        self.y_pred = y_pred
        self.species = species
        self.quantity = quantity
        self.unit = unit

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        quantity: str = "force component",
        unit: str = "eV/Å",
        ax: Any = None,
        scatter_kwargs: dict[str, Any] | None = None,
    ) -> "ParityDisplay":
        """Predict and plot.

        Parameters
        ----------
        estimator : fitted estimator or pipeline
        X : list of structures, or what ``estimator.predict`` takes
        y : PerAtomArray, or list of ndarray of shape (n_atoms, k)
            True values.
        quantity, unit, ax, scatter_kwargs
            As in `from_predictions`.

        Returns
        -------
        ParityDisplay
        """
        return cls.from_predictions(
            y, estimator.predict(X), quantity=quantity, unit=unit, ax=ax, scatter_kwargs=scatter_kwargs
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        quantity: str = "force component",
        unit: str = "eV/Å",
        ax: Any = None,
        scatter_kwargs: dict[str, Any] | None = None,
    ) -> "ParityDisplay":
        """Plot given predictions.

        Parameters
        ----------
        y_true, y_pred : PerAtomArray, list of ndarray of shape (n_atoms, k), or ndarray of shape (n_rows, k)
            True and predicted values of the same atoms. Species are those of a `PerAtomArray`.
        quantity, unit : str
            For the axis labels.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        scatter_kwargs : dict or None, default=None
            Passed on to ``ax.scatter``.

        Returns
        -------
        ParityDisplay

        Raises
        ------
        ValueError
            If the shapes differ, there are no rows, or a value is not finite.
        """
        true, species = _rows(y_true)
        pred, species_of_prediction = _rows(y_pred)
        if true.shape != pred.shape:
            raise ValueError(
                "y_true and y_pred must be of the same atoms and width, got "
                f"{true.shape} and {pred.shape} (rows, columns); predict the structures that y_true is of."
            )
        if not true.size:
            raise ValueError(f"y_true must have at least one value, got shape {true.shape}.")
        for name, rows in (("y_true", true), ("y_pred", pred)):
            bad = np.count_nonzero(~np.isfinite(rows))
            if bad:
                raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values of {rows.size}.")
        display = cls(
            y_true=true,
            y_pred=pred,
            species=species if species.any() else species_of_prediction,
            quantity=quantity,
            unit=unit,
        )
        return display.plot(ax=ax, scatter_kwargs=scatter_kwargs)

    def plot(self, ax: Any = None, *, scatter_kwargs: dict[str, Any] | None = None) -> "ParityDisplay":
        """Draw into ``ax``, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
        scatter_kwargs : dict or None, default=None
            Passed on to ``ax.scatter``.

        Returns
        -------
        ParityDisplay
            self
        """
        series = self._series()
        ax = new_axes(5.0 + _BESIDE * _columns_beside(series), 5.0) if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        self.errors_ = {s.name: _errors(s.true, s.pred) for s in series}
        self.errors_["all"] = _errors(self.y_true, self.y_pred)
        low, high = _limits(self.y_true, self.y_pred)
        ax.axline((0.0, 0.0), slope=1.0, color="0.2", linewidth=0.8, zorder=2.0)
        # The most numerous species below, so that none is buried. Rasterised: a PDF with a hundred
        # thousand points opens at once.
        style = {"s": 9.0, "alpha": 0.55, "linewidths": 0.0, "rasterized": True} | (scatter_kwargs or {})
        for rank, s in enumerate(sorted(series, key=lambda s: -s.true.size)):
            look = {"color": s.color, "marker": s.marker, "zorder": 1.0 + 0.01 * rank} | style
            ax.scatter(s.true.ravel(), s.pred.ravel(), **look)
        ax.set(
            xlim=(low, high),
            ylim=(low, high),
            xlabel=f"True {self.quantity} ({self.unit})",
            ylabel=f"Predicted {self.quantity} ({self.unit})",
        )
        ax.set_aspect("equal", adjustable="box")
        self._add_legend(series)
        return self

    def _add_legend(self, series: list["_Series"]) -> None:
        """One line per species and one for all, with RMSE and MAE."""
        from matplotlib.lines import Line2D

        looks = [(s.name, s.color, s.marker) for s in series]
        if len(series) > 1:
            looks.append(("all", "none", "none"))
        width = max(len(name) for name, *_ in looks)
        handles, labels = [], []
        for name, color, marker in looks:
            rmse, mae = self.errors_[name]
            handles.append(Line2D([], [], linestyle="none", marker=marker, color=color, markersize=5))
            labels.append(f"{name:<{width}}  {rmse:6.3f} {mae:6.3f}")
        title = f"{'':{width}}    RMSE    MAE"
        # axes of a figure that does not lay itself out have no room beside
        n_columns = _columns_beside(series) if self.figure_.get_layout_engine() else 0
        place: dict[str, Any] = {"borderaxespad": 0.6}
        if n_columns:
            place = {"borderaxespad": 0.0, "bbox_to_anchor": (1.02, 1.0), "frameon": False}
            self.ax_.set_anchor("W")  # where the legend has its room
        table_legend(
            self.ax_, handles, labels, title, max(n_columns, 1), loc="upper left", handletextpad=0.4,
            framealpha=0.9, **place,
        )  # fmt: skip

    def _series(self) -> list["_Series"]:
        """Points of each species, in the order of the atomic numbers."""
        numbers = np.zeros(len(self.y_true), dtype=np.int64) if self.species is None else self.species
        series = []
        for k, number in enumerate(np.unique(numbers)):
            rows = numbers == number
            name = species_name(number) if number else "atoms"
            color, marker, _ = entry_look(k)
            series.append(_Series(name, self.y_true[rows], self.y_pred[rows], color, marker))
        return series


class _Series(NamedTuple):
    name: str
    true: FloatArray
    pred: FloatArray
    color: str
    marker: str


def _columns_beside(series: list[_Series]) -> int:
    """Columns of a legend beside the plot; none where it has room within."""
    n_rows = len(series) + 1
    return 0 if n_rows <= _MOST_INSIDE else -(-n_rows // _ROWS_BESIDE)


def _rows(y: Any) -> tuple[FloatArray, IntArray]:
    """Rows (n_rows, k) and species (n_rows,) of what a user passes."""
    if isinstance(y, list | tuple):
        y = PerAtomArray.from_list(y)
    if isinstance(y, PerAtomArray):
        return np.asarray(y.values, dtype=np.float64), np.asarray(y.species, dtype=np.int64)
    rows = np.asarray(y, dtype=np.float64)
    if rows.ndim != 2:
        rows = rows.reshape(-1, rows.shape[-1] if rows.ndim > 2 else 1)
    return rows, np.zeros(len(rows), dtype=np.int64)


def _errors(true: FloatArray, pred: FloatArray) -> tuple[float, float]:
    error = pred - true
    return float(np.sqrt(np.mean(error**2))), float(np.mean(np.abs(error)))


def _limits(*values: FloatArray) -> tuple[float, float]:
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def new_axes(width: float, height: float) -> Any:
    """Axes of a new figure (inches) that pyplot does not know."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, layout="constrained").subplots()


def table_legend(
    ax: Any, handles: list[Any], rows: list[str], header: str, n_columns: int = 1, **options: Any
) -> None:
    """Add a legend with a row of numbers for each entry, set in letters of one width.

    Parameters
    ----------
    ax : matplotlib Axes
    handles, rows : list of matplotlib Line2D, of str
    header : str
        What the numbers are, above them.
    n_columns : int, default=1
        Side by side, each with the header.
    **options
        Passed on to ``ax.legend``.
    """
    from matplotlib.lines import Line2D

    font = {"family": "monospace", "size": 8}
    options = {"prop": font, "title_fontproperties": font, "alignment": "right"} | options
    if n_columns == 1:
        ax.legend(handles, rows, title=header, **options)
        return
    nothing = Line2D([], [], linestyle="none")
    drawn, words = [], []
    for part in np.array_split(np.arange(len(rows)), n_columns):
        drawn += [nothing, *(handles[k] for k in part)]
        words += [header, *(rows[k] for k in part)]
    ax.legend(drawn, words, ncols=n_columns, **options)


def make_logarithmic(ax: Any) -> None:
    """Make the y axis logarithmic; where it spans few powers of ten, with labels between them."""
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    if high < 300.0 * low:
        between: tuple[float, ...] = (1.0, 2.0, 5.0)
        if high < 10.0 * low:
            between = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
        if high < 3.0 * low:
            between = (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)
        ax.yaxis.set_major_locator(LogLocator(subs=between))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
