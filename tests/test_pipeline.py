"""The main job end to end: structures in, forces out, with the real featurizer and the real networks."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_predict,
    cross_val_score,
    learning_curve,
    train_test_split,
)
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import StandardScaler

from tinynet_sklearn import (
    BPNNRegressor,
    CutoffBonds,
    CycleMomentFeaturizer,
    PerAtom,
    PerAtomArray,
    SiteFrames,
    load_batio3,
    load_model,
    save_model,
)
from tinynet_sklearn.metrics import force_rmse

SHARED_AIMD = Path(__file__).resolve().parents[2] / "shared" / "data" / "batio3_aimd"


@pytest.fixture(scope="module")
def rocksalt():
    """Rattled frames of a rock-salt crystal with Lennard-Jones forces: exact labels, no data needed."""
    rng = np.random.default_rng(0)
    crystal = Atoms("NaClNaClNaClNaCl", cell=[5.0] * 3, pbc=True)
    crystal.set_scaled_positions(
        np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1], [0, 1, 1], [1, 1, 1]]) / 2
    )
    frames, forces = [], []
    for _ in range(60):
        frame = crystal.copy()
        frame.positions += rng.normal(0, 0.05, frame.positions.shape)
        frame.calc = LennardJones(sigma=2.3, epsilon=0.5, rc=6.0)
        forces.append(frame.get_forces())
        frame.calc = None
        frames.append(frame)
    return frames, forces


def small_pipeline(**parameters):
    pipe = Pipeline(
        [
            ("embed", CycleMomentFeaturizer(n=2, N=1, paths="simple", bonds=3.0)),
            ("net", BPNNRegressor(hidden_layer_sizes=(8,), max_iter=30, early_stopping=True, random_state=0)),
        ]
    )
    return pipe.set_params(**parameters)


def test_forces_of_unseen_structures_are_learned(rocksalt):
    frames, forces = rocksalt
    pipe = small_pipeline(embed__N=2, net__max_iter=200)
    pipe.fit(frames[:48], forces[:48])
    predicted = pipe.predict(frames[48:])
    assert isinstance(predicted, PerAtomArray)
    zero = force_rmse(forces[48:], [np.zeros_like(f) for f in forces[48:]])
    assert force_rmse(forces[48:], predicted) < 0.2 * zero
    assert pipe.score(frames[48:], PerAtomArray.from_list(forces[48:])) > 0.95


@pytest.mark.parametrize("order", ["value", "depth-first"])
def test_sorted_walks_alone_cannot_give_forces(rocksalt, order):
    """Scalars alone cannot give a vector: N=0 must be no better than predicting nothing."""
    frames, forces = rocksalt
    pipe = small_pipeline(embed__n=4, embed__N=0, embed__order=order, embed__frame="lab", net__max_iter=100)
    pipe.fit(frames[:48], forces[:48])
    zero = force_rmse(forces[48:], [np.zeros_like(f) for f in forces[48:]])
    assert force_rmse(forces[48:], pipe.predict(frames[48:])) > 0.9 * zero


def test_walks_in_slots_know_directions(rocksalt):
    """A list of bond lengths ordered by lattice direction is no set of scalars: it locates the atom."""
    frames, forces = rocksalt
    pipe = small_pipeline(embed__n=2, embed__N=0, net__max_iter=100).fit(frames[:48], forces[:48])
    zero = force_rmse(forces[48:], [np.zeros_like(f) for f in forces[48:]])
    assert force_rmse(forces[48:], pipe.predict(frames[48:])) < 0.5 * zero


def test_predicted_forces_turn_with_the_crystal(rocksalt):
    frames, forces = rocksalt
    pipe = small_pipeline().fit(frames, forces)
    turned = frames[3].copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    turn = np.linalg.solve(frames[3].cell.array, turned.cell.array)
    np.testing.assert_allclose(pipe.predict([turned])[0], pipe.predict([frames[3]])[0] @ turn, atol=1e-10)


def test_symmetry_average_makes_forces_exactly_equivariant(rocksalt):
    """A crystal turned by a rotation of its own lattice is another frame of the same topology."""
    frames, forces = rocksalt
    pipe = small_pipeline(net__symmetry_average=True).fit(frames, forces)
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = frames[5].copy()
    # About atom 0 every ideal position lands on one of the same species: reorder the atoms to the reference.
    positions = (frames[5].positions - frames[5].positions[0]) @ quarter.T + frames[5].positions[0]
    ideal = np.round(pipe["embed"].reference_.scaled_positions() * 2)
    landed = (ideal - ideal[0]) @ quarter.T + ideal[0]
    order = [int(np.flatnonzero(((landed - place) % 2 == 0).all(axis=1))[0]) for place in np.round(ideal)]
    turned.positions = positions[order]
    expected = (pipe.predict([frames[5]])[0] @ quarter.T)[order]
    np.testing.assert_allclose(pipe.predict([turned])[0], expected, atol=1e-10)


def test_grid_search_over_embedding_and_network(rocksalt, tmp_path):
    frames, forces = rocksalt
    target = PerAtomArray.from_list(forces, species=[f.numbers for f in frames])
    search = GridSearchCV(
        small_pipeline(memory=str(tmp_path), embed__order="value", embed__frame="lab"),
        {
            "embed__n": [2, 4],
            "embed__N": [0, 1],
            "net__hidden_layer_sizes": [(4,), (8,)],
        },
        scoring="neg_root_mean_squared_error",
        cv=GroupKFold(3),
        n_jobs=2,
        error_score="raise",
    )
    search.fit(frames, target, groups=np.arange(len(frames)) // 4)
    assert search.best_params_["embed__N"] == 1
    assert len(np.unique(search.cv_results_["mean_test_score"])) == 8  # each candidate trained with its own
    assert search.predict(frames[:2]).shape == (2, 3)


def test_model_selection_tools(rocksalt):
    frames, forces = rocksalt
    target = PerAtomArray.from_list(forces)
    pipe = small_pipeline()
    predicted = cross_val_predict(pipe, frames, target, cv=3)
    assert isinstance(predicted, PerAtomArray)
    single = clone(pipe).fit(frames[20:], target[20:])
    np.testing.assert_array_equal(predicted[:20].values, single.predict(frames[:20]).values)
    assert cross_val_score(pipe, frames, target, cv=3, scoring="r2").shape == (3,)
    sizes, _, scores = learning_curve(pipe, frames, target, cv=3, train_sizes=[0.5, 1.0])
    assert list(sizes) == [20, 40]
    assert scores.shape == (2, 3)
    train, test, y_train, y_test = train_test_split(frames, target, test_size=0.25, random_state=0)
    assert len(train) == len(y_train) == 45
    assert len(test) == len(y_test) == 15


def test_union_of_featurizers_and_row_transformers(rocksalt):
    frames, forces = rocksalt
    union = FeatureUnion(
        [
            ("near", CycleMomentFeaturizer(n=2, N=1, bonds=3.0)),
            ("sums", CycleMomentFeaturizer(n=4, N=0, bonds=CutoffBonds(3.0), aggregate="sum")),
        ]
    )
    pipe = Pipeline(
        [
            ("embed", union),
            ("scale", PerAtom(StandardScaler())),
            ("reduce", PerAtom(PCA(n_components=20))),
            ("net", BPNNRegressor((8,), max_iter=50, early_stopping=True, random_state=0)),
        ]
    ).set_params(net__symmetry_average=False, net__symmetry_copies=1)
    pipe.fit(frames, forces)
    names = union.get_feature_names_out()
    assert names[0].startswith("near__L2[")
    assert any(name.startswith("sums__mu4[") for name in names)
    assert pipe.predict(frames[:3]).frames is None
    assert pipe.predict(frames[:3]).shape == (3, 3)


def test_a_union_of_featurizers_of_one_crystal_keeps_the_site_groups(rocksalt):
    frames, forces = rocksalt
    union = FeatureUnion(
        [
            ("near", CycleMomentFeaturizer(n=2, N=1, bonds=3.0)),
            ("far", CycleMomentFeaturizer(n=4, N=0, bonds=3.0)),
        ]
    )
    pipe = small_pipeline(embed=union).fit(frames, forces)
    assert pipe["net"].n_operations_ > 1
    asked_for = clone(pipe).set_params(net__symmetry_average=True).fit(frames, forces)
    np.testing.assert_array_equal(pipe.predict(frames).values, asked_for.predict(frames).values)


def test_pymatgen_structures_and_files_give_the_same_model(rocksalt, tmp_path):
    from pymatgen.io.ase import AseAtomsAdaptor

    frames, forces = rocksalt
    converted = [AseAtomsAdaptor.get_structure(frame) for frame in frames]
    ours, theirs = small_pipeline().fit(frames, forces), small_pipeline().fit(converted, forces)
    np.testing.assert_allclose(ours.predict(frames).values, theirs.predict(converted).values, atol=1e-6)


def test_saved_and_pickled_pipelines_predict_the_same(rocksalt, tmp_path):
    frames, forces = rocksalt
    pipe = small_pipeline().fit(frames, forces)
    expected = pipe.predict(frames).values
    save_model(pipe, tmp_path / "model.tinynet")
    np.testing.assert_array_equal(load_model(tmp_path / "model.tinynet").predict(frames).values, expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pipe)).predict(frames).values, expected)


def test_the_documented_grid_search_runs_on_bundled_data():
    """The example of the documentation with a smaller grid and shorter training."""
    data = load_batio3(target="forces")
    pipe = Pipeline(
        [
            ("embed", CycleMomentFeaturizer(n=4, N=2, paths="simple")),
            ("net", BPNNRegressor(hidden_layer_sizes=(16, 32), random_state=0, early_stopping=True)),
        ]
    )
    search = GridSearchCV(
        pipe,
        {"embed__N": [0, 1], "net__max_iter": [20]},
        scoring="neg_root_mean_squared_error",
        cv=GroupKFold(2),
        n_jobs=2,
    )
    search.fit(data.structures, data.target, groups=data.groups)
    assert search.best_params_["embed__N"] == 1


@pytest.mark.slow
@pytest.mark.skipif(not SHARED_AIMD.is_dir(), reason="the BaTiO3 AIMD data are not here")
def test_force_error_on_batio3_molecular_dynamics(monkeypatch):
    """16x32 per species, direct forces, L4(2): at most 0.20 eV/A on blocks of time that were never seen."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import batio3_aimd

    train, test = batio3_aimd.load(SHARED_AIMD)
    pipe = Pipeline(
        [
            ("embed", CycleMomentFeaturizer(n=4, N=2, paths="simple", bonds=batio3_aimd.BONDS)),
            ("net", BPNNRegressor(max_iter=300, n_jobs=2, random_state=0)),
        ]
    )
    pipe.fit(train["structures"], train["forces"])
    assert force_rmse(test["forces"], pipe.predict(test["structures"])) < 0.20


