"""`TargetSet` and `MultiTargetRegressor`: several kinds of targets of the same structures."""

import copy
import pickle

import numpy as np
import pytest
from crystals import perovskite, rattled
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    ShuffleSplit,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import (
    LDOS,
    BPNNPotential,
    BPNNRegressor,
    CommitteeRegressor,
    CycleMomentFeaturizer,
    EnergyGrid,
    MultiTargetRegressor,
    PerAtomArray,
    PotentialTargets,
    TargetSet,
    target_scorer,
)
from tinynet_sklearn.ldos_metrics import ldos_rmse, ldos_rmse_scorer
from tinynet_sklearn.metrics import force_rmse_scorer

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GRID = EnergyGrid(np.linspace(-2.0, 2.0, 9), width=0.3, zero="vbm")
SPECIES = [[8, 1], [8, 1, 1]]


def make(n_structures=12, seed=0):
    """Features, and targets of three kinds: per atom, curves, and one number per structure."""
    rng = np.random.RandomState(seed)
    species = [SPECIES[i % 2] for i in range(n_structures)]
    X = PerAtomArray.from_list([rng.randn(len(s), 3) for s in species], species=species)
    forces = X.with_values(np.tanh(X.values @ rng.randn(3, 3)))
    curves = np.exp(-np.square(GRID.energies - 0.5 * np.tanh(X.values[:, :1])))
    ldos = LDOS(curves, X.offsets, X.species, grid=GRID)
    return X, TargetSet(forces=forces, ldos=ldos, volume=np.arange(float(n_structures)))


def nets(**settings):
    given = {"hidden_layer_sizes": (3,), "max_iter": 4, "random_state": 0, **settings}
    return [("forces", BPNNRegressor(**given)), ("ldos", BPNNRegressor(n_components=2, **given))]


def message_of(call, kind=ValueError):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


def same_weights(a, b):
    return all(
        np.array_equal(p, q) for z in a.weights_ for p, q in zip(a.weights_[z], b.weights_[z], strict=True)
    )


class MeanOfStructures(RegressorMixin, BaseEstimator):
    """Somebody else's regressor: one number per structure."""

    def fit(self, X, y):
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X):
        return np.full(len(X), self.mean_)


# ---- The container -----------------------------------------------------------------------------------------


def test_a_mapping_that_counts_structures():
    _, y = make()
    assert (len(y), y.shape) == (12, (12,))
    assert list(y) == list(y.keys()) == ["forces", "ldos", "volume"]
    assert [name for name, _ in y.items()] == list(y)
    assert [part is y[name] for name, part in zip(y, y.values(), strict=True)] == [True] * 3
    assert ("ldos" in y, "energy" in y, 0 in y) == (True, False, False)
    assert y.get("energy") is None
    assert repr(y) == "<TargetSet: 12 structures, forces, ldos, volume>"
    with pytest.raises(KeyError):
        y["energy"]


@pytest.mark.parametrize(
    "key",
    [
        slice(1, 5),
        slice(None, None, -2),
        [3, 0],
        np.array([7]),
        np.array([], dtype=int),
        np.arange(12) % 3 == 0,
    ],
    ids=["slice", "backwards", "list", "array", "none", "mask"],
)
def test_structures_are_selected_together(key):
    _, y = make()
    for part in (y[key], y[key, ...]):
        chosen = np.arange(12)[key]
        assert len(part) == len(chosen)
        assert_array_equal(part["volume"], chosen)
        assert_array_equal(part["forces"].values, y["forces"][chosen].values)
        assert isinstance(part["ldos"], LDOS)
        assert_array_equal(part["ldos"].values, y["ldos"][chosen].values)


def test_scikit_learn_splits_between_structures():
    X, y = make()
    X_train, X_test, train, test = train_test_split(X, y, test_size=3, random_state=0)
    assert (len(train), len(test)) == (9, 3)
    assert_array_equal(test["forces"].counts, X_test.counts)
    assert_array_equal(train["ldos"].species, X_train.species)
    assert_array_equal(np.sort(np.concatenate([train["volume"], test["volume"]])), np.arange(12))
    for rows, _ in ShuffleSplit(2, random_state=0).split(X, y):
        assert_array_equal(y[rows]["volume"], rows)


def test_copies():
    _, y = make()
    for again in (pickle.loads(pickle.dumps(y)), copy.copy(y), copy.deepcopy(y)):
        assert isinstance(again, TargetSet)
        assert list(again) == list(y)
        assert_array_equal(again["ldos"].values, y["ldos"].values)
        assert again["ldos"].grid.difference(GRID) is None


