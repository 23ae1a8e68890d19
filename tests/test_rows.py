"""Joining of equal rows."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tinynet_sklearn.rows import merged


@pytest.fixture
def table():
    rng = np.random.RandomState(0)
    return rng.randn(6, 3), rng.randn(6, 2), np.array([1.0, 2, 3, 4, 5, 6]), np.array([0, 1, 0, 1, 0, 1])


def as_set(values, targets, weight, sites):
    rows = np.column_stack([values, targets, sites])
    return {tuple(row): w for row, w in zip(rows.tolist(), weight, strict=True)}


def test_equal_rows_of_one_site_are_joined(table):
    values, targets, weight, sites = table
    order = [0, 1, 2, 3, 4, 5, 2, 3, 2]
    joined = merged(values[order], targets[order], np.append(weight, [10, 20, 30]), sites[order])
    assert [len(array) for array in joined] == [6] * 4
    assert as_set(*joined) == as_set(values, targets, [1, 2, 43, 24, 5, 6], sites)


def test_rows_that_differ_in_one_thing_are_kept_apart(table):
    values, targets, weight, sites = (array[[0, 0, 0]] for array in table)
    targets[1, 1] = np.nextafter(targets[1, 1], 1)
    sites[2] = 1
    assert len(merged(values, targets, weight, sites)[0]) == 3


def test_the_order_of_the_rows_does_not_matter(table):
    order = np.random.RandomState(1).permutation(6)
    for found, expected in zip(merged(*(array[order] for array in table)), merged(*table), strict=True):
        assert_array_equal(found, expected)


def test_single_precision_features_stay_as_they_are(table):
    values, targets, weight, sites = table
    joined = merged(values.astype("float32"), targets, weight, sites)
    assert joined[0].dtype == np.float32
    assert joined[3].dtype == sites.dtype
    assert as_set(*joined) == as_set(values.astype("float32"), targets, weight, sites)
