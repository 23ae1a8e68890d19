"""`CompiledModel`: the numbers of the pipeline, for every kind of model and every supercell."""

import copy
import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import make_supercell
from crystals import BONDED, perovskite, rattled
from derivatives import gradient_of, virial_of
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from symmetry import random_rotation, rotated, strayed, translated, wrapped

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CommitteeRegressor,
    CompiledModel,
    CycleMomentFeaturizer,
    PerAtom,
    PerAtomArray,
    TinyNetCalculator,
    load_batio3,
    load_moo3,
    load_pretrained,
)
from tinynet_sklearn import _force_kernels as kernels
from tinynet_sklearn.compiled import why_not_compiled
from tinynet_sklearn.evaluation import fitted_steps
from tinynet_sklearn.networks import KerasNetwork
from tinynet_sklearn.pipelines import PipelineEngine
from tinynet_sklearn.potential_training import potential_keys
from tinynet_sklearn.rows import network_keys

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ONE = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
BLOCK = ((2, 0, 0), (0, 1, 0), (0, 0, 3))
ROOT_TWO = ((1, 1, 0), (-1, 1, 0), (0, 0, 2))
OBLIQUE = ((2, 1, 0), (0, 1, 1), (1, 0, 2))
IN_PLANE = ((2, 1, 0), (-1, 1, 0), (0, 0, 1))
ALONG_Z = ((1, 0, 0), (0, 1, 0), (0, 0, 3))
ALONG_X = ((4, 0, 0), (0, 1, 0), (0, 0, 1))

#: Tolerance where positions are large numbers, or were moved: columns that varied little in the fit magnify
#: the rounding of their lengths.
FAR = 1e-10


# ---- Models and structures ---------------------------------------------------------------------------------


def deformed(atoms: Atoms, seed: int) -> Atoms:
    """Thermal displacements and a strain of a percent: nothing stays constant, in one-atom cells, too."""
    rng = np.random.default_rng(seed)
    moved = rattled(atoms, seed, 0.04)
    strain = 0.01 * rng.normal(size=(3, 3)) * (atoms.pbc[:, None] & atoms.pbc)
    moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=False)
    moved.positions = moved.positions @ (np.eye(3) + strain)
    return moved


def featurizer_of(name: str, **options) -> CycleMomentFeaturizer:
    make, rule = BONDED[name]
    given = {"n": 4, "N": 2, "bonds": rule, "reference": "first", "coordinates": "distances"}
    frames = [make(), *[deformed(make(), seed) for seed in range(3)]]
    return CycleMomentFeaturizer(**{**given, **options}).fit(frames)


def shaken(net, seed: int = 0):
    """The same estimator with other weights and biases: large ones, that have learned nothing."""
    rng = np.random.default_rng(seed)
    for network in {id(n): n for n in net.atom_networks_.values()}.values():
        for array in network.network.arrays:
            array += (0.4 * rng.normal(size=array.shape)).astype(array.dtype)
    return net


def model_of(name: str, net, n_outputs: int = 3, **options) -> Pipeline:
    """A fitted pipeline; its targets are random numbers."""
    make, _ = BONDED[name]
    featurizer = featurizer_of(name, **options)
    atoms = featurizer.transform([deformed(make(), seed) for seed in range(4)])
    targets = PerAtomArray(
        np.random.default_rng(0).normal(size=(len(atoms.values), n_outputs)), atoms.offsets, atoms.species
    )
    net = clone(net).fit(atoms, {"forces": targets} if isinstance(net, BPNNPotential) else targets)
    return make_pipeline(featurizer, shaken(net))


def potential(**settings) -> BPNNPotential:
    given = {"hidden_layer_sizes": (5, 4), "solver": "lbfgs", "max_iter": 1, "random_state": 0}
    return BPNNPotential(**{**given, **settings})


def regressor(**settings) -> BPNNRegressor:
    given = {"hidden_layer_sizes": (5, 4), "solver": "lbfgs", "max_iter": 1, "random_state": 0}
    return BPNNRegressor(**{**given, **settings})


def supercell_of(frame: Atoms, matrix, seed: int = 0) -> Atoms:
    """Supercell, its atoms in random order; the tag of an atom is the atom of the frame it repeats."""
    tagged = frame.copy()
    tagged.set_tags(range(len(frame)))
    found = make_supercell(tagged, matrix)
    return found[np.random.default_rng(seed).permutation(len(found))]


