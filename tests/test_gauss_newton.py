"""Levenberg-Marquardt: exact Jacobians, the eliminated output layer, convergence, refusals, and going on."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from site_rows import site_rows

from tinynet_sklearn import gauss_newton
from tinynet_sklearn.equivariance import GroupAction
from tinynet_sklearn.gauss_newton import LeastSquares, LMState, run_lm, train_lm
from tinynet_sklearn.networks import DenseStack, KerasNetwork, glorot_stack
from tinynet_sklearn.objective import StackObjective, averaged_forward
from tinynet_sklearn.recorder import Options, Recorder, TrainingSet
from tinynet_sklearn.solvers import choose_solver, why

#: Site rows with their width of targets and whether these are vectors; None is a plain table.
DATA = {
    "table, one output": (None, 1, False),
    "table, wide": (None, 4, False),
    "16 operations, vectors": ("perovskite O", 3, True),
    "16 operations, scalars": ("perovskite O", 2, False),
    "three site classes, vectors": ("alpha-MoO3 O", 3, True),
}


def training_set(name, dtype="float64"):
    case, width, vector = DATA[name]
    rng = np.random.RandomState(0)
    if case is not None:
        rows = site_rows(case, n=2, N=1)
        n_rows = len(rows.values)
        return rows.training_set(rng.randn(n_rows, width), rng.uniform(0.5, 1.5, n_rows), vector, dtype)
    return table(rng.randn(40, 5), rng.randn(40, width), rng.uniform(0.5, 1.5, 40), dtype)


def table(rows, targets, weight=None, dtype="float64"):
    n_rows, n_inputs = rows.shape
    weight = np.ones(n_rows) if weight is None else weight
    return TrainingSet(
        rows.astype(dtype),
        targets.astype(dtype),
        weight / weight.sum(),
        np.arange(n_rows),
        (GroupAction.trivial(n_inputs),),
        np.zeros(n_rows, dtype=int),
    )


def waves(n_rows=200):
    """A smooth function without noise: how low the loss gets is a matter of the solver."""
    rng = np.random.RandomState(1)
    rows = rng.uniform(-1.7, 1.7, (n_rows, 2))
    return table(rows, (np.sin(rows[:, 0]) * np.cos(rows[:, 1]))[:, None])


def stack_for(data, hidden, activation="tanh", seed=2):
    rng = np.random.RandomState(seed)
    sizes = [data.rows.shape[1], *hidden, data.targets.shape[1]]
    stack = glorot_stack(sizes, activation, rng, data.rows.dtype)
    return stack.with_flat(stack.flat() + 0.1 * rng.randn(stack.n_parameters).astype(stack.dtype))


def log_of(network, keep_best=False, patience=None):
    return Recorder("Ti", network.arrays, patience, 0.0, keep_best)


def residuals(stack, data, flat):
    """f, one number per row and output, by the long way."""
    network = stack.with_flat(flat)
    parts = []
    for site, action in enumerate(data.actions):
        ours = data.site == site
        predicted = averaged_forward(network, data.rows[ours], action)
        share = np.sqrt(data.weight[ours] / stack.n_outputs)
        parts.append(((predicted - data.targets[ours]) * share[:, None]).ravel())
    return np.concatenate(parts)


def filled(lower):
    """A symmetric matrix from its lower triangle."""
    return np.tril(lower) + np.tril(lower, -1).T


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "relu", "linear"])
@pytest.mark.parametrize(
    ("name", "hidden"), [(name, (3,)) for name in DATA] + [(name, (4, 3)) for name in DATA]
)
def test_reduced_matrix_against_finite_differences(name, hidden, activation, monkeypatch):
    """S is what remains of the numerical Jacobian of all weights when the output layer is eliminated."""
    monkeypatch.setattr(gauss_newton, "BLOCK_NUMBERS", 1)  # many blocks, the last one short
    data, alpha, step = training_set(name), 0.01, 1e-6
    stack = stack_for(data, hidden, activation)
    flat, n_hidden = stack.flat(), stack[:-1].n_parameters
    shifts = step * np.eye(len(flat))
    jacobian = np.stack(
        [(residuals(stack, data, flat + s) - residuals(stack, data, flat - s)) / (2 * step) for s in shifts],
        1,
    )
    decay = alpha * stack.kernel_mask()
    full = jacobian.T @ jacobian + np.diag(decay)
    slope = jacobian.T @ residuals(stack, data, flat) + decay * flat
    inner, cross = full[:n_hidden, :n_hidden], full[:n_hidden, n_hidden:]
    # not solve: the average over a group leaves nothing of the bias of a vector
    to_output = cross @ np.linalg.pinv(full[n_hidden:, n_hidden:], rcond=1e-8, hermitian=True)
    matrix, reduced_slope, size = LeastSquares(stack, data, alpha).reduced(flat)
    assert_allclose(filled(matrix), inner - to_output @ cross.T, atol=1e-8)
    assert_allclose(reduced_slope, slope[:n_hidden] - to_output @ slope[n_hidden:], atol=1e-8)
    assert_allclose(size, np.diag(inner), atol=1e-8)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-3)])
@pytest.mark.parametrize("name", DATA)
def test_with_the_best_output_layer_the_slope_is_that_of_the_loss(name, dtype, tolerance):
    data = training_set(name, dtype)
    stack = stack_for(data, (4, 3))
    problem, objective = LeastSquares(stack, data, 0.01), StackObjective(stack, data, 0.01)
    n_hidden = problem.n_hidden_parameters
    flat = problem.settled(stack.flat())
    loss, slope = objective.value(flat)
    assert_allclose(problem.loss(flat), loss, rtol=tolerance)
    assert_allclose(loss, objective.projected(flat[:n_hidden])[0], rtol=tolerance)
    assert_array_equal(flat[:n_hidden], stack.flat()[:n_hidden])
    assert_allclose(slope[n_hidden:], 0, atol=tolerance)
    assert_allclose(2 * problem.reduced(flat)[1], slope[:n_hidden], atol=tolerance)


@pytest.mark.parametrize("name", DATA)
def test_a_linear_network_is_solved_at_once(name):
    data, alpha = training_set(name), 0.01
    stack = stack_for(data, ())
    log = log_of(stack)
    linear = train_lm(stack, data, None, Options(50, 1e-8, alpha, 1, 0.1, 0), log)
    assert log.converged
    assert log.n_iter == 1
    assert_allclose(StackObjective(stack, data, alpha).value(linear.flat())[1], 0, atol=1e-9)


def test_least_squares_of_a_plain_table():
    data = training_set("table, wide")
    stack = stack_for(data, ())
    linear = train_lm(stack, data, None, Options(50, 1e-8, 0.0, 1, 0.1, 0), log_of(stack))
    share = np.sqrt(data.weight)[:, None]
    design = np.column_stack([data.rows, np.ones(len(data.rows))])
    exact = np.linalg.lstsq(design * share, data.targets * share, rcond=None)[0]
    assert_allclose(np.vstack([linear.weights[0], linear.biases[0]]), exact, atol=1e-9)


def test_hidden_layers_without_bends_lead_to_the_same_plane():
    data = training_set("table, wide")
    best = LeastSquares(stack_for(data, ()), data, 0.0)
    stack = stack_for(data, (6,), "linear")
    log = log_of(stack)
    train_lm(stack, data, None, Options(10, 1e-10, 0.0, 1, 0.1, 0), log)
    assert log.converged
    assert_allclose(log.loss[-1], best.loss(best.settled(np.zeros(24))), rtol=1e-9)


def test_a_smooth_function_is_fitted_to_four_digits():
    data = waves()
    stack = stack_for(data, (12,))
    log = log_of(stack)
    fitted = train_lm(stack, data, None, Options(150, 0.0, 0.0, 1, 0.1, 0), log)
    assert log.loss[-1] < 1e-8
    assert_allclose(StackObjective(stack, data, 0.0).error(fitted.flat()), log.loss[-1], rtol=1e-9)
    assert (np.diff(log.loss) < 0).all()


def test_weight_decay_ends_at_a_minimum():
    data = waves()
    stack = stack_for(data, (6, 4))
    log = log_of(stack)
    fitted = train_lm(stack, data, None, Options(300, 1e-8, 1e-3, 1, 0.1, 0), log)
    assert log.converged
    loss, slope = StackObjective(stack, data, 1e-3).value(fitted.flat())
    assert_allclose(loss, log.loss[-1], rtol=1e-12)
    assert np.abs(slope).max() < 1e-7


def test_it_stops_where_no_step_leads_down():
    data = waves(20)
    stack = stack_for(data, (12,))  # more weights than rows: nothing is left of the loss but rounding
    log = log_of(stack)
    train_lm(stack, data, None, Options(2000, 0.0, 0.0, 1, 0.1, 0), log)
    assert log.converged
    assert log.n_iter < 2000
    assert log.loss[-1] < 1e-20


def test_best_weights_and_patience_on_held_out_rows():
    rng = np.random.RandomState(3)
    data, held_out = (
        table(rng.randn(n, 4), rng.randn(n, 1)) for n in (15, 40)
    )  # noise: overfitting is certain
    stack = stack_for(data, (6,))
    log = log_of(stack, keep_best=True, patience=5)
    kept = train_lm(stack, data, held_out, Options(500, 0.0, 0.0, 1, 0.1, 0), log)
    lowest = int(np.argmin(log.validation))
    assert log.n_iter == lowest + 1 + 5
    assert log.converged
    assert_allclose(
        StackObjective(stack, held_out, 0.0).error(kept.flat()), log.validation[lowest], rtol=1e-12
    )


def test_a_run_taken_up_again_takes_the_same_steps():
    data = waves(60)
    stack = stack_for(data, (5,))
    problem = LeastSquares(stack, data, 1e-4)
    states = []

    def note(state):
        states.append(LMState.from_arrays({name: array.copy() for name, array in state.arrays().items()}))
        return len(states) % 8 == 0

    assert not run_lm(problem, LMState.start(stack.flat(), problem), note, 0.0)
    unbroken = states[-1]
    run_lm(problem, states[3], lambda state: note(state) or len(states) == 12, 0.0)
    assert_array_equal(states[-1].x, unbroken.x)
    assert states[-1].value == unbroken.value
    assert states[-1].damping == unbroken.damping


def test_numbers_beyond_all_bounds_are_reported():
    data = waves(20)
    stack = stack_for(data, (3,))
    stack.weights[0][:] = np.nan
    log = log_of(stack)
    assert train_lm(stack, data, None, Options(10, 0.0, 0.0, 1, 0.1, 0), log) is stack
    assert log.diverged
    assert log.n_iter == 0


@pytest.mark.parametrize("kind", ["keras", "bent output"])
def test_other_networks_are_refused(kind):
    data = waves(20)
    stack = stack_for(data, (3,))
    network = (
        KerasNetwork("{}", tuple(stack.arrays), 2, 1)
        if kind == "keras"
        else DenseStack(stack.weights, stack.biases, ("tanh", "tanh"))
    )
    with pytest.raises(ValueError, match="solver='lm'") as error:
        train_lm(network, data, None, Options(10, 0.0, 0.0, 1, 0.1, 0), log_of(network))
    assert str(error.value) == (
        "solver='lm' needs dense layers with a linear one at the end, and no build_fn. Use solver='lbfgs'."
    )


def test_networks_whose_matrix_would_not_fit_are_refused():
    data = waves(20)
    stack = stack_for(data, (100, 100))
    with pytest.raises(ValueError, match="solver='lm'") as error:
        train_lm(stack, data, None, Options(10, 0.0, 0.0, 1, 0.1, 0), log_of(stack))
    assert str(error.value) == (
        "solver='lm' needs at most 8,000 weights, since it factorizes the matrix of their products; Ti has "
        "10,501, a matrix of 0.9 GB. Use solver='varpro'."
    )


@pytest.mark.parametrize(
    ("n_rows", "hidden", "chosen"),
    [
        (1000, (8,), "lm"),
        (1001, (8,), "varpro"),
        (100, (16, 13), "lm"),
        (100, (17, 14), "varpro"),
        (9, (), "lbfgs"),
    ],
)
def test_small_networks_on_few_rows_get_it_by_default(n_rows, hidden, chosen):
    data = waves(n_rows)
    stack = stack_for(data, hidden)
    assert choose_solver("auto", stack, data) == chosen
    assert why(chosen)
    assert choose_solver("varpro", stack, data) != "lm"


def test_averages_do_not_get_it():
    """Its J^T J leaves the scatter over the site group out."""
    data = training_set("16 operations, scalars")
    assert len(data.rows) < 100
    assert choose_solver("auto", stack_for(data, (1,)), data) == "varpro"
