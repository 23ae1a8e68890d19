"""What `tinynet grid` computes: errors in cross-validation over lists of settings.

Candidates that differ in the network alone share the features, which are made once for each fold. Folds keep
together what `tinynet fit` keeps together, and what `fit` would hold out is not looked at: its error of the
settings that are chosen here remains one on unseen structures. Bonds that are not given, and whether the
structures share them, are settled once, from all that is to be learned from, and shared by the folds: their
errors compare candidates, and are no test of that choice.
"""

from __future__ import annotations

import csv
import io
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn._version import __version__
from tinynet_sklearn.atomic_files import write_atomically
from tinynet_sklearn.dataset_files import Dataset
from tinynet_sklearn.learning_data import time_order_blocks, usual_split
from tinynet_sklearn.learning_errors import UNITS, ErrorLine, error_lines
from tinynet_sklearn.learning_runs import TRAINING_INTERRUPTED, settled, training_seconds
from tinynet_sklearn.learning_settings import FitSettings, SettingsError, make_model

__all__ = ["GridRow", "folds_of", "grid_rows", "parse_grid", "search", "write_rows"]

#: What a grid may vary, and how a value is read.
VARIED: dict[str, Callable[[str], Any]] = {
    "n": int,
    "N": int,
    "hidden": str,
    "alpha": float,
    "bonds": lambda text: text.replace("+", ","),
    "paths": str,
    "topology": str,
    "cutoff": float,
    "max-iter": int,
}
_CHOICES = {"paths": ("all", "simple"), "topology": ("auto", "frozen", "each", "smooth")}
_LEAST = {"n": 0, "N": 0, "max-iter": 1}

