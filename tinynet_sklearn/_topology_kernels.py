"""Compiled loops over all atoms of one structure, for bond graphs that differ from structure to structure.

Plain arrays in and out, read-only ones included, as in `tinynet_sklearn._kernels`, whose balls and walks
these loops are made of. ``offsets``, ``targets``, ``shifts``, ``bond_ids`` are the arrays of a `BondGraph`.
"""

import numpy as np

from tinynet_sklearn._kernels import _grown, count_walks, enumerate_walks, hop_ball, kernel


@kernel
def closed_walks(  # type: ignore[no-untyped-def]
    n_hops,
    first,
    last,
    simple,
    max_vertices,
    max_walks,
    max_steps,
    species,
    offsets,
    targets,
    shifts,
    bond_ids,
):
    """Closed walks of ``n_hops`` hops from the atoms ``first`` to ``last`` - 1.

    Returns ``rows`` (n_walks,), the atom a walk starts from; ``labels`` (n_walks, n_hops), ``species`` along
    the walk or its reverse, whichever is smaller; ``edges`` (n_walks, n_hops), its edges as sorted numbers a
    * ball + b of two vertices of the ball around the start, a < b; ``bonds`` (n_walks, n_hops), the bonds of
    the hops; ``starts`` (n_walks,), the entry of ``targets`` that is its first hop; and ``stopped``, the atom
    at which a limit was reached, or -1.
    """
    capacity, n = 1024, 0
    rows = np.empty(capacity, np.int64)
    labels = np.empty((capacity, n_hops), np.int64)
    edges = np.empty((capacity, n_hops), np.int64)
    bonds = np.empty((capacity, n_hops), np.int64)
    starts = np.empty(capacity, np.int64)
    for centre in range(first, last):
        atoms, _, hops, edge_offsets, edge_targets, edge_bonds, radius = hop_ball(
            centre, n_hops // 2, max_vertices, offsets, targets, shifts, bond_ids
        )
        complete = radius == n_hops // 2
        if complete:
            vertices, used, complete = enumerate_walks(
                n_hops, True, simple, max_walks - n, max_steps, hops, edge_offsets, edge_targets, edge_bonds
            )
        if not complete:
            return rows[:n], labels[:n], edges[:n], bonds[:n], starts[:n], centre
        while n + vertices.shape[0] > capacity:
            capacity *= 2
            rows, labels = _grown(rows, capacity), _grown(labels, capacity)
            edges, bonds = _grown(edges, capacity), _grown(bonds, capacity)
            starts = _grown(starts, capacity)
        size = atoms.shape[0]
        for w in range(vertices.shape[0]):
            rows[n] = centre
            for e in range(edge_offsets[1]):  # the centre has all its neighbours in the ball, in their order
                if edge_targets[e] == vertices[w, 1]:
                    starts[n] = offsets[centre] + e
            backwards = False
            for k in range(1, n_hops):
                forth, back = species[atoms[vertices[w, k]]], species[atoms[vertices[w, n_hops - k]]]
                if forth != back:
                    backwards = back < forth
                    break
            for k in range(n_hops):
                labels[n, k] = species[atoms[vertices[w, n_hops - k if backwards and k else k]]]
                a, b = vertices[w, k], vertices[w, k + 1]
                edge = min(a, b) * size + max(a, b)
                place = k
                while place > 0 and edges[n, place - 1] > edge:
                    edges[n, place] = edges[n, place - 1]
                    place -= 1
                edges[n, place] = edge
                bonds[n, k] = used[w, k]
            n += 1
    return rows[:n], labels[:n], edges[:n], bonds[:n], starts[:n], -1


