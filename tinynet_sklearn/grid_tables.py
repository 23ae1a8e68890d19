"""Numbers of a search or a table, arranged over two parameters: what `GridHeatmapDisplay` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.search_results import (
    Candidates,
    full_name,
    short_names,
    value_key,
    value_text,
    varied,
)

__all__ = ["Grid", "grid_of_array", "grid_of_candidates", "grid_of_rows", "rows_of_table"]

_REDUCTIONS = {"median": np.nanmedian, "mean": np.nanmean}


@dataclass(frozen=True, eq=False)
class Grid:
    """Numbers over the values of two parameters.

    Parameters
    ----------
    x, y : str
        Names of the parameters of the columns and rows; None for `y` where there is one row.
    x_values, y_values : list
        Their values, ascending where they are numbers.
    values : ndarray of float64 of shape (n_y, n_x)
        NaN where there is none.
    asked : ndarray of bool of shape (n_y, n_x)
        Whether there was a candidate.
    early : ndarray of bool of shape (n_y, n_x)
        Whether the number is of one that a halving search dropped before the last iteration.
    best : (int, int) or None
        Row and column of the best cell.
    greater_is_better : bool
    quantity, unit : str
    note : str, default=""
        What was done with other parameters.
    labels : dict of str to str
        Short names of the parameters.
    """

    x: str
    y: str | None
    x_values: list[Any]
    y_values: list[Any]
    values: FloatArray
    asked: NDArray[np.bool_]
    early: NDArray[np.bool_]
    best: tuple[int, int] | None
    greater_is_better: bool
    quantity: str
    unit: str
    note: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def grid_of_candidates(
    candidates: Candidates, x: str | None, y: str | None, fixed: Mapping[str, Any]
) -> Grid:
    """Arrange candidates of a search; of several in a cell, the best.

    Parameters
    ----------
    candidates : Candidates
    x, y : str or None
        Parameters; None: see `GridHeatmapDisplay.from_search`.
    fixed : dict
        Values of other parameters.

    Returns
    -------
    Grid

    Raises
    ------
    ValueError
        If there are no such parameters, or nothing was varied.
    """
    kept = candidates.only(fixed)
    fixed_names = {full_name(name, candidates.params, "fixed") for name in fixed}
    names = [name for name in varied(kept.params) if name not in fixed_names]
    x, y = _axes(x, y, names, kept.params)
    labels = short_names(dict.fromkeys(n for one in candidates.params for n in one))
    members = [k for k, one in enumerate(kept.params) if x in one and (y is None or y in one)]
    x_values, columns = _indexed([kept.params[k][x] for k in members])
    y_values, rows = _indexed([kept.params[k][y] if y is not None else None for k in members])
    shape = (len(y_values), len(x_values))
    cells: dict[tuple[int, int], list[int]] = {}
    for k, row, column in zip(members, rows, columns, strict=True):
        cells.setdefault((row, column), []).append(k)
    chosen = {place: kept.best_of(those) for place, those in cells.items()}
    values, asked, early = np.full(shape, np.nan), np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    most = kept.resources.max()
    for place, k in chosen.items():
        values[place], asked[place] = kept.values[k], True
        early[place] = kept.resources[k] < most and not np.isnan(kept.values[k])
    winner = kept.best_of(members)
    best = None
    if not np.isnan(kept.values[winner]):
        best = next(place for place, k in chosen.items() if k == winner)
    rest = [labels[name] for name in names if name not in (x, y)]
    notes = [f"{labels[full_name(n, candidates.params, 'fixed')]}={value_text(v)}" for n, v in fixed.items()]
    if rest:
        notes.append(f"best of {', '.join(rest)} in each cell")
    return Grid(
        x, y, x_values, y_values, values, asked, early, best,
        kept.greater_is_better, kept.quantity, kept.unit, "; ".join(notes), labels,
    )  # fmt: skip


def grid_of_rows(
    table: Any,
    x: str,
    y: str | None,
    score: str,
    reduce: str,
    *,
    greater_is_better: bool,
    quantity: str,
    unit: str,
) -> Grid:
    """Arrange rows of a table.

    Parameters
    ----------
    table : list of dict, dict of columns, or DataFrame
    x, y, score : str
        Columns.
    reduce : {"best", "median", "mean"}
        What a cell has of several rows.
    greater_is_better : bool
    quantity, unit : str

    Returns
    -------
    Grid

    Raises
    ------
    TypeError
        If `table` is something else.
    ValueError
        If columns are missing, or values are no numbers.
    """
    if reduce != "best" and reduce not in _REDUCTIONS:
        raise ValueError(f"reduce must be 'best', 'median' or 'mean'; got {reduce!r}.")
    rows = rows_of_table(table, [name for name in (x, y, score) if name is not None])
    numbers = _read(["nan" if isinstance(row[score], str) and not row[score] else row[score] for row in rows])
    odd = [repr(v) for v in numbers if isinstance(v, bool) or not isinstance(v, Real)]
    if odd:
        raise ValueError(
            f"table must have numbers in column {score!r}; got {first_few(odd)}. Write nan for fits that "
            "failed."
        )
    values = np.array(numbers, dtype=np.float64)
    x_values, columns = _indexed(_read([row[x] for row in rows]))
    y_values, lines = _indexed(_read([row[y] for row in rows]) if y is not None else [None] * len(rows))
    cells: dict[tuple[int, int], list[int]] = {}
    for k, place in enumerate(zip(lines, columns, strict=True)):
        cells.setdefault(place, []).append(k)
    shape = (len(y_values), len(x_values))
    grid, asked = np.full(shape, np.nan), np.zeros(shape, dtype=bool)
    choose: Any = _REDUCTIONS.get(reduce, np.nanmax if greater_is_better else np.nanmin)
    for place, members in cells.items():
        asked[place] = True
        if not np.isnan(values[members]).all():
            grid[place] = choose(values[members])
    several = len(rows) > len(cells)
    note = f"{reduce} of the rows of each cell" if several else ""
    return Grid(
        x, y, x_values, y_values, grid, asked, np.zeros(shape, dtype=bool), _best(grid, greater_is_better),
        greater_is_better, quantity, unit, note,
    )  # fmt: skip


def grid_of_array(values: Any, x: Any, y: Any, *, greater_is_better: bool, quantity: str, unit: str) -> Grid:
    """Arrange an array.

    Parameters
    ----------
    values : array-like of shape (n_y, n_x)
        Masked where there is no cell.
    x, y : (str, sequence)
        Name and values of columns and rows; None for `y` where there is one row.
    greater_is_better : bool
    quantity, unit : str

    Returns
    -------
    Grid

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    array = np.ma.atleast_2d(np.ma.masked_array(values, dtype=np.float64))
    axes: list[tuple[Any, list[Any]]] = []
    for argument, axis in (("x", x), ("y", (None, [None]) if y is None else y)):
        if isinstance(axis, str) or not isinstance(axis, Sequence) or len(axis) != 2:
            raise ValueError(
                f"{argument} must be (name, values) with an array, or the name of a column of a table; got "
                f"{axis!r}. Write {argument}=('N', [0, 1, 2])."
            )
        axes.append((axis[0], list(axis[1])))
    (x_name, x_values), (y_name, y_values) = axes[0], axes[1]
    if array.shape != (len(y_values), len(x_values)):
        raise ValueError(
            f"table must have a row for each of the {len(y_values)} values of y and a column for each of the "
            f"{len(x_values)} of x; got an array of shape {array.shape}."
        )
    asked = ~np.ma.getmaskarray(array)
    grid: FloatArray = array.filled(np.nan)
    return Grid(
        x_name, y_name, x_values, y_values, grid, asked, np.zeros(grid.shape, dtype=bool),
        _best(grid, greater_is_better), greater_is_better, quantity, unit,
    )  # fmt: skip


