"""All errors of predicted local densities of states in one table."""

from __future__ import annotations

import numpy as np

from tinynet_sklearn.curve_pairs import Baseline, CurvePair
from tinynet_sklearn.pairing import Rows

__all__ = ["LDOSReport", "ldos_report"]

# What stands in the table: key of the report, title, unit, format.
_COLUMNS = (
    ("atoms", "atoms", "", ".0f"),
    ("counted", "counted", "", ".0%"),
    ("rmse", "RMSE", "1/eV/atom", ".4f"),
    ("mae", "MAE", "1/eV/atom", ".4f"),
    ("r2", "R2", "", ".3f"),
    ("wasserstein", "Wasserstein", "eV", ".4f"),
    ("cosine", "cosine", "", ".4f"),
    ("integral_error", "states", "", ".2%"),
)


class LDOSReport(dict[str, dict[str, float]]):
    """Errors by chemical symbol and of "all" atoms: a dict of dicts that prints as a table.

    Made by `ldos_report`.
    """

    def __str__(self) -> str:
        columns = [["", "", *self]]
        for key, title, unit, style in _COLUMNS:
            numbers = [errors[key] for errors in self.values()]
            if key != "counted" or min(numbers) < 1.0:
                columns.append([title, unit, *("-" if np.isnan(x) else f"{x:{style}}" for x in numbers)])
        names, *rest = [(max(map(len, column)), column) for column in columns]
        lines = [f"{name:<{names[0]}}" for name in names[1]]
        for width, column in rest:
            lines = [f"{line}   {cell:>{width}}" for line, cell in zip(lines, column, strict=True)]
        return "\n".join(line.rstrip() for line in lines)


def ldos_report(
    y_true: Rows, y_pred: Rows, *, baseline: Baseline | None = None, exclude_empty: float | None = None
) -> LDOSReport:
    """All errors of each species and of all atoms; ``print`` shows them as a table.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        References and predictions of the same atoms, at least one of them an `LDOS`.
    baseline : dict of array-like of shape (n_energies,), LDOS, PerAtomArray or None, default=None
        As in `ldos_r2`.
    exclude_empty : float or None, default=None
        As in `ldos_rmse`; it concerns rmse, mae and r2.

    Returns
    -------
    LDOSReport
        A dict by chemical symbol and "all" of dicts with the keys "atoms" (how many), "counted" (fraction of
        the energies that `exclude_empty` leaves), "rmse", "mae", "r2", "wasserstein", "cosine" and
        "integral_error" (in the table: states), as the functions of these names give them for the atoms of
        the species. NaN, in the table -, is what these functions do not define.

    Raises
    ------
    ValueError
        As `ldos_r2`, or if neither has energies.
    TypeError
        As `ldos_r2`.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import LDOS
    >>> energies = np.linspace(-4, 4, 81)
    >>> means = np.array([[-0.5], [0.0], [0.5]])
    >>> true = LDOS.from_arrays([np.exp(-2 * (energies - means) ** 2)], energies, [[8, 8, 1]])
    >>> report = ldos_report(true, np.exp(-2 * (energies - means - 0.1) ** 2))
    >>> round(report["O"]["wasserstein"], 3)
    0.1
    >>> print(report)  # doctest: +NORMALIZE_WHITESPACE
          atoms        RMSE         MAE      R2   Wasserstein   cosine   states
                  1/eV/atom   1/eV/atom                    eV
    H         1      0.0467      0.0247       -        0.1000   0.9900    0.00%
    O         2      0.0467      0.0247   0.820        0.1000   0.9900    0.00%
    all       3      0.0467      0.0247   0.730        0.1000   0.9900    0.00%
    """
    pair = CurvePair.with_energies(y_true, y_pred, exclude_empty)
    means = pair.means(baseline)
    report = LDOSReport()
    for name, rows in [*pair.groups().items(), ("all", np.arange(len(pair.true)))]:
        part = pair.take(rows)
        report[name] = {
            "atoms": float(len(rows)),
            "counted": 1.0 if part.counted is None else float(part.counted.mean()),
            "rmse": part.rmse(),
            "mae": part.mae(),
            "r2": part.r2(means),
            "wasserstein": part.wasserstein(),
            "cosine": part.cosine(),
            "integral_error": part.integral_error(),
        }
    return report
