"""Energies of atoms and the loss of a potential: every derivative against differences."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from crystals import BONDED, methanol, rattled, rutile, trajectory
from derivatives import difference
from numpy.testing import assert_allclose, assert_array_equal
from oracles import dense, images

from tinynet_sklearn import CycleMomentFeaturizer, PerAtomArray, PotentialTargets, SmoothMomentFeaturizer
from tinynet_sklearn import energies as energies_module
from tinynet_sklearn.energies import AtomicEnergies, structure_blocks
from tinynet_sklearn.energy_objective import VOIGT, LossWeights, PotentialObjective, Spreads
from tinynet_sklearn.energy_training import (
    calibrated,
    composition,
    first_networks,
    flat_weights,
    reference_energies,
    settled,
    train_adam,
    with_weights,
)
from tinynet_sklearn.networks import SMOOTH_ACTIVATIONS
from tinynet_sklearn.potential_training import potential_keys
from tinynet_sklearn.recorder import Options, Recorder

WEIGHTS = LossWeights(energy=0.3, forces=1.0, stress=0.2, alpha=0.01)


@cache
def crystal(name="perovskite", n_frames=5):
    make, rule = BONDED[name]
    featurizer = CycleMomentFeaturizer(n=2, N=1, bonds=rule, reference="first", coordinates="distances")
    return featurizer.fit([make()]).transform(trajectory(make(), n_frames))


@cache
def mixture():
    """Structures of different sizes and species, two of them without a volume."""
    atoms = [
        rattled(rutile(), 1),
        rattled(methanol(), 2),
        rattled(rutile() * (1, 1, 2), 3),
        rattled(methanol(), 4),
    ]
    featurizer = SmoothMomentFeaturizer(n=3, cutoff=3.0, n_pair=3, n_triangle=2)
    return featurizer.fit_transform(atoms)


def energies_of(
    atoms, sizes=(4, 3), activation="tanh", networks="per-species", most=1, dtype="float64", seed=0, scale=1.7
):
    """Random networks, random biases included, between scalings as training makes them."""
    keys = potential_keys(atoms, networks)
    settings = SimpleNamespace(activation=activation, scaler="standard")
    offsets = {int(key): 0.1 * int(key) for key in np.unique(keys)}
    rng = np.random.RandomState(seed)
    nets = first_networks(
        atoms, keys, np.ones(len(keys)), offsets, sizes, settings, averages=most > 1, rng=rng
    )
    labels = sorted(nets)
    nets = [replace(nets[k], targets=replace(nets[k].targets, scale=np.array([scale]))) for k in labels]
    flat = flat_weights(nets)
    nets = with_weights(nets, flat + 0.3 * rng.normal(size=flat.shape))
    return AtomicEnergies(atoms, nets, np.searchsorted(labels, keys), most, np.dtype(dtype))


def references(atoms, seed=1, missing=True):
    """Energies, forces and stresses of any size, some of them unknown."""
    rng = np.random.RandomState(seed)
    energy, stress = rng.normal(size=len(atoms)), 0.1 * rng.normal(size=(len(atoms), 6))
    forces = rng.normal(size=(len(atoms.values), 3))
    if missing:
        energy[1], forces[2], forces[7, 1] = np.nan, np.nan, np.nan
        stress[0], stress[2, 4] = np.nan, np.nan
    stress[np.isnan(atoms.geometry.volumes)] = np.nan
    return PotentialTargets(energy, PerAtomArray(forces, atoms.offsets, atoms.species), stress)


def objective_of(energies, targets=None, weights=WEIGHTS, pool=None, sample_weight=None):
    atoms = energies.atoms
    targets = references(atoms) if targets is None else targets
    spreads = Spreads.of(targets, atoms.counts, np.zeros(len(atoms)))
    weight = np.linspace(0.5, 2.0, len(atoms)) if sample_weight is None else sample_weight
    return PotentialObjective(energies, targets, weight, weights, spreads, pool or ThreadPoolExecutor(1))


def everything(energies, flat=None):
    flat = flat_weights(energies.networks) if flat is None else flat
    return energies.evaluate(energies.stacks(flat), np.arange(len(energies.atoms)))


SIZES = [(), (3,), (4, 3), (3, 4, 2)]

ACTIVATIONS = sorted(set(SMOOTH_ACTIVATIONS))


# ---- Energies and their slopes -----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_energies_are_means_over_the_site_group(activation):
    functions = {
        "tanh": np.tanh,
        "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
        "softplus": lambda z: np.log1p(np.exp(z)),
    }
    atoms = crystal()
    energies = energies_of(atoms, activation=activation, most=48)
    assert energies.n_operations == 48
    found = everything(energies)
    for row, site in enumerate(atoms.frames.sites):
        net = energies.networks[energies.network_of_row[row]]
        scaled = [
            net.inputs.apply(image, np.float64)
            for _, image in images(atoms.values[row][None], atoms.frames.symmetry, site)
        ]
        outputs = dense(net.network.arrays, np.concatenate(scaled), functions[activation])
        expected = net.targets.offset[0] + 1.7 * outputs.mean()
        assert_allclose(found.energies[row], expected, rtol=1e-11)
    assert_allclose(found.totals, found.energies.reshape(len(atoms), -1).sum(axis=1))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("most", [1, 48])
def test_slopes_are_differences_of_energies(sizes, activation, most):
    atoms = crystal(n_frames=2)
    energies = energies_of(atoms, sizes, activation, most=most)
    rng = np.random.RandomState(0)
    found = everything(energies)
    for _ in range(3):
        along = np.zeros(atoms.values.shape)
        for row, net in enumerate(energies.networks[k] for k in energies.network_of_row):
            along[row, net.inputs.columns] = net.inputs.scale * rng.normal(size=len(net.inputs.columns))

        def total(step, along=along):
            shifted = atoms.with_values(atoms.values + step * along, keep_symmetry=True)
            other = AtomicEnergies(shifted, energies.networks, energies.network_of_row, most, np.dtype(float))
            return everything(other).energies

        expected = difference(total, 1e-3)
        assert_allclose((found.slopes * along).sum(axis=1), expected, rtol=1e-6, atol=1e-7)


def test_networks_of_different_atoms_do_not_mix():
    """Energies of a structure do not depend on what else is evaluated, nor on the order."""
    for atoms, networks in ((mixture(), "per-species"), (mixture(), "shared"), (crystal("MoO3"), "per-site")):
        energies = energies_of(atoms, networks=networks)
        stacks = energies.stacks(flat_weights(energies.networks))
        whole = everything(energies)
        for order in (np.array([2]), np.array([3, 0]), np.array([1, 2, 3, 0])):
            part = energies.evaluate(stacks, order)
            assert_allclose(part.totals, whole.totals[order], rtol=1e-12)
            rows = np.concatenate([np.arange(*atoms.offsets[[s, s + 1]]) for s in order])
            assert_allclose(part.energies, whole.energies[rows], rtol=1e-12)
            assert_allclose(part.slopes, whole.slopes[rows], rtol=1e-11, atol=1e-13)
            assert_array_equal(part.offsets, np.concatenate([[0], np.cumsum(atoms.counts[order])]))


def test_single_precision_is_of_the_networks_alone():
    atoms = crystal()
    single, double = (everything(energies_of(atoms, dtype=dtype)) for dtype in ("float32", "float64"))
    assert single.energies.dtype == single.slopes.dtype == np.float64
    assert_allclose(single.energies, double.energies, rtol=1e-5)
    assert not np.array_equal(single.energies, double.energies)


# ---- The loss and its slopes -------------------------------------------------------------------------------


def loss_by_definition(energies, targets, weights, sample_weight, flat):
    """The formula of the module, quantity after quantity and structure after structure."""
    atoms = energies.atoms
    spreads = Spreads.of(targets, atoms.counts, np.zeros(len(atoms)))
    found = everything(energies, flat)
    gradient, virials = atoms.geometry.pull(found.slopes)
    parts = {"energy": ([], []), "forces": ([], []), "stress": ([], [])}
    for s in range(len(atoms)):
        rows = slice(*atoms.offsets[[s, s + 1]])
        stress = virials[s][VOIGT] / atoms.geometry.volumes[s]
        for name, error in (
            ("energy", (found.totals[s] - targets.energy[s]) / atoms.counts[s] / spreads.energy),
            ("forces", (-gradient[rows] - targets.forces.values[rows]) / spreads.forces),
            ("stress", (stress - targets.stress[s]) / spreads.stress),
        ):
            known = np.ravel(error)[np.isfinite(np.ravel(error))]
            parts[name][0].append(sample_weight[s] * (known**2).sum())
            parts[name][1].append(sample_weight[s] * len(known))
    shares = {"energy": weights.energy, "forces": weights.forces, "stress": weights.stress}
    loss = sum(shares[name] * np.sum(squares) / np.sum(n) for name, (squares, n) in parts.items())
    kernels = [a for net in energies.networks for a in net.network.weights]
    decay = sum((a**2).sum() for a in kernels)
    return loss / sum(shares.values()), weights.alpha * decay


@pytest.mark.parametrize("make", [crystal, mixture])
def test_the_loss_is_what_its_definition_says(make):
    energies = energies_of(make())
    targets = references(energies.atoms)
    flat, weight = flat_weights(energies.networks), np.linspace(0.5, 2.0, len(energies.atoms))
    data, decay = loss_by_definition(energies, targets, WEIGHTS, weight, flat)
    objective = objective_of(energies, targets)
    assert objective.n_structures == len(energies.atoms)
    assert_allclose(objective.error(flat), data, rtol=1e-12)
    assert_allclose(objective.value(flat)[0], data + decay, rtol=1e-12)


def check_slope(objective, seed=0):
    flat = flat_weights(objective.energies.networks)
    loss, slope = objective.value(flat)
    rng = np.random.RandomState(seed)
    for _ in range(4):
        along = rng.normal(size=flat.shape) * (rng.uniform(size=flat.shape) < 0.5)
        expected = difference(lambda step, along=along: objective.value(flat + step * along)[0], 3e-4)
        assert_allclose(slope @ along, expected, rtol=1e-6, atol=1e-6 * loss)
    return slope


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_weight_slopes_are_differences_of_the_loss(sizes, activation):
    check_slope(objective_of(energies_of(crystal(), sizes, activation)))


@pytest.mark.parametrize("networks", ["per-species", "per-site", "shared"])
@pytest.mark.parametrize("most", [1, 4, 48])
def test_weight_slopes_of_averaged_networks(networks, most):
    check_slope(objective_of(energies_of(crystal("MoO3"), networks=networks, most=most)))


@pytest.mark.parametrize("networks", ["per-species", "shared"])
@pytest.mark.parametrize("sizes", SIZES)
def test_weight_slopes_of_structures_that_differ(networks, sizes):
    check_slope(objective_of(energies_of(mixture(), sizes, networks=networks)))


@pytest.mark.parametrize(
    "weights",
    [
        LossWeights(1.0, 0.0, 0.0, 0.0),
        LossWeights(0.0, 1.0, 0.0, 0.0),
        LossWeights(0.0, 0.0, 1.0, 0.0),
        LossWeights(0.0, 1.0, 1.0, 0.1),
    ],
)
def test_weight_slopes_of_each_quantity(weights):
    check_slope(objective_of(energies_of(crystal(), most=48), weights=weights))


@pytest.mark.parametrize("name", ["energy", "forces", "stress"])
def test_quantities_that_are_not_there_do_not_count(name):
    energies = energies_of(crystal())
    alone = PotentialTargets(**{name: getattr(references(crystal()), name)})
    flat = flat_weights(energies.networks)
    others = {"energy": 0.3, "forces": 1.0, "stress": 0.2}
    only = {other: share if other == name else 0.0 for other, share in others.items()}
    losses = [
        objective_of(energies, targets, LossWeights(*shares.values(), alpha=0.0)).value(flat)
        for targets, shares in ((alone, others), (alone, only))
    ]
    assert_allclose(losses[0][0], losses[1][0], rtol=1e-13)
    assert_allclose(losses[0][1], losses[1][1], rtol=1e-12, atol=1e-14)


def test_a_loss_of_one_is_the_variance():
    """Networks of zeros explain nothing of centred energies and forces."""
    atoms = crystal()
    energies = energies_of(atoms, scale=0.0)
    targets = references(atoms, missing=False)
    stress = targets.stress - targets.stress.mean(axis=0)
    zeros = [replace(net, targets=replace(net.targets, offset=np.zeros(1))) for net in energies.networks]
    energies = AtomicEnergies(atoms, zeros, energies.network_of_row, 1, np.dtype(float))
    targets = PotentialTargets(targets.energy - targets.energy.mean(), targets.forces, stress)
    objective = objective_of(energies, targets, sample_weight=np.ones(5))
    assert_allclose(objective.error(flat_weights(zeros)), 1.0, rtol=1e-12)


def test_unknown_numbers_leave_no_trace():
    """The same loss whatever stands beside a NaN; a structure of which nothing is known weighs nothing."""
    atoms = crystal()
    energies = energies_of(atoms)
    flat = flat_weights(energies.networks)
    targets = references(atoms)
    known = np.array([0, 1, 3])
    targets.energy[[2, 4]] = np.nan
    targets.stress[[2, 4]] = np.nan
    targets.forces.values[np.isin(atoms.structure_of_row, [2, 4])] = np.nan
    part = AtomicEnergies(
        atoms[known], energies.networks, energies.network_of_row[np.isin(atoms.structure_of_row, known)],
        1, np.dtype(float),
    )  # fmt: skip
    spreads = Spreads.of(targets, atoms.counts, np.zeros(5))
    values = [
        PotentialObjective(e, t, np.ones(len(t)), WEIGHTS, spreads, ThreadPoolExecutor(1)).value(flat)
        for e, t in ((energies, targets), (part, targets[known]))
    ]
    assert_allclose(values[0][0], values[1][0], rtol=1e-12)
    assert_allclose(values[0][1], values[1][1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("quantity", ["energy", "forces", "stress"])
def test_a_quantity_that_is_known_of_no_structure_is_as_if_it_were_not_there(quantity):
    energies = energies_of(crystal())
    targets = references(crystal())
    values = getattr(targets, quantity)
    np.asarray(values.values if quantity == "forces" else values)[...] = np.nan
    loss, slope = objective_of(energies, targets).value(flat_weights(energies.networks))
    assert np.isfinite(loss)
    assert np.isfinite(slope).all()


def test_weights_of_structures_count_like_repetitions():
    atoms = crystal()
    targets, times = references(atoms), np.array([1, 3, 2, 1, 2])
    repeated = np.repeat(np.arange(5), times)
    energies = energies_of(atoms)
    rows = np.concatenate([np.arange(*atoms.offsets[[s, s + 1]]) for s in repeated])
    other = AtomicEnergies(
        atoms[repeated], energies.networks, energies.network_of_row[rows], 1, np.dtype(float)
    )
    flat = flat_weights(energies.networks)
    spreads = Spreads(0.3, 0.7, 0.1)
    pool = ThreadPoolExecutor(1)
    weighted = PotentialObjective(energies, targets, times.astype(float), WEIGHTS, spreads, pool).value(flat)
    plain = PotentialObjective(other, targets[repeated], np.ones(9), WEIGHTS, spreads, pool).value(flat)
    assert_allclose(weighted[0], plain[0], rtol=1e-12)
    assert_allclose(weighted[1], plain[1], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("most", [1, 48])
def test_the_pool_changes_nothing(most, monkeypatch):
    monkeypatch.setattr(energies_module, "BLOCK_ATOMS", 10)
    energies = energies_of(crystal(n_frames=8), most=most)
    flat = flat_weights(energies.networks)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(2) as two:
        found = [objective_of(energies, pool=pool).value(flat) for pool in (one, two, two)]
    for loss, slope in found[1:]:
        assert loss == found[0][0]
        assert_array_equal(slope, found[0][1])


def test_blocks_change_nothing_but_rounding(monkeypatch):
    energies = energies_of(mixture())
    flat = flat_weights(energies.networks)
    whole = objective_of(energies).value(flat)
    for structures in (np.array([3, 1, 0, 2]), np.arange(4)):
        for size in (1, 7, 200):
            monkeypatch.setattr(energies_module, "BLOCK_ATOMS", size)
            loss, slope = objective_of(energies).value(flat, structures)
            assert_allclose(loss, whole[0], rtol=1e-12)
            assert_allclose(slope, whole[1], rtol=1e-10, atol=1e-12)


def test_mini_batches_average_to_the_whole():
    energies = energies_of(crystal(n_frames=6))
    flat = flat_weights(energies.networks)
    objective = objective_of(energies)
    order = np.random.RandomState(0).permutation(6)
    parts = [objective.value(flat, np.sort(batch)) for batch in np.split(order, 3)]
    whole = objective.value(flat)
    assert_allclose(np.mean([loss for loss, _ in parts]), whole[0], rtol=1e-12)
    assert_allclose(np.mean([slope for _, slope in parts], axis=0), whole[1], rtol=1e-10, atol=1e-13)
    assert len({round(loss, 6) for loss, _ in parts}) == 3


@pytest.mark.parametrize(
    ("counts", "blocks"),
    [
        ([100, 100, 100, 100], [[0, 1], [2, 3]]),
        ([150, 150], [[0], [1]]),
        ([500, 1, 500], [[0, 1], [2]]),
        ([3], [[0]]),
        ([], []),
    ],
)
def test_blocks_of_structures(counts, blocks):
    found = structure_blocks(np.arange(len(counts)), np.array(counts, dtype=int))
    assert [block.tolist() for block in found] == blocks


# ---- Before and after training -----------------------------------------------------------------------------


def molecules(*formulas):
    """Rows of atoms by atomic number; features do not matter."""
    return PerAtomArray.from_list([np.zeros((len(z), 1)) for z in formulas], species=formulas)


def test_reference_energies_of_additive_energies():
    atoms = molecules([8, 1, 1], [6, 8], [6, 1, 1, 1, 1], [1, 1], [6, 8, 8])
    species, expected = np.array([1, 6, 8]), np.array([-13.6, -1030.0, -2041.0])
    targets = PotentialTargets(energy=composition(atoms, species) @ expected)
    assert_allclose(reference_energies(targets, atoms, species, np.ones(5)), expected, rtol=1e-12)
    targets.energy[1] = np.nan
    assert_allclose(reference_energies(targets, atoms, species, np.arange(1.0, 6)), expected, rtol=1e-12)


def test_reference_energies_of_one_composition_share_out_the_energy():
    atoms = molecules([22, 8, 8], [8, 22, 8])
    energy = np.array([-30.0, -33.0])
    found = reference_energies(PotentialTargets(energy=energy), atoms, np.array([8, 22]), np.ones(2))
    assert_allclose([2, 1] @ found, -31.5)
    assert_allclose(found[0], 2 * found[1])  # of minimum norm: along (2, 1)
    weighted = reference_energies(
        PotentialTargets(energy=energy), atoms, np.array([8, 22]), np.array([2.0, 1])
    )
    assert_allclose([2, 1] @ weighted, -31.0)


def test_reference_energies_without_energies_are_zero():
    atoms = molecules([8, 1])
    targets = PotentialTargets(stress=np.zeros((1, 6)))
    assert_array_equal(reference_energies(targets, atoms, np.array([1, 8]), np.ones(1)), [0.0, 0.0])


def test_spreads():
    atoms = molecules([8, 1, 1], [8, 8])
    forces = PerAtomArray(np.full((5, 3), 2.0), atoms.offsets, atoms.species)
    forces.values[0] = np.nan
    stress = np.array([[1.0, 0, 0, 0, 0, 0], [3.0, 0, 0, 0, 0, 2]])
    targets = PotentialTargets(np.array([-30.0, -12.0]), forces, stress)
    spreads = Spreads.of(targets, atoms.counts, np.array([-27.0, -14.0]))
    assert_allclose([spreads.energy, spreads.forces, spreads.stress], [1.0, 2.0, np.sqrt((1.0 + 1.0) / 6)])


def test_spreads_of_what_does_not_vary_are_one():
    atoms = molecules([8], [8])
    forces = PerAtomArray(np.zeros((2, 3)), atoms.offsets, atoms.species)
    spreads = Spreads.of(
        PotentialTargets(np.full(2, 3.0), forces, np.ones((2, 6))), atoms.counts, np.zeros(2)
    )
    assert spreads == Spreads(1.0, 1.0, 1.0)
    assert Spreads.of(PotentialTargets(np.zeros(2)), atoms.counts, np.zeros(2)) == Spreads(1.0, 1.0, 1.0)


@pytest.mark.parametrize("known", ["energy", "forces", "stress"])
def test_new_networks_begin_at_half_the_true_size(known):
    atoms = crystal()
    energies = energies_of(atoms, scale=1.0)
    spreads = Spreads(0.2, 3.0, 0.05)
    weights = LossWeights(**{name: float(name == known) for name in ("energy", "forces", "stress")}, alpha=0)
    nets = settled(energies, weights, spreads, np.random.RandomState(0))
    found = everything(AtomicEnergies(atoms, nets, energies.network_of_row, 1, np.dtype(float)))
    gradient, virials = atoms.geometry.pull(found.slopes)
    sizes = {
        "energy": (found.totals / atoms.counts).std() / spreads.energy,
        "forces": np.sqrt((gradient**2).mean()) / spreads.forces,
        "stress": np.sqrt(((virials / 64.0) ** 2).mean()) / spreads.stress,
    }
    assert_allclose(sizes[known], 0.5, rtol=1e-10)
    for number, net in enumerate(nets):  # energies begin at the reference energies
        assert_allclose(found.energies[energies.network_of_row == number].mean(), net.targets.offset[0])


def test_calibration_takes_off_what_composition_explains():
    atoms = mixture()
    energies = energies_of(atoms)
    species = np.unique(atoms.species)
    shifts = np.array([1.0, -2.0, 3.0, -4.0])
    totals = everything(energies).totals
    targets = PotentialTargets(energy=totals + composition(atoms, species) @ shifts)
    nets = calibrated(energies, targets, species, np.ones(len(atoms)))
    other = AtomicEnergies(atoms, nets, energies.network_of_row, 1, np.dtype(float))
    assert_allclose(everything(other).totals, targets.energy, rtol=1e-11)
    assert_array_equal(everything(other).slopes, everything(energies).slopes)


@pytest.mark.parametrize("networks", ["per-species", "per-site", "shared"])
def test_calibration_without_energies_makes_means_zero(networks):
    atoms = crystal("MoO3")
    energies = energies_of(atoms, networks=networks)
    targets = PotentialTargets(forces=references(atoms).forces)
    nets = calibrated(energies, targets, np.unique(atoms.species), np.ones(len(atoms)))
    found = everything(AtomicEnergies(atoms, nets, energies.network_of_row, 1, np.dtype(float)))
    for number in range(len(nets)):
        assert_allclose(found.energies[energies.network_of_row == number].mean(), 0.0, atol=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_adam_takes_the_published_steps(schedule):
    energies = energies_of(crystal(n_frames=6))
    objective, start = objective_of(energies), flat_weights(energies.networks)
    options = Options(3, 0.0, 0.01, batch_size=4, learning_rate=0.02, seed=7, schedule=schedule)
    recorder = Recorder("potential", [start], None, 0.0, False, max_iter=3)
    train_adam(objective, None, start, options, recorder)
    flat, mean, square, step = start.copy(), 0.0, 0.0, 0
    for epoch in range(3):
        order = np.random.RandomState((7, epoch)).permutation(6)
        for batch in (order[:3], order[3:]):  # two batches of at most four structures, equally large
            slope = objective.value(flat, np.sort(batch))[1]
            step += 1
            mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
            rate = 0.02 * (0.5 * (1 + np.cos(np.pi * step / 6)) if schedule == "cosine" else 1.0)
            flat = flat - rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    assert_allclose(recorder.weights[0], flat, rtol=1e-9)
    assert recorder.n_iter == 3


def test_weights_come_back_from_one_vector():
    energies = energies_of(crystal())
    flat = flat_weights(energies.networks)
    assert_array_equal(flat_weights(with_weights(energies.networks, flat + 1.0)), flat + 1.0)
    assert sum(stack.n_parameters for stack in energies.stacks(flat)) == len(flat)


def test_sums_that_hardly_vary_are_not_blown_up():
    """A bond barely inside the cutoff of few frames must not decide how large the next one looks."""
    atoms = mixture()
    values = atoms.values.copy()
    values[:, 0] = 1.0
    values[0, 0] += 1e-4
    (net,) = energies_of(replace(atoms, values=values), networks="shared").networks
    scale = dict(zip(net.inputs.columns.tolist(), net.inputs.scale, strict=True))
    assert scale[0] == min(scale.values()) == 1e-4 * max(scale.values())
