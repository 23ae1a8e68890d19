"""`DScribeFeaturizer`: SOAP and ACSF of any structures as per-atom arrays."""

import pickle
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.neighborlist import neighbor_list
from crystals import benzene, copper, methanol, perovskite, rattled, repeated, rocksalt, skewed, slab, wire
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils._param_validation import InvalidParameterError

import tinynet_sklearn.dscribe_features as module
from tinynet_sklearn import (
    LDOS,
    BPNNPotential,
    BPNNRegressor,
    CycleMomentFeaturizer,
    EnergyGrid,
    PerAtom,
    PerAtomArray,
    SmoothMomentFeaturizer,
    TinyNetCalculator,
    persistence,
)
from tinynet_sklearn.dscribe_features import DScribeFeaturizer
from tinynet_sklearn.per_atom_regressor import PerAtomRegressor

descriptors = pytest.importorskip("dscribe.descriptors", reason="needs dscribe")

SMALL = {
    "soap": {"descriptor": "soap", "r_cut": 4.0, "n_max": 3, "l_max": 2},
    "polynomial": {"descriptor": "soap", "r_cut": 4.0, "n_max": 3, "l_max": 2, "rbf": "polynomial"},
    "acsf": {
        "descriptor": "acsf",
        "r_cut": 4.0,
        "g2_params": [[1.0, 0.0], [1.0, 2.0]],
        "g3_params": [1.5],
        "g4_params": [[0.02, 1.0, 1.0]],
        "g5_params": [[0.02, 2.0, -1.0]],
    },
}


@pytest.fixture(params=SMALL)
def featurizer(request):
    return DScribeFeaturizer(**SMALL[request.param])


def message(error):
    return str(error.value)


# ---- the numbers ------------------------------------------------------------


def test_rows_are_those_of_dscribe_for_any_mixture():
    structures = [rattled(perovskite(), 0), methanol(), rocksalt(), copper()]
    features = DScribeFeaturizer(**SMALL["soap"]).fit_transform(structures)
    assert isinstance(features, PerAtomArray)
    assert features.counts.tolist() == [len(s) for s in structures]
    assert_array_equal(features.species, np.concatenate([s.numbers for s in structures]))
    species = sorted({z for s in structures for z in s.numbers.tolist()})
    for structure, rows in zip(structures, features, strict=True):
        soap = descriptors.SOAP(
            r_cut=4.0, n_max=3, l_max=2, sigma=0.5, species=species, periodic=bool(structure.pbc.all())
        )
        assert_allclose(rows, soap.create(structure), rtol=1e-12, atol=1e-13)


def test_atoms_may_stand_outside_of_the_cell(featurizer):
    """DScribe itself would lose neighbours of such atoms."""
    crystal = rattled(perovskite(), 0)
    moved = crystal.copy()
    moved.positions += (
        np.array([[1, 0, 0], [0, -2, 0], [0, 0, 3], [-1, 1, 0], [5, 5, 5]]) @ crystal.cell.array
    )
    drifted = crystal.copy()
    drifted.positions += [103.7, -0.9, 2.3]
    edge = perovskite()  # atoms on the faces, by rounding on either side
    beyond = edge.copy()
    beyond.positions -= 1e-15
    inside, *others, on, below = featurizer.fit_transform([crystal, moved, drifted, edge, beyond])
    for rows in others:
        assert_allclose(rows, inside, rtol=1e-9, atol=1e-9)
    assert_allclose(below, on, rtol=1e-9, atol=1e-9)


