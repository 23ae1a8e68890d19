"""The kernels of the compiled path against plain Python; they run without JIT, too (see `.ci/run`)."""

import math

import numba
import numpy as np
import pytest
from ase import Atoms
from crystals import BONDED, rattled, repeated
from numpy.testing import assert_allclose, assert_array_equal
from oracles import pulled_lengths
from scipy.linalg import hadamard
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNPotential, BPNNRegressor, CompiledModel, CycleMomentFeaturizer, PerAtomArray
from tinynet_sklearn import _force_kernels as kernels
from tinynet_sklearn.networks import DenseStack

COMPILED = not numba.config.DISABLE_JIT

#: Without JIT, NumPy warns of conversions whose results are not used.
extremes = pytest.mark.skipif(not COMPILED, reason="plain NumPy warns of numbers that are out of range")


# ---- Functions ---------------------------------------------------------------------------------------------


def exponentials(values):
    found = np.array(values, dtype=np.float64)
    kernels._exp(found)
    return found


def test_exponentials():
    rng = np.random.default_rng(0)
    n = 20_000 if COMPILED else 300
    for scale in (1e-8, 1.0, 20.0, 699.0):
        x = -scale * rng.random(n)
        assert_allclose(exponentials(x), np.exp(x), rtol=4.5e-16, atol=0)
    x = np.concatenate([rng.random(n) * 40, np.arange(-690, 1) * math.log(2), [0.0, -0.0, -1e-300]])
    assert_allclose(exponentials(x), np.exp(x), rtol=4.5e-16, atol=0)
    assert_array_equal(exponentials([0.0, -0.0, 1e-320]), 1.0)
    for length in range(20):  # vectors and what is left of them
        x = -rng.random(length)
        assert_allclose(exponentials(x), np.exp(x), rtol=4.5e-16, atol=0)


def test_exponentials_that_vanish():
    x = np.array([-700.0, -701.0, -745.0, -800.0, -1000.0])
    assert not exponentials(x).any()
    assert_allclose(exponentials([-699.9]), np.exp(-699.9), rtol=1e-15)


@extremes
def test_exponentials_of_anything():
    assert not exponentials([-1e4, -1e9, -1e18, -1e19, -1e300, -np.finfo(float).max]).any()
    x = np.array([-1.0, np.nan, -2.0, -1e300, -3.0, np.nan, -4.0, -5.0, -6.0])
    assert_allclose(exponentials(x), np.where(x < -700, 0.0, np.exp(x)), rtol=4.5e-16)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 4.5e-16), ("float32", 2.5e-7)])
def test_tanh(dtype, tolerance):
    n = 20_000 if COMPILED else 300
    rng = np.random.default_rng(0)
    one = np.dtype(dtype).type(1)
    for scale in (1e-12, 1e-3, 0.5, 3.0, 30.0, 1e4):
        x = (scale * rng.uniform(-1, 1, n)).astype(dtype)
        found = x.copy()
        kernels._activate(found, kernels.TANH, one)
        assert found.dtype == dtype
        assert_allclose(found, np.tanh(x.astype(np.float64)), rtol=0, atol=tolerance)
        assert np.abs(found).max() <= 1.0
    ends = np.array([0.0, 1e5, -1e5, 1e30, -1e30, np.finfo(dtype).max, -np.finfo(dtype).max], dtype=dtype)
    with np.errstate(over="ignore"):
        kernels._activate(ends, kernels.TANH, one)
    assert_allclose(ends, [0, 1, -1, 1, -1, 1, -1], rtol=0, atol=tolerance)


