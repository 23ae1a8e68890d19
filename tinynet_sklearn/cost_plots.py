"""Accuracy against cost: which of several models to pick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn._validation import described, first_few
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.metrics import force_rmse
from tinynet_sklearn.name_tags import place_names
from tinynet_sklearn.plot_axes import laid_out_size, plain_ticks, spans_much, wrapped
from tinynet_sklearn.plotting import entry_look, new_axes
from tinynet_sklearn.search_results import atoms_per_fold, read_search, short_names, value_text, varied
from tinynet_sklearn.timing import microseconds_per_atom

__all__ = ["AccuracyCostDisplay"]

_COST, _UNIT = "Time of a prediction", "µs/atom"
# Names longer than this part of the axes, and than so many points, are broken into lines, each so high.
_NAME_WIDTH, _SHORT_NAME, _LINE = 0.4, 110.0, 10.0
# More groups than this have their legend beside the axes, in columns of so many.
_MOST_INSIDE, _ROWS_BESIDE = 8, 16


class AccuracyCostDisplay:
    """Errors against costs of several models, with the Pareto front and the model to pick.

    Make one with `from_results`, `from_estimators` or `from_search`. On the front (line, filled marks) are
    models that no other beats in error without costing more. The one to pick is the cheapest of all whose
    error is within `tolerance` of the lowest; a ring and a bold name show it, a band which errors are near
    enough.

    Parameters
    ----------
    labels : list of str
        Names of the models.
    errors, costs : ndarray of shape (n_models,)
        NaN where a model failed; it is not drawn.
    groups : list of str or None, default=None
        To which of several families each belongs; they differ in colour and mark.
    quantity, unit, cost, cost_unit : str
        For the axes.
    tolerance : float, default=0.1
        How much worse than the best a model may be to be picked.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the plot.
    figure_ : matplotlib Figure
        That contains it; ``figure_.savefig("cost.png")``.
    pick_ : str
        Label of the model to pick.
    pick_index_ : int
        Where it stands among `labels`.
    pick_params_ : dict
        Its parameters, for ``search.estimator.set_params(**display.pick_params_)``; only `from_search`.
    front_ : ndarray of int
        Models on the Pareto front, cheapest first.

    Examples
    --------
    >>> from tinynet_sklearn import AccuracyCostDisplay
    >>> names, errors = ["L0(2)", "L4(1)", "L4(2)", "L4(3)"], [0.149, 0.327, 0.143, 0.084]
    >>> display = AccuracyCostDisplay.from_results(names, errors, [1.1, 0.9, 1.5, 2.9])
    >>> display.pick_, [names[k] for k in display.front_]
    ('L4(3)', ['L4(1)', 'L0(2)', 'L4(2)', 'L4(3)'])
    >>> AccuracyCostDisplay.from_results(names, errors, [1.1, 0.9, 1.5, 2.9], tolerance=0.8).pick_
    'L0(2)'
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        errors: FloatArray,
        costs: FloatArray,
        groups: Sequence[str] | None = None,
        quantity: str = "RMSE of forces",
        unit: str = "eV/Å",
        cost: str = _COST,
        cost_unit: str = _UNIT,
        tolerance: float = 0.1,
    ) -> None:
        self.labels = labels
        self.errors = errors
        self.costs = costs
        self.groups = groups
        self.quantity = quantity
        self.unit = unit
        self.cost = cost
        self.cost_unit = cost_unit
        self.tolerance = tolerance

    @classmethod
    def from_results(
        cls,
        labels: Sequence[str],
        errors: ArrayLike,
        costs: ArrayLike,
        *,
        groups: Sequence[str] | None = None,
        quantity: str = "RMSE of forces",
        unit: str = "eV/Å",
        cost: str = _COST,
        cost_unit: str = _UNIT,
        tolerance: float = 0.1,
        ax: Any = None,
        **style: Any,
    ) -> AccuracyCostDisplay:
        """Plot given numbers.

        Parameters
        ----------
        labels : list of str of length n_models
        errors, costs : array-like of shape (n_models,)
            The lower the better: microseconds per atom, columns of the features, weights ... NaN where a
            model failed.
        groups : list of str of length n_models or None, default=None
            Families of models, in different colours.
        quantity, unit, cost, cost_unit : str
            For the axes.
        tolerance : float, default=0.1
            How much worse than the best a model may be to be picked: 0.1 is 10 %.
        ax, **style
            As in `plot`.

        Returns
        -------
        AccuracyCostDisplay

        Raises
        ------
        ValueError
            If lengths differ, no model has both numbers, an error or a cost is negative, or `tolerance` is.
        """
        error, price = np.asarray(errors, dtype=np.float64), np.asarray(costs, dtype=np.float64)
        lengths = {"labels": len(labels), "errors": error.size, "costs": price.size}
        if groups is not None:
            lengths["groups"] = len(groups)
        if len(set(lengths.values())) > 1:
            received = ", ".join(f"{n} {name}" for name, n in lengths.items())
            raise ValueError(f"labels, errors and costs must have one entry for each model; got {received}.")
        if not (np.isfinite(error) & np.isfinite(price)).any():
            raise ValueError(
                "errors and costs must both be known of at least one model; got none of "
                f"{len(labels)}. Models that failed may have NaN."
            )
        for name, numbers in (("errors", error), ("costs", price)):
            bad = [f"{x:.4g} for {label}" for label, x in zip(labels, numbers, strict=True) if x < 0]
            if bad:
                raise ValueError(
                    f"{name} must not be negative; got {first_few(bad)}. Turn the sign of negated scores; of "
                    "scores to be maximised, pass what is missing to the best, as 1 - R²."
                )
        if tolerance < 0:
            raise ValueError(f"tolerance must not be negative; got {tolerance!r}. 0.1 stands for 10 %.")
        display = cls(
            labels=[str(label) for label in labels],
            errors=error.ravel(),
            costs=price.ravel(),
            groups=None if groups is None else [str(group) for group in groups],
            quantity=quantity,
            unit=unit,
            cost=cost,
            cost_unit=cost_unit,
            tolerance=tolerance,
        )
        return display.plot(ax=ax, **style)

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any],
        X: Sequence[Any],
        y: Any,
        *,
        metric: Callable[[Any, Any], float] = force_rmse,
        repeats: int = 5,
        **options: Any,
    ) -> AccuracyCostDisplay:
        """Measure fitted models and plot them.

        Parameters
        ----------
        estimators : dict of str to fitted estimator
            By name.
        X : list of structures
            Held out; their predictions are timed by `microseconds_per_atom`, one model after the other.
        y : PerAtomArray, PotentialTargets or what the metric takes
        metric : callable, default=force_rmse
            Of y and the prediction; the lower the better.
        repeats : int, default=5
            Timed calls of each model.
        **options
            As in `from_results`.

        Returns
        -------
        AccuracyCostDisplay

        Raises
        ------
        TypeError
            If `estimators` is no dict.
        ValueError
            As in `from_results`.
        """
        if not isinstance(estimators, Mapping):
            raise TypeError(
                f"estimators must be a dict of fitted models by name; got {described(estimators)}. Write "
                "{'L4(2)': pipe}."
            )
        errors = [float(metric(y, model.predict(X))) for model in estimators.values()]
        costs = [microseconds_per_atom(model, X, repeats=repeats) for model in estimators.values()]
        return cls.from_results(list(estimators), errors, costs, **options)

    @classmethod
    def from_search(
        cls,
        search: Any,
        structures: Sequence[Any] | None = None,
        *,
        groups: Any = None,
        score: str = "mean_test_score",
        negate: bool | str = "auto",
        quantity: str | None = None,
        unit: str | None = None,
        **options: Any,
    ) -> AccuracyCostDisplay:
        """Plot the candidates of a fitted search: mean error over the folds against the time of scoring.

        The time is ``mean_score_time``, which a search measures anyway: features, prediction and scorers,
        once per fold. It tells candidates apart, but carries more than a prediction alone, and with
        ``n_jobs`` above 1 what the processes take from each other; `from_estimators` measures models
        properly.

        Parameters
        ----------
        search : GridSearchCV, RandomizedSearchCV, HalvingGridSearchCV ..., or dict
            Fitted; or its ``cv_results_``.
        structures : list of structures or None, default=None
            What the search was fitted to; gives times per atom of a test fold. None: milliseconds per fold.
        groups : array-like of shape (n_structures,) or None, default=None
            Those of ``search.fit(..., groups=groups)``, where the splitter needs them.
        score, negate, quantity, unit
            As in `GridHeatmapDisplay.from_search`; it must be an error, that is, something to be minimised.
        **options
            As in `from_results`.

        Returns
        -------
        AccuracyCostDisplay

        Raises
        ------
        ValueError
            If the score is to be maximised, or as in `from_results`.
        """
        candidates = read_search(search, score, negate, quantity, unit)
        if candidates.greater_is_better:
            raise ValueError(
                f"score must be an error, the lower the better; got {score!r} "
                f"({candidates.quantity}), of which more is better. Name an error with score=."
            )
        kept = np.flatnonzero(candidates.resources == candidates.resources.max())
        params = [candidates.params[k] for k in kept]
        results = search if isinstance(search, Mapping) else search.cv_results_
        seconds = np.asarray(results["mean_score_time"], dtype=np.float64)[candidates.rows[kept]]
        if structures is None:
            costs, words = 1e3 * seconds, {"cost": "Time to score a fold", "cost_unit": "ms"}
        else:
            most = float(candidates.resources.max())
            costs = 1e6 * seconds / atoms_per_fold(search, structures, groups, most)
            words = {"cost": "Time of prediction and scoring", "cost_unit": _UNIT}
        labels = _labels(params)
        made = {"quantity": candidates.quantity, "unit": candidates.unit}
        display = cls.from_results(labels, candidates.values[kept], costs, **(words | made | options))
        display.pick_params_ = params[display.pick_index_]
        return display

    def plot(
        self, ax: Any = None, *, names: str = "front", scatter_kwargs: dict[str, Any] | None = None
    ) -> AccuracyCostDisplay:
        """Draw into ``ax``, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
        names : {"front", "all", "pick"}, default="front"
            Which models are named.
        scatter_kwargs : dict or None, default=None
            Passed on to ``ax.scatter`` for every group.

        Returns
        -------
        AccuracyCostDisplay
            self

        Raises
        ------
        ValueError
            If `names` is something else.
        """
        if names not in ("front", "all", "pick"):
            raise ValueError(f"names must be 'front', 'all' or 'pick'; got {names!r}.")
        families = list(dict.fromkeys(self.groups or ()))
        n_beside = 0 if len(families) <= _MOST_INSIDE else -(-len(families) // _ROWS_BESIDE)
        if ax is None:
            ax = new_axes(6.2 + n_beside * (0.6 + 0.07 * max(map(len, families), default=0)), 4.2)
        elif ax.figure.get_layout_engine() is None:  # no room beside
            n_beside = 0
        self.ax_, self.figure_ = ax, ax.figure
        self.pick_params_: dict[str, Any] = {}
        self.front_ = _pareto_front(self.errors, self.costs)
        limit = float((1.0 + self.tolerance) * self.errors[self.front_[-1]])
        self.pick_index_ = int(next(k for k in self.front_ if self.errors[k] <= limit))
        self.pick_ = self.labels[self.pick_index_]
        self._draw(limit, scatter_kwargs or {})
        if families:
            beside = {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0), "ncols": n_beside}
            ax.legend(fontsize=8, framealpha=0.9, **(beside | {"borderaxespad": 0.0} if n_beside else {}))
        unit = f" ({self.unit})" if self.unit else ""
        cost_unit = f" ({self.cost_unit})" if self.cost_unit else ""
        ax.set(xlabel=self.cost + cost_unit, ylabel=self.quantity + unit)
        chosen = self.pick_ if self.groups is None else f"{self.pick_}, {self.groups[self.pick_index_]}"
        width, height = laid_out_size(ax)
        title = (
            f"Pick {chosen}: {self.errors[self.pick_index_]:.3g} {self.unit}".rstrip()
            + f" for {self.costs[self.pick_index_]:.3g} {self.cost_unit or self.cost.lower()}"
        )
        # Longer numbers beside wider axes may take a little of the width.
        ax.set_title(wrapped(title, 0.96 * width, 9.0), loc="left", fontsize=9)
        shown = np.flatnonzero(np.isfinite(self.errors + self.costs))
        named = {"front": self.front_, "all": shown, "pick": np.array([self.pick_index_])}[names]
        order = sorted((int(k) for k in named), key=lambda k: (self.costs[k], -self.errors[k]))
        length = max(_NAME_WIDTH * width, _SHORT_NAME)
        most = int(np.clip(0.7 * height / (_LINE * len(order)), 1, 3))  # so that there is room for all
        self.text_ = place_names(
            ax,
            [wrapped(self.labels[k], length, 8.0, "bold", most) for k in order],
            np.column_stack([self.costs[order], self.errors[order]]),
            bold=order.index(self.pick_index_),
        )
        plain_ticks(ax)  # again, since the names made the axes wider
        return self

    def _draw(self, limit: float, scatter_kwargs: dict[str, Any]) -> None:
        """Marks of each group, the front as a staircase, and the band of errors that are near enough."""
        ax = self.ax_
        names = ["models"] * len(self.labels) if self.groups is None else list(self.groups)
        on_front = np.isin(np.arange(len(self.labels)), self.front_)
        known = np.isfinite(self.errors) & np.isfinite(self.costs)
        for set_scale, numbers in ((ax.set_xscale, self.costs[known]), (ax.set_yscale, self.errors[known])):
            if spans_much(float(numbers.min()), float(numbers.max())):
                set_scale("log")
        for k, name in enumerate(dict.fromkeys(names)):
            mine = known & np.array([other == name for other in names])
            color, marker, _ = entry_look(k)
            style: dict[str, Any] = {"marker": marker, "s": 30.0, "edgecolors": color, "zorder": 3.0}
            style |= scatter_kwargs
            for these, face in ((mine & on_front, color), (mine & ~on_front, "white")):
                label = name if these.any() and (face == color or not (mine & on_front).any()) else None
                ax.scatter(self.costs[these], self.errors[these], facecolors=face, label=label, **style)
        costs, errors = self.costs[self.front_], self.errors[self.front_]
        self.line_ = ax.step(costs, errors, where="post", color="0.45", linewidth=1.0, zorder=2.0)[0]
        ax.axhspan(float(errors[-1]), limit, color="0.9", linewidth=0.0, zorder=0.5)
        ax.scatter(
            [self.costs[self.pick_index_]], [self.errors[self.pick_index_]], s=130.0, facecolors="none",
            edgecolors="black", linewidths=1.4, zorder=3.5,
        )  # fmt: skip
        plain_ticks(ax)


def _labels(params: Sequence[Mapping[str, Any]]) -> list[str]:
    """What candidates differ in; n and N of the embedding as L4(2)."""
    names = varied(params) or list(params[0])  # a single candidate differs in nothing
    short = short_names(names)
    by_short = {short[name]: name for name in names}
    n, N = by_short.get("n"), by_short.get("N")
    labels = []
    for one in params:
        words = []
        if n is not None and N is not None:
            words.append(f"L{value_text(one.get(n))}({value_text(one.get(N))})")
        rest = [name for name in names if name in one and (not words or name not in (n, N))]
        labels.append(", ".join(words + [f"{short[name]}={value_text(one[name])}" for name in rest]))
    return labels


def _pareto_front(errors: FloatArray, costs: FloatArray) -> IntArray:
    """Models that none beats in error at the same or less cost, cheapest first."""
    known = np.flatnonzero(np.isfinite(errors) & np.isfinite(costs))
    front: list[int] = []
    for k in known[np.lexsort((errors[known], costs[known]))]:
        if not front or errors[k] < errors[front[-1]]:
            front.append(int(k))
    return np.array(front, dtype=np.int64)
