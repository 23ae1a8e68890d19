"""`DScribeFeaturizer`: SOAP, ACSF and LMBTR of any structures as per-atom arrays."""

import pickle
import sys
import warnings
from itertools import permutations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.data import atomic_numbers
from ase.neighborlist import neighbor_list
from crystals import (
    benzene,
    copper,
    methanol,
    perovskite,
    polonium,
    rattled,
    repeated,
    rocksalt,
    skewed,
    slab,
    wire,
)
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erf
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
    dscribe_descriptors,
    persistence,
)
from tinynet_sklearn.dscribe_features import DScribeFeaturizer
from tinynet_sklearn.per_atom_regressor import PerAtomRegressor

descriptors = pytest.importorskip("dscribe.descriptors", reason="needs dscribe")
System = pytest.importorskip("dscribe.core", reason="needs dscribe").System

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
    "pairs": {"descriptor": "lmbtr", "r_cut": 4.0, "grid": (0.1, 1.0, 5, 0.1)},
    "angles": {"descriptor": "lmbtr", "r_cut": 4.0, "geometry": "angle", "grid": (0, 180, 4, 20.0)},
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


# ---- LMBTR ------------------------------------------------------------


def triclinic():
    """Crystal without symmetry whose atoms are inside of its cell, where DScribe alone wants them."""
    scaled = [[0.02, 0, 0.01], [0.5, 0.49, 0.52], [0.5, 0.5, 0.03], [0.51, 0, 0.5], [0, 0.5, 0.48]]
    cell = [[4.0, 0, 0], [0.3, 4.1, 0], [0, -0.2, 4.2]]
    return Atoms("BaTiO3", scaled_positions=scaled, cell=cell, pbc=True)


#: Settings, a stretch of columns, and its numbers at Ti, from DScribe 2.1.2 with ASE 3.26 (newer ones need
#: mending): LMBTR(species=["Ba", "Ti", "O"], geometry={"function": geometry}, normalization=normalization,
#: grid=grid, periodic=True, weighting={"function": "exp", "scale": scale, "threshold": 1e-3}), where scale is
#: ln(1000)/5 for pairs and ln(1000)/10 for angles; create(triclinic())[1, get_location(species)].
INVERSE, DISTANCE, ANGLE, COSINE = (0.1, 0.6, 4, 0.1), (1, 6, 4, 0.5), (0, 180, 4, 20), (-1, 1, 4, 0.2)
REFERENCE = [
    ("inverse_distance", INVERSE, "none", "X-O", [0.090027702, 0.319092814, 1.136265922, 0.760363859]),
    ("inverse_distance", INVERSE, "l2", "X-Ti", [0.022696859, 0.050926578, 0.012421536, 0.000284053]),
    ("distance", DISTANCE, "none", "X-O", [0.0698987, 0.14096188, 0.022564091, 0.003164613]),
    ("angle", ANGLE, "none", "O-X-O", [0.000305938, 0.001035687, 0.000794897, 0.00014781]),
    ("angle", ANGLE, "l2", "X-O-Ti", [0.0, 1.649e-06, 0.011349532, 0.079972887]),
    ("cosine", COSINE, "none", "X-O-Ti", [0.028051554, 0.001602532, 1.1e-08, 0.0]),
    ("cosine", COSINE, "l2", "O-X-O", [0.043630679, 0.215405455, 0.24540089, 0.128309277]),
]


@pytest.mark.parametrize(("geometry", "grid", "normalization", "species", "expected"), REFERENCE)
def test_lmbtr_is_that_of_dscribe_where_it_works_unmended(geometry, grid, normalization, species, expected):
    lmbtr = DScribeFeaturizer("lmbtr", geometry=geometry, grid=grid, normalization=normalization)
    rows = lmbtr.fit_transform([triclinic()])
    points = [f"lmbtr[{species}]{point:.10g}" for point in np.linspace(*grid[:3])]
    assert_allclose(columns(rows, lmbtr, *points)[1], expected, rtol=1e-7, atol=6e-10)


