"""One compiled path from positions to energies and forces, for crystals that keep their bonds.

Atoms of one *kind* share everything but their surroundings: network, site group, columns, lengths of walks.
They are worked through in blocks of up to `WIDTH` *lanes*, one lane per atom, and every loop runs over the
lanes of a block: gathering bonds, products along walks, matrix products and activations become vector
instructions, and a block stays in the cache from its first bond to its last slope.

Work goes in three passes: over pairs of atoms (lengths and factors exp(-d)), over blocks of atoms (features,
networks, slopes by the lengths), and, for energies, over pairs again (forces and virial).

Features are made in double precision and centred before they are rounded to the precision of the networks:
they vary little around means that may be many times larger.

==============  =========================  ===========================================================
name            shape                      meaning
==============  =========================  ===========================================================
values          (n_inputs, n)              columns that the network takes, physical; n lanes
products        (n_walks, n)               weight * product of the factors along each walk
inputs          (n_inputs, n)              scaled columns
layer outputs   (n_out, n_operations, n)   of every image of every atom under its site group
==============  =========================  ===========================================================
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

#: Most atoms of a block. Long enough for vector instructions, short enough for the cache of a core.
WIDTH = 64

#: BLAS multiplies rows of up to so many numbers per byte of a number faster than our own loops, as measured:
#: 128 of single, 256 of double precision.
SHORT = 32

#: Multiplications up to which OpenBLAS does a matrix product in one thread.
BLAS_SERIAL = 65536 * 4

#: Pairs that are measured at a time; where they are copies of one pair, cells of which all pairs are.
CHUNK = 128

#: Activations by number.
TANH, SIGMOID, RELU, SOFTPLUS, LINEAR = range(5)

#: Atoms that share everything but their surroundings. All counts and first positions in the flat arrays.
KIND = np.dtype(
    [
        (name, np.int64)
        for name in (
            "n_atoms",
            "atom_start",
            "walk_start",
            "n_walks",
            "hop_start",
            "n_hops",
            "neighbor_start",
            "n_neighbors",
            "end_start",
            "input_start",
            "n_inputs",
            "sign_start",
            "n_signs",
            "layer_start",
            "n_layers",
            "n_operations",
            "rotation_start",
            "target_start",
            "n_outputs",
        )
    ]
)

#: A dense layer: ``outputs = activation(matrix @ inputs + bias)``; first positions in the flat weights.
LAYER = np.dtype(
    [(name, np.int64) for name in ("n_in", "n_out", "matrix", "transposed", "bias", "activation")]
)

#: A block of lanes: kind, first lane within the kind, number of lanes.
BLOCK = np.dtype([(name, np.int64) for name in ("kind", "start", "n")])


class Pairs(NamedTuple):
    """Pairs of atoms, each once.

    ==========  ========  ========================================================================
    name        shape     meaning
    ==========  ========  ========================================================================
    first       (n,)      atom at one end
    last        (n,)      atom at the other end ...
    images      (n,)      ... moved by this one of the translations
    limits      (n,)      length (Angstrom) that a bond must not exceed; infinite for other pairs
    ==========  ========  ========================================================================
    """

    first: np.ndarray
    last: np.ndarray
    images: np.ndarray
    limits: np.ndarray


class Lanes(NamedTuple):
    """What differs from atom to atom.

    The tables of hops and ends are stored block by block, and in a block entry by entry, lanes last. With
    ``start`` lanes of the kind before a block of n, the pair of hop h of lane l is
    ``hops[hop_start + n_hops * start + h * n + l]``.

    ==========  =================  =================================================================
    name        shape              meaning
    ==========  =================  =================================================================
    atoms       (n_lanes,)         atom of each lane, kind after kind
    frames      (n_lanes, 3, 3)    from the laboratory into the frame of the site
    hops        (n_hops,)          pair that each hop of each walk passes
    ends        (n_ends,)          twice the pair that leads to a neighbour, plus one if backwards
    ==========  =================  =================================================================
    """

    atoms: np.ndarray
    frames: np.ndarray
    hops: np.ndarray
    ends: np.ndarray


class Model(NamedTuple):
    """What atoms of one kind share.

    ================  ===============  =============================================================
    name              shape            meaning
    ================  ===============  =============================================================
    kinds             (n_kinds,)       records of `KIND`
    walk_lengths      (n_walks,)       hops of each walk
    walk_inputs       (n_walks,)       input that it adds to
    walk_weights      (n_walks,)       factor of its product
    neighbor_inputs   (n, 3)           inputs of x, y, z; of exp(-d) in the first one; -1: left out
    base              (n_inputs,)      values of the inputs before walks and neighbours are added
    offset, scale     (n_inputs,)      ``input = (value - offset) * scale``
    low, high         (n_inputs,)      values that training has seen
    split_offsets     (n_inputs + 1,)  terms of each part of the inputs, see `signs.SignSplit` ...
    split_inputs      (n_terms,)       ... the input of each term
    split_weights     (n_terms,)       ... and its factor
    join_...                           the transpose: terms of each input, by parts
    sign_offsets      (n_signs + 1,)   parts of each character, kind after kind
    layers            (n_layers,)      records of `LAYER`
    weights           (n_weights,)     matrices and biases; their type is that of the networks
    rotations         (n, 3, 3)        operations of the site groups, over the number of operations
    target_scale      (n_outputs,)     physical outputs are ``output * scale + offset``
    target_offset     (n_outputs,)
    ================  ===============  =============================================================
    """

    kinds: np.ndarray
    walk_lengths: np.ndarray
    walk_inputs: np.ndarray
    walk_weights: np.ndarray
    neighbor_inputs: np.ndarray
    base: np.ndarray
    offset: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    split_offsets: np.ndarray
    split_inputs: np.ndarray
    split_weights: np.ndarray
    join_offsets: np.ndarray
    join_parts: np.ndarray
    join_weights: np.ndarray
    sign_offsets: np.ndarray
    layers: np.ndarray
    weights: np.ndarray
    rotations: np.ndarray
    target_scale: np.ndarray
    target_offset: np.ndarray


class Geometry(NamedTuple):
    """Pairs as they are now: ``factors`` exp(-d) (n_pairs,); ``vectors`` (3, n_pairs), or none, (3, 0)."""

    vectors: np.ndarray
    factors: np.ndarray


class Scratch(NamedTuple):
    """Space for one block: ``wide`` is double precision, ``real`` of the precision of the networks."""

    wide: np.ndarray
    real: np.ndarray


def fused(function: Function) -> Function:
    """Compile once per machine, without the GIL.

    Sums may be reordered and contracted, and a division by zero is infinite rather than an error: without
    these two licences the compiler cannot use vector instructions. NaN stays NaN.
    """
    licences = {"contract", "reassoc", "nsz", "arcp"}
    compiled: Function = njit(cache=True, nogil=True, fastmath=licences, error_model="numpy")(function)
    return compiled


def in_order(function: Function) -> Function:
    """As `fused`, but sums keep their order: reordered ones would undo the reduction of arguments."""
    licences = {"contract", "nsz", "arcp"}
    compiled: Function = njit(cache=True, nogil=True, fastmath=licences, error_model="numpy")(function)
    return compiled


# ---- Index tables ------------------------------------------------------------------------------------------


@fused
def fill_lanes(parents, cells, pairs, shifts, flips, neighbors, n_cells, width, out):  # type: ignore[no-untyped-def]
    """Write the pairs of all entries of the atoms of one kind, block by block.

    Parameters: ``parents`` (n_atoms,) row of each atom in ``pairs``, ``cells`` (n_atoms,) the class of the
    cell that it stands in; ``pairs`` (n_parents, n_entries) pairs of the reference, ``shifts`` the
    translation of their first atom as a row of ``neighbors`` (n_shifts, n_cells), which tells the class of
    the cell it leads to; ``flips`` 0 or 1 to be stored beside the pair, or -1 to store the pair alone.
    """
    n_atoms, n_entries = parents.shape[0], pairs.shape[1]
    for start in range(0, n_atoms, width):
        n = min(width, n_atoms - start)
        for e in range(n_entries):
            row = n_entries * start + e * n
            for lane in range(n):
                q, cell = parents[start + lane], cells[start + lane]
                pair = pairs[q, e] * n_cells + neighbors[shifts[q, e], cell]
                out[row + lane] = pair if flips[q, e] < 0 else 2 * pair + flips[q, e]


# ---- Pairs -------------------------------------------------------------------------------------------------


@in_order
def _exp(values):  # type: ignore[no-untyped-def]
    """Exponentials in place, correct to 4e-16, by vector instructions; arguments below -700 give zero.

    exp(x) = 2^k exp(r) with k whole and abs(r) < 0.35, by the Taylor series of exp(r).
    """
    for i in range(values.shape[0]):
        x = values[i]
        k = np.floor(x * 1.4426950408889634 + 0.5)
        r = (x - k * 0.693145751953125) - k * 1.42860682030941723212e-6
        p = 1.0 / 479001600
        p = p * r + 1.0 / 39916800
        p = p * r + 1.0 / 3628800
        p = p * r + 1.0 / 362880
        p = p * r + 1.0 / 40320
        p = p * r + 1.0 / 5040
        p = p * r + 1.0 / 720
        p = p * r + 1.0 / 120
        p = p * r + 1.0 / 24
        p = p * r + 1.0 / 6
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        power = np.int64(k + 1023.0) << 52
        values[i] = p * np.int64(power).view(np.float64) if x > -700.0 else 0.0 * x


@fused
def _pair_vector(positions, translations, pairs, p):  # type: ignore[no-untyped-def]
    """From the first atom of a pair to the image of the last, Angstrom."""
    i, j, m = pairs.first[p], pairs.last[p], pairs.images[p]
    return (
        positions[j, 0] + translations[m, 0] - positions[i, 0],
        positions[j, 1] + translations[m, 1] - positions[i, 1],
        positions[j, 2] + translations[m, 2] - positions[i, 2],
    )


@fused
def measure_pairs(positions, translations, pairs, n_rows, start, stop, geometry):  # type: ignore[no-untyped-def]
    """Factors of pairs, and their vectors where there is room for them.

    Pairs are taken as a table of ``n_rows`` rows, of which columns start:stop are measured: where a row holds
    the copies of one pair in all cells, those of neighbouring cells are measured together, while their atoms
    are in the cache.

    Returns how many pairs are longer than their limits, or not a number.
    """
    factors, vectors = geometry.factors, geometry.vectors
    directed = vectors.shape[1] > 0
    n_columns = pairs.first.shape[0] // n_rows
    beyond = 0
    for column in range(start, stop, CHUNK):
        for row in range(n_rows):
            first = row * n_columns + column
            last = first + min(CHUNK, stop - column)
            for p in range(first, last):
                x, y, z = _pair_vector(positions, translations, pairs, p)
                factors[p] = x * x + y * y + z * z
                if directed:
                    vectors[0, p], vectors[1, p], vectors[2, p] = x, y, z
            for p in range(first, last):
                length = np.sqrt(factors[p])
                factors[p] = -length
                beyond += not (length <= pairs.limits[p])  # NaN is beyond, too
            _exp(factors[first:last])
    return beyond


@fused
def add_pair_forces(  # type: ignore[no-untyped-def]
    positions, translations, pairs, n_rows, start, stop, slopes, forces, virial
):
    """Turn slopes by the lengths of pairs into forces (n_atoms, 3) and the virial (6,), Voigt order.

    Pairs are taken as in `measure_pairs`. Vectors are worked out once more: for large crystals, that takes
    less time than to store and fetch them.
    """
    xx, yy, zz, yz, xz, xy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    n_columns = pairs.first.shape[0] // n_rows
    for column in range(start, stop, CHUNK):
        for row in range(n_rows):
            first = row * n_columns + column
            for p in range(first, first + min(CHUNK, stop - column)):
                x, y, z = _pair_vector(positions, translations, pairs, p)
                along = slopes[p] / np.sqrt(x * x + y * y + z * z)
                fx, fy, fz = along * x, along * y, along * z
                i, j = pairs.first[p], pairs.last[p]
                forces[i, 0] += fx
                forces[i, 1] += fy
                forces[i, 2] += fz
                forces[j, 0] -= fx
                forces[j, 1] -= fy
                forces[j, 2] -= fz
                xx += fx * x
                yy += fy * y
                zz += fz * z
                yz += fy * z
                xz += fx * z
                xy += fx * y
    virial[0] += xx
    virial[1] += yy
    virial[2] += zz
    virial[3] += yz
    virial[4] += xz
    virial[5] += xy


# ---- Networks ----------------------------------------------------------------------------------------------


@fused
def _multiply(matrix, inputs, outputs):  # type: ignore[no-untyped-def]
    """Add matrix (n_out, n_in) @ inputs (n_in, n) to outputs (n_out, n), for long rows.

    Four rows by four columns at a time: each number that is loaded takes part in four products.
    """
    n_out, n_in = matrix.shape
    n = inputs.shape[1]
    for k in range(0, n_out - 3, 4):
        z0, z1, z2, z3 = outputs[k], outputs[k + 1], outputs[k + 2], outputs[k + 3]
        w0, w1, w2, w3 = matrix[k], matrix[k + 1], matrix[k + 2], matrix[k + 3]
        for c in range(0, n_in - 3, 4):
            x0, x1, x2, x3 = inputs[c], inputs[c + 1], inputs[c + 2], inputs[c + 3]
            for i in range(n):
                a, b, d, e = x0[i], x1[i], x2[i], x3[i]
                z0[i] += w0[c] * a + w0[c + 1] * b + w0[c + 2] * d + w0[c + 3] * e
                z1[i] += w1[c] * a + w1[c + 1] * b + w1[c + 2] * d + w1[c + 3] * e
                z2[i] += w2[c] * a + w2[c + 1] * b + w2[c + 2] * d + w2[c + 3] * e
                z3[i] += w3[c] * a + w3[c + 1] * b + w3[c + 2] * d + w3[c + 3] * e
        for c in range(n_in - n_in % 4, n_in):
            x0 = inputs[c]
            for i in range(n):
                z0[i] += w0[c] * x0[i]
                z1[i] += w1[c] * x0[i]
                z2[i] += w2[c] * x0[i]
                z3[i] += w3[c] * x0[i]
    for k in range(n_out - n_out % 4, n_out):
        z0, w0 = outputs[k], matrix[k]
        for c in range(0, n_in - 3, 4):
            x0, x1, x2, x3 = inputs[c], inputs[c + 1], inputs[c + 2], inputs[c + 3]
            for i in range(n):
                z0[i] += w0[c] * x0[i] + w0[c + 1] * x1[i] + w0[c + 2] * x2[i] + w0[c + 3] * x3[i]
        for c in range(n_in - n_in % 4, n_in):
            x0 = inputs[c]
            for i in range(n):
                z0[i] += w0[c] * x0[i]


@fused
def _product(matrix, inputs, outputs):  # type: ignore[no-untyped-def]
    """Write matrix (n_out, n_in) @ inputs (n_in, n) to outputs: by BLAS where rows are short."""
    n = inputs.shape[1]
    if n <= SHORT * matrix.itemsize and matrix.size * n <= BLAS_SERIAL:
        np.dot(matrix, inputs, outputs)
        return
    for k in range(outputs.shape[0]):
        row = outputs[k]
        for i in range(n):
            row[i] = 0
    _multiply(matrix, inputs, outputs)


@fused
def _combine(offsets, numbers, weights, first, rows, results):  # type: ignore[no-untyped-def]
    """Write results[k] = sum of weights[m] * rows[numbers[m]], m from offsets[first + k] to the next.

    Four terms at a time: rows are short, and loops over them cost as much to enter as to run.
    """
    for k in range(results.shape[0]):
        start, stop = offsets[first + k], offsets[first + k + 1]
        result = results[k]
        for i in range(result.shape[0]):
            result[i] = 0
        four = start + (stop - start) // 4 * 4
        for m in range(start, four, 4):
            a, b, c, d = weights[m], weights[m + 1], weights[m + 2], weights[m + 3]
            w, x = rows[numbers[m]], rows[numbers[m + 1]]
            y, z = rows[numbers[m + 2]], rows[numbers[m + 3]]
            for i in range(result.shape[0]):
                result[i] += a * w[i] + b * x[i] + c * y[i] + d * z[i]
        for m in range(four, stop):
            a, w = weights[m], rows[numbers[m]]
            for i in range(result.shape[0]):
                result[i] += a * w[i]


@fused
def _mix_signs(rows):  # type: ignore[no-untyped-def]
    """Walsh-Hadamard transform of the rows, in place: their sums with the signs of all characters."""
    half = 1
    while half < rows.shape[0]:
        for k in range(0, rows.shape[0], 2 * half):
            for m in range(k, k + half):
                one, other = rows[m], rows[m + half]
                for i in range(rows.shape[1]):
                    a, b = one[i], other[i]
                    one[i] = a + b
                    other[i] = a - b
        half *= 2


@in_order
def _tanh_single(values, one):  # type: ignore[no-untyped-def]
    """Hyperbolic tangent in place, correct to 2e-7: 1 - 2 / (exp(2x) + 1), exp as in `_exp`."""
    two = one + one
    log2e, half = np.float32(1.4426950408889634), np.float32(0.5)
    high, low = np.float32(0.693359375), np.float32(-2.12194440e-4)
    c7, c6, c5, c4, c3 = (
        np.float32(1 / 5040),
        np.float32(1 / 720),
        np.float32(1 / 120),
        np.float32(1 / 24),
        np.float32(1 / 6),
    )
    top = np.float32(18.0)
    for i in range(values.shape[0]):
        x = two * values[i]
        x = top if x > top else x
        x = -top if x < -top else x
        k = np.floor(x * log2e + half)
        r = (x - k * high) - k * low
        p = c7
        p = p * r + c6
        p = p * r + c5
        p = p * r + c4
        p = p * r + c3
        p = p * r + half
        p = p * r + one
        p = p * r + one
        power = (np.int32(k) + np.int32(127)) << np.int32(23)
        values[i] = one - two / (p * np.int32(power).view(np.float32) + one)


@fused
def _tanh_double(values, one):  # type: ignore[no-untyped-def]
    """Hyperbolic tangent in place, correct to 4e-16."""
    for i in range(values.shape[0]):
        x = 2.0 * values[i]
        x = 40.0 if x > 40.0 else x
        values[i] = -40.0 if x < -40.0 else x
    _exp(values)
    for i in range(values.shape[0]):
        values[i] = one - 2.0 / (values[i] + one)


@fused
def _activate(values, activation, one):  # type: ignore[no-untyped-def]
    """Activation of a layer, in place on a flat array; ``one`` is 1 in the precision of the values."""
    if activation == TANH:
        if values.itemsize == 4:
            _tanh_single(values, one)
        else:
            _tanh_double(values, one)
    elif activation == SIGMOID:
        for i in range(values.shape[0]):
            values[i] = one / (one + np.exp(-values[i]))
    elif activation == RELU:
        for i in range(values.shape[0]):
            values[i] = values[i] if values[i] > 0 else 0 * values[i]
    elif activation == SOFTPLUS:
        for i in range(values.shape[0]):
            values[i] = max(values[i], 0 * one) + np.log1p(np.exp(-abs(values[i])))


@fused
def _pull_activation(outputs, slopes, activation, one):  # type: ignore[no-untyped-def]
    """Multiply slopes by that of the activation, which follows from its outputs; flat arrays."""
    if activation == TANH:
        for i in range(slopes.shape[0]):
            slopes[i] *= one - outputs[i] * outputs[i]
    elif activation == SIGMOID:
        for i in range(slopes.shape[0]):
            slopes[i] *= outputs[i] * (one - outputs[i])
    elif activation == RELU:
        for i in range(slopes.shape[0]):
            slopes[i] = slopes[i] if outputs[i] > 0 else 0 * slopes[i]
    elif activation == SOFTPLUS:
        for i in range(slopes.shape[0]):
            slopes[i] *= one - np.exp(-outputs[i])


@fused
def _first_layer(model, kind, n, inputs, parts, mixed, outputs):  # type: ignore[no-untyped-def]
    """Sums of the first layer for every operation, from inputs (n_inputs, n).

    See `signs.SignSplit`: ``parts`` (n_inputs, n) receives the inputs as sums that keep or change their sign
    under commuting operations; each character has a small matrix of its own, whose results go to ``mixed``
    (n_signs, n_units, n_cosets * n). ``outputs`` (n_units, n_signs, n_cosets * n).
    """
    layer, n_signs = model.layers[kind.layer_start], kind.n_signs
    n_rows = layer.n_out // n_signs
    if n_signs == 1:
        parts = inputs
    else:
        _combine(
            model.split_offsets, model.split_inputs, model.split_weights, kind.input_start, inputs, parts
        )
    for sign in range(n_signs):
        start = model.sign_offsets[kind.sign_start + sign]
        stop = model.sign_offsets[kind.sign_start + sign + 1]
        first = layer.matrix + n_rows * start
        matrix = model.weights[first : first + n_rows * (stop - start)].reshape(n_rows, stop - start)
        np.dot(matrix, parts[start:stop], mixed[sign].reshape(n_rows, n))
    _mix_signs(mixed.reshape(n_signs, n_rows * n))
    n_cosets, n_units = mixed.shape[2] // n, mixed.shape[1]
    for unit in range(n_units):
        start = layer.bias + unit * kind.n_operations
        biases = model.weights[start : start + kind.n_operations]
        alike = True
        for g in range(kind.n_operations):
            alike &= biases[g] == biases[0]
        for sign in range(n_signs):
            taken, given = mixed[sign, unit], outputs[unit, sign]
            if alike:  # one long loop instead of many short ones
                bias = biases[0]
                for i in range(taken.shape[0]):
                    given[i] = taken[i] + bias
                continue
            for coset in range(n_cosets):
                bias = biases[sign * n_cosets + coset]
                for i in range(coset * n, (coset + 1) * n):
                    given[i] = taken[i] + bias


@fused
def _pull_first_layer(model, kind, n, slopes, mixed, parts, pulled):  # type: ignore[no-untyped-def]
    """Transpose of `_first_layer`: slopes by its sums to those by the inputs, ``pulled`` (n_inputs, n)."""
    layer, n_signs = model.layers[kind.layer_start], kind.n_signs
    n_rows = layer.n_out // n_signs
    for unit in range(mixed.shape[1]):
        for sign in range(n_signs):
            taken, given = slopes[unit, sign], mixed[sign, unit]
            for i in range(taken.shape[0]):
                given[i] = taken[i]
    _mix_signs(mixed.reshape(n_signs, n_rows * n))
    for sign in range(n_signs):
        start = model.sign_offsets[kind.sign_start + sign]
        stop = model.sign_offsets[kind.sign_start + sign + 1]
        first = layer.transposed + n_rows * start
        matrix = model.weights[first : first + n_rows * (stop - start)].reshape(stop - start, n_rows)
        np.dot(matrix, mixed[sign].reshape(n_rows, n), (parts if n_signs > 1 else pulled)[start:stop])
    if n_signs > 1:
        _combine(model.join_offsets, model.join_parts, model.join_weights, kind.input_start, parts, pulled)


@fused
def _forward(model, kind, n, n_layers, real):  # type: ignore[no-untyped-def]
    """Outputs of the first layers for n lanes, one after the other; returns where they end in ``real``.

    ``real`` begins with the inputs (n_inputs, n), space for the parts and for the mixed sums. The outputs of
    a layer have the shape (n_units, n_operations * n).
    """
    one = model.weights.dtype.type(1)
    size, n_signs = kind.n_inputs * n, kind.n_signs
    layer = model.layers[kind.layer_start]
    width = kind.n_operations * n
    n_units = layer.n_out // kind.n_operations
    used = 2 * size + layer.n_out * n
    before = real[used : used + layer.n_out * n]
    _first_layer(
        model,
        kind,
        n,
        real[:size].reshape(kind.n_inputs, n),
        real[size : 2 * size].reshape(kind.n_inputs, n),
        real[2 * size : used].reshape(n_signs, n_units, width // n_signs),
        before.reshape(n_units, n_signs, width // n_signs),
    )
    _activate(before, layer.activation, one)
    used += before.size
    for number in range(kind.layer_start + 1, kind.layer_start + n_layers):
        layer = model.layers[number]
        matrix = model.weights[layer.matrix : layer.matrix + layer.n_in * layer.n_out]
        outputs = real[used : used + layer.n_out * width]
        _product(
            matrix.reshape(layer.n_out, layer.n_in),
            before.reshape(layer.n_in, width),
            outputs.reshape(layer.n_out, width),
        )
        for k in range(layer.n_out):
            bias = model.weights[layer.bias + k]
            for i in range(k * width, (k + 1) * width):
                outputs[i] += bias
        _activate(outputs, layer.activation, one)
        before = outputs
        used += outputs.size
    return used


@fused
def _backward(model, kind, n, used, real):  # type: ignore[no-untyped-def]
    """Slopes of the mean over operations of the one output, by the inputs; shape (n_inputs, n).

    ``real[:used]`` holds what `_forward` left there; the space behind it is used, and what the first layer
    used besides.
    """
    one = model.weights.dtype.type(1)
    width = kind.n_operations * n
    slopes = real[used : used + width]
    share = one / kind.n_operations
    for i in range(width):
        slopes[i] = share
    stop, free = used, used + width
    for number in range(kind.layer_start + kind.n_layers - 1, kind.layer_start, -1):
        layer = model.layers[number]
        start = stop - slopes.size
        _pull_activation(real[start:stop], slopes, layer.activation, one)
        stop = start
        pulled = real[free : free + layer.n_in * width]
        matrix = model.weights[layer.transposed : layer.transposed + layer.n_in * layer.n_out]
        _product(
            matrix.reshape(layer.n_in, layer.n_out),
            slopes.reshape(layer.n_out, width),
            pulled.reshape(layer.n_in, width),
        )
        slopes = pulled
        free += pulled.size
    layer, size, n_signs = model.layers[kind.layer_start], kind.n_inputs * n, kind.n_signs
    _pull_activation(real[stop - slopes.size : stop], slopes, layer.activation, one)
    n_units = layer.n_out // kind.n_operations
    found = real[free : free + size].reshape(kind.n_inputs, n)
    _pull_first_layer(
        model,
        kind,
        n,
        slopes.reshape(n_units, n_signs, width // n_signs),
        real[2 * size : 2 * size + layer.n_out * n].reshape(n_signs, n_units, width // n_signs),
        real[size : 2 * size].reshape(kind.n_inputs, n),
        found,
    )
    return found


# ---- Blocks of atoms ---------------------------------------------------------------------------------------


@fused
def _gather_walks(model, kind, lanes, start, n, factors, products, values):  # type: ignore[no-untyped-def]
    """Products along the walks of n atoms, added to the inputs they belong to."""
    row = kind.hop_start + kind.n_hops * start
    for w in range(kind.n_walks):
        walk = kind.walk_start + w
        product, weight = products[w], model.walk_weights[walk]
        hops = lanes.hops[row : row + n]
        for i in range(n):
            product[i] = weight * factors[hops[i]]
        for h in range(1, model.walk_lengths[walk]):
            hops = lanes.hops[row + h * n : row + (h + 1) * n]
            for i in range(n):
                product[i] *= factors[hops[i]]
        row += model.walk_lengths[walk] * n
        value = values[model.walk_inputs[walk]]
        for i in range(n):
            value[i] += product[i]


@fused
def _pull_walks(model, kind, lanes, start, n, products, value_slopes, slopes):  # type: ignore[no-untyped-def]
    """Add to the slopes by the lengths of pairs: each pass takes minus the product."""
    row = kind.hop_start + kind.n_hops * start
    for w in range(kind.n_walks):
        walk = kind.walk_start + w
        product, value_slope = products[w], value_slopes[model.walk_inputs[walk]]
        for i in range(n):
            product[i] *= -value_slope[i]
        for _ in range(model.walk_lengths[walk]):
            for i in range(n):
                slopes[lanes.hops[row + i]] += product[i]
            row += n


@fused
def _gather_distances(model, kind, lanes, start, n, factors, values):  # type: ignore[no-untyped-def]
    """Factors exp(-d) of the neighbours of n atoms."""
    row = kind.end_start + kind.n_neighbors * start
    for m in range(kind.n_neighbors):
        value = values[model.neighbor_inputs[kind.neighbor_start + m, 0]]
        ends = lanes.ends[row + m * n : row + (m + 1) * n]
        for i in range(n):
            value[i] += factors[ends[i] >> 1]


@fused
def _pull_distances(model, kind, lanes, start, n, factors, value_slopes, slopes):  # type: ignore[no-untyped-def]
    row = kind.end_start + kind.n_neighbors * start
    for m in range(kind.n_neighbors):
        value_slope = value_slopes[model.neighbor_inputs[kind.neighbor_start + m, 0]]
        for i in range(n):
            pair = lanes.ends[row + m * n + i] >> 1
            slopes[pair] -= value_slope[i] * factors[pair]


@fused
def _gather_vectors(model, kind, lanes, start, n, vectors, values):  # type: ignore[no-untyped-def]
    """Vectors to the neighbours of n atoms, in the frames of their sites."""
    row = kind.end_start + kind.n_neighbors * start
    frames = lanes.frames[kind.atom_start + start : kind.atom_start + start + n]
    for m in range(kind.n_neighbors):
        columns = model.neighbor_inputs[kind.neighbor_start + m]
        ends = lanes.ends[row + m * n : row + (m + 1) * n]
        for c in range(3):
            if columns[c] < 0:
                continue
            value = values[columns[c]]
            for i in range(n):
                pair, sign = ends[i] >> 1, 1.0 - 2.0 * (ends[i] & 1)
                value[i] += sign * (
                    frames[i, c, 0] * vectors[0, pair]
                    + frames[i, c, 1] * vectors[1, pair]
                    + frames[i, c, 2] * vectors[2, pair]
                )


@fused
def _gather(model, kind, lanes, start, n, geometry, directed, wide, inputs, outside):  # type: ignore[no-untyped-def]
    """Inputs of the networks of n atoms; returns the products of their walks, which stay in ``wide``.

    Marks atoms with a value that training has not seen in ``outside`` (n_atoms,).
    """
    size = kind.n_inputs * n
    values = wide[:size].reshape(kind.n_inputs, n)
    products = wide[size : size + kind.n_walks * n].reshape(kind.n_walks, n)
    for c in range(kind.n_inputs):
        base, value = model.base[kind.input_start + c], values[c]
        for i in range(n):
            value[i] = base
    _gather_walks(model, kind, lanes, start, n, geometry.factors, products, values)
    if directed:
        _gather_vectors(model, kind, lanes, start, n, geometry.vectors, values)
    else:
        _gather_distances(model, kind, lanes, start, n, geometry.factors, values)
    for c in range(kind.n_inputs):
        offset, scale = model.offset[kind.input_start + c], model.scale[kind.input_start + c]
        value, scaled = values[c], inputs[c]
        low, high = model.low[kind.input_start + c], model.high[kind.input_start + c]
        beyond = 0
        for i in range(n):
            scaled[i] = (value[i] - offset) * scale
            beyond += not (low <= value[i] <= high)
        if beyond:
            for i in range(n):
                if not (low <= value[i] <= high):
                    outside[lanes.atoms[kind.atom_start + start + i]] = True
    return products


@fused
def energy_blocks(model, lanes, blocks, geometry, scratch, energies, slopes, outside):  # type: ignore[no-untyped-def]
    """Energies of the atoms of some blocks, and their slopes by the lengths of pairs.

    Writes ``energies`` (n_atoms,) and adds to ``slopes`` (n_pairs,) and ``outside`` (n_atoms,); returns the
    sum of the energies.
    """
    total = 0.0
    for b in range(blocks.shape[0]):
        kind, start, n = model.kinds[blocks[b].kind], blocks[b].start, blocks[b].n
        atoms = lanes.atoms[kind.atom_start + start : kind.atom_start + start + n]
        size = kind.n_inputs * n
        inputs = scratch.real[:size].reshape(kind.n_inputs, n)
        products = _gather(model, kind, lanes, start, n, geometry, False, scratch.wide, inputs, outside)
        real = scratch.real
        used = _forward(model, kind, n, kind.n_layers, real)
        scale, offset = model.target_scale[kind.target_start], model.target_offset[kind.target_start]
        outputs = real[used - kind.n_operations * n : used]
        for i in range(n):
            mean = 0.0
            for g in range(kind.n_operations):
                mean += outputs[g * n + i]
            energy = mean / kind.n_operations * scale + offset
            energies[atoms[i]] = energy
            total += energy
        input_slopes = _backward(model, kind, n, used, real)
        value_slopes = scratch.wide[:size].reshape(kind.n_inputs, n)
        for c in range(kind.n_inputs):
            factor = scale * model.scale[kind.input_start + c]
            value_slope, input_slope = value_slopes[c], input_slopes[c]
            for i in range(n):
                value_slope[i] = input_slope[i] * factor
        _pull_walks(model, kind, lanes, start, n, products, value_slopes, slopes)
        _pull_distances(model, kind, lanes, start, n, geometry.factors, value_slopes, slopes)
    return total


@fused
def _linear_outputs(model, kind, layer, atoms, used, real, results):  # type: ignore[no-untyped-def]
    """A linear last layer behind hidden outputs that end at ``used``, averaged over operations beforehand.

    A curve has hundreds of outputs: to average the few hidden units instead saves most of the work.
    """
    n, n_operations = atoms.shape[0], kind.n_operations
    one = model.weights.dtype.type(1)
    size = layer.n_in * n
    hidden = real[used - size * n_operations : used].reshape(layer.n_in, n_operations, n)
    mean = real[used : used + size].reshape(layer.n_in, n)
    outputs = real[used + size : used + size + layer.n_out * n].reshape(layer.n_out, n)
    share = one / n_operations
    for k in range(layer.n_in):
        for i in range(n):
            mean[k, i] = hidden[k, 0, i] * share
        for g in range(1, n_operations):
            for i in range(n):
                mean[k, i] += hidden[k, g, i] * share
    matrix = model.weights[layer.matrix : layer.matrix + layer.n_in * layer.n_out]
    _product(matrix.reshape(layer.n_out, layer.n_in), mean, outputs)
    for i in range(n):
        result = results[atoms[i]]
        for k in range(layer.n_out):
            raw = outputs[k, i] + model.weights[layer.bias + k]
            result[k] = (
                raw * model.target_scale[kind.target_start + k] + model.target_offset[kind.target_start + k]
            )


@fused
def output_blocks(  # type: ignore[no-untyped-def]
    model, lanes, blocks, geometry, scratch, directed, turned, results, outside
):
    """Outputs of the networks for the atoms of some blocks: ``results`` (n_atoms, n_outputs).

    ``directed``: neighbours enter as vectors, else as exp(-d). ``turned``: outputs are vectors in the frames
    of the sites, and are turned back to the laboratory.
    """
    for b in range(blocks.shape[0]):
        kind, start, n = model.kinds[blocks[b].kind], blocks[b].start, blocks[b].n
        atoms = lanes.atoms[kind.atom_start + start : kind.atom_start + start + n]
        frames = lanes.frames[kind.atom_start + start : kind.atom_start + start + n]
        size = kind.n_inputs * n
        inputs = scratch.real[:size].reshape(kind.n_inputs, n)
        _gather(model, kind, lanes, start, n, geometry, directed, scratch.wide, inputs, outside)
        real = scratch.real
        n_operations = kind.n_operations
        last = model.layers[kind.layer_start + kind.n_layers - 1]
        if not turned and kind.n_layers > 1 and last.activation == LINEAR:
            used = _forward(model, kind, n, kind.n_layers - 1, real)
            _linear_outputs(model, kind, last, atoms, used, real, results)
            continue
        used = _forward(model, kind, n, kind.n_layers, real)
        shape = (kind.n_outputs, n_operations, n)
        outputs = real[used - kind.n_outputs * n_operations * n : used].reshape(shape)
        scale = model.target_scale[kind.target_start : kind.target_start + kind.n_outputs]
        offset = model.target_offset[kind.target_start : kind.target_start + kind.n_outputs]
        if not turned:
            for k in range(kind.n_outputs):
                for i in range(n):
                    total = 0.0
                    for g in range(n_operations):
                        total += outputs[k, g, i]
                    results[atoms[i], k] = total / n_operations * scale[k] + offset[k]
            continue
        rotations = model.rotations[kind.rotation_start : kind.rotation_start + n_operations]
        for i in range(n):
            x, y, z = 0.0, 0.0, 0.0
            for g in range(n_operations):
                for k in range(3):
                    x += outputs[k, g, i] * rotations[g, k, 0]
                    y += outputs[k, g, i] * rotations[g, k, 1]
                    z += outputs[k, g, i] * rotations[g, k, 2]
            x, y, z = x * scale[0] + offset[0], y * scale[1] + offset[1], z * scale[2] + offset[2]
            for j in range(3):
                results[atoms[i], j] = frames[i, 0, j] * x + frames[i, 1, j] * y + frames[i, 2, j] * z
