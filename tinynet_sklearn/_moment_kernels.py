"""Compiled loops of smooth moments: values, pull and push, and the Jacobian.

Walks are sums of products of hops, so they are built as products of matrices on the graph of bonds. With
``h_a(ij)`` the hop of order ``a`` along a bond, the *walks over a third atom* of species ``s``,

    w_ab(ij; s) = sum over k of species s of  h_a(ik) h_b(kj),

are taken only where ``ij`` is a bond, too: they are triangles. One pass over the triangles, each visited once
for its three bonds, gives all of them. Closed walks of three and four hops from atom i are then sums over
its bonds alone,

    mu3(i) = sum over j of  h_a(ij) w_cb(ij; s),      mu4(i) = sum over j of  h_0(ij) w_ab(ij; s) w_cd(ij; t),

and their derivatives flow back the same way: to the bonds, through the triangles, to the bond lengths. The
work is linear in the number of triangles, a few multiplications each.

An atom counts in *channels*: without weights in one, that of its species, and fully so; with weights in all
of them, by the weights of its species. ``s`` and ``t`` are channels then. Triangles are still summed by
species, which is the same loop for both, and then mixed. See `_channel`, `_weight` and `_mix_walks`.

Arrays of bonds and triangles are those of `Tables`; atoms and bonds are numbered within their structure, so
tables of structures can be taken out and put together without touching the numbers. No loop allocates: the
space that a structure needs (`Work`) is made once, for the largest of them, and stays in the cache of the
processor.

All that is compiled into one loop stands in this one file: the date of that file is all that numba looks at
before it takes a loop from its cache on disk.
"""

from typing import NamedTuple

import numpy as np

from tinynet_sklearn._kernels import kernel


class Tables(NamedTuple):
    """Bonds and triangles of structures, each periodic one once per cell.

    ================  ==================  ==============================================================
    name              shape               meaning
    ================  ==================  ==============================================================
    atom_offsets      (n_structures + 1)  atoms of structure s are atom_offsets[s]:atom_offsets[s + 1]
    pair_offsets      (n_structures + 1)  the same for pairs
    ring_counts       (n_structures,)     so many pairs come first that may be sides of triangles
    triangle_offsets  (n_structures + 1)  the same for triangles
    species           (n_rows,)           position of the species of each atom in the list of species
    first, last       (n_pairs,)          atoms of a pair, from ``first`` to ``last``
    vectors           (n_pairs, 3)        from ``first`` to the image of ``last``, Angstrom
    triangles         (n_triangles, 3)    pairs (i, j), (i, k), (j, k), directed from i to j to k
    ================  ==================  ==============================================================
    """

    atom_offsets: np.ndarray
    pair_offsets: np.ndarray
    ring_counts: np.ndarray
    triangle_offsets: np.ndarray
    species: np.ndarray
    first: np.ndarray
    last: np.ndarray
    vectors: np.ndarray
    triangles: np.ndarray


class Part(NamedTuple):
    """Slices of `Tables` that belong to one structure; atoms start:stop of all.

    ``sides`` (n_sides, 3) are the vectors of the pairs that may be sides of triangles.
    """

    start: int
    stop: int
    species: np.ndarray
    first: np.ndarray
    last: np.ndarray
    vectors: np.ndarray
    sides: np.ndarray
    triangles: np.ndarray


class Listed(NamedTuple):
    """Pairs and triangles that are within the cutoffs, or may come there; as in `Tables`, of one structure.

    Pair p leads to ``last`` in the cell that is moved by the translation ``images`` (n_pairs,) of a list.
    ``n_sides`` pairs come first that may be sides of triangles.
    """

    first: np.ndarray
    last: np.ndarray
    images: np.ndarray
    n_sides: int
    triangles: np.ndarray


class Work(NamedTuple):
    """Space for what is worked out of one structure; made by `make_work` for up to ``most`` pairs.

    ===========  ==================================  =====================================================
    name         shape                               meaning
    ===========  ==================================  =====================================================
    hops         (most, n_pair)                      hops of each pair, and their slopes by its length
    hop_slopes   (most, n_pair)
    ring_hops    (most, n_ring)                      the same in walks of three and four hops
    ring_slopes  (most, n_ring)
    walks        (most, n_species, n_ring, n_ring)   see `_fill_walks`
    mixed        (most, n_channels, n_ring, n_ring)  see `_mix_walks`; without weights the same array
    seen         (n_channels, n_ring, n_ring)        walks of one pair from one of its ends
    by_...       as their namesakes                  slopes of the energy by these
    by_length    (most,)                             ... and by the length of each pair
    ===========  ==================================  =====================================================
    """

    hops: np.ndarray
    hop_slopes: np.ndarray
    ring_hops: np.ndarray
    ring_slopes: np.ndarray
    walks: np.ndarray
    mixed: np.ndarray
    seen: np.ndarray
    by_hop: np.ndarray
    by_walk: np.ndarray
    by_mixed: np.ndarray
    by_seen: np.ndarray
    by_length: np.ndarray


class Basis(NamedTuple):
    """Hops and layout of the columns.

    The three ``orders`` are tuples 0, 1, ...: only their lengths count. Numba knows the length of a tuple
    when it compiles, so the short loops over orders are unrolled.

    ``mixed`` is such a tuple, too: as long as there are channels where species count by ``weights``
    (n_species, n_channels) in all of them, and empty where every species is a channel of its own.

    ``triangle_columns`` (n_channels, n_channels) and ``square_columns`` (n_channels, n_channels, n_channels)
    are the first columns of the blocks of three and four hops; see `moments.SmoothMoments`.
    """

    n_species: int
    n_channels: int
    cutoff: float
    ring_cutoff: float
    inner: float
    decay: float
    pair_orders: tuple[int, ...]
    ring_orders: tuple[int, ...]
    square_orders: tuple[int, ...]
    mixed: tuple[int, ...]
    weights: np.ndarray
    triangle_columns: np.ndarray
    square_columns: np.ndarray