def predicted(model: Pipeline, atoms: Atoms) -> dict[str, np.ndarray]:
    """What the pipeline says of a structure, step by step."""
    features = model[0].adapted_to(atoms).transform([atoms])
    if not isinstance(model[-1], BPNNPotential):
        return {"outputs": model[-1].predict(features).values}
    found = model[-1].predict(features, output="all")
    numbers = {
        "forces": found.forces.values,
        "energy": found.energy[0],
        "energies": model[-1].predict(features, output="energies").values[:, 0],
    }
    if found.stress is not None:
        stress = found.stress[0][[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
        numbers["virial"] = stress * atoms.get_volume()
    return numbers


def repeated_prediction(model: Pipeline, frame: Atoms, supercell: Atoms) -> dict[str, np.ndarray]:
    """What it must say of a supercell whose cells are all alike, from one of them."""
    one, parents = predicted(model, frame), supercell.get_tags()
    n_cells = len(supercell) // len(frame)
    extensive = {name: n_cells * one[name] for name in ("energy", "virial") if name in one}
    return {name: values[parents] for name, values in one.items() if name not in extensive} | extensive


def assert_says(found, expected: dict[str, np.ndarray], tolerance: float = 1e-12) -> None:
    for name, numbers in expected.items():
        allowed = tolerance * max(1.0, np.abs(numbers).max())
        if name in ("energy", "virial"):
            allowed *= len(found.energies)
        assert_allclose(getattr(found, name), numbers, rtol=0, atol=allowed, err_msg=name)
    if found.energies is not None:
        assert_allclose(found.energies.sum(), found.energy, rtol=0, atol=1e-14 * np.abs(found.energies).sum())
        assert_allclose(found.forces.sum(axis=0), 0.0, atol=1e-12 * np.abs(found.forces).sum() + 1e-13)
        assert_allclose(found.virial, found.virial.T, rtol=0, atol=1e-14 * np.abs(found.virial).max())


def compute(engine: CompiledModel, atoms: Atoms):
    return engine.compute(atoms.positions, atoms.cell.array)


def in_one_line(value) -> str:
    return re.sub(r"\s+", "", str(value)).replace("max_iter=1,random_state=0,", "")


def message_of(call, kind=ValueError) -> str:
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


@pytest.fixture(scope="module")
def energy_model() -> Pipeline:
    return model_of("perovskite", potential())


@pytest.fixture(scope="module")
def direct_model() -> Pipeline:
    return model_of("perovskite", regressor(), coordinates="vectors")


# ---- The numbers of the pipeline ---------------------------------------------------------------------------

ENERGIES = [
    ("perovskite", BLOCK, {}, potential()),
    ("perovskite", BLOCK, {"N": 1}, potential(symmetry_average=False)),
    ("perovskite", OBLIQUE, {"n": 2}, potential(symmetry_average=8)),
    ("perovskite", BLOCK, {"n": 2, "N": 1}, potential(networks="shared")),
    ("perovskite", OBLIQUE, {"paths": "simple", "N": 1}, potential(activation="softplus")),
    ("perovskite", ROOT_TWO, {"aggregate": "sum", "N": 1}, potential(activation="logistic")),
    ("perovskite", ROOT_TWO, {"n": 0, "N": 1}, potential(scaler="minmax")),
    ("perovskite", BLOCK, {"N": 0}, potential(scaler=None)),
    ("perovskite", ONE, {"frame": "lab", "n": 2}, potential()),
    ("MoO3", OBLIQUE, {"duplicates": "keep"}, potential(hidden_layer_sizes=(6, 5, 4))),
    ("MoO3", OBLIQUE, {"neighbors": "walks"}, potential(hidden_layer_sizes=(3,))),
    ("rock salt", OBLIQUE, {"N": 1}, potential(hidden_layer_sizes=())),
    ("rock salt", BLOCK, {"n": 2, "N": 3, "neighbors": "walks"}, potential()),
    ("rutile", OBLIQUE, {}, potential(networks="per-site")),
    ("rutile", BLOCK, {"n": 2}, potential(activation="identity")),
    ("wurtzite", OBLIQUE, {}, potential(networks="per-site", symmetry_average=2)),
    ("fcc", OBLIQUE, {"n": 3, "N": 1}, potential()),
    ("fcc", BLOCK, {"n": 3, "N": 1, "duplicates": "keep"}, potential(symmetry_average=False)),
    ("fcc", ROOT_TWO, {"n": 5, "N": 0, "aggregate": "sum"}, potential()),
    ("simple cubic", OBLIQUE, {"n": 2}, potential(symmetry_average=5)),
    ("diamond", ROOT_TWO, {"n": 6, "N": 1, "paths": "simple"}, potential()),
    ("slab", IN_PLANE, {"n": 2}, potential()),
    ("wire", ALONG_Z, {}, potential()),
    ("chain", ALONG_X, {}, potential()),
    ("methanol", ONE, {}, potential()),
    ("benzene", ONE, {"n": 6}, potential()),
    ("cyclopropane", ONE, {"n": 3}, potential()),
]


@pytest.mark.parametrize(("name", "matrix", "options", "net"), ENERGIES, ids=in_one_line)
def test_energies_are_those_of_the_pipeline(name, matrix, options, net):
    model = model_of(name, net, **options)
    frame = rattled(BONDED[name][0](), 7, 0.04)
    engine = CompiledModel(model, frame)
    assert engine.mode == "energy"
    assert_says(compute(engine, frame), predicted(model, frame))
    supercell = supercell_of(frame, matrix)
    expected = repeated_prediction(model, frame, supercell)
    moved = strayed(translated(supercell, [0.3, -0.2, 0.4]), 1)
    assert_says(compute(CompiledModel(model, supercell), supercell), expected)
    assert_says(compute(CompiledModel(model, moved), moved), expected, FAR)
    assert_says(compute(CompiledModel(model, moved, precision="single"), moved), expected, 1e-5)
    uneven = rattled(rotated(moved, random_rotation(2)) if frame.pbc.sum() > 1 else moved, 3, 0.03)
    assert_says(compute(CompiledModel(model, uneven), uneven), predicted(model, uneven), FAR)


OUTPUTS = [
    ("perovskite", BLOCK, {}, regressor()),
    ("perovskite", BLOCK, {"N": 1}, regressor(symmetry_average=False, activation="relu")),
    ("perovskite", OBLIQUE, {"n": 2}, regressor(symmetry_average=8)),
    ("perovskite", BLOCK, {"n": 2, "N": 1, "coordinates": "distances"}, regressor()),
    ("perovskite", BLOCK, {"n": 2, "N": 1, "coordinates": "distances"}, regressor(target="scalar")),
    ("perovskite", BLOCK, {"n": 2, "N": 1}, regressor(target="scalar")),
    ("perovskite", BLOCK, {"n": 2, "frame": "lab"}, regressor()),
    ("perovskite", ONE, {"n": 2, "frame": "lab", "species_columns": True}, regressor(networks="shared")),
    ("MoO3", OBLIQUE, {"species_columns": True, "duplicates": "keep"}, regressor()),
    ("perovskite", BLOCK, {"aggregate": "sum", "N": 1}, regressor(activation="identity")),
    ("perovskite", BLOCK, {"n": 0, "N": 1, "order": "depth-first", "frame": "lab"}, regressor()),
    ("perovskite", BLOCK, {"N": 0, "aggregate": "sum", "order": "value", "frame": "lab"}, regressor()),
    ("MoO3", OBLIQUE, {"neighbors": "walks"}, regressor(activation="softplus")),
    ("MoO3", OBLIQUE, {"N": 0}, regressor(hidden_layer_sizes=())),
    ("rutile", OBLIQUE, {}, regressor(networks="per-site", activation="logistic")),
    ("rutile", ROOT_TWO, {"paths": "simple"}, regressor(hidden_layer_sizes=(6, 5, 4), networks="shared")),
    ("wurtzite", BLOCK, {}, regressor(target_scaler=None, scaler=None)),
    ("fcc", OBLIQUE, {"n": 3, "N": 1}, regressor()),
    ("diamond", OBLIQUE, {"n": 0, "N": 2}, regressor(symmetry_average=7)),
    ("slab", IN_PLANE, {"n": 2}, regressor()),
    ("wire", ALONG_Z, {}, regressor()),
    ("chain", ALONG_X, {}, regressor()),
    ("methanol", ONE, {}, regressor()),
    ("cyclopropane", ONE, {"n": 3, "N": 1}, regressor(networks="per-site")),
]


@pytest.mark.parametrize(("name", "matrix", "options", "net"), OUTPUTS, ids=in_one_line)
def test_outputs_are_those_of_the_pipeline(name, matrix, options, net):
    model = model_of(name, net, **{"coordinates": "vectors", **options})
    frame = rattled(BONDED[name][0](), 7, 0.04)
    engine = CompiledModel(model, frame)
    assert engine.mode == "direct"
    found = compute(engine, frame)
    assert_says(found, predicted(model, frame))
    assert_array_equal(found.forces, found.outputs)
    assert found.energy is found.energies is found.virial is None
    supercell = supercell_of(frame, matrix)
    expected = repeated_prediction(model, frame, supercell)
    assert_says(compute(CompiledModel(model, supercell), supercell), expected)
    assert_says(compute(CompiledModel(model, supercell, precision="single"), supercell), expected, 1e-5)
    moved = strayed(translated(supercell, [0.3, -0.2, 0.4]), 1)
    uneven = rattled(rotated(moved, random_rotation(2)) if frame.pbc.sum() > 1 else moved, 3, 0.03)
    assert_says(compute(CompiledModel(model, uneven), uneven), predicted(model, uneven), FAR)


def test_targets_of_any_width():
    model = model_of("MoO3", regressor(), n_outputs=5, coordinates="vectors")
    atoms = supercell_of(rattled(BONDED["MoO3"][0](), 1), OBLIQUE)
    found = compute(CompiledModel(model, atoms), atoms)
    assert found.outputs.shape == (len(atoms), 5)
    assert found.forces is None
    assert_says(found, predicted(model, atoms))


@pytest.mark.parametrize("kind", [regressor, potential])
def test_vectors_without_entries(kind):
    """Such a model can only predict the mean."""
    model = model_of("perovskite", kind(symmetry_average=False), n=0, N=0)
    atoms = rattled(perovskite() * 2, 0)
    assert_says(compute(CompiledModel(model, atoms), atoms), predicted(model, atoms))


@pytest.mark.parametrize(("name", "load"), [("batio3", load_batio3), ("moo3", load_moo3)])
def test_pretrained_potentials(name, load):
    model, data = load_pretrained(name), load()
    frame = data.structures[-1]
    atoms = supercell_of(frame, IN_PLANE)
    expected = repeated_prediction(model, frame, atoms)
    assert_says(compute(CompiledModel(model, atoms), atoms), expected, 1e-11)
    single = compute(CompiledModel(model, atoms, precision="single"), atoms)
    assert 0 < np.abs(single.forces - expected["forces"]).max() < 1e-5


# ---- The laws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "matrix", "options"),
    [
        ("perovskite", ROOT_TWO, {"n": 4, "N": 1}),
        ("rock salt", ONE, {}),
        ("fcc", IN_PLANE, {"n": 3, "N": 1}),
        ("slab", ONE, {"n": 2, "N": 2}),
        ("wire", ALONG_Z, {}),
        ("methanol", ONE, {}),
    ],
)
def test_forces_and_virials_are_derivatives(name, matrix, options):
    model = model_of(name, potential(), **options)
    atoms = rattled(supercell_of(BONDED[name][0](), matrix), 5, 0.04)
    engine = CompiledModel(model, atoms)

    def energies(frames):
        return np.array([compute(engine, frame).energy for frame in frames])

    found = compute(engine, atoms)
    assert_allclose(found.forces, -gradient_of(energies, atoms, 3e-5), atol=2e-8)
    assert_allclose(found.virial, virial_of(energies, atoms), rtol=1e-6, atol=1e-6)


def test_everything_turns_with_the_crystal(energy_model, direct_model):
    """Networks that are averaged over all of their site groups: whatever cell an atom is laid onto."""
    atoms = rattled(supercell_of(perovskite(), OBLIQUE), 0)
    turn = random_rotation(4)
    turned = strayed(translated(rotated(atoms, turn), [9.0, -3.3, 1.2]), 2)
    still, moved = (compute(CompiledModel(energy_model, a), a) for a in (atoms, turned))
    assert_allclose(moved.energies, still.energies, atol=1e-11)
    assert_allclose(moved.forces, still.forces @ turn.T, atol=1e-11)
    assert_allclose(moved.virial, turn @ still.virial @ turn.T, atol=1e-10)
    still, moved = (compute(CompiledModel(direct_model, a), a).forces for a in (atoms, turned))
    assert_allclose(moved, still @ turn.T, atol=1e-11)


@pytest.mark.parametrize("name", ["slab", "wire", "methanol"])
def test_direct_forces_turn_during_a_run(name):
    """The frames of the sites follow the atoms where the lattice does not tell the rotation."""
    model = model_of(name, regressor(), coordinates="vectors")
    atoms = rattled(BONDED[name][0](), 3, 0.04)
    engine = CompiledModel(model, atoms)
    still = compute(engine, atoms).forces
    axis = np.array([0.3, -0.5, 0.8]) if name == "methanol" else np.array([0.0, 0.0, 1.0])
    for step in range(1, 6):
        turned = atoms.copy()
        turned.rotate(4.0 * step, axis, rotate_cell=name == "slab")
        cosine, sine = np.cos(np.radians(4.0 * step)), np.sin(np.radians(4.0 * step))
        unit = axis / np.linalg.norm(axis)
        across = np.cross(np.eye(3), unit)
        turn = cosine * np.eye(3) + sine * -across.T + (1 - cosine) * np.outer(unit, unit)
        if not np.allclose(turned.positions, atoms.positions @ turn.T):
            turn = turn.T
        assert_allclose(turned.positions, atoms.positions @ turn.T, atol=1e-12)
        assert_allclose(compute(engine, turned).forces, still @ turn.T, atol=1e-10)


# ---- One engine, many calls --------------------------------------------------------------------------------


def test_periodic_images_may_change_from_call_to_call(energy_model, direct_model):
    atoms = rattled(supercell_of(perovskite(), OBLIQUE), 1)
    for model in (energy_model, direct_model):
        engine = CompiledModel(model, atoms)
        expected = predicted(model, atoms)
        rigid = [translated(atoms, shift) for shift in ([0.3, 0, 0], [0, -11.0, 5.0], [1.9, 1.9, 1.9])]
        for moved in (atoms, wrapped(atoms), strayed(atoms, 0), *rigid, strayed(rigid[1], 5), atoms):
            assert_says(compute(engine, moved), expected, 1e-11)


def test_atoms_that_drift_across_the_borders_of_the_cell(energy_model):
    """A current of small steps, wrapped after each: images change one atom at a time."""
    atoms = rattled(supercell_of(perovskite(), BLOCK), 2)
    engine = CompiledModel(energy_model, atoms)
    expected = predicted(energy_model, atoms)
    for step in range(30):
        drifted = translated(atoms, np.array([0.4, -0.45, 0.3]) * step)
        assert_says(compute(engine, wrapped(drifted) if step % 3 else drifted), expected, 1e-11)


def test_cells_that_change(energy_model, direct_model):
    """As under a barostat: strained, sheared and turned, with the same engine."""
    rng = np.random.default_rng(0)
    atoms = rattled(supercell_of(perovskite(), OBLIQUE), 3)
    engines = [CompiledModel(model, atoms) for model in (energy_model, direct_model)]
    for step, size in enumerate((0.03, 0.003, 0.003, 0.03)):  # atoms move far, or not
        frame = rattled(atoms, step, 0.02)
        frame.set_cell(atoms.cell.array @ (np.eye(3) + size * rng.normal(size=(3, 3))), scale_atoms=True)
        if step == 3:
            frame = strayed(frame, step)
        for engine, model in zip(engines, (energy_model, direct_model), strict=True):
            assert_says(compute(engine, frame), predicted(model, frame), FAR)


def test_results_are_not_overwritten(energy_model):
    atoms = rattled(perovskite() * 2, 0)
    engine = CompiledModel(energy_model, atoms)
    first = compute(engine, atoms)
    kept = copy.deepcopy(first)
    compute(engine, rattled(atoms, 1))
    for name in ("forces", "energies", "virial", "extrapolating"):
        assert_array_equal(getattr(first, name), getattr(kept, name))


def test_arguments_are_not_changed(energy_model):
    atoms = strayed(rattled(perovskite() * 2, 0), 0)
    positions, cell = atoms.positions.copy(), atoms.cell.array.copy()
    positions.setflags(write=False)
    cell.setflags(write=False)
    found = CompiledModel(energy_model, atoms).compute(positions, cell)
    again = CompiledModel(energy_model, atoms).compute(positions.tolist(), cell.tolist())
    assert_array_equal(found.forces, again.forces)
    strided = np.zeros((len(atoms), 6))
    strided[:, ::2] = positions
    assert_array_equal(
        CompiledModel(energy_model, atoms).compute(strided[:, ::2], atoms.cell).forces, found.forces
    )


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_copies_are_independent(energy_model, duplicate):
    atoms, other = rattled(perovskite() * 2, 0), rattled(perovskite() * 2, 1)
    engine = CompiledModel(energy_model, atoms, n_threads=2)
    before = compute(engine, atoms)
    twin = duplicate(engine)
    found = compute(twin, other)
    assert_array_equal(compute(engine, atoms).forces, before.forces)
    assert_array_equal(compute(engine, other).forces, found.forces)
    assert repr(twin) == repr(engine)


@pytest.mark.parametrize("precision", ["double", "single"])
def test_threads_share_the_work(energy_model, direct_model, precision):
    atoms = rattled(supercell_of(perovskite(), ((4, 0, 0), (0, 3, 0), (0, 0, 3))), 0)
    for model in (energy_model, direct_model):
        one = compute(CompiledModel(model, atoms, precision=precision), atoms)
        for n_threads in (2, 5):
            many = compute(CompiledModel(model, atoms, precision=precision, n_threads=n_threads), atoms)
            assert_allclose(many.forces, one.forces, atol=1e-13)
            assert_array_equal(many.extrapolating, one.extrapolating)
            if one.energies is not None:
                assert_array_equal(many.energies, one.energies)
                assert_allclose(many.energy, one.energy, rtol=1e-14)
                assert_allclose(many.virial, one.virial, atol=1e-12)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_crystals_of_many_cells(energy_model, direct_model, n_threads):
    """Pairs and atoms are worked through region by region: the numbers are those of one cell, repeated."""
    for model in (energy_model, direct_model):
        frame = deformed(perovskite(), 7)
        atoms = supercell_of(frame, ((6, 1, 0), (0, 5, 0), (1, 0, 7)))  # 209 cells and a bit of everything
        engine = CompiledModel(model, atoms, n_threads=n_threads)
        assert engine._tiling.n_cells > max(kernels.CHUNK, 2 * kernels.WIDTH)
        one, many = compute(CompiledModel(model, frame), frame), compute(engine, atoms)
        assert_allclose(many.forces, one.forces[atoms.get_tags()], atol=FAR)
        if model is energy_model:
            assert_allclose(many.energies, one.energies[atoms.get_tags()], atol=FAR)
            assert_allclose(many.virial, len(atoms) / len(frame) * one.virial, atol=1e-7)


def test_more_threads_than_atoms():
    model = model_of("cyclopropane", potential(), n=3)
    atoms = rattled(BONDED["cyclopropane"][0](), 0)
    assert_says(compute(CompiledModel(model, atoms, n_threads=40), atoms), predicted(model, atoms))


def test_a_potential_with_a_featurizer():
    """A potential with its featurizer inside is what it holds."""
    data = load_batio3()
    embedding = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances")
    inside = potential(featurizer=embedding).fit(data.structures[:5], data.target[:5])
    atoms = data.structures[7]
    assert_says(compute(CompiledModel(inside, atoms), atoms), {"forces": inside.predict([atoms])[0]})


def test_size_and_description(energy_model, direct_model):
    small, large = (CompiledModel(energy_model, perovskite() * n) for n in (2, 4))
    assert len(small) == 40
    assert repr(small) == "<CompiledModel: energy, 40 atoms, double, checked>"
    assert small.n_threads == 1
    assert 7 < large._lanes.hops.nbytes / small._lanes.hops.nbytes < 9
    assert large._lanes.hops.nbytes < large.nbytes < 9 * small.nbytes
    frozen = CompiledModel(direct_model, perovskite(), precision="single", topology="frozen")
    assert repr(frozen) == "<CompiledModel: direct, 5 atoms, single, frozen>"
    assert small.fits(small._reference)
    assert not small.fits(large._reference)


# ---- Some of the atoms -------------------------------------------------------------------------------------


def divided(atoms: Atoms, n_parts: int) -> list[np.ndarray]:
    """Every atom in one part: slices of a random order."""
    return np.array_split(np.random.default_rng(0).permutation(len(atoms)), n_parts)


@pytest.mark.parametrize("n_threads", [1, 2])
def test_parts_make_up_the_whole(energy_model, direct_model, n_threads):
    atoms = strayed(rattled(supercell_of(perovskite(), OBLIQUE), 4), 1)
    for model in (energy_model, direct_model):
        engine = CompiledModel(model, atoms, n_threads=n_threads)
        whole = compute(engine, atoms)
        groups = divided(atoms, 3)
        parts = [compute(engine.restricted_to(group), atoms) for group in groups]
        outside = np.any([part.extrapolating for part in parts], axis=0)
        assert_array_equal(outside, whole.extrapolating)
        names = ["forces"] if model is direct_model else ["forces", "energy", "energies", "virial"]
        for name in names:
            total = sum(getattr(part, name) for part in parts)
            assert_allclose(total, getattr(whole, name), rtol=1e-12, atol=1e-11, err_msg=name)
        for group, part in zip(groups, parts, strict=True):
            others = np.setdiff1d(np.arange(len(atoms)), group)
            of_atoms = part.forces if part.energies is None else part.energies
            assert not of_atoms[others].any()
            if part.energies is not None:
                assert_allclose(part.energies[group], whole.energies[group], rtol=1e-12, atol=1e-13)
                assert_allclose(part.forces.sum(axis=0), 0.0, atol=1e-11)
        assert_array_equal(compute(engine, atoms).forces, whole.forces)  # parts leave no trace


def reached(engine: CompiledModel, atoms: Atoms, centres) -> np.ndarray:
    """Which atoms have an image within `reach` of a centre, where the crystal is undistorted."""
    ideal = engine._reference
    reference = wrapped(Atoms(ideal.numbers, ideal.positions, cell=ideal.cell, pbc=ideal.pbc))
    found = np.zeros(len(atoms), dtype=bool)
    spans = [range(-2, 3) if periodic else range(1) for periodic in atoms.pbc]
    for cell in np.stack(np.meshgrid(*spans), axis=-1).reshape(-1, 3):
        images = reference.positions + cell @ (reference.cell.array * atoms.pbc[:, None])
        steps = images[:, None] - reference.positions[centres]
        found |= (np.linalg.norm(steps, axis=2) < engine.reach + 1e-6).any(axis=1)
    return found


@pytest.mark.parametrize("topology", ["checked", "frozen"])
@pytest.mark.parametrize(
    ("name", "matrix", "options"),
    [
        ("perovskite", np.diag([4, 4, 4]), {"n": 2, "N": 1}),
        ("perovskite", np.diag([1, 3, 5]), {"n": 4, "N": 1}),
        ("fcc", np.diag([5, 6, 5]), {"n": 3, "N": 1}),
        ("slab", np.diag([5, 5, 1]), {"n": 2, "N": 1}),
        ("wire", np.diag([1, 1, 9]), {}),
    ],
)
def test_only_atoms_within_reach_matter(name, matrix, options, topology):
    kinds = [(potential(), "distances")]
    if name == "perovskite":
        kinds.append((regressor(), "vectors"))
    for net, coordinates in kinds:
        model = model_of(name, net, coordinates=coordinates, **options)
        atoms = strayed(rattled(supercell_of(BONDED[name][0](), matrix), 0), 0)
        engine = CompiledModel(model, atoms, topology=topology)
        atoms = translated(strayed(atoms, 5), [0.2, 0.3, -0.4])  # in other images than the reference
        centres = [3, 0]
        within = reached(engine, atoms, centres)
        assert 0.01 < within.mean() < 0.8
        part = engine.restricted_to(centres)
        expected = compute(part, atoms)
        assert part.nbytes < engine.nbytes
        for value in (np.nan, np.inf, 1e6, 0.0):
            positions = atoms.positions.copy()
            positions[~within] = value
            # the first call of a new part, and a further one of another part
            for some in (engine.restricted_to(centres), part):
                found = some.compute(positions, atoms.cell.array)
                assert_array_equal(found.forces, expected.forces)
                assert_array_equal(found.extrapolating, expected.extrapolating)
                if found.energies is not None:
                    assert_array_equal(found.energies, expected.energies)
                    assert_array_equal(found.virial, expected.virial)
        assert not expected.forces[~within].any()


def test_every_atom_within_reach_is_one_that_matters():
    """`reach` is no more than needed: moving its farthest atoms changes the energy of the centre."""
    model = model_of("MoO3", potential(), n=4, N=2)
    atoms = rattled(supercell_of(BONDED["MoO3"][0](), np.diag([3, 3, 3])), 0)
    engine = CompiledModel(model, atoms)
    longest = 0.0
    for parent in range(4):
        centre = int(np.flatnonzero(atoms.get_tags() == parent)[0])
        part = engine.restricted_to([centre])
        moved = compute(part, atoms).forces.any(axis=1)
        reference = Atoms(atoms.numbers, engine._reference.positions, cell=engine._reference.cell, pbc=True)
        distances = reference.get_distances(centre, np.flatnonzero(moved), mic=True)
        longest = max(longest, distances.max())
    assert_allclose(longest, engine.reach, rtol=1e-10)


def test_no_atoms_at_all(energy_model, direct_model):
    """A part of the space may be empty."""
    atoms = rattled(perovskite() * 2, 0)
    for model in (energy_model, direct_model):
        part = CompiledModel(model, atoms, n_threads=2).restricted_to([])
        for positions in (atoms.positions, np.full((40, 3), np.nan)):
            found = part.compute(positions, atoms.cell.array)
            assert not found.forces.any()
            assert found.energy in (None, 0.0)


def test_centres_in_any_order_and_repeated(energy_model):
    atoms = rattled(perovskite() * 2, 0)
    engine = CompiledModel(energy_model, atoms)
    some, again = engine.restricted_to([7, 3]), engine.restricted_to(np.array([3, 7, 3], dtype=np.int32))
    assert_array_equal(compute(some, atoms).forces, compute(again, atoms).forces)
    fewer = compute(some.restricted_to([7]), atoms)
    assert_array_equal(fewer.energies.nonzero()[0], [7])


@pytest.mark.parametrize(
    ("centres", "problem"),
    [
        ([0, 40], "0 to 40."),
        ([-1], "-1 to -1."),
        ([0.5], "an array of float64. Of a mask, take np.flatnonzero."),
        ([True] * 40, "an array of bool. Of a mask, take np.flatnonzero."),
    ],
)
def test_centres_that_are_no_atoms(energy_model, centres, problem):
    engine = CompiledModel(energy_model, perovskite() * 2)
    message = f"centres must be numbers of atoms, 0 to 39; got {problem}"
    assert message_of(lambda: engine.restricted_to(centres)) == message


# ---- What is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positions", "cell", "problem"),
    [
        ((39, 3), (3, 3), "(39, 3) and (3, 3)"),
        ((40, 2), (3, 3), "(40, 2) and (3, 3)"),
        ((120,), (3, 3), "(120,) and (3, 3)"),
        ((1, 40, 3), (3, 3), "(1, 40, 3) and (3, 3)"),
        ((40, 3), (3,), "(40, 3) and (3,)"),
        ((40, 3), (6,), "(40, 3) and (6,)"),
    ],
)
def test_wrong_shapes(energy_model, positions, cell, problem):
    engine = CompiledModel(energy_model, perovskite() * 2)
    message = (
        f"positions must have the shape (40, 3) and cell (3, 3); got {problem}. An engine is made "
        "for the atoms of one structure."
    )
    assert message_of(lambda: engine.compute(np.zeros(positions), np.ones(cell))) == message


