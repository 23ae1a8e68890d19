"""Forces and densities of states in one call: heads, engines, and the calculator of a joint model."""

import copy
import pickle

import numpy as np
import pytest
from ase.build import make_supercell
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import Trajectory, read
from crystals import BONDED, perovskite, rattled
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import Pipeline, make_pipeline

from tinynet_sklearn import (
    LDOS,
    BPNNPotential,
    BPNNRegressor,
    CommitteeRegressor,
    CompiledModel,
    CycleMomentFeaturizer,
    EnergyGrid,
    MultiTargetRegressor,
    PerAtomArray,
    PotentialTargets,
    SmoothMomentFeaturizer,
    TargetSet,
    TinyNetCalculator,
    load_batio3,
    load_model,
    load_moo3,
    run_dynamics,
    save_model,
    split_model,
)
from tinynet_sklearn.heads import JointEngine, heads_of
from tinynet_sklearn.pipelines import PipelineEngine

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

GRID = EnergyGrid(np.linspace(-2.0, 2.0, 9), width=0.3, zero="vbm")
OBLIQUE = ((2, 1, 0), (0, 1, 1), (1, 0, 2))
BLOCK = ((1, 0, 0), (0, 1, 0), (0, 0, 2))

#: Ways to learn curves, each with something of its own behind the last layer.
WAYS = {
    "plain": {},
    "components": {"n_components": 3},
    "cumulative": {"cumulative_weight": 2.0},
    "positive": {"output": "positive"},
    "normalized": {"output": "normalized", "cumulative_weight": 0.5},
    "linear": {"hidden_layer_sizes": ()},
    "by columns": {"target_scaler": "standard"},
}


def net(**settings):
    given = {"hidden_layer_sizes": (5, 4), "max_iter": 2, "random_state": 0}
    return BPNNRegressor(**{**given, **settings})


def potential(**settings):
    given = {"hidden_layer_sizes": (5, 4), "max_iter": 2, "random_state": 0}
    return BPNNPotential(**{**given, **settings})


def data_of(name="perovskite", n_frames=5, seed=0):
    """Thermal frames, and random targets of all kinds."""
    make, _ = BONDED[name]
    frames = [rattled(make(), seed + k, 0.04) for k in range(n_frames)]
    rng = np.random.default_rng(seed)
    species, n_atoms = [atoms.numbers for atoms in frames], len(frames[0])
    forces = PerAtomArray.from_list([rng.normal(size=(n_atoms, 3)) for _ in frames], species)
    curves = [rng.uniform(0.1, 1.0, size=(n_atoms, len(GRID))) for _ in frames]
    ldos = LDOS.from_arrays(curves, GRID, species)
    return frames, TargetSet(
        forces=forces, energies=PotentialTargets(rng.normal(size=n_frames), forces), ldos=ldos
    )


def joint(name="perovskite", heads=None, **options):
    """A fitted model with several heads."""
    frames, targets = data_of(name)
    heads = [("forces", net()), ("ldos", net(output="positive"))] if heads is None else heads
    given = {"n": 2, "N": 1, "bonds": BONDED[name][1], "coordinates": "distances", **options}
    return make_pipeline(CycleMomentFeaturizer(**given), MultiTargetRegressor(heads)).fit(frames, targets)


@pytest.fixture(scope="module")
def direct():
    return joint()


@pytest.fixture(scope="module")
def energetic():
    return joint(heads=[("energies", potential()), ("ldos", net(n_components=3))])


class NoEnergy(BaseEstimator):
    """Somebody else's potential: flat."""

    def fit(self, X, y):
        self.is_fitted_ = True
        return self

    def predict(self, X, output="energy"):
        forces = PerAtomArray(np.zeros((len(X.values), 3)), X.offsets, X.species)
        return PotentialTargets(np.zeros(len(X)), forces, np.zeros((len(X), 6)))