@kernel
def _channel(basis, species, k):  # type: ignore[no-untyped-def]
    """Number of the k-th channel, of ``max(1, len(basis.mixed))``, in which a species counts."""
    return species if len(basis.mixed) == 0 else k


@kernel
def _weight(basis, species, k):  # type: ignore[no-untyped-def]
    """How much it counts there. The compiler drops a product with one, so plain species cost nothing."""
    return 1.0 if len(basis.mixed) == 0 else basis.weights[species, k]


@kernel
def _largest(offsets):  # type: ignore[no-untyped-def]
    """Most items of one structure."""
    largest = 0
    for s in range(offsets.shape[0] - 1):
        largest = max(largest, offsets[s + 1] - offsets[s])
    return largest


@kernel
def _part_of(tables, structure):  # type: ignore[no-untyped-def]
    """Slices of one structure."""
    start, stop = tables.atom_offsets[structure], tables.atom_offsets[structure + 1]
    pairs = slice(tables.pair_offsets[structure], tables.pair_offsets[structure + 1])
    triangles = slice(tables.triangle_offsets[structure], tables.triangle_offsets[structure + 1])
    vectors = tables.vectors[pairs]
    return Part(
        start,
        stop,
        tables.species[start:stop],
        tables.first[pairs],
        tables.last[pairs],
        vectors,
        vectors[: tables.ring_counts[structure]],
        tables.triangles[triangles],
    )


# ---- Triangles ---------------------------------------------------------------------------------------------


@kernel
def find_triangles(offsets, keys, translations):  # type: ignore[no-untyped-def]
    """Triangles of bonds, each once per cell; shape (n_triangles, 3).

    Bonds of an atom lead to vertices that come after it in the order (atom, cell), which translations keep;
    so the first vertex of a triangle sees the other two, and the second one sees the third.

    Parameters: ``offsets`` (n_atoms + 1,) of the bonds that start from each atom; ``keys`` (n_bonds,) of
    their ends, ascending for each atom, such that a translation of a vertex adds a constant to its key;
    ``translations`` (n_bonds, 2): atom at the end of the bond, and the constant of the cell it stands in.
    """
    capacity = max(64, 4 * keys.shape[0])
    triangles = np.empty((capacity, 3), np.int32)
    n = 0
    for i in range(offsets.shape[0] - 1):
        for p in range(offsets[i], offsets[i + 1]):
            j, added = translations[p, 0], translations[p, 1]
            q, s = p + 1, offsets[j]
            while q < offsets[i + 1] and s < offsets[j + 1]:
                difference = keys[q] - keys[s] - added
                if difference == 0:
                    if n == capacity:
                        triangles = np.concatenate((triangles, np.empty_like(triangles)))
                        capacity *= 2
                    triangles[n, 0], triangles[n, 1], triangles[n, 2] = p, q, s
                    n += 1
                if difference <= 0:
                    q += 1
                if difference >= 0:
                    s += 1
    return triangles[:n].copy()


# ---- Structures that are followed --------------------------------------------------------------------------


@kernel
def unwrap(positions, cell, inverse_cell, periodic, scaled, unwrapped):  # type: ignore[no-untyped-def]
    """Undo jumps into other cells, and find the two largest displacements.

    ``scaled`` (n_atoms, 3): positions in units of the cell when the atoms were listed. What `positions`
    have moved by beyond the deformation of the cell, and beyond the mean of all atoms, is a displacement
    (Angstrom). Those positions that are nearest to the listed ones are written to ``unwrapped``.
    """
    n_atoms = positions.shape[0]
    mean = np.zeros(3)
    for i in range(n_atoms):
        for c in range(3):
            unwrapped[i, c] = positions[i, c]
        for d in range(3):
            along = 0.0
            for c in range(3):
                along += positions[i, c] * inverse_cell[c, d]
            along -= scaled[i, d]
            if periodic[d]:
                cells = np.rint(along)
                along -= cells
                for c in range(3):
                    unwrapped[i, c] -= cells * cell[d, c]
            mean[d] += along / n_atoms
    largest, second = 0.0, 0.0
    for i in range(n_atoms):
        length = 0.0
        for c in range(3):
            moved = unwrapped[i, c]
            for d in range(3):
                moved -= (scaled[i, d] + mean[d]) * cell[d, c]
            length += moved * moved
        if not length <= second:  # also where it is not a number
            largest, second = (length, largest) if not length <= largest else (largest, length)
    return np.sqrt(largest), np.sqrt(second)


@kernel
def follow(  # type: ignore[no-untyped-def]
    positions, shifts, cutoff, ring_cutoff, listed, numbers, first, last, vectors, triangles
):
    """Of listed pairs and triangles, pick those that are within the cutoffs now; see `Tables`.

    ``shifts`` (n_images, 3): translations, Angstrom; ``listed``: a `Listed`; ``numbers`` (n_listed,): space.
    The rest is written. Returns the numbers of pairs, of sides (which come first) and of triangles, and the
    shortest length.
    """
    n, n_sides, shortest = 0, 0, np.inf
    for sides in (True, False):
        # pairs that are sides of triangles come first: of those that may be sides, the ones that are; then
        # the rest of these, and the others
        for q in range(listed.n_sides if sides else listed.first.shape[0]):
            if not sides and q < listed.n_sides and numbers[q] >= 0:
                continue
            i, j, image = listed.first[q], listed.last[q], listed.images[q]
            x = positions[j, 0] - positions[i, 0] + shifts[image, 0]
            y = positions[j, 1] - positions[i, 1] + shifts[image, 1]
            z = positions[j, 2] - positions[i, 2] + shifts[image, 2]
            length = np.sqrt(x * x + y * y + z * z)
            if sides:
                numbers[q] = n if length < ring_cutoff else -1
            if length < (ring_cutoff if sides else cutoff):
                first[n], last[n] = i, j
                vectors[n, 0], vectors[n, 1], vectors[n, 2] = x, y, z
                shortest = min(shortest, length)
                n += 1
        if sides:
            n_sides = n
    m = 0
    for t in range(listed.triangles.shape[0]):
        p, q, s = listed.triangles[t, 0], listed.triangles[t, 1], listed.triangles[t, 2]
        p, q, s = numbers[p], numbers[q], numbers[s]
        if p >= 0 and q >= 0 and s >= 0:
            triangles[m, 0], triangles[m, 1], triangles[m, 2] = p, q, s
            m += 1
    return n, n_sides, m, shortest


