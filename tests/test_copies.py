"""Structures that are the same."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tinynet_sklearn.copies import TOLERANCE, first_of_same, structure_row


@pytest.mark.parametrize("digits", [6, 8])
def test_copies_with_fewer_digits(digits):
    """However many components: with rounding, one on a boundary in a hundred would part two copies."""
    rng = np.random.default_rng(0)
    rows = [structure_row(10 * rng.random((100, 3)), 20 * np.eye(3)) for _ in range(200)]
    copies = [row.round(digits) for row in rows]
    order = rng.permutation(200)
    found = first_of_same(["A"] * 400, rows + [copies[i] for i in order])
    assert_array_equal(found, [*range(200), *order])


def test_frames_of_a_trajectory_are_no_copies():
    rng = np.random.default_rng(1)
    steps = np.cumsum(rng.normal(scale=1e-3, size=(500, 30)), axis=0)
    assert_array_equal(first_of_same(["A"] * 500, list(steps)), np.arange(500))


def test_atoms_must_be_the_same():
    assert_array_equal(first_of_same(["A", "B", "B"], [np.zeros(3)] * 3), [0, 1, 1])
    assert_array_equal(first_of_same([], []), np.empty(0))


def test_against_comparing_all():
    rng = np.random.default_rng(2)
    rows = np.repeat(rng.random((50, 12)), 4, axis=0) + rng.uniform(-0.4, 0.4, size=(200, 12)) * TOLERANCE
    rows += 3 * TOLERANCE * (rng.random((200, 1)) < 0.3)
    order = rng.permutation(200)
    rows = rows[order]
    same = np.abs(rows[:, None] - rows[None]).max(axis=2) <= TOLERANCE
    assert_array_equal(first_of_same(["A"] * 200, list(rows)), same.argmax(axis=1))