def test_cells_of_another_crystal(energy_model):
    atoms = perovskite() * 2
    engine = CompiledModel(energy_model, atoms)
    before = compute(engine, atoms).forces
    for cell, stretch in (
        (np.diag([12.0, 8.0, 8.0]), "1.00 to 1.50"),
        (np.diag([8.0, 8.0, 4.0]), "0.50 to 1.00"),
        (np.zeros((3, 3)), "0.00 to 0.00"),
    ):
        message = (
            f"cell must be that of the crystal: its cell is the reference's stretched by {stretch}, so it is "
            "another one or has other lattice vectors."
        )
        for _ in range(2):  # the second time, too
            assert message_of(lambda cell=cell: engine.compute(atoms.positions, cell)) == message
    message = "cell must be finite; got [[nan, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 0.0, 8.0]]."
    assert message_of(lambda: engine.compute(atoms.positions, np.diag([np.nan, 8.0, 8.0]))) == message
    assert_array_equal(compute(engine, atoms).forces, before)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("first", [True, False], ids=["in the first call", "later"])
def test_positions_that_are_not_finite(energy_model, direct_model, value, first):
    atoms = rattled(supercell_of(perovskite(), np.diag([2, 2, 3])), 0)
    positions = atoms.positions.copy()
    positions[17, 1] = value
    for model in (energy_model, direct_model):
        engine = CompiledModel(model, atoms)
        if not first:
            compute(engine, atoms)
        message = message_of(lambda engine=engine: engine.compute(positions, atoms.cell.array))
        pattern = (
            r"positions must be finite; those of atom (\d+) or an atom bonded to it are not\. The step "
            r"before this one was too long, or the model was asked for what it does not know\."
        )
        (named,) = map(int, re.fullmatch(pattern, message).groups())
        assert named == 17 or atoms.get_distance(17, named, mic=True) < 3.3
        expected = predicted(model, atoms)
        assert_says(compute(engine, atoms), expected, FAR)  # it recovers
        frozen = CompiledModel(model, atoms, topology="frozen")
        if not first:
            compute(frozen, atoms)
        found = frozen.compute(positions, atoms.cell.array)
        lost = ~np.isfinite(found.forces).all(axis=1)
        assert lost[17]
        assert found.extrapolating[17]
        assert_says(compute(frozen, atoms), expected, FAR)


