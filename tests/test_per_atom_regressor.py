"""`PerAtomRegressor`: regressors of tables on the rows of a per-atom array."""

import pickle

import numpy as np
import pytest
from ase.build import molecule
from ase.neighborlist import neighbor_list
from crystals import perovskite, rattled
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_validate
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils._param_validation import InvalidParameterError

from tinynet_sklearn import (
    LDOS,
    BPNNRegressor,
    CommitteeRegressor,
    CycleMomentFeaturizer,
    EnergyGrid,
    PerAtom,
    PerAtomArray,
    SmoothMomentFeaturizer,
    persistence,
)
from tinynet_sklearn.ldos_metrics import ldos_r2
from tinynet_sklearn.per_atom_regressor import PerAtomRegressor

OXYGEN, TI, BA = 8, 22, 56


def per_atom_array(sizes=(3, 5, 2, 4, 3, 2), k=4, seed=0):
    rng = np.random.default_rng(seed)
    species = [np.where(np.arange(n) % 2, TI, OXYGEN) for n in sizes]
    return PerAtomArray.from_list([rng.normal(size=(len(z), k)) for z in species], species)


def linear_targets(X, n_outputs=2, seed=1):
    """Another linear law for each species, and noise."""
    rng = np.random.default_rng(seed)
    laws = {z: rng.normal(size=(X.shape[1], n_outputs)) for z in (OXYGEN, TI)}
    rows = np.array([x @ laws[int(z)] + int(z) for x, z in zip(X.values, X.species, strict=True)])
    return X.with_values(rows + 0.01 * rng.normal(size=rows.shape))


def message(error):
    return str(error.value)


@pytest.fixture(params=[(3,) * 6, (3, 5, 2, 4, 3, 2)], ids=["equal sizes", "unequal sizes"])
def X(request):
    return per_atom_array(request.param)


@pytest.fixture
def y(X):
    return linear_targets(X)


# ---- what is fitted ------------------------------------------------------------


def test_pooled_rows_are_those_of_all_atoms(X, y):
    model = PerAtomRegressor(Ridge()).fit(X, y)
    predicted = model.predict(X)
    assert type(predicted) is PerAtomArray
    assert_array_equal(predicted.values, Ridge().fit(X.values, y.values).predict(X.values))
    assert_array_equal(predicted.offsets, X.offsets)
    assert_array_equal(predicted.species, X.species)
    assert (model.n_features_in_, model.n_outputs_, model.target_is_vector_) == (4, 2, False)


def test_one_regressor_per_species_learns_one_law_per_species(X, y):
    pooled, split = (PerAtomRegressor(LinearRegression(), flag).fit(X, y) for flag in (False, True))
    assert sorted(split.estimators_) == [OXYGEN, TI]
    for z in (OXYGEN, TI):
        rows = X.species == z
        expected = LinearRegression().fit(X.values[rows], y.values[rows]).predict(X.values[rows])
        assert_allclose(split.predict(X).values[rows], expected, rtol=1e-12)
    assert split.score(X, y) > 0.999 > pooled.score(X, y)


def test_structures_are_predicted_one_by_one_as_together(X, y):
    model = PerAtomRegressor(Ridge(), per_species=True).fit(X[:4], y[:4])
    together = model.predict(X)
    for i in range(len(X)):
        assert_allclose(model.predict(X[[i]]).values, together[i], rtol=1e-12)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(),
        KernelRidge(kernel="rbf"),
        RandomForestRegressor(n_estimators=3, random_state=0),
        MLPRegressor(hidden_layer_sizes=(4,), max_iter=5, random_state=0),
        KNeighborsRegressor(2),
        GaussianProcessRegressor(alpha=1e-3),
        MultiOutputRegressor(SVR()),
        make_pipeline(StandardScaler(), Ridge()),
        GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2),
        BPNNRegressor((3,), max_iter=3, random_state=0, early_stopping=True),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("per_species", [False, True])
def test_any_regressor_of_tables_serves(X, y, estimator, per_species):
    model = PerAtomRegressor(estimator, per_species).fit(X, y)
    assert model.predict(X).shape == (6, 2)
    if not per_species:
        # not to the bit: the order of sums in BLAS follows the alignment of arrays
        expected = clone(estimator).fit(X.values, y.values).predict(X.values)
        assert_allclose(model.predict(X).values, expected, rtol=1e-12)


