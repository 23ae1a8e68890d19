"""Pieces of error messages, and checks of arrays, that several modules share.

A message names the argument, the contract, what was received and what to do; problems of single structures
are collected and reported once. This module imports nothing of ours.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def users_level() -> int:
    """``stacklevel`` at which a warning points at the first line outside of this package and of ASE."""
    import ase

    inside = tuple(os.path.dirname(os.path.abspath(path)) + os.sep for path in (__file__, ase.__file__))
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(inside):
        level, frame = level + 1, frame.f_back
    return level


def first_few(problems: Sequence[str], limit: int = 3) -> str:
    """Join the first problems of a list into one clause and count the rest."""
    more = len(problems) - limit
    return "; ".join(problems[:limit]) + (f"; and {more} more" if more > 0 else "")


def plural(n: int, noun: str) -> str:
    """Number and noun."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def described(value: Any) -> str:
    """Type and, where it has one, shape of what a user passed."""
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {tuple(int(n) for n in shape)}")


def species_name(number: int | np.integer[Any]) -> str:
    """Chemical symbol of an atomic number; 0 is a row whose species was not said."""
    from ase.data import chemical_symbols

    if 0 < number < len(chemical_symbols):
        return str(chemical_symbols[number])
    return "unknown (0)" if number == 0 else f"Z={number}"


def equally_wide(
    arrays: Sequence[Any], name: str, vectors_are_columns: bool = False
) -> list[NDArray[np.floating]]:
    """Real arrays of shape (n_atoms, k) with one k, or an error that calls them `name`.

    Parameters
    ----------
    arrays : sequence of array-like
        One per structure.
    name : str
        The argument they came as.
    vectors_are_columns : bool, default=False
        Whether (n_atoms,) may stand for (n_atoms, 1).

    Returns
    -------
    list of ndarray

    Raises
    ------
    ValueError
        If there are none, or they differ in width or dimension from most of them.
    TypeError
        If they are not real numbers.
    """
    arrays = list(arrays)
    if not arrays:
        raise ValueError(f"{name} must hold one (n_atoms, k) array per structure; got an empty list.")
    parts: list[NDArray[np.floating]] = []
    strangers = []
    for i, array in enumerate(arrays):
        try:
            parts.append(real_numbers(array, ndim=None))
        except (TypeError, ValueError):  # no numbers; lists of unequal length
            strangers.append(f"{described(array)} for structure {i}")
    if strangers:
        raise TypeError(
            f"{name} must hold one (n_atoms, k) array of real numbers per structure; got "
            f"{first_few(strangers)}. Leave these structures out or repair them."
        )
    columns = [p[:, None] if vectors_are_columns and p.ndim == 1 else p for p in parts]
    widths = Counter(c.shape[1] for c in columns if c.ndim == 2)
    usual = widths.most_common(1)[0][0] if widths else "k"
    wrong = [f"{p.shape} for structure {i}" for i, p in enumerate(parts) if columns[i].shape[1:] != (usual,)]
    if wrong:
        remedy = "Write one number per atom as a column, a.reshape(-1, 1)."
        if vectors_are_columns:
            remedy = "Give all structures the same number of columns."
        raise ValueError(
            f"{name} must all have the shape (n_atoms, {usual}); got {first_few(wrong)}. {remedy}"
        )
    return columns


def real_numbers(values: ArrayLike, ndim: int | None = 2) -> NDArray[np.floating]:
    """Floating-point array of ``ndim`` dimensions (None: any), or an error."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"values must be real numbers; got type {array.dtype}.")
    if ndim is not None and array.ndim != ndim:
        raise ValueError(
            f"values must have the shape (n_rows, k), one row per atom; got {array.shape}. "
            "Write one number per atom as a column, a.reshape(-1, 1)."
        )
    return array if array.dtype.kind == "f" else array.astype(np.float64)


def physical_memory() -> float:
    """Memory of this machine in bytes; infinity where it cannot be told."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE")) * float(os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not POSIX: let NumPy find out
        return float("inf")