# ---- Hops --------------------------------------------------------------------------------------------------


@kernel
def fill_hops(vectors, cutoff, inner, decay, orders, hops, slopes):  # type: ignore[no-untyped-def]
    """Hops of each order along each bond, and their derivatives by its length.

    h_a(d) = T_a(x) f(d), with f = (1 - (d / cutoff)^2)^3 and T_a the Chebyshev polynomial of
    x = a linear function of exp(-decay d), 1 at ``inner`` and -1 at the cutoff. Zero beyond the cutoff.

    ``vectors`` (n, 3); ``hops`` and ``slopes`` (at least n, at least len(orders)) are written.
    """
    far = np.exp(-decay * cutoff)
    scale = 2.0 / (np.exp(-decay * inner) - far)
    for p in range(vectors.shape[0]):
        d = np.sqrt(vectors[p, 0] ** 2 + vectors[p, 1] ** 2 + vectors[p, 2] ** 2)
        near = max(0.0, 1.0 - (d / cutoff) ** 2)
        weight, weight_slope = near**3, -6.0 * d / cutoff**2 * near**2
        fall = np.exp(-decay * d)
        x, x_slope = scale * (fall - far) - 1.0, -decay * scale * fall
        here, before = 1.0, x  # T_0, and T_-1 = T_1
        here_slope, before_slope = 0.0, 1.0
        for a in range(len(orders)):
            hops[p, a] = here * weight
            slopes[p, a] = here_slope * x_slope * weight + here * weight_slope
            after = 2.0 * x * here - before
            after_slope = 2.0 * here + 2.0 * x * here_slope - before_slope
            before, here = here, after
            before_slope, here_slope = here_slope, after_slope


# ---- Walks over a third atom -------------------------------------------------------------------------------


@kernel
def _add_products(weight, left, right, orders, walk):  # type: ignore[no-untyped-def]
    """walk[a, b] += weight left[a] right[b]."""
    for a in range(len(orders)):
        # taken out, since the compiler cannot know that they stay the same
        factor, row = weight * left[a], walk[a]
        for b in range(len(orders)):
            row[b] += factor * right[b]


@kernel
def _fill_walks(part, hops, orders, walks):  # type: ignore[no-untyped-def]
    """walks[p, s, a, b] = sum over third atoms k of species s of h_a(first k) h_b(k last)."""
    walks[: part.sides.shape[0]] = 0.0
    for t in range(part.triangles.shape[0]):
        p, q, s = part.triangles[t, 0], part.triangles[t, 1], part.triangles[t, 2]
        i, j, k = part.species[part.first[p]], part.species[part.last[p]], part.species[part.last[q]]
        _add_products(1.0, hops[q], hops[s], orders, walks[p, k])
        _add_products(1.0, hops[p], hops[s], orders, walks[q, j])
        _add_products(1.0, hops[p], hops[q], orders, walks[s, i])


@kernel
def _fill_walk_rates(part, hops, hop_rates, orders, rates):  # type: ignore[no-untyped-def]
    """Rates of `_fill_walks` where the hops change at ``hop_rates``."""
    rates[: part.sides.shape[0]] = 0.0
    for t in range(part.triangles.shape[0]):
        p, q, s = part.triangles[t, 0], part.triangles[t, 1], part.triangles[t, 2]
        i, j, k = part.species[part.first[p]], part.species[part.last[p]], part.species[part.last[q]]
        _add_products(1.0, hop_rates[q], hops[s], orders, rates[p, k])
        _add_products(1.0, hops[q], hop_rates[s], orders, rates[p, k])
        _add_products(1.0, hop_rates[p], hops[s], orders, rates[q, j])
        _add_products(1.0, hops[p], hop_rates[s], orders, rates[q, j])
        _add_products(1.0, hop_rates[p], hops[q], orders, rates[s, i])
        _add_products(1.0, hops[p], hop_rates[q], orders, rates[s, i])


@kernel
def _pull_walks(part, hops, walk_slopes, orders, hop_slopes):  # type: ignore[no-untyped-def]
    """Transpose of `_fill_walk_rates`: add slopes by walks to slopes by hops.

    Each hop of a triangle is a factor of two of its three products. Their slopes are gathered in a register
    before one number is written, which takes half the time of going from product to product.
    """
    for t in range(part.triangles.shape[0]):
        p, q, s = part.triangles[t, 0], part.triangles[t, 1], part.triangles[t, 2]
        i, j, k = part.species[part.first[p]], part.species[part.last[p]], part.species[part.last[q]]
        over_k, over_j, over_i = walk_slopes[p, k], walk_slopes[q, j], walk_slopes[s, i]
        ij, ik, jk = hops[p], hops[q], hops[s]
        by_ij, by_ik, by_jk = hop_slopes[p], hop_slopes[q], hop_slopes[s]
        for a in range(len(orders)):
            of_ij, of_ik, of_jk = 0.0, 0.0, 0.0
            for b in range(len(orders)):
                of_ij += over_j[a, b] * jk[b] + over_i[a, b] * ik[b]
                of_ik += over_k[a, b] * jk[b] + over_i[b, a] * ij[b]
                of_jk += over_k[b, a] * ik[b] + over_j[b, a] * ij[b]
            by_ij[a] += of_ij
            by_ik[a] += of_ik
            by_jk[a] += of_jk


