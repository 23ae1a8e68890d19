"""The steps of the quickstart, as functions."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_array_equal

from tinynet_sklearn import load_batio3, load_moo3
from tinynet_sklearn.metrics import force_mae, force_rmse
from tinynet_sklearn.quickstart import describe_features, evaluate, make_folder, make_pipeline, split


@pytest.mark.parametrize("load", [load_batio3, load_moo3])
@pytest.mark.parametrize("seed", [0, 1])
def test_split_is_by_group_and_even_over_temperatures(load, seed):
    data = load()
    train, test = split(data, seed)
    assert sorted([*train, *test]) == list(range(len(data.structures)))
    assert not set(data.groups[train]) & set(data.groups[test])
    assert 0 in train, "the reference structure is for training"
    # Old versions of scikit-learn lose some of the evenness when they shuffle.
    newest = tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 9)
    for temperature in (100, 300, 500):
        held_out = np.count_nonzero(data.temperatures[test] == temperature)
        assert held_out in ((5, 6) if newest else range(3, 9))


def test_split_depends_on_the_seed_alone():
    data = load_moo3()
    assert_array_equal(split(data, 3)[1], split(data, 3)[1])
    assert not np.array_equal(split(data, 3)[1], split(data, 4)[1])


def test_features_are_described_per_species():
    data = load_batio3()
    featurizer = make_pipeline(data.bonds)["embed"].set_params(n=4, N=2, paths="simple")
    features = {s.species: s for s in describe_features(featurizer.fit(data.structures[:3]))}
    assert list(features) == ["O", "Ti", "Ba"]
    assert features["Ba"].environments == {"12 O": 4}
    assert (features["Ba"].n_atoms, features["O"].n_atoms) == (4, 12)
    # 12 walks there and back, 120 squares in both directions; 12 O one hop away and 26 atoms two hops away.
    assert features["Ba"].walks == 12 + 120 / 2
    assert features["Ba"].neighbors == 12 + 26


def test_a_folder_is_made_and_nothing_left_in_it(tmp_path):
    make_folder(tmp_path / "new" / "folder")
    make_folder(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OSError, match="cannot write") as error:
        make_folder(tmp_path)
    assert str(error.value) == f"cannot write to {tmp_path}: Permission denied; name another folder."


def test_errors_of_parts_and_of_all():
    data = load_moo3()
    structures = np.arange(10)[::-1]
    true, temperatures = data.target[structures], data.temperatures[structures]
    predicted = true.with_values(true.values + np.where(true.species == 42, 0.3, -0.1)[:, None])
    rows = {row.name: row for row in evaluate(true, predicted, temperatures)}
    assert list(rows) == ["all", "O", "Mo", "0 K", "100 K", "300 K", "500 K"]
    assert [row.part for row in rows.values()] == ["all"] + 2 * ["species"] + 4 * ["temperature"]
    assert (rows["Mo"].rmse, rows["Mo"].mae) == pytest.approx((0.3, 0.3))
    assert (rows["O"].rmse, rows["O"].mae) == pytest.approx((0.1, 0.1))
    zero = true.with_values(np.zeros_like(true.values))
    assert rows["all"].spread == pytest.approx(force_rmse(true, zero))
    assert rows["all"].mae == pytest.approx(force_mae(true, predicted))
    cold = temperatures == 100
    assert rows["100 K"].mae == pytest.approx(force_mae(true[cold], predicted[cold]))
    assert rows["100 K"].spread == pytest.approx(force_rmse(true[cold], zero[cold]))
    assert rows["all"].n == sum(rows[name].n for name in ("O", "Mo")) == 480