@pytest.mark.parametrize("geometry", ["inverse_distance", "distance", "angle", "cosine"])
def test_lmbtr_is_a_sum_of_gaussians_over_pairs_or_threes(geometry):
    """Counted one by one, in a cluster large enough for its middle to see nothing of the end."""
    r_cut, threshold, grid = 3.5, 0.01, DEFAULT_GRIDS[geometry]
    crystal = triclinic()
    lmbtr = DScribeFeaturizer("lmbtr", r_cut=r_cut, geometry=geometry, threshold=threshold)
    features = lmbtr.fit_transform([crystal])
    cluster = crystal * (5, 5, 5)
    cluster.pbc = False
    here = 62 * len(crystal) + 1  # Ti of the cell in the middle
    away = cluster.positions - cluster.positions[here]
    near = [j for j in np.flatnonzero(np.linalg.norm(away, axis=1) < r_cut) if j != here]
    first, last, n_points, sigma = grid
    points, half = np.linspace(first, last, n_points), (last - first) / (n_points - 1) / 2

    def bump(value, weight):
        edges = erf((points[:, None] + [-half, half] - value) / (sigma * 2**0.5))
        return weight * np.diff(edges)[:, 0] / (4 * half)

    expected = {}
    symbol = cluster.get_chemical_symbols()
    if geometry in ("distance", "inverse_distance"):
        for j in near:
            d = np.linalg.norm(away[j])
            value = d if geometry == "distance" else 1 / d
            group = f"X-{symbol[j]}"
            expected[group] = expected.get(group, 0) + bump(value, threshold ** (d / r_cut))
    else:
        for j, k in permutations(near, 2):
            legs = np.linalg.norm([away[j], away[k], away[k] - away[j]], axis=1)
            if (perimeter := legs.sum()) > 2 * r_cut:
                continue
            weight = threshold ** (perimeter / (2 * r_cut))
            at_j = cosine_between(-away[j], away[k] - away[j])
            at_here = cosine_between(away[j], away[k])
            for group, cosine in (
                (f"X-{symbol[j]}-{symbol[k]}", at_j),
                (f"{symbol[j]}-X-{symbol[k]}", at_here if j < k else None),
            ):
                if cosine is None:
                    continue
                a, b, c = group.split("-")
                if b == "X" and atomic_numbers[a] > atomic_numbers[c]:
                    group = f"{c}-X-{a}"
                value = cosine if geometry == "cosine" else np.degrees(np.arccos(cosine))
                expected[group] = expected.get(group, 0) + bump(value, weight)
    seen = set()
    for group, spectrum in expected.items():
        names = [f"lmbtr[{group}]{point:.10g}" for point in points]
        seen |= set(names)
        assert_allclose(columns(features, lmbtr, *names)[1], spectrum, rtol=1e-6, atol=1e-9)
    others = [name for name in lmbtr.get_feature_names_out() if name not in seen]
    assert not columns(features, lmbtr, *others)[1].any()


def cosine_between(a, b):
    return float(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1, 1))


#: As the documentation states them, for r_cut 3.5.
DEFAULT_GRIDS = {
    "inverse_distance": (0, 1.5, 51, 0.03),
    "distance": (0, 3.5, 51, 0.1),
    "angle": (0, 180, 37, 5),
    "cosine": (-1, 1, 41, 0.05),
}


@pytest.mark.parametrize("geometry", ["inverse_distance", "angle"])
def test_rounding_does_not_decide_on_shells_at_the_cutoff(geometry):
    crystal = polonium()
    turned = crystal * (1, 2, 1)
    turned.rotate(77, (1, 2, 3), rotate_cell=True)
    rows = {}
    for r_cut in (3.35, 3.36, 6.7, 6.71):  # first, and fourth shell
        lmbtr = DScribeFeaturizer("lmbtr", r_cut, geometry=geometry)
        rows[r_cut], here, there = lmbtr.fit_transform([crystal, turned]).values
        for turned_row in (here, there):  # an angle of 180 degrees is rounded by 1e-6
            assert_allclose(turned_row, rows[r_cut], rtol=1e-6, atol=1e-10)
    assert_allclose(rows[6.7], rows[6.71], rtol=0.02, atol=1e-5)
    assert rows[3.35].any() == (geometry == "inverse_distance")


def test_rows_of_length_one_and_of_lone_atoms():
    lmbtr = DScribeFeaturizer("lmbtr", normalization="l2")
    rows = lmbtr.fit_transform([molecule("H2O"), Atoms("O")]).values
    assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 1, 0], rtol=1e-12)
    plain = lmbtr.set_params(normalization="none").fit_transform([molecule("H2O")]).values
    assert_allclose(rows[:3], plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-12)


