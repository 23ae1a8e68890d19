"""Names beside the marks of a plot, placed so that they do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinynet_sklearn.frames import FloatArray

__all__ = ["place_names"]

_SIZE = 8.0
# Points between a mark and its name, and by which names are moved down.
_GAP, _STEP = 6.0, 3.0


def place_names(ax: Any, names: Sequence[str], places: FloatArray, bold: int) -> list[Any]:
    """Write names below and to the left of marks, where nothing else is if the marks are a Pareto front.

    Names that would overlap are moved down, with a thin line to their mark; the axes grow as needed.

    Parameters
    ----------
    ax : matplotlib Axes
    names : list of str
        From left to right.
    places : ndarray of shape (n_names, 2)
        Of the marks.
    bold : int
        Which of them stands out.

    Returns
    -------
    list of matplotlib Annotation
        In the order of the names.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    root = ax.figure
    while not hasattr(root, "draw_without_rendering"):  # a figure inside a figure
        root = root.figure
    line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0.0, "shrinkB": 3.0}
    texts = [
        ax.annotate(
            name, place, xytext=(-_GAP, -_GAP), textcoords="offset points", ha="right", va="top",
            fontsize=_SIZE, fontweight="bold" if k == bold else "normal", arrowprops=line, zorder=4.0,
        )
        for k, (name, place) in enumerate(zip(names, places, strict=True))
    ]  # fmt: skip
    for text in texts:  # readable on lines, too
        Text.set_path_effects(text, [withStroke(linewidth=2.0, foreground="white")])
    for _ in range(8):  # wider axes move the marks, and with them the names
        root.draw_without_rendering()
        pixels = root.dpi / 72.0
        taken: list[Any] = []
        for text, (x, y) in zip(texts, ax.transData.transform(places), strict=True):
            width, height = _size(text)
            down = _GAP
            while True:
                x1, y1 = x - _GAP * pixels, y - down * pixels
                box = Bbox([(x1 - width, y1 - height), (x1, y1)])
                if not any(box.overlaps(other) for other in taken):
                    break
                down += _STEP
            text.set_position((-_GAP, -down))
            taken.append(box)
        frame = ax.get_window_extent()
        left = frame.x0 + _GAP * pixels - min(box.x0 for box in taken)
        below = frame.y0 + _GAP * pixels - min(box.y0 for box in taken)
        if left <= 0 and below <= 0:
            break
        # The frame grows by what is needed and, since the marks move together then, a bit more.
        corner = np.array([frame.x0 - 1.3 * max(left, 0.0), frame.y0 - 1.3 * max(below, 0.0)])
        x, y = ax.transData.inverted().transform(corner)
        ax.set(xlim=(x, None), ylim=(y, None))
    return texts


def _size(text: Any) -> tuple[float, float]:
    """Width and height of the words in pixels, without the line to the mark."""
    from matplotlib.text import Text

    box = Text.get_window_extent(text)
    return float(box.width), float(box.height)