@extremes
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_tanh_of_anything(dtype):
    x = np.array([np.nan, 1.0, np.inf, -np.inf, 0.0, np.nan, 0.3, -0.3, 2.0], dtype=dtype)
    expected = np.tanh(x)
    kernels._activate(x, kernels.TANH, x.dtype.type(1))
    assert_allclose(x, expected, rtol=0, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (kernels.TANH, "tanh"),
        (kernels.SIGMOID, "sigmoid"),
        (kernels.RELU, "relu"),
        (kernels.SOFTPLUS, "softplus"),
        (kernels.LINEAR, "linear"),
    ],
)
def test_activations_and_their_slopes(number, name, dtype):
    z = np.concatenate([np.linspace(-30, 30, 241), np.random.default_rng(0).normal(size=50)]).astype(dtype)
    unit = (np.ones((1, 1), dtype=dtype),), (np.zeros(1, dtype=dtype),), (name,)
    outputs = DenseStack(*unit).layer_outputs(z[:, None])
    tolerance = 4 * np.finfo(dtype).eps * max(1.0, np.abs(outputs[-1]).max())
    found, one = z.copy(), np.dtype(dtype).type(1)
    kernels._activate(found, number, one)
    assert_allclose(found, outputs[-1][:, 0], rtol=0, atol=tolerance)
    pulled = np.random.default_rng(1).normal(size=len(z)).astype(dtype)
    slopes = pulled.copy()
    kernels._pull_activation(found, slopes, number, one)
    (factors,) = DenseStack(*unit).slope_factors(outputs)
    expected = pulled if factors is None else pulled * factors[:, 0]
    assert found.dtype == slopes.dtype == dtype
    assert_allclose(slopes, expected, rtol=0, atol=16 * np.finfo(dtype).eps)