def test_a_lower_threshold_takes_weight_from_the_far_ones():
    far = Atoms("OH", positions=[[0, 0, 0], [0, 0, 4.0]])
    grid = (3.0, 5.0, 201, 0.05)
    areas = [
        DScribeFeaturizer("lmbtr", geometry="distance", grid=grid, threshold=threshold)
        .fit_transform([far])
        .values[0]
        .sum()
        * 0.01
        for threshold in (1e-1, 1e-3)
    ]
    assert_allclose(areas, [0.1**0.8, 0.001**0.8], rtol=1e-7)


@pytest.mark.parametrize("kind", ["pairs", "angles"])
@pytest.mark.parametrize("normalization", ["none", "l2"])
def test_spectra_caught_on_the_way_are_those_that_dscribe_returns(kind, normalization, monkeypatch):
    featurizer = DScribeFeaturizer(**SMALL[kind], normalization=normalization)
    structures = [triclinic(), rocksalt(), slab(), methanol()]
    caught = featurizer.fit_transform(structures)

    class Later(type(featurizer._descriptor().lmbtr)):
        """A version in which nobody looks at the method."""

        def __setattr__(self, name, value):
            if name != "_make_new_klist_local":
                super().__setattr__(name, value)

    monkeypatch.setattr(descriptors, "LMBTR", Later)
    assert_allclose(featurizer.fit_transform(structures).values, caught.values, rtol=1e-13)


class TestMending:
    """DScribe 2.1 fails with ASE 3.27 or newer. Each test stands for a process that has not computed yet."""

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        lmbtr = sys.modules["dscribe.descriptors.lmbtr"]
        monkeypatch.setattr(lmbtr, "System", System)
        dscribe_descriptors.mend_lmbtr.cache_clear()
        yield lmbtr
        dscribe_descriptors.mend_lmbtr.cache_clear()

    def test_dscribe_is_left_alone_once_it_works(self, fresh, monkeypatch):
        class Works(System):
            @staticmethod
            def from_atoms(atoms):
                return atoms

        monkeypatch.setattr(fresh, "System", Works)
        dscribe_descriptors.mend_lmbtr()
        assert fresh.System is Works

    def test_what_warns_is_replaced_as_well(self, fresh, monkeypatch):
        class Warns(System):
            @staticmethod
            def from_atoms(atoms):
                warnings.warn("get_calculator is deprecated", FutureWarning, stacklevel=2)
                return atoms

        monkeypatch.setattr(fresh, "System", Warns)
        dscribe_descriptors.mend_lmbtr()
        assert issubclass(fresh.System, System)
        assert fresh.System is not Warns

    def test_nothing_else_of_dscribe_changes(self, fresh):
        dscribe_descriptors.mend_lmbtr()
        mended = fresh.System
        dscribe_descriptors.mend_lmbtr()
        assert fresh.System is mended
        assert sys.modules["dscribe.core"].System is sys.modules["dscribe.descriptors.mbtr"].System is System
        DScribeFeaturizer(**SMALL["angles"]).fit_transform([methanol()])

    @pytest.mark.parametrize("kind", ["pairs", "angles"])
    def test_other_processes_mend_it_for_themselves(self, fresh, kind):
        """A pickled descriptor that arrives where nothing was mended."""
        featurizer = DScribeFeaturizer(**SMALL[kind])
        here = featurizer.fit_transform([triclinic()])
        sent = pickle.dumps(featurizer._descriptor())
        fresh.System = System
        dscribe_descriptors.mend_lmbtr.cache_clear()
        assert_array_equal(pickle.loads(sent).create_single(triclinic()), here.values)


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


