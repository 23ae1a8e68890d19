"""Plots of pair distributions with bonds marked, in the manner of scikit-learn's ``Display`` classes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from tinynet_sklearn.bond_chemistry import Pair
from tinynet_sklearn.bond_suggestion import checked_pairs, checked_range, checked_structures, suggestion
from tinynet_sklearn.frames import IntArray
from tinynet_sklearn.graph import BondRule, CutoffRule, PairBonds, as_bond_rule
from tinynet_sklearn.pair_distributions import PairDistribution, bonded_counts, pair_distributions
from tinynet_sklearn.plot_axes import given_panels
from tinynet_sklearn.plotting import COLORS
from tinynet_sklearn.structures import AtomicStructure

# Panels beside each other, and their size (inches).
_COLUMNS, _WIDTH, _HEIGHT = 3, 3.1, 2.5

# A panel begins at so many times the shortest distance, and ends at so many times the cutoff.
_BEFORE, _BEHIND = 0.75, 1.7

# Height of the panel at which the running coordination number meets the cutoff.
_MEETING = 0.4

_CURVE: dict[str, Any] = {"color": COLORS[0], "linewidth": 1.5}
_BONDED: dict[str, Any] = {"color": "#bfdcec", "linewidth": 0.0}
_RUNNING: dict[str, Any] = {"color": COLORS[1], "linewidth": 1.1, "linestyle": (0, (4, 1.5))}
_CUTOFF: dict[str, Any] = {"color": "0.1", "linewidth": 1.0, "linestyle": (0, (1, 1.2))}


class PairDistributionDisplay:
    """Pair distribution functions, a panel for each pair of species, with what is bonded.

    Make one with `from_structures`. The solid line is g(r), smoothed over 3 % of the distance and filled
    where pairs are bonded, the dotted one the cutoff. The dashed line, with the axis on the right, counts
    neighbours up to each distance: where it is flat at the cutoff, any number nearby is as good.

    Parameters
    ----------
    distributions : sequence of PairDistribution
        One for each panel.
    bonded : sequence of ndarray of shape (n_bins,)
        How many of the pairs at each distance are bonded.
    cutoffs : mapping of str to float
        By name of the pair, Angstrom; of those that have one.
    r_max : float or None, default=None
        Where the panels end, Angstrom; None lets each end behind the second shell.

    Attributes
    ----------
    axes_ : ndarray of matplotlib Axes of shape (n_panels,)
        Panels, without the axes on their right.
    ax_ : matplotlib Axes
        The first of them.
    figure_ : matplotlib Figure
        That contains them; ``figure_.savefig("distances.png")``.
    cutoffs_ : dict of str to float
        Cutoffs that are drawn, Angstrom.
    coordination_ : dict of str to (float, float)
        Mean number of bonds, over atoms and structures: of "Ti-O", to oxygen of a titanium atom, and the
        other way round.

    Examples
    --------
    >>> from tinynet_sklearn import PairDistributionDisplay, load_batio3
    >>> display = PairDistributionDisplay.from_structures(load_batio3().structures)
    >>> display.cutoffs_
    {'Ba-O': 3.8, 'Ti-O': 2.7}
    >>> display.coordination_
    {'Ba-O': (12.0, 4.0), 'Ti-O': (6.0, 2.0)}
    """

    def __init__(
        self,
        *,
        distributions: Sequence[PairDistribution],
        bonded: Sequence[IntArray],
        cutoffs: Mapping[str, float],
        r_max: float | None = None,
    ) -> None:
        self.distributions = distributions
        self.bonded = bonded
        self.cutoffs = cutoffs
        self.r_max = r_max

    @classmethod
    def from_structures(
        cls,
        structures: Sequence[Any],
        bonds: Any = None,
        *,
        pairs: str | Sequence[str] = "auto",
        r_max: float | None = None,
        ax: Any = None,
        line_kwargs: dict[str, Any] | None = None,
    ) -> "PairDistributionDisplay":
        """Count distances in all structures together, and plot.

        Parameters
        ----------
        structures : list of ase.Atoms or pymatgen Structure
            Of any compositions and sizes. If all are periodic in three directions, the plot shows g(r), else
            atoms per cubic Angstrom, which has the same shape.
        bonds : default=None
            A bond rule in any form that the featurizers take; None takes the cutoffs of `suggest_bonds`.
            Pairs for which it finds none are shown without.
        pairs : "auto", "all", or list of str, default="auto"
            Panels: those of the bonded pairs, of all pairs, or of the named ones, for example
            ``["Ti-O", "Ti-Ti"]``. Without ``bonds``, cutoffs are proposed for the same pairs.
        r_max : float or None, default=None
            Count up to this distance, Angstrom, as in `suggest_bonds`, and end the panels there. None ends
            them behind the second shell.
        ax, line_kwargs
            As in `plot`.

        Returns
        -------
        PairDistributionDisplay

        Raises
        ------
        TypeError
            If `structures` is not a list of structures, or `bonds` is no bond rule.
        ValueError
            If `pairs` or `r_max` make no sense, atoms coincide, or there is nothing to draw.
        """
        converted = checked_structures(structures)
        found = pair_distributions(converted, checked_range(r_max, converted))
        wanted = checked_pairs(pairs, found)
        rule, panels = _rule_and_pairs(converted, found, bonds, wanted)
        n_bins = len(next(iter(found.values())).distances) if found else 0
        bonded = {} if rule is None else bonded_counts(converted, rule, n_bins)
        if wanted == "auto":
            panels |= bonded.keys()
        shown = sorted((found[p].pair, p) for p in panels if p in found and not found[p].is_empty)
        if not shown:
            raise ValueError(
                f"structures have nothing to draw with bonds={bonds!r} and pairs={pairs!r}; use pairs='all' "
                "or a larger r_max."
            )
        display = cls(
            distributions=[found[pair] for _, pair in shown],
            bonded=[bonded.get(pair, np.zeros(n_bins, dtype=np.int64)) for _, pair in shown],
            cutoffs={
                name: float(rule.limits(*np.array(pair)[:, None])[0])
                for name, pair in shown
                if pair in bonded and isinstance(rule, CutoffRule)
            },
            r_max=r_max,
        )
        return display.plot(ax, line_kwargs=line_kwargs)

    def plot(self, ax: Any = None, *, line_kwargs: dict[str, Any] | None = None) -> "PairDistributionDisplay":
        """Draw into given axes, or into a new figure.

        Parameters
        ----------
        ax : matplotlib Axes, array of them, or None, default=None
            One for each panel; None makes a figure.
        line_kwargs : dict or None, default=None
            Passed on to ``ax.plot`` for g(r).

        Returns
        -------
        PairDistributionDisplay
            self

        Raises
        ------
        ValueError
            If there are fewer or more axes than panels.
        """
        self.axes_ = _axes(ax, len(self.distributions))
        self.ax_, self.figure_ = self.axes_[0], self.axes_[0].figure
        self.cutoffs_: dict[str, float] = {}
        self.coordination_: dict[str, tuple[float, float]] = {}
        for k, (distribution, bonded) in enumerate(zip(self.distributions, self.bonded, strict=True)):
            pair = distribution.pair
            around_first, around_last = (float(bonded.sum() / n) for n in distribution.n_atoms)
            self.coordination_[pair] = around_first, around_last
            cutoff = self.cutoffs.get(pair)
            if cutoff is not None:
                self.cutoffs_[pair] = cutoff
            self._draw(self.axes_[k], distribution, bonded, cutoff, line_kwargs or {})
        return self

    def _draw(
        self,
        ax: Any,
        distribution: PairDistribution,
        bonded: IntArray,
        cutoff: float | None,
        line_kwargs: dict[str, Any],
    ) -> None:
        """One panel: g(r) with what is bonded, and on the right the count of neighbours."""
        distances = distribution.distances
        scale = 1.0 if distribution.g is None else distribution.n_atoms[0] / distribution.ideal
        inside = np.where(distances < (cutoff or 0.0), distribution.density, 0.0)
        part = distribution.smoothed(bonded) if cutoff is None else inside
        ax.fill_between(distances, scale * part, **_BONDED)
        ax.plot(distances, scale * distribution.density, label="g(r)", **(_CURVE | line_kwargs))
        low, high = self._window(distribution, cutoff)
        seen = (distances >= low) & (distances <= high)
        first, last = (chemical_symbols[z] for z in distribution.species)
        unit = "$g(r)$" if distribution.g is not None else f"{last} atoms per Å$^3$"
        ax.set(xlim=(low, high), xlabel="Distance (Å)", ylabel=f"{unit}, solid")
        ax.set_ylim(0.0, 1.08 * scale * distribution.density[seen].max())
        ax.yaxis.label.set_color(_CURVE["color"])
        counting = ax.twinx()
        counting.plot(distances, distribution.coordination, label="neighbours", **_RUNNING)
        end = cutoff or distribution.first_shell.cutoff or high
        within = distribution.coordination[np.searchsorted(distances, end) - 1]
        highest = (within or distribution.coordination[-1]) / _MEETING
        counting.set(ylim=(0.0, highest), ylabel=f"{last} around {first}, dashed")
        counting.yaxis.label.set_color(_RUNNING["color"])
        numbers = self.coordination_[distribution.pair]
        title = "not bonded"
        if bonded.any():
            title = f"{numbers[0]:.3g} {last} around {first}"
            title += "" if first == last else f", {numbers[1]:.3g} {first} around {last}"
        name = distribution.pair
        if cutoff is not None:
            ax.axvline(cutoff, label="cutoff", **_CUTOFF)
            name += f" < {cutoff:.2f} Å"
        ax.set_title(f"{name}\n{title}", loc="left", fontsize=9)

    def _window(self, distribution: PairDistribution, cutoff: float | None) -> tuple[float, float]:
        """Distances that a panel shows."""
        shell = distribution.first_shell
        start = float(distribution.distances[np.flatnonzero(distribution.counts)[0]])
        end = _BEHIND * (cutoff or shell.cutoff or shell.peak) if self.r_max is None else self.r_max
        return _BEFORE * start, min(end, distribution.r_max)


def _axes(ax: Any, n_panels: int) -> Any:
    """One Axes for each panel, given or new."""
    if ax is not None:
        return given_panels(ax, n_panels, "ax", "pairs")
    from matplotlib.figure import Figure

    columns = min(n_panels, _COLUMNS)
    rows = -(-n_panels // columns)
    figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for empty in grid[n_panels:]:
        empty.remove()
    return grid[:n_panels]


def _rule_and_pairs(
    structures: list[AtomicStructure],
    distributions: Mapping[Pair, PairDistribution],
    bonds: Any,
    wanted: str | list[Pair],
) -> tuple[BondRule | None, set[Pair]]:
    """The rule, None where no cutoff was found, and pairs that have a panel even if they are not bonded."""
    named: set[Pair] = set()
    if wanted != "auto":
        named.update(distributions if isinstance(wanted, str) else wanted)
    if bonds is not None:
        return as_bond_rule(bonds), named
    found = suggestion(structures, distributions, wanted)
    named.update(pair for pair, d in distributions.items() if d.pair in found.problems)
    return PairBonds(found.cutoffs) if found.cutoffs else None, named