@kernel
def _mix_walks(basis, n_sides, walks, mixed):  # type: ignore[no-untyped-def]
    """mixed[p, c] = sum over species s of weights[s, c] walks[p, s]; nothing to do without weights."""
    if len(basis.mixed) == 0:
        return
    n = len(basis.ring_orders)
    mixed[:n_sides] = 0.0
    for p in range(n_sides):
        for s in range(basis.weights.shape[0]):
            for c in range(len(basis.mixed)):
                weight, walk, mixture = basis.weights[s, c], walks[p, s], mixed[p, c]
                for a in range(n):
                    for b in range(n):
                        mixture[a, b] += weight * walk[a, b]


@kernel
def _pull_mixture(basis, n_sides, by_mixed, by_walk):  # type: ignore[no-untyped-def]
    """Transpose of `_mix_walks`: slopes by walks over channels give those by walks over species."""
    if len(basis.mixed) == 0:
        return
    n = len(basis.ring_orders)
    by_walk[:n_sides] = 0.0
    for p in range(n_sides):
        for s in range(basis.weights.shape[0]):
            for c in range(len(basis.mixed)):
                weight, walk, mixture = basis.weights[s, c], by_walk[p, s], by_mixed[p, c]
                for a in range(n):
                    for b in range(n):
                        walk[a, b] += weight * mixture[a, b]


@kernel
def _add_seen_from(end, walk, orders, seen):  # type: ignore[no-untyped-def]
    """seen[s, a, b] += the walks of a bond as its first (end 0) or its last atom (end 1) sees them."""
    for s in range(walk.shape[0]):
        for a in range(len(orders)):
            for b in range(len(orders)):
                seen[s, a, b] += walk[s, a, b] if end == 0 else walk[s, b, a]


# ---- Columns of one atom -----------------------------------------------------------------------------------
#
# `neighbor` is the species at the other end of a bond, `hop` (n_orders,) its hops and `walk`
# (n_channels, n_orders, n_orders) its walks over a third atom, from the centre.


@kernel
def _add_triangles(basis, neighbor, hop, walk, row):  # type: ignore[no-untyped-def]
    """row[mu3 of neighbor, third; a, c, b] += hop[a] walk[third, c, b]; a <= c where the two are alike."""
    n = len(basis.ring_orders)
    for k in range(max(1, len(basis.mixed))):
        there, weight = _channel(basis, neighbor, k), _weight(basis, neighbor, k)
        for third in range(there, basis.n_channels):
            column = basis.triangle_columns[there, third]
            for a in range(n):
                factor = weight * hop[a]
                for c in range(a if third == there else 0, n):
                    over = walk[third, c]
                    for b in range(n):
                        row[column + b] += factor * over[b]
                    column += n


@kernel
def _pull_triangles(basis, neighbor, hop, walk, slopes, hop_slope, walk_slope):  # type: ignore[no-untyped-def]
    """Transpose of the derivative of `_add_triangles`."""
    n = len(basis.ring_orders)
    for k in range(max(1, len(basis.mixed))):
        there, weight = _channel(basis, neighbor, k), _weight(basis, neighbor, k)
        for third in range(there, basis.n_channels):
            column = basis.triangle_columns[there, third]
            for a in range(n):
                factor, total = weight * hop[a], 0.0
                for c in range(a if third == there else 0, n):
                    over, by_over = walk[third, c], walk_slope[third, c]
                    for b in range(n):
                        slope = slopes[column + b]
                        total += slope * over[b]
                        by_over[b] += slope * factor
                    column += n
                hop_slope[a] += weight * total


