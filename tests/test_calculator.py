"""`TinyNetCalculator` in the hands of ASE: dynamics, relaxation, strain, trajectories, supercells."""

import copy
import json
import pickle
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, make_supercell
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import Trajectory, read
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from crystals import rattled
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from symmetry import random_rotation, rotated

from tinynet_sklearn import (
    BPNNPotential,
    BPNNRegressor,
    CompiledModel,
    CutoffBonds,
    CycleMomentFeaturizer,
    PerAtom,
    PerAtomArray,
    PotentialTargets,
    SmoothMomentFeaturizer,
    TinyNetCalculator,
    load_batio3,
    load_moo3,
    load_pretrained,
)

DEPTH, WIDTH, LENGTH, LATTICE = 0.35, 1.4, 2.55, 3.606  # a Morse bond, roughly copper; fcc at its minimum


class MorseBonds(BaseEstimator):
    """A potential that is known exactly: Morse energy of every bond, from the neighbour columns alone."""

    def __init__(self, volume_per_atom=None):
        self.volume_per_atom = volume_per_atom

    def fit(self, X, y=None):
        self.is_fitted_ = True
        return self

    def predict(self, X, output="energy"):
        vectors = X.values.reshape(len(X.values), -1, 3)
        r = np.linalg.norm(vectors, axis=2)
        bonded = r > 0
        x = np.exp(-WIDTH * (np.where(bonded, r, LENGTH) - LENGTH))
        energies = np.where(bonded, 0.5 * DEPTH * (x * x - 2.0 * x), 0.0).sum(axis=1)
        slopes = np.where(bonded, -2.0 * WIDTH * DEPTH * (x * x - x), 0.0) / np.where(bonded, r, 1.0)
        forces = (slopes[:, :, None] * vectors).sum(axis=1)
        stress = None
        if self.volume_per_atom is not None:
            lab = np.einsum("nba,nmb->nma", X.frames.rotations, vectors)
            virial = 0.5 * np.einsum("nm,nma,nmb->ab", slopes, lab, lab)
            voigt = virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            stress = voigt[None] / (self.volume_per_atom * len(r))
        per_structure = np.add.reduceat(energies, X.offsets[:-1])
        if output == "energy":
            return per_structure
        lab = PerAtomArray(X.frames.to_lab(forces), X.offsets, X.species)
        return PotentialTargets(per_structure, lab, stress)


def copper() -> Atoms:
    return bulk("Cu", "fcc", a=LATTICE, cubic=True)


def morse_pipeline(reference: Atoms, volume_per_atom=LATTICE**3 / 4) -> Pipeline:
    embedding = CycleMomentFeaturizer(n=0, N=1, bonds=CutoffBonds(3.0, heteroatomic=False), reference="first")
    return make_pipeline(embedding, MorseBonds(volume_per_atom)).fit([reference])


@pytest.fixture(scope="module")
def morse() -> Pipeline:
    return morse_pipeline(copper())


@pytest.fixture(scope="module")
def direct() -> Pipeline:
    data = load_batio3()
    return make_pipeline(
        CycleMomentFeaturizer(n=4, N=2, paths="simple", bonds=data.bonds),
        BPNNRegressor((6,), symmetry_average=False, early_stopping=True, max_iter=60, random_state=0),
    ).fit(data.structures[:40], data.target[:40])


def thermalise(atoms: Atoms, temperature: float) -> None:
    """Velocities of a temperature (K), the centre of mass at rest."""
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(spread * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    atoms.set_velocities(atoms.get_velocities() - atoms.get_momenta().sum(axis=0) / atoms.get_masses().sum())


def quiet(model, **options) -> TinyNetCalculator:
    return TinyNetCalculator(model, warn=False, **options)


# ---- Models with an energy ---------------------------------------------------------------------------------


def test_results_of_a_model_with_energy(morse):
    atoms = rattled(copper() * (2, 2, 2), 0)
    atoms.calc = TinyNetCalculator(morse)
    assert atoms.calc.mode == "energy"
    assert atoms.calc.implemented_properties == ["energy", "free_energy", "forces", "stress"]
    energy = atoms.get_potential_energy()
    assert isinstance(energy, float)
    assert atoms.get_potential_energy(force_consistent=True) == energy
    assert sorted(atoms.calc.results) == ["energy", "forces", "free_energy", "stress"]
    assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-7)
    assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-7)
    assert atoms.get_stress(voigt=False).shape == (3, 3)


