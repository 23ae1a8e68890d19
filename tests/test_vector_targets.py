"""Vector targets as combinations of vectors that come with the features: loss, fit, prediction, refusals."""

import pickle
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from crystals import rattled
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.metrics import r2_score
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from symmetry import random_rotation, rotated

from tinynet_sklearn import (
    BPNNRegressor,
    CommitteeRegressor,
    CutoffBonds,
    CycleMomentFeaturizer,
    MultiTargetRegressor,
    PerAtom,
    PerAtomArray,
    SmoothMomentFeaturizer,
    TargetSet,
    TinyNetCalculator,
    load_model,
    recorder,
    save_model,
)
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.networks import glorot_stack
from tinynet_sklearn.objective import StackObjective
from tinynet_sklearn.recorder import Recorder, TrainingSet
from tinynet_sklearn.vector_targets import VectorTargets, combined, fit_vector_targets

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

WATER, LONE = [8, 1, 1], [8, 1]
N_VECTORS = 4


def make_atoms(n_structures=40, seed=0):
    """Structures of two sizes; forces are combinations of vectors, by smooth functions of the columns.

    The last vector is zero everywhere, the third one is so for H.
    """
    rng = np.random.RandomState(seed)
    species = [WATER if i % 2 else LONE for i in range(n_structures)]
    flat = np.concatenate(species)
    values = rng.randn(len(flat), 3)
    vectors = rng.randn(len(flat), N_VECTORS, 3) * np.array([1.0, 0.01, 3.0, 0.0])[:, None]
    vectors[flat == 1, 2] = 0.0
    coefficients = np.column_stack(
        [np.sin(values[:, 0]), 100.0 * values[:, 1], np.exp(-np.square(values[:, 2])), np.ones(len(flat))]
    )
    forces = np.einsum("rv,rvc->rc", coefficients, vectors)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in species])])
    X = PerAtomArray(values, offsets, flat, vectors=vectors)
    return X, PerAtomArray(forces, offsets, flat)


def net(**settings):
    return BPNNRegressor(
        **{"hidden_layer_sizes": (6,), "alpha": 1e-6, "max_iter": 40, "random_state": 0, **settings}
    )


def weights_of(fitted):
    return [array for z in sorted(fitted.weights_) for array in fitted.weights_[z]]


def assert_same_weights(a, b):
    for p, q in zip(weights_of(a), weights_of(b), strict=True):
        assert_array_equal(p, q)


def with_vectors(X, vectors):
    return PerAtomArray(X.values, X.offsets, X.species, vectors=vectors)


def message_of(error_type, call):
    with pytest.raises(error_type) as error:
        call()
    return str(error.value)


# ---- The loss ----------------------------------------------------------------------------------------------


def training_set(dtype="float64", n_rows=60, seed=0):
    rng = np.random.RandomState(seed)
    weight = rng.uniform(0.5, 1.5, n_rows)
    return TrainingSet(
        rng.randn(n_rows, 5).astype(dtype),
        rng.randn(n_rows, 3).astype(dtype),
        weight / weight.sum(),
        np.arange(n_rows),
        (GroupAction.trivial(5),),
        np.zeros(n_rows, dtype=int),
        basis=rng.randn(n_rows, N_VECTORS, 3).astype(dtype),
    )


def stack_of(hidden, seed=0):
    rng = np.random.RandomState(seed)
    stack = glorot_stack((5, *hidden, N_VECTORS), "tanh", rng, "float64")
    return stack.with_flat(stack.flat() + 0.2 * rng.randn(stack.n_parameters))


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)], ids=str)
def test_the_loss_is_the_error_of_the_combinations(hidden):
    data, stack = training_set(), stack_of(hidden)
    outputs = stack.layer_outputs(data.rows)[-1] if hidden else data.rows @ stack.weights[0] + stack.biases[0]
    residual = sum(outputs[:, k, None] * data.basis[:, k] for k in range(N_VECTORS)) - data.targets
    expected = float(np.square(residual).mean(axis=1) @ data.weight)
    loss = StackObjective(stack, data, 0.02)
    assert loss.error(stack.flat()) == pytest.approx(expected, rel=1e-12)
    decay = 0.02 * sum(np.square(w).sum() for w in stack.weights)
    assert loss.value(stack.flat())[0] == pytest.approx(expected + decay, rel=1e-12)


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)], ids=str)
def test_slope_of_the_loss(hidden):
    data, stack = training_set(), stack_of(hidden)
    loss, flat = StackObjective(stack, data, 0.02), stack.flat()
    slope, step = loss.value(flat)[1], 1e-6
    expected = [
        (loss.value(flat + step * d)[0] - loss.value(flat - step * d)[0]) / (2 * step)
        for d in np.eye(len(flat))
    ]
    assert_allclose(slope, expected, rtol=0, atol=2e-9)
    assert (np.abs(slope) > 1e-4).all()


