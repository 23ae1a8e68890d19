"""`PerAtom`: transformers of tables on the rows of a per-atom array."""

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_regression
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    PowerTransformer,
    StandardScaler,
    TargetEncoder,
)
from sklearn.utils import get_tags
from sklearn.utils._param_validation import InvalidParameterError

from tinynet_sklearn import PerAtom, PerAtomArray
from tinynet_sklearn.frames import ColumnSymmetry, SiteFrames

OXYGEN, TI, BA = 8, 22, 56


def per_atom_array(sizes=(3, 5, 2, 4), k=4, seed=0):
    rng = np.random.default_rng(seed)
    species = [np.where(np.arange(n) % 2, TI, OXYGEN) for n in sizes]
    # The scale depends on the species, so that pooled and separate statistics differ.
    return PerAtomArray.from_list(
        [rng.normal(size=(len(z), k)) * z[:, None] + z[:, None] for z in species], species
    )


def message(error):
    return str(error.value)


@pytest.fixture(params=[(3, 3, 3, 3), (3, 5, 2, 4)], ids=["equal sizes", "unequal sizes"])
def X(request):
    return per_atom_array(request.param)


def test_pooled_scaling_is_the_scaling_of_all_rows(X):
    scaled = PerAtom(StandardScaler()).fit_transform(X)
    assert isinstance(scaled, PerAtomArray)
    assert_array_equal(scaled.values, StandardScaler().fit_transform(X.values))
    assert_array_equal(scaled.offsets, X.offsets)
    assert_array_equal(scaled.species, X.species)


def test_scaling_per_species_standardizes_each_species(X):
    scaler = PerAtom(StandardScaler(), per_species=True).fit(X)
    scaled = scaler.transform(X)
    assert sorted(scaler.transformers_) == [OXYGEN, TI]
    for z in (OXYGEN, TI):
        rows = X.species == z
        assert_array_equal(scaled.values[rows], StandardScaler().fit_transform(X.values[rows]))


@pytest.mark.parametrize("per_species", [False, True])
def test_inverse_transform_undoes_transform(X, per_species):
    step = PerAtom(PowerTransformer(), per_species=per_species).fit(X)
    assert_allclose(step.inverse_transform(step.transform(X)).values, X.values, rtol=1e-9)


@pytest.mark.parametrize("per_species", [False, True])
def test_what_is_fitted_on_some_structures_applies_to_others_one_by_one(X, per_species):
    step = PerAtom(StandardScaler(), per_species=per_species).fit(X[:3])
    together = step.transform(X)
    for i in range(len(X)):
        assert_array_equal(step.transform(X[[i]]).values, together[i])


def test_frames_are_kept_without_their_symmetry(X):
    n = len(X.values)
    symmetry = ColumnSymmetry((np.arange(4)[None],), (np.eye(3)[None],), np.empty((0, 3), int))
    frames = SiteFrames(np.broadcast_to(np.eye(3), (n, 3, 3)), np.zeros(n, int), symmetry)
    framed = PerAtomArray(X.values, X.offsets, X.species, frames)
    for per_species in (False, True):
        scaled = PerAtom(StandardScaler(), per_species).fit_transform(framed)
        assert_array_equal(scaled.frames.rotations, frames.rotations)
        assert_array_equal(scaled.frames.sites, frames.sites)
        assert scaled.frames.symmetry is None


def test_the_input_and_the_given_transformer_stay_untouched(X):
    before, scaler = X.values.copy(), StandardScaler()
    PerAtom(scaler).fit_transform(X)
    assert_array_equal(X.values, before)
    assert not hasattr(scaler, "mean_")


@pytest.mark.parametrize("per_species", [False, True])
def test_single_precision_stays(X, per_species):
    single = X.with_values(X.values.astype(np.float32))
    assert PerAtom(StandardScaler(), per_species).fit_transform(single).dtype == np.float32


def test_parameters_of_the_inner_transformer_are_nested_and_cloned():
    step = PerAtom(StandardScaler(with_mean=False), per_species=True)
    twin = clone(step)
    assert twin.get_params()["transformer__with_mean"] is False
    assert twin.per_species
    twin.set_params(transformer__with_mean=True, per_species=False)
    assert step.transformer.with_mean is False
    assert twin.transformer.with_mean is True


