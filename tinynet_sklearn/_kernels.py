"""Every compiled loop of the package: free functions on plain arrays.

All kernels accept read-only arrays (joblib hands its workers read-only memory maps), allocate their own
results and release the GIL. Vertices of the infinite bond graph are (atom, cell); inside a *ball* around
one atom they are renumbered 0, 1, ... in breadth-first order, 0 being the centre.

Ball arrays:

============  ===============  =====================================================================
name          shape            meaning
============  ===============  =====================================================================
atoms         (n_vertices,)    atom of each vertex
cells         (n_vertices, 3)  lattice translation of each vertex relative to the centre's cell
hops          (n_vertices,)    shortest hop distance from the centre, non-decreasing
edge_offsets  (n_vertices+1,)  CSR over vertices
edge_targets  (n_edges,)       vertex at the other end, in the graph's neighbour order
edge_bonds    (n_edges,)       undirected bond of the cell that the edge is an image of
============  ===============  =====================================================================

Only edges between two vertices of the ball are listed.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit

#: Distances (Angstrom) that differ by less than about this are equal when neighbours are sorted.
SAME_DISTANCE = 1e-5

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(function: Function) -> Function:
    """Compile once per machine (cached on disk), without the GIL, with strict IEEE arithmetic."""
    compiled: Function = njit(cache=True, nogil=True)(function)
    return compiled


@kernel
def _find_vertex(atom, sx, sy, sz, table, atoms, cells):  # type: ignore[no-untyped-def]
    """Slot of a vertex in the open-addressing table ``table`` (power-of-two size; -1 is free)."""
    mask = table.shape[0] - 1
    slot = (atom * 73856093 ^ sx * 19349663 ^ sy * 83492791 ^ sz * 41729387) & mask
    while True:
        v = table[slot]
        if v < 0:
            return slot
        if atoms[v] == atom and cells[v, 0] == sx and cells[v, 1] == sy and cells[v, 2] == sz:
            return slot
        slot = (slot + 1) & mask


@kernel
def _grown(array, size):  # type: ignore[no-untyped-def]
    larger = np.empty((size, *array.shape[1:]), array.dtype)
    larger[: array.shape[0]] = array
    return larger


@kernel
def hop_ball(centre, radius, max_vertices, offsets, targets, shifts, bond_ids):  # type: ignore[no-untyped-def]
    """All vertices up to ``radius`` hops from atom ``centre`` of cell (0, 0, 0), and their edges.

    Returns the ball arrays of the module's table, and the radius reached: where there would be more than
    ``max_vertices``, only complete shells are kept.
    """
    capacity = 64
    atoms = np.empty(capacity, np.int64)
    cells = np.empty((capacity, 3), np.int64)
    hops = np.empty(capacity, np.int64)
    table = np.full(4 * capacity, -1, np.int64)
    atoms[0], hops[0] = centre, 0
    cells[0] = 0
    table[_find_vertex(centre, 0, 0, 0, table, atoms, cells)] = 0
    n = 1
    v = 0
    while v < n and hops[v] < radius:
        for b in range(offsets[atoms[v]], offsets[atoms[v] + 1]):
            sx, sy, sz = cells[v, 0] + shifts[b, 0], cells[v, 1] + shifts[b, 1], cells[v, 2] + shifts[b, 2]
            slot = _find_vertex(targets[b], sx, sy, sz, table, atoms, cells)
            if table[slot] >= 0:
                continue
            if n == max_vertices:
                radius = hops[v]
                break
            if n == capacity:
                capacity *= 2
                atoms, cells, hops = _grown(atoms, capacity), _grown(cells, capacity), _grown(hops, capacity)
                table = np.full(4 * capacity, -1, np.int64)
                for u in range(n):
                    free = _find_vertex(atoms[u], cells[u, 0], cells[u, 1], cells[u, 2], table, atoms, cells)
                    table[free] = u
                slot = _find_vertex(targets[b], sx, sy, sz, table, atoms, cells)
            table[slot] = n
            atoms[n], hops[n] = targets[b], hops[v] + 1
            cells[n, 0], cells[n, 1], cells[n, 2] = sx, sy, sz
            n += 1
        v += 1
    while hops[n - 1] > radius:
        n -= 1
    n_possible = 0
    for v in range(n):
        n_possible += offsets[atoms[v] + 1] - offsets[atoms[v]]
    edge_offsets = np.zeros(n + 1, np.int64)
    edge_targets = np.empty(n_possible, np.int64)
    edge_bonds = np.empty(n_possible, np.int64)
    m = 0
    for v in range(n):
        for b in range(offsets[atoms[v]], offsets[atoms[v] + 1]):
            sx, sy, sz = cells[v, 0] + shifts[b, 0], cells[v, 1] + shifts[b, 1], cells[v, 2] + shifts[b, 2]
            other = table[_find_vertex(targets[b], sx, sy, sz, table, atoms, cells)]
            if 0 <= other < n:
                edge_targets[m], edge_bonds[m] = other, bond_ids[b]
                m += 1
        edge_offsets[v + 1] = m
    return atoms[:n], cells[:n], hops[:n], edge_offsets, edge_targets[:m], edge_bonds[:m], radius


@kernel
def count_walks(n_hops, edge_offsets, edge_targets):  # type: ignore[no-untyped-def]
    """Walks of 0..n_hops hops from the centre to each vertex, as floats; shape (n_hops + 1, n_vertices).

    Exact inside a ball of radius ``n_hops``; in a smaller one, only walks that stay inside are counted.
    """
    n = edge_offsets.shape[0] - 1
    counts = np.zeros((n_hops + 1, n))
    counts[0, 0] = 1.0
    for h in range(n_hops):
        for v in range(n):
            if counts[h, v] > 0.0:
                for e in range(edge_offsets[v], edge_offsets[v + 1]):
                    counts[h + 1, edge_targets[e]] += counts[h, v]
    return counts


@kernel
def enumerate_walks(  # type: ignore[no-untyped-def]
    n_hops, closed, simple, max_walks, max_steps, hops, edge_offsets, edge_targets, edge_bonds
):
    """Walks of exactly ``n_hops`` hops from the centre, in depth-first order.

    Parameters: ``closed``, keep walks that end on the centre (True) or walks that do not (False);
    ``simple``, visit no vertex twice but the centre at the end (2 hops there and back are allowed).
    Closed walks need a ball of radius n_hops // 2, open ones of radius n_hops.

    Returns ``vertices`` (n_walks, n_hops + 1), ``bonds`` (n_walks, n_hops), and ``complete``, False when
    more than ``max_walks`` walks or ``max_steps`` search steps were needed (then both are cut short).
    """
    capacity = 64
    vertices = np.empty((capacity, n_hops + 1), np.int64)
    bonds = np.empty((capacity, n_hops), np.int64)
    path = np.zeros(n_hops + 1, np.int64)
    used = np.zeros(n_hops, np.int64)
    cursor = np.zeros(n_hops + 1, np.int64)
    visited = np.zeros(edge_offsets.shape[0] - 1, np.bool_)
    n, depth, steps = 0, 0, 0
    cursor[0] = edge_offsets[0]
    while depth >= 0:
        v = path[depth]
        if depth == n_hops or cursor[depth] == edge_offsets[v + 1]:
            if depth == n_hops and (v == 0) == closed:
                if n == max_walks:
                    return vertices[:n], bonds[:n], False
                if n == capacity:
                    capacity *= 2
                    vertices, bonds = _grown(vertices, capacity), _grown(bonds, capacity)
                vertices[n], bonds[n] = path, used
                n += 1
            visited[v] = False
            depth -= 1
            continue
        e = cursor[depth]
        cursor[depth] += 1
        steps += 1
        if steps > max_steps:
            return vertices[:n], bonds[:n], False
        w = edge_targets[e]
        left = n_hops - depth - 1
        if closed and hops[w] > left:
            continue  # the walk could not return to the centre in time
        if simple and (visited[w] or (w == 0 and left > 0)):
            continue
        path[depth + 1], used[depth] = w, edge_bonds[e]
        visited[w] = w != 0
        depth += 1
        if depth < n_hops:
            cursor[depth] = edge_offsets[w]
    return vertices[:n], bonds[:n], True


@kernel
def bond_lengths(positions, cell, first, last, bond_shifts):  # type: ignore[no-untyped-def]
    """Lengths of the undirected bonds, Angstrom, shape (n_bonds,)."""
    lengths = np.empty(first.shape[0])
    for b in range(first.shape[0]):
        total = 0.0
        for c in range(3):
            d = positions[last[b], c] - positions[first[b], c]
            for k in range(3):
                d += bond_shifts[b, k] * cell[k, c]
            total += d * d
        lengths[b] = np.sqrt(total)
    return lengths


@kernel
def fill_walk_entries(  # type: ignore[no-untyped-def]
    bond_factors, walk_offsets, walk_bonds, walk_rows, walk_columns, walk_weights, out
):
    """Add weight * product of the bond factors of each walk to out[row, column].

    ``walk_offsets`` (n_walks + 1,) points into ``walk_bonds``; walks that share a row and column are summed.
    """
    for w in range(walk_rows.shape[0]):
        product = walk_weights[w]
        for k in range(walk_offsets[w], walk_offsets[w + 1]):
            product *= bond_factors[walk_bonds[k]]
        out[walk_rows[w], walk_columns[w]] += product


@kernel
def fill_neighbor_vectors(positions, cell, rotations, rows, atoms, cells, columns, out):  # type: ignore[no-untyped-def]
    """Write rotations[row] @ (neighbour - centre) to out[row, column : column + 3], Angstrom."""
    d = np.empty(3)
    for m in range(rows.shape[0]):
        i, column = rows[m], columns[m]
        for c in range(3):
            d[c] = positions[atoms[m], c] - positions[i, c]
            for k in range(3):
                d[c] += cells[m, k] * cell[k, c]
        for c in range(3):
            out[i, column + c] = (
                rotations[i, c, 0] * d[0] + rotations[i, c, 1] * d[1] + rotations[i, c, 2] * d[2]
            )


@kernel
def fill_neighbor_factors(positions, cell, rows, atoms, cells, columns, out):  # type: ignore[no-untyped-def]
    """Write exp(-distance) of each neighbour to out[row, column]."""
    factors = np.exp(-bond_lengths(positions, cell, rows, atoms, cells))
    for m in range(rows.shape[0]):
        out[rows[m], columns[m]] = factors[m]


@kernel
def pull_walk_entries(  # type: ignore[no-untyped-def]
    bond_factors, walk_offsets, walk_bonds, walk_rows, walk_columns, walk_weights, slopes, out
):
    """Add to out[bond] the slope with respect to its length, from those with respect to the entries.

    d(entry) / d(length) = -(passes over the bond) * entry; the arrays are those of `fill_walk_entries`,
    ``slopes`` (n_rows, n_columns).
    """
    for w in range(walk_rows.shape[0]):
        slope = slopes[walk_rows[w], walk_columns[w]]
        if slope == 0.0:
            continue
        product = -walk_weights[w] * slope
        for k in range(walk_offsets[w], walk_offsets[w + 1]):
            product *= bond_factors[walk_bonds[k]]
        for k in range(walk_offsets[w], walk_offsets[w + 1]):
            out[walk_bonds[k]] += product


@kernel
def push_walk_entries(  # type: ignore[no-untyped-def]
    bond_factors, walk_offsets, walk_bonds, walk_rows, walk_columns, walk_weights, rates, out
):
    """Add to out[row, column] the rate of each entry, from those of the bond lengths, shape (n_bonds,).

    The transpose of `pull_walk_entries`.
    """
    for w in range(walk_rows.shape[0]):
        product, rate = -walk_weights[w], 0.0
        for k in range(walk_offsets[w], walk_offsets[w + 1]):
            product *= bond_factors[walk_bonds[k]]
            rate += rates[walk_bonds[k]]
        out[walk_rows[w], walk_columns[w]] += product * rate


@kernel
def pull_lengths(positions, cell, first, last, shifts, slopes, gradient, virial):  # type: ignore[no-untyped-def]
    """Slopes with respect to the lengths of pairs, carried on to the atoms and the strain.

    Adds to ``gradient`` (n_atoms, 3) and ``virial`` (3, 3), given ``slopes`` (n_pairs,); the strain e takes a
    pair vector d to (1 + e) d.
    """
    d = np.empty(3)
    for b in range(first.shape[0]):
        total = 0.0
        for c in range(3):
            d[c] = positions[last[b], c] - positions[first[b], c]
            for k in range(3):
                d[c] += shifts[b, k] * cell[k, c]
            total += d[c] * d[c]
        along = slopes[b] / np.sqrt(total)
        for c in range(3):
            gradient[last[b], c] += along * d[c]
            gradient[first[b], c] -= along * d[c]
            for k in range(3):
                virial[c, k] += along * d[c] * d[k]


@kernel
def push_lengths(positions, cell, first, last, shifts, velocities, strain):  # type: ignore[no-untyped-def]
    """Rates of the lengths of pairs, shape (n_pairs,), when atoms and strain move.

    ``velocities`` (n_atoms, 3), ``strain`` (3, 3). The transpose of `pull_lengths`.
    """
    rates = np.empty(first.shape[0])
    d = np.empty(3)
    for b in range(first.shape[0]):
        total = 0.0
        for c in range(3):
            d[c] = positions[last[b], c] - positions[first[b], c]
            for k in range(3):
                d[c] += shifts[b, k] * cell[k, c]
            total += d[c] * d[c]
        rate = 0.0
        for c in range(3):
            v = velocities[last[b], c] - velocities[first[b], c]
            for k in range(3):
                v += strain[c, k] * d[k]
            rate += v * d[c]
        rates[b] = rate / np.sqrt(total)
    return rates


@kernel
def sort_entries(segments, out):  # type: ignore[no-untyped-def]
    """Sort out[row, start:stop] in descending order for each (row, start, stop)."""
    for s in range(segments.shape[0]):
        segment = out[segments[s, 0], segments[s, 1] : segments[s, 2]]
        segment[:] = np.sort(segment)[::-1]


@kernel
def sort_vectors(segments, stride, out):  # type: ignore[no-untyped-def]
    """Sort the neighbours of each (row, start, stop) by distance, ascending.

    A neighbour has ``stride`` columns, the last three its vector. Equal distances, as of images of one atom,
    keep their order: rounding must not decide, or a turned crystal would be sorted in another way.
    """
    for s in range(segments.shape[0]):
        row, start = out[segments[s, 0]], segments[s, 1]
        n = (segments[s, 2] - start) // stride
        length = np.empty(n)
        for k in range(n):
            first = start + k * stride + stride - 3
            length[k] = np.sqrt(row[first] ** 2 + row[first + 1] ** 2 + row[first + 2] ** 2)
            length[k] = np.round(length[k] / SAME_DISTANCE)
        order = np.argsort(length, kind="mergesort")
        kept = row[start : segments[s, 2]].copy()
        for k in range(n):
            for c in range(stride):
                row[start + k * stride + c] = kept[order[k] * stride + c]