def rows_of_table(table: Any, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of what a user has, with the columns that are wanted.

    Parameters
    ----------
    table : list of dict, dict of columns, or DataFrame of pandas or polars
    wanted : sequence of str
        Columns that every row must have.

    Returns
    -------
    list of dict

    Raises
    ------
    TypeError
        If `table` is something else.
    ValueError
        If there are no rows, or columns are missing or of several lengths.
    """
    rows = _dicts(table)
    if not rows or any(name not in row for name in wanted for row in rows):
        there = first_few([repr(name) for name in (rows[0] if rows else [])], 8) or "none"
        raise ValueError(
            f"table must have rows with the columns {', '.join(map(repr, wanted))}; got {len(rows)} rows, "
            f"of the columns {there}."
        )
    return rows


def _dicts(table: Any) -> list[dict[str, Any]]:
    """Rows of what a user has, whatever their columns."""
    if hasattr(table, "to_dicts"):  # polars
        return list(table.to_dicts())
    if hasattr(table, "to_dict"):  # pandas
        return list(table.to_dict("records"))
    if isinstance(table, Mapping):
        columns = {name: list(column) for name, column in table.items()}
        if len({len(column) for column in columns.values()}) > 1:
            lengths = ", ".join(f"{len(column)} in {name!r}" for name, column in columns.items())
            raise ValueError(f"table must have columns of one length; got {lengths}.")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if isinstance(table, list | tuple) and all(isinstance(row, Mapping) for row in table):
        return [dict(row) for row in table]
    raise TypeError(
        f"table must be a list of dicts, a dict of columns or a DataFrame; got {described(table)}. "
        "With an array, pass x=(name, values) and y=(name, values)."
    )


def _axes(
    x: str | None, y: str | None, names: list[str], params: Sequence[Mapping[str, Any]]
) -> tuple[str, str | None]:
    """Parameters of the columns and rows."""
    x = None if x is None else full_name(x, params, "x")
    y = None if y is None else full_name(y, params, "y")
    if x is not None and x == y:
        raise ValueError(f"x and y must be two parameters; got {x!r} for both.")
    free = [name for name in names if name not in (x, y)]
    last = {name.rpartition("__")[2]: name for name in free}
    if x is None and y is None and {"n", "N"} <= last.keys():  # as the paper has it
        return last["N"], last["n"]
    if x is None:
        if not free:
            raise ValueError(
                "search must vary a parameter to draw a map of; got "
                f"{len(params)} candidates that do not{'' if y is None else f' vary one beside {y!r}'}."
            )
        x = free.pop(0)
    if y is None and free:
        y = free[0]
    return x, y


def _indexed(values: Sequence[Any]) -> tuple[list[Any], list[int]]:
    """Different values, numbers ascending and others as they come, and which of them each is."""
    different = {repr(value_key(value)): value for value in values}
    ordered = list(different.values())
    if all(isinstance(value, Real) and not isinstance(value, bool) for value in ordered):
        ordered.sort()
    place = {repr(value_key(value)): k for k, value in enumerate(ordered)}
    return ordered, [place[repr(value_key(value))] for value in values]


def _best(grid: FloatArray, greater_is_better: bool) -> tuple[int, int] | None:
    if np.isnan(grid).all():
        return None
    flat = np.nanargmax(grid) if greater_is_better else np.nanargmin(grid)
    row, column = np.unravel_index(flat, grid.shape)
    return int(row), int(column)


def _read(values: Sequence[Any]) -> list[Any]:
    """Text as numbers, if all of it are; as they are otherwise."""
    if not all(isinstance(value, str) for value in values):
        return list(values)
    for kind in (int, float):
        try:
            return [kind(value) for value in values]
        except ValueError:
            continue
    return list(values)