@pytest.mark.parametrize("estimator", [Ridge(), SVR(), HistGradientBoostingRegressor(min_samples_leaf=2)])
def test_one_number_per_atom_is_a_column(X, estimator):
    charges = X.with_values(X.values[:, :1] ** 2)
    model = PerAtomRegressor(estimator).fit(X, charges)
    expected = clone(estimator).fit(X.values, charges.values.ravel()).predict(X.values)
    assert_array_equal(model.predict(X).values, expected[:, None])
    listed = PerAtomRegressor(estimator).fit(X, [part.ravel() for part in charges])
    assert_array_equal(listed.predict(X).values, expected[:, None])


def test_the_input_and_the_given_estimator_stay_untouched(X, y):
    before, ridge = (X.values.copy(), y.values.copy()), Ridge()
    PerAtomRegressor(ridge, per_species=True).fit(X, y)
    assert_array_equal(X.values, before[0])
    assert_array_equal(y.values, before[1])
    assert not hasattr(ridge, "coef_")


def test_a_refit_with_other_parameters_leaves_no_remains(X, y):
    model = PerAtomRegressor(Ridge()).fit(X, y).set_params(per_species=True).fit(X, y)
    assert not hasattr(model, "estimator_")
    model.set_params(per_species=False).fit(X, y)
    assert not hasattr(model, "estimators_")


def test_a_fit_that_fails_leaves_the_last_one_as_it_was(X, y):
    model = PerAtomRegressor(Ridge()).fit(X, y)
    before = model.predict(X).values
    with pytest.raises(ValueError, match="y must"):
        model.fit(X, y[:3])
    assert_array_equal(model.predict(X).values, before)


# ---- weights ------------------------------------------------------------


@pytest.mark.parametrize("per_species", [False, True])
def test_a_weight_of_two_is_a_structure_given_twice(X, y, per_species):
    weighted = PerAtomRegressor(Ridge(), per_species).fit(X, y, sample_weight=[1, 2, 1, 0, 1, 1])
    order = [0, 1, 1, 2, 4, 5]
    repeated = PerAtomRegressor(Ridge(), per_species).fit(X[order], y[order])
    assert_allclose(weighted.predict(X).values, repeated.predict(X).values, rtol=1e-10)
    assert weighted.score(X, y, [1, 2, 1, 0, 1, 1]) == pytest.approx(weighted.score(X[order], y[order]))


class Counting(Ridge):
    def fit(self, X, y, sample_weight=None):
        self.n_rows_ = len(X)
        return super().fit(X, y, sample_weight)


def test_structures_of_weight_zero_are_left_out(X, y):
    """Forests draw them, and leaves count them."""
    model = PerAtomRegressor(Counting()).fit(X, y, sample_weight=[1, 2, 1, 0, 1, 1])
    assert model.estimator_.n_rows_ == len(X.values) - len(X[3])


def test_weights_are_refused_where_the_regressor_takes_none(X, y):
    with pytest.raises(TypeError) as error:
        PerAtomRegressor(KNeighborsRegressor(2)).fit(X, y, sample_weight=np.ones(6))
    assert message(error) == (
        "sample_weight must be None for PerAtomRegressor(KNeighborsRegressor()), whose fit takes no weights. "
        "Leave structures out instead, or choose a regressor that takes them; of a pipeline inside, put the "
        "steps before the regressor outside, in PerAtom(...)."
    )


def test_weights_are_those_of_structures(X, y):
    with pytest.raises(ValueError, match="sample_weight") as error:
        PerAtomRegressor(Ridge()).fit(X, y, sample_weight=np.ones(len(X.values)))
    assert message(error) == (
        f"sample_weight must hold one weight for each of the 6 structures; got shape ({len(X.values)},)."
    )


# ---- vectors ------------------------------------------------------------


def crystals_with_forces(n=8):
    """Crystals whose bonds are springs: forces are linear in the positions of the neighbours."""
    ideal = perovskite() * (1, 1, 2)
    first, last = neighbor_list("ij", ideal, 3.1)
    bonded = ideal.numbers[first] != ideal.numbers[last]
    structures = [rattled(ideal, k) for k in range(n)]
    forces = [np.zeros((len(ideal), 3)) for _ in structures]
    for structure, force in zip(structures, forces, strict=True):
        moved = structure.positions - ideal.positions
        np.add.at(force, first[bonded], (moved[last] - moved[first])[bonded])
    return structures, PerAtomArray.from_list(forces, [s.numbers for s in structures])