def test_a_lost_atom_of_a_molecule():
    """The frames of molecules follow the positions."""
    model = model_of("methanol", regressor(), coordinates="vectors")
    atoms = BONDED["methanol"][0]()
    positions = atoms.positions.copy()
    positions[3] = np.nan
    pattern = r"^positions must be finite; those of atom \d or an atom bonded to it are not\. "
    with pytest.raises(ValueError, match=pattern):
        CompiledModel(model, atoms).compute(positions, atoms.cell.array)
    frozen = CompiledModel(model, atoms, topology="frozen")
    assert np.isnan(frozen.compute(positions, atoms.cell.array).forces).all()


def test_bonds_that_grow_too_long(energy_model, direct_model):
    ideal = perovskite() * 2
    for model in (energy_model, direct_model):
        engine = CompiledModel(model, ideal)
        atoms = ideal.copy()
        atoms.positions[6] += [0.99, 0.0, 0.0]  # Ti towards one O: 2.99 of 3.00 from the opposite one
        assert np.isfinite(compute(engine, atoms).forces).all()
        atoms.positions[6] += [0.02, 0.0, 0.0]
        found = message_of(lambda engine=engine, atoms=atoms: compute(engine, atoms))
        (first, last) = map(int, re.match(r"the bond between atoms (\d+) and (\d+) is", found).groups())
        assert found == (
            f"the bond between atoms {first} and {last} is 3.01 Angstrom, in the reference 2.00; the model "
            "knows the crystal with all its bonds only."
        )
        assert 6 in (first, last)
        assert_allclose(atoms.get_distance(first, last, mic=True), 3.01)
        frozen = CompiledModel(model, ideal, topology="frozen")
        assert np.isfinite(compute(frozen, atoms).forces).all()
        assert_says(compute(engine, ideal), predicted(model, ideal), FAR)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "half"}, "precision must be one of 'double', 'single'; got 'half'."),
        ({"topology": "reference"}, "topology must be one of 'checked', 'frozen'; got 'reference'."),
        ({"n_threads": 0}, "n_threads must be a positive whole number; got 0."),
        ({"n_threads": 1.5}, "n_threads must be a positive whole number; got 1.5."),
        ({"n_threads": None}, "n_threads must be a positive whole number; got None."),
    ],
)
def test_options_that_do_not_exist(energy_model, options, message):
    assert message_of(lambda: CompiledModel(energy_model, perovskite(), **options)) == message


