"""The loss and its slope: against finite differences, plain averages and explicit least squares."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from site_rows import site_rows

from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.networks import ACTIVATIONS, glorot_stack
from tinynet_sklearn.objective import StackObjective, averaged_forward
from tinynet_sklearn.recorder import TrainingSet
from tinynet_sklearn.solvers import choose_solver
from tinynet_sklearn.target_maps import fit_linked_targets

ALPHA = 0.02

#: None is the plain network. The others have, in this order: the identity alone beside a mirror, several
#: classes in one species, and groups whose operations are cut into blocks of few rows.
GROUPS = [None, "methanol H", "alpha-MoO3 O", "perovskite, all atoms"]

#: Whether targets are vectors, and their number of columns.
TARGETS = [(True, 3), (False, 1), (False, 5)]


@pytest.fixture(params=GROUPS, ids=str)
def groups(request):
    return request.param


def training_set(groups, vector, width, n_rows=220, seed=0, dtype="float64"):
    """Random rows, on which the groups of real sites act."""
    rng = np.random.RandomState(seed)
    if groups is None:
        actions = (GroupAction.trivial(12),)
    else:
        rows = site_rows(groups, "minmax", n=2, N=1)  # whose groups shift the origin
        actions = tuple(rows.action(site, vector) for site in rows.classes)
    rows = rng.randn(n_rows, actions[0].gather.shape[1])
    targets = np.sin(rows[:, :width]) + rng.randn(n_rows, width)
    weight = rng.uniform(0.5, 1.5, n_rows)
    return TrainingSet(
        rows.astype(dtype),
        targets.astype(dtype),
        weight / weight.sum(),
        np.arange(n_rows),
        actions,
        np.arange(n_rows) % len(actions),
    )


def network(data, hidden, activation="tanh", seed=0):
    """A network with biases in every layer, in the precision of the data."""
    rng = np.random.RandomState(seed)
    sizes = (data.rows.shape[1], *hidden, data.targets.shape[1])
    stack = glorot_stack(sizes, activation, rng, "float64")
    return stack.with_flat(stack.flat() + 0.2 * rng.randn(stack.n_parameters)).astype(data.rows.dtype)


def objective(data, hidden, activation="tanh", alpha=ALPHA, scatter=0.0, seed=0):
    stack = network(data, hidden, activation, seed)
    return StackObjective(stack, data, alpha, scatter), stack.flat()


def images_of(data, plain):
    """Every image of every row as a row of its own, for the plain network or for the averaged one."""
    parts = []
    for site, action in enumerate(data.actions):
        ours = data.site == site
        targets = np.repeat(data.targets[ours][:, None], action.n_operations, axis=1)
        if action.turns_outputs:
            targets = np.einsum("gij,mgj->mgi", action.rotations, targets)
        share = np.repeat(data.weight[ours] / action.n_operations, action.n_operations)
        rows = action.images(data.rows[ours]).reshape(len(share), -1)
        parts.append((rows, targets.reshape(len(share), -1), share, np.full(len(share), site)))
    rows, targets, weight, site = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if plain:
        return TrainingSet(
            rows,
            targets,
            weight,
            np.arange(len(rows)),
            (GroupAction.trivial(rows.shape[1]),),
            np.zeros_like(site),
        )
    return TrainingSet(rows, targets, weight, np.arange(len(rows)), data.actions, site)


def predicted(stack, data):
    result = np.empty_like(data.targets)
    for site, action in enumerate(data.actions):
        result[data.site == site] = averaged_forward(stack, data.rows[data.site == site], action)
    return result


def differences(function, flat, directions, step=1e-6):
    return [(function(flat + step * d) - function(flat - step * d)) / (2 * step) for d in directions]


def directions_for(flat, groups):
    """All axes where they are few; else some random directions."""
    if groups in (None, "methanol H"):
        return np.eye(len(flat))
    rng = np.random.RandomState(1)
    return rng.randn(6, len(flat)) / np.sqrt(len(flat))


# ---- The loss ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vector", "width"), TARGETS)
def test_error_is_the_weighted_mean_squared_error(groups, vector, width):
    data = training_set(groups, vector, width)
    loss, flat = objective(data, (4, 3))
    if groups == "perovskite, all atoms":
        assert all(len(list(part.blocks)) == 2 for part in loss._parts)
    residual = predicted(loss.network(flat), data) - data.targets
    expected = np.square(residual).mean(axis=1) @ data.weight
    assert loss.error(flat) == pytest.approx(expected, rel=1e-12)
    decay = ALPHA * sum(np.square(w).sum() for w in loss.network(flat).weights)
    assert loss.value(flat)[0] == pytest.approx(expected + decay, rel=1e-12)


def test_the_same_loss_over_other_rows(groups):
    data, other = (training_set(groups, True, 3, seed=seed) for seed in (0, 1))
    loss, flat = objective(data, (4,))
    expected, _ = objective(other, (4,))
    assert loss.on(other).error(flat) == expected.error(flat)
    assert loss.on(other).value(flat)[0] == expected.value(flat)[0]


@pytest.mark.parametrize("scatter", [0.0, 0.1])
@pytest.mark.parametrize(("vector", "width"), TARGETS)
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3), (4, 3, 2)], ids=str)
def test_slope_of_the_loss(groups, vector, width, hidden, scatter):
    data = training_set(groups, vector, width)
    loss, flat = objective(data, hidden, scatter=scatter)
    slope = loss.value(flat)[1]
    directions = directions_for(flat, groups)
    assert slope.shape == flat.shape
    assert_allclose(directions @ slope, differences(lambda f: loss.value(f)[0], flat, directions), atol=2e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slope_with_every_activation(activation):
    data = training_set("methanol H", True, 3)
    loss, flat = objective(data, (4, 3), activation)
    directions = np.eye(len(flat))
    found = loss.value(flat)[1]
    assert_allclose(found, differences(lambda f: loss.value(f)[0], flat, directions), atol=2e-8)


@pytest.mark.parametrize("scatter", [0.0, 0.1])
@pytest.mark.parametrize("hidden", [(), (4, 3)], ids=str)
def test_single_precision_sees_the_same_loss(groups, hidden, scatter):
    single = training_set(groups, True, 3, dtype="float32")
    double = replace(single, rows=single.rows.astype("float64"), targets=single.targets.astype("float64"))
    loss, flat = objective(single, hidden, scatter=scatter)
    exact = StackObjective(loss.network(flat).astype("float64"), double, ALPHA, scatter)
    value, slope = loss.value(flat)
    assert slope.dtype == np.float64
    assert value == pytest.approx(exact.value(flat)[0], rel=1e-5)
    assert_allclose(slope, exact.value(flat)[1], atol=1e-5)
    if hidden:
        start = flat[: loss.n_hidden_parameters]
        value, slope, best = loss.projected(start)
        assert value == pytest.approx(exact.projected(start)[0], rel=1e-5)
        assert_allclose(slope, exact.projected(start)[1], atol=1e-5)
        assert loss.network(best).dtype == np.float32


@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)], ids=str)
def test_integer_weights_count_like_repetitions(groups, hidden):
    data = training_set(groups, True, 3, n_rows=90)
    times = np.random.RandomState(1).randint(1, 4, 90)
    repeated = np.repeat(np.arange(90), times)
    weighted = replace(data, weight=times / times.sum())
    written_out = TrainingSet(
        data.rows[repeated],
        data.targets[repeated],
        np.full(len(repeated), 1 / len(repeated)),
        data.structure[repeated],
        data.actions,
        data.site[repeated],
    )
    (one, flat), (other, _) = objective(weighted, hidden), objective(written_out, hidden)
    assert one.error(flat) == pytest.approx(other.error(flat), rel=1e-12)
    for found, expected in zip(one.value(flat), other.value(flat), strict=True):
        assert_allclose(found, expected, atol=1e-13)
    if hidden:
        start = flat[: one.n_hidden_parameters]
        (value, slope, best), (value_2, slope_2, best_2) = one.projected(start), other.projected(start)
        assert value == pytest.approx(value_2, rel=1e-12)
        assert_allclose(slope, slope_2, atol=1e-10)
        # what the average takes away from the output bias is left to rounding
        assert_allclose(predicted(one.network(best), data), predicted(one.network(best_2), data), atol=1e-10)


def test_rows_that_are_images_of_each_other_are_one_row(groups):
    """Averaging over the group makes copies of rows pointless: the loss of the images is that of the rows."""
    data = training_set(groups, True, 3, n_rows=40)
    copies = images_of(data, plain=False)
    (one, flat), (other, _) = objective(data, (4, 3)), objective(copies, (4, 3))
    assert one.error(flat) == pytest.approx(other.error(flat), rel=1e-12)
    assert_allclose(one.value(flat)[1], other.value(flat)[1], atol=1e-12)


# ---- The scatter of what a network says of the images of a row ---------------------------------------------


@pytest.mark.parametrize(("vector", "width"), TARGETS)
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)], ids=str)
def test_all_of_the_scatter_trains_every_image_by_itself(groups, vector, width, hidden):
    """Mean square distance of the images to the target: that of their average, and their scatter."""
    data = training_set(groups, vector, width, n_rows=70)
    loss, flat = objective(data, hidden, scatter=1.0)
    plain, _ = objective(images_of(data, plain=True), hidden)
    assert loss.value(flat)[0] == pytest.approx(plain.value(flat)[0], rel=1e-12)
    assert_allclose(loss.value(flat)[1], plain.value(flat)[1], atol=1e-12)
    if hidden:
        start = flat[: loss.n_hidden_parameters]
        for found, expected in zip(loss.projected(start), plain.projected(start), strict=True):
            assert_allclose(found, expected, atol=1e-9)
    if groups is not None:
        assert loss.value(flat)[0] > 1.01 * objective(data, hidden)[0].value(flat)[0]


@pytest.mark.parametrize(("vector", "width"), TARGETS)
def test_the_loss_is_linear_in_the_weight_of_the_scatter(groups, vector, width):
    data = training_set(groups, vector, width)
    none, some, all_of_it = (objective(data, (4, 3), scatter=share)[0] for share in (0.0, 0.3, 1.0))
    flat = objective(data, (4, 3))[1]
    for found, first, last in zip(some.value(flat), none.value(flat), all_of_it.value(flat), strict=True):
        assert_allclose(found, 0.7 * first + 0.3 * last, atol=1e-13)
    assert some.error(flat) == none.error(flat)
    assert some.on(data).value(flat)[0] == some.value(flat)[0]


# ---- Outputs behind a link ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scatter", [0.0, 0.1])
@pytest.mark.parametrize("hidden", [(), (4,), (4, 3)], ids=str)
@pytest.mark.parametrize(("normalized", "cumulative_weight"), [(False, 0.0), (False, 2.0), (True, 0.5)])
def test_slope_of_the_loss_behind_a_link(groups, hidden, scatter, normalized, cumulative_weight):
    data = training_set(groups, False, 5, n_rows=90)
    curves = np.abs(data.targets)
    maps = fit_linked_targets(
        curves, data.weight, normalized=normalized, cumulative_weight=cumulative_weight, grid=None
    )
    data = replace(data, targets=maps.apply(curves, np.float64), link=maps.link)
    stack = network(data, hidden)
    loss, flat = StackObjective(stack, data, 0.02, scatter), stack.flat()
    value, slope = loss.value(flat)
    directions = directions_for(flat, groups)
    assert_allclose(directions @ slope, differences(lambda f: loss.value(f)[0], flat, directions), atol=5e-8)
    raw = np.empty_like(data.targets)
    for site, action in enumerate(data.actions):
        raw[data.site == site] = averaged_forward(stack, data.rows[data.site == site], action)
    error = maps.link.forward(raw) - data.targets
    integral = np.zeros_like(error)
    for i in range(1, 5):
        integral[:, i] = integral[:, i - 1] + (error[:, i - 1] + error[:, i]) / 2
    squares = np.square(error) + cumulative_weight * np.square(integral)
    assert loss.error(flat) == pytest.approx(squares.mean(axis=1) @ data.weight, rel=1e-11)
    if not scatter:
        decay = 0.02 * sum(np.square(w).sum() for w in stack.weights)
        assert value == pytest.approx(loss.error(flat) + decay, rel=1e-12)
    assert loss.on(data).error(flat) == loss.error(flat)
    assert choose_solver("auto", stack, data) == "lbfgs"


# ---- The loss with the best output layer -------------------------------------------------------------------


def best_output_by_least_squares(loss, flat, data, alpha):
    """Output layer from the predictions of networks with one output weight each, as one long column."""
    n_hidden = loss.n_hidden_parameters
    n_output = len(flat) - n_hidden
    units = [np.concatenate([flat[:n_hidden], unit]) for unit in np.eye(n_output)]
    columns = np.stack([predicted(loss.network(unit), data).ravel() for unit in units], axis=1)
    width = data.targets.shape[1]
    root = np.sqrt(np.repeat(data.weight, width) / width)
    decay = np.full(n_output, np.sqrt(alpha))
    decay[-width:] = 0.0
    design = np.vstack([columns * root[:, None], np.diag(decay)])
    right = np.concatenate([data.targets.ravel() * root, np.zeros(n_output)])
    return np.linalg.lstsq(design, right, rcond=None)[0]


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
@pytest.mark.parametrize(("vector", "width"), TARGETS)
@pytest.mark.parametrize("hidden", [(4,), (4, 3)], ids=str)
def test_the_output_layer_is_the_best_there_is(groups, vector, width, hidden, alpha):
    data = training_set(groups, vector, width)
    loss, flat = objective(data, hidden, alpha=alpha)
    n_hidden = loss.n_hidden_parameters
    value, slope, best = loss.projected(flat[:n_hidden])
    assert_array_equal(best[:n_hidden], flat[:n_hidden])
    assert value == loss.value(best)[0]
    assert_array_equal(slope, loss.value(best)[1][:n_hidden])
    assert_allclose(loss.value(best)[1][n_hidden:], 0, atol=1e-10)
    expected = np.concatenate([flat[:n_hidden], best_output_by_least_squares(loss, flat, data, alpha)])
    assert value == pytest.approx(loss.value(expected)[0], rel=1e-9)
    # what an average over the group takes away from the output is not determined without weight decay
    assert_allclose(predicted(loss.network(best), data), predicted(loss.network(expected), data), atol=1e-5)
    assert value < loss.value(flat)[0]
    rng = np.random.RandomState(2)
    for _ in range(5):
        other = best.copy()
        other[n_hidden:] += 0.1 * rng.randn(len(best) - n_hidden)
        assert value <= loss.value(other)[0]


@pytest.mark.parametrize(("alpha", "scatter"), [(0.0, 0.0), (ALPHA, 0.0), (0.0, 0.1), (ALPHA, 0.1)])
@pytest.mark.parametrize(("vector", "width"), TARGETS)
@pytest.mark.parametrize("hidden", [(4,), (4, 3)], ids=str)
def test_slope_of_the_projected_loss(groups, vector, width, hidden, alpha, scatter):
    data = training_set(groups, vector, width)
    loss, flat = objective(data, hidden, alpha=alpha, scatter=scatter)
    best = loss.projected(flat[: loss.n_hidden_parameters])[2]
    assert_allclose(loss.value(best)[1][loss.n_hidden_parameters :], 0, atol=1e-10)
    start = flat[: loss.n_hidden_parameters]
    slope = loss.projected(start)[1]
    directions = directions_for(start, groups)
    found = directions @ slope
    assert_allclose(found, differences(lambda f: loss.projected(f)[0], start, directions), atol=2e-8)


def with_units(flat, stack, source):
    """Weights of a network with one hidden layer, its unit ``j`` made a copy of unit ``source[j]``."""
    copy = stack.with_flat(flat.copy())
    return np.concatenate([copy.weights[0][:, source].ravel(), copy.biases[0][source]])


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_hidden_units_that_do_the_same(groups, alpha, dtype):
    """They make the linear system singular; two of a kind can do no more than one."""
    data = training_set(groups, True, 3, dtype=dtype)
    loss, flat = objective(data, (4,), alpha=alpha)
    three = with_units(flat, network(data, (4,)), [0, 1, 2])
    four = with_units(flat, network(data, (4,)), [0, 1, 2, 2])
    smaller, _ = objective(data, (3,), alpha=alpha)
    value, slope, best = loss.projected(four)
    assert np.isfinite(best).all()
    assert np.isfinite(slope).all()
    if alpha == 0:
        assert value == pytest.approx(smaller.projected(three)[0], rel=1e-6 if dtype == "float64" else 1e-3)
    else:  # weight decay of the output layer is halved by sharing it
        assert loss.error(best) <= smaller.error(smaller.projected(three)[2]) * (1 + 1e-6)


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_hidden_units_that_do_nothing(groups, alpha):
    """Rectifiers that no row switches on, all of them: what is left is a constant."""
    data = training_set(groups, True, 3)
    loss, flat = objective(data, (4,), "relu", alpha=alpha)
    start = flat[: loss.n_hidden_parameters].copy()
    start[-4:] = -1e3
    value, slope, best = loss.projected(start)
    assert np.isfinite(best).all()
    assert_allclose(slope[-4:], 0, atol=1e-12)
    decay = alpha * np.square(start[:-4]).sum()
    if groups is None:
        spread = np.square(data.targets - data.weight @ data.targets).mean(axis=1) @ data.weight
        assert value == pytest.approx(spread + decay, rel=1e-6)
    assert value <= np.square(data.targets).mean(axis=1) @ data.weight + decay + 1e-9


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_vectors_at_rest(alpha):
    """Where all images of a row are the row itself, a group with an inversion leaves nothing but zero."""
    rows = site_rows("fcc")
    targets = np.random.RandomState(0).randn(len(rows.values), 3)
    data = rows.training_set(targets, np.ones(len(targets)), vector=True)
    loss, flat = objective(data, (4,), alpha=alpha)
    value, slope, best = loss.projected(flat[: loss.n_hidden_parameters])
    assert value == pytest.approx(np.square(targets).mean(), rel=1e-9)
    assert_allclose(slope, 0, atol=1e-12)
    assert_allclose(best[loss.n_hidden_parameters :], 0, atol=1e-3)


@pytest.mark.parametrize("alpha", [0.0, ALPHA])
def test_fewer_rows_than_hidden_units(groups, alpha):
    data = training_set(groups, True, 3, n_rows=4)
    loss, flat = objective(data, (30,), alpha=alpha)
    value, slope, best = loss.projected(flat[: loss.n_hidden_parameters])
    assert np.isfinite(best).all()
    assert np.isfinite(slope).all()
    assert value <= loss.value(flat)[0]
    if alpha == 0:
        assert value < 1e-8


@pytest.mark.parametrize("hidden", [(), (4,)], ids=str)
def test_columns_that_never_vary_leave_a_constant(hidden):
    """All columns of a one-atom crystal in a fixed cell are constant, and dropped."""
    rows = site_rows("fcc")
    assert len(rows.inputs.columns) == 0
    targets = np.random.RandomState(0).randn(len(rows.values), 2)
    data = rows.training_set(targets, np.ones(len(targets)), vector=False)
    loss, flat = objective(data, hidden, alpha=0.0)
    value, slope = loss.value(flat)
    assert slope.shape == flat.shape
    assert_allclose(slope, differences(lambda f: loss.value(f)[0], flat, np.eye(len(flat))), atol=1e-8)
    if hidden:
        value = loss.projected(flat[: loss.n_hidden_parameters])[0]
        assert value == pytest.approx(targets.var(axis=0).mean(), rel=1e-6)


def test_weights_beyond_all_bounds_are_worse_than_any_other():
    """A line search may try them; it must be told so rather than stopped by an error."""
    data = training_set(None, False, 2)
    loss, flat = objective(data, (4, 3), "softplus")
    start = flat[: loss.n_hidden_parameters] * 1e200
    with np.errstate(all="ignore"):
        value, _, _ = loss.projected(start)
    assert not np.isfinite(value)