def test_vectors_are_learned_in_the_frames_of_sites_and_turned_back():
    structures, forces = crystals_with_forces()
    features = CycleMomentFeaturizer(n=0, N=1, bonds=3.1).fit_transform(structures)
    model = PerAtomRegressor(Ridge(alpha=1e-8), per_species=True).fit(features, forces)
    assert model.target_is_vector_
    assert features.frames is not None
    assert np.abs(features.frames.rotations - np.eye(3)).max() > 0.5  # the three O stand differently
    in_frames = features.frames.to_frame(forces.values)
    oxygen = features.species == OXYGEN
    expected = Ridge(alpha=1e-8).fit(features.values[oxygen], in_frames[oxygen])
    assert_allclose(
        model.predict(features).values[oxygen],
        features.frames.take(np.flatnonzero(oxygen)).to_lab(expected.predict(features.values[oxygen])),
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip
    assert model.score(features, forces) > 0.9
    plain = PerAtomRegressor(Ridge(alpha=1e-8), per_species=True, target="scalar").fit(features, forces)
    assert not plain.target_is_vector_
    assert plain.score(features, forces) < model.score(features, forces)
    frames = features.frames.without_symmetry()
    given = PerAtomArray(in_frames, forces.offsets, forces.species, frames)
    assert_allclose(
        PerAtomRegressor(Ridge(alpha=1e-8), per_species=True).fit(features, given).predict(features).values,
        model.predict(features).values,
        rtol=1e-9, atol=1e-9,
    )  # fmt: skip


def test_frames_that_are_missing_in_predict_are_asked_for():
    structures, forces = crystals_with_forces()
    features = CycleMomentFeaturizer(n=0, N=1, bonds=3.1).fit_transform(structures)
    model = PerAtomRegressor(Ridge()).fit(features, forces)
    with pytest.raises(ValueError, match="frames") as error:
        model.predict(PerAtomArray(features.values, features.offsets, features.species))
    assert message(error) == (
        "X must carry site frames, as it did in fit, to turn predicted vectors back to the laboratory; got "
        "features without frames. Make them with the featurizer that made those for fit."
    )


def test_three_columns_without_frames_are_three_columns(X):
    y = linear_targets(X, n_outputs=3)
    model = PerAtomRegressor(Ridge()).fit(X, y)
    assert not model.target_is_vector_
    assert_array_equal(model.predict(X).values, Ridge().fit(X.values, y.values).predict(X.values))


@pytest.mark.parametrize("target", ["auto", "vector"])
def test_columns_that_cannot_point_are_warned_of(target):
    features = SmoothMomentFeaturizer(n=2, n_pair=2, cutoff=3.0).fit_transform([molecule("H2O")] * 2)
    forces = features.with_values(np.ones((6, 3)))
    with pytest.warns(UserWarning, match="no direction can be learned") as caught:
        PerAtomRegressor(Ridge(), target=target).fit(features, forces)
    assert [str(w.message) for w in caught] == [
        "y has 3 columns, as forces have, but the columns of X do not change when a structure is turned, and "
        "it carries no site frames: no direction can be learned from them. Use "
        "CycleMomentFeaturizer(frame='site'), or BPNNRegressor, which combines vectors; if the three columns "
        "are no vector, target='scalar' silences this."
    ]
    assert caught[0].filename == __file__
    PerAtomRegressor(Ridge(), target="scalar").fit(features, forces)


@pytest.mark.parametrize(("n_outputs", "is_ldos", "got"), [(2, False, "2"), (3, True, "an LDOS")])
def test_vectors_have_three_columns(X, n_outputs, is_ldos, got):
    y = linear_targets(X, n_outputs)
    if is_ldos:
        y = LDOS(y.values, y.offsets, y.species, grid=EnergyGrid(np.arange(3.0)))
    with pytest.raises(ValueError, match="vector") as error:
        PerAtomRegressor(Ridge(), target="vector").fit(X, y)
    assert message(error) == (
        f"target='vector' needs targets with 3 columns, x, y and z; got {got}. Use target='scalar'."
    )


# ---- curves ------------------------------------------------------------


@pytest.mark.parametrize("n_energies", [3, 7])
def test_densities_of_states_come_back_on_their_energies(X, n_energies):
    rows = linear_targets(X, n_energies)
    y = LDOS(
        rows.values, rows.offsets, rows.species, grid=EnergyGrid(np.arange(float(n_energies)), width=1.0)
    )
    model = PerAtomRegressor(Ridge(), per_species=True).fit(X, y)
    predicted = model.predict(X)
    assert isinstance(predicted, LDOS)
    assert predicted.grid.difference(y.grid) is None
    assert model.score(X, y) == pytest.approx(ldos_r2(y, predicted))


# ---- what it refuses ------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "received"),
    [
        (np.zeros((4, 2)), "ndarray of shape (4, 2)"),
        ([np.zeros((2, 2)), np.zeros((2, 2))], "list"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "predict"])
def test_tables_and_lists_are_refused(X, y, plain, received, method):
    model = PerAtomRegressor(Ridge()).fit(X, y)
    with pytest.raises(TypeError) as error:
        model.fit(plain, y) if method == "fit" else model.predict(plain)
    assert message(error) == (
        f"X must be a PerAtomArray for PerAtomRegressor(Ridge()); got {received}. Put it behind a "
        "featurizer, wrap each transformer between them into PerAtom(...), and leave transform_output at "
        "'default'; a plain table needs no PerAtomRegressor."
    )


def test_structures_are_refused_as_features(y):
    with pytest.raises(TypeError) as error:
        PerAtomRegressor(Ridge()).fit([molecule("H2O")], y)
    assert message(error) == (
        "X must be features, a PerAtomArray or a 2-D array; got structures (list). Put a "
        "CycleMomentFeaturizer before the regressor in a Pipeline."
    )


def test_no_atoms_at_all_are_refused(X, y):
    with pytest.raises(ValueError, match="X must") as error:
        PerAtomRegressor(Ridge()).fit(X[[]], y[[]])
    assert message(error) == (
        "X must hold at least one atom for PerAtomRegressor(Ridge()); got <PerAtomArray: 0 structures, 0 "
        "atoms, 4 columns, species none, float64, lab frame>. Check how structures were selected."
    )


def test_other_columns_than_in_fit_are_refused(X, y):
    model = PerAtomRegressor(Ridge()).fit(X, y)
    with pytest.raises(ValueError, match="features") as error:
        model.predict(X.with_values(X.values[:, :3]))
    assert message(error) == ("X has 3 features, but PerAtomRegressor is expecting 4 features as input.")


def test_numbers_must_be_finite_unless_the_regressor_takes_others(y):
    X = per_atom_array(tuple(y.counts))
    values = X.values.copy()
    values[4, 2] = np.nan
    holed = X.with_values(values)
    structure = X.structure_of_row[4]
    atom, symbol = 4 - X.offsets[structure], "Ti" if X.species[4] == TI else "O"
    with pytest.raises(ValueError, match="finite") as error:
        PerAtomRegressor(Ridge()).fit(holed, y)
    assert message(error) == (
        f"X must be finite; got nan in column 2 of atom {atom} ({symbol}) of structure {structure}. Leave "
        "these structures out or repair them."
    )
    trees = PerAtomRegressor(HistGradientBoostingRegressor(min_samples_leaf=2))
    assert get_tags(trees).input_tags.allow_nan
    trees.fit(holed, y.with_values(y.values[:, :1])).predict(holed)


def test_species_not_seen_in_fit_are_refused_by_name_and_place():
    X = per_atom_array((3, 5, 2, 4))
    species = X.species.copy()
    species[[3, 5, 8, 12]] = [BA, BA, 0, 200]
    foreign = PerAtomArray(X.values, X.offsets, species)
    model = PerAtomRegressor(Ridge(), per_species=True).fit(X, linear_targets(X))
    with pytest.raises(ValueError, match="X must") as error:
        model.predict(foreign)
    assert message(error) == (
        "X must hold species that PerAtomRegressor(Ridge()) was fitted on, O, Ti; got Ba (structure 1, atom "
        "0); Ba (structure 1, atom 2); unknown (0) (structure 2, atom 0); and 1 more. Fit on structures with "
        "all species, or set per_species=False."
    )
    assert len(PerAtomRegressor(Ridge()).fit(X, linear_targets(X)).predict(foreign)) == 4


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {"estimator": 3},
            "The 'estimator' parameter of PerAtomRegressor must be an object implementing 'fit' and "
            "'predict'. Got 3 instead.",
        ),
        (
            {"estimator": Ridge(), "target": "force"},
            "The 'target' parameter of PerAtomRegressor must be a str among {'auto', 'scalar', 'vector'}. "
            "Got 'force' instead.",
        ),
    ],
)
def test_parameters_are_checked_at_fit(X, y, parameters, expected):
    with pytest.raises(InvalidParameterError) as error:
        PerAtomRegressor(**parameters).fit(X, y)
    # a set is printed in any order
    assert sorted(message(error)) == sorted(expected)