def test_the_cell_that_describes_a_crystal_does_not_matter(featurizer):
    crystal = rattled(perovskite(), 0)
    rows, oblique, doubled = featurizer.fit_transform(
        [crystal, skewed(crystal), repeated(crystal, (2, 1, 2))]
    )
    assert_allclose(oblique, rows, rtol=1e-9, atol=1e-11)
    assert_allclose(doubled, np.tile(rows, (4, 1)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("make", [slab, wire, lambda: rattled(slab(), 3), benzene])
def test_periodicity_in_some_directions_is_that_of_a_large_cluster(featurizer, make):
    structure = make()
    shape = [5 if periodic else 1 for periodic in structure.pbc]
    cell = structure.cell.array
    shifts = sorted(np.ndindex(*shape), key=lambda s: s != tuple(n // 2 for n in shape))
    cluster = Atoms()
    for shift in shifts:
        image = structure.copy()
        image.positions += (np.array(shift) - np.array(shape) // 2) @ cell
        cluster += image
    cluster.pbc, cluster.cell = False, None
    rows, whole = featurizer.fit_transform([structure, cluster])
    assert_allclose(rows, whole[: len(structure)], rtol=1e-9, atol=1e-11)


def test_columns_do_not_change_when_a_structure_is_turned_or_renumbered(featurizer):
    atoms = rattled(perovskite(), 0)
    turned, order = atoms.copy(), [3, 0, 4, 2, 1]
    turned.rotate(77, (1, 2, 3), rotate_cell=True)
    rows, same, renumbered = featurizer.fit_transform([atoms, turned, atoms[order]])
    assert_allclose(same, rows, rtol=1e-8, atol=1e-9)
    assert_allclose(renumbered, rows[order], rtol=1e-9, atol=1e-11)


def test_pymatgen_structures_serve_as_well(featurizer):
    from pymatgen.io.ase import AseAtomsAdaptor

    atoms = rattled(perovskite(), 0)
    ours, theirs = (
        featurizer.fit_transform([s]).values for s in (atoms, AseAtomsAdaptor.get_structure(atoms))
    )
    assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12)


def test_the_result_does_not_depend_on_n_jobs(featurizer, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    structures = [rattled(perovskite(), k) for k in range(5)]
    alone = featurizer.fit_transform(structures)
    parallel = clone(featurizer).set_params(n_jobs=2).fit(structures)
    assert_array_equal(parallel.transform(structures).values, alone.values)
    with parallel_config(backend="threading"):
        assert_array_equal(parallel.transform(structures).values, alone.values)


def test_single_precision_is_the_rounded_result(featurizer):
    structures = [methanol(), rocksalt()]
    double = featurizer.fit_transform(structures).values
    single = featurizer.set_params(dtype="float32").fit_transform(structures).values
    assert single.dtype == np.float32
    assert_array_equal(single, double.astype(np.float32))


def test_weighting_is_passed_on_and_left_alone():
    weighting = {"function": "poly", "c": 1, "m": 1, "r0": 4}
    soap = DScribeFeaturizer(**SMALL["soap"], weighting=weighting)
    weighted = soap.fit_transform([methanol()]).values
    assert weighting == {"function": "poly", "c": 1, "m": 1, "r0": 4}
    assert all(type(value) is not float for value in weighting.values())
    assert not np.allclose(weighted, DScribeFeaturizer(**SMALL["soap"]).fit_transform([methanol()]).values)


def test_symmetry_functions_are_there_by_default():
    acsf = DScribeFeaturizer("acsf").fit([molecule("H2O")])
    assert acsf.n_features_out_ == 2 * (1 + 18) + 3 * 4
    empty = acsf.set_params(g2_params=[], g4_params=np.empty((0, 3))).fit([molecule("H2O")])
    assert empty.get_feature_names_out().tolist() == ["G1[H]", "G1[O]"]


# ---- the names ------------------------------------------------------------


def columns(features, featurizer, *names):
    everything = featurizer.get_feature_names_out().tolist()
    return features.values[:, [everything.index(name) for name in names]]


def test_names_of_soap_say_which_densities_were_multiplied():
    """With l=0, a product of species is the product of what is left of each: p_AB = c_A c_B."""
    soap = DScribeFeaturizer(n_max=3, l_max=0, r_cut=4.0)
    features = soap.fit_transform([methanol()])
    for n in range(3):
        for m in range(3):
            hydrogen, oxygen, both = columns(
                features, soap, f"soap[H-H]n{n},{n},l0", f"soap[O-O]n{m},{m},l0", f"soap[H-O]n{n},{m},l0"
            ).T
            assert_allclose(both**2, hydrogen * oxygen, rtol=1e-9, atol=1e-12)


def test_degrees_of_soap_are_named_in_order():
    high, low = DScribeFeaturizer(n_max=2, l_max=2, r_cut=4.0), DScribeFeaturizer(n_max=2, l_max=0, r_cut=4.0)
    everything, round_ones = high.fit_transform([methanol()]), low.fit_transform([methanol()])
    assert_allclose(
        columns(everything, high, *low.get_feature_names_out()), round_ones.values, rtol=1e-10, atol=1e-13
    )


def test_names_of_compressed_soap_say_what_was_added():
    options = {"n_max": 2, "l_max": 1, "r_cut": 4.0}
    full = DScribeFeaturizer(**options)
    products = full.fit_transform([methanol()])

    def product(a, b, n, m, degree):
        if "HCO".index(a) > "HCO".index(b) or (a == b and n > m):
            a, b, n, m = b, a, m, n
        return columns(products, full, f"soap[{a}-{b}]n{n},{m},l{degree}").ravel()

    for mode in ("crossover", "mu1nu1", "mu2"):
        short = DScribeFeaturizer(**options, compression=mode)
        features = short.fit_transform([methanol()])
        assert len(short.get_feature_names_out()) == features.shape[1] < products.shape[1]
        name = {"crossover": "soap[C-C]n0,1,l1", "mu1nu1": "soap[C-*]n0,1,l1", "mu2": "soap[*-*]n0,1,l1"}[
            mode
        ]
        expected = {
            "crossover": product("C", "C", 0, 1, 1),
            "mu1nu1": sum(product("C", b, 0, 1, 1) for b in "HCO"),
            "mu2": sum(product(a, b, 0, 1, 1) for a in "HCO" for b in "HCO"),
        }[mode]
        assert_allclose(columns(features, short, name).ravel(), expected, rtol=1e-9, atol=1e-12)


def test_names_of_symmetry_functions_say_their_parameters():
    acsf = DScribeFeaturizer(**SMALL["acsf"])
    features = acsf.fit_transform([methanol()])
    names = acsf.get_feature_names_out().tolist()
    assert len(names) == len(set(names)) == features.shape[1]
    assert names[:4] == ["G1[H]", "G2[H](1,0)", "G2[H](1,2)", "G3[H](1.5)"]
    assert names[12:16] == [
        "G4[H-H](0.02,1,1)",
        "G5[H-H](0.02,2,-1)",
        "G4[H-C](0.02,1,1)",
        "G5[H-C](0.02,2,-1)",
    ]
    atoms = methanol()
    distances = atoms.get_all_distances()
    cutoff = np.where((distances < 4.0) & (distances > 0), 0.5 * (1 + np.cos(np.pi * distances / 4.0)), 0.0)
    for symbol in "HCO":
        ours = atoms.symbols == symbol
        for name, factor in (
            (f"G1[{symbol}]", 1.0),
            (f"G2[{symbol}](1,2)", np.exp(-((distances - 2.0) ** 2))),
        ):
            assert_allclose(
                columns(features, acsf, name).ravel(),
                (factor * cutoff)[:, ours].sum(1),
                rtol=1e-9,
                atol=1e-12,
            )
    trimer = Atoms("OHC", positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0]])  # at O, one angle: between H and C
    first = acsf.transform([trimer]).values[0]
    assert [name for name, value in zip(names, first, strict=True) if name[:2] == "G4" and value] == [
        "G4[H-C](0.02,1,1)"
    ]


def test_every_setting_has_as_many_names_as_columns(featurizer):
    features = featurizer.fit_transform([methanol(), perovskite()])
    names = featurizer.get_feature_names_out()
    assert names.dtype == object
    assert len(set(names)) == featurizer.n_features_out_ == features.shape[1]


# ---- what it refuses ------------------------------------------------------------


def test_unseen_species_are_collected_with_structure_and_atom():
    soap = DScribeFeaturizer(**SMALL["soap"]).fit([molecule("H2O")])
    with pytest.raises(ValueError, match="species") as error:
        soap.transform([molecule("H2O"), molecule("CH4"), molecule("C2H6"), molecule("HF")])
    assert message(error) == (
        "X has atoms of species that fit has not seen (it saw H, O):\n"
        "  structure 1: atom 0 is C.\n"
        "  structure 2: atom 0 is C; atom 1 is C.\n"
        "  structure 3: atom 0 is F."
    )


def test_species_may_be_given_and_bind():
    soap = DScribeFeaturizer(**SMALL["soap"], species=["O", 1, "C"]).fit([molecule("H2O")])
    assert soap.species_.tolist() == [1, 6, 8]
    soap.transform([molecule("CH3OH")])
    with pytest.raises(ValueError, match="species") as error:
        soap.fit([molecule("HF")])
    assert message(error) == (
        "X has atoms of species that species does not name (it names H, C, O):\n  structure 0: atom 0 is F."
    )


@pytest.mark.parametrize("species", [[], [0, 8]])
def test_species_that_are_none_are_refused(species):
    with pytest.raises(ValueError, match="species") as error:
        DScribeFeaturizer(species=species).fit([molecule("H2O")])
    assert message(error) == (
        f"species must hold chemical symbols or atomic numbers from 1 on, at least one; got {species}. None "
        "takes those in fit."
    )


def test_coinciding_atoms_are_refused():
    double = Atoms("H3", positions=[[0, 0, 0], [0, 0, 0.75], [0, 0, 0]])
    featurizer = DScribeFeaturizer("acsf").fit([molecule("H2")])
    with pytest.raises(ValueError, match="same place") as error:
        featurizer.transform([molecule("H2"), double])
    assert message(error) == (
        "X has structures with atoms in the same place:\n"
        "  structure 1: atoms 0 and 2 are 0 Angstrom apart; remove one of them."
    )


def test_settings_that_dscribe_refuses_are_named():
    with pytest.raises(ValueError, match="settings") as error:
        DScribeFeaturizer(r_cut=0.5).fit([molecule("H2O")])
    assert message(error) == (
        "r_cut=0.5, n_max=6, sigma=0.5, rbf='gto' and weighting=None must be settings that DScribe's SOAP "
        "accepts; it says: When using the gaussian radial basis set (gto), the radial cutoff should be "
        "bigger than 1 angstrom."
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"g2_params": [1.0, 2.0]}, "g2_params must hold finite numbers of shape (n, 2); got [1.0, 2.0]."),
        ({"g3_params": [[1.0]]}, "g3_params must hold finite numbers of shape (n,); got [[1.0]]."),
        (
            {"g4_params": [["a", 1, 1]]},
            "g4_params must hold finite numbers of shape (n, 3); got [['a', 1, 1]].",
        ),
        (
            {"g5_params": [[1, 1], [1]]},
            "g5_params must hold finite numbers of shape (n, 3); got [[1, 1], [1]].",
        ),
    ],
)
def test_parameters_of_symmetry_functions_have_shapes(given, expected):
    with pytest.raises(ValueError, match="must hold") as error:
        DScribeFeaturizer("acsf", **given).fit([molecule("H2O")])
    assert message(error) == f"{expected} Leave it empty for no such functions."