def test_structures_that_do_not_fit(energy_model):
    with pytest.raises(ValueError, match=r"^structure must be 2 cells of the reference"):
        CompiledModel(energy_model, rattled(perovskite() * (2, 1, 1), 0, 2.0))
    message = (
        "structure must be a list of ase.Atoms or pymatgen Structures, got str at index 0; convert it first."
    )
    assert message_of(lambda: CompiledModel(energy_model, "BaTiO3"), TypeError) == message
    message = (
        "model must be fitted on structures; got BPNNPotential without featurizer. Use "
        "make_pipeline(CycleMomentFeaturizer(...), BPNNPotential(...)) and fit it."
    )
    assert message_of(lambda: CompiledModel(potential(), perovskite()), TypeError) == message


SORTED = "entries are sorted by value (order='value', or walks with order='depth-first')"
ALONE = {"symmetry_average": False, "symmetry_copies": 1}


def embedding(**options) -> CycleMomentFeaturizer:
    return CycleMomentFeaturizer(**{"n": 2, "N": 1, "bonds": 3.1, "reference": "first", **options})


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([embedding(order="value", frame="lab"), regressor()], SORTED),
        ([embedding(order="value", frame="lab", n=0), regressor()], SORTED),
        ([embedding(order="depth-first", frame="lab", N=0), regressor()], SORTED),
        (
            [FeatureUnion([("walks", embedding(N=0)), ("neighbours", embedding(n=0))]), regressor(**ALONE)],
            "the steps are FeatureUnion, BPNNRegressor, not CycleMomentFeaturizer and a regressor",
        ),
        (
            [embedding(), PerAtom(StandardScaler()), regressor(target="scalar", **ALONE)],
            "the steps are CycleMomentFeaturizer, PerAtom, BPNNRegressor, not CycleMomentFeaturizer and a "
            "regressor",
        ),
        (
            [embedding(), CommitteeRegressor(regressor(), n_estimators=2, random_state=0)],
            "the regressor is a CommitteeRegressor, not a BPNNRegressor or BPNNPotential",
        ),
    ],
    ids=["sorted", "sorted neighbours", "published", "union", "scaler", "committee"],
)
def test_models_without_a_compiled_path(steps, reason):
    """They run step by step, with the same numbers."""
    frames = [rattled(BONDED["MoO3"][0](), seed) for seed in range(5)]
    forces = [np.random.default_rng(seed).normal(size=(4, 3)) for seed in range(5)]
    model = make_pipeline(*steps).fit(frames, forces)
    assert why_not_compiled(fitted_steps(model)) == reason
    message = (
        f"model must have a compiled path; {reason}. Fit with topology='reference', "
        "order='direction' and dense networks, or use "
        "TinyNetCalculator, which takes any pipeline."
    )
    assert message_of(lambda: CompiledModel(model, frames[0])) == message
    calculator = TinyNetCalculator(model, warn=False, remove_net_force=False, on_extrapolation="ignore")
    assert not calculator.compiled
    frame = rattled(frames[0], 9)
    assert_array_equal(calculator.get_forces(frame), model.predict([frame])[0])
    assert isinstance(calculator._engine, PipelineEngine)
    supercell = supercell_of(frame, BLOCK)
    expected = model.predict([frame])[0][supercell.get_tags()]
    assert_allclose(calculator.get_forces(supercell), expected, atol=1e-11)


