"""How far predicted local densities of states are from reference ones.

The functions take `LDOS`, `PerAtomArray`, lists with one (n_atoms, n_energies) array per structure, or arrays
of rows, in any combination that describes the same atoms. What needs energies (`ldos_wasserstein`,
`ldos_integral_error`, `ldos_moment_errors`) needs an `LDOS` as one of the two. Two different energy grids are
refused. For a part of the energies, cut both: ``ldos_rmse(y_true.window(-8, 0), y_pred.window(-8, 0))``.

====================  ===============  ===================================================================
measure               unit             what it sees
====================  ===============  ===================================================================
rmse, mae             states/eV/atom   heights, energy by energy
r2                    1                the same, against the mean curve of the species: 1 exact, 0 as good
wasserstein           eV               how far states must move; does not see their number
cosine                1                shape, energy by energy; 1 exact
integral error        1                number of states in the window, nothing else
moment errors         1                moments against how much they vary between the atoms of a species
====================  ===============  ===================================================================

Where the reference has no states, every model is right. Such windows lower rmse and mae, and the wider the
window was chosen, the more; with ``exclude_empty=0.01`` energies at which no reference curve of the species
exceeds 1 % of its highest peak do not count in rmse, mae and r2. The other measures do not change when empty
windows are added.
"""

from __future__ import annotations

from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import make_scorer

from tinynet_sklearn._validation import species_name
from tinynet_sklearn.containers import PerAtomArray
from tinynet_sklearn.curve_pairs import Baseline, CurvePair, ldos_pair, species_means
from tinynet_sklearn.frames import FloatArray, IntArray
from tinynet_sklearn.ldos import LDOS
from tinynet_sklearn.pairing import Rows
from tinynet_sklearn.rows import check_structure_weights, per_atom_targets, r2_of_rows

__all__ = [
    "ldos_cosine",
    "ldos_integral_error",
    "ldos_mae",
    "ldos_moment_errors",
    "ldos_r2",
    "ldos_r2_scorer",
    "ldos_recursion_errors",
    "ldos_rmse",
    "ldos_rmse_scorer",
    "ldos_species_means",
    "ldos_wasserstein",
    "ldos_wasserstein_scorer",
    "r2_of_targets",
]

# Moments of order m whose spread is less than this fraction of the width of the curve to the power of m are
# the same but for rounding, such as the third central moments of symmetric curves.
SAME_MOMENT = 1e-9


def ldos_rmse(y_true: Rows, y_pred: Rows, *, exclude_empty: float | None = None) -> float:
    """Root mean squared error over all energies of all atoms.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        References and predictions of the same atoms.
    exclude_empty : float or None, default=None
        From 0 to below 1: energies at which no reference curve of the species is larger, in size, than this
        fraction of its highest peak do not count. None counts all.

    Returns
    -------
    float
        States/eV/atom.

    Raises
    ------
    ValueError
        If the two do not describe the same atoms on the same energies, a number is not finite, or
        `exclude_empty` is none of the above.

    Examples
    --------
    >>> curves = [[0.0, 2.0, 2.0, 0.0]]
    >>> ldos_rmse([curves], [[[0.0, 1.0, 1.0, 0.0]]])
    0.7071067811865476
    >>> ldos_rmse([curves], [[[0.0, 1.0, 1.0, 0.0]]], exclude_empty=0.01)
    1.0
    """
    return CurvePair.of(y_true, y_pred, exclude_empty).rmse()


def ldos_mae(y_true: Rows, y_pred: Rows, *, exclude_empty: float | None = None) -> float:
    """Mean absolute error over all energies of all atoms.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        References and predictions of the same atoms.
    exclude_empty : float or None, default=None
        As in `ldos_rmse`.

    Returns
    -------
    float
        States/eV/atom.

    Raises
    ------
    ValueError
        As `ldos_rmse`.

    Examples
    --------
    >>> ldos_mae([[[0.0, 2.0, 2.0, 0.0]]], [[[0.0, 1.0, 1.0, 0.0]]])
    0.5
    """
    return CurvePair.of(y_true, y_pred, exclude_empty).mae()