def test_parameters_are_checked_at_fit():
    with pytest.raises(InvalidParameterError) as error:
        DScribeFeaturizer("lmbtr").fit([molecule("H2O")])
    assert "The 'descriptor' parameter of DScribeFeaturizer must be a str among" in message(error)


def test_columns_that_do_not_fit_into_memory_are_refused(monkeypatch):
    soap = DScribeFeaturizer(**SMALL["soap"]).fit([molecule("H2O")])
    monkeypatch.setattr(module, "physical_memory", lambda: 1024.0)
    with pytest.raises(ValueError, match="memory") as error:
        soap.transform([molecule("H2O")])
    assert message(error) == (
        "X must make columns that fit into memory; 3 atoms with 63 columns each, for 2 species, are 0.0 GiB, "
        "and there are 0.0. Set compression, lower n_max or l_max, or pass fewer structures at a time."
    )


def test_dscribe_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "dscribe.descriptors", None)
    with pytest.raises(ImportError) as error:
        DScribeFeaturizer().fit([molecule("H2O")])
    assert message(error) == (
        "DScribeFeaturizer cannot compute descriptors without DScribe. Install it: pip install dscribe"
    )


def test_an_unfitted_featurizer_says_so():
    with pytest.raises(NotFittedError):
        DScribeFeaturizer().transform([molecule("H2O")])


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
        "check_parameters_default_constructible",
        "check_set_params",
        "check_valid_tag_types",
    ],
)
def test_data_free_checks(name):
    getattr(estimator_checks, name)("DScribeFeaturizer", DScribeFeaturizer())