def as_keras(model: Pipeline, dense: bool) -> Pipeline:
    """The model as if its networks had come from a `build_fn`; no Keras is needed."""
    for key, net in model[-1].atom_networks_.items():
        stack = net.network
        network = KerasNetwork(
            "", tuple(stack.arrays), stack.n_inputs, stack.n_outputs, stack if dense else None
        )
        model[-1].atom_networks_[key] = replace(net, network=network)
    return model


def test_networks_from_keras():
    atoms = rattled(BONDED["MoO3"][0](), 0)
    dense = as_keras(model_of("MoO3", regressor(), coordinates="vectors", n=2), dense=True)
    assert_says(compute(CompiledModel(dense, atoms), atoms), predicted(dense, atoms))
    other = as_keras(model_of("MoO3", regressor(), coordinates="vectors", n=2), dense=False)
    message = (
        "model must have a compiled path; a network is no plain stack of dense layers. Fit with "
        "topology='reference', order='direction' and dense networks, or use TinyNetCalculator, which takes "
        "any pipeline."
    )
    assert message_of(lambda: CompiledModel(other, atoms)) == message
    assert not TinyNetCalculator(other, warn=False).compiled


def test_models_with_one_say_nothing(energy_model, direct_model):
    for model in (energy_model, direct_model):
        assert why_not_compiled(fitted_steps(model)) is None
        assert TinyNetCalculator(model, warn=False).compiled


