"""How the results of learning look in a terminal: errors, grids, model cards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tinynet_sklearn._validation import plural
from tinynet_sklearn.reports import section, table

if TYPE_CHECKING:
    from tinynet_sklearn.learning_errors import ErrorLine
    from tinynet_sklearn.learning_grids import GridRow

#: At most so many files are shown, those with the largest errors.
MAX_FILES = 12

#: Longer names of files are folded.
LONGEST_NAME = 40

#: At most so many candidates of a grid.
MAX_CANDIDATES = 30

_SPREAD = "spread: RMSE of zero forces or stress, of the mean energy, of the mean curve of the species"


def print_errors(console: Console, title: str, lines: Sequence[ErrorLine]) -> None:
    """Errors of everything and of parts of it, those of files in tables of their own."""
    if not lines:
        section(console, title, "None: there is nothing to compare with.")
        return
    shown = [line for line in lines if line.part != "file"]
    files = [line for line in lines if line.part == "file"]
    section(console, title, lines_table(shown), Text(_SPREAD, style="dim"))
    for quantity in dict.fromkeys(line.quantity for line in files):
        those = sorted((line for line in files if line.quantity == quantity), key=lambda line: -line.rmse)
        more = f" ({len(those) - MAX_FILES} files with smaller errors are not shown)"
        what = f"{quantity.upper() if quantity == 'ldos' else quantity.capitalize()} by file"
        section(console, what + (more if len(those) > MAX_FILES else ""), lines_table(those[:MAX_FILES]))


def lines_table(lines: Iterable[ErrorLine]) -> Table:
    """Errors next to the spread of the data."""
    found = table("", "", "values", "RMSE", "MAE", "spread", "unit")
    for column in (found.columns[1], found.columns[-1]):
        column.justify = "left"
    found.columns[1].no_wrap, found.columns[1].max_width = False, LONGEST_NAME
    before = None
    for line in lines:
        found.add_row(
            Text(line.quantity if line.quantity != before else ""),
            Text(line.name, overflow="fold"),
            f"{line.n:,}",
            f"{line.rmse:.4g}",
            f"{line.mae:.4g}",
            f"{line.spread:.4g}",
            line.unit if line.quantity != before else "",
            style="bold" if line.part == "all" else None,
        )
        before = line.quantity
    return found


def print_remarks(console: Console, title: str, remarks: Iterable[str]) -> None:
    """Decisions and warnings, a paragraph each."""
    grid = Table.grid(padding=(0, 1))
    for remark in remarks:
        grid.add_row("-", Text(remark))
    if grid.row_count:
        section(console, title, grid)


def print_grid(console: Console, rows: Sequence[GridRow], n_folds: int) -> None:
    """Candidates, the best first, and why some failed."""
    from tinynet_sklearn.learning_errors import UNITS

    good = [row for row in rows if not row.problem]
    quantities = list(dict.fromkeys(name for row in good for name in row.errors))
    names = list(rows[0].values) if rows else []
    if good:
        found = table(*names, *(f"{q} RMSE" for q in quantities), "+-", "features", "s per fit")
        for k, row in enumerate(good[:MAX_CANDIDATES]):
            found.add_row(
                *(Text(str(row.values[name])) for name in names),
                *(f"{row.errors.get(q, float('nan')):.4g}" for q in quantities),
                f"{row.spread:.2g}",
                str(row.n_features),
                f"{row.seconds:.2g}",
                style="bold" if k == 0 else None,
            )
        more = f"; {len(good) - MAX_CANDIDATES} more in the file" if len(good) > MAX_CANDIDATES else ""
        units = ", ".join(f"{q} in {UNITS[q]}" for q in quantities)
        section(console, f"Errors in {n_folds}-fold cross-validation, {units}{more}", found)
    failed: dict[str, list[str]] = {}
    for row in rows:
        if row.problem:
            values = ", ".join(f"{name}={value}" for name, value in row.values.items())
            failed.setdefault(row.problem, []).append(values)
    title = f"{plural(len(rows) - len(good), 'candidate')} without errors to compare"
    print_remarks(console, title, [f"{'; '.join(those)}: {problem}" for problem, those in failed.items()])


def print_card(console: Console, name: str, card: Mapping[str, Any]) -> None:
    """A model card; of those that were not written by `tinynet fit`, whatever they hold."""
    if "card" not in card:
        section(console, f"{name}: what was saved with the model", _pairs(card))
        return
    from tinynet_sklearn.learning_errors import ErrorLine

    data, split, training = card["data"], card["split"], card["training"]
    section(console, name, card["method"], f"made on {card['created']}")
    files = [
        f"{entry['file']}: {plural(entry['structures'], 'structure')}"
        + (f", {entry['train']} to learn from, {entry['test']} held out" if "train" in entry else "")
        for entry in data["files"]
    ]
    more = len(files) - MAX_FILES
    section(
        console,
        f"Data: {plural(data['structures'], 'structure')}, {plural(data['atoms'], 'atom')} of "
        f"{', '.join(data['species'])}",
        *files[:MAX_FILES],
        *([f"... and {more} more"] if more > 0 else []),
        *([f"{plural(len(data['left_out']), 'problem')}, left out"] if data["left_out"] else []),
    )
    section(
        console,
        "Split",
        f"held out: {split['description']}" if split["test"] else split["description"],
        f"{split['train']} to learn from, {split['test']} held out",
    )
    print_errors(console, "Errors on held-out structures", [ErrorLine(**e) for e in card["held_out_errors"]])
    print_errors(console, "Errors on training structures", [ErrorLine(**e) for e in card["training_errors"]])
    state = "INTERRUPTED" if training["interrupted"] else "to its end"
    section(
        console,
        "Training",
        f"{state}, {training['iterations']} iterations, {training['seconds']:.3g} seconds",
    )
    print_remarks(console, "Remarks", training["remarks"])
    section(console, "Limits", card["limits"])
    section(console, "Units", _pairs(card["units"]))
    section(console, "Versions", ", ".join(f"{name} {number}" for name, number in card["versions"].items()))
    section(console, "Made by")
    console.print(f"  {card['command']}", markup=False, soft_wrap=True)  # one line, to be copied


def _pairs(entries: Mapping[str, Any]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in entries.items():
        shown = Text(str(value)) if not isinstance(value, dict) else _pairs(value)
        grid.add_row(Text(str(name)), shown)
    return grid