def supercell_of(frame, matrix, seed=0):
    """Supercell, its atoms in random order; the tag of an atom is the atom of the frame it repeats."""
    tagged = frame.copy()
    tagged.set_tags(range(len(frame)))
    found = make_supercell(tagged, matrix)
    return found[np.random.default_rng(seed).permutation(len(found))]


def quiet(model, **options):
    return TinyNetCalculator(model, **{"warn": False, "remove_net_force": False, **options})


def calculated(model, atoms, **options):
    calculator = quiet(model, on_extrapolation="ignore", **options)
    calculator.calculate(atoms)
    return calculator.results


def message_of(call, kind=ValueError):
    with pytest.raises(kind) as error:
        call()
    return str(error.value)


# ---- Heads -------------------------------------------------------------------------------------------------


def test_heads_of_a_joint_model(direct, energetic):
    forces, ldos = heads_of(direct)
    assert (forces.name, forces.gives, forces.grid, forces.compiled) == ("forces", "forces", None, True)
    assert (ldos.name, ldos.gives, ldos.compiled, ldos.with_energies) == ("ldos", "ldos", True, False)
    assert ldos.grid.difference(GRID) is None
    assert forces.regressor is direct[-1].regressors_[0]
    assert forces.steps[0] is ldos.steps[0] is direct[0]
    energies, _ = heads_of(energetic)
    assert (energies.gives, energies.with_energies) == ("energy", True)


def test_models_with_one_regressor_have_one_head(direct):
    for name, gives in (("forces", "forces"), ("ldos", "ldos")):
        (head,) = heads_of(split_model(direct)[name])
        assert (head.name, head.gives) == ("", gives)
    frames, targets = data_of()
    features = CycleMomentFeaturizer(n=2, N=1, bonds=3.1).fit(frames).transform(frames)
    two = net().fit(features, features.with_values(targets["ldos"].values[:, :2]))
    (head,) = heads_of(make_pipeline(CycleMomentFeaturizer(n=2, N=1, bonds=3.1).fit(frames), two))
    assert (head.gives, head.grid) == ("ldos", None)


def test_parts_of_a_model_are_models(direct):
    frames, _ = data_of(seed=7)
    parts = split_model(direct)
    assert list(parts) == ["forces", "ldos"]
    together = direct.predict(frames)
    for name, part in parts.items():
        assert isinstance(part, Pipeline)
        assert part[0] is direct[0]
        assert_array_equal(part.predict(frames).values, together[name].values)
    assert isinstance(parts["ldos"].predict(frames), LDOS)
    atoms = frames[0]
    engine = CompiledModel(parts["forces"], atoms)
    found = engine.compute(atoms.positions, atoms.cell.array)
    assert_allclose(found.forces, together["forces"][0], atol=1e-12)


def test_steps_that_pass_through():
    frames, targets = data_of()
    features = CycleMomentFeaturizer(n=2, N=1, bonds=3.1)
    steps = [("a", features), ("b", "passthrough"), ("c", MultiTargetRegressor([("ldos", net())]))]
    model = Pipeline(steps).fit(frames, targets)
    (head,) = heads_of(model)
    assert (head.name, [name for name, _ in head.model.steps]) == ("ldos", ["a", "ldos"])
    assert_allclose(calculated(model, frames[0])["ldos"], model.predict(frames[:1])["ldos"][0], atol=1e-12)


def test_a_fitted_search(direct):
    frames, targets = data_of()
    grid = {"multitargetregressor__ldos__max_iter": [1, 2]}
    search = GridSearchCV(direct, grid, cv=KFold(2), error_score="raise").fit(frames, targets)
    assert [head.name for head in heads_of(search)] == ["forces", "ldos"]
    found = calculated(search, frames[1])
    expected = search.predict(frames[1:2])
    assert_allclose(found["ldos"], expected["ldos"][0], atol=1e-12)
    assert_allclose(found["forces"], expected["forces"][0], atol=1e-12)


def test_engines_take_one_part(direct):
    assert message_of(lambda: CompiledModel(direct, perovskite())) == (
        "model must predict one kind of targets; it predicts several. Take one of split_model(model), or use "
        "TinyNetCalculator, which gives all of them."
    )


