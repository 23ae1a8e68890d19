"""What models cost against the number of atoms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.grid_tables import rows_of_table
from tinynet_sklearn.plot_axes import plain_ticks, spans_much
from tinynet_sklearn.plotting import entry_look, new_axes
from tinynet_sklearn.timing import microseconds_per_atom

__all__ = ["SpeedDisplay"]

# More models, or longer names, are named above the axes.
_MOST_INSIDE, _LONGEST_INSIDE = 4, 24
# More models than this are named in two columns if names are short; each row makes the figure so much higher.
_MOST_ROWS, _ROW = 8, 0.19
_REPEATS = ((1, 1, 1), (2, 2, 2), (4, 4, 4))


class SpeedDisplay:
    """Time per atom against the number of atoms, a line for each model.

    Make one with `from_estimators` or `from_table`. A level line is a cost that grows with the number of
    atoms alone; where it falls, calls have a cost of their own that larger structures share.

    Parameters
    ----------
    times : dict of str to (ndarray, ndarray)
        Numbers of atoms, ascending, and microseconds per atom, of each model.
    quantity : str
        For the axis.
    legend : str, default=""
        Title of the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the plot.
    figure_ : matplotlib Figure
        That contains it; ``figure_.savefig("speed.png")``.
    lines_ : list of matplotlib Line2D
        One of each model.

    Examples
    --------
    >>> from tinynet_sklearn.speed_plots import SpeedDisplay
    >>> rows = [{"atoms": 160, "us": 0.84, "threads": 1}, {"atoms": 5000, "us": 0.73, "threads": 1}]
    >>> display = SpeedDisplay.from_table(rows, n_atoms="atoms", microseconds="us", model="threads")
    >>> [line.get_label() for line in display.lines_]
    ['1']
    """

    def __init__(
        self,
        *,
        times: Mapping[str, tuple[FloatArray, FloatArray]],
        quantity: str = "Time per atom and step",
        legend: str = "",
    ) -> None:
        self.times = times
        self.legend = legend
        self.quantity = quantity

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        atoms: Any,
        *,
        repeats: Sequence[Any] = _REPEATS,
        calls: int = 5,
        quantity: str = "Time per atom and step",
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> SpeedDisplay:
        """Time force calls on supercells, as in dynamics, and plot them.

        Models run as `TinyNetCalculator` runs them, in one thread; positions change from call to call.

        Parameters
        ----------
        estimators : dict of str to fitted pipeline, or ASE calculator
            By name.
        atoms : ase.Atoms
            A structure of the crystal that the models were fitted on.
        repeats : sequence of (int, int, int), default=((1, 1, 1), (2, 2, 2), (4, 4, 4))
            Supercells, as in ``atoms * (2, 2, 2)``.
        calls : int, default=5
            How many are timed of each; the median counts.
        quantity : str
            For the axis.
        ax, line_kwargs
            As in `plot`.

        Returns
        -------
        SpeedDisplay

        Raises
        ------
        TypeError
            If `estimators` is no dict.
        ValueError
            If there are no estimators or no supercells.
        """
        from tinynet_sklearn.calculator import TinyNetCalculator

        if not isinstance(estimators, Mapping):
            raise TypeError(
                f"estimators must be a dict of fitted models by name; got {described(estimators)}. Write "
                "{'L4(2)': pipe}."
            )
        if not len(estimators) or not len(repeats):
            raise ValueError(
                f"estimators and repeats must not be empty; got {len(estimators)} models and {len(repeats)} "
                "supercells."
            )
        cells = [atoms * repeat for repeat in repeats]
        cells.sort(key=len)
        sizes = np.array([len(cell) for cell in cells], dtype=np.float64)
        times = {}
        for name, model in estimators.items():
            if not hasattr(model, "implemented_properties"):
                model = TinyNetCalculator(model, warn=False, on_extrapolation="ignore")
            cost = [microseconds_per_atom(model, [cell], repeats=calls) for cell in cells]
            times[str(name)] = (sizes, np.array(cost))
        return cls(times=times, quantity=quantity).plot(ax=ax, line_kwargs=line_kwargs)

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        n_atoms: str = "n_atoms",
        microseconds: str = "microseconds",
        model: str | None = None,
        quantity: str = "Time per atom and step",
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> SpeedDisplay:
        """Plot times that were taken elsewhere, as those of benchmarks/speed.py.

        Parameters
        ----------
        table : list of dict, dict of columns, or DataFrame
            One row for each size and model. Of several of the same, the median counts.
        n_atoms, microseconds : str
            Columns with the number of atoms and the time per atom, µs.
        model : str or None, default=None
            Column that names the models; None: there is one.
        quantity : str
            For the axis.
        ax, line_kwargs
            As in `plot`.

        Returns
        -------
        SpeedDisplay

        Raises
        ------
        TypeError
            If `table` is something else.
        ValueError
            If columns are missing, or a number is not positive.
        """
        wanted = [name for name in (n_atoms, microseconds, model) if name is not None]
        rows = rows_of_table(table, wanted)
        times: dict[str, dict[float, list[float]]] = {}
        for row in rows:
            sizes = times.setdefault("time" if model is None else str(row[model]), {})
            size, time = (_positive(row[name], name) for name in (n_atoms, microseconds))
            sizes.setdefault(size, []).append(time)
        made = {
            name: (
                np.array(sorted(sizes)),
                np.array([float(np.median(sizes[size])) for size in sorted(sizes)]),
            )
            for name, sizes in times.items()
        }
        legend = "" if model is None else model.replace("_", " ")
        return cls(times=made, quantity=quantity, legend=legend).plot(ax=ax, line_kwargs=line_kwargs)

    def plot(self, ax: Any = None, *, line_kwargs: dict[str, Any] | None = None) -> SpeedDisplay:
        """Draw into ``ax``, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
        line_kwargs : dict or None, default=None
            Passed on to ``ax.plot`` for every model.

        Returns
        -------
        SpeedDisplay
            self
        """
        n_columns = 2 if len(self.times) > _MOST_ROWS and max(map(len, self.times)) <= _LONGEST_INSIDE else 1
        n_rows = -(-len(self.times) // n_columns)
        height = 3.8 + (_ROW * (n_rows - _MOST_INSIDE) if len(self.times) > _MOST_ROWS else 0.0)
        ax = new_axes(5.2, height) if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        self.lines_ = []
        for k, (name, (sizes, times)) in enumerate(self.times.items()):
            look: dict[str, Any] = {
                **entry_look(k)._asdict(),
                "linewidth": 1.6,
                "markersize": 6.0,
            }
            self.lines_ += ax.plot(sizes, times, label=name, **(look | (line_kwargs or {})))
        ax.set_xscale("log")
        every = np.concatenate([times for _, times in self.times.values()])
        if spans_much(every.min(), every.max()):
            ax.set_yscale("log")
        else:
            ax.set_ylim(0.0, 1.3 * float(every.max()))
        ax.set(xlabel="Number of atoms", ylabel=f"{self.quantity} (µs)")
        ax.grid(axis="y", color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        plain_ticks(ax)
        if len(self.times) > 1:
            place: dict[str, Any] = {"framealpha": 0.9}
            if len(self.times) > _MOST_INSIDE or max(map(len, self.times)) > _LONGEST_INSIDE:
                place = {
                    "loc": "lower left",
                    "bbox_to_anchor": (0.0, 1.0),
                    "frameon": False,
                    "alignment": "left",
                    "ncols": n_columns,
                }
            ax.legend(title=self.legend or None, fontsize=8, title_fontsize=8, handlelength=3.2, **place)
        return self


def _positive(value: Any, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise ValueError(
            f"table must have positive numbers in column {column!r}; got {first_few([repr(value)])}. Leave "
            "rows without a time out."
        )
    return number