def test_potential_targets_are_one_kind():
    _, y = make()
    both = TargetSet(forces=PotentialTargets(np.arange(12.0), y["forces"]), ldos=y["ldos"])
    assert_array_equal(both[[2, 5]]["forces"].energy, [2, 5])


@pytest.mark.parametrize("key", [3, np.int64(3)], ids=["int", "NumPy"])
def test_one_structure_is_no_set(key):
    _, y = make()
    assert message_of(lambda: y[key], TypeError) == (
        f"a TargetSet is indexed by a name, a slice, an array of integers or a mask; got {key!r}. Write "
        f"targets[[{key!r}]]."
    )


@pytest.mark.parametrize(
    ("part", "described"),
    [
        ([np.zeros((2, 3))] * 12, "list"),
        ({"energy": np.zeros(12)}, "dict"),
        (3.0, "float"),
        (np.float64(3.0), "float64 of shape ()"),
        (None, "None"),
    ],
    ids=["list", "dict", "number", "scalar", "None"],
)
def test_what_cannot_be_selected_by_structure(part, described):
    message = message_of(lambda: TargetSet(forces=part), TypeError)
    assert message.startswith("forces must be a PerAtomArray, LDOS, PotentialTargets or array; got ")
    assert message.endswith(". PerAtomArray.from_list stacks one (n_atoms, k) array per structure.")
    assert described.split()[0] in message


def test_different_structures():
    X, y = make()
    assert message_of(lambda: TargetSet(forces=y["forces"], ldos=y["ldos"][:5])) == (
        "targets must be of the same structures; got 12 for forces, 5 for ldos."
    )
    assert message_of(TargetSet) == "targets must be of the same structures; got none."
    assert len(X) == 12


def test_it_is_no_array():
    _, y = make()
    assert message_of(lambda: np.asarray(y), TypeError) == (
        "a TargetSet is no array: its kinds of targets have no common unit. Take one by name."
    )


# ---- The regressor -----------------------------------------------------------------------------------------


def test_every_part_is_the_regressor_alone():
    X, y = make()
    model = MultiTargetRegressor(nets()).fit(X, y)
    found = model.predict(X)
    assert isinstance(found, TargetSet)
    assert list(found) == ["forces", "ldos"]
    scores = []
    for name, net in nets():
        alone = clone(net).fit(X, y[name])
        assert same_weights(model.named_regressors_[name], alone)
        assert_array_equal(found[name].values, alone.predict(X).values)
        scores.append(alone.score(X, y[name]))
    assert isinstance(found["ldos"], LDOS)
    assert model.score(X, y) == pytest.approx(np.mean(scores), rel=1e-14)
    assert model.n_features_in_ == 3
    assert [type(part) for part in model.regressors_] == [BPNNRegressor] * 2
    plain = {name: y[name] for name in y}  # any mapping will do
    assert same_weights(
        MultiTargetRegressor(nets()).fit(X, plain).named_regressors_.ldos, model.named_regressors_.ldos
    )
    assert model.score(X, plain) == model.score(X, y)


def test_the_given_regressors_are_not_fitted():
    X, y = make()
    parts = nets()
    model = MultiTargetRegressor(parts)
    assert message_of(lambda: model.predict(X), NotFittedError).startswith("This MultiTargetRegressor")
    assert not hasattr(model, "n_features_in_")
    model.fit(X, y)
    assert model.regressors is parts
    assert not hasattr(parts[0][1], "atom_networks_")


def test_weights_and_groups_reach_all_parts():
    X, y = make()
    weight, groups = np.arange(12.0), np.arange(12) // 3
    settings = {"early_stopping": True, "validation_fraction": 0.3}
    model = MultiTargetRegressor(nets(**settings)).fit(X, y, sample_weight=weight, groups=groups)
    for name, net in nets(**settings):
        alone = clone(net).fit(X, y[name], sample_weight=weight, groups=groups)
        assert same_weights(model.named_regressors_[name], alone)
    expected = np.mean([part.score(X, y[name], weight) for name, part in model.named_regressors_.items()])
    assert model.score(X, y, sample_weight=weight) == pytest.approx(expected, rel=1e-14)


def test_regressors_of_any_kind():
    """They need not know of weights."""
    X, y = make()
    committee = CommitteeRegressor(nets()[1][1], n_estimators=2, random_state=0)
    model = MultiTargetRegressor([("volume", MeanOfStructures()), ("ldos", committee)]).fit(X, y)
    found = model.predict(X[:3])
    assert_array_equal(found["volume"], [5.5] * 3)
    assert isinstance(found["ldos"], LDOS)