def test_a_refit_with_other_parameters_leaves_no_remains(X):
    step = PerAtom(StandardScaler()).fit(X).set_params(per_species=True).fit(X)
    assert not hasattr(step, "transformer_")
    step.set_params(per_species=False).fit(X)
    assert not hasattr(step, "transformers_")
    assert step.n_features_in_ == 4


def test_transformers_that_need_targets_get_those_of_their_rows(X):
    forces = X.with_values(X.values[:, 2:3] ** 3)
    for y in (forces, list(forces)):
        step = PerAtom(SelectKBest(f_regression, k=1)).fit(X, y)
        assert_array_equal(step.transform(X).values, X.values[:, 2:3])
        per_species = PerAtom(SelectKBest(f_regression, k=1), per_species=True).fit(X, y)
        assert_array_equal(per_species.transform(X).values, X.values[:, 2:3])


def test_targets_of_structures_do_not_disturb_a_transformer_that_ignores_them(X):
    alone = PerAtom(StandardScaler()).fit_transform(X).values
    for energies in (np.arange(4.0), [0.0, 1.0, 2.0, 3.0]):
        assert_array_equal(PerAtom(StandardScaler()).fit_transform(X, energies).values, alone)


def test_targets_of_structures_are_refused_where_the_transformer_requires_targets(X):
    with pytest.raises(TypeError) as error:
        PerAtom(TargetEncoder()).fit(X, np.arange(4.0))
    assert message(error) == (
        "y must hold one (n_atoms, k) array per structure, in a list or a PerAtomArray; got ndarray of shape "
        "(4,), one number per structure. Targets here are per atom; energies of structures are learned by "
        "BPNNPotential."
    )


def test_tags_are_those_of_the_inner_transformer_where_they_apply():
    tags = get_tags(PerAtom(TargetEncoder()))
    assert tags.target_tags.required
    assert not tags.input_tags.two_d_array
    assert get_tags(PerAtom(StandardScaler())).input_tags.allow_nan
    assert get_tags(PerAtom(StandardScaler())).transformer_tags.preserves_dtype == ["float64", "float32"]


def test_feature_names_come_from_the_transformer(X):
    names = ["L2[O-Ti-O]", "N1[Ti,0].x", "N1[Ti,0].y", "N1[Ti,0].z"]
    assert PerAtom(StandardScaler()).fit(X).get_feature_names_out(names).tolist() == names
    assert PerAtom(StandardScaler(), True).fit(X).get_feature_names_out().tolist() == ["x0", "x1", "x2", "x3"]
    assert PerAtom(PCA(2), True).fit(X).get_feature_names_out(names).tolist() == ["pca0", "pca1"]


def test_columns_that_differ_by_species_get_neutral_names(X):
    values = X.values.copy()
    values[X.species == OXYGEN, 1] = 0.0
    values[X.species == TI, 2] = 0.0
    step = PerAtom(VarianceThreshold(), per_species=True).fit(X.with_values(values))
    assert step.get_feature_names_out(list("abcd")).tolist() == ["a", "variancethreshold1", "d"]


def test_methods_are_offered_where_the_transformer_has_them():
    assert not hasattr(PerAtom(OneHotEncoder), "fit_predict")
    assert not hasattr(PerAtom(VarianceThresholdWithoutNames()), "get_feature_names_out")
    assert not hasattr(PerAtom(VarianceThresholdWithoutNames()), "inverse_transform")
    assert hasattr(PerAtom(StandardScaler()), "inverse_transform")