def test_single_precision_sees_the_same_loss():
    single, stack = training_set("float32"), stack_of((4,)).astype("float32")
    double = replace(single, **{k: getattr(single, k).astype(float) for k in ("rows", "targets", "basis")})
    value, slope = StackObjective(stack, single, 0.02).value(stack.flat())
    exact = StackObjective(stack.astype("float64"), double, 0.02).value(stack.flat().astype(float))
    assert value == pytest.approx(exact[0], rel=1e-5)
    assert_allclose(slope, exact[1], atol=1e-5)


# ---- Scales ------------------------------------------------------------------------------------------------


def test_scales_are_weighted_mean_squares():
    X, y = make_atoms()
    ours = X.species == 8
    weight = np.random.RandomState(1).uniform(0.1, 2.0, ours.sum())
    found = fit_vector_targets(y.values[ours], X.vectors[ours], weight)
    share = weight / weight.sum()
    assert found.scale == pytest.approx(np.sqrt(share @ np.square(y.values[ours]).mean(axis=1)))
    assert_array_equal(found.columns, [0, 1, 2])
    for k, size in enumerate(found.sizes):
        assert size == pytest.approx(np.sqrt(share @ np.square(X.vectors[ours, k]).mean(axis=1)))
    coefficients = np.random.RandomState(2).randn(ours.sum(), 3)
    basis = found.basis(X.vectors[ours], "float64")
    scaled = combined(coefficients, basis)
    assert_allclose(found.apply(found.invert(coefficients, X.vectors[ours]), "float64"), scaled, atol=1e-12)
    assert_allclose(np.sqrt(share @ np.square(basis).mean(axis=2)), 1.0)


def test_targets_of_zero_have_no_scale_of_zero():
    X, _ = make_atoms()
    assert fit_vector_targets(np.zeros((len(X.values), 3)), X.vectors, np.ones(len(X.values))).scale == 1.0


def test_vectors_of_zero_carry_no_targets():
    X, y = make_atoms()
    empty = with_vectors(X, np.zeros_like(X.vectors))
    expected = (
        "X must carry vectors that are not all zero, to build vector targets on; got {} vectors, zero for "
        "all atoms. Reach farther neighbours, or use target='scalar'."
    )
    assert message_of(ValueError, lambda: net().fit(empty, y)) == expected.format(4)
    none = with_vectors(X, np.zeros((len(X.values), 0, 3)))
    assert message_of(ValueError, lambda: net().fit(none, y)) == expected.format(0)


# ---- Fits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("networks", ["per-species", "shared"])
def test_combinations_are_recovered(networks):
    X, y = make_atoms(300)
    test, expected = make_atoms(60, seed=9)
    fitted = net(hidden_layer_sizes=(16,), max_iter=400, networks=networks).fit(X, y)
    found = fitted.predict(test)
    for z in (1, 8):
        assert r2_score(expected.values[test.species == z], found.values[test.species == z]) > 0.99
    assert fitted.target_is_vector_
    assert fitted.score(test, expected) > 0.99
    assert found.vectors is None
    assert found.frames is None
    scalar = net(hidden_layer_sizes=(16,), max_iter=400, networks=networks, target="scalar").fit(X, y)
    assert scalar.score(test, expected) < 0.5  # columns know nothing of directions


@pytest.mark.parametrize("networks", ["per-species", "shared"])
def test_vectors_of_zero_are_left_out(networks):
    X, y = make_atoms()
    fitted = net(networks=networks).fit(X, y)
    kept = {z: part.targets.columns.tolist() for z, part in fitted.atom_networks_.items()}
    assert kept == {1: [0, 1] if networks == "per-species" else [0, 1, 2], 8: [0, 1, 2]}
    for part in fitted.atom_networks_.values():
        assert isinstance(part.targets, VectorTargets)
        assert part.network.n_outputs == len(part.targets.columns)