def test_models_that_have_no_parts(direct):
    message = (
        "model must end in a MultiTargetRegressor; got one that ends in a BPNNRegressor, which predicts one "
        "kind of targets only."
    )
    assert message_of(lambda: split_model(split_model(direct)["ldos"]), TypeError) == message
    unfitted = make_pipeline(CycleMomentFeaturizer(), MultiTargetRegressor([("ldos", net())]))
    assert message_of(lambda: split_model(unfitted), NotFittedError) == (
        "model must be fitted; its step 'cyclemomentfeaturizer' (CycleMomentFeaturizer) is not. Call "
        "model.fit(structures, targets) first, or read a fitted model with load_model."
    )


# ---- The calculator ----------------------------------------------------------------------------------------


def test_forces_and_curves_in_one_call(direct):
    calculator = quiet(direct)
    assert (calculator.mode, calculator.compiled) == ("direct", True)
    assert calculator.implemented_properties == ["forces", "ldos"]
    assert calculator.ldos_grid.difference(GRID) is None
    atoms = rattled(perovskite(), 9, 0.03)
    calculator.set(on_extrapolation="ignore")
    expected = direct.predict([atoms])
    assert_allclose(calculator.get_forces(atoms), expected["forces"][0], atol=1e-12)
    assert_allclose(calculator.get_property("ldos", atoms), expected["ldos"][0], atol=1e-12)
    assert set(calculator.results) == {"forces", "ldos", "extrapolating"}
    assert calculator.todict()["model"] == "CycleMomentFeaturizer -> BPNNRegressor + BPNNRegressor"
    assert isinstance(calculator._engine, JointEngine)
    kept = calculator._engine
    atoms.positions += 0.01
    calculator.get_forces(atoms)
    assert calculator._engine is kept
    twin = pickle.loads(pickle.dumps(calculator)), copy.deepcopy(calculator)
    for again in twin:
        assert_array_equal(again.get_property("ldos", atoms), calculator.get_property("ldos", atoms))


def test_the_net_force_is_removed_from_forces_alone(direct):
    atoms = rattled(perovskite(), 9, 0.03)
    expected = direct.predict([atoms])
    found = calculated(direct, atoms, remove_net_force=True)
    assert_allclose(found["forces"].sum(axis=0), 0.0, atol=1e-12)
    assert_allclose(found["forces"], expected["forces"][0] - expected["forces"][0].mean(axis=0), atol=1e-12)
    assert_allclose(found["ldos"], expected["ldos"][0], atol=1e-12)


def test_energies_beside_curves(energetic):
    calculator = TinyNetCalculator(energetic, on_extrapolation="ignore")
    assert calculator.mode == "energy"
    assert calculator.implemented_properties == [
        "energy", "free_energy", "energies", "forces", "stress", "ldos",
    ]  # fmt: skip
    atoms = rattled(perovskite(), 9, 0.03)
    expected = energetic.predict([atoms])
    atoms.calc = calculator
    told = expected["energies"]
    assert_allclose(atoms.get_potential_energy(), told.energy[0], rtol=1e-12)
    assert_allclose(atoms.get_potential_energies().sum(), told.energy[0], rtol=1e-12)
    assert_allclose(atoms.get_forces(), told.forces[0], atol=1e-12)
    assert_allclose(atoms.get_stress(), told.stress[0], atol=1e-13)
    assert_allclose(calculator.results["ldos"], expected["ldos"][0], atol=1e-12)
    assert calculator.todict()["model"] == "CycleMomentFeaturizer -> BPNNPotential + BPNNRegressor"


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("symmetry", [{}, {"symmetry_average": False}], ids=["averaged", "plain"])
def test_the_compiled_path_says_what_the_pipeline_does(way, symmetry):
    model = joint(heads=[("forces", net(**symmetry)), ("ldos", net(**{**symmetry, **way}))])
    frame = rattled(perovskite(), 9, 0.03)
    expected = model.predict([frame])
    for precision, tolerance in (("double", 1e-12), ("single", 2e-5)):
        found = calculated(model, frame, precision=precision)
        assert_allclose(found["forces"], expected["forces"][0], atol=tolerance)
        assert_allclose(found["ldos"], expected["ldos"][0], atol=tolerance)
    supercell = supercell_of(frame, OBLIQUE)
    found = calculated(model, supercell, n_threads=2)
    assert_allclose(found["forces"], expected["forces"][0][supercell.get_tags()], atol=1e-11)
    assert_allclose(found["ldos"], expected["ldos"][0][supercell.get_tags()], atol=1e-11)
    if way.get("output") == "normalized":
        assert_allclose(
            GRID.integrate(found["ldos"]), expected["ldos"].integrals()[supercell.get_tags()], rtol=1e-11
        )