def test_copies_compute_the_same(featurizer):
    structures = [methanol(), perovskite()]
    before = featurizer.get_params()
    features = featurizer.fit_transform(structures)
    assert featurizer.get_params() == before
    for other in (pickle.loads(pickle.dumps(featurizer)), clone(featurizer).fit(structures)):
        assert_array_equal(other.transform(structures).values, features.values)


def crystals_with_forces(n=12):
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


def joined_pipeline():
    union = FeatureUnion(
        [
            ("cycles", CycleMomentFeaturizer(n=2, N=1, bonds=3.1)),
            ("soap", DScribeFeaturizer(**SMALL["soap"])),
        ]
    )
    steps = [
        ("features", union),
        ("scaler", PerAtom(StandardScaler(), per_species=True)),
        ("pca", PerAtom(PCA(6), per_species=True)),
        ("ridge", PerAtomRegressor(Ridge(1e-3), per_species=True)),
    ]
    return Pipeline(steps)


def test_a_union_with_cycle_moments_runs_from_structures_to_forces():
    structures, forces = crystals_with_forces()
    pipe = joined_pipeline().fit(structures[:9], forces[:9])
    prediction = pipe.predict(structures[9:])
    assert isinstance(prediction, PerAtomArray)
    assert pipe[-1].target_is_vector_
    names = pipe[:1].get_feature_names_out()
    assert names[0].startswith("cycles__")
    assert names[-1] == "soap__soap[Ba-Ba]n2,2,l2"
    plain = clone(pipe).set_params(scaler="passthrough", pca="passthrough").fit(structures[:9], forces[:9])
    blind = clone(plain).set_params(features__cycles="drop")
    with pytest.warns(UserWarning, match="no direction can be learned"):
        blind.fit(structures[:9], forces[:9])
    assert plain.score(structures[9:], forces[9:]) > 0.5 > 0.1 > blind.score(structures[9:], forces[9:])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_site_groups_stay_in_force_beside_columns_that_do_not_turn():
    structures, forces = crystals_with_forces(3)
    ideal = perovskite() * (1, 1, 2)
    union = joined_pipeline()[0].set_params(cycles__reference=ideal)
    features = union.fit_transform(structures)
    assert features.frames.symmetry.n_features == features.shape[1]
    net = BPNNRegressor((3,), max_iter=10, random_state=0).fit(features, forces)
    assert net.n_operations_ == 48
    assert_allclose(net.predict(union.transform([ideal])).values, 0.0, atol=1e-7)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_columns_that_do_not_turn_stand_beside_vectors_that_do():
    structures, forces = crystals_with_forces()
    union = FeatureUnion(
        [
            ("smooth", SmoothMomentFeaturizer(n=2, n_pair=4, n_vector=2)),
            ("soap", DScribeFeaturizer(**SMALL["soap"])),
        ]
    )
    net = BPNNRegressor((4,), max_iter=60, random_state=0)
    model = Pipeline([("features", union), ("net", net)]).fit(structures[:9], forces[:9])
    assert model.score(structures[9:], forces[9:]) > 0.9
    turned = structures[9].copy()
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    rotation = np.linalg.solve(structures[9].cell.array, turned.cell.array)
    expected = model.predict(structures[9:10]).values @ rotation
    assert_allclose(model.predict([turned]).values, expected, atol=1e-10)