def test_a_fit_that_fails_leaves_the_last_one():
    X, y = make()
    model = MultiTargetRegressor(nets()).fit(X, y)
    before = model.regressors_
    model.set_params(ldos__n_components=0)
    with pytest.raises(ValueError, match="n_components"):
        model.fit(X, y)
    assert model.regressors_ is before


# ---- Parameters and searches -------------------------------------------------------------------------------


def test_parameters_of_the_parts():
    model = MultiTargetRegressor(nets())
    assert model.get_params()["forces__max_iter"] == 4
    assert model.get_params()["ldos__n_components"] == 2
    assert model.get_params()["ldos"] is model.regressors[1][1]
    assert set(model.get_params(deep=False)) == {"regressors"}
    model.set_params(forces__max_iter=7, ldos=BPNNRegressor(output="positive"))
    assert dict(model.regressors)["forces"].max_iter == 7
    assert dict(model.regressors)["ldos"].output == "positive"
    assert [name for name, _ in model.regressors] == ["forces", "ldos"]
    again = clone(model)
    assert again.regressors[0][1] is not model.regressors[0][1]
    assert again.get_params()["forces__max_iter"] == 7
    assert "MultiTargetRegressor" in repr(model)
    with pytest.raises(ValueError, match="Invalid parameter 'epochs'"):
        model.set_params(forces__epochs=3)