def test_energies_of_supercells_are_multiples(morse):
    frame = rattled(copper(), 1)
    calculator = TinyNetCalculator(morse)
    frame.calc = calculator
    energy, forces, stress = frame.get_potential_energy(), frame.get_forces(), frame.get_stress()
    for matrix in (np.diag([2, 1, 3]), [[1, 1, 0], [-1, 1, 0], [0, 0, 1]]):
        tagged = frame.copy()
        tagged.set_tags(range(4))
        supercell = make_supercell(tagged, matrix)[::-1]
        supercell.calc = calculator  # the same one: the topology follows
        assert_allclose(supercell.get_potential_energy(), len(supercell) / 4 * energy, rtol=1e-12)
        assert_allclose(supercell.get_forces(), forces[supercell.get_tags()], atol=1e-12)
        assert_allclose(supercell.get_stress(), stress, atol=1e-12)


@pytest.mark.parametrize("inside", [False, True], ids=["pipeline", "potential"])
def test_a_learned_potential(inside):
    data = load_batio3()
    embedding = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances")
    potential = BPNNPotential((3,), max_iter=2, random_state=0)
    targets = {"energy": data.energies[:30], "forces": data.target[:30]}
    model = potential.set_params(featurizer=embedding) if inside else make_pipeline(embedding, potential)
    model.fit(data.structures[:30], targets)
    frame = data.structures[50].copy()
    frame.calc = TinyNetCalculator(model)
    predicted = model.predict([frame], output="all")
    assert_allclose(frame.get_potential_energy(), predicted.energy[0], rtol=1e-14)
    assert_allclose(frame.get_forces(), predicted.forces[0], atol=1e-13)
    assert_allclose(frame.get_stress(), predicted.stress[0], atol=1e-15)
    energies = model.predict([frame], output="energies").values[:, 0]
    assert_allclose(frame.get_potential_energies(), energies, rtol=1e-13)
    assert frame.calc.compiled
    assert not frame.calc.results["extrapolating"].any()
    atoms = frame * (1, 1, 2)
    atoms.calc = TinyNetCalculator(model)
    assert_allclose(atoms.get_potential_energy(), 2 * predicted.energy[0], rtol=1e-12)
    few = np.array([0, 7, 30])
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=few)
    assert_allclose(atoms.get_forces()[few], numerical, atol=1e-6)
    assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), atol=1e-6)


def test_dynamics_conserve_energy(morse):
    atoms = copper() * 2
    atoms.calc = TinyNetCalculator(morse)
    thermalise(atoms, 300)
    before = atoms.get_total_energy()
    VelocityVerlet(atoms, timestep=2 * units.fs).run(50)
    assert abs(atoms.get_total_energy() - before) < 2e-4 * len(atoms)


def test_relaxation(morse):
    atoms = rattled(copper() * 2, 2)
    atoms.calc = TinyNetCalculator(morse)
    assert BFGS(atoms, logfile=None).run(fmax=1e-3, steps=60)
    assert_allclose(atoms.get_potential_energy(), -6 * DEPTH * len(atoms), atol=1e-3)


def test_trajectories_can_be_read_back(morse, tmp_path):
    atoms = rattled(copper(), 3)
    atoms.calc = TinyNetCalculator(morse)
    thermalise(atoms, 300)
    with Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory:
        dynamics = VelocityVerlet(atoms, timestep=units.fs, logfile=str(tmp_path / "run.log"))
        dynamics.attach(trajectory.write, interval=1)
        dynamics.run(3)
    frames = read(tmp_path / "run.traj", ":")
    assert len(frames) == 4
    assert isinstance(frames[-1].calc, SinglePointCalculator)
    assert frames[-1].calc.name == "tinynet"
    assert frames[-1].get_potential_energy() == atoms.get_potential_energy()
    assert_array_equal(frames[-1].get_forces(), atoms.get_forces())
    assert_array_equal(frames[-1].get_stress(), atoms.get_stress())
    described = {"mode": "energy", "model": "CycleMomentFeaturizer -> MorseBonds"}
    assert frames[-1].calc.parameters == described