def ldos_r2(
    y_true: Rows, y_pred: Rows, *, baseline: Baseline | None = None, exclude_empty: float | None = None
) -> float:
    """Part of the variation about the mean curve of each species that the prediction explains.

    1 - SSE / SST: squared errors, summed over all energies of all atoms, against squared differences of the
    references from the mean curve of their species. 1 is exact; 0 is as good as the mean curves; below 0 is
    worse than those.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        References and predictions of the same atoms. Without species, all atoms share one mean curve.
    baseline : dict of array-like of shape (n_energies,), LDOS, PerAtomArray or None, default=None
        Mean curves by chemical symbol or atomic number (`ldos_species_means`), or references, as those of the
        training, to take them from. None takes them from `y_true`, which is stricter: no prediction knows
        the mean of the test data.
    exclude_empty : float or None, default=None
        As in `ldos_rmse`.

    Returns
    -------
    float
        NaN if no reference differs from its mean curve.

    Raises
    ------
    ValueError
        As `ldos_rmse`, or if `baseline` lacks a species or has other energies.
    TypeError
        If `baseline` is none of the above.

    Examples
    --------
    >>> curves = [[0.0, 1.0], [0.0, 3.0]]  # two atoms of a species
    >>> ldos_r2([curves], [[[0.0, 2.0], [0.0, 2.0]]])
    0.0
    >>> ldos_r2([curves], [[[0.0, 1.5], [0.0, 2.5]]])
    0.75
    """
    pair = CurvePair.of(y_true, y_pred, exclude_empty)
    return pair.r2(pair.means(baseline))


def ldos_wasserstein(y_true: Rows, y_pred: Rows) -> float:
    """1-Wasserstein distance between the curves of an atom, averaged over atoms.

    How far, on average, states must be moved along the energy to make one curve of the other: the integral
    of the difference, in size, of the cumulated curves. Negative values are cut to zero and curves scaled to
    the integral one before, so that only the positions of states count; their number is the matter of
    `ldos_integral_error`. The number is exact for masses at the energies of the grid, half of them at its
    ends.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        References and predictions of the same atoms, at least one of them an `LDOS`. References without any
        state are left out; a prediction without any counts as the width of the window, the largest distance
        there is.

    Returns
    -------
    float
        eV; NaN if no reference has states.

    Raises
    ------
    ValueError
        As `ldos_rmse`, or if neither has energies.

    Examples
    --------
    >>> from tinynet_sklearn import LDOS
    >>> y = LDOS.from_arrays([[[0.0, 2.0, 0.0, 0.0]]], [-1.0, -0.5, 0.0, 0.5])
    >>> ldos_wasserstein(y, [[[0.0, 0.0, 1.0, 0.0]]])
    0.5
    """
    return CurvePair.with_energies(y_true, y_pred).wasserstein()


def ldos_cosine(y_true: Rows, y_pred: Rows) -> float:
    """Cosine of the angle between the curves of an atom as vectors, averaged over atoms.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        References and predictions of the same atoms. References that are zero throughout are left out; a
        prediction that is has no direction and counts as 0.

    Returns
    -------
    float
        1 for curves that are equal up to a factor; NaN if all references are zero.

    Raises
    ------
    ValueError
        As `ldos_rmse`.

    Examples
    --------
    >>> ldos_cosine([[[0.0, 2.0, 0.0]]], [[[0.0, 1.0, 1.0]]])
    0.7071067811865475
    """
    return CurvePair.of(y_true, y_pred).cosine()


def ldos_integral_error(y_true: Rows, y_pred: Rows) -> float:
    """Relative error of the number of states of an atom in the window, averaged over atoms.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        References and predictions of the same atoms, at least one of them an `LDOS`. References whose
        integral is not positive are left out.

    Returns
    -------
    float
        Mean of ``|I_pred - I_true| / I_true``; NaN if no reference has states.

    Raises
    ------
    ValueError
        As `ldos_rmse`, or if neither has energies.

    Examples
    --------
    >>> from tinynet_sklearn import LDOS
    >>> y = LDOS.from_arrays([[[0.0, 2.0, 2.0, 0.0]]], [-1.0, -0.5, 0.0, 0.5])
    >>> round(ldos_integral_error(y, 1.1 * y), 6)
    0.1
    """
    return CurvePair.with_energies(y_true, y_pred).integral_error()