def test_candidates_are_trained_with_their_own_parameters():
    X, y = make()
    grid = {"forces__max_iter": [1, 6], "ldos__n_components": [1, 2]}
    model = MultiTargetRegressor(nets())
    search = GridSearchCV(model, grid, cv=KFold(2), error_score="raise").fit(X, y)
    for number, params in enumerate(search.cv_results_["params"]):
        alone = clone(model).set_params(**params).fit(X[6:], y[6:])
        assert search.cv_results_["split0_test_score"][number] == alone.score(X[:6], y[:6])
        assert alone.named_regressors_.forces.n_iter_ == params["forces__max_iter"]
    assert isinstance(search.predict(X), TargetSet)
    assert cross_val_score(model, X, y, cv=GroupKFold(3), groups=np.arange(12) // 4).shape == (3,)


def test_a_potential_as_one_part():
    """In a pipeline, from structures: features are made once."""
    frames = [rattled(perovskite(), seed, 0.04) for seed in range(8)]
    rng = np.random.default_rng(0)
    species = [atoms.numbers for atoms in frames]
    forces = PerAtomArray.from_list([rng.normal(size=(5, 3)) for _ in frames], species)
    curves = LDOS.from_arrays([rng.uniform(size=(5, 9)) for _ in frames], GRID, species)
    targets = TargetSet(forces=PotentialTargets(rng.normal(size=8), forces), ldos=curves)
    features = CycleMomentFeaturizer(n=2, N=1, bonds=3.1, coordinates="distances")
    quick = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
    parts = [("forces", BPNNPotential(**quick)), ("ldos", BPNNRegressor(**quick))]
    model = make_pipeline(features, MultiTargetRegressor(parts)).fit(frames, targets)
    found = model.predict(frames[:2])
    assert repr(found) == "<TargetSet: 2 structures, forces, ldos>"
    assert isinstance(found["forces"], PotentialTargets)
    alone = make_pipeline(clone(features), clone(parts[0][1])).fit(frames, targets["forces"])
    expected = alone.predict(frames[:2], output="all")
    assert_allclose(found["forces"].energy, expected.energy, rtol=1e-13)
    assert_allclose(found["forces"].forces.values, expected.forces.values, atol=1e-13)
    assert_allclose(found["forces"].stress, expected.stress, atol=1e-14)
    scores = cross_val_score(model, frames, targets, cv=KFold(2), error_score="raise")
    train, test = np.arange(4, 8), np.arange(4)
    by_hand = clone(model).fit([frames[i] for i in train], targets[train])
    assert scores[0] == by_hand.score([frames[i] for i in test], targets[test])
    name = "multitargetregressor__forces__max_iter"
    search = GridSearchCV(model, {name: [1, 2]}, cv=KFold(2), error_score="raise").fit(frames, targets)
    assert search.best_estimator_[-1].named_regressors_.forces.max_iter == search.best_params_[name]


# ---- What is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fit", "score"])
def test_targets_that_are_missing(call):
    X, y = make()
    model = MultiTargetRegressor(nets()).fit(X, y)
    assert message_of(lambda: getattr(model, call)(X, y["forces"]), TypeError) == (
        "y must be a TargetSet with 'forces', 'ldos'; got PerAtomArray of shape (12, 3). Write "
        "TargetSet(forces=..., ldos=...)."
    )
    assert message_of(lambda: getattr(model, call)(X, TargetSet(force=y["forces"], volume=y["volume"]))) == (
        "y must have targets for every regressor, 'forces', 'ldos'; got 'force', 'volume'. Add 'forces', "
        "'ldos', or leave the regressor out."
    )
    assert message_of(lambda: getattr(model, call)(X, {"forces": y["forces"]})) == (
        "y must have targets for every regressor, 'forces', 'ldos'; got 'forces'. Add 'ldos', or leave the "
        "regressor out."
    )
    assert message_of(lambda: getattr(model, call)(X, {})) == (
        "y must have targets for every regressor, 'forces', 'ldos'; got none. Add 'forces', 'ldos', or leave "
        "the regressor out."
    )


@pytest.mark.parametrize(
    ("regressors", "described"),
    [
        ([], "list"),
        (None, "NoneType"),
        (BPNNRegressor(), "BPNNRegressor"),
        ([BPNNRegressor()], "list"),
        ([("forces",)], "list"),
        ([(3, BPNNRegressor())], "list"),
        ({"forces": BPNNRegressor()}, "dict"),
    ],
    ids=["none", "None", "one", "without names", "names alone", "numbers", "dict"],
)
def test_what_is_no_list_of_regressors(regressors, described):
    X, y = make()
    assert message_of(lambda: MultiTargetRegressor(regressors).fit(X, y), TypeError) == (
        "regressors must be a list of (name, estimator), such as [('forces', BPNNRegressor()), ('ldos', "
        f"BPNNRegressor())]; got {described}."
    )


def test_names_that_cannot_be():
    X, y = make()
    twice = [("ldos", BPNNRegressor()), ("ldos", BPNNRegressor())]
    assert message_of(lambda: MultiTargetRegressor(twice).fit(X, y)) == (
        "Names provided are not unique: ['ldos', 'ldos']"
    )
    nested = [("ldos__x", LinearRegression())]
    assert message_of(lambda: MultiTargetRegressor(nested).fit(X, {"ldos__x": y["ldos"]})) == (
        "Estimator names must not contain __: got ['ldos__x']"
    )


def test_predictions_are_not_joined():
    """What they are of has no common unit; `cross_val_predict` takes one part of a model at a time."""
    X, y = make()
    message = "a TargetSet is no array: its kinds of targets have no common unit. Take one by name."
    model = MultiTargetRegressor(nets(max_iter=1))
    assert message_of(lambda: cross_val_predict(model, X, y, cv=KFold(2)), TypeError) == message


def test_features_of_too_few_structures():
    """What the parts refuse, they refuse here."""
    X, y = make()
    assert message_of(lambda: MultiTargetRegressor(nets()).fit(X, y[:5])) == (
        "y must have one part per structure of X; got 5 for 12 structures."
    )


# ---- Scores of one kind of targets -------------------------------------------------------------------------


def test_scorers_of_one_kind_of_targets():
    X, y = make()
    scoring = {
        "forces": target_scorer("forces", force_rmse_scorer),
        "ldos": target_scorer("ldos", ldos_rmse_scorer),
    }
    model = MultiTargetRegressor(nets()).fit(X[:8], y[:8])
    predicted = model.predict(X[8:])
    assert scoring["ldos"](model, X[8:], y[8:]) == -ldos_rmse(y["ldos"][8:], predicted["ldos"])
    found = cross_validate(MultiTargetRegressor(nets()), X, y, cv=KFold(3), scoring=scoring)
    first = MultiTargetRegressor(nets()).fit(X[4:], y[4:])
    assert found["test_forces"][0] == scoring["forces"](first, X[:4], y[:4])
    search = GridSearchCV(
        MultiTargetRegressor(nets()),
        {"ldos__n_components": [1, 2]},
        cv=KFold(2),
        scoring=scoring,
        refit="ldos",
    ).fit(X, y)
    assert search.best_params_ == {"ldos__n_components": 2}
    again = pickle.loads(pickle.dumps(scoring["ldos"]))
    assert again(model, X[8:], y[8:]) == scoring["ldos"](model, X[8:], y[8:])


def test_one_count_of_states_is_not_for_several_species():
    X, y = make()
    net = BPNNRegressor((3,), networks="shared", output="normalized", max_iter=2)
    assert message_of(lambda: net.fit(X, y["ldos"])) == (
        "output='normalized' fixes one number of states for all atoms of a network; got networks='shared' "
        "for 2 species, which have different ones. Use networks='per-species'."
    )