def test_without_periodicity_there_is_no_stress():
    cluster = copper() * 2
    cluster.pbc = False
    cluster.calc = TinyNetCalculator(morse_pipeline(cluster))
    assert cluster.get_potential_energy() < 0.0
    with pytest.raises(PropertyNotImplementedError, match=r"^stress not present in this calculation$"):
        cluster.get_stress()


# ---- Results are kept --------------------------------------------------------------------------------------


def test_what_makes_results_stale(morse):
    atoms = rattled(copper(), 4)
    calculator = atoms.calc = TinyNetCalculator(morse)
    energy = atoms.get_potential_energy()
    assert calculator.check_state(atoms) == []
    forces = atoms.get_forces()
    forces[:] = 0.0  # a copy
    assert atoms.get_forces().any()
    atoms.set_initial_charges([1.0, 0, 0, 0])
    atoms.set_initial_magnetic_moments([1.0, 0, 0, 0])
    assert calculator.check_state(atoms) == []
    atoms.positions[0, 0] += 0.01
    assert calculator.check_state(atoms) == ["positions"]
    assert atoms.get_potential_energy() != energy
    assert atoms.copy().calc is None
    twin = atoms.copy()
    twin.calc = copy.deepcopy(calculator)
    assert twin.get_potential_energy() == atoms.get_potential_energy()
    again = pickle.loads(pickle.dumps(calculator))
    assert again.get_potential_energy(atoms) == atoms.get_potential_energy()


def test_the_topology_stays_while_the_crystal_does(morse):
    atoms = copper() * 2
    calculator = atoms.calc = TinyNetCalculator(morse)
    atoms.get_forces()
    laid_out = calculator._engine
    atoms.positions += 0.01
    atoms.get_forces()
    assert calculator._engine is laid_out
    atoms.set_cell(1.02 * atoms.cell.array, scale_atoms=True)  # as a barostat would
    atoms.get_forces()
    assert calculator._engine is laid_out
    calculator.get_forces(atoms * (1, 1, 2))
    assert calculator._engine is not laid_out