@pytest.mark.parametrize("proper", [True, False], ids=["rotation", "reflection"])
def test_predictions_turn_with_the_vectors(proper):
    X, y = make_atoms()
    fitted = net().fit(X, y)
    turn = random_rotation(3, proper)
    found = fitted.predict(with_vectors(X, X.vectors @ turn.T))
    assert_allclose(found.values, fitted.predict(X).values @ turn.T, rtol=0, atol=1e-12)


def test_fits_do_not_depend_on_the_frame():
    X, y = make_atoms()
    turn = random_rotation(5)
    turned = net(max_iter=10).fit(with_vectors(X, X.vectors @ turn.T), y.with_values(y.values @ turn.T))
    for a, b in zip(weights_of(turned), weights_of(net(max_iter=10).fit(X, y)), strict=True):
        assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_weights_count_like_repetitions_and_zero_like_absence():
    X, y = make_atoms(24)
    times = np.random.RandomState(0).randint(0, 3, 24)
    repeated = np.repeat(np.arange(24), times)
    assert_same_weights(net().fit(X, y, sample_weight=times), net().fit(X[repeated], y[repeated]))


def test_the_order_of_structures_does_not_matter():
    X, y = make_atoms(24)
    order = np.random.RandomState(0).permutation(24)
    assert_same_weights(net().fit(X, y), net().fit(X[order], y[order]))


