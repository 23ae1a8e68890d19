"""Scalings that a site group commutes with: moments of explicit images, orbits by brute force."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracles import images
from site_rows import CASES, site_rows

from tinynet_sklearn.frames import ColumnSymmetry
from tinynet_sklearn.scaling import (
    CONSTANT_WIDTH,
    MARGIN,
    ColumnScaling,
    fit_input_scaling,
    fit_symmetric_scaling,
    fit_target_scaling,
    training_range,
)

NO_GROUPS = ColumnSymmetry((np.arange(4)[None],), (np.eye(3)[None],), np.empty((0, 3), int))


@pytest.fixture
def rng():
    return np.random.RandomState(0)


def orbits_of(symmetry, sites):
    """Sets of columns that operations of the given site classes, or turns of vectors, lead to."""
    pairs = [(c, d) for s in sites for g in symmetry.gather[s] for c, d in enumerate(g.tolist()) if c < d]
    pairs += [(x, other) for x, *others in symmetry.vector_columns.tolist() for other in others]
    orbits = {column: {column} for column in range(symmetry.n_features)}
    for c, d in set(pairs):
        if orbits[c] is not orbits[d]:
            orbits[c] |= orbits[d]
            for column in orbits[d]:
                orbits[column] = orbits[c]
    return [sorted(orbit) for orbit in {id(orbit): orbit for orbit in orbits.values()}.values()]


def all_images(rows, weight):
    """Every row under every operation of its site group, sharing the weight of the row."""
    parts, shares = [], []
    for site in rows.classes:
        ours = rows.sites == site
        pictures = [image for _, image in images(rows.values[ours], rows.symmetry, site)]
        parts += pictures
        shares += [weight[ours] / len(pictures)] * len(pictures)
    return np.concatenate(parts), np.concatenate(shares)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_are_those_of_all_images(rng, case, weighted):
    rows = site_rows(case, None)
    weight = rng.uniform(0.5, 2, len(rows.values)) if weighted else None
    scaling = fit_symmetric_scaling(rows.values, weight, rows.sites, rows.symmetry, "standard", 1e-6)
    explicit, share = all_images(rows, np.ones(len(rows.values)) if weight is None else weight)
    mean = np.average(explicit, axis=0, weights=share)
    variance = np.average(np.square(explicit - mean), axis=0, weights=share)
    assert_allclose(scaling.offset, mean[scaling.columns], atol=1e-12)
    expected = np.empty(rows.symmetry.n_features)
    for orbit in orbits_of(rows.symmetry, rows.classes):
        expected[orbit] = np.sqrt(variance[orbit].mean())
    assert_allclose(scaling.scale, expected[scaling.columns], rtol=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["standard", "minmax", None])
def test_orbits_share_scale_and_fate(case, how):
    rows = site_rows(case, how)
    scale = np.full(rows.symmetry.n_features, np.nan)  # NaN where a column is dropped
    scale[rows.inputs.columns] = rows.inputs.scale
    low, high = rows.values.min(axis=0), rows.values.max(axis=0)
    for orbit in orbits_of(rows.symmetry, rows.classes):
        assert_array_equal(scale[orbit], scale[orbit[0]])
        if how == "minmax" and not np.isnan(scale[orbit[0]]):
            assert scale[orbit[0]] == (high - low)[orbit].max()
    offset = {"minmax": low[rows.inputs.columns], None: 0}
    if how in offset:
        assert_array_equal(rows.inputs.offset, offset[how])
        assert how == "minmax" or set(rows.inputs.scale) <= {1.0}


def test_columns_are_dropped_with_their_orbits_or_kept_with_them():
    """O of perovskite has walks to and from its 2 Ti and its 4 Ba: two orbits of scalars."""
    rows = site_rows("perovskite O", None, n=2, N=0)
    orbits = orbits_of(rows.symmetry, rows.classes)
    # there are 12 slots, as many as Ba has neighbours; those that O does not need are zero
    titanium, barium = sorted((o for o in orbits if np.ptp(rows.values[:, o]) > 0), key=len)
    assert [len(titanium), len(barium)] == [2, 4]

    def kept(values):
        scaling = fit_symmetric_scaling(values, None, rows.sites, rows.symmetry, "standard")
        return scaling.columns.tolist()

    assert kept(rows.values) == sorted(titanium + barium)
    blurred = rows.values.copy()
    blurred[:, titanium] = 0.3 + 1e-17 * np.arange(24).reshape(12, 2)
    assert kept(blurred) == barium  # constant but for rounding, all of them
    blurred[0, titanium[1]] += 0.1
    assert kept(blurred) == sorted(titanium + barium)  # one of them varies, and may come to stand for another


def test_vectors_are_measured_by_their_length(rng):
    """Next to z, x and y are constant to the resolution; they turn into z, and are kept with it."""
    values = np.array([0.0, 0.0, 2.0]) + 1e-9 * rng.randn(20, 3)
    free = ColumnSymmetry((np.arange(3)[None],), (np.eye(3)[None],), np.array([[0, 1, 2]]))
    sites = np.zeros(20, dtype=int)
    assert fit_symmetric_scaling(values, None, sites, free, "standard", 1e-6).columns.size == 0
    values[:, 2] += 0.1 * rng.randn(20)
    scaling = fit_symmetric_scaling(values, None, sites, free, "standard", 1e-6)
    assert_array_equal(scaling.columns, [0, 1, 2])
    assert_allclose(scaling.scale, np.sqrt(values.var(axis=0).mean()))


def test_only_the_sites_at_hand_tie_columns_together():
    """The cube of Ba exchanges all of its slots; they mean something else to O, whose group is smaller."""
    of_oxygen, of_all = site_rows("perovskite O", None), site_rows("perovskite, all atoms", None)
    assert of_oxygen.symmetry is of_all.symmetry
    assert len(orbits_of(of_oxygen.symmetry, of_oxygen.classes)) > len(
        orbits_of(of_all.symmetry, of_all.classes)
    )
    scales = [len(set(site_rows(case).inputs.scale)) for case in ("perovskite O", "perovskite, all atoms")]
    assert scales[0] > scales[1]


@pytest.mark.parametrize("how", ["standard", "minmax", None])
def test_without_operations_it_is_the_plain_scaling(rng, how):
    values, weight = rng.randn(30, 4) * [1, 10, 0.1, 3] + [0, 5, 100, -2], rng.uniform(0.5, 2, 30)
    values[:, 2] = 7.0
    found = fit_symmetric_scaling(values, weight, np.zeros(30, dtype=int), NO_GROUPS, how)
    expected = fit_input_scaling(values, weight, how)
    assert_array_equal(found.columns, expected.columns)
    assert_allclose(found.offset, expected.offset, rtol=1e-14)
    assert_allclose(found.scale, expected.scale, rtol=1e-14)


def test_integer_weights_count_like_repetitions(rng):
    rows = site_rows("slab O", None)
    times = rng.randint(1, 4, len(rows.values))
    repeated = np.repeat(np.arange(len(times)), times)
    weighted = fit_symmetric_scaling(rows.values, times.astype(float), rows.sites, rows.symmetry, "standard")
    written_out = fit_symmetric_scaling(
        rows.values[repeated], None, rows.sites[repeated], rows.symmetry, "standard"
    )
    assert_allclose(weighted.offset, written_out.offset, atol=1e-14)
    assert_allclose(weighted.scale, written_out.scale, rtol=1e-12)


def test_targets_that_turn_keep_their_zero(rng):
    targets = rng.randn(40, 3) * [1, 2, 3] + [5, 0, 0]
    scaling = fit_target_scaling(targets, None, "standard", isotropic=True, centered=False)
    assert_array_equal(scaling.offset, 0)
    assert_allclose(scaling.scale, np.sqrt(np.square(targets).mean()))
    weight = rng.randint(1, 4, 40)
    weighted = fit_target_scaling(targets, weight.astype(float), "standard", isotropic=False, centered=False)
    assert_allclose(weighted.scale, np.sqrt(np.square(targets.repeat(weight, axis=0)).mean(axis=0)))


# ---------------------------------------------------------------- training ranges


@pytest.mark.parametrize("how", ["standard", "minmax", None])
def test_ranges_of_plain_columns(rng, how):
    values = rng.randn(30, 4) * [1, 10, 0.1, 3] + [0, 5, 100, -2]
    values[:, 2] = 7.0
    scaling = fit_input_scaling(values, None, how)
    assert_array_equal(scaling.columns, [0, 1, 3])
    low, high = values.min(axis=0), values.max(axis=0)
    low[2], high[2] = 7 * (1 - CONSTANT_WIDTH / 2), 7 * (1 + CONSTANT_WIDTH / 2)
    assert_allclose(scaling.low, low, rtol=1e-15)
    assert_allclose(scaling.high, high, rtol=1e-15)
    lower, upper = scaling.limits()
    assert_allclose(lower, low - MARGIN * (high - low), rtol=1e-15)
    assert_allclose(upper, high + MARGIN * (high - low), rtol=1e-15)
    assert not scaling.outside(values).any()
    assert_array_equal(scaling.outside(np.array([lower, upper, (low + high) / 2])), False)


def test_what_is_outside(rng):
    values = rng.uniform(-1, 1, (200, 3)) * [1, 0, 1] + [0, 4, 50]
    scaling = fit_input_scaling(values, None, "standard")
    typical = np.array([0.0, 4, 50])
    rows = typical + np.array(
        [[0, 0, 0], [1.3, 0, 0], [0, 0, -1.3], [0, 1e-9, 0], [0, 0.1, 0], [np.nan, 0, 0], [0, np.inf, 0]]
    )
    assert_array_equal(scaling.outside(rows), [False, True, True, False, True, True, True])
    assert scaling.outside(rows[:0]).shape == (0,)


def test_a_slot_that_was_empty_stays_empty():
    """Slots without a neighbour hold zeros: there is no size that a tolerance could be a fraction of."""
    values = np.column_stack([np.arange(5.0), np.zeros(5)])
    scaling = fit_input_scaling(values, None, "standard")
    assert_array_equal(scaling.outside(np.array([[2.0, 0.0], [2.0, 1e-300]])), [False, True])


def test_small_components_are_measured_by_the_vector():
    values = np.array([[0.0, 1e-12, 2.0], [0.0, -1e-12, 2.1]])
    scaling = fit_input_scaling(values, None, "standard", 1e-6, np.array([[0, 1, 2]]))
    assert_array_equal(scaling.columns, [2])
    found = scaling.outside(np.array([[1e-4, -1e-4, 2.05], [0.1, 0, 2.05]]))
    assert_array_equal(found, [False, True])


@pytest.mark.parametrize("case", CASES)
def test_ranges_are_those_of_all_images(case):
    rows = site_rows(case, "standard")
    explicit, _ = all_images(rows, np.ones(len(rows.values)))
    low, high = explicit.min(axis=0), explicit.max(axis=0)
    size = np.maximum(np.abs(low), np.abs(high))
    for vector in rows.symmetry.vector_columns:
        size[vector] = np.sqrt(np.square(size[vector]).sum())
    wide = high - low >= CONSTANT_WIDTH * size
    assert_allclose(rows.inputs.low[wide], low[wide], atol=1e-13)
    assert_allclose(rows.inputs.high[wide], high[wide], atol=1e-13)
    assert_allclose((rows.inputs.low + rows.inputs.high)[~wide], (low + high)[~wide], atol=1e-13)
    assert_allclose((rows.inputs.high - rows.inputs.low)[~wide], CONSTANT_WIDTH * size[~wide], atol=1e-13)
    assert not rows.inputs.outside(rows.values).any()
    assert not rows.inputs.outside(explicit).any()


def test_images_extrapolate_together(rng):
    rows = site_rows("perovskite O", "standard")
    strange = rows.values[:6] + 0.1 * rng.randn(6, rows.values.shape[1])
    strange[::2] = rows.values[:6:2]
    for _, image in images(strange, rows.symmetry, rows.classes[0]):
        assert_array_equal(rows.inputs.outside(image), [False, True] * 3)


def test_columns_that_operations_exchange_share_their_range():
    rows = site_rows("BaTiO3 Ti", "standard")
    scalars = np.setdiff1d(np.arange(rows.symmetry.n_features), rows.symmetry.vector_columns)
    for orbit in orbits_of(rows.symmetry, rows.classes):
        if set(orbit) <= set(scalars):
            assert len(set(rows.inputs.low[orbit])) == len(set(rows.inputs.high[orbit])) == 1
    of_vectors = rows.symmetry.vector_columns
    assert_allclose(rows.inputs.low[of_vectors].min(), -rows.inputs.high[of_vectors].max(), rtol=1e-12)


def test_ranges_grow_with_what_is_seen(rng):
    first, more = rng.randn(20, 3), 2 * rng.randn(20, 3)
    scaling = fit_input_scaling(first, None, "standard")
    grown = scaling.seen(*training_range(more))
    both = np.concatenate([first, more])
    assert_array_equal(grown.low, both.min(axis=0))
    assert_array_equal(grown.high, both.max(axis=0))
    for name in ("columns", "offset", "scale"):
        assert getattr(grown, name) is getattr(scaling, name)


def test_unknown_ranges():
    scaling = ColumnScaling(np.arange(2), np.zeros(2), np.ones(2))
    assert scaling.limits() is None
    assert_array_equal(scaling.outside(np.full((3, 2), 1e9)), [False] * 3)
    assert scaling.seen(np.zeros(2), np.ones(2)) is scaling
    assert fit_target_scaling(np.eye(3), None, "standard", True).limits() is None
