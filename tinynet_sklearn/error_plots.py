"""How the errors of a model are distributed: most of them, and the worst."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.frames import FloatArray
from tinynet_sklearn.pairing import Rows, known_species, same_rows
from tinynet_sklearn.plot_axes import plain_ticks
from tinynet_sklearn.plotting import entry_look, new_axes, table_legend

__all__ = ["ErrorDistributionDisplay"]

KINDS, STYLES = ("norm", "component"), ("cumulative", "histogram")

#: Shares of the errors that are marked: half of them, and nearly all.
SHARES = (0.5, 0.95)

# Errors below this fraction of a typical one are drawn as if they were that large, and bins per power of ten.
_SMALLEST, _BINS = 1e-3, 8
# Errors below this fraction of nearly all others are zero but for rounding.
_ROUNDING = 1e-12
# A legend of more rows has two columns, and makes a new figure higher by so many inches for each further one.
_MOST_ROWS, _ROW = 8, 0.19


class ErrorDistributionDisplay:
    """Distribution of the errors of each species on a logarithmic axis, with median and 95th percentile.

    Make one with `from_estimator` or `from_predictions`. A root mean squared error says nothing about the
    worst atoms; here they are the right end of the curves.

    Parameters
    ----------
    errors : dict of str to ndarray
        Absolute errors by species.
    kind : {"norm", "component"}, default="norm"
        What they are of, for the axis.
    style : {"cumulative", "histogram"}, default="cumulative"
    quantity, unit : str
        For the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the plot.
    figure_ : matplotlib Figure
        That contains it; ``figure_.savefig("errors.png")``.
    quantiles_ : dict of str to (float, float, float)
        Median, 95th percentile and largest error of each species and of all.

    Examples
    --------
    >>> from tinynet_sklearn import load_moo3
    >>> from tinynet_sklearn.error_plots import ErrorDistributionDisplay
    >>> forces = load_moo3().target
    >>> display = ErrorDistributionDisplay.from_predictions(forces, 0.9 * forces)
    >>> {name: [round(float(x), 3) for x in numbers] for name, numbers in display.quantiles_.items()}
    {'O': [0.088, 0.231, 0.667], 'Mo': [0.143, 0.379, 0.76], 'all': [0.1, 0.283, 0.76]}
    """

    def __init__(
        self,
        *,
        errors: dict[str, FloatArray],
        kind: str = "norm",
        style: str = "cumulative",
        quantity: str = "force",
        unit: str = "eV/Å",
    ) -> None:
        self.errors = errors
        self.kind = kind
        self.style = style
        self.quantity = quantity
        self.unit = unit

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        kind: str = "norm",
        style: str = "cumulative",
        quantity: str = "force",
        unit: str = "eV/Å",
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> ErrorDistributionDisplay:
        """Predict and plot.

        Parameters
        ----------
        estimator : fitted estimator or pipeline
        X : list of structures, or what ``estimator.predict`` takes
        y : PerAtomArray, PotentialTargets, or list of ndarray of shape (n_atoms, k)
            True values; of `PotentialTargets`, the forces.
        kind, style, quantity, unit, ax, line_kwargs
            As in `from_predictions`.

        Returns
        -------
        ErrorDistributionDisplay

        Raises
        ------
        ValueError
            As in `from_predictions`.
        """
        return cls.from_predictions(
            y,
            estimator.predict(X),
            kind=kind,
            style=style,
            quantity=quantity,
            unit=unit,
            ax=ax,
            line_kwargs=line_kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        kind: str = "norm",
        style: str = "cumulative",
        quantity: str = "force",
        unit: str = "eV/Å",
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> ErrorDistributionDisplay:
        """Plot given predictions.

        Parameters
        ----------
        y_true, y_pred : PerAtomArray, PotentialTargets, list of ndarray (n_atoms, k), or ndarray (n_rows, k)
            True and predicted values of the same atoms; of `PotentialTargets`, the forces. Species are those
            of a `PerAtomArray`.
        kind : {"norm", "component"}, default="norm"
            Length of the error vector of each atom, or absolute error of each of its components.
        style : {"cumulative", "histogram"}, default="cumulative"
            Share of the errors below the value on the axis, or in each of eight bins per power of ten.
        quantity, unit : str
            For the axis.
        ax : matplotlib Axes or None, default=None
            Where to draw; None makes a new figure.
        line_kwargs : dict or None, default=None
            Passed on to ``ax.plot`` for the curves.

        Returns
        -------
        ErrorDistributionDisplay

        Raises
        ------
        ValueError
            If the two do not describe the same atoms, a number is not finite, or `kind` or `style` is none of
            the above.
        """
        for name, value, choices in (("kind", kind, KINDS), ("style", style, STYLES)):
            if value not in choices:
                raise ValueError(f"{name} must be {choices[0]!r} or {choices[1]!r}; got {value!r}.")
        y_true, y_pred = _forces(y_true), _forces(y_pred)
        true, predicted = same_rows(y_true, y_pred)
        difference = predicted - true
        sizes = np.linalg.norm(difference, axis=1)[:, None] if kind == "norm" else np.abs(difference)
        known = known_species(y_true, y_pred)
        species = np.zeros(len(sizes), dtype=np.int64) if known is None else np.asarray(known)
        errors = {
            species_name(z) if z else "atoms": sizes[species == z].ravel()
            for z in np.unique(species).tolist()
        }
        display = cls(errors=errors, kind=kind, style=style, quantity=quantity, unit=unit)
        return display.plot(ax=ax, line_kwargs=line_kwargs)

    def plot(self, ax: Any = None, *, line_kwargs: dict[str, Any] | None = None) -> ErrorDistributionDisplay:
        """Draw into ``ax``, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
        line_kwargs : dict or None, default=None
            Passed on to ``ax.plot`` for the curves.

        Returns
        -------
        ErrorDistributionDisplay
            self
        """
        if ax is None:
            n_rows = -(-(len(self.errors) + 1) // 2)
            ax = new_axes(5.2, 4.6 + _ROW * max(n_rows - _MOST_ROWS, 0))
        self.ax_, self.figure_ = ax, ax.figure
        everything = np.concatenate(list(self.errors.values()))
        self.quantiles_ = {name: _quantiles(errors) for name, errors in self.errors.items()}
        self.quantiles_["all"] = _quantiles(everything)
        largest = float(everything.max())
        low, high = _limits(everything)
        ax.set_xscale("log")
        ax.set_xlim(low, high)
        handles = []
        for k, errors in enumerate(self.errors.values()):
            shown = np.clip(errors, low, None) if largest else np.full_like(errors, low)
            cumulative = self.style == "cumulative"
            x, y = _cumulative(shown, low, high) if cumulative else _histogram(shown, low, high)
            color, mark, dashes = entry_look(k)
            look = {"color": color, "linestyle": dashes, "linewidth": 1.6} | (line_kwargs or {})
            (line,) = ax.plot(x, y, drawstyle="steps-post", **look)
            marker = {"marker": mark, "s": 42.0, "edgecolors": line.get_color()}
            for share, face in zip(SHARES, (line.get_color(), "white"), strict=True):
                place = max(float(np.quantile(shown, share)), low)
                height = share if cumulative else y[np.searchsorted(x, place, side="right") - 1]
                ax.scatter([place], [height], facecolors=face, linewidths=1.4, zorder=3.0, **marker)
            handles.append((line, marker))
        self._label(handles)
        plain_ticks(ax)
        return self

    def _label(self, handles: list[Any]) -> None:
        """Axes, guide lines at the marked shares, and above them a legend with the numbers."""
        from matplotlib.lines import Line2D
        from matplotlib.ticker import PercentFormatter

        ax = self.ax_
        words = {
            "norm": f"Norm of the {self.quantity} error",
            "component": f"Absolute error of a {self.quantity} component",
        }
        ax.set_xlabel(words[self.kind] + (f" ({self.unit})" if self.unit else ""))
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        things = "atoms" if self.kind == "norm" else "components"
        if self.style == "cumulative":
            ax.set(ylim=(0.0, 1.02), ylabel=f"{things.capitalize()} with smaller errors")
            ax.set_yticks([0.0, 0.25, *SHARES[:1], 0.75, *SHARES[1:]])
            for share in SHARES:
                ax.axhline(share, color="0.75", linewidth=0.8, zorder=0.5)
        else:
            ax.set_ylim(bottom=0.0)
            ax.set_ylabel(f"Share of {things} in a bin")
        names = [*self.errors, *(["all"] if len(self.errors) > 1 else [])]
        width = max(map(len, names))
        rows = []
        for name in names:
            numbers = " ".join(f"{_short(value):>6}" for value in self.quantiles_[name])
            rows.append(f"{name:<{width}} {numbers}")
        lines: list[Any] = [
            Line2D([], [], color=line.get_color(), linestyle=line.get_linestyle(), marker=marker["marker"],
                   markersize=5.5, linewidth=1.4)
            for line, marker in handles
        ]  # fmt: skip
        lines += [Line2D([], [], linestyle="none")] * (len(names) - len(lines))
        table_legend(
            ax, lines, rows, f"{'':{width}} median   95 %    max", 2 if len(rows) > _MOST_ROWS else 1,
            loc="lower left", bbox_to_anchor=(0.0, 1.0), handlelength=2.8, handletextpad=0.6, frameon=False,
        )  # fmt: skip


def _forces(y: Any) -> Rows:
    """Forces of targets that hold several kinds."""
    forces: Rows | None = getattr(y, "forces", None)
    return y if forces is None else forces


def _quantiles(errors: FloatArray) -> tuple[float, float, float]:
    median, most = np.quantile(errors, SHARES)
    return float(median), float(most), float(errors.max())


def _limits(errors: FloatArray) -> tuple[float, float]:
    """Ends of the axis: from the first errors worth showing to beyond the last, at full bins.

    The axis starts at the first percentile. Atoms without an error would put that at zero, so it starts no
    lower than a thousandth of a typical error: the median of those that are no mere rounding, which goes by
    the 95th percentile. None of this follows the largest error: that one may be a million times the others,
    and these are still seen.
    """
    largest = float(errors.max()) or 1.0
    beyond_rounding = errors[errors > _ROUNDING * float(np.quantile(errors, SHARES[1]))]
    typical = float(np.median(beyond_rounding)) if len(beyond_rounding) else largest
    low = max(float(np.quantile(errors, 0.01)), _SMALLEST * typical)
    ends = np.floor(_BINS * np.log10(low)) - 1, np.ceil(_BINS * np.log10(largest)) + 1
    return float(10.0 ** (ends[0] / _BINS)), float(10.0 ** (ends[1] / _BINS))


def _cumulative(errors: FloatArray, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    """Share of the errors up to each of them."""
    ordered = np.sort(errors)
    shares = np.arange(1, len(ordered) + 1) / len(ordered)
    return np.concatenate([[low], ordered, [high]]), np.concatenate([[0.0], shares, [1.0]])


def _histogram(errors: FloatArray, low: float, high: float) -> tuple[FloatArray, FloatArray]:
    """Lower end of each bin, and the share of the errors in it; 0 at the last end."""
    first, last = round(_BINS * float(np.log10(low))), round(_BINS * float(np.log10(high)))
    edges = 10.0 ** (np.arange(first, last + 1) / _BINS)
    # Powers are rounded, and nothing is to fall out at the ends.
    counts, _ = np.histogram(np.clip(errors, edges[0], edges[-1]), edges)
    return edges, np.append(counts, 0) / len(errors)


def _short(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.4g}"
