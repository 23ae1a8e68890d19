"""Pieces of error messages that several modules share.

A message names the argument, the contract, what was received and what to do; problems of single structures
are collected and reported once. This module imports nothing of ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


def first_few(problems: Sequence[str], limit: int = 3) -> str:
    """Join the first problems of a list into one clause and count the rest."""
    more = len(problems) - limit
    return "; ".join(problems[:limit]) + (f"; and {more} more" if more > 0 else "")


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