def ldos_moment_errors(
    y_true: Rows, y_pred: Rows, n: int = 10, *, center: float | str = "mean"
) -> dict[str, FloatArray]:
    """Errors of the moments mu_1 ... mu_n, each against how much that moment varies.

    Moments of different order have different units and sizes. So the root mean squared error over the atoms
    of a species is divided by the standard deviation of the reference moments over the same atoms: 0 is
    exact, and 1 is what the mean moment of the species would have. An embedding of walks up to n hops holds
    the moments up to n of the hopping matrix, so the errors of a model should rise beyond that order.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        References and predictions of the same atoms, at least one of them an `LDOS`. References whose
        integral is not positive are left out; a prediction whose integral is not positive has no moments and
        makes the error infinite.
    n : int, default=10
        Highest order.
    center : float or "mean", default="mean"
        Energy that moments are taken about, eV; "mean" for the mean of each curve, which is then the first
        moment itself.

    Returns
    -------
    dict of str to ndarray of shape (n,)
        By chemical symbol, and "all", root mean square over all atoms. NaN where the atoms of a species do
        not differ in the moment; "all" leaves these out.

    Raises
    ------
    ValueError
        As `ldos_rmse`, or if neither has energies, `n` is no positive whole number or `center` is none of the
        above.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import LDOS
    >>> energies = np.linspace(-4, 4, 81)
    >>> means = np.array([[-0.5], [0.0], [0.5]])
    >>> true = LDOS.from_arrays([np.exp(-2 * (energies - means) ** 2)], energies)
    >>> shifted = np.exp(-2 * (energies - means - 0.1) ** 2)
    >>> ldos_moment_errors(true, shifted, n=1)["all"].round(3)
    array([0.245])
    """
    about: Any = center
    if about != "mean" and not (isinstance(about, Real) and np.isfinite(float(about))):
        raise ValueError(f"center must be an energy in eV or 'mean'; got {center!r}.")
    true, predicted = ldos_pair(y_true, y_pred)
    numbers = true.species
    (wanted, exist), (found, possible) = (_moments(ldos, n, center) for ldos in (true, predicted))
    width, _ = _moments(true, 2, center)
    natural = np.sqrt(np.abs(width[:, 1:])) ** np.arange(1.0, n + 1)
    error = np.where(possible[:, None], found - wanted, np.inf)
    return _relative_to_spread(error, wanted, natural, exist, numbers)


def ldos_recursion_errors(y_true: Rows, y_pred: Rows, n: int = 5) -> dict[str, FloatArray]:
    """Errors of the recursion coefficients b_1 ... b_n, each against how much it varies.

    b_k adds to what is known of a curve what the moment of order 2k knows beyond all lower ones
    (`LDOS.recursion_coefficients`). Where moments grow and repeat each other, these are independent: an
    embedding of walks up to n hops holds b_k up to k = n / 2 and nothing of the next.

    Parameters
    ----------
    y_true, y_pred : LDOS, PerAtomArray, list of array-like of shape (n_atoms, n_energies), or ndarray
        As in `ldos_moment_errors`; negative values count as zero.
    n : int, default=5
        Highest order.

    Returns
    -------
    dict of str to ndarray of shape (n,)
        Root mean squared errors, each divided by the standard deviation of that coefficient over the atoms of
        the species; by chemical symbol, and "all".

    Raises
    ------
    ValueError
        As `ldos_moment_errors`.

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn import LDOS
    >>> energies = np.linspace(-6, 6, 121)
    >>> widths = np.array([[0.9], [1.0], [1.1]])
    >>> true = LDOS.from_arrays([np.exp(-0.5 * (energies / widths) ** 2)], energies)
    >>> ldos_recursion_errors(true, np.exp(-0.5 * (energies / 1.1 / widths) ** 2), n=1)["all"].round(2)
    array([1.23])
    """
    true, predicted = ldos_pair(y_true, y_pred)
    wanted, found = (ldos.recursion_coefficients(n)[1] for ldos in (true, predicted))
    exist = np.asarray(np.isfinite(wanted).all(axis=1))
    error = np.where(np.isnan(found), np.inf, found - wanted)
    return _relative_to_spread(error, wanted, wanted, exist, true.species)


