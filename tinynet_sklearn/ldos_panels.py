"""One panel with a reference and a predicted curve: what `LDOSDisplay` draws."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinynet_sklearn.energy_grid import EnergyGrid, zero_in_words
from tinynet_sklearn.frames import FloatArray

__all__ = ["Panel", "add_legend", "draw_panel", "energy_label", "shades"]

_REFERENCE: dict[str, Any] = {"linewidth": 2.4, "solid_capstyle": "round"}
_PREDICTION: dict[str, Any] = {"linewidth": 1.2}
_OWN_TOTAL: dict[str, Any] = {"linewidth": 0.9, "linestyle": ":"}
_ZERO: dict[str, Any] = {"linewidth": 0.8, "color": "0.6"}
_FERMI: dict[str, Any] = {"linewidth": 0.8, "color": "0.4", "linestyle": (0, (4, 2))}

# Size of the inset and its distance from the frame, as fractions of the panel. Below the inset there is room
# for its numbers and label.
_WIDTH, _HEIGHT, _GAP = 0.24, 0.40, 0.03
_BELOW = 1.0 - _HEIGHT - _GAP - 0.21
_FONT_SIZE = 7.0


@dataclass(frozen=True, eq=False)
class Panel:
    """A pair of curves, and what stands around it.

    Parameters
    ----------
    title, color : str
    unit : str
        Of the curves and errors.
    true, predicted : ndarray of shape (n_energies,)
    own_total : ndarray of shape (n_energies,) or None
        Total density of states of the calculation itself.
    fermi : float
        eV; NaN where it is not known.
    error : float
        Of this pair.
    errors : ndarray
        Of all pairs of its kind.
    """

    title: str
    color: str
    unit: str
    true: FloatArray
    predicted: FloatArray
    own_total: FloatArray | None
    fermi: float
    error: float
    errors: FloatArray

    def shows_fermi(self, grid: EnergyGrid) -> bool:
        """Whether the Fermi level is known, in the window, and not zero anyway."""
        return grid.zero != "fermi" and grid.low < self.fermi < grid.high


def energy_label(grid: EnergyGrid) -> str:
    """Label of an energy axis, which says what zero is."""
    return f"Energy from the {zero_in_words(grid.zero)} (eV)"


def shades(color: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Bright and dark variant of one hue, which differ in grey, too."""
    from matplotlib.colors import to_rgb

    hue = np.array(to_rgb(color))
    return tuple(0.5 * hue + 0.5), tuple(0.45 * hue)


def draw_panel(
    ax: Any,
    panel: Panel,
    grid: EnergyGrid,
    reference_kwargs: dict[str, Any],
    prediction_kwargs: dict[str, Any],
) -> Any:
    """Draw the curves, zero and Fermi level, and the inset where they leave most room.

    Returns
    -------
    matplotlib Axes or None
        The inset; None where there is a single error.
    """
    bright, dark = shades(panel.color)
    reference = {"color": bright, "label": "reference"} | _REFERENCE | reference_kwargs
    prediction = {"color": dark, "label": "prediction"} | _PREDICTION | prediction_kwargs
    ax.fill_between(grid.energies, panel.true, color=bright, alpha=0.25, linewidth=0.0, zorder=1.0)
    curves = [panel.true, panel.predicted]
    if panel.own_total is not None:
        curves.append(panel.own_total)
        ax.plot(grid.energies, panel.own_total, color="black", label="calculation", **_OWN_TOTAL)
    ax.plot(grid.energies, panel.true, **reference)
    ax.plot(grid.energies, panel.predicted, **prediction)
    ax.set_title(panel.title, loc="left", fontsize=9)

    heights = np.max(curves, axis=0)
    bottom, top = 1.1 * min(float(np.min(curves)), 0.0), 1.06 * float(heights.max())
    ax.set(xlim=(grid.low, grid.high), ylim=(bottom, top if top > bottom else bottom + 1.0))
    lines = [] if grid.zero == "absolute" else [(0.0, _ZERO)]
    lines += [(panel.fermi, _FERMI)] if panel.shows_fermi(grid) else []
    lines = [(energy, look) for energy, look in lines if grid.low < energy < grid.high]
    left, inset = 2.0, None
    if len(panel.errors) > 1:
        left, height = _emptiest(
            heights, [(energy - grid.low) / (grid.high - grid.low) for energy, _ in lines]
        )
        ax.set_ylim(bottom, max(ax.get_ylim()[1], bottom + (height - bottom) / _BELOW))
        inset = _draw_errors(ax, panel, left)
    for energy, look in lines:
        place = (energy - grid.low) / (grid.high - grid.low)
        under = left - _GAP < place < left + _WIDTH + _GAP
        ax.axvline(energy, ymax=_BELOW if under else 1.0, zorder=0.5, **look)
    return inset


def _emptiest(heights: FloatArray, lines: Sequence[float]) -> tuple[float, float]:
    """Left end of the best place for an inset, as a fraction of the axis, and how high curves are there."""
    last = len(heights) - 1
    crossed = np.zeros(len(heights))  # a line there is as bad as a curve that is so much higher
    crossed[[round(line * last) for line in lines]] = 0.2 * heights.max()
    width = _WIDTH + 2 * _GAP
    starts = np.linspace(1.0 - width, 0.0, 51)  # of equal places, the one furthest to the right
    ranges = [slice(int(s * last), int(np.ceil((s + width) * last)) + 1) for s in starts]
    best = int(np.argmin([heights[r].max() + crossed[r].max() for r in ranges]))
    return float(starts[best]) + _GAP, float(heights[ranges[best]].max())


def _draw_errors(ax: Any, panel: Panel, left: float) -> Any:
    """Distribution of the errors of all atoms, or structures, in the upper part of a panel."""
    bright, dark = shades(panel.color)
    inset = ax.inset_axes((left, 1.0 - _HEIGHT - _GAP, _WIDTH, _HEIGHT))
    counts, *_ = inset.hist(panel.errors, bins=min(20, 4 + int(np.sqrt(len(panel.errors)))), color=bright)
    inset.axvline(panel.error, color=dark, linewidth=1.2)
    inset.set(ylim=(0.0, 1.1 * counts.max()), xlim=(0.0, None), yticks=[])
    inset.set_xlabel(f"MAE ({panel.unit})", fontsize=_FONT_SIZE, labelpad=1.0)
    inset.tick_params(labelsize=_FONT_SIZE, length=2.0, pad=1.5)
    inset.locator_params(axis="x", nbins=3)
    inset.spines[["left", "right", "top"]].set_visible(False)
    inset.patch.set_alpha(0.0)
    return inset


def add_legend(ax: Any, panels: Sequence[Panel], grid: EnergyGrid) -> None:
    """Say above a panel, in grey, what bright, dark and thin lines mean."""
    from matplotlib.lines import Line2D

    bright, dark = shades("#666666")
    looks: list[tuple[str, dict[str, Any]]] = [
        ("reference", {"color": bright} | _REFERENCE),
        ("prediction", {"color": dark} | _PREDICTION),
    ]
    if any(panel.own_total is not None for panel in panels):
        looks.append(("calculation", {"color": "black"} | _OWN_TOTAL))
    if any(panel.shows_fermi(grid) for panel in panels):
        looks.append(("Fermi level", _FERMI))
    ax.legend(
        handles=[Line2D([], [], label=label, **look) for label, look in looks],
        ncols=len(looks), loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False,
        borderaxespad=0.1, handlelength=1.6, columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