@pytest.mark.parametrize("load", [load_batio3, load_moo3])
def test_bundled_cells(load):
    """A supercell may be laid onto the reference a quarter of the cell away: the same but for rounding."""
    data = load()
    curves = load("ldos", grid=EnergyGrid(np.linspace(-6, 4, 11), width=0.8, zero="vbm")).target
    heads = [("forces", net()), ("ldos", net(output="normalized"))]
    model = make_pipeline(CycleMomentFeaturizer(n=2, N=1, bonds=data.bonds), MultiTargetRegressor(heads))
    model.fit(data.structures[:40], TargetSet(forces=data.target, ldos=curves)[:40])
    frame = data.structures[50]
    expected = model.predict([frame])
    supercell = supercell_of(frame, BLOCK)
    for atoms, rows, tolerance in ((frame, slice(None), 1e-6), (supercell, supercell.get_tags(), 1e-3)):
        found = calculated(model, atoms)
        for name in ("forces", "ldos"):
            wanted = expected[name][0][rows]
            assert_allclose(found[name], wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


UNCOMPILED = {
    "sorted": ([("forces", net()), ("ldos", net(output="positive"))], {"order": "value", "frame": "lab"}),
    "committee": (
        [
            ("forces", net()),
            ("ldos", CommitteeRegressor(net(output="normalized"), n_estimators=2, random_state=0)),
        ],
        {},
    ),
    "potential and committee": (
        [
            ("energies", potential()),
            ("ldos", CommitteeRegressor(net(n_components=2), n_estimators=2, random_state=0)),
        ],
        {},
    ),
}


@pytest.mark.parametrize(("heads", "options"), UNCOMPILED.values(), ids=UNCOMPILED)
def test_models_without_a_compiled_path(heads, options):
    model = joint(heads=heads, **options)
    calculator = quiet(model, on_extrapolation="ignore")
    assert not calculator.compiled
    assert calculator.implemented_properties[-1] == "ldos"
    assert calculator.ldos_grid.difference(GRID) is None
    frame = rattled(perovskite(), 9, 0.03)
    expected = model.predict([frame])
    name = heads[0][0]
    forces = expected[name][0] if name == "forces" else expected[name].forces[0]
    supercell = supercell_of(frame, BLOCK)
    for atoms, rows in ((frame, slice(None)), (supercell, supercell.get_tags())):
        assert_allclose(calculator.get_forces(atoms), forces[rows], atol=1e-11)
        assert_allclose(calculator.get_property("ldos", atoms), expected["ldos"][0][rows], atol=1e-11)


def test_one_committee_of_curves():
    """Its members know the energies."""
    frames, targets = data_of()
    committee = CommitteeRegressor(net(), n_estimators=2, random_state=0)
    model = make_pipeline(CycleMomentFeaturizer(n=2, N=1, bonds=3.1), committee)
    model.fit(frames, targets["ldos"])
    calculator = TinyNetCalculator(model)  # silent: there are no forces
    assert calculator.implemented_properties == ["ldos"]
    assert calculator.ldos_grid.difference(GRID) is None
    expected = model.predict(frames[:1])[0]
    assert_allclose(calculator.get_property("ldos", frames[0]), expected, atol=1e-12)


def test_a_search_as_the_last_step():
    frames, targets = data_of()
    search = GridSearchCV(net(), {"max_iter": [1, 2]}, cv=KFold(2), error_score="raise")
    model = make_pipeline(CycleMomentFeaturizer(n=2, N=1, bonds=3.1), search).fit(frames, targets["ldos"])
    calculator = TinyNetCalculator(model)
    assert calculator.implemented_properties == ["ldos"]
    expected = model.predict(frames[:1])[0]
    assert_allclose(calculator.get_property("ldos", frames[0]), expected, atol=1e-12)
    assert message_of(lambda: calculator.get_forces(frames[0]), PropertyNotImplementedError).startswith(
        "forces is not available: the model predicts 9 numbers for each atom, "
    )


def test_curves_from_smooth_moments():
    """No topology, hence other atoms are recognised by their species."""
    frames, targets = data_of()
    heads = [("energies", potential()), ("ldos", net(output="positive"))]
    model = make_pipeline(SmoothMomentFeaturizer(n=2), MultiTargetRegressor(heads)).fit(frames, targets)
    calculator = quiet(model, on_extrapolation="ignore")
    assert "energies" in calculator.implemented_properties
    frame = rattled(perovskite(), 9, 0.03)
    swapped = frame.copy()
    swapped.numbers = swapped.numbers[::-1]
    for atoms in (frame, swapped, frame * (1, 1, 2)):
        expected = model.predict([atoms])
        assert_allclose(calculator.get_potential_energy(atoms), expected["energies"].energy[0], rtol=1e-11)
        assert_allclose(calculator.get_property("ldos", atoms), expected["ldos"][0], atol=1e-11)


def test_flags_of_one_head_are_flags_of_all():
    """Networks of single species have seen less than one network of all atoms."""
    heads = [("forces", net(networks="shared")), ("ldos", net())]
    model = joint(heads=heads)
    atoms = rattled(perovskite() * 2, 3, 0.06)
    parts = {name: calculated(part, atoms)["extrapolating"] for name, part in split_model(model).items()}
    assert (parts["forces"] != parts["ldos"]).any()
    found = calculated(model, atoms)["extrapolating"]
    assert_array_equal(found, parts["forces"] | parts["ldos"])
    turned = joint(heads=heads[::-1])
    assert_array_equal(calculated(turned, atoms)["extrapolating"], found)
    assert "atoms are in surroundings that the model was not trained on" in message_of(
        lambda: quiet(model, on_extrapolation="raise").calculate(atoms)
    )


def test_a_head_that_knows_no_ranges():
    heads = [("forces", net()), ("ldos", CommitteeRegressor(net(), n_estimators=2, random_state=0))]
    model = joint(heads=heads)
    atoms = rattled(perovskite() * 2, 3, 0.06)
    flags = calculated(split_model(model)["forces"], atoms)["extrapolating"]
    assert_array_equal(calculated(model, atoms)["extrapolating"], flags)
    assert message_of(lambda: quiet(model, on_extrapolation="raise")) == (
        "on_extrapolation='raise' needs a model that knows the ranges of its inputs in training; this "
        "CommitteeRegressor does not (models saved by early versions do not, nor do committees). Fit it "
        "again, or use 'warn' or 'ignore'."
    )


def test_the_warning_of_forces_without_energy(direct, energetic):
    with pytest.warns(UserWarning, match="not the gradient of an energy") as caught:
        TinyNetCalculator(direct)
    assert caught[0].filename == __file__
    TinyNetCalculator(energetic)
    TinyNetCalculator(split_model(direct)["ldos"])


def test_results_that_are_not_there(direct, energetic):
    atoms = rattled(perovskite(), 9, 0.03)
    calculator = quiet(direct, on_extrapolation="ignore")
    assert message_of(lambda: calculator.get_potential_energy(atoms), PropertyNotImplementedError) == (
        "energy is not available: the model predicts forces alone, which are not the gradient of an energy; "
        "fit one with an energy (BPNNPotential), or use ASE's dynamics with logfile=None and a thermostat, "
        "which need forces alone."
    )
    calculator = quiet(split_model(direct)["ldos"], on_extrapolation="ignore")
    assert message_of(lambda: calculator.get_forces(atoms), PropertyNotImplementedError) == (
        "forces is not available: the model predicts 9 numbers for each atom, such as a density of states; "
        "they are the property 'ldos'."
    )
    calculator = quiet(split_model(energetic)["energies"], on_extrapolation="ignore")
    assert calculator.ldos_grid is None
    with pytest.raises(PropertyNotImplementedError):
        calculator.get_property("ldos", atoms)


def test_energies_of_atoms_that_a_pipeline_does_not_tell():
    """It has an energy all the same: the reason is another one than that of direct models."""
    frames, targets = data_of()
    features = CycleMomentFeaturizer(n=2, N=1, bonds=3.1, coordinates="distances")
    heads = MultiTargetRegressor([("energies", NoEnergy()), ("ldos", net())])
    model = make_pipeline(features, heads).fit(frames, targets)
    calculator = quiet(model, on_extrapolation="ignore")
    assert calculator.implemented_properties == ["energy", "free_energy", "forces", "stress", "ldos"]
    assert calculator.get_potential_energy(frames[0]) == 0.0
    assert "gradient" not in message_of(
        lambda: calculator.get_potential_energies(frames[0]), PropertyNotImplementedError
    )


def test_models_that_say_something_twice():
    frames, targets = data_of()
    y = TargetSet(
        direct=targets["forces"], energies=targets["energies"], ldos=targets["ldos"], dos=targets["ldos"]
    )
    features = CycleMomentFeaturizer(n=2, N=1, bonds=3.1, coordinates="distances").fit(frames)
    nets = {"direct": net(), "energies": potential(), "ldos": net(), "dos": net()}
    rows = features.transform(frames)

    def with_heads(*names):
        heads = MultiTargetRegressor([(name, nets[name]) for name in names])
        return make_pipeline(features, heads.fit(rows, y))

    assert message_of(lambda: TinyNetCalculator(with_heads("direct", "energies", "ldos"))) == (
        "model must predict forces once; 'direct', 'energies' all do. Take one of them: "
        "split_model(model)[name]."
    )
    assert message_of(lambda: TinyNetCalculator(with_heads("dos", "direct", "ldos"))) == (
        "model must predict densities of states once; 'dos', 'ldos' all do. Take one of them: "
        "split_model(model)[name]."
    )


def test_trajectories_can_be_read_back(energetic, tmp_path):
    atoms = rattled(perovskite(), 3, 0.03)
    atoms.calc = TinyNetCalculator(energetic, on_extrapolation="ignore")
    with Trajectory(tmp_path / "run.traj", "w", atoms) as trajectory:
        atoms.get_forces()
        trajectory.write()
    again = read(tmp_path / "run.traj")
    assert again.get_potential_energy() == atoms.get_potential_energy()
    assert_array_equal(again.get_forces(), atoms.get_forces())


def test_atoms_and_cells_that_change(direct):
    """One calculator follows the crystal, both heads together."""
    calculator = quiet(direct, on_extrapolation="ignore")
    frame = rattled(perovskite(), 9, 0.03)
    expected = direct.predict([frame])
    for matrix in (BLOCK, OBLIQUE):
        atoms = supercell_of(frame, matrix)
        for name in ("forces", "ldos"):
            found = calculator.get_property(name, atoms)
            assert_allclose(found, expected[name][0][atoms.get_tags()], atol=1e-11)
    strained = frame.copy()
    strained.set_cell(1.01 * frame.cell.array, scale_atoms=True)
    calculator.calculate(frame)
    kept = calculator._engine
    found = calculator.get_property("ldos", strained)
    assert calculator._engine is kept
    assert_allclose(found, direct.predict([strained])["ldos"][0], atol=1e-11)
    broken = frame.copy()
    broken.positions[1, 0] += 1.9
    assert message_of(lambda: calculator.get_forces(broken)).startswith(
        "atoms must keep the bonds and the order that they had in the first call: the bond between atoms "
    )
    frozen = quiet(direct, on_extrapolation="ignore", topology="frozen")
    frozen.calculate(frame)
    assert np.isfinite(frozen.get_property("ldos", broken)).all()


# ---- Engines -----------------------------------------------------------------------------------------------


def test_the_joint_engine(direct):
    atoms = supercell_of(rattled(perovskite(), 9, 0.03), BLOCK)
    engine = JointEngine(heads_of(direct), atoms, precision="double", topology="checked", n_threads=1)
    found = engine.compute(atoms.positions, atoms.cell.array)
    parts = {
        name: CompiledModel(part, atoms).compute(atoms.positions, atoms.cell.array)
        for name, part in split_model(direct).items()
    }
    assert_array_equal(found.forces, parts["forces"].forces)
    assert_array_equal(found.outputs, parts["ldos"].outputs)
    assert found.energy is found.virial is found.energies is None
    assert "other atoms" not in str(engine.misfit(atoms_of(atoms)))
    assert engine.fits(atoms_of(atoms))
    assert engine.misfit(atoms_of(perovskite())) == "it has 5 atoms, the reference 10"


def atoms_of(atoms):
    from tinynet_sklearn.structures import as_structures

    return as_structures([atoms])[0]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_engines_of_some_atoms(way):
    """The link follows the networks of these alone: the others stay zero."""
    frames, targets = data_of()
    model = make_pipeline(CycleMomentFeaturizer(n=2, N=1, bonds=3.1), net(**way))
    model.fit(frames, targets["ldos"])
    atoms = supercell_of(rattled(perovskite(), 9, 0.03), OBLIQUE)
    engine = CompiledModel(model, atoms, n_threads=2)
    whole = engine.compute(atoms.positions, atoms.cell.array)
    assert whole.forces is None
    some = np.array([2, 3, 11, 20])
    part = engine.restricted_to(some).compute(atoms.positions, atoms.cell.array)
    assert_allclose(part.outputs[some], whole.outputs[some], rtol=1e-12, atol=1e-12)
    assert not np.delete(part.outputs, some, axis=0).any()
    nothing = engine.restricted_to([]).compute(atoms.positions, atoms.cell.array)
    assert not nothing.outputs.any()


def test_engines_of_hundreds_of_energies():
    """More outputs than lanes, and than hidden units: averages over operations are taken before them."""
    frames, _ = data_of()
    grid = EnergyGrid(np.linspace(-5, 5, 301), width=0.2)
    rng = np.random.default_rng(0)
    ldos = LDOS.from_arrays([rng.uniform(size=(5, 301)) for _ in frames], grid, [perovskite().numbers] * 5)
    for sizes in ((3,), (40,), ()):
        model = make_pipeline(CycleMomentFeaturizer(n=2, N=1, bonds=3.1), net(hidden_layer_sizes=sizes))
        model.fit(frames, ldos)
        atoms = rattled(perovskite() * 3, 9, 0.03)
        features = model[0].adapted_to(atoms).transform([atoms])
        expected = model[-1].predict(features).values
        for precision, tolerance in (("double", 1e-11), ("single", 1e-4)):
            engine = CompiledModel(model, atoms, precision=precision)
            found = engine.compute(atoms.positions, atoms.cell.array).outputs
            assert_allclose(found, expected, atol=tolerance)


def test_files(direct, energetic, tmp_path):
    atoms = rattled(perovskite(), 9, 0.03) * (1, 1, 2)
    for model in (direct, energetic):
        save_model(model, tmp_path / "joint.tinynet")
        again = load_model(tmp_path / "joint.tinynet")
        before, after = (calculated(m, atoms) for m in (model, again))
        assert before.keys() == after.keys()
        for name, numbers in before.items():
            assert_array_equal(after[name], numbers)
        assert TinyNetCalculator(again, warn=False).ldos_grid.difference(GRID) is None
        save_model(split_model(model)["ldos"], tmp_path / "part.tinynet")
        part = load_model(tmp_path / "part.tinynet")
        assert_array_equal(calculated(part, atoms)["ldos"], before["ldos"])


def test_the_engine_of_other_pipelines(direct):
    """They too tell whether they fit, by species where there is no topology."""
    frames, targets = data_of()
    model = make_pipeline(SmoothMomentFeaturizer(n=2), net()).fit(frames, targets["ldos"])
    engine = PipelineEngine(model, frames[0])
    assert engine.fits(atoms_of(frames[1]))
    swapped = frames[0].copy()
    swapped.numbers = swapped.numbers[::-1]
    for other in (swapped, frames[0] * (1, 1, 2)):
        assert engine.misfit(atoms_of(other)) == "it has other atoms, or another periodicity"


# ---- Dynamics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["traj", "extxyz"])
def test_runs_keep_the_density_of_states_of_every_frame(direct, tmp_path, file_format):
    atoms = data_of("perovskite")[0][0].copy()
    atoms.calc = quiet(direct, on_extrapolation="ignore")
    folder = tmp_path / "run"
    result = run_dynamics(
        atoms, temperature=50, n_steps=6, interval=2, folder=folder, trajectory_format=file_format
    )
    dos = result.dos()
    assert dos.grid.difference(atoms.calc.ldos_grid) is None
    for frame, curve in zip(result.frames(), dos, strict=True):
        atoms.positions = frame.positions
        atoms.calc.calculate(atoms)
        assert_allclose(curve[0], atoms.calc.results["ldos"].sum(axis=0), atol=1e-6)


def test_runs_without_densities_of_states(direct):
    atoms = data_of("perovskite")[0][0].copy()
    atoms.calc = quiet(split_model(direct)["forces"], on_extrapolation="ignore")
    result = run_dynamics(atoms, temperature=50, n_steps=2, interval=1)
    assert message_of(result.dos) == (
        "dos needs a density of states in every frame, as of a model that was fitted on an LDOS; it is "
        "missing in 3 of 3 frames. Run the dynamics with a MultiTargetRegressor of forces and LDOS from its "
        "beginning."
    )


def test_frames_keep_the_energies_of_the_model_that_made_them(direct, tmp_path):
    """Another LDOS beside the same forces: the run goes on, and its curves are not mixed up."""
    atoms = data_of("perovskite")[0][0].copy()
    atoms.calc = quiet(direct, on_extrapolation="ignore")
    settings = {"temperature": 50, "interval": 1, "folder": tmp_path / "run"}
    run_dynamics(atoms, n_steps=2, **settings)
    other = copy.deepcopy(direct)
    head = other[-1].named_regressors_["ldos"]
    grid = head.target_grid_
    head.target_grid_ = EnergyGrid(grid.energies + 3.0, grid.width, "fermi")
    atoms.calc = quiet(other, on_extrapolation="ignore")
    result = run_dynamics(atoms, n_steps=4, restart=True, **settings)
    with pytest.raises(ValueError, match="LDOS must be on one grid to be joined"):
        result.dos()


def test_numbers_without_energies_are_no_density_of_states():
    frames, targets = data_of("perovskite")
    charges = targets["forces"].with_values(targets["forces"].values[:, :1])
    model = make_pipeline(
        CycleMomentFeaturizer(n=2, N=1, bonds=BONDED["perovskite"][1]),
        MultiTargetRegressor([("forces", net()), ("charges", net())]),
    ).fit(frames, TargetSet(forces=targets["forces"], charges=charges))
    assert message_of(lambda: quiet(model)) == (
        "model must predict energies, forces and LDOS; 'charges' predicts 1 numbers for each atom without "
        "energies. Fit it on an LDOS, or take the other parts: split_model(model)[name]."
    )
