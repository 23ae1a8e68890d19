"""Targets as scores on components, cumulative errors, and links: against brute force and scikit-learn."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.decomposition import PCA

from tinynet_sklearn import EnergyGrid
from tinynet_sklearn.networks import glorot_stack
from tinynet_sklearn.scaling import ColumnScaling, fit_target_scaling
from tinynet_sklearn.target_maps import (
    LinearTargets,
    LinkedTargets,
    OutputLink,
    fit_linear_targets,
    fit_linked_targets,
    folded,
    started,
)

N_ENERGIES = 17
GRID = EnergyGrid(np.linspace(-2.0, 1.0, N_ENERGIES), width=0.2)


def curves(n_rows=40, seed=0, rank=6):
    """Positive curves: a few bumps that grow and shrink."""
    rng = np.random.default_rng(seed)
    centers = np.linspace(-2.0, 1.0, rank)
    bumps = np.exp(-np.square((GRID.energies - centers[:, None]) / 0.3))
    heights = rng.uniform(0.1, 1.0, size=(n_rows, rank)) * np.logspace(0, -1.5, rank)
    return 0.05 + heights @ bumps


def weights(n_rows=40, seed=3):
    return np.random.default_rng(seed).uniform(0.2, 3.0, n_rows)


def linear(targets, weight=None, **settings):
    given = {"n_components": None, "cumulative_weight": 0.0, "per_column": False, "grid": GRID}
    return fit_linear_targets(targets, weight, **{**given, **settings})


def linked(targets, weight=None, **settings):
    given = {"normalized": False, "cumulative_weight": 0.0, "grid": GRID}
    return fit_linked_targets(targets, weight, **{**given, **settings})


def in_metric(error, cumulative_weight, step=GRID.step):
    """Squares of curves and of their integrals up to every energy, summed one after the other."""
    total = 0.0
    for row in error:
        integral = 0.0
        for i, value in enumerate(row):
            if i:
                integral += 0.5 * step * (row[i - 1] + value)
            total += value**2 + cumulative_weight * integral**2
    return total


# ---- Components --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [None, weights()], ids=["alike", "weighted"])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("cumulative_weight", [0.0, 3.0])
@pytest.mark.parametrize("n_components", [None, 1, 4, 6, 0.9])
def test_scores_and_curves_are_two_ways_to_say_one_thing(weight, per_column, cumulative_weight, n_components):
    targets = curves()
    found = linear(
        targets,
        weight,
        n_components=n_components,
        cumulative_weight=cumulative_weight,
        per_column=per_column,
    )
    assert_allclose(found.encode.T @ found.decode.T, np.eye(len(found.explained)), atol=1e-10)
    scores = np.random.default_rng(1).normal(size=(5, len(found.explained)))
    assert_allclose(found.apply(found.invert(scores), np.float64), scores, atol=1e-10)
    told = found.invert(found.apply(targets, np.float64))
    assert_allclose(found.invert(found.apply(told, np.float64)), told, atol=1e-11)
    if n_components in (None, 6):  # as many as the curves have degrees of freedom
        assert_allclose(told, targets, atol=1e-11)
    else:
        assert np.abs(told - targets).max() > 1e-3
    mean = np.average(targets, axis=0, weights=weight)
    assert_allclose(found.offset, mean, rtol=1e-14)
    scores = found.apply(targets, np.float64)
    assert np.average(np.square(scores), weights=weight, axis=0).mean() == pytest.approx(1.0, rel=1e-9)
    assert_allclose(np.average(scores, weights=weight, axis=0), 0.0, atol=1e-12)


def test_components_are_those_of_scikit_learn():
    targets = curves()
    found, pca = linear(targets, n_components=4), PCA(4).fit(targets)
    assert_allclose(found.explained, pca.explained_variance_ratio_, rtol=1e-10)
    ours = found.decode / np.linalg.norm(found.decode, axis=1, keepdims=True)
    assert_allclose(np.abs((ours * pca.components_).sum(axis=1)), 1.0, rtol=1e-10)
    told = found.invert(found.apply(targets, np.float64))
    assert_allclose(told, pca.inverse_transform(pca.transform(targets)), atol=1e-12)
    standard = linear(targets, n_components=4, per_column=True)
    of_standard = PCA(4).fit((targets - targets.mean(axis=0)) / targets.std(axis=0))
    assert_allclose(standard.explained, of_standard.explained_variance_ratio_, rtol=1e-10)


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.9, 0.99, 0.9999])
def test_a_fraction_takes_the_fewest_components_that_explain_it(fraction):
    targets = curves()
    found = linear(targets, n_components=fraction)
    assert found.explained.sum() >= fraction - 1e-12
    assert found.explained[:-1].sum() < fraction
    assert len(found.explained) == PCA(fraction, svd_solver="full").fit(targets).n_components_


def test_no_more_components_than_there_are_degrees_of_freedom():
    targets = curves(rank=3)
    assert linear(targets, n_components=10).explained.shape == (3,)
    assert linear(targets, n_components=np.int64(2)).explained.shape == (2,)
    assert linear(targets, n_components=0.999999999).explained.shape == (3,)
    assert linear(curves(n_rows=2), n_components=10).explained.shape == (1,)
    assert linear(curves(), n_components=10).explained.sum() == pytest.approx(1.0, rel=1e-12)


def test_weights_count_like_repetitions():
    targets, times = curves(12), np.arange(1, 13)
    one = linear(targets, times.astype(float), n_components=3, cumulative_weight=2.0)
    other = linear(np.repeat(targets, times, axis=0), n_components=3, cumulative_weight=2.0)
    for name in ("offset", "encode", "decode", "explained"):
        assert_allclose(getattr(one, name), getattr(other, name), atol=1e-9)


def test_equal_curves_give_equal_scores_whatever_their_order():
    """Eigenvectors come with any sign."""
    targets = curves()
    order = np.random.default_rng(0).permutation(len(targets))
    one, other = linear(targets, n_components=4), linear(targets[order], n_components=4)
    assert_allclose(one.encode, other.encode, atol=1e-9)


@pytest.mark.parametrize("cumulative_weight", [0.0, 0.5, 40.0])
@pytest.mark.parametrize("n_components", [None, 4])
def test_errors_of_scores_are_those_of_curves_and_of_their_integrals(cumulative_weight, n_components):
    """Up to one scale, the same for all; of components, for errors that these can express."""
    targets = curves()
    found = linear(targets, n_components=n_components, cumulative_weight=cumulative_weight)
    rng = np.random.default_rng(2)
    ratios = []
    for size in (1e-3, 1.0, 1e3):
        scores = size * rng.normal(size=(7, len(found.explained)))
        error = found.invert(scores) - found.offset
        ratios.append(np.square(scores).sum() / in_metric(error, cumulative_weight))
    assert_allclose(ratios, ratios[0], rtol=1e-9)


def test_steps_are_one_where_energies_are_not_known():
    targets = curves()
    found = linear(targets, cumulative_weight=2.0, grid=None)
    scores = found.apply(targets, np.float64)
    ratio = np.square(scores).sum(axis=1) / [
        in_metric([row], 2.0, step=1.0) for row in targets - targets.mean(axis=0)
    ]
    assert_allclose(ratio, ratio[0], rtol=1e-10)


def test_columns_count_by_their_spread():
    targets = curves()
    targets[:, 3] *= 1e4
    found = linear(targets, per_column=True)
    spread = targets.std(axis=0)
    assert_allclose(found.apply(targets, np.float64) * spread, targets - targets.mean(axis=0), atol=1e-9)
    tiny = targets * np.where(np.arange(N_ENERGIES) == 5, 1e-20, 1.0)  # a column in another unit
    assert_allclose(
        linear(tiny, per_column=True).apply(tiny, np.float64), found.apply(targets, np.float64), atol=1e-9
    )


@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("n_components", [None, 3])
def test_columns_that_are_constant(per_column, n_components):
    targets = curves()
    targets[:, [0, 4]] = 0.0, 0.1
    found = linear(targets, weights(), per_column=per_column, n_components=n_components)
    scores = found.apply(targets, np.float64)
    assert np.isfinite(scores).all()
    assert np.abs(scores).max() < 20  # rounding errors are not blown up
    assert_allclose(found.invert(scores)[:, [0, 4]], targets[:, [0, 4]], atol=1e-14)


@pytest.mark.parametrize("cumulative_weight", [0.0, 2.0])
@pytest.mark.parametrize("n_components", [None, 3, 0.5])
def test_curves_that_are_all_alike(cumulative_weight, n_components):
    for n_rows in (1, 6):
        targets = np.tile(curves(1), (n_rows, 1))
        found = linear(targets, n_components=n_components, cumulative_weight=cumulative_weight)
        assert len(found.explained) == (N_ENERGIES if n_components is None else 1)
        assert_allclose(found.apply(targets, np.float64), 0.0, atol=1e-12)
        assert_allclose(found.invert(np.zeros((2, len(found.explained)))), targets[:1].repeat(2, axis=0))


def test_single_precision():
    targets = curves()
    found = linear(targets, n_components=4)
    scores = found.apply(targets, np.float32)
    assert scores.dtype == np.float32
    assert found.invert(scores).dtype == np.float64
    assert_allclose(scores, found.apply(targets, np.float64), atol=1e-5)


# ---- Links -------------------------------------------------------------------------------------------------

LINKS = [
    (False, 0.0),
    (False, 3.0),
    (True, 0.0),
    (True, 3.0),
]


@pytest.mark.parametrize(("normalized", "cumulative_weight"), LINKS)
def test_outputs_obey(normalized, cumulative_weight):
    targets = curves()
    found = linked(targets, weights(), normalized=normalized, cumulative_weight=cumulative_weight)
    raw = 5 * np.random.default_rng(0).normal(size=(30, N_ENERGIES))
    raw[0] = np.linspace(-900.0, 900.0, N_ENERGIES)  # far beyond what exp can take
    predicted = found.invert(raw)
    assert predicted.dtype == np.float64
    assert (predicted >= 0).all()
    assert np.isfinite(predicted).all()
    if normalized:
        count = np.average(GRID.integrate(targets), weights=weights())
        assert_allclose(GRID.integrate(predicted), count, rtol=1e-13)
        with_trapezoids = np.trapezoid(predicted, GRID.energies, axis=1)
        assert_allclose(with_trapezoids, count, rtol=1e-12)
    else:
        assert_allclose(predicted[1:], found.scale * np.log1p(np.exp(raw[1:])), rtol=1e-12)


@pytest.mark.parametrize(("normalized", "cumulative_weight"), LINKS)
def test_a_start_comes_out_as_it_went_in(normalized, cumulative_weight):
    link = linked(curves(), normalized=normalized, cumulative_weight=cumulative_weight).link
    start = np.random.default_rng(0).uniform(1e-3, 2.0, N_ENERGIES)
    if normalized:
        start *= link.count / GRID.integrate(start)
    assert_allclose(link.forward(link.backward(start)[None])[0], start, rtol=1e-11)


def test_large_and_small_starts_of_positive_outputs():
    """Curves that vary little about a large mean: exp of it would overflow."""
    link = OutputLink(None, 0.0, None)
    start = np.array([1e-12, 1e-3, 1.0, 30.0, 800.0, 1e6])
    assert_allclose(link.forward(link.backward(start)[None])[0], start, rtol=1e-10)


@pytest.mark.parametrize(("normalized", "cumulative_weight"), LINKS)
def test_slopes_of_links(normalized, cumulative_weight):
    targets = curves(5)
    link = linked(targets, normalized=normalized, cumulative_weight=cumulative_weight).link
    raw = np.random.default_rng(0).normal(size=targets.shape)
    residual, pulled = link.residual(raw, targets)

    def squares(numbers):
        return np.square(link.residual(numbers, targets)[0]).sum() / 2

    step, slopes = 1e-5, np.empty_like(raw)
    for place in np.ndindex(raw.shape):
        moved = np.zeros_like(raw)
        moved[place] = step
        slopes[place] = (squares(raw + moved) - squares(raw - moved)) / (2 * step)
    assert_allclose(pulled, slopes, rtol=0, atol=1e-8 * np.abs(slopes).max())
    error = link.forward(raw) - targets
    assert np.square(residual).sum() == pytest.approx(in_metric(error, cumulative_weight), rel=1e-11)


@pytest.mark.parametrize(("normalized", "cumulative_weight"), LINKS)
def test_a_network_begins_with_the_mean_curve(normalized, cumulative_weight):
    targets, weight = curves(), weights()
    found = linked(targets, weight, normalized=normalized, cumulative_weight=cumulative_weight)
    mean = np.average(targets, axis=0, weights=weight)
    stack = glorot_stack((3, 4, N_ENERGIES), "tanh", np.random.RandomState(0), "float64")
    stack = started(stack, found, mean)
    assert_allclose(found.invert(stack.layer_outputs(np.zeros((1, 3)))[-1])[0], mean, rtol=1e-11)


def test_scales_of_links():
    targets = curves()
    assert linked(targets).scale == pytest.approx(np.sqrt(targets.var(axis=0).mean()), rel=1e-12)
    flat = np.full((7, N_ENERGIES), 0.1)  # whose mean differs from it by rounding
    assert linked(flat, weights(7)).scale == 0.1
    assert linked(np.zeros((7, N_ENERGIES))).scale == 1.0
    assert_array_equal(linked(targets).apply(targets, np.float64), targets / linked(targets).scale)
    assert linked(targets).apply(targets, np.float32).dtype == np.float32


@pytest.mark.parametrize("normalized", [False, True])
def test_curves_without_states(normalized):
    """A species may have none in the window."""
    found = linked(np.zeros((7, N_ENERGIES)), normalized=normalized)
    stack = glorot_stack((3, 4, N_ENERGIES), "tanh", np.random.RandomState(0), "float64")
    stack = started(stack, found, np.zeros(N_ENERGIES))
    assert np.isfinite(stack.flat()).all()
    raw = stack.layer_outputs(np.ones((2, 3)))[-1]
    for part in found.link.residual(raw, np.zeros((2, N_ENERGIES))):
        assert np.isfinite(part).all()
    assert np.abs(found.invert(raw)).max() < (1e-300 if normalized else 0.01)


def test_a_negative_number_of_states_cannot_be_fixed():
    with pytest.raises(ValueError, match="normalized") as error:
        linked(np.full((3, N_ENERGIES), -2.0), normalized=True)
    assert str(error.value) == (
        "output='normalized' fixes the integral of predictions to the mean one of the targets, which must "
        "not be negative; got -6. Use output='linear'."
    )


# ---- Networks with what follows them folded in -------------------------------------------------------------


@pytest.mark.parametrize("hidden", [(), (4,), (5, 4)], ids=str)
@pytest.mark.parametrize("kind", ["columns", "components", "cumulative", "positive", "normalized"])
def test_folding_changes_nothing(kind, hidden):
    targets = curves()
    maps = {
        "columns": lambda: fit_target_scaling(targets, None, "standard", isotropic=False),
        "components": lambda: linear(targets, n_components=4, per_column=True),
        "cumulative": lambda: linear(targets, cumulative_weight=2.0),
        "positive": lambda: linked(targets, cumulative_weight=2.0),
        "normalized": lambda: linked(targets, normalized=True),
    }
    of_kind = {"columns": ColumnScaling, "components": LinearTargets, "cumulative": LinearTargets}
    found = maps[kind]()
    assert isinstance(found, of_kind.get(kind, LinkedTargets))
    n_scores = found.apply(targets, np.float64).shape[1]
    rng = np.random.RandomState(0)
    stack = glorot_stack((3, *hidden, n_scores), "tanh", rng, "float64")
    stack = stack.with_flat(stack.flat() + 0.2 * rng.randn(stack.n_parameters))
    rows = rng.randn(9, 3)
    combined, scale, offset = folded(stack, found)
    assert combined.n_outputs == len(scale) == len(offset) == N_ENERGIES
    assert combined.activations == stack.activations
    physical = combined.layer_outputs(rows)[-1] * scale + offset
    if isinstance(found, LinkedTargets):
        physical = found.invert(physical)
    assert_allclose(physical, found.invert(stack.layer_outputs(rows)[-1]), rtol=1e-12, atol=1e-12)
