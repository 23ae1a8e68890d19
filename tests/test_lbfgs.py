"""L-BFGS on known functions: how far, how fast, from where it stopped, and where nothing helps."""

import copy
import warnings
from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize, rosen, rosen_der

from tinynet_sklearn.lbfgs import CURVATURE, DECREASE, MEMORY, LBFGSState, run_lbfgs


def rosenbrock(x):
    return float(rosen(x)), rosen_der(x)


def quadratic(condition, n=40, seed=0):
    """A convex quadratic with its minimum, zero, at a known place."""
    rng = np.random.RandomState(seed)
    axes, _ = np.linalg.qr(rng.randn(n, n))
    matrix = axes * np.geomspace(1, condition, n) @ axes.T
    minimum = rng.randn(n)

    def evaluate(x):
        pull = matrix @ (x - minimum)
        return 0.5 * float(pull @ (x - minimum)), pull

    return evaluate, minimum


class Counted:
    """A function that counts its calls and remembers where."""

    def __init__(self, function):
        self.function = function
        self.points = []

    def __call__(self, x):
        self.points.append(x.copy())
        return self.function(x)


def run(function, start, tol=1e-9, most=5000):
    """State at the end, whether it is a minimum, and the states after each iteration."""
    state, log = LBFGSState.start(np.array(start, dtype=float), function), []

    def after_iteration(state):
        log.append(copy.copy(state))
        return len(log) == most

    return state, run_lbfgs(function, state, after_iteration, tol), log


# ---- How far, how fast -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "start", "minimum"),
    [
        pytest.param(rosenbrock, [-1.2, 1.0], np.ones(2), id="Rosenbrock, 2"),
        pytest.param(rosenbrock, [-1.2, 1.0] * 15, np.ones(30), id="Rosenbrock, 30"),
        pytest.param(quadratic(10)[0], np.zeros(40), quadratic(10)[1], id="round"),
        pytest.param(quadratic(1e4)[0], np.zeros(40), quadratic(1e4)[1], id="stretched"),
    ],
)
def test_as_few_steps_as_scipy(function, start, minimum):
    counted = Counted(function)
    state, converged, log = run(counted, start)
    assert converged
    assert np.abs(state.slope).max() <= 1e-9
    assert_allclose(state.x, minimum, atol=1e-8)
    assert_allclose(state.value, function(minimum)[0], atol=1e-12)
    reference = minimize(
        function, start, jac=True, method="L-BFGS-B", options={"maxcor": MEMORY, "gtol": 1e-9, "ftol": 0}
    )
    assert len(log) <= 1.2 * reference.nit + 5
    assert len(counted.points) <= 1.2 * reference.nfev + 5


def test_every_step_meets_the_strong_wolfe_conditions():
    _, _, log = run(rosenbrock, [-1.2, 1.0] * 5)
    for before, after in pairwise(log):
        step = after.x - before.x
        assert after.value <= before.value + DECREASE * (before.slope @ step)
        assert abs(after.slope @ step) <= -CURVATURE * (before.slope @ step)


def test_a_step_that_went_too_far_tells_where_the_minimum_is():
    """The cubic through two trials of a parabola is the parabola itself: two evaluations after the start."""
    counted = Counted(lambda x: (500 * float(x @ x), 1000 * x))
    _, converged, log = run(counted, [0.3])
    assert converged
    assert_allclose(np.ravel(counted.points), [0.3, -0.7, 0.0], atol=1e-12)
    assert_allclose(log[0].x, 0, atol=1e-12)


def test_the_memory_is_bounded_and_the_state_consistent():
    state, _, log = run(rosenbrock, [-1.2, 1.0] * 15)
    assert len(log) > MEMORY
    assert len(state.steps) == len(state.changes) == MEMORY
    value, slope = rosenbrock(state.x)
    assert (state.value, state.slope.tolist()) == (value, slope.tolist())
    assert_allclose(np.sum(state.steps, axis=0), state.x - log[-MEMORY - 1].x, atol=1e-12)
    assert all(step @ change > 0 for step, change in zip(state.steps, state.changes, strict=True))


def test_the_direction_is_that_of_the_inverse_hessian_on_a_quadratic():
    """After as many exact line searches as there are dimensions, BFGS knows a quadratic."""
    evaluate, minimum = quadratic(100, n=6)
    state = LBFGSState.start(np.zeros(6), evaluate)
    for _ in range(6):
        direction = state.direction()
        curvature = direction @ (evaluate(state.x + direction)[1] - state.slope)
        x = state.x - (state.slope @ direction) / curvature * direction
        state.advance(x, *evaluate(x))
    away = minimum + np.random.RandomState(1).randn(6)
    state.x, (state.value, state.slope) = away, evaluate(away)
    assert_allclose(state.direction(), minimum - away, atol=1e-6)