class VarianceThresholdWithoutNames:
    """The least that counts as a transformer."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X


def test_global_data_frame_output_leaves_the_container_alone(X):
    plain = PerAtom(StandardScaler(), per_species=True).fit_transform(X)
    with sklearn.config_context(transform_output="pandas"):
        same = PerAtom(StandardScaler(), per_species=True).fit_transform(X)
    assert isinstance(same, PerAtomArray)
    assert_array_equal(same.values, plain.values)


def test_set_output_is_not_offered():
    with pytest.raises(AttributeError) as error:
        PerAtom(StandardScaler()).set_output(transform="pandas")
    assert message(error) == "This 'PerAtom' has no attribute 'set_output'"


@pytest.mark.parametrize(
    ("plain", "received"),
    [
        (np.zeros((4, 2)), "ndarray of shape (4, 2)"),
        ([np.zeros((2, 2)), np.zeros((2, 2))], "list"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_tables_and_lists_are_refused(X, plain, received, method):
    step = PerAtom(StandardScaler()).fit(X)
    with pytest.raises(TypeError) as error:
        getattr(step, method)(plain)
    assert message(error) == (
        f"X must be a PerAtomArray for PerAtom(StandardScaler()); got {received}. Put it after a "
        "featurizer, wrap each transformer between them into PerAtom(...) too, and leave transform_output "
        "at 'default'."
    )


def test_no_atoms_at_all_are_refused(X):
    with pytest.raises(ValueError, match="X must") as error:
        PerAtom(StandardScaler()).fit(X[[]])
    assert message(error) == (
        "X must hold at least one atom for PerAtom(StandardScaler()); got <PerAtomArray: 0 structures, 0 "
        "atoms, 4 columns, species none, float64, lab frame>. Check how structures were selected."
    )


def test_species_not_seen_in_fit_are_refused_by_name_and_place():
    X = per_atom_array((3, 5, 2, 4))
    species = X.species.copy()
    species[[3, 5, 8, 12]] = [BA, BA, 0, 200]
    foreign = PerAtomArray(X.values, X.offsets, species)
    step = PerAtom(StandardScaler(), per_species=True).fit(X)
    for method in (step.transform, step.inverse_transform):
        with pytest.raises(ValueError, match="X must") as error:
            method(foreign)
        assert message(error) == (
            "X must hold species that PerAtom(StandardScaler()) was fitted on, O, Ti; got Ba (structure 1, "
            "atom 0); Ba (structure 1, atom 2); unknown (0) (structure 2, atom 0); and 1 more. Fit on "
            "structures with all species, or set per_species=False."
        )
    assert len(PerAtom(StandardScaler()).fit(X).transform(foreign)) == 4


def test_widths_that_differ_by_species_are_refused(X):
    values = X.values.copy()
    values[X.species == OXYGEN, 1] = 0.0
    step = PerAtom(VarianceThreshold(), per_species=True).fit(X.with_values(values))
    with pytest.raises(ValueError, match="transformer must") as error:
        step.transform(X)
    assert message(error) == (
        "transformer must give equally many columns for every species; PerAtom(VarianceThreshold()) gave 3 "
        "for O, 4 for Ti. Fix their number, as in PCA(n_components=10), or set per_species=False."
    )


def test_sparse_output_is_refused(X):
    kinds = X.with_values(np.round(X.values[:, :1] / 10))
    with pytest.raises(TypeError) as error:
        PerAtom(OneHotEncoder()).fit_transform(kinds)
    width = len(np.unique(kinds.values))
    assert message(error) == (
        f"transformer must return a dense array; PerAtom(OneHotEncoder()) got csr_matrix of shape "
        f"({len(X.values)}, {width}). Ask for a dense one, usually with sparse_output=False."
    )
    assert PerAtom(OneHotEncoder(sparse_output=False)).fit_transform(kinds).shape == (4, width)


def test_transformers_that_drop_rows_are_refused(X):
    n = len(X.values)
    with pytest.raises(ValueError, match="values must") as error:
        PerAtom(FunctionTransformer(drop_first_row)).fit_transform(X)
    assert message(error) == (
        f"values must hold one row for each of the {n} atoms; got {n - 1} rows. Rows cannot be added or "
        "removed here; select structures by indexing."
    )


def drop_first_row(rows):
    return rows[1:]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {"transformer": 3},
            "The 'transformer' parameter of PerAtom must be an object implementing 'fit' and 'transform'. "
            "Got 3 instead.",
        ),
        (
            {"transformer": StandardScaler(), "per_species": "yes"},
            "The 'per_species' parameter of PerAtom must be an instance of 'bool' or an instance of "
            "'numpy.bool'. Got 'yes' instead.",
        ),
    ],
)
def test_parameters_are_checked_at_fit(X, parameters, expected):
    step = PerAtom(**parameters)
    with pytest.raises(InvalidParameterError) as error:
        step.fit(X)
    assert message(error) == expected


def test_an_unfitted_step_says_so(X):
    with pytest.raises(NotFittedError) as error:
        PerAtom(StandardScaler()).transform(X)
    assert message(error) == (
        "This PerAtom instance is not fitted yet. Call 'fit' with appropriate arguments before using this "
        "estimator."
    )
