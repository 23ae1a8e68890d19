"""Heat map of a grid search over two parameters, as in Figures 1a and 3a of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.grid_tables import Grid, grid_of_array, grid_of_candidates, grid_of_rows
from tinynet_sklearn.plot_axes import number_powers, spans_much
from tinynet_sklearn.plotting import new_axes
from tinynet_sklearn.search_results import read_search, value_text

__all__ = ["GridHeatmapDisplay"]

# Cells of a new figure, and what stands around them (inches); more cells than this have no numbers.
_CELL, _AROUND = (0.78, 0.5), (2.3, 1.5)
_MOST_VALUES = 400
_FAILED = "0.82"


class GridHeatmapDisplay:
    """Heat map of an error or score over two parameters, the better the brighter.

    Make one with `from_search` or `from_table`. The numbers stand in the cells, the best cell has a frame,
    cells that nobody asked for are hatched, and those of which every fit failed (NaN) say so. Numbers in
    parentheses are of candidates that a halving search dropped early: with fewer structures, not to be
    compared with others.

    Parameters
    ----------
    grid : Grid
        What to draw.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the plot.
    figure_ : matplotlib Figure
        That contains it; ``figure_.savefig("grid.png")``.
    im_ : matplotlib AxesImage
    text_ : ndarray of Text or None, of shape (n_y, n_x)
        What stands in the cells, the lowest row first.
    colorbar_ : matplotlib Colorbar or None
    values_ : ndarray of float of shape (n_y, n_x)
        Numbers of the cells; NaN where there is none.
    best_ : dict of str to object
        Values of the two parameters in the best cell, with the names of the search; empty if all fits failed.
    best_value_ : float
        Of this cell; NaN if all fits failed.

    Examples
    --------
    >>> from tinynet_sklearn import GridHeatmapDisplay
    >>> rows = [{"n": n, "N": N, "rmse": 0.5 / (1 + n + 2 * N)} for n in (0, 2) for N in (0, 1, 2) if n or N]
    >>> display = GridHeatmapDisplay.from_table(rows, x="N", y="n", score="rmse", unit="eV/Å")
    >>> display.best_, round(display.best_value_, 3)
    ({'N': 2, 'n': 2}, 0.071)
    >>> display.values_.shape
    (2, 3)
    """

    def __init__(self, *, grid: Grid) -> None:
        self.grid = grid

    @classmethod
    def from_search(
        cls,
        search: Any,
        x: str | None = None,
        y: str | None = None,
        score: str = "mean_test_score",
        *,
        negate: bool | str = "auto",
        fixed: Mapping[str, Any] | None = None,
        quantity: str | None = None,
        unit: str | None = None,
        ax: Any = None,
        **style: Any,
    ) -> GridHeatmapDisplay:
        """Plot a fitted search.

        Parameters
        ----------
        search : GridSearchCV, RandomizedSearchCV, HalvingGridSearchCV ..., or dict
            Fitted; or its ``cv_results_``.
        x, y : str or None, default=None
            Parameters of the columns and rows, as "embed__N" or, where that is unique, "N". None takes N and
            n where both were searched, else the first two with more than one value. With a single one, the
            map has one row.
        score : str, default="mean_test_score"
            Name of a metric, or a column of ``cv_results_``: "mean_fit_time", "std_test_score" ... With
            several metrics, the default is the one that `refit` names.
        negate : bool or "auto", default="auto"
            Whether to turn the sign of scores; "auto" does so for errors, which searches see negated.
        fixed : dict or None, default=None
            Values of other parameters. Of those not named, each cell has the best: the title says which they
            are.
        quantity, unit : str or None, default=None
            For the colour bar; None takes them from the scorer where we know it (eV/Å for errors of forces).
        ax, **style
            As in `plot`.

        Returns
        -------
        GridHeatmapDisplay

        Raises
        ------
        TypeError
            If it is no search.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        ValueError
            If there are no such parameters or scores, or nothing was varied.
        """
        candidates = read_search(search, score, negate, quantity, unit)
        return cls(grid=grid_of_candidates(candidates, x, y, fixed or {})).plot(ax=ax, **style)

    @classmethod
    def from_table(
        cls,
        table: Any,
        x: Any,
        y: Any = None,
        score: str = "score",
        *,
        reduce: str = "best",
        greater_is_better: bool = False,
        quantity: str | None = None,
        unit: str = "",
        ax: Any = None,
        **style: Any,
    ) -> GridHeatmapDisplay:
        """Plot numbers from elsewhere: a CSV file, a DataFrame, an array.

        Parameters
        ----------
        table : list of dict, dict of columns, DataFrame, or array-like of shape (n_y, n_x)
            Rows of a CSV file may hold text, which is read as numbers where all of a column are. NaN stands
            for fits that failed. Of an array, masked entries are cells that nobody asked for.
        x, y : str, or (str, sequence) with an array
            Columns of the table; of an array, name and values of its columns and rows. None for `y` makes one
            row.
        score : str, default="score"
            Column with the numbers; not looked at with an array.
        reduce : {"best", "median", "mean"}, default="best"
            What a cell shows of several rows. With several seeds take "median": the best seed flatters.
        greater_is_better : bool, default=False
            False for errors and times.
        quantity : str or None, default=None
            For the colour bar; None takes `score`.
        unit : str, default=""
        ax, **style
            As in `plot`.

        Returns
        -------
        GridHeatmapDisplay

        Raises
        ------
        TypeError
            If `table` is something else.
        ValueError
            If columns are missing, values are no numbers, or shapes do not fit.
        """
        words = score.replace("_", " ") if quantity is None else quantity
        options: dict[str, Any] = {"greater_is_better": greater_is_better, "quantity": words, "unit": unit}
        if isinstance(x, str):
            grid = grid_of_rows(table, x, y, score, reduce, **options)
        else:
            grid = grid_of_array(table, x, y, **options)
        return cls(grid=grid).plot(ax=ax, **style)

    def plot(
        self,
        ax: Any = None,
        *,
        include_values: bool | str = "auto",
        values_format: str | None = None,
        scale: str = "auto",
        cmap: Any = None,
        colorbar: bool = True,
        text_kw: dict[str, Any] | None = None,
        im_kw: dict[str, Any] | None = None,
    ) -> GridHeatmapDisplay:
        """Draw into ``ax``, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
        include_values : bool or "auto", default="auto"
            Whether to write the numbers; "auto" does up to 400 cells.
        values_format : str or None, default=None
            As ".3f"; None takes three digits of the smallest number, the same for all.
        scale : {"auto", "linear", "log"}, default="auto"
            Of the colours; "auto" is "log" where positive numbers span more than a factor of five.
        cmap : str, Colormap or None, default=None
            None takes cividis, which remains a scale of brightness without colours and for the colour-blind,
            turned so that the better is the brighter.
        colorbar : bool, default=True
        text_kw, im_kw : dict or None, default=None
            Passed on to ``ax.text`` and ``ax.imshow``.

        Returns
        -------
        GridHeatmapDisplay
            self

        Raises
        ------
        ValueError
            If `scale` is something else, or "log" with numbers that are not positive.
        """
        grid = self.grid
        if scale not in ("auto", "linear", "log"):
            raise ValueError(f"scale must be 'auto', 'linear' or 'log'; got {scale!r}.")
        known = grid.values[np.isfinite(grid.values)]
        if scale == "log" and len(known) and known.min() <= 0:
            raise ValueError(
                f"scale='log' needs positive values; got {known.min():.4g} as the lowest. Take 'linear'."
            )
        n_y, n_x = grid.values.shape
        if ax is None:
            ax = new_axes(_AROUND[0] + _CELL[0] * max(n_x, 3), _AROUND[1] + _CELL[1] * max(n_y, 3))
        self.ax_, self.figure_ = ax, ax.figure
        self.values_ = grid.values
        self.best_, self.best_value_ = {}, float("nan")
        if grid.best is not None:
            row, column = grid.best
            self.best_ = {grid.x: grid.x_values[column]}
            if grid.y is not None:
                self.best_[grid.y] = grid.y_values[row]
            self.best_value_ = float(grid.values[row, column])
        self._draw_cells(_colors(grid, scale, cmap), im_kw or {})
        if include_values == "auto":
            include_values = grid.values.size <= _MOST_VALUES
        self.text_ = self._write_values(bool(include_values), values_format, text_kw or {})
        self.colorbar_ = self._add_colorbar() if colorbar and len(known) else None
        self._say_what_it_is()
        return self

    def _draw_cells(self, colors: dict[str, Any], im_kw: dict[str, Any]) -> None:
        from matplotlib.patches import Rectangle

        grid, ax = self.grid, self.ax_
        look = {"origin": "lower", "aspect": "auto", "interpolation": "nearest"} | colors | im_kw
        self.im_ = ax.imshow(np.ma.masked_invalid(grid.values), **look)
        for row, column in np.argwhere(np.isnan(grid.values)):
            face, hatch = (_FAILED, "") if grid.asked[row, column] else ("white", "////")
            cell: dict[str, Any] = {"facecolor": face, "edgecolor": "0.6", "hatch": hatch}
            ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1.0, 1.0, linewidth=0.0, zorder=1.5, **cell))
        # White lines between the cells, so that neighbours of similar values remain cells.
        n_y, n_x = grid.values.shape
        for x in np.arange(0.5, n_x - 1):
            ax.axvline(x, color="white", linewidth=1.0, zorder=1.6)
        for y in np.arange(0.5, n_y - 1):
            ax.axhline(y, color="white", linewidth=1.0, zorder=1.6)
        if grid.best is not None:
            row, column = grid.best
            corner = (column - 0.5, row - 0.5)
            for width, color in ((5.0, "white"), (2.6, "black")):
                frame: dict[str, Any] = {"linewidth": width, "edgecolor": color, "clip_on": False}
                ax.add_patch(Rectangle(corner, 1.0, 1.0, fill=False, zorder=2.5, **frame))

    def _write_values(self, include: bool, values_format: str | None, text_kw: dict[str, Any]) -> Any:
        grid = self.grid
        texts = np.full(grid.values.shape, None, dtype=object)
        if values_format is None:
            values_format = _common_format(grid.values)
        for (row, column), value in np.ndenumerate(grid.values):
            if np.isnan(value):
                text, color = "failed" if grid.asked[row, column] else "", "0.15"
            else:
                text = format(value, values_format) if include else ""
                text = f"({text})" if text and grid.early[row, column] else text
                color = "white" if _is_dark(self.im_.to_rgba(value)) else "black"
            if text:
                look: dict[str, Any] = {"ha": "center", "va": "center", "color": color, "fontsize": 9.0}
                if (row, column) == grid.best:
                    look["fontweight"] = "bold"
                texts[row, column] = self.ax_.text(column, row, text, zorder=3.0, **(look | text_kw))
        return texts

    def _add_colorbar(self) -> Any:
        from matplotlib.colors import LogNorm
        from matplotlib.ticker import NullLocator

        bar = self.figure_.colorbar(self.im_, ax=self.ax_, pad=0.03)
        unit = f" ({self.grid.unit})" if self.grid.unit else ""
        bar.set_label(self.grid.quantity + unit)
        if isinstance(self.im_.norm, LogNorm):
            number_powers(bar.ax.yaxis, bar.vmin, bar.vmax, between=(1.0, 2.0, 3.0, 5.0))
            bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.outline.set_visible(False)
        return bar

    def _say_what_it_is(self) -> None:
        from matplotlib.patches import Patch

        grid, ax = self.grid, self.ax_
        texts = [[value_text(value) for value in values] for values in (grid.x_values, grid.y_values)]
        ax.set_xticks(range(len(texts[0])), texts[0])
        long = max(map(len, texts[0])) > 9 and len(texts[0]) > 2
        ax.tick_params(axis="x", length=0.0, rotation=30.0 if long else 0.0)
        ax.tick_params(axis="y", length=0.0)
        ax.set_xlabel(_symbol(grid.labels.get(grid.x, grid.x)))
        if grid.y is None:
            ax.set_yticks([])
        else:
            ax.set_yticks(range(len(texts[1])), texts[1])
            ax.set_ylabel(_symbol(grid.labels.get(grid.y, grid.y)))
        ax.spines[:].set_visible(False)
        keys: list[Any] = []
        if grid.best is not None:
            keys.append(Patch(facecolor="white", edgecolor="black", linewidth=2.0, label="best"))
        if not grid.asked.all():
            keys.append(Patch(facecolor="white", edgecolor="0.6", hatch="//////", label="not tried"))
        if grid.early.any():
            keys.append(Patch(facecolor="none", edgecolor="none", label="( ) dropped early"))
        if keys:
            ax.legend(
                handles=keys, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(keys), fontsize=8,
                frameon=False, borderaxespad=0.2, handlelength=1.3, columnspacing=1.2, handletextpad=0.5,
            )  # fmt: skip
        if grid.note:
            ax.set_title(grid.note, loc="left", fontsize=8, pad=20.0 if keys else 6.0)


def _symbol(label: str) -> str:
    """Set n and N as the symbols that they are."""
    return f"${label}$" if label in ("n", "N") else label


def _colors(grid: Grid, scale: str, cmap: Any) -> dict[str, Any]:
    """Colour map and norm; equal values get one colour without a warning."""
    from matplotlib.colors import LogNorm, Normalize

    known = grid.values[np.isfinite(grid.values)]
    if cmap is None:
        cmap = "cividis" if grid.greater_is_better else "cividis_r"
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if scale == "auto":
        scale = "log" if spans_much(low, high) else "linear"
    if low == high:
        margin = 0.1 * abs(low) or 1.0
        low, high = low - margin, high + margin
    return {"cmap": cmap, "norm": (LogNorm if scale == "log" else Normalize)(low, high)}


def _common_format(values: FloatArray) -> str:
    """Decimals that show three digits of the smallest number, at most four."""
    sizes = np.abs(values[np.isfinite(values) & (values != 0.0)])
    if not len(sizes):
        return ".2f"
    decimals = 2 - int(np.floor(np.log10(sizes.min())))
    if decimals > 5 or sizes.max() >= 1e5:
        return ".2g"
    # Numbers that span powers of ten need no more than three decimals for the large ones to be readable.
    return f".{min(max(decimals, 0), 4 if sizes.max() < 0.1 else 3)}f"


def _is_dark(color: Sequence[float]) -> bool:
    """Whether white is more readable than black on this colour (relative luminance of WCAG 2)."""
    rgb = np.asarray(color[:3], dtype=np.float64)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return bool(linear @ np.array([0.2126, 0.7152, 0.0722]) < 0.179)
