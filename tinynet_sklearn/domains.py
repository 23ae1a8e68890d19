"""Atoms divided among MPI ranks: who owns which, who needs which of others, and the exchange of both."""

from __future__ import annotations

from typing import Any

import numpy as np

from tinynet_sklearn.frames import IntArray
from tinynet_sklearn.geometry import Floats

__all__ = ["Domain", "lost_atoms"]


class Domain:
    """The atoms of one rank, and those of other ranks that it needs; making one is collective.

    Parameters
    ----------
    comm : mpi4py communicator
    own : ndarray of int
        Atoms that this rank owns.
    needed : ndarray of int
        Atoms whose positions it needs, its own included or not.
    n_atoms : int
        Of all ranks together.

    Attributes
    ----------
    halo : ndarray of int
        Needed atoms of other ranks, those of one rank after those of another.
    lent : ndarray of int
        Own atoms that other ranks need; some of them several times.

    Raises
    ------
    ValueError
        If the ranks do not own every atom once.
    """

    def __init__(self, comm: Any, own: IntArray, needed: IntArray, n_atoms: int) -> None:
        shares = comm.allgather(own)
        present = np.concatenate(shares)
        if len(present) != n_atoms or len(np.unique(present)) != n_atoms:
            raise ValueError(lost_atoms(len(present), n_atoms))
        owner = np.empty(n_atoms, dtype=np.int64)
        owner[present] = np.repeat(np.arange(comm.size), [len(share) for share in shares])
        halo = needed[owner[needed] != comm.rank]
        self.halo: IntArray = halo[np.argsort(owner[halo], kind="stable")]
        wanted = np.split(self.halo, np.searchsorted(owner[self.halo], np.arange(1, comm.size)))
        asked = comm.alltoall(wanted)
        self.lent: IntArray = np.concatenate(asked)
        self._comm = comm
        self._halo_counts = [3 * len(part) for part in wanted]
        self._lent_counts = [3 * len(part) for part in asked]
        self._halo_rows, self._lent_rows = np.empty((len(self.halo), 3)), np.empty((len(self.lent), 3))

    def fetch(self, positions: Floats) -> None:
        """Fill in the positions of the halo, shape (n_atoms, 3)."""
        np.take(positions, self.lent, axis=0, out=self._lent_rows)
        self._comm.Alltoallv([self._lent_rows, self._lent_counts], [self._halo_rows, self._halo_counts])
        positions[self.halo] = self._halo_rows

    def give_back(self, forces: Floats) -> None:
        """Add the forces that other ranks found for own atoms, shape (n_atoms, 3)."""
        np.take(forces, self.halo, axis=0, out=self._halo_rows)
        self._comm.Alltoallv([self._halo_rows, self._halo_counts], [self._lent_rows, self._lent_counts])
        np.add.at(forces, self.lent, self._lent_rows)

    def summed(self, values: Floats) -> Floats:
        """Sum of an array over the ranks."""
        total = np.empty_like(values)
        self._comm.Allreduce(values, total)
        return total


def lost_atoms(found: int, expected: int) -> str:
    """Message of a simulation that lost atoms, or has new ones."""
    return (
        f"atoms must neither be lost nor created while a model acts on them; got {found} of {expected}. A "
        "smaller time step, a lower temperature or a better model may keep them together."
    )