@kernel
def _add_squares(basis, neighbor, hop, walk, row):  # type: ignore[no-untyped-def]
    """row[mu4 over neighbor; s, t; ab, cd] += hop[0] walk[s, a, b] walk[t, c, d]; ab <= cd where s = t."""
    n = len(basis.square_orders)
    for k in range(max(1, len(basis.mixed))):
        across, first = _channel(basis, neighbor, k), _weight(basis, neighbor, k) * hop[0]
        for s in range(basis.n_channels):
            for t in range(s, basis.n_channels):
                column = basis.square_columns[across, s, t]
                for u in range(n * n):
                    factor = first * walk[s, u // n, u % n]
                    for v in range(u if s == t else 0, n * n):
                        row[column] += factor * walk[t, v // n, v % n]
                        column += 1


@kernel
def _pull_squares(basis, neighbor, hop, walk, slopes, hop_slope, walk_slope):  # type: ignore[no-untyped-def]
    """Transpose of the derivative of `_add_squares`."""
    n = len(basis.square_orders)
    for k in range(max(1, len(basis.mixed))):
        across, weight = _channel(basis, neighbor, k), _weight(basis, neighbor, k)
        first = weight * hop[0]
        for s in range(basis.n_channels):
            for t in range(s, basis.n_channels):
                column = basis.square_columns[across, s, t]
                for u in range(n * n):
                    one, total = walk[s, u // n, u % n], 0.0
                    for v in range(u if s == t else 0, n * n):
                        total += slopes[column] * walk[t, v // n, v % n]
                        walk_slope[t, v // n, v % n] += slopes[column] * first * one
                        column += 1
                    walk_slope[s, u // n, u % n] += first * total
                    hop_slope[0] += weight * one * total


@kernel
def _add_square_rates(basis, neighbor, hop, walk, hop_rate, walk_rate, row):  # type: ignore[no-untyped-def]
    """Rates of `_add_squares`."""
    n = len(basis.square_orders)
    for k in range(max(1, len(basis.mixed))):
        across, weight = _channel(basis, neighbor, k), _weight(basis, neighbor, k)
        first, first_rate = weight * hop[0], weight * hop_rate[0]
        for s in range(basis.n_channels):
            for t in range(s, basis.n_channels):
                column = basis.square_columns[across, s, t]
                for u in range(n * n):
                    factor = first * walk[s, u // n, u % n]
                    rate = first_rate * walk[s, u // n, u % n] + first * walk_rate[s, u // n, u % n]
                    for v in range(u if s == t else 0, n * n):
                        row[column] += rate * walk[t, v // n, v % n] + factor * walk_rate[t, v // n, v % n]
                        column += 1


# ---- One structure -----------------------------------------------------------------------------------------
#
# `rows` (n_atoms, n_columns) are the columns of its atoms, or slopes by them. Bonds are seen from both ends.


@kernel
def _add_pairs(basis, part, hops, rows):  # type: ignore[no-untyped-def]
    """Columns of two hops."""
    n = len(basis.pair_orders)
    for p in range(part.first.shape[0]):
        i, j = part.first[p], part.last[p]
        of_i, of_j = part.species[i], part.species[j]
        for k in range(max(1, len(basis.mixed))):
            to_j, to_i = _channel(basis, of_j, k) * n, _channel(basis, of_i, k) * n
            weight_j, weight_i = _weight(basis, of_j, k), _weight(basis, of_i, k)
            for a in range(n):
                rows[i, to_j + a] += weight_j * hops[p, a]
                rows[j, to_i + a] += weight_i * hops[p, a]


@kernel
def _pull_pairs(basis, part, hop_slopes, rows, by_length):  # type: ignore[no-untyped-def]
    """Slopes by the columns of two hops give slopes by the lengths of the bonds."""
    n = len(basis.pair_orders)
    for p in range(part.first.shape[0]):
        i, j = part.first[p], part.last[p]
        of_i, of_j = part.species[i], part.species[j]
        by_length[p] = 0.0
        for k in range(max(1, len(basis.mixed))):
            to_j, to_i = _channel(basis, of_j, k) * n, _channel(basis, of_i, k) * n
            weight_j, weight_i = _weight(basis, of_j, k), _weight(basis, of_i, k)
            for a in range(n):
                slope = weight_j * rows[i, to_j + a] + weight_i * rows[j, to_i + a]
                by_length[p] += slope * hop_slopes[p, a]


@kernel
def _add_rings(basis, part, hops, walks, seen, rows):  # type: ignore[no-untyped-def]
    """Columns of three and four hops."""
    for p in range(part.sides.shape[0]):
        for end in range(2):
            centre, other = part.first[p], part.last[p]
            if end == 1:
                centre, other = other, centre
            seen[:] = 0.0
            _add_seen_from(end, walks[p], basis.ring_orders, seen)
            _add_triangles(basis, part.species[other], hops[p], seen, rows[centre])
            _add_squares(basis, part.species[other], hops[p], seen, rows[centre])


@kernel
def _add_ring_rates(  # type: ignore[no-untyped-def]
    basis, part, hops, hop_rates, walks, walk_rates, seen, seen_rate, rows
):
    """Rates of `_add_rings`."""
    for p in range(part.sides.shape[0]):
        for end in range(2):
            centre, other = part.first[p], part.last[p]
            if end == 1:
                centre, other = other, centre
            seen[:], seen_rate[:] = 0.0, 0.0
            _add_seen_from(end, walks[p], basis.ring_orders, seen)
            _add_seen_from(end, walk_rates[p], basis.ring_orders, seen_rate)
            species, row = part.species[other], rows[centre]
            _add_triangles(basis, species, hop_rates[p], seen, row)
            _add_triangles(basis, species, hops[p], seen_rate, row)
            _add_square_rates(basis, species, hops[p], seen, hop_rates[p], seen_rate, row)


@kernel
def _pull_rings(basis, part, hops, walks, rows, seen, by_seen, by_hop, by_walk):  # type: ignore[no-untyped-def]
    """Transpose of `_add_ring_rates`."""
    by_hop[: part.sides.shape[0]] = 0.0
    by_walk[: part.sides.shape[0]] = 0.0
    for p in range(part.sides.shape[0]):
        for end in range(2):
            centre, other = part.first[p], part.last[p]
            if end == 1:
                centre, other = other, centre
            seen[:], by_seen[:] = 0.0, 0.0
            _add_seen_from(end, walks[p], basis.ring_orders, seen)
            species, row = part.species[other], rows[centre]
            _pull_triangles(basis, species, hops[p], seen, row, by_hop[p], by_seen)
            _pull_squares(basis, species, hops[p], seen, row, by_hop[p], by_seen)
            _add_seen_from(end, by_seen, basis.ring_orders, by_walk[p])


@kernel
def _pull_lengths(part, by_length, gradient, virial):  # type: ignore[no-untyped-def]
    """Slopes by the lengths of the bonds give those by positions (n_atoms, 3) and strain (3, 3)."""
    for p in range(part.first.shape[0]):
        vector = part.vectors[p]
        tension = by_length[p] / np.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)
        for c in range(3):
            pulled = tension * vector[c]
            gradient[part.last[p], c] += pulled
            gradient[part.first[p], c] -= pulled
            for e in range(3):
                virial[c, e] += pulled * vector[e]


@kernel
def _fill_stretches(part, velocities, strain, stretches):  # type: ignore[no-untyped-def]
    """Rates at which the bonds become longer: the transpose of `_pull_lengths`."""
    for p in range(part.first.shape[0]):
        vector, total = part.vectors[p], 0.0
        for c in range(3):
            rate = velocities[part.last[p], c] - velocities[part.first[p], c]
            for e in range(3):
                rate += strain[c, e] * vector[e]
            total += rate * vector[c]
        stretches[p] = total / np.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)


@kernel
def _multiply(rows, factors, n):  # type: ignore[no-untyped-def]
    """Multiply the first ``n`` rows by a factor each."""
    for p in range(n):
        for a in range(rows.shape[1]):
            rows[p, a] *= factors[p]


# ---- Many structures ---------------------------------------------------------------------------------------


@kernel
def _space_mixed(basis, walks):  # type: ignore[no-untyped-def]
    """Space for walks over channels: that of the walks over species where these are the channels."""
    if len(basis.mixed) == 0:
        return walks
    return np.empty((walks.shape[0], basis.n_channels, walks.shape[2], walks.shape[3]))


@kernel
def make_work(basis, most):  # type: ignore[no-untyped-def]
    """Space for structures of up to ``most`` pairs."""
    n_pair, n_ring = len(basis.pair_orders), len(basis.ring_orders)
    ring_hops, walks = np.empty((most, n_ring)), np.empty((most, basis.n_species, n_ring, n_ring))
    seen, by_walk = np.empty((basis.n_channels, n_ring, n_ring)), np.empty_like(walks)
    return Work(
        np.empty((most, n_pair)),
        np.empty((most, n_pair)),
        ring_hops,
        np.empty_like(ring_hops),
        walks,
        _space_mixed(basis, walks),
        seen,
        np.empty_like(ring_hops),
        by_walk,
        _space_mixed(basis, by_walk),
        np.empty_like(seen),
        np.empty(most),
    )


@kernel
def _fill_work(basis, part, work):  # type: ignore[no-untyped-def]
    """Hops and walks of one structure."""
    orders = basis.pair_orders
    fill_hops(part.vectors, basis.cutoff, basis.inner, basis.decay, orders, work.hops, work.hop_slopes)
    if len(basis.ring_orders) > 0:
        orders = basis.ring_orders
        hops, slopes = work.ring_hops, work.ring_slopes
        fill_hops(part.sides, basis.ring_cutoff, basis.inner, basis.decay, orders, hops, slopes)
        _fill_walks(part, hops, orders, work.walks)
        _mix_walks(basis, part.sides.shape[0], work.walks, work.mixed)


@kernel
def values(basis, tables, work, out):  # type: ignore[no-untyped-def]
    """Add the moments of each atom to ``out`` (n_rows, n_columns).

    ``work`` then holds the hops and walks of the last structure.
    """
    for structure in range(tables.ring_counts.shape[0]):
        part = _part_of(tables, structure)
        rows = out[part.start : part.stop]
        _fill_work(basis, part, work)
        _add_pairs(basis, part, work.hops, rows)
        if len(basis.ring_orders) > 0:
            _add_rings(basis, part, work.ring_hops, work.mixed, work.seen, rows)


@kernel
def pull(basis, tables, work, filled, slopes, gradient, virials):  # type: ignore[no-untyped-def]
    """Transposed derivative of `values`.

    ``slopes`` (n_rows, n_columns): derivatives of a scalar by the columns. Its derivatives by the positions
    are added to ``gradient`` (n_rows, 3), those by the strain to ``virials`` (n_structures, 3, 3).
    ``filled``: whether there is one structure, and ``work`` still holds what `values` made of it.
    """
    n_ring = len(basis.ring_orders)
    for structure in range(tables.ring_counts.shape[0]):
        part = _part_of(tables, structure)
        rows = slopes[part.start : part.stop]
        if not filled:
            _fill_work(basis, part, work)
        by_length = work.by_length
        _pull_pairs(basis, part, work.hop_slopes, rows, by_length)
        if n_ring > 0:
            hops, by_hop, by_mixed = work.ring_hops, work.by_hop, work.by_mixed
            _pull_rings(basis, part, hops, work.mixed, rows, work.seen, work.by_seen, by_hop, by_mixed)
            _pull_mixture(basis, part.sides.shape[0], by_mixed, work.by_walk)
            _pull_walks(part, hops, work.by_walk, basis.ring_orders, by_hop)
            for p in range(part.sides.shape[0]):
                for a in range(n_ring):
                    by_length[p] += by_hop[p, a] * work.ring_slopes[p, a]
        _pull_lengths(part, by_length, gradient[part.start : part.stop], virials[structure])


@kernel
def push(basis, tables, velocities, strains, out):  # type: ignore[no-untyped-def]
    """Add the rates of `values` to ``out`` (n_rows, n_columns).

    Atoms move at ``velocities`` (n_rows, 3); the strain changes at ``strains`` (n_structures, 3, 3).
    """
    n_pair, n_ring = len(basis.pair_orders), len(basis.ring_orders)
    most = _largest(tables.pair_offsets)
    hops, hop_rates = np.empty((most, n_pair)), np.empty((most, n_pair))
    ring_hops, ring_rates = np.empty((most, n_ring)), np.empty((most, n_ring))
    walks = np.empty((most, basis.n_species, n_ring, n_ring))
    seen = np.empty((basis.n_channels, n_ring, n_ring))
    walk_rates, seen_rate = np.empty_like(walks), np.empty_like(seen)
    mixed, mixed_rates = _space_mixed(basis, walks), _space_mixed(basis, walk_rates)
    stretches = np.empty(most)
    for structure in range(tables.ring_counts.shape[0]):
        part = _part_of(tables, structure)
        rows = out[part.start : part.stop]
        _fill_stretches(part, velocities[part.start : part.stop], strains[structure], stretches)
        fill_hops(part.vectors, basis.cutoff, basis.inner, basis.decay, basis.pair_orders, hops, hop_rates)
        _multiply(hop_rates, stretches, part.first.shape[0])
        _add_pairs(basis, part, hop_rates, rows)
        if n_ring > 0:
            orders = basis.ring_orders
            fill_hops(part.sides, basis.ring_cutoff, basis.inner, basis.decay, orders, ring_hops, ring_rates)
            _multiply(ring_rates, stretches, part.sides.shape[0])
            _fill_walks(part, ring_hops, orders, walks)
            _mix_walks(basis, part.sides.shape[0], walks, mixed)
            _fill_walk_rates(part, ring_hops, ring_rates, orders, walk_rates)
            _mix_walks(basis, part.sides.shape[0], walk_rates, mixed_rates)
            _add_ring_rates(basis, part, ring_hops, ring_rates, mixed, mixed_rates, seen, seen_rate, rows)


# ---- Stored Jacobians --------------------------------------------------------------------------------------
#
# The columns of an atom depend on where its neighbours are relative to it, so the Jacobian is a list of
# blocks, one for each neighbour of each atom. Pair p makes two neighbours: that of its first atom, at end 0,
# and that of its last, at end 1; `slots` (2 * n_pairs,) says at 2 * p + end where they stand in the lists.
#
# ==============  ========================  ================================================================
# offsets         (n_rows + 1,)             neighbours of atom i are offsets[i]:offsets[i + 1]
# neighbors       (n_neighbors,)            their numbers in their structure
# vectors         (n_neighbors, 3)          from the atom to the neighbour, Angstrom
# blocks          (n_neighbors, 3, n)       derivatives of the atom's n columns by the neighbour's position
# ==============  ========================  ================================================================


@kernel
def find_neighbors(tables):  # type: ignore[no-untyped-def]
    """Offsets, neighbors, vectors and slots (2 * n_pairs,) of all bonds."""
    n_rows, n_pairs = tables.species.shape[0], tables.first.shape[0]
    offsets = np.zeros(n_rows + 1, np.int64)
    for structure in range(tables.ring_counts.shape[0]):
        start = tables.atom_offsets[structure]
        for p in range(tables.pair_offsets[structure], tables.pair_offsets[structure + 1]):
            offsets[start + tables.first[p] + 1] += 1
            offsets[start + tables.last[p] + 1] += 1
    offsets[:] = np.cumsum(offsets)
    free = offsets.copy()
    neighbors, vectors = np.empty(2 * n_pairs, np.int32), np.empty((2 * n_pairs, 3))
    slots = np.empty(2 * n_pairs, np.int64)
    for structure in range(tables.ring_counts.shape[0]):
        start = tables.atom_offsets[structure]
        for p in range(tables.pair_offsets[structure], tables.pair_offsets[structure + 1]):
            for end in range(2):
                centre = tables.first[p] if end == 0 else tables.last[p]
                slot = free[start + centre]
                free[start + centre] += 1
                slots[2 * p + end] = slot
                neighbors[slot] = tables.last[p] if end == 0 else tables.first[p]
                for c in range(3):
                    vectors[slot, c] = tables.vectors[p, c] if end == 0 else -tables.vectors[p, c]
    return offsets, neighbors, vectors, slots


@kernel
def _add_along(vector, sign, rates, block):  # type: ignore[no-untyped-def]
    """block[c] += sign * rates * unit vector[c]: from a length to the position of its end."""
    length = np.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)
    for c in range(3):
        component = sign * vector[c] / length
        for column in range(rates.shape[0]):
            block[c, column] += component * rates[column]


@kernel
def _add_corner(  # type: ignore[no-untyped-def]
    basis, species, hops, slopes, seen, sides, still, rate, by_lengths
):
    """Rates of the columns of one atom by the lengths of a triangle that it is a corner of.

    The triangle is that of the atom and its neighbours u and v; what is listed for three sides, is so in the
    order u, v, uv. The atom's first hop is not varied here, since all triangles of a bond share it.

    ``species`` and ``seen`` (walks from the atom) of u and v; ``sides``: the three pairs; ``still``
    (n_orders,) zeros; ``rate`` space for walks; ``by_lengths`` (3, n_columns): the rates are added there.
    """
    orders = basis.ring_orders
    for over in range(2):  # walks from the atom to this neighbour over the other one, and back
        other = 1 - over
        hop, left, right = hops[sides[over]], sides[other], sides[2]
        for varied in range(2):
            rate[:] = 0.0
            for k in range(max(1, len(basis.mixed))):
                walk = rate[_channel(basis, species[other], k)]
                weight = _weight(basis, species[other], k)
                if varied == 0:
                    _add_products(weight, slopes[left], hops[right], orders, walk)
                else:
                    _add_products(weight, hops[left], slopes[right], orders, walk)
            row = by_lengths[other] if varied == 0 else by_lengths[2]
            _add_triangles(basis, species[over], hop, rate, row)
            _add_square_rates(basis, species[over], hop, seen[over], still, rate, row)


@kernel
def fill_blocks(basis, tables, slots, blocks):  # type: ignore[no-untyped-def]
    """Write the Jacobian of `_moment_kernels.values` into ``blocks`` (n_neighbors, 3, n_columns)."""
    n_pair, n_ring, n_channels = len(basis.pair_orders), len(basis.ring_orders), basis.n_channels
    most, n_columns = _largest(tables.pair_offsets), blocks.shape[2]
    hops, slopes = np.empty((most, n_pair)), np.empty((most, n_pair))
    ring_hops, ring_slopes = np.empty((most, n_ring)), np.empty((most, n_ring))
    walks = np.empty((most, basis.n_species, n_ring, n_ring))
    mixed = _space_mixed(basis, walks)
    seen, rate = np.empty((2, n_channels, n_ring, n_ring)), np.empty((n_channels, n_ring, n_ring))
    by_length, by_lengths = np.empty((2 * most, n_columns)), np.empty((3, n_columns))
    work = np.empty((2 * most, 3, n_columns))  # summed in float64, and where it stays in the cache
    still, species = np.zeros(n_ring), np.empty(2, np.int64)
    pairs, ends, sides = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3, np.int64)
    for structure in range(tables.ring_counts.shape[0]):
        part = _part_of(tables, structure)
        first_slot = 2 * tables.pair_offsets[structure]
        blocks_of = slots[first_slot : 2 * tables.pair_offsets[structure + 1]]
        fill_hops(part.vectors, basis.cutoff, basis.inner, basis.decay, basis.pair_orders, hops, slopes)
        by_length[: 2 * part.first.shape[0]] = 0.0
        work[: 2 * part.first.shape[0]] = 0.0
        for p in range(part.first.shape[0]):
            for end in range(2):
                to_other = part.species[part.last[p] if end == 0 else part.first[p]]
                for k in range(max(1, len(basis.mixed))):
                    column, weight = _channel(basis, to_other, k) * n_pair, _weight(basis, to_other, k)
                    for a in range(n_pair):
                        by_length[2 * p + end, column + a] = weight * slopes[p, a]
        if n_ring > 0:
            orders = basis.ring_orders
            fill_hops(part.sides, basis.ring_cutoff, basis.inner, basis.decay, orders, ring_hops, ring_slopes)
            _fill_walks(part, ring_hops, orders, walks)
            _mix_walks(basis, part.sides.shape[0], walks, mixed)
            for p in range(part.sides.shape[0]):
                for end in range(2):
                    other = part.last[p] if end == 0 else part.first[p]
                    seen[0] = 0.0
                    _add_seen_from(end, mixed[p], orders, seen[0])
                    row, to_other = by_length[2 * p + end], part.species[other]
                    _add_triangles(basis, to_other, ring_slopes[p], seen[0], row)
                    _add_squares(basis, to_other, ring_slopes[p], seen[0], row)
            for t in range(part.triangles.shape[0]):
                pairs[:] = part.triangles[t]
                for corner in range(3):
                    # Atom i sees the others at the ends of ij and ik, atom j at those of ji and jk, atom k at
                    # those of ki and kj; the third pair is the side between them.
                    sides[0], ends[0] = (pairs[0], 0) if corner == 0 else (pairs[corner - 1], 1)
                    sides[1], ends[1] = (pairs[1], 0) if corner == 0 else (pairs[2], corner - 1)
                    sides[2] = pairs[2 - corner]
                    for over in range(2):
                        p = sides[over]
                        species[over] = part.species[part.last[p] if ends[over] == 0 else part.first[p]]
                        seen[over] = 0.0
                        _add_seen_from(ends[over], mixed[p], orders, seen[over])
                    by_lengths[:] = 0.0
                    _add_corner(basis, species, ring_hops, ring_slopes, seen, sides, still, rate, by_lengths)
                    u, v = 2 * sides[0] + ends[0], 2 * sides[1] + ends[1]
                    for column in range(n_columns):
                        by_length[u, column] += by_lengths[0, column]
                        by_length[v, column] += by_lengths[1, column]
                    _add_along(part.vectors[sides[2]], 1.0, by_lengths[2], work[v])
                    _add_along(part.vectors[sides[2]], -1.0, by_lengths[2], work[u])
        for p in range(part.first.shape[0]):
            for end in range(2):
                _add_along(part.vectors[p], 1.0 - 2.0 * end, by_length[2 * p + end], work[2 * p + end])
                blocks[blocks_of[2 * p + end]] = work[2 * p + end]


@kernel
def pull_blocks(atom_offsets, offsets, neighbors, vectors, blocks, slopes, gradient, virials):  # type: ignore[no-untyped-def]
    """Add the transposed products to ``gradient`` (n_rows, 3) and ``virials`` (n_structures, 3, 3).

    ``slopes`` (n_rows, n_columns) of the type of the blocks.
    """
    product = np.empty(3 * _largest(offsets), blocks.dtype)
    for structure in range(atom_offsets.shape[0] - 1):
        start = atom_offsets[structure]
        for i in range(start, atom_offsets[structure + 1]):
            n = 3 * (offsets[i + 1] - offsets[i])
            if n == 0:
                continue
            matrix = blocks[offsets[i] : offsets[i + 1]].reshape(n, blocks.shape[2])
            np.dot(matrix, slopes[i], product[:n])
            for k in range(offsets[i], offsets[i + 1]):
                for c in range(3):
                    pulled = np.float64(product[3 * (k - offsets[i]) + c])
                    gradient[start + neighbors[k], c] += pulled
                    gradient[i, c] -= pulled
                    for e in range(3):
                        virials[structure, c, e] += pulled * vectors[k, e]


@kernel
def push_blocks(atom_offsets, offsets, neighbors, vectors, blocks, velocities, strains, out):  # type: ignore[no-untyped-def]
    """Write the products to ``out`` (n_rows, n_columns), of the type of the blocks."""
    moves = np.empty(3 * _largest(offsets), blocks.dtype)
    for structure in range(atom_offsets.shape[0] - 1):
        start = atom_offsets[structure]
        for i in range(start, atom_offsets[structure + 1]):
            n = 3 * (offsets[i + 1] - offsets[i])
            if n == 0:
                out[i] = 0.0
                continue
            for k in range(offsets[i], offsets[i + 1]):
                for c in range(3):
                    move = velocities[start + neighbors[k], c] - velocities[i, c]
                    for e in range(3):
                        move += strains[structure, c, e] * vectors[k, e]
                    moves[3 * (k - offsets[i]) + c] = move
            matrix = blocks[offsets[i] : offsets[i + 1]].reshape(n, blocks.shape[2])
            np.dot(moves[:n], matrix, out[i])
