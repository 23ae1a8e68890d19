"""Plots of how networks were trained, in the manner of scikit-learn's ``Display`` classes."""

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np

from tinynet_sklearn._validation import described, first_few, species_name
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.plotting import COLORS, MARKERS, make_logarithmic, new_axes

# What `LossCurveDisplay` reads, and how it draws.
_CURVES = ("loss", "validation", "time")
_X_LABELS = {"iteration": "Iteration", "time": "Training time of the network (s)"}
_SCALES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "loss": ("Loss (MSE of scaled targets)", np.asarray),
    "rmse": ("Root of the loss (RMSE of scaled targets)", np.sqrt),
}
_LINESTYLES = {"loss": "-", "validation": "--"}
_LINEWIDTH = 1.3
_MARK = {"markersize": 7.0, "markeredgecolor": "white", "markeredgewidth": 0.7, "zorder": 3.0}

# More networks than this need a legend beside the plot, and more lines than a column holds another column.
_MOST_INSIDE = 5
_LEGEND_LINES = 18


class LossCurveDisplay:
    """Learning curves of the networks: training loss solid, validation loss dashed, one colour each.

    Make one with `from_estimator` or `from_history`. Where there is a validation loss, a mark stands at its
    lowest value: the weights of that iteration were kept.

    Parameters
    ----------
    curves : dict of str to dict of str to ndarray of shape (n_iter,)
        By name of the network: "loss" after every iteration and, where known, "validation" and "time", the
        seconds since the training of the network began.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the plot.
    figure_ : matplotlib Figure
        That contains it; ``figure_.savefig("loss.png")``.
    kept_ : dict of str to int
        Iteration, counted from 1, with the lowest validation loss, for the networks that have one.

    Notes
    -----
    Losses are mean squared errors of the targets as the networks see them, that is scaled (`target_scaler` of
    `BPNNRegressor`). The training loss includes the penalties, the validation loss does not and may lie
    below it.

    Examples
    --------
    >>> from tinynet_sklearn import LossCurveDisplay
    >>> history = {8: {"loss": [0.9, 0.3, 0.1, 0.05], "validation": [1.0, 0.4, 0.2, 0.3]}}
    >>> display = LossCurveDisplay.from_history(history, scale="rmse")
    >>> display.kept_
    {'O': 3}
    """

    def __init__(self, *, curves: Mapping[str, Mapping[str, FloatArray]]) -> None:
        self.curves = curves

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        names: Mapping[Any, str] | None = None,
        x: str = "iteration",
        scale: str = "loss",
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> "LossCurveDisplay":
        """Plot how the training of a regressor went.

        Parameters
        ----------
        estimator : BPNNRegressor or Pipeline
            Fitted; of a pipeline, the last step must be the regressor.
        names : dict or None, default=None
            Name of each key of ``history_``; None takes chemical symbols, and "site 0", "site 1" ... with
            ``networks="per-site"``.
        x, scale, ax, line_kwargs
            As in `plot`.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        TypeError
            If there is no `BPNNRegressor`.
        sklearn.exceptions.NotFittedError
            If it is not fitted.
        ValueError
            As in `from_history`.

        Examples
        --------
        >>> import numpy as np
        >>> from tinynet_sklearn import BPNNRegressor, LossCurveDisplay
        >>> X = np.linspace(-1, 1, 40)[:, None]
        >>> net = BPNNRegressor((4,), early_stopping=True, random_state=0).fit(X, np.sin(2 * X))
        >>> display = LossCurveDisplay.from_estimator(net)
        >>> 1 <= display.kept_["network"] <= net.n_iter_
        True
        """
        # Whoever has an estimator has these loaded; whoever draws numbers need not wait for them.
        from sklearn.pipeline import Pipeline
        from sklearn.utils.validation import check_is_fitted

        from tinynet_sklearn.potential import BPNNPotential
        from tinynet_sklearn.regressor import BPNNRegressor

        net = estimator[-1] if isinstance(estimator, Pipeline) else estimator
        if isinstance(net, BPNNPotential):  # trained as one, so it has one curve
            check_is_fitted(net)
            history, names = {0: net.history_}, names or {0: "potential"}
            return cls.from_history(history, names=names, x=x, scale=scale, ax=ax, line_kwargs=line_kwargs)
        if not isinstance(net, BPNNRegressor):
            received = type(net).__name__ + (" as its last step" if net is not estimator else "")
            raise TypeError(
                "estimator must be a fitted BPNNRegressor or BPNNPotential, or end a Pipeline as one; "
                f"got {received}. Of a search, pass best_estimator_."
            )
        check_is_fitted(net)
        if names is None and net.networks == "per-site":
            names = {key: f"site {key}" for key in net.history_}
        return cls.from_history(net.history_, names=names, x=x, scale=scale, ax=ax, line_kwargs=line_kwargs)

    @classmethod
    def from_history(
        cls,
        history: Mapping[Any, Mapping[str, Any]],
        *,
        names: Mapping[Any, str] | None = None,
        x: str = "iteration",
        scale: str = "loss",
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> "LossCurveDisplay":
        """Plot given curves: of a model that is gone, or of several, to compare them.

        Networks whose curves are equal, as those of all species with ``networks="shared"``, are drawn as one.
        Networks without iterations are left out.

        Parameters
        ----------
        history : dict of dict of str to array-like of shape (n_iter,)
            As ``history_`` of `BPNNRegressor`: for each network "loss" and, where known, "validation" and
            "time", the seconds since the training of the network began. Other entries are not looked at.
        names : dict or None, default=None
            Name of each key of `history`; None takes chemical symbols for atomic numbers and other keys as
            they are. Site classes are numbers, too: name them.
        x, scale, ax, line_kwargs
            As in `plot`.

        Returns
        -------
        LossCurveDisplay

        Raises
        ------
        TypeError
            If `history` is not a dict of dicts.
        ValueError
            If there is nothing to draw, curves have no or unequal lengths, or names are missing or ambiguous.
        """
        curves = _named(_checked_history(history), names)
        return cls(curves=curves).plot(ax=ax, x=x, scale=scale, line_kwargs=line_kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        x: str = "iteration",
        scale: str = "loss",
        line_kwargs: dict[str, Any] | None = None,
    ) -> "LossCurveDisplay":
        """Draw into ``ax``, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            The legend of more than five networks stands to the right of it.
        x : {"iteration", "time"}, default="iteration"
            Iterations (epochs of "adam"), or seconds since the training of each network began.
        scale : {"loss", "rmse"}, default="loss"
            The loss, or its square root.
        line_kwargs : dict or None, default=None
            Passed on to ``ax.plot`` for every curve.

        Returns
        -------
        LossCurveDisplay
            self

        Raises
        ------
        ValueError
            If `x` or `scale` is something else, or the times are not known.
        """
        from matplotlib.cbook import normalize_kwargs
        from matplotlib.lines import Line2D

        if scale not in _SCALES:
            raise ValueError(f"scale must be 'loss' or 'rmse', got {scale!r}.")
        if x not in _X_LABELS:
            raise ValueError(f"x must be 'iteration' or 'time', got {x!r}.")
        timeless = [name for name, curves in self.curves.items() if "time" not in curves]
        if x == "time" and timeless:
            raise ValueError(
                "x='time' needs the seconds of each iteration as \"time\" in the history of every network; "
                f"got none for {first_few(timeless)}. Fit again, or use x='iteration'."
            )
        if ax is None:
            ax = new_axes(6.0 + 1.2 * self._legend_columns(), 4.0)
        self.ax_, self.figure_ = ax, ax.figure
        self.kept_: dict[str, int] = {}
        given = normalize_kwargs(line_kwargs or {}, Line2D)
        label, transform = _SCALES[scale]
        for k, (name, curves) in enumerate(self.curves.items()):
            color, marker = _color_and_marker(k)
            style: dict[str, Any] = {"color": color, "linewidth": _LINEWIDTH}
            steps = curves["time"] if x == "time" else np.arange(1, len(curves["loss"]) + 1)
            for kind, linestyle in _LINESTYLES.items():
                if kind in curves:
                    line = style | {"label": f"{name}, {kind}", "linestyle": linestyle}
                    # A single point has no line, and a colour that comes again needs another sign.
                    if len(steps) == 1 or (k >= len(COLORS) and kind == "loss"):
                        line |= {"marker": marker, "markersize": 3.5, "markevery": (0.1, 0.2)}
                    ax.plot(steps, transform(curves[kind]), **(line | given))
            if "validation" in curves and not np.isnan(curves["validation"]).all():
                kept = int(np.nanargmin(curves["validation"]))
                self.kept_[name] = kept + 1
                lowest = transform(curves["validation"][kept])
                mark = {"label": f"{name}, kept", "color": color, "marker": marker, "linestyle": "none"}
                ax.plot(steps[kept], lowest, **(mark | _MARK))
        ax.set(xlabel=_X_LABELS[x], ylabel=label)
        make_logarithmic(ax)
        self._add_legend()
        return self

    def _legend_columns(self) -> int:
        """Columns of the legend beside the plot; 0 for one inside."""
        n_lines = len(self.curves) + 3  # and what solid, dashed and marks mean
        return -(-n_lines // _LEGEND_LINES) if len(self.curves) > _MOST_INSIDE else 0

    def _add_legend(self) -> None:
        """One line per network and, where some were validated, what lines and marks mean."""
        from matplotlib.lines import Line2D

        looks = []
        for k, name in enumerate(self.curves):
            color, marker = _color_and_marker(k)
            looks.append((name, "-", color, marker if name in self.kept_ or k >= len(COLORS) else ""))
        if any("validation" in curves for curves in self.curves.values()):
            looks += [("training", "-", "0.2", ""), ("validation", "--", "0.2", "")]
        if self.kept_:
            looks.append(("weights kept", "none", "0.2", "o"))
        size: dict[str, Any] = {"linewidth": _LINEWIDTH, "markersize": 5.0}
        handles = [
            Line2D([], [], label=name, linestyle=line, color=color, marker=marker, **size)
            for name, line, color, marker in looks
        ]
        columns = self._legend_columns()
        place: dict[str, Any] = {"loc": "upper right"}
        if columns:
            place = {
                "loc": "upper left",
                "bbox_to_anchor": (1.01, 1.0),
                "borderaxespad": 0.0,
                "ncols": columns,
            }
        self.ax_.legend(handles=handles, fontsize=8, framealpha=0.9, **place)


def _color_and_marker(k: int) -> tuple[str, str]:
    """Look of the k-th network; colours that come again come with other markers."""
    return COLORS[k % len(COLORS)], MARKERS[(k + k // len(COLORS)) % len(MARKERS)]


def _checked_history(history: Any) -> dict[Any, dict[str, FloatArray]]:
    """Curves as arrays, without those of networks that made no iteration."""
    if not isinstance(history, Mapping):
        raise TypeError(
            "history must be a dict of the curves of each network, as history_ of a fitted regressor, got "
            f"{described(history)}. Plot an estimator with from_estimator."
        )
    checked: dict[Any, dict[str, FloatArray]] = {}
    for key, given in history.items():
        if not isinstance(given, Mapping) or "loss" not in given:
            received = f"the keys {list(given)}" if isinstance(given, Mapping) else described(given)
            raise TypeError(
                f'history[{key!r}] must be a dict of the curves of one network with "loss" among them, got '
                f"{received}. Pass the whole of history_, with one such dict for each network."
            )
        curves: dict[str, FloatArray] = {
            kind: np.asarray(given[kind], dtype=np.float64) for kind in _CURVES if kind in given
        }
        if {curve.shape for curve in curves.values()} != {(curves["loss"].size,)}:
            shapes = ", ".join(f"{kind} {curve.shape}" for kind, curve in curves.items())
            raise ValueError(
                f"history[{key!r}] must hold curves of one shape (n_iter,), a value per iteration, got "
                f"{shapes}. Cut them to the iterations that they share."
            )
        if len(curves["loss"]):
            checked[key] = curves
    if not checked:
        raise ValueError(
            f"history must have a network with at least one iteration, got {len(history)} networks without. "
            "Fit first."
        )
    return checked


def _named(
    history: dict[Any, dict[str, FloatArray]], names: Mapping[Any, str] | None
) -> dict[str, dict[str, FloatArray]]:
    """Curves by name of the network; equal ones once, under the names of all whose they are."""
    nameless = [] if names is None else [repr(key) for key in history if key not in names]
    if nameless:
        raise ValueError(
            f"names must have a name for every key of history, got none for {first_few(nameless)}. Add them."
        )
    groups: list[tuple[list[str], dict[str, FloatArray]]] = []
    for key, curves in history.items():
        name = _network_name(key) if names is None else names[key]
        if any(name in together for together, _ in groups):
            raise ValueError(
                f"names must tell networks apart, got {name!r} more than once. Rename one of them."
            )
        for together, drawn in groups:
            if _equal(curves, drawn):
                together.append(name)
                break
        else:
            groups.append(([name], curves))
    return {", ".join(together): curves for together, curves in groups}


def _network_name(key: Any) -> str:
    if not isinstance(key, Integral):
        return str(key)
    return species_name(int(key)) if key else "network"


def _equal(a: dict[str, FloatArray], b: dict[str, FloatArray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)
