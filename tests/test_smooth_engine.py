"""`SmoothEngine` says what the pipeline says, step after step."""

import pickle

import numpy as np
import pytest
from ase.build import molecule
from crystals import methanol, perovskite, rattled, slab, wire
from derivatives import gradient_of, virial_of
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline

from tinynet_sklearn import BPNNPotential, BPNNRegressor, CycleMomentFeaturizer, SmoothMomentFeaturizer
from tinynet_sklearn.evaluation import fitted_steps
from tinynet_sklearn.smooth_engine import SmoothEngine, is_smooth
from tinynet_sklearn.structures import as_structures

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

STRUCTURES = {"perovskite": perovskite, "slab": slab, "wire": wire, "methanol": methanol}


def moments(**settings):
    return SmoothMomentFeaturizer(**{"n": 3, "cutoff": 4.0, "n_pair": 3, "n_triangle": 2, **settings})


def fitted(frames, **settings):
    """A potential of random forces, which has seen every column vary."""
    rng = np.random.RandomState(0)
    net = BPNNPotential(**{"hidden_layer_sizes": (5, 3), "max_iter": 4, "random_state": 0, **settings})
    forces = [rng.randn(len(frame), 3) for frame in frames]
    return make_pipeline(moments(), net).fit(frames, {"forces": forces})


def thermal(atoms, n=6, amplitude=0.1):
    return [rattled(atoms, seed, amplitude) for seed in range(n)]


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


def assert_predicts(found, model, atoms):
    expected = model.predict([atoms], output="all")
    energies = model.predict([atoms], output="energies").values[:, 0]
    assert_allclose(found.energies, energies, rtol=1e-12, atol=1e-12)
    assert_allclose(found.energy, expected.energy[0], rtol=1e-12, atol=1e-12)
    assert_allclose(found.forces, expected.forces.values, rtol=1e-10, atol=1e-11)
    if atoms.pbc.all():
        stress = found.virial.ravel()[[0, 4, 8, 5, 2, 1]] / atoms.get_volume()
        assert_allclose(stress, expected.stress[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("networks", ["per-species", "shared"])
def test_it_predicts_what_the_pipeline_does(name, networks):
    frames = thermal(STRUCTURES[name]())
    model = fitted(frames, networks=networks)
    atoms, rng = frames[0].copy(), np.random.default_rng(0)
    engine = SmoothEngine(model, atoms)
    for step in range(12):
        assert_predicts(engine.compute(atoms.positions, atoms.cell.array), model, atoms)
        atoms.positions += rng.normal(0.0, 0.05, atoms.positions.shape)
        if step % 4 == 2:
            atoms.wrap()
        if step % 4 == 3:
            atoms.set_cell(atoms.cell.array * rng.uniform(0.98, 1.02, 3), scale_atoms=True)
    assert engine.mode == "energy"
    assert engine.reach == 4.0
    assert 1 <= engine.n_builds < 6
    assert repr(engine) == f"<SmoothEngine: energy, {len(atoms)} atoms, {engine.n_builds} lists>"


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": "softplus", "dtype": "float32"},
        {"hidden_layer_sizes": ()},
        {"activation": "sigmoid", "scaler": "minmax"},
        {"scaler": None},
    ],
)
def test_networks_of_any_form(settings):
    frames = thermal(methanol())
    model = fitted(frames, **settings)
    engine = SmoothEngine(model, frames[0])
    for atoms in frames:
        assert_predicts(engine.compute(atoms.positions, atoms.cell.array), model, atoms)


def test_forces_are_differences_of_the_energy():
    frames = thermal(perovskite())
    engine = SmoothEngine(fitted(frames), frames[0])
    atoms = frames[1]

    def energy(others):
        return np.array([engine.compute(other.positions, other.cell.array).energy for other in others])

    found = engine.compute(atoms.positions, atoms.cell.array)
    assert_allclose(found.forces, -gradient_of(energy, atoms), rtol=1e-5, atol=1e-6)
    assert_allclose(found.virial, virial_of(energy, atoms), rtol=1e-5, atol=1e-6)