# Settings that the features depend on.
_EMBEDDING = ("n", "N", "bonds", "paths", "topology", "cutoff")

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class GridRow:
    """One candidate: what it was and how it did.

    Parameters
    ----------
    values : dict of str to object
        Of the options that the grid varies.
    settings : FitSettings
        With nothing left open.
    errors : dict of str to float
        Mean of each RMSE, "forces", "energy", "stress" or "ldos", over the folds that know the quantity;
        empty if it failed.
    spread : float
        Standard deviation of the first of them over the folds.
    n_features : int
    seconds : float
        Of the iterations of one training, those before it was taken up again included.
    problem : str
        Why it failed; "" if it did not.
    """

    values: dict[str, Any]
    settings: FitSettings
    errors: dict[str, float]
    spread: float
    n_features: int
    seconds: float
    problem: str

    @property
    def rmse(self) -> float:
        """What rows are sorted by: the first error; NaN if there is none."""
        return next(iter(self.errors.values()), float("nan"))

    def as_dict(self) -> dict[str, Any]:
        """Values of a row of the table."""
        errors = {f"{quantity}_rmse": value for quantity, value in self.errors.items()}
        return (
            self.values
            | errors
            | {
                "rmse_std": None if self.problem else self.spread,
                "features": self.n_features or None,
                "seconds": None if self.problem else round(self.seconds, 3),
                "problem": self.problem,
            }
        )


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """Turn ``--grid`` options, "n=2,4", into lists of values.

    Raises
    ------
    SettingsError
        If one is of another form, or of something that a grid does not vary.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("_", "-")
        if not equals or not values.strip():
            raise SettingsError(f"--grid must name an option and its values (n=2,4); got {text!r}.")
        if name not in VARIED:
            raise SettingsError(
                f"--grid must be of one of {', '.join(VARIED)}; got {name!r}. Set other options themselves."
            )
        if name in grid:
            raise SettingsError(f"--grid must have each option once; got {name} again. Join the values.")
        grid[name] = [_value(name, part.strip()) for part in values.split(",")]
        if len(set(grid[name])) < len(grid[name]):
            raise SettingsError(f"--grid must have each value once; got {text!r}.")
    return grid


def _value(name: str, text: str) -> Any:
    try:
        value = VARIED[name](text)
        if (
            value in ("", None)
            or value not in _CHOICES.get(name, (value,))
            or value < _LEAST.get(name, value)
        ):
            raise ValueError
    except ValueError:
        wanted = " or ".join(_CHOICES.get(name, ()))
        if not wanted:
            kind = {int: "whole numbers", float: "numbers", str: "text"}.get(VARIED[name], "bonds")  # type: ignore[call-overload]
            wanted = kind + (f", at least {_LEAST[name]}" if name in _LEAST else "")
        raise SettingsError(f"--grid {name} must be {wanted}; got {text!r}.") from None
    return value


def folds_of(
    settings: FitSettings, groups: NDArray[np.int64], n_folds: int, method: str
) -> list[tuple[Ints, Ints]]:
    """Numbers of training and test structures of each fold, as the split of `fit` would take them.

    Parameters
    ----------
    settings : FitSettings
    groups : ndarray of int of shape (n_structures,)
        File or run of each structure.
    n_folds : int
    method : {"blocks", "groups", "random", "file", "none"}
        Of the split; the last two take blocks, or groups of short files, as `fit` does by itself.

    Raises
    ------
    SettingsError
        If there are fewer structures, or files, than folds, or files are too short for so many blocks.
    """
    from sklearn.model_selection import GroupKFold

    if method in ("file", "none"):
        method = usual_split(groups)
    n, runs = len(groups), np.unique(groups)
    n_parts, of_what = (len(runs), "files and runs") if method == "groups" else (n, "structures")
    if n_parts < n_folds:
        raise SettingsError(
            f"--folds must not exceed the number of {of_what} to learn from; got {n_folds} for {n_parts}. "
            "Ask for fewer folds."
        )
    if method == "groups":
        return list(GroupKFold(n_folds).split(np.zeros(n), groups=groups))
    if method == "random":
        fold = np.empty(n, dtype=np.intp)
        fold[np.random.default_rng(settings.seed).permutation(n)] = np.arange(n) % n_folds
    else:
        fold = time_order_blocks(groups, n_folds)
    filled = len(np.unique(fold))
    if filled < n_folds:
        raise SettingsError(
            f"--folds {n_folds} needs files with so many structures to learn from, of which --split blocks "
            f"makes blocks of time; these make {filled}. Ask for fewer folds, or use --split groups or "
            "random."
        )
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n_folds)]


def search(
    settings: FitSettings,
    grid: Mapping[str, Sequence[Any]],
    data: Dataset,
    train: Ints,
    folds: Sequence[tuple[Ints, Ints]],
    *,
    jobs: int = 1,
    memory: str | None = None,
    checkpoint: str | None = None,
    done: Callable[[list[GridRow]], None] | None = None,
) -> list[GridRow]:
    """Cross-validate all combinations.

    Parameters
    ----------
    settings : FitSettings
        What all candidates share.
    grid : dict of str to list
        As from `parse_grid`.
    data : Dataset
    train : ndarray of int
        Structures to learn from; folds count among these.
    folds : list of (ndarray, ndarray)
    jobs : int, default=1
        Processes.
    memory : str or None, default=None
        Folder in which features are kept, as pickles: one that nobody else writes to.
    checkpoint : str or None, default=None
        Folder in which trainings are kept, from which a search that was cut off goes on.
    done : callable or None, default=None
        Called with the rows so far when a group of candidates with the same features is done.

    Returns
    -------
    list of GridRow
        The best first; those that failed, or come to the same as others, last.

    Raises
    ------
    KeyboardInterrupt
        If it is interrupted; `done` has had what was finished.
    """
    from joblib import Memory, Parallel, delayed

    part = data[train]
    groups: dict[tuple[Any, ...], list[tuple[dict[str, Any], FitSettings]]] = {}
    rows: list[GridRow] = []
    known: dict[Any, tuple[FitSettings, list[str]]] = {}
    first_of: dict[FitSettings, dict[str, Any]] = {}
    for values in itertools.product(*grid.values()):
        varied = dict(zip(grid, values, strict=True))
        given = replace(settings, **{name.replace("-", "_"): value for name, value in varied.items()})
        try:
            given.check()
            key = tuple(getattr(given, name) for name in _EMBEDDING)
            if key not in known:
                known[key] = settled(given, data, train)
            changed = {name: getattr(known[key][0], name) for name in _EMBEDDING}
        except ValueError as error:
            rows.append(_failed(varied, given, str(error)))
            continue
        chosen = replace(given, jobs=1, **changed)
        if first_of.setdefault(chosen, varied) is not varied:
            same = ", ".join(f"{name}={value}" for name, value in first_of[chosen].items())
            rows.append(_failed(varied, chosen, f"comes to the same as {same}"))
            continue
        groups.setdefault(tuple(changed.values()), []).append((varied, chosen))
    embed = Memory(memory, verbose=0).cache(_embedded) if memory else _embedded
    tasks = [
        delayed(_score_fold)([chosen for _, chosen in group], part, *fold, embed, checkpoint)
        for group in groups.values()
        for fold in folds
    ]
    if done is not None and rows:
        done(grid_rows(rows))
    results = iter(Parallel(n_jobs=jobs, return_as="generator")(tasks))
    for group in groups.values():
        outcomes = [next(results) for _ in folds]
        rows += [
            _row(varied, chosen, [outcome[k] for outcome in outcomes])
            for k, (varied, chosen) in enumerate(group)
        ]
        if done is not None:
            done(grid_rows(rows))
    return grid_rows(rows)


def grid_rows(rows: Sequence[GridRow]) -> list[GridRow]:
    """Sort: the best first, those that failed last."""
    return sorted(rows, key=lambda row: (bool(row.problem), np.isnan(row.rmse), row.rmse))


def write_rows(rows: Sequence[GridRow], path: Path) -> None:
    """Write a table with a line per candidate, whole or not at all."""
    names = list(dict.fromkeys(name for row in rows for name in row.as_dict()))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, names)
    table.writeheader()
    table.writerows(row.as_dict() for row in rows)
    write_atomically(path, text.getvalue().encode())


def _failed(varied: dict[str, Any], settings: FitSettings, problem: str) -> GridRow:
    return GridRow(varied, settings, {}, float("nan"), 0, float("nan"), problem)


def _row(varied: dict[str, Any], settings: FitSettings, outcomes: list[Any]) -> GridRow:
    problem = next((outcome for outcome in outcomes if isinstance(outcome, str)), "")
    if problem:
        return _failed(varied, settings, problem)
    # a quantity may be known in some folds only
    names = [name for name in UNITS if any(name in outcome[0] for outcome in outcomes)]
    errors = {name: [outcome[0][name] for outcome in outcomes if name in outcome[0]] for name in names}
    if not errors:
        return _failed(varied, settings, "no fold has anything to compare with")
    first = errors[names[0]]
    if not np.isfinite(first).all():
        return _failed(varied, settings, "its errors are no finite numbers")
    return GridRow(
        varied,
        settings,
        {name: float(np.mean(values)) for name, values in errors.items()},
        float(np.std(first)),
        outcomes[0][1],
        float(np.mean([outcome[2] for outcome in outcomes])),
        "",
    )


def _embedded(featurizer: Any, train: list[Any], test: list[Any], version: str) -> tuple[Any, Any]:
    """Features of both, from a featurizer that is fitted on the first."""
    del version  # a memory must not give what another version of the package made
    features = featurizer.fit_transform(train)
    return features, featurizer.transform(test)


def _score_fold(
    candidates: list[FitSettings],
    data: Dataset,
    train: Ints,
    test: Ints,
    embed: Callable[..., Any],
    checkpoint: str | None,
) -> list[Any]:
    """Errors, length of the vectors and seconds of candidates with the same features; or why they failed."""
    structures = [data.structures[i] for i in train]
    n_species = len({z for atoms in structures for z in atoms.numbers.tolist()})
    models = [make_model(settings, n_species, checkpoint=checkpoint) for settings in candidates]
    found: list[Any] = []
    with warnings.catch_warnings(record=True) as caught:  # a fixed number of iterations is the plan
        warnings.simplefilter("always")
        try:
            held_out = [data.structures[i] for i in test]
            features = embed(models[0]["embed"], structures, held_out, __version__)
        except (ValueError, MemoryError) as error:
            return [str(error)] * len(models)
        y: Any = data.y
        for model, settings in zip(models, candidates, strict=True):
            try:
                net = model["net"].fit(features[0], y[train])
                if any(str(warning.message).startswith(TRAINING_INTERRUPTED) for warning in caught):
                    raise KeyboardInterrupt
                options = {"output": "all"} if settings.target == "potential" else {}
                lines = error_lines(
                    settings.target,
                    y[test],
                    net.predict(features[1], **options),
                    [""] * len(test),
                    getattr(net, "quantities_", ()),
                )
                found.append((_totals(lines), int(features[0].shape[1]), training_seconds(net)))
            except (ValueError, MemoryError) as error:
                found.append(str(error))
    return found


def _totals(lines: Sequence[ErrorLine]) -> dict[str, float]:
    return {line.quantity: line.rmse for line in lines if line.part == "all"}
