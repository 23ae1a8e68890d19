"""Blocks of time: contiguous, within runs, of nearly equal lengths."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.model_selection import GroupKFold

from tinynet_sklearn import time_blocks


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


@pytest.mark.parametrize("n_frames", [5, 11, 14, 100])
def test_blocks_of_one_run_are_contiguous_and_nearly_equal(n_frames):
    blocks = time_blocks(np.zeros(n_frames), 5)
    assert_array_equal(np.unique(blocks), np.arange(5))
    assert set(np.diff(blocks)) <= {0, 1}
    assert np.ptp(np.bincount(blocks)) <= 1


def test_runs_are_cut_one_by_one_in_order_of_appearance():
    assert_array_equal(time_blocks(["b"] * 4 + ["a"] * 2, 2), [0, 0, 1, 1, 2, 3])
    assert_array_equal(time_blocks([7, 3, 7, 3, 7, 7], 2), [0, 2, 0, 3, 1, 1])


def test_labels_of_any_kind_cut_alike():
    runs = [1, 1, 1, 0, 0, 0]
    expected = time_blocks(runs, 3)
    assert expected.dtype.kind == "i"
    for same in (
        np.array(runs),
        np.array(runs) == 1,
        [300.0 * r for r in runs],
        [None if r else "x" for r in runs],
    ):
        assert_array_equal(time_blocks(same, 3), expected)


def test_one_block_is_the_run():
    assert_array_equal(time_blocks([300, 300, 600], np.int64(1)), [0, 0, 1])
    assert len(time_blocks([], 4)) == 0


def test_folds_keep_blocks_whole():
    runs = np.repeat([0, 1], [53, 41])
    groups = time_blocks(runs, 10)
    for train, test in GroupKFold(5).split(runs, groups=groups):
        assert not set(groups[train]) & set(groups[test])
        # Neighbours in time are parted at the ends of blocks alone: 4 of 20 blocks are tested here.
        inside = np.isin(np.arange(len(runs)), test).astype(int)
        assert np.abs(np.diff(inside)).sum() <= 8


def test_messages():
    assert message_of(ValueError, lambda: time_blocks(["a"] * 3 + ["b"] * 9 + ["c"], 4)) == (
        "n_blocks must not exceed the number of structures of any run; got 4 for 3 in run 'a'; 1 in run 'c'. "
        "Ask for fewer blocks, or leave these runs out."
    )
    assert message_of(ValueError, lambda: time_blocks(np.zeros((3, 1)), 1)) == (
        "runs must hold one label per structure, in one dimension; got an array of shape (3, 1). Write a "
        "single run as np.zeros(n_structures)."
    )
    for wrong in (0, 2.5, "2"):
        assert message_of(ValueError, lambda wrong=wrong: time_blocks([0, 0], wrong)) == (
            f"n_blocks must be a whole number, 1 or more; got {wrong!r}."
        )
