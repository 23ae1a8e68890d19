"""What a search found: parameters of its candidates and one number of each, with the right sign and unit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.frames import FloatArray, IntArray

__all__ = [
    "Candidates",
    "atoms_per_fold",
    "full_name",
    "read_search",
    "short_names",
    "value_key",
    "value_text",
    "varied",
]

# Words, unit, and whether searches see the number negated, of the measures that we know.
_MEASURES: dict[str, tuple[str, str, bool]] = {
    "force_rmse": ("RMSE of forces", "eV/Å", True),
    "force_mae": ("MAE of forces", "eV/Å", True),
    "force_cosine": ("Cosine of forces", "", False),
    "potential_force_rmse": ("RMSE of forces", "eV/Å", True),
    "potential_force_mae": ("MAE of forces", "eV/Å", True),
    "energy_rmse": ("RMSE of energies", "eV/atom", True),
    "energy_mae": ("MAE of energies", "eV/atom", True),
    "stress_rmse": ("RMSE of stresses", "eV/Å³", True),
    "ldos_rmse": ("RMSE of the LDOS", "states/eV/atom", True),
    "ldos_r2": ("R² of the LDOS", "", False),
    "ldos_wasserstein": ("Wasserstein distance of the LDOS", "eV", True),
    "root_mean_squared_error": ("RMSE", "", True),
    "mean_absolute_error": ("MAE", "", True),
    "mean_squared_error": ("MSE", "", True),
    "r2": ("R²", "", False),
    "r2_score": ("R²", "", False),
    "fit_time": ("Time of a fit", "s", False),
    "score_time": ("Time to score a fold", "s", False),
}


@dataclass(frozen=True, eq=False)
class Candidates:
    """Candidates of a search, each once, and one number of each.

    Parameters
    ----------
    params : tuple of dict
        Parameters of each, those of the estimator added where only other candidates vary them.
    values : ndarray of float64 of shape (n_candidates,)
        NaN where fitting failed.
    rows : ndarray of int of shape (n_candidates,)
        Where they stand in ``cv_results_``.
    greater_is_better : bool
    quantity, unit : str
    resources : ndarray of shape (n_candidates,)
        What each had in its last iteration of a halving search; ones in others.
    """

    params: tuple[dict[str, Any], ...]
    values: FloatArray
    rows: IntArray
    greater_is_better: bool
    quantity: str
    unit: str
    resources: FloatArray

    @property
    def losses(self) -> FloatArray:
        """Values, turned so that less is better."""
        return -self.values if self.greater_is_better else self.values

    def best_of(self, members: Sequence[int]) -> int:
        """The best of some: finite, of the most resources, of the least loss; the first of equals."""
        return min(
            members,
            key=lambda k: (np.isnan(self.losses[k]), -self.resources[k], np.nan_to_num(self.losses[k])),
        )

    def only(self, fixed: Mapping[str, Any]) -> Candidates:
        """Those with these values of parameters.

        Raises
        ------
        ValueError
            If a parameter or its value is not among those searched.
        """
        kept = list(range(len(self.params)))
        for given, value in fixed.items():
            name = full_name(given, self.params, "fixed")
            there = {value_key(self.params[k].get(name)): self.params[k].get(name) for k in kept}
            if value_key(value) not in there:
                raise ValueError(
                    f"fixed[{given!r}] must be a value that was searched; got {value!r}. There are "
                    f"{first_few([repr(v) for v in there.values()], 8)}."
                )
            kept = [k for k in kept if value_key(self.params[k].get(name)) == value_key(value)]
        return Candidates(
            tuple(self.params[k] for k in kept),
            self.values[kept],
            self.rows[kept],
            self.greater_is_better,
            self.quantity,
            self.unit,
            self.resources[kept],
        )


def read_search(
    search: Any,
    score: str = "mean_test_score",
    negate: bool | str = "auto",
    quantity: str | None = None,
    unit: str | None = None,
) -> Candidates:
    """Read one number of each candidate.

    Parameters
    ----------
    search : GridSearchCV, RandomizedSearchCV, HalvingGridSearchCV ..., or dict
        Fitted; or its ``cv_results_``.
    score : str, default="mean_test_score"
        Column of ``cv_results_``, or the name of a metric, of which the mean over the test folds is taken.
        With several metrics, the default is the one that `refit` names.
    negate : bool or "auto", default="auto"
        Whether to turn the sign of scores; "auto" does so for errors, which searches see negated.
    quantity, unit : str or None, default=None
        What the number is; None takes it from the scorer where we know it.

    Returns
    -------
    Candidates

    Raises
    ------
    TypeError
        If it is no search.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    ValueError
        If there is no such score, or `negate` is something else.
    """
    from sklearn.exceptions import NotFittedError

    if not isinstance(search, Mapping) and not hasattr(search, "cv_results_"):
        if hasattr(search, "scoring") and hasattr(search, "refit"):
            raise NotFittedError(
                f"search must be fitted; got a {type(search).__name__} that is not. Call fit."
            )
        raise TypeError(
            f"search must be a fitted GridSearchCV or the like, or its cv_results_; got {described(search)}."
        )
    if negate not in (True, False, "auto"):
        raise ValueError(f"negate must be True, False or 'auto'; got {negate!r}.")
    results: Mapping[str, Any] = search if isinstance(search, Mapping) else search.cv_results_
    column = _column(search, results, score)
    values = np.array(results[column], dtype=np.float64)
    scored = re.match(r"(?:mean|split\d+)_(?:test|train)_(.+)", column)
    if scored is None:
        measure = column.removeprefix("mean_")
        words, unit_of_it, negated = _MEASURES.get(measure, (measure.replace("_", " "), "", False))
        greater = False  # times, standard deviations and ranks
    else:
        words, unit_of_it, negated = _measure(search, scored[1], values)
        greater = True
    if negated if negate == "auto" else negate:
        values, greater = -values, not greater
    params, rows, resources = _last_of_each(search, results)
    return Candidates(
        params,
        values[rows],
        rows,
        greater,
        words if quantity is None else quantity,
        unit_of_it if unit is None else unit,
        resources,
    )


def _column(search: Any, results: Mapping[str, Any], score: str) -> str:
    candidates = [score, f"mean_test_{score}"]
    if score == "mean_test_score" and isinstance(refit := getattr(search, "refit", None), str):
        candidates.append(f"mean_test_{refit}")
    for name in candidates:
        if name in results and np.asarray(results[name]).dtype.kind in "fiu":
            return name
    metrics = [name.removeprefix("mean_test_") for name in results if name.startswith("mean_test_")]
    raise ValueError(
        f"score must be a metric of the search or a column of cv_results_; got {score!r}. Metrics are "
        f"{first_few([repr(name) for name in metrics], 8)}."
    )


def _last_of_each(
    search: Any, results: Mapping[str, Any]
) -> tuple[tuple[dict[str, Any], ...], IntArray, FloatArray]:
    """Parameters, row of ``cv_results_`` and resources of each candidate in the last iteration it saw."""
    given = list(results["params"])
    rows: dict[Any, int] = {}
    for k, params in enumerate(given):
        rows[tuple(sorted((name, repr(value_key(v))) for name, v in params.items()))] = k
    last = np.array(sorted(rows.values()), dtype=np.int64)
    names = list(dict.fromkeys(name for params in given for name in params))
    defaults: Mapping[str, Any] = {}
    if any(len(params) < len(names) for params in given) and hasattr(search, "estimator"):
        defaults = search.estimator.get_params()
    params = tuple(
        {n: given[k].get(n, defaults.get(n)) for n in names if n in given[k] or n in defaults} for k in last
    )
    resources = np.asarray(results.get("n_resources", np.ones(len(given))), dtype=np.float64)[last]
    return params, last, resources


def _measure(search: Any, metric: str, values: FloatArray) -> tuple[str, str, bool]:
    """Words, unit and whether it is negated, of a metric of the search."""
    scorer = getattr(search, "scorer_", None)
    if isinstance(scorer, Mapping):
        scorer = scorer.get(metric)
    scoring = getattr(search, "scoring", None)
    names = [_name_of(scorer), scoring if isinstance(scoring, str) else "", metric]
    for name in names:
        if name.removeprefix("neg_") in _MEASURES:
            words, unit, negated = _MEASURES[name.removeprefix("neg_")]
            # A scorer of one's own may have the other sign.
            return words, unit, getattr(scorer, "_sign", -1 if negated else 1) < 0
    finite = values[np.isfinite(values)]
    # Without scoring, the score of the estimator counts, and that is never an error.
    sign = getattr(scorer, "_sign", 1 if scoring is None and hasattr(search, "scoring") else None)
    if sign is None:
        negated = metric.startswith("neg_") or bool(len(finite) and (finite <= 0).all())
    else:
        negated = sign < 0
    own = next((name for name in (metric, *names) if name and name != "score"), "score")
    return own.removeprefix("neg_").replace("_", " "), "", negated


def _name_of(scorer: Any) -> str:
    inner = getattr(scorer, "scorer", None)  # of one kind of several targets
    if inner is not None:
        return _name_of(inner)
    function: Callable[..., Any] | None = getattr(scorer, "_score_func", None)
    name = getattr(function, "__name__", None) or getattr(scorer, "__name__", None) or repr(scorer)
    name = str(name).removesuffix("_scorer")
    return name if name.isidentifier() and scorer is not None else ""


def atoms_per_fold(search: Any, structures: Sequence[Any], groups: Any, resources: float) -> float:
    """Mean number of atoms in the test folds of a search.

    Parameters
    ----------
    search : GridSearchCV ...
        Fitted.
    structures : list of structures
        It was fitted to.
    groups : array-like of shape (n_structures,) or None
        As in its `fit`.
    resources : float
        What the candidates had; with a halving search, maybe part of the structures.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the splitter of the search cannot split the structures.
    """
    from sklearn.model_selection import check_cv

    counts = np.array([len(structure) for structure in structures], dtype=np.float64)
    splitter = check_cv(getattr(search, "cv", None))
    try:
        folds = [counts[test].sum() for _, test in splitter.split(structures, None, groups)]
    except (TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"structures must be those of search.fit, and groups as well where there were any; got "
            f"{len(structures)} structures, which {type(splitter).__name__} cannot split: {error}"
        ) from error
    # An iterator over splits is used up by the search.
    atoms = float(np.mean(folds)) if folds else float(counts.sum()) / search.n_splits_
    if getattr(search, "resource", None) == "n_samples":  # halving shrinks test folds, too
        atoms *= resources / len(structures)
    return atoms


# ---- Names and values of parameters ------------------------------------------------------------------------


def varied(params: Sequence[Mapping[str, Any]]) -> list[str]:
    """Parameters with more than one value, in the order in which they appear."""
    names = dict.fromkeys(name for one in params for name in one)
    return [name for name in names if len({repr(value_key(one.get(name))) for one in params}) > 1]


def full_name(name: str, params: Sequence[Mapping[str, Any]], argument: str) -> str:
    """Name of a parameter with its steps, of which the last piece will do where it is unique.

    Raises
    ------
    ValueError
        If there is none, or more than one.
    """
    names = list(dict.fromkeys(n for one in params for n in one))
    if name in names:
        return name
    found = [n for n in names if n.endswith(f"__{name}")]
    if len(found) == 1:
        return found[0]
    received = f"{name!r}, which may be {' or '.join(map(repr, found))}" if found else repr(name)
    raise ValueError(
        f"{argument} must name a parameter that was searched; got {received}. There are "
        f"{first_few([repr(n) for n in names], 8)}."
    )


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Names without their steps, where they remain distinct."""
    names = list(names)
    last = [name.rpartition("__")[2] for name in names]
    return {name: piece if last.count(piece) == 1 else name for name, piece in zip(names, last, strict=True)}


def value_key(value: Any) -> Any:
    """What is equal for equal values: the value where it can be hashed, else how it is written."""
    try:
        if isinstance(value, list | np.ndarray):
            value = tuple(np.asarray(value).tolist())
        hash(value)
    except (TypeError, ValueError):  # ValueError: lists of different lengths make no array
        return repr(value)
    return value


def value_text(value: Any) -> str:
    """A value in few characters: 1e-05, 16x32, PCA."""
    if isinstance(value, bool | np.bool_) or value is None:
        return str(value)
    if isinstance(value, Real):
        return f"{float(value):.4g}"
    if isinstance(value, tuple | list) and value and all(isinstance(v, int | np.integer) for v in value):
        return "x".join(map(str, value))
    if isinstance(value, Mapping):
        value = ", ".join(f"{k}={value_text(v)}" for k, v in value.items())
    elif hasattr(value, "get_params"):
        value = type(value).__name__
    text = str(value)
    return text if len(text) <= 24 else text[:23] + "…"
