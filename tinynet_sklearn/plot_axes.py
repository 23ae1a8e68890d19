"""Logarithmic axes with readable numbers."""

from __future__ import annotations

from typing import Any

__all__ = ["plain_ticks"]

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