def test_the_skin_changes_nothing():
    frames = thermal(slab())
    model = fitted(frames)
    engines = [SmoothEngine(model, frames[0], skin=skin) for skin in (0.0, 0.3, 3.0)]
    for atoms in frames:
        first, *others = (engine.compute(atoms.positions, atoms.cell.array) for engine in engines)
        for found in others:
            assert_allclose(found.forces, first.forces, rtol=1e-11, atol=1e-12)
    assert engines[0].n_builds == len(frames)
    assert engines[2].n_builds == 1


def test_atoms_that_extrapolate():
    frames = thermal(perovskite(), n=30)
    engine = SmoothEngine(fitted(frames), frames[0])
    assert not engine.compute(frames[3].positions, frames[3].cell.array).extrapolating.any()
    displaced = frames[3].positions.copy()
    displaced[2] += [0.6, 0.6, 0.5]
    assert engine.compute(displaced, frames[3].cell.array).extrapolating[2]


def test_models_that_do_not_know_their_ranges():
    frames = thermal(methanol())
    model = fitted(frames)
    for network in model[-1].atom_networks_.values():
        object.__setattr__(network.inputs, "low", None)
    assert SmoothEngine(model, frames[0]).compute(frames[0].positions, np.zeros((3, 3))).extrapolating is None


def test_which_structures_fit():
    atoms = perovskite()
    engine = SmoothEngine(fitted(thermal(atoms)), atoms)

    def fits(change):
        other = atoms.copy()
        change(other)
        return engine.fits(as_structures([other])[0])

    assert fits(lambda a: a.rattle(0.5))
    assert fits(lambda a: a.set_cell([9.0, 8, 7]))
    assert not fits(lambda a: a.set_pbc([True, True, False]))
    assert not fits(lambda a: a.pop(0))
    assert not fits(lambda a: a.numbers.__setitem__(0, 8))


def test_copies_go_on():
    frames = thermal(methanol())
    engine = SmoothEngine(fitted(frames), frames[0])
    found = engine.compute(frames[1].positions, np.zeros((3, 3)))
    again = pickle.loads(pickle.dumps(engine)).compute(frames[1].positions, np.zeros((3, 3)))
    assert_array_equal(again.forces, found.forces)


def test_which_models_are_smooth():
    frames = thermal(methanol())
    assert is_smooth(fitted_steps(fitted(frames)))
    inside = BPNNPotential((3,), featurizer=moments(), max_iter=1)
    inside.fit(frames, {"forces": [np.ones((6, 3))] * len(frames)})
    assert is_smooth(fitted_steps(inside))
    crystals = thermal(perovskite())
    direct = make_pipeline(CycleMomentFeaturizer(n=2, N=1), BPNNRegressor((3,), max_iter=1))
    direct.fit(crystals, [np.ones((5, 3))] * len(crystals))
    assert not is_smooth(fitted_steps(direct))
    assert message_of(ValueError, lambda: SmoothEngine(direct, crystals[0])) == (
        "model must be a SmoothMomentFeaturizer followed by a BPNNPotential; got CycleMomentFeaturizer, "
        "BPNNRegressor. TinyNetCalculator takes any pipeline."
    )
    with pytest.raises(NotFittedError):
        SmoothEngine(make_pipeline(moments(), BPNNPotential()), frames[0])


def test_what_it_refuses():
    frames = thermal(methanol())
    model = fitted(frames)
    assert message_of(ValueError, lambda: SmoothEngine(model, molecule("NH3"))) == (
        "structure must hold species that were seen in fit (H, C, O); got N. Fit on structures that contain "
        "them."
    )
    engine = SmoothEngine(model, frames[0])
    assert message_of(ValueError, lambda: engine.compute(np.zeros((5, 3)), np.eye(3))) == (
        "positions must have the shape (6, 3) and cell (3, 3); got (5, 3) and (3, 3). An engine is made "
        "for the atoms of one structure."
    )
    broken = frames[0].positions.copy()
    broken[1] = np.nan
    assert message_of(ValueError, lambda: engine.compute(broken, np.zeros((3, 3)))) == (
        "atoms has structures that cannot be used:\n  structure 0, atom 1: position is [nan nan nan]; remove "
        "it."
    )
