"""Rows of features that stay in a file and are read, and scaled, block by block.

What `StackObjective` and the scalings ask of an array of rows, and no more: lengths, ranges, means, and
blocks. Anything that wants a whole array gets one, through ``np.asarray``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tinynet_sklearn.array_folders import FOLDER_OF_VALUES
from tinynet_sklearn.frames import FloatArray, IntArray

__all__ = ["MappedRows", "is_mapped"]

#: Rows that are in memory at once.
BLOCK = 4096


def is_mapped(values: Any) -> bool:
    """Whether an array is (a contiguous piece of) the values in a folder of `array_folders`.

    joblib maps arrays, too, of which this is not to be said: a fit in a worker process would then differ
    in rounding from the same fit in the main process.
    """
    while values is not None:
        if isinstance(values, np.memmap) and values.filename is not None:
            return str(values.filename).endswith(FOLDER_OF_VALUES)
        values = getattr(values, "base", None)
    return False


class MappedRows:
    """Some rows of an array in a file, scaled when they are read.

    Parameters
    ----------
    values : ndarray of shape (n, k)
        Where they are.
    index : ndarray of shape (n_rows,), int
        Which of them; ascending ones are read fastest.
    scale : callable or None, default=None
        Takes a block of rows to what is learned from, of any width.
    width : int or None, default=None
        That width.
    dtype : dtype or None, default=None
        Of what it gives.
    """

    ndim = 2

    def __init__(
        self,
        values: FloatArray,
        index: IntArray,
        scale: Callable[[FloatArray], FloatArray] | None = None,
        width: int | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        self._values = values
        self._index = index
        self._scale = scale
        self._width = values.shape[1] if width is None else width
        self.dtype = np.dtype(values.dtype if dtype is None else dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(n_rows, n_columns)."""
        return len(self._index), self._width

    def __len__(self) -> int:
        return len(self._index)

    def scaled(self, scale: Callable[[FloatArray], FloatArray], width: int, dtype: DTypeLike) -> MappedRows:
        """The same rows as a scaling gives them."""
        return MappedRows(self._values, self._index, scale, width, dtype)

    def __getitem__(self, key: Any) -> Any:
        """A block of consecutive rows as an array; for a mask or indices, rows that stay in the file."""
        if isinstance(key, tuple):
            rows, columns = key
            return np.concatenate([block[:, columns] for _, block in self[rows].blocks()])
        if isinstance(key, slice) and key != slice(None):
            block: FloatArray = self._values[self._index[key]]
            return block if self._scale is None else self._scale(block)
        return MappedRows(self._values, self._index[key], self._scale, self._width, self.dtype)

    def blocks(self) -> Any:
        """Slices, and what is in them."""
        for start in range(0, len(self), BLOCK):
            block = slice(start, min(start + BLOCK, len(self)))
            yield block, self[block]

    def min(self, axis: int = 0) -> FloatArray:
        """Lowest number of each column, shape (n_columns,)."""
        return np.asarray(np.min([block.min(axis=0) for _, block in self.blocks()], axis=0))

    def max(self, axis: int = 0) -> FloatArray:
        """Highest number of each column, shape (n_columns,)."""
        return np.asarray(np.max([block.max(axis=0) for _, block in self.blocks()], axis=0))

    def average(self, weight: FloatArray | None) -> FloatArray:
        """Mean of each column, shape (n_columns,), float64."""
        share = np.ones(len(self)) if weight is None else weight
        total = np.zeros(self._width)
        for rows, block in self.blocks():
            total += share[rows] @ block
        return total / share.sum()

    def digest(self) -> NDArray[np.uint8]:
        """What stands for all these numbers in a fingerprint."""
        digest = hashlib.sha256(f"{self.dtype.str}{self.shape}".encode())
        for _, block in self.blocks():
            digest.update(np.ascontiguousarray(block).data)
        return np.frombuffer(digest.digest(), dtype=np.uint8)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> FloatArray:
        whole = np.concatenate([block for _, block in self.blocks()])
        return whole.astype(self.dtype if dtype is None else dtype, copy=False)
