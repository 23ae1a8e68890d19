"""Which structures must stay together when data are split."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tinynet_sklearn._validation import first_few
from tinynet_sklearn.frames import IntArray

__all__ = ["time_blocks"]


def time_blocks(runs: ArrayLike, n_blocks: int) -> IntArray:
    """Cut every run into contiguous blocks of time.

    Neighbouring frames of a trajectory are nearly the same structure, and a model that has trained on one
    knows the other. As `groups` of ``GroupKFold`` and its kin, the blocks keep neighbours on the same side of
    a split, except where two blocks meet. Blocks should therefore be much longer than the time over which the
    structures resemble each other.

    Parameters
    ----------
    runs : array-like of shape (n_structures,)
        Label of the run (trajectory, seed, temperature) that each structure comes from: numbers or text. The
        structures of one run are in the order of time; those of other runs may stand between them.
    n_blocks : int
        Blocks of each run. Their lengths differ by one structure at most.

    Returns
    -------
    ndarray of shape (n_structures,), int
        Block of each structure, in the order of time: 0 to ``n_blocks - 1`` for the run that comes first, and
        on from there for the next run.

    Raises
    ------
    ValueError
        If `runs` is not one-dimensional, `n_blocks` no positive whole number, or a run has fewer structures.

    Examples
    --------
    >>> from tinynet_sklearn import time_blocks
    >>> time_blocks(["300K"] * 6 + ["600K"] * 4, n_blocks=2)
    array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3])

    Ten blocks of one run, in five folds:

    >>> import numpy as np
    >>> from sklearn.model_selection import GroupKFold
    >>> groups = time_blocks(np.zeros(100), n_blocks=10)
    >>> train, test = next(GroupKFold(5).split(groups, groups=groups))
    >>> len(test), set(groups[train]) & set(groups[test])
    (20, set())
    """
    labels = np.asarray(runs)
    if labels.ndim != 1:
        raise ValueError(
            "runs must hold one label per structure, in one dimension; got an array of shape "
            f"{labels.shape}. Write a single run as np.zeros(n_structures)."
        )
    given: Any = n_blocks  # the annotation is a promise that mypy believes and users may break
    if not isinstance(given, Integral) or n_blocks < 1:
        raise ValueError(f"n_blocks must be a whole number, 1 or more; got {n_blocks!r}.")
    frames_of: dict[object, list[int]] = {}  # in the order in which the runs appear
    for frame, label in enumerate(labels.tolist()):
        frames_of.setdefault(label, []).append(frame)
    short = [
        f"{len(frames)} in run {label!r}" for label, frames in frames_of.items() if len(frames) < n_blocks
    ]
    if short:
        raise ValueError(
            f"n_blocks must not exceed the number of structures of any run; got {n_blocks} for "
            f"{first_few(short)}. Ask for fewer blocks, or leave these runs out."
        )
    blocks = np.empty(len(labels), dtype=np.intp)
    for run, frames in enumerate(frames_of.values()):
        blocks[frames] = run * n_blocks + np.arange(len(frames)) * n_blocks // len(frames)
    return blocks