def test_parameters(direct):
    calculator = quiet(direct)
    assert calculator.todict() == {
        "mode": "direct",
        "model": "CycleMomentFeaturizer -> BPNNRegressor",
        "warn": False,
    }
    assert json.loads(json.dumps(calculator.todict(skip_default=False)))["remove_net_force"] is True
    atoms = load_batio3().structures[50]
    net = [abs(calculator.get_forces(atoms).sum(axis=0)).max()]
    assert calculator.set(remove_net_force=False) == {"remove_net_force": False}
    assert calculator.results == {}
    net.append(abs(calculator.get_forces(atoms).sum(axis=0)).max())
    assert net[0] < 1e-12 < 1e-3 < net[1]
    message = (
        "parameters must be among topology, precision, on_extrapolation, n_threads, remove_net_force, warn; "
        "got cutoff. A calculator keeps its model: make another one for another model."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        calculator.set(cutoff=3.0)
    for wrong, message in (
        ({"precision": "half"}, "precision must be one of 'double', 'single'; got 'half'."),
        ({"n_threads": 0}, "n_threads must be a positive whole number; got 0."),
        ({"n_threads": "2"}, "n_threads must be a positive whole number; got '2'."),
        ({"remove_net_force": "no"}, "remove_net_force must be True or False; got 'no'."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            calculator.set(**wrong)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            TinyNetCalculator(direct, **wrong)
    double = calculator.get_forces(atoms)
    calculator.set(precision="single")
    assert 0 < abs(calculator.get_forces(atoms) - double).max() < 1e-5


# ---- Direct forces -----------------------------------------------------------------------------------------


def test_direct_forces_are_those_of_the_pipeline(direct):
    atoms = load_batio3().structures[50]
    calculator = quiet(direct, remove_net_force=False)
    assert calculator.mode == "direct"
    assert calculator.implemented_properties == ["forces"]
    assert_allclose(calculator.get_forces(atoms), direct.predict([atoms])[0], atol=1e-12)


def test_direct_forces_on_a_supercell(direct):
    frame = load_batio3().structures[50].copy()
    frame.set_tags(range(len(frame)))
    expected = quiet(direct).get_forces(frame)
    supercell = make_supercell(frame, [[1, 1, 0], [-1, 1, 0], [0, 0, 2]])
    supercell = supercell[np.random.default_rng(0).permutation(len(supercell))]
    assert_allclose(quiet(direct).get_forces(supercell), expected[supercell.get_tags()], atol=1e-10)


def test_forces_turn_with_the_crystal(morse):
    frame, turn = rattled(copper() * 2, 5), random_rotation(1)
    still, turned = TinyNetCalculator(morse), TinyNetCalculator(morse)
    forces = turned.get_forces(rotated(frame, turn))
    assert_allclose(forces, still.get_forces(frame) @ turn.T, atol=1e-10)


def test_the_warning_comes_once(direct):
    message = (
        "the model predicts forces that are not the gradient of an energy: NVE dynamics will not conserve "
        "energy, and a relaxation minimises nothing. Use a thermostat, or a model with an energy "
        "(BPNNPotential); TinyNetCalculator(model, warn=False) is silent."
    )
    atoms = load_batio3().structures[50].copy()
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$") as caught:
        atoms.calc = TinyNetCalculator(direct)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    atoms.get_forces()  # would raise, were it to warn again
    TinyNetCalculator(direct, warn=False).get_forces(atoms)


def test_a_thermostat_needs_forces_alone(direct, tmp_path):
    atoms = load_batio3().structures[0].copy()
    atoms.calc = quiet(direct)
    thermalise(atoms, 100)
    with Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory:
        dynamics = Langevin(
            atoms, units.fs, temperature_K=100, friction=0.02, rng=np.random.default_rng(0), fixcm=False,
            logfile=None,
        )  # fmt: skip
        dynamics.attach(trajectory.write, interval=5)
        dynamics.run(5)
    assert_array_equal(read(tmp_path / "run.traj").get_forces(), atoms.get_forces())


@pytest.mark.parametrize("name", ["energy", "free_energy", "stress"])
def test_direct_models_have_no_energy(direct, name):
    message = (
        f"{name} is not available: the model predicts forces alone, which are not the gradient of an energy; "
        "fit one with an energy (BPNNPotential), or use ASE's dynamics with logfile=None and a thermostat, "
        "which need forces alone."
    )
    with pytest.raises(PropertyNotImplementedError, match=f"^{re.escape(message)}$"):
        quiet(direct).get_property(name, load_batio3().structures[0])
    with pytest.raises(PropertyNotImplementedError, match=r"^dipole property not implemented$"):
        quiet(direct).get_property("dipole", load_batio3().structures[0])


# ---- Models of many kinds ----------------------------------------------------------------------------------


def test_pipelines_of_several_parts():
    """Transformers of rows, a union of featurizers, a search around it all."""
    data = load_moo3()
    union = FeatureUnion(
        [
            ("walks", CycleMomentFeaturizer(n=4, N=0, bonds=data.bonds)),
            ("neighbours", CycleMomentFeaturizer(n=0, N=1, bonds=data.bonds)),
        ]
    )
    net = BPNNRegressor(
        (3,), symmetry_average=False, symmetry_copies=1, target="vector", early_stopping=True, max_iter=20,
        random_state=0,
    )  # fmt: skip
    pipeline = Pipeline([("embed", union), ("nothing", "passthrough"), ("net", net)])
    search = GridSearchCV(pipeline, {"net__alpha": [1e-3]}, cv=2)
    search.fit(data.structures[:20], data.target[:20])
    frame = data.structures[30]
    forces = quiet(search, remove_net_force=False, on_extrapolation="ignore").get_forces(frame * (1, 2, 1))
    assert_allclose(forces, np.tile(search.predict([frame])[0], (2, 1)), atol=1e-10)
    scaled = make_pipeline(union, PerAtom(StandardScaler()), net.set_params(target="scalar"))
    scaled.fit(data.structures[:20], data.target[:20])
    assert quiet(scaled, on_extrapolation="ignore").get_forces(frame).shape == (16, 3)


@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (
            BPNNRegressor(),
            TypeError,
            "model must be fitted on structures; got BPNNRegressor without featurizer. Use "
            "make_pipeline(CycleMomentFeaturizer(...), BPNNPotential(...)) and fit it.",
        ),
        (
            make_pipeline(StandardScaler(), BPNNRegressor()),
            ValueError,
            "model must begin with a CycleMomentFeaturizer; got a pipeline of StandardScaler, BPNNRegressor. "
            "Put the featurizer into the pipeline and fit it on structures.",
        ),
        (
            make_pipeline(CycleMomentFeaturizer(), BPNNRegressor()),
            NotFittedError,
            "model must be fitted; its step 'cyclemomentfeaturizer' (CycleMomentFeaturizer) is not. Call "
            "model.fit(structures, targets) first, or read a fitted model with load_model.",
        ),
    ],
    ids=["no structures", "no featurizer", "not fitted"],
)
def test_models_that_cannot_be_used(model, kind, message):
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        TinyNetCalculator(model)


def test_densities_of_states():
    data = load_moo3()
    densities = [np.ones((len(atoms), 7)) * np.arange(7) for atoms in data.structures[:6]]
    model = make_pipeline(
        CycleMomentFeaturizer(n=2, N=0, bonds=data.bonds),
        BPNNRegressor((), symmetry_average=False, target_scaler=None, max_iter=5, tol=0.1),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(data.structures[:6], densities)
    atoms = data.structures[20]
    calculator = TinyNetCalculator(
        model, on_extrapolation="ignore"
    )  # silent: these are no forces that could be used in the wrong way
    assert calculator.implemented_properties == ["ldos"]
    assert_allclose(calculator.get_property("ldos", atoms), model.predict([atoms])[0], atol=1e-12)
    message = (
        "forces is not available: the model predicts 7 numbers for each atom, such as a density of states; "
        "they are the property 'ldos'."
    )
    with pytest.raises(PropertyNotImplementedError, match=f"^{re.escape(message)}$"):
        calculator.get_forces(atoms)


@pytest.mark.parametrize("how", ["warn", "raise", "ignore"])
def test_extrapolation(direct, how):
    atoms = load_batio3().structures[0].copy()
    calculator = quiet(direct, on_extrapolation=how)
    calculator.get_forces(atoms)  # it was trained on this one
    assert not calculator.results["extrapolating"].any()
    atoms.positions[3, 0] += 0.9
    said = "atoms are in surroundings that the model was not trained on, the first one being atom "
    if how == "raise":
        with pytest.raises(ValueError, match=said):
            calculator.get_forces(atoms)
        return
    if how == "warn":
        atoms.calc = calculator
        with pytest.warns(UserWarning, match=said) as caught:
            atoms.get_forces()
        assert caught.pop(UserWarning).filename == __file__  # not a line of ASE or ours
    calculator.get_forces(atoms)
    atoms.positions[3, 0] += 0.01
    calculator.get_forces(atoms)  # once is enough
    assert calculator.results["extrapolating"][3]
    assert not calculator.results["extrapolating"].all()


def test_models_that_do_not_know_their_ranges(morse):
    message = (
        "on_extrapolation='raise' needs a model that knows the ranges of its inputs in training; this "
        "MorseBonds does not (models saved by early versions do not, nor do committees). Fit it again, or "
        "use 'warn' or 'ignore'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        TinyNetCalculator(morse, on_extrapolation="raise")


@pytest.mark.parametrize("compiled", [True, False])
def test_a_cell_that_blows_up(direct, morse, compiled):
    atoms = load_batio3().structures[0].copy() if compiled else copper()
    atoms.calc = quiet(direct if compiled else morse, on_extrapolation="ignore")
    atoms.get_forces()
    atoms.set_cell(1.5 * atoms.cell.array, scale_atoms=True)
    message = (
        r"the crystal has left what the model knows: its cell is the reference's stretched by 1\.\d\d to "
        r"1\.\d\d, so it is another one or has other lattice vectors \(structure must be the reference .*"
        r"\)\.\n"
        r"A simulation that gets there needs a lower pressure or temperature, a slower barostat, or a better "
        r"model\."
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        atoms.get_forces()


def test_workers_and_threads():
    """What a calculator works in belongs to one process and one call; joblib maps its tables read-only."""
    atoms = load_batio3().structures[0] * (2, 2, 2)
    engine = CompiledModel(load_pretrained("batio3"), atoms, n_threads=2)
    frames = [rattled(atoms, seed, 0.02).positions for seed in range(8)]

    def energy(positions):
        return engine.compute(positions, atoms.cell.array).energy

    expected = [energy(positions) for positions in frames]
    with ThreadPoolExecutor(4) as threads:
        assert_allclose(list(threads.map(energy, frames)), expected, rtol=1e-14)
    tables = [array for table in (engine._model, engine._pairs, engine._lanes) for array in table]
    for array in tables:
        array.flags.writeable = False
    assert_allclose(energy(frames[3]), expected[3], rtol=1e-14)
    assert len(pickle.dumps(engine)) < 1.2 * sum(array.nbytes for array in tables) + 1e6


def test_structures_of_another_crystal(morse):
    atoms = copper() * 2
    atoms.positions[5] += [1.8, 0.0, 0.0]
    calculator = TinyNetCalculator(morse)
    message = (
        "structure must be 8 cells of the reference (4 atoms), displaced by thermal motion and strained by a "
        "few percent at most; atom 5 (Cu) has no partner, no Cu site of the crystal being within 1.5 "
        "Angstrom (1 of 32 atoms have none). Start from supercells of the crystal that the model was fitted "
        "on, or fit the model on this structure."
    )
    for _ in range(2):  # the second time, too
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            calculator.get_forces(atoms)


def test_atoms_that_leave_their_bonds(morse):
    atoms = copper() * 2
    atoms.calc = TinyNetCalculator(morse)
    atoms.get_forces()
    atoms.positions[5] += [1.6, 0.0, 0.0]
    message = (
        "atoms must keep the bonds and the order that they had in the first call: X has structures that do "
        "not share the reference's bonds:\n"
        "  structure 0: the bond between atoms 5 and 22 is 3.85 Angstrom, in the reference 2.55; fit on "
        "structures that keep their bonds and the order of their atoms.\n"
        "A simulation that gets there needs a smaller time step, a lower temperature or a better model; "
        "atoms in another order need a calculator of their own."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        atoms.get_forces()


def test_a_pipeline_as_featurizer_runs_in_supercells():
    data = load_batio3()
    embedding = CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds, coordinates="distances")
    net = BPNNPotential((4,), featurizer=make_pipeline(embedding), max_iter=3, random_state=0)
    net.fit(data.structures[:8], data.target[:8])
    cell = data.structures[0].copy()
    double = cell * (1, 2, 1)
    cell.calc, double.calc = TinyNetCalculator(net), TinyNetCalculator(net)
    assert_allclose(double.get_potential_energy(), 2 * cell.get_potential_energy())


def test_a_smooth_pipeline():
    frames = [bulk("Cu", cubic=True) for _ in range(4)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
    net = BPNNPotential((4,), max_iter=3, random_state=0)
    model = make_pipeline(SmoothMomentFeaturizer(n=2, cutoff=4.0, n_pair=4), net).fit(frames)
    atoms = frames[0].copy()
    atoms.calc = TinyNetCalculator(model)
    assert_allclose(atoms.get_forces(), model.predict([atoms])[0])
    close = atoms.copy()
    close.positions[1] = close.positions[0] + [0.0, 0.0, 1e-4]
    close.calc = TinyNetCalculator(model)
    with pytest.raises(ValueError, match=r"^structures have no smooth moments"):
        close.get_forces()
