"""Compiled loops of smooth vectors: sums over walks of the direction of their first hop.

The hops and the walks over a third atom are those of `tinynet_sklearn._moment_kernels`, and so are the
arrays. Every pair of atoms is listed once; u is the unit vector from its first atom to its last, and belongs
to the last with the other sign.
"""

import numpy as np

from tinynet_sklearn._kernels import kernel
from tinynet_sklearn._moment_kernels import _fill_work, _part_of


@kernel
def fill_vectors(basis, tables, work, n_hops, n_orders, out):  # type: ignore[no-untyped-def]
    """Write the vectors of all atoms to ``out`` (n_rows, 3, n_vectors), zeros before; see `vector_moments`.

    ``basis`` has the orders of pairs and, as those of rings, ``n_orders``; ``n_hops``, 2 to 4, are those of
    the longest walks.
    """
    n_species, n_pair = basis.n_species, len(basis.pair_orders)
    start_rings = n_species * n_pair
    start_turns = start_rings + n_species**2 * n_orders**3
    for structure in range(tables.ring_counts.shape[0]):
        part = _part_of(tables, structure)
        rows = out[part.start : part.stop]
        _fill_work(basis, part, work)
        unit = np.empty(part.vectors.shape)
        for p in range(part.first.shape[0]):
            d = np.sqrt(part.vectors[p, 0] ** 2 + part.vectors[p, 1] ** 2 + part.vectors[p, 2] ** 2)
            for x in range(3):
                unit[p, x] = part.vectors[p, x] / d
        _add_hops(part, unit, work.hops, n_pair, rows)
        if n_hops >= 3:
            _add_rings(part, unit, work.ring_hops, work.walks, n_species, n_orders, start_rings, rows)
        if n_hops >= 4:
            _add_turns(part, unit, work.hops, n_species, n_pair, n_orders, start_turns, rows)


@kernel
def _add_along(coefficients, direction, columns):  # type: ignore[no-untyped-def]
    """columns[x, k] += coefficients[k] direction[x]: one long loop for each component."""
    for x in range(3):
        factor, row = direction[x], columns[x]
        for k in range(coefficients.shape[0]):
            row[k] += coefficients[k] * factor


@kernel
def _add_hops(part, unit, hops, n_pair, rows):  # type: ignore[no-untyped-def]
    for p in range(part.first.shape[0]):
        i, j = part.first[p], part.last[p]
        to_j, to_i = part.species[j] * n_pair, part.species[i] * n_pair
        _add_along(hops[p], unit[p], rows[i, :, to_j : to_j + n_pair])
        _add_along(hops[p], -unit[p], rows[j, :, to_i : to_i + n_pair])


@kernel
def _add_rings(part, unit, hops, walks, n_species, n_orders, start, rows):  # type: ignore[no-untyped-def]
    size = n_species * n_orders**3
    products = np.empty(size)
    for p in range(part.sides.shape[0]):
        for end in range(2):
            centre, other, sign = part.first[p], part.last[p], 1.0
            if end == 1:
                centre, other, sign = other, centre, -1.0
            k = 0
            for s in range(n_species):
                for a in range(n_orders):
                    for b in range(n_orders):
                        for c in range(n_orders):
                            # walks are h(first k) h(k last): from the last atom they read backwards
                            walk = walks[p, s, c, b] if end == 0 else walks[p, s, b, c]
                            products[k] = sign * hops[p, a] * walk
                            k += 1
            column = start + part.species[other] * size
            _add_along(products, unit[p], rows[centre, :, column : column + size])


@kernel
def _fill_shells(part, unit, hops, n_orders, sums, tensors):  # type: ignore[no-untyped-def]
    """Sums over neighbours of hops, and of hops times u u^T - 1/3: xx, yy, zz, yz, xz, xy."""
    sums[:], tensors[:] = 0.0, 0.0
    quadratic = np.empty(6)
    for p in range(part.first.shape[0]):
        x, y, z = unit[p, 0], unit[p, 1], unit[p, 2]
        quadratic[0], quadratic[1], quadratic[2] = x * x - 1.0 / 3.0, y * y - 1.0 / 3.0, z * z - 1.0 / 3.0
        quadratic[3], quadratic[4], quadratic[5] = y * z, x * z, x * y
        for end in range(2):
            centre, other = part.first[p], part.last[p]
            if end == 1:
                centre, other = other, centre
            for b in range(n_orders):
                k = part.species[other] * n_orders + b
                sums[centre, k] += hops[p, b]
                for c in range(6):
                    tensors[centre, c, k] += hops[p, b] * quadratic[c]


@kernel
def _add_turns(part, unit, hops, n_species, n_pair, n_orders, start, rows):  # type: ignore[no-untyped-def]
    size = n_species * n_orders  # sums, vectors and tensors of an atom
    block = n_orders * size
    kind = n_species * block
    sums = np.empty((rows.shape[0], size))
    tensors = np.empty((rows.shape[0], 6, size))
    _fill_shells(part, unit, hops, n_orders, sums, tensors)
    pointed = np.empty((2, 3, size))  # vectors, and tensors times the direction of the bond
    along = np.empty((3, size))  # sums; the parts of ``pointed`` along the bond
    for p in range(part.first.shape[0]):
        x, y, z = unit[p, 0], unit[p, 1], unit[p, 2]
        for end in range(2):
            centre, other, sign = part.first[p], part.last[p], 1.0
            if end == 1:
                centre, other, sign = other, centre, -1.0
            tensor = tensors[other]
            for k in range(size):
                m = (k // n_orders) * n_pair + k % n_orders
                for c in range(3):
                    pointed[0, c, k] = rows[other, c, m]
                pointed[1, 0, k] = sign * (tensor[0, k] * x + tensor[5, k] * y + tensor[4, k] * z)
                pointed[1, 1, k] = sign * (tensor[5, k] * x + tensor[1, k] * y + tensor[3, k] * z)
                pointed[1, 2, k] = sign * (tensor[4, k] * x + tensor[3, k] * y + tensor[2, k] * z)
                along[0, k] = sign * sums[other, k]
                for t in range(2):
                    along[1 + t, k] = pointed[t, 0, k] * x + pointed[t, 1, k] * y + pointed[t, 2, k] * z
            column = start + part.species[other] * block
            for a in range(n_orders):
                hop = hops[p, a]
                for c in range(3):
                    row, direction = rows[centre, c], hop * unit[p, c]
                    for k in range(size):
                        row[column + k] += direction * along[0, k]
                    for t in range(2):
                        first = column + (1 + 2 * t) * kind
                        for k in range(size):
                            row[first + k] += hop * pointed[t, c, k]
                            row[first + kind + k] += direction * along[1 + t, k]
                column += size