def test_one_network_per_site_equals_one_per_species_where_sites_are_alike(rocksalt):
    frames, forces = rocksalt
    by_species = small_pipeline().fit(frames, forces).predict(frames)
    pipe = small_pipeline(net__networks="per-site").fit(frames, forces)
    np.testing.assert_array_equal(pipe.predict(frames).values, by_species.values)
    assert sorted(pipe["net"].atom_networks_) == [0, 1]


def test_one_network_per_site_needs_sites(rocksalt):
    frames, forces = rocksalt
    pipe = small_pipeline(embed__frame="lab", net__networks="per-site")
    message = (
        "networks='per-site' needs features that know their sites; X carries no site frames. Use "
        "CycleMomentFeaturizer(frame='site'), or networks='per-species'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pipe.fit(frames, forces)


def test_sites_unseen_in_training_are_refused(rocksalt):
    frames, forces = rocksalt
    pipe = small_pipeline(net__networks="per-site").fit(frames, forces)
    features = pipe["embed"].transform(frames[:1])
    other = PerAtomArray(
        features.values,
        features.offsets,
        features.species,
        SiteFrames(features.frames.rotations, features.frames.sites + 1),
    )
    message = (
        "X must hold sites that were seen in fit (2 classes); got site 2. Make the features with the "
        "featurizer that made those for fit."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pipe["net"].predict(other)


@pytest.mark.parametrize(
    ("settings", "the_same"),
    [
        ({}, {"net__symmetry_average": True, "net__symmetry_copies": 1}),
        ({"net__symmetry_average": False}, {"net__symmetry_average": False, "net__symmetry_copies": 8}),
        ({"embed__frame": "lab"}, {"net__symmetry_average": False, "net__symmetry_copies": 1}),
    ],
)
def test_automatic_symmetry(rocksalt, settings, the_same):
    """An average where the features know their site groups; without it 8 copies; neither elsewhere."""
    frames, forces = rocksalt
    automatic = small_pipeline(**settings).fit(frames, forces)
    asked_for = clone(automatic).set_params(**the_same).fit(frames, forces)
    assert (automatic["net"].n_operations_ > 1) == the_same["net__symmetry_average"]
    np.testing.assert_array_equal(automatic.predict(frames).values, asked_for.predict(frames).values)


@pytest.mark.parametrize("structure", ["wurtzite", "zincblende"])
def test_models_of_a_fixed_cell_bear_a_small_strain(structure):
    """Vectors to images of the atom itself never vary in a fixed cell; their rounding must not be learned."""
    rng = np.random.default_rng(1)
    frames, forces = [], []
    for _ in range(30):
        frame = bulk("ZnS", structure, a=3.8 if structure == "wurtzite" else 5.4)
        frame.positions += rng.normal(0, 0.05, frame.positions.shape)
        frame.calc = LennardJones(sigma=2.1, epsilon=0.5, rc=5.0)
        forces.append(frame.get_forces())
        frames.append(frame)
    pipe = small_pipeline(embed__n=4, embed__N=2).fit(frames, forces)
    strained = frames[0].copy()
    strained.set_cell(frames[0].cell.array * (1 + 1e-6), scale_atoms=True)
    change = pipe.predict([strained])[0] - pipe.predict([frames[0]])[0]
    assert np.abs(change).max() < 1e-3