def test_an_unfitted_regressor_says_so(X):
    with pytest.raises(NotFittedError):
        PerAtomRegressor(Ridge()).predict(X)


# ---- at home in scikit-learn ------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_get_params_invariance",
        "check_mixin_order",
        "check_no_attributes_set_in_init",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_data_free_checks(name):
    getattr(estimator_checks, name)("PerAtomRegressor", PerAtomRegressor(Ridge()))


def test_tags_are_those_of_the_inner_regressor_where_they_apply():
    tags = get_tags(PerAtomRegressor(SVR()))
    assert tags.estimator_type == "regressor"
    assert tags.target_tags.required
    assert not tags.target_tags.multi_output
    assert not tags.input_tags.two_d_array
    assert get_tags(PerAtomRegressor(Ridge())).target_tags.multi_output


def pipeline(estimator):
    steps = [
        ("embed", CycleMomentFeaturizer(n=2, N=1, bonds=3.1)),
        ("scaler", PerAtom(StandardScaler())),
        ("net", PerAtomRegressor(estimator, per_species=True)),
    ]
    return Pipeline(steps)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_searches_and_cross_validation_split_structures(n_jobs):
    structures, forces = crystals_with_forces()
    grid = {"embed__n": [0, 2], "net__estimator__alpha": [1e-2, 1e3], "net__per_species": [False, True]}
    cv = KFold(2)
    search = GridSearchCV(pipeline(Ridge(alpha=0.1)), grid, cv=cv, n_jobs=n_jobs, error_score="raise")
    search.fit(structures, forces)
    assert search.best_params_["net__estimator__alpha"] == 1e-2
    prediction = cross_val_predict(search.best_estimator_, structures, forces, cv=cv, n_jobs=n_jobs)
    assert_array_equal(prediction.offsets, forces.offsets)
    scores = cross_validate(search.best_estimator_, structures, forces, cv=cv, scoring="r2")["test_score"]
    for score, (_, test) in zip(scores, cv.split(structures), strict=True):
        assert score == pytest.approx(r2_score(forces[test].values, prediction[test].values))