def _relative_to_spread(
    error: FloatArray, wanted: FloatArray, natural: FloatArray, exist: NDArray[np.bool_], numbers: IntArray
) -> dict[str, FloatArray]:
    """Root mean squares of columns of errors, divided by the spread of the references within each species.

    `natural` is the size that references would have without special reasons, `exist` says which rows count.
    """
    squares = np.full(wanted.shape, np.nan)
    for z in np.unique(numbers[exist]):
        rows = exist & (numbers == z)
        spread, size = wanted[rows].std(axis=0), natural[rows].max(axis=0)
        squares[rows] = np.square(error[rows] / np.where(spread > SAME_MOMENT * size, spread, np.nan))
    groups = {species_name(z): squares[numbers == z] for z in np.unique(numbers) if numbers.any()}
    return {name: np.sqrt(_mean_of_known(part)) for name, part in {**groups, "all": squares}.items()}


def ldos_species_means(y: PerAtomArray) -> dict[str, FloatArray]:
    """Mean curve of each species: the prediction that knows the species alone.

    Parameters
    ----------
    y : LDOS or PerAtomArray
        References, as of the training.

    Returns
    -------
    dict of str to ndarray of shape (n_energies,)
        By chemical symbol, in the order of the atomic numbers; "unknown (0)" where species are not known.

    Examples
    --------
    >>> from tinynet_sklearn import PerAtomArray
    >>> ldos_species_means(PerAtomArray.from_list([[[0.0, 1.0], [0.0, 3.0]]], [[8, 8]]))
    {'O': array([0., 2.])}
    """
    return species_means(y.values, y.species)


ldos_rmse_scorer = make_scorer(ldos_rmse, greater_is_better=False)
ldos_r2_scorer = make_scorer(ldos_r2)
ldos_wasserstein_scorer = make_scorer(ldos_wasserstein, greater_is_better=False)


def r2_of_targets(y: Any, predicted: Any, sample_weight: ArrayLike | None) -> float:
    """What `score` of a regressor is: `ldos_r2` of densities of states, else the mean R² of the columns.

    Parameters
    ----------
    y : LDOS, PerAtomArray, list of array-like, or array-like
        Targets as `fit` takes them.
    predicted : LDOS, PerAtomArray or ndarray
        What a regressor says of the same atoms or rows.
    sample_weight : array-like or None
        Weight of each structure, or of each row of a plain table.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If they do not describe the same atoms on the same energies.
    """
    if not isinstance(predicted, LDOS):
        return r2_of_rows(y, predicted, sample_weight)
    rows = per_atom_targets(y, predicted)
    true = y if isinstance(y, LDOS) else predicted.with_values(rows)
    weight = check_structure_weights(sample_weight, len(predicted))
    if weight is None:
        return ldos_r2(true, predicted)
    pair = CurvePair.of(true, predicted)
    share = weight[predicted.structure_of_row]
    about = np.zeros_like(pair.true)  # mean curve of the species of each row
    for z in np.unique(pair.species[share > 0]):
        ours = pair.species == z
        about[ours] = np.average(pair.true[ours], axis=0, weights=share[ours])
    root = np.sqrt(share)[:, None]
    weighted = replace(pair, true=root * (pair.true - about), predicted=root * (pair.predicted - about))
    return weighted.r2({species_name(z): np.zeros(pair.true.shape[1]) for z in np.unique(pair.species)})


def _moments(ldos: LDOS, n: int, center: float | str) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Moments (n_rows, n), and whether there are states that have any, (n_rows,)."""
    exist = ldos.integrals() > 0
    # curves of ones in their place keep the division from warning
    filled = ldos if exist.all() else ldos.with_values(np.where(exist[:, None], ldos.values, 1.0))
    return filled.moments(n, center), exist


def _mean_of_known(numbers: FloatArray) -> FloatArray:
    """Mean of each column without its NaN; NaN where there is nothing else."""
    known = ~np.isnan(numbers)
    count = known.sum(axis=0)
    total = np.where(known, numbers, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