# ---- Stopping and going on ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 7, 45])
def test_a_run_goes_on_from_its_state_bit_for_bit(stop):
    start = np.tile([-1.2, 1.0], 15)
    whole = Counted(rosenbrock)
    _, _, expected = run(whole, start)
    assert len(expected) > 100

    stopped = Counted(rosenbrock)
    state, converged, log = run(stopped, start, most=stop)
    assert not converged
    assert len(log) == stop
    again = copy.deepcopy(state)
    rest = []
    assert run_lbfgs(stopped, again, lambda s: bool(rest.append(copy.copy(s))), 1e-9)
    assert len(log + rest) == len(expected)
    for found, wanted in zip(log + rest, expected, strict=True):
        assert_array_equal(found.x, wanted.x)
        assert_array_equal(found.slope, wanted.slope)
        assert found.value == wanted.value
    assert_array_equal(stopped.points, whole.points)  # not one evaluation more


def test_what_was_logged_does_not_change_as_the_run_goes_on():
    _, _, log = run(rosenbrock, [-1.2, 1.0], most=5)
    first = copy.deepcopy(log[2])
    run_lbfgs(rosenbrock, log[2], lambda _: False, 1e-9)  # moves the state it is given ...
    assert not np.array_equal(log[2].x, first.x)
    assert_array_equal(log[3].steps[:3], first.steps)  # ... but no array that another one shares
    assert_array_equal(log[3].x - log[3].steps[-1], first.x)


def test_it_stops_when_told_to():
    state, converged, log = run(rosenbrock, [-1.2, 1.0], most=3)
    assert not converged
    assert len(log) == 3
    assert state.value == log[-1].value


# ---- Where nothing helps -----------------------------------------------------------------------------------


def test_a_flat_start_returns_at_once():
    counted = Counted(rosenbrock)
    state, converged, log = run(counted, [1.0, 1.0])
    assert converged
    assert log == []
    assert len(counted.points) == 1
    assert_array_equal(state.x, [1, 1])


def test_a_function_of_nothing():
    state, converged, log = run(lambda x: (2.0, np.zeros(0)), [])
    assert (state.value, converged, log) == (2.0, True, [])


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(lambda x: (float(x @ x), -2 * x), id="slopes of the wrong sign"),
        pytest.param(lambda x: (1.0, np.ones_like(x)), id="a slope where there is none"),
        pytest.param(lambda x: (0.0 if x[0] == 3 else np.nan, np.ones_like(x)), id="one point in a desert"),
        pytest.param(lambda x: (0.0 if x[0] == 3 else np.inf, np.ones_like(x)), id="one point in a hole"),
    ],
)
def test_a_search_without_result_ends_quietly(function):
    counted = Counted(function)
    state, converged, log = run(counted, [3.0, -2.0])
    assert converged
    assert log == []
    assert_array_equal(state.x, [3, -2])
    assert len(counted.points) < 50


def test_a_search_without_result_forgets_and_tries_straight_down():
    """A memory that points the wrong way; the slope alone still leads down."""
    evaluate, minimum = quadratic(10)
    state = LBFGSState.start(np.zeros(40), evaluate)
    state.steps, state.changes = [np.ones(40)], [-np.ones(40)]
    assert run_lbfgs(evaluate, state, lambda _: False, 1e-9)
    assert_allclose(state.x, minimum, atol=1e-8)


def test_the_precision_of_the_function_ends_the_search():
    """Rounded to single precision, the loss stands still long before the slope vanishes."""

    def rounded(x):
        value, slope = rosenbrock(x)
        return float(np.float32(1e3 + value)), slope

    state, converged, log = run(rounded, [-1.2, 1.0], tol=0.0, most=1000)
    assert converged
    assert len(log) < 60
    assert_allclose(state.x, [1, 1], atol=0.05)


def test_steps_into_infinity_are_shortened():
    """Like weights whose activations overflow: NaN and infinity are too high, and no reason to give up."""

    def walled(x):
        with np.errstate(all="raise"):
            if x[0] > 1.5:
                return np.nan, np.full(1, np.nan)
            if x[0] < -1.5:
                return np.inf, np.full(1, np.nan)
        return float(np.cosh(4 * x[0])), 4 * np.sinh(4 * x)

    for start in (-1.4, 1.4):
        state, converged, _ = run(walled, [start], tol=1e-7)
        assert converged
        assert_allclose(state.x, 0, atol=1e-8)


def test_overflow_inside_the_function_is_no_warning():
    def exploding(x):
        power = np.exp(1000 * np.square(x))
        overflows.append(not np.isfinite(power).all())
        return float(power.sum() - 1), 2000 * x * power

    overflows = []
    state, converged, _ = run(exploding, [0.1], tol=1e-7)
    assert any(overflows)
    assert converged
    assert_allclose(state.x, 0, atol=1e-9)


def test_filters_of_warnings_are_left_alone():
    """They belong to the process: networks that train in threads would leave them changed for good."""
    before = list(warnings.filters)
    seen = []

    def watched(x):
        seen.append(list(warnings.filters))
        return rosenbrock(x)

    run(watched, [-1.2, 1.0])
    assert all(filters == before for filters in seen)
