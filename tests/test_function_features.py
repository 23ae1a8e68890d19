"""`FunctionFeaturizer`: functions that describe structures or sites."""

import pickle
import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from crystals import methanol, perovskite, rattled, rocksalt
from joblib import parallel_config
from numpy.testing import assert_array_equal
from pymatgen.core import Molecule, Structure
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.utils import estimator_checks
from sklearn.utils._param_validation import InvalidParameterError

import tinynet_sklearn.function_features as module
from tinynet_sklearn import PerAtomArray, SmoothMomentFeaturizer, save_model
from tinynet_sklearn.function_features import FunctionFeaturizer
from tinynet_sklearn.per_atom_regressor import PerAtomRegressor


def heights(atoms):
    """Positions along z, and their squares."""
    return np.stack([atoms.positions[:, 2], atoms.positions[:, 2] ** 2], axis=1)


def nearest(structure, index):
    """Of a pymatgen structure: distance to the nearest neighbour within 4 Angstrom, and their number."""
    distances = [neighbour.nn_distance for neighbour in structure.get_neighbors(structure[index], 4.0)]
    return [min(distances), len(distances)]


class Shell:
    """In the manner of matminer's site featurizers, whose constructors do not all suit ``clone``."""

    def __init__(self, radii):
        self.radii = tuple(radii)

    def featurize(self, structure, index):
        return [len(structure.get_neighbors(structure[index], radius)) for radius in self.radii]

    def feature_labels(self):
        return [f"within {radius}" for radius in self.radii]


def message(error):
    return str(error.value)


def test_a_function_of_a_structure_gives_its_rows():
    structures = [methanol(), rattled(perovskite(), 0)]
    features = FunctionFeaturizer(heights).fit_transform(structures)
    assert type(features) is PerAtomArray
    assert features.counts.tolist() == [6, 5]
    for structure, rows in zip(structures, features, strict=True):
        assert_array_equal(rows, heights(structure))
    assert_array_equal(features.species, np.concatenate([s.numbers for s in structures]))


def test_one_number_per_atom_is_a_column():
    features = FunctionFeaturizer(lambda atoms: atoms.numbers).fit_transform([methanol()])
    assert features.shape == (1, 1)
    assert features.values.dtype == np.float64


def test_a_function_of_sites_is_called_for_each():
    structures = [rattled(perovskite(), 0), rocksalt()]
    featurizer = FunctionFeaturizer(nearest, per="site", structures="pymatgen")
    features = featurizer.fit_transform(structures)
    assert features.shape == (2, 2)
    assert_array_equal(features[1][:, 1], [18, 18])  # 6 and 12 neighbours
    np.testing.assert_allclose(features[1][:, 0], 2.82, rtol=1e-9)
    assert featurizer.get_feature_names_out().tolist() == ["nearest0", "nearest1"]


@pytest.mark.parametrize("invariant", [False, True])
def test_invariance_is_what_the_user_says(invariant):
    featurizer = FunctionFeaturizer(heights, invariant=invariant)
    assert featurizer.fit_transform([methanol()]).invariant is invariant


def test_functions_get_what_they_ask_for():
    seen = []

    def kind(structure):
        seen.append(type(structure))
        return np.zeros(len(structure))

    FunctionFeaturizer(kind).fit([molecule("H2O")])
    FunctionFeaturizer(kind, structures="pymatgen").fit([molecule("H2O")])
    FunctionFeaturizer(kind, structures="pymatgen").fit([rocksalt()])
    assert seen == [Atoms, Molecule, Structure]