def test_a_committee_takes_it():
    X = per_atom_array()
    y = linear_targets(X)
    trees = PerAtomRegressor(RandomForestRegressor(n_estimators=2))
    committee = CommitteeRegressor(trees, n_estimators=2, random_state=0).fit(X, y)
    mean, std = committee.predict(X, return_std=True)
    assert mean.shape == std.shape == (6, 2)


def test_copies_predict_the_same(X, y):
    model = PerAtomRegressor(Ridge(), per_species=True).fit(X, y)
    for other in (pickle.loads(pickle.dumps(model)), clone(model).fit(X, y)):
        assert_array_equal(other.predict(X).values, model.predict(X).values)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(),
        KernelRidge(kernel="rbf"),
        MLPRegressor(hidden_layer_sizes=(4,), max_iter=3, random_state=0),
        make_pipeline(StandardScaler(), Ridge()),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_saved_pipeline_predicts_the_same(tmp_path, estimator):
    structures, forces = crystals_with_forces(4)
    pipe = pipeline(estimator).fit(structures, forces)
    persistence.save_model(pipe, tmp_path / "ridge.tinynet")
    again = persistence.load_model(tmp_path / "ridge.tinynet")
    assert_array_equal(again.predict(structures).values, pipe.predict(structures).values)


def test_a_saved_model_of_densities_of_states_keeps_its_energies(tmp_path, X):
    rows = linear_targets(X, 5)
    y = LDOS(rows.values, rows.offsets, rows.species, grid=EnergyGrid(np.arange(5.0), width=1.0))
    model = PerAtomRegressor(Ridge(), per_species=True).fit(X, y)
    persistence.save_model(model, tmp_path / "ridge.tinynet")
    again = persistence.load_model(tmp_path / "ridge.tinynet").predict(X)
    assert isinstance(again, LDOS)
    assert_array_equal(again.values, model.predict(X).values)
