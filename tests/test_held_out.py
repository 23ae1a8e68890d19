"""What early stopping holds out: whole groups of structures."""

import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from tinynet_sklearn import BPNNRegressor, PerAtomArray, time_blocks
from tinynet_sklearn.rows import check_groups, draw_held_out


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.55])
def test_groups_stay_together(fraction):
    groups = np.repeat(np.arange(10), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    held_out = draw_held_out(groups, fraction, np.random.RandomState(0))
    chosen = np.unique(groups[held_out])
    np.testing.assert_array_equal(held_out, np.flatnonzero(np.isin(groups, chosen)))
    assert len(held_out) >= fraction * len(groups)
    smallest = min(np.sum(groups == g) for g in chosen)
    assert (
        len(held_out) - smallest < np.ceil(fraction * len(groups)) + 9 - smallest
    )  # one group less is too few


def test_without_groups_every_structure_is_its_own():
    held_out = draw_held_out(check_groups(None, 20), 0.21, np.random.RandomState(3))
    np.testing.assert_array_equal(held_out, np.sort(np.random.RandomState(3).permutation(20)[:5]))


def test_labels_of_any_kind():
    np.testing.assert_array_equal(check_groups(["b", "a", "b"], 3), [1, 0, 1])


def per_atom(n_structures=12):
    rng = np.random.RandomState(0)
    X = PerAtomArray.from_list(
        [rng.randn(3, 4) for _ in range(n_structures)], species=[[8, 1, 1]] * n_structures
    )
    return X, X.with_values(np.sin(X.values[:, :2]))


def test_groups_reach_the_networks_through_a_pipeline():
    """Frames of a held-out run carry targets that cannot be learned: they must not have been trained on."""
    X, y = per_atom()
    runs = np.repeat([0, 1, 2], 4)
    net = BPNNRegressor((3,), early_stopping=True, validation_fraction=0.2, max_iter=15, random_state=1)
    pipe = make_pipeline(FunctionTransformer(), clone(net)).fit(X, y, bpnnregressor__groups=runs)
    held_out = draw_held_out(runs, 0.2, np.random.RandomState(1))
    assert len(held_out) == 4
    changed = y.values.copy()
    changed[np.isin(y.structure_of_row, held_out)] += 100.0
    other = make_pipeline(FunctionTransformer(), clone(net)).fit(
        X, y.with_values(changed), bpnnregressor__groups=runs
    )
    loss, other_loss = (p[-1].history_[8]["loss"] for p in (pipe, other))
    np.testing.assert_array_equal(loss, other_loss)
    assert other[-1].history_[8]["validation"].min() > 100 * pipe[-1].history_[8]["validation"].min()


def test_blocks_of_time_are_groups():
    X, y = per_atom()
    net = BPNNRegressor((3,), early_stopping=True, max_iter=5, random_state=0)
    net.fit(X, y, groups=time_blocks(["a"] * 6 + ["b"] * 6, 3))
    assert len(net.history_[8]["validation"]) > 0


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([0, 1], "groups must hold one label for each of the 12 structures; got shape (2,)."),
        (
            [0] * 12,
            "early_stopping=True must leave structures to train on; validation_fraction=0.1 holds out 12 of "
            "12 in 1 groups. Pass more groups or early_stopping=False.",
        ),
    ],
)
def test_groups_that_do_not_fit(groups, message):
    X, y = per_atom()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        BPNNRegressor(early_stopping=True).fit(X, y, groups=groups)
