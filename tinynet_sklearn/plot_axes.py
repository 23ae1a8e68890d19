"""Axes of displays: those of several panels, linear or logarithmic, and readable numbers at them."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["given_panels", "plain_ticks", "spans_much"]

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
    from matplotlib.ticker import LogFormatterMathtext, LogLocator, NullFormatter

    for axis, scale, limits in (
        (ax.xaxis, ax.get_xscale(), ax.get_xlim()),
        (ax.yaxis, ax.get_yscale(), ax.get_ylim()),
    ):
        if scale != "log":
            continue
        between = (1.0, 2.0, 5.0) if limits[1] < _FEW_POWERS * limits[0] else (1.0,)
        axis.set_major_locator(LogLocator(subs=between))
        # 0.001 and 10,000 are easier to read than powers, 1e-6 and a million are not.
        short = limits[0] >= 5e-4 and limits[1] < 1e5
        axis.set_major_formatter("{x:g}" if short else LogFormatterMathtext())
        axis.set_minor_formatter(NullFormatter())


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