def test_names_of_lmbtr_say_where_the_angle_is():
    lmbtr = DScribeFeaturizer("lmbtr", geometry="angle", grid=(0, 180, 3, 5)).fit([methanol()])
    names = [name[:-2] for name in lmbtr.get_feature_names_out() if name.endswith("]90")]
    groups = ["H-X-H", "H-X-C", "H-X-O", "C-X-C", "C-X-O", "O-X-O"]
    groups += [f"X-{a}-{b}" for a in "HCO" for b in "HCO"]
    assert names == [f"lmbtr[{group}]" for group in groups]
    right = Atoms("OHC", positions=[[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    features = lmbtr.transform([right])
    assert columns(features, lmbtr, "lmbtr[H-X-C]90", "lmbtr[X-H-C]90").argmax(1)[0] == 0
    assert columns(features, lmbtr, "lmbtr[H-X-C]90", "lmbtr[X-O-C]90")[1].tolist()[0] == 0
    assert columns(features, lmbtr, "lmbtr[X-O-C]90")[1] > 0


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


@pytest.mark.parametrize(
    "grid",
    [
        (0, 1, 50),
        (1, 1, 50, 0.1),
        (0, 1, 1, 0.1),
        (0, 1, 2.5, 0.1),
        (0, 1, 50, 0.0),
        (0, 1, 50, None),
        "abcd",
    ],
)
def test_grids_that_are_none_are_refused(grid):
    with pytest.raises(ValueError, match="grid") as error:
        DScribeFeaturizer("lmbtr", grid=grid).fit([molecule("H2O")])
    if grid != "abcd":  # no array at all, says scikit-learn
        assert message(error) == (
            "grid must be (first point, last point, number of points, standard deviation), ascending, with "
            f"two points or more and a standard deviation above 0; got {grid!r}. None takes one that suits "
            "geometry."
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("descriptor", "mbtr"),
        ("geometry", "atomic_number"),
        ("threshold", 0.0),
        ("threshold", 1.0),
        ("normalization", "n_atoms"),
    ],
)
def test_parameters_are_checked_at_fit(name, value):
    with pytest.raises(InvalidParameterError) as error:
        DScribeFeaturizer(**{"descriptor": "lmbtr", name: value}).fit([molecule("H2O")])
    assert f"The '{name}' parameter of DScribeFeaturizer must be a" in message(error)


def test_columns_that_do_not_fit_into_memory_are_refused(monkeypatch):
    soap = DScribeFeaturizer(**SMALL["soap"]).fit([molecule("H2O")])
    monkeypatch.setattr(module, "physical_memory", lambda: 1024.0)
    with pytest.raises(ValueError, match="memory") as error:
        soap.transform([molecule("H2O")])
    assert message(error) == (
        "X must make columns that fit into memory; 3 atoms with 63 columns each, for 2 species, are 0.0 GiB, "
        "and there are 0.0. Set compression, lower n_max or l_max, or pass fewer structures at a time."
    )


@pytest.mark.parametrize(
    ("given", "remedy"),
    [("acsf", "Take fewer functions"), ("pairs", "Take fewer points of grid")],
)
def test_what_makes_fewer_columns_depends_on_the_descriptor(given, remedy, monkeypatch):
    featurizer = DScribeFeaturizer(**SMALL[given]).fit([molecule("H2O")])
    monkeypatch.setattr(module, "physical_memory", lambda: 1.0)
    with pytest.raises(ValueError, match="memory") as error:
        featurizer.transform([molecule("H2O")])
    assert message(error) == (
        f"X must make columns that fit into memory; 3 atoms with {featurizer.n_features_out_} columns each, "
        f"for 2 species, are 0.0 GiB, and there are 0.0. {remedy}, or pass fewer structures at a time."
    )


def test_distances_that_do_not_fit_into_memory_are_refused(monkeypatch):
    """Columns grow with the number of atoms, distances with its square."""
    lmbtr = DScribeFeaturizer(**SMALL["pairs"]).fit([molecule("H2O")])
    large = molecule("H2O")
    for shift in range(1, 20):
        water = molecule("H2O")
        water.positions += 3.0 * shift
        large += water
    monkeypatch.setattr(module, "physical_memory", lambda: 8.0 * lmbtr.n_features_out_ * 63)
    lmbtr.transform([molecule("H2O")])
    with pytest.raises(ValueError, match="memory") as error:
        lmbtr.transform([molecule("H2O"), large])
    assert message(error) == (
        "X must hold structures whose distances fit into memory, as DScribe's LMBTR keeps all of them; the "
        "60 atoms of structure 1 take at least 0.0 GiB, and there are 0.0. Pass smaller ones, or take "
        "another descriptor."
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