# ---- Matrices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_products_of_any_shape(dtype):
    """Four rows by four columns at a time, and what is left of both."""
    rng = np.random.default_rng(0)
    sizes = [1, 2, 3, 4, 5, 7, 8, 9, 13]
    for n_out in sizes:
        for n_in in [0, *sizes]:
            matrix = rng.normal(size=(n_out, n_in)).astype(dtype)
            for n in (1, 6, 17) if COMPILED else (2,):
                inputs = rng.normal(size=(n_in, n)).astype(dtype)
                outputs = rng.normal(size=(n_out, n)).astype(dtype)
                expected = outputs + matrix.astype(np.float64) @ inputs
                kernels._multiply(matrix, inputs, outputs)
                assert_allclose(outputs, expected, rtol=0, atol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("n_signs", [1, 2, 4, 8])
def test_signs_are_those_of_all_characters(n_signs):
    rows = np.random.default_rng(0).normal(size=(n_signs, 11))
    expected = hadamard(n_signs) @ rows
    kernels._mix_signs(rows)
    assert_allclose(rows, expected, atol=1e-14)


# ---- Tables ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3, 64])
@pytest.mark.parametrize("n_atoms", [0, 1, 3, 7, 70])
def test_lanes(n_atoms, width):
    """Block by block, in a block entry by entry, lanes last."""
    rng = np.random.default_rng(n_atoms)
    n_parents, n_entries, n_shifts, n_cells = 3, 4, 5, 6
    parents, cells = rng.integers(0, n_parents, n_atoms), rng.integers(0, n_cells, n_atoms)
    pairs = rng.integers(0, 9, (n_parents, n_entries))
    shifts = rng.integers(0, n_shifts, (n_parents, n_entries))
    flips = rng.integers(-1, 2, (n_parents, n_entries))
    neighbors = rng.integers(0, n_cells, (n_shifts, n_cells)).astype(np.int32)
    out = np.full(n_atoms * n_entries, -9, dtype=np.int32)
    kernels.fill_lanes(parents, cells, pairs, shifts, flips, neighbors, n_cells, width, out)
    expected = []
    for start in range(0, n_atoms, width):
        for entry in range(n_entries):
            for atom in range(start, min(start + width, n_atoms)):
                shift, flip = shifts[parents[atom], entry], flips[parents[atom], entry]
                pair = pairs[parents[atom], entry] * n_cells + neighbors[shift, cells[atom]]
                expected.append(pair if flip == -1 else 2 * pair + flip)
    assert_array_equal(out, expected)


# ---- Pairs -------------------------------------------------------------------------------------------------


def some_pairs(n_pairs, seed=0):
    rng = np.random.default_rng(seed)
    positions = 3.0 * rng.normal(size=(6, 3))
    cell = 5.0 * np.eye(3) + rng.normal(size=(3, 3))
    cells = np.array([[0, 0, 0], [1, 0, 0], [0, -1, 2], [-3, 1, 1]])
    first, last = (rng.integers(0, 6, n_pairs).astype(np.int32) for _ in range(2))
    images = np.where(first == last, rng.integers(1, 4, n_pairs), rng.integers(0, 4, n_pairs))
    limits = rng.choice([2.0, 8.0, 12.0, np.inf], n_pairs)
    pairs = kernels.Pairs(first, last, images.astype(np.int32), limits)
    geometry = kernels.Geometry(np.full((3, n_pairs), 7.5), np.full(n_pairs, 7.5))
    return positions, cell, cells, pairs, geometry


def end_points(positions, cell, cells, pairs):
    """Both ends of every pair."""
    for i, j, image in zip(pairs.first, pairs.last, pairs.images, strict=True):
        yield (
            positions[i],
            positions[j] + sum(c * vector for c, vector in zip(cells[image], cell, strict=True)),
        )


@pytest.mark.parametrize("n_pairs", [0, 1, 5, 83, 2500])
def test_vectors_and_factors(n_pairs):
    positions, cell, cells, pairs, geometry = some_pairs(n_pairs)
    beyond = kernels.measure_pairs(positions, cells @ cell, pairs, 1, 0, n_pairs, geometry)
    ends = list(end_points(positions, cell, cells, pairs))
    lengths = [math.dist(a, b) for a, b in ends]
    assert beyond == sum(d > limit for d, limit in zip(lengths, pairs.limits, strict=True))
    assert n_pairs < 50 or 5 < beyond < n_pairs - 5
    assert_allclose(geometry.vectors.T, np.reshape([b - a for a, b in ends], (-1, 3)), atol=1e-13)
    assert_allclose(geometry.factors, [math.exp(-d) for d in lengths], rtol=1e-13)
    without = kernels.Geometry(np.empty((3, 0)), np.empty(n_pairs))
    assert kernels.measure_pairs(positions, cells @ cell, pairs, 1, 0, n_pairs, without) == beyond
    assert_array_equal(without.factors, geometry.factors)


@pytest.mark.parametrize("n_rows", [4, 10])
def test_pairs_as_a_table(n_rows):
    """Copies of pairs, column by column, are measured and pushed as if one after the other."""
    positions, cell, cells, pairs, flat = some_pairs(2000)
    beyond = kernels.measure_pairs(positions, cells @ cell, pairs, 1, 0, 2000, flat)
    table = kernels.Geometry(np.full((3, 2000), 7.5), np.full(2000, 7.5))
    columns = 2000 // n_rows
    slopes = np.random.default_rng(3).normal(size=2000)
    forces, voigt = np.zeros((2, 6, 3)), np.zeros((2, 6))
    kernels.add_pair_forces(positions, cells @ cell, pairs, 1, 0, 2000, slopes, forces[0], voigt[0])
    for start, stop in ((0, 150), (150, columns)):
        share = (positions, cells @ cell, pairs, n_rows, start, stop)
        beyond -= kernels.measure_pairs(*share, table)
        kernels.add_pair_forces(*share, slopes, forces[1], voigt[1])
    assert beyond == 0
    assert_array_equal(table.factors, flat.factors)
    assert_array_equal(table.vectors, flat.vectors)
    assert_allclose(forces[1], forces[0], atol=1e-11)
    assert_allclose(voigt[1], voigt[0], atol=1e-10)


def test_a_share_of_the_pairs():
    """Threads share the arrays: none may touch what is another's."""
    positions, cell, cells, pairs, geometry = some_pairs(40)
    whole = kernels.Geometry(*(array.copy() for array in geometry))
    beyond = kernels.measure_pairs(positions, cells @ cell, pairs, 1, 0, 40, whole)
    parts = kernels.measure_pairs(positions, cells @ cell, pairs, 1, 11, 30, geometry)
    for array, expected in zip(geometry, whole, strict=True):
        assert_array_equal(array[..., 11:30], expected[..., 11:30])
        assert_array_equal(array[..., :11], 7.5)
        assert_array_equal(array[..., 30:], 7.5)
    parts += kernels.measure_pairs(positions, cells @ cell, pairs, 1, 0, 11, geometry)
    parts += kernels.measure_pairs(positions, cells @ cell, pairs, 1, 30, 40, geometry)
    assert parts == beyond
    assert_array_equal(geometry.factors, whole.factors)


@extremes
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e100])
def test_pairs_of_an_atom_that_is_nowhere(value):
    positions, cell, cells, pairs, geometry = some_pairs(83)
    kernels.measure_pairs(positions, cells @ cell, pairs, 1, 0, 83, geometry)
    before = geometry.factors.copy()
    positions[2, 1] = value
    beyond = kernels.measure_pairs(positions, cells @ cell, pairs, 1, 0, 83, geometry)
    moved = (pairs.first == 2) | (pairs.last == 2)
    bounded = np.isfinite(pairs.limits)
    lengths = np.linalg.norm(geometry.vectors, axis=0)
    too_long = ~(lengths <= pairs.limits)
    assert beyond == np.count_nonzero(too_long)
    assert too_long[moved & bounded & (pairs.first != pairs.last)].all()
    assert_array_equal(geometry.factors[~moved], before[~moved])