def test_functions_see_all_that_structures_carry():
    atoms = rattled(perovskite(), 0)
    atoms.set_initial_charges(np.arange(5.0))
    atoms.set_initial_magnetic_moments(np.arange(5.0) + 1)
    atoms.set_tags([3, 1, 4, 1, 5])
    atoms.info["pressure"] = 7.0
    atoms.arrays["hirshfeld"] = np.arange(5.0) + 2
    atoms.calc = SinglePointCalculator(atoms, energy=0.0)

    def carried(given):
        rows = [
            given.get_initial_charges(),
            given.get_initial_magnetic_moments(),
            given.get_tags(),
            np.full(5, given.info["pressure"]),
            given.arrays["hirshfeld"],
        ]
        given.positions += 1.0  # of a copy
        return np.stack(rows, axis=1)

    before = atoms.positions.copy()
    features = FunctionFeaturizer(carried).fit(iter([atoms])).transform(iter([atoms]))
    assert_array_equal(
        features.values.T,
        [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5], [3, 1, 4, 1, 5], [7] * 5, [2, 3, 4, 5, 6]],
    )
    assert_array_equal(atoms.positions, before)
    assert atoms.calc is not None

    crystal = Structure(np.eye(3) * 4.0, ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    crystal.add_site_property("charge", [1.0, -1.0])
    featurizer = FunctionFeaturizer(lambda given: given.site_properties["charge"], structures="pymatgen")
    assert_array_equal(featurizer.fit_transform([crystal]).values, [[1.0], [-1.0]])


def row(atoms, index):
    return heights(atoms)[index]


def fails_beyond_water(atoms):
    if 17 in atoms.numbers:
        raise KeyError("no radius of Cl")
    return heights(atoms)


def row_of_water(atoms, index):
    return fails_beyond_water(atoms)[index]


@pytest.mark.parametrize(("per", "place"), [("structure", "structure 1"), ("site", "structure 1, atom 0")])
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_errors_of_functions_have_a_place(n_jobs, per, place, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1)
    structures = [molecule("H2O"), rocksalt()]
    featurizer = FunctionFeaturizer(heights if per == "structure" else row, per=per).fit(structures)
    function = fails_beyond_water if per == "structure" else row_of_water
    featurizer.set_params(function=function, n_jobs=n_jobs)
    with pytest.raises(ValueError, match="function must") as error:
        featurizer.transform(structures)
    assert message(error) == (
        f"function must describe every structure; {function.__name__} raised KeyError for {place}: "
        "'no radius of Cl'. Leave it out, or make the function cope with it."
    )
    cause = error.value.__cause__  # from another process it comes as text
    assert type(cause) is KeyError or "KeyError: 'no radius of Cl'" in str(cause)


def test_objects_come_as_bound_methods():
    shell = Shell([3.0, 4.5])
    featurizer = FunctionFeaturizer(
        shell.featurize, per="site", structures="pymatgen", names=shell.feature_labels()
    )
    features = clone(featurizer).fit_transform([rocksalt()])
    assert_array_equal(features[0], [[6, 18], [6, 18]])
    assert featurizer.fit([rocksalt()]).get_feature_names_out().tolist() == ["within 3.0", "within 4.5"]
    again = pickle.loads(pickle.dumps(featurizer))
    assert_array_equal(again.transform([rocksalt()]).values, features.values)


def test_matminer_comes_in_by_this_door():
    site = pytest.importorskip("matminer.featurizers.site", reason="needs matminer")
    crystal = site.CoordinationNumber.from_preset("CrystalNN")
    featurizer = FunctionFeaturizer(
        crystal.featurize, per="site", structures="pymatgen", names=crystal.feature_labels()
    )
    assert_array_equal(clone(featurizer).fit_transform([rocksalt()]).values, [[6], [6]])


def test_the_result_does_not_depend_on_n_jobs(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    structures = [rattled(perovskite(), k) for k in range(5)]
    alone = FunctionFeaturizer(heights).fit_transform(structures)
    parallel = FunctionFeaturizer(heights, n_jobs=2).fit(structures)
    with parallel_config(backend="threading"):
        assert_array_equal(parallel.transform(structures).values, alone.values)


def test_it_joins_with_others_and_is_searched():
    structures = [rattled(perovskite(), k) for k in range(6)]
    charges = [structure.numbers * 1.0 for structure in structures]
    pipe = make_pipeline(
        make_union(SmoothMomentFeaturizer(n=2), FunctionFeaturizer(heights)), PerAtomRegressor(Ridge())
    )
    grid = {"featureunion__functionfeaturizer__function": [heights, Norms()]}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(structures, charges)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    names = search.best_estimator_[:1].get_feature_names_out()
    assert names[-1].startswith("functionfeaturizer__")


class Norms:
    """A callable object."""

    def __call__(self, atoms):
        return np.linalg.norm(atoms.positions, axis=1)


@pytest.mark.parametrize(
    ("function", "per", "fault"),
    [
        (lambda atoms: np.zeros((2, 3)), "structure", "shape (2, 3) for 3 atoms"),
        (lambda atoms: np.zeros((3, 1, 1)), "structure", "shape (3, 1, 1) for 3 atoms"),
        (lambda atoms: None, "structure", "shape () for 3 atoms"),
        (lambda atoms: ["a", "b", "c"], "structure", "no numbers, but list"),
        (
            lambda atoms, index: np.zeros(1 + index % 2),
            "site",
            "1 numbers for atom 0; 2 numbers for atom 1; 1 numbers for atom 2",
        ),
    ],
)
def test_what_is_no_rows_of_numbers_is_refused(function, per, fault):
    with pytest.raises(ValueError, match="function must") as error:
        FunctionFeaturizer(function, per=per).fit([molecule("H2O")])
    asked = "of shape (n_atoms, n_columns)" if per == "structure" else "for each site, equally many"
    assert message(error) == (
        f"function must return finite numbers {asked}; lambda gave otherwise:\n  structure 0: {fault}."
    )


def test_structures_with_wrong_rows_are_collected():
    def strange(atoms):
        rows = np.zeros((len(atoms), 1 + (len(atoms) == 6)))
        rows[atoms.numbers == 17] = np.nan
        return rows

    featurizer = FunctionFeaturizer(strange).fit([molecule("H2O")])
    with pytest.raises(ValueError, match="function must") as error:
        featurizer.transform([molecule("H2O"), methanol(), rocksalt()])
    assert message(error) == (
        "function must return finite numbers of shape (n_atoms, n_columns); strange gave otherwise:\n"
        "  structure 1: 2 columns, 1 in fit.\n"
        "  structure 2: nan in column 0 of atom 1."
    )


def test_names_are_as_many_as_columns():
    with pytest.raises(ValueError, match="names") as error:
        FunctionFeaturizer(heights, names=["z"]).fit([methanol()])
    assert message(error) == (
        "names must hold one name for each of the 2 columns that function returns; got 1."
    )


def test_parameters_are_checked_at_fit():
    expected = "The 'function' parameter of FunctionFeaturizer must be a callable. Got 'soap' instead."
    with pytest.raises(InvalidParameterError, match=re.escape(expected)):
        FunctionFeaturizer("soap").fit([methanol()])


def test_a_function_cannot_be_saved_without_pickle(tmp_path):
    featurizer = FunctionFeaturizer(heights).fit([methanol()])
    with pytest.raises(TypeError) as error:
        save_model(featurizer, tmp_path / "function.tinynet")
    assert message(error) == (
        "estimator must have parameters that can be read back without running code; got function=function "
        f"with {heights.__module__}.heights. Use None, numbers or text for these parameters."
    )


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
    getattr(estimator_checks, name)("FunctionFeaturizer", FunctionFeaturizer(heights))
