"""Axes of displays: those of several panels, linear or logarithmic, their numbers, and words that fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "given_panels",
    "laid_out_size",
    "number_powers",
    "plain_ticks",
    "spans_much",
    "wrapped",
]

# Numbers that span more than this factor get a logarithmic axis.
_WIDE = 5.0

# Axes that span less than this factor have labels between the powers of ten.
_FEW_POWERS = 300.0


def plain_ticks(ax: Any) -> None:
    """Write numbers instead of powers of ten at logarithmic axes, where they span few of them.

    Parameters
    ----------
    ax : matplotlib Axes
        With its limits set.
    """
    from matplotlib.ticker import NullFormatter

    for axis, scale, limits in (
        (ax.xaxis, ax.get_xscale(), ax.get_xlim()),
        (ax.yaxis, ax.get_yscale(), ax.get_ylim()),
    ):
        if scale == "log":
            number_powers(axis, *limits)
            axis.set_minor_formatter(NullFormatter())


def number_powers(axis: Any, low: float, high: float, between: tuple[float, ...] = (1.0, 2.0, 5.0)) -> None:
    """Number the powers of ten at an axis and, if there are few and there is room, what lies between.

    Parameters
    ----------
    axis : matplotlib Axis
        Logarithmic.
    low, high : float
        Its ends.
    between : tuple of float
        Multiples of each power.
    """
    from matplotlib.ticker import LogFormatterMathtext, LogLocator

    if high >= _FEW_POWERS * low:
        between = (1.0,)
    room, span = axis.get_tick_space(), np.log10(high / low)
    fitting = [some for some in (between, (1.0, 2.0, 5.0), (1.0, 3.0)) if len(some) * span <= room]
    n_powers = np.floor(np.log10(high)) - np.ceil(np.log10(low)) + 1
    if len(between) > 1:
        between = fitting[0] if fitting else (1.0,) if n_powers > 1 else between
    # LogLocator leaves everything out where it thinks that the powers alone take all the room, unless it is
    # told how many ticks there may be.
    axis.set_major_locator(LogLocator(subs=between, **({"numticks": 9} if len(between) > 1 else {})))
    # 0.001 and 10,000 are easier to read than powers, 1e-6 and a million are not.
    short = low >= 5e-4 and high < 1e5
    # all that the locator names; older versions of matplotlib leave out what is no power otherwise
    powers = LogFormatterMathtext(minor_thresholds=(np.inf, np.inf))
    axis.set_major_formatter("{x:g}" if short else powers)


def spans_much(low: float, high: float) -> bool:
    """Whether numbers from `low` to `high` are better seen on a logarithmic axis."""
    return low > 0 and high > _WIDE * low


def given_panels(axes: Any, n_panels: int, name: str, choice: str) -> Any:
    """Axes that a user passed, one for each panel.

    Parameters
    ----------
    axes : matplotlib Axes, or array of them
    n_panels : int
    name, choice : str
        Arguments that the axes came as, and that panels are chosen with.

    Returns
    -------
    ndarray of shape (n_panels,)

    Raises
    ------
    ValueError
        If there are more or fewer.
    """
    given = np.atleast_1d(np.asarray(axes, dtype=object)).ravel()
    if len(given) != n_panels:
        raise ValueError(
            f"{name} must hold one Axes for each of the {n_panels} panels; got {len(given)}. Pass None for a "
            f"new figure, or choose the panels with {choice}=."
        )
    return given


def wrapped(text: str, width: float, size: float, weight: str = "normal", most: int = 3) -> str:
    """Break words into lines, and leave out the middle of what remains too long.

    Parameters
    ----------
    text : str
    width : float
        That a line may have, points.
    size, weight : float, str
        Of the letters.
    most : int, default=3
        Lines.

    Returns
    -------
    str
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size, weight=weight)

    def fits(line: str) -> bool:
        return bool(text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] <= width)

    if "$" in text:  # formulas cannot be broken anywhere
        return text
    lines = _lines(text, fits)
    if len(lines) > most:  # names that begin alike often differ at their end

        def shortened(kept: int) -> list[str]:
            return _lines(f"{text[:kept]}…{text[-kept:]}", fits)

        kept = bisect_left(range(2, len(text) // 2), True, key=lambda k: len(shortened(k)) > most) + 1
        lines = shortened(kept)
    return "\n".join(lines)


def _lines(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Lines of words, and of pieces of words that are longer than a line, as paths of files are."""
    if fits(text):
        return [text]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if fits(longer):
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        while not fits(word) and len(word) > 1:
            # the most letters that fit, one at least
            n = bisect_left(range(2, len(word)), True, key=lambda n: not fits(word[:n])) + 1
            lines[-1], word = word[:n], word[n:]
            lines.append("")
        lines[-1] = word
    return lines


def laid_out_size(ax: Any) -> tuple[float, float]:
    """Width and height of axes in points, once the layout of their figure has given them their room."""
    root = ax.figure
    while not hasattr(root, "draw_without_rendering"):  # a figure inside a figure
        root = root.figure
    root.draw_without_rendering()
    frame = ax.get_window_extent()
    return float(frame.width * 72.0 / root.dpi), float(frame.height * 72.0 / root.dpi)