@pytest.mark.parametrize("n_pairs", [0, 1, 83])
def test_forces_and_virial_of_pairs(n_pairs):
    positions, cell, cells, pairs, _ = some_pairs(n_pairs)
    slopes = np.random.default_rng(3).normal(size=n_pairs)
    gradient, virial = pulled_lengths(positions, cell, pairs.first, pairs.last, cells[pairs.images], slopes)
    forces, voigt = np.zeros((6, 3)), np.zeros(6)
    kernels.add_pair_forces(positions, cells @ cell, pairs, 1, 0, n_pairs, slopes, forces, voigt)
    assert_allclose(forces, -gradient, atol=1e-12)
    assert_allclose(voigt, virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atol=1e-11)
    cut = n_pairs // 3
    for start, stop in ((0, cut), (cut, n_pairs)):  # adds to what is there
        kernels.add_pair_forces(positions, cells @ cell, pairs, 1, start, stop, slopes, forces, voigt)
    assert_allclose(forces, -2 * gradient, atol=1e-12)
    assert_allclose(voigt, 2 * virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atol=1e-11)


# ---- Blocks of atoms ---------------------------------------------------------------------------------------


def as_records(engine: CompiledModel) -> CompiledModel:
    """Records whose fields are attributes in plain Python, too."""
    model = engine._model
    engine._model = model._replace(kinds=model.kinds.view(np.recarray), layers=model.layers.view(np.recarray))
    engine._blocks = [blocks.view(np.recarray) for blocks in engine._blocks]
    return engine


def fitted(name: str, net, **options):
    make, rule = BONDED[name]
    frames = [rattled(make(), seed) for seed in range(4)]
    featurizer = CycleMomentFeaturizer(n=2, N=1, bonds=rule, reference="first", **options).fit(frames)
    atoms = featurizer.transform(frames)
    forces = PerAtomArray(
        np.random.default_rng(0).normal(size=(len(atoms.values), 3)), atoms.offsets, atoms.species
    )
    net.fit(atoms, {"forces": forces} if isinstance(net, BPNNPotential) else forces)
    return make_pipeline(featurizer, net)


def supercell(name: str, shape) -> Atoms:
    return rattled(repeated(BONDED[name][0](), shape), 9)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("name", "shape", "activation"),
    [("wire", (1, 1, 3), "tanh"), ("MoO3", (1, 1, 1), "softplus"), ("chain", (2, 1, 1), "sigmoid")],
)
@pytest.mark.parametrize("kind", ["energy", "distances", "vectors"])
def test_blocks_of_atoms(name, shape, activation, kind):
    """Energies, forces and direct forces, from the first bond to the last slope."""
    settings = {"activation": activation, "solver": "lbfgs", "max_iter": 1, "random_state": 0}
    net = (BPNNPotential if kind == "energy" else BPNNRegressor)((3, 2), **settings)
    model = fitted(name, net, coordinates="vectors" if kind == "vectors" else "distances")
    atoms = supercell(name, shape)
    features = model[0].adapted_to(atoms).transform([atoms])
    engine = CompiledModel(model, atoms)
    if not COMPILED:
        engine = as_records(engine)
    found = engine.compute(atoms.positions, atoms.cell.array)
    assert_allclose(found.forces, model[-1].predict(features).values, rtol=0, atol=1e-12)
    if kind == "energy":
        energies = model[-1].predict(features, output="energies").values[:, 0]
        assert_allclose(found.energies, energies, rtol=0, atol=1e-12)