@kernel
def neighbor_shells(  # type: ignore[no-untyped-def]
    n_hops, first, last, max_vertices, max_neighbors, bond_weights, offsets, targets, shifts, bond_ids
):
    """Vertices up to ``n_hops`` hops from the atoms ``first`` to ``last`` - 1, once per number of hops.

    ``bond_weights`` (n_bonds,), between 0 and 1, say how much of a bond there is. A vertex is reached in h
    hops to the degree

        r_h(v) = 1 - product over its bonds (u, v) of (1 - r_(h-1)(u) w(u, v)),        r_0 = 1 at the start,

    and at h hops *first* to the degree r_h(v) * product over k < h of (1 - r_k(v)). With weights of 0 and 1
    this is 1 at the shortest hop distance and 0 elsewhere.

    Returns ``rows``, ``atoms``, ``cells``, ``hops``, ``walks`` (how many walks of so many hops lead there;
    all are listed that at least one leads to), ``weights`` (the degree above), ``bonds`` (the bond between
    start and vertex where ``hops`` is 1, else -1), and ``stopped``, the atom at which a limit was reached, or
    -1.
    """
    capacity, n = 1024, 0
    whole = np.empty((capacity, 7), np.int64)  # row, atom, cell, hops, bond
    real = np.empty((capacity, 2))  # walks, weight
    for centre in range(first, last):
        atoms, cells, _, edge_offsets, edge_targets, edge_bonds, radius = hop_ball(
            centre, n_hops, max_vertices, offsets, targets, shifts, bond_ids
        )
        if radius < n_hops or n + n_hops * atoms.shape[0] > max_neighbors:
            return _neighbor_columns(whole[:n], real[:n], centre)
        counts = count_walks(n_hops, edge_offsets, edge_targets)
        missed = np.ones(atoms.shape[0])  # product over k < h of (1 - r_k)
        reached = np.zeros(atoms.shape[0])
        reached[0], missed[0] = 1.0, 0.0
        while n + n_hops * atoms.shape[0] > capacity:
            capacity *= 2
            whole, real = _grown(whole, capacity), _grown(real, capacity)
        for h in range(1, n_hops + 1):
            not_reached = np.ones(atoms.shape[0])
            for u in range(atoms.shape[0]):
                if reached[u] > 0.0:
                    for e in range(edge_offsets[u], edge_offsets[u + 1]):
                        not_reached[edge_targets[e]] *= 1.0 - reached[u] * bond_weights[edge_bonds[e]]
            for v in range(1, atoms.shape[0]):
                if counts[h, v] == 0.0:
                    continue
                whole[n, 0], whole[n, 1], whole[n, 5], whole[n, 6] = centre, atoms[v], h, -1
                for c in range(3):
                    whole[n, 2 + c] = cells[v, c]
                real[n, 0], real[n, 1] = counts[h, v], (1.0 - not_reached[v]) * missed[v]
                if h == 1:
                    for e in range(edge_offsets[0], edge_offsets[1]):
                        if edge_targets[e] == v:
                            whole[n, 6] = edge_bonds[e]
                n += 1
            reached = 1.0 - not_reached
            missed *= not_reached
    return _neighbor_columns(whole[:n], real[:n], -1)


@kernel
def _neighbor_columns(whole, real, stopped):  # type: ignore[no-untyped-def]
    rows, atoms, cells = whole[:, 0].copy(), whole[:, 1].copy(), whole[:, 2:5].copy()
    return (
        rows,
        atoms,
        cells,
        whole[:, 5].copy(),
        real[:, 0].copy(),
        real[:, 1].copy(),
        whole[:, 6].copy(),
        stopped,
    )


@kernel
def walk_products(bond_factors, walk_offsets, walk_bonds, walk_weights):  # type: ignore[no-untyped-def]
    """Weight times the product of the bond factors of each walk, shape (n_walks,)."""
    products = np.empty(walk_weights.shape[0])
    for w in range(walk_weights.shape[0]):
        product = walk_weights[w]
        for k in range(walk_offsets[w], walk_offsets[w + 1]):
            product *= bond_factors[walk_bonds[k]]
        products[w] = product
    return products
