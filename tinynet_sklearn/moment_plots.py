"""Errors of the moments of predicted densities of states, as a plot."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np

from tinynet_sklearn._validation import described
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.ldos_metrics import ldos_moment_errors, ldos_recursion_errors
from tinynet_sklearn.pairing import Rows
from tinynet_sklearn.plotting import COLORS, MARKERS, make_logarithmic, new_axes

#: Order of the moment, over that of the quantity, up to which walks must reach to hold it.
_ORDERS = {"moments": 1, "recursion": 2}


class MomentErrorDisplay:
    """Error of each moment of the LDOS against its order, a line for each model.

    Make one with `from_estimators` or `from_predictions`. By the moments theorem, walks of up to n hops fix
    the moments up to n of the density of states of a tight-binding crystal. Name the models by the n of their
    embeddings, as integers, and marks are filled up to that order and open beyond it.

    Parameters
    ----------
    errors : dict of str or int to ndarray of shape (n_orders,)
        By name, or n, of the model: errors of mu_1, mu_2, ..., as those of `ldos_moment_errors`.
    species : str, default="all"
        Whose errors these are.
    quantity : {"moments", "recursion"}, default="moments"
        What they are errors of: moments mu_m, or recursion coefficients b_k, each of which holds what the
        moment of order 2k knows beyond all lower ones.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the plot.
    figure_ : matplotlib Figure
        That contains it; ``figure_.savefig("moments.png")``.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import LDOS, MomentErrorDisplay
    >>> energies = np.linspace(-6, 6, 121)
    >>> means = np.array([[-0.5], [0.0], [0.5]])
    >>> y = LDOS.from_arrays([np.exp(-2 * (energies - means) ** 2)], energies, [[8, 8, 8]])
    >>> shifted = {n: np.exp(-2 * (energies - means - 0.1 / (n + 1)) ** 2) for n in (0, 2)}
    >>> display = MomentErrorDisplay.from_predictions(y, shifted, orders=1)
    >>> {n: errors.round(3) for n, errors in display.errors.items()}
    {0: array([0.245]), 2: array([0.082])}
    """

    def __init__(
        self, *, errors: Mapping[Any, FloatArray], species: str = "all", quantity: str = "moments"
    ) -> None:
        self.errors = errors
        self.species = species
        self.quantity = quantity

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[Any, Any],
        X: Any,
        y: Rows,
        *,
        orders: int = 10,
        center: float | str = "mean",
        species: str = "all",
        quantity: str = "moments",
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> "MomentErrorDisplay":
        """Predict with every model and plot.

        Parameters
        ----------
        estimators : dict of fitted estimators or pipelines
            By name, or by the n of the embedding.
        X : list of structures, or what ``predict`` of all of them takes
        y : LDOS
            References.
        orders, center, species, quantity, ax, line_kwargs
            As in `from_predictions`.

        Returns
        -------
        MomentErrorDisplay

        Raises
        ------
        TypeError, ValueError
            As in `from_predictions`.
        """
        _check(estimators, "estimators", "fitted estimators")
        return cls.from_predictions(
            y,
            {name: estimator.predict(X) for name, estimator in estimators.items()},
            orders=orders,
            center=center,
            species=species,
            quantity=quantity,
            ax=ax,
            line_kwargs=line_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Rows,
        predictions: Mapping[Any, Rows],
        *,
        orders: int = 10,
        center: float | str = "mean",
        species: str = "all",
        quantity: str = "moments",
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> "MomentErrorDisplay":
        """Plot given predictions of several models.

        Parameters
        ----------
        y_true : LDOS
            References.
        predictions : dict of LDOS, PerAtomArray, list of ndarray of shape (n_atoms, n_energies), or ndarray
            By name of the model, or by the n of its embedding, an int.
        orders : int, default=10
            Highest moment.
        center : float or "mean", default="mean"
            Energy that moments are taken about, eV, as in `ldos_moment_errors`.
        species : str, default="all"
            Chemical symbol of the atoms that count.
        quantity : {"moments", "recursion"}, default="moments"
            As in the class; recursion coefficients have no `center`.
        ax, line_kwargs
            As in `plot`.

        Returns
        -------
        MomentErrorDisplay

        Raises
        ------
        TypeError
            If `predictions` is no dict.
        ValueError
            If it is empty, there are no atoms of the species, or as in `ldos_moment_errors`.
        """
        _check(predictions, "predictions", "predicted LDOS")
        if quantity not in _ORDERS:
            raise ValueError(f"quantity must be one of {', '.join(map(repr, _ORDERS))}; got {quantity!r}.")
        errors = {}
        for name, predicted in predictions.items():
            if quantity == "recursion":
                found = ldos_recursion_errors(y_true, predicted, orders)
            else:
                found = ldos_moment_errors(y_true, predicted, orders, center=center)
            if species not in found:
                raise ValueError(f"species must be one of {', '.join(map(repr, found))}; got {species!r}.")
            errors[name] = found[species]
        return cls(errors=errors, species=species, quantity=quantity).plot(ax, line_kwargs=line_kwargs)

    def plot(self, ax: Any = None, *, line_kwargs: dict[str, Any] | None = None) -> "MomentErrorDisplay":
        """Draw into ``ax``, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
        line_kwargs : dict or None, default=None
            Passed on to ``ax.plot`` for every line.

        Returns
        -------
        MomentErrorDisplay
            self
        """
        from matplotlib.ticker import MaxNLocator

        ax = new_axes(6.2, 3.6) if ax is None else ax
        self.ax_, self.figure_ = ax, ax.figure
        by_n = all(isinstance(name, Integral) for name in self.errors)
        colors = _shades_in_order(len(self.errors)) if by_n else COLORS
        ax.axhline(1.0, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)), zorder=1.0)
        for k, name in enumerate(sorted(self.errors) if by_n else self.errors):
            known = np.isfinite(self.errors[name])  # odd moments of a symmetric band do not vary
            errors, orders = self.errors[name][known], 1 + np.flatnonzero(known)
            color, marker = colors[k % len(colors)], MARKERS[k % len(MARKERS)]
            look: dict[str, Any] = {"color": color, "linewidth": 1.2} | (line_kwargs or {})
            ax.plot(orders, errors, label=f"n = {name}" if by_n else str(name), zorder=2.0, **look)
            held = _ORDERS[self.quantity] * orders <= name if by_n else np.ones(len(orders), dtype=bool)
            for part, face in ((held, color), (~held, "white")):
                ax.plot(
                    orders[part], errors[part], linestyle="none", marker=marker, markersize=4.5, color=color,
                    markerfacecolor=face, zorder=3.0,
                )  # fmt: skip
        whose = "" if self.species == "all" else f", {self.species}"
        what = "moment" if self.quantity == "moments" else "recursion coefficient $b_k$"
        ax.set(xlabel=f"Order of the {what}", ylabel=f"RMSE / spread{whose}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        make_logarithmic(ax)
        self._add_legend(by_n)
        return self

    def _add_legend(self, by_n: bool) -> None:
        from matplotlib.lines import Line2D

        lines, labels = self.ax_.get_legend_handles_labels()
        handles = [
            Line2D(
                [], [], color=line.get_color(), marker=MARKERS[k % len(MARKERS)], markersize=4.5, label=label
            )
            for k, (line, label) in enumerate(zip(lines, labels, strict=True))
        ]
        mean: dict[str, Any] = {"color": "0.5", "linewidth": 0.8, "linestyle": (0, (4, 2))}
        handles.append(Line2D([], [], label="mean of the species", **mean))
        if by_n:
            mark: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4.5, "color": "0.3"}
            limit, order = ("n", "order") if self.quantity == "moments" else ("n / 2", "k")
            handles.append(Line2D([], [], label=f"{order} up to {limit}", **mark))
            handles.append(Line2D([], [], label=f"{order} above {limit}", markerfacecolor="white", **mark))
        # beside the plot: lines that rise and cross leave no corner free
        self.ax_.legend(
            handles=handles,
            fontsize=8,
            frameon=False,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            borderaxespad=0.2,
        )


def _shades_in_order(number: int) -> list[Any]:
    """Colours from dark to light, told apart by lightness alone; light enough for white paper."""
    from matplotlib import colormaps

    return [colormaps["viridis"](x) for x in np.linspace(0.88, 0.0, number)]


def _check(models: Any, name: str, what: str) -> None:
    if not isinstance(models, Mapping):
        raise TypeError(f"{name} must be a dict of {what} by name; got {described(models)}.")
    if not models:
        raise ValueError(f"{name} must hold at least one model; got an empty dict.")