def test_rows_that_differ_by_their_vectors_alone_are_not_one():
    X, y = make_atoms(12)
    both = np.concatenate([X, with_vectors(X, -X.vectors)])
    opposite = np.concatenate([y, y.with_values(-y.values)])
    fitted = net(max_iter=200).fit(both, opposite)
    assert fitted.score(both, opposite) > 0.9
    assert_allclose(fitted.predict(both)[:12].values, -fitted.predict(both)[12:].values, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_precisions_learn(dtype):
    X, y = make_atoms(80)
    fitted = net(dtype=dtype, max_iter=150).fit(X, y)
    assert weights_of(fitted)[0].dtype == dtype
    assert fitted.predict(X).dtype == net(dtype=dtype, target="scalar", max_iter=1).fit(X, y).predict(X).dtype
    assert fitted.score(X, y) > 0.95


def test_early_stopping_validates_on_the_combinations():
    X, y = make_atoms(60)
    fitted = net(early_stopping=True, n_iter_no_change=5, max_iter=200, validation_fraction=0.2).fit(X, y)
    for history in fitted.history_.values():
        assert len(history["validation"]) == len(history["loss"])
        assert min(history["validation"]) < history["validation"][0]
    assert fitted.score(X, y) > 0.9


def test_warm_start_goes_on_where_it_stopped():
    X, y = make_atoms()
    fitted = net(max_iter=10, warm_start=True).fit(X, y)
    loss, first = fitted.loss_, fitted.history_[8]["loss"][0]
    targets = fitted.atom_networks_[8].targets
    fitted.fit(X, y)
    assert fitted.history_[8]["loss"][0] < first
    assert fitted.loss_ < loss
    assert fitted.atom_networks_[8].targets is targets


@pytest.mark.parametrize(("before", "now"), [(0, 4), (4, 0), (4, 2)])
def test_warm_start_with_other_vectors(before, now):
    X, y = make_atoms()
    bare = PerAtomArray(X.values, X.offsets, X.species)
    first, second = (with_vectors(X, X.vectors[:, :n]) if n else bare for n in (before, now))
    fitted = net(max_iter=2, warm_start=True).fit(first, y)
    assert message_of(ValueError, lambda: fitted.fit(second, y)) == (
        f"warm_start=True continues networks of {before} vectors per atom; got {now}. Set "
        "warm_start=False to begin anew."
    )


def test_a_resumed_fit_is_an_uninterrupted_one(tmp_path, monkeypatch):
    X, y = make_atoms()
    whole = net().fit(X, y)
    step = Recorder.step

    def dying(self, *args):
        if self.n_iter == 6:
            raise SystemError("killed")
        return step(self, *args)

    monkeypatch.setattr(recorder, "SAVE_INTERVAL", 0)
    monkeypatch.setattr(Recorder, "step", dying)
    with pytest.raises(SystemError):
        net(checkpoint=tmp_path).fit(X, y)
    monkeypatch.undo()
    resumed = net(checkpoint=tmp_path, resume=True).fit(X, y)
    assert_same_weights(resumed, whole)
    other = with_vectors(X, X.vectors + 0.1)
    with pytest.raises(ValueError, match="vectors of X"):
        net(checkpoint=tmp_path, resume=True).fit(other, y)


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_workers_give_the_same_fit(n_jobs):
    X, y = make_atoms()
    assert_same_weights(net(n_jobs=n_jobs).fit(X, y), net().fit(X, y))


def test_pickles_and_files_reproduce_the_predictions(tmp_path):
    X, y = make_atoms()
    fitted = net().fit(X, y)
    save_model(fitted, tmp_path / "model.skops")
    for other in (pickle.loads(pickle.dumps(fitted)), load_model(tmp_path / "model.skops")):
        assert_array_equal(other.predict(X).values, fitted.predict(X).values)


def test_models_of_before_predict_as_they_did():
    """Those fitted when there were no vectors do not know whether they combine any."""
    X, y = make_atoms()
    fitted = net(target="scalar").fit(X, y)
    state = fitted.__getstate__()
    state.pop("_combined")
    old = BPNNRegressor.__new__(BPNNRegressor)
    old.__setstate__(state)
    assert_array_equal(old.predict(X).values, fitted.predict(X).values)


# ---- When targets are combinations -------------------------------------------------------------------------


def test_three_columns_may_be_three_numbers():
    X, y = make_atoms()
    bare = PerAtomArray(X.values, X.offsets, X.species)
    scalar = net(target="scalar").fit(X, y)
    assert not scalar.target_is_vector_
    assert_same_weights(scalar, net().fit(bare, y))
    assert_array_equal(scalar.predict(bare).values, scalar.predict(X).values)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_targets_of_another_width_are_numbers(width):
    X, _ = make_atoms()
    y = X.with_values(np.tile(X.values[:, :1], (1, width)))
    fitted = net().fit(X, y)
    assert not fitted.target_is_vector_
    assert fitted.predict(X).values.shape[1] == width


def test_vectors_may_be_demanded():
    X, y = make_atoms()
    assert_same_weights(net(target="vector").fit(X, y), net().fit(X, y))


def test_scalers_of_columns_leave_vectors_alone():
    X, y = make_atoms()
    model = make_pipeline(PerAtom(StandardScaler()), net()).fit(X, y)
    assert_array_equal(model[0].transform(X).vectors, X.vectors)
    assert model.score(X, y) > 0.8
    assert model[-1].target_is_vector_


def test_committees_and_several_targets_learn_them():
    X, y = make_atoms()
    committee = CommitteeRegressor(net(), n_estimators=2, random_state=0).fit(X, y)
    members = [member.predict(X).values for member in committee.estimators_]
    assert_allclose(committee.predict(X).values, np.mean(members, axis=0), atol=1e-12)
    assert np.abs(members[0] - members[1]).max() > 1e-6
    charges = X.with_values(X.values[:, :1])
    several = MultiTargetRegressor([("forces", net()), ("charges", net())])
    found = several.fit(X, TargetSet(forces=y, charges=charges)).predict(X)
    assert_array_equal(found["forces"].values, net().fit(X, y).predict(X).values)
    assert found["charges"].values.shape == (len(X.values), 1)


def test_cross_validation_takes_vectors_along():
    X, y = make_atoms()
    assert cross_val_score(net(max_iter=150), X, y, cv=3).min() > 0.8


# ---- Refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["varpro", "adam", "lm"])
def test_solvers_that_cannot_train_combinations(solver):
    X, y = make_atoms()
    assert message_of(ValueError, lambda: net(solver=solver).fit(X, y)) == (
        f"vector targets on X with vectors are trained by solver='lbfgs', without build_fn; got "
        f"solver='{solver}'. Use solver='auto', or target='scalar' to learn the three columns by themselves."
    )
    assert net(solver="lbfgs", max_iter=2).fit(X, y).target_is_vector_


def test_models_of_the_user_cannot_be_trained_on_combinations():
    X, y = make_atoms()
    assert message_of(ValueError, lambda: net(build_fn=lambda *_: None).fit(X, y)) == (
        "vector targets on X with vectors are trained by solver='lbfgs', without build_fn; got build_fn. Use "
        "solver='auto', or target='scalar' to learn the three columns by themselves."
    )


def test_vectors_missing_in_predict():
    X, y = make_atoms()
    fitted = net(max_iter=2).fit(X, y)
    bare = PerAtomArray(X.values, X.offsets, X.species)
    assert message_of(ValueError, lambda: fitted.predict(bare)) == (
        "X must carry vectors, as it did in fit, to build predicted vectors on; got features without. Make "
        "them with the featurizer that made those for fit."
    )


@pytest.mark.parametrize("n_vectors", [3, 5])
def test_other_vectors_in_predict(n_vectors):
    X, y = make_atoms()
    fitted = net(max_iter=2).fit(X, y)
    other = with_vectors(X, np.ones((len(X.values), n_vectors, 3)))
    assert message_of(ValueError, lambda: fitted.predict(other)) == (
        f"X must carry 4 vectors per atom, as it did in fit, to build predicted vectors on; got {n_vectors}. "
        "Make them with the featurizer that made those for fit."
    )


def test_vectors_of_another_width_are_none():
    X, _ = make_atoms()
    y = X.with_values(X.values[:, :2])
    bare = PerAtomArray(X.values, X.offsets, X.species)
    given = message_of(ValueError, lambda: net(target="vector").fit(X, y))
    assert given == message_of(ValueError, lambda: net(target="vector").fit(bare, y))


# ---- On structures -----------------------------------------------------------------------------------------


def molecule_of(seed):
    """Five atoms of two species in a heap, none close to another."""
    positions = [[0, 0, 0], [1.9, 0, 0], [0, 2.0, 0], [0, 0, 2.1], [-1.8, -0.3, 0.2]]
    return rattled(Atoms("TiO3Ti", positions=positions), seed, 0.12)


def forces_on(atoms):
    """Springs between all atoms: vectors by construction."""
    vectors = atoms.positions[None] - atoms.positions[:, None]
    lengths = np.linalg.norm(vectors, axis=2)
    np.fill_diagonal(lengths, 1.0)
    stiffness = np.where(np.add.outer(atoms.numbers, atoms.numbers) == 30, 1.0, 0.4)
    return (stiffness * np.where(lengths < 2.6, lengths - 2.0, 0.0) / lengths)[:, :, None] * vectors


EMBEDDINGS = {
    "lists": {"n": 3, "N": 1},
    "sums": {"n": 3, "N": 0, "aggregate": "sum"},
    "sums and neighbours": {"n": 3, "N": 2, "aggregate": "sum", "fade": 0.5},
}


def pipeline_for(name, **settings):
    bonds = CutoffBonds(3.0, heteroatomic=False)
    embed = CycleMomentFeaturizer(**EMBEDDINGS[name], bonds=bonds, topology="each", overflow="truncate")
    return make_pipeline(embed, net(**{"max_iter": 150, **settings}))


@pytest.fixture(scope="module", params=EMBEDDINGS)
def model(request):
    frames = [molecule_of(seed) for seed in range(100)]
    y = [forces_on(atoms).sum(axis=1) for atoms in frames]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipeline_for(request.param).fit(frames, y)


@pytest.mark.parametrize("proper", [True, False], ids=["rotation", "reflection"])
def test_predicted_forces_turn_with_the_structure(model, proper):
    frames = [molecule_of(seed) for seed in range(200, 210)]
    turn = random_rotation(1, proper)
    found = model.predict([rotated(atoms, turn) for atoms in frames])
    assert_allclose(found.values, model.predict(frames).values @ turn.T, rtol=0, atol=1e-10)
    assert np.abs(found.values).max() > 0.1


def test_predicted_forces_do_not_depend_on_numbers_of_atoms(model):
    atoms = molecule_of(200)
    order = np.random.default_rng(0).permutation(len(atoms))
    assert_allclose(model.predict([atoms[order]])[0], model.predict([atoms])[0][order], rtol=0, atol=1e-10)


def test_forces_are_learned(model):
    """But with sums alone, which do not tell neighbours of one species apart."""
    frames = [molecule_of(seed) for seed in range(200, 240)]
    y = [forces_on(atoms).sum(axis=1) for atoms in frames]
    assert model.score(frames, y) > (0.85 if model[0].N else 0.2)


def test_two_sets_of_features_bring_the_vectors_of_both():
    frames = [molecule_of(seed) for seed in range(20)]
    y = [forces_on(atoms).sum(axis=1) for atoms in frames]
    bonds = CutoffBonds(3.0, heteroatomic=False)
    parts = [
        CycleMomentFeaturizer(n, N, bonds=bonds, topology="each", overflow="clip", aggregate="sum")
        for n, N in [(0, 1), (3, 0)]
    ]
    union = FeatureUnion([("neighbours", parts[0]), ("walks", parts[1])])
    features = union.fit_transform(frames)
    alone = [clone(part).fit_transform(frames) for part in parts]
    assert_array_equal(features.vectors, np.concatenate([X.vectors for X in alone], axis=1))
    fitted = make_pipeline(union, net(max_iter=100)).fit(frames, y)
    turn = random_rotation(2)
    found = fitted.predict([rotated(atoms, turn) for atoms in frames])
    assert_allclose(found.values, fitted.predict(frames).values @ turn.T, rtol=0, atol=1e-10)
    assert fitted.score(frames, y) > 0.9


def test_the_calculator_gives_the_forces_of_the_pipeline_and_warns_of_them(model):
    atoms = molecule_of(3)
    with pytest.warns(UserWarning, match="forces") as caught:
        atoms.calc = TinyNetCalculator(model, on_extrapolation="ignore", remove_net_force=False)
    assert len(caught) == 1
    assert re.search(
        r"BPNNPotential\); TinyNetCalculator\(model, warn=False\) is silent\.$", str(caught[0].message)
    )
    assert_allclose(atoms.get_forces(), model.predict([atoms])[0], rtol=0, atol=1e-12)
    assert atoms.calc.mode == "direct"
    order = [4, 2, 0, 1, 3]
    other = molecule_of(4)[order]
    other.calc = TinyNetCalculator(model, warn=False, on_extrapolation="ignore", remove_net_force=False)
    assert_allclose(other.get_forces(), model.predict([molecule_of(4)])[0][order], rtol=0, atol=1e-10)
    other.positions[0] += 0.05
    assert_allclose(other.get_forces(), model.predict([other])[0], rtol=0, atol=1e-12)


def test_an_ideal_structure_feels_no_force_at_a_site_without_direction():
    """Six equal neighbours: whatever their coefficients, nothing remains."""
    frames = [rattled(_octahedron(), seed, 0.1) for seed in range(30)]
    y = [forces_on(atoms).sum(axis=1) for atoms in frames]
    fitted = pipeline_for("lists", max_iter=50).fit(frames, y)
    assert_allclose(fitted.predict([_octahedron()])[0][0], 0.0, atol=1e-12)


def _octahedron():
    return Atoms("TiO6", positions=[[0, 0, 0], *(2.0 * np.eye(3)), *(-2.0 * np.eye(3))])


def test_forces_from_columns_without_directions_are_warned_of():
    frames = [molecule("H2O"), molecule("CH4")]
    forces = [np.ones((len(atoms), 3)) for atoms in frames]
    blind = SmoothMomentFeaturizer(n=2, n_pair=2).fit_transform(frames)
    message = (
        "y has 3 columns, as forces have, but X holds columns that do not change when a structure is turned, "
        "and neither site frames nor vectors: no direction can be learned from them. Use "
        "SmoothMomentFeaturizer(n_vector=3), or CycleMomentFeaturizer with coordinates='vectors'; if "
        "the three "
        "columns are no vector, target='scalar' silences this."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        net(max_iter=3).fit(blind, forces)
    net(max_iter=3, target="scalar").fit(blind, forces)  # warnings are errors
    net(max_iter=3).fit(blind, [f[:, :2] for f in forces])


def test_species_without_vectors_feel_nothing_and_spoil_nothing():
    X, y = make_atoms()
    lone = X.species == 8
    vectors = np.where(lone[:, None, None], 0.0, X.vectors)
    fitted = net().fit(with_vectors(X, vectors), y)
    found = fitted.predict(with_vectors(X, vectors))
    assert_array_equal(found.values[lone], 0.0)
    assert np.abs(found.values[~lone]).max() > 0.1


def test_vectors_that_vanish_by_symmetry_in_fit_do_not_blow_up():
    """Ideal crystals: all sums are rounding, and would be divided by it."""
    ideal = [bulk("Cu", "fcc", a=a, cubic=True) for a in np.linspace(3.5, 3.7, 5)]
    embed = SmoothMomentFeaturizer(n_vector=2).fit(ideal)
    X = embed.transform([*ideal, rattled(bulk("Cu", "fcc", a=3.61, cubic=True), 0)])
    noise = np.random.default_rng(0).normal(size=(24, 3)) * 1e-5
    features = with_vectors(X, X.vectors)
    with pytest.raises(ValueError, match="not all zero"):
        net().fit(features[:5], [np.zeros((4, 3))] * 5)
    fitted = net(max_iter=20).fit(features, [*(noise[:20].reshape(5, 4, 3)), noise[20:]])
    assert np.abs(fitted.predict(features).values).max() < 1e-3