@pytest.mark.parametrize("topology", ["checked", "frozen"])
@pytest.mark.parametrize("precision", ["double", "single"])
def test_the_engine_of_a_calculator(energy_model, topology, precision):
    """Same numbers, same options; the engine stays while the crystal does."""
    atoms = rattled(supercell_of(perovskite(), BLOCK), 0)
    calculator = atoms.calc = TinyNetCalculator(
        energy_model, topology=topology, precision=precision, on_extrapolation="ignore"
    )
    forces = atoms.get_forces()
    engine = calculator._engine
    assert (engine.topology, engine.precision) == (topology, precision)
    found = compute(CompiledModel(energy_model, atoms, precision=precision), atoms)
    assert_array_equal(forces, found.forces)
    assert_allclose(atoms.get_stress(voigt=False), found.virial / atoms.get_volume(), rtol=1e-12, atol=1e-16)
    assert_array_equal(atoms.get_potential_energies(), found.energies)
    assert_array_equal(calculator.results["extrapolating"], found.extrapolating)
    other = atoms[np.random.default_rng(1).permutation(len(atoms))]
    calculator.get_forces(other)
    assert calculator._engine is not engine


# ---- Beyond the training -----------------------------------------------------------------------------------


def outside(model: Pipeline, atoms: Atoms) -> np.ndarray:
    """Whether features of atoms lie beyond the ranges of the training of their networks."""
    features = model[0].adapted_to(atoms).transform([atoms])
    net = model[-1]
    keys = (potential_keys if isinstance(net, BPNNPotential) else network_keys)(features, net.networks)
    found = np.zeros(len(atoms), dtype=bool)
    for row, key in enumerate(keys):
        inputs = net.atom_networks_[int(key)].inputs
        lower, upper = inputs.limits()
        values = features.values[row, inputs.columns]
        found[row] = not ((values >= lower[inputs.columns]) & (values <= upper[inputs.columns])).all()
    return found