@pytest.mark.parametrize("final", ["net", "ridge"])
@pytest.mark.filterwarnings(
    "ignore:.*site groups:UserWarning", "ignore::sklearn.exceptions.ConvergenceWarning"
)
def test_the_calculator_runs_a_union_step_by_step(final):
    structures, forces = crystals_with_forces(6)
    model = joined_pipeline()[:1]
    steps = {"net": BPNNRegressor((3,), max_iter=5, random_state=0), "ridge": PerAtomRegressor(Ridge())}
    model.steps.append((final, steps[final]))
    model.fit(structures, forces)
    calculator = TinyNetCalculator(model, warn=False, on_extrapolation="ignore")
    assert (calculator.mode, calculator.compiled) == ("direct", False)
    predicted = model.predict(structures[:1]).values
    assert_allclose(
        calculator.get_forces(structures[0]), predicted - predicted.mean(axis=0), rtol=1e-9, atol=1e-12
    )


def test_potentials_want_derivatives_that_dscribe_does_not_give():
    structures, forces = crystals_with_forces(3)
    union = FeatureUnion(
        [("smooth", SmoothMomentFeaturizer(n=2)), ("soap", DScribeFeaturizer(**SMALL["soap"]))]
    )
    model = Pipeline([("features", union), ("net", BPNNPotential((3,), max_iter=2))])
    with pytest.raises(TypeError, match="X must be features that know their derivatives"):
        model.fit(structures, {"energy": [0.0, 1.0, 2.0], "forces": forces})


