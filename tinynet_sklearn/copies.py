"""Structures that are the same but for the digits in which files were written."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["first_of_same", "structure_row"]

#: Angstrom: formats keep 8 digits or fewer; frames of a trajectory are a hundred times farther apart.
TOLERANCE = 1e-5


def structure_row(positions: NDArray[np.float64], cell: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers by which structures of the same atoms are compared, shape (3 n_atoms + 9,), Angstrom."""
    return np.concatenate([np.ravel(positions), np.ravel(cell)])


def first_of_same(
    kinds: Sequence[Hashable], rows: Sequence[NDArray[np.float64]], tolerance: float = TOLERANCE
) -> NDArray[np.intp]:
    """For each structure the number of the first of its copies, its own where it has none before it.

    Copies of a copy within the tolerance may count as copies, although they differ by up to twice as much.

    No rounding, by which two numbers on both sides of a boundary would differ: all components of two rows
    must lie within the tolerance. They are looked for among those whose sums, weighted with random numbers,
    are near, which takes two seconds for 100,000 frames of 100 atoms.

    Parameters
    ----------
    kinds : sequence of hashable
        What must be equal: atoms and periodicity.
    rows : sequence of ndarray
        As from `structure_row`, of one length where kinds are equal.
    tolerance : float

    Returns
    -------
    ndarray of int of shape (n_structures,)

    Examples
    --------
    >>> import numpy as np
    >>> from tinynet_sklearn.copies import first_of_same
    >>> first_of_same("AABA", [np.array([x]) for x in (1.0, 2.0, 1.0, 1.000001)])
    array([0, 1, 2, 0])
    """
    found = np.arange(len(kinds))
    members: dict[Hashable, list[int]] = {}
    for number, kind in enumerate(kinds):
        members.setdefault(kind, []).append(number)
    for numbers in members.values():
        if len(numbers) > 1:
            same = _first_of_same(np.stack([rows[number] for number in numbers]), tolerance)
            found[numbers] = np.array(numbers)[same]
    return found


def _first_of_same(rows: NDArray[np.float64], tolerance: float) -> NDArray[np.intp]:
    weights = np.random.default_rng(0).uniform(-1.0, 1.0, size=(rows.shape[1], 2))
    sums = rows @ weights
    rounding = 1e-12 * np.nanmax(np.abs(sums), axis=0, initial=0.0)
    width, other_width = (tolerance * np.abs(weights).sum(axis=0) + rounding).tolist()
    main, others = sums.T.tolist()
    found = np.arange(len(rows))
    near: list[int] = []  # one of each set of same rows, with a sum that is not too small for the next
    for number in np.argsort(sums[:, 0], kind="stable").tolist():
        near = [other for other in near if main[number] - main[other] <= width]
        for other in near:
            if abs(others[number] - others[other]) > other_width:
                continue
            if np.abs(rows[number] - rows[other]).max() <= tolerance:
                found[number] = other
                break
        else:
            near.append(number)
    # a set is named by the first of its members, not by that of the smallest sum
    first = np.full(len(rows), len(rows))
    np.minimum.at(first, found, np.arange(len(rows)))
    return first[found]
