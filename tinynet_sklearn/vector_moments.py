r"""Smooth vectors: sums over closed walks of the direction of their first hop.

Smooth moments (`tinynet_sklearn.moments`) do not change when a structure is turned, so no vector follows from
them alone. Where every closed walk also pulls at its atom along its first bond, the sums are vectors that
turn with the structure. With the hops h_a and the cutoffs of the moments and the unit vector u_ij from atom i
to atom j, the vectors of atom i are

====  ==================  ============================================================================
hops  walk                vector
====  ==================  ============================================================================
2     i - j - i           :math:`p_a(i) = \sum_j h_a(ij)\, u_{ij}`, for the species of j
3     i - j - k - i       :math:`\sum_{jk} h_a(ij)\, h_b(jk)\, h_c(ki)\, u_{ij}`, for those of j and k
4     i - j - k - j - i   :math:`\sum_j h_a(ij)\, m_b(j)\, u_{ij}`; :math:`\sum_j h_a(ij)\, p_b(j)`,
                          :math:`\sum_j h_a(ij)\, t_b(j)\, u_{ij}`, and of the last two the parts along
                          :math:`u_{ij}`; each for the species of j and k
====  ==================  ============================================================================

with the sums, vectors and tensors of a neighbour j over its own neighbours k

.. math:: m_b(j) = \sum_k h_b(jk), \quad p_b(j) = \sum_k h_b(jk)\, u_{jk}, \quad
          t_b(j) = \sum_k h_b(jk)\, (u_{jk} u_{jk}^T - 1/3).

A combination of the first kind with coefficients c_a is a sum over neighbours of a number that depends on
their distance, a radial function :math:`\sum_a c_a h_a(d)`, times the unit vector to them; the coefficients
are what a network makes of the moments of the atom. Vectors are continuous as bonds form and break, and their
combinations are exactly equivariant under rotations, reflections and renumbering.
"""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from tinynet_sklearn import _moment_kernels, _vector_kernels
from tinynet_sklearn._moment_kernels import Basis
from tinynet_sklearn.moments import SmoothGeometry, SmoothMoments

__all__ = ["smooth_vectors", "vector_names"]

Floats = NDArray[np.floating]

#: What walks of four hops take from the neighbour; see `vector_names`.
KINDS = ("s", "v", "v|", "t", "t|")

#: Channels are mixed for so many atoms at a time: vectors by species take more memory.
BLOCK_ATOMS = 4096


def vector_names(definition: SmoothMoments, n_orders: int) -> list[str]:
    """Name of each vector, such as ``v2[O]3``, ``v3[O-Ti]0,1,2`` or ``v4[O-Ti-O]0,1|``.

    The two of one walk of four hops end with ``.`` (the neighbour's vector itself) and ``|`` (along the
    bond).

    Parameters
    ----------
    definition : SmoothMoments
    n_orders : int
        Number of hopping functions in walks of three and four hops.
    """
    symbols = definition.channel_names
    orders = range(n_orders)
    names = [f"v2[{j}]{a}" for j, a in product(symbols, range(definition.n_pair))]
    if definition.n >= 3:
        names += [
            f"v3[{j}-{k}]{a},{b},{c}" for j, k, a, b, c in product(symbols, symbols, orders, orders, orders)
        ]
    if definition.n >= 4:
        for kind in KINDS:
            names += [
                f"v4[{j}-{k}-{j}]{a},{b}.{kind}" for j, a, k, b in product(symbols, orders, symbols, orders)
            ]
    return names


def smooth_vectors(geometry: SmoothGeometry, n_orders: int) -> Floats:
    """Vectors of all atoms.

    Parameters
    ----------
    geometry : SmoothGeometry
    n_orders : int
        Number of hopping functions in walks of three and four hops; at most ``n_pair`` of the definition.

    Returns
    -------
    ndarray of shape (n_rows, n_vectors, 3)
        In the order of `vector_names`, in the laboratory frame.
    """
    definition = geometry.definition
    rings = tuple(range(n_orders if definition.n >= 3 else 0))
    # vectors are summed by species; channels mix them afterwards
    basis = geometry.basis._replace(ring_orders=rings, mixed=())
    if definition.weights is None:
        return _by_species(geometry, basis, n_orders).transpose(0, 2, 1)
    out = np.empty((geometry.n_rows, 3, len(vector_names(definition, n_orders))))
    ends = geometry.tables.atom_offsets
    start = 0
    while start < len(geometry):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + BLOCK_ATOMS, side="right")) - 1)
        part = _by_species(geometry[start:stop], basis, n_orders)
        out[ends[start] : ends[stop]] = _mixed(part, np.array(definition.weights), definition, n_orders)
        start = stop
    return out.transpose(0, 2, 1)


def _by_species(geometry: SmoothGeometry, basis: Basis, n_orders: int) -> Floats:
    """Vectors with species as channels, shape (n_rows, 3, n_vectors)."""
    tables, n_species = geometry.tables, basis.n_species
    work = _moment_kernels.make_work(basis, int(np.diff(tables.pair_offsets).max(initial=0)))
    n_hops = geometry.definition.n
    n_vectors = sum(_sizes(n_species, geometry.definition, n_orders))
    out = np.zeros((geometry.n_rows, 3, n_vectors))
    _vector_kernels.fill_vectors(basis, tables, work, n_hops, n_orders, out)
    return out


def _mixed(vectors: Floats, weights: Floats, definition: SmoothMoments, n_orders: int) -> Floats:
    """Vectors by channels, of those by species."""
    n_rows, n_species = len(vectors), len(weights)
    pairs, rings, turns = np.split(vectors, np.cumsum(_sizes(n_species, definition, n_orders))[:-1], axis=2)
    by_pair = np.einsum("nxsa,sc->nxca", pairs.reshape(n_rows, 3, n_species, -1), weights)
    parts = [by_pair.reshape(n_rows, 3, -1)]
    if rings.shape[2]:
        of_rings = rings.reshape(n_rows, 3, n_species, n_species, -1)
        mixed = np.einsum("nxsta,sc,td->nxcda", of_rings, weights, weights, optimize=True)
        parts.append(mixed.reshape(n_rows, 3, -1))
    if turns.shape[2]:
        of_turns = turns.reshape(n_rows, 3, len(KINDS), n_species, n_orders, n_species, n_orders)
        mixed = np.einsum("nxzsatb,sc,td->nxzcadb", of_turns, weights, weights, optimize=True)
        parts.append(mixed.reshape(n_rows, 3, -1))
    return np.concatenate(parts, axis=2)


def _sizes(n_channels: int, definition: SmoothMoments, n_orders: int) -> tuple[int, int, int]:
    """Number of vectors of two, three and four hops."""
    rings = n_channels**2 * n_orders**3 if definition.n >= 3 else 0
    turns = len(KINDS) * n_channels**2 * n_orders**2 if definition.n >= 4 else 0
    return n_channels * definition.n_pair, rings, turns