def test_weights_of_structures_pass_through_a_union():
    structures, forces = crystals_with_forces(6)
    pipe = joined_pipeline().set_params(scaler="passthrough", pca="passthrough")
    pipe.set_params(features__cycles__reference=structures[0], ridge__estimator__alpha=1.0)
    weighted = clone(pipe).fit(structures, forces, ridge__sample_weight=[1, 1, 1, 1, 0, 0])
    fewer = clone(pipe).fit(structures[:4], forces[:4])
    assert_allclose(
        weighted.predict(structures).values, fewer.predict(structures).values, rtol=1e-6, atol=1e-8
    )


def test_densities_of_states_are_learned_from_a_union():
    structures, _ = crystals_with_forces(6)
    energies = np.linspace(0.0, 4.0, 9)
    peaks = [np.exp(-np.square(energies - s.positions[:, :1] / 4.0)) for s in structures]
    rows = PerAtomArray.from_list(peaks, [s.numbers for s in structures])
    ldos = LDOS(rows.values, rows.offsets, rows.species, grid=EnergyGrid(energies))
    predicted = joined_pipeline().fit(structures, ldos).predict(structures[:2])
    assert isinstance(predicted, LDOS)
    assert predicted.shape == (2, 9)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_search_reaches_nested_parameters(n_jobs):
    structures, forces = crystals_with_forces()
    grid = [
        {"features__soap__n_max": [2, 3], "ridge__estimator__alpha": [1e-3, 1.0]},
        {"features__soap__descriptor": ["acsf"], "features__soap__g2_params": [[[1.0, 2.0]], [[4.0, 2.0]]]},
    ]
    search = GridSearchCV(joined_pipeline(), grid, cv=2, error_score="raise", n_jobs=n_jobs)
    search.fit(structures, forces)
    assert len(search.cv_results_["params"]) == 6
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 6


def test_data_frames_are_not_offered():
    """They have no place for structures; scikit-learn says so in its own words."""
    assert not hasattr(DScribeFeaturizer(), "set_output")
    with config_context(transform_output="pandas"):
        assert isinstance(DScribeFeaturizer(**SMALL["soap"]).fit_transform([methanol()]), PerAtomArray)


def test_a_saved_pipeline_predicts_the_same(tmp_path):
    structures, forces = crystals_with_forces()
    pipe = joined_pipeline()
    pipe.set_params(features__soap__weighting={"function": "poly", "c": 1.0, "m": 1.0, "r0": 4.0})
    pipe.set_params(features__soap__g2_params=[[1.0, 0.0]])
    pipe.fit(structures, forces)
    persistence.save_model(pipe, tmp_path / "joined.tinynet")
    again = persistence.load_model(tmp_path / "joined.tinynet")
    assert_array_equal(again.predict(structures).values, pipe.predict(structures).values)
    assert again.get_params()["features__soap__weighting"] == {
        "function": "poly",
        "c": 1.0,
        "m": 1.0,
        "r0": 4.0,
    }