@pytest.mark.parametrize("networks", ["per-species", "per-site", "shared"])
@pytest.mark.parametrize("kind", [potential, regressor])
def test_extrapolating_atoms(networks, kind):
    """The flags are those of the ranges of the networks, as `ColumnScaling.outside` tells them."""
    options = {"coordinates": "distances" if kind is potential else "vectors"}
    featurizer = featurizer_of("rutile", n=2, N=1, **options)
    frames = [rattled(BONDED["rutile"][0](), seed, 0.05) for seed in range(40)]
    features = featurizer.transform(frames)
    targets = PerAtomArray(
        np.random.default_rng(0).normal(size=(len(features.values), 3)), features.offsets, features.species
    )
    net = kind(networks=networks).fit(features, {"forces": targets} if kind is potential else targets)
    model = make_pipeline(featurizer, net)
    known = supercell_of(frames[0], BLOCK)
    assert not compute(CompiledModel(model, known), known).extrapolating.any()
    for seed, amplitude in ((50, 0.06), (51, 0.1)):
        atoms = rattled(supercell_of(BONDED["rutile"][0](), BLOCK), seed, amplitude)
        expected = outside(model, atoms)
        for precision in ("double", "single"):
            engine = CompiledModel(model, atoms, precision=precision)
            assert_array_equal(compute(engine, atoms).extrapolating, expected)
        assert expected.any()
    displaced = known.copy()
    displaced.positions[7] += [0.6, -0.3, 0.2]
    flags = compute(CompiledModel(model, known), displaced).extrapolating
    assert_array_equal(flags, outside(model, displaced))
    assert flags[7]
    assert not flags.all()


def test_models_that_do_not_know_their_ranges():
    """As those of earlier versions."""
    model = model_of("MoO3", potential(), n=2, N=1)
    for network in model[-1].atom_networks_.values():
        object.__setattr__(network.inputs, "low", None)
        object.__setattr__(network.inputs, "high", None)
    atoms = rattled(BONDED["MoO3"][0]() * 2, 0)
    assert compute(CompiledModel(model, atoms), atoms).extrapolating is None
    atoms.calc = TinyNetCalculator(model)
    assert atoms.get_forces().any()
    assert "extrapolating" not in atoms.calc.results


def test_a_lost_atom_spoils_its_surroundings_only():
    model = model_of("MoO3", potential(), n=2, N=1)
    atoms = rattled(supercell_of(BONDED["MoO3"][0](), np.diag([4, 4, 4])), 0)
    engine = CompiledModel(model, atoms, topology="frozen")
    expected = compute(engine, atoms)
    positions = atoms.positions.copy()
    positions[17] = np.nan
    found = engine.compute(positions, atoms.cell.array)
    near = reached(engine, atoms, [17])
    assert_array_equal(np.isnan(found.energies), near)
    assert_array_equal(found.energies[~near], expected.energies[~near])
    assert_array_equal(found.extrapolating[near], True)
    assert np.isnan(found.energy)
